"""normalize: what two values must have in common, on every Python alike, and no value in what is said of one that has no form."""

from __future__ import annotations

import math
import sys
import time
import traceback
import unicodedata
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from decimal import Context, Decimal, FloatOperation, InvalidOperation, localcontext
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mongo_envelope.errors import SchemaError
from mongo_envelope.normalize import NAMES, NOTHING, bucket, casefold, digits, email, exact, is_nan, normalizer
from mongo_envelope.unicode14 import UNASSIGNED

CANARY = "xyzzy-plugh"

RANGES = [(int(first, 16), int(last or first, 16)) for first, _, last in (each.partition("-") for each in UNASSIGNED.split())]
FOREIGN = frozenset(chr(point) for first, last in RANGES for point in range(first, last + 1))

#: Characters in which normalisation has something to do, marks in any order, and some that Unicode 14.0 does not know.
RICH = st.sampled_from(
    "aAeEiIkKsSzZ\u0130\u0131\u00df\u1e9e\u017f\u212a\u2126\u00c5\u212b\u1e9b\u0345\u0301\u0308\u0323\u0327\u0338\u0390\u1fd3\u1100"
    "\u1161\u11a8\uac00\uac01\u0958\u09c7\u09be\u0fb2\u0f80\ufb01\ufb03\uff21\u2460\u0149\u01f0\u1e96\u1f80\u10a0\u13a0\uab70\u0344"
    "\U0001d15e\U0001d165\U00010400\U0001e900\ud800\udc00\ue000\u0378\ufffe\u0cf3\U0001e4ec\U000113c5\U000113c2\u1c89"
)
rich = st.text(RICH, max_size=12)
texts = rich | st.text(max_size=12)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error with everything that a traceback would print after it."""
    while error is not None:
        yield error
        yield from chain(error.__cause__)
        error = error.__context__


def assert_silent(error: BaseException, *secrets: str) -> None:
    """Nothing of a value is in an error, in what hangs on it, or in the traceback that is printed of it."""
    said = "".join(traceback.format_exception(error)) + " ".join(f"{each} {each!r} {each.args!r}" for each in chain(error))
    for secret in secrets:
        assert secret not in said


def pieces(text: str) -> Iterator[tuple[bool, str]]:
    """A text, cut before and behind each run of characters that Unicode 14.0 does not know; and whether it knows them."""
    start = 0
    for end in range(1, len(text) + 1):
        if end == len(text) or (text[end] in FOREIGN) != (text[start] in FOREIGN):
            yield text[start] not in FOREIGN, text[start:end]
            start = end


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


# --- text -----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(texts)
@example("e\u0301")
@example("e\u0378\u0301")
@example("\u0378")
def test_exact_is_nfc_of_each_piece(text: str) -> None:
    """What Unicode 14.0 knows is composed; what it does not know stays, and nothing is composed across it."""
    assert exact(text) == "".join(nfc(each) if known else each for known, each in pieces(text))


@settings(deadline=None)
@given(texts)
@example("\u1e9e\u0378K")
def test_casefold_is_nfc_of_the_folded_nfc_of_each_piece(text: str) -> None:
    """NFC(casefold(NFC(x))), piece by piece."""
    assert casefold(text) == "".join(nfc(nfc(each).casefold()) if known else each for known, each in pieces(text))


@settings(deadline=None)
@given(texts)
def test_a_normal_form_is_its_own(text: str) -> None:
    """What has been normalised once is not changed by doing it again, so it does not matter who did it first."""
    assert exact(exact(text)) == exact(text)
    assert digits(digits(text)) == digits(text) if digits(text) is not NOTHING else True


@settings(deadline=None)
@given(texts)
def test_canonically_equal_texts_meet(text: str) -> None:
    """Composed, decomposed, or mixed: one form, under `exact` and, whatever their case, under `casefold`."""
    known = "".join(each for each in text if each not in FOREIGN)
    decomposed = unicodedata.normalize("NFD", known)
    assert exact(decomposed) == exact(known) == exact(nfc(known))
    assert casefold(decomposed) == casefold(known)


@settings(deadline=None)
@given(st.text(st.characters(max_codepoint=127), max_size=20))
def test_ascii_goes_a_short_way_to_the_same_end(text: str) -> None:
    """Where there is nothing to compose, NFC changes nothing and folding is lower case."""
    assert exact(text) == text == nfc(text)
    assert casefold(text) == text.casefold() == text.lower()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("STRASSE", "straße"),
        ("\u017f", "S"),  # the long s
        ("K", "k"),  # the Kelvin sign
        ("ΜΆΪΟΣ", "μάϊος"),
        ("ﬁ", "FI"),
        ("İ", "i\u0307"),
        ("\u1fd3", "\u0390"),  # the same letter twice in Unicode
        ("\u0345", "\u03b9"),
        ("\u13a0", "\uab70"),  # Cherokee folds to its capitals
        ("É", "e\u0301"),
    ],
)
def test_what_differs_in_case_only_meets(one: str, other: str) -> None:
    """By full folding: one letter can become two, and is composed again afterwards."""
    assert casefold(one) == casefold(other)
    assert exact(one) != exact(other) or nfc(one) == nfc(other)


def test_case_does_not_depend_on_a_language() -> None:
    """A Turkish dotless i is no i, whatever the locale says; accents stay."""
    assert len({casefold(each) for each in ("\u0131", "i", "é", "e")}) == 4


@pytest.mark.parametrize("value", [None, 5, 5.0, True, b"e\xcc\x81", Decimal("1.10"), date(2024, 1, 1), math.inf, ["e\u0301"]])
def test_exact_leaves_what_is_no_text(value: Any) -> None:
    """As it is: the same object."""
    assert exact(value) is value


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("0049 (30) 1234-5", "00493012345"),
        ("٣١٤", "314"),
        ("१२३", "123"),
        ("\U0001d7d8\U0001d7d7", "09"),
        ("no 1 of \uff12", "12"),
        ("²③½Ⅷ五", None),
        ("1²2", "12"),
        ("", None),
        ("no digit", None),
        ("-", None),
        ("1.5e3", "153"),
        ("\ud8001", "1"),
    ],
)
def test_digits_are_the_decimal_ones(text: str, form: str | None) -> None:
    """Of every script, in ASCII; neither superscripts nor numerals; without one there is no form."""
    assert digits(text) == (NOTHING if form is None else form)


@settings(deadline=None)
@given(texts | st.text(st.characters(categories=["Nd"]), max_size=9))
def test_digits_are_category_nd_of_unicode_14(text: str) -> None:
    """A digit that a later version has added is left out, on every Python."""
    found = "".join(str(unicodedata.digit(each)) for each in text if unicodedata.category(each) == "Nd" and each not in FOREIGN)
    assert digits(text) == (found or NOTHING)


@pytest.mark.parametrize("new", ["\U00011f50", "\U0001e4f0", "\U00010d40", "\U0001ccf0"])
def test_digits_of_later_versions_of_unicode_are_left_out(new: str) -> None:
    """Kawi, Nag Mundari, Garay and outlined digits came with 15.0 and 16.0: a newer Python must not see more than this one."""
    assert digits(f"1{new}2") == "12"
    assert digits(new) is NOTHING


@settings(deadline=None)
@given(texts, st.text("\t\r\n ", max_size=4), st.text("\t\r\n ", max_size=4))
def test_email_is_casefold_without_the_space_around_it(text: str, before: str, behind: str) -> None:
    """Spaces, tabs and line ends at both ends, and nothing else."""
    assert email(before + text + behind) == email(text) == casefold(text.strip(" \t\r\n"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a.da@example.com", "ada@example.com"),
        ("ada+x@example.com", "ada@example.com"),
        ("ada@example.com.", "ada@example.com"),
        ("ada @example.com", "ada@example.com"),
        ("ada@example.com\u00a0", "ada@example.com"),
        ("ada@gmail.com", "ada@googlemail.com"),
        ("ada@ex\u00e4mple.com", "ada@example.com"),
    ],
)
def test_email_does_not_guess_what_a_provider_ignores(one: str, other: str) -> None:
    """Dots, tags, other kinds of space: they are the provider's business."""
    assert email(one) != email(other)


def test_email_meets_in_any_case() -> None:
    """That of the domain and that of the local part."""
    assert email(" Ada@EXAMPLE.com\r\n") == email("ada@example.COM") == "ada@example.com"
    assert email(" \n") == ""


@pytest.mark.parametrize("name", ["exact", "casefold", "email"])
def test_no_run_of_marks_makes_anybody_wait(name: str) -> None:
    """NFC sorts such a run in a time that grows with its square. No script has words with hundreds: they are refused, unquoted."""
    apply, marks = normalizer(name, None).apply, "\u0301\u0323" * 128
    assert apply("a" + marks) == nfc("a" + marks)
    assert apply(("a" + marks) * 20) == nfc(("a" + marks) * 20)
    begun = time.perf_counter()
    for text in ("a" + marks + "\u0301", f"{CANARY}\u0301" + "\u0301\u0323" * 200_000, marks * 2 + CANARY):
        with pytest.raises(ValueError, match="combining marks in a row") as caught:
            apply(text)
        assert_silent(caught.value, CANARY, "\u0301")
    assert time.perf_counter() - begun < 2


@pytest.mark.parametrize("mark", ["\U0001e4ec", "\U00010efd", "\u1ae0"])
def test_marks_that_unicode_14_does_not_know_are_not_counted(mark: str) -> None:
    """Every Python leaves them alone, and refuses none of them: also one that knows that they are marks."""
    assert exact("e" + mark * 1000 + "\u0301") == "e" + mark * 1000 + "\u0301"
    assert casefold("E" + mark * 1000) == "e" + mark * 1000


# --- phone ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "form"),
    [
        ("phone", "+44 20 7946 0000", "+442079460000"),
        ("phone", "+44 (0) 20 7946-0000", "+442079460000"),
        ("phone", "tel:+44-20-7946-0000", "+442079460000"),
        ("phone:GB", "020 7946 0000", "+442079460000"),
        ("phone:GB", "+44 20 7946 0000", "+442079460000"),
        ("phone:GB", "+41 44 668 18 00", "+41446681800"),
        ("phone:GB", "00 41 44 668 18 00", "+41446681800"),
        ("phone:CH", "044 668 18 00", "+41446681800"),
        ("phone:US", "(650) 253-0000", "+16502530000"),
        ("phone:US", "1-650-253-0000 ext. 7", "+16502530000"),
        ("phone:IT", "06 698 1", "+39066981"),
    ],
)
def test_phone_is_e_164(name: str, text: str, form: str) -> None:
    """International numbers always, national ones by the region; an Italian zero stays, an extension goes."""
    pytest.importorskip("phonenumbers")
    assert normalizer(name, None).apply(text) == form


@pytest.mark.parametrize(
    "text", ["", "020 7946 0001", "call 5550123 please", "+999 5550123", "+" + "5550123" * 50, "5550123\ud800"]
)
def test_a_number_that_cannot_be_parsed_is_not_quoted(text: str) -> None:
    """It is a ValueError that says what would be read, and nothing of the number, in its context or its traceback either."""
    pytest.importorskip("phonenumbers")
    with pytest.raises(ValueError, match=r"not a phone number in international form \(\+44 …\); normalize=\"phone:GB\"") as caught:
        normalizer("phone", None).apply(text)
    assert len(list(chain(caught.value))) == 1
    assert_silent(caught.value, "7946 0001", "5550123")


@pytest.mark.parametrize("text", ["", "5", "+999 5550123", "no number", "+" + "5550123" * 50])
def test_a_national_number_that_cannot_be_parsed_is_not_quoted(text: str) -> None:
    """With a region, too; and the error says which."""
    pytest.importorskip("phonenumbers")
    with pytest.raises(ValueError, match=r"^not a phone number of the region CH, or an international one$") as caught:
        normalizer("phone:CH", None).apply(text)
    assert len(list(chain(caught.value))) == 1
    assert_silent(caught.value, "5550123", "no number")


@pytest.mark.parametrize("region", ["UK", "ZZ", "XX", "EU"])
def test_a_region_that_does_not_exist_is_refused(region: str) -> None:
    """It would read no national number at all, and be found out by the first customer."""
    pytest.importorskip("phonenumbers")
    with pytest.raises(SchemaError, match=f"no region {region}"):
        normalizer(f"phone:{region}", None)


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only who indexes phone numbers needs it, and is told how to get it when the model is read."""
    monkeypatch.setitem(sys.modules, "phonenumbers", None)
    for name in ("phone", "phone:GB"):
        with pytest.raises(SchemaError, match=r'pip install "mongo-envelope\[phone\]"'):
            normalizer(name, None)
    assert normalizer("email", None).id == "email"


# --- dates ----------------------------------------------------------------------------------------------------------

PLUS_14, MINUS_12 = timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))


class Nowhere(tzinfo):
    """A zone that does not know its offset: Python takes such a moment for one without a zone."""

    def utcoffset(self, _: datetime | None) -> None:
        return None

    def dst(self, _: datetime | None) -> None:
        return None

    def tzname(self, _: datetime | None) -> None:
        return None


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (date(2024, 2, 29), date(2024, 2, 29)),
        (datetime(2024, 2, 29, 23, 59, 59, 999999), date(2024, 2, 29)),
        (datetime(2024, 2, 29, 23, tzinfo=UTC), date(2024, 2, 29)),
        (datetime(2024, 3, 1, 0, 30, tzinfo=ZoneInfo("Europe/Berlin")), date(2024, 2, 29)),
        (datetime(2024, 2, 28, 12, tzinfo=MINUS_12), date(2024, 2, 29)),
        (datetime(2024, 2, 29, 5, tzinfo=Nowhere()), date(2024, 2, 29)),
        (date.min, date.min),
        (datetime.max, date.max),
        (datetime.max.replace(tzinfo=PLUS_14), date.max),
    ],
)
def test_date_is_the_day_in_utc(value: date, form: date) -> None:
    """Of a moment; without a zone, the day as it stands. It is a date and no datetime any more."""
    found = normalizer("date", None).apply(value)
    assert found == form
    assert type(found) is date


@pytest.mark.parametrize("value", [datetime.min.replace(tzinfo=PLUS_14), datetime.max.replace(tzinfo=MINUS_12)])
@pytest.mark.parametrize("norm", [normalizer("date", None), bucket("month", None, None), bucket("year", date.min, date.max)])
def test_a_moment_beyond_the_years_of_python_has_no_day(value: datetime, norm: Any) -> None:
    """In UTC it lies in the year 0 or 10000: no form, and no error."""
    assert norm.apply(value) is NOTHING


# --- buckets --------------------------------------------------------------------------------------------------------

finite = st.one_of(
    st.integers(),
    st.integers(-50, 50),
    st.floats(allow_nan=False, allow_infinity=False),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.builds(lambda n, e: Decimal(n).scaleb(e), st.integers(-999, 999), st.integers(-400, 400)),
)
numbers = finite | st.sampled_from(
    [
        *(math.inf, -math.inf, Decimal("Infinity"), Decimal("-Infinity"), Decimal("1E+999999"), Decimal("-1E+999999")),
        *(Decimal("1E-999999"), Decimal("-1E-999999"), 5e-324, -5e-324, 0.0, -0.0, Decimal("-0"), Decimal("0E+999999")),
        *(10**400, 10**400 - 1, -(10**400), 1 - 10**400),
    ]
)
widths = st.integers(1, 10**6) | st.sampled_from(
    [Decimal("0.1"), Decimal("0.25"), Decimal("1E-100"), Decimal("9.99E+99"), 10**99, Decimal("3.3"), Decimal("100.00")]
)
days = st.dates() | st.datetimes() | st.datetimes(timezones=st.timezones() | st.just(PLUS_14) | st.just(UTC))


def ordered(one: Any, other: Any) -> bool:
    """Whether one number is at most the other, exactly: Python compares int, float and Decimal without rounding."""
    return bool(one <= other)


@settings(deadline=None, max_examples=400)
@given(widths, numbers, numbers, st.none() | st.tuples(st.integers(-100, 0), st.integers(1, 100)))
def test_buckets_keep_the_order_of_numbers(width: Any, one: Any, other: Any, bounds: tuple[int, int] | None) -> None:
    """Whatever their types: of two numbers the smaller one is not in a later bucket. So a range of values is a range of buckets."""
    apply = bucket(width, *(bounds or (None, None))).apply
    first, second = apply(one), apply(other)
    if NOTHING not in (first, second) and ordered(one, other):
        assert first <= second
    if one == other and first is not NOTHING:
        assert first == second


@settings(deadline=None, max_examples=300)
@given(widths, finite)
@example(1, 10**400 - 1)
@example(Decimal("0.1"), 0.3)
@example(Decimal("0.1"), Decimal("0.3"))
def test_a_bucket_is_the_floor_of_the_exact_quotient(width: Any, value: Any) -> None:
    """Of what the number is, and not of what it looks like: the float 0.3 lies below 0.3."""
    if abs(value) < 10**400 and not (isinstance(value, Decimal) and value and value.adjusted() < -5000):
        assert bucket(width, None, None).apply(value) == math.floor(Fraction(value) / Fraction(width))


@settings(deadline=None)
@given(st.sampled_from(["month", "year"]), days, days, st.booleans())
def test_buckets_keep_the_order_of_dates(width: str, one: date, other: date, clamped: bool) -> None:
    """A month or a year that is later has a later bucket; moments count in UTC."""
    apply = bucket(width, *((date(1990, 5, 5), date(2030, 1, 31)) if clamped else (None, None))).apply
    day = normalizer("date", None).apply
    first, second = apply(one), apply(other)
    if NOTHING in (day(one), day(other)):
        assert NOTHING in (first, second)
    elif day(one) <= day(other):
        assert first <= second


@pytest.mark.parametrize(
    ("width", "value", "number"),
    [
        (10, 0, 0),
        (10, 9.999, 0),
        (10, 10, 1),
        (10, -1, -1),
        (10, -10, -1),
        (10, Decimal("-10.0001"), -2),
        (Decimal("0.1"), 0.3, 2),
        (Decimal("0.1"), Decimal("0.3"), 3),
        (Decimal("2.50"), 5, 2),
        ("year", date(2024, 5, 6), 2024),
        ("month", date(2024, 5, 6), 24292),
        ("month", datetime(2024, 1, 1, 0, 30, tzinfo=ZoneInfo("Europe/Berlin")), 24287),
        ("month", date.min, 12),
    ],
)
def test_some_buckets_by_hand(width: Any, value: Any, number: int) -> None:
    """The numbers of the specification: floor(x / width), 12 * year + month - 1, the year."""
    found = bucket(width, None, None).apply(value)
    assert (found, type(found)) == (number, int)


@settings(deadline=None)
@given(numbers)
def test_what_lies_beyond_the_bounds_falls_into_the_outer_buckets(value: Any) -> None:
    """Infinities and numbers of any size, too: with bounds, everything but NaN has a bucket."""
    found = bucket(10, -25, Decimal("25.5")).apply(value)
    assert found == min(max(math.floor(Fraction(min(max(value, -25), Decimal("25.5"))) / 10), -3), 2) if abs(value) > 1 else True
    assert -3 <= found <= 2


@pytest.mark.parametrize("nan", [math.nan, -math.nan, Decimal("NaN"), Decimal("-NaN"), Decimal("sNaN"), Decimal("sNaN123")])
def test_nan_has_no_bucket(nan: Any) -> None:
    """A signalling one either, which raises as soon as it is compared."""
    assert is_nan(nan)
    assert bucket(1, None, None).apply(nan) is NOTHING
    assert bucket(1, 0, 1).apply(nan) is NOTHING


@pytest.mark.parametrize("value", [0, 1.5, math.inf, Decimal("Infinity"), Decimal(0), "nan", None, True])
def test_everything_else_is_no_nan(value: Any) -> None:
    """Infinity is none, and what is no number is none."""
    assert not is_nan(value)


@pytest.mark.parametrize("value", [math.inf, -math.inf, Decimal("Infinity"), Decimal("-Infinity"), 10**400, -(10**400)])
def test_without_bounds_what_is_too_large_has_no_bucket(value: Any) -> None:
    """From 10^400 on, and the infinities: a bucket is an integer that somebody has to write out."""
    assert bucket(1, None, None).apply(value) is NOTHING


@pytest.mark.parametrize("exponent", [-(10**17), -999_999_999, -401, 401, 999_999_999, 10**17])
@pytest.mark.parametrize("digit", ["1", "-1", "0", "-0", "9.999"])
@pytest.mark.parametrize("bounds", [(None, None), (-(10**9), 10**9)])
def test_no_exponent_makes_anybody_wait(exponent: int, digit: str, bounds: tuple[Any, Any]) -> None:
    """A Decimal of twenty characters can stand for a number that no machine can write out; it is never written out."""
    value, begun = Decimal(f"{digit}E{exponent}"), time.perf_counter()
    found = bucket(1, *bounds).apply(value)
    assert time.perf_counter() - begun < 1
    if not value:
        assert found == 0
    elif exponent < 0:
        assert found == (-1 if value < 0 else 0)
    elif bounds[0] is None:
        assert found is NOTHING
    else:
        assert found == (bounds[0] if value < 0 else bounds[1])


def test_an_application_may_compute_with_few_digits() -> None:
    """The decimal context of a thread, its precision and what it traps, changes no bucket."""
    value, less, found = Decimal("123456789.987654321"), Decimal("-123456789.987654321"), []
    for context in (Context(), Context(prec=2), Context(prec=2, Emax=3, Emin=-3)):
        with localcontext(context):
            norm = bucket(Decimal("0.001"), Decimal("-1000000000.5"), Decimal("1000000000.5"))
            found.append((norm.id, norm.apply(value), norm.apply(less), norm.apply(1e300)))
    assert len(set(found)) == 1
    assert found[0][1] == 123456789987


@pytest.mark.parametrize(
    ("width", "low", "high", "name"),
    [
        (1000, None, None, "bucket:1000"),
        (Decimal("1000.00"), None, None, "bucket:1000"),
        (Decimal("1E+3"), None, None, "bucket:1000"),
        (Decimal("+0.50"), None, None, "bucket:0.5"),
        (Decimal("1E-7"), None, None, "bucket:0.0000001"),
        (10, 0, 100, "bucket:10:0:100"),
        (10, Decimal("-0.0"), Decimal("1.0E+2"), "bucket:10:0:100"),
        (10, -5, Decimal("5.50"), "bucket:10:-5:5.5"),
        ("year", None, None, "bucket:year"),
        ("month", date(1900, 1, 1), date(2099, 12, 31), "bucket:month:1900-01-01:2099-12-31"),
        ("year", date(1, 1, 1), date(9999, 12, 31), "bucket:year:0001-01-01:9999-12-31"),
    ],
)
def test_the_id_of_a_bucket_has_one_form(width: Any, low: Any, high: Any, name: str) -> None:
    """However the numbers are written: the id enters the derivation of the key, and two forms would not find each other."""
    assert bucket(width, low, high).id == name


@pytest.mark.parametrize(
    "width",
    [
        *(0, -1, True, False, 1.0, 0.5, "", "day", "week", "Month", "10", b"month", None, [1], Fraction(1, 2)),
        *(Decimal(0), Decimal(-1), Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), Decimal("-Infinity")),
        *(Decimal("9E-101"), Decimal("1E+100"), 10**100, Decimal("1E+999999999"), Decimal("1E-999999999"), 10**4200),
    ],
)
def test_another_width_is_refused(width: Any) -> None:
    """A positive int or Decimal that can be written out, or one of two words; a float is what it looks like to nobody."""
    with pytest.raises(SchemaError, match="width= is"):
        bucket(width, None, None)


@pytest.mark.parametrize(
    ("width", "low", "high", "says"),
    [
        (1, 0, None, "together"),
        (1, None, 0, "together"),
        ("year", date(2000, 1, 1), None, "together"),
        (1, 0, 0, "low the lower"),
        (1, 1, 0, "low the lower"),
        (1, 0.0, 1.0, "int or Decimal"),
        (1, False, True, "int or Decimal"),
        (1, "0", "1", "int or Decimal"),
        (1, Decimal("NaN"), 1, "int or Decimal"),
        (1, 0, Decimal("sNaN"), "int or Decimal"),
        (1, 0, Decimal("Infinity"), "int or Decimal"),
        (1, Decimal("-Infinity"), 0, "int or Decimal"),
        (1, 0, Decimal("1E+999999999"), "int or Decimal"),
        (1, date(2000, 1, 1), date(2001, 1, 1), "int or Decimal"),
        ("year", 1, 2, "of type date"),
        ("year", datetime(2000, 1, 1), datetime(2001, 1, 1), "of type date"),
        ("month", date(2001, 1, 1), date(2000, 1, 1), "low the lower"),
        ("month", date(2000, 1, 1), 5, "of type date"),
    ],
)
def test_other_bounds_are_refused(width: Any, low: Any, high: Any, says: str) -> None:
    """Both or none, of the type of the values, finite, the lower one first."""
    with pytest.raises(SchemaError, match=says):
        bucket(width, low, high)


def test_a_tiny_bound_is_written_out_or_refused_at_once() -> None:
    """An exponent that nobody can write out ends in no text of a billion zeros."""
    begun = time.perf_counter()
    try:
        name = bucket(1, Decimal("1E-999999"), 1).id
    except SchemaError:
        name = ""
    assert len(name) < 1_100_000
    assert time.perf_counter() - begun < 2


def test_an_application_may_trap_floats() -> None:
    """It may forbid itself to compare a Decimal with a float; the bounds of a float field may be Decimals all the same."""
    norm = bucket(Decimal("0.5"), Decimal("-10.5"), Decimal("10.5"))
    with localcontext(Context(traps=[FloatOperation, InvalidOperation])):
        assert [norm.apply(each) for each in (1.25, -math.inf, math.nan, Decimal("1.25"), 1)] == [2, -21, NOTHING, 2, 2]


# --- an application's own -------------------------------------------------------------------------------------------


def test_a_function_gives_the_form() -> None:
    """It meets the value as it is; None says that there is no form."""
    norm = normalizer(lambda text: text.replace(" ", "").upper() or None, "postcode-1")
    assert (norm.id, norm.takes) == ("postcode-1", None)
    assert norm.apply("sw1a 1aa") == "SW1A1AA"
    assert norm.apply("  ") is NOTHING
    assert [normalizer(lambda value: value, "same").apply(each) for each in (0, "", False, b"")] == [0, "", False, b""]


class Custom(Exception):
    def __init__(self, value: str) -> None:
        super().__init__(value)
        self.value = value


def raising(error: type[Exception]) -> Callable[[str], Any]:
    def normalize(value: str) -> Any:
        try:
            {}[value]
        except KeyError as inner:
            raise error(f"cannot take {value}") from inner

    return normalize


@pytest.mark.parametrize("error", [ValueError, TypeError, ZeroDivisionError, RecursionError, SchemaError, Custom])
def test_a_function_that_raises_is_not_quoted(error: type[Exception]) -> None:
    """Its error, and what hangs on that, quote the value. Ours names the type of it, and nothing hangs on ours."""
    with pytest.raises(ValueError, match=f"^its normaliser raised {error.__name__}$") as caught:
        normalizer(raising(error), "own").apply(CANARY)
    assert list(chain(caught.value)) == [caught.value]
    assert type(caught.value) is ValueError
    assert_silent(caught.value, CANARY)


def test_what_is_no_error_of_a_function_goes_through() -> None:
    """Who presses Ctrl-C in the middle of it means the program."""

    def interrupted(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        normalizer(interrupted, "own").apply("x")


@pytest.mark.parametrize(
    "name",
    [
        *(None, "", "x" * 65, "post code", "é", "\u0661", "a\n", "\na", "a+b", "a/b", "\0", "\ud800", 5, b"x", ["x"]),
        *("exact", "casefold", "digits", "email", "date", "phone", "phone:GB", "phone:x", "bucket", "bucket:10", "bucket:x"),
        *("phone2", "phones", "bucketing"),
    ],
)
def test_a_function_needs_an_id_of_its_own(name: Any) -> None:
    """1 to 64 characters, and none of ours: another function under an id that is taken would be another key's values."""
    with pytest.raises(SchemaError, match="normalize_id= must name what it does"):
        normalizer(str.lower, name)


@settings(deadline=None)
@given(st.from_regex(r"[A-Za-z0-9_.:\-]{1,64}", fullmatch=True))
def test_every_other_id_is_taken(name: str) -> None:
    """Any text of the permitted characters that is not, and does not begin like, one of ours."""
    if name not in NAMES and not name.startswith(("phone", "bucket")):
        assert normalizer(str.lower, name).id == name


@pytest.mark.parametrize(
    "given_name",
    [
        "",
        "Exact",
        "lower",
        "phone:",
        "phone:gb",
        "phone:GBR",
        "phone:GB\n",
        "phone:<region>",
        "bucket",
        "bucket:10",
        "own",
        5,
        None,
    ],
)
def test_another_name_is_refused(given_name: Any) -> None:
    """The error lists those that there are."""
    with pytest.raises(SchemaError, match="normalize= is one of exact, casefold, digits, email, phone, phone:<region>, date, or"):
        normalizer(given_name, None)


@pytest.mark.parametrize("name", ["exact", "phone:GB", "other"])
def test_an_id_without_a_function_is_refused(name: str) -> None:
    """It would have no effect."""
    with pytest.raises(SchemaError, match="normalize_id= goes with a function"):
        normalizer(name, "own")


@pytest.mark.parametrize(
    ("name", "takes"),
    [("exact", None), ("casefold", (str,)), ("digits", (str,)), ("email", (str,)), ("phone", (str,)), ("date", (date, datetime))],
)
def test_a_name_says_what_it_takes(name: str, takes: Any) -> None:
    """By which `indexes` refuses a field of another type, when the model is read."""
    norm = normalizer(name, None)
    assert (norm.id, norm.takes) == (name, takes)
    assert set(NAMES) == {"exact", "casefold", "digits", "email", "phone", "phone:<region>", "date"}


@pytest.mark.parametrize("name", ["exact", "casefold", "email"])
def test_a_run_of_combining_marks_is_refused(name: str) -> None:
    """More than 256 of them: Unicode's composition takes a time that grows with the square of the run."""
    norm = normalizer(name, None)
    norm.apply("e" + "\u0301" * 256 + "x")
    with pytest.raises(ValueError, match="more than 256 combining marks in a row"):
        norm.apply("e" + "\u0301" * 100_000)
