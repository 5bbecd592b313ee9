"""Command line of the recipe: `python -m training` runs what is not done yet; each step can run alone."""

import argparse
import filecmp
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from training.train_codec import CodecSchedule

Step = Callable[[Path], None]
DECODER_STEPS, ENCODER_STEPS = 2200, 2200
LANGUAGE_MODEL_STEPS, REFERENCES_FROM = 6000, 2000
# Going on from a checkpoint's weights takes less.
WARM_DECODER_STEPS, WARM_ENCODER_STEPS, WARM_LANGUAGE_MODEL_STEPS = 2200, 4200, 8900
CHECKPOINT = Path(__file__).parent.parent / "stentor" / "checkpoints" / "stentor_tiny"


def make_data(work_dir: Path) -> None:
    """Speaks the training texts, in as many processes as there are cores."""
    from training.data import generate
    from training.texts import read_bigrams

    read_bigrams(work_dir / "en-us.arpa")
    parts = os.cpu_count() or 1
    code = (
        "import sys, torch; from pathlib import Path; from training.data import generate\n"
        "torch.set_num_threads(1)\n"
        "generate(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))\n"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", code, str(work_dir), str(part), str(parts)])
        for part in range(parts)
    ]
    # All are waited for, also behind one that failed: nobody else speaks then.
    if sum(worker.wait() != 0 for worker in workers):
        # One more pass in this process shows the reason of a failure and finishes what is missing.
        generate(work_dir)


def keep_start(start: Path, previous: Path) -> None:
    """Copies the checkpoint that the run goes on from into the work folder, once.

    Raises:
        SystemExit: it is not there, or the work folder's run went on from another one.
    """
    weights = start / "model.safetensors"
    if not weights.is_file():
        raise SystemExit(f"--from: there is no {weights}")
    if not previous.exists():
        half = previous.with_suffix(".half")
        half.mkdir(exist_ok=True)
        shutil.copy(weights, half)
        half.rename(previous)
    elif not filecmp.cmp(weights, previous / weights.name, shallow=False):
        raise SystemExit(f"{previous} has other weights than --from: name another --work-dir")


def recover_start(work_dir: Path) -> None:
    """With `--from`: reads that checkpoint's projection back, once; without it starts from nothing."""
    from training.warm_start import recover_projection

    if (work_dir / "previous").exists() and not (work_dir / "previous" / "quantizer.pt").exists():
        recover_projection(work_dir)


def fit_quantizer(work_dir: Path) -> None:
    """Fits projections and codebooks to 160,000 frames of all speakers, once."""
    from training.batches import speaker_offset
    from training.data import read_shard, speaker_of
    from training.files import save_state
    from training.quantizer import fit
    from training.warm_start import previous_quantizer

    if (work_dir / "quantizer.pt").exists():
        return
    paths = sorted((work_dir / "shards").glob("*_0000.npz"))
    speakers = sorted({speaker_of(path) for path in paths})
    rng, columns = np.random.default_rng(1), []
    for path in paths:
        shard, name = read_shard(path), speaker_of(path)
        share = 40_000 if name == "slt" else 1500 if name.startswith("r") and name != "rms" else 3500
        chosen = rng.permutation(len(shard.mel))[:share]
        features = (
            torch.from_numpy(part[chosen]).float() for part in (shard.mel, shard.pitch_hz, shard.phase)
        )
        columns.append((*features, torch.full((len(chosen),), speakers.index(name))))
    offsets = torch.stack([speaker_offset(work_dir, name).spectrum for name in speakers])
    joined = (torch.cat(column) for column in zip(*columns, strict=True))
    fitted = fit(*joined, offsets, previous_quantizer(work_dir))
    save_state(work_dir / "quantizer.pt", **vars(fitted))


def train_encoder(work_dir: Path) -> None:
    """Trains the encoder for so many steps."""
    from training.train_codec import train_encoder

    train_encoder(work_dir, _codec_schedule(work_dir))


def encode_references(work_dir: Path) -> None:
    """Encodes the reference bank with the trained encoder."""
    from training.references import build_references

    build_references(work_dir)


def train_decoder(work_dir: Path) -> None:
    """Trains the decoder for so many steps."""
    from training.train_codec import train_decoder

    train_decoder(work_dir, _codec_schedule(work_dir))


def _codec_schedule(work_dir: Path) -> "CodecSchedule":
    from training.train_codec import CodecSchedule

    if (work_dir / "previous").exists():
        return CodecSchedule(WARM_DECODER_STEPS, WARM_ENCODER_STEPS, peak_rate=6e-4)
    return CodecSchedule(DECODER_STEPS, ENCODER_STEPS)


def train_language_model(work_dir: Path) -> None:
    """Trains the language model: from nothing zero-shot first; going on from a checkpoint all at once."""
    from training.train_language_model import Schedule, train

    if (work_dir / "previous").exists():
        train(work_dir, Schedule(WARM_LANGUAGE_MODEL_STEPS, 0, peak_rate=1.2e-3, warm_up=80))
    else:
        train(work_dir, Schedule(LANGUAGE_MODEL_STEPS, REFERENCES_FROM))


def export_checkpoint(work_dir: Path) -> None:
    """Writes the checkpoint folder inside the package."""
    from training.export import export

    export(work_dir, CHECKPOINT)


STEPS: dict[str, Step] = {
    "data": make_data,
    "start": recover_start,
    "quantizer": fit_quantizer,
    "encoder": train_encoder,
    "references": encode_references,
    "decoder": train_decoder,
    "language-model": train_language_model,
    "export": export_checkpoint,
}


def cast_crowd(work_dir: Path) -> None:
    """Writes who says what of the crowd that the encoder hears where it is trained by the clock, once."""
    from training.crowd import write_casting

    if not (work_dir / "crowd.json").exists():
        write_casting(work_dir)


def make_crowd_shards(work_dir: Path) -> None:
    """Adds a shard of each of the crowd to what the language model learns from."""
    from training.crowd_shards import write_shards

    cast_crowd(work_dir)
    write_shards(work_dir)


def seed_timbres(work_dir: Path) -> None:
    """Makes speaker codes that nobody has repeatable, once: what is trained afterwards says them as well."""
    from training.batches import said_timbres
    from training.files import save_state
    from training.language_model import TinyLanguageModel, seed_unsaid_timbres
    from training.quantizer import Quantizer

    path, model = work_dir / "language_model.pt", TinyLanguageModel()
    model.load_state_dict(torch.load(path)["model"])
    seed_unsaid_timbres(model, Quantizer.load(work_dir / "quantizer.pt"), said_timbres(work_dir))
    save_state(path, model=model.state_dict(), step=0)


# Steps that only run when they are named.
FURTHER: dict[str, Step] = {"crowd": cast_crowd, "crowd-shards": make_crowd_shards, "timbres": seed_timbres}


def timed_steps(arguments: argparse.Namespace) -> dict[str, Step]:
    """The trainings by the clock, on a device, that stand for those of so many steps."""
    device = torch.device(arguments.device)
    settings = {"seconds": arguments.seconds, "workers": arguments.workers}
    # The two have other defaults.
    settings |= {"batch": arguments.batch} if arguments.batch else {}
    settings |= {"peak_rate": arguments.rate} if arguments.rate else {}
    regularised = {} if arguments.dropout is None else {"dropout": arguments.dropout}

    def encoder(work_dir: Path) -> None:
        from training.train_encoder import Clock, train_encoder

        cast_crowd(work_dir)
        train_encoder(work_dir, device, Clock(**settings))

    def language_model(work_dir: Path) -> None:
        from training.train_by_clock import TimedRun, TimedSchedule

        TimedRun(work_dir, TimedSchedule(**settings, **regularised), device).run()

    return {"encoder": encoder, "language-model": language_model}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's arguments."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("step", nargs="?", default="all", choices=("all", *STEPS, *FURTHER))
    parser.add_argument(
        "--work-dir", type=Path, default=Path(".cache/training"), help="data, states and logs"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--from",
        dest="start",
        type=Path,
        help="folder with the first version's model.safetensors to go on from",
    )
    timed = parser.add_argument_group(
        "training by the clock",
        "of encoder and language model instead of so many steps, on a GPU or (language model) on the cores: "
        "`torchrun --standalone --nproc-per-node 2 -m training language-model --device cpu --threads 1`",
    )
    timed.add_argument("--device", help="where, such as cuda; without it the step trains on CPU cores")
    timed.add_argument("--seconds", type=float, default=230, help="for how long (default: %(default)s)")
    timed.add_argument(
        "--workers", type=int, default=4, help="processes that make data (default: %(default)s)"
    )
    timed.add_argument(
        "--batch", type=int, help="crops of an encoder's step (default: 48), or positions of a language "
        "model's (default: 16384)",
    )  # fmt: skip
    timed.add_argument("--rate", type=float, help="highest learning rate (default: 1e-3, 1.5e-3)")
    timed.add_argument("--dropout", type=float, help="of the language model (default: 0.1)")
    given = parser.parse_args(arguments)
    changed = any(
        getattr(given, name) != parser.get_default(name)
        for name in ("seconds", "workers", "batch", "rate", "dropout")
    )
    if changed and not given.device:
        parser.error("so many seconds, workers, ... are of the training by the clock: name a --device too")
    if given.device and given.step not in ("all", "encoder", "language-model"):
        parser.error(f"{given.step} has no training by the clock: leave --device out")
    return given


def main() -> None:
    """Runs the named step, or all of them in order."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    if arguments.start:
        keep_start(arguments.start, arguments.work_dir / "previous")
    steps = STEPS | FURTHER | (timed_steps(arguments) if arguments.device else {})
    for name in STEPS if arguments.step == "all" else (arguments.step,):
        print(f"== {name}", flush=True)
        steps[name](arguments.work_dir)


if __name__ == "__main__":
    main()
