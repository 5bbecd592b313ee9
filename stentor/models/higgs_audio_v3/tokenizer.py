"""The tokens of Higgs Audio v3: which shape a prompt, which are control tags, and how text becomes ids."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from stentor.models.higgs_audio.tokens import TextTokenizer, TokenizerFile

_CONTROL_TAG = re.compile(r"<\|(emotion|style|sfx|prosody):\w+\|>")
_STRUCTURE = ("tts", "text", "audio", "ref_audio")


@dataclass(frozen=True)
class Structure:
    """The ids that shape a prompt. Older checkpoints know no transcripts: their `ref_text` is None.

    `control_tags` are those that users may write, such as `<|prosody:pause|>`, in the order of their ids.
    """

    tts: int
    text: int
    audio: int
    ref_audio: int
    ref_text: int | None
    control_tags: Mapping[str, int]

    @classmethod
    def of(cls, file: TokenizerFile) -> "Structure":
        """Raises CheckpointError: one of them is not there."""
        file.require([f"<|{name}|>" for name in _STRUCTURE])
        needed = {name: file.ids[f"<|{name}|>"] for name in _STRUCTURE}
        tags = {name: id for name, id in file.ids.items() if _CONTROL_TAG.fullmatch(name)}
        in_order = dict(sorted(tags.items(), key=lambda item: item[1]))
        return cls(**needed, ref_text=file.ids.get("<|ref_text|>"), control_tags=in_order)


class V3Tokenizer(TextTokenizer):
    """Of the special tokens, users may write the control tags; no other comes out of their text."""

    def __init__(self, file: TokenizerFile, vocab_size: int) -> None:
        """Build it. Raises CheckpointError: the file is damaged, or of another model."""
        self.structure = Structure.of(file)
        super().__init__(file, self.structure.control_tags, vocab_size)
