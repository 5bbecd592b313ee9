"""What is measured: a checkpoint, or random weights of the 4B model's shape, as fast as real ones."""

import argparse
import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from stentor.bench import report
from stentor.bench.texts import SENTENCES
from stentor.models import registry

# The published geometry of Higgs Audio v3 TTS 4B; the codec's is the default of its reader.
_REAL_TEXT = {
    "model_type": "qwen3",
    "vocab_size": 151_936,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000,
    "tie_word_embeddings": True,
}
FRAMES_PER_S = 25
# Rows that the delay pattern adds to the frames.
_DELAY_ROWS = 7
# Sentences that take about so many seconds with the built-in voice; random weights are stopped by their rows.
_SENTENCES_OF = {4: 1, 10: 3}


def make_parser(about: str | None) -> argparse.ArgumentParser:
    """A command line with the options that all of these benchmarks share."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "model", nargs="?", default="", help="folder or hub id; by default the built-in voice"
    )
    parser.add_argument("--real-shape", action="store_true", help="random weights of the 4B model's shape")
    parser.add_argument("--save", type=Path, help="file or folder for the JSON")
    return parser


@contextlib.contextmanager
def opened(arguments: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """The model's folder or name, and its load format."""
    if not arguments.real_shape:
        yield arguments.model, "auto"
        return
    with tempfile.TemporaryDirectory() as folder:
        yield str(write_real_shape(Path(folder) / "random-4b")), "dummy"


def write_real_shape(folder: Path) -> Path:
    """A checkpoint's folder without weights: the real shape, and a token for each word of `SENTENCES`."""
    builtin = registry.resolve("")
    folder.mkdir()
    for name in ("tokenizer_config.json", "generation_config.json"):
        shutil.copy(builtin / name, folder / name)
    tokenizer = json.loads((builtin / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(_with_words(tokenizer)))
    config = json.loads((builtin / "config.json").read_text())
    config["text_config"] = _REAL_TEXT
    config["audio_encoder_config"]["out_dim"] = _REAL_TEXT["hidden_size"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _with_words(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """The built-in voice's tokenizer, which knows bytes only, with common words as one token each.

    That is what the real one makes of them: prompts are as long as they would be.
    """
    alphabet = ByteLevel(add_prefix_space=False)
    learned = Tokenizer.from_str(json.dumps(tokenizer | {"added_tokens": []}))
    learned.pre_tokenizer = alphabet
    trainer = BpeTrainer(initial_alphabet=ByteLevel.alphabet(), show_progress=False)
    learned.train_from_iterator(SENTENCES, trainer)
    described = json.loads(learned.to_str())
    shift = len(described["model"]["vocab"]) - len(tokenizer["model"]["vocab"])
    added = [entry | {"id": entry["id"] + shift} for entry in tokenizer["added_tokens"]]
    return {**described, "added_tokens": added}


def utterances(count: int, seconds: int) -> list[str]:
    """`count` texts of about so many seconds."""
    size = _SENTENCES_OF[seconds]
    return [" ".join(SENTENCES[(i + j) % len(SENTENCES)] for j in range(size)) for i in range(count)]


def rows_of(seconds: int) -> int:
    """Rows after which an utterance of so many seconds is cut."""
    return seconds * FRAMES_PER_S + _DELAY_ROWS


def told(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows, each printed as soon as it is measured: what is stopped then has not measured for nothing."""
    for row in rows:
        print(json.dumps(row), flush=True)
        yield row


def publish(
    benchmark: str,
    model: str,
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, str],
    settings: Mapping[str, Any],
    save: Path | None,
) -> None:
    """A table, the file if one is wanted, and the whole as one line of JSON.

    Raises:
        SystemExit: requests failed; the figures are of the others.
    """
    document = report.document(benchmark, model, [], settings)
    document["rows"], document["columns"] = list(rows), dict(columns)
    report.publish(document, save)
    if failed := sum(row.get("errors") or 0 for row in rows):
        raise SystemExit(f"{failed} requests failed: the figures are of the others")
