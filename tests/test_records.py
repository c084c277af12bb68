"""records: what somebody has put into a key store who does not hold its root is refused, whatever it is."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import bson
import pytest
from bson.binary import Binary
from bson.int64 import Int64
from hypothesis import given, settings
from hypothesis import strategies as st
from key_stores import Document, decoded, encoded

from mongo_envelope import DataKey, IndexKey, KeyRing, envelope
from mongo_envelope.errors import (
    ConfigurationError,
    EnvelopeError,
    IntegrityError,
    MalformedEnvelopeError,
    UnknownKeyError,
    UnsupportedVersionError,
)
from mongo_envelope.primitives import derive
from mongo_envelope.records import (
    Contents,
    KeyRecord,
    Roles,
    Root,
    RootRecord,
    read_contents,
    read_root,
    written_in_order,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, 6000, UTC)
MATERIAL = bytes(range(32))
ROOT = Root("0123456789abcdef", bytes(range(50, 82)))
FOREIGN = Root("0123456789abcdef", bytes(range(51, 83)))
DATA, INDEX = DataKey("k1", MATERIAL, created=NOW), IndexKey("x1", MATERIAL[::-1], created=NOW)
ROLES = Roles("k1", "x1", ("x1",), NOW)
RECORDS: Mapping[str, bytes] = {
    "k1": KeyRecord.of(DATA).sealed(ROOT),
    "k0": KeyRecord.of(DataKey("k0", MATERIAL, created=NOW), "decrypt-only").sealed(ROOT),
    "x1": KeyRecord.of(INDEX).sealed(ROOT),
    "roles": ROLES.sealed(ROOT),
}


def contents(**changes: bytes | None) -> Contents:
    """The records, read again but for the changes."""
    return read_contents([raw for raw in ({**RECORDS, **changes}).values() if raw is not None], ROOT)


def sealed(names: Document, payload: bytes = b"{}", root: Root = ROOT) -> bytes:
    """A record with any content, by a holder of the root."""
    return envelope.seal(names, payload, keys=root.ring, context=root.context)


def a_key(payload: object = None, **changes: Any) -> bytes:
    names = {"_id": "k1", "purpose": "data", "state": "active", "created": NOW, "check": DATA.check}
    whole = b'{"material":"' + base64.b64encode(MATERIAL) + b'"}'
    return sealed(
        {name: value for name, value in (names | changes).items() if value is not ...}, whole if payload is None else payload
    )  # type: ignore[arg-type]  # bytes


def some_roles(payload: bytes = b"{}", **changes: Any) -> bytes:
    names = {"_id": "roles", "primary": "k1", "search_by": "x1", "written": ["x1"], "changed": NOW}
    return sealed({name: value for name, value in (names | changes).items() if value is not ...}, payload)


# --- the root ---------------------------------------------------------------------------------------------------------


def test_the_secret_says_of_which_store_it_is() -> None:
    """What is wrapped is pack("mongo_envelope/v1", "root", store, root); nothing else is the root of a store."""
    parts = (b"mongo_envelope/v1", b"root", b"0123456789abcdef", bytes(range(50, 82)))
    assert ROOT.secret == b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    again = Root.of_secret(ROOT.secret, ROOT.store)
    assert again is not None
    assert again.secret == ROOT.secret
    assert ROOT.fingerprint == derive(bytes(range(50, 82)), "fingerprint")[:16]
    for wrong in (ROOT.secret[1:], ROOT.secret[:-1], ROOT.secret + b"\0", b"", MATERIAL, b"x" + ROOT.secret):
        assert Root.of_secret(wrong, ROOT.store) is None
    assert Root.of_secret(ROOT.secret, "0123456789abcdee") is None


@settings(deadline=None)
@given(st.data())
def test_no_edited_secret_is_of_the_store(data: st.DataObject) -> None:
    """A byte changed ahead of the root itself is noticed."""
    at = data.draw(st.integers(0, len(ROOT.secret) - 33))
    changed = ROOT.secret[:at] + bytes([ROOT.secret[at] ^ data.draw(st.integers(1, 255))]) + ROOT.secret[at + 1 :]
    assert Root.of_secret(changed, ROOT.store) is None


def test_a_root_shows_its_store_alone() -> None:
    """Neither its repr nor that of a record has material; two new ones differ."""
    assert repr(ROOT) == "Root(0123456789abcdef)"
    assert Root.generate().secret != Root.generate().secret
    assert base64.b64encode(MATERIAL).decode() not in repr(KeyRecord.of(DATA))
    assert MATERIAL.hex() not in repr(KeyRecord.of(DATA))


ROOT_RECORD = RootRecord(ROOT.store, {"provider": "aws", "region": {"a": 1, "b": True}}, b"wrapped", NOW)
GOOD = decoded(ROOT_RECORD.as_bson())


def test_a_root_record_comes_back() -> None:
    """As it was written, with the types of the format."""
    assert read_root(ROOT_RECORD.as_bson()) == ROOT_RECORD
    assert ROOT_RECORD.id == "root"
    assert {name: type(value) for name, value in GOOD.items()} == {
        "_id": str,
        "version": int,
        "store": str,
        "kms": dict,
        "wrapped": bytes,
        "created": datetime,
    }


@pytest.mark.parametrize(
    "change",
    [
        {"version": Int64(1)},
        {"version": True},
        {"version": 1.0},
        {"store": "0123456789ABCDEF"},
        {"store": "0123456789abcde"},
        {"store": b"0123456789abcdef"},
        {"kms": "aws"},
        {"wrapped": "text"},
        {"wrapped": Binary(b"x", 5)},
        {"created": "now"},
        {"more": 1},
        {"wrapped": ...},
        {"_id": 1},
    ],
    ids=lambda change: repr(change)[:40],
)
def test_another_root_record_is_refused(change: Document) -> None:
    """Another version, type, or name: the error names the record and quotes nothing."""
    document = {name: value for name, value in (GOOD | change).items() if value is not ...}
    with pytest.raises(MalformedEnvelopeError, match=r"not one of version 1 \[_id 'root'\]") as caught:
        read_root(encoded(document))
    assert caught.value.__context__ is None


def test_a_root_record_of_another_version_is_refused() -> None:
    """As one that a later version of this package may read, whatever else is in it."""
    with pytest.raises(UnsupportedVersionError, match=r"of another version than 1 \[_id 'root'\]"):
        read_root(encoded({**GOOD, "version": 2, "more": 1}))


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_no_root_record(raw: bytes) -> None:
    """Whatever stands there, the error is ours."""
    with pytest.raises(MalformedEnvelopeError):
        read_root(raw)


# --- keys and roles ---------------------------------------------------------------------------------------------------


def test_records_come_back_and_make_a_ring() -> None:
    """Keys with their states, and the roles; the ring has their material and knows who may do what."""
    bad = KeyRecord.of(DataKey("bad", MATERIAL, created=NOW), "compromised")
    read = contents(bad=bad.sealed(ROOT), gone=KeyRecord.of(DataKey("gone", MATERIAL)).but("destroyed").sealed(ROOT))
    assert {kid: (each.purpose, each.state, each.created) for kid, each in read.keys.items() if kid != "gone"} == {
        "k1": ("data", "active", NOW),
        "k0": ("data", "decrypt-only", NOW),
        "x1": ("index", "active", NOW),
        "bad": ("data", "compromised", NOW),
    }
    assert read.keys["gone"].key is None
    assert read.keys["k1"].raw == RECORDS["k1"]
    assert read.roles is not None
    assert (read.roles.primary, read.roles.search_by, read.roles.written) == ("k1", "x1", ("x1",))
    assert (read.roles.id, read.keys["k1"].id) == ("roles", "k1")
    ring = read.ring()
    assert (ring.primary, ring.search_key, ring.written_index_keys) == ("k1", "x1", ("x1",))
    assert set(ring) == {"k1", "k0", "bad"}
    same = KeyRing([DATA]).working_keys("k1", "c").authenticator.tag(b"")
    assert ring.working_keys("k1", "c").authenticator.tag(b"") == same
    for kid, says in (("bad", "compromised"), ("gone", "destroyed")):
        with pytest.raises(UnknownKeyError, match=says):
            ring.working_keys(kid, "c")
    ring.for_rotation().working_keys("bad", "c")


def test_a_store_without_index_keys_that_are_searched_by() -> None:
    """An index key that has no role yet takes none in the ring: it is about to get one."""
    roles = some_roles(search_by=None, written=[])
    for x1 in (None, RECORDS["x1"]):
        ring = contents(roles=roles, x1=x1).ring()
        assert (ring.search_key, ring.index_keys) == (None, ())


def test_a_tombstone_has_no_material() -> None:
    """A destroyed key is a record of its id, purpose and check value, with an empty payload."""
    raw = KeyRecord.of(DATA).but("destroyed").sealed(ROOT)
    opened = envelope.open(raw, keys=ROOT.ring, context=ROOT.context)
    assert (opened.payload, opened.document["state"], opened.document["check"]) == (b"{}", "destroyed", DATA.check)
    assert len(raw) < len(RECORDS["k1"]) - 44


def test_the_payload_of_a_key_is_its_material() -> None:
    """As the format says: standard base64, no blanks; the record has no other names."""
    opened = envelope.open(RECORDS["k1"], keys=ROOT.ring, context="mongo_envelope/keys/0123456789abcdef")
    assert opened.payload == b'{"material":"' + base64.b64encode(MATERIAL) + b'"}'
    assert opened.document.keys() - envelope.RESERVED == {"purpose", "state", "created", "check"}
    assert opened.document["kid"] == "root"


@pytest.mark.parametrize("kid", ["root", "roles"])
def test_two_ids_no_key_can_have(kid: str) -> None:
    """They are those of the other records: refused in writing, and in reading where the record is not that."""
    with pytest.raises(ConfigurationError, match=f"cannot have the id '{kid}'"):
        KeyRecord.of(DataKey(kid, MATERIAL)).sealed(ROOT)
    with pytest.raises(IntegrityError, match=f"not as its kind prescribes.*_id '{kid}'"):
        contents(more=a_key(_id=kid))


def test_without_roles_there_is_no_ring() -> None:
    """The error says which record is missing, and what helps."""
    with pytest.raises(ConfigurationError, match=r"roles record of the key store is missing.*create=True"):
        contents(roles=None).ring()


@pytest.mark.parametrize("kid", ["k1", "roles"])
def test_a_record_that_is_there_twice(kid: str) -> None:
    """Only a file, or a collection without its index, can have it."""
    with pytest.raises(IntegrityError, match=f"is there twice.*_id '{kid}'"):
        contents(more=RECORDS[kid])


# --- what somebody without the root can do ----------------------------------------------------------------------------


def edited(record: str, **names: Any) -> bytes:
    return encoded(decoded(RECORDS[record]) | names)


ATTACKS: dict[str, tuple[Callable[[], dict[str, bytes | None]], type[EnvelopeError], str]] = {
    "another id": (lambda: {"k1": edited("k1", _id="k2")}, IntegrityError, "k2"),
    "swapped ids": (lambda: {"k1": edited("k1", _id="k0"), "k0": edited("k0", _id="k1")}, IntegrityError, "k0"),
    "another state": (lambda: {"k0": edited("k0", state="active")}, IntegrityError, "k0"),
    "another purpose": (lambda: {"x1": edited("x1", purpose="data")}, IntegrityError, "x1"),
    "another date": (lambda: {"k1": edited("k1", created=datetime(2030, 1, 1, tzinfo=UTC))}, IntegrityError, "k1"),
    "another primary": (lambda: {"roles": edited("roles", primary="k0")}, IntegrityError, "roles"),
    "fewer written": (lambda: {"roles": edited("roles", written=[])}, IntegrityError, "roles"),
    "another payload": (lambda: {"k1": edited("k1", data=decoded(RECORDS["k0"])["data"])}, IntegrityError, "k1"),
    "a key as the roles": (lambda: {"roles": edited("k1", _id="roles")}, IntegrityError, "roles"),
    "another root's": (lambda: {"k1": KeyRecord.of(DATA).sealed(FOREIGN)}, IntegrityError, "k1"),
    "another store's": (lambda: {"k1": KeyRecord.of(DATA).sealed(Root("ff" * 8, FOREIGN._material))}, IntegrityError, "k1"),
    "another store's, same root": (lambda: {"k1": KeyRecord.of(DATA).sealed(Root("ff" * 8, ROOT._material))}, IntegrityError, "k1"),
    "under another kid": (lambda: {"k1": edited("k1", kid="k1")}, IntegrityError, "k1"),
    "another version": (lambda: {"k1": edited("k1", v=2)}, UnsupportedVersionError, "k1"),
    "unsealed": (lambda: {"k9": encoded({"_id": "k9", "purpose": "data", "material": "x"})}, MalformedEnvelopeError, "k9"),
    "a number": (lambda: {"7": encoded({"_id": 7})}, MalformedEnvelopeError, "7"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_was_edited_is_refused(attack: str) -> None:
    """The error is of its kind and names the record; it follows from nothing that could show more."""
    make, kind, identity = ATTACKS[attack]
    with pytest.raises(EnvelopeError) as caught:
        contents(**make())
    assert type(caught.value) is kind
    assert caught.value.document_id in (repr(identity), identity)
    assert caught.value.__context__ is None


def test_what_was_edited_is_not_shown() -> None:
    """No value of a record that nobody vouches for stands in the error."""
    with pytest.raises(IntegrityError) as caught:
        contents(roles=edited("roles", primary="attacker-was-here"))
    assert "attacker" not in str(caught.value)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_a_changed_byte_is_refused(data: st.DataObject) -> None:
    """Whichever record, whichever byte, whatever it becomes: no ring comes out."""
    kid = data.draw(st.sampled_from(sorted(RECORDS)))
    raw = RECORDS[kid]
    at = data.draw(st.integers(0, len(raw) - 1))
    changed = raw[:at] + bytes([raw[at] ^ data.draw(st.integers(1, 255))]) + raw[at + 1 :]
    for each in (changed, raw[:at], raw[:at] + raw[at + 1 :]):
        with pytest.raises(EnvelopeError):
            contents(**{kid: each})


def test_an_older_record_is_not_noticed() -> None:
    """Named as not detected: who puts back what stood there before, sealed by the root itself, is believed."""
    compromised = KeyRecord.of(DATA).but("compromised").sealed(ROOT)
    newer = KeyRecord.of(DataKey("k2", MATERIAL, created=NOW)).sealed(ROOT)
    moved = Roles("k2", "x1", ("x1",), NOW).sealed(ROOT)
    assert contents(k1=compromised, k2=newer, roles=moved).keys["k1"].state == "compromised"
    assert contents(k2=newer, roles=moved).keys["k1"].state == "active"  # the record of before, put back


def test_a_deleted_key_is_an_unknown_one() -> None:
    """Deletion is not noticed, either: the documents of that key cannot be checked, and say so."""
    with pytest.raises(UnknownKeyError):
        contents(k0=None).ring().working_keys("k0", "c")


# --- what a holder of the root should not have written ----------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        a_key(purpose="index2"),
        a_key(purpose="index", state="compromised"),
        a_key(purpose="index", state="decrypt-only"),
        a_key(state="new"),
        a_key(state=1),
        a_key(more=1),
        a_key(check=...),
        a_key(check=b"12345678"),
        a_key(check=Binary(DATA.check, 5)),
        a_key(created="now"),
        a_key(idx={"kid": "x1"}),
        a_key(_id="no kid"),
        a_key(b"{}"),
        a_key(b'{"material":"short"}'),
        a_key(b'{"material": "' + base64.b64encode(MATERIAL) + b'"}'),
        a_key(state="destroyed"),
        some_roles(b"[]"),
        some_roles(written=["x1", "x1"]),
        some_roles(written=["x2", "x1"]),
        some_roles(written=[1]),
        some_roles(written="x1"),
        some_roles(primary=None),
        some_roles(changed=...),
    ],
)
def test_a_record_of_another_kind_is_refused(raw: bytes) -> None:
    """The right tag does not make a key of what is none."""
    identity = envelope.identify(raw)
    with pytest.raises(IntegrityError, match="not as its kind prescribes") as caught:
        contents(**{str(identity): raw})
    assert caught.value.document_id == repr(identity)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("roles", "says"),
    [
        ({"primary": "k9"}, "a primary key that is missing, compromised or destroyed"),
        ({"primary": "x1"}, "a primary key that is missing"),
        ({"primary": "bad"}, "a primary key that is missing"),
        ({"primary": "gone"}, "a primary key that is missing"),
        ({"written": ["k1"], "search_by": "k1"}, "a written index key that is missing"),
        ({"written": ["x0", "x1"]}, "a written index key that is missing"),
        ({"written": []}, "to search by under which nothing is written"),
        ({"search_by": None}, "to search by under which nothing is written"),
        ({"search_by": "x0"}, "to search by under which nothing is written"),
    ],
)
def test_roles_that_no_key_can_have(roles: Document, says: str) -> None:
    """A role names what is there and may have it."""
    more = {
        "bad": KeyRecord.of(DataKey("bad", MATERIAL), "compromised").sealed(ROOT),
        "gone": KeyRecord.of(DataKey("gone", MATERIAL)).but("destroyed").sealed(ROOT),
    }
    with pytest.raises(IntegrityError, match=f"{says}.*_id 'roles'"):
        contents(**more, roles=some_roles(**roles))


def test_a_retired_key_may_still_seal() -> None:
    """In a rotation, or after an interrupted one: the key before is retired first, and goes on sealing until the next does."""
    assert contents(roles=some_roles(primary="k0")).ring().primary == "k0"


def test_others() -> None:
    """Records change by copy; kids of written keys are in bytewise order; a new date is in milliseconds."""
    later = ROLES.but(primary="k2")
    assert (later.primary, later.search_by, later.raw) == ("k2", "x1", b"")
    assert later.changed > ROLES.changed
    assert later.changed.microsecond % 1000 == 0
    assert written_in_order(["b", "a", "b", "A"]) == ("A", "a", "b")
    assert KeyRecord.of(DataKey("k", MATERIAL)).created.microsecond % 1000 == 0
    assert re.fullmatch("[0-9a-f]{16}", Root.generate().store)
    assert bson.decode(RECORDS["roles"])["written"] == ["x1"]
