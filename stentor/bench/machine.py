"""What a measurement ran on: processor, memory, cards, load, versions, commit; imports no framework."""

import contextlib
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from stentor.engine.host_memory import host_free_bytes, host_total_bytes

# The instruction sets that decide how fast small models run on a CPU.
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16")
_PACKAGES = ("torch", "transformers", "numpy", "uvicorn", "fastapi")


@dataclass(frozen=True)
class Machine:
    """This machine as a process may use it; sizes in bytes."""

    system: str
    python: str
    processor: str
    cores: int
    instructions: tuple[str, ...]
    memory_bytes: int
    free_memory_bytes: int
    gpus: tuple[str, ...]


def this_machine() -> Machine:
    """Look at it now."""
    facts = _read_fields("/proc/cpuinfo")
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        processor=facts.get("model name") or platform.processor() or "unknown",
        cores=usable_cores(),
        instructions=tuple(name for name in _INSTRUCTIONS if name in flags),
        memory_bytes=host_total_bytes(),
        free_memory_bytes=host_free_bytes(),
        gpus=_gpus(),
    )


def usable_cores() -> int:
    """Cores that this process may use: its affinity, cut by the container's quota, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        allowed = min(allowed, max(1, int(quota) // int(period)))
    return allowed


def load_average() -> float | None:
    """Processes that wanted to run over the last minute; None where the system does not say."""
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def versions() -> dict[str, str]:
    """The installed versions that a figure depends on."""
    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def commit() -> str:
    """The source tree's short commit, `-dirty` if it was changed since; 'unknown' outside a repository."""
    folder = Path(__file__).parents[2]
    short = _output("git", "-C", str(folder), "rev-parse", "--short=10", "HEAD")
    if not short or not (folder / ".git").exists():
        return "unknown"
    changed = _output("git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no")
    return f"{short}-dirty" if changed else short


def _gpus() -> tuple[str, ...]:
    if shutil.which("nvidia-smi") is None:
        return ()
    listing = _output("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    return tuple(line.strip() for line in listing.splitlines() if line.strip())


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _read_fields(path: str) -> dict[str, str]:
    """The first value of each `name : value` line."""
    fields: dict[str, str] = {}
    for line in _read(path).splitlines():
        name, separator, value = line.partition(":")
        if separator:
            fields.setdefault(name.strip(), value.strip())
    return fields
