"""The repository: models in, models out, sealed documents in between.

The flows are written once, in `_Flows`; `Repository` drives them over ``MongoClient``, `AsyncRepository` awaits them over
``AsyncMongoClient`` (`bridge` says how). Below stand `codec`, which seals and opens, and `query`, which compiles filters.

No update is lost. The stored ``hmac`` is new at every write, so it is the revision: an instance remembers the tag that it was
loaded or saved with, and a later save replaces exactly that document. See `_Known`.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

from bson.decimal128 import Decimal128
from bson.raw_bson import RawBSONDocument
from pydantic import BaseModel
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, DuplicateKeyError

from . import envelope
from .bridge import drive, settle
from .codec import DocumentCodec
from .errors import (
    ConfigurationError,
    DocumentNotFoundError,
    DuplicateValueError,
    EnvelopeError,
    IntegrityError,
    KeyUnavailableError,
    PayloadError,
    RepositoryError,
    RevisionConflictError,
)
from .keys import KeyRing
from .query import compile_filter, compile_sort, identity_value

if TYPE_CHECKING:
    from pymongo.asynchronous.client_session import AsyncClientSession
    from pymongo.client_session import ClientSession

__all__ = ["AsyncCursor", "AsyncRepository", "Cursor", "Repository"]

Model = TypeVar("Model", bound=BaseModel)
Filter = Mapping[str, Any] | None
SortKey = str | Sequence[Any] | Mapping[str, int]

#: MongoDB's limit for one document (manual: Limits and Thresholds).
_MAX_BYTES: Final = 16 * 1024 * 1024
_END: Final = object()
_ABSENT: Final = None


class _Known(set[str]):
    """The set of fields that pydantic keeps with an instance, and with it: which stored document the instance stands for.

    ``tags`` are the ``hmac`` values that the document may have now: one, normally; several after a write whose outcome is
    unknown (a lost reply, an open transaction); `_ABSENT` among them if the document may not be there. It lives in
    ``__pydantic_fields_set__`` because that goes along with ``model_copy``, ``deepcopy`` and ``pickle``, and can be replaced in a
    frozen model.
    """

    __slots__ = ("stands_for",)

    #: (collection's full name, context), ``_id``, tags
    stands_for: tuple[tuple[str, str], Any, frozenset[bytes | None]]

    def __repr__(self) -> str:
        return repr(set(self))


@dataclass(frozen=True, slots=True)
class _Sealed:
    """One instance, sealed and ready to be written."""

    identity: Any
    raw: bytes
    known: frozenset[bytes | None]

    @property
    def tag(self) -> bytes:
        return self.raw[-33:-1]

    @property
    def fresh(self) -> bool:
        return self.known == {_ABSENT}


class _Flows(Generic[Model]):
    """Everything that a repository does, as coroutines that either driver can run."""

    def __init__(
        self, model: type[Model], collection: Any, kind: type, *, keys: KeyRing, context: str | None, validate_on_save: bool
    ) -> None:
        if not isinstance(collection, Collection | AsyncCollection) or not isinstance(collection, kind):
            right = "Repository with a MongoClient, AsyncRepository with an AsyncMongoClient"
            raise ConfigurationError(
                f"{type(collection).__module__}.{type(collection).__name__} is not a collection of this driver. Use {right}"
            )
        if not collection.write_concern.acknowledged:
            raise ConfigurationError("an unacknowledged write concern (w=0) would lose updates without a sign")
        self.name: str = collection.name
        self.codec = DocumentCodec(
            model, keys=keys, context=collection.name if context is None else context, validate_on_save=validate_on_save
        )
        self.schema = self.codec.schema
        self.place = (collection.full_name, self.codec.context)
        self.collection = collection.with_options(codec_options=envelope.CODEC_OPTIONS.with_options(document_class=RawBSONDocument))

    # --- what an instance remembers -----------------------------------------------------------------------------------

    def known(self, model: Model, identity: Any) -> frozenset[bytes | None]:
        """The tags that the document of this instance may have; `_ABSENT` alone for a fresh one."""
        known = model.__pydantic_fields_set__
        if isinstance(known, _Known):
            place, remembered, tags = known.stands_for
            if place == self.place and _same(remembered, identity):
                return tags
        return frozenset({_ABSENT})

    def remember(self, model: Model, identity: Any, tags: frozenset[bytes | None]) -> None:
        """Note on the instance which document it stands for. Its fields are not touched."""
        known = _Known(model.__pydantic_fields_set__)
        known.stands_for = (self.place, identity, tags)
        object.__setattr__(model, "__pydantic_fields_set__", known)

    # --- writing ------------------------------------------------------------------------------------------------------

    def seal(self, model: Model) -> _Sealed:
        """Seal an instance, before anything is sent."""
        try:
            identity, raw = self.codec.sealed(model)
        except EnvelopeError as error:  # of a batch, say, which one
            given = getattr(model, self.schema.identity.name, None)
            error.about(document_id=given if self.schema.identity.node.fits(given) else None, collection=self.name)
            raise
        if len(raw) > _MAX_BYTES:
            raise PayloadError(
                f"not saved: the sealed document has {len(raw)} bytes, {len(raw) - _MAX_BYTES} more than MongoDB takes"
            ).about(document_id=identity, collection=self.name)
        return _Sealed(identity, raw, self.known(model, identity))

    async def save(self, model: Model, *, overwrite: bool, session: Any) -> Model:
        sealed = self.seal(model)
        known = sealed.known | {sealed.tag}
        try:
            failed = await self._write(sealed, overwrite=overwrite, session=session)
        except BaseException:  # a lost reply, a cancelled task, Ctrl-C: it may have been written
            self.remember(model, sealed.identity, known)
            raise
        if failed is not None:
            raise failed.about(document_id=sealed.identity, collection=self.name)
        uncertain = session is not None and session.in_transaction
        self.remember(model, sealed.identity, known if uncertain else frozenset({sealed.tag}))
        return model

    async def _write(self, sealed: _Sealed, *, overwrite: bool, session: Any) -> RepositoryError | None:
        """Insert or compare-and-set. Gives back what went wrong, so that it is raised outside of pymongo's own errors."""
        document = RawBSONDocument(sealed.raw)
        where: dict[str, Any] = {"_id": sealed.identity}
        try:
            if overwrite:
                await settle(self.collection.replace_one(where, document, upsert=True, session=session))
                return None
            if not sealed.fresh:
                tags = [tag for tag in sealed.known if tag is not _ABSENT]
                result = await settle(self.collection.replace_one({**where, "hmac": {"$in": tags}}, document, session=session))
                if result.matched_count:
                    return None
            if _ABSENT in sealed.known:
                await settle(self.collection.insert_one(document, session=session))
                return None
        except DuplicateKeyError as error:
            return _duplicate(error.details)
        return await self._missed(where, session)

    async def _missed(self, where: dict[str, Any], session: Any) -> RepositoryError:
        if await settle(self.collection.find_one(where, {"_id": 1}, session=session)) is None:
            return DocumentNotFoundError(
                "not saved: the document has been deleted since it was loaded. save(…, overwrite=True) writes it anew"
            )
        return RevisionConflictError(
            "not saved: somebody else wrote the document since it was loaded. Load it again, and repeat the change"
        )

    async def save_many(self, models: Iterable[Model], *, session: Any) -> list[Model]:
        given = list(models)
        sealed = [self.seal(model) for model in given]
        fresh = [(model, each) for model, each in zip(given, sealed, strict=True) if each.fresh]
        if fresh:
            await self._insert_many(fresh, session)
        for model, each in zip(given, sealed, strict=True):
            if not each.fresh:
                await self.save(model, overwrite=False, session=session)
        return given

    async def _insert_many(self, fresh: list[tuple[Model, _Sealed]], session: Any) -> None:
        uncertain = session is not None and session.in_transaction
        written, failed = len(fresh), None
        try:
            await settle(self.collection.insert_many([RawBSONDocument(each.raw) for _, each in fresh], session=session))
        except BulkWriteError as error:
            problem = (error.details or {}).get("writeErrors") or [{}]
            if problem[0].get("code") != _DUPLICATE_KEY:
                self._remember_written(fresh, uncertain=True)
                raise
            written = problem[0]["index"]
            failed = _duplicate(problem[0])
        except BaseException:  # as in `save`
            self._remember_written(fresh, uncertain=True)
            raise
        self._remember_written(fresh[:written], uncertain=uncertain)
        if failed is not None:
            were = "will not be, once the transaction is aborted" if uncertain else "were saved"
            failed.args = (f"{failed.args[0]}. Of {len(fresh)} new documents the {written} before it {were}",)
            raise failed.about(document_id=fresh[written][1].identity, collection=self.name)

    def _remember_written(self, written: list[tuple[Model, _Sealed]], *, uncertain: bool) -> None:
        for model, each in written:
            self.remember(model, each.identity, each.known | {each.tag} if uncertain else frozenset({each.tag}))

    async def delete(self, identity: Any, *, session: Any) -> bool:
        where = {"_id": identity_value(self.schema, identity)}
        result = await settle(self.collection.delete_one(where, session=session))
        return bool(result.deleted_count)

    # --- reading ------------------------------------------------------------------------------------------------------

    def open(self, document: RawBSONDocument) -> tuple[Any, Model]:
        """Verify and open one document, and let the instance remember it. The verified ``_id``, and the model."""
        try:
            identity, tag, model = self.codec.open_bson(bytes(document.raw))
        except (EnvelopeError, KeyUnavailableError) as error:
            error.about(collection=self.name)
            raise
        self.remember(model, identity, frozenset((tag,)))
        return identity, model

    async def load(self, identity: Any, *, session: Any) -> Model:
        asked = identity_value(self.schema, identity)
        document = await settle(self.collection.find_one({"_id": asked}, session=session))
        if document is None:
            raise DocumentNotFoundError("there is no such document").about(document_id=identity, collection=self.name)
        found, model = self.open(document)
        if not _same(found, asked):
            raise IntegrityError("the server answered with another document than the one asked for").about(
                document_id=found, collection=self.name
            )
        return model

    async def find_one(self, where: Filter, *, sort: SortKey | None, session: Any) -> Model | None:
        order = None if sort is None else compile_sort(self.schema, sort)
        document = await settle(self.collection.find_one(compile_filter(self.schema, where), sort=order, session=session))
        return None if document is None else self.open(document)[1]

    def find(self, where: Filter, *, sort: SortKey | None, skip: int, limit: int, session: Any) -> Any:
        cursor = self.collection.find(compile_filter(self.schema, where), skip=skip, limit=limit, session=session)
        return cursor if sort is None else cursor.sort(compile_sort(self.schema, sort))

    async def next(self, cursor: Any) -> Any:
        """The next model of a cursor, or `_END`."""
        try:
            document = await settle(cursor.next())
        except (StopIteration, StopAsyncIteration):
            return _END
        return self.open(document)[1]


_DUPLICATE_KEY: Final = 11000


def _duplicate(details: Mapping[str, Any] | None) -> RepositoryError:
    """Which of the two a duplicate key is. The server's message quotes the value; its ``keyPattern`` names the fields only."""
    fields = list((details or {}).get("keyPattern") or {"_id": 1})
    if fields == ["_id"]:
        return RevisionConflictError(
            "not saved: a document with this _id exists already. Load it to change it, or save(…, overwrite=True)"
        )
    return DuplicateValueError(f"not saved: another document has the same {' and '.join(fields)}, and the index is unique")


def _same(found: Any, asked: Any) -> bool:
    """Whether MongoDB takes the two for the same ``_id``: 5 is 5.0, and a date is what BSON makes of it."""
    if type(found) is type(asked) and found == asked and not isinstance(found, dict):
        return True  # nearly always, and for less than encoding costs
    return bool(_comparable(envelope.as_stored(found)) == _comparable(envelope.as_stored(asked)))


def _comparable(value: Any) -> Any:
    """So that ``==`` says what MongoDB says: decimals count by number, keys by their order; NaN is NaN, and True is not 1."""
    if isinstance(value, Decimal128):
        value = value.to_decimal()
    if isinstance(value, dict):
        return [(name, _comparable(each)) for name, each in value.items()]
    if isinstance(value, list):
        return [_comparable(each) for each in value]
    if isinstance(value, bool) or (isinstance(value, float | Decimal) and math.isnan(value)):
        return (type(value), str(value))
    return value


class _Shell(Generic[Model]):
    """What the two repositories have in common: construction, and a cursor's filter checked at once."""

    _kind: type

    def __init__(
        self, model: type[Model], collection: Any, *, keys: KeyRing, context: str | None = None, validate_on_save: bool = False
    ) -> None:
        """Compile the model for one collection.

        ``context``: the name under which keys are derived; the collection's name by default, so that a restore into another
        database opens. ``validate_on_save``: also run the model's validators before sealing.

        Raise `SchemaError` for a model that cannot be kept, `ConfigurationError` for anything else that does not fit.
        """
        self._flows = _Flows(model, collection, self._kind, keys=keys, context=context, validate_on_save=validate_on_save)

    @property
    def codec(self) -> DocumentCodec[Model]:
        """The codec: `seal` and `open` without a database."""
        return self._flows.codec

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._flows.schema.model.__name__}, {self._flows.name!r})"


class _AnyCursor(Generic[Model]):
    """A pymongo cursor whose documents come out verified and as models. `sort`, `skip` and `limit` before the first one."""

    def __init__(self, flows: _Flows[Model], cursor: Any) -> None:
        self._flows = flows
        self._cursor = cursor

    def sort(self, key: SortKey, direction: int | None = None) -> Self:
        """Sort by queryable fields: ``sort("created_at", -1)`` or ``sort([("tenant", 1), ("created_at", -1)])``."""
        self._cursor.sort(compile_sort(self._flows.schema, key, direction))
        return self

    def skip(self, count: int) -> Self:
        """Leave out the first ``count`` documents."""
        self._cursor.skip(count)
        return self

    def limit(self, count: int) -> Self:
        """Give at most ``count`` documents; 0 is no limit."""
        self._cursor.limit(count)
        return self


class Cursor(_AnyCursor[Model]):
    """What `Repository.find` gives. A document that does not open raises at its turn; ``next()`` goes on after it."""

    def __iter__(self) -> Iterator[Model]:
        return self

    def __next__(self) -> Model:
        """The next model. Raise `EnvelopeError` or `UnknownKeyError`, with the ``_id``, for one that does not open."""
        model = drive(self._flows.next(self._cursor))
        if model is _END:
            raise StopIteration
        return model  # type: ignore[no-any-return]  # _END is the only other thing

    def to_list(self) -> list[Model]:
        """All of them."""
        return list(self)

    def close(self) -> None:
        """Free the cursor on the server; it is freed at its end anyway."""
        self._cursor.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncCursor(_AnyCursor[Model]):
    """What `AsyncRepository.find` gives. A document that does not open raises at its turn; ``anext()`` goes on after it."""

    def __aiter__(self) -> AsyncIterator[Model]:
        return self

    async def __anext__(self) -> Model:
        """The next model. Raise `EnvelopeError` or `UnknownKeyError`, with the ``_id``, for one that does not open."""
        model = await self._flows.next(self._cursor)
        if model is _END:
            raise StopAsyncIteration
        return model  # type: ignore[no-any-return]  # _END is the only other thing

    async def to_list(self) -> list[Model]:
        """All of them."""
        return [model async for model in self]

    async def close(self) -> None:
        """Free the cursor on the server; it is freed at its end anyway."""
        await self._cursor.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Repository(_Shell[Model]):
    """Keeps models of one class in one collection of a ``MongoClient``, sealed.

    ``Repository(Customer, client.crm.customers, keys=keys)``. Safe to share between threads.
    """

    _kind = Collection

    def save(self, model: Model, *, overwrite: bool = False, session: ClientSession | None = None) -> Model:
        """Write an instance, and give it back. A loaded one only if nobody wrote in between; a new one only if it is new.

        ``overwrite`` writes in any case. Raise `PayloadError` (before anything is sent) for a value that cannot be kept,
        `RevisionConflictError`, `DocumentNotFoundError` if it has been deleted, `DuplicateValueError` for a unique index.
        """
        return drive(self._flows.save(model, overwrite=overwrite, session=session))

    def save_many(self, models: Iterable[Model], *, session: ClientSession | None = None) -> list[Model]:
        """Save several: new ones in one ordered insert, then loaded ones one by one. All are sealed before any is sent."""
        return drive(self._flows.save_many(models, session=session))

    def load(self, id: Any, *, session: ClientSession | None = None) -> Model:
        """The model with this id, verified. Raise `DocumentNotFoundError`, `EnvelopeError` or `UnknownKeyError`."""
        return drive(self._flows.load(id, session=session))

    def find_one(self, filter: Filter = None, *, sort: SortKey | None = None, session: ClientSession | None = None) -> Model | None:
        """The first model that matches, or None. The filter is as for `find`."""
        return drive(self._flows.find_one(filter, sort=sort, session=session))

    def find(
        self,
        filter: Filter = None,
        *,
        sort: SortKey | None = None,
        skip: int = 0,
        limit: int = 0,
        session: ClientSession | None = None,
    ) -> Cursor[Model]:
        """A cursor over what matches a filter on queryable fields. Raise `QueryError` at once for one that cannot be served."""
        return Cursor(self._flows, self._flows.find(filter, sort=sort, skip=skip, limit=limit, session=session))

    def delete(self, id: Any, *, session: ClientSession | None = None) -> bool:
        """Delete the document with this id. Whether there was one."""
        return drive(self._flows.delete(id, session=session))


class AsyncRepository(_Shell[Model]):
    """`Repository` over an ``AsyncMongoClient``: the same names and parameters, awaited."""

    _kind = AsyncCollection

    async def save(self, model: Model, *, overwrite: bool = False, session: AsyncClientSession | None = None) -> Model:
        """See `Repository.save`."""
        return await self._flows.save(model, overwrite=overwrite, session=session)

    async def save_many(self, models: Iterable[Model], *, session: AsyncClientSession | None = None) -> list[Model]:
        """See `Repository.save_many`."""
        return await self._flows.save_many(models, session=session)

    async def load(self, id: Any, *, session: AsyncClientSession | None = None) -> Model:
        """See `Repository.load`."""
        return await self._flows.load(id, session=session)

    async def find_one(
        self,
        filter: Filter = None,
        *,
        sort: SortKey | None = None,
        session: AsyncClientSession | None = None,
    ) -> Model | None:
        """See `Repository.find_one`."""
        return await self._flows.find_one(filter, sort=sort, session=session)

    def find(
        self,
        filter: Filter = None,
        *,
        sort: SortKey | None = None,
        skip: int = 0,
        limit: int = 0,
        session: AsyncClientSession | None = None,
    ) -> AsyncCursor[Model]:
        """See `Repository.find`. Not awaited; the cursor is."""
        return AsyncCursor(self._flows, self._flows.find(filter, sort=sort, skip=skip, limit=limit, session=session))

    async def delete(self, id: Any, *, session: AsyncClientSession | None = None) -> bool:
        """See `Repository.delete`."""
        return await self._flows.delete(id, session=session)
