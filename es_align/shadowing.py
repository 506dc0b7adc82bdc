"""Whether Hugging Face's package `kernels` gets in the way of ours, which has the same import name.

transformers looks for a package of that name when it is imported. This module imports nothing of
ours, because where theirs comes first even our error classes cannot be imported.
"""

import importlib.metadata
import importlib.util
from pathlib import Path

OURS = Path(__file__).resolve().parent.parent / "kernels"
REMEDY = "run `pip uninstall kernels` in this environment; es-align and its models do not need it"


def shadowing_kernels() -> str | None:
    """What to tell the user if `import kernels` does not lead to our package, else None."""
    spec = importlib.util.find_spec("kernels")
    if spec is not None and spec.origin is not None and Path(spec.origin).resolve().parent == OURS:
        return None
    found = spec.origin if spec is not None else "nothing"
    return (
        f"`import kernels` leads to {found} and not to es-align's own package in {OURS}; {REMEDY}"
    )


def foreign_kernels() -> str | None:
    """What to tell the user if the other package is installed at all, else None."""
    for distribution in importlib.metadata.distributions(name="kernels"):
        return (
            f"Hugging Face's package kernels {distribution.version} is installed; transformers "
            f"takes es-align's package of the same name for it, or the other way round; {REMEDY}"
        )
    return None
