"""A model's core schema, rewritten so that what is loaded equals what was saved.

pydantic-core compiles a *core schema* to a serializer and a validator. Here a copy of the model's own is changed place by
place: serializers, excludes, aliases and computed fields go (they are for other readers); classes that JSON cannot tell
apart get a tag; dicts whose keys are not text become pairs; ``Any`` is tagged value by value (`anything`); special classes
are written as `classes` says. Validators stay. The one tree serves both directions, and each place becomes a `Node`, whose
check finds a value of the wrong type before it is written.

Where a type cannot be kept, `SchemaError`, here and now, with the field and what to write instead.

The kinds of core schema are those of pydantic_core.core_schema, pydantic 2.13 and later.
"""

from __future__ import annotations

import decimal
import enum
import functools
import inspect
import operator
import re
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from fractions import Fraction
from types import FunctionType, MethodType
from typing import Any, Final, cast
from uuid import UUID
from zoneinfo import ZoneInfo

from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128
from pydantic import ByteSize, EncodedBytes, EncodedStr
from pydantic_core import CoreConfig, CoreSchema, core_schema

from ..errors import SchemaError
from .anything import ANY
from .classes import KeptClass, kept_class
from .node import Check, Kind, Misfit, Node, Project, prefixed

__all__ = ["CONFIG", "Rewriter"]

#: How every schema is built. The first four are what makes JSON lossless; the last keeps values out of errors.
CONFIG: Final = CoreConfig(
    ser_json_bytes="base64",
    val_json_bytes="base64",
    ser_json_inf_nan="constants",
    ser_json_timedelta="iso8601",
    hide_input_in_errors=True,
)
#: What a model's own configuration says about validation stays. About names, strictness and serialization it does not.
_CONFIG_KEPT: Final = (
    "title",
    "extra_fields_behavior",
    "allow_inf_nan",
    "str_max_length",
    "str_min_length",
    "str_strip_whitespace",
    "str_to_lower",
    "str_to_upper",
    "regex_engine",
    "coerce_numbers_to_str",
    "validate_default",
    "url_preserve_empty_path",
)
_INSTEAD: Final = "Annotate the field with Sensitive(dump=…, load=…), or use a type that JSON can tell apart"

Raw = dict[str, Any]
Codec = tuple[Callable[[Any], Any], Callable[[Any], Any]]  # dump, load


class Rewriter:
    """Rewrites one model's core schema. Made once for each model, and thrown away."""

    def __init__(self, model: type, *, codecs: Mapping[str, Codec], leave_out: frozenset[str]) -> None:
        """``codecs``: (dump, load) for top-level fields that bring their own; ``leave_out``: those that are not dumped."""
        self._model = model
        self._codecs = codecs
        self._leave_out = leave_out
        self._raw: dict[str, Raw] = {}
        self._open: set[str] = set()
        self._done: dict[str, Node] = {}
        self._top = True
        #: the nodes of the model's own fields, and of what its computed fields return
        self.fields: dict[str, Node] = {}
        self.computed: dict[str, Node] = {}
        #: every name that a schema knows: what may stand in the path of an error
        self.names: set[str] = set()

    def rewrite(self, raw: CoreSchema) -> Node:
        """The node of the whole model, its schema ready for pydantic-core."""
        schema = cast("Raw", raw)
        if schema["type"] == "definitions":
            self._raw = {each["ref"]: each for each in schema["definitions"]}
            schema = schema["schema"]
        while schema["type"] == "definition-ref":
            schema = self._raw[schema["schema_ref"]]
        node = self.node(schema, self._model.__name__)
        if not self._done:
            return node
        definitions = [{**cast("Raw", each.schema), "ref": ref} for ref, each in self._done.items()]
        return node.but(schema=core_schema.definitions_schema(node.schema, cast("list[CoreSchema]", definitions)))

    def node(self, raw: Raw, path: str) -> Node:
        """Rewrite one place. ``path`` is for messages: ``Customer.address.city``."""
        kind = raw["type"]
        if kind in _SCALARS:
            return _scalar(raw)
        rewrite = _REWRITES.get(kind)
        if rewrite is None:
            raise SchemaError(f"{path}: {_UNKEPT.get(kind, f'a type of kind {kind!r}')} cannot be kept. {_INSTEAD}")
        return rewrite(self, raw, path)

    # --- references ---------------------------------------------------------------------------------------------------

    def _reference(self, raw: Raw, path: str) -> Node:
        ref = raw["schema_ref"]
        reference = core_schema.definition_reference_schema(ref)
        if ref in self._done:
            return self._done[ref].but(schema=reference)
        if ref in self._open:
            return self._recursion(ref, path)
        self._open.add(ref)
        self._done[ref] = self.node(self._raw[ref], path)
        self._open.discard(ref)
        return self._done[ref].but(schema=reference)

    def _recursion(self, ref: str, path: str) -> Node:
        """A reference to a place that is being rewritten: its shape is read from the raw schema, its check looked up later."""
        types, kinds = self._shape(self._raw[ref], path)
        return Node(
            schema=core_schema.definition_reference_schema(ref),
            label=" or ".join(sorted(each.__name__ for each in types)),
            types=types,
            kinds=kinds,
            deep=lambda value: self._done[ref].check(value),
            native=False,
            tolerant=True,
            project=lambda value: self._done[ref].projected(value),
            exact=True,
        )

    def _shape(self, raw: Raw, path: str) -> tuple[frozenset[type], frozenset[Kind]]:
        kind = raw["type"]
        if kind in _SCALARS:
            node = _scalar(raw)
            return frozenset(node.types), node.kinds
        if kind in ("model", "dataclass", "named-tuple"):
            return frozenset({raw["cls"]}), frozenset({"object", "array"})
        if kind == "definition-ref":
            return self._shape(self._raw[raw["schema_ref"]], path)
        if kind in _CONTAINERS:
            cls, json = _CONTAINERS[kind]
            return frozenset({cls}), frozenset({json})
        if kind in ("nullable", "union", "tagged-union"):
            inner = [{"type": "none"}, raw["schema"]] if kind == "nullable" else _choices(raw)
            shapes = [self._shape(each, path) for each in inner]
            return frozenset().union(*(types for types, _ in shapes)), frozenset().union(*(kinds for _, kinds in shapes))
        if kind == "json-or-python":
            return self._shape(_json_branch(raw), path)
        if "schema" in raw:
            return self._shape(raw["schema"], path)
        raise SchemaError(f"{path}: recursion through a type of kind {kind!r} cannot be kept. {_INSTEAD}")

    # --- models, dataclasses, typed dicts, named tuples ---------------------------------------------------------------

    def _model_node(self, raw: Raw, path: str) -> Node:
        cls: type = raw["cls"]
        top, self._top = self._top and cls is self._model, False
        inner = self.node(raw["schema"], path) if raw.get("root_model") else self._fields(raw, path, top=top)
        schema = {
            **_only(raw, "cls", "generic_origin", "post_init", "root_model", "frozen", "revalidate_instances"),
            "type": "model",
            "schema": inner.schema,
            "custom_init": False,  # an overridden __init__ takes arguments for other callers: loading is not calling it
            "config": _config(raw),
        }
        if raw.get("root_model"):
            deep: Check = lambda value: prefixed(".root", inner.check, value.root)  # noqa: E731
            project: Project = lambda value: inner.projected(value.root)  # noqa: E731
        else:
            deep = lambda value: inner.check(value)  # noqa: E731
            project = inner.projected
        return inner.but(
            schema=schema,
            label=cls.__name__,
            types=frozenset({cls}),
            deep=deep if raw.get("root_model") else inner.deep,
            near=None,
            native=inner.native and not raw.get("root_model"),
            project=project,
        )

    def _fields(self, raw: Raw, path: str, *, top: bool) -> Node:
        """The fields of a model, beneath the function validators that may stand around them."""
        inner = raw["schema"]
        if inner["type"] != "model-fields":
            if inner["type"] not in ("function-before", "function-after", "function-wrap"):
                return self.node(inner, path)
            below = self._fields({**raw, "schema": inner["schema"]}, path, top=top)
            return below.but(schema={**_function(inner), "schema": below.schema}, native=False)
        nodes = {name: self._field(field, f"{path}.{name}", name, top=top) for name, field in inner["fields"].items()}
        if top:
            self.fields = nodes
            for field in inner.get("computed_fields", ()):
                name = field["property_name"]
                try:
                    self.computed[name] = self.node(field["return_schema"], f"{path}.{name}")
                except SchemaError as error:  # said only if the field turns out to be marked
                    self.computed[name] = ANY.but(opaque=str(error))
        allows = raw.get("config", {}).get("extra_fields_behavior") or inner.get("extra_behavior")
        extras = self._extras(inner, path) if allows == "allow" else None
        schema: Raw = {
            "type": "model-fields",
            "fields": {
                name: {
                    "type": "model-field",
                    "schema": node.schema,
                    **({"serialization_exclude": True} if top and name in self._leave_out else {}),
                }
                for name, node in nodes.items()
            },
            **_only(inner, "model_name", "extra_behavior"),
            **({"extras_schema": extras.schema} if extras else {}),
        }
        return _composite(
            cast("CoreSchema", schema),
            path.rpartition(".")[2],
            nodes,
            read=lambda model: model.__dict__,
            extras=(extras, lambda model: model.__pydantic_extra__ or {}) if extras else None,
        )

    def _field(self, field: Raw, path: str, name: str, *, top: bool) -> Node:
        self.names.add(name)
        codec = self._codecs.get(name) if top else None
        if codec is None:
            return self.node(field["schema"], path)
        return _own_codec(field["schema"], codec)

    def _extras(self, raw: Raw, path: str) -> Node:
        extras = raw.get("extras_schema")
        return ANY if extras is None else self.node(extras, f"{path}.*")

    def _dataclass(self, raw: Raw, path: str) -> Node:
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
        nodes = {field["name"]: self._field(field, f"{path}.{field['name']}", field["name"], top=False) for field in fields}
        schema: Raw = {
            "type": "dataclass-args",
            "dataclass_name": inner["dataclass_name"],
            "fields": [
                {"type": "dataclass-field", "name": name, "schema": node.schema, "kw_only": True, "init": True}
                for name, node in nodes.items()
            ],
        }
        for outer in reversed(wrap):
            schema = {**_function(outer), "schema": schema}
        schema = {
            **_only(raw, "cls", "generic_origin", "fields", "post_init", "slots", "frozen"),
            "type": "dataclass",
            "schema": schema,
            "config": _config(raw),
        }
        # Slots have no __dict__, and a field that was never set has no value in either.
        read = lambda value: {name: getattr(value, name) for name in nodes if hasattr(value, name)}  # noqa: E731
        return _composite(cast("CoreSchema", schema), cls.__name__, nodes, read=read, types=frozenset({cls}))

    def _typed_dict(self, raw: Raw, path: str) -> Node:
        nodes = {name: self._field(field, f"{path}.{name}", name, top=False) for name, field in raw["fields"].items()}
        allows = raw.get("extra_behavior") or raw.get("config", {}).get("extra_fields_behavior")
        extras = self._extras(raw, path) if allows == "allow" else None
        total = raw.get("total", True)
        required = {name for name, field in raw["fields"].items() if field.get("required", total)}
        schema: Raw = {
            **_only(raw, "cls", "extra_behavior"),
            "type": "typed-dict",
            "fields": {
                name: {"type": "typed-dict-field", "schema": node.schema, "required": name in required} for name, node in nodes.items()
            },
            "config": _config(raw),
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

    def _named_tuple(self, raw: Raw, path: str) -> Node:
        """A ``named-tuple`` or, before pydantic 2.14, the ``call`` of the class; written as an array."""
        if raw["type"] == "named-tuple":
            cls, fields = raw["cls"], raw["fields"]
        else:
            cls, fields = raw["function"], raw["arguments_schema"].get("arguments_schema", [])
            if not (isinstance(cls, type) and issubclass(cls, tuple) and hasattr(cls, "_fields")):
                raise SchemaError(f"{path}: a call of {getattr(cls, '__name__', 'a function')} cannot be kept. {_INSTEAD}")
        make: Callable[[Iterable[Any]], Any] = cls._make  # type: ignore[attr-defined]  # every named tuple has it
        nodes = [self._field(field, f"{path}.{field['name']}", field["name"], top=False) for field in fields]
        inner = core_schema.tuple_schema([node.schema for node in nodes])
        each = {f".{field['name']}": node for field, node in zip(fields, nodes, strict=True)}

        def deep(value: Any) -> None:
            for (step, node), item in zip(each.items(), value, strict=True):
                prefixed(step, node.check, item)

        return _summary(nodes).but(
            schema=core_schema.no_info_after_validator_function(make, inner, serialization=_dumped(tuple, inner)),
            label=cls.__name__,
            types=frozenset({cls}),
            kinds=frozenset({"array"}),
            deep=deep,
            project=lambda value: [node.projected(item) for node, item in zip(nodes, value, strict=True)],
        )

    # --- containers ---------------------------------------------------------------------------------------------------

    def _items(self, raw: Raw, path: str) -> Node:
        """list, set, frozenset, deque."""
        kind = raw["type"]
        cls = _CONTAINERS[kind][0]
        item = self.node(raw.get("items_schema") or {"type": "any"}, f"{path}[…]")
        schema: Raw = {"type": kind, "items_schema": item.schema, **_only(raw, "min_length", "max_length", "fail_fast")}
        if kind == "deque":
            inner = core_schema.list_schema(item.schema, min_length=raw.get("min_length"), max_length=raw.get("max_length"))
            schema = core_schema.no_info_after_validator_function(deque, inner, serialization=_dumped(list, inner))  # type: ignore[assignment]
        ordered = kind in ("list", "deque")

        def project(value: Iterable[Any]) -> list[Any]:
            projected = [item.projected(each) for each in value]
            return projected if ordered else sorted(projected, key=repr)  # the same set, the same bytes

        return _summary([item]).but(
            schema=schema,
            label=kind,
            types=frozenset({cls}),
            kinds=frozenset({"array"}),
            deep=_deque_check(item) if kind == "deque" else _items_check(item),
            native=kind == "list",
            project=project,
            item=item,
        )

    def _tuple(self, raw: Raw, path: str) -> Node:
        nodes = [self.node(each, f"{path}[{index}]") for index, each in enumerate(raw["items_schema"])]
        variadic = raw.get("variadic_item_index")
        if variadic is not None and len(nodes) == 1:
            pick: Callable[[int], list[Node]] = lambda size: nodes * size  # noqa: E731
        elif variadic is not None:
            pick = lambda size: [  # noqa: E731
                *nodes[:variadic],
                *[nodes[variadic]] * (size - len(nodes) + 1),
                *nodes[variadic + 1 :],
            ]
        else:
            pick = lambda _: nodes  # noqa: E731

        def deep(value: tuple[Any, ...]) -> None:
            places = pick(len(value))
            if len(places) != len(value):
                raise Misfit(f"a tuple of {len(places)} expected, one of {len(value)} found")
            for index, (node, item) in enumerate(zip(places, value, strict=True)):
                prefixed(f"[{index}]", node.check, item)

        return _summary(nodes).but(
            schema={
                "type": "tuple",
                "items_schema": [node.schema for node in nodes],
                **_only(raw, "variadic_item_index", "min_length", "max_length", "fail_fast"),
            },
            label="tuple",
            types=frozenset({tuple}),
            kinds=frozenset({"array"}),
            deep=deep,
            project=lambda value: [node.projected(item) for node, item in zip(pick(len(value)), value, strict=True)],
            item=nodes[0] if variadic is not None and len(nodes) == 1 else None,
        )

    def _dict(self, raw: Raw, path: str, *, cls: type = dict, make: Callable[[Any], Any] | None = None) -> Node:
        """dict, and with ``make`` its kin. Keys that JSON would not give back as they were make it an array of pairs."""
        if cls is dict and raw["type"] in _CONTAINERS:
            cls = _CONTAINERS[raw["type"]][0]
        make = make or (cls if cls is not dict else None)
        key = self.node(raw.get("keys_schema") or {"type": "any"}, f"{path}[key]")
        value = self.node(raw.get("values_schema") or ({"type": "int"} if cls is Counter else {"type": "any"}), f"{path}[*]")
        limits = _only(raw, "min_length", "max_length")
        schema: CoreSchema
        if key.native and key.kinds == {"string"}:
            schema = core_schema.dict_schema(key.schema, value.schema, **limits)
            if make is not None:
                schema = core_schema.no_info_after_validator_function(make, schema, serialization=_dumped(dict, schema))
            kind: Kind = "object"
        else:
            pairs = core_schema.list_schema(core_schema.tuple_schema([key.schema, value.schema]), **limits)
            schema = core_schema.no_info_after_validator_function(
                (lambda each: make(dict(each))) if make else dict, pairs, serialization=_dumped(lambda each: list(each.items()), pairs)
            )
            kind = "array"

        def project(items: dict[Any, Any]) -> Any:
            pairs = [(key.projected(name), value.projected(item)) for name, item in items.items()]
            return dict(pairs) if kind == "object" else [list(pair) for pair in pairs]

        return _summary([key, value]).but(
            schema=schema,
            label=cls.__name__,
            types=frozenset({cls}),
            kinds=frozenset({kind}),
            deep=_dict_check(key, value),
            native=cls is dict and key.native and value.native,
            project=project,
        )

    # --- unions -------------------------------------------------------------------------------------------------------

    def _nullable(self, raw: Raw, path: str) -> Node:
        inner = self.node(raw["schema"], path)
        deep, near = inner.deep, inner.near
        return inner.but(
            schema=core_schema.nullable_schema(inner.schema),
            label=f"{inner.label} or None",
            types=inner.types if inner is ANY else frozenset(inner.types) | {type(None)},
            kinds=inner.kinds | {"null"},
            deep=deep and (lambda value: None if value is None else deep(value)),
            near=near,
            project=inner.project and (lambda value: None if value is None else inner.projected(value)),
        )

    def _union(self, raw: Raw, path: str) -> Node:
        """Told apart by JSON where that is certain, by a tag, ``{"<member>": value}``, where it is not."""
        choices = _choices(raw)
        members = [self.node(each, path) for each in choices]
        if any(member.types is ANY.types for member in members):
            raise SchemaError(f"{path}: a union with Any. Declare the field as Any alone, or name the types")
        chosen = _chooser(members)
        types = frozenset[type]().union(*(member.types for member in members))
        kinds = [kind for member in members for kind in member.kinds]
        native = all(member.native for member in members) and len(kinds) == len(set(kinds))
        if native:
            schema = cast("CoreSchema", core_schema.union_schema([member.schema for member in members]))
        else:
            tagged = core_schema.typed_dict_schema(
                {
                    str(index): core_schema.typed_dict_field(member.schema, required=False)
                    for index, member in enumerate(members)
                },
                extra_behavior="forbid",
                config=CONFIG,
            )
            schema = core_schema.no_info_after_validator_function(
                _untagged, tagged, serialization=_dumped(lambda value: {str(chosen(value)): value}, tagged)
            )
        return _summary(members).but(
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

    # --- function validators, wrappers, branches ----------------------------------------------------------------------

    def _function_around(self, raw: Raw, path: str) -> Node:
        """before, after and wrap: the validator stays, the place is what it surrounds. It must be idempotent; the docs say so."""
        function = raw["function"]["function"]
        owner = getattr(function, "__self__", None)
        if isinstance(owner, EncodedBytes | EncodedStr) or getattr(function, "__qualname__", "").startswith("PathType."):
            # Base64Bytes decodes what its serializer encodes, and we store what it holds; whether a file exists is a
            # matter of the moment of saving, and would make a document unreadable on another machine.
            return self.node(raw["schema"], path)
        if owner is ByteSize:
            return _BYTE_SIZE
        if raw["type"] == "function-wrap" and (url := _url_class(raw)) is not None:
            written = core_schema.str_schema()
            return _class_node(
                url, KeptClass(frozenset({url}), str, written, "string"), {**_function(raw), "schema": raw["schema"]}
            )
        if raw["type"] == "function-after" and isinstance(function, operator.attrgetter) and raw["schema"]["type"] == "enum":
            return self._enum_values(raw)
        if raw["type"] == "function-after" and isinstance(function, type) and kept_class(function):
            return _class_node(function, cast("KeptClass", kept_class(function)), {**_function(raw), "schema": raw["schema"]})
        inner = self.node(raw["schema"], path)
        return inner.but(schema={**_function(raw), "schema": inner.schema}, native=False)

    def _function_plain(self, raw: Raw, path: str) -> Node:
        name = getattr(raw["function"]["function"], "__name__", "")
        cls = _PYDANTIC_PLAIN.get(name) if _is_pydantic(raw["function"]["function"]) else None
        if cls is None:
            raise SchemaError(f"{path}: a type with a plain validator ({name}) says nothing of what it makes. {_INSTEAD}")
        return _class_node(cls, cast("KeptClass", kept_class(cls)))

    def _class(self, raw: Raw, path: str) -> Node:
        del path
        cls = _PYDANTIC_CLASSES[raw["type"]]
        return _class_node(cls, cast("KeptClass", kept_class(cls)))

    def _instance(self, raw: Raw, path: str) -> Node:
        """``is-instance``, ``json-or-python`` and ``lax-or-strict``: a class of its own, or one form for each kind of input."""
        cls = _instance_class(raw)
        if cls is None:
            return self.node(_json_branch(raw), path)
        if cls in (OrderedDict, Counter):
            return self._dict(_json_branch(raw)["schema"], path, cls=cls)
        if cls is defaultdict:
            factory = _json_branch(raw)
            missing: functools.partial[Any] = factory["function"]["function"]
            make = functools.partial(defaultdict, missing.keywords.get("default_default_factory"))
            return self._dict(factory["schema"], path, cls=defaultdict, make=make)
        if cls is deque:
            return self._items({**_json_branch(raw)["schema"], "type": "deque"}, path)
        if getattr(cls, "_name", None) == "Sequence" or getattr(cls, "__name__", None) == "Sequence":
            items = raw.get("json_schema", {}).get("items_schema", {"type": "any"})
            return self._union(
                {
                    "choices": [
                        {"type": "list", "items_schema": items},
                        {"type": "tuple", "items_schema": [items], "variadic_item_index": 0},
                    ]
                },
                path,
            )
        kept = kept_class(cls) if isinstance(cls, type) else None
        if kept is None:
            raise SchemaError(f"{path}: {getattr(cls, '__qualname__', cls)} is not a class whose form in JSON is known. {_INSTEAD}")
        return _class_node(cls, kept, kept.load or self._kept_branch(_json_branch(raw), path))

    def _kept_branch(self, raw: Raw, path: str) -> CoreSchema:
        """pydantic's own way from JSON to the class, rewritten beneath."""
        inner = self.node(raw["schema"], path)
        return cast("CoreSchema", {**_function(raw), "schema": inner.schema})

    def _secret(self, raw: Raw, path: str) -> Node:
        """``Secret[T]``: what it hides is written as T."""
        branch = raw["json_schema"]
        cls: type = inspect.getclosurevars(branch["function"]["function"]).nonlocals["cls"]
        inner = self.node(branch["schema"], path)
        written = inner.schema
        return inner.but(
            schema={**_function(branch), "schema": written, "serialization": _dumped(lambda value: value.get_secret_value(), written)},
            label=cls.__name__,
            types=frozenset({cls}),
            deep=lambda value: inner.check(value.get_secret_value()),
            near=None,
            native=False,
            opaque="a secret does not belong in metadata, which stands in the clear",
        )

    def _json_or_python(self, raw: Raw, path: str) -> Node:
        serializer = raw.get("serialization", {}).get("function")
        if _is_pydantic(serializer) and serializer.__name__ == "_serialize_secret":
            return self._secret(raw, path)
        return self._instance(raw, path)

    def _wrapped(self, raw: Raw, path: str) -> Node:
        """``default`` and ``custom-error``: the wrapper stays."""
        inner = self.node(raw["schema"], path)
        kept = {name: value for name, value in raw.items() if name not in ("schema", "serialization", "metadata", "ref", "on_error", "strict")}
        return inner.but(schema={**kept, "schema": inner.schema}, native=inner.native and raw["type"] == "default")

    def _json(self, raw: Raw, path: str) -> Node:
        """``Json[T]`` holds a T: it is written as one."""
        return self.node(raw.get("schema") or {"type": "any"}, path)

    def _any(self, raw: Raw, path: str) -> Node:
        del raw, path
        return ANY

    def _chain(self, raw: Raw, path: str) -> Node:
        nodes = [self.node(each, path) for each in raw["steps"]]
        if set(nodes[0].types) != set(nodes[-1].types):
            raise SchemaError(f"{path}: a chain of validators that changes the type cannot be kept. {_INSTEAD}")
        return nodes[-1].but(schema=core_schema.chain_schema([node.schema for node in nodes]), native=False)

    # --- enums and literals -------------------------------------------------------------------------------------------

    def _enum(self, raw: Raw, path: str) -> Node:
        """By value where JSON keeps the value, as pydantic does; by name where it does not."""
        del path
        cls: type[enum.Enum] = raw["cls"]
        values = [member.value for member in cls]
        base = Node(core_schema.any_schema(), cls.__name__, types=frozenset({cls}), kinds=frozenset({"string"}))
        if issubclass(cls, enum.Flag):
            return base.but(
                schema=core_schema.no_info_after_validator_function(
                    cls, core_schema.int_schema(), serialization=_dumped(lambda value: value.value, core_schema.int_schema())
                ),
                kinds=frozenset({"int"}),
                project=lambda value: value.value,
            )
        if {type(value) for value in values} in ({str}, {int}):
            kind: Kind = "string" if type(values[0]) is str else "int"
            return base.but(
                schema=cast("CoreSchema", {**_only(raw, "type", "cls", "members", "sub_type", "missing")}),
                kinds=frozenset({kind}),
                project=lambda value: value.value,
            )
        return base.but(
            schema=core_schema.no_info_after_validator_function(
                cls.__getitem__, core_schema.str_schema(), serialization=_dumped(lambda value: value.name, core_schema.str_schema())
            ),
            project=lambda value: value.name,
        )

    def _enum_values(self, raw: Raw) -> Node:
        """``use_enum_values``: the field holds the value of a member."""
        return self._literal({"expected": [member.value for member in raw["schema"]["cls"]]}, "")

    def _literal(self, raw: Raw, path: str) -> Node:
        del path
        expected: list[Any] = raw["expected"]
        allowed = {(type(value), value) for value in expected}

        def deep(value: Any) -> None:
            if (type(value), value) not in allowed:
                raise Misfit("not one of the values that the Literal allows")

        node = Node(
            schema=core_schema.literal_schema(expected),
            label="Literal",
            types=frozenset(type(value) for value in expected),
            kinds=frozenset(_JSON_KINDS.get(type(value), "string") for value in expected),
            deep=deep,
            native=all(type(value) in _JSON_KINDS for value in expected),
        )
        if node.native:
            return node
        keys = {_literal_key(value): value for value in expected}
        written = {(type(value), value): key for key, value in keys.items()}
        return node.but(
            schema=core_schema.no_info_plain_validator_function(
                keys.__getitem__, serialization=_dumped(lambda value: written[type(value), value], core_schema.any_schema())
            ),
            project=lambda value: written[type(value), value],
        )


# ---------------------------------------------------------------------------------------------------------------------
# Scalars: one row for each.

_DECIMAL128: Final = decimal.Context(prec=34, rounding=decimal.ROUND_HALF_EVEN, Emin=-6143, Emax=6144, clamp=1, traps=[])
_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - subtracted from naive times only
_MILLISECOND: Final = timedelta(milliseconds=1)
_MICROSECOND: Final = timedelta(microseconds=1)
_MINUTE: Final = timedelta(minutes=1)


def _project_datetime(value: datetime) -> DatetimeMS:
    """BSON's date: milliseconds since the epoch, rounded down; naive times are taken as UTC. No overflow at either end."""
    since = value.replace(tzinfo=None) - _EPOCH - (value.utcoffset() or timedelta())
    return DatetimeMS(since // _MILLISECOND)


def _project_date(value: date) -> DatetimeMS:
    return _project_datetime(datetime(value.year, value.month, value.day, tzinfo=UTC))


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


_SCALARS: Final[dict[str, Node]] = {
    "none": _scalar_row(type(None), "null", native=True),
    "bool": _scalar_row(bool, "bool", native=True),
    "int": _scalar_row(int, "int", native=True),
    "float": _scalar_row(float, "float", native=True, near=_float_near, tolerant=True, project=float),
    "str": _scalar_row(str, "string", native=True),
    "bytes": _scalar_row(bytes, "string"),
    "uuid": _scalar_row(UUID, "string"),
    "decimal": _scalar_row(
        decimal.Decimal, "string", project=lambda value: Decimal128(_DECIMAL128.create_decimal(value)), exact=True
    ),
    "datetime": _scalar_row(datetime, "string", project=_project_datetime, exact=True),
    "date": _scalar_row(date, "string", project=_project_date, exact=True),
    "time": _scalar_row(time, "string", project=time.isoformat, exact=True),
    "timedelta": _scalar_row(timedelta, "string", project=lambda value: value // _MICROSECOND, exact=True),
}
_STRICT: Final = frozenset({"none", "bool", "int", "float", "str"})  # where strictness means the same in JSON and in Python


def _scalar(raw: Raw) -> Node:
    kind = raw["type"]
    dropped = ("serialization", "metadata", "ref", "now_op", "now_utc_offset", *(() if kind in _STRICT else ("strict",)))
    # now_op: PastDate, FutureDate. True when it was saved; a document must not become unreadable as time goes by.
    schema = {name: value for name, value in raw.items() if name not in dropped}
    node = _SCALARS[kind].but(schema=cast("CoreSchema", schema))
    if kind in ("datetime", "time"):
        return node.but(schema=_with_odd_offsets(node.schema, datetime if kind == "datetime" else time))
    return node


def _with_odd_offsets(schema: CoreSchema, cls: type[datetime] | type[time]) -> CoreSchema:
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
        ),
    )


_BYTE_SIZE: Final = Node(
    schema=core_schema.no_info_after_validator_function(
        ByteSize, core_schema.int_schema(ge=0), serialization=core_schema.plain_serializer_function_ser_schema(int)
    ),
    label="ByteSize",
    types=frozenset({ByteSize}),
    kinds=frozenset({"int"}),
    project=int,
)

# ---------------------------------------------------------------------------------------------------------------------
# Checks of several values at once.

_NO_EXTRAS: Final = Node(schema=core_schema.any_schema(), label="no key of that name", types=frozenset(), kinds=frozenset())


def _summary(nodes: Iterable[Node]) -> Node:
    """What a place inherits from those inside it."""
    inside = list(nodes)
    return Node(
        schema=core_schema.any_schema(),
        label="",
        types=frozenset(),
        kinds=frozenset(),
        tolerant=any(node.tolerant for node in inside),
        exact=any(node.exact for node in inside),
        opaque=next((node.opaque for node in inside if node.opaque), None),
    )


_Read = Callable[[Any], Mapping[str, Any]]


def _composite(
    schema: CoreSchema,
    label: str,
    nodes: dict[str, Node],
    *,
    read: _Read,
    types: frozenset[type] = frozenset(),
    required: Iterable[str] | None = None,
    extras: tuple[Node, _Read] | None = None,
) -> Node:
    """A place with named fields. ``read`` gives a value's fields by name; ``extras`` says what else it may hold, and where."""
    plan = [(name, node.types, node.deep, node) for name, node in nodes.items()]
    needed = frozenset(nodes if required is None else required)

    def deep(value: Any) -> None:
        fields = read(value)
        for name, allowed, check, node in plan:
            if name not in fields:
                if name in needed:
                    raise Misfit("missing").inside(f".{name}")
                continue
            item = fields[name]
            if type(item) in allowed:
                if check is not None:
                    prefixed(f".{name}", check, item)
            else:
                prefixed(f".{name}", node.check, item)
        if extras is not None:
            node, rest = extras
            for name, item in rest(value).items():
                if name in nodes:
                    raise Misfit("an extra value has the name of a field: one of the two would be lost").inside(".*")
                prefixed(".*", node.check, item)

    def project(value: Any) -> dict[str, Any]:
        fields = read(value)
        return {name: node.projected(fields[name]) for name, node in nodes.items() if name in fields}

    inside = [*nodes.values(), *([extras[0]] if extras and extras[0] is not _NO_EXTRAS else [])]
    return _summary(inside).but(
        schema=schema, label=label, types=types, kinds=frozenset({"object"}), deep=deep, native=True, project=project
    )


def _items_check(item: Node) -> Check:
    types, deep = item.types, item.deep

    def check(values: Iterable[Any]) -> None:
        if deep is None and types.issuperset(map(type, values)):  # type: ignore[attr-defined]  # frozensets; Secret's too
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


def _dict_check(key: Node, value: Node) -> Check:
    keys, values = _items_check(key), _items_check(value)

    def check(items: dict[Any, Any]) -> None:
        try:
            keys(items.keys())
            values(items.values())
        except Misfit as misfit:
            misfit.path[:1] = ["[*]"]  # a key is content: it is not named
            raise

    return check


# ---------------------------------------------------------------------------------------------------------------------
# Unions.


def _choices(raw: Raw) -> list[Raw]:
    """The members of a union, a tagged one too, each once."""
    given = raw["choices"]
    each = list(given.values()) if isinstance(given, dict) else [one[0] if isinstance(one, tuple) else one for one in given]
    unique: list[Raw] = []
    for one in each:
        if one not in unique:
            unique.append(one)
    return unique


def _chooser(members: list[Node]) -> Callable[[Any], int]:
    """Which member a value belongs to: by its exact type and, where several share it, by the first whose check it passes.

    Members that accept values of another type (an int in a float) are asked last.
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
        for index in candidates:
            try:
                members[index].check(value)
            except Misfit:
                continue
            return index
        raise Misfit(f"fits no member of the union, {type(value).__qualname__} found")

    return chosen


def _untagged(tagged: dict[str, Any]) -> Any:
    if len(tagged) != 1:
        raise ValueError("a tagged value has one tag")
    return next(iter(tagged.values()))


# ---------------------------------------------------------------------------------------------------------------------
# Reading core schemas.


def _class_node(cls: type, kept: KeptClass, load: Raw | CoreSchema | None = None) -> Node:
    schema = cast("Raw", load or kept.load)
    return Node(
        schema=cast("CoreSchema", {**schema, "serialization": _dumped(kept.dump, kept.written)}),
        label=cls.__name__,
        types=kept.types,
        kinds=frozenset({kept.kind}),
        project=kept.project or kept.dump,
        opaque=kept.opaque,
    )


def _own_codec(raw: Raw, codec: Codec) -> Node:
    """``Sensitive(dump=…, load=…)``: the user's two functions in the place of the field's own validation."""
    dump, load = codec
    schema = {name: value for name, value in raw.items() if name != "serialization"}
    placed: Raw = core_schema.no_info_plain_validator_function(  # type: ignore[assignment]
        load, serialization=core_schema.plain_serializer_function_ser_schema(dump)
    )
    if schema["type"] == "default":
        placed = {**schema, "schema": placed}
    return ANY.but(schema=placed, deep=None)


def _dumped(function: Callable[[Any], Any], written: CoreSchema | Raw) -> core_schema.PlainSerializerFunctionSerSchema:
    return core_schema.plain_serializer_function_ser_schema(function, return_schema=cast("CoreSchema", written))


def _only(raw: Raw, *names: str) -> Raw:
    return {name: raw[name] for name in names if raw.get(name) is not None}


def _function(raw: Raw) -> Raw:
    """A function validator without its schema, serializer and reference."""
    return _only(raw, "type", "function")


def _config(raw: Raw) -> CoreConfig:
    return cast("CoreConfig", {**CONFIG, **_only(raw.get("config", {}), *_CONFIG_KEPT)})


def _is_pydantic(function: object) -> bool:
    return isinstance(function, FunctionType | MethodType) and function.__module__.partition(".")[0] == "pydantic"


def _url_class(raw: Raw) -> type | None:
    """The class behind pydantic's URL types: the serializer is a method of it."""
    serializer = raw.get("serialization", {}).get("function")
    if isinstance(serializer, MethodType) and serializer.__name__ == "serialize_url" and _is_pydantic(serializer):
        return cast("type", serializer.__self__)
    return None


def _instance_class(raw: Raw) -> Any:
    """The class of an ``is-instance`` in the Python branch of a schema, if there is one."""
    kind = raw["type"]
    if kind == "is-instance":
        return raw["cls"]
    if kind == "lax-or-strict":
        return _instance_class(raw["strict_schema"])
    if kind == "json-or-python":
        return _instance_class(raw["python_schema"])
    if kind == "chain":
        return _instance_class(raw["steps"][0])
    if kind == "union":
        return next((found for each in _choices(raw) if (found := _instance_class(each)) is not None), None)
    return None


def _json_branch(raw: Raw) -> Raw:
    """The schema by which JSON is validated."""
    kind = raw["type"]
    if kind == "lax-or-strict":
        lax: Raw = raw["lax_schema"]
        return _json_branch(lax if lax["type"] not in ("function-plain", "union") else raw["strict_schema"])
    if kind == "json-or-python":
        # JsonValue: its JSON branch says "any", and its Python branch which types that can be
        return _json_branch(raw["python_schema"] if raw["json_schema"]["type"] == "any" else raw["json_schema"])
    return raw


def _literal_key(value: Any) -> Any:
    if type(value) in _JSON_KINDS:
        return value
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    return f"bytes:{value.hex()}"


_JSON_KINDS: Final[dict[type, Kind]] = {str: "string", int: "int", bool: "bool", type(None): "null"}
_CONTAINERS: Final[dict[str, tuple[type, Kind]]] = {
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
_PYDANTIC_PLAIN: Final[dict[str, type]] = {
    "pattern_str_validator": re.Pattern,
    "pattern_bytes_validator": re.Pattern,
    "pattern_either_validator": re.Pattern,
    "validate_str_is_valid_iana_tz": ZoneInfo,
}
_PYDANTIC_CLASSES: Final[dict[str, type]] = {"complex": complex, "fraction": Fraction}
_UNKEPT: Final = {
    "generator": "a generator is used up by reading it: write list[…]. It",
    "callable": "a function",
    "is-subclass": "a class",
    "missing-sentinel": "MISSING",
}
_Rewrite = Callable[[Rewriter, Raw, str], Node]
_REWRITES: Final[dict[str, _Rewrite]] = {
    "any": Rewriter._any,
    "definition-ref": Rewriter._reference,
    "model": Rewriter._model_node,
    "dataclass": Rewriter._dataclass,
    "typed-dict": Rewriter._typed_dict,
    "named-tuple": Rewriter._named_tuple,
    "call": Rewriter._named_tuple,
    "list": Rewriter._items,
    "set": Rewriter._items,
    "frozenset": Rewriter._items,
    "deque": Rewriter._items,
    "tuple": Rewriter._tuple,
    "dict": Rewriter._dict,
    "ordered-dict": Rewriter._dict,
    "counter": Rewriter._dict,
    "nullable": Rewriter._nullable,
    "union": Rewriter._union,
    "tagged-union": Rewriter._union,
    "enum": Rewriter._enum,
    "literal": Rewriter._literal,
    "function-before": Rewriter._function_around,
    "function-after": Rewriter._function_around,
    "function-wrap": Rewriter._function_around,
    "function-plain": Rewriter._function_plain,
    "is-instance": Rewriter._instance,
    "json-or-python": Rewriter._json_or_python,
    "lax-or-strict": Rewriter._instance,
    "default": Rewriter._wrapped,
    "custom-error": Rewriter._wrapped,
    "json": Rewriter._json,
    "complex": Rewriter._class,
    "fraction": Rewriter._class,
    "chain": Rewriter._chain,
}
