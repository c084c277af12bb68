"""The repository over a real MongoDB. Each test with ``driver`` runs on both drivers, from one body (conftest says how)."""

from __future__ import annotations

import asyncio
import copy
import enum
import pickle
import traceback
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Annotated, Any
from uuid import UUID, uuid4

import pytest
from bson import ObjectId
from conftest import Driver, Proxy, in_threads, saved
from customer_model import SECRET, Customer, raw_documents
from pydantic import BaseModel, ConfigDict, Field, computed_field, field_validator, model_validator
from pymongo import MongoClient, WriteConcern
from pymongo.database import Database
from pymongo.errors import AutoReconnect, OperationFailure

from mongo_envelope import (
    ConfigurationError,
    DocumentNotFoundError,
    DuplicateValueError,
    EnvelopeError,
    IntegrityError,
    KeyRing,
    MalformedEnvelopeError,
    PayloadError,
    Queryable,
    QueryError,
    Repository,
    RevisionConflictError,
    SchemaError,
    UnknownKeyError,
    embedded,
)
from mongo_envelope.bridge import settle

Db = Database[dict[str, Any]]
Fail = Callable[..., None]


def one(collection: str, database: Db) -> dict[str, Any]:
    """The one document there is."""
    (document,) = database[collection].find()
    return document


def said(error: BaseException) -> str:
    """All that a traceback of this error, with everything behind it, would print, and more."""
    parts, seen = [], error
    while seen is not None:
        parts += [repr(seen), str(seen), repr(vars(seen)), *traceback.format_exception_only(seen)]
        seen = seen.__cause__ or seen.__context__  # type: ignore[assignment]
    return "\n".join(parts)


# --- saving and loading -----------------------------------------------------------------------------------------------


async def test_save_inserts_and_load_gives_it_back(driver: Driver, database: Db) -> None:
    """A new instance is inserted sealed, save gives the same instance back, and load an equal one."""
    customers = driver.repository(Customer)
    ada = Customer(notes=SECRET)
    assert await customers.save(ada) is ada
    assert await customers.load(ada.id) == ada
    stored = one("customers", database)
    assert set(stored) == {"_id", "tenant", "rank", "v", "kid", "iv", "data", "hmac"}
    assert (stored["_id"], stored["tenant"], stored["rank"]) == (ada.id, "acme", 0)
    assert SECRET not in repr(stored)
    assert ada.email not in repr(stored)


async def test_saving_a_loaded_instance_replaces(driver: Driver, database: Db) -> None:
    """A loaded instance goes over its own document, again and again, and nothing is inserted beside it."""
    customers = driver.repository(Customer)
    ada = await customers.save(Customer())
    loaded = await customers.load(ada.id)
    for rank in (1, 2, 3):
        loaded.rank = rank
        await customers.save(loaded)
    assert one("customers", database)["rank"] == 3
    assert await customers.load(ada.id) == loaded


async def test_found_instances_can_be_saved(driver: Driver) -> None:
    """What find and find_one give is as good as loaded."""
    customers = driver.repository(Customer)
    await customers.save(Customer())
    found = await customers.find_one()
    found.rank = 1
    await customers.save(found)
    (found,) = await customers.find().to_list()
    found.rank = 2
    await customers.save(found)
    assert (await customers.load(found.id)).rank == 2


async def test_every_write_has_a_tag_of_its_own(driver: Driver, database: Db) -> None:
    """The same content saved again is another revision."""
    customers = driver.repository(Customer)
    ada = await customers.save(Customer())
    before = one("customers", database)
    await customers.save(ada)
    after = one("customers", database)
    assert all(before[name] != after[name] for name in ("iv", "data", "hmac"))


async def test_the_second_of_two_savers_loses_and_nothing_is_written(driver: Driver, database: Db) -> None:
    """Two loaded copies: the second save is a conflict, every time, until it is loaded again."""
    customers = driver.repository(Customer)
    ada = await customers.save(Customer())
    first, second = await customers.load(ada.id), await customers.load(ada.id)
    first.notes, second.notes = "first", "second"
    await customers.save(first)
    before = one("customers", database)
    for _ in range(2):
        with pytest.raises(RevisionConflictError, match="somebody else wrote") as caught:
            await customers.save(second)
        assert caught.value.document_id == repr(ada.id)
        assert caught.value.collection == "customers"
        assert caught.value.__context__ is None
    assert one("customers", database) == before
    again = await customers.load(ada.id)
    assert again.notes == "first"
    again.notes = "second"
    await customers.save(again)


async def test_saving_what_was_deleted_in_between(driver: Driver, database: Db) -> None:
    """A loaded instance does not bring its document back to life, unless it is told to."""
    customers = driver.repository(Customer)
    ada = await customers.save(Customer())
    await customers.delete(ada.id)
    with pytest.raises(DocumentNotFoundError, match="overwrite=True") as caught:
        await customers.save(ada)
    assert caught.value.document_id == repr(ada.id)
    assert database.customers.count_documents({}) == 0
    await customers.save(ada, overwrite=True)
    await customers.save(ada)
    assert await customers.load(ada.id) == ada


async def test_a_fresh_instance_never_overwrites_unless_told(driver: Driver, database: Db) -> None:
    """A new instance with an id that exists is a conflict; overwrite=True wins, and is remembered."""
    customers = driver.repository(Customer)
    ada = await customers.save(Customer(notes="old"))
    fresh = Customer(id=ada.id, notes="new")
    with pytest.raises(RevisionConflictError, match="exists already"):
        await customers.save(fresh)
    assert (await customers.load(ada.id)).notes == "old"
    await customers.save(fresh, overwrite=True)
    fresh.notes = "newer"
    await customers.save(fresh)
    assert (await customers.load(ada.id)).notes == "newer"
    with pytest.raises(RevisionConflictError):
        await customers.save(ada)
    assert database.customers.count_documents({}) == 1


async def test_load_of_nothing(driver: Driver) -> None:
    """An id that is not there is DocumentNotFoundError, with the id and the collection."""
    customers, nobody = driver.repository(Customer), uuid4()
    with pytest.raises(DocumentNotFoundError) as caught:
        await customers.load(nobody)
    assert (caught.value.document_id, caught.value.collection) == (repr(nobody), "customers")


@pytest.mark.parametrize("identity", [None, 5, "not a uuid", {"$gt": ""}, {"$ne": None}, [UUID(int=5)]], ids=str)
async def test_what_is_no_id_is_a_query_error(driver: Driver, database: Db, identity: Any) -> None:
    """load and delete take an id, and no operator in its place."""
    customers = driver.repository(Customer)
    await customers.save(Customer())
    for call in (customers.load, customers.delete):
        with pytest.raises(QueryError, match=r"^id: "):
            await call(identity)
    assert database.customers.count_documents({}) == 1


async def test_delete_says_whether_there_was_one(driver: Driver, database: Db) -> None:
    """True once, then False; other documents stay; an id may be given as text."""
    customers = driver.repository(Customer)
    ada, bob = await saved(customers, [Customer(), Customer()])
    assert await customers.delete(str(ada.id)) is True
    assert await customers.delete(ada.id) is False
    assert one("customers", database)["_id"] == bob.id


# --- what an instance remembers ---------------------------------------------------------------------------------------


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    id: int
    text: str = ""


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)
    id: int
    text: str = ""


class Checked(BaseModel):
    model_config = ConfigDict(validate_assignment=True)
    id: int
    text: str = ""

    @model_validator(mode="after")
    def looked_at(self) -> Checked:
        return self


COPIES: dict[str, Callable[[Any], Any]] = {
    "itself": lambda model: model,
    "model_copy": lambda model: model.model_copy(),
    "deep model_copy": lambda model: model.model_copy(deep=True),
    "updated model_copy": lambda model: model.model_copy(update={"text": "x"}),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),  # noqa: S301
}


@pytest.mark.parametrize("model", [Open, Frozen, Checked])
@pytest.mark.parametrize("copied", COPIES)
async def test_the_memory_goes_along_with_copies(driver: Driver, copied: str, model: type[BaseModel]) -> None:
    """A copy, of whatever kind and of whatever kind of model, stands for the document and the revision that was loaded."""
    repository = driver.repository(model)
    saved, other = await repository.save(model(id=1)), await repository.save(model(id=2))
    for original in (saved, await repository.load(other.id)):
        after = COPIES[copied](original)
        await repository.save(after)
        if after is not original:
            with pytest.raises(RevisionConflictError):
                await repository.save(original)
        await repository.save(after)


async def test_the_memory_survives_assignments(driver: Driver) -> None:
    """Setting fields, extra ones and validated ones too, does not make an instance fresh."""
    for model, name in ((Open, "text"), (Open, "more"), (Checked, "text")):
        repository = driver.repository(model, driver.collection(f"{model.__name__}-{name}"))
        await repository.save(model(id=1))
        loaded = await repository.load(1)
        setattr(loaded, name, "new")
        await repository.save(loaded)
        assert getattr(await repository.load(1), name) == "new"


async def test_the_memory_is_no_part_of_the_model(driver: Driver) -> None:
    """A saved instance equals one that was not saved, dumps the same, and its set of fields is still one."""
    repository = driver.repository(Open)
    plain = Open(id=1, more=2)
    saved = await repository.save(Open(id=1, more=2))
    assert saved == plain
    assert saved.model_dump() == plain.model_dump()
    assert repr(saved) == repr(plain)
    assert saved.model_fields_set == plain.model_fields_set == {"id", "more"}
    assert saved.model_dump(exclude_unset=True) == plain.model_dump(exclude_unset=True)


async def test_what_is_built_from_a_dump_is_fresh(driver: Driver) -> None:
    """An instance that did not come from the database stands for no document."""
    repository = driver.repository(Open)
    saved = await repository.save(Open(id=1))
    with pytest.raises(RevisionConflictError, match="exists already"):
        await repository.save(Open(**saved.model_dump()))


async def test_another_id_makes_an_instance_fresh(driver: Driver, database: Db) -> None:
    """A loaded instance that is given a new id is a new document, and the old one stays; back under the old id it is a conflict."""
    repository = driver.repository(Open)
    loaded = await repository.save(Open(id=1))
    loaded.id = 2
    await repository.save(loaded)
    assert sorted(each["_id"] for each in database.customers.find()) == [1, 2]
    loaded.id = 1
    with pytest.raises(RevisionConflictError, match="exists already"):
        await repository.save(loaded)


async def test_another_context_makes_an_instance_fresh(driver: Driver, database: Db) -> None:
    """What was loaded from one context is inserted into another, and then belongs there."""
    here, there = driver.repository(Open), driver.repository(Open, driver.collection("elsewhere"))
    await here.save(Open(id=1))
    loaded = await here.load(1)
    await there.save(loaded)
    await there.save(loaded)
    assert database.elsewhere.count_documents({}) == database.customers.count_documents({}) == 1
    with pytest.raises(RevisionConflictError):
        await here.save(loaded)


async def test_overwriting_is_remembered_by_tag(driver: Driver) -> None:
    """After overwrite=True the instance stands for the new revision, and a copy from before is out of date."""
    repository = driver.repository(Open)
    first = await repository.save(Open(id=1))
    second = await repository.save(Open(id=1), overwrite=True)
    with pytest.raises(RevisionConflictError):
        await repository.save(first)
    await repository.save(second)


# --- outcomes that are not known --------------------------------------------------------------------------------------


LOSSES = ["request", "reply", "write concern"]


def lose(what: str, proxy: Proxy, fail_command: Fail) -> None:
    """Let the next write fail: before the server has done it, after it has, or with an error although it has."""
    if what == "reply":
        proxy.lose = True
    elif what == "request":
        fail_command(["insert", "update"], closeConnection=True)
    else:
        fail_command(["insert", "update"], writeConcernError={"code": 64, "errmsg": "waiting for replication timed out"})


@pytest.mark.parametrize("loaded", [False, True], ids=["fresh", "loaded"])
@pytest.mark.parametrize("what", LOSSES)
async def test_save_again_after_an_unknown_outcome(
    driver: Driver, proxy: Proxy, database: Db, fail_command: Fail, *, what: str, loaded: bool
) -> None:
    """A save that failed may have been written or not. Saving again neither conflicts nor loses an update."""
    async with driver.another_client(proxy.uri, retryWrites=False, appName="fails") as client:
        customers = driver.repository(Customer, driver.collection(client=client))
        ada = Customer(notes="old")
        if loaded:
            await customers.save(ada)
        ada.notes = "first"
        lose(what, proxy, fail_command)
        with pytest.raises((AutoReconnect, OperationFailure)):
            await customers.save(ada)
        written = [each.notes for each in driver.everything(Customer)]
        assert written == (["first"] if what != "request" else ["old"] if loaded else [])
        ada.notes = "second"
        await customers.save(ada)
        await customers.save(ada)
        assert (await customers.load(ada.id)).notes == "second"
        assert database.customers.count_documents({}) == 1


async def test_a_lost_reply_does_not_hide_a_conflict(driver: Driver, server: embedded.Server, fail_command: Fail) -> None:
    """After an unknown outcome somebody else's write is still a conflict, and deletion still noticed."""
    async with driver.another_client(server.uri, retryWrites=False, appName="fails") as client:
        customers = driver.repository(Customer, driver.collection(client=client))
        ada = await customers.save(Customer())
        fail_command(["update"], closeConnection=True)
        with pytest.raises(AutoReconnect):
            await customers.save(ada)
        await customers.save(await customers.load(ada.id))
        with pytest.raises(RevisionConflictError):
            await customers.save(ada)
        await customers.delete(ada.id)
        with pytest.raises(DocumentNotFoundError):
            await customers.save(ada)


def test_save_again_after_a_cancelled_save(server: embedded.Server, database: Db, keys: KeyRing, fail_command: Fail) -> None:
    """A task that is cancelled while the server works leaves an outcome that is not known either."""
    from pymongo import AsyncMongoClient

    from mongo_envelope import AsyncRepository

    async def flow() -> None:
        async with AsyncMongoClient[dict[str, Any]](server.uri, retryWrites=False, appName="fails") as client:
            customers = AsyncRepository(Customer, client[database.name].customers, keys=keys)
            for ada in (Customer(), await customers.save(Customer())):
                await customers.find().to_list()  # the connection is there
                fail_command(["insert", "update"], blockConnection=True, blockTimeMS=150)
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(customers.save(ada), 0.05)
                await asyncio.sleep(0.2)
                await customers.save(ada)
                await customers.save(ada)

    asyncio.run(flow())


@pytest.mark.parametrize("commit", [False, True], ids=["aborted", "committed"])
async def test_save_again_after_a_transaction(driver: Driver, database: Db, *, commit: bool) -> None:
    """Whether the transaction was committed or aborted, what was saved in it can be saved again, fresh or loaded."""
    customers = driver.repository(Customer)
    old = await customers.save(Customer(notes="old"))
    new, many = Customer(notes="new"), [Customer(), Customer()]
    async with driver.transaction(commit=commit) as session:
        for _ in range(2):
            await customers.save(new, session=session)
            await customers.save(old, session=session)
            await customers.save_many(many, session=session)
    assert database.customers.count_documents({}) == (4 if commit else 1)
    for _ in range(2):
        for each in (new, old, *many):
            await customers.save(each)
    assert database.customers.count_documents({}) == 4
    stale = await customers.load(old.id)
    await customers.save(old)
    with pytest.raises(RevisionConflictError):
        await customers.save(stale)


async def test_every_call_takes_a_session(driver: Driver) -> None:
    """Inside its transaction each call sees what was written there; outside, nobody does until it is committed."""
    customers = driver.repository(Customer)
    old = await customers.save(Customer(tenant="before"))
    async with driver.transaction() as session:
        ada = await customers.save(Customer(rank=1), session=session)
        bob, eve = await saved(customers, [Customer(rank=2), Customer(rank=3)], session=session)
        assert await customers.load(ada.id, session=session) == ada
        assert await customers.find_one({"rank": 2}, session=session) == bob
        assert await customers.find({"tenant": "acme"}, sort="rank", session=session).to_list() == [ada, bob, eve]
        assert await customers.delete(eve.id, session=session) is True
        await customers.save(eve, overwrite=True, session=session)
        assert await customers.delete(eve.id, session=session) is True
        assert await customers.delete(old.id, session=session) is True
        with pytest.raises(DocumentNotFoundError):
            await customers.save(old, session=session)
        for unseen in (ada, eve):
            with pytest.raises(DocumentNotFoundError):
                await customers.load(unseen.id)
        assert await customers.find({"tenant": "acme"}).to_list() == []
    assert await customers.find({"tenant": "acme"}, sort="rank").to_list() == [ada, bob]


# --- other unique indexes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["insert", "replace", "overwrite", "save_many"])
async def test_a_duplicate_value_names_the_field_and_not_the_value(driver: Driver, database: Db, how: str) -> None:
    """A unique index that refuses is DuplicateValueError; MongoDB's message, which quotes the value, is nowhere behind it."""
    database.customers.create_index([("tenant", 1), ("rank", 1)], unique=True)
    customers = driver.repository(Customer)
    await customers.save(Customer(tenant=SECRET, rank=7))
    other = await customers.save(Customer(tenant="other"))
    if how in ("insert", "save_many"):
        other = Customer()
    other.tenant, other.rank = SECRET, 7
    before = list(database.customers.find())
    saving = customers.save_many([other]) if how == "save_many" else customers.save(other, overwrite=how == "overwrite")
    with pytest.raises(DuplicateValueError, match="the same tenant and rank") as caught:
        await saving
    assert SECRET not in said(caught.value)
    assert caught.value.document_id == repr(other.id)
    assert list(database.customers.find()) == before
    other.tenant = "free"
    await customers.save(other)


# --- ids --------------------------------------------------------------------------------------------------------------


class Shade(enum.Enum):
    dark = "d"
    light = "l"


class Place(BaseModel):
    country: str
    number: int


IDS: dict[str, tuple[Any, Any, Any]] = {
    "str": (str, "a", "b"),
    "int": (int, 1, 2),
    "float": (float, 1.5, float("nan")),
    "uuid": (UUID, UUID(int=1), UUID(int=2)),
    "object id": (ObjectId, ObjectId("a" * 24), ObjectId("b" * 24)),
    "datetime": (datetime, datetime(2024, 1, 31, 12, 0, 0, 123000, tzinfo=UTC), datetime(1950, 1, 1, 0, 0, 0, 1000, tzinfo=UTC)),
    "decimal": (Decimal, Decimal("1.50"), Decimal("2E+3")),
    "date": (date, date(2024, 1, 31), date.max),
    "timedelta": (timedelta, timedelta(seconds=1), timedelta(seconds=2)),
    "enum": (Shade, Shade.dark, Shade.light),
    "bytes": (bytes, b"a", b""),
    "nested model": (Place, Place(country="AT", number=1), Place(country="AT", number=2)),
}


@pytest.mark.parametrize("kind", IDS)
async def test_ids_of_every_sensible_type(driver: Driver, database: Db, kind: str) -> None:
    """Saved, loaded, found, saved again, refused when out of date, and deleted: by an id of this type."""
    annotation, first, second = IDS[kind]

    class Keyed(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        id: annotation  # type: ignore[valid-type]
        text: str = ""

    repository = driver.repository(Keyed)
    saved = await repository.save(Keyed(id=first))
    await repository.save(Keyed(id=second, text="other"))
    for loaded in (
        await repository.load(first),
        await repository.find_one({"id": first}),
        await repository.find_one({"_id": {"$in": [first]}}),
    ):
        assert loaded == saved
        assert type(loaded.id) is type(first)
    loaded = await repository.load(first)
    loaded.text = "new"
    await repository.save(loaded)
    with pytest.raises(RevisionConflictError, match="somebody else wrote"):
        await repository.save(saved)
    with pytest.raises(RevisionConflictError, match="exists already"):
        await repository.save(Keyed(id=first))
    assert (await repository.load(first)).text == "new"
    assert await repository.delete(first) is True
    with pytest.raises(DocumentNotFoundError):
        await repository.load(first)
    assert (await repository.load(second)).text == "other"
    assert database.customers.count_documents({}) == 1


async def test_an_id_that_bson_would_round_is_refused(driver: Driver, database: Db) -> None:
    """Two moments within one millisecond would be one _id: neither is saved, loaded nor deleted in the place of the other."""

    class Keyed(BaseModel):
        id: datetime

    class Key(BaseModel):
        parts: list[Decimal]

    class Inside(BaseModel):
        id: Key

    repository = driver.repository(Keyed)
    rounded = datetime(2024, 1, 1, 0, 0, 0, 123456)
    with pytest.raises(PayloadError, match="id: BSON rounds this value"):
        await repository.save(Keyed(id=rounded), overwrite=True)
    await repository.save(Keyed(id=rounded.replace(microsecond=123000)))
    for call in (repository.load, repository.delete):
        with pytest.raises(QueryError, match="id: BSON rounds"):
            await call(rounded)
    assert database.customers.count_documents({}) == 1
    with pytest.raises(SchemaError, match="two ids could be one"):
        driver.repository(Inside)


async def test_an_instance_is_fresh_in_another_database(driver: Driver) -> None:
    """Copying to staging, or to an archive of the same name, is saving something new there; the first place is not forgotten
    by the other's copy."""
    here, there = (
        driver.repository(Customer),
        driver.repository(Customer, driver.client[f"{driver.collection().database.name}-2"].customers),
    )
    ada = await here.save(Customer())
    try:
        await there.save(ada.model_copy())
        await here.save(ada)
        with pytest.raises(RevisionConflictError):
            await there.save(ada)
    finally:
        await settle(driver.client.drop_database(f"{driver.collection().database.name}-2"))


async def test_equal_ids_of_other_forms_are_the_same_document(driver: Driver, database: Db) -> None:
    """MongoDB takes Decimal("5"), Decimal("5.00") and 5 for one _id, and so do load and save."""

    class Keyed(BaseModel):
        id: Decimal
        text: str = ""

    repository = driver.repository(Keyed)
    await repository.save(Keyed(id=Decimal("5.0")))
    for form in (Decimal(5), Decimal("5.00"), 5, 5.0, "5"):
        assert str((await repository.load(form)).id) == "5.0"
    loaded = await repository.load(5)
    loaded.id, loaded.text = Decimal("5.00"), "new"
    await repository.save(loaded)
    again = await repository.load(5)
    assert (str(again.id), again.text) == ("5.00", "new")
    assert database.customers.count_documents({}) == 1


class WithObjectId(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)
    id: ObjectId | None = None
    text: str = ""


async def test_an_object_id_of_none_is_made(driver: Driver) -> None:
    """id: ObjectId | None gets a new ObjectId on the instance, frozen or not; one that is there stays."""
    repository = driver.repository(WithObjectId)
    made, kept = WithObjectId(), WithObjectId(id=ObjectId())
    before = kept.id
    await repository.save_many([made, kept])
    assert isinstance(made.id, ObjectId)
    assert "id" in made.model_fields_set
    assert kept.id == before
    assert await repository.load(made.id) == made
    assert await repository.load(str(made.id)) == made
    with pytest.raises(QueryError):
        await repository.load(None)


# --- finding ----------------------------------------------------------------------------------------------------------


async def test_find_sorts_skips_and_limits(driver: Driver) -> None:
    """By keyword and by method, in every form; find without a filter gives everything."""
    customers = driver.repository(Customer)
    batch = await saved(customers, [Customer(rank=rank, tenant="acme" if rank % 2 else "other") for rank in range(6)])
    assert await customers.find(sort="rank").to_list() == batch
    assert await customers.find(sort=[("rank", -1)], skip=1, limit=2).to_list() == [batch[4], batch[3]]
    assert await customers.find().sort("rank", -1).skip(1).limit(2).to_list() == [batch[4], batch[3]]
    assert await customers.find().sort({"tenant": 1, "rank": -1}).limit(1).to_list() == [batch[5]]
    assert await customers.find({"tenant": "acme"}).sort(["tenant", "rank"]).to_list() == batch[1::2]
    assert [each async for each in customers.find({"rank": {"$gt": 2}}, sort="rank")] == batch[3:]
    assert await customers.find_one({"tenant": "acme"}, sort=[("rank", -1)]) == batch[5]
    assert await customers.find_one({"rank": 99}) is None
    assert await customers.find({"rank": 99}).to_list() == []


async def test_a_cursor_ends_and_closes(driver: Driver) -> None:
    """A cursor raises at its end again and again, closes early or twice, and is a context manager."""
    customers = driver.repository(Customer)
    await customers.save_many([Customer() for _ in range(250)])
    cursor = customers.find()
    assert len([each async for each in cursor]) == 250
    with pytest.raises(StopAsyncIteration):
        await anext(cursor)
    async with customers.find() as cursor:
        await anext(cursor)
    assert len([each async for each in cursor]) < 250  # what has arrived, as pymongo does; the server is not asked for more
    await cursor.close()


async def test_find_refuses_at_the_call(driver: Driver) -> None:
    """A filter or a sort that cannot be served raises before anything is awaited or iterated."""
    customers = driver.repository(Customer)
    for refused in (
        lambda: customers.find({"email": SECRET}),
        lambda: customers.find({"tennant": SECRET}),
        lambda: customers.find(sort="email"),
        lambda: customers.find(sort=[]),
        lambda: customers.find().sort("notes"),
    ):
        with pytest.raises(QueryError):
            refused()
    with pytest.raises(QueryError, match="sensitive"):
        await customers.find_one({"email": SECRET})
    with pytest.raises(QueryError, match="sensitive"):
        await customers.find_one(sort="email")


async def test_one_bad_document_does_not_blind_the_rest(driver: Driver, database: Db) -> None:
    """A tampered document raises at its turn, with its id, and the cursor goes on after it."""
    customers = driver.repository(Customer)
    batch = await saved(customers, [Customer(rank=rank) for rank in range(5)])
    database.customers.update_one({"_id": batch[1].id}, {"$set": {"tenant": "evil"}})
    database.customers.update_one({"_id": batch[2].id}, {"$set": {"kid": "unknown"}})
    database.customers.update_one({"_id": batch[3].id}, {"$unset": {"hmac": ""}})
    cursor = customers.find(sort="rank")
    seen: list[Any] = []
    while True:
        try:
            seen.append(await anext(cursor))
        except StopAsyncIteration:
            break
        except (EnvelopeError, UnknownKeyError) as error:
            seen.append((type(error), error.document_id, error.collection))
    assert seen == [
        batch[0],
        (IntegrityError, repr(batch[1].id), "customers"),
        (UnknownKeyError, repr(batch[2].id), "customers"),
        (MalformedEnvelopeError, repr(batch[3].id), "customers"),
        batch[4],
    ]
    with pytest.raises(IntegrityError):
        await customers.find(sort="rank").to_list()
    with pytest.raises(IntegrityError):
        await customers.find_one({"tenant": "evil"})


# --- projections ------------------------------------------------------------------------------------------------------


class Order(BaseModel):
    id: int
    at: Annotated[datetime, Queryable()]
    amount: Annotated[Decimal, Queryable()]
    day: Annotated[date | None, Queryable()] = None
    shade: Annotated[Shade, Queryable(name="colour")] = Shade.dark
    tags: Annotated[list[str], Queryable()] = []
    place: Annotated[Place, Queryable()] = Place(country="AT", number=1)
    email: str = ""

    @computed_field
    @property
    def domain(self) -> Annotated[str, Queryable()]:
        return self.email.rpartition("@")[2]


async def test_queryable_values_are_searched_by_projection_and_come_back_exact(driver: Driver, database: Db) -> None:
    """What BSON would round is found by its projection, and loaded from the payload as it was: microseconds, zone, digits."""
    orders = driver.repository(Order)
    zone = datetime.fromisoformat("2024-01-31T12:00:00.123456+05:30")
    order = Order(
        id=1, at=zone, amount=Decimal("1.500"), day=date(2024, 1, 31), shade=Shade.light, tags=["b", "a"], email="ada@example.com"
    )
    await orders.save_many([order, Order(id=2, at=zone + timedelta(days=1), amount=Decimal(2))])
    stored = database.customers.find_one({"_id": 1})
    assert stored is not None
    assert stored["at"] == zone.replace(microsecond=123000)
    assert (stored["colour"], stored["domain"], stored["place"]) == ("l", "example.com", {"country": "AT", "number": 1})
    for where in (
        {"at": zone},
        {"at": {"$lt": "2024-02-01"}},
        {"amount": 1.5},
        {"amount": {"$lt": 2}},
        {"day": "2024-01-31"},
        {"shade": "l"},
        {"colour": Shade.light},
        {"tags": "a"},
        {"tags": ["b", "a"]},
        {"place": {"number": 1, "country": "AT"}, "domain": "example.com"},
        {"place.country": "AT", "day": {"$ne": None}},
        {"domain": "example.com"},
    ):
        (found,) = await orders.find(where).to_list()
        assert found == order, where
        assert (found.at.microsecond, found.at.utcoffset(), str(found.amount)) == (123456, zone.utcoffset(), "1.500")


async def test_a_computed_field_is_stored_and_not_fed_back(driver: Driver, database: Db) -> None:
    """It follows what it is computed from, and a model that forbids extra fields loads all the same."""

    class Strict(Order):
        model_config = ConfigDict(extra="forbid")

    orders = driver.repository(Strict)
    order = await orders.save(Strict(id=1, at=datetime(2024, 1, 1, tzinfo=UTC), amount=Decimal(1), email="ada@old.example"))
    loaded = await orders.load(1)
    assert loaded == order
    loaded.email = "ada@new.example"
    await orders.save(loaded)
    assert one("customers", database)["domain"] == "new.example"
    assert await orders.find({"domain": "old.example"}).to_list() == []
    assert (await orders.find_one({"domain": "new.example"})).domain == "new.example"


async def test_saving_does_not_change_the_users_object(driver: Driver) -> None:
    """Every value is the same object as before, and so are the sets and lists inside."""
    orders = driver.repository(Order)
    order = Order(id=1, at=datetime.fromisoformat("2024-01-31T12:00:00.123456+05:30"), amount=Decimal("1.500"), tags=["a"])
    before, ids, fields = (
        copy.deepcopy(vars(order)),
        {name: id(value) for name, value in vars(order).items()},
        set(order.model_fields_set),
    )
    await orders.save(order)
    await orders.save(order)
    assert vars(order) == before
    assert {name: id(value) for name, value in vars(order).items()} == ids
    assert order.model_fields_set == fields


# --- what is refused before anything is sent --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [5, None, b"x", [SECRET], {SECRET: SECRET}, type("Text", (str,), {})(SECRET)], ids=lambda value: type(value).__name__
)
@pytest.mark.parametrize("name", ["email", "tenant"])
async def test_a_value_of_a_wrong_type_is_refused(driver: Driver, database: Db, name: str, value: Any) -> None:
    """A wrong value that was assigned is PayloadError with the field; no value in it or behind it, and nothing is written."""
    customers = driver.repository(Customer)
    ada = await customers.save(Customer())
    before = one("customers", database)
    ada.notes = SECRET
    setattr(ada, name, value)
    with pytest.raises(PayloadError, match=f"not saved: {name}: str expected") as caught:
        await customers.save(ada)
    assert SECRET not in said(caught.value)
    assert one("customers", database) == before
    setattr(ada, name, "right again")
    await customers.save(ada)


async def test_an_instance_of_another_class_is_refused(driver: Driver, database: Db) -> None:
    """A subclass would come back without what it adds; anything else is no Customer at all."""

    class Vip(Customer):
        extra: str = SECRET

    customers = driver.repository(Customer)
    for other in (Vip(), Open(id=1), None, {"tenant": SECRET}, Customer):
        with pytest.raises(PayloadError, match="Customer expected") as caught:
            await customers.save(other)
        assert SECRET not in said(caught.value)
    assert database.customers.count_documents({}) == 0


async def test_validators_run_on_save_if_asked(driver: Driver, database: Db) -> None:
    """validate_on_save=True refuses what the model's own validators refuse, before the write, without the value."""

    class Adult(BaseModel):
        id: int
        age: int = Field(ge=18)
        name: str = ""

        @field_validator("name")
        @classmethod
        def capital(cls, name: str) -> str:
            if name[:1].islower():
                raise ValueError(f"{name} is not capitalised")
            return name

    adults = driver.repository(Adult, validate_on_save=True)
    adult = await adults.save(Adult(id=1, age=18))
    for name, value in (("age", 17), ("name", SECRET)):
        broken = adult.model_copy(update={name: value})
        with pytest.raises(PayloadError, match=name) as caught:
            await adults.save(broken)
        assert SECRET not in said(caught.value)
    assert (await adults.load(1)).age == 18


async def test_a_document_that_is_too_large(driver: Driver, database: Db) -> None:
    """More than MongoDB's 16 MiB is refused with the number of bytes over, and nothing is sent; exactly 16 MiB is saved."""
    customers = driver.repository(Customer)
    limit = 16 * 1024 * 1024
    ada = Customer()
    ada.notes = "x" * (limit - len(customers.codec.seal_bson(ada)))
    assert len(customers.codec.seal_bson(ada)) == limit
    ada.notes += "x"
    with pytest.raises(PayloadError, match="1 more than MongoDB takes") as caught:
        await customers.save(ada)
    assert caught.value.document_id == repr(ada.id)
    assert "xxx" not in said(caught.value)
    assert database.customers.count_documents({}) == 0
    ada.notes = ada.notes[1:]
    await customers.save(ada)
    assert (await customers.load(ada.id)) == ada


async def test_the_wrong_drivers_collection(driver: Driver, client: Any, async_client: Any) -> None:
    """A collection of the other driver, or what is none at all, is a ConfigurationError that names the right one."""
    other = (client if driver.is_async else async_client).test.customers
    for wrong in (other, None, "customers", driver.client, SimpleNamespace(name="customers")):
        with pytest.raises(ConfigurationError, match="Use Repository with a MongoClient, AsyncRepository with"):
            driver.repository(Customer, wrong if wrong is not None else 5)


async def test_an_unacknowledged_write_concern(driver: Driver) -> None:
    """w=0 would lose updates without a sign, so the repository is not built."""
    with pytest.raises(ConfigurationError, match="w=0"):
        driver.repository(Customer, driver.collection().with_options(write_concern=WriteConcern(0)))


async def test_a_model_that_cannot_be_kept(driver: Driver) -> None:
    """SchemaError comes when the repository is built, not at the first save."""

    class NoId(BaseModel):
        name: str

    with pytest.raises(SchemaError, match="no id"):
        driver.repository(NoId)
    with pytest.raises(ConfigurationError, match="KeyRing"):
        driver.repository(Customer, keys={"key": "value"})


# --- attacks by somebody with write access ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "edit",
    [
        {"$set": {"tenant": "evil"}},
        {"$set": {"rank": 1.0}},
        {"$unset": {"rank": ""}},
        {"$set": {"more": 1}},
        {"$set": {"data": b"x"}},
        {"$set": {"iv": bytes(16)}},
        {"$rename": {"tenant": "tenant2"}},
    ],
    ids=str,
)
async def test_an_edit_is_noticed(driver: Driver, database: Db, edit: dict[str, Any]) -> None:
    """Any change of a stored document is IntegrityError at load, with its id."""
    customers = driver.repository(Customer)
    ada = await customers.save(Customer())
    database.customers.update_one({}, edit)
    with pytest.raises(IntegrityError) as caught:
        await customers.load(ada.id)
    assert (caught.value.document_id, caught.value.collection) == (repr(ada.id), "customers")


async def test_a_document_under_another_id(driver: Driver, database: Db) -> None:
    """A genuine document that was copied under another _id, or to another collection, does not open there."""
    customers = driver.repository(Customer)
    ada = await customers.save(Customer())
    stored, other = one("customers", database), uuid4()
    database.customers.insert_one({**stored, "_id": other})
    database.elsewhere.insert_one(stored)
    with pytest.raises(IntegrityError) as caught:
        await customers.load(other)
    assert caught.value.document_id == repr(other)
    with pytest.raises(IntegrityError):
        await driver.repository(Customer, driver.collection("elsewhere")).load(ada.id)
    assert await customers.load(ada.id) == ada


async def test_another_ring(driver: Driver) -> None:
    """A document under a key that the ring does not hold could not be checked, which is another error than being wrong."""
    ada = await driver.repository(Customer).save(Customer())
    with pytest.raises(UnknownKeyError) as caught:
        await driver.repository(Customer, keys=KeyRing.generate()).load(ada.id)
    assert caught.value.document_id == repr(ada.id)


async def test_a_server_that_answers_with_another_document(driver: Driver, proxy: Proxy, database: Db) -> None:
    """A genuine document of the same collection, but not the one that was asked for, is IntegrityError."""
    customers = driver.repository(Customer)
    ada, eve = await saved(customers, [Customer(notes="ada"), Customer(notes="eve")])
    raw = {each["_id"]: each.raw for each in raw_documents(database)}
    assert len(raw[ada.id]) == len(raw[eve.id])
    async with driver.another_client(proxy.uri) as client:
        asked = driver.repository(Customer, driver.collection(client=client))
        assert await asked.load(ada.id) == ada
        proxy.swap = (raw[ada.id], raw[eve.id])
        assert await asked.load(eve.id) == eve
        with pytest.raises(IntegrityError, match="another document than the one asked for") as caught:
            await asked.load(ada.id)
    assert (caught.value.document_id, caught.value.collection) == (repr(eve.id), "customers")


# --- a model that has changed -----------------------------------------------------------------------------------------


async def test_a_model_that_no_longer_fits(driver: Driver) -> None:
    """A genuine document that the model of today does not take is PayloadError: field paths, kinds of error, no values."""

    class Item(BaseModel):
        code: str

    class Before(BaseModel):
        id: int
        status: Annotated[str, Queryable()] = SECRET
        items: list[Item] = [Item(code=SECRET)]
        extra: dict[str, str] = {SECRET: SECRET}

    class Number(BaseModel):
        code: int

    class After(BaseModel):
        id: int
        status: Annotated[str, Queryable(), Field(max_length=3)]
        items: list[Number]
        extra: dict[str, int]
        missing: str

    before, after = driver.repository(Before), driver.repository(After)
    await before.save(Before(id=1))
    with pytest.raises(PayloadError) as caught:
        await after.load(1)
    text = str(caught.value)
    for part in (
        "status: string_too_long",
        "items[0].code: int_parsing",
        "extra[*]: int_parsing",
        "missing: missing",
        "[collection",
    ):
        assert part in text
    assert SECRET not in said(caught.value)
    assert (caught.value.document_id, caught.value.collection) == ("1", "customers")
    assert (await before.load(1)) == Before(id=1)


async def test_a_validator_that_quotes_the_value(driver: Driver) -> None:
    """What a user's validator says while loading stays inside."""

    class Before(BaseModel):
        id: int
        text: str = SECRET

    class After(Before):
        @field_validator("text")
        @classmethod
        def refuse(cls, text: str) -> str:
            raise KeyError(text)

    await driver.repository(Before).save(Before(id=1))
    with pytest.raises(PayloadError, match="KeyError") as caught:
        await driver.repository(After).load(1)
    assert SECRET not in said(caught.value)


# --- together ---------------------------------------------------------------------------------------------------------


def test_no_update_is_lost_between_threads(client: MongoClient[dict[str, Any]], database: Db, keys: KeyRing) -> None:
    """Four threads count in one document through one repository; each conflict is retried and no increment is lost."""
    customers = Repository(Customer, client[database.name].customers, keys=keys)
    ada = customers.save(Customer())

    def count() -> None:
        done = 0
        while done < 15:
            loaded = customers.load(ada.id)
            loaded.rank += 1
            try:
                customers.save(loaded)
            except RevisionConflictError:
                continue
            done += 1

    in_threads(4, count)
    assert customers.load(ada.id).rank == 60


async def test_a_repository_says_what_it_is(driver: Driver) -> None:
    """Its repr names the model and the collection, and no key."""
    kind = "AsyncRepository" if driver.is_async else "Repository"
    assert repr(driver.repository(Customer).inner) == f"{kind}(Customer, 'customers')"


async def test_a_wrong_id_is_not_quoted(driver: Driver) -> None:
    """An id of another type may be a whole record: the error tells its type, and not what it is."""

    class Held(BaseModel):
        text: str = SECRET

        def __repr__(self) -> str:
            raise RuntimeError(SECRET)

    customers = driver.repository(Customer)
    for wrong in (SECRET, [SECRET], Held()):
        with pytest.raises(PayloadError, match="id: UUID expected") as caught:
            await customers.save(Customer().model_copy(update={"id": wrong}))
        assert SECRET not in str(caught.value) + repr(caught.value) + repr(vars(caught.value))
