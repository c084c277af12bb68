"""Filters that editors complete and type checkers check, for plain pydantic models. Pure: names and values in, a dict out.

    where(Customer).tenant == "acme"                                    {"tenant": "acme"}
    (where(Customer).tenant == "acme") & (where(Customer).rank >= 3)    {"$and": [{"tenant": "acme"}, {"rank": {"$gte": 3}}]}
    where(Customer).address.city == "Paris"                             {"address.city": "Paris"}

To a type checker ``where(Customer)`` is a Customer, so a wrong name is an error there, as is the order of two types that have
none, and a condition is a bool. When it runs, ``where(Customer)`` gives names, and a comparison gives a `Condition`: the dict that
a person would have written, which stands wherever a filter may. What it means, and whether it can be served, `query` says.

What Python would turn into another question without a word, such as ``a and b``, ``not a``, ``1 < x < 3``, ``x in [1, 2]``,
or ``&`` without brackets around its two sides, raises an error.

What type checkers do not see: ``==`` between a class with an ``__eq__`` of its own (UUID, datetime, Decimal) and any other; a
tuple's or frozenset's elements in `is_in` and its like; that a condition is on another model than the repository's.
"""

from __future__ import annotations

import re
import types
import typing
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from enum import Enum
from typing import Annotated, Any, Final, NewType, NoReturn, TypeVar, cast, get_args, get_origin

import typing_extensions
from bson import Regex
from pydantic import BaseModel, RootModel

from .errors import QueryError
from .schema import unknown_field

__all__ = [
    "Condition",
    "any_element",
    "contains",
    "contains_all",
    "is_",
    "is_in",
    "not_",
    "not_in",
    "present",
    "where",
]

Model = TypeVar("Model", bound=BaseModel)
T = TypeVar("T")
#: A field that is a list or its like. Not Sequence, of which text is one. Lists and sets are invariant in their elements: that is
#: what makes a type checker compare the elements with the value, where it would otherwise look for what the two have in common.
_Listed = list[T] | set[T] | deque[T] | tuple[T, ...] | frozenset[T] | None
_Values = list[T] | set[T] | tuple[T, ...] | frozenset[T]
#: The same for a field that may be None, and values of which one may be.
_ValuesOrNone = _Values[T] | list[T | None] | set[T | None] | tuple[T | None, ...] | frozenset[T | None]

_SERVED: Final = "==, !=, <, <=, >, >=, is_in, not_in, is_, contains, contains_all, any_element"
_COMBINED: Final = "(a) & (b), (a) | (b), not_(a), each comparison in brackets of its own"


class Condition(dict[str, Any]):
    """A filter, as a dict. ``&``, ``|`` and ``~`` combine it with others, also with dicts written by hand, to a new one.

    It is neither true nor false. What asks a dict whether it is empty needs ``dict(condition)``: ``json.dumps(…, indent=…)``, a
    logger whose only argument it is, pymongo's own ``find`` (which knows stored names only: filters are for repositories).
    """

    __slots__ = ()

    def __and__(self, other: object) -> Condition:
        return _combined("$and", self, other)

    def __rand__(self, other: object) -> Condition:
        return _combined("$and", other, self)

    def __or__(self, other: object) -> Condition:  # type: ignore[override]  # a dict's | merges two, which would lose conditions
        return _combined("$or", self, other)

    def __ror__(self, other: object) -> Condition:  # type: ignore[override]  # as __or__
        return _combined("$or", other, self)

    def __ior__(self, other: object) -> Condition:  # type: ignore[override]  # noqa: PYI034 - a dict's |= would change it in place
        return _combined("$or", self, other)

    def __invert__(self) -> Condition:
        return Condition({"$nor": [dict(self)]})

    def __bool__(self) -> NoReturn:
        raise TypeError(
            f"a condition is neither true nor false, so and, or, not, in and 1 < x < 3 do not work on it. Combine: {_COMBINED}. "
            "Instead of in: is_in, contains. Where a dict is asked whether it is empty: dict(condition)"
        )


def where(model: type[Model]) -> Model:
    """The names of a model's fields, to be compared: ``where(Customer).tenant == "acme"``. By their names in Python.

    To a type checker it is an instance of the model. Raise `QueryError` for what is not a pydantic model with fields.
    """
    if not (isinstance(model, type) and issubclass(model, BaseModel)) or issubclass(model, RootModel):
        raise QueryError("where takes a pydantic model with fields: the class, as in where(Customer).tenant, and no instance of it")
    return cast("Model", _Name(model.__name__, "", [model]))


# ---------------------------------------------------------------------------------------------------------------------
# Conditions that no operator of Python says. To type checkers they are bools, as comparisons are.


def is_(name: object, value: bool | None) -> bool:  # noqa: FBT001 - the value to compare with
    """``name == value`` for True, False and None, with which linters want no ``==``."""
    return _compared(_field(name, "is_"), "$eq", value)


def is_in(name: T | None, values: _ValuesOrNone[T]) -> bool:
    """The field has one of these values: ``is_in(where(Customer).tenant, ["a", "b"])``."""
    return _among(_field(name, "is_in"), "$in", values)


def not_in(name: T | None, values: _ValuesOrNone[T]) -> bool:
    """The field has none of these values."""
    return _among(_field(name, "not_in"), "$nin", values)


def contains(name: _Listed[T], value: T) -> bool:
    """The list has this element: ``contains(where(Customer).phones, "+44…")``."""
    return _compared(_list(name, "contains"), "$eq", value)


def contains_all(name: _Listed[T], values: _Values[T]) -> bool:
    """The list has all these elements, in any order, perhaps among others."""
    return _among(_list(name, "contains_all"), "$all", values)


def any_element(name: Iterable[BaseModel | None] | None, condition: bool) -> bool:  # noqa: FBT001 - a bool to type checkers only
    """One element, at least, of a list of models is as the condition says: a condition on that model.

    ``any_element(where(Customer).orders, (where(Order).price > 3) & (where(Order).paid == True))``: one and the same order.
    """
    listed = _list(name, "any_element")
    if not isinstance(condition, Mapping) or not len(condition):
        raise QueryError(f"{listed._label}: any_element takes a condition on the elements, as in where(Order).price > 3")
    return _condition(listed, {"$elemMatch": dict(condition)})


def not_(condition: bool) -> bool:  # noqa: FBT001 - a bool to type checkers only
    """What does not match the condition. The same as ``~condition``, which type checkers take for an int, and object to."""
    if not isinstance(condition, Mapping):
        raise QueryError(f"not_ takes a condition, as in not_(where(Customer).tenant == …), not a {type(condition).__name__}")
    return cast("bool", ~Condition(condition))


def present(name: T | None) -> T:
    """The same name, for type checkers: of a field that may be None, without the None. ``present(where(Customer).age) > 3``."""
    return cast("T", _field(name, "present"))


# ---------------------------------------------------------------------------------------------------------------------
# Names.


class _NoSuchNameError(QueryError, AttributeError):
    """An AttributeError too, so that hasattr, debuggers and editors, which try names, get the answer that they expect."""


class _Name:
    """A place in a model: the model itself, a field, or what stands beneath one. It has no public attribute but the fields'."""

    __slots__ = ("_held", "_label", "_path")
    __hash__ = None  # type: ignore[assignment]  # so that ``name in {…}`` is an error

    def __init__(self, label: str, path: str, held: Sequence[Any]) -> None:
        self._label = label  #: for messages
        self._path = path  #: in the filter; empty for the model itself
        self._held = held  #: what may stand there, as annotations

    def __repr__(self) -> str:
        return f"<{self._label}, a name in a filter>"

    def __dir__(self) -> Iterable[str]:
        return self._fields()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # never a field's: Python and its tools ask for such names
            raise AttributeError(name)
        fields = self._fields()
        if name in fields:
            return self._beneath(f".{name}", name, fields[name])
        raise _NoSuchNameError(self._refusal(name, fields))

    def __getitem__(self, key: object) -> Any:
        """A key of a dict, or a position in a list."""
        held = self._members()
        if type(key) is str and key and not key.startswith("$") and not {".", "\0"} & set(key):
            inside = [get_args(each)[1:] for each in held if issubclass(_class_of(each), Mapping)]
        elif type(key) is int and key >= 0:
            inside = [get_args(each) for each in held if _is_list(each, Sequence)]
        else:
            inside = []
        if not inside:
            raise QueryError(
                f"{self._label}[…] is not served: in brackets stand a position in a list, 0 or more, and a key of a dict, text "
                "without dots that does not begin with $"
            )
        label = f"[{key}]" if type(key) is int else "[…]"  # a key may be a value of the user's
        return self._beneath(label, str(key), [each for arguments in inside for each in arguments])

    def __eq__(self, value: object) -> bool:
        return _compared(self, "$eq", value)

    def __ne__(self, value: object) -> bool:
        return _compared(self, "$ne", value)

    def __lt__(self, value: object) -> bool:
        return _compared(self, "$lt", value)

    def __le__(self, value: object) -> bool:
        return _compared(self, "$lte", value)

    def __gt__(self, value: object) -> bool:
        return _compared(self, "$gt", value)

    def __ge__(self, value: object) -> bool:
        return _compared(self, "$gte", value)

    def _no_condition(self, *_: object) -> NoReturn:
        raise QueryError(
            f"{self._label} is a name, neither a condition nor a value. Compare it first: {_SERVED}. Then combine: {_COMBINED}"
        )

    __bool__ = __iter__ = __contains__ = __str__ = __format__ = _no_condition
    __and__ = __rand__ = __or__ = __ror__ = __invert__ = _no_condition

    def _beneath(self, label: str, step: str, held: Sequence[Any]) -> _Name:
        return _Name(self._label + label, f"{self._path}.{step}" if self._path else step, held)

    def _members(self) -> list[Any]:
        return [member for each in self._held for member in _members(each)]

    def _fields(self) -> dict[str, list[Any]]:
        """Names and annotations of what stands beneath, computed fields too at the top: only there are they stored."""
        found: dict[str, list[Any]] = {}
        for held in map(_class_of, self._members()):
            for name, annotation in _fields_of(held).items():
                found.setdefault(name, []).append(annotation)
            if not self._path and issubclass(held, BaseModel):
                found |= {name: [info.return_type] for name, info in held.model_computed_fields.items()}
        return found

    def _refusal(self, name: str, fields: Mapping[str, Any]) -> str:
        if any(map(_is_list, self._members())):
            here = self._label
            return f"{here}: nothing is called {name} beneath a list. Use any_element({here}, …), or a position: {here}[0]"
        if fields:
            return unknown_field(self._label, name, fields, f"Its fields: {', '.join(fields)}")
        return (
            f"{self._label}.{name} is not served: a filter compares a field as it is stored, and neither calls its methods nor "
            f"looks into it. Served: {_SERVED}"
        )


def _field(name: object, function: str) -> _Name:
    """What a function was given for a name. Raise `QueryError` if it is none."""
    if isinstance(name, _Name):
        return name
    raise QueryError(f"{function} takes a name first, as in {function}(where(Customer).tenant, …), not a {type(name).__name__}")


def _list(name: object, function: str) -> _Name:
    """The same for one that is a list: on another field MongoDB would compare the whole value, which is another question."""
    found = _field(name, function)
    if not any(map(_is_list, found._members())):
        raise QueryError(f"{found._label}: {function} looks at the elements of a list, a set or a tuple, and this field is none")
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Conditions.


def _compared(name: _Name, operator: str, value: object) -> bool:
    plain = operator == "$eq" and not isinstance(value, Mapping | re.Pattern | Regex)  # these would be taken for operators
    _refuse_no_value(name, value)
    return _condition(name, value if plain else {operator: value})


def _among(name: _Name, operator: str, values: object) -> bool:
    if isinstance(values, str | bytes | Mapping | _Name) or not isinstance(values, Iterable):
        raise QueryError(f"{name._label}: {operator} takes a list of values, not a {type(values).__name__}")
    listed = list(values)
    for value in listed:
        _refuse_no_value(name, value)
    return _condition(name, {operator: listed})


def _condition(name: _Name, operand: object) -> bool:
    if not name._path:
        raise QueryError(f"{name._label} is the whole model. Name a field: where({name._label}).<field>")
    return cast("bool", Condition({name._path: operand}))


def _refuse_no_value(name: _Name, value: object) -> None:
    if isinstance(value, _Name):
        raise QueryError(f"{name._label}: a filter compares a field with a value, and {value._label} is another field")
    if isinstance(value, Condition):
        raise QueryError(f"{name._label}: compared with a condition. Combine: {_COMBINED}")


def _combined(operator: str, left: object, right: object) -> Condition:
    return Condition({operator: [*_parts(operator, left), *_parts(operator, right)]})


def _parts(operator: str, condition: object) -> list[Any]:
    """What the condition combines, if it does so by this operator; otherwise itself. Plain dicts, which may be asked for truth."""
    if not isinstance(condition, Mapping):
        what = condition._label if isinstance(condition, _Name) else f"a {type(condition).__name__}"
        raise QueryError(f"{what} is no condition. Combine: {_COMBINED}")
    inner = condition.get(operator)
    return inner if len(condition) == 1 and isinstance(inner, list) else [dict(condition)]


# ---------------------------------------------------------------------------------------------------------------------
# Annotations: what may stand at a place.

_ALIAS_TYPES: Final = tuple({typing_extensions.TypeAliasType, getattr(typing, "TypeAliasType", typing_extensions.TypeAliasType)})


def _members(annotation: Any) -> Iterator[Any]:
    """The types that an annotation allows, without None: of a union each, and what stands behind aliases and Annotated."""
    origin = get_origin(annotation)
    alias = origin if isinstance(origin, _ALIAS_TYPES) else annotation
    if isinstance(alias, _ALIAS_TYPES):
        yield from _members(alias.__value__)
    elif isinstance(annotation, NewType):
        yield from _members(annotation.__supertype__)
    elif origin is Annotated:
        yield from _members(get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType):
        for each in get_args(annotation):
            yield from _members(each)
    elif annotation not in (None, types.NoneType):
        yield annotation


def _class_of(member: Any) -> type:
    """The class of a type that `_members` gave; object where it is not known."""
    found = get_origin(member) or member
    return found if isinstance(found, type) else object


def _is_list(member: Any, kind: type = Collection) -> bool:
    cls = _class_of(member)
    return issubclass(cls, kind) and not issubclass(cls, str | bytes | bytearray | Mapping | Enum | BaseModel)


def _fields_of(cls: type) -> dict[str, Any]:
    """Names and annotations of a model's or a dataclass's fields; of another class none."""
    if issubclass(cls, BaseModel):
        if issubclass(cls, RootModel):
            return {}  # what it wraps is stored without a name
        if not cls.__pydantic_complete__:
            cls.model_rebuild(raise_errors=False)
        return {name: info.annotation for name, info in cls.model_fields.items()}
    if not is_dataclass(cls):
        return {}
    try:
        return {name: hint for name, hint in typing.get_type_hints(cls).items() if name in cls.__dataclass_fields__}
    except NameError:  # from a scope that is gone; the names are known, what stands beneath them is not
        return dict.fromkeys(cls.__dataclass_fields__, Any)
