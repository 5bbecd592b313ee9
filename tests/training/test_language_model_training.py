"""Laws of how the language model is trained, on a CPU or on a GPU."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from training import train_by_clock
from training.batches import IGNORED, Example, collate, joined, phoneme_targets, sequence
from training.data import UNLABELLED
from training.language_model import HIDDEN, TinyLanguageModel, seed_unsaid_timbres
from training.prompts import BOOKS
from training.quantizer import CODES, SPEAKER_BOOK, TIMBRE_DIM, Quantizer
from training.train_by_clock import GroupedMuon, TimedSchedule
from training.train_language_model import losses


def utterance(text: str, frames: int, seed: int = 0) -> Example:
    rng = np.random.default_rng(seed)
    codes = rng.integers(1, CODES, size=(frames, BOOKS)).astype(np.int16)
    return Example("slt", text, codes, rng.integers(0, 5, size=frames).astype(np.uint8))


def test_grouped_muon_steps_as_muon_does() -> None:
    torch.manual_seed(0)
    shapes = [(32, 16), (32, 16), (16, 32), (16, 16)]
    ours, theirs = ([torch.nn.Parameter(torch.ones(s)) for s in shapes] for _ in range(2))
    settings = {"lr": 0.02, "weight_decay": 0.05, "adjust_lr_fn": "match_rms_adamw"}
    grouped, plain = GroupedMuon(ours, **settings), torch.optim.Muon(theirs, **settings)
    for _ in range(3):
        for left, right in zip(ours, theirs, strict=True):
            left.grad = torch.randn(left.shape)
            right.grad = left.grad.clone()
        grouped.step()
        plain.step()
    for left, right in zip(ours, theirs, strict=True):
        assert float((right.detach() - 1).abs().max()) > 0.01
        torch.testing.assert_close(left, right, atol=2e-3, rtol=0)


def test_both_attentions_have_the_same_loss_however_much_is_padded() -> None:
    torch.manual_seed(0)
    fused, plain = TinyLanguageModel("sdpa").eval(), TinyLanguageModel().eval()
    plain.load_state_dict(fused.state_dict())
    short, long = sequence(utterance("Oh.", 12)), sequence(utterance("A longer one.", 40, 1), None, None)
    with torch.no_grad():
        (left, _), (right, _) = (losses(model, collate([short, long])) for model in (fused, plain))
        apart = [losses(fused, collate([part]))[0] for part in (short, long)]
    torch.testing.assert_close(left, right, atol=5e-2, rtol=5e-3)
    counts = [torch.from_numpy((part[2] != IGNORED).sum(0)) for part in (short, long)]
    mean = (apart[0] * counts[0] + apart[1] * counts[1]) / (counts[0] + counts[1])
    torch.testing.assert_close(left, mean, atol=5e-2, rtol=5e-3)


def test_phoneme_targets_name_this_phoneme_and_the_next_other_one() -> None:
    labels = np.array([0, 0, 7, 7, 3, 0], dtype=np.uint8)
    assert phoneme_targets(labels).tolist() == [[0, 7], [0, 7], [7, 3], [7, 3], [3, 0], [0, 0]]
    assert (phoneme_targets(np.full(3, UNLABELLED, dtype=np.uint8)) == IGNORED).all()


def test_joined_utterances_keep_their_codes_and_pause_between() -> None:
    first, second = utterance("One.", 12), utterance("Two.", 15, 1)
    both = joined([first, second])
    assert both.text == "One. Two."
    assert len(both.codes) == len(both.phonemes) == 12 + 4 + 15
    assert (both.codes[:12] == first.codes).all()
    assert (both.codes[12:16] == first.codes[-1]).all()
    assert (both.codes[16:] == second.codes).all()


def test_processes_that_train_together_step_alike(tmp_path: Path) -> None:
    script = tmp_path / "together.py"
    script.write_text(
        "import torch\n"
        "from training.train_by_clock import Company\n"
        "company = Company(torch.device('cpu'))\n"
        "gradients = [torch.full((2, 3), 2.0 * company.number), torch.tensor([1.0, company.number])]\n"
        "company.average(gradients)\n"
        "said = [company.mean(company.number), *(part.tolist() for part in gradients)]\n"
        f"open({str(tmp_path / 'said')!r} + str(company.number), 'w').write(str(said))\n"
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    where = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([*launcher, str(script)], check=True, timeout=100, capture_output=True, env=where)
    expected = "[0.5, [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]], [1.0, 0.5]]"
    assert [(tmp_path / f"said{number}").read_text() for number in range(2)] == [expected] * 2


def test_who_draws_its_own_batches_keeps_its_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_by_clock, "batches", lambda *_: iter(()))
    monkeypatch.setattr(torch, "set_num_threads", lambda _: pytest.fail("this is no process beside it"))
    stream = train_by_clock.BatchStream(tmp_path, SimpleNamespace(), 100, 1)
    assert list(train_by_clock.drawn_ahead(stream, 0, False)) == []


@pytest.fixture
def seeds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the batches of runs are drawn with, which have nothing to learn from."""
    seeds: list[int] = []
    monkeypatch.setattr(train_by_clock, "BatchStream", lambda *given: seeds.append(given[-1]))
    monkeypatch.setattr(train_by_clock, "drawn_ahead", lambda *_: iter(()))
    monkeypatch.setattr(train_by_clock, "validation_batches", lambda *_: [])
    monkeypatch.setattr(train_by_clock, "start_model", lambda *_: TinyLanguageModel())
    monkeypatch.setattr(Quantizer, "load", lambda _: None)
    monkeypatch.setattr(train_by_clock, "validate", lambda *_: "1 " * 8)
    return seeds


def test_processes_that_train_together_begin_alike_and_draw_apart(
    tmp_path: Path, seeds: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, dropped = [], []
    for number in range(2):
        company = SimpleNamespace(number=number, size=2)
        monkeypatch.setattr(train_by_clock, "Company", lambda _, company=company: company)
        runs.append(train_by_clock.TimedRun(tmp_path, TimedSchedule(1), torch.device("cpu")))
        dropped.append(torch.rand(8))
    first, second = (run._model.state_dict() for run in runs)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not torch.equal(*dropped)
    assert len(set(seeds)) == 2


def test_a_run_that_goes_on_draws_other_batches(tmp_path: Path, seeds: list[int]) -> None:
    for _ in range(3):
        run = train_by_clock.TimedRun(tmp_path, TimedSchedule(1), torch.device("cpu"))
        run._steps += 20
        run._save(0.0)
    assert len(set(seeds)) == 3
    assert torch.load(tmp_path / "language_model.pt")["step"] == 60


@pytest.mark.parametrize(("progress", "share"), [(0.03, 1.0), (0.3, 1.0), (1.0, 0.03), (2.0, 0.03)])
def test_the_rate_follows_the_clock(progress: float, share: float) -> None:
    schedule = TimedSchedule(230)
    assert schedule.rate(0.0) > 0
    assert schedule.rate(progress) == pytest.approx(share * schedule.peak_rate)


def test_the_model_may_read_other_codes_than_it_has_to_say() -> None:
    example = utterance("Oh.", 12)
    seen = example.codes.copy()
    seen[4, 0] = (seen[4, 0] + 1) % CODES
    plain, slipped = sequence(example), sequence(example, seen=seen)
    assert (plain[2] == slipped[2]).all()
    assert (plain[1] != slipped[1]).sum() == 1


def test_unsaid_timbres_become_as_tellable_as_the_said_ones() -> None:
    torch.manual_seed(3)
    model, said = TinyLanguageModel(), list(range(5, 600, 5))
    books = torch.zeros(BOOKS, CODES, 64)
    books[SPEAKER_BOOK, :, :TIMBRE_DIM] = torch.randn(CODES, TIMBRE_DIM)
    quantizer = Quantizer(torch.zeros(256), torch.zeros(256, 64), torch.zeros(64, TIMBRE_DIM), books)
    table = model.audio_embedding.weight.data.view(BOOKS, -1, HIDDEN)[SPEAKER_BOOK, :CODES]
    # As a run leaves them: the unsaid ones are all but one.
    table[:] = 3 * torch.nn.functional.normalize(torch.randn(HIDDEN), dim=0) + 0.01 * torch.randn(
        CODES, HIDDEN
    )
    table[said] = torch.randn(len(said), HIDDEN)
    before = table.clone()
    seed_unsaid_timbres(model, quantizer, said)
    unsaid = [code for code in range(1, CODES) if code not in said]
    assert torch.equal(table[[0, *said]], before[[0, *said]])
    torch.testing.assert_close(table[unsaid].norm(dim=1), before[said].norm(dim=1).mean().expand(len(unsaid)))
    # Each is nearest to itself by a product, as the head takes it.
    assert (table[unsaid] @ table.T).argmax(1).eq(torch.tensor(unsaid)).float().mean() > 0.95
    assert (before[unsaid] @ before.T).argmax(1).eq(torch.tensor(unsaid)).float().mean() < 0.5
