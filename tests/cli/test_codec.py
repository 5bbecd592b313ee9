"""Laws of recordings to codes and back: a speech's codes are the speech, and what are no codes is refused."""

import numpy as np
import pytest

from stentor.cli.codec import decode_codes, encode_reference, inline_stages
from stentor.config import Config, ModelConfig
from stentor.errors import NotFoundError, RequestError
from stentor.tts import TTS
from tests.checkpoints import make_checkpoint


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return Config(model=ModelConfig(model=str(make_checkpoint(tmp_path_factory.mktemp("codec") / "c"))))


def test_decoding_the_codes_of_a_speech_gives_the_speech(config: Config) -> None:
    with TTS(config.model.model) as tts:
        speech = tts.speak("The old dog.", seed=7, max_new_tokens=40)
    assert speech.codes is not None
    heard = decode_codes(speech.codes.astype(np.int64), config)
    np.testing.assert_allclose(heard.waveform, speech.waveform, atol=1e-5)


@pytest.mark.parametrize(
    "codes",
    [
        np.zeros((3, 7), int),
        np.zeros((0, 8), int),
        np.zeros(8, int),
        np.zeros((3, 8)),
        np.full((3, 8), 1024),
        np.full((3, 8), -1),
    ],
)
def test_wrong_codes_are_refused(config: Config, codes: np.ndarray) -> None:
    with pytest.raises(RequestError, match="codes"):
        decode_codes(codes, config)


def test_what_is_not_there_is_named(config: Config) -> None:
    with pytest.raises(NotFoundError, match="nowhere"):
        inline_stages(Config(model=ModelConfig(model="nowhere")), "vocode")
    with pytest.raises(NotFoundError, match=r"no\.wav"):
        encode_reference("no.wav", config)
