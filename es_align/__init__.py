"""es-align: align a language model on any reward without backpropagation.

Everything the command line does is a plain function here, under the same name. Names are resolved
at first use (PEP 562), so that importing the package, and `es-align --help`, cost neither torch nor
Ray. No submodule may be called like a function below: importing it would take the function's place.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from es_align.api import evaluate, export, quantize, replay, train
    from es_align.api import evaluate as eval
    from es_align.config import Config
    from es_align.config_loading import load_config
    from es_align.responses import score_responses as score

__all__ = [
    "Config",
    "eval",
    "evaluate",
    "export",
    "load_config",
    "quantize",
    "replay",
    "score",
    "train",
]

_HOMES = {
    "Config": ("es_align.config", "Config"),
    "eval": ("es_align.api", "evaluate"),
    "evaluate": ("es_align.api", "evaluate"),
    "export": ("es_align.api", "export"),
    "load_config": ("es_align.config_loading", "load_config"),
    "quantize": ("es_align.api", "quantize"),
    "replay": ("es_align.api", "replay"),
    "score": ("es_align.responses", "score_responses"),
    "train": ("es_align.api", "train"),
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
