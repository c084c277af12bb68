"""What a model's fields are to the database: `Schema.of(model)` reads the markers once and refuses what cannot be kept.

    email: Annotated[str, Sensitive()]      in the encrypted payload
    notes: str                              so is every field without a marker: the default fails closed
    tenant: Annotated[str, Queryable()]     in the clear, for queries; authenticated like everything else
    id: UUID                                the document's _id, in the clear

`split` takes a model apart into metadata and payload, `join` puts it together again; `codec` seals and opens in between.
How values become JSON without loss is `lossless`.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from types import UnionType
from typing import Annotated, Any, Final, Generic, TypeVar, Union, get_args, get_origin
from uuid import UUID

import bson
import pydantic_core
import typing_extensions
from bson import Int64, ObjectId
from pydantic import AliasChoices, BaseModel, RootModel
from pydantic.fields import ComputedFieldInfo, FieldInfo
from pydantic.types import EncodedBytes, EncodedStr

from . import envelope
from .blind import BlindIndex, Bucket, Definition, several
from .errors import MalformedEnvelopeError, PayloadError, QueryError, SchemaError
from .indexes import definitions
from .lossless import Misfit, Node, Plan, Rewritten, Unfit, core_schema_of
from .lossless.changing import alone
from .lossless.leaves import project_datetime

__all__ = ["Queryable", "Schema", "Sensitive", "StoredField", "plain", "unknown_field"]

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Queryable:
    """Marks a field that stands in the clear, so that MongoDB can search and sort by it. It is authenticated, not hidden.

    ``name``: the stored name (default: the field's own). ``index``: whether `Schema.indexes` lists it.
    """

    name: str | None = None
    index: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitive:
    """Marks a field that is stored encrypted. So is a field without a marker; this one says that it was meant.

    ``index``: a `BlindIndex`, a `Bucket` or several, by which MongoDB finds documents by a value that it does not learn.

    ``dump`` and ``load``, together, are for a type that this package does not know: to something that JSON can write, and
    back. They take the place of the field's own validation on load.
    """

    index: BlindIndex | Bucket | Sequence[BlindIndex | Bucket] | None = None
    dump: Callable[[Any], Any] | None = None
    load: Callable[[Any], Any] | None = None


Marker = Queryable | Sensitive


@dataclass(frozen=True)
class StoredField:
    """A field that stands in the clear: ``_id``, a queryable field, or a queryable computed field."""

    name: str  #: in Python
    stored: str  #: in MongoDB
    node: Node
    computed: bool = False
    index: bool = False

    @property
    def spliced(self) -> bool:
        """Whether it is read back from the metadata. Otherwise the payload carries its exact value, and that wins."""
        return not self.computed and not self.node.exact

    @property
    def is_moment(self) -> bool:
        """Whether it is a datetime: the payload carries its exact value, if BSON would change that of one such field."""
        return not self.computed and self.node.project is project_datetime


class Schema(Generic[Model]):
    """A model, read once. Immutable. Made by `of`, which raises `SchemaError` for what cannot be kept."""

    def __init__(
        self,
        model: type[Model],
        plan: Plan[Model],
        stored: Iterable[StoredField],
        sensitive: Mapping[str, Node],
        blind: tuple[Definition, ...],
    ) -> None:
        """Take what `of` found; not for callers."""
        self.model = model
        self.stored = tuple(stored)  #: the ``_id`` first
        self.identity = self.stored[0]
        self.places = sensitive  #: of the fields in the payload only, by name
        self.sensitive = frozenset(sensitive)
        self.blind = blind  #: the blind indexes
        self.blind_names = tuple(sorted(each.name for each in blind))
        indexed = {part.field for each in blind for part in each.parts} & self.sensitive
        #: indexed fields of which validation may change what was assigned
        self._changed_on_load = tuple(sorted(name for name in indexed if not _is_bare(model, name)))
        self.searched_at_once = self._searched_at_once()
        self._plan = plan
        self._may_have_moved = self.sensitive - envelope.RESERVED
        self._by_name = {field.name: field for field in self.stored} | {field.stored: field for field in self.stored}
        self._spliced = tuple(field for field in self.stored if field.spliced)
        self._exact = tuple(field for field in self.stored if not field.computed and not field.spliced)
        self._projections = tuple((field.stored, field.name, field.node.project) for field in self.stored if not field.computed)
        self.computed = tuple(field for field in self.stored if field.computed)  #: those of `stored` that are computed
        self._stored_names = frozenset(field.stored for field in self.stored)
        self.extras = model.model_config.get("extra") == "allow"  #: whether instances may hold more than fields
        self._aliases = {alias: name for name, info in model.model_fields.items() for alias in _aliases(info)}

    @classmethod
    def of(cls, model: type[Model]) -> Schema[Model]:
        """Read a model. Raise `SchemaError`, naming the field and what to write instead."""
        if not (isinstance(model, type) and issubclass(model, BaseModel)) or issubclass(model, RootModel):
            what = model.__name__ if isinstance(model, type) else f"an instance of {type(model).__name__}"  # never its repr
            raise SchemaError(f"{what} is not a pydantic model with fields: pass the class, derived from pydantic.BaseModel")
        core_schema_of(model)  # resolves forward references, in which markers may stand
        markers = _markers_of_fields(model)
        codecs = {name: _codec_of(model, name, marker) for name, marker in markers.items()}
        places = Rewritten(model, codecs={name: codec for name, codec in codecs.items() if codec is not None})
        stored = list(_stored_fields(model, places, markers))
        moments = [field.name for field in stored if field.is_moment]
        plan = places.compile(leave_out=[field.name for field in stored if field.spliced], moments=moments)
        in_clear = {field.name for field in stored}
        sensitive = {name: places.fields[name] for name in model.model_fields if name not in in_clear}
        _refuse_clashes(model, stored, frozenset(sensitive))
        wanted = {name: list(several(marker.index)) for name, marker in markers.items() if isinstance(marker, Sensitive)}
        clear = {field.name: field.stored for field in stored}
        nodes = {name: places.fields[name] for name in model.model_fields}
        return cls(model, plan, stored, sensitive, definitions(model, wanted, nodes, clear))

    def as_loaded(self, model: Model) -> Mapping[str, Any]:
        """The values of the fields, those with a blind index as their validators will make them when the model is loaded."""
        if not self._changed_on_load:
            return model.__dict__
        values = model.__dict__
        return {**values, **{name: self.validated(name, values[name]) for name in self._changed_on_load}}

    def _searched_at_once(self) -> dict[str, tuple[Definition, bool]]:
        """The text fields whose first index answers exactly and needs the value alone, and whether that is to be validated."""
        found: dict[str, tuple[Definition, bool]] = {}
        for name in {each.owner.field for each in self.blind}:
            first = next((each for each in self.blind if each.owner.field == name and not each.ranges), None)
            node = self.places[name]
            free = set(node.types) <= {str, type(None)} and node.deep is None  # a Literal has to be asked what it may be
            if first is not None and first.exact and len(first.parts) == 1 and free:
                found[name] = first, not _is_bare(self.model, name)
        return found

    @property
    def indexes(self) -> list[str]:
        """The stored names that are marked ``Queryable(index=True)``."""
        return [field.stored for field in self.stored if field.index]

    def blind_on(self, name: object) -> list[Definition]:
        """The blind indexes that a name may mean: those of a field, or the one of this name."""
        return [each for each in self.blind if name in (each.owner.field, each.name)]

    def field(self, name: str) -> StoredField | None:
        """The field in the clear of this name, in Python or in MongoDB."""
        return self._by_name.get(name)

    @property
    def names(self) -> list[str]:
        """The names of the fields in the clear, as a person writes them in a filter."""
        return [field.name for field in self.stored]

    def split(self, model: Model) -> tuple[dict[str, Any], bytes]:
        """``(metadata, payload)``: what stands in the clear by stored name, with ``_id``; and one UTF-8 JSON object.

        An id of None becomes a new ObjectId, on the instance too, where the field allows one; nothing else of the model is
        changed. Raise `PayloadError` for a value that cannot be kept.
        """
        try:
            payload = self._plan.dump(model)
            values = model.__dict__
            metadata = {}
            for stored, name, project in self._projections:
                value = values[name]
                metadata[stored] = value if project is None else project(value)
            for field in self.computed:
                metadata[field.stored] = self._compute(model, field)
            problem = self._refused_extra(model) if self.extras else None
        except Misfit as misfit:
            problem = str(misfit)
        if problem is None and metadata["_id"] is None:
            metadata["_id"] = self._new_identity(model)
        if problem is None and self.identity.node.rounds and not is_exact(values[self.identity.name]):
            problem = f"{self.identity.name}: BSON rounds this value, so that two ids could be one"
        if problem is not None:
            raise PayloadError(f"{self.model.__name__}: not saved: {problem}")
        return metadata, payload

    def join(self, document: Mapping[str, Any], payload: bytes) -> Model:
        """The model, from verified metadata and the decrypted payload; its validators run on JSON values, by field name.

        Raise `PayloadError`, which names field paths and kinds of error, where they do not fit (any more).
        """
        try:
            return self._plan.load(self._spliced_json(document, payload))
        except Unfit as unfit:
            problem = str(unfit)
        raise PayloadError(
            f"{self.model.__name__}: the document is genuine, but does not fit the model: {problem}. "
            "Give such a field a default or a before validator; open_raw of a codec and load_raw of a repository give the content"
        )

    def validate(self, metadata: Mapping[str, Any], payload: bytes) -> None:
        """Run the model's validators on what `split` gave. Raise `PayloadError`."""
        try:
            if self._plan.dump(self._rejoined(metadata, payload)) == payload:
                return
            problem = "a validator would change it on load"
        except (Unfit, Misfit) as refused:
            problem = str(refused)
        raise PayloadError(f"{self.model.__name__}: not saved: {problem}")

    def assigned(self, model: Model, changes: Mapping[str, Any]) -> Model:
        """Another instance, with whole fields changed by name, each of them validated; as a whole `reloaded` validates it.

        Raise `QueryError` for names that are not fields and values that do not fit.
        """
        self.check_changes(changes)
        try:
            return self._plan.changed(model, changes)
        except Unfit as unfit:
            problem = str(unfit)
        raise self._misfit(problem)

    def reloaded(self, model: Model) -> Model:
        """What would be loaded if this instance were saved. Raise `QueryError` if it could not be, `PayloadError` as `split`."""
        try:
            return self._rejoined(*self.split(model))
        except Unfit as unfit:
            problem = str(unfit)
        raise self._misfit(problem)

    def _misfit(self, problem: str) -> QueryError:
        return QueryError(f"{self.model.__name__}: the changes do not fit the model: {problem}")

    def _rejoined(self, metadata: Mapping[str, Any], payload: bytes) -> Model:
        """What `split` has taken apart, as it would come back from the database."""
        return self._plan.load(self._spliced_json(self._as_stored(metadata), payload))

    def validated(self, name: str, value: Any, *, element: bool = False) -> Any:
        """What a field would hold if this value were assigned: an address in lower case, say.

        The value itself if it is refused: a constraint may be younger than the documents that are searched. ``element``: of a field
        that is a list.
        """
        if _is_bare(self.model, name):
            return value
        try:
            if element:
                kind = next(each for each in self.places[name].types if each is not type(None))
                [found] = alone(self.model, name, kind([value]))
                return found
            found = alone(self.model, name, value)
            self.places[name].check(found)
        except Exception:  # noqa: BLE001 - a validator of the user's may raise anything, with the value in its message
            return value
        return found

    def check_changes(self, changes: Mapping[str, Any]) -> None:
        """Raise `QueryError` for names that are not those of fields: an update takes whole ones, and no operators of MongoDB."""
        if not isinstance(changes, Mapping):
            raise QueryError(f"changes are a dict of field names and values, or a function, not a {type(changes).__name__}")
        known = self.model.model_fields
        for name in changes:
            if not isinstance(name, str):
                raise QueryError(f"fields are named by text, not by a {type(name).__name__}")
            where = f"{self.model.__name__}.{name[:64]}"
            if name == self.identity.name:
                raise QueryError(f"{where}: an update keeps the id. Save a new instance, and delete this document")
            if name in self.model.model_computed_fields:
                raise QueryError(f"{where} is computed: change what it is computed from")
            if name in known and known[name].frozen:
                raise QueryError(f"{where} is frozen: it does not change. A function may give back another instance all the same")
            if name not in known and name in self._aliases:
                raise QueryError(f"{where} is an alias: changes are by the names in Python, here {self._aliases[name]}")
            if name.startswith("$") or "." in name:
                raise QueryError(
                    f"{where}: changes are whole fields by name; {{name: value}}. For a part of one, or for its old value, give a "
                    "function: update(id, lambda document: document.model_copy(update={…}))"
                )
            if name not in known and not self.extras:
                raise QueryError(unknown_field(self.model.__name__, name, known, f"Its fields: {', '.join(known)}"))

    def raw(self, document: Mapping[str, Any], payload: bytes) -> dict[str, Any]:
        """Metadata and payload as one dict of plain values, not validated: by field name; what is no field, by stored name.

        Raise `PayloadError` if the payload is not JSON.
        """
        content = payload_object(payload)
        known = {field.name: plain(document[field.stored]) for field in self.stored if field.stored in document}
        others = document.keys() - envelope.RESERVED - self._stored_names
        return known | {name: plain(value) for name, value in document.items() if name in others} | content

    def not_stored(self, metadata: Mapping[str, Any]) -> set[str]:
        """The names in metadata that the model does not have in the clear."""
        return set(metadata) - self._stored_names - envelope.RESERVED

    def disagreeing(self, document: Mapping[str, Any], model: Model) -> list[str]:
        """The fields whose projection in verified metadata is not that of the exact value, which the payload carries."""
        fields = [field for field in self.stored if field.node.exact and not field.computed and field.stored in document]
        projected = {field.name: envelope.as_stored(field.node.projected(model.__dict__[field.name])) for field in fields}
        return [field.name for field in fields if not _same(projected[field.name], document[field.stored])]

    def revived(self, content: Mapping[str, Any]) -> Model:
        """The inverse of `raw`, for content that was mended: validated as on load. Raise `PayloadError` if it does not fit."""
        try:
            return self._plan.load(_as_json(dict(content)))
        except Unfit as unfit:
            problem = str(unfit)
        except (TypeError, ValueError):  # PydanticSerializationError is a ValueError
            problem = "a value that JSON cannot hold"
        raise PayloadError(f"{self.model.__name__}: the content does not fit the model: {problem}")

    def unencodable(self, metadata: Mapping[str, Any]) -> PayloadError:
        """The error for metadata that did not encode: which field's value BSON cannot hold."""
        names = [field.name for field in self.stored if not envelope.encodes(metadata[field.stored])]
        what = f"{names[0]}: " if names else ""
        return PayloadError(
            f"{self.model.__name__}: not saved: {what}a value that BSON cannot hold (an int beyond 64 bits, a lone surrogate in a "
            "text, or a NUL in a name)"
        )

    def _as_stored(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Metadata as it would come back from BSON. Raise `PayloadError`."""
        try:
            return {name: envelope.as_stored(value) for name, value in metadata.items()}
        except MalformedEnvelopeError:
            pass
        raise self.unencodable(metadata)

    # --- the pieces ---------------------------------------------------------------------------------------------------

    def _spliced_json(self, document: Mapping[str, Any], payload: bytes) -> bytes:
        """One JSON object of metadata and payload, so that validation runs once and model validators see everything."""
        clear = {field.name: document[field.stored] for field in self._spliced if field.stored in document}
        # A moment may be in the metadata alone, also one of a field that was a plain datetime once and is of another type now.
        clear |= {field.name: value for field in self._exact if isinstance(value := document.get(field.stored), datetime)}
        if moved := self._may_have_moved & document.keys():  # in the clear when it was sealed, sensitive since; the payload wins
            clear = {name: document[name] for name in moved} | clear
        body = payload.strip(_JSON_SPACE)
        if body[:1] != b"{":
            raise Unfit("the payload is not a JSON object")
        try:
            head = _as_json(clear)
        except (TypeError, ValueError):  # PydanticSerializationError is a ValueError
            raise Unfit("the metadata holds a type that its fields do not have") from None
        rest = body[1:].lstrip(_JSON_SPACE)
        return head[:-1] + (b"," if clear and rest[:1] != b"}" else b"") + rest

    def _new_identity(self, model: Model) -> ObjectId:
        """An id for an instance without one; `_clear` has seen that the field may hold it."""
        identity = ObjectId()
        model.__dict__[self.identity.name] = identity  # past frozen and validate_assignment: the type is right
        model.__pydantic_fields_set__.add(self.identity.name)
        return identity

    def _compute(self, model: Model, field: StoredField) -> Any:
        wrapped = self.model.model_computed_fields[field.name].wrapped_property
        compute: Any = wrapped.func if isinstance(wrapped, functools.cached_property) else wrapped.fget
        try:
            value = compute(model)  # past the cache of a cached_property, which may be of an older state
        except Exception as error:  # noqa: BLE001 - a user's property may raise anything, with a value in its message
            problem = f"computed, raised {type(error).__name__}"
        else:
            try:
                field.node.check(value)
            except Misfit as misfit:
                raise misfit.inside(f".{field.name}") from None
            return field.node.projected(value)
        raise Misfit(problem).inside(f".{field.name}")

    def _refused_extra(self, model: Model) -> str | None:
        clash = (model.__pydantic_extra__ or {}).keys() & self._stored_names
        return f"an extra value has the stored name of a queryable field: {min(clash)}" if clash else None


def plain(value: Any) -> Any:
    """A value as it comes out of BSON, without the class that says how many bits an int had there."""
    if isinstance(value, Int64):
        return int(value)
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list) else value


def unknown_field(where: str, name: str, known: Iterable[str], served: str) -> str:
    """What to say of a name that is no field's: the one that was probably meant, or all that would do."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]}?" if near else served
    return f"{where} has no field {name[:64]!r}. {hint}"


def _same(one: Any, other: Any) -> bool:
    """Whether two values that came out of BSON are the same, type and NaN included."""
    return bson.encode({"": one}, codec_options=envelope.CODEC_OPTIONS) == bson.encode(
        {"": other}, codec_options=envelope.CODEC_OPTIONS
    )


_JSON_SPACE: Final = b" \t\n\r"


def payload_object(payload: bytes) -> dict[str, Any]:
    """A payload as plain JSON values. Raise `PayloadError` unless it is one object in strict UTF-8 without a name twice."""
    try:
        content = json.loads(payload.decode(), object_pairs_hook=_unique)
        json.dumps(content, ensure_ascii=False).encode()  # fails for the escape of a lone surrogate
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise PayloadError("the document is genuine, but its payload is not one JSON object with unique names")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError
    return content


def is_exact(value: Any) -> bool:
    """Whether BSON holds a date, a duration or a Decimal as it is."""
    if isinstance(value, datetime):
        return value.microsecond % 1000 == 0
    if isinstance(value, timedelta):
        return value.microseconds % 1000 == 0
    return not isinstance(value, Decimal) or len(value.as_tuple().digits) <= _DECIMAL_DIGITS


#: IEEE 754-2008 decimal128
_DECIMAL_DIGITS: Final = 34


def _as_json(values: dict[str, Any]) -> bytes:
    """Values of BSON or JSON in the form that a plan loads. Raise TypeError or ValueError for others."""
    return pydantic_core.to_json(values, bytes_mode="base64", inf_nan_mode="constants", fallback=_object_id_as_text)


def _object_id_as_text(value: object) -> str:
    if isinstance(value, ObjectId):
        return str(value)
    raise TypeError


# ---------------------------------------------------------------------------------------------------------------------
# Reading markers.


def _markers_of_fields(model: type[BaseModel]) -> dict[str, Marker]:
    """The marker of each field that has one, computed fields included. Refuses markers that would have no effect."""
    markers: dict[str, Marker] = {}
    for name, info in model.model_fields.items():
        where = f"{model.__name__}.{name}"
        if _is_marker(info.default):
            raise SchemaError(
                f"{where}: the marker stands as the default value. Write {name}: Annotated[…, {_named(info.default)}]"
            )
        found = _markers_in(info.metadata, where)
        queryable = isinstance(found, Queryable)
        _refuse_lost(info.annotation, where, clear=queryable, meant=isinstance(found, Sensitive), seen={id(model)})
        if found is None:
            _refuse_redeclared(model, name, where)
        else:
            markers[name] = found
    for name, computed in model.model_computed_fields.items():
        where = f"{model.__name__}.{name}"
        found = _markers_in(_annotated(computed), where)
        if isinstance(found, Sensitive):
            raise SchemaError(f"{where}: a computed field is not stored unless it is Queryable, so Sensitive has no effect")
        if found is not None:
            markers[name] = found
    return markers


#: Types whose values are what they are after validation.
_BARE: Final = (str, int, bool, bytes, UUID, date, datetime, Decimal, type(None))


@functools.lru_cache(maxsize=1024)
def _is_bare(model: type[BaseModel], name: str) -> bool:
    """Whether loading changes nothing of what was assigned to a field, if it has the right type.

    So it is with Base64Bytes and its like: they are decoded when they are assigned, and not again when they are loaded.
    """
    info = model.model_fields[name]
    if any(isinstance(each, EncodedBytes | EncodedStr) for each in (*info.metadata, *_all_metadata(info.annotation))):
        return True
    kinds = get_args(info.annotation) if get_origin(info.annotation) in (Union, UnionType, list) else (info.annotation,)
    return all(each in _BARE for each in kinds) and all(map(_is_marker, info.metadata)) and not _is_validated(model, name)


def _all_metadata(annotation: Any) -> Iterator[Any]:
    yield from getattr(annotation, "__metadata__", ())
    for each in get_args(annotation):
        yield from _all_metadata(each)


def _is_validated(model: type[BaseModel], name: str) -> bool:
    """Whether anything but the type of a text field may change what is assigned to it."""
    decorators = model.__pydantic_decorators__
    fields = [each.info.fields for each in decorators.field_validators.values()]
    fields += [each.info.fields for each in decorators.validators.values()]
    changes = ("str_strip_whitespace", "str_to_lower", "str_to_upper")
    return any(name in each or "*" in each for each in fields) or any(model.model_config.get(each) for each in changes)


def _annotated(computed: ComputedFieldInfo) -> Iterable[Any]:
    return get_args(computed.return_type)[1:] if get_origin(computed.return_type) is Annotated else ()


def _markers_in(metadata: Iterable[Any], where: str) -> Marker | None:
    """The one marker of an ``Annotated``, bare or called."""
    metadata = list(metadata)
    if bare := [each for each in metadata if isinstance(each, BlindIndex | Bucket) or each in (BlindIndex, Bucket)]:
        raise SchemaError(f"{where}: {_named(bare[0])} is no marker of its own. Write Sensitive(index={_named(bare[0])})")
    found = [each() if each in (Queryable, Sensitive) else each for each in metadata if _is_marker(each)]
    for each in found:
        if isinstance(each, Queryable) and not isinstance(each.index, bool):
            raise SchemaError(
                f"{where}: Queryable(index=…) takes True or False. A blind index is for an encrypted field: Sensitive(index=…)"
            )
    if len(found) > 1:
        raise SchemaError(f"{where}: more than one marker. A field is Sensitive or Queryable, once")
    return found[0] if found else None


def _is_marker(each: object) -> bool:
    return isinstance(each, Marker) or each is Queryable or each is Sensitive


def _named(marker: object) -> str:
    return f"{(marker if isinstance(marker, type) else type(marker)).__name__}()"


def _refuse_lost(annotation: Any, where: str, *, clear: bool, meant: bool, seen: set[int]) -> None:
    """Refuse a marker below the top of an annotation, where pydantic does not pass it on to the field.

    ``clear``: the field is in the clear; ``meant``: it says itself that all of it is sensitive, as a model inside itself is.
    """
    for marker, place in _inner_markers(annotation, seen):
        queryable = isinstance(marker, Queryable) or marker is Queryable
        if place is None or clear or (queryable and not meant):
            where_it_is = "inside the type" if place is None else f"on {place}"
            raise SchemaError(
                f"{where}: the marker {_named(marker)} {where_it_is} has no effect. It belongs at the top of the field: "
                f"Annotated[<the whole type>, {_named(marker)}]. A field is sensitive or in the clear as a whole"
                + (". Mark it Sensitive() to say that all of it is encrypted" if place is not None and not clear else "")
            )


def _inner_markers(annotation: Any, seen: set[int]) -> Iterator[tuple[Any, str | None]]:
    """Markers inside an annotation, each with the field of the nested class that it stands on, if any."""
    if id(annotation) in seen:
        return
    seen.add(id(annotation))
    if isinstance(annotation, _ALIAS_TYPES):
        yield from _inner_markers(annotation.__value__, seen)
        return
    if get_origin(annotation) is Annotated:
        yield from ((each, None) for each in annotation.__metadata__ if _is_marker(each))
    for argument in (get_origin(annotation), *get_args(annotation)):
        if argument is not None:
            yield from _inner_markers(argument, seen)
    if isinstance(annotation, type):
        for name, hint in _fields_of(annotation).items():
            marked = [each for each in hint.metadata if _is_marker(each)] if isinstance(hint, FieldInfo) else []
            yield from ((each, f"{annotation.__name__}.{name}") for each in marked)
            inner = hint.annotation if isinstance(hint, FieldInfo) else hint
            yield from ((each, place or f"{annotation.__name__}.{name}") for each, place in _inner_markers(inner, seen))


def _fields_of(cls: type) -> Mapping[str, Any]:
    """The annotated fields of a nested model, dataclass, TypedDict or named tuple."""
    if issubclass(cls, BaseModel):
        return cls.model_fields
    if dataclasses.is_dataclass(cls) or typing_extensions.is_typeddict(cls) or hasattr(cls, "_fields"):
        try:
            return typing.get_type_hints(cls, include_extras=True)
        except NameError:  # pydantic has resolved its names from a scope that is gone; markers are looked for, not types
            return {}
    return {}


_ALIAS_TYPES: Final = tuple({typing_extensions.TypeAliasType, getattr(typing, "TypeAliasType", typing_extensions.TypeAliasType)})


def _refuse_redeclared(model: type[BaseModel], name: str, where: str) -> None:
    for base in model.__mro__[1:]:
        if issubclass(base, BaseModel) and name in base.model_fields:
            marker = _markers_in(base.model_fields[name].metadata, where)
            if marker is not None and marker != Sensitive():
                raise SchemaError(
                    f"{where}: declared again without the marker {_named(marker)} that it has in {base.__name__}. "
                    "Repeat the marker, or write Sensitive() if it shall be encrypted"
                )


def _codec_of(model: type[BaseModel], name: str, marker: Marker) -> tuple[Callable[[Any], Any], Callable[[Any], Any]] | None:
    if isinstance(marker, Queryable) or (marker.dump is None and marker.load is None):
        return None
    if marker.dump is None or marker.load is None:
        raise SchemaError(f"{model.__name__}.{name}: Sensitive takes dump= and load= together")
    return marker.dump, marker.load


# ---------------------------------------------------------------------------------------------------------------------
# What stands in the clear.


def _stored_fields(model: type[Model], places: Rewritten[Model], markers: Mapping[str, Marker]) -> Iterator[StoredField]:
    identity = _identity(model)
    marker = markers.get(identity)
    where = f"{model.__name__}.{identity}"
    if isinstance(marker, Sensitive):
        raise SchemaError(
            f"{where}: the id is the document's _id, which stands in the clear. Use another field for what is sensitive"
        )
    if isinstance(marker, Queryable) and marker.name not in (None, "_id"):
        raise SchemaError(f"{where}: the id is stored as _id")
    yield StoredField(identity, "_id", _clear(places.fields[identity], where, identity=True))
    for name, marker in markers.items():
        if name == identity or not isinstance(marker, Queryable):
            continue
        where = f"{model.__name__}.{name}"
        stored = name if marker.name is None else marker.name
        if stored in envelope.RESERVED:
            raise SchemaError(f"{where}: the stored name {stored!r} belongs to the envelope. Write Queryable(name=…)")
        if not stored or stored.startswith("$") or "." in stored or "\0" in stored:
            raise SchemaError(f"{where}: {stored!r} cannot be a stored name: not empty, no leading $, no dot, no NUL")
        computed = name in places.computed
        node = places.computed[name] if computed else places.fields[name]
        yield StoredField(name, stored, _clear(node, where), computed=computed, index=marker.index)


def _identity(model: type[BaseModel]) -> str:
    """The name of the field that is the ``_id``: ``id``, or the one whose alias is ``_id``."""
    found = [name for name, info in model.model_fields.items() if name == "id" or "_id" in _aliases(info)]
    if not found:
        raise SchemaError(
            f"{model.__name__}: no id. Add one, such as id: UUID = Field(default_factory=uuid4), or give the field that is it "
            'alias="_id"'
        )
    if len(found) > 1:
        raise SchemaError(f"{model.__name__}: two ids, {found[0]} and {found[1]}: both would be the document's _id")
    return found[0]


def _aliases(info: FieldInfo) -> set[object]:
    choices = info.validation_alias.choices if isinstance(info.validation_alias, AliasChoices) else [info.validation_alias]
    return {info.alias, info.serialization_alias, *(each for each in choices if isinstance(each, str))}


def _clear(node: Node, where: str, *, identity: bool = False) -> Node:
    """The node of a field in the clear, or `SchemaError` if it cannot stand there."""
    if node.opaque is not None:
        raise SchemaError(f"{where}: cannot stand in the clear: {node.opaque}")
    if identity and "array" in node.kinds:
        raise SchemaError(f"{where}: MongoDB has no arrays as _id")
    if identity and node.rounds and not set(node.types) <= {datetime, timedelta, Decimal, type(None)}:
        raise SchemaError(
            f"{where}: holds a date, a duration or a Decimal, which BSON rounds: two ids could be one. Use text or a UUID"
        )
    if identity and dict in node.types:
        raise SchemaError(f"{where}: a dict as _id: MongoDB compares the order of its keys. Use a model with these fields")
    if identity and "null" in node.kinds and ObjectId not in node.types:
        raise SchemaError(f"{where}: an id that may be None. Give it a default_factory, or make it ObjectId | None")
    return node


def _refuse_clashes(model: type[BaseModel], stored: list[StoredField], sensitive: frozenset[str]) -> None:
    """Names of the payload and of the metadata never meet, but for the exact value of one field."""
    taken: dict[str, str] = {}
    names = sensitive | {field.name for field in stored}
    for field in stored:
        where = f"{model.__name__}.{field.name}"
        if (other := taken.setdefault(field.stored, field.name)) != field.name:
            raise SchemaError(f"{where}: stored as {field.stored!r}, as is {other}")
        if field.stored != field.name and field.stored in names:
            raise SchemaError(f"{where}: stored as {field.stored!r}, which is the name of another field. Choose another name")
