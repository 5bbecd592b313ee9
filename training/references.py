"""Makes the bank of reference prompts: utterances of every speaker as the neural encoder hears them."""

from pathlib import Path

import numpy as np
import torch

from training.batches import LONGEST_REFERENCE, SHORTEST_REFERENCE
from training.codec import Encoder
from training.data import CONTINUUM, read_shard
from training.files import whole
from training.quantizer import Quantizer


def load_encoder(work_dir: Path) -> Encoder:
    """The trained encoder in evaluation mode."""
    return Encoder.of(torch.load(work_dir / "encoder.pt")["model"]).eval()


@torch.inference_mode()
def encode_waveform(encoder: Encoder, quantizer: Quantizer, waveform: torch.Tensor) -> torch.Tensor:
    """Codes [T, 8] of a waveform [960 T] by the neural path: encoder, then the codebooks."""
    with torch.autocast("cpu", torch.bfloat16):
        latents = encoder(waveform[None])[0]
    return quantizer.encode(latents.float())


def build_references(work_dir: Path, named: int = 70, others: int = 24) -> None:
    """Encodes some untagged utterances of every speaker's first shard into `references/`."""
    quantizer, encoder = Quantizer.load(work_dir / "quantizer.pt"), load_encoder(work_dir)
    (work_dir / "references").mkdir(exist_ok=True)
    for path in sorted((work_dir / "shards").glob("*_0000.npz")):
        shard, voice = read_shard(path), path.stem.split("_")[0]
        out = work_dir / "references" / path.name
        if voice.endswith("tags") or out.exists():
            continue
        texts, codes = [], []
        for index, text in enumerate(shard.texts):
            fits = SHORTEST_REFERENCE <= shard.offsets[index + 1] - shard.offsets[index] <= LONGEST_REFERENCE
            if fits and "<|" not in text and len(texts) < (others if voice in CONTINUUM else named):
                texts.append(text)
                codes.append(
                    encode_waveform(encoder, quantizer, shard.waveform(index)).numpy().astype(np.int16)
                )
        offsets = np.cumsum([0, *map(len, codes)])
        with whole(out) as file:
            np.savez(file, texts=np.array(texts), offsets=offsets, codes=np.concatenate(codes))
        print(f"references {path.stem}: {len(texts)}", flush=True)
