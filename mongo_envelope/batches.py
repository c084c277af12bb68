"""What really waits where many are written: while one chunk travels to the server, the next is sealed.

`bulk` has the flows. Here is who runs them: over the sync driver a thread beside the caller's, over the async one a task. At most
one chunk is under way while one is filled, so that memory stays flat, and the order is that of the caller.

With a session nothing runs beside the caller: a session is not for two at a time, and the caller's own generator may be reading
with it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import random
import threading
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, Generic, Self, TypeVar

from pydantic import BaseModel
from pymongo.errors import PyMongoError

from .bridge import SLICE, drive
from .bulk import Bulk, Changes, Chunk, Run
from .errors import QueryError, SaveResult, UpdateResult
from .flows import END, Filter, in_transaction

__all__ = ["AsyncBulkWriter", "BulkWriter", "pauses", "save_many", "save_many_async", "update_many", "update_many_async"]

Model = TypeVar("Model", bound=BaseModel)

#: So often an update begins again after a conflict.
_REPEATS: Final = 12
#: Seconds before a chunk is sent again after an error of the network.
_RESENDS: Final = (0.05, 0.5)


def pauses(revision: str | None, session: Any) -> Iterator[float]:
    """Seconds to wait before each repetition: at random, on average twice as long each time, so that writers get out of step.

    None where one revision and no other is to be changed. None in a transaction: it would read the same again; there the whole
    transaction is repeated, by pymongo's ``with_transaction``.
    """
    for number in range(0 if revision is not None or in_transaction(session) else _REPEATS):
        yield random.uniform(0, min(0.25, 0.001 * 2**number))  # noqa: S311 - nothing secret


class _Writer(Generic[Model]):
    """What the two have in common: the chunk that is being filled."""

    def __init__(self, flows: Bulk[Model], run: Run) -> None:
        self._flows = flows
        self._run = run
        self._chunk = Chunk()
        self._state = "not entered yet"

    @property
    def result(self) -> SaveResult:
        """What has been written up to now; after the block, all."""
        return self._run.result()

    def _enter(self) -> None:
        if self._state != "not entered yet":
            raise QueryError(f"bulk: this writer is {self._state}: its block is entered once")
        self._state = "open"

    def _check_open(self) -> None:
        """Nothing is lost without a word: what is queued outside the block would never be sent."""
        if self._state != "open":
            raise QueryError(f"bulk: this writer is {self._state}: it is used inside its with block")

    def _take(self) -> Chunk:
        chunk, self._chunk = self._chunk, Chunk()
        return chunk

    def _must_go(self, kind: str, seen: Any) -> bool:
        """Whether what is there has to be sent before something of this kind, about this one, may join it."""
        chunk = self._chunk
        return chunk.kind not in ("", kind) or seen in chunk.seen or self._flows.is_full(self._run, chunk)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._flows.schema.model.__name__}, {self._flows.name!r})"


class BulkWriter(_Writer[Model]):
    """What `Repository.bulk` gives: a context manager that collects what is to be written, and sends it a chunk at a time."""

    def __init__(self, flows: Bulk[Model], run: Run) -> None:
        super().__init__(flows, run)
        self._pool: ThreadPoolExecutor | None = None
        self._underway: Future[None] | None = None

    def save(self, model: Model) -> None:
        """Insert a new instance, replace the document that a loaded one stands for. It is sealed now, and sent later."""
        self._check_open()
        if self._must_go("save", id(model)):
            self._dispatch()
        self._put(model)

    def _put(self, model: Model) -> None:
        """The same in a run of nothing else, where an instance that is given twice is written once."""
        if self._flows.keys_due:  # also of one that is filled for hours
            drive(self._flows.keys_at_hand())
        if self._flows.is_full(self._run, self._chunk):
            self._dispatch()
        if self._flows.hooks.before_save:
            drive(self._flows.enter_after_hooks(self._run, self._chunk, model))
        else:
            self._flows.enter(self._run, self._chunk, model)
        if self._chunk.refused is not None:
            self._flush()

    def delete(self, id: Any, *, revision: str | None = None) -> None:
        """Delete the document with this id, if there is one. ``revision``: only this one."""
        self._wish("delete", id, revision=revision)

    def update(self, id: Any, changes: Mapping[str, Any] | Callable[[Model], Model | None]) -> None:
        """Load, change and save one document, as `Repository.update` does; a chunk of them is loaded at once."""
        self._wish("update", id, changes=changes)

    def _wish(self, kind: str, given: Any, **what: Any) -> None:
        self._check_open()
        wish = self._flows.wish(self._run, kind, given, **what)
        if self._must_go(kind, wish.key):
            self._dispatch()
        self._chunk.add(wish)

    def _change(self, loaded: Model, changes: Changes) -> None:
        """Of `update_many`: a document that matches, with its changes."""
        if self._must_go("save", id(loaded)):
            self._flush()
        drive(self._flows.enter_changed(self._run, self._chunk, loaded, changes))
        if self._chunk.refused is not None:
            self._flush()

    def _dispatch(self) -> None:
        """Send what is there, beside the caller where that may be, and go on."""
        if self._chunk.kind != "save" or self._run.session is not None:
            self._flush()
            return
        self._wait()
        chunk, begun, context = self._take(), threading.Event(), contextvars.copy_context()

        def work() -> None:
            begun.set()
            context.run(self._send, chunk)

        try:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, thread_name_prefix="mongo_envelope")
            self._underway = self._pool.submit(work)
        except RuntimeError:  # there are no threads any more: the interpreter ends
            self._send(chunk)
        else:
            begun.wait()  # otherwise this thread would keep the interpreter, and the chunk would leave 5 ms later

    def _flush(self) -> None:
        """Send what is there, and wait for the reply."""
        self._wait()
        failed: Exception | None = None
        try:
            self._send(self._take())
        except Exception as error:  # noqa: BLE001 - it is raised, once the hooks know what was written before it
            failed = error
        self._tell(failed)

    def _wait(self) -> None:
        """For the chunk that is under way, if there is one. Raise what it raised."""
        if self._underway is not None:
            concurrent.futures.wait([self._underway])  # Ctrl-C ends this wait, and not the chunk
            underway, self._underway = self._underway, None
            self._tell(underway.exception())

    def _tell(self, failed: BaseException | None) -> None:
        """Tell the hooks what has been written, and raise what has failed."""
        if self._run.untold:
            drive(self._flows.tell_saved(self._run))
        if failed is not None:
            raise failed

    def _send(self, chunk: Chunk) -> None:
        if chunk.kind == "update":
            wishes, chunk = chunk.wishes, Chunk()
            found = drive(self._flows.fetch(self._run, wishes))
            for wish in wishes:
                if chunk.refused is None:
                    drive(self._flows.enter_wished(self._run, chunk, wish, found))
        resends = iter(_RESENDS)
        while True:
            lost = drive(self._flows.send(self._run, chunk))
            if lost is not None:
                time.sleep(_next_or_raise(resends, lost, self._run))
            elif not chunk.again:
                return
            else:
                self._repeat(chunk)

    def _repeat(self, chunk: Chunk) -> None:
        waits = pauses(None, self._run.session)
        pause = next(waits, None)
        while drive(self._flows.repeat(self._run, chunk, last=pause is None)):
            time.sleep(pause or 0)
            pause = next(waits, None)

    def __enter__(self) -> Self:
        self._enter()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._state = "closed"
        try:
            if error is None:
                self._flush()
        except BaseException as failed:
            error = failed
            raise
        finally:
            if self._pool is not None:
                self._pool.shutdown()  # Waits for what is under way. What that raises is told by the instances.
            if error is not None:
                self._run.note(error)
        if isinstance(error, Exception):
            self._tell(None)
        if error is None and (failure := self._run.failure()) is not None:
            raise failure


class AsyncBulkWriter(_Writer[Model]):
    """`BulkWriter` of an `AsyncRepository`: the same, awaited."""

    def __init__(self, flows: Bulk[Model], run: Run) -> None:
        super().__init__(flows, run)
        self._underway: asyncio.Task[None] | None = None
        self._since = time.perf_counter()
        self._turn = asyncio.Lock()  # several tasks may feed one writer

    async def save(self, model: Model) -> None:
        """See `BulkWriter.save`."""
        async with self._turn:
            self._check_open()
            if self._must_go("save", id(model)):
                await self._dispatch()
            await self._put(model)

    async def _put(self, model: Model) -> None:
        if self._flows.keys_due:  # also of one that is filled for hours
            await self._flows.keys_at_hand()
        if self._flows.is_full(self._run, self._chunk):
            await self._dispatch()
        if self._flows.hooks.before_save:
            await self._flows.enter_after_hooks(self._run, self._chunk, model)
        else:
            self._flows.enter(self._run, self._chunk, model)
        if self._chunk.refused is not None:
            await self._flush()
        else:
            await self._breathe_now_and_then()

    async def delete(self, id: Any, *, revision: str | None = None) -> None:
        """See `BulkWriter.delete`."""
        await self._wish("delete", id, revision=revision)

    async def update(self, id: Any, changes: Mapping[str, Any] | Callable[[Model], Awaitable[Model | None] | Model | None]) -> None:
        """See `BulkWriter.update`. The function may be a coroutine function."""
        await self._wish("update", id, changes=changes)

    async def _wish(self, kind: str, given: Any, **what: Any) -> None:
        async with self._turn:
            self._check_open()
            wish = self._flows.wish(self._run, kind, given, **what)
            if self._must_go(kind, wish.key):
                await self._dispatch()
            self._chunk.add(wish)

    async def _change(self, loaded: Model, changes: Changes) -> None:
        if self._must_go("save", id(loaded)):
            await self._flush()
        await self._flows.enter_changed(self._run, self._chunk, loaded, changes)
        if self._chunk.refused is not None:
            await self._flush()
        else:
            await self._breathe_now_and_then()

    async def _breathe_now_and_then(self) -> None:
        if time.perf_counter() - self._since > SLICE:
            await self._breathe()

    async def _breathe(self) -> None:
        """Let others have the event loop."""
        await asyncio.sleep(0)
        self._since = time.perf_counter()

    async def _dispatch(self) -> None:
        if self._chunk.kind != "save" or self._run.session is not None:
            await self._flush()
            return
        await self._wait()
        self._underway = asyncio.create_task(self._send(self._take()))
        await self._breathe()  # it begins now, and not when the next chunk is full

    async def _flush(self) -> None:
        await self._wait()
        failed: Exception | None = None
        try:
            await self._send(self._take())
        except Exception as error:  # noqa: BLE001 - it is raised, once the hooks know what was written before it
            failed = error
        await self._tell(failed)
        self._since = time.perf_counter()

    async def _wait(self) -> None:
        if self._underway is not None:
            await asyncio.wait([self._underway])
            underway, self._underway = self._underway, None
            await self._tell(underway.exception())

    async def _tell(self, failed: BaseException | None) -> None:
        if self._run.untold:
            await self._flows.tell_saved(self._run)
        if failed is not None:
            raise failed

    async def _send(self, chunk: Chunk) -> None:
        if chunk.kind == "update":
            wishes, chunk = chunk.wishes, Chunk()
            found = await self._flows.fetch(self._run, wishes)
            for wish in wishes:
                if chunk.refused is None:
                    await self._flows.enter_wished(self._run, chunk, wish, found)
                    await self._breathe_now_and_then()
        resends = iter(_RESENDS)
        while True:
            lost = await self._flows.send(self._run, chunk)
            if lost is not None:
                await asyncio.sleep(_next_or_raise(resends, lost, self._run))
            elif not chunk.again:
                return
            else:
                await self._repeat(chunk)

    async def _repeat(self, chunk: Chunk) -> None:
        waits = pauses(None, self._run.session)
        pause = next(waits, None)
        while await self._flows.repeat(self._run, chunk, last=pause is None):
            await asyncio.sleep(pause or 0)
            pause = next(waits, None)

    async def __aenter__(self) -> Self:
        self._enter()
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._state = "closed"
        if error is None:
            try:
                await self._flush()
            except BaseException as failed:
                await self._settle(failed)
                raise
            if (failure := self._run.failure()) is not None:
                raise failure
        else:
            await self._settle(error)

    async def _settle(self, error: BaseException) -> None:
        """Before an error is raised: nothing is under way any more. A task that is cancelled does not wait for the server."""
        if self._underway is not None:
            if not isinstance(error, Exception):
                self._underway.cancel()
            if not isinstance(error, GeneratorExit):  # then nothing can be awaited
                await asyncio.wait([self._underway])
                if not self._underway.cancelled():
                    self._underway.exception()  # It is told by the instances; the error at hand is the one to raise.
        self._run.note(error)
        if isinstance(error, Exception):
            await self._tell(None)


def _next_or_raise(resends: Iterator[float], lost: PyMongoError, run: Run) -> float:
    pause = next(resends, None)
    if pause is None:
        run.note(lost)
        raise lost
    return pause


# --- save_many and update_many ----------------------------------------------------------------------------------------


def save_many(flows: Bulk[Model], models: Iterable[Model], run: Run) -> SaveResult:
    """Save all of them, over the sync driver."""
    flows.check_several(models, Iterable)
    with BulkWriter(flows, run) as writer:
        for model in models:
            writer._put(model)
    return run.result()


async def save_many_async(flows: Bulk[Model], models: Iterable[Model] | AsyncIterable[Model], run: Run) -> SaveResult:
    """The same over the async one."""
    flows.check_several(models, Iterable, AsyncIterable)
    async with AsyncBulkWriter(flows, run) as writer:
        if isinstance(models, AsyncIterable):
            async for model in models:
                await writer._put(model)
        else:
            for model in models:
                await writer._put(model)
    return run.result()


def update_many(flows: Bulk[Model], where: Filter, changes: Changes, run: Run) -> UpdateResult:
    """Change what matches, over the sync driver."""
    flows.check_changes(changes)
    drive(flows.keys_at_hand())
    found = flows.matching(where, run)
    try:
        with BulkWriter(flows, run) as writer:
            while (model := drive(flows.next(found))) is not END:
                writer._change(model, changes)
    finally:
        found.cursor.close()
    return run.updated()


async def update_many_async(flows: Bulk[Model], where: Filter, changes: Changes, run: Run) -> UpdateResult:
    """The same over the async one."""
    flows.check_changes(changes)
    await flows.keys_at_hand()
    found = flows.matching(where, run)
    try:
        async with AsyncBulkWriter(flows, run) as writer:
            while (model := await flows.next(found)) is not END:
                await writer._change(model, changes)
    finally:
        await found.cursor.close()
    return run.updated()
