"""A second, independent implementation of the stored format v1, written from ``envelope-v1.md`` alone.

Plain and slow on purpose. It imports nothing of the library, so that the two can disagree; ``cryptography`` serves for
AES-CTR, ``bson`` for turning values into elements and back; HKDF and the walk over the elements are written out. What
Unicode 14.0 assigns is in ``vectors/unassigned14.txt``; ``phonenumbers`` is needed for the normaliser ``phone`` alone.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import ipaddress
import itertools
import json
import math
import re
import struct
import unicodedata
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import bson
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.objectid import ObjectId
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

Element = tuple[bytes, bytes]  # (name, the whole element: type, name, zero, value)
Fields = dict[str, Any]

LABEL = b"mongo_envelope/v1"
PURPOSES_WITH_CONTEXT = ("encrypt", "authenticate", "index", "value-encrypt", "value-authenticate")
PURPOSES_WITHOUT_CONTEXT = ("fingerprint", "check", "wrap")
RESERVED = {"_id", "idx", "v", "kid", "iv", "data", "hmac"}
KID = re.compile(rb"[A-Za-z0-9_.-]{1,64}")

VERSION_ELEMENT = b"\x10v\0" + b"\x01\0\0\0"
TAG_HEADER = b"\x05hmac\0" + b"\x20\0\0\0" + b"\0"
MAX_ELEMENTS = 4096
TRAILER = len(TAG_HEADER) + 32 + 1  # the hmac element and the closing zero: 44

STRING, DOCUMENT, ARRAY, BINARY, REGEX, TIMESTAMP = 0x02, 0x03, 0x04, 0x05, 0x0B, 0x11

# Section 4.2: the size of a value, by its type …
FIXED = {0x01: 8, 0x06: 0, 0x07: 12, 0x08: 1, 0x09: 8, 0x0A: 0, 0x10: 4, 0x11: 8, 0x12: 8, 0x13: 16, 0x7F: 0, 0xFF: 0}
# … or what to add to the int32 that it starts with, and the least that this int32 may be.
ADDED = {0x02: 4, 0x03: 0, 0x04: 0, 0x05: 5, 0x0C: 16, 0x0D: 4, 0x0E: 4, 0x0F: 0}
LEAST = {0x02: 1, 0x03: 5, 0x04: 5, 0x05: 0, 0x0C: 1, 0x0D: 1, 0x0E: 1, 0x0F: 14}

UUIDS, DATES = UuidRepresentation.STANDARD, DatetimeConversion.DATETIME_AUTO
OPTIONS: CodecOptions[Fields] = CodecOptions(uuid_representation=UUIDS, tz_aware=True, datetime_conversion=DATES)


class MalformedEnvelopeError(Exception):
    """Steps 1, 3 and 5.1: this is not a document of the format."""


class UnsupportedVersionError(Exception):
    """Step 2: ``v`` is not int32 1."""


class UnknownKeyError(Exception):
    """Step 3: well-formed, but the key is not at hand; nothing is known about the document."""


class IntegrityError(Exception):
    """Step 4: the tag does not fit."""


class PayloadError(Exception):
    """Step 5.3: what was decrypted is not one JSON object."""


# --- section 2.4: Padmé ---------------------------------------------------------------------------------------------


def floor_log2(number: int) -> int:
    """The greatest k with 2^k <= number."""
    k = 0
    while 2 ** (k + 1) <= number:
        k += 1
    return k


def padme(length: int) -> int:
    """The length to which Padmé pads."""
    if length < 2:
        return length
    e = floor_log2(length)
    s = floor_log2(e) + 1
    step = 2 ** (e - s)
    return -(-length // step) * step


def pad(payload: bytes) -> bytes:
    """A payload as a sealer that pads encrypts it."""
    while payload.endswith(b" "):
        payload = payload[:-1]
    return payload + b" " * (padme(len(payload)) - len(payload))


# --- section 3: keys ------------------------------------------------------------------------------------------------


def pack(*parts: bytes) -> bytes:
    """Write each part after its length as uint32 big-endian."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def hkdf(key: bytes, info: bytes, *, salt: bytes = b"", length: int = 32) -> bytes:
    """HKDF-SHA-256 of RFC 5869: extract, then expand."""
    prk = hmac.digest(salt or bytes(32), key, hashlib.sha256)
    okm, block, counter = b"", b"", 1
    while len(okm) < length:
        block = hmac.digest(prk, block + info + bytes([counter]), hashlib.sha256)
        okm, counter = okm + block, counter + 1
    return okm[:length]


def purpose_key(key: bytes, purpose: str) -> bytes:
    """K_p, the first of the two steps."""
    if purpose not in PURPOSES_WITH_CONTEXT + PURPOSES_WITHOUT_CONTEXT or len(key) != 32:
        raise ValueError("no such purpose, or a key that is not 32 bytes")
    return hkdf(key, pack(LABEL, purpose.encode()))


def derive(key: bytes, purpose: str, context: str) -> bytes:
    """The working key of one purpose in one context, 32 bytes."""
    if purpose not in PURPOSES_WITH_CONTEXT:
        raise ValueError("this purpose has no context")
    encoded = context.encode()
    if not 1 <= len(encoded) <= 255:
        raise ValueError("a context is 1 to 255 bytes of UTF-8")
    return hkdf(purpose_key(key, purpose), pack(LABEL, purpose.encode(), encoded))


def check_value(key: bytes) -> bytes:
    """8 bytes that tell one key from another without revealing either."""
    return purpose_key(key, "check")[:8]


def fingerprint(root: bytes) -> bytes:
    """16 bytes by which a store root is recognised."""
    return purpose_key(root, "fingerprint")[:16]


# --- section 3.8: encoding of values --------------------------------------------------------------------------------


class Url(NamedTuple):
    """A URL, as the application holds it."""

    text: str


def microseconds(span: timedelta) -> bytes:
    """A span in microseconds, as an integer of section 3.8."""
    return b"%d" % (span // timedelta(microseconds=1))


def encode_decimal(value: Decimal) -> bytes:
    """Sign, coefficient and exponent, so that 1.5 and 1.50 are one value."""
    sign, digits, exponent = value.as_tuple()
    minus = "-" if sign else ""
    if not isinstance(exponent, int):
        return f"{minus}Infinity".encode() if exponent == "F" else b"NaN"  # signalling or not, with a sign or without
    coefficient = "".join(map(str, digits)).lstrip("0")
    stripped = coefficient.rstrip("0")
    if not stripped:
        return b"0E0"
    return f"{minus}{stripped}E{exponent + len(coefficient) - len(stripped)}".encode()


def encode_binary64(value: float) -> bytes:
    """8 bytes; one zero and one NaN."""
    if math.isnan(value):
        return bytes.fromhex("7ff8000000000000")
    return struct.pack(">d", 0.0 if value == 0 else value)


def encode_time(value: time) -> bytes:
    """The type byte depends on whether there is an offset."""
    since_midnight = datetime.combine(date.min, value.replace(tzinfo=None)) - datetime.combine(date.min, time.min)
    offset = value.utcoffset()
    return b"\x0a" + microseconds(since_midnight) if offset is None else b"\x0b" + microseconds(since_midnight - offset)


def encode_datetime(value: datetime) -> bytes:
    """The type byte depends on whether there is an offset."""
    if value.utcoffset() is None:
        return b"\x08" + microseconds(value.replace(tzinfo=None) - datetime(1970, 1, 1))  # noqa: DTZ001 - it has none
    return b"\x07" + microseconds(value - datetime(1970, 1, 1, tzinfo=UTC))


def another(name: str, *parts: bytes) -> bytes:
    """The types that share the byte ``0f``."""
    return b"\x0f" + pack(name.encode("ascii"), *parts)


def encode_ipv4(kind: str, address: ipaddress.IPv4Address, prefix: bytes = b"") -> bytes:
    """The bytes of the address and, of an interface or a network, the length of the prefix."""
    return another(kind, address.packed + prefix)


def encode_ipv6(kind: str, address: ipaddress.IPv6Address, prefix: bytes = b"") -> bytes:
    """As IPv4; the scope id is a part of its own, empty if there is none."""
    return another(kind, address.packed + prefix, (address.scope_id or "").encode("utf-8"))


#: The first that fits counts: bool is an int in Python, a datetime a date, and an interface an address.
ENCODINGS: list[tuple[type | tuple[type, ...], Callable[[Any], bytes]]] = [
    (type(None), lambda _: b"\x00"),
    (Enum, lambda x: encode(x.value)),
    (bool, lambda x: b"\x01" + bytes([x])),
    (int, lambda x: b"\x02" + b"%d" % x),
    (float, lambda x: b"\x03" + encode_binary64(x)),
    (str, lambda x: b"\x04" + x.encode("utf-8")),
    ((bytes, bytearray), lambda x: b"\x05" + bytes(x)),
    (Decimal, lambda x: b"\x06" + encode_decimal(x)),
    (datetime, encode_datetime),
    (date, lambda x: b"\x09" + x.isoformat().encode()),
    (time, encode_time),
    (timedelta, lambda x: b"\x0c" + microseconds(x)),
    (UUID, lambda x: b"\x0d" + x.bytes),
    (ObjectId, lambda x: b"\x0e" + x.binary),
    (Fraction, lambda x: another("fraction", str(x).encode())),
    (Url, lambda x: another("url", x.text.encode("ascii"))),
    (ipaddress.IPv4Interface, lambda x: encode_ipv4("ipv4interface", x, bytes([x.network.prefixlen]))),
    (ipaddress.IPv4Address, lambda x: encode_ipv4("ipv4address", x)),
    (ipaddress.IPv4Network, lambda x: encode_ipv4("ipv4network", x.network_address, bytes([x.prefixlen]))),
    (ipaddress.IPv6Interface, lambda x: encode_ipv6("ipv6interface", x, bytes([x.network.prefixlen]))),
    (ipaddress.IPv6Address, lambda x: encode_ipv6("ipv6address", x)),
    (ipaddress.IPv6Network, lambda x: encode_ipv6("ipv6network", x.network_address, bytes([x.prefixlen]))),
    (list, lambda x: b"\x10" + pack(*(encode(each) for each in x))),
]


def encode(value: Any) -> bytes:
    """E: the type byte and the bytes of a value; ``ValueError`` for what has no encoding."""
    for kind, encoding in ENCODINGS:
        if isinstance(value, kind):
            return encoding(value)
    raise ValueError("a value of this type has no encoding")


# --- section 3.9: normalisers ---------------------------------------------------------------------------------------

NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]*[1-9])?")
DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
APPLICATION_ID = re.compile(r"(?!phone|bucket)[A-Za-z0-9_.:-]{1,64}")
HUGE, NARROWEST, TOO_WIDE = Decimal("1E400"), Decimal("1E-100"), Decimal("1E100")
Normaliser = Callable[[Any], Any]


class NoNormalFormError(Exception):
    """A value that has no index value."""


@functools.cache
def unassigned() -> frozenset[int]:
    """The code points that Unicode 14.0 does not assign; noncharacters have an Age, and so are assigned."""
    lines = (Path(__file__).resolve().parent / "vectors" / "unassigned14.txt").read_text(encoding="ascii").splitlines()
    ranges = (line.split("..") for line in lines if not line.startswith("#"))
    return frozenset(itertools.chain.from_iterable(range(int(first, 16), int(last, 16) + 1) for first, last in ranges))


def by_runs(text: str, form: Callable[[str], str]) -> str:
    """Normalise each run of assigned characters by itself; what is in between stays."""
    runs = itertools.groupby(text, key=lambda character: ord(character) in unassigned())
    return "".join("".join(run) if foreign else form("".join(run)) for foreign, run in runs)


def nfc(text: str) -> str:
    """NFC of a run."""
    return unicodedata.normalize("NFC", text)


def demand(value: Any, *kinds: type) -> None:
    """A normaliser is for values of these types; a boolean is none of them, although it is an int in Python."""
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise ValueError("this normaliser is not for values of this type")  # noqa: TRY004 - an input that is refused


def exact(value: Any) -> Any:
    """Text in NFC, every other value itself."""
    return by_runs(value, nfc) if isinstance(value, str) else value


def casefold(text: Any) -> str:
    """NFC(casefold(NFC(x)))."""
    demand(text, str)
    return by_runs(text, lambda run: nfc(nfc(run).casefold()))


def digits(text: Any) -> str:
    """Decimal digits as ASCII."""
    demand(text, str)
    known = (character for character in text if ord(character) not in unassigned())
    found = "".join(str(unicodedata.decimal(character)) for character in known if unicodedata.category(character) == "Nd")
    if not found:
        raise NoNormalFormError
    return found


def email(text: Any) -> str:
    """``casefold`` without white space at the ends."""
    demand(text, str)
    return casefold(text.strip(" \t\r\n"))


def phone(region: str | None) -> Normaliser:
    """E.164."""

    def normalise(text: Any) -> str:
        import phonenumbers  # noqa: PLC0415 - needed for this normaliser alone

        demand(text, str)
        try:
            number = phonenumbers.parse(text, region)
        except phonenumbers.NumberParseException:
            raise NoNormalFormError from None
        return str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))

    return normalise


def day(value: Any) -> date:
    """The date; of a moment, that in UTC."""
    demand(value, date)
    if not isinstance(value, datetime):
        return value  # type: ignore[no-any-return]  # demanded above
    if value.utcoffset() is None:
        return value.date()
    try:
        return value.astimezone(UTC).date()
    except OverflowError:
        raise NoNormalFormError from None  # in UTC it is not in the years 1 to 9999


def parsed_number(text: str) -> Decimal:
    """A width or a bound: a decimal number in the one way to write it."""
    if NUMBER.fullmatch(text) is None or text == "-0":
        raise ValueError("a width or a bound is not a decimal number without an exponent, a plus sign or superfluous zeros")
    return Decimal(text)


def parsed_day(text: str) -> date:
    """A bound that is a date."""
    if DAY.fullmatch(text) is None:
        raise ValueError("a bound is not YYYY-MM-DD")
    return date.fromisoformat(text)


def in_order_or_none(bounds: list[Any]) -> tuple[Any, Any] | None:
    """Low and high, if they are given."""
    if len(bounds) not in (0, 2) or bounds != sorted(bounds):
        raise ValueError("bounds are a low and a high one, or none")
    return (bounds[0], bounds[1]) if bounds else None


def clamped(value: Any, bounds: tuple[Any, Any] | None) -> Any:
    """Bring a value into [low, high]."""
    return value if bounds is None else min(max(value, bounds[0]), bounds[1])


def bucket_of_numbers(width: Decimal, bounds: tuple[Decimal, Decimal] | None) -> Normaliser:
    """The integer floor(x / width), of exact values."""
    if not (width > 0 and NARROWEST <= width < TOO_WIDE):
        raise ValueError("a width is greater than 0, at least 1E-100 and less than 1E+100")

    def normalise(value: Any) -> int:
        demand(value, int, float, Decimal)
        number = Decimal(value)  # exact, and so are the comparisons
        if number.is_nan() or (bounds is None and not -HUGE < number < HUGE):
            raise NoNormalFormError
        within: Decimal = clamped(number, bounds)
        if -width < within < width:  # it may have an exponent that nobody can write out
            return -1 if within < 0 else 0
        return math.floor(Fraction(within) / Fraction(width))

    return normalise


def bucket_of_days(unit: str, bounds: tuple[date, date] | None) -> Normaliser:
    """The month, counted from the year 0, or the year."""

    def normalise(value: Any) -> int:
        found: date = clamped(day(value), bounds)
        return 12 * found.year + found.month - 1 if unit == "month" else found.year

    return normalise


def own(function: Normaliser, value: Any) -> Any:
    """What an application's function gives; None says that there is no normal form."""
    form = function(value)
    if form is None:
        raise NoNormalFormError
    return form


def normaliser(id: str, functions: dict[str, Normaliser]) -> Normaliser:
    """The normaliser of an id that is not that of a compound index; ``functions`` are those of the application."""
    simple: dict[str, Normaliser] = {"exact": exact, "casefold": casefold, "digits": digits, "email": email, "date": day}
    kind, *arguments = id.split(":")
    if id in simple:
        return simple[id]
    if kind == "phone" and len(arguments) <= 1:
        if any(re.fullmatch("[A-Z]{2}", region) is None for region in arguments):
            raise ValueError("a region is two letters")
        return phone(arguments[0] if arguments else None)
    if kind == "bucket" and arguments and arguments[0] in ("month", "year"):
        return bucket_of_days(arguments[0], in_order_or_none([parsed_day(bound) for bound in arguments[1:]]))
    if kind == "bucket" and arguments:
        width, *bounds = map(parsed_number, arguments)
        return bucket_of_numbers(width, in_order_or_none(bounds))
    if APPLICATION_ID.fullmatch(id) is None or id not in functions:
        raise ValueError("there is no such normaliser")
    return functools.partial(own, functions[id])


# --- section 3.7: blind index values --------------------------------------------------------------------------------


class Index(NamedTuple):
    """A blind index as it is declared; ``normaliser`` has as many ids, joined by ``+``, as the index has parts."""

    context: str
    name: str
    normaliser: str = "exact"
    bits: int = 128
    none: bool = True  # whether None has an index value, in the last part
    functions: dict[str, Normaliser] = {}  # noqa: RUF012 - nobody changes it


def check_index(index: Index) -> list[Normaliser]:
    """The normalisers of a declaration that is in order; else a ``ValueError``."""
    name = index.name
    if not 1 <= len(name.encode("utf-8")) <= 255 or name == "kid" or name[0] == "$" or "." in name or "\0" in name:
        raise ValueError("an index name has 1 to 255 bytes, is not kid, starts without $ and contains no . or NUL")
    if index.bits not in range(8, 257, 8):
        raise ValueError("bits are a multiple of 8 from 8 to 256")
    return [normaliser(id, index.functions) for id in index.normaliser.split("+")]


def index_key(key: bytes, index: Index) -> bytes:
    """K_i."""
    names = (index.context.encode("utf-8"), index.name.encode("utf-8"), index.normaliser.encode("utf-8"))
    return hkdf(derive(key, "index", index.context), pack(LABEL, b"index", *names))


def is_list(value: Any) -> bool:
    """Whether each element gives a value of its own."""
    return isinstance(value, list | tuple | set | frozenset) and not isinstance(value, Url)


def elements_of(last: Any) -> list[Any]:
    """The elements of a list, or the one value."""
    return list(last) if is_list(last) else [last]


def encoded(form: Normaliser, value: Any, *, none: bool) -> bytes | None:
    """E(n(x)) of one value for one part; None if it has none."""
    if isinstance(value, Enum):
        value = value.value  # for the normaliser, too
    if is_list(value):
        raise ValueError("a list in a list, or in a part that is not the last one")
    if value is None:
        return encode(None) if none else None
    try:
        return encode(form(value))
    except NoNormalFormError:
        return None


def encodings(index: Index, parts: list[Any]) -> list[bytes]:
    """The encodings of everything that has an index value, in bytewise order and each once."""
    *forms, last = check_index(index)
    if len(parts) != len(forms) + 1:
        raise ValueError("an index has a value for each of its parts")
    around = [encoded(form, value, none=True) for form, value in zip(forms, parts[:-1], strict=True)]
    found = set()
    for element in elements_of(parts[-1]):
        whole = [*around, encoded(last, element, none=index.none)]
        present = [each for each in whole if each is not None]
        if len(present) == len(whole):
            found.add(present[0] if len(present) == 1 else b"\x10" + pack(*present))
    return sorted(found)


def index_values(index: Index, keys: Iterable[bytes], parts: list[Any]) -> bytes | list[bytes]:
    """What ``idx`` has under the name of the index; an empty array if there is no value."""
    derived = [index_key(key, index) for key in keys]
    if not derived:
        raise ValueError("there is no index key")
    encoded = encodings(index, parts)
    values = {hmac.digest(key, each, hashlib.sha256)[: index.bits // 8] for key in derived for each in encoded}
    if len(derived) == 1 and len(values) == 1 and not is_list(parts[-1]):
        return values.pop()
    return sorted(values)


# --- section 4: bytes -----------------------------------------------------------------------------------------------


def int32(data: bytes, at: int) -> int:
    """A little-endian signed integer; it must be there."""
    if at + 4 > len(data):
        raise MalformedEnvelopeError("an element runs past the end")
    return int.from_bytes(data[at : at + 4], "little", signed=True)


def after_cstring(data: bytes, at: int) -> int:
    """Where the byte after a cstring's zero is."""
    zero = data.find(b"\0", at)
    if zero < 0:
        raise MalformedEnvelopeError("a name or a regular expression does not end")
    return zero + 1


def walk(body: bytes) -> list[Element]:
    """Cut a sequence of elements (a document without its length and its closing zero) by size alone."""
    elements: list[Element] = []
    at = 0
    while at < len(body):
        kind, value = body[at], after_cstring(body, at + 1)
        if kind in FIXED:
            end = value + FIXED[kind]
        elif kind in ADDED:
            if (length := int32(body, value)) < LEAST[kind]:
                raise MalformedEnvelopeError("a length is too small")
            end = value + length + ADDED[kind]
        elif kind == REGEX:
            end = after_cstring(body, after_cstring(body, value))
        else:
            raise MalformedEnvelopeError("unknown element type")
        if end > len(body):
            raise MalformedEnvelopeError("an element runs past the end")
        elements.append((body[at + 1 : value - 1], body[at:end]))
        at = end
    return elements


def unique(elements: Iterable[Element]) -> dict[bytes, bytes]:
    """Elements by name; a name that occurs twice is malformed."""
    by_name: dict[bytes, bytes] = {}
    for name, element in elements:
        if len(by_name) == MAX_ELEMENTS:
            raise MalformedEnvelopeError("too many elements")
        if name in by_name:
            raise MalformedEnvelopeError("a name occurs twice")
        by_name[name] = element
    return by_name


def in_order(elements: Iterable[Element]) -> list[Element]:
    """``_id`` first, the others in bytewise order of their names, ``hmac`` last."""
    return sorted(elements, key=lambda e: (e[0] != b"_id", e[0] == b"hmac", e[0]))


def value_of(element: bytes) -> bytes:
    """What follows the type and the name."""
    return element[after_cstring(element, 1) :]


def is_kid(element: bytes) -> bool:
    """Whether this is a string of 1 to 64 permitted characters."""
    value = value_of(element)
    return element[0] == STRING and value[-1] == 0 and KID.fullmatch(value[4:-1]) is not None


def is_binary(element: bytes) -> bool:
    """Whether this is a binary of subtype 0."""
    return element[0] == BINARY and value_of(element)[4] == 0


def is_kid_or_kids(element: bytes) -> bool:
    """Whether this is a kid, or an array of one or more, none of them twice; the names in the array do not matter."""
    if element[0] != ARRAY:
        return is_kid(element)
    kids = [item for _, item in walk(value_of(element)[4:-1])]
    return len(kids) > 0 and all(is_kid(kid) for kid in kids) and len({value_of(kid) for kid in kids}) == len(kids)


def is_idx(element: bytes) -> bool:
    """Whether this is ``{kid: string | [string, …], name: binary | [binary, …], …}``."""
    if element[0] != DOCUMENT:
        return False
    fields = unique(walk(value_of(element)[4:-1]))
    if b"kid" not in fields or not is_kid_or_kids(fields.pop(b"kid")):
        return False
    arrays = [field for field in fields.values() if field[0] == ARRAY]
    values = [field for field in fields.values() if field[0] != ARRAY]
    values += [item for array in arrays for _, item in walk(value_of(array)[4:-1])]
    return all(is_binary(value) for value in values)


# --- section 5: seal ------------------------------------------------------------------------------------------------


def crypt(key: bytes, iv: bytes, data: bytes) -> bytes:
    """AES-256-CTR, either way; the whole IV is the counter, big-endian, and wraps."""
    return Cipher(algorithms.AES(key), modes.CTR(iv)).encryptor().update(data)


def tag_of(body: bytes, *, key: bytes, context: str) -> bytes:
    """HMAC-SHA-256 over the elements in order."""
    return hmac.digest(derive(key, "authenticate", context), body, hashlib.sha256)


def assemble(elements: Iterable[Element], *, key: bytes, context: str) -> bytes:
    """Steps 4 to 6: put in order, authenticate, frame."""
    body = b"".join(element for _, element in in_order(elements))
    trailer = TAG_HEADER + tag_of(body, key=key, context=context) + b"\0"
    return (4 + len(body) + len(trailer)).to_bytes(4, "little") + body + trailer


def seal(metadata: Fields, payload: bytes, *, key: bytes, kid: str, context: str, iv: bytes, idx: Fields | None = None) -> bytes:
    """Seal one document; a refused argument is a ``ValueError``, a refused payload a ``PayloadError``."""
    if "_id" not in metadata or any(name in RESERVED for name in metadata if name != "_id"):
        raise ValueError("the metadata lacks _id or uses a reserved name")
    if len(metadata) + (idx is not None) + 5 > MAX_ELEMENTS:
        raise ValueError("a document has at most 4,096 elements")
    if any(name == "" or name[0] == "$" or "." in name or "\0" in name for name in metadata):
        raise ValueError("a name is empty, starts with $, or contains . or NUL")
    if KID.fullmatch(kid.encode()) is None or len(iv) != 16:
        raise ValueError("kid or iv is ill-formed")
    parse(payload)
    data = crypt(derive(key, "encrypt", context), iv, payload)
    fields = metadata | {"v": 1, "kid": kid, "iv": iv, "data": data} | ({} if idx is None else {"idx": idx})
    elements = {name.encode(): bson.encode({name: fields[name]}, codec_options=OPTIONS)[4:-1] for name in fields}
    if any(element[0] == TIMESTAMP and value_of(element) == bytes(8) for element in elements.values()):
        raise ValueError("the server would replace Timestamp(0, 0)")
    if idx is not None and not is_idx(elements[b"idx"]):
        raise ValueError("idx is {kid: string or array of strings, index name: binary or array of binaries}")
    return assemble(elements.items(), key=key, context=context)


# --- section 6: open ------------------------------------------------------------------------------------------------


def parse(payload: bytes) -> Fields:
    """Step 5.3: strict UTF-8, one JSON object, names unique in every object, whole Unicode strings."""

    def once(pairs: list[tuple[str, Any]]) -> Fields:
        if len({name for name, _ in pairs}) != len(pairs):
            raise ValueError("a name occurs twice")
        return dict(pairs)

    try:
        value = json.loads(payload.decode("utf-8"), object_pairs_hook=once)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # fails on the escape of a lone surrogate
    except (ValueError, RecursionError) as error:
        raise PayloadError("not JSON, or a name occurs twice") from error
    if not isinstance(value, dict):
        raise PayloadError("not an object")
    return value


def open(raw: bytes, *, keys: dict[str, bytes], context: str) -> tuple[Fields, Fields]:
    """Verify, then decrypt: the metadata with ``_id`` and without the envelope's fields, and the payload."""
    # Step 1: structure.
    if len(raw) < 4 + TRAILER or int32(raw, 0) != len(raw) or raw[-1] != 0:
        raise MalformedEnvelopeError("the length is wrong, or the closing zero")
    elements = dict(in_order(unique(walk(raw[4:-1])).items()))
    last = elements.pop(b"hmac", b"")
    if last[:-32] != TAG_HEADER:
        raise MalformedEnvelopeError("there is no hmac of 32 bytes")
    body, tag = b"".join(elements.values()), last[-32:]

    # Step 2: version.
    if elements.get(b"v") != VERSION_ELEMENT:
        raise UnsupportedVersionError("v is not int32 1")

    # Step 3: key.
    if b"kid" not in elements or not is_kid(elements[b"kid"]):
        raise MalformedEnvelopeError("kid is missing or ill-formed")
    kid = value_of(elements[b"kid"])[4:-1].decode()
    if kid not in keys:
        raise UnknownKeyError("no such key")

    # Step 4: tag.
    if not hmac.compare_digest(tag_of(body, key=keys[kid], context=context), tag):
        raise IntegrityError("the tag does not fit")

    # Step 5.1: types.
    iv, data, idx = (elements.get(name) for name in (b"iv", b"data", b"idx"))
    if iv is None or not is_binary(iv) or len(value_of(iv)) != 5 + 16:
        raise MalformedEnvelopeError("iv is not 16 bytes of binary subtype 0")
    if data is None or not is_binary(data):
        raise MalformedEnvelopeError("data is not binary subtype 0")
    if b"_id" not in elements or (idx is not None and not is_idx(idx)):
        raise MalformedEnvelopeError("_id is missing, or idx is ill-formed")
    try:
        metadata = bson.decode(raw[:4] + body + last + b"\0", codec_options=OPTIONS)
    except Exception as error:
        raise MalformedEnvelopeError("an element is not valid BSON") from error

    # Steps 5.2 and 5.3: decrypt, parse.
    payload = parse(crypt(derive(keys[kid], "encrypt", context), value_of(iv)[5:], value_of(data)[5:]))
    return {name: value for name, value in metadata.items() if name == "_id" or name not in RESERVED}, payload
