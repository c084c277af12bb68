"""The repository: models in, models out, sealed documents in between.

The flows are written once, in `flows`; `Repository` drives them over ``MongoClient``, `AsyncRepository` awaits them over
``AsyncMongoClient`` (`bridge` says how). What really waits, the pauses of `update`, is here.

Throughout: a filter names queryable fields and is refused with `QueryError` when it cannot be answered exactly; ``session=`` is
pymongo's; ``max_time_ms``, ``hint``, ``comment`` and ``collation`` are those of pymongo's ``find``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypedDict, TypeVar, Unpack, overload

from pydantic import BaseModel
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.collection import Collection

from . import batches, guard
from .batches import AsyncBulkWriter, BulkWriter, pauses
from .bridge import drive
from .codec import DocumentCodec, Metadata
from .cursor import AsyncCursor, Cursor
from .datakey import DataKey, IndexKey
from .errors import RevisionConflictError, SaveResult, UnknownKeyError, UpdateResult
from .flows import Filter, SortKey
from .hooks import Hooks
from .keys import KeyRing
from .keystore import KeyStore
from .padding import Padding
from .reading import Hint, OnInvalid
from .transactions import AsyncTransaction, Transaction, run, run_async
from .upkeep import Finding, OnProgress, Upkeep
from .watching import AsyncChangeStream, BeforeChange, ChangeStream, begin

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from bson import Timestamp
    from pymongo.asynchronous.client_session import AsyncClientSession
    from pymongo.client_session import ClientSession
    from pymongo.collation import Collation
    from pymongo.read_concern import ReadConcern
    from pymongo.read_preferences import _ServerMode
    from pymongo.write_concern import WriteConcern

__all__ = ["AsyncRepository", "Repository"]

Model = TypeVar("Model", bound=BaseModel)
Result = TypeVar("Result")


class _Options(TypedDict, total=False):
    """What `find_one` takes beside a filter; the same names and types stand in its signature."""

    sort: SortKey | None
    max_time_ms: int | None
    hint: Hint | None
    comment: Any
    collation: Collation | Mapping[str, Any] | None


class FindOneOptions(_Options, total=False):
    """Of `Repository.find_one`."""

    session: ClientSession | None


class AsyncFindOneOptions(_Options, total=False):
    """Of `AsyncRepository.find_one`."""

    session: AsyncClientSession | None


class _CursorOptions(TypedDict, total=False):
    skip: int
    limit: int
    batch_size: int
    on_invalid: OnInvalid


class FindOptions(FindOneOptions, _CursorOptions, total=False):
    """Of `Repository.find`."""


class AsyncFindOptions(AsyncFindOneOptions, _CursorOptions, total=False):
    """Of `AsyncRepository.find`."""


class _Repository(Generic[Model]):
    """What the two repositories have in common: construction, and what asks no server."""

    _kind: type

    def _build(self, model: type[Model], collection: Any, **options: Any) -> None:
        self._flows: Upkeep[Model] = Upkeep(model, collection, self._kind, **options)

    @property
    def codec(self) -> DocumentCodec[Model]:
        """The codec: `seal` and `open` without a database, with the ring of the moment."""
        if self._kind is Collection and self._flows.keys_due:
            drive(self._flows.keys_at_hand())
        return self._flows.codec

    def needs_rotation(self, document: Mapping[str, Any] | bytes) -> bool:
        """Whether a stored document is under another data key, or other index keys, than are written with today. Not awaited.

        Of the document as pymongo or a backup gives it; what it says of itself is believed. `rotate` moves it, and so does a save.
        """
        return self.codec.needs_rotation(document)

    def revision(self, model: Model | Mapping[str, Any]) -> str:
        """The revision that an instance was loaded or saved with, or that `load_raw` has read, as 64 hexadecimal digits.

        In double quotes it is an ETag. This call is not awaited, in either repository.

        It changes with every write. After a write whose outcome is unknown it is that write's. Raise `RepositoryError` for an
        instance that was neither loaded nor saved here.
        """
        return self._flows.revision(model)

    def mend(self, content: Mapping[str, Any]) -> Model:
        """A model of content that `load_raw` gave and that was mended: ``content["country"] = "GB"``, ``content | {…}``.

        Validated as on load, and saved over the revision that was read. Of a plain dict the instance is a new one. Not awaited.
        Raise `PayloadError` if the content still does not fit the model.
        """
        return self._flows.mend(content)

    def guard(self) -> dict[str, Any]:
        """The validator that `setup` installs, or merges with one that is there. Not awaited."""
        return guard.validator(self._flows.schema)

    def with_options(
        self,
        *,
        write_concern: WriteConcern | None = None,
        read_concern: ReadConcern | None = None,
        read_preference: _ServerMode | None = None,
    ) -> Self:
        """The same repository over the collection with other options. Raise `ConfigurationError` for w=0."""
        other = type(self).__new__(type(self))
        other._flows = self._flows.with_options(
            write_concern=write_concern, read_concern=read_concern, read_preference=read_preference
        )
        return other

    @property
    def _client(self) -> Any:
        return self._flows.collection.database.client

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._flows.schema.model.__name__}, {self._flows.name!r})"


class Repository(_Repository[Model]):
    """Keeps models of one class in one collection of a ``MongoClient``, sealed.

    ``Repository(Customer, client.crm.customers, keys=keys)``. Safe to share between threads.
    """

    _kind = Collection

    def __init__(
        self,
        model: type[Model],
        collection: Collection[Any],
        *,
        keys: KeyRing | KeyStore,
        context: str | None = None,
        validate_on_save: bool = False,
        verify_on_load: bool = False,
        padding: Padding = None,
        shard_key: Sequence[str] = (),
        hooks: Sequence[Hooks[Model]] = (),
    ) -> None:
        """Compile the model for one collection.

        ``context``: the name under which keys are derived; the collection's name by default, so that a restore into another
        database opens. ``validate_on_save``: also run the model's validators before sealing. ``verify_on_load``: do with every
        document that is loaded what `verify` does. ``padding``: "padme" hides the exact length of what is encrypted, for up to 12 %
        more bytes. ``shard_key``: for a sharded collection, the fields of its shard key, which go into the filter of every write by
        id. ``hooks``: instances of `Hooks`, called before and after documents are saved, loaded and deleted.

        Raise `SchemaError` for a model that cannot be kept, `MissingCapabilityError` for a ring that is restricted to another
        context, `ConfigurationError` for anything else that does not fit. With a restricted ring (`KeyRing.restrict`) every method
        says at once if it takes more than the ring has; docs/capabilities.md has the table.
        """
        self._build(
            model,
            collection,
            keys=keys,
            context=context,
            validate_on_save=validate_on_save,
            verify_on_load=verify_on_load,
            padding=padding,
            shard_key=shard_key,
            hooks=hooks,
        )

    def setup(
        self,
        *,
        indexes: Sequence[SortKey] = (),
        guard: bool = True,
        dry_run: bool = False,
        session: ClientSession | None = None,
    ) -> list[str]:
        """Check that collection and server can keep sealed documents, and make what is missing: indexes and the guard.

        Once for each deployment; it may run while the service works. What it made: the names of indexes, and "guard".

        ``indexes``: more of them than the model names, each a name or a list of names or of (name, direction) pairs; of a compound
        one at most one name is that of a field with a blind index. ``guard``: a validator, by which the server refuses what other
        clients write in plaintext; `guard` shows it, and it is merged with one that is there. ``dry_run``: make nothing, say what
        would be made.

        Raise `ConfigurationError` for a view, a time-series or capped collection, one with a default collation, a server that only
        resembles MongoDB, a ring that does not hold the key of the newest documents, and where a guard or an index cannot be made.
        """
        return drive(self._flows.setup(indexes=indexes, guard=guard, dry_run=dry_run, session=session))

    def doctor(self, *, indexes: Sequence[SortKey] = (), session: ClientSession | None = None) -> list[Finding]:
        """What is wrong with the collection, each with what to do about it; an empty list if nothing is.

        Plaintext documents, missing indexes, a missing guard, documents under unknown or retired keys, unknown versions. It counts,
        and opens nothing, so this is the server's word; `verify` opens. It reads the whole collection several times. ``indexes``:
        as for `setup`.
        """
        return drive(self._flows.doctor(indexes=indexes, session=session))

    def verify(self, filter: Filter = None, *, on_invalid: OnInvalid = "raise", session: ClientSession | None = None) -> int:
        """Open every document that matches, and compute again what stands in the clear: index values and projections.

        How many are right. With a restricted ring (`KeyRing.restrict`) nothing is opened, and those are right whose tags are.
        ``on_invalid``: as for `find`. Raise what `load` raises, and `IntegrityError`, which names the field.
        """
        return drive(self._flows.verify(filter, on_invalid=on_invalid, session=session))

    def reindex(
        self,
        *,
        every: bool = False,
        on_progress: OnProgress | None = None,
        on_invalid: OnInvalid = "raise",
        session: ClientSession | None = None,
    ) -> int:
        """Seal anew the documents whose index values are not under the ring's written index keys; how many that were.

        ``every``: all documents, as after a model got another blind index, or a repository ``padding=``. It may run while the
        service works, be stopped at any moment, and begin again. ``on_progress``: called with the numbers of documents done and to
        do. ``on_invalid``: as for `find`.
        """
        return drive(self._flows.reindex(every=every, on_progress=on_progress, on_invalid=on_invalid, session=session))

    def rotate(
        self,
        *,
        on_progress: OnProgress | None = None,
        on_invalid: OnInvalid = "raise",
        session: ClientSession | None = None,
    ) -> int:
        """Seal anew, under the primary key, every document that is under another data key; how many that were.

        It may run while the service works, be stopped at any moment, and begin again: each document by compare-and-set, so that no
        save is undone. What is under a compromised key is moved, too, and nowhere else opened. Content and index values stay as
        they are, and the model is not asked. Parameters as for `reindex`.
        """
        return drive(self._flows.rotate(on_progress=on_progress, on_invalid=on_invalid, session=session))

    def retire_data_key(self, kid: str | DataKey, *, session: ClientSession | None = None) -> KeyRing:
        """A ring without this data key.

        Raise `ConfigurationError`, with their number, while documents of this collection are under it. A ring that serves several
        collections must be asked of each. The keys of a `KeyStore` are removed by its `destroy_key`.
        """
        return drive(self._flows.retire_data_key(kid, session=session))

    def search_by(self, kid: str | IndexKey, *, session: ClientSession | None = None) -> KeyRing:
        """A ring that searches by this index key, to be published to every process. docs/querying.md has the order of steps.

        Raise `ConfigurationError` while a document of this collection has no values under it. A ring that serves several
        collections must be asked of each.
        """
        return drive(self._flows.search_by(kid, session=session))

    def retire_index_key(self, kid: str | IndexKey, *, session: ClientSession | None = None) -> KeyRing:
        """A ring without this index key. Raise `ConfigurationError` while a document of this collection has values under it."""
        return drive(self._flows.retire_index_key(kid, session=session))

    def save(
        self,
        model: Model,
        *,
        overwrite: bool = False,
        revision: str | None = None,
        session: ClientSession | None = None,
    ) -> Model:
        """Write an instance, and give it back. A loaded one only if nobody wrote in between; a new one only if it is new.

        ``revision``: write over exactly this revision (`revision`, or the ETag that a client sent back), whatever the instance is.
        ``overwrite``: write in any case. Raise `PayloadError` (before anything is sent) for a value that cannot be kept,
        `RevisionConflictError`, `DocumentNotFoundError` if it has been deleted, `DuplicateValueError` for a unique index.
        After an error of pymongo the outcome is unknown. The same instance can be saved again: it is no conflict with itself.
        """
        return drive(self._flows.save(model, overwrite=overwrite, revision=revision, session=session))

    def save_many(
        self,
        models: Iterable[Model],
        *,
        ordered: bool = True,
        batch_size: int | None = None,
        session: ClientSession | None = None,
    ) -> SaveResult:
        """Save many, of an iterable of any length, a chunk at a time: each is inserted or replaced as by `save`. How many were.

        ``ordered``: stop at the first that fails, and raise its error; ``.index`` and ``.document_id`` say which, ``.result`` what
        was written: in a transaction, or where a document was deleted, also some after it, of the same command. Otherwise all are
        tried, and `BulkSaveError` is raised at the end if any failed; ``.result.failed`` has their errors. ``batch_size``: how many
        go into one command, at most. Not atomic without a transaction. An instance that is in a chunk twice is written once. After
        an error of pymongo call it again with the same instances: none is written twice.
        """
        run = self._flows.run("save_many", ordered=ordered, batch_size=batch_size, session=session)
        return batches.save_many(self._flows, models, run)

    def bulk(
        self,
        *,
        ordered: bool = True,
        batch_size: int | None = None,
        session: ClientSession | None = None,
    ) -> BulkWriter[Model]:
        """A context manager that collects saves, updates and deletes, and sends them a chunk at a time; the rest at its end.

        ``with customers.bulk() as bulk: bulk.save(ada); bulk.update(id, {…}); bulk.delete(id)``; then ``bulk.result``. In order on
        each document. If the block raises, what was not sent stays unsent. Options and errors are as for `save_many`.
        """
        return BulkWriter(self._flows, self._flows.run("bulk", ordered=ordered, batch_size=batch_size, session=session))

    def load(
        self,
        id: Any,
        *,
        session: ClientSession | None = None,
    ) -> Model:
        """The model with this id, verified. Raise `DocumentNotFoundError`, `EnvelopeError` or `UnknownKeyError`."""
        flows = self._flows
        if not flows.hooks.hear_reading and not flows.keys_due:
            asked = flows.asked(id)
            try:
                return flows.loaded(flows.find_by_id(asked, session), id, asked)
            except UnknownKeyError:
                if not flows.keys_may_come:
                    raise
        return drive(flows.load(id, session=session))

    def load_many(
        self,
        ids: Iterable[Any],
        *,
        session: ClientSession | None = None,
    ) -> list[Model]:
        """The models with these ids, verified, in the order of the ids. Raise as `load`, also if only one is missing.

        Those that are there, whatever is missing: ``find({"id": {"$in": ids}})``.
        """
        return drive(self._flows.load_many(ids, session=session))

    def load_raw(
        self,
        id: Any,
        *,
        session: ClientSession | None = None,
    ) -> dict[str, Any]:
        """The content of a document by field name: verified and decrypted, but not validated, as plain values of BSON and JSON.

        The way out of a `PayloadError`, where the model has changed: change the content, `mend` it, save. Otherwise it raises as
        `load`.
        """
        return drive(self._flows.load_raw(id, session=session))

    @overload
    def find_one(self, filter: Filter = None, *, fields: None = None, **options: Unpack[FindOneOptions]) -> Model | None: ...

    @overload
    def find_one(
        self, filter: Filter = None, *, fields: Literal["metadata"], **options: Unpack[FindOneOptions]
    ) -> Metadata | None: ...

    def find_one(
        self,
        filter: Filter = None,
        *,
        fields: Literal["metadata"] | None = None,
        sort: SortKey | None = None,
        max_time_ms: int | None = None,
        hint: Hint | None = None,
        comment: Any = None,
        collation: Collation | Mapping[str, Any] | None = None,
        session: ClientSession | None = None,
    ) -> Any:
        """The first model that matches, or None. Filter and options are as for `find`."""
        flows = self._flows
        if (asked := flows.at_once(filter, sort, fields, max_time_ms, hint, comment, collation)) is not None:
            try:
                return flows.found(flows.find_first(asked, session), asked)
            except UnknownKeyError:
                if not flows.keys_may_come:
                    raise
        return drive(
            flows.find_one(
                filter,
                fields=fields,
                sort=sort,
                max_time_ms=max_time_ms,
                hint=hint,
                comment=comment,
                collation=collation,
                session=session,
            )
        )

    @overload
    def find(self, filter: Filter = None, *, fields: None = None, **options: Unpack[FindOptions]) -> Cursor[Model]: ...

    @overload
    def find(self, filter: Filter = None, *, fields: Literal["metadata"], **options: Unpack[FindOptions]) -> Cursor[Metadata]: ...

    def find(
        self,
        filter: Filter = None,
        *,
        fields: Literal["metadata"] | None = None,
        sort: SortKey | None = None,
        skip: int = 0,
        limit: int = 0,
        batch_size: int = 0,
        on_invalid: OnInvalid = "raise",
        max_time_ms: int | None = None,
        hint: Hint | None = None,
        comment: Any = None,
        collation: Collation | Mapping[str, Any] | None = None,
        session: ClientSession | None = None,
    ) -> Cursor[Any]:
        """A cursor over what matches a filter on queryable fields. Raise `QueryError` at once for one that cannot be served.

        ``on_invalid``: what becomes of a document that is wrong, or whose key is unknown. "raise" (the loop can go on with
        ``next()``), "skip", or a function that is given the error. Equality and ``$in`` are checked again on each verified
        document, and one that was not asked for is wrong, too; under a ``collation`` they are not.
        """
        if self._flows.keys_due:
            drive(self._flows.keys_at_hand())
        return Cursor(
            self._flows,
            self._flows.find(
                filter,
                fields=fields,
                sort=sort,
                skip=skip,
                limit=limit,
                batch_size=batch_size,
                on_invalid=on_invalid,
                max_time_ms=max_time_ms,
                hint=hint,
                comment=comment,
                collation=collation,
                session=session,
            ),
        )

    def count(
        self,
        filter: Filter = None,
        *,
        max_time_ms: int | None = None,
        hint: Hint | None = None,
        comment: Any = None,
        collation: Collation | Mapping[str, Any] | None = None,
        session: ClientSession | None = None,
    ) -> int:
        """How many documents match: the server's word, unless its answer has to be sifted (docs/querying.md)."""
        return drive(
            self._flows.count(filter, max_time_ms=max_time_ms, hint=hint, comment=comment, collation=collation, session=session)
        )

    def exists(
        self,
        filter: Filter = None,
        *,
        max_time_ms: int | None = None,
        hint: Hint | None = None,
        comment: Any = None,
        collation: Collation | Mapping[str, Any] | None = None,
        session: ClientSession | None = None,
    ) -> bool:
        """Whether any document matches. As `count`."""
        return drive(
            self._flows.exists(filter, max_time_ms=max_time_ms, hint=hint, comment=comment, collation=collation, session=session)
        )

    def distinct(
        self,
        name: str,
        filter: Filter = None,
        *,
        max_time_ms: int | None = None,
        comment: Any = None,
        collation: Collation | Mapping[str, Any] | None = None,
        session: ClientSession | None = None,
    ) -> list[Any]:
        """The values of a queryable field, or of the elements of a list, each once. As `count`.

        In the field's own type where the stored value says which; what BSON rounds (microseconds, zones) is rounded.
        """
        return drive(
            self._flows.distinct(name, filter, max_time_ms=max_time_ms, comment=comment, collation=collation, session=session)
        )

    def aggregate(
        self,
        pipeline: Sequence[Mapping[str, Any]],
        *,
        max_time_ms: int | None = None,
        allow_disk_use: bool | None = None,
        batch_size: int | None = None,
        comment: Any = None,
        collation: Collation | Mapping[str, Any] | None = None,
        session: ClientSession | None = None,
    ) -> Cursor[Any]:
        """What comes out of an aggregation pipeline over metadata: models where whole documents come out, otherwise dicts.

        Names are those of the model. A stage that touches a sensitive or unknown field is refused with `QueryError`, as is one that
        writes or reads another collection; docs/querying.md lists the stages. Models are verified; dicts are the server's word.
        """
        found = drive(
            self._flows.aggregate(
                pipeline,
                maxTimeMS=max_time_ms,
                allowDiskUse=allow_disk_use,
                batchSize=batch_size,
                comment=comment,
                collation=collation,
                session=session,
            )
        )
        return Cursor(self._flows, found)

    def update(
        self,
        id: Any,
        changes: Mapping[str, Any] | Callable[[Model], Model | None],
        *,
        revision: str | None = None,
        session: ClientSession | None = None,
    ) -> Model:
        """Load, change, save, and begin again if somebody wrote in between. The saved model.

        ``changes``: whole fields by name; or a function that is given the loaded model and gives back a changed one, or None if it
        changed that, and may be called several times. ``revision``: change this one or none. Raise `QueryError` for changes that
        do not fit the model, `RevisionConflictError` (after a dozen conflicts; at once in a transaction or with ``revision``), and
        what `load` and `save` raise. After an error of pymongo it is unknown whether the changes were made.
        """
        waits = pauses(revision, session)
        while isinstance(
            saved := drive(self._flows.update(id, changes, revision=revision, session=session)), RevisionConflictError
        ):
            if (pause := next(waits, None)) is None:
                raise saved
            time.sleep(pause)
        return saved

    def update_many(
        self,
        filter: Filter,
        changes: Mapping[str, Any] | Callable[[Model], Model | None],
        *,
        batch_size: int | None = None,
        session: ClientSession | None = None,
    ) -> UpdateResult:
        """Change every document that matches, in the order of ``_id``, a chunk at a time; all of them if the filter is ``{}``.

        Each is loaded, verified, changed as by `update`, and replaced if nobody wrote in between; otherwise it is loaded again, and
        changed if it still matches. It stops at the first error, whose ``.result`` says what was done. Not atomic.
        """
        run = self._flows.run("update_many", ordered=True, batch_size=batch_size, session=session)
        return batches.update_many(self._flows, filter, changes, run)

    def delete(
        self,
        id: Any,
        *,
        revision: str | None = None,
        session: ClientSession | None = None,
    ) -> bool:
        """Delete the document with this id. Whether there was one. ``revision``: only this one, or `RevisionConflictError`."""
        return drive(self._flows.delete(id, revision=revision, session=session))

    def delete_many(
        self,
        filter: Filter,
        *,
        collation: Collation | Mapping[str, Any] | None = None,
        session: ClientSession | None = None,
    ) -> int:
        """Delete what matches a filter on queryable fields; all of it if that is ``{}``. How many there were."""
        return drive(self._flows.delete_many(filter, collation=collation, session=session))

    def transaction(
        self,
        *,
        read_concern: ReadConcern | None = None,
        write_concern: WriteConcern | None = None,
        read_preference: _ServerMode | None = None,
        max_commit_time_ms: int | None = None,
        session: ClientSession | None = None,
    ) -> AbstractContextManager[ClientSession]:
        """``with customers.transaction() as tx``: a session for every repository of the client, ``orders.save(order, session=tx)``.

        Committed at the end of the block, and aborted if that raises. The commit is repeated for two minutes while its outcome is
        unknown. The block cannot be run again: an error with the label ``TransientTransactionError`` is raised, and
        `with_transaction` is the form that repeats. Options and their defaults are those of pymongo's ``start_transaction``: the
        client's, not the repository's. ``session``: use this one.

        Raise `ConfigurationError` for a session of another client, and on a mongod that is not in a replica set.
        """
        return Transaction(
            self._client,
            session,
            read_concern=read_concern,
            write_concern=write_concern,
            read_preference=read_preference,
            max_commit_time_ms=max_commit_time_ms,
        )

    def with_transaction(
        self,
        callback: Callable[[ClientSession], Result],
        *,
        read_concern: ReadConcern | None = None,
        write_concern: WriteConcern | None = None,
        read_preference: _ServerMode | None = None,
        max_commit_time_ms: int | None = None,
        session: ClientSession | None = None,
    ) -> Result:
        """What a function gives that is run in a transaction, and again when MongoDB asks for it: pymongo's ``with_transaction``.

        The function is given the session. It may run several times, and has no other effects; instances that were saved in a run
        that was undone can be saved again. What this package raises in it (`RevisionConflictError`) ends the transaction. Options
        are as for `transaction`.
        """

        def call(tx: ClientSession) -> Result:
            return drive(self._flows._answer_of(callback(tx)))  # type: ignore[no-any-return]  # what the function gave

        return run(
            self._client,
            call,
            session,
            read_concern=read_concern,
            write_concern=write_concern,
            read_preference=read_preference,
            max_commit_time_ms=max_commit_time_ms,
        )

    def watch(
        self,
        filter: Filter = None,
        *,
        on_invalid: OnInvalid = "raise",
        full_document_before_change: BeforeChange | None = None,
        resume_after: Mapping[str, Any] | None = None,
        start_after: Mapping[str, Any] | None = None,
        start_at_operation_time: Timestamp | None = None,
        max_await_time_ms: int | None = None,
        batch_size: int | None = None,
        comment: Any = None,
        session: ClientSession | None = None,
    ) -> ChangeStream[Model]:
        """A stream of what is written from now on: ``with customers.watch() as stream``, ``for change in stream``, which waits.

        Inserts and replacements come as verified models, deletions as an id, which is the server's word (`Change`). A filter on
        queryable fields and blind indexes is about the first two; events without a document come in any case, unless it names the
        ``id``. ``on_invalid``: as for `find`, for events that cannot be verified; one of update operators (``$set``), which no
        repository sends, is one of them. ``full_document_before_change``: "whenAvailable" or "required", for a collection with
        ``changeStreamPreAndPostImages``. The other options, and resuming after a broken connection, are pymongo's.

        ``resume_after``: the ``resume_token`` of a stream or a change, to go on where it ended; with the same filter, for MongoDB
        has to find that change again. Raise `QueryError` for what cannot be served, `ConfigurationError` on a mongod that is not in
        a replica set.
        """
        watched = drive(
            begin(
                self._flows,
                filter,
                on_invalid=on_invalid,
                before=full_document_before_change,
                resume_after=resume_after,
                start_after=start_after,
                start_at_operation_time=start_at_operation_time,
                max_await_time_ms=max_await_time_ms,
                batch_size=batch_size,
                comment=comment,
                session=session,
            )
        )
        return ChangeStream(self._flows, watched)


class AsyncRepository(_Repository[Model]):
    """`Repository` over an ``AsyncMongoClient``: the same names and parameters, awaited."""

    _kind = AsyncCollection

    def __init__(
        self,
        model: type[Model],
        collection: AsyncCollection[Any],
        *,
        keys: KeyRing | KeyStore,
        context: str | None = None,
        validate_on_save: bool = False,
        verify_on_load: bool = False,
        padding: Padding = None,
        shard_key: Sequence[str] = (),
        hooks: Sequence[Hooks[Model]] = (),
    ) -> None:
        """As `Repository`, over a collection of an ``AsyncMongoClient``."""
        self._build(
            model,
            collection,
            keys=keys,
            context=context,
            validate_on_save=validate_on_save,
            verify_on_load=verify_on_load,
            padding=padding,
            shard_key=shard_key,
            hooks=hooks,
        )

    async def setup(
        self,
        *,
        indexes: Sequence[SortKey] = (),
        guard: bool = True,
        dry_run: bool = False,
        session: AsyncClientSession | None = None,
    ) -> list[str]:
        """See `Repository.setup`."""
        return await self._flows.setup(indexes=indexes, guard=guard, dry_run=dry_run, session=session)

    async def doctor(self, *, indexes: Sequence[SortKey] = (), session: AsyncClientSession | None = None) -> list[Finding]:
        """See `Repository.doctor`."""
        return await self._flows.doctor(indexes=indexes, session=session)

    async def verify(
        self, filter: Filter = None, *, on_invalid: OnInvalid = "raise", session: AsyncClientSession | None = None
    ) -> int:
        """See `Repository.verify`."""
        return await self._flows.verify(filter, on_invalid=on_invalid, session=session)

    async def reindex(
        self,
        *,
        every: bool = False,
        on_progress: OnProgress | None = None,
        on_invalid: OnInvalid = "raise",
        session: AsyncClientSession | None = None,
    ) -> int:
        """See `Repository.reindex`."""
        return await self._flows.reindex(every=every, on_progress=on_progress, on_invalid=on_invalid, session=session)

    async def rotate(
        self,
        *,
        on_progress: OnProgress | None = None,
        on_invalid: OnInvalid = "raise",
        session: AsyncClientSession | None = None,
    ) -> int:
        """See `Repository.rotate`."""
        return await self._flows.rotate(on_progress=on_progress, on_invalid=on_invalid, session=session)

    async def retire_data_key(self, kid: str | DataKey, *, session: AsyncClientSession | None = None) -> KeyRing:
        """See `Repository.retire_data_key`."""
        return await self._flows.retire_data_key(kid, session=session)

    async def search_by(self, kid: str | IndexKey, *, session: AsyncClientSession | None = None) -> KeyRing:
        """See `Repository.search_by`."""
        return await self._flows.search_by(kid, session=session)

    async def retire_index_key(self, kid: str | IndexKey, *, session: AsyncClientSession | None = None) -> KeyRing:
        """See `Repository.retire_index_key`."""
        return await self._flows.retire_index_key(kid, session=session)

    async def save(
        self,
        model: Model,
        *,
        overwrite: bool = False,
        revision: str | None = None,
        session: AsyncClientSession | None = None,
    ) -> Model:
        """See `Repository.save`."""
        return await self._flows.save(model, overwrite=overwrite, revision=revision, session=session)

    async def save_many(
        self,
        models: Iterable[Model] | AsyncIterable[Model],
        *,
        ordered: bool = True,
        batch_size: int | None = None,
        session: AsyncClientSession | None = None,
    ) -> SaveResult:
        """See `Repository.save_many`. Of an async iterable, too."""
        run = self._flows.run("save_many", ordered=ordered, batch_size=batch_size, session=session)
        return await batches.save_many_async(self._flows, models, run)

    def bulk(
        self,
        *,
        ordered: bool = True,
        batch_size: int | None = None,
        session: AsyncClientSession | None = None,
    ) -> AsyncBulkWriter[Model]:
        """See `Repository.bulk`. ``async with``, and its methods are awaited."""
        return AsyncBulkWriter(self._flows, self._flows.run("bulk", ordered=ordered, batch_size=batch_size, session=session))

    async def load(
        self,
        id: Any,
        *,
        session: AsyncClientSession | None = None,
    ) -> Model:
        """See `Repository.load`."""
        flows = self._flows
        if not flows.hooks.hear_reading and not flows.keys_due:
            asked = flows.asked(id)
            try:
                return flows.loaded(await flows.find_by_id(asked, session), id, asked)
            except UnknownKeyError:
                if not flows.keys_may_come:
                    raise
        return await flows.load(id, session=session)

    async def load_many(
        self,
        ids: Iterable[Any],
        *,
        session: AsyncClientSession | None = None,
    ) -> list[Model]:
        """See `Repository.load_many`."""
        return await self._flows.load_many(ids, session=session)

    async def load_raw(
        self,
        id: Any,
        *,
        session: AsyncClientSession | None = None,
    ) -> dict[str, Any]:
        """See `Repository.load_raw`."""
        return await self._flows.load_raw(id, session=session)

    @overload
    async def find_one(
        self, filter: Filter = None, *, fields: None = None, **options: Unpack[AsyncFindOneOptions]
    ) -> Model | None: ...

    @overload
    async def find_one(
        self, filter: Filter = None, *, fields: Literal["metadata"], **options: Unpack[AsyncFindOneOptions]
    ) -> Metadata | None: ...

    async def find_one(
        self,
        filter: Filter = None,
        *,
        fields: Literal["metadata"] | None = None,
        sort: SortKey | None = None,
        max_time_ms: int | None = None,
        hint: Hint | None = None,
        comment: Any = None,
        collation: Collation | Mapping[str, Any] | None = None,
        session: AsyncClientSession | None = None,
    ) -> Any:
        """See `Repository.find_one`."""
        flows = self._flows
        if (asked := flows.at_once(filter, sort, fields, max_time_ms, hint, comment, collation)) is not None:
            try:
                return flows.found(await flows.find_first(asked, session), asked)
            except UnknownKeyError:
                if not flows.keys_may_come:
                    raise
        return await flows.find_one(
            filter,
            fields=fields,
            sort=sort,
            max_time_ms=max_time_ms,
            hint=hint,
            comment=comment,
            collation=collation,
            session=session,
        )

    @overload
    def find(self, filter: Filter = None, *, fields: None = None, **options: Unpack[AsyncFindOptions]) -> AsyncCursor[Model]: ...

    @overload
    def find(
        self, filter: Filter = None, *, fields: Literal["metadata"], **options: Unpack[AsyncFindOptions]
    ) -> AsyncCursor[Metadata]: ...

    def find(
        self,
        filter: Filter = None,
        *,
        fields: Literal["metadata"] | None = None,
        sort: SortKey | None = None,
        skip: int = 0,
        limit: int = 0,
        batch_size: int = 0,
        on_invalid: OnInvalid = "raise",
        max_time_ms: int | None = None,
        hint: Hint | None = None,
        comment: Any = None,
        collation: Collation | Mapping[str, Any] | None = None,
        session: AsyncClientSession | None = None,
    ) -> AsyncCursor[Any]:
        """See `Repository.find`. Not awaited; the cursor is."""
        return AsyncCursor(
            self._flows,
            self._flows.find(
                filter,
                fields=fields,
                sort=sort,
                skip=skip,
                limit=limit,
                batch_size=batch_size,
                on_invalid=on_invalid,
                max_time_ms=max_time_ms,
                hint=hint,
                comment=comment,
                collation=collation,
                session=session,
            ),
        )

    async def count(
        self,
        filter: Filter = None,
        *,
        max_time_ms: int | None = None,
        hint: Hint | None = None,
        comment: Any = None,
        collation: Collation | Mapping[str, Any] | None = None,
        session: AsyncClientSession | None = None,
    ) -> int:
        """See `Repository.count`."""
        return await self._flows.count(
            filter, max_time_ms=max_time_ms, hint=hint, comment=comment, collation=collation, session=session
        )

    async def exists(
        self,
        filter: Filter = None,
        *,
        max_time_ms: int | None = None,
        hint: Hint | None = None,
        comment: Any = None,
        collation: Collation | Mapping[str, Any] | None = None,
        session: AsyncClientSession | None = None,
    ) -> bool:
        """See `Repository.exists`."""
        return await self._flows.exists(
            filter, max_time_ms=max_time_ms, hint=hint, comment=comment, collation=collation, session=session
        )

    async def distinct(
        self,
        name: str,
        filter: Filter = None,
        *,
        max_time_ms: int | None = None,
        comment: Any = None,
        collation: Collation | Mapping[str, Any] | None = None,
        session: AsyncClientSession | None = None,
    ) -> list[Any]:
        """See `Repository.distinct`."""
        return await self._flows.distinct(
            name, filter, max_time_ms=max_time_ms, comment=comment, collation=collation, session=session
        )

    async def aggregate(
        self,
        pipeline: Sequence[Mapping[str, Any]],
        *,
        max_time_ms: int | None = None,
        allow_disk_use: bool | None = None,
        batch_size: int | None = None,
        comment: Any = None,
        collation: Collation | Mapping[str, Any] | None = None,
        session: AsyncClientSession | None = None,
    ) -> AsyncCursor[Any]:
        """See `Repository.aggregate`."""
        found = await self._flows.aggregate(
            pipeline,
            maxTimeMS=max_time_ms,
            allowDiskUse=allow_disk_use,
            batchSize=batch_size,
            comment=comment,
            collation=collation,
            session=session,
        )
        return AsyncCursor(self._flows, found)

    async def update(
        self,
        id: Any,
        changes: Mapping[str, Any] | Callable[[Model], Awaitable[Model | None] | Model | None],
        *,
        revision: str | None = None,
        session: AsyncClientSession | None = None,
    ) -> Model:
        """See `Repository.update`. The function may be a coroutine function."""
        waits = pauses(revision, session)
        while isinstance(saved := await self._flows.update(id, changes, revision=revision, session=session), RevisionConflictError):
            if (pause := next(waits, None)) is None:
                raise saved
            await asyncio.sleep(pause)
        return saved

    async def update_many(
        self,
        filter: Filter,
        changes: Mapping[str, Any] | Callable[[Model], Awaitable[Model | None] | Model | None],
        *,
        batch_size: int | None = None,
        session: AsyncClientSession | None = None,
    ) -> UpdateResult:
        """See `Repository.update_many`. The function may be a coroutine function."""
        run = self._flows.run("update_many", ordered=True, batch_size=batch_size, session=session)
        return await batches.update_many_async(self._flows, filter, changes, run)

    async def delete(
        self,
        id: Any,
        *,
        revision: str | None = None,
        session: AsyncClientSession | None = None,
    ) -> bool:
        """See `Repository.delete`."""
        return await self._flows.delete(id, revision=revision, session=session)

    async def delete_many(
        self,
        filter: Filter,
        *,
        collation: Collation | Mapping[str, Any] | None = None,
        session: AsyncClientSession | None = None,
    ) -> int:
        """See `Repository.delete_many`."""
        return await self._flows.delete_many(filter, collation=collation, session=session)

    def transaction(
        self,
        *,
        read_concern: ReadConcern | None = None,
        write_concern: WriteConcern | None = None,
        read_preference: _ServerMode | None = None,
        max_commit_time_ms: int | None = None,
        session: AsyncClientSession | None = None,
    ) -> AbstractAsyncContextManager[AsyncClientSession]:
        """See `Repository.transaction`. Not awaited; the block is ``async with``."""
        return AsyncTransaction(
            self._client,
            session,
            read_concern=read_concern,
            write_concern=write_concern,
            read_preference=read_preference,
            max_commit_time_ms=max_commit_time_ms,
        )

    @overload
    async def with_transaction(
        self,
        callback: Callable[[AsyncClientSession], Awaitable[Result]],
        *,
        read_concern: ReadConcern | None = None,
        write_concern: WriteConcern | None = None,
        read_preference: _ServerMode | None = None,
        max_commit_time_ms: int | None = None,
        session: AsyncClientSession | None = None,
    ) -> Result: ...

    @overload
    async def with_transaction(
        self,
        callback: Callable[[AsyncClientSession], Result],
        *,
        read_concern: ReadConcern | None = None,
        write_concern: WriteConcern | None = None,
        read_preference: _ServerMode | None = None,
        max_commit_time_ms: int | None = None,
        session: AsyncClientSession | None = None,
    ) -> Result: ...

    async def with_transaction(
        self,
        callback: Callable[[AsyncClientSession], Any],
        *,
        read_concern: ReadConcern | None = None,
        write_concern: WriteConcern | None = None,
        read_preference: _ServerMode | None = None,
        max_commit_time_ms: int | None = None,
        session: AsyncClientSession | None = None,
    ) -> Any:
        """See `Repository.with_transaction`. The function may be a coroutine function."""

        async def call(tx: AsyncClientSession) -> Any:
            return await self._flows._answer_of(callback(tx))

        return await run_async(
            self._client,
            call,
            session,
            read_concern=read_concern,
            write_concern=write_concern,
            read_preference=read_preference,
            max_commit_time_ms=max_commit_time_ms,
        )

    async def watch(
        self,
        filter: Filter = None,
        *,
        on_invalid: OnInvalid = "raise",
        full_document_before_change: BeforeChange | None = None,
        resume_after: Mapping[str, Any] | None = None,
        start_after: Mapping[str, Any] | None = None,
        start_at_operation_time: Timestamp | None = None,
        max_await_time_ms: int | None = None,
        batch_size: int | None = None,
        comment: Any = None,
        session: AsyncClientSession | None = None,
    ) -> AsyncChangeStream[Model]:
        """See `Repository.watch`. Awaited: ``async with await customers.watch() as stream``."""
        watched = await begin(
            self._flows,
            filter,
            on_invalid=on_invalid,
            before=full_document_before_change,
            resume_after=resume_after,
            start_after=start_after,
            start_at_operation_time=start_at_operation_time,
            max_await_time_ms=max_await_time_ms,
            batch_size=batch_size,
            comment=comment,
            session=session,
        )
        return AsyncChangeStream(self._flows, watched)
