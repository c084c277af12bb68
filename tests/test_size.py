"""What is too large for MongoDB: up to which byte it is written, and how it is refused before anything is sent."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import pytest
from conftest import Driver
from pydantic import BaseModel, ConfigDict
from pymongo.database import Database
from test_flows import watched

from mongo_envelope import BlindIndex, BulkSaveError, PayloadError, Queryable, Sensitive, embedded, size

Db = Database[dict[str, Any]]
LIMIT = 16 * 1024 * 1024


class File(BaseModel):
    id: int | str = 1
    tenant: Annotated[str, Queryable(name="t")] = "acme"
    owner: Annotated[str, Sensitive(index=BlindIndex())] = "ada"
    content: str = ""
    notes: str = "xyzzy"


@pytest.fixture(scope="module", autouse=True)
def _room(client: Any) -> Iterator[None]:
    """The small cache of the throw-away server has no room for several large documents at once (error 388, WriteConflict)."""
    engine = "wiredTigerEngineRuntimeConfig"
    client.admin.command("setParameter", 1, **{engine: "cache_size=1G"})
    yield
    client.admin.command("setParameter", 1, **{engine: "cache_size=256M"})


def filled(repository: Any, file: File, length: int = LIMIT) -> File:
    """A file whose sealed document has so many bytes."""
    file.content = ""
    file.content = "c" * (length - len(repository.codec.seal_bson(file)))
    assert len(repository.codec.seal_bson(file)) == length
    return file


async def save_a_loaded_one(files: Any, file: File) -> None:
    loaded = await files.load(1)
    loaded.content = file.content
    await files.save(loaded)


async def save_over_a_revision(files: Any, file: File) -> None:
    await files.save(file, revision=files.revision(await files.load(1)))


async def save_many_loaded(files: Any, file: File) -> None:
    loaded = await files.load(1)
    loaded.content = file.content
    await files.save_many([loaded])


#: whether there is a small document already, and how a large one is written
WAYS: dict[str, tuple[bool, Callable[[Any, File], Any]]] = {
    "save of a new one": (False, lambda files, file: files.save(file)),
    "save of a loaded one": (True, save_a_loaded_one),
    "save over a revision": (True, save_over_a_revision),
    "overwrite what is there": (True, lambda files, file: files.save(file, overwrite=True)),
    "overwrite what is not there": (False, lambda files, file: files.save(file, overwrite=True)),
    "save_many of a new one": (False, lambda files, file: files.save_many([file])),
    "save_many of a loaded one": (True, save_many_loaded),
    "update of fields": (True, lambda files, file: files.update(1, {"content": file.content})),
    "update by a function": (True, lambda files, file: files.update(1, lambda _: file)),
}


@pytest.mark.parametrize("way", WAYS)
async def test_exactly_as_much_as_mongodb_takes(driver: Driver, way: str) -> None:
    """16 MiB to the byte are inserted, replaced and upserted, and come back."""
    files = driver.repository(File)
    there, write = WAYS[way]
    if there:
        await files.save(File())
    large = filled(files, File())
    await write(files, large)
    assert await files.load(1) == large


async def test_exactly_as_much_in_a_transaction(driver: Driver) -> None:
    """Inserted, replaced and upserted in one: an entry of the oplog has room for it."""
    files = driver.repository(File)
    first = await files.save(File(id=1))
    large = [filled(files, File(id=number)) for number in (1, 2, 3)]
    first.content = large[0].content
    async with driver.transaction() as session:
        await files.save(first, session=session)
        await files.save(large[1], session=session)
        await files.save(large[2], overwrite=True, session=session)
    for each in large:
        assert await files.load(each.id) == each


@pytest.mark.parametrize("way", WAYS)
async def test_a_byte_more_is_refused_and_nothing_is_sent(driver: Driver, server: embedded.Server, way: str) -> None:
    """The error says by how much, and why; no command that writes leaves the client; what is there stays."""
    async with watched(driver, server, File) as (files, commands):
        there, write = WAYS[way]
        if there:
            await files.save(File())
        commands.sent.clear()
        with pytest.raises(PayloadError, match=r"has 16,777,217 bytes, 1 more than MongoDB takes") as caught:
            await write(files, filled(files, File(), LIMIT + 1))
        assert [name for each in commands.sent for name in ("insert", "update") if name in each] == []
        assert (caught.value.document_id, caught.value.collection) == ("1", "customers")
        assert r"The largest field is content (16," in str(caught.value)
        assert await files.find().to_list() == ([File()] if there else [])


async def test_reindex_of_as_much_as_mongodb_takes(driver: Driver) -> None:
    """A document of 16 MiB is sealed anew."""
    files = driver.repository(File)
    large = await files.save(filled(files, File()))
    assert await files.reindex(every=True) == 1
    assert await files.load(1) == large


async def test_reindex_refuses_what_would_become_too_large(driver: Driver, server: embedded.Server) -> None:
    """With padding, say: it is reported like other documents that cannot be kept, stays, and the others are done."""
    plain = driver.repository(File)
    large = await plain.save(filled(plain, File()))
    await plain.save(File(id=2))
    async with watched(driver, server, File, padding="padme") as (files, commands):
        with pytest.raises(PayloadError, match="of them are padding, without which it would fit") as caught:
            await files.reindex(every=True)
        assert (caught.value.document_id, caught.value.collection) == ("1", "customers")
        invalid: list[Any] = []
        assert await files.reindex(every=True, on_invalid=invalid.append) == 1
        assert [each.document_id for each in invalid] == ["1"]
        assert all(len(each["updates"]) == 1 for each in commands.of("update"))
    assert await plain.load(1) == large


async def test_padding_that_makes_it_too_large(driver: Driver) -> None:
    """The padded length counts, padding is not left out, and the error says whose fault it is."""
    files, plain = driver.repository(File, padding="padme"), driver.repository(File)
    file = File(content="c" * 16_600_000)
    with pytest.raises(PayloadError, match="without which it would fit") as caught:
        await files.save(file)
    over, padding = len(files.codec.seal_bson(file)) - LIMIT, len(files.codec.seal_bson(file)) - len(plain.codec.seal_bson(file))
    assert f"{over:,} more than MongoDB takes; {padding:,} of them are padding, without" in str(caught.value)
    file.content = "c" * 16_900_000
    with pytest.raises(PayloadError, match=r"of them are padding\. The largest"):
        await files.save(file)
    file.content = "c" * (2**24 - 2**18 - 1000)  # the last but one length of Padmé's below 16 MiB
    await files.save(file)
    assert await plain.load(1) == file


async def test_a_long_id_counts_twice(driver: Driver, server: embedded.Server) -> None:
    """In the filter and in the oplog there is a second one, beside which there are 16 KiB: up to the limit it is written."""
    files = driver.repository(File)
    for length in (14_000, 100_000):
        file = File(id="i" * length)
        allowed = LIMIT - max(0, length + 10 - 14 * 1024)
        await files.save(filled(files, file, allowed))
        file.notes = "plugh"
        await files.save(file)
        async with driver.transaction() as session:
            await files.save(file, session=session)
            await files.save(file, overwrite=True, session=session)
        await files.save(file, overwrite=True)
        assert await files.reindex(every=True) >= 1
        assert await files.load(file.id) == file
        filled(files, file, allowed + 1)
        with pytest.raises(PayloadError, match="1 more than MongoDB takes") as caught:
            await files.save(file)
        assert ("counting the _id twice" in str(caught.value)) == (length == 100_000)


class Loose(BaseModel):
    id: int = 1
    blob: Annotated[bytes, Queryable(name="b")] = b""
    tags: Annotated[list[str], Sensitive(index=BlindIndex(bits=256))] = []
    data: list[float] = []
    model_config = ConfigDict(extra="allow")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"blob": bytes(17_000_000)}, "field is blob (17,000,0"),
        ({"data": [float("nan")] * 5_000_000}, "field is data (20,000,001 bytes)"),
        ({"xyzzy": "c" * 17_000_000}, "field is values beside the fields (17,000,002 bytes)"),
        (
            {"xyzzy": "c" * 9_000_000, "blob": bytes(8_900_000)},
            "fields are values beside the fields (9,000,002 bytes), blob (8",
        ),
        ({"tags": [f"ä\n{number}" for number in range(310_000)]}, "fields are the blind indexes ("),
        ({"data": [0.5] * 3_000_000, "blob": bytes(9_000_000), "plugh": "c" * 500_000}, "fields are data (12,000,001 bytes), blob"),
    ],
    ids=["in the clear", "not a number", "no field", "two", "index values", "small ones are left out"],
)
async def test_the_largest_fields_are_named(driver: Driver, given: dict[str, Any], says: str) -> None:
    """By what the model calls them, with their bytes; no value is in the error, nor a name that is none of the model's."""
    files = driver.repository(Loose)
    with pytest.raises(PayloadError) as caught:
        await files.save(Loose(**given))
    text = "".join(traceback.format_exception(caught.value))
    assert f"The largest {says}" in str(caught.value)
    assert "Split it into several documents" in str(caught.value)
    assert not any(word in text for word in ("xyzzy", "plugh", "ccc"))
    assert caught.value.__context__ is None


async def test_of_a_batch_the_one_that_is_too_large_is_named(driver: Driver, server: embedded.Server) -> None:
    """It is not sent, and nothing after it is; in unordered mode, all the others are."""
    async with watched(driver, server, File) as (files, commands):
        batch = [File(id=1), filled(files, File(id=2), LIMIT + 5), File(id=3)]
        with pytest.raises(PayloadError, match="5 more") as caught:
            await files.save_many(batch)
        assert (caught.value.document_id, caught.value.index, caught.value.result.saved_count) == ("2", 1, 1)
        assert len(commands.of("insert")) == 1
        with pytest.raises(BulkSaveError, match="5 more"):
            await files.save_many(batch, ordered=False)
        assert await files.count() == 2


def test_small_documents_are_not_looked_at() -> None:
    """Up to half the limit not a byte is read."""
    assert size.excess(bytes(LIMIT // 2)) == 0
