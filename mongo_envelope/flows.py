"""The flows of a repository: everything that it does, as coroutines that either driver can run (`bridge` says how).

Above stand `cursor` and `repository`, which drive them or await them. Below: `codec` seals and opens, `query` compiles filters,
`revision` knows which stored document an instance stands for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from bson.raw_bson import RawBSONDocument
from pydantic import BaseModel
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, DuplicateKeyError

from . import envelope
from .answer import same
from .bridge import settle
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
from .revision import ABSENT, FRESH, Revision, recall, remember

__all__ = ["END", "Filter", "Flows", "SortKey"]

Model = TypeVar("Model", bound=BaseModel)
Filter = Mapping[str, Any] | None
SortKey = str | Sequence[Any] | Mapping[str, int]

#: MongoDB's limit for one document (manual: Limits and Thresholds).
_MAX_BYTES: Final = 16 * 1024 * 1024
#: What `Flows.next` gives after the last document.
END: Final = object()


@dataclass(frozen=True, slots=True)
class _Sealed:
    """One instance, sealed and ready to be written."""

    identity: Any
    raw: bytes
    known: tuple[Revision, ...]

    @property
    def revision(self) -> Revision:
        return Revision(self.raw[-33:-1])

    @property
    def fresh(self) -> bool:
        return self.known == FRESH


class Flows(Generic[Model]):
    """What one repository does. Holds no state of a call."""

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
        return _Sealed(identity, raw, recall(model, self.place, identity))

    async def save(self, model: Model, *, overwrite: bool, session: Any) -> Model:
        """Insert a new instance, replace the document that a loaded one stands for."""
        sealed = self.seal(model)
        known = (*sealed.known, sealed.revision)
        try:
            failed = await self._write(sealed, overwrite=overwrite, session=session)
        except BaseException:  # a lost reply, a cancelled task, Ctrl-C: it may have been written
            remember(model, self.place, sealed.identity, known)
            raise
        if failed is not None:
            raise failed.about(document_id=sealed.identity, collection=self.name)
        uncertain = session is not None and session.in_transaction
        remember(model, self.place, sealed.identity, known if uncertain else (sealed.revision,))
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
                tags = [revision.tag for revision in sealed.known if revision.tag is not None]
                result = await settle(self.collection.replace_one({**where, "hmac": {"$in": tags}}, document, session=session))
                if result.matched_count:
                    return None
            if ABSENT in sealed.known:
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
        """Insert the new ones in one command, then replace the others one by one."""
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
            remember(model, self.place, each.identity, (*each.known, each.revision) if uncertain else (each.revision,))

    async def delete(self, identity: Any, *, session: Any) -> bool:
        """Delete one document by its id."""
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
        remember(model, self.place, identity, (Revision(tag),))
        return identity, model

    async def load(self, identity: Any, *, session: Any) -> Model:
        """One document by its id."""
        asked = identity_value(self.schema, identity)
        document = await settle(self.collection.find_one({"_id": asked}, session=session))
        if document is None:
            raise DocumentNotFoundError("there is no such document").about(document_id=identity, collection=self.name)
        found, model = self.open(document)
        if not same(found, asked):
            raise IntegrityError("the server answered with another document than the one asked for").about(
                document_id=found, collection=self.name
            )
        return model

    async def find_one(self, where: Filter, *, sort: SortKey | None, session: Any) -> Model | None:
        """The first document that matches, or None."""
        order = None if sort is None else compile_sort(self.schema, sort)
        document = await settle(self.collection.find_one(compile_filter(self.schema, where), sort=order, session=session))
        return None if document is None else self.open(document)[1]

    def find(self, where: Filter, *, sort: SortKey | None, skip: int, limit: int, session: Any) -> Any:
        """The driver's cursor over what matches."""
        cursor = self.collection.find(compile_filter(self.schema, where), skip=skip, limit=limit, session=session)
        return cursor if sort is None else cursor.sort(compile_sort(self.schema, sort))

    async def next(self, cursor: Any) -> Any:
        """The next model of a cursor, or `END`."""
        try:
            document = await settle(cursor.next())
        except (StopIteration, StopAsyncIteration):
            return END
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
