"""How much memory the machine, or a container's limit, has and leaves to a process; imports no framework."""

import os
from pathlib import Path

# Where the second version of control groups shows a container its own.
_CGROUP = Path("/sys/fs/cgroup")


def host_total_bytes() -> int:
    """What the machine has, in a container no more than its limit."""
    total = _of_the_machine("MemTotal")
    try:
        return min(total, _of_the_container("max"))
    except (OSError, ValueError):  # There is none, or it is 'max'.
        return total


def host_free_bytes() -> int:
    """What a process could still get, in a container no more than its limit leaves."""
    # Counts what the system would give up of its file cache, which free pages do not.
    available = _of_the_machine("MemAvailable")
    try:
        left = _of_the_container("max") - _of_the_container("current")
        parts = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return available
    return min(available, left + int(parts["active_file"]) + int(parts["inactive_file"]))


def _of_the_machine(name: str) -> int:
    try:
        with open("/proc/meminfo") as lines:  # In KiB.
            return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024
    except OSError:
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return pages if name == "MemTotal" else pages // 2


def _of_the_container(name: str) -> int:
    return int((_CGROUP / f"memory.{name}").read_text())
