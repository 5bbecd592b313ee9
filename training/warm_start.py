"""Reads a checkpoint of the same format back into training states, so that a run need not begin from nothing.

What a checkpoint lacks is the basis that mel patches are projected with; the encoder knows it, and it is
found again as the rotation that agrees best with the encoder's latents.
"""

import math
from pathlib import Path

import torch
from safetensors.torch import load_file

from training.codec import Decoder, Encoder
from training.data import read_shard, shard_paths
from training.export import CODEC_PREFIX
from training.features import MEL_FLOOR, log_mel_patches
from training.files import save_state
from training.language_model import TinyLanguageModel
from training.quantizer import LEVEL_DIMS, MEL_DIMS, MEL_SCALE, SPEAKER_DIMS, Quantizer
from training.speakers import BASES

_EMBEDDINGS = {
    "tied.embedding.modality_embeddings.0.embedding.weight": "audio_embedding.weight",
    "tied.embedding.text_embedding.weight": "backbone.embed_tokens.weight",
}


def read_tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """All tensors of `model.safetensors` in float32."""
    return {name: tensor.float() for name, tensor in load_file(checkpoint / "model.safetensors").items()}


def load_codec(tensors: dict[str, torch.Tensor], module: Decoder) -> None:
    """Fills the decoder."""
    names = module.state_dict()
    module.load_state_dict({name: tensors[CODEC_PREFIX + name] for name in names})


def encoder_of(tensors: dict[str, torch.Tensor]) -> Encoder:
    """The checkpoint's encoder, of whatever width."""
    names = Encoder().state_dict()
    return Encoder.of({name: tensors[CODEC_PREFIX + name] for name in names})


def load_language_model(tensors: dict[str, torch.Tensor], model: TinyLanguageModel) -> None:
    """Fills the language model; the phoneme head, which no checkpoint has, stays as it is."""
    renamed = {name.replace("body.", "backbone.", 1): t for name, t in tensors.items() if "body." in name}
    renamed |= {inside: tensors[outside] for outside, inside in _EMBEDDINGS.items()}
    missing, unexpected = model.load_state_dict(renamed, strict=False)
    assert not unexpected
    assert all(name.startswith("phoneme_head") for name in missing), missing


def read_books(tensors: dict[str, torch.Tensor], books: int = 8) -> torch.Tensor:
    """Codebooks [books, 1024, 64]."""
    name = CODEC_PREFIX + "quantizer.quantizers.{}.codebook.embed"
    return torch.stack([tensors[name.format(book)] for book in range(books)])


def recover_basis(mel: torch.Tensor, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean [256] and orthonormal basis [256, 64] such that (mel - mean) @ basis is nearest to `latents`.

    `mel` [T, 256] and `latents` [T, 64] are of the same frames (orthogonal Procrustes, Schönemann 1966).
    """
    mel_mean, latent_mean = mel.mean(0), latents.mean(0)
    left, _, right = torch.linalg.svd((mel - mel_mean).T @ (latents - latent_mean), full_matrices=False)
    basis = left @ right
    return mel_mean - basis @ latent_mean, basis


@torch.inference_mode()
def recover_projection(work_dir: Path, gain: float = 1.645, utterances: int = 100) -> None:
    """Writes `previous/quantizer.pt`: the old books, and mean and basis as the old encoder reveals them.

    The first version's speech was louder by the factor `gain`, and its mel floor is that of today's features
    at that level; the mean is written for today's level.
    """
    tensors = previous_tensors(work_dir)
    encoder = encoder_of(tensors).eval()
    mels, latents = [], []
    for base in BASES:
        shard = read_shard(shard_paths(work_dir, base)[0])
        plain = [index for index, text in enumerate(shard.texts) if "<|" not in text][:utterances]
        for waveform in (gain * shard.waveform(index) for index in plain):
            with torch.autocast("cpu", torch.bfloat16):
                heard = encoder(waveform[None])[0].float()
            mels.append(log_mel_patches(waveform).clamp(min=math.log(MEL_FLOOR * gain))[2:-2])
            latents.append(heard[2:-2, MEL_DIMS] * MEL_SCALE)
    mean, basis = recover_basis(torch.cat(mels), torch.cat(latents))
    found = {"mean": mean - math.log(gain), "basis": basis, "books": read_books(tensors)}
    save_state(work_dir / "previous" / "quantizer.pt", **found, gain=torch.tensor(gain))


def previous_quantizer(work_dir: Path) -> dict[str, torch.Tensor] | None:
    """Mean, basis and books of the checkpoint that the run starts from; None without one."""
    path = work_dir / "previous" / "quantizer.pt"
    return torch.load(path) if path.exists() else None


def previous_tensors(work_dir: Path) -> dict[str, torch.Tensor] | None:
    """The tensors of the checkpoint that the run starts from; None without one."""
    folder = work_dir / "previous"
    return read_tensors(folder) if (folder / "model.safetensors").exists() else None


def _gain(work_dir: Path) -> float:
    """By how much louder the speech was that the older codec was trained on."""
    return float(torch.load(work_dir / "previous" / "quantizer.pt").get("gain", torch.ones(())))


def start_decoder(work_dir: Path, decoder: Decoder, quantizer: Quantizer) -> None:
    """Fills the decoder from the older checkpoint, which knew mel latents but no timbre apart from them."""
    tensors = previous_tensors(work_dir)
    if tensors is None:
        return
    load_codec(tensors, decoder)
    with torch.no_grad():
        mel = decoder.fc2.weight[:, MEL_DIMS]
        decoder.fc2.weight[:, SPEAKER_DIMS] = mel @ quantizer.timbre_matrix().T
        decoder.fc2.weight[:, LEVEL_DIMS] = 0
        last = decoder.acoustic_decoder.conv2
        last.weight /= _gain(work_dir)
        last.bias /= _gain(work_dir)


def start_encoder(work_dir: Path, encoder: Encoder) -> None:
    """Fills the encoder from the older checkpoint, whose own may be narrower."""
    tensors = previous_tensors(work_dir)
    if tensors is None:
        return
    encoder.grow_from(encoder_of(tensors))
    with torch.no_grad():
        encoder.acoustic_encoder.conv1.weight *= _gain(work_dir)
        encoder.fc.weight[LEVEL_DIMS] = 0
        encoder.fc.bias[LEVEL_DIMS] = 0
