"""blind: the same bytes for the same value and never for another, and index values that only the key can make."""

from __future__ import annotations

import copy
import enum
import hmac
import ipaddress
import itertools
import math
import pickle
import struct
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from bson import ObjectId
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AnyUrl, BaseModel, ByteSize, ConfigDict, HttpUrl, SecretBytes, SecretStr, create_model

from mongo_envelope import BlindIndex, Bucket, DataKey, IndexKey, KeyRing, Queryable, Sensitive
from mongo_envelope.blind import ENCODABLE, Definition, Indexer, Part, encode
from mongo_envelope.errors import ConfigurationError, UnknownKeyError
from mongo_envelope.normalize import NOTHING, normalizer
from mongo_envelope.primitives import derive, pack
from mongo_envelope.schema import Schema

CANARY = "xyzzy-plugh"
OTHER_FIELD = (Annotated[str, Queryable()], "")
MATERIAL, OTHER = bytes(range(100, 132)), bytes(range(32))
X1, X2 = IndexKey("x1", MATERIAL), IndexKey("x2", OTHER)
KEYS = KeyRing([DataKey("k1", bytes(32))], index_keys=[X1])
BOTH = KEYS.with_index_key(X2)


class Colour(enum.Enum):
    red = "r"
    one = 1
    none = None
    pair = (1, "a")


class Word(enum.StrEnum):
    a = "A"


class Level(enum.IntEnum):
    low = 5


def definitions(kind: Any, *index: BlindIndex | Bucket, **fields: Any) -> tuple[Definition, ...]:
    """The indexes of a model with one field of this type, and perhaps others."""
    model = create_model(
        "M",
        __config__=ConfigDict(arbitrary_types_allowed=True),
        id=(int, 1),
        **fields,
        field=(Annotated[kind, Sensitive(index=list(index))], ...),
    )
    return Schema.of(model).blind


def indexed(found: tuple[Definition, ...], keys: KeyRing = KEYS, context: str = "c", **values: Any) -> dict[str, Any]:
    """What stands in ``idx``."""
    return Indexer(found, keys, context).of(values)


def by_hand(key: bytes, name: str, normaliser: str, encoding: bytes, *, bits: int = 128) -> bytes:
    """Section 3.7 of the specification once more, step by step."""
    working = derive(derive(key, "index"), "index", "c")
    return hmac.digest(derive(working, "index", "c", name, normaliser), encoding, "sha256")[: bits // 8]


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error with everything that a traceback would print after it."""
    while error is not None:
        yield error
        yield from chain(error.__cause__)
        error = error.__context__


def assert_silent(error: BaseException) -> None:
    """Nothing of the value is in an error, in what hangs on it, or in the traceback that is printed of it."""
    said = "".join(traceback.format_exception(error)) + " ".join(f"{each} {each!r} {each.args!r}" for each in chain(error))
    assert CANARY not in said


# --- the encoding ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "encoding"),
    [
        (None, b"\x00"),
        (False, b"\x01\x00"),
        (True, b"\x01\x01"),
        (0, b"\x020"),
        (-17, b"\x02-17"),
        (2**70, b"\x021180591620717411303424"),
        (5.0, b"\x03\x40\x14\0\0\0\0\0\0"),
        (-0.0, b"\x03" + bytes(8)),
        (-math.nan, bytes.fromhex("037ff8000000000000")),
        (struct.unpack(">d", bytes.fromhex("fff0000000000001"))[0], bytes.fromhex("037ff8000000000000")),
        (math.inf, bytes.fromhex("037ff0000000000000")),
        (5e-324, bytes.fromhex("030000000000000001")),
        ("é\0", b"\x04\xc3\xa9\0"),
        (b"\xff\0", b"\x05\xff\0"),
        (bytearray(b"\xff"), b"\x05\xff"),
        (Decimal("1.10"), b"\x0611E-1"),
        (Decimal(-1200), b"\x06-12E2"),
        (Decimal("12E+2"), b"\x0612E2"),
        (Decimal("0012.3400"), b"\x061234E-2"),
        (Decimal("-0E+7"), b"\x060E0"),
        (Decimal("-NaN7"), b"\x06NaN"),
        (Decimal("sNaN"), b"\x06NaN"),
        (Decimal("-Infinity"), b"\x06-Infinity"),
        (Decimal("1E-999999999"), b"\x061E-999999999"),
        (datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), b"\x070"),
        (datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), b"\x07-1"),
        (datetime(1970, 1, 1, 0, 0, 1), b"\x081000000"),
        (datetime.min, b"\x08-62135596800000000"),
        (date(987, 6, 5), b"\x090987-06-05"),
        (time(0, 0, 0, 7), b"\x0a7"),
        (time(1, tzinfo=timezone(timedelta(hours=2))), b"\x0b-3600000000"),
        (time(1, tzinfo=ZoneInfo("Europe/Berlin")), b"\x0a3600000000"),  # without a date a zone has no offset
        (timedelta(days=-1, microseconds=1), b"\x0c-86399999999"),
        (timedelta.max, b"\x0c86399999999999999999"),
        (UUID(int=1), b"\x0d" + bytes(15) + b"\x01"),
        (ObjectId(b"\1" * 12), b"\x0e" + b"\1" * 12),
        (Fraction(6, 8), b"\x0f" + pack(b"fraction", b"3/4")),
        (Fraction(-6, 3), b"\x0f" + pack(b"fraction", b"-2")),
        (AnyUrl("http://ex.org/a?b=1"), b"\x0f" + pack(b"url", b"http://ex.org/a?b=1")),
        (HttpUrl("HTTP://EX.org"), b"\x0f" + pack(b"url", b"http://ex.org/")),
        (HttpUrl("http://exämple.org/"), b"\x0f" + pack(b"url", b"http://xn--exmple-cua.org/")),
        (ipaddress.ip_address("1.2.3.4"), b"\x0f" + pack(b"ipv4address", b"\1\2\3\4")),
        (ipaddress.ip_network("10.0.0.0/8"), b"\x0f" + pack(b"ipv4network", b"\x0a\0\0\0\x08")),
        (ipaddress.ip_interface("10.0.0.1/8"), b"\x0f" + pack(b"ipv4interface", b"\x0a\0\0\1\x08")),
        (ipaddress.ip_address("::1"), b"\x0f" + pack(b"ipv6address", bytes(15) + b"\1", b"")),
        (ipaddress.ip_address("fe80::1%eth0"), b"\x0f" + pack(b"ipv6address", b"\xfe\x80" + bytes(13) + b"\1", b"eth0")),
        (ipaddress.ip_interface("::1/64"), b"\x0f" + pack(b"ipv6interface", bytes(15) + b"\1\x40", b"")),
        (ipaddress.ip_network("fe80::/10"), b"\x0f" + pack(b"ipv6network", b"\xfe\x80" + bytes(14) + b"\x0a", b"")),
        ([], b"\x10"),
        ([1, "a"], b"\x10" + pack(b"\x021", b"\x04a")),
        ((1, [None]), b"\x10" + pack(b"\x021", b"\x10" + pack(b"\x00"))),
        (ByteSize(1000), b"\x021000"),
        (Level.low, b"\x025"),
        (Word.a, b"\x04A"),
        (Colour.red, b"\x04r"),
        (Colour.pair, b"\x10" + pack(b"\x021", b"\x04a")),
    ],
)
def test_the_encoding_of_the_specification(value: Any, encoding: bytes) -> None:
    """Section 3.8, at least one value of each row, and those that have more than one form."""
    assert encode(value) == encoding


def test_values_that_look_alike_never_meet() -> None:
    """One value that people write as 5, and one that they write as 2024-01-01, in every type: all different."""
    moment = datetime(2024, 1, 1)
    alike = [
        *(5, 5.0, "5", b"5", Decimal(5), Fraction(5), timedelta(microseconds=5), [5], ["5"], [[5]]),
        *(1, True, 1.0, "1", "True", b"\x01", 0, False, "", b"", None, [], [None], "None", 0.0, Decimal(0)),
        *(moment, moment.replace(tzinfo=UTC), moment.date(), "2024-01-01", b"2024-01-01", str(moment)),
        *(time(1), time(1, tzinfo=UTC), timedelta(hours=1), 3_600_000_000),
        *(UUID(int=1), UUID(int=1).bytes, str(UUID(int=1)), ObjectId(b"\1" * 12), b"\1" * 12),
        *(ipaddress.ip_address("1.2.3.4"), ipaddress.ip_interface("1.2.3.4"), ipaddress.ip_network("1.2.3.4"), "1.2.3.4"),
        *(ipaddress.ip_address("::1"), ipaddress.ip_interface("::1"), ipaddress.ip_network("::1"), "::1"),
        *(AnyUrl("http://a/"), "http://a/", math.nan, Decimal("NaN"), "NaN", math.inf, Decimal("Infinity")),
    ]
    found = [encode(each) for each in alike]
    assert len(set(found)) == len(found)


def network(address: Any, prefix: int) -> Any:
    """The network of this length in which an address lies."""
    return ipaddress.ip_network(f"{address}/{prefix}", strict=False)


offsets = st.builds(lambda minutes: timezone(timedelta(minutes=minutes)), st.integers(-1439, 1439))
#: type → values of it, among them different forms of equal ones
TYPED: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "int": st.integers(-3, 3) | st.integers(),
    "float": st.sampled_from([0.0, -0.0, 1.0, 5e-324]) | st.floats(allow_nan=False),
    "text": st.text(st.characters(exclude_categories=["Cs"]), max_size=3),
    "bytes": st.binary(max_size=3),
    "decimal": st.builds(
        lambda sign, digits, exponent: Decimal((sign, digits, exponent)),
        st.integers(0, 1),
        st.lists(st.sampled_from([0, 0, 1, 2]), max_size=5).map(tuple),
        st.integers(-3, 3),
    )
    | st.decimals(allow_nan=False),
    "moment": st.datetimes(timezones=offsets)
    | st.builds(lambda minute, zone: datetime(2024, 1, 2, 12, minute, tzinfo=UTC).astimezone(zone), st.integers(0, 2), offsets),
    "date and time": st.datetimes() | st.sampled_from([datetime(2024, 1, 1), datetime(2024, 1, 1, fold=1)]),
    "date": st.dates(),
    "time": st.times() | st.sampled_from([time(1), time(1, fold=1)]),
    "time with an offset": st.times(timezones=offsets)
    | st.builds(lambda hour: time(12 + hour, tzinfo=timezone(timedelta(hours=hour))), st.integers(-9, 9)),
    "duration": st.timedeltas(),
    "UUID": st.uuids(),
    "ObjectId": st.binary(min_size=12, max_size=12).map(ObjectId),
    "fraction": st.fractions(),
    "IPv4Address": st.ip_addresses(v=4),
    "IPv6Address": st.builds(
        lambda ip, scope: ipaddress.IPv6Address(f"{ip}{scope}"), st.ip_addresses(v=6), st.sampled_from(["", "%a", "%b"])
    ),
    "IPv4Interface": st.builds(lambda ip, n: ipaddress.IPv4Interface((int(ip), n)), st.ip_addresses(v=4), st.integers(0, 32)),
    "IPv6Interface": st.builds(lambda ip, n: ipaddress.IPv6Interface((int(ip), n)), st.ip_addresses(v=6), st.integers(0, 128)),
    "IPv4Network": st.builds(network, st.ip_addresses(v=4), st.integers(0, 32)),
    "IPv6Network": st.builds(network, st.ip_addresses(v=6), st.integers(0, 128)),
    "url": st.from_regex(r"https?://[a-z]{1,2}(:8[0-9])?/[a-c]?", fullmatch=True).map(AnyUrl),
    "list": st.lists(
        st.integers(0, 2) | st.sampled_from(["", "0", None, 0.0, b""]) | st.lists(st.integers(0, 1), max_size=2), max_size=3
    ),
}


@pytest.mark.parametrize("kind", TYPED)
def test_two_values_of_one_type_have_one_encoding_only_if_they_are_equal(kind: str) -> None:
    """Equal values give equal bytes, whatever their form: digits, offset, fold; and different ones never meet."""

    @settings(deadline=None, max_examples=60)
    @given(st.lists(TYPED[kind], min_size=2, max_size=12))
    def check(values: list[Any]) -> None:
        for one, other in itertools.combinations(values, 2):
            alike = one == other if kind != "list" else repr(one) == repr(other)  # in a list 0 == 0.0, and here they are two
            assert (encode(one) == encode(other)) == alike, (one, other)

    check()


@settings(deadline=None, max_examples=300)
@given(st.lists(st.one_of(*TYPED.values()), min_size=2, max_size=8))
def test_values_of_two_types_never_meet(values: list[Any]) -> None:
    """Whatever the values are: the type byte, or the name after it, tells them apart."""

    def kind(value: Any) -> object:
        zoned = isinstance(value, datetime | time) and value.utcoffset() is not None
        return type(value), zoned

    for one, other in itertools.combinations(values, 2):
        if kind(one) != kind(other):
            assert encode(one) != encode(other)


@settings(deadline=None)
@given(st.lists(st.lists(st.text("ab", max_size=2), max_size=3), min_size=2, max_size=6))
def test_a_list_tells_where_its_elements_end(values: list[list[str]]) -> None:
    """["a", "b"], ["ab"] and [["a"], "b"] are three values: so the parts of a compound index never run together."""
    for one, other in itertools.combinations([*values, [values[0]]], 2):
        assert (encode(one) == encode(other)) == (one == other)


def test_equal_moments_meet_in_every_zone() -> None:
    """Also at the ends of the calendar, and where a zone has two of one wall time: these are two moments."""
    berlin = ZoneInfo("Europe/Berlin")
    summer, winter = (datetime(2024, 10, 27, 2, 30, fold=fold, tzinfo=berlin) for fold in (0, 1))
    assert encode(summer) == encode(datetime(2024, 10, 27, 0, 30, tzinfo=UTC))
    assert encode(winter) == encode(datetime(2024, 10, 27, 1, 30, tzinfo=UTC))
    first = datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))
    last = datetime.max.replace(tzinfo=timezone(timedelta(hours=-12)))
    assert encode(first) == b"\x07-%d" % (62135596800000000 + 14 * 3_600_000_000)
    assert encode(last) == b"\x07%d" % (253402300799999999 + 12 * 3_600_000_000)


class Text(str):
    __slots__ = ()


class Number(float):
    pass


class Moment(datetime):
    pass


@pytest.mark.parametrize(
    ("one", "plain"),
    [(Text("a"), "a"), (Number(1.5), 1.5), (Moment(2024, 1, 1), datetime(2024, 1, 1)), (ByteSize(5), 5), (bytearray(b"a"), b"a")],
)
def test_a_subclass_is_encoded_as_what_it_is(one: Any, plain: Any) -> None:
    """A Python class of the application's own is no other value: a datetime stays a datetime, though it is a date, too."""
    assert encode(one) == encode(plain)


@pytest.mark.parametrize(
    "value", [{1}, {"a": 1}, 1j, object(), NOTHING, "\ud800" + CANARY, [CANARY, {CANARY}], range(3), BaseModel, lambda: CANARY]
)
def test_what_has_no_encoding_is_not_quoted(value: Any) -> None:
    """It is a ValueError that names the type, or says what is wrong with a text."""
    with pytest.raises(ValueError, match=r"^a .* has no index value$") as caught:
        encode(value)
    assert len(list(chain(caught.value))) == 1
    assert_silent(caught.value)


def test_encodable_is_what_a_field_can_hold() -> None:
    """Neither a list nor None, which have rules of their own; secrets and enumerations for what they hide."""
    assert {str, bool, int, float, bytes, bytearray, Decimal, datetime, date, UUID, ObjectId, enum.Enum, SecretStr} <= {*ENCODABLE}
    assert not {list, tuple, type(None), dict, set, complex} & {*ENCODABLE}


# --- definitions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "value", "encodings"),
    [
        (str, "a", [b"\x04a"]),
        (str | None, None, []),
        (list[str], ["b", "a", "b"], [b"\x04a", b"\x04b"]),
        (list[str], [], []),
        (set[int], {2, 1}, [b"\x021", b"\x022"]),
        (tuple[bytes, ...], (b"b", b"a"), [b"\x05a", b"\x05b"]),
        (list[str | None], ["a", None], [b"\x04a"]),
        (list[str] | None, None, []),
        (float, 5, [encode(5.0)]),
        (int | float, 5, [encode(5)]),
        (SecretStr, SecretStr("a"), [b"\x04a"]),
        (SecretStr, SecretStr("e\u0301"), ["\x04é".encode()]),
        (SecretBytes, SecretBytes(b"a"), [b"\x05a"]),
        (list[SecretStr], [SecretStr("a")], [b"\x04a"]),
        (list[Decimal], [Decimal("1.0"), Decimal(1)], [b"\x061E0"]),
    ],
)
def test_what_is_indexed_of_a_value(kind: Any, value: Any, encodings: list[bytes]) -> None:
    """Of a list each element once, in bytewise order; nothing of None; of a secret what it hides."""
    assert definitions(kind, BlindIndex())[0].encodings({"field": value}) == encodings


@pytest.mark.parametrize("kind", [Colour, Colour | None, list[Colour], list[Colour | None]])
def test_a_member_of_an_enumeration_is_indexed_as_its_value(kind: Any) -> None:
    """And where that is None, it is None: not indexed unless the index says so."""
    without, with_none = definitions(kind, BlindIndex(few_values=True), BlindIndex(few_values=True, none=True, name="n"))
    for member, encoding in {Colour.red: b"\x04r", Colour.one: b"\x021", Colour.none: None}.items():
        value = [member] if "list" in str(kind) else member
        assert without.encodings({"field": value}) == ([] if encoding is None else [encoding])
        assert with_none.encodings({"field": value}) == [encoding or b"\x00"]


def test_none_is_indexed_where_the_index_says_so() -> None:
    """As a value and in a list, as the null of the specification."""
    for kind, value, found in ((str | None, None, [b"\x00"]), (list[str | None], ["a", None], [b"\x00", b"\x04a"])):
        assert definitions(kind, BlindIndex(none=True))[0].encodings({"field": value}) == found
    assert definitions(list[str] | None, BlindIndex(none=True))[0].encodings({"field": None}) == [b"\x00"]


def test_each_keeps_the_elements_in_their_places() -> None:
    """One for each element, None where it has no form; nothing at all for a value that the normaliser refuses now."""
    digits = definitions(list[str], BlindIndex(normalize="digits"))[0]
    assert digits.each({"field": ["a1", "b", "1"]}) == [b"\x041", None, b"\x041"]
    refusing = definitions(str, BlindIndex(normalize=int, normalize_id="int"))[0]
    assert refusing.each({"field": "no"}) == []
    assert refusing.each({"field": "7"}) == [b"\x027"]


def test_a_compound_is_the_list_of_its_parts() -> None:
    """Each by its own normaliser; a None around it is null, a None of the field itself is nothing; of a list each element."""
    found = definitions(
        list[str] | None,
        BlindIndex(normalize="casefold", within={"tenant": "email", "n": "exact"}),
        tenant=(Annotated[str | None, Queryable()], None),
        n=(Annotated[int, Queryable()], 0),
    )[0]
    assert (found.name, found.normalizer_id, found.owner.field) == ("tenant_n_field", "email+exact+casefold", "field")
    assert found.encodings({"tenant": " T", "n": 5, "field": ["B", "a", "b"]}) == [
        b"\x10" + pack(b"\x04t", b"\x025", b"\x04a"),
        b"\x10" + pack(b"\x04t", b"\x025", b"\x04b"),
    ]
    assert found.encodings({"tenant": None, "n": 5, "field": ["a"]}) == [b"\x10" + pack(b"\x00", b"\x025", b"\x04a")]
    assert found.encodings({"tenant": "t", "n": 5, "field": None}) == found.encodings({"tenant": "t", "n": 5, "field": []}) == []
    assert found.encoding({"tenant": "T", "n": 5, "field": "A"}) == b"\x10" + pack(b"\x04t", b"\x025", b"\x04a")
    assert found.encoding({"tenant": "T", "n": 5, "field": None}) == b"\x10" + pack(b"\x04t", b"\x025", b"\x00")


def test_a_compound_without_one_of_its_parts_has_no_value() -> None:
    """If any part has no normal form, there is nothing to find it by."""
    found = definitions(str, BlindIndex(normalize="digits", within={"other": "digits"}), other=OTHER_FIELD)[0]
    for other, field in (("a", "1"), ("1", "a"), ("a", "a")):
        assert found.encodings({"other": other, "field": field}) == []
        assert found.encoding({"other": other, "field": field}) is None
    assert found.encoding({"other": "1", "field": "1"}) == b"\x10" + pack(b"\x041", b"\x041")


def test_the_text_that_a_search_asks_for_most_goes_a_short_way() -> None:
    """To the same end, or to None: then the long way has to look at it."""
    for norm, texts in {"exact": ["a", "e\u0301", ""], "casefold": ["A"], "digits": ["1a"]}.items():
        found = definitions(str, BlindIndex(normalize=norm))[0]
        for text in texts:
            assert found.encoded_text(text) == found.encoding({"field": text})
    assert definitions(str, BlindIndex(normalize="digits"))[0].encoded_text("a") is None
    assert definitions(str, BlindIndex())[0].encoded_text("\ud800") is None
    assert definitions(str, BlindIndex(normalize=int, normalize_id="i"))[0].encoded_text("1") is None
    assert definitions(str, BlindIndex(normalize=int, normalize_id="i"))[0].encoded_text("no") is None


@pytest.mark.parametrize(("bits", "exact"), [(8, False), (120, False), (128, True), (256, True)])
def test_an_index_of_128_bits_is_exact(bits: int, exact: bool) -> None:
    """Shorter values, and buckets of any length, find too much."""
    assert definitions(str, BlindIndex(bits=bits))[0].exact is exact
    assert not definitions(int, Bucket(width=1, bits=bits))[0].exact


def test_buckets_are_numbered() -> None:
    """A bucket's encoding is that of its number, which a range asks for."""
    found = definitions(int, Bucket(width=10))[0]
    assert found.encodings({"field": -1}) == [b"\x02-1"] == [found.numbered(-1)]
    assert definitions(float, Bucket(width=10))[0].encodings({"field": math.nan}) == []


@pytest.mark.parametrize("within", [(), ("other",)])
def test_a_value_that_the_normaliser_refuses_names_its_field(within: tuple[str, ...]) -> None:
    """And not itself, neither in the error nor in what hangs on it."""

    def refuse(value: str) -> str:
        raise LookupError(value)

    found = definitions(str, BlindIndex(normalize=refuse, normalize_id="r", within=within), other=OTHER_FIELD)[0]
    for ask in (found.encodings, found.encoding):
        with pytest.raises(ValueError, match=r"^field: its normaliser raised LookupError$") as caught:
            ask({"field": CANARY, "other": CANARY})
        assert len(list(chain(caught.value))) == 1
        assert_silent(caught.value)


def test_a_part_around_names_itself() -> None:
    """The field whose value cannot be encoded is the one that is named."""
    found = definitions(str, BlindIndex(within=("other",)), other=OTHER_FIELD)[0]
    with pytest.raises(ValueError, match=r"^other: a text with a lone surrogate") as caught:
        found.encodings({"field": "a", "other": CANARY + "\ud800"})
    assert_silent(caught.value)


# --- index values ---------------------------------------------------------------------------------------------------


def test_a_value_is_what_the_specification_says() -> None:
    """HMAC under the key of the context, the index and the normaliser; of several, each under its own name."""
    found = definitions(str, BlindIndex(), BlindIndex(normalize="casefold", name="folded", bits=256))
    assert indexed(found, field="É") == {
        "kid": "x1",
        "field": by_hand(MATERIAL, "field", "exact", "\x04É".encode()),
        "folded": by_hand(MATERIAL, "folded", "casefold", "\x04é".encode(), bits=256),
    }


@settings(deadline=None)
@given(st.integers(1, 32), st.text(max_size=4).filter(lambda text: text.isascii()))
def test_a_shorter_value_is_the_beginning_of_a_longer_one(size: int, text: str) -> None:
    """``bits`` is no part of the derivation."""
    short, whole = (indexed(definitions(str, BlindIndex(bits=bits)), field=text)["field"] for bits in (8 * size, 256))
    assert (len(short), len(whole)) == (size, 32)
    assert whole.startswith(short)


def test_equal_values_meet_in_one_index_only() -> None:
    """Of one value, those of two fields, two indexes, two normalisers, two contexts and two keys have nothing in common."""
    model = create_model(
        "M",
        id=(int, 1),
        one=(
            Annotated[str, Sensitive(index=[BlindIndex(), BlindIndex(name="again"), BlindIndex(name="c", normalize="casefold")])],
            "a",
        ),
        two=(Annotated[str, Sensitive(index=BlindIndex())], "a"),
    )
    other_id = create_model("M", id=(int, 1), one=(Annotated[str, Sensitive(index=BlindIndex(normalize="email"))], "a"))
    seen: list[bytes] = []
    for keys, context in itertools.product([KEYS, KeyRing([DataKey.generate()], index_keys=[X2])], ["c", "d"]):
        for each in (model, other_id):
            found = indexed(Schema.of(each).blind, keys, context, one="a", two="a")
            seen += [value for name, value in found.items() if name != "kid"]
    assert len(set(seen)) == len(seen) == 4 * 5


def test_equal_normal_forms_meet() -> None:
    """In one index, whatever the values looked like, and whichever process computes them."""
    found = definitions(str, BlindIndex(normalize="email"))
    assert indexed(found, field=" Ada@Example.com") == indexed(found, field="ada@example.com")
    again = KeyRing([DataKey.generate()], index_keys=[IndexKey("x1", MATERIAL)])
    assert indexed(found, again, field="ada@example.com") == indexed(found, field="ada@example.com")


def test_names_stand_in_bytewise_order_behind_the_kid() -> None:
    """Not in that of the declaration, and not by UTF-16: so the same document has the same bytes everywhere."""
    names = ["b", "a", "\U00010000", "\uffff", "Z", "é", "kid2", "aa"]
    found = definitions(str, *(BlindIndex(name=name) for name in names))
    assert [*indexed(found, field="x")] == ["kid", "Z", "a", "aa", "b", "kid2", "é", "\uffff", "\U00010000"]


def test_a_list_has_an_array_also_of_one_value() -> None:
    """Sorted, each once; empty, without a value: so that a document from before there was the index can be told."""
    found = definitions(list[str], BlindIndex())
    values = {text: by_hand(MATERIAL, "field", "exact", b"\x04" + text.encode()) for text in "abc"}
    assert indexed(found, field=["c", "a", "b", "a"]) == {"kid": "x1", "field": sorted(values.values())}
    assert indexed(found, field=["a", "a"]) == {"kid": "x1", "field": [values["a"]]}
    assert indexed(found, field=[]) == {"kid": "x1", "field": []}
    nullable = definitions(list[str] | None, BlindIndex(none=True))
    null = by_hand(MATERIAL, "field", "exact", b"\x00")
    assert indexed(nullable, field=None) == {"kid": "x1", "field": null}
    assert indexed(definitions(list[str | None], BlindIndex(none=True)), field=[None]) == {"kid": "x1", "field": [null]}


def test_without_a_value_there_is_an_empty_array() -> None:
    """For a None that is not indexed and for a value without a normal form as well, under one key and under two."""
    cases = [(str | None, BlindIndex(), None), (str, BlindIndex(normalize="digits"), "a"), (float, Bucket(width=1), math.nan)]
    for kind, index, value in cases:
        found = definitions(kind, index)
        assert indexed(found, field=value) == {"kid": "x1", found[0].name: []}
        assert indexed(found, BOTH, field=value) == {"kid": ["x1", "x2"], found[0].name: []}


def test_what_has_been_given_values_can_be_asked_for() -> None:
    """Under the key that searches go by: a filter on the kid and on the name."""
    found = definitions(str, BlindIndex(name="other"))
    assert Indexer(found, BOTH.searching_by("x2"), "c").written(found[0]) == {"idx.kid": "x2", "idx.other": {"$exists": True}}


def test_under_two_keys_every_value_stands_twice() -> None:
    """In one array, under the keys that ``kid`` names in bytewise order; a search asks for one of them."""
    found = definitions(str, BlindIndex())
    values = [by_hand(key, "field", "exact", b"\x04a") for key in (MATERIAL, OTHER)]
    assert indexed(found, BOTH, field="a") == {"kid": ["x1", "x2"], "field": sorted(values)}
    lists = definitions(list[str], BlindIndex())
    more = [by_hand(key, "field", "exact", b"\x04b") for key in (MATERIAL, OTHER)]
    assert indexed(lists, BOTH, field=["a", "b"])["field"] == sorted(values + more)
    assert Indexer(found, BOTH, "c").asked(found[0], b"\x04a") == values[0]
    assert Indexer(found, BOTH.searching_by("x2"), "c").asked(found[0], b"\x04a") == values[1]
    only = BOTH.searching_by("x2").writing_only("x2")
    assert indexed(found, only, field="a") == {"kid": "x2", "field": values[1]}
    reverse = KeyRing([DataKey.generate()], index_keys=[X2, X1])
    assert indexed(found, reverse, field="a") == {"kid": ["x1", "x2"], "field": sorted(values)}


def test_values_that_are_equal_by_chance_stand_once() -> None:
    """Of 8 bits there are only 256: elements of a list, and one value under two keys, meet. An array has each once."""
    many = definitions(list[int], BlindIndex(bits=8))
    found = indexed(many, field=[*range(1000)])["field"]
    assert found == sorted(set(found))
    one = definitions(int, BlindIndex(bits=8))
    met = [idx for idx in (indexed(one, BOTH, field=number)["field"] for number in range(2000)) if len(idx) == 1]
    assert met
    assert all(type(each) is list for each in met)


def test_the_values_under_other_keys_can_be_asked_for() -> None:
    """As `DocumentCodec.verify` does, for a document that was sealed under them; not under a key that is not there."""
    found = definitions(str, BlindIndex())
    indexer = Indexer(found, BOTH.searching_by("x2").writing_only("x2"), "c")
    assert indexer.of({"field": "a"}, ["x1"]) == indexed(found, field="a")
    assert indexer.of({"field": "a"}, ["x2", "x1"])["kid"] == ["x2", "x1"]
    with pytest.raises(UnknownKeyError, match=r"idx\.kid says which"):
        indexer.of({"field": "a"}, ["x9"])


def test_without_an_index_key_there_is_no_indexer() -> None:
    """It is refused when the codec is built, and the error says how a ring gets one; a model without indexes needs none."""
    ring = KeyRing([DataKey.generate()])
    with pytest.raises(ConfigurationError, match=r"with_index_key\(IndexKey.generate\(\)\)"):
        Indexer(definitions(str, BlindIndex()), ring, "c")
    empty = Indexer((), ring, "c")
    assert not empty
    assert Indexer(definitions(str, BlindIndex()), KEYS, "c")


def test_threads_share_an_indexer() -> None:
    """Each value is what one thread alone computes."""
    found = definitions(list[int], BlindIndex(), BlindIndex(name="other"))
    indexer = Indexer(found, BOTH, "c")
    expected = [indexed(found, BOTH, field=[n, n + 1]) for n in range(200)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(4):
            assert list(pool.map(lambda n: indexer.of({"field": [n, n + 1]}), range(200))) == expected


# --- nothing wanders out --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "leave", [copy.copy, copy.deepcopy, *(lambda o, p=p: pickle.dumps(o, p) for p in range(pickle.HIGHEST_PROTOCOL + 1))]
)
def test_an_indexer_is_not_copied_or_pickled(leave: Callable[[object], object]) -> None:
    """It holds keys, and so do the keys under which it computes."""
    indexer = Indexer(definitions(str, BlindIndex()), KEYS, "c")
    indexer.of({"field": "a"})
    for holder in (indexer, X1, X1.authenticator("c", "i", "exact"), KEYS):
        with pytest.raises(TypeError, match="not pickled or copied"):
            leave(holder)


def test_no_repr_shows_material() -> None:
    """Neither of the indexer, before and after it has derived its keys, nor of what it is made of."""
    found = definitions(str, BlindIndex(normalize="email", within=("other",)), other=OTHER_FIELD)
    indexer = Indexer(found, KEYS, "c")
    indexer.of({"field": CANARY, "other": CANARY})
    working = derive(derive(MATERIAL, "index"), "index", "c")
    keys = [MATERIAL, working, derive(working, "index", "c", "other_field", "exact+email")]
    for holder in (indexer, X1, KEYS, found, found[0].parts, BlindIndex(), Bucket(width=5), X1.authenticator("c", "i", "x")):
        said = f"{holder!r} {holder}"
        assert CANARY not in said
        assert not [key for key in keys if key.hex()[:12] in said or repr(key)[2:14] in said]


def test_a_definition_shows_what_is_stored_where() -> None:
    """The name in a filter of the server, and the head of the value's BSON element."""
    found = definitions(str, BlindIndex(name="é", bits=64))[0]
    assert found.stored == "idx.é"
    assert found.head == b"\x05" + "é".encode() + b"\0" + b"\x08\0\0\0" + b"\0"
    assert Part("a", normalizer("exact", None)).form("e\u0301") == "é"
