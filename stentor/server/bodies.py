"""Knows the body of `POST /v1/audio/speech`: OpenAI's fields, and those of other speech servers."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

FormatName = Literal["wav", "pcm", "flac", "mp3", "opus", "aac"]

# Fields that other servers have for other models. As null or false they ask for nothing.
FOREIGN_FIELDS = frozenset(
    (
        *("speaker_embedding", "x_vector_only_mode", "ref_audio_2", "token_count", "duration_tokens"),
        *("stream_codec_output", "suppress_bootstrap_silence", "word_timestamps", "min_p", "cfg_scale"),
        *("frequency_penalty", "presence_penalty", "exaggeration", "emotion", "lang_code", "prompt_audio"),
    )
)


class Strict(BaseModel):
    """A body that refuses what it does not know, and what is of another type."""

    model_config = ConfigDict(strict=True, extra="forbid")


class VoiceName(BaseModel):
    """A voice as an object; that of the list of voices will do as it is."""

    model_config = ConfigDict(strict=True)

    id: str


class ReferenceBody(Strict):
    """A recording of the voice to clone, or its codes."""

    audio_path: Annotated[
        str | None, Field(description="A path, an http(s) URL, a data URI or base64 text.")
    ] = None
    audio: Annotated[str | None, Field(description="The same as `audio_path`.")] = None
    ref_audio: Annotated[str | None, Field(description="The same as `audio_path`.")] = None
    data: Annotated[str | None, Field(description="Base64 text of an audio file.")] = None
    media_type: Annotated[str | None, Field(description="The media type of `data`; audio/* is known.")] = None
    vq_codes: Annotated[list[list[int]] | None, Field(description="The same as `reference_codes`.")] = None
    text: Annotated[str | None, Field(description="What the recording says; makes the clone better.")] = None


class SpeechBody(Strict):
    """What to say, in which voice and how; null means the default."""

    input: Annotated[str, Field(description="The text, with control tags where the model knows them.")]
    model: Annotated[str | None, Field(description="The served model, if given.")] = None
    voice: Annotated[
        str | VoiceName | None,
        Field(description="A name of `/v1/audio/voices`, null is the default; ignored with a reference."),
    ] = None
    speaker: Annotated[str | VoiceName | None, Field(description="The same as `voice`.")] = None
    instructions: Annotated[
        str | None,
        Field(description="How to say it, in words; see [instructions](#instructions)."),
    ] = None
    response_format: Annotated[
        FormatName | None, Field(description="The audio format; null is `--default-format`.")
    ] = None
    sample_rate: Annotated[
        int | None, Field(description="Samples per second, 8000 to 48000; null is the model's.")
    ] = None
    speed: Annotated[float | None, Field(description="0.25 to 4; the pitch stays. Null is 1.")] = None
    loudness_lufs: Annotated[
        float | None, Field(description="Loudness to bring it to, -40 to -5 LUFS; null leaves it as it is.")
    ] = None
    trim_silence: Annotated[bool | None, Field(description="Leave out a silent end, but for 100 ms.")] = True
    stream: Annotated[bool | None, Field(description="Send audio as it is made.")] = None
    stream_format: Annotated[
        Literal["audio", "sse"] | None,
        Field(description="Stream as raw bytes of the format, or as OpenAI's `speech.audio.delta` events."),
    ] = None
    references: Annotated[list[ReferenceBody] | None, Field(description="One recording to clone.")] = None
    reference_codes: Annotated[
        list[list[int]] | None,
        Field(description="Codes instead of a recording, [num_frames, num_codebooks], without delay."),
    ] = None
    reference_text: Annotated[str | None, Field(description="What the reference says.")] = None
    ref_audio: Annotated[
        str | list[str] | None,
        Field(description="Short for `references[0].audio_path`; a list of one is as good."),
    ] = None
    ref_text: Annotated[str | list[str] | None, Field(description="Short for `references[0].text`.")] = None
    max_new_tokens: Annotated[
        int | None, Field(description="Rows of codes (40 ms each, of some models 80), at most.")
    ] = None
    temperature: Annotated[float | None, Field(description="0 is greedy; null is the checkpoint's.")] = None
    top_p: Annotated[float | None, Field(description="Share of the probability drawn from.")] = None
    top_k: Annotated[int | None, Field(description="Number of candidates drawn from; 0 is all.")] = None
    repetition_penalty: Annotated[
        float | None,
        Field(description="0.5 to 2, 1 is none: above it, a code of the last 16 rows (0.64 s) is rarer."),
    ] = None
    seed: Annotated[int | None, Field(description="The same seed gives the same speech.")] = None
    runaway_guard: Annotated[
        bool | None, Field(description="Cut a generation far too long for its text.")
    ] = True
    check_tags: Annotated[bool | None, Field(description="Refuse control tags that do not exist.")] = True
    initial_codec_chunk_frames: Annotated[
        int | None, Field(ge=0, description="Frames in a stream's first chunk; 0 lets the server choose.")
    ] = None
    non_streaming_mode: Annotated[
        bool | None, Field(description="A hint of other models; the text is always read as a whole.")
    ] = None
    task_type: Annotated[
        Literal["Base", "CustomVoice", "VoiceDesign"] | None,
        Field(description="A hint: what a model is for it says itself, and others design no voices."),
    ] = None
    language: Annotated[
        str | None, Field(description="The text's: a name, a code or a tag; some models hear it in the text.")
    ] = None
    extra_params: Annotated[
        dict[str, Any] | None, Field(description="More of these fields, as if they stood outside.")
    ] = None
    stage_params: Annotated[
        dict[str, dict[str, Any]] | None, Field(description="The same, by the name of a stage.")
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, body: Any) -> Any:
        """One flat body: what stands in `extra_params` and `stage_params` joins the rest."""
        if not isinstance(body, dict):
            return body
        flat = {name: value for name, value in body.items() if not _asks_nothing(name, value)}
        stages = body.get("stage_params")
        for inner in (body.get("extra_params"), *(stages.values() if isinstance(stages, dict) else ())):
            for name, value in inner.items() if isinstance(inner, dict) else ():
                if _asks_nothing(name, value) or value is None:
                    continue
                if flat.setdefault(name, value) not in (None, value):
                    raise ValueError(f"{str(name)[:100]} is given twice, in different words: give it once")
                flat[name] = value
        return flat

    @model_validator(mode="after")
    def _one_voice(self) -> Self:
        if self.voice and self.speaker and self.voice != self.speaker:
            raise ValueError("voice and speaker are two names for one thing: give one of them")
        return self


FIELDS = tuple(SpeechBody.model_fields)


def _asks_nothing(name: Any, value: Any) -> bool:
    return name in FOREIGN_FIELDS and value in (None, False)
