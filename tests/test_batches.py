"""What waits while many are written: the thread and the task beside the caller, Ctrl-C, cancellation, and two writers at once."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import random
import signal
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import pytest
from conftest import Driver, Either, in_threads, saved
from pydantic import BaseModel
from pymongo import AsyncMongoClient, MongoClient
from pymongo.database import Database
from pymongo.errors import PyMongoError

from mongo_envelope import (
    AsyncRepository,
    BulkSaveError,
    KeyRing,
    Queryable,
    QueryError,
    Repository,
    RevisionConflictError,
    SaveResult,
    batches,
    embedded,
)
from mongo_envelope.bridge import drive, settle
from mongo_envelope.bulk import Bulk

Db = Database[dict[str, Any]]
Fail = Callable[..., None]
SIZE = 4


class Counter(BaseModel):
    id: int
    count: Annotated[int, Queryable()] = 0
    notes: str = ""


def counters(number: int) -> list[Counter]:
    return [Counter(id=each) for each in range(number)]


def under_way() -> list[str]:
    """The tasks that send a chunk."""
    return [name for name in (repr(task.get_coro()) for task in asyncio.all_tasks()) if "BulkWriter" in name]


def where_it_is_sent(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> list[Any]:
    """The thread or the task in which each command is sent."""
    places: list[Any] = []
    real = Bulk._command

    async def command(flows: Any, *args: Any) -> Any:
        places.append(asyncio.current_task() if driver.is_async else threading.current_thread())
        return await real(flows, *args)

    monkeypatch.setattr(Bulk, "_command", command)
    return places


async def test_one_chunk_makes_no_thread_and_no_task(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is sent where the caller is. With more, all but the last are sent beside it; with a session, none."""
    repository, places = driver.repository(Counter), where_it_is_sent(monkeypatch, driver)
    here = asyncio.current_task() if driver.is_async else threading.current_thread()
    await repository.save_many(counters(SIZE), batch_size=SIZE)
    assert places == [here]
    await repository.save_many(counters(3 * SIZE)[SIZE:], batch_size=SIZE)
    assert [place is here for place in places[1:]] == [False, True]
    del places[:]
    session = driver.client.start_session()
    try:
        await repository.save_many([Counter(id=1000 + each) for each in range(9)], batch_size=SIZE, session=session)
    finally:
        await settle(session.end_session())
    assert places == [here] * 3
    assert not [each for each in threading.enumerate() if each.name.startswith("mongo_envelope")]


async def test_a_context_variable_is_seen_beside_the_caller(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that ``pymongo.timeout`` holds there, too."""
    repository, seen = driver.repository(Counter), []
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    real = Bulk._command

    async def command(flows: Any, *args: Any) -> Any:
        seen.append(variable.get())
        return await real(flows, *args)

    monkeypatch.setattr(Bulk, "_command", command)
    variable.set(5)
    await repository.save_many(counters(9), batch_size=SIZE)
    assert seen == [5, 5, 5]


async def test_one_chunk_is_sealed_while_another_travels(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most one is under way and one is being filled, however fast the models come."""
    repository, given, ahead = driver.repository(Counter), [0], []
    real = Bulk._command

    async def command(flows: Any, run: Any, batch: Any) -> Any:
        result = await real(flows, run, batch)
        ahead.append(given[0] - batch[-1].index)
        return result

    def models() -> Iterator[Counter]:
        for number in range(20 * SIZE):
            given[0] = number
            yield Counter(id=number)

    monkeypatch.setattr(Bulk, "_command", command)
    await repository.save_many(models(), batch_size=SIZE)
    assert max(ahead) <= SIZE + 1


@pytest.mark.parametrize("after", [0, 1, SIZE, SIZE + 1, 3 * SIZE + 2])
async def test_an_iterable_that_raises(driver: Driver, database: Db, after: int) -> None:
    """Its own error comes out, with a note; what was sent is written and known, the rest is new still."""
    repository, models = driver.repository(Counter), counters(20)

    def broken() -> Iterator[Counter]:
        yield from models[:after]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        await repository.save_many(broken(), batch_size=SIZE)
    written = database.customers.count_documents({})
    assert written == (after - 1) // SIZE * SIZE if after else written == 0
    (note,) = caught.value.__notes__
    assert note.startswith(f"save_many: {written} documents had been written before this.")
    assert await repository.save_many(models) == SaveResult(20 - written, written)


async def test_a_chunk_that_fails_while_the_iterable_goes_on(driver: Driver, database: Db) -> None:
    """The failure beside the caller is raised at the caller's, before the next chunk leaves."""
    repository = driver.repository(Counter)
    await repository.save(Counter(id=2))
    taken: list[int] = []

    def models() -> Iterator[Counter]:
        for number in range(1000):
            taken.append(number)
            yield Counter(id=number)

    with pytest.raises(Exception, match="exists already") as caught:
        await repository.save_many(models(), batch_size=SIZE)
    assert (caught.value.index, caught.value.result.inserted_count) == (2, 2)  # type: ignore[attr-defined]
    assert len(taken) <= 2 * SIZE + 1
    assert database.customers.count_documents({}) == 3


async def test_many_stream_in_constant_memory(driver: Driver) -> None:
    """Of ten times as many documents no more are in memory at once."""
    repository = driver.repository(Counter)
    numbers = itertools.count()

    async def peak(number: int) -> int:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        models = (Counter(id=each, notes="n" * 2000) for each in itertools.islice(numbers, number))
        await repository.save_many(models, batch_size=50)
        return tracemalloc.get_traced_memory()[1] - before

    await peak(200)
    tracemalloc.start()
    try:
        few, many = await peak(300), await peak(3000)
    finally:
        tracemalloc.stop()
    assert many < 2 * few


async def test_models_come_from_an_async_iterable(driver: Driver, database: Db) -> None:
    """Over the async driver; the other one says what it takes."""

    async def models() -> AsyncIterator[Counter]:
        for each in counters(10):
            await asyncio.sleep(0)
            yield each

    repository = driver.repository(Counter)
    if driver.is_async:
        assert (await repository.save_many(models(), batch_size=SIZE)).inserted_count == 10
        assert database.customers.count_documents({}) == 10
    else:
        with pytest.raises(QueryError, match="takes several models"):
            await repository.save_many(models())


async def test_the_event_loop_is_not_blocked(database: Db, async_client: AsyncMongoClient[dict[str, Any]], keys: KeyRing) -> None:
    """Another task has its turn again and again while many are sealed, not once for each command."""
    repository = AsyncRepository(Counter, async_client[database.name].customers, keys=keys)
    await repository.save(Counter(id=-1))
    turns = [0]

    async def tick() -> None:
        while True:
            turns[0] += 1
            await asyncio.sleep(0)

    sealed: list[int] = []

    def models() -> Iterator[Counter]:
        for each in range(400):
            sealed.append(turns[0])
            yield Counter(id=each, notes="n" * 20_000)

    ticking = asyncio.create_task(tick())
    await repository.save_many(models(), batch_size=400)
    ticking.cancel()
    assert len(set(sealed)) > 3  # others ran between one model and the next, several times within the one chunk


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT is ignored, if the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_while_a_chunk_travels(server: embedded.Server, database: Db, keys: KeyRing, fail_command: Fail) -> None:
    """The chunk is waited for, all instances know what they are, and then KeyboardInterrupt is raised."""
    with MongoClient[dict[str, Any]](server.uri, appName="fails") as client:
        repository = Repository(Counter, client[database.name].customers, keys=keys)
        repository.save(Counter(id=-1))
        models = counters(30)

        def interrupted() -> Iterator[Counter]:
            for number, model in enumerate(models):
                if number == SIZE + 2:
                    signal.raise_signal(signal.SIGINT)
                yield model

        fail_command(["insert"], blockConnection=True, blockTimeMS=100)
        with pytest.raises(KeyboardInterrupt) as caught:
            repository.save_many(interrupted(), batch_size=SIZE)
        assert caught.value.__notes__[0].startswith("save_many: 4 documents had been written before this. Calling")
        assert repository.save_many(models) == SaveResult(26, 4)

        fail_command(["insert", "update"], blockConnection=True, blockTimeMS=300)
        threading.Timer(0.1, signal.raise_signal, [signal.SIGINT]).start()
        more = [Counter(id=each) for each in range(100, 110)]
        with pytest.raises(KeyboardInterrupt) as caught:
            repository.save_many(more)  # one chunk: the command itself is interrupted
        assert "0 documents had been written before this. Of those from index 0 to 9 it is unknown." in caught.value.__notes__[0]
        assert repository.save_many(more).saved_count == 10
        assert database.customers.count_documents({}) == 41


@pytest.mark.parametrize("number", [SIZE, 5 * SIZE])
def test_a_cancelled_task(server: embedded.Server, database: Db, keys: KeyRing, fail_command: Fail, number: int) -> None:
    """It does not wait for the server; what was under way has an unknown outcome, and all can be saved again."""

    async def flow() -> None:
        async with AsyncMongoClient[dict[str, Any]](server.uri, retryWrites=False, appName="fails") as client:
            repository = AsyncRepository(Counter, client[database.name].customers, keys=keys)
            await repository.save(Counter(id=-1))
            models = counters(number)
            for _ in range(2):
                for model in models:
                    model.count += 1
                fail_command(["insert", "update"], blockConnection=True, blockTimeMS=200)
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(repository.save_many(models, batch_size=SIZE), 0.05)
                await asyncio.sleep(0.25)
                assert (await repository.save_many(models, batch_size=SIZE)).saved_count == number
            assert under_way() == []
            assert await repository.count({"count": 2}) == number

    asyncio.run(flow())


@pytest.mark.parametrize("number", [SIZE, 5 * SIZE])
def test_a_cancelled_task_says_what_is_unknown(
    server: embedded.Server, database: Db, keys: KeyRing, fail_command: Fail, number: int
) -> None:
    """The chunk that was under way, by its indices: those before it are written, and those after it are not."""

    async def flow() -> None:
        async with AsyncMongoClient[dict[str, Any]](server.uri, retryWrites=False, appName="fails") as client:
            repository = AsyncRepository(Counter, client[database.name].customers, keys=keys)
            await repository.save(Counter(id=-1))
            models = counters(number)

            async def given() -> AsyncIterator[Counter]:
                for place, model in enumerate(models):
                    if place == min(2 * SIZE, number) - 1:
                        await asyncio.sleep(0.1)  # what is under way by now has come back
                        fail_command(["insert"], blockConnection=True, blockTimeMS=800)
                    yield model

            saving = asyncio.create_task(repository.save_many(given(), batch_size=SIZE))
            await asyncio.sleep(0.5)
            saving.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await saving
            first = 0 if number == SIZE else SIZE
            (note,) = caught.value.__notes__
            assert note == unknown(first)
            await asyncio.sleep(0.5)
            assert (await repository.save_many(models, batch_size=SIZE)).saved_count == number

    asyncio.run(flow())


def test_a_cancelled_update_says_what_is_unknown(
    server: embedded.Server, database: Db, keys: KeyRing, fail_command: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that was being repeated, after those of its chunk that are known; and those of a chunk of deletes."""

    async def flow() -> None:
        async with AsyncMongoClient[dict[str, Any]](server.uri, retryWrites=False, appName="fails") as client:
            repository = AsyncRepository(Counter, client[database.name].customers, keys=keys)
            await repository.save_many(counters(SIZE))
            begin, repeat = Bulk._begin, Bulk.repeat

            async def begin_late(flows: Any, *args: Any) -> Any:
                await AsyncRepository(Counter, client[database.name].customers, keys=keys).update(1, {"count": 7})
                return await begin(flows, *args)

            async def repeat_slowly(flows: Any, *args: Any, **options: Any) -> Any:
                fail_command(["update"], blockConnection=True, blockTimeMS=800)
                return await repeat(flows, *args, **options)

            monkeypatch.setattr(Bulk, "_begin", begin_late)
            monkeypatch.setattr(Bulk, "repeat", repeat_slowly)
            assert await cancelled(repository.update_many({}, {"count": 5})) == [
                "update_many: 1 documents had been written before this. Of that with index 1 it is unknown."
            ]
            monkeypatch.undo()
            await asyncio.sleep(0.5)

            async def delete() -> None:
                async with repository.bulk() as bulk:
                    await bulk.save(Counter(id=9))
                    for number in range(3):
                        await bulk.delete(number)

            fail_command(["delete"], blockConnection=True, blockTimeMS=800)
            assert await cancelled(delete()) == [
                "bulk: 1 documents had been written before this. Of those from index 1 to 3 it is unknown."
            ]

    asyncio.run(flow())


def unknown(first: int) -> str:
    """What is said of a `save_many` whose chunk from this index on was under way."""
    return (
        f"save_many: {first} documents had been written before this. "
        f"Of those from index {first} to {first + SIZE - 1} it is unknown. "
        "Calling it again with the same instances is safe."
    )


async def cancelled(saving: Any) -> list[str]:
    """The notes of what is raised in a task that is cancelled after a while."""
    task = asyncio.create_task(saving)
    await asyncio.sleep(0.4)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    return caught.value.__notes__


async def test_an_iterable_that_raises_while_a_chunk_is_lost(driver: Driver, server: embedded.Server, fail_command: Fail) -> None:
    """Its own error is raised, and says of which documents the outcome is unknown."""
    async with driver.another_client(server.uri, retryWrites=False, appName="fails") as client:
        repository = driver.repository(Counter, driver.collection(client=client))
        await repository.save(Counter(id=-1))
        models = counters(SIZE + 1)

        def given() -> Iterator[Counter]:
            yield from models
            raise ZeroDivisionError

        fail_command(["insert"], times=3, closeConnection=True)
        with pytest.raises(ZeroDivisionError) as caught:
            await repository.save_many(given(), batch_size=SIZE)
        assert caught.value.__notes__ == [unknown(0)]
        assert (await repository.save_many(models)).saved_count == SIZE + 1


def test_a_coroutine_that_is_thrown_away(server: embedded.Server, database: Db, keys: KeyRing) -> None:
    """Closed in the middle, as when a loop ends: nothing is awaited any more, and no error comes of it."""

    async def flow() -> None:
        async with AsyncMongoClient[dict[str, Any]](server.uri) as client:
            repository = AsyncRepository(Counter, client[database.name].customers, keys=keys)
            await repository.save(Counter(id=-1))
            saving = repository.save_many(counters(50), batch_size=SIZE)
            for _ in range(3):
                saving.send(None)
                await asyncio.sleep(0)
            saving.close()
            await asyncio.sleep(0.1)
            assert under_way() == []

    asyncio.run(flow())


def test_where_no_thread_can_be_started(
    database: Db, client: MongoClient[dict[str, Any]], keys: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while the interpreter ends: then nothing runs beside the caller."""

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    monkeypatch.setattr(batches.ThreadPoolExecutor, "submit", refuse)
    repository = Repository(Counter, client[database.name].customers, keys=keys)
    assert repository.save_many(counters(50), batch_size=SIZE).inserted_count == 50


# --- two writers ------------------------------------------------------------------------------------------------------

ROUNDS, DOCUMENTS = 100, 10


async def count_up(repository: Any, me: int) -> int:
    """Load all, add 1 to each, save all; those that were in conflict again, until each has been counted. How many conflicts."""
    conflicts = 0
    for number in range(ROUNDS):
        left = list(range(DOCUMENTS))
        while left:
            models = await repository.load_many(left)
            for model in models:
                model.count += 1
            try:
                await repository.save_many(models, ordered=bool((number + me) % 2), batch_size=4)
                left = []
            except BulkSaveError as error:
                failed = [left[each.index] for each in error.result.failed if each.index is not None]  # type: ignore[union-attr]
                conflicts += len(failed)
                left = failed
            except RevisionConflictError as error:  # an ordered run: what was before it has been written
                conflicts += 1
                left = left[error.index :]
    return conflicts


def test_two_threads_lose_no_increment(database: Db, client: MongoClient[dict[str, Any]], keys: KeyRing) -> None:
    """Each of two thousand increments survives, in runs that conflict all the time."""
    repository = Repository(Counter, client[database.name].customers, keys=keys)
    repository.save_many(counters(DOCUMENTS))
    conflicts, numbers = [], itertools.count()
    in_threads(2, lambda: conflicts.append(drive(count_up(Either(repository), next(numbers)))))
    assert [each.count for each in repository.find()] == [2 * ROUNDS] * DOCUMENTS
    assert sum(conflicts) > 0


async def test_two_tasks_lose_no_increment(database: Db, async_client: AsyncMongoClient[dict[str, Any]], keys: KeyRing) -> None:
    """The same in two tasks."""
    repository = AsyncRepository(Counter, async_client[database.name].customers, keys=keys)
    await repository.save_many(counters(DOCUMENTS))
    conflicts = await asyncio.gather(count_up(repository, 0), count_up(repository, 1))
    assert [each.count for each in await repository.find().to_list()] == [2 * ROUNDS] * DOCUMENTS
    assert sum(conflicts) > 0


async def test_two_update_many_lose_no_increment(driver: Driver, database: Db) -> None:
    """Both change all documents, again and again, at the same time."""
    repository = driver.repository(Counter)
    await saved(repository, counters(DOCUMENTS))

    async def more(counter: Counter) -> None:
        counter.count += 1

    async def work() -> None:
        for _ in range(30):
            result = await repository.update_many({}, driver.function(more), batch_size=4)
            assert result.modified_count == DOCUMENTS

    if driver.is_async:
        await asyncio.gather(work(), work())
    else:
        in_threads(2, lambda: drive(work()))
    assert [each["count"] for each in database.customers.find()] == [60] * DOCUMENTS


class Tally:
    """What a writer in the storm knows of its increments."""

    def __init__(self) -> None:
        self.done = self.unknown = 0  #: acknowledged; in conflict after an error of pymongo
        self.lock = threading.Lock()


def written(error: BulkSaveError | RevisionConflictError) -> SaveResult:
    """The result that an error has."""
    assert isinstance(error.result, SaveResult)
    assert isinstance(error, BulkSaveError) or error.result.saved_count == error.index
    return error.result


def save_until_done(repository: Repository[Counter], models: list[Counter], choose: random.Random, tally: Tally) -> list[int]:
    """The same instances again and again, whatever is raised. The ids of those that were certainly not written."""
    again, doubtful = list[int](), set[int]()
    while models:
        failed: list[Counter] = []
        try:
            repository.save_many(models, batch_size=choose.choice([1, 3, 7, 100]), ordered=choose.random() < 0.5)
            number, models = len(models), []
        except BulkSaveError as error:
            failed = [models[each.index or 0] for each in written(error).failed]
            number, models = written(error).saved_count, []
        except RevisionConflictError as error:
            number = written(error).saved_count  # all those before it, and none after it
            failed, models = [models[error.index or 0]], models[number + 1 :]
        except PyMongoError:
            doubtful |= {model.id for model in models}
            continue
        with tally.lock:
            tally.done += number
            tally.unknown += sum(model.id in doubtful for model in failed)
        again += [model.id for model in failed if model.id not in doubtful]
    return again


@pytest.mark.parametrize("seed", range(3))
def test_two_writers_in_a_storm(server: embedded.Server, database: Db, keys: KeyRing, fail_command: Fail, seed: int) -> None:
    """Connections close, write concerns are not met, servers step down: what was acknowledged was counted once, and no more."""
    quiet, tally, numbers = Repository(Counter, database.customers, keys=keys), Tally(), itertools.count()
    quiet.save_many(counters(40))
    losses: list[dict[str, Any]] = [
        {"closeConnection": True},
        {"errorCode": 91, "errorLabels": ["RetryableWriteError"]},
        {"writeConcernError": {"code": 64, "errmsg": "timed out"}},
        {"writeConcernError": {"code": 91, "errmsg": "going down", "errorLabels": ["RetryableWriteError"]}},
    ]

    def write() -> None:
        me = next(numbers)
        choose = random.Random(10 * seed + me)  # noqa: S311 - nothing secret
        options: dict[str, Any] = {"appName": "fails", "retryWrites": bool(me), "heartbeatFrequencyMS": 50}
        with MongoClient[dict[str, Any]](server.uri, **options) as own:
            repository = Repository(Counter, own[database.name].customers, keys=keys)
            for _ in range(8):
                left = choose.sample(range(40), choose.randint(1, 40))
                while left:
                    models = quiet.load_many(left)
                    for model in models:
                        model.count += 1
                    left = save_until_done(repository, models, choose, tally)
                if me:
                    fail_command(["insert", "update"], times=choose.randint(1, 4), **choose.choice(losses))

    in_threads(2, write)
    total = sum(each.count for each in quiet.find())
    assert tally.done <= total <= tally.done + tally.unknown
