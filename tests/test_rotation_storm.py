"""Keys come and go while services work: every document stays readable, in a storm and after every kill."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Proxy
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import ConnectionFailure
from pymongo.monitoring import CommandListener
from rotating import REFRESH, Member, member, rotation, store_of

from mongo_envelope import KMSError, Repository, embedded

Db = Database[dict[str, Any]]
ROOT = Path(__file__).parent.parent


def process(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(ROOT / "tests" / "rotating.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
    )


def prepared(client: MongoClient[Any], database: Db, kek: str, number: int) -> Repository[Member]:
    """A store, and so many documents."""
    members = Repository(Member, database.members, keys=store_of(client, database.name, kek, create=True))
    members.setup()
    members.save_many([member(each) for each in range(number)])
    return members


def check(client: MongoClient[Any], database: Db, kek: str, number: int) -> list[Member]:
    """Whoever starts now opens the store, reads every document, and finds each by its blind index."""
    store = store_of(client, database.name, kek)
    members = Repository(Member, database.members, keys=store)
    found = members.find().to_list()
    assert {each.id for each in found} >= set(range(number))
    assert all(each.email == f"{each.id}@example.com" for each in found)
    for each in range(0, number, max(1, number // 20)):
        assert [one.id for one in members.find({"email": f"{each}@EXAMPLE.COM"})] == [each]
    destroyed = {key.kid for key in store.keys() if key.state == "destroyed"}  # noqa: SIM118 - a store is no mapping
    assert database.members.count_documents({"$or": [{"kid": {"$in": [*destroyed]}}, {"idx.kid": {"$in": [*destroyed]}}]}) == 0
    return found


def storm(server: embedded.Server, database: Db, seconds: float) -> dict[str, dict[str, int]]:
    """Two processes rotate and work, two read. What each has done."""
    kek = os.urandom(32).hex()
    with MongoClient[Any](server.uri) as client:
        prepared(client, database, kek, 50)
        running = {
            what: process(what, server.uri, database.name, kek, str(number), str(seconds))
            for number, what in enumerate(("first", "second", "reader", "async"), 1)
        }
        done = {}
        for what, each in running.items():
            out, errors = each.communicate(timeout=seconds + 120)
            assert each.returncode == 0, f"{what}: {errors}"
            done[what] = ast.literal_eval(out)
        found = check(client, database, kek, 50)
    updated = sum(each.get("updated", 0) for each in done.values())
    assert sum(each.count for each in found) == updated, "an update is lost, or was made twice"
    assert len(found) == 50 + sum(each.get("saved", 0) for each in done.values())
    print({what: total(done, what) for what in done["first"] if not what.endswith("_ms")}, done)  # noqa: T201 - pytest -rP shows it
    longest = max(each["longest_ms"] for each in done.values())
    assert longest < 1000 * REFRESH, "a document could not be read for longer than refresh_after"
    return done


def total(done: dict[str, dict[str, int]], what: str) -> int:
    return sum(each.get(what, 0) for each in done.values())


def test_two_processes_rotate_while_two_others_read(server: embedded.Server, database: Db) -> None:
    """For some seconds: nobody meets a document that does not open, and no update is lost."""
    done = storm(server, database, 6.0)
    assert total(done, "rotated") >= 2
    assert total(done, "destroyed") > 0


@pytest.mark.soak
def test_two_processes_rotate_while_two_others_read_for_a_minute(server: embedded.Server, database: Db) -> None:
    """The same, for a minute: data keys, the key-encryption key and index keys change, and keys are destroyed."""
    done = storm(server, database, 60.0)
    for what, least in (
        ("rotated", 20),
        ("rewrapped", 20),
        ("moved", 100),
        ("destroyed", 10),
        ("compromised", 3),
        ("indexed", 2),
        ("updated", 200),
    ):
        assert total(done, what) >= least, what


def points_of(server: embedded.Server, database: Db, kek: str, what: str) -> int:
    """The number of commands of one rotation that nobody kills."""
    out, errors = process(what, server.uri, database.name, kek, "before", "-1").communicate(timeout=120)
    assert out.strip().isdigit(), errors
    return int(out)


def kill_at(server: embedded.Server, database: Db, what: str, choose: Any) -> None:
    kek = os.urandom(32).hex()
    with MongoClient[Any](server.uri) as client:
        prepared(client, database, kek, 450)
        for point in choose(points_of(server, database, kek, what)):
            for when in ("before", "after"):
                killed = process(what, server.uri, database.name, kek, when, str(point))
                _, errors = killed.communicate(timeout=120)
                assert killed.returncode == -9, f"{what} was to be killed {when} command {point}: {errors}"
                check(client, database, kek, 450)
        # The next one who comes finishes it.
        points_of(server, database, kek, what)
        check(client, database, kek, 450)
        if what == "data":
            assert len(database.members.distinct("kid")) == 1
        if what == "index":
            assert len(database.members.distinct("idx.kid")) == 1


@pytest.mark.parametrize("what", ["data", "kek", "index"])
def test_kill_9_at_some_commands_of_a_rotation(server: embedded.Server, database: Db, what: str) -> None:
    """First, in the middle and at the last: whoever starts next reads everything, and goes on."""
    kill_at(server, database, what, lambda number: [1, number // 2, number])


@pytest.mark.soak
@pytest.mark.parametrize("what", ["data", "kek", "index"])
def test_kill_9_at_every_command_of_a_rotation(server: embedded.Server, database: Db, what: str) -> None:
    """The same before and after each command, and 50 points at least."""
    kill_at(server, database, what, lambda number: [1 + each % number for each in range(max(number, 25))])


@pytest.mark.soak
@pytest.mark.parametrize("what", ["data", "kek", "index"])
def test_kill_9_at_any_moment_of_a_rotation(server: embedded.Server, database: Db, what: str) -> None:
    """50 moments, spread over the time that a process takes from its start to its end."""
    kek = os.urandom(32).hex()
    with MongoClient[Any](server.uri) as client:
        prepared(client, database, kek, 450)
        began = time.monotonic()
        points_of(server, database, kek, what)
        whole = time.monotonic() - began
        for number in range(50):
            running = process(what, server.uri, database.name, kek, "before", "-1")
            time.sleep(whole * (0.4 + 0.6 * number / 50))
            running.kill()
            running.communicate(timeout=120)
            check(client, database, kek, 450)
        points_of(server, database, kek, what)
        check(client, database, kek, 450)


class Losing(CommandListener):
    """Has the proxy lose the reply to the n-th write."""

    def __init__(self, proxy: Proxy, point: int) -> None:
        self.proxy, self.point, self.seen = proxy, point, 0

    def started(self, event: Any) -> None:
        if event.command_name in ("insert", "update"):
            self.seen += 1
            if self.seen == self.point:
                self.proxy.lose = True

    def succeeded(self, event: Any) -> None: ...

    def failed(self, event: Any) -> None: ...


@pytest.mark.parametrize("retries", [True, False])
@pytest.mark.parametrize("what", ["data", "kek", "index"])
def test_a_lost_reply_to_each_write_of_a_rotation(
    server: embedded.Server, database: Db, proxy: Proxy, what: str, *, retries: bool
) -> None:
    """The driver does it again, or the caller does: everything is readable at once, and the rotation comes to its end."""
    kek, failed, point = os.urandom(32).hex(), 0, 0
    with MongoClient[Any](server.uri) as client:
        prepared(client, database, kek, 30)
        while True:
            point += 1
            losing = Losing(proxy, point)
            with MongoClient[Any](proxy.uri, event_listeners=[losing], retryWrites=retries) as other:
                store = store_of(other, database.name, kek)
                members = Repository(Member, other[database.name].members, keys=store)
                try:
                    rotation(what, store, members, kek)
                except (KMSError, ConnectionFailure):
                    failed += 1
                    check(client, database, kek, 30)
                    rotation(what, store, members, kek)
            check(client, database, kek, 30)
            if losing.seen < point:
                break
    assert point > 2
    assert failed == (0 if retries else point - 1)
