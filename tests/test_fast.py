"""The short way of reading against the plain one: it gives the same, or leaves the document to the plain way."""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

import pytest
from bson import Int64, ObjectId
from every_type import ANYTHING, EVERY_TYPE, same
from pydantic import BaseModel, ConfigDict, create_model
from test_spec import ring, values, vectors

from mongo_envelope import DocumentCodec, KeyRing, Queryable, Sensitive, envelope
from mongo_envelope.errors import MongoEnvelopeError, SchemaError

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
    plain = of._open_plainly(raw)
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


SEALED: list[BaseModel] = [
    make_customers(1)[0],
    Short(id=ObjectId(), n=2**40),
    Mixed(id='é"\\', tenant="\u2028😀\x01", other=uuid4(), flag=True, at=datetime(2026, 1, 1, tzinfo=UTC)),
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


@pytest.mark.parametrize("one", SEALED, ids=lambda one: type(one).__name__)
def test_mutations(one: BaseModel) -> None:
    of, chance = codec(type(one)), random.Random(1)  # noqa: S311 - seeded
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
    of = codec(create_model("T", id=(str, ...), text=(Annotated[str, Queryable()], ...), secret=(str, "s")))
    assert agrees(of, of.seal_bson(of.schema.model(id=text, text=text)))


@pytest.mark.parametrize("identity", [0, -1, 2**31, -(2**63), 2**63 - 1, "x", uuid4(), ObjectId()])
def test_identities(identity: Any) -> None:
    of = codec(create_model("I", __config__=ConfigDict(arbitrary_types_allowed=True), id=(type(identity), ...), secret=(str, "s")))
    raw = of.seal_bson(of.schema.model(id=identity))
    assert agrees(of, raw)
    assert type(of.open_bson(raw)[0]) is (Int64 if type(identity) is int and abs(identity) >= 2**31 else type(identity))


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
            assert same(reader.open(raw), reader._open_plainly(raw)[2])
