"""Lossless JSON for any pydantic model: what is loaded equals what was saved, or is refused.

`Rewritten(model).compile()` makes, once for each model, a private serializer and validator from a rewritten copy of its core schema
(`rewrite`), and a check that finds values of the wrong type (`node`). `schema` is the only user; nothing here knows what is
sensitive, sealed or stored.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar, get_args

import pydantic
import pydantic_core
from pydantic import BaseModel, PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError, field_serializer
from pydantic_core import SchemaSerializer, SchemaValidator, ValidationError, core_schema, from_json

from mongo_envelope.errors import SchemaError

from .changing import assigned
from .depth import is_shallow
from .leaves import kept
from .node import Misfit, Node
from .reading import CONFIG, LOAD, Codec
from .rewrite import Rewriter
from .wrappers import dumped_by_user

__all__ = ["Misfit", "Node", "Plan", "Rewritten", "Unfit", "check_depth", "core_schema_of"]

Model = TypeVar("Model", bound=BaseModel)
T = TypeVar("T")
#: So many brackets may be nested deeper than pydantic's parser goes (200 levels).
_DEEP: Final = 150
_PYDANTIC_ERRORS: Final = frozenset(get_args(core_schema.ErrorType))


class Unfit(Exception):
    """JSON that does not fit the model. Its text names fields and kinds of error, never a value."""


@dataclass(frozen=True, slots=True)
class Plan(Generic[Model]):
    """The compiled form of one model."""

    root: Node
    names: frozenset[str]
    _codecs: Mapping[str, Codec]
    _serializer: SchemaSerializer
    _validator: SchemaValidator
    shallow: bool  #: no value is nested so deeply that its JSON has to be looked at
    moments: tuple[str, ...]  #: fields with moments that may be left out, too, if BSON keeps every one of them
    _without_moments: SchemaSerializer

    @property
    def alone(self) -> bool:
        """Whether no function of the model's sees all of its values while it is loaded: none around it, and none after it."""
        schema: Any = self.root.schema
        return schema["type"] == "model" and not schema.get("post_init") and schema["schema"]["type"] == "model-fields"

    def dump(self, model: Model) -> bytes:
        """One UTF-8 JSON object: every field that is not left out. Raise `Misfit` for a value that cannot be kept."""
        try:
            self.root.check(model)
            json = self.serializer_of(model.__dict__).to_json(model, warnings=False)
            if not self.shallow:
                check_depth(json)
        except Misfit as misfit:
            found = misfit
        except RecursionError:
            found = Misfit("nested too deeply, or inside itself")
        except Exception as error:  # noqa: BLE001 - a serializer's message quotes the value; so would its __context__
            found = Misfit(f"a value that JSON cannot hold ({type(error).__name__})")
            names = [name for name in type(model).model_fields if not self._holds(model, name)]
            if len(names) == 1:
                found = self._explained(model, names[0], found).inside(f".{names[0]}")
        else:
            return json
        raise found

    def serializer_of(self, values: Mapping[str, Any]) -> SchemaSerializer:
        """The one for an instance with these values."""
        for name in self.moments:
            if not kept(values[name]):
                return self._serializer
        return self._without_moments

    def _explained(self, model: Model, name: str, found: Misfit) -> Misfit:
        """What a user's own ``dump`` did, which pydantic-core's error tells in words that may quote the value."""
        if name in self._codecs:
            try:
                dumped_by_user(self._codecs[name][0], model.__dict__[name])
            except Misfit as misfit:
                return misfit
        return found

    def _holds(self, model: Model, name: str) -> bool:
        """Whether JSON can hold the value of one field."""
        try:
            self._serializer.to_json(model, include={name}, warnings=False)
        except Exception:  # noqa: BLE001 - as in `dump`
            return False
        return True

    def load(self, json: bytes) -> Model:
        """The model, its own validators run. Raise `Unfit` where the JSON does not fit it (any more)."""
        loaded: Model = self._validated(lambda: self._validator.validate_json(json, context=LOAD), lambda: _parsed(json))
        return loaded

    def changed(self, model: Model, changes: Mapping[str, Any]) -> Model:
        """A copy with some fields changed, each of them validated. Raise `Unfit`."""
        values = self._validated(lambda: assigned(model, changes), lambda: changes)
        return model.model_copy(update=values)

    def _validated(self, validate: Callable[[], T], given: Callable[[], Any]) -> T:
        try:
            valid = validate()
        except ValidationError as error:
            problem = "; ".join(self._described(each, given()) for each in _errors(error)[:8])
        except Exception as error:  # noqa: BLE001 - a user's validator may raise anything, with the value in its message
            problem = f"a validator raised {type(error).__name__}"
        else:
            return valid
        raise Unfit(problem)

    def _described(self, error: Any, given: Any) -> str:
        """Field names of the schema and positions in lists; what else stands in a path is content, and shown as ``[*]``.

        A number is a position if ``given``, what was validated, has a list there that is so long; otherwise it is a dict's key.
        """
        steps = []
        for step in error["loc"]:
            is_position = isinstance(step, int) and isinstance(given, list | tuple) and 0 <= step < len(given)
            steps.append(f"[{step}]" if is_position else f".{step}" if step in self.names else "[*]")
            if is_position or (isinstance(given, Mapping) and step in given):
                given = given[step]  # other steps name a form that was tried
        kind = error["type"] if error["type"] in _PYDANTIC_ERRORS else "custom error"
        return f"{''.join(steps).removeprefix('.') or 'the model'}: {kind}"


def _parsed(json: bytes) -> Any:
    """JSON that did not fit, for the path of the error; None if it is not JSON."""
    try:
        return from_json(json)
    except ValueError:
        return None


def check_depth(json: bytes) -> None:
    """Raise `Misfit` for JSON that the serializer wrote, and the parser, which goes less deep, would not read."""
    if json.count(b"[") + json.count(b"{") <= _DEEP:
        return
    try:
        from_json(json)
    except ValueError:
        pass
    else:
        return
    raise Misfit("nested deeper than the parser goes, so that it could never be loaded")


def _errors(error: ValidationError) -> list[Any]:
    return list(error.errors(include_url=False, include_context=False, include_input=False))


class Rewritten(Generic[Model]):
    """A model whose places are known, before it is decided which of its fields are written."""

    def __init__(self, model: type[Model], *, codecs: Mapping[str, Codec] | None = None) -> None:
        """Rewrite. ``codecs``: (dump, load) of fields that bring their own. Raise `SchemaError` for what cannot be kept."""
        self._model = model
        self._rewriter = Rewriter(model, core_schema_of(model), codecs=codecs or {})
        self.fields: Mapping[str, Node] = self._rewriter.fields  #: by field name
        self.computed: Mapping[str, Node] = self._rewriter.computed  #: what the computed fields return, by name

    def compile(self, *, leave_out: Iterable[str] = (), moments: Iterable[str] = ()) -> Plan[Model]:
        """Compile, once. `Plan.dump` does not write the fields ``leave_out``; `Plan.load` reads them if they are there.

        Nor does it write the fields ``moments``, datetimes, if BSON keeps the value of every one of them. Of a name that is in the
        JSON twice `Plan.load` reads the last.
        """
        _check_pydantic()
        return self._compile(leave_out, tuple(moments))

    def _compile(self, leave_out: Iterable[str], moments: tuple[str, ...] = ()) -> Plan[Model]:
        self._rewriter.leave_out(leave_out)
        root = self._rewriter.root
        # Without _use_prebuilt=False pydantic-core takes each class's own serializer and validator, not the rewritten ones.
        problem = None
        try:
            serializer = SchemaSerializer(root.schema, CONFIG, _use_prebuilt=False)
            self._rewriter.leave_out(moments)
            return Plan(
                root,
                frozenset(self._rewriter.names),
                self._rewriter.codecs,
                serializer,
                SchemaValidator(root.schema, CONFIG, _use_prebuilt=False),
                is_shallow(root.schema),
                moments,
                SchemaSerializer(root.schema, CONFIG, _use_prebuilt=False) if moments else serializer,
            )
        except pydantic_core.SchemaError as error:
            problem = error
        raise SchemaError(f"{self._model.__name__}: pydantic-core cannot build the rewritten schema: {problem}")


class _Masked(BaseModel):
    secret: str

    @field_serializer("secret")
    def _mask(self, _: str) -> str:
        return "***"


class _Canary(BaseModel):
    nested: _Masked


@functools.cache
def _check_pydantic() -> None:
    """Once in a process: this pydantic builds what we rewrote. If it put the classes' own serializers in, secrets would be lost."""
    canary = _Canary(nested=_Masked(secret="kept"))  # noqa: S106 - nothing secret
    plan = Rewritten(_Canary)._compile(())
    twice = b'{"nested":1,' + plan.dump(canary)[1:]
    if plan.dump(canary) != b'{"nested":{"secret":"kept"}}' or not plan.load(plan.dump(canary)) == plan.load(twice) == canary:
        raise SchemaError(f"pydantic {pydantic.VERSION} does not build rewritten schemas: this version cannot be used")


def core_schema_of(model: type[BaseModel]) -> Any:
    """The model's core schema, its forward references resolved. Raise `SchemaError` if pydantic cannot build it."""
    try:
        model.model_rebuild()
    except (PydanticUndefinedAnnotation, PydanticSchemaGenerationError, PydanticUserError) as error:
        raise SchemaError(f"{model.__name__}: pydantic cannot build this model: {error}") from error
    return model.__pydantic_core_schema__
