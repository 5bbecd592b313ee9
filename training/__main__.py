"""Command line of the recipe: `python -m training` runs what is not done yet; each step can run alone."""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

SHARDS = {"slt": 75, "rms": 18, "awb": 18, "kal16": 18}
DECODER_STEPS, ENCODER_STEPS = 2200, 2200
LANGUAGE_MODEL_STEPS, REFERENCES_FROM = 4100, 2750
CHECKPOINT = Path(__file__).parent.parent / "stentor" / "checkpoints" / "stentor_tiny"


def make_data(work_dir: Path) -> None:
    """Speaks the training texts, in as many processes as there are cores."""
    from training.data import generate
    from training.texts import read_bigrams

    read_bigrams(work_dir / "en-us.arpa")
    parts = os.cpu_count() or 1
    code = (
        "import sys, torch; from pathlib import Path; from training.data import generate\n"
        "from training.__main__ import SHARDS\n"
        "torch.set_num_threads(1)\n"
        "generate(Path(sys.argv[1]), SHARDS, int(sys.argv[2]), int(sys.argv[3]))\n"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", code, str(work_dir), str(part), str(parts)])
        for part in range(parts)
    ]
    if any(worker.wait() for worker in workers):
        # One more pass in this process shows the reason of a failure and finishes what is missing.
        generate(work_dir, SHARDS)


def fit_quantizer(work_dir: Path) -> None:
    """Fits PCA and codebooks to 150,000 frames of all voices, once."""
    from training.data import read_shard, shard_paths
    from training.quantizer import fit, stack_features

    if (work_dir / "quantizer.pt").exists():
        return
    parts = []
    for voice in SHARDS:
        for path in shard_paths(work_dir, voice)[1 : 9 if voice == "slt" else 5]:
            shard = read_shard(path)
            parts.append((shard.mel, shard.pitch_hz, shard.phase))
    mel, pitch_hz, phase = stack_features(parts)
    chosen = torch.randperm(len(mel), generator=torch.Generator().manual_seed(1))[:150_000]
    fit(mel[chosen], pitch_hz[chosen], phase[chosen]).save(work_dir / "quantizer.pt")


def train_codec(work_dir: Path) -> None:
    """Trains decoder and encoder, polishes the decoder's edges, then encodes the reference bank."""
    from training.edges import polish_edges
    from training.references import build_references
    from training.train_codec import CodecSchedule, train_decoder, train_encoder

    schedule = CodecSchedule(DECODER_STEPS, ENCODER_STEPS)
    train_decoder(work_dir, schedule)
    polish_edges(work_dir)
    train_encoder(work_dir, schedule)
    if not (work_dir / "references").exists():
        build_references(work_dir)


def train_language_model(work_dir: Path) -> None:
    """Trains the language model: zero-shot first, then with references."""
    from training.train_language_model import Schedule, train

    train(work_dir, Schedule(LANGUAGE_MODEL_STEPS, REFERENCES_FROM))


def export_checkpoint(work_dir: Path) -> None:
    """Writes the checkpoint folder inside the package."""
    from training.export import export

    export(work_dir, CHECKPOINT)


STEPS: dict[str, Callable[[Path], None]] = {
    "data": make_data,
    "quantizer": fit_quantizer,
    "codec": train_codec,
    "language-model": train_language_model,
    "export": export_checkpoint,
}


def main() -> None:
    """Runs the named step, or all of them in order."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("step", nargs="?", default="all", choices=("all", *STEPS))
    parser.add_argument(
        "--work-dir", type=Path, default=Path(".cache/training"), help="data, states and logs"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    for name, step in STEPS.items():
        if arguments.step in ("all", name):
            print(f"== {name}", flush=True)
            step(arguments.work_dir)


if __name__ == "__main__":
    main()
