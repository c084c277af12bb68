"""Which blind indexes a model has: what its markers say, checked against the types of its fields, once, when the schema is built.

`schema` collects the markers and knows the places; this room makes a `blind.Definition` of each index, or a `SchemaError` that
names the field and what to write instead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, SecretBytes, SecretStr

from .blind import ENCODABLE, BlindIndex, Bucket, Definition, Part, encode
from .envelope import encodes
from .errors import SchemaError
from .lossless import Node
from .normalize import Normalizer, bucket, normalizer

__all__ = ["definitions"]

#: A field of fewer values than this is guessed from the frequencies of its index values alone.
_FEW: Final = 32


class _Places(NamedTuple):
    """The fields that an index may be on, and those of them that stand in the clear."""

    nodes: Mapping[str, Node]
    clear: Collection[str]
    searchable: Collection[str]


def definitions(
    model: type[BaseModel], wanted: Mapping[str, Sequence[BlindIndex | Bucket]], nodes: Mapping[str, Node], clear: Mapping[str, str]
) -> tuple[Definition, ...]:
    """The indexes of a model, in the order in which they are declared.

    ``wanted``: by field; ``nodes``: of all fields that an index may be on; ``clear``: the fields in the clear, with their stored
    names.
    """
    found: dict[str, Definition] = {}
    places = _Places(nodes, clear, {*clear, *(field for field, several in wanted.items() if several)})
    for field, several in wanted.items():
        for each in several:
            where = f"{model.__name__}.{field}"
            if not isinstance(each, BlindIndex | Bucket):
                raise SchemaError(f"{where}: index= takes a BlindIndex, a Bucket, or a list of them")
            definition = (
                _bucket(where, model, field, each, nodes) if isinstance(each, Bucket) else _blind(where, model, field, each, places)
            )
            _check_name(where, definition.name, {*nodes, *clear, *clear.values()} - {field})
            if definition.name in found:
                raise SchemaError(f"{where}: two blind indexes of the name {definition.name!r}. Give one of them name=…")
            found[definition.name] = definition
    return tuple(found.values())


def _check_name(where: str, name: str, taken: set[str]) -> None:
    if (
        not isinstance(name, str)
        or not encodes({name: None})
        or name in ("", "kid")
        or name.startswith("$")
        or not {".", "\0"}.isdisjoint(name)
    ):
        raise SchemaError(
            f"{where}: a blind index cannot have this name: not empty, not kid, no leading $, no dot, no NUL. Give it name=…"
        )
    if len(name.encode()) > 255:
        raise SchemaError(f"{where}: the name of a blind index has at most 255 bytes")
    if name in taken:
        raise SchemaError(f"{where}: the blind index has the name of another field: {name!r}. Give it another name=…")


def _blind(where: str, model: type[BaseModel], field: str, index: BlindIndex, places: _Places) -> Definition:
    _check_bits(where, index.bits)
    if index.unique and index.bits < 128:
        raise SchemaError(f"{where}: unique needs values of 128 bits or more: two shorter ones may be equal by chance")
    own = _normalizer(where, index.normalize, index.normalize_id)
    owner = _part(where, field, own, places.nodes[field])
    around = tuple(_around(where, index, places))
    parts = (*(part for part in around), owner)
    if len({part.field for part in parts}) < len(parts):
        raise SchemaError(f"{where}: within= names a field twice, or the field itself")
    if not index.few_values:
        _refuse_few(where, model, parts)
    name = "_".join(part.field for part in parts) if index.name is None else index.name
    return Definition(name, parts, index.bits, index.unique, index.none, ranges=False)


def _around(where: str, index: BlindIndex, places: _Places) -> Iterator[Part]:
    within = index.within
    if isinstance(within, str) or not isinstance(within, Sequence | Mapping) or not all(isinstance(each, str) for each in within):
        raise SchemaError(f'{where}: within= takes the names of other fields: within=("tenant",)')
    names = within if isinstance(within, Mapping) else dict.fromkeys(within, "exact")
    for name, given in names.items():
        if name not in places.nodes:
            raise SchemaError(f"{where}: within= names {str(name)[:64]!r}, which is no field of the model")
        part = _part(where, name, _normalizer(where, given, None), places.nodes[name])
        if places.nodes[name].rounds and name in places.clear:
            raise SchemaError(
                f"{where}: within= names {name}, which BSON rounds, so that a filter cannot say exactly what it is equal to. Use "
                "one that is text, a whole number or an id"
            )
        if name not in places.searchable:
            raise SchemaError(
                f"{where}: within= names {name}, which is sensitive and has no index, so that no filter could say what it is equal "
                "to. Give it a BlindIndex of its own, or take a queryable field"
            )
        if part.many:
            raise SchemaError(f"{where}: within= names {name}, which is a list: only the field itself can be one")
        yield part


def _bucket(where: str, model: type[BaseModel], field: str, index: Bucket, nodes: Mapping[str, Node]) -> Definition:
    _check_bits(where, index.bits)
    part = _part(where, field, _in(where, lambda: bucket(index.width, index.low, index.high)), nodes[field])
    _refuse_few(where, model, (part,))
    if part.many:
        raise SchemaError(f"{where}: a Bucket is for one number or date, and this field is a list of them")
    name = f"{field}_bucket" if index.name is None else index.name
    return Definition(name, (part,), index.bits, unique=False, none=False, ranges=True)


def _check_bits(where: str, bits: int) -> None:
    if type(bits) is not int or bits % 8 or not 8 <= bits <= 256:
        raise SchemaError(f"{where}: bits= is a multiple of 8, from 8 to 256")


def _normalizer(where: str, given: Any, given_id: str | None) -> Normalizer:
    return _in(where, lambda: normalizer(given, given_id))


def _in(where: str, make: Any) -> Normalizer:
    try:
        made: Normalizer = make()
    except SchemaError as error:
        problem = str(error)
    else:
        return made
    raise SchemaError(f"{where}: {problem}")


def _part(where: str, field: str, norm: Normalizer, node: Node) -> Part:
    """Raise `SchemaError` if the normaliser cannot take what the field holds."""
    many = node.item is not None
    if many and any(issubclass(each, BaseModel) for each in node.types):
        raise SchemaError(
            f"{where}: {field} is a model around a list: take the list itself, or index with a function on a field of one value"
        )
    held = _held(node.item or node)
    if "array" in node.kinds and (not many or node.kinds - {"array", "null"}):
        raise SchemaError(f"{where}: {field} is a {node.label}: a blind index is on one value, or on a list of values of one type")
    own = norm.takes is None and norm.id != "exact"
    takes = norm.takes or ENCODABLE
    if not own and not all(issubclass(each, takes) and (each is not bool or bool in takes) for each in held):
        what = " | ".join(sorted(each.__name__ for each in held)) or node.label
        if norm.id.startswith("bucket"):
            raise SchemaError(f"{where}: {field} is a {what}. A Bucket is for numbers, or, by month or year, for dates")
        raise SchemaError(
            f"{where}: {field} is a {what}, which the normaliser {norm.id} does not take. A function will: "
            'normalize=lambda value: …, normalize_id="…"'
        )
    for each in held:
        if not own and issubclass(each, Enum) and not all(_has_an_encoding(member.value) for member in each):
            raise SchemaError(f"{where}: {each.__name__} has members whose values have no index value: use a function")
    if not own and not held:
        raise SchemaError(f"{where}: {field} is a {node.label}, of which nothing is known that could be indexed")
    return Part(field, norm, many=many, real=float in held and int not in held)


def _has_an_encoding(value: Any) -> bool:
    try:
        encode(value)
    except ValueError:
        return False
    return True


def _held(node: Node) -> set[type]:
    """The types that a normaliser meets: a secret is what it hides, None is not given to it."""
    hidden = {SecretStr: str, SecretBytes: bytes}
    if node.item is not None or not isinstance(node.types, frozenset):
        return {list}
    return {next((inner for secret, inner in hidden.items() if issubclass(each, secret)), each) for each in node.types} - {NoneType}


def _refuse_few(where: str, model: type[BaseModel], parts: Sequence[Part]) -> None:
    counts = [_count(model.model_fields[part.field].annotation) for part in parts]
    known = [count for count in counts if count is not None]
    if len(known) < len(counts):
        return
    product = 1
    for count in known:
        product *= count
    if product < _FEW:
        raise SchemaError(
            f"{where}: there are only {product} possible values, so that whoever counts the index values knows which is which. "
            "Leave it without an index and pick in Python, put it within= another index, or write few_values=True to give them away"
        )


def _count(annotation: Any) -> int | None:
    """How many values a type has; None if that is not to be counted."""
    for behind in ("__value__", "__supertype__"):  # a type alias, a NewType
        if hasattr(annotation, behind) and not get_args(annotation):
            return _count(getattr(annotation, behind))
    origin, arguments = get_origin(annotation), get_args(annotation)
    if hasattr(origin, "__value__"):  # a generic alias
        return _count(origin.__value__[arguments])
    if origin is Annotated or (origin in (list, set, frozenset, tuple, deque) and arguments):
        return _count(arguments[0])
    if origin is Literal:
        return len(arguments)
    if origin in (Union, UnionType):
        counts = [_count(each) for each in arguments]
        return None if None in counts else sum(count for count in counts if count is not None)
    if annotation in (None, NoneType):
        return 1
    if annotation is bool:
        return 2
    return len(annotation) if isinstance(annotation, type) and issubclass(annotation, Enum) else None
