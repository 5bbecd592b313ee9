"""Makes the bank of reference prompts: utterances of every voice as the neural encoder hears them."""

from pathlib import Path

import numpy as np
import torch

from training.codec import Encoder
from training.data import read_shard, shard_paths, to_codec_rate
from training.quantizer import Quantizer
from training.synthesis import VOICES

SHORTEST_FRAMES, LONGEST_FRAMES = 38, 110
_SOURCE_FRAME = 640


def load_encoder(work_dir: Path) -> Encoder:
    """The trained encoder in evaluation mode."""
    encoder = Encoder()
    encoder.load_state_dict(torch.load(work_dir / "encoder.pt")["model"])
    return encoder.eval()


@torch.inference_mode()
def encode_waveform(encoder: Encoder, quantizer: Quantizer, waveform: torch.Tensor) -> torch.Tensor:
    """Codes [T, 8] of a waveform [960 T] by the neural path: encoder, then the codebooks."""
    with torch.autocast("cpu", torch.bfloat16):
        latents = encoder(waveform[None])[0]
    return quantizer.encode(latents.float())


def build_references(work_dir: Path, shards: int = 3) -> None:
    """Encodes the 1.5 to 4.4 s utterances of some shards of each voice into `references/`."""
    quantizer, encoder = Quantizer.load(work_dir / "quantizer.pt"), load_encoder(work_dir)
    (work_dir / "references").mkdir(exist_ok=True)
    for voice in VOICES:
        for path in shard_paths(work_dir, voice)[1 : 1 + shards]:
            shard = read_shard(path)
            texts, codes = [], []
            for index, text in enumerate(shard.texts):
                first, last = shard.offsets[index], shard.offsets[index + 1]
                if not SHORTEST_FRAMES <= last - first <= LONGEST_FRAMES:
                    continue
                waveform = to_codec_rate(shard.samples[first * _SOURCE_FRAME : last * _SOURCE_FRAME])
                texts.append(text)
                codes.append(encode_waveform(encoder, quantizer, waveform).numpy().astype(np.int16))
            offsets = np.cumsum([0, *map(len, codes)])
            np.savez(
                work_dir / "references" / f"{path.stem}.npz", texts=np.array(texts), offsets=offsets,
                codes=np.concatenate(codes),
            )  # fmt: skip
            print(f"references {path.stem}: {len(texts)}", flush=True)
