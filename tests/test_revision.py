"""What an instance remembers, and the text form of a revision."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from mongo_envelope.revision import ABSENT, FRESH, Revision, as_text, from_text, recall, remember

PLACE = ("crm.customers", "customers")


class Item(BaseModel):
    id: int
    text: str = ""


def test_a_new_instance_stands_for_nothing() -> None:
    """And so does a copy that was built from a dump of one that stands for a document."""
    item = Item(id=1)
    assert recall(item, PLACE, 1) == FRESH == (ABSENT,)
    remember(item, PLACE, 1, (Revision(b"a"),))
    assert recall(Item(**item.model_dump()), PLACE, 1) == FRESH


def test_what_is_remembered_is_bound_to_place_and_id() -> None:
    """Another collection, another context or another id makes the instance a new one; 1.0 is the same id as 1."""
    item = Item(id=1)
    remember(item, PLACE, 1, (Revision(b"a"), Revision(b"b")))
    assert recall(item, PLACE, 1) == recall(item, PLACE, 1.0) == (Revision(b"a"), Revision(b"b"))
    assert recall(item, PLACE, 2) == recall(item, PLACE, True) == FRESH
    assert recall(item, ("crm.archive", "customers"), 1) == recall(item, ("crm.customers", "archive"), 1) == FRESH


def test_absence_survives_a_pickle() -> None:
    """What may not be there is still recognised after the instance has travelled."""
    item = Item(id=1)
    remember(item, PLACE, 1, (ABSENT, Revision(b"a", ("acme",))))
    for travelled in (pickle.loads(pickle.dumps(item)), copy.deepcopy(item)):  # noqa: S301 - our own bytes
        revisions = recall(travelled, PLACE, 1)
        assert revisions == (ABSENT, Revision(b"a", ("acme",)))
        assert ABSENT in revisions


def test_remembering_does_not_change_the_set_of_fields() -> None:
    """It equals the set that it replaces, and shows as one."""
    item = Item(id=1)
    remember(item, PLACE, 1, (Revision(b"secret tag"),))
    assert item.model_fields_set == {"id"}
    assert repr(item.model_fields_set) == "{'id'}"
    assert item == Item(id=1)


@given(st.binary(min_size=32, max_size=32))
def test_a_revision_comes_back_from_its_text(tag: bytes) -> None:
    """As it is, and in the double quotes of an ETag; the text needs no escaping there."""
    text = as_text(tag)
    assert from_text(text) == from_text(f'"{text}"') == tag
    assert len(text) == 64
    assert text.isalnum()


@given(st.text())
def test_other_text_is_no_revision(text: str) -> None:
    """Whatever a client sends, it is a tag of 32 bytes or None."""
    assert from_text(text) is None or len(from_text(text) or b"") == 32


@pytest.mark.parametrize(
    "text", ["", "*", '"', '""', "W/" + '"' + "0" * 64 + '"', "0" * 63, "0" * 65, "A" * 64, '"' + "0" * 64, "0" * 64 + "\n"]
)
def test_what_is_nearly_a_revision_is_none(text: str) -> None:
    """A weak ETag, a wildcard, half the quotes, capital letters: no repository wrote it."""
    assert from_text(text) is None


@pytest.mark.parametrize("other", [None, {"id"}, frozenset({"id"})], ids=str)
def test_an_instance_that_pydantic_made_otherwise(other: Any) -> None:
    """model_construct and whatever else sets the fields that were set: the instance is new."""
    item = Item.model_construct(_fields_set=other, id=1)
    assert recall(item, PLACE, 1) == FRESH
