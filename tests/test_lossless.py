"""lossless: what is loaded equals what was saved, or is refused; pure, no database."""

from __future__ import annotations

import dataclasses
import functools
import string
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from ipaddress import IPv6Address
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Union
from uuid import UUID

import pytest
from bson import ObjectId
from every_type import EVERY_TYPE, PLACES, Inner, InnerPlus, Open, Other, Pair, Partial, placed, same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasPath,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    EmailStr,
    Field,
    FilePath,
    FutureDate,
    JsonValue,
    NaiveDatetime,
    NameEmail,
    PlainValidator,
    PrivateAttr,
    RootModel,
    Secret,
    SecretStr,
    StringConstraints,
    TypeAdapter,
    ValidationInfo,
    WrapValidator,
    computed_field,
    create_model,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass

from mongo_envelope.errors import SchemaError
from mongo_envelope.lossless import Misfit, Plan, Rewritten, Unfit
from mongo_envelope.lossless.anything import decode, encode

SECRET = "xyzzy-plugh"
REFUSED_IN_A_UNION = {"Any", "Json"}  # a union with Any says nothing


def plan_for(kind: Any, **config: Any) -> tuple[type[BaseModel], Plan[BaseModel]]:
    model = create_model("Model", __config__=ConfigDict(arbitrary_types_allowed=True, **config), field=(kind, ...))
    return model, Rewritten(model).compile()


def kept(plan: Plan[Any], model: BaseModel) -> Any:
    return plan.load(plan.dump(model))


def whole_chain(error: BaseException | None) -> str:
    """Everything that could be printed of an exception and of those behind it."""
    text = []
    while error is not None:
        text.append("".join(traceback.format_exception_only(error)) + repr(error) + repr(error.args) + repr(vars(error)))
        error = error.__cause__ or error.__context__
    return "\n".join(text)


@pytest.mark.parametrize("name", EVERY_TYPE)
def test_every_type_comes_back_equal_wherever_it_stands(name: str) -> None:
    """Each type, in each place, comes back equal in value and type."""
    kind, values = EVERY_TYPE[name]
    for place in PLACES:
        where, put = placed(place, kind)
        if place == "in a union" and name in REFUSED_IN_A_UNION:
            with pytest.raises(SchemaError, match="a union with Any"):
                plan_for(where)
            continue
        model, plan = plan_for(where)
        for value in values:
            saved = model.model_construct(field=put(value))
            loaded = kept(plan, saved)
            assert same(saved, loaded), (place, saved, loaded)


@pytest.mark.parametrize("name", EVERY_TYPE)
def test_every_type_survives_a_model_validator_that_runs_before(name: str) -> None:
    """With a before validator, pydantic validates Python values in the place of JSON; that must not change them."""
    kind, values = EVERY_TYPE[name]
    for place in PLACES:
        if place == "in a union" and name in REFUSED_IN_A_UNION:
            continue
        where, put = placed(place, kind)
        model = create_model(
            "Model",
            __config__=ConfigDict(arbitrary_types_allowed=True),
            __validators__={"unchanged": model_validator(mode="before")(lambda values: values)},  # type: ignore[dict-item]
            field=(where, ...),
        )
        plan: Plan[BaseModel] = Rewritten(model).compile()
        for value in values:
            saved = model.model_construct(field=put(value))
            assert same(saved, kept(plan, saved)), (place, saved)


@pytest.mark.parametrize("config", [{"strict": True}, {"extra": "forbid"}, {"use_enum_values": True}, {"frozen": True}])
def test_configurations_lose_nothing(config: dict[str, Any]) -> None:
    """A model's configuration for its own callers does not stand between saving and loading."""

    class Kind(Enum):
        a = "a"

    class Model(BaseModel):
        model_config = ConfigDict(**config)  # type: ignore[typeddict-item]
        when: datetime
        raw: bytes
        many: set[int]
        pair: tuple[int, bytes]
        kind: Kind
        amount: Decimal

    saved = Model(when=datetime(2024, 1, 1), raw=b"\xff", many={1}, pair=(1, b"\xff"), kind=Kind.a, amount=Decimal("1.10"))
    assert same(saved, kept(Rewritten(Model).compile(), saved))


def test_masks_excludes_and_aliases_are_for_other_readers() -> None:
    """Serializers, exclude, the three kinds of alias and computed fields neither change nor hide what is kept."""

    class Nested(BaseModel):
        secret: str

        @field_serializer("secret")
        def _mask(self, _: str) -> str:
            return "***"

    class Model(BaseModel):
        one: bytes = Field(alias="eins")
        two: str = Field(validation_alias=AliasChoices("zwei", AliasPath("a", 0)), exclude=True)
        three: str = Field(serialization_alias="drei")
        nested: list[Nested]

        @computed_field  # type: ignore[prop-decorator]
        @property
        def length(self) -> int:
            return len(self.one)

        @model_serializer
        def _nothing(self) -> dict[str, Any]:
            return {}

    saved = Model(eins=b"\xff", zwei="b", three="c", nested=[Nested(secret="d")])  # type: ignore[call-arg]
    plan = Rewritten(Model).compile()
    assert plan.dump(saved) == b'{"one":"_w==","two":"b","three":"c","nested":[{"secret":"d"}]}'
    assert same(saved, kept(plan, saved))


def test_extra_values_are_kept_with_their_types() -> None:
    """Extras of any type come back; one with the name of a field, which an alias makes possible, is refused."""

    class Model(BaseModel):
        model_config = ConfigDict(extra="allow")
        field: int = Field(alias="alias")

    plan = Rewritten(Model).compile()
    saved = Model.model_validate({"alias": 1, "more": {b"\xff"}, "when": date(2024, 1, 1)})
    assert same(saved, kept(plan, saved))
    with pytest.raises(Misfit, match="name of a field"):
        plan.dump(Model.model_validate({"alias": 1, "field": 2}))


class Colour(StrEnum):
    red = "red"


class Number(IntEnum):
    one = 1


class Name(str):
    __slots__ = ()


class Moment(datetime):
    pass


WRONG: list[tuple[Any, Any]] = [
    (int, True),
    (int, "1"),
    (int, 1.0),
    (int, Number.one),
    (float, True),
    (float, 2**53 + 1),
    (float, 10**400),
    (float, Decimal(1)),
    (str, 1),
    (str, b"a"),
    (str, Name("a")),
    (str, Colour.red),
    (str, "\ud800"),
    (bytes, "a"),
    (bytes, bytearray(b"a")),
    (bool, 1),
    (datetime, date(2024, 1, 1)),
    (date, datetime(2024, 1, 1)),
    (datetime, Moment(2024, 1, 1)),
    (UUID, str(UUID(int=1))),
    (Decimal, "1"),
    (Colour, "red"),
    (list[int], (1,)),
    (tuple[int, int], (1,)),
    (tuple[int, ...], [1]),
    (set[int], frozenset({1})),
    (dict[str, int], {1: 1}),
    (dict[int, int], {True: 1}),
    (Inner, InnerPlus(x=1)),
    (Inner, {"x": 1}),
    (Inner, Inner.model_construct(x=True)),
    (Inner, Inner.model_construct(raw=b"")),
    (Open, Open(a=1, more=object())),
    (Partial, {"c": 1}),
    (Partial, {"a": "text"}),
    (Pair, (1, b"")),
    (int | None, True),
    (int | str, 1.0),
    (int | str, Number.one),
    (Inner | Other, InnerPlus(x=1)),
    (deque[int], deque([1], maxlen=1)),
    (Any, object()),
    (Any, Inner(x=1)),
    (Any, Number.one),
    (Any, [1, {"a": (Name("x"),)}]),
]


@pytest.mark.parametrize(("kind", "value"), WRONG)
def test_a_value_that_would_change_is_refused_wherever_it_stands(kind: Any, value: Any) -> None:
    """A value of another type, or of a subclass, is refused before it is written, and neither it nor its text is quoted."""
    for place in PLACES:
        where, put = placed(place, kind)
        if place == "in a union" and kind is Any:
            continue
        model, plan = plan_for(where)
        with pytest.raises(Misfit, match="field") as caught:
            plan.dump(model.model_construct(field=put(value)))
        assert repr(value) not in whole_chain(caught.value)


def test_a_missing_field_and_a_circle_are_refused() -> None:
    """A field that was never set, and a value inside itself, are said and not written."""
    model, plan = plan_for(list[Any])
    with pytest.raises(Misfit, match="field: missing"):
        plan.dump(model.model_construct())
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(Misfit, match="nested too deeply"):
        plan.dump(model.model_construct(field=circle))


def test_a_subclass_of_the_model_itself_is_refused() -> None:
    """An instance of a subclass would come back without what the subclass adds."""
    with pytest.raises(Misfit, match="subclass"):
        Rewritten(Inner).compile().dump(InnerPlus(x=1))


def test_an_int_in_a_float_field_is_kept_where_it_is_exact() -> None:
    """A default such as ``price: float = 0`` is not refused: what comes back equals it."""

    class Model(BaseModel):
        price: float = 0
        prices: list[float] = [1, 2.5]

    loaded = kept(Rewritten(Model).compile(), Model())
    assert loaded == Model()
    assert type(loaded.price) is float


class Custom:
    pass


class MadeByValidator(BaseModel):
    pass


@dataclasses.dataclass
class WithInitVar:
    x: dataclasses.InitVar[int]


@pydantic_dataclass(config=ConfigDict(extra="allow"))
class OpenDataclass:
    x: int


REFUSED: list[tuple[Any, str]] = [
    (Callable[[], int], "a function"),
    (type[int], "a class"),
    (Iterable[int], r"write list"),
    (Custom, "Custom"),
    (list[Custom], "Custom"),
    (Annotated[str, PlainValidator(str)], "plain validator"),
    (Annotated[str, AfterValidator(Name)], "Name"),
    (Any | int, "a union with Any"),
    (WithInitVar, "InitVar"),
    (OpenDataclass, "extra"),
]


@pytest.mark.parametrize(("kind", "reason"), REFUSED)
def test_a_type_that_cannot_be_kept_is_refused_when_the_plan_is_built(kind: Any, reason: str) -> None:
    """Not at the first save: the error names the field and says what to write instead."""
    with pytest.raises(SchemaError, match=reason) as caught:
        plan_for(kind)
    assert str(caught.value).startswith("Model.field")


def test_a_model_that_pydantic_cannot_build_is_a_schema_error() -> None:
    """A forward reference to nowhere is said when the plan is built."""

    class Model(BaseModel):
        field: Nowhere  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(SchemaError, match="Nowhere"):
        Rewritten(Model)


def test_validators_run_on_load_with_the_context() -> None:
    """Validators of all kinds run on JSON values by field name, and can see that this is a load."""
    seen: list[Any] = []

    class Model(BaseModel):
        name: Annotated[str, BeforeValidator(lambda value: value.strip())]
        _seen: int = PrivateAttr(default=0)

        @field_validator("name")
        @classmethod
        def _note(cls, value: str, info: ValidationInfo) -> str:
            seen.append(info.context)
            return value

        def model_post_init(self, _: Any) -> None:
            self._seen = 1

    plan = Rewritten(Model).compile()
    saved = Model(name=" a ")
    seen.clear()
    loaded = kept(plan, saved)
    assert loaded == saved
    assert seen == [{"mongo_envelope": "load"}]


def test_an_overridden_init_is_not_called_on_load() -> None:
    """It takes arguments of its own, for callers; loading is not calling."""

    class Model(BaseModel):
        name: str

        def __init__(self, first: str, last: str) -> None:
            super().__init__(name=f"{first} {last}")

    plan = Rewritten(Model).compile()
    assert kept(plan, Model("Ada", "Lovelace")).name == "Ada Lovelace"


def test_what_was_true_when_it_was_saved_does_not_make_a_document_unreadable(tmp_path: Path) -> None:
    """FutureDate and FilePath are checks of the moment: the date passes, the file goes, the document stays readable."""

    class Model(BaseModel):
        due: FutureDate
        file: FilePath

    plan = Rewritten(Model).compile()
    saved = Model.model_construct(due=date(2001, 1, 1), file=tmp_path / "gone")
    assert kept(plan, saved) == saved


def test_a_union_can_grow_and_be_reordered() -> None:
    """The tag is the member's type, not its place in the union."""
    model, plan = plan_for(bytes | str)
    json = plan.dump(model.model_construct(field=b"\xff"))
    _, later = plan_for(date | str | bytes)
    assert later.load(json).field == b"\xff"  # type: ignore[attr-defined]


def test_what_does_not_fit_names_fields_and_kinds_but_no_content() -> None:
    """Keys of dicts, values and a validator's own words stay out of the error and of what stands behind it."""

    def refuse(_: str) -> str:
        raise ValueError(SECRET)

    def crash(_: str) -> str:
        raise LookupError(SECRET)

    class Deep(BaseModel):
        by_name: dict[str, int]
        items: list[int]

    class Model(BaseModel):
        deep: Deep
        own: Annotated[str, AfterValidator(refuse)]

    plan = Rewritten(Model).compile()
    with pytest.raises(Unfit) as caught:
        plan.load(f'{{"deep":{{"by_name":{{"{SECRET}":"{SECRET}"}},"items":[1,"{SECRET}"]}},"own":"{SECRET}"}}'.encode())
    assert str(caught.value) == "deep.by_name[*]: int_parsing; deep.items[1]: int_parsing; own: value_error"
    assert SECRET not in whole_chain(caught.value)
    _, crashing = plan_for(Annotated[str, AfterValidator(crash)])
    with pytest.raises(Unfit, match="a validator raised LookupError") as caught:
        crashing.load(f'{{"field":"{SECRET}"}}'.encode())
    assert SECRET not in whole_chain(caught.value)


@pytest.mark.parametrize("json", [b"", b"[]", b"{", b'{"field":{"int":1,"str":"a"}}', b'{"field":{}}', b"\xff"])
def test_json_that_is_none_of_ours_is_unfit(json: bytes) -> None:
    """Whatever the bytes are, the answer is the one error."""
    _, plan = plan_for(int | bytes | bytearray)
    with pytest.raises(Unfit):
        plan.load(json)


def test_a_user_given_codec_takes_the_place_of_the_type() -> None:
    """dump and load keep a class that nobody knows."""
    model = create_model("Model", __config__=ConfigDict(arbitrary_types_allowed=True), field=(Custom, ...))
    plan: Plan[Any] = Rewritten(
        model, codecs={"field": (lambda value: [type(value).__name__], lambda form: (Custom, form))}
    ).compile()
    json = plan.dump(model.model_construct(field=Custom()))
    assert json == b'{"field":["Custom"]}'
    assert plan.load(json).field == (Custom, ["Custom"])


def test_fields_that_are_left_out_are_not_written_but_read() -> None:
    """A queryable field comes from the metadata; nested inside itself, a model leaves nothing out."""

    class Model(BaseModel):
        name: str
        child: Model | None = None

    plan = Rewritten(Model).compile(leave_out=["name"])
    assert plan.dump(Model(name="a", child=Model(name="b"))) == b'{"child":{"name":"b","child":null}}'
    assert plan.load(b'{"name":"a","child":{"name":"b"}}') == Model(name="a", child=Model(name="b"))


# --- what real models do ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("name", EVERY_TYPE)
def test_a_validator_is_given_again_what_it_once_returned(name: str, wrap: bool) -> None:
    """A before or wrap validator that returns the value itself, whatever it is given, does not stand in the way."""
    kind, values = EVERY_TYPE[name]
    for value in values:
        validator = WrapValidator(lambda _, handler, v=value: handler(v)) if wrap else BeforeValidator(lambda _, v=value: v)
        model, plan = plan_for(Annotated[kind, validator])
        saved = model.model_construct(field=value)
        assert same(saved, kept(plan, saved)), value


def test_validators_that_look_at_types_work_on_load() -> None:
    """As people write them: for an ObjectId, a dict with other keys, a union; and for a whole model."""

    def keyed(value: Any) -> Any:
        return {int(key): each for key, each in value.items()}

    def number(value: Any) -> Any:
        return value if isinstance(value, Decimal | int) else Decimal(value)

    class Model(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        ref: Annotated[ObjectId, BeforeValidator(ObjectId)]
        refs: list[ObjectId]
        by_number: Annotated[dict[int, str], BeforeValidator(keyed)]
        amount: Annotated[Decimal | int, BeforeValidator(number)]

        @model_validator(mode="before")
        @classmethod
        def _convert(cls, values: dict[str, Any]) -> dict[str, Any]:
            return {**values, "refs": [ObjectId(each) for each in values["refs"]]}

    plan = Rewritten(Model).compile()
    for amount in ("1.5", 7):
        saved = Model.model_validate({"ref": "a" * 24, "refs": ["b" * 24], "by_number": {"1": "x"}, "amount": amount})
        assert same(saved, kept(plan, saved))


def test_a_before_validator_still_upgrades_old_payloads() -> None:
    """Where the JSON is of an older form, the validator is given it as it is."""
    _, plan = plan_for(Annotated[set[bytes], BeforeValidator(lambda value: {b"old"} if isinstance(value, str) else value)])
    assert plan.load(b'{"field":"one text"}').field == {b"old"}  # type: ignore[attr-defined]


Positive = Annotated[int, Field(gt=0)]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (EmailStr | str, ["nope", "a@ex.org"]),
        (Positive | Literal[-1], [-1, 5]),
        (AwareDatetime | NaiveDatetime, [datetime(2024, 1, 1), datetime(2024, 1, 1, tzinfo=UTC)]),
        (Annotated[str, Field(pattern="^a")] | Annotated[str, Field(pattern="^b")], ["a", "b"]),
        (Annotated[list[int], Field(max_length=1)] | list[int], [[1], [1, 2]]),
        (dict[Annotated[str, Field(max_length=1)], int] | dict[str, int], [{"a": 1}, {"ab": 1}]),
    ],
)
def test_members_of_one_type_that_differ_by_a_constraint_are_told_apart(kind: Any, values: list[Any]) -> None:
    """The first member that reads its own JSON back is the one; what was saved is loaded."""
    model, plan = plan_for(kind)
    for value in values:
        saved = model.model_construct(field=value)
        assert same(saved, kept(plan, saved))


@pytest.mark.parametrize(
    "config",
    [{"str_max_length": 5}, {"str_min_length": 1}, {"str_to_lower": True}, {"str_to_upper": True}, {"str_strip_whitespace": True}],
)
def test_what_a_model_says_about_text_does_not_reach_other_types(config: dict[str, Any]) -> None:
    """Limits are for text; what changes a text has been done when the instance was made, and is not done again."""

    class Model(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=True, **config)  # type: ignore[typeddict-item]
        path: Path = Path("/Home/Ada Lovelace ")
        ip: IPv6Address = IPv6Address("2001:db8::ffff")
        ref: ObjectId = ObjectId("a" * 24)
        secret: SecretStr = SecretStr("Abcd ")
        name: NameEmail = NameEmail(name="Ada Lo", email="ada@ex.org")
        odd: OddEnum = OddEnum.First
        text: str = "Ab "

    saved = Model()
    assert same(saved, kept(Rewritten(Model).compile(), saved))


class OddEnum(Enum):
    First = (1, 2)


class BytesEnum(bytes, Enum):
    a = b"x"


class TupleEnum(tuple[int, int], Enum):  # noqa: SLOT001 - an Enum has none
    a = (1, 2)


@pytest.mark.parametrize("value", [OddEnum.First, BytesEnum.a, TupleEnum.a])
def test_enums_are_kept_whatever_they_mix_in(value: Enum) -> None:
    """By their names."""
    model, plan = plan_for(type(value))
    assert kept(plan, model.model_construct(field=value)).field is value


class MaybeNumber(RootModel[int | None]):
    pass


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (MaybeNumber | None, MaybeNumber(None)),
        (MaybeNumber | None, None),
        (Secret[int | None] | None, Secret[int | None](None)),
        (list[Secret[int | None] | None], [None, Secret[int | None](None)]),
    ],
)
def test_none_inside_is_not_none_outside(kind: Any, value: Any) -> None:
    """A root model or a secret that holds None is not None."""
    model, plan = plan_for(kind)
    saved = model.model_construct(field=value)
    assert same(saved, kept(plan, saved))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (dict[str, int], {"\udc80": 1, "\udc81": 2}),  # noqa: F601 - two keys
        (JsonValue, {"\udc80": 1}),
        (Any, {"\udc80": 1}),
        (int, 10**4300),
        (list[int], [1, -(10**4300)]),
        (Any, 10**4300),
    ],
    ids=["dict", "JsonValue", "dict in Any", "int", "ints", "int in Any"],
)
def test_what_the_parser_would_change_or_not_read_is_refused(kind: Any, value: Any) -> None:
    """Lone surrogates in keys, which pydantic-core replaces; integers longer than any parser reads."""
    model, plan = plan_for(kind)
    with pytest.raises(Misfit, match="field"):
        plan.dump(model.model_construct(field=value))


def test_depth_is_refused_at_save_or_kept() -> None:
    """Nothing is saved that is nested deeper than the parser goes."""
    for kind, wrap in ((Any, lambda inside: [inside]), (Any, lambda inside: (inside,)), (JsonValue, lambda inside: [inside])):
        model, plan = plan_for(kind)
        value: Any = 1
        outcomes = set()
        for _ in range(300):
            value = wrap(value)
            saved = model.model_construct(field=value)
            try:
                json = plan.dump(saved)
            except Misfit:
                outcomes.add("refused")
            else:
                outcomes.add("kept")
                assert plan.load(json) == saved
        assert outcomes == {"kept", "refused"}


@dataclasses.dataclass
class Token:
    name: str
    token: bytes = dataclasses.field(init=False, default=b"")

    def __post_init__(self) -> None:
        self.token = b"made"
        self.beside = self.name.upper()


def test_what_a_dataclass_makes_of_itself_is_kept() -> None:
    """__post_init__ runs, for what stands beside the fields; the fields stay as they were stored."""
    model, plan = plan_for(Token)
    token = Token("a")
    token.token = b"changed since"
    loaded = kept(plan, model.model_construct(field=token)).field
    assert (loaded.token, loaded.beside) == (b"changed since", "A")


@dataclasses.dataclass
class Unknown:
    x: int
    cache: dict[str, int] = dataclasses.field(init=False)


@pytest.mark.parametrize(
    ("default", "reason"),
    [
        ((str, None), "the default is a NoneType, which is not a str"),
        ((Decimal, 0), "the default is a int, which is not a Decimal"),
        ((Path, "a/b"), "the default is a str, which is not a Path"),
        ((Colour, "red"), "validate_default=True"),
        ((Annotated[int, Field(gt=0)], -1), "breaks the field's own constraints"),
        ((Unknown, None), "pydantic does not know the field 'cache'"),
    ],
)
def test_a_default_that_could_never_be_saved_or_loaded_is_refused_at_once(default: Any, reason: str) -> None:
    """When the repository is built, not at the first save; with validate_default pydantic sees to it."""
    model = create_model("Model", field=default)
    with pytest.raises(SchemaError, match=reason):
        Rewritten(model)
    if "default" in reason:
        kind, value = default
        Rewritten(create_model("Model", __config__=ConfigDict(validate_default=True), field=(kind, value)))


def test_a_codec_of_the_user_may_give_bytes_and_more() -> None:
    """dump= may give what Any can hold, pickled bytes say; what it raises is told by its type alone."""
    codec = (lambda value: {1: (b"\xff", value)}, lambda form: form[1][1])
    model = create_model("Model", field=(Any, ...))
    plan: Plan[Any] = Rewritten(model, codecs={"field": codec}).compile()
    assert kept(plan, model(field="a")).field == "a"
    failing: Plan[Any] = Rewritten(model, codecs={"field": (lambda value: value.missing, str)}).compile()
    with pytest.raises(Misfit, match="field: dump= raised AttributeError"):
        failing.dump(model(field=SECRET))


class Narrow(BaseModel):
    model_config = ConfigDict(str_max_length=1, arbitrary_types_allowed=True)
    cannot_be_kept: Custom


def test_a_computed_field_that_cannot_be_kept_leaves_no_settings_behind() -> None:
    """It is not stored, so it is passed over; what is rewritten after it is under the model's own configuration."""

    class Model(BaseModel):
        model_config = ConfigDict(extra="allow")
        __pydantic_extra__: dict[str, str]

        @computed_field  # type: ignore[prop-decorator]
        @property
        def shown(self) -> Narrow:
            raise NotImplementedError  # never asked for

    saved = Model.model_validate({"more": "longer than one"})
    assert same(saved, kept(Rewritten(Model).compile(), saved))


# --- at random --------------------------------------------------------------------------------------------------------

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
LEAVES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (str, text),
    (int, st.integers()),
    (float, st.floats()),
    (bool, st.booleans()),
    (bytes, st.binary(max_size=8)),
    (datetime, st.datetimes(timezones=st.none() | st.timezones())),
    (date, st.dates()),
    (timedelta, st.timedeltas()),
    (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    (UUID, st.uuids()),
    (Colour, st.sampled_from(Colour)),
    (Inner, st.builds(Inner, x=st.integers(), raw=st.binary(max_size=4))),
    (Other, st.builds(Other, x=st.integers())),
    (
        Any,
        st.recursive(
            text | st.integers() | st.binary(max_size=4) | st.dates(),
            lambda inside: st.lists(inside) | st.dictionaries(text, inside),
        ),
    ),
]
Drawn = tuple[Any, st.SearchStrategy[Any]]


def _containers(inside: st.SearchStrategy[Drawn]) -> st.SearchStrategy[Drawn]:
    def several(drawn: list[Drawn]) -> Drawn:
        return Union[tuple(kind for kind, _ in drawn)], st.one_of([values for _, values in drawn])  # noqa: UP007

    hashable = st.sampled_from([leaf for leaf in LEAVES if leaf[0] in (str, int, bytes, date, UUID, Colour, bool)])
    without_any = inside.filter(lambda drawn: "Any" not in repr(drawn[0]))
    return st.one_of(
        inside.map(lambda one: (list[one[0]], st.lists(one[1], max_size=3))),  # type: ignore[name-defined]
        inside.map(lambda one: (tuple[one[0], ...], st.lists(one[1], max_size=3).map(tuple))),  # type: ignore[name-defined]
        inside.map(lambda one: (Optional[one[0]], st.none() | one[1])),  # type: ignore[name-defined]  # noqa: UP045
        hashable.map(lambda one: (set[one[0]], st.sets(one[1], max_size=3))),  # type: ignore[name-defined]
        st.tuples(hashable, inside).map(
            lambda pair: (dict[pair[0][0], pair[1][0]], st.dictionaries(pair[0][1], pair[1][1], max_size=3))  # type: ignore[name-defined]
        ),
        st.lists(without_any, min_size=2, max_size=4).map(several),
    )


kinds = st.recursive(st.sampled_from(LEAVES), _containers, max_leaves=5)


def _one_random_model(data: st.DataObject) -> None:
    fields = data.draw(st.dictionaries(st.sampled_from(string.ascii_lowercase), kinds, min_size=1, max_size=4))
    model = create_model("Model", **{name: (kind, ...) for name, (kind, _) in fields.items()})  # type: ignore[call-overload]
    plan: Plan[Any] = Rewritten(model).compile()
    for _ in range(3):
        saved = model.model_construct(**{name: data.draw(values) for name, (_, values) in fields.items()})
        loaded = kept(plan, saved)
        assert same(saved, loaded), (saved, loaded)


_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=300, deadline=None, suppress_health_check=_SLOW)
@given(st.data())
def test_random_models_with_random_values_come_back_equal(data: st.DataObject) -> None:
    """Any nesting of any types comes back equal, in value and in type."""
    _one_random_model(data)


@pytest.mark.soak
@settings(max_examples=10_000, deadline=None, suppress_health_check=_SLOW)
@given(st.data())
def test_ten_thousand_random_models_come_back_equal(data: st.DataObject) -> None:
    """The same, for as long as it takes."""
    _one_random_model(data)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | text | st.binary(max_size=4) | st.decimals(allow_nan=False),
        lambda inside: (
            st.lists(inside)
            | st.lists(inside).map(tuple)
            | st.dictionaries(text | st.sampled_from(["$bytes", "$dict", "$"]) | st.integers(), inside)
        ),
        max_leaves=10,
    )
)
def test_anything_is_encoded_and_decoded_without_loss(value: Any) -> None:
    """Tags never collide with what a value happens to look like."""
    assert same(decode(encode(value)), value)


def test_an_attribute_that_is_no_field_is_refused() -> None:
    """model_copy(update=…) with a misspelt name leaves one, at any depth, and it would be lost. Caches are none."""

    class Inner(BaseModel):
        text: str = ""

    class Outer(BaseModel):
        email: str = ""
        inner: Inner = Inner()

        @functools.cached_property
        def shouted(self) -> str:
            return self.email.upper()

    plan = Rewritten(Outer).compile()
    outer = Outer(email="a")
    assert outer.shouted == "A"
    outer.__dict__["_own"] = 1
    assert plan.load(plan.dump(outer)) == Outer(email="a")
    for wrong, hint in (
        (outer.model_copy(update={"emial": SECRET}), "the model: an attribute that is no field.*did you mean email"),
        (outer.model_copy(update={SECRET: 1}), "the fields are email, inner"),
        (Outer(inner=Inner().model_copy(update={"txet": 1})), "inner: an attribute .*did you mean text"),
    ):
        with pytest.raises(Misfit, match=hint) as caught:
            plan.dump(wrong)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize("validator", [BeforeValidator, AfterValidator, WrapValidator], ids=lambda each: each.__name__)
@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (str, SECRET),
        (int, 1),
        (list[str], [SECRET]),
        (dict[str, int], {SECRET: 1}),
        (dict[int, str], {1: SECRET}),
        (Decimal, Decimal(1)),
        (str | None, SECRET),
        (UUID, UUID(int=1)),
        (Inner, Inner(x=1)),
    ],
    ids=str,
)
def test_a_validator_that_refuses_on_load_is_heard(validator: Any, kind: Any, value: Any) -> None:
    """Before, after or around the field's own validation, whatever its type: what was stored does not pass it by."""
    plain = create_model("Model", field=(kind, ...))
    json = Rewritten(plain).compile().dump(plain(field=value))

    def refuse(_: Any) -> Any:
        raise ValueError(SECRET)

    function = (lambda value, handler: refuse(value)) if validator is WrapValidator else refuse
    with pytest.raises(Unfit, match="value_error") as caught:
        Rewritten(create_model("Model", field=(Annotated[kind, validator(function)], ...))).compile().load(json)
    assert SECRET not in str(caught.value)


def test_a_number_in_a_path_is_a_position_or_it_is_not_told() -> None:
    """The key of a dict is content, a number too; where a list is as long, the number is a position in it."""

    class Model(BaseModel):
        phones: dict[int, list[int]] = {}
        rows: list[list[int]] = []

    plan = Rewritten(Model).compile()
    with pytest.raises(Unfit, match=r"^phones\[\*\]\[1\]: int_parsing$"):
        plan.changed(Model(), {"phones": {4155550123: [1, "x"]}})
    with pytest.raises(Unfit, match=r"^rows\[2\]\[0\]: int_parsing$"):
        plan.changed(Model(), {"rows": [[1], [], ["x"]]})
    with pytest.raises(Unfit, match=r"^rows\[1\]\[0\]: int_parsing$"):
        plan.load(b'{"phones":[],"rows":[[1],["x"]]}')
    merged = create_model(
        "Merged", phones=(Annotated[dict[int, str], AfterValidator(TypeAdapter(dict[int, int]).validate_python)], ...)
    )
    with pytest.raises(Unfit, match=r"^phones\[\*\]: int_parsing$"):
        Rewritten(merged).compile().load(Rewritten(Model).compile().dump(Model()).replace(b"[]", b'[[4155550123,"x"]]', 1))


def test_changes_of_a_model_that_contains_itself() -> None:
    """Its schema stands beside others, behind a reference; so do the models that it contains."""

    class Node(BaseModel):
        name: Annotated[str, StringConstraints(to_upper=True)]
        children: list[Node] = []

    class Tree(BaseModel):
        root: Node
        again: Node

    leaf = Node(name="a")
    changed = Rewritten(Node).compile().changed(leaf, {"children": [{"name": "b"}], "name": "c"})
    assert changed == Node(name="c", children=[Node(name="b")])
    tree = Tree(root=leaf, again=leaf)
    assert Rewritten(Tree).compile().changed(tree, {"root": {"name": "b"}}) == Tree(root=Node(name="b"), again=leaf)
