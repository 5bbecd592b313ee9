import io
import wave
from collections.abc import Iterator

import numpy as np
import pytest

from stentor.audio import load
from stentor.audio.formats import encode_file
from stentor.audio.load import decode, is_silent
from stentor.errors import RequestError, TooLargeError

RATE = 24_000


def tone(seconds: float = 1.0, rate_hz: int = RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def float_wav(samples: np.ndarray) -> bytes:
    """A WAV of 32-bit floats (format tag 3), which can hold what is no number."""
    data = samples.astype("<f4").tobytes()
    header = bytearray(encode_file(np.zeros(0, np.float32), "wav", RATE))
    header[20:22] = (3).to_bytes(2, "little")
    header[28:36] = (RATE * 4).to_bytes(4, "little") + (4).to_bytes(2, "little") + (32).to_bytes(2, "little")
    header[40:44] = len(data).to_bytes(4, "little")
    header[4:8] = (36 + len(data)).to_bytes(4, "little")
    return bytes(header) + data


def read(data: bytes, max_seconds: float = 30) -> np.ndarray:
    return decode(data, sample_rate_hz=RATE, max_seconds=max_seconds)


@pytest.mark.parametrize("format", ["wav", "flac", "mp3", "opus", "aac"])
def test_any_usual_file_becomes_mono_floats_at_the_wanted_rate(format: str) -> None:
    waveform = read(encode_file(tone(rate_hz=16_000), format, 16_000))
    assert waveform.dtype == np.float32
    assert waveform.ndim == 1
    assert 0 <= len(waveform) - RATE < 4_000
    spectrum = np.abs(np.fft.rfft(waveform[:RATE]))
    assert abs(int(spectrum.argmax()) - 440) <= 1


def test_an_unknown_codec_is_refused() -> None:
    data = bytearray(encode_file(tone(), "wav", RATE))
    data[20:22] = (0x1234).to_bytes(2, "little")  # the format tag
    with pytest.raises(RequestError, match="known codec"):
        read(bytes(data))


@pytest.mark.parametrize("num_channels", [9, 12, 64])
def test_many_channels_are_averaged_too(num_channels: int) -> None:
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setparams((num_channels, 2, RATE, 0, "NONE", ""))
        wav.writeframes(np.arange(num_channels, dtype="<i2").tobytes() * 1000)
    expected = np.full(1000, (num_channels - 1) / 2 / 32_768, np.float32)
    np.testing.assert_allclose(read(file.getvalue()), expected, rtol=1e-5)


def test_channels_are_averaged() -> None:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((2, 2, RATE, 0, "NONE", ""))
        out.writeframes(
            np.stack([np.full(500, 16_384), np.full(500, -8_192)], axis=1).astype("<i2").tobytes()
        )
    np.testing.assert_allclose(read(file.getvalue()), np.full(500, 0.125), atol=1e-6)


def test_eight_bit_and_float_files_are_read_too() -> None:
    np.testing.assert_allclose(read(float_wav(tone(0.2))), tone(0.2), atol=1e-6)


@pytest.mark.parametrize(
    "data",
    [
        b"hello, this is no audio at all" * 50,
        bytes(range(256)) * 40,
        b"RIFF\x00\x00\x00\x00WAVE",
        b"\x89PNG\r\n\x1a\n" + bytes(200),
        b"ID3" + bytes(100),
        encode_file(tone(), "flac", RATE)[:30],
        # What libav would follow to other files and hosts:
        b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/secret.wav\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile /etc/hostname\n",
    ],
)
def test_what_is_no_audio_is_refused(data: bytes) -> None:
    with pytest.raises(
        RequestError, match=r"WAV, FLAC, MP3|no audio stream|no samples|sample rate"
    ) as caught:
        read(data)
    assert caught.value.param == "references"


def test_random_bytes_never_escape_as_another_error() -> None:
    generator = np.random.default_rng(1)
    for start in (
        b"",
        b"RIFF\x24\x10\x00\x00WAVEfmt ",
        b"fLaC",
        b"OggS\x00\x02",
        b"\xff\xfb\x90\x00",
        b"ID3\x04",
    ):
        for _ in range(20):
            with pytest.raises(RequestError):
                read(start + generator.bytes(2_000), max_seconds=0.001)


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(RequestError, match="empty"):
        read(b"")


def test_a_file_without_samples_is_refused() -> None:
    with pytest.raises(RequestError, match=r"no samples|can be read"):
        read(encode_file(np.zeros(0, np.float32), "wav", RATE))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_refused(bad: float) -> None:
    samples = tone(0.1)
    samples[700] = bad
    with pytest.raises(RequestError, match="not numbers"):
        read(float_wav(samples))


def test_an_absurd_sample_rate_is_refused() -> None:
    data = bytearray(encode_file(tone(), "wav", RATE))
    data[24:28] = (7).to_bytes(4, "little")
    with pytest.raises(RequestError, match="sample rate of 7 Hz"):
        read(bytes(data))


def test_the_limit_is_kept_and_names_itself() -> None:
    assert len(read(encode_file(tone(2.0), "wav", RATE), max_seconds=2.0)) == 2 * RATE
    with pytest.raises(TooLargeError, match="longer than 2 seconds"):
        read(encode_file(tone(2.1), "wav", RATE), max_seconds=2.0)


def test_decoding_stops_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(_container: object) -> Iterator[np.ndarray]:
        while True:
            yield np.zeros(RATE // 10, np.float32)

    monkeypatch.setattr(load, "_decoded", endless)
    with pytest.raises(TooLargeError):
        read(encode_file(tone(), "wav", RATE), max_seconds=1.0)


def test_silence_is_what_nobody_hears() -> None:
    assert is_silent(np.zeros(RATE, np.float32))
    assert is_silent(np.zeros(0, np.float32))
    assert is_silent(np.full(RATE, 5e-4, np.float32))
    assert not is_silent(tone() * 0.01)
