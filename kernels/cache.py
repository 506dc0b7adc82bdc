"""Where things made once are kept between runs: converted models, bases, compiled kernels."""

import os
from pathlib import Path

CACHE_VARIABLE = "ES_ALIGN_CACHE"


def cache_root() -> Path:
    """$ES_ALIGN_CACHE, else ~/.cache/es-align."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen) if chosen else Path.home() / ".cache" / "es-align"
