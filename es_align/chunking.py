"""A generation's members cut into units of work: from large ones to small ones.

A large chunk fills an engine better, small ones at the end let all workers end together. So sizes
go down as in factoring (Hummel, Schonberg and Flynn, 1992, "Factoring: a method for scheduling
parallel loops"): half of the members that are left in chunks of one size, then half of the rest in
chunks of half that size, and all that is left in the smallest. The number of workers has no say in
it: what is in one chunk decides how its sums are rounded.
"""

from es_align.config import Config


def cut(num_members: int, largest: int, smallest: int | None = None) -> list[range]:
    """Members of each chunk, in order; `smallest` None: all of `largest`.

    `smallest` divides `num_members`, and `largest` is `smallest` doubled some times.
    """
    chunks: list[range] = []
    start, size = 0, largest
    while start < num_members:
        num_left = num_members - start
        is_last = smallest is None or size <= smallest
        num_chunks = num_left // size if is_last else num_left // 2 // size
        for _ in range(num_chunks):
            chunks.append(range(start, start + size))
            start += size
        size = size if is_last else size // 2
    return chunks


def configured_chunks(config: Config) -> list[range]:
    """Members of each of a generation's chunks."""
    workers = config.workers
    largest = workers.members_per_chunk or config.population
    return cut(config.population, largest, workers.smallest_chunk)


def smallest_sizes(largest: int, population: int, *, has_pairs: bool) -> list[int]:
    """What the last chunks may have, in rising order: halves of halves of `largest` that divide
    the population and keep pairs together."""
    sizes, size = [], largest
    while population % size == 0 and not (has_pairs and size % 2):
        sizes.append(size)
        if size % 2:
            break
        size //= 2
    return sizes[::-1]
