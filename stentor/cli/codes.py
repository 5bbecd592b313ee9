"""`stentor codes encode` and `decode`: recordings to codes and back, without the language model."""

import io
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from stentor.cli.options import with_settings
from stentor.cli.output import check_output, write_output
from stentor.cli.progress import Progress
from stentor.config import Config
from stentor.errors import NotFoundError, RequestError

if TYPE_CHECKING:
    from stentor.request import Array

app = typer.Typer(help="Recordings to codes and back.", no_args_is_help=True)


@app.command("encode")
@with_settings("model", "reference")
def encode(
    config: Config,
    recording: Annotated[str, typer.Argument(help="Audio file (any common format) or a URL.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The codes, an integer .npy array [T, codebooks].")
    ],
) -> None:
    """Encode a recording into codes, which later requests take as `reference_codes`."""
    from stentor.cli.codec import encode_reference

    check_output(output)
    with Progress() as progress:
        progress.show("encoding")
        codes = encode_reference(recording, config)
    write_output(output, as_npy(codes))
    print(f"{output}: {len(codes)} frames of {codes.shape[1]} codes", file=sys.stderr)


@app.command("decode")
@with_settings("model")
def decode(
    config: Config,
    codes: Annotated[Path, typer.Argument(help="The codes, an integer .npy array [T, codebooks].")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Audio file; its suffix is the format.")],
) -> None:
    """Decode codes into an audio file."""
    from stentor.cli.codec import decode_codes
    from stentor.tts import format_of

    format = format_of(output)
    check_output(output)
    with Progress() as progress:
        progress.show("decoding")
        speech = decode_codes(read_codes(codes), config)
    write_output(output, speech.encode(format))
    print(f"{output}: {speech.duration_s:.2f} s", file=sys.stderr)


def as_npy(codes: "Array") -> bytes:
    """The array as an .npy file."""
    file = io.BytesIO()
    np.save(file, codes)
    return file.getvalue()


def read_codes(path: Path) -> "Array":
    """The array of an .npy file; its shape and range are the model's to check.

    Raises:
        NotFoundError: there is no such file.
        RequestError: it is no .npy file of plain numbers.
    """
    try:
        with path.open("rb") as file:
            codes = np.load(file, allow_pickle=False)
    except OSError as error:
        raise NotFoundError(f"the codes {str(path)!r} cannot be read: {error}") from None
    except (ValueError, EOFError, zipfile.BadZipFile):
        # NumPy's own words advise to run whatever is in the file.
        raise RequestError(
            f"{str(path)!r} is not an .npy array of numbers: make it with `stentor codes encode` or np.save"
        ) from None
    if not isinstance(codes, np.ndarray):
        raise RequestError(f"{str(path)!r} holds several arrays: save the codes alone, with np.save")
    return codes
