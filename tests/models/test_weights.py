"""Laws of checkpoint files: complete, undamaged and in shape, or refused by name."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stentor.errors import CheckpointError
from stentor.models.weights import INDEX, check_shapes, open_checkpoint
from tests.checkpoints import Recipe, make_checkpoint, random_tensors, write_tensors

TENSORS = {
    "a.weight": torch.arange(6.0).reshape(2, 3),
    "b.weight": torch.ones(4),
    "c.bias": torch.zeros(1, 1, 2),
}


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("with_index", [True, False])
def test_one_file_and_shards_hold_the_same_tensors(tmp_path: Path, shards: int, with_index: bool) -> None:
    write_tensors(tmp_path, TENSORS, shards)
    if not with_index:
        (tmp_path / INDEX).unlink()
    checkpoint = open_checkpoint(tmp_path)
    assert dict(checkpoint.shapes) == {name: tuple(tensor.shape) for name, tensor in TENSORS.items()}
    for name, tensor in TENSORS.items():
        assert torch.equal(checkpoint.tensor(name), tensor)


def test_tensors_that_the_index_leaves_out_are_there(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, with_codec=False)
    listed = json.loads((tmp_path / INDEX).read_text())["weight_map"]
    assert "tied.head.text_head.weight" not in listed
    assert "tied.head.text_head.weight" in open_checkpoint(tmp_path).shapes


def test_every_dtype_comes_back_as_it_was_written(tmp_path: Path) -> None:
    recipe = Recipe(dtype="bfloat16", with_codec=False)
    make_checkpoint(tmp_path, dtype="bfloat16", with_codec=False)
    checkpoint = open_checkpoint(tmp_path)
    for name, tensor in random_tensors(recipe).items():
        assert checkpoint.tensor(name).dtype == torch.bfloat16
        assert torch.equal(checkpoint.tensor(name), tensor)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no weights here"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("kept_bytes", [0, 4, 8, 60, -1])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, kept_bytes: int) -> None:
    write_tensors(tmp_path, TENSORS)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept_bytes])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cut short.*copy it again"):
        open_checkpoint(tmp_path)


def test_a_file_with_more_bytes_than_it_declares_is_refused(tmp_path: Path) -> None:
    write_tensors(tmp_path, TENSORS)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match="too long"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("header", [b"no json", b"[1, 2]", b'{"a": {"shape": 3}}', b'{"a": 1}'])
def test_a_damaged_header_is_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="header is damaged"):
        open_checkpoint(tmp_path)


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"<!DOCTYPE html><html>please log in</html>")
    with pytest.raises(CheckpointError, match="no safetensors file"):
        open_checkpoint(tmp_path)


def test_a_shard_that_is_absent_is_named(tmp_path: Path) -> None:
    write_tensors(tmp_path, TENSORS, shards=3)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00003"):
        open_checkpoint(tmp_path)


def test_a_tensor_that_is_listed_but_absent_is_named(tmp_path: Path) -> None:
    write_tensors(tmp_path, TENSORS, shards=3)
    index = json.loads((tmp_path / INDEX).read_text())
    index["weight_map"]["d.weight"] = "model-00001-of-00003.safetensors"
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"1 tensor is not where .* d\.weight"):
        open_checkpoint(tmp_path)


def test_a_damaged_index_is_refused(tmp_path: Path) -> None:
    write_tensors(tmp_path, TENSORS)
    (tmp_path / INDEX).write_text("{}")
    with pytest.raises(CheckpointError, match="weight_map"):
        open_checkpoint(tmp_path)


def test_one_name_in_two_files_is_refused(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "one.safetensors")
    save_file(TENSORS, tmp_path / "two.safetensors")
    with pytest.raises(CheckpointError, match=r"a\.weight is in one\.safetensors and in two\.safetensors"):
        open_checkpoint(tmp_path)


def test_the_same_weights_once_more_in_float32_are_left_alone(tmp_path: Path) -> None:
    save_file({name: tensor.half() for name, tensor in TENSORS.items()}, tmp_path / "model.safetensors")
    save_file(TENSORS, tmp_path / "model.fp32-00001-of-00001.safetensors")
    assert open_checkpoint(tmp_path).tensor("a.weight").dtype == torch.float16


def test_an_unknown_tensor_cannot_be_read(tmp_path: Path) -> None:
    write_tensors(tmp_path, TENSORS)
    with pytest.raises(CheckpointError, match=r"no tensor z\.weight"):
        open_checkpoint(tmp_path).tensor("z.weight")


WANTED = {"layers.0.weight": (2, 3), "layers.1.weight": (2, 3), "norm.weight": (3,)}


def test_the_right_tensors_pass(tmp_path: Path) -> None:
    check_shapes(tmp_path, WANTED, WANTED)
    check_shapes(tmp_path, WANTED | {"head": (5, 3)}, WANTED, optional={"head": (5, 3), "other": (1,)})


def test_a_missing_tensor_is_named_with_the_nearest_there_is(tmp_path: Path) -> None:
    found = {"layers.0.weight": (2, 3), "layers.1.weigth": (2, 3), "norm.weight": (3,)}
    with pytest.raises(CheckpointError) as caught:
        check_shapes(tmp_path, found, WANTED)
    assert "1 tensor is missing: layers.1.weight (is it layers.1.weigth?)" in caught.value.message
    assert "1 tensor is not known: layers.1.weigth" in caught.value.message
    assert str(tmp_path) in caught.value.message


def test_a_misshapen_tensor_is_named_with_both_shapes(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"norm\.weight is \[4\], not \[3\]"):
        check_shapes(tmp_path, WANTED | {"norm.weight": (4,)}, WANTED)
    with pytest.raises(CheckpointError, match=r"head is \[4\], not \[5\]"):
        check_shapes(tmp_path, WANTED | {"head": (4,)}, WANTED, optional={"head": (5,)})


def test_many_missing_tensors_are_counted(tmp_path: Path) -> None:
    wanted = {f"layers.{number}.weight": (1,) for number in range(36)}
    with pytest.raises(CheckpointError, match=r"36 tensors are missing: .*layers\.9\.weight and 26 more"):
        check_shapes(tmp_path, {}, wanted)


def test_a_digest_tells_whether_values_are_the_same(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "same", "other")]
    for folder in folders:
        folder.mkdir()
    write_tensors(folders[0], TENSORS)
    save_file({**TENSORS, "more": torch.ones(3)}, folders[1] / "model.safetensors")
    changed = {name: tensor + 1 for name, tensor in TENSORS.items()}
    save_file(changed, folders[2] / "model.safetensors")
    one, same, other = (open_checkpoint(folder).digest(sorted(TENSORS)) for folder in folders)
    assert one == same != other
    assert re.fullmatch("[0-9a-f]{16}", one)
    assert open_checkpoint(folders[0]).digest(sorted(TENSORS)[:1]) != one
