"""Many at once: what is written, what is told of what is not, and what each instance remembers, whatever fails and where."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import bson
import pytest
from bson import Code, DBRef, MinKey, ObjectId, Regex
from bson.errors import InvalidBSON
from bson.raw_bson import RawBSONDocument
from conftest import Driver, Proxy, saved
from customer_model import Customer
from pydantic import BaseModel
from pymongo import WriteConcern
from pymongo.database import Database
from pymongo.errors import AutoReconnect, BulkWriteError, OperationFailure, PyMongoError

from mongo_envelope import (
    Bucket,
    BulkSaveError,
    DocumentNotFoundError,
    DuplicateValueError,
    Hooks,
    IntegrityError,
    MalformedEnvelopeError,
    PayloadError,
    Queryable,
    QueryError,
    RevisionConflictError,
    SaveResult,
    Sensitive,
    UpdateResult,
    bulk,
    embedded,
    envelope,
)

Db = Database[dict[str, Any]]
Fail = Callable[..., None]
#: So many go into one command in these tests.
SIZE = 4


class Counter(BaseModel):
    """Numbers, one of them in the clear."""

    id: int
    count: Annotated[int, Queryable()] = 0
    group: Annotated[str, Queryable()] = "a"
    notes: str = ""


def counters(*numbers: int) -> list[Counter]:
    return [Counter(id=number) for number in numbers]


def stored(database: Db) -> dict[int, int]:
    """The counts that are in the database, by id."""
    return {each["_id"]: each["count"] for each in database.customers.find()}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits before a repetition."""
    monkeypatch.setattr("mongo_envelope.batches._RESENDS", (0.0, 0.0))
    monkeypatch.setattr("mongo_envelope.batches.random.uniform", lambda *_: 0.0)


# --- what is written --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, SIZE - 1, SIZE, SIZE + 1, 3 * SIZE, 3 * SIZE + 1])
@pytest.mark.parametrize("ordered", [True, False])
async def test_new_ones_and_loaded_ones_of_any_number(driver: Driver, database: Db, number: int, *, ordered: bool) -> None:
    """Of an iterator, in its order; then the same again, which are replaced; then both in turn."""
    repository = driver.repository(Counter)
    models = counters(*range(number))
    options = {"ordered": ordered, "batch_size": SIZE}
    assert await repository.save_many(iter(models), **options) == SaveResult(number, 0)
    assert [each["_id"] for each in database.customers.find()] == list(range(number))
    for model in models:
        model.count = 1
    assert await repository.save_many(models, **options) == SaveResult(0, number)
    assert stored(database) == dict.fromkeys(range(number), 1)
    mixed = [each for pair in zip(counters(*range(100, 100 + number)), models, strict=True) for each in pair]
    result = await repository.save_many(mixed, **options)
    assert (result.inserted_count, result.replaced_count, result.saved_count, result.failed) == (number, number, 2 * number, ())
    for model in mixed:  # each knows its revision
        await repository.save(model)


async def test_a_batch_of_the_usual_size(driver: Driver, database: Db) -> None:
    """More than two commands of the size that is used if none is named."""
    repository = driver.repository(Counter)
    number = 2 * bulk._DOCUMENTS + 1
    assert (await repository.save_many(Counter(id=each) for each in range(number))).inserted_count == number
    assert [each["_id"] for each in database.customers.find()] == list(range(number))


async def test_a_chunk_ends_at_its_bytes_too(driver: Driver, database: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large documents go in smaller commands."""
    monkeypatch.setattr(bulk, "_BYTES", 3000)
    repository, sizes, real = driver.repository(Counter), [], bulk.Bulk._send_together

    def spy(flows: Any, run: Any, chunk: Any, batch: Any) -> Any:
        sizes.append(len(batch))
        return real(flows, run, chunk, batch)

    monkeypatch.setattr(bulk.Bulk, "_send_together", spy)
    await repository.save_many(Counter(id=each, notes="n" * 1000) for each in range(7))
    assert sizes == [3, 3, 1]
    assert len(stored(database)) == 7


async def test_nothing_at_all(driver: Driver) -> None:
    """No command is sent, and nothing was saved."""
    assert await driver.repository(Counter).save_many([]) == SaveResult()


class Plain(BaseModel):
    id: ObjectId | None = None
    model_config = {"arbitrary_types_allowed": True}


async def test_ids_are_made_before_anything_is_sent(driver: Driver, database: Db) -> None:
    """Each instance without an id has got its own, in order."""
    plain = [Plain() for _ in range(10)]
    await driver.repository(Plain).save_many(plain, batch_size=SIZE)
    assert [each["_id"] for each in database.customers.find()] == [each.id for each in plain]


async def test_an_instance_that_is_given_twice(driver: Driver, database: Db) -> None:
    """In one chunk it is written once; in another it is saved again, and is no conflict with itself."""
    repository = driver.repository(Counter)
    ada, *others = counters(*range(6))
    assert await repository.save_many([ada, ada]) == SaveResult(1, 0)
    assert await repository.save_many([ada, others[0], ada]) == SaveResult(1, 1)
    assert await repository.save_many([ada, *others[1:], ada], batch_size=3) == SaveResult(4, 2)
    eve = Counter(id=9)
    assert await repository.save_many([eve, *others, eve], batch_size=3) == SaveResult(1, 6)
    await repository.save(ada)
    assert len(stored(database)) == 7


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("size", [2, 1], ids=["in one command", "in two"])
async def test_two_instances_of_one_document(driver: Driver, database: Db, size: int, *, ordered: bool) -> None:
    """The first is saved, the second is a conflict: new ones, and loaded ones."""
    repository = driver.repository(Counter)
    for loaded in (False, True):
        first, second = [await repository.load(1) if loaded else Counter(id=1) for _ in range(2)]
        first.count, second.count = 3 + loaded, 5
        with pytest.raises((RevisionConflictError, BulkSaveError)) as caught:
            await repository.save_many([first, second], batch_size=size, ordered=ordered)
        (failed,) = caught.value.result.failed
        assert isinstance(failed, RevisionConflictError)
        assert (failed.index, failed.document_id, caught.value.result.saved_count) == (1, "1", 1)
        assert stored(database) == {1: first.count}
        await repository.save(first)


@pytest.mark.parametrize("wrong", [0, -1, True, "5", 2.0], ids=repr)
async def test_a_batch_size_is_a_number(driver: Driver, wrong: Any) -> None:
    """1 or more; anything else is refused before an instance is looked at."""
    with pytest.raises(QueryError, match="batch_size"):
        await driver.repository(Counter).save_many([], batch_size=wrong)


async def test_other_options_and_shards(driver: Driver, database: Db) -> None:
    """The options of `with_options` are those of the commands; replaces and updates name the shard."""
    repository = driver.repository(Counter, shard_key=("group",)).with_options(write_concern=WriteConcern(w="majority"))
    models = await saved(repository, [Counter(id=number, group="ab"[number % 2]) for number in range(6)])
    for model in models:
        model.count += 1
    assert await repository.save_many(models) == SaveResult(0, 6)
    for model in models:
        model.group = "c"  # MongoDB finds each by what is stored
    assert await repository.save_many(models, ordered=False) == SaveResult(0, 6)
    assert {each["group"] for each in database.customers.find()} == {"c"}
    assert (await repository.update_many({"group": "c"}, {"group": "d"})).modified_count == 6
    async with repository.bulk() as writer:
        await writer.update(0, {"count": 7})
        await writer.delete(1)
        await writer.delete(99)
    assert writer.result == SaveResult(0, 1, (), 1)
    assert stored(database) == {0: 7, 2: 1, 3: 1, 4: 1, 5: 1}


# --- what is not written ----------------------------------------------------------------------------------------------


def unsealable(number: int) -> Counter:
    model = Counter(id=number)
    model.notes = 5  # type: ignore[assignment]
    return model


async def conflicting(driver: Driver, kind: str, number: int) -> Counter:
    """A model that cannot be saved, in each of the ways."""
    repository = driver.repository(Counter)
    if kind == "cannot be sealed":
        return unsealable(number)
    if kind == "duplicate value":
        return Counter(id=number, group="taken")
    if kind == "exists":
        await repository.save(Counter(id=number, count=-1))
        return Counter(id=number)
    model = await repository.save(Counter(id=number, count=-1))
    if kind == "deleted":
        await repository.delete(number)
    else:
        await repository.save(await repository.load(number))
    return model


KINDS = {
    "cannot be sealed": PayloadError,
    "duplicate value": DuplicateValueError,
    "exists": RevisionConflictError,
    "deleted": DocumentNotFoundError,
    "written since": RevisionConflictError,
}


@pytest.mark.parametrize("where", range(2 * SIZE + 1))
@pytest.mark.parametrize("kind", KINDS)
async def test_the_first_failure_ends_an_ordered_run(driver: Driver, database: Db, kind: str, where: int) -> None:
    """At each place of a chunk: its own error, its index, what was saved before; nothing after it, as far as MongoDB lets us."""
    repository = driver.repository(Counter)
    database.customers.create_index("group", unique=True, partialFilterExpression={"group": "taken"})
    await repository.save(Counter(id=99, group="taken"))
    loaded = await saved(repository, counters(*range(100, 105)))
    models: list[Counter] = [loaded[number // 2] if number % 2 else Counter(id=number) for number in range(2 * SIZE + 1)]
    models[where] = await conflicting(driver, kind, 50)
    for model in models:
        model.count = 1
    with pytest.raises(KINDS[kind]) as caught:
        await repository.save_many(models, batch_size=SIZE)
    error = caught.value
    assert type(error) is KINDS[kind]
    assert (error.index, error.document_id, error.collection) == (where, "50", "customers")
    assert error.result.failed == (error,)
    assert f"Of save_many the {where} before it were saved" in str(error)
    assert error.__context__ is None
    written = {number: count for number, count in stored(database).items() if count == 1}
    before = {model.id for model in models[:where]}
    # Only one that is not there does not stop MongoDB: the rest of its chunk is written, too, and the result says so.
    end = min(where - where % SIZE + SIZE, len(models)) if kind == "deleted" else where
    after = {model.id for model in models[where + 1 : end]}
    assert set(written) == before | after
    assert error.result.saved_count == len(before) + len(after)
    assert (f"of those after it {len(after)} were, too" in str(error)) is bool(after)
    models[where] = Counter(id=51)
    assert (await repository.save_many(models, batch_size=SIZE)).saved_count == len(models)  # all remember


@pytest.mark.parametrize("places", [{0}, {3, 4}, {1, 2, 7, 8}, set(range(9))], ids=str)
@pytest.mark.parametrize("kind", KINDS)
async def test_an_unordered_run_tries_all(driver: Driver, database: Db, kind: str, places: set[int]) -> None:
    """Every failure is told at the end, each with its index and id, and the others are saved."""
    repository = driver.repository(Counter)
    database.customers.create_index("group", unique=True, partialFilterExpression={"group": "taken"})
    await repository.save(Counter(id=99, group="taken"))
    loaded = await saved(repository, counters(*range(100, 105)))
    models: list[Counter] = [loaded[number // 2] if number % 2 else Counter(id=number) for number in range(2 * SIZE + 1)]
    for place in places:
        models[place] = await conflicting(driver, kind, 50 + place)
    for model in models:
        model.count = 1
    with pytest.raises(BulkSaveError, match=f"save_many: {len(places)} of 9 failed, and {9 - len(places)} were saved") as caught:
        await repository.save_many(models, batch_size=SIZE, ordered=False)
    result = caught.value.result
    assert sorted((each.index, each.document_id, type(each)) for each in result.failed) == [
        (place, str(50 + place), KINDS[kind]) for place in sorted(places)
    ]
    assert all(each.__traceback__ is None and each.__context__ is None for each in result.failed)
    assert result.saved_count == 9 - len(places)
    written = {number for number, count in stored(database).items() if count == 1}
    assert written == {model.id for place, model in enumerate(models) if place not in places}
    good = [model for place, model in enumerate(models) if place not in places]
    await repository.save_many(good)


async def test_several_that_are_gone_in_one_chunk(driver: Driver, database: Db) -> None:
    """The first of them is raised, and all are told."""
    repository = driver.repository(Counter)
    models = await saved(repository, counters(*range(6)))
    database.customers.delete_many({"_id": {"$in": [1, 3]}})
    with pytest.raises(DocumentNotFoundError, match="the 1 before it were saved; of those after it 3 were, too") as caught:
        await repository.save_many(models)
    assert [each.index for each in caught.value.result.failed] == [1, 3]
    assert caught.value.index == 1


async def test_what_was_written_over_at_once_was_written(driver: Driver, database: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    """A conflict of one document makes no conflict of another that we wrote and somebody has changed since."""
    repository = driver.repository(Counter)
    models = await saved(repository, counters(*range(4)))
    await repository.save(await repository.load(2))
    database.customers.delete_one({"_id": 3})
    real = bulk.Bulk._sort_out

    async def late(flows: Any, *args: Any, **options: Any) -> Any:
        await repository.update(0, {"count": 10})
        return await real(flows, *args, **options)

    monkeypatch.setattr(bulk.Bulk, "_sort_out", late)
    with pytest.raises(BulkSaveError) as caught:
        await repository.save_many(models, ordered=False)
    assert sorted(each.index for each in caught.value.result.failed) == [2, 3]
    assert caught.value.result.replaced_count == 2
    with pytest.raises(RevisionConflictError):  # by now, that is
        await repository.save(models[0])


async def test_what_is_gone_and_there_again_is_a_conflict(driver: Driver, database: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleted before our command, and inserted by somebody before our question."""
    repository = driver.repository(Counter)
    models = await saved(repository, counters(1, 2))
    await repository.delete(1)
    real = bulk.Bulk._sort_out

    async def late(flows: Any, *args: Any, **options: Any) -> Any:
        await repository.save(Counter(id=1))
        return await real(flows, *args, **options)

    monkeypatch.setattr(bulk.Bulk, "_sort_out", late)
    with pytest.raises(RevisionConflictError) as caught:
        await repository.save_many(models)
    assert (caught.value.index, caught.value.result.replaced_count) == (0, 1)


# --- the network ------------------------------------------------------------------------------------------------------

#: What goes wrong, and what the client is told not to do about it.
LOSSES = ["request", "reply", "write concern", "not primary", "shutdown, retryable"]


def lose(what: str, proxy: Proxy, fail_command: Fail, times: int = 1) -> None:
    """Let a write fail: before the server has done it, after it has, or with an error although it has."""
    if what == "reply":
        proxy.lose = True
    elif what == "request":
        fail_command(["insert", "update"], times=times, closeConnection=True)
    elif what == "write concern":
        fail_command(["insert", "update"], times=times, writeConcernError={"code": 64, "errmsg": "timed out"})
    elif what == "not primary":
        fail_command(["insert", "update"], times=times, errorCode=91)
    else:
        fail_command(
            ["insert", "update"],
            times=times,
            writeConcernError={"code": 91, "errmsg": "going down", "errorLabels": ["RetryableWriteError"]},
            errorLabels=["RetryableWriteError"],
        )


@pytest.mark.parametrize("mixed", [False, True], ids=["new", "new and loaded"])
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize(
    ("what", "retries"),
    [(what, retries) for what in ("request", "reply", "not primary") for retries in (True, False)]
    + [("shutdown, retryable", True)],
)
async def test_what_may_pass_is_sent_again(
    driver: Driver, proxy: Proxy, database: Db, fail_command: Fail, what: str, *, ordered: bool, mixed: bool, retries: bool
) -> None:
    """The same bytes, once more; what had arrived is recognised, and counted once."""
    async with driver.another_client(proxy.uri, retryWrites=retries, appName="fails", heartbeatFrequencyMS=50) as client:
        repository = driver.repository(Counter, driver.collection(client=client))
        loaded = await saved(repository, counters(100, 101))
        models = [*counters(*range(3)), *(loaded if mixed else []), *counters(3, 4)]
        for model in models:
            model.count = 1
        lose(what, proxy, fail_command)
        result = await repository.save_many(models, ordered=ordered)
        assert result == SaveResult(5, 2 if mixed else 0)
        assert {number for number, count in stored(database).items() if count == 1} == {model.id for model in models}
        assert await repository.save_many(models) == SaveResult(0, len(models))


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("what", ["request", "write concern", "not primary", "shutdown, retryable"])
async def test_after_an_unknown_outcome_the_same_again(
    driver: Driver, proxy: Proxy, database: Db, fail_command: Fail, what: str, *, ordered: bool
) -> None:
    """pymongo's error, with a note; then the same instances, whether they were written or not, some of them changed."""
    async with driver.another_client(proxy.uri, retryWrites=False, appName="fails", heartbeatFrequencyMS=50) as client:
        repository = driver.repository(Counter, driver.collection(client=client))
        loaded = await saved(repository, counters(100, 101))
        models = [*counters(*range(4)), *loaded, *counters(*range(4, 9))]
        for model in models:
            model.count = 1
        lose(what, proxy, fail_command, times=20)
        with pytest.raises((AutoReconnect, OperationFailure)) as caught:
            await repository.save_many(models, batch_size=SIZE, ordered=ordered)
        note = "save_many: 0 documents had been written before this. Of those from index 0 to 3 it is unknown"
        assert caught.value.__notes__[0].startswith(note)
        assert len(caught.value.__notes__) == 1
        fail_command(["none"], times=0)
        before = len(stored(database))
        assert before in (2, 6)
        for count in (2, 3):
            for model in models:
                model.count = count
            assert (await repository.save_many(models, batch_size=SIZE, ordered=ordered)).saved_count == len(models)
            assert stored(database) == {model.id: count for model in models}


async def test_a_retry_tells_inserts_from_replaces(
    driver: Driver, server: embedded.Server, database: Db, fail_command: Fail
) -> None:
    """After an unknown outcome: those that had arrived are replaced, the others inserted, and what is not ours is a conflict."""
    async with driver.another_client(server.uri, retryWrites=False, appName="fails") as client:
        repository = driver.repository(Counter, driver.collection(client=client))
        models = counters(*range(6))
        fail_command(["insert"], writeConcernError={"code": 64, "errmsg": "timed out"})
        with pytest.raises(BulkWriteError):
            await repository.save_many(models)
        database.customers.delete_many({"_id": {"$in": [1, 2]}})  # as a rollback would
        assert await repository.save_many(models[:3]) == SaveResult(2, 1)
        database.customers.delete_one({"_id": 4})
        await repository.save(Counter(id=4))
        with pytest.raises(RevisionConflictError) as caught:
            await repository.save_many(models)
        assert (caught.value.index, caught.value.result) == (4, SaveResult(0, 4, (caught.value,)))


async def test_an_insert_that_arrives_late(
    driver: Driver, server: embedded.Server, database: Db, fail_command: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not there when the server was asked, and is there when it is inserted, is ours all the same."""
    async with driver.another_client(server.uri, retryWrites=False, appName="fails") as client:
        repository = driver.repository(Counter, driver.collection(client=client))
        models = counters(1, 2, 3)
        fail_command(["insert"], writeConcernError={"code": 64, "errmsg": "timed out"})
        with pytest.raises(BulkWriteError):
            await repository.save_many(models)
        late, real = database.customers.find_one_and_delete({"_id": 2}), bulk.Bulk._begin

        async def arriving(flows: Any, chunk: Any, session: Any) -> None:
            await real(flows, chunk, session)
            database.customers.insert_one(late)
            database.customers.delete_one({"_id": 3})

        monkeypatch.setattr(bulk.Bulk, "_begin", arriving)
        for model in models:
            model.count = 5
        assert (await repository.save_many(models)).saved_count == 3
        assert stored(database) == {1: 5, 2: 5, 3: 5}


async def test_a_lost_reply_and_somebody_else(driver: Driver, proxy: Proxy, database: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    """It had arrived, and was written over before it was sent again: nobody can call that a conflict, so the error is pymongo's."""
    async with driver.another_client(proxy.uri, retryWrites=False) as client:
        repository, other = driver.repository(Counter, driver.collection(client=client)), driver.repository(Counter)
        models = counters(*range(4))
        real = bulk.Bulk.send

        async def meanwhile(flows: Any, run: Any, chunk: Any) -> Any:
            if chunk.lost is not None:
                await other.update(1, {"count": 7})
            return await real(flows, run, chunk)

        monkeypatch.setattr(bulk.Bulk, "send", meanwhile)
        proxy.lose = True
        with pytest.raises(AutoReconnect) as caught:
            await repository.save_many(models)
        (note,) = caught.value.__notes__
        assert note.startswith("save_many: 3 documents had been written before this. Of that with index 1 it is unknown. Calling")
        monkeypatch.undo()
        with pytest.raises(RevisionConflictError):
            await repository.save_many(models)
        assert stored(database)[1] == 7


async def test_no_server(driver: Driver) -> None:
    """pymongo has waited for one long enough: nothing is repeated."""
    async with driver.another_client("mongodb://%2Fnowhere%2Fs.sock", serverSelectionTimeoutMS=50) as client:
        repository = driver.repository(Counter, driver.collection(client=client))
        with pytest.raises(AutoReconnect) as caught:
            await repository.save_many(counters(1))
        assert "0 documents had been written" in caught.value.__notes__[0]


async def test_a_batch_that_ends_in_a_duplicate_and_in_an_unmet_write_concern(
    driver: Driver, server: embedded.Server, database: Db, fail_command: Fail
) -> None:
    """The documents before the duplicate may be rolled back: that is said, and they can be saved again whether they were or not."""
    async with driver.another_client(server.uri, retryWrites=False, appName="fails") as client:
        customers = driver.repository(Customer, driver.collection(client=client))
        taken = await customers.save(Customer())
        batch = [Customer(), Customer(), Customer(id=taken.id)]
        fail_command(["insert"], writeConcernError={"code": 64, "errmsg": "waiting for replication timed out"})
        with pytest.raises(RevisionConflictError, match="the 2 before it were written, but the write concern was not met"):
            await customers.save_many(batch)
        database.customers.delete_one({"_id": batch[0].id})  # as a rollback would
        await customers.save_many(batch[:2])
        assert await customers.count() == 3


# --- a stored document that is no BSON ----------------------------------------------------------------------------------

#: What MongoDB stores and Python cannot decode, as the type and the value of an element.
UNREADABLE = {
    "ill-formed text": b"\x02%b\x00\x02\x00\x00\x00\xff\x00",
    "an ill-formed name beneath": b"\x03%b\x00\x0c\x00\x00\x00\x10\xff\x00\x01\x00\x00\x00\x00",
    "an ill-formed pattern": b"\x0b%b\x00\xff\x00\x00",
    "a UUID of one byte": b"\x05%b\x00\x01\x00\x00\x00\x04\x01",
}


def edit(database: Db, identity: int, name: str, how: str) -> None:
    """Write past the repository what somebody with access to the database can write, and no driver makes."""
    options: Any = envelope.CODEC_OPTIONS.with_options(document_class=RawBSONDocument)
    raw = bytes(database.customers.with_options(options).find_one_and_delete({"_id": identity}).raw)
    start, _, end = envelope._walk(raw, {})[name.encode()]
    inside = raw[4:start] + UNREADABLE[how] % name.encode() + raw[end:]
    database.customers.insert_one(RawBSONDocument((4 + len(inside)).to_bytes(4, "little") + inside))
    with pytest.raises(InvalidBSON):
        database.customers.find_one({"_id": identity})


@pytest.mark.parametrize("how", UNREADABLE)
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("transaction", [False, True], ids=["", "in a transaction"])
async def test_an_update_of_what_cannot_be_decoded(
    driver: Driver, database: Db, how: str, *, ordered: bool, transaction: bool
) -> None:
    """It is the failure of that document alone: the others are updated, and told."""
    repository = driver.repository(Counter)
    await saved(repository, counters(*range(5)))
    edit(database, 2, "group", how)
    async with driver.transaction() if transaction else contextlib.nullcontext() as session:
        with pytest.raises((IntegrityError, BulkSaveError)) as caught:  # noqa: PT012 - the block is what raises
            async with repository.bulk(ordered=ordered, session=session) as writer:
                for number in range(5):
                    await writer.update(number, {"count": 1})
    (failed,) = caught.value.result.failed
    assert (type(failed), failed.index, failed.document_id) == (IntegrityError, 2, "2")
    assert writer.result.replaced_count == (2 if ordered else 4)
    assert {each: (await repository.load(each)).count for each in (0, 1, 3, 4)} == (
        {0: 1, 1: 1, 3: 0, 4: 0} if ordered else dict.fromkeys((0, 1, 3, 4), 1)
    )


@pytest.mark.parametrize("how", UNREADABLE)
@pytest.mark.parametrize("ordered", [True, False])
async def test_a_conflict_with_a_tag_that_cannot_be_decoded(driver: Driver, database: Db, how: str, *, ordered: bool) -> None:
    """It is somebody else's document, and what is written of the others is told, and known."""
    repository = driver.repository(Counter)
    models = await saved(repository, counters(*range(5)))
    edit(database, 2, "hmac", how)
    for model in models:
        model.count = 1
    with pytest.raises((RevisionConflictError, BulkSaveError)) as caught:
        await repository.save_many(models, ordered=ordered)
    (failed,) = caught.value.result.failed
    assert (type(failed), failed.index, failed.document_id) == (RevisionConflictError, 2, "2")
    assert caught.value.result.replaced_count == (2 if ordered else 4)
    del models[2]
    assert (await repository.save_many(models)).replaced_count == 4


async def test_a_tag_that_cannot_be_decoded_in_a_transaction(driver: Driver, database: Db) -> None:
    """There it makes no error of the server's, and the question is asked because fewer matched than were sent."""
    repository = driver.repository(Counter)
    models = await saved(repository, counters(*range(3)))
    edit(database, 1, "hmac", "ill-formed text")
    async with driver.transaction() as session:
        with pytest.raises(BulkSaveError) as caught:
            await repository.save_many(models, session=session, ordered=False)
    assert [(each.index, type(each)) for each in caught.value.result.failed] == [(1, RevisionConflictError)]
    assert (await repository.save_many([models[0], models[2]])).replaced_count == 2


async def test_a_tag_that_is_null_is_somebody_elses(driver: Driver, database: Db) -> None:
    """And not a document that is gone."""
    repository = driver.repository(Counter)
    models = await saved(repository, counters(1, 2))
    database.customers.update_one({"_id": 1}, {"$set": {"hmac": None}})
    for transaction in (contextlib.nullcontext, driver.transaction):
        async with transaction() as session:
            with pytest.raises(RevisionConflictError):
                await repository.save_many(models, session=session)


async def test_an_answer_that_is_no_bson_is_about_its_document(driver: Driver, proxy: Proxy, database: Db) -> None:
    """A server that answers with elements of no type: the ids before them are read, and the others are written."""
    async with driver.another_client(proxy.uri) as client:
        repository = driver.repository(Counter, driver.collection(client=client))
        models = await saved(repository, counters(*range(4)))
        head = b"\x10_id\x00\x02\x00\x00\x00"
        proxy.swap = (head + b"\x10count\x00", head + b"\x77count\x00")
        with pytest.raises(BulkSaveError) as caught:  # noqa: PT012 - the block is what raises
            async with repository.bulk(ordered=False) as writer:
                for number in range(4):
                    await writer.update(number, {"count": 1})
        (failed,) = caught.value.result.failed
        assert (type(failed), failed.index, failed.document_id) == (MalformedEnvelopeError, 2, "2")
        assert stored(database) == {0: 1, 1: 1, 2: 0, 3: 1}
        models = [await repository.load(number) if number != 2 else models[2] for number in range(4)]
        await driver.repository(Counter).update(2, {"count": 7})
        proxy.swap = (head + b"\x05hmac\x00", head + b"\x77hmac\x00")
        with pytest.raises(BulkSaveError) as caught:
            await repository.save_many(models, ordered=False)
        (conflict,) = caught.value.result.failed
        assert (type(conflict), conflict.index, conflict.document_id) == (RevisionConflictError, 2, "2")
        assert caught.value.result.replaced_count == 3


async def test_an_update_of_a_document_with_a_long_id(driver: Driver, database: Db) -> None:
    """It is found by its ``_id``, however long that is."""

    class Named(BaseModel):
        id: str
        count: int = 0

    repository, names = driver.repository(Named), ["n" * 4000, "m" * 4000]
    models = await saved(repository, [Named(id=each) for each in names])
    async with repository.bulk() as writer:
        for each in names:
            await writer.update(each, {"count": 1})
    assert writer.result.replaced_count == 2
    with pytest.raises(BulkSaveError) as caught:
        await repository.save_many(models, ordered=False)
    assert [type(each) for each in caught.value.result.failed] == [RevisionConflictError] * 2


# --- transactions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("commit", [False, True], ids=["aborted", "committed"])
async def test_in_a_transaction(driver: Driver, database: Db, *, commit: bool) -> None:
    """New and loaded ones, twice, in several chunks; afterwards all can be saved whether it was committed or not."""
    repository = driver.repository(Counter)
    old = await saved(repository, counters(100, 101, 102))
    models = [*counters(*range(5)), *old]
    async with driver.transaction(commit=commit) as session:
        assert await repository.save_many(models, session=session, batch_size=SIZE) == SaveResult(5, 3)
        assert (await repository.save_many(models, session=session, batch_size=SIZE)).saved_count == 8
    assert len(stored(database)) == (8 if commit else 3)
    for _ in range(2):
        assert (await repository.save_many(models, batch_size=SIZE)).saved_count == 8
    assert len(stored(database)) == 8


async def test_a_transaction_does_not_claim_what_will_be_undone(driver: Driver, database: Db) -> None:
    """Where the whole transaction fails, nothing is said to have been saved."""
    repository = driver.repository(Counter)
    await repository.save(Counter(id=1))
    async with driver.transaction(commit=False) as session:
        with pytest.raises(
            RevisionConflictError, match="the 1 before it were written in the transaction, and will be undone if that is aborted"
        ):
            await repository.save_many(counters(2, 1), session=session)
    assert stored(database) == {1: 0}


async def test_a_conflict_does_not_end_a_transaction(driver: Driver, database: Db) -> None:
    """A loaded one that was written since, and one that was deleted, are told, and the transaction can be committed."""
    repository = driver.repository(Counter)
    models = await saved(repository, counters(*range(4)))
    await repository.save(await repository.load(1))
    await repository.delete(2)
    for model in models:
        model.count = 5
    async with driver.transaction() as session:
        with pytest.raises(BulkSaveError) as caught:
            await repository.save_many(models, session=session, ordered=False)
        assert [(each.index, type(each)) for each in caught.value.result.failed] == [
            (1, RevisionConflictError),
            (2, DocumentNotFoundError),
        ]
    assert stored(database) == {0: 5, 1: 0, 3: 5}
    await repository.save_many([models[0], models[3]])


async def test_a_transaction_that_runs_twice_is_no_conflict_with_itself(driver: Driver, database: Db) -> None:
    """As `with_transaction` repeats it: the same instances, in few commands."""
    repository = driver.repository(Counter)
    models = counters(*range(10))
    for commit in (False, False, True):
        async with driver.transaction(commit=commit) as session:
            assert await repository.save_many(models, session=session) == SaveResult(10, 0)
    assert await repository.save_many(models) == SaveResult(0, 10)
    assert len(stored(database)) == 10


@pytest.mark.parametrize("ordered", [True, False])
async def test_an_error_in_a_transaction_stops_the_command(driver: Driver, *, ordered: bool) -> None:
    """The server goes no further, whatever the order: what comes after it is not written."""
    repository = driver.repository(Counter)
    await repository.save(Counter(id=1))
    async with driver.transaction(commit=False) as session:
        with pytest.raises(RevisionConflictError if ordered else BulkSaveError) as caught:
            await repository.save_many(counters(0, 1, 2, 3), ordered=ordered, session=session)
    assert caught.value.result.inserted_count == 1
    assert [each.index for each in caught.value.result.failed] == [1]


@pytest.mark.parametrize("ordered", [True, False])
async def test_after_an_error_nothing_more_is_sent_in_a_transaction(driver: Driver, database: Db, *, ordered: bool) -> None:
    """The error has ended it. What the server says of the next command would have `with_transaction` begin again, without end."""
    repository = driver.repository(Counter)
    await repository.save(Counter(id=1))
    async with driver.transaction(commit=False) as session:
        with pytest.raises(RevisionConflictError if ordered else BulkSaveError, match="a document with this _id exists") as caught:
            await repository.save_many(counters(*range(3 * SIZE)), ordered=ordered, batch_size=SIZE, session=session)
    assert not getattr(caught.value, "__notes__", [])
    assert [each.document_id for each in caught.value.result.failed] == ["1"]
    assert stored(database) == {1: 0}
    assert (await repository.save_many(counters(*range(2, 2 + SIZE)))).inserted_count == SIZE


async def test_what_is_written_alone_ends_a_transaction_too(driver: Driver, database: Db) -> None:
    """After an abort it is not known whether a document is there, so it is written by itself; and somebody else was faster."""
    repository = driver.repository(Counter)
    models = counters(1, 2, 3, 4)
    async with driver.transaction(commit=False) as session:
        await repository.save_many(models, session=session)
    await driver.repository(Counter).save(Counter(id=2))
    async with driver.transaction(commit=False) as session:
        with pytest.raises(BulkSaveError) as caught:
            await repository.save_many(models, ordered=False, session=session)
    assert [each.document_id for each in caught.value.result.failed] == ["2"]
    assert stored(database) == {2: 0}


@pytest.mark.parametrize("in_transaction", [False, True])
async def test_after_a_failure_that_was_caught_nothing_more_is_done(driver: Driver, database: Db, *, in_transaction: bool) -> None:
    """In ordered mode, and in a transaction that the failure has ended: deletes are not sent, either."""
    repository = driver.repository(Counter)
    await repository.save_many(counters(1, 2))

    async def work(**options: Any) -> None:
        async with repository.bulk(ordered=not in_transaction, **options) as writer:
            with contextlib.suppress(RevisionConflictError, BulkSaveError):
                await writer.save(Counter(id=1))
                await writer.delete(7)  # sends what is there before it
                await writer.save(Counter(id=3))
            await writer.delete(2)

    if in_transaction:
        async with driver.transaction(commit=False) as session:
            with pytest.raises(BulkSaveError, match="a document with this _id exists"):
                await work(session=session)
    else:
        with pytest.raises(RevisionConflictError, match="a document with this _id exists"):
            await work()
    assert stored(database) == {1: 0, 2: 0}


async def delete_each(repository: Any, identities: Iterable[int], **options: Any) -> None:
    async with repository.bulk(**options) as writer:
        for identity in identities:
            await writer.delete(identity)


@pytest.mark.parametrize("ordered", [True, False])
async def test_a_hook_refuses_that_one_document_is_deleted(driver: Driver, database: Db, *, ordered: bool) -> None:
    """It is the failure of that document; of none is it unknown what became of it."""

    class Refuses(Hooks[Counter]):
        def before_delete(self, id: Any) -> None:
            if id == 5:
                raise PayloadError("refused")

    repository = driver.repository(Counter, hooks=[Refuses()])
    await repository.save_many(counters(*range(8)))
    with pytest.raises(PayloadError if ordered else BulkSaveError, match="refused") as caught:
        await delete_each(repository, range(8), ordered=ordered)
    assert not getattr(caught.value, "__notes__", [])
    assert [(each.index, each.document_id) for each in caught.value.result.failed] == [(5, "5")]
    assert sorted(stored(database)) == ([5, 6, 7] if ordered else [5])


async def test_what_a_hook_raises_after_a_delete_leaves_nothing_in_doubt(driver: Driver, database: Db) -> None:
    """That one is deleted, and nothing was sent of those after it."""

    class Breaks(Hooks[Counter]):
        def after_delete(self, id: Any) -> None:
            if id == 2:
                raise PayloadError("told too late")

    repository = driver.repository(Counter, hooks=[Breaks()])
    await repository.save_many(counters(*range(5)))
    with pytest.raises(PayloadError, match="told too late") as caught:
        await delete_each(repository, range(5))
    assert caught.value.__notes__ == ["bulk: 3 documents had been written or deleted before this."]
    assert sorted(stored(database)) == [3, 4]


@pytest.mark.parametrize("identity", [Regex("a"), Code("x", {}), DBRef("a", [1]), MinKey()], ids=lambda each: type(each).__name__)
def test_an_id_that_nobody_can_have_asked_for(identity: Any) -> None:
    """A server may answer with one that Python cannot use as a key: it is none of the documents."""
    of = bulk.Bulk._key_in
    flows = type("Flows", (), {"key_of": bulk.Bulk.key_of})()
    key = of(flows, bson.encode({"_id": identity}))
    assert key is None or isinstance(identity, MinKey)


async def test_an_error_of_a_transaction_goes_through(driver: Driver, server: embedded.Server, fail_command: Fail) -> None:
    """Nothing is repeated in it: that is for who repeats the whole of it."""
    async with driver.another_client(server.uri, appName="fails") as client:
        repository = driver.repository(Counter, driver.collection(client=client))
        await repository.save(Counter(id=1))
        session = client.start_session()
        with pytest.raises(PyMongoError) as caught:
            await run_in(driver, session, fail_command, repository)
        assert caught.value.has_error_label("TransientTransactionError")


async def run_in(driver: Driver, session: Any, fail_command: Fail, repository: Any) -> None:
    from mongo_envelope.bridge import settle

    try:
        await settle(session.start_transaction())
        fail_command(["insert"], closeConnection=True)
        await repository.save_many(counters(2, 3), session=session)
    finally:
        await settle(session.end_session())


# --- update_many ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, SIZE, 3 * SIZE + 1])
async def test_update_many_by_name_and_by_function(driver: Driver, database: Db, number: int) -> None:
    """Every document that matches, each once, although it matches again once it is written."""
    repository = driver.repository(Counter)
    await saved(repository, [*counters(*range(number)), Counter(id=1000, group="b")])
    result = await repository.update_many({"group": "a"}, {"notes": "seen"}, batch_size=SIZE)
    assert result == UpdateResult(number, number)

    async def more(counter: Counter) -> Counter | None:
        counter.count += 1
        return counter if counter.id % 2 else None

    result = await repository.update_many({"group": "a"}, driver.function(more), batch_size=SIZE)
    assert (result.matched_count, result.modified_count) == (number, number)
    assert [(each.count, each.notes) for each in await repository.find({"group": "a"}).to_list()] == [(1, "seen")] * number
    assert (await repository.load(1000)).notes == ""
    assert (await repository.update_many({}, {"count": 7})).modified_count == number + 1
    assert set(stored(database).values()) == {7}


async def test_update_many_wants_a_filter(driver: Driver) -> None:
    """None is refused, as by `delete_many`, and so are changes that are none."""
    repository = driver.repository(Counter)
    with pytest.raises(QueryError, match=r"update_many takes a filter. All documents match \{\}"):
        await repository.update_many(None, {"count": 1})
    with pytest.raises(QueryError, match="notes"):
        await repository.update_many({"notes": "x"}, {"count": 1})
    await repository.save(Counter(id=1))
    for wrong in ({"nothing": 1}, 5):
        with pytest.raises(QueryError) as caught:
            await repository.update_many({}, wrong)
        assert caught.value.result is None


@pytest.mark.parametrize(
    "changes",
    [{"count": "x"}, lambda counter: counter.model_copy(update={"id": 99}), lambda _: 5],
    ids=["a wrong value", "another id", "no model"],
)
async def test_changes_that_do_not_fit_are_a_failure_of_their_document(driver: Driver, changes: Any) -> None:
    """Which one it is is said, and what was done before; unordered, the others are changed all the same."""
    repository = driver.repository(Counter)
    await saved(repository, [Counter(id=number) for number in range(5)])

    def third(counter: Counter) -> Any:
        if counter.id != 3:
            return counter.model_copy(update={"count": 7})
        return changes(counter) if callable(changes) else counter.model_copy(update=changes)

    with pytest.raises((QueryError, PayloadError)) as caught:
        await repository.update_many({}, third)
    assert (caught.value.index, caught.value.document_id) == (3, "3")
    assert caught.value.result == UpdateResult(4, 3)

    async def all_of_them() -> None:
        async with repository.bulk(ordered=False) as writer:
            for number in range(5):
                await writer.update(number, third)

    with pytest.raises(BulkSaveError) as failed:
        await all_of_them()
    assert [(each.index, each.document_id) for each in failed.value.result.failed] == [(3, "3")]
    assert [each.count for each in await repository.find(sort="id").to_list()] == [7, 7, 7, 0, 7]


async def test_several_tasks_feed_one_writer(driver: Driver) -> None:
    """They take turns, and nothing is lost."""
    if not driver.is_async:
        return
    repository = driver.repository(Counter).inner

    async with repository.bulk(batch_size=SIZE) as writer:

        async def feed(number: int) -> None:
            for one in range(20):
                await writer.save(Counter(id=100 * number + one))
                await writer.update(100 * number + one, {"count": 1})

        await asyncio.gather(*map(feed, range(5)))
    assert writer.result.inserted_count == writer.result.replaced_count == 100
    assert await repository.count({}) == 100


async def test_a_writer_is_used_inside_its_block(driver: Driver) -> None:
    """Outside nothing would be sent, so it is refused; a block is entered once."""
    repository = driver.repository(Counter)
    writer = repository.bulk()
    for work in (lambda: writer.save(Counter(id=1)), lambda: writer.delete(1), lambda: writer.update(1, {"count": 2})):
        with pytest.raises(QueryError, match="not entered yet: it is used inside its with block"):
            await work()
    async with writer:
        await writer.save(Counter(id=1))
    with pytest.raises(QueryError, match="closed: it is used inside"):
        await writer.save(Counter(id=2))
    with pytest.raises(QueryError, match="closed: its block is entered once"):
        await writer.__aenter__()


async def test_update_many_of_what_is_sifted(driver: Driver, database: Db) -> None:
    """Exactly those that were meant, of all that the server finds."""
    people = driver.repository(Person)
    await saved(people, [Person(id=number, age=number) for number in range(20)])
    assert (await people.update_many({"age": {"$gte": 3, "$lt": 17}}, {"seen": True}, batch_size=SIZE)).modified_count == 14
    assert [each.id for each in await people.find({"seen": True}, sort="id").to_list()] == list(range(3, 17))


class Person(BaseModel):
    id: int
    age: Annotated[int, Sensitive(index=Bucket(width=10))] = 0
    seen: Annotated[bool, Queryable()] = False


def meanwhile(monkeypatch: pytest.MonkeyPatch, what: Callable[[], Any], times: int = 1) -> None:
    """Do this after the documents of a chunk were loaded, and before they are written."""
    real, left = bulk.Bulk._begin, [times]

    async def begin(flows: Any, chunk: Any, session: Any) -> None:
        if left[0]:
            left[0] -= 1
            await what()
        await real(flows, chunk, session)

    monkeypatch.setattr(bulk.Bulk, "_begin", begin)


async def test_what_somebody_changed_meanwhile_is_changed_again(
    driver: Driver, database: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loaded anew, if it still matches: no change is lost, neither ours nor theirs."""
    repository, other = driver.repository(Counter), driver.repository(Counter)
    await saved(repository, counters(*range(6)))

    async def interfere() -> None:
        await other.update(1, {"notes": "theirs"})
        await other.update(2, {"group": "b"})
        await other.delete(3)
        await other.update(5, {"notes": "theirs", "count": 10})

    meanwhile(monkeypatch, interfere)

    async def more(counter: Counter) -> None:
        counter.count += 1

    result = await repository.update_many({"group": "a"}, driver.function(more))
    assert result == UpdateResult(4, 4)
    assert stored(database) == {0: 1, 1: 1, 2: 0, 4: 1, 5: 11}
    assert (await repository.load(1)).notes == "theirs"
    monkeypatch.undo()
    await saved(repository, [Counter(id=3)])
    meanwhile(monkeypatch, interfere)
    assert (await repository.update_many({}, driver.function(more))).modified_count == 5
    assert stored(database) == {0: 2, 1: 2, 2: 1, 4: 2, 5: 11}


async def test_a_document_that_is_always_in_the_way(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a dozen conflicts it is a failure, as of `update`."""
    repository, other = driver.repository(Counter), driver.repository(Counter)
    await saved(repository, counters(1, 2, 3))

    async def interfere() -> None:
        await other.update(2, {"notes": "theirs"})

    meanwhile(monkeypatch, interfere)
    real = bulk.Bulk._store

    async def store(flows: Any, model: Any, *args: Any, **options: Any) -> Any:
        if model.id == 2 and model.count == 5:
            await other.update(2, {"notes": "again"})
        return await real(flows, model, *args, **options)

    monkeypatch.setattr(bulk.Bulk, "_store", store)
    with pytest.raises(RevisionConflictError) as caught:
        await repository.update_many({}, {"count": 5})
    assert (caught.value.index, caught.value.result) == (1, UpdateResult(3, 1))


async def test_update_many_stops_at_what_cannot_be_written(driver: Driver, database: Db) -> None:
    """Its error has the id, and what was done before."""
    database.customers.create_index("group", unique=True, partialFilterExpression={"group": "one"})
    repository = driver.repository(Counter)
    await saved(repository, counters(*range(6)))
    with pytest.raises(DuplicateValueError, match="Of update_many the 1 before it were saved") as caught:
        await repository.update_many({"id": {"$gte": 2}}, {"group": "one"})
    assert (caught.value.document_id, caught.value.index, caught.value.result) == ("3", 1, UpdateResult(4, 1))

    async def spoil(counter: Counter) -> Counter:
        return unsealable(4) if counter.id == 4 else counter

    with pytest.raises(PayloadError, match="Of update_many the 4 before it were saved") as refused:
        await repository.update_many({}, driver.function(spoil))
    assert (refused.value.document_id, refused.value.index, refused.value.result) == ("4", 4, UpdateResult(5, 4))


async def test_update_many_meets_a_document_that_is_wrong(driver: Driver, database: Db) -> None:
    """It raises as a cursor does; what was sent before is written, and told."""
    repository = driver.repository(Counter)
    await saved(repository, counters(*range(10)))
    database.customers.update_one({"_id": 6}, {"$set": {"count": 66}})
    with pytest.raises(IntegrityError) as caught:
        await repository.update_many({}, {"count": 5}, batch_size=SIZE)
    assert caught.value.document_id == "6"
    assert caught.value.result.modified_count == SIZE
    assert stored(database) == {0: 5, 1: 5, 2: 5, 3: 5, 4: 0, 5: 0, 6: 66, 7: 0, 8: 0, 9: 0}


async def test_update_many_in_a_transaction(driver: Driver, database: Db) -> None:
    """It sees what was written in it, and is undone with it."""
    repository = driver.repository(Counter)
    await saved(repository, counters(*range(6)))
    async with driver.transaction(commit=False) as session:
        await repository.save(Counter(id=9), session=session)
        assert (await repository.update_many({}, {"count": 5}, session=session, batch_size=2)).modified_count == 7
    assert stored(database) == dict.fromkeys(range(6), 0)
    async with driver.transaction() as session:
        assert (await repository.update_many({}, {"count": 5}, session=session)).modified_count == 6
    assert stored(database) == dict.fromkeys(range(6), 5)


# --- bulk -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, SIZE, 100])
@pytest.mark.parametrize("ordered", [True, False])
async def test_bulk_keeps_the_order_on_each_document(driver: Driver, database: Db, size: int, *, ordered: bool) -> None:
    """Saved, changed, saved again, updated twice, deleted, inserted anew: in one block, as it is written there."""
    repository = driver.repository(Counter)
    old = await saved(repository, counters(10, 11))

    async def twice(counter: Counter) -> Counter:
        return counter.model_copy(update={"count": counter.count * 2})

    async with repository.bulk(ordered=ordered, batch_size=size) as bulk:
        for model in (*(new := counters(1, 2, 3)), *old):
            await bulk.save(model)
        new[0].count = 5
        await bulk.save(new[0])
        await bulk.update(1, {"count": 6})
        await bulk.update(1, driver.function(twice))
        await bulk.update(2, {"count": 7})
        await bulk.delete(3)
        await bulk.save(Counter(id=3, count=8))
        await bulk.delete(10)
        await bulk.delete(99)
        await bulk.delete(10)
    assert bulk.result == SaveResult(4, 6, (), 2)
    assert stored(database) == {1: 12, 2: 7, 3: 8, 11: 0}


async def test_bulk_sends_what_is_full_and_the_rest_at_its_end(driver: Driver, database: Db) -> None:
    """If the block raises, what was not sent stays unsent; what was, stays written."""
    repository = driver.repository(Counter)
    models = counters(*range(10))
    with pytest.raises(ZeroDivisionError) as caught:  # noqa: PT012 - the block is what raises
        async with repository.bulk(batch_size=SIZE) as bulk:
            for model in models:
                await bulk.save(model)
            raise ZeroDivisionError
    assert caught.value.__notes__ == ["bulk: 8 documents had been written before this."]
    assert len(stored(database)) == bulk.result.inserted_count == 8
    assert (await repository.save_many(models)) == SaveResult(2, 8)
    assert "BulkWriter(Counter, 'customers')" in repr(bulk.inner)


@pytest.mark.parametrize("ordered", [True, False])
async def test_failures_of_every_kind(driver: Driver, database: Db, *, ordered: bool) -> None:
    """Ordered: the first ends it. Otherwise all are told, each with its place."""
    repository = driver.repository(Counter)
    await saved(repository, counters(*range(5)))
    stale = await repository.load(0)
    revision = repository.revision(stale)
    await repository.update(0, {"count": 1})
    database.customers.update_one({"_id": 4}, {"$set": {"count": 66}})
    steps: list[tuple[type[Exception] | None, Callable[[Any], Any]]] = [
        (None, lambda bulk: bulk.update(2, {"count": 2})),
        (RevisionConflictError, lambda bulk: bulk.delete(0, revision=revision)),
        (None, lambda bulk: bulk.delete(3)),
        (DocumentNotFoundError, lambda bulk: bulk.update(99, {"count": 1})),
        (IntegrityError, lambda bulk: bulk.update(4, {"count": 1})),
        (None, lambda bulk: bulk.update(1, {"count": 2})),
        (RevisionConflictError, lambda bulk: bulk.save(stale)),
        (PayloadError, lambda bulk: bulk.save(unsealable(6))),
        (None, lambda bulk: bulk.save(Counter(id=7))),
    ]
    wrong = [place for place, (kind, _) in enumerate(steps) if kind is not None]
    while wrong:
        with pytest.raises((BulkSaveError, *filter(None, (kind for kind, _ in steps)))) as caught:  # noqa: PT012 - the block is what raises
            async with repository.bulk(ordered=ordered, batch_size=3) as bulk:
                for _, step in steps:
                    await step(bulk)
        assert bulk.result == caught.value.result
        failed = [(each.index, type(each)) for each in bulk.result.failed]
        assert failed == [(place, steps[place][0]) for place in (wrong[:1] if ordered else wrong)]
        if not ordered:
            break
        steps = [(kind, step) for place, (kind, step) in enumerate(steps) if place != wrong[0]]
        wrong = [place for place, (kind, _) in enumerate(steps) if kind is not None]
        if not wrong:
            break
    if ordered:
        async with repository.bulk() as bulk:
            await bulk.save(Counter(id=7))
    assert stored(database) == {0: 1, 1: 2, 2: 2, 4: 66, 7: 0}


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize(
    ("saves", "deletes", "were"),
    [(0, 2, "were deleted"), (2, 0, "were saved"), (2, 1, "were saved or deleted"), (0, 0, "were saved or deleted")],
)
async def test_what_was_done_is_said(driver: Driver, database: Db, saves: int, deletes: int, were: str, *, ordered: bool) -> None:
    """Saved, deleted, or both; and a conflict of a delete is told as one."""
    repository = driver.repository(Counter)
    stale = await repository.save(Counter(id=0))
    revision = repository.revision(stale)
    await repository.update(0, {"count": 1})
    await saved(repository, counters(10, 11))
    with pytest.raises((RevisionConflictError, BulkSaveError)) as caught:  # noqa: PT012 - the block is what raises
        async with repository.bulk(ordered=ordered) as bulk:
            for number in range(1, 1 + saves):
                await bulk.save(Counter(id=number))
            for number in range(10, 10 + deletes):
                await bulk.delete(number)
            await bulk.delete(0, revision=revision)
    said, place = str(caught.value), saves + deletes
    assert f"{place} before it {were}" in said if ordered else f"1 of {place + 1} failed, and {place} {were}." in said
    assert "not deleted: the document is of another revision" in said
    assert "not saved" not in said
    note = "written or deleted before" if deletes else "written before"
    with pytest.raises(ZeroDivisionError) as interrupted:  # noqa: PT012 - the block is what raises
        async with repository.bulk(batch_size=1) as bulk:
            for number in range(20, 20 + deletes):
                await repository.save(Counter(id=number))
                await bulk.delete(number)
            await bulk.save(Counter(id=30))
            await bulk.save(Counter(id=31))
            raise ZeroDivisionError
    assert interrupted.value.__notes__ == [f"bulk: {deletes + 1} documents had been {note} this."]


async def test_one_error_of_many_names_the_first(driver: Driver) -> None:
    """By its index and its ``_id``, cut as in every error; and the index alone where there is no id to be named."""
    repository = driver.repository(Counter)
    await saved(repository, counters(3, 5))
    with pytest.raises(BulkSaveError) as caught:
        await repository.save_many(counters(1, 3, 5), ordered=False)
    first = caught.value.result.failed[0]
    assert str(caught.value) == (
        "save_many: 2 of 3 failed, and 1 were saved. result.failed has an error for each. "
        f"The first, of index 1 and _id 3: {first.args[0]} [collection customers]"
    )
    assert (caught.value.index, caught.value.document_id) == (None, None)
    nameless = Counter(id=1)
    nameless.id = [1]  # type: ignore[assignment]  # what is wrong with it
    with pytest.raises(BulkSaveError, match="The first, of index 0: "):
        await repository.save_many([nameless], ordered=False)


@pytest.mark.parametrize("ordered", [True, False])
async def test_a_hook_may_refuse_without_a_word(driver: Driver, *, ordered: bool) -> None:
    """Then the kind of the error is the word."""

    class Refusing(Hooks[Counter]):
        def before_save(self, model: Counter) -> None:
            raise PayloadError

    with pytest.raises((PayloadError, BulkSaveError), match="PayloadError") as caught:
        await driver.repository(Counter, hooks=[Refusing()]).save_many(counters(1), ordered=ordered)
    assert caught.value.result.failed[0].index == 0


async def test_bulk_repeats_an_update(driver: Driver, database: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `update` does, where somebody wrote in between; and those after it have their turn."""
    repository, other = driver.repository(Counter), driver.repository(Counter)
    await saved(repository, counters(*range(4)))

    async def interfere() -> None:
        await other.update(1, {"notes": "theirs"})
        await other.delete(2)

    meanwhile(monkeypatch, interfere)
    with pytest.raises(DocumentNotFoundError) as caught:  # noqa: PT012 - the block is what raises
        async with repository.bulk() as bulk:
            for number in range(4):
                await bulk.update(number, {"count": 1})
    assert caught.value.index == 2
    monkeypatch.undo()
    assert (await repository.load(1)).notes == "theirs"
    assert {number: count for number, count in stored(database).items() if count} in ({0: 1, 1: 1}, {0: 1, 1: 1, 3: 1})
    assert bulk.result.replaced_count == sum(stored(database).values())


async def test_what_is_no_id_and_no_change(driver: Driver, database: Db) -> None:
    """It is refused where it is said, and never taken for a delete."""
    repository = driver.repository(Counter)
    await repository.save(Counter(id=1))
    for wrong in (
        lambda bulk: bulk.update(1, None),
        lambda bulk: bulk.update(1, 5),
        lambda bulk: bulk.delete({"$ne": 1}),
        lambda bulk: bulk.update("x", {"count": 1}),
    ):
        with pytest.raises(QueryError):
            async with repository.bulk() as bulk:
                await wrong(bulk)
    assert stored(database) == {1: 0}


async def test_bulk_in_a_transaction(driver: Driver, database: Db) -> None:
    """All of it is done in it, and undone with it."""
    repository = driver.repository(Counter)
    await saved(repository, counters(*range(4)))
    new = Counter(id=9)
    for commit in (False, True):
        async with driver.transaction(commit=commit) as session:
            async with repository.bulk(session=session) as bulk:
                await bulk.save(new)
                await bulk.update(1, {"count": 5})
                await bulk.delete(2)
            assert bulk.result == SaveResult(1, 1, (), 1)
        assert stored(database) == ({0: 0, 1: 5, 3: 0, 9: 0} if commit else dict.fromkeys(range(4), 0))


async def test_an_error_that_was_swallowed_is_raised_again(driver: Driver, database: Db) -> None:
    """Whoever goes on after an ordered bulk has failed gets the same error at its end, and nothing more is written."""
    repository = driver.repository(Counter)
    with pytest.raises(PayloadError) as caught:  # noqa: PT012 - the block is what raises
        async with repository.bulk() as bulk:
            with pytest.raises(PayloadError):
                await bulk.save(unsealable(1))
            await bulk.save(Counter(id=2))
    assert str(caught.value).count("before it were saved") == 1
    assert stored(database) == {}


async def test_a_delete_whose_reply_is_lost(driver: Driver, server: embedded.Server, fail_command: Fail) -> None:
    """It is not sent again by us: what it would delete then might be another document."""
    async with driver.another_client(server.uri, retryWrites=False, appName="fails") as client:
        repository = driver.repository(Counter, driver.collection(client=client))
        await saved(repository, counters(1, 2))
        fail_command(["delete"], closeConnection=True)
        with pytest.raises(AutoReconnect) as caught:  # noqa: PT012 - the block is what raises
            async with repository.bulk() as bulk:
                await bulk.delete(1)
                await bulk.delete(2)
        assert caught.value.__notes__ == [
            "bulk: 0 documents had been written before this. Of those from index 0 to 1 it is unknown."
        ]


async def test_an_update_that_is_repeated_and_lost(
    driver: Driver, server: embedded.Server, fail_command: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pymongo's error, with a note of which document it is."""
    async with driver.another_client(server.uri, retryWrites=False, appName="fails") as client:
        repository, other = driver.repository(Counter, driver.collection(client=client)), driver.repository(Counter)
        await saved(repository, counters(1, 2, 3))

        async def interfere() -> None:
            await other.update(2, {"notes": "theirs"})

        meanwhile(monkeypatch, interfere)
        real = bulk.Bulk.repeat

        async def repeat(flows: Any, run: Any, chunk: Any, *, last: bool) -> bool:
            fail_command(["update"], closeConnection=True)
            return await real(flows, run, chunk, last=last)

        monkeypatch.setattr(bulk.Bulk, "repeat", repeat)
        with pytest.raises(AutoReconnect) as caught:
            await repository.update_many({}, {"count": 5})
        (note,) = caught.value.__notes__
        assert note == "update_many: 1 documents had been written before this. Of that with index 1 it is unknown."
