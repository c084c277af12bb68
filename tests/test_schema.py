"""schema: what a model's fields are to the database, and everything that is refused when it is read."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Generic, Literal, Optional, TypeVar
from uuid import UUID, uuid4

import bson
import pydantic_core
import pytest
from bson import ObjectId
from bson.codec_options import CodecOptions
from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, RootModel, SecretStr, computed_field
from typing_extensions import TypeAliasType, TypedDict

from mongo_envelope import BlindIndex, KeyRing
from mongo_envelope.blind import Indexer
from mongo_envelope.envelope import CODEC_OPTIONS
from mongo_envelope.errors import PayloadError, QueryError, SchemaError
from mongo_envelope.query import compile_search
from mongo_envelope.schema import Queryable, Schema, Sensitive

T = TypeVar("T")


class Status(Enum):
    active = "a"


class Address(BaseModel):
    city: str
    since: date


class Customer(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    id: UUID = Field(default_factory=uuid4)
    tenant: Annotated[str, Queryable]
    created_at: Annotated[datetime, Queryable(index=True)]
    kind: Annotated[Status, Queryable(name="k")] = Status.active
    email: Annotated[str, Sensitive()] = ""
    notes: str = ""


def split_and_joined(schema: Schema[Any], model: BaseModel) -> BaseModel:
    """As through a database: the metadata become BSON and come back."""
    metadata, payload = schema.split(model)
    document = bson.decode(bson.encode(metadata, codec_options=CODEC_OPTIONS), CODEC_OPTIONS)
    joined: BaseModel = schema.join(document, payload)
    return joined


def test_what_is_not_marked_is_sensitive() -> None:
    """The default fails closed: only the id and what is marked Queryable stands in the clear, under its stored name."""
    schema = Schema.of(Customer)
    assert [(field.name, field.stored) for field in schema.stored] == [
        ("id", "_id"),
        ("tenant", "tenant"),
        ("created_at", "created_at"),
        ("kind", "k"),
    ]
    assert schema.sensitive == {"email", "notes"}
    assert schema.indexes == ["created_at"]


def test_the_payload_holds_the_sensitive_and_the_exact_and_nothing_else() -> None:
    """A queryable value that BSON keeps is not written twice; one that BSON would change is in the payload, exactly."""
    customer = Customer(tenant="acme", created_at=datetime(2024, 1, 1, 0, 0, 0, 1999, UTC), email="a@b")
    metadata, payload = Schema.of(Customer).split(customer)
    assert metadata == {"_id": customer.id, "tenant": "acme", "created_at": DatetimeMS(1704067200001), "k": "a"}
    assert payload == b'{"created_at":"2024-01-01T00:00:00.001999Z","email":"a@b","notes":""}'
    assert split_and_joined(Schema.of(Customer), customer) == customer


@pytest.mark.parametrize(
    ("kind", "value", "projection"),
    [
        (str, "a", "a"),
        (bytes, b"\xff", b"\xff"),
        (UUID, UUID(int=1), UUID(int=1)),
        (ObjectId, ObjectId("0123456789abcdef01234567"), ObjectId("0123456789abcdef01234567")),
        (float, 5, 5.0),
        (Decimal, Decimal("1.10"), Decimal128("1.10")),
        (Decimal, Decimal("1." + "1" * 40), Decimal128("1." + "1" * 33)),
        (date, date(2024, 1, 1), DatetimeMS(1704067200000)),
        (datetime, datetime(1970, 1, 1, 0, 0, 0, 999), DatetimeMS(0)),
        (datetime, datetime(1969, 12, 31, 23, 59, 59, 999999), DatetimeMS(-1)),
        (datetime, datetime(1970, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), DatetimeMS(0)),
        (datetime, datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))), DatetimeMS(-62135647200000)),
        (time, time(1, 2), "01:02:00"),
        (timedelta, timedelta(milliseconds=1, microseconds=999), 1),
        (Status, Status.active, "a"),
        (Status | None, None, None),
        (list[Decimal], [Decimal(1)], [Decimal128("1")]),
        (set[str], {"b", "a"}, ["a", "b"]),
        (tuple[int, date], (1, date(1970, 1, 1)), [1, DatetimeMS(0)]),
        (dict[str, date], {"a": date(1970, 1, 1)}, {"a": DatetimeMS(0)}),
        (dict[int, str], {1: "a"}, [[1, "a"]]),
        (bytes | str, "a", "a"),
        (Address, Address(city="x", since=date(1970, 1, 1)), {"city": "x", "since": DatetimeMS(0)}),
    ],
)
def test_queryable_values_are_projections(kind: Any, value: Any, projection: Any) -> None:
    """The metadata holds what BSON can compare; what comes back is the exact value."""

    class Model(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        id: int = 1
        field: Annotated[kind, Queryable()]

    saved = Model(field=value)
    schema = Schema.of(Model)
    found = schema.split(saved)[0]["field"]
    assert found == projection
    assert type(found) is type(projection)
    assert split_and_joined(schema, saved) == saved
    assert saved.field == value


def test_a_computed_field_is_projected_and_not_fed_back() -> None:
    """A computed field marked Queryable stands in the metadata, is not in the payload, and is computed anew on load."""

    class Model(BaseModel):
        model_config = ConfigDict(extra="forbid")
        id: int = 1
        email: str

        @computed_field  # type: ignore[prop-decorator]
        @property
        def domain(self) -> Annotated[str, Queryable(index=True)]:
            return self.email.partition("@")[2]

        @computed_field  # type: ignore[prop-decorator]
        @property
        def shown(self) -> str:
            return "not stored"

    schema = Schema.of(Model)
    metadata, payload = schema.split(Model(email="a@b"))
    assert metadata == {"_id": 1, "domain": "b"}
    assert payload == b'{"email":"a@b"}'
    assert schema.join(metadata, payload) == Model(email="a@b")
    assert schema.indexes == ["domain"]


def test_an_id_of_none_becomes_an_object_id_on_the_instance() -> None:
    """Before sealing, and on a frozen model too; nothing else of the instance changes."""

    class Model(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)
        id: ObjectId | None = None

    model = Model()
    metadata, _ = Schema.of(Model).split(model)
    assert isinstance(metadata["_id"], ObjectId)
    assert model.id == metadata["_id"]


@pytest.mark.parametrize(
    "field",
    [
        Field(alias="_id"),
        Field(validation_alias="_id"),
        Field(serialization_alias="_id"),
        Field(validation_alias=AliasChoices("key", "_id")),
    ],
)
def test_the_id_may_be_the_field_whose_alias_is_id(field: Any) -> None:
    """Any of the three kinds of alias will do."""

    class Model(BaseModel):
        key: int = field

    assert Schema.of(Model).identity.name == "key"


def test_generic_and_inherited_models_keep_their_markers() -> None:
    """A marker goes along into a subclass and into the parametrised class."""

    class Base(BaseModel, Generic[T]):
        id: int = 1
        tenant: Annotated[str, Queryable()] = ""
        content: T

    class Derived(Base[bytes]):
        more: Annotated[int, Queryable()] = 1

    saved = Derived(content=b"\xff")
    assert Schema.of(Derived).names == ["id", "tenant", "more"]
    assert split_and_joined(Schema.of(Derived), saved) == saved
    assert Schema.of(Base[bytes]).names == ["id", "tenant"]


def test_a_field_may_move_from_sensitive_to_queryable() -> None:
    """A document that was written before has the value in its payload, and that is found."""

    class Before(BaseModel):
        id: int = 1
        tenant: str

    class After(BaseModel):
        id: int = 1
        tenant: Annotated[str, Queryable()]

    metadata, payload = Schema.of(Before).split(Before(tenant="acme"))
    assert Schema.of(After).join(metadata, payload) == After(tenant="acme")


def test_a_field_may_move_from_queryable_to_sensitive() -> None:
    """A document that was written before has the value in its metadata alone; the names of the envelope are not taken for it."""

    class Before(BaseModel):
        id: int = 1
        tenant: Annotated[str, Queryable()]
        at: Annotated[datetime, Queryable()]

    class After(BaseModel):
        id: int = 1
        tenant: str
        at: datetime
        data: str = "mine"

    at = datetime(2024, 1, 1, 0, 0, 0, 123456)
    metadata, payload = Schema.of(Before).split(Before(tenant="acme", at=at))
    document = {**metadata, "at": datetime(2024, 1, 1, tzinfo=UTC), "data": b"ciphertext"}
    assert Schema.of(After).join(document, payload) == After(tenant="acme", at=at)


def test_an_instance_in_the_place_of_the_class_is_refused_without_its_repr() -> None:
    """Its repr would show what is sensitive."""
    instance = Customer(tenant="acme", created_at=datetime(2024, 1, 1, tzinfo=UTC), email="canary")
    with pytest.raises(SchemaError, match="an instance of Customer is not") as caught:
        Schema.of(instance)  # type: ignore[type-var, arg-type]
    assert "canary" not in str(caught.value)


def test_padding_and_white_space_in_the_payload_are_legal() -> None:
    """Another implementation may write them."""
    schema = Schema.of(Customer)
    customer = Customer(tenant="acme", created_at=datetime(2024, 1, 1, tzinfo=UTC))
    metadata, payload = schema.split(customer)
    document = bson.decode(bson.encode(metadata, codec_options=CODEC_OPTIONS), CODEC_OPTIONS)
    assert schema.join(document, b" \n{ \t" + payload[1:] + b"   ") == customer
    assert schema.raw(document, payload + b"   ")["tenant"] == "acme"


@pytest.mark.parametrize("payload", [b"", b"[]", b"null", b'{"a":1,"a":2}', b'{"a":"\\ud800"}', b"\xff", b"{} {}", b"[" * 100_000])
def test_raw_takes_one_json_object_with_unique_names(payload: bytes) -> None:
    """Whatever else was sealed is a PayloadError."""
    with pytest.raises(PayloadError):
        Schema.of(Customer).raw({"_id": 1}, payload)


def test_metadata_that_its_field_cannot_have_is_a_payload_error() -> None:
    """A genuine document of an older model, whose metadata has a type that JSON cannot take over."""
    with pytest.raises(PayloadError, match="metadata"):
        Schema.of(Customer).join({"_id": 1, "tenant": Decimal128("1"), "k": "a"}, b"{}")


# --- what is refused --------------------------------------------------------------------------------------------------


class MarkedInside(BaseModel):
    city: Annotated[str, Queryable()]


class SensitiveInside(BaseModel):
    city: Annotated[str, Sensitive()]


class MarkedDict(TypedDict):
    city: Annotated[str, Queryable()]


@dataclasses.dataclass
class MarkedDataclass:
    city: Annotated[str, Queryable()]


Alias = TypeAliasType("Alias", Annotated[str, Queryable()])


@pytest.mark.parametrize(
    "kind",
    [
        Optional[Annotated[str, Queryable()]],  # noqa: UP045 - as people write it
        list[Annotated[str, Queryable]],
        list[Annotated[str, Sensitive()]],
        dict[str, list[Annotated[str, Queryable()]]],
        Alias,
        list[Alias],
        MarkedInside,
        list[MarkedInside],
        MarkedDict,
        MarkedDataclass,
        Annotated[SensitiveInside, Queryable()],
    ],
)
def test_a_marker_without_effect_is_refused(kind: Any) -> None:
    """Inside a type, behind an alias or on a nested model's field a marker does nothing, so it is said."""

    class Model(BaseModel):
        id: int
        field: kind

    with pytest.raises(SchemaError, match=r"Model.field.*has no effect.*Annotated\[") as caught:
        Schema.of(Model)
    assert "Queryable()" in str(caught.value) or "Sensitive()" in str(caught.value)


def test_a_nested_model_may_say_that_its_fields_are_sensitive() -> None:
    """They are: the whole of it is."""

    class Model(BaseModel):
        id: int
        field: list[SensitiveInside]

    assert Schema.of(Model).sensitive == {"field"}


def test_a_subclass_that_declares_a_field_again_repeats_its_marker() -> None:
    """Otherwise a queryable field would silently become sensitive."""

    class Base(BaseModel):
        id: int
        tenant: Annotated[str, Queryable()]
        notes: Annotated[str, Sensitive()]

    class Derived(Base):
        tenant: str

    class Other(Base):
        notes: str

    with pytest.raises(SchemaError, match=r"Derived.tenant: declared again without the marker Queryable\(\)"):
        Schema.of(Derived)
    assert Schema.of(Other).sensitive == {"notes"}


class SecretHolder(BaseModel):
    secret: SecretStr


BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"field": (Annotated[str, Queryable(), Sensitive()], ...)}, "more than one marker"),
    ({"field": (str, Queryable())}, r"stands as the default value. Write field: Annotated\[…, Queryable\(\)\]"),
    ({"field": (str, Sensitive)}, "stands as the default value"),
    ({"data": (Annotated[str, Queryable()], ...)}, "'data' belongs to the envelope"),
    ({"field": (Annotated[str, Queryable(name="hmac")], ...)}, "'hmac' belongs to the envelope"),
    ({"field": (Annotated[str, Queryable(name="_id")], ...)}, "'_id' belongs to the envelope"),
    ({"field": (Annotated[str, Queryable(name="a.b")], ...)}, "cannot be a stored name"),
    ({"field": (Annotated[str, Queryable(name="$a")], ...)}, "cannot be a stored name"),
    ({"field": (Annotated[str, Queryable(name="")], ...)}, "cannot be a stored name"),
    ({"field": (Annotated[str, Queryable(name="other")], ...), "other": (str, ...)}, "is the name of another field"),
    ({"a": (Annotated[str, Queryable(name="c")], ...), "b": (Annotated[str, Queryable(name="c")], ...)}, "stored as 'c', as is a"),
    ({"a": (Annotated[str, Queryable(name="b")], ...), "b": (Annotated[str, Queryable(name="a")], ...)}, "name of another field"),
    ({"field": (Annotated[SecretStr, Queryable()], ...)}, "a secret does not belong in metadata"),
    ({"field": (Annotated[list[SecretStr], Queryable()], ...)}, "a secret does not belong in metadata"),
    ({"field": (Annotated[SecretHolder, Queryable()], ...)}, "a secret does not belong in metadata"),
    ({"field": (Annotated[Any, Queryable()], ...)}, "Any has no fixed form"),
    ({"field": (Annotated[complex, Queryable()], ...)}, "BSON has no complex numbers"),
    ({"field": (Annotated[str, Sensitive(dump=str)], ...)}, "dump= and load= together"),
]


@pytest.mark.parametrize(("fields", "reason"), BAD_FIELDS)
def test_a_field_that_cannot_be_stored_so_is_refused(fields: dict[str, Any], reason: str) -> None:
    """When the schema is read; the error names the field and says what to write instead."""
    body = {name: default for name, (_, default) in fields.items() if default is not ...}
    annotations = {"id": int, **{name: kind for name, (kind, _) in fields.items()}}
    with pytest.raises(SchemaError, match=reason) as caught:
        Schema.of(type("Model", (BaseModel,), {"__annotations__": annotations, "__module__": __name__, **body}))
    assert str(caught.value).startswith("Model.")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "Model: no id"),
        ({"id": (int, ...), "key": (int, Field(alias="_id"))}, "two ids, id and key"),
        ({"id": (Annotated[int, Sensitive()], ...)}, "stands in the clear"),
        ({"id": (Annotated[int, Queryable(name="key")], ...)}, "the id is stored as _id"),
        ({"id": (list[int], ...)}, "no arrays as _id"),
        ({"id": (UUID | None, None)}, "default_factory"),
        ({"id": (SecretStr, ...)}, "a secret does not belong"),
    ],
)
def test_a_model_has_one_id_that_can_stand_in_the_clear(fields: dict[str, Any], reason: str) -> None:
    """It is the document's _id."""
    body = {name: default for name, (_, default) in fields.items() if default is not ...}
    annotations = {name: kind for name, (kind, _) in fields.items()}
    model = type("Model", (BaseModel,), {"__annotations__": annotations, "__module__": __name__, **body})
    with pytest.raises(SchemaError, match=reason):
        Schema.of(model)


@pytest.mark.parametrize("model", [int, dict, "Customer", RootModel[int], None])
def test_what_is_not_a_model_with_fields_is_refused(model: Any) -> None:
    """Only a class derived from pydantic.BaseModel has them."""
    with pytest.raises(SchemaError, match="not a pydantic model with fields"):
        Schema.of(model)


def test_a_computed_field_marked_sensitive_is_refused() -> None:
    """It is not stored, so the marker has no effect."""

    class Model(BaseModel):
        id: int

        @computed_field  # type: ignore[prop-decorator]
        @property
        def shown(self) -> Annotated[str, Sensitive()]:
            return ""

    with pytest.raises(SchemaError, match=r"Model.shown: a computed field is not stored"):
        Schema.of(Model)


# --- what is refused at save ------------------------------------------------------------------------------------------


def test_a_value_that_cannot_be_kept_is_a_payload_error_that_names_the_field() -> None:
    """Nothing of the value is in it."""
    customer = Customer(tenant="acme", created_at=datetime(2024, 1, 1, tzinfo=UTC))
    customer.email = 5  # type: ignore[assignment]
    with pytest.raises(PayloadError, match="Customer: not saved: email: str expected, int found"):
        Schema.of(Customer).split(customer)


def test_an_extra_value_with_a_stored_name_is_refused() -> None:
    """Names of the payload and of the metadata never meet."""

    class Model(BaseModel):
        model_config = ConfigDict(extra="allow")
        id: int = 1
        kind: Annotated[str, Queryable(name="k")] = ""

    for name in ("k", "_id"):
        with pytest.raises(PayloadError, match=f"stored name of a queryable field: {name}"):
            Schema.of(Model).split(Model.model_validate({name: 1}))


def test_a_computed_field_that_fails_or_changes_its_type_is_a_payload_error() -> None:
    """With the name of the field, and without the words of the exception."""

    class Model(BaseModel):
        id: int = 1
        how: str = "raise"

        @computed_field  # type: ignore[prop-decorator]
        @property
        def shown(self) -> Annotated[str, Queryable()]:
            if self.how == "raise":
                raise LookupError("secret words")
            return 5  # type: ignore[return-value]

    schema = Schema.of(Model)
    with pytest.raises(PayloadError, match="shown: computed, raised LookupError") as caught:
        schema.split(Model())
    assert "secret words" not in str(caught.value) + repr(caught.value.__context__)
    with pytest.raises(PayloadError, match="shown: str expected, int found"):
        schema.split(Model(how="wrong type"))


def test_the_decoded_form_of_a_stored_uuid_does_not_matter() -> None:
    """Metadata are decoded with standard UUIDs; a Binary that was not would not fit and is said."""
    metadata, payload = Schema.of(Customer).split(Customer(tenant="a", created_at=datetime(2024, 1, 1, tzinfo=UTC)))
    plain: CodecOptions[Any] = CodecOptions()
    undecoded = bson.decode(bson.encode(metadata, codec_options=CODEC_OPTIONS), plain)
    with pytest.raises(PayloadError, match="id"):
        Schema.of(Customer).join(undecoded, payload)


def test_what_is_searched_at_once() -> None:
    """Plain text, whose first index needs nothing else; not a Literal, for which other text is refused, and no short values."""

    class Model(BaseModel):
        id: int
        text: Annotated[str, Sensitive(index=BlindIndex())]
        maybe: Annotated[str | None, Sensitive(index=BlindIndex())] = None
        short: Annotated[str, Sensitive(index=BlindIndex(bits=64))] = ""
        one_of: Annotated[Literal["a", "b"], Sensitive(index=BlindIndex(few_values=True))] = "a"
        number: Annotated[int, Sensitive(index=BlindIndex())] = 0

    assert {"text"} <= set(Schema.of(Model).searched_at_once) <= {"text", "maybe"}
    indexer = Indexer(Schema.of(Model).blind, KeyRing.generate(), "c")
    with pytest.raises(QueryError, match="one_of"):
        compile_search(Schema.of(Model), {"one_of": "z"}, indexer)


# --- moments ----------------------------------------------------------------------------------------------------------


class Visit(BaseModel):
    id: int
    at: Annotated[datetime, Queryable()]
    left: Annotated[datetime, Queryable()]
    note: str = ""


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("left", "kept"),
    [
        (NOON, True),
        (NOON + timedelta(milliseconds=7), True),
        (datetime.min.replace(tzinfo=UTC), True),
        (datetime.max.replace(microsecond=999_000, tzinfo=UTC), True),
        (NOON.astimezone(timezone(timedelta(0), "GMT")), True),
        (NOON + timedelta(microseconds=1), False),
        (NOON.replace(tzinfo=None), False),
        (NOON.astimezone(timezone(timedelta(hours=1))), False),
    ],
    ids=str,
)
def test_a_moment_that_bson_keeps_stands_in_the_metadata_alone(left: datetime, kept: bool) -> None:
    """The payload has moments if it must have one of them; in either case what is loaded is what was saved, offset included."""
    schema = Schema.of(Visit)
    visit = Visit(id=1, at=NOON, left=left)
    metadata, payload = schema.split(visit)
    assert ("at" in json.loads(payload)) is ("left" in json.loads(payload)) is not kept
    stored = bson.decode(bson.encode(metadata, codec_options=CODEC_OPTIONS), CODEC_OPTIONS)
    loaded = schema.join(stored, payload)
    assert loaded == visit
    assert loaded.left.utcoffset() == left.utcoffset()
    assert schema.disagreeing(stored, loaded) == []


def test_the_moment_in_the_payload_wins() -> None:
    """It is exact; documents that were sealed before it could be left out have it always."""
    schema = Schema.of(Visit)
    exact = NOON + timedelta(microseconds=5)
    loaded = schema.join({"_id": 1, "at": NOON, "left": NOON}, _json(at=exact, left=NOON, note="x"))
    assert (loaded.at, loaded.left, loaded.note) == (exact, NOON, "x")
    assert schema.disagreeing({"_id": 1, "at": NOON, "left": NOON}, loaded) == []
    assert schema.disagreeing({"_id": 1, "at": NOON + timedelta(days=1), "left": NOON}, loaded) == ["at"]


def test_a_moment_of_no_year_that_python_knows() -> None:
    """In the metadata alone it is no value of the field; with an exact one in the payload it is not looked at."""
    schema = Schema.of(Visit)
    far = {"_id": 1, "at": DatetimeMS(2**60), "left": NOON}
    assert schema.join(far, _json(at=NOON)).at == NOON
    with pytest.raises(PayloadError, match="at: missing"):
        schema.join(far, b'{"note":"x"}')


def _json(**values: Any) -> bytes:
    return pydantic_core.to_json(values)
