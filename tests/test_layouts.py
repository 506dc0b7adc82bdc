"""Layouts told by config.json: what is accepted, what is refused and how it is named."""

import json
from pathlib import Path

import pytest

from es_align.errors import ModelError
from es_align.layouts import StoredScheme, stored_scheme

GPTQ_SETTINGS = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True}
GPTQ_SETTINGS |= {"desc_act": False, "checkpoint_format": "gptq"}
AWQ_SETTINGS = {"quant_method": "awq", "bits": 4, "group_size": 128}
AWQ_SETTINGS |= {"zero_point": True, "version": "gemm"}


def compressed(bits: int, stored: str, inputs: dict | None, **weights: object) -> dict:
    scheme = {"num_bits": bits, "type": "int", "symmetric": True, "strategy": "group"}
    group = {"weights": scheme | weights, "input_activations": inputs, "targets": ["Linear"]}
    return {
        "quant_method": "compressed-tensors",
        "format": stored,
        "config_groups": {"group_0": group},
    }


INT8_INPUTS = {"num_bits": 8, "type": "int", "dynamic": True, "strategy": "token"}


@pytest.mark.parametrize(
    ("settings", "scheme"),
    [
        (GPTQ_SETTINGS, StoredScheme("gptq", "int4", zero_offset=1)),
        (GPTQ_SETTINGS | {"checkpoint_format": "gptq_v2"}, StoredScheme("gptq", "int4")),
        (
            GPTQ_SETTINGS | {"group_size": -1, "desc_act": True},
            StoredScheme("gptq", "int4", zero_offset=1),
        ),
        (AWQ_SETTINGS, StoredScheme("awq", "int4")),
        (compressed(4, "pack-quantized", None), StoredScheme("pack-quantized", "int4")),
        (compressed(8, "int-quantized", INT8_INPUTS), StoredScheme("int-quantized", "int8")),
        (
            compressed(8, "int-quantized", INT8_INPUTS, symmetric=False),
            StoredScheme("int-quantized", "int8", has_zero_points=True),
        ),
        (
            compressed(4, "pack-quantized", None) | {"sparsity_config": {"format": "dense"}},
            StoredScheme("pack-quantized", "int4"),
        ),
    ],
)
def test_settings_that_are_accepted(tmp_path: Path, settings: dict, scheme: StoredScheme) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": settings}))
    assert stored_scheme(tmp_path) == scheme


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"quant_method": "fp8"}, "quant_method=fp8"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "quant_method=bitsandbytes"),
        (GPTQ_SETTINGS | {"bits": 8}, "bits=8"),
        (GPTQ_SETTINGS | {"sym": False}, "sym=False"),
        (GPTQ_SETTINGS | {"desc_act": True}, "desc_act=True"),
        (GPTQ_SETTINGS | {"group_size": 48}, "group_size=48"),
        (GPTQ_SETTINGS | {"checkpoint_format": "marlin"}, "checkpoint_format=marlin"),
        (AWQ_SETTINGS | {"version": "gemv"}, "version=gemv"),
        (AWQ_SETTINGS | {"zero_point": False}, "zero_point=False"),
        (compressed(8, "pack-quantized", None), "int8 weights as pack-quantized, 16-bit"),
        (compressed(4, "pack-quantized", INT8_INPUTS), "int4 weights .* 8-bit activations"),
        (compressed(8, "float-quantized", INT8_INPUTS, type="float"), "float8 weights"),
        (compressed(4, "pack-quantized", None, actorder="group"), "actorder=group"),
        (
            compressed(4, "pack-quantized", None) | {"transform_config": {"config_groups": {}}},
            "transform_config",
        ),
    ],
)
def test_settings_that_are_refused_by_name(tmp_path: Path, settings: dict, told: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": settings}))
    with pytest.raises(ModelError, match=rf"{told}.* not supported; use .*es-align quantize"):
        stored_scheme(tmp_path)


def test_a_folder_of_gguf_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.Q4_0.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"holds GGUF weights, .*`es-align quantize`"):
        stored_scheme(tmp_path)


def test_a_plain_checkpoint_has_no_scheme(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "quantization_config": null}')
    assert stored_scheme(tmp_path) is None


def test_a_damaged_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": ')
    with pytest.raises(ModelError, match=r"config.json is no JSON .*fetch it again"):
        stored_scheme(tmp_path)
