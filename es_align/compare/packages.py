"""Whether TRL is there, in a release that the baseline is tested with."""

from importlib.metadata import PackageNotFoundError, version

from packaging.version import Version

from es_align.errors import ConfigError

TESTED = ("1.16", "1.17")  # first, and first that is not


def check_trl() -> None:
    """Raise ConfigError if TRL, or the data sets it reads, are missing or of another release."""
    for package in ("trl", "datasets"):
        try:
            found = version(package)
        except PackageNotFoundError:
            raise ConfigError(
                f"{package} is not installed; run `EXTRAS=dev,grpo make setup`"
            ) from None
        if package == "trl" and not Version(TESTED[0]) <= Version(found) < Version(TESTED[1]):
            raise ConfigError(
                f"trl {found} is outside {TESTED[0]} to below {TESTED[1]}, with which the baseline "
                f"is tested; install trl=={TESTED[0]}.*"
            )
