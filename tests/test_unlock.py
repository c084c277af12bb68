"""unlock: one unwrap for a process, two limits, and nobody who waits for ever, whatever the key service does."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import in_threads
from key_stores import Clock, Memory, PublicService, Service, decoded, encoded, store

from mongo_envelope import DataKey, KeyRing, unlock
from mongo_envelope.errors import (
    ConfigurationError,
    IntegrityError,
    KeyUnavailableError,
    KMSError,
    UnknownKeyError,
    UnsupportedVersionError,
)
from mongo_envelope.keystore import KeyStore
from mongo_envelope.kms import LocalKMS
from mongo_envelope.records import KeyRecord, Root, RootRecord


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(unlock, "_clock", clock)
    return clock


@pytest.fixture
def kms() -> Service:
    return Service()


@pytest.fixture
def memory(kms: Service) -> Memory:
    """A finished store."""
    memory = Memory()
    store(memory, kms)
    memory.calls.clear()
    kms.calls.clear()
    return memory


def until(true: Callable[[], Any], seconds: float = 5.0) -> None:
    """Wait for what a thread does."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def settled(each: KeyStore) -> None:
    """No renewal is under way."""
    until(lambda: each._renewal is None or each._renewal.done())


# --- what is configured -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"refresh_after": 0}, "refresh_after= is a number of seconds"),
        ({"refresh_after": 10.0, "expire_after": 5.0}, "not longer than expire_after"),
        ({"expire_after": float("inf")}, "expire_after= is a number"),
        ({"timeout": "1"}, "timeout= is a number"),
        ({"max_age": 3600}, "max_age is a timedelta"),
        ({"max_age": timedelta(0)}, "max_age is a timedelta"),
        ({"fingerprint": "00"}, "32 hexadecimal digits"),
        ({"fingerprint": "x" * 32}, "32 hexadecimal digits"),
        ({"fingerprint": b"0" * 32}, "32 hexadecimal digits"),
        ({"kms": []}, "kms= takes a key-encryption key"),
        ({"kms": "aws"}, "kms= takes a key-encryption key"),
        ({"kms": [None]}, "kms= takes a key-encryption key"),
        ({"kms": LocalKMS}, "kms= takes a key-encryption key"),
    ],
)
def test_what_does_not_fit_is_refused(memory: Memory, kms: Service, options: dict[str, Any], says: str) -> None:
    """Before anything is read."""
    with pytest.raises(ConfigurationError, match=says):
        store(memory, **{"kms": kms, **options})
    assert memory.calls == kms.calls == []


# --- somebody who can write the store ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "identity",
    [
        {"provider": "local", "key": "0" * 16},
        {"provider": "local", "endpoint": "evil.example"},
        {},
        {"provider": "local", "key": ["x"]},
    ],
    ids=["foreign key", "endpoint", "nothing", "type"],
)
def test_a_redirected_root_is_refused_before_anybody_is_asked(memory: Memory, kms: Service, identity: dict[str, Any]) -> None:
    """What stands in the record does not say whom to ask: nobody is, and the error does not quote it."""
    memory.edit("root", kms=identity)
    with pytest.raises(
        ConfigurationError, match=r"not wrapped by the key-encryption key of this configuration: \{'provider': 'local', 'key'"
    ) as caught:
        store(memory, kms)
    assert kms.calls == []
    assert kms.identity["key"] in str(caught.value)  # ours: whoever has two files sees which one it is
    assert "evil" not in str(caught.value)


def test_an_endpoint_beside_the_right_identity_is_refused(memory: Memory, kms: Service) -> None:
    """One name more, and it is another identity."""
    memory.edit("root", kms={**kms.identity, "endpoint": "evil.example"})
    with pytest.raises(ConfigurationError, match="Nothing was asked"):
        store(memory, kms)
    assert kms.calls == []


def foreign_root(memory: Memory, kms: Any) -> None:
    """Put in the root and the records of somebody else, wrapped as anybody could who is able to wrap."""
    other = Memory()
    attacker = store(other, kms)
    attacker.rotate_data_key()
    memory.records = other.records


def test_anybody_can_wrap_for_a_public_key() -> None:
    """So it takes the fingerprint: without it nobody is asked, with it a foreign root is refused, and the right one opens."""
    kms, memory = PublicService(), Memory()
    fingerprint = store(memory, kms).fingerprint
    kms.calls.clear()
    with pytest.raises(ConfigurationError, match="give the fingerprint"):
        store(memory, kms)
    assert kms.calls == []
    assert store(memory, kms, fingerprint=fingerprint).fingerprint == fingerprint
    foreign_root(memory, kms)
    with pytest.raises(IntegrityError, match="does not have the fingerprint of this configuration"):
        store(memory, kms, fingerprint=fingerprint)


def test_another_store_under_the_same_key(memory: Memory, kms: Service) -> None:
    """Its whole root record is refused by the fingerprint; its wrapped root in this store's record by what it says; both by a
    process that held the right one."""
    running = store(memory, kms)
    fingerprint, before = running.fingerprint, dict(memory.records)
    other = Memory()
    store(other, kms)
    memory.edit("root", wrapped=decoded(other.records["root"])["wrapped"])
    with pytest.raises(IntegrityError, match="is not the root of memory, but another store's"):
        store(memory, kms)
    memory.records = {**before, "root": other.records["root"]}
    with pytest.raises(IntegrityError, match="fingerprint"):
        store(memory, kms, fingerprint=fingerprint)
    with pytest.raises(IntegrityError):  # the other records are not sealed under it
        store(memory, kms)
    with pytest.raises(IntegrityError, match="is another one than before"):
        running._unlock(memory.read(), unlock._clock())
    assert running.fingerprint == fingerprint


def test_a_wrapped_root_that_was_edited(memory: Memory, kms: Service) -> None:
    """The key service refuses it, once."""
    memory.edit("root", wrapped=b"x" * 96)
    with pytest.raises(KMSError, match="not wrapped under"):
        store(memory, kms)
    assert kms.calls == ["unwrap"]


def test_a_store_with_no_root_or_two(memory: Memory, kms: Service) -> None:
    """What is left of a store, or was put together."""
    running, root = store(memory, kms), memory.records["root"]
    for more in ([], [root, root]):
        with pytest.raises(IntegrityError, match="the root record is missing, or there are two"):
            running._unwrap(more)
    memory.edit("root", version=2)
    with pytest.raises(UnsupportedVersionError, match="'root'"):
        store(memory, kms)


def test_an_edited_record_stops_what_is_running(memory: Memory, kms: Service, clock: Clock) -> None:
    """The ring of before serves no longer than it would have; two seconds after a failure the records are read again."""
    running = store(memory, kms, refresh_after=10.0)
    right = memory.records["roles"]
    memory.edit("roles", primary="evil")
    clock.ahead = 8.0  # beforehand, in a thread
    assert running.ring().primary != "evil"
    settled(running)
    reads = len(memory.calls)
    running.ring()  # not again within two seconds
    settled(running)
    assert len(memory.calls) == reads
    clock.ahead = 10.5
    for _ in range(3):
        with pytest.raises(IntegrityError, match="'roles'"):
            running.ring()
    memory.records["roles"] = right
    clock.ahead = 13.0
    assert running.ring().primary == running.keys()[0].kid
    assert running.refresh() is running.held


# --- the two limits ---------------------------------------------------------------------------------------------------


def test_one_unwrap_for_a_process(memory: Memory, kms: Service, clock: Clock) -> None:
    """However often the ring is asked for, and the records are read again."""
    running = store(memory, kms, refresh_after=10.0)
    for ahead in range(0, 200, 4):
        clock.ahead = ahead
        running.ring()
        settled(running)
    running.refresh()
    assert kms.calls == ["unwrap"]
    assert 200 / 10 < len(memory.calls) < 51


def test_a_ring_is_the_same_one_while_nothing_changes(memory: Memory, kms: Service) -> None:
    """What it has derived is kept."""
    running = store(memory, kms)
    assert running.ring() is running.refresh() is running.held


def test_what_one_destroys_stops_in_the_other(memory: Memory, kms: Service) -> None:
    """Within ``refresh_after``, by a real clock."""
    one, other = store(memory, kms), store(memory, kms, refresh_after=0.2)
    old = one.ring().primary
    one.rotate_data_key()
    other.refresh().working_keys(old, "c")
    one.destroy_key(old, unused_in=[], even_if_used=True)
    time.sleep(0.2)
    with pytest.raises(UnknownKeyError, match="has been destroyed"):
        other.ring().working_keys(old, "c")


def test_a_service_that_is_down(memory: Memory, kms: Service, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Unexpired keys go on serving, with a warning; expired ones do not; when it is back, they do. It is not asked all the time."""
    running = store(memory, kms, refresh_after=10.0, expire_after=100.0)
    kms.down()
    clock.ahead = 95.0
    for _ in range(5):
        running.ring()
    settled(running)
    assert kms.calls == ["unwrap", "unwrap"]
    assert "on fire; the root that was unwrapped before goes on serving for" in caplog.text
    clock.ahead = 101.0
    asked = len(kms.calls)
    for _ in range(5):
        for call in (running.ring, running.refresh, running.keys, lambda: asyncio.run(running.renewed())):
            with pytest.raises(KMSError, match="the service says: on fire") as caught:
                call()
            assert not caught.value.temporary
    assert len(kms.calls) <= asked + 1
    kms.up()
    with pytest.raises(KMSError):
        running.ring()
    clock.ahead = 104.0
    running.ring()
    asked = len(kms.calls)
    clock.ahead = 190.0
    running.ring()
    assert len(kms.calls) == asked


def test_a_root_that_is_wrapped_elsewhere_meanwhile(memory: Memory, kms: Service, clock: Clock) -> None:
    """A process that was not given the new key-encryption key serves until it expires, and then says what is wrong."""
    running, new = store(memory, kms, refresh_after=10.0, expire_after=100.0), Service()
    store(memory, kms).rotate_kek(new)
    for ahead in (20.0, 92.0, 99.0):
        clock.ahead = ahead
        running.ring()
    clock.ahead = 100.5
    with pytest.raises(ConfigurationError, match="After a rewrap, configure the new one"):
        running.ring()


def test_a_storage_that_is_down(memory: Memory, kms: Service, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """The keys go on serving until they expire; a thread asks, every two seconds, and nobody waits for it."""
    running = store(memory, kms, refresh_after=10.0, expire_after=100.0)
    release = threading.Event()

    def down(name: str) -> None:
        release.wait(5.0)
        raise KMSError("the key store is down", temporary=True)

    memory.before = down
    clock.ahead = 9.0
    began = time.monotonic()
    running.ring()
    assert time.monotonic() - began < 0.5
    release.set()
    settled(running)
    release.clear()
    clock.ahead = 11.5  # two seconds after the failure
    began = time.monotonic()
    running.ring()
    assert time.monotonic() - began < 0.5
    release.set()
    settled(running)
    assert "the key store is down; the keys that were read before go on serving for" in caplog.text
    reads = len(memory.calls)
    for ahead in (12.5, 14.5, 50.0):
        clock.ahead = ahead
        running.ring()
        settled(running)
    assert reads < len(memory.calls) <= reads + 3
    with pytest.raises(KMSError, match="down"):
        running.refresh()
    clock.ahead = 100.5
    with pytest.raises(KMSError, match="down"):
        running.ring()


def test_a_slow_service_delays_nobody(memory: Memory, kms: Service, clock: Clock) -> None:
    """While keys have not expired the root is unwrapped by a thread."""
    running = store(memory, kms, refresh_after=50.0, expire_after=100.0)
    release = threading.Event()
    kms.before = lambda name: release.wait(5.0) and None
    clock.ahead = 40.0
    running.refresh()
    clock.ahead = 89.9
    running.refresh()
    clock.ahead = 97.5  # due beforehand, and time to unwrap
    began = time.monotonic()
    running.ring()
    until(lambda: kms.calls == ["unwrap", "unwrap"])
    for _ in range(100):
        running.ring()
    assert time.monotonic() - began < 0.5
    release.set()
    settled(running)
    clock.ahead = 150.0
    running.ring()


def test_a_service_that_never_answers(memory: Memory, kms: Service, clock: Clock) -> None:
    """Fifty threads get an error within the time-out and half a second; it is asked once; threads do not pile up."""
    running = store(memory, kms, refresh_after=10.0, expire_after=100.0, timeout=0.3)
    release = threading.Event()
    kms.before = lambda name: release.wait(20.0) and None
    threads = threading.active_count()
    try:
        clock.ahead = 101.0
        began = time.monotonic()

        def ask() -> None:
            with pytest.raises(KMSError, match=r"did not answer within 0\.3 s") as caught:
                running.ring()
            assert caught.value.temporary

        in_threads(50, ask)
        assert time.monotonic() - began < 0.3 + 0.5
        assert kms.calls == ["unwrap", "unwrap"]
        for _ in range(12):
            clock.ahead += 3.0
            with pytest.raises(KMSError, match=r"did not answer|has not answered the last 8 questions"):
                running.ring()
        assert threading.active_count() <= threads + unlock._MOST_ASKED
    finally:
        release.set()
    until(lambda: threading.active_count() <= threads)
    clock.ahead += 3.0
    running.ring()


def test_fifty_threads_make_one_renewal(memory: Memory, kms: Service, clock: Clock) -> None:
    """Whoever waited finds it done; the same when it has expired, with one question to the service."""
    running = store(memory, kms, refresh_after=10.0, expire_after=100.0)
    memory.before = lambda name: time.sleep(0.05)
    for ahead, asked in ((11.0, 1), (120.0, 2)):
        clock.ahead = ahead
        reads = len(memory.calls)
        in_threads(50, lambda: running.ring() and None)
        assert len(memory.calls) == reads + 1
        assert len(kms.calls) == asked


# --- event loops ------------------------------------------------------------------------------------------------------


async def test_an_event_loop_is_not_blocked(memory: Memory, kms: Service, clock: Clock) -> None:
    """While the service takes its time a heartbeat goes on; fifty tasks make one renewal; one that is cancelled cancels nobody."""
    running = await opened(memory, kms)
    kms.before = lambda name: time.sleep(0.6)
    clock.ahead = 101.0
    gaps, stop = [0.0], asyncio.Event()

    async def beat() -> None:
        while not stop.is_set():
            began = time.monotonic()
            await asyncio.sleep(0.005)
            gaps.append(time.monotonic() - began)

    heart = asyncio.create_task(beat())
    tasks = [asyncio.create_task(running.renewed()) for _ in range(50)]
    await asyncio.sleep(0.1)
    tasks[0].cancel()
    rings = await asyncio.gather(*tasks, return_exceptions=True)
    stop.set()
    await heart
    assert isinstance(rings[0], asyncio.CancelledError)
    assert {type(ring) for ring in rings[1:]} == {KeyRing}
    assert len(kms.calls) == 2
    assert sorted(gaps)[-3] < 0.05  # two may be the machine's
    assert await running.renewed() is running.held


async def opened(memory: Memory, kms: Service) -> KeyStore:
    return await asyncio.to_thread(KeyStore, memory, kms=kms, refresh_after=10.0, expire_after=100.0)


async def test_looking_for_a_kid_in_an_event_loop(memory: Memory, kms: Service) -> None:
    """A new one is found; within ten seconds nobody looks again."""
    running, other = store(memory, kms), store(memory, kms)
    kid = other.rotate_data_key()
    assert kid in await running.looked_for(kid)
    reads = len(memory.calls)
    for kid in ("a", "b", "c", running.held.primary):
        assert await running.looked_for(kid) is running.held
    assert len(memory.calls) == reads + 1


# --- kids that nobody knows -------------------------------------------------------------------------------------------


def test_unknown_kids_are_looked_for_seldom(memory: Memory, kms: Service, clock: Clock) -> None:
    """A thousand different ones: one read in ten seconds, in many threads, too; one that was not there is not looked for again."""
    running = store(memory, kms)
    memory.calls.clear()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(running.look_for, (f"k{number}" for number in range(1_000))))
    assert memory.calls == ["read"]
    missing = next(iter(running._missing))
    clock.ahead = 11.0
    running.look_for(missing)
    assert memory.calls == ["read"]
    running.look_for("another")
    assert memory.calls == ["read", "read"]


def test_a_look_that_finds_something_does_not_count(memory: Memory, kms: Service) -> None:
    """Keys that another process makes one after the other are all found at once."""
    running, other = store(memory, kms), store(memory, kms)
    for _ in range(3):
        kid = other.rotate_data_key()
        assert kid in running.look_for(kid)
        assert running.look_for(kid) is running.held


def test_what_is_remembered_of_unknown_kids_is_bounded(memory: Memory, kms: Service, clock: Clock) -> None:
    """However long somebody goes on."""
    running = store(memory, kms, refresh_after=80_000.0)
    for number in range(unlock._MOST_MISSING + 10):
        clock.ahead += 11.0
        running._soon = running._late = clock() + 100.0
        running.look_for(f"k{number}")
    assert len(running._missing) == 10


def test_looking_where_nothing_can_be_read(memory: Memory, kms: Service, caplog: pytest.LogCaptureFixture) -> None:
    """The ring stays what it is, with a warning; an edited record is an error."""
    running = store(memory, kms)
    memory.before = lambda name: (_ for _ in ()).throw(KMSError("the store is down"))
    assert running.look_for("k") is running.held
    assert "the store is down" in caplog.text
    running._next_look = 0.0
    memory.before = lambda name: None
    memory.edit("roles", primary="evil")
    with pytest.raises(IntegrityError):
        running.look_for("k")


# --- the key service, asked -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temporary", [True, False])
def test_what_is_temporary_is_asked_again(memory: Memory, kms: Service, temporary: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Twice throttled, then answered, after pauses of different lengths; a refusal is not asked again, and has its words."""
    caplog.set_level(logging.DEBUG)
    left = [2]

    def fail(name: str) -> None:
        if left[0]:
            left[0] -= 1
            raise KMSError("the service says: slow down", temporary=temporary)

    kms.before = fail
    if temporary:
        store(memory, kms)
        assert len(kms.calls) == 3
    else:
        with pytest.raises(KMSError, match="the service says: slow down"):
            store(memory, kms)
        assert len(kms.calls) == 1


def test_a_failure_that_stays_is_told_within_the_time(memory: Memory, kms: Service) -> None:
    """Temporary for ever: a few attempts, then its own error or the time-out."""
    kms.down(temporary=True)
    began = time.monotonic()
    with pytest.raises(KMSError, match=r"on fire|did not answer") as caught:
        store(memory, kms, timeout=1.5)
    assert caught.value.temporary
    assert time.monotonic() - began < 2.0
    assert 1 < len(kms.calls) <= 5


def test_without_stamina_it_is_asked_once(memory: Memory, kms: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider that needs it brings it."""
    monkeypatch.setitem(sys.modules, "stamina", None)
    store(memory, kms)
    kms.down(temporary=True)
    with pytest.raises(KMSError, match="on fire"):
        store(memory, kms)
    assert len(kms.calls) == 2


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda: ConnectionError("secret words"), "could not be asked: ConnectionError"),
        (lambda: TimeoutError("secret words"), "did not answer within 10 s"),
        (lambda: None, "did not answer with bytes"),
        (lambda: bytearray(100), "did not answer with bytes"),
    ],
    ids=["error", "time-out", "none", "bytearray"],
)
def test_a_service_that_does_not_keep_to_the_protocol(
    memory: Memory, kms: Service, answer: Callable[[], Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of another kind, or an answer that is none, is a `KMSError` without its words."""

    def unwrap(wrapped: bytes) -> Any:
        given = answer()
        if isinstance(given, Exception):
            raise given
        return given

    monkeypatch.setattr(kms, "unwrap", unwrap)
    with pytest.raises(KMSError, match=says) as caught:
        store(memory, kms)
    assert "secret" not in str(caught.value)
    assert caught.value.__context__ is None


# --- records that are not read at one moment ------------------------------------------------------------------------------


def test_records_that_disagree_are_read_again(memory: Memory, kms: Service) -> None:
    """Roles that name a key which is not among the records yet: read again, and an error if it stays so."""
    running, other = store(memory, kms), store(memory, kms)
    kid = other.rotate_data_key()
    late = memory.records.pop(kid)
    reads = len(memory.calls)

    def arrives(name: str) -> None:
        if len(memory.calls) == reads + 3:
            memory.records[kid] = late

    memory.before = arrives
    assert running.refresh().primary == kid
    del memory.records[kid]
    with pytest.raises(IntegrityError, match="names a primary key that is missing"):
        running.refresh()


# --- age --------------------------------------------------------------------------------------------------------------


def aged(memory: Memory, kms: Service, days: float) -> str:
    """Give the store a primary key that was made so many days ago."""
    root = Root.of_secret(kms.unwrap(decoded(memory.records["root"])["wrapped"]), decoded(memory.records["root"])["store"])
    assert root is not None
    kid = f"{root.store}-data"
    key = DataKey(kid, bytes(32), created=datetime.now(UTC) - timedelta(days=days))
    memory.records[kid] = KeyRecord.of(key).sealed(root)
    return kid


def test_a_primary_key_grows_too_old(memory: Memory, kms: Service, caplog: pytest.LogCaptureFixture) -> None:
    """A warning, once, when nine tenths are over; then it does not seal any more, and opens; the next one seals."""
    kid = aged(memory, kms, 9.5)
    running = store(memory, kms, max_age=timedelta(days=10))
    running.refresh()
    assert caplog.text.count(f"the primary key {kid} reaches max_age in") == 1
    running.ring().sealing_keys("c")
    aged(memory, kms, 10.5)
    ring = running.refresh()
    with pytest.raises(KeyUnavailableError, match=f"the primary key {kid} is older than max_age"):
        ring.sealing_keys("c")
    ring.working_keys(kid, "c")
    assert running.rotate_data_key() == running.ring().primary
    running.ring().sealing_keys("c")
    store(memory, kms).ring().sealing_keys("c")


# --- locks, threads, forks --------------------------------------------------------------------------------------------


def test_no_more_threads(memory: Memory, kms: Service, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none can be started, as when the interpreter ends, an unexpired ring serves, and nobody waits for what never runs."""
    running = store(memory, kms, refresh_after=10.0)

    def none(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none)
        clock.ahead = 8.0
        running.ring()
        assert running._renewal is None
    reads = len(memory.calls)
    running.ring()
    settled(running)
    assert len(memory.calls) == reads + 1


def test_before_it_is_unlocked_there_is_no_root(memory: Memory, kms: Service) -> None:
    """Nothing is done with it, and its repr says so: tracebacks show half-made objects."""
    seen: list[str] = []
    half = KeyStore.__new__(KeyStore)

    def look(name: str) -> None:
        seen.append(repr(half))
        with pytest.raises(AssertionError):
            half.store_id  # noqa: B018 - it raises

    kms.before = look
    half.__init__(memory, kms=kms)  # type: ignore[misc]  # to see it half-made
    assert seen == ["KeyStore(memory: not unlocked)"]


FORK = """
import os, sys, threading, time
from key_stores import Memory, Service, store
memory, kms = Memory(), Service()
running = store(memory, kms, refresh_after=0.2, expire_after=0.5, timeout=2.0)
inside, main = threading.Event(), os.getpid()
def slow(name):
    if os.getpid() == main:
        inside.set()
        time.sleep(1.0)
kms.before = slow
time.sleep(0.5)
threading.Thread(target=running.ring, daemon=True).start()
inside.wait(5.0)
child = os.fork()
if not child:
    running.ring().sealing_keys("c")
    running.rotate_data_key()
    os._exit(7)
began = time.monotonic()
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), time.monotonic() - began < 0.9)
"""


def test_a_fork_in_the_middle_of_a_renewal() -> None:
    """The child waits for no thread that it does not have."""
    done = subprocess.run(
        [sys.executable, "-c", FORK], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "7 True\n", done.stderr


def test_after_a_fork_locks_are_new(memory: Memory, kms: Service) -> None:
    """What runs in the child: a lock that another thread of the parent held is nobody's."""
    running = store(memory, kms)
    before = running._turn
    unlock._after_fork()
    assert running._turn is not before
    assert running.refresh() is running.held


def test_the_root_record_is_made_of_what_was_wrapped(memory: Memory, kms: Service) -> None:
    """And nothing else of it stands there."""
    document = decoded(memory.records["root"])
    assert encoded(document) == memory.records["root"]
    record = RootRecord(document["store"], document["kms"], document["wrapped"], document["created"])
    assert record.as_bson() == memory.records["root"]


def test_a_provider_says_what_is_wrong_with_its_configuration(memory: Memory, kms: Service) -> None:
    """No such key, no token: its words are told, and it is not asked again."""

    def refuse(name: str) -> None:
        raise ConfigurationError("no such key: make it with its own means")

    store(memory, kms)
    kms.calls.clear()
    kms.before = refuse
    with pytest.raises(KMSError, match="no such key: make it") as caught:
        store(memory, kms, create=False)
    assert not caught.value.temporary
    assert kms.calls == ["unwrap"]
    assert caught.value.__context__ is None


def test_what_is_destroyed_while_the_service_is_slow_stops_in_time(memory: Memory, kms: Service, clock: Clock) -> None:
    """The records are as old as when they were read, and not as young as the answer of the key service."""
    service, admin = store(memory, kms, refresh_after=10, expire_after=100), store(memory, kms)
    old = service.ring().primary
    admin.rotate_data_key()

    def destroy(name: str) -> None:
        if name == "unwrap":
            kms.up()
            admin.destroy_key(old, unused_in=[], even_if_used=True)
            clock.ahead += 4

    kms.before = destroy
    clock.ahead += 91
    assert old in service.ring()
    clock.ahead += 6
    assert old not in service.ring()
