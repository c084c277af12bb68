"""keystore: made once by many, changed by several at a time, killed at any moment; and what is in it is there afterwards."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import os
import random
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pymongo.monitoring
import pytest
from bson import Int64
from conftest import in_threads
from key_stores import Memory, PublicService, Service, decoded, encoded, store
from pymongo import AsyncMongoClient, MongoClient
from pymongo.database import Database
from test_leaks import forms, found

import mongo_envelope
from mongo_envelope import DataKey, IndexKey, KeyRing, embedded, envelope, unlock
from mongo_envelope import keystore as keystore_module
from mongo_envelope.errors import (
    ConfigurationError,
    EnvelopeError,
    IntegrityError,
    KMSError,
    MalformedEnvelopeError,
    UnknownKeyError,
)
from mongo_envelope.keystore import CollectionKeyStore, FileKeyStore, KeyStore, StoredKey
from mongo_envelope.kms import LocalKMS
from mongo_envelope.records import KeyRecord, Roles, Root, RootRecord
from mongo_envelope.storage import FileStorage

Db = Database[dict[str, Any]]
AT_ONCE: dict[str, Any] = {"refresh_after": 0.2, "expire_after": 0.3}


@pytest.fixture
def kms() -> Service:
    return Service()


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def keys_of(memory: Memory, kms: Service) -> KeyStore:
    """A new store in `memory`."""
    return store(memory, kms)


def same_ring(one: KeyRing, other: KeyRing) -> bool:
    return fingerprint(one) == fingerprint(other)


def fingerprint(ring: KeyRing) -> tuple[Any, ...]:
    """Roles, ids, and the check values of all material."""
    every = [*ring._keys.values(), *ring._index_keys.values()]
    checks = sorted((key.kid, type(key).__name__, key.check) for key in every)
    return ring.primary, ring.search_key, ring.written_index_keys, checks, ring._compromised, ring._destroyed


def stored(each: KeyStore) -> list[StoredKey]:
    """Its keys. It is no mapping."""
    return each.keys()


def state_of(each: KeyStore, kid: str) -> str:
    return next(key.state for key in stored(each) if key.kid == kid)


# --- opening one --------------------------------------------------------------------------------------------------------


def test_a_store_that_is_opened_without_its_fingerprint_says_so(
    memory: Memory, kms: Service, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever may encrypt could have put it there; with the fingerprint, and to who has made it, there is nothing to say."""
    made = store(memory, kms)
    caplog.clear()
    store(memory, kms, create=False)
    assert "without a fingerprint" in caplog.text
    assert caplog.text.count(made.fingerprint) == 1
    caplog.clear()
    store(memory, kms, create=False, fingerprint=made.fingerprint)
    assert caplog.text == ""


# --- making one -------------------------------------------------------------------------------------------------------


def test_a_new_store(memory: Memory, kms: Service, caplog: pytest.LogCaptureFixture) -> None:
    """It has a root, a data key and an index key; the fingerprint is logged once, and with it the store opens again."""
    made = store(memory, kms)
    assert list(memory.records) == ["root", f"{made.store_id}-data", f"{made.store_id}-index", "roles"]
    assert caplog.text.count(f"fingerprint='{made.fingerprint}'") == 1
    again = store(memory, kms, create=False, fingerprint=made.fingerprint)
    assert same_ring(again.ring(), made.ring())
    shown = [(key.kid, key.purpose, key.state, key.primary, key.searched, key.written) for key in stored(made)]
    assert sorted(shown) == [
        (f"{made.store_id}-data", "data", "active", True, False, False),
        (f"{made.store_id}-index", "index", "active", False, True, True),
    ]
    assert repr(made) == f"KeyStore(memory, store {made.store_id}, {made.ring()!r})"


def test_where_there_is_none(memory: Memory, kms: Service) -> None:
    """Without create, or with a fingerprint, none is made; where only the root is missing, neither."""
    with pytest.raises(ConfigurationError, match=r"there is no key store in memory.*create=True makes one"):
        store(memory, kms, create=False)
    with pytest.raises(ConfigurationError, match="the fingerprint says that there was one"):
        store(memory, kms, fingerprint="00" * 16)
    assert memory.records == {}
    made = store(memory, kms)
    memory.records.pop("root")
    with pytest.raises(IntegrityError, match="no root record of a key store"):
        store(memory, kms)
    memory.records[5] = encoded({"_id": 5})  # type: ignore[index]  # somebody's document
    with pytest.raises(MalformedEnvelopeError, match="its _id is no text"):
        store(memory, kms)
    assert made.fingerprint not in str(memory.records)


@pytest.mark.parametrize("after", range(1, 7))
def test_a_start_that_stopped_is_finished_by_the_next(memory: Memory, kms: Service, after: int) -> None:
    """After any number of steps: the next start finishes the store; one that may not make it says so."""

    def crash(name: str) -> None:
        if len(memory.calls) > after:
            raise KeyboardInterrupt

    memory.before = crash
    with pytest.raises(KeyboardInterrupt):
        store(memory, kms)
    memory.before = lambda name: None
    left = dict(memory.records)
    if left and "roles" not in left:
        with pytest.raises(ConfigurationError, match="create=True"):
            store(memory, kms, create=False)
    made = store(memory, kms)
    assert len(memory.records) == 4
    assert left.items() <= memory.records.items()
    assert same_ring(made.ring(), store(memory, kms, create=False).ring())


def test_roles_that_were_removed_are_not_made_again(memory: Memory, kms: Service, keys_of: KeyStore) -> None:
    """A store that was finished once and has been used is not finished again: that would take keys back into use."""
    keys_of.rotate_data_key()
    memory.records.pop("roles")
    left = dict(memory.records)
    with pytest.raises(ConfigurationError, match="roles record of the key store is missing"):
        store(memory, kms)
    for kid in [kid for kid in left if kid not in ("root", f"{keys_of.store_id}-data", f"{keys_of.store_id}-index")]:
        memory.records.pop(kid)
    with pytest.raises(ConfigurationError, match="roles record of the key store is missing"):
        store(memory, kms)  # the first key is decrypt-only by now
    assert memory.records.items() <= left.items()


def test_a_key_service_that_loses_what_it_wraps(memory: Memory, kms: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written that does not come back."""
    monkeypatch.setattr(kms, "unwrap", lambda wrapped: bytes(68))
    with pytest.raises(KMSError, match="does not unwrap what it has wrapped"):
        store(memory, kms)
    assert memory.records == {}


def test_an_identity_that_does_not_come_back(memory: Memory) -> None:
    """A store would be made that never opens."""
    for odd in ((1, 2), [b"x", (1,)]):
        with pytest.raises(ConfigurationError, match="does not come back from BSON"):
            store(memory, Service(odd=odd))
    assert memory.records == {}
    store(memory, Service(number=Int64(2**40), more={"a": True}))


def test_threads_that_start_at_once(memory: Memory, kms: Service) -> None:
    """Sixteen make one store."""
    rings: list[KeyRing] = []
    memory.before = lambda name: time.sleep(0.01 * random.random())  # noqa: S311 - a pause
    in_threads(16, lambda: rings.append(store(memory, kms).ring()))
    assert len({fingerprint(ring)[0] for ring in rings}) == 1
    assert all(same_ring(rings[0], ring) for ring in rings)
    assert len(memory.records) == 4


# --- both places, in processes of their own -------------------------------------------------------------------------------

WORKER = """
import sys, os, random, time
from pymongo import MongoClient
from mongo_envelope import DataKey, IndexKey, KeyRing, envelope
from mongo_envelope.keystore import CollectionKeyStore, FileKeyStore
from mongo_envelope.kms import LocalKMS
kind, where, kek = sys.argv[1:4]
kms = [LocalKMS("00" * 8, bytes.fromhex(kek)), LocalKMS("11" * 8, bytes.fromhex(kek))]
def opened(**options):
    options = {"kms": kms, "create": True, "refresh_after": 0.2, "expire_after": 0.3, **options}
    if kind == "file":
        return FileKeyStore(where, **options)
    uri, database = where.split(" ")
    return CollectionKeyStore(MongoClient(uri)[database].keys, **options)
def say(*words):
    print(*words, flush=True)
say("ready")
sys.stdin.readline()
"""


class Place:
    """A file or a collection for a store, its key-encryption keys, and processes that use it."""

    def __init__(self, kind: str, where: str, server: embedded.Server | None) -> None:
        self.kind, self.where = kind, where
        self.kek = os.urandom(32)
        self.kms = [LocalKMS("00" * 8, self.kek), LocalKMS("11" * 8, self.kek)]
        self.client = None if kind == "file" else MongoClient[dict[str, Any]](where.split(maxsplit=1)[0])

    def opened(self, **options: Any) -> KeyStore:
        options = {"kms": self.kms, **AT_ONCE, **options}
        if self.client is None:
            return FileKeyStore(self.where, **options)
        return CollectionKeyStore(self.client[self.where.split()[1]].keys, **options)

    def process(self, code: str) -> subprocess.Popen[str]:
        """One that has said that it is ready, and waits for a line."""
        return subprocess.Popen(
            [sys.executable, "-c", WORKER + code, self.kind, self.where, self.kek.hex()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if "kill" in code else None,
            text=True,
        )

    def ready(self, processes: list[subprocess.Popen[str]]) -> None:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"


@pytest.fixture(params=["file", "collection"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Each of the two in turn."""
    if request.param == "file":
        yield Place("file", str(tmp_path / "keys.store"), None)
        return
    server, database = request.getfixturevalue("server"), request.getfixturevalue("database")
    place = Place("collection", f"{server.uri} {database.name}", server)
    assert place.client is not None
    yield place
    place.client.close()


def test_processes_that_start_at_once(place: Place) -> None:
    """Eight make one store with one data key and one index key, and all have the same ring."""
    code = """
ring = opened().ring()
say(ring.primary, ring.search_key, [(k.kid, k.check.hex()) for k in (*ring._keys.values(), *ring._index_keys.values())])
"""
    processes = [place.process(code) for _ in range(8)]
    place.ready(processes)
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    answers = {process.communicate()[0] for process in processes}
    ring = place.opened().ring()
    keys = [(key.kid, key.check.hex()) for key in (*ring._keys.values(), *ring._index_keys.values())]
    assert answers == {f"{ring.primary} {ring.search_key} {keys}\n"}
    assert len(keys) == 2


RANDOM = """
store, sealed = opened(), []
random.seed(sys.argv[0] + sys.stdin.readline())
end = time.monotonic() + float(sys.stdin.readline())
def seal():
    store.ring()
    raw = envelope.seal({"_id": random.random()}, b"{}", keys=store.held, context="c")
    say(raw.hex())
def retire():
    kid = random.choice([k.kid for k in store.keys() if k.purpose == "data"])
    try:
        store.mark_compromised(kid) if random.random() < 0.05 else None
    except Exception as error:
        if "is the primary key" not in str(error) and "cannot become" not in str(error):
            raise
def index():
    try:
        kid = store.add_index_key()
        store.search_by(kid)
        store.write_only(kid)
    except Exception as error:
        if "searches do not go by" not in str(error) and "no values are written under" not in str(error):
            raise
def rewrap():
    try:
        store.rotate_kek(random.choice(kms))
    except Exception as error:
        if "by somebody else" not in str(error):
            raise
adopted = KeyRing([DataKey("file", b"f" * 32)], index_keys=[IndexKey("file-x", b"x" * 32)])
while time.monotonic() < end:
    random.choice([seal, seal, seal, store.rotate_data_key, retire, index, rewrap, lambda: store.adopt(adopted), opened])()
say("done")
"""


def storm(place: Place, seconds: float) -> None:
    """Two processes change one store at random; a third one reads. What was sealed opens in a store that looks for it."""
    place.opened(create=True)
    reader = place.opened()
    processes = [place.process(RANDOM) for _ in range(2)]
    sealed: list[bytes] = []

    def listen(process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        sealed.extend(bytes.fromhex(line) for line in map(str.strip, process.stdout) if line != "done")

    try:
        place.ready(processes)
        threads = [threading.Thread(target=listen, args=(process,)) for process in processes]
        for number, (process, thread) in enumerate(zip(processes, threads, strict=True)):
            assert process.stdin is not None
            process.stdin.write(f"\n{number}\n{seconds}\n")
            process.stdin.flush()
            thread.start()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            reader.refresh()
            time.sleep(0.01)
        for thread in threads:
            thread.join(60.0)
        assert [process.wait(60.0) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert len(sealed) > 5
    for raw in sealed:
        ring = reader.look_for(decoded(raw)["kid"]).for_rotation()
        envelope.open(raw, keys=ring, context="c")
    assert same_ring(reader.refresh(), place.opened().ring())
    assert len([key for key in stored(reader) if key.purpose == "data" and key.state == "active"]) <= 4


def test_two_processes_change_a_store_at_random(place: Place) -> None:
    """For two seconds: nobody ever sees records that contradict each other, and every document opens."""
    storm(place, 2.0)


@pytest.mark.soak
def test_two_processes_change_a_store_at_random_for_a_minute(place: Place) -> None:
    """The same, longer."""
    storm(place, 60.0)


KILLED = {
    "create": "opened(); say('begun')\nfor n in range(10**6):\n    opened() if kind == 'file' else None\n    time.sleep(0.001)",
    "rotate_data_key": "store = opened(); say('begun')\nwhile True: store.rotate_data_key()",
    "rotate_kek": "store = opened(); say('begun')\nwhile True: store.rotate_kek(kms[0]); store.rotate_kek(kms[1])",
    "destroy_key": """store = opened(); say('begun')
while True:
    old = store.ring().primary
    store.rotate_data_key()
    store.destroy_key(old, unused_in=[], even_if_used=True)""",
    "adopt": """store = opened(); say('begun')
for n in range(10**6):
    keys = [DataKey(f"{kind}{n}", os.urandom(32)) for kind in "ab"]
    store.adopt(KeyRing(keys, index_keys=[IndexKey(f"x{n}", os.urandom(32))]))""",
}


def killed(place: Place, what: str, times: int) -> None:
    """Kill a process so often in the middle of something; each time the next start goes on, and what was known is there."""
    known: dict[str, bytes] = {}
    for number in range(times):
        if what == "create" and number:
            known.clear()
            if place.client is None:
                Path(place.where).unlink()
            else:
                place.client.drop_database(place.where.split()[1])
        process = place.process(KILLED[what] + "\n# kill")
        try:
            place.ready([process])
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            if what != "create":
                assert process.stdout.readline() == "begun\n"
            time.sleep(0.05 * random.random())  # noqa: S311 - a moment
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        after = place.opened(create=True)
        ring = after.ring()
        now = {key.kid: key.check for key in (*ring._keys.values(), *ring._index_keys.values())}
        gone = {key.kid for key in stored(after) if key.state == "destroyed"}
        assert {kid: check for kid, check in known.items() if kid not in gone}.items() <= now.items()
        assert what == "destroy_key" or not gone
        known = now
        kid = after.rotate_data_key()  # nobody holds the lock
        assert after.ring().primary == kid
        known[kid] = after.ring()._keys[kid].check
        after.rotate_kek(place.kms[number % 2])
    if place.kind == "file":
        files = list(Path(place.where).parent.iterdir())
        assert {each.name for each in files} == {"keys.store", ".keys.store.lock"}
        assert {stat.S_IMODE(each.stat().st_mode) for each in files} == {0o600}


@pytest.mark.parametrize("what", KILLED)
def test_a_process_that_is_killed(place: Place, what: str) -> None:
    """Whenever it is: the store opens, nothing is lost, and what is changed next is changed."""
    killed(place, what, 1)


@pytest.mark.soak
@pytest.mark.parametrize("what", KILLED)
def test_a_process_that_is_killed_fifty_times(place: Place, what: str) -> None:
    """The same at fifty random moments."""
    killed(place, what, 50)


def test_an_active_key_is_retired_before_it_is_destroyed(memory: Memory, keys_of: KeyStore) -> None:
    """As the specification says: who is about to give it a role sees that in time."""
    memory.insert(KeyRecord.of(DataKey("k", os.urandom(32))).sealed(keys_of._root))
    keys_of.refresh()
    memory.calls.clear()
    keys_of.destroy_key("k", unused_in=[], even_if_used=True)
    assert memory.calls.count("replace") == 3  # retired, the roles as they are, destroyed
    assert state_of(keys_of, "k") == "destroyed"


@pytest.mark.parametrize("after", range(1, 14))
@pytest.mark.parametrize("what", ["rotate_data_key", "rotate_kek", "destroy_key", "adopt", "add_index_key"])
def test_a_change_that_stopped_after_any_step(memory: Memory, kms: Service, keys_of: KeyStore, what: str, after: int) -> None:
    """After each operation on the storage in turn: the store opens, what is sealed opens, and the change can be made again."""
    old = keys_of.ring().primary
    if what == "destroy_key":
        old = keys_of.rotate_data_key()
        keys_of.rotate_data_key()
    raw = envelope.seal({"_id": 1}, b"{}", keys=keys_of.ring(), context="c")
    ring, new = KeyRing.generate(), Service()
    changes: dict[str, Callable[[KeyStore], Any]] = {
        "rotate_data_key": lambda each: each.rotate_data_key(),
        "rotate_kek": lambda each: each.rotate_kek(new),
        "destroy_key": lambda each: each.destroy_key(old, unused_in=[], even_if_used=True),
        "adopt": lambda each: each.adopt(ring),
        "add_index_key": lambda each: each.add_index_key(),
    }
    memory.calls.clear()

    def crash(name: str) -> None:
        if len(memory.calls) > after:
            raise KeyboardInterrupt

    memory.before = crash
    with contextlib.suppress(KeyboardInterrupt):
        changes[what](keys_of)
    memory.before = lambda name: None
    again = store(memory, [kms, new], create=False)
    envelope.open(raw, keys=again.ring(), context="c")
    changes[what](again)
    envelope.open(raw, keys=again.ring(), context="c")
    if what == "adopt":
        assert again.ring().primary == ring.primary
    if what == "destroy_key":
        assert state_of(again, old) == "destroyed"


# --- data keys --------------------------------------------------------------------------------------------------------


def test_a_new_data_key_seals(memory: Memory, kms: Service, keys_of: KeyStore) -> None:
    """The one before opens only; documents under it open, in this store object and in others."""
    old = keys_of.ring().primary
    raw = envelope.seal({"_id": 1}, b"{}", keys=keys_of.ring(), context="c")
    kid = keys_of.rotate_data_key()
    assert (keys_of.ring().primary, state_of(keys_of, kid), state_of(keys_of, old)) == (kid, "active", "decrypt-only")
    for each in (keys_of, store(memory, kms)):
        envelope.open(raw, keys=each.ring(), context="c")


def test_a_store_that_was_emptied_is_made_again_and_says_so(database: Db) -> None:
    """Somebody deletes all records but the root: the new keys have the old ids, and are not written beside documents of the old."""
    from customer_model import Customer

    from mongo_envelope import Repository

    kms = LocalKMS.generate()
    keys = CollectionKeyStore(database.keys, kms=kms, create=True)
    rotated = CollectionKeyStore(database.rotated, kms=kms, create=True)
    rotated.rotate_data_key()
    for store_of, collection in ((keys, database.customers), (rotated, database.orders)):
        Repository(Customer, collection, keys=store_of).save(Customer())
        records = database[store_of._storage._collection.name]
        records.delete_many({"_id": {"$ne": "root"}})
        made = CollectionKeyStore(records, kms=kms, create=True, fingerprint=store_of.fingerprint)
        with pytest.raises(ConfigurationError, match="sealed under other keys"):
            Repository(Customer, collection, keys=made).save(Customer())
        assert collection.count_documents({}) == 1


def test_a_start_that_was_finished_by_another_goes_on(database: Db) -> None:
    """Documents that the first has sealed by then are under the same key, and no hindrance."""
    from customer_model import Customer

    from mongo_envelope import Repository

    kms = LocalKMS.generate()
    first = CollectionKeyStore(database.keys, kms=kms, create=True)
    database.keys.delete_many({"_id": {"$ne": "root"}})
    second = CollectionKeyStore(database.keys, kms=kms, create=True)
    assert (first.finished, second.made, second.finished) == (False, True, True)
    Repository(Customer, database.customers, keys=CollectionKeyStore(database.keys, kms=kms)).save(Customer())
    Repository(Customer, database.customers, keys=second).save(Customer())
    assert database.customers.count_documents({}) == 2


def test_a_key_that_a_crash_left_behind_is_retired(memory: Memory, keys_of: KeyStore) -> None:
    """One that was made a while ago, and never sealed: by the next rotation. One that somebody is making now is let alone."""
    for kid, made in (("left", datetime.now(UTC) - timedelta(minutes=2)), ("new", datetime.now(UTC))):
        memory.insert(KeyRecord.of(DataKey(kid, os.urandom(32), created=made)).sealed(keys_of._root))
    keys_of.rotate_data_key()
    assert (state_of(keys_of, "left"), state_of(keys_of, "new")) == ("decrypt-only", "active")


def interleaved(memory: Memory, number: int, other: Callable[[], Any]) -> list[str]:
    """Let somebody else do something ahead of an operation on the storage, once."""
    memory.calls.clear()
    done: list[str] = []

    def meanwhile(name: str) -> None:
        if len(memory.calls) == number and not done:
            done.append(name)
            other()

    memory.before = meanwhile
    return done


@pytest.mark.parametrize("number", range(1, 16))
@pytest.mark.parametrize("other", ["rotate_data_key", "adopt", "mark", "add_index_key"])
@pytest.mark.parametrize("mine", ["rotate_data_key", "adopt", "add_index_key"])
def test_two_changes_at_a_time(memory: Memory, kms: Service, keys_of: KeyStore, *, mine: str, other: str, number: int) -> None:
    """One between any two steps of the other: both come about, and the store is free of contradictions."""
    rings = [KeyRing.generate(), KeyRing.generate()]
    first = keys_of.ring().primary
    second = store(memory, kms)

    def mark() -> None:
        second.rotate_data_key()
        second.mark_compromised(first)

    def change(each: KeyStore, what: str, ring: KeyRing) -> None:
        {"rotate_data_key": each.rotate_data_key, "adopt": lambda: each.adopt(ring), "mark": mark}.get(what, each.add_index_key)()

    interleaved(memory, number, lambda: change(second, other, rings[1]))
    change(keys_of, mine, rings[0])
    memory.before = lambda name: None
    third = store(memory, kms, create=False)
    assert same_ring(third.ring(), keys_of.refresh())
    assert same_ring(third.ring(), second.refresh())


def test_a_new_key_that_is_destroyed_at_once(memory: Memory, kms: Service, keys_of: KeyStore) -> None:
    """Somebody destroys the key that is about to seal: told, and the old one goes on sealing."""
    second, old = store(memory, kms), keys_of.ring().primary

    def destroy() -> None:
        [new] = [key.kid for key in stored(second) if key.kid != old and key.purpose == "data"]
        second.destroy_key(new, unused_in=[], even_if_used=True)

    interleaved(memory, 3, destroy)
    with pytest.raises(ConfigurationError, match="has been destroyed in the meantime"):
        keys_of.rotate_data_key()
    assert store(memory, kms, create=False).ring().primary == old


@pytest.mark.parametrize("number", range(2, 9))
@pytest.mark.parametrize("deed", ["destroy", "mark"])
@pytest.mark.parametrize("what", ["rotate_data_key", "add_index_key"])
def test_a_key_that_is_about_to_get_a_role(
    database: Db, memory: Memory, kms: Service, keys_of: KeyStore, *, what: str, deed: str, number: int
) -> None:
    """Somebody destroys or marks it, ahead of any step: one of the two is refused, and the store opens."""
    second, old = store(memory, kms), {key.kid for key in stored(keys_of)}

    def interfere() -> None:
        for key in stored(second):
            if key.kid not in old:
                with contextlib.suppress(ConfigurationError):
                    if deed == "mark":
                        second.mark_compromised(key.kid)
                    else:
                        forced = key.purpose == "data"  # an index key that is as young is not destroyed without force
                        second.destroy_key(key.kid, unused_in=[database.customers], even_if_used=forced)

    interleaved(memory, number, interfere)
    with contextlib.suppress(ConfigurationError):
        getattr(keys_of, what)()
    memory.before = lambda name: None
    assert same_ring(store(memory, kms, create=False).ring(), keys_of.refresh())


@pytest.mark.parametrize("number", range(1, 4))
@pytest.mark.parametrize("what", ["destroy", "mark", "destroy index"])
def test_a_key_that_gets_a_role_and_is_taken_out_of_use_at_the_same_moment(
    memory: Memory, kms: Service, keys_of: KeyStore, *, what: str, number: int
) -> None:
    """Ahead of each write of a rotation somebody destroys or marks the new key: the store opens, and does not seal under it."""
    second, before = store(memory, kms), {key.kid for key in stored(keys_of)}
    done: list[str] = []

    def meanwhile(name: str) -> None:
        if name == "replace" and memory.calls.count("replace") == number and not done:
            done.extend(key.kid for key in stored(second) if key.kid not in before)
            if what == "mark":
                second.mark_compromised(done[0])
            else:
                second.destroy_key(done[0], unused_in=[], even_if_used=True)

    memory.calls.clear()
    memory.before = meanwhile
    rotate = keys_of.add_index_key if what == "destroy index" else keys_of.rotate_data_key
    kid = ""
    with contextlib.suppress(ConfigurationError):
        kid = rotate()
    memory.before = lambda name: None
    ring = store(memory, kms, create=False).ring()
    assert not {ring.primary, ring.search_key, *ring.written_index_keys} & {*done}
    assert kid in ("", ring.primary, *ring.written_index_keys)
    assert same_ring(ring, keys_of.refresh())
    assert same_ring(ring, second.refresh())


def test_an_index_key_is_destroyed_while_it_becomes_the_only_one(
    memory: Memory, kms: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is none left to search by: null, and the store opens. One turn is enough."""
    monkeypatch.setattr(keystore_module, "_TURNS", 1)
    root = Root.generate()
    memory.insert(KeyRecord.of(DataKey("data", os.urandom(32))).sealed(root))
    memory.insert(Roles("data", None, (), datetime.now(UTC)).sealed(root))
    memory.insert(RootRecord(root.store, dict(kms.identity), kms.wrap(root.secret), datetime.now(UTC)).as_bson())
    keys, second = store(memory, kms), store(memory, kms)
    done: list[str] = []

    def destroy(name: str) -> None:
        if name == "replace" and not done:
            done.extend(key.kid for key in stored(second) if key.purpose == "index")
            second.destroy_key(done[0], unused_in=[], even_if_used=True)

    memory.before = destroy
    with pytest.raises(ConfigurationError, match="has been destroyed in the meantime"):
        keys.add_index_key()
    memory.before = lambda name: None
    assert store(memory, kms).ring().index_keys == ()


def test_what_is_edited_during_a_change_is_not_mended(memory: Memory, keys_of: KeyStore) -> None:
    """A record that is no record is reported, and roles are not written for its sake."""

    def edit(name: str) -> None:
        if name == "replace":
            memory.records["junk"] = encoded({"_id": "junk"})

    memory.before = edit
    with pytest.raises(MalformedEnvelopeError):
        keys_of.add_index_key()
    memory.records["roles"], memory.records["junk"] = memory.records["junk"], memory.records["roles"]
    memory.calls.clear()
    with pytest.raises(EnvelopeError):
        keys_of._refresh_and_mend()
    assert "replace" not in memory.calls


def test_a_record_that_is_changed_all_the_time(memory: Memory, keys_of: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else is always first: a temporary error in the end."""
    monkeypatch.setattr(memory, "replace", lambda raw, before: False)
    with pytest.raises(KMSError, match="changed by others all the time") as caught:
        keys_of.add_index_key()
    assert caught.value.temporary


def test_a_compromised_key(keys_of: KeyStore) -> None:
    """It opens for a rotation alone, and does not become anything but destroyed; one that seals, or an index key, is refused."""
    old = keys_of.ring().primary
    raw = envelope.seal({"_id": 1}, b"{}", keys=keys_of.ring(), context="c")
    with pytest.raises(ConfigurationError, match=r"rotate_data_key\(\) first"):
        keys_of.mark_compromised(old)
    with pytest.raises(ConfigurationError, match="is an index key"):
        keys_of.mark_compromised(str(keys_of.ring().search_key))
    with pytest.raises(ConfigurationError, match="there is no key 'none'"):
        keys_of.mark_compromised("none")
    keys_of.rotate_data_key()
    for _ in range(2):
        keys_of.mark_compromised(old)
    with pytest.raises(UnknownKeyError, match="compromised"):
        envelope.open(raw, keys=keys_of.ring(), context="c")
    envelope.open(raw, keys=keys_of.ring().for_rotation(), context="c")
    keys_of.destroy_key(old, unused_in=[], even_if_used=True)
    with pytest.raises(ConfigurationError, match="is destroyed, and cannot become compromised"):
        keys_of.mark_compromised(old)
    with pytest.raises(UnknownKeyError, match="destroyed"):
        envelope.open(raw, keys=keys_of.ring().for_rotation(), context="c")


# --- destroying -------------------------------------------------------------------------------------------------------


def test_a_key_in_use_is_not_destroyed(database: Db) -> None:
    """One that seals or is written; one whose documents are there, with their number; one whose role changed just now."""
    kms = LocalKMS.generate()
    keys = CollectionKeyStore(database.keys, kms=kms, create=True, **AT_ONCE)
    old, index = keys.ring().primary, str(keys.ring().search_key)
    for kid in (old, index):
        with pytest.raises(ConfigurationError, match=f"{kid} is in use"):
            keys.destroy_key(kid, unused_in=[database.customers], even_if_used=True)
    keys.rotate_data_key()
    new = keys.add_index_key()
    keys.search_by(new)
    keys.write_only(new)
    with pytest.raises(ConfigurationError, match=r"may still be in use by a process that cannot reach the store.* UTC on"):
        keys.destroy_key(old, unused_in=[database.customers])
    time.sleep(0.35)
    database.customers.insert_many([{"kid": old, "idx": {"kid": index}}, {"kid": old, "idx": {"kid": [new, index]}}, {"kid": "k"}])
    for kid in (old, index):
        with pytest.raises(ConfigurationError, match=f"documents are still under {kid}: 2 of {database.name}.customers. Repo"):
            keys.destroy_key(kid, unused_in=[database.orders, database.customers])
    for wrong, says in (([], "unused_in= names the collections"), (["customers"], "unused_in= takes collections")):
        with pytest.raises(ConfigurationError, match=says):
            keys.destroy_key(old, unused_in=wrong)
    database.customers.delete_many({})
    for kid in (old, index):
        keys.destroy_key(kid, unused_in=[database.customers])
        keys.destroy_key(kid, unused_in=[database.customers])  # again
        assert state_of(keys, kid) == "destroyed"
    assert index not in keys.ring().index_keys


def test_a_collection_that_is_not_there_is_not_taken_for_an_empty_one(database: Db) -> None:
    """A misspelt name has no documents under any key, and the key would be gone."""
    keys = CollectionKeyStore(database.keys, kms=LocalKMS.generate(), create=True, **AT_ONCE)
    old = keys.ring().primary
    keys.rotate_data_key()
    time.sleep(0.35)
    database.customers.insert_one({"kid": "another"})
    with pytest.raises(ConfigurationError, match=f"that are not there: {database.name}.custmoers. If a name is misspelt"):
        keys.destroy_key(old, unused_in=[database.customers, database.custmoers])
    assert state_of(keys, old) == "decrypt-only"
    keys.destroy_key(old, unused_in=[database.customers])
    assert state_of(keys, old) == "destroyed"


def test_no_repository_keeps_its_documents_among_the_records(database: Db) -> None:
    """One document in the collection of the store, and no process could open the store any more."""
    from customer_model import Customer

    from mongo_envelope import Repository

    keys = CollectionKeyStore(database.keys, kms=LocalKMS.generate(), create=True, **AT_ONCE)
    with pytest.raises(ConfigurationError, match=f"{database.name}.keys is where the key store keeps its records"):
        Repository(Customer, database.keys, keys=keys)
    Repository(Customer, database.customers, keys=keys)


def test_a_repository_names_its_collection(database: Db, client: MongoClient[dict[str, Any]]) -> None:
    """As `unused_in` takes collections it takes repositories; those of the async driver cannot be counted here."""
    from customer_model import Customer

    from mongo_envelope import Repository

    keys = CollectionKeyStore(database.keys, kms=LocalKMS.generate(), create=True, **AT_ONCE)
    repository = Repository(Customer, client[database.name].customers, keys=keys.ring())
    assert keystore_module._collection_of(repository).full_name == f"{database.name}.customers"


def test_an_index_key_that_gets_a_role_meanwhile(memory: Memory, kms: Service, keys_of: KeyStore) -> None:
    """Between the question and the deed somebody writes under it again: refused."""
    ring = KeyRing([DataKey.generate()], index_keys=[IndexKey.generate()])
    index = ring.index_keys[0]
    memory.insert(KeyRecord.of(ring.index_key(index)).sealed(keys_of._root))
    second = store(memory, kms)
    keys_of.refresh()
    interleaved(memory, 2, lambda: second.adopt(ring))
    with pytest.raises(ConfigurationError, match=f"index values are written under {index}"):
        keys_of.destroy_key(index, unused_in=[], even_if_used=True)
    memory.before = lambda name: None
    assert same_ring(store(memory, kms).ring(), second.ring())


def test_a_destroyed_key_leaves_a_tombstone(memory: Memory, kms: Service, keys_of: KeyStore) -> None:
    """Its id is never used again, and its material is gone from what is stored."""
    old = keys_of.ring().primary
    key = keys_of.ring()._keys[old]
    keys_of.rotate_data_key()
    length = len(memory.records[old])
    keys_of.destroy_key(old, unused_in=[], even_if_used=True)
    assert len(memory.records[old]) < length
    root = keys_of._root
    opened = envelope.open(memory.records[old], keys=root.ring, context=root.context)
    assert opened.payload == b"{}"
    assert not memory.insert(KeyRecord.of(key).sealed(root))
    with pytest.raises(ConfigurationError, match=f"there is another key {old}"):
        keys_of._insert(KeyRecord.of(key))
    keys_of.adopt(KeyRing([DataKey.generate(), key]))
    assert state_of(keys_of, old) == "destroyed"


# --- the key-encryption key -------------------------------------------------------------------------------------------


def test_another_key_encryption_key(memory: Memory, kms: Service, keys_of: KeyStore) -> None:
    """The keys stay, the old one opens nothing any more and is not asked; during the roll-out both are given."""
    ring, records, new = keys_of.ring(), dict(memory.records), Service()
    rolling = store(memory, [new, kms], create=False)
    keys_of.rotate_kek(new)
    assert {name for name in records if records[name] != memory.records[name]} == {"root"}
    assert decoded(records["root"])["created"] == decoded(memory.records["root"])["created"]
    kms.calls.clear()
    with pytest.raises(ConfigurationError, match="After a rewrap, configure the new one"):
        store(memory, kms)
    for both in ([new, kms], [kms, new], new):
        assert same_ring(store(memory, both).ring(), ring)
    assert kms.calls == []
    rolling._unlock(memory.read(), unlock._clock())
    keys_of._unlock(memory.read(), unlock._clock())
    keys_of.rotate_kek(new)  # anew by the same
    assert same_ring(store(memory, new).ring(), ring)


def test_a_service_that_wraps_nothing_is_refused(memory: Memory, keys_of: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stub that gives back what it gets, or has put something before it, would leave the root in the clear."""
    records, new = dict(memory.records), Service()
    for prefix in (b"", b"v1:"):
        monkeypatch.setattr(new, "wrap", lambda secret, prefix=prefix: prefix + secret)
        monkeypatch.setattr(new, "unwrap", lambda wrapped, prefix=prefix: wrapped.removeprefix(prefix))
        with pytest.raises(KMSError, match="has not wrapped it: nothing was written") as caught:
            keys_of.rotate_kek(new)
        assert caught.value.__context__ is None
    assert memory.records == records


def test_a_wrap_that_is_not_unwrapped_is_not_written(memory: Memory, keys_of: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the new service makes of the root is compared before anything is written."""
    records, new = dict(memory.records), Service()
    for answer in (bytes(68), b""):
        monkeypatch.setattr(new, "unwrap", lambda wrapped, answer=answer: answer)
        with pytest.raises(KMSError, match="nothing was written"):
            keys_of.rotate_kek(new)
    new.down()
    with pytest.raises(KMSError, match="on fire"):
        keys_of.rotate_kek(new)
    assert memory.records == records
    with pytest.raises(ConfigurationError, match="kms= takes"):
        keys_of.rotate_kek(None)  # type: ignore[arg-type]  # that is the test


def test_of_two_that_wrap_at_once_one_wins(memory: Memory, kms: Service, keys_of: KeyStore) -> None:
    """The other is told, and changes nothing."""
    second, new, third = store(memory, kms), Service(), Service()
    new.before = lambda name: second.rotate_kek(third) if name == "unwrap" else None
    with pytest.raises(ConfigurationError, match="by somebody else at the same time: nothing was changed here"):
        keys_of.rotate_kek(new)
    assert same_ring(store(memory, third).ring(), keys_of.ring())


def test_a_public_key_wants_the_fingerprint(memory: Memory, kms: Service, keys_of: KeyStore) -> None:
    """A store that was opened without it does not go over to such a key; whoever has made it, or was given it, does."""
    new = PublicService()
    with pytest.raises(ConfigurationError, match="opened with its fingerprint"):
        store(memory, kms).rotate_kek(new)
    keys_of.rotate_kek(new)
    assert same_ring(store(memory, new, fingerprint=keys_of.fingerprint).ring(), keys_of.ring())


def test_a_root_that_was_swapped_is_not_wrapped(memory: Memory, kms: Service, keys_of: KeyStore) -> None:
    """What is wrapped anew is what is held, and the record must still be that."""
    other = Memory()
    store(other, kms)
    memory.records["root"] = other.records["root"]
    with pytest.raises(IntegrityError, match="fingerprint"):
        keys_of.rotate_kek(Service())


# --- index keys -------------------------------------------------------------------------------------------------------


def test_one_index_key_takes_the_place_of_another(keys_of: KeyStore) -> None:
    """Written beside, searched by, written alone: in this order, and in no other."""
    old = str(keys_of.ring().search_key)
    new = keys_of.add_index_key()
    assert (keys_of.ring().search_key, keys_of.ring().written_index_keys) == (old, tuple(sorted([old, new])))
    with pytest.raises(ConfigurationError, match="searches do not go by"):
        keys_of.write_only(new)
    with pytest.raises(ConfigurationError, match="no values are written under 'none'"):
        keys_of.search_by("none")
    keys_of.search_by(new)
    keys_of.write_only(new)
    assert (keys_of.ring().search_key, keys_of.ring().written_index_keys) == (new, (new,))
    assert old in keys_of.ring().index_keys


def test_a_first_index_key_is_searched_by(memory: Memory, kms: Service, keys_of: KeyStore) -> None:
    """Where a store has none."""
    roles = Roles(keys_of.ring().primary, None, (), datetime.now(UTC))
    memory.records["roles"] = roles.sealed(keys_of._root)
    again = store(memory, kms)
    assert again.ring().index_keys == ()
    kid = again.add_index_key()
    assert again.ring().search_key == kid


# --- from elsewhere, and to elsewhere ---------------------------------------------------------------------------------


@pytest.fixture
def ring() -> KeyRing:
    """As from a key file: two data keys, two index keys."""
    index = [IndexKey.generate("x1"), IndexKey.generate("x2")]
    return KeyRing(
        [DataKey.generate("k1"), DataKey.generate("k2")], primary="k2", index_keys=index, search_by="x2", written=["x2", "x1"]
    )


def test_a_key_file_is_adopted(memory: Memory, kms: Service, keys_of: KeyStore, ring: KeyRing) -> None:
    """Its keys under their ids, its roles; again changes nothing, and does not go back after any rotation."""
    raw = envelope.seal({"_id": 1}, b"{}", keys=ring, context="c")
    first = keys_of.ring().primary
    for each in (keys_of, store(memory, kms)):
        each.adopt(ring)
        now = each.ring()
        assert (now.primary, now.search_key, now.written_index_keys) == ("k2", "x2", ("x1", "x2"))
        assert (state_of(each, "k1"), state_of(each, first)) == ("decrypt-only", "decrypt-only")
        envelope.open(raw, keys=now, context="c")
    new = keys_of.add_index_key()
    keys_of.search_by(new)
    keys_of.write_only(new)
    before = dict(memory.records)
    keys_of.adopt(ring)
    assert memory.records == before
    kid = keys_of.rotate_data_key()
    keys_of.adopt(ring)
    assert (keys_of.ring().primary, keys_of.ring().written_index_keys) == (kid, (new,))
    keys_of.destroy_key("x1", unused_in=[], even_if_used=True)
    keys_of.destroy_key("k2", unused_in=[], even_if_used=True)
    keys_of.adopt(ring)
    assert (state_of(keys_of, "x1"), state_of(keys_of, "k2")) == ("destroyed", "destroyed")


def test_what_is_not_adopted(memory: Memory, keys_of: KeyStore, ring: KeyRing) -> None:
    """No ring; another key of an id that is taken; the same material for another purpose; an id no key can have."""
    keys_of.adopt(ring)
    before = dict(memory.records)
    with pytest.raises(ConfigurationError, match="adopt takes a KeyRing"):
        keys_of.adopt("keys.json")  # type: ignore[arg-type]  # that is the test
    same = ring._keys["k1"]._material
    for odd in (
        KeyRing([DataKey.generate("k1")]),
        KeyRing([ring._keys["k2"]], index_keys=[IndexKey("k1", same)]),
    ):
        with pytest.raises(ConfigurationError, match="there is another key k1: nothing was changed"):
            keys_of.adopt(odd)
    with pytest.raises(ConfigurationError, match="cannot have the id 'roles'"):
        keys_of.adopt(KeyRing([DataKey.generate("roles")]))
    assert memory.records == before


def test_a_ring_without_index_keys_leaves_them(keys_of: KeyStore) -> None:
    """The store has its own; a key that is compromised in a ring is so in the store."""
    index = keys_of.ring().index_keys
    keys_of.adopt(KeyRing([DataKey.generate("k"), DataKey.generate("bad")], compromised=["bad"]))
    assert (keys_of.ring().primary, keys_of.ring().written_index_keys) == ("k", index)
    assert state_of(keys_of, "bad") == "compromised"


def test_values_are_not_written_under_a_destroyed_key(keys_of: KeyStore, ring: KeyRing) -> None:
    """Even if a ring says so that was not adopted before."""
    keys_of.adopt(KeyRing([DataKey.generate()], index_keys=[ring.index_key("x1")]))
    new = keys_of.add_index_key()
    keys_of.search_by(new)
    keys_of.write_only(new)
    keys_of.destroy_key("x1", unused_in=[], even_if_used=True)
    with pytest.raises(ConfigurationError, match="writes index values under x1, which has been destroyed"):
        keys_of.adopt(ring)


def test_backup_and_restore(place: Place, tmp_path: Path) -> None:
    """All records as they are, in a private file; back into an empty place only; again after an interruption."""
    keys = place.opened(create=True)
    keys.rotate_data_key()
    path = tmp_path / "backup"
    keys.backup(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(ConfigurationError, match="exists already: a backup is never overwritten"):
        keys.backup(path)
    content = path.read_bytes()
    ring = keys.ring()
    for key in (*ring._keys.values(), *ring._index_keys.values(), keys._root):
        assert not any(form in content for form in forms(key._material))
    restored = tmp_path / "restored"
    for _ in range(2):
        FileKeyStore.restore(restored, path)
    assert same_ring(FileKeyStore(restored, kms=place.kms).ring(), ring)
    FileKeyStore(restored, kms=place.kms).rotate_data_key()
    with pytest.raises(ConfigurationError, match="holds 3 other records"):
        FileKeyStore.restore(restored, path)
    with pytest.raises(ConfigurationError, match="there is no backup in"):
        FileKeyStore.restore(tmp_path / "new", tmp_path / "none")


def test_a_backup_goes_into_a_collection(database: Db, tmp_path: Path) -> None:
    """Whole, or after an interruption once more; what others have put there is not touched. It opens with its fingerprint."""
    kms = LocalKMS.generate()
    keys = FileKeyStore(tmp_path / "a", kms=kms, create=True)
    keys.backup(tmp_path / "b")
    some = [decoded(raw) for raw in FileStorage(tmp_path / "b", 1.0).read()]
    database.keys.insert_one(next(each for each in some if each["_id"] == "roles"))
    CollectionKeyStore.restore(database.keys, tmp_path / "b")
    assert same_ring(CollectionKeyStore(database.keys, kms=kms, fingerprint=keys.fingerprint).ring(), keys.ring())
    database.others.insert_one({"_id": "x"})
    with pytest.raises(ConfigurationError, match="holds 1 other records"):
        CollectionKeyStore.restore(database.others, tmp_path / "b")


@pytest.mark.parametrize("what", ["roles", "wrapped", "kms", "no root", "no roles"])
def test_what_does_not_open_is_no_backup(memory: Memory, keys_of: KeyStore, tmp_path: Path, what: str) -> None:
    """A record that was edited or removed, that of the root, too, is noticed when it is backed up, and not years later."""
    edits: dict[str, Callable[[], Any]] = {
        "roles": lambda: memory.edit("roles", primary="evil"),
        "wrapped": lambda: memory.edit("root", wrapped=bytes(100)),
        "kms": lambda: memory.edit("root", kms={"provider": "evil"}),
        "no root": lambda: memory.records.pop("root"),
        "no roles": lambda: memory.records.pop("roles"),
    }
    edits[what]()
    with pytest.raises((IntegrityError, ConfigurationError, KMSError)):
        keys_of.backup(tmp_path / "b")
    assert not (tmp_path / "b").exists()


# --- what leaks -------------------------------------------------------------------------------------------------------


class Commands(pymongo.monitoring.CommandListener):
    """Keeps all that goes over the wire."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def started(self, event: pymongo.monitoring.CommandStartedEvent) -> None:
        self.seen.append(encoded(event.command))

    def succeeded(self, event: pymongo.monitoring.CommandSucceededEvent) -> None:
        self.seen.append(repr(event.reply))

    def failed(self, event: pymongo.monitoring.CommandFailedEvent) -> None:
        self.seen.append(repr(event.failure))


def secrets_of(keys: KeyStore) -> list[bytes]:
    ring = keys.ring()
    return [keys._root._material, *(key._material for key in (*ring._keys.values(), *ring._index_keys.values()))]


def test_nothing_leaks(
    server: embedded.Server, database: Db, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A day in the life of a store: no root and no key in commands, logs, reprs, files or what others can see of an object."""
    caplog.set_level(logging.DEBUG)
    temporary: list[bytes] = []
    make = tempfile.mkstemp

    def noted(*args: Any, **options: Any) -> tuple[int, str]:
        descriptor, path = make(*args, **options)
        temporary.append(path.encode())
        return descriptor, path

    monkeypatch.setattr(tempfile, "mkstemp", noted)
    commands, kms = Commands(), Service()
    with MongoClient[dict[str, Any]](server.uri, event_listeners=[commands]) as client:
        stores: list[KeyStore] = [
            CollectionKeyStore(client[database.name].keys, kms=kms, create=True, **AT_ONCE),
            FileKeyStore(tmp_path / "keys", kms=kms, create=True, **AT_ONCE),
        ]
        needles: list[bytes] = []
        for keys in stores:
            needles += secrets_of(keys)
            old = keys.ring().primary
            keys.rotate_data_key()
            keys.mark_compromised(old)
            keys.add_index_key()
            keys.rotate_kek(Service())
            needles += secrets_of(keys)
            keys.backup(tmp_path / f"backup-{type(keys).__name__}")
            keys.destroy_key(old, unused_in=[], even_if_used=True)
            printed = [repr(keys), repr(vars(keys)), repr(keys.keys()), repr(keys._contents), repr(keys._root), repr(keys._kms)]
            assert found(needles, printed) == []
    assert temporary
    assert found(needles, commands.seen, list(caplog.records), [each.read_bytes() for each in tmp_path.iterdir()]) == []
    assert found([base64.b64encode(b"control")], [encoded({"a": base64.b64encode(b"control")})]) != []


@pytest.mark.parametrize("step", ["wrap", "unwrap"])
def test_errors_have_no_secret_in_their_frames(memory: Memory, kms: Service, keys_of: KeyStore, step: str) -> None:
    """Whoever collects the local variables of all frames, and of all that is behind an error, finds none."""

    class Careless(Service):
        """Has the secret in its frames, and in its errors."""

        def wrap(self, secret: bytes) -> bytes:
            copy = bytes(secret)
            if step == "wrap":
                raise ValueError(copy)
            return super().wrap(copy)

        def unwrap(self, wrapped: bytes) -> bytes:
            copy = super().unwrap(wrapped)
            if step == "unwrap":
                raise KMSError("refused") from ValueError(copy)
            return copy

    for call in (
        lambda: keys_of.rotate_kek(Careless()),
        lambda: store(memory, Careless(kms.inner)),
        lambda: store(Memory(), Careless()),
    ):
        try:
            call()
        except KMSError as error:
            caught = error
        else:
            assert step == "wrap"
            continue
        assert (caught.__context__, caught.__cause__) == (None, None)
        shown = "".join(traceback.TracebackException.from_exception(caught, capture_locals=True).format())
        assert found(secrets_of(keys_of), shown, caught) == []
        names = {frame.name for frame in traceback.extract_tb(caught.__traceback__)}
        assert not names & {"wrap", "unwrap"}


async def test_opening_in_an_event_loop(database: Db, tmp_path: Path) -> None:
    """Both kinds open in a thread."""
    kms = LocalKMS.generate()
    keys = await CollectionKeyStore.open(database.keys, kms=kms, create=True)
    file = await FileKeyStore.open(tmp_path / "a", kms=kms, create=True)
    assert (await keys.renewed()).primary == keys.held.primary
    assert file.store_id != keys.store_id


def test_a_collection_of_the_async_driver_is_refused(async_client: AsyncMongoClient[dict[str, Any]]) -> None:
    """With the way out; and in `unused_in`, too."""
    with pytest.raises(ConfigurationError, match="kept over a MongoClient"):
        CollectionKeyStore(async_client.db.keys, kms=LocalKMS.generate())  # type: ignore[arg-type]  # that is the test
    with pytest.raises(ConfigurationError, match="takes collections of a MongoClient"):
        keystore_module._collection_of(async_client.db.customers)


def test_a_store_that_is_unlocked_has_roles(memory: Memory, kms: Service, keys_of: KeyStore) -> None:
    """Nothing else could have made its ring; two roots differ."""
    keys_of._contents = type(keys_of._contents)({}, None)
    with pytest.raises(AssertionError):
        keys_of._roles()
    assert Root.generate().fingerprint != keys_of._root.fingerprint


# --- the vectors of the specification ---------------------------------------------------------------------------------

VECTORS = json.loads((Path(__file__).parent.parent / "spec" / "vectors" / "keystore.json").read_text())


class Stored(Memory):
    """The records of a vector, also if an id is there twice."""

    def __init__(self, case: dict[str, Any]) -> None:
        super().__init__()
        self.raws = [bytes.fromhex(raw) for raw in case["records"]]

    def read(self) -> list[bytes]:
        return self.raws


def from_vector(case: dict[str, Any]) -> tuple[Service, Callable[[], KeyStore]]:
    kms = Service(LocalKMS("00" * 8, bytes.fromhex(case["kek"])))
    kms.identity, kms.public = case["kms"], case["public"]
    return kms, lambda: store(Stored(case), kms, create=False, fingerprint=case["fingerprint"])


@pytest.mark.parametrize("case", VECTORS["stores"], ids=lambda case: case["name"])
def test_a_store_of_the_specification_opens(case: dict[str, Any]) -> None:
    """With its keys, states and roles."""
    opened = from_vector(case)[1]()
    assert opened.fingerprint == case["root_fingerprint"]
    roles = {name: case["roles"][name] for name in ("primary", "search_by", "written")}
    assert opened.ring().primary == roles["primary"]
    assert sorted(key.kid for key in stored(opened) if key.written) == roles["written"]
    assert [key.kid for key in stored(opened) if key.searched] == ([roles["search_by"]] if roles["search_by"] else [])
    assert {key.kid: key.state for key in stored(opened)} == {key["kid"]: key["state"] for key in case["keys"]}


@pytest.mark.parametrize("case", VECTORS["reject"], ids=lambda case: case["name"])
def test_a_store_that_the_specification_refuses(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the error that stands for the one of the specification; of a foreign key nobody is asked."""
    monkeypatch.setattr(unlock.time, "sleep", lambda seconds: None)  # before records are read again
    kms, opened = from_vector(case)
    error: type[Exception] = getattr(mongo_envelope, VECTORS["errors"][case["error"]])
    with pytest.raises(error) as caught:
        opened()
    assert type(caught.value) is error
    if case["error"] in ("ForeignKey", "NoFingerprint"):
        assert kms.calls == []


async def test_a_store_is_opened_beside_an_event_loop(database: Db, tmp_path: Path, kms: Service) -> None:
    """In a thread: the loop goes on while the key service takes its time; of a collection and of a file."""
    kms.before = lambda name: time.sleep(0.15)
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.01)
            beats += 1

    beating = asyncio.create_task(beat())
    one = await CollectionKeyStore.open(database.get_collection("keys"), kms=kms, create=True)
    other = await FileKeyStore.open(tmp_path / "keys.store", kms=kms, create=True, timeout=5.0)
    beating.cancel()
    assert beats >= 10
    assert len(one.ring()) == len(other.ring()) == 1


def test_a_store_is_restricted_as_its_ring_is(keys_of: KeyStore) -> None:
    """The ring of the moment: `KeyRing.restrict` says what it holds."""
    ring = keys_of.restrict("verify", contexts=["customers"])
    assert ring.capabilities == {"verify"}
    assert list(ring) == list(keys_of.held)


def test_one_collection_needs_no_list(database: Db, kms: Service) -> None:
    """Where keys are destroyed: a collection, or a repository; anything else is refused by name."""
    one = CollectionKeyStore(database.get_collection("keys"), kms=kms, create=True, refresh_after=0.05, expire_after=0.05)
    first = one.ring().primary
    one.rotate_data_key()
    time.sleep(0.06)
    with pytest.raises(ConfigurationError, match="takes collections of a MongoClient"):
        one.destroy_key(first, unused_in="customers")
    database.create_collection("customers")
    one.destroy_key(first, unused_in=database.customers)
    assert state_of(one, first) == "destroyed"


def test_a_lost_reply_does_not_retire_the_key_that_seals(keys_of: KeyStore, memory: Memory) -> None:
    """The roles were replaced, and the store was told that they were not: the new key is active all the same."""
    replace = memory.replace

    def lost(raw: bytes, before: bytes) -> bool:
        done = replace(raw, before)
        return done and decoded(raw)["_id"] != "roles"

    memory.replace = lost  # type: ignore[method-assign]  # that is the test
    kid = keys_of.rotate_data_key()
    assert keys_of.ring().primary == kid
    assert state_of(keys_of, kid) == "active"
