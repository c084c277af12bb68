"""Asked and answered: what counts as a match is what mongod says, value by value."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import bson
import pytest
from bson import Binary, Decimal128, Int64, ObjectId, Regex
from bson.datetime_ms import DatetimeMS
from hypothesis import given
from hypothesis import strategies as st
from pymongo.collection import Collection
from pymongo.database import Database

from mongo_envelope import envelope
from mongo_envelope.answer import Asked, comparable, same

Documents = dict[int, bytes]

#: One of each kind, with those beside it that are easily taken for it.
VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    Int64(1),
    1.0,
    -0.0,
    5,
    5.0,
    Decimal128("5"),
    Decimal128("5.00"),
    Decimal128("0.1"),
    0.1,
    1 / 3,
    2**53 + 1,
    float(2**53),
    1e300,
    Decimal128("1E+300"),
    float("inf"),
    Decimal128("Infinity"),
    float("nan"),
    Decimal128("NaN"),
    Decimal128("sNaN"),
    "",
    "5",
    "a",
    "A",
    "\u00e9",
    "e\u0301",
    b"a",
    Binary(b"a", 5),
    UUID(int=1),
    ObjectId("a" * 24),
    datetime(2024, 1, 31, 12, 0, 0, 123000, tzinfo=UTC),
    DatetimeMS(2**55),
    [],
    [1],
    [1.0, 2],
    [[1]],
    [None],
    ["a"],
    {},
    {"a": 1},
    {"a": 1.0},
    {"a": True},
    {"a": 1, "b": 2},
    {"b": 2, "a": 1},
    [{"a": 1}],
]
MISSING = len(VALUES)  #: the ``_id`` of the document without the field


def raw(document: dict[str, Any]) -> bytes:
    return bson.encode(document, codec_options=envelope.CODEC_OPTIONS)


@pytest.fixture(scope="module")
def documents() -> Documents:
    """A document for each value, one without any, and one with a value that cannot be hashed."""
    found = {number: raw({"_id": number, "f": value}) for number, value in enumerate(VALUES)}
    return found | {MISSING: raw({"_id": MISSING}), MISSING + 1: raw({"_id": MISSING + 1, "f": [Regex("^a")]})}


@pytest.fixture
def collection(database: Database[dict[str, Any]], documents: Documents) -> Collection[dict[str, Any]]:
    """The same documents in a real mongod."""
    collection = database.get_collection("values", codec_options=envelope.CODEC_OPTIONS)
    collection.insert_many([bson.decode(each, envelope.CODEC_OPTIONS) for each in documents.values()])
    return collection


@pytest.mark.parametrize("asked", range(len(VALUES)), ids=lambda number: repr(VALUES[number])[:40])
def test_a_value_is_equal_to_those_that_mongod_finds(collection: Any, documents: Documents, asked: int) -> None:
    """For every pair of values: the document counts as an answer exactly if mongod gives it."""
    where = {"f": {"$eq": VALUES[asked]}}
    found = {each["_id"] for each in collection.find(where, {"_id": 1})}
    assert found
    question = Asked(where)
    assert {number for number, each in documents.items() if question.is_answered_by(each)} == found


@pytest.mark.parametrize(
    "where",
    [
        {"f": {"$in": [5, "a", None]}},
        {"f": {"$in": []}},
        {"$and": [{"f": {"$in": [1, 5]}}, {"f": 5}]},
        {"$or": [{"f": 5}, {"f": "a"}]},
        {"$or": [{"$and": [{"f": 5}, {"f": "a"}]}, {"f": True}]},
        {"f": {"$eq": 5, "$gte": 1}},
        {"_id": 3},
        {"_id": {"$in": [3, 4.0]}},
    ],
    ids=str,
)
def test_of_a_filter_of_equalities_every_part_counts(collection: Any, documents: Documents, where: dict[str, Any]) -> None:
    """$in, $and and $or over equality are checked as mongod reads them, and so is the ``_id``."""
    question = Asked(where)
    answered = {number for number, each in documents.items() if question.is_answered_by(each)}
    assert answered == {each["_id"] for each in collection.find(where, {"_id": 1})}


@pytest.mark.parametrize(
    "where",
    [
        {},
        {"f": {"$gt": 3}},
        {"f": {"$ne": 5}},
        {"f": {"$nin": [5]}},
        {"f": {"$exists": False}},
        {"f": {"$regex": "^a"}},
        {"f": {"$not": {"$gt": 3}}},
        {"f": re.compile("^a")},
        {"f": {"$in": [Regex("^a"), 5]}},
        {"f": {"$eq": {"a": Regex("^a")}}},
        {"$nor": [{"f": 5}]},
        {"$or": [{"f": 5}, {"f": {"$gt": 3}}]},
        {"f": {"$elemMatch": {"$eq": 1}}},
    ],
    ids=str,
)
def test_what_cannot_be_checked_counts_as_answered(documents: Documents, where: dict[str, Any]) -> None:
    """Ranges, patterns and negations, and an alternative with one of them in it, refuse no document."""
    question = Asked(where)
    assert all(question.is_answered_by(each) for each in documents.values())


def test_what_can_be_checked_beside_what_cannot(documents: Documents) -> None:
    """A range beside an equality does not hide it."""
    question = Asked({"f": {"$gt": 3}, "_id": 3})
    assert {number for number, each in documents.items() if question.is_answered_by(each)} == {3}


PATHS: list[dict[str, Any]] = [
    {"a": {"b": 1}},
    {"a": {"b": [1, 2]}},
    {"a": [{"b": 1}, {"b": 2}]},
    {"a": [{"b": 2}, {"c": 1}]},
    {"a": [[{"b": 1}]]},
    {"a": [1, 2]},
    {"a": {"0": {"b": 1}}},
    {"a": [{"0": {"b": 1}}]},
    {"a": {"b": None}},
    {"a": {}},
    {"a": []},
    {"a": 1},
    {},
]


@pytest.mark.parametrize("path", ["a", "a.b", "a.0", "a.0.b", "a.b.0", "a.1"])
@pytest.mark.parametrize("value", [1, 2, None, {"b": 1}, [1, 2]], ids=str)
def test_what_mongod_finds_along_a_path_is_never_refused(database: Any, path: str, value: Any) -> None:
    """Through documents, arrays and positions: no false alarm. What it does not find is refused, but for null along a path."""
    database.paths.insert_many([{"_id": number, **each} for number, each in enumerate(PATHS)])
    where = {path: {"$eq": value}}
    found = {each["_id"] for each in database.paths.find(where, {"_id": 1})}
    question = Asked(where)
    answered = {number for number, each in enumerate(PATHS) if question.is_answered_by(raw({"_id": number, **each}))}
    assert answered >= found
    if value is not None and path != "a.0":  # mongod does not look into an array at a position; to be lenient there is harmless
        assert answered == found


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.binary(),
    st.uuids(),
    st.decimals(allow_nan=False, places=3, min_value=-(10**9), max_value=10**9).map(Decimal128),
)
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0$."), max_size=3)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)), max_leaves=6
)


@given(ANYTHING)
def test_every_value_is_equal_to_itself(value: Any) -> None:
    """A document with exactly the value that was asked for is never refused, nor one whose list holds it."""
    for stored in (value, [0, value]):
        assert Asked({"f": {"$eq": value}}).is_answered_by(raw({"_id": 1, "f": stored}))
    assert same(value, value)
    assert same(envelope.as_stored(value), value)


@given(ANYTHING, ANYTHING)
def test_equality_is_symmetric(one: Any, other: Any) -> None:
    """Whichever of two ids is the stored one."""
    assert same(one, other) == same(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [(5, 5.0), (Decimal("5.0"), 5), (float("nan"), Decimal("NaN")), (b"a", bytearray(b"a")), ({"a": 1}, {"a": 1.0})],
    ids=str,
)
def test_ids_that_mongod_takes_for_one(one: Any, other: Any) -> None:
    """They are the same, and found under one key in a dict where they can be hashed."""
    one, other = (
        Decimal128(each) if isinstance(each, Decimal) else bytes(each) if isinstance(each, bytearray) else each
        for each in (one, other)
    )
    assert same(one, other)
    assert len({comparable(envelope.as_stored(each)) for each in (one, other)}) == 1


@pytest.mark.parametrize(
    ("one", "other"), [(1, True), (0, False), ("a", b"a"), ({"a": 1, "b": 2}, {"b": 2, "a": 1}), ([1], 1)], ids=str
)
def test_ids_that_only_python_takes_for_one(one: Any, other: Any) -> None:
    """They are two."""
    assert not same(one, other)
    assert len({comparable(envelope.as_stored(each)) for each in (one, other)}) == 2
