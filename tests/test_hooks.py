"""Hooks: what is called when, with what, and what becomes of what they raise; on every path that saves, loads or deletes."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from bson.raw_bson import RawBSONDocument
from conftest import Driver
from pydantic import BaseModel, Field
from pymongo.database import Database
from pymongo.errors import AutoReconnect

from mongo_envelope import (
    AsyncRepository,
    BlindIndex,
    Bucket,
    BulkSaveError,
    ConfigurationError,
    DocumentNotFoundError,
    EnvelopeError,
    Hooks,
    IntegrityError,
    KeyRing,
    MalformedEnvelopeError,
    PayloadError,
    Queryable,
    QueryError,
    Repository,
    RepositoryError,
    RevisionConflictError,
    Sensitive,
    UnknownKeyError,
)
from mongo_envelope.bridge import settle
from mongo_envelope.envelope import CODEC_OPTIONS
from mongo_envelope.hooks import Listeners

Db = Database[dict[str, Any]]
RAW: Any = CODEC_OPTIONS.with_options(document_class=RawBSONDocument)


class Item(BaseModel):
    id: int
    rank: Annotated[int, Queryable()] = 0
    email: Annotated[str, Sensitive(index=BlindIndex())] = ""
    age: Annotated[int, Sensitive(index=Bucket(width=10, low=0, high=100))] = 0
    text: str = Field(default="", max_length=20)


class Spy(Hooks[BaseModel]):
    """Notes what it is told. ``after`` is what it does on top of that, by event."""

    def __init__(self, **after: Callable[[Any], Any]) -> None:
        self.told: list[Any] = []
        self.after = after

    def _note(self, event: str, what: Any) -> Any:
        name = what.id if isinstance(what, BaseModel) else type(what) if isinstance(what, Exception) else what
        self.told.append((event, name))
        return self.after.get(event, lambda _: None)(what)

    def before_save(self, model: BaseModel) -> None:
        self._note("before_save", model)

    def after_save(self, model: BaseModel) -> None:
        self._note("after_save", model)

    def before_load(self, what: Any) -> None:
        self._note("before_load", what)

    def after_load(self, model: BaseModel) -> None:
        self._note("after_load", model)

    def before_delete(self, id: Any) -> None:
        self._note("before_delete", id)

    def after_delete(self, id: Any) -> None:
        self._note("after_delete", id)

    def integrity_failure(self, error: EnvelopeError) -> None:
        self._note("integrity_failure", error)

    def taken(self) -> list[Any]:
        """What it has been told since this was asked last."""
        told, self.told = self.told, []
        return told


EVENTS = list(Listeners.__slots__)


def as_coroutines(spy: Spy) -> Hooks[BaseModel]:
    """The same, of coroutine functions which really wait."""

    def body(event: str) -> Any:
        async def listen(self: Any, what: Any) -> None:
            await asyncio.sleep(0)
            spy._note(event, what)

        return listen

    return type("Waiting", (Hooks,), {event: body(event) for event in EVENTS})()


def one_hook(driver: Driver, event: str, body: Any) -> Hooks[BaseModel]:
    """Hooks for one event, of a body that uses a repository: a coroutine function for the async driver."""

    async def listen(self: Any, what: Any) -> None:
        await body(what)

    return type("One", (Hooks,), {event: driver.function(listen)})()


@pytest.fixture(params=["plain", "coroutine"])
def listening(request: pytest.FixtureRequest, driver: Driver) -> Callable[[Spy], Any]:
    """A repository with this spy; over the async driver also with coroutine functions."""
    if request.param == "coroutine" and not driver.is_async:
        return lambda spy: driver.repository(Item, hooks=(spy,))
    return lambda spy: driver.repository(Item, hooks=[spy if request.param == "plain" else as_coroutines(spy)])


async def with_items(driver: Driver, count: int = 4) -> None:
    await driver.repository(Item).save_many([Item(id=n, rank=n, email=f"{n}@x", age=n) for n in range(count)])


def saved(*ids: int) -> list[Any]:
    return [("before_save", id) for id in ids] + [("after_save", id) for id in ids]


def loaded(what: Any, *ids: int) -> list[Any]:
    return [("before_load", what), *(("after_load", id) for id in ids)]


# --- saving -------------------------------------------------------------------------------------------------------------


async def test_save_of_each_kind(listening: Any) -> None:
    """An insert, a replace, one over whatever is there and one over a revision: before, and after."""
    spy = Spy()
    items = listening(spy)
    one = await items.save(Item(id=1))
    await items.save(one)
    await items.save(Item(id=1), overwrite=True)
    await items.save(Item(id=1), revision=items.revision(await items.find_one(fields=None)))
    assert [each for each in spy.told if "save" in each[0]] == saved(1) * 4


async def test_save_many_tells_of_each_instance_once(listening: Any) -> None:
    """New ones and loaded ones, and one that is given twice."""
    spy = Spy()
    items = listening(spy)
    old = await items.save(Item(id=1))
    spy.taken()
    new = Item(id=2)
    await items.save_many([old, new, new, Item(id=3)])
    told = spy.taken()
    assert sorted(told) == sorted(saved(1, 2, 3))
    for each in (1, 2, 3):
        assert told.index(("before_save", each)) < told.index(("after_save", each))


async def test_a_hook_changes_what_is_saved(driver: Driver) -> None:
    """before_save sees the instance before it is validated and sealed; what it assigns is stored, and found."""

    def stamp(item: Any) -> None:
        item.rank, item.email = 7, "stamped@x"

    items = driver.repository(Item, hooks=[Spy(before_save=stamp)])
    one = await items.save(Item(id=1))
    await items.save_many([Item(id=2)])
    await driver.repository(Item).save(Item(id=3))
    updated = await items.update(3, {"text": "t"})
    assert (one.rank, updated.rank, updated.text) == (7, 7, "t")
    assert [each.id for each in await items.find({"rank": 7, "email": "stamped@x"}).sort("id").to_list()] == [1, 2, 3]


async def test_a_hook_refuses_before_anything_is_sent(driver: Driver, database: Db) -> None:
    """Its own error comes out, nothing is stored, and no hook after it is called."""

    def refuse(item: Any) -> None:
        if item.rank:
            raise LookupError("not that one")

    spy, later = Spy(before_save=refuse), Spy()
    items = driver.repository(Item, hooks=[spy, later])
    for attempt in (lambda: items.save(Item(id=1, rank=1)), lambda: items.save_many([Item(id=1), Item(id=2, rank=1)])):
        with pytest.raises(LookupError, match="not that one") as caught:
            await attempt()
        assert caught.value.__context__ is None
    assert database.customers.count_documents({}) == 0
    assert "after_save" not in dict(spy.told + later.told)


async def test_what_raises_after_a_save_loses_nothing(driver: Driver) -> None:
    """It is written, the instance remembers its revision, and is saved again without a conflict."""
    broken = [True]

    def fail(_: Any) -> None:
        if broken[0]:
            raise LookupError("no queue")

    items = driver.repository(Item, hooks=[Spy(after_save=fail)])
    one, two = Item(id=1), Item(id=2)
    with pytest.raises(LookupError, match="no queue"):
        await items.save(one)
    with pytest.raises(LookupError, match="no queue"):
        await items.save_many([two])
    with pytest.raises(LookupError, match="no queue"):
        await items.update(1, {"text": "once"})
    assert (await items.load(1)).text == "once"
    broken[0] = False
    await items.save(two)
    with pytest.raises(RevisionConflictError):
        await items.save(one)  # as update has written in between


async def test_after_an_unknown_outcome_nothing_is_told(driver: Driver, server: Any, fail_command: Any) -> None:
    """after_save means that it is known to be written: it comes with the save that is acknowledged."""
    spy = Spy()
    async with driver.another_client(server.uri, appName="fails", retryWrites=False) as client:
        items = driver.repository(Item, driver.collection(client=client), hooks=[spy])
        one = Item(id=1)
        fail_command(["insert"], closeConnection=True)
        with pytest.raises(AutoReconnect):
            await items.save(one)
        assert spy.taken() == [("before_save", 1)]
        await items.save(one)
        assert spy.taken() == saved(1)
        fail_command(["delete"], closeConnection=True)
        with pytest.raises(AutoReconnect):
            await items.delete(1)
        assert spy.taken() == [("before_delete", 1)]


async def test_of_some_that_fail_only_those_written_are_told(driver: Driver) -> None:
    """A batch that meets a document that is there, and a conflict: after_save comes for those before it alone."""
    spy = Spy()
    items = driver.repository(Item, hooks=[spy])
    await driver.repository(Item).save(Item(id=2))
    with pytest.raises(RevisionConflictError):
        await items.save_many([Item(id=1), Item(id=2), Item(id=3)])
    assert [each for each in spy.taken() if each[0] == "after_save"] == [("after_save", 1)]
    with pytest.raises(RevisionConflictError):
        await items.save(Item(id=2))
    with pytest.raises(PayloadError):
        await items.save(Item.model_construct(id=4, rank=None))
    assert spy.taken() == [("before_save", 2), ("before_save", 4)]


async def test_what_is_no_instance_is_refused_as_before(driver: Driver) -> None:
    """A hook is not given a dict that somebody tries to save."""
    spy = Spy()
    with pytest.raises(PayloadError):
        await driver.repository(Item, hooks=[spy]).save({"id": 1})
    assert spy.told == []


async def test_an_update_loads_and_saves(listening: Any, driver: Driver) -> None:
    """Both pairs are called, in both forms; a function that raises has loaded only."""
    spy = Spy()
    items = listening(spy)
    await with_items(driver)
    await items.update(1, {"text": "a"})
    assert spy.taken() == loaded(1, 1) + saved(1)
    await items.update(1, lambda item: item.model_copy(update={"text": "b"}))
    assert spy.taken() == loaded(1, 1) + saved(1)

    def stop(item: Any) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        await items.update(1, stop)
    assert spy.taken() == loaded(1, 1)


async def test_an_update_repeats_its_hooks_and_validates_what_they_did(driver: Driver) -> None:
    """After a conflict it begins again, hooks included; what a hook makes of the instance has to load again."""
    plain = driver.repository(Item)
    await plain.save(Item(id=1))
    meddle = [True]

    async def write_in_between(item: Any) -> None:
        if meddle.pop() if meddle else False:
            await plain.update(1, {"rank": 5})

    spy = Spy()

    items = driver.repository(Item, hooks=[spy, one_hook(driver, "before_save", write_in_between)])
    updated = await items.update(1, {"text": "t"})
    assert (updated.rank, updated.text) == (5, "t")
    assert spy.taken() == [*loaded(1, 1), ("before_save", 1), *loaded(1, 1), *saved(1)]

    def spoil(item: Any) -> None:
        item.text = "far too long for this model"

    spoiling = driver.repository(Item, hooks=[Spy(before_save=spoil)])
    for changes in ({"rank": 6}, lambda item: None):
        with pytest.raises(QueryError, match="do not fit the model"):
            await spoiling.update(1, changes)

    def move(item: Any) -> None:
        item.id = 9

    with pytest.raises(QueryError, match="or a hook, changed the id"):
        await driver.repository(Item, hooks=[Spy(before_save=move)]).update(1, {"rank": 6})


async def test_errors_of_ours_from_a_hook_are_the_hooks_own(driver: Driver) -> None:
    """A RevisionConflictError of a hook does not make update begin again, nor an EnvelopeError find leave a document out."""
    await with_items(driver)

    def conflict(_: Any) -> None:
        raise RevisionConflictError("of a hook")

    def wrong(_: Any) -> None:
        raise EnvelopeError("of a hook")

    for event in ("before_save", "after_save", "after_load"):
        spy = Spy(**{event: conflict})
        with pytest.raises(RevisionConflictError, match="of a hook"):
            await driver.repository(Item, hooks=[spy]).update(1, {"text": "t"})
        assert [name for name, _ in spy.told].count("before_load") == 1
    spy = Spy(after_load=wrong)
    with pytest.raises(EnvelopeError, match="of a hook"):
        await driver.repository(Item, hooks=[spy]).find(on_invalid="skip").to_list()
    assert "integrity_failure" not in dict(spy.told)


async def test_in_a_transaction_a_save_is_told_before_the_commit(driver: Driver, database: Db) -> None:
    """So what after_save was told of may be undone."""
    spy = Spy()
    items = driver.repository(Item, hooks=[spy])
    await driver.repository(Item).save(Item(id=1))
    async with driver.transaction(commit=False) as session:
        await items.save(Item(id=2), session=session)
        await items.update(1, {"rank": 5}, session=session)
        await items.delete(1, session=session)
    assert [name for name, _ in spy.told if name.startswith("after")] == ["after_save", "after_load", "after_save", "after_delete"]
    assert [each["_id"] for each in database.customers.find()] == [1]


# --- many -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])
async def test_save_many_of_several_chunks(listening: Any, ordered: bool) -> None:
    """Each instance before it is sealed and after its chunk is written, in the order of the instances."""
    spy = Spy()
    await listening(spy).save_many((Item(id=n) for n in range(10)), batch_size=3, ordered=ordered)
    told = spy.taken()
    assert [id for event, id in told if event == "before_save"] == list(range(10))
    assert [id for event, id in told if event == "after_save"] == list(range(10))
    assert told.index(("after_save", 0)) < told.index(("before_save", 9))


async def test_many_are_told_in_the_thread_and_task_of_the_caller(driver: Driver) -> None:
    """Whatever runs beside it: a hook of a sync repository need not be safe for threads."""
    threads, tasks = set(), set()

    def note(_: Any) -> None:
        threads.add(threading.current_thread())
        tasks.add(asyncio.current_task())

    items = driver.repository(Item, hooks=[Spy(before_save=note, after_save=note, before_load=note, after_load=note)])
    await items.save_many((Item(id=n) for n in range(10)), batch_size=3)
    await items.find(batch_size=2).to_list()
    await items.update_many({}, {"text": "t"}, batch_size=3)
    assert threads == {threading.current_thread()}
    assert tasks == {asyncio.current_task()}


async def test_save_many_that_fails_tells_of_what_was_written(driver: Driver) -> None:
    """Ordered: of those before it. Unordered: of all others. With the failure, as without hooks, and without a context."""
    await driver.repository(Item).save(Item(id=4))
    for ordered, written in ((True, [0, 1, 2, 3]), (False, [10, 11, 12, 13, 15])):
        spy = Spy()
        items = driver.repository(Item, hooks=[spy])
        given = [Item(id=n + (0 if ordered or n == 4 else 10)) for n in range(6)]
        with pytest.raises(RepositoryError if ordered else BulkSaveError) as caught:
            await items.save_many(given, batch_size=2, ordered=ordered)
        assert caught.value.__context__ is None
        assert [id for event, id in spy.taken() if event == "after_save"] == written


async def test_a_hook_refuses_one_of_many_or_all(driver: Driver) -> None:
    """An EnvelopeError is the failure of that document, as one that cannot be sealed is; any other error ends the call."""

    def refuse(item: Any) -> None:
        if item.rank:
            raise (PayloadError if item.rank == 1 else LookupError)("not that one")

    for ordered, written in ((True, [0, 1]), (False, [0, 1, 3, 4])):
        spy = Spy(before_save=refuse)
        items = driver.repository(Item, hooks=[spy])
        with pytest.raises(PayloadError if ordered else BulkSaveError, match="not that one") as caught:
            await items.save_many((Item(id=n, rank=n == 2) for n in range(5)), ordered=ordered)
        assert [(each.index, each.document_id) for each in caught.value.result.failed] == [(2, "2")]
        assert [id for event, id in spy.taken() if event == "after_save"] == written
        await items.delete_many({})
    spy.taken()
    with pytest.raises(LookupError) as other:
        await items.save_many((Item(id=n, rank=2 * (n == 5)) for n in range(9)), batch_size=2, ordered=False)
    assert other.value.__context__ is None
    stored = sorted(each.id for each in await driver.repository(Item).find().to_list())
    assert stored == [id for event, id in spy.taken() if event == "after_save"] == [0, 1, 2, 3]


async def test_a_hook_that_fails_after_many_ends_the_call(driver: Driver) -> None:
    """What was written stays, and its instances know it; the hooks are not told of the rest."""
    broken = [True]

    def fail(item: Any) -> None:
        if item.id == 1 and broken[0]:
            raise LookupError("no queue")

    spy = Spy(after_save=fail)
    items, given = driver.repository(Item, hooks=[spy]), [Item(id=n) for n in range(4)]
    with pytest.raises(LookupError, match="no queue") as caught:
        await items.save_many(given)
    assert caught.value.__context__ is None
    assert [id for event, id in spy.taken() if event == "after_save"] == [0, 1]
    broken[0] = False
    assert (await items.save_many(given)).replaced_count == 4


async def test_update_many_loads_and_saves(listening: Any, driver: Driver) -> None:
    """The filter before, each model, and each change, of several chunks."""
    await with_items(driver)
    spy = Spy()
    assert (await listening(spy).update_many({"rank": {"$gte": 1}}, {"text": "t"}, batch_size=2)).modified_count == 3
    told = spy.taken()
    assert told[0] == ("before_load", {"rank": {"$gte": 1}})
    for event in ("after_load", "before_save", "after_save"):
        assert [id for each, id in told if each == event] == [1, 2, 3]


@pytest.mark.parametrize("how", ["update_many", "bulk"])
async def test_an_update_among_many_that_is_repeated(driver: Driver, how: str) -> None:
    """After a conflict one document is loaded again, and told so by its id; it is told as saved once."""
    plain = driver.repository(Item)
    await with_items(driver, 2)
    meddle = [True]

    async def write_in_between(item: Any) -> None:
        if item.id == 1 and meddle:
            meddle.clear()
            await plain.update(1, {"rank": 7})

    spy = Spy()
    items = driver.repository(Item, hooks=[spy, one_hook(driver, "before_save", write_in_between)])
    if how == "bulk":
        async with items.bulk() as bulk:
            for id in (0, 1):
                await bulk.update(id, {"text": "t"})
        first: Any = [0, 1]
    else:
        await items.update_many({}, {"text": "t"})
        first = {}
    told = spy.taken()
    assert [what for event, what in told if event == "before_load"] == [first, 1]
    assert [id for event, id in told if event == "before_save"] == [0, 1, 1]
    assert sorted(id for event, id in told if event == "after_save") == [0, 1]
    changed = await plain.load(1)
    assert (changed.rank, changed.text) == (7, "t")


async def test_bulk_tells_of_each_kind(listening: Any, driver: Driver, database: Db) -> None:
    """Saves, updates and deletes, these with their ids; of what was tampered with, too."""
    await with_items(driver, 5)
    database.customers.update_one({"_id": 3}, {"$set": {"rank": 0}})
    spy = Spy()

    async def several() -> None:
        async with listening(spy).bulk(ordered=False) as bulk:
            await bulk.save(Item(id=9))
            for id in (2, 3):
                await bulk.update(id, {"text": "t"})
            for id in (0, 7):
                await bulk.delete(id)
            await bulk.delete(1, revision="*")

    with pytest.raises(BulkSaveError):
        await several()
    assert sorted(spy.taken(), key=str) == sorted(
        [
            *saved(9),
            *loaded([2, 3], 2),
            *saved(2),
            ("integrity_failure", IntegrityError),
            *(("before_delete", id) for id in (0, 1, 7)),
            ("after_delete", 0),
        ],
        key=str,
    )


async def test_a_hook_that_fails_after_a_delete_of_many(driver: Driver) -> None:
    """Also with an error of ours it is the hook's own, and not the failure of a document that is gone."""
    await with_items(driver, 2)

    def fail(_: Any) -> None:
        raise DocumentNotFoundError("of a hook")

    async def several() -> None:
        async with driver.repository(Item, hooks=[Spy(after_delete=fail)]).bulk(ordered=False) as bulk:
            await bulk.delete(0)
            await bulk.delete(1)

    with pytest.raises(DocumentNotFoundError, match="of a hook"):
        await several()
    assert [each.id for each in await driver.repository(Item).find().to_list()] == [1]


# --- loading ------------------------------------------------------------------------------------------------------------


async def test_each_way_to_load(listening: Any, driver: Driver) -> None:
    """Before the server is asked, with what the caller gave; and each model before it is handed out."""
    spy = Spy()
    items = listening(spy)
    await with_items(driver)
    await items.load(1)
    assert spy.taken() == loaded(1, 1)
    await items.load_many([2, 1, 2])
    assert spy.taken() == loaded([2, 1, 2], 2, 1)
    for where in ({"rank": 2}, {"email": "2@x"}, {"age": {"$gte": 2}, "id": 2}):
        await items.find_one(where)
        assert spy.taken() == loaded(where, 2)
        await items.find(where).to_list()
        assert spy.taken() == loaded(where, 2)
        await items.find(where).first()
        assert spy.taken() == loaded(where, 2)
    await items.find(sort="id", batch_size=2).to_list()
    assert spy.taken() == loaded(None, 0, 1, 2, 3)
    pipeline = [{"$match": {"rank": {"$lt": 2}}}, {"$sort": {"rank": -1}}]
    await settle((await items.aggregate(pipeline)).to_list())
    assert spy.taken() == loaded(pipeline, 1, 0)
    await items.find_one({"rank": 9})
    assert spy.taken() == loaded({"rank": 9})
    with pytest.raises(DocumentNotFoundError):
        await items.load_many([1, 9])
    assert spy.taken() == loaded([1, 9])


async def test_what_reads_no_model_tells_nothing(driver: Driver) -> None:
    """Metadata, dicts of a pipeline, counting, verifying, reindexing, the raw content."""
    await with_items(driver)
    spy = Spy()
    items = driver.repository(Item, hooks=[spy])
    await items.find(fields="metadata").to_list()
    await items.find_one(fields="metadata")
    await settle((await items.aggregate([{"$group": {"_id": "$rank"}}])).to_list())
    for where in ({"rank": 1}, {"age": {"$lt": 2}}):
        await items.count(where)
        await items.exists(where)
        await items.distinct("rank", where)
    await items.verify()
    await items.reindex(every=True)
    await items.doctor()
    items.mend(await items.load_raw(1))
    assert spy.told == []


async def test_a_cursor_tells_when_it_is_asked(driver: Driver) -> None:
    """before_load comes with the first document, once; a hook that refuses it refuses again; after_load comes one by one."""
    await with_items(driver)
    spy = Spy()
    cursor = driver.repository(Item, hooks=[spy]).find(sort="id")
    assert spy.told == []
    await anext(cursor)
    assert spy.told == loaded(None, 0)
    await anext(cursor)
    assert spy.told == loaded(None, 0, 1)

    def refuse(_: Any) -> None:
        raise LookupError("closed")

    cursor = driver.repository(Item, hooks=[Spy(before_load=refuse)]).find()
    for _ in range(2):
        with pytest.raises(LookupError, match="closed"):
            await anext(cursor)


async def test_after_load_may_change_and_refuse(driver: Driver) -> None:
    """What it assigns is what the caller sees; where it raises, the loop can go on with the next one."""
    await with_items(driver)

    def look(item: Any) -> None:
        if item.rank == 1:
            raise LookupError("not for you")
        item.text = "seen"

    items = driver.repository(Item, hooks=[Spy(after_load=look)])
    assert (await items.load(0)).text == "seen"
    assert (await items.find_one({"email": "2@x"})).text == "seen"
    cursor, seen = items.find(sort="id", skip=0, limit=3), []
    for _ in range(3):
        try:
            seen.append((await anext(cursor)).id)
        except LookupError:
            seen.append("refused")
    assert seen == [0, "refused", 2]
    with pytest.raises(StopAsyncIteration):
        await anext(cursor)


async def test_skip_and_limit_of_what_is_sifted(driver: Driver) -> None:
    """Only what is handed out is told."""
    await with_items(driver)
    spy = Spy()
    found = await driver.repository(Item, hooks=[spy]).find({"age": {"$gte": 1}}, sort="id", skip=1, limit=1).to_list()
    assert [each.id for each in found] == [2]
    assert spy.told == loaded({"age": {"$gte": 1}}, 2)


async def test_a_change_stream_hands_out_models(listening: Any, driver: Driver, database: Db) -> None:
    """The filter when it is opened, each model of an event, and what was written past the repository."""
    await driver.repository(Item).save(Item(id=1))
    spy = Spy()
    async with await listening(spy).watch({"rank": 0}, on_invalid="skip", max_await_time_ms=50) as stream:
        assert spy.taken() == [("before_load", {"rank": 0})]
        await driver.repository(Item).save(Item(id=2))
        database.customers.update_one({"_id": 1}, {"$set": {"text": "plain"}})
        await driver.repository(Item).delete(1)
        await driver.repository(Item).save(Item(id=3))
        seen: list[Any] = []
        while len(seen) < 3:
            seen += [change] if (change := await stream.try_next()) is not None else []
    assert [each.operation for each in seen] == ["insert", "delete", "insert"]
    assert spy.taken() == [("after_load", 2), ("integrity_failure", IntegrityError), ("after_load", 3)]


# --- deleting -----------------------------------------------------------------------------------------------------------


async def test_delete(listening: Any, driver: Driver) -> None:
    """Before in any case, after if there was one; a refusal keeps the document."""
    await with_items(driver)
    spy = Spy()
    items = listening(spy)
    assert await items.delete(1)
    assert spy.taken() == [("before_delete", 1), ("after_delete", 1)]
    assert not await items.delete(1)
    assert spy.taken() == [("before_delete", 1)]
    with pytest.raises(RevisionConflictError):
        await items.delete(2, revision="*")
    assert spy.taken() == [("before_delete", 2)]

    def refuse(_: Any) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        await driver.repository(Item, hooks=[Spy(before_delete=refuse)]).delete(2)
    assert await items.exists({"id": 2})


@pytest.mark.parametrize("where", [{"rank": {"$lt": 2}}, {"age": {"$lt": 2}}], ids=["clear", "sifted"])
async def test_delete_many_with_hooks_knows_each(listening: Any, driver: Driver, where: Any) -> None:
    """One by one, each with its id; and no hook of loading is called."""
    await with_items(driver)
    spy = Spy()
    assert await listening(spy).delete_many(where) == 2
    assert sorted(spy.taken()) == sorted((event, id) for id in (0, 1) for event in ("before_delete", "after_delete"))
    assert await driver.repository(Item).count() == 2


async def test_delete_many_is_one_command_if_nobody_listens(driver: Driver, database: Db) -> None:
    """Hooks of other events change nothing; with one of deleting, what was tampered with is not deleted unseen."""
    await with_items(driver)
    database.customers.update_one({"_id": 1}, {"$set": {"rank": 0}})

    class Saving(Hooks[Item]):
        def before_save(self, model: Item) -> None: ...

    spy = Spy()
    with pytest.raises(IntegrityError):
        await driver.repository(Item, hooks=[spy]).delete_many({"rank": {"$lt": 2}})
    assert ("integrity_failure", IntegrityError) in spy.told
    await driver.repository(Item, hooks=[Saving()]).delete_many({"rank": {"$lt": 2}})
    assert await driver.repository(Item).count() == 2


async def test_delete_many_leaves_what_changed_in_between(driver: Driver) -> None:
    """It is deleted at the revision that was looked at; by a collation the answer is not checked again."""
    plain = driver.repository(Item)
    await with_items(driver, 2)

    async def write(id: Any) -> None:
        if id == 0:
            await plain.update(0, {"text": "newer"})

    spy = Spy()
    collation = {"locale": "en", "strength": 2}
    assert (
        await driver.repository(Item, hooks=[one_hook(driver, "before_delete", write), spy]).delete_many(
            {"rank": {"$in": [0, 1]}}, collation=collation
        )
        == 1
    )
    assert (await plain.load(0)).text == "newer"
    assert [each for each in spy.told if each[0] == "after_delete"] == [("after_delete", 1)]


# --- integrity failures -------------------------------------------------------------------------------------------------

#: Each way to meet a document that was edited. `1` is.
MEETINGS: dict[str, Callable[[Any], Any]] = {
    "load": lambda items: items.load(1),
    "load_raw": lambda items: items.load_raw(1),
    "load_many": lambda items: items.load_many([0, 1]),
    "update": lambda items: items.update(1, {"text": "t"}),
    "find_one": lambda items: items.find_one({"id": 1}),
    "find_one by a blind index": lambda items: items.find_one({"email": "1@x"}),
    "find_one sifted": lambda items: items.find_one({"id": 1, "age": {"$lt": 5}}),
    "find": lambda items: items.find().to_list(),
    "find sifted": lambda items: items.find({"age": {"$lt": 5}}).to_list(),
    "metadata": lambda items: items.find(fields="metadata").to_list(),
    "metadata of one": lambda items: items.find_one({"id": 1}, fields="metadata"),
    "count sifted": lambda items: items.count({"age": {"$lt": 5}}),
    "exists sifted": lambda items: items.exists({"id": 1, "age": {"$lt": 5}}),
    "distinct sifted": lambda items: items.distinct("rank", {"age": {"$lt": 5}}),
    "delete_many sifted": lambda items: items.delete_many({"age": {"$lt": 5}}),
    "verify": lambda items: items.verify(),
    "reindex": lambda items: items.reindex(every=True),
}


@pytest.mark.parametrize("how", MEETINGS)
async def test_an_integrity_failure_is_told_however_it_is_met(listening: Any, driver: Driver, database: Db, how: str) -> None:
    """Once, with the error that is raised then, which has no context."""
    await with_items(driver, 2)
    database.customers.update_one({"_id": 1}, {"$set": {"rank": 0}})
    errors: list[Exception] = []
    spy = Spy(integrity_failure=errors.append)
    with pytest.raises(IntegrityError) as caught:
        await MEETINGS[how](listening(spy))
    assert errors == [caught.value]
    assert caught.value.document_id == "1"
    assert caught.value.__context__ is None


@pytest.mark.parametrize("on_invalid", ["skip", "function"])
async def test_what_is_left_out_is_told(listening: Any, driver: Driver, database: Db, on_invalid: str) -> None:
    """Whatever on_invalid says; an unknown key and a model that has changed are no integrity failures."""
    await with_items(driver, 5)
    database.customers.update_one({"_id": 1}, {"$set": {"rank": 0}})
    database.customers.replace_one({"_id": 2}, {"rank": 2, "text": "plain"})
    await driver.repository(Item, keys=KeyRing.generate()).save(Item(id=3), overwrite=True)
    wide = await driver.repository(Item).load(4)
    wide.text = "longer than the model allows"
    await driver.repository(Item).save(wide)
    spy, seen = Spy(), list[Any]()
    how = "skip" if on_invalid == "skip" else seen.append
    items = listening(spy)
    assert [each.id for each in await items.find(sort="id", on_invalid=how).to_list()] == [0]
    failures = [("integrity_failure", IntegrityError), ("integrity_failure", MalformedEnvelopeError)]
    assert spy.taken() == [("before_load", None), ("after_load", 0), *failures]
    assert await items.verify(on_invalid=how) == 1
    assert spy.taken() == failures
    await items.reindex(every=True, on_invalid=how)
    assert spy.taken() == failures
    if on_invalid == "function":
        assert {UnknownKeyError, PayloadError, IntegrityError} <= {type(each) for each in seen}
    for id, error in ((3, UnknownKeyError), (4, PayloadError)):
        with pytest.raises(error):
            await items.load(id)
        with pytest.raises(error):
            await items.find({"id": id}).to_list()
    assert "integrity_failure" not in dict(spy.taken())


async def test_a_genuine_answer_to_another_question_is_told(driver: Driver, database: Db, proxy: Any, server: Any) -> None:
    """A server that swaps documents: the same event."""
    await with_items(driver, 2)
    zero, one = (bytes(each.raw) for each in database.get_collection("customers", codec_options=RAW).find().sort("_id"))
    spy = Spy()
    async with driver.another_client(proxy.uri) as client:
        items = driver.repository(Item, driver.collection(client=client), hooks=[spy])
        await items.load(0)
        spy.taken()
        proxy.swap = (zero, one)
        with pytest.raises(IntegrityError, match="another document"):
            await items.load(0)
        assert spy.taken() == [("before_load", 0), ("integrity_failure", IntegrityError)]
        with pytest.raises(IntegrityError, match="does not match the filter"):
            await items.find_one({"rank": 0})
        assert ("integrity_failure", IntegrityError) in spy.taken()


async def test_an_integrity_hook_that_raises_has_the_last_word(driver: Driver, database: Db) -> None:
    """Its error comes instead, also where the document would have been left out."""
    await with_items(driver, 2)
    database.customers.update_one({"_id": 1}, {"$set": {"rank": 0}})

    def alarm(error: Any) -> None:
        raise LookupError(error.document_id)

    items = driver.repository(Item, hooks=[Spy(integrity_failure=alarm)])
    for attempt in (lambda: items.load(1), lambda: items.find(on_invalid="skip").to_list(), items.verify):
        with pytest.raises(LookupError, match="1") as caught:
            await attempt()
        assert caught.value.__context__ is None


# --- several, and what is refused ---------------------------------------------------------------------------------------


async def test_several_are_called_in_their_order(driver: Driver) -> None:
    """Before and after alike; and they go along with with_options."""
    order: list[str] = []
    hooks = [
        Spy(before_save=lambda _: order.append("one"), after_save=lambda _: order.append("one")),
        Spy(before_save=lambda _: order.append("two"), after_save=lambda _: order.append("two")),
    ]
    await driver.repository(Item, hooks=hooks).with_options().save(Item(id=1))
    assert order == ["one", "two"] * 2


async def test_a_coroutine_function_on_the_wrong_repository(driver: Driver, database: Db) -> None:
    """Refused when the repository is built; a plain method that gives a coroutine, when it is called. Never silently dropped."""

    class Waits(Hooks[Item]):
        async def before_save(self, model: Item) -> None: ...

    class GivesCoroutine(Hooks[Item]):
        def before_save(self, model: Item) -> Any:
            return Waits().before_save(model)

    if driver.is_async:
        await driver.repository(Item, hooks=[Waits(), GivesCoroutine()]).save(Item(id=1))
        return
    with pytest.raises(ConfigurationError, match=r"Waits\.before_save is a coroutine function"):
        driver.repository(Item, hooks=[Waits()])
    with pytest.raises(QueryError, match="cannot be waited for"):
        await driver.repository(Item, hooks=[GivesCoroutine()]).save(Item(id=1))
    assert database.customers.count_documents({}) == 0


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (Spy(), "takes a list"),
        (None, "takes a list"),
        ([Spy], "the class Spy, not an instance"),
        ([print], "this is a builtin_function_or_method"),
    ],
    ids=["one", "none", "a class", "a function"],
)
def test_other_hooks_are_refused(driver: Driver, wrong: Any, why: str) -> None:
    """When the repository is built."""
    with pytest.raises(ConfigurationError, match=why):
        driver.repository(Item, hooks=wrong)


def test_hooks_do_nothing_by_themselves() -> None:
    """Each method of the base class can be called by an override, and no event is listened to that is not overridden."""
    base = Hooks[Item]()
    assert [getattr(base, event)(None) for event in EVENTS] == [None] * 7
    listeners = Listeners.of([base], may_wait=False)
    assert [getattr(listeners, event) for event in EVENTS] == [()] * 7
    assert not listeners.hear_reading
    assert not listeners.hear_deleting
    assert [name for name, _ in inspect.getmembers(Hooks, inspect.isfunction)] == sorted(EVENTS)


def test_both_repositories_take_hooks() -> None:
    """Under the same name."""
    for kind in (Repository, AsyncRepository):
        assert inspect.signature(kind).parameters["hooks"].default == ()


def test_a_misspelt_hook_is_refused(driver: Driver) -> None:
    """An audit that is never called looks like one that has nothing to say. Names of one's own are left alone."""

    class Misspelt(Hooks[Any]):
        def before_saev(self, model: Any) -> None: ...

    class Own(Hooks[Any]):
        def after_save(self, model: Any) -> None: ...

        def saved(self) -> None: ...

    with pytest.raises(ConfigurationError, match=r"Misspelt.before_saev would never be called. Did you mean before_save\?"):
        driver.repository(Item, hooks=[Misspelt()])
    driver.repository(Item, hooks=[Own()])
