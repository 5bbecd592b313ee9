"""Knows the crowd: many more speakers than the language model learns, for the encoder to hear.

`write_casting` decides who says what; `perform` speaks it, one file for each role. So texts can be chosen
where the text sources are and be spoken where the GPU is.
"""

import json
import math
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from training.data import (
    CONTINUUM,
    LANGUAGES,
    LONGEST_FRAMES,
    NAMED,
    SHORTEST_FRAMES,
    SPEAKERS,
    Studio,
    to_codec_rate,
    whispered_hops,
)
from training.espeak import LanguageSource, write_variants
from training.features import FRAME
from training.files import whole
from training.scripts import Part, Script, ScriptSource
from training.speakers import DEFAULT, STRANGERS, Speaker, continuum
from training.synthesis import Delivery
from training.texts import TextSource, read_bigrams

# Sentences that the default voice says, and of which every other speaker says some: offsets are differences
# on the same sentences.
COMMON, COMMON_EACH = 240, 14
FLITE_CROWD, ESPEAK_CROWD = 900, 200
# These of the crowd, and the strangers, are only for scores.
HELD_FLITE, HELD_ESPEAK = 12, 6
_FORMANTS = 9
_WORKER = (
    "import sys, torch; from pathlib import Path; from training.crowd import perform\n"
    "torch.set_num_threads(1)\n"
    "perform(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))\n"
)
# Mean scale of formants 1 to 5 and middle of the range of pitch in Hz of the strangers' variants.
_STRANGE_VARIANTS = ((1.12, 194.0), (0.988, 92.0))


@dataclass(frozen=True)
class Role:
    """A speaker, of what kind it is, and what it says; `common` numbers the scripts that are common ones."""

    name: str
    kind: str
    speaker: Speaker
    scripts: tuple[Script, ...]
    common: tuple[int, ...]


def drawn_variant(rng: np.random.Generator) -> str:
    """A variant of espeak-ng's voices (the text of its file) that is like none of the strangers'."""
    while True:
        scale, middle_hz = rng.uniform(0.86, 1.24), math.exp(rng.uniform(math.log(70), math.log(260)))
        scales = scale * (1 + rng.normal(0, 0.04, _FORMANTS))
        mean = float(scales[1:6].mean())
        if not any(
            abs(mean - m) < 0.025 and abs(12 * math.log2(middle_hz / hz)) < 1.5 for m, hz in _STRANGE_VARIANTS
        ):
            break
    spread = rng.uniform(0.08, 0.3)
    rising = rng.uniform(-6, 4) * np.arange(_FORMANTS)
    heights = (rng.uniform(85, 120) + rising + rng.normal(0, 12, _FORMANTS)).clip(20, 160)
    widths = (rng.uniform(80, 160) + rng.normal(0, 15, _FORMANTS)).clip(60, 220)
    lines = ["language variant", f"pitch {middle_hz * (1 - spread):.0f} {middle_hz * (1 + spread):.0f}"]
    lines += [f"flutter {rng.integers(0, 6)}", f"roughness {rng.integers(0, 5)}"]
    columns = zip(100 * scales, heights, widths, strict=True)
    lines += [f"formant {number} {a:.0f} {b:.0f} {c:.0f}" for number, (a, b, c) in enumerate(columns)]
    lines += [f"consonants {rng.uniform(70, 150):.0f} {rng.uniform(70, 150):.0f}"]
    if rng.random() < 0.4:
        lines += [f"voicing {rng.uniform(50, 130):.0f}"]
    if rng.random() < 0.3:
        lines += ["breath 0 " + " ".join(f"{rng.uniform(0, 6):.0f}" for _ in range(7))]
    if rng.random() < 0.2:
        lines += ["echo 140 10"]
    return "\n".join(lines) + "\n"


def espeak_crowd(count: int, seed: int = 79) -> tuple[list[Speaker], dict[str, str]]:
    """Speakers with a variant each, and the variants' texts by name."""
    rng = np.random.default_rng(seed)
    variants = {f"x{number:03d}": drawn_variant(rng) for number in range(count)}
    speakers = [
        Speaker(name, f"espeak:en-us+{name}", 0, 0, 0.0, rng.uniform(0.85, 1.15), rng.uniform(-2.2, 2.2))
        for name in variants
    ]
    return speakers, variants


def _cast(work_dir: Path) -> Iterable[Role]:
    """Every role: the default voice's common sentences first, then what scores are made of, then the rest."""
    texts = TextSource(read_bigrams(work_dir / "en-us.arpa"), 80)
    common: list[Script] = []
    while len(common) < COMMON:
        text = texts.next()
        if 4 <= len(text.split()) <= 14:
            common.append(Script(text, (Part(text),)))
    rng = np.random.default_rng(81)
    some = ScriptSource(texts, 82, 0.3, 0.12, 0.1)
    varied = ScriptSource(texts, 83, 0.75, 0.25, 0.35)
    plain = ScriptSource(texts, 85, 0, 0)

    def role(speaker: Speaker, kind: str, sentences: int, source: ScriptSource, others: int) -> Role:
        chosen = rng.choice(COMMON, sentences, replace=False).tolist()
        scripts = [common[index] for index in chosen] + [source.next() for _ in range(others)]
        return Role(speaker.name, kind, speaker, tuple(scripts), tuple(chosen))

    default = SPEAKERS[DEFAULT]
    for start in range(0, COMMON, 20):
        chosen = tuple(range(start, start + 20))
        yield Role(f"{DEFAULT}-{start}", "default", default, tuple(common[index] for index in chosen), chosen)
    flite = list(continuum(FLITE_CROWD, 78, "c", 0.3).values())
    espeak, _ = espeak_crowd(ESPEAK_CROWD)
    held = [*STRANGERS.values(), *flite[:HELD_FLITE], *espeak[:HELD_ESPEAK]]
    yield from (role(speaker, "held", COMMON_EACH, some, 0) for speaker in held)
    rest = [role(default, "default", 0, some, 20) for _ in range(10)]
    rest += [role(default, "default", 0, varied, 20) for _ in range(5)]
    for name, speaker in (NAMED | CONTINUUM).items():
        if name != DEFAULT:
            flites = not speaker.base.startswith("espeak:")
            kind = "named" if name in NAMED else "continuum"
            rest.append(role(speaker, kind, 8, some, 2 * flites))
            if name in NAMED:
                # Twenty of flite's and eight of espeak-ng's left two of them hard to understand.
                rest += [role(speaker, kind, 0, some if flites else plain, 20) for _ in range(4)]
    rest += [role(speaker, "crowd", COMMON_EACH - 2, varied, 2) for speaker in flite[HELD_FLITE:]]
    rest += [role(speaker, "espeak", COMMON_EACH, some, 0) for speaker in espeak[HELD_ESPEAK:]]
    for code, speaker in LANGUAGES.items():
        source = ScriptSource(LanguageSource(code, 84), 84, 0, 0)
        rest += [role(speaker, "language", 0, source, 20) for _ in range(3)]
    for number, index in enumerate(rng.permutation(len(rest)).tolist()):
        yield replace(rest[index], name=f"{rest[index].name}-{number}")


def write_casting(work_dir: Path) -> None:
    """Writes `crowd.json`: all roles, and the variants that they need."""
    roles = [asdict(role) for role in _cast(work_dir)]
    content = {"roles": roles, "variants": espeak_crowd(ESPEAK_CROWD)[1]}
    with whole(work_dir / "crowd.json") as file:
        file.write(json.dumps(content, separators=(",", ":")).encode())


def read_casting(work_dir: Path) -> tuple[list[Role], dict[str, str]]:
    """Roles and variants of `crowd.json`."""
    content = json.loads((work_dir / "crowd.json").read_text())
    roles = [
        Role(
            row["name"], row["kind"], Speaker(**row["speaker"]),
            tuple(_script(script) for script in row["scripts"]), tuple(row["common"]),
        )
        for row in content["roles"]
    ]  # fmt: skip
    return roles, content["variants"]


def _script(row: dict[str, object]) -> Script:
    parts = [Part(p["text"], Delivery(**p["delivery"]), p["pause_s"]) for p in row["parts"]]
    return Script(row["text"], tuple(parts))


def prepare_stage(work_dir: Path) -> None:
    """The folder of performances, and espeak-ng's data with the crowd's variants."""
    (work_dir / "crowd").mkdir(exist_ok=True)
    if not (work_dir / "espeak-ng-data").exists():
        half = work_dir / "espeak-ng-data.half"
        write_variants(half, read_casting(work_dir)[1])
        half.rename(work_dir / "espeak-ng-data")


def start_performing(work_dir: Path, workers: int, seconds: float) -> list[subprocess.Popen[bytes]]:
    """Processes that `perform`."""
    prepare_stage(work_dir)
    numbers = [str(workers), str(seconds)]
    return [
        subprocess.Popen([sys.executable, "-c", _WORKER, str(work_dir), str(part), *numbers])
        for part in range(workers)
    ]


def perform(work_dir: Path, part: int, parts: int, seconds: float) -> None:
    """Speaks the roles that are not there yet into `crowd/`, until the time is up.

    `part` of `parts` processes share the work. A file has `samples` (int16 at 24 kHz, whole frames);
    `offsets`, such that offsets[i]:offsets[i+1] are the frames of utterance i; `whispered`, for each hop of
    10 ms; and `common`, for each utterance the number of a common sentence or -1.
    """
    until, studio = time.monotonic() + seconds, Studio(work_dir / "espeak-ng-data")
    for number, role in enumerate(read_casting(work_dir)[0]):
        path = work_dir / "crowd" / f"{role.name}.npz"
        if number % parts != part or path.exists():
            continue
        if time.monotonic() > until:
            return
        columns = []
        for index, script in enumerate(role.scripts):
            utterance, whispered = studio.perform(script, role.speaker)
            samples = (to_codec_rate(utterance.samples).numpy() * 32767).clip(-32768, 32767).astype(np.int16)
            frames = len(samples) // FRAME
            if SHORTEST_FRAMES <= frames <= LONGEST_FRAMES:
                common = role.common[index] if index < len(role.common) else -1
                columns.append((frames, samples, whispered_hops(whispered, frames), common))
        if not columns:
            continue
        lengths, pieces, masks, common_of = zip(*columns, strict=True)
        with whole(path) as file:
            np.savez(
                file, samples=np.concatenate(pieces), offsets=np.cumsum([0, *lengths]),
                whispered=np.concatenate(masks), common=np.array(common_of),
            )  # fmt: skip
