"""`setup`: what the collection and the server must be, which indexes are made, and how the guard is put up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any
from uuid import UUID, uuid4

import bson
import pytest
from bson.raw_bson import RawBSONDocument
from conftest import Driver, in_threads
from customer_model import SECRET
from pydantic import BaseModel, Field
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import OperationFailure, ServerSelectionTimeoutError
from pymongo.read_concern import ReadConcern

from mongo_envelope import (
    BlindIndex,
    Bucket,
    ConfigurationError,
    IndexKey,
    IntegrityError,
    KeyRing,
    Queryable,
    Repository,
    RepositoryError,
    Sensitive,
    embedded,
    provision,
)
from mongo_envelope.bridge import drive
from mongo_envelope.envelope import CODEC_OPTIONS
from mongo_envelope.schema import Schema

Db = Database[dict[str, Any]]


class Customer(BaseModel):
    id: UUID = Field(default_factory=uuid4)
    tenant: Annotated[str, Queryable(index=True)] = "acme"
    kind: Annotated[str, Queryable(name="k", index=True)] = ""
    rank: Annotated[int, Queryable()] = 0


async def test_setup_makes_the_indexes_that_are_marked(driver: Driver, database: Db) -> None:
    """By their stored names, on a collection that need not be there; a second time it makes none."""
    customers = driver.repository(Customer)
    assert await customers.setup() == ["tenant_1", "k_1", "guard"]
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
    assert await driver.repository(Customer).setup(guard=False) == []
    database.customers.drop_indexes()
    database.customers.create_index("tenant", name="some", partialFilterExpression={"rank": 1})
    assert await driver.repository(Customer).setup(guard=False) == ["tenant_1", "k_1"]


async def test_an_index_that_stands_in_the_way(driver: Driver, database: Db) -> None:
    """One of the same name that does not find every document: said with the field and the way out. A hidden one is left alone."""
    database.customers.create_index("tenant", sparse=True)
    with pytest.raises(ConfigurationError, match=r"stands in the way of one on tenant \(tenant_1\) or k \(k_1\)") as caught:
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
        set_up(collection, keys)
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
        assert customers.setup() == ["tenant_1", "k_1", "guard"]
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


def set_up(collection: Any, keys: KeyRing, *, guarded: bool = False) -> list[str]:
    """`setup` over a collection that is none of pymongo's."""
    how: dict[str, Any] = {"keys": keys, "context": "customers", "indexes": (), "dry_run": False, "session": None}
    return drive(provision.set_up(collection, Schema.of(Customer), guarded=guarded, **how))


def reordered(document: RawBSONDocument) -> RawBSONDocument:
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
    options = CODEC_OPTIONS.with_options(document_class=RawBSONDocument)

    class Server(Resembling):
        def get_collection(self, *args: Any, **others: Any) -> Any:
            real = self.real.get_collection(*args, **others)
            return Resembling(real, **{name: change(real)})

    collection = Resembling(database.get_collection("customers", codec_options=options))
    collection.otherwise["database"] = Server(database)  # type: ignore[assignment]  # a database among callables
    with pytest.raises(ConfigurationError, match=f"not the MongoDB that sealed documents need: .*{complaint}"):
        set_up(collection, keys)
    assert database.list_collection_names() == []


NOT_IN_THIS_RING = "the newest documents of customers are sealed under keys that are not in this ring"


async def test_a_ring_that_does_not_hold_the_keys_of_the_newest_documents(driver: Driver, database: Db) -> None:
    """Two processes with two key files: the second is told at its start, also after plaintext, and nothing is made for it."""
    customers = driver.repository(Customer)
    stranger = driver.repository(Customer, keys=KeyRing.generate())
    await customers.save(Customer())
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=NOT_IN_THIS_RING):
            await stranger.setup()
        database.customers.insert_one({"tenant": "past the service"})
    assert database.customers.options() == {}
    assert database.customers.index_information().keys() == {"_id_"}
    assert await customers.setup() == ["tenant_1", "k_1", "guard"]


async def test_one_document_under_an_unknown_key_does_not_stop_setup(driver: Driver, database: Db) -> None:
    """Who can insert could stop every start with it. Of the ten newest one must be ours; of what is wrong otherwise none."""
    customers = driver.repository(Customer)
    ada = await customers.save(Customer())
    stored = database.customers.find_one({"_id": ada.id}) or {}
    strays = [{**stored, "_id": uuid4(), "kid": "unknown"} for _ in range(9)]
    database.customers.insert_many(strays)
    assert await customers.setup() == ["tenant_1", "k_1", "guard"]
    database.customers.insert_one({**stored, "_id": uuid4(), "kid": "unknown"})
    with pytest.raises(ConfigurationError, match="or somebody else put them there"):
        await customers.setup()
    database.customers.update_many({"kid": "unknown"}, {"$set": {"kid": stored["kid"]}})  # copies, whose tags do not match
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
    database.customers.insert_one(RawBSONDocument(passed[0]), bypass_document_validation=True)
    with pytest.raises(IntegrityError):
        await customers.find().to_list()
    with pytest.raises(ConfigurationError, match="begins with mongo_envelope/"):
        driver.repository(Customer, context="mongo_envelope/probe")


# --- blind indexes ----------------------------------------------------------------------------------------------------


class Person(BaseModel):
    id: UUID = Field(default_factory=uuid4)
    tenant: Annotated[str, Queryable()] = "acme"
    tags: Annotated[list[str], Queryable()] = []
    email: Annotated[str | None, Sensitive(index=BlindIndex(normalize="email", unique=True))] = None
    phones: Annotated[list[str], Sensitive(index=BlindIndex(name="phone"))] = []
    salary: Annotated[int, Sensitive(index=Bucket(width=1000))] = 0
    notes: str = ""


BLIND = ["idx.email_1", "idx.phone_1", "idx.salary_bucket_1"]


async def test_setup_makes_blind_indexes(driver: Driver, database: Db) -> None:
    """One for each, by its name; a unique one is of those documents alone that have a value."""
    people = driver.repository(Person)
    assert await people.setup() == [*BLIND, "guard"]
    assert await people.setup() == []
    there = database.customers.index_information()
    assert list(there) == ["_id_", *BLIND]
    assert there["idx.email_1"]["unique"]
    assert there["idx.email_1"]["partialFilterExpression"] == {"idx.email": {"$gte": b""}}
    assert [name for name in there if there[name].keys() & {"collation", "sparse"}] == []
    assert [name for name in there if there[name].get("unique") or "partialFilterExpression" in there[name]] == ["idx.email_1"]


@pytest.mark.parametrize(
    ("where", "index"),
    [
        ({"email": "Ada@example.com"}, "idx.email"),
        ({"email": {"$in": ["ada@example.com", "bob@example.com"]}}, "idx.email"),
        ({"phones": "1"}, "idx.phone"),
        ({"salary": {"$gte": 1500, "$lt": 2500}}, "idx.salary_bucket"),
    ],
    ids=["equality", "several", "list", "range"],
)
async def test_a_search_uses_the_blind_index(driver: Driver, database: Db, where: dict[str, Any], index: str) -> None:
    """What the repository really sends, its collation included, is answered from the index: as the profiler saw it."""
    people = driver.repository(Person)
    await people.setup()
    ada = await people.save(Person(email="ada@example.com", phones=["1"], salary=2000))
    database.command("profile", 2)
    try:
        assert await people.find(where).to_list() == [ada]
    finally:
        database.command("profile", 0)
    [seen] = database.system.profile.find({"op": "query", "ns": f"{database.name}.customers"})
    assert seen["planSummary"].startswith(f"IXSCAN {{ {index}: 1 }}")


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("tenant", "tenant_1"),
        (["tenant", "email"], "tenant_1_idx.email_1"),
        (["email", ("tenant", -1)], "idx.email_1_tenant_-1"),
        ({"tenant": -1, "phone": 1}, "tenant_-1_idx.phone_1"),  # by the index's own name
        (["tenant", "id"], "tenant_1__id_1"),
    ],
    ids=str,
)
async def test_more_indexes(driver: Driver, database: Db, given: Any, made: str) -> None:
    """Those that were asked for, in the forms of a sort, by the names in the model; once."""
    people = driver.repository(Person)
    assert await people.setup(indexes=[given]) == [*BLIND, made, "guard"]
    assert await people.setup(indexes=[given]) == []
    assert made in database.customers.index_information()


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ([["email", "tenant", "phones"]], r"email and phones in one index: .* arrays .* BlindIndex\(within=…\)"),
        ([["tags", "email"]], "tags and email in one index"),
        ([["salary", "tags"]], "salary and tags in one index"),
        ([["email", "email"]], "email and email in one index"),
        ([[("email", "hashed")]], "email: a direction is 1 or -1"),
        ([[("tenant", 5)]], "tenant: a direction is 1 or -1"),
        ([[("email", True)]], "email: a direction is 1 or -1"),
        ("tenant", r"indexes= takes several indexes: indexes=\[\["),
        ({"tenant": 1}, r"indexes= takes several indexes: indexes=\[\["),
        (5, r"indexes= takes several indexes: indexes=\[\["),
        ([5], "an index is on a name"),
        ([None], "an index is on a name"),
        ([[]], "an index is on a name"),
        ([{}], "an index is on a name"),
        (["colour"], "colour"),
        ([[("tenant",)]], "named by text, not by a tuple"),
        ([["tenant", "notes"]], "notes"),
        (["idx.email"], "Person has no field 'idx'"),
        (["salary.x"], "Person.salary is sensitive"),
    ],
    ids=str,
)
async def test_indexes_that_are_refused(driver: Driver, database: Db, given: Any, problem: str) -> None:
    """Two arrays in one, which would stop every write while an index key is replaced; no direction, no name, no index at all."""
    people = driver.repository(Person)
    with pytest.raises(ConfigurationError, match=problem):
        await people.setup(indexes=given)
    assert database.list_collection_names() == []
    database.create_collection("customers")
    with pytest.raises(ConfigurationError, match=problem):
        await people.doctor(indexes=given)
    assert database.customers.index_information().keys() == {"_id_"}


async def test_an_index_with_a_list_in_the_clear(driver: Driver) -> None:
    """Without an index value beside it, it is what MongoDB makes of it; and it goes on while an index key is replaced."""
    people = driver.repository(Person)
    assert await people.setup(indexes=[["tags", "tenant"], ["tenant", "email"]]) == [
        *BLIND,
        "tags_1_tenant_1",
        "tenant_1_idx.email_1",
        "guard",
    ]
    both = driver.repository(Person, keys=driver.keys.with_index_key(IndexKey.generate()))
    await both.save(Person(email="ada@example.com", tags=["a", "b"], phones=["1", "2"]))


async def test_a_unique_index_over_duplicates(driver: Driver, database: Db) -> None:
    """Documents that are there already and are alike: said with the field, without a value; the guard is up all the same."""
    people = driver.repository(Person)
    await people.save_many([Person(email="ada@example.com"), Person(email="Ada@example.com")])
    with pytest.raises(ConfigurationError, match=r"have the same value, and an index on email \(idx\.email_1\) shall") as caught:
        await people.setup()
    assert "ada@" not in str(caught.value)
    assert caught.value.__context__ is None
    assert [each.kind for each in await people.doctor()] == ["missing index"] * 3
    await people.delete_many({"email": "ada@example.com"})
    assert await people.setup() == BLIND


async def test_an_index_that_is_not_unique_stands_in_the_way(driver: Driver, database: Db) -> None:
    """One by hand on a blind index that shall be unique; it is named as the model names the field."""
    people = driver.repository(Person)
    database.customers.create_index("idx.email")
    with pytest.raises(ConfigurationError, match=r"not unique\).* stands in the way of one on email \(idx\.email_1\)") as caught:
        await people.setup()
    assert caught.value.__context__ is None
    database.customers.drop_index("idx.email_1")
    assert await people.setup() == BLIND


async def test_a_unique_index_made_by_hand_will_do(driver: Driver, database: Db) -> None:
    """With the condition that ours has; without one, missing values would be alike. Not a sparse one under the same name."""
    people = driver.repository(Person)
    condition = {"partialFilterExpression": {"idx.email": {"$gte": b""}}}
    for how, made in ((condition, [*BLIND[1:], "guard"]), ({}, [*BLIND, "guard"])):
        database.customers.create_index("idx.email", unique=True, name="by hand", **how)
        assert await people.setup(dry_run=True) == made
        database.customers.drop_indexes()
    database.customers.create_index("idx.email", unique=True, sparse=True)
    with pytest.raises(ConfigurationError, match="stands in the way"):
        await people.setup()


async def test_a_dry_run(driver: Driver, database: Db) -> None:
    """It says all that would be made and makes nothing, whether the collection is there or not; what is wrong it says, too."""
    people = driver.repository(Person)
    for _ in range(2):
        assert await people.setup(indexes=["tenant"], dry_run=True) == [*BLIND, "tenant_1", "guard"]
        assert database.customers.index_information().keys() <= {"_id_"}
        assert database.customers.options() == {}
        await people.save(Person())
    assert await people.setup(guard=False, dry_run=True) == BLIND
    with pytest.raises(ConfigurationError, match=NOT_IN_THIS_RING):
        await driver.repository(Person, keys=KeyRing.generate()).setup(dry_run=True)
    await people.setup(indexes=["tenant"])
    assert await people.setup(indexes=["tenant"], dry_run=True) == []


async def test_a_ring_that_searches_by_values_that_are_not_there(driver: Driver, keys: KeyRing) -> None:
    """It would find nothing of what is stored: said with the way out, and not found out by a customer."""
    people = driver.repository(Person)
    await people.save(Person(email="ada@example.com"))
    new = IndexKey.generate("new")
    hasty = driver.repository(Person, keys=keys.with_index_key(new).searching_by("new"))
    with pytest.raises(ConfigurationError, match="no index values under new, the index key that this ring searches by"):
        await hasty.setup()
    assert await driver.repository(Person, keys=keys.with_index_key(new)).setup() == [*BLIND, "guard"]


# --- the guard --------------------------------------------------------------------------------------------------------


def refusal(write: Callable[[], Any]) -> int | None:
    """The server's code, if it does not take this."""
    try:
        write()
    except OperationFailure as error:
        return error.code
    return None


async def test_plaintext_is_refused_by_the_server(driver: Driver, database: Db) -> None:
    """An insert, an update and a replacement of another client; what the repository writes passes, and so it stays without."""
    people = driver.repository(Person)
    assert "guard" not in await people.setup(guard=False)
    plaintext = database.customers.insert_one({"tenant": "acme"}).inserted_id
    assert await people.setup() == ["guard"]
    ada = await people.save(Person(email="ada@example.com"))
    where = {"_id": ada.id}
    assert refusal(lambda: database.customers.insert_one({"tenant": "acme"})) == 121
    assert refusal(lambda: database.customers.update_one(where, {"$set": {"email": "ada@example.com"}})) == 121
    assert refusal(lambda: database.customers.replace_one(where, {"tenant": "acme"})) == 121
    assert refusal(lambda: database.customers.update_one({"_id": plaintext}, {"$set": {"tenant": "b"}})) == 121
    assert await people.find({"id": ada.id}).to_list() == [ada]
    assert await people.setup(guard=False) == []
    assert refusal(lambda: database.customers.insert_one({"tenant": "acme"})) == 121  # it is left out, not taken down


async def test_the_guard_and_a_validator_of_the_users(driver: Driver, database: Db) -> None:
    """Both hold, whatever language theirs is in, and their wording stays as it is."""
    theirs = {"tenant": {"$ne": "globex"}, "$jsonSchema": {"required": ["tenant"]}}
    database.create_collection("customers", validator=theirs)
    people = driver.repository(Person)
    assert await people.setup() == [*BLIND, "guard"]
    assert await people.setup() == []
    options = database.customers.options()
    assert options["validator"] == {"$and": [theirs, people.inner.guard()]}
    assert (options["validationLevel"], options["validationAction"]) == ("strict", "error")
    await people.save(Person())
    with pytest.raises(RepositoryError, match="or a validator of your own refuses it"):
        await people.save(Person(tenant="globex"))
    assert refusal(lambda: database.customers.insert_one({"tenant": "acme"})) == 121


@pytest.mark.parametrize(
    "how", [{"validationAction": "warn"}, {"validationLevel": "moderate"}, {"validationLevel": "off"}], ids=str
)
async def test_a_validator_of_theirs_that_does_not_refuse_all(driver: Driver, database: Db, how: dict[str, str]) -> None:
    """It would begin to refuse, with ours: so it is left as it is, and both ways out are named. Where it is ours, it is mended."""
    people, theirs = driver.repository(Person), {"tenant": {"$ne": "globex"}}
    database.create_collection("customers", validator=theirs, **how)
    with pytest.raises(ConfigurationError, match=r"customers has a validator of yours .* with collMod, or setup\(guard=False\)"):
        await people.setup()
    assert database.customers.options()["validator"] == theirs
    assert await people.setup(guard=False) == BLIND
    database.command("collMod", "customers", validator=people.inner.guard(), **how)
    assert await people.setup() == ["guard"]
    assert refusal(lambda: database.customers.insert_one({"tenant": "acme"})) == 121


async def test_an_older_guard_is_replaced(driver: Driver, database: Db) -> None:
    """A model gets a field in the clear: saves of the new form are refused until its `setup`, and those of the old one never."""

    class Located(Person):
        city: Annotated[str, Queryable()] = "Riga"

    older, newer = driver.repository(Person), driver.repository(Located)
    theirs = {"tenant": {"$ne": "globex"}}
    database.create_collection("customers", validator=theirs)
    await older.setup()
    bob = Located(email="bob@example.com")
    with pytest.raises(RepositoryError, match="its guard is of another version of the model, and setup"):
        await newer.save(bob)
    assert [each.kind for each in await newer.doctor()] == ["another guard"]
    assert await newer.setup(dry_run=True) == await newer.setup() == ["guard"]
    assert database.customers.options()["validator"] == {"$and": [theirs, newer.inner.guard()]}
    await newer.save(bob)
    await older.save(Person(email="ada@example.com"))


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ({"ok": 1.0}, "it takes what a validator refuses"),
        (OperationFailure(SECRET, 115), "it does not know the validators of the guard"),
    ],
    ids=["ignored", "unknown"],
)
def test_a_server_without_validators(database: Db, keys: KeyRing, answer: Any, complaint: str) -> None:
    """It is found out, with the way out, and in our words; without the guard it will do."""

    def command(given: Any, *args: Any, **options: Any) -> Any:
        if "collMod" not in given:
            return database.command(given, *args, **options)
        if isinstance(answer, Exception):
            raise answer
        return answer

    class Server(Resembling):
        def get_collection(self, *args: Any, **others: Any) -> Any:
            return Resembling(self.real.get_collection(*args, **others), database=self)  # type: ignore[arg-type]  # as above

    options = CODEC_OPTIONS.with_options(document_class=RawBSONDocument)
    collection = Resembling(database.get_collection("customers", codec_options=options))
    collection.otherwise["database"] = Server(database, command=command)  # type: ignore[assignment]  # as above
    with pytest.raises(ConfigurationError, match=f"{complaint}.* setup\\(guard=False\\)") as caught:
        set_up(collection, keys, guarded=True)
    assert SECRET not in str(caught.value)
    assert database.list_collection_names() == []
    assert set_up(collection, keys) == ["tenant_1", "k_1"]


@pytest.mark.parametrize("exists", [False, True], ids=["new", "there"])
async def test_without_the_privilege_for_the_guard(
    driver: Driver, server: embedded.Server, database: Db, fail_command: Any, exists: bool
) -> None:
    """The role readWrite may not alter a collection: said with the role that may, and how to do without, and in our words."""
    async with driver.another_client(server.uri, appName="fails") as client:
        people = driver.repository(Person, driver.collection(client=client))
        if exists:
            await people.save(Person(email="ada@example.com"))
        fail_command(["collMod", "create"], times=2 if exists else 3, errorCode=13)
        with pytest.raises(
            ConfigurationError, match=r"the privilege collMod, as in the role dbAdmin; .* setup\(guard=False\)"
        ) as caught:
            await people.setup()
        assert "(code 13)" in str(caught.value)
        assert caught.value.__context__ is None
        assert await people.setup(guard=False) == BLIND


async def test_what_the_server_refuses_for_another_reason(driver: Driver, server: embedded.Server, fail_command: Any) -> None:
    """It is pymongo's own error, as everywhere: here a user who may make no index."""
    async with driver.another_client(server.uri, appName="fails") as client:
        fail_command(["createIndexes"], errorCode=13)
        with pytest.raises(OperationFailure) as caught:
            await driver.repository(Person, driver.collection(client=client)).setup()
        assert caught.value.code == 13


async def test_a_collection_that_somebody_makes_in_between(driver: Driver, database: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the question and our command, as another process does that starts at the same time: its validator stays."""
    real = provision.options_of

    async def slow(*given: Any) -> Any:
        options = await real(*given)
        if options is None:
            database.create_collection("customers", validator={"tenant": {"$ne": "globex"}})
        return options

    monkeypatch.setattr(provision, "options_of", slow)
    people = driver.repository(Person)
    assert await people.setup() == [*BLIND, "guard"]
    assert database.customers.options()["validator"] == {"$and": [{"tenant": {"$ne": "globex"}}, people.inner.guard()]}


def test_several_processes_set_up_at_once(database: Db, keys: KeyRing) -> None:
    """Each of them ends well, and what they made is there once."""
    made: list[list[str]] = []
    in_threads(4, lambda: made.append(Repository(Person, database.customers, keys=keys).setup()))
    assert len(made) == 4
    assert all(set(each) <= {*BLIND, "guard"} for each in made)
    people = Repository(Person, database.customers, keys=keys)
    assert people.setup(dry_run=True) == people.doctor() == []
