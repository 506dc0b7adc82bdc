"""Matrix noise in Triton against NumPy, natively or in the interpreter (see conftest.py)."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

import triton
import triton.language as tl

from kernels.gpu import philox as gpu_philox
from kernels.gpu.philox import fill_factor_noise
from kernels.matrix_noise import NoiseKind, NoiseStream, factor_noise

FILL_TYPES = {
    "pair_pointer": "*i32",
    "pair_stride": "i64",
    "row_stride": "i64",
    "rank": "i32",
    "num_tiles": "i32",
    "num_columns": "i32",
    "skip": "i32",
    "first_block": "u32",
    "row_blocks": "u32",
    "parameter_word": "u32",
    "generation": "u32",
    "key_low": "u32",
    "key_high": "u32",
}
PAIRS = [0, 1, 2**31 - 1, 2**31, 2**32 - 1]


@triton.jit
def words_kernel(out_pointer, counter_pointer, key_low: tl.uint32, key_high: tl.uint32):
    block = tl.arange(0, 4)
    counter = counter_pointer + 4 * block
    w0, w1, w2, w3 = gpu_philox.philox4x32(
        tl.load(counter).to(tl.uint32),
        tl.load(counter + 1).to(tl.uint32),
        tl.load(counter + 2).to(tl.uint32),
        tl.load(counter + 3).to(tl.uint32),
        key_low.to(tl.uint32),
        key_high.to(tl.uint32),
    )
    words = gpu_philox.words_in_order(w0, w1, w2, w3)
    tl.store(out_pointer + tl.arange(0, 16), words.to(tl.int64))


@triton.jit
def values_kernel(binomial_pointer, rademacher_pointer, word_pointer):
    index = tl.arange(0, 16)
    word = tl.load(word_pointer + index).to(tl.uint32)
    tl.store(binomial_pointer + index, gpu_philox.binomial_from_word(word))
    bit = tl.arange(0, 32)[None, :]
    signs = gpu_philox.rademacher_from_word(word[:, None], bit)
    tl.store(rademacher_pointer + index[:, None] * 32 + bit, signs)


def pair_tensor(pairs: list[int], device: str) -> torch.Tensor:
    return torch.from_numpy(np.array(pairs, dtype=np.uint32).view(np.int32)).to(device)


def test_in_the_interpreter(run_in_interpreter: Callable[[str], None]) -> None:
    run_in_interpreter(__file__)


@pytest.mark.parametrize(
    ("kind", "num_blocks", "out"),
    [("binomial", 256, "*i8"), ("rademacher", 8, "*i8"), ("gaussian", 256, "*fp32")],
)
def test_the_fill_compiles_for_cuda(
    compile_for_cuda: Callable[[object, Mapping[str, str], Mapping[str, object]], str],
    kind: NoiseKind,
    num_blocks: int,
    out: str,
) -> None:
    ptx = compile_for_cuda(
        gpu_philox._fill_kernel,
        {"out_pointer": out} | FILL_TYPES,
        {"KIND": kind, "NUM_BLOCKS": num_blocks},
    )
    assert ("popc.b32" in ptx) == (kind == "binomial")  # one instruction, not the summing of bits
    assert "mul.wide.u32" in ptx


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ([0] * 4, (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([2**32 - 1] * 4, (2**32 - 1,) * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_known_answers(
    triton_device: str, counter: list[int], key: tuple[int, int], words: list[int]
) -> None:
    counters = torch.tensor([counter, [0] * 4, counter, [1, 2, 3, 4]], device=triton_device)
    out = torch.zeros(16, dtype=torch.int64, device=triton_device)
    words_kernel[(1,)](out, counters, *key)
    assert out[:4].tolist() == words
    assert out[8:12].tolist() == words


@pytest.mark.gpu
def test_values_of_words(triton_device: str) -> None:
    words = [0, 1, 2**31, 2**32 - 1, 0x55555555, 0xAAAAAAAA, 0x80000001, 0xFFFF0000, 0x12345678]
    words += [0xDEADBEEF, 0x0F0F0F0F, 0x7FFFFFFF, 3, 0x01010101, 0xFEFEFEFE, 0xCAFEBABE]
    word = torch.tensor(words, device=triton_device)
    binomial = torch.zeros(16, dtype=torch.int8, device=triton_device)
    rademacher = torch.zeros(16, 32, dtype=torch.int8, device=triton_device)
    values_kernel[(1,)](binomial, rademacher, word)
    assert binomial.tolist() == [word.bit_count() - 16 for word in words]
    assert rademacher.tolist() == [
        [2 * (word >> bit & 1) - 1 for bit in range(32)] for word in words
    ]


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["binomial", "rademacher", "gaussian"])
@pytest.mark.parametrize(
    ("rank", "width", "columns"),
    [
        (1, 1, None),
        (3, 131, None),
        (2, 515, (3, 514)),
        (2, 2600, (129, 2599)),
        (5, 4096, (1024, 2048)),
        (1, 2**30 - 1, (2**30 - 7, 2**30 - 1)),
    ],
)
def test_the_fill_is_the_reference(
    triton_device: str, kind: NoiseKind, rank: int, width: int, columns: tuple[int, int] | None
) -> None:
    stream = NoiseStream(2**64 - 3, 2**32 - 5, kind)
    wanted = torch.from_numpy(factor_noise(stream, PAIRS, 2**24 - 1, rank, width, columns))
    out = torch.full_like(wanted, 77).to(triton_device)
    pairs = pair_tensor(PAIRS, triton_device)
    assert fill_factor_noise(out, stream, pairs, 2**24 - 1, width, columns) is out
    tolerance = 1e-6 if kind == "gaussian" else 0
    torch.testing.assert_close(out.cpu(), wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.gpu
def test_small_numbers_are_no_special_case(triton_device: str) -> None:
    # 0, 1 and multiples of 16 are what a compiler specialises on.
    for number in (0, 1, 16):
        stream = NoiseStream(number, number)
        wanted = factor_noise(stream, [number], number, 1, 16)
        out = torch.zeros(1, 1, 16, dtype=torch.int8, device=triton_device)
        fill_factor_noise(out, stream, pair_tensor([number], triton_device), number, 16)
        assert out.tolist() == wanted.tolist()


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["binomial", "rademacher"])
def test_a_slice_of_a_table_is_filled_and_nothing_beside_it(
    triton_device: str, kind: NoiseKind
) -> None:
    stream, pairs = NoiseStream(4, 2, kind), [8, 3]
    table = torch.full((4, 3, 2, 200), 77, dtype=torch.int8, device=triton_device)
    fill_factor_noise(
        table[1:3, 1, :, 30:170], stream, pair_tensor(pairs, triton_device), 6, 300, (100, 240)
    )
    wanted = torch.full((4, 3, 2, 200), 77, dtype=torch.int8)
    wanted[1:3, 1, :, 30:170] = torch.from_numpy(factor_noise(stream, pairs, 6, 2, 300, (100, 240)))
    assert torch.equal(table.cpu(), wanted)


def test_tables_that_do_not_fit_are_refused() -> None:
    stream, pairs = NoiseStream(1, 1), torch.zeros(2, dtype=torch.int32)
    table = torch.zeros(2, 1, 8, dtype=torch.int8)
    refused = [
        ("out has 8 columns of torch.int8 .* needs 9", table, pairs, 9),
        ("needs 8 of torch.int8", table.float(), pairs, 8),
        ("stride 2; ", torch.zeros(2, 1, 16, dtype=torch.int8)[..., ::2], pairs, 8),
        (r"pairs of shape \(3,\)", table, torch.zeros(3, dtype=torch.int32), 8),
        (r"torch.int64; use contiguous int32 of shape \(2,\)", table, pairs.long(), 8),
        ("parameter=-1 does not fit", table, pairs, 8),
    ]
    for message, out, pair_P, width in refused:
        parameter = -1 if "parameter" in message else 0
        with pytest.raises(ValueError, match=message):
            fill_factor_noise(out, stream, pair_P, parameter, width)
