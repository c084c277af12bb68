"""The flows that read: metadata without decrypting, pipelines, and answers that are sifted after decryption."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any
from uuid import UUID

import bson
import pytest
from conftest import Driver, Either, Proxy, saved
from pydantic import BaseModel, computed_field
from pymongo.database import Database
from pymongo.errors import ExecutionTimeout, InvalidOperation
from pymongo.monitoring import CommandListener

from mongo_envelope import (
    BlindIndex,
    Bucket,
    EnvelopeError,
    IntegrityError,
    MalformedEnvelopeError,
    Metadata,
    PayloadError,
    Queryable,
    QueryError,
    RepositoryError,
    Sensitive,
    UnknownKeyError,
    embedded,
    primitives,
)
from mongo_envelope.bridge import drive

Db = Database[dict[str, Any]]


class Status(Enum):
    LEAD = "lead"
    ACTIVE = "active"


class Address(BaseModel):
    city: str
    zip: str = ""


class Order(BaseModel):
    """A field of each kind of projection, under a stored name of its own where that can be."""

    id: UUID
    tenant: Annotated[str, Queryable(name="t")] = "acme"
    status: Annotated[Status, Queryable()] = Status.LEAD
    at: Annotated[datetime, Queryable()] = datetime(2020, 1, 1, microsecond=1500, tzinfo=UTC)
    price: Annotated[Decimal, Queryable()] = Decimal("1.50")
    tags: Annotated[list[str], Queryable()] = []
    address: Annotated[Address | None, Queryable()] = None
    email: Annotated[str, Sensitive(index=BlindIndex(normalize="email"))] = "ada@example.com"
    notes: str = "a secret"

    @computed_field
    @property
    def size(self) -> Annotated[int, Queryable()]:
        """How many tags."""
        return len(self.tags)


ORDER = UUID(int=1)


def order(number: int = 1, **given: Any) -> Order:
    return Order(id=UUID(int=number), **given)


def refuse(*_: Any) -> bytes:
    raise AssertionError("decrypted")


# --- metadata ---------------------------------------------------------------------------------------------------------


async def test_metadata_is_typed_and_not_decrypted(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in the clear comes in the fields' types by the fields' names, rounded as BSON does, and nothing is decrypted."""
    orders = driver.repository(Order)
    await orders.save(order(tags=["a", "b"], address=Address(city="Riga"), status=Status.ACTIVE))
    monkeypatch.setattr(primitives.StreamCipher, "decrypt", refuse)
    found = await orders.find_one({"email": "Ada@example.com"}, fields="metadata")
    assert isinstance(found, Metadata)
    assert dict(found) == {
        "id": ORDER,
        "tenant": "acme",
        "status": Status.ACTIVE,
        "at": datetime(2020, 1, 1, microsecond=1000, tzinfo=UTC),
        "price": Decimal("1.50"),
        "tags": ["a", "b"],
        "address": Address(city="Riga"),
        "size": 2,
    }
    assert {name: type(value) for name, value in found.items()}.items() >= {"id": UUID, "status": Status, "price": Decimal}.items()
    assert (found.tenant, found["tenant"], "email" in found, len(found)) == ("acme", "acme", False, 8)
    with pytest.raises(AssertionError, match="decrypted"):
        await orders.load(ORDER)


async def test_metadata_of_many(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the options of find, and the methods of its cursor."""
    orders = driver.repository(Order)
    await orders.save_many([order(number, tenant="ab"[number % 2]) for number in range(6)])
    monkeypatch.setattr(primitives.StreamCipher, "decrypt", refuse)
    cursor = orders.find({"tenant": "b"}, fields="metadata", batch_size=2).sort("id", -1).skip(1).limit(2)
    assert [each.id.int async for each in cursor] == [3, 1]
    first = await orders.find(fields="metadata", sort="id").first()
    assert first.id.int == 0
    assert await orders.find({"tenant": "c"}, fields="metadata").to_list() == []
    assert await orders.find_one({"tenant": "c"}, fields="metadata") is None


async def test_metadata_is_verified(driver: Driver, database: Db) -> None:
    """As a model is: what was edited raises, and says where; or it is passed over, or told to a function."""
    orders, told = driver.repository(Order), []
    await orders.save_many([order(number) for number in range(5)])
    database.customers.update_one({"_id": UUID(int=0)}, {"$set": {"t": "edited"}})
    database.customers.update_one({"_id": UUID(int=1)}, {"$set": {"data": b"edited"}})
    database.customers.update_one({"_id": UUID(int=2)}, {"$unset": {"hmac": ""}})
    database.customers.update_one({"_id": UUID(int=3)}, {"$set": {"kid": "unknown"}})
    cursor, kinds = orders.find(fields="metadata", sort="id"), []
    for number in range(4):
        with pytest.raises((EnvelopeError, UnknownKeyError)) as caught:
            await anext(cursor)
        assert (caught.value.document_id, caught.value.collection) == (repr(UUID(int=number)), "customers")
        kinds.append(type(caught.value))
    assert kinds == [IntegrityError, IntegrityError, MalformedEnvelopeError, UnknownKeyError]
    assert (await anext(cursor)).id.int == 4
    with pytest.raises(IntegrityError):
        await orders.find_one({"id": UUID(int=0)}, fields="metadata")
    assert len(await orders.find(fields="metadata", on_invalid=told.append).to_list()) == 1
    assert [type(each) for each in told] == kinds
    assert len(await orders.find(fields="metadata", on_invalid="skip").to_list()) == 1


async def test_metadata_that_was_not_asked_for(driver: Driver, proxy: Proxy, database: Db) -> None:
    """A genuine document that does not answer the question is refused, without decrypting it."""
    async with driver.another_client(proxy.uri) as client:
        orders = driver.repository(Order, driver.collection(client=client))
        await orders.save_many([order(1, tenant="a"), order(2, tenant="b")])
        one, other = [bytes(batch) for number in (1, 2) for batch in database.customers.find_raw_batches({"_id": UUID(int=number)})]
        proxy.swap = (one, other)
        with pytest.raises(IntegrityError, match="does not match the filter"):
            await orders.find({"tenant": "a"}, fields="metadata").to_list()


async def test_metadata_is_no_model(driver: Driver, database: Db) -> None:
    """It cannot be saved, has no revision and nothing that is sensitive; its repr shows names and no values."""
    orders = driver.repository(Order)
    await orders.save(order())
    found, before = await orders.find_one(fields="metadata"), list(database.customers.find())
    for save in (orders.save, lambda each: orders.save_many([each]), lambda each: orders.save(each, overwrite=True)):
        with pytest.raises(PayloadError, match="Order expected, Metadata found"):
            await save(found)
    with pytest.raises(RepositoryError, match="no revision"):
        orders.revision(found)
    with pytest.raises(QueryError):
        orders.mend(found)
    for name in ("email", "notes", "t", "_hidden"):
        with pytest.raises(AttributeError, match="does not stand in the clear"):
            getattr(found, name)
    with pytest.raises(TypeError):
        found["tenant"] = "b"
    assert repr(found) == "Metadata(Order, id, tenant, status, at, price, tags, address, size)"
    assert list(database.customers.find()) == before


async def test_metadata_and_what_it_cannot_answer(driver: Driver) -> None:
    """Where the answer has to be sifted after decryption, and other values of ``fields``: refused at the call."""
    people = driver.repository(Person)
    for call in (people.find, people.find_one):
        with pytest.raises(QueryError, match="decrypts nothing, and this filter is answered exactly only after decryption"):
            await call({"age": {"$gte": 1, "$lte": 5}}, fields="metadata")
        for wrong in ("all", ["tenant"], {"tenant": 1}, True):
            with pytest.raises(QueryError, match='fields="metadata" gives what stands in the clear'):
                await call(fields=wrong)


async def test_metadata_of_a_document_that_lacks_a_field(driver: Driver) -> None:
    """Of an older document what it has is given: no default takes the place of what nobody wrote."""

    class Older(BaseModel):
        id: UUID = ORDER
        tenant: Annotated[str, Queryable(name="t")] = "acme"

    await driver.repository(Older).save(Older())
    assert dict(await driver.repository(Order).find_one(fields="metadata")) == {"id": ORDER, "tenant": "acme"}


# --- pipelines --------------------------------------------------------------------------------------------------------


async def aggregated(repository: Any, pipeline: list[Any], **options: Any) -> Any:
    """The cursor of `aggregate`, which either driver gives after waiting."""
    return Either(await repository.aggregate(pipeline, **options))


async def test_whole_documents_come_out_of_a_pipeline_as_models(driver: Driver) -> None:
    """Found by fields in the clear and by blind indexes, sorted, skipped and limited; saved again they are no conflict."""
    orders = driver.repository(Order)
    await orders.save_many([order(number, tenant="ab"[number % 2], email=f"{number % 3}@b") for number in range(9)])
    pipeline: list[Any] = [{"$match": {"tenant": "a", "email": {"$in": ["0@B", "1@B"]}}}, {"$sort": {"id": -1}}, {"$limit": 2}]
    found = await (await aggregated(orders, pipeline)).to_list()
    assert [type(each) for each in found] == [Order] * 2
    assert [each.id.int for each in found] == [6, 4]
    await orders.save(found[0])
    assert await (await aggregated(orders, [])).to_list() == await orders.find().to_list()


async def test_other_pipelines_give_dicts(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the model's names, with the types of BSON, and nothing is decrypted."""
    orders = driver.repository(Order)
    await orders.save_many([order(number, tenant="ab"[number % 2], tags=["x", "y"][: number % 3]) for number in range(6)])
    monkeypatch.setattr(primitives.StreamCipher, "decrypt", refuse)
    pipeline: list[Any] = [
        {"$match": {"email": "ada@example.com"}},
        {"$unwind": "$tags"},
        {"$group": {"_id": "$tenant", "n": {"$sum": 1}, "last": {"$max": "$_id"}}},
        {"$sort": {"_id": 1}},
    ]
    found = await (await aggregated(orders, pipeline)).to_list()
    assert found == [{"_id": "a", "n": 3, "last": UUID(int=4)}, {"_id": "b", "n": 3, "last": UUID(int=5)}]
    assert [type(each) for each in found] == [dict, dict]
    assert await (await aggregated(orders, [{"$count": "n"}])).to_list() == [{"n": 6}]


async def test_the_cursor_of_a_pipeline(driver: Driver) -> None:
    """It is iterated, closed and asked for its first like any other; sort, skip and limit are stages of the pipeline."""
    orders = driver.repository(Order)
    await orders.save_many([order(number) for number in range(4)])
    by_id: list[Any] = [{"$sort": {"id": 1}}]
    counted: list[Any] = [{"$group": {"_id": "$tenant", "n": {"$sum": 1}}}]
    assert (await (await aggregated(orders, by_id)).first()).id.int == 0
    assert await (await aggregated(orders, counted)).first() == {"_id": "acme", "n": 4}
    assert await (await aggregated(orders, [{"$match": {"tenant": "b"}}])).first() is None
    cursor = await aggregated(orders, by_id, batch_size=2)
    assert [each.id.int for each in await cursor.to_list(3)] == [0, 1, 2]
    assert [each.id.int async for each in cursor] == [3]
    for method, given in (("sort", "id"), ("skip", 1), ("limit", 1)):
        with pytest.raises(QueryError, match=r"\$" + method):
            getattr(await aggregated(orders, by_id), method)(given)


class Aggregates(CommandListener):
    """Keeps the ``aggregate`` commands."""

    def __init__(self) -> None:
        self.commands: list[dict[str, Any]] = []

    def started(self, event: Any) -> None:
        if event.command_name == "aggregate":
            self.commands.append(dict(event.command))

    def succeeded(self, event: Any) -> None:
        pass

    failed = succeeded


async def test_the_options_of_aggregate_reach_the_server(driver: Driver, server: embedded.Server, fail_command: Any) -> None:
    """Each under MongoDB's name; without any, text is compared byte by byte, and nothing else is said."""
    listener = Aggregates()
    async with driver.another_client(server.uri, event_listeners=[listener], appName="fails") as client:
        orders = driver.repository(Order, driver.collection(client=client))
        await orders.save(order(tenant="ACME"))
        for pipeline in ([{"$match": {"tenant": "acme"}}], [{"$group": {"_id": "$tenant"}}]):
            await (await aggregated(orders, pipeline)).to_list()
            plainly = listener.commands.pop()
            assert dict(plainly["collation"])["locale"] == "simple"
            assert not plainly.keys() & {"maxTimeMS", "allowDiskUse", "comment"}
            options = {"max_time_ms": 5000, "allow_disk_use": True, "batch_size": 7, "comment": "why"}
            collation = {"locale": "en", "strength": 2}
            assert len(await (await aggregated(orders, pipeline, collation=collation, **options)).to_list()) == 1
            command = listener.commands.pop()
            told = (command["maxTimeMS"], command["allowDiskUse"], command["cursor"]["batchSize"], command["comment"])
            assert told == (5000, True, 7, "why")
            assert dict(command["collation"])["strength"] == 2
        fail_command(["aggregate"], errorCode=50)
        with pytest.raises(ExecutionTimeout):
            await orders.aggregate([], max_time_ms=1)


async def test_what_a_pipeline_finds_is_verified(driver: Driver, database: Db) -> None:
    """A whole document that was edited raises at its turn, and the cursor goes on after it; a session sees its transaction."""
    orders = driver.repository(Order)
    await orders.save_many([order(number) for number in range(3)])
    database.customers.update_one({"_id": UUID(int=1)}, {"$set": {"t": "edited"}})
    cursor, seen = await aggregated(orders, [{"$sort": {"id": 1}}]), []
    seen.append((await anext(cursor)).id.int)
    with pytest.raises(IntegrityError):
        await anext(cursor)
    seen.append((await anext(cursor)).id.int)
    assert seen == [0, 2]
    async with driver.transaction(commit=False) as session:
        await orders.save(order(5, tenant="new"), session=session)
        [found] = await (await aggregated(orders, [{"$match": {"tenant": "new"}}], session=session)).to_list()
        assert found.id.int == 5
    assert await (await aggregated(orders, [{"$match": {"tenant": "new"}}])).to_list() == []


async def test_a_pipeline_that_is_refused(driver: Driver) -> None:
    """At the call, with the field and the way out: what is sensitive, what has to be sifted, what is no pipeline."""
    people = driver.repository(Person)
    for pipeline, problem in (
        ([{"$group": {"_id": "$email"}}], "email"),
        ([{"$match": {"notes": "x"}}], "notes"),
        ([{"$match": {"age": {"$gte": 1, "$lte": 5}}}], r"\$match: this filter is answered exactly only after decryption"),
        ([{"$out": "elsewhere"}], r"\$out"),
        ({"$match": {}}, "a pipeline is a list"),
    ):
        with pytest.raises(QueryError, match=problem):
            await people.aggregate(pipeline)


# --- by one blind index -----------------------------------------------------------------------------------------------


async def test_what_is_found_by_a_blind_index_is_what_was_asked_for(driver: Driver, proxy: Proxy, database: Db) -> None:
    """One or none; and a genuine document that has another value is refused, by whichever call it comes."""
    async with driver.another_client(proxy.uri) as client:
        orders = driver.repository(Order, driver.collection(client=client))
        one, two = await saved(orders, [order(1, email="1@b"), order(2, email="2@b")])
        where = {"email": "1@B"}
        assert await orders.find_one(where) == await orders.find(where).first() == one
        assert await orders.find_one({"email": "3@b"}) is None
        assert await orders.find_one({"email": {"$in": ["2@b", "3@b"]}}) == two
        answer, other = (bytes(batch) for each in (one, two) for batch in database.customers.find_raw_batches({"_id": each.id}))
        proxy.swap = (answer, other)
        for call in (
            lambda: orders.find_one(where),
            lambda: orders.find(where).to_list(),
            lambda: orders.find_one({"email": {"$in": ["1@b", "3@b"]}}),
            lambda: orders.find_one(where, fields="metadata"),
        ):
            with pytest.raises(IntegrityError, match="does not match the filter") as caught:
                await call()
            assert caught.value.document_id == repr(UUID(int=2))


# --- sifted answers ---------------------------------------------------------------------------------------------------


class Person(BaseModel):
    """``age`` and ``code`` are found by indexes that find too much: buckets of ten, and values of 8 bits."""

    id: int
    tenant: Annotated[str, Queryable()] = "acme"
    tags: Annotated[list[str], Queryable()] = []
    age: Annotated[int, Sensitive(index=Bucket(width=10))] = 0
    code: Annotated[str, Sensitive(index=BlindIndex(bits=8))] = ""
    email: Annotated[str, Sensitive(index=BlindIndex(normalize="email"))] = ""
    notes: str = ""


PEOPLE = [
    Person(id=n, tenant="ab"[n % 2], tags=["x", "y", "z"][: n % 4], age=n, code=f"code {n % 20}", email=f"{n}@example.com")
    for n in range(40)
]
#: A filter that has to be sifted, and what it is true of.
SIFTED: dict[str, tuple[dict[str, Any], Any]] = {
    "a range": ({"age": {"$gt": 3, "$lte": 27}}, lambda each: 3 < each.age <= 27),
    "a range and more": ({"age": {"$gte": 5, "$lt": 31}, "tenant": "a"}, lambda each: 5 <= each.age < 31 and each.tenant == "a"),
    "not a range": ({"age": {"$not": {"$gte": 3, "$lte": 27}}}, lambda each: not 3 <= each.age <= 27),
    "equality in a bucket": ({"age": {"$in": [3, 14, 99]}}, lambda each: each.age in (3, 14)),
    "a short index": ({"code": "code 3"}, lambda each: each.code == "code 3"),
    "a short index, negated": ({"code": {"$ne": "code 3"}}, lambda each: each.code != "code 3"),
    "either": ({"$or": [{"age": {"$gte": 0, "$lt": 3}}, {"email": "9@example.com"}]}, lambda each: each.age < 3 or each.id == 9),
    "neither": (
        {"$nor": [{"age": {"$gte": 3, "$lte": 99}}, {"tenant": "b"}]},
        lambda each: not (3 <= each.age <= 99 or each.tenant == "b"),
    ),
}


@asynccontextmanager
async def people_of(driver: Driver) -> AsyncIterator[Any]:
    people = driver.repository(Person)
    await people.save_many([each.model_copy() for each in PEOPLE])
    yield people


@pytest.mark.parametrize("what", SIFTED)
async def test_a_sifted_answer_is_exact(driver: Driver, what: str) -> None:
    """find, find_one, count, exists and distinct meet neither more nor less than what was meant; so do skip, limit and sort."""
    (where, is_meant), people = SIFTED[what], driver.repository(Person)
    meant = [each for each in PEOPLE if is_meant(each)]
    await people.save_many([each.model_copy() for each in PEOPLE])
    assert people.inner._flows._compiled(where, None).sift is not None
    assert Counter(each.id for each in await people.find(where).to_list()) == Counter(each.id for each in meant)
    assert await people.find_one(where, sort=[("id", -1)]) == meant[-1]
    assert await people.count(where) == len(meant)
    assert await people.exists(where)
    assert not await people.exists({"$and": [where, {"id": 1000}]})
    assert sorted(await people.distinct("tags", where)) == sorted({tag for each in meant for tag in each.tags})
    assert sorted(await people.distinct("tenant", where)) == sorted({each.tenant for each in meant})
    for skip, limit in ((0, 0), (0, 2), (1, 1), (1, 0), (2, 100), (len(meant), 0), (0, -2)):
        wanted = meant[::-1][skip : skip + abs(limit) if limit else None]
        for cursor in (
            people.find(where, sort=[("id", -1)], skip=skip, limit=limit, batch_size=2),
            people.find(where).sort("id", -1).skip(skip).limit(limit),
            people.find(where).limit(limit).sort("id", -1).skip(skip),
        ):
            assert await cursor.to_list() == wanted, (skip, limit)
    assert await people.find(where, sort="id").first() == meant[0]
    assert await people.find(where, sort="id").skip(len(meant)).first() is None


async def test_what_is_sifted_can_be_saved(driver: Driver) -> None:
    """A model that was found in this way remembers its revision like any other."""
    async with people_of(driver) as people:
        found = await people.find_one({"age": {"$gte": 5, "$lte": 5}})
        found.notes = "changed"
        await people.save(found)
        assert (await people.load(5)).notes == "changed"


async def test_the_cursor_of_a_sifted_answer(driver: Driver) -> None:
    """As pymongo's: skip and limit replace what was said before, and once it has begun they are refused, like sort."""
    async with people_of(driver) as people:
        where = {"age": {"$gte": 3, "$lte": 9}}
        cursor = people.find(where, skip=5, limit=1).sort("id").skip(1).limit(3)
        assert [each.id for each in await cursor.to_list(2)] == [4, 5]
        for method, given in (("skip", 1), ("limit", 1), ("sort", "id")):
            with pytest.raises(InvalidOperation, match="cannot set options after executing query"):
                getattr(cursor, method)(given)
        assert [each.id async for each in cursor] == [6]
        with pytest.raises(InvalidOperation):
            cursor.limit(0)
        async with people.find(where) as cursor:
            pass
        assert await cursor.to_list() == []


@pytest.mark.parametrize("where", [{"age": {"$gte": 3, "$lte": 9}}, {}], ids=["sifted", "not sifted"])
@pytest.mark.parametrize("wrong", [-1, "1", 1.5, None])
async def test_a_skip_that_is_none(driver: Driver, where: dict[str, Any], wrong: Any) -> None:
    """A skip that pymongo refuses is refused where the documents are counted here, too: it never finds nothing in silence."""
    async with people_of(driver) as people:
        with pytest.raises((ValueError, TypeError, QueryError)):
            people.find(where).skip(wrong)


async def test_options_of_a_sifted_find(driver: Driver) -> None:
    """A negative skip is refused; hints and time limits go along; a collation does not, for it is not known here."""
    async with people_of(driver) as people:
        where = {"age": {"$gte": 3, "$lte": 9}}
        with pytest.raises((ValueError, QueryError)):
            await people.find(where, skip=-1).to_list()
        options: dict[str, Any] = {"hint": "_id_", "max_time_ms": 60_000, "comment": "why"}
        assert len(await people.find(where, **options).to_list()) == 7
        assert await people.count(where, **options) == 7
        assert await people.exists(where, **options)
        assert await people.distinct("tenant", where, max_time_ms=60_000, comment="why") == ["b", "a"]
        for ask in (people.find, people.count, people.exists, people.find_one, people.delete_many):
            with pytest.raises(QueryError, match="a blind index knows no collation"):
                await ask(where, collation={"locale": "en"})


async def test_what_does_not_open_is_not_sifted_away(driver: Driver, database: Db) -> None:
    """Whether it was meant nobody can tell: it raises, in counting too, unless it shall be passed over."""
    async with people_of(driver) as people:
        database.customers.update_one({"_id": 5}, {"$set": {"tenant": "edited"}})
        where = {"age": {"$gte": 3, "$lte": 9}}
        for ask in (people.count, lambda each: people.distinct("tenant", each), lambda each: people.find(each).to_list()):
            with pytest.raises(IntegrityError) as caught:
                await ask(where)
            assert caught.value.document_id == "5"
        assert len(await people.find(where, on_invalid="skip").to_list()) == 6
        assert [each.id for each in await people.find(where, on_invalid="skip", skip=1, limit=2, sort="id").to_list()] == [4, 6]
        told: list[Any] = []
        assert len(await people.find(where, on_invalid=told.append).to_list()) == 6
        assert len(told) == 1


class Asked(BaseModel):
    id: int
    tenant: Annotated[str, Queryable()]


async def test_what_comes_out_of_a_pipeline_is_asked_for(driver: Driver, database: Db) -> None:
    """A whole document that does not match the pipeline's own $match is not an answer, however genuine it is."""
    people = driver.repository(Asked)
    await people.save_many([Asked(id=1, tenant="acme"), Asked(id=2, tenant="globex")])
    asked = people.inner._flows.aggregate([{"$match": {"tenant": "acme"}}, {"$limit": 1}], collation=None, session=None)
    found = await asked if driver.is_async else drive(asked)
    one, two = (bson.encode(each) for each in database.customers.find().sort("_id"))
    assert found.asked.is_answered_by(one)
    assert not found.asked.is_answered_by(two)
