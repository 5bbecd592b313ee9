"""What a vocoder round takes in each arithmetic, and how far each is from float32.

    python -m benchmarks.vocoder [MODEL] [--real-shape] [--rounds 1x16,8x48,4x144]

A round decodes so many windows of so many frames (40 ms each), the context of streams counted: of a chunk of
50 frames a stream decodes up to 70. Times are from begin to samples on the host.
"""

import statistics
import time
from typing import Any

import numpy as np

from benchmarks import subject
from stentor.bench.machine import load_average
from stentor.config import Config, override
from stentor.models import registry

COLUMNS = {
    "arithmetic": "dtype",
    "windows": "windows",
    "frames": "frames",
    "round p50 ms": "round_ms",
    "audio s/s": "audio_s_per_s",
    "error": "error",
    "load": "load",
}
TIMES = 8


def measure(model: str, load_format: str, dtype: str, rounds: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """One row a round, with its samples."""
    settings = {"model": {"model": model, "load_format": load_format}, "vocoder": {"dtype": dtype}}
    config, folder = override(Config(), settings), registry.resolve(model)
    described = registry.model_for(folder)
    (spec,) = (spec for spec in described.stages(folder, config) if spec.name == "vocode")
    stage: Any = spec.build(**spec.options)
    vocoder, rng, rows = stage._vocoder, np.random.default_rng(0), []
    for windows, frames in rounds:
        shape = (frames, vocoder.num_codebooks)
        codes = [rng.integers(0, vocoder.codebook_size, shape).astype(np.uint16) for _ in range(windows)]
        samples, times_s = np.concatenate(vocoder.decode(codes)), []
        for _ in range(TIMES):
            began_s = time.perf_counter()
            vocoder.decode(codes)
            times_s.append(time.perf_counter() - began_s)
        round_s = statistics.median(times_s)
        row = {"dtype": dtype, "windows": windows, "frames": frames, "round_ms": round_s * 1e3}
        row |= {"audio_s_per_s": windows * frames / subject.FRAMES_PER_S / round_s, "load": load_average()}
        rows.append(row | {"samples": samples})
    return rows


def main() -> None:
    """Parse, measure, publish."""
    parser = subject.make_parser(__doc__)
    parser.add_argument("--rounds", default="1x16,8x48,16x30,4x144", help="windows x frames, with commas")
    parser.add_argument("--dtypes", default="float32,tfloat32,bfloat16,float16")
    arguments = parser.parse_args()
    rounds = [tuple(map(int, sizes.split("x"))) for sizes in arguments.rounds.split(",")]
    rows: list[dict[str, Any]] = []
    with subject.opened(arguments) as (model, load_format):
        name = registry.resolve(model).name
        exact: list[np.ndarray] = []
        for dtype in arguments.dtypes.split(","):
            measured = measure(model, load_format, dtype, rounds)
            samples = [row.pop("samples") for row in measured]
            exact = exact or samples
            for row, found, true in zip(measured, samples, exact, strict=True):
                row["error"] = float(np.linalg.norm(found - true) / np.linalg.norm(true))
            rows += subject.told(measured)
    subject.publish("vocoder", name, rows, COLUMNS, {"times": TIMES}, arguments.save)


if __name__ == "__main__":
    main()
