"""A launch begins early only on a card that can, and whatever may be launched early waits by itself."""

import ast
from pathlib import Path

import pytest
import torch

launches = pytest.importorskip("stentor.layers.triton.launches")


def test_only_hopper_and_later_begin_early(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launches.early(torch.device("cpu")) == {"EARLY": False}
    for number, (capability, can) in enumerate({(8, 9): False, (9, 0): True, (10, 0): True}.items()):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert launches.early(torch.device("cuda", number))["EARLY"] is can


def test_every_kernel_that_may_begin_early_waits_for_the_launch_before() -> None:
    waiting = 0
    for path in Path(launches.__file__).parent.glob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef) or "EARLY" not in {
                a.arg for a in function.args.args
            }:
                continue
            if function.name != "wait_for_previous":
                assert "wait_for_previous(EARLY)" in ast.unparse(function), function.name
                waiting += 1
    assert waiting == 10
