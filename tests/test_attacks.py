"""What somebody can do who writes to the database, or sits on the wire to it, and has no key. On both drivers.

`ATTACKS` says for each attack which checks stand in its way, in the order in which they speak, and what the user would be shown if
there were none of them. `test_an_attack_is_noticed` runs the attacks against the package as it is;
`test_an_attack_goes_through_without_its_checks` takes the checks out, one after another, and so shows that it is these that notice.
`LIES` and `COLLATIONS` do the same for a server that answers another question than the one asked. What is not noticed, by design,
stands at the end under names that say so.

Caches: a repository keeps the operations of a key, and a ring the working keys, so each stage has its own.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Annotated, Any
from unittest import mock
from uuid import UUID

import bson
import pytest
from bson import Binary, Code, Int64
from bson.binary import UuidRepresentation
from bson.raw_bson import RawBSONDocument
from conftest import Driver, Proxy
from pydantic import BaseModel
from pymongo.collation import Collation
from pymongo.database import Database

from mongo_envelope import (
    BlindIndex,
    DataKey,
    DocumentNotFoundError,
    IntegrityError,
    KeyRing,
    MalformedEnvelopeError,
    PayloadError,
    Queryable,
    RevisionConflictError,
    Sensitive,
    UnknownKeyError,
    UnsupportedVersionError,
    answer,
    envelope,
    fast,
    flows,
    reading,
    writing,
)

Db = Database[dict[str, Any]]
Patch = pytest.MonkeyPatch
Document = dict[str, Any]
Call = Callable[[Any], Awaitable[Any]]


class Customer(BaseModel):
    id: UUID
    tenant: Annotated[str, Queryable()] = "acme"
    city: Annotated[str, Queryable()] = "Rome"
    rank: Annotated[int | None, Queryable()] = None
    email: Annotated[str | None, Sensitive()] = None
    notes: str = "owes 000"


# Ada and Eve are of one size, so that the proxy can put one in the place of the other.
ADA, EVE, BOB, OTHER = (UUID(int=number) for number in (1, 2, 3, 9))
ada = Customer(id=ADA, rank=7, email="ada@example.com", notes="owes 100")
eve = Customer(id=EVE, rank=1, email="eve@example.com", notes="owes 999", tenant="evil", city="Bonn")
bob = Customer(id=BOB, rank=3)


def two_keys() -> KeyRing:
    """A ring that seals with the first and opens with both."""
    return KeyRing([DataKey.generate("first"), DataKey.generate("second")])


# --- the checks, and how each is taken out ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """One check of the package: what it raises, in which words, and what makes it look away."""

    error: type[Exception]
    says: str
    take_out: Callable[[Patch], None]


def whole(body: bytes) -> bytes:
    """A BSON document, of its elements."""
    return struct.pack("<i", len(body) + 5) + body + b"\x00"


def element(name: str, value: Any) -> bytes:
    return bson.encode({name: value}, codec_options=envelope.CODEC_OPTIONS)[4:-1]


def no_frame(patch: Patch) -> None:
    """What stands at the end is the hmac, whatever it is; if there is none, zeros are."""
    arrange = envelope._arrange

    def arranged(raw: bytes) -> Any:
        try:
            return arrange(raw)
        except MalformedEnvelopeError:
            elements = envelope._walk(raw, {})  # which still refuses a name that occurs twice
            return (raw, elements) if b"hmac" in elements else arrange(whole(raw[4:-1] + element("hmac", bytes(32))))

    patch.setattr(envelope, "_arrange", arranged)


class Forgetful(dict[bytes, Any]):
    """Does not know what it holds."""

    def __contains__(self, name: object) -> bool:
        return False


def no_twice(patch: Patch) -> None:
    """Of two elements of a name the last is read, as in a reader who decodes first."""
    arrange = envelope._arrange

    def arranged(raw: bytes) -> Any:
        elements = envelope._walk(raw, Forgetful())
        return arrange(whole(b"".join(raw[start:end] for start, _, end in elements.values())))

    patch.setattr(envelope, "_arrange", arranged)


def instead(owner: Any, name: str, value: Any) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(owner, name, value, raising=False)


def no_version(patch: Patch) -> None:
    patch.setattr(envelope, "_VERSION_1", mock.ANY)
    patch.setattr(fast, "_VERSION", rb"\x10v\x00.{4}")


def no_key(patch: Patch) -> None:
    """Of an unknown key, another one is tried."""
    found = KeyRing._data_key
    patch.setattr(KeyRing, "_data_key", lambda ring, kid: found(ring, kid if kid in ring else ring.primary))


def no_tag(patch: Patch, *modules: Any) -> None:
    for module in modules or (envelope, fast):
        patch.setattr(module, "hmac", SimpleNamespace(compare_digest=lambda *_: True))


def no_types(patch: Patch) -> None:
    """All binaries are bytes, text is, too, and what is not there is empty."""
    lax = envelope.CODEC_OPTIONS.with_options(uuid_representation=UuidRepresentation.UNSPECIFIED)

    def as_bytes(value: Any) -> bytes:
        return value.encode() if isinstance(value, str) else bytes(value)

    def decoded(raw: bytes) -> Document:
        document = {"iv": b"", "data": b"", **bson.decode(raw, lax)}
        own = {"iv": as_bytes(document["iv"]).ljust(16, b"\x00"), "data": as_bytes(document["data"])}
        return document | own | {"_id": document["_id"].as_uuid()}

    patch.setattr(envelope, "_decode", decoded)
    ASKED.take_out(patch)  # it decodes, too, and would stumble over what has been let through


def no_context(patch: Patch) -> None:
    for name in ("working_keys", "authenticator"):
        derive = getattr(DataKey, name)
        patch.setattr(DataKey, name, lambda key, context, derive=derive: derive(key, "one for all"))


class Everything:
    """In the place of the set that `load_many` asks whether an id was asked for."""

    def __init__(self, _: object) -> None: ...

    def __contains__(self, _: object) -> bool:
        return True


FRAME = Check(MalformedEnvelopeError, "does not end in an hmac of 32 bytes", no_frame)
TWICE = Check(MalformedEnvelopeError, "a field name occurs twice", no_twice)
VERSION = Check(UnsupportedVersionError, "not a sealed document of version 1", no_version)
KID = Check(
    MalformedEnvelopeError,
    "kid is not a key id",
    instead(envelope, "_kid", lambda element: element[5:-1].decode("ascii", "replace")),
)
KEY = Check(UnknownKeyError, "not in this ring", no_key)
TAG = Check(IntegrityError, "does not match its authentication tag", no_tag)
CONTEXT = Check(IntegrityError, "does not match its authentication tag", no_context)
TYPES = Check(MalformedEnvelopeError, "iv or data is not what format v1 prescribes|not valid BSON inside", no_types)
ASKED = Check(IntegrityError, "does not match the filter", instead(answer.Asked, "is_answered_by", lambda *_: True))
IDENTITY = Check(
    IntegrityError, "another document than the one asked for", instead(flows.Flows, "_check_identity", lambda *_: None)
)
LISTED = Check(IntegrityError, "a document that was not asked for", instead(reading, "set", Everything))


async def gives(call: Awaitable[Any], expected: Any) -> Any:
    """Assert that a call raises what a check says, or exactly this error, or shows these fields, or gives this value."""
    if isinstance(expected, Check) or (isinstance(expected, type) and issubclass(expected, Exception)):
        error, says = (expected.error, expected.says) if isinstance(expected, Check) else (expected, None)
        with pytest.raises(error, match=says) as caught:
            await call
        assert type(caught.value) is error
        return caught.value
    found = await call
    if isinstance(expected, dict):
        found = dict(found)
        found = {name: found.get(name) for name in expected}
    assert found == expected
    return found


# --- the attacks ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attack:
    """What is done to the stored documents, the checks in its way, and what would be seen without them at ``identity``."""

    do: Callable[[Db], Any]
    checks: tuple[Check, ...]
    then: Document | type[Exception]
    collection: str = "customers"
    identity: UUID = ADA


def stored(database: Db, identity: UUID = ADA) -> Document:
    found = database.customers.find_one({"_id": identity})
    assert found is not None
    return found


def update(*changes: Document) -> Callable[[Db], Any]:
    """The server's own operators, on Ada's document."""
    return lambda database: [database.customers.update_one({"_id": ADA}, change) for change in changes]


def put(**values: Any) -> Callable[[Db], Any]:
    return update({"$set": values})


def mixed(made: Callable[[Document, Document], Document]) -> Callable[[Db], Any]:
    """New values for Ada's document, made from hers and Eve's."""
    return lambda database: put(**made(stored(database), stored(database, EVE)))(database)


def changed(name: str, change: Callable[[Any], Any]) -> Callable[[Db], Any]:
    return mixed(lambda own, _: {name: change(own[name])})


def taken(*names: str) -> Callable[[Db], Any]:
    return mixed(lambda _, other: {name: other[name] for name in names})


def copied(collection: str, **values: Any) -> Callable[[Db], Any]:
    return lambda database: database[collection].insert_one(stored(database) | values)


def remade(made: Callable[[Document, Document], list[tuple[str, Any]]]) -> Callable[[Db], Any]:
    """Ada's document put together element by element: no dict, and no driver, makes one with a name twice."""

    def attack(database: Db) -> None:
        pairs = made(stored(database), stored(database, EVE))
        database.customers.delete_one({"_id": ADA})
        database.customers.insert_one(RawBSONDocument(whole(b"".join(element(*pair) for pair in pairs))))

    return attack


def doubled(document: Document, **second: Any) -> list[tuple[str, Any]]:
    """A second element right behind the first of the same name: all stay in order."""
    return [pair for name in document for pair in ((name, document[name]), (name, second.get(name))) if pair[1] is not None]


def two_tenants_out_of_order(database: Db) -> None:
    """The one that works against a reader who decodes: MongoDB matches the first, a dict has the last, which is genuine."""
    remade(lambda own, _: [("_id", ADA), ("tenant", "evil"), *list(own.items())[1:]])(database)
    assert database.customers.count_documents({"_id": ADA, "tenant": "evil"}) == 1
    assert stored(database)["tenant"] == "acme"


def flipped(value: bytes, at: int, bit: int = 1) -> bytes:
    changed = bytearray(value)
    changed[at] ^= bit
    return bytes(changed)


def emptied(own: Document, _: Document) -> Document:
    """Whoever knows that the payload starts with ``{"`` can make ``{}`` of it, under the same key and IV."""
    return PLAINTEXT | {"data": own["data"][:1] + bytes([own["data"][1] ^ ord('"') ^ ord("}")])}


def plain(database: Db) -> None:
    database.customers.replace_one({"_id": ADA}, ada.model_dump(exclude={"id"}) | PLAINTEXT)


OPENS = {"id": ADA, "tenant": "acme", "rank": 7, "email": "ada@example.com", "notes": "owes 100"}  # as if nothing had happened
PLAINTEXT = {"email": "evil@example.com", "notes": "owes 0"}
JSON = b'{"email":"evil@example.com","notes":"owes 0"}'

ATTACKS = {
    # The ciphertext of another document. Under another IV it decrypts to noise.
    "another document's data": Attack(taken("data"), (TAG,), PayloadError),
    "another document's iv": Attack(taken("iv"), (TAG,), PayloadError),
    "another document's iv and data": Attack(taken("iv", "data"), (TAG,), {"id": ADA, "email": "eve@example.com"}),
    "another document's iv, data and hmac": Attack(taken("iv", "data", "hmac"), (TAG,), {"id": ADA, "notes": "owes 999"}),
    "another document's hmac": Attack(taken("hmac"), (TAG,), OPENS),
    "all of another document": Attack(taken("tenant", "city", "rank", "iv", "data", "hmac"), (TAG,), {"id": ADA, "rank": 1}),
    # Metadata.
    "metadata edited": Attack(put(tenant="evil"), (TAG,), {"tenant": "evil"}),
    "metadata of another document": Attack(taken("rank"), (TAG,), {"rank": 1}),
    "two fields swapped": Attack(
        mixed(lambda own, _: {"tenant": own["city"], "city": own["tenant"]}), (TAG,), {"tenant": "Rome", "city": "acme"}
    ),
    "metadata added": Attack(put(more=1), (TAG,), OPENS),
    "index values added": Attack(put(idx={"kid": "first", "email": b"x"}), (TAG,), OPENS),
    "metadata removed": Attack(update({"$unset": {"rank": ""}}), (TAG,), {"rank": None}),
    "metadata renamed": Attack(update({"$rename": {"rank": "other"}}), (TAG,), {"rank": None}),
    "metadata set to null": Attack(put(rank=None), (TAG,), {"rank": None}),
    "int32 to double": Attack(put(rank=7.0), (TAG,), OPENS),
    "int32 to int64": Attack(put(rank=Int64(7)), (TAG,), OPENS),
    # Another place.
    "copied under another _id": Attack(
        copied("customers", _id=OTHER), (TAG,), {"id": OTHER, "email": "ada@example.com"}, identity=OTHER
    ),
    # Two walls: the tag is of another key there, and so is the ciphertext.
    "copied to another collection": Attack(copied("elsewhere"), (TAG,), PayloadError, collection="elsewhere"),
    "copied to another collection, by its context": Attack(copied("elsewhere"), (CONTEXT,), OPENS, collection="elsewhere"),
    # A name twice.
    "two tenants": Attack(remade(lambda own, _: doubled(own, tenant="evil")), (TWICE, TAG), {"tenant": "evil"}),
    "two tenants, out of order": Attack(two_tenants_out_of_order, (TWICE,), OPENS),
    "two hmacs": Attack(remade(lambda own, _: doubled(own, hmac=bytes(32))), (TWICE, TAG), OPENS),
    "two hmacs, out of order": Attack(
        remade(lambda own, _: [("_id", ADA), ("hmac", bytes(32)), *list(own.items())[1:]]), (TWICE,), OPENS
    ),
    "two datas": Attack(remade(lambda own, other: doubled(own, data=other["data"])), (TWICE, TAG), PayloadError),
    "two datas and ivs": Attack(
        remade(lambda own, other: doubled(own, data=other["data"], iv=other["iv"])), (TWICE, TAG), {"email": "eve@example.com"}
    ),
    # Plaintext, in the place of the payload or beside it. What was in the payload wins over what stands beside it.
    "a plain document": Attack(plain, (FRAME, VERSION, KID, KEY, TAG, TYPES), PayloadError),
    "a plain field beside the payload": Attack(put(email="evil@example.com"), (TAG,), OPENS),
    "plain fields and no data": Attack(update({"$unset": {"data": ""}, "$set": PLAINTEXT}), (TAG, TYPES), PayloadError),
    "plain fields and empty data": Attack(put(**PLAINTEXT, data=b""), (TAG,), PayloadError),
    "plain fields and an empty payload": Attack(mixed(emptied), (TAG,), {"id": ADA, "tenant": "acme"}),
    "data as JSON": Attack(put(data=JSON), (TAG,), PayloadError),
    "data as text": Attack(put(data=JSON.decode()), (TAG, TYPES), PayloadError),
    # Labels.
    "data of subtype 128": Attack(changed("data", lambda data: Binary(data, 128)), (TAG, TYPES), OPENS),
    "data of subtype 4": Attack(changed("data", lambda data: Binary(data, 4)), (TAG, TYPES), OPENS),
    "iv of subtype 128": Attack(changed("iv", lambda iv: Binary(iv, 128)), (TAG, TYPES), OPENS),
    "iv of subtype 4": Attack(changed("iv", lambda iv: Binary(iv, 4)), (TAG, TYPES), OPENS),
    "hmac of subtype 128": Attack(changed("hmac", lambda hmac: Binary(hmac, 128)), (FRAME,), OPENS),
    "hmac of subtype 4": Attack(changed("hmac", lambda hmac: Binary(hmac, 4)), (FRAME, TYPES), OPENS),
    "hmac as text": Attack(changed("hmac", lambda hmac: hmac.hex()), (FRAME, TAG), OPENS),
    "no hmac": Attack(update({"$unset": {"hmac": ""}}), (FRAME, TAG), OPENS),
    "version 2": Attack(put(v=2), (VERSION, TAG), OPENS),
    "version 1.0": Attack(put(v=1.0), (VERSION, TAG), OPENS),
    "version as int64": Attack(put(v=Int64(1)), (VERSION, TAG), OPENS),
    "version as bool": Attack(put(v=True), (VERSION, TAG), OPENS),
    "no version": Attack(update({"$unset": {"v": ""}}), (VERSION, TAG), OPENS),
    "an unknown key": Attack(put(kid="third"), (KEY, TAG), OPENS),
    "another key of the ring": Attack(put(kid="second"), (TAG,), PayloadError),
    "a kid of a wrong form": Attack(put(kid="first key"), (KID, KEY, TAG), OPENS),
    "a kid with a line feed": Attack(put(kid="first\n"), (KID, KEY, TAG), OPENS),
    "kid as code": Attack(put(kid=Code("first")), (KID, TAG), OPENS),
    "kid as a number": Attack(put(kid=1), (KID, KEY, TAG), OPENS),
    "no kid": Attack(update({"$unset": {"kid": ""}}), (KID, KEY, TAG), OPENS),
    # Truncation.
    "shorter data": Attack(changed("data", lambda data: data[:-1]), (TAG,), PayloadError),
    "longer data": Attack(changed("data", lambda data: data + bytes(16)), (TAG,), PayloadError),  # one byte may come out as a space
    "empty data": Attack(put(data=b""), (TAG,), PayloadError),
    "shorter iv": Attack(changed("iv", lambda iv: iv[1:]), (TAG, TYPES), PayloadError),
    "shorter hmac": Attack(changed("hmac", lambda hmac: hmac[:-1]), (FRAME, TAG), OPENS),
    "longer hmac": Attack(changed("hmac", lambda hmac: b"\x00" + hmac), (FRAME, TAG), OPENS),
    "empty hmac": Attack(put(hmac=b""), (FRAME, TAG), OPENS),
    # One bit. CTR lets him who knows the plaintext choose what becomes of it: 100 is 900.
    "a bit of data, at the start": Attack(changed("data", lambda data: flipped(data, 0)), (TAG,), PayloadError),
    "a bit of data, in a name": Attack(changed("data", lambda data: flipped(data, 2)), (TAG,), {"email": None}),
    "a bit of data, in a value": Attack(changed("data", lambda data: flipped(data, -5, 8)), (TAG,), {"notes": "owes 900"}),
    "a bit of data, at the end": Attack(changed("data", lambda data: flipped(data, -1)), (TAG,), PayloadError),
    "a bit of iv": Attack(changed("iv", lambda iv: flipped(iv, 15)), (TAG,), PayloadError),
    "a bit of hmac, the first": Attack(changed("hmac", lambda hmac: flipped(hmac, 0, 128)), (TAG,), OPENS),
    "a bit of hmac, the last": Attack(changed("hmac", lambda hmac: flipped(hmac, 31)), (TAG,), OPENS),
    "a bit of tenant": Attack(put(tenant="acmd"), (TAG,), {"tenant": "acmd"}),
    "a bit of rank": Attack(put(rank=6), (TAG,), {"rank": 6}),
    "a bit of kid": Attack(put(kid="girst"), (KEY, TAG), OPENS),
    "a bit of v": Attack(put(v=3), (VERSION, TAG), OPENS),
}


async def only(call: Awaitable[list[Any]]) -> Any:
    (found,) = await call
    return found


READS: dict[str, Callable[[Any, UUID], Awaitable[Any]]] = {
    "load": lambda customers, identity: customers.load(identity),
    "load_many": lambda customers, identity: only(customers.load_many([identity])),
    "load_raw": lambda customers, identity: customers.load_raw(identity),
    "find": lambda customers, identity: only(customers.find({"id": identity}).to_list()),
    "find_one": lambda customers, identity: customers.find_one({"id": identity}),
}


async def attacked(driver: Driver, database: Db, attack: Attack) -> Any:
    """A repository that has met nothing yet, over a collection of three customers that has just been attacked."""
    keys = two_keys()
    for name in {"customers", attack.collection}:
        database[name].delete_many({})
    target = driver.collection(attack.collection)
    await driver.repository(Customer, keys=keys).save_many([ada.model_copy(), eve.model_copy()])
    await driver.repository(Customer, target, keys=keys).save(bob.model_copy())
    attack.do(database)
    return driver.repository(Customer, target, keys=keys)


async def check_reads(customers: Any, identity: UUID, expected: Any) -> list[Any]:
    """Assert that all reading calls give the same; which one does not, the note says. What they gave."""
    given = []
    for name, read in READS.items():
        try:
            given.append(await gives(read(customers, identity), expected))
        except BaseException as error:
            error.add_note(f"by {name}")
            raise
    return given


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
async def test_an_attack_is_noticed(driver: Driver, database: Db, attack: Attack) -> None:
    """Every reading call refuses the attacked document with the one right error, and find goes on with the others."""
    customers = await attacked(driver, database, attack)
    errors: list[Any] = []
    opened = await customers.find(on_invalid=errors.append).to_list()  # the caches are warm after this
    others = database[attack.collection].find({"_id": {"$ne": attack.identity}})
    assert {each.id for each in opened} == {each["_id"] for each in others} >= {BOB}
    assert len(errors) == 1
    errors += await check_reads(customers, attack.identity, attack.checks[0])
    for error in errors:
        assert (type(error), error.document_id, error.collection) == (
            attack.checks[0].error,
            repr(attack.identity),
            attack.collection,
        )


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
async def test_an_attack_goes_through_without_its_checks(driver: Driver, database: Db, monkeypatch: Patch, attack: Attack) -> None:
    """Without the first check another one speaks, and without any the user is shown what the attacker made, or noise."""
    for taken_out, after in zip(attack.checks, [*attack.checks[1:], attack.then], strict=True):
        taken_out.take_out(monkeypatch)
        await check_reads(await attacked(driver, database, attack), attack.identity, after)


@pytest.mark.parametrize("module", [envelope, fast], ids=["plain", "fast"])
async def test_both_readers_check_the_tag(driver: Driver, database: Db, monkeypatch: Patch, module: Any) -> None:
    """A document that either of the two ways to read lets pass reaches the user: the attacks above meet both."""
    no_tag(monkeypatch, module)
    customers = await attacked(driver, database, ATTACKS["metadata edited"])
    await gives(customers.load(ADA), {"tenant": "evil"})
    await gives(customers.find_one({"id": ADA}), {"tenant": "evil"})
    await gives(customers.load_raw(ADA), {"tenant": "evil"} if module is envelope else TAG)


async def test_only_the_tag_keeps_plain_fields_out(driver: Driver, database: Db, monkeypatch: Patch) -> None:
    """A sensitive field that stands in the clear, and not in the payload, is read from there: it may have been queryable once."""
    no_tag(monkeypatch)
    customers = await attacked(driver, database, ATTACKS["plain fields and an empty payload"])
    await gives(customers.load(ADA), PLAINTEXT)


@pytest.mark.parametrize(
    "reorder",
    [
        update({"$set": {"tenant": "x"}}, {"$unset": {"tenant": ""}}, {"$set": {"tenant": "acme"}}),
        update({"$rename": {"data": "other"}}, {"$rename": {"other": "data"}}),
        remade(lambda own, _: [("_id", ADA), *list(own.items())[:0:-1]]),
    ],
    ids=["unset and set", "rename", "reversed"],
)
async def test_another_order_of_the_elements_is_no_attack(driver: Driver, database: Db, reorder: Callable[[Db], Any]) -> None:
    """The same elements in another order, as the server's own operators leave them, open by every call."""
    customers = await attacked(driver, database, Attack(reorder, (), OPENS))
    assert list(stored(database))[-1] != "hmac"
    await check_reads(customers, ADA, OPENS)


# --- a server that answers another question than the one asked --------------------------------------------------------


def sent(database: Db, identity: UUID) -> bytes:
    """The bytes of a document, as the server sends them."""
    options = envelope.CODEC_OPTIONS.with_options(document_class=RawBSONDocument)
    found: Any = database.get_collection("customers", codec_options=options).find_one({"_id": identity})
    return bytes(found.raw)


@asynccontextmanager
async def swapped(driver: Driver, database: Db, proxy: Proxy) -> AsyncIterator[Any]:
    """A repository whose server sends Eve's document, which is genuine, wherever it should send Ada's."""
    database.customers.delete_many({})
    keys = two_keys()
    await driver.repository(Customer, keys=keys).save_many([ada.model_copy(), eve.model_copy()])
    proxy.swap = (sent(database, ADA), sent(database, EVE))
    assert len(proxy.swap[0]) == len(proxy.swap[1])
    async with driver.another_client(proxy.uri) as client:
        yield driver.repository(Customer, driver.collection(client=client), keys=keys)


LIES: dict[str, tuple[Call, Check, Any]] = {
    "load": (lambda customers: customers.load(ADA), IDENTITY, {"id": EVE}),
    "load_raw": (lambda customers: customers.load_raw(ADA), IDENTITY, {"id": EVE}),
    "update": (lambda customers: customers.update(ADA, {"notes": "mine"}), IDENTITY, {"id": EVE, "notes": "mine"}),
    "load_many": (lambda customers: customers.load_many([ADA]), LISTED, DocumentNotFoundError),  # Ada is still missing
    "find": (lambda customers: customers.find({"tenant": "acme"}).to_list(), ASKED, [eve]),
    "find by id": (lambda customers: customers.find({"id": ADA}).to_list(), ASKED, [eve]),
    "find, $eq": (lambda customers: customers.find({"rank": {"$eq": 7}}).to_list(), ASKED, [eve]),
    "find, $in": (lambda customers: customers.find({"tenant": {"$in": ["acme", "ACME"]}}).to_list(), ASKED, [eve]),
    "find, $or": (lambda customers: customers.find({"$or": [{"city": "Rome"}, {"rank": 7}]}).to_list(), ASKED, [eve]),
    "find, first": (lambda customers: customers.find({"tenant": "acme"}).first(), ASKED, eve),
    "find_one": (lambda customers: customers.find_one({"tenant": "acme", "rank": {"$gt": 5}}), ASKED, eve),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
async def test_another_genuine_document_is_no_answer(
    driver: Driver, database: Db, proxy: Proxy, monkeypatch: Patch, lie: tuple[Call, Check, Any]
) -> None:
    """A genuine document that was not asked for is refused, with its own id; without the check it is handed out."""
    call, check, then = lie
    async with swapped(driver, database, proxy) as customers:
        error = await gives(call(customers), check)
        assert (error.document_id, error.collection) == (repr(EVE), "customers")
        check.take_out(monkeypatch)
        await gives(call(customers), then)


async def test_no_byte_of_an_answer_can_be_changed(driver: Driver, database: Db, proxy: Proxy) -> None:
    """One bit changed on the wire, in any byte that the driver does not look at itself, is refused."""
    async with swapped(driver, database, proxy) as customers:
        raw = proxy.swap[0]
        for at in range(4, len(raw) - 1):
            proxy.swap = (raw, flipped(raw, at, 1 << at % 8))
            with pytest.raises((MalformedEnvelopeError, UnsupportedVersionError, UnknownKeyError, IntegrityError)):
                await customers.load(ADA)
        proxy.swap = (b"", b"")
        assert await customers.load(ADA) == ada


class Person(BaseModel):
    id: str
    tenant: Annotated[str, Queryable()]


person = Person(id="bob", tenant="acme")

# The call; what it gives; the check behind, if there is one; what it gives if neither the command nor the check is exact.
COLLATIONS: dict[str, tuple[Call, Any, Check | None, Any]] = {
    "load": (lambda people: people.load("BOB"), DocumentNotFoundError, IDENTITY, person),
    "load_raw": (lambda people: people.load_raw("BOB"), DocumentNotFoundError, IDENTITY, {"id": "bob"}),
    "load_many": (lambda people: people.load_many(["BOB"]), DocumentNotFoundError, LISTED, DocumentNotFoundError),
    "update": (lambda people: people.update("BOB", {"tenant": "b"}), DocumentNotFoundError, IDENTITY, {"id": "bob", "tenant": "b"}),
    "find": (lambda people: people.find({"tenant": "ACME"}).to_list(), [], ASKED, [person]),
    "find, $in": (lambda people: people.find({"id": {"$in": ["BOB", "EVE"]}}).to_list(), [], ASKED, [person]),
    "find_one": (lambda people: people.find_one({"tenant": "ACME"}), None, ASKED, person),
    "count": (lambda people: people.count({"tenant": "ACME"}), 0, None, 1),
    "exists": (lambda people: people.exists({"id": "BOB"}), False, None, True),
    "distinct": (lambda people: people.distinct("id", {"tenant": "ACME"}), [], None, ["bob"]),
    "delete": (lambda people: people.delete("BOB"), False, None, True),
    "delete_many": (lambda people: people.delete_many({"tenant": "ACME"}), 0, None, 1),
}


@pytest.mark.parametrize("row", COLLATIONS.values(), ids=COLLATIONS)
async def test_a_collation_of_the_attacker_decides_nothing(
    driver: Driver, database: Db, monkeypatch: Patch, row: tuple[Call, Any, Check | None, Any]
) -> None:
    """In a collection recreated with a default collation that ignores case, "ACME" is not "acme", and "BOB" deletes no "bob"."""
    call, nothing, behind, then = row
    database.create_collection("customers", collation=Collation("en", strength=2))
    people = driver.repository(Person)
    await people.save(person.model_copy())
    await gives(call(people), nothing)
    assert await people.load("bob") == person
    for room in (flows, reading, writing):
        monkeypatch.setattr(room, "BYTE_BY_BYTE", None)
    if behind is not None:
        await gives(call(people), behind)
        behind.take_out(monkeypatch)
    await gives(call(people), then)


# --- what is not noticed, and documented so ---------------------------------------------------------------------------


async def test_not_detected_replay_of_an_older_version(driver: Driver, database: Db) -> None:
    """An older version of the same document opens; only who holds a newer one, and saves it, finds out."""
    customers = driver.repository(Customer)
    await customers.save(ada.model_copy())
    old = stored(database)
    newer = await customers.update(ADA, {"notes": "owes 500"})
    database.customers.replace_one({"_id": ADA}, old)
    await check_reads(customers, ADA, {"notes": "owes 100"})
    with pytest.raises(RevisionConflictError):
        await customers.save(newer)


async def test_not_detected_deletion(driver: Driver, database: Db) -> None:
    """A document that was deleted behind our back was never there, and a find leaves it out without a word."""
    customers = driver.repository(Customer)
    await customers.save_many([ada.model_copy(), eve.model_copy()])
    database.customers.delete_one({"_id": ADA})
    await gives(customers.load(ADA), DocumentNotFoundError)
    await gives(customers.load_raw(ADA), DocumentNotFoundError)
    await gives(customers.load_many([EVE, ADA]), DocumentNotFoundError)
    assert await customers.find_one({"id": ADA}) is None
    assert await customers.find().to_list() == [eve]


async def test_not_detected_reinsertion_of_a_deleted_document(driver: Driver, database: Db) -> None:
    """A document that its owner deleted comes back from an attacker's copy."""
    customers = driver.repository(Customer)
    await customers.save(ada.model_copy())
    copy = stored(database)
    assert await customers.delete(ADA)
    database.customers.insert_one(copy)
    await check_reads(customers, ADA, OPENS)


async def test_not_detected_omission_and_repetition(driver: Driver, database: Db, proxy: Proxy) -> None:
    """A server that leaves one document out, and sends another one twice, is believed where the filter fits both."""
    async with swapped(driver, database, proxy) as customers:
        assert await customers.find().to_list() == [eve, eve]
        assert await customers.find({"tenant": {"$in": ["acme", "evil"]}}).to_list() == [eve, eve]
        await gives(customers.load_many([ADA, EVE]), DocumentNotFoundError)  # which names what it asks for, and counts


async def test_not_detected_another_answer_to_a_range(driver: Driver, database: Db, proxy: Proxy) -> None:
    """Ranges, patterns and negations are not checked again: a genuine document that does not match them is handed out."""
    async with swapped(driver, database, proxy) as customers:
        for condition in ({"rank": {"$gte": 7}}, {"tenant": {"$regex": "^a"}}, {"tenant": {"$ne": "evil"}}):
            assert await customers.find(condition).to_list() == [eve]


async def test_not_detected_another_answer_under_a_collation(driver: Driver, database: Db, proxy: Proxy) -> None:
    """With collation= the caller leaves it to the server what is equal, and nothing is checked again."""
    async with swapped(driver, database, proxy) as customers:
        assert await customers.find({"tenant": "acme"}, collation=Collation("en")).to_list() == [eve]
        assert await customers.find_one({"id": ADA}, collation=Collation("simple")) == eve


async def test_not_detected_a_move_between_databases_of_one_context(
    driver: Driver, client: Any, database: Db, keys: KeyRing
) -> None:
    """Two databases that share keys and context exchange documents unseen; a context for each is the way out."""
    await driver.repository(Customer).save(ada.model_copy())
    name = f"{database.name}-other"
    try:
        client[name].customers.insert_one(stored(database))
        there = driver.client[name].customers
        await check_reads(driver.repository(Customer, there), ADA, OPENS)
        await check_reads(driver.repository(Customer, there, context=f"{name}.customers"), ADA, TAG)
    finally:
        client.drop_database(name)


async def test_not_detected_a_count_that_is_a_lie(driver: Driver, database: Db) -> None:
    """count, exists and distinct read no document, so a forged one, which does not open, is counted."""
    customers = driver.repository(Customer)
    await customers.save(ada.model_copy())
    database.customers.insert_one({"_id": OTHER, "tenant": "forged"})
    assert await customers.count() == 2
    assert await customers.exists({"tenant": "forged"})
    assert sorted(await customers.distinct("tenant")) == ["acme", "forged"]
    await check_reads(customers, OTHER, FRAME)


class Member(BaseModel):
    id: int
    email: Annotated[str, Sensitive(index=BlindIndex())]


@pytest.mark.parametrize("attack", ["an edited value", "no value", "no idx", "another's idx", "another's value", "another kid"])
async def test_index_values_are_authenticated(driver: Driver, database: Db, attack: str) -> None:
    """Whatever is done to idx, the document is refused when it is read; what is found by another's value is not given out."""
    members = driver.repository(Member)
    await members.save_many([Member(id=1, email="ada"), Member(id=2, email="bob")])
    other = database.customers.find_one({"_id": 2})["idx"]  # type: ignore[index]  # it is there
    change = {
        "an edited value": {"$set": {"idx.email": bytes(16)}},
        "no value": {"$unset": {"idx.email": ""}},
        "no idx": {"$unset": {"idx": ""}},
        "another's idx": {"$set": {"idx": other}},
        "another's value": {"$set": {"idx.email": other["email"]}},
        "another kid": {"$set": {"idx.kid": "other"}},
    }[attack]
    database.customers.update_one({"_id": 1}, change)
    with pytest.raises(IntegrityError):
        await members.load(1)
    for where in ({"email": "ada"}, {"email": "bob"}):
        found = members.find(where, on_invalid="skip")
        assert [each.email for each in await found.to_list()] in ([], [where["email"]])
