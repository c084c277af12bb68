"""An index key takes the place of another while the service reads and writes: not one search misses a document.

`work` is one process of the service, written once for threads and tasks: it saves, and searches for what is there, with the ring
that was published to it last. `rotate` is the operator, who follows docs/querying.md: each ring goes to one process after the
other, and the next step waits until all of them use it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from itertools import count
from typing import Annotated, Any

import pytest
from conftest import Either
from pydantic import BaseModel
from pymongo import AsyncMongoClient, MongoClient
from pymongo.database import Database

from mongo_envelope import (
    AsyncRepository,
    BlindIndex,
    ConfigurationError,
    DataKey,
    DuplicateValueError,
    IndexKey,
    KeyRing,
    Queryable,
    Repository,
    Sensitive,
    embedded,
)
from mongo_envelope.bridge import drive, settle

Db = Database[dict[str, Any]]
PROCESSES = 4
STILL, MOVING = 150, 5  # documents that nobody changes; and those of each process, which it changes
LONGEST = 120.0
RING = KeyRing([DataKey.generate()], index_keys=[IndexKey.generate("old")])


class Person(BaseModel):
    id: int
    email: Annotated[str, Sensitive(index=BlindIndex(normalize="email", unique=True))]
    phones: Annotated[list[str], Sensitive(index=BlindIndex())]
    tag: Annotated[str, Sensitive(index=BlindIndex(bits=8))]
    turn: Annotated[int, Queryable()] = 0


def person(number: int, turn: int = 0) -> Person:
    """Two phones, one of them shared by ten; ten tags, of 8 bits each."""
    email = f"{number}.{turn}@example.com"
    return Person(id=number, email=email, phones=[f"own {number}", f"shared {number % 10}"], tag=f"tag {number % 10}", turn=turn)


class Published:
    """What one process uses, and how far it has got with it."""

    def __init__(self, repository: Any) -> None:
        self.repository = repository
        self.used: Any = None
        self.searches = 0
        self.stop = False


async def work(me: int, place: Published) -> None:
    """Save own documents, find them at once, and find those that nobody changes by every kind of search."""
    own = range(1000 * (me + 1), 1000 * (me + 1) + MOVING)
    fresh = True
    for turn in count(1):
        people = place.used = place.repository
        if place.stop:
            return
        number = own[turn % MOVING]
        if fresh:
            await people.save_many([person(each) for each in own])
            fresh = False
        changed = await people.update(number, {"email": f"{number}.{turn}@example.com", "turn": turn})
        still = turn % STILL
        mine = {"id": {"$lt": STILL}}
        searches: list[tuple[dict[str, Any], set[int]]] = [
            ({"email": changed.email.upper()}, {number}),
            ({"email": f"{still}.0@example.com"}, {still}),
            ({"phones": f"own {still}"}, {still}),
            ({**mine, "phones": f"shared {still % 10}"}, set(range(still % 10, STILL, 10))),
            ({**mine, "phones": {"$all": [f"own {still}", f"shared {still % 10}"]}}, {still}),
            ({**mine, "email": {"$ne": f"{still}.0@example.com"}}, set(range(STILL)) - {still}),
            ({**mine, "phones": {"$nin": [f"shared {each}" for each in range(9)]}}, set(range(9, STILL, 10))),
            ({**mine, "phones": {"$not": {"$eq": f"own {still}"}}}, set(range(STILL)) - {still}),
            ({**mine, "phones": {"$elemMatch": {"$nin": [f"own {still}", f"shared {still % 10}"]}}}, set(range(STILL)) - {still}),
            ({**mine, "tag": f"tag {still % 10}"}, set(range(still % 10, STILL, 10))),
            ({**mine, "tag": {"$ne": f"tag {still % 10}"}}, set(range(STILL)) - set(range(still % 10, STILL, 10))),
        ]
        where, expected = searches[turn % len(searches)]
        found = {each.id for each in await people.find(where).to_list()}
        assert found == expected, f"with {people!r}: {len(expected - found)} missed, {len(found - expected)} too many"
        assert await people.count({"email": f"{still}.0@example.com"}) == 1
        with pytest.raises(DuplicateValueError, match="the same email"):
            await people.save(person(100_000 + me).model_copy(update={"email": f"{still}.0@example.com"}))
        place.searches += 3


async def rotate(make: Callable[[KeyRing], Any], places: list[Published], pause: Callable[[], Any]) -> KeyRing:
    """The steps of docs/querying.md, from the first ring to the last."""

    async def publish(ring: KeyRing) -> Any:
        for place in places:
            place.repository = make(ring)
            for _ in range(6):
                await settle(pause())  # in between, processes use different rings
        while any(place.used is not place.repository for place in places):
            await settle(pause())
        return make(ring)

    async def searched() -> None:
        """Every process has searched for some time."""
        goals = [place.searches + 60 for place in places]
        while any(place.searches < goal for place, goal in zip(places, goals, strict=True)):
            await settle(pause())

    await searched()
    people = await publish(RING.with_index_key(IndexKey.generate("new")))
    with pytest.raises(ConfigurationError, match="have no index values under new, and would not be found"):
        await people.search_by("new")
    assert await people.reindex() >= STILL
    await searched()
    ring: KeyRing = await people.search_by("new")
    people = await publish(ring)
    await searched()
    people = await publish(ring.writing_only("new"))
    with pytest.raises(ConfigurationError, match="have index values under old"):
        await people.retire_index_key("old")
    await searched()
    assert await people.reindex() >= STILL
    ring = await people.retire_index_key("old")
    await publish(ring)
    await searched()
    assert await people.doctor() == []
    assert await people.verify() == STILL + PROCESSES * MOVING
    return ring


def test_threads_miss_nothing(server: embedded.Server, database: Db) -> None:
    """Four threads search, save and run into the unique index while the operator goes through all steps."""
    with MongoClient[dict[str, Any]](server.uri, timeoutMS=LONGEST * 1000) as client:
        collection = client[database.name].people

        def make(ring: KeyRing) -> Any:
            return Either(Repository(Person, collection, keys=ring))

        first = Repository(Person, collection, keys=RING)
        first.setup()
        first.save_many([person(number) for number in range(STILL)])
        places = [Published(make(RING)) for _ in range(PROCESSES)]
        failed: list[BaseException] = []

        def run(me: int) -> None:
            try:
                drive(work(me, places[me]))
            except BaseException as error:  # noqa: BLE001 - it is raised below
                failed.append(error)

        def pause() -> None:
            if failed:
                raise failed[0]
            threading.Event().wait(0.005)

        threads = [threading.Thread(target=run, args=(me,), daemon=True) for me in range(PROCESSES)]
        for thread in threads:
            thread.start()
        try:
            ring = drive(rotate(make, places, pause))
        finally:
            for place in places:
                place.stop = True
            for thread in threads:
                thread.join(LONGEST)
        assert not failed
        assert ring.index_keys == ("new",)


async def test_tasks_miss_nothing(server: embedded.Server, database: Db) -> None:
    """Four tasks search, save and run into the unique index while the operator goes through all steps."""
    async with AsyncMongoClient[dict[str, Any]](server.uri, timeoutMS=LONGEST * 1000) as client:
        collection = client[database.name].people

        def make(ring: KeyRing) -> Any:
            return Either(AsyncRepository(Person, collection, keys=ring))

        first = AsyncRepository(Person, collection, keys=RING)
        await first.setup()
        await first.save_many([person(number) for number in range(STILL)])
        places = [Published(make(RING)) for _ in range(PROCESSES)]

        async def operate() -> KeyRing:
            try:
                return await rotate(make, places, lambda: asyncio.sleep(0.005))
            finally:
                for place in places:
                    place.stop = True

        async with asyncio.timeout(LONGEST), asyncio.TaskGroup() as tasks:
            operator = tasks.create_task(operate())
            for me in range(PROCESSES):
                tasks.create_task(work(me, places[me]))
        assert operator.result().index_keys == ("new",)
