"""Which member each row of a step belongs to, on the host's buffer and on a GPU's."""

import pytest
import torch

from kernels.perturbation import NOBODY
from workers.engines.population_op import RowMap

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    return request.param


def slots(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


def test_rows_beyond_the_step_s_belong_to_nobody(device: str) -> None:
    rows = RowMap(5, device)
    buffer = rows.member_T
    assert buffer.tolist() == [NOBODY] * 5
    rows.set(slots(3, NOBODY, 2, 2))
    assert buffer.tolist() == [3, NOBODY, 2, 2, NOBODY]
    rows.set(slots(7))
    assert buffer.tolist() == [7, NOBODY, NOBODY, NOBODY, NOBODY]
    assert rows.member_T is buffer  # which captured graphs read


def test_a_larger_step_gets_a_larger_buffer(device: str) -> None:
    rows = RowMap(0, device)
    rows.set(slots(1, 2, 3))
    assert rows.member_T.tolist() == [1, 2, 3]
    rows.set(slots(4))
    assert (rows.member_T.tolist(), rows.member_T.dtype) == ([4, NOBODY, NOBODY], torch.int32)


@pytest.mark.gpu
def test_a_step_is_not_overwritten_by_the_one_after_it() -> None:
    """The host is a step ahead: what it writes must wait until the GPU has read the step before."""
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    rows, num_rows = RowMap(16384, "cuda"), 16384
    busy = torch.zeros(8192, 8192, device="cuda")
    seen = []
    for step in range(20):
        busy @ busy
        rows.set(torch.full((num_rows,), step, dtype=torch.int32))
        seen.append(rows.member_T.clone())
    assert [int(members.min()) for members in seen] == list(range(20))
    assert [int(members.max()) for members in seen] == list(range(20))


@pytest.mark.gpu
def test_the_host_does_not_wait_for_the_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    rows, many = RowMap(2**16, "cuda"), torch.arange(2**16, dtype=torch.int32)
    rows.set(many)
    busy = torch.zeros(8192, 8192, device="cuda")
    torch.cuda.synchronize()
    for _ in range(50):
        busy = busy @ busy
    is_done = torch.cuda.Event()
    is_done.record()
    rows.set(many.flip(0))
    assert not is_done.query()  # fails if the copy waited for what was queued before it
    assert torch.equal(rows.member_T.cpu(), many.flip(0))
