"""Weights as a checkpoint stores them, held against the library that defines the formats."""

from pathlib import Path

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import quantize
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import save_file

from es_align.dequantize import dequantize
from es_align.layouts import StoredScheme
from kernels.errors import ModelError
from workers.checkpoints import Checkpoint, StoredForm, StoredWeight

ROWS, COLUMNS = 24, 128
FORMS = {
    "int8": StoredForm(8, 1, torch.bfloat16),
    "int4": StoredForm(4, 4, torch.bfloat16),
    "int4-channel": StoredForm(4, 1, torch.float32),
}


@pytest.fixture
def weight_OI() -> torch.Tensor:
    weight_OI = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(3))
    weight_OI[5] = 0.0
    weight_OI[7, :32] *= 100.0
    return weight_OI


def codes_of(stored: StoredWeight) -> torch.Tensor:
    """int8 (out, in), from what they are multiplied out to."""
    assert stored.scale_OG is not None
    scale_OI = stored.scale_OG.float().repeat_interleave(COLUMNS // stored.form.num_groups, 1)
    return (stored.columns(range(COLUMNS)) / scale_OI).round().to(torch.int8)


@pytest.mark.parametrize("name", FORMS)
def test_codes_and_scales_are_the_library_s(name: str, weight_OI: torch.Tensor) -> None:
    form = FORMS[name]
    stored = form.encode(weight_OI)
    group_size = COLUMNS // form.num_groups
    args = QuantizationArgs(num_bits=form.bits, group_size=group_size)
    grouped_OGI = weight_OI.unflatten(1, (form.num_groups, -1))
    scale_OG, zero_OG = calculate_qparams(grouped_OGI.amin(-1), grouped_OGI.amax(-1), args)
    scale_OG = scale_OG.to(form.dtype)
    is_moving_OG = grouped_OGI.abs().amax(-1) > 0  # a group of zeros may have any scale
    assert stored.scale_OG is not None
    assert torch.equal(stored.scale_OG[is_moving_OG], scale_OG[is_moving_OG])
    codes_OI = quantize(weight_OI, stored.scale_OG.float(), zero_OG, args, dtype=torch.int8)
    assert torch.equal(codes_of(stored), codes_OI)


@pytest.mark.parametrize("name", FORMS)
def test_tensors_are_read_as_the_columns_say(name: str, weight_OI: torch.Tensor) -> None:
    """Written, then read by the reader that bases of ready-made checkpoints come from."""
    form = FORMS[name]
    stored = form.encode(weight_OI)
    tensors = {key.removeprefix("layer."): value for key, value in stored.tensors("layer")}
    if form.bits == 4:
        assert torch.equal(tensors["weight_packed"], pack_to_int32(codes_of(stored), 4))
        assert tensors["weight_shape"].tolist() == [ROWS, COLUMNS]
    layout = "int-quantized" if form.bits == 8 else "pack-quantized"
    scheme = StoredScheme(layout, "int8" if form.bits == 8 else "int4")
    read_OI = dequantize("layer", scheme, tensors).float()
    every = list(range(COLUMNS))
    torch.testing.assert_close(stored.columns(every), read_OI, rtol=2.0**-8, atol=0)
    step_O1 = weight_OI.abs().amax(1, keepdim=True) / (2**form.bits / 2 - 1)
    assert bool(((stored.columns(every) - weight_OI).abs() <= step_O1).all())
    assert torch.equal(stored.columns([9, 70]), stored.columns(every)[:, [9, 70]])


def test_the_form_is_that_of_the_checkpoint(tmp_path: Path, weight_OI: torch.Tensor) -> None:
    tensors = {"plain.weight": weight_OI.bfloat16()}
    for name, form in FORMS.items():
        tensors |= dict(form.encode(weight_OI).tensors(name))
    tensors |= dict(FORMS["int4"].encode(weight_OI).tensors("shifted"))
    tensors["shifted.weight_zero_point"] = torch.zeros(3, 4, dtype=torch.int32)
    contiguous = {key: value.contiguous() for key, value in tensors.items()}
    save_file(contiguous, tmp_path / "model.safetensors")
    checkpoint = Checkpoint(tmp_path)
    for name, form in FORMS.items():
        assert checkpoint.form(name) == form
    assert checkpoint.form("plain") == StoredForm(16, 0, torch.bfloat16)
    plain = checkpoint.form("plain").encode(weight_OI)
    assert torch.equal(dict(plain.tensors("plain"))["plain.weight"], tensors["plain.weight"])
    assert torch.equal(checkpoint.weight("plain"), tensors["plain.weight"])
    with pytest.raises(ModelError, match=r"shifted .* zero points.*full-precision original"):
        checkpoint.form("shifted")
    with pytest.raises(ModelError, match=r"has no tensor absent.weight"):
        checkpoint.form("absent")
