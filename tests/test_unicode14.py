"""unicode14: the table is what Unicode 14.0 leaves unassigned, and stands in the form that `normalize` reads."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from mongo_envelope.unicode14 import UNASSIGNED

SPECIFICATION = Path(__file__).parents[1] / "spec/vectors/unassigned14.txt"


def ranges(text: str) -> Iterator[tuple[int, int]]:
    """Hexadecimal ranges, both ends included."""
    for each in text.split():
        first, _, last = each.partition("-")
        yield int(first, 16), int(last or first, 16)


def code_points(text: str) -> set[int]:
    return {point for first, last in ranges(text) for point in range(first, last + 1)}


def test_ranges_are_in_order_and_as_few_as_can_be() -> None:
    """Each begins beyond the one before it, with at least one assigned character in between, so the table has one form only."""
    before = -2
    for first, last in ranges(UNASSIGNED):
        assert before + 1 < first <= last <= 0x10FFFF
        before = last


@pytest.mark.skipif(unicodedata.unidata_version != "14.0.0", reason="only Python 3.11 has the Unicode of which the table speaks")
def test_the_table_is_category_cn_of_unicode_14() -> None:
    """All of it and nothing else: characters that are not assigned, the noncharacters included."""
    assert code_points(UNASSIGNED) == {point for point in range(0x110000) if unicodedata.category(chr(point)) == "Cn"}


def test_what_a_later_unicode_leaves_unassigned_was_unassigned_in_14() -> None:
    """Versions only add characters: on every Python, category Cn lies within the table."""
    assert {point for point in range(0x110000) if unicodedata.category(chr(point)) == "Cn"} <= code_points(UNASSIGNED)


@pytest.mark.parametrize(
    "point",
    [
        0x378,  # not in any version so far
        0xCF3,  # 15.0
        0x1E4EC,  # 15.0, a mark with a combining class
        0x2FFC,  # 15.1
        0x1C89,  # 16.0, a capital letter
        0x113C5,  # 16.0, two characters of which are composed to a third
        0xFFFE,
        0x10FFFF,  # noncharacters
    ],
)
def test_what_came_after_14_is_in_the_table(point: int) -> None:
    """A sample by hand, from DerivedAge.txt, so that the test says something on other Pythons, too."""
    assert point in code_points(UNASSIGNED)


@pytest.mark.parametrize("point", [0, 0x41, 0x300, 0xD800, 0xDFFF, 0xE000, 0xFFFD, 0x1E2AE, 0xA7C0, 0x1FAF6, 0x10FFFD])
def test_what_14_assigns_is_not_in_the_table(point: int) -> None:
    """Among it surrogates and private use, which have a category of their own, and what 14.0 was the first to have."""
    assert point not in code_points(UNASSIGNED)


def test_the_specification_has_the_same_table() -> None:
    """But for the noncharacters, which have an Age, and with which nothing combines: there it makes no difference."""
    lines = SPECIFICATION.read_text(encoding="ascii").splitlines()
    noncharacters = {*range(0xFDD0, 0xFDF0), *(plane + end for plane in range(0, 0x110000, 0x10000) for end in (0xFFFE, 0xFFFF))}
    listed = code_points(" ".join(line.partition("#")[0] for line in lines).replace("..", "-"))
    assert code_points(UNASSIGNED) - noncharacters == listed - noncharacters
    assert noncharacters <= code_points(UNASSIGNED)
