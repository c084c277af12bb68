"""Normal forms: what two values must have in common for a blind index to take them for one. Spec 3.9.

A normaliser is a function from a value to its normal form, under an id that enters the derivation of the index's key. It gives
`NOTHING` for a value that has no normal form and is not indexed, and raises `ValueError`, without the value in it, for one that
does not belong into such a field. The same value gives the same bytes on every Python: `unicode14` says how.
"""

from __future__ import annotations

import functools
import importlib
import math
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from .errors import SchemaError
from .unicode14 import UNASSIGNED

__all__ = ["NAMES", "NOTHING", "Normalizer", "Width", "bucket", "is_nan", "normalizer"]

#: The normal form of a value that has none.
NOTHING: Final = object()
NAMES: Final = ("exact", "casefold", "digits", "email", "phone", "phone:<region>", "date")
Width = int | Decimal | str

_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)
_REGION: Final = re.compile(r"phone:[A-Z]{2}", re.ASCII)
_PERIODS: Final = ("month", "year")
_SMALLEST: Final = Decimal("1E-100")
_WIDEST: Final = Decimal("1E+100")


@dataclass(frozen=True, slots=True)
class Normalizer:
    """A function with a name."""

    id: str
    apply: Callable[[Any], Any]
    takes: tuple[type, ...] | None  #: the types of the values; None: any


def normalizer(given: str | Callable[[Any], Any], given_id: str | None) -> Normalizer:
    """One of the built-in normalisers by its name, or an application's own. Raise `SchemaError`."""
    if callable(given):
        if not isinstance(given_id, str) or _ID.fullmatch(given_id) is None or _is_taken(given_id):
            raise SchemaError(
                'normalize= is a function, so normalize_id= must name what it does, as in "postcode-1": 1 to 64 of the characters '
                "A-Z a-z 0-9 _ . : -, and not the name of one of ours. Another function needs another id"
            )
        return Normalizer(given_id, functools.partial(_own, given), None)
    if given_id is not None:
        raise SchemaError("normalize_id= goes with a function as normalize=")
    if isinstance(given, str):
        if given in _NAMED:
            return Normalizer(given, *_NAMED[given])
        if given == "phone" or _REGION.fullmatch(given):
            phonenumbers, region = _phonenumbers(), given.partition(":")[2] or None
            if region is not None and region not in phonenumbers.SUPPORTED_REGIONS:
                raise SchemaError(f"normalize={given!r}: there is no region {region}; ISO 3166 has them, such as GB")
            return Normalizer(given, functools.partial(_phone, phonenumbers, region), (str,))
    raise SchemaError(f"normalize= is one of {', '.join(NAMES)}, or a function with normalize_id=")


def _is_taken(name: str) -> bool:
    return name in _NAMED or name.startswith(("phone", "bucket"))


def _own(function: Callable[[Any], Any], value: Any) -> Any:
    """What an application's function gives; None is no normal form. Its own errors may quote the value."""
    try:
        form = function(value)
    except Exception as error:  # noqa: BLE001 - a user's function may raise anything
        problem = type(error).__name__
    else:
        return NOTHING if form is None else form
    raise ValueError(f"its normaliser raised {problem}")


# --- text -----------------------------------------------------------------------------------------------------------


@functools.cache
def _foreign() -> re.Pattern[str]:
    """A run of characters that Unicode 14.0 does not know."""
    ranges = (each.partition("-") for each in UNASSIGNED.split())
    inside = "".join(f"\\U{first:0>8}-\\U{last or first:0>8}" for first, _, last in ranges)
    return re.compile(f"([{inside}]+)")


def _by_unicode_14(change: Callable[[str], str], text: str) -> str:
    """Apply to what Unicode 14.0 knows. What it does not know stays, and cuts the text: Pythons differ in how it combines."""
    if text.isascii():
        return change(text)
    parts = _foreign().split(text)
    return "".join(part if number % 2 else change(_few_marks(part)) for number, part in enumerate(parts))


#: CPython's NFC takes a time that grows with the square of such a run. No script has words with more than a few.
_MOST_MARKS: Final = 256


def _few_marks(text: str) -> str:
    run = 0
    for each in text if len(text) > _MOST_MARKS else "":
        run = run + 1 if unicodedata.combining(each) else 0
        if run > _MOST_MARKS:
            raise ValueError(f"a text with more than {_MOST_MARKS} combining marks in a row")
    return text


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def exact(value: Any) -> Any:
    """Text in NFC, which is how people see it; every other value as it is."""
    return value if not isinstance(value, str) or value.isascii() else _by_unicode_14(_nfc, value)


def casefold(text: str) -> str:
    """Without regard to case: NFC(casefold(NFC(x))), because folding can decompose."""
    if text.isascii():
        return text.lower()
    return _by_unicode_14(lambda part: _nfc(_nfc(part).casefold()), text)


def digits(text: str) -> Any:
    """The decimal digits alone, of any script, in ASCII."""
    found = (unicodedata.decimal(each, None) for each in text if not _foreign().match(each))
    return "".join(str(each) for each in found if each is not None) or NOTHING


def email(text: str) -> str:
    """Without regard to case and to white space around it. Nothing else: what a provider ignores is the provider's business."""
    return casefold(text.strip(" \t\r\n"))


def _phonenumbers() -> Any:
    try:
        return importlib.import_module("phonenumbers")  # an extra: only who indexes phone numbers has it
    except ImportError as error:
        problem = 'normalize="phone" needs the package phonenumbers: pip install "mongo-envelope[phone]"'
        raise SchemaError(problem) from error


def _phone(phonenumbers: Any, region: str | None, text: str) -> str:
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        number = None
    if number is None:
        how = (
            f"of the region {region}, or an international one" if region else 'in international form (+44 …); normalize="phone:GB"'
        )
        raise ValueError(f"not a phone number {how}" + ("" if region else " would read national ones, too"))
    return str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))


# --- dates and numbers ----------------------------------------------------------------------------------------------


def day(value: date) -> Any:
    """The date; of a moment, that in UTC."""
    if not isinstance(value, datetime):
        return value
    try:
        return (value if value.utcoffset() is None else value.astimezone(UTC)).date()
    except OverflowError:  # not in the years 1 to 9999
        return NOTHING


def bucket(width: Width, low: Any, high: Any) -> Normalizer:
    """The normaliser that puts values into buckets of one width, which keeps their order. Raise `SchemaError`."""
    if isinstance(width, str):
        if width not in _PERIODS:
            raise SchemaError('width= is a number, or "month" or "year" for dates')
    elif type(width) not in (int, Decimal) or is_nan(width) or not _SMALLEST <= width < _WIDEST:
        raise SchemaError('width= is a positive int or Decimal (1E-100 to 1E+100), or "month" or "year" for dates')
    bounds = (date,) if isinstance(width, str) else (int, Decimal)
    if (low is None) != (high is None):
        raise SchemaError("low= and high= of a Bucket are given together")
    parts = ["bucket", width if isinstance(width, str) else _decimal_text(width)]
    if low is not None:
        if not all(type(each) in bounds and _is_bound(each) for each in (low, high)) or not low < high:
            kinds = " or ".join(each.__name__ for each in bounds)
            raise SchemaError(f"low= and high= of this Bucket are of type {kinds}, low the lower")
        parts += [each.isoformat() if isinstance(each, date) else _decimal_text(each) for each in (low, high)]
    name = ":".join(parts)
    if isinstance(width, str):
        number = _month if width == "month" else _year
        return Normalizer(name, functools.partial(_period, number, low, high), (date, datetime))
    low, high = (None, None) if low is None else (Fraction(low), Fraction(high))
    return Normalizer(name, functools.partial(_bucket, Fraction(width), low, high), (int, float, Decimal))


def is_nan(value: Any) -> bool:
    """Whether no range holds a value. To compare a signalling one would raise."""
    return value.is_nan() if isinstance(value, Decimal) else isinstance(value, float) and math.isnan(value)


def _period(number: Callable[[Any], int], low: Any, high: Any, value: date) -> Any:
    """The number of a month or year."""
    found = day(value)
    if found is NOTHING:
        return NOTHING
    return number(found if low is None else min(max(found, low), high))


def _bucket(width: Fraction, low: Fraction | None, high: Fraction | None, value: Any) -> Any:
    """The number of a bucket. Computed with fractions: decimal arithmetic depends on the context of the thread."""
    if is_nan(value):
        return NOTHING
    found = _as_fraction(value)
    if low is not None and high is not None:
        found = min(max(found, low), high)
    elif not -_HUGE < found < _HUGE:
        return NOTHING
    return math.floor(found / width)


#: Without bounds there is no bucket beyond this. Bounds are nearer to 0 than the square of it, and no nearer than its inverse.
_HUGE: Final = 10**400
_LONGEST: Final = 10**1000
_DIGITS: Final = 1100


def _as_fraction(value: Any) -> Fraction:
    """The exact value; of a Decimal beyond all bounds, or nearer to 0 than all of them, one that compares alike.

    Its exponent may have nine digits: nobody could write it out.
    """
    sign = -1 if value < 0 else 1
    if value.is_infinite() if isinstance(value, Decimal) else value in (math.inf, -math.inf):
        return Fraction(sign * 10**_DIGITS)
    if isinstance(value, Decimal) and value and abs(value.adjusted()) > _DIGITS:
        return Fraction(sign * 10**_DIGITS) if value.adjusted() > 0 else Fraction(sign, 10**_DIGITS)
    return Fraction(value)


def _is_bound(bound: Any) -> bool:
    """Whether it can be written into an id."""
    if isinstance(bound, date):
        return True
    return not is_nan(bound) and -_LONGEST < bound < _LONGEST and (not bound or Decimal(bound).adjusted() > -1000)


def _month(value: date) -> int:
    return 12 * value.year + value.month - 1


def _year(value: date) -> int:
    return value.year


def _decimal_text(number: int | Decimal) -> str:
    """Without an exponent, a plus sign or superfluous zeros."""
    text = f"{Decimal(number):f}" if number else "0"
    return text.rstrip("0").rstrip(".") if "." in text else text


_NAMED: Final[dict[str, tuple[Callable[[Any], Any], tuple[type, ...] | None]]] = {
    "exact": (exact, None),
    "casefold": (casefold, (str,)),
    "digits": (digits, (str,)),
    "email": (email, (str,)),
    "date": (day, (date, datetime)),
}
