"""From a request to the prompt that Higgs Audio v3 was trained on, with every limit checked on the way.

The layouts, with R for the delayed rows of the reference:

    zero-shot            <|tts|> <|text|> text <|audio|>
    clone                <|tts|> <|ref_audio|> R <|text|> text <|audio|>
    clone + transcript   <|tts|> <|ref_text|> transcript <|ref_audio|> R <|text|> text <|audio|>
"""

import logging

from stentor.models.higgs_audio.limits import Limits
from stentor.models.higgs_audio_v3.tokenizer import V3Tokenizer
from stentor.request import Array, Prompt, SpeechRequest
from stentor.text.tags import check_tags

log = logging.getLogger(__name__)


class V3Preprocessor:
    """Implements `stages.preprocess.Preprocessor`."""

    def __init__(self, tokenizer: V3Tokenizer, limits: Limits) -> None:
        self._tokenizer = tokenizer
        self._limits = limits
        if tokenizer.structure.ref_text is None:
            log.warning("this checkpoint has no <|ref_text|>: transcripts of references will not be used")

    def prepare(self, request: SpeechRequest, waveform: Array | None) -> Prompt:
        """See `Preprocessor.prepare`; the waveform is lengthened by silence as its encoding wants."""
        reference, tags = request.reference, self._tokenizer.structure.control_tags
        if request.check_tags:
            check_tags(request.text, tags)
        sound = self._limits.sound(reference, waveform)
        if request.check_tags and reference is not None and reference.text:
            check_tags(reference.text, tags, param="references")
        return self._limits.prompt(request, *self._layout(request), sound)

    def _layout(self, request: SpeechRequest) -> tuple[list[int], int]:
        """The prompt's ids, and where among them the rows of the reference belong (0: there are none)."""
        structure, encode = self._tokenizer.structure, self._tokenizer.encode
        ids = [structure.tts]
        reference_start = 0
        if request.reference is not None:
            transcript = request.reference.text
            if transcript is not None and transcript.strip() and structure.ref_text is not None:
                ids += [structure.ref_text, *encode(transcript)]
            ids.append(structure.ref_audio)
            reference_start = len(ids)
        ids += [structure.text, *encode(request.text), structure.audio]
        return ids, reference_start
