"""Straight-line code: a function of which a model's fields are a part, written out for that model and compiled once.

A loop over fields costs more than what is done with each. As `dataclasses` and `attrs` do it, so it is done here: the source is put
together of constants of this package and numbered names. No name, no value and nothing else of a user's becomes part of it: those
are objects that the source only names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["function"]


def function(name: str, source: str, names: Mapping[str, Any]) -> Callable[..., Any]:
    """The function of this name that the source defines. ``names``: what else it speaks of."""
    known = dict(names)
    exec(compile(source, f"<mongo_envelope: {name}>", "exec"), known)  # noqa: S102 - of constants and numbers only, as said above
    made: Callable[..., Any] = known.pop(name)  # not in a circle: what it speaks of, such as keys, goes when the function goes
    return made
