"""codec: a model to its stored document and back, for those who bring their own storage."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID, uuid4

import bson
import pytest
from bson.binary import Binary, UuidRepresentation
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from mongo_envelope import (
    BlindIndex,
    Bucket,
    ConfigurationError,
    DataKey,
    DocumentCodec,
    IndexKey,
    IntegrityError,
    KeyRing,
    MalformedEnvelopeError,
    PayloadError,
    Queryable,
    Sensitive,
    UnknownKeyError,
    envelope,
)
from mongo_envelope.codec import Metadata

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


# --- blind indexes --------------------------------------------------------------------------------------------------

X1, X2 = IndexKey("x1", bytes([1] * 32)), IndexKey("x2", bytes([2] * 32))
INDEXED = KEYS.with_index_key(X1)
BOTH = INDEXED.with_index_key(X2)
SWITCHED = BOTH.searching_by("x2").writing_only("x2")


class Person(BaseModel):
    id: int = 1
    tenant: Annotated[str, Queryable()] = "acme"
    at: Annotated[datetime, Queryable()] = datetime(2024, 1, 1, 1, 2, 3, 456789, UTC)
    email: Annotated[str, Sensitive(index=BlindIndex(normalize="email", within=("tenant",)))] = CANARY
    tags: Annotated[list[str], Sensitive(index=BlindIndex())] = ["b", "a"]
    salary: Annotated[Decimal | None, Sensitive(index=[Bucket(width=1000), BlindIndex(none=True, bits=256)])] = None
    note: str = CANARY


def person_codec(model: type[Any] = Person, keys: KeyRing = INDEXED, **more: Any) -> DocumentCodec[Any]:
    return DocumentCodec(model, keys=keys, context="people", **more)


def resealed(document: Mapping[str, Any], payload: bytes, keys: KeyRing = INDEXED, **changes: Any) -> bytes:
    """The document with other fields, as a holder of the key would seal it."""
    metadata = {name: value for name, value in document.items() if name in {"_id", "idx"} or name not in envelope.RESERVED}
    metadata = {name: value for name, value in (metadata | changes).items() if value is not ...}
    return envelope.seal(metadata, payload, keys=keys, context="people")


def opened(raw: bytes, keys: KeyRing = INDEXED) -> envelope.Opened:
    return envelope.open(raw, keys=keys, context="people")


def assert_silent(error: BaseException) -> None:
    """Nothing of a value is in an error, or in what is printed after it."""
    assert CANARY not in "".join(traceback.format_exception(error)) + repr(error.args)
    assert error.__context__ is None


@pytest.mark.parametrize("options", [CodecOptions(), CodecOptions(tz_aware=True, uuid_representation=UuidRepresentation.STANDARD)])
@pytest.mark.parametrize("keys", [INDEXED, BOTH], ids=repr)
def test_index_values_stand_in_idx(keys: KeyRing, options: CodecOptions[Any]) -> None:
    """A single value as bytes, a list as an array, nothing as an empty one; whichever client stores them they are those bytes."""
    codec, person = person_codec(keys=keys), Person(tags=["b", "a", "b"], salary=Decimal(1500))
    document = codec.seal(person)
    assert document["idx"] == codec.indexer.of(person.__dict__)
    assert [*document["idx"]] == ["kid", "salary", "salary_bucket", "tags", "tenant_email"]
    assert document["idx"]["kid"] == ("x1" if keys is INDEXED else ["x1", "x2"])
    assert [type(each) for each in document["idx"].values()] == (
        [str, bytes, bytes, list, bytes] if keys is INDEXED else [list] * 5
    )
    assert len(document["idx"]["tags"]) == 2 * len(keys.index_keys)
    assert codec.seal(Person(tags=[]))["idx"]["tags"] == []
    stored = bson.encode(document, codec_options=options)
    assert codec.open(stored) == codec.verify(stored) == person
    assert codec.open(bson.decode(stored, options)) == codec.verify(bson.decode(stored, options)) == person
    assert CANARY.encode() not in stored


def test_equal_values_have_equal_index_values_and_nothing_else_in_common() -> None:
    """That is what an index gives away, and no more: not in another tenant, and not in another context."""
    one, same, other = (person_codec().seal(Person(tenant=tenant)) for tenant in ("acme", "acme", "other"))
    assert one["idx"] == same["idx"]
    assert one["data"] != same["data"]
    assert one["idx"]["tenant_email"] != other["idx"]["tenant_email"]
    moved = DocumentCodec(Person, keys=INDEXED, context="elsewhere").seal(Person())
    assert not {*map(str, moved["idx"].values())} & {*map(str, one["idx"].values())} - {"x1", "[]"}


def test_a_model_without_blind_indexes_has_no_idx() -> None:
    """Whatever the ring holds; and a model with them needs an index key, when the codec is built."""
    assert "idx" not in DocumentCodec(Customer, keys=INDEXED, context="c").seal(Customer())
    with pytest.raises(ConfigurationError, match=r"blind indexes, and this ring no index key: keys\.with_index_key"):
        person_codec(keys=KEYS)


def test_a_document_opens_whatever_index_key_it_names() -> None:
    """Values are opaque to `open`: it neither looks up nor needs the key, nor what the model has become."""
    raw = person_codec(keys=BOTH).seal_bson(Person())
    others = KeyRing([DataKey("k1", bytes(32))], index_keys=[IndexKey.generate()])

    class Without(BaseModel):
        id: int
        tenant: Annotated[str, Queryable()]
        email: str

    for keys in (INDEXED, BOTH, SWITCHED, others):
        assert person_codec(keys=keys).open(raw) == Person()
        assert person_codec(Without, keys=keys).open(raw).email == CANARY
    assert person_codec(Without, keys=KEYS).open(raw).email == CANARY
    assert "idx" not in person_codec().open_raw(raw)


@pytest.mark.parametrize("model", [Person, Customer])
def test_idx_is_authenticated(model: type[Any]) -> None:
    """A value that is put in, taken out or exchanged is an integrity error, as everything else is."""
    codec = person_codec(model)
    document = codec.seal(model())
    for idx in ({"kid": "x1"}, document.get("idx", {"kid": "x1"}) | {"tags": [bytes(16)]}, {"kid": "x2", "tags": []}):
        with pytest.raises(IntegrityError):
            codec.open({**document, "idx": idx})


def refuse(value: str) -> str:
    raise ValueError(value)


class Refused(BaseModel):
    id: int = 1
    tenant: Annotated[str, Queryable()] = ""
    own: Annotated[str, Sensitive(index=BlindIndex(normalize=refuse, normalize_id="r"))] = CANARY


class Phone(BaseModel):
    id: int = 1
    own: Annotated[list[SecretStr], Sensitive(index=BlindIndex(normalize="phone"))] = [
        SecretStr("+442079460000"),
        SecretStr(CANARY),
    ]


class Surrogate(BaseModel):
    id: int = 1
    own: Annotated[str, Sensitive(index=BlindIndex(normalize=lambda _: f"{CANARY}\ud800", normalize_id="s"))] = "x"


class Unencodable(BaseModel):
    id: int = 1
    own: Annotated[str, Sensitive(index=BlindIndex(normalize=lambda text: {text}, normalize_id="u"))] = CANARY


def nested(text: str) -> Any:
    """Deeper than Python calls."""
    value: Any = text
    for _ in range(100_000):
        value = [value]
    return value


class Endless(BaseModel):
    id: int = 1
    own: Annotated[str, Sensitive(index=BlindIndex(normalize=nested, normalize_id="e"))] = CANARY


@pytest.mark.parametrize("keys", [INDEXED, BOTH], ids=repr)
@pytest.mark.parametrize(
    ("model", "says"),
    [
        (Refused, "own: its normaliser raised ValueError"),
        (Phone, "own: not a phone number in international form"),
        (Surrogate, "own: a text with a lone surrogate has no index value"),
        (Unencodable, "own: a set has no index value"),
        (Endless, "own: "),
    ],
)
def test_a_value_that_a_normaliser_refuses_is_not_saved(model: type[Any], says: str, keys: KeyRing) -> None:
    """The error names the field, and neither it nor what hangs on it quotes the value."""
    if model is Phone:
        pytest.importorskip("phonenumbers")
    for seal in (person_codec(model, keys).seal, person_codec(model, keys, validate_on_save=True).seal_bson):
        with pytest.raises(PayloadError, match=f"^{model.__name__}: not saved: {says}") as caught:
            seal(model())
        assert_silent(caught.value)


# --- verify ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [INDEXED, BOTH, SWITCHED], ids=repr)
def test_what_was_sealed_agrees_with_itself(keys: KeyRing) -> None:
    """Under one key and under two; when it is asked for, and on every load if the codec says so."""
    person = Person(salary=Decimal("1500.50"))
    raw = person_codec(keys=keys).seal_bson(person)
    assert person_codec(keys=keys).verify(raw) == person
    assert person_codec(keys=keys, verify_on_load=True).open(raw) == person
    assert person_codec(keys=keys).verify(dict(reversed(bson.decode(raw).items()))) == person


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"tags": []}, "tags"),
        ({"tags": ...}, "tags"),
        ({"tags": [bytes(16)]}, "tags"),
        ({"tags": bytes(16)}, "tags"),
        ({"tenant_email": bytes(16)}, "tenant_email"),
        ({"tenant_email": []}, "tenant_email"),
        ({"salary": bytes(32), "tags": []}, "salary and tags"),
        ({"salary_bucket": bytes(16)}, "salary_bucket"),
        ({"kid": "x2"}, "salary and tags and tenant_email"),
    ],
)
def test_an_index_value_that_does_not_agree_is_an_integrity_error(change: dict[str, Any], names: str) -> None:
    """Only a holder of the key can have written it. `open` gives the document; `verify` names the index and the way out."""
    document, payload = opened(person_codec().seal_bson(Person()))
    idx = {name: value for name, value in (document["idx"] | change).items() if value is not ...}
    raw = resealed(document, payload, idx=idx)
    codec = person_codec(keys=BOTH)
    assert codec.open(raw) == Person()
    for verify in (codec.verify, person_codec(keys=BOTH, verify_on_load=True).open):
        with pytest.raises(
            IntegrityError, match=rf"the blind index {names} do not agree .* reindex\(.*\) writes them anew"
        ) as caught:
            verify(raw)
        assert caught.value.document_id == "1"
        assert_silent(caught.value)


def test_values_that_are_too_many_are_an_integrity_error() -> None:
    """Of an index of the model; one that the model does not have (any more) is nobody's."""
    document, payload = opened(person_codec().seal_bson(Person()))
    codec = person_codec()
    more = resealed(document, payload, idx=document["idx"] | {"tags": sorted([*document["idx"]["tags"], bytes(16)])})
    with pytest.raises(IntegrityError, match="the blind index tags"):
        codec.verify(more)
    assert codec.verify(resealed(document, payload, idx=document["idx"] | {"gone": bytes(16)})) == Person()


def test_a_document_from_before_the_index_does_not_agree() -> None:
    """It has no values: nothing finds it until it is written anew, and `verify` says so."""

    class Before(BaseModel):
        id: int = 1
        tenant: Annotated[str, Queryable()] = "acme"
        at: Annotated[datetime, Queryable()] = datetime(2024, 1, 1, tzinfo=UTC)
        email: str = CANARY
        note: str = ""

    raw = person_codec(Before).seal_bson(Before())
    assert person_codec().open(raw).email == CANARY
    with pytest.raises(IntegrityError, match="salary and salary_bucket and tags and tenant_email"):
        person_codec().verify(raw)
    assert person_codec().verify(person_codec().reindexed(raw)[1]).email == CANARY


def test_under_a_key_that_is_not_there_it_cannot_be_checked() -> None:
    """That says nothing about the document. Of two keys, one of which is there, what is under that one is checked."""
    raw = person_codec(keys=INDEXED).seal_bson(Person())
    with pytest.raises(UnknownKeyError, match="index values under a key that is not in this ring") as caught:
        person_codec(keys=SWITCHED.without_index_key("x1")).verify(raw)
    assert caught.value.document_id == "1"
    both = person_codec(keys=BOTH).seal_bson(Person())
    assert person_codec().verify(both) == Person()
    document, payload = opened(both)
    ours = [value for value in document["idx"]["tags"] if value in person_codec().seal(Person())["idx"]["tags"]]
    lacking = resealed(document, payload, idx=document["idx"] | {"tags": sorted({*document["idx"]["tags"]} - {*ours[:1]})})
    with pytest.raises(IntegrityError, match="the blind index tags"):
        person_codec().verify(lacking)


def test_what_a_normaliser_refuses_now_does_not_agree() -> None:
    """It took the value when it was saved. `verify` says which index, and raises no other error."""
    taken: list[bool] = [True]

    def normalize(value: str) -> str:
        if not taken:
            raise LookupError(value)
        return value

    class Model(BaseModel):
        id: int = 1
        own: Annotated[str, Sensitive(index=BlindIndex(normalize=normalize, normalize_id="own"))] = CANARY

    codec = person_codec(Model)
    raw = codec.seal_bson(Model())
    assert codec.verify(raw) == Model()
    taken.clear()
    assert codec.open(raw) == Model()
    with pytest.raises(IntegrityError, match="the blind index own") as caught:
        codec.verify(raw)
    assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_a_projection_that_does_not_agree_is_an_integrity_error() -> None:
    """Its exact value stands in the payload, and searches go by the other one."""
    document, payload = opened(person_codec().seal_bson(Person()))
    raw = resealed(document, payload, at=datetime(2024, 1, 1, tzinfo=UTC))
    assert person_codec().open(raw) == Person()
    with pytest.raises(IntegrityError, match=r"^at: what stands in the clear does not agree with the exact value") as caught:
        person_codec().verify(raw)
    assert caught.value.document_id == "1"


def test_verify_raises_what_open_raises() -> None:
    """Before anything is computed: a document that was edited, of another context, no document."""
    codec = person_codec(verify_on_load=True)
    raw = codec.seal_bson(Person())
    edited = raw.replace(b"acme", b"evil")
    for wrong, error in ((edited, IntegrityError), (b"", MalformedEnvelopeError), (None, MalformedEnvelopeError)):
        for verify in (codec.verify, codec.open):
            with pytest.raises(error):
                verify(wrong)  # type: ignore[arg-type]


# --- reindexed ------------------------------------------------------------------------------------------------------


def clear_part(raw: bytes) -> dict[bytes, bytes]:
    """The elements of the metadata, as bytes."""
    found = envelope._walk(raw, {})
    return {
        name: raw[start:end] for name, (start, _, end) in found.items() if name == b"_id" or name.decode() not in envelope.RESERVED
    }


class Every(BaseModel):
    """What BSON rounds, and what has several forms there."""

    id: int = 2**40
    at: Annotated[datetime, Queryable()] = datetime(2024, 1, 1, 1, 2, 3, 456789, UTC)
    day: Annotated[date, Queryable()] = date(1, 1, 1)
    long: Annotated[timedelta, Queryable()] = timedelta(days=999_999_999)
    small: Annotated[int, Queryable()] = 5
    large: Annotated[int, Queryable()] = 2**60
    real: Annotated[float, Queryable()] = 5.0
    exact: Annotated[Decimal, Queryable()] = Decimal("1.50")
    raw: Annotated[bytes, Queryable()] = b"\xff"
    uid: Annotated[UUID, Queryable()] = UUID(int=5)
    many: Annotated[dict[str, list[int | None]], Queryable()] = {"b": [1, 2**40], "a": [None], "": []}
    none: Annotated[str | None, Queryable(name="zz")] = None
    own: Annotated[str, Sensitive(index=BlindIndex())] = CANARY


@pytest.mark.parametrize("one", [Person(salary=Decimal("1.10")), Every()], ids=["Person", "Every"])
def test_a_document_that_is_reindexed_keeps_what_it_had(one: BaseModel) -> None:
    """The bytes of its metadata and of its payload; the index values are those of today's ring, and so are key and IV."""
    raw = person_codec(type(one), INDEXED).seal_bson(one)
    newer = SWITCHED.with_key(DataKey("k2", bytes([9] * 32)))
    codec = person_codec(type(one), newer)
    identity, anew = codec.reindexed(raw)
    before, after = opened(raw, newer), opened(anew, newer)
    assert identity == before.document["_id"]
    assert clear_part(anew) == clear_part(raw)
    assert after.payload == before.payload
    assert after.document["idx"] == codec.indexer.of(one.__dict__) != before.document["idx"]
    assert (after.document["kid"], before.document["kid"]) == ("k2", "k1")
    assert after.document["iv"] != before.document["iv"]
    assert codec.verify(anew) == one


def test_reindexed_keeps_a_payload_that_the_model_would_write_otherwise() -> None:
    """A field that is gone, the order of names, white space: what is stored encrypted is not the business of an index."""
    payload = b'{ "email":"\\u0061","tags":[], "gone" : 1,"salary":null,"note":"n","at":"2024-01-01T01:02:03.456789Z"}  '
    document, _ = opened(person_codec().seal_bson(Person()))
    _, anew = person_codec(keys=BOTH).reindexed(resealed(document, payload, idx=...))
    assert opened(anew).payload == payload
    assert person_codec(keys=BOTH).verify(anew).email == "a"


def test_reindexed_takes_idx_away_where_there_is_no_index() -> None:
    """A model that has lost its indexes has no values to keep."""

    class Without(BaseModel):
        id: int
        tenant: Annotated[str, Queryable()]
        at: Annotated[datetime, Queryable()]
        email: str

    raw = person_codec().seal_bson(Person())
    _, anew = person_codec(Without, KEYS).reindexed(raw)
    assert "idx" not in bson.decode(anew)
    assert person_codec(Without, KEYS).open(anew).email == CANARY


def test_reindexed_refuses_what_it_would_have_to_move() -> None:
    """A field in the clear that is sensitive now, or that the model does not have: it names the field and the document."""

    class Hidden(Person):
        tenant: Annotated[str, Sensitive(index=BlindIndex())] = "acme"
        email: Annotated[str, Sensitive()] = CANARY

    class Gone(BaseModel):
        id: int
        at: Annotated[datetime, Queryable()]
        email: Annotated[str, Sensitive(index=BlindIndex())]

    raw = person_codec().seal_bson(Person())
    for model in (Hidden, Gone):
        with pytest.raises(PayloadError, match=r"^tenant stands in the clear, .*: load and save the document") as caught:
            person_codec(model).reindexed(raw)
        assert caught.value.document_id == "1"
        assert "acme" not in "".join(traceback.format_exception_only(caught.value))


def test_reindexed_raises_what_open_raises_and_names_the_document() -> None:
    """A document that was edited, one that does not fit the model, and a value that an index does not take."""

    class Changed(BaseModel):
        id: int
        tenant: Annotated[str, Queryable()]
        at: Annotated[datetime, Queryable()]
        email: Annotated[int, Sensitive(index=BlindIndex())]

    class Refusing(BaseModel):
        id: int
        tenant: Annotated[str, Queryable()]
        at: Annotated[datetime, Queryable()]
        email: Annotated[str, Sensitive(index=BlindIndex(normalize=refuse, normalize_id="r"))]

    raw = person_codec().seal_bson(Person())
    wrong: list[tuple[type[Any], bytes, type[Exception], str]] = [
        (Person, raw.replace(b"acme", b"evil"), IntegrityError, "authentication tag"),
        (Changed, raw, PayloadError, "email: int_parsing"),
        (Refusing, raw, PayloadError, "email: its normaliser raised ValueError"),
    ]
    for model, given, error, says in wrong:
        with pytest.raises(error, match=says) as caught:
            person_codec(model).reindexed(given)
        assert caught.value.document_id == "1"  # type: ignore[attr-defined]
        assert CANARY not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(MalformedEnvelopeError):
        person_codec().reindexed(b"")


# --- what stands in the clear ---------------------------------------------------------------------------------------


def test_metadata_are_read_without_any_decryption() -> None:
    """In the fields' own types, by field name; what BSON rounds is rounded; the id as it is stored."""
    fresh = KEYS.with_index_key(X1)
    identity, fields = person_codec(Every, fresh).metadata_bson(person_codec(Every).seal_bson(Every()))
    assert fresh._working == {}
    assert identity == 2**40
    assert [*fields] == [name for name in Every.model_fields if name != "own"]
    assert fields["at"] == datetime(2024, 1, 1, 1, 2, 3, 456000, UTC)
    expected = {name: getattr(Every(), name) for name in fields} | {"at": fields["at"]}
    assert fields == expected
    assert {name: type(value) for name, value in fields.items()} == {name: type(value) for name, value in expected.items()}


def test_metadata_of_a_document_that_lacks_some_or_has_others() -> None:
    """What is not there is left out, what the model has no more, too, and what is of another type stays as BSON has it."""

    class Other(BaseModel):
        id: int
        tenant: Annotated[int, Queryable()]
        more: Annotated[str, Queryable()] = "x"

    raw = person_codec().seal_bson(Person())
    assert person_codec(Other).metadata_bson(raw) == (1, {"id": 1, "tenant": "acme"})


def test_metadata_of_a_wrong_document_are_not_given() -> None:
    """It is verified all the same, and the error names it."""
    raw = person_codec().seal_bson(Person())
    for wrong, keys, error in (
        (raw.replace(b"acme", b"evil"), INDEXED, IntegrityError),
        (raw, KeyRing([DataKey("k9", bytes(32))], index_keys=[X1]), UnknownKeyError),
    ):
        with pytest.raises(error) as caught:
            person_codec(keys=keys).metadata_bson(wrong)
        assert caught.value.document_id == "1"  # type: ignore[attr-defined]


def test_metadata_are_a_read_only_mapping_with_attributes() -> None:
    """By name either way; a name that is not there is told with those that are; no repr shows a value."""
    found = Metadata("Person", {"id": 1, "tenant": CANARY, "keys": 5})
    assert {**found} == {"id": 1, "tenant": CANARY, "keys": 5} == {name: found[name] for name in found}
    assert (len(found), found.id, found.tenant, found["keys"]) == (3, 1, CANARY, 5)
    assert callable(found.keys)  # a mapping first: a field of this name is found by its key
    assert repr(found) == "Metadata(Person, id, tenant, keys)"
    with pytest.raises(AttributeError, match=r"Person\.email does not stand in the clear. There are: id, tenant, keys") as caught:
        _ = found.email
    assert CANARY not in str(caught.value)
    with pytest.raises(KeyError):
        _ = found["email"]
    with pytest.raises(AttributeError, match="metadata are read-only"):
        found.tenant = "x"  # type: ignore[misc]
    for name in ("_secret", "__deepcopy__"):
        assert not hasattr(found, name)


def test_what_is_found_by_an_index_value_can_be_opened_at_once() -> None:
    """If the value stands in ``idx``; not if it does not, and not where every document is verified on load."""
    codec, person = person_codec(), Person()
    raw = codec.seal_bson(person)
    definition = next(each for each in codec.schema.blind if each.name == "tenant_email")
    element = definition.head + bson.decode(raw)["idx"]["tenant_email"]
    found = codec.open_at_once(raw, element)
    assert found is not None
    assert found[2] == person
    assert codec.open_at_once(raw, definition.head + bytes(16)) is None
    assert person_codec(verify_on_load=True).open_at_once(raw, element) is None


def test_open_raw_of_a_payload_that_is_no_json_names_the_document() -> None:
    """It is genuine, and what a holder of the key has sealed is not what the format prescribes."""
    for payload in (b"", b"[]", b'{"a":1,"a":2}', b"\xff", b'{"a":"\\ud800"}'):
        with pytest.raises(PayloadError, match="not one JSON object with unique names") as caught:
            person_codec().open_raw(envelope.seal({"_id": 7}, payload, keys=INDEXED, context="people"))
        assert caught.value.document_id == "7"
