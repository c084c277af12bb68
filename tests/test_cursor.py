"""What `find` gives: iteration, its limits, and documents that do not open."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from conftest import Driver
from pydantic import BaseModel
from pymongo.database import Database
from pymongo.errors import InvalidOperation

from mongo_envelope import EnvelopeError, IntegrityError, KeyRing, MalformedEnvelopeError, Queryable, QueryError, UnknownKeyError
from mongo_envelope.errors import KMSError

Db = Database[dict[str, Any]]


class Item(BaseModel):
    id: int
    rank: Annotated[int, Queryable()] = 0
    text: str = ""


async def with_items(driver: Driver, count: int = 6) -> Any:
    items = driver.repository(Item)
    await items.save_many([Item(id=number, rank=-number) for number in range(count)])
    return items


async def test_sort_skip_and_limit_in_either_form(driver: Driver) -> None:
    """As parameters of find and as methods of the cursor they are the same."""
    items = await with_items(driver)
    for cursor in (items.find(sort="rank", skip=1, limit=2), items.find().sort("rank").skip(1).limit(2)):
        assert [each.id for each in await cursor.to_list()] == [4, 3]
    assert [each.id for each in await items.find().sort("rank", -1).limit(2).to_list()] == [0, 1]


async def test_to_list_of_a_length_leaves_the_rest(driver: Driver) -> None:
    """At most so many, and the cursor goes on after them."""
    cursor = (await with_items(driver)).find(sort="id")
    assert [each.id for each in await cursor.to_list(4)] == [0, 1, 2, 3]
    assert await cursor.to_list(0) == []
    assert [each.id for each in await cursor.to_list(length=4)] == [4, 5]
    assert await cursor.to_list() == []
    for wrong in (-1, "3", 1.5, True):
        with pytest.raises(QueryError, match="length"):
            await cursor.to_list(wrong)


async def test_first_gives_one_or_none_and_closes(driver: Driver) -> None:
    """The first in the order asked for, None where nothing matches, the next one where the loop has begun."""
    items = await with_items(driver)
    assert (await items.find().sort("rank").first()).id == 5
    assert await items.find({"rank": 7}).first() is None
    cursor = items.find(sort="rank", batch_size=2)
    assert (await anext(cursor)).id == 5
    assert (await cursor.first()).id == 4
    assert cursor.inner._cursor.alive is False


async def test_first_goes_past_what_is_skipped(driver: Driver, database: Db) -> None:
    """With on_invalid="skip" the first that opens is the first."""
    items = await with_items(driver)
    database.customers.update_one({"_id": 5}, {"$set": {"text": "edited"}})
    assert (await items.find(sort="rank", on_invalid="skip").first()).id == 4
    with pytest.raises(IntegrityError):
        await items.find(sort="rank").first()


async def test_a_cursor_that_has_begun_cannot_be_changed(driver: Driver) -> None:
    """sort, skip and limit are too late then, as in pymongo."""
    cursor = (await with_items(driver)).find()
    await anext(cursor)
    for change in (lambda: cursor.sort("rank"), lambda: cursor.skip(1), lambda: cursor.limit(1)):
        with pytest.raises(InvalidOperation):
            change()


async def test_small_batches_give_all(driver: Driver) -> None:
    """batch_size changes the number of round trips and nothing else."""
    items = await with_items(driver)
    assert [each.id for each in await items.find(batch_size=2).to_list()] == list(range(6))


async def spoiled(driver: Driver, database: Db) -> Any:
    """Six items: 1 is edited, 2 is plaintext, 4 is under a key that the ring does not hold."""
    items = await with_items(driver)
    database.customers.update_one({"_id": 1}, {"$set": {"rank": 0}})
    database.customers.replace_one({"_id": 2}, {"rank": -2, "text": "plain"})
    await driver.repository(Item, keys=KeyRing.generate()).save(Item(id=4, rank=-4), overwrite=True)
    return items


async def test_raise_is_the_default_and_next_goes_on(driver: Driver, database: Db) -> None:
    """Each wrong document raises its own error at its turn, with its id; the others come."""
    cursor = (await spoiled(driver, database)).find(sort={"rank": -1})
    opened, errors = [], []
    while True:
        try:
            opened.append((await anext(cursor)).id)
        except StopAsyncIteration:
            break
        except (EnvelopeError, UnknownKeyError) as error:
            errors.append((type(error), error.document_id, error.collection))
    assert opened == [0, 3, 5]
    assert sorted(errors, key=str) == sorted(
        [
            (IntegrityError, "1", "customers"),
            (MalformedEnvelopeError, "2", "customers"),
            (UnknownKeyError, "4", "customers"),
        ],
        key=str,
    )


async def test_skip_leaves_out_what_does_not_open(driver: Driver, database: Db) -> None:
    """Wrong ones and those that could not be checked alike."""
    items = await spoiled(driver, database)
    assert [each.id for each in await items.find(on_invalid="skip").to_list()] == [0, 3, 5]


async def test_a_function_is_given_each_error(driver: Driver, database: Db) -> None:
    """The loop goes on after it; what it raises ends the loop; over the async driver it may be a coroutine function."""
    items, seen = await spoiled(driver, database), []
    assert [each.id for each in await items.find(on_invalid=seen.append).to_list()] == [0, 3, 5]
    assert [type(each) for each in seen] == [IntegrityError, MalformedEnvelopeError, UnknownKeyError]

    async def note(error: EnvelopeError | UnknownKeyError) -> None:
        seen.append(error)

    def stop(error: EnvelopeError | UnknownKeyError) -> None:
        raise LookupError(error.document_id)

    if driver.is_async:
        await items.find(on_invalid=note).to_list()
        assert len(seen) == 6
    with pytest.raises(LookupError, match="1"):
        await items.find(on_invalid=stop).to_list()


async def test_an_outage_is_not_skipped(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A KMSError is raised whatever on_invalid says: that no key can be had is not an empty result."""
    items = await with_items(driver)

    def down(raw: bytes) -> Any:
        raise KMSError("the key service did not answer")

    monkeypatch.setattr(items.codec, "open_bson", down)
    for how in ("skip", lambda error: None):
        with pytest.raises(KMSError):
            await items.find(on_invalid=how).to_list()


@pytest.mark.parametrize("wrong", ["ignore", None, 5], ids=str)
async def test_another_on_invalid_is_refused_at_once(driver: Driver, wrong: Any) -> None:
    """When find is called, and not at the first bad document."""
    with pytest.raises(QueryError, match='on_invalid is "raise", "skip", or a function'):
        driver.repository(Item).find(on_invalid=wrong)


async def test_a_cursor_is_a_context(driver: Driver, database: Db) -> None:
    """At the end of the block it is closed on the server."""
    items = await with_items(driver)

    def idle() -> int:
        pipeline = [{"$currentOp": {"idleCursors": True}}, {"$match": {"type": "idleCursor", "ns": f"{database.name}.customers"}}]
        return len(list(database.client.admin.aggregate(pipeline)))

    async with items.find(batch_size=2) as cursor:
        assert (await anext(cursor)).id == 0
        assert idle() == 1
    assert idle() == 0
