"""indexes: a model says which blind indexes it has, and is refused, with the way out, where it would not get what it says."""

from __future__ import annotations

import enum
import ipaddress
import re
from collections import deque
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, NewType, TypeVar
from uuid import UUID

import pytest
from bson import ObjectId
from every_type import EVERY_TYPE, Roots
from pydantic import AnyUrl, BaseModel, ByteSize, ConfigDict, Field, SecretStr, computed_field, create_model
from typing_extensions import TypeAliasType

from mongo_envelope import BlindIndex, Bucket, DocumentCodec, KeyRing, PayloadError, Queryable, SchemaError, Sensitive
from mongo_envelope.blind import Definition
from mongo_envelope.schema import Schema

KEYS = KeyRing.generate()
T = TypeVar("T")


class Small(enum.Enum):
    a = "a"
    b = "b"


class Large(enum.IntEnum):
    """Of 32 members."""

    _ignore_ = "number"
    for number in range(32):
        locals()[f"m{number}"] = number


class Options(enum.Flag):
    """Of six members and 64 values."""

    a, b, c, d, e, f = (1 << number for number in range(6))


class Complex(enum.Enum):
    """Whose values have no encoding."""

    i = 1j


def model_of(kind: Any, *index: Any, **fields: Any) -> type[BaseModel]:
    """A model with one field of this type, and others that are said or these: ``text``, ``number``, ``flag`` in the clear."""
    return create_model(
        "Model",
        __config__=ConfigDict(arbitrary_types_allowed=True),
        id=(int, 1),
        **{
            "text": (Annotated[str, Queryable()], ""),
            "number": (Annotated[int, Queryable(name="n")], 0),
            "flag": (Annotated[bool, Queryable()], False),
            **fields,
        },
        # Without the object, typing gives an earlier Annotated for an equal one, and 128.0 == 128.
        field=(Annotated[kind, Sensitive(index=index[0] if len(index) == 1 else list(index)), object()], ...),
    )


def indexes(kind: Any, *index: Any, **fields: Any) -> tuple[Definition, ...]:
    """The indexes of such a model."""
    return Schema.of(model_of(kind, *index, **fields)).blind


def refused(kind: Any, *index: Any, **fields: Any) -> str:
    """What such a model is refused with; it names the field."""
    with pytest.raises(SchemaError) as caught:
        indexes(kind, *index, **fields)
    assert str(caught.value).startswith("Model.field: ")
    assert caught.value.__context__ is None
    return str(caught.value)


# --- which types ----------------------------------------------------------------------------------------------------

#: every type of tests/every_type.py that can have an index as it is
EXACT: Final = {
    *("str", "int", "float", "bytes", "bytearray", "SecretStr", "SecretBytes", "Decimal", "UUID", "date", "datetime", "time"),
    *("timedelta", "IPv4Address", "IPv6Address", "IPv4Network", "IPv6Interface", "ObjectId", "Fraction", "AnyUrl", "HttpUrl"),
    *("EmailStr", "ByteSize", "Base64Bytes", "Base64Str", "Base64UrlBytes", "bytes or str", "datetime or date", "date or datetime"),
    *("int or str", "str or int", "int or float", "float or int", "bool or int", "int or bool", "UUID or str", "three numbers"),
    *("secret or int", "masked", "masked list", "list", "set", "frozenset", "tuple of any length", "deque", "Json[T]"),
}
LISTS: Final = {"list", "set", "frozenset", "tuple of any length", "deque", "masked list", "Json[T]"}
#: those of so few values that whoever counts knows them all
FEW: Final = {"bool", "Enum", "Enum of odd values", "Flag", "IntEnum", "Literal", "Literal of members"}


@pytest.mark.parametrize("name", EVERY_TYPE)
def test_which_types_can_have_an_index(name: str) -> None:
    """A table of all types that a model may have: as they are, only if it is said that they are few, or not at all."""
    kind, _ = EVERY_TYPE[name]
    if name in EXACT:
        assert [each.name for each in indexes(kind, BlindIndex())] == ["field"]
    elif name in FEW:
        assert "possible values" in refused(kind, BlindIndex())
        assert [each.name for each in indexes(kind, BlindIndex(few_values=True))] == ["field"]
    else:
        assert re.search(
            "the normaliser exact does not take|a blind index is on one value|a model around a list", refused(kind, BlindIndex())
        )


@pytest.mark.parametrize("name", EVERY_TYPE)
def test_where_the_error_says_that_a_function_will_it_will(name: str) -> None:
    """What has an index as it is can have one by a function, too; and what the error says will do does."""
    kind, _ = EVERY_TYPE[name]
    index = BlindIndex(normalize=repr, normalize_id="repr", few_values=True)
    if name in EXACT | FEW or "A function will" in refused(kind, BlindIndex()):
        assert [each.name for each in indexes(kind, index)] == ["field"]
    elif name in {"Any", "Json", "tuple", "NamedTuple"}:
        assert "a blind index is on one value, or on a list of values of one type" in refused(kind, index)


@pytest.mark.parametrize("name", sorted(EXACT | FEW))
def test_every_value_of_such_a_type_is_indexed(name: str) -> None:
    """What the schema takes, `seal` takes: each value has an index value, and `verify` computes the same."""
    kind, values = EVERY_TYPE[name]
    codec = DocumentCodec(model_of(kind, BlindIndex(few_values=True, none=True)), keys=KEYS, context="c")
    for value in values:
        document = codec.seal(codec.schema.model.model_construct(id=1, text="", number=0, flag=False, field=value))
        stored = document["idx"]["field"]
        assert isinstance(stored, bytes) or stored == sorted(stored)
        codec.verify(document)


@pytest.mark.parametrize("index", [Bucket(width=10), Bucket(width="month"), Bucket(width="year")])
@pytest.mark.parametrize("name", EVERY_TYPE)
def test_which_types_can_have_buckets(name: str, index: Bucket) -> None:
    """Numbers by a number, dates by month or year, and nothing else."""
    kind, _ = EVERY_TYPE[name]
    numeric = {"int", "float", "Decimal", "ByteSize", "int or float", "float or int", "three numbers"}
    able = numeric if index.width == 10 else {"date", "datetime", "datetime or date", "date or datetime"}
    if name == "IntEnum":
        assert ("possible values" if index.width == 10 else "A Bucket is for") in refused(kind, index)
    elif name in able:
        assert [each.name for each in indexes(kind, index)] == ["field_bucket"]
    else:
        assert refused(kind, index)


@pytest.mark.parametrize("normalize", ["casefold", "digits", "email", "phone", "phone:GB", "date"])
@pytest.mark.parametrize("name", EVERY_TYPE)
def test_which_types_a_normaliser_takes(name: str, normalize: str) -> None:
    """Text, a secret that hides some, and lists of it; or dates. No other error comes of any type than ours."""
    kind, _ = EVERY_TYPE[name]
    able = {"str", "SecretStr", "EmailStr", "Base64Str", "masked"}
    if normalize == "date":
        able = {"date", "datetime", "datetime or date", "date or datetime"}
    if name in able:
        assert [each.name for each in indexes(kind, BlindIndex(normalize=normalize))] == ["field"]
    else:
        assert refused(kind, BlindIndex(normalize=normalize))


@pytest.mark.parametrize("name", EVERY_TYPE)
def test_which_types_can_stand_around_an_index(name: str) -> None:
    """Within one: those that have an encoding, are no lists, and, in the clear, are not rounded by BSON."""
    kind, _ = EVERY_TYPE[name]
    other = (Annotated[kind, Sensitive(index=BlindIndex(few_values=True))], ...)
    if name in (EXACT | FEW) - LISTS:
        found = indexes(str, BlindIndex(within=("other",)), other=other)
        assert {each.name for each in found} == {"other", "other_field"}
    else:
        with pytest.raises(SchemaError, match=r"Model\.(field|other): "):
            indexes(str, BlindIndex(within=("other",)), other=other)


@pytest.mark.parametrize(
    "kind",
    [
        *(str | None, Annotated[str, Field(max_length=3)], Annotated[str, "x"] | None, list[str] | None),
        *(list[str | None], list[Annotated[str, "x"]], TypeAliasType("Alias", str), NewType("New", str), str | int | None),
        *(list[SecretStr], list[UUID], list[ObjectId], list[ipaddress.IPv4Address], list[AnyUrl], list[ByteSize], set[date]),
        *(list[datetime], list[time], list[timedelta], list[Decimal], tuple[str, ...] | None, frozenset[int], deque[bytes]),
        *(list[int | str], list[int] | None, set[Large]),
    ],
)
def test_other_shapes_of_a_type_can_have_an_index(kind: Any) -> None:
    """Optional, annotated, under another name, several of one kind, in a list."""
    assert [each.name for each in indexes(kind, BlindIndex())] == ["field"]


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (list[list[str]], "field is a list, which the normaliser exact does not take. A function will"),
        (list[list[str]] | None, "does not take"),
        (list[dict[str, int]], "field is a dict"),
        (dict[str, str], "field is a dict"),
        (list[Any], "of which nothing is known that could be indexed"),
        (list, "of which nothing is known that could be indexed"),
        (Any, "a blind index is on one value, or on a list of values of one type"),
        (str | list[str], "a blind index is on one value, or on a list of values of one type"),
        (tuple[str, str], "a blind index is on one value, or on a list of values of one type"),
        (Sequence[str], "field is a list | tuple, which the normaliser exact does not take"),
        (None, "of which nothing is known that could be indexed"),
        (BaseModel, "does not take"),
        (Roots, "field is a "),
        (complex, "field is a complex"),
        (str | complex, "field is a "),
        (set[tuple[int, int]], "does not take"),
    ],
)
def test_other_types_are_refused(kind: Any, says: str) -> None:
    """The error names the field, what it is, and what would do."""
    assert says in refused(kind, BlindIndex())


@pytest.mark.parametrize(
    ("kind", "normalize", "what"),
    [
        (int, "casefold", "int"),
        (int | str, "casefold", "int | str"),
        (bytes, "email", "bytes"),
        (list[int], "digits", "int"),
        (date, "phone", "date"),
        (str, "date", "str"),
        (time, "date", "time"),
        (Small, "casefold", "Small"),
        (SecretStr, "date", "str"),
    ],
)
def test_a_normaliser_of_other_values_is_refused(kind: Any, normalize: str, what: str) -> None:
    """A number has no case, and a text is no date: `lambda` is the way out."""
    index = BlindIndex(normalize=normalize, few_values=True)
    assert f"field is a {what}, which the normaliser {normalize} does not take. A function will" in refused(kind, index)


@pytest.mark.parametrize(
    ("kind", "width"),
    [
        *((each, 10) for each in (str, bytes, date, datetime, UUID, timedelta, bool, bool | int, SecretStr, int | str, Small)),
        *((each, "month") for each in (str, int, float, Decimal, time, timedelta, date | int)),
    ],
)
def test_buckets_are_for_numbers_and_dates(kind: Any, width: Any) -> None:
    """A bool is no number, and a secret text is none."""
    assert "A Bucket is for numbers, or, by month or year, for dates" in refused(kind, Bucket(width=width))


@pytest.mark.parametrize("kind", [list[int], set[Decimal], tuple[float, ...], list[int] | None])
def test_buckets_are_for_one_number(kind: Any) -> None:
    """Of a list, a range means that one element is above and perhaps another below: nobody means that."""
    assert "a Bucket is for one number or date, and this field is a list of them" in refused(kind, Bucket(width=10))


def test_an_enumeration_without_encodings_is_refused_or_every_save_says_so() -> None:
    """A member whose value has no encoding is never stored under nothing."""
    try:
        model = model_of(Complex, BlindIndex(few_values=True))
        codec = DocumentCodec(model, keys=KEYS, context="c")
    except SchemaError as error:
        assert "Model.field: " in str(error)  # noqa: PT017 - one of two
    else:
        with pytest.raises(PayloadError, match="field: a complex has no index value"):
            codec.seal(model(field=Complex.i))


# --- few values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        (bool, 2),
        (bool | None, 3),
        (Annotated[bool, "x"], 2),
        (Annotated[bool, "x"] | None, 3),
        (list[bool], 2),
        (set[bool | None], 3),
        (frozenset[bool], 2),
        (tuple[bool, ...], 2),
        (deque[bool], 2),
        (list[bool] | None, 3),
        (Small, 2),
        (Small | None, 3),
        (list[Small], 2),
        (Small | bool, 4),
        (Literal["a", "b"], 2),
        (Literal["a", "b"] | None, 3),
        (list[Literal[1, 2, 3]], 3),
        (Literal[1] | Small, 3),
        (TypeAliasType("Alias", bool), 2),
        (TypeAliasType("Alias", T | None, type_params=(T,))[bool], 3),
        (NewType("New", bool), 2),
    ],
)
def test_a_field_of_few_values_needs_a_word_for_it(kind: Any, count: int) -> None:
    """Whoever counts its index values knows which is which; the error says how many there are, and three ways out."""
    said = refused(kind, BlindIndex())
    assert f"only {count} possible values" in said
    assert "within= another index" in said
    assert "few_values=True" in said
    assert [each.name for each in indexes(kind, BlindIndex(few_values=True))] == ["field"]


@pytest.mark.parametrize("kind", [Large, list[Large], Large | None, bool | int, Small | str, Literal["a"] | int, Large | Small])
def test_a_field_of_many_values_needs_none(kind: Any) -> None:
    """From 32 on, and where a type has no end."""
    assert [each.name for each in indexes(kind, BlindIndex())] == ["field"]


def test_a_field_of_few_values_within_a_bigger_index() -> None:
    """The product counts, and one part without an end is enough."""
    assert [each.name for each in indexes(bool, BlindIndex(within=("text",)))] == ["text_field"]
    assert [each.name for each in indexes(str, BlindIndex(within=("flag",)))] == ["flag_field"]
    assert "only 4 possible values" in refused(bool, BlindIndex(within=("flag",)))
    assert "only 12 possible values" in refused(Small | None, BlindIndex(within=("flag", "size")), size=_size(Small))
    assert [each.name for each in indexes(bool, BlindIndex(within=("size",)), size=_size(Large))] == ["size_field"]


def _size(kind: Any) -> Any:
    return Annotated[kind, Queryable()], ...


# --- bits, names and several ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [12, 0, 7, -8, 264, 128.0, "128", None, True, 1])
@pytest.mark.parametrize("make", [BlindIndex, lambda bits: Bucket(width=1, bits=bits)])
def test_bits_are_whole_bytes(bits: Any, make: Any) -> None:
    """From 8 to 256."""
    assert "bits= is a multiple of 8, from 8 to 256" in refused(int, make(bits=bits))


@pytest.mark.parametrize("bits", [8, 16, 128, 256])
def test_bits_are_kept(bits: int) -> None:
    """In the definition, of both kinds."""
    assert [each.bits for each in indexes(int, BlindIndex(bits=bits), Bucket(width=1, bits=bits))] == [bits, bits]


def test_unique_needs_values_that_are_not_equal_by_chance() -> None:
    """128 bits or more."""
    assert "unique needs values of 128 bits or more" in refused(str, BlindIndex(unique=True, bits=120))
    assert [each.unique for each in indexes(str, BlindIndex(unique=True), BlindIndex(name="b"))] == [True, False]
    assert indexes(str, BlindIndex(unique=True, bits=136))[0].unique


@pytest.mark.parametrize("name", ["", "kid", "$a", "a.b", ".", "a\0", 5, b"a", ["a"]])
@pytest.mark.parametrize("make", [BlindIndex, lambda name: Bucket(width=1, name=name)])
def test_a_name_that_cannot_be_stored_is_refused(name: Any, make: Any) -> None:
    """The error says what a name is."""
    said = refused(int, make(name=name))
    assert "not empty, not kid, no leading $, no dot, no NUL" in said


def test_a_name_that_has_no_utf_8_is_refused() -> None:
    """A lone surrogate is in no name in MongoDB."""
    assert "name" in refused(str, BlindIndex(name="\ud800"))


def test_a_name_has_at_most_255_bytes() -> None:
    """Counted in UTF-8; also a default name, of many fields."""
    assert indexes(str, BlindIndex(name="é" * 127 + "x"))[0].name == "é" * 127 + "x"
    assert "at most 255 bytes" in refused(str, BlindIndex(name="é" * 128))
    long = "l" * 250
    assert "at most 255 bytes" in refused(str, BlindIndex(within=(long,)), **{long: (Annotated[str, Queryable()], "")})


def test_names_that_need_none() -> None:
    """The field's own, behind those around it; a bucket has a word behind it."""
    found = indexes(int, BlindIndex(), Bucket(width=1), BlindIndex(within=("text", "number")), Bucket(width=2, name="kid2"))
    assert [each.name for each in found] == ["field", "field_bucket", "text_number_field", "kid2"]
    assert [[part.field for part in each.parts] for each in found] == [["field"], ["field"], ["text", "number", "field"], ["field"]]
    assert [each.ranges for each in found] == [False, True, False, True]


@pytest.mark.parametrize("name", ["text", "number", "n", "flag", "id", "_id", "secret", "computed", "stored"])
def test_the_name_of_another_field_is_refused(name: str) -> None:
    """In Python or as it is stored, sensitive or computed: a filter would not know which is meant."""

    class Model(BaseModel):
        id: int
        text: Annotated[str, Queryable()]
        number: Annotated[int, Queryable(name="n")]
        flag: Annotated[bool, Queryable()]
        secret: str
        field: Annotated[str, Sensitive(index=BlindIndex(name=name))]

        @computed_field  # type: ignore[prop-decorator]  # as pydantic's documentation has it
        @property
        def computed(self) -> Annotated[int, Queryable(name="stored")]:
            return 1

    with pytest.raises(SchemaError, match=r"the blind index has the name of another field: .* Give it another name="):
        Schema.of(Model)


def test_a_default_name_may_be_another_fields() -> None:
    """Then it has to be said."""
    assert "'field_bucket'. Give it another name=" in refused(int, Bucket(width=1), field_bucket=(str, ""))
    assert "'text_field'. Give it another name=" in refused(int, BlindIndex(within=("text",)), text_field=(str, ""))


def test_two_indexes_of_one_name_are_refused() -> None:
    """On one field or on two."""
    assert "two blind indexes of the name 'field'. Give one of them name=" in refused(str, BlindIndex(), BlindIndex(bits=64))
    assert "two blind indexes of the name 'field_bucket'" in refused(int, Bucket(width=1), Bucket(width=2))
    other = (Annotated[str, Sensitive(index=BlindIndex(name="x"))], "")
    with pytest.raises(SchemaError, match=r"^Model\.field: two blind indexes of the name 'x'"):
        indexes(str, BlindIndex(name="x"), other=other)
    assert [each.name for each in indexes(str, BlindIndex(name="x"), BlindIndex(name="y"))] == ["x", "y"]


@pytest.mark.parametrize("name", ["data", "iv", "v", "hmac", "idx", "model_", "é", "A b", "0", "$"[:0] + "a$"])
def test_any_other_name_is_taken(name: str) -> None:
    """Names of the envelope, too: an index stands inside ``idx``."""
    assert indexes(str, BlindIndex(name=name))[0].name == name


# --- within ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("within", "says"),
    [
        ("text", "within= takes the names of other fields"),
        (("nothing",), "within= names 'nothing', which is no field of the model"),
        (("n",), "within= names 'n', which is no field of the model"),
        (("_id",), "no field of the model"),
        ((5,), "within= takes the names of other fields"),
        ((None,), "within= takes the names of other fields"),
        (("x" * 1000,), f"within= names {'x' * 64!r}, which"),
        (("field",), "within= names a field twice, or the field itself"),
        (("tags",), "within= names tags, which is a list: only the field itself can be one"),
        (("at",), "within= names at, which BSON rounds"),
        (("secret",), "within= names secret, which is sensitive and has no index"),
        ({"text": "lower"}, "normalize= is one of exact, casefold"),
        ({"text": str.lower}, "normalize_id= must name what it does"),
        ({"number": "casefold"}, "number is a int, which the normaliser casefold does not take"),
        ({"text": None}, "normalize= is one of"),
        (5, "within="),
        (None, "within="),
        ([["text"]], "within="),
    ],
)
def test_what_cannot_stand_around_an_index(within: Any, says: str) -> None:
    """Another name than a field's, a list, what is rounded or cannot be searched for, and a normaliser that does not fit."""
    fields = {
        "tags": (Annotated[list[str], Queryable()], []),
        "at": (Annotated[datetime, Queryable()], ...),
        "secret": (str, ""),
    }
    assert says in refused(str, BlindIndex(within=within), **fields)


def test_a_name_twice_around_an_index_is_once() -> None:
    """The error is the same as for the field itself, or it is counted once: never two parts of one field."""
    try:
        found = indexes(str, BlindIndex(within=("text", "text")))
    except SchemaError as error:
        assert "twice" in str(error)  # noqa: PT017 - one of two
    else:
        assert [part.field for part in found[0].parts] == ["text", "field"]


def test_each_part_has_its_normaliser() -> None:
    """A dict says which; otherwise it is exact. The ids, in order, are what enters the derivation."""
    found = indexes(str, BlindIndex(normalize="email", within={"text": "casefold", "number": "exact"}))[0]
    assert (found.name, found.normalizer_id) == ("text_number_field", "casefold+exact+email")
    assert indexes(str, BlindIndex(within=["number", "text"]))[0].normalizer_id == "exact+exact+exact"
    assert indexes(str, BlindIndex(within=("id",)))[0].name == "id_field"
    assert indexes(list[str], BlindIndex(within=("text",)))[0].owner.many


# --- where it stands ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", ["email", 5, {BlindIndex()}, [BlindIndex(), "x"], [[BlindIndex()]], Bucket, [None], True])
def test_another_index_is_refused(index: Any) -> None:
    """What is no index, and a Bucket without a width."""
    assert "index= takes a BlindIndex, a Bucket, or a list of them" in refused(str, index)


@pytest.mark.parametrize("index", [None, [], ()])
def test_no_index_is_none(index: Any) -> None:
    """As without the argument."""
    assert indexes(str, index) == ()


@pytest.mark.parametrize("index", [BlindIndex, BlindIndex(), [BlindIndex()], (BlindIndex,)])
def test_the_class_stands_for_an_index_without_arguments(index: Any) -> None:
    """As with the markers themselves."""
    assert [each.name for each in indexes(str, index)] == ["field"]


@pytest.mark.parametrize(
    ("index", "says"),
    [
        (Bucket(width=0), "width= is a positive int or Decimal"),
        (Bucket(width=0.5), "width= is a positive int or Decimal"),
        (Bucket(width=Decimal("NaN")), "width= is a positive int or Decimal"),
        (Bucket(width=1, low=1), "low= and high= of a Bucket are given together"),
        (Bucket(width=1, low=2, high=1), "low the lower"),
        (Bucket(width=1, low=Decimal("NaN"), high=1), "low= and high="),
        (Bucket(width=1, low=0, high=Decimal("Infinity")), "low= and high="),
        (BlindIndex(normalize="nothing"), "normalize= is one of"),
        (BlindIndex(normalize=5), "normalize= is one of"),
        (BlindIndex(normalize=str), "normalize_id= must name what it does"),
        (BlindIndex(normalize=str, normalize_id="exact"), "normalize_id= must name what it does"),
        (BlindIndex(normalize=str, normalize_id=5), "normalize_id= must name what it does"),  # type: ignore[arg-type]
        (BlindIndex(normalize_id="a"), "normalize_id= goes with a function"),
        (BlindIndex(normalize="phone:UK"), "no region UK"),
    ],
)
def test_what_a_normaliser_refuses_names_the_field(index: Any, says: str) -> None:
    """The field is known here, and not where a width or a name is looked at."""
    assert says in refused(int, index)


def test_what_is_built_is_what_was_said() -> None:
    """All of it, in the order of the declaration, for `blind`."""
    found = indexes(
        list[float],
        BlindIndex(normalize=repr, normalize_id="r", unique=True, within=("text",), bits=256, none=True, name="x"),
        BlindIndex(),
    )
    first, second = found
    assert (first.name, first.bits, first.unique, first.none, first.ranges) == ("x", 256, True, True, False)
    assert (first.normalizer_id, first.owner.field, first.owner.many, first.owner.real) == ("exact+r", "field", True, True)
    assert (second.name, second.bits, second.unique, second.none) == ("field", 128, False, False)
    assert not indexes(int | float, BlindIndex())[0].owner.real


def test_a_flag_has_more_values_than_members() -> None:
    """Six members, alone and together, are 64 values; with or without a word for it, the index can be had."""
    assert [each.name for each in indexes(Options, BlindIndex(few_values=True))] == ["field"]


def test_a_generator_around_an_index_is_not_used_up() -> None:
    """A marker is read again for each subclass of the model: either the names are there each time, or it is refused."""
    index = BlindIndex(within=(name for name in ("text",)))  # type: ignore[arg-type]
    outcomes = []
    for _ in range(2):
        try:
            outcomes.append(indexes(str, index)[0].name)
        except SchemaError:
            outcomes.append("refused")
    assert len(set(outcomes)) == 1
