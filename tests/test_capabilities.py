"""Capabilities: what a restricted ring can do, what it cannot, and that it holds nothing that could do more."""

from __future__ import annotations

import copy
import gc
import inspect
import pickle
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import bson
import pytest
from conftest import Driver, Either, Proxy
from pydantic import BaseModel
from pymongo.database import Database
from pymongo.monitoring import CommandListener

from mongo_envelope import (
    BlindIndex,
    ConfigurationError,
    DataKey,
    DocumentCodec,
    EnvelopeError,
    Hooks,
    IndexKey,
    IntegrityError,
    KeyRing,
    MalformedEnvelopeError,
    Metadata,
    MissingCapabilityError,
    Queryable,
    Repository,
    Sensitive,
    UnknownKeyError,
    embedded,
    envelope,
)
from mongo_envelope.datakey import SearchingKey, VerifyingKey
from mongo_envelope.keystore import FileKeyStore
from mongo_envelope.kms.local import LocalKMS
from mongo_envelope.primitives import StreamCipher, derive

Db = Database[dict[str, Any]]

MATERIAL, OLD, INDEX = (bytes([number]) * 32 for number in (101, 102, 103))
RING = KeyRing([DataKey("k1", MATERIAL), DataKey("k0", OLD)], primary="k1", index_keys=[IndexKey("x1", INDEX)])
HERE = "customers"
RINGS = {
    "whole": RING,
    "verify": RING.restrict("verify", contexts=[HERE]),
    "metadata": RING.restrict("metadata", contexts=[HERE]),
    "search": RING.restrict("search", contexts=[HERE]),
    "verify+search": RING.restrict("verify", "search", contexts=[HERE]),
    "metadata+search": RING.restrict("metadata", "search", contexts=[HERE]),
}


class Customer(BaseModel):
    id: int
    tenant: Annotated[str, Queryable()]
    email: Annotated[str, Sensitive(index=BlindIndex(normalize="casefold"))]
    city: Annotated[str, Sensitive(index=BlindIndex(bits=8))]
    notes: str = ""


class Plain(BaseModel):
    """The same without blind indexes."""

    id: int
    tenant: Annotated[str, Queryable()]
    notes: str = ""


def customer(number: int, **values: Any) -> Customer:
    given = {"tenant": f"t{number % 2}", "email": f"{number}@example.com", "city": "Paris", "notes": "secret"}
    return Customer(id=number, **(given | values))


def at(material: bytes, purpose: Any, context: str = HERE) -> bytes:
    """A working key, as spec 3.2 has it."""
    return derive(derive(material, purpose), purpose, context)


class Commands(CommandListener):
    """The names of the commands that were sent."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def started(self, event: Any) -> None:
        if event.command_name not in ("hello", "endSessions"):
            self.names.append(event.command_name)

    def succeeded(self, event: Any) -> None:
        pass

    def failed(self, event: Any) -> None:
        pass


# --- every method of a repository against every ring ------------------------------------------------------------------


async def watch(repository: Either) -> None:
    async with await repository.watch():
        pass


async def transaction(repository: Either) -> None:
    async with repository.transaction():
        pass


async def bulk(repository: Either) -> None:
    async with repository.bulk() as writer:
        await writer.save(customer(31))


def awaited(call: Callable[[Either], Any]) -> Callable[[Either], Awaitable[Any]]:
    """Of a call that is not awaited in either driver."""

    async def run(repository: Either) -> Any:
        return call(repository)

    return run


INSTANCE = customer(1)
SEALS, OPENS, VERIFIES, CLEAR, SEARCHES = ("seal",), ("open",), ("verify",), ("metadata",), ("search",)
EITHER = ("metadata", "search")
#: What is called, the method first; what it takes: of each tuple one; how it is called.
CASES: dict[str, tuple[list[tuple[str, ...]], Callable[[Either], Awaitable[Any]]]] = {
    "aggregate": ([EITHER], lambda r: r.aggregate([{"$group": {"_id": "$tenant"}}])),
    "aggregate models": ([EITHER, OPENS], lambda r: r.aggregate([{"$match": {"tenant": "t1"}}])),
    "aggregate blind": ([SEARCHES], lambda r: r.aggregate([{"$match": {"email": "1@example.com"}}, {"$count": "n"}])),
    "bulk": ([SEALS], bulk),
    "codec": ([], awaited(lambda r: r.codec)),
    "count": ([EITHER], lambda r: r.count({"tenant": "t1"})),
    "count blind": ([SEARCHES], lambda r: r.count({"email": "1@example.com"})),
    "count not blind": ([SEARCHES], lambda r: r.count({"email": {"$ne": "1@example.com"}})),
    "count no blind value": ([SEARCHES], lambda r: r.count({"email": {"$in": []}})),
    "count sifted": ([SEARCHES, OPENS], lambda r: r.count({"city": "Paris"})),
    "delete": ([SEALS], lambda r: r.delete(99)),
    "delete_many": ([SEALS], lambda r: r.delete_many({"tenant": "none"})),
    "distinct": ([EITHER], lambda r: r.distinct("tenant")),
    "distinct blind": ([SEARCHES], lambda r: r.distinct("tenant", {"email": "1@example.com"})),
    "distinct sifted": ([SEARCHES, OPENS], lambda r: r.distinct("tenant", {"city": "Paris"})),
    "doctor": ([VERIFIES], lambda r: r.doctor()),
    "exists": ([EITHER], lambda r: r.exists({"tenant": "t1"})),
    "exists blind": ([SEARCHES], lambda r: r.exists({"email": "1@example.com"})),
    "exists sifted": ([SEARCHES, OPENS], lambda r: r.exists({"city": "Paris"})),
    "find": ([OPENS], lambda r: r.find().to_list()),
    "find skipping": ([OPENS], lambda r: r.find(on_invalid="skip").to_list()),
    "find telling": ([OPENS], lambda r: r.find(on_invalid=lambda error: None).to_list()),
    "find metadata": ([CLEAR], lambda r: r.find({"tenant": "t1"}, fields="metadata").to_list()),
    "find metadata blind": ([CLEAR, SEARCHES], lambda r: r.find({"email": "1@example.com"}, fields="metadata").to_list()),
    "find_one": ([OPENS], lambda r: r.find_one({"tenant": "t1"})),
    "find_one blind": ([OPENS, SEARCHES], lambda r: r.find_one({"email": "1@example.com"})),
    "find_one metadata": ([CLEAR], lambda r: r.find_one({"tenant": "t1"}, fields="metadata")),
    "find_one metadata blind": ([CLEAR, SEARCHES], lambda r: r.find_one({"email": "1@example.com"}, fields="metadata")),
    "guard": ([], lambda r: r.guard()),
    "load": ([OPENS], lambda r: r.load(1)),
    "load_many": ([OPENS], lambda r: r.load_many([1, 2])),
    "load_many none": ([OPENS], lambda r: r.load_many([])),
    "load_raw": ([OPENS], lambda r: r.load_raw(1)),
    "mend": ([OPENS], awaited(lambda r: r.mend(customer(1).model_dump()))),
    "needs_rotation": ([SEALS], awaited(lambda r: r.needs_rotation({"_id": 1, "kid": "d9"}))),
    "reindex": ([SEALS], lambda r: r.reindex()),
    "retire_data_key": ([SEALS], lambda r: r.retire_data_key("k0")),
    "retire_index_key": ([SEARCHES], lambda r: r.retire_index_key("x2")),
    "rotate": ([SEALS], lambda r: r.rotate()),
    "revision": ([], awaited(lambda r: r.revision(INSTANCE))),
    "save": ([SEALS], lambda r: r.save(customer(32))),
    "save overwriting": ([SEALS], lambda r: r.save(customer(1), overwrite=True)),
    "save_many": ([SEALS], lambda r: r.save_many([customer(33)])),
    "save_many none": ([SEALS], lambda r: r.save_many([])),
    "save_many unordered": ([SEALS], lambda r: r.save_many([customer(34)], ordered=False)),
    "search_by": ([SEARCHES], lambda r: r.search_by("x1")),
    "setup": ([SEALS], lambda r: r.setup(guard=False)),
    "setup dry": ([VERIFIES], lambda r: r.setup(dry_run=True)),
    "transaction": ([], transaction),
    "update": ([SEALS], lambda r: r.update(1, {"notes": "new"})),
    "update_many": ([SEALS], lambda r: r.update_many({"tenant": "t1"}, {"notes": "new"})),
    "verify": ([VERIFIES], lambda r: r.verify()),
    "verify filtered": ([VERIFIES], lambda r: r.verify({"tenant": "t1"})),
    "verify blind": ([VERIFIES, SEARCHES], lambda r: r.verify({"email": "1@example.com"})),
    "verify sifted": ([VERIFIES, SEARCHES, OPENS], lambda r: r.verify({"city": "Paris"})),
    "verify skipping": ([VERIFIES], lambda r: r.verify(on_invalid="skip")),
    "watch": ([OPENS], watch),
    "with_options": ([], awaited(lambda r: r.with_options())),
    "with_transaction": ([], lambda r: r.with_transaction(lambda tx: None)),
}


def test_every_public_method_has_a_case() -> None:
    """A new method has to be put into the table, and into that of docs/capabilities.md."""
    public = {
        name
        for name, member in inspect.getmembers(Repository)
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
    }
    assert public == {case.partition(" ")[0] for case in CASES}
    table = (Path(__file__).parent.parent / "docs" / "capabilities.md").read_text().partition("## What takes what")[2]
    assert [name for name in sorted(public - {"codec"}) if f"`{name}" not in table] == []


@pytest.mark.parametrize("name", RINGS)
async def test_each_ring_can_do_what_its_capabilities_say(driver: Driver, database: Db, server: embedded.Server, name: str) -> None:
    """All else raises at once, before a command is sent, and says what is missing and what there is; and nothing is written."""
    ring, whole = RINGS[name], driver.repository(Customer, keys=RING.with_index_key(IndexKey("x2", OLD)).writing_only("x1"))
    await whole.save_many([INSTANCE.model_copy(), customer(2), customer(3)])
    await whole.save(INSTANCE, overwrite=True)
    before = list(database.customers.find())
    commands = Commands()
    async with driver.another_client(server.uri, event_listeners=[commands]) as client:
        kept = ring if name != "whole" and "search" not in name else _with_second_index_key(name)
        repository = driver.repository(Customer, driver.collection(client=client), keys=kept)
        await client.admin.command("ping") if driver.is_async else client.admin.command("ping")
        for case, (takes, call) in CASES.items():
            commands.names.clear()
            lacking = [each for each in takes if ring.capabilities.isdisjoint(each)]
            if not lacking:
                await call(repository)
                continue
            with pytest.raises(MissingCapabilityError) as caught:
                await call(repository)
            assert not isinstance(caught.value, EnvelopeError | UnknownKeyError), case
            assert any(" or ".join(map(repr, each)) in str(caught.value) for each in lacking), case
            assert str(sorted(ring.capabilities))[1:-1] in str(caught.value), case
            assert commands.names == [], case
    if name != "whole":
        assert list(database.customers.find()) == before


def _with_second_index_key(name: str) -> KeyRing:
    """The same ring with an index key that can be retired."""
    ring = RING.with_index_key(IndexKey("x2", OLD)).writing_only("x1")
    wanted: Any = name.split("+")
    return ring if name == "whole" else ring.restrict(*wanted, contexts=[HERE])


async def test_what_a_restricted_ring_answers(driver: Driver) -> None:
    """The same as the whole one, as far as it goes."""
    await driver.repository(Customer, keys=RING).save_many([customer(1), customer(2), customer(3)])
    both = driver.repository(Customer, keys=RINGS["metadata+search"])
    found = await both.find({"email": "2@EXAMPLE.com"}, fields="metadata").to_list()
    assert [dict(each) for each in found] == [{"id": 2, "tenant": "t0"}]
    assert isinstance(await both.find_one({"tenant": "t0"}, fields="metadata"), Metadata)
    assert await both.find_one({"email": "nobody"}, fields="metadata") is None
    assert [each.id for each in await both.find(fields="metadata").sort("id", -1).to_list()] == [3, 2, 1]
    assert await both.verify({"email": {"$in": ["1@example.com", "2@example.com"]}}) == 2
    for name in ("search", "metadata+search"):
        searching = driver.repository(Customer, keys=RINGS[name])
        assert await searching.count({"email": "1@example.com"}) == 1
        assert await searching.count({"email": {"$ne": "1@example.com"}}) == 2
        assert await searching.exists({"email": "4@example.com"}) is False
        assert await searching.distinct("tenant", {"email": "3@example.com"}) == ["t1"]
    verifying = driver.repository(Customer, keys=RINGS["verify"])
    assert await verifying.verify() == 3
    assert await verifying.verify({"tenant": "t1"}) == 2
    assert await verifying.verify({"tenant": "none"}) == 0


@pytest.mark.parametrize("name", ["verify", "metadata", "metadata+search"])
async def test_verify_tells_what_is_wrong(driver: Driver, database: Db, name: str) -> None:
    """As with a whole ring: it raises with the id, skips, or tells a function, and a hook; what is right is counted."""
    await driver.repository(Customer, keys=RING).save_many([customer(number) for number in range(5)])
    database.customers.update_one({"_id": 1}, {"$set": {"tenant": "t0"}})
    database.customers.update_one({"_id": 2}, {"$set": {"data": b"edited"}})
    database.customers.insert_one({"_id": 9, "tenant": "t1"})
    told: list[Any] = []

    class Told(Hooks[Customer]):
        def integrity_failure(self, error: EnvelopeError) -> None:
            told.append(error)

    repository = driver.repository(Customer, keys=RINGS[name], hooks=[Told()])
    with pytest.raises(IntegrityError) as caught:
        await repository.verify()
    assert (caught.value.document_id, caught.value.collection) == ("1", "customers")
    assert told == [caught.value]
    errors: list[Any] = []
    assert await repository.verify(on_invalid=errors.append) == 3
    assert [(type(each), each.document_id) for each in errors] == [
        (IntegrityError, "1"),
        (IntegrityError, "2"),
        (MalformedEnvelopeError, "9"),
    ]
    assert await repository.verify(on_invalid="skip") == 3


@pytest.mark.parametrize("name", ["verify", "metadata"])
async def test_an_unknown_key_is_not_a_missing_capability(driver: Driver, name: str) -> None:
    """A document under a key that the ring does not have a part of: it could not be checked."""
    stranger = KeyRing([DataKey("k9", OLD)], index_keys=[IndexKey("x1", INDEX)])
    await driver.repository(Customer, keys=stranger).save(customer(1))
    repository = driver.repository(Customer, keys=RINGS[name])
    with pytest.raises(UnknownKeyError, match="holds k1, k0"):
        await repository.verify()
    assert await repository.verify(on_invalid="skip") == 0
    with pytest.raises(ConfigurationError, match="sealed under keys that are not in this ring"):
        await repository.setup(dry_run=True)
    assert "unknown key" in [each.kind for each in await repository.doctor()]


async def test_a_document_that_was_not_asked_for_is_noticed(driver: Driver, database: Db, proxy: Proxy) -> None:
    """The answer of `verify` and of metadata is checked against the filter, as with a whole ring."""
    await driver.repository(Customer, keys=RING).save_many([customer(1), customer(2)])
    one, other = (bson.encode(document) for document in database.customers.find().sort("_id"))
    proxy.swap = (one, other)
    async with driver.another_client(proxy.uri) as client:
        repository = driver.repository(Customer, driver.collection(client=client), keys=RINGS["metadata+search"])
        for where in ({"tenant": "t1"}, {"email": "1@example.com"}):
            with pytest.raises(IntegrityError, match="not one that was asked for"):
                await repository.verify(where)
            with pytest.raises(IntegrityError, match="not one that was asked for"):
                await repository.find_one(where, fields="metadata")


async def test_doctor_and_setup_look_at_what_the_ring_can_see(driver: Driver) -> None:
    """With "search" they look at index values too; without, at all else."""
    whole = driver.repository(Customer, keys=RING)
    await whole.setup()
    await whole.save(customer(1))
    moved = RING.with_index_key(IndexKey("x2", OLD)).writing_only("x1")
    searching = KeyRing([DataKey("k1", MATERIAL)], index_keys=[IndexKey("x2", OLD)])
    kinds = [each.kind for each in await driver.repository(Customer, keys=searching).doctor()]
    assert kinds == ["retired index key", "not searchable"]
    for name, found in (("verify", []), ("metadata", []), ("verify+search", kinds)):
        wanted: Any = name.split("+")
        repository = driver.repository(Customer, keys=searching.restrict(*wanted, contexts=[HERE]))
        assert [each.kind for each in await repository.doctor()] == found
    assert await driver.repository(Customer, keys=RINGS["verify"]).setup(dry_run=True) == []
    other = searching.restrict("verify", "search", contexts=[HERE])
    with pytest.raises(ConfigurationError, match="no index values under x2"):
        await driver.repository(Customer, keys=other).setup(dry_run=True)
    assert (await driver.repository(Customer, keys=moved.restrict("search", contexts=[HERE])).search_by("x1")).search_key == "x1"


async def test_a_repository_of_another_context_is_refused_when_it_is_built(driver: Driver) -> None:
    """It says which contexts the ring is for; by another name of the collection the context can still be the right one."""
    for name in ("verify", "search"):
        with pytest.raises(MissingCapabilityError, match=r"restricted to the context 'customers'.*: 'orders'"):
            driver.repository(Customer, driver.collection("orders"), keys=RINGS[name])
    await driver.repository(Customer, driver.collection("orders"), keys=RING, context=HERE).save(customer(1))
    assert await driver.repository(Customer, driver.collection("orders"), keys=RINGS["verify"], context=HERE).verify() == 1


# --- the codec ----------------------------------------------------------------------------------------------------------


def codec(ring: KeyRing, model: type[BaseModel] = Customer, **options: Any) -> DocumentCodec[Any]:
    return DocumentCodec(model, keys=ring, context=HERE, **options)


@pytest.mark.parametrize("name", [name for name in RINGS if name != "whole"])
@pytest.mark.parametrize("options", [{}, {"validate_on_save": True, "verify_on_load": True}], ids=["plain", "checked"])
def test_a_codec_says_what_is_missing(name: str, options: dict[str, Any]) -> None:
    """By the short way and the plain one, from every form of a document, before and after it has sealed nothing."""
    restricted, sealed = codec(RINGS[name], **options), codec(RING).seal_bson(customer(1))
    capabilities = RINGS[name].capabilities
    for document in (sealed, bson.raw_bson.RawBSONDocument(sealed), bson.decode(sealed, envelope.CODEC_OPTIONS)):
        for opening in (restricted.open, restricted.open_raw, restricted.verify):
            with pytest.raises(MissingCapabilityError, match="'open'"):
                opening(document)
        if "verify" in capabilities:
            restricted.verify_tag(document)
        else:
            with pytest.raises(MissingCapabilityError, match="'verify'"):
                restricted.verify_tag(document)
        if "metadata" in capabilities:
            assert dict(restricted.metadata(document)) == {"id": 1, "tenant": "t1"}
        else:
            with pytest.raises(MissingCapabilityError, match="'metadata'"):
                restricted.metadata(document)
    for _ in range(2):
        for sealing in (restricted.seal, restricted.seal_bson, restricted.sealed):
            with pytest.raises(MissingCapabilityError, match="'seal'"):
                sealing(customer(1))
        with pytest.raises(MissingCapabilityError, match="'open'"):
            restricted.reindexed(sealed)


def test_a_codec_verifies_and_reads_metadata_with_a_whole_ring() -> None:
    """What a restricted ring can do a whole one can; a document that is wrong is wrong to both."""
    for ring in (RING, RINGS["metadata"]):
        document = codec(RING).seal(customer(1))
        codec(ring).verify_tag(document)
        assert codec(ring).metadata(document).tenant == "t1"
        document["tenant"] = "t2"
        for verifying in (codec(ring).verify_tag, codec(ring).metadata):
            with pytest.raises(IntegrityError) as caught:
                verifying(document)
            assert caught.value.document_id == "1"


def test_a_model_without_blind_indexes_takes_no_search() -> None:
    """And one with them can be verified by a ring that has no index keys."""
    for model, instance in ((Plain, Plain(id=1, tenant="t1")), (Customer, customer(1))):
        whole = KeyRing([DataKey("k1", MATERIAL)]) if model is Plain else RING
        codec(whole.restrict("verify", contexts=[HERE]), model).verify_tag(codec(whole, model).seal(instance))


# --- rings --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capabilities", "contexts", "says"),
    [
        ((), [HERE], "one or more of"),
        (("open",), [HERE], "one or more of"),
        (("seal",), [HERE], "one or more of"),
        (("verify", "write"), [HERE], "one or more of"),
        ((["verify"],), [HERE], "one or more of"),
        ((None,), [HERE], "one or more of"),
        (("verify",), [], "one context or more"),
        (("verify",), None, "one context or more"),
        (("verify",), 5, "one context or more"),
        (("verify",), HERE, r"contexts=\['customers'\]"),
        (("verify",), [HERE, ""], "1 to 255 bytes"),
        (("verify",), [5], "must be text"),
        (("verify",), b"customers", "must be text"),
    ],
)
def test_what_restrict_does_not_take(capabilities: Any, contexts: Any, says: str) -> None:
    """Unknown capabilities or none, and what is no list of contexts, are refused with a word on what is right."""
    with pytest.raises(ConfigurationError, match=says):
        RING.restrict(*capabilities, contexts=contexts)


def test_a_ring_without_index_keys_cannot_be_restricted_to_search() -> None:
    """There would be nothing in it."""
    with pytest.raises(ConfigurationError, match="no index key"):
        KeyRing([DataKey.generate()]).restrict("search", contexts=[HERE])


def test_a_ring_says_what_it_can_do() -> None:
    """Its capabilities, its contexts, and a repr without material; "metadata" has "verify" with it."""
    assert RING.capabilities == {"open", "seal", "verify", "metadata", "search"}
    assert RING.contexts is None
    assert {name: set(ring.capabilities) for name, ring in RINGS.items() if name != "whole"} == {
        "verify": {"verify"},
        "metadata": {"metadata", "verify"},
        "search": {"search"},
        "verify+search": {"search", "verify"},
        "metadata+search": {"metadata", "search", "verify"},
    }
    several = RING.restrict("verify", contexts=("b", "a", "b"))
    assert several.contexts == ("b", "a")
    assert repr(several) == "KeyRing(k1, k0; restricted to verify)"
    assert repr(RINGS["search"]) == "KeyRing(; restricted to search; index keys x1; searching by x1)"
    assert repr(several._keys["k1"]) == "VerifyingKey('k1')"
    assert [[*ring] for ring in RINGS.values()] == [["k1", "k0"]] * 3 + [[]] + [["k1", "k0"]] * 2
    assert [ring.search_key for ring in RINGS.values()] == ["x1", None, None, "x1", "x1", "x1"]
    assert all(ring.written_index_keys == ring.index_keys == (("x1",) if ring.search_key else ()) for ring in RINGS.values())


def test_restricting_again_takes_away_and_gives_nothing_back() -> None:
    """Fewer capabilities and fewer contexts; what was left out once is gone."""
    ring = RING.restrict("metadata", "search", contexts=["a", "b"])
    less = ring.restrict("verify", contexts=["b"])
    assert (less.capabilities, less.contexts) == ({"verify"}, ("b",))
    assert less.authenticator("k0", "b").tag(b"x") == RING.authenticator("k0", "b").tag(b"x")
    same = less.restrict("verify", contexts=["b"])
    assert same._keys["k1"]._working == less._keys["k1"]._working
    for capability in ("metadata", "search"):
        with pytest.raises(MissingCapabilityError, match=f"'{capability}'"):
            less.restrict(capability, contexts=["b"])  # type: ignore[arg-type]  # each is one of the three
    for contexts in (["a"], ["b", "a"], ["c"]):
        with pytest.raises(MissingCapabilityError, match="restricted to the context 'b'"):
            less.restrict("verify", contexts=contexts)


def test_other_contexts_are_refused() -> None:
    """By the ring and by its keys, with the contexts that there are; of many only some are named."""
    ring = RING.restrict("verify", "search", contexts=["a", "b"])
    with pytest.raises(MissingCapabilityError, match=r"restricted to the contexts 'a', 'b', and this is about another.*: 'c'"):
        ring.authenticator("k1", "c")
    with pytest.raises(MissingCapabilityError, match="another context: 'c'"):
        ring.index_key("x1").authenticator("c", "email", "casefold")
    many = RING.restrict("verify", contexts=[f"c{number}" for number in range(9)])
    with pytest.raises(MissingCapabilityError, match="'c0', 'c1', 'c2', 'c3', 'c4' and 4 more"):
        many.need_context("d")
    many.need_context("c8")
    RING.need_context("anything")


@pytest.mark.parametrize("name", ["verify", "metadata", "search", "verify+search"])
def test_what_a_restricted_ring_does_not_give(name: str) -> None:
    """Working keys, a primary key, a ring for rotation; and it takes no keys and no roles in writing."""
    ring = RINGS[name]
    for call in (
        lambda: ring.primary,
        lambda: ring.sealing_keys(HERE),
        lambda: ring.working_keys("k1", HERE),
        lambda: ring.working_keys("unknown", HERE),
        ring.for_rotation,
    ):
        with pytest.raises(MissingCapabilityError):
            call()
    for change in (
        lambda: ring.with_key(DataKey.generate()),
        lambda: ring.with_primary("k1"),
        lambda: ring.with_index_key(IndexKey.generate()),
        lambda: ring.writing_only("x1"),
    ):
        with pytest.raises(ConfigurationError, match="change the whole ring"):
            change()
    for leave in (pickle.dumps, copy.copy, copy.deepcopy):
        for each in (ring, *ring._keys.values(), *ring._index_keys.values()):
            with pytest.raises(TypeError, match="holds keys"):
                leave(each)


def test_a_search_ring_follows_when_an_index_key_is_replaced() -> None:
    """Its holder goes over to the other index key as the others do."""
    ring = RING.with_index_key(IndexKey("x2", OLD)).restrict("search", contexts=[HERE])
    moved = ring.searching_by("x2")
    assert (moved.search_key, moved.index_keys, moved.capabilities, moved.contexts) == ("x2", ("x1", "x2"), {"search"}, (HERE,))
    with pytest.raises(ConfigurationError, match="still written"):
        moved.without_index_key("x1")
    last = RING.with_index_key(IndexKey("x2", OLD)).searching_by("x2").writing_only("x2").restrict("search", contexts=[HERE])
    assert last.without_index_key("x1").index_keys == ("x2",)


def test_keys_that_do_not_open_do_not_verify_either() -> None:
    """Compromised and destroyed ones are left out, and the error still says what became of them."""
    ring = KeyRing([DataKey("k1", MATERIAL), DataKey("k0", OLD)], compromised=["k0"], destroyed=["gone"], too_old="too old")
    restricted = ring.restrict("verify", contexts=[HERE])
    assert [*restricted] == ["k1"]
    assert at(OLD, "authenticate") not in held(restricted)
    for kid, says in (("k0", "compromised"), ("gone", "destroyed"), ("k9", "not in this ring")):
        with pytest.raises(UnknownKeyError, match=says):
            restricted.authenticator(kid, HERE)
    with pytest.raises(MissingCapabilityError):  # and not that it is too old
        restricted.sealing_keys(HERE)


@pytest.mark.parametrize(
    ("ring", "says"),
    [
        ({"keys": [DataKey("k", MATERIAL)], "capabilities": ["verify"]}, "holds restricted keys"),
        ({"keys": [DataKey("k", MATERIAL).restricted([HERE])]}, "holds DataKey objects"),
        ({"keys": [], "index_keys": [IndexKey("k", MATERIAL)], "capabilities": ["search"]}, "holds restricted keys"),
        ({"keys": [], "capabilities": ["verify"]}, "at least one key"),
        ({"keys": [], "capabilities": ["search"]}, "the keys that its capabilities take"),
        ({"keys": [DataKey("k", MATERIAL).restricted([HERE])], "capabilities": ["search"]}, "the keys that its capabilities take"),
        (
            {
                "keys": [DataKey("k", MATERIAL).restricted([HERE])],
                "index_keys": [IndexKey("x", MATERIAL).restricted([HERE])],
                "capabilities": ["verify"],
            },
            "the keys that its capabilities take",
        ),
        (
            {
                "keys": [DataKey("k", MATERIAL).restricted([HERE]), DataKey("l", OLD).restricted(["other"])],
                "capabilities": ["verify"],
            },
            "the same contexts",
        ),
        ({"keys": [DataKey("k", MATERIAL).restricted([HERE])], "capabilities": ["open"]}, "one or more of"),
        ({"keys": [DataKey("k", MATERIAL).restricted([HERE])], "capabilities": []}, "one or more of"),
    ],
)
def test_a_restricted_ring_that_does_not_fit_is_refused(ring: dict[str, Any], says: str) -> None:
    """Whole keys among restricted ones, more or less than the capabilities take, contexts that differ."""
    with pytest.raises(ConfigurationError, match=says):
        KeyRing(**ring)


def test_a_key_store_gives_whole_rings_and_takes_no_others(tmp_path: Path) -> None:
    """Its ring can be restricted; a restricted one has no keys that it could adopt."""
    store = FileKeyStore(tmp_path / "keys.store", kms=LocalKMS.from_file(tmp_path / "kek.json", create=True), create=True)
    restricted = store.ring().restrict("metadata", "search", contexts=[HERE])
    codec(restricted).verify_tag(codec(store.ring()).seal(customer(1)))
    with pytest.raises(MissingCapabilityError, match="adopt takes the capability 'seal'"):
        store.adopt(restricted)


# --- what it holds ------------------------------------------------------------------------------------------------------


def held(root: object) -> set[bytes]:
    """All bytes that can be reached from an object."""
    found: set[bytes] = set()
    seen: set[int] = set()
    left = [root]
    while left:
        each = left.pop()
        if id(each) in seen or isinstance(each, type | ModuleType) or inspect.isroutine(each):
            continue
        seen.add(id(each))
        if isinstance(each, bytes):
            found.add(each)
        left += gc.get_referents(each)
    return found


def secrets_of(ring: KeyRing) -> set[bytes]:
    """Those of 32 bytes and more."""
    return {each for each in held(ring) if len(each) >= 32}


def used(ring: KeyRing) -> Iterator[KeyRing]:
    """A ring, new and after it has done what it can."""
    yield ring
    whole, restricted = codec(RING), codec(ring)
    sealed = whole.seal_bson(customer(1))
    if "verify" in ring.capabilities:
        restricted.verify_tag(sealed)
    if "search" in ring.capabilities:
        restricted.indexer.of(customer(1).__dict__)
    yield ring


def test_a_restricted_ring_holds_its_working_keys_and_nothing_else() -> None:
    """No material, no key that encrypts, no purpose key, none of another context or another purpose: also after it was used."""
    verifying, searching = {at(MATERIAL, "authenticate"), at(OLD, "authenticate")}, {at(INDEX, "index")}
    expected = {
        "verify": verifying,
        "metadata": verifying,
        "search": searching,
        "verify+search": verifying | searching,
        "metadata+search": verifying | searching,
    }
    for name, keys in expected.items():
        for ring in used(RINGS[name]):
            assert secrets_of(ring) == keys
    assert {MATERIAL, OLD, INDEX} <= secrets_of(RING)  # and so they would have been seen
    two = RING.restrict("verify", contexts=[HERE, "orders"])
    assert secrets_of(two) == verifying | {at(MATERIAL, "authenticate", "orders"), at(OLD, "authenticate", "orders")}
    assert secrets_of(two.restrict("verify", contexts=["orders"])).isdisjoint(verifying)


def test_a_verify_ring_is_what_verifies() -> None:
    """Its key is the one of spec 3.2 for tags, and decrypts nothing: as an AES key it gives no JSON."""
    ring = RINGS["verify"]
    raw = codec(RING).seal_bson(customer(1))
    document = envelope.verify(raw, keys=ring, context=HERE)
    for key in secrets_of(ring):
        assert not StreamCipher(key).decrypt(document["iv"], document["data"]).startswith(b"{")
    assert StreamCipher(at(MATERIAL, "encrypt")).decrypt(document["iv"], document["data"]).startswith(b"{")
    with pytest.raises(MissingCapabilityError, match="'open'"):
        envelope.open(raw, keys=ring, context=HERE)
    with pytest.raises(MissingCapabilityError, match="'seal'"):
        envelope.seal({"_id": 1}, b"{}", keys=ring, context=HERE)


def test_a_search_ring_cannot_verify() -> None:
    """It holds no key that documents are tagged under."""
    raw = codec(RING).seal_bson(customer(1))
    with pytest.raises(MissingCapabilityError, match="'verify', and this ring is restricted to 'search'"):
        envelope.verify(raw, keys=RINGS["search"], context=HERE)
    assert codec(RINGS["search"]).indexer.of(customer(1).__dict__) == codec(RING).indexer.of(customer(1).__dict__)


def test_whoever_can_verify_can_forge() -> None:
    """What docs/capabilities.md warns of: other metadata, and another byte in a payload that is partly known, under a right tag."""
    ring = RINGS["verify"]
    raw = codec(RING).seal_bson(customer(1, notes="pay 100"))
    document = envelope.verify(raw, keys=ring, context=HERE)
    payload = envelope.open(raw, keys=RING, context=HERE).payload
    place = payload.index(b"pay 1") + 4
    data = bytearray(document["data"])
    data[place] ^= ord("1") ^ ord("9")  # he knows where it stands, and what is there
    signed = {name: value for name, value in document.items() if name != "hmac"} | {"tenant": "forged", "data": bytes(data)}
    elements = bson.encode({"_id": 1, **dict(sorted(signed.items(), key=lambda each: (each[0] != "_id" and each[0]) or ""))})[4:-1]
    forged = envelope.tagged(elements, ring.authenticator("k1", HERE))
    opened = codec(RING).open(forged)
    assert (opened.tenant, opened.notes) == ("forged", "pay 900")


def test_whoever_can_verify_can_get_others_to_read_for_him() -> None:
    """The payload of one document in another, under a right tag: it opens as that other one's."""
    ring, whole = RINGS["verify"], codec(RING)
    hers, his = whole.seal(customer(1, notes="her secret")), whole.seal(customer(2))
    edited = envelope.encode_document(his | {"data": hers["data"], "iv": hers["iv"]})
    forged = envelope.tagged(edited[4:-44], ring.authenticator("k1", HERE))
    opened = whole.open(forged)
    assert (opened.id, opened.notes) == (2, "her secret")


def test_whoever_can_search_can_try_out() -> None:
    """What docs/capabilities.md warns of: of a dictionary he learns which value a document has."""
    stored = codec(RING).seal(customer(1, email="ada@example.com"))["idx"]["email"]
    indexer = codec(RINGS["search"]).indexer
    dictionary = ["bob@example.com", "ada@example.com", "eve@example.com"]
    assert [word for word in dictionary if indexer.of(customer(1, email=word).__dict__)["email"] == stored] == ["ada@example.com"]


def test_restricted_keys_are_of_their_kind() -> None:
    """A ring has one kind for documents and one for indexes."""
    ring = RINGS["metadata+search"]
    assert {type(key) for key in ring._keys.values()} == {VerifyingKey}
    assert type(ring.index_key("x1")) is SearchingKey
