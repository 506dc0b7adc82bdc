"""Processes that a benchmark starts, told by a mark in their environment, whoever their parent."""

import os

import psutil

MARK = "ES_ALIGN_CHAOS"


def mark() -> None:
    """Mark this process, and with it all that it starts from here on."""
    os.environ[MARK] = str(os.getpid())


def started_here() -> list[psutil.Process]:
    """All processes, alive or stopped, that carry this run's mark, but this one."""
    found = []
    for process in psutil.process_iter():
        try:
            is_alive = process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
            if is_alive and process.environ().get(MARK) == os.environ[MARK]:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def processes_with(words: str) -> list[psutil.Process]:
    """Those of them whose command line holds these words."""
    return [process for process in started_here() if words in title(process)]


def is_stopped(process: psutil.Process) -> bool:
    """Whether it stands still; a process that is gone does."""
    try:
        return process.status() == psutil.STATUS_STOPPED
    except psutil.NoSuchProcess:
        return True


def title(process: psutil.Process) -> str:
    """Its command line; nothing if it is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""
