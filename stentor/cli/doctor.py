"""`stentor doctor`: what hardware, software and checkpoint there are, what is wrong and how to mend it."""

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import typer

from stentor.bench import machine
from stentor.cli.options import ModelArgument, with_model, with_settings
from stentor.config import Config
from stentor.errors import StentorError

Verdict = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the report; `remedy` says how to mend a note or a problem."""

    verdict: Verdict
    subject: str
    detail: str
    remedy: str = ""


@with_settings("model", "engine", "pipeline", "reference")
def doctor(config: Config, model: ModelArgument = None) -> None:
    """Look at this machine and a checkpoint; exit status 1 if something keeps them from speaking."""
    config = with_model(config, model)
    problems = 0
    for title, examine in SECTIONS.items():
        print(title)
        for finding in _examined(examine, config):
            print(f"  {finding.verdict:8}{finding.subject:14}{finding.detail}")
            if finding.remedy:
                print(f"{'':24}-> {finding.remedy}")
            problems += finding.verdict == "problem"
    print("nothing is in the way" if problems == 0 else f"problems: {problems}")
    if problems:
        raise typer.Exit(1)


def _examined(examine: Callable[[Config], Iterator[Finding]], config: Config) -> Iterator[Finding]:
    """The findings; an error of ours that an examination raises is one of them."""
    try:
        yield from examine(config)
    except StentorError as error:
        yield Finding("problem", type(error).__name__.removesuffix("Error").lower(), error.message)


def examine_machine(config: Config) -> Iterator[Finding]:
    """Processor, memory, load, cards."""
    found = machine.this_machine()
    extras = ", ".join(found.instructions) or "no known vector instructions"
    yield Finding("ok", "system", f"{found.system}, Python {found.python}")
    yield Finding("ok", "processor", f"{found.processor}, {found.cores} usable cores, {extras}")
    free = f"{found.free_memory_bytes / 2**30:.1f} GiB free"
    yield Finding("ok", "memory", f"{found.memory_bytes / 2**30:.1f} GiB, {free}")
    load = machine.load_average()
    if load is not None and load > found.cores:
        busy = f"{load} processes want {found.cores} cores"
        yield Finding("note", "load", busy, "wait until the machine is idle before you measure anything")
    elif load is not None:
        yield Finding("ok", "load", str(load))
    for gpu in found.gpus or ("none",):
        yield Finding("ok", "GPU", gpu)
    if config.pipeline.threads_per_worker > found.cores:
        threads = f"{config.pipeline.threads_per_worker} threads per worker on {found.cores} cores"
        yield Finding(
            "note", "threads", threads, "lower --threads-per-worker: they would wait for each other"
        )


def examine_software(config: Config) -> Iterator[Finding]:
    """Versions, audio formats, and what would run on each device."""
    for name, version in machine.versions().items():
        yield Finding("ok", name, version)
    if importlib.util.find_spec("torch") is None:
        yield Finding("problem", "torch", "not installed", "`make install` in a clone of stentor")
        return
    from stentor.audio import formats
    from stentor.tts import by_device

    yield Finding("ok", "formats", ", ".join(formats.FORMATS))
    for each in by_device(config):
        yield from _examine_device(each)


def _examine_device(config: Config) -> Iterator[Finding]:
    """The device, its arithmetic, attention backends and kernels."""
    from stentor.layers import attention
    from stentor.layers.device import resolve_device, resolve_dtype
    from stentor.layers.kernels import fuses
    from stentor.pipeline.remote.messages import SCHEME

    if config.model.device.startswith(SCHEME):
        yield Finding("note", "device", f"{config.model.device} is not asked", "`stentor doctor` there")
        return
    device = resolve_device(config.model.device)
    if device.type == "cpu" and machine.this_machine().gpus and config.model.device == "auto":
        remedy = "install the CUDA build that fits the driver: https://pytorch.org/get-started"
        yield Finding("problem", "device", "there is a GPU, but this build of torch cannot use it", remedy)
    else:
        dtype = resolve_dtype(config.model.dtype, device, config.engine.quantization)
        yield Finding("ok", "device", f"{device}, {str(dtype).removeprefix('torch.')}")
    chosen, reason = attention.choose_name(config.engine.attention_backend, device)
    for name in attention.BACKENDS:
        obstacle = attention.why_not(name, device)
        told = f"{name}: chosen ({reason})" if name == chosen else f"{name}: {obstacle or 'available'}"
        yield Finding("ok", "attention", told)
    yield Finding("ok", "kernels", "Triton's" if fuses(config.engine.kernels, device) else "PyTorch's own")


def examine_checkpoint(config: Config) -> Iterator[Finding]:
    """Where it is, what it is, whether every tensor is there in its shape."""
    from stentor.models import registry

    folder = registry.resolve(config.model.model)
    size_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    yield Finding("ok", "folder", f"{folder} ({size_bytes / 2**20:.0f} MiB)")
    model = registry.model_for(folder)
    info = model.describe(folder)
    frame_ms = 1000 * info.samples_per_frame / info.sample_rate_hz
    yield Finding("ok", "model", info.name)
    yield Finding(
        "ok", "audio", f"{info.sample_rate_hz} Hz, {info.num_codebooks} codebooks, {frame_ms:g} ms a frame"
    )
    yield Finding("ok", "tags", f"{len(info.control_tags)} control tags")
    yield Finding("ok", "weights", model.check(folder))
    heard = registry.recogniser_for(config) and config.reference.asr
    yield Finding("ok", "transcripts", heard or "given, or none: --asr names what would hear them")
    free_bytes = machine.this_machine().free_memory_bytes
    if size_bytes > free_bytes:
        room = f"{size_bytes / 2**30:.1f} GiB of weights, {free_bytes / 2**30:.1f} GiB free"
        yield Finding("problem", "room", room, "free memory, or choose a smaller checkpoint")


SECTIONS = {"machine": examine_machine, "software": examine_software, "checkpoint": examine_checkpoint}
