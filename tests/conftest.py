"""What every test gets: one thread, no STENTOR_* settings from outside, no hub, no network but loopback."""

import gc
import ipaddress
import os
import shutil
import socket
from typing import Any

import pytest

# Before anything imports torch: its pools read these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
if not shutil.which("nvidia-smi"):
    # Triton's kernels run in its interpreter; it reads this when they are defined.
    os.environ.setdefault("TRITON_INTERPRET", "1")
for _name in [name for name in os.environ if name.startswith("STENTOR_")]:
    del os.environ[_name]

# What is imported and collected stays to the end: no garbage is looked for in it, now or later.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # Libraries that look for what is left at the end would find it.


_connect = socket.socket.connect


def _connect_to_loopback(self: socket.socket, address: Any) -> None:
    if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(str(address[0])):
        raise AssertionError(f"a test tried to reach {address}: tests use loopback only")
    _connect(self, address)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@pytest.fixture(autouse=True, scope="session")
def own_data_folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Voices that tests make are not put among the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(autouse=True, scope="session")
def loopback_only() -> Any:
    """A test that reaches for the network fails at once instead of passing on some machines only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", _connect_to_loopback)
        yield
