"""Knows the API keys: where they stand, whose a presented one is, and what its owner may have.

A keys file is TOML, one table per owner:

    [alice]
    key = "..."                          # or: sha256 = "64 hex digits", the key's hash
    concurrent_requests = 4              # optional, as the two below; 0 is no limit
    requests_per_minute = 60
    characters_per_minute = 20000
    admin = true                         # optional: may use /v1/admin, where that is enabled
"""

import hashlib
import hmac
import logging
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stentor.config import AccessConfig
from stentor.errors import ConfigError

_SHORTEST_KEY = 8
_LIMITS = ("concurrent_requests", "requests_per_minute", "characters_per_minute")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Key:
    """One owner's key, as its hash, and limits; 0 is none."""

    name: str
    digest: bytes
    concurrent_requests: int = 0
    requests_per_minute: int = 0
    characters_per_minute: int = 0
    admin: bool = False


class Keyring:
    """All keys of one server. Raises ConfigError if they cannot be read, or two of them are the same."""

    def __init__(self, config: AccessConfig) -> None:
        self._defaults: dict[str, int] = {limit: getattr(config, f"key_{limit}") for limit in _LIMITS}
        self._from_setting = list(_parse_setting(config.api_keys, self._defaults))
        self._path = Path(config.api_keys_file) if config.api_keys_file else None
        self._stamp = self._look()
        self._keys = self._read()

    @property
    def required(self) -> bool:
        """Is there a key at all; without one, everybody may in."""
        return bool(self._from_setting) or self._path is not None

    @property
    def has_admin(self) -> bool:
        """May anybody use /v1/admin."""
        return any(key.admin for key in self._keys)

    def owner(self, presented: Iterable[bytes]) -> Key | None:
        """The key that one of the presented is; takes as long for a wrong one as for a right one."""
        self._refresh()
        found = None
        for secret in presented:
            digest = hashlib.sha256(secret).digest()
            for key in self._keys:
                # Every key is compared, so that the time says nothing of which one came close.
                if hmac.compare_digest(digest, key.digest):
                    found = key
        return found

    def _refresh(self) -> None:
        """Read a file that has changed; while it is wrong, the keys stay as they were."""
        stamp = self._look()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = self._read()
            log.info("the API keys were read again: there are %d", len(self._keys))
        except ConfigError as error:
            log.error("the API keys stay as they were: %s", error.message)

    def _look(self) -> tuple[int, ...]:
        """What changes when the file does."""
        try:
            facts = self._path.stat() if self._path else None
        except OSError:
            facts = None
        return (facts.st_mtime_ns, facts.st_ino, facts.st_size) if facts else ()

    def _read(self) -> list[Key]:
        of_file = _parse_file(self._path, self._defaults) if self._path else []
        keys = [*self._from_setting, *of_file]
        for what in ("name", "digest"):
            if len({getattr(key, what) for key in keys}) < len(keys):
                raise ConfigError("two API keys have the same name or are the same: each needs its own")
        return keys


def _parse_setting(text: str, limits: Mapping[str, Any]) -> Iterable[Key]:
    for number, item in enumerate(filter(None, map(str.strip, text.split(","))), start=1):
        name, colon, secret = item.partition(":")
        digest = _hash(secret if colon else item, "--api-keys")
        yield Key(name if colon else f"key{number}", digest, **limits)


def _parse_file(path: Path, defaults: Mapping[str, int]) -> list[Key]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the API keys in {str(path)!r}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{str(path)!r} is not TOML: {error}") from None
    if not tables:
        raise ConfigError(f'{str(path)!r} has no keys: add one as [NAME] and key = "..."')
    return [_parse_table(name, table, defaults, str(path)) for name, table in tables.items()]


def _parse_table(name: str, table: Any, defaults: Mapping[str, int], where: str) -> Key:
    place = f"[{name}] in {where!r}"
    if not isinstance(table, dict):
        raise ConfigError(f'{place} must be a table: [{name}], and below it key = "..."')
    unknown = set(table) - {"key", "sha256", "admin", *_LIMITS}
    if unknown:
        raise ConfigError(f"{place} has an unknown field {min(unknown)!r}")
    limits = {limit: table.get(limit, defaults[limit]) for limit in _LIMITS}
    if any(type(value) is not int or value < 0 for value in limits.values()):
        raise ConfigError(f"{place}: limits must be whole numbers from 0")
    if type(table.get("admin", False)) is not bool:
        raise ConfigError(f"{place}: admin must be true or false")
    return Key(name, _digest(table, place), **limits, admin=table.get("admin", False))


def _digest(table: Mapping[str, Any], place: str) -> bytes:
    secret, hashed = table.get("key"), table.get("sha256")
    if isinstance(secret, str) and hashed is None:
        return _hash(secret, place)
    if isinstance(hashed, str) and secret is None:
        try:
            digest = bytes.fromhex(hashed)
        except ValueError:
            digest = b""
        if len(digest) == hashlib.sha256().digest_size:
            return digest
    raise ConfigError(f'{place} must have key = "..." or sha256 = "64 hex digits"')


def _hash(secret: str, place: str) -> bytes:
    if len(secret) < _SHORTEST_KEY:
        raise ConfigError(f"{place}: a key needs at least {_SHORTEST_KEY} characters")
    return hashlib.sha256(secret.encode()).digest()
