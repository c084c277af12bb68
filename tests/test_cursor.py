"""What `find` gives: iteration, its limits, and documents that do not open."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from conftest import Driver, Proxy
from pydantic import BaseModel
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.encryption_options import AutoEncryptionOpts
from pymongo.errors import InvalidOperation, OperationFailure
from test_flows import Commands

from mongo_envelope import (
    Bucket,
    EnvelopeError,
    Hooks,
    IntegrityError,
    KeyRing,
    MalformedEnvelopeError,
    Queryable,
    QueryError,
    Repository,
    Sensitive,
    UnknownKeyError,
    aside,
    embedded,
)
from mongo_envelope import (
    cursor as cursors,
)
from mongo_envelope.bridge import settle
from mongo_envelope.errors import KMSError
from mongo_envelope.flows import batches, next_batch

Db = Database[dict[str, Any]]


class Item(BaseModel):
    id: int
    rank: Annotated[int, Queryable()] = 0
    text: str = ""


async def with_items(driver: Driver, count: int = 6) -> Any:
    items = driver.repository(Item)
    await items.save_many([Item(id=number, rank=-number) for number in range(count)])
    return items


async def test_sort_skip_and_limit_in_either_form(driver: Driver) -> None:
    """As parameters of find and as methods of the cursor they are the same."""
    items = await with_items(driver)
    for cursor in (items.find(sort="rank", skip=1, limit=2), items.find().sort("rank").skip(1).limit(2)):
        assert [each.id for each in await cursor.to_list()] == [4, 3]
    assert [each.id for each in await items.find().sort("rank", -1).limit(2).to_list()] == [0, 1]


async def test_to_list_of_a_length_leaves_the_rest(driver: Driver) -> None:
    """At most so many, and the cursor goes on after them."""
    cursor = (await with_items(driver)).find(sort="id")
    assert [each.id for each in await cursor.to_list(4)] == [0, 1, 2, 3]
    assert await cursor.to_list(0) == []
    assert [each.id for each in await cursor.to_list(length=4)] == [4, 5]
    assert await cursor.to_list() == []
    for wrong in (-1, "3", 1.5, True):
        with pytest.raises(QueryError, match="length"):
            await cursor.to_list(wrong)


async def test_first_gives_one_or_none_and_closes(driver: Driver) -> None:
    """The first in the order asked for, None where nothing matches, the next one where the loop has begun."""
    items = await with_items(driver)
    assert (await items.find().sort("rank").first()).id == 5
    assert await items.find({"rank": 7}).first() is None
    cursor = items.find(sort="rank", batch_size=2)
    assert (await anext(cursor)).id == 5
    assert (await cursor.first()).id == 4
    assert cursor.inner._cursor.alive is False


async def test_first_goes_past_what_is_skipped(driver: Driver, database: Db) -> None:
    """With on_invalid="skip" the first that opens is the first."""
    items = await with_items(driver)
    database.customers.update_one({"_id": 5}, {"$set": {"text": "edited"}})
    assert (await items.find(sort="rank", on_invalid="skip").first()).id == 4
    with pytest.raises(IntegrityError):
        await items.find(sort="rank").first()


async def test_a_cursor_that_has_begun_cannot_be_changed(driver: Driver) -> None:
    """sort, skip and limit are too late then, as in pymongo."""
    cursor = (await with_items(driver)).find()
    await anext(cursor)
    for change in (lambda: cursor.sort("rank"), lambda: cursor.skip(1), lambda: cursor.limit(1)):
        with pytest.raises(InvalidOperation):
            change()


async def test_small_batches_give_all(driver: Driver) -> None:
    """batch_size changes the number of round trips and nothing else."""
    items = await with_items(driver)
    assert [each.id for each in await items.find(batch_size=2).to_list()] == list(range(6))


async def spoiled(driver: Driver, database: Db) -> Any:
    """Six items: 1 is edited, 2 is plaintext, 4 is under a key that the ring does not hold."""
    items = await with_items(driver)
    database.customers.update_one({"_id": 1}, {"$set": {"rank": 0}})
    database.customers.replace_one({"_id": 2}, {"rank": -2, "text": "plain"})
    await driver.repository(Item, keys=KeyRing.generate()).save(Item(id=4, rank=-4), overwrite=True)
    return items


async def test_raise_is_the_default_and_next_goes_on(driver: Driver, database: Db) -> None:
    """Each wrong document raises its own error at its turn, with its id; the others come."""
    cursor = (await spoiled(driver, database)).find(sort={"rank": -1})
    opened, errors = [], []
    while True:
        try:
            opened.append((await anext(cursor)).id)
        except StopAsyncIteration:
            break
        except (EnvelopeError, UnknownKeyError) as error:
            errors.append((type(error), error.document_id, error.collection))
    assert opened == [0, 3, 5]
    assert sorted(errors, key=str) == sorted(
        [
            (IntegrityError, "1", "customers"),
            (MalformedEnvelopeError, "2", "customers"),
            (UnknownKeyError, "4", "customers"),
        ],
        key=str,
    )


async def test_skip_leaves_out_what_does_not_open(driver: Driver, database: Db) -> None:
    """Wrong ones and those that could not be checked alike."""
    items = await spoiled(driver, database)
    assert [each.id for each in await items.find(on_invalid="skip").to_list()] == [0, 3, 5]


async def test_a_function_is_given_each_error(driver: Driver, database: Db) -> None:
    """The loop goes on after it; what it raises ends the loop; over the async driver it may be a coroutine function."""
    items, seen = await spoiled(driver, database), []
    assert [each.id for each in await items.find(on_invalid=seen.append).to_list()] == [0, 3, 5]
    assert [type(each) for each in seen] == [IntegrityError, MalformedEnvelopeError, UnknownKeyError]

    async def note(error: EnvelopeError | UnknownKeyError) -> None:
        seen.append(error)

    def stop(error: EnvelopeError | UnknownKeyError) -> None:
        raise LookupError(error.document_id)

    if driver.is_async:
        await items.find(on_invalid=note).to_list()
        assert len(seen) == 6
    with pytest.raises(LookupError, match="1"):
        await items.find(on_invalid=stop).to_list()


async def test_an_outage_is_not_skipped(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A KMSError is raised whatever on_invalid says: that no key can be had is not an empty result."""
    items = await with_items(driver)

    def down(*_: Any) -> Any:
        raise KMSError("the key service did not answer")

    monkeypatch.setattr(items.codec, "open_at_once", down)
    for how in ("skip", lambda error: None):
        with pytest.raises(KMSError):
            await items.find(on_invalid=how).to_list()


@pytest.mark.parametrize("wrong", ["ignore", None, 5], ids=str)
async def test_another_on_invalid_is_refused_at_once(driver: Driver, wrong: Any) -> None:
    """When find is called, and not at the first bad document."""
    with pytest.raises(QueryError, match='on_invalid is "raise", "skip", or a function'):
        driver.repository(Item).find(on_invalid=wrong)


async def test_a_cursor_is_a_context(driver: Driver, database: Db) -> None:
    """At the end of the block it is closed on the server."""
    items = await with_items(driver)

    def idle() -> int:
        pipeline = [{"$currentOp": {"idleCursors": True}}, {"$match": {"type": "idleCursor", "ns": f"{database.name}.customers"}}]
        return len(list(database.client.admin.aggregate(pipeline)))

    async with items.find(batch_size=2) as cursor:
        assert (await anext(cursor)).id == 0
        assert idle() == 1
    assert idle() == 0


# --- batches ----------------------------------------------------------------------------------------------------------


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread or task does."""
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not happen within five seconds")


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any answer takes longer than an interpreter needs to change threads."""
    monkeypatch.setattr(sys, "getswitchinterval", lambda: 0.0)


async def test_the_next_batch_is_asked_for_while_one_is_opened(driver: Driver, server: embedded.Server, slow: None) -> None:
    """One batch ahead, not more; and none with a session, which the loop around the cursor may be using."""
    await with_items(driver, 12)
    commands = Commands()
    async with driver.another_client(server.uri, event_listeners=[commands]) as client:
        items = driver.repository(Item, driver.collection(client=client))

        def asked() -> int:
            return sum("getMore" in each for each in commands.sent)

        found = items.find(sort="id", batch_size=3)
        assert (await anext(found)).id == 0
        await until(lambda: asked() == 1)
        await asyncio.sleep(0.05)
        assert asked() == 1
        assert [each.id for each in await found.to_list(3)] == [1, 2, 3]
        await until(lambda: asked() == 2)
        assert [each.id for each in await found.to_list()] == [*range(4, 12)]
        commands.sent.clear()
        session = client.start_session()
        found = items.find(sort="id", batch_size=3, session=session)
        assert (await anext(found)).id == 0
        await asyncio.sleep(0.05)
        assert asked() == 0
        assert len(await found.to_list()) == 11
        await settle(session.end_session())


async def test_no_thread_waits_for_what_is_there_sooner(
    driver: Driver, server: embedded.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a server next door answers would come later by a thread, which gets the interpreter only now and then."""
    if driver.is_async:
        return
    monkeypatch.setattr(sys, "getswitchinterval", lambda: 3600.0)
    await with_items(driver, 12)
    commands = Commands()
    async with driver.another_client(server.uri, event_listeners=[commands]) as client:
        found = driver.repository(Item, driver.collection(client=client)).find(sort="id", batch_size=3)
        assert (await anext(found)).id == 0
        await asyncio.sleep(0.05)
        assert not any("getMore" in each for each in commands.sent)
        assert [each.id for each in await found.to_list()] == [*range(1, 12)]


async def test_an_error_of_the_server_comes_after_the_documents_before_it(
    driver: Driver, server: embedded.Server, fail_command: Any, slow: None
) -> None:
    """It was met ahead of its turn, and is raised in its turn."""
    async with driver.another_client(server.uri, appName="fails", heartbeatFrequencyMS=50) as client:
        items = driver.repository(Item, driver.collection(client=client))
        await items.save_many([Item(id=number) for number in range(6)])
        fail_command(["getMore"], errorCode=8000)
        found = items.find(sort="id", batch_size=4)
        assert [(await anext(found)).id for _ in range(4)] == [0, 1, 2, 3]
        for _ in range(2):  # the second time, too: it is not the end
            with pytest.raises(OperationFailure):
                await anext(found)
        fail_command(["getMore"], errorCode=8000)
        found = items.find(sort="id", batch_size=4)
        assert (await anext(found)).id == 0
        del found  # whoever leaves a cursor does not hear of it
        gc.collect()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("interval", [0.0, 3600.0], ids=["a thread fetches", "no thread fetches"])
async def test_what_was_interrupted_is_not_the_end(
    driver: Driver, server: embedded.Server, monkeypatch: pytest.MonkeyPatch, fail_command: Any, interval: float
) -> None:
    """An error of the server, or Ctrl-C, and what the cursor says after it."""
    monkeypatch.setattr(sys, "getswitchinterval", lambda: interval)
    async with driver.another_client(server.uri, appName="fails", heartbeatFrequencyMS=50) as client:
        items = driver.repository(Item, driver.collection(client=client))
        await items.save_many([Item(id=number) for number in range(6)])
        fail_command(["getMore"], errorCode=8000)
        found = items.find(sort="id", batch_size=2)
        assert [(await anext(found)).id for _ in range(2)] == [0, 1]
        for _ in range(3):
            with pytest.raises(OperationFailure):
                await anext(found)
        if driver.is_async or not interval:  # there, a task is cancelled; or the wait ends, and the thread goes on
            return
        found = items.find(sort="id", batch_size=2)
        assert (await anext(found)).id == 0

        async def interrupted(_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(found.inner._flows, "batch", interrupted)
        assert (await anext(found)).id == 1
        with pytest.raises(KeyboardInterrupt):
            await anext(found)
        monkeypatch.undo()
        for _ in range(2):
            with pytest.raises(InvalidOperation, match="was interrupted, and what came then is lost"):
                await anext(found)


async def test_one_slow_answer_does_not_mean_threads_for_ever(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some batches it is looked again whether a thread helps."""
    if driver.is_async:
        return
    items = await with_items(driver, 60)
    fetched: list[int] = []
    real = aside.begin
    monkeypatch.setattr(aside, "begin", lambda *work: fetched.append(1) or real(*work))  # type: ignore[func-returns-value]  # None
    monkeypatch.setattr(sys, "getswitchinterval", lambda: 0.0)
    found = items.find(batch_size=2)
    await anext(found)
    monkeypatch.setattr(sys, "getswitchinterval", lambda: 3600.0)
    assert len(await found.to_list()) == 59
    assert len(fetched) == cursors._SLOW


async def test_a_cursor_is_closed_while_it_fetches(driver: Driver, server: embedded.Server, fail_command: Any, slow: None) -> None:
    """The answer is waited for: pymongo's cursor is for one thread at a time. What has come can still be read."""
    async with driver.another_client(server.uri, appName="fails", heartbeatFrequencyMS=50) as client:
        items = driver.repository(Item, driver.collection(client=client))
        await items.save_many([Item(id=number) for number in range(6)])
        fail_command(["getMore"], blockConnection=True, blockTimeMS=300)
        found = items.find(sort="id", batch_size=2)
        assert (await anext(found)).id == 0
        await asyncio.sleep(0.05)
        began = time.monotonic()
        await found.close()
        assert time.monotonic() - began > 0.1
        assert found.inner._cursor.alive is False
        assert (await anext(found)).id == 1


async def test_a_task_that_is_cancelled_while_it_waits(driver: Driver, server: embedded.Server, fail_command: Any) -> None:
    """Is cancelled, and so is the question to the server; the cursor cannot go on, as one of pymongo's."""
    if not driver.is_async:
        return
    async with driver.another_client(server.uri, appName="fails", heartbeatFrequencyMS=50) as client:
        items = driver.repository(Item, driver.collection(client=client))
        await items.save_many([Item(id=number) for number in range(6)])
        fail_command(["getMore"], blockConnection=True, blockTimeMS=300)
        found = items.find(sort="id", batch_size=2)
        task = asyncio.create_task(found.to_list())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(InvalidOperation, match="was cancelled, and what came then is lost"):
            await found.to_list()  # which would look like the end
        await found.close()


async def test_other_tasks_have_their_turn_while_documents_are_opened(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """All documents are there at once; a task beside the loop runs all the same, again and again."""
    if not driver.is_async:
        return
    items = await with_items(driver, 200)
    monkeypatch.setattr("mongo_envelope.cursor.SLICE", 0.0)
    turns = 0

    async def beside() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(beside())
    found = items.find(batch_size=500)
    await anext(found)
    turns = 0
    assert len(await found.to_list()) == 199
    assert turns >= 190
    task.cancel()


async def test_threads_with_cursors_of_their_own(driver: Driver) -> None:
    """Eight of them read all, each through a cursor that fetches ahead."""
    items = await with_items(driver, 300)
    if driver.is_async:
        found = await asyncio.gather(*(items.find(batch_size=7).to_list() for _ in range(8)))
    else:
        found = [[] for _ in range(8)]

        def read(number: int) -> None:
            found[number] = items.inner.find(batch_size=7).to_list()

        threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all({each.id for each in one} == {*range(300)} for one in found)


async def test_a_batch_is_what_has_come_with_one_answer(driver: Driver) -> None:
    """As many as the server has sent, whatever the sizes; of a cursor that does not count, one."""
    items = await with_items(driver, 10)
    collection = items.inner._flows.collection if hasattr(items, "inner") else items._flows.collection
    for size, lengths in ((4, [4, 4, 2]), (10, [10]), (1, [1] * 10), (100, [10])):
        cursor, found = batches(collection, {}, batch_size=size), []
        while documents := await next_batch(cursor):
            assert all(type(each) is bytes for each in documents)
            found.append(len(documents))
        assert found == lengths
        assert await next_batch(cursor) == []
    limited = batches(collection, {}, batch_size=3, limit=5, skip=1, sort=[("_id", 1)])
    assert [len(await next_batch(limited)) for _ in range(3)] == [3, 2, 0]
    cursor = await settle(collection.aggregate([{"$match": {}}]))
    assert [len(await next_batch(cursor)) for _ in range(11)] == [1] * 10 + [0]


async def test_a_negative_limit_is_one_answer_with_all_of_them(driver: Driver) -> None:
    """Also beyond the size that a batch has by itself; with a size of the caller's it is that, as in pymongo."""
    items = await with_items(driver, 450)
    for found in (items.find(limit=-430), items.find().limit(-430)):
        assert len(await found.to_list()) == 430
    assert len(await items.find(limit=-430, batch_size=7).to_list()) == 7


async def note(found: Any, seen: list[int]) -> None:
    async for each in found:
        seen.append(each.id)  # noqa: PERF401 - what comes before an error counts


async def test_an_answer_that_is_no_list_of_documents_is_met_once(driver: Driver, proxy: Proxy) -> None:
    """Who goes on after errors of documents neither turns in a circle nor takes a part for the whole."""
    async with driver.another_client(proxy.uri) as client:
        items = driver.repository(Item, driver.collection(client=client))
        await items.save_many([Item(id=number) for number in range(6)])
        found = items.find(sort="id", batch_size=2)
        assert (await anext(found)).id == 0
        proxy.swap = (b"nextBatch\x00", b"nextBetch\x00")
        seen: list[int] = []
        with pytest.raises(MalformedEnvelopeError, match="no list of documents"):
            await note(found, seen)
        assert seen in ([1], [1, 2, 3])  # a task may have fetched ahead
        for _ in range(2):
            with pytest.raises(InvalidOperation, match="no list of documents: ask again"):
                await anext(found)


async def test_an_error_of_a_hook_comes_before_anything_is_asked(driver: Driver) -> None:
    """So the cursor is as good as before, whatever kind of error it is."""
    await with_items(driver, 3)
    errors: list[Exception] = [OperationFailure("no"), MalformedEnvelopeError("no")]

    class Refuses(Hooks[Item]):
        def before_load(self, what: Any) -> None:
            if errors:
                raise errors.pop()

    found = driver.repository(Item, hooks=[Refuses()]).find(sort="id")
    for expected in (MalformedEnvelopeError, OperationFailure):
        with pytest.raises(expected):
            await anext(found)
    assert [each.id for each in await found.to_list()] == [0, 1, 2]


async def test_an_error_in_a_session_stays_an_error(driver: Driver, server: embedded.Server, fail_command: Any) -> None:
    """Where nothing is fetched ahead, either driver's cursor would say that there is no more."""
    async with driver.another_client(server.uri, appName="fails", heartbeatFrequencyMS=50) as client:
        items = driver.repository(Item, driver.collection(client=client))
        await items.save_many([Item(id=number) for number in range(6)])
        session = client.start_session()
        found = items.find(sort="id", batch_size=2, session=session)
        assert [(await anext(found)).id for _ in range(2)] == [0, 1]
        fail_command(["getMore"], errorCode=8000)
        for _ in range(3):
            with pytest.raises(OperationFailure) as caught:
                await anext(found)
        assert len(traceback.extract_tb(caught.tb)) < 40  # which does not grow
        await settle(session.end_session())


async def test_large_documents_come_as_bytes_too(driver: Driver) -> None:
    """Those of which pymongo gives a view of its buffer."""
    items = driver.repository(Item)
    await items.save_many([Item(id=number, text="x" * 5000 * number) for number in range(5)])
    assert [len(each.text) for each in await items.find(sort="id").to_list()] == [0, 5000, 10000, 15000, 20000]


def test_a_client_that_decrypts_by_itself(server: embedded.Server, database: Db) -> None:
    """Somebody may use pymongo's automatic encryption for other collections."""
    pytest.importorskip("pymongocrypt")
    options = AutoEncryptionOpts({"local": {"key": bytes(96)}}, "keys.vault", bypass_auto_encryption=True)
    with MongoClient[dict[str, Any]](server.uri, auto_encryption_opts=options) as client:
        items = Repository(Item, client[database.name].customers, keys=KeyRing.generate())
        items.save_many([Item(id=number) for number in range(5)])
        assert [each.id for each in items.find(sort="id", batch_size=2)] == [0, 1, 2, 3, 4]
        assert [each.id for each in items.load_many([3, 1])] == [3, 1]
        assert items.verify() == 5


# --- slices ----------------------------------------------------------------------------------------------------------------


class Aged(Item):
    """`Item`, of which a range is answered after decryption."""

    age: Annotated[int, Sensitive(index=Bucket(width=10, low=0, high=100))] = 0


def cursor_of(items: Any, who: str, **options: Any) -> Any:
    """Over ten in order; sifted by the server, or after decryption."""
    return items.find({} if who == "server" else {"age": {"$lt": 55}}, sort="id", **options)


async def with_aged(driver: Driver) -> Any:
    items = driver.repository(Aged)
    await items.save_many([Aged(id=number, age=number) for number in range(10)])
    return items


async def ids(cursor: Any) -> list[int]:
    return [each.id for each in await cursor.to_list()]


@pytest.mark.parametrize("who", ["server", "sifted"])
async def test_a_slice_is_skip_and_limit(driver: Driver, who: str) -> None:
    """The same cursor; it takes the place of what was set before, as in pymongo."""
    items, everything = await with_aged(driver), list(range(10))
    for part in (slice(2, 5), slice(None, 3), slice(8, None), slice(None), slice(4, 4), slice(0, 0), slice(8, 99), slice(99, 100)):
        cursor = cursor_of(items, who)
        assert cursor[part] is cursor
        assert await ids(cursor) == everything[part]
        assert await ids(cursor_of(items, who, skip=3, limit=1)[part]) == everything[part]
    assert await ids(cursor_of(items, who)[4:4].limit(2)) == [4, 5]
    assert await ids(cursor_of(items, who)[4:4][5:6]) == [5]
    assert await ids(cursor_of(items, who)[2:6].skip(3)) == [3, 4, 5, 6]
    assert await cursor_of(items, who)[3:3].first() is None
    assert (await cursor_of(items, who)[3:5].first()).id == 3


@pytest.mark.parametrize("who", ["server", "sifted"])
@pytest.mark.parametrize("part", [slice(-1, None), slice(None, -1), slice(5, 2), slice(0, 4, 2)], ids=str)
async def test_other_slices_are_refused(driver: Driver, who: str, part: slice[Any, Any, Any]) -> None:
    """Negative ones, backwards, and with a step."""
    with pytest.raises(IndexError, match="sliced forwards"):
        cursor_of(await with_aged(driver), who)[part]


@pytest.mark.parametrize("who", ["server", "sifted"])
async def test_one_document_by_its_place(driver: Driver, who: str) -> None:
    """Over the sync driver, from where skip has set the start, whatever the limit; the cursor itself is not touched."""
    items = await with_aged(driver)
    cursor = cursor_of(items, who, skip=2, limit=1)
    if driver.is_async:
        with pytest.raises(TypeError, match=r"await cursor\.skip"):
            cursor[2]
        with pytest.raises(TypeError, match="async for"):
            list(cursor.inner)
        return
    assert [cursor[place].id for place in (0, 3, 7)] == [2, 5, 9]
    assert await ids(cursor) == [2]
    with pytest.raises(InvalidOperation):
        cursor[0]
    cursor = cursor_of(items, who)
    for wrong, error in ((10, IndexError), (-1, IndexError), ("2", TypeError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error):
            cursor[wrong]
    assert cursor.skip(4)[1].id == 5
    assert cursor[3:3][1].id == 4


async def test_one_document_that_does_not_open(driver: Driver, database: Db) -> None:
    """It raises, or where such documents are skipped, the next one that opens is given, as by `first`."""
    items = await with_items(driver)
    if driver.is_async:
        return
    database.customers.update_one({"_id": 2}, {"$set": {"rank": 0}})
    with pytest.raises(IntegrityError):
        items.find(sort="id")[2]
    assert items.find(sort="id", on_invalid="skip")[2].id == 3


async def test_what_comes_out_of_a_pipeline_is_not_sliced(driver: Driver) -> None:
    """It is shaped by the pipeline; and a cursor that has begun is not sliced either."""
    items = await with_items(driver)
    pipeline = await items.aggregate([{"$match": {"rank": 0}}])
    with pytest.raises(QueryError, match="put \\$skip into it"):
        pipeline[1:2]
    if not driver.is_async:
        with pytest.raises(QueryError, match="put \\$skip into it"):
            pipeline[1]
    cursor = items.find()
    await anext(cursor)
    with pytest.raises(InvalidOperation):
        cursor[1:2]
