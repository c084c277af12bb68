"""Lossless JSON for any pydantic model: what is loaded equals what was saved, or is refused.

`compile_plan` makes, once for each model, a private serializer and validator from a rewritten copy of its core schema
(`rewrite`), and a check that finds values of the wrong type (`node`). `schema` is the only user; nothing here knows what is
sensitive, sealed or stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar, get_args

from pydantic import BaseModel, PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError
from pydantic_core import SchemaSerializer, SchemaValidator, ValidationError, core_schema

from ..errors import SchemaError
from .node import Misfit, Node
from .rewrite import CONFIG, Codec, Rewriter

__all__ = ["Misfit", "Node", "Plan", "Unfit", "compile_plan"]

Model = TypeVar("Model", bound=BaseModel)
_CONTEXT: Final = {"mongo_envelope": "load"}
_PYDANTIC_ERRORS: Final = frozenset(get_args(core_schema.ErrorType))


class Unfit(Exception):  # noqa: N818 - never leaves the package: schema raises PayloadError in its place
    """JSON that does not fit the model. Its text names fields and kinds of error, never a value."""


@dataclass(frozen=True, slots=True)
class Plan(Generic[Model]):
    """The compiled form of one model."""

    root: Node
    fields: Mapping[str, Node]  #: by field name
    computed: Mapping[str, Node]  #: what the computed fields return, by name
    names: frozenset[str]
    _serializer: SchemaSerializer
    _validator: SchemaValidator

    def dump(self, model: Model) -> bytes:
        """One UTF-8 JSON object: every field that is not left out. Raise `Misfit` for a value that cannot be kept."""
        problem = "a value that JSON cannot hold"
        try:
            self.root.check(model)
            return self._serializer.to_json(model, warnings="none")
        except Misfit as misfit:
            problem = str(misfit)
        except RecursionError:
            problem = "nested too deeply, or inside itself"
        except Exception as error:  # noqa: BLE001 - a serializer's message quotes the value; so would its __context__
            problem += f" ({type(error).__name__})"
        raise Misfit(problem)

    def load(self, json: bytes) -> Model:
        """The model, its own validators run. Raise `Unfit` where the JSON does not fit it (any more)."""
        try:
            loaded: Model = self._validator.validate_json(json, context=_CONTEXT)
        except ValidationError as error:
            problem = "; ".join(self._described(each) for each in _errors(error)[:8])
        except Exception as error:  # noqa: BLE001 - a user's validator may raise anything, with the value in its message
            problem = f"a validator raised {type(error).__name__}"
        else:
            return loaded
        raise Unfit(problem)

    def _described(self, error: Any) -> str:
        """Field names of the schema and positions in lists; what else stands in a path is content, and shown as ``[*]``."""
        steps = [
            f"[{step}]" if isinstance(step, int) else f".{step}" if step in self.names else "[*]" for step in error["loc"]
        ]
        kind = error["type"] if error["type"] in _PYDANTIC_ERRORS else "custom error"
        return f"{''.join(steps).removeprefix('.') or 'the model'}: {kind}"


def _errors(error: ValidationError) -> list[Any]:
    return list(error.errors(include_url=False, include_context=False, include_input=False))


def compile_plan(
    model: type[Model], *, codecs: Mapping[str, Codec] | None = None, leave_out: frozenset[str] = frozenset()
) -> Plan[Model]:
    """Compile a model. ``codecs``: (dump, load) of fields that bring their own; ``leave_out``: fields that `Plan.dump` omits.

    Raise `SchemaError` for a type that cannot be kept.
    """
    schema = _core_schema(model)
    rewriter = Rewriter(model, codecs=codecs or {}, leave_out=leave_out)
    root = rewriter.rewrite(schema)
    # Without _use_prebuilt=False pydantic-core takes each class's own serializer and validator instead of the rewritten ones.
    return Plan(
        root=root,
        fields=rewriter.fields,
        computed=rewriter.computed,
        names=frozenset(rewriter.names),
        _serializer=SchemaSerializer(root.schema, CONFIG, _use_prebuilt=False),
        _validator=SchemaValidator(root.schema, CONFIG, _use_prebuilt=False),
    )


def _core_schema(model: type[BaseModel]) -> Any:
    try:
        model.model_rebuild()
    except (PydanticUndefinedAnnotation, PydanticSchemaGenerationError, PydanticUserError) as error:
        raise SchemaError(f"{model.__name__}: pydantic cannot build this model: {error}") from error
    return model.__pydantic_core_schema__
