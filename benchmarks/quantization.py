"""How far quantised weights move the scores of a model, and what a step takes with them.

    python benchmarks/quantization.py [MODEL] [--texts 4] [--rows 80] [--device auto]

The plain model speaks some texts; then every model scores the same rows (teacher forcing). Where this
machine cannot run a scheme, its weights are restored first: the error is the same, and no time is told.
On a CPU a step's time is that of its thread, without what others take of the machine.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stentor.bench import machine
from stentor.bench.texts import texts
from stentor.config import Config, EngineConfig
from stentor.engine.engine import Engine
from stentor.engine.sequence import Sequence as Speech
from stentor.layers.attention import choose_backend
from stentor.layers.context import PrefillBatch, PrefillSpan
from stentor.layers.device import resolve_device, resolve_dtype
from stentor.layers.kernels import Kernels, choose_kernels
from stentor.layers.linear import Added, Norm, Product
from stentor.layers.quantization import Scheme, quantize, restore
from stentor.models import registry
from stentor.models.higgs_audio_v3.checkpoint import open_weights, read_codec_config
from stentor.models.higgs_audio_v3.config import V3Config
from stentor.models.higgs_audio_v3.lm import HiggsLM
from stentor.request import Prompt, SamplingParams, SpeechRequest
from stentor.stages.inline import InlineStages

SCHEMES: tuple[Scheme, ...] = ("none", "int8", "fp8", "int4")
BLOCK = 16


class Restored(Kernels):
    """The reference with weights that have been through a scheme."""

    def __init__(self, scheme: Scheme) -> None:
        super().__init__()
        self._scheme = scheme

    def linear(self, weight: Tensor, norm: Norm | None = None) -> Product:
        """See `Kernels.linear`."""
        return super().linear(self._restored(weight), norm)

    def residual(self, weight: Tensor) -> Added:
        """See `Kernels.residual`."""
        return super().residual(self._restored(weight))

    def _restored(self, weight: Tensor) -> Tensor:
        return restore(quantize(weight, self._scheme), weight.dtype)


class Models:
    """One checkpoint, loaded with any kernels."""

    def __init__(self, name: str, device: str) -> None:
        self.folder = registry.resolve(name)
        self.device = resolve_device(device)
        self.dtype = resolve_dtype("auto", self.device, "auto")
        self._config = V3Config.read(self.folder)
        self._weights = open_weights(self.folder, self._config, read_codec_config(self.folder, self._config))

    def load(self, kernels: Kernels) -> HiggsLM:
        """The language model."""
        return HiggsLM(self._config, self._weights.tensor, self.dtype, self.device, kernels)


def prompts(folder: Path, count: int) -> list[np.ndarray]:
    """Some texts as the engine's prompts, int64 [num_tokens, 1 + num_codebooks]."""
    model = registry.model_for(folder)
    spec = next(spec for spec in model.stages(folder, Config()) if spec.name == "preprocess")
    found = []
    with InlineStages([spec]) as stages:
        for i, text in enumerate(texts(count)):
            request = SpeechRequest(f"q{i}", text, sampling=SamplingParams(seed=i))
            found += [
                record.token_ids for record in stages.run(f"q{i}", request) if isinstance(record, Prompt)
            ]
    width = 1 + model.describe(folder).num_codebooks
    return [np.pad(ids.astype(np.int64)[:, None], ((0, 0), (0, width - 1))) for ids in found]


def speak(model: HiggsLM, given: Sequence[np.ndarray], rows: int) -> list[np.ndarray]:
    """Each prompt with the rows that the model says after it, scored later."""
    engine = Engine(model, EngineConfig(max_context=1024))
    speeches = [
        Speech(f"q{i}", prompt, SamplingParams(0.8, 0.95, 50, i), rows) for i, prompt in enumerate(given)
    ]
    for speech in speeches:
        engine.add(speech)
    while engine.has_work():
        engine.step()
    said = []
    for speech in speeches:
        spoken = speech.rows[: speech.num_rows].astype(np.int64)
        said.append(np.concatenate((speech.prompt, np.insert(spoken, 0, -1, axis=1))))
    return said


@torch.inference_mode()
def scores(model: HiggsLM, whole: np.ndarray, first: int, kv_dtype: torch.dtype | None = None) -> Tensor:
    """The scores of every row from position `first` on, [num_rows, num_codebooks, codebook_size].

    Keys and values are kept in `kv_dtype`, by default the model's own.
    """
    shape, count = model.shape, len(whole)
    blocks = -(-count // BLOCK)
    size = (shape.num_layers, blocks + 1, BLOCK, 2 * shape.num_kv_heads, shape.head_dim)
    cache = torch.zeros(size, dtype=kv_dtype or shape.dtype, device=model.device)
    positions = torch.arange(count, device=model.device)
    table = torch.arange(1, blocks + 1, device=model.device)[None]
    ends = torch.tensor([0, count], dtype=torch.int32, device=model.device)
    prompt, spans = torch.from_numpy(whole).to(model.device), (PrefillSpan(0, count, count),)
    batch = PrefillBatch(positions, positions + BLOCK, table, ends, ends[1:], spans, prompt[:, 0])
    hidden = model.embed_prompt(prompt)
    hidden = model.forward(hidden, batch, cache, choose_backend("auto", model.device))
    return model.logits(hidden[first - 1 : -1]).double().cpu()


def step_ms(model: HiggsLM, size: int) -> float:
    """The median of a decode step's milliseconds, with `size` sequences that go on for ever."""
    engine = Engine(model, EngineConfig(max_running_requests=size, max_context=512))
    prompt = np.zeros((40, 1 + model.shape.num_codebooks), np.int64)
    for i in range(size):
        engine.add(Speech(f"t{i}", prompt, SamplingParams(0.8, 0.95, 50, i), 400))
    times: list[float] = []
    clock = time.thread_time if model.device.type == "cpu" else time.perf_counter
    for _ in range(60):
        start = clock()
        engine.step()
        times.append(clock() - start)
        if not engine.has_work():
            break
    return 1000 * float(np.median(times[5:]))


def compare(
    model: HiggsLM,
    expected: Tensor,
    said: Sequence[np.ndarray],
    given: Sequence[np.ndarray],
    kv_dtype: torch.dtype | None = None,
) -> str:
    """Relative error of the scores, share of equal best codes, divergence: as one line says it."""
    found = torch.cat([scores(model, whole, len(p), kv_dtype) for whole, p in zip(said, given, strict=True)])
    error = float((found - expected).norm() / expected.norm())
    same = float((found.argmax(-1) == expected.argmax(-1)).double().mean())
    divergence = torch.nn.functional.kl_div(
        found.log_softmax(-1), expected.log_softmax(-1), log_target=True, reduction="none"
    )
    return f"{error:9.4f}{same:11.1%}{float(divergence.sum(-1).mean()):10.4f}"


def median_of(run: Callable[[], float], rounds: int = 3) -> float:
    return float(np.median([run() for _ in range(rounds)]))


def main() -> None:
    """Print one line per scheme."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("model", nargs="?", default="", help="folder or hub id; the built-in voice")
    arguments.add_argument("--texts", type=int, default=4)
    arguments.add_argument("--rows", type=int, default=80)
    arguments.add_argument("--device", default="auto")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    models = Models(chosen.model, chosen.device)
    given = prompts(models.folder, chosen.texts)
    plain = models.load(choose_kernels("auto", models.device))
    said = speak(plain, given, chosen.rows)
    expected = torch.cat([scores(plain, whole, len(p)) for whole, p in zip(said, given, strict=True)])
    about = f"{models.folder.name}, {models.dtype}, {models.device}, {len(expected)} rows"
    print(f"{about}, load {machine.load_average()}")
    print(f"{'scheme':8}{'error':>9}{'same best':>11}{'KL nats':>10}{'ms at 1':>9}{'ms at 16':>10}")
    for scheme in SCHEMES:
        runs = scheme in ("none", "int8") or models.device.type == "cuda"
        kernels = choose_kernels("auto", models.device, scheme) if runs else Restored(scheme)
        model = models.load(kernels)
        told = f"{scheme:8}{compare(model, expected, said, given)}"
        if runs:
            told += f"{median_of(lambda m=model: step_ms(m, 1)):9.2f}"
            told += f"{median_of(lambda m=model: step_ms(m, 16)):10.2f}"
        print(told, flush=True)
    print(f"{'kv fp8':8}{compare(plain, expected, said, given, torch.float8_e4m3fn)}", flush=True)


if __name__ == "__main__":
    main()
