"""The short way of reading against the plain one: it gives the same, or leaves the document to the plain way."""

from __future__ import annotations

import random
import struct
import sys
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

import pytest
from bson import Int64, ObjectId
from every_type import ANYTHING, EVERY_TYPE, same
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, create_model, field_validator, model_validator
from test_spec import ring, values, vectors

from mongo_envelope import BlindIndex, Bucket, DocumentCodec, IndexKey, KeyRing, Queryable, Sensitive, envelope
from mongo_envelope.errors import MalformedEnvelopeError, MongoEnvelopeError, PayloadError, SchemaError

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from customers import make_customers

KEYS = KeyRing.generate()


def codec(model: type[BaseModel], keys: KeyRing = KEYS, context: str = "c") -> DocumentCodec[Any]:
    return DocumentCodec(model, keys=keys, context=context)


def agrees(of: DocumentCodec[Any], raw: bytes) -> bool:
    """Whether the short way is taken; it never raises, and gives what the plain way gives."""
    fast = of._fast.open(raw)
    if fast is None:
        return False
    plain = of.open_plainly(raw)
    assert same(fast, plain), (fast, plain)
    assert fast[2].__pydantic_fields_set__ == plain[2].__pydantic_fields_set__
    return True


class Short(BaseModel):
    id: ObjectId
    n: Annotated[int, Queryable()]
    secret: str = "s"
    model_config = ConfigDict(arbitrary_types_allowed=True)


class Mixed(BaseModel):
    id: str
    tenant: Annotated[str | None, Queryable(name="t")]
    other: Annotated[UUID, Queryable()]
    flag: Annotated[bool, Queryable()]
    at: Annotated[datetime, Queryable()]
    secret: str = "s"


class Indexed(BaseModel):
    id: int
    tenant: Annotated[str, Queryable()]
    email: Annotated[str, Sensitive(index=[BlindIndex(normalize="email"), BlindIndex(name="short", bits=8, within=("tenant",))])]
    tags: Annotated[list[str], Sensitive(index=BlindIndex(bits=64))]
    salary: Annotated[int | None, Sensitive(index=Bucket(width=1000))]
    à: Annotated[str, Sensitive(index=BlindIndex(normalize="digits"))] = ""  # noqa: PLC2401 - a name beyond ASCII


#: Values are written under two keys while one takes the place of the other.
BOTH = KEYS.with_index_key(IndexKey.generate())
INDEXED = Indexed(id=1, tenant="acme", email="ada@example.com", tags=["a", "b", "c"], salary=1500)
UNTAGGED = Indexed(id=2**40, tenant="", email="", tags=[], salary=None, à="7")

SEALED: list[BaseModel] = [
    make_customers(1)[0],
    Short(id=ObjectId(), n=2**40),
    Mixed(id="é'", tenant="\u2028😀", other=uuid4(), flag=True, at=datetime(2026, 1, 1, tzinfo=UTC)),
]


def test_the_short_way_is_taken_for_the_customer_of_the_benchmark() -> None:
    one = make_customers(1)[0]
    of = codec(type(one))
    assert agrees(of, of.seal_bson(one))


@pytest.mark.parametrize("file", ["open", "reject"])
def test_vectors(file: str) -> None:
    kinds = {"oid": ObjectId, "str": str, "int": int, "uuid": UUID}
    taken = 0
    for case in vectors(file):
        raw, keys = bytes.fromhex(case["document"]), ring(case["keys"])
        document = values(case.get("metadata", {}))
        exact: dict[str, Any] = {name: (Annotated[Any, Queryable()], None) for name in document if name not in ("_id", "idx")}
        for identity in kinds.values():
            for fields in ({}, {name: (Annotated[type(document[name]) | None, Queryable()], None) for name in exact}):
                try:
                    model = create_model(
                        "M", __config__=ConfigDict(extra="allow", arbitrary_types_allowed=True), id=(identity, ...), **fields
                    )
                    of = codec(model, keys, case["context"])
                except SchemaError:
                    continue
                if agrees(of, raw):
                    taken += 1
                    assert file == "open"
    assert taken or file == "reject"


def flips(raw: bytes) -> Iterator[bytes]:
    for bit in range(len(raw) * 8):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


def retagged(of: DocumentCodec[Any], raw: bytes) -> bytes:
    """The mutation as one who holds the keys would seal it: past the tag, the two ways must still agree."""
    signed = raw[4:-44]
    tag = KEYS.working_keys(KEYS.primary, of.context).authenticator.tag(signed)
    return struct.pack("<i", len(signed) + 48) + signed + raw[-44:-33] + tag + b"\x00"


@pytest.mark.parametrize(
    ("one", "keys"),
    [*((one, KEYS) for one in SEALED), (INDEXED, KEYS), (INDEXED, BOTH), (UNTAGGED, BOTH)],
    ids=lambda each: type(each).__name__ if isinstance(each, BaseModel) else f"{len(each.index_keys)} index keys",
)
def test_mutations(one: BaseModel, keys: KeyRing) -> None:
    of, chance = codec(type(one), keys), random.Random(1)  # noqa: S311 - seeded
    raw = of.seal_bson(one)
    assert agrees(of, raw)
    assert not any(agrees(of, each) for each in flips(raw))
    taken = 0
    for each in flips(raw):
        try:
            taken += agrees(of, retagged(of, each))
        except MongoEnvelopeError as error:
            pytest.fail(f"the short way took what the plain way refuses: {error}")
    assert taken
    for number in range(20_000):
        changed = bytearray(raw)
        for _ in range(chance.randint(1, 4)):
            begin = chance.randrange(len(changed))
            match chance.randrange(4):
                case 0:
                    changed[begin] = chance.choice([0, 1, 2, 5, 7, 8, 10, 16, 18, 255, chance.randrange(256)])
                case 1:
                    del changed[begin : begin + chance.randint(1, 20)]
                case 2:
                    changed[begin:begin] = chance.randbytes(chance.randint(1, 8))
                case _:
                    other = chance.randrange(len(changed))
                    changed[begin : begin + 8] = changed[other : other + 8]
            changed = changed or bytearray(raw)
        agrees(of, retagged(of, bytes(changed)) if number % 2 else bytes(changed))
    for cut in range(len(raw)):
        assert not agrees(of, raw[:cut])


@pytest.mark.parametrize("name", EVERY_TYPE)
def test_every_type(name: str) -> None:
    kind, each = EVERY_TYPE[name]
    for marker in (Sensitive(), Queryable()):
        try:
            model = create_model(
                "Model", __config__=ConfigDict(arbitrary_types_allowed=True), id=(int, ...), field=(Annotated[kind, marker], ...)
            )
            of = codec(model)
        except SchemaError:
            assert isinstance(marker, Queryable) or name in ANYTHING
            continue
        for number, value in enumerate(each):
            taken = agrees(of, of.seal_bson(model.model_construct(id=number, field=value)))
            assert taken or isinstance(marker, Queryable)


@pytest.mark.parametrize("text", ["", '"', "\\", "\x00\x1f\x7f", "\u2028\u2029", "😀é", "</script>", "\\u0041", "\ufeff", "\uffff"])
def test_text_in_the_clear(text: str) -> None:
    """What JSON would have to escape is left to the plain way."""
    of = codec(create_model("T", id=(str, ...), text=(Annotated[str, Queryable()], ...), secret=(str, "s")))
    needs_escape = any(each in '"\\' or each < " " for each in text)
    raw = of.seal_bson(of.schema.model(id=text, text=text))
    assert agrees(of, raw) is not needs_escape
    assert of.open(raw).text == text


@pytest.mark.parametrize("identity", [0, -1, 2**31, -(2**63), 2**63 - 1, "x", uuid4(), ObjectId()])
def test_identities(identity: Any) -> None:
    of = codec(create_model("I", __config__=ConfigDict(arbitrary_types_allowed=True), id=(type(identity), ...), secret=(str, "s")))
    raw = of.seal_bson(of.schema.model(id=identity))
    assert agrees(of, raw)
    assert type(of.open_bson(raw)[0]) is (Int64 if type(identity) is int and abs(identity) >= 2**31 else type(identity))


@pytest.mark.parametrize("milliseconds", [0, 2, 5, 7, 16, 18, 1_767_225_600_002, -1])
def test_a_moment_as_an_identity(milliseconds: int) -> None:
    """Whatever its bytes look like, the ``_id`` is the moment."""
    of = codec(create_model("I", id=(datetime, ...), secret=(str, "s")))
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    raw = of.seal_bson(of.schema.model(id=moment))
    assert agrees(of, raw)
    assert of.open_bson(raw)[0] == moment


#: Around where pydantic takes a number for seconds, and at both ends of what a datetime and BSON hold.
MOMENTS = [
    *(sign * (20_000_000_000 + off) for sign in (1, -1) for off in (-1, 0, 1)),
    *(0, 1, -1, 999, 1_767_225_600_123, -62_135_596_800_000, -62_135_596_800_001, 253_402_300_799_999, 253_402_300_800_000),
    *(2**63 - 1, -(2**63)),
]


@pytest.mark.parametrize("milliseconds", MOMENTS)
def test_moments(milliseconds: int) -> None:
    """As a number or as a text, pydantic reads the moment that BSON holds, or the plain way says that it is none."""
    of = codec(Mixed)
    raw = of.seal_bson(SEALED[2])
    stored = struct.pack("<q", int(SEALED[2].at.timestamp() * 1000))  # type: ignore[attr-defined]  # of a Mixed
    raw = retagged(of, raw.replace(b"\x09at\x00" + stored, b"\x09at\x00" + struct.pack("<q", milliseconds)))
    try:
        expected = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    except OverflowError:
        assert of._fast.open(raw) is None
        return
    assert agrees(of, raw)
    assert of.open(raw).at == expected


class Seen(BaseModel):
    """What its validators see."""

    id: UUID
    other: Annotated[UUID, Queryable()] = UUID(int=7)
    at: Annotated[datetime, Queryable()] = datetime(2026, 1, 1, tzinfo=UTC)
    secret: str = "s"


SEEN: list[Any] = []


class FieldBefore(Seen):
    @field_validator("id", "other", "at", mode="before")
    @classmethod
    def see(cls, value: Any) -> Any:
        SEEN.append(value)
        return value


class FieldWrap(Seen):
    @field_validator("id", "other", "at", mode="wrap")
    @classmethod
    def see(cls, value: Any, handler: Any) -> Any:
        SEEN.append(value)
        return handler(value)


class FieldAfter(Seen):
    @field_validator("id", "at")
    @classmethod
    def see(cls, value: Any) -> Any:
        SEEN.append(value)
        return UUID(int=9) if isinstance(value, UUID) else value + timedelta(days=1)


class ModelBefore(Seen):
    @model_validator(mode="before")
    @classmethod
    def see(cls, values: Any) -> Any:
        SEEN.append(dict(values))
        return values


class ModelWrap(Seen):
    @model_validator(mode="wrap")
    @classmethod
    def see(cls, values: Any, handler: Any) -> Any:
        SEEN.append(dict(values))
        return handler(values)


class ModelAfter(Seen):
    @model_validator(mode="after")
    def see(self) -> Any:
        SEEN.append(self.id)
        self.id = UUID(int=8)
        return self


class PostInit(Seen):
    def model_post_init(self, context: Any, /) -> None:
        SEEN.append((self.id, context))
        self.id = UUID(int=8)


@pytest.mark.parametrize("model", [Seen, FieldBefore, FieldWrap, FieldAfter, ModelBefore, ModelWrap, ModelAfter, PostInit])
def test_a_validator_sees_what_the_plain_way_shows_it(model: type[Seen]) -> None:
    """Short forms are for pydantic's parser alone; and an ``_id`` is that of the document, whatever becomes of the field."""
    of = codec(model)
    one = model.model_construct(id=uuid4(), other=uuid4(), at=datetime(2026, 1, 2, 3, 4, 5, 678000, UTC), secret="s")
    raw = of.seal_bson(one)
    SEEN.clear()
    short = of._fast.open(raw)
    seen = [*SEEN]
    SEEN.clear()
    plain = of.open_plainly(raw)
    assert same(short, plain)
    assert seen == SEEN
    assert bool(seen) is (model is not Seen)
    assert short is not None
    assert short[0] == one.id


class Keyed(BaseModel):
    key: UUID = Field(alias="_id")
    secret: str = "s"


class Rewriting(Seen):
    """A validator of another field writes the id: ``info.data`` is the instance's own dict."""

    @field_validator("secret")
    @classmethod
    def see(cls, value: str, info: ValidationInfo) -> str:
        info.data["id"] = UUID(int=9)
        return value


def test_the_id_is_the_document_s_whatever_the_model_holds() -> None:
    """The payload may have a value of that name, as after a field has become the id; or a function may have changed it."""
    identity = UUID(int=1)
    for model, payload in ((Keyed, b'{"key":"%s","secret":"s"}' % str(UUID(int=2)).encode()), (Rewriting, b'{"secret":"s"}')):
        of = codec(model)
        metadata: dict[str, Any] = {"_id": identity}
        if model is Rewriting:
            metadata |= {"other": UUID(int=3), "at": datetime(2026, 1, 1, tzinfo=UTC)}
        raw = envelope.seal(metadata, payload, keys=KEYS, context="c")
        assert agrees(of, raw)
        found, _, opened = of.open_bson(raw)
        assert found == identity != getattr(opened, of.schema.identity.name)


@pytest.mark.parametrize("length", [1, 2, 4, 6, 257])
def test_an_identity_of_two_types(length: int) -> None:
    """Whatever the length of a text is, the ``_id`` is that text."""
    of = codec(create_model("I", id=(UUID | str, ...), secret=(str, "s")))
    raw = of.seal_bson(of.schema.model(id="a" * length))
    agrees(of, raw)
    assert of.open_bson(raw)[0] == "a" * length


EVOLVED: dict[str, Any] = {
    "as before": datetime,
    "may be missing": datetime | None,
    "a day": date,
    "a day that may be missing": date | None,
    "a moment or a number": datetime | int,
    "a text": str,
}


@pytest.mark.parametrize("kind", EVOLVED)
@pytest.mark.parametrize("moment", [datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 2, 0, 0, 0, 5, UTC)], ids=str)
@pytest.mark.parametrize("default", [True, False])
def test_a_moment_survives_another_type_of_its_field(kind: str, moment: datetime, default: bool) -> None:
    """It may stand in the metadata alone. It is read from there, or it does not fit; a default never takes its place."""
    fields: dict[str, Any] = {"id": (int, ...), "secret": (str, "s")}
    old = codec(create_model("Old", at=(Annotated[datetime, Queryable()], ...), **fields))
    other = datetime(1999, 1, 1, tzinfo=UTC)
    given: Any = other.isoformat() if kind == "a text" else other.date() if "day" in kind else other
    new = codec(create_model("New", at=(Annotated[EVOLVED[kind], Queryable()], given if default else ...), **fields))
    raw = old.seal_bson(old.schema.model(id=1, at=moment))
    agrees(new, raw)
    try:
        found = new.open(raw).at
    except PayloadError:
        assert kind == "a moment or a number" or ("day" in kind and moment.microsecond)
        return
    if isinstance(found, str):
        found = datetime.fromisoformat(found)
    assert found in (moment, moment.date(), moment.replace(microsecond=0))
    assert isinstance(found, datetime) is ("day" not in kind)
    again = new.seal_bson(new.open(raw))
    agrees(new, again)
    assert new.open(again).at == new.open(raw).at


def test_a_hostile_index_array_costs_no_memory() -> None:
    """The short way looks at a document before it is verified: it keeps nothing for each of a million elements."""
    of = codec(Indexed)
    raw = of.seal_bson(INDEXED)
    _, elements = envelope._arrange(raw)
    begin, _, end = elements[b"idx"]
    inside = raw[begin:end]
    head = inside[inside.index(b"\x02kid") : inside.index(b"\x05email")]
    tags = framed(*(element(5, b"%d" % number, binary(bytes(8))) for number in range(200_000)))
    hostile = raw[:begin] + element(3, b"idx", framed(head, element(4, b"tags", tags[:-1] + b"\x01"))) + raw[end:]
    hostile = struct.pack("<i", len(hostile)) + hostile[4:]
    tracemalloc.start()
    assert of._fast.open(hostile) is None
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_a_uuid_read_as_text_has_its_dashes() -> None:
    written, read = (codec(create_model("U", id=(kind, ...), secret=(str, "s"))) for kind in (UUID, str))
    raw = written.seal_bson(written.schema.model(id=uuid4()))
    assert agrees(read, raw)


def test_what_is_left_to_the_plain_way() -> None:
    one = make_customers(1)[0]
    of = codec(type(one))
    document, payload = envelope.open(of.seal_bson(one), keys=KEYS, context="c"), None
    payload = document.payload
    metadata = {name: value for name, value in document.document.items() if name not in {"data", "iv", "kid", "v", "hmac"}}
    for more, content in [
        ({"extra": 1}, payload),
        ({"idx": {"kid": "k", "a": b"1"}}, payload),
        ({}, b" " + payload),
        ({}, b"{ " + payload[1:]),
    ]:
        raw = envelope.seal(metadata | more, content, keys=KEYS, context="c")
        assert not agrees(of, raw)
        assert of.open(raw) == one
    assert agrees(of, envelope.seal(metadata, payload + b" \n", keys=KEYS, context="c"))
    _, elements = envelope._arrange(raw)
    moved = raw[:4] + b"".join(raw[begin:end] for begin, _, end in reversed(elements.values())) + b"\x00"
    assert not agrees(of, moved)
    assert of.open(moved) == one


def test_no_sensitive_field_and_no_more() -> None:
    of = codec(create_model("E", id=(int, ...), n=(Annotated[int, Queryable()], ...)))
    one = of.schema.model(id=1, n=2)
    raw = of.seal_bson(one)
    assert not agrees(of, raw)
    assert of.open(raw) == one


def test_evolved_models() -> None:
    """Fields moved between the payload and the clear, and added with a default: the plain way reads them as before."""
    marked: dict[str, Any] = {
        "none": {},
        "clear": {"a": (Annotated[int, Queryable()], 1)},
        "sealed": {"a": (int, 1)},
        "both": {"a": (Annotated[int, Queryable()], 1), "b": (str, "x")},
    }
    codecs = [codec(create_model("V", id=(int, ...), s=(str, "s"), **fields)) for fields in marked.values()]
    for writer in codecs:
        raw = writer.seal_bson(writer.schema.model(id=7))
        for reader in codecs:
            taken = agrees(reader, raw)
            assert taken or reader is not writer
            assert same(reader.open(raw), reader.open_plainly(raw)[2])


# --- idx ------------------------------------------------------------------------------------------------------------

INDEX_KEYS = KEYS.index_keys + BOTH.index_keys[1:]


@pytest.mark.parametrize("one", [INDEXED, UNTAGGED], ids=["with all", "with hardly any"])
@pytest.mark.parametrize("keys", [KEYS, BOTH], ids=["one index key", "two index keys"])
def test_the_short_way_is_taken_for_a_model_with_blind_indexes(one: Indexed, keys: KeyRing) -> None:
    """With single values, lists, and none at all; while an index key is being replaced, too."""
    of = codec(Indexed, keys)
    raw = of.seal_bson(one)
    assert agrees(of, raw)
    assert same(of.verify(raw), one)


def test_at_every_step_of_a_new_index_key_the_short_way_is_taken() -> None:
    """For documents of the step before and of the step after: all that a ring knows. Others go the plain way, and open as well."""
    old, new = INDEX_KEYS
    switched = BOTH.searching_by(new)
    rings = [KEYS, BOTH, switched, switched.writing_only(new), switched.writing_only(new).without_index_key(old)]
    taken = []
    for sealing in rings:
        raw = codec(Indexed, sealing).seal_bson(INDEXED)
        for opening in rings:
            of = codec(Indexed, opening)
            taken.append(agrees(of, raw))
            assert same(of.open(raw), INDEXED)
    assert taken[:: len(rings) + 1] == [True] * len(rings)  # each reads what it has written itself
    assert taken[len(rings)] is False  # the first ring does not know the key that was added


def test_what_a_search_expects_must_be_in_idx() -> None:
    """A document in which an index value does not stand is for the plain way, as is one that has it elsewhere."""
    of = codec(Indexed)
    definition = next(each for each in of.schema.blind if each.name == "email")
    raw = of.seal_bson(INDEXED)
    value = of.indexer.asked(definition, definition.encoding(INDEXED.__dict__) or b"")
    found = of._fast.open(raw, definition.head + value)
    assert found is not None
    assert same(found[2], INDEXED)
    assert of._fast.open(raw, definition.head + bytes(16)) is None
    assert of._fast.open(raw, raw[4:14]) is None


def element(kind: int, name: bytes, value: bytes) -> bytes:
    return bytes([kind]) + name + b"\0" + value


def text(value: str) -> bytes:
    return struct.pack("<i", len(value) + 1) + value.encode() + b"\0"


def binary(value: bytes, subtype: int = 0) -> bytes:
    return struct.pack("<i", len(value)) + bytes([subtype]) + value


def framed(*elements: bytes) -> bytes:
    body = b"".join(elements)
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def array(*values: bytes, kind: int = 5, names: Any = None) -> bytes:
    return framed(
        *(element(kind, b"%d" % (number if names is None else names[number]), value) for number, value in enumerate(values))
    )


X1, X2 = INDEX_KEYS
ONE, VALUES = binary(bytes(16)), [binary(bytes([number] * 8)) for number in range(12)]
KID, KIDS = element(2, b"kid", text(X1)), element(4, b"kid", array(*map(text, sorted(INDEX_KEYS)), kind=2))
EMAIL, SHORT, TAGS = element(5, b"email", ONE), element(5, b"short", binary(b"s")), element(4, b"tags", array(*VALUES))
#: name → (the elements of ``idx``, whether the plain way takes them)
IDX: dict[str, tuple[list[bytes], bool]] = {
    "as sealed": ([KID, EMAIL, SHORT, TAGS], True),
    "under two keys": ([KIDS, EMAIL, SHORT, TAGS], True),
    "some are missing": ([KID, TAGS], True),
    "nothing but a kid": ([KID], True),
    "no kid": ([EMAIL], False),
    "nothing": ([], False),
    "the kid last": ([EMAIL, KID], True),
    "in another order": ([KID, TAGS, SHORT, EMAIL], True),
    "a name twice": ([KID, EMAIL, EMAIL], False),
    "the kid twice": ([KID, KID, EMAIL], False),
    "an array behind its value": ([KID, TAGS, element(5, b"tags", ONE)], False),
    "an index that the model does not have": ([KID, EMAIL, element(5, b"gone", ONE)], True),
    "one in front of the others": ([KID, element(5, b"a", ONE), EMAIL], True),
    "a key that nobody knows": ([element(2, b"kid", text("x9")), EMAIL], True),
    "a kid that is none": ([element(2, b"kid", text("x 9")), EMAIL], False),
    "an empty kid": ([element(2, b"kid", text("")), EMAIL], False),
    "a kid with NUL in it": ([element(2, b"kid", text("x\0")), EMAIL], False),
    "a kid that is a symbol": ([element(0x0E, b"kid", text(X1)), EMAIL], False),
    "a kid that is bytes": ([element(5, b"kid", binary(X1.encode())), EMAIL], False),
    "kids in another order": ([element(4, b"kid", array(*map(text, sorted(INDEX_KEYS, reverse=True)), kind=2)), EMAIL], True),
    "one kid in an array": ([element(4, b"kid", array(text(X1), kind=2)), EMAIL], True),
    "no kid in an array": ([element(4, b"kid", array()), EMAIL], False),
    "one kid twice": ([element(4, b"kid", array(text(X1), text(X1), kind=2)), EMAIL], False),
    "kids of odd names": ([element(4, b"kid", array(text(X1), text(X2), kind=2, names=[7, 7])), EMAIL], True),
    "a symbol among the kids": ([element(4, b"kid", array(text(X1), kind=0x0E)), EMAIL], False),
    "a shorter value": ([KID, element(5, b"email", binary(bytes(15)))], True),
    "a longer value": ([KID, element(5, b"email", binary(bytes(17)))], True),
    "an empty value": ([KID, element(5, b"email", binary(b""))], True),
    "a value of another subtype": ([KID, element(5, b"email", binary(bytes(16), 4))], False),
    "a value that is text": ([KID, element(2, b"email", text("a" * 15))], False),
    "a value that is null": ([KID, element(0x0A, b"email", b"")], False),
    "an array of one": ([KID, element(4, b"email", array(ONE))], True),
    "an empty array": ([KID, element(4, b"email", array())], True),
    "an array of odd names": ([KID, element(4, b"tags", array(*VALUES[:2], names=[1, 0]))], True),
    "an array in which a name occurs twice": ([KID, element(4, b"tags", array(*VALUES[:2], names=[0, 0]))], True),
    "an array out of order": ([KID, element(4, b"tags", array(*reversed(VALUES)))], True),
    "an array with a value twice": ([KID, element(4, b"tags", array(*VALUES[:1] * 2))], True),
    "an array of values of two lengths": ([KID, element(4, b"tags", array(VALUES[0], ONE))], True),
    "an array of text": ([KID, element(4, b"tags", array(text("a" * 7), kind=2))], False),
    "an array in an array": ([KID, element(4, b"tags", array(array(VALUES[0]), kind=4))], False),
    "a document in place of an array": ([KID, element(3, b"tags", array(VALUES[0]))], False),
    "an array of another subtype": ([KID, element(4, b"tags", array(binary(bytes(8), 2)))], False),
    "a name that is no text": ([KID, element(5, b"\xff", ONE)], False),
}


@pytest.mark.parametrize("keys", [KEYS, BOTH], ids=["one index key", "two index keys"])
@pytest.mark.parametrize("name", IDX)
def test_idx_of_a_holder_of_the_key(name: str, keys: KeyRing) -> None:
    """Whatever it looks like: what the short way takes the plain way takes, and gives the same; the rest it leaves."""
    of = codec(Indexed, keys)
    idx, good = IDX[name]
    raw = of.seal_bson(INDEXED)
    _, elements = envelope._arrange(raw)
    begin, _, end = elements[b"idx"]
    changed = retagged(of, raw[:begin] + element(3, b"idx", framed(*idx)) + raw[end:])
    taken = agrees(of, changed)
    if name == "as sealed":
        assert taken
    if good:
        assert same(of.open(changed), INDEXED)
    else:
        assert not taken
        with pytest.raises(MalformedEnvelopeError):
            of.open(changed)


@pytest.mark.parametrize("delta", [-(2**31) + 1000, -1000, -5, -4, -1, 1, 4, 5, 1000, 2**31 - 2000])
def test_lengths_inside_idx_that_do_not_fit(delta: int) -> None:
    """Of ``idx``, of an array, of a value and of the kid: each larger or smaller; no error but ours, no other model."""
    of = codec(Indexed)
    raw = of.seal_bson(INDEXED)
    _, elements = envelope._arrange(raw)
    begin, value, end = elements[b"idx"]
    inside = raw[begin:end]
    places = [value, begin + inside.index(b"kid\0") + 4, begin + inside.index(b"tags\0") + 5, begin + inside.index(b"\x050\0") + 3]
    for place in [*places, begin + inside.index(b"email\0") + 6]:
        changed = bytearray(raw)
        struct.pack_into("<i", changed, place, struct.unpack_from("<i", raw, place)[0] + delta)
        assert not agrees(of, retagged(of, bytes(changed)))
        with pytest.raises(MongoEnvelopeError):
            of.open(retagged(of, bytes(changed)))


def test_a_model_that_has_lost_or_found_indexes_reads_as_before() -> None:
    """Values of an index that is gone are ignored, and those of a new one are not missed, whichever way is taken."""

    class Without(BaseModel):
        id: int
        tenant: Annotated[str, Queryable()]
        email: str
        tags: list[str]
        salary: int | None
        à: str = ""  # noqa: PLC2401 - a name beyond ASCII

    class More(Indexed):
        email: Annotated[str, Sensitive(index=BlindIndex(normalize="casefold", name="folded"))]

    models = (Indexed, Without, More)
    for writer in models:
        raw = codec(writer).seal_bson(writer(**INDEXED.model_dump()))
        for reader in models:
            of = codec(reader)
            assert agrees(of, raw) or reader is not writer
            assert of.open(raw).model_dump() == INDEXED.model_dump()


@pytest.mark.parametrize("one", [*SEALED, INDEXED, UNTAGGED], ids=lambda each: type(each).__name__)
def test_padded_documents_are_read_the_short_way(one: BaseModel) -> None:
    """Spaces at the end of the payload, of Padmé or of any number, are no reason to look at a document the plain way."""
    plain, pads = codec(type(one)), DocumentCodec(type(one), keys=KEYS, context="c", padding="padme")
    for of in (plain, pads):
        assert agrees(of, pads.seal_bson(one))
    document, payload = plain._opened(plain.seal_bson(one))
    metadata = {name: value for name, value in document.items() if name in {"_id", "idx"} or name not in envelope.RESERVED}
    for spaces in (1, 15, 16, 17, 100_000):
        assert agrees(plain, envelope.seal(metadata, payload + b" " * spaces, keys=KEYS, context="c"))
