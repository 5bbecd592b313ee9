"""Knows where in a body the parts of a reference may stand, and the one reference that they make."""

import numpy as np

from stentor.errors import RequestError
from stentor.request import Array, Reference
from stentor.server.bodies import ReferenceBody, SpeechBody


def read_reference(body: SpeechBody) -> Reference | None:
    """The reference, wherever in the body its parts are. Raises RequestError if they contradict."""
    if body.references and len(body.references) > 1:
        raise RequestError(
            f"references has {len(body.references)} items, but a voice is cloned from one", param="references"
        )
    item = body.references[0] if body.references else ReferenceBody()
    short = _one("ref_audio", body.ref_audio)
    audio = _only("references", item.audio_path, item.audio, item.ref_audio, _data_uri(item), short)
    text = _only("reference_text", item.text, body.reference_text, _one("ref_text", body.ref_text))
    if body.reference_codes is not None and item.vq_codes not in (None, body.reference_codes):
        raise RequestError("reference_codes and vq_codes are two voices: give one", param="reference_codes")
    rows = item.vq_codes if body.reference_codes is None else body.reference_codes
    codes = read_codes(rows, "reference_codes")
    if audio is not None and codes is not None:
        raise RequestError(
            "reference_codes and a recording are two voices: give one", param="reference_codes"
        )
    if audio is None and codes is None:
        if text is not None or body.references:
            raise RequestError(
                "the reference has no audio: give references[0].audio_path or reference_codes",
                param="references",
            )
        return None
    return Reference(audio=audio, codes=codes, text=text)


def _one(param: str, value: str | list[str] | None) -> str | None:
    if not isinstance(value, list):
        return value
    if len(value) > 1:
        raise RequestError(
            f"{param} has {len(value)} items, but a voice is cloned from one recording", param=param
        )
    return value[0] if value else None


def _only(param: str, *values: str | None) -> str | None:
    given = set(filter(None, values))
    if len(given) > 1:
        raise RequestError(f"{param} is given twice, in different words: give it once", param=param)
    return given.pop() if given else None


def _data_uri(item: ReferenceBody) -> str | None:
    if item.data is None or item.data.startswith("data:"):
        return item.data
    return f"data:{item.media_type or ''};base64,{item.data}"


def read_codes(rows: list[list[int]] | None, param: str) -> Array | None:
    """Codes int32 [num_frames, num_codebooks], if there are any. Raises RequestError, which names `param`."""
    if rows is None:
        return None
    try:
        codes = np.array(rows, np.int32)
    except (ValueError, OverflowError):
        codes = np.zeros(0, np.int32)
    if codes.ndim != 2 or codes.size == 0:
        raise RequestError(f"{param} must be a list of frames of equally many codes each", param=param)
    return codes
