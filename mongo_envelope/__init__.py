"""Pydantic models whose sensitive fields are sealed before they reach MongoDB, and verified when they come back."""

from .blind import BlindIndex, Bucket
from .codec import DocumentCodec, Metadata
from .conditions import where
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
from .keys import DataKey, IndexKey, KeyRing
from .repository import AsyncRepository, Repository
from .schema import Queryable, Sensitive
from .upkeep import Finding
from .watching import AsyncChangeStream, Change, ChangeStream

__version__ = "0.1.0"

__all__ = [
    "AsyncChangeStream",
    "AsyncCursor",
    "AsyncRepository",
    "BlindIndex",
    "Bucket",
    "Change",
    "ChangeStream",
    "ConfigurationError",
    "Cursor",
    "DataKey",
    "DocumentCodec",
    "DocumentNotFoundError",
    "DuplicateValueError",
    "EnvelopeError",
    "Finding",
    "IndexKey",
    "IntegrityError",
    "KMSError",
    "KeyRing",
    "KeyUnavailableError",
    "MalformedEnvelopeError",
    "Metadata",
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
    "where",
]
