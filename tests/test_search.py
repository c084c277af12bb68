"""Filters on blind indexes against their twin: the same filter on the same documents in the clear, in the same mongod.

What is promised is short: the same documents, or `QueryError`; never a different answer. So each filter is put twice, to a
repository and to a plain collection, and every flow that takes a filter has to say the same. `Value` holds both forms of a value:
the one that the repository is given, in any form that people write, and the one that BSON has for it in the clear. Where a
normaliser makes two values one, the twin holds and is asked for the normal form, which is computed here by itself.

The documents are few and their values fewer, so that everything collides: with each other, in buckets, and by chance, in indexes of
8 bits. Each test runs at every stage of a rotation of the index key.
"""

from __future__ import annotations

import enum
import math
import os
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Final
from uuid import UUID, uuid4

import pytest
from bson import Decimal128, Int64, Regex
from conftest import Driver
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, Field, SecretStr
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from mongo_envelope import BlindIndex, Bucket, IndexKey, KeyRing, Queryable, QueryError, Repository, Sensitive
from mongo_envelope.answer import comparable, has_operators

#: Filters of the long campaign. The environment variable is for trying out.
CAMPAIGN = int(os.environ.get("MONGO_ENVELOPE_SEARCH_FILTERS", "50000"))
PEOPLE: Final = 60


class Home(BaseModel):
    city: str
    floors: list[int]


class Grade(enum.Enum):
    first = 1
    second = "b"


def whole(value: Decimal) -> Decimal:
    return value.quantize(Decimal(1))


class Person(BaseModel):
    id: int
    rank: Annotated[int, Queryable()]  #: no two have the same: to sort by
    tenant: Annotated[str, Queryable()]
    tags: Annotated[list[str], Queryable()]
    count: Annotated[int | None, Queryable()]
    home: Annotated[Home, Queryable()]
    email: Annotated[str | None, Sensitive(index=BlindIndex(none=True))]
    name: Annotated[str, Sensitive(index=BlindIndex(normalize="casefold"))]
    code: Annotated[int, Sensitive(index=BlindIndex(bits=8))]
    score: Annotated[float, Sensitive(index=[Bucket(width=10, low=0, high=100), BlindIndex()])]
    amount: Annotated[Decimal, Field(allow_inf_nan=True), Sensitive(index=Bucket(width=10))]
    born: Annotated[date | None, Sensitive(index=[BlindIndex(), Bucket(width="month")])]
    seen: Annotated[datetime, Sensitive(index=Bucket(width="year", low=date(2000, 1, 1), high=date(2030, 12, 31)))]
    phones: Annotated[list[str], Sensitive(index=BlindIndex())]
    nums: Annotated[list[int | None], Sensitive(index=BlindIndex(bits=8, none=True))]
    aliases: Annotated[list[str] | None, Sensitive(index=BlindIndex(none=True))]
    key: Annotated[UUID, Sensitive(index=BlindIndex(within=("tenant",)))]
    secret: Annotated[SecretStr, Sensitive(index=BlindIndex(bits=16))]
    note: Annotated[str, Sensitive()]
    # What is equal in MongoDB and not the same in Python:
    ratio: Annotated[int | float, Sensitive(index=BlindIndex())]
    price: Annotated[float | Annotated[Decimal, Field(allow_inf_nan=True)], Sensitive(index=BlindIndex())]
    due: Annotated[date | datetime, Sensitive(index=BlindIndex())]
    at: Annotated[datetime, Sensitive(index=BlindIndex())]
    badge: Annotated[int, Sensitive(index=BlindIndex(within=("at", "ratio")))]
    grade: Annotated[Grade, Sensitive(index=BlindIndex(few_values=True))]
    alive: Annotated[bool, Sensitive(index=BlindIndex(few_values=True))]
    blob: Annotated[bytes, Sensitive(index=BlindIndex(bits=8))]
    extras: Annotated[list[str] | None, Sensitive(index=BlindIndex())]
    rounded: Annotated[Decimal, AfterValidator(whole), Sensitive(index=Bucket(width=10, low=0, high=100))]


@dataclass(frozen=True)
class Value:
    """One value, as the repository is given it, and as it stands in the twin."""

    given: Any
    plain: Any


def same(*values: Any) -> list[Value]:
    """Values that are the same in both."""
    return [Value(each, each) for each in values]


def folded(text: str) -> Value:
    return Value(text, nfc(nfc(text).casefold()))


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def decimal(text: str) -> Value:
    return Value(Decimal(text), Decimal128(text))


def day(text: str | None) -> Value:
    return Value(text and date.fromisoformat(text), text and datetime.fromisoformat(text))


CET: Final = timezone(timedelta(hours=1))
WEST: Final = timezone(timedelta(hours=-1))
E_ACUTE, E_AND_ACUTE = "\u00e9", "e\u0301"

#: What the documents hold.
STORED: Final[dict[str, list[Value]]] = {
    "tenant": same("a", "b", "c"),
    "tags": same([], ["x"], ["y", "x"], ["x", "y", "x"], ["z"]),
    "count": same(None, 0, 1, 2, 3, 7),
    "email": [*same(None, "ada@x", "Ada@x", "bob@x"), *(Value(each, E_ACUTE) for each in (E_ACUTE, E_AND_ACUTE))],
    "name": [*map(folded, ("Ada", "ADA", "stra\u00dfe", "STRASSE", "\u00c9va", E_AND_ACUTE + "va", "Bob"))],
    "code": same(*range(40)),
    "score": same(0.0, -0.0, 5.0, 9.999, 10.0, 19.5, 55.5, 100.0, 101.5, -3.0, *map(float, ("inf", "-inf", "nan"))),
    "amount": [*map(decimal, ("0", "-0.00", "9.99", "10", "10.00", "-5", "1E+2", "250", "0.1", "NaN", "Infinity", "-Infinity"))],
    "born": [*map(day, (None, "1999-12-31", "2000-01-01", "2000-01-31", "2000-02-01", "2010-06-15", "0001-01-01", "9999-12-31"))],
    "seen": same(
        datetime(1999, 12, 31, 23, 30, tzinfo=UTC),
        datetime(2000, 1, 1, 0, 30, tzinfo=CET),  # the same moment
        datetime(2000, 1, 1, tzinfo=UTC),
        datetime(2010, 5, 5, 12, 0, 0, 1000, tzinfo=UTC),
        datetime(2010, 5, 5, 12, tzinfo=UTC),
        datetime(1850, 1, 1, tzinfo=UTC),
        datetime(2050, 1, 1, tzinfo=UTC),
        datetime(2031, 1, 1, tzinfo=CET),
    ),
    "phones": same([], ["1"], ["2", "1"], ["1", "1"], ["3", "2", "1"], ["3"]),
    "nums": same([], [1], [None], [1, None, 2], [2, 3], [3, 3]),
    "aliases": same(None, [], ["p"], ["p", "q"], ["q", "r"]),
    "key": same(*(UUID(int=each) for each in range(1, 4))),
    "secret": [Value(SecretStr(each), each) for each in ("s", "t", "u", "v")],
    "note": same("n", "m"),
    "ratio": same(0, -0.0, 5, 5.0, 5.5, 6, 2**53, float(2**53), 2**53 + 1, math.inf, math.nan),
    "price": [
        *same(0.1, 0.5, 5.0, math.inf, math.nan, -0.0),
        *map(decimal, ("0.1", "0.5", "5.00", "5", "Infinity", "NaN", "0")),
    ],
    "due": [
        *map(day, ("2020-01-01", "2020-01-02", "9999-12-31", "0001-01-01")),
        *same(datetime(2020, 1, 2), datetime(2020, 1, 2, 1, tzinfo=CET), datetime(2020, 1, 2, 12)),
    ],
    "at": same(
        datetime(2020, 1, 1),
        datetime(2020, 1, 1, tzinfo=UTC),
        datetime(2020, 1, 1, 1, tzinfo=CET),
        datetime(2020, 1, 1, 1),
        datetime(9999, 12, 31, 23, 30),
    ),
    "badge": same(1, 2, 3),
    "grade": [Value(each, each.value) for each in Grade],
    "alive": same(True, False),
    "blob": same(b"", b"a", b"b", "\u00e9".encode()),
    "extras": same(None, [], ["e"], ["f", "e"]),
    "rounded": [*map(decimal, ("0", "10", "11", "99", "250"))],
}


def elements(name: str, *more: Any) -> list[Value]:
    """Those of the lists that are stored, and some that are not."""
    found = dict.fromkeys(element for each in STORED[name] for element in each.given or ())
    return same(*found, *more)


#: What is asked for: what is stored, other values, and other forms of them.
ASKED: Final[dict[str, list[Value]]] = STORED | {
    "tenant": same("a", "b", "d"),
    "tags": [*elements("tags", "w"), *same(["x"], ["y", "x"], [])],
    "tags.0": same("x", "y", "w"),
    "count": same(None, 0, 1, 2, 3, 2.0),
    "home.city": same("Rome", "Sion", ""),
    "home.floors": same(0, 1, 2, [1, 2], []),
    "home.floors.0": same(0, 1, 2),
    "email": [*STORED["email"], *same("none@x", "")],
    "name": [*STORED["name"], *map(folded, ("\u00e9VA", "strasse", ""))],
    "code": same(*range(44), -1, 7.0, Int64(9), 2**40),
    "score": [*STORED["score"], *same(10, 0, 100, Int64(5), 5.5, -1e300)],
    "amount": [
        *STORED["amount"],
        *map(decimal, ("100", "99.999", "20", "sNaN")),
        *(Value(each, Decimal128(str(each))) for each in (10, "9.99", 0.1, 9.99)),
        *same(Decimal128("10.0")),
    ],
    "born": [
        *STORED["born"],
        *map(day, ("2000-01-15", "2011-01-01")),
        Value("2000-01-31", datetime(2000, 1, 31)),
        Value(datetime(2000, 2, 1, 1, tzinfo=CET), datetime(2000, 2, 1)),
        *same(datetime(2000, 2, 1)),
    ],
    "seen": [
        *STORED["seen"],
        Value(date(2000, 1, 1), datetime(2000, 1, 1)),
        Value("2010-05-05T12:00:00Z", datetime(2010, 5, 5, 12, tzinfo=UTC)),
        *same(datetime(2010, 5, 5, 12), datetime(2020, 1, 1)),
    ],
    "phones": elements("phones", "4"),
    "nums": elements("nums", 4, 2.0),
    "aliases": elements("aliases", "w", None),
    "key": [*STORED["key"], Value(str(UUID(int=1)), UUID(int=1)), *same(UUID(int=9))],
    "secret": [*STORED["secret"], *same("s", "w")],
    "ratio": [*STORED["ratio"], *same(Int64(6), 6.0, 0.5, 4.999, 2**62)],
    "price": [*STORED["price"], *same(0.25), *map(decimal, ("0.25", "0.10", "sNaN"))],
    "due": [
        *STORED["due"],
        *same(datetime(2020, 1, 2, tzinfo=UTC), datetime(2020, 1, 1, 23, tzinfo=WEST), datetime(2020, 1, 1, 12)),
    ],
    "at": [*STORED["at"], *same(datetime(2019, 12, 31, 23, tzinfo=WEST), datetime(2021, 1, 1))],
    "grade": [*STORED["grade"], *same(1, 1.0, "b")],
    "blob": [*STORED["blob"], *same(b"c")],
    "extras": elements("extras", "g"),
    "rounded": [*STORED["rounded"], *map(decimal, ("10.00", "55")), *(Value(each, Decimal128(str(each))) for each in (0, 11.0))],
}
#: What no document can hold there, or what the repository does not serve: MongoDB finds nothing by it, or more than was meant.
ALIEN: Final[dict[str, list[Value]]] = {
    "tenant": same(1, None),
    "tags": same(1, None, ["x", 1]),
    "count": same(2.5, "2", True),
    "home.city": same(1, None),
    "home.floors": same("1", 0.5, True),
    "email": same(5, True, ["ada@x"]),
    "name": same(None, 5, b"Ada"),
    "code": same(None, "7", 7.5, True),
    "score": same(None, "5", True, 2**53 + 1),
    "amount": same(None, True),
    "born": same(datetime(2000, 2, 1, 12), "2000", True, 5),
    "seen": same(None, 5, "then"),
    "phones": same(None, 1, ["1"], []),
    "nums": same("1", True, 1.5, [None], []),
    "aliases": same(5, ["p"], []),
    "key": same(None, 5, "1"),
    "secret": same(None, 5),
    "ratio": same(None, "5", True),
    "price": same(None, True),
    "due": same(None, 5, True),
    "at": same(None, 5, True),
    "badge": same(None, "1"),
    "grade": same(None, "first", 2, True),
    "alive": same(None, 1, "True", 0.0),
    "blob": same(None, "a"),
    "extras": same(None, ["e"], 1),
    "rounded": same(None, True),
}
#: The fields that a compound index needs beside its own.
WITHIN: Final = {"key": ("tenant",), "badge": ("at", "ratio")}
BUCKETS: Final = ("score", "amount", "born", "seen", "rounded")
LISTS: Final = ("tags", "phones", "nums", "aliases", "home.floors", "extras")
EQUALS: Final = ("email", "name", "code", "secret", "ratio", "price", "due", "at", "grade", "alive", "blob")
BLIND: Final = (*EQUALS, *BUCKETS, *WITHIN, "phones", "nums", "aliases", "extras")
CLEAR: Final = ("tenant", "tags", "tags.0", "count", "home.city", "home.floors", "home.floors.0")
#: Of the names, those whose values can be compared with each other.
ORDERED: Final = (*BUCKETS, "tenant", "count", "home.city", "home.floors", "home.floors.0")


def resolved(where: Any, form: Callable[[Value], Any]) -> Any:
    """A filter with one of the two forms of each value in it."""
    if isinstance(where, Value):
        return form(where)
    if isinstance(where, dict):
        return {name: resolved(each, form) for name, each in where.items()}
    return [resolved(each, form) for each in where] if isinstance(where, list) else where


def given_of(where: Any) -> Any:
    return resolved(where, lambda value: value.given)


def plain_of(where: Any) -> Any:
    return resolved(where, lambda value: value.plain)


# ---------------------------------------------------------------------------------------------------------------------
# The documents, at each stage.


def people() -> list[dict[str, Value]]:
    """The documents, always the same: each value often, and no combination on purpose."""
    chance = random.Random(60)  # noqa: S311 - not for secrets
    found = []
    for number in range(PEOPLE):
        home = {"city": chance.choice(["Rome", "Sion", "Turin"]), "floors": chance.choice([[], [0], [1, 2], [2, 1, 0]])}
        fields = {name: chance.choice(values) for name, values in STORED.items()}
        rank = Value((number * 37) % PEOPLE, (number * 37) % PEOPLE)
        found.append(fields | {"id": Value(number, number), "rank": rank, "home": Value(Home.model_validate(home), home)})
    return found


def twin_of(person: Mapping[str, Value]) -> dict[str, Any]:
    """What an unencrypted document would hold."""
    return {"_id" if name == "id" else name: value.plain for name, value in person.items()}


@dataclass(frozen=True)
class Stage:
    """Documents at one stage of the rotation of an index key, and their twin."""

    repository: Any
    twin: Any
    copy: Any  #: a repository of its own, for what deletes


OLD: Final = KeyRing.generate()
BOTH: Final = OLD.with_index_key(IndexKey.generate())
NEW: Final = BOTH.searching_by(BOTH.index_keys[1])
ONLY: Final = NEW.writing_only(BOTH.index_keys[1])
#: name → the rings that the halves of the collection were written with, and the one that it is read with
STAGES: Final[dict[str, tuple[KeyRing, KeyRing, KeyRing]]] = {
    "one key": (OLD, OLD, OLD),
    "two begun, by the old": (OLD, BOTH, BOTH),
    "two, by the old": (BOTH, BOTH, BOTH),
    "two, by the new": (BOTH, BOTH, NEW),
    "one left, by the new": (NEW, ONLY, ONLY),
}


@pytest.fixture(scope="module")
def stages(client: MongoClient[dict[str, Any]]) -> Iterator[dict[str, Stage]]:
    """The same documents at every stage."""
    database = client[f"test-{uuid4().hex[:12]}"]
    database.twin.insert_many([twin_of(each) for each in people()])
    made = {}
    for number, (name, (first, second, reading)) in enumerate(STAGES.items()):
        collection = database[f"people{number}"]
        models = [Person(**{field: value.given for field, value in each.items()}) for each in people()]
        for ring, half in ((first, models[::2]), (second, models[1::2])):
            Repository(Person, collection, keys=ring).save_many(half)
        database[f"copy{number}"].insert_many(collection.find())
        made[name] = Stage(
            Repository(Person, collection, keys=reading),
            database.twin,
            Repository(Person, database[f"copy{number}"], keys=reading, context=collection.name),
        )
    yield made
    client.drop_database(database.name)


# ---------------------------------------------------------------------------------------------------------------------
# Each flow, and what the twin says.


def ids(cursor: Any) -> list[int]:
    return [each.id if isinstance(each, Person) else each["_id"] for each in cursor]


def find(stage: Stage, given: Any, plain: Any) -> tuple[Any, Any]:
    return ids(stage.repository.find(given, sort="rank")), ids(stage.twin.find(plain).sort("rank", 1))


def page(stage: Stage, given: Any, plain: Any) -> tuple[Any, Any]:
    """Some from the middle, by options and by the methods of the cursor."""
    asked = ids(stage.repository.find(given, sort=[("rank", -1)], skip=2, limit=5))
    assert asked == ids(stage.repository.find(given).sort("rank", -1).skip(2).limit(5))
    return asked, ids(stage.twin.find(plain).sort("rank", -1).skip(2).limit(5))


def find_one(stage: Stage, given: Any, plain: Any) -> tuple[Any, Any]:
    asked = stage.repository.find_one(given, sort=[("rank", -1)])
    first = stage.repository.find(given).sort("rank", -1).first()
    answer = stage.twin.find_one(plain, sort=[("rank", -1)])
    return (asked and asked.id, first and first.id), (answer and answer["_id"],) * 2


def count(stage: Stage, given: Any, plain: Any) -> tuple[Any, Any]:
    return stage.repository.count(given), stage.twin.count_documents(plain)


def exists(stage: Stage, given: Any, plain: Any) -> tuple[Any, Any]:
    return stage.repository.exists(given), stage.twin.find_one(plain) is not None


def distinct(stage: Stage, given: Any, plain: Any) -> tuple[Any, Any]:
    """Of a field, of a list and of a path, in any order, and each value once."""
    names = ("home.city", "tags", "tags.0")
    asked = [Counter(map(comparable, stage.repository.distinct(name, given))) for name in names]
    return asked, [Counter(map(comparable, stage.twin.distinct(name, plain))) for name in names]


def delete_many(stage: Stage, given: Any, plain: Any) -> tuple[Any, Any]:
    """In a copy, which is whole again afterwards: how many, and what is left."""
    copy = stage.copy._flows.collection
    deleted = stage.copy.delete_many(given)
    left = sorted(ids(copy.find({}, {"_id": 1})))
    if lost := [each for each in stage.repository._flows.collection.find() if each["_id"] not in left]:
        copy.insert_many(lost)
    gone = set(ids(stage.twin.find(plain)))
    return (deleted, left), (len(gone), sorted(set(range(PEOPLE)) - gone))


#: What a filter may call an index by, and whose it is.
INDEXES: Final = {"tenant_key": "key", "score_bucket": "score", "born_bucket": "born"}
FLOWS: Final = (find, page, find_one, count, exists, distinct, delete_many)


def is_served(stage: Stage, where: Any, flow: Callable[..., tuple[Any, Any]] = find) -> bool:
    """Whether a filter is answered. Then the answer is the twin's; and what mongod refuses is refused here, too."""
    given, plain = given_of(where), plain_of(where)
    plain = {INDEXES.get(name, name): each for name, each in plain.items()}
    try:
        asked, answer = flow(stage, given, plain)
    except QueryError:
        return False
    except OperationFailure:
        pytest.fail(f"mongod was asked what it does not take: {given}")
    assert asked == answer, f"{flow.__name__}: {given}"
    return True


# ---------------------------------------------------------------------------------------------------------------------
# Tables.

ADA = folded("aDA")
D = decimal
JANUARY, FEBRUARY = day("2000-01-01"), day("2000-02-01")
KEY = Value(UUID(int=1), UUID(int=1))
BETWEEN = {"$gte": D("0"), "$lt": D("10")}

SERVED: Final[list[dict[str, Any]]] = [
    # equality, in each kind of index
    {"email": "ada@x"},
    {"email": None},
    {"email": {"$eq": "Ada@x"}},
    {"email": Value(E_AND_ACUTE, E_ACUTE)},
    {"name": ADA},
    {"name": folded("STRASSE")},
    {"code": 7},
    {"code": {"$eq": 7.0}},
    {"score": 5.0},
    {"score": 5},
    {"score": -0.0},
    {"score": float("nan")},
    {"score": float("inf")},
    {"amount": D("10.0")},
    {"amount": Value(0.1, Decimal128("0.1"))},
    {"born": JANUARY},
    {"born": Value("2000-01-01", datetime(2000, 1, 1))},
    {"seen": datetime(1999, 12, 31, 23, 30, tzinfo=UTC)},
    {"seen": datetime(2010, 5, 5, 12)},
    {"phones": "1"},
    {"nums": 1},
    {"nums": None},
    {"aliases": None},
    {"aliases": "p"},
    {"tenant": "a", "key": KEY},
    {"tenant": {"$in": ["a", "b"]}, "key": Value(str(UUID(int=1)), UUID(int=1))},
    {"secret": "s"},
    {"secret": Value(SecretStr("s"), "s")},
    {"ratio": 5.0},
    {"price": D("0.5")},
    {"due": datetime(2020, 1, 2)},
    {"at": datetime(2020, 1, 1)},
    {"at": datetime(2020, 1, 1, tzinfo=UTC), "ratio": 5, "badge": 1},
    {"grade": "b"},
    {"alive": True},
    {"blob": b"a"},
    # $in, $nin, $ne, $not
    {"email": {"$in": ["ada@x", None, "nobody@x"]}},
    {"email": {"$in": []}},
    {"email": {"$nin": []}},
    {"email": {"$ne": None}},
    {"email": {"$nin": ["ada@x", None]}},
    {"email": {"$not": {"$eq": "ada@x"}}},
    {"email": {"$not": {"$not": {"$eq": "ada@x"}}}},
    {"email": {"$not": {"$ne": "ada@x"}}},
    {"email": {"$not": {"$in": ["ada@x"]}}},
    {"name": {"$ne": ADA}},
    {"code": {"$ne": 7}},
    {"code": {"$in": list(range(0, 40, 3))}},
    {"code": {"$nin": list(range(0, 40, 3))}},
    {"code": {"$in": []}},
    {"code": {"$nin": []}},
    {"score": {"$ne": float("nan")}},
    {"score": {"$nin": [5, 0]}},
    {"amount": {"$ne": D("10")}},
    {"amount": {"$in": [D("10"), D("0")]}},
    {"amount": {"$nin": [D("10"), D("0")]}},
    {"amount": {"$in": []}},
    {"born": {"$ne": JANUARY}},
    {"seen": {"$ne": datetime(2010, 5, 5, 12, tzinfo=UTC)}},
    {"phones": {"$ne": "1"}},
    {"phones": {"$nin": ["2", "3"]}},
    {"phones": {"$in": ["2", "3"]}},
    {"phones": {"$not": {"$in": ["2", "3"]}}},
    {"nums": {"$ne": None}},
    {"nums": {"$nin": [1, None]}},
    {"aliases": {"$ne": None}},
    {"aliases": {"$nin": ["p"]}},
    {"tenant": "a", "key": {"$ne": KEY}},
    {"tenant": {"$in": ["a", "c"]}, "key": {"$nin": [KEY]}},
    {"secret": {"$ne": "s"}},
    {"secret": {"$nin": ["s", "t"]}},
    # $all, $elemMatch
    {"phones": {"$all": ["1"]}},
    {"phones": {"$all": ["1", "2"]}},
    {"phones": {"$not": {"$all": ["1", "2"]}}},
    {"nums": {"$all": [1, None]}},
    {"nums": {"$not": {"$all": [1, 2]}}},
    {"aliases": {"$all": ["p", "q"]}},
    {"aliases": {"$all": [None]}},
    {"email": {"$all": ["ada@x"]}},
    {"code": {"$all": [7, 8]}},
    {"extras": "e"},
    {"extras": {"$ne": "e"}},
    {"extras": {"$elemMatch": {"$ne": "e"}}},
    {"extras": {"$not": {"$elemMatch": {"$ne": "e"}}}},
    {"extras": {"$elemMatch": {"$in": ["e", "f"], "$nin": ["e"]}}},
    {"aliases": {"$elemMatch": {"$eq": None}}},
    {"aliases": {"$elemMatch": {"$in": [None, "p"]}}},
    {"aliases": {"$elemMatch": {"$nin": []}}},
    {"aliases": {"$not": {"$elemMatch": {"$eq": None}}}},
    {"phones": {"$elemMatch": {"$eq": "1"}}},
    {"phones": {"$elemMatch": {"$ne": "1"}}},
    {"phones": {"$elemMatch": {"$in": ["1", "2"], "$ne": "1"}}},
    {"phones": {"$elemMatch": {"$nin": ["1"], "$eq": "1"}}},
    {"phones": {"$elemMatch": {"$nin": []}}},
    {"phones": {"$not": {"$elemMatch": {"$ne": "1"}}}},
    {"nums": {"$elemMatch": {"$ne": 1}}},
    {"nums": {"$elemMatch": {"$eq": None}}},
    {"nums": {"$elemMatch": {"$nin": [None, 3]}}},
    {"nums": {"$not": {"$elemMatch": {"$in": [None, 3]}}}},
    {"aliases": {"$elemMatch": {"$eq": "p"}}},
    {"aliases": {"$not": {"$elemMatch": {"$eq": "p"}}}},
    {"aliases": {"$elemMatch": {"$ne": "p"}}},
    {"aliases": {"$not": {"$elemMatch": {"$nin": ["p"]}}}},
    # ranges
    {"score": {"$gt": 5}},
    {"score": {"$gte": 5, "$lt": 55.5}},
    {"score": {"$lte": 0}},
    {"score": {"$lt": float("inf")}},
    {"score": {"$gte": float("inf")}},
    {"score": {"$gt": 100, "$lte": 101.5}},
    {"score": {"$gt": 9, "$lt": 5}},
    {"score": {"$not": {"$gt": 5}}},
    {"score": {"$not": {"$gte": 5, "$lt": 55.5}}},
    {"score": {"$gte": 5, "$ne": 10}},
    {"score": {"$gte": 5, "$in": [10, 0]}},
    {"score": {"$gte": 5, "$gt": 5, "$lt": 100, "$lte": 10}},
    {"amount": BETWEEN},
    {"amount": {"$gt": D("9.99"), "$lte": 10}},
    {"amount": {"$not": BETWEEN}},
    {"amount": BETWEEN | {"$ne": D("9.99")}},
    {"born": {"$gte": JANUARY, "$lt": FEBRUARY}},
    {"born": {"$not": {"$gte": JANUARY, "$lt": FEBRUARY}}},
    {"seen": {"$lt": datetime(2000, 1, 1, tzinfo=UTC)}},
    {"seen": {"$gt": datetime(2010, 5, 5, 12, tzinfo=UTC)}},
    {"seen": {"$gte": Value(date(2000, 1, 1), datetime(2000, 1, 1)), "$lt": datetime(2010, 5, 5, 12, 0, 0, 1000)}},
    {"seen": {"$not": {"$lt": datetime(2000, 1, 1, tzinfo=UTC)}}},
    {"rounded": {"$gt": D("10.4")}},
    {"rounded": {"$gt": D("9.6"), "$lte": D("10.4")}},
    {"rounded": {"$gte": D("10.4"), "$lt": D("98.7")}},
    {"rounded": {"$not": {"$lt": D("10.6")}}},
    # $and, $or, $nor, and what stands beside
    {},
    {"$and": [{"email": "ada@x"}, {"code": {"$ne": 7}}]},
    {"$and": [{"phones": "1"}, {"phones": "2"}]},
    {"$and": [{"code": {"$ne": 3}}, {"code": {"$ne": 4}}], "code": {"$nin": [5, 6]}},
    {"$and": [{"phones": "1"}], "nums": {"$all": [1, 2]}, "aliases": {"$all": ["p"]}},
    {"$nor": [{"email": "ada@x"}], "phones": {"$nin": ["3"]}, "aliases": {"$ne": "p"}, "tags": {"$ne": "z"}},
    {"$or": [{"email": "ada@x"}, {"code": {"$in": [1, 2, 3]}}]},
    {"$or": [{"email": "ada@x"}, {"amount": BETWEEN}, {"tenant": "b"}]},
    {"$or": [{"code": {"$ne": 7}}, {"tenant": "a"}]},
    {"$nor": [{"email": "ada@x"}, {"tenant": "b"}]},
    {"$nor": [{"code": {"$in": list(range(20))}}]},
    {"$nor": [{"amount": BETWEEN}, {"phones": "1"}]},
    {"$nor": [{"$nor": [{"code": {"$in": [1, 2, 3]}}]}]},
    {"$nor": [{"$and": [{"phones": "1"}, {"nums": 1}]}, {"$or": [{"score": {"$gt": 5}}, {"email": None}]}]},
    {"$nor": [{"email": {"$ne": "ada@x"}}]},
    {"$nor": [{"tenant": "a", "key": KEY}]},
    {"$nor": [{"key": KEY}], "tenant": "b"},
    {"$or": [{"key": KEY}, {"code": 3}], "$and": [{"tenant": {"$in": ["a", "b"]}}]},
    {"$or": [{"tenant": "a", "key": KEY}, {"tenant": "b", "key": {"$ne": KEY}}]},
    {"tenant": "a", "$or": [{"tenant": "b", "key": KEY}]},
    {"email": "ada@x", "tenant": {"$ne": "a"}, "count": {"$gte": 1}, "tags": "x"},
    {"code": {"$ne": 7}, "tags": {"$all": ["x", "y"]}},
    {"code": {"$in": [1, 2, 3, 4, 5, 6]}, "$expr": {"$gt": ["$count", 1]}},
    {"email": {"$ne": None}, "$expr": {"$eq": ["$home.city", "Rome"]}},
    {"phones": {"$elemMatch": {"$ne": "1"}}, "home.city": "Rome", "home.floors.0": {"$lt": 2}},
    {"email": "ada@x", "tenant": {"$regex": "^[ab]"}},
    {"code": {"$nin": [1, 2]}, "tenant": {"$regex": "^[ab]"}},
    {"tags": {"$exists": True}, "count": {"$exists": False}, "code": {"$ne": 1}},
    {
        "$or": [
            {"amount": BETWEEN},
            {"tags": {"$elemMatch": {"$in": ["x"]}}},
            {"count": {"$type": "null"}},
            {"count": {"$mod": [2, 1]}},
        ]
    },
    {"$nor": [{"amount": BETWEEN, "tags": {"$size": 2}}, {"score": {"$gt": 5}, "home.floors": {"$gt": 1}}, {"tags.0": "y"}]},
    # an index by its own name
    {"tenant_key": KEY, "tenant": "a"},
    {"score_bucket": {"$gte": 5}},
    {"born_bucket": {"$gte": JANUARY, "$lte": FEBRUARY}},
]


@pytest.mark.parametrize("stage", STAGES)
def test_what_must_be_served_is_answered_as_the_twin_answers(stages: dict[str, Stage], stage: str) -> None:
    """Every filter of the table, at every stage of the index keys, by one flow after the other."""
    turn = list(STAGES).index(stage)  # so that a filter meets other flows at other stages
    for number, where in enumerate(SERVED):
        flow = FLOWS[(number + turn) % len(FLOWS)]
        assert is_served(stages[stage], where, flow), where


def test_the_table_says_something() -> None:
    """Every field and every operator stands in it."""
    text = repr(SERVED)
    for name in (
        *BLIND,
        "$and",
        "$or",
        "$nor",
        "$not",
        "$in",
        "$nin",
        "$eq",
        "$ne",
        "$all",
        "$elemMatch",
        "$gt",
        "$gte",
        "$lt",
        "$lte",
    ):
        assert repr(name) in text, name


@pytest.mark.parametrize("name", BLIND)
def test_each_value_is_equal_to_what_mongod_takes_for_equal(stages: dict[str, Stage], name: str) -> None:
    """One by one, and their negations: 5 is 5.0, a date is its midnight, NaN is NaN, and 0.1 is not Decimal("0.1")."""
    stage = stages["two, by the new"]
    around: list[dict[str, Any]] = [{"at": at, "ratio": ratio} for at in ASKED["at"] for ratio in (0, 5.0, math.nan)]
    for number, value in enumerate((*ASKED[name], *ALIEN[name])):
        for beside in around if name == "badge" else [{"tenant": {"$in": ["a", "b"]}}] if name == "key" else [{}]:
            served = is_served(stage, beside | {name: value})
            assert is_served(stage, beside | {name: {"$ne": value}}) == served
            # Without none=True None is not served, and without low= and high= a Bucket has no place for what has no end.
            assert served or value.given is None or name == "amount" or number >= len(ASKED[name])


#: A filter, and the name that the message has to have in it.
REFUSED: Final[list[tuple[dict[str, Any], str]]] = [
    *(({name: {"$exists": True}}, name) for name in BLIND),
    *(({name: {operator: "a"}}, name) for name in BLIND for operator in ("$regex", "$type", "$size", "$mod", "$unknown")),
    *(({name: {}}, name) for name in BLIND),
    *(({name: {"$in": "a"}}, name) for name in BLIND),
    *(({name: {"$all": []}}, name) for name in BLIND),
    *(({name: {"$not": 1}}, name) for name in BLIND),
    *(({name: {"$elemMatch": {"$eq": 1}}}, name) for name in BLIND if name not in LISTS),
    *(({f"{name}.0": 1}, name) for name in BLIND),
    *(({"$expr": {"$eq": [f"${name}", 1]}}, name) for name in (*BLIND, "note")),
    *(({name: {"$gt": 1}}, name) for name in BLIND if name not in BUCKETS),
    *(({name: {"$gt": None}}, name) for name in BUCKETS),
    *(({name: re.compile("a")}, name) for name in BLIND),
    ({"email": Regex("^a")}, "email"),
    ({"email": {"$in": [re.compile("a")]}}, "email"),
    ({"email": {"$not": re.compile("a")}}, "email"),
    ({"name": None}, "name"),
    ({"code": "7"}, "code"),
    ({"code": True}, "code"),
    ({"code": 7.5}, "code"),
    ({"born": None}, "born"),
    ({"born": {"$in": [None, date(2000, 1, 1)]}}, "born"),
    ({"born": {"$ne": None}}, "born"),
    ({"born": datetime(2000, 1, 1, 12)}, "born"),
    ({"born": {"$gte": date(2000, 1, 1)}}, "born"),
    ({"born": {"$gte": date(1, 1, 1), "$lt": date(2000, 1, 1)}}, "born"),
    ({"amount": {"$gte": Decimal(5)}}, "amount"),
    ({"amount": Decimal("NaN")}, "amount"),
    ({"amount": {"$ne": Decimal("NaN")}}, "amount"),
    ({"amount": {"$gt": Decimal("NaN"), "$lt": Decimal(5)}}, "amount"),
    ({"amount": {"$gt": Decimal(5), "$lt": Decimal("Infinity")}}, "amount"),
    ({"score": {"$gt": float("nan")}}, "score"),
    ({"phones": ["1"]}, "phones"),
    ({"phones": None}, "phones"),
    ({"phones": {"$in": [["1"]]}}, "phones"),
    ({"phones": {"$elemMatch": {}}}, "phones"),
    ({"phones": {"$elemMatch": {"$gt": "1"}}}, "phones"),
    ({"phones": {"$elemMatch": {"$not": {"$eq": "1"}}}}, "phones"),
    ({"phones": {"$elemMatch": {"$eq": 1}}}, "phones"),
    ({"phones": {"$elemMatch": {"a": 1}}}, "phones"),
    ({"key": UUID(int=1)}, "key"),
    ({"key": UUID(int=1), "tenant": {"$ne": "a"}}, "key"),
    ({"key": UUID(int=1), "$or": [{"tenant": "a"}]}, "key"),
    ({"key": UUID(int=1), "$nor": [{"tenant": "a"}]}, "key"),
    ({"key": UUID(int=1), "tenant": {"$not": {"$eq": "a"}}}, "key"),
    ({"key": UUID(int=1), "tenant": re.compile("a")}, "key"),
    ({"$or": [{"key": UUID(int=1)}, {"tenant": "a"}]}, "key"),
    ({"note": "n"}, "note"),
    ({"note": {"$ne": "n"}}, "note"),
    ({"$or": [{"email": "ada@x"}, {"note": "n"}]}, "note"),
    ({"idx.email": b"x"}, "idx"),
    ({"idx": {}}, "idx"),
    ({"data": b"x"}, "data"),
    ({"$text": {"$search": "ada"}}, "$text"),
    ({"$where": "true"}, "$where"),
    ({"$jsonSchema": {"required": ["email"]}}, "$jsonSchema"),
    ({"$and": [{"$where": "true"}]}, "$where"),
    ({"$or": []}, "$or"),
    # what only the server can tell, where the server cannot be asked alone
    ({"$or": [{"amount": {"$gte": 0, "$lt": 10}}, {"tenant": {"$regex": "^a"}}]}, "tenant"),
    ({"$or": [{"code": 7}, {"$expr": {"$gt": ["$count", 1]}}]}, "$expr"),
    ({"$nor": [{"code": 7, "tenant": {"$regex": "^a"}}]}, "tenant"),
]


@pytest.mark.parametrize(("where", "name"), REFUSED, ids=lambda each: str(each)[:60])
def test_what_cannot_be_answered_is_refused_by_name(stages: dict[str, Stage], where: dict[str, Any], name: str) -> None:
    """By every flow, with the field's name in the message, and before the server has been asked."""
    repository = stages["one key"].repository
    asking: list[Callable[[], Any]] = [
        lambda: repository.find(where),
        lambda: repository.find_one(where),
        lambda: repository.count(where),
        lambda: repository.exists(where),
        lambda: repository.distinct("tenant", where),
        lambda: repository.delete_many(where),
    ]
    for ask in asking:
        with pytest.raises(QueryError, match=re.escape(name)) as caught:
            ask()
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None
    assert repository.count() == PEOPLE


@pytest.mark.parametrize(
    "where", [{"code": 7}, {"amount": {"$gte": 0, "$lt": 10}}, {"email": {"$elemMatch": {"$eq": "a"}}}], ids=str
)
def test_only_the_metadata_of_a_filter_that_is_sifted_is_refused(stages: dict[str, Stage], where: dict[str, Any]) -> None:
    """So is a collation: both would be answered with too much, or by another rule."""
    repository = stages["one key"].repository
    for options in ({"fields": "metadata"}, {"collation": {"locale": "en", "strength": 2}}):
        with pytest.raises(QueryError):
            repository.find(where, **options)


async def test_both_drivers_give_the_same(driver: Driver) -> None:
    """What is sifted is skipped, limited, counted and deleted alike."""
    repository = driver.repository(Person)
    documents = people()
    await repository.save_many([Person(**{field: value.given for field, value in each.items()}) for each in documents])
    wanted = sorted(twin["rank"] for twin in map(twin_of, documents) if twin["code"] not in (7, 8))
    where = {"code": {"$nin": [7, 8]}}
    assert [each.rank async for each in repository.find(where, sort="rank")] == wanted
    assert [each.rank async for each in repository.find(where).sort("rank").skip(3).limit(4)] == wanted[3:7]
    assert (await repository.find_one(where, sort="rank")).rank == wanted[0]
    assert await repository.count(where) == len(wanted)
    assert await repository.exists(where)
    assert await repository.delete_many(where) == len(wanted)
    assert not await repository.exists(where)
    assert await repository.count() == PEOPLE - len(wanted)


# ---------------------------------------------------------------------------------------------------------------------
# Filters by chance.


def values_of(name: str) -> st.SearchStrategy[Any]:
    """One in sixteen is alien."""
    alien = ALIEN.get(name, [])
    return st.sampled_from(ASKED[name] * (1 + 15 * len(alien) // len(ASKED[name])) + alien)


def several(name: str, least: int = 0) -> st.SearchStrategy[Any]:
    return st.lists(values_of(name), min_size=least, max_size=3)


def operators_of(name: str) -> st.SearchStrategy[Any]:
    """One operator of those that a field may be asked by."""
    one, some = values_of(name), several(name)
    listed = {"$eq": one, "$ne": one, "$in": some, "$nin": some}
    found = listed | {"$all": several(name, 1)}
    if name in ORDERED:
        found |= dict.fromkeys(("$gt", "$gte", "$lt", "$lte"), one)
    if name in LISTS:
        found["$elemMatch"] = st.fixed_dictionaries({}, optional=listed).filter(bool)
    if name in CLEAR:
        found["$exists"] = st.booleans()
    return st.sampled_from(sorted(found)).flatmap(lambda each: st.fixed_dictionaries({each: found[each]}))


def conditions(name: str) -> st.SearchStrategy[Any]:
    one = operators_of(name)
    two = st.tuples(one, one).map(lambda pair: pair[0] | pair[1])
    if name in ORDERED:
        low, high = st.sampled_from(["$gt", "$gte"]), st.sampled_from(["$lt", "$lte"])
        two |= st.tuples(low, values_of(name), high, values_of(name)).map(lambda four: {four[0]: four[1], four[2]: four[3]})
    return st.one_of(values_of(name), one, two, st.one_of(one, two).map(lambda each: {"$not": each}))


def on(name: str) -> st.SearchStrategy[Any]:
    """A condition on one field. One within others comes with these, as a rule."""
    around = {
        each: st.one_of(values_of(each), st.fixed_dictionaries({"$in": several(each, 1)}), conditions(each))
        for each in WITHIN.get(name, ())
    }
    return st.fixed_dictionaries(around | {name: conditions(name)})


#: Rare, and mostly refused.
ODD: Final[list[dict[str, Any]]] = [
    {"count": {"$mod": [2, 1]}},
    {"count": {"$type": "null"}},
    {"tags": {"$size": 2}},
    {"tenant": {"$regex": "^[ab]"}},
    {"$expr": {"$gt": ["$count", 1]}},
    {"email": {"$exists": True}},
    {"code": {"$gt": 7}},
    {"key": UUID(int=1)},
    {"note": "n"},
    {},
]
BY_NAME: Final = {name: on(name) for name in (*CLEAR, *BLIND)}
LEAVES: Final = st.sampled_from([*BLIND * 3, *CLEAR, ""]).flatmap(lambda name: BY_NAME[name] if name else st.sampled_from(ODD))


def _joined(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    joined = st.tuples(st.sampled_from(["$and", "$or", "$nor"]), st.lists(inner, min_size=1, max_size=3)).map(
        lambda pair: {pair[0]: pair[1]}
    )
    return st.one_of(joined, st.tuples(joined, inner).map(lambda pair: pair[1] | pair[0]), st.tuples(inner, inner).map(_merged))


def _merged(pair: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
    """Entries of one dict; of two conditions with operators on one field, one."""
    left, right = pair
    both = {
        name: left[name] | right[name] for name in left.keys() & right.keys() if all(map(has_operators, (left[name], right[name])))
    }
    return left | right | both


FILTERS: Final = st.recursive(LEAVES, _joined, max_leaves=5)


def campaign(stages: dict[str, Stage], number: int) -> Counter[str]:
    """So many filters, each at some stage by some flow, and by ``find``."""
    tally: Counter[str] = Counter()

    @settings(max_examples=number, deadline=None)
    @given(FILTERS, st.sampled_from(sorted(STAGES)), st.sampled_from(FLOWS))
    def check(where: dict[str, Any], stage: str, flow: Callable[..., tuple[Any, Any]]) -> None:
        served = is_served(stages[stage], where)
        assert is_served(stages[stage], where, flow) == served
        tally["asked"] += 1
        tally["served"] += served

    check()
    return tally


def test_filters_by_chance_are_answered_as_the_twin_answers_or_refused(stages: dict[str, Stage]) -> None:
    """Whatever is put together: the same documents, or `QueryError`. And a good part of it is served."""
    tally = campaign(stages, 150)
    assert tally["served"] > 0.4 * tally["asked"]


@pytest.mark.parametrize("name", BLIND)
def test_conditions_on_one_field_by_chance(stages: dict[str, Stage], name: str) -> None:
    """The same, with one field at a time, so that each operator has its turn with each value."""

    @settings(max_examples=20, deadline=None)
    @given(BY_NAME[name], st.sampled_from(sorted(STAGES)))
    def check(where: dict[str, Any], stage: str) -> None:
        is_served(stages[stage], where)

    check()


@pytest.mark.soak
def test_the_long_campaign(stages: dict[str, Stage]) -> None:
    """Tens of thousands of filters."""
    tally = campaign(stages, CAMPAIGN)
    assert tally["asked"] >= CAMPAIGN
    assert tally["served"] > 0.4 * tally["asked"]
