"""All voices that a request may name: the checkpoint's, and those that users made, which are kept on disk."""

import hashlib
import logging
import os
import threading
import time
import unicodedata
from pathlib import Path
from typing import Any

import msgspec

from stentor.audio.formats import encode_file
from stentor.config import ReferenceConfig
from stentor.errors import ForbiddenError, NotFoundError, RequestError, StentorError, TooLargeError
from stentor.request import Array, Audio, ModelInfo, Reference, check_characters
from stentor.text.tags import check_tags
from stentor.voices.folder import SharedFolder, Stamp
from stentor.voices.names import check_name, is_id, new_id, skeleton
from stentor.voices.presets import Presets
from stentor.voices.voice import SUFFIX, Voice, VoiceFile, check_codes, unpack

# What a user may say about a voice, and how long it may be.
_MAX_CHARS = {"transcript": 4096, "description": 1000, "consent": 1000, "language": 35}
# Beside the recording: codes and texts.
_MARGIN_BYTES = 2**20
# Names in a message; more would hide the rest of it.
_NAMED = 20

log = logging.getLogger(__name__)


def default_folder() -> Path:
    """Where a user's voices are kept unless told otherwise (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "stentor" / "voices"


class _Known(msgspec.Struct, frozen=True):
    stamp: Stamp
    voice: Voice
    codes: Array


class VoiceStore:
    """The voices of a served model (read-only), and those of a folder, which other processes may change, too.

    A voice is named by its name or its id; a user's wins over a checkpoint's and over OpenAI's names.
    Thread-safe. Every method that reads the folder sees what other processes did before it.
    """

    def __init__(self, info: ModelInfo, config: ReferenceConfig) -> None:
        """Raises CheckpointError if a voice of the checkpoint is damaged."""
        self.folder = Path(config.voices_folder).expanduser() if config.voices_folder else default_folder()
        self._presets = Presets(info.checkpoint, info.speakers)
        self._info = info
        self._config = config
        self._shared = SharedFolder(self.folder, SUFFIX)
        self._mutex = threading.Lock()
        self._known: dict[str, _Known] = {}
        self._ids: dict[str, str] = {}
        self._damaged: dict[str, Stamp] = {}

    def names(self) -> tuple[str, ...]:
        """All names: `default` first, the checkpoint's others, then the users', by name."""
        return tuple(voice.name for voice in self.all())

    def all(self) -> list[Voice]:
        """All voices, in the order of `names`; one of the checkpoint's is hidden by a user's of its name."""
        own = sorted(self._own(), key=lambda voice: voice.name)
        taken = {voice.name for voice in own}
        presets = [Voice(name, name, preset=True) for name in self._presets.names() if name not in taken]
        return [*presets, *own]

    def get(self, name: str) -> Reference | None:
        """The reference of a voice, by its name, its id or a name of OpenAI's; None is the default voice.

        Raises:
            NotFoundError: there is no such voice; the message names those there are.
            RequestError: its codes are of another codec, and its recording was not kept.
        """
        known = self._find(name)
        return self._presets[self._preset(name, "voice")] if known is None else self._reference(known)

    def about(self, name: str) -> Voice:
        """What is known of a voice. Raises NotFoundError."""
        known = self._find(name)
        if known is not None:
            return known.voice
        preset = self._preset(name)
        return Voice(preset, preset, preset=True)

    def read(self, name: str) -> VoiceFile:
        """A user's voice with its sound. Raises NotFoundError; ForbiddenError for the checkpoint's."""
        voice = self._changeable(name)
        data = self._shared.read(voice.id)
        if data is None:
            raise self._unknown(name)
        return unpack(data)

    def add(self, name: str, codes: Array, recording: bytes | None = None, **about: Any) -> Voice:
        """Keep a new voice: codes of the served codec [num_frames, num_codebooks], the recording as FLAC.

        `about` may hold transcript, language, description, consent and duration_s.

        Raises:
            RequestError: the name is taken or cannot be one, there are too many, or the model clones none.
        """
        made = Voice(new_id(), name, created_at=int(time.time()), codec=self._info.codec, **about)
        return self._insert(VoiceFile(made, check_codes(codes), recording))

    def add_enrolled(self, name: str, made: Audio, **about: str | None) -> Voice:
        """Keep what the pipeline made of a reference to enroll; see `add`."""
        assert made.codes is not None, "what enrolling is for"
        sound = encode_file(made.waveform, "flac", made.sample_rate_hz) if len(made.waveform) else None
        seconds = round(len(made.codes) * self._info.samples_per_frame / self._info.sample_rate_hz, 2)
        if made.transcript is not None:  # as it was given, or heard
            about["transcript"] = made.transcript
        return self.add(name, made.codes, sound, duration_s=seconds, **about)

    def add_file(self, data: bytes, name: str | None = None) -> Voice:
        """Keep a voice that `VoiceFile.pack` wrote, maybe elsewhere, under its own name or another.

        Raises:
            RequestError: it is damaged, of another codec without a recording, or cannot be kept: see `add`.
        """
        self._check_size(data)
        packed = unpack(data)
        voice = msgspec.structs.replace(packed.voice, name=name or packed.voice.name, preset=False)
        return self._insert(msgspec.structs.replace(packed, voice=voice))

    def change(self, name: str, /, **about: str | None) -> Voice:
        """Change a user's voice: its `name`, or what is said about it; None takes that away.

        Raises:
            NotFoundError, ForbiddenError: there is no such voice, or it is the checkpoint's.
            RequestError: the new name is taken or cannot be one.
        """
        self._check_about(about)
        if "name" in about:
            about["name"] = check_name(about["name"])  # type: ignore[arg-type]
        with self._shared.locked():
            packed = self.read(name)
            voice = msgspec.structs.replace(self.about(name), **about)
            self._check_free(voice)
            self._shared.write(voice.id, msgspec.structs.replace(packed, voice=voice).pack())
        return voice

    def remove(self, name: str) -> Voice:
        """Remove a user's voice. Raises NotFoundError, or ForbiddenError for one of the checkpoint."""
        with self._shared.locked():
            voice = self._changeable(name)
            self._shared.remove(voice.id)
        return voice

    def check_new(self, name: str, **about: str | None) -> None:
        """Refuse what `add` would refuse, before the work for it. Raises RequestError."""
        self._info.require_cloning()
        self._check_about(about)
        self._check_room()
        self._check_free(Voice("", check_name(name)))

    def _insert(self, packed: VoiceFile) -> Voice:
        self._info.require_cloning()
        recording = packed.recording if self._config.keep_recordings else None
        if recording is None and packed.voice.codec != self._info.codec:
            raise _foreign(packed.voice)
        voice = msgspec.structs.replace(
            packed.voice,
            name=check_name(packed.voice.name),
            sha256=None if recording is None else hashlib.sha256(recording).hexdigest(),
        )
        self._check_about({field: getattr(voice, field) for field in _MAX_CHARS})
        with self._shared.locked():
            self._check_room()
            if voice.id in {own.id for own in self._own()} or not is_id(voice.id):
                voice = msgspec.structs.replace(voice, id=new_id())
            self._check_free(voice)
            data = VoiceFile(voice, packed.codes, recording).pack()
            self._check_size(data)
            self._shared.write(voice.id, data)
        return voice

    def _check_about(self, about: dict[str, str | None]) -> None:
        for field, limit in _MAX_CHARS.items():
            value = about.get(field)
            if value is not None and not (isinstance(value, str) and len(value) <= limit):
                raise RequestError(f"{field} must be text of at most {limit} characters", param=field)
            check_characters(value or "", field)
        # Every request in this voice would be refused for it.
        check_tags(about.get("transcript") or "", self._info.control_tags, param="transcript")

    def _check_room(self) -> None:
        limit = self._config.max_voices
        if len(self._own()) >= limit:
            raise RequestError(
                f"there are {limit} voices already: remove one, or raise --max-voices", code="too_many_voices"
            )

    def _check_size(self, data: bytes) -> None:
        limit = self._config.max_bytes + _MARGIN_BYTES
        if len(data) > limit:
            raise TooLargeError(f"the voice has {len(data):,} bytes, but at most {limit:,} are kept")

    def _check_free(self, voice: Voice) -> None:
        """OpenAI's names are free: some clients ask for no others. The checkpoint's are not."""
        meant = skeleton(voice.name)
        others = [*self._presets.names(), *(own.name for own in self._own() if own.id != voice.id)]
        for other in others:
            if skeleton(other) == meant:
                same = "" if other == voice.name else f", and {voice.name!r} could be taken for it"
                raise RequestError(
                    f"there is a voice {other!r} already{same}: take another name, or remove that one",
                    param="name",
                    code="voice_exists",
                )

    def _find(self, name: str) -> _Known | None:
        with self._mutex:
            self._refresh()
            name = unicodedata.normalize("NFC", name)  # as names are kept
            return self._known.get(self._ids.get(name, name))

    def _own(self) -> list[Voice]:
        with self._mutex:
            self._refresh()
            return [known.voice for known in self._known.values()]

    def _refresh(self) -> None:
        """Read what has come or changed in the folder; a file that cannot be read is logged once."""
        # Voices that could not be spoken would hide the model's own.
        if not (self._info.clones and self._shared.may_have_changed()):
            return
        known = {}
        for voice_id, stamp in self._shared.scan().items():
            held = self._known.get(voice_id)
            if held is None or held.stamp != stamp:
                held = self._load(voice_id, stamp)
            if held is not None:
                known[voice_id] = held
        self._known = known
        self._ids = {entry.voice.name: voice_id for voice_id, entry in known.items()}

    def _load(self, voice_id: str, stamp: Stamp) -> _Known | None:
        try:
            data = self._shared.read(voice_id)
            if data is None:
                return None
            packed = unpack(data)
        except StentorError as error:
            if self._damaged.get(voice_id) != stamp:
                log.warning("the voice %s in %s is left out: %s", voice_id, self.folder, error)
            self._damaged[voice_id] = stamp
            return None
        return _Known(stamp, msgspec.structs.replace(packed.voice, id=voice_id), packed.codes)

    def _reference(self, known: _Known) -> Reference:
        voice = known.voice
        if voice.codec == self._info.codec:
            return Reference(codes=known.codes, text=voice.transcript)
        packed = self.read(voice.id)
        if packed.recording is None:
            raise _foreign(voice)
        # The encode stage keeps the codes that it makes of a recording: this, too, is encoded once.
        return Reference(audio=packed.recording, text=voice.transcript)

    def _changeable(self, name: str) -> Voice:
        voice = self.about(name)
        if voice.preset:
            raise ForbiddenError(f"the voice {voice.name!r} is part of the checkpoint: it stays as it is")
        return voice

    def _preset(self, name: str, param: str | None = None) -> str:
        preset = self._presets.find(name)
        if preset is None:
            raise self._unknown(name, param)
        return preset

    def _unknown(self, name: str, param: str | None = None) -> NotFoundError:
        names = self.names()
        shown = ", ".join(names[:_NAMED]) + (
            f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        )
        further = ", or send references" if self._info.clones else ""
        advice = f"choose one of {shown}{further}" if param else f"there are {shown}"
        return NotFoundError(
            f"there is no voice {name[:100]!r}: {advice}", param=param, code="voice_not_found"
        )


def _foreign(voice: Voice) -> RequestError:
    return RequestError(
        f"the voice {voice.name!r} holds codes of another model's codec and no recording: "
        "make it anew for this model",
        param="voice",
        code="voice_of_another_codec",
    )
