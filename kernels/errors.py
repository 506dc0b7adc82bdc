"""The one base class of every error a user is meant to read,
kept at the bottom so all packages share it.

Each message names what is wrong, the value, the limit and the next step. All of them hold one
string, so they pickle and cross Ray unchanged.
"""


class EsAlignError(Exception):
    """Base of all errors raised on purpose; the CLI prints the message and exits with code 2."""


class ConfigError(EsAlignError, ValueError):
    """A configuration that cannot run."""


class ModelError(EsAlignError, ValueError):
    """A model, adapter or checkpoint that is missing or does not fit."""


class DataError(EsAlignError, ValueError):
    """Task data that is missing or malformed."""


class RunFolderError(EsAlignError, ValueError):
    """A run folder that cannot be used as asked."""


class LedgerError(EsAlignError, ValueError):
    """A ledger that is damaged or does not belong to this run."""


class StorageError(EsAlignError, OSError):
    """A disk or an object store that does not take, or give, what a run needs."""


class WorkerError(EsAlignError, RuntimeError):
    """Workers that failed more often than the retry budget allows."""
