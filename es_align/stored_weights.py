"""The tensors of a checkpoint folder, quantised or not; its matrices are read one at a time."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from es_align.dequantize import CODES, check_shapes, dequantize, matrix_shape
from es_align.errors import ModelError
from es_align.layouts import copy_tokenizer, stored_scheme
from workers.checkpoints import read_headers

FLOAT_TYPES = {"F64", "F32", "F16", "BF16"}
QUANTISATION_KEYS = ("quantization_config", "compression_config")


class StoredWeights:
    """A checkpoint's headers, and its matrices as they compute: dequantised where need be."""

    def __init__(self, path: Path) -> None:
        """Raises ModelError if there are no safetensors files, or the layout cannot be run."""
        self.path = path
        self.scheme = stored_scheme(path)
        self.headers = read_headers(path)
        if not self.headers:
            raise ModelError(
                f"model {path} has no .safetensors weights; "
                "convert it with transformers' save_pretrained"
            )
        self.layers = dict(self._quantized_layers())

    def check(self) -> None:
        """Raise ModelError unless the tensors are what config.json says: floating point, or of the
        quantised layout.
        """
        for key, (_, dtype, shape) in self.headers.items():
            if self.scheme is None and len(shape) == 2 and dtype not in FLOAT_TYPES:
                raise ModelError(
                    f"model {self.path} holds quantised weights ({key} is {dtype}), but its "
                    "config.json has no quantization_config; add the one it was made with, or name "
                    "its full-precision original"
                )
        if self.scheme is not None and not self.layers:
            raise ModelError(
                f"model {self.path} has no layer quantised as its config.json says "
                f"({self.scheme.layout}); check its quantization_config"
            )
        for name, parts in self.layers.items():
            assert self.scheme is not None
            shapes = {part: self.headers[key].shape for part, key in parts.items()}
            check_shapes(name, self.scheme.layout, shapes)

    def shapes(self) -> dict[str, tuple[int, int]]:
        """`(out, in)` features of every matrix, by layer name."""
        shapes = {}
        for key, header in self.headers.items():
            name, _, part = key.rpartition(".")
            if name in self.layers:
                assert self.scheme is not None
                if part == CODES[self.scheme.layout]:
                    shapes[name] = matrix_shape(self.scheme.layout, header.shape)
            elif part == "weight" and len(header.shape) == 2:
                shapes[name] = (header.shape[0], header.shape[1])
        return shapes

    def matrix(self, name: str) -> torch.Tensor:
        """Weight (out x in) of a layer in its stored dtype, that of the scales where quantised."""
        parts = self.layers.get(name)
        if parts is None:
            return self._read(f"{name}.weight")
        assert self.scheme is not None
        return dequantize(name, self.scheme, {p: self._read(key) for p, key in parts.items()})

    def write_plain(
        self,
        target: Path,
        change: Callable[[str, torch.Tensor], torch.Tensor] = lambda key, tensor: tensor,
    ) -> None:
        """Write the checkpoint to the folder `target` without quantisation, file by file.

        `change` is given every tensor's key and plain value, and returns what is written.
        """
        files = sorted({header.file for header in self.headers.values()})
        places = {}
        for number, file in enumerate(files, start=1):
            is_only = len(files) == 1
            shard = f"model-{number:05d}-of-{len(files):05d}.safetensors"
            shard = "model.safetensors" if is_only else shard
            tensors = {key: change(key, value) for key, value in self._plain_tensors(file)}
            save_file(tensors, target / shard, metadata={"format": "pt"})
            places |= dict.fromkeys(tensors, shard)
        if len(files) > 1:
            index = json.dumps({"metadata": {}, "weight_map": places})
            (target / "model.safetensors.index.json").write_text(index)
        config = json.loads((self.path / "config.json").read_text(encoding="utf-8"))
        plain = {key: value for key, value in config.items() if key not in QUANTISATION_KEYS}
        (target / "config.json").write_text(json.dumps(plain, indent=2) + "\n")
        copy_tokenizer(self.path, target)

    def _plain_tensors(self, file: Path) -> Iterator[tuple[str, torch.Tensor]]:
        for key in (key for key, header in self.headers.items() if header.file == file):
            name, _, part = key.rpartition(".")
            if name not in self.layers or part == "bias":
                yield key, self._read(key)
            elif self.scheme is not None and part == CODES[self.scheme.layout]:
                yield f"{name}.weight", self.matrix(name)

    def _quantized_layers(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Name and parts (to the keys of their tensors) of every quantised layer."""
        if self.scheme is None:
            return
        parts: dict[str, dict[str, str]] = {}
        for key in self.headers:
            name, _, part = key.rpartition(".")
            parts.setdefault(name, {})[part] = key
        codes = CODES[self.scheme.layout]
        for name, keys in parts.items():
            if codes in keys and self.headers[keys[codes]].dtype not in FLOAT_TYPES:
                yield name, keys

    def _read(self, key: str) -> torch.Tensor:
        with safe_open(self.headers[key].file, framework="pt") as tensors:
            return tensors.get_tensor(key)
