"""What `gpu_linear.py` measures: sizes, the most important first, and its command line."""

import argparse
import collections
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch

from kernels.gpu.common import Form

Order = Literal["mixed", "segments"]

PARTS = ("bf16", "int8", "int4", "update", "weight", "noise")

NUMBERS = ("widths", "batches", "ranks", "members")  # options of these names
MAX_DECODE_ROWS = 1024  # more rows than an engine decodes at once are a prefill's segments


class Cell(NamedTuple):
    """`batch` rows through square layers, of members that come mixed or in segments."""

    width: int
    batch: int
    rank: int
    members: int
    order: Order


@dataclass(frozen=True, slots=True)
class Sizes:
    """Everything that is measured, and how often."""

    parts: tuple[str, ...] = PARTS
    widths: tuple[int, ...] = (8192, 4096, 2048)
    batches: tuple[int, ...] = (1024, 64, 256, 4096)
    ranks: tuple[int, ...] = (1, 4, 16)
    members: tuple[int, ...] = (64, 1024, 256)
    orders: tuple[Order | None, ...] = (None,)  # None: as an engine's rows of that many come
    forms: tuple[Form | None, ...] = (None,)  # of the kernels; None: the one they choose
    quantised_batches: tuple[int, ...] = (1024, 64, 256, 4096)
    quantised_members: int = 64
    quantised_form: Form | None = None
    num_rounds: int = 15
    layer_bytes: int = 2**28  # of the weights that one graph goes through
    copy_bytes: int = 2**32
    product: int = 8192
    update_pairs: int = 512
    noise_values: int = 2**28


QUICK = Sizes(
    widths=(8192,),
    batches=(1024,),
    ranks=(1, 4),
    orders=("mixed", "segments"),
    quantised_batches=(1024,),
)
TOY = Sizes(
    widths=(256,),
    batches=(4,),
    ranks=(2,),
    members=(4,),
    forms=(None, "prefill"),
    quantised_batches=(24,),
    quantised_members=4,
    quantised_form="prefill",
    num_rounds=2,
    layer_bytes=0,
    copy_bytes=2**20,
    product=256,
    update_pairs=6,
    noise_values=2**12,
)


def make_cell(width: int, batch: int, rank: int, members: int, order: Order | None = None) -> Cell:
    """Unless `order` says otherwise a decode step's members are mixed, a prefill's in segments.

    Raises ValueError unless members come in pairs and all have equally many rows.
    """
    if members % 2 or batch % members:
        raise ValueError(
            f"{members} members and {batch} rows do not fit; use an even number of members that "
            "divides the batch"
        )
    order = order or ("mixed" if batch <= MAX_DECODE_ROWS else "segments")
    return Cell(width, batch, rank, members, order)


def make_cells(sizes: Sizes, width: int) -> Iterator[Cell]:
    """Those of one width in which every member has a row. Raises ValueError as `make_cell`."""
    for batch in sizes.batches:
        for rank in sizes.ranks:
            for members in sizes.members:
                for order in sizes.orders if members <= batch else ():
                    yield make_cell(width, batch, rank, members, order)


def parse(description: str) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cuda", "cpu"), default=default)
    parser.add_argument("--quick", action="store_true", help="the goals' sizes alone")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=None)
    for name in NUMBERS:
        parser.add_argument(f"--{name}", type=int, nargs="+", default=None)
    parser.add_argument(
        "--orders",
        nargs="+",
        choices=get_args(Order),
        default=None,
        help="of the rows' members; left out: segments beyond a decode step",
    )
    parser.add_argument(
        "--forms",
        nargs="+",
        choices=("chosen", "decode", "prefill"),
        default=None,
        help="of the kernels; chosen: by the number of rows",
    )
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=450, help="no size begins after them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=None, help="write everything to this file")
    return parser.parse_args()


def choose_sizes(options: argparse.Namespace) -> Sizes:
    """The preset, and what the command line puts in its place. Raises ValueError as `make_cell`."""
    sizes = TOY if options.device == "cpu" else QUICK if options.quick else Sizes()
    given: dict[str, object] = {"num_rounds": options.rounds}
    for name in (*NUMBERS, "parts", "orders"):
        chosen = getattr(options, name)
        given[name] = None if chosen is None else tuple(chosen)
    if options.forms is not None:
        given["forms"] = tuple(None if form == "chosen" else form for form in options.forms)
    if options.batches is not None:
        fitting = [batch for batch in options.batches if batch % sizes.quantised_members == 0]
        given["quantised_batches"] = tuple(fitting)
    sizes = replace(sizes, **{name: value for name, value in given.items() if value is not None})
    for width in sizes.widths:
        collections.deque(make_cells(sizes, width), maxlen=0)  # before anything is measured
    return sizes
