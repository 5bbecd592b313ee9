"""Laws of the API keys: whatever is unclear is refused at the start, and nobody is let in by accident."""

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from stentor.config import AccessConfig
from stentor.errors import ConfigError
from stentor.server.keys import Keyring

SECRET = "a-long-secret-1"
OTHER = "a-long-secret-2"


def keyring(**settings: Any) -> Keyring:
    return Keyring(AccessConfig(**settings))


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def owner(keys: Keyring, *presented: str) -> str | None:
    found = keys.owner(secret.encode() for secret in presented)
    return None if found is None else found.name


def test_without_keys_none_is_asked_for() -> None:
    assert not keyring().required
    assert owner(keyring(), SECRET) is None


def test_keys_of_the_setting_have_names_given_or_not() -> None:
    keys = keyring(api_keys=f"{SECRET}, bob:{OTHER}")
    assert keys.required
    assert owner(keys, SECRET) == "key1"
    assert owner(keys, OTHER) == "bob"
    for wrong in ("", "bob", f"bob:{OTHER}", SECRET + "x", SECRET[:-1]):
        assert owner(keys, wrong) is None


def test_the_right_one_of_several_presented_counts() -> None:
    assert owner(keyring(api_keys=SECRET), "unused-key", SECRET) == "key1"


def test_a_file_has_keys_hashes_and_limits(tmp_path: Path) -> None:
    digest = hashlib.sha256(OTHER.encode()).hexdigest()
    path = write(
        tmp_path / "keys.toml",
        f'[alice]\nkey = "{SECRET}"\nrequests_per_minute = 7\n\n[bob]\nsha256 = "{digest}"\nadmin = true\n',
    )
    keys = keyring(api_keys_file=path, key_concurrent_requests=3, key_requests_per_minute=9)
    alice, bob = keys.owner([SECRET.encode()]), keys.owner([OTHER.encode()])
    assert alice is not None
    assert bob is not None
    assert (alice.name, alice.requests_per_minute, alice.concurrent_requests) == ("alice", 7, 3)
    assert (bob.name, bob.requests_per_minute, bob.admin) == ("bob", 9, True)
    assert not alice.admin
    assert keys.has_admin
    assert owner(keys, digest) is None  # The hash is no key.


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no keys"),
        ("alice = 1", "must be a table"),
        ("[alice", "is not TOML"),
        ("[alice]", "must have key"),
        ('[alice]\nkey = "short"', "at least 8 characters"),
        ("[alice]\nkey = 12345678", "must have key"),
        (f'[alice]\nkey = "{SECRET}"\nsha256 = "{"0" * 64}"', "must have key"),
        ('[alice]\nsha256 = "123"', "64 hex digits"),
        (f'[alice]\nkey = "{SECRET}"\nlimit = 3', "unknown field 'limit'"),
        (f'[alice]\nkey = "{SECRET}"\nrequests_per_minute = -1', "whole numbers"),
        (f'[alice]\nkey = "{SECRET}"\nrequests_per_minute = true', "whole numbers"),
        (f'[alice]\nkey = "{SECRET}"\nadmin = "yes"', "admin must be"),
        (f'[alice]\nkey = "{SECRET}"\n[bob]\nkey = "{SECRET}"', "the same"),
    ],
)
def test_a_file_that_is_not_clear_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        keyring(api_keys_file=write(tmp_path / "keys.toml", text))


def test_a_file_that_is_missing_does_not_open_the_server(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the API keys"):
        keyring(api_keys_file=str(tmp_path / "gone.toml"))


def test_the_same_key_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="the same"):
        keyring(api_keys=f"a:{SECRET},b:{SECRET}")
    with pytest.raises(ConfigError, match="at least 8"):
        keyring(api_keys="short")


def test_a_changed_file_is_read_again_and_a_broken_one_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys.toml"
    keys = keyring(api_keys_file=write(path, f'[alice]\nkey = "{SECRET}"'))

    def replace(text: str) -> None:
        # As deployments do it: another file takes its place.
        write(tmp_path / "new", text)
        os.replace(tmp_path / "new", path)

    replace(f'[bob]\nkey = "{OTHER}"')
    with caplog.at_level(logging.INFO):
        assert (owner(keys, SECRET), owner(keys, OTHER)) == (None, "bob")
    replace("[broken")
    assert owner(keys, OTHER) == "bob"
    path.unlink()
    assert owner(keys, OTHER) == "bob"
    assert "stay as they were" in caplog.text
    assert SECRET not in caplog.text
    replace(f'[alice]\nkey = "{SECRET}"')
    assert (owner(keys, SECRET), owner(keys, OTHER)) == ("alice", None)
