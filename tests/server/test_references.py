import base64
from typing import Any

import numpy as np
import pytest

from stentor.errors import RequestError
from stentor.request import Reference
from stentor.server.bodies import SpeechBody
from stentor.server.references import read_reference

CODES = [[1] * 8, [2] * 8]


def read(**body: Any) -> Reference | None:
    return read_reference(SpeechBody.model_validate({"input": "Hello.", **body}))


def reference(**body: Any) -> Reference:
    found = read(**body)
    assert found is not None
    return found


@pytest.mark.parametrize("key", ["audio_path", "audio", "ref_audio"])
def test_a_recording_in_all_spellings(key: str) -> None:
    assert reference(references=[{key: "a.wav", "text": "Hi."}]) == Reference(audio="a.wav", text="Hi.")


@pytest.mark.parametrize("as_list", [False, True])
def test_the_short_spelling_of_a_recording(as_list: bool) -> None:
    audio, text = (["a.wav"], ["Hi."]) if as_list else ("a.wav", "Hi.")
    assert reference(ref_audio=audio, ref_text=text) == Reference(audio="a.wav", text="Hi.")


def test_data_with_its_media_type_is_a_data_uri() -> None:
    data = base64.b64encode(b"sound").decode()
    assert reference(references=[{"data": data, "media_type": "audio/mpeg"}]).audio == (
        f"data:audio/mpeg;base64,{data}"
    )
    assert reference(references=[{"data": data}]).audio == f"data:;base64,{data}"


def test_codes_with_their_text() -> None:
    for text in (
        {"reference_text": "Hi."},
        {"ref_text": "Hi."},
        {"references": [{"text": "Hi."}]},
        {"references": [{"vq_codes": CODES, "text": "Hi."}], "reference_codes": None},
    ):
        found = reference(**{"reference_codes": CODES, **text})
        assert found.codes is not None
        np.testing.assert_array_equal(found.codes, CODES)
        assert np.issubdtype(found.codes.dtype, np.integer)
        assert (found.audio, found.text) == (None, "Hi.")


def test_empty_references_are_none() -> None:
    assert read(references=[]) is None


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"references": [{"audio": "a"}, {"audio": "b"}]}, "references", "2 items"),
        ({"references": [{"audio": "a", "audio_path": "b"}]}, "references", "given twice"),
        ({"references": [{"audio": "a"}], "ref_audio": "b"}, "references", "given twice"),
        ({"ref_audio": "a", "ref_text": "x", "reference_text": "y"}, "reference_text", "given twice"),
        ({"references": [{"audio": "a"}], "reference_codes": CODES}, "reference_codes", "two voices"),
        (
            {"references": [{"vq_codes": CODES}], "reference_codes": CODES[:1]},
            "reference_codes",
            "two voices",
        ),
        ({"references": [{"vq_codes": CODES, "audio": "a"}]}, "reference_codes", "two voices"),
        ({"ref_audio": ["a", "b"]}, "ref_audio", "2 items"),
        ({"ref_audio": "a", "ref_text": ["a", "b"]}, "ref_text", "2 items"),
        ({"references": [{}]}, "references", "no audio"),
        ({"references": [{"text": "Hi."}]}, "references", "no audio"),
        ({"reference_text": "Hi."}, "references", "no audio"),
        ({"reference_codes": []}, "reference_codes", "equally many"),
        ({"reference_codes": [[]]}, "reference_codes", "equally many"),
        ({"reference_codes": [[1, 2], [3]]}, "reference_codes", "equally many"),
        ({"reference_codes": [[10**30] * 8]}, "reference_codes", "equally many"),
    ],
)
def test_references_that_contradict_themselves_are_refused(
    body: dict[str, Any], param: str, said: str
) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        read(**body)
    assert caught.value.param == param
