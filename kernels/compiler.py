"""The machine's C++ compiler, found without importing torch."""

import os
import shutil

COMPILERS = ("c++", "g++", "clang++")


def find_compiler() -> str | None:
    """Path of $CXX, or of the first known compiler on the PATH; None if there is none."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else COMPILERS
    return next((path for name in names if (path := shutil.which(name))), None)
