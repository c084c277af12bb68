"""storage: records are there whole, exactly as they were, in a file or a collection; what cannot be asked says so in time."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bson
import pymongo.monitoring
import pytest
from bson.binary import Binary
from conftest import Proxy, in_threads
from hypothesis import given, settings
from hypothesis import strategies as st
from key_stores import encoded
from pymongo import AsyncMongoClient, MongoClient, ReadPreference, WriteConcern
from pymongo.database import Database
from pymongo.read_concern import ReadConcern

from mongo_envelope import embedded
from mongo_envelope import storage as storage_module
from mongo_envelope.errors import ConfigurationError, KMSError, MalformedEnvelopeError
from mongo_envelope.keystore import CollectionKeyStore
from mongo_envelope.kms import LocalKMS
from mongo_envelope.storage import CollectionStorage, FileStorage, Storage, checked_seconds, identity_of

Db = Database[dict[str, Any]]


def record(identity: str, tag: bytes = b"one") -> bytes:
    return encoded({"_id": identity, "n": 1, "hmac": tag})


@pytest.fixture(params=["file", "collection"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """Each of the two in turn."""
    if request.param == "file":
        return FileStorage(tmp_path / "keys.store", 5.0)
    return CollectionStorage(request.getfixturevalue("database").keys, 5.0)


# --- both -------------------------------------------------------------------------------------------------------------


def test_read_insert_replace(storage: Storage) -> None:
    """An id is taken once; a record is replaced if it still is what it was, and is what it was when it is read."""
    assert storage.read() == []
    root = encoded({"_id": "root", "wrapped": b"abc", "kms": {"b": 1, "a": True}})
    assert storage.insert(record("b"))
    assert storage.insert(root)
    assert not storage.insert(record("b", b"two"))
    assert sorted(storage.read()) == sorted([record("b"), root])
    assert not storage.replace(record("b", b"three"), record("b", b"two"))
    assert storage.replace(record("b", b"two"), record("b"))
    assert storage.replace(encoded({"_id": "root", "wrapped": b"xyz"}), root)
    assert not storage.replace(record("none"), record("none"))
    assert sorted(storage.read()) == sorted([record("b", b"two"), encoded({"_id": "root", "wrapped": b"xyz"})])


def test_a_flood_is_refused(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever fills the place up does not fill the memory of those who read it."""
    for number in range(8):
        assert storage.insert(encoded({"_id": str(number), "junk": bytes(200), "hmac": b"x"}))
    assert len(storage.read()) == 8
    monkeypatch.setattr(storage_module, "_MOST_BYTES", 1000)
    monkeypatch.setattr(storage_module, "_MOST_IN_FILE", 1000)
    with pytest.raises(MalformedEnvelopeError, match=r"more in .* than a key store has"):
        storage.read()


def test_of_many_one_wins(storage: Storage) -> None:
    """Twelve threads insert, and replace, at once: one of them each time."""
    won: list[bool] = []
    in_threads(12, lambda: won.append(storage.insert(record("a", os.urandom(8)))))
    assert won.count(True) == 1
    before = storage.read()[0]
    won.clear()
    in_threads(12, lambda: won.append(storage.replace(record("a", os.urandom(8)), before)))
    assert won.count(True) == 1
    assert len(storage.read()) == 1


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8),
        st.one_of(
            st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
            st.binary(),
            st.integers(-(2**63), 2**63 - 1),
            st.booleans(),
            st.none(),
            st.floats(allow_nan=False),
            st.datetimes().map(lambda at: at.replace(microsecond=0)),
            st.lists(st.integers(0, 9)),
            st.uuids(),
        ),
        max_size=6,
    )
)
def test_a_file_keeps_every_byte(names: dict[str, Any]) -> None:
    """What was sealed is verified byte by byte, so it comes back from JSON byte by byte."""
    raw = encoded({"_id": "a", **names})
    storage = FileStorage("unused", 1.0)
    text = bson.json_util.dumps(bson.decode(raw, storage_module._AS_IT_IS), json_options=storage_module._CANONICAL)
    assert storage._parsed(f'{{"version": 1, "records": [{text}]}}'.encode()) == [raw]


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), "10", None, True, 2**31])
def test_a_time_is_a_number_of_seconds(seconds: Any, tmp_path: Path) -> None:
    """What is none is refused when a store is configured."""
    with pytest.raises(ConfigurationError, match="timeout= is a number of seconds"):
        FileStorage(tmp_path / "a", seconds)
    assert checked_seconds(0.5, "timeout") == 0.5


# --- a file -----------------------------------------------------------------------------------------------------------


def test_a_file_store_takes_a_path() -> None:
    """Where a collection is given, it says which store takes one."""
    with pytest.raises(ConfigurationError, match="first parameter is a path: FileKeyStore"):
        FileStorage(object(), 1)  # type: ignore[arg-type]  # what is tested


def test_a_file_is_private(tmp_path: Path) -> None:
    """Mode 0600, whatever the umask, and no other file but the lock, which is private, too; what others can read is refused."""
    path = tmp_path / "keys.store"
    before = os.umask(0)
    try:
        FileStorage(path, 1.0).insert(record("a"))
    finally:
        os.umask(before)
    assert {each.name for each in tmp_path.iterdir()} == {"keys.store", ".keys.store.lock"}
    assert {stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()} == {0o600}
    for mode in (0o640, 0o604, 0o620, 0o601):
        path.chmod(mode)
        for call in (FileStorage(path, 1.0).read, lambda: FileStorage(path, 1.0).insert(record("b"))):
            with pytest.raises(ConfigurationError, match="can be read by other users: chmod 600"):
                call()


def test_a_file_is_made_once(tmp_path: Path) -> None:
    """`create` does not touch what is there."""
    storage = FileStorage(tmp_path / "a", 1.0)
    assert storage.create([record("a"), record("b")])
    assert not storage.create([])
    assert sorted(storage.read()) == [record("a"), record("b")]
    assert str(storage) == repr(str(tmp_path / "a"))


def test_it_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written, flushed to the disk, put in the place of the old one, and the folder flushed: in this order."""
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        steps.append("replace")
        return replace(self, target)

    storage = FileStorage(tmp_path / "a", 1.0)
    storage.insert(record("a"))
    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(Path, "replace", renamed)
    inode = storage.path.stat().st_ino
    assert storage.replace(record("a", b"two"), record("a"))
    assert steps == ["file", "replace", "folder"]
    assert storage.path.stat().st_ino != inode


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room on the disk: the error is ours, the old content is there, and no temporary file."""
    storage = FileStorage(tmp_path / "a", 1.0)
    storage.insert(record("a"))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(KMSError, match="could not be written: No space left on device") as caught:
            storage.insert(record("b"))
    assert caught.value.__context__ is None
    assert {each.name for each in tmp_path.iterdir()} == {"a", ".a.lock"}
    assert storage.read() == [record("a")]
    assert storage.insert(record("b"))  # the lock is free


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    """A half file of this store goes with the next write: a key that is destroyed would stay in it. Those of others stay."""
    mine, others = (
        tmp_path / ".a.abcd_123.new",
        [tmp_path / name for name in (".a.b.abcd1234.new", ".a.abcd1234", ".b.abcd1234.new")],
    )
    for each in (mine, *others):
        each.touch()
    FileStorage(tmp_path / "a", 1.0).insert(record("a"))
    assert not mine.exists()
    assert all(each.exists() for each in others)


def test_who_waits_too_long_for_the_lock_is_told(tmp_path: Path) -> None:
    """Another process holds it: a temporary error after the time-out, and not before; reading needs no lock."""
    path = tmp_path / "a"
    FileStorage(path, 1.0).insert(record("a"))
    with FileStorage(path, 1.0)._locked():
        began = time.monotonic()
        with pytest.raises(KMSError, match="is locked by another process") as caught:
            FileStorage(path, 0.2).insert(record("b"))
        assert caught.value.temporary
        assert 0.2 <= time.monotonic() - began < 1.0
        assert FileStorage(path, 0.2).read() == [record("a")]
        with pytest.raises(KMSError):
            FileStorage(path, 0.05).create([])
    assert FileStorage(path, 0.2).insert(record("b"))


FORK = """
import os, sys, time
from mongo_envelope.storage import FileStorage
storage = FileStorage(sys.argv[1], 1.0)
with storage._locked():
    child = os.fork()
    if not child:
        time.sleep(30)
        os._exit(0)
print(child, flush=True)
sys.stdin.read()
os.kill(child, 9)
os.waitpid(child, 0)
"""


def test_a_lock_ends_although_a_child_has_the_file(tmp_path: Path) -> None:
    """A fork in the middle of a write: the child lives on, and keeps nobody from writing."""
    with subprocess.Popen(
        [sys.executable, "-c", FORK, str(tmp_path / "a")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert int(parent.stdout.readline())
        assert FileStorage(tmp_path / "a", 1.0).insert(record("a"))
        parent.communicate("")


def test_places_where_no_file_can_be(tmp_path: Path) -> None:
    """A folder that is not there, a folder in the file's place, a NUL: the error is ours, and trying again does not help."""
    for path, says in ((tmp_path / "no" / "a", "No such file or directory"), ("a\0b", "not a path")):
        with pytest.raises(KMSError, match=f"could not be written: {says}") as caught:
            FileStorage(path, 1.0).insert(record("a"))
        assert not caught.value.temporary
        assert caught.value.__context__ is None
    for path, says in ((tmp_path, "Is a directory"), ("a\0b", "not a path")):
        with pytest.raises(KMSError, match=f"could not be read: {says}"):
            FileStorage(path, 1.0).read()
    assert FileStorage(tmp_path / "no" / "a", 1.0).read() == []


def test_without_advisory_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no ``fcntl``, nothing has to be unlocked: closing does it."""
    monkeypatch.setattr(storage_module, "fcntl", None)
    storage_module._unlock(-1)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(max_size=5), inner, max_size=3),
        st.builds(
            lambda name, value: {name: value},
            st.sampled_from(
                [
                    *("$oid", "$date", "$binary", "$uuid", "$numberInt", "$numberLong", "$numberDouble", "$numberDecimal", "$code"),
                    *(
                        "$regularExpression",
                        "$timestamp",
                        "$minKey",
                        "$maxKey",
                        "$undefined",
                        "$ref",
                        "$dbPointer",
                        "$symbol",
                        "$regex",
                    ),
                ]
            ),
            inner,
        ),
    ),
    max_leaves=8,
)


def parsed(content: bytes) -> list[bytes] | None:
    """The records; None for a refusal, which quotes nothing and follows from nothing."""
    try:
        return FileStorage("x", 1.0)._parsed(content)
    except MalformedEnvelopeError as error:
        caught = error
    assert str(caught) == "'x' is not a key store of version 1, or is damaged. Restore it from its backup"
    assert caught.__context__ is None
    return None


@settings(deadline=None, max_examples=150)
@given(st.one_of(JSON, st.lists(JSON, max_size=3).map(lambda records: {"version": 1, "records": records})))
def test_any_json_is_a_store_or_refused(content: Any) -> None:
    """Whatever stands in the file, bytes come out that are BSON, or an error of ours."""
    for raw in parsed(json.dumps(content).encode()) or []:
        bson.decode(raw, storage_module._AS_IT_IS)


@settings(deadline=None, max_examples=100)
@given(st.one_of(st.binary(), st.text().map(lambda text: text.encode(errors="surrogatepass"))))
def test_any_bytes_are_refused(content: bytes) -> None:
    """No text at all, say."""
    assert parsed(content) is None


@pytest.mark.parametrize(
    "content",
    [
        '{"version": 2, "records": []}',
        '{"version": true, "records": []}',
        '{"version": 1, "records": [], "more": 1}',
        '{"version": 1, "records": [1]}',
        '{"version": 1, "records": ["a"]}',
        '{"version": 1, "records": [{"a": {"$numberDecimal": "x"}}]}',
        '{"version": 1, "records": [{"a": {"$numberLong": "99999999999999999999999"}}]}',
        '{"version": 1, "records": [{"a": 1' + "0" * 30 + "}]}",
        "[" * 100_000,
        '{"version": 1, "records": [' + '{"a":' * 2000 + "1" + "}" * 2000 + "]}",
    ],
    ids=range(10),
)
def test_a_damaged_file_is_refused(content: str) -> None:
    """Another version, other names, numbers that are none, too deep: one error for all, and it quotes nothing."""
    assert parsed(content.encode()) is None


# --- a collection -----------------------------------------------------------------------------------------------------


def test_what_is_no_collection_is_refused(async_client: AsyncMongoClient[dict[str, Any]]) -> None:
    """One of the async driver, with the way out; and anything else."""
    with pytest.raises(ConfigurationError, match="kept over a MongoClient"):
        CollectionStorage(async_client.db.keys, 1.0)  # type: ignore[arg-type]  # that is the test
    with pytest.raises(ConfigurationError, match="a collection of a MongoClient"):
        CollectionStorage("keys", 1.0)  # type: ignore[arg-type]  # that is the test


class Listener(pymongo.monitoring.CommandListener):
    """Keeps all commands."""

    def __init__(self) -> None:
        self.commands: list[dict[str, Any]] = []

    def started(self, event: pymongo.monitoring.CommandStartedEvent) -> None:
        self.commands.append(dict(event.command))

    def succeeded(self, event: pymongo.monitoring.CommandSucceededEvent) -> None:
        pass

    failed = succeeded  # type: ignore[assignment]  # neither is of interest


def test_commands_ask_the_majority(server: embedded.Server, database: Db) -> None:
    """Whatever the collection was told before: reads and writes are of the majority, and reads go to the primary."""
    listener = Listener()
    with MongoClient[dict[str, Any]](server.uri, event_listeners=[listener]) as client:
        weak = client[database.name].keys.with_options(
            read_concern=ReadConcern("local"), write_concern=WriteConcern(0), read_preference=ReadPreference.SECONDARY_PREFERRED
        )
        storage = CollectionStorage(weak, 5.0)
        assert storage.insert(record("a"))
        assert storage.replace(record("a", b"two"), record("a"))
        assert storage.read() == [record("a", b"two")]
    by_name = {next(iter(command)): command for command in listener.commands}
    assert by_name["find"]["readConcern"]["level"] == "majority"
    # To the one server of a direct connection the driver says primaryPreferred.
    assert by_name["find"].get("$readPreference", {"mode": "primary"})["mode"] in ("primary", "primaryPreferred")
    for name in ("insert", "update"):
        assert by_name[name]["writeConcern"]["w"] == "majority"
    assert by_name["update"]["updates"][0]["q"] == {"_id": "a", "hmac": Binary(b"one", 0)}


def test_a_standalone_server_keeps_keys(standalone: str) -> None:
    """It has no majority but itself, and no retryable writes: all of it works."""
    with MongoClient[dict[str, Any]](standalone) as client:
        kms = LocalKMS.generate()
        store = CollectionKeyStore(client.standalone.keys, kms=kms, create=True)
        kid = store.rotate_data_key()
        assert CollectionKeyStore(client.standalone.keys, kms=kms).ring().primary == kid
        client.drop_database("standalone")


def test_a_server_that_is_not_there_is_a_temporary_error(tmp_path: Path) -> None:
    """Within the time-out; the error names the place and the kind of error, and nothing of the command."""
    with MongoClient[dict[str, Any]]("mongodb://127.0.0.1:9/") as client:
        storage = CollectionStorage(client.db.keys, 0.3)
        began = time.monotonic()
        for call, done in (
            (storage.read, "read"),
            (lambda: storage.insert(record("secret-id")), "written"),
            (lambda: storage.replace(record("secret-id"), record("secret-id")), "written"),
        ):
            with pytest.raises(KMSError, match=f"the key store db.keys could not be {done}: ServerSelectionTimeoutError") as caught:
                call()
            assert caught.value.temporary
            assert caught.value.__context__ is None
            assert "secret-id" not in str(caught.value)
        assert time.monotonic() - began < 3 * 0.3 + 1.0


@pytest.mark.parametrize(
    ("how", "temporary", "says"),
    [
        ({"errorCode": 13}, False, "OperationFailure, code 13: the user of this MongoClient has no right"),
        ({"closeConnection": True}, True, "AutoReconnect"),
        ({"errorCode": 11600, "errorLabels": ["RetryableWriteError"]}, True, "NotPrimaryError"),
        ({"blockConnection": True, "blockTimeMS": 2000}, True, "NetworkTimeout|ExecutionTimeout|ServerSelection"),
    ],
    ids=["denied", "cut off", "shut down", "slow"],
)
def test_failures_of_the_server(
    server: embedded.Server, database: Db, fail_command: Callable[..., None], *, how: dict[str, Any], temporary: bool, says: str
) -> None:
    """Denied is not worth another try; cut off, shutting down and slow are."""
    with MongoClient[dict[str, Any]](server.uri, appName="fails", retryWrites=False, retryReads=False) as client:
        storage = CollectionStorage(client[database.name].keys, 0.5)
        storage.read()
        fail_command(["insert", "find"], times=1, **how)
        began = time.monotonic()
        with pytest.raises(KMSError, match=says) as caught:
            storage.insert(record("a"))
        assert caught.value.temporary is temporary
        assert time.monotonic() - began < 1.5
        assert caught.value.__context__ is None


def test_an_answer_that_was_lost(proxy: Proxy, database: Db) -> None:
    """The driver repeats the insert; it is there once, and it is ours."""
    with MongoClient[dict[str, Any]](proxy.uri) as client:
        storage = CollectionStorage(client[database.name].keys, 5.0)
        proxy.lose = True
        assert storage.insert(record("a"))
        assert storage.read() == [record("a")]


def test_any_record_of_a_collection_has_an_identity(database: Db) -> None:
    """What somebody else has put there is named, and does not stop the reading."""
    database.keys.insert_many([{"_id": 1}, {"_id": Binary(b"x", 7)}, {"_id": "x" * 2000}])
    assert [identity_of(raw) for raw in CollectionStorage(database.keys, 5.0).read()] == [1, Binary(b"x", 7), None]


# --- the vectors of the specification ---------------------------------------------------------------------------------

VECTORS = json.loads((Path(__file__).parent.parent / "spec" / "vectors" / "keystore.json").read_text())


@pytest.mark.parametrize("case", VECTORS["stores"], ids=lambda case: case["name"])
def test_a_file_of_the_specification_is_read(case: dict[str, Any]) -> None:
    """Its records are the same bytes, but for `_id`, which comes first."""
    records = [encoded(bson.decode(bytes.fromhex(raw), storage_module._AS_IT_IS)) for raw in case["records"]]
    assert sorted(parsed(json.dumps(case["file"]).encode()) or []) == sorted(records)


@pytest.mark.parametrize("case", VECTORS["files_refused"], ids=lambda case: case["name"])
def test_a_file_that_the_specification_refuses(case: dict[str, Any]) -> None:
    """It is no store."""
    content = case["file"]
    assert parsed((content if isinstance(content, str) else json.dumps(content)).encode()) is None
