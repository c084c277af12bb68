"""`DocumentCodec`: a model to its stored document and back. Pure: no I/O, for those who bring their own storage.

It puts four rooms together: `schema` splits and joins, `blind` computes index values, `envelope` seals and opens, `keys` lends
the keys.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar

import bson
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pydantic import BaseModel

from . import envelope
from .blind import Indexer
from .datakey import check_context
from .errors import (
    ConfigurationError,
    EnvelopeError,
    IntegrityError,
    KeyUnavailableError,
    MalformedEnvelopeError,
    PayloadError,
)
from .fast import FastReader
from .keys import KeyRing
from .packing import FastWriter
from .padding import Padding, is_chosen, padded
from .places import from_stored
from .primitives import fresh_iv
from .schema import Schema

__all__ = ["DocumentCodec", "Metadata"]

Model = TypeVar("Model", bound=BaseModel)
T = TypeVar("T")
Document = Mapping[str, Any] | RawBSONDocument | bytes

#: Values as any client, however configured, can store them again: a UUID stays ``Binary`` of subtype 4.
_PORTABLE: Final[CodecOptions[dict[str, Any]]] = CodecOptions(
    document_class=dict, tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_AUTO
)


class Metadata(Mapping[str, Any]):
    """What stands in the clear of one verified document, in the fields' types: ``found.tenant``, ``found["tenant"]``.

    Not decrypted, and not a model: it cannot be saved. What BSON rounds is rounded.
    """

    __slots__ = ("_fields", "_model")

    def __init__(self, model: str, fields: Mapping[str, Any]) -> None:
        """Take values by field name."""
        object.__setattr__(self, "_model", model)
        object.__setattr__(self, "_fields", dict(fields))

    def __getitem__(self, name: str) -> Any:
        return self._fields[name]

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{name[:64]}: metadata are read-only. Load the model to change it")

    def __getattr__(self, name: str) -> Any:
        if name in self.__slots__:  # of one that is being copied
            raise AttributeError(name)
        if name not in self._fields:
            raise AttributeError(f"{self._model}.{name[:64]} does not stand in the clear. There are: {', '.join(self._fields)}")
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        return f"Metadata({self._model}, {', '.join(self._fields)})"


class DocumentCodec(Generic[Model]):
    """Seals models of one class for one context, and opens them.

    A codec is immutable and can be shared between threads.
    """

    def __init__(
        self,
        model: type[Model],
        *,
        keys: KeyRing,
        context: str,
        validate_on_save: bool = False,
        verify_on_load: bool = False,
        padding: Padding = None,
    ) -> None:
        """Compile the model. ``context``: the name under which keys are derived, by habit the collection's name.

        ``validate_on_save``: also run the model's validators before sealing. ``verify_on_load``: do with every document what
        `verify` does. ``padding``: "padme" hides the exact length of what is encrypted (spec 2.4); documents open in any case.

        Raise `SchemaError` for a model that cannot be kept, `MissingCapabilityError` for a ring that is restricted to another
        context, `ConfigurationError` for anything else that does not fit.
        """
        if not isinstance(keys, KeyRing):
            raise ConfigurationError(
                'keys= takes a KeyRing: KeyRing.from_file("keys.json", create=True), KeyRing.generate(), or the store.ring() of a '
                "KeyStore"
            )
        self.schema = Schema.of(model)
        self.context = check_context(context)
        self._validate_on_save = validate_on_save
        self._verify_on_load = verify_on_load
        self._pad = padded if is_chosen(padding) else None
        self._use(keys)

    def _use(self, keys: KeyRing) -> None:
        keys.need_context(self.context)
        self._keys = keys
        self._opening_all: KeyRing | None = None  # the same ring, with compromised keys
        self.indexer = Indexer(self.schema.blind, keys, self.context)
        self._fast = FastReader(self.schema, keys, self.context)
        #: As `open_bson`, if the short way will do and ``idx`` has the element ``expected``; otherwise None.
        self.open_at_once: Callable[..., tuple[Any, bytes, Model] | None] = _never if self._verify_on_load else self._fast.open
        self._writer = FastWriter(self.schema, keys, self.context)
        self._at_once_idx = self._idx if self.indexer else None

    @property
    def keys(self) -> KeyRing:
        """The ring that it seals and opens with."""
        return self._keys

    def under(self, keys: KeyRing) -> DocumentCodec[Model]:
        """The same codec with another ring."""
        other = copy.copy(self)
        other._use(keys)
        return other

    def needs_rotation(self, document: Document) -> bool:
        """Whether it is not under the key that seals today, or its index values not under those that are written today.

        Nothing is verified: the answer is that of whoever has written the document. `Repository.rotate` and `reindex` move it.
        """
        raw = _as_bson(document)
        try:
            found = bson.decode(raw, envelope.CODEC_OPTIONS)
        except BSONError:
            found = {}
        if found.get("kid") != self._keys.primary:
            return True
        if not self.indexer:
            return False
        idx, written = found.get("idx"), list(self._keys.written_index_keys)
        kids = idx.get("kid") if isinstance(idx, dict) else None
        return bool(kids != (written[0] if len(written) == 1 else written))

    def resealed(self, raw: bytes) -> tuple[Any, bytes]:
        """The verified ``_id``, and the document sealed anew with all that it has, under today's primary key.

        The model is not asked: so it is done with documents, too, that do not fit it any more. It opens what is under a compromised
        key, and the one that seals takes its place.
        """
        if self._opening_all is None:
            self._opening_all = self._keys.for_rotation()
        document, payload = self._checked(functools.partial(_opened_with, self._opening_all), raw)
        metadata = {name: value for name, value in document.items() if name in ("_id", "idx") or name not in envelope.RESERVED}
        return document["_id"], envelope.seal(metadata, payload, keys=self._keys, context=self.context)

    def resealed_from(self, other: DocumentCodec[Any], raw: bytes) -> bytes:
        """The same document under today's primary key, whatever has become since of the keys of ``other``, which has sealed it."""
        if other._keys.primary == self._keys.primary:
            return raw
        return other.resealed_by(self._keys, raw)

    def resealed_by(self, keys: KeyRing, raw: bytes) -> bytes:
        """A document of this codec's ring, under the key of another ring that seals."""
        document, payload = self._opened(raw)
        metadata = {name: value for name, value in document.items() if name in ("_id", "idx") or name not in envelope.RESERVED}
        return envelope.seal(metadata, payload, keys=keys, context=self.context)

    def seal(self, model: Model) -> dict[str, Any]:
        """The stored document, ready for ``insert_one`` of any MongoDB client. Raise `PayloadError` for what cannot be kept."""
        return bson.decode(self.seal_bson(model), _PORTABLE)

    def seal_bson(self, model: Model) -> bytes:
        """The stored document as BSON: the bytes that the tag covers."""
        return self.sealed(model)[1]

    def sealed(self, model: Model, take_iv: Callable[[], bytes] = fresh_iv) -> tuple[Any, bytes]:
        """The stored ``_id`` and the stored document, as BSON. The short way where that will do: see `packing`.

        ``take_iv``: `FreshIVs.take`, where many are sealed one after the other.
        """
        if self._validate_on_save:
            return self._sealed_plainly(model)
        at_once = self._writer.seal(model, self._at_once_idx, self._pad, take_iv)
        if at_once is not None:
            return at_once
        sealed = self._sealed_plainly(model)
        self._writer.learn(model)
        return sealed

    def _sealed_plainly(self, model: Model) -> tuple[Any, bytes]:
        self._keys.need("seal", what="sealing")
        metadata, payload = self.schema.split(model)
        if self._validate_on_save:
            self.schema.validate(metadata, payload)
        if self.indexer:
            metadata["idx"] = self._idx(model)
        if self._pad is not None:
            payload = self._pad(payload)
        try:
            return metadata["_id"], envelope.seal(metadata, payload, keys=self._keys, context=self.context)
        except MalformedEnvelopeError:
            pass
        raise self.schema.unencodable(metadata)

    def _idx(self, model: Model) -> dict[str, Any]:
        try:
            return self.indexer.of(self.schema.as_loaded(model))
        except ValueError as error:  # ours, and without the value
            problem = str(error)
        raise PayloadError(f"{self.schema.model.__name__}: not saved: {problem}")

    def reloaded(self, model: Model) -> Model:
        """What would be loaded if this instance were saved. Raise `QueryError` if it could not be, and `PayloadError` as `seal`.

        The short way to know is to seal it and to open that.
        """
        sealed = self._writer.seal(model, self.indexer.of_nothing, None)
        opened = None if sealed is None else self._fast.open(sealed[1])
        return self.schema.reloaded(model) if opened is None else opened[2]

    def reindexed(self, raw: bytes) -> tuple[Any, bytes]:
        """The verified ``_id``, and the document sealed anew, with the index values of today's model and ring.

        Metadata and payload are those that it had, the latter padded anew if this codec pads, and otherwise with the spaces that it
        had. Raise what `open` raises, and `PayloadError` for a value that its index does not take, and for a document in which
        something stands in the clear that the model does not have there (any more).
        """
        document, model, payload = self._joined(raw)
        metadata = {name: value for name, value in document.items() if name == "_id" or name not in envelope.RESERVED}
        if others := sorted(self.schema.not_stored(metadata)):
            raise PayloadError(
                f"{others[0]} stands in the clear, where the model does not have it (any more): load and save the document, which "
                "moves or drops it"
            ).about(document_id=document["_id"])
        if self.indexer:
            try:
                metadata["idx"] = self._idx(model)
            except PayloadError as error:
                error.about(document_id=document["_id"])
                raise
        if self._pad is not None:
            payload = self._pad(payload)
        return document["_id"], envelope.seal(metadata, payload, keys=self._keys, context=self.context)

    def open(self, document: Document) -> Model:
        """Verify, decrypt, validate. From bytes or a `RawBSONDocument` the guarantee is on every byte, from a dict on values.

        Raise `EnvelopeError` or one of its children if something is wrong, `UnknownKeyError` if it could not be checked.
        """
        return self.open_bson(_as_bson(document))[2]

    def open_raw(self, document: Document) -> dict[str, Any]:
        """Verify and decrypt, but do not validate: plain values by field name. The way out of a `PayloadError`."""
        return self.open_raw_bson(_as_bson(document))[2]

    def verify_tag(self, document: Document) -> None:
        """Check that a document is genuine, and decrypt nothing: a ring with the capability "verify" will do. Raise as `open`."""
        self._checked(envelope.verify, _as_bson(document))

    def metadata(self, document: Document) -> Metadata:
        """What stands in the clear of a document, verified; nothing is decrypted: "metadata" will do. Raise as `open`."""
        self._keys.need("metadata", what="reading metadata")
        return Metadata(self.schema.model.__name__, self.metadata_bson(_as_bson(document))[1])

    def metadata_bson(self, raw: bytes) -> tuple[Any, dict[str, Any]]:
        """The verified ``_id``, and what stands in the clear by field name and in the fields' types. Nothing is decrypted."""
        document = self._checked(envelope.verify, raw)
        fields = {field.name: document[field.stored] for field in self.schema.stored if field.stored in document}
        return document["_id"], {name: from_stored(self.schema, name, value) for name, value in fields.items()}

    def open_raw_bson(self, raw: bytes) -> tuple[Any, bytes, dict[str, Any]]:
        """The verified ``_id`` and ``hmac``, and the content as `open_raw` gives it, from BSON."""
        document, payload = self._opened(raw)
        try:
            return document["_id"], document["hmac"], self.schema.raw(document, payload)
        except EnvelopeError as error:
            error.about(document_id=document["_id"])
            raise

    def open_bson(self, raw: bytes) -> tuple[Any, bytes, Model]:
        """The verified ``_id`` and ``hmac``, and the model, from BSON. The short way where that will do: see `fast`."""
        return self.open_at_once(raw) or self.open_plainly(raw)

    def open_plainly(self, raw: bytes) -> tuple[Any, bytes, Model]:
        """As `open_bson`, by the plain way."""
        if self._verify_on_load:
            return self.verify_bson(raw)
        document, model, _ = self._joined(raw)
        return document["_id"], document["hmac"], model

    def verify(self, document: Document) -> Model:
        """Open, and compute again from the decrypted values what stands in the clear for their sake: index values and projections.

        Raise what `open` raises, and `IntegrityError`, which names the field, if one does not agree: then a holder of the key wrote
        it, or the function of a normaliser has changed without its id, or the document was sealed before the model had the index.
        """
        return self.verify_bson(_as_bson(document))[2]

    def verify_bson(self, raw: bytes) -> tuple[Any, bytes, Model]:
        """The verified ``_id`` and ``hmac``, and the model, from BSON, all of it checked as by `verify`."""
        document, model, _ = self._joined(raw)
        try:
            self._verify(document, model)
        except (EnvelopeError, KeyUnavailableError) as error:
            error.about(document_id=document["_id"])
            raise
        return document["_id"], document["hmac"], model

    def _verify(self, document: Mapping[str, Any], model: Model) -> None:
        stored = document.get("idx", {})
        if self.indexer:
            kids = stored.get("kid", self._keys.written_index_keys)
            kids = [kids] if isinstance(kids, str) else kids
            # Another process may write under a key that is published to this one later: what is under ours is checked.
            known = [kid for kid in kids if kid in self._keys.index_keys] or kids
            whole = len(known) == len(kids)
            expected = self._expected(model, known)
            names = self.schema.blind_names
            if differing := [name for name in names if not _agree(expected.get(name), stored.get(name), whole=whole)]:
                raise IntegrityError(
                    f"the values of the blind index {' and '.join(differing)} do not agree with the decrypted field: "
                    "reindex(every=True) writes them anew"
                )
        if differing := self.schema.disagreeing(document, model):
            raise IntegrityError(f"{differing[0]}: what stands in the clear does not agree with the exact value in the payload")

    def _expected(self, model: Model, kids: Sequence[str]) -> dict[str, Any]:
        try:
            return self.indexer.of(model.__dict__, kids)
        except ValueError:  # what the normaliser took when it was saved, it refuses now
            return {}

    def _joined(self, raw: bytes) -> tuple[dict[str, Any], Model, bytes]:
        """The verified document, the model, and the payload."""
        document, payload = self._opened(raw)
        try:
            return document, self.schema.join(document, payload), payload
        except EnvelopeError as error:
            error.about(document_id=document["_id"])
            raise

    def _opened(self, raw: bytes) -> envelope.Opened:
        self._keys.need("open", what="opening a document")
        return self._checked(envelope.open, raw)

    def _checked(self, opening: Callable[..., T], raw: bytes) -> T:
        """Verified by one of the two ways of `envelope`; an error names the document."""
        try:
            return opening(raw, keys=self._keys, context=self.context)
        except (EnvelopeError, KeyUnavailableError) as error:
            error.about(document_id=envelope.identify(raw))
            raise


def _opened_with(ring: KeyRing, raw: bytes, *, keys: KeyRing, context: str) -> envelope.Opened:
    """As `envelope.open`, with another ring than the codec's."""
    del keys
    return envelope.open(raw, keys=ring, context=context)


def _never(raw: bytes, expected: bytes = b"") -> None:
    """Where every document has to be looked at more closely than the short way does."""
    del raw, expected


def _agree(expected: Any, stored: Any, *, whole: bool) -> bool:
    """Whether the stored values of one index are those of the model; if not ``whole``, there are others, under other keys."""
    return bool(expected == stored) if whole else {*_listed(expected)} <= {*_listed(stored)}


def _listed(value: Any) -> list[bytes]:
    return value if isinstance(value, list) else [] if value is None else [value]


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
