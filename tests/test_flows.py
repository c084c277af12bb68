"""The flows beyond saving and loading one document: revisions, update, many at once, counting, shards. On both drivers."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID, uuid4

import bson
import pytest
from bson import Binary, CodecOptions, Int64, ObjectId
from bson.raw_bson import RawBSONDocument
from conftest import Driver, Proxy, in_threads, saved
from customer_model import SECRET, Customer, raw_documents
from pydantic import (
    AliasChoices,
    Base64Bytes,
    BaseModel,
    ConfigDict,
    Field,
    FutureDate,
    Json,
    StringConstraints,
    ValidationInfo,
    computed_field,
    field_validator,
    model_validator,
)
from pymongo import MongoClient, ReadPreference, WriteConcern
from pymongo.collation import Collation
from pymongo.database import Database
from pymongo.errors import AutoReconnect, ExecutionTimeout, OperationFailure
from pymongo.monitoring import CommandListener
from pymongo.read_concern import ReadConcern
from pymongo.results import DeleteResult

from mongo_envelope import (
    AsyncRepository,
    ConfigurationError,
    DocumentNotFoundError,
    DuplicateValueError,
    IntegrityError,
    KeyRing,
    MalformedEnvelopeError,
    PayloadError,
    Queryable,
    QueryError,
    Repository,
    RepositoryError,
    RevisionConflictError,
    embedded,
)
from mongo_envelope.bridge import settle

Db = Database[dict[str, Any]]
Fail = Callable[..., None]


class Commands(CommandListener):
    """Keeps what a client sends."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def started(self, event: Any) -> None:
        self.sent.append(event.command)

    def succeeded(self, event: Any) -> None: ...

    def failed(self, event: Any) -> None: ...

    def of(self, name: str) -> list[dict[str, Any]]:
        """The commands of one name, and after that none."""
        found = [each for each in self.sent if name in each]
        self.sent.clear()
        return found


@asynccontextmanager
async def watched(
    driver: Driver, server: embedded.Server, model: type[BaseModel], **options: Any
) -> AsyncIterator[tuple[Any, Commands]]:
    """A repository, and the commands that its client sends."""
    commands = Commands()
    async with driver.another_client(server.uri, event_listeners=[commands]) as client:
        yield driver.repository(model, driver.collection(client=client), **options), commands


# --- revisions --------------------------------------------------------------------------------------------------------


async def test_a_revision_is_new_at_every_write(driver: Driver) -> None:
    """It is the same for two copies of one revision, and another after a save by anybody."""
    customers = driver.repository(Customer)
    ada = await customers.save(Customer())
    first = customers.revision(ada)
    assert customers.revision(await customers.load(ada.id)) == first
    await customers.save(ada)
    assert customers.revision(ada) != first
    assert customers.revision(await customers.find_one()) == customers.revision(ada)


async def test_an_instance_that_was_not_loaded_has_no_revision(driver: Driver) -> None:
    """Nor has one whose id was changed, or something that is no Customer."""
    customers = driver.repository(Customer)
    loaded = await customers.save(Customer())
    loaded.id = uuid4()
    for stranger in (Customer(), loaded, loaded.model_copy(update={"id": "x"}), None):
        with pytest.raises(RepositoryError, match="has no revision"):
            customers.revision(stranger)


@pytest.mark.parametrize("quotes", ["", '"'], ids=["plain", "as an ETag"])
async def test_a_fresh_instance_replaces_exactly_the_revision_named(driver: Driver, database: Db, quotes: str) -> None:
    """What a PUT handler does: built from a request, saved over the revision that the client saw, and over no other."""
    customers = driver.repository(Customer)
    ada = await customers.save(Customer(notes="old"))
    seen = f"{quotes}{customers.revision(ada)}{quotes}"
    put = await customers.save(Customer(id=ada.id, notes="new"), revision=seen)
    assert (await customers.load(ada.id)).notes == "new"
    with pytest.raises(RevisionConflictError) as caught:
        await customers.save(Customer(id=ada.id, notes="late"), revision=seen)
    assert (caught.value.document_id, caught.value.collection) == (repr(ada.id), "customers")
    await customers.save(put)
    assert (await customers.load(ada.id)).notes == "new"
    assert database.customers.count_documents({}) == 1


async def test_a_revision_counts_more_than_what_the_instance_remembers(driver: Driver) -> None:
    """A loaded instance, saved over a revision that is not its own, is a conflict unless that is the stored one."""
    customers = driver.repository(Customer)
    ada = await customers.save(Customer())
    old = customers.revision(ada)
    loaded = await customers.load(ada.id)
    await customers.save(ada)
    with pytest.raises(RevisionConflictError):
        await customers.save(await customers.load(ada.id), revision=old)
    await customers.save(loaded, revision=customers.revision(ada))


@pytest.mark.parametrize("text", ["", "*", 'W/"0"', "0" * 64, "\0"], ids=repr)
async def test_a_revision_that_no_document_has_is_a_conflict(driver: Driver, text: str) -> None:
    """Whatever a client puts into If-Match; and where there is no document, that is said."""
    customers = driver.repository(Customer)
    ada = await customers.save(Customer())
    with pytest.raises(RevisionConflictError):
        await customers.save(Customer(id=ada.id), revision=text)
    with pytest.raises(RevisionConflictError):
        await customers.delete(ada.id, revision=text)
    with pytest.raises(DocumentNotFoundError):
        await customers.save(Customer(), revision=text)
    assert await customers.delete(uuid4(), revision=text) is False
    assert await customers.load(ada.id) == ada


@pytest.mark.parametrize("text", ["", "*", 'W/"0"', "0" * 63], ids=repr)
async def test_no_revision_is_not_that_of_a_tag_that_somebody_emptied(driver: Driver, database: Db, text: str) -> None:
    """Such a text is a conflict with whatever is stored as ``hmac``, and nothing is written or deleted."""
    customers = driver.repository(Customer)
    ada = await customers.save(Customer())
    for tag in (b"", None, text):
        database.customers.update_one({}, {"$set": {"hmac": tag}})
        before = database.customers.find_one()
        with pytest.raises(RevisionConflictError):
            await customers.save(Customer(id=ada.id), revision=text)
        with pytest.raises(RevisionConflictError):
            await customers.delete(ada.id, revision=text)
        with pytest.raises(MalformedEnvelopeError):
            await customers.update(ada.id, {"rank": 1}, revision=text)
        assert database.customers.find_one() == before


async def test_a_revision_is_text_and_excludes_overwriting(driver: Driver) -> None:
    """Other calls are refused before anything is sent."""
    customers = driver.repository(Customer)
    ada = await customers.save(Customer())
    for wrong in (5, b"x", True):
        with pytest.raises(QueryError, match="a revision is the text"):
            await customers.save(ada, revision=wrong)
        with pytest.raises(QueryError, match="a revision is the text"):
            await customers.delete(ada.id, revision=wrong)
    with pytest.raises(QueryError, match="one of the two"):
        await customers.save(ada, overwrite=True, revision=customers.revision(ada))


async def test_delete_of_a_revision(driver: Driver) -> None:
    """Only that one; a conflict if the document has changed, False if it is gone."""
    customers = driver.repository(Customer)
    ada = await customers.save(Customer())
    old = customers.revision(ada)
    await customers.save(ada)
    with pytest.raises(RevisionConflictError, match="not deleted") as caught:
        await customers.delete(ada.id, revision=old)
    assert caught.value.document_id == repr(ada.id)
    assert await customers.delete(ada.id, revision=customers.revision(ada)) is True
    assert await customers.delete(ada.id, revision=old) is False


async def test_a_lost_reply_does_not_make_the_named_revision_a_conflict(driver: Driver, proxy: Proxy) -> None:
    """The same instance is saved again over the same revision, although its own write has landed."""
    async with driver.another_client(proxy.uri, retryWrites=False) as client:
        customers = driver.repository(Customer, driver.collection(client=client))
        ada = await customers.save(Customer())
        seen, put = customers.revision(ada), Customer(id=ada.id, notes="put")
        proxy.lose = True
        with pytest.raises(AutoReconnect):
            await customers.save(put, revision=seen)
        assert customers.revision(put) != seen
        await customers.save(put, revision=seen)
        with pytest.raises(RevisionConflictError):
            await customers.save(ada)
        assert (await customers.load(ada.id)).notes == "put"


@pytest.mark.parametrize("loaded", [False, True], ids=["fresh", "loaded"])
async def test_naming_a_revision_of_unknown_outcome_forgets_nothing(
    driver: Driver, server: embedded.Server, fail_command: Fail, *, loaded: bool
) -> None:
    """Two attempts are lost, the second over the first: the document is still as it was before both, and saving again succeeds."""
    async with driver.another_client(server.uri, retryWrites=False, appName="fails") as client:
        customers = driver.repository(Customer, driver.collection(client=client))
        ada = Customer()
        if loaded:
            await customers.save(ada)
        fail_command(["insert", "update"], closeConnection=True)
        with pytest.raises(AutoReconnect):
            await customers.save(ada)
        fail_command(["insert", "update"], closeConnection=True)
        with pytest.raises(AutoReconnect):
            await customers.save(ada, revision=customers.revision(ada))
        await customers.save(ada)
        assert await customers.load(ada.id) == ada


async def test_the_revision_after_a_transaction_is_that_of_its_last_write(driver: Driver) -> None:
    """Committed, it is the stored one; aborted, no document has it, and who names it learns of a conflict."""
    customers = driver.repository(Customer)
    ada = await customers.save(Customer())
    async with driver.transaction() as session:
        await customers.save(ada, session=session)
        await customers.save(ada, session=session)
    assert customers.revision(ada) == customers.revision(await customers.load(ada.id))
    ada = await customers.load(ada.id)
    async with driver.transaction(commit=False) as session:
        await customers.save(ada, session=session)
    undone = customers.revision(ada)
    with pytest.raises(RevisionConflictError):
        await customers.save(Customer(id=ada.id), revision=undone)
    with pytest.raises(RevisionConflictError):
        await customers.save(ada, revision=undone)
    await customers.save(ada)


async def test_an_insert_that_arrives_late_is_no_conflict(
    driver: Driver, server: embedded.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost insert that reaches the server between our two commands: it is our own, and is replaced."""
    customers = driver.repository(Customer)
    ada = Customer(notes="first")
    async with driver.another_client(server.uri) as client:
        inner = driver.repository(Customer, driver.collection(client=client)).inner
        flows, insert = customers.inner._flows, inner._flows.collection.insert_one
        sent: list[Any] = []

        async def lose(document: Any, **_: Any) -> None:
            sent.append(document)
            raise AutoReconnect("lost")

        async def arrive(document: Any, **options: Any) -> Any:
            await settle(insert(sent.pop()))
            return await settle(insert(document, **options))

        collection = flows.collection

        class Slow:
            insert_one = staticmethod(lose)

            def __getattr__(self, name: str) -> Any:
                return getattr(collection, name)

        slow = Slow()
        monkeypatch.setattr(flows, "collection", slow)
        with pytest.raises(AutoReconnect):
            await customers.save(ada)
        slow.insert_one = arrive  # type: ignore[method-assign]  # that is the fault
        ada.notes = "second"
        await customers.save(ada)
        assert not sent
    assert (await customers.load(ada.id)).notes == "second"


async def test_an_insert_that_arrives_late_and_meets_another_index(
    driver: Driver, database: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the second attempt runs into is told apart, too, and quotes no value."""
    database.customers.create_index("rank", unique=True)
    customers = driver.repository(Customer)
    await customers.save(Customer(rank=7))
    ada = Customer(rank=1)
    flows = customers.inner._flows
    replace, lost = flows._replace, []

    async def lose(sealed: Any, *_: Any) -> None:
        lost.append(sealed.raw)
        raise AutoReconnect("lost")

    monkeypatch.setattr(flows, "_write", lose)
    with pytest.raises(AutoReconnect):
        await customers.save(ada)
    monkeypatch.undo()

    async def too_early(*args: Any) -> bool:
        if lost:
            database.customers.insert_one(RawBSONDocument(lost.pop()))
            return False
        return bool(await replace(*args))

    monkeypatch.setattr(flows, "_replace", too_early)
    ada.rank = 7
    with pytest.raises(DuplicateValueError, match="the same rank") as caught:
        await customers.save(ada)
    assert caught.value.__context__ is None


# --- update -----------------------------------------------------------------------------------------------------------


async def test_update_changes_whole_fields(driver: Driver, database: Db) -> None:
    """By name, in the clear or not; the saved model comes back and can be saved again; the rest stays."""
    customers = driver.repository(Customer)
    ada = await customers.save(Customer(notes="old", rank=1))
    updated = await customers.update(ada.id, {"notes": "new", "rank": 2})
    assert updated == ada.model_copy(update={"notes": "new", "rank": 2}) == await customers.load(ada.id)
    assert database.customers.find_one()["rank"] == 2  # type: ignore[index]  # there is one
    await customers.save(updated)
    with pytest.raises(RevisionConflictError):
        await customers.save(ada)
    assert await customers.update(str(ada.id), {}) == updated


async def test_update_by_a_function(driver: Driver) -> None:
    """It may change the model that it is given, or give back another one: a copy or one that was built anew."""
    customers = driver.repository(Customer)
    ada = await customers.save(Customer())

    def in_place(customer: Customer) -> None:
        customer.rank += 1

    changes: list[Callable[[Customer], Customer | None]] = [
        in_place,
        lambda customer: customer.model_copy(update={"rank": customer.rank + 1}),
        lambda customer: Customer(id=customer.id, rank=customer.rank + 1),
    ]
    for number, change in enumerate(changes, 1):
        assert (await customers.update(ada.id, change)).rank == number
    assert (await customers.load(ada.id)).rank == 3

    async def later(customer: Customer) -> Customer:
        await asyncio.sleep(0)
        return customer.model_copy(update={"rank": 10})

    if driver.is_async:
        assert (await customers.update(ada.id, later)).rank == 10


async def test_update_of_a_frozen_model_and_of_one_with_extra_fields(driver: Driver) -> None:
    """What cannot be assigned can still be updated, and fields that are not declared are kept."""

    class Frozen(BaseModel):
        model_config = ConfigDict(frozen=True, extra="allow")
        id: int
        text: str = ""

    frozen = driver.repository(Frozen)
    await frozen.save(Frozen(id=1, more=[1]))
    updated = await frozen.update(1, {"text": "new", "other": 2})
    assert updated.model_extra == {"more": [1], "other": 2}
    assert await frozen.load(1) == updated == Frozen(id=1, text="new", more=[1], other=2)


async def test_update_validates_the_whole_model(driver: Driver) -> None:
    """Values are brought to their types; aliases do not matter; two fields that only fit together are changed together."""

    class Span(BaseModel):
        id: int
        start: int = Field(alias="from")
        end: Annotated[int, Queryable()]
        day: date = date(2024, 1, 31)

        @model_validator(mode="after")
        def in_order(self) -> Span:
            if self.start > self.end:
                raise ValueError(SECRET)
            return self

        @computed_field  # type: ignore[prop-decorator]  # mypy#1362
        @property
        def length(self) -> int:
            return self.end - self.start

    spans = driver.repository(Span)
    await spans.save(Span.model_validate({"id": 1, "from": 1, "end": 2}))
    updated = await spans.update(1, {"start": 5, "end": "6", "day": "2024-02-01"})
    assert (updated.start, updated.end, updated.day) == (5, 6, date(2024, 2, 1))
    with pytest.raises(QueryError, match="the changes do not fit the model: the model: value_error") as caught:
        await spans.update(1, {"start": 7})
    assert SECRET not in repr(caught.value) + repr(caught.value.__context__)
    assert await spans.load(1) == updated
    with pytest.raises(QueryError, match="length is computed"):
        await spans.update(1, {"length": 1})


async def test_update_leaves_the_other_fields_alone(driver: Driver) -> None:
    """What pydantic would change or refuse if it were validated again stays: only what changes is validated, like a new value."""

    class Parcel(BaseModel):
        id: int
        stamp: Base64Bytes
        due: FutureDate
        settings: Json[dict[str, int]]
        code: Annotated[str, StringConstraints(strip_whitespace=True, to_upper=True)] = ""
        fixed: int = Field(default=1, frozen=True)
        seen: list[str] = []

        @field_validator("code")
        @classmethod
        def checked(cls, code: str, info: ValidationInfo) -> str:
            assert info.data["id"] == 1
            return code

    parcels = driver.repository(Parcel)
    parcel = Parcel.model_validate({"id": 1, "stamp": "aGVsbG8=", "due": "2999-01-01", "settings": '{"a": 1}'})
    parcel.due = date(2020, 1, 1)
    await parcels.save(parcel)
    updated = await parcels.update(1, {"code": " ab "})
    assert updated == await parcels.load(1) == parcel.model_copy(update={"code": "AB"})
    assert (updated.stamp, updated.settings) == (b"hello", {"a": 1})
    updated = await parcels.update(1, {"settings": '{"b": 2}', "stamp": "aGk="})
    assert (updated.settings, updated.stamp) == ({"b": 2}, b"hi")
    with pytest.raises(QueryError, match="due: date_future"):
        await parcels.update(1, {"due": "2020-01-01"})
    with pytest.raises(QueryError, match="fixed is frozen"):
        await parcels.update(1, {"fixed": 2})
    assert (await parcels.update(1, lambda parcel: parcel.model_copy(update={"fixed": 2}))).fixed == 2


async def test_changes_are_validated_in_the_order_of_the_fields(driver: Driver) -> None:
    """Whatever order a client wrote them in: a validator sees the new values of the fields before its own."""

    class Span(BaseModel):
        id: int
        start: int
        end: int

        @field_validator("end")
        @classmethod
        def after_the_start(cls, end: int, info: ValidationInfo) -> int:
            assert end >= info.data["start"]
            return end

    spans = driver.repository(Span)
    await spans.save(Span(id=1, start=5, end=6))
    assert await spans.update(1, {"end": 2, "start": 1}) == Span(id=1, start=1, end=2)


async def test_what_update_gives_back_is_what_load_gives(driver: Driver) -> None:
    """For a function, too: what its result becomes when it is loaded is stored, and found."""

    class Lowered(BaseModel):
        id: int
        text: Annotated[str, Queryable()] = ""

        @field_validator("text")
        @classmethod
        def lower(cls, text: str) -> str:
            return text.lower()

    lowered = driver.repository(Lowered)
    await lowered.save(Lowered(id=1))
    for how in ({"text": "ABC"}, lambda model: model.model_copy(update={"text": "ABC"})):
        updated = await lowered.update(1, how)
        assert updated == await lowered.load(1) == await lowered.find_one({"text": "abc"}) == Lowered(id=1, text="abc")
        await lowered.save(updated)


async def test_an_alias_is_no_name_of_a_field(driver: Driver) -> None:
    """Not even where other names are extra values: it would be one, and the field would stay."""

    class Aliased(BaseModel):
        model_config = ConfigDict(extra="allow", populate_by_name=True)
        id: int
        e_mail: str = Field(default="", validation_alias=AliasChoices("eMail", "mail"), serialization_alias="E")

    aliased = driver.repository(Aliased)
    await aliased.save(Aliased(id=1))
    for alias in ("eMail", "mail", "E"):
        with pytest.raises(QueryError, match=f"{alias} is an alias: changes are by the names in Python, here e_mail"):
            await aliased.update(1, {alias: "x"})
    assert (await aliased.update(1, {"e_mail": "x", "other": 1})).e_mail == "x"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"notes": 5}, "notes: string_type"),
        ({"rank": SECRET}, "rank: int_parsing"),
        ({"note": SECRET}, "no field 'note'. Did you mean notes"),
        ({"zzz": SECRET}, "no field 'zzz'. Its fields: id, tenant"),
        ({"id": UUID(int=5)}, "keeps the id"),
        ({"$set": {"notes": SECRET}}, "whole fields by name"),
        ({"address.street": SECRET}, "whole fields by name"),
        ({5: SECRET}, "named by text, not by a int"),
        ([("notes", SECRET)], "a dict of field names and values, or a function, not a list"),
        (lambda customer: {"notes": SECRET}, "gives back a Customer, or None"),
        (lambda customer: customer.model_copy(update={"id": uuid4()}), "changed the id"),
    ],
    ids=lambda value: "a function" if callable(value) else str(value),
)
async def test_changes_that_do_not_fit_are_refused(driver: Driver, database: Db, changes: Any, complaint: str) -> None:
    """QueryError says which field and what to do, quotes no value, and nothing is written."""
    customers = driver.repository(Customer)
    ada = await customers.save(Customer())
    before = database.customers.find_one()
    with pytest.raises(QueryError, match=complaint) as caught:
        await customers.update(ada.id, changes)
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None
    assert database.customers.find_one() == before


async def test_a_value_that_cannot_be_kept_is_refused_by_update_as_by_save(driver: Driver) -> None:
    """A function can put anything into a model; a mapping can hold an instance of a subclass."""

    class Inner(BaseModel):
        text: str = ""

    class Sub(Inner):
        more: str = SECRET

    class Outer(BaseModel):
        id: int
        inner: Inner = Inner()

    outers = driver.repository(Outer)
    await outers.save(Outer(id=1))
    for changes in ({"inner": Sub()}, lambda outer: outer.model_copy(update={"inner": SECRET})):
        with pytest.raises(PayloadError, match="inner: Inner expected"):
            await outers.update(1, changes)


async def test_update_of_nothing(driver: Driver) -> None:
    """There is no upsert: a document that is not there is DocumentNotFoundError."""
    with pytest.raises(DocumentNotFoundError):
        await driver.repository(Customer).update(uuid4(), {"notes": ""})


async def test_update_begins_again_after_a_conflict(driver: Driver) -> None:
    """Somebody writes between load and save: the function sees what they wrote, and both changes are there."""
    customers = driver.repository(Customer)
    ada = await customers.save(Customer(notes="", rank=0))
    others, calls = [1, 2, 3], 0

    async def interfere() -> None:
        if others:
            await customers.update(ada.id, {"rank": others.pop(0)})

    async def change(customer: Customer) -> Customer:
        nonlocal calls
        calls += 1
        await interfere()
        return customer.model_copy(update={"notes": f"saw {customer.rank}"})

    updated = await customers.update(ada.id, driver.function(change))
    assert (updated.notes, updated.rank, calls) == ("saw 3", 3, 4)


async def test_update_gives_up_after_a_dozen_conflicts(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where somebody else always wins, that is a RevisionConflictError and not an endless loop."""
    monkeypatch.setattr("mongo_envelope.batches.random.uniform", lambda *_: 0.0)
    customers = driver.repository(Customer)
    ada = await customers.save(Customer())
    calls = 0

    async def change(customer: Customer) -> Customer:
        nonlocal calls
        calls += 1
        await customers.save(await customers.load(ada.id))
        return customer

    with pytest.raises(RevisionConflictError, match="somebody else wrote"):
        await customers.update(ada.id, driver.function(change))
    assert calls == 13


async def test_a_conflict_that_the_function_raises_is_its_own(driver: Driver) -> None:
    """It comes through at once: only a conflict of the update itself begins again."""
    customers = driver.repository(Customer)
    ada = await customers.save(Customer())
    calls = []

    def change(customer: Customer) -> None:
        calls.append(customer)
        raise RevisionConflictError("mine")

    with pytest.raises(RevisionConflictError, match=r"^mine$"):
        await customers.update(ada.id, change)
    assert len(calls) == 1


async def test_update_of_one_revision_and_no_other(driver: Driver) -> None:
    """What a PATCH handler does with If-Match: changes that revision; else it is a conflict at once, whoever came in between."""
    customers = driver.repository(Customer)
    ada = await customers.save(Customer())
    seen = customers.revision(ada)
    updated = await customers.update(ada.id, {"rank": 1}, revision=f'"{seen}"')
    assert (updated.rank, (await customers.load(ada.id)).rank) == (1, 1)
    calls = []

    async def change(customer: Customer) -> None:
        calls.append(customer.rank)
        await customers.save(await customers.load(ada.id))

    for revision, how in ((seen, {"rank": 2}), ("*", {}), (customers.revision(updated), driver.function(change))):
        with pytest.raises(RevisionConflictError, match="not saved") as caught:
            await customers.update(ada.id, how, revision=revision)
        assert (caught.value.document_id, caught.value.collection) == (repr(ada.id), "customers")
    assert calls == [1]
    with pytest.raises(DocumentNotFoundError):
        await customers.update(uuid4(), {}, revision=seen)
    with pytest.raises(QueryError, match="a revision is the text"):
        await customers.update(ada.id, {}, revision=5)


async def test_what_a_function_leaves_can_be_loaded(driver: Driver) -> None:
    """Constraints and validators hold for it as for changes by name: a document that could not be loaded again is not written."""

    class Strict(BaseModel):
        id: int
        name: str = Field(default=SECRET, min_length=3)

    strict = driver.repository(Strict)
    await strict.save(Strict(id=1))
    for how in ({"name": "x"}, lambda model: model.model_copy(update={"name": "x"}), lambda model: setattr(model, "name", "x")):
        with pytest.raises(QueryError, match="name: string_too_short") as caught:
            await strict.update(1, how)
        assert caught.value.__context__ is None
    assert await strict.load(1) == Strict(id=1)


def test_a_coroutine_function_needs_the_async_repository(client: MongoClient[dict[str, Any]], database: Db, keys: KeyRing) -> None:
    """It cannot be waited for by the sync one, which says so instead of doing half of it."""
    customers = Repository(Customer, client[database.name].customers, keys=keys)
    ada = customers.save(Customer())

    async def later(_: Any) -> None:
        raise AssertionError

    with pytest.raises(QueryError, match="use AsyncRepository"):
        customers.update(ada.id, later)  # type: ignore[arg-type]  # the mistake that is tested
    database.customers.update_one({}, {"$set": {"rank": 9}})
    with pytest.raises(QueryError, match="use AsyncRepository"):
        customers.find(on_invalid=later).to_list()


async def test_the_content_of_a_document_has_its_revision(driver: Driver) -> None:
    """What no longer fits the model is mended without writing over somebody: load_raw, mend, save with its revision."""

    class Before(BaseModel):
        id: int
        size: str = "12"

    class After(BaseModel):
        id: int
        size: int = Field(ge=0, strict=True)

    before, after = driver.repository(Before), driver.repository(After)
    old = await before.save(Before(id=1))
    content = await after.load_raw(1)
    assert after.revision(content) == before.revision(old)
    with pytest.raises(PayloadError, match="size: int_type"):
        after.mend(content)
    await before.save(old)
    with pytest.raises(RevisionConflictError, match="somebody else wrote"):
        await after.save(after.mend(content | {"size": 12}))
    content = await after.load_raw(1)
    content["size"] = 12
    await after.save(after.mend(content))
    assert await after.load(1) == After(id=1, size=12)
    with pytest.raises(RevisionConflictError, match="exists already"):
        await after.save(after.mend(dict(content)))
    for wrong, error in ((5, QueryError), (content | {"size": object()}, PayloadError)):
        with pytest.raises(error):
            after.mend(wrong)
    with pytest.raises(RepositoryError):
        after.revision(dict(content))


async def test_update_in_a_transaction_reads_once(driver: Driver) -> None:
    """A conflict there is for the whole transaction to repeat: reading again would give the same."""
    customers = driver.repository(Customer)
    ada = await customers.save(Customer())
    async with driver.transaction() as session:
        assert (await customers.update(ada.id, {"rank": 1}, session=session)).rank == 1
        assert (await customers.update(ada.id, {"notes": "x"}, session=session)).rank == 1
    assert (await customers.load(ada.id)).notes == "x"
    calls = 0

    def change(customer: Customer) -> None:
        nonlocal calls
        calls += 1
        raise RevisionConflictError("as if")

    with pytest.raises(RevisionConflictError):
        async with driver.transaction() as session:
            await customers.update(ada.id, change, session=session)
    assert calls == 1


def test_updates_of_many_threads_all_count(client: MongoClient[dict[str, Any]], database: Db, keys: KeyRing) -> None:
    """Four threads, each adding one fifteen times, without a word about conflicts."""
    customers = Repository(Customer, client[database.name].customers, keys=keys)
    ada = customers.save(Customer())

    def count() -> None:
        for _ in range(15):
            customers.update(ada.id, lambda customer: customer.model_copy(update={"rank": customer.rank + 1}))

    in_threads(4, count)
    assert customers.load(ada.id).rank == 60


# --- many at once -----------------------------------------------------------------------------------------------------


async def test_load_many_gives_them_in_the_order_of_the_ids(driver: Driver) -> None:
    """Ids in any form that load takes, also twice; each can be saved again."""
    customers = driver.repository(Customer)
    batch = await saved(customers, [Customer(rank=rank) for rank in range(4)])
    asked = [batch[2].id, str(batch[0].id), batch[3].id, batch[0].id]
    loaded = await customers.load_many(iter(asked))
    assert loaded == [batch[2], batch[0], batch[3], batch[0]]
    await customers.save_many(loaded)
    assert await customers.load_many([]) == []


async def test_load_many_says_what_is_missing(driver: Driver) -> None:
    """One id without a document, and nothing is given; the error has the first and how many there are."""
    customers = driver.repository(Customer)
    ada, nobody = await customers.save(Customer()), uuid4()
    with pytest.raises(DocumentNotFoundError, match="2 of 3 documents are not there") as caught:
        await customers.load_many([ada.id, nobody, uuid4()])
    assert (caught.value.document_id, caught.value.collection) == (repr(nobody), "customers")
    with pytest.raises(QueryError):
        await customers.load_many([ada.id, {"$ne": None}])


async def test_load_many_of_more_than_one_query(driver: Driver, server: embedded.Server) -> None:
    """Two and a half thousand ids are three queries."""
    async with watched(driver, server, Numbered) as (numbered, commands):
        await numbered.save_many([Numbered(id=number) for number in range(2500)])
        commands.sent.clear()
        assert [each.id for each in await numbered.load_many(range(2500))] == list(range(2500))
        assert [len(each["filter"]["_id"]["$in"]) for each in commands.of("find")] == [1000, 1000, 500]


class Numbered(BaseModel):
    id: float
    text: str = ""


async def test_load_many_knows_ids_as_mongodb_does(driver: Driver) -> None:
    """5 is 5.0, and NaN is NaN."""
    numbered = driver.repository(Numbered)
    await numbered.save_many([Numbered(id=5), Numbered(id=float("nan"))])
    five, nan = await numbered.load_many([5, float("nan")])
    assert five.id == 5
    assert nan.id != nan.id


async def test_load_raw_is_the_way_out_where_the_model_has_changed(driver: Driver) -> None:
    """Verified and decrypted, by field name, although today's model would refuse it."""

    class Before(BaseModel):
        id: int
        kind: Annotated[str, Queryable(name="k")] = "a"
        amount: Annotated[Decimal, Queryable()] = Decimal("1.50")
        size: str = "large"

    class After(BaseModel):
        id: int
        kind: Annotated[str, Queryable(name="k")]
        size: int

    await driver.repository(Before).save(Before(id=1))
    after = driver.repository(After)
    with pytest.raises(PayloadError, match="load_raw of a repository"):
        await after.load(1)
    assert await after.load_raw(1) == {"id": 1, "kind": "a", "size": "large", "amount": "1.50"}
    with pytest.raises(DocumentNotFoundError):
        await after.load_raw(2)


async def test_delete_many_says_how_many(driver: Driver, database: Db) -> None:
    """By a filter on queryable fields, which must be given; a sensitive one is refused and nothing deleted."""
    customers = driver.repository(Customer)
    await customers.save_many([Customer(rank=rank) for rank in range(4)])
    for wrong in ({"email": "ada@example.com"}, {"notes": ""}, None):
        with pytest.raises(QueryError):
            await customers.delete_many(wrong)
    assert database.customers.count_documents({}) == 4
    assert await customers.delete_many({"rank": {"$lt": 2}}) == 2
    assert await customers.delete_many({}) == 2


async def test_one_where_several_are_wanted_is_told_apart(driver: Driver) -> None:
    """A model or an id alone, and a model in the place of its id or of the collection: the error says what was meant."""
    customers = driver.repository(Customer)
    ada = await customers.save(Customer())
    with pytest.raises(QueryError, match="save takes one"):
        await customers.save_many(ada)
    with pytest.raises(QueryError, match="load takes one"):
        await customers.load_many(str(ada.id))
    for call in (customers.load, customers.delete):
        with pytest.raises(QueryError, match="a whole Customer was given where its id is wanted"):
            await call(ada)
    for call, several in ((customers.save_many, "models"), (customers.load_many, "ids")):
        with pytest.raises(QueryError, match=f"takes several {several}"):
            await call(5)
    with pytest.raises(QueryError, match="hint is the name of an index"):
        customers.find(hint=5)
    assert await customers.find(sort=("rank", -1), hint={"id": 1}).to_list() == [ada]
    with pytest.raises(ConfigurationError, match="the model comes first"):
        driver.repository(driver.collection(), Customer)


async def test_mended_content_is_what_was_saved(driver: Driver) -> None:
    """Every value in its type, under names and aliases, in the clear or not, although the content shows how it is kept."""

    class Before(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        id: ObjectId = Field(default_factory=ObjectId, alias="_id")
        photo: bytes = b"\xff"
        email: str = Field(default="", alias="eMail")
        anything: Any = None
        numbers: dict[int, str] = {}
        at: Annotated[datetime, Queryable()] = datetime(2024, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)
        raw: Annotated[bytes, Queryable()] = b"\xff"
        size: Annotated[int, Queryable()] = 2**40
        score: Annotated[float, Queryable()] = float("inf")
        amount: Annotated[Decimal, Queryable()] = Decimal("1.50")

    class After(Before):
        country: str

    values = {"eMail": "ada@example.com", "anything": [b"x", date(2024, 1, 31)], "numbers": {1: "a"}}
    before, after = driver.repository(Before), driver.repository(After)
    saved = await before.save(Before(**values))
    content = await after.load_raw(saved.id)
    assert type(content["size"]) is int
    await after.save(after.mend(content | {"country": "GB"}))
    assert await after.load(saved.id) == After(**values, _id=saved.id, country="GB")


async def test_what_pymongo_reads_is_taken_as_an_id_and_in_a_filter(driver: Driver, client: MongoClient[dict[str, Any]]) -> None:
    """An int beyond 32 bits is an Int64 there, and a UUID by default a Binary; what distinct gives can be asked for."""

    class Counted(BaseModel):
        id: int
        owner: Annotated[UUID, Queryable()]
        sizes: Annotated[list[int], Queryable()] = [2**40]

    counted = driver.repository(Counted)
    one = await counted.save(Counted(id=3_000_000_000, owner=uuid4()))
    plain = client.get_database(driver.collection().database.name, CodecOptions()).customers.find_one() or {}
    assert (type(plain["_id"]), type(plain["owner"])) == (Int64, Binary)
    assert await counted.load(plain["_id"]) == one
    assert await counted.find({"owner": plain["owner"], "sizes": {"$in": plain["sizes"]}}).to_list() == [one]
    for name in ("id", "owner", "sizes"):
        (value,) = await counted.distinct(name)
        assert type(value) in (int, UUID)
        assert await counted.find_one({name: value}) == one


# --- what the server says ---------------------------------------------------------------------------------------------


async def test_count_and_exists(driver: Driver) -> None:
    """With a filter and without; a filter that cannot be answered is refused."""
    customers = driver.repository(Customer)
    assert await customers.exists() is False
    await customers.save_many([Customer(rank=rank) for rank in range(3)])
    assert await customers.count() == 3
    assert await customers.count({"rank": {"$gte": 1}}, hint="_id_", max_time_ms=1000, comment="c") == 2
    assert await customers.exists({"rank": 2}, hint=[("id", 1)], max_time_ms=1000, comment="c") is True
    assert await customers.exists({"rank": 3}) is False
    for call in (customers.count, customers.exists):
        with pytest.raises(QueryError, match="email is sensitive"):
            await call({"email": "ada@example.com"})


class Shade(enum.Enum):
    dark = "d"
    light = "l"


class Item(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    id: ObjectId = Field(default_factory=ObjectId)
    shade: Annotated[Shade, Queryable(name="s")] = Shade.dark
    amount: Annotated[Decimal, Queryable()] = Decimal("1.50")
    day: Annotated[date, Queryable()] = date(2024, 1, 31)
    at: Annotated[datetime, Queryable()] = datetime(2024, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)
    took: Annotated[timedelta, Queryable()] = timedelta(seconds=1)
    tags: Annotated[list[str], Queryable()] = []
    owner: Annotated[UUID | None, Queryable()] = None
    place: Annotated[dict[str, str], Queryable()] = {}
    text: str = ""


async def test_distinct_gives_values_of_the_fields_type(driver: Driver) -> None:
    """Each once: of an enum, a Decimal, a day, a duration, the elements of a list, along a path; dates are rounded."""
    items = driver.repository(Item)
    owner = uuid4()
    await items.save_many([Item(tags=["a", "b"], owner=owner, place={"k": "v"}), Item(shade=Shade.light, tags=["b"])])
    assert await items.distinct("shade") == [Shade.dark, Shade.light]
    assert await items.distinct("s", {"tags": "a"}, max_time_ms=1000, comment="c") == [Shade.dark]
    assert await items.distinct("amount") == [Decimal("1.50")]
    assert await items.distinct("day") == [date(2024, 1, 31)]
    assert await items.distinct("at") == [datetime(2024, 1, 31, 12, 0, 0, 123000, tzinfo=UTC)]
    assert await items.distinct("took") == [timedelta(seconds=1)]
    assert sorted(await items.distinct("tags")) == ["a", "b"]
    assert await items.distinct("owner") == [None, owner]
    assert await items.distinct("place.k") == ["v"]
    for name, complaint in (("text", "text is sensitive"), ("nothing", "no field")):
        with pytest.raises(QueryError, match=complaint):
            await items.distinct(name)


async def test_distinct_hides_nothing_that_the_model_does_not_know(driver: Driver, database: Db) -> None:
    """A value of another time or by another hand comes as it is stored: this is the server's word."""
    items = driver.repository(Item)
    await items.save(Item())
    database.customers.update_one({}, {"$set": {"s": "x"}})
    assert await items.distinct("shade") == ["x"]


# --- options of the driver --------------------------------------------------------------------------------------------


async def test_the_options_of_find_reach_the_server(driver: Driver, server: embedded.Server) -> None:
    """Under their names in the command; a hint by field names is translated; the collation is the simple one if none is given."""
    async with watched(driver, server, Item) as (items, commands):
        await items.save(Item())
        options = {"hint": [("shade", 1)], "max_time_ms": 1234, "comment": "why"}
        with pytest.raises(OperationFailure, match="hint"):
            await items.find({"shade": "d"}, **options, skip=1, limit=2, batch_size=3).to_list()
        (sent,) = commands.of("find")
        assert (sent["hint"], sent["maxTimeMS"], sent["comment"]) == ({"s": 1}, 1234, "why")
        assert (sent["skip"], sent["limit"], sent["batchSize"]) == (1, 2, 3)
        assert sent["collation"]["locale"] == "simple"
        assert (await items.find_one({"shade": "d"}, hint="_id_", max_time_ms=1234, comment="why")).shade is Shade.dark
        (sent,) = commands.of("find")
        assert (sent["hint"], sent["maxTimeMS"], sent["comment"], sent["limit"]) == ("_id_", 1234, "why", 1)


async def test_a_collation_is_the_callers(driver: Driver) -> None:
    """Without one, text is compared byte by byte; with one, as it says, and then the answers are not checked again."""
    customers = driver.repository(Customer)
    await customers.save(Customer(tenant="Acme"))
    loose = Collation("en", strength=2)
    for where in ({"tenant": "ACME"}, {"tenant": {"$in": ["ACME"]}}):
        assert await customers.find(where).to_list() == []
        assert await customers.find_one(where) is None
        assert await customers.count(where) == 0
        assert await customers.exists(where) is False
        assert len(await customers.find(where, collation=loose).to_list()) == 1
        assert await customers.find_one(where, collation=loose) is not None
        assert await customers.count(where, collation=loose) == 1
        assert await customers.exists(where, collation=loose) is True
        assert await customers.distinct("tenant", where, collation=loose) == ["Acme"]
        assert await customers.delete_many(where) == 0
    assert await customers.delete_many({"tenant": "ACME"}, collation=loose) == 1


async def test_a_collections_own_collation_is_not_used(driver: Driver, database: Db) -> None:
    """Who recreates the collection does not decide which tenants and which ids are equal."""

    class Named(BaseModel):
        id: str
        tenant: Annotated[str, Queryable()] = "acme"

    database.create_collection("customers", collation={"locale": "en", "strength": 2})
    named = driver.repository(Named)
    bob = await named.save(Named(id="Bob"))
    assert await named.find({"tenant": "ACME"}).to_list() == []
    assert await named.count({"tenant": "ACME"}) == 0
    assert await named.delete("BOB") is False
    assert await named.delete_many({"tenant": "ACME"}) == 0
    with pytest.raises(DocumentNotFoundError):
        await named.load("BOB")
    with pytest.raises(DocumentNotFoundError):
        await named.load_many(["Bob", "BOB"])
    for overwrite in (False, True):
        with pytest.raises(RevisionConflictError):
            await named.save(Named(id="BOB"), overwrite=overwrite)
    assert await named.load("Bob") == bob


async def test_max_time_ms_ends_a_long_query(driver: Driver, server: embedded.Server, client: Any) -> None:
    """It is pymongo's error, and it comes through."""
    async with driver.another_client(server.uri, appName="slow") as other:
        customers = driver.repository(Customer, driver.collection(client=other))
        data = {"failCommands": ["find", "aggregate", "distinct"], "appName": "slow", "errorCode": 50}
        client.admin.command("configureFailPoint", "failCommand", mode="alwaysOn", data=data)
        try:
            for call in (
                customers.find(max_time_ms=1).to_list(),
                customers.count(max_time_ms=1),
                customers.distinct("rank", max_time_ms=1),
            ):
                with pytest.raises(ExecutionTimeout):
                    await call
        finally:
            client.admin.command("configureFailPoint", "failCommand", mode="off")


async def test_with_options_is_another_repository(driver: Driver, server: embedded.Server) -> None:
    """Its commands carry the options; the first repository stays as it was; instances go from one to the other."""
    async with watched(driver, server, Customer) as (customers, commands):
        careful = customers.with_options(
            write_concern=WriteConcern("majority", wtimeout=5000),
            read_concern=ReadConcern("majority"),
            read_preference=ReadPreference.NEAREST,
        )
        assert type(careful.inner) is (AsyncRepository if driver.is_async else Repository)
        ada = await careful.save(Customer())
        assert commands.of("insert")[0]["writeConcern"] == {"w": "majority", "wtimeout": 5000}
        await careful.load(ada.id)
        assert commands.of("find")[0]["readConcern"] == {"level": "majority"}
        await customers.save(ada)
        assert "writeConcern" not in commands.of("update")[0]
        with pytest.raises(ConfigurationError, match="w=0"):
            customers.with_options(write_concern=WriteConcern(0))


async def test_what_a_write_has_to_know_is_asked_of_the_primary(driver: Driver, server: embedded.Server) -> None:
    """A secondary may be behind: update would read an old revision, and a document would seem to be gone."""
    async with watched(driver, server, Customer, shard_key=("tenant",)) as (customers, _):
        near = customers.with_options(read_preference=ReadPreference.SECONDARY_PREFERRED)
        flows = near.inner._flows
        assert flows.collection.read_preference == ReadPreference.SECONDARY_PREFERRED
        assert flows._primary.read_preference == ReadPreference.PRIMARY
        ada = await near.save(Customer())
        reading = []
        real = flows.collection.find_one
        flows.collection.__dict__["find_one"] = lambda *args, **options: reading.append(args) or real(*args, **options)
        ada = await near.update(ada.id, {"rank": 1})
        await near.save(Customer(id=ada.id), overwrite=True)
        with pytest.raises(RevisionConflictError):
            await near.save(ada)
        await near.delete(ada.id)
        assert reading == []


# --- sharded collections: the filters that a cluster needs. No cluster is to be had here -------------------------------


async def test_every_write_by_id_names_the_shard(driver: Driver, server: embedded.Server) -> None:
    """The shard key, by its stored names and values, is in the filter of each replacement, overwriting and deletion."""
    async with watched(driver, server, Item, shard_key=("shade", "id")) as (items, commands):
        item = await items.save(Item())
        commands.sent.clear()
        where = {"_id": item.id, "s": "d"}
        await items.save(item)
        (sent,) = commands.of("update")
        assert {**sent["updates"][0]["q"], "hmac": None} == {**where, "hmac": None}
        await items.save(Item(id=item.id), overwrite=True)
        assert commands.of("update")[0]["updates"][0]["q"] == where
        await items.update(item.id, {"text": "new"})
        assert commands.of("update")[0]["updates"][0]["q"].items() >= where.items()
        latest = await items.load(item.id)
        await items.save(Item(id=item.id), revision=items.revision(latest))
        assert commands.of("update")[0]["updates"][0]["q"].items() >= where.items()
        assert await items.delete(item.id) is True
        assert commands.of("delete")[0]["deletes"][0]["q"] == where
        assert await items.delete(item.id) is False


async def test_a_document_that_moves_is_looked_for_where_it_was(driver: Driver, server: embedded.Server) -> None:
    """The filter has the old value of the shard key, the document the new one; a copy from before is still a conflict."""
    async with watched(driver, server, Customer, shard_key=("tenant",)) as (customers, commands):
        ada = await customers.save(Customer(tenant="acme"))
        stale = await customers.load(ada.id)
        ada.tenant = "globex"
        commands.sent.clear()
        await customers.save(ada)
        assert commands.of("update")[0]["updates"][0]["q"]["tenant"] == "acme"
        await customers.save(ada)
        assert commands.of("update")[0]["updates"][0]["q"]["tenant"] == "globex"
        with pytest.raises(RevisionConflictError):
            await customers.save(stale)
        commands.sent.clear()
        for overwrite in (True, False):
            how = {"overwrite": True} if overwrite else {"revision": customers.revision(ada)}
            await customers.save(Customer(id=ada.id, tenant="initech"), **how)
            (sent,) = commands.of("update")
            assert sent["updates"][0]["q"]["tenant"] == "globex"
            ada = await customers.update(ada.id, {"tenant": "globex"})
            commands.sent.clear()
        assert await customers.delete(ada.id) is True


async def test_a_move_whose_outcome_is_unknown(driver: Driver, proxy: Proxy, fail_command: Fail) -> None:
    """The document is looked for in both places."""
    for what in ("reply", "request"):
        async with driver.another_client(proxy.uri, retryWrites=False, appName="fails") as client:
            customers = driver.repository(Customer, driver.collection(client=client), shard_key=("tenant",))
            ada = await customers.save(Customer(tenant="acme"))
            ada.tenant = "globex"
            if what == "reply":
                proxy.lose = True
            else:
                fail_command(["update"], closeConnection=True)
            with pytest.raises(AutoReconnect):
                await customers.save(ada)
            ada.tenant = "initech"
            await customers.save(ada)
            assert (await customers.load(ada.id)).tenant == "initech"


async def test_a_move_from_1_to_true_whose_outcome_is_unknown(driver: Driver, proxy: Proxy) -> None:
    """In Python the two are equal, in MongoDB they are not: there, too, the document is looked for in both places."""

    class Switch(BaseModel):
        id: int
        state: Annotated[int | bool, Queryable()] = 1

    async with driver.another_client(proxy.uri, retryWrites=False) as client:
        switches = driver.repository(Switch, driver.collection(client=client), shard_key=("state",))
        switch = await switches.save(Switch(id=1))
        switch.state = True
        proxy.lose = True
        with pytest.raises(AutoReconnect):
            await switches.save(switch)
        await switches.save(switch)
        assert (await switches.load(1)).state is True


async def test_overwriting_what_moves_at_that_moment(driver: Driver, database: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    """A document that has gone to another shard between question and answer is looked for once more."""
    customers = driver.repository(Customer, shard_key=("tenant",))
    ada = await customers.save(Customer(tenant="acme"))
    flows = customers.inner._flows
    where_it_was, asked = flows._stored_shard, []

    async def too_early(*args: Any) -> Any:
        shard = await where_it_was(*args)
        if not asked:
            asked.append(shard)
            ada.tenant = "globex"
            assert (await flows.save(ada, overwrite=False, revision=None, session=None)) is ada
        return shard

    monkeypatch.setattr(flows, "_stored_shard", too_early)
    other = await customers.save(Customer(id=ada.id, tenant="initech"), overwrite=True)
    assert asked == [("acme",)]
    assert (await customers.load(ada.id)) == other
    assert database.customers.count_documents({}) == 1


async def test_overwriting_what_comes_to_be_at_that_moment(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A document that was not there yet when it was looked for, and that somebody has inserted on another shard since."""
    customers = driver.repository(Customer, shard_key=("tenant",))
    ada = Customer(tenant="acme")
    flows = customers.inner._flows
    where_it_is, asked = flows._stored_shard, []

    async def too_early(*args: Any) -> Any:
        asked.append(await where_it_is(*args))
        if asked == [None]:
            await flows.save(ada, overwrite=False, revision=None, session=None)
        return asked[-1]

    monkeypatch.setattr(flows, "_stored_shard", too_early)
    other = await customers.save(Customer(id=ada.id, tenant="initech"), overwrite=True)
    assert asked == [None, ("acme",)]
    assert await customers.find().to_list() == [other]


@pytest.mark.parametrize("stored", [{"$gt": ""}, None, 5], ids=str)
async def test_a_shard_that_somebody_edited_is_no_operator(driver: Driver, database: Db, stored: Any) -> None:
    """Whatever stands there is taken as a value: the document can still be overwritten and deleted, and no other."""
    customers = driver.repository(Customer, shard_key=("tenant",))
    ada, bob = await saved(customers, [Customer(), Customer()])
    database.customers.update_one({"_id": ada.id}, [{"$set": {"tenant": {"$literal": stored}}}])
    await customers.save(ada, overwrite=True)
    assert await customers.load(ada.id) == ada
    database.customers.update_one({"_id": ada.id}, {"$unset": {"tenant": ""}})
    assert await customers.delete(ada.id) is True
    assert await customers.find().to_list() == [bob]


@pytest.mark.parametrize("wrong", ["tenant", ("email",), ("nothing",), ("rank.x",), (5,), None, 5], ids=str)
async def test_a_shard_key_is_of_fields_in_the_clear(driver: Driver, wrong: Any) -> None:
    """Anything else is refused when the repository is built."""
    with pytest.raises(ConfigurationError, match="shard_key"):
        driver.repository(Customer, shard_key=wrong)


# --- in a transaction -------------------------------------------------------------------------------------------------


async def test_every_new_call_takes_a_session(driver: Driver) -> None:
    """Inside its transaction each call sees what was written there, and outside nobody does."""
    customers = driver.repository(Customer)
    async with driver.transaction() as session:
        ada, bob = await saved(customers, [Customer(rank=1), Customer(rank=2)], session=session)
        assert await customers.load_many([ada.id, bob.id], session=session) == [ada, bob]
        assert (await customers.load_raw(ada.id, session=session))["rank"] == 1
        assert await customers.count(session=session) == 2
        assert await customers.exists({"rank": 1}, session=session) is True
        assert await customers.distinct("rank", session=session) == [1, 2]
        assert (await customers.find(session=session).sort("rank").first()) == ada
        assert (await customers.update(ada.id, {"rank": 3}, session=session)).rank == 3
        assert await customers.delete_many({"rank": 2}, session=session) == 1
        assert await customers.delete(ada.id, session=session) is True
        assert await customers.count() == 0
    assert await customers.count() == 0


async def test_an_index_of_a_field_that_the_model_does_not_know(driver: Driver, database: Db) -> None:
    """Its name is the server's, and not repeated."""
    database.customers.create_index("nothing of ours", unique=True)
    customers = driver.repository(Customer)
    await customers.save(Customer())
    with pytest.raises(DuplicateValueError, match="the same value, and") as caught:
        await customers.save(Customer())
    assert "nothing of ours" not in str(caught.value)


async def test_an_index_of_what_is_inside_a_field(driver: Driver, database: Db) -> None:
    """The field is named once, as in Python, and not what the server says comes after the dot."""
    database.customers.create_index([("place.secret", 1), ("s", 1), ("place.other", 1)], unique=True)
    items = driver.repository(Item)
    await items.save(Item())
    with pytest.raises(DuplicateValueError, match="has the same place and shade, and the index is unique"):
        await items.save(Item())


async def test_duplicates_are_told_apart(driver: Driver, database: Db) -> None:
    """By update as by save: another unique index is DuplicateValueError with the field, the _id is a conflict."""
    database.customers.create_index("rank", unique=True)
    customers = driver.repository(Customer)
    ada, bob = await saved(customers, [Customer(rank=1), Customer(rank=2)])
    with pytest.raises(DuplicateValueError, match="the same rank"):
        await customers.update(bob.id, {"rank": 1})
    with pytest.raises(DuplicateValueError, match="the same rank"):
        await customers.save(Customer(id=bob.id, rank=1), revision=customers.revision(bob))
    with pytest.raises(RevisionConflictError):
        await customers.save(Customer(id=ada.id, rank=3))


# --- asked and answered -----------------------------------------------------------------------------------------------


async def test_an_answer_that_does_not_match_is_refused(driver: Driver, proxy: Proxy, database: Db) -> None:
    """A genuine document in place of the one asked for: by every call that reads, with the id of what came; others still open."""
    customers = driver.repository(Customer)
    ada, eve, bob = await saved(customers, [Customer(tenant="acme"), Customer(tenant="evil"), Customer(tenant="acme")])
    raw = {each["_id"]: each.raw for each in raw_documents(database)}
    async with driver.another_client(proxy.uri) as client:
        asked = driver.repository(Customer, driver.collection(client=client))
        proxy.swap = (raw[ada.id], raw[eve.id])
        for call in (
            asked.find({"tenant": "acme"}).to_list(),
            asked.find({"id": {"$in": [ada.id, bob.id]}}).to_list(),
            asked.find({"$and": [{"rank": 0}, {"tenant": "acme"}]}).to_list(),
            asked.find({"tenant": "acme"}).first(),
            asked.find_one({"tenant": "acme"}),
            asked.find_one({"id": ada.id}),
            asked.load_many([ada.id]),
            asked.load_raw(ada.id),
            asked.update(ada.id, {"rank": 1}),
        ):
            with pytest.raises(IntegrityError, match="the server answered with") as caught:
                await call
            assert (caught.value.document_id, caught.value.collection) == (repr(eve.id), "customers")
        assert await asked.find({"tenant": "acme"}, on_invalid="skip").to_list() == [bob]
        assert await asked.find({"tenant": {"$lt": "f"}}).to_list() == [eve, eve, bob]  # a range is not checked


def with_shard(document: bytes, element: bytes) -> RawBSONDocument:
    """A document to whose end somebody has put an element of BSON, written by hand: what pymongo would not write."""
    body = document[4:-1] + element
    return RawBSONDocument((len(body) + 5).to_bytes(4, "little") + body + b"\0")


#: Values of the field ``tenant`` that cannot be read, or that do not match what pymongo writes once it has read them.
SHARDS = {
    "text": b"\x02tenant\0\x02\0\0\0\xff\0",
    "uuid": b"\x05tenant\0\x03\0\0\0\x04abc",
    "regex": b"\x0btenant\0^a\0i\0",
    "regex of unknown flags": b"\x0btenant\0^a\0q\0",
    "pointer": b"\x0ctenant\0\x02\0\0\0a\0" + b"\x01" * 12,
    "undefined": b"\x06tenant\0",
    "array with other positions": b"\x04tenant\0\x0c\0\0\0\x105\0\x07\0\0\0\0",
    "reference": b"\x03tenant\0\x23\0\0\0\x02$ref\0\x02\0\0\0a\0\x10$id\0\x01\0\0\0\x10$gt\0\x02\0\0\0\0",
    "a name twice": b"\x03tenant\0\x13\0\0\0\x10a\0\x01\0\0\0\x10a\0\x02\0\0\0\0",
}


@pytest.mark.parametrize("element", SHARDS.values(), ids=SHARDS)
async def test_a_shard_that_cannot_be_read(driver: Driver, database: Db, element: bytes) -> None:
    """What somebody has put there is no foreign error and no endless loop: the document is deleted, overwritten, or in conflict."""
    customers = driver.repository(Customer, shard_key=("tenant",))
    ada = await customers.save(Customer())
    hostile = with_shard(bson.encode({"_id": ada.id}, codec_options=customers.inner._flows.collection.codec_options), element)
    for _ in range(2):
        database.customers.delete_one({"_id": ada.id})
        database.customers.insert_one(hostile)
        with pytest.raises(RevisionConflictError):
            await customers.save(Customer(id=ada.id), revision=customers.revision(ada))
        ada = await customers.save(ada, overwrite=True)
        assert await customers.load(ada.id) == ada
    database.customers.delete_one({"_id": ada.id})
    database.customers.insert_one(hostile)
    assert await customers.delete(ada.id) is True
    assert await customers.delete(ada.id) is False
    assert database.customers.count_documents({}) == 0


@pytest.mark.parametrize("element", SHARDS.values(), ids=SHARDS)
async def test_a_shard_that_cannot_be_read_in_a_transaction(driver: Driver, database: Db, element: bytes) -> None:
    """Nor does the attempt end the transaction, as an insert over a document that is there would."""
    customers = driver.repository(Customer, shard_key=("tenant",))
    ada, bob = Customer(), Customer()
    options = customers.inner._flows.collection.codec_options
    database.customers.insert_many(with_shard(bson.encode({"_id": each.id}, codec_options=options), element) for each in (ada, bob))
    async with driver.transaction() as session:
        await customers.save(ada, overwrite=True, session=session)
        assert await customers.delete(bob.id, session=session) is True
    assert await customers.find().to_list() == [ada]


async def test_delete_of_a_revision_whose_shard_somebody_edited(driver: Driver, database: Db) -> None:
    """The revision is the one that was named: deleted, and no conflict; another one still is."""
    customers = driver.repository(Customer, shard_key=("tenant",))
    ada = await customers.save(Customer())
    (raw,) = raw_documents(database)
    sealed = raw.raw.replace(b"\x02tenant\0\x05\0\0\0acme\0", b"")
    database.customers.replace_one({}, with_shard(sealed, SHARDS["pointer"]))
    with pytest.raises(RevisionConflictError, match="not deleted"):
        await customers.delete(ada.id, revision="0" * 64)
    assert await customers.delete(ada.id, revision=customers.revision(ada)) is True


async def test_dates_beyond_those_of_python_can_be_saved_again(driver: Driver) -> None:
    """In UTC the first day of the year 1 is in the year 0 for a zone to the east: pymongo is not asked to make a date of it."""
    items = driver.repository(Item)
    item = await items.save(Item(at=datetime.fromisoformat("0001-01-01T00:00:00+10:00")))
    await items.save(item)
    assert (await items.load(item.id)).at == item.at


async def test_distinct_gives_whatever_the_server_says(driver: Driver, database: Db) -> None:
    """Values that no field could hold come as they are, and are no foreign error."""
    items = driver.repository(Item)
    await items.save(Item())
    for stored, name in ((2**62, "took"), (1e300, "took"), ({"$ref": 5, "$id": 1}, "place")):
        database.customers.update_one({}, [{"$set": {name: {"$literal": stored}}}])
        assert len(await items.distinct(name)) == 1


@pytest.mark.parametrize("said", [SECRET, -3, -3.7, 3.5, float("nan"), True, None, [1]], ids=repr)
async def test_a_number_of_documents_that_is_none(driver: Driver, monkeypatch: pytest.MonkeyPatch, said: Any) -> None:
    """What the server says in its place is no foreign error, and is not repeated."""
    customers = driver.repository(Customer)
    answers = {"count_documents": said, "delete_many": DeleteResult({"n": said}, acknowledged=True)}
    monkeypatch.setattr(customers.inner._flows, "collection", Lying(answers))
    for call in (customers.count, customers.delete_many):
        with pytest.raises(MalformedEnvelopeError, match="no number of documents") as caught:
            await call({})
        assert (caught.value.__context__, caught.value.collection) == (None, "customers")
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize("said", [3, 3.0, Int64(3)], ids=repr)
async def test_a_number_of_documents_of_any_kind(driver: Driver, monkeypatch: pytest.MonkeyPatch, said: Any) -> None:
    """BSON has three kinds of whole numbers, of which Python makes an int."""
    customers = driver.repository(Customer)
    monkeypatch.setattr(customers.inner._flows, "collection", Lying({"count_documents": said}))
    count = await customers.count()
    assert (count, type(count)) == (3, int)


@pytest.mark.parametrize("said", [SECRET, 5, None, {SECRET: 1}], ids=repr)
async def test_distinct_values_that_are_no_list(driver: Driver, monkeypatch: pytest.MonkeyPatch, said: Any) -> None:
    """The server's text is not given letter by letter, and nothing of it is repeated."""
    customers = driver.repository(Customer)
    monkeypatch.setattr(customers.inner._flows, "collection", Lying({"distinct": said}))
    with pytest.raises(MalformedEnvelopeError, match="no list") as caught:
        await customers.distinct("tenant")
    assert (caught.value.__context__, caught.value.collection) == (None, "customers")


class Lying:
    """A collection of a server that answers what it likes: results by the names of the driver's methods."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: self if name == "with_options" else self.answers[name]


async def test_a_filter_value_that_no_field_could_hold(driver: Driver) -> None:
    """A dict that every client takes for a reference, and a position with digits that are no numbers: QueryError."""
    items = driver.repository(Item)
    for where in ({"place": {"$eq": {"$ref": "a", "$id": "b"}}}, {"tags.²": "a"}, {"tags." + "9" * 5000: "a"}):
        with pytest.raises(QueryError):
            items.find(where)
