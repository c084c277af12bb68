"""`DocumentCodec`: a model to its stored document and back. Pure: no I/O, for those who bring their own storage.

It puts three rooms together: `schema` splits and joins, `envelope` seals and opens, `keys` lends the keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Generic, TypeVar

import bson
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.raw_bson import RawBSONDocument
from pydantic import BaseModel

from . import envelope
from .errors import ConfigurationError, EnvelopeError, KeyUnavailableError, MalformedEnvelopeError
from .fast import FastReader
from .keys import KeyRing, check_context
from .schema import Schema

__all__ = ["DocumentCodec"]

Model = TypeVar("Model", bound=BaseModel)
Document = Mapping[str, Any] | RawBSONDocument | bytes

#: Values as any client, however configured, can store them again: a UUID stays ``Binary`` of subtype 4.
_PORTABLE: Final[CodecOptions[dict[str, Any]]] = CodecOptions(
    document_class=dict, tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_AUTO
)


class DocumentCodec(Generic[Model]):
    """Seals models of one class for one context, and opens them.

    A codec is immutable and can be shared between threads.
    """

    def __init__(self, model: type[Model], *, keys: KeyRing, context: str, validate_on_save: bool = False) -> None:
        """Compile the model. ``context``: the name under which keys are derived, by habit the collection's name.

        ``validate_on_save``: also run the model's validators before sealing. Raise `SchemaError` for a model that cannot be
        kept, `ConfigurationError` for a ring or a context that does not fit.
        """
        if not isinstance(keys, KeyRing):
            raise ConfigurationError('keys= takes a KeyRing: KeyRing.from_file("keys.json", create=True), or KeyRing.generate()')
        self.schema = Schema.of(model)
        self.context = check_context(context)
        self._keys = keys
        self._fast = FastReader(self.schema, keys, self.context)
        self._validate_on_save = validate_on_save

    def seal(self, model: Model) -> dict[str, Any]:
        """The stored document, ready for ``insert_one`` of any MongoDB client. Raise `PayloadError` for what cannot be kept."""
        return bson.decode(self.seal_bson(model), _PORTABLE)

    def seal_bson(self, model: Model) -> bytes:
        """The stored document as BSON: the bytes that the tag covers."""
        return self.sealed(model)[1]

    def sealed(self, model: Model) -> tuple[Any, bytes]:
        """The stored ``_id`` and the stored document, as BSON."""
        metadata, payload = self.schema.split(model)
        if self._validate_on_save:
            self.schema.validate(metadata, payload)
        try:
            return metadata["_id"], envelope.seal(metadata, payload, keys=self._keys, context=self.context)
        except MalformedEnvelopeError:
            pass
        raise self.schema.unencodable(metadata)

    def open(self, document: Document) -> Model:
        """Verify, decrypt, validate. From bytes or a `RawBSONDocument` the guarantee is on every byte, from a dict on values.

        Raise `EnvelopeError` or one of its children if something is wrong, `UnknownKeyError` if it could not be checked.
        """
        return self.open_bson(_as_bson(document))[2]

    def open_raw(self, document: Document) -> dict[str, Any]:
        """Verify and decrypt, but do not validate: plain values by field name. The way out of a `PayloadError`."""
        return self.open_raw_bson(_as_bson(document))[2]

    def open_raw_bson(self, raw: bytes) -> tuple[Any, bytes, dict[str, Any]]:
        """The verified ``_id`` and ``hmac``, and the content as `open_raw` gives it, from BSON."""
        try:
            document, payload = envelope.open(raw, keys=self._keys, context=self.context)
            return document["_id"], document["hmac"], self.schema.raw(document, payload)
        except (EnvelopeError, KeyUnavailableError) as error:
            error.about(document_id=envelope.identify(raw))
            raise

    def open_bson(self, raw: bytes) -> tuple[Any, bytes, Model]:
        """The verified ``_id`` and ``hmac``, and the model, from BSON. The short way where that will do: see `fast`."""
        return self._fast.open(raw) or self._open_plainly(raw)

    def _open_plainly(self, raw: bytes) -> tuple[Any, bytes, Model]:
        try:
            document, payload = envelope.open(raw, keys=self._keys, context=self.context)
            return document["_id"], document["hmac"], self.schema.join(document, payload)
        except (EnvelopeError, KeyUnavailableError) as error:
            error.about(document_id=envelope.identify(raw))
            raise


def _as_bson(document: Document) -> bytes:
    if isinstance(document, bytes):
        return document
    if isinstance(document, RawBSONDocument):
        return bytes(document.raw)
    if not isinstance(document, Mapping):
        raise MalformedEnvelopeError(
            f"a document is a dict or BSON, not a {type(document).__name__}; find_one gives None for no match"
        )
    return envelope.encode_document(document)
