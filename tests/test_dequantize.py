"""Dequantisers against literal numbers; whole packed layers stand in test_ready_made.py."""

import pytest
import torch

from es_align.dequantize import awq, check_shapes, dequantize, gptq, int_quantized, pack_quantized
from es_align.errors import ModelError
from es_align.layouts import StoredScheme


def test_gptq_packs_eight_inputs_to_a_word() -> None:
    codes = torch.tensor([[0x76543210], [-0x01234568]], dtype=torch.int32)  # second: 0xFEDCBA98
    weight = gptq(codes, torch.tensor([[0.5], [2.0]]))
    assert weight.tolist() == [[-4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5, 0, 2, 4, 6, 8, 10, 12, 14]]


def test_awq_packs_eight_outputs_to_a_word_in_its_own_order() -> None:
    codes, zeros = torch.tensor([[0x75316420], [0]]), torch.tensor([[0x11111110]])
    scale = torch.tensor([[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0]])
    weight = awq(codes.int(), zeros.int(), scale)
    assert weight.tolist() == [
        [0, 0],
        [0, -1],
        [1, -1],
        [2, -1],
        [3, -1],
        [4, -1],
        [5, -1],
        [12, -2],
    ]


def test_compressed_tensors_packs_codes_along_inputs_and_zeros_along_outputs() -> None:
    codes = torch.tensor([[0x76543210], [0x76543210]], dtype=torch.int32)
    scale = torch.tensor([[1.0, 10.0], [2.0, 0.5]])
    symmetric = [[-8, -7, -6, -5, -40, -30, -20, -10], [-16, -14, -12, -10, -2, -1.5, -1, -0.5]]
    assert pack_quantized(codes, scale, None).tolist() == symmetric
    zeros = torch.tensor([[0x10, 0x32]], dtype=torch.int32)  # group 0: 0 and 1; group 1: 2 and 3
    shifted = [[0, 1, 2, 3, 20, 30, 40, 50], [-2, 0, 2, 4, 0.5, 1, 1.5, 2]]
    assert pack_quantized(codes, scale, zeros).tolist() == shifted


def test_int8_has_one_scale_an_output_channel() -> None:
    codes = torch.tensor([[127, -128], [3, 0]], dtype=torch.int8)
    assert int_quantized(codes, torch.tensor([[0.5], [2.0]])).tolist() == [[63.5, -64], [6, 0]]
    assert int_quantized(codes, torch.tensor([2.0])).tolist() == [[254, -256], [6, 0]]


def test_dequantising_a_layer_uses_the_scheme_of_its_checkpoint() -> None:
    parts = {"weight": torch.tensor([[2]], dtype=torch.int8), "weight_scale": torch.tensor([[3.0]])}
    assert dequantize("x", StoredScheme("int-quantized", "int8"), parts).tolist() == [[6.0]]


def test_the_scheme_decides_what_stored_gptq_zeros_mean() -> None:
    parts = {"qweight": torch.zeros(1, 8).int(), "scales": torch.ones(1, 8)}
    parts["qzeros"] = torch.full((1, 1), 0x77777777).int()  # 7, which is 8 in the first format
    first, second = StoredScheme("gptq", "int4", zero_offset=1), StoredScheme("gptq", "int4")
    assert dequantize("x", first, parts).tolist() == [[-8.0] * 8] * 8
    with pytest.raises(ModelError, match=r"layer x .* zero points other than 8 \(7 to 7\)"):
        dequantize("x", second, parts)


@pytest.mark.parametrize(
    ("layout", "shapes", "fits"),
    [
        ("gptq", {"qweight": (4, 16), "scales": (2, 16), "qzeros": (2, 2)}, True),
        ("gptq", {"qweight": (8, 16), "scales": (2, 16), "qzeros": (2, 4)}, False),  # 8 bits
        ("gptq", {"qweight": (4, 16), "scales": (3, 16), "qzeros": (3, 2)}, False),
        ("awq", {"qweight": (32, 2), "scales": (1, 16), "qzeros": (1, 2)}, True),
        ("awq", {"qweight": (32, 2), "scales": (16, 1), "qzeros": (1, 2)}, False),
        ("pack-quantized", {"weight_packed": (16, 4), "weight_scale": (16, 2)}, True),
        ("pack-quantized", {"weight_packed": (16, 8), "weight_scale": (16, 3)}, False),
        ("pack-quantized", {"weight_packed": (16, 4)}, False),
        ("int-quantized", {"weight": (16, 32), "weight_scale": (16, 1)}, True),
        ("int-quantized", {"weight": (16, 32), "weight_scale": (16, 2)}, False),
    ],
)
def test_shapes_that_are_not_the_layout_s_are_refused(layout, shapes, fits: bool) -> None:
    if fits:
        check_shapes("x", layout, shapes)
        return
    with pytest.raises(ModelError, match=rf"layer x is not quantised as .*{layout}.* mixed"):
        check_shapes("x", layout, shapes)
