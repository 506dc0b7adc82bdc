"""Where a Ray cluster is, as a user writes it: `auto`, host:port, or ray://host:port.

Apart from `workers.cluster`, so that a configuration is checked without an import of Ray.
"""

import ipaddress
import re
from typing import NamedTuple

from kernels.errors import ConfigError

AUTO = "auto"
CLIENT_PREFIX = "ray://"
LARGEST_PORT = 65535
WRITTEN = re.compile(r"(ray://)?(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")


class Address(NamedTuple):
    """A cluster's head, or its client server."""

    host: str
    port: int
    is_client: bool  # ray://: the driver need not be on a machine of the cluster

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{CLIENT_PREFIX if self.is_client else ''}{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can mean it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(text: str) -> Address | None:
    """What is written, None for `auto`; ConfigError for anything else."""
    if text == AUTO:
        return None
    written = WRITTEN.fullmatch(text)
    port = 0 if written is None else int(written[3])
    if written is None or not 0 < port <= LARGEST_PORT:
        raise ConfigError(
            f"workers.address={text} must be auto, host:port or ray://host:port, with a port up to "
            f"{LARGEST_PORT}; name one, or leave it out for a private cluster on this machine"
        )
    return Address(written[2].strip("[]"), port, written[1] is not None)
