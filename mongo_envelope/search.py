"""Searching what is encrypted: a condition on a sensitive field becomes one on its blind index. Pure.

    {"email": "Ada@example.com"}         {"idx.email": <value>}                       exact: the server's answer is the answer
    {"salary": {"$gte": 5, "$lt": 9}}    {"idx.salary_bucket": {"$in": [<values>]}}   finds too much, and is sifted after decryption

A filter is a tree of `Part`. Each has a ``server``, the filter for MongoDB, which finds everything that the part is true of, and
perhaps more; and its ``truth``, which is computed of the decrypted document. Where the server finds too much, its negation cannot
be left to it: then it is asked for everything else, and the truth decides. `Compiled` is what comes of it all: the server's filter,
and the sieve, if one is needed.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, Final, NamedTuple, Protocol, Self

from bson import Regex

from .answer import has_operators
from .blind import Definition, Indexer
from .errors import QueryError
from .matching import Matcher
from .normalize import NOTHING, is_nan
from .places import SEQUENCES, Place, meant, place
from .schema import Schema

__all__ = ["AllOf", "AnyOf", "Blind", "Both", "Clear", "Compiled", "NoneOf", "Part", "Pins", "Sift"]

#: (the verified document, the values of the model's fields) → whether it is meant
Sift = Callable[[Mapping[str, Any], Mapping[str, Any]], bool]
_LONGEST_INT: Final = 4300
#: So many index values go into one condition.
_MANY: Final = 1000
_RANGE: Final = ("$gt", "$gte", "$lt", "$lte")
_SERVED: Final = "$eq $ne $in $nin $not $all, $elemMatch on a list, and $gt $gte $lt $lte with a Bucket"


class Part(Protocol):
    """A part of a filter."""

    @property
    def server(self) -> dict[str, Any] | None:
        """What finds all that it is true of; None if that cannot be told by the server."""

    @property
    def exact(self) -> bool:
        """Whether the server finds nothing else."""

    @property
    def needs(self) -> Mapping[str, Any]:
        """What a document must have, so that its not being found means something."""

    def truth(self) -> Sift:
        """Whether it is true of a document. Raise `QueryError` if that cannot be computed here."""

    def sift(self) -> Sift:
        """What is left to be decided of a document that the server has found."""


class Compiled(NamedTuple):
    """A filter, ready to be asked."""

    server: dict[str, Any]
    sift: Sift | None = None  #: None: the server's answer is the answer
    value: tuple[Definition, bytes] | None = None  #: the index and its value, if nothing else is asked
    blind: bool = False  #: whether a blind index is asked

    @classmethod
    def of(cls, part: Part) -> Self:
        """Take the whole tree."""
        return cls(part.server or {}, None if part.exact else part.sift(), blind=not part.exact or bool(part.needs))


@dataclass(frozen=True, slots=True)
class Clear:
    """Conditions on fields in the clear, as `query` compiles them."""

    server: dict[str, Any]
    exact: bool = True
    needs: Mapping[str, Any] = field(default_factory=dict)

    def truth(self) -> Sift:
        """By MongoDB's rules, on the verified document."""
        matches = Matcher(self.server).matches
        return lambda document, _: matches(document)

    def sift(self) -> Sift:
        """Nothing is left."""
        return lambda document, values: True  # noqa: ARG005 - a sieve takes both


class _Several:
    """Parts under one operator."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts
        self.exact = all(part.exact for part in parts)
        self.server = self._server()  # once: each part asks those beneath it
        self.needs = _needs(parts)

    def _server(self) -> dict[str, Any] | None:
        raise NotImplementedError

    def _truths(self) -> list[Sift]:
        return [part.truth() for part in self.parts]


def _needs(parts: Sequence[Part]) -> dict[str, Any]:
    return {name: condition for part in parts for name, condition in part.needs.items()}


class AllOf(_Several):
    """``$and``."""

    def truth(self) -> Sift:
        """All of the parts are true."""
        truths = self._truths()
        return lambda document, values: all(true(document, values) for true in truths)

    def _server(self) -> dict[str, Any] | None:
        """Those that the server can tell."""
        told = [part.server for part in self.parts if part.server is not None]
        return {"$and": told} if told else None

    def sift(self) -> Sift:
        """What the server does not tell exactly."""
        left = [part.sift() for part in self.parts if not part.exact]
        return lambda document, values: all(true(document, values) for true in left)


class Both(AllOf):
    """The entries of one dict. Where two of them come to one name, as conditions on one index do, they are joined by ``$and``."""

    def _server(self) -> dict[str, Any] | None:
        """Those that the server can tell, in one dict."""
        joined: dict[str, Any] = {}
        for told in (part.server for part in self.parts if part.server is not None):
            twice = joined.keys() & told.keys()
            joined |= {name: condition for name, condition in told.items() if name not in twice}
            if twice:
                joined["$and"] = [*joined.get("$and", []), *({name: told[name]} for name in sorted(twice) if name != "$and")]
                joined["$and"] += told.get("$and", []) if "$and" in twice else []
        return joined if any(part.server is not None for part in self.parts) else None


class AnyOf(_Several):
    """``$or``. One part that the server cannot tell leaves nothing for it to tell."""

    def _server(self) -> dict[str, Any] | None:
        """All of them, or nothing."""
        told = [part.server for part in self.parts if part.server is not None]
        return {"$or": told} if len(told) == len(self.parts) else None

    def truth(self) -> Sift:
        """One of the parts is true."""
        truths = self._truths()
        return lambda document, values: any(true(document, values) for true in truths)

    def sift(self) -> Sift:
        """All of it: the server does not say which part has found a document."""
        return self.truth()


class NoneOf(_Several):
    """``$nor``. Of a part that the server finds too much for, it must not leave anything out."""

    def _server(self) -> dict[str, Any] | None:
        """Those that it tells exactly; of documents that have the index values. The others would not be found by what is asked."""
        told = [part for part in self.parts if part.exact]
        return {"$nor": [part.server for part in told], **_needs(told)} if told else None

    def truth(self) -> Sift:
        """No part is true."""
        truths = self._truths()
        return lambda document, values: not any(true(document, values) for true in truths)

    def sift(self) -> Sift:
        """The others."""
        left = [part.truth() for part in self.parts if not part.exact]
        return lambda document, values: not any(true(document, values) for true in left)


class Pins:
    """What a filter says, around one of its parts, about the fields that a compound index needs beside its own."""

    def __init__(self, schema: Schema[Any], found: Mapping[str, list[Any]] | None = None) -> None:
        """Nothing yet."""
        self._schema = schema
        self._found = dict(found or {})

    def and_those_of(self, given: Mapping[Any, Any]) -> Pins:
        """Those of a filter too, with all that it says by ``$and``."""
        return Pins(self._schema, {**self._found, **dict(self._said(given))})

    def _said(self, given: Mapping[Any, Any]) -> Iterator[tuple[str, list[Any]]]:
        for name, condition in given.items():
            if name == "$and" and isinstance(condition, list | tuple):
                for each in condition:
                    yield from self._said(each) if isinstance(each, Mapping) else ()
            elif isinstance(name, str) and (field := self._field(name)) is not None:
                values = _equal_to(condition)
                if values is not None:
                    yield field, values

    def _field(self, name: str) -> str | None:
        field = self._schema.field(name)
        return field.name if field is not None else name if name in self._schema.sensitive else None

    def values(self, field: str) -> list[Any] | None:
        """The values of which a field has one, in its own type; None if the filter does not say."""
        if field not in self._found:
            return None
        in_clear = self._schema.field(field) is not None
        where = place(self._schema, field) if in_clear else Place(field, field, self._schema.places[field])
        found = [meant(where, each).value for each in self._found[field]]
        validated = found if in_clear else [self._schema.validated(field, each) for each in found]
        return [alike for each in validated for alike in _alike(() if where.node is None else where.node.types, each)]


def _equal_to(condition: Any) -> list[Any] | None:
    if isinstance(condition, re.Pattern | Regex):
        return None
    if not has_operators(condition):
        return [condition]
    if "$eq" in condition:
        return [condition["$eq"]]
    several = condition.get("$in")
    return list(several) if isinstance(several, list | tuple | set | frozenset) else None


class Blind:
    """Conditions on one sensitive field, or on one of its indexes by name."""

    def __init__(self, schema: Schema[Any], indexer: Indexer, pins: Pins, name: str, definitions: Sequence[Definition]) -> None:
        """Not for callers: see `on`."""
        self._schema = schema
        self._indexer = indexer
        self._pins = pins
        self._name = name
        self._definitions = definitions
        self._field = definitions[0].owner.field
        node = schema.places[self._field]
        self._many = definitions[0].owner.many
        self._place = Place(name, self._field, (node.item or node) if self._many else node)
        self._optional = type(None) in node.types

    @classmethod
    def on(cls, schema: Schema[Any], indexer: Indexer, pins: Pins, name: object) -> Self | None:
        """What a name in a filter stands for, if it is a field with a blind index, or such an index."""
        if not isinstance(name, str):
            return None
        top, dot, _ = name.partition(".")
        found = [each for each in schema.blind if each.owner.field == top] or [each for each in schema.blind if each.name == top]
        if found and dot:
            raise QueryError(
                f"{name[:64]}: a blind index is on the whole of {top}, and nothing beneath it can be searched. Index what is "
                "looked for: BlindIndex(name=…, normalize=lambda value: …, normalize_id=…)"
            )
        if found:
            indexer.check_searching()
        return cls(schema, indexer, pins, name, found) if found else None

    @classmethod
    def at_once(cls, schema: Schema[Any], indexer: Indexer, given: object) -> Compiled | None:
        """The short way for what is asked most: one text in one field. None for all else, and for what is to be refused."""
        if type(given) is not dict or len(given) != 1:
            return None
        [(name, value)] = given.items()
        found = schema.searched_at_once.get(name)
        if found is None or type(value) is not str:
            return None
        definition, validated = found
        encoding = definition.encoded_text(schema.validated(name, value) if validated else value)
        if encoding is None:
            return None
        asked = indexer.asked(definition, encoding)
        return Compiled({definition.stored: asked}, None, (definition, asked), blind=True)

    def condition(self, given: Any) -> Part:
        """A value, or operators."""
        if isinstance(given, re.Pattern | Regex):
            raise self._refused("a regular expression")
        if not has_operators(given):
            return self._one_of([given])
        ranges = {operator: operand for operator, operand in given.items() if operator in _RANGE}
        parts = [self._operator(operator, operand) for operator, operand in given.items() if operator not in _RANGE]
        if ranges:
            parts.append(self._range(ranges))
        return parts[0] if len(parts) == 1 else Both(parts)

    def _refused(self, what: str) -> QueryError:
        return QueryError(
            f"{self._schema.model.__name__}.{self._name} is sensitive, and {what} is not served by its blind index. Served: "
            f"{_SERVED}"
        )

    def _operator(self, operator: str, operand: Any) -> Part:
        if operator == "$eq":
            return self._one_of([operand])
        if operator == "$ne":
            return NoneOf([self._one_of([operand])])
        if operator in ("$in", "$nin", "$all"):
            values = self._list(operator, operand)
            if operator == "$in":
                return self._one_of(values)
            if operator == "$nin":
                return NoneOf([self._one_of(values)])
            return AllOf([self._one_of([each]) for each in values])
        if operator == "$not" and has_operators(operand):
            return NoneOf([self.condition(operand)])
        if operator == "$elemMatch" and self._many:
            return self._element(operand)
        raise self._refused(str(operator)[:64])

    def _list(self, operator: str, operand: Any) -> list[Any]:
        if isinstance(operand, str | bytes | Mapping) or not isinstance(operand, Iterable):
            raise QueryError(f"{self._name}: {operator} takes a list of values")
        values = list(operand)
        if operator == "$all" and not values:
            raise QueryError(f"{self._name}: $all of no values matches nothing")
        return values

    # --- equality -----------------------------------------------------------------------------------------------------

    def _one_of(self, given: list[Any]) -> Part:
        values = [self._typed(each) for each in given]
        definition = self._serving(values)
        if definition.ranges:
            numbers = {self._bucket(definition, each) for each in values}
            return self._in_buckets(definition, numbers, lambda value: any(_equals(value, each) for each in values))
        wanted = self._encoded(definition, values)
        return self._found_by(definition, wanted, lambda each: each in wanted)

    def _element(self, operand: Any) -> Part:
        """``$elemMatch``: one element of a list is this and not that."""
        if not has_operators(operand) or not operand.keys() <= {"$eq", "$ne", "$in", "$nin"}:
            raise self._refused("$elemMatch with anything but $eq, $ne, $in and $nin")
        listed = {
            operator: [self._typed(each) for each in ([value] if operator in ("$eq", "$ne") else self._list(operator, value))]
            for operator, value in operand.items()
        }
        values = [each for several in listed.values() for each in several]
        definition = self._serving(values)
        if definition.ranges:
            raise self._refused("$elemMatch")
        sets = {operator: self._encoded(definition, values) for operator, values in listed.items()}
        asked = [sets[operator] for operator in ("$eq", "$in") if operator in sets]
        unasked = frozenset().union(*(sets[operator] for operator in ("$ne", "$nin") if operator in sets))
        if not asked:
            return _Leaf(None, exact=False, needs={}, true=self._of_elements(definition, lambda each: each not in unasked))
        wanted = frozenset.intersection(*asked) - unasked
        leaf = self._found_by(definition, wanted, lambda each: each in wanted)
        # A field that is None has the same index value as a list with None in it.
        exact = definition.exact and not (self._optional and None in values)
        return _Leaf(leaf.server, exact=exact, needs=leaf.needs, true=self._of_elements(definition, lambda each: each in wanted))

    def _of_elements(self, definition: Definition, is_meant: Callable[[bytes | None], bool]) -> Sift:
        found, field = _of_any(definition, is_meant), self._field
        return lambda document, values: values[field] is not None and found(document, values)

    def _found_by(self, definition: Definition, wanted: frozenset[bytes], is_wanted: Callable[[bytes | None], bool]) -> _Leaf:
        values = sorted({self._indexer.asked(definition, each) for each in wanted})
        condition: Any = values[0] if len(values) == 1 else {"$in": values}
        return _Leaf(
            {definition.stored: condition},
            exact=definition.exact,
            needs=self._indexer.written(definition),
            true=_of_any(definition, is_wanted),
        )

    def _typed(self, value: Any) -> Any:
        """A value in the type of the field, as the model's validators make it of what people write."""
        if value is None:
            if self._optional or (self._place.node is not None and type(None) in self._place.node.types):
                return None
            raise QueryError(f"{self._name}: this field is never None")
        if self._many and isinstance(value, SEQUENCES):
            raise QueryError(f"{self._name}: a list is searched by its elements: by one, or by $all of several")
        return self._schema.validated(self._field, meant(self._place, value).value, element=self._many)

    def _serving(self, values: Sequence[Any]) -> Definition:
        """The index that is asked: the first declared one that can answer; a `Bucket` only if there is none."""
        problem = ""
        for each in sorted(self._definitions, key=lambda each: each.ranges):
            lacking = [part.field for part in each.parts[:-1] if self._pins.values(part.field) is None]
            if None in values and not each.none:
                problem = problem or "None is not in its index: BlindIndex(none=True) puts it into one"
            elif lacking:
                names = " and ".join(lacking)
                problem = f"its blind index is within {names}: the filter must say, too, what {names} is equal to"
            else:
                return each
        raise QueryError(f"{self._name}: {problem}")

    def _encoded(self, definition: Definition, values: Iterable[Any]) -> frozenset[bytes]:
        """The encodings that are looked for: of each value, with each combination of what the fields around it may be."""
        around = [self._pins.values(part.field) or [] for part in definition.parts[:-1]]
        values = list(values)
        if math.prod(map(len, [*around, values])) > 4 * _MANY:
            raise QueryError(f"{self._name}: more than {_MANY} values in one condition. Ask for fewer at a time")
        found: set[bytes] = set()
        own = () if self._place.node is None else self._place.node.types
        for combination in itertools.product(*around, [alike for value in values for alike in _alike(own, value)]):
            fields = dict(zip((part.field for part in definition.parts), combination, strict=True))
            encoding = self._encoding(definition, fields)
            if encoding is None:
                raise QueryError(
                    f"{self._name}: a value that has no normal form ({definition.normalizer_id}): nothing is found by it"
                )
            found.add(encoding)
            if len(found) > _MANY:
                raise QueryError(f"{self._name}: more than {_MANY} values in one condition. Ask for fewer at a time")
        return frozenset(found)

    def _encoding(self, definition: Definition, fields: Mapping[str, Any]) -> bytes | None:
        try:
            return definition.encoding(fields)
        except ValueError as error:  # ours, and without the value
            problem = str(error)
        raise QueryError(problem)

    # --- ranges -------------------------------------------------------------------------------------------------------

    def _range(self, given: Mapping[str, Any]) -> Part:
        definition = next((each for each in self._definitions if each.ranges), None)
        if definition is None:
            raise self._refused(" and ".join(given))
        bounds = {operator: self._bound(operator, operand) for operator, operand in given.items()}
        lowest = max((_ordered(bounds[each]) for each in ("$gt", "$gte") if each in bounds), default=None)
        highest = min((_ordered(bounds[each]) for each in ("$lt", "$lte") if each in bounds), default=None)
        first, last = self._edge(definition, lowest, -1), self._edge(definition, highest, 1)
        if last - first >= _MANY:
            raise QueryError(f"{self._name}: the range touches more than {_MANY} buckets. Ask for less, or make them wider")
        return self._in_buckets(definition, range(first, last + 1), lambda value: _within(value, bounds))

    def _bound(self, operator: str, operand: Any) -> Any:
        value = None if operand is None else meant(self._place, operand).value  # not validated: a bound is not to be rounded
        if _is_nothing(value):
            raise QueryError(f"{self._name}: {operator} compares numbers and dates, and this value has no such order")
        return value

    def _edge(self, definition: Definition, bound: Any, sign: int) -> int:
        """The bucket in which a range begins or ends."""
        normalizer = definition.owner.normalizer
        if bound is None:
            bound = (date.min if sign < 0 else date.max) if date in (normalizer.takes or ()) else sign * math.inf
            if not _is_clamped(definition):
                raise QueryError(
                    f"{self._name}: this range is open at one end. Give both bounds, or declare Bucket(low=…, high=…), beyond "
                    "which all is one bucket"
                )
        return self._bucket(definition, bound)

    def _bucket(self, definition: Definition, value: Any) -> int:
        number = definition.owner.form(value)
        if number is NOTHING:
            raise QueryError(f"{self._name}: no bucket holds this value")
        return int(number)

    def _in_buckets(self, definition: Definition, numbers: Iterable[int], is_meant: Callable[[Any], bool]) -> Part:
        asked = sorted({self._indexer.asked(definition, definition.numbered(each)) for each in numbers})
        field = self._field
        return _Leaf({definition.stored: {"$in": asked}}, exact=False, needs={}, true=lambda _, values: is_meant(values[field]))


@dataclass(frozen=True, slots=True)
class _Leaf:
    """One condition on one index."""

    server: dict[str, Any] | None
    exact: bool
    needs: Mapping[str, Any]
    true: Sift

    def truth(self) -> Sift:
        """Of the decrypted value."""
        return self.true

    def sift(self) -> Sift:
        """All of it."""
        return self.true


def _of_any(definition: Definition, is_meant: Callable[[bytes | None], bool]) -> Sift:
    return lambda _, values: any(map(is_meant, definition.each(values)))


def _alike(types: Collection[type], value: Any) -> list[Any]:
    """The values of these types that MongoDB would take for this one, itself among them.

    Without a zone a date and time is in UTC. Where a field is ``int | float``, 5 is 5.0.
    """
    found = [value]
    if isinstance(value, date):
        moment = _in_utc(value)
        if moment is not None and datetime in types:
            found += [moment, moment.replace(tzinfo=None)]
        if moment is not None and date in types and moment.time() == time():
            found.append(moment.date())
    elif isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        found += [form for cls in (int, float, Decimal) if cls in types for form in _exactly(cls, value)]
    return found


def _in_utc(value: date) -> datetime | None:
    try:
        moment: datetime = _ordered(value).astimezone(UTC)
    except OverflowError:  # not in the years 1 to 9999
        return None
    return moment


def _exactly(cls: Callable[[Any], Any], value: Any) -> Iterator[Any]:
    """The same number in another type, if that has it."""
    if cls is int and isinstance(value, Decimal) and value.is_finite() and value.adjusted() > _LONGEST_INT:
        return  # no field holds an int of so many digits, and it would take long to write one out
    try:
        form = cls("nan" if is_nan(value) else value)
    except (ArithmeticError, ValueError):
        return
    if is_nan(form) if is_nan(value) else form == value:
        yield form


def _is_clamped(definition: Definition) -> bool:
    return definition.owner.normalizer.id.count(":") == 3


def _ordered(value: Any) -> Any:
    """A number as it is, a date or time as a moment, so that all of a field can be compared. Without a zone: UTC."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.utcoffset() is None else value
    return datetime(value.year, value.month, value.day, tzinfo=UTC) if isinstance(value, date) else value


def _is_nothing(value: Any) -> bool:
    return value is None or is_nan(value)


def _equals(value: Any, asked: Any) -> bool:
    return not _is_nothing(value) and bool(_ordered(value) == _ordered(asked))


def _within(value: Any, bounds: Mapping[str, Any]) -> bool:
    if _is_nothing(value):
        return False
    found = _ordered(value)
    return all(_COMPARED[operator](found, _ordered(bound)) for operator, bound in bounds.items())


_COMPARED: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "$gt": lambda value, bound: bool(value > bound),
    "$gte": lambda value, bound: bool(value >= bound),
    "$lt": lambda value, bound: bool(value < bound),
    "$lte": lambda value, bound: bool(value <= bound),
}
