"""What every flow of a repository leans on: the collection, the codec, and how one document is opened and recognised.

`reading` and `writing` are the flows themselves, as coroutines that either driver can run (`bridge` says how). Above stand `cursor`
and `repository`, which drive them or await them. Below: `codec` seals and opens, `revision` knows which stored document an instance
stands for, `answer` whether a document is the one that was asked for.

Every command says "compare text byte by byte", unless the caller names a collation. A collection's own default is not used: who
recreates the collection could otherwise decide what equals what, and `answer` could not check it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, Generic, Self, TypeVar

import bson
from bson import Int64
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pydantic import BaseModel
from pymongo import ReadPreference
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.collection import Collection

from . import envelope
from .answer import Asked, AskedValue, same
from .bridge import settle
from .codec import DocumentCodec
from .errors import (
    ConfigurationError,
    DocumentNotFoundError,
    EnvelopeError,
    IntegrityError,
    KeyUnavailableError,
    MalformedEnvelopeError,
    MissingCapabilityError,
    QueryError,
    RepositoryError,
)
from .hooks import Hooks, Listeners, is_integrity_failure
from .keys import KeyRing
from .keystore import KeyStore
from .padding import Padding
from .places import identity_value, stored_name
from .provision import BYTE_BY_BYTE, RESERVED_CONTEXTS, set_up
from .revision import Content, Revision, as_text, recall, remember

__all__ = ["END", "Filter", "Flows", "SortKey", "as_document", "batches", "in_transaction", "next_batch", "next_of", "raw_of"]

Model = TypeVar("Model", bound=BaseModel)
T = TypeVar("T")
#: A dict, or what `where` makes: a dict, too, which type checkers take for a bool.
Filter = Mapping[str, Any] | bool | None
SortKey = str | Sequence[Any] | Mapping[str, int]
#: What `next_of` gives after the last document.
END: Final = object()


class Flows(Generic[Model]):
    """What one repository does. Holds no state of a call."""

    def __init__(
        self,
        model: type[Model],
        collection: Any,
        kind: type,
        *,
        keys: KeyRing | KeyStore,
        context: str | None,
        validate_on_save: bool,
        verify_on_load: bool,
        padding: Padding,
        shard_key: Sequence[str],
        hooks: Sequence[Hooks[Any]] = (),
    ) -> None:
        if isinstance(model, Collection | AsyncCollection):
            raise ConfigurationError("the model comes first, then the collection: Repository(Customer, collection, keys=keys)")
        if not isinstance(collection, Collection | AsyncCollection) or not isinstance(collection, kind):
            right = "Repository with a MongoClient, AsyncRepository with an AsyncMongoClient"
            raise ConfigurationError(
                f"{type(collection).__module__}.{type(collection).__name__} is not a collection of this driver. Use {right}"
            )
        if not isinstance(keys, KeyRing | KeyStore):
            raise ConfigurationError(
                "keys= takes a KeyRing or a key store: KeyRing.from_file(…), or CollectionKeyStore(client.crm.keys, kms=…), which "
                "is given a key-encryption key"
            )
        if isinstance(keys, KeyStore) and keys.is_kept_in(collection):
            raise ConfigurationError(
                f"{collection.full_name} is where the key store keeps its records: a document in it would make the store "
                "unreadable. Give the repository a collection of its own"
            )
        self.name: str = collection.name
        self.hooks = Listeners.of(hooks, may_wait=kind is AsyncCollection)
        self.codec = DocumentCodec(
            model,
            keys=keys.held if isinstance(keys, KeyStore) else keys,  # nobody is asked: this may be in an event loop
            context=collection.name if context is None else context,
            validate_on_save=validate_on_save,
            verify_on_load=verify_on_load,
            padding=padding,
        )
        self._key_store = keys if isinstance(keys, KeyStore) else None
        #: whether the keys were made a moment ago, and the collection may hold documents that are sealed under others
        self._new_keys = keys if keys.made else None
        self._unproved = keys.made and collection.full_name not in keys.proved
        if self.codec.context.startswith(RESERVED_CONTEXTS):
            raise ConfigurationError(f"a context that begins with {RESERVED_CONTEXTS} is for this package's own documents")
        self.schema = self.codec.schema
        self.place = (collection.full_name, self.codec.context)
        self._shard_key = self._stored_shard_key(shard_key)
        raw = envelope.CODEC_OPTIONS.with_options(document_class=RawBSONDocument)
        self._use(collection.with_options(codec_options=raw))

    # --- keys: those of the moment, where a key store gives them ---------------------------------------------------------

    @property
    def _keys(self) -> KeyRing:
        return self.codec.keys

    @property
    def keys_may_come(self) -> bool:
        """Whether a key that is not there may be one that somebody has made since."""
        return self._key_store is not None

    @property
    def keys_due(self) -> bool:
        """Whether `keys_at_hand` has anything to do."""
        if self._key_store is None:
            return self._unproved
        return self._unproved or self._key_store.due or self._key_store.held is not self.codec.keys

    async def keys_at_hand(self) -> None:
        """Before anything is sealed, and after the server has answered: the keys are those of the moment.

        Raise `KMSError` if they have expired, and cannot be had.
        """
        store = self._key_store
        if store is not None:
            if store.due:
                await settle(store.ring() if isinstance(self.collection, Collection) else store.renewed())
            self._take(store.held)
        if self._unproved:
            await self._prove()

    async def newest_keys(self) -> None:
        """For what is done seldom, and by way of what keys there are: what a key store holds now."""
        if self._key_store is not None:
            sync = isinstance(self.collection, Collection)
            self._take(await settle(self._key_store.refresh() if sync else self._key_store.refreshed()))
        await self.keys_at_hand()

    def _take(self, ring: KeyRing) -> None:
        """In one step, for other threads."""
        if ring is not self.codec.keys:
            self.codec = self.codec.under(ring)

    async def _prove(self) -> None:
        """New keys, and a collection that is sealed under others: then the old ones are lost, or have been left at home."""
        where = {"hmac": {"$type": "binData"}, "v": 1, "kid": {"$nin": list(self._keys)}}
        foreign = await settle(self._primary.find_one(where, {"_id": 1}, collation=BYTE_BY_BYTE)) is not None
        if not foreign and self._key_store is not None and self._key_store.finished:
            # One whose records were removed, but for the root, has new keys of the same ids.
            where["kid"] = self._keys.primary
            ours = await settle(self._primary.find_one(where, collation=BYTE_BY_BYTE))
            foreign = ours is not None and not self._is_genuine(raw_of(ours))
        if foreign:
            raise ConfigurationError(
                f"{self.name} holds documents that are sealed under other keys, and the keys of this process were made a moment "
                "ago, by create=True: nothing was written. Bring the old ones back from their backup"
            )
        self._unproved = False
        if self._new_keys is not None:
            self._new_keys.proved.add(self.collection.full_name)  # it is a question about the whole collection

    def _is_genuine(self, raw: bytes) -> bool:
        try:
            self.codec.verify_tag(raw)
        except EnvelopeError:
            return False
        return True

    async def meet(self, documents: Sequence[bytes]) -> None:
        """Have the keys of what the server has answered, if the key store has them: somebody may have made one since."""
        store = self._key_store
        if store is not None or self._unproved:
            await self.keys_at_hand()
        if store is None:
            return
        usual = envelope.kid_element(self._keys.primary)
        # From behind, where it is: a tenth of a microsecond for each document.
        strange = [raw for raw in documents if raw.rfind(usual) < 0]
        unknown = {kid for kid in envelope.kids_in(strange) if not store.knows(kid)}
        if unknown:  # and not just a field of the user's
            unknown &= {envelope.kid_of(raw) for raw in strange}
        for kid in unknown:
            await settle(store.look_for(kid) if isinstance(self.collection, Collection) else store.looked_for(kid))
        self._take(store.held)

    def _use(self, collection: Any) -> None:
        if not collection.write_concern.acknowledged:
            raise ConfigurationError("an unacknowledged write concern (w=0) would lose updates without a sign")
        self.collection = collection
        #: for what a write has to know first: a secondary may be behind
        self._primary = collection.with_options(read_preference=ReadPreference.PRIMARY)

    def _stored_shard_key(self, names: Sequence[str]) -> tuple[str, ...]:
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise ConfigurationError('shard_key= takes the names of fields in the clear: shard_key=("tenant",)')
        for name in names:
            if self.schema.field(name) is None:
                raise ConfigurationError(
                    f"shard_key: {self.schema.model.__name__}.{name[:64]} does not stand in the clear: nothing can be placed by it"
                )
        return tuple(stored for stored in (stored_name(self.schema, name) for name in names) if stored != "_id")

    def with_options(self, **options: Any) -> Self:
        """The same flows over the collection with other options."""
        if self._key_store is not None:
            self._take(self._key_store.held)  # or each of these would have to
        other = copy.copy(self)
        other._use(self.collection.with_options(**options))
        return other

    @property
    def opens(self) -> bool:
        """Whether the ring opens documents: a restricted one does not."""
        return "open" in self._keys.capabilities

    def need(self, *any_of: str, what: str) -> None:
        """Raise `MissingCapabilityError`, before anything is sent, if the ring is restricted and has none of these capabilities."""
        try:
            self._keys.need(*any_of, what=what)
        except MissingCapabilityError as error:
            error.about(collection=self.name)
            raise

    def _revision(self, tag: bytes, raw: bytes) -> Revision:
        """The revision of a document that we have sealed or verified."""
        return Revision(tag, self._shard(raw))

    def _shard(self, raw: bytes) -> tuple[Any, ...]:
        """The stored values of the shard key, if there is one. To a cluster a field that is missing is null."""
        if not self._shard_key:
            return ()
        document = bson.decode(raw, envelope.CODEC_OPTIONS)
        return tuple(document.get(name) for name in self._shard_key)

    def open(self, raw: bytes, asked: Asked | AskedValue | None = None) -> tuple[Any, Model]:
        """Verify and open one document, and let the instance remember it. The verified ``_id``, and the model."""
        element = asked.element if isinstance(asked, AskedValue) else b""
        return self._known(raw, self.codec.open_at_once(raw, element), asked, element)

    def opener(self, asked: Asked | AskedValue | None) -> Callable[[bytes], Model]:
        """`open` for many documents that answer one question: what does not change is looked up once. Gives the model alone."""
        element = asked.element if isinstance(asked, AskedValue) else b""
        open_at_once, place = self.codec.open_at_once, self.place
        simply = not self._shard_key and (asked is None or bool(element))

        def open_one(raw: bytes) -> Model:
            opened = open_at_once(raw, element)
            if opened is None or not simply:
                return self._known(raw, opened, asked, element)[1]
            identity, tag, model = opened
            remember(model, place, identity, tag)
            return model

        return open_one

    def _known(
        self, raw: bytes, opened: tuple[Any, bytes, Model] | None, asked: Asked | AskedValue | None, element: bytes
    ) -> tuple[Any, Model]:
        """What is opened already, or has to be the plain way. It is what was asked for, and the instance remembers it."""
        if opened is None:
            opened = self._naming(self.codec.open_plainly, raw)
            element = b""
        identity, tag, model = opened
        if asked is not None and not element:  # with one, the short way has seen it
            self._check_answer(raw, asked, identity)
        remember(model, self.place, identity, (self._revision(tag, raw),) if self._shard_key else tag)
        return identity, model

    def _check_answer(self, raw: bytes, asked: Asked | AskedValue | None, identity: Any) -> None:
        if asked is not None and not asked.is_answered_by(raw):
            raise IntegrityError(
                "the server answered with a document that does not match the filter: a genuine one, but not one that was asked for"
            ).about(document_id=identity, collection=self.name)

    def _naming(self, opening: Callable[[bytes], T], raw: bytes) -> T:
        """Open, and let an error name the collection: the codec knows none."""
        try:
            return opening(raw)
        except (EnvelopeError, KeyUnavailableError) as error:
            error.about(collection=self.name)
            raise

    async def load(self, identity: Any, *, session: Any) -> Model:
        """One document by its id, where somebody listens."""
        return (await self._load(self.collection, identity, session))[1]

    # What is done most often, without a coroutine: after a wait for the server each step costs thrice. The shells wait in between.

    def asked(self, identity: Any) -> Any:
        """An ``_id`` as it is stored, from the model's id."""
        if not self.opens:
            self.need("open", what="load")
        return identity_value(self.schema, identity)

    def find_by_id(self, asked: Any, session: Any) -> Any:
        """What the driver gives for it."""
        return self.collection.find_one({"_id": asked}, collation=BYTE_BY_BYTE, session=session)

    def loaded(self, document: Any, identity: Any, asked: Any) -> Model:
        """The model, of what the driver has given."""
        return self._opened_as(self._found(document, identity), asked)[1]

    async def _load(self, collection: Any, identity: Any, session: Any) -> tuple[Any, Model]:
        self.need("open", what="load")
        if self.hooks.before_load:
            await self.before_load(identity)
        asked, document = await self._find_by_id(collection, identity, session)
        found, model = await self._telling(self._opened_as, document, asked)
        if self.hooks.after_load:
            await self.after_load(model)
        return found, model

    def _opened_as(self, raw: bytes, asked: Any) -> tuple[Any, Model]:
        found, model = self.open(raw)
        self._check_identity(found, asked)
        return found, model

    async def _find_by_id(self, collection: Any, identity: Any, session: Any) -> tuple[Any, bytes]:
        asked = identity_value(self.schema, identity)
        if self.keys_due:
            await self.keys_at_hand()
        document = await settle(collection.find_one({"_id": asked}, collation=BYTE_BY_BYTE, session=session))
        raw = self._found(document, identity)
        await self.meet([raw])
        return asked, raw

    def _found(self, document: Any, identity: Any) -> bytes:
        if document is None:
            raise DocumentNotFoundError("there is no such document").about(document_id=identity, collection=self.name)
        return raw_of(document)

    def _check_identity(self, found: Any, asked: Any) -> None:
        if not same(found, asked):
            raise IntegrityError("the server answered with another document than the one asked for").about(
                document_id=found, collection=self.name
            )

    # --- hooks: each of these may be called also where nobody listens ---------------------------------------------------

    async def before_save(self, model: Model) -> None:
        """An instance is about to be validated and sealed. What is none is refused there."""
        if isinstance(model, self.schema.model):
            await self._call(self.hooks.before_save, model)

    async def after_save(self, model: Model) -> None:
        """It is known to be written, and remembers that."""
        await self._call(self.hooks.after_save, model)

    async def before_load(self, what: Any) -> None:
        """The server is about to be asked."""
        await self._call(self.hooks.before_load, what)

    async def after_load(self, model: Model) -> None:
        """A model is about to be handed out."""
        await self._call(self.hooks.after_load, model)

    async def before_delete(self, identity: Any) -> None:
        """A document is about to be deleted."""
        await self._call(self.hooks.before_delete, identity)

    async def after_delete(self, identity: Any) -> None:
        """It is known to be deleted."""
        await self._call(self.hooks.after_delete, identity)

    async def integrity_failure(self, error: Exception) -> None:
        """Of a stored document that does not open. Only what says that it is wrong is told."""
        if self.hooks.integrity_failure and is_integrity_failure(error):
            await self._call(self.hooks.integrity_failure, error)

    async def _call(self, listeners: Sequence[Callable[[Any], Any]], what: Any) -> None:
        for listener in listeners:
            await self._answer_of(listener(what))

    async def _telling(self, opening: Callable[..., T], *arguments: Any) -> T:
        """Open, and tell the hooks of a stored document that is wrong."""
        try:
            return opening(*arguments)
        except EnvelopeError as error:
            if not self.hooks.integrity_failure:
                raise
            wrong = error
        await self.integrity_failure(wrong)
        raise wrong

    async def _answer_of(self, given: Any) -> Any:
        """What a function of the user gave, awaited where that is possible."""
        if hasattr(type(given), "__await__") and isinstance(self.collection, Collection):
            if isinstance(given, Coroutine):
                given.close()
            raise QueryError("a coroutine function cannot be waited for here: give a plain function, or use AsyncRepository")
        return await settle(given)

    def number_of(self, answer: Any) -> int:
        """A number of documents, if that is what the server has answered: BSON has three kinds of whole numbers."""
        whole = type(answer) in (int, Int64) or (isinstance(answer, float) and answer.is_integer())
        if not whole or answer < 0:
            raise MalformedEnvelopeError("the server answered with something that is no number of documents").about(
                collection=self.name
            )
        return int(answer)

    async def setup(self, *, indexes: Sequence[Any], guard: bool, dry_run: bool, session: Any) -> list[str]:
        """Check collection and server, and make what is missing."""
        self.need("verify" if dry_run else "seal", what="setup(dry_run=True)" if dry_run else "setup, which writes a probe,")
        await self.newest_keys()
        return await set_up(
            self._primary,
            self.schema,
            keys=self._keys,
            context=self.codec.context,
            indexes=indexes,
            guarded=guard,
            dry_run=dry_run,
            session=session,
        )

    def revision(self, model: Model | Mapping[str, Any]) -> str:
        """The revision of the document that an instance stands for; of several that are possible, the latest."""
        field, tag = self.schema.identity, None
        if isinstance(model, Content):
            tag = model.revision.tag
        elif isinstance(model, self.schema.model):
            identity = getattr(model, field.name)
            if identity is not None and field.node.fits(identity):
                tag = recall(model, self.place, field.node.projected(identity))[-1].tag
        if tag is None:
            raise RepositoryError(
                "this instance has no revision: it was neither loaded nor saved here, or the call was not awaited"
            )
        return as_text(tag)


def as_document(raw: bytes) -> RawBSONDocument:
    """For pymongo, which decodes what is replaced: with options under which a date of the year 0 does not fail."""
    return RawBSONDocument(raw, _ANY_DATE)


def raw_of(document: Any) -> bytes:
    """The bytes of what the server has answered, if that is a document."""
    if not isinstance(document, RawBSONDocument):
        raise MalformedEnvelopeError("the server answered with something that is no document")
    return bytes(document.raw)


def in_transaction(session: Any) -> bool:
    """Whether what is done now may be undone."""
    return session is not None and session.in_transaction


def batches(collection: Any, where: Mapping[str, Any], **options: Any) -> Any:
    """A cursor over what matches, whose documents `next_batch` gives.

    Without a size a batch would have 16 MB: they are in memory several times, and keep an event loop busy while they are read.
    """
    usual = _BATCH if isinstance(collection, Collection) else _ASYNC_BATCH
    # A negative limit is for one answer that holds all of them.
    options["batch_size"] = options.get("batch_size") or max(usual, -(options.get("limit") or 0))
    return collection.find(where, **options)


async def next_batch(cursor: Any) -> list[bytes]:
    """The next documents of a driver's cursor; none at its end. Of a cursor that does not count what has come: the next one."""
    before = getattr(cursor, "retrieved", None)
    try:
        first = await next_of(cursor)
        if first is END:
            return []
        left = 0 if before is None else cursor.retrieved - before - 1
        rest = await settle(cursor.to_list(left)) if left > 0 else []
        return [bytes(document.raw) for document in (first, *rest)]
    except (BSONError, AttributeError, TypeError, LookupError):  # what is no document, no list, or is missing
        pass
    raise MalformedEnvelopeError("the server answered with something that is no list of documents")


async def next_of(cursor: Any) -> Any:
    """The next document of a driver's cursor, or `END`."""
    try:
        return await settle(cursor.next())
    except (StopIteration, StopAsyncIteration):
        return END


#: Documents in a batch, unless the caller says otherwise. Those of 1 KB in larger batches take longer each: their buffers come from
#: the system, and go back there, each time.
_BATCH: Final = 400
_ASYNC_BATCH: Final = 200
_ANY_DATE: Final[CodecOptions[RawBSONDocument]] = CodecOptions(
    document_class=RawBSONDocument, datetime_conversion=DatetimeConversion.DATETIME_MS
)
