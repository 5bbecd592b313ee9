"""A tile hangs on the card and the weight; what was not measured takes the plain one."""

import json

import pytest
import torch

from stentor.layers.triton import tiles
from stentor.layers.triton.tiles import TABLE, Tile, known_tile, tile_for, weight_name


def test_what_was_not_measured_takes_the_plain_tile() -> None:
    assert tile_for(torch.zeros(7, 3), gated=False) == Tile()
    assert known_tile(torch.zeros(7, 3), gated=False, lone=True) is None


def test_a_weight_has_the_tile_of_its_shape_dtype_and_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.zeros(64, 32, dtype=torch.int8)
    assert weight_name(weight, gated=True, lone=False) == "64x32 int8 gated"
    assert weight_name(weight, gated=False, lone=True) == "64x32 int8 lone"
    monkeypatch.setattr(tiles, "_table", lambda: {"": {"64x32 int8 gated": {"lines": 32, "warps": 8}}})
    assert tile_for(weight, gated=True) == Tile(lines=32, warps=8)
    assert tile_for(weight, gated=False) == Tile()
    assert known_tile(weight, gated=True, lone=True) is None


def test_the_table_holds_tiles() -> None:
    for card in json.loads(TABLE.read_text()).values():
        for tile in card.values():
            assert Tile(**tile).lines >= 1


def test_only_a_card_whose_tiles_are_known_multiplies_by_our_own_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tiles, "_table", lambda: {"a card": {}})
    for name, rows in (("a card", 16), ("another", 0)):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert tiles.most_rows(torch.device("cuda")) == rows
