"""Two writers who loaded the same revision and save at the same time: one wins, the other is told, and nothing is lost.

`compete` is one writer, written once for threads, tasks and processes; they differ in how the two meet (`settle` passes on what
a barrier of threads or processes gives, and awaits that of asyncio). Whoever hangs fails: everything that waits has a limit.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import pytest
from conftest import Either
from pydantic import BaseModel
from pymongo import AsyncMongoClient, MongoClient
from pymongo.database import Database

from mongo_envelope import AsyncRepository, KeyRing, Queryable, Repository, RevisionConflictError, embedded
from mongo_envelope.bridge import drive, settle

Db = Database[dict[str, Any]]
ROUNDS = 1_000
#: Seconds. Whoever waits this long for the other one or for the server hangs, and so does a test of this length.
LIMIT, LONGEST = 30.0, 120.0


class Ledger(BaseModel):
    id: str = "ledger"
    count: Annotated[int, Queryable()] = 0
    winners: list[int] = []


async def compete(ledgers: Any, meet: Callable[[], Any], me: int) -> list[bool]:
    """One of two writers. For each round, whether it won."""
    won = []
    for number in range(ROUNDS):
        mine = await ledgers.load("ledger")
        assert (mine.count, len(mine.winners)) == (number, number)  # each round before has counted exactly once
        mine.count += 1
        mine.winners.append(me)
        await settle(meet())  # both have loaded, neither has saved
        try:
            await ledgers.save(mine)
        except RevisionConflictError:
            won.append(False)
        else:
            won.append(True)
        await settle(meet())  # both have saved, neither has loaded again
    return won


def check(ledger: Ledger, first: list[bool], second: list[bool]) -> None:
    """Each round had one winner, and the document holds what the winners wrote, round by round."""
    assert [one + other for one, other in zip(first, second, strict=True)] == [1] * ROUNDS
    assert ledger.winners == [0 if one else 1 for one in first]
    assert ledger.count == ROUNDS


def test_two_threads(server: embedded.Server, database: Db, keys: KeyRing) -> None:
    """Two threads on one repository: one winner and one conflict, 1,000 times out of 1,000."""
    barrier, won = threading.Barrier(2), dict[int, list[bool]]()

    def run(me: int) -> None:
        try:
            won[me] = drive(compete(Either(ledgers), lambda: barrier.wait(LIMIT), me))
        except BaseException:
            barrier.abort()  # the other one need not wait for its limit
            raise  # pytest fails the test

    with MongoClient[dict[str, Any]](server.uri, timeoutMS=LIMIT * 1000) as client:
        ledgers = Repository(Ledger, client[database.name].ledgers, keys=keys)
        ledgers.save(Ledger())
        threads = [threading.Thread(target=run, args=(me,), daemon=True) for me in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONGEST)
        assert sorted(won) == [0, 1], "a thread failed or hangs"
        check(ledgers.load("ledger"), won[0], won[1])


async def test_two_tasks(server: embedded.Server, database: Db, keys: KeyRing) -> None:
    """Two tasks on one async repository: one winner and one conflict, 1,000 times out of 1,000."""
    barrier = asyncio.Barrier(2)
    async with AsyncMongoClient[dict[str, Any]](server.uri, timeoutMS=LIMIT * 1000) as client:
        ledgers = AsyncRepository(Ledger, client[database.name].ledgers, keys=keys)
        await ledgers.save(Ledger())
        async with asyncio.timeout(LONGEST), asyncio.TaskGroup() as tasks:
            both = [tasks.create_task(compete(Either(ledgers), barrier.wait, me)) for me in range(2)]
        check(await ledgers.load("ledger"), *(one.result() for one in both))


# --- processes --------------------------------------------------------------------------------------------------------


def in_processes(count: int, work: Callable[..., Any], server: embedded.Server, database: Db, key_file: Path) -> list[Any]:
    """``work(repository, meet, me)`` in so many new processes, each with a client and a ring of its own. What each gives."""
    spawn = multiprocessing.get_context("spawn")  # inherits nothing: neither a client, nor a key
    barrier = spawn.Barrier(count)
    same = {"uri": server.uri, "database": database.name, "key_file": key_file, "barrier": barrier}
    pipes = [spawn.Pipe(duplex=False) for _ in range(count)]
    processes = [
        spawn.Process(target=in_child, args=(work, me, into), kwargs=same, daemon=True) for me, (_, into) in enumerate(pipes)
    ]
    try:
        for process, (_, into) in zip(processes, pipes, strict=True):
            process.start()
            into.close()  # the child has its own: when that is closed, too, `recv` fails and does not wait
        results = []
        for out, _ in pipes:
            assert out.poll(LONGEST), "a process hangs"
            well, result = out.recv()
            assert well, result
            results.append(result)
        return results
    finally:
        for process, ends in zip(processes, pipes, strict=True):
            for end in ends:
                end.close()
            if process.pid is not None:
                process.join(5.0)
                process.kill()  # one that hangs
                process.join(5.0)
            process.close()


def in_child(work: Callable[..., Any], me: int, into: Connection, *, uri: str, database: str, key_file: Path, barrier: Any) -> None:
    """What such a process does: whether it went well, and its result or its traceback, go into the pipe."""
    try:
        with MongoClient[dict[str, Any]](uri, timeoutMS=LIMIT * 1000) as client:
            ledgers = Repository(Ledger, client[database].ledgers, keys=KeyRing.from_file(key_file))
            into.send((True, work(ledgers, lambda: barrier.wait(LIMIT), me)))
    except BaseException:
        into.send((False, traceback.format_exc()))
        barrier.abort()  # the others need not wait for their limit
        raise


def compete_in_child(ledgers: Repository[Ledger], meet: Callable[[], Any], me: int) -> list[bool]:
    """`compete`, in a process."""
    return drive(compete(Either(ledgers), meet, me))


@pytest.fixture
def ledgers(client: MongoClient[dict[str, Any]], database: Db, keys: KeyRing, tmp_path: Path) -> Repository[Ledger]:
    """A repository with an empty ledger, whose keys are in a file, too."""
    keys.to_file(tmp_path / "keys.json")
    ledgers = Repository(Ledger, client[database.name].ledgers, keys=keys)
    ledgers.save(Ledger())
    return ledgers


def test_two_processes(server: embedded.Server, database: Db, ledgers: Repository[Ledger], tmp_path: Path) -> None:
    """Two processes that share nothing but the key file: one winner and one conflict, 1,000 times out of 1,000."""
    first, second = in_processes(2, compete_in_child, server, database, tmp_path / "keys.json")
    check(ledgers.load("ledger"), first, second)


def count_in_child(ledgers: Repository[Ledger], meet: Callable[[], Any], me: int) -> int:
    """Increment 50 times, and load again after each conflict. How many of these there were."""
    conflicts = 0
    meet()
    for _ in range(50):
        while True:
            mine = ledgers.load("ledger")
            mine.count += 1
            mine.winners.append(me)
            try:
                ledgers.save(mine)
                break
            except RevisionConflictError:
                conflicts += 1
    return conflicts


def test_four_processes_count(server: embedded.Server, database: Db, ledgers: Repository[Ledger], tmp_path: Path) -> None:
    """Four processes count in one document; each conflict is retried, there are some, and no increment is lost."""
    conflicts = in_processes(4, count_in_child, server, database, tmp_path / "keys.json")
    ledger = ledgers.load("ledger")
    assert ledger.count == 200
    assert [ledger.winners.count(me) for me in range(4)] == [50] * 4
    assert sum(conflicts) > 0
