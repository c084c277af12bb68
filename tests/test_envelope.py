"""envelope: what was sealed opens, and everything else is refused with an error of the specification."""

from __future__ import annotations

import hmac
import random
import struct
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import bson
import pytest
from bson.binary import Binary
from bson.code import Code
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.objectid import ObjectId
from bson.regex import Regex
from bson.timestamp import Timestamp
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mongo_envelope import DataKey, KeyRing, envelope, primitives
from mongo_envelope.errors import (
    IntegrityError,
    MalformedEnvelopeError,
    MongoEnvelopeError,
    PayloadError,
    UnknownKeyError,
    UnsupportedVersionError,
)

KEYS = KeyRing([DataKey("k1", bytes(range(32)))])
CONTEXT = "customers"
REFUSALS = {MalformedEnvelopeError, UnsupportedVersionError, IntegrityError, UnknownKeyError}

METADATA: dict[str, Any] = {
    "_id": ObjectId("65a1b2c3d4e5f60718293a4b"),
    "at": datetime(2024, 2, 29, 12, 34, 56, 789000, tzinfo=UTC),
    "idx": {"kid": "x1", "email": b"\x01\x02", "tags": [b"\x03", b""]},
    "tenant": "acme",
    "n": 5,
    "place": {"zip": 1, "city": "Bern"},
    "zz": None,
}
PAYLOAD = b'{"email":"ada@example.com"}'
RAW = envelope._seal_with(METADATA, PAYLOAD, keys=KEYS, context=CONTEXT, iv=bytes(range(16)))
SMALL = envelope._seal_with({"_id": 1, "t": "a"}, b'{"a":1}', keys=KEYS, context="c", iv=bytes(range(16)))
FOREIGN = envelope._seal_with({"_id": 2}, b"{}", keys=KeyRing([DataKey("k9", bytes(32))]), context="c", iv=bytes(16))
ORIGINAL = envelope.open(RAW, keys=KEYS, context=CONTEXT)


def outcome(raw: bytes, context: str = CONTEXT) -> type | envelope.Opened:
    """What opening gives: the content, or the kind of refusal; any other error goes through and fails the test."""
    try:
        return envelope.open(raw, keys=KEYS, context=context)
    except MongoEnvelopeError as error:
        return type(error)


def elements(raw: bytes) -> dict[bytes, bytes]:
    """The whole elements of a document, by name."""
    return {name: raw[start:end] for name, (start, _, end) in envelope._walk(raw, {}).items()}


def framed(*parts: bytes) -> bytes:
    """A document of these elements."""
    body = b"".join(parts)
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def tagged(*parts: bytes, context: str = CONTEXT) -> bytes:
    """A document of these elements under a good tag: what only a holder of the key can make."""
    tag = KEYS.working_keys("k1", context).authenticator.tag(b"".join(parts))
    return framed(*parts, b"\x05hmac\0\x20\0\0\0\0" + tag)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error with everything that a traceback would print after it."""
    while error is not None:
        yield error
        yield from chain(error.__cause__)
        error = error.__context__


# --- seal and open --------------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
instants = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(
    lambda d: d.replace(microsecond=d.microsecond // 1000 * 1000, tzinfo=UTC)
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.binary(max_size=8),
    st.uuids(),
    st.binary(min_size=12, max_size=12).map(ObjectId),
    instants,
    st.builds(Timestamp, st.integers(1, 2**32 - 1), st.integers(0, 2**32 - 1)),
    st.sampled_from([Decimal128("1.00"), Regex("^a", "i"), Code("f()"), Binary(b"x", 128), bson.MinKey(), bson.MaxKey()]),
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=8)
metadata = st.dictionaries(texts.filter(lambda name: name not in envelope.RESERVED), values, max_size=6)


@settings(deadline=None)
@given(metadata, values.filter(lambda value: value is not None), st.binary(max_size=80))
def test_what_was_sealed_opens(fields: dict[str, Any], identity: object, payload: bytes) -> None:
    """Metadata of any kind and a payload of any bytes come back as they were, and the stored names are in order."""
    raw = envelope.seal({**fields, "_id": identity}, payload, keys=KEYS, context=CONTEXT)
    document, opened = envelope.open(raw, keys=KEYS, context=CONTEXT)
    names = list(elements(raw))
    assert opened == payload
    assert {name: document[name] for name in fields} == fields
    assert document["_id"] == identity == envelope.identify(raw)
    assert names == [b"_id", *sorted(names[1:-1]), b"hmac"]


def test_the_layout_is_that_of_the_specification() -> None:
    """The length, the elements in order, and a trailer of 44 bytes with a tag over everything between."""
    key = primitives.derive(primitives.derive(bytes(range(32)), "authenticate"), "authenticate", CONTEXT)
    assert struct.unpack("<i", RAW[:4])[0] == len(RAW)
    assert RAW[-44:-33] == bytes.fromhex("05686d6163002000000000")
    assert RAW[-33:-1] == hmac.digest(key, RAW[4:-44], "sha256")
    assert RAW[-1:] == b"\0"
    assert [*elements(RAW)] == b"_id at data idx iv kid n place tenant v zz hmac".split()
    assert elements(RAW)[b"v"] == b"\x10v\0\1\0\0\0"
    assert len(ORIGINAL.document["data"]) == len(PAYLOAD)


def test_every_document_gets_an_iv_of_its_own() -> None:
    """The same content sealed a hundred times has a hundred IVs, and nothing of one stored form is in another."""
    found = [bson.decode(envelope.seal({"_id": 1}, PAYLOAD, keys=KEYS, context=CONTEXT)) for _ in range(100)]
    for name in ("iv", "data", "hmac"):
        assert len({each[name] for each in found}) == 100


def test_the_primary_key_seals_and_every_key_opens() -> None:
    """A document names the key that sealed it, and opens under a ring in which another key has become primary."""
    ring = KEYS.with_key(DataKey("k2", bytes(32)))
    raw = envelope.seal({"_id": 1}, PAYLOAD, keys=ring, context=CONTEXT)
    assert bson.decode(raw)["kid"] == "k2"
    assert envelope.open(raw, keys=ring, context=CONTEXT).payload == PAYLOAD
    assert envelope.open(RAW, keys=ring, context=CONTEXT) == ORIGINAL
    assert outcome(raw) is UnknownKeyError


def test_a_document_opens_in_its_context_only() -> None:
    """A document that was moved to another collection does not open there."""
    for other in ("Customers", "customer", "customers ", "c", "crm.customers"):
        assert outcome(RAW, context=other) is IntegrityError


def test_plaintext_is_not_printed() -> None:
    """The repr of what was opened shows nothing of it."""
    assert repr(ORIGINAL) == str(ORIGINAL) == "Opened(…)"


# --- seal refuses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"a": 1},
        {"_id": None},
        *({"_id": 1, name: 1} for name in ("v", "kid", "iv", "data", "hmac")),
        {"_id": 1, "t": Timestamp(0, 0)},
        {"_id": Timestamp(0, 0)},
        *({"_id": 1, "idx": idx} for idx in (1, None, [], {}, b"x", {"email": b"x"}, {"kid": "x 1"}, {"kid": 1})),
        *(
            {"_id": 1, "idx": {"kid": "x1", "e": e}}
            for e in ("x", None, 1, {"a": b"x"}, Binary(b"x", 5), ["x"], [b"x", None], [[b"x"]])
        ),
        *(
            {"_id": 1, "idx": {"kid": kid, "e": b"x"}}
            for kid in ([], ["x1", "x1"], ["x1", "x 2"], ["x1", None], [["x1"]], None, b"x1")
        ),
    ],
)
def test_seal_refuses_what_the_format_has_no_place_for(fields: dict[str, Any]) -> None:
    """No ``_id``, a name of the envelope, a time that the server would replace, or an ill-formed ``idx`` is not sealed."""
    with pytest.raises(MalformedEnvelopeError):
        envelope.seal(fields, b"{}", keys=KEYS, context=CONTEXT)


def test_nested_names_and_times_are_free() -> None:
    """What is refused at the top is allowed below it."""
    nested = {"v": 1, "hmac": b"", "_id": 2, "$a.b": 3, "t": Timestamp(0, 0)}
    raw = envelope.seal({"_id": 1, "nested": nested, "t": Timestamp(0, 1)}, b"{}", keys=KEYS, context=CONTEXT)
    assert envelope.open(raw, keys=KEYS, context=CONTEXT).document["nested"] == nested


class Secretive:
    """A value that BSON does not know, and whose repr would give something away."""

    def __repr__(self) -> str:
        return "S3CRET"


@pytest.mark.parametrize(
    "value",
    [
        Secretive(),
        [Secretive()],
        {"deep": {"er": Secretive()}},
        {Secretive(): 1},
        {"S3CRET\0": 1},
        "S3CRET\ud800",
        {"S3CRET\udc00": 1},
        ["S3CRET", object()],
        {1: "S3CRET"},
        {"S3CRET": 2**63},
        Regex("S3CRET\0"),
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
    ],
)
def test_a_value_that_bson_cannot_hold_is_refused_unseen(value: object) -> None:
    """The refusal of such a value is ours, and nothing of the value stands in it, its context or its cause."""
    assert envelope.encodes({"a": 1})
    for refuses in (
        lambda: envelope.seal({"_id": 1, "a": value}, b"{}", keys=KEYS, context=CONTEXT),
        lambda: envelope.seal({"_id": value}, b"{}", keys=KEYS, context=CONTEXT),
        lambda: envelope.encode_document({"_id": 1, "a": value}),
        lambda: envelope.as_stored(value),
    ):
        with pytest.raises(MalformedEnvelopeError) as caught:
            refuses()
        assert "S3CRET" not in " ".join(f"{each} {each!r} {each.args!r}" for each in chain(caught.value))
        assert len(list(chain(caught.value))) == 1
    assert not envelope.encodes(value)


def test_what_contains_itself_is_refused() -> None:
    """A list inside itself has no end and no BSON."""
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(MalformedEnvelopeError):
        envelope.seal({"_id": 1, "a": endless}, b"{}", keys=KEYS, context=CONTEXT)


def test_as_stored_is_what_comes_back() -> None:
    """Microseconds are cut, and what BSON keeps stays."""
    when = datetime(2024, 1, 1, 0, 0, 0, 123456, tzinfo=UTC)
    assert envelope.as_stored(when) == when.replace(microsecond=123000)
    assert envelope.as_stored({"a": [UUID(int=1), Int64(1)]}) == {"a": [UUID(int=1), 1]}


# --- out of order ---------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.permutations(sorted(elements(RAW))))
def test_elements_in_any_order_are_put_back(order: list[bytes]) -> None:
    """A genuine document opens to the same content in whatever order its top-level elements stand, ``hmac`` included."""
    parts = elements(RAW)
    moved = framed(*(parts[name] for name in order))
    assert envelope.open(moved, keys=KEYS, context=CONTEXT) == ORIGINAL
    assert envelope.identify(moved) == METADATA["_id"]


@settings(deadline=None)
@given(st.permutations(sorted(elements(RAW))), st.sampled_from(sorted(elements(RAW))), st.integers(0, 11))
def test_no_name_may_occur_twice(order: list[bytes], name: bytes, at: int) -> None:
    """An element that is there twice, even with the same value, is malformed wherever the second one stands."""
    parts = elements(RAW)
    listed = [parts[each] for each in order]
    assert outcome(framed(*listed[:at], parts[name], *listed[at:])) is MalformedEnvelopeError


def test_a_field_after_the_tag_is_not_overlooked() -> None:
    """An element that is added behind ``hmac`` is put in order, and then the tag does not fit."""
    assert outcome(framed(*elements(RAW).values(), b"\x0azzz\0")) is IntegrityError


def test_the_tag_must_be_an_element() -> None:
    """A trailer that lies inside a longer binary is no tag, even where the bytes before it fit."""
    body = [part for name, part in elements(SMALL).items() if name != b"hmac"]
    for name in (b"zz", b"hmac"):
        head = b"\x05" + name + b"\0\x2b\0\0\0\0"
        tag = KEYS.working_keys("k1", "c").authenticator.tag(b"".join([*body, head]))
        assert outcome(framed(*body, head + b"\x05hmac\0\x20\0\0\0\0" + tag), "c") is MalformedEnvelopeError


@settings(deadline=None)
@given(metadata, st.randoms())
def test_a_decoded_document_opens_too(fields: dict[str, Any], shuffler: random.Random) -> None:
    """A dict, its fields in any order, is encoded to the bytes that were stored, and opens."""
    raw = envelope.seal({**fields, "_id": 1}, PAYLOAD, keys=KEYS, context=CONTEXT)
    items = list(bson.decode(raw, envelope.CODEC_OPTIONS).items())
    shuffler.shuffle(items)
    assert envelope.encode_document(dict(items)) == raw


@pytest.mark.parametrize("document", [{1: 2}, {None: 1, "a": 2}, {b"a": 1}, {"\ud800": 1}, {"a\0": 1}, {"a": object()}])
def test_a_dict_that_is_no_document_is_malformed(document: dict[Any, Any]) -> None:
    """Names that are not text, or not BSON's text, are refused as everything else is that is not a document."""
    with pytest.raises(MalformedEnvelopeError):
        envelope.encode_document(document)


# --- tampering ------------------------------------------------------------------------------------------------------


def test_no_bit_can_be_flipped() -> None:
    """Each single bit of a stored document, flipped, is found out, by an error of the specification."""
    for at in range(len(RAW)):
        for bit in range(8):
            changed = RAW[:at] + bytes([RAW[at] ^ (1 << bit)]) + RAW[at + 1 :]
            assert outcome(changed) in REFUSALS
            envelope.identify(changed)
            envelope.stored_tag(changed)


def test_no_beginning_and_no_end_is_a_document() -> None:
    """Cut anywhere a document is malformed, and with the length corrected it is refused as well."""
    for at in range(len(RAW)):
        for cut in (RAW[:at], RAW[at + 1 :], struct.pack("<i", at) + RAW[4:at]):
            assert outcome(cut) is MalformedEnvelopeError
            envelope.identify(cut)
            assert envelope.stored_tag(cut) == b""
        if at > 4:
            assert outcome(struct.pack("<i", len(RAW) - at + 4) + RAW[at:]) in REFUSALS


def byte_edit(raw: bytearray, rng: random.Random) -> None:
    """Another value for one byte, often one that means something in BSON."""
    raw[rng.randrange(len(raw))] = rng.choice((rng.randrange(256), 0, 1, 2, 3, 4, 5, 0x10, 0x7F, 0xFF))


def byte_insert(raw: bytearray, rng: random.Random) -> None:
    """Some bytes more."""
    at = rng.randrange(len(raw) + 1)
    raw[at:at] = rng.randbytes(rng.randrange(1, 9))


def byte_delete(raw: bytearray, rng: random.Random) -> None:
    """Some bytes less."""
    at = rng.randrange(len(raw))
    del raw[at : at + rng.randrange(1, 9)]


def splice(raw: bytearray, rng: random.Random) -> None:
    """A piece of this or of another document over a piece of this one."""
    source = rng.choice((RAW, SMALL, FOREIGN))
    at, start, size = rng.randrange(len(raw)), rng.randrange(len(source)), rng.randrange(1, 40)
    raw[at : at + size] = source[start : start + size]


def element_swap(raw: bytearray, rng: random.Random) -> None:
    """Whole elements moved, left out, doubled, or put in from another document."""
    parts = [*elements(rng.choice((RAW, SMALL, FOREIGN))).values(), *elements(SMALL).values()]
    raw[:] = framed(*rng.sample(parts, rng.randrange(4, len(parts) + 1)))


def element_shuffle(raw: bytearray, rng: random.Random) -> None:
    """The elements of the document, moved and nothing else."""
    parts = list(elements(SMALL).values())
    rng.shuffle(parts)
    raw[:] = framed(*parts)


def length_repair(raw: bytearray, rng: random.Random) -> None:
    """The leading length made right again, so that the later checks are reached."""
    raw[:4] = struct.pack("<i", len(raw))


MUTATIONS: list[Callable[[bytearray, random.Random], None]] = [
    byte_edit,
    byte_edit,
    byte_insert,
    byte_delete,
    splice,
    element_swap,
    element_shuffle,
]


def test_a_hundred_thousand_mutations() -> None:
    """Random edits, alone and on top of one another, are refused as specified or leave the document's content as it was."""
    rng = random.Random(20240229)  # noqa: S311 - the same mutations in every run
    original = envelope.open(SMALL, keys=KEYS, context="c")
    seen: Counter[object] = Counter()
    for _ in range(100_000):
        raw = bytearray(SMALL)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            rng.choice(MUTATIONS)(raw, rng)
        if rng.random() < 0.8:
            length_repair(raw, rng)
        envelope.identify(bytes(raw))
        envelope.stored_tag(bytes(raw))
        found = outcome(bytes(raw), "c")
        if isinstance(found, envelope.Opened):
            assert repr(tuple(found)) == repr(tuple(original))  # by repr, to which 1 and 1.0 and True are three
            seen["opened"] += 1
        else:
            assert found in REFUSALS
            seen[found] += 1
    assert set(seen) == REFUSALS | {"opened"}
    assert min(seen.values()) > 50


# --- whatever the bytes are -----------------------------------------------------------------------------------------

KINDS = [*envelope._FIXED, *envelope._COUNTED, 0x0B]
raw_values = st.one_of(
    st.binary(max_size=20),
    st.builds(
        lambda size, rest: struct.pack("<i", size) + rest,
        st.integers(-2, 24) | st.sampled_from([2**31 - 1, -(2**31)]),
        st.binary(max_size=24),
    ),
    values.map(lambda value: bson.encode({"": value}, codec_options=envelope.CODEC_OPTIONS)[6:-1]),
)
raw_names = st.sampled_from([b"_id", b"v", b"kid", b"iv", b"data", b"idx", b"hmac", b"a", b"", b"\xff", b"$ref", b"$id"])
raw_elements = st.builds(
    lambda kind, name, value: bytes([kind]) + name + b"\0" + value,
    st.sampled_from(KINDS) | st.integers(0, 255),
    raw_names,
    raw_values,
)
encoded = st.builds(
    lambda name, value: bson.encode({name.decode(): value}, codec_options=envelope.CODEC_OPTIONS)[4:-1],
    raw_names.filter(lambda name: name != b"\xff"),
    values,
)
documents = st.lists(raw_elements | encoded, max_size=5).map(lambda parts: framed(*parts))


def deep(kind: int, depth: int, name: bytes = b"_id") -> bytes:
    """An element that is nested as deeply as it is said to be."""
    inner = framed()
    for _ in range(depth):
        inner = framed(bytes([kind]) + b"0\0" + inner)
    return bytes([kind]) + name + b"\0" + inner


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=120) | documents | st.builds(lambda document, rest: document + rest, documents, st.binary(max_size=3)))
@example(b"")
@example(framed(b"\x02_id\0\xff\xff\xff\x7fx\0"))
@example(framed(deep(3, 990)))
@example(framed(deep(4, 5000)))
def test_nothing_but_refusals_comes_of_random_bytes(raw: bytes) -> None:
    """Bytes that nobody sealed are refused as specified, and asking for their ``_id`` gives a value or None."""
    assert outcome(raw) in REFUSALS
    IntegrityError("x").about(document_id=envelope.identify(raw))


good = elements(SMALL)
GOOD = [good[b"_id"], good[b"data"], good[b"iv"], good[b"kid"], good[b"v"]]
INNER = framed(b"\x02kid\0\3\0\0\0x1\0", b"\x05e\0\1\0\0\0\0x")


@settings(max_examples=500, deadline=None)
@given(st.lists(raw_elements | encoded, max_size=4), st.sets(st.integers(0, 4), max_size=2))
@example([deep(3, 990, b"a")], set())
@example([deep(4, 5000, b"a")], set())
@example([b"\x03a\0" + framed(b"\x10$ref\0\1\0\0\0", b"\x10$id\0\1\0\0\0")], set())
@example([b"\x05a\0\3\0\0\0\4abc"], set())
@example([b"\x09a\0\xff\xff\xff\xff\xff\xff\xff\x7f"], set())
@example([b"\x0ba\0(\0\xff\0"], set())
@example([b"\x0fa\0\x0e\0\0\0\1\0\0\0\0\5\0\0\0\0"[:19]], set())
@example([b"\x03idx\0" + INNER], set())
@example([b"\x0eidx\0" + INNER], set())
@example([b"\x02idx\0" + INNER], set())
def test_what_a_holder_of_the_key_wrote_wrongly_is_malformed(parts: list[bytes], missing: set[int]) -> None:
    """Any elements under a good tag open or are refused as specified: not even a holder of the key brings out another error."""
    body = [part for i, part in enumerate(GOOD) if i not in missing] + parts
    body.sort(key=lambda part: (part[1:5] != b"_id\0", part[1:].partition(b"\0")[0]))
    found = outcome(tagged(*body))
    assert isinstance(found, envelope.Opened) or found in REFUSALS


#: the elements of an array of kids, and whether it is one
KIDS: list[tuple[list[bytes], bool]] = [
    ([b"\x020\0\3\0\0\0x1\0", b"\x021\0\3\0\0\0x2\0"], True),
    ([b"\x021\0\3\0\0\0x2\0", b"\x020\0\3\0\0\0x1\0"], True),
    ([b"\x020\0\3\0\0\0x1\0"], True),
    ([b"\x020\0\3\0\0\0x1\0", b"\x020\0\3\0\0\0x2\0"], True),
    ([b"\x02name\0\3\0\0\0x1\0", b"\x02\0\3\0\0\0x2\0"], True),
    ([], False),
    ([b"\x020\0\3\0\0\0x1\0", b"\x021\0\3\0\0\0x1\0"], False),
    ([b"\x0e0\0\3\0\0\0x1\0"], False),
    ([b"\x020\0\3\0\0\0x1\0", b"\x0e1\0\3\0\0\0x2\0"], False),
    ([b"\x0d0\0\3\0\0\0x1\0"], False),
    ([b"\x020\0\1\0\0\0\0"], False),
    ([b"\x020\0\4\0\0\0x 1\0"], False),
    ([b"\x020\0\3\0\0\0x\0\0"], False),
    ([b"\x020\0\3\0\0\0x\xff\0"], False),
    ([b"\x020\0\x42\0\0\0" + b"x" * 65 + b"\0"], False),
    ([b"\x0a0\0"], False),
    ([b"\x020\0\3\0\0\0x1\0", b"\x0a1\0"], False),
    ([b"\x050\0\2\0\0\0\0x1"], False),
    ([b"\x040\0" + framed(b"\x020\0\3\0\0\0x1\0")], False),
]


@pytest.mark.parametrize(
    ("idx", "opens"),
    [
        ([b"\x02kid\0\3\0\0\0x1\0"], True),
        ([b"\x02kid\0\3\0\0\0x1\0", b"\x05e\0\1\0\0\0\0x"], True),
        ([b"\x05e\0\1\0\0\0\0x", b"\x02kid\0\3\0\0\0x1\0"], True),
        ([b"\x02kid\0\3\0\0\0x1\0", b"\x04e\0" + framed(b"\x050\0\0\0\0\0\0", b"\x050\0\0\0\0\0\0")], True),
        ([b"\x02kid\0\3\0\0\0x1\0", b"\x04e\0" + framed(b"\x05name\0\0\0\0\0\0")], True),
        ([b"\x02kid\0\3\0\0\0x1\0", b"\x05e\0\1\0\0\0\0x", b"\x05e\0\1\0\0\0\0x"], False),
        ([b"\x0ekid\0\3\0\0\0x1\0"], False),
        ([b"\x02kid\0\3\0\0\0x1\0", b"\x05e\0\1\0\0\0\x05x"], False),
        ([b"\x02kid\0\3\0\0\0x1\0", b"\x04e\0" + framed(b"\x020\0\2\0\0\0x\0")], False),
        ([], False),
        *(([b"\x04kid\0" + framed(*kids), b"\x05e\0\1\0\0\0\0x"], opens) for kids, opens in KIDS),
    ],
)
def test_idx_is_looked_at_closely(idx: list[bytes], opens: bool) -> None:
    """``idx`` has a kid, or several, and binaries of subtype 0; names occur once, but the names of array elements are ignored."""
    body = sorted([*GOOD, b"\x03idx\0" + framed(*idx)], key=lambda part: (part[1:5] != b"_id\0", part[1:]))
    assert isinstance(outcome(tagged(*body)), envelope.Opened) == opens


kid_values = st.sampled_from(["x1", "x2", "", "x 1", "x" * 65, None, 1, b"x1", "\u0661"])
idx_values = st.one_of(values, st.binary(max_size=3), st.lists(st.binary(max_size=3), max_size=3))


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.just("kid") | texts, kid_values | st.lists(kid_values, max_size=3) | idx_values, max_size=4))
@example({"kid": "x1"})
@example({"kid": ["x1", "x2"], "a": b"", "b": []})
@example({"kid": ["x1", "x1"]})
def test_what_seal_takes_for_idx_open_takes_too(idx: dict[str, Any]) -> None:
    """And what it refuses would be refused again: the two look at the same thing, one at values and one at bytes."""
    body = sorted(
        [*GOOD, b"\x03idx\0" + bson.encode(idx, codec_options=envelope.CODEC_OPTIONS)],
        key=lambda each: (each[1:5] != b"_id\0", each[1:]),
    )
    opened = outcome(tagged(*body))
    try:
        raw = envelope.seal({"_id": 1, "idx": idx}, b"{}", keys=KEYS, context=CONTEXT)
    except MalformedEnvelopeError:
        assert opened is MalformedEnvelopeError
    else:
        assert isinstance(opened, envelope.Opened)
        assert opened.document["idx"] == envelope.open(raw, keys=KEYS, context=CONTEXT).document["idx"] == idx


# --- verify ---------------------------------------------------------------------------------------------------------


def test_verify_decrypts_nothing() -> None:
    """It gives what stands in the clear, with the payload as it is stored, and derives no key that could read that."""
    ring = KeyRing([DataKey("k1", bytes(range(32)))])
    document = envelope.verify(RAW, keys=ring, context=CONTEXT)
    assert document == ORIGINAL.document
    assert document["data"] != PAYLOAD
    assert ring._working == {}
    assert [*ring._authenticators] == [("k1", CONTEXT)]


def test_verify_refuses_what_open_refuses() -> None:
    """With the same kind of error, for every bit of a document, and for one in any order, of another key or of another context."""
    fresh = KeyRing([DataKey("k1", bytes(range(32)))])

    def verified(raw: bytes, context: str = CONTEXT) -> object:
        try:
            return envelope.verify(raw, keys=fresh, context=context)
        except MongoEnvelopeError as error:
            return type(error)

    for at in range(len(RAW)):
        for bit in range(8):
            changed = RAW[:at] + bytes([RAW[at] ^ (1 << bit)]) + RAW[at + 1 :]
            assert verified(changed) is outcome(changed)
    backwards = framed(*reversed(elements(RAW).values()))
    assert verified(backwards) == ORIGINAL.document
    assert verified(RAW, "other") is IntegrityError
    assert verified(FOREIGN, "c") is UnknownKeyError
    for idx, opens in KIDS:
        body = sorted(
            [*GOOD, b"\x03idx\0" + framed(b"\x04kid\0" + framed(*idx))], key=lambda part: (part[1:5] != b"_id\0", part[1:])
        )
        assert isinstance(verified(tagged(*body)), dict) is opens
    assert fresh._working == {}


def test_what_verifies_documents_can_do_no_more() -> None:
    """The authenticator that a ring lends is that of the working keys, whichever is asked for first."""
    one, other = (KeyRing([DataKey("k1", bytes(range(32)))]) for _ in range(2))
    first = one.authenticator("k1", CONTEXT)
    assert one.authenticator("k1", CONTEXT) is first
    assert first.tag(b"x") == one.working_keys("k1", CONTEXT).authenticator.tag(b"x")
    assert other.working_keys("k1", CONTEXT).authenticator is other.authenticator("k1", CONTEXT)
    for ring in (one, other):
        with pytest.raises(UnknownKeyError):
            ring.authenticator("k9", CONTEXT)


def test_open_never_says_payload_error() -> None:
    """What the payload is made of is for the layer above: here it is bytes."""
    raw = envelope.seal({"_id": 1}, b"not JSON", keys=KEYS, context=CONTEXT)
    assert envelope.open(raw, keys=KEYS, context=CONTEXT).payload == b"not JSON"
    assert PayloadError not in REFUSALS


def test_a_document_has_at_most_4096_elements() -> None:
    """As many are sealed and opened; one more is refused by both, and a hostile document of any number is not looked at further."""
    fits = {f"f{number:04}": None for number in range(4096 - 6)}
    assert (
        len(
            envelope.open(envelope.seal({"_id": 1, **fits}, b"{}", keys=KEYS, context=CONTEXT), keys=KEYS, context=CONTEXT).document
        )
        == 4096
    )
    with pytest.raises(MalformedEnvelopeError, match="at most 4096"):
        envelope.seal({"_id": 1, **fits, "one more": None}, b"{}", keys=KEYS, context=CONTEXT)
    hostile = bson.encode({"_id": 1, **{f"f{number}": None for number in range(200_000)}})
    with pytest.raises(MalformedEnvelopeError, match="more fields"):
        envelope.open(hostile, keys=KEYS, context=CONTEXT)


def test_the_right_tag_of_a_wrong_document_is_in_no_traceback() -> None:
    """Whoever collects the local variables of an IntegrityError's frames (a crash reporter) would otherwise collect forgeries."""
    edited = RAW.replace(b"acme", b"evil")
    assert edited != RAW
    with pytest.raises(IntegrityError) as caught:
        envelope.open(edited, keys=KEYS, context=CONTEXT)
    right = KEYS.working_keys("k1", CONTEXT).authenticator.tag(edited[4:-44])
    shown = [
        value
        for frame, _ in traceback.walk_tb(caught.value.__traceback__)
        for name, value in frame.f_locals.items()
        if name != "right"
    ]
    assert right not in shown


def test_a_very_long_id_is_not_decoded_to_be_named() -> None:
    """A hostile document is refused without its ``_id`` of any size being read; one of sensible size names the document."""
    for identity, named in (("x" * 900, "x" * 900), ("x" * 2000, None), ({str(number): {} for number in range(1000)}, None)):
        raw = bson.encode({"_id": identity})
        assert envelope.identify(raw) == named
        assert envelope.identify(raw, longest=len(raw)) == identity


def test_the_tag_of_what_nobody_has_verified() -> None:
    """It is the 32 bytes of an ``hmac`` of subtype 0, wherever that stands; of anything else there is none."""
    tag = envelope.tag_of(RAW)
    for document, found in (
        ({"_id": 1, "hmac": tag}, tag),
        ({"hmac": tag, "_id": 1}, tag),
        ({"_id": 1}, b""),
        ({"_id": 1, "hmac": None}, b""),
        ({"_id": 1, "hmac": tag.hex()}, b""),
        ({"_id": 1, "hmac": tag[1:]}, b""),
        ({"_id": 1, "hmac": bson.Binary(tag, 5)}, b""),
        ({"_id": 1, "x": RAW[-44:-1]}, b""),
    ):
        assert envelope.stored_tag(bson.encode(document)) == found
    assert envelope.stored_tag(RAW) == tag


def test_the_kid_of_a_document_is_its_own() -> None:
    """Not that of its index values, or of a field of the user's; of what is no document there is none, and nothing is raised."""
    nested = envelope.seal(
        {"_id": 1, "idx": {"kid": "x1", "email": b"1234567890123456"}, "token": {"kid": "another"}}, b"{}", keys=KEYS, context="c"
    )
    assert envelope.kid_of(nested) == KEYS.primary
    assert envelope.kids_in([nested]) == {KEYS.primary, "x1", "another"}
    assert envelope.kid_element(KEYS.primary) in nested
    assert envelope.kid_of(bson.encode({"_id": 1, "kid": 5})) is None
    assert envelope.kid_of(bson.encode({"_id": 1})) is None
    assert envelope.kid_of(b"no BSON") is None
