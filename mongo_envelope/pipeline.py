"""What an aggregation pipeline may do with sealed documents. Pure: stages in, stages for MongoDB out.

    compile_pipeline(schema, [{"$match": {"tenant": "acme"}}, {"$group": {"_id": "$city", "n": {"$sum": 1}}}], match)

The rule: what comes out is what the same pipeline gives over a collection in which every field stands in the clear under its name
in the model, and ``_id`` for the id. What cannot be so is a `QueryError`, with the stage, the field and the way out. A pipeline
goes through up to three kinds of documents:

whole       the sealed documents. Names are the model's, and are rewritten to the stored ones; these are not understood, but by
            ``match``. The caller verifies and opens them.
clear       a ``$project`` that was put in has left the fields in the clear, under the model's names. A stage such as ``$unwind``
            or ``$set`` works on these. The same pipeline in the clear would still have the other fields, too: so it may not
            end here, and has to say what comes out.
own         what the pipeline has named itself, by ``$group`` or ``$project``, say. From here on all of MongoDB is as usual.

The id comes out as ``_id``, as ``$group`` and ``$project`` give it everywhere else; while documents are whole, its name in the
model is understood. What is not whole is not verified: nobody can tell a count or a sum that somebody has forged.

Source: the MongoDB manual, "Aggregation Stages".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bson import Decimal128

from .answer import has_operators
from .envelope import encodes
from .errors import QueryError
from .expression import ACCUMULATORS, compile_expression, near_names, operator_of
from .places import OPERATORS, stored_name
from .query import compile_sort
from .schema import Schema, StoredField, unknown_field

__all__ = ["Compiled", "compile_pipeline"]

Match = Callable[[Mapping[str, Any]], dict[str, Any]]

_LOGICAL: Final = frozenset({"$and", "$or", "$nor"})
_ANOTHER_COLLECTION: Final = (
    "reads another collection, whose documents are sealed as well, or not looked at here. Load both through their repositories, "
    "and join them in Python"
)
_WRITES: Final = "would write past the repository: nothing would be sealed. Take what comes out, and save it"
_OWN_SHAPE: Final = "gives documents whose names are known to the server alone. Name what comes out, with $project"
#: Stages that are known, and why they are not served. Others are just not served.
_REFUSED: Final = {
    "$lookup": _ANOTHER_COLLECTION,
    "$graphLookup": _ANOTHER_COLLECTION,
    "$unionWith": _ANOTHER_COLLECTION,
    "$out": _WRITES,
    "$merge": _WRITES,
    "$replaceRoot": _OWN_SHAPE,
    "$replaceWith": _OWN_SHAPE,
    "$redact": "decides by the whole document, and what is sensitive stands in it encrypted. Use $match",
}


@dataclass(frozen=True, slots=True)
class Compiled:
    """A pipeline for MongoDB."""

    stages: list[dict[str, Any]]
    whole: bool  #: whether sealed documents come out, for the caller to verify and open. Otherwise dicts


def compile_pipeline(schema: Schema[Any], pipeline: Sequence[Mapping[str, Any]], match: Match) -> Compiled:
    """The pipeline for MongoDB; ``match`` compiles a filter on whole documents. Raise `QueryError`."""
    try:
        line = _Line(schema, match)
        line.add_all(pipeline)
    except RecursionError:
        pass
    else:
        if line.kind == _CLEAR:
            raise QueryError(line.unfinished("the pipeline"))
        return Compiled(line.stages, whole=line.kind == _WHOLE)
    raise QueryError("a pipeline that is nested too deeply, or inside itself")


_WHOLE: Final = "whole"
_CLEAR: Final = "clear"
_OWN: Final = "own"
#: A name of the pipeline's own, beneath which there may be anything.
_ANYTHING: Final = None


class _Line:
    """The stages so far, and what is known of the documents that come out of them."""

    def __init__(self, schema: Schema[Any], match: Match, above: _Line | None = None) -> None:
        self.stages: list[dict[str, Any]] = []
        self.kind = _WHOLE
        self._schema = schema
        self._match_whole = match
        self._in_facet = above is not None
        #: once they are not whole: each name at the top, and what may stand beneath
        self._names: dict[str, frozenset[str] | None] = {}
        #: of these, the fields of the model that are still what they were
        self._fields: frozenset[str] = frozenset()
        if above is not None:
            self.kind, self._names, self._fields = above.kind, dict(above._names), above._fields

    def add_all(self, pipeline: object) -> None:
        """Compile the stages of a pipeline."""
        if not isinstance(pipeline, list | tuple):
            raise QueryError(f"a pipeline is a list of stages, not a {type(pipeline).__name__}")
        for stage in pipeline:
            self._add(*_taken_apart(stage))

    def _add(self, name: str, operand: Any) -> None:
        serve = _STAGES.get(name)
        if serve is None:
            raise QueryError(_not_served(name))
        try:
            serve(self, operand)
        except QueryError as error:
            problem = str(error)
        else:
            return
        raise QueryError(f"{name}: {problem}")

    def unfinished(self, what: str) -> str:
        """What to say if these documents may not come out."""
        fields = ", ".join(f'"{name}": 1' for name in self._names) or '"_id": 1'
        return (
            f"{what} ends with documents of which only a part stands in the clear. "
            f'Name what shall come out, at the end: {{"$project": {{{fields}}}}}, or $group'
        )

    # --- names --------------------------------------------------------------------------------------------------------

    def resolve(self, path: str) -> str:
        """What a field is called in the documents that come in, dotted or not. Raise `QueryError`."""
        top, *steps = path.split(".")
        if self.kind != _OWN and self._schema.field(top) is None and top in self._schema.sensitive:
            raise QueryError(self._sensitive(top))
        if self.kind == _WHOLE:
            self._check_meant(top)
            return stored_name(self._schema, path)
        if top not in self._names:
            raise QueryError(self._unknown(top))
        if top in self._fields:
            stored_name(self._schema, path)  # looks for the names beneath
        beneath = self._names[top]
        if beneath is not _ANYTHING and steps and steps[0] not in beneath:
            raise QueryError(unknown_field(top, steps[0], beneath, f"It has {', '.join(sorted(beneath)) or 'none'}"))
        if any(not _is_name(step) for step in steps):
            raise QueryError(f"{top}: a dotted path goes on with what is no name")
        return path

    def _check_meant(self, name: str) -> None:
        """A stored name is none of the model's: in the clear, nothing would be found under it."""
        field = self._schema.field(name)
        if field is not None and name not in (field.name, _out(field)):
            raise QueryError(f"{name} is called {_out(field)} here")

    def _sensitive(self, name: str) -> str:
        return (
            f"{self._schema.model.__name__}.{name} is sensitive: it is stored encrypted, and MongoDB cannot compute with it. "
            "Mark it Queryable() if it may stand in the clear, or load the documents and compute in Python"
        )

    def _unknown(self, name: str) -> str:
        field = self._schema.field(name)
        if field is not None and _out(field) in self._names:
            return f"{name} is called {_out(field)} here"
        there = f"Its names: {', '.join(self._names)}" if self._names else "It has no names"
        return unknown_field("what comes out of the stage before", name, self._names, there)

    def _expression(self, given: Any) -> Any:
        return compile_expression(self.resolve, given)

    def _check_written(self, path: str) -> None:
        """A name that is set from here on. In the clear, a field of the name would be there already, and hold other parts."""
        top, *steps = path.split(".")
        if not all(map(_is_name, [top, *steps])):
            raise QueryError("a name that is set is text: not empty, without leading $ and NUL, dots only between names")
        if self.kind == _OWN:
            return
        model = self._schema.model
        if self._schema.field(top) is None and top in self._schema.sensitive:
            raise QueryError(f"{model.__name__}.{top} is sensitive, and stored encrypted. Give what is computed another name")
        if steps and top not in self._names and model.model_config.get("extra") == "allow":
            raise QueryError(f"{top}: the model keeps extra values, encrypted, and this may be one. Set a name without dots")

    def _leave_clear(self) -> None:
        """From whole documents, only the fields in the clear, under the model's names."""
        if self.kind != _WHOLE:
            return
        fields = {_out(field): field.stored for field in self._schema.stored}
        self.stages.append({"$project": {name: 1 if name == stored else f"${stored}" for name, stored in fields.items()}})
        self.kind, self._names, self._fields = _CLEAR, dict.fromkeys(fields, _ANYTHING), frozenset(fields)

    def _become(self, names: Mapping[str, frozenset[str] | None], fields: Iterable[str] = ()) -> None:
        """From here on, only these names, which the pipeline has given itself."""
        self.kind, self._names, self._fields = _OWN, dict(names), frozenset(fields)

    # --- stages that leave documents as they are ----------------------------------------------------------------------

    def _match(self, given: Any) -> None:
        if not isinstance(given, Mapping):
            raise QueryError(f"takes a filter, a dict of names and conditions, not a {type(given).__name__}")
        compiled = self._match_whole(given) if self.kind == _WHOLE else _filter(self.resolve, given)
        self.stages.append({"$match": compiled})

    def _sort(self, given: Any) -> None:
        if not isinstance(given, Mapping) or not given:
            raise QueryError("takes a dict of names and directions, with at least one in it")
        if self.kind == _WHOLE:
            for name in given:
                self._check_meant(_text(name).partition(".")[0])
            self.stages.append({"$sort": dict(compile_sort(self._schema, given))})
            return
        for name, direction in given.items():
            if type(direction) is not int or direction not in (1, -1):
                raise QueryError(f"{str(name)[:64]}: a direction is 1 or -1")
        self.stages.append({"$sort": {self.resolve(_text(name)): direction for name, direction in given.items()}})

    def _skip(self, given: Any) -> None:
        self.stages.append({"$skip": _number(given, 0)})

    def _limit(self, given: Any) -> None:
        self.stages.append({"$limit": _number(given, 1)})

    def _sample(self, given: Any) -> None:
        self.stages.append({"$sample": {"size": _number(_arguments(given, ("size",))["size"], 1)}})

    # --- stages that name what comes out ------------------------------------------------------------------------------

    def _count(self, given: Any) -> None:
        name = _new_name(given)
        self.stages.append({"$count": name})
        self._become({name: _ANYTHING})

    def _sort_by_count(self, given: Any) -> None:
        if operator_of(given) is None and not (isinstance(given, str) and given.startswith("$")):
            raise QueryError('takes a field as "$name", or an expression')
        self.stages.append({"$sortByCount": self._expression(given)})
        self._become({"_id": _ANYTHING, "count": _ANYTHING})

    def _group(self, given: Any) -> None:
        if not isinstance(given, Mapping) or "_id" not in given:
            raise QueryError("takes a dict with _id, what to group by, which may be None; and names with accumulators")
        key = given["_id"]
        beneath = frozenset(key) if isinstance(key, Mapping) and operator_of(key) is None else _ANYTHING
        others = {name: each for name, each in given.items() if name != "_id"}
        self.stages.append({"$group": {"_id": self._expression(key), **self._accumulated(others)}})
        self._become({"_id": beneath, **dict.fromkeys(others, _ANYTHING)})

    def _accumulated(self, given: Any) -> dict[str, Any]:
        if not isinstance(given, Mapping):
            raise QueryError('computes a dict of names and accumulators, such as {"n": {"$sum": 1}}')
        return {_new_name(name): self._accumulator(name, each) for name, each in given.items()}

    def _accumulator(self, name: str, given: Any) -> Any:
        operator = operator_of(given)
        if operator is None:
            raise QueryError(f'{name[:64]}: takes an accumulator, such as {{"$first": "$name"}} or {{"$sum": 1}}')
        compiled = self._expression(given)  # which has more to say of some
        if operator not in ACCUMULATORS:
            raise QueryError(f"{name[:64]}: {operator[:64]} is no accumulator. {near_names(operator, ACCUMULATORS)}")
        return compiled

    def _bucket(self, given: Any) -> None:
        self._into_buckets("$bucket", _arguments(given, ("groupBy", "boundaries"), ("default", "output")), _ANYTHING)

    def _bucket_auto(self, given: Any) -> None:
        given = _arguments(given, ("groupBy", "buckets"), ("output", "granularity"))
        self._into_buckets("$bucketAuto", given, frozenset({"min", "max"}))

    def _into_buckets(self, stage: str, given: Mapping[str, Any], beneath: frozenset[str] | None) -> None:
        compiled = {name: self._accumulated(each) if name == "output" else self._expression(each) for name, each in given.items()}
        self.stages.append({stage: compiled})
        self._become({"_id": beneath, **dict.fromkeys(compiled.get("output", ["count"]), _ANYTHING)})

    def _facet(self, given: Any) -> None:
        if self._in_facet:
            raise QueryError("stands inside another $facet, which MongoDB does not allow")
        if not isinstance(given, Mapping) or not given:
            raise QueryError("takes a dict of names and pipelines, with at least one in it")
        self.stages.append({"$facet": {_new_name(name): self._branch(name, each) for name, each in given.items()}})
        self._become(dict.fromkeys(given, _ANYTHING))

    def _branch(self, name: str, pipeline: Any) -> list[dict[str, Any]]:
        branch = _Line(self._schema, self._match_whole, above=self)
        try:
            branch.add_all(pipeline)
            branch._leave_clear()
            problem = branch.unfinished("the pipeline") if branch.kind == _CLEAR else None
        except QueryError as error:
            problem = str(error)
        if problem is not None:
            raise QueryError(f"{name[:64]}: {problem}")
        return branch.stages

    # --- stages that change some names --------------------------------------------------------------------------------

    def _unwind(self, given: Any) -> None:
        self._leave_clear()
        of = {"path": given} if isinstance(given, str) else given
        of = dict(_arguments(of, ("path",), ("includeArrayIndex", "preserveNullAndEmptyArrays")))
        path, index = of["path"], of.get("includeArrayIndex")
        if not isinstance(path, str) or not path.startswith("$") or path.startswith("$$"):
            raise QueryError('takes the path of an array, as "$name"')
        if not isinstance(of.get("preserveNullAndEmptyArrays", False), bool):
            raise QueryError("preserveNullAndEmptyArrays is True or False")
        of["path"] = "$" + self.resolve(path[1:])
        self.stages.append({"$unwind": of})
        if index is not None:
            self._check_written(_text(index))
            self._have_set(index)

    def _set(self, given: Any) -> None:
        self._leave_clear()
        if not isinstance(given, Mapping) or not given:
            raise QueryError("takes a dict of names and expressions, with at least one in it")
        compiled = {}
        for name, value in given.items():
            for path, _ in _leaves(_text(name), value):
                self._check_written(path)
            compiled[name] = self._expression(value)
        self.stages.append({"$set": compiled})
        for name in compiled:
            self._have_set(name)

    def _have_set(self, name: str) -> None:
        top = name.partition(".")[0]
        self._names[top] = _ANYTHING
        self._fields -= {top}

    def _unset(self, given: Any) -> None:
        self._leave_clear()
        names = [given] if isinstance(given, str) else given
        if not isinstance(names, list | tuple) or not names:
            raise QueryError("takes a name, or a list of names")
        self.stages.append({"$unset": [self.resolve(_text(name)) for name in names]})
        self._drop(names)

    def _drop(self, names: Iterable[str]) -> None:
        for name in names:
            self._names.pop(name, None)
        self._fields &= self._names.keys()

    # --- $project -----------------------------------------------------------------------------------------------------

    def _project(self, given: Any) -> None:
        if not isinstance(given, Mapping) or not given:
            raise QueryError('takes a dict of what comes out, such as {"name": 1, "total": {"$sum": "$list"}}')
        leaves = [leaf for name, value in given.items() for leaf in _leaves(_text(name), value)]
        if any(isinstance(value, Decimal128) for _, value in leaves):  # MongoDB takes it for 1 or 0
            raise QueryError("says what comes out by 1 or True. A Decimal128 as a value is written {$literal: …}")
        if _excludes(leaves, "_id" if self.kind != _WHOLE else self._schema.identity.name):
            self._project_out(given, leaves)
        elif self.kind == _WHOLE and all("." not in path for path, _ in leaves):
            self._project_whole(given)
        else:  # beneath a field, MongoDB looks into arrays only along the name that comes out
            self._leave_clear()
            self._project_in(given)

    def _project_out(self, given: Mapping[str, Any], leaves: list[tuple[str, Any]]) -> None:
        if self.kind != _OWN:
            raise QueryError("what is left out is said, and not what comes out. Name that, with 1 for a field as it is")
        for path, _ in leaves:
            if path != "_id":
                self.resolve(path)
        self.stages.append({"$project": dict(given)})
        self._drop(name for name, value in given.items() if _is_flag(value))

    def _project_whole(self, given: Mapping[str, Any]) -> None:
        shown = [self._shown_of_whole(name, value) for name, value in given.items()]
        compiled = dict(shown)
        if len(compiled) != len(shown):
            raise QueryError(f"the id comes out twice, as {self._schema.identity.name} and as _id")
        computed = {name for name, value in given.items() if not _is_flag(value)}
        self._fields = frozenset(_out(field) for field in self._schema.stored)
        self._projected(compiled, {"_id", *compiled}, computed)

    def _shown_of_whole(self, name: str, value: Any) -> tuple[str, Any]:
        """The name under which a value comes out, and what it is."""
        if not _is_flag(value):
            self._check_written(name)
            return name, self._expression(value)
        stored, field = self.resolve(name), self._schema.field(name)
        out = name if field is None else _out(field)
        return out, 0 if not value else 1 if out == stored else f"${stored}"

    def _project_in(self, given: Mapping[str, Any]) -> None:
        compiled = {name: self._shown(name, value) for name, value in given.items()}
        tops = {name.partition(".")[0] for name in given}
        changed = {name.partition(".")[0] for name, value in given.items() if not _is_flag(value) or "." in name}
        self._projected(compiled, tops | (self._names.keys() & {"_id"}), changed)

    def _shown(self, path: str, value: Any) -> Any:
        """One value of a $project: 1 or 0, an expression, or an object of these."""
        if _is_flag(value):
            if value or path != "_id":
                self.resolve(path)
            return int(bool(value))
        if isinstance(value, Mapping) and value and operator_of(value) is None:
            return {_text(step): self._shown(f"{path}.{step}", each) for step, each in value.items()}
        self._check_written(path)
        return self._expression(value)

    def _projected(self, compiled: dict[str, Any], names: Iterable[str], changed: Iterable[str]) -> None:
        """``names`` come out, unless they are left out; those of ``changed`` are not what they were."""
        self.stages.append({"$project": compiled})
        left = [name for name in names if not _is_flag(compiled.get(name)) or compiled[name]]
        same = set(left).difference(changed)
        beneath = {name: self._names.get(name) if name in same else _ANYTHING for name in left}
        self._become(beneath, self._fields & same)


_STAGES: Final[dict[str, Callable[[_Line, Any], None]]] = {
    "$addFields": _Line._set,
    "$bucket": _Line._bucket,
    "$bucketAuto": _Line._bucket_auto,
    "$count": _Line._count,
    "$facet": _Line._facet,
    "$group": _Line._group,
    "$limit": _Line._limit,
    "$match": _Line._match,
    "$project": _Line._project,
    "$sample": _Line._sample,
    "$set": _Line._set,
    "$skip": _Line._skip,
    "$sort": _Line._sort,
    "$sortByCount": _Line._sort_by_count,
    "$unset": _Line._unset,
    "$unwind": _Line._unwind,
}


# ---------------------------------------------------------------------------------------------------------------------
# Stages, and what stands in them.


def _taken_apart(stage: object) -> tuple[str, Any]:
    if not isinstance(stage, Mapping) or len(stage) != 1:
        raise QueryError('a stage is a dict with one name in it, such as {"$limit": 5}')
    [(name, operand)] = stage.items()
    return _text(name), operand


def _not_served(name: str) -> str:
    if name in _REFUSED:
        return f"{name} is not served: it {_REFUSED[name]}"
    return f"{name[:64]} is not a stage that is served. {near_names(name, _STAGES)}"


def _arguments(given: object, required: Iterable[str], optional: Iterable[str] = ()) -> Mapping[str, Any]:
    allowed = [*required, *optional]
    if not isinstance(given, Mapping) or not set(required) <= given.keys() <= set(allowed):
        raise QueryError(f"takes a dict of {', '.join(allowed)}")
    return given


def _number(given: object, least: int) -> int:
    if not isinstance(given, int) or isinstance(given, bool) or not least <= given < 1 << 63:
        raise QueryError(f"takes an int, {least} or more")
    return given


def _text(name: object) -> str:
    if not isinstance(name, str):
        raise QueryError(f"names are text, and this is a {type(name).__name__}")
    return name


def _is_name(step: str) -> bool:
    """Whether it can be one name of a path."""
    return bool(step) and not step.startswith("$") and encodes({step: None})


def _new_name(name: object) -> str:
    if not isinstance(name, str) or not _is_name(name) or "." in name:
        raise QueryError("a name that comes out is text: not empty, without leading $, dots and NUL")
    return name


def _out(field: StoredField) -> str:
    """The name under which a field comes out."""
    return "_id" if field.stored == "_id" else field.name


def _is_flag(value: object) -> bool:
    """Whether a value of a $project says "as it is" or "left out": to MongoDB every number does."""
    return isinstance(value, int | float)


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What is set at the end of each path: an object without an operator is a path that goes on."""
    if isinstance(value, Mapping) and value and operator_of(value) is None:
        for step, each in value.items():
            yield from _leaves(f"{path}.{_text(step)}", each)
    else:
        yield path, value


def _excludes(leaves: list[tuple[str, Any]], identity: str) -> bool:
    """Whether a $project says what is left out. The id may be left out of one that says what comes out."""
    ids = {"_id", identity}
    others = [value for path, value in leaves if path not in ids] or [value for _, value in leaves]
    out = [_is_flag(value) and not value for value in others]
    if any(out) and not all(out):
        raise QueryError("says what comes out and what is left out at once. Name what comes out, and nothing else but _id: 0")
    return any(out)


# ---------------------------------------------------------------------------------------------------------------------
# A filter on the pipeline's own names. Values are of no model's types, and pass as they are.


def _filter(resolve: Callable[[str], str], given: object) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise QueryError(f"a filter is a dict of names and conditions, not a {type(given).__name__}")
    compiled: dict[str, Any] = {}
    for name, condition in given.items():
        if name in _LOGICAL:
            if not isinstance(condition, list | tuple) or not condition:
                raise QueryError(f"{name} takes a list of filters with at least one in it")
            compiled[name] = [_filter(resolve, each) for each in condition]
        elif name == "$expr":
            compiled[name] = compile_expression(resolve, condition)
        elif _text(name).startswith("$"):
            raise QueryError(f"{name[:64]} is not served at the top of a filter. {near_names(name, {'$expr', *_LOGICAL})}")
        else:
            compiled[resolve(name)] = _condition(name, condition)
    return compiled


def _condition(name: str, given: Any) -> Any:
    if not has_operators(given):
        return _compared(name, given)
    compiled = {}
    for operator, operand in given.items():
        if operator not in OPERATORS:
            raise QueryError(f"{name}: {str(operator)[:64]} is not served in a filter. {near_names(str(operator), OPERATORS)}")
        compiled[operator] = _operand(name, operator, operand)
    return compiled


def _operand(name: str, operator: str, given: Any) -> Any:
    if operator == "$not" and not isinstance(given, re.Pattern):
        return _condition(name, given)
    if operator != "$elemMatch":
        return _compared(name, given)
    if has_operators(given) and not given.keys() & _LOGICAL:
        return _condition(name, given)
    return _filter(_text, given)


def _compared(name: str, given: Any) -> Any:
    if not encodes(given):
        raise QueryError(
            f"{name}: a value that BSON cannot hold. Here it is compared as it is stored: with a Decimal128 for a Decimal, "
            "a datetime for a date, milliseconds for a timedelta, .value for an Enum"
        )
    return given
