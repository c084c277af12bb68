"""Repositories over a key store: each path has the keys of the moment, and documents move from one key to the next."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import bson
import pytest
from bson.raw_bson import RawBSONDocument
from conftest import Driver, Either
from key_stores import Clock, Service
from pydantic import BaseModel
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.monitoring import CommandListener

from mongo_envelope import (
    AsyncRepository,
    BlindIndex,
    Bucket,
    CollectionKeyStore,
    ConfigurationError,
    DataKey,
    DocumentCodec,
    IntegrityError,
    KeyRing,
    KeyUnavailableError,
    KMSError,
    MalformedEnvelopeError,
    Queryable,
    Repository,
    RevisionConflictError,
    Sensitive,
    UnknownKeyError,
    embedded,
    reading,
    unlock,
)
from mongo_envelope.bridge import SLICE, settle

Db = Database[dict[str, Any]]


class Patient(BaseModel):
    id: int
    ward: Annotated[str, Queryable()] = "a"
    email: Annotated[str, Sensitive(index=BlindIndex(normalize="casefold"))]
    born: Annotated[int, Sensitive(index=Bucket(width=10))] = 1970
    notes: str = ""


def patient(number: int, **fields: Any) -> Patient:
    return Patient(id=number, email=f"{number}@example.com", **fields)


class Commands(CommandListener):
    """The names of the commands that were sent."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def started(self, event: Any) -> None:
        if event.database_name != "admin":
            self.names.append(event.command_name)

    def succeeded(self, event: Any) -> None:
        pass

    def failed(self, event: Any) -> None:
        pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(unlock, "_clock", clock)
    return clock


@pytest.fixture
def kms() -> Service:
    return Service()


@pytest.fixture
def admin(database: Db, kms: Service, clock: Clock) -> CollectionKeyStore:
    """The store of another process, which makes it, and changes keys."""
    return CollectionKeyStore(database.get_collection("keys"), kms=kms, create=True, expire_after=1000, refresh_after=100)


def opened(database: Db, kms: Service, **options: Any) -> CollectionKeyStore:
    """The store of a service."""
    limits = {"refresh_after": 100, "expire_after": 1000}
    return CollectionKeyStore(database.get_collection("keys"), kms=kms, **limits | options)


def elsewhere(database: Db, store: CollectionKeyStore) -> Repository[Patient]:
    """The repository of another process, over the sync driver."""
    return Repository(Patient, database.customers, keys=store)


# --- every path of a repository -----------------------------------------------------------------------------------------


async def _listed(cursor: Any) -> list[Any]:
    return [each async for each in cursor]


async def _aggregated(repository: Either) -> None:
    assert [each.id for each in await settle((await repository.aggregate([{"$match": {"id": 1}}])).to_list())] == [1]


async def _watched(repository: Either) -> None:
    async with await repository.watch(max_await_time_ms=50) as stream:
        await repository.save(patient(1), overwrite=True)
        assert (await stream.next()).id == 1


async def _bulk(repository: Either) -> None:
    async with repository.bulk() as bulk:
        await bulk.save(patient(90))
        await bulk.update(1, {"notes": "new"})
        await bulk.delete(90)


async def _in_transaction(repository: Either) -> None:
    async with repository.transaction() as tx:
        assert (await repository.load(1, session=tx)).id == 1
        await repository.save(patient(91), overwrite=True, session=tx)


async def _mended(repository: Either) -> None:
    assert repository.mend(await repository.load_raw(1)).id == 1


def awaited(call: Callable[[Either], Any]) -> Callable[[Either], Awaitable[Any]]:
    async def run(repository: Either) -> Any:
        return call(repository)

    return run


#: What reads the document 1, or writes: all that takes keys, the method first.
PATHS: dict[str, Callable[[Either], Awaitable[Any]]] = {
    "aggregate": _aggregated,
    "aggregate blind": lambda r: r.aggregate([{"$match": {"email": "1@example.com"}}, {"$count": "n"}]),
    "bulk": _bulk,
    "count": lambda r: r.count({"email": "1@example.com"}),
    "count sifted": lambda r: r.count({"born": {"$gte": 1965, "$lt": 1975}}),
    "delete_many": lambda r: r.delete_many({"email": "nobody@example.com"}),
    "delete_many sifted": lambda r: r.delete_many({"born": {"$lt": 1900, "$gt": 1890}}),
    "distinct": lambda r: r.distinct("ward", {"email": "1@example.com"}),
    "distinct sifted": lambda r: r.distinct("ward", {"born": {"$gte": 1965, "$lt": 1975}}),
    "doctor": lambda r: r.doctor(),
    "exists": lambda r: r.exists({"email": "1@example.com"}),
    "exists sifted": lambda r: r.exists({"born": {"$gte": 1965, "$lt": 1975}}),
    "find": lambda r: _listed(r.find({"id": 1})),
    "find all": lambda r: r.find().to_list(),
    "find skipping": lambda r: r.find({"id": 1}, on_invalid="skip").to_list(),
    "find blind": lambda r: _listed(r.find({"email": "1@example.com"})),
    "find first": lambda r: r.find({"id": 1}).first(),
    "find metadata": lambda r: r.find({"id": 1}, fields="metadata").to_list(),
    "find sifted": lambda r: r.find({"born": {"$gte": 1965, "$lt": 1975}}).to_list(),
    "find_one": lambda r: r.find_one({"id": 1}),
    "find_one blind": lambda r: r.find_one({"email": "1@example.com"}),
    "find_one sifted": lambda r: r.find_one({"born": {"$gte": 1965, "$lt": 1975}}),
    "load": lambda r: r.load(1),
    "load_many": lambda r: r.load_many([1]),
    "load_raw": lambda r: r.load_raw(1),
    "mend": _mended,
    "reindex": lambda r: r.reindex(every=True),
    "retire_data_key": lambda r: r.retire_data_key("spare"),
    "rotate": lambda r: r.rotate(),
    "save": lambda r: r.save(patient(1), overwrite=True),
    "save_many": lambda r: r.save_many([patient(92)]),
    "setup": lambda r: r.setup(),
    "transaction": _in_transaction,
    "update": lambda r: r.update(1, {"notes": "new"}),
    "update_many": lambda r: r.update_many({"email": "1@example.com"}, {"notes": "new"}),
    "verify": lambda r: r.verify({"id": 1}),
    "watch": _watched,
}
#: These take no key, or are of what is there.
NONE = {
    "codec",
    "delete",
    "guard",
    "needs_rotation",
    "revision",
    "with_options",
    "with_transaction",
    "search_by",
    "retire_index_key",
}
#: Of these the answer has nothing of the document 1.
SEARCHES = {
    "aggregate blind",
    "count",
    "delete_many",
    "delete_many sifted",
    "distinct",
    "doctor",
    "exists",
    "retire_data_key",
    "setup",
}
WRITES = {"bulk", "save", "save_many", "watch"}


def test_every_public_method_has_its_place() -> None:
    """A new method has to be put into one of the two tables."""
    public = {
        name
        for name, member in inspect.getmembers(Repository)
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
    }
    assert public == {path.partition(" ")[0] for path in PATHS} | NONE


@pytest.fixture
def spare(admin: CollectionKeyStore) -> None:
    """A data key that nothing is under, for `retire_data_key`."""
    admin.adopt(KeyRing([DataKey("spare", b"s" * 32), DataKey.generate()], primary="spare"))
    admin.rotate_data_key()


@pytest.mark.parametrize("path", PATHS)
async def test_a_key_that_another_process_made_is_known_at_once(  # noqa: PLR0917 - fixtures
    driver: Driver, database: Db, kms: Service, admin: CollectionKeyStore, spare: None, path: str
) -> None:
    """One call, and what is under a key that nobody here has heard of opens; the limits of the store are far away."""
    repository = driver.repository(Patient, keys=opened(database, kms))
    await repository.setup()
    admin.rotate_data_key()
    elsewhere(database, admin).save(patient(1))
    asked = len(kms.calls)
    await PATHS[path](repository)
    assert len(kms.calls) == asked, "the key service was asked"


@pytest.mark.parametrize("path", PATHS)
async def test_what_has_expired_serves_nobody(  # noqa: PLR0917 - fixtures
    driver: Driver,
    database: Db,
    server: embedded.Server,
    kms: Service,
    admin: CollectionKeyStore,
    spare: None,
    clock: Clock,
    path: str,
) -> None:
    """The key service is down at the hard limit: `KMSError` on each path, and no command leaves; and then it is back.

    Not even a question leaves, which would tell index values.
    """
    whole = elsewhere(database, admin)
    whole.setup()
    whole.save(patient(1))
    commands = Commands()
    async with driver.another_client(server.uri, event_listeners=[commands]) as client:
        repository = driver.repository(Patient, driver.collection(client=client), keys=opened(database, kms))
        assert (await repository.load(1)).id == 1
        before = list(database.customers.find())
        clock.ahead += 2000
        kms.down()
        commands.names.clear()
        for _ in range(2):
            with pytest.raises(KMSError, match="on fire"):
                await PATHS[path](repository)
        assert [name for name in commands.names if name not in ("abortTransaction", "killCursors")] == []
        assert list(database.customers.find()) == before
        kms.up()
        clock.ahead += 10
        await PATHS[path](repository)


@pytest.mark.parametrize("path", [path for path in PATHS if path not in SEARCHES | WRITES | {"rotate"}])
async def test_a_compromised_key_opens_nothing_after_the_soft_limit(  # noqa: PLR0917 - fixtures
    driver: Driver, database: Db, kms: Service, admin: CollectionKeyStore, spare: None, clock: Clock, path: str
) -> None:
    """Marked by another process; `rotate` alone opens what is under it, and then each path has it again."""
    whole = elsewhere(database, admin)
    whole.setup()
    whole.save(patient(1))
    stolen = admin.ring().primary
    repository = driver.repository(Patient, keys=opened(database, kms))
    await repository.load(1)
    admin.rotate_data_key()
    admin.mark_compromised(stolen)
    clock.ahead += 101
    if path == "find skipping":
        assert await PATHS[path](repository) == []
    else:
        with pytest.raises(UnknownKeyError, match="compromised"):
            await PATHS[path](repository)
    assert await repository.rotate() == 1
    await PATHS[path](repository)
    admin.destroy_key(stolen, unused_in=[], even_if_used=True)
    clock.ahead += 101
    await PATHS[path](repository)


async def test_what_is_sealed_is_under_the_new_key_after_the_soft_limit(
    driver: Driver, database: Db, kms: Service, admin: CollectionKeyStore, clock: Clock
) -> None:
    """By every way of writing, also by one that has sealed such instances before, and by a bulk writer that is open."""
    repository = driver.repository(Patient, keys=opened(database, kms))
    await repository.setup()
    for number in range(4):
        await repository.save(patient(number))
    async with repository.bulk(batch_size=1) as bulk:
        await bulk.save(patient(10))
        second = admin.rotate_data_key()
        clock.ahead += 101
        await bulk.save(patient(11))
        await bulk.save(patient(12))
    await repository.save_many([patient(13), patient(14)])
    await repository.save(patient(15))
    await repository.update(0, {"notes": "new"})
    await repository.update_many({"id": 1}, {"notes": "new"})
    under = {document["_id"]: document["kid"] == second for document in database.customers.find()}
    assert under == {0: True, 1: True, 2: False, 3: False, 10: False, 11: True, 12: True, 13: True, 14: True, 15: True}


async def test_a_long_cursor_goes_by_the_keys_of_the_moment(
    driver: Driver, database: Db, kms: Service, admin: CollectionKeyStore, clock: Clock
) -> None:
    """A key that comes, and one that is destroyed, while it runs: it opens the one, and the other no more."""
    whole = elsewhere(database, admin)
    whole.save_many([patient(number) for number in range(20)])
    first = admin.ring().primary
    admin.rotate_data_key()
    whole.save_many([patient(number) for number in range(20, 40)])
    repository = driver.repository(Patient, keys=opened(database, kms))
    cursor = repository.find(batch_size=10).sort("id")
    seen = [(await anext(cursor)).id for _ in range(5)]
    admin.rotate_data_key()
    whole.save_many([whole.load(number) for number in range(30, 40)])
    admin.destroy_key(first, unused_in=[], even_if_used=True)
    clock.ahead += 101
    failed = 0
    while True:
        try:
            seen.append((await anext(cursor)).id)
        except StopAsyncIteration:
            break
        except UnknownKeyError:
            failed += 1
    # Not what had come already, either, but for what is opened within a hundredth of a second.
    assert seen[:5] == list(range(5))
    assert seen[-20:] == list(range(20, 40))
    assert failed >= 10
    assert len(seen) + failed == 40


async def test_a_change_stream_goes_by_the_keys_of_the_moment(
    driver: Driver, database: Db, kms: Service, admin: CollectionKeyStore, clock: Clock
) -> None:
    """A new key's documents come; those of a compromised key do not open any more."""
    whole = elsewhere(database, admin)
    repository = driver.repository(Patient, keys=opened(database, kms))
    async with await repository.watch(max_await_time_ms=100) as stream:
        stale = KeyRing([*admin.ring()._keys.values()])
        second = admin.rotate_data_key()
        whole.save(patient(1))
        assert (await stream.next()).model == patient(1)
        admin.mark_compromised(stale.primary)
        clock.ahead += 101
        Repository(
            Patient, database.customers, keys=KeyRing(stale._keys.values(), index_keys=admin.ring()._index_keys.values())
        ).save(patient(2))
        with pytest.raises(UnknownKeyError, match="compromised"):
            await stream.next()
        whole.save(patient(3))
        assert (await stream.next()).id == 3
    assert database.customers.find_one({"_id": 3})["kid"] == second


async def test_kids_that_nobody_has_cost_one_look(  # noqa: PLR0917 - fixtures
    driver: Driver, database: Db, server: embedded.Server, kms: Service, admin: CollectionKeyStore, clock: Clock
) -> None:
    """Whoever writes documents names 1,000: the store is read once in ten seconds; each is an `UnknownKeyError` of its `_id`."""
    elsewhere(database, admin).save(patient(0))
    genuine = database.customers.find_one()
    database.customers.insert_many([{**genuine, "_id": number, "kid": f"k{number}"} for number in range(1, 1001)])
    commands = Commands()
    with MongoClient[dict[str, Any]](server.uri, event_listeners=[commands]) as client:
        store = CollectionKeyStore(client[database.name].get_collection("keys"), kms=kms, refresh_after=100, expire_after=1000)
        commands.names.clear()
        repository = driver.repository(Patient, keys=store)
        began = time.monotonic()
        assert [each.id for each in await repository.find(on_invalid="skip").to_list()] == [0]
        for number in (1, 2):
            with pytest.raises(UnknownKeyError, match=rf"_id {number}\b"):
                await repository.load(number)
        assert commands.names == ["find"]
        assert time.monotonic() - began < 5
        clock.ahead += 10.5
        with pytest.raises(UnknownKeyError):
            await repository.load(3)
        assert commands.names == ["find", "find"]


async def test_a_loop_is_not_held_up_by_a_slow_key_service(
    database: Db, kms: Service, admin: CollectionKeyStore, clock: Clock, async_client: Any
) -> None:
    """A hundred tasks wait for one renewal; another task has the loop meanwhile."""
    elsewhere(database, admin).save(patient(1))
    repository = AsyncRepository(Patient, async_client[database.name].customers, keys=opened(database, kms))
    await repository.load(1)
    gaps: list[float] = []

    async def beat() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.005)
            gaps.append(time.perf_counter() - began - 0.005)

    kms.before = lambda name: time.sleep(0.5)
    kms.calls.clear()
    clock.ahead += 2000
    beating = asyncio.create_task(beat())
    began = time.perf_counter()
    found = await asyncio.gather(*(repository.load(1) for _ in range(100)))
    took = time.perf_counter() - began
    beating.cancel()
    assert [each.id for each in found] == [1] * 100
    assert took >= 0.5
    assert kms.calls == ["unwrap"]
    assert len(gaps) > 20  # while it was waited for
    assert sorted(gaps)[len(gaps) // 2] < SLICE * 10


# --- documents move -----------------------------------------------------------------------------------------------------


async def test_rotate_moves_all_and_leaves_what_they_hold(
    driver: Driver, database: Db, kms: Service, admin: CollectionKeyStore
) -> None:
    """Metadata, index values and content are the same; only key, IV, ciphertext and tag are new. Progress is told."""
    repository = driver.repository(Patient, keys=admin, padding="padme")
    await repository.setup()
    await repository.save_many([patient(number, notes="n" * number) for number in range(450)])
    before = {document["_id"]: document for document in database.customers.find()}
    loaded = await repository.load(7)
    second, told = admin.rotate_data_key(), []
    assert await repository.rotate(on_progress=lambda done, to_do: told.append((done, to_do))) == 450
    assert told[0][1] == told[-1][1] == 450
    assert told[-1][0] == 450
    for document in database.customers.find():
        old = before[document["_id"]]
        assert {name for name in document if document[name] != old[name]} == {"data", "hmac", "iv", "kid"}
        assert document["kid"] == second
        assert len(document["data"]) == len(old["data"])
    assert await repository.find().sort("id").to_list() == [patient(number, notes="n" * number) for number in range(450)]
    assert await repository.rotate() == 0
    with pytest.raises(RevisionConflictError):  # what was loaded before is another revision
        await repository.save(loaded)


async def test_rotate_moves_what_the_model_does_not_fit_any_more(
    driver: Driver, database: Db, kms: Service, admin: CollectionKeyStore
) -> None:
    """It does not ask the model: a document that would not load is under the new key all the same."""

    class Older(BaseModel):
        id: int
        ward: Annotated[str, Queryable()] = "a"
        born: str

    Repository(Older, database.customers, keys=admin).save(Older(id=1, born="unknown"))
    admin.rotate_data_key()
    repository = driver.repository(Patient, keys=admin)
    assert await repository.rotate() == 1
    assert (await repository.load_raw(1))["born"] == "unknown"


async def test_rotate_says_what_is_wrong_and_goes_on(driver: Driver, database: Db, kms: Service, admin: CollectionKeyStore) -> None:
    """A document that was edited is not made genuine; with ``on_invalid`` the others move, and each is told of once."""
    repository = driver.repository(Patient, keys=admin)
    await repository.save_many([patient(number) for number in range(5)])
    database.customers.update_one({"_id": 2}, {"$set": {"ward": "b"}})
    admin.rotate_data_key()
    with pytest.raises(IntegrityError, match=r"_id 2\b"):
        await repository.rotate()
    told: list[Exception] = []
    assert await repository.rotate(on_invalid=told.append) == 4
    assert [error.document_id for error in told] == ["2"]  # type: ignore[attr-defined]  # of an EnvelopeError
    assert await repository.rotate(on_invalid="skip") == 0
    with pytest.raises(IntegrityError):
        await repository.load(2)


async def test_rotate_goes_on_where_it_was_stopped(driver: Driver, database: Db, kms: Service, admin: CollectionKeyStore) -> None:
    """Stopped by its own progress function, as by Ctrl-C: what was moved stays, and the next call moves the rest."""
    repository = driver.repository(Patient, keys=admin)
    await repository.save_many([patient(number) for number in range(450)])
    second = admin.rotate_data_key()

    def stop(done: int, to_do: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await repository.rotate(on_progress=stop)
    moved = database.customers.count_documents({"kid": second})
    assert 0 < moved < 450
    assert await repository.rotate() == 450 - moved


async def test_rotate_undoes_no_save(driver: Driver, database: Db, kms: Service, admin: CollectionKeyStore) -> None:
    """Two threads change documents while they move: every change is there at the end, and everything has moved."""
    whole = elsewhere(database, admin)
    whole.save_many([patient(number) for number in range(300)])
    second, changed = admin.rotate_data_key(), dict.fromkeys(range(300), 0)
    over = threading.Event()

    def change(start: int) -> None:
        number = start
        while not over.is_set():
            number = (number + 2) % 300
            whole.update(number, lambda each: each.model_copy(update={"notes": each.notes + "x"}))
            changed[number] += 1

    threads = [threading.Thread(target=change, args=(start,)) for start in (0, 1)]
    for thread in threads:
        thread.start()
    repository = driver.repository(Patient, keys=admin)
    try:
        await asyncio.sleep(0.02)
        await repository.rotate()
        await asyncio.sleep(0.02)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert {each.id: len(each.notes) for each in whole.find()} == changed
    assert database.customers.distinct("kid") == [second]
    assert sum(changed.values()) > 10


async def test_rotate_in_a_transaction_is_undone_with_it(
    driver: Driver, database: Db, kms: Service, admin: CollectionKeyStore
) -> None:
    """In a session, as every other write."""
    repository = driver.repository(Patient, keys=admin)
    await repository.save_many([patient(number) for number in range(3)])
    second = admin.rotate_data_key()
    async with driver.transaction(commit=False) as session:
        assert await repository.rotate(session=session) == 3
    assert database.customers.count_documents({"kid": second}) == 0


def test_needs_rotation_of_every_form(database: Db, kms: Service, admin: CollectionKeyStore) -> None:
    """A dict, bytes, a raw document; another data key, other index keys, two of them; what is no sealed document needs it, too."""
    repository = elsewhere(database, admin)
    repository.save(patient(1))
    document = database.customers.find_one({"_id": 1})
    raw = bson.encode(document)
    assert document is not None
    assert [repository.needs_rotation(each) for each in (document, raw, RawBSONDocument(raw))] == [False] * 3
    assert repository.needs_rotation({**document, "kid": "other"})
    assert repository.needs_rotation({**document, "idx": {**document["idx"], "kid": "other"}})
    assert repository.needs_rotation({"_id": 1})
    assert repository.needs_rotation(b"\x05\x00\x00\x00\x00")
    assert repository.needs_rotation(b"no BSON")
    second = admin.add_index_key()
    assert repository.needs_rotation(document)
    repository.reindex()
    document = database.customers.find_one({"_id": 1})
    assert document is not None
    assert isinstance(document["idx"]["kid"], list)
    assert not repository.needs_rotation(document)
    admin.search_by(second)
    admin.write_only(second)
    assert repository.needs_rotation(document)
    admin.rotate_data_key()
    assert DocumentCodec(Patient, keys=admin.ring(), context="customers").needs_rotation(document)


async def test_retire_data_key_of_a_ring(driver: Driver, database: Db) -> None:
    """Refused, with their number, while documents are under it; for the primary one, and one that is not there."""
    one, two = DataKey.generate(), DataKey.generate()
    index = KeyRing.generate()._index_keys.values()
    await driver.repository(Patient, keys=KeyRing([one], index_keys=index)).save_many([patient(number) for number in range(3)])
    repository = driver.repository(Patient, keys=KeyRing([one, two], primary=two.kid, index_keys=index))
    with pytest.raises(ConfigurationError, match="3 documents are under"):
        await repository.retire_data_key(one)
    assert await repository.rotate() == 3
    ring = await repository.retire_data_key(one.kid)
    assert list(ring) == [two.kid]
    assert ring.index_keys == tuple(each.kid for each in index)
    with pytest.raises(ConfigurationError, match="is the primary key"):
        await repository.retire_data_key(two)
    with pytest.raises(ConfigurationError, match="not in the ring"):
        await repository.retire_data_key("none")


def test_destroy_key_counts_the_documents(database: Db, kms: Service, admin: CollectionKeyStore) -> None:
    """In each collection that is named, and by repositories, too."""
    first, store = admin.ring().primary, opened(database, kms, refresh_after=0.1, expire_after=0.1)
    here, there = elsewhere(database, store), Repository(Patient, database.others, keys=store)
    here.save_many([patient(1), patient(2)])
    there.save(patient(3))
    store.rotate_data_key()
    time.sleep(0.12)
    with pytest.raises(ConfigurationError, match=rf"2 of {database.name}.customers, 1 of {database.name}.others"):
        store.destroy_key(first, unused_in=[here, database.others])
    here.rotate()
    there.rotate()
    store.destroy_key(first, unused_in=[database.customers, there])
    assert first in store.ring().destroyed


async def test_index_keys_change_without_a_miss(
    driver: Driver, database: Db, kms: Service, admin: CollectionKeyStore, clock: Clock
) -> None:
    """Each step is published by the store; a search in between finds everything, in a service that knows of it later."""
    service = driver.repository(Patient, keys=opened(database, kms))
    upkeep = driver.repository(Patient, keys=admin)
    await service.setup()
    await service.save_many([patient(number) for number in range(10)])
    first = admin.ring().search_key

    async def all_are_found() -> None:
        for number in range(10):
            assert [each.id for each in await service.find({"email": f"{number}@EXAMPLE.com"}).to_list()] == [number]

    second = admin.add_index_key()
    await all_are_found()
    with pytest.raises(ConfigurationError, match="have no index values under"):
        await upkeep.search_by(second)
    clock.ahead += 101
    await all_are_found()
    assert await upkeep.reindex() == 10
    await all_are_found()
    await upkeep.search_by(second)
    admin.search_by(second)
    await all_are_found()
    clock.ahead += 101
    admin.write_only(second)
    await all_are_found()
    with pytest.raises(ConfigurationError, match="have index values under"):
        await upkeep.retire_index_key(first)
    clock.ahead += 101
    await service.save(patient(10))
    assert await upkeep.reindex() == 10
    await all_are_found()
    await upkeep.retire_index_key(first)
    assert database.customers.count_documents({"idx.kid": first}) == 0


async def test_verify_knows_the_index_keys_of_now(driver: Driver, database: Db, kms: Service, admin: CollectionKeyStore) -> None:
    """Values under an index key that another process has just begun to write are computed again, as the others are."""
    repository = driver.repository(Patient, keys=opened(database, kms))
    await repository.count({})
    second = admin.add_index_key()
    admin.search_by(second)
    admin.write_only(second)
    elsewhere(database, admin).save(patient(1))
    assert await repository.verify() == 1


# --- new keys over old documents ----------------------------------------------------------------------------------------


WRITING: dict[str, Callable[[Either], Awaitable[Any]]] = {
    "save": lambda r: r.save(patient(50)),
    "save_many": lambda r: r.save_many([patient(50)]),
    "bulk": _bulk,
    "update": lambda r: r.update(1, {"notes": "new"}),
    "setup": lambda r: r.setup(),
}


@pytest.mark.parametrize("path", WRITING)
async def test_new_keys_write_nothing_over_documents_of_others(  # noqa: PLR0917 - fixtures
    driver: Driver, database: Db, kms: Service, clock: Clock, tmp_path: Path, path: str
) -> None:
    """A key file or a store that was lost, and made anew by ``create=True``: the first write says so, and is not made."""
    elsewhere(database, CollectionKeyStore(database.get_collection("lost"), kms=kms, create=True)).save(patient(1))
    for keys in (
        KeyRing.from_file(tmp_path / "keys.json", create=True),
        CollectionKeyStore(database.get_collection("keys"), kms=kms, create=True),
    ):
        repository = driver.repository(Patient, keys=keys)
        with pytest.raises(ConfigurationError, match=r"sealed under (other )?keys"):
            await WRITING[path](repository)
        assert database.customers.count_documents({}) == 1
    # The same file, when it is not new any more, may be one of several: then setup() and doctor() look.
    assert not KeyRing.from_file(tmp_path / "keys.json", create=True).made


async def test_new_keys_cost_one_question(
    driver: Driver, database: Db, server: embedded.Server, kms: Service, clock: Clock
) -> None:
    """In the life of a repository; and an empty collection, or one without sealed documents, is no hindrance."""
    database.customers.insert_one({"_id": 99, "plaintext": True})
    commands = Commands()
    async with driver.another_client(server.uri, event_listeners=[commands]) as client:
        store = CollectionKeyStore(database.get_collection("keys"), kms=kms, create=True)
        repository = driver.repository(Patient, driver.collection(client=client), keys=store)
        await repository.save(patient(1))
        await repository.save(patient(2))
        assert await repository.load(1) == patient(1)
        assert commands.names == ["find", "insert", "insert", "find"]


async def test_new_keys_look_once_for_each_collection(
    driver: Driver, database: Db, server: embedded.Server, kms: Service, clock: Clock
) -> None:
    """However many repositories are made over it: of a large collection that holds nothing else the question is a scan."""
    commands = Commands()
    async with driver.another_client(server.uri, event_listeners=[commands]) as client:
        store = CollectionKeyStore(database.get_collection("keys"), kms=kms, create=True)
        for number in range(3):
            await driver.repository(Patient, driver.collection(client=client), keys=store).save(patient(number))
        await driver.repository(Patient, driver.collection("others", client=client), keys=store).save(patient(1))
    assert commands.names == ["find", "insert", "insert", "insert", "find", "insert"]


async def test_a_repository_is_made_without_asking_anybody(
    driver: Driver, database: Db, kms: Service, admin: CollectionKeyStore, clock: Clock
) -> None:
    """Also over a store that has expired: it may be made in an event loop. The first call asks."""
    store = opened(database, kms)
    clock.ahead += 2000
    kms.down()
    repository = driver.repository(Patient, keys=store)
    with pytest.raises(KMSError, match="on fire"):
        await repository.save(patient(1))


def test_a_codec_takes_the_ring_of_a_store(admin: CollectionKeyStore) -> None:
    """And not the store, which it could not ask: the error says what it takes."""
    with pytest.raises(ConfigurationError, match=r"store\.ring\(\)"):
        DocumentCodec(Patient, keys=admin, context="customers")  # type: ignore[arg-type]  # that is the test
    assert DocumentCodec(Patient, keys=admin.ring(), context="customers").keys is admin.held


async def test_the_codec_of_a_repository_is_of_the_moment(
    driver: Driver, database: Db, kms: Service, admin: CollectionKeyStore, clock: Clock
) -> None:
    """Over the sync driver it is renewed when it is asked for; over the async one it is what the last call has left."""
    repository = driver.repository(Patient, keys=opened(database, kms)).inner
    second = admin.rotate_data_key()
    clock.ahead += 101
    assert (repository.codec.keys.primary == second) is not driver.is_async
    if driver.is_async:
        await repository.count({})
    assert repository.codec.keys.primary == second
    with_options = repository.with_options()
    third = admin.rotate_data_key()
    clock.ahead += 101
    if driver.is_async:
        await with_options.count({})
    assert with_options.codec.keys.primary == third


# --- what was found ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_invalid", ["raise", "skip"])
async def test_a_cursor_loses_nothing_while_keys_cannot_be_had(  # noqa: PLR0917 - fixtures
    driver: Driver, database: Db, kms: Service, admin: CollectionKeyStore, clock: Clock, on_invalid: Any
) -> None:
    """Expired in the middle, and the key service is down: `KMSError`; then the loop goes on where it was, nothing left out."""
    elsewhere(database, admin).save_many([patient(number) for number in range(40)])
    cursor = driver.repository(Patient, keys=opened(database, kms)).find(batch_size=10, on_invalid=on_invalid).sort("id")
    seen = [(await anext(cursor)).id for _ in range(5)]
    clock.ahead += 2000
    kms.down()
    with pytest.raises(KMSError, match="on fire"):
        await _append(cursor, seen)
    for _ in range(2):
        with pytest.raises(KMSError):
            await anext(cursor)
    kms.up()
    clock.ahead += 10
    while True:
        try:
            await _append(cursor, seen)
        except KMSError:  # of what was asked ahead while it was down, and is told now
            continue
        break
    assert seen == list(range(40))


async def _append(cursor: Any, seen: list[int]) -> None:
    async for each in cursor:
        seen.append(each.id)  # noqa: PERF401 - what came before an error is kept


async def _ids(cursor: Any) -> list[int]:
    return [each.id async for each in cursor]


async def test_a_slow_consumer_of_one_batch_goes_by_the_keys_of_the_moment(  # noqa: PLR0917 - fixtures
    driver: Driver, database: Db, kms: Service, admin: CollectionKeyStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has come long ago, and whose key was marked since, does not open any more; what is under another does."""
    monkeypatch.setattr(reading, "_LOOK", 0.0)
    whole = elsewhere(database, admin)
    whole.save_many([patient(number) for number in range(10)])
    first = admin.ring().primary
    admin.rotate_data_key()
    whole.save_many([patient(number) for number in range(10, 20)])
    cursor = driver.repository(Patient, keys=opened(database, kms)).find().sort("id")
    assert (await anext(cursor)).id == 0
    admin.mark_compromised(first)
    clock.ahead += 101
    for _ in range(9):
        with pytest.raises(UnknownKeyError, match="compromised"):
            await anext(cursor)
    assert await _ids(cursor) == list(range(10, 20))


async def test_an_index_key_that_was_looked_for_leaves_room_for_a_data_key(
    driver: Driver, database: Db, kms: Service, admin: CollectionKeyStore, clock: Clock
) -> None:
    """A look that finds a new index key is not counted: the data key that is made right afterwards is found, too."""
    service = opened(database, kms)
    repository = driver.repository(Patient, keys=service)
    index = admin.add_index_key()
    assert index in service.look_for(index).index_keys
    admin.rotate_data_key()
    elsewhere(database, admin).save(patient(2))
    assert (await repository.load(2)).id == 2


async def test_an_idle_service_asks_by_the_search_key_of_the_moment(
    driver: Driver, database: Db, kms: Service, admin: CollectionKeyStore, clock: Clock
) -> None:
    """It slept while the index key was replaced: its first question finds, also of a cursor that was made before."""
    service = driver.repository(Patient, keys=opened(database, kms))
    await service.save_many([patient(number) for number in range(5)])
    waiting = service.find({"email": "2@example.com"})
    waiting_sifted = service.find({"born": {"$gte": 1965, "$lt": 1975}}).sort("id")
    waiting_indexed = None if driver.is_async else service.inner.find({"email": "2@example.com"})
    _replace_index_key(database, admin, clock)
    assert [each.id for each in await service.find({"email": "1@example.com"}).to_list()] == [1]
    assert [each.id for each in await waiting.to_list()] == [2]
    assert [each.id for each in await waiting_sifted.to_list()] == [0, 1, 2, 3, 4]
    if waiting_indexed is not None:
        assert waiting_indexed[0].id == waiting_indexed[0].id == 2


def _replace_index_key(database: Db, admin: CollectionKeyStore, clock: Clock) -> None:
    whole, second = elsewhere(database, admin), admin.add_index_key()
    whole.reindex()
    admin.search_by(second)
    admin.write_only(second)
    whole.reindex()
    clock.ahead += 101


@pytest.mark.parametrize("wait", [False, True])
async def test_a_change_stream_asks_by_the_search_key_of_the_moment(  # noqa: PLR0917 - fixtures
    driver: Driver, database: Db, kms: Service, admin: CollectionKeyStore, clock: Clock, wait: bool
) -> None:
    """It goes on behind what it has given when the index key is replaced, twice, and an event of another id stays out."""
    whole = elsewhere(database, admin)
    service = driver.repository(Patient, keys=opened(database, kms))
    async with await service.watch({"id": 1, "email": "1@example.com"}, max_await_time_ms=50) as stream:
        whole.save(patient(1))
        assert (await stream.next()).operation == "insert"
        for _ in range(2):
            _replace_index_key(database, admin, clock)
            changes = []
            whole.save_many([patient(2), patient(3)], ordered=True)
            whole.delete(2)
            whole.delete(3)
            whole.update(1, {"notes": "new"})
            while not changes or changes[-1].model is None or changes[-1].model.notes != "new":
                if (change := await (stream.next() if wait else stream.try_next())) is not None:
                    changes.append(change)
            assert {each.id for each in changes} == {1}
            whole.update(1, {"notes": ""})
            assert (await stream.next()).model.notes == ""


async def test_a_change_stream_that_is_closed_is_at_its_end(driver: Driver, database: Db, admin: CollectionKeyStore) -> None:
    """Also one whose filter asks a blind index of a key store."""
    stream = await driver.repository(Patient, keys=admin).watch({"email": "1@example.com"})
    await stream.close()
    assert [change async for change in stream] == []


class Home(BaseModel):
    kid: str


class Child(BaseModel):
    id: int
    home: Annotated[Home, Queryable()]


async def test_a_field_called_kid_is_no_key_id(
    driver: Driver, database: Db, kms: Service, admin: CollectionKeyStore, clock: Clock
) -> None:
    """Of the user's, in a document of the store's keys: nobody looks for it, and a real new key is found at once."""
    repository, whole = driver.repository(Child, keys=opened(database, kms)), Repository(Child, database.customers, keys=admin)
    admin.rotate_data_key()
    whole.save(Child(id=1, home=Home(kid="tom")))
    assert len(await repository.find().to_list()) == 1
    admin.rotate_data_key()
    whole.save(Child(id=2, home=Home(kid="tim")))
    assert len(await repository.load_many([1, 2])) == 2


@pytest.mark.parametrize("idx", ["x", 1, None, [], {"kid": 1}, {"kid": {}}, {}])
def test_needs_rotation_of_what_is_malformed(database: Db, admin: CollectionKeyStore, idx: Any) -> None:
    """An ``idx`` that is none, or without key ids, has to be written anew; what is no document at all is an error."""
    repository = elsewhere(database, admin)
    assert repository.needs_rotation({"_id": 1, "kid": admin.ring().primary, "idx": idx})
    with pytest.raises(MalformedEnvelopeError, match="no match"):
        repository.needs_rotation(None)  # type: ignore[arg-type]  # what find_one gives for no match


def test_an_array_of_one_index_key_needs_rotation(database: Db, admin: CollectionKeyStore) -> None:
    """As `reindex` sees it, too, which writes the text."""
    repository = elsewhere(database, admin)
    repository.save(patient(1))
    document = database.customers.find_one()
    assert document is not None
    assert repository.needs_rotation({**document, "idx": {**document["idx"], "kid": [document["idx"]["kid"]]}})


async def test_a_chunk_that_is_filled_for_long_is_sealed_by_the_keys_of_the_moment(
    driver: Driver, database: Db, kms: Service, admin: CollectionKeyStore, clock: Clock
) -> None:
    """What is given after the soft limit is under the new key, in the same chunk; and all of it is written."""
    repository = driver.repository(Patient, keys=opened(database, kms))
    async with repository.bulk() as bulk:
        await bulk.save(patient(1))
        second = admin.rotate_data_key()
        clock.ahead += 101
        await bulk.save(patient(2))
    assert [each["kid"] == second for each in database.customers.find().sort("_id")] == [False, True]


async def test_nothing_is_written_under_a_key_that_has_been_destroyed(
    driver: Driver, database: Db, kms: Service, admin: CollectionKeyStore, clock: Clock
) -> None:
    """A chunk has waited for so long: an error says how many documents were not written, and they can be saved again."""
    repository = driver.repository(Patient, keys=opened(database, kms))
    late = [patient(1), patient(2)]
    with pytest.raises(KeyUnavailableError, match="2 documents were not written"):
        await _destroying(repository, late, admin, clock)
    assert database.customers.count_documents({}) == 0
    for each in late:
        await repository.save(each)
    assert (await repository.load(1)).id == 1


async def _destroying(repository: Either, late: list[Patient], admin: CollectionKeyStore, clock: Clock) -> None:
    async with repository.bulk() as bulk:
        for each in late:
            await bulk.save(each)
        first = admin.ring().primary
        admin.rotate_data_key()
        admin.destroy_key(first, unused_in=[], even_if_used=True)
        clock.ahead += 101
