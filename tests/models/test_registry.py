"""Laws of naming a model: the built-in one, a folder, or a hub id, and nothing is fetched unasked."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub.utils import filter_repo_objects

import stentor
from stentor.config import Config, override
from stentor.errors import CheckpointError, ConfigError, NotFoundError
from stentor.models.registry import _HUB_FILES, _NOT_FETCHED, BUILT_IN, model_for, recogniser_for, resolve
from tests.checkpoints import make_checkpoint
from tests.whisper import WINDOW_S, make_whisper


@pytest.mark.parametrize("name", ["", BUILT_IN])
def test_no_name_means_the_built_in_voice(name: str) -> None:
    assert resolve(name) == Path(stentor.__file__).parent / "checkpoints" / "stentor_tiny"


def test_a_folder_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(str(tmp_path)) == tmp_path
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve("owner/name") == Path("owner/name")


def test_a_file_is_no_model(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(NotFoundError, match="is a file"):
        resolve(str(file))


@pytest.mark.parametrize("name", ["nothing", "./a/b", "/nothing/here", "a/b/c", "~/nothing-of-that-name"])
def test_an_unknown_name_says_what_a_model_can_be(name: str) -> None:
    with pytest.raises(NotFoundError, match="hub id like 'owner/name'"):
        resolve(name)


@pytest.mark.parametrize("name", ["someone/some-model", "bad id/of a model"])
def test_a_hub_id_without_the_hub_is_an_error_that_says_so(name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"no local folder, and (it is not in the hub's cache|that is no hub id)"
    ):
        resolve(name)


def test_what_is_fetched_are_the_files_of_a_checkpoint() -> None:
    wanted = ["config.json", "merges.txt", "speech_tokenizer/model.safetensors", "voices/rosa.npy"]
    there = [*wanted, "README.md", "model.fp32.safetensors"]
    assert [*filter_repo_objects(there, allow_patterns=_HUB_FILES, ignore_patterns=_NOT_FETCHED)] == wanted


def test_a_checkpoint_finds_its_model(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    assert model_for(tmp_path).describe(tmp_path).num_codebooks == 8


@pytest.mark.parametrize("model_type", ["qwen3", None])
def test_an_unknown_type_lists_the_known_ones(tmp_path: Path, model_type: str | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(
        CheckpointError, match="supported are higgs_audio, higgs_audio_v2, higgs_multimodal_qwen3"
    ):
        model_for(tmp_path)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"model_type": ["x"]}'])
def test_a_folder_without_a_readable_config_is_no_checkpoint(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        model_for(tmp_path)


def test_looking_up_a_name_imports_no_model() -> None:
    code = (
        "import sys; from stentor.models.registry import resolve; resolve(''); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def config_for(asr: str | Path, max_seconds: float = WINDOW_S) -> Config:
    return override(Config(), {"reference": {"asr": str(asr), "max_seconds": max_seconds}})


def test_references_are_not_heard_unless_it_is_asked_for() -> None:
    assert recogniser_for(Config()) is None


def test_a_recogniser_is_found_by_its_type_and_not_loaded(tmp_path: Path) -> None:
    make_whisper(tmp_path, {}, rounds=0)
    code = (
        "import sys; from stentor.config import Config, ReferenceConfig\n"
        "from stentor.models.registry import recogniser_for\n"
        f"config = Config(reference=ReferenceConfig(asr={str(tmp_path)!r}, max_seconds={WINDOW_S}))\n"
        "print(recogniser_for(config).max_seconds, {'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{WINDOW_S} set()"


@pytest.mark.parametrize("name", ["./nothing/here", "no-model"])
def test_an_unknown_recogniser_says_how_to_do_without(name: str) -> None:
    with pytest.raises(NotFoundError, match="leave --asr out"):
        recogniser_for(config_for(name))


def test_a_voice_is_no_recogniser(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="supported are whisper"):
        recogniser_for(config_for(make_checkpoint(tmp_path)))


def test_references_that_are_longer_than_what_is_heard_are_refused_at_the_start(tmp_path: Path) -> None:
    make_whisper(tmp_path, {}, rounds=0)
    with pytest.raises(ConfigError, match=f"hears at most {WINDOW_S} s: lower --max-seconds"):
        recogniser_for(config_for(tmp_path, WINDOW_S + 0.5))
