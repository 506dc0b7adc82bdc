"""Codes of weights: the compiled ones are torch's, and hold what was to be rounded."""

import pytest
import torch

from kernels import native
from workers.checkpoints import StoredForm, StoredWeight

FORMS = {
    "bf16": StoredForm(16, 0, torch.bfloat16),
    "int8": StoredForm(8, 1, torch.bfloat16),
    "int4": StoredForm(4, 3, torch.bfloat16),
}
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
quantised = pytest.mark.parametrize("form", [FORMS["int8"], FORMS["int4"]], ids=["int8", "int4"])
WIDTH = 96


def hard_rows(form: StoredForm) -> torch.Tensor:
    """Rows (rows, 96) where rounding, the range or the scale is on an edge."""
    largest = (2**form.bits - 1) / 2 if form.bits < 16 else 127.5
    place_I = torch.arange(WIDTH)
    ties_I = (place_I % 15 - 7.5).clamp(-largest, largest)
    ties_I[::32] = largest  # a scale of 1, so every code is a half
    ends_I = largest * (1 - 2.0 * (place_I % 2))
    ends_I[-32:] = -largest
    few_I = torch.zeros(WIDTH)
    few_I[40] = -1e-3
    near_I = torch.nextafter(ties_I, torch.zeros(WIDTH))
    rows = [torch.zeros(WIDTH), ties_I, -ties_I, near_I, ends_I, few_I, ends_I * 1e-40]
    rows += [torch.full((WIDTH,), -0.0), 3e38 * (ties_I / largest), -ends_I * 2.0**-130]
    return torch.stack([row.float() for row in rows])


def both(form: StoredForm, weight_OI: torch.Tensor, monkeypatch) -> tuple[StoredWeight, ...]:
    first = form.encode(weight_OI)
    with monkeypatch.context() as patch:
        patch.setattr(native, "library", lambda: None)
        return first, form.encode(weight_OI)


@pytest.mark.skipif(native.library() is None, reason="needs a C++ compiler")
@forms
def test_the_compiled_codes_are_those_of_torch(form: StoredForm, monkeypatch) -> None:
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(301, WIDTH, generator=generator)
    sizes = torch.exp(20 * torch.randn(301, 1, generator=generator))
    for weight_OI in (random, random * sizes, random[:1], hard_rows(form)):
        compiled, wanted = both(form, weight_OI, monkeypatch)
        for (name, got), (same, meant) in zip(
            compiled.tensors("x"), wanted.tensors("x"), strict=True
        ):
            assert name == same and got.dtype == meant.dtype
            assert torch.equal(got, meant), name


@quantised
def test_ties_go_to_even_and_zeros_have_a_scale(form: StoredForm) -> None:
    stored = form.encode(hard_rows(form))
    assert stored.scale_OG is not None
    assert float(stored.scale_OG[0, 0]) == torch.finfo(torch.bfloat16).eps
    assert stored.scale_OG[1].unique().tolist() == [1]
    read_ON = stored.columns(range(WIDTH))
    least, most = -(2 ** (form.bits - 1)), 2 ** (form.bits - 1) - 1
    assert read_ON[0].tolist() == [0] * WIDTH
    assert read_ON[1, 1:6].tolist() == [max(least, code) for code in (-6, -6, -4, -4, -2)]
    assert read_ON[4, :2].tolist() == [most, least]


@forms
def test_columns_are_what_was_rounded(form: StoredForm) -> None:
    """Within half a step of the group, and what a bf16 scale adds."""
    weight_OI = torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(2))
    stored, indices = form.encode(weight_OI), [0, 95, 33, 64]
    gap_ON = (stored.columns(indices) - weight_OI[:, indices]).abs()
    largest = float(weight_OI.abs().max())
    step = 2.0**-8 if stored.scale_OG is None else 1 / (2**form.bits - 1) + 2.0**-8
    assert float(gap_ON.max()) <= step * largest
    assert torch.equal(stored.columns(range(WIDTH))[:, indices], stored.columns(indices))


def test_four_bits_are_packed_from_the_lowest() -> None:
    codes_I = torch.tensor([-8, 7, 0, 1, -1, 2, 3, -4.0])
    stored = StoredForm(4, 1, torch.bfloat16).encode(codes_I[None] * 0.9375)
    tensors = dict(stored.tensors("x"))
    assert tensors["x.weight_shape"].tolist() == [1, 8]
    word = int(tensors["x.weight_packed"].item()) & 0xFFFFFFFF
    scale = float(tensors["x.weight_scale"].item())
    assert scale == 1.0
    # round(0.9375 * code): -7.5 is a tie and goes to -8.
    assert [(word >> 4 * place & 15) - 8 for place in range(8)] == [-8, 7, 0, 1, -1, 2, 3, -4]
