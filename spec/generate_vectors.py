"""Write ``vectors/*.json`` and the worked example of ``envelope-v1.md`` from ``reference.py``, always the same bytes.

``vectors/unassigned14.txt`` comes from the running Python if that has Unicode 14.0 (3.11 has), and is otherwise left.

``--check`` writes nothing: it prints one line for each difference and exits with 1 if there is one. Every vector is run
through the reference when it is made, and a reject vector is also compared with the good document that it comes from.
"""

from __future__ import annotations

import base64
import datetime as dt
import difflib
import hashlib
import hmac
import ipaddress
import itertools
import json
import re
import sys
import unicodedata
import uuid
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import bson
import keystore_reference as keystore
import reference
from bson import json_util
from bson.binary import Binary, UuidRepresentation
from bson.code import Code
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.max_key import MaxKey
from bson.min_key import MinKey
from bson.objectid import ObjectId
from bson.regex import Regex
from bson.timestamp import Timestamp
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from reference import Fields, Url

HERE = Path(__file__).resolve().parent
JSON_OPTIONS = json_util.JSONOptions(
    json_mode=json_util.JSONMode.CANONICAL,
    uuid_representation=UuidRepresentation.STANDARD,
    tz_aware=True,
    tzinfo=dt.UTC,
)

KEY = bytes(range(32))
OTHER_KEY = bytes(range(32, 64))
KID = "k1"
CONTEXT = "customers"
IV = bytes(range(0xF0, 0x100))
OTHER_IV = bytes(range(0xA0, 0xB0))


def extended(value: Any) -> Any:
    """MongoDB extended JSON, canonical form."""
    return json.loads(json_util.dumps(value, json_options=JSON_OPTIONS))


def from_extended(value: Any) -> Any:
    """The other way."""
    return json_util.loads(json.dumps(value), json_options=JSON_OPTIONS)


def same(a: Fields, b: Fields) -> bool:
    """Whether two sets of fields are equal in every value and type; the order at the top does not count."""
    return a.keys() == b.keys() and all(json.dumps(extended(a[name])) == json.dumps(extended(b[name])) for name in a)


def increments(iv: bytes, count: int) -> list[bytes]:
    """The counter blocks of section 3.4, by arithmetic."""
    start = int.from_bytes(iv, "big")
    return [((start + i) % 2**128).to_bytes(16, "big") for i in range(count)]


def ctr_by_hand(key: bytes, counters: list[bytes], data: bytes) -> bytes:
    """CTR from single AES blocks, so that the counter is ours and not a library's."""
    keystream = Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(b"".join(counters))  # noqa: S305 - single blocks
    return bytes(a ^ b for a, b in zip(data, keystream, strict=False))


# --- documents as lists of elements ---------------------------------------------------------------------------------


def el(kind: int, name: str | bytes, value: bytes) -> bytes:
    """One element, as raw as it gets."""
    return bytes([kind]) + (name.encode() if isinstance(name, str) else name) + b"\0" + value


def i32(number: int) -> bytes:
    """Encode an int32."""
    return number.to_bytes(4, "little", signed=True)


def string(text: bytes | str) -> bytes:
    """Encode the value of a string element."""
    encoded = text.encode() if isinstance(text, str) else text
    return i32(len(encoded) + 1) + encoded + b"\0"


def binary(data: bytes, subtype: int = 0) -> bytes:
    """Encode the value of a binary element."""
    return i32(len(data)) + bytes([subtype]) + data


def document(*elements: bytes) -> bytes:
    """Encode elements as a document; also the value of a document or array element."""
    body = b"".join(elements)
    return i32(len(body) + 5) + body + b"\0"


def split(raw: bytes) -> dict[str, bytes]:
    """Split a good document into its elements, ``hmac`` included."""
    return {name.decode(): element for name, element in reference.walk(raw[4:-1])}


def swapped(raw: bytes, name: str, *replacement: bytes) -> bytes:
    """Put other elements (or none) where one element was; nothing else moves."""
    return document(*(part for n, e in split(raw).items() for part in (replacement if n == name else (e,))))


def with_value(raw: bytes, name: str, value: bytes, kind: int | None = None) -> bytes:
    """Give one element another value, and perhaps another type."""
    return swapped(raw, name, el(split(raw)[name][0] if kind is None else kind, name, value))


def added(raw: bytes, *new: bytes) -> bytes:
    """Add elements in front of the one that ends the document; the reader puts them in order."""
    elements = split(raw)
    last = elements.pop("hmac")
    return document(*elements.values(), *new, last)


def sealed_again(raw: bytes, key: bytes = KEY, context: str = CONTEXT) -> bytes:
    """Compute the tag anew: what only a holder of the key can make."""
    return reference.assemble(reference.walk(raw[4:-44]), key=key, context=context)


def value_at(raw: bytes, name: str) -> int:
    """Where the value of a top-level element starts."""
    element = split(raw)[name]
    return raw.index(element) + len(element) - len(reference.value_of(element))


def flipped(raw: bytes, at: int, bit: int = 0) -> bytes:
    """Flip one bit."""
    return raw[:at] + bytes([raw[at] ^ (1 << bit)]) + raw[at + 1 :]


def patched(raw: bytes, at: int, new: bytes) -> bytes:
    """Overwrite bytes; the length stays."""
    return raw[:at] + new + raw[at + len(new) :]


# --- seal -----------------------------------------------------------------------------------------------------------

OID = ObjectId("65a1b2c3d4e5f60718293a4b")
WHEN = dt.datetime(2024, 2, 29, 12, 34, 56, 789000, tzinfo=dt.UTC)
BIDX = bytes(range(0x40, 0x60))


class Seal(NamedTuple):
    """The arguments of one call of ``seal``."""

    name: str
    metadata: Fields
    payload: str
    iv: bytes = IV
    kid: str = KID
    context: str = CONTEXT
    key: bytes = KEY
    idx: Fields | None = None

    def run(self) -> bytes:
        """Seal."""
        return reference.seal(
            from_extended(extended(self.metadata)),
            self.payload.encode(),
            key=self.key,
            kid=self.kid,
            context=self.context,
            iv=self.iv,
            idx=self.idx,
        )

    def arguments(self) -> dict[str, Any]:
        """Give the arguments as they stand in the file."""
        arguments = {
            "name": self.name,
            "metadata": extended(self.metadata),
            "payload": self.payload,
            "key": self.key.hex(),
            "kid": self.kid,
            "context": self.context,
            "iv": self.iv.hex(),
        }
        return arguments if self.idx is None else arguments | {"idx": extended(self.idx)}


EXAMPLE = Seal("worked example of the specification", {"tenant": "acme", "_id": 7}, '{"name": "Ada Lovelace"}')
LONG_TEXT = json.dumps({"notes": "The quick brown fox jumps over the lazy dog. " * 12})

SEAL = [
    EXAMPLE,
    Seal("empty payload object, no metadata but _id", {"_id": OID}, "{}"),
    Seal(
        "every BSON type",
        {
            "_id": OID,
            "double": 1.5,
            "string": "text",
            "document": {"b": 1, "a": {"z": None, "y": []}},
            "array": [1, "two", 3.0, [4], {"five": 5}],
            "binary": b"\x00\x01\xfe\xff",
            "object_id": ObjectId("000000000000000000000000"),
            "true": True,
            "false": False,
            "date": WHEN,
            "null": None,
            "regex": Regex("^a.b$", "im"),
            "code": Code("function () {}"),
            "scoped_code": Code("function () {}", {"a": 1}),
            "int32": 42,
            "timestamp": Timestamp(1700000000, 7),
            "int64": Int64(42),
            "decimal128": Decimal128("42"),
            "min_key": MinKey(),
            "max_key": MaxKey(),
        },
        '{"email":"ada@example.com"}',
    ),
    Seal(
        "numbers at their limits",
        {
            "_id": Int64(-(2**63)),
            "i32max": 2**31 - 1,
            "i32min": -(2**31),
            "i64max": Int64(2**63 - 1),
            "i64small": Int64(0),
            "zero": 0.0,
            "minus_zero": -0.0,
            "nan": float("nan"),
            "inf": float("inf"),
            "minus_inf": float("-inf"),
            "tiny": 5e-324,
            "dec": Decimal128("1.00"),
            "dec_nan": Decimal128("NaN"),
            "dec_min": Decimal128("-9.999999999999999999999999999999999E+6144"),
        },
        '{"n":123456789012345678901234567890,"x":[NaN,Infinity,-Infinity,-0.0,5e-324]}',
    ),
    Seal("_id a UUID, binary subtype 4", {"_id": uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")}, '{"a":1}'),
    Seal("_id a string", {"_id": "customer/1", "tenant": "acme"}, '{"a":1}'),
    Seal("_id a document", {"_id": {"tenant": "acme", "n": 1}, "a": 0}, '{"a":1}'),
    Seal(
        "binary subtypes",
        {
            "_id": 1,
            "empty": b"",
            "old": Binary(b"old", 2),
            "uuid": Binary(bytes(range(16)), 4),
            "md5": Binary(bytes(16), 5),
            "user": Binary(b"x", 0x80),
        },
        '{"a":1}',
    ),
    Seal("dates before 1970 and null", {"_id": 1, "d": WHEN.replace(year=1896), "e": None}, '{"a":null}'),
    Seal(
        "names around those of the envelope",
        {
            "zip": 1,
            "hmad": 2,
            "hma": 3,
            "hmac2": 4,
            "idy": 5,
            "idx2": 6,
            "V": 7,
            "v2": 8,
            "kie": 9,
            "kidd": 10,
            "ki": 11,
            "ivy": 12,
            "iu": 13,
            "datb": 14,
            "dat": 15,
            "_ie": 16,
            "_": 17,
            "A": 18,
            "a": 19,
            "0": 20,
            "_id": 0,
        },
        '{"a":1}',
        idx={"kid": "x1", "email": BIDX},
    ),
    Seal(
        "names in order of UTF-8 bytes, which is not that of UTF-16",
        {"\U0001f600": 1, "\uff5e": 2, "é": 3, "e\u0301": 4, "zz": 5, "Ω": 6, "\x7f": 7, " ": 8, "_id": 0},
        '{"a":1}',
    ),
    Seal(
        "unicode in the payload and in the metadata",
        {"_id": "Ångström", "city": "Zürich", "nul": "a\0b", "smile": "\U0001f600"},
        '{"name":"Ünïcödé \U0001f600","日本":"\u2028\\u0041\\ud83d\\ude00","nul":"\\u0000"}',
    ),
    Seal("padded payload", {"_id": 1}, '{"a":1}'.ljust(64)),
    Seal("payload of one block", {"_id": 1}, '{"a":"12345678"}'),
    Seal("payload of many blocks, the counter carries", {"_id": 1}, LONG_TEXT, iv=bytes(15) + b"\xfd"),
    Seal("the counter wraps: iv is all ones", {"_id": 1}, LONG_TEXT, iv=b"\xff" * 16),
    Seal("the low 32 bits of the counter carry into the others", {"_id": 1}, LONG_TEXT, iv=bytes(12) + b"\xff" * 4),
    Seal("the low 64 bits of the counter carry into the others", {"_id": 1}, LONG_TEXT, iv=bytes(8) + b"\xff" * 8),
    Seal("iv is all zeros", {"_id": 1}, LONG_TEXT, iv=bytes(16)),
    Seal("idx with one value", {"_id": 1}, '{"a":1}', idx={"kid": "x1", "email": BIDX}),
    Seal(
        "idx with several values",
        {"_id": 1, "tenant": "acme"},
        '{"a":1}',
        idx={"kid": "x1", "email": [BIDX, BIDX[:16]], "none": [], "phone": BIDX[:8]},
    ),
    Seal("idx with a kid alone", {"_id": 1}, '{"a":1}', idx={"kid": "x1"}),
    Seal("idx under one kid, in an array", {"_id": 1}, '{"a":1}', idx={"kid": ["x1"], "email": BIDX}),
    Seal("idx under two kids", {"_id": 1}, '{"a":1}', idx={"kid": ["x1", "x2"], "email": [BIDX[:16], BIDX[16:]]}),
    Seal(
        "kid of 64 characters",
        {"_id": 1},
        '{"a":1}',
        kid="ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-",
    ),
    Seal("kid of one character", {"_id": 1}, '{"a":1}', kid="_"),
    Seal("context of 255 bytes", {"_id": 1}, '{"a":1}', context="é" * 127 + "x"),
    Seal("context of one byte", {"_id": 1}, '{"a":1}', context="c"),
    Seal("context of the key store", {"_id": "k1", "state": "active"}, '{"a":1}', context="mongo_envelope/keys/main"),
    Seal(
        "reserved names in the payload",
        {"_id": 1},
        '{"_id":1,"v":2,"kid":3,"iv":4,"data":5,"hmac":6,"idx":7,"$a.b":8,"":9}',
    ),
    Seal("a name in both: the payload has the exact value", {"_id": 1, "price": 9.5}, '{"price":"9.50"}'),
    Seal("nested names are free", {"_id": 1, "n": {"v": 1, "hmac": b"", "_id": 2, "a": Timestamp(0, 0)}}, '{"a":1}'),
    Seal("another key", {"_id": 1}, '{"a":1}', key=OTHER_KEY),
]

_ONE = Seal("", {"_id": 1}, '{"a":1}')
REFUSED = [
    *(_ONE._replace(name=f"reserved name {n}", metadata={"_id": 1, n: 1}) for n in ("v", "kid", "iv", "data", "hmac", "idx")),
    _ONE._replace(name="no _id", metadata={"a": 1}),
    _ONE._replace(name="empty name", metadata={"_id": 1, "": 1}),
    _ONE._replace(name="name starts with $", metadata={"_id": 1, "$a": 1}),
    _ONE._replace(name="name contains a dot", metadata={"_id": 1, "a.b": 1}),
    _ONE._replace(name="name contains NUL", metadata={"_id": 1, "a\0b": 1}),
    _ONE._replace(name="Timestamp(0, 0) at the top", metadata={"_id": 1, "t": Timestamp(0, 0)}),
    _ONE._replace(name="Timestamp(0, 0) as _id", metadata={"_id": Timestamp(0, 0)}),
    _ONE._replace(name="empty kid", kid=""),
    _ONE._replace(name="kid of 65 characters", kid="k" * 65),
    _ONE._replace(name="kid with a slash", kid="k/1"),
    _ONE._replace(name="kid with a newline at its end", kid="k1\n"),
    _ONE._replace(name="kid with a letter outside ASCII", kid="ké"),
    _ONE._replace(name="empty context", context=""),
    _ONE._replace(name="context of 256 bytes", context="c" * 256),
    _ONE._replace(name="context of 129 characters and 256 bytes", context="cc" + "é" * 127),
    _ONE._replace(name="key of 31 bytes", key=KEY[:31]),
    _ONE._replace(name="key of 16 bytes", key=KEY[:16]),
    _ONE._replace(name="iv of 15 bytes", iv=IV[:15]),
    _ONE._replace(name="idx without kid", idx={"email": BIDX}),
    _ONE._replace(name="idx with an ill-formed kid", idx={"kid": "x 1", "email": BIDX}),
    _ONE._replace(name="idx with an empty array of kids", idx={"kid": [], "email": BIDX}),
    _ONE._replace(name="idx with a kid twice in the array", idx={"kid": ["x1", "x2", "x1"], "email": BIDX}),
    _ONE._replace(name="idx with an ill-formed kid in the array", idx={"kid": ["x1", "x 2"], "email": BIDX}),
    _ONE._replace(name="idx with a number among the kids", idx={"kid": ["x1", 2], "email": BIDX}),
    _ONE._replace(name="idx value a string", idx={"kid": "x1", "email": "abc"}),
    _ONE._replace(name="idx value of subtype 5", idx={"kid": "x1", "email": Binary(bytes(16), 5)}),
    _ONE._replace(name="idx value an array with a string", idx={"kid": "x1", "email": [BIDX, "abc"]}),
]


def seal_vectors() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Inputs with the one document that is right, and inputs that a sealer refuses."""
    cases = []
    for case in SEAL:
        raw = case.run()
        metadata, payload = reference.open(raw, keys={case.kid: case.key}, context=case.context)
        demand(same(metadata, case.metadata), f"seal: {case.name}: metadata survives")
        demand(repr(payload) == repr(json.loads(case.payload)), f"seal: {case.name}: payload survives")
        by_hand = ctr_by_hand(
            reference.derive(case.key, "encrypt", case.context),
            increments(case.iv, -(-len(case.payload.encode()) // 16)),
            case.payload.encode(),
        )
        demand(reference.value_of(split(raw)["data"])[5:] == by_hand, f"seal: {case.name}: CTR by hand")
        cases.append(case.arguments() | {"document": raw.hex()})
    for case in REFUSED:
        try:
            case.run()
        except ValueError:
            continue
        demand(False, f"refused: {case.name}: was sealed")
    return cases, [case.arguments() for case in REFUSED]


# --- padding --------------------------------------------------------------------------------------------------------


def padding_lengths() -> dict[str, int]:
    """Padmé of every short length, and of those around the powers of two, up to 2^31."""
    lengths = {*range(71), *(2**k + d for k in range(6, 32) for d in (-1, 0, 1) if 2**k + d <= 2**31)}
    found = {length: reference.padme(length) for length in sorted(lengths)}
    for length, padded in found.items():
        exponent = length.bit_length() - 1
        mask = 2 ** (exponent - exponent.bit_length()) - 1 if length > 1 else 0  # as in the paper
        demand(padded == (length + mask) & ~mask, f"padding: {length}: as algorithm 1")
        demand(reference.padme(padded) == padded, f"padding: {length}: twice is once")
        demand(length <= padded <= length * 1.12, f"padding: {length}: at most 12 % more")
    return {str(length): padded for length, padded in found.items()}


_SHORT = '{"a":"%s"}'  # 8 bytes and what stands in it
PADDED = [
    Seal("worked example, padded", EXAMPLE.metadata, EXAMPLE.payload),
    Seal("a payload of 2 bytes, which needs no padding", {"_id": 1}, "{}"),
    Seal("of 8 bytes, none", {"_id": 1}, _SHORT % ""),
    Seal("of 9 bytes, one space", {"_id": 1}, _SHORT % "b"),
    Seal("of 15 bytes: up to the next power of two", {"_id": 1}, _SHORT % ("b" * 7)),
    Seal("of 63 bytes", {"_id": 1}, _SHORT % ("b" * 55)),
    Seal("of 64 bytes, none", {"_id": 1}, _SHORT % ("b" * 56)),
    Seal("of 65 bytes, seven spaces", {"_id": 1}, _SHORT % ("b" * 57)),
    Seal("of 129 bytes, 15 spaces: the most that there is, in relation", {"_id": 1}, _SHORT % ("b" * 121)),
    Seal("of 1,025 bytes", {"_id": 1}, _SHORT % ("b" * 1017)),
    Seal("characters of several bytes: bytes count", {"_id": 1}, _SHORT % ("\u00e9\u65e5\U0001f600" * 3)),
    Seal("too many spaces already, as of another padding", {"_id": 1}, (_SHORT % "b").ljust(64)),
    Seal("too few spaces already", {"_id": 1}, (_SHORT % ("b" * 57)).ljust(67)),
    Seal("the right number of spaces already", {"_id": 1}, (_SHORT % ("b" * 57)).ljust(72)),
    Seal("a line feed at the end is content, the space behind it is not", {"_id": 1}, _SHORT % "" + "\n "),
    Seal("spaces inside a text and between names are content", {"_id": 1}, '{ "a" : "b         " }'),
    Seal(
        "with metadata and idx, which are not padded",
        {"_id": OID, "tenant": "acme"},
        _SHORT % "b",
        idx={"kid": "x1", "email": BIDX},
    ),
]


def padding_cases() -> list[dict[str, Any]]:
    """Documents of a sealer that pads."""
    cases = []
    for case in PADDED:
        payload = reference.pad(case.payload.encode())
        raw = case._replace(payload=payload.decode()).run()
        metadata, opened = reference.open(raw, keys={case.kid: case.key}, context=case.context)
        demand(same(metadata, case.metadata), f"padding: {case.name}: metadata survives")
        demand(opened == json.loads(case.payload), f"padding: {case.name}: payload survives")
        demand(payload.rstrip(b" ") == case.payload.encode().rstrip(b" "), f"padding: {case.name}: spaces alone are added")
        demand(len(reference.value_of(split(raw)["data"])) == 5 + len(payload), f"padding: {case.name}: data has the padded length")
        cases.append(case.arguments() | {"length": len(payload), "document": raw.hex()})
    return cases


# --- open -----------------------------------------------------------------------------------------------------------

BASE = Seal(
    "base",
    {
        "_id": OID,
        "at": WHEN,
        "blob": bytes(range(16)),
        "flag": True,
        "list": ["a", "b"],
        "n": 5,
        "none": None,
        "place": {"city": "Bern", "zip": 3000},
        "ref": ObjectId("65a1b2c3d4e5f60718293a4c"),
        "s": "5",
        "x": 5.0,
        "zero": 0.0,
    },
    '{"email":"ada@example.com","name":"Ada Lovelace"}',
    idx={"kid": "x1", "email": BIDX, "tags": [BIDX[:16], BIDX[16:]]},
)
NO_IDX = BASE._replace(name="base without idx", idx=None)
OTHER_ID = BASE._replace(
    name="another document of the collection", metadata=BASE.metadata | {"_id": ObjectId(bytes(12))}, iv=OTHER_IV
)

ACCENTED = Seal("context with a letter that has two forms", {"_id": 1}, '{"a":1}', context="cl\u00e9s")


class Good(NamedTuple):
    """A document that must open."""

    document: bytes
    metadata: Any  # canonical extended JSON
    payload: str
    keys: dict[str, bytes]
    context: str = CONTEXT


def good_documents() -> dict[str, Good]:
    """Every document that must open, by name."""
    keys = {KID: KEY}

    def good(case: Seal) -> Good:
        return Good(case.run(), extended(case.metadata), case.payload, {case.kid: case.key}, case.context)

    base = good(BASE)
    elements = split(base.document)
    tag = elements["hmac"]
    before = [element for name, element in elements.items() if name != "hmac"]
    also = ("every BSON type", "names around", "names in order", "the counter wraps", "padded", "a name in both")
    cases = {case.name: good(case) for case in (BASE, NO_IDX, OTHER_ID, ACCENTED)}
    cases |= {case.name: good(case) for case in SEAL if case.name.startswith(also)}
    cases["several keys in the ring"] = base._replace(keys={"k0": OTHER_KEY, KID: KEY, "k2": OTHER_KEY})

    def rearranged(name: str, order: list[bytes]) -> None:
        cases[name] = base._replace(document=document(*order, tag))

    rearranged("out of order: reversed", before[::-1])
    rearranged("out of order: _id last", [*before[1:], before[0]])
    rearranged("out of order: two neighbours exchanged", [before[0], before[2], before[1], *before[3:]])
    rearranged(
        "out of order: as a dict is often built, envelope last",
        sorted(before, key=lambda e: e[1:4] in (b"dat", b"iv\0", b"kid", b"idx", b"v\0\1")),
    )
    rearranged("out of order: as the length of the names", sorted(before, key=lambda e: e.index(0, 1)))
    for name, order in {
        "second to last": [*before[:-1], tag, before[-1]],
        "at its place in the order of the names": [elements[n] for n in sorted(elements)],
        "first, before _id": [tag, *before],
        "first, all reversed": [tag, *before[::-1]],
    }.items():
        cases[f"out of order: hmac is not last but {name}"] = base._replace(document=document(*order))
    shuffled = Seal("", {"_id": 1, "\U0001f600": 1, "\uff5e": 2, "é": 3}, '{"a":1}')
    parts = split(shuffled.run())
    by_utf16 = sorted(parts, key=lambda n: (n == "hmac", n != "_id", n.encode("utf-16-be")))
    cases["out of order: in order of UTF-16"] = good(shuffled)._replace(document=document(*(parts[n] for n in by_utf16)))

    plain = Seal("", {"_id": 1}, "{}")
    for name, payload in {
        "payload: trailing spaces": '{"a":1}     ',
        "payload: all kinds of JSON whitespace": ' \t\r\n{ "a" :\t[ 1 , 2 ]\r\n} \t\r\n',
        "payload: NaN, Infinity, -Infinity": '{"a":NaN,"b":[Infinity,-Infinity]}',
        "payload: escapes": '{"\\u0061\\/":"\\ud83d\\ude00\\b\\f\\n\\r\\t\\"\\\\"}',
        "payload: the same name in two objects": '{"a":{"a":{"a":1}},"b":{"a":2}}',
        "payload: empty name": '{"":0}',
        "payload: large integer": '{"n":-170141183460469231731687303715884105729}',
        "payload: U+FEFF inside a string": '{"a":"\ufeff"}',
    }.items():
        cases[name] = good(plain._replace(payload=payload))

    def by_hand(name: str, metadata: Any, *new: bytes, without: str = "") -> None:
        raw = added(plain._replace(payload='{"a":1}').run(), *new)
        raw = swapped(raw, without) if without else raw
        cases[name] = Good(sealed_again(raw), metadata, '{"a":1}', keys)

    one = extended({"_id": 1})
    by_hand("symbol", one | {"s": {"$symbol": "x"}}, el(0x0E, "s", string("x")))
    by_hand("undefined", one | {"u": {"$undefined": True}}, el(0x06, "u", b""))
    pointer = {"$dbPointer": {"$ref": "c", "$id": extended(OID)}}
    by_hand("DBPointer", one | {"p": pointer}, el(0x0C, "p", string("c") + OID.binary))
    by_hand(
        "Timestamp(0, 0): readers do not repeat the refusals of sealers",
        one | {"t": extended(Timestamp(0, 0))},
        el(0x11, "t", bytes(8)),
    )
    by_hand(
        "a name with a dot: readers do not repeat the refusals of sealers",
        one | {"a.b": extended(1)},
        el(0x10, "a.b", i32(1)),
    )
    by_hand(
        "idx: kid is not its first element",
        one,
        el(3, "idx", document(el(5, "e", binary(BIDX)), el(2, "kid", string("x1")))),
    )
    by_hand(
        "idx: empty binary and empty array",
        one,
        el(3, "idx", document(el(2, "kid", string("x1")), el(5, "e", binary(b"")), el(4, "f", document()))),
    )

    def with_kids(name: str, *kids: bytes) -> None:
        by_hand(f"idx: {name}", one, el(3, "idx", document(el(4, "kid", document(*kids)), el(5, "e", binary(BIDX)))))

    with_kids("kid an array of one", el(2, "0", string("x1")))
    with_kids("kid an array of two", el(2, "0", string("x1")), el(2, "1", string("x2")))
    with_kids("kid an array of two, not in bytewise order", el(2, "0", string("x2")), el(2, "1", string("x1")))
    with_kids("kid an array of three", *(el(2, str(i), string(kid)) for i, kid in enumerate(("X", "x", "x" * 64))))
    with_kids("kid an array whose elements have other names", el(2, "1", string("x1")), el(2, "one", string("x2")))
    with_kids("kid an array whose elements have one name", el(2, "0", string("x1")), el(2, "0", string("x2")))
    return cases


def open_vectors() -> list[dict[str, Any]]:
    """Documents with what is in them."""
    cases = []
    for name, case in good_documents().items():
        metadata, payload = reference.open(case.document, keys=case.keys, context=case.context)
        demand(same(metadata, from_extended(case.metadata)), f"open: {name}: metadata")
        demand(repr(payload) == repr(json.loads(case.payload)), f"open: {name}: payload")
        keys = {kid: key.hex() for kid, key in case.keys.items()}
        cases.append(
            {
                "name": name,
                "document": case.document.hex(),
                "keys": keys,
                "context": case.context,
                "metadata": case.metadata,
                "payload": case.payload,
            }
        )
    return cases


# --- reject ---------------------------------------------------------------------------------------------------------

MALFORMED, VERSION, UNKNOWN, INTEGRITY, PAYLOAD = (
    "MalformedEnvelopeError",
    "UnsupportedVersionError",
    "UnknownKeyError",
    "IntegrityError",
    "PayloadError",
)


class Reject(NamedTuple):
    """A case that must fail, and how."""

    error: str
    document: bytes
    keys: dict[str, bytes]
    context: str
    base: str
    changes: int  # elements that differ from the base, ``hmac`` not counted; -1: cannot be walked, or not compared


class Rejects:
    """Collect reject vectors made from one good document."""

    def __init__(self) -> None:
        self.good = good_documents()
        self.cases: dict[str, Reject] = {}
        self.last_wins: dict[str, str] = {}  # the payload that an opener may find who does not see duplicates

    def add(self, error: str, name: str, raw: bytes, base: str = "base", changes: int = 1, **other: Any) -> None:
        """Add a case: another document, or with ``other`` the same document under other keys or in another context."""
        demand(name not in self.cases, f"reject: {name}: the name occurs twice")
        good = self.good[base]
        self.cases[name] = Reject(error, raw, other.get("keys", good.keys), other.get("context", good.context), base, changes)


def flips(rejects: Rejects, raw: bytes) -> None:
    """One flipped bit, in each part."""
    add = rejects.add
    add(MALFORMED, "bit flip: length", flipped(raw, 0), changes=-1)
    add(MALFORMED, "bit flip: sign of the length", flipped(raw, 3, 7), changes=-1)
    add(INTEGRITY, "bit flip: _id", flipped(raw, value_at(raw, "_id")))
    add(INTEGRITY, "bit flip: last byte of _id", flipped(raw, value_at(raw, "_id") + 11))
    add(INTEGRITY, "bit flip: name of _id", flipped(raw, raw.index(b"\x07_id") + 3), changes=2)
    for name, where in {
        "at": 0,
        "blob": 5,
        "flag": 0,
        "list": 11,
        "n": 0,
        "place": 14,
        "ref": 0,
        "s": 4,
        "x": 0,
        "zero": 7,
    }.items():
        add(INTEGRITY, f"bit flip: metadata {name}", flipped(raw, value_at(raw, name) + where))
    add(INTEGRITY, "bit flip: subtype of metadata blob", flipped(raw, value_at(raw, "blob") + 4))
    add(INTEGRITY, "bit flip: name of metadata none", flipped(raw, raw.index(b"\x0anone") + 1), changes=2)
    add(INTEGRITY, "bit flip: type of metadata x, double to timestamp", flipped(raw, raw.index(b"\x01x\0"), 4))
    add(INTEGRITY, "bit flip: zero at the end of metadata s", flipped(raw, value_at(raw, "s") + 5))
    add(INTEGRITY, "bit flip: zero at the end of metadata place", flipped(raw, raw.index(b"\x07ref\0") - 1))
    add(INTEGRITY, "bit flip: first byte of data", flipped(raw, value_at(raw, "data") + 5))
    add(INTEGRITY, "bit flip: last byte of data", flipped(raw, raw.index(b"\x08flag") - 1))
    add(INTEGRITY, "bit flip: subtype of data", flipped(raw, value_at(raw, "data") + 4))
    add(INTEGRITY, "bit flip: name of data", flipped(raw, raw.index(b"\x05data") + 4), changes=2)
    add(INTEGRITY, "bit flip: first byte of iv", flipped(raw, value_at(raw, "iv") + 5))
    add(INTEGRITY, "bit flip: last byte of iv", flipped(raw, value_at(raw, "iv") + 20, 7))
    add(INTEGRITY, "bit flip: name of iv", flipped(raw, raw.index(b"\x05iv\0") + 2), changes=2)
    add(INTEGRITY, "bit flip: idx.kid", flipped(raw, raw.index(b"x1")))
    add(INTEGRITY, "bit flip: value in idx", flipped(raw, raw.index(BIDX)))
    add(INTEGRITY, "bit flip: second value of an array in idx", flipped(raw, raw.rindex(BIDX[16:])))
    add(UNKNOWN, "bit flip: kid, to another good kid", flipped(raw, value_at(raw, "kid") + 5))
    add(MALFORMED, "bit flip: kid, to a bad character", flipped(raw, value_at(raw, "kid") + 5, 4))
    add(MALFORMED, "bit flip: zero at the end of kid", flipped(raw, value_at(raw, "kid") + 6))
    add(MALFORMED, "bit flip: name of kid", flipped(raw, raw.index(b"\x02kid\0\x03\0\0\0k1") + 3), changes=2)
    add(VERSION, "bit flip: lowest bit of v", flipped(raw, value_at(raw, "v")))
    add(VERSION, "bit flip: highest bit of v", flipped(raw, value_at(raw, "v") + 3, 7))
    add(VERSION, "bit flip: name of v", flipped(raw, value_at(raw, "v") - 2), changes=2)
    tag = len(raw) - 33
    add(INTEGRITY, "bit flip: first bit of the tag", flipped(raw, tag, 7), changes=0)
    add(INTEGRITY, "bit flip: last bit of the tag", flipped(raw, len(raw) - 2), changes=0)
    for name, at in {"type": -11, "name": -10, "zero after the name": -6, "length": -5, "subtype": -1}.items():
        add(MALFORMED, f"bit flip: {name} of the hmac element", flipped(raw, tag + at), changes=-1)
    add(MALFORMED, "bit flip: closing zero", flipped(raw, len(raw) - 1), changes=-1)


def frames(rejects: Rejects, raw: bytes) -> None:  # noqa: PLR0915 - a list of cases
    """Length, ends, and elements that cannot be walked."""
    parts = split(raw)

    def add(name: str, document_: bytes, changes: int = -1) -> None:
        rejects.add(MALFORMED, name, document_, changes=changes)

    add("length: empty input", b"")
    add("length: three bytes", raw[:3])
    add("length: the length alone", raw[:4])
    add("length: the empty document", document())
    add("length: the hmac element cut to 40 bytes, nothing else", i32(44) + raw[-40:])
    add("length: one too small", i32(len(raw) - 1) + raw[4:])
    add("length: one too large", i32(len(raw) + 1) + raw[4:])
    add("length: zero", i32(0) + raw[4:])
    add("length: big-endian", raw[:4][::-1] + raw[4:])
    add("length: last byte cut off", raw[:-1])
    add("length: last byte cut off, length corrected", i32(len(raw) - 1) + raw[4:-1])
    add("length: a byte after the document", raw + b"\0")
    add("length: a byte after the document, length corrected", i32(len(raw) + 1) + raw[4:] + b"\0")
    add("length: a second document after the document", raw + raw)
    added_nulls = [el(0x0A, f"f{n:04}", b"") for n in range(4_097 - len(parts))]
    add("elements: one more than there may be", added(raw, *added_nulls))
    add("end: the closing zero is another byte", raw[:-1] + b"\1")
    add("end: tag of 31 bytes", swapped(raw, "hmac", el(5, "hmac", binary(raw[-33:-2]))))
    add("end: tag of 33 bytes", swapped(raw, "hmac", el(5, "hmac", binary(raw[-33:-1] + b"\0"))))
    add("end: tag of 16 bytes", swapped(raw, "hmac", el(5, "hmac", binary(raw[-33:-17]))))
    add("end: empty tag", swapped(raw, "hmac", el(5, "hmac", binary(b""))))
    add("end: tag of subtype 2", swapped(raw, "hmac", el(5, "hmac", binary(i32(32) + raw[-33:-1], 2))))
    add("end: tag of subtype 128", swapped(raw, "hmac", el(5, "hmac", binary(raw[-33:-1], 0x80))))
    add("end: tag a string", swapped(raw, "hmac", el(2, "hmac", string(raw[-33:-1].hex()))))
    add("end: hmac is null", swapped(raw, "hmac", el(0x0A, "hmac", b"")))
    add("end: hmac removed", swapped(raw, "hmac"))
    add("end: hmac renamed", swapped(raw, "hmac", el(5, "mac", binary(raw[-33:-1]))))
    add("end: hmac in capitals", swapped(raw, "hmac", el(5, "HMAC", binary(raw[-33:-1]))))
    rest = [element for name, element in parts.items() if name != "hmac"]
    longer = swapped(raw, "hmac", el(5, "hmac", binary(b"more" + parts["hmac"])))
    demand(longer[-44:] == raw[-44:], "the trailer inside a longer hmac")
    add("end: hmac is a longer binary that ends in the trailer", longer)
    tag = hmac.digest(reference.derive(KEY, "authenticate", CONTEXT), longer[4:-44], "sha256")
    add("end: hmac is a longer binary that ends in the trailer, and the tag fits [4:-44]", patched(longer, len(longer) - 33, tag))
    rejects.add(INTEGRITY, "end: a field after hmac", document(*rest, parts["hmac"], el(0x10, "zz", i32(1))))
    add("end: two hmac elements, side by side", document(*rest, parts["hmac"], parts["hmac"]), changes=0)
    add(
        "end: two hmac elements, the other one first",
        document(el(5, "hmac", binary(bytes(32))), *rest, parts["hmac"]),
        changes=0,
    )
    add(
        "end: two hmac elements, the other one an int32",
        document(*rest, el(0x10, "hmac", i32(0)), parts["hmac"]),
        changes=0,
    )
    add("end: the hmac element lies inside another binary", document(*rest, el(5, "zz", binary(parts["hmac"]))))
    add("end: the hmac element lies inside an element that is not the last", document(el(5, "zz", binary(parts["hmac"])), *rest))
    add("end: the closing zero is doubled inside", i32(len(raw) + 1) + raw[4:-44] + b"\0" + raw[-44:])

    def damaged(name: str, at: int, new: bytes) -> None:
        add(name, patched(raw, at, new))

    for kind in (0x00, 0x14, 0x15, 0x20, 0x80, 0xFE):
        damaged(f"walk: unknown element type {kind:02x}", raw.index(b"\x10n\0"), bytes([kind]))
    text = value_at(raw, "s")
    damaged("walk: string length zero", text, i32(0))
    damaged("walk: string length one too small", text, i32(1))
    damaged("walk: string length one too large", text, i32(3))
    damaged("walk: string length negative", text, i32(-1))
    damaged("walk: string length -5, back to its own start", text, i32(-5))
    damaged("walk: string length past the end", text, i32(len(raw)))
    damaged("walk: string length 2^31-1", text, i32(2**31 - 1))
    inner = value_at(raw, "place")
    size = int.from_bytes(raw[inner : inner + 4], "little")
    damaged("walk: nested document length one too small", inner, i32(size - 1))
    damaged("walk: nested document length one too large", inner, i32(size + 1))
    damaged("walk: nested document length four", inner, i32(4))
    damaged("walk: nested document length negative", inner, i32(-size))
    damaged("walk: nested document runs into the hmac element", inner, i32(len(raw) - 44 - inner + 1))
    damaged("walk: nested document runs past the end", inner, i32(len(raw)))
    listed = value_at(raw, "list")
    damaged("walk: array length one too large", listed, i32(int.from_bytes(raw[listed : listed + 4], "little") + 1))
    blob = value_at(raw, "blob")
    damaged("walk: binary length one too small", blob, i32(15))
    damaged("walk: binary length one too large", blob, i32(17))
    damaged("walk: binary length negative", blob, i32(-1))
    damaged("walk: binary runs past the end", blob, i32(len(raw)))
    data = value_at(raw, "data")
    damaged("walk: data runs past the end", data, i32(len(raw) - data))
    damaged("walk: data swallows all that follows, the hmac element too", data, i32(len(raw) - 1 - data - 5))
    idx = value_at(raw, "idx")
    damaged("walk: idx length one too large", idx, i32(int.from_bytes(raw[idx : idx + 4], "little") + 1))
    for name, tail in {
        "walk: an int64 without its last byte before hmac": el(0x12, "zz", bytes(7)),
        "walk: a decimal128 without its last byte before hmac": el(0x13, "zz", bytes(15)),
        "walk: a name without its zero before hmac": b"\x0azz",
        "walk: a type without a name before hmac": b"\x0a",
        "walk: a regular expression without options before hmac": b"\x0bzz\0abc\0",
        "walk: a regular expression without its zeros before hmac": b"\x0bzz\0abc",
        "walk: a string without its length before hmac": b"\x02zz\0\1\0\0",
        "walk: a code with scope of length 13 before hmac": el(0x0F, "zz", i32(13) + bytes(9)),
        "walk: a DBPointer without its last byte before hmac": el(0x0C, "zz", string("c") + bytes(11)),
    }.items():
        add(name, added(raw, tail))
    double = {name: element for name, element in parts.items() if name in ("_id", "n", "s", "v", "kid", "iv", "data", "idx")}
    for name, element in double.items():
        add(f"twice: {name}, equal", added(raw, element), changes=0)
        add(f"twice: {name}, equal, correctly authenticated", sealed_again(added(raw, element)), changes=0)
    add("twice: s, another value first", swapped(raw, "s", el(2, "s", string("6")), parts["s"]))
    add("twice: s, another value last", swapped(raw, "s", parts["s"], el(2, "s", string("6"))))
    add("twice: s, another type", swapped(raw, "s", parts["s"], el(0x0A, "s", b"")))
    add("twice: _id, another value last", added(raw, el(7, "_id", bytes(12))))


def versions_and_kids(rejects: Rejects, raw: bytes) -> None:
    """Steps 2 and 3."""
    add = rejects.add
    for name, element in {
        "0": el(0x10, "v", i32(0)),
        "2": el(0x10, "v", i32(2)),
        "-1": el(0x10, "v", i32(-1)),
        "16777216, which is 1 in the other byte order": el(0x10, "v", i32(0x01000000)),
        "int64 1": el(0x12, "v", i32(1) + bytes(4)),
        "double 1.0": el(0x01, "v", b"\0\0\0\0\0\0\xf0\x3f"),
        "decimal128 1": el(0x13, "v", Decimal128("1").bid),
        "string 1": el(0x02, "v", string("1")),
        "true": el(0x08, "v", b"\1"),
        "null": el(0x0A, "v", b""),
        "an array of int32 1": el(0x04, "v", document(el(0x10, "0", i32(1)))),
    }.items():
        add(VERSION, f"version: {name}", swapped(raw, "v", element))
        if name in ("2", "int64 1", "double 1.0"):
            add(VERSION, f"version: {name}, correctly authenticated", sealed_again(swapped(raw, "v", element)))
    add(VERSION, "version: removed", swapped(raw, "v"))
    add(VERSION, "version: removed, correctly authenticated", sealed_again(swapped(raw, "v")))
    add(VERSION, "version: named V", swapped(raw, "v", el(0x10, "V", i32(1))), changes=2)

    for name, kid in {
        "another": "k2",
        "capital": "K1",
        "one character more": "k11",
        "64 characters": "k" * 64,
        "a dot": ".",
    }.items():
        add(UNKNOWN, f"kid: not in the ring, {name}", with_value(raw, "kid", string(kid)))
    add(UNKNOWN, "kid: not in the ring, correctly authenticated", sealed_again(with_value(raw, "kid", string("k2"))))
    add(UNKNOWN, "kid: the ring is empty", raw, keys={}, changes=0)
    add(UNKNOWN, "kid: the ring has the key under another kid", raw, keys={"k2": KEY}, changes=0)
    two = rejects.good["several keys in the ring"].document
    add(
        INTEGRITY,
        "kid: of another key of the ring",
        with_value(two, "kid", string("k2")),
        base="several keys in the ring",
    )
    for name, bad in {
        "empty": b"",
        "65 characters": b"k" * 65,
        "a space": b"k 1",
        "a space at its end": b"k1 ",
        "a newline at its end": b"k1\n",
        "a slash": b"k/1",
        "a NUL inside": b"k\x001",
        "a NUL at its end": b"k1\0",
        "a letter outside ASCII": "ké".encode(),
        "a digit outside ASCII": "k\u0661".encode(),
        "not UTF-8": b"k\xff",
    }.items():
        add(MALFORMED, f"kid: {name}", with_value(raw, "kid", string(bad)))
    add(MALFORMED, "kid: 65 characters, correctly authenticated", sealed_again(with_value(raw, "kid", string("k" * 65))))
    for name, element in {
        "int32": el(0x10, "kid", i32(1)),
        "null": el(0x0A, "kid", b""),
        "symbol": el(0x0E, "kid", string("k1")),
        "code": el(0x0D, "kid", string("k1")),
        "binary": el(0x05, "kid", binary(b"k1")),
        "an array of the string": el(0x04, "kid", document(el(2, "0", string("k1")))),
    }.items():
        add(MALFORMED, f"kid: {name} instead of a string", swapped(raw, "kid", element))
    add(MALFORMED, "kid: removed", swapped(raw, "kid"))
    add(MALFORMED, "kid: removed, correctly authenticated", sealed_again(swapped(raw, "kid")))
    add(MALFORMED, "kid: named Kid", swapped(raw, "kid", el(2, "Kid", string("k1"))), changes=2)


def edits(rejects: Rejects, raw: bytes) -> None:
    """Step 4: a whole and walkable document that nobody with the key has written."""
    parts = split(raw)
    other = split(rejects.good[OTHER_ID.name].document)

    def add(name: str, document_: bytes, changes: int = 1, base: str = "base", **more: Any) -> None:
        rejects.add(INTEGRITY, name, document_, base, changes, **more)

    for name in ("_id", "n", "none", "place", "zero", "idx", "iv", "data"):
        add(f"edit: {name} removed", swapped(raw, name))
    for new in (
        el(0x10, "a", i32(1)),
        el(0x10, "zz", i32(1)),
        el(0x0A, "nothing", b""),
        el(2, "email", string("a@b.c")),
    ):
        add(f"edit: {new[1 : new.index(0)].decode()} added", added(raw, new))
    add("edit: a field with an empty name added", added(raw, el(0x0A, "", b"")))
    add("edit: idx added", added(rejects.good[NO_IDX.name].document, parts["idx"]), base=NO_IDX.name)
    add("edit: s renamed to t", swapped(raw, "s", el(2, "t", string("5"))), changes=2)
    add("edit: s renamed to S", swapped(raw, "s", el(2, "S", string("5"))), changes=2)
    add(
        "edit: the values of x and zero exchanged",
        with_value(with_value(raw, "x", parts["zero"][-8:]), "zero", parts["x"][-8:]),
        changes=2,
    )
    add("edit: another string", with_value(raw, "s", string("6")))
    add("edit: another string, longer", with_value(raw, "s", string("55")))
    add("edit: another string, NUL and more after it", with_value(raw, "s", string(b"5\0")))
    add("edit: another _id", swapped(raw, "_id", other["_id"]))
    add("edit: _id a string of the same digits", swapped(raw, "_id", el(2, "_id", string(str(OID)))))
    for name in ("data", "iv", "hmac"):
        add(f"edit: {name} of another document", swapped(raw, name, other[name]), changes=int(name != "hmac"))
    add(
        "edit: data and iv of another document",
        swapped(swapped(raw, "data", other["data"]), "iv", other["iv"]),
        changes=2,
    )
    add(
        "edit: everything but _id of another document",
        document(parts["_id"], *list(other.values())[1:]),
        changes=1,
        base=OTHER_ID.name,
    )
    add("edit: tag of all zeros", patched(raw, len(raw) - 33, bytes(32)), changes=0)
    add("edit: last byte of data cut off", with_value(raw, "data", binary(parts["data"][11:-1])))
    add("edit: a byte after data", with_value(raw, "data", binary(parts["data"][11:] + b"\0")))
    add("edit: data empty", with_value(raw, "data", binary(b"")))
    add("edit: last byte of iv cut off", with_value(raw, "iv", binary(IV[:-1])))
    add(
        "edit: iv one larger, data without its first block",
        with_value(with_value(raw, "iv", binary(increments(IV, 2)[1])), "data", binary(parts["data"][11 + 16 :])),
        changes=2,
    )
    idx = {name.decode(): element for name, element in reference.walk(reference.value_of(parts["idx"])[4:-1])}
    for name, inner in {
        "value removed": [idx["kid"], idx["tags"]],
        "index renamed": [idx["kid"], el(5, "Email", binary(BIDX)), idx["tags"]],
        "kid of another key": [el(2, "kid", string("x2")), idx["email"], idx["tags"]],
        "elements in another order": [idx["kid"], idx["tags"], idx["email"]],
        "email twice": [*idx.values(), idx["email"]],
        "kid twice": [idx["kid"], *idx.values()],
        "one value as an array of one": [idx["kid"], el(4, "email", document(el(5, "0", binary(BIDX)))), idx["tags"]],
        "kid an int32": [el(0x10, "kid", i32(1)), idx["email"], idx["tags"]],
        "kid as an array of one": [el(4, "kid", document(el(2, "0", string("x1")))), idx["email"], idx["tags"]],
    }.items():
        add(f"edit: idx, {name}", swapped(raw, "idx", el(3, "idx", document(*inner))))

    keystream = bytes(a ^ b for a, b in zip(parts["data"][11:], BASE.payload.encode(), strict=True))

    def rewritten(text: str) -> bytes:
        return binary(bytes(a ^ b for a, b in zip(text.encode(), keystream, strict=False)))

    moved = '{"email":"ada@example.com","name":"Ada","s":"5"}'
    add(
        "moved: s from the metadata into the payload",
        swapped(with_value(raw, "data", rewritten(moved)), "s"),
        changes=2,
    )
    moved = '{"name":"Ada Lovelace"}'
    add(
        "moved: email from the payload into the metadata",
        added(with_value(raw, "data", rewritten(moved)), el(2, "email", string("ada@example.com"))),
        changes=2,
    )
    add(
        "moved: the known plaintext of data rewritten",
        with_value(raw, "data", rewritten(BASE.payload.replace("ada", "eve"))),
    )

    base = reference.value_of
    for name, field, element in [
        ("int32 5 to int64", "n", el(0x12, "n", i32(5) + bytes(4))),
        ("int32 5 to double", "n", el(0x01, "n", base(parts["x"]))),
        ("int32 5 to decimal128", "n", el(0x13, "n", Decimal128("5").bid)),
        ("int32 5 to string", "n", el(0x02, "n", string("5"))),
        ("double 5.0 to int32", "x", el(0x10, "x", i32(5))),
        ("double 5.0 to decimal128", "x", el(0x13, "x", Decimal128("5.0").bid)),
        ("double 0.0 to -0.0", "zero", el(0x01, "zero", bytes(7) + b"\x80")),
        ("string to symbol", "s", el(0x0E, "s", string("5"))),
        ("string to code", "s", el(0x0D, "s", string("5"))),
        ("string to int32", "s", el(0x10, "s", i32(5))),
        ("string to binary", "s", el(0x05, "s", binary(b"5"))),
        ("date to string", "at", el(0x02, "at", string("2024-02-29T12:34:56.789Z"))),
        ("date to int64", "at", el(0x12, "at", base(parts["at"]))),
        ("date to timestamp", "at", el(0x11, "at", base(parts["at"]))),
        ("binary subtype 0 to subtype 4", "blob", el(0x05, "blob", binary(bytes(range(16)), 4))),
        ("binary subtype 0 to subtype 128", "blob", el(0x05, "blob", binary(bytes(range(16)), 0x80))),
        ("binary subtype 0 to subtype 2", "blob", el(0x05, "blob", binary(i32(16) + bytes(range(16)), 2))),
        ("null to undefined", "none", el(0x06, "none", b"")),
        ("null to false", "none", el(0x08, "none", b"\0")),
        ("null to an empty string", "none", el(0x02, "none", string(""))),
        ("true to int32 1", "flag", el(0x10, "flag", i32(1))),
        ("true to a boolean of 2", "flag", el(0x08, "flag", b"\2")),
        ("ObjectId to string", "ref", el(0x02, "ref", string("65a1b2c3d4e5f60718293a4c"))),
        ("array to document", "list", el(0x03, "list", base(parts["list"]))),
        ("array with other keys", "list", el(0x04, "list", base(parts["list"]).replace(b"\x021\0", b"\x022\0"))),
        (
            "document with its fields exchanged",
            "place",
            el(0x03, "place", document(el(0x10, "zip", i32(3000)), el(2, "city", string("Bern")))),
        ),
        (
            "document with a field twice",
            "place",
            el(0x03, "place", document(*[el(0x10, "zip", i32(3000))] * 2, el(2, "city", string("Bern")))),
        ),
        (
            "nested int32 to int64",
            "place",
            el(0x03, "place", document(el(2, "city", string("Bern")), el(0x12, "zip", i32(3000) + bytes(4)))),
        ),
        ("nested unknown type", "place", el(0x03, "place", base(parts["place"]).replace(b"\x10zip", b"\x14zip"))),
        (
            "nested string with a wrong length",
            "place",
            el(0x03, "place", base(parts["place"]).replace(string("Bern"), i32(6) + b"Bern\0")),
        ),
        ("iv to subtype 1", "iv", el(0x05, "iv", binary(IV, 1))),
        ("data to a string of its hex digits", "data", el(0x02, "data", string(parts["data"][11:].hex()))),
    ]:
        add(f"type: {name}", swapped(raw, field, element))


def contexts_and_keys(rejects: Rejects, raw: bytes) -> None:
    """Step 4: the right document under another key or in another context, or made with keys derived otherwise."""

    def add(name: str, document_: bytes, changes: int = 0, base: str = "base", **more: Any) -> None:
        rejects.add(INTEGRITY, name, document_, base, changes, **more)

    for name, context in {
        "another": "orders",
        "capital": "Customers",
        "prefix": "customer",
        "longer": "customers2",
        "space": "customers ",
        "with the database": "crm.customers",
    }.items():
        add(f"context: {name}", raw, context=context)
    add(
        "context: decomposed form of the same letters",
        rejects.good[ACCENTED.name].document,
        base=ACCENTED.name,
        context=unicodedata.normalize("NFD", ACCENTED.context),
    )
    add("key: another under the same kid", raw, keys={KID: OTHER_KEY})
    add("key: one bit flipped", raw, keys={KID: flipped(KEY, 31)})
    add("key: bytes reversed", raw, keys={KID: KEY[::-1]})

    body = raw[4:-44]
    label, purpose, scope = reference.LABEL, b"authenticate", CONTEXT.encode()
    right = reference.purpose_key(KEY, "authenticate")

    def tagged(key: bytes, message: bytes = body, hash_name: str = "sha256") -> bytes:
        return patched(raw, len(raw) - 33, hmac.digest(key, message, hash_name)[:32])

    demand(tagged(reference.hkdf(right, reference.pack(label, purpose, scope))) == raw, "derivation by hand")
    for name, key in {
        "both infos concatenated without lengths": reference.hkdf(reference.hkdf(KEY, label + purpose), label + purpose + scope),
        "the second info concatenated without lengths": reference.hkdf(right, label + purpose + scope),
        "purpose authenticatec, context ustomers": reference.hkdf(
            reference.hkdf(KEY, reference.pack(label, purpose + b"c")), reference.pack(label, purpose + b"c", scope[1:])
        ),
        "purpose authenticat, context ecustomers": reference.hkdf(
            reference.hkdf(KEY, reference.pack(label, purpose[:-1])), reference.pack(label, purpose[:-1], b"e" + scope)
        ),
        "the border of purpose and context moved in the second info": reference.hkdf(
            right, reference.pack(label, purpose + b"c", scope[1:])
        ),
        "lengths little-endian": reference.hkdf(
            reference.hkdf(KEY, b"".join(i32(len(p)) + p for p in (label, purpose))),
            b"".join(i32(len(p)) + p for p in (label, purpose, scope)),
        ),
        "lengths of two bytes": reference.hkdf(
            reference.hkdf(KEY, b"".join(len(p).to_bytes(2, "big") + p for p in (label, purpose))),
            b"".join(len(p).to_bytes(2, "big") + p for p in (label, purpose, scope)),
        ),
        "one step only, from the data key": reference.hkdf(KEY, reference.pack(label, purpose, scope)),
        "no second step, the context is missing": right,
        "the second step without the purpose": reference.hkdf(right, reference.pack(label, scope)),
        "the second step without the label": reference.hkdf(right, reference.pack(purpose, scope)),
        "label v2": reference.hkdf(
            reference.hkdf(KEY, reference.pack(label[:-1] + b"2", purpose)),
            reference.pack(label[:-1] + b"2", purpose, scope),
        ),
        "the label as salt": reference.hkdf(
            reference.hkdf(KEY, reference.pack(purpose), salt=label), reference.pack(purpose, scope), salt=label
        ),
        "expand without extract": hmac.digest(
            hmac.digest(KEY, reference.pack(label, purpose) + b"\1", "sha256"),
            reference.pack(label, purpose, scope) + b"\1",
            "sha256",
        ),
        "the key of purpose encrypt": reference.derive(KEY, "encrypt", CONTEXT),
        "the key of purpose value-authenticate": reference.derive(KEY, "value-authenticate", CONTEXT),
        "the data key itself": KEY,
    }.items():
        add(f"derivation: {name}", tagged(key))
    right = reference.derive(KEY, "authenticate", CONTEXT)
    parts = split(raw)
    unordered = document(*list(parts.values())[-2::-1], parts["hmac"])
    for name, message in {
        "covers the length too": raw[:-44],
        "covers the header of hmac too": raw[4:-33],
        "does not cover _id": body[len(parts["_id"]) :],
        "does not cover v": b"".join(e for n, e in parts.items() if n not in ("v", "hmac")),
        "covers data alone": parts["data"][11:],
        "covers iv and data alone": IV + parts["data"][11:],
        "covers _id in the order of its name": b"".join(parts[n] for n in sorted(parts) if n != "hmac") + b"\0",
    }.items():
        add(f"tag: {name}", tagged(right, message))
    add("tag: SHA-512 cut to 32 bytes", tagged(right, body, "sha512"))
    add(
        "tag: hmac is not last, and right for what stands before it only",
        document(
            *list(parts.values())[:-2],
            el(5, "hmac", binary(hmac.digest(right, b"".join(list(parts.values())[:-2]), "sha256"))),
            list(parts.values())[-2],
        ),
    )
    add(
        "tag: out of order, and right for that order only",
        patched(unordered, len(raw) - 33, hmac.digest(right, unordered[4:-44], "sha256")),
    )


def insides(rejects: Rejects, raw: bytes) -> None:
    """Step 5: correctly authenticated, and still wrong."""
    parts = split(raw)
    data = parts["data"][11:]

    def malformed(name: str, document_: bytes, changes: int = 1) -> None:
        rejects.add(MALFORMED, f"inside: {name}", sealed_again(document_), changes=changes)

    for name, element in {
        "iv of 15 bytes": el(5, "iv", binary(IV[:15])),
        "iv of 17 bytes": el(5, "iv", binary(IV + b"\0")),
        "iv of 12 bytes": el(5, "iv", binary(IV[:12])),
        "iv empty": el(5, "iv", binary(b"")),
        "iv of subtype 1": el(5, "iv", binary(IV, 1)),
        "iv of subtype 2": el(5, "iv", binary(i32(16) + IV, 2)),
        "iv of subtype 2 whose whole value is 16 bytes": el(5, "iv", binary(i32(12) + IV[:12], 2)),
        "iv a string": el(2, "iv", string(IV.hex()[:16])),
        "iv null": el(0x0A, "iv", b""),
        "data of subtype 1": el(5, "data", binary(data, 1)),
        "data of subtype 2": el(5, "data", binary(i32(len(data)) + data, 2)),
        "data of subtype 128": el(5, "data", binary(data, 0x80)),
        "data a string": el(2, "data", string(data.hex())),
        "data null": el(0x0A, "data", b""),
        "data an array of the binary": el(4, "data", document(el(5, "0", binary(data)))),
        "idx null": el(0x0A, "idx", b""),
        "idx a string": el(2, "idx", string("x1")),
        "idx a binary": el(5, "idx", binary(BIDX)),
        "idx an array": el(4, "idx", reference.value_of(parts["idx"])),
    }.items():
        malformed(name, swapped(raw, element[1 : element.index(0, 1)].decode(), element))
    for name in ("_id", "iv", "data"):
        malformed(f"{name} missing", swapped(raw, name))
    good, value = el(2, "kid", string("x1")), el(5, "email", binary(BIDX))
    for name, inner in {
        "an empty document": [],
        "without kid": [value],
        "kid an int32": [el(0x10, "kid", i32(1)), value],
        "kid a symbol": [el(0x0E, "kid", string("x1")), value],
        "kid empty": [el(2, "kid", string("")), value],
        "kid of 65 characters": [el(2, "kid", string("x" * 65)), value],
        "kid with a slash": [el(2, "kid", string("x/1")), value],
        "kid twice": [good, good, value],
        "kid twice, once an array": [good, el(4, "kid", document(el(2, "0", string("x2")))), value],
        "email twice": [good, value, value],
        "email twice, once an array": [good, value, el(4, "email", document())],
        "value a string": [good, el(2, "email", string("abc"))],
        "value null": [good, el(0x0A, "email", b"")],
        "value of subtype 4": [good, el(5, "email", binary(BIDX[:16], 4))],
        "value of subtype 2": [good, el(5, "email", binary(i32(32) + BIDX, 2))],
        "value a document of binaries": [good, el(3, "email", document(el(5, "0", binary(BIDX))))],
        "an array with a string": [good, el(4, "email", document(el(5, "0", binary(BIDX)), el(2, "1", string("abc"))))],
        "an array with null": [good, el(4, "email", document(el(0x0A, "0", b"")))],
        "an array with a binary of subtype 1": [good, el(4, "email", document(el(5, "0", binary(BIDX, 1))))],
        "an array in an array": [good, el(4, "email", document(el(4, "0", document(el(5, "0", binary(BIDX))))))],
        "an unknown element type": [good, el(0x14, "email", binary(BIDX))],
        "an element past its end": [good, el(5, "email", i32(33) + b"\0" + BIDX)],
    }.items():
        malformed(f"idx {name}", swapped(raw, "idx", el(3, "idx", document(*inner))))
    x1, x2 = el(2, "0", string("x1")), el(2, "1", string("x2"))
    for name, kids in {
        "an empty array": [],
        "an array with a kid twice": [x1, el(2, "1", string("x1"))],
        "an array with a kid twice, and another between": [x1, x2, el(2, "2", string("x1"))],
        "an array with an ill-formed kid": [x1, el(2, "1", string("x/2"))],
        "an array with an empty kid": [x1, el(2, "1", string(""))],
        "an array with a kid of 65 characters": [el(2, "0", string("x" * 65))],
        "an array with a kid that ends in a line feed": [el(2, "0", string("x1\n")), x2],
        "an array with an int32": [x1, el(0x10, "1", i32(2))],
        "an array with null": [el(0x0A, "0", b""), x2],
        "an array with a symbol": [x1, el(0x0E, "1", string("x2"))],
        "an array with a binary": [el(5, "0", binary(b"x1"))],
        "an array in an array": [el(4, "0", document(x1))],
        "an array with an element past its end": [x1, el(2, "1", i32(99) + b"x2\0")],
    }.items():
        malformed(f"idx kid {name}", swapped(raw, "idx", el(3, "idx", document(el(4, "kid", document(*kids)), value))))
    malformed("idx kid a document of kids", swapped(raw, "idx", el(3, "idx", document(el(3, "kid", document(x1, x2)), value))))
    place = reference.value_of(parts["place"])
    for name, field, element in [
        ("string is not UTF-8", "s", el(2, "s", string(b"\xff"))),
        ("string without its zero", "s", el(2, "s", i32(2) + b"55")),
        ("boolean of 2", "flag", el(8, "flag", b"\2")),
        ("nested unknown type", "place", el(3, "place", place.replace(b"\x10zip", b"\x14zip"))),
        (
            "nested string with a wrong length",
            "place",
            el(3, "place", place.replace(string("Bern"), i32(99) + b"Bern\0")),
        ),
        ("nested document without its closing zero", "place", el(3, "place", place[:-1] + b"\1")),
    ]:
        malformed(f"metadata {name}", swapped(raw, field, element))
    malformed("metadata name is not UTF-8", added(raw, el(0x0A, b"\xff", b"")))

    def payload(name: str, text: bytes, encrypted: bytes | None = None) -> None:
        key = reference.derive(KEY, "encrypt", CONTEXT)
        data_ = reference.crypt(key, IV, text) if encrypted is None else encrypted
        rejects.add(PAYLOAD, f"payload: {name}", sealed_again(with_value(raw, "data", binary(data_))))

    text = BASE.payload.encode()
    for name, bad in {
        "empty": b"",
        "spaces only": b"   ",
        "not JSON": b"hello",
        "an array": b"[" + text + b"]",
        "a string": b'"ada"',
        "a number": b"1",
        "null": b"null",
        "NaN alone": b"NaN",
        "cut off": text[:-1],
        "two objects": text + text,
        "an object and a comma": text + b",",
        "padded with NUL": text + b"\0\0\0",
        "padded with U+00A0": text + "\u00a0".encode(),
        "a comma before the end": text[:-1] + b",}",
        "single quotes": text.replace(b'"', b"'"),
        "name without quotes": b"{email:1}",
        "a comment": text[:-1] + b"/* */}",
        "nan in small letters": b'{"a":nan}',
        "-NaN": b'{"a":-NaN}',
        "+Infinity": b'{"a":+Infinity}',
        "inf": b'{"a":inf}',
        "leading zero": b'{"a":01}',
        "a control character in a string": b'{"a":"\n"}',
        "an unknown escape": b'{"a":"\\x41"}',
        "byte order mark": b"\xef\xbb\xbf" + text,
        "UTF-16": BASE.payload.encode("utf-16-le"),
        "UTF-16 with a byte order mark": BASE.payload.encode("utf-16"),
        "UTF-32": BASE.payload.encode("utf-32-be"),
        "Latin-1": '{"a":"é"}'.encode("latin-1"),
        "invalid UTF-8": b'{"a":"\xff"}',
        "UTF-8 cut off": b'{"a":"\xc3"}',
        "overlong UTF-8": b'{"a":"\xc0\xaf"}',
        "UTF-8 of a surrogate": b'{"a":"\xed\xa0\x80"}',
        "UTF-8 beyond U+10FFFF": b'{"a":"\xf4\x90\x80\x80"}',
        "escape of a lone high surrogate": b'{"a":"\\ud800"}',
        "escape of a lone low surrogate": b'{"a":"\\udc00x"}',
        "escapes of two surrogates in the wrong order": b'{"a":"\\ude00\\ud83d"}',
        "escape of a lone surrogate in a name": b'{"\\ud800":1}',
    }.items():
        payload(name, bad)
    for name, (twice, last_wins) in {
        "name, equal values": ('{"a":1,"b":2,"a":1}', '{"a":1,"b":2}'),
        "name, other values": ('{"a":1,"b":2,"a":3}', '{"a":3,"b":2}'),
        "name, values of other types": ('{"a":{"b":1},"a":[2]}', '{"a":[2]}'),
        "name, once with an escape": ('{"a":1,"\\u0061":2}', '{"a":2}'),
        "name in a nested object": ('{"a":{"b":1,"b":2}}', '{"a":{"b":2}}'),
        "name in an object in an array": ('{"a":[{"b":1,"b":2}]}', '{"a":[{"b":2}]}'),
    }.items():
        payload(f"duplicate {name}", twice.encode())
        demand(json.loads(twice) == json.loads(last_wins), f"duplicate {name}: the last one wins")
        rejects.last_wins[f"payload: duplicate {name}"] = last_wins
    counters = increments(IV, 4)
    key = reference.derive(KEY, "encrypt", CONTEXT)
    demand(ctr_by_hand(key, counters, text) == data, "CTR by hand")
    little = [((int.from_bytes(IV, "little") + i) % 2**128).to_bytes(16, "little") for i in range(4)]
    payload("counter little-endian", b"", ctr_by_hand(key, little, text))
    payload("counter starts one later", b"", ctr_by_hand(key, increments(IV, 5)[1:], text))
    payload("counter does not advance", b"", ctr_by_hand(key, [IV] * 4, text))
    payload(
        "encrypted under the key of purpose authenticate",
        b"",
        reference.crypt(reference.derive(KEY, "authenticate", CONTEXT), IV, text),
    )
    payload(
        "encrypted under the key of purpose value-encrypt",
        b"",
        reference.crypt(reference.derive(KEY, "value-encrypt", CONTEXT), IV, text),
    )
    payload(
        "encrypted under the key of another context",
        b"",
        reference.crypt(reference.derive(KEY, "encrypt", "orders"), IV, text),
    )
    payload("encrypted under the data key itself", b"", reference.crypt(KEY, IV, text))
    payload("not encrypted", b"", text)
    for bits in (32, 64):
        name = f"the low {bits} bits of the counter carry into the others"
        case = next(case for case in SEAL if case.name == name)
        rejects.good[name] = Good(case.run(), extended(case.metadata), case.payload, {KID: KEY})
        low = bits // 8
        wrapped = [case.iv[:-low] + block[-low:] for block in increments(case.iv, -(-len(LONG_TEXT) // 16))]
        bad_data = binary(ctr_by_hand(key, wrapped, LONG_TEXT.encode()))
        rejects.add(
            PAYLOAD,
            f"payload: counter of {bits} bits",
            sealed_again(with_value(case.run(), "data", bad_data)),
            base=name,
        )


def precedence(rejects: Rejects, raw: bytes) -> None:
    """Two faults in one document: the earlier step names the error."""
    wrong_v, no_v = el(0x10, "v", i32(2)), swapped(raw, "v")
    for error, name, document_ in [
        (MALFORMED, "length one too small (1), v (2)", i32(len(raw) - 1) + swapped(raw, "v", wrong_v)[4:]),
        (
            MALFORMED,
            "length one too large (1), kid unknown (3)",
            i32(len(raw) + 1) + with_value(raw, "kid", string("k2"))[4:],
        ),
        (MALFORMED, "length one too small (1), tag (4)", i32(len(raw) - 1) + flipped(raw, len(raw) - 2)[4:]),
        (MALFORMED, "closing zero (1), v (2)", swapped(raw, "v", wrong_v)[:-1] + b"\1"),
        (MALFORMED, "s twice (1), v (2)", added(swapped(raw, "v", wrong_v), split(raw)["s"])),
        (MALFORMED, "unknown element type (1), v (2)", added(swapped(raw, "v", wrong_v), el(0x14, "zz", b""))),
        (MALFORMED, "s twice (1), kid unknown (3)", added(with_value(raw, "kid", string("k2")), split(raw)["s"])),
        (MALFORMED, "hmac a string (1), v (2)", swapped(swapped(raw, "v", wrong_v), "hmac", el(2, "hmac", string("x" * 32)))),
        (MALFORMED, "hmac removed (1), v removed (2)", swapped(no_v, "hmac")),
        (MALFORMED, "hmac removed (1), kid unknown (3)", swapped(with_value(raw, "kid", string("k2")), "hmac")),
        (MALFORMED, "s twice (1), tag (4)", flipped(added(raw, split(raw)["s"]), len(raw) + 9 - 2)),
        (VERSION, "v (2), kid ill-formed (3)", with_value(swapped(raw, "v", wrong_v), "kid", string("k 2"))),
        (VERSION, "v (2), kid unknown (3)", with_value(swapped(raw, "v", wrong_v), "kid", string("k2"))),
        (VERSION, "v removed (2), kid removed (3)", swapped(no_v, "kid")),
        (VERSION, "v (2), tag (4)", flipped(swapped(raw, "v", wrong_v), len(raw) - 2)),
        (
            VERSION,
            "v (2), iv of 15 bytes (5)",
            sealed_again(with_value(swapped(raw, "v", wrong_v), "iv", binary(IV[:15]))),
        ),
        (MALFORMED, "kid ill-formed (3), tag (4)", flipped(with_value(raw, "kid", string("k 1")), len(raw) + 1 - 2)),
        (UNKNOWN, "kid unknown (3), tag (4)", flipped(with_value(raw, "kid", string("k2")), len(raw) - 2)),
        (UNKNOWN, "kid unknown (3), data missing (5)", swapped(with_value(raw, "kid", string("k2")), "data")),
        (
            INTEGRITY,
            "tag (4), iv of 15 bytes (5)",
            flipped(sealed_again(with_value(raw, "iv", binary(IV[:15]))), len(raw) - 1 - 2),
        ),
        (INTEGRITY, "tag (4), idx a string (5)", swapped(raw, "idx", el(2, "idx", string("x1")))),
        (INTEGRITY, "tag (4), metadata not UTF-8 (5)", with_value(raw, "s", string(b"\xff"))),
        (
            MALFORMED,
            "idx a string (5.1), payload not JSON (5.3)",
            sealed_again(with_value(swapped(raw, "idx", el(2, "idx", string("x1"))), "data", binary(b"hello"))),
        ),
    ]:
        rejects.add(error, f"two faults: {name}", document_, changes=-1)
    parts = split(raw)
    order = [*list(parts)[-2::-1], "hmac"]
    for error, name, replacement in [
        (VERSION, "out of order (1), v (2)", {"v": wrong_v}),
        (MALFORMED, "out of order (1), kid ill-formed (3)", {"kid": el(2, "kid", string("k 1"))}),
        (UNKNOWN, "out of order (1), kid unknown (3)", {"kid": el(2, "kid", string("k2"))}),
        (INTEGRITY, "out of order (1), s changed (4)", {"s": el(2, "s", string("6"))}),
    ]:
        rejects.add(error, f"two faults: {name}", document(*((parts | replacement)[n] for n in order)), changes=1)
        first = document(*((parts | replacement)[n] for n in ("hmac", *order[:-1])))
        rejects.add(error, f"two faults: {name}; hmac stands first", first, changes=1)


def differences(case: Reject, good: Good) -> int:
    """Count the elements that the two documents do not share, by name; ``hmac`` is not counted."""
    before = {(name, element) for name, element in reference.walk(good.document[4:-1]) if name != b"hmac"}
    after = {(name, element) for name, element in reference.walk(case.document[4:-1]) if name != b"hmac"}
    return len({name for name, _ in before ^ after})


def reject_vectors() -> list[dict[str, Any]]:
    """Cases that must fail, each with the one error that is right."""
    rejects = Rejects()
    raw = rejects.good["base"].document
    for part in (flips, frames, versions_and_kids, edits, contexts_and_keys, insides, precedence):
        part(rejects, raw)
    cases = []
    for name, case in rejects.cases.items():
        good = rejects.good[case.base]
        demand(outcome(good.document, good.keys, good.context) == "", f"reject: {name}: its base opens")
        found = outcome(case.document, case.keys, case.context)
        demand(found == case.error, f"reject: {name}: {found or 'it opens'}, not {case.error}")
        changed = (case.document != good.document, case.keys != good.keys, case.context != good.context)
        demand(sum(changed) == 1, f"reject: {name}: one of document, keys and context differs from the base")
        if case.changes >= 0:
            count = differences(case, good)
            demand(count == case.changes, f"reject: {name}: {count} elements differ, not {case.changes}")
        keys = {kid: key.hex() for kid, key in case.keys.items()}
        cases.append(
            {
                "name": name,
                "base": case.base,
                "document": case.document.hex(),
                "keys": keys,
                "context": case.context,
                "error": case.error,
            }
            | ({"last_wins": rejects.last_wins[name]} if name in rejects.last_wins else {})
        )
    for at in range(len(raw)):
        for bit in range(8):
            demand(
                outcome(flipped(raw, at, bit), {KID: KEY}, CONTEXT) != "",
                f"bit {bit} of byte {at} may be flipped unseen",
            )
    return cases


def outcome(raw: bytes, keys: dict[str, bytes], context: str) -> str:
    """Open, and name the error; nothing if there is none."""
    try:
        reference.open(raw, keys=keys, context=context)
    except (
        reference.MalformedEnvelopeError,
        reference.UnsupportedVersionError,
        reference.UnknownKeyError,
        reference.IntegrityError,
        reference.PayloadError,
    ) as error:
        return type(error).__name__
    return ""


# --- derive ---------------------------------------------------------------------------------------------------------


def derive_vectors() -> dict[str, Any]:
    """Keys, from ``pack`` upwards."""
    parts = [[], [b""], [b"", b""], [b"a"], [b"ab", b"c"], [b"a", b"bc"], [b"abc"], [b"x" * 256], ["é".encode(), b"\0"]]
    contexts = [CONTEXT, "c", "clés", "é" * 127 + "x", "acme.customers", "mongo_envelope/keys/main"]
    keys = [KEY, OTHER_KEY, bytes(32)]
    rfc = [
        (
            bytes([0x0B] * 22),
            bytes(range(13)),
            bytes(range(0xF0, 0xFA)),
            42,
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            bytes([0x0B] * 22),
            b"",
            b"",
            42,
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ]
    for ikm, salt, info, length, okm in rfc:
        demand(reference.hkdf(ikm, info, salt=salt, length=length).hex() == okm, "RFC 5869, appendix A")
    working = []
    for key, context, purpose in [
        *((KEY, context, "authenticate") for context in contexts[1:]),
        *((key, CONTEXT, purpose) for key in keys for purpose in reference.PURPOSES_WITH_CONTEXT),
    ]:
        encoded = purpose.encode()
        working.append(
            {
                "key": key.hex(),
                "purpose": purpose,
                "context": context,
                "purpose_info": reference.pack(reference.LABEL, encoded).hex(),
                "purpose_key": reference.purpose_key(key, purpose).hex(),
                "info": reference.pack(reference.LABEL, encoded, context.encode()).hex(),
                "working_key": reference.derive(key, purpose, context).hex(),
            }
        )
    return {
        "pack": [{"parts": [part.hex() for part in case], "packed": reference.pack(*case).hex()} for case in parts],
        "hkdf": [
            {"key": ikm.hex(), "salt": salt.hex(), "info": info.hex(), "length": length, "output": okm}
            for ikm, salt, info, length, okm in rfc
        ],
        "working_key": working,
        "check_value": [
            {
                "key": key.hex(),
                "info": reference.pack(reference.LABEL, b"check").hex(),
                "check_value": reference.check_value(key).hex(),
            }
            for key in keys
        ],
        "fingerprint": [
            {
                "root": key.hex(),
                "info": reference.pack(reference.LABEL, b"fingerprint").hex(),
                "fingerprint": reference.fingerprint(key).hex(),
            }
            for key in keys
        ],
        "wrap": [
            {
                "kek": key.hex(),
                "info": reference.pack(reference.LABEL, b"wrap").hex(),
                "wrap": reference.purpose_key(key, "wrap").hex(),
            }
            for key in keys
        ],
    }


# --- index ----------------------------------------------------------------------------------------------------------

UNASSIGNED = HERE / "vectors" / "unassigned14.txt"
INDEX_KEYS = {"x1": bytes(range(0x80, 0xA0)), "x2": bytes(range(0xA0, 0xC0)), "x10": bytes(range(0xC0, 0xE0))}
ONE_NAN = bytes.fromhex("037ff8000000000000")
NOT_OURS = object()
ADDRESSES = (
    ipaddress.IPv4Address,
    ipaddress.IPv4Interface,
    ipaddress.IPv4Network,
    ipaddress.IPv6Address,
    ipaddress.IPv6Interface,
    ipaddress.IPv6Network,
)


def unassigned() -> str:
    """The table of the code points that Unicode 14.0 does not assign; noncharacters have an Age, and so are assigned."""

    def free(code: int) -> bool:
        noncharacter = code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
        return unicodedata.category(chr(code)) == "Cn" and not noncharacter

    runs = (list(run) for is_free, run in itertools.groupby(range(0x110000), key=free) if is_free)
    return "# Code points that Unicode 14.0 does not assign\n" + "".join(f"{run[0]:04X}..{run[-1]:04X}\n" for run in runs)


class Wrapped(NamedTuple):
    """A value inside another one that counts for nothing: a secret, or a member of an enumeration."""

    type: str
    value: Any


def tagged(value: Any) -> Any:
    """A value as it stands in the file; the kinds are explained in ``README.md``."""
    if isinstance(value, list):
        return [tagged(each) for each in value]
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
        return {"type": "integer", "value": str(value)}
    if isinstance(value, Wrapped):
        return {"type": value.type, "value": tagged(value.value)}
    if isinstance(value, Url):
        return {"type": "url", "value": value.text}
    if isinstance(value, frozenset):
        return {"type": "set", "value": [tagged(each) for each in sorted(value)]}
    if isinstance(value, dt.timedelta):
        return {"type": "timedelta", "value": [value.days, value.seconds, value.microseconds]}
    if isinstance(value, dt.date | dt.time):  # a datetime is a date
        return {"type": type(value).__name__, "value": value.isoformat()}
    if isinstance(value, (Decimal, Fraction, PurePosixPath, *ADDRESSES)):
        return {"type": type(value).__name__.lower(), "value": str(value)}
    return extended(value)


def untagged(value: Any) -> Any:
    """The other way, to what the reference takes."""
    if isinstance(value, list):
        return [untagged(each) for each in value]
    if not isinstance(value, dict) or "type" not in value:
        return from_extended(value)
    kind, content = value["type"], value["value"]
    makers: dict[str, Callable[[Any], Any]] = {
        "integer": int,
        "secret": untagged,
        "member": untagged,
        "set": lambda each: frozenset(untagged(each)),
        "timedelta": lambda each: dt.timedelta(*each),
        "datetime": dt.datetime.fromisoformat,
        "date": dt.date.fromisoformat,
        "time": dt.time.fromisoformat,
        "decimal": Decimal,
        "fraction": Fraction,
        "url": Url,
        "pureposixpath": PurePosixPath,
    }
    makers |= {each.__name__.lower(): each for each in ADDRESSES}
    return makers[kind](content)


class Blind(NamedTuple):
    """A value of an index, and the encodings that were worked out by hand."""

    name: str
    parts: list[Any]
    expected: list[bytes]
    normaliser: str = "exact"
    index_name: str = "field"
    bits: int = 128
    none: bool = True
    kids: tuple[str, ...] = ("x1",)
    context: str = CONTEXT
    gives: Any = NOT_OURS  # else what the application's function gives
    keys: dict[str, bytes] = INDEX_KEYS

    def declared(self) -> reference.Index:
        """The index."""
        functions = {} if self.gives is NOT_OURS else {self.normaliser: lambda _: untagged(tagged(self.gives))}
        return reference.Index(self.context, self.index_name, self.normaliser, self.bits, self.none, functions)

    def arguments(self) -> dict[str, Any]:
        """Give the arguments as they stand in the file."""
        arguments = {
            "name": self.name,
            "keys": {kid: self.keys[kid].hex() for kid in self.kids},
            "context": self.context,
            "index": self.index_name,
            "normaliser": self.normaliser,
            "bits": self.bits,
            "none": self.none,
            "parts": [tagged(part) for part in self.parts],
        }
        return arguments if self.gives is NOT_OURS else arguments | {"gives": tagged(self.gives)}

    def run(self) -> dict[str, Any]:
        """Compute the encodings, the index keys, and what ``idx`` has."""
        index, parts = self.declared(), [untagged(tagged(part)) for part in self.parts]
        keys = {kid: self.keys[kid] for kid in self.kids}
        stored = reference.index_values(index, keys.values(), parts)
        return {
            "encodings": [each.hex() for each in reference.encodings(index, parts)],
            "index_keys": {kid: reference.index_key(key, index).hex() for kid, key in keys.items()},
            "stored": [each.hex() for each in stored] if isinstance(stored, list) else stored.hex(),
        }


def one(name: str, value: Any, *expected: bytes, **more: Any) -> Blind:
    """A case of an index of one part: without expected bytes nothing has an index value."""
    return Blind(name, [value], sorted(expected), **more)


def text_case(name: str, value: str, expected: str | None, normaliser: str = "exact") -> Blind:
    """A case that gives text, or nothing."""
    forms = [] if expected is None else [b"\x04" + expected.encode()]
    return one(f"{normaliser}: {name}", value, *forms, normaliser=normaliser)


def bucket_case(name: str, value: Any, expected: int | None, normaliser: str) -> Blind:
    """A case that gives an integer, or nothing."""
    forms = [] if expected is None else [b"\x02" + str(expected).encode()]
    return one(f"{normaliser}: {name}", value, *forms, normaliser=normaliser)


def zone(minutes: float) -> dt.timezone:
    """A time zone with a fixed offset."""
    return dt.timezone(dt.timedelta(minutes=minutes))


def other_type(name: bytes, *parts: str) -> bytes:
    """A type that has the byte ``0f``, with its parts in hex."""
    return b"\x0f" + packed(name, *map(bytes.fromhex, parts))[1:]


def encoding_cases() -> list[Blind]:
    """Section 3.8, row by row."""
    nan, infinity = float("nan"), float("inf")
    naive = dt.datetime(2024, 2, 29, 12, 34, 56, 789012)  # noqa: DTZ001 - it has no offset on purpose, as below
    name_of = {Decimal: "decimal", float: "binary64", int: "integer", str: "text", bytes: "bytes", bool: "boolean"}
    plain: list[tuple[Any, bytes]] = [
        (False, b"\x01\x00"),
        (True, b"\x01\x01"),
        (0, b"\x020"),
        (1, b"\x021"),
        (5, b"\x025"),
        (-5, b"\x02-5"),
        (10, b"\x0210"),
        (-(2**31), b"\x02-2147483648"),
        (2**63 - 1, b"\x029223372036854775807"),
        (2**63, b"\x029223372036854775808"),
        (-(2**63) - 1, b"\x02-9223372036854775809"),
        (10**40, b"\x021" + b"0" * 40),
        (5.0, bytes.fromhex("034014000000000000")),
        (1.0, bytes.fromhex("033ff0000000000000")),
        (0.1, bytes.fromhex("033fb999999999999a")),
        (-1.5, bytes.fromhex("03bff8000000000000")),
        (0.0, bytes(8).join([b"\x03", b""])),
        (-0.0, bytes(8).join([b"\x03", b""])),
        (5e-324, bytes.fromhex("030000000000000001")),
        (1.7976931348623157e308, bytes.fromhex("037fefffffffffffff")),
        (nan, ONE_NAN),
        (infinity, bytes.fromhex("037ff0000000000000")),
        (-infinity, bytes.fromhex("03fff0000000000000")),
        ("", b"\x04"),
        ("5", b"\x045"),
        ("a\0b", b"\x04a\0b"),
        (" Ada ", b"\x04 Ada "),
        ("\U0001f600", b"\x04\xf0\x9f\x98\x80"),
        (b"", b"\x05"),
        (b"5", b"\x055"),
        (b"\x00\xff", b"\x05\x00\xff"),
    ]
    decimals = {
        "5": b"5E0",
        "1.5": b"15E-1",
        "1.50": b"15E-1",
        "-1.50": b"-15E-1",
        "1000": b"1E3",
        "1E+3": b"1E3",
        "100.0": b"1E2",
        "0": b"0E0",
        "-0": b"0E0",
        "0E+5": b"0E0",
        "-0.000": b"0E0",
        "0.001": b"1E-3",
        "00010203.0040500": b"1020300405E-5",
        "12345678901234567890123456789012345678901234567890.10": b"123456789012345678901234567890123456789012345678901E-1",
        "9.9E+6144": b"99E6143",
        "-1E-7000": b"-1E-7000",
        "1E+999999999": b"1E999999999",
        "-250E-999999999": b"-25E-999999998",
        "0E-999999999": b"0E0",
        "NaN": b"NaN",
        "-NaN": b"NaN",
        "Infinity": b"Infinity",
        "-Infinity": b"-Infinity",
    }
    moment = {
        "in UTC": naive.replace(tzinfo=dt.UTC),
        "the same moment at +05:30": naive.replace(hour=18, minute=4, tzinfo=zone(330)),
        "the same moment at -12:35, the day before": naive.replace(day=28, hour=23, minute=59, tzinfo=zone(-755)),
    }
    noon, us = 1709210096789012, dt.timedelta(microseconds=1)
    lmt = zone(19 + 32 / 60)
    day = 86_400_000_000
    documentation, local = "20010db8" + 23 * "0", "fe80" + 27 * "0"
    other = [
        ("moment: the epoch", dt.datetime(1970, 1, 1, tzinfo=dt.UTC), b"\x070"),
        ("moment: one microsecond before the epoch", dt.datetime(1970, 1, 1, tzinfo=dt.UTC) - us, b"\x07-1"),
        ("moment: 1890, an offset with seconds", dt.datetime(1890, 1, 1, tzinfo=lmt), b"\x07%d" % -(29219 * day + 1_172_000_000)),
        ("moment: the first", dt.datetime(1, 1, 1, tzinfo=dt.UTC), b"\x07%d" % (-719162 * day)),
        ("moment: in the year 0 in UTC", dt.datetime(1, 1, 1, tzinfo=zone(60)), b"\x07%d" % (-719162 * day - day // 24)),
        ("moment: in the year 10000 in UTC", dt.datetime(9999, 12, 31, 23, tzinfo=zone(-60)), b"\x07%d" % (2932897 * day)),
        ("moment: the last", dt.datetime(9999, 12, 31, 23, 59, 59, 999999, dt.UTC), b"\x07%d" % (2932897 * day - 1)),
        ("date and time: naive", naive, b"\x08%d" % noon),
        ("date and time: naive, before 1970", dt.datetime(1969, 12, 31, 23, 59, 59, 999999), b"\x08-1"),  # noqa: DTZ001
        ("date and time: naive, midnight", dt.datetime(2024, 2, 29), b"\x08%d" % (19782 * day)),  # noqa: DTZ001
        ("date", dt.date(2024, 2, 29), b"\x092024-02-29"),
        ("date: the year 33", dt.date(33, 4, 3), b"\x090033-04-03"),
        ("time: naive", dt.time(12, 34, 56, 789012), b"\x0a45296789012"),
        ("time: naive, midnight", dt.time(), b"\x0a0"),
        ("time: naive, the last", dt.time(23, 59, 59, 999999), b"\x0a86399999999"),
        ("time: in UTC", dt.time(12, 34, 56, 789012, tzinfo=dt.UTC), b"\x0b45296789012"),
        ("time: the same at +01:00", dt.time(13, 34, 56, 789012, tzinfo=zone(60)), b"\x0b45296789012"),
        ("time: less than 0 after the offset", dt.time(0, 30, tzinfo=zone(60)), b"\x0b-1800000000"),
        ("time: more than a day after the offset", dt.time(23, 30, tzinfo=zone(-60)), b"\x0b88200000000"),
        ("duration: zero", dt.timedelta(), b"\x0c0"),
        ("duration: one and a half seconds", dt.timedelta(seconds=1.5), b"\x0c1500000"),
        ("duration: minus one microsecond", -us, b"\x0c-1"),
        ("duration: minus a day and a half", -dt.timedelta(days=1, hours=12), b"\x0c-129600000000"),
        ("duration: the longest", dt.timedelta.max, b"\x0c86399999999999999999"),
        ("UUID", uuid.UUID("00112233-4455-6677-8899-aabbccddeeff"), bytes.fromhex("0d00112233445566778899aabbccddeeff")),
        ("ObjectId", OID, bytes.fromhex("0e65a1b2c3d4e5f60718293a4b")),
        ("fraction", Fraction(-1, 3), b"\x0f\0\0\0\x08fraction\0\0\0\x04-1/3"),
        ("fraction: in lowest terms", Fraction(6, 8), b"\x0f\0\0\0\x08fraction\0\0\0\x033/4"),
        ("fraction: a whole number", Fraction(3), b"\x0f\0\0\0\x08fraction\0\0\0\x013"),
        ("IPv4 address", ipaddress.IPv4Address("192.0.2.1"), other_type(b"ipv4address", "c0000201")),
        ("IPv4 interface", ipaddress.IPv4Interface("192.0.2.1/24"), other_type(b"ipv4interface", "c000020118")),
        ("IPv4 interface: without a prefix", ipaddress.IPv4Interface("192.0.2.1"), other_type(b"ipv4interface", "c000020120")),
        ("IPv4 network", ipaddress.IPv4Network("192.0.2.0/24"), other_type(b"ipv4network", "c000020018")),
        ("IPv4 network: all", ipaddress.IPv4Network("0.0.0.0/0"), other_type(b"ipv4network", "0000000000")),
        ("IPv6 address", ipaddress.IPv6Address("2001:db8::1"), other_type(b"ipv6address", documentation + "1", "")),
        (
            "IPv6 address: written otherwise",
            ipaddress.IPv6Address("2001:0DB8:0::01"),
            other_type(b"ipv6address", documentation + "1", ""),
        ),
        (
            "IPv6 address: of IPv4",
            ipaddress.IPv6Address("::ffff:192.0.2.1"),
            other_type(b"ipv6address", "00" * 10 + "ffffc0000201", ""),
        ),
        ("IPv6 address: with a scope", ipaddress.IPv6Address("fe80::1%eth0"), other_type(b"ipv6address", local + "1", "65746830")),
        ("IPv6 interface", ipaddress.IPv6Interface("2001:db8::1/32"), other_type(b"ipv6interface", documentation + "120", "")),
        (
            "IPv6 interface: with a scope",
            ipaddress.IPv6Interface("fe80::1%1/64"),
            other_type(b"ipv6interface", local + "140", "31"),
        ),
        ("IPv6 network", ipaddress.IPv6Network("2001:db8::/32"), other_type(b"ipv6network", documentation + "020", "")),
        ("IPv6 network: one address", ipaddress.IPv6Network("2001:db8::1"), other_type(b"ipv6network", documentation + "180", "")),
        ("URL", Url("https://example.com/"), b"\x0f\0\0\0\x03url\0\0\0\x14https://example.com/"),
        (
            "URL: a path and a query",
            Url("https://example.com/%C3%A4?q=1"),
            other_type(b"url", b"https://example.com/%C3%A4?q=1".hex()),
        ),
        ("secret text", Wrapped("secret", "Ångström"), b"\x04\xc3\x85ngstr\xc3\xb6m"),
        ("secret bytes", Wrapped("secret", b"5"), b"\x055"),
        ("member of an enumeration, text", Wrapped("member", "red"), b"\x04red"),
        ("member of an enumeration, integer", Wrapped("member", 5), b"\x025"),
    ]
    return [
        one("null", None, b"\x00"),
        *(one(f"{name_of[type(value)]}: {value!a}", value, encoded) for value, encoded in plain),
        *(one(f"decimal: {text}", Decimal(text), b"\x06" + encoded) for text, encoded in decimals.items()),
        *(one(f"moment: {name}", value, b"\x07%d" % noon) for name, value in moment.items()),
        *(one(name, value, encoded) for name, value, encoded in other),
    ]


# Assigned after Unicode 14.0: combining marks (ccc 220 and 230), a letter with a lowercase one, digits, a letter of which
# Unicode 16 has a composite.
MARK_BELOW, MARK_ABOVE, GARAY_CAPITAL, KAWI_ONE = "\U00010efd", "\U0001e08f", "\U00010d50", "\U00011f51"
TODHRI, TODHRI_COMPOSITE, LETTER_15 = "\U000105d2", "\U000105c9", "\U0001e030"


def text_cases() -> list[Blind]:
    """The normalisers of text."""
    unassigned_cases = {
        "a letter of Unicode 15 cuts": (f"e\u0301{LETTER_15}e\u0301", f"\u00e9{LETTER_15}\u00e9"),
        "a mark of Unicode 15 (ccc 220) keeps an accent from its letter": (f"a{MARK_BELOW}\u0301", None),
        "a mark of Unicode 15 (ccc 220) is not put in order": (f"q\u0301{MARK_BELOW}\u0323", None),
        "a mark of Unicode 15 (ccc 230) after a mark": (f"a\u0301{MARK_ABOVE}\u0323\u0301", f"\u00e1{MARK_ABOVE}\u0323\u0301"),
        "marks around it are put in order, each side by itself": (
            f"q\u0301\u0323{LETTER_15}\u0301\u0323",
            f"q\u0323\u0301{LETTER_15}\u0323\u0301",
        ),
        "a sequence that has a composite since Unicode 16": (f"{TODHRI}\u0307", None),
        "a composite of Unicode 16": (TODHRI_COMPOSITE, None),
        "several in a row, at both ends": (
            f"{MARK_BELOW}{MARK_ABOVE}A\u030a{MARK_BELOW}",
            f"{MARK_BELOW}{MARK_ABOVE}\u00c5{MARK_BELOW}",
        ),
        "a noncharacter between marks": ("e\u0301\ufffee\u0301", "\u00e9\ufffe\u00e9"),
        "a character of private use": ("\ue000\u0301", None),
    }
    exact = {
        "composed": ("\u00e9", "\u00e9"),
        "decomposed": ("e\u0301", "\u00e9"),
        "marks in another order": ("a\u0302\u0323", "\u1ead"),
        "Angstrom sign": ("\u212b", "\u00c5"),
        "Hangul letters": ("\u1112\u1161\u11ab", "\ud55c"),
        "excluded from composition": ("\u0958", "\u0915\u093c"),
        "compatibility characters stay": ("\ufb01\u2460\uff21", "\ufb01\u2460\uff21"),
        "case stays": ("Ada", "Ada"),
        "white space stays": (" a\u00a0", " a\u00a0"),
    } | {name: (value, value if form is None else form) for name, (value, form) in unassigned_cases.items()}
    casefold = {
        "ASCII": ("Ada LOVELACE", "ada lovelace"),
        "U+1E9E": ("STRA\u1e9eE", "strasse"),
        "U+00DF": ("stra\u00dfe", "strasse"),
        "I with a dot": ("\u0130", "i\u0307"),
        "I and a dot": ("I\u0307", "i\u0307"),
        "i without a dot": ("I\u0131", "i\u0131"),
        "final sigma": (
            "\u039f\u0394\u03a5\u03a3\u03a3\u0395\u03a5\u03a3 \u03c3\u03c2",
            "\u03bf\u03b4\u03c5\u03c3\u03c3\u03b5\u03c5\u03c3 \u03c3\u03c3",
        ),
        "composed": ("\u00c9", "\u00e9"),
        "decomposed": ("E\u0301", "\u00e9"),
        "decomposed by folding, composed again": ("\u01f0", "\u01f0"),
        "composed after folding only": ("J\u030c", "\u01f0"),
        "ligature": ("\ufb01", "fi"),
        "Kelvin sign": ("\u212a", "k"),
        "iota below": ("\u1f88", "\u1f00\u03b9"),
        "combining iota below": ("\u0391\u0345\u0301", "\u03ac\u03b9"),
        "Cherokee folds to capitals": ("\uab70\u13f8", "\u13a0\u13f0"),
        "Georgian": ("\u1c90", "\u10d0"),
        "Deseret, beyond the first plane": ("\U00010400", "\U00010428"),
        "white space stays": (" A ", " a "),
        "empty": ("", ""),
        "a capital of Unicode 16 stays": (f"A\u0301{GARAY_CAPITAL}B\u0323\u0301", f"\u00e1{GARAY_CAPITAL}\u1e05\u0301"),
        "a mark of Unicode 15 keeps an accent from its letter": (f"A{MARK_BELOW}\u0301", f"a{MARK_BELOW}\u0301"),
    }
    digits = {
        "ASCII": ("+44 (0)20-7946", "440207946"),
        "Arabic-Indic": ("\u0661\u0662\u0663", "123"),
        "Devanagari, fullwidth, mathematical": ("\u0967\uff12\U0001d7db", "123"),
        "superscript, circled and Roman are none": ("1\u00b2\u2462\u2163", "1"),
        "leading zeros stay": ("007", "007"),
        "digits of Unicode 15 are none": (f"1{KAWI_ONE}2", "12"),
        "digits of Unicode 15 alone": (KAWI_ONE, None),
        "no digits": ("none", None),
        "empty": ("", None),
    }
    email = {
        "spaces": (" \t\r\nAda@Example.COM \n", "ada@example.com"),
        "spaces inside stay": (' "A B"@example.com', '"a b"@example.com'),
        "other white space stays": ("\u00a0a@b.c\x0b", "\u00a0a@b.c\x0b"),
        "sharp s": ("Gro\u00df@example.com", "gross@example.com"),
        "decomposed": ("E\u0301@example.com", "\u00e9@example.com"),
        "only spaces": (" \t ", ""),
        "a space with a mark is cut as well": (" \u0301a@b.c", "\u0301a@b.c"),
    }
    tables: dict[str, Any] = {"exact": exact, "casefold": casefold, "digits": digits, "email": email}
    return [
        text_case(name, value, form, normaliser) for normaliser, cases in tables.items() for name, (value, form) in cases.items()
    ] + [
        text_case("spaces", "+44 20 7946 0000", "+442079460000", "phone"),
        text_case("brackets, dashes", "+1 (650) 253-0000", "+16502530000", "phone"),
        text_case("fullwidth digits", "\uff0b\uff14\uff14 \uff12\uff10 7946 0000", "+442079460000", "phone"),
        text_case("an Italian zero", "+39 06 6982", "+39066982", "phone"),
        text_case("national", "020 7946 0000", "+442079460000", "phone:GB"),
        text_case("international", "+1 650-253-0000", "+16502530000", "phone:GB"),
        text_case("prefix of the region", "00 1 650 253 0000", "+16502530000", "phone:GB"),
        text_case("national", "030 123456", "+4930123456", "phone:DE"),
        text_case("national, no region", "020 7946 0000", None, "phone"),
        text_case("no number", "none", None, "phone:GB"),
    ]


YEAR_0, YEAR_10000 = dt.datetime(1, 1, 1, tzinfo=zone(60)), dt.datetime(9999, 12, 31, 23, 30, tzinfo=zone(-60))


def date_cases() -> list[Blind]:
    """The normaliser ``date``."""
    late = dt.datetime(2024, 2, 29, 23, 30, tzinfo=zone(-60))
    found: dict[str, tuple[dt.date, str | None]] = {
        "a date": (dt.date(2024, 2, 29), "2024-02-29"),
        "naive": (late.replace(tzinfo=None), "2024-02-29"),
        "UTC": (late.replace(tzinfo=dt.UTC), "2024-02-29"),
        "the next day in UTC": (late, "2024-03-01"),
        "the day before in UTC": (dt.datetime(2024, 1, 1, 0, 30, tzinfo=zone(60)), "2023-12-31"),
        "before 1970": (dt.datetime(1969, 12, 31, 23, 59, 59, 999999, dt.UTC), "1969-12-31"),
        "the first in UTC": (dt.datetime(1, 1, 1, 1, tzinfo=zone(60)), "0001-01-01"),
        "the last in UTC": (dt.datetime(9999, 12, 31, 22, 59, tzinfo=zone(-60)), "9999-12-31"),
        "the year 0 in UTC": (YEAR_0, None),
        "the year 10000 in UTC": (YEAR_10000, None),
        "naive, the first": (dt.datetime(1, 1, 1), "0001-01-01"),  # noqa: DTZ001 - on purpose
    }
    return [
        one(f"date: {name}", value, *([] if form is None else [b"\x09" + form.encode()]), normaliser="date")
        for name, (value, form) in found.items()
    ]


def bucket_cases() -> list[Blind]:
    """The normalisers that start with ``bucket``."""
    nan, infinity, day, utc = float("nan"), float("inf"), dt.date, dt.UTC
    edge, last = 10**400, Decimal("9." + 420 * "9" + "E399")
    cases: list[tuple[str, Any, str, int | None]] = [
        ("10", 0, "zero", 0),
        ("10", 9, "below the edge", 0),
        ("10", 10, "at the edge", 1),
        ("10", -1, "negative", -1),
        ("10", -10, "negative, at the edge", -1),
        ("10", -11, "negative, below the edge", -2),
        ("10", 25.0, "binary64", 2),
        ("10", -0.0, "-0.0", 0),
        ("10", -5e-324, "the negative number next to zero", -1),
        ("10", Decimal("25.50"), "decimal", 2),
        ("10", 10**40, "a large integer", 10**39),
        ("10", 1e300, "a large binary64", int(1e300) // 10),
        ("10", nan, "NaN", None),
        ("10", infinity, "Infinity", None),
        ("10", -infinity, "-Infinity", None),
        ("10", Decimal("NaN"), "decimal NaN", None),
        ("10", Decimal("Infinity"), "decimal Infinity", None),
        ("10", Decimal("-Infinity"), "decimal -Infinity", None),
        ("10", Decimal("sNaN"), "decimal NaN that signals", None),
        ("10", edge, "10^400", None),
        ("10", edge - 1, "one less than 10^400", 10**399 - 1),
        ("10", -edge, "-10^400", None),
        ("10", 1 - edge, "one more than -10^400", -(10**399)),
        ("10", Decimal("1E400"), "decimal 10^400", None),
        ("10", Decimal("-1E400"), "decimal -10^400", None),
        ("10", last, "decimal, hardly less than 10^400", 10**399 - 1),
        ("10", Decimal("1E+999999999"), "a decimal beyond all bounds", None),
        ("10", Decimal("-1E+999999999"), "a negative decimal beyond all bounds", None),
        ("10", Decimal("1E-999999999"), "a decimal next to zero", 0),
        ("10", Decimal("-1E-999999999"), "a negative decimal next to zero", -1),
        ("10", Decimal("-0E-999999999"), "a zero with an exponent", 0),
        ("1", Decimal("-1E-401"), "a negative decimal next to zero", -1),
        ("1" + 99 * "0", 10**100 - 1, "a wide bucket", 9),
        ("9" * 100 + ".5", -1, "a wider bucket", -1),
        ("0." + 99 * "0" + "1", 1, "the narrowest bucket", 10**100),
        ("0." + 99 * "0" + "1", Decimal("-1E-100"), "the narrowest bucket, at the edge", -1),
        ("0." + 99 * "0" + "1", Decimal("-1.1E-100"), "the narrowest bucket, below the edge", -2),
        ("0." + 99 * "0" + "1", edge - 1, "the narrowest bucket and a large integer", (edge - 1) * 10**100),
        ("0.1", 0.3, "binary64 0.3 is less than 0.3", 2),
        ("0.1", Decimal("0.3"), "decimal 0.3", 3),
        ("0.1", 0.1, "binary64 0.1 is more than 0.1", 1),
        ("0.1", 0.7, "binary64 0.7 is less than 0.7", 6),
        ("0.1", 3, "integer", 30),
        ("0.25", -0.3, "negative", -2),
        ("1000000", 1234567, "integer", 1),
        ("10:0:99", -1, "below the low bound", 0),
        ("10:0:99", 100, "above the high bound", 9),
        ("10:0:99", 42, "between the bounds", 4),
        ("10:0:99", 99, "at the high bound", 9),
        ("10:0:99", nan, "NaN", None),
        ("10:0:99", infinity, "Infinity", 9),
        ("10:0:99", -infinity, "-Infinity", 0),
        ("10:0:99", Decimal("-Infinity"), "decimal -Infinity", 0),
        ("10:0:99", 10**500, "a large integer", 9),
        ("10:0:99", Decimal("1E+999999999"), "a decimal beyond all bounds", 9),
        ("10:0:99", Decimal("-1E+999999999"), "a negative decimal beyond all bounds", 0),
        ("10:0:99", Decimal("-1E-999999999"), "a negative decimal next to zero", 0),
        ("10:-99:99", Decimal("-1E-999999999"), "a negative decimal next to zero", -1),
        ("10:-99:-5", Decimal("1E-999999999"), "a decimal next to zero, above the high bound", -1),
        ("10:0:1" + 401 * "0", 10**401, "more than 10^400 and above the high bound", 10**400),
        ("10:0:1" + 401 * "0", Decimal("1E400"), "10^400 between the bounds", 10**399),
        ("10:-15:15", -100, "below a negative bound", -2),
        ("10:-15:15", 100, "above the high bound", 1),
        ("0.5:-0.75:0.75", Decimal(-9), "fractional bounds, low", -2),
        ("0.5:-0.75:0.75", 9.0, "fractional bounds, high", 1),
        ("10:5:5", 77, "bounds that are equal", 0),
        ("month", day(2024, 2, 29), "a date", 24289),
        ("month", day(2024, 1, 1), "January", 24288),
        ("month", day(2023, 12, 31), "December", 24287),
        ("month", day(1, 1, 1), "the first", 12),
        ("month", dt.datetime(2024, 2, 29, 23, 30), "naive", 24289),  # noqa: DTZ001 - on purpose
        ("month", dt.datetime(2024, 2, 29, 23, 30, tzinfo=zone(-60)), "the next month in UTC", 24290),
        ("month", dt.datetime(1969, 12, 31, 23, 59, 59, 999999, utc), "before 1970", 23639),
        ("month", YEAR_0, "the year 0 in UTC", None),
        ("month", YEAR_10000, "the year 10000 in UTC", None),
        ("month:2000-01-01:2024-12-31", YEAR_0, "the year 0 in UTC", None),
        ("month:2000-01-01:2024-12-31", YEAR_10000, "the year 10000 in UTC", None),
        ("month:2000-01-01:2024-12-31", day(1999, 12, 31), "below the low bound", 24000),
        ("month:2000-01-01:2024-12-31", day(2031, 5, 1), "above the high bound", 24299),
        ("month:2000-01-01:2024-12-31", dt.datetime(2024, 12, 31, 23, 59, tzinfo=utc), "on the last day", 24299),
        ("year", day(2024, 2, 29), "a date", 2024),
        ("year", day(33, 4, 3), "the year 33", 33),
        ("year", dt.datetime(2024, 12, 31, 23, 30, tzinfo=zone(-60)), "the next year in UTC", 2025),
        ("year", dt.datetime(2024, 12, 31, 23, 30), "naive", 2024),  # noqa: DTZ001 - on purpose
        ("year", YEAR_0, "the year 0 in UTC", None),
        ("year", YEAR_10000, "the year 10000 in UTC", None),
        ("year:1900-06-15:2024-06-15", day(1812, 1, 1), "below the low bound", 1900),
        ("year:1900-06-15:2024-06-15", day(2525, 1, 1), "above the high bound", 2024),
    ]
    return [bucket_case(name, value, expected, f"bucket:{arguments}") for arguments, value, name, expected in cases]


def packed(*encoded: bytes) -> bytes:
    """The encoding of a list of parts."""
    return b"\x10" + b"".join(len(each).to_bytes(4, "big") + each for each in encoded)


def shape_cases() -> list[Blind]:
    """Section 3.7: lists, None, compound indexes, bits, names, keys."""
    ada, red, blue, null = b"\x04ada", b"\x04red", b"\x04blue", b"\x00"
    two, mixed = {"normaliser": "casefold+exact"}, {"normaliser": "casefold+digits"}
    three = {"normaliser": "casefold+exact+bucket:10"}

    def compound(name: str, parts: list[Any], *expected: bytes, **more: Any) -> Blind:
        return Blind(f"compound: {name}", parts, sorted(expected), **more)

    return [
        one("list: three elements", ["red", "blue", "ada"], ada, red, blue),
        one("list: one element is an array", ["red"], red),
        one("list: empty", []),
        one("list: duplicates", ["red", "blue", "red"], red, blue),
        one("list: duplicates once they are normalised", ["Red", "RED", "red"], red, normaliser="casefold"),
        one("list: None in it", ["red", None, "red", None], red, null),
        one("list: None in it, and None has no index value", ["red", None], red, none=False),
        one("list: None alone, and None has no index value", [None], none=False),
        one("list: an element without a normal form", ["none", "12"], b"\x0412", normaliser="digits"),
        one("list: no element with a normal form", ["none", ""], normaliser="digits"),
        one("list: a set", frozenset({"red", "blue"}), red, blue),
        one("list: 1, 1.0 and True", [1, 1.0, True], b"\x021", bytes.fromhex("033ff0000000000000"), b"\x01\x01"),
        one("list: 1 and 1.0 in one bucket", [1, 1.0], b"\x020", normaliser="bucket:10"),
        one("list: values that are equal when cut", list(range(40)), *(b"\x02%d" % i for i in range(40)), bits=8),
        one("None: has an index value", None, null, normaliser="casefold"),
        one("None: has none", None, normaliser="casefold", none=False),
        one("None: in a bucket", None, null, normaliser="bucket:10"),
        compound("two parts", ["Ada", 5], packed(ada, b"\x025"), **two),
        compound("the same parts in another order", [5, "Ada"], packed(b"\x025", ada), normaliser="exact+casefold"),
        compound("the last part is None", ["Ada", None], packed(ada, null), **two),
        compound("the last part is None, which has no index value", ["Ada", None], none=False, **two),
        compound("another part is None", [None, "red"], packed(null, red), **two),
        compound("another part is None, and None has no index value", [None, "red"], packed(null, red), none=False, **two),
        compound("all parts are None", [None, None], packed(null, null), **two),
        compound("all parts are None, which has no index value", [None, None], none=False, **two),
        compound("two of three parts are None", [None, None, 25], packed(null, null, b"\x022"), none=False, **three),
        compound("the border between two parts", ["ada", "red"], packed(ada, red), **two),
        compound("the border between two parts moved", ["adar", "ed"], packed(b"\x04adar", b"\x04ed"), **two),
        compound("three parts", ["Ada", "red", 25], packed(ada, red, b"\x022"), **three),
        compound(
            "the last part is a list", ["Ada", "red", [25, 9, 31]], *(packed(ada, red, b"\x02%d" % i) for i in (0, 2, 3)), **three
        ),
        compound("the last part is a list of one", ["Ada", ["red"]], packed(ada, red), **two),
        compound("the last part is a set", ["Ada", frozenset({"red", "blue"})], packed(ada, red), packed(ada, blue), **two),
        compound("the last part is a list with duplicates", ["Ada", ["red", "red"]], packed(ada, red), **two),
        compound("the last part is an empty list", ["Ada", []], **two),
        compound("None and a list", [None, ["red"]], packed(null, red), **two),
        compound("a list with None in it", ["Ada", [None, "red"]], packed(ada, null), packed(ada, red), **two),
        compound("a list with None in it, which has no index value", ["Ada", [None, "red"]], packed(ada, red), none=False, **two),
        compound("the last part has no normal form", ["Ada", "none"], **mixed),
        compound("another part has no normal form", ["none", "Ada"], normaliser="digits+exact"),
        compound("another part has no normal form, and the last is None", ["none", None], normaliser="digits+exact"),
        compound("another part has no normal form, and the last is a list", ["none", ["a", "b"]], normaliser="digits+exact"),
        compound("an element without a normal form", ["Ada", ["none", "12"]], packed(ada, b"\x0412"), **mixed),
        *(one(f"bits: {bits}", "ada", ada, bits=bits) for bits in (8, 16, 64, 128, 136, 256)),
        one("bits: 256, a list", ["red", "blue"], red, blue, bits=256),
        one("another index", "ada", ada, index_name="name"),
        one("another context", "ada", ada, context="orders"),
        one("another normaliser", "ada", ada, normaliser="casefold"),
        one("another key", "ada", ada, kids=("x2",)),
        one("names: one letter", "ada", ada, index_name="f"),
        one("names: 255 bytes", "ada", ada, index_name="é" * 127 + "x"),
        one("names: composed", "ada", ada, index_name="\u00e9"),
        one("names: decomposed", "ada", ada, index_name="e\u0301"),
        one("names: Kid is not kid", "ada", ada, index_name="Kid"),
        one("names: _id", "ada", ada, index_name="_id"),
        one("names: $ not at the start", "ada", ada, index_name="a$"),
        one("names: the border between context and name", "ada", ada, context="customersf", index_name="ield"),
        one("two keys: one value", "ada", ada, kids=("x1", "x2")),
        one("two keys: None", None, null, kids=("x1", "x2")),
        one("two keys: None has no index value", None, none=False, kids=("x1", "x2")),
        one("two keys: a list", ["red", "blue"], red, blue, kids=("x1", "x2")),
        one("two keys: an empty list", [], kids=("x1", "x2")),
        compound("two keys", ["Ada", ["red", "blue"]], packed(ada, red), packed(ada, blue), kids=("x1", "x2"), **two),
        one("three keys", "ada", ada, kids=("x1", "x10", "x2")),
        one("an application's normaliser", "M-AB 123", b"\x04mab123", normaliser="plate-v2", gives="mab123"),
        one("an application's normaliser: not text", "M-AB 123", b"\x027", normaliser="app:len.1_x", gives=7),
        one("an application's normaliser: null is no normal form", "M-AB 123", normaliser="plate-v2", gives=None),
        one("an application's normaliser: empty text is one", "M-AB 123", b"\x04", normaliser="plate-v2", gives=""),
        one("an application's normaliser: a list", "a", packed(b"\x04a", b"\x021"), normaliser="plate-v2", gives=["a", 1]),
        one("an application's normaliser: None is not given to it", None, null, normaliser="plate-v2", gives="none"),
        one("an application's normaliser: an id of 64 characters", "a", b"\x04b", normaliser="n" * 64, gives="b"),
        one("an application's normaliser: case counts", "Ada", ada, normaliser="Exact", gives="ada"),
    ]


def index_refusals() -> list[Blind]:
    """What is an error of the caller."""
    plain = Blind("", ["ada"], [])
    names = {
        "kid": "kid",
        "empty": "",
        "starts with $": "$a",
        "contains a dot": "a.b",
        "contains NUL": "a\0b",
        "of 256 bytes": "n" * 256,
        "of 129 characters and 256 bytes": "nn" + "é" * 127,
    }
    ids = [
        "",
        "exact ",
        "ex act",
        "exäct",
        "exact/1",
        "exact\n",
        "n" * 65,
        "bucket",
        "bucket:",
        "buckets",
        "bucket:0",
        "bucket:1" + 100 * "0",
        "bucket:0." + 100 * "0" + "9",
        "bucket:-10",
        "bucket:+10",
        "bucket:010",
        "bucket:1.0",
        "bucket:1.50",
        "bucket:.5",
        "bucket:5.",
        "bucket:1e3",
        "bucket:1,5",
        "bucket:NaN",
        "bucket:\u0661",
        "bucket:10:0",
        "bucket:10:-0:5",
        "bucket:10:0:9:9",
        "bucket:10:9:0",
        "bucket:10:0:inf",
        "bucket:10:2024-01-01:2024-12-31",
        "bucket:week",
        "bucket:month:2024-01-01",
        "bucket:month:2024-02-30:2024-12-31",
        "bucket:month:2024-1-1:2024-12-31",
        "bucket:month:20240101:20241231",
        "bucket:month:2024-12-31:2024-01-01",
        "bucket:year:1900:2100",
        "phonetic-v1",
        "phone:",
        "phone:gb",
        "phone:GBR",
        "phone:GB:DE",
    ]
    wrong_types: dict[str, list[Any]] = {
        "casefold": [5, b"ada", True, dt.date(2024, 2, 29)],
        "digits": [5],
        "email": [b"ada"],
        "phone:GB": [442079460000],
        "date": ["2024-02-29", 5, dt.time()],
        "bucket:10": ["5", True, dt.timedelta(days=1), Fraction(1, 2)],
        "bucket:month": ["2024-02-29", 5, dt.time()],
    }
    return [
        *(plain._replace(name=f"index name: {name}", index_name=index) for name, index in names.items()),
        *(plain._replace(name=f"bits: {bits}", bits=bits) for bits in (-8, 0, 4, 12, 127, 264, 512)),
        *(plain._replace(name=f"normaliser id: {id!a}", normaliser=id, gives="ada") for id in ids),
        *(
            plain._replace(name=f"normaliser id of a compound index: {id!a}", normaliser=id, parts=["ada"] * 2, gives="ada")
            for id in ("+", "exact+", "+exact", "exact+ exact", "exact+bucket:0")
        ),
        *(
            plain._replace(name=f"value: {normaliser} of {type(value).__name__}", normaliser=normaliser, parts=[value])
            for normaliser, values in wrong_types.items()
            for value in values
        ),
        plain._replace(name="value: a document", parts=[{"a": 1}]),
        plain._replace(name="value: a regular expression", parts=[Regex("^a")]),
        plain._replace(name="value: a lone surrogate", parts=["a\ud800"]),
        plain._replace(name="value: a path", parts=[PurePosixPath("/srv")]),
        plain._replace(name="value: a URL that is not ASCII", parts=[Url("https://example.com/\u00e4")]),
        plain._replace(name="value: a list in a list", parts=[["a", ["b"]]]),
        plain._replace(name="value: two lists in a compound index", normaliser="exact+exact", parts=[["a"], ["b"]]),
        plain._replace(name="value: a list that is not the last part", normaliser="exact+exact", parts=[["a"], "b"]),
        plain._replace(name="empty context", context=""),
        plain._replace(name="context of 256 bytes", context="c" * 256),
        plain._replace(name="key of 31 bytes", keys={"x1": KEY[:31]}),
        plain._replace(name="no key", kids=()),
    ]


def unicode_digests() -> dict[str, str]:
    """Of each normaliser of text, SHA-256 over the normal forms of every character of Unicode 14.0, one line each."""
    forms = {"exact": reference.exact, "casefold": reference.casefold, "digits": reference.digits}
    digests = {}
    for id, form in forms.items():
        digest = hashlib.sha256()
        for code in range(0x110000):
            if code in reference.unassigned() or 0xD800 <= code <= 0xDFFF:
                continue
            try:
                digest.update(form(chr(code)).encode() + b"\n")
            except reference.NoNormalFormError:
                digest.update(b"\n")
        digests[id] = digest.hexdigest()
    return digests


def compare_index_cases(found: dict[str, dict[str, Any]]) -> None:
    """What must be equal is, and what must differ does."""

    def stored(*names: str) -> list[Any]:
        return [found[name]["stored"] for name in names]

    fives = ["integer: 5", "binary64: 5.0", "boolean: True", "text: '5'", "bytes: b'5'", "decimal: 5"]
    demand(len(set(stored(*fives))) == len(fives), "index: 5, 5.0, True, '5', b'5' and Decimal(5) never meet")
    demand(len(set(stored("binary64: 0.0", "binary64: -0.0"))) == 1, "index: there is one zero")
    demand(len(set(stored("decimal: 1.5", "decimal: 1.50"))) == 1, "index: 1.5 and 1.50 meet")
    moments = [name for name in found if name == "moment: in UTC" or "the same moment" in name]
    demand(len(moments) == 3 and len(set(stored(*moments))) == 1, "index: a moment has one value in every zone")
    apart = ["bits: 128", *(f"another {what}" for what in ("index", "context", "normaliser", "key"))]
    demand(len(set(stored(*apart))) == len(apart), "index: one value is another under another index, context, normaliser, key")
    lengths = stored(*(f"bits: {bits}" for bits in (8, 16, 64, 128, 136, 256)))
    demand(all(lengths[-1].startswith(each) for each in lengths), "index: a shorter value is the beginning of a longer one")
    apart = ["compound: the border between two parts", "compound: the border between two parts moved"]
    demand(len(set(stored(*apart))) == 2, "index: the border between two parts counts")
    both = found["two keys: one value"]["stored"]
    demand(both == sorted(stored("bits: 128", "another key")), "index: under two keys there are both values")


def by_hand(case: Blind, result: dict[str, Any]) -> list[str]:
    """All that ``idx`` may have for the encodings, from HMAC alone: HKDF of one block is HMAC twice."""

    def hkdf(key: bytes, *parts: str) -> bytes:
        info = b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in ("mongo_envelope/v1", *parts))
        return hmac.digest(hmac.digest(bytes(32), key, "sha256"), info + b"\1", "sha256")

    values = set()
    for kid in case.kids:
        working = hkdf(hkdf(case.keys[kid], "index"), "index", case.context)
        key = hkdf(working, "index", case.context, case.index_name, case.normaliser)
        values |= {hmac.digest(key, bytes.fromhex(each), "sha256").hex()[: case.bits // 4] for each in result["encodings"]}
    return sorted(values)


def index_vectors() -> dict[str, Any]:
    """Index values, inputs that are refused, and digests of what the normalisers of text make of Unicode 14.0."""
    cases: dict[str, dict[str, Any]] = {}
    for case in [*encoding_cases(), *text_cases(), *date_cases(), *bucket_cases(), *shape_cases()]:
        demand(case.name not in cases, f"index: {case.name}: the name occurs twice")
        result = case.run()
        wanted = [each.hex() for each in case.expected]
        demand(result["encodings"] == wanted, f"index: {case.name}: {result['encodings']}, not {wanted}")
        stored = result["stored"] if isinstance(result["stored"], list) else [result["stored"]] * (result["stored"] is not None)
        demand(stored == by_hand(case, result), f"index: {case.name}: the values by hand")
        cases[case.name] = case.arguments() | result
    compare_index_cases(cases)
    refused = index_refusals()
    for case in refused:
        try:
            case.run()
        except ValueError:
            continue
        demand(False, f"index: refused: {case.name}: has a value")
    return {
        "cases": list(cases.values()),
        "refused": [case.arguments() for case in refused],
        "unicode": unicode_digests(),
    }


# --- the worked example ---------------------------------------------------------------------------------------------

BEGIN, END = "<!-- example: written by generate_vectors.py -->", "<!-- end of example -->"


def lines(data: bytes, width: int = 32) -> str:
    """Hex in lines."""
    text = data.hex()
    return "\n".join(text[i : i + 2 * width] for i in range(0, len(text), 2 * width))


def example() -> str:
    """Seal the worked example again, step by step, without ``reference.seal``, and compare."""
    case, raw = EXAMPLE, EXAMPLE.run()
    payload, label, context = case.payload.encode(), reference.LABEL, case.context.encode()
    out = [
        f"key      {lines(case.key)}",
        f"kid      {case.kid}",
        f"context  {case.context}",
        f"iv       {case.iv.hex()}",
        "_id      int32 7",
        "tenant   string acme",
        f"payload  {case.payload}",
        "",
    ]
    keys = {}
    for purpose in ("encrypt", "authenticate"):
        first, second = reference.pack(label, purpose.encode()), reference.pack(label, purpose.encode(), context)
        purpose_key = reference.hkdf(case.key, first)
        keys[purpose] = reference.hkdf(purpose_key, second)
        out += [
            f"{purpose}: info of the first step",
            lines(first),
            f"{purpose}: K_p",
            purpose_key.hex(),
            f"{purpose}: info of the second step",
            lines(second),
            f"{purpose}: working key",
            keys[purpose].hex(),
            "",
        ]
    counters = increments(case.iv, 2)
    keystream = ctr_by_hand(keys["encrypt"], counters, bytes(32))
    data = bytes(a ^ b for a, b in zip(payload, keystream, strict=False))
    out += [
        "counter blocks",
        *(block.hex() for block in counters),
        "keystream",
        keystream.hex(),
        f"payload, {len(payload)} bytes",
        payload.hex(),
        "data",
        data.hex(),
        "",
    ]
    elements = [
        el(0x10, "_id", i32(7)),
        el(0x05, "data", binary(data)),
        el(0x05, "iv", binary(case.iv)),
        el(0x02, "kid", string(case.kid)),
        el(0x02, "tenant", string("acme")),
        el(0x10, "v", i32(1)),
    ]
    body = b"".join(elements)
    tag = hmac.digest(keys["authenticate"], body, "sha256")
    demand(document(*elements, el(0x05, "hmac", binary(tag))) == raw, "the worked example by hand")
    out += [
        "elements in order",
        *(element.hex() for element in elements),
        f"body, {len(body)} bytes: the elements concatenated",
        "tag",
        tag.hex(),
        "",
    ]
    out += [f"document, {len(raw)} bytes (0x{len(raw):02x})", lines(raw), ""]
    out += [
        "check value of the key",
        reference.check_value(case.key).hex(),
        "fingerprint, if the key were a store root",
        reference.fingerprint(case.key).hex(),
    ]
    return "\n".join([BEGIN, "```text", *out, "```", END])


# --- key stores -----------------------------------------------------------------------------------------------------

STORE, OTHER_STORE = "00112233aabbccdd", "ffeeddcc99887766"
STORE_ROOT, OTHER_ROOT = bytes(range(0x40, 0x60)), bytes(range(0x60, 0x80))
KEK, OTHER_KEK = bytes(range(0x20)), bytes(range(0x80, 0xA0))
KEK_ID, OTHER_KEK_ID = "0123456789abcdef", "fedcba9876543210"
NONCE = bytes(range(0xC0, 0xCC))
DATA, INDEX = f"{STORE}-data", f"{STORE}-index"
NO_KEY = "ffffffffffffffff"
STATES_OF = {"data": ["active", "decrypt-only", "compromised", "destroyed"], "index": ["active", "destroyed"]}


def digest(text: str, size: int = 32) -> bytes:
    """Bytes that look random and are the same in every run."""
    return hashlib.sha256(text.encode()).digest()[:size]


def compact(payload: Any) -> str:
    """JSON without white space, as a payload is written."""
    return json.dumps(payload, separators=(",", ":"))


def iv_of(*what: Any) -> bytes:
    """An IV that follows from what is sealed: for vectors only."""
    return digest(json.dumps(what), 16)


def key_of(kid: str, purpose: str = "data", state: str = "active", **changes: Any) -> keystore.Key:
    """A key whose material follows from its kid."""
    material = digest(f"material of {kid}")
    check = reference.check_value(material)
    return keystore.Key(kid, purpose, state, WHEN, check, None if state == "destroyed" else material)._replace(**changes)


def roles_of(
    primary: str = DATA, search_by: str | None = INDEX, written: list[str] | None = None, **changes: Any
) -> keystore.Roles:
    """Roles; by default those with which a store is made."""
    kids = [kid for kid in (search_by,) if kid is not None] if written is None else written
    return keystore.Roles(primary, search_by, kids, WHEN)._replace(**changes)


def record_of(content: keystore.Key | keystore.Roles, store: str = STORE, root: bytes = STORE_ROOT) -> bytes:
    """A record as a writer seals it; the IV follows from what it says."""
    write = keystore.key_record if isinstance(content, keystore.Key) else keystore.roles_record
    return write(content, store=store, root=root, iv=iv_of(store, told(content)))


def free_record(metadata: Fields, payload: str, *, store: str = STORE, root: bytes = STORE_ROOT) -> bytes:
    """A document under the root that says what only a holder of the root can say."""
    context, iv = keystore.records_context(store), iv_of(extended(metadata), payload)
    return reference.seal(metadata, payload.encode(), key=root, kid="root", context=context, iv=iv)


def resealed(raw: bytes) -> bytes:
    """The tag of a record computed anew."""
    return sealed_again(raw, key=STORE_ROOT, context=keystore.records_context(STORE))


def root_of(
    store: str = STORE, secret: bytes | None = None, kms: Fields | None = None, wrapped: bytes | None = None, kek: bytes = KEK
) -> bytes:
    """A root record."""
    inside = keystore.secret_of(store, STORE_ROOT) if secret is None else secret
    blob = keystore.local_wrap(kek, inside, nonce=NONCE) if wrapped is None else wrapped
    return keystore.root_record(store, keystore.local_identity(KEK_ID) if kms is None else kms, blob, WHEN)


def told(content: keystore.Key | keystore.Roles) -> dict[str, Any]:
    """A key or roles as they stand in the file."""
    as_text = {name: each.hex() if isinstance(each, bytes) else each for name, each in content._asdict().items()}
    return {name: extended(each) if isinstance(each, dt.datetime) else each for name, each in as_text.items()}


class Stored(NamedTuple):
    """Documents, and the configuration of who reads them."""

    records: list[bytes]
    kms: Fields = keystore.local_identity(KEK_ID)
    kek: bytes = KEK
    public: bool = False
    fingerprint: bytes | None = reference.fingerprint(STORE_ROOT)

    def read(self) -> keystore.Store:
        """Read."""
        kek = keystore.Kek(self.kms, lambda wrapped: keystore.local_unwrap(self.kek, wrapped), self.public)
        return keystore.read(self.records, kek, fingerprint=self.fingerprint)

    def arguments(self) -> dict[str, Any]:
        """Give it as it stands in the file."""
        return {
            "records": [raw.hex() for raw in self.records],
            "kms": self.kms,
            "kek": self.kek.hex(),
            "public": self.public,
            "fingerprint": self.fingerprint and self.fingerprint.hex(),
        }

    def outcome(self) -> str:
        """Name the error; nothing if there is none."""
        try:
            self.read()
        except keystore.KeyStoreError as error:
            return type(error).__name__
        return ""


NEW, D_ONLY, D_COMPROMISED, D_DESTROYED = "a1b2c3d4e5f60718", "b000000000000001", "b000000000000002", "b000000000000003"
X_SECOND, X_DESTROYED = "c000000000000001", "c000000000000002"


def records_by_name() -> dict[str, bytes]:
    """The records of a store with every purpose and state, by ``_id``."""
    keys = [
        key_of(DATA),
        key_of(INDEX, "index"),
        key_of(D_ONLY, state="decrypt-only"),
        key_of(D_COMPROMISED, state="compromised"),
        key_of(D_DESTROYED, state="destroyed"),
        key_of(X_SECOND, "index"),
        key_of(X_DESTROYED, "index", "destroyed"),
    ]
    return {"root": root_of(), "roles": record_of(roles_of())} | {each.kid: record_of(each) for each in keys}


def good_stores() -> dict[str, Stored]:
    """Stores that read, by name; ``as made`` and ``every purpose and state`` are the bases of most reject vectors."""
    every = records_by_name()
    made = {name: every[name] for name in ("root", "roles", DATA, INDEX)}
    root, roles, data, index = made.values()
    local = keystore.local_identity(KEK_ID)
    fields = split(root)
    kms = fields["kms"]
    shuffled = document(*(fields[name] for name in ("_id", "wrapped", "created", "kms", "store", "version")))
    numbers = {"provider": "example", "version": 3, "soft": True, "where": {"region": "eu", "port": 443}}
    turned = {"where": {"port": Int64(443), "region": "eu"}, "soft": True, "version": Int64(3), "provider": "example"}
    kid = "A-Z_a.z0" * 8
    twins = sorted([INDEX, X_SECOND])
    demand(kms == el(0x03, "kms", document(el(0x02, "provider", string("local")), el(0x02, "key", string(KEK_ID)))), "kms")
    return {
        "as made": Stored([*made.values()]),
        "every purpose and state": Stored([*every.values()]),
        "as made: no fingerprint configured": Stored([*made.values()], fingerprint=None),
        "as made: a public key-encryption key, with a fingerprint": Stored([*made.values()], public=True),
        "as made: the documents in another order": Stored([data, roles, index, root]),
        "as made: the fields of the root record in another order": Stored([shuffled, roles, data, index]),
        "as made: the fields of a sealed record in another order": Stored(
            [root, roles, document(*reversed(split(data).values())), index]
        ),
        "identity: numbers, a boolean, a map; the same values in another order and as int64": Stored(
            [root_of(kms=turned), roles, data, index], kms=numbers
        ),
        "identity: of another provider": Stored(
            [root_of(kms={"provider": "example"}), roles, data, index], kms={"provider": "example"}
        ),
        "root: created before 1970": Stored([with_value(root, "created", i32(-1) * 2), roles, data, index]),
        "root: wrapped by another key, as after a replacement": Stored(
            [root_of(kms=keystore.local_identity(OTHER_KEK_ID), kek=OTHER_KEK), roles, data, index],
            kms=keystore.local_identity(OTHER_KEK_ID),
            kek=OTHER_KEK,
        ),
        "rotation: the new key is there, the roles are the old ones": Stored([*made.values(), record_of(key_of(NEW))]),
        "rotation: the new key is there, the old one is decrypt-only and still the primary one": Stored(
            [root, roles, record_of(key_of(DATA, state="decrypt-only")), index, record_of(key_of(NEW))]
        ),
        "rotation: the roles name the new key, the old one is active": Stored(
            [root, record_of(roles_of(NEW)), data, index, record_of(key_of(NEW))]
        ),
        "rotation: done": Stored(
            [root, record_of(roles_of(NEW)), record_of(key_of(DATA, state="decrypt-only")), index, record_of(key_of(NEW))]
        ),
        "index keys: two are written": Stored(
            [root, record_of(roles_of(written=twins)), data, index, record_of(key_of(X_SECOND, "index"))]
        ),
        "index keys: two are written, searched by the second": Stored(
            [root, record_of(roles_of(search_by=X_SECOND, written=twins)), data, index, record_of(key_of(X_SECOND, "index"))]
        ),
        "index keys: none": Stored([root, record_of(roles_of(search_by=None)), data]),
        "index keys: one that is active and in no role": Stored([root, record_of(roles_of(search_by=None)), data, index]),
        "a kid of 64 characters": Stored([root, record_of(roles_of(kid)), data, index, record_of(key_of(kid))]),
        "a kid that begins like another word": Stored([*made.values(), record_of(key_of("roles.")), record_of(key_of("Root"))]),
        "another store": Stored(
            [
                root_of(OTHER_STORE, keystore.secret_of(OTHER_STORE, OTHER_ROOT)),
                *(record_of(each, OTHER_STORE, OTHER_ROOT) for each in (key_of("k1"), roles_of("k1", None))),
            ],
            fingerprint=reference.fingerprint(OTHER_ROOT),
        ),
        "the local identity has two texts": Stored([*made.values()], kms=dict(reversed(local.items()))),
    }


class StoreRejects:
    """Collect stores that do not read, each made from a good one."""

    def __init__(self, good: dict[str, Stored]) -> None:
        self.good = good
        self.cases: dict[str, tuple[str, str, Stored]] = {}

    def add(self, error: type[keystore.KeyStoreError], name: str, base: str = "as made", **changes: Any) -> None:
        """Add a case: other documents or another configuration."""
        demand(name not in self.cases, f"keystore: {name}: the name occurs twice")
        self.cases[name] = (error.__name__, base, self.good[base]._replace(**changes))

    def put(self, error: type[keystore.KeyStoreError], name: str, base: str = "as made", **records: bytes | None) -> None:
        """Add a case in which some of the documents are other ones, or (None) missing: ``root``, ``roles``, ``data``, ``index``."""
        names = {"root": "root", "roles": "roles", "data": DATA, "index": INDEX}
        changes = {names.get(kid, kid): raw for kid, raw in records.items()}
        found = {keystore.by_id([raw]).popitem()[0].decode(): raw for raw in self.good[base].records} | changes
        self.add(error, name, base, records=[raw for raw in found.values() if raw is not None])


def wrapped_roots(rejects: StoreRejects) -> None:
    """The configuration, the key-encryption key, and what it wraps."""
    put, add = rejects.put, rejects.add
    root = rejects.good["as made"].records[0]
    local = keystore.local_identity(KEK_ID)
    add(keystore.NoFingerprint, "configuration: a public key-encryption key without a fingerprint", public=True, fingerprint=None)
    for name, fingerprint in {
        "of another root": reference.fingerprint(OTHER_ROOT),
        "first bit flipped": flipped(reference.fingerprint(STORE_ROOT), 0, 7),
        "last bit flipped": flipped(reference.fingerprint(STORE_ROOT), 15),
        "all zeros": bytes(16),
    }.items():
        add(keystore.WrongFingerprint, f"configuration: fingerprint: {name}", fingerprint=fingerprint)
        add(keystore.WrongFingerprint, f"configuration: fingerprint, public: {name}", fingerprint=fingerprint, public=True)
    another = keystore.secret_of(STORE, OTHER_ROOT)
    put(keystore.WrongFingerprint, "root: another root of this store, under the same key", root=root_of(secret=another))
    add(keystore.ForeignKey, "configuration: another key", kms=keystore.local_identity(OTHER_KEK_ID))
    add(keystore.ForeignKey, "configuration: another provider", kms=local | {"provider": "vault"})
    add(keystore.ForeignKey, "configuration: a name more", kms=local | {"endpoint": "kms.example.com"})
    add(keystore.ForeignKey, "configuration: a name less", kms={"provider": "local"})
    add(keystore.ForeignKey, "configuration: capital letters", kms=local | {"key": KEK_ID.upper()})
    add(keystore.Unwrap, "configuration: the same identity, another key", kek=OTHER_KEK)
    for name, kms in {
        "another key": keystore.local_identity(OTHER_KEK_ID),
        "an endpoint more": local | {"endpoint": "kms.example.com"},
        "no key": {"provider": "local"},
        "nothing": {},
        "null for text": local | {"key": None},
        "binary for text": local | {"key": KEK_ID.encode()},
        "a list for text": local | {"key": [KEK_ID]},
        "a map for text": local | {"key": {"id": KEK_ID}},
    }.items():
        put(keystore.ForeignKey, f"kms: {name}", root=root_of(kms=kms))
    put(
        keystore.ForeignKey,
        "kms: an endpoint more, and wrapped is not of this key",
        root=root_of(kms=local | {"endpoint": "kms.example.com"}, kek=OTHER_KEK),
    )
    base = "identity: numbers, a boolean, a map; the same values in another order and as int64"
    numbers: Fields = {"provider": "example", "version": 3, "soft": True, "where": {"region": "eu", "port": 443}}
    for name, kms in {
        "a double for an integer": numbers | {"version": 3.0},
        "another number": numbers | {"version": 4},
        "a number as text": numbers | {"version": "3"},
        "an integer for a boolean": numbers | {"soft": 1},
        "another boolean": numbers | {"soft": False},
        "a boolean for an integer": numbers | {"version": True},
        "another value deep inside": numbers | {"where": {"region": "us", "port": 443}},
        "a name more deep inside": numbers | {"where": {"region": "eu", "port": 443, "host": "kms.example.com"}},
        "text for a map": numbers | {"where": "eu"},
    }.items():
        put(keystore.ForeignKey, f"kms, of numbers: {name}", base, root=root_of(kms=kms))
    add(keystore.ForeignKey, "kms, of numbers: configured as 1, stored as true", base, kms=numbers | {"soft": 1})

    secret = keystore.secret_of(STORE, STORE_ROOT)
    for name, wrong in {
        "of another store": keystore.secret_of(OTHER_STORE, STORE_ROOT),
        "another label": reference.pack(b"mongo_envelope/v2", b"root", STORE.encode(), STORE_ROOT),
        "another purpose": reference.pack(reference.LABEL, b"data", STORE.encode(), STORE_ROOT),
        "a root of 31 bytes": reference.pack(reference.LABEL, b"root", STORE.encode(), STORE_ROOT[:31]),
        "a root of 33 bytes": reference.pack(reference.LABEL, b"root", STORE.encode(), STORE_ROOT + b"\0"),
        "an empty root": reference.pack(reference.LABEL, b"root", STORE.encode(), b""),
        "the last byte missing": secret[:-1],
        "a byte too many": secret + b"\0",
        "the root alone": STORE_ROOT,
        "the store as 8 bytes": reference.pack(reference.LABEL, b"root", bytes.fromhex(STORE), STORE_ROOT),
        "the store in capital letters": reference.pack(reference.LABEL, b"root", STORE.upper().encode(), STORE_ROOT),
        "no store": reference.pack(reference.LABEL, b"root", STORE_ROOT),
        "a part more": secret + reference.pack(b""),
        "a length little-endian": secret[:49] + secret[49:53][::-1] + secret[53:],
        "nothing": b"",
    }.items():
        put(keystore.WrongRoot, f"secret: {name}", root=root_of(secret=wrong))
    put(keystore.WrongRoot, "root: the id of another store", root=with_value(root, "store", string(OTHER_STORE)))
    blob = keystore.local_wrap(KEK, secret, nonce=NONCE)
    put(
        keystore.WrongRoot,
        "root: what is wrapped is that of another store, whole",
        root=with_value(
            root, "wrapped", binary(keystore.local_wrap(KEK, keystore.secret_of(OTHER_STORE, OTHER_ROOT), nonce=NONCE))
        ),
    )
    for name, damaged in damaged_blobs(blob, secret).items():
        put(keystore.Unwrap, f"wrapped: {name}", root=root_of(wrapped=damaged))


def damaged_blobs(blob: bytes, secret: bytes) -> dict[str, bytes]:
    """What a local key-encryption key does not unwrap."""
    wrap_key = keystore.local_wrap_key(KEK)
    return {
        "first bit of the nonce": flipped(blob, 0, 7),
        "last bit of the nonce": flipped(blob, 11),
        "first bit of the ciphertext": flipped(blob, 12, 7),
        "last bit of the ciphertext": flipped(blob, -17 % len(blob)),
        "first bit of the tag": flipped(blob, -16 % len(blob), 7),
        "last bit of the tag": flipped(blob, len(blob) - 1),
        "the last byte missing": blob[:-1],
        "a byte too many": blob + b"\0",
        "the first byte missing": blob[1:],
        "the nonce alone": blob[:12],
        "27 bytes": blob[:27],
        "28 bytes": blob[:28],
        "empty": b"",
        "the secret itself": secret,
        "under another key": keystore.local_wrap(OTHER_KEK, secret, nonce=NONCE),
        "under the key itself, not the derived one": NONCE + AESGCM(KEK).encrypt(NONCE, secret, keystore.LOCAL),
        "without associated data": NONCE + AESGCM(wrap_key).encrypt(NONCE, secret, None),
        "other associated data": NONCE + AESGCM(wrap_key).encrypt(NONCE, secret, b"mongo_envelope/kms/local/2"),
        "the nonce at the end": blob[12:] + blob[:12],
    }


def root_records(rejects: StoreRejects) -> None:
    """The form of the root record, and the set of documents."""
    put, add = rejects.put, rejects.add
    root, roles, data, index = rejects.good["as made"].records
    put(keystore.Contradiction, "set: no root record", root=None)
    put(keystore.Incomplete, "set: no roles record", roles=None)
    add(keystore.Incomplete, "set: nothing", records=[])
    add(keystore.Incomplete, "set: the root record alone", records=[root])
    add(keystore.Contradiction, "set: the root record twice", records=[root, roles, data, index, root])
    add(keystore.Contradiction, "set: a key record twice", records=[root, roles, data, index, data])
    again = record_of(key_of(DATA, state="decrypt-only"))
    add(keystore.Contradiction, "set: two records of one key", records=[root, roles, data, index, again])
    other = record_of(roles_of(changed=WHEN + dt.timedelta(days=1)))
    add(keystore.Contradiction, "set: two roles records", records=[root, roles, data, index, other])
    for name, raw in {
        "a plain document": document(el(0x02, "_id", string("k1")), el(0x02, "state", string("active"))),
        "only an _id": document(el(0x02, "_id", string("k1"))),
        "an _id that is no text": document(el(0x10, "_id", i32(1))),
        "no _id": document(el(0x02, "state", string("active"))),
        "the empty document": document(),
        "no bytes": b"",
        "a document that is cut off": data[:-1],
        "an unknown element type": document(el(0x02, "_id", string("k1")), el(0x14, "a", b"")),
    }.items():
        add(keystore.MalformedRecord, f"set: and {name}", records=[root, roles, data, index, raw])

    no_text = free_record(key_metadata(DATA) | {"_id": OID}, compact({"material": "A" * 43 + "="}))
    add(keystore.InvalidRecord, "set: and a sealed record with an _id that is no text", records=[root, roles, data, index, no_text])
    for name, version in {
        "0": el(0x10, "version", i32(0)),
        "2": el(0x10, "version", i32(2)),
        "2, and names that are not known": el(0x10, "version", i32(2)) + el(0x0A, "more", b""),
    }.items():
        put(keystore.UnsupportedVersion, f"root: version: {name}", root=swapped(root, "version", *([version] if version else [])))
    put(
        keystore.MalformedRecord,
        "root: a sealed record in its place",
        root=free_record(
            {"_id": "root"} | {name: value for name, value in key_of(DATA)._asdict().items() if name not in ("kid", "material")},
            "{}",
        ),
    )
    for name, version in {
        "as int64": el(0x12, "version", i32(1) + i32(0)),
        "as a double": el(0x01, "version", bytes.fromhex("000000000000f03f")),
        "as a boolean": el(0x08, "version", b"\1"),
        "as text": el(0x02, "version", string("1")),
        "missing": b"",
    }.items():
        put(keystore.MalformedRecord, f"root: version: {name}", root=swapped(root, "version", *([version] if version else [])))
    for name in ("store", "kms", "wrapped", "created"):
        put(keystore.MalformedRecord, f"root: no {name}", root=swapped(root, name))
        put(keystore.MalformedRecord, f"root: {name} null", root=with_value(root, name, b"", 0x0A))
        put(keystore.MalformedRecord, f"root: {name} twice", root=swapped(root, name, split(root)[name], split(root)[name]))
    for name, element in {
        "store: binary": el(0x05, "store", binary(STORE.encode())),
        "store: 15 digits": el(0x02, "store", string(STORE[1:])),
        "store: 17 digits": el(0x02, "store", string(STORE + "0")),
        "store: empty": el(0x02, "store", string("")),
        "store: capital letters": el(0x02, "store", string(STORE.upper())),
        "store: no hexadecimal digit": el(0x02, "store", string("g" + STORE[1:])),
        "store: a line feed at the end": el(0x02, "store", string(STORE + "\n")),
        "store: digits that are not ASCII": el(0x02, "store", string("\u0660" * 16)),
        "kms: an array": el(0x04, "kms", split(root)["kms"][5:]),
        "kms: text": el(0x02, "kms", string("local")),
        "wrapped: subtype 4": el(0x05, "wrapped", binary(split(root)["wrapped"][-113:], 4)),
        "wrapped: text": el(0x02, "wrapped", string("abc")),
        "created: int64": el(0x12, "created", split(root)["created"][-8:]),
        "created: text": el(0x02, "created", string("2024-02-29T12:34:56Z")),
        "created: a timestamp": el(0x11, "created", split(root)["created"][-8:]),
    }.items():
        put(keystore.MalformedRecord, f"root: {name}", root=swapped(root, name.partition(":")[0], element))
    put(keystore.MalformedRecord, "root: a name more", root=swapped(root, "created", split(root)["created"], el(0x0A, "more", b"")))
    put(
        keystore.MalformedRecord,
        "root: a tag more",
        root=swapped(root, "created", split(root)["created"], el(0x05, "hmac", binary(bytes(32)))),
    )
    put(
        keystore.MalformedRecord,
        "root: text that is not UTF-8",
        root=swapped(
            root, "kms", el(0x03, "kms", document(el(0x02, "provider", string(b"\xff")), el(0x02, "key", string(KEK_ID))))
        ),
    )


def edited_records(rejects: StoreRejects) -> None:
    """What somebody without the root can do to a sealed record."""
    put = rejects.put
    base = "every purpose and state"
    records = records_by_name()
    roles, data, index = records["roles"], records[DATA], records[INDEX]
    for name, raw in {
        "state": with_value(data, "state", string("decrypt-only")),
        "purpose": with_value(data, "purpose", string("index")),
        "created": with_value(data, "created", i32(0) * 2),
        "check": with_value(data, "check", binary(bytes(8))),
        "data": flipped(data, value_at(data, "data") + 5 + 13),
        "iv": flipped(data, value_at(data, "iv") + 5),
        "tag": flipped(data, len(data) - 2),
        "state missing": swapped(data, "state"),
        "a name more": added(data, el(0x0A, "more", b"")),
    }.items():
        put(keystore.Integrity, f"edited: data key: {name}", data=raw)
    for name in (D_ONLY, D_COMPROMISED, D_DESTROYED):
        put(
            keystore.Integrity,
            f"edited: from {key_state(name)} to active",
            base,
            **{name: with_value(records[name], "state", string("active"))},
        )
    put(keystore.Integrity, "edited: the state of an index key", index=with_value(index, "state", string("destroyed")))
    put(keystore.Integrity, "edited: roles: primary", base, roles=with_value(roles, "primary", string(D_ONLY)))
    put(keystore.Integrity, "edited: roles: search_by", base, roles=with_value(roles, "search_by", string(X_SECOND)))
    put(keystore.Integrity, "edited: roles: search_by null", roles=with_value(roles, "search_by", b"", 0x0A))
    put(
        keystore.Integrity,
        "edited: roles: written",
        base,
        roles=with_value(roles, "written", document(el(0x02, "0", string(X_SECOND)))),
    )
    put(keystore.Integrity, "edited: roles: changed", roles=with_value(roles, "changed", i32(0) * 2))
    put(keystore.Integrity, "swapped: the material of two data keys", base, data=swapped_payload(data, records[D_ONLY]))
    put(keystore.Integrity, "swapped: the material of a data key and an index key", base, data=swapped_payload(data, index))
    put(keystore.Integrity, "swapped: the tag of two keys", base, data=swapped(data, "hmac", split(records[D_ONLY])["hmac"]))
    put(
        keystore.Integrity,
        "relabelled: a decrypt-only key as the primary",
        base,
        data=with_value(records[D_ONLY], "_id", string(DATA)),
    )
    put(keystore.Integrity, "relabelled: a key record as the roles", roles=with_value(data, "_id", string("roles")))
    put(keystore.Integrity, "relabelled: the roles as a key record", index=with_value(roles, "_id", string(INDEX)))
    put(keystore.Integrity, "relabelled: a key under a new kid", **{NEW: with_value(data, "_id", string(NEW))})
    moved = record_of(key_of(DATA), OTHER_STORE)
    put(keystore.Integrity, "moved: a key record of another store with the same root", data=moved)
    put(keystore.Integrity, "moved: the roles of another store with the same root", roles=record_of(roles_of(), OTHER_STORE))
    put(keystore.Integrity, "moved: a key record under another root", data=record_of(key_of(DATA), root=OTHER_ROOT))
    metadata = key_metadata(DATA)
    payload = compact({"material": base64.b64encode(digest(f"material of {DATA}")).decode()})
    for context in ("customers", "mongo_envelope/keys", "mongo_envelope/keys/", f"mongo_envelope/keys/{STORE.upper()}", STORE):
        raw = reference.seal(metadata, payload.encode(), key=STORE_ROOT, kid="root", context=context, iv=IV)
        put(keystore.Integrity, f"moved: sealed in the context {context}", data=raw)
    of_data_key = digest(f"material of {DATA}")
    context = keystore.records_context(STORE)
    put(
        keystore.Integrity,
        "sealed under a data key",
        data=reference.seal(metadata, payload.encode(), key=of_data_key, kid=DATA, context=context, iv=IV),
    )
    put(
        keystore.Integrity,
        "sealed under a data key that calls itself root",
        data=reference.seal(metadata, payload.encode(), key=of_data_key, kid="root", context=context, iv=IV),
    )
    clear = document(*(bson_element(name, value) for name, value in metadata.items()))
    put(keystore.MalformedRecord, "not sealed: a key record in the clear", data=clear)
    put(keystore.MalformedRecord, "not sealed: a key record without hmac", data=swapped(data, "hmac"))
    put(
        keystore.MalformedRecord, "not sealed: an hmac of 16 bytes", data=swapped(data, "hmac", el(0x05, "hmac", binary(bytes(16))))
    )
    put(
        keystore.MalformedRecord,
        "not sealed: the roles in the clear",
        roles=document(*(bson_element(name, value) for name, value in ({"_id": "roles"} | roles_of()._asdict()).items())),
    )
    put(keystore.Integrity, "sealed: kid is not root", data=with_value(data, "kid", string("Root")))
    put(keystore.MalformedRecord, "not sealed: no kid", data=swapped(data, "kid"))
    put(keystore.MalformedRecord, "not sealed: kid is not text", data=with_value(data, "kid", i32(1), 0x10))
    put(keystore.UnsupportedVersion, "sealed: v is 2", data=with_value(data, "v", i32(2)))
    put(keystore.UnsupportedVersion, "sealed: no v", data=swapped(data, "v"))
    put(keystore.MalformedRecord, "sealed: genuine, and iv is too short", data=resealed(with_value(data, "iv", binary(bytes(15)))))


def bson_element(name: str, value: Any) -> bytes:
    """One field as an element."""
    return bson.encode({name: value})[4:-1]


def key_state(kid: str) -> str:
    """The state of a key of `records_by_name`."""
    return {D_ONLY: "decrypt-only", D_COMPROMISED: "compromised", D_DESTROYED: "destroyed"}[kid]


def swapped_payload(raw: bytes, other: bytes) -> bytes:
    """Give a record the payload and the IV of another."""
    return swapped(swapped(raw, "data", split(other)["data"]), "iv", split(other)["iv"])


def key_metadata(kid: str, purpose: str = "data", state: str = "active", **changes: Any) -> Fields:
    """The metadata of a key record."""
    fields = key_of(kid, purpose, state)._asdict()
    return {"_id": kid} | {name: value for name, value in fields.items() if name not in ("kid", "material")} | changes


def genuine_records(rejects: StoreRejects) -> None:
    """What only a holder of the root can have written, and is wrong nevertheless."""
    put, wrong = rejects.put, keystore.InvalidRecord
    material = digest(f"material of {DATA}")
    text = base64.b64encode(material).decode()
    payload = compact({"material": text})
    data = record_of(key_of(DATA))
    index = record_of(key_of(INDEX, "index"))
    roles = record_of(roles_of())
    for name, content in {
        "no material": "{}",
        "material null": '{"material":null}',
        "material a number": '{"material":1}',
        "material empty": '{"material":""}',
        "material of 31 bytes": compact({"material": base64.b64encode(material[:31]).decode()}),
        "material of 33 bytes": compact({"material": base64.b64encode(material + b"\0").decode()}),
        "material without padding": compact({"material": text[:-1]}),
        "material in hexadecimal": compact({"material": material.hex()}),
        "material with a line feed": compact({"material": text + "\n"}),
        "material of another key": compact({"material": base64.b64encode(digest("another")).decode()}),
        "a name more": compact({"material": text, "more": 1}),
        "another name": compact({"Material": text}),
        "the material alone": json.dumps(text),
        "an array": json.dumps([text]),
        "white space inside": json.dumps({"material": text}),
        "white space in front": " " + payload,
        "padding": payload + "     ",
        "an escape": payload.replace("material", "m\\u0061terial"),
    }.items():
        context = keystore.records_context(STORE)
        bare = reference.seal(key_metadata(DATA), b"{}", key=STORE_ROOT, kid="root", context=context, iv=digest(content, 16))
        cipher = reference.crypt(reference.derive(STORE_ROOT, "encrypt", context), digest(content, 16), content.encode())
        put(wrong, f"genuine: payload of an active key: {name}", data=resealed(with_value(bare, "data", binary(cipher))))
    high = bytes([0xFB]) * 32  # has characters in which Base64 and base64url differ
    metadata = key_metadata(DATA, check=reference.check_value(high))
    in_url = compact({"material": base64.urlsafe_b64encode(high).decode()})
    put(wrong, "genuine: payload of an active key: material in base64url", data=free_record(metadata, in_url))
    for name, metadata in {
        "state unknown": key_metadata(DATA, state="suspended"),
        "state in capital letters": key_metadata(DATA) | {"state": "Active"},
        "state empty": key_metadata(DATA) | {"state": ""},
        "state with an underscore": key_metadata(DATA) | {"state": "decrypt_only"},
        "state null": key_metadata(DATA) | {"state": None},
        "state a number": key_metadata(DATA) | {"state": 1},
        "purpose unknown": key_metadata(DATA) | {"purpose": "subject"},
        "purpose empty": key_metadata(DATA) | {"purpose": ""},
        "purpose null": key_metadata(DATA) | {"purpose": None},
        "purpose a list": key_metadata(DATA) | {"purpose": ["data"]},
        "created null": key_metadata(DATA) | {"created": None},
        "created text": key_metadata(DATA) | {"created": "2024-02-29T12:34:56Z"},
        "created a number": key_metadata(DATA) | {"created": Int64(1709210096789)},
        "check of another key": key_metadata(DATA) | {"check": reference.check_value(digest("another"))},
        "check of 7 bytes": key_metadata(DATA) | {"check": reference.check_value(material)[:7]},
        "check of 9 bytes": key_metadata(DATA) | {"check": reference.check_value(material) + b"\0"},
        "check empty": key_metadata(DATA) | {"check": b""},
        "check as text": key_metadata(DATA) | {"check": reference.check_value(material).hex()},
        "check of subtype 128": key_metadata(DATA) | {"check": Binary(reference.check_value(material), 128)},
        "check null": key_metadata(DATA) | {"check": None},
        "a name more": key_metadata(DATA) | {"more": 1},
        "expires": key_metadata(DATA) | {"expires": WHEN},
    }.items():
        put(wrong, f"genuine: {name}", data=free_record(metadata, payload))
    for name in ("purpose", "state", "created", "check"):
        without = {each: value for each, value in key_metadata(DATA).items() if each != name}
        put(wrong, f"genuine: no {name}", data=free_record(without, payload))
    state = split(data)["state"]
    put(wrong, "genuine: state a code", data=resealed(swapped(data, "state", b"\x0d" + state[1:])))
    put(wrong, "genuine: created a timestamp", data=resealed(swapped(data, "created", b"\x11" + split(data)["created"][1:])))
    put(wrong, "genuine: with idx", data=resealed(added(data, el(0x03, "idx", document(el(0x02, "kid", string("x1")))))))
    for name, kid in {
        "empty": "",
        "65 characters": "k" * 65,
        "a space": "k 1",
        "a line feed at the end": "k1\n",
        "not ASCII": "k\u00e9",
    }.items():
        fields = key_metadata("k1") | {"_id": kid}
        content = compact({"material": base64.b64encode(digest("material of k1")).decode()})
        put(wrong, f"genuine: kid: {name}", **{kid or "empty": free_record(fields, content)})
    put(wrong, "genuine: a key record under the _id roles", roles=free_record(key_metadata(DATA) | {"_id": "roles"}, payload))
    put(wrong, "genuine: roles under the _id of a key", index=free_record(roles_of()._asdict() | {"_id": INDEX}, "{}"))
    destroyed = key_metadata(D_DESTROYED, state="destroyed")
    lost = compact({"material": base64.b64encode(digest(f"material of {D_DESTROYED}")).decode()})
    base = "every purpose and state"
    put(wrong, "genuine: destroyed, with material", base, **{D_DESTROYED: free_record(destroyed, lost)})
    put(wrong, "genuine: destroyed, with empty material", base, **{D_DESTROYED: free_record(destroyed, '{"material":""}')})
    put(wrong, "genuine: destroyed, with padding", base, **{D_DESTROYED: free_record(destroyed, "{} ")})
    put(wrong, "genuine: destroyed, without a check value", base, **{D_DESTROYED: free_record(destroyed | {"check": b""}, "{}")})
    put(
        wrong,
        "genuine: decrypt-only, without material",
        base,
        **{D_ONLY: free_record(key_metadata(D_ONLY, state="decrypt-only"), "{}")},
    )
    put(
        wrong,
        "genuine: compromised, without material",
        base,
        **{D_COMPROMISED: free_record(key_metadata(D_COMPROMISED, state="compromised"), "{}")},
    )
    for state_ in ("decrypt-only", "compromised"):
        content = compact({"material": base64.b64encode(digest(f"material of {X_SECOND}")).decode()})
        put(
            wrong,
            f"genuine: an index key that is {state_}",
            base,
            **{X_SECOND: free_record(key_metadata(X_SECOND, "index", state_), content)},
        )

    def roles_but(**changes: Any) -> bytes:
        return free_record({"_id": "roles"} | roles_of()._asdict() | changes, "{}")

    for name, raw in {
        "primary null": roles_but(primary=None),
        "primary a list": roles_but(primary=[DATA]),
        "search_by a list": roles_but(search_by=[INDEX]),
        "search_by null, and something is written": roles_but(search_by=None),
        "search_by, and nothing is written": roles_but(written=[]),
        "written text": roles_but(written=INDEX),
        "written null": roles_but(written=None),
        "written with a number": roles_but(written=[1, INDEX]),
        "written with null": roles_but(written=[None]),
        "written names one twice": roles_but(written=[INDEX, INDEX]),
        "written out of order": roles_but(written=sorted([INDEX, X_SECOND], reverse=True)),
        "changed null": roles_but(changed=None),
        "changed text": roles_but(changed="2024"),
        "a name more": roles_but(more=1),
        "padding": free_record({"_id": "roles"} | roles_of()._asdict(), "{}  "),
        "a payload": free_record({"_id": "roles"} | roles_of()._asdict(), '{"primary":"k1"}'),
        "material": free_record({"_id": "roles"} | roles_of()._asdict(), payload),
    }.items():
        put(wrong, f"genuine: roles: {name}", base, roles=raw)
    for name in ("primary", "search_by", "written", "changed"):
        without = {each: value for each, value in ({"_id": "roles"} | roles_of()._asdict()).items() if each != name}
        put(wrong, f"genuine: roles: no {name}", roles=free_record(without, "{}"))
    put(
        wrong,
        "genuine: roles: written a document",
        roles=resealed(swapped(roles, "written", b"\x03" + split(roles)["written"][1:])),
    )
    demand(len(index) > 0, "an index key")


def contradictions(rejects: StoreRejects) -> None:
    """Genuine records that do not fit each other."""
    put, base = rejects.put, "every purpose and state"
    wrong = keystore.Contradiction
    for name, primary in {
        "nobody knows": NO_KEY,
        "is compromised": D_COMPROMISED,
        "is destroyed": D_DESTROYED,
        "is an index key": INDEX,
    }.items():
        put(wrong, f"roles: a primary key that {name}", base, roles=record_of(roles_of(primary)))
    for name in ("root", "roles", ""):
        fields = {"_id": "roles"} | roles_of()._asdict() | {"primary": name}
        put(wrong, f"roles: primary is {name or 'empty'}", base, roles=free_record(fields, "{}"))
    for name, kid in {"nobody knows": NO_KEY, "is destroyed": X_DESTROYED, "is a data key": DATA}.items():
        put(wrong, f"roles: searched by and written under a key that {name}", base, roles=record_of(roles_of(search_by=kid)))
        put(wrong, f"roles: also written under a key that {name}", base, roles=record_of(roles_of(written=sorted([INDEX, kid]))))
    unsearched = {"_id": "roles"} | roles_of()._asdict() | {"search_by": X_SECOND}
    put(wrong, "roles: search_by is not written", base, roles=free_record(unsearched, "{}"))
    put(wrong, "roles: search_by is a data key, and not written", base, roles=free_record(unsearched | {"search_by": DATA}, "{}"))
    put(wrong, "deleted: the record of the primary key", data=None)
    put(wrong, "deleted: the record of the index key", index=None)
    put(wrong, "deleted: all key records", data=None, index=None)
    for state in ("compromised", "destroyed"):
        put(wrong, f"replayed: the roles of before the primary became {state}", data=record_of(key_of(DATA, state=state)))
    put(wrong, "replayed: the roles of before the index key was destroyed", index=record_of(key_of(INDEX, "index", "destroyed")))


def keystore_reject_vectors(good: dict[str, Stored]) -> list[dict[str, Any]]:
    """Stores that do not read, each with the one error that is right."""
    rejects = StoreRejects(good)
    for part in (wrapped_roots, root_records, edited_records, genuine_records, contradictions):
        part(rejects)
    cases = []
    for name, (error, base, case) in rejects.cases.items():
        demand(case.outcome() == error, f"keystore: {name}: {case.outcome() or 'it reads'}, not {error}")
        before = good[base]
        changed = (
            set(case.records) != set(before.records) or len(case.records) != len(before.records),
            repr(case[1:]) != repr(before[1:]),
        )
        demand(sum(changed) == 1, f"keystore: {name}: the records or the configuration differ from the base")
        cases.append({"name": name, "base": base} | case.arguments() | {"error": error})
    return cases


def flips_of_a_store(made: Stored) -> None:
    """No bit of any record may be flipped unseen, but for those of ``created`` in the root record."""
    free = range(made.records[0].index(b"\x09created") + 9, made.records[0].index(b"\x09created") + 17)
    for number, raw in enumerate(made.records):
        for at, bit in itertools.product(range(len(raw)), range(8)):
            changed = [flipped(raw, at, bit) if each == number else other for each, other in enumerate(made.records)]
            seen = made._replace(records=changed).outcome() != ""
            demand(seen != (number == 0 and at in free), f"bit {bit} of byte {at} of record {number} of a store")


def store_vectors(good: dict[str, Stored]) -> list[dict[str, Any]]:
    """Stores that read, each with what is in it."""
    cases = []
    for name, case in good.items():
        found = case.read()
        in_file = keystore.to_file(case.records)
        again = keystore.from_file(json.dumps(in_file, ensure_ascii=False))
        demand(case._replace(records=again).read() == found, f"keystore: {name}: as a file")
        keys = sorted((*found.data_keys.values(), *found.index_keys.values()), key=lambda key: key.kid.encode())
        result = {"store": found.store, "root": found.root.hex(), "root_fingerprint": found.fingerprint.hex()}
        result |= {"keys": [told(key) for key in keys], "roles": told(found.roles), "file": in_file}
        cases.append({"name": name} | case.arguments() | result)
    return cases


def record_vectors() -> list[dict[str, Any]]:
    """Key records of each purpose and state, and roles, with the bytes that are right."""
    contents: dict[str, keystore.Key | keystore.Roles] = {
        f"{purpose} key, {state}": key_of("0011223344556677", purpose, state)
        for purpose, states in STATES_OF.items()
        for state in states
    }
    contents |= {
        "a kid of one character": key_of("k"),
        "a kid of 64 characters": key_of("A-Z_a.z0" * 8),
        "created before 1970": key_of("k1", created=dt.datetime(1969, 12, 31, 23, 59, 59, 999000, tzinfo=dt.UTC)),
        "roles as made": roles_of(),
        "roles without index keys": roles_of(search_by=None),
        "roles with two index keys": roles_of(search_by=X_SECOND, written=sorted([INDEX, X_SECOND])),
        "roles with kids whose order is that of bytes": roles_of(search_by="a", written=["-", ".", "A", "Z", "_", "a", "aa", "b"]),
    }
    cases = []
    for name, content in contents.items():
        for store, root in ((STORE, STORE_ROOT), (OTHER_STORE, OTHER_ROOT)):
            raw, iv = record_of(content, store, root), iv_of(store, told(content))
            demand(split(raw)["iv"][-16:] == iv, f"keystore: {name}: its iv")
            kind = "key" if isinstance(content, keystore.Key) else "roles"
            case = {"name": f"{name}, store {store[:4]}", "store": store, "root": root.hex(), "iv": iv.hex(), kind: told(content)}
            metadata, payload = keystore.opened(raw, store, root)
            read = (keystore.read_key if kind == "key" else keystore.read_roles)(raw, metadata, payload)
            demand(read == content, f"keystore: {name}: reads as it was written")
            cases.append(case | {"document": raw.hex()})
    return cases


def refused_records() -> list[dict[str, Any]]:
    """What a writer of records refuses."""
    contents: dict[str, keystore.Key | keystore.Roles] = {
        "kid root": key_of("root"),
        "kid roles": key_of("roles"),
        "kid empty": key_of(""),
        "kid of 65 characters": key_of("k" * 65),
        "kid with a line feed": key_of("k1\n"),
        "kid that is not ASCII": key_of("k\u00e9"),
        "purpose unknown": key_of("k1", purpose="subject"),
        "state unknown": key_of("k1", state="suspended"),
        "state of an index key: decrypt-only": key_of("x1", "index", "decrypt-only"),
        "state of an index key: compromised": key_of("x1", "index", "compromised"),
        "destroyed, with material": key_of("k1")._replace(state="destroyed"),
        "active, without material": key_of("k1", material=None),
        "compromised, without material": key_of("k1", state="compromised", material=None),
        "material of 31 bytes": key_of("k1", material=bytes(31)),
        "material of 33 bytes": key_of("k1", material=bytes(33)),
        "check of another key": key_of("k1", check=bytes(8)),
        "check of 7 bytes": key_of("k1", state="destroyed", check=bytes(7)),
        "roles: written out of order": roles_of(written=sorted([INDEX, X_SECOND], reverse=True)),
        "roles: written twice": roles_of(written=[INDEX, INDEX]),
        "roles: search_by is not written": roles_of(written=[X_SECOND]),
        "roles: search_by null, and something is written": roles_of(search_by=None, written=[INDEX]),
        "roles: search_by, and nothing is written": roles_of(written=[]),
        "roles: primary is root": roles_of("root"),
        "roles: primary is empty": roles_of(""),
    }
    cases = []
    for name, content in contents.items():
        try:
            record_of(content)
        except ValueError:
            refused = True
        else:
            refused = False
        demand(refused, f"keystore: {name}: a writer refuses it")
        cases.append({"name": name, ("key" if isinstance(content, keystore.Key) else "roles"): told(content)})
    return cases


def local_vectors() -> dict[str, Any]:
    """The local key-encryption key: what it wraps, what it refuses to unwrap, its file."""
    secret = keystore.secret_of(STORE, STORE_ROOT)
    cases = {
        "a secret": (KEK, NONCE, secret),
        "another nonce": (KEK, bytes(12), secret),
        "another key": (OTHER_KEK, NONCE, secret),
        "the secret of another store": (KEK, NONCE, keystore.secret_of(OTHER_STORE, OTHER_ROOT)),
        "nothing": (KEK, NONCE, b""),
        "one byte": (KEK, NONCE, b"\xff"),
        "256 bytes": (KEK, NONCE, bytes(range(256))),
    }
    local = []
    for name, (kek, nonce, inside) in cases.items():
        wrapped = keystore.local_wrap(kek, inside, nonce=nonce)
        demand(keystore.local_unwrap(kek, wrapped) == inside, f"local: {name}: unwraps")
        numbers = {"kek": kek, "wrap_key": keystore.local_wrap_key(kek), "nonce": nonce, "secret": inside, "wrapped": wrapped}
        local.append({"name": name} | {each: value.hex() for each, value in numbers.items()})
    refused = []
    for name, blob in damaged_blobs(keystore.local_wrap(KEK, secret, nonce=NONCE), secret).items():
        try:
            keystore.local_unwrap(KEK, blob)
        except keystore.Unwrap:
            refused.append({"name": name, "kek": KEK.hex(), "wrapped": blob.hex(), "error": "Unwrap"})
        else:
            demand(condition=False, message=f"local: {name}: is refused")
    return {"local": local, "local_refused": refused} | local_files()


def local_files() -> dict[str, Any]:
    """Files of a local key-encryption key."""
    good = keystore.local_file(KEK, KEK_ID)
    files = {
        "as written": json.dumps(good),
        "with white space and in another order": json.dumps(dict(reversed(good.items())), indent=1) + "\n",
        "another key": json.dumps(keystore.local_file(OTHER_KEK, OTHER_KEK_ID)),
    }
    wrong = {
        "empty": "",
        "not JSON": "kek",
        "an array": json.dumps([good]),
        "cut off": json.dumps(good)[:-1],
        "the key alone": json.dumps(good["kek"]),
        "version 2": json.dumps(good | {"version": 2}),
        "version as text": json.dumps(good | {"version": "1"}),
        "version true": json.dumps(good | {"version": True}),
        "version 1.0": json.dumps(good | {"version": 1.0}),
        "a name more": json.dumps(good | {"more": 1}),
        "kek of 31 bytes": json.dumps(good | {"kek": base64.b64encode(KEK[:31]).decode()}),
        "kek of 33 bytes": json.dumps(good | {"kek": base64.b64encode(KEK + b"\0").decode()}),
        "kek in hexadecimal": json.dumps(good | {"kek": KEK.hex()}),
        "kek null": json.dumps(good | {"kek": None}),
        "kek of another key": json.dumps(good | {"kek": base64.b64encode(OTHER_KEK).decode()}),
        "check of another key": json.dumps(good | {"check": reference.check_value(OTHER_KEK).hex()}),
        "check cut off": json.dumps(good | {"check": good["check"][:14]}),
        "check empty": json.dumps(good | {"check": ""}),
        "check null": json.dumps(good | {"check": None}),
        "id of 15 digits": json.dumps(good | {"id": KEK_ID[1:]}),
        "id of 17 digits": json.dumps(good | {"id": KEK_ID + "0"}),
        "id in capital letters": json.dumps(good | {"id": KEK_ID.upper()}),
        "id with a line feed": json.dumps(good | {"id": KEK_ID + "\n"}),
        "id a number": json.dumps(good | {"id": 1}),
        "a key file": json.dumps(keystore.key_file([keystore.FileKey("k1", KEK)], "k1")),
    } | {f"no {name}": json.dumps({each: value for each, value in good.items() if each != name}) for name in good}
    found = []
    for name, text in files.items():
        kek, id = keystore.read_local_file(text)
        found.append({"name": name, "file": text, "kek": kek.hex(), "id": id, "identity": keystore.local_identity(id)})
    return {"local_files": found, "local_files_refused": refused_texts(wrong, keystore.read_local_file)}


def refused_texts(wrong: dict[str, str], read: Callable[[str], object]) -> list[dict[str, Any]]:
    """Texts that are not the file that they should be."""
    cases = []
    for name, text in wrong.items():
        try:
            read(text)
        except (keystore.ConfigurationError, keystore.MalformedFile) as error:
            cases.append({"name": name, "file": text, "error": type(error).__name__})
        else:
            demand(condition=False, message=f"files: {name}: is refused")
    return cases


def store_files_refused(made: Stored) -> list[dict[str, Any]]:
    """Files that are not those of a store."""
    good = keystore.to_file(made.records)
    records = good["records"]
    wrong = {
        "empty": "",
        "not JSON": "root",
        "cut off": json.dumps(good)[:-1],
        "the records alone": json.dumps(records),
        "version 2": json.dumps(good | {"version": 2}),
        "version true": json.dumps(good | {"version": True}),
        "version 1.0": json.dumps(good | {"version": 1.0}),
        "version as text": json.dumps(good | {"version": "1"}),
        "no version": json.dumps({"records": records}),
        "no records": json.dumps({"version": 1}),
        "a name more": json.dumps(good | {"more": 1}),
        "records an object": json.dumps(good | {"records": {each["_id"]: each for each in records}}),
        "records null": json.dumps(good | {"records": None}),
        "a record that is text": json.dumps(good | {"records": [*records, "zzz"]}),
        "a record that is null": json.dumps(good | {"records": [*records, None]}),
        "a number that is none": json.dumps(good | {"records": [{"_id": "a", "b": {"$numberInt": "one"}}]}),
        "a name with NUL": json.dumps(good | {"records": [{"_id": "a", "b\0": "c"}]}),
        "a key file": json.dumps(keystore.key_file([keystore.FileKey("k1", KEK)], "k1")),
    }
    return refused_texts(wrong, keystore.from_file)


def secret_vectors() -> list[dict[str, Any]]:
    """The secret that is wrapped."""
    pairs = [(STORE, STORE_ROOT), (OTHER_STORE, OTHER_ROOT), ("0" * 16, bytes(32)), ("f" * 16, bytes([255] * 32))]
    by_hand = b"\0\0\0\x11mongo_envelope/v1\0\0\0\x04root\0\0\0\x10" + STORE.encode() + b"\0\0\0\x20" + STORE_ROOT
    demand(keystore.secret_of(STORE, STORE_ROOT) == by_hand, "the secret by hand")
    return [
        {
            "store": store,
            "root": root.hex(),
            "secret": keystore.secret_of(store, root).hex(),
            "fingerprint": reference.fingerprint(root).hex(),
        }
        for store, root in pairs
    ]


def keystore_vectors() -> dict[str, Any]:
    """Everything about key stores."""
    good = good_stores()
    flips_of_a_store(good["as made"])
    return {
        "errors": {error.__name__: name for error, name in keystore.IN_THE_LIBRARY.items()},
        "secrets": secret_vectors(),
        **local_vectors(),
        "records": record_vectors(),
        "records_refused": refused_records(),
        "stores": store_vectors(good),
        "reject": keystore_reject_vectors(good),
        "files_refused": store_files_refused(good["as made"]),
    }


# --- capabilities ---------------------------------------------------------------------------------------------------

FILE_KEYS = [keystore.FileKey("k1", KEY, "2024-02-29T12:34:56+00:00"), keystore.FileKey("k2", OTHER_KEY)]
FILE_INDEX_KEYS = [
    keystore.FileKey("x1", bytes(range(0x80, 0xA0)), "2024-02-29T12:34:56+01:00"),
    keystore.FileKey("x2", bytes(range(0xA0, 0xC0))),
]
RESTRICTIONS = {
    "verify": (["verify"], ["customers"]),
    "metadata": (["metadata"], ["customers"]),
    "search": (["search"], ["customers"]),
    "verify and search": (["search", "verify"], ["customers"]),
    "all, in three contexts": (["metadata", "search", "verify"], ["customers", "orders", "cl\u00e9s"]),
    "verify, in a context of 255 bytes": (["verify"], ["\u00e9" * 127 + "x"]),
}


def capability_vectors() -> dict[str, Any]:
    """Key files of all versions."""
    whole = {
        "version 1": keystore.key_file(FILE_KEYS[:1], "k1"),
        "version 1, two keys": keystore.key_file(FILE_KEYS, "k2"),
        "version 2": keystore.key_file(FILE_KEYS[:1], "k1", index_keys=FILE_INDEX_KEYS[:1], search_by="x1", written=["x1"]),
        "version 2, two index keys": keystore.key_file(
            FILE_KEYS, "k1", index_keys=FILE_INDEX_KEYS, search_by="x2", written=["x2", "x1"]
        ),
        "version 2, an index key that is not written": keystore.key_file(
            FILE_KEYS, "k1", index_keys=FILE_INDEX_KEYS, search_by="x2", written=["x2"]
        ),
    }
    good, cases, restricted = {}, [], []
    for name, content in whole.items():
        found = keystore.read_key_file(json.dumps(content))
        good[name] = content
        keys = {part: {kid: key.hex() for kid, key in found[part].items()} for part in ("keys", "index_keys") if part in found}
        roles = {each: found[each] for each in ("primary", "search_by", "written") if each in found}
        cases.append({"name": name, "file": json.dumps(content)} | keys | roles)
    for name, (capabilities, contexts) in RESTRICTIONS.items():
        content = keystore.restricted_file(
            capabilities, contexts, FILE_KEYS, index_keys=FILE_INDEX_KEYS, search_by="x2", written=["x1", "x2"]
        )
        found = keystore.read_key_file(json.dumps(content))
        good[name] = content
        check_capabilities(name, found, capabilities, contexts)
        parts = {
            part: {kid: {context: key.hex() for context, key in keys.items()} for kid, keys in found[part].items()}
            for part in ("keys", "index_keys")
        }
        restricted.append(
            {
                "name": name,
                "from": "version 2, two index keys",
                "capabilities": capabilities,
                "contexts": contexts,
                "file": content,
                "working_keys": parts,
            }
        )
    return {
        "whole": cases,
        "restricted": restricted,
        "refused": refused_texts(refused_key_files(good), keystore.read_key_file),
    }


def check_capabilities(name: str, found: Fields, capabilities: list[str], contexts: list[str]) -> None:
    """What is in a restricted file are working keys of the right purposes, and nothing else."""
    for part, purpose, keys, names in (
        ("keys", "authenticate", FILE_KEYS, {"verify", "metadata"}),
        ("index_keys", "index", FILE_INDEX_KEYS, {"search"}),
    ):
        expected = {key.kid: {each: reference.derive(key.material, purpose, each) for each in contexts} for key in keys}
        demand(found[part] == (expected if names & set(capabilities) else {}), f"capabilities: {name}: {part}")


def refused_key_files(good: dict[str, Fields]) -> dict[str, str]:
    """Key files that a reader refuses, each made from a good one."""
    wrong: dict[str, Any] = {}
    one, two, search = good["version 1, two keys"], good["version 2, two index keys"], good["verify and search"]
    verify, everything = good["verify"], good["all, in three contexts"]
    first = one["keys"][0]
    other = keystore.file_entry(keystore.FileKey("k1", OTHER_KEY))

    def but(content: Fields, **changes: Any) -> Fields:
        return content | changes

    def entry_but(content: Fields, part: str = "keys", **changes: Any) -> Fields:
        return content | {part: [content[part][0] | changes, *content[part][1:]]}

    def without(content: Fields, name: str) -> Fields:
        return {each: value for each, value in content.items() if each != name}

    for label, content in {"version 1": one, "version 2": two, "version 3": search}.items():
        wrong |= {f"{label}: no {name}": without(content, name) for name in content}
        wrong |= {
            f"{label}: a name more": content | {"more": 1},
            f"{label}: version as text": content | {"version": str(content["version"])},
            f"{label}: version with a fraction": content | {"version": float(content["version"])},
            f"{label}: version 4": content | {"version": 4},
            f"{label}: version 0": content | {"version": 0},
            f"{label}: version null": content | {"version": None},
            f"{label}: keys an object": content | {"keys": {}},
            f"{label}: keys null": content | {"keys": None},
            f"{label}: no key": content | {"keys": []},
            f"{label}: a name more in an entry": entry_but(content, state="compromised"),
            f"{label}: a kid twice": content | {"keys": [*content["keys"], content["keys"][0]]},
            f"{label}: a kid that is ill-formed": entry_but(content, kid="k 1"),
            f"{label}: a kid with a line feed": entry_but(content, kid="k1\n"),
            f"{label}: a kid that is a number": entry_but(content, kid=1),
            f"{label}: check not hexadecimal": entry_but(content, check="g" * 16),
            f"{label}: check cut off": entry_but(content, check=content["keys"][0]["check"][:14]),
            f"{label}: check null": entry_but(content, check=None),
            f"{label}: created not a date": entry_but(content, created="yesterday"),
            f"{label}: created a number": entry_but(content, created=1709210096),
            f"{label}: an entry that is text": content | {"keys": ["k1"]},
        }
        wrong |= {
            f"{label}: no {name} in an entry": content | {"keys": [without(content["keys"][0], name), *content["keys"][1:]]}
            for name in content["keys"][0]
        }
    for label, content in {"version 2": two, "version 3": search}.items():
        wrong |= {
            f"{label}: no index key": content | {"index_keys": []},
            f"{label}: a kid of a key and an index key": entry_but(content, "index_keys", kid="k1"),
            f"{label}: search_by is not there": content | {"search_by": "x9"},
            f"{label}: search_by is not written": content | {"search_by": "x1", "written": ["x2"]},
            f"{label}: search_by null": content | {"search_by": None},
            f"{label}: written is not there": content | {"written": ["x1", "x2", "x9"]},
            f"{label}: written twice": content | {"written": ["x1", "x2", "x2"]},
            f"{label}: written empty": content | {"written": []},
            f"{label}: written with a number": content | {"written": ["x2", 1]},
            f"{label}: written names a data key": content | {"written": ["k1", "x2"]},
        }
    for label, content in {"version 1": one, "version 2": two}.items():
        wrong |= {
            f"{label}: primary is not there": but(content, primary="k9"),
            f"{label}: primary null": but(content, primary=None),
            f"{label}: primary a number": but(content, primary=1),
            f"{label}: material of 31 bytes": entry_but(content, material=base64.b64encode(KEY[:31]).decode()),
            f"{label}: material not Base64": entry_but(content, material="*" * 44),
            f"{label}: material null": entry_but(content, material=None),
            f"{label}: material of another key": entry_but(content, material=other["material"]),
            f"{label}: check of another key": entry_but(content, check=other["check"]),
        }
    wrong |= {
        "version 1: with the names of version 2": two | {"version": 1},
        "version 2: with the names of version 1": one | {"version": 2},
        "version 2: primary is an index key": but(two, primary="x1"),
        "version 1: true": one | {"version": True},
    }
    inner, both = verify["keys"][0]["contexts"], everything["keys"][0]["contexts"]

    def inner_but(**changes: Any) -> Fields:
        return entry_but(verify, contexts={"customers": inner["customers"] | changes})

    wrong |= {
        "version 3: capabilities empty": but(verify, capabilities=[]),
        "version 3: capabilities as text": but(verify, capabilities="verify"),
        "version 3: capability unknown": but(verify, capabilities=["verify", "decrypt"]),
        "version 3: capability twice": but(verify, capabilities=["verify", "verify"]),
        "version 3: capability null": but(verify, capabilities=[None]),
        "version 3: metadata without verify": but(verify, capabilities=["metadata"]),
        "version 3: contexts empty": but(verify, contexts=[]),
        "version 3: contexts as text": but(verify, contexts="customers"),
        "version 3: context twice": but(verify, contexts=["customers", "customers"]),
        "version 3: context a number": but(verify, contexts=[1]),
        "version 3: a context that no entry has": but(verify, contexts=["customers", "orders"]),
        "version 3: a context that only an entry has": but(everything, contexts=["customers", "orders"]),
        "version 3: another context": but(verify, contexts=["orders"]),
        "version 3: contexts of an entry a list": entry_but(verify, contexts=list(inner.values())),
        "version 3: contexts of an entry empty": entry_but(verify, contexts={}),
        "version 3: contexts of one entry with one less": entry_but(
            everything, contexts=without(everything["keys"][0]["contexts"], "orders")
        ),
        "version 3: an empty context": entry_but(verify, contexts={"": inner["customers"]})
        | {"contexts": [""], "keys": [verify["keys"][0] | {"contexts": {"": inner["customers"]}}]},
        "version 3: a context of 256 bytes": but(
            verify, contexts=["c" * 256], keys=[verify["keys"][0] | {"contexts": {"c" * 256: inner["customers"]}}]
        ),
        "version 3: a working key of 31 bytes": inner_but(key=base64.b64encode(KEY[:31]).decode()),
        "version 3: a working key in hexadecimal": inner_but(key=KEY.hex()),
        "version 3: a working key null": inner_but(key=None),
        "version 3: another working key": inner_but(key=base64.b64encode(KEY).decode()),
        "version 3: the check value of another working key": inner_but(check=reference.check_value(KEY).hex()),
        "version 3: the check value of a working key cut off": inner_but(check=inner["customers"]["check"][:14]),
        "version 3: the check value of a working key null": inner_but(check=None),
        "version 3: a working key without a check value": entry_but(
            verify, contexts={"customers": {"key": inner["customers"]["key"]}}
        ),
        "version 3: a working key and a name more": inner_but(more=1),
        "version 3: a working key alone": entry_but(verify, contexts={"customers": inner["customers"]["key"]}),
        "version 3: the working keys of two contexts exchanged, without their check values": entry_but(
            everything,
            contexts=both
            | {
                "customers": both["customers"] | {"key": both["orders"]["key"]},
                "orders": both["orders"] | {"key": both["customers"]["key"]},
            },
        ),
        "version 3: verify, with index keys": but(verify, index_keys=search["index_keys"], search_by="x2", written=["x2"]),
        "version 3: verify, with search_by": but(verify, search_by="x1"),
        "version 3: verify, with written": but(verify, written=["x1"]),
        "version 3: search, with keys": but(search, capabilities=["search"]),
        "version 3: search without index keys": but(verify, capabilities=["search", "verify"]),
        "version 3: search_by without search": but(verify, search_by="x2"),
        "version 3: with whole keys": but(verify, keys=[first]),
        "version 3: with material beside": entry_but(verify, material=first["material"]),
        "version 3: with a primary": but(verify, primary="k1"),
    }
    texts = {name: json.dumps(content) for name, content in wrong.items()}
    return texts | {
        "empty": "",
        "not JSON": "keys",
        "an array": json.dumps([one]),
        "text": json.dumps("keys"),
        "cut off": json.dumps(one)[:-2],
        "the file of a local key-encryption key": json.dumps(keystore.local_file(KEK, KEK_ID)),
    }


# --- files ----------------------------------------------------------------------------------------------------------


CONTRADICTIONS: list[str] = []


def demand(condition: object, message: str) -> None:
    """Note what contradicts the reference; nothing is written then."""
    if not condition:
        CONTRADICTIONS.append(message)


def rendered() -> dict[Path, str]:
    """Every file with its text."""

    def text(content: dict[str, Any]) -> str:
        return json.dumps({"format": "mongo_envelope/v1"} | content, indent=1, ensure_ascii=True) + "\n"

    cases, refused = seal_vectors()
    specification = HERE / "envelope-v1.md"
    around = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    prose = specification.read_text(encoding="utf-8")
    demand(len(around.findall(prose)) == 1, "envelope-v1.md has the two marks of the worked example once")
    worked = example()
    return {
        HERE / "vectors" / "seal.json": text({"cases": cases, "refused": refused}),
        HERE / "vectors" / "padding.json": text({"lengths": padding_lengths(), "cases": padding_cases()}),
        HERE / "vectors" / "open.json": text({"cases": open_vectors()}),
        HERE / "vectors" / "reject.json": text({"cases": reject_vectors()}),
        HERE / "vectors" / "derive.json": text(derive_vectors()),
        HERE / "vectors" / "index.json": text(index_vectors()),
        HERE / "vectors" / "keystore.json": text(keystore_vectors()),
        HERE / "vectors" / "capabilities.json": text(capability_vectors()),
        specification: around.sub(lambda _: worked, prose),
    } | ({UNASSIGNED: unassigned()} if unicodedata.unidata_version == "14.0.0" else {})


def main(arguments: list[str]) -> int:
    """Write the files, or with ``--check`` compare them."""
    if arguments not in ([], ["--check"]):
        print("usage: generate_vectors.py [--check]", file=sys.stderr)
        return 2
    if not arguments and unicodedata.unidata_version == "14.0.0":
        UNASSIGNED.write_text(unassigned(), encoding="ascii")  # first, since the reference reads it
    if not UNASSIGNED.exists():
        print(f"{UNASSIGNED.relative_to(HERE)}: missing, and only a Python with Unicode 14.0 writes it", file=sys.stderr)
        return 1
    files = rendered()
    if CONTRADICTIONS:
        print(*(f"generate_vectors: {message}" for message in CONTRADICTIONS), sep="\n", file=sys.stderr)
        return 1
    status = 0
    for path, text in files.items():
        found = path.read_text(encoding="utf-8") if path.exists() else ""
        if arguments:
            for line in difflib.unified_diff(found.splitlines(), text.splitlines(), lineterm="", n=0):
                if line[:1] in "+-" and line[:3] not in ("+++", "---"):
                    status = 1
                    kind = "missing or changed" if line[0] == "+" else "not expected"
                    print(f"{path.relative_to(HERE)}: {kind}: {line[1:].strip()[:160]}")
        elif found != text:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(HERE)}")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
