"""Filters and sorts: what is put to MongoDB, and what is refused because it could not be answered honestly."""

from __future__ import annotations

import enum
import ipaddress
import re
import traceback
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from bson import Binary, Decimal128, ObjectId, Regex
from bson.datetime_ms import DatetimeMS
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, computed_field
from pymongo.database import Database

from mongo_envelope import KeyRing, Queryable, QueryError, Repository
from mongo_envelope.places import identity_value
from mongo_envelope.query import compile_filter, compile_sort
from mongo_envelope.schema import Schema


class Status(enum.Enum):
    active = "a"
    closed = "c"


class Grade(enum.Enum):
    low = "a"


class Level(enum.IntEnum):
    low = 1
    high = 2


class Odd(enum.Enum):
    pair = (1, 2)


class Address(BaseModel):
    city: str
    code: int = 0
    since: date | None = None


class Household(BaseModel):
    address: Address
    members: list[Address] = []


@dataclass
class Point:
    x: int
    y: int


class Record(BaseModel):
    id: UUID
    tenant: Annotated[str, Queryable()]
    renamed: Annotated[str, Queryable(name="stored_name")] = ""
    owner: Annotated[UUID | None, Queryable()] = None
    at: Annotated[datetime, Queryable()] = datetime(2024, 1, 1, tzinfo=UTC)
    day: Annotated[date, Queryable()] = date(2024, 1, 1)
    hour: Annotated[time, Queryable()] = time(10)
    took: Annotated[timedelta, Queryable()] = timedelta(0)
    amount: Annotated[Decimal, Queryable()] = Decimal(0)
    score: Annotated[float, Queryable()] = 0.0
    age: Annotated[int | None, Queryable()] = None
    paid: Annotated[bool, Queryable()] = False
    raw: Annotated[bytes, Queryable()] = b""
    status: Annotated[Status, Queryable()] = Status.active
    before: Annotated[Status | None, Queryable()] = None  # the same class twice: a reference in pydantic's schema
    level: Annotated[Level, Queryable()] = Level.low
    odd: Annotated[Odd, Queryable()] = Odd.pair
    kind: Annotated[Literal["big", "small"], Queryable()] = "big"
    ip: Annotated[ipaddress.IPv4Address, Queryable()] = ipaddress.IPv4Address("10.0.0.9")
    part: Annotated[Fraction, Queryable()] = Fraction(1, 3)
    tags: Annotated[list[str], Queryable()] = []
    numbers: Annotated[set[int], Queryable()] = set()
    pair: Annotated[tuple[int, str], Queryable()] = (1, "a")
    owners: Annotated[list[UUID], Queryable()] = []
    grid: Annotated[list[list[int]], Queryable()] = []
    address: Annotated[Address, Queryable()] = Address(city="Graz")
    home: Annotated[Household | None, Queryable()] = None
    people: Annotated[list[Address], Queryable()] = []
    point: Annotated[Point, Queryable()] = Point(1, 2)
    labels: Annotated[dict[str, int], Queryable()] = {}
    by_number: Annotated[dict[int, str], Queryable()] = {}
    moment: Annotated[datetime | date | None, Queryable()] = None
    number: Annotated[int | str, Queryable()] = 0
    checked: Annotated[str, AfterValidator(lambda text: {"ok": "ok"}[text]), Queryable()] = "ok"
    name: str = ""
    email: str = ""

    @computed_field
    @property
    def domain(self) -> Annotated[str, Queryable()]:
        return self.email.rpartition("@")[2]


class WithObjectId(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    id: ObjectId | None = None
    parent: Annotated[ObjectId | None, Queryable()] = None


class WithAlias(BaseModel):
    key: str = Field(alias="_id")


SCHEMA = Schema.of(Record)
ID = UUID("5b7bd3e2-0d8a-4a35-9d3f-29e7f4c6a001")
SECRET = "correct horse battery staple"
NOON = datetime(2024, 1, 31, 12, tzinfo=UTC)


def ask(**condition: Any) -> dict[str, Any]:
    return compile_filter(SCHEMA, condition)


def refused(given: Any, schema: Schema[Any] = SCHEMA) -> str:
    """The text of the QueryError, and that nothing of it, or of its chain, quotes the value."""
    with pytest.raises(QueryError) as caught:
        compile_filter(schema, given)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert SECRET not in "".join(traceback.format_exception_only(caught.value))
    return str(caught.value)


# --- names ------------------------------------------------------------------------------------------------------------


def test_nothing_to_ask_is_an_empty_filter() -> None:
    """No filter and an empty one match everything."""
    assert compile_filter(SCHEMA, None) == compile_filter(SCHEMA, {}) == {}


@pytest.mark.parametrize("name", ["id", "_id"])
def test_the_id_by_either_name(name: str) -> None:
    """The id is found by its name in Python and by MongoDB's."""
    assert ask(**{name: ID}) == {"_id": ID}


def test_the_id_by_its_alias() -> None:
    """A field that is aliased _id is found by its own name too."""
    schema = Schema.of(WithAlias)
    assert compile_filter(schema, {"key": "x"}) == compile_filter(schema, {"_id": "x"}) == {"_id": "x"}


@pytest.mark.parametrize("name", ["renamed", "stored_name"])
def test_a_renamed_field_by_either_name(name: str) -> None:
    """A field with Queryable(name=…) is found by its name in Python and by its stored one."""
    assert ask(**{name: "x"}) == {"stored_name": "x"}


def test_a_computed_field_is_a_field_like_others() -> None:
    """A queryable computed field can be asked for."""
    assert ask(domain="example.com") == {"domain": "example.com"}


@pytest.mark.parametrize(
    "where", [{"email": SECRET}, {"email.x": SECRET}, {"$or": [{"tenant": "a"}, {"email": {"$regex": SECRET}}]}]
)
def test_a_sensitive_field_is_refused_by_name(where: dict[str, Any]) -> None:
    """A filter on an encrypted field names the field and two ways out."""
    text = refused(where)
    assert text.startswith("Record.email is sensitive")
    assert "Queryable()" in text
    assert "tenant" in text


def test_an_unknown_field_gets_a_suggestion() -> None:
    """A misspelt name is answered with the nearest one, also of a sensitive field."""
    assert "no field 'tennant'. Did you mean tenant?" in refused({"tennant": SECRET})
    assert "Did you mean email?" in refused({"emial": SECRET})
    assert "Fields that can be searched: id, tenant" in refused({"zzzzzz": SECRET})


def test_the_same_field_twice_is_refused() -> None:
    """Two names of one field in one filter would leave one condition out."""
    assert refused({"id": ID, "_id": ID}).startswith("_id: the field stands twice")
    assert refused({"renamed": "a", "stored_name": "b"}).startswith("stored_name: the field stands twice")
    assert compile_filter(SCHEMA, {"$and": [{"id": ID}, {"_id": ID}]}) == {"$and": [{"_id": ID}, {"_id": ID}]}


@pytest.mark.parametrize("name", ["$where", "$text", "$jsonSchema", "$comment", "$nonsense", "$not"])
def test_other_top_level_operators_are_refused(name: str) -> None:
    """What could look at encrypted fields, or is not known, is refused with the list of what is served."""
    text = refused({name: SECRET})
    assert text.startswith(name)
    assert "$and, $nor, $or" in text


@pytest.mark.parametrize("given", [5, "tenant", [("tenant", "a")], {5: "a"}, {None: "a"}, {b"tenant": "a"}, {("a", "b"): 1}])
def test_what_is_no_filter_is_refused(given: Any) -> None:
    """A filter is a dict whose names are text."""
    refused(given)


# --- operators --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "compiled"),
    [
        ({"tenant": "acme"}, {"tenant": "acme"}),
        ({"tenant": {"$eq": "acme"}}, {"tenant": {"$eq": "acme"}}),
        ({"tenant": {"$ne": "acme"}}, {"tenant": {"$ne": "acme"}}),
        ({"age": {"$gt": 1, "$lte": 5}}, {"age": {"$gt": 1, "$lte": 5}}),
        ({"age": {"$gte": 1, "$lt": 5.0}}, {"age": {"$gte": 1, "$lt": 5}}),
        ({"age": {"$in": [1, None]}}, {"age": {"$in": [1, None]}}),
        ({"age": {"$in": []}}, {"age": {"$in": []}}),
        ({"age": {"$nin": (1, 2)}}, {"age": {"$nin": [1, 2]}}),
        pytest.param({"age": {"$in": iter([1, 2])}}, {"age": {"$in": [1, 2]}}, id="an iterator"),
        ({"tags": {"$all": ["a", "b"]}}, {"tags": {"$all": ["a", "b"]}}),
        ({"tags": {"$size": 2}}, {"tags": {"$size": 2}}),
        ({"tags": {"$elemMatch": {"$gte": "a", "$lt": "c"}}}, {"tags": {"$elemMatch": {"$gte": "a", "$lt": "c"}}}),
        ({"age": {"$exists": False}}, {"age": {"$exists": False}}),
        ({"age": {"$type": "int"}}, {"age": {"$type": "int"}}),
        ({"age": {"$type": ["int", "null"]}}, {"age": {"$type": ["int", "null"]}}),
        ({"age": {"$mod": [2, 1]}}, {"age": {"$mod": [2, 1]}}),
        ({"numbers": {"$mod": (2, 1)}}, {"numbers": {"$mod": [2, 1]}}),
        ({"tenant": {"$regex": "^ac", "$options": "i"}}, {"tenant": {"$regex": "^ac", "$options": "i"}}),
        ({"tenant": {"$regex": Regex("^ac")}}, {"tenant": {"$regex": Regex("^ac")}}),
        ({"tenant": re.compile("^ac")}, {"tenant": re.compile("^ac")}),
        ({"tags": re.compile("^ac")}, {"tags": re.compile("^ac")}),
        ({"status": {"$regex": "^a"}}, {"status": {"$regex": "^a"}}),
        ({"ip": {"$regex": "^10[.]"}}, {"ip": {"$regex": "^10[.]"}}),
        ({"tenant": {"$not": {"$eq": "acme"}}}, {"tenant": {"$not": {"$eq": "acme"}}}),
        ({"tenant": {"$not": re.compile("^ac")}}, {"tenant": {"$not": re.compile("^ac")}}),
        ({"age": {"$not": {"$in": ["x"]}}}, None),
        ({"owner": {"$not": {"$eq": str(ID)}}}, {"owner": {"$not": {"$eq": ID}}}),
    ],
    ids=str,
)
def test_served_operators(given: dict[str, Any], compiled: dict[str, Any] | None) -> None:
    """Each operator that is served, and that values are checked beneath each of them."""
    if compiled is None:
        refused(given)
    else:
        assert compile_filter(SCHEMA, given) == compiled


@pytest.mark.parametrize("operator", ["$and", "$or", "$nor"])
def test_logical_operators(operator: str) -> None:
    """The filters inside are compiled like the one outside, at any depth."""
    inner = [{"id": str(ID)}, {operator: [{"renamed": "x"}]}]
    assert ask(**{operator: inner, "tenant": "a"}) == {
        operator: [{"_id": ID}, {operator: [{"stored_name": "x"}]}],
        "tenant": "a",
    }


@pytest.mark.parametrize("operand", [[], {}, None, "x", b"x", 5, {"tenant": "a"}, [None], [5], ["tenant"], [[]]])
@pytest.mark.parametrize("operator", ["$and", "$or", "$nor"])
def test_logical_operators_take_a_list_of_filters(operator: str, operand: Any) -> None:
    """An empty list, or anything else that is no list of filters, is refused."""
    refused({operator: operand})


@pytest.mark.parametrize(
    "condition",
    [
        {"tenant": {"$near": SECRET}},
        {"tenant": {"$gt": "a", "secret": SECRET}},
        {"tenant": {"$eq": "a", 5: SECRET}},
        {"tenant": {"$where": SECRET}},
        {"tenant": {"$expr": SECRET}},
        {"tenant": {"$not": SECRET}},
        {"tenant": {"$not": {}}},
        {"tenant": {"$not": ["a"]}},
        {"tenant": {"$not": None}},
        {"labels": {"$not": {"a": 1}}},
        {"tenant": {"$in": SECRET}},
        {"tenant": {"$in": {"a": 1}}},
        {"tenant": {"$in": 5}},
        {"tenant": {"$in": None}},
        {"tenant": {"$in": [re.compile(SECRET)]}},
        {"tenant": {"$nin": [Regex(SECRET)]}},
        {"tenant": {"$eq": re.compile(SECRET)}},
        {"tenant": {"$ne": re.compile(SECRET)}},
        {"tags": {"$all": []}},
        {"tags": {"$all": [{"$elemMatch": {"$eq": SECRET}}]}},
        {"age": {"$exists": "no"}},
        {"age": {"$exists": 0}},
        {"age": {"$type": SECRET}},
        {"age": {"$type": 16}},
        {"age": {"$type": []}},
        {"tags": {"$size": "2"}},
        {"tags": {"$size": -1}},
        {"tags": {"$size": True}},
        {"tags": {"$size": {"$gt": 1}}},
        {"tenant": {"$size": 1}},
        {"tenant": {"$elemMatch": {"$eq": SECRET}}},
        {"tags": {"$elemMatch": {}}},
        {"tags": {"$elemMatch": SECRET}},
        {"tags": {"$elemMatch": {"$eq": 5}}},
        {"tags": {"$elemMatch": {"city": SECRET}}},
        {"people": {"$elemMatch": {"citty": SECRET}}},
        {"people": {"$elemMatch": {"0": SECRET}}},
        {"people": {"$elemMatch": {"city": 5}}},
        {"age": {"$mod": [0, 1]}},
        {"age": {"$mod": [2]}},
        {"age": {"$mod": 2}},
        {"age": {"$mod": ["2", 1]}},
        {"age": {"$mod": [2.5, 1]}},
        {"tenant": {"$mod": [2, 1]}},
        {"at": {"$mod": [2, 1]}},
        {"paid": {"$mod": [2, 1]}},
        {"tenant": {"$regex": 5}},
        {"tenant": {"$regex": b"a"}},
        {"tenant": {"$regex": "a\0"}},
        {"tenant": re.compile(b"a")},
        {"tenant": {"$options": "i"}},
        {"tenant": {"$regex": re.compile("a"), "$options": "i"}},
        {"tenant": {"$regex": "a", "$options": "q"}},
        {"tenant": {"$regex": "a", "$options": 5}},
    ],
    ids=str,
)
def test_operators_in_a_form_that_is_not_served(condition: dict[str, Any]) -> None:
    """An operator that is unknown, or whose operand MongoDB would reject or read in another way, is refused with the field."""
    (name,) = condition
    assert refused(condition).startswith(name)


@pytest.mark.parametrize(
    "name", ["id", "at", "day", "took", "amount", "score", "age", "raw", "numbers", "owners", "level", "address", "labels"]
)
@pytest.mark.parametrize(
    "pattern", [{"$regex": SECRET}, re.compile(SECRET), {"$not": re.compile(SECRET)}], ids=["operator", "compiled", "not"]
)
def test_a_regular_expression_searches_text_only(name: str, pattern: Any) -> None:
    """On a field that is not stored as text a regular expression would silently find nothing."""
    text = refused({name: pattern})
    assert text.startswith(name)
    assert "searches text" in text


@pytest.mark.parametrize("operator", ["$gt", "$gte", "$lt", "$lte"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("age", None),
        ("tags", ["a"]),
        ("tags", []),
        ("address", Address(city="Graz")),
        ("labels", {"a": 1}),
        ("ip", "10.0.0.10"),
        ("part", Fraction(1, 2)),
        ("hour", time(10, tzinfo=UTC)),
        ("score", float("nan")),
        ("amount", Decimal("NaN")),
        ("amount", Decimal("sNaN")),
    ],
    ids=str,
)
def test_a_range_needs_an_order_that_mongodb_shares(operator: str, name: str, value: Any) -> None:
    """Where MongoDB has no order, or another one ("10.0.0.10" < "10.0.0.9"), a range is refused."""
    assert refused({name: {operator: value}}).startswith(name)


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "stored"),
    [
        ("id", str(ID), ID),
        ("owner", None, None),
        ("owner", ID.hex, ID),
        ("owners", str(ID), ID),
        ("owners", [str(ID), ID], [ID, ID]),
        ("at", NOON, DatetimeMS(1706702400000)),
        ("at", "2024-01-31T12:00:00Z", DatetimeMS(1706702400000)),
        ("at", "2024-01-31T14:00:00+02:00", DatetimeMS(1706702400000)),
        ("at", NOON.astimezone(timezone(timedelta(hours=5, minutes=30))), DatetimeMS(1706702400000)),
        ("at", NOON.replace(tzinfo=None), DatetimeMS(1706702400000)),
        ("at", date(2024, 1, 31), DatetimeMS(1706659200000)),
        ("at", "2024-01-31", DatetimeMS(1706659200000)),
        ("at", NOON.replace(microsecond=1999), DatetimeMS(1706702400001)),
        ("at", datetime(1969, 12, 31, 23, 59, 59, 999500, tzinfo=UTC), DatetimeMS(-1)),
        ("at", datetime.min, DatetimeMS(-62135596800000)),
        ("day", "2024-01-31", DatetimeMS(1706659200000)),
        ("hour", "10:30", "10:30:00"),
        ("took", timedelta(seconds=1, microseconds=999), 1000),
        ("amount", 5, Decimal128("5")),
        ("amount", 0.1, Decimal128("0.1")),
        ("amount", "5.00", Decimal128("5.00")),
        ("amount", Decimal("1E+6000"), Decimal128("1E+6000")),
        ("amount", Decimal("NaN"), Decimal128("NaN")),
        ("score", 5, 5.0),
        ("age", 5.0, 5),
        ("age", Level.high, 2),
        ("status", Status.closed, "c"),
        ("status", "c", "c"),
        ("before", "c", "c"),
        ("before", None, None),
        ("level", 2, 2),
        ("level", Level.high, 2),
        ("odd", Odd.pair, "pair"),
        ("kind", "small", "small"),
        ("tenant", Status.active, "a"),
        ("ip", "10.0.0.1", "10.0.0.1"),
        ("part", "2/6", "1/3"),
        ("raw", Binary(b"x", 0), b"x"),
        ("raw", bytearray(b"x"), b"x"),
        ("tags", [], []),
        ("tags", "a", "a"),
        ("tags", ("a", "b"), ["a", "b"]),
        ("numbers", {3, 1, 2}, [1, 2, 3]),
        ("numbers", [3, 1, 1], [1, 3]),
        ("numbers", 3, 3),
        ("pair", (1, "a"), [1, "a"]),
        ("pair", [1, "a"], [1, "a"]),
        ("grid", [[1], [2]], [[1], [2]]),
        ("grid", [1], [1]),
        ("address", Address(city="Graz", code=5), {"city": "Graz", "code": 5, "since": None}),
        ("address", {"since": None, "code": 5, "city": "Graz"}, {"city": "Graz", "code": 5, "since": None}),
        ("people", Address(city="Graz"), {"city": "Graz", "code": 0, "since": None}),
        ("people", [Address(city="Graz")], [{"city": "Graz", "code": 0, "since": None}]),
        ("point", Point(1, 2), {"x": 1, "y": 2}),
        ("labels", {"a": 1}, {"a": 1}),
        ("labels", {}, {}),
        ("by_number", {1: "a"}, [[1, "a"]]),
        ("moment", NOON, DatetimeMS(1706702400000)),
        ("number", "5", "5"),
        ("number", 5, 5),
        ("checked", "not ok", "not ok"),
    ],
    ids=str,
)
def test_values_are_brought_to_the_fields_type_and_projected(name: str, value: Any, stored: Any) -> None:
    """The forms in which people write a value, each as the stored document has it."""
    (compiled,) = ask(**{name: value}).values()
    assert compiled == stored
    assert type(compiled) is type(stored)
    (listed,) = ask(**{name: {"$in": [value]}}).values()
    assert listed == {"$in": [stored]}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", None),
        ("id", SECRET),
        ("id", 5),
        ("tenant", None),
        ("tenant", 5),
        ("tenant", b"a"),
        ("tenant", ["a"]),
        ("tenant", {"a": SECRET}),
        ("tenant", Level.low),
        pytest.param("tenant", re.compile, id="tenant-a function"),
        ("tenant", Regex(SECRET)),
        ("tenant", "\ud800"),
        ("age", True),
        ("age", "5"),
        ("age", 5.5),
        ("age", 2**63),
        ("level", True),
        ("level", 3),
        ("level", "low"),
        ("score", True),
        ("score", "1.5"),
        ("score", 2**53 + 1),
        ("score", 10**400),
        ("amount", True),
        ("amount", SECRET),
        ("amount", Decimal("1." + "1" * 34)),
        ("amount", Decimal("1E+7000")),
        ("amount", 10**40 + 1),
        ("paid", 1),
        ("paid", "yes"),
        ("at", 2024),
        ("at", 1706702400.5),
        ("at", "2024"),
        ("at", SECRET),
        ("day", 2024),
        ("day", "2024"),
        ("day", NOON),
        ("hour", 10),
        ("took", 5),
        ("took", "5"),
        ("raw", "text"),
        ("raw", Binary(b"x", 128)),
        ("status", Grade.low),
        ("status", SECRET),
        ("odd", (1, 2, 3)),
        ("kind", "medium"),
        ("ip", SECRET),
        ("ip", "::1"),
        ("part", 0.5),
        ("tags", 5),
        ("tags", None),
        ("tags", [True]),
        ("tags", {"a": SECRET}),
        ("numbers", True),
        ("numbers", [True]),
        ("numbers", ["1"]),
        ("owners", [SECRET]),
        ("pair", (1,)),
        ("pair", (1, SECRET, SECRET)),
        ("grid", ["a"]),
        ("grid", 1),
        ("address", {"city": SECRET}),
        ("address", {"city": "Graz", "code": "5", "since": None}),
        ("address", {"city": "Graz", "code": 5, "since": None, "more": SECRET}),
        ("address", {"city": "Graz", "code": True, "since": None}),
        ("home", {"address": {"city": "Graz", "code": 5, "since": None, "more": SECRET}, "members": []}),
        ("address", Household(address=Address(city=SECRET))),
        ("address", SECRET),
        ("point", {"x": 1, "y": 2}),
        ("labels", {"a": SECRET}),
        ("labels", {"a": 1, "b": 2}),
        ("labels", {"a\0": 1}),
        ("labels", OrderedDict(a=1)),
        ("by_number", {1: "a", 2: "b"}),
        ("moment", "2024-01-31"),
        ("number", 5.5),
        ("number", None),
        ("domain", None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_value_of_another_type_is_refused(name: str, value: Any) -> None:
    """What is not the field's type, or would be rounded, or has more than one meaning, is refused with the field."""
    for condition in (value, {"$eq": value}, {"$in": [value]}, {"$not": {"$ne": value}}):
        assert refused({name: condition}).startswith(f"{name}:")


@pytest.mark.parametrize("text", ["zz", "", "a" * 23, "a" * 25, SECRET])
def test_text_that_is_no_object_id_is_refused(text: str) -> None:
    """bson's own error for it, which quotes the text, does not come through."""
    schema = Schema.of(WithObjectId)
    assert refused({"id": text}, schema).startswith("id: this field is a ObjectId")
    assert compile_filter(schema, {"parent": "a" * 24, "id": ObjectId("b" * 24)}) == {
        "parent": ObjectId("a" * 24),
        "_id": ObjectId("b" * 24),
    }
    assert compile_filter(schema, {"parent": None}) == {"parent": None}
    assert "never None" in refused({"id": None}, schema)


def test_none_where_it_cannot_be_names_the_way_out() -> None:
    """Only documents without the field would match None; for those there is $exists."""
    assert "$exists" in refused({"tenant": None})
    assert "$exists" in refused({"tenant": {"$ne": None}})


# --- dotted paths -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "stored"),
    [
        ("address.city", "Graz", "Graz"),
        ("address.since", "2024-01-31", DatetimeMS(1706659200000)),
        ("address.since", None, None),
        ("home.address.code", 5.0, 5),
        ("home.members.city", "Graz", "Graz"),
        ("home.members.0.since", date(2024, 1, 31), DatetimeMS(1706659200000)),
        ("people.city", "Graz", "Graz"),
        ("people.1.city", "Graz", "Graz"),
        ("people.1", Address(city="Graz"), {"city": "Graz", "code": 0, "since": None}),
        ("tags.0", "a", "a"),
        ("owners.0", str(ID), ID),
        ("grid.0.1", 5, 5),
        ("labels.a", 5, 5),
        ("labels.a b", 5, 5),
        ("point.x", 5, 5),
        ("pair.0", 5, 5),
    ],
)
def test_dotted_paths(path: str, value: Any, stored: Any) -> None:
    """A field of a nested model, a position, a key of a dict; with the types that stand there."""
    assert ask(**{path: value}) == {path: stored}
    assert ask(**{path: {"$in": [value]}}) == {path: {"$in": [stored]}}
    assert compile_sort(SCHEMA, path) == [(path, 1)]


def test_a_dotted_path_begins_with_either_name() -> None:
    """The first step is renamed, as without a path."""

    class Person(BaseModel):
        id: int
        address: Annotated[Address, Queryable(name="a")]

    schema = Schema.of(Person)
    assert compile_filter(schema, {"address.city": "x"}) == compile_filter(schema, {"a.city": "x"}) == {"a.city": "x"}
    assert "stands twice" in refused({"address.city": "x", "a.city": "y"}, schema)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("address.citty", SECRET),
        ("address.city.x", SECRET),
        ("address.city", 5),
        ("address.city", None),
        ("address.code", True),
        ("address.code", {"$regex": "5"}),
        ("address.since", 2024),
        ("people.citty", SECRET),
        ("people.0.citty", SECRET),
        ("people.city", {"$size": 1}),
        ("tenant.x", SECRET),
        ("tenant.0", SECRET),
        ("tags.x", SECRET),
        ("at.year", 2024),
        ("id.x", 5),
        ("by_number.1", "a"),
        ("labels.a", Decimal(5)),
        ("labels.a", [1]),
        ("labels.a", re.compile(b"x")),
        ("address.", SECRET),
        ("address..city", SECRET),
        ("address.$city", SECRET),
        ("address.city\0", SECRET),
        ("labels.\0", SECRET),
        ("labels.\ud800", SECRET),
    ],
)
def test_dotted_paths_that_lead_nowhere(path: str, value: Any) -> None:
    """An unknown name beneath a field, a wrong type there, or a path into a scalar is refused with the field."""
    assert refused({path: value}).startswith(path.partition(".")[0])


def test_elem_match_on_the_fields_of_nested_models() -> None:
    """Names in $elemMatch are fields of the element, with the types that stand there."""
    asked = {"$elemMatch": {"city": "Graz", "since": {"$gte": "2024-01-31"}, "$or": [{"code": 1}, {"code": 2}]}}
    assert ask(people=asked) == {
        "people": {
            "$elemMatch": {
                "city": "Graz",
                "since": {"$gte": DatetimeMS(1706659200000)},
                "$or": [{"code": 1}, {"code": 2}],
            }
        }
    }
    assert "Did you mean city?" in refused({"people": {"$elemMatch": {"$or": [{"citty": SECRET}]}}})


# --- sorting and ids --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "direction", "compiled"),
    [
        ("at", None, [("at", 1)]),
        ("at", -1, [("at", -1)]),
        (("at", -1), None, [("at", -1)]),
        ("renamed", 1, [("stored_name", 1)]),
        ("id", None, [("_id", 1)]),
        (["tenant", "id"], None, [("tenant", 1), ("_id", 1)]),
        ([("tenant", 1), ("at", -1)], None, [("tenant", 1), ("at", -1)]),
        (["tenant", ("at", -1)], None, [("tenant", 1), ("at", -1)]),
        ([["tenant", -1]], None, [("tenant", -1)]),
        ({"tenant": 1, "at": -1}, None, [("tenant", 1), ("at", -1)]),
        ("address.city", None, [("address.city", 1)]),
    ],
)
def test_sorts(key: Any, direction: int | None, compiled: list[tuple[str, int]]) -> None:
    """Every form that pymongo takes, and a list of names."""
    assert compile_sort(SCHEMA, key, direction) == compiled


@pytest.mark.parametrize(
    ("key", "direction"),
    [
        ("email", None),
        ("tennant", None),
        ("at", 2),
        ("at", 0),
        ("at", True),
        ("at", "asc"),
        ("at", 1.0),
        ("ip", None),
        ("part", None),
        ("tenant.x", None),
        ("$natural", None),
        ("", None),
        ([], None),
        ({}, None),
        (5, None),
        (None, None),
        ([5], None),
        ([("at",)], None),
        ([("at", 1, 1)], None),
        ([("at", 1)], -1),
        (("at", -1), 1),
        (["at", "at"], None),
        ([("id", 1), ("_id", -1)], None),
        ({"at": [1]}, None),
    ],
    ids=str,
)
def test_sorts_that_are_refused(key: Any, direction: Any) -> None:
    """Sensitive, unknown and doubled names, other directions, and orders that are not those of the values."""
    with pytest.raises(QueryError):
        compile_sort(SCHEMA, key, direction)


def test_an_id_as_it_is_stored() -> None:
    """An id is brought to its type as a filter's value is."""
    assert identity_value(SCHEMA, str(ID)) == identity_value(SCHEMA, ID) == ID


@pytest.mark.parametrize("value", [None, 5, SECRET, {"$gt": ""}, {"$ne": None}, [ID], re.compile(""), Regex("")])
def test_what_is_no_id_is_refused(value: Any) -> None:
    """Nothing but an id names a document; least of all an operator."""
    with pytest.raises(QueryError, match=r"^id: ") as caught:
        identity_value(SCHEMA, value)
    assert SECRET not in str(caught.value)


# --- anything at all --------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(
    [*Record.model_fields, "_id", "stored_name", "domain", "address.city", "labels.a", "people.0", "x", "$and", "$or", "$nor"]
)
OPERATORS = st.sampled_from(
    [
        "$eq",
        "$ne",
        "$gt",
        "$lte",
        "$in",
        "$nin",
        "$all",
        "$exists",
        "$size",
        "$type",
        "$mod",
        "$regex",
        "$options",
        "$not",
        "$elemMatch",
    ]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=3),
    st.decimals(),
    st.datetimes(),
    st.dates(),
    st.sampled_from([Status.active, Level.low, ID, Address(city="x"), re.compile("a"), re.compile(b"a"), Regex("("), Point(1, 2)]),
)
JUNK = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.one_of(NAMES, OPERATORS, st.text(max_size=5), st.integers()), inner, max_size=3)
        | st.sets(st.integers() | st.text(max_size=3), max_size=2)
    ),
    max_leaves=10,
)


@given(JUNK | st.dictionaries(NAMES, JUNK | st.dictionaries(OPERATORS, JUNK, max_size=2), max_size=3))
def test_any_junk_compiles_or_is_a_query_error(given: Any) -> None:
    """Nothing but QueryError comes out, and it has no other error, with a value in it, behind it."""
    try:
        compiled = compile_filter(SCHEMA, given)
    except QueryError as error:
        behind = error.__cause__ or error.__context__
    else:
        behind = None
        assert isinstance(compiled, dict)
    assert behind is None


@given(JUNK, st.none() | st.integers(-2, 2))
def test_any_junk_sorts_or_is_a_query_error(key: Any, direction: int | None) -> None:
    """The same for sorts."""
    try:
        compiled = compile_sort(SCHEMA, key, direction)
    except QueryError as error:
        behind = error.__cause__ or error.__context__
    else:
        behind = None
        assert all(way in (1, -1) for _, way in compiled)
    assert behind is None


@given(SCALARS)
def test_what_a_field_holds_can_be_asked_for(value: Any) -> None:
    """Each value that a field takes as it is compiles to what the stored document has there."""
    for field in SCHEMA.stored:
        try:
            field.node.check(value)
        except Exception:  # noqa: BLE001, S112
            continue
        try:
            compiled = compile_filter(SCHEMA, {field.name: {"$eq": value}})
        except QueryError as error:
            assert re.search("BSON cannot hold|34 digits", str(error))  # noqa: PT017
        else:
            assert repr(compiled) == repr({field.stored: {"$eq": field.node.projected(value)}})


def test_nesting_without_end_is_a_query_error() -> None:
    """A filter that is too deep, or inside itself, is refused and not a RecursionError."""
    deep: Any = {"tenant": "a"}
    for _ in range(5000):
        deep = {"$and": [deep]}
    assert "nested too deeply" in refused(deep)
    endless: dict[str, Any] = {}
    endless["$or"] = [endless]
    assert "nested too deeply" in refused(endless)


# --- against a real MongoDB: the answer is the one that Python gives ---------------------------------------------------

RECORDS = [
    Record(
        id=UUID(int=number),
        tenant="acme" if number % 2 else "Acme",
        at=NOON + timedelta(milliseconds=number),
        day=date(2024, 1, 1) + timedelta(days=number),
        took=timedelta(milliseconds=number),
        amount=Decimal(number) / 4,
        score=number / 2,
        age=number if number % 3 else None,
        status=Status.active if number % 2 else Status.closed,
        level=Level.high if number % 2 else Level.low,
        tags=["a", "b"][: number % 3],
        numbers={number, number + 1},
        owners=[UUID(int=number)],
        address=Address(city=f"c{number}", since=date(2024, 1, 1) + timedelta(days=number)),
        people=[Address(city="x", code=number), Address(city="y", code=9)],
        labels={"n": number},
        email=f"{number}@{'a' if number % 2 else 'b'}.example",
    )
    for number in range(8)
]
TWIN: list[tuple[dict[str, Any], Callable[[Record], bool]]] = [
    ({}, lambda _: True),
    ({"id": str(UUID(int=3))}, lambda each: each.id.int == 3),
    ({"_id": {"$gte": UUID(int=5)}}, lambda each: each.id.int >= 5),
    ({"tenant": re.compile("^ACME", re.IGNORECASE)}, lambda _: True),
    ({"tenant": {"$regex": "^ac"}}, lambda each: each.tenant == "acme"),
    ({"tenant": {"$not": {"$regex": "^ac"}}}, lambda each: each.tenant != "acme"),
    ({"at": {"$gt": NOON + timedelta(milliseconds=3)}}, lambda each: each.at > NOON + timedelta(milliseconds=3)),
    ({"at": {"$lte": "2024-01-31T12:00:00.003Z"}}, lambda each: each.at <= NOON + timedelta(milliseconds=3)),
    ({"at": {"$gte": date(2024, 1, 31), "$lt": date(2024, 2, 1)}}, lambda _: True),
    ({"day": {"$in": ["2024-01-03", date(2024, 1, 5)]}}, lambda each: each.day.day in (3, 5)),
    ({"took": {"$lt": timedelta(milliseconds=4)}}, lambda each: each.took < timedelta(milliseconds=4)),
    ({"amount": 0.25}, lambda each: each.amount == Decimal("0.25")),
    ({"amount": {"$gte": 1, "$lt": "1.75"}}, lambda each: 1 <= each.amount < Decimal("1.75")),
    ({"amount": {"$mod": [1, 0]}}, lambda _: True),
    ({"score": 2}, lambda each: each.score == 2),
    ({"age": None}, lambda each: each.age is None),
    ({"age": {"$ne": None}}, lambda each: each.age is not None),
    ({"age": {"$gt": 3}}, lambda each: each.age is not None and each.age > 3),
    ({"age": {"$type": "null"}}, lambda each: each.age is None),
    ({"age": {"$exists": True}}, lambda _: True),
    ({"age": {"$mod": [2, 1]}}, lambda each: each.age is not None and each.age % 2 == 1),
    ({"status": "a"}, lambda each: each.status is Status.active),
    ({"status": {"$nin": [Status.active]}}, lambda each: each.status is not Status.active),
    ({"level": {"$gt": Level.low}}, lambda each: each.level > Level.low),
    ({"tags": []}, lambda each: not each.tags),
    ({"tags": "a"}, lambda each: "a" in each.tags),
    ({"tags": ["a", "b"]}, lambda each: each.tags == ["a", "b"]),
    ({"tags": {"$all": ["b", "a"]}}, lambda each: {"a", "b"} <= set(each.tags)),
    ({"tags": {"$size": 1}}, lambda each: len(each.tags) == 1),
    ({"tags": {"$ne": "b"}}, lambda each: "b" not in each.tags),
    ({"tags.1": "b"}, lambda each: each.tags[1:2] == ["b"]),
    ({"tags": {"$elemMatch": {"$gt": "a"}}}, lambda each: any(tag > "a" for tag in each.tags)),
    ({"numbers": [4, 3]}, lambda each: each.numbers == {3, 4}),
    ({"numbers": 4}, lambda each: 4 in each.numbers),
    ({"owners": str(UUID(int=2))}, lambda each: each.owners == [UUID(int=2)]),
    ({"address": RECORDS[2].address}, lambda each: each.address == RECORDS[2].address),
    ({"address": {"since": date(2024, 1, 3), "code": 0, "city": "c2"}}, lambda each: each.address == RECORDS[2].address),
    ({"address.since": {"$gte": "2024-01-05"}}, lambda each: each.address.since >= date(2024, 1, 5)),
    ({"people": RECORDS[2].people[0]}, lambda each: RECORDS[2].people[0] in each.people),
    ({"people.code": 3}, lambda each: any(one.code == 3 for one in each.people)),
    ({"people": {"$elemMatch": {"city": "x", "code": {"$gt": 5}}}}, lambda each: each.people[0].code > 5),
    ({"labels": {"n": 3}}, lambda each: each.labels == {"n": 3}),
    ({"labels.n": {"$lt": 3}}, lambda each: each.labels["n"] < 3),
    ({"domain": "a.example"}, lambda each: each.domain == "a.example"),
    ({"$or": [{"id": str(UUID(int=1))}, {"score": 2}]}, lambda each: each.id.int == 1 or each.score == 2),
    ({"$nor": [{"tenant": "acme"}, {"age": None}]}, lambda each: each.tenant != "acme" and each.age is not None),
]


def test_mongodb_answers_what_python_would(database: Database[dict[str, Any]], keys: KeyRing) -> None:
    """Each filter finds the same records, whole and equal, as the same question put to the models in Python."""
    records = Repository(Record, database.records, keys=keys)
    records.save_many([record.model_copy(deep=True) for record in RECORDS])
    for where, matches in TWIN:
        found = records.find(where, sort="id").to_list()
        assert found == [record for record in RECORDS if matches(record)], where


def test_a_query_sees_milliseconds_rounded_down(database: Database[dict[str, Any]], keys: KeyRing) -> None:
    """Within one millisecond moments are equal to a query, as they are to MongoDB; what is loaded is exact all the same."""
    records = Repository(Record, database.records, keys=keys)
    early, late = (Record(id=UUID(int=us), tenant="a", at=NOON + timedelta(microseconds=us)) for us in (100, 900))
    records.save_many([early, late])
    assert records.find({"at": early.at}, sort="id").to_list() == [early, late]
    assert records.find({"at": {"$gt": early.at}}).to_list() == []
    assert records.find({"at": {"$lt": late.at}}).to_list() == []
    assert records.find({"at": {"$gte": late.at}}, sort="id").to_list() == [early, late]
    assert records.find({"at": {"$lt": NOON + timedelta(milliseconds=1)}}, sort="id").to_list() == [early, late]


def test_what_people_write_elsewhere_is_answered_with_what_to_write_here() -> None:
    """A direction in the name, and an operator without its dollar sign."""
    with pytest.raises(QueryError, match=r"as in sort\('tenant', -1\)"):
        compile_sort(SCHEMA, "-tenant")
    assert "Operators begin with $: $gt" in refused({"number": {"gt": 5}})


def test_a_day_may_be_given_as_the_moment_at_which_it_begins() -> None:
    """In UTC, like all without a zone; any other moment is no day."""
    day = date(2024, 1, 31)
    midnight = datetime(2024, 1, 31, tzinfo=UTC)
    assert compile_filter(SCHEMA, {"day": midnight}) == compile_filter(SCHEMA, {"day": day})
    assert compile_filter(SCHEMA, {"day": midnight.replace(tzinfo=None)}) == compile_filter(SCHEMA, {"day": day})
    assert "this field is a date" in refused({"day": midnight + timedelta(hours=1)})


def test_a_nested_filter_costs_its_size() -> None:
    """Forty levels of $and are compiled once each, and a hundred are refused."""
    given: Any = {"tenant": "acme"}
    for _ in range(30):
        given = {"$and": [given, {"$or": [{"tenant": "acme"}]}]}
    assert "$and" in compile_filter(SCHEMA, given)
    for _ in range(100):
        given = {"$nor": [given]}
    assert "nested too deeply" in refused(given)
