"""What a voice is, and how it is one file: a zip of `voice.json`, `codes.npy` and maybe `recording.flac`."""

import io
import zipfile
from typing import Any

import msgspec
import numpy as np

from stentor.errors import RequestError
from stentor.request import Array

SUFFIX = ".voice"

_ABOUT, _CODES, _RECORDING = "voice.json", "codes.npy", "recording.flac"
# Of `voice.json`: the texts in it are bounded where they come in.
_MAX_ABOUT_BYTES = 64 * 1024


class Voice(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of a voice beside its sound.

    `created_at` counts seconds since 1970; `codec` names the codec that its codes are of (see
    `ModelInfo.codec`); `sha256` is of the recording as it was kept, `duration_s` its length. A `preset`
    belongs to the checkpoint; its id is its name.
    """

    id: str
    name: str
    created_at: int = 0
    transcript: str | None = None
    language: str | None = None
    description: str | None = None
    consent: str | None = None
    codec: str = ""
    duration_s: float = 0.0
    sha256: str | None = None
    preset: bool = False


class VoiceFile(msgspec.Struct, frozen=True):
    """A voice with its sound: `codes` [num_frames, num_codebooks] without delay, `recording` as FLAC."""

    voice: Voice
    codes: Array
    recording: bytes | None = None

    def pack(self) -> bytes:
        """The one file that it is kept in and travels as; the same voice gives the same bytes."""
        codes, file = io.BytesIO(), io.BytesIO()
        np.save(codes, np.ascontiguousarray(self.codes, np.uint16), allow_pickle=False)
        about = msgspec.json.format(msgspec.json.encode(self.voice), indent=2)
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(zipfile.ZipInfo(_ABOUT), about)
            archive.writestr(zipfile.ZipInfo(_CODES), codes.getvalue())
            if self.recording is not None:
                archive.writestr(zipfile.ZipInfo(_RECORDING), self.recording)
        return file.getvalue()


def unpack(data: bytes) -> VoiceFile:
    """The voice in a file. Raises RequestError if it is damaged, or none of ours."""
    try:
        # Members are stored as they are: none can be larger than the file, and each has its checksum.
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist()}
            if sum(sizes.values()) > len(data) or sizes[_ABOUT] > _MAX_ABOUT_BYTES:
                raise ValueError("it is larger than it says")
            voice = msgspec.json.decode(archive.read(_ABOUT), type=Voice)
            codes = np.load(io.BytesIO(archive.read(_CODES)), allow_pickle=False)
            recording = archive.read(_RECORDING) if _RECORDING in sizes else None
    except Exception as error:  # Whatever a stranger's file makes zipfile, zlib or numpy stumble over.
        raise RequestError(f"this is no voice that can be read: {_words(error)}", param="voice") from None
    return VoiceFile(voice, check_codes(codes), recording)


def check_codes(codes: Any) -> Array:
    """The codes as uint16 [num_frames, num_codebooks]. Raises RequestError if they are none."""
    codes = np.asarray(codes)
    if codes.ndim != 2 or codes.size == 0 or codes.dtype.kind not in "iu":
        raise RequestError(
            f"the codes are {codes.dtype} of shape {list(codes.shape)}, but must be whole numbers "
            "[num_frames, num_codebooks]",
            param="codes",
        )
    if codes.min() < 0 or codes.max() > np.iinfo(np.uint16).max:
        raise RequestError(f"the codes reach from {codes.min()} to {codes.max()}", param="codes")
    whole: Array = codes.astype(np.uint16)
    return whole


def _words(error: Exception) -> str:
    return f"it has no {error.args[0]}" if isinstance(error, KeyError) else str(error) or type(error).__name__
