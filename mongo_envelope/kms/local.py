"""A key-encryption key that this machine keeps itself: in a file of mode 0600, in the environment, or in the system's keyring.

    content  one line of JSON: {"version": 1, "kek": base64 of 32 bytes, "check": hex of 8 bytes, "id": 16 hex digits}
    wrapped  nonce (12 random bytes) || AES-256-GCM under derive(kek, "wrap"), with associated data (NIST SP 800-38D)

The key that is stored is never used itself: what wraps and what proves that it is the right one are derived from it.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mongo_envelope import primitives
from mongo_envelope.errors import ConfigurationError, KMSError
from mongo_envelope.private_file import read_private, unique_names

from .asking import extra

__all__ = ["LocalKMS"]

_ASSOCIATED: Final = b"mongo_envelope/kms/local/1"
_NONCE_BYTES: Final = 12
_ID: Final = re.compile(r"[0-9a-f]{16}", re.ASCII)
_NOUN: Final = "key-encryption key"


class LocalKMS(primitives.NeverLeaves):
    """A key-encryption key in a file, a variable or a keyring. Whoever can read that, and the key store, reads the data.

    ``LocalKMS.from_file("kek.json", create=True)``. Keep the file apart from the backups of the database: without it a
    backup cannot be read, and with it anybody can read one.
    """

    __slots__ = ("_cipher", "_id")

    def __init__(self, key_id: str, kek: bytes) -> None:
        """Use 32 bytes under an id of 16 lower-case hex digits. Raise `ConfigurationError` for anything else."""
        if not isinstance(key_id, str) or not _ID.fullmatch(key_id):
            raise ConfigurationError("the id of a LocalKMS is 16 lower-case hex digits")
        if not isinstance(kek, bytes) or len(kek) != primitives.KEY_BYTES:
            raise ConfigurationError(f"the key of a LocalKMS has {primitives.KEY_BYTES} bytes")
        self._id: Final = key_id
        self._cipher: Final = AESGCM(primitives.derive(kek, "wrap"))

    @classmethod
    def generate(cls) -> LocalKMS:
        """A new key, kept nowhere: for tests, and to be lost with the process."""
        return cls(secrets.token_hex(8), secrets.token_bytes(primitives.KEY_BYTES))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], *, create: bool = False) -> LocalKMS:
        """Read the key from a file; with ``create``, make that first if it is not there: mode 0600, whole or not at all.

        Of two processes that make it at once one wins, and both use the winner's. Raise `ConfigurationError` if it is missing,
        unreadable, damaged, or (POSIX) open to other users.
        """
        missing = (
            "If there is a key store already, bring it back from its backup; for a new one, from_file(…, create=True) makes it"
        )
        found = _parsed(lambda: read_private(path, f"file of a {_NOUN}", make=_content if create else None, missing=missing))
        return _kms_or_error(found, f"the file of a {_NOUN} {str(path)!r}")

    @classmethod
    def from_env(cls, name: str = "MONGO_ENVELOPE_KEK") -> LocalKMS:
        """Read the key from an environment variable that holds what the file holds: ``MONGO_ENVELOPE_KEK="$(cat kek.json)"``.

        Raise `ConfigurationError` if it is not set or damaged.
        """
        if name.lstrip().startswith("{"):
            raise ConfigurationError("from_env takes the name of an environment variable, and was given its content, it seems")
        if name not in os.environ:
            raise ConfigurationError(f"the environment variable {name} is not set: it holds what the file of a {_NOUN} holds")
        found = _parsed(lambda: os.environ[name].encode(errors="surrogateescape"))
        return _kms_or_error(found, f"the environment variable {name}")

    @classmethod
    def from_keyring(cls, service: str = "mongo-envelope", name: str = "kek", *, create: bool = False) -> LocalKMS:
        """Read the key from the operating system's keyring (extra ``keyring``); with ``create``, make it if it is not there.

        The system may ask its user to unlock it. A keyring cannot refuse a second key under the same name, so make it once,
        before several processes start. Raise `ConfigurationError` if there is no keyring, no such entry, or a damaged one.
        """
        keyring = extra("keyring", "keyring")
        what = f"the entry {service!r}, {name!r} of the keyring"
        found: LocalKMS | str | None = None
        failed = ""
        try:
            found = _in_keyring(keyring, service, name)
            if found is None and create:
                keyring.set_password(service, name, _content().decode())
                found = _in_keyring(keyring, service, name)  # what stands there, whoever wrote it
                failed = "nothing was kept" if found is None else ""
        except Exception as error:  # noqa: BLE001 - each backend has its own, and their texts are not known to be harmless
            failed = type(error).__name__
        if failed:
            raise ConfigurationError(
                f"cannot use the operating system's keyring ({failed}): unlock it or configure one (python -m keyring diagnose), "
                "or keep the key in a file of mode 0600: LocalKMS.from_file"
            )
        if found is None:
            raise ConfigurationError(
                f"there is no {what[4:]}. If there is a key store already, bring it back from its backup; for a new one, "
                "from_keyring(…, create=True) makes it"
            )
        return _kms_or_error(found, what)

    @property
    def identity(self) -> Mapping[str, Any]:
        """``{"provider": "local", "key": id}``."""
        return {"provider": "local", "key": self._id}

    @property
    def public(self) -> bool:
        """No: who wraps has the key."""
        return False

    def wrap(self, secret: bytes) -> bytes:
        """The nonce, then the ciphertext and its tag: 28 bytes longer than the secret."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, secret, _ASSOCIATED)

    def unwrap(self, wrapped: bytes) -> bytes:
        """The secret. Raise `KMSError` for what this key has not wrapped, or what was changed since."""
        try:
            return self._cipher.decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], _ASSOCIATED)
        except (InvalidTag, ValueError):  # ValueError: a nonce that is too short
            pass
        raise KMSError(f"this was not wrapped under the local {_NOUN} {self._id}, or was changed since")

    def __repr__(self) -> str:
        return f"LocalKMS({self._id!r})"


def _content() -> bytes:
    """A new key, as it is kept."""
    kek = secrets.token_bytes(primitives.KEY_BYTES)
    entry = {"version": 1, "kek": base64.b64encode(kek).decode(), "check": _check(kek), "id": secrets.token_hex(8)}
    return json.dumps(entry).encode() + b"\n"


def _check(kek: bytes) -> str:
    return primitives.derive(kek, "check")[:8].hex()


def _in_keyring(keyring: Any, service: str, name: str) -> LocalKMS | str | None:
    if (content := keyring.get_password(service, name)) is None:
        return None
    return _parsed(content.encode)


def _parsed(read: Callable[[], bytes]) -> LocalKMS | str:
    """The key in what ``read`` gives, or what is wrong with that. Only ``read`` raises: no traceback has a frame with the key."""
    content = read()
    try:
        entry = json.loads(content, object_pairs_hook=unique_names)
        if type(entry["version"]) is int and entry["version"] != 1:
            return f"has version {entry['version']}, and this package reads version 1"
        if type(entry["version"]) is not int or entry.keys() != {"version", "kek", "check", "id"}:
            return _DAMAGED
        kek = base64.b64decode(entry["kek"], validate=True)
        kms = LocalKMS(entry["id"], kek)
        if not hmac.compare_digest(entry["check"].encode(), _check(kek).encode()):
            return "does not match its check value, so this is not the key that was stored. Restore it from its backup"
    except (ConfigurationError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return _DAMAGED
    return kms


_DAMAGED: Final = f"is not a {_NOUN}, or is damaged. Restore it from its backup; do not make a new one over it"


def _kms_or_error(found: LocalKMS | str, what: str) -> LocalKMS:
    if isinstance(found, str):
        raise ConfigurationError(f"{what} {found}")
    return found
