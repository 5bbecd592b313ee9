"""Requests become the prompts that the model was trained on, word by word; what it cannot do is said."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from stentor.errors import RequestError
from stentor.models.higgs_audio.tokens import TokenizerFile
from stentor.models.qwen3_tts.config import QwenConfig
from stentor.models.qwen3_tts.preprocessor import FrameLimits, QwenPreprocessor, QwenTokenizer
from stentor.request import VOICE_ROW, Reference, SamplingParams, SpeechRequest
from tests.qwen3_checkpoints import CODES, LANGUAGES, SPEAKERS, make_qwen3_checkpoint

CODEC = SimpleNamespace(
    num_codebooks=16, codebook_size=CODES, sample_rate_hz=24000, samples_per_frame=1920, padded_length=int
)
FRAMES = np.random.default_rng(2).integers(0, CODES, (7, 16))
# The marks of tests.qwen3_checkpoints.
EOS, THINK, NOTHINK, BEGIN, END, PAD, BOS = range(CODES + 102, CODES + 109)
TTS_BOS, TTS_EOS = 290, 291


def make(folder: Path, kind: str = "custom_voice") -> QwenPreprocessor:
    config = QwenConfig.read(make_qwen3_checkpoint(folder, kind))
    limits = FrameLimits(CODEC, 400, 30.0, SamplingParams(0.9, 1.0, 50, None, 100, 1.05))
    return QwenPreprocessor(config, QwenTokenizer(TokenizerFile(folder), 300), limits)


def spelled(prompt: QwenPreprocessor, ids: list[int]) -> list[str]:
    """What stands at each position: `x` for text, `(x)` for text to be said, `#n` for a code."""
    plain = {id: token for token, id in prompt._tokenizer._plain.get_vocab().items()}
    plain |= {TTS_BOS: "BOS", TTS_EOS: "EOS"} | {
        prompt._tokenizer.start: "<start>",
        prompt._tokenizer.end: "<end>",
    }
    forms = ("{}", "({})", "#{}")
    return [
        "voice"
        if id == VOICE_ROW
        else forms[min(id // 300, 2)].format(plain.get(id % 300) if id < 600 else id - 600)
        for id in ids
    ]


def words(text: str, form: str = "{}") -> str:
    return " ".join(form.format(letter) for letter in text.replace(" ", "Ġ").replace("\n", "Ċ"))


def test_a_speaker_by_name_with_language_and_instructions(tmp_path: Path) -> None:
    model = make(tmp_path)
    reference = Reference(speaker="Vivian")
    request = SpeechRequest("r", " Zyx qw ", reference, language="en-GB", instructions="Zut!")
    prompt = model.prepare(request, None)
    expected = (
        f"<start> {words('user')} Ċ {words('Zut!')} <end> Ċ <start> {words('assistant')} Ċ "
        f"#{THINK} #{BEGIN} #{LANGUAGES['english']} #{END} #{SPEAKERS['vivian']} (BOS) "
        f"{words('Zyx qw', '({})')} (EOS) #{BOS}"
    )
    # Joined, because some letters are merged.
    assert "".join(spelled(model, prompt.token_ids.tolist())) == expected.replace(" ", "")
    assert prompt.reference_start == -1
    assert prompt.sampling.max_new_tokens == 100
    assert prompt.sampling.repetition_penalty == 1.05


def test_without_a_name_the_first_speaker_speaks_and_a_dialect_goes_before_any_language(
    tmp_path: Path,
) -> None:
    model = make(tmp_path)
    plain = model.prepare(SpeechRequest("r", "Zyx."), None).token_ids.tolist()
    for id in (NOTHINK, BEGIN, END, SPEAKERS["vivian"]):
        assert 600 + id in plain
    assert 600 + THINK not in plain
    tagged = model.prepare(SpeechRequest("r", "Zyx.", language="en_US"), None).token_ids
    assert 600 + LANGUAGES["english"] in tagged
    eric = SpeechRequest("r", "Zyx.", Reference(speaker="eric"))
    assert 600 + LANGUAGES["sichuan_dialect"] in model.prepare(eric, None).token_ids


@pytest.mark.parametrize("sound", ["codes", "recording"])
def test_a_clone_says_its_transcript_first_or_has_a_voice_alone(tmp_path: Path, sound: str) -> None:
    model = make(tmp_path, "base")
    codes = FRAMES if sound == "codes" else None
    waveform = None if sound == "codes" else np.zeros(7 * 1920, np.float32)
    audio = None if sound == "codes" else b"a recording"

    def told(text: str | None) -> tuple[list[str], int]:
        request = SpeechRequest("r", "Zyx.", Reference(audio=audio, codes=codes, text=text))
        prompt = model.prepare(request, waveform)
        return spelled(model, prompt.token_ids.tolist()), prompt.reference_start

    positions, start = told(" Qv ")
    assert start == len(positions)
    tail = ["voice", "(BOS)", "(Q)", "(v)", "(Z)", "(y)", "(x)", "(.)", "(EOS)", f"#{BOS}"]
    assert positions[-10:] == tail
    positions, start = told(None)
    assert start == -1
    assert positions[-8:] == [tail[0], tail[1], *tail[4:]]


@pytest.mark.parametrize(
    ("kind", "reference", "language", "problem"),
    [
        ("custom_voice", Reference(codes=FRAMES), None, "it speaks as vivian, eric; to clone, serve a Base"),
        ("custom_voice", Reference(speaker="Bob"), None, "no speaker 'Bob': it has vivian, eric"),
        ("voice_design", Reference(codes=FRAMES), None, "by instructions; to clone"),
        ("base", Reference(speaker="vivian"), None, "no speaker 'vivian': it has none"),
        ("base", None, "nl", "does not speak 'nl': choose english, chinese"),
    ],
)
def test_what_it_cannot_do_is_said(
    tmp_path: Path, kind: str, reference: Reference | None, language: str | None, problem: str
) -> None:
    with pytest.raises(RequestError, match=problem):
        make(tmp_path, kind).prepare(SpeechRequest("r", "Zyx.", reference, language=language), None)
