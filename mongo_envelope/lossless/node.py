"""What `rewrite` knows of one place in a model: how to write it, how to check it, and how to show it to a query.

A `Node` pairs a pydantic-core schema, which dumps and loads at compiled speed, with a check in Python that a value has
*exactly* the type its place declares. pydantic-core itself does not check that: it writes ``True`` into an int field as 1,
cuts a subclass down to its base, and prints the value in a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NoReturn, Self

from pydantic_core import CoreSchema, core_schema

__all__ = ["Check", "Kind", "Misfit", "Node", "Project", "check_int", "check_names", "prefixed", "summary"]

Kind = Literal["null", "bool", "int", "float", "string", "array", "object"]
Check = Callable[[Any], None]
Project = Callable[[Any], Any]


class Misfit(Exception):
    """A value that its place cannot hold. Carries the path to it and the names of types, never the value."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path: list[str] = []

    def inside(self, step: str) -> Self:
        """Add one step to the path, on the way out."""
        self.path.insert(0, step)
        return self

    def __str__(self) -> str:
        return f"{''.join(self.path).removeprefix('.') or 'the model'}: {self.problem}"


def prefixed(step: str, check: Check, value: object) -> None:
    """Run a check one step further down, so that a `Misfit` says where."""
    try:
        check(value)
    except Misfit as misfit:
        raise misfit.inside(step) from None


@dataclass(frozen=True, slots=True)
class Node:
    """One place in a model, rewritten. Immutable; `but` gives another."""

    schema: CoreSchema
    label: str  #: what a person calls it, for messages
    types: Collection[type]  #: the exact types of the values; a subclass is another type
    kinds: frozenset[Kind]  #: the kinds of JSON that it is written as
    deep: Check | None = None  #: what a value of the right type must satisfy besides; raises `Misfit`
    several: Check | None = None  #: `deep` for many values at once, where that is faster
    near: Check | None = None  #: called for a value of another type; returns if that loses nothing after all
    native: bool = False  #: JSON alone tells this value from those of other native nodes
    tolerant: bool = False  #: somewhere inside, `near` accepts a value of another type
    project: Project | None = None  #: the BSON value for queries; None: the value itself
    rounds: bool = False  #: two values may have one projection
    exact: bool = False  #: BSON changes the value, or JSON cannot be made from it: the payload carries it too
    item: Node | None = None  #: of an array's elements, which a filter may name one by one
    opaque: str | None = None  #: why it cannot be shown to queries at all

    def but(self, **changes: Any) -> Node:
        """The same node with these changes. `several` speaks for `deep` and `types`, and goes when one of them changes."""
        if changes.keys() & {"deep", "types"}:
            changes.setdefault("several", None)
        return replace(self, **changes)

    def check(self, value: Any) -> None:
        """Raise `Misfit` unless what is loaded will equal ``value``, type included."""
        if type(value) in self.types:
            if self.deep is not None:
                self.deep(value)
        elif self.near is not None:
            self.near(value)
        else:
            self.refuse(value)

    def fits(self, value: Any) -> bool:
        """Whether `check` lets the value pass."""
        try:
            self.check(value)
        except Misfit:
            return False
        return True

    def refuse(self, value: object) -> NoReturn:
        """Raise the `Misfit` for a value of another type."""
        found = type(value)
        detail = f"{self.label} expected, {found.__qualname__} found"
        if any(issubclass(found, kept) for kept in self.types if kept is not object):
            detail += ": an instance of a subclass would come back as its base"
        raise Misfit(detail)

    def projected(self, value: Any) -> Any:
        """The BSON value that queries see."""
        return value if self.project is None else self.project(value)


class _Everything(frozenset[type]):
    """The types of `Any`: all."""

    def __contains__(self, item: object) -> bool:
        return True


EVERYTHING: Final[Collection[type]] = _Everything()


def summary(nodes: Iterable[Node]) -> Node:
    """What a place inherits from those inside it."""
    inside = list(nodes)
    return Node(
        schema=core_schema.any_schema(),
        label="",
        types=frozenset(),
        kinds=frozenset(),
        tolerant=any(node.tolerant for node in inside),
        exact=any(node.exact for node in inside),
        rounds=any(node.rounds for node in inside),
        opaque=next((node.opaque for node in inside if node.opaque), None),
    )


#: JSON parsers, ours among them, read integers of up to so many digits (CPython's own limit, too).
_LONGEST_INT: Final = 10**4300


def check_int(value: int) -> None:
    """Raise `Misfit` for an int that could be written and never read."""
    if not -_LONGEST_INT < value < _LONGEST_INT:
        raise Misfit("an int of more than 4,300 digits, which no JSON parser would read again")


def check_names(names: Iterable[str]) -> None:
    """Raise `Misfit` for a lone surrogate in a name, which pydantic-core would replace, making two names one."""
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        pass
    else:
        return
    raise Misfit("a key that is not valid Unicode")
