"""Data keys and the ring that holds them: looked up by id, never tried in turn.

A `DataKey` is 32 random bytes under a name, its ``kid``. A `KeyRing` holds several, one of which is *primary*: the one
that seals. All of them open. `envelope` asks the ring for working keys; nobody else sees material. The purposes and
their labels are in `primitives`.

Python cannot erase memory. What can be done is done: a repr shows no material, and a ring refuses pickle and copy, so
that a key does not wander into a cache, a queue or a crash report.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import json
import os
import re
import secrets
import sys
import tempfile
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from . import primitives
from .errors import ConfigurationError, UnknownKeyError, shortened

__all__ = ["DataKey", "KeyRing", "WorkingKeys", "check_context"]

_KID: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_CHECK_BYTES: Final = 8
_FILE_VERSION: Final = 1


def is_kid(text: object) -> bool:
    """Whether this is a well-formed key id: 1 to 64 ASCII letters, digits, ``_``, ``.`` or ``-``."""
    return isinstance(text, str) and _KID.fullmatch(text) is not None


def check_context(context: object) -> str:
    """The context as it is, or `ConfigurationError`: text whose UTF-8 has 1 to 255 bytes."""
    if not isinstance(context, str):
        raise ConfigurationError("context= must be text: the name under which this collection's keys are derived")
    try:
        size = len(context.encode())
    except UnicodeEncodeError:
        size = 0
    if not 1 <= size <= 255:
        raise ConfigurationError("context= must be valid text of 1 to 255 bytes of UTF-8")
    return context


class WorkingKeys(primitives.NeverLeaves):
    """What one data key gives in one context: the only form in which `envelope` meets a key."""

    __slots__ = ("authenticator", "cipher")

    def __init__(self, encrypt: bytes, authenticate: bytes) -> None:
        """Take the two keys, 32 bytes each; `DataKey.working_keys` derives them."""
        self.cipher: Final = primitives.StreamCipher(encrypt)
        self.authenticator: Final = primitives.Authenticator(authenticate)

    def __repr__(self) -> str:
        return "WorkingKeys(…)"


class DataKey(primitives.NeverLeaves):
    """32 bytes under a name. Its ``check`` value proves, without giving anything away, that it is the key that was meant."""

    __slots__ = ("_material", "check", "created", "kid")

    def __init__(self, kid: str, material: bytes, *, created: datetime | None = None, check: bytes | None = None) -> None:
        """Raise `ConfigurationError` if the id, the length or the check value (8 bytes) does not fit."""
        if not is_kid(kid):
            raise ConfigurationError("a key id is 1 to 64 of the characters A-Z a-z 0-9 _ . -")
        if not isinstance(material, bytes) or len(material) != primitives.KEY_BYTES:
            raise ConfigurationError(f"key {kid!r}: a data key has {primitives.KEY_BYTES} bytes")
        self.kid: Final = kid
        self._material: Final = material
        self.created: Final = created
        self.check: Final = primitives.derive(material, "check")[:_CHECK_BYTES]
        if check is not None and not (isinstance(check, bytes) and hmac.compare_digest(check, self.check)):
            raise ConfigurationError(
                f"key {kid!r}: the material does not match its check value, so this is not the key that was stored under "
                "this id. Restore the key file from its backup"
            )

    @classmethod
    def generate(cls, kid: str | None = None) -> DataKey:
        """A new key from the operating system's generator; without ``kid``, under a random id of 16 hex digits."""
        created = datetime.now(UTC).replace(microsecond=0)
        return cls(kid or secrets.token_hex(8), secrets.token_bytes(primitives.KEY_BYTES), created=created)

    def working_keys(self, context: str) -> WorkingKeys:
        """The keys of this data key for documents in one context. Raise `ConfigurationError` for what cannot be a context."""
        context = check_context(context)
        encrypt = primitives.derive(primitives.derive(self._material, "encrypt"), "encrypt", context)
        authenticate = primitives.derive(primitives.derive(self._material, "authenticate"), "authenticate", context)
        return WorkingKeys(encrypt, authenticate)

    def __repr__(self) -> str:
        return f"DataKey({self.kid!r})"


class KeyRing(primitives.NeverLeaves):
    """Data keys by id. The primary one seals; all of them open.

    ``KeyRing.from_file("keys.json", create=True)`` for a first service, `from_env` for a container, ``generate()`` for
    a test. A ring does not change: adding a key makes another ring.
    """

    __slots__ = ("_keys", "_primary", "_working")

    def __init__(self, keys: Iterable[DataKey], *, primary: str | None = None) -> None:
        """Hold ``keys``; ``primary`` is the id of the one that seals (default: the first).

        Raise `ConfigurationError` for no key, an id twice, or a primary that is not among them.
        """
        self._keys: dict[str, DataKey] = {}
        for key in keys:
            if not isinstance(key, DataKey):
                raise ConfigurationError("a KeyRing holds DataKey objects: DataKey.generate(), or DataKey(kid, 32 bytes)")
            if key.kid in self._keys:
                raise ConfigurationError(f"the key id {key.kid!r} occurs twice: an id names one key, for ever")
            self._keys[key.kid] = key
        if not self._keys:
            raise ConfigurationError("a KeyRing needs at least one key: KeyRing.generate() makes one")
        self._primary = next(iter(self._keys)) if primary is None else primary
        if not is_kid(self._primary) or self._primary not in self._keys:
            which = shortened(primary) if is_kid(primary) else "(not even a key id)"
            raise ConfigurationError(f"the primary key {which} is not in the ring")
        self._working: dict[tuple[str, str], WorkingKeys] = {}

    @classmethod
    def generate(cls) -> KeyRing:
        """A ring of one new random key, kept nowhere: for tests, and to be lost with the process."""
        return cls([DataKey.generate()])

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], *, create: bool = False) -> KeyRing:
        """Read a key file; with ``create``, make it first if it is not there: mode 0600, whole or not at all.

        Raise `ConfigurationError` if it is missing, unreadable, damaged, or (POSIX) open to other users. Whoever reads this
        file reads the data; without it the data is lost. Keep it out of the repository and in a backup of its own.
        """
        if isinstance(path, str) and path.lstrip().startswith("{"):
            raise ConfigurationError("from_file takes the name of a key file, and was given its content, it seems")
        file, what = Path(path), f"the key file {str(path)!r}"
        try:
            if create and not file.exists():
                _create_private(file, cls.generate()._as_json())
            with file.open("rb") as opened:
                mode = os.fstat(opened.fileno()).st_mode
                ring = _parsed(opened.read())
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            problem = getattr(error, "strerror", None) or "not a path"
            raise ConfigurationError(
                f"cannot read {what}: {problem}. If there are data already, bring this file back from its backup; for a new "
                "database, from_file(…, create=True) makes one"
            ) from error
        if sys.platform != "win32" and mode & 0o077:
            raise ConfigurationError(f"{what} can be read by other users: chmod 600 it")
        return _ring_or_error(ring, what)

    @classmethod
    def from_env(cls, name: str = "MONGO_ENVELOPE_KEYS") -> KeyRing:
        """Read the ring from an environment variable that holds what a key file holds (JSON, one line will do).

        ``MONGO_ENVELOPE_KEYS="$(cat keys.json)"``. Raise `ConfigurationError` if it is not set or damaged.
        """
        if name.lstrip().startswith("{"):
            raise ConfigurationError("from_env takes the name of an environment variable, and was given its content, it seems")
        if name not in os.environ:
            raise ConfigurationError(f"the environment variable {name} is not set: it holds what a key file holds")
        return _ring_or_error(_parsed(os.environ[name].encode(errors="surrogateescape")), f"the environment variable {name}")

    def to_file(self, path: str | os.PathLike[str]) -> None:
        """Write the ring, material included, as a new key file of mode 0600. Raise `ConfigurationError` if it exists."""
        if not _create_private(Path(path), self._as_json()):
            raise ConfigurationError(f"{str(path)!r} exists already: a key file is never overwritten")

    def with_key(self, key: DataKey, *, primary: bool = True) -> KeyRing:
        """Another ring that holds this key too and, unless told otherwise, seals with it."""
        return KeyRing([*self._keys.values(), key], primary=key.kid if primary else self._primary)

    def with_primary(self, kid: str) -> KeyRing:
        """Another ring of the same keys that seals with this one. Raise `ConfigurationError` if it is not in the ring."""
        return KeyRing(self._keys.values(), primary=kid)

    @property
    def primary(self) -> str:
        """The id of the key that seals."""
        return self._primary

    def working_keys(self, kid: str, context: str) -> WorkingKeys:
        """The working keys of one data key in one context. Raise `UnknownKeyError` if the ring does not hold it."""
        cached = self._working.get((kid, context))
        if cached is not None:
            return cached
        key = self._keys.get(kid)
        if key is None:
            raise UnknownKeyError(
                f"sealed under a key that is not in this ring, which holds {', '.join(self._keys)}; its kid says which. "
                "Load the key file that was in use then"
            )
        return self._working.setdefault((kid, context), key.working_keys(context))

    def __contains__(self, kid: object) -> bool:
        return kid in self._keys

    def __iter__(self) -> Iterator[str]:
        """The ids, in the order in which the keys were added."""
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(self._keys)}; primary {self._primary})"

    def _as_json(self) -> bytes:
        keys = [
            {
                "kid": key.kid,
                "material": base64.b64encode(key._material).decode(),
                "check": key.check.hex(),
                "created": key.created and key.created.isoformat(),
            }
            for key in self._keys.values()
        ]
        return json.dumps({"version": _FILE_VERSION, "primary": self._primary, "keys": keys}, indent=1).encode() + b"\n"


def _parsed(content: bytes) -> KeyRing | str:
    """The ring in a key file, or what is wrong with it.

    Nothing is raised from here: a traceback would keep this frame, and with it the material, for whoever collects local variables;
    and the parsers' messages quote what they read.
    """
    try:
        ring = json.loads(content)
        if type(ring["version"]) is int and ring["version"] != _FILE_VERSION:
            return f"has version {ring['version']}, and this package reads version {_FILE_VERSION}"
        if ring.keys() != {"version", "primary", "keys"} or type(ring["version"]) is not int or type(ring["primary"]) is not str:
            return _DAMAGED
        return KeyRing([_key(entry) for entry in ring["keys"]], primary=ring["primary"])
    except ConfigurationError as error:
        return f"does not fit: {error}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return _DAMAGED


_DAMAGED: Final = "is not a key file, or is damaged. Restore it from its backup; do not make a new one over it"


def _key(entry: dict[str, Any]) -> DataKey:
    """One key of a file. An entry that says more than this version knows may say that the key must not be used: `ValueError`."""
    if entry.keys() != {"kid", "material", "check", "created"}:
        raise ValueError
    created = entry["created"] and datetime.fromisoformat(entry["created"])
    material = base64.b64decode(entry["material"], validate=True)
    return DataKey(entry["kid"], material, created=created, check=bytes.fromhex(entry["check"]))


def _ring_or_error(ring: KeyRing | str, what: str) -> KeyRing:
    if isinstance(ring, str):
        raise ConfigurationError(f"{what} {ring}")
    return ring


def _create_private(path: Path, content: bytes) -> bool:
    """Write a new file of mode 0600 that is there whole or not at all; False, and untouched, if it exists.

    A temporary file in the same folder, then a hard link: `link` fails if the name is taken, so of two processes that
    start at once one wins and the other reads what the winner wrote.
    """
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)
        finally:
            Path(temporary).unlink()
    except FileExistsError:
        return False
    except OSError as error:
        raise ConfigurationError(f"cannot make the key file {str(path)!r}: {error.strerror}") from error
    _sync_folder(path.parent)
    return True


def _sync_folder(folder: Path) -> None:
    """Make the new name itself survive a power cut. Not every platform can open a folder."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
