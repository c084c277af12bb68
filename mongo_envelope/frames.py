"""Tables of pandas and polars, of what a cursor gives: a row for each document, a column for each field. Pure.

Neither is imported before a table is asked for. A column has a type of the library's where that keeps every value, and is one of
Python objects otherwise: both libraries would round, coerce or drop some.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from enum import Enum
from importlib import import_module
from typing import Any, Final, Literal, get_args

from pydantic import BaseModel, RootModel

from .errors import ConfigurationError, QueryError

__all__ = ["Kind", "Table"]

Kind = Literal["pandas", "polars"]


class Table:
    """A table that grows row by row, of which only the values are kept."""

    def __init__(self, kind: Kind, names: Iterable[str]) -> None:
        """``names``: the columns that are there in any case. Raise `QueryError` or `ConfigurationError` before anything is read."""
        if kind not in get_args(Kind):
            raise QueryError('to_frame: the kind of table is "pandas" or "polars"')
        self._library = _library(kind)
        self._make = _MAKERS[kind]
        self._columns: dict[str, list[Any]] = {name: [] for name in names}
        self._rows = 0

    def add(self, row: BaseModel | Mapping[str, Any]) -> None:
        """One more row. What has no column yet gets one; what is not there is None."""
        values = row if isinstance(row, Mapping) else _values(row)
        for name in values:
            if name not in self._columns:
                self._columns[name] = [None] * self._rows
        for name, column in self._columns.items():
            column.append(_plain(values.get(name)))
        self._rows += 1

    def frame(self) -> Any:
        """The table."""
        return self._make(self._library, self._columns)


def _library(kind: str) -> Any:
    try:
        return import_module(kind)
    except ImportError:
        pass
    raise ConfigurationError(f"to_frame needs {kind}: pip install mongo-envelope[{kind}]")


def _values(model: BaseModel) -> dict[str, Any]:
    """Of a model, what its dump has, as attributes."""
    kind = type(model)
    names = itertools.chain(kind.model_fields, kind.model_computed_fields, model.model_extra or ())
    return {name: getattr(model, name) for name in names}


def _plain(value: Any) -> Any:
    """A model within a model as a dict, also in lists; all else as it is."""
    if isinstance(value, RootModel):
        return _plain(value.root)
    if isinstance(value, BaseModel):
        return {name: _plain(each) for name, each in _values(value).items()}
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    return value


def _of_pandas(pandas: Any, columns: Mapping[str, list[Any]]) -> Any:
    def column(values: list[Any]) -> Any:
        objects = pandas.Series(values, dtype=object)
        typed = objects.infer_objects()
        return typed if _same(typed.to_list(), values, pandas.isna) else objects

    return pandas.DataFrame({name: column(values) for name, values in columns.items()}, columns=list(columns))


def _of_polars(polars: Any, columns: Mapping[str, list[Any]]) -> Any:
    def column(name: str, values: list[Any]) -> Any:
        values = [each.value if isinstance(each, Enum) else each for each in values]  # as polars does, but for those with None
        if not any(isinstance(each, Decimal) and not each.is_finite() for each in values):  # on these it panics
            try:
                typed = polars.Series(name, values, strict=True)
            except Exception:  # noqa: BLE001, S110 - whatever it is, polars has no type for these values
                pass
            else:
                if _same(typed.to_list(), values, lambda value: value is None):
                    return typed
        return polars.Series(name, values, dtype=polars.Object)

    return polars.DataFrame([column(name, values) for name, values in columns.items()])


def _same(kept: Sequence[Any], values: Sequence[Any], is_missing: Callable[[Any], Any]) -> bool:
    """Whether a column gives back what was put in; for None also what the library has for what is missing."""
    try:
        return all(
            one == other or (is_missing(one) if other is None else one != one and other != other)  # noqa: PLR0124 - NaN
            for one, other in zip(kept, values, strict=True)
        )
    except Exception:  # noqa: BLE001 - of a user's class, which cannot be compared
        return False


_MAKERS: Final[dict[str, Callable[[Any, Mapping[str, list[Any]]], Any]]] = {"pandas": _of_pandas, "polars": _of_polars}
