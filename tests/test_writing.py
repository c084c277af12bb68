"""The flows that write, where there are blind indexes and a guard: what is refused, by whom, and how it is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from conftest import Driver
from pydantic import AfterValidator, BaseModel
from pymongo.database import Database

from mongo_envelope import (
    BlindIndex,
    Bucket,
    DuplicateValueError,
    IntegrityError,
    Queryable,
    QueryError,
    RepositoryError,
    RevisionConflictError,
    Sensitive,
    reading,
)

Db = Database[dict[str, Any]]


class Person(BaseModel):
    id: int
    tenant: Annotated[str, Queryable(name="t")] = "acme"
    email: Annotated[str | None, Sensitive(index=BlindIndex(normalize="email", unique=True))] = None
    badge: Annotated[str | None, Sensitive(index=BlindIndex(within=("tenant",), unique=True, name="b"))] = None
    phones: Annotated[list[str], Sensitive(index=BlindIndex(unique=True))] = []
    age: Annotated[int, Sensitive(index=Bucket(width=10))] = 0
    notes: str = ""


async def with_people(driver: Driver) -> Any:
    people = driver.repository(Person)
    await people.setup()
    await people.save(Person(id=1, email="ada@example.com", badge="7", phones=["1", "2"]))
    return people


async def changed(people: Any, model: Any) -> Any:
    """Load what is there, and save it with other values."""
    loaded = await people.load(2)
    for name in model.model_fields_set - {"id"}:
        setattr(loaded, name, getattr(model, name))
    return await people.save(loaded)


#: How a model reaches the server, and what the call is given.
SAVES: dict[str, Callable[[Any, Any], Any]] = {
    "save": lambda people, model: people.save(model),
    "overwrite": lambda people, model: people.save(model, overwrite=True),
    "save_many": lambda people, model: people.save_many([model]),
    "update": lambda people, model: people.update(2, model.model_dump(exclude={"id"}, exclude_unset=True)),
    "save of a loaded one": changed,
}


@pytest.mark.parametrize("how", SAVES)
@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"email": "ADA@example.com"}, "email"),
        ({"badge": "7"}, "tenant and badge"),
        ({"phones": ["3", "2"]}, "phones"),
        ({"t": "acme", "email": "bob@example.com", "age": 5, "notes": "n", "phones": ["1"]}, "phones"),
    ],
    ids=["one field", "within another", "an element", "among others"],
)
async def test_a_duplicate_of_a_unique_blind_index(driver: Driver, how: str, given: dict[str, Any], named: str) -> None:
    """The error names the model's fields, whatever the index is called, and no value; nothing is written."""
    people = await with_people(driver)
    if how in ("update", "save of a loaded one"):
        await people.save(Person(id=2))
    before = [each.model_dump() for each in await people.find().to_list()]
    given = {"tenant" if name == "t" else name: value for name, value in given.items()}
    with pytest.raises(DuplicateValueError, match=f"another document has the same {named}, and the index is unique") as caught:
        await SAVES[how](people, Person(id=2, **given))
    assert caught.value.document_id == "2"
    assert "example" not in str(caught.value)
    assert caught.value.__context__ is None
    assert [each.model_dump() for each in await people.find().to_list()] == before


async def test_a_duplicate_of_a_compound_index(driver: Driver, database: Db) -> None:
    """One that somebody made by hand, on a field in the clear and a blind one: both are named as the model does."""
    people = driver.repository(Person)
    database.customers.create_index([("t", 1), ("idx.email", 1)], unique=True)
    await people.save(Person(id=1, email="ada@example.com"))
    await people.save(Person(id=2, email="ada@example.com", tenant="globex"))
    with pytest.raises(DuplicateValueError, match="the same tenant and email"):
        await people.save(Person(id=3, email="ada@example.com"))


async def test_a_unique_index_and_what_is_not_there(driver: Driver) -> None:
    """Any number of documents may have no value, and an empty list; a badge is unique for each tenant, not for all."""
    people = await with_people(driver)
    await people.save_many([Person(id=number) for number in range(2, 6)])
    await people.save(Person(id=6, badge="7", tenant="globex"))
    await people.update(1, {"email": None, "phones": []})
    await people.save(Person(id=7, email="ada@example.com", phones=["1", "2"]))
    await people.update(7, {"phones": ["2", "1", "1"]})  # with itself no document is in conflict
    assert await people.count() == 7


class Located(Person):
    """`Person`, of another version."""

    city: Annotated[str, Queryable()] = "Riga"


@pytest.mark.parametrize("how", SAVES)
async def test_a_save_that_the_guard_refuses(driver: Driver, how: str) -> None:
    """The error has the way out and nothing of the document; after `setup` the same instance is saved."""
    people, newer = await with_people(driver), driver.repository(Located)
    if how in ("update", "save of a loaded one"):
        await people.save(Person(id=2))
    before = [each.model_dump() for each in await people.find().to_list()]
    model = Located(id=2, city="Windhoek")
    with pytest.raises(RepositoryError, match=r"not saved: the collection's validator .* setup\(\) brings it up to date") as caught:
        await SAVES[how](newer, model)
    assert type(caught.value) is RepositoryError
    assert (caught.value.document_id, caught.value.collection) == ("2", "customers")
    assert "Windhoek" not in str(caught.value)
    assert caught.value.__context__ is None
    assert [each.model_dump() for each in await people.find().to_list()] == before
    assert await newer.setup() == ["guard"]
    await SAVES[how](newer, model)
    assert (await newer.find_one({"city": "Windhoek"})).id == 2


async def test_a_batch_that_the_guard_refuses(driver: Driver, database: Db) -> None:
    """It stops at the first document that is refused, and says how many were saved before; these can be saved again."""
    people = driver.repository(Person)
    await people.setup()
    database.command("collMod", "customers", validator={"$and": [{"t": {"$ne": "globex"}}, people.inner.guard()]})
    batch = [Person(id=1), Person(id=2), Person(id=3, tenant="globex"), Person(id=4)]
    with pytest.raises(RepositoryError, match="the 2 before it were saved") as caught:
        await people.save_many(batch)
    assert caught.value.document_id == "3"
    batch[2].tenant = "acme"
    await people.save_many(batch)
    assert await people.count() == 4


async def test_a_refused_save_changes_nothing_of_what_is_remembered(driver: Driver) -> None:
    """A loaded instance that was refused is still of the revision that it was loaded with; a new one is still new."""
    people = await with_people(driver)
    loaded, new = await people.load(1), Person(id=2, email="ada@example.com")
    revision = people.revision(loaded)
    await people.save(Person(id=3, email="bob@example.com"))
    loaded.email = "bob@example.com"
    for model in (loaded, new):
        with pytest.raises(DuplicateValueError):
            await people.save(model)
    assert people.revision(loaded) == revision
    loaded.email, new.email = "eve@example.com", "ada@example.com"
    await people.save(loaded)
    await people.save(new)
    with pytest.raises(RevisionConflictError):
        await people.save(Person(id=2))


# --- delete_many ------------------------------------------------------------------------------------------------------


async def test_delete_many_by_a_blind_index(driver: Driver) -> None:
    """The server deletes what its index finds; how many there were."""
    people = await with_people(driver)
    await people.save(Person(id=2, email="bob@example.com", phones=["3"]))
    assert await people.delete_many({"email": "ADA@example.com"}) == 1
    assert await people.delete_many({"phones": {"$in": ["1", "2"]}}) == 0
    assert [each.id for each in await people.find().to_list()] == [2]


async def test_delete_many_of_what_has_to_be_sifted(driver: Driver) -> None:
    """Exactly what was meant, of all that the server finds, also where the shard is named."""
    people = driver.repository(Person, shard_key=["tenant"])
    await people.save_many([Person(id=number, age=number, tenant="ab"[number % 2]) for number in range(30)])
    assert await people.delete_many({"age": {"$gt": 3, "$lte": 27}, "tenant": "a"}) == 12
    assert await people.count() == 18
    assert await people.delete_many({"age": {"$not": {"$gte": 2, "$lt": 28}}}) == 4
    assert await people.delete_many({"age": {"$gte": 100, "$lt": 110}}) == 0
    assert sorted(each.id for each in await people.find().to_list()) == [2, *range(3, 28, 2)]
    with pytest.raises(QueryError, match="takes a filter"):
        await people.delete_many(None)


async def test_what_changes_while_it_is_sifted_is_not_deleted(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is deleted at the revision that was looked at: it may be another one's by now, and not meant any more."""
    people, real = driver.repository(Person), reading.Reading.next
    await people.save_many([Person(id=number, age=number) for number in range(5)])

    async def slow(flows: Any, found: Any) -> Any:
        model = await real(flows, found)
        if getattr(model, "id", None) == 2:
            await people.update(2, {"age": 50})
        return model

    monkeypatch.setattr(reading.Reading, "next", slow)
    assert await people.delete_many({"age": {"$gte": 1, "$lte": 9}}) == 3
    monkeypatch.undo()
    assert [each.age for each in await people.find(sort="id").to_list()] == [0, 50]


async def test_what_does_not_open_is_not_deleted(driver: Driver, database: Db) -> None:
    """Whether it was meant nobody can tell: it raises, and is still there."""
    people = driver.repository(Person)
    await people.save_many([Person(id=number, age=number) for number in range(3)])
    database.customers.update_one({"_id": 0}, {"$set": {"t": "edited"}})
    with pytest.raises(IntegrityError):
        await people.delete_many({"age": {"$gte": 0, "$lte": 9}})
    assert database.customers.count_documents({"_id": 0}) == 1


async def test_delete_many_in_a_transaction(driver: Driver) -> None:
    """What is sifted is read and deleted in it, and is there again when it is aborted."""
    people = driver.repository(Person)
    await people.save_many([Person(id=number, age=number) for number in range(3)])
    async with driver.transaction(commit=False) as session:
        await people.save(Person(id=9, age=9), session=session)
        assert await people.delete_many({"age": {"$gte": 1, "$lte": 9}}, session=session) == 3
    assert await people.count() == 3


class Lowered(BaseModel):
    id: int
    mail: Annotated[str, AfterValidator(str.lower), Sensitive(index=BlindIndex(unique=True))]


async def test_what_is_indexed_is_what_will_be_loaded(driver: Driver) -> None:
    """A value that was assigned past its validator is found by what the validator makes of it, and held unique by that."""
    people = driver.repository(Lowered)
    await people.setup()
    ada = Lowered(id=1, mail="ada")
    ada.mail = "ADA"
    await people.save(ada)
    found = await people.find_one({"mail": "Ada"})
    assert (found.id, found.mail) == (1, "ada")
    assert await people.verify() == 1
    with pytest.raises(DuplicateValueError, match="the same mail"):
        await people.save(Lowered(id=2, mail="ada"))
