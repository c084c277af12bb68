"""Pydantic models whose sensitive fields are sealed before they reach MongoDB, and verified when they come back."""

from .codec import DocumentCodec
from .cursor import AsyncCursor, Cursor
from .errors import (
    ConfigurationError,
    DocumentNotFoundError,
    DuplicateValueError,
    EnvelopeError,
    IntegrityError,
    KeyUnavailableError,
    KMSError,
    MalformedEnvelopeError,
    MongoEnvelopeError,
    PayloadError,
    QueryError,
    RepositoryError,
    RevisionConflictError,
    SchemaError,
    UnknownKeyError,
    UnsupportedVersionError,
)
from .keys import DataKey, KeyRing
from .repository import AsyncRepository, Repository
from .schema import Queryable, Sensitive

__version__ = "0.1.0"

__all__ = [
    "AsyncCursor",
    "AsyncRepository",
    "ConfigurationError",
    "Cursor",
    "DataKey",
    "DocumentCodec",
    "DocumentNotFoundError",
    "DuplicateValueError",
    "EnvelopeError",
    "IntegrityError",
    "KMSError",
    "KeyRing",
    "KeyUnavailableError",
    "MalformedEnvelopeError",
    "MongoEnvelopeError",
    "PayloadError",
    "QueryError",
    "Queryable",
    "Repository",
    "RepositoryError",
    "RevisionConflictError",
    "SchemaError",
    "Sensitive",
    "UnknownKeyError",
    "UnsupportedVersionError",
]
