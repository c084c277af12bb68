"""Every error that this package raises, in one tree.

    MongoEnvelopeError
    ├── ConfigurationError            refused when an object is built: nothing was read or written
    │   └── SchemaError               the model cannot be kept as it is declared; says which field and what to write instead
    ├── EnvelopeError                 it IS WRONG: this document, or this instance, is not what it should be
    │   ├── MalformedEnvelopeError    not a format-v1 document at all
    │   ├── UnsupportedVersionError   a sealed document of another version
    │   ├── IntegrityError            the tag does not match: edited, moved, or sealed under another key or context
    │   └── PayloadError              the content and the model do not fit each other
    ├── KeyUnavailableError           we COULD NOT CHECK: says nothing about the document
    │   ├── UnknownKeyError           its key id is not in the ring
    │   ├── KMSError                  the key service did not answer, or refused
    │   └── MissingCapabilityError    the ring was restricted, and cannot do this
    ├── QueryError                    the filter, sort or update cannot be answered honestly
    └── RepositoryError
        ├── DocumentNotFoundError     no document has this _id
        ├── RevisionConflictError     somebody else wrote in between; nothing was written
        ├── DuplicateValueError       another unique index refused the value
        └── BulkSaveError             some of many documents were not saved; its result has an error for each

No error carries a key, a plaintext or an unverified value. The one exception is the ``_id`` of a document, which stands
in the clear anyway: its ``repr``, cut to 64 characters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

__all__ = [
    "BulkSaveError",
    "ConfigurationError",
    "DocumentNotFoundError",
    "DuplicateValueError",
    "EnvelopeError",
    "IntegrityError",
    "KMSError",
    "KeyUnavailableError",
    "MalformedEnvelopeError",
    "MissingCapabilityError",
    "MongoEnvelopeError",
    "PayloadError",
    "QueryError",
    "RepositoryError",
    "RevisionConflictError",
    "SaveResult",
    "SchemaError",
    "UnknownKeyError",
    "UnsupportedVersionError",
    "UpdateResult",
]


class MongoEnvelopeError(Exception):
    """The root: ``except MongoEnvelopeError`` catches everything that this package raises on its own account.

    pymongo's own network and write errors pass through untouched and are not among them.
    """


class ConfigurationError(MongoEnvelopeError):
    """Refused when the object was built: a key file, a ring, a collection or a repository does not fit."""


class SchemaError(ConfigurationError):
    """The model cannot be kept without loss as it is declared. Names the field and what to write instead."""


class _AboutDocumentError(MongoEnvelopeError):
    """An error that can say which document it is about, once somebody who knows has said so (`about`)."""

    collection: str | None = None
    #: ``repr`` of the document's ``_id``, at most 64 characters. Unverified: for people and logs, not for decisions.
    document_id: str | None = None
    #: Of many that were given to one call: which, counted from 0.
    index: int | None = None
    #: What a call that takes many had written when it stopped.
    result: SaveResult | UpdateResult | None = None

    def about(self, *, document_id: object = None, collection: str | None = None, index: int | None = None) -> Self:
        """Note which document this is about, unless that is known already; gives the same error back."""
        if self.document_id is None and document_id is not None:
            self.document_id = shortened(document_id)
        if self.collection is None:
            self.collection = collection
        if self.index is None:
            self.index = index
        return self

    def __str__(self) -> str:
        known = (("collection", self.collection), ("_id", self.document_id), ("index", self.index))
        where = [f"{name} {value}" for name, value in known if value is not None]
        return super().__str__() + (f" [{', '.join(where)}]" if where else "")


class EnvelopeError(_AboutDocumentError):
    """It is wrong. ``.collection`` and ``.document_id`` say which document, where that is known."""


class MalformedEnvelopeError(EnvelopeError):
    """Not a sealed document of format v1: plaintext, cut short, or put together by somebody else."""


class UnsupportedVersionError(EnvelopeError):
    """The document says that it is of another version than this package reads."""


class IntegrityError(EnvelopeError):
    """The tag does not match the document. Somebody edited it, moved it, or it was sealed under another context."""


class PayloadError(EnvelopeError):
    """The content and the model do not fit each other.

    On load: what was verified and decrypted no longer fits the model (``DocumentCodec.open_raw`` still gives it). On
    save: a value that the model's type does not allow, or that cannot be kept; it was not written.
    Names field paths and kinds of error, never values.
    """


class KeyUnavailableError(_AboutDocumentError):
    """The document could not be checked. That is not the same as being wrong."""


class UnknownKeyError(KeyUnavailableError):
    """The document names a key that the ring does not hold."""


class KMSError(KeyUnavailableError):
    """The service that wraps the keys did not answer, or refused. The message has the service's own words, where they are known."""

    #: Whether trying again may help: it was slow, down or throttling. It was not if it refused.
    temporary: bool = False

    def __init__(self, message: str = "", *, temporary: bool = False) -> None:
        super().__init__(message)
        self.temporary = temporary


class MissingCapabilityError(KeyUnavailableError):
    """The ring is a restricted one (`KeyRing.restrict`), and what was asked for takes a capability that it does not have."""


class QueryError(_AboutDocumentError):
    """The filter, sort, projection or update cannot be served exactly. Names the field and the way out."""


class RepositoryError(_AboutDocumentError):
    """The database does not hold what the call supposed."""


class DocumentNotFoundError(RepositoryError):
    """No document has this ``_id``."""


class RevisionConflictError(RepositoryError):
    """The document is not the one that this instance was loaded from, or exists already. Nothing was written."""


class DuplicateValueError(RepositoryError):
    """A unique index, other than that of ``_id``, already holds this value. Nothing was written."""


class BulkSaveError(RepositoryError):
    """Of many documents some were not saved, with ``ordered=False``. ``.result.failed`` has an error for each of them."""

    result: SaveResult = None  # type: ignore[assignment]  # it is there before this is raised


@dataclass(frozen=True, slots=True)
class SaveResult:
    """What `save_many` or `bulk` has written."""

    inserted_count: int = 0
    replaced_count: int = 0
    #: An error for each document that was not written, each with ``index`` and ``document_id``.
    failed: tuple[EnvelopeError | RepositoryError | QueryError, ...] = ()
    deleted_count: int = 0  #: by `bulk`

    @property
    def saved_count(self) -> int:
        """How many documents were written: inserted or replaced."""
        return self.inserted_count + self.replaced_count


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """What `update_many` has changed. The names are pymongo's."""

    matched_count: int = 0
    modified_count: int = 0  #: how many were written: each one that matches is


def shortened(value: object) -> str:
    """``repr(value)``, at most 64 characters: the one form in which an ``_id`` may stand in a message."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a user's class; the error at hand is the one to tell
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 64 else text[:61] + "..."
