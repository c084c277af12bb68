"""Which key store is meant, and which key-encryption key: from options, or from the environment."""

from __future__ import annotations

import contextlib
import re
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import unquote

import pymongo
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import InvalidName, PyMongoError

from mongo_envelope import kms
from mongo_envelope.errors import ConfigurationError
from mongo_envelope.keystore import CollectionKeyStore, FileKeyStore, KeyStore
from mongo_envelope.storage import CollectionStorage, FileStorage, identity_of

from .saying import say

__all__ = ["MissingOptionError", "Place"]

#: Milliseconds, for which a server is looked for.
_PATIENCE: Final = 5000
#: Seconds, for one command to the database.
_TIMEOUT: Final = 10.0
_URI: Final = re.compile(r"mongodb(?:\+srv)?://", re.IGNORECASE)
_COLLECTION: Final = re.compile(r"[^./\\]+\.[^/\\]+")


class MissingOptionError(Exception):
    """An option is missing, could mean two things, or is no name."""


class Place:
    """A key store that a command is about. A context manager, which closes what was opened."""

    def __init__(self, store: str | None, uri: str | None, kms: str | None, fingerprint: str | None) -> None:
        """Take the four options as they were given."""
        if not store:
            raise MissingOptionError("which key store? --store, or the environment variable MONGO_ENVELOPE_STORE")
        self._uri, self._kms, self._fingerprint = uri, kms, fingerprint
        self._client: MongoClient[Any] | None = None
        self._file: Path | None = None
        self._names = ("", "")
        self._shown = ""
        if _URI.match(store):
            self._uri = store
            path = unquote(store.partition("://")[2].partition("/")[2].partition("?")[0])
            if not _COLLECTION.fullmatch(path):
                raise MissingOptionError("the URI of a key store ends with /database.collection: mongodb://host/crm.keys")
            self._names = _split(path)
        elif uri and _COLLECTION.fullmatch(store):
            if Path(store).exists():
                raise MissingOptionError(f"{store} is a file here, and may be a collection: for the file, say ./{store}")
            self._names = _split(store)
        else:
            self._file = Path(store)
            self._shown = store  # ./keys.store stays so, for the sake of those who copy it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._client is not None:
            self._client.close()

    def __str__(self) -> str:
        return self._shown or ".".join(self._names)

    @property
    def is_file(self) -> bool:
        """Whether it is a file, and not a collection."""
        return self._file is not None

    @property
    def described_kms(self) -> str:
        """How the key-encryption key was described."""
        if not self._kms:
            raise MissingOptionError("which key-encryption key? --kms, or the environment variable MONGO_ENVELOPE_KMS")
        return self._kms

    @property
    def has_kms(self) -> bool:
        """Whether a key-encryption key was described."""
        return bool(self._kms)

    def exists(self) -> bool:
        """Whether there is a key store, of which nothing is verified. Raise `KMSError` where that cannot be asked."""
        storage = CollectionStorage(self.keys_collection(), _TIMEOUT) if self._file is None else FileStorage(self._file, _TIMEOUT)
        return any(identity_of(raw) == "root" for raw in storage.read())

    def open(self, *, create: bool = False, create_kek: bool = False, **options: Any) -> KeyStore:
        """Unlock the store, or make it."""
        key = kms.configured(self.described_kms, create=create_kek)
        options |= {"kms": key, "fingerprint": self._fingerprint, "create": create, "timeout": _TIMEOUT}
        store = CollectionKeyStore(self.keys_collection(), **options) if self._file is None else FileKeyStore(self._file, **options)
        if self._fingerprint is None and not create:
            say(
                f"Opened without a fingerprint: whoever can write {self}, and have its key-encryption key encrypt, could have "
                f"put another there. If {store.fingerprint} is what was shown when it was made: --fingerprint, or the environment "
                "variable MONGO_ENVELOPE_FINGERPRINT"
            )
        return store

    def restore(self, backup: Path) -> None:
        """Put a backup there."""
        if self._file is None:
            CollectionKeyStore.restore(self.keys_collection(), backup)
        else:
            FileKeyStore.restore(self._file, backup)

    def look_into(self, backup: Path) -> KeyStore:
        """A backup, unlocked: it is right, and of this key-encryption key and fingerprint, or this raises."""
        return FileKeyStore(backup, kms=kms.configured(self.described_kms), fingerprint=self._fingerprint, timeout=_TIMEOUT)

    def keys_collection(self) -> Collection[Any]:
        """The collection that the store is in."""
        return self._in_database(*self._names)

    def collection(self, name: str) -> Collection[Any]:
        """Another one, by its full name, of the same server."""
        if not _COLLECTION.fullmatch(name):
            raise MissingOptionError("a collection is named in full: --in or --count crm.customers")
        if not self._uri:
            raise MissingOptionError("which database? --uri, or the environment variable MONGO_ENVELOPE_URI")
        return self._in_database(*_split(name))

    def _in_database(self, database: str, collection: str) -> Collection[Any]:
        client = self._connected()
        with contextlib.suppress(InvalidName):
            return client[database][collection]
        raise MissingOptionError(f"{database}.{collection} is no name of a collection")

    def _connected(self) -> MongoClient[Any]:
        if self._client is None:
            problem = ""
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error", UserWarning)  # of an option that the driver would leave out
                    self._client = MongoClient(self._uri, serverSelectionTimeoutMS=_PATIENCE, connectTimeoutMS=_PATIENCE)
            except (PyMongoError, UserWarning, ValueError, TypeError) as error:  # their texts may quote a part of the URI
                problem = type(error).__name__
            if self._client is None:
                raise ConfigurationError(
                    f"the URI of the database is not valid ({problem}); it is not shown, for it may have a password"
                )
            with pymongo.timeout(_PATIENCE / 1000):  # sooner than the store would notice
                self._client.admin.command("ping")
        return self._client


def _split(name: str) -> tuple[str, str]:
    database, _, collection = name.partition(".")
    return database, collection
