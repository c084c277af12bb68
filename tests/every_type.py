"""Every kind of type that a model may have, with values that are hard to keep; and what "equal" means for them.

Read by test_lossless (pure) and by test_every_type (saved to and loaded from a real mongod).
"""

from __future__ import annotations

import dataclasses
import enum
import ipaddress
import math
import re
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Generic, Literal, NamedTuple, Optional, TypeVar, Union
from uuid import UUID
from zoneinfo import ZoneInfo

from bson import ObjectId
from pydantic import (
    AnyUrl,
    Base64Bytes,
    Base64Str,
    Base64UrlBytes,
    BaseModel,
    ByteSize,
    ConfigDict,
    EmailStr,
    HttpUrl,
    Json,
    JsonValue,
    NameEmail,
    PlainSerializer,
    PostgresDsn,
    RootModel,
    Secret,
    SecretBytes,
    SecretStr,
    WrapSerializer,
    field_serializer,
)
from typing_extensions import TypeAliasType, TypedDict


class Colour(enum.Enum):
    red = "r"
    blue = "b"


class Odd(enum.Enum):
    pair = (1, 2)
    raw = b"y"
    one = 1


class Level(enum.IntEnum):
    low = 1


class Flags(enum.Flag):
    a = 1
    b = 2


class Pair(NamedTuple):
    a: int
    b: bytes = b"x"


class Partial(TypedDict, total=False):
    a: bytes
    b: int | None


class Inner(BaseModel):
    x: int
    masked: SecretStr = SecretStr("z")
    raw: bytes = b"\xff"

    @field_serializer("masked")
    def _mask(self, value: SecretStr) -> str:
        return "***"


class Other(BaseModel):
    x: int = 5


class InnerPlus(Inner):
    y: int = 1


@dataclasses.dataclass
class Point:
    x: bytes
    more: list[Point] = dataclasses.field(default_factory=list)
    z: int = dataclasses.field(init=False, default=3)


@dataclasses.dataclass(slots=True, frozen=True)
class Slotted:
    x: Decimal


class Tree(BaseModel):
    value: bytes
    kids: list[Tree] = []
    other: Tree | None = None


Nested = TypeAliasType("Nested", "dict[str, Nested | int] | list[Nested]")


class Roots(RootModel[list[bytes]]):
    pass


T = TypeVar("T")


class Box(BaseModel, Generic[T]):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    content: T


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int


class SecretBytesOfOurs(Secret[bytes]):
    pass


CET = timezone(timedelta(hours=1))
LOCAL_MEAN_TIME = timezone(timedelta(seconds=1172))
BERLIN = ZoneInfo("Europe/Berlin")

#: id → (type, values)
SCALARS: dict[str, tuple[Any, list[Any]]] = {
    "str": (str, ["", "a", "\x00é\u2028😀"]),
    "int": (int, [0, -1, 2**63 - 1]),
    "float": (float, [0.0, -0.0, 1e22, math.nan, math.inf, -math.inf, 5e-324, 5.0, 0.1]),
    "bool": (bool, [True, False]),
    "bytes": (bytes, [b"", b"\xff\xfe?>"]),
    "bytearray": (bytearray, [bytearray(b"\xff")]),
    "SecretStr": (SecretStr, [SecretStr("x"), SecretStr("")]),
    "SecretBytes": (SecretBytes, [SecretBytes(b"\xff")]),
    "Secret[int]": (Secret[int], [Secret[int](5)]),
    "Secret[bytes]": (Secret[bytes], [Secret[bytes](b"\xff")]),
    "Secret subclass": (SecretBytesOfOurs, [SecretBytesOfOurs(b"\xfe")]),
    "Decimal": (Decimal, [Decimal("1.10"), Decimal("-0"), Decimal("1E+3"), Decimal("1" * 50), Decimal("1E-20")]),
    "UUID": (UUID, [UUID(int=0), UUID(int=2**128 - 1)]),
    "Enum": (Colour, list(Colour)),
    "Enum of odd values": (Odd, list(Odd)),
    "Flag": (Flags, [Flags.a, Flags.a | Flags.b, Flags(0)]),
    "IntEnum": (Level, [Level.low]),
    "date": (date, [date.min, date.max]),
    "datetime": (
        datetime,
        [
            datetime(2024, 1, 1, 1, 2, 3, 456789),
            datetime(2024, 1, 1, 1, 2, 3, 456789, UTC),
            datetime(1, 1, 1, tzinfo=CET),
            datetime.max,
            datetime(1890, 1, 1, 1, tzinfo=LOCAL_MEAN_TIME),
            datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=BERLIN),
        ],
    ),
    "time": (time, [time(1, 2, 3, 4), time(1, tzinfo=CET), time(1, tzinfo=LOCAL_MEAN_TIME)]),
    "timedelta": (timedelta, [timedelta.max, timedelta.min, timedelta(microseconds=-1)]),
    "IPv4Address": (ipaddress.IPv4Address, [ipaddress.IPv4Address("1.2.3.4")]),
    "IPv6Address": (ipaddress.IPv6Address, [ipaddress.IPv6Address("::1"), ipaddress.IPv6Address("fe80::1%eth0")]),
    "IPv4Network": (ipaddress.IPv4Network, [ipaddress.IPv4Network("10.0.0.0/8")]),
    "IPv6Interface": (ipaddress.IPv6Interface, [ipaddress.IPv6Interface("::1/64")]),
    "ObjectId": (ObjectId, [ObjectId("0123456789abcdef01234567")]),
    "complex": (complex, [1 + 2j, complex(-0.0, math.inf)]),
    "Path": (Path, [Path("/a/b")]),
    "PurePosixPath": (PurePosixPath, [PurePosixPath("a")]),
    "PureWindowsPath": (PureWindowsPath, [PureWindowsPath("c:/a")]),
    "Pattern[str]": (re.Pattern[str], [re.compile("a.", re.IGNORECASE)]),
    "Pattern[bytes]": (re.Pattern[bytes], [re.compile(b"\xff", re.DOTALL)]),
    "Pattern": (re.Pattern, [re.compile("x")]),
    "ZoneInfo": (ZoneInfo, [BERLIN]),
    "Fraction": (Fraction, [Fraction(1, 3)]),
    "AnyUrl": (AnyUrl, [AnyUrl("http://x.y/z?q=1")]),
    "HttpUrl": (HttpUrl, [HttpUrl("https://ex.org")]),
    "PostgresDsn": (PostgresDsn, [PostgresDsn("postgres://a:b@h,i/db")]),
    "EmailStr": (EmailStr, ["a@ex.org"]),
    "NameEmail": (NameEmail, [NameEmail(name="Ann <X>", email="a@ex.org")]),
    "ByteSize": (ByteSize, [ByteSize(1000)]),
    "Base64Bytes": (Base64Bytes, [b"hello"]),
    "Base64Str": (Base64Str, ["hello"]),
    "Base64UrlBytes": (Base64UrlBytes, [b"\xff"]),
    "Literal": (Literal["a", 1, True, None], ["a", 1, True, None]),
    "Literal of members": (Literal[Colour.red, b"\xff", "q"], [Colour.red, b"\xff", "q"]),
}
OTHERS: dict[str, tuple[Any, list[Any]]] = {
    "list": (list[bytes], [[], [b"\xff"]]),
    "set": (set[int], [set(), {1, 2}]),
    "frozenset": (frozenset[bytes], [frozenset({b"\xff", b""})]),
    "tuple": (tuple[int, bytes], [(1, b"\xff")]),
    "tuple of any length": (tuple[bytes, ...], [(), (b"1", b"2")]),
    "deque": (deque[bytes], [deque([b"\xff"])]),
    "Sequence": (Sequence[bytes], [[b"\xff"], (b"\xff",)]),
    "Mapping": (Mapping[str, bytes], [{"a": b"\xff"}]),
    "OrderedDict": (OrderedDict[str, bytes], [OrderedDict(b=b"\xff", a=b"")]),
    "OrderedDict of int": (OrderedDict[int, int], [OrderedDict({2: 1, 1: 1})]),
    "defaultdict": (defaultdict[str, list[bytes]], [defaultdict(list, {"a": [b"\xff"]})]),
    "Counter": (Counter[str], [Counter("aab")]),
    "Counter of int": (Counter[int], [Counter([1, 1])]),
    "dict by int": (dict[int, bytes], [{}, {1: b"\xff"}]),
    "dict by UUID": (dict[UUID, int], [{UUID(int=1): 1}]),
    "dict by tuple": (dict[tuple[int, int], str], [{(1, 2): "a"}]),
    "dict by Enum": (dict[Colour, str], [{Colour.red: "1"}]),
    "dict by date": (dict[date, int], [{date.min: 1}]),
    "dict by bool": (dict[bool, int], [{True: 1}]),
    "dict by str or int": (dict[str | int, int], [{"1": 1, 1: 2}]),
    "dict by float": (dict[float, int], [{1.5: 1, -0.0: 2}]),
    "dict by str or None": (dict[str | None, int], [{None: 1, "a": 2}]),
    "NamedTuple": (Pair, [Pair(1, b"\xff")]),
    "TypedDict": (Partial, [{}, {"a": b"\xff"}, {"b": None}]),
    "nested model": (Inner, [Inner(x=1)]),
    "dataclass": (Point, [Point(b"\xff", [Point(b"")])]),
    "slotted dataclass": (Slotted, [Slotted(Decimal("1.0"))]),
    "recursive model": (Tree, [Tree(value=b"\xff", kids=[Tree(value=b"1", other=Tree(value=b""))])]),
    "recursive alias": (Nested, [{"a": 1, "b": {"c": [{}]}}, [[], {"x": 1}]]),
    "RootModel": (Roots, [Roots([b"\xff"])]),
    "generic model": (Box[bytes], [Box[bytes](content=b"\xff")]),
    "model with extras": (Open, [Open(a=1), Open(a=1, b=b"\xff", c={"$x": 1}, d=(1, {2}))]),
    "Json[T]": (Json[list[bytes]], [[b"\xff"]]),
    "JsonValue": (JsonValue, [None, True, 1, 1.5, "a", [1, {"a": None}], {"$x": [1.0]}]),
    "bytes or str": (bytes | str, [b"abc", "abc"]),
    "datetime or date": (datetime | date, [datetime(2024, 1, 1), date(2024, 1, 1)]),
    "date or datetime": (date | datetime, [datetime(2024, 1, 1), date(2024, 1, 1)]),
    "int or str": (int | str, [1, "1"]),
    "str or int": (str | int, [1, "1"]),
    "int or float": (int | float, [1, 1.0, math.nan]),
    "float or int": (float | int, [1, 1.0]),
    "bool or int": (bool | int, [True, 1, 0]),
    "int or bool": (int | bool, [True, 1]),
    "two models": (Inner | Other, [Inner(x=1), Other(x=5)]),
    "base or subclass": (Inner | InnerPlus, [Inner(x=1), InnerPlus(x=1, y=2)]),
    "two lists": (list[int] | list[str], [[1], ["1"], []]),
    "lists of int or float": (list[int] | list[float], [[1], [1.0]]),
    "set or list": (set[int] | list[int], [{1}, [1]]),
    "UUID or str": (UUID | str, [UUID(int=1), str(UUID(int=1))]),
    "three numbers": (Decimal | float | int, [Decimal(1), 1.0, 1]),
    "dict or TypedDict": (dict[str, int] | Partial, [{"a": 1}, {"a": b"1"}, {}]),
    "model or dict": (Inner | dict[str, int], [Inner(x=1), {"x": 1}]),
    "secret or int": (SecretStr | int | None, [SecretStr("1"), 1, None]),
    "tuple or list": (tuple[int, ...] | list[int], [(1,), [1]]),
    "masked": (Annotated[str, PlainSerializer(lambda _: "***")], ["secret"]),
    "masked list": (Annotated[list[bytes], WrapSerializer(lambda _value, _handler: "***")], [[b"\xff"]]),
}
ANYTHING: dict[str, tuple[Any, list[Any]]] = {
    "Any": (
        Any,
        [
            *(None, 1, 1.0, True, "a", b"\xff", [b"1"], {"a": {1}}, {"$bytes": "x"}, {"$": 1}, {1: 2}, {"$dict": [[1, 2]]}),
            *(
                (1, (2,)),
                {1, 2},
                frozenset({1}),
                bytearray(b"x"),
                math.inf,
                -0.0,
                math.nan,
                1 + 2j,
                Decimal("1.10"),
                Fraction(1, 3),
            ),
            *(datetime(1890, 1, 1, 1, 1, 1, 5, LOCAL_MEAN_TIME), date.min, time(1, 2, 3, 4), timedelta(microseconds=-1)),
            *(
                UUID(int=1),
                ObjectId("0123456789abcdef01234567"),
                Path("a"),
                PureWindowsPath("c:"),
                ipaddress.IPv4Address("1.1.1.1"),
            ),
        ],
    ),
    "Json": (Json, [{"a": b"1"}, 5]),
}
EVERY_TYPE = SCALARS | OTHERS | ANYTHING

#: where a type may stand → (the type of the place, its value)
PLACES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "alone": (lambda kind: kind, lambda value: value),
    "in Optional": (lambda kind: Optional[kind], lambda value: value),  # noqa: UP045 - the kind is a variable
    "in list": (lambda kind: list[kind], lambda value: [value, value]),
    "in dict": (lambda kind: dict[str, kind], lambda value: {"key": value}),
    "in tuple": (lambda kind: tuple[kind, int], lambda value: (value, 1)),
    "in a nested model": (lambda kind: Box[kind], lambda value: Box.model_construct(content=value)),
    "in a union": (lambda kind: Union[kind, Other], lambda value: value),  # noqa: UP007 - the kind is a variable
}


def placed(place: str, kind: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The type of a place, and what puts a value there."""
    make, put = PLACES[place]
    where = make(kind)
    if place == "in a nested model":
        return where, lambda value: where.model_construct(content=value)
    return where, put


def same(one: Any, other: Any) -> bool:
    """Equal in value and type, in the sign of zero, the digits of a Decimal and the offset of a time, at every depth."""
    if type(one) is not type(other):
        return False
    match one:
        case float():
            return (math.isnan(one) and math.isnan(other)) or (one == other and math.copysign(1, one) == math.copysign(1, other))
        case complex():
            return same(one.real, other.real) and same(one.imag, other.imag)
        case datetime() | time():
            return one.replace(tzinfo=None) == other.replace(tzinfo=None) and one.utcoffset() == other.utcoffset()
        case Decimal():
            return one.as_tuple() == other.as_tuple()
        case dict():
            return len(one) == len(other) and all(map(same, one.items(), other.items()))
        case list() | tuple() | deque():
            return len(one) == len(other) and all(map(same, one, other))
        case set() | frozenset():
            return one == other and {type(each) for each in one} == {type(each) for each in other}
        case RootModel():
            return same(one.root, other.root)
        case BaseModel():
            return same(one.__dict__, other.__dict__) and same(one.__pydantic_extra__, other.__pydantic_extra__)
        case SecretStr() | SecretBytes() | Secret():
            return same(one.get_secret_value(), other.get_secret_value())
        case tzinfo():
            return True
        case _ if dataclasses.is_dataclass(one):
            return all(same(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(one))
        case _:
            return bool(one == other)
