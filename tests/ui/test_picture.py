import numpy as np

from stentor.ui.picture import SPECTRUM_HEIGHT, WAVE_HEIGHT, WIDTH, draw

RATE_HZ = 24_000


def tone(seconds: float, hz: float, loudness: float = 0.5) -> bytes:
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return (32767 * loudness * np.sin(2 * np.pi * hz * time_s)).astype("<i2").tobytes()


def test_no_sound_is_a_blank_of_the_same_size() -> None:
    blank = draw(b"", RATE_HZ)
    assert blank.shape == draw(tone(1, 440), RATE_HZ).shape == (WAVE_HEIGHT + SPECTRUM_HEIGHT, WIDTH, 3)
    assert blank.dtype == np.uint8
    assert len(np.unique(blank.reshape(-1, 3), axis=0)) == 1


def test_a_tone_is_a_line_at_its_height() -> None:
    for hz in (1000, 4000, 7000):
        spectrum = draw(tone(6, hz), RATE_HZ)[WAVE_HEIGHT:, 100:800].astype(int).sum(axis=(1, 2))
        darkest = SPECTRUM_HEIGHT - 1 - int(np.argmin(spectrum))
        assert abs(darkest / SPECTRUM_HEIGHT * 8000 - hz) < 150


def test_six_seconds_fill_the_picture_and_three_a_half_of_it() -> None:
    ground = draw(b"", RATE_HZ)[0, 0]
    painted = (draw(tone(3, 440), RATE_HZ) != ground).any(axis=(0, 2))
    assert painted[: WIDTH // 2 - 1].all()
    assert not painted[WIDTH // 2 + 1 :].any()
    assert (draw(tone(20, 440), RATE_HZ) != ground).any(axis=(0, 2)).all()
    assert (draw(tone(3, 440), RATE_HZ, whole=True) != ground).any(axis=(0, 2)).all()
    draw(tone(0.001, 440), RATE_HZ, whole=True)


def test_a_louder_sound_is_a_higher_wave_and_full_scale_fits() -> None:
    ground = draw(b"", RATE_HZ)[0, 0]
    heights = [
        (draw(tone(1, 440, loudness), RATE_HZ)[:WAVE_HEIGHT, 50] != ground).any(axis=1).sum()
        for loudness in (0.1, 0.5, 1.0)
    ]
    assert heights == sorted(heights)
    assert WAVE_HEIGHT - 4 < heights[-1] <= WAVE_HEIGHT


def test_half_a_sample_and_one_sample_do_no_harm() -> None:
    for data in (b"\0", b"\0\0", b"\0\0\0"):
        draw(data, RATE_HZ)
