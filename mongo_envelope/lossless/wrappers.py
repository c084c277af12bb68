"""Places around one other: validators, defaults, and pydantic's forms of special classes."""

from __future__ import annotations

import functools
import inspect
import operator
import re
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from fractions import Fraction
from types import MethodType
from typing import TYPE_CHECKING, Any, Final, cast
from zoneinfo import ZoneInfo

from pydantic import ByteSize, EncodedBytes, EncodedStr
from pydantic_core import CoreSchema, core_schema

from mongo_envelope.errors import SchemaError

from .anything import ANY, decode, encode
from .classes import KeptClass, kept_class
from .containers import dict_, items
from .leaves import BYTE_SIZE, SCALARS, class_node, enum_values
from .node import Misfit, Node
from .reading import INSTEAD, Codec, Raw, checked, choices_of, dumped, first_of, function_of, is_pydantic
from .unions import union

if TYPE_CHECKING:
    from .rewrite import Rewriter

__all__ = [
    "any_",
    "chain",
    "class_",
    "dumped_by_user",
    "function_around",
    "function_plain",
    "instance",
    "json",
    "json_branch",
    "json_or_python",
    "own_codec",
    "wrapped",
]

_PYDANTIC_PLAIN: Final[dict[str, type]] = {
    "pattern_str_validator": re.Pattern,
    "pattern_bytes_validator": re.Pattern,
    "pattern_either_validator": re.Pattern,
    "validate_str_is_valid_iana_tz": ZoneInfo,
}
_PYDANTIC_CLASSES: Final[dict[str, type]] = {"complex": complex, "fraction": Fraction}


def function_around(rewriter: Rewriter, raw: Raw, path: str) -> Node:
    """A before, after or wrap validator stays, the place is what it surrounds. It must be idempotent; the docs say so."""
    function = raw["function"]["function"]
    owner = getattr(function, "__self__", None)
    if isinstance(owner, EncodedBytes | EncodedStr) or getattr(function, "__qualname__", "").startswith("PathType."):
        # Base64Bytes decodes what its serializer encodes, and we store what it holds; whether a file exists is a
        # matter of the moment of saving, and would make a document unreadable on another machine.
        return rewriter.node(raw["schema"], path)
    if owner is ByteSize:
        return BYTE_SIZE
    if raw["type"] == "function-wrap" and (url := _url_class(raw)) is not None:
        written = core_schema.str_schema()
        return class_node(url, KeptClass(frozenset({url}), str, written, "string"), {**function_of(raw), "schema": raw["schema"]})
    if raw["type"] == "function-after" and isinstance(function, operator.attrgetter) and raw["schema"]["type"] == "enum":
        return enum_values(rewriter, raw, path)
    inner = rewriter.node(raw["schema"], path)
    if raw["type"] == "function-after" and isinstance(function, type) and function not in inner.types:
        kept = kept_class(function)
        if kept is None:
            raise SchemaError(
                f"{path}: a validator makes a {function.__qualname__} of a {inner.label}. Declare the field as what it holds in "
                f"the end, with a before validator, or annotate it with Sensitive(dump=…, load=…)"
            )
        return class_node(function, kept, {**function_of(raw), "schema": inner.schema})
    schema: Raw = {**function_of(raw), "schema": inner.schema}
    if raw["type"] != "function-after" and not inner.native:
        # What the validator once returned is what it is given again; JSON only if that does not fit (any more).
        again = core_schema.chain_schema([inner.schema, cast("CoreSchema", {**function_of(raw), "schema": checked(inner)})])
        schema = cast("Raw", first_of(again, cast("CoreSchema", schema), written=inner.schema))
    return inner.but(schema=schema, native=False)


def function_plain(rewriter: Rewriter, raw: Raw, path: str) -> Node:
    """A validator that says nothing of what it makes: kept only if it is one of pydantic's own."""
    del rewriter
    name = getattr(raw["function"]["function"], "__name__", "")
    cls = _PYDANTIC_PLAIN.get(name) if is_pydantic(raw["function"]["function"]) else None
    if cls is None:
        raise SchemaError(f"{path}: a type with a plain validator ({name}) says nothing of what it makes. {INSTEAD}")
    return class_node(cls, cast("KeptClass", kept_class(cls)))


def class_(rewriter: Rewriter, raw: Raw, path: str) -> Node:
    """A class that pydantic-core has a kind of its own for."""
    del rewriter, path
    cls = _PYDANTIC_CLASSES[raw["type"]]
    return class_node(cls, cast("KeptClass", kept_class(cls)))


def instance(rewriter: Rewriter, raw: Raw, path: str) -> Node:
    """``is-instance``, ``json-or-python`` and ``lax-or-strict``: a class of its own, or one form for each kind of input."""
    cls = _instance_class(raw)
    if cls is None:
        return rewriter.node(json_branch(raw), path)
    if cls in (OrderedDict, Counter):
        return dict_(rewriter, json_branch(raw)["schema"], path, cls=cls)
    if cls is defaultdict:
        factory = json_branch(raw)
        missing: functools.partial[Any] = factory["function"]["function"]
        return dict_(
            rewriter,
            factory["schema"],
            path,
            cls=defaultdict,
            make=functools.partial(defaultdict, missing.keywords.get("default_default_factory")),
        )
    if cls is deque:
        return items(rewriter, {**json_branch(raw)["schema"], "type": "deque"}, path)
    if getattr(cls, "_name", None) == "Sequence" or getattr(cls, "__name__", None) == "Sequence":
        item = raw.get("json_schema", {}).get("items_schema", {"type": "any"})
        forms = [{"type": "list", "items_schema": item}, {"type": "tuple", "items_schema": [item], "variadic_item_index": 0}]
        return union(rewriter, {"choices": forms}, path)
    kept = kept_class(cls) if isinstance(cls, type) else None
    if kept is None:
        raise SchemaError(f"{path}: {getattr(cls, '__qualname__', cls)} is not a class whose form in JSON is known. {INSTEAD}")
    return class_node(cls, kept, kept.load or _kept_branch(rewriter, json_branch(raw), path))


def _kept_branch(rewriter: Rewriter, raw: Raw, path: str) -> CoreSchema:
    """The way from JSON to the class that pydantic has, rewritten beneath."""
    if "schema" not in raw:
        raise SchemaError(f"{path}: a class with a validator of its own says nothing of its form in JSON. {INSTEAD}")
    inner = rewriter.node(raw["schema"], path)
    return cast("CoreSchema", {**function_of(raw), "schema": inner.schema})


def json_or_python(rewriter: Rewriter, raw: Raw, path: str) -> Node:
    """``Secret[T]``, or what `instance` knows."""
    serializer = raw.get("serialization", {}).get("function")
    if is_pydantic(serializer) and serializer.__name__ == "_serialize_secret":
        return _secret(rewriter, raw, path)
    return instance(rewriter, raw, path)


def _secret(rewriter: Rewriter, raw: Raw, path: str) -> Node:
    """``Secret[T]``: what it hides is written as T."""
    branch = raw["json_schema"]
    cls: type = inspect.getclosurevars(branch["function"]["function"]).nonlocals["cls"]
    inner = rewriter.node(branch["schema"], path)
    written = inner.schema
    return inner.but(
        schema={
            **function_of(branch),
            "schema": written,
            "serialization": dumped(lambda value: value.get_secret_value(), written),
        },
        label=cls.__name__,
        types=frozenset({cls}),
        deep=lambda value: inner.check(value.get_secret_value()),
        near=None,
        native=False,
        opaque="a secret does not belong in metadata, which stands in the clear",
    )


def wrapped(rewriter: Rewriter, raw: Raw, path: str) -> Node:
    """``default`` and ``custom-error``: the wrapper stays."""
    inner = rewriter.node(raw["schema"], path)
    kept = {
        name: value
        for name, value in raw.items()
        if name not in ("schema", "serialization", "metadata", "ref", "on_error", "strict")
    }
    if "default" in raw and not raw.get("validate_default") and not rewriter.config.get("validate_default"):
        rewriter.default(path, inner, raw["default"], plain=raw["schema"]["type"] in SCALARS)
    return inner.but(schema={**kept, "schema": inner.schema}, native=inner.native and raw["type"] == "default")


def json(rewriter: Rewriter, raw: Raw, path: str) -> Node:
    """``Json[T]`` holds a T: it is written as one."""
    return rewriter.node(raw.get("schema") or {"type": "any"}, path)


def any_(rewriter: Rewriter, raw: Raw, path: str) -> Node:
    """``Any``: each value brings its own tag."""
    del rewriter, raw, path
    return ANY


def chain(rewriter: Rewriter, raw: Raw, path: str) -> Node:
    """Validators one after the other."""
    nodes = [rewriter.node(each, path) for each in raw["steps"]]
    if set(nodes[0].types) != set(nodes[-1].types):
        raise SchemaError(f"{path}: a chain of validators that changes the type cannot be kept. {INSTEAD}")
    return nodes[-1].but(schema=core_schema.chain_schema([node.schema for node in nodes]), native=False)


def own_codec(raw: Raw, codec: Codec) -> Node:
    """``Sensitive(dump=…, load=…)``: the user's two functions in the place of the field's own validation."""
    dump, load = codec
    schema = {name: value for name, value in raw.items() if name != "serialization"}
    serializer = core_schema.plain_serializer_function_ser_schema(functools.partial(dumped_by_user, dump))
    loader = core_schema.no_info_plain_validator_function(lambda form: load(decode(form)), serialization=serializer)
    placed = cast("Raw", loader)
    if schema["type"] == "default":
        placed = {**schema, "schema": placed}
    return ANY.but(schema=placed, deep=None)


def dumped_by_user(dump: Callable[[Any], Any], value: Any) -> Any:
    """What a user's ``dump`` makes of a value, as `anything` writes it. Raise `Misfit` if it fails or gives what cannot be kept."""
    try:
        return encode(dump(value))
    except Misfit as misfit:
        problem = f"dump= gave a value that cannot be kept: {misfit.problem}"
    except Exception as error:  # noqa: BLE001 - the message may quote the value
        problem = f"dump= raised {type(error).__name__}"
    raise Misfit(problem)


def _url_class(raw: Raw) -> type | None:
    """The class behind pydantic's URL types: the serializer is a method of it."""
    serializer = raw.get("serialization", {}).get("function")
    if isinstance(serializer, MethodType) and serializer.__name__ == "serialize_url" and is_pydantic(serializer):
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
        return next((found for each in choices_of(raw) if (found := _instance_class(each)) is not None), None)
    return None


def json_branch(raw: Raw) -> Raw:
    """The schema by which JSON is validated."""
    kind = raw["type"]
    if kind == "lax-or-strict":
        lax: Raw = raw["lax_schema"]
        return json_branch(lax if lax["type"] not in ("function-plain", "union") else raw["strict_schema"])
    if kind == "json-or-python":
        # JsonValue: its JSON branch says "any", and its Python branch which types that can be
        return json_branch(raw["python_schema"] if raw["json_schema"]["type"] == "any" else raw["json_schema"])
    return raw
