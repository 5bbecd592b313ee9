"""Laws of the average of two runs."""

from pathlib import Path

import pytest
import torch

from training import averaging
from training.language_model import TinyLanguageModel
from training.prompts import ROW_VOCABULARY
from training.quantizer import SPEAKER_BOOK


def test_an_average_lies_between_two_runs_and_speakers_codes_nearer_to_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / name for name in ("first.pt", "second.pt", "out.pt")]
    for seed, path in enumerate(paths[:2]):
        torch.manual_seed(seed)
        torch.save({"model": TinyLanguageModel().half().state_dict(), "step": 7 + seed}, path)
    monkeypatch.setattr(
        "sys.argv", ["averaging", *map(str, paths), "--share", "0.5", "--speaker-share", "0.25"]
    )
    averaging.main()
    first, second, out = (torch.load(path) for path in paths)
    assert out["step"] == 8
    speakers = slice(SPEAKER_BOOK * ROW_VOCABULARY, (SPEAKER_BOOK + 1) * ROW_VOCABULARY)
    for name, value in out["model"].items():
        a, b = (state["model"][name].float() for state in (first, second))
        expected = (a + b) / 2
        if name == "audio_embedding.weight":
            expected[speakers] = (3 * a + b)[speakers] / 4
        assert value.dtype == torch.float16
        torch.testing.assert_close(value.float(), expected, atol=1e-3, rtol=1e-3)
    # What a run can go on from.
    TinyLanguageModel().load_state_dict(out["model"])
