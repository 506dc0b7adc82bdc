"""The lines of a ledger as data: what one says, and that they follow from one another."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from es_align.errors import LedgerError
from es_align.sealed import seal, unseal
from rewards.base import JsonValue

FORMAT_VERSION = 1
FIRST_PREVIOUS = "0" * 64


@dataclass(frozen=True, slots=True)
class LedgerHeader:
    """What a run is, fixed at its start."""

    run_id: str
    config_digest: str  # of the resolved configuration, see `json_digest`
    seed: int
    dimension: int
    basis_digest: str
    mean_digest: str  # of the mean before the first generation
    versions: Mapping[str, str]  # packages the numbers depend on


@dataclass(frozen=True, slots=True)
class LedgerRecord:
    """One generation; `generation` counts from 0. None stands for a member that was excluded."""

    generation: int
    seed: int
    sigma: float
    learning_rate: float
    prompt_ids: tuple[str, ...]
    fitness: tuple[float | None, ...]  # one a member, as the strategy was told
    reward_mean: tuple[float | None, ...]  # one a member, before centring
    num_excluded: int
    mean_digest: str  # of the mean after the update

    @property
    def fitness_M(self) -> np.ndarray:
        """Fitness as float64 (M,) with NaN for excluded members: what `tell` takes."""
        return np.array(self.fitness, dtype=np.float64)


def optional_floats(values: np.ndarray) -> tuple[float | None, ...]:
    """A float64 vector as the ledger keeps it: a non-finite number becomes None."""
    return tuple(
        value if is_finite else None
        for value, is_finite in zip(values.tolist(), np.isfinite(values).tolist(), strict=True)
    )


def seal_header(header: LedgerHeader) -> tuple[bytes, str]:
    """The first line, without newline, and its checksum."""
    marks = {"format": FORMAT_VERSION, "kind": "header", "previous": FIRST_PREVIOUS}
    return seal(marks | _contents(header))


def seal_record(record: LedgerRecord, previous: str) -> tuple[bytes, str]:
    """A later line, without newline, and its checksum; `previous` is the checksum above it."""
    return seal({"kind": "generation", "previous": previous} | _contents(record))


def verify_lines(path: Path, lines: list[bytes]) -> tuple[LedgerHeader, list[LedgerRecord], str]:
    """Header, records and last checksum of a ledger's lines, without their newlines.

    Raises LedgerError naming the first line that is damaged or out of order.
    """
    head = FIRST_PREVIOUS
    contents: list[dict[str, JsonValue]] = []
    for number, line in enumerate(lines, start=1):
        unsealed = unseal(line)
        if unsealed is None:
            raise _damage(path, number, "its checksum does not fit its content")
        content, checksum = unsealed
        if content.pop("previous", None) != head:
            raise _damage(path, number, "it does not follow from the line above")
        contents.append(content)
        head = checksum
    if not contents:
        raise _damage(path, 1, "the header is not there")
    version = contents[0].pop("format", None)
    if version != FORMAT_VERSION:
        raise LedgerError(
            f"{path} has format {version}, this es-align reads {FORMAT_VERSION}; "
            "use the version of es-align that wrote it"
        )
    header = LedgerHeader(**_fields(path, 1, contents[0], "header", LedgerHeader))
    records = [
        LedgerRecord(**_fields(path, number, content, "generation", LedgerRecord))
        for number, content in enumerate(contents[1:], start=2)
    ]
    for expected, record in enumerate(records):
        if record.generation != expected:
            raise _damage(path, expected + 2, f"it is not generation {expected}")
    return header, records, head


def _fields(
    path: Path, number: int, content: dict[str, JsonValue], kind: str, into: type
) -> dict[str, Any]:
    names = {field.name for field in fields(into)}
    if content.pop("kind", None) != kind or set(content) != names:
        raise _damage(path, number, f"it is not a {kind} record of format {FORMAT_VERSION}")
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
    }


def _damage(path: Path, number: int, reason: str) -> LedgerError:
    return LedgerError(
        f"{path} line {number} is damaged: {reason}. Nothing was changed; restore the file from a "
        "copy, or start the run again in another --run-dir"
    )


def _contents(line: LedgerHeader | LedgerRecord) -> dict[str, object]:
    # Not dataclasses.asdict: it copies number by number, 33 ms for a population of 16,384.
    return {field.name: getattr(line, field.name) for field in fields(line)}
