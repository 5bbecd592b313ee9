"""From a request to the prompt that Higgs Audio v2 was trained on: turns of a conversation.

The turns, with H(role) for a role's header and R for the delayed rows of the reference between a row of begin
codes and one of end codes:

    zero-shot            H(system) task, scene <|eot_id|> H(user) text <|eot_id|>
                         H(assistant) <|audio_out_bos|>
    clone + transcript   the system turn, H(user) transcript <|eot_id|>
                         H(assistant) <|audio_out_bos|> R <|audio_eos|> <|eot_id|>, and on with H(user) text
    clone                as zero-shot, with `SPEAKER0: <|audio_bos|> R <|audio_eos|>` at the scene's end

Behind the last token stands a row of begin codes: the first that is fed back.
"""

from stentor.models.higgs_audio.limits import Limits
from stentor.models.higgs_audio.tokens import TextTokenizer, TokenizerFile
from stentor.models.higgs_audio_v2.script import (
    EVENT_TOKENS,
    SCENE_END,
    SCENE_START,
    System,
    cleaned,
    system_turn,
)
from stentor.request import BEGIN_ROW, END_ROW, Array, Prompt, SpeechRequest
from stentor.text.tags import check_tags

_STRUCTURE = (
    *("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|audio_bos|>"),
    *("<|audio_out_bos|>", "<|audio_eos|>", SCENE_START, SCENE_END),
)


class V2Tokenizer(TextTokenizer):
    """Of the special tokens, users may write those of sound events; no other comes out of their text."""

    def __init__(self, file: TokenizerFile, vocab_size: int) -> None:
        """Build it. Raises CheckpointError: the file is damaged, or of another model."""
        check_tokens(file)
        self.structure = {name: file.ids[name] for name in _STRUCTURE}
        super().__init__(file, EVENT_TOKENS, vocab_size)


def check_tokens(file: TokenizerFile) -> None:
    """Raises CheckpointError: a token that prompts need is missing."""
    file.require((*_STRUCTURE, *EVENT_TOKENS))


class V2Preprocessor:
    """Implements `stages.preprocess.Preprocessor`."""

    def __init__(self, tokenizer: V2Tokenizer, limits: Limits) -> None:
        self._tokenizer = tokenizer
        self._limits = limits

    def prepare(self, request: SpeechRequest, waveform: Array | None) -> Prompt:
        """See `Preprocessor.prepare`; the waveform is lengthened by silence as its encoding wants."""
        reference = request.reference
        transcript = (reference.text or "") if reference is not None else ""
        sound = self._limits.sound(reference, waveform)
        if request.check_tags:
            check_tags(request.text, ())
            check_tags(transcript, (), param="references")
        turns = _Turns(self._tokenizer)
        turns.system(
            system_turn(request.instructions, request.text, has_reference=sound.num_frames > 0),
            speaks=sound.num_frames > 0 and not transcript.strip(),
        )
        if sound.num_frames and transcript.strip():
            turns.user(transcript.strip())
            turns.spoken()
        turns.user(cleaned(request.text))
        turns.answer()
        return self._limits.prompt(request, turns.ids, turns.reference_start, sound)


class _Turns:
    """The prompt so far: its ids, and where among them the rows of the reference belong (0: nowhere)."""

    def __init__(self, tokenizer: V2Tokenizer) -> None:
        self._encode, self._special = tokenizer.encode, tokenizer.structure
        self.ids = [self._special["<|begin_of_text|>"]]
        self.reference_start = 0

    def system(self, turn: System, *, speaks: bool) -> None:
        """What is to be done, and the scene; in it `speaks` a reference whose words are not known."""
        self._header("system")
        if not (turn.scene or speaks):
            self.ids += self._encode(turn.task)
            self._end()
            return
        self.ids += [*self._encode(f"{turn.task}\n\n"), self._special[SCENE_START]]
        scene = f"\n{turn.scene}" if turn.scene else ""
        if speaks:
            self.ids += self._encode(f"{scene}\n\nSPEAKER0: " if scene else "\nSPEAKER0: ")
            self._reference("<|audio_bos|>")
            scene = ""
        self.ids += [*self._encode(f"{scene}\n"), self._special[SCENE_END]]
        self._end()

    def user(self, text: str) -> None:
        """A turn that is to be said."""
        self._header("user")
        self.ids += self._encode(text)
        self._end()

    def spoken(self) -> None:
        """The turn in which the reference says what the user's last turn is."""
        self._header("assistant")
        self._reference("<|audio_out_bos|>")
        self._end()

    def answer(self) -> None:
        """The beginning of the turn that the model goes on with."""
        self._header("assistant")
        self.ids += [self._special["<|audio_out_bos|>"], BEGIN_ROW]

    def _reference(self, begin: str) -> None:
        self.ids += [self._special[begin], BEGIN_ROW]
        self.reference_start = len(self.ids)
        self.ids += [END_ROW, self._special["<|audio_eos|>"]]

    def _header(self, role: str) -> None:
        start, end = self._special["<|start_header_id|>"], self._special["<|end_header_id|>"]
        self.ids += [start, *self._encode(role), end, *self._encode("\n\n")]

    def _end(self) -> None:
        self.ids.append(self._special["<|eot_id|>"])
