import io
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stentor.errors import RequestError
from stentor.voices.voice import Voice, VoiceFile, check_codes, unpack

CODES = np.arange(40, dtype=np.uint16).reshape(5, 8)
VOICE = Voice("voice_0", "Rosa", 1_700_000_000, "What I say.", "en", "calm", "by letter", "abc", 1.5, "0f")


@pytest.mark.parametrize("recording", [None, b"fLaC..."])
def test_a_voice_comes_back_as_it_was_packed(recording: bytes | None) -> None:
    packed = VoiceFile(VOICE, CODES, recording).pack()
    back = unpack(packed)
    assert (back.voice, back.recording) == (VOICE, recording)
    np.testing.assert_array_equal(back.codes, CODES)
    assert packed == back.pack()


def test_any_tool_can_read_it() -> None:
    with zipfile.ZipFile(io.BytesIO(VoiceFile(VOICE, CODES, b"fLaC").pack())) as archive:
        assert archive.namelist() == ["voice.json", "codes.npy", "recording.flac"]
        assert b'"name": "Rosa"' in archive.read("voice.json")
        np.testing.assert_array_equal(np.load(io.BytesIO(archive.read("codes.npy"))), CODES)


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_damaged_file_is_refused_or_says_the_same(at: int, value: int) -> None:
    packed = VoiceFile(VOICE, CODES, b"fLaC").pack()
    damaged = bytearray(packed)
    damaged[at % len(damaged)] = value
    try:
        back = unpack(bytes(damaged))
    except RequestError:
        return
    assert back.voice == VOICE
    np.testing.assert_array_equal(back.codes, CODES)


def test_every_cut_file_is_refused() -> None:
    packed = VoiceFile(VOICE, CODES).pack()
    for length in range(len(packed)):
        with pytest.raises(RequestError, match="no voice that can be read"):
            unpack(packed[:length])


def test_a_bomb_is_not_unpacked() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("voice.json", b"{}")
        archive.writestr("codes.npy", bytes(50_000_000))
    with pytest.raises(RequestError, match="larger than it says"):
        unpack(file.getvalue())


def test_an_array_that_no_memory_could_hold_is_refused() -> None:
    codes = io.BytesIO()
    shape = {"descr": "<u2", "fortran_order": False, "shape": (10**15, 8)}
    np.lib.format.write_array_header_1_0(codes, shape)
    with pytest.raises(RequestError, match="no voice that can be read"):
        unpack(_with_codes(codes.getvalue()))


def test_a_damaged_file_that_another_tool_compressed_is_refused() -> None:
    data = bytearray(_with_codes(np.random.default_rng(0).bytes(5_000), zipfile.ZIP_DEFLATED))
    data[data.find(b"codes.npy") + len(b"codes.npy")] = 7  # a block of no type that deflate knows
    with pytest.raises(RequestError, match="no voice that can be read"):
        unpack(bytes(data))


def _with_codes(codes: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("voice.json", b'{"id": "voice_0", "name": "Rosa"}')
        archive.writestr("codes.npy", codes, compression)
    return file.getvalue()


@pytest.mark.parametrize(
    "codes", [np.ones((3, 8)), np.ones(8, int), np.zeros((0, 8), int), [[1, 2], [-1, 0]], [[70_000]]]
)
def test_what_are_no_codes_is_refused(codes: object) -> None:
    with pytest.raises(RequestError, match="codes"):
        check_codes(codes)
