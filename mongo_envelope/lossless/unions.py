"""Places that hold one of several: told apart by JSON alone where that is certain, by a tag where it is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from pydantic_core import CoreSchema, core_schema

from mongo_envelope.errors import SchemaError

from .anything import ANY
from .node import Misfit, Node, summary
from .reading import Raw, choices_of, config_of, dumped

if TYPE_CHECKING:
    from .rewrite import Rewriter

__all__ = ["nullable", "union"]


def nullable(rewriter: Rewriter, raw: Raw, path: str) -> Node:
    """A place that may hold None, which is JSON's null."""
    inner = rewriter.node(raw["schema"], path)
    if "null" in inner.kinds and type(None) not in inner.types:  # Secret[int | None]: its null is not this one
        return union(rewriter, {"choices": [{"type": "none"}, raw["schema"]]}, path)
    deep, near = inner.deep, inner.near
    return inner.but(
        schema=core_schema.nullable_schema(inner.schema),
        label=f"{inner.label} or None",
        types=inner.types if inner.types is ANY.types else frozenset(inner.types) | {type(None)},
        kinds=inner.kinds | {"null"},
        deep=deep and (lambda value: None if value is None else deep(value)),
        near=near,
        project=inner.project and (lambda value: None if value is None else inner.projected(value)),
    )


def union(rewriter: Rewriter, raw: Raw, path: str) -> Node:
    """Told apart by JSON where that is certain, by a tag, ``{"<member's type>": value}``, where it is not."""
    choices = choices_of(raw)
    members = [rewriter.node(each, path) for each in choices]
    if any(member.types is ANY.types for member in members):
        raise SchemaError(f"{path}: a union with Any. Declare the field as Any alone, or name the types")
    chosen = _chooser(rewriter, members)
    types = frozenset[type]().union(*(member.types for member in members))
    kinds = [kind for member in members for kind in member.kinds]
    native = all(member.native for member in members) and len(kinds) == len(set(kinds))
    if native:
        schema = cast("CoreSchema", core_schema.union_schema([member.schema for member in members]))
    else:
        tags = _tags(members)
        tagged = core_schema.typed_dict_schema(
            {tag: core_schema.typed_dict_field(member.schema, required=False) for tag, member in zip(tags, members, strict=True)},
            extra_behavior="forbid",
            config=config_of(rewriter.config),
        )
        schema = core_schema.no_info_after_validator_function(
            _untagged, tagged, serialization=dumped(lambda value: {tags[chosen(value)]: value}, tagged)
        )
    return summary(members).but(
        schema=schema,
        label=" or ".join(member.label for member in members),
        types=types,
        kinds=frozenset(kinds) if native else frozenset({"object"}),
        deep=lambda value: members[chosen(value)].check(value),
        near=lambda value: members[chosen(value)].check(value),
        native=native,
        project=lambda value: members[chosen(value)].projected(value),
        exact=not native or any(member.exact for member in members),
    )


def _tags(members: list[Node]) -> list[str]:
    """A name for each member: its type's, so that members can be added and reordered; numbered where several share one."""
    tags: list[str] = []
    for member in members:
        same = sum(tag.partition("#")[0] == member.label for tag in tags)
        tags.append(f"{member.label}#{same + 1}" if same else member.label)
    return tags


def _chooser(rewriter: Rewriter, members: list[Node]) -> Callable[[Any], int]:
    """Which member a value belongs to: by its exact type; where several share it, the first whose check it passes.

    Where it passes several, which differ by a constraint, the first that reads its own JSON back. Members that accept values of
    another type (an int in a float) are asked last.
    """
    by_type: dict[type, list[int]] = {}
    for index in sorted(range(len(members)), key=lambda index: members[index].tolerant):
        for each in members[index].types:
            by_type.setdefault(each, []).append(index)

    near = [index for index, member in enumerate(members) if member.near]

    def chosen(value: Any) -> int:
        candidates = by_type.get(type(value), near)
        if len(candidates) == 1:
            return candidates[0]
        fitting = [index for index in candidates if members[index].fits(value)]
        for index in fitting[:-1]:
            if rewriter.reads_back(members[index], value):
                return index
        if fitting:
            return fitting[-1]
        raise Misfit(f"fits no member of the union, {type(value).__qualname__} found")

    return chosen


def _untagged(tagged: dict[str, Any]) -> Any:
    if len(tagged) != 1:
        raise ValueError("a tagged value has one tag")
    return next(iter(tagged.values()))
