"""Looking after a whole collection: `reindex`, `search_by` and `retire_index_key`, `verify`, `doctor`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

import pytest
from bson import Int64
from bson.raw_bson import RawBSONDocument
from conftest import Driver, saved
from pydantic import BaseModel
from pymongo.database import Database
from pymongo.errors import BulkWriteError

from mongo_envelope import (
    BlindIndex,
    Bucket,
    ConfigurationError,
    DataKey,
    DuplicateValueError,
    EnvelopeError,
    Finding,
    IndexKey,
    IntegrityError,
    KeyRing,
    MalformedEnvelopeError,
    PayloadError,
    Queryable,
    QueryError,
    RepositoryError,
    Sensitive,
    UnknownKeyError,
    envelope,
    upkeep,
)

Db = Database[dict[str, Any]]

#: How an index key takes the place of another: docs/querying.md has the steps.
OLD = KeyRing([DataKey.generate("data")], index_keys=[IndexKey.generate("old")])
BOTH = OLD.with_index_key(IndexKey.generate("new"))
SEARCHING = BOTH.searching_by("new")
ALONE = SEARCHING.writing_only("new")
LAST = ALONE.without_index_key("old")


class Person(BaseModel):
    """As it is now."""

    id: int
    tenant: Annotated[str, Queryable()] = "acme"
    email: Annotated[str | None, Sensitive(index=BlindIndex(normalize="email"))] = None
    notes: str = ""


class Before(BaseModel):
    """`Person`, before it had an index."""

    id: int
    tenant: Annotated[str, Queryable()] = "acme"
    email: str | None = None
    notes: str = ""


class Phones(Person):
    """`Person`, with another index."""

    phones: Annotated[list[str], Sensitive(index=BlindIndex())] = ["1"]


class Unique(BaseModel):
    """`Person`, whose e-mail addresses shall be unique."""

    id: int
    tenant: Annotated[str, Queryable()] = "acme"
    email: Annotated[str | None, Sensitive(index=BlindIndex(normalize="email", unique=True))] = None
    notes: str = ""


def several(model: Any = Person, count: int = 5) -> list[Any]:
    return [model(id=number, email=f"{number}@example.com", notes=f"note {number}") for number in range(count)]


def kids(database: Db) -> list[Any]:
    """The index keys of each document, by its id."""
    return [each.get("idx", {}).get("kid") for each in database.customers.find(sort=[("_id", 1)])]


def tags(database: Db) -> list[bytes]:
    return [each["hmac"] for each in database.customers.find(sort=[("_id", 1)])]


def sealed_otherwise(database: Db, keys: KeyRing, identity: int = 0, **metadata: Any) -> None:
    """What a holder of the keys can do: seal a document with other values in the clear than those that belong to its content."""
    collection: Any = database.customers.with_options(envelope.CODEC_OPTIONS.with_options(document_class=RawBSONDocument))
    document, payload = envelope.open(collection.find_one({"_id": identity}).raw, keys=keys, context="customers")
    kept = {name: value for name, value in document.items() if name in ("_id", "idx") or name not in envelope.RESERVED}
    collection.replace_one(
        {"_id": identity}, RawBSONDocument(envelope.seal(kept | metadata, payload, keys=keys, context="customers"))
    )


# --- reindex ----------------------------------------------------------------------------------------------------------


async def test_reindex_writes_what_was_saved_before_there_was_an_index(driver: Driver, database: Db) -> None:
    """Each document is found by its field, and is what it was; a second time there is nothing to be done."""
    before = await saved(driver.repository(Before, keys=OLD), several(Before))
    people = driver.repository(Person, keys=OLD)
    assert await people.count({"email": "1@example.com"}) == 0
    assert await people.reindex() == 5
    assert kids(database) == ["old"] * 5
    assert [each.model_dump() for each in await people.find(sort="id").to_list()] == [each.model_dump() for each in before]
    assert [each.id for each in await people.find({"email": "1@EXAMPLE.com"}).to_list()] == [1]
    assert await people.verify() == 5
    written = tags(database)
    assert await people.reindex() == 0
    assert tags(database) == written


async def test_reindex_follows_the_written_keys(driver: Driver, database: Db) -> None:
    """From one index key to two, and from two to the other one: the values of the old one are gone."""
    await driver.repository(Person, keys=OLD).save_many(several())
    single = database.customers.find_one({"_id": 1})["idx"]["email"]  # type: ignore[index]  # it is there
    assert await driver.repository(Person, keys=BOTH).reindex() == 5
    assert kids(database) == [["new", "old"]] * 5
    for keys in (OLD, BOTH, SEARCHING):
        assert await driver.repository(Person, keys=keys).count({"email": "1@example.com"}) == 1
    assert await driver.repository(Person, keys=ALONE).reindex() == 5
    assert kids(database) == ["new"] * 5
    assert database.customers.count_documents({"idx.email": single}) == 0
    assert await driver.repository(Person, keys=LAST).verify() == 5


async def test_reindex_of_every_document(driver: Driver) -> None:
    """A model got another index: what lacks it is found by neither a condition nor its negation, until it is sealed anew."""
    await driver.repository(Person, keys=OLD).save_many(several())
    people = driver.repository(Phones, keys=OLD)
    assert await people.count({"phones": "1"}) == await people.count({"phones": {"$ne": "1"}}) == 0
    assert await people.delete_many({"phones": {"$nin": ["1"]}}) == 0
    assert "not searchable" in [each.kind for each in await people.doctor()]
    with pytest.raises(IntegrityError, match=r"blind index phones do not agree .* reindex\(every=True\)"):
        await people.verify()
    assert await people.reindex() == 5
    assert await people.reindex(every=True) == 5
    assert await people.count({"phones": "1"}) == await people.verify() == 5


async def test_the_progress_of_reindex(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each batch, and at the end, how many are done and to be done: to a function, which may wait where there is a loop."""
    monkeypatch.setattr(upkeep, "_BATCH", 2)
    people, seen = driver.repository(Person, keys=OLD), []

    async def progress(done: int, total: int) -> None:
        seen.append((done, total, await people.count({"email": {"$in": [f"{number}@example.com" for number in range(5)]}})))

    await driver.repository(Before, keys=OLD).save_many(several(Before))
    assert await people.reindex(on_progress=driver.function(progress)) == 5
    assert seen == [(2, 5, 2), (4, 5, 4), (5, 5, 5)]
    if not driver.is_async:
        with pytest.raises(QueryError, match="a coroutine function cannot be waited for here"):
            await people.reindex(on_progress=progress)


async def planted(driver: Driver, database: Db) -> None:
    """Five documents without index values, of which only the last is in order."""
    await driver.repository(Before, keys=OLD).save_many(several(Before))
    database.customers.update_one({"_id": 0}, {"$set": {"tenant": "globex"}})
    database.customers.replace_one({"_id": 1}, {"email": "1@example.com"})
    database.customers.update_one({"_id": 2}, {"$set": {"kid": "unknown"}})
    database.customers.delete_one({"_id": 3})
    await driver.repository(Numbers, keys=OLD).save(Numbers(id=3))


class Numbers(BaseModel):
    id: int
    email: int = 5


async def test_reindex_stops_at_what_is_wrong(driver: Driver, database: Db) -> None:
    """With the document's id, unless it is told otherwise; and then it has written nothing of it."""
    await planted(driver, database)
    for keep in ({0, 4}, {1, 4}, {2, 4}, {3, 4}):
        database.aside.drop()
        database.customers.aggregate([{"$match": {"_id": {"$in": list(keep)}}}, {"$out": "aside"}])
        people = driver.repository(Person, driver.collection("aside"), context="customers", keys=OLD)
        before = list(database.aside.find({"_id": {"$ne": 4}}))
        with pytest.raises((EnvelopeError, UnknownKeyError)) as caught:
            await people.reindex()
        assert caught.value.document_id == repr(min(keep))
        assert caught.value.collection == "aside"
        assert list(database.aside.find({"_id": {"$ne": 4}})) == before


async def test_reindex_and_what_is_wrong(driver: Driver, database: Db) -> None:
    """Passed over, or told to a function, which may wait where there is a loop: each once. What is wrong stays as it is."""
    await planted(driver, database)
    people, told, before = driver.repository(Person, keys=OLD), [], tags_but(database, 4)

    async def tell(error: Exception) -> None:
        told.append(error)

    assert await people.reindex(on_invalid=driver.function(tell)) == 1
    assert [type(each) for each in told] == [IntegrityError, MalformedEnvelopeError, UnknownKeyError, PayloadError]
    assert [each.document_id for each in told] == ["0", "1", "2", "3"]
    assert await people.reindex(on_invalid="skip") == 0
    assert tags_but(database, 4) == before
    with pytest.raises(QueryError, match='on_invalid is "raise", "skip", or a function'):
        await people.reindex(on_invalid="ignore")


def tags_but(database: Db, identity: int) -> list[Any]:
    return [each.get("hmac") for each in database.customers.find({"_id": {"$ne": identity}}, sort=[("_id", 1)])]


async def test_a_value_that_the_normaliser_refuses(driver: Driver) -> None:
    """It was saved before there was an index, and reindex names the field and not the value."""
    await driver.repository(Before, keys=OLD).save_many(several(Before, 2))
    people = driver.repository(Picky, keys=OLD)
    with pytest.raises(PayloadError, match="Picky: not saved: email: its normaliser raised ValueError") as caught:
        await people.reindex()
    assert "example" not in str(caught.value)
    assert caught.value.__context__ is None


def picky(value: str) -> str:
    raise ValueError(value)


class Picky(BaseModel):
    id: int
    tenant: Annotated[str, Queryable()] = "acme"
    email: Annotated[str | None, Sensitive(index=BlindIndex(normalize=picky, normalize_id="picky"))] = None
    notes: str = ""


async def test_a_writer_in_between_is_not_overwritten(driver: Driver, database: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither one that still writes under the old key alone, whose document is done in the next pass, nor one that deletes."""
    await driver.repository(Person, keys=OLD).save_many(several())
    others, times, real = driver.repository(Person, keys=OLD), [], upkeep.Upkeep._write_batch

    async def after_another(flows: Any, *given: Any) -> Any:
        if not times:
            await others.update(1, {"email": "new@example.com", "notes": "changed"})
            await others.delete(2)
        times.append(given)
        return await real(flows, *given)

    monkeypatch.setattr(upkeep.Upkeep, "_write_batch", after_another)
    people = driver.repository(Person, keys=BOTH)
    assert await people.reindex() == 4
    assert len(times) == 2
    assert kids(database) == [["new", "old"]] * 4
    assert [each.notes async for each in people.find({"email": "new@example.com"})] == ["changed"]
    assert await people.verify() == 4


async def test_a_pass_in_which_others_were_faster_is_not_the_last(
    driver: Driver, database: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody moves all documents to another data key meanwhile: nothing was done by us, and everything is left to do."""
    await driver.repository(Person, keys=OLD).save_many(several())
    mover, times, real = driver.repository(Person, keys=OLD.with_key(DataKey.generate())), [], upkeep.Upkeep._write_batch

    async def after_another(flows: Any, *given: Any) -> Any:
        if flows is not mover.inner._flows and not times:
            times.append(given)
            assert await mover.rotate() == 5
        return await real(flows, *given)

    monkeypatch.setattr(upkeep.Upkeep, "_write_batch", after_another)
    ring = mover.inner._flows.codec.keys
    people = driver.repository(Person, keys=ring.with_index_key(BOTH.index_key("new")))
    assert await people.reindex() == 5
    assert kids(database) == [["new", "old"]] * 5


async def test_reindex_goes_on_where_it_was_stopped(driver: Driver, database: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a function of the caller's raises goes through; what was written stays, and is not written again."""
    monkeypatch.setattr(upkeep, "_BATCH", 2)
    await driver.repository(Before, keys=OLD).save_many(several(Before))
    people = driver.repository(Person, keys=OLD)

    async def stop(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await people.reindex(on_progress=driver.function(stop))
    assert kids(database).count("old") == 2
    first = tags(database)
    assert await people.reindex() == 3
    assert sum(one == other for one, other in zip(first, tags(database), strict=True)) == 2
    assert await people.verify() == 5


class InTheClear(BaseModel):
    id: int
    tenant: Annotated[str, Queryable()] = "acme"
    email: Annotated[str | None, Queryable()] = None
    notes: str = ""


async def test_a_field_that_stands_in_the_clear_and_is_sensitive_now(driver: Driver, database: Db) -> None:
    """It is refused, with the way out, and nothing is lost: load and save moves it, and then it is found."""
    await driver.repository(InTheClear, keys=OLD).save_many(several(InTheClear))
    people, before = driver.repository(Person, keys=OLD), list(database.customers.find())
    with pytest.raises(
        PayloadError, match=r"email stands in the clear, where the model does not have it .* load and save .*_id 0\]"
    ):
        await people.reindex()
    assert await people.reindex(on_invalid="skip") == 0
    assert list(database.customers.find()) == before
    for each in await people.find().to_list():
        await people.save(each)
    assert not database.customers.count_documents({"email": {"$exists": True}})
    assert await people.reindex() == 0
    assert await people.count({"email": "3@example.com"}) == 1
    assert await people.verify() == 5


class Located(Person):
    """`Person`, when it had one field more in the clear."""

    city: Annotated[str, Queryable()] = "Riga"


async def test_a_field_in_the_clear_that_the_model_dropped(driver: Driver, database: Db) -> None:
    """It is not dropped behind somebody's back, and its documents are told of: load and save drops it."""
    await driver.repository(Located, keys=OLD).save_many(several(Located, 3))
    people = driver.repository(Person, keys=BOTH)
    await people.save(Person(id=3))
    await people.setup()
    with pytest.raises(PayloadError, match=r"city stands in the clear.* load and save .*_id 0\]"):
        await people.reindex()
    assert await people.reindex(on_invalid="skip") == 0
    for each in await people.find().to_list():
        await people.save(each)
    assert not database.customers.count_documents({"city": {"$exists": True}})
    assert await people.doctor() == []


async def test_reindex_meets_a_unique_index(driver: Driver, database: Db) -> None:
    """Two that were alike before there was an index: the field and the document are named, and no value; the others are written."""
    before = [*several(Before, 3), Before(id=3, email="1@EXAMPLE.com")]
    await driver.repository(Before, keys=OLD).save_many(before)
    people = driver.repository(Unique, keys=OLD)
    await people.setup()
    with pytest.raises(DuplicateValueError, match="another document has the same email, and the index is unique") as caught:
        await people.reindex()
    assert caught.value.document_id == "3"
    assert caught.value.__context__ is None
    assert kids(database) == ["old", "old", "old", None]
    await people.update(3, {"email": "3@example.com"})
    assert await people.reindex() == 0


async def test_reindex_before_setup(driver: Driver, database: Db) -> None:
    """The guard of a model without an index takes no index values: said as for a save, and nothing is changed."""
    before = driver.repository(Before, keys=OLD)
    await before.save_many(several(Before))
    await before.setup()
    people, written = driver.repository(Person, keys=OLD), tags(database)
    with pytest.raises(RepositoryError, match="its guard is of another version of the model, and setup") as caught:
        await people.reindex()
    assert caught.value.__context__ is None
    assert tags(database) == written
    await people.setup()
    assert await people.reindex() == 5


async def test_what_the_server_refuses_for_another_reason(driver: Driver, database: Db) -> None:
    """It is pymongo's own error: here an index by hand that does not take what stands in the clear."""
    await driver.repository(Before, keys=OLD).save_many(several(Before))
    database.customers.create_index([("tenant", "2dsphere")], partialFilterExpression={"idx.kid": "old"})
    with pytest.raises(BulkWriteError):
        await driver.repository(Person, keys=OLD).reindex()


async def test_reindex_without_an_index(driver: Driver) -> None:
    """There is nothing to be written: said, because somebody expects it."""
    with pytest.raises(ConfigurationError, match="Before has no blind index"):
        await driver.repository(Before, keys=OLD).reindex()


async def test_reindex_in_a_transaction_and_with_a_shard_key(driver: Driver, database: Db) -> None:
    """What is aborted is not written; a document is found by its shard key, whatever stands in it."""
    await driver.repository(Before, keys=OLD).save_many(several(Before))
    people = driver.repository(Person, keys=OLD, shard_key=["tenant"])
    for commit, done in ((False, None), (True, "old")):
        async with driver.transaction(commit=commit) as session:
            assert await people.reindex(session=session) == 5
        assert kids(database) == [done] * 5


# --- one index key after another --------------------------------------------------------------------------------------


async def test_an_index_key_takes_the_place_of_another(driver: Driver, database: Db) -> None:
    """Each step is refused, with the number of documents, until the one before it is done; then it gives the ring to publish."""
    await driver.repository(Person, keys=OLD).save_many(several(count=3))
    writing = driver.repository(Person, keys=BOTH)
    await writing.save(Person(id=3))
    with pytest.raises(ConfigurationError, match=r"^customers: 3 documents have no index values under new, .* reindex\(\)"):
        await writing.search_by("new")
    await writing.reindex()
    searching = await writing.search_by("new")
    assert (searching.search_key, searching.written_index_keys) == ("new", ("new", "old"))
    alone = driver.repository(Person, keys=searching.writing_only("new"))
    with pytest.raises(ConfigurationError, match=r"^customers: 4 documents have index values under old\. reindex\(\)"):
        await alone.retire_index_key("old")
    await alone.reindex()
    last = await alone.retire_index_key("old")
    assert (last.index_keys, last.search_key, last.written_index_keys) == (("new",), "new", ("new",))
    people = driver.repository(Person, keys=last)
    assert await people.count({"email": "1@example.com"}) == 1
    assert (await people.verify(), kids(database)) == (4, ["new"] * 4)


async def test_a_step_that_makes_no_sense(driver: Driver, database: Db) -> None:
    """A key that is not there, or still written, is refused before anything is asked; a plaintext document counts."""
    people = driver.repository(Person, keys=BOTH)
    for step, kid, problem in (
        (people.search_by, "other", "other"),
        (people.retire_index_key, "other", "other"),
        (people.retire_index_key, "new", "values are still written under the index key new"),
    ):
        with pytest.raises(ConfigurationError, match=problem):
            await step(kid)
    database.customers.insert_one({"email": "1@example.com"})
    with pytest.raises(ConfigurationError, match="1 documents have no index values under new"):
        await people.search_by("new")


# --- verify -----------------------------------------------------------------------------------------------------------


class Dated(BaseModel):
    id: int
    tenant: Annotated[str, Queryable()] = "acme"
    at: Annotated[datetime, Queryable()] = datetime(2020, 1, 1, microsecond=500, tzinfo=UTC)
    email: Annotated[str | None, Sensitive(index=BlindIndex(normalize="email"))] = None
    salary: Annotated[int, Sensitive(index=Bucket(width=1000))] = 0


async def test_verify_counts_what_is_right(driver: Driver) -> None:
    """Of all, and of a filter; of one that has to be sifted, what was meant."""
    people = driver.repository(Dated)
    await people.save_many([Dated(id=n, tenant="ab"[n % 2], email=f"{n}@b", salary=500 * n) for n in range(6)])
    for where, right in ((None, 6), ({"tenant": "a"}, 3), ({"email": "1@B"}, 1), ({"salary": {"$gte": 0, "$lte": 1500}}, 4)):
        assert await people.verify(where) == right


@pytest.mark.parametrize(
    ("planted", "named"),
    [
        (
            {"idx": {"kid": "old", "email": b"\0" * 16, "salary_bucket": b"\0" * 16}},
            "the blind index email and salary_bucket do not",
        ),
        ({"idx": {"kid": "old"}}, "the blind index email and salary_bucket do not"),
        ({"at": datetime(2020, 1, 1, microsecond=1000, tzinfo=UTC)}, "at: what stands in the clear does not agree"),
        ({"at": None}, "at: what stands in the clear does not agree"),
    ],
    ids=["values", "no values", "a date", "None"],
)
async def test_verify_finds_what_a_holder_of_the_keys_has_sealed(
    driver: Driver, database: Db, planted: dict[str, Any], named: str
) -> None:
    """The tag is right, and what stands in the clear is not that of the content: the field is named, and the document."""
    people, told = driver.repository(Dated, keys=OLD), []
    await people.save_many([Dated(id=0, email="0@b"), Dated(id=1, email="1@b")])
    assert await people.verify() == 2
    sealed_otherwise(database, OLD, **planted)
    assert (await people.load(0)).email == "0@b"
    with pytest.raises(IntegrityError, match=named) as caught:
        await people.verify()
    assert (caught.value.document_id, caught.value.collection) == ("0", "customers")

    async def tell(error: Exception) -> None:
        told.append(error)

    assert await people.verify(on_invalid="skip") == await people.verify(on_invalid=driver.function(tell)) == 1
    assert [each.document_id for each in told] == ["0"]
    with pytest.raises(QueryError, match='on_invalid is "raise", "skip", or a function'):
        await people.verify(on_invalid="ignore")


async def test_verify_on_load(driver: Driver, database: Db) -> None:
    """With it, every call that loads does what `verify` does."""
    await driver.repository(Dated, keys=OLD).save(Dated(id=0, email="0@b"))
    strict = driver.repository(Dated, keys=OLD, verify_on_load=True)
    assert (await strict.load(0)).email == "0@b"
    sealed_otherwise(database, OLD, idx={"kid": "old", "email": b"\0" * 16})
    for call in (
        lambda: strict.load(0),
        lambda: strict.load_many([0]),
        lambda: strict.find_one({"tenant": "acme"}),
        lambda: strict.find().to_list(),
        lambda: strict.update(0, {"tenant": "b"}),
    ):
        with pytest.raises(IntegrityError, match="the values of the blind index email"):
            await call()
    assert (await strict.load_raw(0))["email"] == "0@b"  # not validated, and not verified in this sense


async def test_verify_on_load_while_an_index_key_is_replaced(driver: Driver, database: Db) -> None:
    """A process that does not have the new ring yet loads what others write under both keys, and checks what it can."""
    strict = driver.repository(Person, keys=OLD, verify_on_load=True)
    await driver.repository(Person, keys=BOTH).save(Person(id=0, email="0@b"))
    assert (await strict.load(0)).email == "0@b"
    idx = database.customers.find_one()["idx"]  # type: ignore[index]  # it is there
    sealed_otherwise(database, OLD, idx=idx | {"email": [b"\0" * 16, b"\1" * 16]})
    with pytest.raises(IntegrityError, match="the values of the blind index email"):
        await strict.load(0)


async def test_a_normaliser_that_changed_without_its_id(driver: Driver) -> None:
    """Documents are no longer found by what they hold, and nobody would notice: `verify` does."""

    def model(normalize: Callable[[str], str]) -> Any:
        class Person(BaseModel):
            id: int = 0
            email: Annotated[str, Sensitive(index=BlindIndex(normalize=normalize, normalize_id="mine"))] = "Ada"

        return Person

    before, after = driver.repository(model(str.lower)), driver.repository(model(str.upper))
    await before.save(before.codec.schema.model())
    assert (await before.count({"email": "ada"}), await after.count({"email": "ada"})) == (1, 0)
    with pytest.raises(IntegrityError, match="the values of the blind index email"):
        await after.verify()
    assert await after.reindex(every=True) == await after.verify() == 1


async def test_verify_and_what_does_not_open(driver: Driver, database: Db) -> None:
    """It is told like everywhere; index values under a key that is not there could not be checked, which is another error."""
    await planted(driver, database)
    people, told = driver.repository(Before, keys=OLD), []
    assert await people.verify(on_invalid=told.append) == 1
    assert [type(each) for each in told] == [IntegrityError, MalformedEnvelopeError, UnknownKeyError, PayloadError]
    database.customers.drop()
    await driver.repository(Person, keys=OLD).save(Person(id=0, email="0@b"))
    with pytest.raises(UnknownKeyError, match="index values under a key that is not in this ring") as caught:
        await driver.repository(Person, keys=LAST).verify()
    assert caught.value.document_id == "0"


# --- doctor -----------------------------------------------------------------------------------------------------------


async def test_doctor_of_nothing_and_of_what_is_well(driver: Driver, database: Db) -> None:
    """A collection that is not there yet is said; after `setup` and a few saves there is nothing to say."""
    people = driver.repository(Person, keys=OLD)
    assert [each.kind for each in await people.doctor()] == ["no collection"]
    await people.save_many(several())
    assert {each.kind for each in await people.doctor()} == {"no guard", "missing index"}
    await people.setup(indexes=["tenant"])
    assert await people.doctor(indexes=["tenant"]) == []
    database.customers.drop_index("tenant_1")
    [finding] = await people.doctor(indexes=["tenant"])
    assert finding == Finding("missing index", "tenant_1: setup() makes it")
    assert str(finding) == "missing index: tenant_1: setup() makes it"
    assert await people.doctor() == []


def edit(change: dict[str, Any]) -> Callable[[Db], Any]:
    """Somebody who may bypass the guard changes the last two documents."""
    return lambda database: database.customers.update_many({"_id": {"$gte": 3}}, change, bypass_document_validation=True)


#: What was done to two of five documents, and the kinds of what is found; the first is about exactly these.
PLANTED: dict[str, tuple[Callable[[Db], Any], list[str]]] = {
    "no tag": (edit({"$unset": {"hmac": ""}}), ["plaintext"]),
    "no data": (edit({"$unset": {"data": ""}}), ["not as the model is"]),
    "neither": (edit({"$unset": {"hmac": "", "data": "", "idx": ""}}), ["plaintext"]),
    "version": (edit({"$set": {"v": 2}}), ["version"]),
    "no version": (edit({"$unset": {"v": ""}}), ["version"]),
    "unknown key": (edit({"$set": {"kid": "unknown"}}), ["unknown key"]),
    "a name": (edit({"$set": {"city": "Riga"}}), ["not as the model is"]),
    "a type": (edit({"$set": {"tenant": 5}}), ["not as the model is"]),
    "a sensitive field": (edit({"$set": {"email": "ada@example.com"}}), ["not as the model is"]),
    "a short tag": (edit({"$set": {"hmac": b"short"}}), ["not as the model is"]),
    "a long 1": (edit({"$set": {"v": Int64(1)}}), ["not as the model is"]),
    "retired index key": (edit({"$set": {"idx.kid": "gone"}}), ["retired index key", "not searchable"]),
    "two retired ones": (edit({"$set": {"idx.kid": ["gone", "going"]}}), ["retired index key", "not searchable"]),
    "no index values": (edit({"$unset": {"idx": ""}}), ["not searchable"]),
    "under another key, too": (edit({"$set": {"idx.kid": ["gone", "old"]}}), ["retired index key"]),
    "one in an array": (edit({"$set": {"idx.kid": ["old"]}}), ["index values"]),
}


@pytest.mark.parametrize("what", PLANTED)
async def test_doctor_finds_what_was_planted(driver: Driver, database: Db, what: str) -> None:
    """Each by its kind, with the number and the ids of the documents; after they have been written anew nothing is left."""
    people, (plant, kinds) = driver.repository(Person, keys=OLD), PLANTED[what]
    models = await saved(people, several())
    await people.setup()
    plant(database)
    findings = await people.doctor()
    assert [each.kind for each in findings] == kinds
    assert [(each.count, each.examples) for each in findings] == [(2, (3, 4))] * len(kinds)
    assert str(findings[0]).startswith(f"{kinds[0]} (2): ")
    for each in models[3:]:
        await people.save(each, overwrite=True)
    assert await people.doctor() == []


async def test_doctor_while_an_index_key_is_replaced(driver: Driver, database: Db) -> None:
    """Before `reindex` the documents of the step before are counted, afterwards nothing is found."""
    steps = [(OLD, []), (BOTH, ["index values"]), (SEARCHING, []), (ALONE, ["index values"]), (LAST, [])]
    await driver.repository(Person, keys=OLD).save_many(several())
    for keys, kinds in steps:
        people = driver.repository(Person, keys=keys)
        await people.setup()
        assert [each.kind for each in await people.doctor()] == kinds
        await people.reindex()
        assert await people.doctor() == []
    hasty = driver.repository(Person, keys=OLD.with_index_key(IndexKey.generate("hasty")).searching_by("hasty"))
    assert [each.kind for each in await hasty.doctor()] == ["retired index key", "not searchable"]


async def test_doctor_and_the_guard(driver: Driver, database: Db) -> None:
    """One that is not there, that only warns, that lets pass what was wrong before, or that is of another model."""
    people = driver.repository(Person, keys=OLD)
    await people.save_many(several())
    await people.setup()
    for change, kind in (
        ({"validator": {}}, "no guard"),
        ({"validationAction": "warn"}, "no guard"),
        ({"validationLevel": "moderate"}, "no guard"),
        ({"validationLevel": "off"}, "no guard"),
        ({"validator": driver.repository(Phones, keys=OLD).inner.guard()}, "another guard"),
    ):
        database.command("collMod", "customers", **change)
        [finding] = await people.doctor()
        assert (finding.kind, finding.count) == (kind, None)
        assert "setup()" in finding.text
        assert await people.setup() == ["guard"]
        assert await people.doctor() == []


async def test_doctor_of_a_model_without_an_index(driver: Driver, database: Db) -> None:
    """Nothing is said of index keys; index values of an earlier model are not as the model is, and a save drops them."""
    await driver.repository(Person, keys=OLD).save_many(several())
    people = driver.repository(Before, keys=LAST)
    await people.setup()
    [finding] = await people.doctor()
    assert (finding.kind, finding.count) == ("not as the model is", 5)
    for each in await people.find().to_list():
        await people.save(each)
    assert await people.doctor() == []
    assert kids(database) == [None] * 5


@pytest.mark.parametrize("made", [{"viewOn": "other"}, {"capped": True, "size": 4096}, {"collation": {"locale": "en"}}], ids=str)
async def test_doctor_of_a_collection_that_cannot_keep_documents(driver: Driver, database: Db, made: dict[str, Any]) -> None:
    """What `setup` refuses is said, and nothing else: nothing else matters."""
    database.create_collection("customers", **made)
    people = driver.repository(Person, keys=OLD)
    [finding] = await people.doctor()
    with pytest.raises(ConfigurationError) as caught:
        await people.setup()
    assert (finding.kind, finding.text) == ("unfit collection", str(caught.value))


@pytest.mark.parametrize("array", ["tags", "idx.phones"])
async def test_doctor_and_an_index_on_two_arrays(driver: Driver, database: Db, array: str) -> None:
    """Made by hand, on a blind index and a list: it stops every write once index values are arrays."""

    class Tagged(Phones):
        tags: Annotated[list[str], Queryable()] = []

    people = driver.repository(Tagged, keys=OLD)
    await people.setup()
    database.customers.create_index([("idx.email", 1), ("tenant", 1), (array, 1)], name="both")
    [finding] = await people.doctor()
    assert finding.kind == "parallel arrays"
    assert "Drop it" in finding.text
    database.customers.drop_index("both")
    database.customers.create_index([("tags", 1), ("tenant", 1)])
    database.customers.create_index([("tenant", 1), ("idx.email", 1)])
    assert await people.doctor() == []


async def test_examples_are_a_few(driver: Driver, database: Db) -> None:
    """Of many documents the ids of five."""
    people = driver.repository(Person, keys=OLD)
    await people.setup()
    database.customers.insert_many([{"_id": n} for n in range(9)], bypass_document_validation=True)
    [finding] = await people.doctor()
    assert (finding.kind, finding.count, len(finding.examples)) == ("plaintext", 9, 5)


async def test_a_process_with_an_older_ring_does_not_reindex(driver: Driver, database: Db) -> None:
    """It would take away the values that the others search by. Whoever has lost the key says every=True."""
    await driver.repository(Person, keys=LAST).save_many(several())
    stale = driver.repository(Person, keys=OLD)
    with pytest.raises(ConfigurationError, match="5 documents with index values under keys that are not in this ring"):
        await stale.reindex()
    assert kids(database) == ["new"] * 5
    assert await stale.reindex(every=True) == 5
    assert kids(database) == ["old"] * 5
