"""The short way of sealing against the plain one: under one IV it gives the same bytes, or leaves the instance to the plain way."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta, timezone
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from bson import ObjectId
from bson.timestamp import Timestamp
from every_type import EVERY_TYPE, same
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, computed_field, create_model

from mongo_envelope import BlindIndex, Bucket, DocumentCodec, IndexKey, KeyRing, Queryable, Sensitive, envelope
from mongo_envelope.errors import MongoEnvelopeError, PayloadError, QueryError, SchemaError

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from customers import Customer, make_customers

KEYS = KeyRing.generate()
IV = bytes(range(16))


def codec(model: type[BaseModel], keys: KeyRing = KEYS) -> DocumentCodec[Any]:
    return DocumentCodec(model, keys=keys, context="c")


def fast(of: DocumentCodec[Any], one: BaseModel) -> tuple[Any, bytes] | None:
    return of._writer.seal(one, of._idx if of.indexer else None, None, lambda: IV)


def plain(of: DocumentCodec[Any], one: BaseModel) -> tuple[Any, bytes]:
    metadata, payload = of.schema.split(one)
    if of.indexer:
        metadata["idx"] = of._idx(one)
    return metadata["_id"], envelope._seal_with(metadata, payload, keys=KEYS if not of.indexer else of._keys, context="c", iv=IV)


def agrees(of: DocumentCodec[Any], one: BaseModel) -> bool:
    """Whether the short way is taken, after an instance of the same types was sealed. Then it gives the same bytes."""
    of._writer.learn(one)
    found = fast(of, one)
    if found is None:
        return False
    assert found == plain(of, one)
    assert type(found[0]) is type(plain(of, one)[0])
    return True


class Mixed(BaseModel):
    id: UUID
    aaa: Annotated[int, Queryable()]
    zone: Annotated[str, Queryable(name="zz")]
    flag: Annotated[bool, Queryable()]
    maybe: Annotated[str | None, Queryable(name="j")]
    at: Annotated[datetime, Queryable()]
    then: Annotated[datetime | None, Queryable()]
    day: Annotated[date, Queryable()]
    owner: Annotated[ObjectId, Queryable()]
    tags: Annotated[list[str], Queryable()]
    level: Annotated[Literal["a", 1, None], Queryable()]
    number: Annotated[int | str, Queryable()]
    secret: str = "s"
    more: Annotated[list[int], Sensitive()] = []
    model_config = ConfigDict(arbitrary_types_allowed=True)


moments = st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(seconds=-7))]))
words = st.text(st.characters(codec="utf-8"))
int64 = st.integers(-(2**63), 2**63 - 1)
mixed = st.builds(
    Mixed.model_construct,
    id=st.uuids(),
    aaa=int64,
    zone=words,
    flag=st.booleans(),
    maybe=st.none() | words,
    at=moments | st.datetimes(),
    then=st.none() | moments,
    day=st.dates(),
    owner=st.binary(min_size=12, max_size=12).map(ObjectId),
    tags=st.lists(words),
    level=st.sampled_from(["a", 1, None]),
    number=int64 | words,
    secret=words,
    more=st.lists(st.integers()),
)


@given(mixed)
def test_both_ways_seal_the_same_bytes(one: Mixed) -> None:
    """Whatever the values are. Only a moment without a zone is left to the plain way."""
    assert agrees(codec(Mixed), one) is (one.at.tzinfo is not None)


def test_the_short_way_is_taken_for_the_customer_of_the_benchmark() -> None:
    of = codec(Customer)
    first, second = make_customers(2)
    assert of._writer._learned == {}
    of.seal_bson(first)
    assert fast(of, second) == plain(of, second)


class Indexed(BaseModel):
    id: int
    in_between: Annotated[str, Queryable(name="h")]
    behind: Annotated[str, Queryable(name="iw")]
    email: Annotated[
        str, Sensitive(index=[BlindIndex(normalize="email"), BlindIndex(name="short", bits=8, within=("in_between",))])
    ]
    tags: Annotated[list[str], Sensitive(index=BlindIndex(bits=64))]
    salary: Annotated[int | None, Sensitive(index=Bucket(width=1000))]


@pytest.mark.parametrize("keys", [KEYS, KEYS.with_index_key(IndexKey.generate())], ids=["one index key", "two index keys"])
@pytest.mark.parametrize("salary", [None, 1500])
def test_blind_indexes_stand_where_they_belong(keys: KeyRing, salary: int | None) -> None:
    one = Indexed(id=1, in_between="x", behind="y", email="ada@example.com", tags=["a", "b"], salary=salary)
    of = codec(Indexed, keys)
    of._writer.learn(one)
    found = fast(of, one)
    assert found is not None
    metadata, payload = of.schema.split(one)
    raw = envelope._seal_with(metadata | {"idx": of._idx(one)}, payload, keys=keys, context="c", iv=IV)
    assert found == (1, raw)
    assert of.open(raw) == one


class Numbered(BaseModel):
    id: int
    number: Annotated[str, Sensitive(index=BlindIndex(normalize=int, normalize_id="int"))]


def test_a_value_that_no_index_takes_is_for_the_plain_way() -> None:
    one = Numbered(id=1, number="7")
    of = codec(Numbered)
    assert agrees(of, one)
    one.number = "seven"
    assert fast(of, one) is None
    with pytest.raises(MongoEnvelopeError, match="number"):
        of.seal_bson(one)


@pytest.mark.parametrize("name", EVERY_TYPE)
@pytest.mark.parametrize("marker", [Sensitive(), Queryable()], ids=["sensitive", "queryable"])
def test_every_type(name: str, marker: Any) -> None:
    """What was learned of one value holds for others of the same types, or they are left to the plain way."""
    kind, each = EVERY_TYPE[name]
    try:
        model = create_model(
            "Model", __config__=ConfigDict(arbitrary_types_allowed=True), id=(int, ...), field=(Annotated[kind, marker], ...)
        )
        of = codec(model)
    except SchemaError:
        return
    ones = [model.model_construct(id=number, field=value) for number, value in enumerate(each)]
    for one in ones:
        agrees(of, one)
    for one in ones:
        assert fast(of, one) in (None, plain(of, one))


WRONG: dict[str, Any] = {
    "a subclass of text": type("Text", (str,), {})("x"),
    "a bool for an int": True,
    "an int": 7,
    "a lone surrogate": "\ud800",
    "nothing": None,
    "a list": ["x"],
    "a float": 1.5,
    "bytes": b"x",
}


@pytest.mark.parametrize("field", ["id", "tenant", "status", "created_at", "name", "income", "phones", "address", "notes"])
@pytest.mark.parametrize("wrong", WRONG)
def test_what_the_plain_way_refuses_is_refused(field: str, wrong: str) -> None:
    """Also if somebody has assigned it past the validators, and after thousands that were right."""
    of, (one, other) = codec(Customer), make_customers(2)
    of.seal_bson(other)
    one.__dict__[field] = WRONG[wrong]
    try:
        of._sealed_plainly(one)
    except MongoEnvelopeError as error:
        refused = error
    else:
        assert fast(of, one) in (None, plain(of, one))
        return
    assert fast(of, one) is None
    with pytest.raises(type(refused)) as caught:
        of.seal_bson(one)
    assert str(caught.value) == str(refused)


@pytest.mark.parametrize(
    "change",
    [
        lambda one: one.__dict__.update(stray=1),
        lambda one: one.__dict__.pop("notes"),
        lambda one: one.__dict__.update(notes=one.__dict__.pop("notes"), name=one.__dict__.pop("name")),
        lambda one: one.__dict__.update(stray=one.__dict__.pop("notes")),
        lambda one: one.phones.append(1),
        lambda one: one.address.__dict__.update(city=1),
        lambda one: one.address.__dict__.update(stray="x"),
        lambda one: one.__dict__.update(status="unheard of"),
        lambda one: one.__dict__.update(income=10**5000),
    ],
    ids=[
        "stray",
        "missing",
        "another order",
        "one for another",
        "in a list",
        "in a model",
        "stray in a model",
        "literal",
        "long int",
    ],
)
def test_an_instance_that_was_changed_past_its_validators(change: Any) -> None:
    of, (one, other) = codec(Customer), make_customers(2)
    of.seal_bson(other)
    change(one)
    assert fast(of, one) is None
    try:
        expected = plain(of, one)
    except MongoEnvelopeError as error:
        with pytest.raises(type(error)):
            of.seal_bson(one)
    else:
        of.seal_bson(one)
        assert fast(of, one) in (None, expected)


def test_an_instance_of_a_subclass_is_refused_as_before() -> None:
    class Special(Customer):
        pass

    of, (one, other) = codec(Customer), make_customers(2)
    of.seal_bson(other)
    special = Special(**one.model_dump())
    assert fast(of, special) is None
    with pytest.raises(MongoEnvelopeError, match="Special"):
        of.seal_bson(special)


class Deep(BaseModel):
    id: int
    inner: Deep | None = None


def test_what_is_nested_too_deeply_is_refused_as_before() -> None:
    of = codec(Deep)

    def nested(levels: int) -> Deep:
        inner = None
        for _ in range(levels):
            inner = Deep(id=0, inner=inner)
        return Deep(id=1, inner=inner)

    assert not of.schema._plan.shallow
    assert agrees(of, nested(3))
    assert agrees(of, nested(60))
    of._writer.learn(nested(3))
    assert fast(of, nested(220)) is None
    with pytest.raises(MongoEnvelopeError, match="deep"):
        of.seal_bson(nested(220))


class Computed(BaseModel):
    id: int
    n: int = 1

    @computed_field  # type: ignore[prop-decorator]  # pydantic's documentation has it so
    @property
    def twice(self) -> Annotated[int, Queryable()]:
        return self.n * 2


class Extra(BaseModel):
    id: int
    model_config = ConfigDict(extra="allow")


class Remembering(BaseModel):
    id: int

    @cached_property
    def slow(self) -> int:
        return 1


class Moment(BaseModel):
    id: datetime


class Stamped(BaseModel):
    id: int
    at: Annotated[Any, Sensitive()]


class Fresh(BaseModel):
    id: ObjectId | None = None
    model_config = ConfigDict(arbitrary_types_allowed=True)


@pytest.mark.parametrize(
    "one",
    [
        Computed(id=1),
        Extra(id=1, more=2),
        Moment(id=datetime(2026, 1, 1, tzinfo=UTC)),
        Stamped(id=1, at=Timestamp(1, 1)),
    ],
    ids=lambda one: type(one).__name__,
)
def test_models_that_the_short_way_does_not_know(one: BaseModel) -> None:
    assert not agrees(codec(type(one)), one)


def test_an_id_that_is_not_there_yet_is_made_by_the_plain_way() -> None:
    of = codec(Fresh)
    for _ in range(3):
        one = Fresh()
        identity, raw = of.sealed(one)
        assert one.id == identity
        assert of.open(raw) == one
    assert agrees(of, one)


def test_what_a_cached_property_keeps_is_no_field() -> None:
    of = codec(Remembering)
    one = Remembering(id=1)
    assert agrees(of, one)
    assert one.slow == 1
    assert not agrees(of, one)
    assert of.open(of.seal_bson(one)) == one


def test_only_so_many_combinations_of_types_are_kept() -> None:
    """A model of many unions has millions; the short way does not grow with them."""
    fields: dict[str, Any] = {f"f{number}": (int | str, ...) for number in range(9)}
    of = codec(create_model("Unions", id=(int, ...), **fields))
    for number in range(2**9):
        values = {f"f{bit}": number if number >> bit & 1 else "x" for bit in range(9)}
        one = of.schema.model(id=number, **values)
        assert of.open(of.seal_bson(one)) == one
    assert len(of._writer._learned) == 256


def test_validate_on_save_takes_the_plain_way() -> None:
    one = make_customers(1)[0]
    of = DocumentCodec(Customer, keys=KEYS, context="c", validate_on_save=True)
    of.seal_bson(one)
    assert of._writer._learned == {}


def test_threads_never_share_a_context_of_the_cipher() -> None:
    """Every message that eight threads seal at once opens again: a shared context would mix two key streams."""
    of = codec(Customer)
    people = make_customers(50)
    start = threading.Barrier(8)

    def work(_: int) -> bool:
        start.wait()
        return all(of.open_bson(of.seal_bson(one))[2] == one for _ in range(10) for one in people)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


@pytest.mark.parametrize("name", EVERY_TYPE)
def test_what_would_be_loaded(name: str) -> None:
    """By the short ways or by the plain ones it is the same, and so is what is wrong with what could not be loaded."""
    kind, each = EVERY_TYPE[name]
    of = codec(
        create_model(
            "Model", __config__=ConfigDict(arbitrary_types_allowed=True), id=(int, ...), field=(kind, ...), short=(str, "s")
        )
    )
    for number, value in enumerate(each):
        one = of.schema.model.model_construct(id=number, field=value, short="s")
        of._writer.learn(one)
        assert same(of.reloaded(one), of.schema.reloaded(one))


def test_no_normaliser_is_asked_what_would_be_loaded() -> None:
    """It may be slow, and there is nothing to be found by what is not stored."""
    asked: list[str] = []
    index = BlindIndex(normalize=lambda value: asked.append(value) or value, normalize_id="mine")  # type: ignore[func-returns-value]  # None
    of = codec(create_model("Model", id=(int, ...), text=(Annotated[str, Sensitive(index=index)], ...)))
    one = of.schema.model(id=1, text="x")
    of.seal(one)
    assert asked == ["x"]
    assert of.reloaded(one) == one
    assert asked == ["x"]


def test_a_dump_that_changes_the_instance() -> None:
    """What stands in the clear is what stands there when the payload is made."""

    class Owned:
        owner: Any = None

    def dump(value: Owned) -> int:
        value.owner.n = 5
        return 1

    of = codec(
        create_model(
            "Model",
            id=(int, ...),
            n=(Annotated[int, Queryable()], 0),
            owned=(Annotated[Any, Sensitive(dump=dump, load=lambda _: Owned())], ...),
        )
    )

    def new() -> Any:
        one = of.schema.model(id=1, owned=Owned())
        one.owned.owner = one
        return one

    for _ in range(3):
        assert of.seal(new())["n"] == 5


def test_an_id_that_is_gone_again_is_not_learned() -> None:
    """A stored document has an id, also if something takes it off the instance while that is sealed."""
    of = codec(
        create_model("Model", __config__=ConfigDict(arbitrary_types_allowed=True), id=(ObjectId | None, None), text=(str, "s"))
    )
    one = of.schema.model()
    of._writer.learn(one)
    assert of._writer._learned == {}
    assert of.seal(one)["_id"] == one.id is not None


def test_what_could_not_be_loaded() -> None:
    """A constraint that an assignment got round is an error of the update, whichever way is asked first."""
    of = codec(create_model("Model", id=(int, ...), text=(Annotated[str, Field(max_length=3)], ...)))
    one = of.schema.model(id=1, text="abc")
    of.seal(one)
    assert of.reloaded(one) == one
    one.text = "abcd"
    with pytest.raises(QueryError, match=r"the changes do not fit the model: text: string_too_long"):
        of.reloaded(one)
    one.text = 4
    with pytest.raises(PayloadError, match="text: str expected, int found"):
        of.reloaded(one)


@pytest.mark.parametrize("name", EVERY_TYPE)
def test_every_type_as_an_id(name: str) -> None:
    """The ``_id`` that is given back is the stored one: of an enum, its value."""
    kind, each = EVERY_TYPE[name]
    try:
        of = codec(create_model("Model", __config__=ConfigDict(arbitrary_types_allowed=True), id=(kind, ...), secret=(str, "s")))
    except SchemaError:
        return
    for value in each:
        one = of.schema.model.model_construct(id=value, secret="s")
        try:
            of.seal_bson(one)
        except MongoEnvelopeError:
            continue
        agrees(of, one)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_fork_draws_its_own_ivs_and_reopens_every_message() -> None:
    """Two processes with one parent: no IV is drawn twice, and each opens what the other sealed."""
    of = codec(Customer)
    people = make_customers(200)
    of.seal_bson(people[0])
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            for one in people:
                raw = of.seal_bson(one)
                os.write(write, len(raw).to_bytes(4, "little") + raw)
        finally:
            os._exit(0)
    os.close(write)
    mine = [of.seal_bson(one) for one in people]
    with os.fdopen(read, "rb") as pipe:
        theirs = [pipe.read(int.from_bytes(head, "little")) for head in iter(lambda: pipe.read(4), b"")]
    os.waitpid(child, 0)
    assert [of.open(raw) for raw in theirs] == people == [of.open(raw) for raw in mine]
    ivs = [bytes(envelope.open(raw, keys=KEYS, context="c").document["iv"]) for raw in mine + theirs]
    assert len(set(ivs)) == 400


def test_no_iv_is_used_twice() -> None:
    of, one = codec(Customer), make_customers(1)[0]
    ivs = {envelope.open(of.seal_bson(one), keys=KEYS, context="c").document["iv"] for _ in range(1000)}
    assert len(ivs) == 1000
