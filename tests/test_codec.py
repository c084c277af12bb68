"""codec: a model to its stored document and back, for those who bring their own storage."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID, uuid4

import bson
import pytest
from bson.binary import Binary, UuidRepresentation
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from mongo_envelope import (
    ConfigurationError,
    DataKey,
    DocumentCodec,
    IntegrityError,
    KeyRing,
    MalformedEnvelopeError,
    PayloadError,
    Queryable,
    UnknownKeyError,
)

CANARY = "xyzzy-plugh"
KEYS = KeyRing([DataKey("k1", bytes(32))])


class Customer(BaseModel):
    id: UUID = Field(default_factory=uuid4)
    tenant: Annotated[str, Queryable()] = "acme"
    count: Annotated[int, Queryable()] = 0
    created_at: Annotated[datetime, Queryable()] = datetime(2024, 1, 1, 1, 2, 3, 456789, UTC)
    email: str = CANARY
    secret: SecretStr = SecretStr(CANARY)
    notes: list[str] = Field(default=[CANARY], max_length=2)


def codec_for(model: type[Any] = Customer, **more: Any) -> DocumentCodec[Any]:
    return DocumentCodec(model, keys=KEYS, context="customers", **more)


def test_a_model_comes_back_from_every_form_of_its_document() -> None:
    """From the dict, from BSON and from a RawBSONDocument; in any order of the fields."""
    codec, customer = codec_for(), Customer()
    raw = codec.seal_bson(customer)
    document = codec.seal(customer)
    assert codec.open(raw) == customer
    assert codec.open(RawBSONDocument(raw)) == customer
    assert codec.open(document) == customer
    assert codec.open(dict(reversed(document.items()))) == customer


@pytest.mark.parametrize("options", [CodecOptions(), CodecOptions(tz_aware=True, uuid_representation=UuidRepresentation.STANDARD)])
def test_any_client_can_store_the_sealed_dict_and_give_it_back(options: CodecOptions[Any]) -> None:
    """Whatever its codec options: the bytes that it stores are the bytes that were sealed."""
    codec, customer = codec_for(), Customer()
    document = codec.seal(customer)
    assert document["_id"] == Binary.from_uuid(customer.id)
    stored = bson.encode(document, codec_options=options)
    assert codec.open(stored) == customer
    assert codec.open(bson.decode(stored, options)) == customer


def test_the_stored_bytes_hold_no_sensitive_value() -> None:
    """Neither as text nor as JSON writes it; the metadata stand there, as the README says."""
    raw = codec_for().seal_bson(Customer())
    assert CANARY.encode() not in raw
    assert b"acme" in raw


def test_sealing_twice_gives_different_bytes() -> None:
    """A new IV each time: equal documents do not show that they are equal."""
    codec, customer = codec_for(), Customer()
    one, other = codec.seal(customer), codec.seal(customer)
    assert one["iv"] != other["iv"]
    assert one["data"] != other["data"]
    assert one["hmac"] != other["hmac"]


@pytest.mark.parametrize("name", ["_id", "count", "created_at", "data", "hmac", "iv", "tenant"])
def test_an_edited_or_removed_field_is_an_integrity_error_that_names_the_document(name: str) -> None:
    """Whatever field it is; without an hmac it is no sealed document at all."""
    codec, customer = codec_for(), Customer()
    document = codec.seal(customer)
    edited = {**document, name: 7}
    removed = {each: value for each, value in document.items() if each != name}
    for changed in (edited, removed):
        with pytest.raises((IntegrityError, MalformedEnvelopeError)) as caught:
            codec.open(changed)
        assert isinstance(caught.value, MalformedEnvelopeError) == (name == "hmac")
        if changed.get("_id") == document["_id"]:
            assert caught.value.document_id == repr(customer.id)
            assert str(customer.id) in str(caught.value)


def test_another_context_is_an_integrity_error() -> None:
    """A document belongs to the collection that it was sealed for."""
    raw = codec_for().seal_bson(Customer())
    with pytest.raises(IntegrityError):
        DocumentCodec(Customer, keys=KEYS, context="orders").open(raw)


def test_another_ring_could_not_check() -> None:
    """An unknown key says nothing about the document, and the error is not an EnvelopeError."""
    customer = Customer()
    with pytest.raises(UnknownKeyError) as caught:
        DocumentCodec(Customer, keys=KeyRing.generate(), context="customers").open(codec_for().seal_bson(customer))
    assert caught.value.document_id == repr(customer.id)


def test_documents_open_under_older_keys_and_are_sealed_under_the_primary() -> None:
    """A ring with a new primary key still opens what the old one sealed."""
    raw = codec_for().seal_bson(Customer())
    newer = DocumentCodec(Customer, keys=KEYS.with_key(DataKey.generate("k2")), context="customers")
    assert newer.seal(newer.open(raw))["kid"] == "k2"


def test_validate_on_save_checks_constraints_before_sealing() -> None:
    """Without it, a value of the right type is saved even if a constraint has been broken since."""
    customer = Customer()
    customer.notes = ["a", "b", "c"]
    with pytest.raises(PayloadError, match="notes: too_long"):
        codec_for(validate_on_save=True).seal(customer)
    assert codec_for().seal(customer)
    assert codec_for(validate_on_save=True).seal(Customer())


def test_open_raw_is_the_way_out_when_the_model_has_changed() -> None:
    """The content of a genuine document, verified and decrypted, by field name; `open` says what does not fit."""

    class Changed(BaseModel):
        id: UUID
        email: int
        phone: str

    codec, customer = codec_for(), Customer()
    raw = codec.seal_bson(customer)
    changed = DocumentCodec(Changed, keys=KEYS, context="customers")
    with pytest.raises(PayloadError, match="email: int_parsing; phone: missing") as caught:
        changed.open(raw)
    assert CANARY not in str(caught.value)
    content = codec.open_raw(raw)
    assert content["id"] == customer.id
    assert content["email"] == CANARY
    assert content["created_at"] == "2024-01-01T01:02:03.456789Z"
    with pytest.raises(IntegrityError):
        codec.open_raw(raw[:60] + bytes([raw[60] ^ 1]) + raw[61:])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"count": 2**63}, "count: a value that BSON cannot hold"),
        ({"tenant": "\ud800"}, "tenant: a value that (JSON|BSON) cannot hold"),
        ({"email": "\ud800"}, "email: a value that JSON cannot hold"),
        ({"count": True}, "count: int expected, bool found"),
    ],
)
def test_a_value_that_cannot_be_stored_names_its_field(change: dict[str, Any], reason: str) -> None:
    """Before anything is sealed."""
    with pytest.raises(PayloadError, match=reason):
        codec_for().seal(Customer().model_copy(update=change))


def test_an_id_of_none_is_refused() -> None:
    """Where the type does not allow None, but the instance has it."""
    with pytest.raises(PayloadError, match="id: UUID expected, NoneType found"):
        codec_for().seal(Customer().model_copy(update={"id": None}))


def test_what_the_codec_is_built_with_is_checked() -> None:
    """A ring and a context, or a ConfigurationError that says what to pass."""
    with pytest.raises(ConfigurationError, match="KeyRing"):
        DocumentCodec(Customer, keys="keys.json", context="c")  # type: ignore[arg-type]
    for context in ("", "x" * 256, "\ud800", None):
        with pytest.raises(ConfigurationError, match="context"):
            DocumentCodec(Customer, keys=KEYS, context=context)  # type: ignore[arg-type]


def test_a_document_that_is_none_is_malformed() -> None:
    """A plaintext document, an empty one and one with odd names."""
    odd: list[Any] = [{}, {"_id": 1, "email": "a"}, {1: 2}, {"a\0": 1}, {"_id": 1, "x": object()}, b"", b"\x05\0\0\0\0"]
    for document in odd:
        with pytest.raises(MalformedEnvelopeError):
            codec_for().open(document)


def test_a_codec_is_shared_between_threads_and_survives_fork() -> None:
    """Each message opens, whoever sealed it."""
    codec = codec_for()
    failed: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(200):
                customer = Customer()
                assert codec.open(codec.seal_bson(customer)) == customer
        except BaseException as error:  # noqa: BLE001 - told by the test
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, codec.seal_bson(Customer()))
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        theirs = pipe.read()
    mine = codec.seal(Customer())
    assert codec.open(theirs).email == CANARY
    assert bson.decode(theirs)["iv"] != mine["iv"]


def test_instances_with_extras_open_with_extras() -> None:
    """extra="allow" values go into the blob."""

    class Model(BaseModel):
        model_config = ConfigDict(extra="allow")
        id: int = 1

    codec = DocumentCodec(Model, keys=KEYS, context="c")
    saved = Model.model_validate({"more": CANARY, "raw": b"\xff"})
    document = codec.seal(saved)
    assert "more" not in document
    assert codec.open(document) == saved


def test_open_raw_gives_what_stood_in_the_clear_and_does_so_no_more() -> None:
    """A field that was queryable when it was sealed is in the content, whether it is sensitive now, of another type, or gone."""

    class Before(BaseModel):
        id: int = 1
        email: Annotated[str, Queryable(name="e")] = CANARY
        tenant: Annotated[str, Queryable()] = "acme"

    class Hidden(BaseModel):
        id: int
        email: str
        tenant: Annotated[int, Queryable()]

    class Gone(BaseModel):
        id: int

    document = DocumentCodec(Before, keys=KEYS, context="c").seal(Before())
    for model in (Hidden, Gone):
        content = DocumentCodec(model, keys=KEYS, context="c").open_raw(document)
        assert content == {"id": 1, "e": CANARY, "tenant": "acme"}
    assert DocumentCodec(Before, keys=KEYS, context="c").open_raw(document) == {"id": 1, "email": CANARY, "tenant": "acme"}


@pytest.mark.parametrize("validate_on_save", [False, True])
def test_a_queryable_value_that_bson_cannot_hold_is_named(*, validate_on_save: bool) -> None:
    """By the field, and not as a malformed document, whether the model's validators are run before or not."""

    class Model(BaseModel):
        id: int = 1
        name: Annotated[str, Queryable()]

    with pytest.raises(PayloadError, match="Model: not saved: name: "):
        DocumentCodec(Model, keys=KEYS, context="c", validate_on_save=validate_on_save).seal(
            Model.model_construct(id=1, name="\ud800")
        )
