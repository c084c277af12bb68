"""Pydantic models whose sensitive fields are sealed before they reach MongoDB, and verified when they come back."""

from .batches import AsyncBulkWriter, BulkWriter
from .blind import BlindIndex, Bucket
from .codec import DocumentCodec, Metadata
from .conditions import where
from .cursor import AsyncCursor, Cursor
from .datakey import DataKey, IndexKey
from .errors import (
    BulkSaveError,
    ConfigurationError,
    DocumentNotFoundError,
    DuplicateValueError,
    EnvelopeError,
    IntegrityError,
    KeyUnavailableError,
    KMSError,
    MalformedEnvelopeError,
    MissingCapabilityError,
    MongoEnvelopeError,
    PayloadError,
    QueryError,
    RepositoryError,
    RevisionConflictError,
    SaveResult,
    SchemaError,
    UnknownKeyError,
    UnsupportedVersionError,
    UpdateResult,
)
from .hooks import Hooks
from .keys import KeyRing
from .keystore import CollectionKeyStore, FileKeyStore, KeyStore, StoredKey
from .repository import AsyncRepository, Repository
from .schema import Queryable, Sensitive
from .upkeep import Finding
from .watching import AsyncChangeStream, Change, ChangeStream

__version__ = "0.1.0"

__all__ = [
    "AsyncBulkWriter",
    "AsyncChangeStream",
    "AsyncCursor",
    "AsyncRepository",
    "BlindIndex",
    "Bucket",
    "BulkSaveError",
    "BulkWriter",
    "Change",
    "ChangeStream",
    "CollectionKeyStore",
    "ConfigurationError",
    "Cursor",
    "DataKey",
    "DocumentCodec",
    "DocumentNotFoundError",
    "DuplicateValueError",
    "EnvelopeError",
    "FileKeyStore",
    "Finding",
    "Hooks",
    "IndexKey",
    "IntegrityError",
    "KMSError",
    "KeyRing",
    "KeyStore",
    "KeyUnavailableError",
    "MalformedEnvelopeError",
    "Metadata",
    "MissingCapabilityError",
    "MongoEnvelopeError",
    "PayloadError",
    "QueryError",
    "Queryable",
    "Repository",
    "RepositoryError",
    "RevisionConflictError",
    "SaveResult",
    "SchemaError",
    "Sensitive",
    "StoredKey",
    "UnknownKeyError",
    "UnsupportedVersionError",
    "UpdateResult",
    "where",
]
