"""Aggregation expressions, as the stages of a pipeline and ``$expr`` take them. Pure: names in, stored names out.

    {"$sum": {"$multiply": ["$price", "$pieces"]}}

Each path of a field is given to ``resolve``, which says what it is called in the documents that come in, or refuses it. What
could reach a sealed document past that is refused: ``$$ROOT`` and ``$$CURRENT``, JavaScript, a field whose name only the server
computes, and every operator that is not listed here. Values are compared as BSON has them, so that they are written as BSON has
them: a `Decimal128` and not a Decimal, a datetime and not a date.

Source: the MongoDB manual, "Aggregation Expressions", "Variables in Aggregation Expressions" and "Aggregation Operators".
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from bson import Code, DBRef

from .envelope import encodes
from .errors import QueryError

__all__ = ["ACCUMULATORS", "compile_expression", "near_names", "operator_of"]

Resolve = Callable[[str], str]

_ARITHMETIC: Final = """
    $abs $acos $acosh $add $asin $asinh $atan $atan2 $atanh $bitAnd $bitNot $bitOr $bitXor $ceil $cos $cosh $degreesToRadians
    $divide $exp $floor $ln $log $log10 $mod $multiply $pow $radiansToDegrees $rand $round $sin $sinh $sqrt $subtract $tan $tanh
    $trunc
"""
_LOGICAL: Final = "$and $cmp $cond $eq $gt $gte $ifNull $lt $lte $ne $not $or $switch"
_TEXT: Final = """
    $concat $indexOfBytes $indexOfCP $ltrim $regexFind $regexFindAll $regexMatch $replaceAll $replaceOne $rtrim $split $strLenBytes
    $strLenCP $strcasecmp $substr $substrBytes $substrCP $toLower $toUpper $trim
"""
_DATES: Final = """
    $dateAdd $dateDiff $dateFromParts $dateFromString $dateSubtract $dateToParts $dateToString $dateTrunc $dayOfMonth $dayOfWeek
    $dayOfYear $hour $isoDayOfWeek $isoWeek $isoWeekYear $millisecond $minute $month $second $week $year
"""
_ARRAYS: Final = """
    $allElementsTrue $anyElementTrue $arrayElemAt $arrayToObject $concatArrays $filter $getField $in $indexOfArray $isArray $map
    $objectToArray $range $reduce $reverseArray $setDifference $setEquals $setField $setIntersection $setIsSubset $setUnion $size
    $slice $sortArray $unsetField $zip
"""
_TYPES: Final = """
    $binarySize $convert $isNumber $let $literal $toBool $toDate $toDecimal $toDouble $toInt $toLong $toObjectId $toString $type
"""
_OF_MANY: Final = """
    $addToSet $avg $bottom $bottomN $count $first $firstN $last $lastN $max $maxN $median $mergeObjects $min $minN $percentile
    $push $stdDevPop $stdDevSamp $sum $top $topN
"""
#: What ``$group`` and the buckets compute of many documents. Some of them are operators on one array, too.
ACCUMULATORS: Final = frozenset(_OF_MANY.split())
_SERVED: Final = ACCUMULATORS | {
    name for names in (_ARITHMETIC, _LOGICAL, _TEXT, _DATES, _ARRAYS, _TYPES) for name in names.split()
}
_JAVASCRIPT: Final = frozenset({"$function", "$accumulator", "$where"})
#: Variables of the server that say nothing of a document.
_SYSTEM: Final = frozenset({"NOW", "CLUSTER_TIME", "REMOVE"})
_DOCUMENTS: Final = frozenset({"ROOT", "CURRENT"})
#: CURRENT can be bound in MongoDB, and would change what every "$path" means. It does not begin with a small letter.
_VARIABLE: Final = re.compile("[a-z][A-Za-z0-9_]*")


def compile_expression(resolve: Resolve, expression: Any) -> Any:
    """The expression for MongoDB, its paths renamed by ``resolve``. Raise `QueryError` for what could not be answered exactly."""
    try:
        return _walk(_Scope(resolve, _SYSTEM), expression)
    except RecursionError:
        pass
    raise QueryError("an expression that is nested too deeply, or inside itself")


def operator_of(given: object) -> str | None:
    """The operator of an expression that is one, such as "$sum". Raise `QueryError` where one stands beside something else."""
    if not isinstance(given, Mapping):
        return None
    found = [name for name in given if isinstance(name, str) and name.startswith("$")]
    if found and len(given) > 1:
        raise QueryError(f"{found[0][:64]} stands beside other names: an expression is one operator, or an object without any")
    return found[0] if found else None


def near_names(name: str, known: Iterable[str]) -> str:
    """What to say of a name that is not served: those that were probably meant, or all of them."""
    served = sorted(known)
    near = difflib.get_close_matches(name, served, n=3)
    return f"Did you mean {' or '.join(near)}?" if near else f"Served: {', '.join(served)}"


@dataclass(frozen=True, slots=True)
class _Scope:
    """What names mean at one place of an expression."""

    resolve: Resolve
    variables: frozenset[str]

    def binding(self, *names: object) -> _Scope:
        """The same, with more variables."""
        for name in names:
            if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
                raise QueryError("a variable is named by a small letter, and letters, digits and _ after it")
        return replace(self, variables=self.variables.union(map(str, names)))


def _walk(scope: _Scope, given: Any) -> Any:
    if isinstance(given, Mapping):
        operator = operator_of(given)
        if operator is not None:
            return {operator: _operation(scope, operator, given[operator])}
        return {_key(name): _walk(scope, each) for name, each in given.items()}
    if isinstance(given, list | tuple):
        return [_walk(scope, each) for each in given]
    if not isinstance(given, str) or isinstance(given, Code) or not given.startswith("$"):
        return _value(given)
    return _variable(scope, given) if given.startswith("$$") else "$" + scope.resolve(given[1:])


def _value(given: Any) -> Any:
    if isinstance(given, Code | DBRef) or not encodes(given):
        raise QueryError(
            f"a {type(given).__name__} that BSON cannot hold, or that is no value. Write it as it is stored: Decimal128 for a "
            "Decimal, a datetime for a date, milliseconds for a timedelta, .value for an Enum, text for an address or a path"
        )
    return given


def _key(name: object) -> str:
    if not isinstance(name, str) or "." in name or not encodes({name: None}):
        raise QueryError("names in an object are text, without dots and NUL. Write {a: {b: …}} for a.b")
    return name


def _variable(scope: _Scope, given: str) -> str:
    name = given[2:].partition(".")[0]
    if name in _DOCUMENTS:
        raise QueryError(
            f"$${name} is the whole document, and what is sensitive stands in it encrypted. Name the fields: "
            '{"tenant": "$tenant", …}, or "$tenant" for one'
        )
    if name not in scope.variables:
        known = [f"$${each}" for each in scope.variables]
        raise QueryError(f"$${name[:64]} is no variable here. {near_names(f'$${name}', known)}")
    return str(_value(given))


def _operation(scope: _Scope, operator: str, operand: Any) -> Any:
    if operator in _JAVASCRIPT:
        raise QueryError(f"{operator} runs JavaScript, which is not looked into. Write it with other operators, or in Python")
    if operator not in _SERVED:
        raise QueryError(f"{operator[:64]} is not served in an expression. {near_names(operator, _SERVED)}")
    special = _SPECIAL.get(operator)
    return _walk(scope, operand) if special is None else special(scope, operator, operand)


# ---------------------------------------------------------------------------------------------------------------------
# Operators whose operands are not expressions alone.


def _arguments(operator: str, operand: Any, required: Iterable[str], optional: Iterable[str] = ()) -> Mapping[str, Any]:
    allowed = [*required, *optional]
    if not isinstance(operand, Mapping) or not set(required) <= operand.keys() <= set(allowed):
        raise QueryError(f"{operator} takes a dict of {', '.join(allowed)}")
    return operand


def _literal(_scope: _Scope, _operator: str, operand: Any) -> Any:
    return _value(operand)


def _let(scope: _Scope, operator: str, operand: Any) -> Any:
    given = _arguments(operator, operand, ("vars", "in"))
    if not isinstance(given["vars"], Mapping):
        raise QueryError(f"{operator}: vars is a dict of names and expressions")
    inner = scope.binding(*given["vars"])
    return {"vars": {name: _walk(scope, each) for name, each in given["vars"].items()}, "in": _walk(inner, given["in"])}


def _each(scope: _Scope, operator: str, operand: Any) -> Any:
    """$map and $filter: one variable for the element, in the part that is computed for each."""
    body = "in" if operator == "$map" else "cond"
    given = _arguments(operator, operand, ("input", body), ("as", "limit") if operator == "$filter" else ("as",))
    inner = scope.binding(given.get("as", "this"))
    return {name: each if name == "as" else _walk(inner if name == body else scope, each) for name, each in given.items()}


def _reduce(scope: _Scope, operator: str, operand: Any) -> Any:
    given = _arguments(operator, operand, ("input", "initialValue", "in"))
    inner = scope.binding("this", "value")
    return {name: _walk(inner if name == "in" else scope, each) for name, each in given.items()}


def _field_of(scope: _Scope, operator: str, operand: Any) -> Any:
    """$getField and its kin: a name of the document itself, or of an object that was computed and may hold any name."""
    if operator == "$getField" and isinstance(operand, str):
        return _name_of_field(scope, operator, operand)
    if operator == "$getField" and isinstance(operand, Mapping) and "input" not in operand:
        given = _arguments(operator, operand, ("field",))
        return {"field": _name_of_field(scope, operator, given["field"])}
    given = _arguments(operator, operand, ("field", "input", "value") if operator == "$setField" else ("field", "input"))
    return {name: _walk(scope, each) for name, each in given.items()}


def _name_of_field(scope: _Scope, operator: str, name: object) -> str:
    if not isinstance(name, str) or name.startswith("$") or "." in name:
        raise QueryError(f"{operator} without input takes the name of a field, as text without $ and dots")
    return scope.resolve(name)


def _sorted_array(scope: _Scope, operator: str, operand: Any) -> Any:
    """The names in ``sortBy`` are those of the elements."""
    given = _arguments(operator, operand, ("input", "sortBy"))
    by = given["sortBy"]
    directions = list(by.values()) if isinstance(by, Mapping) and by else [by]
    if not all(map(_is_direction, directions)) or not encodes(by):
        raise QueryError(f"{operator}: sortBy is 1 or -1, or a dict of names and these")
    return {"input": _walk(scope, given["input"]), "sortBy": by}


def _top(scope: _Scope, operator: str, operand: Any) -> Any:
    """The names in ``sortBy`` are those of the documents."""
    given = _arguments(operator, operand, ("sortBy", "output", "n") if operator.endswith("N") else ("sortBy", "output"))
    by = given["sortBy"]
    if not isinstance(by, Mapping) or not by or not all(map(_is_direction, by.values())):
        raise QueryError(f"{operator}: sortBy is a dict of names and directions, 1 or -1")
    compiled: dict[str, Any] = {}
    for name, direction in by.items():
        if not isinstance(name, str) or (stored := scope.resolve(name)) in compiled:
            raise QueryError(f"{operator}: sortBy names fields by text, and each one once")
        compiled[stored] = direction
    return {name: compiled if name == "sortBy" else _walk(scope, each) for name, each in given.items()}


def _is_direction(value: object) -> bool:
    return type(value) is int and value in (1, -1)


_SPECIAL: Final[dict[str, Callable[[_Scope, str, Any], Any]]] = {
    "$literal": _literal,
    "$let": _let,
    "$map": _each,
    "$filter": _each,
    "$reduce": _reduce,
    "$getField": _field_of,
    "$setField": _field_of,
    "$unsetField": _field_of,
    "$sortArray": _sorted_array,
    "$top": _top,
    "$topN": _top,
    "$bottom": _top,
    "$bottomN": _top,
}
