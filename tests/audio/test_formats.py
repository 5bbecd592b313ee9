import io
import struct
import subprocess
import sys
import wave
from pathlib import Path

import av
import numpy as np
import pytest

from stentor.audio.formats import FORMATS, Encoder, content_type, encode_file, to_pcm16
from stentor.audio.load import decode
from stentor.errors import InternalError, RequestError
from tests.sound import read_wav

RATE = 24_000
# Codecs whose frames do not divide the sound pad it; the player gets this much more at most.
PADDING = {"wav": 0, "pcm": 0, "flac": 0, "mp3": 3_000, "opus": 0, "aac": 3_000}


def speech_like(seconds: float = 1.5) -> np.ndarray:
    """A tone that gets louder until its last sample, so that a lost end is seen."""
    time_s = np.arange(round(seconds * RATE)) / RATE
    return (0.5 * time_s / seconds * np.sin(2 * np.pi * 440 * time_s)).astype(np.float32)


def streamed(waveform: np.ndarray, format: str, chunk: int = 1_920, rate_hz: int = RATE) -> list[bytes]:
    encoder = Encoder(format, rate_hz)
    pieces = [encoder.encode(waveform[at : at + chunk]) for at in range(0, len(waveform), chunk)]
    return [*pieces, encoder.finish()]


def decoded(data: bytes, format: str, rate_hz: int = RATE) -> np.ndarray:
    if format == "pcm":
        return np.frombuffer(data, "<i2").astype(np.float32) / 32_767
    return decode(data, sample_rate_hz=rate_hz, max_seconds=60)


def test_pcm16_is_clipped_scaled_and_rounded() -> None:
    waveform = np.array([0.0, 1.0, -1.0, 2.0, -7.0, 0.6 / 32_767, -0.6 / 32_767], np.float32)
    assert np.frombuffer(to_pcm16(waveform), "<i2").tolist() == [0, 32_767, -32_767, 32_767, -32_767, 1, -1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("format", FORMATS)
def test_samples_that_are_no_numbers_are_an_error_and_no_noise(bad: float, format: str) -> None:
    waveform = np.array([0.0, bad], np.float32)
    with pytest.raises(InternalError, match="not numbers"):
        encode_file(waveform, format, RATE)
    with pytest.raises(InternalError, match="not numbers"):
        Encoder(format, RATE).encode(waveform)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("way", ["file", "stream"])
def test_every_format_plays_back_whole_to_the_last_50_ms(format: str, way: str) -> None:
    waveform = speech_like()
    data = encode_file(waveform, format, RATE) if way == "file" else b"".join(streamed(waveform, format))
    heard = decoded(data, format)
    assert 0 <= len(heard) - len(waveform) <= PADDING[format]
    # Aligned by the best match: what a codec puts in front is no loss, what is missing behind is.
    shift = max(
        range(len(heard) - len(waveform) + 1), key=lambda at: float(heard[at:][: len(waveform)] @ waveform)
    )
    end = slice(-round(0.05 * RATE), None)
    error = heard[shift : shift + len(waveform)][end] - waveform[end]
    assert np.sqrt(np.mean(error**2)) < 0.1 * np.sqrt(np.mean(waveform[end] ** 2))


@pytest.mark.parametrize("format", ["wav", "pcm", "flac"])
def test_lossless_formats_are_within_half_a_step(format: str) -> None:
    waveform = speech_like()
    for data in (encode_file(waveform, format, RATE), b"".join(streamed(waveform, format))):
        np.testing.assert_allclose(decoded(data, format), waveform, atol=2 / 32_767)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("chunk", [1, 333, 48_000])
def test_the_size_of_the_chunks_does_not_change_the_sound(format: str, chunk: int) -> None:
    waveform = speech_like(0.1)
    other = b"".join(streamed(waveform, format, chunk=960))
    heard = decoded(b"".join(streamed(waveform, format, chunk)), format)
    np.testing.assert_allclose(heard, decoded(other, format), atol=1e-4)


@pytest.mark.parametrize("format", FORMATS)
def test_a_stream_sends_bytes_before_it_ends(format: str) -> None:
    pieces = streamed(speech_like(), format)
    assert sum(len(piece) for piece in pieces[:6]) > 500
    assert len(pieces[-1]) < sum(len(piece) for piece in pieces) / 3


@pytest.mark.parametrize("format", sorted(set(FORMATS) - {"pcm"}))
@pytest.mark.parametrize("num_samples", [1, 100, 960])
def test_the_shortest_sound_is_known_for_what_it_is(format: str, num_samples: int) -> None:
    random = np.random.default_rng(num_samples)
    for _ in range(30):
        waveform = random.uniform(-1, 1, num_samples).astype(np.float32)
        waveform *= random.uniform(0.01, 1)
        for data in (encode_file(waveform, format, RATE), b"".join(streamed(waveform, format))):
            # By its bytes alone, as a player gets it.
            assert len(decoded(data, format)) >= num_samples


@pytest.mark.parametrize("rate_hz", [8_001, 44_100])
def test_one_sample_of_another_rate_is_a_sound_in_opus(rate_hz: int) -> None:
    waveform = np.full(1, 0.5, np.float32)
    for data in (
        encode_file(waveform, "opus", rate_hz),
        b"".join(streamed(waveform, "opus", rate_hz=rate_hz)),
    ):
        assert len(decoded(data, "opus", rate_hz)) >= 1


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("rate_hz", [16_000, 22_050, 44_100])
def test_other_rates_play_at_the_right_speed(format: str, rate_hz: int) -> None:
    waveform = speech_like(0.5)
    for data in (
        encode_file(waveform, format, rate_hz),
        b"".join(streamed(waveform, format, rate_hz=rate_hz)),
    ):
        # Two samples for the rounding of rates that the codec does not take itself.
        assert 0 <= len(decoded(data, format, rate_hz)) - len(waveform) <= PADDING[format] + 2


def test_a_wav_file_states_its_true_size() -> None:
    data = encode_file(speech_like(), "wav", RATE)
    assert struct.unpack_from("<I", data, 4)[0] == len(data) - 8
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
        assert file.getnframes() == 36_000


def test_a_streamed_wav_has_one_header_of_unknown_size() -> None:
    pieces = streamed(speech_like(), "wav")
    assert (
        struct.unpack_from("<I", pieces[0], 4)[0] == struct.unpack_from("<I", pieces[0], 40)[0] == 2**32 - 1
    )
    assert b"".join(pieces).count(b"RIFF") == 1


def test_a_flac_file_states_its_true_length() -> None:
    data = encode_file(speech_like(), "flac", RATE)
    total_samples = int.from_bytes(data[21:26]) & (2**36 - 1)  # STREAMINFO, RFC 9639 section 8.2
    assert data[:4] == b"fLaC"
    assert total_samples == 36_000


@pytest.mark.parametrize(
    ("format", "start"), [("opus", b"OggS"), ("flac", b"fLaC"), ("wav", b"RIFF"), ("aac", b"\xff\xf1")]
)
def test_bytes_are_what_the_name_says(format: str, start: bytes) -> None:
    waveform = speech_like(0.3)
    assert encode_file(waveform, format, RATE).startswith(start)
    assert b"".join(streamed(waveform, format)).startswith(start)


def test_every_format_has_its_media_type() -> None:
    assert {name: content_type(name) for name in FORMATS} == {
        "wav": "audio/wav",
        "pcm": "audio/pcm",
        "flac": "audio/flac",
        "mp3": "audio/mpeg",
        "opus": "audio/ogg",
        "aac": "audio/aac",
    }


@pytest.mark.parametrize("format", FORMATS)
def test_no_sound_at_all_is_a_file_too(format: str) -> None:
    assert isinstance(encode_file(np.zeros(0, np.float32), format, RATE), bytes)


def test_an_unknown_format_is_refused_by_name() -> None:
    for make in (lambda: Encoder("ogg", RATE), lambda: encode_file(speech_like(), "ogg", RATE)):
        with pytest.raises(RequestError, match="'ogg' is unknown: choose one of wav, pcm") as caught:
            make()
        assert caught.value.param == "response_format"


def test_a_wav_file_is_what_the_standard_library_reads(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(encode_file(speech_like(), "wav", RATE))
    waveform, rate_hz = read_wav(tmp_path / "a.wav")
    assert rate_hz == RATE
    np.testing.assert_allclose(waveform, speech_like(), atol=2 / 32_767)


@pytest.mark.parametrize(("format", "codec"), [("mulaw", "pcm_mulaw"), ("alaw", "pcm_alaw")])
def test_telephones_get_one_byte_for_each_sample(format: str, codec: str) -> None:
    waveform = speech_like(0.5)[::3]
    data = b"".join(streamed(waveform, format, rate_hz=8_000))
    assert data == encode_file(waveform, format, 8_000)
    assert len(data) == len(waveform)
    decoder = av.CodecContext.create(codec, "r")
    decoder.sample_rate, decoder.layout = 8_000, "mono"  # type: ignore[attr-defined]
    (frame,) = decoder.decode(av.Packet(data))  # type: ignore[attr-defined]
    np.testing.assert_allclose(frame.to_ndarray()[0] / 32_768, waveform, atol=0.02)


def test_a_bit_rate_may_be_asked_for() -> None:
    sizes = [len(encode_file(speech_like(), "mp3", RATE, bit_rate)) for bit_rate in (32_000, None, 160_000)]
    assert sizes[0] < sizes[1] / 2 < sizes[2] / 3
    assert len(b"".join(streamed(speech_like(), "mp3"))) == pytest.approx(1.5 * 96_000 / 8, rel=0.1)
    assert encode_file(speech_like(), "wav", RATE, 32_000) == encode_file(speech_like(), "wav", RATE)


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of Linux stands for a full disk")
@pytest.mark.parametrize(
    "write",
    [
        "from stentor.cli.output import write_output; write_output('a.wav', bytes(20_000))",
        "from stentor.tts import Speech, np; Speech(np.zeros(10_000, np.float32), 24_000).save('a.wav')",
    ],
)
def test_a_file_that_cannot_be_written_whole_is_not_left_in_half(tmp_path: Path, write: str) -> None:
    program = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000)); {write}"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert "File too large" in done.stderr
    assert not list(tmp_path.iterdir())
