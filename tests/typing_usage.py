"""How the package is used, for type checkers: checked by ``mypy --strict`` and ``pyright``, and never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Annotated, Any, Literal, assert_type
from uuid import UUID, uuid4

from bson import ObjectId
from bson.raw_bson import RawBSONDocument
from pydantic import BaseModel, Field, computed_field
from pymongo import AsyncMongoClient, MongoClient, ReadPreference, WriteConcern
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.client_session import ClientSession
from pymongo.collation import Collation
from pymongo.read_concern import ReadConcern

from mongo_envelope import (
    AsyncBulkWriter,
    AsyncChangeStream,
    AsyncCursor,
    AsyncRepository,
    BulkSaveError,
    BulkWriter,
    Change,
    ChangeStream,
    CollectionKeyStore,
    Cursor,
    DocumentCodec,
    FileKeyStore,
    Hooks,
    IntegrityError,
    KeyRing,
    Metadata,
    Queryable,
    Repository,
    RevisionConflictError,
    SaveResult,
    Sensitive,
    StoredKey,
    UnknownKeyError,
    UpdateResult,
    embedded,
)
from mongo_envelope.conditions import any_element, contains, contains_all, is_, is_in, not_, not_in, present, where
from mongo_envelope.kms import KMS, LocalKMS


class Customer(BaseModel):
    """Markers bare and called, and a field without one."""

    id: UUID = Field(default_factory=uuid4)
    tenant: Annotated[str, Queryable]
    created_at: Annotated[datetime, Queryable(index=True)]
    email: Annotated[str, Sensitive()]
    name: Annotated[str, Sensitive]
    notes: str = ""

    @computed_field  # type: ignore[prop-decorator]  # mypy#1362
    @property
    def domain(self) -> Annotated[str, Queryable(name="email_domain")]:
        """What stands in the clear of an address."""
        return self.email.rpartition("@")[2]


class Note(BaseModel):
    """Another model, whose id MongoDB's users know."""

    id: ObjectId | None = None
    text: Annotated[bytes, Sensitive(dump=bytes.hex, load=bytes.fromhex)]

    model_config = {"arbitrary_types_allowed": True}


def transactions_and_streams(customers: Repository[Customer], ada: Customer) -> None:
    """What is of one piece, and what comes as it is written."""
    with customers.transaction(max_commit_time_ms=1000, write_concern=WriteConcern("majority")) as tx:
        assert_type(tx, ClientSession)
        customers.save(ada, session=tx)
    assert_type(customers.with_transaction(lambda tx: customers.save(ada, session=tx)), Customer)

    with customers.watch({"tenant": "acme"}, on_invalid="skip", full_document_before_change="required") as stream:
        assert_type(stream, ChangeStream[Customer])
        for change in stream:
            assert_type(change, Change[Customer])
            assert_type(change.model, Customer | None)
            assert_type(change.resume_token, dict[str, Any])
        assert_type(stream.try_next(), Change[Customer] | None)
    customers.watch(resume_after=stream.resume_token).close()


def stores(client: MongoClient[dict[str, Any]], aclient: AsyncMongoClient[dict[str, Any]], kms: KMS) -> None:
    """A store in place of a ring, over either driver; a name that is none is an error."""
    store = CollectionKeyStore(client.crm.keys, kms=[LocalKMS.from_env(), kms], fingerprint="00" * 16, refresh_after=60)
    customers = Repository(Customer, client.crm.customers, keys=store)
    AsyncRepository(Customer, aclient.crm.customers, keys=FileKeyStore("keys.store", kms=kms, create=True))
    assert_type(store.rotate_data_key(), str)
    assert_type(customers.rotate(on_progress=print), int)
    assert_type(customers.needs_rotation({"_id": 1}), bool)
    assert_type(store.keys(), list[StoredKey])
    assert_type(store.ring(), KeyRing)
    store.destroy_key("k", unused_in=[customers, client.crm.orders])
    CollectionKeyStore(client.crm.keys, kms=kms, refersh_after=60)  # type: ignore[call-arg]  # misspelt
    CollectionKeyStore(client.crm.keys)  # type: ignore[call-arg]  # no key-encryption key
    CollectionKeyStore(aclient.crm.keys, kms=kms)  # type: ignore[arg-type]  # the wrong driver's


async def opened(client: MongoClient[dict[str, Any]], kms: KMS) -> None:
    """Beside an event loop."""
    assert_type(await CollectionKeyStore.open(client.crm.keys, kms=kms, expire_after=3600), CollectionKeyStore)


def restricted(client: MongoClient[dict[str, Any]], keys: KeyRing) -> None:
    """Rings that can do less."""
    ring = keys.restrict("verify", "search", contexts=["customers"])
    assert_type(ring, KeyRing)
    assert_type(ring.capabilities, frozenset[str])
    assert_type(ring.contexts, tuple[str, ...] | None)
    keys.restrict("open", contexts=["customers"])  # type: ignore[arg-type]  # no such capability
    keys.restrict("metadata", contexts=("customers",)).to_file("reporting.json")
    customers = Repository(Customer, client.crm.customers, keys=ring)
    assert_type(customers.verify({"tenant": "acme"}), int)
    assert_type(customers.codec.metadata(b""), Metadata)
    customers.codec.verify_tag({})


class Audit(Hooks[BaseModel]):
    """For any model."""

    def before_load(self, what: Any) -> None:
        """A plain method."""


class Stamp(Hooks[Customer]):
    """For one model, and for an `AsyncRepository`."""

    async def before_save(self, model: Customer) -> None:
        """A coroutine function."""
        model.notes = model.notes.strip()


def with_hooks(client: MongoClient[dict[str, Any]], other: AsyncMongoClient[dict[str, Any]], keys: KeyRing) -> None:
    """Hooks of either kind."""
    audited = Repository(Customer, client.crm.customers, keys=keys, hooks=[Audit()])
    assert_type(audited, Repository[Customer])
    stamped = AsyncRepository(Customer, other.crm.customers, keys=keys, hooks=[Audit(), Stamp()])
    assert_type(stamped, AsyncRepository[Customer])


def cursors(customers: Repository[Customer]) -> None:
    """What find gives over a MongoClient."""
    cursor = customers.find({"tenant": {"$in": ["acme"]}}, sort=[("created_at", -1)], skip=1, limit=2)
    assert_type(cursor, Cursor[Customer])
    assert_type(cursor.sort("created_at", -1).skip(1).limit(1), Cursor[Customer])
    assert_type(iter(cursor), Iterator[Customer])
    assert_type(next(cursor), Customer)
    assert_type(cursor.to_list(), list[Customer])
    assert_type(cursor[2], Customer)
    assert_type(cursor[2:4], Cursor[Customer])
    cursor.to_frame("polars")
    with customers.find(sort={"created_at": 1}) as each:
        assert_type(each, Cursor[Customer])
        for customer in each:
            assert_type(customer.email, str)


def synchronous(client: MongoClient[dict[str, Any]], keys: KeyRing, ada: Customer) -> None:
    """Everything over a MongoClient."""
    customers = Repository(Customer, client.crm.customers, keys=keys, context="customers", validate_on_save=True, padding="padme")
    assert_type(customers, Repository[Customer])
    assert_type(customers.save(ada), Customer)
    assert_type(customers.save(ada, overwrite=True), Customer)
    assert_type(customers.save_many(each for each in [ada]), SaveResult)
    assert_type(customers.load(ada.id), Customer)
    assert_type(customers.delete(ada.id), bool)
    assert_type(customers.find_one({"tenant": "acme"}, sort="created_at"), Customer | None)

    assert_type(customers.setup(), list[str])
    assert_type(customers.save(ada, revision=customers.revision(ada)), Customer)
    assert_type(customers.load_many([ada.id]), list[Customer])
    assert_type(customers.load_raw(ada.id), dict[str, Any])
    assert_type(customers.mend(customers.load_raw(ada.id) | {"notes": ""}), Customer)
    assert_type(customers.find(on_invalid="skip", batch_size=100, hint="tenant_1").first(), Customer | None)
    assert_type(customers.find(on_invalid=lambda error: str(error.document_id), hint=[("tenant", 1)]), Cursor[Customer])
    assert_type(customers.count({"tenant": "acme"}, max_time_ms=100), int)
    assert_type(customers.exists({"tenant": "acme"}, collation=Collation("en"), hint={"tenant": 1}), bool)
    assert_type(customers.find(collation={"locale": "en"}), Cursor[Customer])
    assert_type(customers.distinct("tenant", comment="why"), list[Any])
    assert_type(customers.update(ada.id, {"notes": ""}), Customer)
    assert_type(customers.update(ada.id, lambda customer: customer.model_copy(update={"notes": customer.email})), Customer)
    assert_type(customers.update(ada.id, in_place), Customer)
    assert_type(customers.delete(ada.id, revision=customers.revision(ada)), bool)
    assert_type(customers.delete_many({"tenant": "acme"}), int)
    careful = customers.with_options(
        write_concern=WriteConcern("majority"), read_concern=ReadConcern("majority"), read_preference=ReadPreference.NEAREST
    )
    assert_type(careful, Repository[Customer])
    assert_type(Repository(Customer, client.crm.customers, keys=keys, shard_key=("tenant",)), Repository[Customer])

    with client.start_session() as session:
        assert_type(session, ClientSession)
        customers.save(ada, session=session)
        customers.find(session=session).close()

    try:
        customers.load(ada.id)
    except IntegrityError as error:
        assert_type(error.document_id, str | None)
    except UnknownKeyError as error:
        assert_type(error.collection, str | None)
    except RevisionConflictError:
        pass


def in_place(customer: Customer) -> None:
    """A change that gives nothing back."""
    customer.notes = ""


def many(customers: Repository[Customer], ada: Customer) -> None:
    """Bulk writes, and what their errors tell."""
    assert_type(customers.update_many({"tenant": "acme"}, in_place), UpdateResult)
    with customers.bulk(ordered=False) as bulk:
        assert_type(bulk, BulkWriter[Customer])
        bulk.save(ada)
        bulk.update(ada.id, {"notes": ""})
        bulk.delete(ada.id)
    assert_type(bulk.result, SaveResult)
    try:
        customers.save_many([ada], ordered=False, batch_size=100)
    except BulkSaveError as error:
        assert_type(error.result.failed[0].index, int | None)


async def in_place_later(customer: Customer) -> None:
    """One that waits for something."""
    customer.notes = ""


async def asynchronous(client: AsyncMongoClient[dict[str, Any]], keys: KeyRing, ada: Customer) -> None:
    """Everything over an AsyncMongoClient."""
    customers = AsyncRepository(Customer, client.crm.customers, keys=keys)
    assert_type(customers, AsyncRepository[Customer])
    assert_type(await customers.save(ada), Customer)
    assert_type(await customers.save_many([ada]), SaveResult)
    assert_type(await customers.update_many({"tenant": "acme"}, in_place_later), UpdateResult)
    async with customers.bulk(ordered=False) as bulk:
        assert_type(bulk, AsyncBulkWriter[Customer])
        await bulk.save(ada)
        await bulk.update(ada.id, in_place_later)
        await bulk.delete(ada.id)
    assert_type(bulk.result, SaveResult)
    assert_type(await customers.load(ada.id), Customer)
    assert_type(await customers.delete(ada.id), bool)
    assert_type(await customers.find_one(), Customer | None)

    cursor = customers.find({"domain": "example.com"})
    assert_type(cursor, AsyncCursor[Customer])
    assert_type(cursor.sort(["tenant", "created_at"]).skip(1).limit(1), AsyncCursor[Customer])
    assert_type(aiter(cursor), AsyncIterator[Customer])
    assert_type(await anext(cursor), Customer)
    assert_type(await cursor.to_list(), list[Customer])
    assert_type(cursor[2:4], AsyncCursor[Customer])
    await cursor.to_frame("pandas")
    assert_type([each async for each in cursor], list[Customer])
    async with customers.find() as each:
        assert_type(each, AsyncCursor[Customer])

    assert_type(await customers.setup(), list[str])
    assert_type(await customers.load_many([ada.id]), list[Customer])
    assert_type(await customers.find().first(), Customer | None)
    assert_type(await customers.update(ada.id, {"notes": ""}), Customer)
    assert_type(await customers.update(ada.id, lambda customer: customer.model_copy(update={"notes": ""})), Customer)
    assert_type(await customers.update(ada.id, in_place), Customer)
    assert_type(await customers.update(ada.id, in_place_later), Customer)
    assert_type(await customers.count(), int)
    assert_type(customers.revision(ada), str)
    assert_type(customers.with_options(write_concern=WriteConcern(1)), AsyncRepository[Customer])

    async with client.start_session() as session:
        assert_type(session, AsyncClientSession)
        await customers.save(ada, session=session)
        await customers.find(session=session).close()

    async def saved(tx: AsyncClientSession) -> Customer:
        return await customers.save(ada, session=tx)

    async with customers.transaction() as tx:
        assert_type(tx, AsyncClientSession)
    assert_type(await customers.with_transaction(saved), Customer)
    assert_type(await customers.with_transaction(lambda tx: tx.has_ended), bool)

    async with await customers.watch() as stream:
        assert_type(stream, AsyncChangeStream[Customer])
        async for change in stream:
            assert_type(change.before, Customer | None)
        assert_type(await stream.try_next(), Change[Customer] | None)


def without_a_database(keys: KeyRing, note: Note, raw: bytes) -> None:
    """The codec, for those who bring their own storage."""
    codec = DocumentCodec(Note, keys=keys, context="notes")
    assert_type(codec, DocumentCodec[Note])
    assert_type(codec.seal(note), dict[str, Any])
    assert_type(codec.seal_bson(note), bytes)
    assert_type(codec.open(codec.seal(note)), Note)
    assert_type(codec.open(raw), Note)
    assert_type(codec.open(RawBSONDocument(raw)), Note)
    assert_type(codec.open_raw(raw), dict[str, Any])


def the_codec_of_a_repository(repository: Repository[Customer], other: AsyncRepository[Note]) -> None:
    """Each repository has one."""
    assert_type(repository.codec, DocumentCodec[Customer])
    assert_type(other.codec, DocumentCodec[Note])


def a_local_server() -> None:
    """For a quickstart."""
    with embedded.start() as server:
        assert_type(server.uri, str)


class Address(BaseModel):
    """Beneath a customer of a shop."""

    city: str


class Shopper(BaseModel):
    """A model whose filters are typed."""

    id: UUID
    tenant: Annotated[str, Queryable]
    kind: Annotated[Literal["new", "regular"], Queryable] = "new"
    rank: Annotated[int, Queryable] = 0
    age: Annotated[int | None, Queryable] = None
    owner: Annotated[UUID | None, Queryable] = None
    paid: Annotated[bool, Queryable] = False
    created_at: Annotated[datetime, Queryable]
    tags: Annotated[list[str], Queryable] = []
    marks: Annotated[frozenset[int] | None, Queryable] = None
    address: Annotated[Address, Queryable]
    home: Annotated[Address | None, Queryable] = None
    addresses: Annotated[list[Address], Queryable] = []
    labels: Annotated[dict[str, int], Queryable] = {}

    @computed_field  # type: ignore[prop-decorator]  # mypy#1362
    @property
    def city(self) -> Annotated[str, Queryable]:
        """A computed field."""
        return self.address.city


def found_by_condition(shoppers: Repository[Shopper]) -> None:
    """A condition is a filter."""
    assert_type(shoppers.find((where(Shopper).tenant == "acme") & not_(where(Shopper).rank == 0)), Cursor[Shopper])
    assert_type(shoppers.count(is_in(where(Shopper).tenant, ["acme"])), int)


def typed_filters(shopper: Shopper, tenants: list[str], day: datetime) -> list[bool]:
    """What `where` gives is a model to type checkers, and each condition a bool."""
    names = where(Shopper)
    assert_type(names, Shopper)
    assert_type(names.city, str)
    assert_type(present(names.age), int)
    assert_type(present(names.home), Address)
    condition: bool = names.tenant == "acme"
    assert_type(condition & (names.created_at >= day) & (names.rank < 3), bool)
    assert_type((names.id == shopper.id) | (names.owner != uuid4()), bool)
    assert_type(not_(names.kind == "new"), bool)
    return [
        condition,
        names.owner == None,  # noqa: E711 - a comparison; `is_` is for those who would rather not write it
        is_(names.owner, None) & is_(names.paid, True),
        names.address.city == "Paris",
        present(names.home).city == "Paris",
        names.addresses[0].city == "Paris",
        any_element(names.addresses, where(Address).city == "Paris"),
        present(names.age) > 3,
        names.labels["a"] > 3,
        names.tags == ["a"],
        is_in(names.tenant, tenants),
        is_in(names.tenant, ("a", "b")),
        is_in(names.kind, ["new"]),
        is_in(names.age, [1, 2]),
        is_in(names.age, [1, None]),
        is_in(names.id, [uuid4()]) & not_in(names.tenant, {"a"}),
        contains(names.tags, "a"),
        contains(names.marks, 1),
        contains(names.addresses, Address(city="Paris")),
        contains_all(names.tags, ["a"]),
        contains_all(names.marks, {1}),
    ]


def mistakes_in_filters(names: Shopper, numbers: list[int]) -> list[bool]:
    """Each line is an error to mypy, which complains of an ignore that it does not need; and to pyright."""
    return [
        names.tennant == "acme",  # type: ignore[attr-defined]  # no such name
        names.address.town == "x",  # type: ignore[attr-defined]  # no such name beneath
        names.home.city == "x",  # type: ignore[union-attr]  # `present` is missing
        names.tenant == 5,  # type: ignore[comparison-overlap]  # another type
        names.city == 5,  # type: ignore[comparison-overlap]  # of a computed field too
        names.created_at >= "2024",  # type: ignore[operator]  # no order between the two
        is_in(names.tenant, [5]),  # type: ignore[misc]  # elements of another type
        is_in(names.tenant, numbers),  # type: ignore[misc]  # the same
        is_in(names.id, ["x"]),  # type: ignore[misc]  # also where == says nothing
        is_in(names.tenant, "acme"),  # type: ignore[arg-type]  # text is no list
        contains(names.tags, 5),  # type: ignore[misc]  # an element of another type
        contains(names.tenant, "a"),  # type: ignore[arg-type]  # no list
        contains_all(names.tags, [5]),  # type: ignore[misc]  # elements of another type
        any_element(names.tags, names.tenant == "x"),  # type: ignore[arg-type]  # no models
        ~(names.tenant == "x"),  # type: ignore[list-item]  # an int to type checkers: `not_` is for them
    ]
