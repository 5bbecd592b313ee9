"""Laws of reading JSON files: a value of the right type, or an error that names file and field."""

from pathlib import Path

import pytest

from stentor.errors import CheckpointError
from stentor.models.fields import Fields

FIELDS = Fields(
    Path("config.json"),
    {"one": 1, "half": 0.5, "yes": True, "word": "a", "none": None, "list": [1, 2], "inner": {"deep": 3}},
)


def test_values_come_back_by_their_type() -> None:
    assert FIELDS.get("one", int) == 1
    assert FIELDS.get("half", float) == 0.5
    assert FIELDS.get("yes", bool) is True
    assert FIELDS.sizes("list") == (1, 2)
    assert FIELDS.section("inner").size("deep") == 3


def test_a_whole_number_is_a_float_too() -> None:
    value = FIELDS.get("one", float)
    assert (value, type(value)) == (1.0, float)


@pytest.mark.parametrize("name", ["none", "absent"])
def test_null_counts_as_absent(name: str) -> None:
    assert FIELDS.get(name, int, 7) == 7
    with pytest.raises(CheckpointError, match=rf"config\.json: {name} is missing"):
        FIELDS.get(name, int)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("half", int), ("yes", int), ("word", float), ("one", bool), ("one", str), ("list", dict)],
)
def test_another_type_is_refused_by_name(name: str, kind: type) -> None:
    with pytest.raises(CheckpointError, match=f"{name} is .* must be of type {kind.__name__}"):
        FIELDS.get(name, kind)


@pytest.mark.parametrize("value", [0, -1])
def test_a_size_is_at_least_one(value: int) -> None:
    fields = Fields(Path("config.json"), {"size": value, "sizes": [1, value]})
    with pytest.raises(CheckpointError, match="at least 1"):
        fields.size("size")
    with pytest.raises(CheckpointError, match="at least 1"):
        fields.sizes("sizes")


def test_an_inner_field_is_named_with_its_section() -> None:
    with pytest.raises(CheckpointError, match=r"inner\.missing is missing"):
        FIELDS.section("inner").get("missing", int)


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "cannot be read"), (b"{", "no JSON"), (b"[]", "no JSON object"), (b"\xff", "no JSON")],
)
def test_a_file_that_is_no_json_object_is_refused_by_name(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=problem) as caught:
        Fields.read(path)
    assert str(path) in caught.value.message
