"""The storm: eight writers go on saving while, every few seconds, the primary of three nodes is killed with ``kill -9``.

What is promised (`mongo_envelope.repository`): a save that was acknowledged is not lost; a save that failed with an error of the
network may have been written or not, and the same instance can be saved again until it is acknowledged, which neither conflicts
with the write in doubt nor applies it twice.

**Writes** are acknowledged by the majority. An election keeps those, and those alone for certain: others may be rolled back.

**Reads** are linearizable: they return what the majority has, and everything that was acknowledged before. Weaker ones are right
for the repository, but say too little for a test. With "local", a new primary shows what may still be rolled back; whoever loaded
that gets a conflict later, and rightly: what was loaded is gone. With "majority", a new primary may for a moment show less than
the old one acknowledged, because it does not know yet that the majority has it; whoever loaded that gets a conflict later, and
rightly: the copy was old. With linearizable reads neither happens, so each conflict of a document with one writer is a false one.

One body serves both drivers, as in conftest: eight threads `drive` it, or eight tasks await it.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import pytest
from conftest import Either
from pydantic import BaseModel
from pymongo import AsyncMongoClient, MongoClient
from pymongo.errors import AutoReconnect, ExecutionTimeout, WaitQueueTimeoutError, WriteConcernError
from pymongo.read_concern import ReadConcern
from three_nodes import ThreeNodes

from mongo_envelope import AsyncRepository, KeyRing, Queryable, Repository, RevisionConflictError
from mongo_envelope.bridge import drive, settle

#: Seconds of storm, for each driver. The environment variable is for trying out.
SECONDS = float(os.environ.get("MONGO_ENVELOPE_STORM_SECONDS", "120"))
#: Seconds from one kill to the next, about, and after the storm until whatever is under way must have come to its end.
BETWEEN_KILLS, CALM = 6.0, 60.0
WRITERS = 8

#: The outcome is unknown. AutoReconnect is the lost connection, the primary that is none, the server that was not found in time
#: and the answer that did not come in time; ExecutionTimeout and WriteConcernError the majority that did not answer in time.
UNKNOWN = (AutoReconnect, ExecutionTimeout, WaitQueueTimeoutError, WriteConcernError)
#: Two ways to give up after a second, so before a new primary is elected. Half of the writers have a client that repeats by
#: itself until then. The others have one that repeats nothing and reports each lost connection; it does not wait long for the
#: majority, either, which is slow after an election, so that much of what is reported as unknown has been written.
PATIENT: dict[str, Any] = {"timeoutMS": 1_000}
PLAIN: dict[str, Any] = {
    "retryWrites": False,
    "retryReads": False,
    "serverSelectionTimeoutMS": 1_000,
    "socketTimeoutMS": 3_000,
    "waitQueueTimeoutMS": 1_000,
    "wTimeoutMS": 100,
}


class Owned(BaseModel):
    """A document that one writer writes. Its value goes up by one at each save."""

    id: str
    value: Annotated[int, Queryable()] = 1
    sealed: int = 1


class Shared(BaseModel):
    """The document that all write. Each save adds one to the total and to its writer's count, and says which attempt it was."""

    id: str = "shared"
    total: Annotated[int, Queryable()] = 0
    counts: dict[int, int] = {}
    attempts: dict[int, int] = {}


class Writer:
    """One of the eight. Knows, at any time, exactly what its documents must hold."""

    def __init__(self, me: int, owned: Either, shared: Either, sleep: Callable[[float], Any], over: threading.Event) -> None:
        self.acknowledged: dict[str, int] = {}  #: the value of each owned document
        self.counted = 0  #: how many of its increments the shared document holds
        self.figures: Counter[str] = Counter()
        self._me, self._owned, self._shared, self._sleep, self._over = me, owned, shared, sleep, over
        self._random = random.Random(me)  # noqa: S311 - no secret
        self._attempt = 0
        self._in_doubt = False  # whether the last save ended with a conflict, after tries that gave an error
        self._too_late = time.monotonic() + SECONDS + CALM

    async def run(self) -> None:
        """Save until the storm is over, and then until the last save is acknowledged."""
        try:
            while not self._over.is_set():
                lot = self._random.random()
                if lot < 0.3:
                    await self._count()
                elif lot < 0.4 or not self.acknowledged:
                    await self._insert()
                else:
                    await self._change(self._random.choice(list(self.acknowledged)))
        finally:
            self._over.set()  # for all, if this one failed

    async def _insert(self) -> None:
        await self._save(self._owned, Owned(id=f"{self._me}-{len(self.acknowledged)}"))
        self.acknowledged[f"{self._me}-{len(self.acknowledged)}"] = 1

    async def _change(self, name: str) -> None:
        owned = await self._read(self._owned.load, name)
        assert (owned.value, owned.sealed) == (self.acknowledged[name],) * 2, "an acknowledged write is lost"
        for _ in range(self._random.randint(1, 3)):  # what was saved can be saved again, as well as what was loaded
            owned.value = owned.sealed = owned.value + 1
            await self._save(self._owned, owned)  # a conflict would be a false one: nobody else writes it
            self.acknowledged[name] = owned.value

    async def _count(self) -> None:
        while True:
            shared = await self._read(self._shared.load, "shared")
            self._settle_doubt(shared)
            self._attempt += 1
            shared.total += 1
            shared.counts[self._me] = self.counted + 1
            shared.attempts[self._me] = self._attempt
            try:
                await self._save(self._shared, shared)
            except RevisionConflictError:
                self.figures["conflicts"] += 1
                continue
            self.counted += 1  # once, however often it was tried
            return

    def _settle_doubt(self, shared: Shared) -> None:
        """Whether the last attempt, whose tries failed with an error first and a conflict in the end, has counted after all.

        It has if the document says so. If it does not, none of the tries can arrive later and count: they replace what was loaded
        or what they wrote themselves, and the conflict said that the document is neither, as the majority has it: so for good.
        """
        if self._in_doubt and shared.attempts.get(self._me) == self._attempt:
            self.counted += 1
            self.figures["conflicts of attempts that had counted"] += 1
        self._in_doubt = False
        assert shared.counts.get(self._me, 0) == self.counted, "an increment is lost, or has counted twice"
        assert shared.total == sum(shared.counts.values())

    async def _save(self, repository: Either, model: Owned | Shared) -> None:
        """Save one instance, again and again until it is acknowledged."""
        while True:
            try:
                await repository.save(model)
            except UNKNOWN as error:
                self._in_doubt = True
                self.figures["unknown outcomes"] += 1
                await self._wait(error)
                if isinstance(model, Owned) and self._random.random() < 0.5:  # else it is saved again at once, not knowing
                    stored = await self._read(repository.find_one, {"id": model.id})
                    self.figures["of these seen as written" if stored == model else "of these seen as not written"] += 1
            else:
                self._in_doubt = False
                self.figures["acknowledged"] += 1
                return

    async def _read(self, read: Callable[[Any], Awaitable[Any]], what: Any) -> Any:
        """Ask again until there is an answer."""
        while True:
            try:
                return await read(what)
            except UNKNOWN as error:
                self.figures["reads without an answer"] += 1
                await self._wait(error)

    async def _wait(self, error: Exception) -> None:
        assert time.monotonic() < self._too_late, f"the storm is long over, and still {error!r}"
        await settle(self._sleep(0.05))


def kill(nodes: ThreeNodes, over: threading.Event) -> int:
    """Kill the primary and restart it, until the time is over or somebody has failed. How many times."""
    end, kills = time.monotonic() + SECONDS, 0
    try:
        while time.monotonic() < end and not over.is_set():
            # Sometimes it is back before the others have elected another one, with writes that they may not have.
            down = random.uniform(0.1, BETWEEN_KILLS - 2)  # noqa: S311 - no secret
            over.wait(BETWEEN_KILLS - down)
            nodes.wait_until_healthy()
            node = nodes.kill_primary()
            kills += 1
            over.wait(down)
            nodes.restart(node)
    finally:
        over.set()
    return kills


def in_threads(works: list[Coroutine[Any, Any, None]]) -> None:
    """Drive each in a thread of its own."""
    failures: list[BaseException] = []

    def run(work: Coroutine[Any, Any, None]) -> None:
        try:
            drive(work)
        except BaseException as failure:  # noqa: BLE001 - raised below
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    end = time.monotonic() + SECONDS + 2 * CALM
    for thread in threads:
        thread.join(max(end - time.monotonic(), 0))
    if failures:
        raise BaseExceptionGroup("writers failed", failures)
    assert not any(thread.is_alive() for thread in threads), "a writer hangs"


async def in_tasks(works: list[Coroutine[Any, Any, None]]) -> None:
    """Await each in a task of its own."""
    async with asyncio.timeout(SECONDS + 2 * CALM), asyncio.TaskGroup() as tasks:
        for work in works:
            tasks.create_task(work)


async def storm(nodes: ThreeNodes, keys: KeyRing, *, is_async: bool) -> str:
    """The whole of it, with either driver. The figures."""
    client_class: Any = AsyncMongoClient if is_async else MongoClient
    repository_class: Any = AsyncRepository if is_async else Repository
    sleep: Callable[[float], Any] = asyncio.sleep if is_async else time.sleep
    together: Callable[..., Awaitable[None] | None] = in_tasks if is_async else in_threads
    over = threading.Event()

    def repositories(client: Any) -> list[Either]:
        database = client.get_database("storm", read_concern=ReadConcern("linearizable"))
        pairs = (Owned, database.owned), (Shared, database.shared)
        return [Either(repository_class(model, collection, keys=keys)) for model, collection in pairs]

    clients = [client_class(nodes.uri, w="majority", **options) for options in (PATIENT, PLAIN, {"timeoutMS": CALM * 1000})]
    try:
        owned, shared = repositories(clients[2])
        await shared.save(Shared())
        writers = [Writer(me, *repositories(clients[me % 2]), sleep, over) for me in range(WRITERS)]
        with ThreadPoolExecutor(1) as thread:
            killing = thread.submit(kill, nodes, over)
            try:
                await settle(together([writer.run() for writer in writers]))
            finally:
                over.set()
                kills = killing.result()  # if that failed, it is why the writers did
        nodes.wait_until_healthy()

        # What is there is what was acknowledged: no more, no less, and each document opens.
        expected = {name: value for writer in writers for name, value in writer.acknowledged.items()}
        found = await owned.find().to_list()
        assert len(found) == len(expected)
        assert {each.id: each.value for each in found} == {each.id: each.sealed for each in found} == expected
        (last,) = await shared.find().to_list()
        assert last.counts == {me: writer.counted for me, writer in enumerate(writers)}
        assert last.total == sum(writer.counted for writer in writers)
    finally:
        for client in clients:
            await settle(client.close())
    figures = sum((writer.figures for writer in writers), Counter(kills=kills, documents=len(found), total=last.total))
    assert kills > SECONDS / BETWEEN_KILLS / 3
    assert min(figures["acknowledged"], figures["unknown outcomes"], figures["conflicts"]) > 0
    return ", ".join(f"{name}: {figure:,}" for name, figure in figures.items())


@pytest.mark.soak
@pytest.mark.parametrize("is_async", [False, True], ids=["threads", "tasks"])
def test_nothing_is_lost_in_the_storm(keys: KeyRing, *, is_async: bool) -> None:
    """Two minutes of kill -9: no acknowledged write is lost, none counts twice, no conflict is false, every document opens."""
    with ThreeNodes() as nodes:
        whole = storm(nodes, keys, is_async=is_async)
        print(asyncio.run(whole) if is_async else drive(whole))  # noqa: T201 - seen with -s or -rP
