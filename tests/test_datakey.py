"""datakey: the restricted forms of a key. What whole keys do is tested with the ring that holds them, in tests/test_keys.py."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mongo_envelope import ConfigurationError, DataKey, IndexKey, MissingCapabilityError
from mongo_envelope.datakey import SearchingKey, VerifyingKey, check_value
from mongo_envelope.primitives import derive

MATERIAL = bytes(range(100, 132))
CREATED = datetime(2024, 2, 29, tzinfo=UTC)
CHECK = bytes(8)
contexts = st.text(min_size=1, max_size=60).filter(lambda text: text.isprintable())


@given(contexts, contexts, st.binary())
def test_a_verifying_key_tags_as_its_data_key_in_its_contexts(context: str, other: str, message: bytes) -> None:
    """And in no other; it has the id, the check value and the date of the whole key."""
    key = DataKey("k1", MATERIAL, created=CREATED)
    restricted = key.restricted([context])
    assert restricted.authenticator(context).tag(message) == key.authenticator(context).tag(message)
    assert (restricted.kid, restricted.check, restricted.created) == ("k1", key.check, CREATED)
    assert restricted.contexts == (context,)
    if other != context:
        with pytest.raises(MissingCapabilityError, match="about another context"):
            restricted.authenticator(other)


@given(contexts, contexts, st.binary())
def test_a_searching_key_gives_every_index_of_its_contexts(context: str, index: str, message: bytes) -> None:
    """As its index key does; in another context there are none."""
    key = IndexKey("x1", MATERIAL)
    restricted = key.restricted([context, "orders"])
    for each in (context, "orders"):
        found = restricted.authenticator(each, index, "casefold").tag(message)
        assert found == key.authenticator(each, index, "casefold").tag(message)
    with pytest.raises(MissingCapabilityError, match="about another context"):
        restricted.authenticator(context + "x", index, "casefold")


def test_a_restricted_key_holds_the_keys_of_the_specification() -> None:
    """Of section 3.2: for each context the working key of one purpose."""
    for key, purpose in ((DataKey("k1", MATERIAL), "authenticate"), (IndexKey("k1", MATERIAL), "index")):
        wanted: Any = purpose
        expected = {each: derive(derive(MATERIAL, wanted), wanted, each) for each in ("a", "b")}
        assert key.restricted(["a", "b"])._working == expected


def test_a_verifying_key_has_no_working_keys() -> None:
    """It says which capability that takes."""
    with pytest.raises(MissingCapabilityError, match="'open', and the key k1 was restricted"):
        DataKey("k1", MATERIAL).restricted(["a"]).working_keys("a")


def test_a_restricted_key_can_be_restricted_further() -> None:
    """To some of its contexts, and to no others."""
    key = DataKey("k1", MATERIAL).restricted(["a", "b"])
    assert key.restricted(["b"])._working == {"b": key._working["b"]}
    with pytest.raises(MissingCapabilityError, match="restricted to the contexts 'a', 'b'"):
        key.restricted(["b", "c"])
    with pytest.raises(ConfigurationError, match="one context or more"):
        key.restricted([])


@pytest.mark.parametrize("kind", [VerifyingKey, SearchingKey])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kid": "no id"}, "a key id is"),
        ({"kid": None}, "a key id is"),
        ({"check": b"short"}, "8 bytes"),
        ({"check": "x" * 8}, "8 bytes"),
        ({"working": {}}, "one context or more"),
        ({"working": {"a": b"short"}}, "32 bytes"),
        ({"working": {"a": "x" * 32}}, "32 bytes"),
        ({"working": {"": MATERIAL}}, "1 to 255 bytes"),
        ({"working": {5: MATERIAL}}, "must be text"),
    ],
)
def test_a_restricted_key_that_does_not_fit_is_refused(kind: Any, change: dict[str, Any], says: str) -> None:
    """Its id, its keys, their contexts, its check value; the error shows no key."""
    given = {"kid": "k1", "working": {"a": MATERIAL}, "check": CHECK} | change
    with pytest.raises(ConfigurationError, match=says) as caught:
        kind(given["kid"], given["working"], check=given["check"])
    assert MATERIAL.hex() not in str(caught.value)
    assert repr(MATERIAL)[2:12] not in str(caught.value)


def test_a_key_that_is_changed_afterwards_is_not_the_one_that_is_held() -> None:
    """It keeps a dict of its own."""
    working = {"a": MATERIAL}
    key = VerifyingKey("k1", working, check=CHECK)
    working["b"] = MATERIAL
    assert key.contexts == ("a",)


def test_the_check_value_is_that_of_the_specification() -> None:
    """The first 8 bytes of what is derived for it; every key has it."""
    assert check_value(MATERIAL) == derive(MATERIAL, "check")[:8] == DataKey("k1", MATERIAL).check
