"""Typed filters: which dict an expression is, what is refused, and what a real mongod finds by them."""

from __future__ import annotations

import copy
import enum
import json
import logging
import operator
import pickle
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, NewType, Optional
from uuid import UUID, uuid4

import bson
import pytest
from bson import Regex
from conftest import Driver
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, RootModel, computed_field
from pymongo.database import Database
from typing_extensions import TypeAliasType, TypedDict

from mongo_envelope import Queryable, QueryError
from mongo_envelope.conditions import (
    Condition,
    any_element,
    contains,
    contains_all,
    is_,
    is_in,
    not_,
    not_in,
    present,
    where,
)
from mongo_envelope.query import compile_filter
from mongo_envelope.schema import Schema

DAY = datetime(2024, 1, 31, tzinfo=UTC)
SECRET = "correct horse battery staple"


class Right(enum.Flag):
    read = 1
    write = 2


class Address(BaseModel):
    city: str
    lines: list[str] = []


class Postbox(BaseModel):
    city: str
    number: int = 0


class Order(BaseModel):
    price: int
    paid: bool = False
    to: Address | None = None


@dataclass
class Point:
    x: int
    at: Address | None = None


class Parcel(TypedDict):
    weight: int


class Wrapped(RootModel[dict[str, int]]):
    pass


class Tags(list[str]):
    pass


Tenant = NewType("Tenant", str)
Home = NewType("Home", Address)
Homes = TypeAliasType("Homes", list[Address])
MaybeHome = TypeAliasType("MaybeHome", Address | None)


class Record(BaseModel):
    id: UUID = Field(default_factory=uuid4)
    tenant: Annotated[str, Queryable] = "acme"
    stored_elsewhere: Annotated[str, Queryable(name="elsewhere")] = ""
    rank: Annotated[int, Queryable()] = 0
    paid: Annotated[bool, Queryable()] = False
    owner: Annotated[UUID | None, Queryable()] = None
    created_at: Annotated[datetime, Queryable()] = DAY
    tags: Annotated[list[str], Queryable()] = []
    numbers: Annotated[set[int], Queryable()] = set()
    address: Annotated[Address, Queryable()] = Address(city="Graz")
    home: Annotated[Address | None, Queryable()] = None
    orders: Annotated[list[Order], Queryable()] = []
    labels: Annotated[dict[str, int], Queryable()] = {}
    items: Annotated[str, Queryable()] = ""
    keys: Annotated[list[str], Queryable()] = []
    email: str = "ada@example.com"

    @computed_field
    @property
    def domain(self) -> Annotated[str, Queryable()]:
        return self.email.rpartition("@")[2]

    @property
    def plain(self) -> str:
        return ""


class Odd(BaseModel):
    """Everything that is annotated in another way."""

    key: UUID = Field(alias="_id")
    phone: str = Field("", alias="phoneNumber")
    either: Address | Postbox
    old: Optional[Address] = None  # noqa: UP045 - as much of other people's code has it
    marked: Annotated[Address, "a mark"] | None = None
    home: Home
    homes: Homes = []
    maybe: MaybeHome = None
    by_name: dict[str, Address] = {}
    rows: tuple[Address, ...] = ()
    queue: deque[Address] = deque()
    mine: Tags = Tags()
    point: Point = Point(1)
    parcel: Parcel = Parcel(weight=1)
    wrapped: Wrapped = Wrapped({})
    right: Right = Right.read
    tenant: Tenant = Tenant("")
    raw: bytes = b""
    anything: Any = None
    later: Later | None = None

    model_config = {"arbitrary_types_allowed": True}


class Later(BaseModel):
    city: str


r: Any = where(Record)
odd: Any = where(Odd)
order: Any = where(Order)


# --- what an expression is --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (r.email == "ada@example.com", {"email": "ada@example.com"}),
        ("ada@example.com" == r.email, {"email": "ada@example.com"}),  # noqa: SIM300 - the other way round is what is tested
        (r.id == UUID(int=1), {"id": UUID(int=1)}),
        (r.stored_elsewhere == "x", {"stored_elsewhere": "x"}),
        (r.domain == "example.com", {"domain": "example.com"}),
        (r.owner == None, {"owner": None}),  # noqa: E711 - a comparison, not a question of identity
        (r.paid == True, {"paid": True}),  # noqa: E712 - as above
        (is_(r.paid, True), {"paid": True}),
        (is_(r.owner, None), {"owner": None}),
        (r.tags == ["a"], {"tags": ["a"]}),
        (r.email != "x", {"email": {"$ne": "x"}}),
        (r.rank < 3, {"rank": {"$lt": 3}}),
        (r.rank <= 3, {"rank": {"$lte": 3}}),
        (r.rank > 3, {"rank": {"$gt": 3}}),
        (r.rank >= 3, {"rank": {"$gte": 3}}),
        (3 < r.rank, {"rank": {"$gt": 3}}),  # noqa: SIM300 - the other way round is what is tested
        (r.created_at >= DAY, {"created_at": {"$gte": DAY}}),
        (DAY >= r.created_at, {"created_at": {"$lte": DAY}}),  # noqa: SIM300 - the other way round is what is tested
        (r.labels == {"$gt": 1}, {"labels": {"$eq": {"$gt": 1}}}),
        (r.email == re.compile("a"), {"email": {"$eq": re.compile("a")}}),
        (r.email == Regex("a"), {"email": {"$eq": Regex("a")}}),
        (r.address.city == "Paris", {"address.city": "Paris"}),
        (present(r.home).city == "Paris", {"home.city": "Paris"}),
        (r.orders[0].to.city == "Paris", {"orders.0.to.city": "Paris"}),
        (r.labels["a"] > 1, {"labels.a": {"$gt": 1}}),
        (r.items == "x", {"items": "x"}),
        (contains(r.keys, "x"), {"keys": "x"}),
        (is_in(r.tenant, ["a", "b"]), {"tenant": {"$in": ["a", "b"]}}),
        (is_in(r.tenant, (each for each in "ab")), {"tenant": {"$in": ["a", "b"]}}),
        (is_in(r.tenant, []), {"tenant": {"$in": []}}),
        (not_in(r.tenant, ("a",)), {"tenant": {"$nin": ["a"]}}),
        (contains(r.tags, "a"), {"tags": "a"}),
        (contains(r.orders, {"$gt": 1}), {"orders": {"$eq": {"$gt": 1}}}),
        (contains_all(r.tags, {"a"}), {"tags": {"$all": ["a"]}}),
        (any_element(r.orders, order.price > 3), {"orders": {"$elemMatch": {"price": {"$gt": 3}}}}),
        (any_element(r.orders, {"price": 3}), {"orders": {"$elemMatch": {"price": 3}}}),
    ],
    ids=str,
)
def test_an_expression_is_the_dict_that_a_person_would_write(condition: Any, expected: dict[str, Any]) -> None:
    """Compared, and written by Python, as that dict."""
    assert type(condition) is Condition
    assert condition == expected
    assert repr(condition) == repr(expected)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (odd.key == 1, "key"),
        (odd.phone == 1, "phone"),
        (odd.either.city == 1, "either.city"),
        (odd.either.number == 1, "either.number"),
        (odd.old.city == 1, "old.city"),
        (odd.marked.city == 1, "marked.city"),
        (odd.home.city == 1, "home.city"),
        (odd.homes[2].city == 1, "homes.2.city"),
        (odd.maybe.city == 1, "maybe.city"),
        (odd.by_name["x"].city == 1, "by_name.x.city"),
        (odd.rows[0].city == 1, "rows.0.city"),
        (odd.queue[0].city == 1, "queue.0.city"),
        (contains(odd.queue, 1), "queue"),
        (contains(odd.mine, 1), "mine"),
        (odd.mine[0] == 1, "mine.0"),
        (odd.point.x == 1, "point.x"),
        (odd.point.at.city == 1, "point.at.city"),
        (odd.parcel["weight"] == 1, "parcel.weight"),
        (odd.later.city == 1, "later.city"),
        (odd.tenant == 1, "tenant"),
    ],
    ids=str,
)
def test_a_path_goes_wherever_the_annotations_lead(condition: Any, expected: str) -> None:
    """Through unions, aliases, containers, dataclasses and models that were declared later; always by the names in Python."""
    assert condition == {expected: 1}


def test_a_generic_alias_is_seen_through() -> None:
    """``Several[Address]`` is a list, if it was declared as one."""
    item: Any = NewType("item", Address)
    several: Any = TypeAliasType("several", list[item])

    class Holder(BaseModel):
        several: several

    held: Any = where(Holder)
    assert contains(held.several, 1) == {"several": 1}
    assert (held.several[0].city == 1) == {"several.0.city": 1}


def test_a_dataclass_whose_types_cannot_be_resolved_still_has_names() -> None:
    """The annotation names a class of a function that has returned: what stands beneath is not known, and is refused."""

    def local() -> Any:
        @dataclass
        class Inner:
            x: Gone  # noqa: F821 - that it cannot be found is what is tested

        return Inner

    inner = local()

    class Holder(BaseModel):
        inner: Any

    Holder.model_fields["inner"].annotation = inner  # pydantic itself would refuse to read it
    held: Any = where(Holder)
    assert (held.inner.x == 1) == {"inner.x": 1}
    with pytest.raises(QueryError, match="is not served"):
        _ = held.inner.x.y


A, B, C = {"tenant": "acme"}, {"rank": {"$gte": 3}}, {"email": "x"}
a, b, c = r.tenant == "acme", r.rank >= 3, r.email == "x"


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (a & b, {"$and": [A, B]}),
        (a | b, {"$or": [A, B]}),
        (~a, {"$nor": [A]}),
        (not_(a), {"$nor": [A]}),
        (~~a, {"$nor": [{"$nor": [A]}]}),
        (a & b & c, {"$and": [A, B, C]}),
        (a & (b & c), {"$and": [A, B, C]}),
        ((a & b) & (b & c), {"$and": [A, B, B, C]}),
        (a | b | c, {"$or": [A, B, C]}),
        ((a | b) & c, {"$and": [{"$or": [A, B]}, C]}),
        (a & b | c, {"$or": [{"$and": [A, B]}, C]}),
        (~(a | b), {"$nor": [{"$or": [A, B]}]}),
        (a & {"x": 1, "y": 2}, {"$and": [A, {"x": 1, "y": 2}]}),
        ({"x": 1} & a, {"$and": [{"x": 1}, A]}),
        (a | {"x": 1}, {"$or": [A, {"x": 1}]}),
        ({"x": 1} | a, {"$or": [{"x": 1}, A]}),
        ({"$and": [B]} & a, {"$and": [B, A]}),
        (a & {"$and": [B], "x": 1}, {"$and": [A, {"$and": [B], "x": 1}]}),
        (not_({"x": 1}), {"$nor": [{"x": 1}]}),
        (
            any_element(r.orders, (order.price > 3) & is_(order.paid, True)),
            {"orders": {"$elemMatch": {"$and": [{"price": {"$gt": 3}}, {"paid": True}]}}},
        ),
    ],
    ids=str,
)
def test_conditions_combine(condition: Any, expected: dict[str, Any]) -> None:
    """Nested and and or are flattened, what is within another operator stays as it is."""
    assert type(condition) is Condition
    assert condition == expected


def test_combining_changes_no_operand() -> None:
    """``|=`` and ``&=`` make a new condition too, where those of a dict would change it."""
    first = second = a & b
    second &= c
    assert (first, second) == ({"$and": [A, B]}, {"$and": [A, B, C]})
    second |= c
    assert second == {"$or": [{"$and": [A, B, C]}, C]}
    third: Any = {"x": 1}
    third |= a  # with a plain dict on the left, it is still Python's own
    assert third == {"x": 1} | dict(A)
    assert a == A


SCHEMA = Schema.of(Record)
conditions: st.SearchStrategy[Any] = st.recursive(
    st.integers(0, 3).map(lambda number: r.rank == number),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda pair: pair[0] & pair[1]),
        st.tuples(inner, inner).map(lambda pair: pair[0] | pair[1]),
        inner.map(lambda one: ~one),
    ),
)


def answers(condition: dict[str, Any], rank: int) -> bool:
    """What MongoDB answers for a document with this rank."""
    [(name, operand)] = condition.items()
    if name == "$and":
        return all(answers(each, rank) for each in operand)
    if name == "$or":
        return any(answers(each, rank) for each in operand)
    return not any(answers(each, rank) for each in operand) if name == "$nor" else bool(operand == rank)


@given(conditions, conditions, st.integers(0, 3))
def test_combining_means_what_it_says(left: Any, right: Any, rank: int) -> None:
    """Whatever is combined: flattening never changes the answer."""
    assert answers(left & right, rank) == (answers(left, rank) and answers(right, rank))
    assert answers(left | right, rank) == (answers(left, rank) or answers(right, rank))
    assert answers(not_(left), rank) == (not answers(left, rank))
    assert compile_filter(SCHEMA, left) == left


# --- a condition is a dict --------------------------------------------------------------------------------------------


def test_a_condition_goes_wherever_a_dict_goes() -> None:
    """It is encoded, copied and pickled without being asked whether it is true, and so are those inside it."""
    condition: Any = ((r.tenant == "acme") & (r.rank >= 3)) | ~(r.email == "x")
    plain = {"$or": [{"$and": [A, B]}, {"$nor": [C]}]}
    assert json.loads(json.dumps(condition)) == plain
    assert json.dumps(dict(condition), indent=1) == json.dumps(plain, indent=1)
    assert bson.encode(condition) == bson.encode(plain)
    for same in (copy.copy(condition), copy.deepcopy(condition), pickle.loads(pickle.dumps(condition))):  # noqa: S301 - our own
        assert type(same) is Condition
        assert same == condition == plain
    assert (condition == copy.copy(condition), condition != (a | b), condition == (r.rank == 1)) == (True, True, False)


def test_a_condition_can_be_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Among other arguments as it is; alone, logging asks a dict for its truth, and needs ``dict(condition)``."""
    with caplog.at_level(logging.INFO):
        logging.getLogger("x").info("%s %s", "filter", a)
        logging.getLogger("x").info("%s", dict(a))
    assert [each.getMessage() for each in caplog.records] == ["filter {'tenant': 'acme'}", "{'tenant': 'acme'}"]


@pytest.mark.parametrize(
    "question",
    [
        lambda: a and b,
        lambda: a or b,
        lambda: not a,
        lambda: 1 < r.rank < 3,
        lambda: r.rank == 1 == r.rank,
        lambda: r.tenant in ["a", "b"],
        lambda: r.tenant not in ("a", "b"),
        lambda: 1 if a else 2,
        lambda: [each for each in [a] if each],
        lambda: r.rank == 1 if a else b,
    ],
)
def test_a_condition_is_neither_true_nor_false(question: Callable[[], Any]) -> None:
    """What Python decides by itself is an error that says what to write instead."""
    with pytest.raises(TypeError, match=re.escape("Combine: (a) & (b), (a) | (b), not_(a)")):
        question()


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (lambda: r.emial, "Record has no field 'emial'. Did you mean email?"),
        (lambda: r.zzz, "Record has no field 'zzz'. Its fields: id, tenant, "),
        (lambda: r.plain, "Record has no field 'plain'"),
        (lambda: r.model_dump, "Record has no field 'model_dump'"),
        (lambda: odd.phoneNumber, "Odd has no field 'phoneNumber'. Did you mean"),
        (lambda: r.address.town, "Record.address has no field 'town'. Its fields: city, lines"),
        (lambda: r.address.model_dump, "Record.address has no field 'model_dump'"),
        (lambda: r.home.ctiy, "Record.home has no field 'ctiy'. Did you mean city?"),
        (lambda: r.email.startswith("a"), "Record.email.startswith is not served: a filter compares a field as it is stored"),
        (lambda: r.email.startswith("a"), "Served: ==, !=, <, <=, >, >=, is_in, not_in"),
        (lambda: r.created_at.year, "Record.created_at.year is not served"),
        (lambda: r.anything, "Record has no field 'anything'"),
        (lambda: odd.anything.x, "Odd.anything.x is not served"),
        (lambda: odd.wrapped.root, "Odd.wrapped.root is not served"),
        (lambda: r.labels.keys, "Record.labels.keys is not served"),
        (lambda: r.orders.price, "nothing is called price beneath a list. Use any_element(Record.orders, …), or a position"),
        (lambda: r.tags.append, "nothing is called append beneath a list"),
        (lambda: r.tags[-1], "Record.tags[…] is not served: in brackets stand a position in a list, 0 or more"),
        (lambda: r.tags[:1], "Record.tags[…] is not served"),
        (lambda: r.tags[True], "Record.tags[…] is not served"),
        (lambda: r.tags["a"], "Record.tags[…] is not served"),
        (lambda: r.numbers[0], "Record.numbers[…] is not served"),
        (lambda: r.email[0], "Record.email[…] is not served"),
        (lambda: odd.raw[0], "Odd.raw[…] is not served"),
        (lambda: r.labels[0], "Record.labels[…] is not served"),
        (lambda: r.labels[""], "Record.labels[…] is not served"),
        (lambda: r.labels["$gt"], "Record.labels[…] is not served"),
        (lambda: r.labels["a.b"], "Record.labels[…] is not served"),
        (lambda: r.labels["a\0"], "Record.labels[…] is not served"),
        (lambda: r == 1, "Record is the whole model. Name a field: where(Record).<field>"),
        (lambda: is_in(r, []), "Record is the whole model"),
        (lambda: r.tenant == r.email, "Record.tenant: a filter compares a field with a value, and Record.email is another field"),
        (lambda: is_in(r.tenant, ["a", r.email]), "Record.tenant: a filter compares a field with a value"),
        (lambda: r.tenant == (r.rank == 1), "Record.tenant: compared with a condition. Combine:"),
        (lambda: (r.rank == 1) == r.paid, "Record.paid: compared with a condition"),
        (lambda: r.tenant == "acme" & r.rank >= 3, "Record.rank is a name, neither a condition nor a value"),
        (lambda: r.rank == 1 | r.rank == 2, "Record.rank is a name, neither a condition nor a value"),
        (lambda: r.paid & (r.rank == 1), "Record.paid is a name"),
        (lambda: r.paid | (r.rank == 1), "Record.paid is a name"),
        (lambda: (r.rank == 1) & r.paid, "Record.paid is no condition. Combine:"),
        (lambda: ~r.paid, "Record.paid is a name"),
        (lambda: not r.paid, "Record.paid is a name"),
        (lambda: not r, "Record is a name"),
        (lambda: list(r.tags), "Record.tags is a name"),
        (
            lambda: "a" in r.tags,
            "Record.tags is a name, neither a condition nor a value. Compare it first: ==, !=, <, <=, >, >=, is_in",
        ),
        (lambda: f"{r.email}@", "Record.email is a name"),
        (lambda: str(r.email), "Record.email is a name"),
        (lambda: a & True, "a bool is no condition"),
        (lambda: a | None, "a NoneType is no condition"),
        (lambda: [a] & a, "a list is no condition"),
        (lambda: 1 | a, "a int is no condition"),
        (lambda: not_(True), "not_ takes a condition, as in not_(where(Customer).tenant == …), not a bool"),
        (lambda: not_(r.paid), "not_ takes a condition"),
        (lambda: is_in("tenant", ["a"]), "is_in takes a name first, as in is_in(where(Customer).tenant, …), not a str"),
        (lambda: present(None), "present takes a name first"),
        (lambda: is_(a, True), "is_ takes a name first"),
        (lambda: contains(a, 1), "contains takes a name first"),
        (lambda: is_in(r.tenant, "acme"), "Record.tenant: $in takes a list of values, not a str"),
        (lambda: not_in(r.tenant, b"acme"), "Record.tenant: $nin takes a list of values, not a bytes"),
        (lambda: contains_all(r.tags, "acme"), "Record.tags: $all takes a list of values, not a str"),
        (lambda: is_in(r.tenant, {"a": 1}), "Record.tenant: $in takes a list of values, not a dict"),
        (lambda: is_in(r.tenant, 1), "Record.tenant: $in takes a list of values, not a int"),
        (lambda: is_in(r.tenant, r.tags), "Record.tenant: $in takes a list of values"),
        (lambda: contains(r.tenant, "a"), "Record.tenant: contains looks at the elements of a list, a set or a tuple"),
        (lambda: contains(odd.raw, 1), "Odd.raw: contains looks at the elements of a list"),
        (lambda: contains(r.labels, "a"), "Record.labels: contains looks at the elements of a list"),
        (lambda: contains(odd.right, Right.read), "Odd.right: contains looks at the elements of a list"),
        (lambda: contains_all(r.address, ["a"]), "Record.address: contains_all looks at the elements of a list"),
        (lambda: any_element(r.home, a), "Record.home: any_element looks at the elements of a list"),
        (lambda: any_element(r.orders, True), "Record.orders: any_element takes a condition on the elements"),
        (lambda: any_element(r.orders, {}), "Record.orders: any_element takes a condition on the elements"),
        (lambda: where(Record()), "where takes a pydantic model with fields: the class"),
        (lambda: where(dict), "where takes a pydantic model with fields"),
        (lambda: where(Wrapped), "where takes a pydantic model with fields"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(question: Callable[[], Any], message: str) -> None:
    """With a `QueryError` that names the field and the way out."""
    with pytest.raises(QueryError, match=re.escape(message)):
        question()


@pytest.mark.parametrize(
    "question", [lambda: r.rank + 1, lambda: len(r.tags), lambda: int(r.rank), lambda: {r.rank}, lambda: r.rank(1)]
)
def test_computing_with_a_name_is_an_error(question: Callable[[], Any]) -> None:
    """Python's own, which says that there is no such operation."""
    with pytest.raises(TypeError):
        question()


@pytest.mark.parametrize(
    "question",
    [
        lambda: is_in(r.tenant, SECRET),
        lambda: contains(r.tenant, SECRET),
        lambda: not_(SECRET),
        lambda: r.labels[SECRET].x,
        lambda: r.labels["$" + SECRET],
        lambda: r.tenant == (r.email == SECRET),
        lambda: SECRET & r.tenant,
        lambda: SECRET & a,
        lambda: any_element(r.orders, SECRET),
        lambda: where(SECRET),
        lambda: where(Record(email=SECRET)),
        lambda: bool(r.email == SECRET),
    ],
)
def test_no_refusal_says_a_value(question: Callable[[], Any]) -> None:
    """Names of fields, operators and types only."""
    with pytest.raises((QueryError, TypeError)) as caught:
        question()
    assert SECRET not in str(caught.value)


def test_tools_may_look_at_names() -> None:
    """``hasattr``, ``dir`` and ``repr`` work as they do on any object, and a name cannot be assigned to."""
    assert not hasattr(r, "emial")
    assert getattr(r.email, "startswith", None) is None
    assert not hasattr(r, "_repr_html_")
    assert {"email", "domain"} <= set(dir(r))
    assert dir(r.address) == ["city", "lines"]
    assert repr(r.orders[0].price) == "<Record.orders[0].price, a name in a filter>"
    assert repr(copy.deepcopy(r.rank)) == repr(r.rank)
    with pytest.raises(AttributeError):
        r.email = "x"


# --- asked and answered -----------------------------------------------------------------------------------------------

ADA = Record(
    id=UUID(int=1),
    rank=1,
    paid=True,
    owner=UUID(int=7),
    created_at=DAY,
    tags=["x", "y"],
    numbers={1, 2},
    address=Address(city="Paris", lines=["a"]),
    home=Address(city="Bonn"),
    orders=[Order(price=5, paid=False), Order(price=1, paid=True)],
    labels={"a": 1},
    items="i",
    keys=["k"],
)
BOB = Record(
    id=UUID(int=2),
    tenant="umbrella",
    rank=5,
    created_at=DAY.replace(year=2025),
    orders=[Order(price=5, paid=True)],
    email="b@b.example",
)


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        (r.id == ADA.id, [ADA]),
        (r.tenant == "acme", [ADA]),
        (r.tenant != "acme", [BOB]),
        (r.domain == "b.example", [BOB]),
        (is_(r.paid, True), [ADA]),
        (is_(r.owner, None), [BOB]),
        (r.owner == UUID(int=7), [ADA]),
        (r.created_at > DAY, [BOB]),
        ((r.rank >= 1) & (r.rank < 5), [ADA]),
        ((r.rank == 1) | (r.tenant == "umbrella"), [ADA, BOB]),
        (not_(r.rank == 1), [BOB]),
        (not_((r.rank == 1) | (r.rank == 5)), []),
        ({"rank": 1} & is_in(r.tenant, ["acme"]), [ADA]),
        (not_in(r.tenant, ["acme", "x"]), [BOB]),
        (r.tags == ["x", "y"], [ADA]),
        (r.tags[1] == "y", [ADA]),
        (contains(r.tags, "y"), [ADA]),
        (contains(r.numbers, 2), [ADA]),
        (contains_all(r.tags, ["y", "x"]), [ADA]),
        (contains_all(r.tags, ["y", "z"]), []),
        (r.address.city == "Paris", [ADA]),
        (contains(r.address.lines, "a"), [ADA]),
        (r.address == Address(city="Graz"), [BOB]),
        (present(r.home).city == "Bonn", [ADA]),
        (r.labels["a"] == 1, [ADA]),
        (r.labels == {"a": 1}, [ADA]),
        ((r.items == "i") & contains(r.keys, "k"), [ADA]),
        (any_element(r.orders, order.price > 3), [ADA, BOB]),
        (any_element(r.orders, (order.price > 3) & is_(order.paid, True)), [BOB]),
        (any_element(r.orders, not_(order.price == 5)), [ADA]),
        (r.orders[0].price == 5, [ADA, BOB]),
        (contains(r.orders, Order(price=5, paid=True)), [BOB]),
    ],
    ids=str,
)
async def test_mongod_finds_what_is_meant(driver: Driver, condition: Any, found: list[Record]) -> None:
    """Through a repository, in both drivers: find, count and exists agree with what the condition says in Python."""
    records = driver.repository(Record)
    await records.save_many([ADA, BOB])
    assert [each async for each in records.find(condition).sort("rank")] == found
    assert await records.count(condition) == len(found)
    assert await records.exists(condition) == bool(found)


async def test_every_method_that_takes_a_filter_takes_a_condition(driver: Driver) -> None:
    """None of them asks whether it is true."""
    records = driver.repository(Record)
    await records.save_many([ADA, BOB])
    condition: Any = (r.rank > 1) & (r.tenant == "umbrella")
    assert await records.find_one(condition) == BOB
    assert await records.find(condition).first() == BOB
    assert await records.distinct("tenant", condition) == ["umbrella"]
    assert await records.delete_many(condition) == 1
    assert await records.count() == 1


def test_the_bare_driver_takes_the_dict(database: Database[dict[str, Any]]) -> None:
    """pymongo's find asks whether a filter is empty, so it is given ``dict(condition)``; its other methods do not ask."""
    database.plain.insert_many([{"rank": 1}, {"rank": 5}])
    condition: Any = (r.rank > 1) & (r.rank < 9)
    assert [each["rank"] for each in database.plain.find(dict(condition))] == [5]
    assert database.plain.count_documents(condition) == 1
    assert database.plain.update_many(condition, {"$set": {"seen": True}}).matched_count == 1
    assert database.plain.delete_many(condition).deleted_count == 1
    with pytest.raises(TypeError, match=re.escape("dict(condition)")):
        database.plain.find(condition)


async def test_a_sensitive_name_is_refused_by_the_repository(driver: Driver) -> None:
    """`where` knows names and types only; what can be searched, the repository says."""
    with pytest.raises(QueryError, match=r"Record\.email is sensitive"):
        await driver.repository(Record).count(r.email == "x")


@pytest.mark.parametrize("compare", [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge])
@given(value=st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.dictionaries(st.text(), st.integers())))
def test_every_comparison_holds_its_value(compare: Callable[[Any, Any], Any], value: object) -> None:
    """Whatever is compared stands in the condition as a value: as it is, or after one operator."""
    [operand] = compare(r.tenant, value).values()
    assert operand is value or list(operand.values()) == [value]
