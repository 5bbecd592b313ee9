"""Which checkpoint a MODEL argument means, and which model folder serves it or hears what references say."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stentor.config import Config
from stentor.errors import ConfigError, NotFoundError
from stentor.models.base import SpeechModel
from stentor.models.fields import Fields
from stentor.stages.transcribe import Recogniser

BUILT_IN = "stentor-tiny"

_BUILT_IN_FOLDER = Path(__file__).parents[1] / "checkpoints" / "stentor_tiny"
# The files of a checkpoint; whatever else lies in a repository is not fetched.
_HUB_FILES = ["*.json", "*.safetensors", "merges.txt", "voices/*"]
# The same weights once more, as some repositories have them.
_NOT_FETCHED = ["*.fp32*"]
# model_type of config.json -> where its SpeechModel is. Imported when it is asked for, not before.
_MODELS = {
    "higgs_multimodal_qwen3": "stentor.models.higgs_audio_v3.spec:HiggsAudioV3",
    "higgs_audio": "stentor.models.higgs_audio_v2.spec:HiggsAudioV2",
    "higgs_audio_v2": "stentor.models.higgs_audio_v2.spec:HiggsAudioV2",
    "qwen3_tts": "stentor.models.qwen3_tts.spec:QwenTTS",
}
# The same for what writes down what a reference says: a class that is given folder and device.
_RECOGNISERS = {"whisper": "stentor.models.whisper.recogniser:Whisper"}


def resolve(model: str) -> Path:
    """The checkpoint's folder: the built-in one ('' or 'stentor-tiny'), a local folder, or one from the hub.

    A hub id is two names with a slash between ('owner/name'); the hub is asked only if there is no such
    folder, and the files are kept in its usual cache.

    Raises:
        NotFoundError: there is no such folder, and it is no hub id.
        ConfigError: the hub cannot be reached or has no such model.
    """
    if model in ("", BUILT_IN):
        return _BUILT_IN_FOLDER
    return _locate(model, f"nothing for the built-in voice ({BUILT_IN})")


def recogniser_for(config: Config) -> Recogniser | None:
    """What `--asr` names, checked and not loaded; None if references without a transcript stay without.

    Raises:
        NotFoundError, CheckpointError: there is no such folder, or it is no recogniser's.
        ConfigError: the hub does not give it, or references may be longer than it hears.
    """
    if not config.reference.asr:
        return None
    folder = _locate(config.reference.asr, "leave --asr out")
    recogniser: Recogniser = _class_for(folder, _RECOGNISERS)(folder, config.model.device)
    if config.reference.max_seconds > recogniser.max_seconds:
        raise ConfigError(
            f"--max-seconds is {config.reference.max_seconds:g}, but the recogniser of --asr hears at most "
            f"{recogniser.max_seconds:g} s: lower --max-seconds, or leave --asr out"
        )
    return recogniser


def _locate(model: str, otherwise: str) -> Path:
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise NotFoundError(
            f"the model {model!r} is a file: name the folder that holds config.json", param="model"
        )
    owner, _, name = model.partition("/")
    if not (owner and name) or "/" in name or model.startswith((".", "~")):
        raise NotFoundError(
            f"there is no model {model!r}: name a folder with a config.json, a hub id like 'owner/name', "
            f"or {otherwise}",
            param="model",
        )
    return _download(model)


def model_for(folder: Path) -> SpeechModel:
    """The model that serves the checkpoint in `folder`, by the model_type of its config.json.

    Raises:
        CheckpointError: there is no readable config.json, or no model for its type.
    """
    model: SpeechModel = _class_for(folder, _MODELS)()
    return model


def name_of(folder: Path) -> str:
    """What users call a checkpoint: the built-in one's name, the hub id it came by, or the folder's."""
    if folder == _BUILT_IN_FOLDER:
        return BUILT_IN
    if folder.parent.name == "snapshots" and folder.parents[1].name.startswith("models--"):
        return folder.parents[1].name.removeprefix("models--").replace("--", "/")
    return folder.resolve().name


def _class_for(folder: Path, known: Mapping[str, str]) -> Any:
    fields = Fields.read(folder / "config.json")
    model_type = fields.get("model_type", str, "none")
    if model_type not in known:
        raise fields.error(f"model_type is {model_type!r}; supported are {', '.join(sorted(known))}")
    module, _, name = known[model_type].partition(":")
    return getattr(importlib.import_module(module), name)


def _download(model: str) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=_HUB_FILES, ignore_patterns=_NOT_FETCHED))
    except errors.RepositoryNotFoundError:
        problem = "the hub has no such model, or shows it to its members only (then set HF_TOKEN)"
    except errors.HFValidationError:
        problem = "that is no hub id"
    except errors.LocalEntryNotFoundError:
        problem = "it is not in the hub's cache, and the hub cannot be reached; fetch it with a network"
    except (errors.HfHubHTTPError, OSError) as error:
        problem = f"the hub does not give it: {str(error).splitlines()[0]}"
    raise ConfigError(f"model {model!r} is no local folder, and {problem}", param="model")
