"""The scripts under benchmarks/ reckon as they say, and a tiny run of each comes to its end."""

import argparse
import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from benchmarks import (
    host,
    kernel_profile,
    latency,
    quantization,
    roofline,
    stand_in,
    subject,
    throughput,
    vocoder,
)
from stentor.engine.sequence import Output
from stentor.models import registry
from stentor.models.higgs_audio.tokens import TokenizerFile
from stentor.models.higgs_audio_v3.config import V3Config
from stentor.models.higgs_audio_v3.tokenizer import V3Tokenizer

ROOT = Path(__file__).parents[2]


def test_a_step_reads_every_matrix_once_but_the_texts_embedding(tmp_path: Path) -> None:
    config = V3Config.read(subject.write_real_shape(tmp_path / "4b"))
    layers = 36 * (2560 * (32 + 2 * 8) * 128 + 32 * 128 * 2560 + 3 * 2560 * 9728)
    head = 8 * 1026 * 2560
    norms = 36 * (2 * 2560 + 2 * 128) + 2560
    assert roofline.weight_bytes(config, 2) == 2 * (layers + head + norms)
    assert roofline.weight_bytes(config, 2, "fp8") == layers + 2 * (head + norms)
    assert roofline.weight_bytes(config, 2, "int4") == layers // 2 + 2 * (head + norms)
    assert roofline.weight_bytes(config, 2, "int8", on_cpu=True) == layers + head + 2 * norms
    # What the issue of this server says of the card: 8.0 GB, though of 4.0 billion numbers.
    assert 7.2e9 < roofline.weight_bytes(config, 2) < 8.1e9


def test_the_floor_is_the_time_to_read_weights_keys_and_values() -> None:
    row = roofline.against_floor(4, {"step_ms": 10.0, "positions": 100}, 3 * 10**9, 10**7, 1e12)
    assert row["floor_ms"] == pytest.approx(4.0)
    assert row["share"] == pytest.approx(0.4)
    # Four frames of 40 ms in ten milliseconds.
    assert row["audio_s_per_s"] == pytest.approx(16.0)
    assert row["rtf"] == pytest.approx(0.25)


class Hasty:
    """An engine that ends the oldest sequence in each step."""

    def __init__(self) -> None:
        self.inside: list[Any] = []

    def add(self, sequence: Any) -> None:
        self.inside.append(sequence)

    def abort(self, name: str) -> None:
        self.inside = [sequence for sequence in self.inside if sequence.id != name]

    def step(self) -> list[Output]:
        oldest = self.inside.pop(0)
        return [Output(oldest, oldest.rows[:0], "stop")]  # type: ignore[arg-type]


def test_a_batch_is_kept_full() -> None:
    engine: Any = Hasty()
    batch = roofline.Batch(engine, 3, max_rows=4)
    for _ in range(5):
        assert batch.fill()
        assert len(engine.inside) == 3
        batch.step()
    batch.empty()
    assert not engine.inside


def test_who_never_has_a_full_batch_is_not_waited_for() -> None:
    for script in (roofline, kernel_profile):
        engine: Any = Hasty()
        with pytest.raises(SystemExit, match="--batch"):
            script.measure(engine, 3, 2, torch.device("cpu"))


def test_a_profile_tells_shares_of_the_step_and_how_long_the_device_was_busy() -> None:
    kernels = [("norm", 40, 100.0), ("product", 20, 700.0)]
    everything, first, second = kernel_profile.rows(8, kernels, steps=10, step_us=100.0)
    assert (everything["launches"], everything["us"], everything["share"]) == (6.0, 80.0, 0.8)
    assert (first["kernel"], first["share"]) == ("product", 0.7)
    assert (second["kernel"], second["launches"]) == ("norm", 4.0)


def test_utterances_are_as_many_and_as_long_as_asked_for() -> None:
    short, long = subject.utterances(5, 4), subject.utterances(5, 10)
    assert len(short) == len(long) == 5
    assert all(len(b) > 2 * len(a) for a, b in zip(short, long, strict=True))
    assert (subject.rows_of(4), subject.rows_of(10)) == (107, 257)


def test_a_word_of_the_real_shape_is_a_token(tmp_path: Path) -> None:
    folder = subject.write_real_shape(tmp_path / "4b")
    tokenizer = V3Tokenizer(TokenizerFile(folder), V3Config.read(folder).text_vocab_size)
    assert len(tokenizer.encode("The old dog saw the small boat near the river.")) == 11
    # What it has not learned it spells.
    assert len(tokenizer.encode("Zqxj")) == 4
    for text in (*subject.utterances(16, 10), "<|prosody:pause|>"):
        assert len(tokenizer.encode(text)) < 40


def test_a_card_does_the_jobs_of_a_stream_in_order_and_shares_itself_between_two() -> None:
    now = [0.0]
    card = stand_in.Card(clock=lambda: now[0])
    first, second, beside = card.submit(0, 4.0), card.submit(0, 2.0), card.submit(1, 3.0)
    # Half of the card each, until the third has had its three seconds.
    assert (card.left_s(0, first), card.left_s(0, second), card.left_s(1, beside)) == (7.0, 9.0, 6.0)
    now[0] = 6.0
    assert (card.left_s(0, first), card.left_s(0, second), card.left_s(1, beside)) == (1.0, 3.0, 0.0)
    now[0] = 20.0
    assert card.left_s(0, second) == 0.0
    assert card.busy_s == 9.0


def test_a_tiny_run_without_a_card_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--concurrency", "2", "--requests", "1", "--seconds", "4"]
    (row,) = run_main(host, words, tmp_path, monkeypatch)["rows"]
    assert (row["requests"], row["errors"], row["audio_s"]) == (2, 0, 8.0)
    assert row["steps"] >= subject.rows_of(4)
    assert 0 < row["card_busy"] <= 1


def run_main(module: Any, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The result that the script saved."""
    monkeypatch.setattr(sys, "argv", ["script", *words, "--save", str(tmp_path / "result.json")])
    module.main()
    return json.loads((tmp_path / "result.json").read_text())


@pytest.mark.parametrize(
    ("module", "words", "rows"),
    [
        (roofline, ["--batch", "1,2", "--steps", "3"], 2),
        (throughput, ["--only", "engine", "--concurrency", "2", "--requests", "1"], 2),
        (latency, ["--concurrency", "1", "--requests", "1", "--seconds", "4"], 1),
        (vocoder, ["--rounds", "1x4", "--dtypes", "float32,bfloat16"], 2),
    ],
)
def test_a_tiny_run_ends_with_a_result_that_says_where_it_was_made(
    module: Any, words: list[str], rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Threads are there sooner than processes that load torch each.
    monkeypatch.setenv("STENTOR_PIPELINE_WORKERS", "thread")
    result = run_main(module, words, tmp_path, monkeypatch)
    assert len(result["rows"]) == rows
    assert all(row["audio_s_per_s"] > 0 and row["load"] is not None for row in result["rows"])
    assert result["machine"]["cores"] >= 1
    assert "torch" in result["versions"]
    assert result["commit"]
    assert result["model"] == registry.resolve("").name


def test_fewer_bits_move_the_scores_further(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["script", "--texts", "1", "--rows", "6"])
    monkeypatch.setattr(quantization, "median_of", lambda _: 0.0)
    quantization.main()
    _, _, *lines = capsys.readouterr().out.splitlines()
    errors = {line[:8].strip(): float(line[8:17]) for line in lines}
    assert 0 == errors["none"] < errors["int8"] < errors["fp8"] < errors["int4"] < 1
    assert 0 < errors["kv fp8"] < errors["int4"]


def test_a_tiny_profile_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_main(kernel_profile, ["--batch", "1", "--steps", "2"], tmp_path, monkeypatch)
    assert result["rows"][0]["kernel"] == "all (busy)"
    assert 0 < result["rows"][0]["share"] <= 1.01


def test_everything_for_a_gpu_passes_its_dry_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every piece names files, tests and options that are there; nothing is measured."""
    pytest.importorskip("triton", reason="Triton is not installed: pip install 'stentor[kernels]'")
    # What each piece would have Python do is done here, where torch is loaded already.
    python, asked = tmp_path / "python", tmp_path / "asked"
    python.write_text(f'#!/bin/bash\nprintf "%s\\0" "$@" >> {asked}\nprintf "\\036" >> {asked}\n')
    python.chmod(0o755)
    command = ["bash", str(ROOT / "benchmarks" / "gpu_all.sh"), str(tmp_path / "marks")]
    out = tmp_path / "out"
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(python), "DRY_RUN": "1", "OUT": str(out)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    status = (out / "status.tsv").read_text().splitlines()
    pieces = [words.split("\0")[:-1] for words in asked.read_text().split("\036")[:-1]]
    assert len(pieces) == len(status) >= 12
    assert {line.split("\t")[1] for line in status} == {"passed"}
    assert not list((tmp_path / "marks").glob("*.done")), "a dry run marks nothing as done"
    monkeypatch.chdir(ROOT)
    for piece in pieces:
        dry_run(piece, monkeypatch)


def dry_run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What Python is asked for in a dry run: a script reads its options, tests are named that are there."""
    how, what, *rest = words
    if how == "-c":
        with monkeypatch.context() as patch:
            patch.setattr(argparse.ArgumentParser, "parse_args", argparse.ArgumentParser.parse_args)
            patch.setattr(sys, "argv", ["-c", *rest])
            with pytest.raises(SystemExit) as ended:
                exec(what, {})
        assert ended.value.code == 0, rest
    elif what == "pytest":
        paths = [word for word in rest if word.startswith("tests/")]
        assert paths
        assert [path for path in paths if not Path(path).exists()] == []
    else:
        assert words == ["-m", "stentor", "doctor", "--help"]


def test_a_piece_for_a_gpu_that_hangs_leaves_nothing_on_the_card_and_loses_no_other(tmp_path: Path) -> None:
    python, hurried, server = tmp_path / "python", tmp_path / "timeout", tmp_path / "server"
    # The first piece starts a server that ends for nobody, and waits for ever.
    stubborn = f"bash -c 'trap \"\" TERM; echo $$ > {server}; sleep 100'"
    python.write_text(f'#!/bin/bash\n[ "$3" != doctor ] || {{ {stubborn} & sleep 100; }}\n')
    hurried.write_text(
        "#!/bin/bash\n"
        '[ "${!#}" = doctor ] && limit_s=2 || limit_s=60\n'
        'exec /usr/bin/timeout -k 1 $limit_s "${@:4}"\n'
    )
    for path in (python, hurried):
        path.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHON": str(python), "OUT": str(tmp_path / "out")}
    command = ["bash", str(ROOT / "benchmarks" / "gpu_all.sh"), str(tmp_path / "marks")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1
    status = dict(line.split("\t")[:2] for line in (tmp_path / "out" / "status.tsv").read_text().splitlines())
    assert status.pop("doctor") == "failed with status 124"
    assert set(status.values()) == {"passed"}
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(server.read_text())).wait(timeout=30)


def test_rows_are_told_as_they_come_and_failed_requests_fail_the_script(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def measured() -> Iterator[dict[str, Any]]:
        for errors in (0, 2):
            yield {"concurrency": 1, "errors": errors}
            assert json.loads(capsys.readouterr().out)["errors"] == errors

    rows = list(subject.told(measured()))
    with pytest.raises(SystemExit, match="2 requests failed"):
        subject.publish("latency", "tiny", rows, {"errors": "errors"}, {}, None)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["rows"] == rows
    subject.publish("latency", "tiny", rows[:1], {"errors": "errors"}, {}, None)


def test_a_server_elsewhere_is_named_as_it_names_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "first_model", lambda url: {"http://there": "theirs"}[url])
    monkeypatch.setattr(latency, "measure", lambda *_: [])
    assert run_main(latency, ["--url", "http://there"], tmp_path, monkeypatch)["model"] == "theirs"


def test_the_options_that_all_scripts_share() -> None:
    chosen = subject.make_parser("").parse_args(["--real-shape"])
    with subject.opened(chosen) as (folder, load_format):
        assert load_format == "dummy"
        assert V3Config.read(Path(folder)).num_layers == 36


def test_each_script_is_started_so_that_it_finds_what_it_imports() -> None:
    scripts = list((ROOT / "benchmarks").glob("*.py"))
    pages = [ROOT / "benchmarks" / "README.md", *(ROOT / "docs").rglob("*.md"), *scripts]
    by_path = re.findall(r"python benchmarks/(\w+)\.py", " ".join(page.read_text() for page in pages))
    importing = {path.stem for path in scripts if "from benchmarks" in path.read_text()}
    assert by_path
    assert not importing & set(by_path)
