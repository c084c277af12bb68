"""`setup`: what the collection and the server must be, and which indexes are made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any
from uuid import UUID, uuid4

import pytest
from bson.raw_bson import RawBSONDocument
from conftest import Driver
from customer_model import SECRET
from pydantic import BaseModel, Field
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import ServerSelectionTimeoutError
from pymongo.read_concern import ReadConcern

from mongo_envelope import ConfigurationError, IntegrityError, KeyRing, Queryable, Repository, embedded, provision
from mongo_envelope.bridge import drive

Db = Database[dict[str, Any]]


class Customer(BaseModel):
    id: UUID = Field(default_factory=uuid4)
    tenant: Annotated[str, Queryable(index=True)] = "acme"
    kind: Annotated[str, Queryable(name="k", index=True)] = ""
    rank: Annotated[int, Queryable()] = 0


async def test_setup_makes_the_indexes_that_are_marked(driver: Driver, database: Db) -> None:
    """By their stored names, on a collection that need not be there; a second time it makes none."""
    customers = driver.repository(Customer)
    assert await customers.setup() == ["tenant_1", "k_1"]
    assert await customers.setup() == []
    assert [list(each["key"]) for each in database.customers.list_indexes()] == [["_id"], ["tenant"], ["k"]]


async def test_setup_leaves_nothing_behind(driver: Driver, database: Db) -> None:
    """The probe had a collection of its own, which is gone, and the documents that are there stay as they are."""
    customers = driver.repository(Customer)
    ada = await customers.save(Customer())
    await customers.setup()
    assert database.list_collection_names() == ["customers"]
    assert await customers.find().to_list() == [ada]


async def test_an_index_made_by_hand_will_do(driver: Driver, database: Db) -> None:
    """A unique one, a descending one, and a compound one that begins with the field; not a partial one."""
    database.customers.create_index("tenant", unique=True)
    database.customers.create_index([("k", -1), ("rank", 1)])
    assert await driver.repository(Customer).setup() == []
    database.customers.drop_indexes()
    database.customers.create_index("tenant", name="some", partialFilterExpression={"rank": 1})
    assert await driver.repository(Customer).setup() == ["tenant_1", "k_1"]


async def test_an_index_that_stands_in_the_way(driver: Driver, database: Db) -> None:
    """One of the same name that does not find every document: said with the field and the way out. A hidden one is left alone."""
    database.customers.create_index("tenant", sparse=True)
    with pytest.raises(ConfigurationError, match="stands in the way of one on tenant or k") as caught:
        await driver.repository(Customer).setup()
    assert caught.value.__context__ is None
    database.customers.drop_indexes()
    database.customers.create_index("tenant", hidden=True)
    assert await driver.repository(Customer).setup() == ["k_1"]


async def test_a_filter_uses_the_index(driver: Driver, database: Db) -> None:
    """What the repository sends, its collation included, is answered from the index."""
    customers = driver.repository(Customer)
    await customers.setup()
    await customers.save(Customer())
    for where, stage in (({"tenant": "acme"}, "IXSCAN"), ({"_id": uuid4()}, "IDHACK")):
        find = {"find": "customers", "filter": where, "collation": {"locale": "simple"}}
        plan = database.command("explain", find, codec_options=database.codec_options)
        assert stage in str(plan["queryPlanner"]["winningPlan"])


@pytest.mark.parametrize(
    ("made", "complaint"),
    [
        ({"viewOn": "other", "pipeline": []}, "is a view"),
        ({"timeseries": {"timeField": "at"}}, "is a timeseries"),
        ({"capped": True, "size": 4096}, "is a capped collection"),
        ({"collation": {"locale": "en", "strength": 2}}, "has a default collation, by which"),
    ],
    ids=["view", "time series", "capped", "collation"],
)
async def test_a_collection_that_cannot_keep_documents(driver: Driver, database: Db, made: dict[str, Any], complaint: str) -> None:
    """It is refused by name, with what it is, and no index is made."""
    database.create_collection("customers", **made)
    with pytest.raises(ConfigurationError, match=f"^customers {complaint}"):
        await driver.repository(Customer).setup()


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"cursor": {"firstBatch": [5]}}, "does not say what kind of collection"),
        ({"cursor": {"firstBatch": 5}}, "does not say what kind of collection"),
        ({"cursor": {}}, "does not say what kind of collection"),
        ({}, "does not say what kind of collection"),
        ({"cursor": {"firstBatch": [{"type": 5, "options": {}}]}}, "does not say what kind of collection"),
        ({"cursor": {"firstBatch": [{"type": "collection", "options": SECRET}]}}, "does not say what kind of collection"),
        ({"cursor": {"firstBatch": [{"type": SECRET, "options": {}}]}}, "is no ordinary collection"),
        ({"cursor": {"firstBatch": [{"type": "collection", "options": {"collation": 5}}]}}, "has a default collation"),
        ({"cursor": {"firstBatch": [{"type": "collection", "options": {"collation": {"locale": SECRET}}}]}}, "default collation"),
    ],
    ids=str,
)
def test_a_server_that_says_something_else_of_the_collection(database: Db, keys: KeyRing, said: Any, complaint: str) -> None:
    """It is refused with an error of ours, and in our words."""
    collection = Resembling(database.customers)
    collection.otherwise["database"] = Resembling(database, command=lambda *_, **__: said)  # type: ignore[assignment]  # as below
    with pytest.raises(ConfigurationError, match=f"customers.* {complaint}") as caught:
        drive(provision.set_up(collection, [], keys=keys, context="customers", session=None))
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None


def test_setup_asks_the_primary_alone(
    server: embedded.Server, database: Db, keys: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secondary may not have the probe yet. Here is none: what a client that reads from one would ask there finds no server."""
    database.customers.insert_one({})
    concerns: list[ReadConcern] = []
    real = provision._probe

    async def seen(probe: Any, *documents: bytes) -> Any:
        concerns.append(probe.read_concern)
        return await real(probe, *documents)

    monkeypatch.setattr(provision, "_probe", seen)
    uri = server.uri.replace("directConnection=true", f"replicaSet={embedded._REPLICA_SET}")
    # Not over the async driver: that of pymongo 4.13 leaves a connection open if it is told of a replica set.
    with MongoClient[Any](uri, readPreference="secondary", readConcernLevel="majority", serverSelectionTimeoutMS=1000) as client:
        customers = Repository(Customer, client[database.name].customers, keys=keys)
        with pytest.raises(ServerSelectionTimeoutError):
            customers.find_one()
        assert customers.setup() == ["tenant_1", "k_1"]
    assert concerns == [ReadConcern()]


class Resembling:
    """A collection of a server that resembles MongoDB: the real one, but for one thing that it does otherwise."""

    def __init__(self, real: Any, **otherwise: Callable[..., Any]) -> None:
        self.real = real
        self.otherwise = otherwise

    def __getattr__(self, name: str) -> Any:
        return self.otherwise.get(name) or getattr(self.real, name)

    def get_collection(self, *args: Any, **options: Any) -> Any:
        return Resembling(self.real.get_collection(*args, **options), **self.otherwise)


def reordered(document: RawBSONDocument) -> RawBSONDocument:
    import bson

    plain = bson.decode(document.raw)
    return RawBSONDocument(bson.encode({name: plain[name] for name in reversed(plain)}))


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("find_one", lambda real: lambda *_, **__: reordered(real.find_one()), "byte for byte"),
        ("find_one", lambda _: lambda *_, **__: None, "byte for byte"),
        (
            "insert_one",
            lambda real: lambda document: None if real.find_one() else real.insert_one(document),
            "second document",
        ),
        (
            "replace_one",
            lambda real: lambda where, document: real.replace_one({"_id": where["_id"]}, document),
            "replacing exactly",
        ),
    ],
    ids=["order", "nothing", "duplicate", "compare-and-set"],
)
def test_a_server_that_only_resembles_mongodb(database: Db, keys: KeyRing, name: str, change: Any, complaint: str) -> None:
    """It is found out at the start, and the probe is gone all the same."""
    from mongo_envelope.envelope import CODEC_OPTIONS

    options = CODEC_OPTIONS.with_options(document_class=RawBSONDocument)

    class Server(Resembling):
        def get_collection(self, *args: Any, **others: Any) -> Any:
            real = self.real.get_collection(*args, **others)
            return Resembling(real, **{name: change(real)})

    collection = Resembling(database.get_collection("customers", codec_options=options))
    collection.otherwise["database"] = Server(database)  # type: ignore[assignment]  # a database among callables
    with pytest.raises(ConfigurationError, match=f"not the MongoDB that sealed documents need: .*{complaint}"):
        drive(provision.set_up(collection, [], keys=keys, context="customers", session=None))
    assert database.list_collection_names() == []


async def test_a_ring_that_does_not_hold_the_key_of_the_newest_document(driver: Driver, database: Db) -> None:
    """Two processes with two key files: the second is told at its start. What is wrong otherwise is for those who read it."""
    customers = driver.repository(Customer)
    await customers.save(Customer())
    stranger = driver.repository(Customer, keys=KeyRing.generate())
    with pytest.raises(ConfigurationError, match="the newest document of customers is sealed under a key that is not in this ring"):
        await stranger.setup()
    database.customers.insert_one({"tenant": "past the service"})
    await stranger.setup()
    await customers.setup()


async def test_the_probe_is_no_document_of_the_collection(driver: Driver, database: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sees it pass and puts it there has put nothing genuine there, and no repository of a user has its context."""
    passed: list[bytes] = []
    real = provision._probe

    async def seen(probe: Any, first: bytes, second: bytes) -> Any:
        passed.append(first)
        return await real(probe, first, second)

    monkeypatch.setattr(provision, "_probe", seen)
    customers = driver.repository(Customer)
    await customers.setup()
    database.customers.insert_one(RawBSONDocument(passed[0]))
    with pytest.raises(IntegrityError):
        await customers.find().to_list()
    with pytest.raises(ConfigurationError, match="begins with mongo_envelope/"):
        driver.repository(Customer, context="mongo_envelope/probe")
