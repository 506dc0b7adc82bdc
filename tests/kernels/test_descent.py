"""The compiled step of whole weights has the bits of torch.optim, from any state on."""

import math

import numpy as np
import pytest
import torch

from kernels import descent as module
from kernels import native
from kernels.descent import Descent, Gradient, OptimizerKind, descend_by_gradient_
from kernels.master import Master
from kernels.matrix_noise import NoiseKind, NoiseStream
from kernels.update import NoisyMatrix

RATE, SCALE, UNIT = 0.3, 0.07, 0.013
optimizers = pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
needs_compiler = pytest.mark.skipif(native.library() is None, reason="needs a C++ compiler")


class Mean:
    """One master and its optimiser, moved by whichever path the monkeypatched module takes."""

    def __init__(self, optimizer: OptimizerKind, shape: tuple[int, int], rank: int = 1) -> None:
        weight_RC = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        weight_RC[len(weight_RC) // 2] = 0
        weight_RC[0, 0] = -0.0
        self.master = Master(weight_RC, "fp32")
        self.descent = Descent(optimizer, 0.8, torch.float32)
        self.matrix = NoisyMatrix(3, *shape, rank)

    def move(self, generation: int, weight_N: np.ndarray, kind: NoiseKind = "binomial") -> float:
        gradient = Gradient(NoiseStream(5, generation, kind), weight_N, self.matrix)
        return descend_by_gradient_(
            self.master, self.descent, gradient, learning_rate=RATE, scale=SCALE, unit=UNIT
        )

    def bits(self) -> list[torch.Tensor]:
        momentum_RC, _ = self.descent.momentum_state(self.matrix.rows, self.matrix.columns)
        tensors = (self.master.full(), momentum_RC)
        return [tensor.view(torch.int32).clone() for tensor in tensors if tensor is not None]


@pytest.fixture
def take(monkeypatch: pytest.MonkeyPatch):
    """Chooses the path of the moves that follow; a native one has to be taken."""
    calls: list[str] = []
    descend_ = module.descend_
    compiled = native.library()

    def counting(*arguments, **options) -> float:
        calls.append("native")
        return descend_(*arguments, **options)

    monkeypatch.setattr(module, "descend_", counting)

    def choose(path: str) -> list[str]:
        monkeypatch.setattr(native, "library", lambda: compiled if path == "native" else None)
        return calls

    return choose


@needs_compiler
@optimizers
@pytest.mark.parametrize("kind", ["binomial", "rademacher"])
@pytest.mark.parametrize(
    ("shape", "rank", "num_pairs"),
    [
        ((1, 1), 1, 1),
        ((7, 5), 1, 2),
        ((8, 16), 4, 3),
        ((9, 17), 4, 32),
        ((33, 95), 1, 33),
        ((70, 64), 2, 64),
    ],
)
def test_both_paths_give_the_same_bits(
    take, optimizer: OptimizerKind, kind: NoiseKind, shape, rank: int, num_pairs: int
) -> None:
    """Four moves: the first, a later one, one whose pairs are all left out, and one after it."""
    means = {path: Mean(optimizer, shape, rank) for path in ("torch", "native")}
    generator = np.random.default_rng(num_pairs)
    for generation in range(4):
        weight_N = generator.standard_normal(num_pairs) * np.exp(generator.standard_normal())
        weight_N[1::5] = 0
        if generation == 2:
            weight_N[:] = 0
        squares = {}
        for path, mean in means.items():
            calls = take(path)
            squares[path] = mean.move(generation, weight_N, kind)
        assert len(calls) == generation + 1
        for wanted, got in zip(means["torch"].bits(), means["native"].bits(), strict=True):
            assert torch.equal(wanted, got), generation
        assert squares["native"] == pytest.approx(squares["torch"], rel=1e-9)
        assert (squares["native"] == 0) == (generation == 2 and optimizer == "sgd")


@needs_compiler
@pytest.mark.parametrize("first", ["torch", "native"])
def test_paths_may_take_turns(take, first: str) -> None:
    """The first move makes the momentum, whichever path it takes; an idle one makes it of zeros."""
    paths = [first, *(["native", "torch"] if first == "torch" else ["torch", "native"])] * 2
    mixed, plain = Mean("momentum", (24, 40)), Mean("momentum", (24, 40))
    for generation, path in enumerate(paths):
        weight_N = np.random.default_rng(generation).standard_normal(8) * (generation > 0)
        take(path)
        mixed.move(generation, weight_N)
        take("torch")
        plain.move(generation, weight_N)
        for wanted, got in zip(plain.bits(), mixed.bits(), strict=True):
            assert torch.equal(wanted, got), (generation, path)


@needs_compiler
def test_threads_leave_the_bits_and_the_length(take) -> None:
    take("native")
    weight_N = np.random.default_rng(0).standard_normal(16)
    found = []
    threads = torch.get_num_threads()
    for number in (1, 3):
        torch.set_num_threads(number)
        mean = Mean("momentum", (130, 75))
        found.append((mean.move(0, weight_N), mean.bits()))
    torch.set_num_threads(threads)
    (length, bits), (again, same) = found
    assert length == again > 0
    assert all(torch.equal(a, b) for a, b in zip(bits, same, strict=True))


def test_a_step_is_that_of_the_formula(take) -> None:
    """One pair of one-number matrices: the weight moves by unit * scale * rate * w a b / 8."""
    for path in ("torch", "native"):
        take(path)
        mean = Mean("momentum", (1, 1))
        gradient = Gradient(NoiseStream(5, 0), np.array([0.5]), mean.matrix)
        move = SCALE * RATE * float(gradient.full())
        assert move != 0
        assert mean.move(0, np.array([0.5])) == pytest.approx(move**2, rel=1e-6)
        assert float(mean.master.full()) == pytest.approx(UNIT * move, rel=1e-6)
        decayed = mean.move(0, np.zeros(1))
        assert math.sqrt(decayed) == pytest.approx(0.8 * abs(move), rel=1e-6)


@needs_compiler
def test_what_has_no_compiled_step_goes_torch_s_way(take, monkeypatch: pytest.MonkeyPatch) -> None:
    weight_N, calls = np.ones(4), take("native")
    Mean("adam", (4, 5)).move(0, weight_N)
    bf16 = Mean("momentum", (4, 5))
    bf16.master = Master(bf16.master.full(), "bf16")
    bf16.move(0, weight_N)
    turned = Mean("momentum", (4, 5))
    turned.master = Master(torch.randn(5, 4).T)
    turned.move(0, weight_N)
    monkeypatch.setattr(module, "NATIVE_FACTORS", 3)
    Mean("momentum", (4, 5)).move(0, weight_N)
    assert calls == []
    monkeypatch.setattr(module, "NATIVE_FACTORS", 4)
    Mean("momentum", (4, 5)).move(0, weight_N)
    assert calls == ["native"]
