"""The other side of the codec's tests: transformers' own module, random parameters, and the original layout.

Written from the format's description; asks nothing of the code under test.
"""

import copy
import importlib.machinery
import math
import re
import sys
import types
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tests.codec_tensors import TINY_CODEC, codec_shapes

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class MemoryWeights:
    """Tensors in memory, in the place of a checkpoint."""

    tensors: Tensors

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    def tensor(self, name: str) -> torch.Tensor:
        return self.tensors[name]


def tiny_config(ratios: tuple[int, ...] = (8, 5, 4, 2, 3), decoder_hidden_size: int = 64) -> dict[str, Any]:
    """The tiny codec, perhaps with other strides; the bandwidth pays for eight codebooks of 10 bits."""
    config = copy.deepcopy(TINY_CODEC)
    config["target_bandwidths"] = [math.ceil(config["sample_rate"] / math.prod(ratios)) * 8 * 10 / 1000]
    config["acoustic_model_config"] |= {
        "downsampling_ratios": list(ratios),
        "upsampling_ratios": list(ratios),
        "hop_length": math.prod(ratios),
        "decoder_hidden_size": decoder_hidden_size,
    }
    return config


def random_parameters(config: dict[str, Any], seed: int = 0) -> Tensors:
    """Transformers' layout with really random values: loud outputs that depend on the codes, not the biases.

    Fresh codecs have zero codebooks and small weights, under which every code sounds alike.
    """
    generator = torch.Generator().manual_seed(seed)
    shapes = codec_shapes(config)
    return {name: _random(name, shape, generator) for name, shape in shapes.items()}


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(shape, generator=generator)
    last = name.rsplit(".", 1)[-1]
    if last == "alpha":
        return torch.exp(0.5 * noise)
    if last in ("inited", "cluster_size"):
        return torch.ones(shape)
    if last == "embed_avg":
        return 5.0 * noise
    if last == "original0":
        return noise.abs() + 0.5
    if len(shape) < 2:
        return 1.0 + 0.1 * noise if "norm" in name and last == "weight" else 0.02 * noise
    # A transposed convolution of kernel 2 * stride adds up two taps of every input channel.
    fan_in = 2 * shape[0] if "conv_t1" in name else noise[0].numel()
    gain = 0.1 if "acoustic_decoder.conv2" in name else 0.5 if ".res_unit" in name else 1.0
    return gain * noise / math.sqrt(fan_in)


def random_codes(frames: int, config: dict[str, Any], seed: int = 0) -> np.ndarray[Any, Any]:
    """uint16 [frames, codebooks]."""
    return np.random.default_rng(seed).integers(0, config["codebook_size"], (frames, 8)).astype(np.uint16)


def transformers_codec(config: dict[str, Any], parameters: Tensors) -> Any:
    """transformers' HiggsAudioV2TokenizerModel with these parameters, but no torchaudio (see `_resample`)."""
    if "torchaudio" not in sys.modules:
        stub = types.ModuleType("torchaudio")
        stub.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
        stub.functional = types.SimpleNamespace(resample=_resample)  # type: ignore[attr-defined]
        sys.modules["torchaudio"] = stub
        _forget_absence()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.models.higgs_audio_v2_tokenizer import (
            configuration_higgs_audio_v2_tokenizer as configuration,
        )
        from transformers.models.higgs_audio_v2_tokenizer import modeling_higgs_audio_v2_tokenizer as modeling

        known = {name: value for name, value in config.items() if name != "model_type"}
        model_class = modeling.HiggsAudioV2TokenizerModel
        model = model_class.__new__(model_class)
        model_class.__init__(model, configuration.HiggsAudioV2TokenizerConfig(**known))
    loaded = {name: tensor for name, tensor in parameters.items() if not name.endswith("masked_spec_embed")}
    model.load_state_dict(loaded, strict=True)
    return model.eval()


def _forget_absence() -> None:
    """Other tests may have made transformers look for torchaudio before; it remembers what it found."""
    from transformers.utils import import_utils

    for name in ("is_torchaudio_available", "_is_package_available"):
        remembered = getattr(import_utils, name)
        if hasattr(remembered, "cache_clear"):
            remembered.cache_clear()


def _resample(waveform: torch.Tensor, from_hz: int, to_hz: int) -> torch.Tensor:
    """The description's resampling formula, one phase after the other in float64."""
    divisor = math.gcd(from_hz, to_hz)
    o, n = from_hz // divisor, to_hz // divisor
    base = min(o, n) * 0.99
    width = math.ceil(6 * o / base)
    length = math.ceil(waveform.shape[-1] * n / o)
    padded = np.pad(waveform.double().numpy(), [(0, 0)] * (waveform.ndim - 1) + [(width, width + o)])
    resampled = np.zeros((*waveform.shape[:-1], length))
    for phase in range(n):
        t = np.clip((-phase / n + np.arange(-width, width + o) / o) * base, -6, 6)
        kernel = np.sinc(t) * np.cos(np.pi * t / 12) ** 2 * base / o
        windows = np.lib.stride_tricks.sliding_window_view(padded, len(kernel), axis=-1)[..., ::o, :]
        count = len(range(phase, length, n))
        resampled[..., phase::n] = windows[..., :count, :] @ kernel
    return torch.from_numpy(resampled).float()


RENAMES_TO_TRANSFORMERS = [
    (r"^encoder\.block\.0\.", r"acoustic_encoder.conv1."),
    (r"^encoder\.block\.6\.", r"acoustic_encoder.snake1."),
    (r"^encoder\.block\.7\.", r"acoustic_encoder.conv2."),
    (r"^encoder\.block\.([1-5])\.block\.3\.", r"acoustic_encoder.block.\1.snake1."),
    (r"^encoder\.block\.([1-5])\.block\.4\.", r"acoustic_encoder.block.\1.conv1."),
    (r"^encoder\.block\.([1-5])\.block\.([0-2])\.block\.", r"acoustic_encoder.block.\1.UNIT\2."),
    (r"^decoder_2\.model\.0\.", r"acoustic_decoder.conv1."),
    (r"^decoder_2\.model\.6\.", r"acoustic_decoder.snake1."),
    (r"^decoder_2\.model\.7\.", r"acoustic_decoder.conv2."),
    (r"^decoder_2\.model\.([1-5])\.block\.0\.", r"acoustic_decoder.block.\1.snake1."),
    (r"^decoder_2\.model\.([1-5])\.block\.1\.", r"acoustic_decoder.block.\1.conv_t1."),
    (r"^decoder_2\.model\.([1-5])\.block\.2\.block\.", r"acoustic_decoder.block.\1.UNIT0."),
    (r"^decoder_2\.model\.([1-5])\.block\.3\.block\.", r"acoustic_decoder.block.\1.UNIT1."),
    (r"^decoder_2\.model\.([1-5])\.block\.4\.block\.", r"acoustic_decoder.block.\1.UNIT2."),
    (r"^quantizer\.vq\.layers\.(\d)\._codebook\.", r"quantizer.quantizers.\1.codebook."),
    (r"^quantizer\.vq\.layers\.", r"quantizer.quantizers."),
    (r"^fc_prior\.", "fc."),
    (r"^fc_post1\.", "fc1."),
    (r"^fc_post2\.", "fc2."),
    (r"^((?:en|de)coder_semantic\..*)conv\.conv\.", r"\1conv."),
    (r"^((?:en|de)coder_semantic\..*)conv1\.conv\.", r"\1conv1."),
    (r"^((?:en|de)coder_semantic\..*)conv2\.conv\.", r"\1conv2."),
]
"""From the original names to transformers' (blocks still counted from 1, units and layers by number)."""


def to_transformers_name(original: str) -> str:
    """The description's mapping, applied to one name of the original layout."""
    name = original
    for pattern, replacement in RENAMES_TO_TRANSFORMERS:
        name, count = re.subn(pattern, replacement, name)
        if count:
            break
    name = re.sub(r"^(acoustic_\w+\.block\.)(\d)", lambda match: f"{match[1]}{int(match[2]) - 1}", name)
    layers = ("snake1", "conv1", "snake2", "conv2")
    unit = r"UNIT(\d)\.(\d)\."
    return re.sub(unit, lambda match: f"res_unit{int(match[1]) + 1}.{layers[int(match[2])]}.", name)


def original_names() -> list[str]:
    """Every name of the original layout (five blocks, two semantic ones) but HuBERT's, which are the same."""
    normed = ("weight_g", "weight_v", "bias")
    names = []
    for network, first_unit, snake, conv in (("encoder.block", 0, 3, 4), ("decoder_2.model", 2, 0, 1)):
        names += [f"{network}.{edge}.{leaf}" for edge in (0, 7) for leaf in normed] + [f"{network}.6.alpha"]
        for block in range(1, 6):
            place = f"{network}.{block}.block"
            names += [f"{place}.{snake}.alpha", *(f"{place}.{conv}.{leaf}" for leaf in normed)]
            for unit in range(first_unit, first_unit + 3):
                names += [f"{place}.{unit}.block.{layer}.alpha" for layer in (0, 2)]
                names += [f"{place}.{unit}.block.{layer}.{leaf}" for layer in (1, 3) for leaf in normed]
    for level in range(8):
        place = f"quantizer.vq.layers.{level}"
        names += [f"{place}._codebook.{leaf}" for leaf in ("inited", "cluster_size", "embed", "embed_avg")]
        names += [f"{place}.project_{way}.{leaf}" for way in ("in", "out") for leaf in ("weight", "bias")]
    names += [
        f"{head}.{leaf}" for head in ("fc_prior", "fc_post1", "fc_post2") for leaf in ("weight", "bias")
    ]
    outer = {"encoder_semantic": ("conv",), "decoder_semantic": ("conv1", "conv2")}
    for network, convs in outer.items():
        names += [f"{network}.{conv}.conv.weight" for conv in convs]
        for block in range(2):
            place = f"{network}.conv_blocks.{block}"
            names += [f"{place}.conv.conv.weight", f"{place}.conv.conv.bias"]
            names += [f"{place}.res_units.{unit}.conv{n}.conv.weight" for unit in range(2) for n in (1, 2)]
    return names


def original_layout(parameters: Tensors, seed: int = 0) -> Tensors:
    """The same codec in the original layout: renamed, acoustic convolutions split by weight normalisation."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: value for name, value in parameters.items() if name.startswith("semantic_model.")}
    for name in original_names():
        stored, _, leaf = name.rpartition(".")
        if leaf not in ("weight_g", "weight_v"):
            tensors[name] = parameters[to_transformers_name(name)]
            continue
        weight = parameters[to_transformers_name(f"{stored}.weight")]
        norm = weight.flatten(1).norm(dim=1)[:, None, None]
        if leaf == "weight_g":
            tensors[name] = norm
        else:
            tensors[name] = weight * (0.5 + torch.rand(norm.shape, generator=generator))
    return tensors
