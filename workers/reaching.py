"""Whether a Ray cluster can be joined, found out before this process joins it.

A child process tries, because Ray's own clients wait for minutes where nobody answers or a token is
wrong, and cannot be interrupted: a child can be ended. Ray's messages are told in this project's
words; where one is not known, its last line is.
"""

import os
import re
import signal
import socket
import subprocess
import sys

import ray
from ray._private import ray_constants, services
from ray._private.authentication import authentication_token_setup

from kernels.errors import ConfigError
from workers.address import AUTO, Address, parse_address

# Together with the imports below the 30 s within which a wrong address is told.
LISTENS_DEADLINE_S = 4.0
ANSWERS_DEADLINE_S = 21
FIND_NODE_DEADLINE_S = 8  # Ray's own is 60
ADDRESS_VARIABLE = "RAY_ADDRESS"
# The kernel's alarm ends it whatever Ray is waiting for; a slow disk's imports do not count.
CHILD = f"""
import logging, signal, sys, ray
signal.alarm({ANSWERS_DEADLINE_S})
logger = logging.getLogger("ray.util.client.worker")
logger.setLevel(logging.DEBUG)  # it says why, the error does not
logger.addHandler(logging.StreamHandler())
ray.init(address=sys.argv[1], log_to_driver=False, configure_logging=False)
"""
MISMATCH = re.compile(r"Version mismatch: .*?(?=\n\s*\n|\Z)", re.DOTALL)
NO_TOKEN = ("InvalidAuthToken", "AuthenticationError", "uthentication token", "UNAUTHENTICATED")
NOT_A_NODE = "No node info found"


def find_cluster() -> Address:
    """The cluster that `auto` means: RAY_ADDRESS, or the last `ray start` on this machine. Ray
    itself would also take any other Ray process here, such as another run's private cluster.
    """
    found = os.environ.get(ADDRESS_VARIABLE)
    if not found:
        found = services.find_bootstrap_address(None)
        # As Ray's `auto` does: a cluster of this machine may have this user's token.
        authentication_token_setup.maybe_enable_token_auth_if_token_available(
            warn_if_disabled=False
        )
    if found is None or found == AUTO:
        raise ConfigError(
            f"workers.address={AUTO}: no cluster found, as {ADDRESS_VARIABLE} is not set and "
            "`ray start` has left no address on this machine; name it as host:port, start one with "
            "`ray start --head`, or leave the setting out"
        )
    target = parse_address(found)
    assert target is not None
    return target


def check_listens(named: str, target: Address) -> None:
    """Raise ConfigError unless something listens at `target`, which the user calls `named`."""
    try:
        with socket.create_connection((target.host, target.port), timeout=LISTENS_DEADLINE_S):
            return
    except OSError as error:
        raise ConfigError(
            f"workers.address={named} does not answer ({error}); check the host and the port, "
            "which is 6379 of a cluster's head and 10001 of its client server (ray://), or start "
            "one with `ray start --head`"
        ) from error


def check_answers(named: str, target: Address) -> None:
    """Raise ConfigError, saying what is wrong, unless a child process can connect."""
    environment = {
        **os.environ,
        "RAY_gcs_server_request_timeout_seconds": str(FIND_NODE_DEADLINE_S),
    }
    if target.is_loopback:  # what `workers.cluster.loopback_stays` does here
        environment[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    said = ""
    with subprocess.Popen(
        [sys.executable, "-P", "-c", CHILD, str(target)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as child:
        assert child.stderr is not None
        for line in child.stderr:
            said += line
            if any(sign in line for sign in NO_TOKEN):
                child.kill()  # it would ask again and again
    if child.returncode == 0:
        return
    problem = known_problem(said, target)
    if problem is None and child.returncode == -signal.SIGALRM:
        what = "client server" if target.is_client else "head"
        problem = (
            f"listens, but did not answer as a Ray {what} within {ANSWERS_DEADLINE_S} s; check "
            f"that Ray {ray.__version__} listens there, and that no other service does"
        )
    elif problem is None:
        last = (said.strip().splitlines() or ["no message"])[-1]
        problem = f"could not be joined ({last}); look at the head's logs"
    raise ConfigError(f"workers.address={named} {problem}")


def known_problem(said: str, target: Address) -> str | None:
    """What is wrong, if the child's output says one of the usual things."""
    mismatch = MISMATCH.search(said)
    if mismatch is not None:
        return (
            f"cannot be joined: {' '.join(mismatch[0].split())}; use one environment on all "
            "machines, with the versions of constraints.txt"
        )
    if any(sign in said for sign in NO_TOKEN):
        mode = os.environ.get("RAY_AUTH_MODE", "not set")
        return (
            f"wants a token, and this driver's is missing or another (RAY_AUTH_MODE is {mode}); "
            "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN to the token that "
            "the head was started with"
        )
    if NOT_A_NODE in said:
        return (
            "is a Ray head, but no node of its cluster runs on this machine; run `ray start "
            f"--address={target}` here first, or go through its client server, ray://HOST:10001"
        )
    return None
