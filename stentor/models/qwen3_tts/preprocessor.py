"""From a request to the prompt that Qwen3-TTS was trained on, the text as a whole before the speech.

With P for the text's pad beside a code, and T for text beside the talker's pad:

    instructions (text)  <|im_start|>user\\n instructions <|im_end|>\\n
    role (text)          <|im_start|>assistant\\n
    tags                 P think, P think_bos, P language, P think_eos, P speaker, T tts_bos;
                         without a language P nothink, P think_bos, P think_eos
    words                T words, or of a clone its transcript's and then the words, T tts_eos, P bos
    clone + transcript   P rows of the reference

The speaker is an id of the talker's vocabulary, or of a clone the voice's vector; it may be left out.

What stands at a position is told by one integer: an id below the text vocabulary's size is text alone, one
from there on T that text, one from twice that on P that code. Rows of codes and the voice's vector stand
beside the text's pad.
"""

from dataclasses import dataclass

from stentor.errors import RequestError
from stentor.models.higgs_audio.limits import Limits
from stentor.models.higgs_audio.tokens import TextTokenizer, TokenizerFile
from stentor.models.qwen3_tts.config import BASE, QwenConfig
from stentor.request import VOICE_ROW, Array, Prompt, Reference, SpeechRequest
from stentor.text.tags import check_tags

_STRUCTURE = ("<|im_start|>", "<|im_end|>")
_AUTOMATIC, _CHINESE = "auto", "chinese"
# ISO 639-1 codes of the languages that checkpoints know by their English names.
_CODES = {
    "zh": _CHINESE,
    "en": "english",
    "ja": "japanese",
    "ko": "korean",
    "de": "german",
    "fr": "french",
    "ru": "russian",
    "pt": "portuguese",
    "es": "spanish",
    "it": "italian",
}


class QwenTokenizer(TextTokenizer):
    """No special token comes out of a user's text."""

    def __init__(self, file: TokenizerFile, vocab_size: int) -> None:
        """Build it. Raises CheckpointError: the file is damaged, or of another model."""
        check_tokens(file)
        self.start, self.end = (file.ids[name] for name in _STRUCTURE)
        super().__init__(file, (), vocab_size)


def check_tokens(file: TokenizerFile) -> None:
    """Raises CheckpointError: a token that prompts need is missing."""
    file.require(_STRUCTURE)


@dataclass(frozen=True)
class FrameLimits(Limits):
    """Limits of a model without a delay pattern: a frame is a row. Its voices are heard without padding."""

    def rows(self, num_frames: int) -> int:
        """See `Limits.rows`."""
        return num_frames

    def _lengthen(self, waveform: Array) -> Array:
        return waveform


class QwenPreprocessor:
    """Implements `stages.preprocess.Preprocessor`."""

    def __init__(self, config: QwenConfig, tokenizer: QwenTokenizer, limits: Limits) -> None:
        self._config, self._tokenizer, self._limits = config, tokenizer, limits

    def prepare(self, request: SpeechRequest, waveform: Array | None) -> Prompt:
        """See `Preprocessor.prepare`."""
        marks, encode = self._config.marks, self._tokenizer.encode
        reference = request.reference
        transcript = (reference.text or "").strip() if reference is not None else ""
        if request.check_tags:
            check_tags(request.text, ())
            check_tags(transcript, (), param="references")
        name = self._speaker(reference)
        speaker = None if name is None else self._beside_code(self._config.speakers[name])
        sound = self._limits.sound(None if name else reference, waveform)
        if sound.num_frames:
            speaker = VOICE_ROW
            if not transcript:  # The voice alone, without an example of how it says what.
                sound = sound._replace(num_frames=0)
        ids = self._instructions(request.instructions)
        ids += [self._tokenizer.start, *encode("assistant\n")]
        ids += map(self._beside_code, self._tags(request.language, name))
        ids += [] if speaker is None else [speaker]
        words = encode(request.text.strip())
        if sound.num_frames:
            words = encode(transcript) + words
        ids += [self._config.text_vocab_size + token for token in (marks.tts_bos, *words, marks.tts_eos)]
        ids.append(self._beside_code(marks.bos))
        return self._limits.prompt(request, ids, len(ids) if sound.num_frames else -1, sound)

    def _beside_code(self, code: int) -> int:
        return 2 * self._config.text_vocab_size + code

    def _instructions(self, text: str | None) -> list[int]:
        if not (text and text.strip() and self._config.reads_instructions):
            return []
        encode, start, end = self._tokenizer.encode, self._tokenizer.start, self._tokenizer.end
        return [start, *encode(f"user\n{text.strip()}"), end, *encode("\n")]

    def _speaker(self, reference: Reference | None) -> str | None:
        """The name of the model's speaker that is to speak: one of its own, if it has any."""
        speakers = self._config.speakers
        wanted = reference.speaker if reference is not None else None
        if wanted is None:
            if reference is not None and self._config.kind != BASE:
                own = f": it speaks as {', '.join(speakers)}" if speakers else ", but by instructions"
                raise RequestError(
                    f"this model does not speak in the voice of a reference{own}; to clone, serve a Base "
                    "checkpoint",
                    param="references",
                )
            return next(iter(speakers), None) if self._config.kind != BASE else None
        if wanted.lower() not in speakers:
            raise RequestError(
                f"this model has no speaker {wanted!r}: it has {', '.join(speakers) or 'none'}", param="voice"
            )
        return wanted.lower()

    def _tags(self, language: str | None, speaker: str | None) -> list[int]:
        """The talker's ids that say what is spoken; a speaker's dialect goes before what could be any."""
        marks, known = self._config.marks, self._config.languages
        given = (language or _AUTOMATIC).strip().lower()
        name = _CODES.get(given.replace("_", "-").split("-")[0], given)
        dialect = self._config.dialects.get(speaker or "")
        if name in (_AUTOMATIC, _CHINESE) and dialect is not None:
            name = dialect
        if name == _AUTOMATIC:
            return [marks.nothink, marks.think_bos, marks.think_eos]
        if name not in known:
            raise RequestError(
                f"this model does not speak {given[:35]!r}: choose {', '.join(known)}, or none",
                param="language",
            )
        return [marks.think, marks.think_bos, known[name], marks.think_eos]
