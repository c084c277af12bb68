"""The cursors that `find` gives: pymongo's, whose documents come out verified and as models.

Classes with ``__next__`` and ``__anext__``, not generators, so that one document that does not open does not end the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future, wait
from time import perf_counter
from typing import Any, Final, Generic, Self, TypeVar, overload

from pymongo.errors import InvalidOperation, PyMongoError

from . import aside
from .bridge import SLICE, drive
from .errors import MalformedEnvelopeError, QueryError
from .flows import END, SortKey
from .frames import Kind, Table
from .query import compile_sort
from .reading import WAIT, Found, Reading, checked_count

__all__ = ["AsyncCursor", "Cursor"]

Model = TypeVar("Model")  # or a `Metadata`
#: So many batches a thread fetches ahead, once an answer was slow: it may have been so by chance.
_SLOW: Final = 16


class _Cursor(Generic[Model]):
    """`sort`, `skip` and `limit` before the first document; then pymongo raises ``InvalidOperation``."""

    _lost: Exception | None = None  # what is raised at every further turn

    def __init__(self, flows: Reading[Any], found: Found) -> None:
        self._flows = flows
        self._found = found
        self._cursor: Any = found.cursor

    def sort(self, key: SortKey, direction: int | None = None) -> Self:
        """Sort by queryable fields: ``sort("created_at", -1)`` or ``sort([("tenant", 1), ("created_at", -1)])``."""
        self._not_of_a_pipeline("$sort")
        self._cursor.sort(compile_sort(self._flows.schema, key, direction))
        return self

    def skip(self, count: int) -> Self:
        """Leave out the first ``count`` documents."""
        self._not_of_a_pipeline("$skip")
        self._begin()
        if self._found.sift is None:
            self._cursor.skip(count)
        else:
            self._found.skip = checked_count(count)
        self._found.offset = count
        return self

    def limit(self, count: int) -> Self:
        """Give at most ``count`` documents; 0 is no limit. A document that is skipped as invalid counts."""
        self._not_of_a_pipeline("$limit")
        self._begin()
        self._found.given = self._found.limit = 0  # also of an empty slice
        if self._found.sift is None:
            self._cursor.limit(count)
            if count < 0 and not self._found.sized:  # one answer, and no more: it is to hold all of them
                self._cursor.batch_size(-count)
        else:
            self._found.limit = abs(checked_count(count, least=1 - 2**31))
        return self

    def _sliced(self, part: slice[Any, Any, Any]) -> Self:
        """The same cursor, with ``skip`` and ``limit`` set anew."""
        start = 0 if part.start is None else part.start
        if part.step is not None or start < 0 or (part.stop is not None and part.stop < start):
            raise IndexError("a cursor is sliced forwards, from its start, without a step: cursor[10:20]")
        self.skip(start).limit(0 if part.stop is None else part.stop - start)
        if part.stop == start:
            self._found.limit = self._found.given = 1  # at its end: to MongoDB a limit of 0 is none
        return self

    def _from(self, index: int) -> Self:
        """A new cursor of the same question, from this document on, whatever the limit."""
        self._not_of_a_pipeline("$skip")
        self._begin()
        if type(index) is not int:
            raise TypeError(f"a cursor is asked for one document or a slice: cursor[2], cursor[10:20], not {type(index).__name__}")
        if index < 0:
            raise IndexError("a cursor has no negative indices: it does not know how many documents there are")
        if self._flows.keys_due:
            drive(self._flows.keys_at_hand())
        self._flows.ask_by_newest(self._found)
        found = dataclasses.replace(
            self._found, cursor=self._cursor.clone(), waiting=iter(()), compile=None, come=[], left=[], ahead=False
        )
        return type(self)(self._flows, found).skip(found.offset + index).limit(0)

    def _table(self, kind: Kind) -> Table:
        found, schema = self._found, self._flows.schema
        if found.plain:
            return Table(kind, ())
        model = schema.model
        clear = (field.name for field in schema.stored)
        return Table(kind, clear if found.metadata else (*model.model_fields, *model.model_computed_fields))

    def _not_of_a_pipeline(self, stage: str) -> None:
        if self._found.pipeline:
            raise QueryError(f"what comes out of a pipeline is shaped by the pipeline: put {stage} into it")

    def _begin(self) -> None:
        """What pymongo checks before it sets an option; some of them are kept here."""
        if self._cursor.retrieved or not self._cursor.alive:
            raise InvalidOperation("cannot set options after executing query")

    def _ask_for_one(self) -> None:
        """One document is enough, unless it may have to be skipped, or the loop has begun."""
        if self._found.on_invalid == "raise" and self._found.sift is None and not self._found.pipeline:
            with contextlib.suppress(InvalidOperation):
                self._cursor.limit(-1)  # one, and the cursor on the server is closed with it

    def _more_to_come(self, documents: list[Any]) -> bool:
        """Whether to ask for more at once: one batch is what most questions are answered with."""
        return bool(self._found.ahead and documents and self._cursor.alive)


#: After them the driver's cursor would say that there is no more.
_INTERRUPTED: Final = "the wait for this cursor was interrupted, and what came then is lost: ask again"
_CANCELLED: Final = "a task that waited for this cursor was cancelled, and what came then is lost: ask again"
_NO_DOCUMENTS: Final = "the server answered this cursor with something that is no list of documents: ask again"


def _said_from_now_on(error: Exception, found: Found) -> Exception | None:
    """What is raised at every further turn after an error; nothing after one of a hook, which comes before anything is asked."""
    if not found.is_asked:
        return None
    if isinstance(error, MalformedEnvelopeError):  # not the same again: some go on after it, as after a document that is wrong
        return InvalidOperation(_NO_DOCUMENTS)
    return error if isinstance(error, PyMongoError) else None


def _seen(task: asyncio.Task[Any]) -> None:
    """Nobody may ask for the result of a cursor that was left: then its error is not worth a warning."""
    if not task.cancelled():
        task.exception()


def _checked(length: int | None) -> int | None:
    if length is not None and (type(length) is not int or length < 0):
        raise QueryError("to_list: length is how many documents at most, or None")
    return length


class Cursor(_Cursor[Model]):
    """What `Repository.find` gives. A document that does not open raises at its turn; ``next()`` goes on after it. For one thread.

    While the documents of one batch are opened, a thread waits for the next batch, where an answer takes so long that this helps;
    not with a ``session``, which may be in use.
    """

    _ahead: Future[list[Any]] | None = None
    _slow = 0  # how many more batches a thread fetches before it is looked again whether that helps

    def __iter__(self) -> Iterator[Model]:
        return self

    @overload
    def __getitem__(self, index: int) -> Model: ...

    @overload
    def __getitem__(self, index: slice[Any, Any, Any]) -> Self: ...

    def __getitem__(self, index: int | slice[Any, Any, Any]) -> Any:
        """As pymongo: ``cursor[10:20]`` is this cursor with ``skip`` and ``limit``; ``cursor[2]`` asks for one document, each time.

        Raise ``IndexError`` if there is none, and for what is negative.
        """
        if isinstance(index, slice):
            return self._sliced(index)
        if (model := self._from(index).first()) is None:
            raise IndexError("there are not so many documents")
        return model

    def __next__(self) -> Model:
        """The next model. Raise `EnvelopeError` or `UnknownKeyError`, with the ``_id``, for one that does not open."""
        while (model := self._flows.at_hand(self._found)) is WAIT:
            if self._found.untold is not None:
                if (model := drive(self._flows.tell(self._found))) is not WAIT:
                    break
            elif not self._fetch():
                raise StopIteration
        if model is END:
            self.close()
            raise StopIteration
        return model  # type: ignore[no-any-return]  # END and WAIT are the only other things

    def _fetch(self) -> bool:
        """The next documents, and ask for those after them. Whether there are any."""
        if self._found.left:
            drive(self._flows.resume(self._found))
            return True
        if self._lost is not None:
            raise self._lost.with_traceback(None)
        if self._ahead is None:
            self._lost = InvalidOperation(_INTERRUPTED)  # unless what comes is kept: Ctrl-C may be met anywhere
            documents = self._fetch_now()
        else:
            documents = self._waited_for(self._ahead)  # Ctrl-C ends this wait, and not what is waited for
            self._lost = InvalidOperation(_INTERRUPTED)
        self._ahead = None
        self._found.waiting = iter(documents)
        self._lost = None
        if self._slow and self._more_to_come(documents):
            self._slow -= 1
            self._ahead = aside.begin(lambda: drive(self._flows.batch(self._found)), "mongo_envelope fetches")
        return bool(documents)

    def _fetch_now(self) -> list[Any]:
        """The next documents, waited for by this thread; and whether that takes so long that another thread should, from now on."""
        began = perf_counter()
        try:
            documents = drive(self._flows.batch(self._found))
        except Exception as error:
            self._lost = _said_from_now_on(error, self._found)
            raise
        # A thread with an answer gets the interpreter after this time: what is there sooner, it would bring later.
        self._slow = _SLOW if perf_counter() - began > sys.getswitchinterval() else 0
        return documents

    def _waited_for(self, ahead: Future[list[Any]]) -> list[Any]:
        wait([ahead])
        self._lost = InvalidOperation(_INTERRUPTED)
        self._ahead = None  # after an error that may pass the next is asked for by this thread
        try:
            return ahead.result()
        except Exception as error:
            self._lost = _said_from_now_on(error, self._found)
            raise

    def to_list(self, length: int | None = None) -> list[Model]:
        """All that are left, or at most ``length`` of them."""
        enough, found = _checked(length), self._found
        if enough is not None or found.opener is None or found.limit:
            return list(itertools.islice(self, enough))
        models: list[Model] = [*map(found.opener, found.waiting)]
        while self._fetch():
            models += map(found.opener, found.waiting)
        return models

    def to_frame(self, kind: Kind = "pandas") -> Any:
        """All that are left as a table of pandas or polars, with a column for each field; docs/guide.md says of which types.

        Raise `ConfigurationError` if the library is not installed, and what the loop raises.
        """
        table = self._table(kind)
        for model in self:
            table.add(model)  # type: ignore[arg-type]  # a model, metadata or a dict
        return table.frame()

    def first(self) -> Model | None:
        """The first that is left, or None. Then the cursor is closed."""
        self._ask_for_one()
        with self:
            return next(self, None)

    def close(self) -> None:
        """Free the cursor on the server; it is freed at its end anyway. What has come already can still be read."""
        if self._ahead is not None:
            wait([self._ahead])  # pymongo's cursor is for one thread at a time
        self._cursor.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncCursor(_Cursor[Model]):
    """What `AsyncRepository.find` gives. A document that does not open raises at its turn; ``anext()`` goes on after it.

    For one task.

    While the documents of one batch are opened, a task waits for the next batch; not with a ``session``, which may be in use. After
    two milliseconds of work other tasks have their turn.
    """

    _ahead: asyncio.Task[list[Any]] | None = None
    _since = 0.0  # when other tasks had their turn

    def __aiter__(self) -> AsyncIterator[Model]:
        return self

    def __getitem__(self, index: slice[Any, Any, Any]) -> Self:
        """``cursor[10:20]``: this cursor with ``skip`` and ``limit``. One has to be awaited: ``await cursor.skip(2).first()``."""
        if not isinstance(index, slice):  # and not an IndexError, which would end a ``for`` that lacks its ``async``
            raise TypeError(
                "this cursor is looped over with async for; one document is: await cursor.skip(2).first(), not cursor[2]"
            )
        return self._sliced(index)

    async def __anext__(self) -> Model:
        """The next model. Raise `EnvelopeError` or `UnknownKeyError`, with the ``_id``, for one that does not open."""
        if perf_counter() - self._since > SLICE:
            await self._let_others()
        while (model := self._flows.at_hand(self._found)) is WAIT:
            if self._found.untold is not None:
                if (model := await self._flows.tell(self._found)) is not WAIT:
                    break
            elif not await self._fetch():
                raise StopAsyncIteration
        if model is END:
            await self.close()
            raise StopAsyncIteration
        return model  # type: ignore[no-any-return]  # END and WAIT are the only other things

    async def _let_others(self) -> None:
        await asyncio.sleep(0)
        self._since = perf_counter()

    async def _fetch(self) -> bool:
        """The next documents, and ask for those after them. Whether there are any."""
        if self._found.left:
            await self._flows.resume(self._found)
            return True
        if self._lost is not None:
            raise self._lost.with_traceback(None)
        try:
            documents = await (self._flows.batch(self._found) if self._ahead is None else self._ahead)
        except asyncio.CancelledError:
            self._lost = InvalidOperation(_CANCELLED)
            raise
        except Exception as error:
            self._lost, self._ahead = _said_from_now_on(error, self._found), None
            raise
        self._ahead = None
        self._since = perf_counter()
        self._found.waiting = iter(documents)
        if self._more_to_come(documents):
            self._ahead = asyncio.ensure_future(self._flows.batch(self._found))
            self._ahead.add_done_callback(_seen)
        return bool(documents)

    async def to_list(self, length: int | None = None) -> list[Model]:
        """All that are left, or at most ``length`` of them."""
        models: list[Model] = []
        enough = _checked(length)
        while len(models) != enough:
            # Without a coroutine for each, as long as something is there and other tasks do not wait.
            model: Any = self._flows.at_hand(self._found) if perf_counter() - self._since <= SLICE else WAIT
            if (model is WAIT or model is END) and (model := await anext(self, None)) is None:
                break
            models.append(model)
        return models

    async def to_frame(self, kind: Kind = "pandas") -> Any:
        """See `Cursor.to_frame`. The table is put together in a thread."""
        table = self._table(kind)
        async for model in self:
            table.add(model)  # type: ignore[arg-type]  # a model, metadata or a dict
        return await asyncio.to_thread(table.frame)

    async def first(self) -> Model | None:
        """The first that is left, or None. Then the cursor is closed."""
        self._ask_for_one()
        async with self:
            return await anext(self, None)

    async def close(self) -> None:
        """Free the cursor on the server; it is freed at its end anyway. What has come already can still be read."""
        if self._ahead is not None:
            await asyncio.wait([self._ahead])  # pymongo's cursor is for one task at a time
        await self._cursor.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
