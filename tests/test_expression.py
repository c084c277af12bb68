"""Aggregation expressions: which names in them are fields, and what is refused because it could reach past these."""

from __future__ import annotations

import enum
from collections import OrderedDict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import pytest
from bson import Code, DBRef, Decimal128, Int64, ObjectId
from hypothesis import given
from hypothesis import strategies as st

from mongo_envelope import QueryError
from mongo_envelope.envelope import encodes
from mongo_envelope.expression import compile_expression

STORED = {"tenant": "t", "rank": "rank", "address": "a", "tags": "tags"}


def resolve(path: str) -> str:
    top, dot, rest = path.partition(".")
    if top not in STORED:
        raise QueryError(f"no {top}")
    return STORED[top] + dot + rest


def compiled(expression: Any) -> Any:
    return compile_expression(resolve, expression)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("$tenant", "$t"),
        ("$address.city", "$a.city"),
        ("tenant", "tenant"),
        ("$$NOW", "$$NOW"),
        ("$$REMOVE", "$$REMOVE"),
        (None, None),
        (5, 5),
        ({}, {}),
        (("$tenant", 1), ["$t", 1]),
        ({"tenant": "$tenant", "in": {"a": ["$rank"]}}, {"tenant": "$t", "in": {"a": ["$rank"]}}),
        (OrderedDict({"$toUpper": "$tenant"}), {"$toUpper": "$t"}),
        ({"$eq": ["$tenant", {"$literal": "$tenant"}]}, {"$eq": ["$t", {"$literal": "$tenant"}]}),
        ({"$literal": {"$where": ["$$ROOT", "$email"]}}, {"$literal": {"$where": ["$$ROOT", "$email"]}}),
        (
            {"$cond": {"if": {"$gt": ["$rank", 1]}, "then": "$tenant", "else": "x"}},
            {"$cond": {"if": {"$gt": ["$rank", 1]}, "then": "$t", "else": "x"}},
        ),
        (
            {"$switch": {"branches": [{"case": "$tenant", "then": "$address"}], "default": "$tenant"}},
            {"$switch": {"branches": [{"case": "$t", "then": "$a"}], "default": "$t"}},
        ),
        (
            {"$let": {"vars": {"a": "$tenant"}, "in": ["$$a", "$$a.b", "$tenant"]}},
            {"$let": {"vars": {"a": "$t"}, "in": ["$$a", "$$a.b", "$t"]}},
        ),
        (
            {"$map": {"input": "$tags", "as": "tenant", "in": {"$concat": ["$$tenant", "$tenant"]}}},
            {"$map": {"input": "$tags", "as": "tenant", "in": {"$concat": ["$$tenant", "$t"]}}},
        ),
        (
            {"$filter": {"input": "$address.list", "cond": "$$this.x", "limit": "$rank"}},
            {"$filter": {"input": "$a.list", "cond": "$$this.x", "limit": "$rank"}},
        ),
        (
            {"$reduce": {"input": "$tags", "initialValue": "$tenant", "in": {"$concat": ["$$value", "$$this"]}}},
            {"$reduce": {"input": "$tags", "initialValue": "$t", "in": {"$concat": ["$$value", "$$this"]}}},
        ),
        (
            {"$sortArray": {"input": "$address.list", "sortBy": {"tenant": 1, "a.b": -1}}},
            {"$sortArray": {"input": "$a.list", "sortBy": {"tenant": 1, "a.b": -1}}},
        ),
        ({"$sortArray": {"input": "$tags", "sortBy": -1}}, {"$sortArray": {"input": "$tags", "sortBy": -1}}),
        ({"$top": {"sortBy": {"tenant": -1}, "output": "$address"}}, {"$top": {"sortBy": {"t": -1}, "output": "$a"}}),
        (
            {"$bottomN": {"sortBy": {"address.x": 1}, "output": ["$tenant"], "n": 2}},
            {"$bottomN": {"sortBy": {"a.x": 1}, "output": ["$t"], "n": 2}},
        ),
        ({"$getField": "tenant"}, {"$getField": "t"}),
        ({"$getField": {"field": "tenant"}}, {"$getField": {"field": "t"}}),
        (
            {"$getField": {"field": "tenant", "input": "$address"}},
            {"$getField": {"field": "tenant", "input": "$a"}},
        ),
        (
            {"$setField": {"field": "tenant", "input": "$address", "value": "$tenant"}},
            {"$setField": {"field": "tenant", "input": "$a", "value": "$t"}},
        ),
        ({"$unsetField": {"field": "x", "input": "$address"}}, {"$unsetField": {"field": "x", "input": "$a"}}),
        ({"$dateToString": {"date": "$$NOW", "format": "%Y"}}, {"$dateToString": {"date": "$$NOW", "format": "%Y"}}),
        ({"$sum": 1}, {"$sum": 1}),
        ({"$count": {}}, {"$count": {}}),
    ],
    ids=repr,
)
def test_each_path_of_a_field_is_renamed_and_nothing_else(expression: Any, expected: Any) -> None:
    """Wherever an expression may stand, but not in a literal, in a variable, or in the names of elements and objects."""
    assert compiled(expression) == expected


@pytest.mark.parametrize(
    "value",
    [True, 1.5, Int64(2), Decimal128("1"), "text", b"x", UUID(int=1), ObjectId(bytes(12)), datetime(2024, 1, 1, tzinfo=UTC), "a.b"],
    ids=repr,
)
def test_values_that_bson_holds_pass_as_they_are(value: Any) -> None:
    """The server compares them as it does everywhere."""
    assert compiled({"$eq": ["$rank", value]}) == {"$eq": ["$rank", value]}
    assert compiled(value) is value


class Colour(enum.Enum):
    red = "r"


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Decimal(1), "Decimal"),
        (date(2024, 1, 1), "date"),
        (timedelta(1), "timedelta"),
        (Colour.red, "Colour"),
        (PurePosixPath("/secret"), "PurePosixPath"),
        (1 << 64, "int"),
        ("\ud800", "str"),
        ("$$NOW.\ud800", "str"),
        ({1}, "set"),
        (Code("$tenant"), "Code"),
        (DBRef("a", 1), "DBRef"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isascii() else "",
)
def test_values_that_bson_does_not_hold_are_refused(value: Any, name: str) -> None:
    """By their type, with how to write them, and never with the value itself."""
    for expression in (value, ["$rank", value], {"a": value}, {"$literal": value}, {"$eq": ["$rank", value]}):
        with pytest.raises(QueryError, match=f"a {name} that BSON cannot hold.*Write it as it is stored") as caught:
            compiled(expression)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("$email", "no email"),
        ({"$sum": ["$rank", {"a": {"$max": "$email.x"}}]}, "no email"),
        ({"$literal": 5, "a": 1}, r"\$literal stands beside other names"),
        ({"a": 1, "$sum": 5, "$max": 5}, r"\$sum stands beside"),
        ({"a.b": 1}, "without dots and NUL"),
        ({5: 1}, "names in an object are text"),
        ({"a\0": 1}, "without dots and NUL"),
        ("$$ROOT", r"\$\$ROOT is the whole document.*Name the fields"),
        ("$$ROOT.tenant", r"\$\$ROOT is the whole document"),
        ("$$CURRENT", r"\$\$CURRENT is the whole document"),
        ({"$push": "$$ROOT"}, r"\$\$ROOT is the whole document"),
        ({"$objectToArray": "$$CURRENT"}, r"\$\$CURRENT is the whole"),
        ({"$getField": {"field": "x", "input": "$$ROOT"}}, r"\$\$ROOT is the whole"),
        ({"$unsetField": {"field": "x", "input": "$$ROOT"}}, r"\$\$ROOT is the whole"),
        ("$$NOWW", r"\$\$NOWW is no variable here. Did you mean \$\$NOW\?"),
        ("$$this", r"\$\$this is no variable here"),
        ("$$USER_ROLES", "no variable here"),
        ("$$DESCEND", "no variable here"),
        ({"$map": {"input": "$$this", "in": 1}}, r"\$\$this is no variable"),
        ({"$filter": {"input": [], "cond": 1, "limit": "$$this"}}, r"\$\$this is no variable"),
        ({"$reduce": {"input": [], "initialValue": "$$value", "in": 1}}, r"\$\$value is no variable"),
        ({"$let": {"vars": {"a": 1, "b": "$$a"}, "in": 1}}, r"\$\$a is no variable"),
        ({"$let": {"vars": {"CURRENT": "$address"}, "in": "$tenant"}}, "named by a small letter"),
        ({"$let": {"vars": {5: 1}, "in": 1}}, "named by a small letter"),
        ({"$let": {"vars": [], "in": 1}}, "vars is a dict"),
        ({"$let": {"vars": {}}}, r"\$let takes a dict of vars, in"),
        ({"$map": {"input": "$tags", "as": "ROOT", "in": 1}}, "named by a small letter"),
        ({"$map": ["$tags"]}, r"\$map takes a dict of input, in, as"),
        ({"$filter": {"input": 1, "cond": 1, "in": 1}}, r"\$filter takes a dict of input, cond, as, limit"),
        ({"$reduce": {}}, r"\$reduce takes a dict"),
        ({"$getField": "email"}, "no email"),
        ({"$getField": "address.city"}, "as text without"),
        ({"$getField": "$tenant"}, "as text without"),
        ({"$getField": {"field": {"$concat": ["em", "ail"]}}}, "as text without"),
        ({"$getField": {"$concat": ["em", "ail"]}}, r"\$getField takes a dict of field"),
        ({"$getField": 5}, r"\$getField takes a dict of field, input"),
        ({"$setField": {"field": "a", "value": "$email"}}, r"\$setField takes a dict of field, input, value"),
        ({"$setField": {"field": "a", "value": "$email", "input": {}}}, "no email"),
        ({"$unsetField": {"field": "a"}}, r"\$unsetField takes a dict of field, input"),
        ({"$sortArray": {"input": "$tags", "sortBy": {"a": {"$meta": "x"}}}}, "sortBy is 1 or -1"),
        ({"$sortArray": {"input": "$tags", "sortBy": {}}}, "sortBy is 1 or -1"),
        ({"$sortArray": {"input": "$tags", "sortBy": True}}, "sortBy is 1 or -1"),
        ({"$top": {"sortBy": {"email": 1}, "output": 1}}, "no email"),
        ({"$top": {"sortBy": {5: 1}, "output": 1}}, "names fields by text"),
        ({"$top": {"sortBy": "tenant", "output": 1}}, "sortBy is a dict of names"),
        ({"$topN": {"sortBy": {"tenant": 1}, "output": 1}}, r"\$topN takes a dict of sortBy, output, n"),
        ({"$function": {"body": "", "args": [], "lang": "js"}}, r"\$function runs JavaScript"),
        ({"$accumulator": {}}, r"\$accumulator runs JavaScript"),
        ({"$where": "1"}, r"\$where runs JavaScript"),
        ({"$meta": "textScore"}, r"\$meta is not served in an expression"),
        ({"$const": 1}, r"\$const is not served"),
        ({"$bsonSize": "$address"}, r"\$bsonSize is not served in an expression. Did you mean .*\$binarySize"),
        ({"$toUper": "$tenant"}, r"\$toUper is not served in an expression. Did you mean .*\$toUpper"),
        ({"$nothing at all like it": 1}, r"Served: \$abs, .*\$zip"),
    ],
    ids=repr,
)
def test_what_could_not_be_answered_exactly_is_refused(expression: Any, message: str) -> None:
    """With the name of the operator or the field, and a way out."""
    with pytest.raises(QueryError, match=message):
        compiled(expression)


def test_a_stored_name_is_not_sorted_by_twice() -> None:
    """Two names that are stored as one would leave one of two directions."""
    with pytest.raises(QueryError, match="each one once"):
        compile_expression(lambda _: "t", {"$top": {"sortBy": {"tenant": 1, "t": -1}, "output": 1}})


def test_an_expression_inside_itself_is_refused() -> None:
    """As one that is nested beyond reason is."""
    loop: dict[str, Any] = {}
    loop["$not"] = [loop]
    with pytest.raises(QueryError, match="inside itself"):
        compiled(loop)


NAMES = st.sampled_from(
    ["$sum", "$let", "$map", "$getField", "$literal", "$top", "$$ROOT", "vars", "in", "field", "input", "a", ""]
)
PIECES = st.recursive(
    st.sampled_from(["$tenant", "$email", "$email.x", "$$ROOT", "$$this", "$$ROOT.email", "x", "$", "$$", 1, None, Decimal(1)]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)


def paths(expression: Any) -> list[str]:
    """All text with a dollar sign in it, but for what is literal."""
    if isinstance(expression, dict):
        return [path for name, each in expression.items() if name != "$literal" for path in paths(each)]
    if isinstance(expression, list):
        return [path for each in expression for path in paths(each)]
    return [expression] if isinstance(expression, str) and expression.startswith("$") else []


@given(PIECES)
def test_whatever_comes_out_names_only_what_was_resolved(expression: Any) -> None:
    """A compiled expression holds no path of a field that is refused and no whole document; all else is a QueryError."""
    try:
        found = compiled(expression)
    except QueryError:
        return
    assert encodes(found)
    assert {path for path in paths(found) if not path.startswith("$$")} <= {"$t"}
    assert {path for path in paths(found) if path.startswith("$$")} <= {"$$this"}
