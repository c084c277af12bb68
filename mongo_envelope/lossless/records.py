"""Places with named fields: models, dataclasses, typed dicts, named tuples."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from pydantic import BaseModel
from pydantic_core import CoreSchema, core_schema

from mongo_envelope.errors import SchemaError

from .anything import ANY
from .node import Misfit, Node, check_names, prefixed, summary
from .reading import INSTEAD, Raw, config_of, dumped, function_of, only
from .wrappers import own_codec

if TYPE_CHECKING:
    from .rewrite import Rewriter

__all__ = ["dataclass_", "model", "named_tuple", "typed_dict"]


def model(rewriter: Rewriter, raw: Raw, path: str) -> Node:
    """A model class. Its exact class: an instance of a subclass would come back without what the subclass adds."""
    cls: type = raw["cls"]
    root = bool(raw.get("root_model"))
    with rewriter.configured(raw):
        inner = rewriter.node(raw["schema"], path) if root else _fields(rewriter, raw, path, top=rewriter.enter(cls))
    node = inner.but(
        schema={
            **only(raw, "cls", "generic_origin", "post_init", "root_model", "frozen"),
            "type": "model",
            "schema": inner.schema,
            "custom_init": False,  # an overridden __init__ takes arguments of its own: loading is not calling it
            "config": config_of(raw.get("config", {})),
        },
        label=cls.__name__,
        types=frozenset({cls}),
    )
    if not root:
        return node
    return node.but(
        deep=lambda value: prefixed(".root", inner.check, value.root),
        near=None,
        native=False,
        project=lambda value: inner.projected(value.root),
    )


def _fields(rewriter: Rewriter, raw: Raw, path: str, *, top: bool) -> Node:
    """The fields of a model, beneath the function validators that may stand around them."""
    inner = raw["schema"]
    if inner["type"] != "model-fields":
        if inner["type"] not in ("function-before", "function-after", "function-wrap"):
            return rewriter.node(inner, path)
        below = _fields(rewriter, {**raw, "schema": inner["schema"]}, path, top=top)
        return below.but(schema={**function_of(inner), "schema": below.schema}, native=False)
    codecs = rewriter.codecs if top else {}
    nodes = {
        name: own_codec(field["schema"], codecs[name]) if name in codecs else rewriter.node(field["schema"], f"{path}.{name}")
        for name, field in inner["fields"].items()
    }
    rewriter.names.update(nodes)
    fields = {name: {"type": "model-field", "schema": node.schema} for name, node in nodes.items()}
    if top:
        rewriter.found(nodes, fields, _computed(rewriter, inner, path))
    allows = raw.get("config", {}).get("extra_fields_behavior") or inner.get("extra_behavior")
    extras = _extras(rewriter, inner, path) if allows == "allow" else None
    schema: Raw = {
        "type": "model-fields",
        "fields": fields,
        **only(inner, "model_name", "extra_behavior"),
        **({"extras_schema": extras.schema} if extras else {}),
    }
    return _composite(
        cast("CoreSchema", schema),
        path.rpartition(".")[2],
        nodes,
        read=lambda model: model.__dict__,
        stray=_refuse_stray,
        extras=(extras, lambda model: model.__pydantic_extra__ or {}) if extras else None,
    )


def _computed(rewriter: Rewriter, raw: Raw, path: str) -> dict[str, Node]:
    nodes = {}
    for field in raw.get("computed_fields", ()):
        name = field["property_name"]
        try:
            nodes[name] = rewriter.node(field["return_schema"], f"{path}.{name}")
        except SchemaError as error:  # said only if the field turns out to be marked
            nodes[name] = ANY.but(opaque=str(error))
    return nodes


def _named(rewriter: Rewriter, fields: Iterable[tuple[str, Raw]], path: str) -> dict[str, Node]:
    nodes = {name: rewriter.node(field["schema"], f"{path}.{name}") for name, field in fields}
    rewriter.names.update(nodes)
    return nodes


def _extras(rewriter: Rewriter, raw: Raw, path: str) -> Node:
    extras = raw.get("extras_schema")
    return ANY if extras is None else rewriter.node(extras, f"{path}.*")


def dataclass_(rewriter: Rewriter, raw: Raw, path: str) -> Node:
    """A dataclass, pydantic's or the standard library's, written as an object."""
    cls: type = raw["cls"]
    inner, wrap = raw["schema"], []
    while inner["type"] in ("function-before", "function-after", "function-wrap"):
        wrap.append(inner)
        inner = inner["schema"]
    fields: list[Raw] = inner["fields"]
    if lost := [field["name"] for field in fields if field.get("init_only")]:
        raise SchemaError(f"{path}: the InitVar {lost[0]!r} of the dataclass {cls.__name__} is not kept on the instance")
    if raw.get("config", {}).get("extra_fields_behavior") == "allow":
        raise SchemaError(f"{path}: the dataclass {cls.__name__} allows extra fields, which cannot be kept. Use a model")
    declared = {field.name for field in dataclasses.fields(cls)}
    if unknown := declared - {field["name"] for field in fields}:
        raise SchemaError(f"{path}: pydantic does not know the field {min(unknown)!r} of {cls.__name__}: give it a default")
    with rewriter.configured(raw):
        nodes = _named(rewriter, ((field["name"], field) for field in fields), path)
    schema: Raw = {
        "type": "dataclass-args",
        "dataclass_name": inner["dataclass_name"],
        "fields": [
            {"type": "dataclass-field", "name": name, "schema": node.schema, "kw_only": True, "init": True}
            for name, node in nodes.items()
        ],
    }
    for outer in reversed(wrap):
        schema = {**function_of(outer), "schema": schema}
    schema = {
        **only(raw, "cls", "generic_origin", "fields", "slots", "frozen"),
        "type": "dataclass",
        "schema": schema,
        "config": config_of(raw.get("config", {})),
    }
    if raw.get("post_init"):
        schema = {"type": "function-after", "function": {"type": "no-info", "function": _post_init(declared)}, "schema": schema}

    def read(value: object) -> dict[str, Any]:  # slots have no __dict__, and a field that was never set has no value in either
        return {name: getattr(value, name) for name in nodes if hasattr(value, name)}

    return _composite(cast("CoreSchema", schema), cls.__name__, nodes, read=read, types=frozenset({cls}))


def _post_init(fields: Iterable[str]) -> Callable[[Any], Any]:
    """Runs ``__post_init__``, for what it prepares beside the fields, and keeps the fields as they were stored."""

    def run(value: Any) -> Any:
        stored = {name: getattr(value, name) for name in fields if hasattr(value, name)}
        value.__post_init__()
        for name, item in stored.items():
            object.__setattr__(value, name, item)  # past frozen
        return value

    return run


def typed_dict(rewriter: Rewriter, raw: Raw, path: str) -> Node:
    """A TypedDict. A key that it does not know would be dropped on load, so it is refused."""
    with rewriter.configured(raw):
        nodes = _named(rewriter, raw["fields"].items(), path)
    allows = raw.get("extra_behavior") or raw.get("config", {}).get("extra_fields_behavior")
    extras = _extras(rewriter, raw, path) if allows == "allow" else None
    required = {name for name, field in raw["fields"].items() if field.get("required", raw.get("total", True))}
    schema: Raw = {
        **only(raw, "cls", "extra_behavior"),
        "type": "typed-dict",
        "fields": {
            name: {"type": "typed-dict-field", "schema": node.schema, "required": name in required} for name, node in nodes.items()
        },
        "config": config_of(raw.get("config", {})),
        **({"extras_schema": extras.schema} if extras else {}),
    }
    return _composite(
        cast("CoreSchema", schema),
        getattr(raw.get("cls"), "__name__", "TypedDict"),
        nodes,
        read=lambda value: value,
        types=frozenset({dict}),
        required=required,
        extras=(extras or _NO_EXTRAS, lambda value: {key: value[key] for key in value.keys() - nodes.keys()}),
    )


def named_tuple(rewriter: Rewriter, raw: Raw, path: str) -> Node:
    """A ``named-tuple`` or, before pydantic 2.14, the ``call`` of the class; written as an array."""
    if raw["type"] == "named-tuple":
        cls, fields = raw["cls"], raw["fields"]
    else:
        cls, fields = raw["function"], raw["arguments_schema"].get("arguments_schema", [])
        if not (isinstance(cls, type) and issubclass(cls, tuple) and hasattr(cls, "_fields")):
            raise SchemaError(f"{path}: a call of {getattr(cls, '__name__', 'a function')} cannot be kept. {INSTEAD}")
    make: Callable[[Iterable[Any]], Any] = cls._make
    named = _named(rewriter, ((field["name"], field) for field in fields), path)
    nodes = list(named.values())
    inner = core_schema.tuple_schema([node.schema for node in nodes])

    def deep(value: Any) -> None:
        for (name, node), item in zip(named.items(), value, strict=True):
            prefixed(f".{name}", node.check, item)

    return summary(nodes).but(
        schema=core_schema.no_info_after_validator_function(make, inner, serialization=dumped(tuple, inner)),
        label=cls.__name__,
        types=frozenset({cls}),
        kinds=frozenset({"array"}),
        deep=deep,
        project=lambda value: [node.projected(item) for node, item in zip(nodes, value, strict=True)],
    )


_NO_EXTRAS: Final = Node(schema=core_schema.any_schema(), label="no key of that name", types=frozenset(), kinds=frozenset())
_MISSING: Final = object()
_Read = Callable[[Any], Mapping[str, Any]]


def _composite(
    schema: CoreSchema,
    label: str,
    nodes: dict[str, Node],
    *,
    read: _Read,
    types: frozenset[type] = frozenset(),
    required: Iterable[str] | None = None,
    stray: Callable[[Any, Collection[str]], None] | None = None,
    extras: tuple[Node, _Read] | None = None,
) -> Node:
    """A place with named fields. ``read`` gives a value's fields by name; ``extras`` says what else it may hold, and where.

    ``stray`` is asked about a value that ``read`` gives more of than there are fields.
    """
    plan = [(name, node.types, node.deep, node) for name, node in nodes.items()]
    needed = frozenset(nodes if required is None else required)

    def deep(value: Any) -> None:
        fields = read(value)
        for name, allowed, check, node in plan:
            item = fields.get(name, _MISSING)
            if type(item) not in allowed or check is not None:
                if item is not _MISSING:
                    prefixed(f".{name}", node.check, item)
                elif name in needed:
                    raise Misfit("missing").inside(f".{name}")
        if stray is not None and len(fields) > len(plan):
            stray(value, nodes.keys())
        if extras is not None:
            _check_extras(extras[0], extras[1](value), nodes)

    def project(value: Any) -> dict[str, Any]:
        fields = read(value)
        projected = {name: node.projected(fields[name]) for name, node in nodes.items() if name in fields}
        if extras is not None:
            projected |= {name: extras[0].projected(item) for name, item in extras[1](value).items()}
        return projected

    inside = [*nodes.values(), *([extras[0]] if extras and extras[0] is not _NO_EXTRAS else [])]
    return summary(inside).but(
        schema=schema, label=label, types=types, kinds=frozenset({"object"}), deep=deep, native=True, project=project
    )


def _refuse_stray(model: BaseModel, fields: Collection[str]) -> None:
    """An attribute that is no field would be lost: ``model_copy(update=…)`` leaves one for a misspelt name.

    What a cached property keeps is of the class, and what begins with an underscore is the user's own affair. The name is not
    quoted: it may have come from anywhere.
    """
    for name in model.__dict__.keys() - fields:
        if not name.startswith("_") and not hasattr(type(model), name):
            near = difflib.get_close_matches(name, fields, n=1)
            meant = f"did you mean {near[0]}" if near else "the fields are " + ", ".join(fields)
            raise Misfit(f"an attribute that is no field, as model_copy(update=…) leaves it for a misspelt name: {meant}?")


def _check_extras(node: Node, values: Mapping[str, Any], fields: Container[str]) -> None:
    check_names(values)
    for name, item in values.items():
        if name in fields:
            raise Misfit("an extra value has the name of a field: one of the two would be lost").inside(".*")
        prefixed(".*", node.check, item)
