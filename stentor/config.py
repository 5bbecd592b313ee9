"""Every setting there is, one frozen dataclass per concern, composed in `Config`.

The only reader of STENTOR_* variables. Each field carries a help text, from which the command line's flags,
the environment names (`STENTOR_<SECTION>_<FIELD>`) and the reference page are generated.
"""

import math
import os
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, cast

from stentor.errors import ConfigError


def setting(default: Any, help: str, *, minimum: float | None = None, maximum: float | None = None) -> Any:
    """A field with a default, the sentence that documents it everywhere, and its inclusive bounds."""
    return field(default=default, metadata={"help": help, "minimum": minimum, "maximum": maximum})


@dataclass(frozen=True)
class ModelConfig:
    """Which checkpoint is served, and in which arithmetic."""

    model: str = setting("", "Folder or hub id of the checkpoint; empty means the built-in voice.")
    load_format: Literal["auto", "dummy"] = setting(
        "auto", "'dummy' fills the checkpoint's configuration with random weights (for benchmarks)."
    )
    cache_folder: str = setting(
        "", "Folder that keeps compiled kernels (see `stentor warmup`); empty means the libraries' own."
    )
    device: str = setting(
        "auto",
        "Where the model runs: 'auto', 'cpu', 'cuda', 'cuda:N', or `tcp://HOST:PORT` of a `stentor worker`; "
        "several, with commas, each have a whole model and share the requests.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = setting(
        "auto",
        "Arithmetic of the language model; 'auto' is bfloat16 on hardware that has it and on a CPU for "
        "int8 weights, else float32.",
    )


@dataclass(frozen=True)
class EngineConfig:
    """How the autoregressive loop shares its memory and its steps."""

    max_running_requests: int = setting(16, "Sequences that decode together, at most.", minimum=1)
    max_context: int = setting(
        4096, "Positions of one sequence (prompt, reference and generated rows), at most.", minimum=16
    )
    block_size: int = setting(16, "Positions in one block of the paged KV cache.", minimum=1)
    kv_cache_bytes: int = setting(
        0,
        "Bytes for the KV cache; 0 sizes it by the running requests and the context, within the free memory.",
        minimum=0,
    )
    prefix_caching: bool = setting(True, "Keep the KV blocks of known prompts and voices for reuse.")
    max_prefill_tokens: int = setting(
        512,
        "Prompt positions that one step may compute beside what runs; a longer prompt takes several steps.",
        minimum=1,
    )
    cuda_graphs: bool = setting(True, "Capture steps and short prefills as CUDA graphs (on a GPU).")
    overlap: Literal["auto", "on", "off"] = setting(
        "auto", "Launch a step before the last one has been read; 'auto' does so on a GPU."
    )
    attention_backend: str = setting(
        "auto", "'auto', 'sdpa', or on a GPU 'triton', 'flashinfer', 'fa3' or 'sage': see `stentor doctor`."
    )
    quantization: Literal["auto", "none", "int8", "fp8", "int4"] = setting(
        "auto",
        "Keep weights in fewer bits: 'int8' anywhere, 'fp8' or 'int4' on a GPU; codes change. 'auto' is "
        "'int8' for bfloat16 on a CPU, 'none' elsewhere.",
    )
    kv_cache_dtype: Literal["auto", "fp8"] = setting(
        "auto",
        "Numbers of the KV cache: 'auto' is the model's arithmetic, 'fp8' half of its bytes; codes change.",
    )
    own_product_rows: int = setting(
        -1,
        "Products of up to this many rows are our own kernel's on a GPU, not the library's, and give a seed "
        "the same codes in any batch from two to so many; -1 is 16 on cards whose best tiles are known, "
        "else 0.",
        minimum=-1,
        maximum=64,
    )
    kernels: Literal["auto", "eager", "triton"] = setting(
        "auto",
        "Who does the work between the products: 'auto' is Triton's kernels on a GPU, PyTorch elsewhere.",
    )


@dataclass(frozen=True)
class VocoderConfig:
    """When codes become sound."""

    initial_chunk_frames: int = setting(
        2,
        "Frames (40 or 80 ms each) in a stream's first chunk; it comes as soon as these samples are exact.",
        minimum=1,
    )
    max_chunk_frames: int = setting(
        50, "Frames in a chunk once the listener is well ahead, at most.", minimum=1
    )
    max_batch_frames: int = setting(
        600, "Frames that one vocoder round decodes over all streams, at most.", minimum=1
    )
    dtype: Literal["auto", "float32", "tfloat32", "bfloat16", "float16"] = setting(
        "auto",
        "Arithmetic of the vocoder. On a GPU each streams the very samples of a whole decode, and 'auto' is "
        "'tfloat32', float32 rounded to 10 bits where it is multiplied, as PyTorch's convolutions are there. "
        "On a CPU 'auto' is float32; only that is exact there, and there is no 'float16'.",
    )
    beside_engine: Literal["auto", "on", "off"] = setting(
        "auto",
        "Run the vocoder in the engine's process, where their streams share a GPU; 'auto' does so on a GPU.",
    )


@dataclass(frozen=True)
class ReferenceConfig:
    """What may serve as the recording of a voice, and where named voices are kept."""

    allowed_folder: str = setting(
        "", "Local reference files are read only below this folder; empty refuses them."
    )
    allow_urls: bool = setting(True, "Fetch references from public http(s) addresses.")
    max_seconds: float = setting(30.0, "Longest reference, in seconds.", minimum=2)
    max_bytes: int = setting(10 * 2**20, "Largest reference file, in bytes.", minimum=1)
    fetch_timeout_s: float = setting(10.0, "Seconds until fetching a reference is given up.", minimum=0.1)
    cache_bytes: int = setting(64 * 2**20, "Memory for encoded references, in bytes.", minimum=0)
    asr: str = setting(
        "",
        "Folder or hub id of a speech recogniser that writes down what references without a transcript say; "
        "empty: they are cloned without.",
    )
    voices_folder: str = setting(
        "",
        "Where the voices that users make are kept, for all servers that name it; empty is `stentor/voices` "
        "in the user's data folder (`~/.local/share`).",
    )
    max_voices: int = setting(1000, "Voices that users may have made, at most.", minimum=0)
    keep_recordings: bool = setting(
        True, "Keep a voice's trimmed recording beside its codes, for models with another codec."
    )


@dataclass(frozen=True)
class PipelineConfig:
    """How the stages are run and how much may wait."""

    workers: Literal["thread", "process"] = setting("process", "Run stages as threads or as processes.")
    threads_per_worker: int = setting(
        1, "Torch threads of one worker; more than the free cores makes all slower.", minimum=1
    )
    max_requests: int = setting(
        64, "Requests in the house (running, waiting or unread) before new ones get 503.", minimum=1
    )
    link_credits: int = setting(32, "Messages under way on one link before its sender waits.", minimum=1)
    start_timeout_s: float = setting(
        300.0, "Seconds until a worker that does not come up is an error.", minimum=0.1
    )
    worker_secret: str = setting(
        "",
        "What a `stentor worker` and its servers must both know; their connection is encrypted then. Others "
        "on the machine see flags: prefer the variable.",
    )
    restart_limit: int = setting(
        10, "Restarts of one worker within a minute before the pipeline gives up.", minimum=0
    )


@dataclass(frozen=True)
class ServerConfig:
    """The HTTP front door."""

    host: str = setting("127.0.0.1", "Address to listen on.")
    port: int = setting(8000, "Port to listen on; 0 takes a free one.", minimum=0, maximum=65535)
    wyoming: int = setting(
        0, "Port on which to speak Wyoming (Home Assistant) as well; 0 is off.", minimum=0, maximum=65535
    )
    wyoming_host: str = setting(
        "127.0.0.1",
        "Address on which Wyoming is spoken, whatever `--host` is: it knows no keys, so whoever reaches it "
        "may speak.",
    )
    served_model_name: str = setting("", "Name of the model in the API; empty takes the checkpoint's.")
    languages: str = setting(
        "en",
        "Languages of the voices, as some clients ask (ElevenLabs, Wyoming): ISO 639-1 codes with commas.",
    )
    max_input_chars: int = setting(
        4096, "Longest input text, and text of a reference, in characters.", minimum=1
    )
    max_batch_items: int = setting(32, "Texts in one request to say many, at most.", minimum=1)
    default_format: Literal["wav", "pcm", "flac", "mp3", "opus", "aac"] = setting(
        "wav", "Audio format of an answer to a request that names none ('mp3' is OpenAI's own)."
    )
    outcome_age_s: float = setting(
        600.0, "Seconds that the outcome of a request can be asked for after it.", minimum=0
    )
    read_timeout_s: float = setting(
        30.0, "Seconds that a client may pause within the body of its request.", minimum=0.1
    )
    write_timeout_s: float = setting(60.0, "Seconds that a client may leave its stream unread.", minimum=0.1)
    socket_idle_timeout_s: float = setting(
        300.0,
        "Seconds that a WebSocket or Wyoming client may send nothing while nothing is spoken to it.",
        minimum=0.1,
    )
    socket_pending_chars: int = setting(
        65_536, "Characters that such a client may send ahead of what is spoken, at most.", minimum=1
    )
    shutdown_timeout_s: float = setting(
        10.0,
        "Seconds that running requests get to finish after SIGTERM or Ctrl-C; a second one ends them.",
        minimum=0,
    )
    drain_delay_s: float = setting(
        0.0,
        "Seconds of not being ready, still listening, before a drained server may end: for load balancers.",
        minimum=0,
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting("info", "How much is logged to stderr.")
    log_format: Literal["text", "json"] = setting("text", "Log lines for people, or one JSON object each.")
    tracing: bool = setting(
        False, "Send OpenTelemetry spans, to where the OTEL_* variables say (needs the extra `otel`)."
    )


@dataclass(frozen=True)
class AccessConfig:
    """Who may use the server, how much of it, and from which web pages."""

    api_keys: str = setting(
        "",
        "API keys, separated by commas, each KEY or NAME:KEY. Others on the machine see flags: prefer the "
        "variable, or a file.",
    )
    api_keys_file: str = setting(
        "", "TOML file of API keys, with names and limits; read again when it has changed."
    )
    open_routes: str = setting(
        "metrics",
        "What needs no key, of 'metrics', 'voices' and 'models' (their lists), separated by commas. The page "
        "and the checks never need one.",
    )
    key_concurrent_requests: int = setting(
        0, "Speech requests under way with one key, at most; 0 is no limit.", minimum=0
    )
    key_requests_per_minute: int = setting(
        0, "Speech requests a minute with one key, at most; 0 is no limit.", minimum=0
    )
    key_characters_per_minute: int = setting(
        0, "Characters of text a minute with one key, at most; 0 is no limit.", minimum=0
    )
    admin: bool = setting(
        False, "Serve /v1/admin to API keys with `admin = true`; otherwise it does not exist."
    )
    cors_origins: str = setting(
        "", "Origins of web pages that may call the API, separated by commas; '*' allows all."
    )


@dataclass(frozen=True)
class UiConfig:
    """The page in Gradio, a client of a server (`stentor ui`, `stentor serve --ui`)."""

    host: str = setting("127.0.0.1", "Address that the page listens on.")
    port: int = setting(7860, "Port of the page.", minimum=1, maximum=65535)
    server_url: str = setting(
        "http://127.0.0.1:8000", "The server that the page asks; with `serve --ui` it is that one."
    )
    api_key: str = setting("", "The key that the page sends, where the server asks for one.")


@dataclass(frozen=True)
class Config:
    """All settings of one running Stentor."""

    model: ModelConfig = ModelConfig()
    engine: EngineConfig = EngineConfig()
    vocoder: VocoderConfig = VocoderConfig()
    reference: ReferenceConfig = ReferenceConfig()
    pipeline: PipelineConfig = PipelineConfig()
    server: ServerConfig = ServerConfig()
    access: AccessConfig = AccessConfig()
    ui: UiConfig = UiConfig()


@dataclass(frozen=True)
class Setting:
    """One field of one section, as data: what flags, variables and the reference page are made of."""

    section: str
    name: str
    type: Any
    default: Any
    help: str
    minimum: float | None = None
    maximum: float | None = None

    @property
    def environment_name(self) -> str:
        """The variable that sets it, for example STENTOR_ENGINE_BLOCK_SIZE."""
        return f"STENTOR_{self.section}_{self.name}".upper()

    @property
    def flag(self) -> str:
        """The command line's flag: the field's name, behind the section's where the name is not unique."""
        owners = [s.name for s in fields(Config) if self.name in cast(Any, s.type).__dataclass_fields__]
        unique = len(owners) == 1 or owners[0] == self.section
        return f"--{self.name if unique else f'{self.section}_{self.name}'}".replace("_", "-")

    def check(self, value: Any) -> None:
        """Refuse a value of another type, outside the choices or outside the bounds, with a ConfigError."""
        name = f"{self.flag} ({self.environment_name})"
        choices = typing.get_args(self.type) if typing.get_origin(self.type) is Literal else ()
        if choices:
            if value not in choices:
                raise ConfigError(f"{name} is {value!r}, but must be one of {', '.join(choices)}")
            return
        if type(value) is not self.type and not (self.type is float and type(value) is int):
            raise ConfigError(f"{name} is {value!r}, but must be of type {self.type.__name__}")
        if value == math.inf:
            raise ConfigError(f"{name} is {value!r}, but must be finite")
        if self.minimum is not None and not value >= self.minimum:
            raise ConfigError(f"{name} is {value!r}, but must be at least {self.minimum:g}")
        if self.maximum is not None and not value <= self.maximum:
            raise ConfigError(f"{name} is {value!r}, but must be at most {self.maximum:g}")


def settings() -> Iterator[Setting]:
    """Every setting, in the order of the sections."""
    for section in fields(Config):
        kind = cast(Any, section.type)
        hints = typing.get_type_hints(kind)
        for item in fields(kind):
            yield Setting(section.name, item.name, hints[item.name], item.default, **item.metadata)


def from_environment(environment: Mapping[str, str] | None = None, base: Config | None = None) -> Config:
    """`base` (the defaults), overridden by the STENTOR_* variables of `environment` (the process's own).

    Raises:
        ConfigError: a variable's value does not fit its type, or a STENTOR_* variable is unknown.
    """
    environment = os.environ if environment is None else environment
    known = {item.environment_name: item for item in settings()}
    values: dict[str, dict[str, Any]] = {}
    for name, text in environment.items():
        if not name.startswith("STENTOR_"):
            continue
        if name not in known:
            raise ConfigError(f"unknown variable {name}; see docs/reference/config.md for the known ones")
        item = known[name]
        values.setdefault(item.section, {})[item.name] = parse(item, text)
    return override(base or Config(), values)


def override(config: Config, values: Mapping[str, Mapping[str, Any]]) -> Config:
    """`config` with the given fields, by section, replaced. Raises ConfigError where a value does not fit."""
    changed = {name: replace(getattr(config, name), **section) for name, section in values.items()}
    return check(replace(config, **changed))


def check(config: Config) -> Config:
    """`config` itself, if every value fits its setting; raises ConfigError for the first that does not."""
    for item in settings():
        item.check(getattr(getattr(config, item.section), item.name))
    return config


def parse(item: Setting, text: str) -> Any:
    """The value that `text` means for this setting; whether it fits is `Setting.check`'s to say.

    Raises:
        ConfigError: it means none.
    """
    kind = item.type
    if kind is str or typing.get_origin(kind) is Literal:
        return text
    if kind is bool:
        if text.lower() not in ("1", "0", "true", "false"):
            raise ConfigError(f"{item.environment_name}={text!r}: must be true or false")
        return text.lower() in ("1", "true")
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(f"{item.environment_name}={text!r}: must be of type {kind.__name__}") from None
