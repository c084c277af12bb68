"""Change streams: what comes of which write, what is verified, and how a stream goes on after it was broken."""

from __future__ import annotations

import asyncio
import json
import pickle
import threading
import time
from collections.abc import Callable
from typing import Annotated, Any
from uuid import UUID, uuid4

import bson
import pytest
from conftest import Driver, Either, Proxy, saved
from customer_model import SECRET, Customer, raw_documents
from pydantic import BaseModel
from pymongo import AsyncMongoClient, MongoClient
from pymongo.database import Database
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from three_nodes import ThreeNodes

from mongo_envelope import (
    AsyncRepository,
    BlindIndex,
    Bucket,
    Change,
    ConfigurationError,
    DocumentNotFoundError,
    IntegrityError,
    KeyRing,
    MalformedEnvelopeError,
    MongoEnvelopeError,
    Queryable,
    QueryError,
    Repository,
    RevisionConflictError,
    Sensitive,
    UnknownKeyError,
    embedded,
    where,
)
from mongo_envelope.errors import KMSError

Db = Database[dict[str, Any]]
Fail = Callable[..., None]
#: Milliseconds for which the server waits before it says that nothing has come.
QUICK: dict[str, Any] = {"max_await_time_ms": 50}


class Member(BaseModel):
    id: int
    club: Annotated[str, Queryable()] = "chess"
    email: Annotated[str, Sensitive(index=BlindIndex(normalize="casefold"))] = "ada@example.com"
    income: Annotated[int, Sensitive(index=Bucket(width=100))] = 0
    notes: str = ""


async def take(stream: Either, count: int, seconds: float = 20) -> list[Change[Any]]:
    """So many changes, which must come within some seconds."""
    changes: list[Change[Any]] = []
    end = time.monotonic() + seconds
    while len(changes) < count:
        assert time.monotonic() < end, f"only {len(changes)} of {count} changes have come"
        if (change := await stream.try_next()) is not None:
            changes.append(change)
    return changes


async def is_quiet(stream: Either) -> bool:
    return [await stream.try_next() for _ in range(3)] == [None] * 3


def said(changes: list[Change[Any]]) -> list[tuple[str, Any]]:
    return [(each.operation, each.id) for each in changes]


# --- What comes of which write. --------------------------------------------------------------------------------------------


class Named(BaseModel):
    id: str
    notes: str = ""


async def test_a_change_shows_an_id_cut_to_64_characters(driver: Driver, database: Db) -> None:
    """As an error does, and nothing of the documents: whoever writes past the repository chooses what an ``_id`` is."""
    named = driver.repository(Named)
    async with await named.watch(**QUICK) as stream:
        await named.save(Named(id="x" * 500, notes=SECRET))
        database.customers.insert_one({"_id": "y" * 5000})
        database.customers.delete_one({"_id": "y" * 5000})
        [written] = await take(stream, 1)
        with pytest.raises(MalformedEnvelopeError):
            await take(stream, 1)
        [deleted] = await take(stream, 1)
    assert (written.id, deleted.id) == ("x" * 500, "y" * 5000)
    assert repr(written) == f"Change(operation='insert', id='{'x' * 60}..., cluster_time={written.cluster_time!r})"
    assert repr(deleted) == f"Change(operation='delete', id='{'y' * 60}..., cluster_time={deleted.cluster_time!r})"


async def test_inserts_replacements_and_deletions(driver: Driver) -> None:
    """In their order: verified models, which can be saved as if they had been loaded, and ids in the type of the model."""
    customers = driver.repository(Customer)
    async with await customers.watch(**QUICK) as stream:
        ada = await customers.save(Customer(notes=SECRET))
        await customers.update(ada.id, {"rank": 5})
        await customers.delete(ada.id)
        inserted, replaced, deleted = await take(stream, 3)
        assert await is_quiet(stream)
        assert said([inserted, replaced, deleted]) == [("insert", ada.id), ("replace", ada.id), ("delete", ada.id)]
        assert type(deleted.id) is UUID
        assert inserted.model == ada
        assert replaced.model == ada.model_copy(update={"rank": 5})
        assert deleted.model is None
        assert [each.before for each in (inserted, replaced, deleted)] == [None] * 3
        assert inserted.cluster_time <= replaced.cluster_time < deleted.cluster_time
        assert SECRET not in repr(inserted)
        with pytest.raises(DocumentNotFoundError):
            await customers.save(replaced.model)
        bob = await customers.save(Customer())
        [change] = await take(stream, 1)
        change.model.rank = 7
        assert customers.revision(change.model) == customers.revision(bob)
        await customers.save(change.model)
        with pytest.raises(RevisionConflictError):
            await customers.save(bob)


async def test_iteration_waits(driver: Driver, database: Db) -> None:
    """``for`` and ``async for`` give what comes later, in a thread or a process of somebody else."""
    members = driver.repository(Member)
    others = Repository(Member, database.customers, keys=driver.keys)
    async with await members.watch() as stream:
        writer = threading.Timer(0.3, lambda: others.save_many([Member(id=number) for number in range(3)]))
        writer.start()
        seen = []
        async for change in stream:
            seen.append(change.model.id)
            if len(seen) == 3:
                break
        writer.join()
    assert seen == [0, 1, 2]
    assert stream.alive is False
    assert [each async for each in stream] == []
    assert await stream.try_next() is None


async def test_next_is_a_method_too(driver: Driver) -> None:
    """As pymongo has it."""
    members = driver.repository(Member)
    async with await members.watch() as stream:
        await members.save_many([Member(id=1), Member(id=2)])
        assert (await stream.next()).id == 1
        plain = stream.inner
        assert (aiter(plain) if driver.is_async else iter(plain)) is plain


async def test_every_way_to_write(driver: Driver) -> None:
    """Each comes as an insert, a replacement or a deletion, and a transaction when it is committed, if it is."""
    members = driver.repository(Member)
    async with await members.watch(**QUICK) as stream:
        one, two = await saved(members, [Member(id=1), Member(id=2)])
        await members.save_many([one, Member(id=3)])
        await members.save(Member(id=1), overwrite=True)
        await members.save(Member(id=4), overwrite=True)
        assert said(await take(stream, 6)) == [
            ("insert", 1),
            ("insert", 2),
            ("replace", 1),
            ("insert", 3),
            ("replace", 1),
            ("insert", 4),
        ]
        for commit in (False, True):
            async with driver.transaction(commit=commit) as session:
                await members.save(two, session=session)
                await members.delete(4, session=session)
                assert await is_quiet(stream)
        assert said(await take(stream, 2)) == [("replace", 2), ("delete", 4)]
        await members.reindex(every=True)
        assert sorted(said(await take(stream, 3))) == [("replace", 1), ("replace", 2), ("replace", 3)]
        await members.delete_many({})
        assert sorted(said(await take(stream, 3))) == [("delete", 1), ("delete", 2), ("delete", 3)]


async def test_before_a_change(driver: Driver, database: Db) -> None:
    """Where the collection keeps it: the older document, verified, with a replacement and a deletion."""
    database.create_collection("customers", changeStreamPreAndPostImages={"enabled": True})
    members = driver.repository(Member)
    async with await members.watch(full_document_before_change="required", **QUICK) as stream:
        ada = await members.save(Member(id=1, notes="old"))
        await members.save(ada.model_copy(update={"notes": "new"}))
        await members.delete(1)
        inserted, replaced, deleted = await take(stream, 3)
        assert (inserted.before, inserted.model.notes) == (None, "old")
        assert (replaced.before.notes, replaced.model.notes) == ("old", "new")
        assert (deleted.before.notes, deleted.model, deleted.id) == ("new", None, 1)
        with pytest.raises(DocumentNotFoundError):
            await members.save(deleted.before)
        await members.save(Member(id=2))
        database.customers.update_one({"_id": 2}, {"$set": {"club": "go"}})
        await members.delete(2)
        assert said(await take(stream, 1)) == [("insert", 2)]
        with pytest.raises(IntegrityError, match="update operators"):
            await take(stream, 1)
        with pytest.raises(IntegrityError) as caught:  # what was deleted had been tampered with
            await take(stream, 1)
        assert caught.value.document_id == "2"


async def test_before_a_change_that_nobody_kept(driver: Driver) -> None:
    """None if "whenAvailable" is enough; otherwise the server's error."""
    members = driver.repository(Member)
    async with (
        await members.watch(full_document_before_change="whenAvailable", **QUICK) as stream,
        await members.watch(full_document_before_change="required", **QUICK) as strict,
    ):
        await members.save(Member(id=1))
        await members.delete(1)
        assert [each.before for each in await take(stream, 2)] == [None, None]
        with pytest.raises(OperationFailure):
            await take(strict, 2)


async def test_the_end_of_a_collection(driver: Driver, database: Db) -> None:
    """After "drop" or "rename" comes "invalidate", and then nothing; start_after goes on even there."""
    members = driver.repository(Member)
    await members.save(Member(id=1))
    async with await members.watch(**QUICK) as stream:
        database.customers.rename("elsewhere")
        changes = [each async for each in stream]
        assert said(changes) == [("rename", None), ("invalidate", None)]
        assert stream.alive is False
    async with await members.watch(start_after=changes[-1].resume_token, **QUICK) as stream:
        await members.save(Member(id=2))
        database.customers.drop()
        changes = [each async for each in stream]
        assert said(changes) == [("insert", 2), ("drop", None), ("invalidate", None)]
        assert [each.model is None for each in changes] == [False, True, True]


# --- Filters. ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        ({"club": "chess"}, [1, 3]),
        ({"email": "EVE@example.com"}, [3]),
        ({"email": {"$in": ["eve@example.com", "bob@example.com"]}, "club": "go"}, [2]),
        ({"income": {"$gte": 150, "$lt": 250}}, [2]),
        ({"income": {"$not": {"$gte": 150, "$lt": 250}}}, [1, 3]),
        ({"$or": [{"club": "go"}, {"email": "eve@example.com"}]}, [2, 3]),
        ({"$nor": [{"club": "go"}]}, [1, 3]),
        ({"club": {"$regex": "^ch"}}, [1, 3]),
        ({"club": {"$ne": "chess"}}, [2]),
        (where(Member).club == "chess", [1, 3]),
        ({}, [1, 2, 3]),
        (None, [1, 2, 3]),
    ],
    ids=str,
)
async def test_a_filter_is_about_documents(driver: Driver, filter: Any, expected: list[int]) -> None:
    """Inserts and replacements that match; deletions come in any case, as they carry nothing that could be compared."""
    members = driver.repository(Member)
    async with await members.watch(filter, **QUICK) as stream:
        await members.save_many(
            [
                Member(id=1, income=110),
                Member(id=2, club="go", email="bob@example.com", income=210),
                Member(id=3, email="eve@example.com", income=260),
            ]
        )
        for number in (1, 2, 3):
            await members.save(await members.load(number))
        await members.delete_many({"id": {"$lte": 3}})
        changes = await take(stream, 2 * len(expected) + 3)
        assert said(changes) == [
            *(("insert", number) for number in expected),
            *(("replace", number) for number in expected),
            *(("delete", number) for number in (1, 2, 3)),
        ]
        assert await is_quiet(stream)


async def test_a_filter_on_the_id_is_about_deletions_too(driver: Driver, database: Db) -> None:
    """And whatever else it says is not."""
    members = driver.repository(Member)
    filters: list[Any] = [{"id": {"$in": [1, 2]}, "club": "go"}, {"$and": [{"id": {"$lt": 3}}, {"id": {"$gt": 0}}, {"club": "go"}]}]
    for each in filters:
        async with await members.watch(each, **QUICK) as stream:
            await members.save_many([Member(id=number, club="go" if number > 1 else "chess") for number in range(5)])
            await members.delete_many({})
            changes = await take(stream, 3)
            assert changes[0].id == 2
            assert sorted(said(changes[1:])) == [("delete", 1), ("delete", 2)]
            assert await is_quiet(stream)
            database.customers.drop()
            assert said(await take(stream, 2)) == [("drop", None), ("invalidate", None)]


@pytest.mark.parametrize(
    "options",
    [
        {"filter": {"notes": "x"}},
        {"filter": {"nothing": 1}},
        {"filter": {"fullDocument.club": "chess"}},
        {"filter": {"$expr": {"$eq": ["$club", "chess"]}}},
        {"filter": {"$and": [{"$expr": {"$eq": ["$club", "chess"]}}]}},
        {"filter": [{"$match": {}}]},
        {"on_invalid": "ignore"},
        {"full_document_before_change": "off"},
        {"resume_after": "token"},
        {"start_after": 5},
        {"start_at_operation_time": 5},
        {"resume_after": {"_data": "00"}, "start_after": {"_data": "00"}},
    ],
    ids=str,
)
async def test_what_cannot_be_served_is_refused_at_once(driver: Driver, options: Any) -> None:
    """Before anything is sent."""
    with pytest.raises(QueryError):
        await driver.repository(Member).watch(**options)


# --- What cannot be verified. -----------------------------------------------------------------------------------------------


async def insider(driver: Driver, database: Db) -> list[tuple[type[Exception], str]]:
    """Writes past the repository, between the genuine inserts of 1 and 9; and which errors their events should be."""
    members = driver.repository(Member)
    await members.save(Member(id=1, notes=SECRET))
    await members.save(Member(id=2, notes=SECRET))
    one, two = raw_documents(database)[-2:]
    database.customers.insert_one({"_id": 3, "club": "chess", "notes": SECRET})
    database.customers.replace_one({"_id": 2}, {**bson.decode(two.raw), "club": "go"})
    database.customers.replace_one({"_id": 2}, {**bson.decode(one.raw), "_id": 2})
    database.customers.update_one({"_id": 1}, {"$set": {"notes": SECRET}})
    await driver.repository(Member, keys=KeyRing.generate()).save(Member(id=4))
    await driver.repository(Member, driver.collection(), context="another").save(Member(id=5))
    await members.save(Member(id=9))
    return [
        (MalformedEnvelopeError, "3"),
        (IntegrityError, "2"),
        (IntegrityError, "2"),
        (IntegrityError, "1"),
        (UnknownKeyError, "4"),
        (IntegrityError, "5"),
    ]


def chain(error: BaseException | None) -> list[BaseException]:
    """An error, and those that a traceback would show with it."""
    return [] if error is None else [error, *chain(error.__context__)]


async def test_raise_is_the_default_and_next_goes_on(driver: Driver, database: Db) -> None:
    """Each wrong event raises its own error at its turn, with the id and without a value; the others come."""
    async with await driver.repository(Member).watch() as stream:
        expected = await insider(driver, database)
        seen, errors, told = [], [], []
        while 9 not in seen:
            try:
                seen.append((await anext(stream)).id)
            except (IntegrityError, MalformedEnvelopeError, UnknownKeyError) as error:
                errors.append((type(error), error.document_id))
                told += chain(error)
        assert SECRET not in str([(str(each), repr(each)) for each in told])
        assert {each.collection for each in told if isinstance(each, MongoEnvelopeError)} == {"customers"}
        assert seen == [1, 2, 9]
        assert errors == expected


async def test_skip_and_functions(driver: Driver, database: Db) -> None:
    """What is wrong is left out, or a function is told; over the async driver it may be a coroutine function."""
    members, told = driver.repository(Member), []

    async def note(error: MongoEnvelopeError) -> None:
        told.append(error)

    async with (
        await members.watch(on_invalid="skip", **QUICK) as skipping,
        await members.watch(on_invalid=note if driver.is_async else told.append, **QUICK) as telling,
    ):
        expected = await insider(driver, database)
        for stream in (skipping, telling):
            assert [each.id for each in await take(stream, 3)] == [1, 2, 9]
        assert [(type(error), error.document_id) for error in told] == expected


async def test_a_function_that_fails_is_told_again(driver: Driver, database: Db) -> None:
    """Until it has been told, the stream's token does not cover the event."""
    members, told = driver.repository(Member), []

    def failing(error: MongoEnvelopeError) -> None:
        told.append(error)
        if len(told) < 3:
            raise LookupError

    async with await members.watch(on_invalid=failing, **QUICK) as stream:
        await members.save(Member(id=1))
        database.customers.insert_one({"_id": 2})
        await members.save(Member(id=3))
        await take(stream, 1)
        for _ in range(2):
            with pytest.raises(LookupError):
                await take(stream, 1)
        async with await members.watch(resume_after=stream.resume_token, **QUICK) as again:
            with pytest.raises(MalformedEnvelopeError):
                await take(again, 1)
        assert said(await take(stream, 1)) == [("insert", 3)]
        assert len(told) == 3


async def test_an_outage_is_not_skipped(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A KMSError is raised whatever on_invalid says, and its event is the next one again, here and after the token."""
    members = driver.repository(Member)
    async with await members.watch(on_invalid="skip", **QUICK) as stream:
        await members.save_many([Member(id=1), Member(id=2)])
        await take(stream, 1)

        def down(*_: Any) -> Any:
            raise KMSError("the key service did not answer")

        with monkeypatch.context() as patched:
            for opening in ("open_at_once", "open_plainly"):
                patched.setattr(members.codec, opening, down)
            for _ in range(2):
                with pytest.raises(KMSError):
                    await take(stream, 1)
            token = stream.resume_token
            assert stream.alive
        assert said(await take(stream, 1)) == [("insert", 2)]
        async with await members.watch(resume_after=token, **QUICK) as again:
            assert said(await take(again, 1)) == [("insert", 2)]


async def test_a_server_that_swaps_documents(driver: Driver, database: Db, proxy: Proxy) -> None:
    """A genuine document in the event of another one, and one that the filter does not ask for, are found out."""
    async with driver.another_client(proxy.uri) as client:
        members = driver.repository(Member, driver.collection(client=client))
        async with await members.watch({"club": "chess"}, **QUICK) as stream:
            one = await members.save(Member(id=1))
            await members.save(Member(id=2))
            proxy.swap = tuple(bytes(each.raw) for each in raw_documents(database))  # type: ignore[assignment]  # a pair
            with pytest.raises(IntegrityError, match="another document than the one that the event is about"):
                await take(stream, 1)
            proxy.swap = (b"", b"")
            assert said(await take(stream, 1)) == [("insert", 2)]
            before = bytes(raw_documents(database)[0].raw)
            one.club = "quilt"
            await members.save(one)
            one.club = "chess"
            proxy.swap = (b"", b"")
            older = bytes(raw_documents(database)[0].raw)
            await members.save(one)
            proxy.swap = (bytes(raw_documents(database)[0].raw), older)
            assert len(before) == len(older)
            with pytest.raises(IntegrityError, match="not match the filter"):
                await take(stream, 1)


@pytest.mark.parametrize(
    ("swap", "error"),
    [
        ((b"operationType\0\x07\0\0\0insert", b"operationType\0\x07\0\0\0unsert"), MalformedEnvelopeError),
        ((b"operationType\0\x07\0\0\0insert", b"operationType\0\x07\0\0\0update"), IntegrityError),
        ((b"operationType\0", b"operationTypo\0"), MalformedEnvelopeError),
        ((b"\x03documentKey\0", b"\x03documentKex\0"), IntegrityError),
        ((b"\x03documentKey\0\x0e\0\0\0\x10", b"\x03documentKey\0\x0e\0\0\0\x99"), MalformedEnvelopeError),
        ((b"\x03fullDocument\0", b"\x03fullDocumend\0"), MalformedEnvelopeError),
        ((b"insert\0\x11clusterTime\0", b"insert\0\x12clusterTime\0"), None),
    ],
    ids=str,
)
async def test_a_server_that_sends_nonsense(driver: Driver, proxy: Proxy, swap: Any, error: Any) -> None:
    """Each is an error of its own, after which the stream goes on; a time that is none is None."""
    async with driver.another_client(proxy.uri) as client:
        members = driver.repository(Member, driver.collection(client=client))
        async with await members.watch(**QUICK) as stream:
            await members.save(Member(id=1))
            proxy.swap = swap
            if error is None:
                assert [each.cluster_time for each in await take(stream, 1)] == [None]
            else:
                with pytest.raises(error):
                    await take(stream, 1)
            proxy.swap = (b"", b"")
            await members.save(Member(id=2))
            assert said(await take(stream, 1)) == [("insert", 2)]


async def test_the_id_of_a_deletion_is_the_servers_word(driver: Driver, database: Db) -> None:
    """Of whatever type it is: documents that no repository wrote can be deleted, too."""
    members = driver.repository(Member)
    async with await members.watch(on_invalid="skip", **QUICK) as stream:
        for identity in ("text", {"a": 1}, 5.5, 7.0):
            database.customers.insert_one({"_id": identity})
            database.customers.delete_one({"_id": identity})
        assert [each.id for each in await take(stream, 4)] == ["text", {"a": 1}, 5.5, 7]


# --- Going on. ------------------------------------------------------------------------------------------------------------------


async def test_a_stream_goes_on_after_its_token(driver: Driver) -> None:
    """After what was given, and before what had come with it; the token may have been anywhere in the meantime."""
    members = driver.repository(Member)
    async with await members.watch(**QUICK) as stream:
        fresh = stream.resume_token
        await members.save_many([Member(id=number) for number in range(5)])
        changes = await take(stream, 2)
        tokens = [stream.resume_token, changes[1].resume_token]
    tokens.append(pickle.loads(pickle.dumps(tokens[0])))  # noqa: S301 - our own
    for token in (
        *tokens,
        json.loads(json.dumps(tokens[1])),
        bson.decode(bson.encode(tokens[0])),
    ):
        assert type(token) is dict
        for how in ("resume_after", "start_after"):
            async with await members.watch(**{how: token}, **QUICK) as stream:
                assert [each.id for each in await take(stream, 3)] == [2, 3, 4]
    async with await members.watch(resume_after=fresh, **QUICK) as stream:
        assert [each.id for each in await take(stream, 5)] == [0, 1, 2, 3, 4]
    async with await members.watch(start_at_operation_time=changes[1].cluster_time, **QUICK) as stream:
        assert 1 in [each.id for each in await take(stream, 4)]


async def test_a_batch_size_of_one_gives_all(driver: Driver) -> None:
    """It changes the number of round trips, and nothing else."""
    members = driver.repository(Member)
    async with await members.watch(batch_size=1, comment="why", **QUICK) as stream:
        await members.save_many([Member(id=number) for number in range(5)])
        assert [each.id for each in await take(stream, 5)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "failure",
    [
        {"closeConnection": True},
        {"errorCode": 43},  # CursorNotFound
        {"errorCode": 63, "errorLabels": ["ResumableChangeStreamError"]},  # StaleShardVersion
        {"errorCode": 262, "errorLabels": ["ResumableChangeStreamError"]},  # ExceededTimeLimit
    ],
    ids=str,
)
async def test_it_resumes_by_itself(driver: Driver, server: embedded.Server, fail_command: Fail, failure: dict[str, Any]) -> None:
    """After what pymongo resumes after: nothing is lost, and nothing comes twice."""
    async with driver.another_client(server.uri, appName="fails") as client:
        watched, members = driver.repository(Member, driver.collection(client=client)), driver.repository(Member)
        async with await watched.watch(**QUICK) as stream:
            seen = []
            for number in range(0, 6, 2):
                await members.save_many([Member(id=number), Member(id=number + 1)])
                fail_command(["getMore"], **failure)
                seen += [each.id for each in await take(stream, 2)]
            assert seen == [0, 1, 2, 3, 4, 5]
            assert await is_quiet(stream)


async def test_it_resumes_after_its_cursor_was_killed(driver: Driver, database: Db) -> None:
    """By an administrator, say."""
    members = driver.repository(Member)
    async with await members.watch(**QUICK) as stream:
        await members.save(Member(id=1))
        await take(stream, 1)
        cursor = stream.inner._watched.stream._cursor.cursor_id
        database.command("killCursors", "customers", cursors=[cursor])
        await members.save(Member(id=2))
        assert said(await take(stream, 1)) == [("insert", 2)]


async def test_other_errors_end_it_and_it_can_be_opened_again(driver: Driver, server: embedded.Server, fail_command: Fail) -> None:
    """They are pymongo's; a new stream with the token of the old one goes on where it ended."""
    async with driver.another_client(server.uri, appName="fails") as client:
        members = driver.repository(Member, driver.collection(client=client))
        async with await members.watch(**QUICK) as stream:
            await members.save_many([Member(id=1), Member(id=2)])
            await take(stream, 2)
            await members.save(Member(id=3))
            fail_command(["getMore"], errorCode=13)
            with pytest.raises(OperationFailure):
                await take(stream, 1)
            assert stream.alive is False
        async with await members.watch(resume_after=stream.resume_token, **QUICK) as stream:
            assert said(await take(stream, 1)) == [("insert", 3)]


async def test_a_long_outage(driver: Driver, server: embedded.Server, database: Db, fail_command: Fail) -> None:
    """Longer than pymongo tries: its error. Later the stream goes on, and so does a new one after the token."""
    members = driver.repository(Member)
    async with driver.another_client(server.uri, appName="fails") as client:
        async with await driver.repository(Member, driver.collection(client=client)).watch(**QUICK) as stream:
            await members.save_many([Member(id=1), Member(id=2)])
            await take(stream, 2)
            await members.save(Member(id=3))
            fail_command(["getMore", "aggregate"], closeConnection=True, times=100)
            for _ in range(2):
                with pytest.raises(PyMongoError):
                    await take(stream, 1)
                assert stream.alive
            token = stream.resume_token
            database.client.admin.command("configureFailPoint", "failCommand", mode="off")
            assert said(await take(stream, 1)) == [("insert", 3)]
        async with await members.watch(resume_after=token, **QUICK) as stream:
            assert said(await take(stream, 1)) == [("insert", 3)]


def test_a_cancelled_wait_loses_nothing(server: embedded.Server, keys: KeyRing, database: Db) -> None:
    """pymongo closes the stream then; with its token it is opened again."""

    async def flow() -> None:
        async with AsyncMongoClient[dict[str, Any]](server.uri) as client:
            members = AsyncRepository(Member, client[database.name].customers, keys=keys)
            stream = await members.watch()
            await members.save(Member(id=1))
            assert (await anext(stream)).id == 1
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(stream), 0.2)
            await members.save(Member(id=2))
            async with await members.watch(resume_after=stream.resume_token) as stream:
                assert (await anext(stream)).id == 2

    asyncio.run(flow())


async def test_with_a_session_and_another_read_concern(driver: Driver) -> None:
    """A stream reads what the majority has, whatever the repository reads; in a transaction there is none."""
    members = driver.repository(Member)
    session = driver.client.start_session()
    local = driver.repository(Member, driver.collection().with_options(read_concern=ReadConcern("local")))
    async with await local.watch(session=session, **QUICK) as stream:
        await members.save(Member(id=1))
        assert said(await take(stream, 1)) == [("insert", 1)]
    async with driver.transaction(commit=False) as transaction:
        with pytest.raises(OperationFailure):
            await members.watch(session=transaction)
    ended = session.end_session()
    if driver.is_async:
        await ended


async def test_a_mongod_outside_a_replica_set(driver: Driver, standalone: str) -> None:
    """It has no change streams, and the error says what is needed."""
    async with driver.another_client(standalone) as client:
        with pytest.raises(ConfigurationError, match="replica set"):
            await driver.repository(Member, driver.collection(client=client)).watch()


async def test_other_errors_at_the_start_go_through(driver: Driver) -> None:
    """Such as that of a token that is none."""
    with pytest.raises(OperationFailure):
        await driver.repository(Member).watch(resume_after={"_data": "no token"})


@pytest.mark.soak
def test_a_failover_loses_nothing(keys: KeyRing) -> None:
    """The primary is killed with SIGKILL, three times: each acknowledged write comes, in its order, and once."""
    with ThreeNodes() as nodes, MongoClient[dict[str, Any]](nodes.uri, w="majority") as client:
        members = Repository(Member, client.test.members, keys=keys)
        members.setup()
        seen: list[int] = []
        written: list[int] = []
        stream = members.watch(max_await_time_ms=200)
        over = threading.Event()

        def write() -> None:
            while not over.is_set():
                mine = Member(id=len(written))
                while True:
                    try:
                        members.save(mine)
                        break
                    except PyMongoError:
                        time.sleep(0.1)
                written.append(mine.id)

        writer = threading.Thread(target=write)
        writer.start()
        opened = 1
        for _ in range(3):
            end = time.monotonic() + 3
            killed = nodes.kill_primary()
            while time.monotonic() < end or len(seen) < len(written):
                try:
                    if (change := stream.try_next()) is not None:
                        seen.append(change.id)
                except PyMongoError:
                    token = stream.resume_token
                    time.sleep(0.1)
                    if not stream.alive:
                        stream = members.watch(resume_after=token, max_await_time_ms=200)
                        opened += 1
                if time.monotonic() > end and not over.is_set() and len(seen) >= len(written) - 5:
                    break
            nodes.restart(killed)
            nodes.wait_until_healthy()
        over.set()
        writer.join()
        while len(seen) < len(written):
            if (change := stream.try_next()) is not None:
                seen.append(change.id)
        stream.close()
        assert [each for each in seen if seen.count(each) > 1] == []
        assert seen == sorted(seen) == written
        assert len(seen) > 100


def test_ids_are_compared_as_stored(client: MongoClient[dict[str, Any]], database: Db, keys: KeyRing) -> None:
    """A UUID of the event is that of the model."""
    customers = Repository(Customer, client[database.name].customers, keys=keys)
    with customers.watch() as stream:
        ada = customers.save(Customer(id=uuid4()))
        assert next(stream).model == ada
