"""The flows of a repository: everything that it does, as coroutines that either driver can run (`bridge` says how).

Above stand `cursor` and `repository`, which drive them or await them. Below: `codec` seals and opens, `query` compiles filters,
`revision` knows which stored document an instance stands for, `answer` whether a document is the one that was asked for.

Every command says "compare text byte by byte", unless the caller names a collation. A collection's own default is not used: who
recreates the collection could otherwise decide what equals what, and `answer` could not check it.
"""

from __future__ import annotations

import copy
import secrets
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, Self, TypeVar

import bson
from bson import Int64, Regex
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pydantic import BaseModel
from pymongo import ReadPreference
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, DuplicateKeyError

from . import envelope
from .answer import Asked, comparable, same
from .bridge import settle
from .codec import DocumentCodec
from .errors import (
    ConfigurationError,
    DocumentNotFoundError,
    DuplicateValueError,
    EnvelopeError,
    IntegrityError,
    KeyUnavailableError,
    MalformedEnvelopeError,
    PayloadError,
    QueryError,
    RepositoryError,
    RevisionConflictError,
    UnknownKeyError,
)
from .keys import KeyRing
from .provision import BYTE_BY_BYTE, RESERVED_CONTEXTS, set_up
from .query import compile_filter, compile_sort, from_stored, identity_value, stored_name
from .revision import ABSENT, FRESH, Content, Revision, as_text, from_text, recall, remember

__all__ = ["END", "Filter", "Flows", "Found", "Hint", "OnInvalid", "SortKey", "in_transaction"]

Model = TypeVar("Model", bound=BaseModel)
T = TypeVar("T")
Filter = Mapping[str, Any] | None
SortKey = str | Sequence[Any] | Mapping[str, int]
#: An index: its name, or what it is on, like a sort.
Hint = str | Sequence[tuple[str, int]] | Mapping[str, int]
OnInvalid = Literal["raise", "skip"] | Callable[[EnvelopeError | UnknownKeyError], Any]

#: MongoDB's limit for one document (manual: Limits and Thresholds).
_MAX_BYTES: Final = 16 * 1024 * 1024
#: So many ids go into one query of `load_many`.
_IDS: Final = 1000
#: What `Flows.next` gives after the last document.
END: Final = object()


@dataclass(frozen=True, slots=True)
class _Sealed:
    """One instance, sealed and ready to be written."""

    identity: Any
    raw: bytes
    known: tuple[Revision, ...]
    revision: Revision


@dataclass(frozen=True, slots=True)
class Found:
    """A cursor of the driver, and what its documents have to answer."""

    cursor: Any
    asked: Asked | None
    on_invalid: OnInvalid


class Flows(Generic[Model]):
    """What one repository does. Holds no state of a call."""

    def __init__(
        self,
        model: type[Model],
        collection: Any,
        kind: type,
        *,
        keys: KeyRing,
        context: str | None,
        validate_on_save: bool,
        shard_key: Sequence[str],
    ) -> None:
        if isinstance(model, Collection | AsyncCollection):
            raise ConfigurationError("the model comes first, then the collection: Repository(Customer, collection, keys=keys)")
        if not isinstance(collection, Collection | AsyncCollection) or not isinstance(collection, kind):
            right = "Repository with a MongoClient, AsyncRepository with an AsyncMongoClient"
            raise ConfigurationError(
                f"{type(collection).__module__}.{type(collection).__name__} is not a collection of this driver. Use {right}"
            )
        self.name: str = collection.name
        self._keys = keys
        self.codec = DocumentCodec(
            model, keys=keys, context=collection.name if context is None else context, validate_on_save=validate_on_save
        )
        if self.codec.context.startswith(RESERVED_CONTEXTS):
            raise ConfigurationError(f"a context that begins with {RESERVED_CONTEXTS} is for this package's own documents")
        self.schema = self.codec.schema
        self.place = (collection.full_name, self.codec.context)
        self._shard_key = self._stored_shard_key(shard_key)
        raw = envelope.CODEC_OPTIONS.with_options(document_class=RawBSONDocument)
        self._use(collection.with_options(codec_options=raw))

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
        other = copy.copy(self)
        other._use(self.collection.with_options(**options))
        return other

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
        return _Sealed(identity, raw, recall(model, self.place, identity), self._revision(envelope.tag_of(raw), raw))

    def _revision(self, tag: bytes, raw: bytes) -> Revision:
        """The revision of a document that we have sealed or verified."""
        return Revision(tag, self._shard(raw)) if self._shard_key else Revision(tag)

    def _shard(self, raw: bytes) -> tuple[Any, ...]:
        """The stored values of the shard key. To a cluster a field that is missing is null."""
        document = bson.decode(raw, envelope.CODEC_OPTIONS)
        return tuple(document.get(name) for name in self._shard_key)

    async def save(self, model: Model, *, overwrite: bool, revision: str | None, session: Any) -> Model:
        """Insert a new instance, replace the document that a loaded one stands for."""
        if overwrite and revision is not None:
            raise QueryError("save: overwrite=True writes over any revision, revision= over one. Give one of the two")
        sealed = self.seal(model)
        if revision is None:
            return await self._store(model, sealed, sealed.known, overwrite=overwrite, session=session)
        return await self._store(model, sealed, await self._since(sealed, revision, session), overwrite=False, session=session)

    async def _since(self, sealed: _Sealed, text: str, session: Any) -> tuple[Revision, ...]:
        """What to expect where the caller names a revision: that one, and what this instance has attempted on top of it since."""
        tag = _tag(text)
        tags = [revision.tag for revision in sealed.known]
        if tag in tags:
            return sealed.known[tags.index(tag) :]
        shard = await self._stored_shard(sealed.identity, session)
        return (Revision(tag, sealed.revision.shard if shard is None else shard),)

    async def _store(
        self, model: Model, sealed: _Sealed, expected: tuple[Revision, ...], *, overwrite: bool, session: Any
    ) -> Model:
        """Write, and let the instance remember what the document may be now.

        What it knew before stays possible while the outcome is unknown, also if only a part of it was expected.
        """
        attempted = (*(sealed.known if expected[0] in sealed.known else expected), sealed.revision)
        try:
            if overwrite:
                failed = await self._overwrite(sealed, session)
            else:
                failed = await self._write(sealed, expected, session)
        except BaseException:  # a lost reply, a cancelled task, Ctrl-C: it may have been written
            remember(model, self.place, sealed.identity, attempted)
            raise
        if failed is not None:
            raise failed.about(document_id=sealed.identity, collection=self.name)
        remember(model, self.place, sealed.identity, attempted if in_transaction(session) else (sealed.revision,))
        return model

    # What these give back went wrong. It is raised by `save`, outside of pymongo's own errors, which quote values.

    async def _write(self, sealed: _Sealed, expected: tuple[Revision, ...], session: Any) -> RepositoryError | None:
        """Compare-and-set on any of the revisions expected, and insert if the document may not be there."""
        try:
            if await self._replace(sealed, expected, session):
                return None
            if ABSENT not in expected:
                return await self._missed(sealed, expected, session)
            await settle(self.collection.insert_one(_document(sealed.raw), session=session))
        except DuplicateKeyError as error:
            failed = self._duplicate(error.details)
        else:
            return None
        if len(expected) == 1 or not isinstance(failed, RevisionConflictError) or in_transaction(session):
            return failed
        # An insert of ours, whose reply was lost, may have arrived only now: then it is there to be replaced.
        again = await self._write(sealed, tuple(each for each in expected if each != ABSENT), session)
        return failed if isinstance(again, RevisionConflictError) else again

    async def _replace(self, sealed: _Sealed, expected: tuple[Revision, ...], session: Any) -> bool:
        """Replace the document if it is of one of these revisions. One command, but for an instance that changed its shard."""
        there = [revision for revision in expected if revision.tag is not None]
        while there:
            shard = there[0].shard
            here = [revision for revision in there if _equal(revision.shard, shard)]
            there = [revision for revision in there if not _equal(revision.shard, shard)]
            tags = [revision.tag for revision in here]
            where = self._where(sealed.identity, shard) | {"hmac": {"$in": tags}}
            document = _document(sealed.raw)
            if (await settle(self.collection.replace_one(where, document, collation=BYTE_BY_BYTE, session=session))).matched_count:
                return True
        return False

    async def _overwrite(self, sealed: _Sealed, session: Any) -> RepositoryError | None:
        """Replace whatever is there, or insert. Again if it has moved to another shard between question and answer."""
        failed: RepositoryError | None = None
        for by_id in self._looks:
            stored = await self._stored_shard(sealed.identity, session)
            where = self._where(sealed.identity, sealed.revision.shard if stored is None else () if by_id else stored)
            # One that has been seen is not inserted if it does not match: the duplicate would end a transaction.
            upsert, document = stored is None or by_id, _document(sealed.raw)
            try:
                result = await settle(
                    self.collection.replace_one(where, document, upsert=upsert, collation=BYTE_BY_BYTE, session=session)
                )
            except DuplicateKeyError as error:
                failed = self._duplicate(error.details)
                if in_transaction(session) or not isinstance(failed, RevisionConflictError):
                    break
            else:
                if upsert or result.matched_count:
                    return None
        return failed

    def _duplicate(self, details: Mapping[str, Any] | None) -> RepositoryError:
        """Which of the two a duplicate key is. The server's message quotes the value; ``keyPattern`` names the fields.

        What is told of it is what we call them: the names are the server's words, too, and so is what comes after a dot.
        """
        pattern = (details or {}).get("keyPattern") or {"_id": 1}
        fields = list(pattern) if isinstance(pattern, Mapping) else []
        if fields == ["_id"]:
            return RevisionConflictError(
                "not saved: a document with this _id exists already. Load it to change it, or save(…, overwrite=True)"
            )
        known = [self.schema.field(name.partition(".")[0]) for name in fields]
        ours = " and ".join(dict.fromkeys(field.name for field in known if field is not None))
        return DuplicateValueError(f"not saved: another document has the same {ours or 'value'}, and the index is unique")

    def _where(self, identity: Any, shard: tuple[Any, ...]) -> dict[str, Any]:
        """The filter of a write by id: a sharded cluster finds the one shard by the fields of the shard key, if they are known."""
        return {"_id": identity, **{name: _literal(value) for name, value in zip(self._shard_key, shard, strict=False)}}

    @property
    def _looks(self) -> tuple[bool, ...]:
        """How often a document is looked for, as it may move to another shard in between; and whether by its id alone.

        At last by its id alone: a shard value that somebody has put there may not match itself, once pymongo has read it.
        """
        return (False, False, True) if self._shard_key else (True,)

    async def _stored_shard(self, identity: Any, session: Any) -> tuple[Any, ...] | None:
        """Which shard the stored document is on, as the server says; None if there is none. Nothing where it cannot be read."""
        if not self._shard_key:
            return ()
        where, fields = {"_id": identity}, dict.fromkeys(self._shard_key, 1)
        document = await settle(self._primary.find_one(where, fields, collation=BYTE_BY_BYTE, session=session))
        try:
            return None if document is None else self._shard(_raw(document))
        except (BSONError, EnvelopeError):  # nobody has verified it
            return ()

    async def _missed(self, sealed: _Sealed, expected: tuple[Revision, ...], session: Any) -> RepositoryError:
        """Why no document was there to be replaced."""
        known = expected[0] in sealed.known  # otherwise the caller has named the revision
        if not await self._is_there(sealed.identity, session):
            if not known:
                return DocumentNotFoundError("not saved: there is no such document")
            return DocumentNotFoundError("not saved: the document has been deleted. save(…, overwrite=True) writes it anew")
        if not known:
            return RevisionConflictError(_ANOTHER_REVISION.format("saved"))
        return RevisionConflictError(
            "not saved: somebody else wrote the document since it was loaded. Load it again, and repeat the change"
        )

    async def _is_there(self, identity: Any, session: Any) -> bool:
        where = {"_id": identity}
        return await settle(self._primary.find_one(where, {"_id": 1}, collation=BYTE_BY_BYTE, session=session)) is not None

    async def save_many(self, models: Iterable[Model], *, session: Any) -> list[Model]:
        """Insert the new ones in one command, then replace the others one by one."""
        if isinstance(models, BaseModel) or not isinstance(models, Iterable):
            raise QueryError("save_many takes several models, in a list, say; save takes one")
        given = list(models)
        once = list({id(model): model for model in given}.values())
        sealed = [self.seal(model) for model in once]
        fresh = [(model, each) for model, each in zip(once, sealed, strict=True) if each.known == FRESH]
        if fresh:
            await self._insert_many(fresh, session)
        for model, each in zip(once, sealed, strict=True):
            if each.known != FRESH:
                await self.save(model, overwrite=False, revision=None, session=session)
        return given

    async def _insert_many(self, fresh: list[tuple[Model, _Sealed]], session: Any) -> None:
        uncertain = in_transaction(session)
        were = "will not be, once the transaction is aborted" if uncertain else "were saved"
        written, failed = len(fresh), None
        try:
            await settle(self.collection.insert_many([_document(each.raw) for _, each in fresh], session=session))
        except BulkWriteError as error:
            details = error.details or {}
            problem = details.get("writeErrors") or [{}]
            if problem[0].get("code") != _DUPLICATE_KEY:
                self._remember_written(fresh, uncertain=True)
                raise
            written = problem[0]["index"]
            failed = self._duplicate(problem[0])
            if details.get("writeConcernErrors"):
                uncertain, were = True, "were written, but the write concern was not met, so that they may be lost again"
        except BaseException:  # as in `save`
            self._remember_written(fresh, uncertain=True)
            raise
        self._remember_written(fresh[:written], uncertain=uncertain)
        if failed is not None:
            failed.args = (f"{failed.args[0]}. Of {len(fresh)} new documents the {written} before it {were}",)
            raise failed.about(document_id=fresh[written][1].identity, collection=self.name)

    def _remember_written(self, written: list[tuple[Model, _Sealed]], *, uncertain: bool) -> None:
        for model, each in written:
            remember(model, self.place, each.identity, (*each.known, each.revision) if uncertain else (each.revision,))

    async def update(
        self, identity: Any, changes: Mapping[str, Any] | Callable[[Model], Any], *, revision: str | None, session: Any
    ) -> Model | RevisionConflictError:
        """Load, change, save: once. The shells repeat it after a conflict, which is given back: the function may raise its own."""
        stored, loaded = await self._load(self._primary, identity, session)
        expected = recall(loaded, self.place, stored)
        if revision is not None and expected[0].tag != _tag(revision):
            return RevisionConflictError(_ANOTHER_REVISION.format("saved")).about(document_id=stored, collection=self.name)
        if callable(changes):
            given = await self._answer_of(changes(loaded))
            changed = loaded if given is None else given
            if not isinstance(changed, self.schema.model):
                raise QueryError(
                    f"update: the function gives back a {self.schema.model.__name__}, or None after changing the one it was given, "
                    f"and not a {type(changed).__name__}"
                )
            changed = self.schema.reloaded(changed)
        else:
            changed = self.schema.changed(loaded, changes)
        remember(changed, self.place, stored, expected)
        sealed = self.seal(changed)
        if not same(sealed.identity, stored):
            raise QueryError("update: the function changed the id. Save a new instance, and delete this document")
        try:
            return await self._store(changed, sealed, expected, overwrite=False, session=session)
        except RevisionConflictError as conflict:
            return conflict

    async def _answer_of(self, given: Any) -> Any:
        """What a function of the user gave, awaited where that is possible."""
        if hasattr(type(given), "__await__") and isinstance(self.collection, Collection):
            if isinstance(given, Coroutine):
                given.close()
            raise QueryError("a coroutine function cannot be waited for here: give a plain function, or use AsyncRepository")
        return await settle(given)

    async def delete(self, identity: Any, *, revision: str | None, session: Any) -> bool:
        """Delete one document by its id."""
        asked = identity_value(self.schema, identity)
        expected = {} if revision is None else {"hmac": _tag(revision)}
        for by_id in self._looks:
            shard = await self._stored_shard(asked, session)
            if shard is None:
                break
            where = self._where(asked, () if by_id else shard) | expected
            if (await settle(self.collection.delete_one(where, collation=BYTE_BY_BYTE, session=session))).deleted_count:
                return True
            if by_id and expected and await self._is_there(asked, session):
                raise RevisionConflictError(_ANOTHER_REVISION.format("deleted")).about(document_id=identity, collection=self.name)
        return False

    async def delete_many(self, where: Filter, *, collation: Any, session: Any) -> int:
        """Delete what matches."""
        if where is None:
            raise QueryError("delete_many takes a filter. All documents match {}")
        compiled = compile_filter(self.schema, where)
        result = await settle(self.collection.delete_many(compiled, collation=collation or BYTE_BY_BYTE, session=session))
        return self._number(result.deleted_count)

    # --- reading ------------------------------------------------------------------------------------------------------

    def open(self, document: RawBSONDocument, asked: Asked | None = None) -> tuple[Any, Model]:
        """Verify and open one document, and let the instance remember it. The verified ``_id``, and the model."""
        raw = _raw(document)
        identity, tag, model = self._naming(self.codec.open_bson, raw)
        if asked is not None and not asked.is_answered_by(raw):
            raise IntegrityError(
                "the server answered with a document that does not match the filter: a genuine one, but not one that was asked for"
            ).about(document_id=identity, collection=self.name)
        remember(model, self.place, identity, (self._revision(tag, raw),))
        return identity, model

    def _naming(self, opening: Callable[[bytes], T], raw: bytes) -> T:
        """Open, and let an error name the collection: the codec knows none."""
        try:
            return opening(raw)
        except (EnvelopeError, KeyUnavailableError) as error:
            error.about(collection=self.name)
            raise

    async def load(self, identity: Any, *, session: Any) -> Model:
        """One document by its id."""
        return (await self._load(self.collection, identity, session))[1]

    async def _load(self, collection: Any, identity: Any, session: Any) -> tuple[Any, Model]:
        asked, document = await self._find_by_id(collection, identity, session)
        found, model = self.open(document)
        self._check_identity(found, asked)
        return found, model

    async def load_raw(self, identity: Any, *, session: Any) -> dict[str, Any]:
        """One document by its id, verified and decrypted, not validated."""
        asked, document = await self._find_by_id(self.collection, identity, session)
        raw = _raw(document)
        found, tag, values = self._naming(self.codec.open_raw_bson, raw)
        self._check_identity(found, asked)
        content = Content(values)
        content.identity, content.revision = found, self._revision(tag, raw)
        return content

    def mend(self, content: Mapping[str, Any]) -> Model:
        """A model of content that was loaded raw, which remembers of which revision it is."""
        if not isinstance(content, Mapping):
            raise QueryError(f"mend takes the content that load_raw gave, not a {type(content).__name__}")
        model = self.schema.revived(content)
        if isinstance(content, Content):
            remember(model, self.place, content.identity, (content.revision,))
        return model

    async def _find_by_id(self, collection: Any, identity: Any, session: Any) -> tuple[Any, RawBSONDocument]:
        asked = identity_value(self.schema, identity)
        document = await settle(collection.find_one({"_id": asked}, collation=BYTE_BY_BYTE, session=session))
        if document is None:
            raise DocumentNotFoundError("there is no such document").about(document_id=identity, collection=self.name)
        return asked, document

    def _check_identity(self, found: Any, asked: Any) -> None:
        if not same(found, asked):
            raise IntegrityError("the server answered with another document than the one asked for").about(
                document_id=found, collection=self.name
            )

    async def load_many(self, identities: Iterable[Any], *, session: Any) -> list[Model]:
        """Several documents by their ids, in the order of these."""
        if isinstance(identities, str | bytes | Mapping) or not isinstance(identities, Iterable):
            raise QueryError("load_many takes several ids, in a list, say; load takes one")
        given = list(identities)
        asked = [identity_value(self.schema, each) for each in given]
        keys = [comparable(envelope.as_stored(each)) for each in asked]
        found: dict[Any, Model] = {}
        for start in range(0, len(asked), _IDS):
            expected = set(keys[start : start + _IDS])
            where = {"_id": {"$in": asked[start : start + _IDS]}}
            cursor = self.collection.find(where, collation=BYTE_BY_BYTE, session=session)
            while (document := await _next(cursor)) is not END:
                identity, model = self.open(document)
                key = comparable(envelope.as_stored(identity))
                if key not in expected:
                    raise IntegrityError("the server answered with a document that was not asked for").about(
                        document_id=identity, collection=self.name
                    )
                found[key] = model
        missing = [identity for identity, key in zip(given, keys, strict=True) if key not in found]
        if missing:
            raise DocumentNotFoundError(f"{len(missing)} of {len(given)} documents are not there; this is the first").about(
                document_id=missing[0], collection=self.name
            )
        return [found[key] for key in keys]

    async def find_one(self, where: Filter, *, sort: SortKey | None, session: Any, **options: Any) -> Model | None:
        """The first document that matches, or None."""
        compiled, asked, options = self._question(where, sort, options)
        document = await settle(self.collection.find_one(compiled, session=session, **options))
        return None if document is None else self.open(document, asked)[1]

    def find(self, where: Filter, *, sort: SortKey | None, on_invalid: OnInvalid, session: Any, **options: Any) -> Found:
        """The driver's cursor over what matches, and what the documents have to answer."""
        if on_invalid not in ("raise", "skip") and not callable(on_invalid):
            raise QueryError('on_invalid is "raise", "skip", or a function that is given the error')
        compiled, asked, options = self._question(where, sort, options)
        return Found(self.collection.find(compiled, session=session, **options), asked, on_invalid)

    def _question(
        self, where: Filter, sort: SortKey | None, options: dict[str, Any]
    ) -> tuple[dict[str, Any], Asked | None, dict[str, Any]]:
        """A filter compiled, what of it will be checked again, and the options of the driver's ``find``."""
        compiled = compile_filter(self.schema, where)
        if sort is not None:
            options["sort"] = compile_sort(self.schema, sort)
        asked = Asked(compiled) if compiled and options["collation"] is None else None
        return compiled, asked, self._options(options)

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        """pymongo's own options, which a hint and a collation become."""
        hint, collation = options.get("hint"), options.get("collation")
        if hint is not None and not isinstance(hint, str | Sequence | Mapping):
            raise QueryError("hint is the name of an index, or the fields that it is on, like a sort")
        if hint is not None and not isinstance(hint, str):
            options["hint"] = compile_sort(self.schema, hint)
        options["collation"] = collation or BYTE_BY_BYTE
        return {name: value for name, value in options.items() if value is not None}

    async def next(self, found: Found) -> Any:
        """The next model of a cursor, or `END`."""
        while True:
            document = await _next(found.cursor)
            if document is END:
                return END
            try:
                return self.open(document, found.asked)[1]
            except (EnvelopeError, UnknownKeyError) as error:  # never a KMSError: an outage is not an empty result
                if found.on_invalid == "raise":
                    raise
                invalid = error
            if callable(found.on_invalid):
                await self._answer_of(found.on_invalid(invalid))

    async def count(self, where: Filter, *, max_time_ms: int | None, session: Any, **options: Any) -> int:
        """How many match, as the server says."""
        options |= {"maxTimeMS": max_time_ms}
        compiled = compile_filter(self.schema, where)
        return self._number(await settle(self.collection.count_documents(compiled, session=session, **self._options(options))))

    def _number(self, answer: Any) -> int:
        """A number of documents, if that is what the server has answered: BSON has three kinds of whole numbers."""
        whole = type(answer) in (int, Int64) or (isinstance(answer, float) and answer.is_integer())
        if not whole or answer < 0:
            raise MalformedEnvelopeError("the server answered with something that is no number of documents").about(
                collection=self.name
            )
        return int(answer)

    async def exists(self, where: Filter, *, session: Any, **options: Any) -> bool:
        """Whether anything matches, as the server says."""
        compiled = compile_filter(self.schema, where)
        found = await settle(self.collection.find_one(compiled, {"_id": 1}, session=session, **self._options(options)))
        return found is not None

    async def distinct(self, name: str, where: Filter, *, max_time_ms: int | None, session: Any, **options: Any) -> list[Any]:
        """The values of one field, each once, as the server says."""
        stored = stored_name(self.schema, name)
        options |= {"maxTimeMS": max_time_ms}
        plain = self.collection.with_options(codec_options=envelope.CODEC_OPTIONS)
        compiled = compile_filter(self.schema, where)
        values = await settle(plain.distinct(stored, compiled, session=session, **self._options(options)))
        if not isinstance(values, list):
            raise MalformedEnvelopeError("the server answered with something that is no list of values").about(collection=self.name)
        return [from_stored(self.schema, name, value) for value in values]

    async def setup(self, *, session: Any) -> list[str]:
        """Check collection and server, and make the indexes that are missing."""
        return await set_up(self._primary, self.schema.indexes, keys=self._keys, context=self.codec.context, session=session)

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


def _document(raw: bytes) -> RawBSONDocument:
    """For pymongo, which decodes what is replaced: with options under which a date of the year 0 does not fail."""
    return RawBSONDocument(raw, _ANY_DATE)


def _raw(document: Any) -> bytes:
    """The bytes of what the server has answered, if that is a document."""
    if not isinstance(document, RawBSONDocument):
        raise MalformedEnvelopeError("the server answered with something that is no document")
    return bytes(document.raw)


def in_transaction(session: Any) -> bool:
    """Whether what is done now may be undone."""
    return session is not None and session.in_transaction


async def _next(cursor: Any) -> Any:
    try:
        return await settle(cursor.next())
    except (StopIteration, StopAsyncIteration):
        return END


def _tag(text: str) -> bytes:
    """The tag of a revision that the caller names. A text that no repository wrote is a conflict with whatever is stored.

    So it becomes a tag that no document can have: nobody could guess it.
    """
    if not isinstance(text, str):
        raise QueryError(f"a revision is the text that repository.revision(…) gave, not a {type(text).__name__}")
    return from_text(text) or secrets.token_bytes(32)


def _equal(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Whether MongoDB takes two shards for one: Python's own ``==`` would, of 1 and True."""
    return bool(comparable(list(one)) == comparable(list(other)))


def _literal(value: Any) -> Any:
    """A stored value as a condition, so that one with operators in it is not taken for them."""
    return {"$eq": value} if isinstance(value, dict | Regex) else value


_ANY_DATE: Final[CodecOptions[RawBSONDocument]] = CodecOptions(
    document_class=RawBSONDocument, datetime_conversion=DatetimeConversion.DATETIME_MS
)
_ANOTHER_REVISION: Final = "not {}: the document is of another revision than the one named. Load it again"
_DUPLICATE_KEY: Final = 11000
