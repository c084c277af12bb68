"""Places with any number of others inside: lists and sets, tuples, dicts and their kin."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any, Final, cast

from pydantic_core import CoreSchema, core_schema

from .node import Check, Kind, Misfit, Node, check_names, prefixed, summary
from .reading import Raw, dumped, only

if TYPE_CHECKING:
    from .rewrite import Rewriter

__all__ = ["CONTAINERS", "dict_", "items", "tuple_"]

#: kind of core schema → the class of its values, and their kind in JSON
CONTAINERS: Final[dict[str, tuple[type, Kind]]] = {
    "list": (list, "array"),
    "set": (set, "array"),
    "frozenset": (frozenset, "array"),
    "tuple": (tuple, "array"),
    "deque": (deque, "array"),
    "dict": (dict, "object"),
    "ordered-dict": (OrderedDict, "object"),
    "counter": (Counter, "object"),
    "typed-dict": (dict, "object"),
}


def items(rewriter: Rewriter, raw: Raw, path: str) -> Node:
    """A list, set, frozenset or deque, written as an array."""
    kind = raw["type"]
    cls = CONTAINERS[kind][0]
    item = rewriter.node(raw.get("items_schema") or {"type": "any"}, f"{path}[…]")
    schema: Raw = {"type": kind, "items_schema": item.schema, **only(raw, "min_length", "max_length", "fail_fast")}
    if kind == "deque":
        inner = core_schema.list_schema(item.schema, min_length=raw.get("min_length"), max_length=raw.get("max_length"))
        schema = cast("Raw", core_schema.no_info_after_validator_function(deque, inner, serialization=dumped(list, inner)))
    ordered = kind in ("list", "deque")

    def project(value: Iterable[Any]) -> list[Any]:
        projected = [item.projected(each) for each in value]
        return projected if ordered else sorted(projected, key=repr)  # the same set, the same bytes

    return summary([item]).but(
        schema=schema,
        label=kind,
        types=frozenset({cls}),
        kinds=frozenset({"array"}),
        deep=_deque_check(item) if kind == "deque" else _items_check(item),
        native=kind == "list",
        project=project,
        item=item,
    )


def tuple_(rewriter: Rewriter, raw: Raw, path: str) -> Node:
    """A tuple, of fixed or of variable length, written as an array."""
    nodes = [rewriter.node(each, f"{path}[{index}]") for index, each in enumerate(raw["items_schema"])]
    variadic = raw.get("variadic_item_index")

    def pick(size: int) -> list[Node]:
        """The place of each of so many items."""
        if variadic is None:
            return nodes
        return [*nodes[:variadic], *[nodes[variadic]] * (size - len(nodes) + 1), *nodes[variadic + 1 :]]

    def deep(value: tuple[Any, ...]) -> None:
        places = pick(len(value))
        if len(places) != len(value):
            raise Misfit(f"a tuple of {len(places)} expected, one of {len(value)} found")
        for index, (node, item) in enumerate(zip(places, value, strict=True)):
            prefixed(f"[{index}]", node.check, item)

    return summary(nodes).but(
        schema={
            "type": "tuple",
            "items_schema": [node.schema for node in nodes],
            **only(raw, "variadic_item_index", "min_length", "max_length", "fail_fast"),
        },
        label="tuple",
        types=frozenset({tuple}),
        kinds=frozenset({"array"}),
        deep=deep,
        project=lambda value: [node.projected(item) for node, item in zip(pick(len(value)), value, strict=True)],
        item=nodes[0] if variadic is not None and len(nodes) == 1 else None,
    )


def dict_(rewriter: Rewriter, raw: Raw, path: str, *, cls: type = dict, make: Callable[[Any], Any] | None = None) -> Node:
    """A dict or, with ``cls`` and ``make``, one of its kin. Keys that JSON would not keep make it an array of pairs."""
    if cls is dict and raw["type"] in CONTAINERS:
        cls = CONTAINERS[raw["type"]][0]
    make = make or (cls if cls is not dict else None)
    key = rewriter.node(raw.get("keys_schema") or {"type": "any"}, f"{path}[key]")
    value = rewriter.node(raw.get("values_schema") or ({"type": "int"} if cls is Counter else {"type": "any"}), f"{path}[*]")
    limits = only(raw, "min_length", "max_length")
    schema: CoreSchema
    if key.native and key.kinds == {"string"}:
        schema = core_schema.dict_schema(key.schema, value.schema, **limits)
        if make is not None:
            schema = core_schema.no_info_after_validator_function(make, schema, serialization=dumped(dict, schema))
        kind: Kind = "object"
    else:
        pairs = core_schema.list_schema(core_schema.tuple_schema([key.schema, value.schema]), **limits)
        schema = core_schema.no_info_after_validator_function(
            (lambda each: make(dict(each))) if make else dict,
            pairs,
            serialization=dumped(lambda each: list(each.items()), pairs),
        )
        kind = "array"

    def project(items: dict[Any, Any]) -> Any:
        pairs = [(key.projected(name), value.projected(item)) for name, item in items.items()]
        if "$ref" in items and "$id" in items:
            raise Misfit("a dict with the keys $ref and $id in the clear: every MongoDB client takes it for a DBRef")
        return dict(pairs) if kind == "object" else [list(pair) for pair in pairs]

    return summary([key, value]).but(
        schema=schema,
        label=cls.__name__,
        types=frozenset({cls}),
        kinds=frozenset({kind}),
        deep=_dict_check(key, value, names=kind == "object"),
        native=cls is dict and kind == "object" and value.native,
        project=project,
    )


def _items_check(item: Node) -> Check:
    types, deep, several = item.types, item.deep, item.several

    def check(values: Collection[Any]) -> None:
        if (deep is None or several is not None) and types.issuperset(map(type, values)):  # type: ignore[attr-defined]  # frozensets
            if several is not None:
                several(values)
            return
        for index, value in enumerate(values):
            prefixed(f"[{index}]", item.check, value)

    return check


def _deque_check(item: Node) -> Check:
    inside = _items_check(item)

    def check(value: deque[Any]) -> None:
        if value.maxlen is not None:
            raise Misfit("a deque with a maxlen would come back without it")
        inside(value)

    return check


def _dict_check(key: Node, value: Node, *, names: bool) -> Check:
    keys, values = _items_check(key), _items_check(value)

    def check(items: dict[Any, Any]) -> None:
        try:
            keys(items.keys())
            if names:
                check_names(items)
            values(items.values())
        except Misfit as misfit:
            misfit.path[:1] = ["[*]"]  # a key is content: it is not named
            raise

    return check
