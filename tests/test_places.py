"""places: which place of a stored document a name means, and which value of its type; or a refusal with the way out."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import ipaddress
import math
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

import bson
import pytest
from bson import Binary, Decimal128, Int64, ObjectId
from bson.binary import UuidRepresentation
from every_type import EVERY_TYPE, same
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AnyUrl, BaseModel, ByteSize, ConfigDict, Field, SecretBytes, SecretStr, create_model

from mongo_envelope import BlindIndex, Queryable, QueryError, SchemaError, Sensitive, envelope
from mongo_envelope.answer import same as same_in_mongodb
from mongo_envelope.places import Place, from_stored, identity_value, meant, place, stored_name
from mongo_envelope.schema import Schema, plain

CANARY = "xyzzy-plugh"


class Colour(enum.Enum):
    red = "r"
    one = 1


class Word(enum.Enum):
    a = "x"
    b = "y"


class Swapped(enum.Enum):
    """Stored by its names, one of which is the value of the other."""

    a = "b"
    b = 5


class Level(enum.IntEnum):
    low = 1


class Home(BaseModel):
    city: str
    zip: str | None = Field(None, alias="postcode")
    floors: list[int] = []


@dataclasses.dataclass
class Point:
    x: int


class Person(BaseModel):
    id: UUID
    tenant: Annotated[str, Queryable(name="t")]
    tags: Annotated[list[str], Queryable()] = []
    home: Annotated[Home | None, Queryable()] = None
    homes: Annotated[list[Home], Queryable(name="hs")] = []
    counts: Annotated[dict[str, int], Queryable()] = {}
    by_number: Annotated[dict[int, str], Queryable()] = {}
    point: Annotated[Point, Queryable()] = Point(1)
    either: Annotated[int | Home, Queryable()] = 1
    grid: Annotated[list[list[int]], Queryable()] = []
    email: Annotated[str, Sensitive(index=[BlindIndex(), BlindIndex(normalize="email", name="mail")])] = ""
    note: Annotated[str, Sensitive()] = ""


SCHEMA = Schema.of(Person)


def schema_of(kind: Any) -> Schema[Any]:
    """A model with one field of this type in the clear, stored under another name."""
    config = ConfigDict(arbitrary_types_allowed=True)
    return Schema.of(create_model("Model", __config__=config, id=(int, 1), field=(Annotated[kind, Queryable(name="f")], ...)))


def brought(kind: Any, value: Any) -> Any:
    """What a filter's value means in a sensitive field of this type, as `search` asks it."""
    config = ConfigDict(arbitrary_types_allowed=True)
    schema = Schema.of(create_model("Model", __config__=config, id=(int, 1), field=(kind, ...)))
    return meant(Place("field", "field", schema.places["field"]), value).value


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("id", "_id"),
        ("_id", "_id"),
        ("tenant", "t"),
        ("t", "t"),
        ("tags", "tags"),
        ("tags.0", "tags.0"),
        ("home.city", "home.city"),
        ("home.floors.0", "home.floors.0"),
        ("homes.city", "hs.city"),
        ("hs.0.city", "hs.0.city"),
        ("homes.floors.1", "hs.floors.1"),
        ("counts.any key", "counts.any key"),
        ("counts.é", "counts.é"),
        ("point.x", "point.x"),
        ("either.city", "either.city"),
        ("grid.0.1", "grid.0.1"),
    ],
)
def test_a_name_is_that_of_python_or_that_of_mongodb(name: str, stored: str) -> None:
    """Dotted or not: beneath a list each element is meant, or one position."""
    assert stored_name(SCHEMA, name) == stored
    assert place(SCHEMA, name).name == name


def test_a_place_knows_its_type_where_it_can_be_known() -> None:
    """Beneath models and lists; beneath dicts, dataclasses and unions nobody knows."""
    types = {
        name: node.types if (node := place(SCHEMA, name).node) else None for name in ("home.city", "homes.floors.0", "grid.0.1")
    }
    assert types == {"home.city": {str}, "homes.floors.0": {int}, "grid.0.1": {int}}
    assert [place(SCHEMA, name).node for name in ("counts.a", "point.x", "either.city", "either.a.b")] == [None] * 4
    assert [place(SCHEMA, name).identity for name in ("id", "_id", "tenant", "counts.id")] == [True, True, False, False]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (5, "fields are named by text, not by a int"),
        (None, "fields are named by text, not by a NoneType"),
        (b"tenant", "not by a bytes"),
        ("tenent", "Person has no field 'tenent'. Did you mean tenant?"),
        ("xyz", "Fields that can be searched: id, tenant, tags, home"),
        ("x" * 1000, "Person has no field '" + "x" * 64 + "'."),
        ("", "Person has no field ''."),
        ("$where", "no field"),
        ("note", "Person.note is sensitive: it is stored encrypted"),
        ("note.x", "Person.note is sensitive"),
        ("note", r"Sensitive(index=BlindIndex()) makes it searchable for equal values"),
        ("email", "Person.email is sensitive: its blind index serves filters"),
        ("mail", "Person.mail is sensitive: its blind index serves filters"),
        ("email.x", "its blind index serves filters"),
        ("idx", "no field 'idx'"),
        ("idx.email", "no field 'idx'"),
        ("data", "no field 'data'"),
        ("hmac", "no field 'hmac'"),
        ("tenant.x", "tenant: nothing stands beneath a str"),
        ("id.x", "id: nothing stands beneath a UUID"),
        ("home.", "home: a dotted path goes on with '', which is no name"),
        (".tenant", "no field ''"),
        ("home.$city", "home: a dotted path goes on with '$city'"),
        ("counts.a\0", "which is no name"),
        ("counts.\ud800", "which is no name"),
        ("home.citi", "home: Home has no field 'citi'. Did you mean city?"),
        ("home.postcode", "home: Home has no field 'postcode'. Fields that can be searched: city, zip, floors"),
        ("homes.0.citi", "Did you mean city?"),
        ("home.floors.x", "home.floors: nothing stands beneath a "),
        ("by_number.1", "whose keys are not text is stored as pairs, and has no names beneath"),
    ],
)
def test_another_name_is_refused(name: Any, says: str) -> None:
    """The error says what is near, what would do, or why nothing will."""
    with pytest.raises(QueryError) as caught:
        place(SCHEMA, name)
    assert says in str(caught.value)


# --- values ---------------------------------------------------------------------------------------------------------

BERLIN = ZoneInfo("Europe/Berlin")
MOMENT = datetime(2024, 1, 2, 3, 4, 5, 6000, UTC)


@pytest.mark.parametrize(
    ("kind", "value", "found"),
    [
        (int, 5, 5),
        (int, Int64(5), 5),
        (int, 5.0, 5),
        (int, Level.low, 1),
        (float, 5.0, 5.0),
        (float | int, 5, 5),
        (Decimal, 5, Decimal(5)),
        (Decimal, "1.50", Decimal("1.50")),
        (Decimal, 0.1, Decimal("0.1")),
        (Decimal, Decimal128("1.50"), Decimal("1.50")),
        (str, "a", "a"),
        (SecretStr, "a", SecretStr("a")),
        (SecretBytes, b"a", SecretBytes(b"a")),
        (bytes, bytearray(b"a"), b"a"),
        (bytearray, b"a", bytearray(b"a")),
        (bytes, Binary(b"a"), b"a"),
        (UUID, str(UUID(int=5)), UUID(int=5)),
        (UUID, Binary.from_uuid(UUID(int=5)), UUID(int=5)),
        (ObjectId, "0" * 24, ObjectId("0" * 24)),
        (datetime, MOMENT, MOMENT),
        (datetime, "2024-01-02T03:04:05.006Z", MOMENT),
        (datetime, date(2024, 1, 2), datetime(2024, 1, 2)),
        (date, "2024-01-02", date(2024, 1, 2)),
        (date, datetime(2024, 1, 2), date(2024, 1, 2)),
        (date, datetime(2024, 1, 2, 1, tzinfo=timezone(timedelta(hours=1))), date(2024, 1, 2)),
        (time, "01:02", time(1, 2)),
        (timedelta, timedelta(1), timedelta(1)),
        (Fraction, "1/2", Fraction(1, 2)),
        (ipaddress.IPv4Address, "1.2.3.4", ipaddress.IPv4Address("1.2.3.4")),
        (AnyUrl, "http://a/", AnyUrl("http://a/")),
        (PurePosixPath, "/a", PurePosixPath("/a")),
        (ZoneInfo, "Europe/Berlin", BERLIN),
        (ByteSize, 5, ByteSize(5)),
        (Colour, "r", Colour.red),
        (Colour, 1, Colour.one),
        (Colour, Colour.red, Colour.red),
        (Literal["a", 1], 1, 1),
        (str | None, None, None),
        (list[str], ["a"], ["a"]),
        (list[str], "a", "a"),
        (list[str], ("a",), ["a"]),
        (list[UUID], str(UUID(int=5)), UUID(int=5)),
        (list[UUID], [str(UUID(int=5))], [UUID(int=5)]),
        (set[int], [1, 2], {1, 2}),
        (tuple[int, ...], [1.0], (1,)),
        (Home, {"city": "a", "zip": None, "floors": []}, Home(city="a")),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (UUID | int, 5, 5),
    ],
)
def test_a_value_is_brought_to_the_type_of_its_place(kind: Any, value: Any, found: Any) -> None:
    """From the forms in which people write it, as long as it can mean one thing only."""
    assert same(brought(kind, value), found)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (int, "5"),
        (int, True),
        (int, 5.5),
        (int, math.nan),
        (int, Decimal(5)),
        (float, True),
        (float, "5"),
        (Decimal, True),
        (Decimal, CANARY),
        (Decimal | float, "1.5.1"),
        (str, 5),
        (str, b"a"),
        (str, Colour.one),
        (Level, Colour.one),
        (Colour, CANARY),
        (Colour, Level.low),
        (bool, 1),
        (bytes, "a"),
        (bytes, Binary(b"a", 5)),
        (UUID, CANARY),
        (UUID, Binary(b"x" * 15, 4)),
        (ObjectId, CANARY),
        (datetime, CANARY),
        (datetime, 5),
        (date, datetime(2024, 1, 2, 3)),
        (date, datetime(2024, 1, 2, tzinfo=BERLIN)),
        (time, CANARY),
        (ipaddress.IPv4Address, CANARY),
        (ZoneInfo, CANARY),
        (Literal["a"], CANARY),
        (list[int], CANARY),
        (list[int], [CANARY]),
        (list[list[int]], 5),
        (Home, {"city": CANARY}),
        (Home, {"city": "a", "zip": None, "floors": [CANARY]}),
        (UUID | ObjectId, CANARY),
        (ipaddress.IPv4Address | PurePosixPath, "1.2.3.4"),  # one of two
        (str, ["a"]),
        (int, {"gt": 5}),
    ],
)
def test_a_value_of_another_type_is_refused_and_not_quoted(kind: Any, value: Any) -> None:
    """The error names the field, its type and that of the value: an honest answer would be none, and people would not see why."""
    with pytest.raises(QueryError, match=r"^field: this field is a .*, and the value given is a ") as caught:
        brought(kind, value)
    assert CANARY not in str(caught.value)
    assert caught.value.__context__ is None
    assert ("Operators begin with $: $gt" in str(caught.value)) == (isinstance(value, dict) and "gt" in value)


@pytest.mark.parametrize("kind", [str, int, list[str], UUID])
def test_none_is_refused_where_it_cannot_be(kind: Any) -> None:
    """MongoDB takes it for "not there"; the error says how to ask for that."""
    with pytest.raises(QueryError, match=r'here is never None. For documents without the field: \{"\$exists": False\}'):
        brought(kind, None)


@pytest.mark.parametrize("value", ["a", 5, 5.0, True, None, UUID(int=1), ObjectId("0" * 24), MOMENT])
def test_where_nothing_is_known_what_has_one_form_is_taken(value: Any) -> None:
    """Beneath a dict, say: a value that BSON stores in the same way wherever it stands."""
    assert meant(place(SCHEMA, "counts.a"), value).projected() is value


@pytest.mark.parametrize(
    "value", [Decimal(1), b"a", datetime(2024, 1, 1), date(2024, 1, 1), SecretStr(CANARY), [1], {"a": CANARY}, Colour.red]
)
def test_where_nothing_is_known_the_rest_is_refused(value: Any) -> None:
    """It has several forms, and only the type of the place would say which."""
    with pytest.raises(QueryError, match=r"cannot be compared exactly\. Filter by the whole field") as caught:
        meant(place(SCHEMA, "counts.a"), value)
    assert CANARY not in str(caught.value)


def test_what_is_projected_stands_for_one_value() -> None:
    """A Decimal that 34 digits cannot hold, a dict whose order MongoDB would compare: refused, without the value."""
    for kind, value, says in (
        (Decimal, Decimal("1." + "1" * 40), "field: a Decimal that 34 digits cannot hold exactly"),
        (dict[str, int], {CANARY: 1, "b": 2}, r"MongoDB compares dicts in the order of their keys. Filter by field\.<key>"),
    ):
        with pytest.raises(QueryError, match=says) as caught:
            meant(place(schema_of(kind), "field"), value).projected()
        assert CANARY not in str(caught.value)
    assert meant(place(schema_of(Decimal), "field"), Decimal("1.1")).projected() == Decimal128("1.1")
    assert meant(place(schema_of(dict[str, int]), "field"), {"a": 1}).projected() == {"a": 1}
    assert meant(place(schema_of(Decimal), "field"), Decimal("NaN")).projected().to_decimal().is_nan()


anything = st.recursive(
    st.one_of(
        *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.binary(max_size=3)),
        *(
            st.decimals(),
            st.datetimes(),
            st.dates(),
            st.uuids(),
            st.sampled_from([{1}, 1j, Point, Point(1), Home(city="a"), SCHEMA]),
        ),
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)


@settings(deadline=None)
@given(anything)
def test_any_value_means_something_or_is_refused(value: Any) -> None:
    """In every field: there is no other error than `QueryError`, and what is found is of the field's type."""
    for field in (*SCHEMA.names, "home.city", "counts.a", "tags.0", "grid.0"):
        on = place(SCHEMA, field)
        found = None
        with contextlib.suppress(QueryError):
            found = meant(on, value)
            found.projected()
        assert found is None or found.node is None or _fits(found.node, found.value)


# --- ids ------------------------------------------------------------------------------------------------------------


def with_id(kind: Any) -> Schema[Any]:
    return Schema.of(create_model("Model", __config__=ConfigDict(arbitrary_types_allowed=True), id=(kind, ...)))


@pytest.mark.parametrize(
    ("kind", "value", "stored"),
    [
        (UUID, UUID(int=5), UUID(int=5)),
        (UUID, str(UUID(int=5)), UUID(int=5)),
        (UUID, Binary.from_uuid(UUID(int=5)), UUID(int=5)),
        (ObjectId, ObjectId("0" * 24), ObjectId("0" * 24)),
        (ObjectId, "0" * 24, ObjectId("0" * 24)),
        (ObjectId | None, ObjectId("0" * 24), ObjectId("0" * 24)),
        (int, 5, 5),
        (int, Int64(5), 5),
        (str, "a", "a"),
        (Colour, Colour.red, "red"),
        (Colour, "r", "red"),
        (Word, Word.a, "x"),
        (Word, "x", "x"),
        (Point, Point(1), {"x": 1}),
    ],
)
def test_an_id_as_it_is_stored(kind: Any, value: Any, stored: Any) -> None:
    """From the model's own type, or from a form in which people write it."""
    assert identity_value(with_id(kind), value) == stored


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        (UUID, None, "id: None names no document"),
        (ObjectId | None, None, "id: None names no document"),
        (UUID, CANARY, "id: this field is a UUID"),
        (UUID, ObjectId("0" * 24), "id: this field is a UUID"),
        (int, "5", "id: this field is a int"),
        (int, 2**63, "cannot be an _id|BSON cannot hold"),
        (str, CANARY + "\ud800", "cannot be an _id"),
        (str, ["a"], "id: this field is a str"),
        (int, {"$gt": 5}, "id: this field is a int"),
    ],
)
def test_what_is_no_id_is_refused(kind: Any, value: Any, says: str) -> None:
    """Before anything is asked for; without the value."""
    with pytest.raises(QueryError, match=says) as caught:
        identity_value(with_id(kind), value)
    assert CANARY not in str(caught.value)


def test_a_whole_model_is_no_id() -> None:
    """The error says what is wanted."""
    with pytest.raises(QueryError, match="a whole Person was given where its id is wanted"):
        identity_value(SCHEMA, Person(id=UUID(int=1), tenant=""))


# --- what is stored -------------------------------------------------------------------------------------------------


def in_bson(value: Any) -> Any:
    """A projection, as it comes back from the database."""
    return envelope.as_stored(value)


def can_stand_in_the_clear(kind: Any) -> bool:
    try:
        schema_of(kind)
    except SchemaError:
        return False
    return True


@pytest.mark.parametrize("name", [name for name, (kind, _) in EVERY_TYPE.items() if can_stand_in_the_clear(kind)])
def test_what_is_stored_comes_back_in_the_fields_type(name: str) -> None:
    """Where BSON holds it as it is; otherwise as BSON has it. It is never another value, and never an error."""
    kind, values = EVERY_TYPE[name]
    schema = schema_of(kind)
    node = place(schema, "field").node
    assert node is not None
    for value in values:
        stored = in_bson(node.projected(value))
        found = from_stored(schema, "field", stored)
        if _fits(node, found):
            assert bson.encode({"": node.projected(found)}, codec_options=envelope.CODEC_OPTIONS) == bson.encode(
                {"": stored}, codec_options=envelope.CODEC_OPTIONS
            )
        else:
            assert same(found, plain(stored))


@pytest.mark.parametrize(
    ("kind", "stored", "found"),
    [
        (int, Int64(5), 5),
        (timedelta, 1500, timedelta(milliseconds=1500)),
        (Decimal, Decimal128("1.50"), Decimal("1.50")),
        (Word, "x", Word.a),
        (Word, "gone", "gone"),
        (Level, 1, Level.low),
        (Colour, "red", Colour.red),
        (Colour, "gone", "gone"),
        (Swapped, "a", Swapped.a),
        (Swapped, "b", Swapped.b),
        (int, "text", "text"),
        (int, None, None),
        (UUID, UUID(int=5), UUID(int=5)),
        (list[Word], ["x", "y"], [Word.a, Word.b]),
        (list[Word], "x", Word.a),
        (list[timedelta], 1500, timedelta(milliseconds=1500)),
        (ipaddress.IPv4Address, "1.2.3.4", ipaddress.IPv4Address("1.2.3.4")),
        (date, datetime(2024, 1, 2, tzinfo=UTC), date(2024, 1, 2)),
        (datetime, MOMENT, MOMENT),
        (str | None, None, None),
        (int | str, "5", "5"),
    ],
)
def test_stored_values_and_their_types(kind: Any, stored: Any, found: Any) -> None:
    """Also an element of a list; what the model no longer knows stays as BSON has it."""
    assert same(from_stored(schema_of(kind), "field", stored), found)
    assert same(from_stored(schema_of(kind), "f", stored), found)


hostile = st.recursive(
    st.one_of(
        *(
            st.none(),
            st.booleans(),
            st.integers(-(2**63), 2**63 - 1),
            st.floats(),
            st.text(max_size=4),
            st.binary(max_size=17),
            st.uuids(),
        ),
        *(st.binary(min_size=12, max_size=12).map(ObjectId), st.binary(min_size=16, max_size=16).map(Decimal128.from_bid)),
        st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)),
        st.builds(Binary, st.binary(max_size=17), st.sampled_from([0, 2, 5, 6, 128])),
        st.sampled_from([bson.Regex("a"), bson.Timestamp(1, 1), bson.MinKey(), bson.MaxKey(), bson.DatetimeMS(2**62)]),
        st.builds(bson.Code, st.sampled_from(["red", "x"])),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc$", max_size=2), inner, max_size=3),
    max_leaves=5,
)
FIELDS = [
    *(
        int,
        float,
        str,
        bool,
        bytes,
        Decimal,
        UUID,
        ObjectId,
        date,
        datetime,
        time,
        timedelta,
        Colour,
        Fraction,
        ZoneInfo,
    ),
    *(
        list[int],
        list[UUID],
        set[Colour],
        dict[str, int],
        dict[int, str],
        Home,
        Point,
        int | str | None,
        ipaddress.IPv6Address,
        AnyUrl,
    ),
]
HOSTILE = Schema.of(
    create_model(
        "Model",
        __config__=ConfigDict(arbitrary_types_allowed=True),
        id=(int, 1),
        **{f"f{number}": (Annotated[kind, Queryable()], ...) for number, kind in enumerate(FIELDS)},  # type: ignore[call-overload]
    )
)


@settings(deadline=None, max_examples=300)
@given(hostile)
def test_whatever_is_stored_comes_back_as_itself_or_in_the_fields_type(stored: Any) -> None:
    """A group of an aggregation is not verified: any BSON may come. There is no error, and nothing becomes another value."""
    options = envelope.CODEC_OPTIONS.with_options(uuid_representation=UuidRepresentation.STANDARD)
    value = bson.decode(bson.encode({"": stored}, codec_options=options), options)[""]
    for number in range(len(FIELDS)):
        found = from_stored(HOSTILE, f"f{number}", value)
        node = place(HOSTILE, f"f{number}").node
        assert node is not None
        if type(found) is not type(value) and not isinstance(value, Int64):
            held = node if _fits(node, found) else node.item
            assert held is not None
            assert same_in_mongodb(held.projected(found), value)  # 5 is Decimal128("5")


def _fits(node: Any, value: Any) -> bool:
    try:
        node.check(value)
    except Exception:  # noqa: BLE001 - whatever it is, it does not fit
        return False
    return True
