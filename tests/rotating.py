"""A process that works with documents and rotates their keys: what test_rotation_storm.py starts, several at a time, and kills.

python rotating.py WHAT URI DATABASE KEK SEED SECONDS-OR-POINT
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel
from pymongo import AsyncMongoClient, MongoClient
from pymongo.monitoring import CommandListener

from mongo_envelope import (
    AsyncRepository,
    BlindIndex,
    CollectionKeyStore,
    ConfigurationError,
    Queryable,
    Repository,
    RevisionConflictError,
    Sensitive,
    UnknownKeyError,
)
from mongo_envelope.kms import LocalKMS

#: Seconds. Small, so that keys reach the end of their life while somebody watches.
REFRESH, EXPIRE = 0.6, 1.5
#: Seconds between two changes of roles by one process, on average. A key is destroyed `EXPIRE` after the last one at the soonest.
PAUSE = 4.0
#: Whoever cannot read a document for so many seconds fails.
LONGEST_WAIT = 5.0
#: Seconds without a change of roles in which a key must come to its end, on a machine that is busy, too.
LONGEST_REST = 30.0


class Member(BaseModel):
    id: int
    club: Annotated[str, Queryable()] = "chess"
    email: Annotated[str, Sensitive(index=BlindIndex(normalize="casefold"))]
    count: int = 0


def member(number: int) -> Member:
    return Member(id=number, email=f"{number}@example.com")


def kms_of(kek: str) -> list[LocalKMS]:
    """Two key-encryption keys."""
    return [LocalKMS(f"{number}" * 16, bytes.fromhex(kek)[number:] + bytes(number)) for number in range(2)]


def store_of(client: MongoClient[Any], database: str, kek: str, **options: Any) -> CollectionKeyStore:
    return CollectionKeyStore(
        client[database].get_collection("keys"), kms=kms_of(kek), refresh_after=REFRESH, expire_after=EXPIRE, **options
    )


class Waits:
    """How long somebody could not read a document: by design under a compromised key, until `Repository.rotate` has moved it."""

    def __init__(self) -> None:
        self.times = self.longest = self.slowest = 0
        self._began: float | None = None
        self._asked = 0.0

    def ask(self) -> None:
        self._asked = time.monotonic()

    def refused(self, error: UnknownKeyError) -> None:
        """Anything else than a compromised key fails the test."""
        if "compromised" not in str(error):
            raise error
        self._began = self._asked if self._began is None else self._began
        self.times += 1
        if time.monotonic() - self._began > LONGEST_WAIT:
            raise error

    def done(self) -> None:
        now = time.monotonic()
        self.slowest = max(self.slowest, round(1000 * (now - self._asked)))
        if self._began is not None:
            self.longest, self._began = max(self.longest, round(1000 * (now - self._began))), None

    @property
    def counts(self) -> dict[str, int]:
        return {"waits": self.times, "longest_ms": self.longest, "slowest_ms": self.slowest}


class Storm:
    """One process of several. Whatever is raised that is not written here ends it, and fails the test."""

    def __init__(self, client: MongoClient[Any], database: str, kek: str, seed: str) -> None:
        self.random = random.Random(seed)  # noqa: S311 - which work comes next
        self.kms = kms_of(kek)
        self.collection = client[database].members
        self.store = store_of(client, database, kek)
        self.members = Repository(Member, self.collection, keys=self.store)
        self.saved: list[int] = []
        self.next = int(seed) * 1_000_000
        self.waits = Waits()
        self.next_change = time.monotonic()
        self.retired: dict[str, float] = {}
        works = ("updated", "saved", "read", "rotated", "moved", "rewrapped", "compromised", "destroyed", "indexed")
        self.counts = dict.fromkeys(works, 0)

    @property
    def one(self) -> int:
        return self.random.randrange(50)

    def patiently(self, work: Callable[[], None]) -> None:
        while True:
            self.waits.ask()
            try:
                work()
            except UnknownKeyError as error:
                self.waits.refused(error)
            else:
                self.waits.done()
                return

    def read(self) -> None:
        number = self.one
        assert self.members.load(number).email == f"{number}@example.com"
        found = self.members.find_one({"email": f"{number}@EXAMPLE.com"})
        assert found is not None, f"{number} is not found by its blind index"
        assert found.id == number
        if self.random.random() < 0.1:
            assert sum(each.id < 50 for each in self.members.find()) == 50
        self.counts["read"] += 1

    def update(self) -> None:
        try:
            self.members.update(self.one, lambda each: each.model_copy(update={"count": each.count + 1}))
        except RevisionConflictError:
            return
        self.counts["updated"] += 1

    def save(self) -> None:
        self.next += 1
        self.members.save(member(self.next))
        self.counts["saved"] += 1

    def rotate(self) -> None:
        if time.monotonic() < self.next_change:
            return
        self.next_change = time.monotonic() + self.random.expovariate(1 / PAUSE)
        self.store.rotate_data_key()
        self.counts["rotated"] += 1

    def move(self) -> None:
        self.counts["moved"] += self.members.rotate()

    def rewrap(self) -> None:
        try:
            self.store.rotate_kek(self.random.choice(self.kms))
        except ConfigurationError as error:
            if "by somebody else" not in str(error):
                raise
            return
        self.counts["rewrapped"] += 1

    def compromise(self) -> None:
        """A key that sealed once, when no process seals by it any more, and no document is under it."""
        for key in self.store.keys():  # noqa: SIM118 - a store is no mapping
            if key.purpose != "data" or key.primary or key.state != "decrypt-only":
                continue
            since = time.monotonic() - self.retired.setdefault(key.kid, time.monotonic())
            if since > REFRESH + 0.3 and self.random.random() < 0.3 and not self.collection.count_documents({"kid": key.kid}):
                try:
                    self.store.mark_compromised(key.kid)
                except ConfigurationError as error:
                    if "is destroyed, and" not in str(error):
                        raise
                else:
                    self.counts["compromised"] += 1

    def destroy(self) -> None:
        for key in self.store.keys():  # noqa: SIM118 - a store is no mapping
            if key.state != "destroyed" and not (key.primary or key.written):
                try:
                    self.store.destroy_key(key.kid, unused_in=[self.collection])
                except ConfigurationError as error:
                    said = ("may still be in use", "documents are still under", "is in use", "is destroyed, and", "is the primary")
                    if not any(each in str(error) for each in said):
                        raise
                else:
                    self.counts["destroyed"] += 1

    def somebody_destroyed(self) -> bool:
        return any(key.state == "destroyed" for key in self.store.keys())  # noqa: SIM118 - a store is no mapping

    def index(self) -> None:
        """Another index key, while others search. Only one process does it."""
        first = self.store.ring().search_key
        second = self.store.add_index_key()
        self.wait()
        self.members.reindex()
        self.members.search_by(second)
        self.store.search_by(second)
        self.wait()
        self.store.write_only(second)
        self.wait()
        self.members.reindex()
        self.members.retire_index_key(first)
        self.counts["indexed"] += 1

    def wait(self) -> None:
        """Until every process has read the store again; working on."""
        until = time.monotonic() + REFRESH + 0.3
        while time.monotonic() < until:
            self.patiently(self.read)
            self.patiently(self.update)

    def run(self, seconds: float, *, first: bool) -> None:
        began = time.monotonic()
        # Then roles rest, until somebody has brought a key to its end: keys are destroyed `EXPIRE` after the last change of roles.
        while (passed := time.monotonic() - began) < seconds or (passed < seconds + LONGEST_REST and not self.somebody_destroyed()):
            works = [self.read, self.update, self.save, self.read, self.update, self.move, self.destroy]
            if passed < seconds:
                works += [self.rotate, self.rewrap, self.compromise]
                if first and self.random.random() < 0.01:
                    works = [self.index]
            work = self.random.choice(works)
            if work in (self.read, self.update):
                self.patiently(work)
            else:
                work()


async def read_async(client: MongoClient[Any], uri: str, database: str, kek: str, seconds: float) -> dict[str, int]:
    """A process that reads over the async driver."""
    until, reads, waits = time.monotonic() + seconds, 0, Waits()
    store = await CollectionKeyStore.open(
        client[database].get_collection("keys"), kms=kms_of(kek), refresh_after=REFRESH, expire_after=EXPIRE
    )
    async with AsyncMongoClient[Any](uri) as other:
        members = AsyncRepository(Member, other[database].members, keys=store)
        while time.monotonic() < until:
            waits.ask()
            try:
                number = reads % 50
                assert (await members.load(number)).email == f"{number}@example.com"
                found = await members.find_one({"email": f"{number}@EXAMPLE.com"})
                assert found is not None, f"{number} is not found by its blind index"
                if number == 0:
                    assert sum([each.id < 50 async for each in members.find()]) == 50
            except UnknownKeyError as error:
                waits.refused(error)
            else:
                waits.done()
                reads += 1
    return {"read": reads, **waits.counts}


class Killer(CommandListener):
    """Kills this process at its n-th command: before it leaves, or once it is answered."""

    def __init__(self, point: int, *, after: bool) -> None:
        self.point, self.after, self.seen, self.armed = point, after, 0, False

    def _at(self) -> None:
        if self.armed and self.seen == self.point:
            os.kill(os.getpid(), signal.SIGKILL)

    def started(self, event: Any) -> None:
        self.seen += self.armed
        if not self.after:
            self._at()

    def succeeded(self, event: Any) -> None:
        if self.after:
            self._at()

    def failed(self, event: Any) -> None:
        self.succeeded(event)


def rotation(what: str, store: CollectionKeyStore, members: Repository[Member], kek: str) -> None:
    """One rotation from its beginning to its end."""
    if what == "data":
        store.rotate_data_key()
        members.rotate()
    elif what == "kek":
        store.rotate_kek(kms_of(kek)[1])
        store.rotate_kek(kms_of(kek)[0])
    else:
        first, second = store.ring().search_key, store.add_index_key()
        members.reindex()
        store.search_by(second)
        store.write_only(second)
        members.reindex()
        if first is not None:
            store.destroy_key(first, unused_in=[members], even_if_used=True)


def say(what: Any) -> None:
    sys.stdout.write(f"{what}\n")


def main() -> None:
    what, uri, database, kek, seed, last = sys.argv[1:]
    if what in ("data", "kek", "index"):
        killer = Killer(int(last), after=seed == "after")
        with MongoClient[Any](uri, event_listeners=[killer]) as client:
            store = store_of(client, database, kek)
            members = Repository(Member, client[database].members, keys=store)
            members.load(0)
            killer.armed = True
            rotation(what, store, members, kek)
            say(killer.seen)
        return
    with MongoClient[Any](uri) as client:
        if what == "async":
            say(asyncio.run(read_async(client, uri, database, kek, float(last))))
            return
        storm = Storm(client, database, kek, seed)
        if what == "reader":
            until = time.monotonic() + float(last)
            while time.monotonic() < until:
                storm.patiently(storm.read)
        else:
            storm.run(float(last), first=what == "first")
        say({**storm.counts, **storm.waits.counts})


if __name__ == "__main__":
    main()
