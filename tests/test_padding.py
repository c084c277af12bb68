"""Padding: the lengths of Padmé, and that every way to write pads."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import bson
import pytest
from conftest import Driver
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from pymongo.database import Database
from test_spec import reference

from mongo_envelope import (
    BlindIndex,
    ConfigurationError,
    DocumentCodec,
    IndexKey,
    KeyRing,
    PayloadError,
    Queryable,
    Sensitive,
    envelope,
)
from mongo_envelope.envelope import CODEC_OPTIONS
from mongo_envelope.padding import padded, padme

Db = Database[dict[str, Any]]
KEYS = KeyRing.generate()
lengths = st.integers(0, 2**24) | st.integers(0, 2**80)


class Person(BaseModel):
    id: int
    tenant: Annotated[str, Queryable()] = "acme"
    email: Annotated[str, Sensitive(index=BlindIndex())] = "ada@example.com"
    notes: Annotated[str, Field(max_length=100)] = "n" * 53


def codec(**options: Any) -> DocumentCodec[Person]:
    return DocumentCodec(Person, keys=KEYS, context="c", **options)


def data_length(raw: bytes) -> int:
    """How long the encrypted payload of a document is."""
    return len(bson.decode(raw, CODEC_OPTIONS)["data"])


# --- the lengths ----------------------------------------------------------------------------------------------------


@given(lengths)
def test_padme_is_never_shorter_and_little_longer(length: int) -> None:
    """At most 15 of 129 more; from 256 on at most one of 16, and at length L at most one of 2 to the power of bits of log L."""
    longer = padme(length)
    assert length <= longer
    assert 129 * longer <= 144 * length
    if length >= 256:
        assert 16 * longer <= 17 * length
    if length >= 2:
        assert (longer - length) * 2 ** (length.bit_length() - 1).bit_length() < length * 2


@given(lengths)
def test_padme_of_a_padded_length_is_that_length(length: int) -> None:
    """So padding what is padded changes nothing."""
    assert padme(padme(length)) == padme(length)


@given(lengths, lengths)
def test_padme_is_monotonic(one: int, other: int) -> None:
    """The longer of two does not become the shorter."""
    assert (one <= other) <= (padme(one) <= padme(other))


@given(lengths)
def test_padme_is_that_of_the_reference(length: int) -> None:
    """The two were written from the text apart."""
    assert padme(length) == reference.padme(length)


def test_few_lengths_are_left() -> None:
    """Of 16 million lengths up to 16 MiB there are 427, as the specification says: less than 9 bits of what the length says."""
    found, length = 0, 2
    while length <= 2**24:
        length, found = padme(length) + 1, found + 1
    assert found == 427
    assert math.log2(found) < 9
    assert sorted({padme(length) for length in range(2, 17)}) == [2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16]


@given(st.binary(max_size=300), st.integers(0, 100))
def test_padded_adds_spaces_alone_and_replaces_those_that_were_there(content: bytes, spaces: int) -> None:
    """The length is Padmé's of what the payload is without spaces at its end."""
    bare = content.rstrip(b" ")
    found = padded(content + b" " * spaces)
    assert found.rstrip(b" ") == bare
    assert len(found) == padme(len(bare))
    assert padded(found) == found == reference.pad(content + b" " * spaces)


# --- the option -----------------------------------------------------------------------------------------------------


class Choice(StrEnum):
    PADME = "padme"


@pytest.mark.parametrize("wrong", ["Padme", "", "none", True, False, 0, 64, b"padme", ["padme"], {}], ids=repr)
async def test_another_value_is_refused_when_it_is_built(driver: Driver, wrong: Any) -> None:
    """A codec and a repository say which choices there are."""
    with pytest.raises(ConfigurationError, match='padding= is None or "padme"'):
        codec(padding=wrong)
    with pytest.raises(ConfigurationError, match='padding= is None or "padme"'):
        driver.repository(Person, padding=wrong)


def test_without_padding_the_length_is_exact() -> None:
    """The default: one character more is one byte more."""
    for options in ({}, {"padding": None}):
        one, other = (data_length(codec(**options).seal_bson(Person(id=1, notes="n" * count))) for count in (53, 54))
        assert other == one + 1


@pytest.mark.parametrize("padding", ["padme", Choice.PADME])
def test_lengths_within_a_step_are_one(padding: Any) -> None:
    """Documents whose payloads differ by a few bytes are of one length, in full and in `data`."""
    plain, pads = codec(), codec(padding=padding)
    sizes = set()
    for count in range(40, 54):
        one = Person(id=1, notes="n" * count)
        raw = pads.seal_bson(one)
        assert data_length(raw) == padme(data_length(plain.seal_bson(one)))
        sizes.add((len(raw), data_length(raw)))
    assert len(sizes) == 3  # steps of 8 bytes: 72, 80, 88


def test_who_knows_nothing_of_padding_opens_it() -> None:
    """A codec without padding opens what is padded in every way, and the other way round; `verify` finds nothing."""
    one = Person(id=1)
    for writer, reader in ((codec(padding="padme"), codec()), (codec(), codec(padding="padme"))):
        raw = writer.seal_bson(one)
        assert reader.open(raw) == reader.verify(raw) == reader.open(writer.seal(one)) == one
        assert reader.open_raw(raw) == writer.open_raw(raw)
        assert reader._fast.open(raw) is not None
        assert reader.open_plainly(raw)[2] == one


def test_validate_on_save_compares_what_is_not_padded_yet() -> None:
    """A model that is right is sealed, and one that is not is refused."""
    pads = codec(padding="padme", validate_on_save=True)
    one = Person(id=1)
    assert pads.open(pads.seal_bson(one)) == one
    one.notes = "n" * 101
    with pytest.raises(PayloadError, match="notes"):
        pads.seal_bson(one)


def test_the_short_way_to_seal_pads_as_the_plain_one() -> None:
    """Under one IV both give the same bytes, and without padding others."""
    pads, one, iv = codec(padding="padme"), Person(id=1), bytes(16)
    pads.seal_bson(one)  # the plain way, and the types are known
    short = pads._writer.seal(one, pads._idx, pads._pad, lambda: iv)
    metadata, payload = pads.schema.split(one)
    metadata["idx"] = pads._idx(one)
    assert short == (1, envelope._seal_with(metadata, padded(payload), keys=KEYS, context="c", iv=iv))
    assert pads._writer.seal(one, pads._idx, None, lambda: iv) != short


def test_reindexed_pads_anew() -> None:
    """What was not padded is, and what had another padding gets that of Padmé; the content stays."""
    plain, pads = codec(), codec(padding="padme")
    raw = plain.seal_bson(Person(id=1))
    bare = data_length(raw)
    assert padme(bare) > bare
    _, anew = pads.reindexed(raw)
    assert data_length(anew) == padme(bare)
    assert data_length(pads.reindexed(anew)[1]) == padme(bare)
    assert pads.open(anew) == plain.open(raw)


def test_reindexed_without_padding_keeps_the_spaces() -> None:
    """So a process that is not told to pad does not undo what another has done."""
    plain, pads = codec(), codec(padding="padme")
    raw = pads.seal_bson(Person(id=1))
    assert data_length(plain.reindexed(raw)[1]) == data_length(raw)
    assert plain._opened(plain.reindexed(raw)[1]).payload == plain._opened(raw).payload


# --- every way to write ---------------------------------------------------------------------------------------------


async def loaded(people: Any) -> Any:
    """The stored one, longer by four bytes than a step."""
    found = await people.load(1)
    found.notes = "n" * 61
    return found


async def saved_of_a_revision(people: Any) -> None:
    there = await people.load(1)
    await people.save(Person(id=1, notes="n" * 61), revision=people.revision(there))


async def mended(people: Any) -> None:
    await people.save(people.mend(await people.load_raw(1) | {"notes": "n" * 61}))


async def saved(people: Any) -> None:
    await people.save(await loaded(people))


async def saved_many(people: Any) -> None:
    await people.save_many([await loaded(people), *(Person(id=number, notes="n" * 61) for number in (2, 3))])


def longer(person: Person) -> None:
    person.notes = "n" * 61


WAYS: dict[str, Callable[[Any], Any]] = {
    "save of a new one": lambda people: people.save(Person(id=2, notes="n" * 61)),
    "save of a loaded one": saved,
    "save over a revision": saved_of_a_revision,
    "save of a mended one": mended,
    "overwrite what is there": lambda people: people.save(Person(id=1, notes="n" * 61), overwrite=True),
    "overwrite what is not there": lambda people: people.save(Person(id=2, notes="n" * 61), overwrite=True),
    "save_many": saved_many,
    "update of fields": lambda people: people.update(1, {"notes": "n" * 61}),
    "update by a function": lambda people: people.update(1, longer),
    "reindex": lambda people: people.reindex(),
    "reindex of every document": lambda people: people.reindex(every=True),
}


@pytest.mark.parametrize("short", [False, True], ids=["plainly", "the short way"])
@pytest.mark.parametrize("way", WAYS)
async def test_what_is_stored_has_a_length_of_padme(driver: Driver, database: Db, way: str, *, short: bool) -> None:
    """Every way to write pads, in both ways to seal: after it, no document is left whose `data` has another length."""
    plain = driver.repository(Person)
    await plain.save(Person(id=1))
    [exact] = [len(each["data"]) for each in database.customers.find()]
    assert padme(exact) != exact
    again = driver.keys.with_index_key(IndexKey.generate()) if way == "reindex" else driver.keys
    people = driver.repository(Person, padding="padme", keys=again)
    if short:  # for types that have been sealed before
        people.codec.seal_bson(Person(id=9))
    await WAYS[way](people)
    written = [each for each in database.customers.find() if way not in _OTHERS or each["_id"] != 1]
    assert written
    for each in written:
        assert len(each["data"]) == padme(len(each["data"])), way
        opened = plain.codec._opened(bson.encode(each, codec_options=CODEC_OPTIONS)).payload
        assert opened.endswith(b" ")
        assert padded(opened) == opened
    assert {each.id for each in await people.find().to_list()} == {each["_id"] for each in database.customers.find()}
    assert (await plain.find_one({"email": "ada@example.com", "id": written[-1]["_id"]})).notes in ("n" * 53, "n" * 61)


#: These leave the document that is there alone.
_OTHERS = ("save of a new one", "overwrite what is not there")


async def test_with_options_pads_as_well(driver: Driver, database: Db) -> None:
    """A repository over the collection with other options is as the one that it is made of."""
    people = driver.repository(Person, padding="padme").with_options()
    await people.save(Person(id=1))
    [stored] = database.customers.find()
    assert len(stored["data"]) == padme(data_length(people.codec.seal_bson(Person(id=1))))
    assert stored["data"] != b""
