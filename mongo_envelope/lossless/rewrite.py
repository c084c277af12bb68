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

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, cast

from pydantic_core import CoreSchema, SchemaSerializer, SchemaValidator, core_schema

from mongo_envelope.errors import SchemaError

from . import containers, leaves, records, unions, wrappers
from .anything import ANY
from .node import Kind, Node
from .reading import INSTEAD, LOAD, Codec, Raw, checked, choices_of, config_of, first_of, is_pydantic

__all__ = ["Rewriter"]

_Rewrite = Callable[["Rewriter", Raw, str], Node]


class Rewriter:
    """Rewrites one model's core schema. Made once for each model, and thrown away."""

    def __init__(self, model: type, raw: CoreSchema, *, codecs: Mapping[str, Codec]) -> None:
        """Rewrite ``raw``, the core schema of ``model``. ``codecs``: (dump, load) of top-level fields that bring their own."""
        self.codecs = codecs
        #: the nodes of the model's own fields, and of what its computed fields return
        self.fields: dict[str, Node] = {}
        self.computed: dict[str, Node] = {}
        #: every name that a schema knows: what may stand in the path of an error
        self.names: set[str] = set()
        self._model = model
        self._entered = False
        self._fields: Raw = {}
        self._raw: dict[str, Raw] = {}
        self._open: set[str] = set()
        self._done: dict[str, Node] = {}
        self._compiled: dict[int, tuple[SchemaSerializer, SchemaValidator, Node]] = {}
        self._model_config: Raw = {}
        #: the configuration of the model that is being rewritten
        self.config: Raw = {}
        #: Whether the user's validators may hand on values, in the place of the JSON that they are given.
        self._takes_values = _has_user_validators(raw)
        self._defaults: list[tuple[str, Node, Any, bool]] = []
        self.root = self._rewrite(cast("Raw", raw))
        self._check_defaults()

    @contextmanager
    def configured(self, raw: Raw) -> Iterator[None]:
        """While the places inside a model, dataclass or typed dict are rewritten, under its configuration."""
        outer, self.config = self.config, raw.get("config", {})
        try:
            yield
        finally:  # a computed field that cannot be kept is passed over, and the rest is rewritten under its own configuration
            self.config = outer

    def default(self, path: str, node: Node, value: Any, *, plain: bool) -> None:
        """Note a default that pydantic does not validate; ``plain``: no user's validator stands in its place."""
        self._defaults.append((path, node, value, plain))

    def _check_defaults(self) -> None:
        for path, node, value, plain in self._defaults:
            if not node.fits(value):
                raise SchemaError(
                    f"{path}: the default is a {type(value).__qualname__}, which is not a {node.label}: it could never be saved. "
                    "Write a default of the field's type, or validate_default=True"
                )
            if plain and not self.reads_back(node, value):
                raise SchemaError(f"{path}: the default breaks the field's own constraints: it could be saved, and never loaded")

    def reads_back(self, node: Node, value: Any) -> bool:
        """Whether a value's JSON is read back as the same JSON, constraints and validators included."""
        compiled = self._compiled.get(id(node))
        if compiled is None:
            schema = self._with_definitions(node.schema)
            config = config_of(self._model_config)
            compiled = (
                SchemaSerializer(schema, config, _use_prebuilt=False),
                SchemaValidator(schema, config, _use_prebuilt=False),
                node,  # kept, so that its id stays its own
            )
            self._compiled[id(node)] = compiled
        serializer, validator, _ = compiled
        try:
            json = serializer.to_json(value, warnings="none")
            again = serializer.to_json(validator.validate_json(json, context=LOAD), warnings="none")
        except Exception:  # noqa: BLE001 - what a user's validator raises is a no
            return False
        return json == again

    def _with_definitions(self, schema: CoreSchema) -> CoreSchema:
        if not self._done:
            return schema
        definitions = [{**cast("Raw", each.schema), "ref": ref} for ref, each in self._done.items()]
        return core_schema.definitions_schema(schema, cast("list[CoreSchema]", definitions))

    def leave_out(self, names: Iterable[str]) -> None:
        """Do not write these top-level fields. They are read if they are there."""
        for name in names:
            self._fields[name]["serialization_exclude"] = True

    def enter(self, cls: type) -> bool:
        """Whether this is the model itself, met for the first time; a model inside itself is a place like others."""
        first, self._entered = cls is self._model and not self._entered, True
        if first:
            self._model_config = self.config
        return first

    def found(self, nodes: dict[str, Node], fields: Raw, computed: dict[str, Node]) -> None:
        """Take note of the model's own fields."""
        self.fields, self._fields, self.computed = nodes, fields, computed

    def _rewrite(self, schema: Raw) -> Node:
        if schema["type"] == "definitions":
            self._raw = {each["ref"]: each for each in schema["definitions"]}
            schema = schema["schema"]
        while schema["type"] == "definition-ref":
            schema = self._raw[schema["schema_ref"]]
        node = self.node(schema, self._model.__name__)
        return node.but(schema=self._with_definitions(node.schema))

    def node(self, raw: Raw, path: str) -> Node:
        """Rewrite one place. ``path`` is for messages: ``Customer.address.city``."""
        kind = raw["type"]
        if kind in leaves.SCALARS:
            return leaves.scalar(raw, self.config)
        rewrite = _REWRITES.get(kind)
        if rewrite is None:
            raise SchemaError(f"{path}: {_UNKEPT.get(kind, f'a type of kind {kind!r}')} cannot be kept. {INSTEAD}")
        node = rewrite(self, raw, path)
        if self._takes_values and not node.native and node.types is not ANY.types and kind not in _PASSED_THROUGH:
            return node.but(schema=_taking_values(node), several=node.several)
        return node

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
            deep=lambda value: self._done[ref].check(value),  # noqa: PLW0108 - the node is not there yet
            native=False,
            tolerant=True,
            project=lambda value: self._done[ref].projected(value),  # noqa: PLW0108 - likewise
            exact=True,
        )

    def _shape(self, raw: Raw, path: str) -> tuple[frozenset[type], frozenset[Kind]]:
        kind = raw["type"]
        if kind in leaves.SCALARS:
            node = leaves.scalar(raw, self.config)
            return frozenset(node.types), node.kinds
        if kind in ("model", "dataclass", "named-tuple"):
            return frozenset({raw["cls"]}), frozenset({"object", "array"})
        if kind == "definition-ref":
            return self._shape(self._raw[raw["schema_ref"]], path)
        if kind in containers.CONTAINERS:
            cls, json = containers.CONTAINERS[kind]
            return frozenset({cls}), frozenset({json})
        if kind in ("nullable", "union", "tagged-union"):
            inner = [{"type": "none"}, raw["schema"]] if kind == "nullable" else choices_of(raw)
            shapes = [self._shape(each, path) for each in inner]
            return frozenset().union(*(types for types, _ in shapes)), frozenset().union(*(kinds for _, kinds in shapes))
        if kind == "json-or-python":
            return self._shape(wrappers.json_branch(raw), path)
        if "schema" in raw:
            return self._shape(raw["schema"], path)
        raise SchemaError(f"{path}: recursion through a type of kind {kind!r} cannot be kept. {INSTEAD}")


def _has_user_validators(raw: Any) -> bool:
    """Whether a before or wrap validator that is not pydantic's own stands anywhere in a core schema."""
    if isinstance(raw, dict):
        around = raw.get("type") in ("function-before", "function-wrap") and isinstance(raw.get("function"), dict)
        if around and not is_pydantic(raw["function"].get("function")):
            return True
        return any(_has_user_validators(each) for name, each in raw.items() if name not in ("serialization", "metadata", "default"))
    return isinstance(raw, list | tuple) and any(_has_user_validators(each) for each in raw)


def _taking_values(node: Node) -> CoreSchema:
    """The JSON form of a place or, from a user's validator that made one of it already, a value."""
    return first_of(node.schema, checked(node), written=node.schema)


_UNKEPT: Final = {
    "generator": "an iterable that is used up by reading it (write list[…])",
    "callable": "a function",
    "is-subclass": "a class",
    "missing-sentinel": "MISSING",
}
#: What is validated beneath takes values already; and a validator that refuses must not be passed by.
_PASSED_THROUGH: Final = frozenset({"definition-ref", "function-before", "function-after", "function-wrap"})
#: kind of core schema → the room that rewrites it
_REWRITES: Final[dict[str, _Rewrite]] = {
    "any": wrappers.any_,
    "definition-ref": Rewriter._reference,
    "model": records.model,
    "dataclass": records.dataclass_,
    "typed-dict": records.typed_dict,
    "named-tuple": records.named_tuple,
    "call": records.named_tuple,
    "list": containers.items,
    "set": containers.items,
    "frozenset": containers.items,
    "deque": containers.items,
    "tuple": containers.tuple_,
    "dict": containers.dict_,
    "ordered-dict": containers.dict_,
    "counter": containers.dict_,
    "nullable": unions.nullable,
    "union": unions.union,
    "tagged-union": unions.union,
    "enum": leaves.enum_,
    "literal": leaves.literal,
    "function-before": wrappers.function_around,
    "function-after": wrappers.function_around,
    "function-wrap": wrappers.function_around,
    "function-plain": wrappers.function_plain,
    "is-instance": wrappers.instance,
    "json-or-python": wrappers.json_or_python,
    "lax-or-strict": wrappers.instance,
    "default": wrappers.wrapped,
    "custom-error": wrappers.wrapped,
    "json": wrappers.json,
    "complex": wrappers.class_,
    "fraction": wrappers.class_,
    "chain": wrappers.chain,
}
