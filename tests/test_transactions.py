"""Transactions: blocks and callbacks over either driver, under injected failures, and what instances know afterwards."""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from conftest import Driver, Proxy, in_threads
from pydantic import BaseModel
from pymongo import MongoClient, ReadPreference, timeout
from pymongo.database import Database
from pymongo.errors import InvalidOperation, OperationFailure, PyMongoError
from pymongo.monitoring import CommandListener
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from mongo_envelope import (
    BlindIndex,
    Bucket,
    ConfigurationError,
    DocumentNotFoundError,
    DuplicateValueError,
    KeyRing,
    Queryable,
    QueryError,
    Repository,
    RevisionConflictError,
    Sensitive,
    embedded,
    transactions,
)
from mongo_envelope.bridge import settle

Db = Database[dict[str, Any]]
Fail = Callable[..., None]


class Account(BaseModel):
    id: int
    owner: Annotated[str, Queryable()] = "acme"
    email: Annotated[str, Sensitive(index=BlindIndex(normalize="casefold", unique=True))]
    rank: Annotated[int, Sensitive(index=Bucket(width=10))] = 0
    balance: int = 0


def account(number: int, **fields: Any) -> Account:
    return Account(id=number, **{"email": f"{number}@example.com", "rank": number, **fields})


@dataclass
class World:
    """A repository with the accounts 1 to 4, and instances that a function has from outside its transaction."""

    accounts: Any
    old: Account  #: 1, as it was loaded
    new: Account  #: 9, not there yet
    put: Account  #: 2, as a client sent it
    revision: str  #: of 2

    async def stored(self) -> dict[int, int]:
        return {each.id: each.balance for each in await self.accounts.find().to_list()}


async def world(accounts: Any) -> World:
    await accounts.setup()
    await accounts.save_many([account(number) for number in (1, 2, 3, 4)])
    return World(
        accounts=accounts,
        old=await accounts.load(1),
        new=account(9),
        put=account(2, balance=7),
        revision=accounts.revision(await accounts.load(2)),
    )


# --- What is done in a transaction: to the end of one that is committed, and again after one that was not. --------------


async def save_a_new_one(w: World, tx: Any) -> None:
    await w.accounts.save(w.new, session=tx)


async def save_a_loaded_one(w: World, tx: Any) -> None:
    w.old.balance = 5
    await w.accounts.save(w.old, session=tx)


async def save_each_three_times(w: World, tx: Any) -> None:
    for balance in (5, 6, 7):
        w.old.balance = w.new.balance = balance
        await w.accounts.save(w.old, session=tx)
        await w.accounts.save(w.new, session=tx)


async def load_inside(w: World, tx: Any) -> None:
    loaded = await w.accounts.load(1, session=tx)
    loaded.balance += 5
    await w.accounts.save(loaded, session=tx)


async def update(w: World, tx: Any) -> None:
    await w.accounts.update(1, {"balance": 5}, session=tx)
    await w.accounts.update(1, lambda each: each.model_copy(update={"balance": each.balance + 1}), session=tx)
    await w.accounts.update(2, {"balance": 7}, revision=w.revision, session=tx)


async def save_many(w: World, tx: Any) -> None:
    w.old.balance = 5
    await w.accounts.save_many([w.new, w.old], session=tx)


async def delete(w: World, tx: Any) -> None:
    assert await w.accounts.delete(1, session=tx)
    assert await w.accounts.delete(2, revision=w.revision, session=tx)


async def delete_many(w: World, tx: Any) -> None:
    assert await w.accounts.delete_many({"id": {"$lte": 2}}, session=tx) == 2


async def delete_many_sifted(w: World, tx: Any) -> None:
    assert await w.accounts.delete_many({"rank": {"$gte": 3, "$lt": 9}}, session=tx) == 2


async def save_delete_save(w: World, tx: Any) -> None:
    await w.accounts.save(w.new, session=tx)
    assert await w.accounts.delete(9, session=tx)
    await w.accounts.save(w.new, session=tx)


async def delete_and_make_anew(w: World, tx: Any) -> None:
    assert await w.accounts.delete(1, session=tx)
    await w.accounts.save(account(1, balance=5), session=tx)


async def overwrite(w: World, tx: Any) -> None:
    await w.accounts.save(w.new, overwrite=True, session=tx)
    await w.accounts.save(w.put, overwrite=True, session=tx)


async def save_over_a_revision(w: World, tx: Any) -> None:
    await w.accounts.save(w.put, revision=w.revision, session=tx)
    w.put.balance = 7
    await w.accounts.save(w.put, session=tx)


async def move_a_unique_value(w: World, tx: Any) -> None:
    assert await w.accounts.delete(2, session=tx)
    w.old.email = "2@EXAMPLE.com"
    await w.accounts.save(w.old, session=tx)
    await w.accounts.save(account(8, email="1@example.com"), session=tx)


async def update_many(w: World, tx: Any) -> None:
    await w.accounts.update_many({"id": {"$lte": 2}}, {"balance": 5}, session=tx)
    await w.accounts.update_many(
        {"rank": {"$gte": 2, "$lt": 4}}, lambda each: each.model_copy(update={"balance": each.balance + 1}), session=tx
    )


async def bulk(w: World, tx: Any) -> None:
    w.old.balance = 5
    async with w.accounts.bulk(session=tx) as batch:
        await batch.save(w.new)
        await batch.save(w.old)
        await batch.update(3, {"balance": 6})
        await batch.delete(4)


BEFORE = {1: 0, 2: 0, 3: 0, 4: 0}
AFTER: dict[Callable[[World, Any], Awaitable[None]], dict[int, int]] = {
    save_a_new_one: {**BEFORE, 9: 0},
    save_a_loaded_one: {**BEFORE, 1: 5},
    save_each_three_times: {**BEFORE, 1: 7, 9: 7},
    load_inside: {**BEFORE, 1: 5},
    update: {**BEFORE, 1: 6, 2: 7},
    save_many: {**BEFORE, 1: 5, 9: 0},
    update_many: {1: 5, 2: 6, 3: 1, 4: 0},
    bulk: {1: 5, 2: 0, 3: 6, 9: 0},
    delete: {3: 0, 4: 0},
    delete_many: {3: 0, 4: 0},
    delete_many_sifted: {1: 0, 2: 0},
    save_delete_save: {**BEFORE, 9: 0},
    delete_and_make_anew: {**BEFORE, 1: 5},
    overwrite: {**BEFORE, 2: 7, 9: 0},
    save_over_a_revision: {**BEFORE, 2: 7},
    move_a_unique_value: {1: 0, 3: 0, 4: 0, 8: 0},
}
#: The instances that each of them has saved, by name.
SAVED: dict[Callable[[World, Any], Awaitable[None]], str] = {
    save_a_new_one: "new",
    save_a_loaded_one: "old",
    save_each_three_times: "old new",
    save_many: "new old",
    save_delete_save: "new",
    bulk: "new old",
    overwrite: "new put",
    save_over_a_revision: "put",
    move_a_unique_value: "old",
}
WORK = pytest.mark.parametrize("work", AFTER, ids=lambda work: work.__name__)
WRITES = ["insert", "update", "delete"]
COMMIT = ["commitTransaction"]
TRANSIENT, UNKNOWN = "TransientTransactionError", "UnknownTransactionCommitResult"
#: What fails, and whether the function runs again for it.
FAILURES: dict[str, tuple[list[str], dict[str, Any], bool]] = {
    "a write conflict": (WRITES, {"errorCode": 112, "errorLabels": [TRANSIENT]}, True),
    "a write without a connection": (WRITES, {"closeConnection": True}, True),
    "a commit of what is gone": (COMMIT, {"errorCode": 251, "errorLabels": [TRANSIENT]}, True),
    "a commit without a connection": (COMMIT, {"closeConnection": True, "times": 3}, False),
    "a commit into the void": (COMMIT, {"errorCode": 6, "errorLabels": ["RetryableWriteError"], "times": 3}, False),
    "a commit without its majority": (COMMIT, {"writeConcernError": {"code": 64, "errmsg": "no"}, "times": 3}, False),
}


@pytest.mark.parametrize(
    ("failure", "work"),
    [
        pytest.param(failure, work, id=f"{failure}-{work.__name__}")
        for failure, (*_, again) in FAILURES.items()
        for work in (AFTER if again else (save_each_three_times, save_many))
    ],
)
async def test_a_function_that_runs_twice_does_not_conflict_with_itself(
    driver: Driver, server: embedded.Server, fail_command: Fail, failure: str, work: Any
) -> None:
    """Whatever it does with whatever instances, whatever fails: it is done once."""
    commands, how, again = FAILURES[failure]
    async with driver.another_client(server.uri, appName="fails") as client:
        w = await world(driver.repository(Account, driver.collection(client=client)))
        runs = []

        async def body(tx: Any) -> str:
            runs.append(tx)
            await work(w, tx)
            return "done"

        fail_command(commands, **how)
        assert await w.accounts.with_transaction(driver.function(body)) == "done"
        assert len(runs) == 1 + again
        assert await w.stored() == AFTER[work]
        for each in SAVED.get(work, "").split():
            await w.accounts.save(getattr(w, each))


@WORK
async def test_an_aborted_block_leaves_nothing_and_can_be_done_outside(driver: Driver, work: Any) -> None:
    """The same instances, after two transactions that were undone, in none."""
    w = await world(driver.repository(Account))
    for _ in range(2):
        with pytest.raises(LookupError):  # noqa: PT012 - the block is what is tested
            async with w.accounts.transaction() as tx:
                await work(w, tx)
                raise LookupError
        assert await w.stored() == BEFORE
    if work is save_delete_save:  # outside it is known that it was deleted
        with pytest.raises(DocumentNotFoundError):
            await work(w, None)
        return
    await work(w, None)
    assert await w.stored() == AFTER[work]


@WORK
async def test_a_block_is_committed_at_its_end(driver: Driver, work: Any) -> None:
    """Not before; and what it did can be done again with the same instances."""
    w = await world(driver.repository(Account))
    async with w.accounts.transaction() as tx:
        await work(w, tx)
        assert await w.stored() == BEFORE
    assert await w.stored() == AFTER[work]


@pytest.mark.parametrize("failure", [each for each, (commands, _, again) in FAILURES.items() if commands is COMMIT and not again])
async def test_the_commit_of_a_block_is_repeated(driver: Driver, server: embedded.Server, fail_command: Fail, failure: str) -> None:
    """While nobody knows whether it was done."""
    async with driver.another_client(server.uri, appName="fails") as client:
        w = await world(driver.repository(Account, driver.collection(client=client)))
        async with w.accounts.transaction() as tx:
            await save_each_three_times(w, tx)
            fail_command(COMMIT, **FAILURES[failure][1])
        assert await w.stored() == AFTER[save_each_three_times]
        await w.accounts.save_many([w.old, w.new])


@pytest.mark.parametrize("failure", [each for each, (*_, again) in FAILURES.items() if again])
async def test_a_block_cannot_be_run_again(driver: Driver, server: embedded.Server, fail_command: Fail, failure: str) -> None:
    """A transient error is raised with its label, and the same instances can be saved in another one."""
    commands, how, _ = FAILURES[failure]
    async with driver.another_client(server.uri, appName="fails") as client:
        w = await world(driver.repository(Account, driver.collection(client=client)))
        fail_command(commands, **how)
        with pytest.raises(PyMongoError) as caught:
            async with w.accounts.transaction() as tx:
                await save_each_three_times(w, tx)
        assert caught.value.has_error_label(TRANSIENT)
        assert await w.stored() == BEFORE
        async with w.accounts.transaction() as tx:
            await save_each_three_times(w, tx)
        assert await w.stored() == AFTER[save_each_three_times]


async def test_commits_are_not_repeated_for_ever(
    driver: Driver, server: embedded.Server, database: Db, fail_command: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the limit, after the server's own limit, and after that of pymongo.timeout, the outcome stays unknown."""
    async with driver.another_client(server.uri, appName="fails") as client:
        w = await world(driver.repository(Account, driver.collection(client=client)))
        fail_command(COMMIT, errorCode=50, times=2)
        with pytest.raises(OperationFailure) as caught:
            async with w.accounts.transaction(max_commit_time_ms=1000) as tx:
                await save_a_loaded_one(w, tx)
        assert caught.value.has_error_label(UNKNOWN)
        fail_command(COMMIT, errorCode=6, times=10_000)
        monkeypatch.setattr(transactions, "_LIMIT", 0.2)
        with pytest.raises(OperationFailure) as caught:
            async with w.accounts.transaction() as tx:
                await save_a_loaded_one(w, tx)
        assert caught.value.has_error_label(UNKNOWN)
        await w.accounts.save(w.old)
        assert await w.stored() == AFTER[save_a_loaded_one]
        monkeypatch.undo()
        start = time.monotonic()
        with pytest.raises(PyMongoError), timeout(0.5):
            async with w.accounts.transaction() as tx:
                await save_a_new_one(w, tx)
        assert time.monotonic() - start < 5
        database.client.admin.command({"killAllSessions": []})  # what is left of it is in the way for a minute


@pytest.mark.parametrize("work", [each for each in AFTER if not each.__name__.startswith("delete_many") and each is not delete])
async def test_lost_replies(driver: Driver, server: embedded.Server, proxy: Proxy, work: Any) -> None:
    """A write arrived, and nobody was told: the function runs again, and does not meet itself."""
    async with driver.another_client(proxy.uri, retryReads=True) as client:
        w = await world(driver.repository(Account, driver.collection(client=client)))
        runs = []

        async def body(tx: Any) -> None:
            runs.append(tx)
            await work(w, tx)

        proxy.lose = True
        await w.accounts.with_transaction(driver.function(body))
        assert len(runs) == 2
        assert await w.stored() == AFTER[work]


# --- Other writers. ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["load and save", "update", "save_many", "update_many", "bulk", "delete"])
async def test_another_writer_in_between_makes_it_run_again(driver: Driver, how: str) -> None:
    """The server says "write conflict", and the second run sees what the other one wrote."""
    w = await world(driver.repository(Account))
    runs = []

    async def body(tx: Any) -> None:
        mine = await w.accounts.load(1, session=tx)
        runs.append(mine.balance)
        if len(runs) == 1:
            await w.accounts.update(1, {"balance": 10})  # not in the transaction
        mine.balance += 1
        if how == "update":
            await w.accounts.update(1, {"balance": mine.balance}, session=tx)
        elif how == "update_many":
            await w.accounts.update_many({"id": 1}, lambda each: mine.model_copy(), session=tx)
        elif how == "save_many":
            await w.accounts.save_many([account(20), mine], session=tx)
        elif how == "bulk":
            async with w.accounts.bulk(session=tx) as batch:
                await batch.save(mine)
        elif how == "delete":
            await w.accounts.delete(1, session=tx)
            await w.accounts.save(account(1, balance=mine.balance), session=tx)
        else:
            await w.accounts.save(mine, session=tx)

    await w.accounts.with_transaction(driver.function(body))
    assert runs == [0, 10]
    assert (await w.stored())[1] == 11


async def test_an_old_instance_is_a_conflict_at_once(driver: Driver) -> None:
    """Running it again could not help: the instance stays old. Nothing of the transaction is written."""
    w = await world(driver.repository(Account))
    await w.accounts.update(1, {"balance": 10})
    runs = []

    async def body(tx: Any) -> None:
        runs.append(tx)
        await w.accounts.save(w.new, session=tx)
        await w.accounts.save(w.old, session=tx)

    with pytest.raises(RevisionConflictError):
        await w.accounts.with_transaction(driver.function(body))
    assert len(runs) == 1
    assert await w.stored() == {**BEFORE, 1: 10}
    with pytest.raises(RevisionConflictError):
        async with w.accounts.transaction() as tx:
            await body(tx)
    assert await w.stored() == {**BEFORE, 1: 10}
    await w.accounts.save(w.new)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (account(1), RevisionConflictError),
        (account(7, email="2@EXAMPLE.COM"), DuplicateValueError),
    ],
    ids=["id", "unique value"],
)
async def test_what_is_there_already_ends_the_transaction(driver: Driver, wrong: Account, error: type[Exception]) -> None:
    """An id or a unique value of somebody else: our error, and nothing is written."""
    w = await world(driver.repository(Account))

    async def body(tx: Any) -> None:
        await w.accounts.save(w.new, session=tx)
        await w.accounts.save(wrong.model_copy(), session=tx)

    with pytest.raises(error):
        await w.accounts.with_transaction(driver.function(body))
    assert await w.stored() == BEFORE


async def test_after_a_commit_an_instance_stands_for_its_newest_revision(driver: Driver) -> None:
    """The revision is the stored one, an older copy is a conflict, and a document that is deleted then is missed."""
    w = await world(driver.repository(Account))
    copy = w.old.model_copy()
    await w.accounts.with_transaction(driver.function(lambda tx: save_each_three_times(w, tx)))
    assert w.accounts.revision(w.old) == w.accounts.revision(await w.accounts.load(1))
    assert w.accounts.revision(w.new) == w.accounts.revision(await w.accounts.load(9))
    with pytest.raises(RevisionConflictError):
        await w.accounts.save(copy)
    await w.accounts.delete(1)
    with pytest.raises(DocumentNotFoundError):
        await w.accounts.save(w.old)


# --- Several repositories, options, sessions. ------------------------------------------------------------------------------


async def test_one_transaction_over_several_repositories(driver: Driver, database: Db) -> None:
    """All of it or nothing, in two collections."""
    accounts = driver.repository(Account)
    others = driver.repository(Account, driver.collection("others"))
    for each in (accounts, others):
        await each.setup()
    with pytest.raises(LookupError):  # noqa: PT012 - the block is what is tested
        async with accounts.transaction() as tx:
            await accounts.save(account(1), session=tx)
            await others.save(account(2), session=tx)
            raise LookupError
    assert (database.customers.count_documents({}), database.others.count_documents({})) == (0, 0)
    async with accounts.transaction() as tx:
        await accounts.save(account(1), session=tx)
        await others.save(account(2), session=tx)
        assert await others.exists({"id": 2}, session=tx)
        assert not await others.exists({"id": 2})
    assert (database.customers.count_documents({}), database.others.count_documents({})) == (1, 1)


class Commands(CommandListener):
    """What was sent, by name."""

    def __init__(self) -> None:
        self.sent: dict[str, Any] = {}

    def started(self, event: Any) -> None:
        self.sent[event.command_name] = dict(event.command)

    def succeeded(self, event: Any) -> None:
        pass

    def failed(self, event: Any) -> None:
        pass


@pytest.mark.parametrize("form", ["block", "function"])
async def test_options_are_pymongos(driver: Driver, server: embedded.Server, form: str) -> None:
    """They reach the server as pymongo sends them, and without them nothing is sent."""
    commands = Commands()
    async with driver.another_client(server.uri, event_listeners=[commands]) as client:
        accounts = driver.repository(Account, driver.collection(client=client))

        async def once(number: int, **options: Any) -> None:
            async def body(tx: Any) -> None:
                await accounts.save(account(number), session=tx)

            if form == "block":
                async with accounts.transaction(**options) as tx:
                    await body(tx)
            else:
                await accounts.with_transaction(driver.function(body), **options)

        await once(1)
        assert "readConcern" not in commands.sent["insert"]
        assert commands.sent["commitTransaction"].keys().isdisjoint({"writeConcern", "maxTimeMS"})
        await once(
            2,
            read_concern=ReadConcern("snapshot"),
            write_concern=WriteConcern("majority"),
            read_preference=ReadPreference.PRIMARY,
            max_commit_time_ms=5000,
        )
        assert commands.sent["insert"]["readConcern"]["level"] == "snapshot"
        assert commands.sent["commitTransaction"]["writeConcern"] == {"w": "majority"}
        assert commands.sent["commitTransaction"]["maxTimeMS"] == 5000


async def test_a_session_of_ones_own(driver: Driver) -> None:
    """It is used, and not ended; a second transaction inside the first is pymongo's error, and the first goes on."""
    w = await world(driver.repository(Account))

    async def body(tx: Any) -> Any:
        await w.accounts.save(w.new, session=tx)
        return tx

    session = driver.client.start_session()
    async with w.accounts.transaction(session=session) as tx:
        assert tx is session
        await w.accounts.save(w.old, session=tx)
        with pytest.raises(InvalidOperation, match="already in progress"):
            async with w.accounts.transaction(session=session):
                pytest.fail("it has begun")
        with pytest.raises(InvalidOperation, match="already in progress"):
            await w.accounts.with_transaction(driver.function(body), session=session)
        assert tx.in_transaction
    assert await w.accounts.with_transaction(driver.function(body), session=session) is session
    assert not session.has_ended
    await settle(session.end_session())
    assert await w.stored() == {**BEFORE, 9: 0}


async def test_a_session_of_our_own_is_ended(driver: Driver) -> None:
    """However the block ends, and also if it cannot begin."""
    accounts = driver.repository(Account)
    async with accounts.transaction() as committed:
        pass
    with pytest.raises(LookupError):
        async with accounts.transaction() as aborted:
            raise LookupError
    assert committed.has_ended
    assert aborted.has_ended
    with pytest.raises(TypeError):
        async with accounts.transaction(read_concern="majority"):
            pytest.fail("it has begun")


async def test_who_ends_it_himself_is_left_alone(driver: Driver) -> None:
    """A block or function that has aborted or committed: nothing is done about it at its end."""
    w = await world(driver.repository(Account))

    async def body(tx: Any) -> None:
        await w.accounts.save(w.new, session=tx)
        await settle(tx.abort_transaction())

    async with w.accounts.transaction() as tx:
        await body(tx)
    await w.accounts.with_transaction(driver.function(body))
    assert await w.stored() == BEFORE
    await w.accounts.save(w.new)


async def test_a_session_of_another_client_is_refused(driver: Driver, server: embedded.Server) -> None:
    """At once, whatever is given in its place."""
    accounts = driver.repository(Account)
    async with driver.another_client(server.uri) as client:
        session = client.start_session()
        for wrong in (session, "session", client):
            with pytest.raises(ConfigurationError, match="client"):
                async with accounts.transaction(session=wrong):
                    pytest.fail("it has begun")
            with pytest.raises(ConfigurationError, match="client"):
                await accounts.with_transaction(lambda tx: None, session=wrong)
        await settle(session.end_session())


async def test_functions_of_the_other_kind(driver: Driver) -> None:
    """The async repository takes plain functions, too; the sync one cannot wait, says so, and writes nothing."""
    w = await world(driver.repository(Account))

    async def body(tx: Any) -> int:
        await w.accounts.save(w.new, session=tx)
        return 5

    if driver.is_async:
        assert await w.accounts.with_transaction(body) == 5
        assert await w.accounts.with_transaction(lambda tx: 6) == 6
        assert await w.stored() == {**BEFORE, 9: 0}
    else:
        with pytest.raises(QueryError, match="AsyncRepository"):
            await w.accounts.with_transaction(body)
        assert await w.stored() == BEFORE


def test_a_cancelled_block_is_aborted(server: embedded.Server, keys: KeyRing, database: Db) -> None:
    """On async: nothing is written, no session stays behind, and what was saved in it can be saved."""
    from pymongo import AsyncMongoClient

    from mongo_envelope import AsyncRepository

    async def flow() -> None:
        async with AsyncMongoClient[dict[str, Any]](server.uri) as client:
            accounts = AsyncRepository(Account, client[database.name].customers, keys=keys)
            mine, sessions = account(1), []

            async def work() -> None:
                async with accounts.transaction() as tx:
                    sessions.append(tx)
                    await accounts.save(mine, session=tx)
                    await asyncio.sleep(10)

            with pytest.raises(TimeoutError):
                await asyncio.wait_for(work(), 0.2)
            assert sessions[0].has_ended
            assert await accounts.count() == 0
            await accounts.save(mine)

    asyncio.run(flow())


async def test_a_mongod_outside_a_replica_set(driver: Driver, standalone: str) -> None:
    """It has no transactions, and the error says what is needed."""
    async with driver.another_client(standalone) as client:
        accounts = driver.repository(Account, driver.collection(client=client))

        async def body(tx: Any) -> None:
            await accounts.save(account(1), session=tx)

        with pytest.raises(ConfigurationError, match="replica set"):
            async with accounts.transaction() as tx:
                await body(tx)
        with pytest.raises(ConfigurationError, match="replica set"):
            await accounts.with_transaction(driver.function(body))
        assert await accounts.count() == 0


async def test_other_errors_of_the_server_go_through(driver: Driver) -> None:
    """Such as a command that no transaction allows: they are pymongo's, and the transaction is over."""
    accounts = driver.repository(Account)
    await accounts.save(account(1))

    async def body(tx: Any) -> None:
        await accounts.find(hint="no_such_index", session=tx).to_list()

    with pytest.raises(OperationFailure, match="hint"):
        await accounts.with_transaction(driver.function(body))
    with pytest.raises(OperationFailure, match="hint"):
        async with accounts.transaction() as tx:
            await body(tx)


# --- A storm. ----------------------------------------------------------------------------------------------------------------


def move(giving: Repository[Account], taking: Repository[Account], one: int, other: int, tx: Any) -> None:
    """One of the balance of an account to another one, loaded and saved in a transaction."""
    first, second = giving.load(one, session=tx), taking.load(other, session=tx)
    first.balance -= 1
    second.balance += 1
    giving.save(first, session=tx)
    taking.save(second, session=tx)


@pytest.mark.soak
def test_transfers_under_failures_keep_the_sum(server: embedded.Server, keys: KeyRing, database: Db, fail_command: Fail) -> None:
    """Eight threads move amounts between two repositories for 30 seconds, while commands fail: the sum of all balances stays."""
    with MongoClient[dict[str, Any]](server.uri, appName="fails") as client:
        repositories = [Repository(Account, client[database.name][name], keys=keys) for name in ("one", "other")]
        for each in repositories:
            each.setup()
            each.save_many([account(number, balance=100) for number in range(10)])
        end = time.monotonic() + 30
        made = []

        def transfer() -> None:
            rng = random.Random()  # noqa: S311 - nothing secret
            while time.monotonic() < end:
                giving, taking = rng.sample(repositories, 2)
                giving.with_transaction(functools.partial(move, giving, taking, rng.randrange(10), rng.randrange(10)))
                made.append(1)

        def disturb() -> None:
            rng = random.Random()  # noqa: S311 - nothing secret
            while time.monotonic() < end:
                commands, how, _ = FAILURES[rng.choice(list(FAILURES))]
                fail_command(commands, **{**how, "times": rng.randrange(1, 4)})
                time.sleep(0.02)

        turns = iter([disturb])

        def work() -> None:
            (next(turns, None) or transfer)()

        in_threads(9, work)
        client.admin.command("configureFailPoint", "failCommand", mode="off")
        total = sum(each.balance for one in repositories for each in one.find())
        assert total == 2000
        assert len(made) > 100
