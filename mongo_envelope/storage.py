"""Where the records of a key store are kept: a collection of MongoDB, or a file. Neither knows what is in them.

Both can do three things: read all records, insert one whose id is not there yet, and replace one that is still exactly what it was.
`keystore` needs no more for several processes to create, rotate and destroy keys at the same time.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import bson
import pymongo
from bson import json_util
from bson.binary import Binary
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pymongo import ReadPreference, WriteConcern
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.collection import Collection
from pymongo.errors import ConnectionFailure, DuplicateKeyError, PyMongoError
from pymongo.read_concern import ReadConcern

from . import envelope
from .errors import ConfigurationError, KMSError, MalformedEnvelopeError
from .private_file import sync_folder, unique_names

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]  # there, msvcrt locks

__all__ = ["CollectionStorage", "FileStorage", "Storage", "checked_seconds", "identity_of"]

T = TypeVar("T")


class Storage(Protocol):
    """Keeps records, by their text ``_id``. All three raise `KMSError` where it cannot be asked."""

    def read(self) -> list[bytes]:
        """All records, as BSON."""

    def insert(self, raw: bytes) -> bool:
        """Add a record, durably; False if there is one of its id."""

    def replace(self, raw: bytes, before: bytes) -> bool:
        """Put one in the place of another of the same id, durably; False if that is not there any more, exactly as it was."""


#: A record has some 300 bytes. Whoever can fill the place up is not to fill up the memory of all who read it.
_MOST_BYTES: Final = 16 * 1024 * 1024
#: In JSON, the binaries in Base64.
_MOST_IN_FILE: Final = 4 * _MOST_BYTES


def _too_large(storage: Storage) -> MalformedEnvelopeError:
    return MalformedEnvelopeError(
        f"there is more in {storage} than a key store has, {_MOST_BYTES} bytes: somebody else writes there. Remove what is no "
        "record of it, or restore it from its backup"
    )


def checked_seconds(given: float, name: str) -> float:
    """A time as it is; `ConfigurationError` for one that is none, or longer than a human life."""
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given < 2**31:
        raise ConfigurationError(f"{name}= is a number of seconds, greater than 0")
    return given


class CollectionStorage:
    """In a collection of a ``MongoClient``, with majority read and write concern, on the primary."""

    def __init__(self, collection: Collection[Any], timeout: float) -> None:
        """Take any collection of the synchronous driver, and the seconds that a command may take."""
        if isinstance(collection, AsyncCollection):
            raise ConfigurationError(
                "a key store is kept over a MongoClient, beside an AsyncRepository, too: it is asked seldom, and in a thread. "
                "CollectionKeyStore.open(…) does not block an event loop"
            )
        if not isinstance(collection, Collection):
            raise ConfigurationError("the first parameter is a collection of a MongoClient: client.crm.keys")
        self._timeout = checked_seconds(timeout, "timeout")
        self._collection = collection.with_options(
            codec_options=envelope.CODEC_OPTIONS.with_options(document_class=RawBSONDocument),
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern("majority"),
            write_concern=WriteConcern("majority", wtimeout=math.ceil(timeout * 1000)),
        )

    def __str__(self) -> str:
        return self._collection.full_name

    def read(self) -> list[bytes]:
        """As `Storage`."""

        def read() -> list[bytes] | None:
            found, left = list[bytes](), _MOST_BYTES
            with self._collection.find({}) as cursor:
                for each in cursor:
                    found.append(bytes(each.raw))
                    left -= len(found[-1])
                    if left < 0:
                        return None
            return found

        found = self._asked(read, "read")
        if found is None:
            raise _too_large(self)
        return found

    def insert(self, raw: bytes) -> bool:
        """As `Storage`."""

        def insert() -> bool:
            try:
                self._collection.insert_one(RawBSONDocument(raw))
            except DuplicateKeyError:
                return False
            return True

        return self._asked(insert, "written")

    def replace(self, raw: bytes, before: bytes) -> bool:
        """As `Storage`."""
        where = _mark_of(before)
        replaced = self._asked(lambda: self._collection.replace_one(where, RawBSONDocument(raw)), "written")
        return replaced.matched_count == 1

    def _asked(self, command: Callable[[], T], done: str) -> T:
        try:
            with pymongo.timeout(self._timeout):
                return command()
        except PyMongoError as error:
            # Its text may quote a record: wrapped and sealed, but nobody's business.
            problem, code = type(error).__name__, getattr(error, "code", None)
            temporary = error.timeout or isinstance(error, ConnectionFailure) or error.has_error_label("RetryableWriteError")
        where = f"the key store {self} could not be {done}: {problem}" + (f", code {code}" if code is not None else "")
        if code == _UNAUTHORIZED:
            where += ": the user of this MongoClient has no right to do that. Services read a key store, who rotates writes it"
        raise KMSError(where, temporary=temporary)


#: Of MongoDB's error codes, the one of a user who may not do it.
_UNAUTHORIZED: Final = 13


def _mark_of(raw: bytes) -> dict[str, Any]:
    """What a record is recognised by: its id, and what is new each time that it is written."""
    document = bson.decode(raw, envelope.CODEC_OPTIONS)
    name = "hmac" if "hmac" in document else "wrapped"
    return {"_id": document["_id"], name: Binary(document[name], 0)}


def identity_of(raw: bytes) -> Any:
    """The unverified ``_id`` of a record."""
    return envelope.identify(raw)


class FileStorage:
    """In one file of mode 0600: JSON, each record in the canonical extended form of ``bson.json_util``.

    It is replaced as a whole, so it is read without a lock; who writes holds one, on a file beside it.
    """

    def __init__(self, path: str | os.PathLike[str], timeout: float) -> None:
        """Take a path, and the seconds to wait for a lock."""
        if not isinstance(path, str | os.PathLike):
            raise ConfigurationError(
                'the first parameter is a path: FileKeyStore("keys.store", …). CollectionKeyStore takes collections'
            )
        self.path: Final = Path(path)
        self._timeout = checked_seconds(timeout, "timeout")

    def __str__(self) -> str:
        return repr(str(self.path))

    def read(self) -> list[bytes]:
        """As `Storage`. Raise `ConfigurationError` for a file that others can read, or that is none of ours."""
        try:
            with self.path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                content = file.read(_MOST_IN_FILE + 1)
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            problem = getattr(error, "strerror", None) or "not a path"
        else:
            if os.name == "posix" and mode & 0o077:
                raise ConfigurationError(f"the key store {self} can be read by other users: chmod 600 it")
            if len(content) > _MOST_IN_FILE:
                raise _too_large(self)
            return self._parsed(content)
        raise KMSError(f"the key store {self} could not be read: {problem}")

    def insert(self, raw: bytes) -> bool:
        """As `Storage`."""
        with self._locked():
            records = self.read()
            if identity_of(raw) in map(identity_of, records):
                return False
            self._write([*records, raw])
        return True

    def replace(self, raw: bytes, before: bytes) -> bool:
        """As `Storage`."""
        with self._locked():
            records = self.read()
            if before not in records:
                return False
            records[records.index(before)] = raw
            self._write(records)
        return True

    def create(self, records: list[bytes]) -> bool:
        """Make the file, with these records; False if there is one."""
        with self._locked():
            if self.path.exists():
                return False
            self._write(records)
        return True

    def _parsed(self, content: bytes) -> list[bytes]:
        try:
            # Each in its place: json_util would take the whole file for one document.
            found = json.loads(content, object_pairs_hook=unique_names)
            if found.keys() == {"version", "records"} and type(found["version"]) is int and found["version"] == 1:
                return [bson.encode(_decoded(each), codec_options=_AS_IT_IS) for each in found["records"]]
        except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError, BSONError):
            pass
        raise MalformedEnvelopeError(f"{self} is not a key store of version 1, or is damaged. Restore it from its backup")

    def _write(self, records: list[bytes]) -> None:
        ordered = sorted(records, key=lambda raw: str(identity_of(raw)).encode())
        lines = ",\n".join(json_util.dumps(bson.decode(raw, _AS_IT_IS), json_options=_CANONICAL) for raw in ordered)
        content = f'{{"version": 1, "records": [\n{lines}\n]}}\n'.encode()
        try:
            self._clear()
            descriptor, temporary = tempfile.mkstemp(prefix=f".{self.path.name}.", suffix=_NEW, dir=self.path.parent)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                Path(temporary).replace(self.path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        except OSError as error:
            problem = error.strerror
        else:
            sync_folder(self.path.parent)
            return
        raise KMSError(f"the key store {self} could not be written: {problem}")

    def _clear(self) -> None:
        """What a process has left behind that was killed: a key that is destroyed later would stay in it.

        Whoever holds the lock is the only one to write.
        """
        left = re.compile(re.escape(f".{self.path.name}.") + r"[a-z0-9_]{8}" + re.escape(_NEW))
        for each in self.path.parent.iterdir():
            if left.fullmatch(each.name):
                each.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among processes: an advisory lock, which ends with its process."""
        try:
            descriptor = os.open(self.path.with_name(f".{self.path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        except (OSError, ValueError) as error:
            problem = getattr(error, "strerror", None) or "not a path"
        else:
            try:
                until = time.monotonic() + self._timeout
                while not _lock(descriptor):
                    if time.monotonic() > until:
                        raise KMSError(f"the key store {self} is locked by another process", temporary=True)
                    time.sleep(0.01)
                yield
            finally:
                _unlock(descriptor)
                os.close(descriptor)
            return
        raise KMSError(f"the key store {self} could not be written: {problem}")


#: How the name of a file ends that is about to take the place of the old one.
_NEW: Final = ".new"
_CANONICAL: Final = json_util.JSONOptions(
    json_mode=json_util.JSONMode.CANONICAL, tz_aware=True, uuid_representation=envelope.CODEC_OPTIONS.uuid_representation
)
_AS_IT_IS: Final = envelope.CODEC_OPTIONS


def _decoded(record: Any) -> dict[str, Any]:
    decoded = json_util.loads(json.dumps(record), json_options=_CANONICAL)
    if not isinstance(decoded, dict):
        raise TypeError
    return decoded


def _lock(descriptor: int) -> bool:
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:  # pragma: no cover - Windows, where this machine's tests do not run
            import msvcrt  # noqa: PLC0415 - there is none elsewhere

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except OSError:
        return False
    return True


def _unlock(descriptor: int) -> None:
    """Closing is not enough: after a fork at this moment, the child has the file open, too, for as long as it lives."""
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
