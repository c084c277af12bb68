"""The flows that write many: a chunk at a time, each document still a compare-and-set of its own.

A `Run` is one call, of any length; a `Chunk` is what one command takes. The shells (`batches`) fill chunks with `enter`, which
seals, and `send` them, one after the other. What really waits is theirs: before a chunk is sent again after an error of the
network, and before an update is repeated because somebody wrote in between.

A replace says in its filter "of this revision, or fail" (`_guarded`): a plain filter that matches nothing is no error to MongoDB,
which would neither stop there nor say which one it was. Where a failure may be our own write that landed before, as after a lost
reply, one query for ``_id`` and ``hmac`` of the chunk tells.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from pydantic import BaseModel
from pymongo import DeleteOne, InsertOne, ReadPreference, ReplaceOne
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import AutoReconnect, BulkWriteError, PyMongoError, ServerSelectionTimeoutError

from . import envelope
from .answer import comparable
from .bridge import settle
from .codec import DocumentCodec
from .errors import (
    BulkSaveError,
    DocumentNotFoundError,
    EnvelopeError,
    KeyUnavailableError,
    MalformedEnvelopeError,
    QueryError,
    RepositoryError,
    RevisionConflictError,
    SaveResult,
    UpdateResult,
)
from .flows import Filter, as_document, batches, in_transaction
from .places import identity_value
from .primitives import FreshIVs
from .provision import BYTE_BY_BYTE
from .reading import Found
from .revision import ABSENT, FRESH, Revision, recall, remember
from .writing import CHANGED, DELETED, Sealed, Writing, same_shard

__all__ = ["Bulk", "Changes", "Chunk", "Item", "Run"]

Model = TypeVar("Model", bound=BaseModel)
Changes = Mapping[str, Any] | Callable[[Any], Any]
#: What is wrong with one document of many, and not with the server.
Failure = EnvelopeError | RepositoryError | QueryError

#: So many documents are sent in one command, unless the caller says otherwise: while they travel, as many are sealed. Fewer make
#: commands whose own cost is felt, more keep the server waiting for the first.
_DOCUMENTS: Final = 400
#: Over the async driver, where pymongo keeps the event loop to itself while it encodes a command.
_DOCUMENTS_ASYNC: Final = 200
#: And so many bytes: a command holds 48 MB, and two chunks are in memory at a time.
_BYTES: Final = 4 * 1024 * 1024


@dataclass(slots=True, eq=False)
class Item(Sealed, Generic[Model]):
    """One sealed document of a chunk."""

    index: int
    model: Model
    #: The revisions that this write goes over: `FRESH` for an insert, None for one that has to be written by itself.
    expected: tuple[Revision, ...] | None = None
    inserts: bool = False
    changes: Changes | None = None  #: of an update, which is repeated after a conflict
    sealed_by: DocumentCodec[Model] | None = None  #: the keys may be others by the time it is sent


@dataclass(slots=True, eq=False)
class Wish:
    """What `bulk` was asked to do with one document by its id: update or delete it."""

    index: int
    kind: str
    given: Any
    identity: Any  #: as it is stored
    key: Any  #: equal for whatever MongoDB takes for the same id
    revision: str | None = None
    changes: Any = None


@dataclass(slots=True, eq=False)
class Chunk:
    """What is sent together: sealed documents, or wishes of one kind."""

    items: list[Item[Any]] = field(default_factory=list)
    wishes: list[Wish] = field(default_factory=list)
    #: `id` of each instance in it, or the id of each document of a wish: nothing is in it twice.
    seen: set[Any] = field(default_factory=set)
    size: int = 0
    #: In ordered mode: what ends the run after these documents.
    refused: Failure | None = None
    #: Whether it is known what each document is written over.
    begun: bool = False
    #: The error of the network in which an earlier attempt has ended.
    lost: PyMongoError | None = None
    #: The one of which that error is the last word: it may have been written, and then written over.
    doubtful: Item[Any] | None = None
    #: Those whose update has to be repeated, as somebody wrote in between.
    again: list[Item[Any]] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """What is done with what is in it: save, delete or update; empty if nothing is."""
        if self.wishes:
            return self.wishes[0].kind
        return "save" if self.items else ""

    def add(self, wish: Wish) -> None:
        """One more of the kind that is in it."""
        self.wishes.append(wish)
        self.seen.add(wish.key)


@dataclass(slots=True)
class Run:
    """One call that writes many."""

    name: str
    ordered: bool
    session: Any
    batch_size: int  #: how many documents a chunk has at most
    take_iv: Callable[[], bytes] = field(default_factory=lambda: FreshIVs().take)
    given: int = 0  #: how many there were up to now
    inserted: int = 0
    replaced: int = 0
    deleted: int = 0
    unmatched: int = 0  #: of `update_many`: gone, or changed so that they do not match any more
    failed: list[Failure] = field(default_factory=list)
    after: int = 0  #: how many were written of those that were given after the first that failed
    unmet: bool = False  #: a write concern was not met
    ended: bool = False  #: an error has ended the transaction: nothing more can be written in it
    #: What was under way when an error came: of these it is unknown whether they are written.
    unsure: Sequence[Item[Any] | Wish] = ()
    where: Filter = None  #: of `update_many`
    untold: list[Any] = field(default_factory=list)  #: written ones that the hooks are still to be told of
    stopped: Failure | None = None  #: what has been raised

    def result(self) -> SaveResult:
        """What has been written up to now."""
        return SaveResult(self.inserted, self.replaced, tuple(sorted(self.failed, key=_place)), self.deleted)

    def updated(self) -> UpdateResult:
        """The same, of `update_many`."""
        return UpdateResult(self.given - self.unmatched, self.replaced)

    def fail(self, error: Failure) -> None:
        """One document was not written. What its traceback holds, the models say, is not kept."""
        self.failed.append(error.with_traceback(None))

    def failure(self) -> Failure | None:
        """What is raised at the end: in ordered mode the first error itself, otherwise one that has them all."""
        if not self.failed or self.stopped is not None:
            return self.stopped
        were = f"were {self._did}"
        if in_transaction(self.session):
            were = "were written in the transaction, and will be undone if that is aborted"
        elif self.unmet:
            were = "were written, but the write concern was not met, so that they may be lost again"
        first = min(self.failed, key=_place)
        if self.ordered:
            error = first
            after = f"; of those after it {self.after} were, too, in the same command" if self.after else ""
            error.args = (f"{_sentence(error)}. Of {self.name} the {self.done - self.after} before it {were}{after}",)
        else:
            error = BulkSaveError(
                f"{self.name}: {len(self.failed)} of {self.given} failed, and {self.done} {were}. result.failed has an error for "
                f"each. The first, of {_named(first)}: {_sentence(first)}"
            ).about(collection=first.collection)
        error.result = self.outcome()
        self.stopped = error
        return error

    @property
    def _did(self) -> str:
        """What the documents are by now that nothing was wrong with."""
        saved = self.inserted + self.replaced or self.name != "bulk"
        if saved and not self.deleted:
            return "saved"
        return "deleted" if self.deleted and not saved else "saved or deleted"

    @property
    def done(self) -> int:
        """How many documents have been written or deleted."""
        return self.inserted + self.replaced + self.deleted

    def outcome(self) -> SaveResult | UpdateResult:
        """What has been done up to now."""
        return self.result() if self.where is None else self.updated()

    @contextlib.contextmanager
    def doubting(self, pending: Callable[[], Sequence[Item[Any] | Wish]]) -> Iterator[None]:
        """While this is under way, an error makes it unknown whether it is written; but not that of a hook, called in between."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, PyMongoError | EnvelopeError) or not isinstance(error, Exception):  # such as Ctrl-C, or cancelled
                self.unsure = pending()
            raise
        self.unsure = ()

    def note(self, error: BaseException) -> None:
        """Tell with an error that is not about one document what became of all, unless that is told already."""
        ours = error if isinstance(error, Failure | KeyUnavailableError) else None
        told = any(note.startswith(self.name) for note in getattr(error, "__notes__", ()))
        if told or (ours is not None and ours.result is not None):
            return
        unknown = f" Of {_those(self.unsure)} it is unknown." if self.unsure else ""
        again = " Calling it again with the same instances is safe." if self.name == "save_many" else ""
        written = "written or deleted" if self.deleted else "written"
        error.add_note(f"{self.name}: {self.done} documents had been {written} before this.{unknown}{again}")
        if ours is not None:
            ours.result = self.outcome()


class Bulk(Writing[Model]):
    """The flows that write many, and all others."""

    def run(self, name: str, *, ordered: bool, batch_size: int | None, session: Any) -> Run:
        """A new run. Raise `QueryError` for a size that is none."""
        self.need("seal", what=name)
        if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
            raise QueryError(f"{name}: batch_size is how many documents go into one command: an int, 1 or more")
        usual = _DOCUMENTS_ASYNC if isinstance(self.collection, AsyncCollection) else _DOCUMENTS
        return Run(name, bool(ordered), session, batch_size or usual)

    def check_several(self, models: Any, *kinds: type) -> None:
        """Raise `QueryError` for what is no collection of models."""
        if isinstance(models, BaseModel) or not isinstance(models, kinds):
            raise QueryError("save_many takes several models, in a list, say; save takes one")

    @staticmethod
    def is_full(run: Run, chunk: Chunk) -> bool:
        """Whether it has to be sent before anything else is taken."""
        return chunk.size >= _BYTES or len(chunk.seen) >= run.batch_size or chunk.refused is not None

    # --- a chunk is filled --------------------------------------------------------------------------------------------

    def enter(
        self, run: Run, chunk: Chunk, model: Model, *, index: int | None = None, changes: Changes | None = None
    ) -> Item[Model] | None:
        """Seal an instance, once in each chunk, and let it wait there. One that cannot be sealed is a failure."""
        if index is None:
            index, run.given = run.given, run.given + 1
        if id(model) in chunk.seen:
            return None
        codec = self.codec
        try:
            identity, raw = self.sealed(model, run.take_iv)
        except EnvelopeError as error:
            refused = error.about(index=index)
        else:
            # What it is known to be is asked when it is sent: an earlier chunk may change that.
            item = Item(identity, raw, FRESH, self._shard(raw), index, model, changes=changes, sealed_by=codec)
            chunk.items.append(item)
            chunk.seen.add(id(model))
            chunk.size += len(raw)
            return item
        self._refuse(run, chunk, refused)
        return None

    async def enter_after_hooks(self, run: Run, chunk: Chunk, model: Model) -> None:
        """`enter`, where somebody listens. A hook may refuse one document as `enter` does, with an error of that kind."""
        refused: EnvelopeError | None = None
        if id(model) not in chunk.seen:
            try:
                await self.before_save(model)
            except EnvelopeError as error:
                refused = error
        if refused is None:
            self.enter(run, chunk, model)
            return
        index, run.given = run.given, run.given + 1
        given = getattr(model, self.schema.identity.name, None)
        self._refuse(run, chunk, refused.about(document_id=given, collection=self.name, index=index))

    async def tell_saved(self, run: Run) -> None:
        """Tell the hooks of what has been written. In the thread, or the task, of the caller: nothing is under way."""
        untold, run.untold = run.untold, []
        for model in untold:
            await self.after_save(model)

    def _refuse(self, run: Run, chunk: Chunk, error: Failure) -> None:
        """What is wrong before anything is sent: it has its turn after the documents before it."""
        if run.ordered:
            chunk.refused = error
        else:
            run.fail(error)

    async def enter_changed(self, run: Run, chunk: Chunk, loaded: Model, changes: Changes, *, index: int | None = None) -> None:
        """The same of a loaded instance, with its changes. If they do not fit, that is a failure of this document."""
        if index is None:
            index, run.given = run.given, run.given + 1
        stored = self._identity_of(loaded)
        item: Item[Model] | None = None
        try:
            item = self.enter(run, chunk, await self.changed(stored, loaded, changes), index=index, changes=changes)
            if item is not None:
                self.check_unmoved(item.identity, stored)
        except (EnvelopeError, QueryError) as error:
            refused: Failure = error.about(document_id=stored, collection=self.name, index=index)
        else:
            return
        if item is not None:
            chunk.items.remove(item)
            chunk.seen.discard(id(item.model))
        self._refuse(run, chunk, refused)

    def wish(self, run: Run, kind: str, given: Any, *, revision: str | None = None, changes: Any = None) -> Wish:
        """What is to be done with one document by its id. Raise `QueryError` for what is no id, and no changes."""
        if kind == "update":
            self.check_changes(changes)
        identity = identity_value(self.schema, given)
        index, run.given = run.given, run.given + 1
        return Wish(index, kind, given, identity, self.key_of(identity), revision, changes)

    def check_changes(self, changes: Any) -> None:
        """Raise `QueryError` for what are changes of no document."""
        if not callable(changes):
            self.schema.check_changes(changes)

    async def fetch(self, run: Run, wishes: Sequence[Wish]) -> dict[Any, Any]:
        """The documents that are to be updated, not opened yet."""
        if self.hooks.before_load:
            await self.before_load([wish.given for wish in wishes])
        where = {"_id": {"$in": [wish.identity for wish in wishes]}}
        cursor = batches(self._primary, where, collation=BYTE_BY_BYTE, session=run.session)
        found: dict[Any, Any] = {}
        while documents := await self._naming_batch(cursor):
            found |= {self._key_in(raw): raw for raw in documents}
        return found

    def _key_in(self, raw: bytes) -> Any:
        """`key_of` what was found. But for the ``_id`` nothing is decoded: a document that is no BSON does not hide the others.

        None, which is no document's, for an ``_id`` that nobody can have asked for.
        """
        try:
            key = self.key_of(envelope.identify(raw, longest=len(raw)))
            hash(key)
        except TypeError:  # a regular expression, say
            return None
        return key

    async def enter_wished(self, run: Run, chunk: Chunk, wish: Wish, found: Mapping[Any, Any]) -> None:
        """Open one of them, and let it wait in the chunk with its changes."""
        failed: Failure = DocumentNotFoundError("there is no such document")
        document, model = found.get(wish.key), None
        try:
            if document is not None:
                _, model = await self._telling(self._opened_as, document, wish.identity)
        except EnvelopeError as error:
            failed = error
        if model is not None:
            if self.hooks.after_load:
                await self.after_load(model)
            await self.enter_changed(run, chunk, model, wish.changes, index=wish.index)
            return
        self._refuse(run, chunk, failed.about(document_id=wish.given, collection=self.name, index=wish.index))

    def matching(self, where: Filter, run: Run) -> Found:
        """The documents that `update_many` is about, in the order of ``_id``: so none comes again once it is written."""
        if where is None:
            raise QueryError("update_many takes a filter. All documents match {}")
        run.where = where
        return self._find_on_primary(where, self.schema.identity.name, run)

    def _find_on_primary(self, where: Filter, sort: str | None, run: Run) -> Found:
        flows = self.with_options(read_preference=ReadPreference.PRIMARY)
        return flows.find(where, sort=sort, on_invalid="raise", collation=None, batch_size=run.batch_size, session=run.session)

    def key_of(self, identity: Any) -> Any:
        """Of an ``_id``, what is equal for whatever MongoDB takes for equal."""
        return comparable(envelope.as_stored(identity))

    def _identity_of(self, model: Model) -> Any:
        return self.schema.identity.node.projected(getattr(model, self.schema.identity.name))

    # --- a chunk is sent ----------------------------------------------------------------------------------------------

    async def send(self, run: Run, chunk: Chunk) -> PyMongoError | None:
        """Write what is left of a chunk. An error of the network is given back if it may pass: then send the chunk again.

        If there is something in `Chunk.again` after it, `repeat` that first, and then send the chunk again. Raise the failure
        after which nothing more is written: in ordered mode, or in a transaction that an error has ended.
        """
        deletes = bool(chunk.wishes)
        self._end(run)  # the caller may have caught the error, and gone on
        try:
            if deletes:
                await self._delete_wishes(run, chunk)
            with run.doubting(lambda: chunk.items):
                if not chunk.begun:
                    if self.keys_may_come:
                        await self._seal_anew(chunk)
                    await self._begin(chunk, run.session)
                while chunk.items and not chunk.again and not self._is_over(run) and not (run.ordered and chunk.doubtful):
                    await self._send_some(run, chunk)
        except PyMongoError as error:
            if deletes or in_transaction(run.session) or not _may_pass(error):
                run.note(error)
                raise
            chunk.lost = error
            return error
        if chunk.again:
            return None
        if chunk.doubtful is not None and chunk.lost is not None:
            run.unsure = [chunk.doubtful]
            run.note(chunk.lost)
            raise chunk.lost
        if chunk.refused is not None and not run.failed:
            run.fail(chunk.refused)
        self._end(run)
        return None

    @staticmethod
    def _is_over(run: Run) -> bool:
        """Whether nothing more is written."""
        return run.ended or bool(run.ordered and run.failed)

    def _end(self, run: Run) -> None:
        """Raise the failure after which nothing more is written, if there was one."""
        if self._is_over(run) and (failure := run.failure()) is not None:
            raise failure

    async def _seal_anew(self, chunk: Chunk) -> None:
        """What has waited for so long that another key seals by now: the one that it is under may be destroyed already."""
        await self.keys_at_hand()
        for item in chunk.items:
            if item.sealed_by is not None and item.sealed_by is not self.codec:
                item.raw, item.sealed_by = self.codec.resealed_from(item.sealed_by, item.raw), self.codec

    async def _begin(self, chunk: Chunk, session: Any) -> None:
        """What each document is written over: nothing, or revisions. Where it may be there or not, the server is asked."""
        unsure: list[Item[Model]] = []
        for item in chunk.items:
            item.known = known = recall(item.model, self.place, item.identity)
            if known == FRESH:
                item.expected, item.inserts = FRESH, True
            elif ABSENT not in known and all(same_shard(each.shard, known[0].shard) for each in known):
                item.expected = known
            else:
                unsure.append(item)
        if unsure:
            stored = await self._stored_tags(unsure, session)
            for item in unsure:
                tag = stored.get(self.key_of(item.identity))
                item.expected = next(((each,) for each in item.known if each.tag == tag), None)
                item.inserts = item.expected == FRESH
        chunk.begun = True

    async def _send_some(self, run: Run, chunk: Chunk) -> None:
        """The documents up to the next that has to be written by itself, or that one."""
        items = chunk.items
        if items[0].expected is None:
            await self._send_alone(run, chunk, items[0])
            chunk.items = items[1:]
            return
        batch = list(itertools.takewhile(_in_batch, items))
        try:
            left = await self._send_together(run, chunk, batch)
        except BaseException:  # a lost reply, a cancelled task, Ctrl-C: they may have been written
            self._remember(batch, uncertain=True)
            raise
        chunk.items = left + items[len(batch) :]

    async def _send_alone(self, run: Run, chunk: Chunk, item: Item[Model]) -> None:
        expected = item.known if chunk.lost is None else (*item.known, item.revision)
        failed: RepositoryError | None = None
        try:
            await self._store(item.model, item, expected, overwrite=False, session=run.session)
        except RepositoryError as error:
            failed = error
        if failed is None:
            self._saved(run, [item], uncertain=in_transaction(run.session))
        else:
            run.ended = in_transaction(run.session) and self.is_by_the_server(failed)
            self._failed(run, chunk, item, failed)

    async def _send_together(self, run: Run, chunk: Chunk, batch: list[Item[Model]]) -> list[Item[Model]]:
        """One command. What is still to be written: what it did not come to, and what has to be written by itself."""
        uncertain, problems = in_transaction(run.session), dict[int, Any]()
        try:
            matched = await self._command(run, batch)
        except BulkWriteError as error:
            details = error.details or {}
            problems = {each["index"]: each for each in details.get("writeErrors") or ()}
            if not problems or not all(map(self._is_understood, problems.values())):
                raise
            matched = self.number_of(details.get("nMatched", 0))
            if details.get("writeConcernErrors"):
                uncertain = run.unmet = True
        if not problems and matched == sum(not item.inserts for item in batch):
            self._saved(run, batch, uncertain=uncertain)
            return []
        return await self._sort_out(run, chunk, batch, problems, matched, uncertain=uncertain)

    async def _sort_out(
        self, run: Run, chunk: Chunk, batch: list[Item[Model]], problems: Mapping[int, Any], matched: int, *, uncertain: bool
    ) -> list[Item[Model]]:
        """What became of each document of a command that has not written all."""
        # In a transaction the server stops at the first error, whatever the order.
        stops = bool(problems) and (run.ordered or in_transaction(run.session))
        reached = min(problems) + 1 if stops else len(batch)
        done = [item for place, item in enumerate(batch[:reached]) if place not in problems]
        replaced = [item for item in done if not item.inserts]
        missing = len(replaced) - matched
        # What may have been written by an attempt before this one, and what may have met no document: one question for all.
        unclear = [batch[place] for place, each in problems.items() if self._is_unclear(each)]
        unclear += batch[reached:] if chunk.lost is not None else []
        asked = unclear + (replaced if missing else [])
        # An error ends the transaction: it answers no question. Nor is anything more sent in it: the server would say that it
        # does not know the transaction, which is an error for which pymongo begins all of it again.
        ended = run.ended = bool(problems) and in_transaction(run.session)
        stored = await self._stored_tags(asked, run.session) if asked and not ended else {}
        tags = {id(item): stored.get(self.key_of(item.identity)) for item in asked}
        gone = [] if ended else _not_written(replaced, tags, missing)
        lacking = {id(item) for item in gone}
        written = [item for item in done if id(item) not in lacking]
        written += [item for item in unclear if tags[id(item)] == item.revision.tag]
        self._saved(run, written, uncertain=uncertain)
        settled = {id(item) for item in written}
        left = [item for item in batch[reached:] if id(item) not in settled]
        failed = [(item, None) for item in gone]
        failed += [(batch[place], each) for place, each in problems.items() if id(batch[place]) not in settled]
        for item, problem in sorted(failed, key=_by_index):
            if item.expected != item.known and (problem is None or item in unclear) and not ended:
                # One of several states that were possible, and by now another one is true: `_store` knows all of them.
                item.expected, item.inserts = None, not item.inserts
                left.append(item)
                continue
            if problem is None:
                error: RepositoryError | None = DocumentNotFoundError(DELETED) if tags[id(item)] is None else None
            else:
                error = self.refused_with(problem.get("code"), problem)
            self._failed(run, chunk, item, error or RevisionConflictError(CHANGED))
            if run.ordered and len(run.failed) == 1:
                run.after = sum(each.index > item.index for each in written)
        return sorted(left, key=lambda item: item.index)

    async def _command(self, run: Run, batch: list[Item[Model]]) -> int:
        """How many documents were replaced."""
        if all(item.inserts for item in batch):
            documents = [as_document(item.raw) for item in batch]
            await settle(self.collection.insert_many(documents, ordered=run.ordered, session=run.session))
            return 0
        operations = [self._operation(item, run) for item in batch]
        result = await settle(self.collection.bulk_write(operations, ordered=run.ordered, session=run.session))
        return self.number_of(result.matched_count)

    def _operation(self, item: Item[Model], run: Run) -> InsertOne[Any] | ReplaceOne[Any]:
        document, expected = as_document(item.raw), item.expected
        if item.inserts or expected is None:
            return InsertOne(document)
        tags = [each.tag for each in expected]
        # In a transaction an error would end it; and there nobody writes between a command and the question after it.
        guard = {"hmac": {"$in": tags}} if in_transaction(run.session) else _guarded(tags)
        return ReplaceOne(self._where(item.identity, expected[0].shard) | guard, document, collation=BYTE_BY_BYTE)

    async def _stored_tags(self, items: Sequence[Item[Model]], session: Any) -> dict[Any, Any]:
        """The ``hmac`` of each of these documents that is there: empty, so that it is nobody's, where it is no tag."""
        where = {"_id": {"$in": [item.identity for item in items]}}
        fields = {"_id": 1, "hmac": 1}
        options = {"collation": BYTE_BY_BYTE, "batch_size": len(items) + 1, "session": session}
        cursor = batches(self._primary, where, projection=fields, **options)
        stored: dict[Any, Any] = {}
        while documents := await self._naming_batch(cursor):
            stored |= {self._key_in(raw): envelope.stored_tag(raw) for raw in documents}
        return stored

    def _is_understood(self, problem: Mapping[str, Any]) -> bool:
        return problem.get("code") == _NO_BRANCH or self.refused_with(problem.get("code"), problem) is not None

    def _is_unclear(self, problem: Mapping[str, Any]) -> bool:
        """Whether it is about what stands under this ``_id``, which may be what we have written before."""
        code = problem.get("code")
        return code == _NO_BRANCH or isinstance(self.refused_with(code, problem), RevisionConflictError)

    async def _delete_wishes(self, run: Run, chunk: Chunk) -> None:
        plainly = not self._shard_key and not self.hooks.hear_deleting
        if plainly and all(wish.revision is None for wish in chunk.wishes):
            deletes = [DeleteOne({"_id": wish.identity}, collation=BYTE_BY_BYTE) for wish in chunk.wishes]
            with run.doubting(lambda: chunk.wishes):
                result = await settle(self.collection.bulk_write(deletes, ordered=run.ordered, session=run.session))
                run.deleted += self.number_of(result.deleted_count)
            return
        for wish in chunk.wishes:
            deleted = False
            failed: Failure | None = None
            try:
                with run.doubting(lambda wish=wish: [wish]):  # type: ignore[misc]  # mypy cannot infer a default's type
                    deleted = await self.delete_untold(wish.given, revision=wish.revision, session=run.session)
            except MalformedEnvelopeError:  # an answer that is no number: who knows what it has deleted
                raise
            except (RepositoryError, EnvelopeError) as error:  # the latter of a hook that refuses this document
                failed, run.unsure = error, ()
            if deleted:
                run.deleted += 1
                await self.after_delete(wish.given)
            if failed is not None:
                run.fail(failed.about(document_id=wish.given, collection=self.name, index=wish.index))
                if run.ordered:
                    return

    async def repeat(self, run: Run, chunk: Chunk, *, last: bool) -> bool:
        """Update the first of `Chunk.again` anew. Whether that has to be repeated; a conflict of the ``last`` time is a failure."""
        item = chunk.again[0]
        failed: Failure | None = None
        saved: Model | RevisionConflictError | None
        given = getattr(item.model, self.schema.identity.name)
        try:
            with run.doubting(lambda: [item]):
                if run.where is None:
                    saved = await self.update_untold(given, item.changes or {}, revision=None, session=run.session)
                else:
                    saved = await self._update_if_it_matches(given, item.changes or {}, run)
        except (EnvelopeError, RepositoryError) as error:
            failed, run.unsure = error, ()
        except PyMongoError as error:
            run.note(error)
            raise
        else:
            if isinstance(saved, RevisionConflictError):
                if not last:
                    return True
                failed = saved
        if failed is not None:
            run.ended = in_transaction(run.session) and self.is_by_the_server(failed)
            run.fail(failed.about(document_id=item.identity, collection=self.name, index=item.index))
        elif saved is None:
            run.unmatched += 1
        else:
            run.replaced += 1
            self._to_be_told(run, [saved])
        del chunk.again[0]
        return False

    async def _update_if_it_matches(self, given: Any, changes: Changes, run: Run) -> Model | RevisionConflictError | None:
        """None if it does not match any more, or is gone."""
        where: Any = {self.schema.identity.name: given}
        found = self._find_on_primary({"$and": [where, run.where]} if run.where else where, None, run)
        found.again(given)
        loaded = await self._first(found)
        if loaded is None:
            return None
        return await self._change_and_store(self._identity_of(loaded), loaded, changes, run.session)

    # --- what becomes of it -------------------------------------------------------------------------------------------

    def _saved(self, run: Run, items: Sequence[Item[Model]], *, uncertain: bool) -> None:
        """These have been written: here, and nowhere else, it is known."""
        self._remember(items, uncertain=uncertain)
        inserted = sum(item.inserts for item in items)
        run.inserted += inserted
        run.replaced += len(items) - inserted
        if not uncertain or in_transaction(run.session):  # otherwise the write concern was not met
            self._to_be_told(run, [item.model for item in items])

    def _to_be_told(self, run: Run, models: Sequence[Any]) -> None:
        if self.hooks.after_save:
            run.untold.extend(models)

    def _remember(self, items: Sequence[Item[Model]], *, uncertain: bool) -> None:
        plainly = not uncertain and not self._shard_key
        for item in items:
            known = envelope.tag_of(item.raw) if plainly else (*(item.known if uncertain else ()), item.revision)
            remember(item.model, self.place, item.identity, known)

    def _failed(self, run: Run, chunk: Chunk, item: Item[Model], error: RepositoryError) -> None:
        """A document has not been written, as far as is known."""
        if chunk.lost is not None and isinstance(error, RevisionConflictError):
            # The lost attempt may have written it, and somebody else over that: "conflict" would say that it was not.
            self._remember([item], uncertain=True)
            chunk.doubtful = chunk.doubtful or item
        elif item.changes is not None and isinstance(error, RevisionConflictError | DocumentNotFoundError):
            chunk.again.append(item)
        else:
            run.fail(error.about(document_id=item.identity, collection=self.name, index=item.index))


def _not_written(replaced: Sequence[Item[Any]], tags: Mapping[int, Any], missing: int) -> list[Item[Any]]:
    """Of replaces that made no error, those that met no document: it is not there, or there again as somebody else's."""
    if not missing:
        return []
    gone = [item for item in replaced if tags[id(item)] is None]
    return gone if len(gone) >= missing else [item for item in replaced if tags[id(item)] != item.revision.tag]


def _named(failed: Failure) -> str:
    return f"index {failed.index}" + (f" and _id {failed.document_id}" if failed.document_id is not None else "")


def _sentence(failed: Failure) -> str:
    """What an error says, without which document it is about. One that a hook has raised may say nothing."""
    return Exception.__str__(failed) or type(failed).__name__


def _place(failed: Failure) -> int:
    return failed.index or 0


def _those(several: Sequence[Item[Any] | Wish]) -> str:
    first, last = several[0].index, several[-1].index
    return f"that with index {first}" if first == last else f"those from index {first} to {last}"


def _in_batch(item: Item[Any]) -> bool:
    return item.expected is not None


def _by_index(failed: tuple[Item[Any], Any]) -> int:
    return failed[0].index


def _guarded(tags: Sequence[Any]) -> dict[str, Any]:
    """A condition on the revision that is an error where it does not hold: a ``$switch`` without a branch to take."""
    case = {"$eq": ["$hmac", tags[0]]} if len(tags) == 1 else {"$in": ["$hmac", tags]}
    return {"$expr": {"$switch": {"branches": [{"case": case, "then": True}]}}}


def _may_pass(error: PyMongoError) -> bool:
    """Whether the same command may go well soon. Where no server was to be found, pymongo has waited long enough."""
    if isinstance(error, AutoReconnect):
        return not isinstance(error, ServerSelectionTimeoutError)
    return error.has_error_label("RetryableWriteError")


#: What MongoDB says of a ``$switch`` without a branch to take.
_NO_BRANCH: Final = 40066
