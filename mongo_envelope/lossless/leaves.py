"""The places that hold no other place: scalars, enums, literals, and classes with a form of their own in JSON."""

from __future__ import annotations

import decimal
import enum
from collections.abc import Collection
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any, Final, cast
from uuid import UUID

from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128
from pydantic import ByteSize
from pydantic_core import CoreSchema, core_schema

from mongo_envelope.errors import SchemaError

from .classes import KeptClass
from .depth import FLAT
from .node import Kind, Misfit, Node, check_int
from .reading import CONFIG, INSTEAD, JSON_KINDS, Raw, dumped, only

if TYPE_CHECKING:
    from .rewrite import Rewriter

__all__ = [
    "BYTE_SIZE",
    "SCALARS",
    "class_node",
    "enum_",
    "enum_values",
    "is_alone",
    "kept",
    "literal",
    "project_datetime",
    "scalar",
]

_DECIMAL128: Final = decimal.Context(prec=34, rounding=decimal.ROUND_HALF_EVEN, Emin=-6143, Emax=6144, clamp=1, traps=[])
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - subtracted from naive times only
_MILLISECOND: Final = timedelta(milliseconds=1)
_MINUTE: Final = timedelta(minutes=1)
_NO_OFFSET: Final = timedelta(0)


def project_datetime(value: datetime) -> DatetimeMS:
    """BSON's date: milliseconds since the epoch, rounded down; naive times are taken as UTC. No overflow at either end."""
    epoch = _NAIVE_EPOCH if value.utcoffset() is None else _EPOCH
    if epoch is _NAIVE_EPOCH and value.tzinfo is not None:  # a zone that does not know its offset
        value = value.replace(tzinfo=None)
    return DatetimeMS((value - epoch) // _MILLISECOND)


def kept(value: datetime) -> bool:
    """Whether BSON keeps a moment as it is: whole milliseconds, and no offset."""
    return value.microsecond % 1000 == 0 and (value.tzinfo is UTC or value.utcoffset() == _NO_OFFSET)


def _project_decimal(value: decimal.Decimal) -> Decimal128:
    """34 digits, rounded half even; a NaN without the digits that it may carry."""
    return Decimal128("NaN" if value.is_nan() else _DECIMAL128.create_decimal(value))


def _project_date(value: date) -> DatetimeMS:
    return project_datetime(datetime(value.year, value.month, value.day, tzinfo=UTC))


def _ints_deep(values: Collection[int]) -> None:
    if values:
        check_int(min(values))
        check_int(max(values))


def _float_near(value: Any) -> None:
    """An int in a float field, as in ``price: float = 0``, equals the float that comes back, or is refused."""
    if type(value) is not int:
        raise Misfit(f"float expected, {type(value).__qualname__} found")
    try:
        kept = float(value) == value
    except OverflowError:
        kept = False
    if not kept:
        raise Misfit("an int that a float cannot hold exactly")


def _scalar_row(cls: type, kind: Kind, *, native: bool = False, **more: Any) -> Node:
    return Node(
        schema=core_schema.any_schema(),
        label=cls.__name__,
        types=frozenset({cls}),
        kinds=frozenset({kind}),
        native=native,
        **more,
    )


#: kind of core schema → its node, but for the schema itself
SCALARS: Final[dict[str, Node]] = {
    "none": _scalar_row(type(None), "null", native=True),
    "bool": _scalar_row(bool, "bool", native=True),
    "int": _scalar_row(int, "int", native=True, deep=check_int, several=_ints_deep),
    "float": _scalar_row(float, "float", native=True, near=_float_near, tolerant=True, project=float),
    "str": _scalar_row(str, "string", native=True),
    "bytes": _scalar_row(bytes, "string"),
    "uuid": _scalar_row(UUID, "string"),
    "decimal": _scalar_row(decimal.Decimal, "string", project=_project_decimal, exact=True, rounds=True),
    "datetime": _scalar_row(datetime, "string", project=project_datetime, exact=True, rounds=True),
    "date": _scalar_row(date, "string", project=_project_date, exact=True),
    "time": _scalar_row(time, "string", project=time.isoformat, exact=True),
    "timedelta": _scalar_row(timedelta, "string", project=lambda value: value // _MILLISECOND, exact=True, rounds=True),
}
_STRICT: Final = frozenset({"none", "bool", "int", "float", "str"})  # where strictness means the same in JSON and in Python


_TEXT_CHANGES: Final = frozenset({"strip_whitespace", "to_lower", "to_upper"})


def scalar(raw: Raw, config: Raw) -> Node:
    """A scalar with its constraints and those of its model's configuration, without what is not about the value.

    What changes a text (strip_whitespace, to_lower, to_upper) has been done when the instance was made; on load it would change
    what was assigned since.
    """
    kind = raw["type"]
    dropped = ("serialization", "metadata", "ref", "now_op", "now_utc_offset", *(() if kind in _STRICT else ("strict",)))
    # now_op: PastDate, FutureDate. True when it was saved; a document must not become unreadable as time goes by.
    schema = {name: value for name, value in raw.items() if name not in dropped}
    if kind == "str":
        limits = {name: config[f"str_{name}"] for name in ("min_length", "max_length") if config.get(f"str_{name}") is not None}
        schema = limits | {name: value for name, value in schema.items() if name not in _TEXT_CHANGES}
    node = SCALARS[kind].but(schema=cast("CoreSchema", schema))
    if kind in ("datetime", "time"):
        return node.but(schema=_with_odd_offsets(node.schema, datetime if kind == "datetime" else time))
    return node


def _with_odd_offsets(schema: CoreSchema, cls: type[datetime | time]) -> CoreSchema:
    """Offsets of whole minutes as pydantic writes them; others, which it would cut (old local mean times), by ``isoformat``."""

    def dump(value: Any) -> Any:
        offset = value.utcoffset()
        return {"$iso": value.isoformat()} if offset and offset % _MINUTE else value

    odd = core_schema.typed_dict_schema({"$iso": core_schema.typed_dict_field(core_schema.str_schema())}, config=CONFIG)
    parsed = core_schema.no_info_after_validator_function(lambda form: cls.fromisoformat(form["$iso"]), odd)
    return cast(
        "CoreSchema",
        core_schema.union_schema(
            [schema, core_schema.chain_schema([parsed, schema])],
            mode="left_to_right",
            serialization=core_schema.plain_serializer_function_ser_schema(dump),
            metadata=FLAT,
        ),
    )


def is_alone(schema: Any) -> bool:
    """Whether pydantic's own parser alone reads a UUID or a datetime, so that no function sees in which form it came."""
    while schema["type"] == "default":
        schema = schema["schema"]
    if schema.get("metadata") == FLAT and schema["type"] == "union":
        schema = schema["choices"][0]
    return schema["type"] in ("uuid", "datetime")


BYTE_SIZE: Final = Node(
    schema=core_schema.no_info_after_validator_function(
        ByteSize, core_schema.int_schema(ge=0), serialization=core_schema.plain_serializer_function_ser_schema(int)
    ),
    label="ByteSize",
    types=frozenset({ByteSize}),
    kinds=frozenset({"int"}),
    project=int,
)


def class_node(cls: type, kept: KeptClass, load: Raw | CoreSchema | None = None) -> Node:
    """An instance of a class from the table of `classes`; ``load`` takes the place of the table's way back."""
    schema = cast("Raw", load or kept.load)
    return Node(
        schema=cast("CoreSchema", {**schema, "serialization": dumped(kept.dump, kept.written)}),
        label=cls.__name__,
        types=kept.types,
        kinds=frozenset({kept.kind}),
        project=kept.project or kept.dump,
        opaque=kept.opaque,
    )


def enum_(rewriter: Rewriter, raw: Raw, path: str) -> Node:
    """By value where JSON keeps the value, as pydantic does; by name where it does not."""
    del rewriter, path
    cls: type[enum.Enum] = raw["cls"]
    values = [member.value for member in cls]

    def named(value: Any) -> None:
        if value.name not in cls.__members__:
            raise Misfit(f"a {cls.__name__} that is not one of its members")

    base = Node(core_schema.any_schema(), cls.__name__, types=frozenset({cls}), kinds=frozenset({"string"}))
    if issubclass(cls, enum.Flag):
        return base.but(
            schema=core_schema.no_info_after_validator_function(
                cls, core_schema.int_schema(), serialization=dumped(lambda value: value.value, core_schema.int_schema())
            ),
            kinds=frozenset({"int"}),
            project=lambda value: value.value,
        )
    if {type(value) for value in values} in ({str}, {int}):
        kind: Kind = "string" if type(values[0]) is str else "int"
        return base.but(
            schema=cast("CoreSchema", {**only(raw, "type", "cls", "members", "sub_type", "missing")}),
            kinds=frozenset({kind}),
            project=lambda value: value.value,
        )
    return base.but(
        schema=core_schema.no_info_after_validator_function(
            cls.__members__.__getitem__,  # not cls.__getitem__, which a mixed-in tuple has of its own
            core_schema.str_schema(),
            serialization=dumped(lambda value: value.name, core_schema.str_schema()),
        ),
        deep=named,
        project=lambda value: value.name,
    )


def enum_values(rewriter: Rewriter, raw: Raw, path: str) -> Node:
    """``use_enum_values``: the field holds the value of a member."""
    cls: type[enum.Enum] = raw["schema"]["cls"]
    if issubclass(cls, enum.Flag):
        return SCALARS["int"].but(schema=core_schema.int_schema())
    values = [member.value for member in cls]
    if not all(type(value) in (*JSON_KINDS, bytes) for value in values):
        raise SchemaError(
            f"{path}: use_enum_values with values of {cls.__name__} that JSON does not know. Keep the members: leave it out"
        )
    return literal(rewriter, {"expected": values}, path)


def literal(rewriter: Rewriter, raw: Raw, path: str) -> Node:
    """A Literal of what JSON knows is written as it is; of enum members and bytes, by a name for each."""
    del rewriter
    expected: list[Any] = raw["expected"]
    allowed = {(type(value), value) for value in expected}

    def deep(value: Any) -> None:
        if (type(value), value) not in allowed:
            raise Misfit("not one of the values that the Literal allows")

    node = Node(
        schema=core_schema.literal_schema(expected),
        label="Literal",
        types=frozenset(type(value) for value in expected),
        kinds=frozenset(JSON_KINDS.get(type(value), "string") for value in expected),
        deep=deep,
        native=all(type(value) in JSON_KINDS for value in expected),
    )
    if node.native:
        return node
    keys = {_literal_key(value): value for value in expected}
    if len(keys) != len(expected):
        raise SchemaError(f"{path}: two values of the Literal would be written alike. {INSTEAD}")
    written = {(type(value), value): key for key, value in keys.items()}
    return node.but(
        schema=core_schema.no_info_plain_validator_function(
            keys.__getitem__, serialization=dumped(lambda value: written[type(value), value], core_schema.any_schema())
        ),
        project=lambda value: written[type(value), value],
    )


def _literal_key(value: Any) -> Any:
    if type(value) in JSON_KINDS:
        return value
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    return f"bytes:{value.hex()}"
