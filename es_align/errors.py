"""Errors a user is meant to read (defined in `kernels.errors`, the bottom of the house)."""

from kernels.errors import (
    ConfigError,
    DataError,
    EsAlignError,
    LedgerError,
    ModelError,
    RunFolderError,
    StorageError,
    WorkerError,
)

__all__ = [
    "ConfigError",
    "DataError",
    "EsAlignError",
    "LedgerError",
    "ModelError",
    "RunFolderError",
    "StorageError",
    "WorkerError",
]
