"""Filters in Python: what matches is what a real mongod finds, document by document, and what is not certain is refused."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Context
from random import Random
from typing import Any
from uuid import UUID, uuid4

import bson
import pytest
from bson import Binary, Code, Decimal128, Int64, MaxKey, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo import MongoClient
from pymongo.collection import Collection

from mongo_envelope import QueryError, envelope, matching, query
from mongo_envelope.answer import has_operators
from mongo_envelope.matching import Matcher, unserved

Documents = list[dict[str, Any]]

NOON = datetime(2024, 1, 31, 12, 0, 0, 123000, tzinfo=UTC)
#: One of each kind, with those beside it that are easily taken for it or put in the wrong order.
SCALARS: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -7,
    Int64(1),
    1.0,
    -0.0,
    5,
    5.5,
    -5.5,
    Decimal128("5"),
    Decimal128("5.00"),
    Decimal128("-5.9"),
    Decimal128("0.1"),
    0.1,
    1 / 3,
    Decimal128("0.3333333333333333148296162562473909"),  # 1 / 3 as a double, in 34 digits
    2**53 + 1,
    float(2**53),
    -(2**63),
    2**63 - 1,
    float(2**63),
    1e300,
    5e-324,
    Decimal128("1E+6000"),
    Decimal128("-0E-6176"),
    float("inf"),
    float("-inf"),
    Decimal128("Infinity"),
    float("nan"),
    Decimal128("NaN"),
    Decimal128("sNaN"),
    "",
    "5",
    "a",
    "a\0",
    "A",
    "ab",
    "\u00e9",
    "e\u0301",
    "\uffff",
    "\U00010000",  # in UTF-16 it would stand before the one above
    b"",
    b"a",
    b"b",
    b"aa",
    Binary(b"a", 5),
    Binary(b"a", 2),
    Binary(b"zzzzz", 0x80),
    Binary(b"x" * 16, 3),
    UUID(int=1),
    UUID(int=2**127),
    b"x" * 16,
    ObjectId("a" * 24),
    ObjectId("b" * 24),
    NOON,
    NOON + timedelta(milliseconds=1),
    datetime(1, 1, 1, tzinfo=UTC),
    DatetimeMS(2**55),
    DatetimeMS(-(2**55)),
]
VALUES: list[Any] = [
    *SCALARS,
    [],
    [1],
    [1.0, 2],
    [[1]],
    [[]],
    [None],
    [float("nan")],
    ["a", 5, NOON],
    {},
    {"a": 1},
    {"a": 1.0},
    {"a": True},
    {"a": None},
    {"a": 1, "b": 2},
    {"b": 2, "a": 1},
    {"$a": 1},
    [{"a": 1}],
]
#: No filter may ask for these, but a document may hold them.
FOREIGN: list[Any] = [Regex("^a"), [Regex("^a"), 5], Code("a"), Timestamp(1, 1), MaxKey(), {"a": Code("a")}]


def as_read(document: dict[str, Any]) -> dict[str, Any]:
    return bson.decode(bson.encode(document, codec_options=envelope.CODEC_OPTIONS), envelope.CODEC_OPTIONS)


@pytest.fixture(scope="module")
def collection(client: MongoClient[dict[str, Any]]) -> Iterator[Collection[dict[str, Any]]]:
    """An empty collection for this module."""
    name = f"test-{uuid4().hex[:12]}"
    yield client[name].get_collection("twins", codec_options=envelope.CODEC_OPTIONS)
    client.drop_database(name)


@pytest.fixture(scope="module")
def values(collection: Any) -> Documents:
    """A document for each value, and one without any, in the collection."""
    documents = [as_read({"_id": number, "f": value}) for number, value in enumerate(VALUES + FOREIGN)]
    return fill(collection, [*documents, {"_id": len(documents)}])


def fill(collection: Any, documents: Documents) -> Documents:
    collection.delete_many({})
    collection.insert_many(documents)
    return documents


def found(collection: Any, where: dict[str, Any]) -> set[int]:
    """What the server finds, one way and the other: it has two engines, and only one of them is used to count."""
    by_find = {each["_id"] for each in collection.find(where, {"_id": 1})}
    counted = collection.aggregate([{"$match": where}, {"$group": {"_id": "$_id"}}])
    assert {each["_id"] for each in counted} == by_find
    assert collection.count_documents(where) == len(by_find)
    return by_find


def matched(documents: Documents, where: dict[str, Any]) -> set[int]:
    matcher = Matcher(where)
    return {each["_id"] for each in documents if matcher.matches(each)}


@pytest.mark.parametrize("operator", ["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"])
def test_each_value_is_compared_with_each_other_as_mongod_does(collection: Any, values: Documents, operator: str) -> None:
    """For every pair of values and every comparison, but for ranges of what has no order."""
    for value in VALUES:
        where = {"f": {operator: value}}
        if operator in ("$eq", "$ne") or not isinstance(value, list | dict | None):
            assert matched(values, where) == found(collection, where), where
        else:
            assert (
                unserved(where)
                == f"{operator} of a {'null' if value is None else 'array' if isinstance(value, list) else 'object'}"
            )


@pytest.mark.parametrize(
    "condition",
    [
        *(value for value in VALUES if not has_operators(value)),
        {"$in": [5, None, "a"]},
        {"$in": [[1], {"a": 1}, []]},
        {"$in": []},
        {"$nin": [5, None]},
        {"$nin": []},
        {"$not": {"$gt": 3}},
        {"$not": {"$gt": 3, "$ne": 5}},
        {"$not": {"$not": {"$in": ["a"]}}},
        {"$not": {"$elemMatch": {"$eq": 1}}},
        {"$gt": -6, "$lt": 5.5},
        {"$gte": 5, "$lte": 5},
        {"$eq": 1, "$ne": 2},
        {"$exists": True},
        {"$exists": False},
        {"$all": [1]},
        {"$all": [1, 2]},
        {"$all": [[1]]},
        {"$all": [None]},
        {"$all": []},
        {"$all": ["a", NOON]},
        {"$not": {"$all": []}},
        {"$size": 0},
        {"$size": 2},
        {"$not": {"$size": 1}},
        {"$mod": [4, 1]},
        {"$mod": [4, -1]},
        {"$mod": [-4, -3]},
        {"$mod": [2**40, 0]},
        {"$mod": [-1, 0]},
        {"$type": ["null", "array"]},
        *({"$type": name} for name in sorted(query._BSON_TYPES)),
        {"$elemMatch": {"$gte": 1, "$lt": 2}},
        {"$elemMatch": {"$ne": 1}},
        {"$elemMatch": {"$not": {"$gt": 0}}},
        {"$elemMatch": {"$exists": True}},
        {"$elemMatch": {"$exists": False}},
        {"$elemMatch": {"$eq": None}},
        {"$elemMatch": {"$in": [None, "a"]}},
        {"$elemMatch": {"$size": 1}},
        {"$elemMatch": {"$type": "array"}},
        {"$elemMatch": {"$all": [1]}},
        {"$elemMatch": {"$mod": [2, 1]}},
        {"$elemMatch": {"$elemMatch": {"$eq": 1}}},
        {"$elemMatch": {"a": 1}},
        {"$elemMatch": {"a": None}},
        {"$elemMatch": {"0": 1}},
        {"$elemMatch": {}},
        {"$elemMatch": {"$or": [{"a": 1}, {"b": 1}]}},
        {"$elemMatch": {"a": {"$exists": False}, "$nor": [{"b": 1}]}},
    ],
    ids=lambda condition: repr(condition)[:60],
)
def test_each_condition_finds_what_mongod_finds(collection: Any, values: Documents, condition: Any) -> None:
    """All operators on one field, with its negation."""
    for where in ({"f": condition}, {"$nor": [{"f": condition}]}):
        assert matched(values, where) == found(collection, where)


PATHS: Documents = [
    {"_id": number, **fields}
    for number, fields in enumerate(
        [
            {},
            {"a": None},
            {"a": 1},
            {"a": []},
            {"a": {}},
            {"a": [None]},
            {"a": [1, 2]},
            {"a": [[]]},
            {"a": [[1, 2]]},
            {"a": [[[1]]]},
            {"a": [{}]},
            {"a": [{}, 1]},
            {"a": [[{"b": 1}]]},
            {"a": [[{"b": 1}], {"b": 2}]},
            {"a": [[{"c": 1}]]},
            {"a": {"b": 1}},
            {"a": {"b": None}},
            {"a": {"b": [1, 2]}},
            {"a": {"b": [[1, 2]]}},
            {"a": {"b": [{"c": 1}]}},
            {"a": {"b": {"c": 1}}},
            {"a": {"b": {"c": [1]}}},
            {"a": [{"b": 1}, {"b": 2}]},
            {"a": [{"b": [1]}, {"b": []}]},
            {"a": [{"b": None}, {"c": 1}]},
            {"a": [{"b": {"c": 1}}, {"b": [{"c": 2}, 5]}]},
            {"a": {"0": 1}},
            {"a": {"0": {"b": 1}}},
            {"a": [{"0": 1}]},
            {"a": [{"0": {"b": 1}}]},
            {"a": [[{"0": 1}]]},
            {"a": [0, {"1": 1}]},
            {"a": [0, [0, 1]]},
            {"a": {"00": 1}},
        ]
    )
]


@pytest.mark.parametrize(
    "path", ["a", "a.b", "a.0", "a.1", "a.00", "a.b.c", "a.0.b", "a.b.0", "a.0.0", "a.1.1", "a.0.0.b", "a.b.c.d", "b", "b.c"]
)
def test_along_a_path_matches_what_mongod_finds(collection: Any, path: str) -> None:
    """Through documents, arrays and positions, where null and "missing" are the hard part."""
    fill(collection, PATHS)
    for condition in (
        1,
        None,
        [1, 2],
        [],
        {},
        {"$ne": 1},
        {"$ne": None},
        {"$in": [2, None]},
        {"$nin": [2, None]},
        {"$gt": 0},
        {"$not": {"$gt": 1}},
        {"$exists": True},
        {"$exists": False},
        {"$type": "null"},
        {"$type": "array"},
        {"$type": ["int", "object"]},
        {"$size": 1},
        {"$size": 2},
        {"$all": [1, 2]},
        {"$all": [None]},
        {"$mod": [2, 1]},
        {"$elemMatch": {"$eq": 1}},
        {"$elemMatch": {"$eq": None}},
        {"$elemMatch": {"b": None}},
        {"$elemMatch": {"b.c": 1}},
        {"$elemMatch": {"0": {"$exists": True}}},
        {"$elemMatch": {"b": {"$elemMatch": {"c": 1}}}},
    ):
        where = {path: condition}
        assert matched(PATHS, where) == found(collection, where), where


@pytest.mark.parametrize(
    "where",
    [
        {},
        {"a": 1, "a.b": None},
        {"$and": [{"a": 1}, {"a": 2}]},
        {"$or": [{"a": 1}, {"a.b": 1}]},
        {"$nor": [{"a": 1}, {"a.b": 1}]},
        {"$or": [{"$and": [{"a.b": 1}, {"a.b": 2}]}, {"$nor": [{"a": {"$exists": True}}]}]},
        {"_id": {"$in": [1, 2.0, 3]}, "a": {"$ne": 1}},
        {"$and": [{}]},
        {"$nor": [{}]},
    ],
    ids=str,
)
def test_filters_are_joined_as_mongod_joins_them(collection: Any, where: dict[str, Any]) -> None:
    """$and, $or and $nor, several fields, and none."""
    fill(collection, PATHS)
    assert matched(PATHS, where) == found(collection, where)


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ({"a": re.compile("^a")}, "$regex"),
        ({"a": {"$regex": "^a", "$options": "i"}}, "$regex"),
        ({"a": {"$in": [1, re.compile("a")]}}, "$regex"),
        ({"a": {"$nin": [re.compile("a")]}}, "$regex"),
        ({"a": {"$all": [re.compile("a")]}}, "$regex"),
        ({"a": {"$not": re.compile("a")}}, "$regex"),
        ({"a": {"$not": {"$regex": "a"}}}, "$regex"),
        ({"a": {"$elemMatch": {"b": re.compile("a")}}}, "$regex"),
        ({"$or": [{"b": 1}, {"$nor": [{"a": re.compile("a")}]}]}, "$regex"),
        ({"a": {"$eq": [re.compile("a")]}}, "$eq of a Regex"),
        ({"a": {"b": [Timestamp(1, 1)]}}, "$eq of a Timestamp"),
        ({"a": {"$lt": MaxKey()}}, "$lt of a MaxKey"),
        ({"a": {"$gt": None}}, "$gt of a null"),
        ({"a": {"$gte": [1]}}, "$gte of a array"),
        ({"a": {"$lt": re.compile("a")}}, "$lt of a Regex"),
        ({"b": 1, "$expr": {"$eq": ["$a", 1]}}, "$expr"),
        ({"$where": "true"}, "$where"),
        ({"$text": {"$search": "a"}}, "$text"),
        ({"$jsonSchema": {}}, "$jsonSchema"),
        ({"$comment": "a"}, "$comment"),
        ({"$and": []}, "$and of anything but a list of filters"),
        ({"$or": [1]}, "$or of anything but a list of filters"),
        ({"$nor": {"a": 1}}, "$nor of anything but a list of filters"),
        ({"a": {"$near": [1, 2]}}, "$near"),
        ({"a": {"$bitsAllSet": 1}}, "$bitsAllSet"),
        ({"a": {"$gt": 1, "b": 1}}, "names beside operators"),
        ({"a": {"$in": 1}}, "$in of anything but a list"),
        ({"a": {"$in": [{"$gt": 1}]}}, "$in of operators"),
        ({"a": {"$all": [{"$elemMatch": {"b": 1}}]}}, "$all of operators"),
        ({"a": {"$not": {}}}, "$not of anything but operators"),
        ({"a": {"$not": 1}}, "$not of anything but operators"),
        ({"a": {"$exists": 1}}, "$exists of anything but true or false"),
        ({"a": {"$type": 2}}, "$type of anything but the names of types that can be stored"),
        ({"a": {"$type": []}}, "$type of anything but the names of types that can be stored"),
        ({"a": {"$type": "minKey"}}, "$type of anything but the names of types that can be stored"),
        ({"a": {"$size": -1}}, "$size of anything but an int, 0 or more"),
        ({"a": {"$size": 1.0}}, "$size of anything but an int, 0 or more"),
        ({"a": {"$mod": [0, 1]}}, "$mod of anything but a divisor and a remainder, two ints"),
        ({"a": {"$mod": [2.5, 1]}}, "$mod of anything but a divisor and a remainder, two ints"),
        ({"a": {"$mod": [2]}}, "$mod of anything but a divisor and a remainder, two ints"),
        ({"a": {"$elemMatch": 1}}, "$elemMatch of anything but conditions"),
        ({"a": {"$elemMatch": {"$or": [{"b": 1}], "$gt": 1}}}, "$gt"),
        ({"a..b": 1}, "a path with a step that is empty or begins with $"),
        ({"a.$b": 1}, "a path with a step that is empty or begins with $"),
        ({"": 1}, "a path with a step that is empty or begins with $"),
    ],
    ids=repr,
)
def test_what_is_not_certain_is_named_and_refused(where: dict[str, Any], what: str) -> None:
    """An unknown operator, one whose operand the server reads in another way or not at all, a value without an order."""
    assert unserved(where) == what
    with pytest.raises(QueryError, match=re.escape(what)):
        Matcher(where)


def test_a_refusal_names_the_path_and_no_value() -> None:
    """The field and the operator are said, also inside $elemMatch; what was asked for is not."""
    with pytest.raises(QueryError, match=re.escape("a.b.c: $regex")) as caught:
        Matcher({"a.b": {"$elemMatch": {"c": {"$gt": "secret", "$regex": "secret"}}}})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("value", [2**64, object(), "\ud800"], ids=["int", "object", "surrogate"])
def test_a_value_that_bson_cannot_hold_is_refused(value: Any) -> None:
    """And the error does not quote it."""
    with pytest.raises(QueryError, match="BSON cannot hold") as caught:
        Matcher({"a": value})
    assert caught.value.__context__ is None


def test_a_filter_inside_itself_is_refused() -> None:
    """Not a stack overflow."""
    where: dict[str, Any] = {}
    where["$and"] = [where]
    with pytest.raises(QueryError, match="nested too deeply"):
        unserved(where)


def test_the_names_of_types_are_those_of_a_filter() -> None:
    """What `compile_filter` lets pass as a $type is served."""
    assert set(matching._ALIASES) == query._BSON_TYPES
    assert unserved({"f": {"$type": sorted(query._BSON_TYPES)}}) is None


# ---------------------------------------------------------------------------------------------------------------------
# Documents and filters that nobody thought of.

NAMES = ("a", "b", "0", "1")


class Chance:
    """Documents and filters, from a source of chance that Hypothesis can make smaller."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.known: list[Any] = [None]  # a filter asks for what stands in a document, as a rule: else hardly anything would match

    def document(self, number: int) -> dict[str, Any]:
        document = as_read({"_id": number, **self.fields(3)})
        for field in document.values():
            self.known += inside(field)
        return document

    def fields(self, depth: int) -> dict[str, Any]:
        return {self.random.choice(NAMES): self.value(depth) for _ in range(self.random.randrange(4))}

    def value(self, depth: int) -> Any:
        kind = self.random.randrange(8) if depth else 0
        if kind < 4:
            return self.scalar()
        if kind < 6:
            return [self.value(depth - 1) for _ in range(self.random.randrange(4))]
        fields = [self.fields(depth - 1) for _ in range(3)]
        return fields[0] if kind == 6 else fields

    def scalar(self) -> Any:
        kind = self.random.randrange(8)
        if kind < 4:
            return self.random.randint(-1, 2)
        return self.random.choice(SCALARS) if kind < 7 else self.number()

    def number(self) -> Any:
        """A number, or one that is all but the same in another type."""
        bits = self.random.getrandbits(64)
        near: float = struct.unpack("<d", struct.pack("<Q", bits))[0]
        whole = (bits - 2**63) >> self.random.randrange(64)
        thirty_four = Context(prec=34, traps=[])
        return self.random.choice(
            [near, whole, float(whole), Decimal128(thirty_four.create_decimal(whole)), Decimal128(thirty_four.create_decimal(near))]
        )

    def operand(self) -> Any:
        return self.random.choice(self.known) if self.random.randrange(5) else self.value(2)

    def filter(self, depth: int = 2) -> dict[str, Any]:
        if depth and not self.random.randrange(4):
            return {self.random.choice(["$and", "$or", "$nor"]): [self.filter(depth - 1) for _ in range(self.random.randint(1, 2))]}
        return {self.path(): self.condition(2) for _ in range(self.random.randint(1, 2))}

    def path(self) -> str:
        return ".".join(self.random.choice(NAMES) for _ in range(self.random.randint(1, 3)))

    def condition(self, depth: int) -> Any:
        if not self.random.randrange(5):
            return self.operand()
        return self.operators(depth)

    def operators(self, depth: int) -> dict[str, Any]:
        return dict(self.operator(depth) for _ in range(self.random.choice([1, 1, 2])))

    def operator(self, depth: int) -> tuple[str, Any]:
        names = sorted(matching._SERVED - {"$and", "$or", "$nor"})
        name = self.random.choice(names)
        if name in ("$not", "$elemMatch") and not depth:
            name = "$eq"
        operand: Any = self.operand()
        if name in ("$gt", "$gte", "$lt", "$lte"):
            return name, self.scalar() if isinstance(operand, list | dict | None) else operand
        return name, {
            "$in": [self.operand(), self.operand()],
            "$nin": [self.operand(), self.operand()],
            "$all": [self.operand() for _ in range(self.random.randrange(3))],
            "$exists": self.random.choice([True, False]),
            "$size": self.random.randrange(4),
            "$mod": [self.random.choice([-3, -1, 2, 3]), self.random.randint(-2, 2)],
            "$type": self.random.choices(sorted(query._BSON_TYPES), k=self.random.randint(1, 3)),
            "$not": self.operators(depth - 1) if depth else None,
            "$elemMatch": self.random.choice([self.operators, self.elements])(depth - 1) if depth else None,
        }.get(name, operand)

    def elements(self, depth: int) -> dict[str, Any]:
        if not self.random.randrange(4):
            return self.filter(1)
        return {self.path(): self.condition(depth)}


def inside(value: Any) -> Iterator[Any]:
    yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from inside(each)


def compare(collection: Any, chance: Chance) -> None:
    documents = fill(collection, [chance.document(number) for number in range(8)])
    for where in [chance.filter() for _ in range(8)]:
        if unserved(where) is None:  # what is: a range of null
            assert matched(documents, where) == found(collection, where), where


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.data_too_large])  # a world of documents is large
@given(st.randoms(use_true_random=False))
def test_what_matches_is_what_mongod_finds(collection: Any, random: Random) -> None:
    """For all documents and all filters over the operators that are served: the same documents, neither more nor less."""
    compare(collection, Chance(random))
