"""Many small decompositions at once, each on one thread.

LAPACK meets a barrier for every column it reduces. Where another process holds one of its cores,
each barrier waits for a time slice, and a minute of eigenvectors becomes a quarter of an hour. One
matrix a thread has no barriers, and the same bits on any number of cores.
"""

import collections
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

In = TypeVar("In")
Out = TypeVar("Out")


def each_on_one_thread(function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
    """`function` of every item, in order, as many at once as there are cores.

    Items are read only a core's worth ahead, so a generator of weights does not fill the memory.
    Until the last result is taken, torch has one thread in the whole process. What `function` or
    `items` raise is raised here.
    """
    num_cores, num_threads = len(os.sched_getaffinity(0)), torch.get_num_threads()
    running: collections.deque[Future[Out]] = collections.deque()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(num_cores) as pool:
            for item in items:
                running.append(pool.submit(function, item))
                if len(running) > num_cores:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
    finally:
        torch.set_num_threads(num_threads)
