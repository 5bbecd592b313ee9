"""How much memory the machine, or a container's limit, leaves to a process; imports no framework."""

import os
from pathlib import Path

# Where the second version of control groups shows a container its own.
_CGROUP = Path("/sys/fs/cgroup")


def host_free_bytes() -> int:
    """What a process could still get, in a container no more than its limit leaves."""
    try:
        with open("/proc/meminfo") as lines:
            # In KiB; counts what the system would give up of its file cache, which free pages do not.
            available = (
                next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024
            )
    except OSError:
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    try:
        limit, used = (int((_CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        parts = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # There is none, or it is 'max'.
        return available
    return min(available, limit - used + int(parts["active_file"]) + int(parts["inactive_file"]))
