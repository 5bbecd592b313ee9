"""Averages the weights of two runs of the language model, of which one went on from the other.

Both ends are good at something; the middle is better than either ("model soups", arXiv 2203.05482, and
"robust fine-tuning", arXiv 2109.01903). The speaker book's embeddings have a share of their own: small
batches let the codes that are seldom said drift, so that they are no longer repeated.
"""

import argparse
from pathlib import Path

import torch

from training.files import save_state
from training.prompts import ROW_VOCABULARY
from training.quantizer import SPEAKER_BOOK

_TABLE = "audio_embedding.weight"
_SPEAKERS = slice(SPEAKER_BOOK * ROW_VOCABULARY, (SPEAKER_BOOK + 1) * ROW_VOCABULARY)
Weights = dict[str, torch.Tensor]


def averaged(first: Weights, second: Weights, share: float, speaker_share: float) -> Weights:
    """Weights in half precision: `share` of the second and the rest of the first.

    `speaker_share` stands for it in the embeddings of the speaker book.
    """
    out = {name: torch.lerp(value.float(), second[name].float(), share) for name, value in first.items()}
    speakers = (weights[_TABLE][_SPEAKERS].float() for weights in (first, second))
    out[_TABLE][_SPEAKERS] = torch.lerp(*speakers, speaker_share)
    return {name: value.half() for name, value in out.items()}


def main() -> None:
    """Reads two states and writes their average, from which `export` and further runs can go on."""
    parser = argparse.ArgumentParser(prog="python -m training.averaging", description=__doc__)
    parser.add_argument("first", type=Path, help="language_model.pt of the earlier run")
    parser.add_argument("second", type=Path, help="language_model.pt of the later run")
    parser.add_argument("out", type=Path, help="where to write the average")
    parser.add_argument("--share", type=float, default=0.5, help="of the second (default: %(default)s)")
    parser.add_argument(
        "--speaker-share", type=float, default=0.3,
        help="of the second in the speaker book's embeddings (default: %(default)s)",
    )  # fmt: skip
    given = parser.parse_args()
    states = [torch.load(path, map_location="cpu") for path in (given.first, given.second)]
    weights = averaged(*(state["model"] for state in states), given.share, given.speaker_share)
    save_state(given.out, model=weights, step=states[1]["step"])


if __name__ == "__main__":
    main()
