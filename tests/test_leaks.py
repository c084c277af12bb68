"""Nothing leaks sideways: a secret of a sensitive field, or a key, is found nowhere outside the client.

Every secret text begins with `MARK`, drawn at random: whoever finds that, in whatever form, has found a secret. `NUMBER` is one,
too, and so are the bytes of the keys. `SEEN` is none: it is put where a detector has to find it, into a queryable field, so that a
detector that sees nothing does not pass for a package that leaks nothing.

First the detector itself. Then a day in the life of a repository, and all that it leaves behind. Then each refusal, one by one, and
reprs. Last, protections are taken out, and the detector has to find what comes through.
"""

from __future__ import annotations

import base64
import functools
import logging
import secrets
import struct
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn
from uuid import UUID, uuid4

import pydantic
import pytest
from bson import ObjectId
from bson.raw_bson import RawBSONDocument
from conftest import Driver, Either
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, WrapValidator, create_model
from pydantic_core import PydanticCustomError
from pymongo import AsyncMongoClient, MongoClient
from pymongo.database import Database
from pymongo.errors import BulkWriteError, WriteError
from pymongo.logger import LogMessage
from pymongo.monitoring import CommandListener

from mongo_envelope import (
    BlindIndex,
    Bucket,
    KeyRing,
    PayloadError,
    Queryable,
    QueryError,
    Sensitive,
    embedded,
    envelope,
    errors,
    places,
    writing,
)
from mongo_envelope.bridge import settle
from mongo_envelope.lossless import Misfit, Node, Plan
from mongo_envelope.primitives import derive

Db = Database[dict[str, Any]]
Leaked = Callable[..., list[str]]

MARK, SEEN = secrets.token_hex(8), secrets.token_hex(8)
NUMBER = 10**15 + secrets.randbelow(9 * 10**15)


def secret(what: str = "a secret") -> str:
    return f"{MARK}: {what}"


DATA = secret().encode()
BROKEN = f"\ud800{MARK}"  #: no valid Unicode


# --- the detector -----------------------------------------------------------------------------------------------------


def forms(needle: bytes) -> Iterator[bytes]:
    """Bytes as they are, and as text shows them: hexadecimal, escaped, base64 at any offset."""
    yield from (needle, needle.hex().encode(), needle.hex().upper().encode(), repr(needle)[2:-1].encode())
    for offset, first in enumerate((0, 2, 3)):  # the characters in which there are bits of the needle alone
        text = base64.b64encode(bytes(offset) + needle)[first : (offset + len(needle)) * 8 // 6]
        yield from (text, text.replace(b"+", b"-").replace(b"/", b"_"))


def found(needles: list[bytes], *things: Any) -> list[str]:
    """Where one of these stands in the things, in any of its forms, with what is around it."""
    text = b"\n".join(shown(things, {}))
    every = {form for needle in needles for form in forms(needle)}
    return [repr(text[max(0, at - 40) : at + 80]) for form in every if (at := text.find(form)) >= 0]


def shown(thing: Any, known: dict[int, Any]) -> Iterator[bytes]:
    """All that somebody can print who has got hold of a thing: what it says, what is in it, and what is behind it."""
    if isinstance(thing, str | bytes):
        yield thing.encode(errors="surrogatepass") if isinstance(thing, str) else thing
    elif id(thing) not in known:
        known[id(thing)] = thing  # kept, so that its id stays its own
        for each in inside(thing):
            yield from shown(each, known)


def inside(thing: Any) -> list[Any]:
    if isinstance(thing, RawBSONDocument):
        return [bytes(thing.raw)]
    if isinstance(thing, Mapping):
        return [*thing.keys(), *thing.values()]
    if isinstance(thing, list | tuple | set | frozenset):
        return list(thing)
    if isinstance(thing, BaseException):
        behind = [thing.__cause__, thing.__context__, *(thing.errors() if isinstance(thing, pydantic.ValidationError) else ())]
        return [*printed(thing), thing.args, vars(thing), *behind, "".join(traceback.format_exception(thing))]
    if isinstance(thing, logging.LogRecord):
        return [thing.getMessage(), vars(thing)]
    more = {LogMessage: "_kwargs", warnings.WarningMessage: "message"}.get(type(thing))
    return [*printed(thing), *([getattr(thing, more)] if more else ())]


def printed(thing: Any) -> Iterator[str]:
    for form in (repr, str, format):
        try:
            yield form(thing)
        except Exception as error:  # noqa: BLE001 - what raises when it is printed shows what it raises
            yield repr(error.args)


def seen(*things: Any) -> list[str]:
    return found([SEEN.encode()], *things)


def key_material(keys: KeyRing, context: str = "customers") -> list[bytes]:
    """Every key that a ring holds, and all that it derives for a context."""
    held = []
    for key in keys._keys.values():
        held.append(key._material)
        for purpose in ("encrypt", "authenticate"):
            held.append(derive(key._material, purpose))
            held.append(derive(held[-1], purpose, context))
    for index_key in keys._index_keys.values():
        held += [index_key._material, derive(index_key._material, "index")]
        held.append(derive(held[-1], "index", context))
        held += [derive(held[-1], "index", context, name, normalizer) for name, normalizer in INDEXES.items()]
    return held


#: The blind indexes of `Person`, and their normalisers.
INDEXES = {"mail": "email", "tenant_nick": "exact+casefold", "code": "loud", "salary_bucket": "bucket:1000"}


@pytest.fixture(scope="session")
def leaked(keys: KeyRing) -> Leaked:
    """The detector: where in these things a secret or a key stands."""
    return functools.partial(found, [MARK.encode(), str(NUMBER).encode(), struct.pack("<q", NUMBER), *key_material(keys)])


def raises(error: BaseException) -> Callable[[Any], NoReturn]:
    """A function that raises this, whatever it is given."""

    def function(_: Any) -> NoReturn:
        raise error

    return function


def having(error: BaseException, **attributes: Any) -> BaseException:
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


class Loud(Exception):
    """Shows a secret, or raises with it, when it is printed."""

    def __repr__(self) -> str:
        return secret()

    def __str__(self) -> str:
        raise ValueError(secret())


def pydantics_error() -> BaseException:
    """One that hides its input when it is printed, and has it all the same."""
    with pytest.raises(pydantic.ValidationError) as caught:
        create_model("Hiding", __config__={"hide_input_in_errors": True}, number=(int, ...))(number=secret())
    return caught.value


SHOWN: dict[str, Any] = {
    "text": secret(),
    "bytes": DATA,
    "hexadecimal": DATA.hex(),
    "HEXADECIMAL": DATA.hex().upper(),
    "escaped": repr(b"\0" + DATA),
    **{f"base64 after {n} bytes": base64.b64encode(b"\xff" * n + DATA + b"\xff" * n).decode() for n in range(4)},
    "a key of a dict": {"a": [{secret(): 1}]},
    "a document": RawBSONDocument(envelope._encode({"_id": 1, "text": [secret()]})),
    "a number": {"phone": NUMBER},
    "a number in a document": RawBSONDocument(envelope._encode({"_id": NUMBER})),
    "a repr, a str that raises": Loud(),
    "what an error says": ValueError(secret()),
    "an error's attribute": having(ValueError(), value=[{secret()}]),
    "an error's note": having(ValueError(), __notes__=[secret()]),
    "an error's cause": having(ValueError(), __cause__=ValueError(secret())),
    "an error's context, not shown": having(ValueError(), __context__=ValueError(secret()), __suppress_context__=True),
    "what could not be encoded": UnicodeEncodeError("utf-8", BROKEN, 0, 1, "no"),
    "a group of errors": ExceptionGroup("two", [ValueError(secret())]),
    "pydantic's hidden input": pydantics_error(),
    "a log record's argument": logging.LogRecord("a", 10, "b", 1, "%s", (secret(),), None),
    "a log record's attribute": logging.makeLogRecord({"msg": "x", "more": [secret()]}),
}


@pytest.mark.parametrize("thing", SHOWN)
def test_the_detector_finds_a_secret(leaked: Leaked, thing: str) -> None:
    """A secret is found in each of the forms and places in which this file looks for one; and what is not there is not."""
    assert leaked(SHOWN[thing])
    assert seen(SHOWN[thing]) == []


def test_the_detector_finds_each_key(leaked: Leaked, keys: KeyRing) -> None:
    """Each key that is held or derived is found as bytes and as text, and in a key file."""
    assert keys.working_keys(keys.primary, "customers").cipher._key in key_material(keys)
    assert len(set(key_material(keys))) == 5 + 3 + len(INDEXES)
    for key in key_material(keys):
        for form in (key, key.hex(), repr(key), base64.b64encode(key), base64.urlsafe_b64encode(key).decode()):
            assert leaked({"a": [form]})
    assert leaked(keys._as_json())
    assert leaked("nothing", b"at all", {1: [None]}, ValueError(SEEN)) == []


# --- the models -------------------------------------------------------------------------------------------------------


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    word: str = Field(default_factory=secret)


class Place(BaseModel):
    """Stands in the clear, and has a validator that quotes its value."""

    city: Annotated[str, AfterValidator(lambda city: city if len(city) < 8 else raises(ValueError(f"{city}: too long"))(0))] = (
        "Riga"
    )


def another() -> str:
    """A secret that no other document has."""
    return secret(uuid4().hex)


def quoting(text: str) -> str:
    """A normaliser that refuses what is loud, and quotes it."""
    return raises(ValueError(text))(0) if "loud" in text else text


class Person(BaseModel):
    """A secret in every kind of place: keys of dicts and names of extra fields among them."""

    model_config = ConfigDict(extra="allow", arbitrary_types_allowed=True)

    id: UUID = Field(default_factory=uuid4)
    tenant: Annotated[str, Queryable(index=True)] = "acme"
    rank: Annotated[int, Queryable()] = 0
    handle: Annotated[str, Queryable()] = Field(default_factory=lambda: uuid4().hex)
    price: Annotated[Decimal, Queryable()] = Decimal(1)
    born: Annotated[date, Queryable()] = date(1815, 12, 10)
    place: Annotated[Place, Queryable()] = Place()
    badge: Annotated[ObjectId | None, Queryable()] = None
    mail: Annotated[str, Sensitive(index=BlindIndex(normalize="email", unique=True))] = Field(default_factory=another)
    nick: Annotated[str, Sensitive(index=BlindIndex(normalize="casefold", within=["tenant"], bits=16))] = Field(
        default_factory=secret
    )
    code: Annotated[str, Sensitive(index=BlindIndex(normalize=quoting, normalize_id="loud"))] = Field(default_factory=secret)
    salary: Annotated[int, Sensitive(index=Bucket(width=1000))] = Field(default_factory=lambda: NUMBER)
    text: Annotated[str, Sensitive()] = Field(default_factory=secret)
    password: SecretStr = Field(default_factory=lambda: SecretStr(secret()))
    data: bytes = Field(default_factory=lambda: DATA)
    number: int = Field(default_factory=lambda: NUMBER)
    phones: dict[int, str] = Field(default_factory=lambda: {NUMBER: secret()})
    nested: Inner = Field(default_factory=Inner)
    each: list[str] = Field(default_factory=lambda: [secret()])
    by_name: dict[str, str] = Field(default_factory=lambda: {secret("key"): secret("value"), "kind": secret("tag")})
    anything: Any = Field(default_factory=lambda: {secret("key"): [DATA, {secret()}, (NUMBER,)]})


def person(**given: Any) -> Person:
    return Person(**{"more": secret("extra"), secret("name"): [secret()], **given})


def wrong(**assigned: Any) -> Person:
    """A person to whom values were assigned that nobody validated."""
    model = person()
    for name, value in assigned.items():
        setattr(model, name, value)
    return model


# --- a day ------------------------------------------------------------------------------------------------------------

#: Values that are refused, by the name that a filter compares with them. The name may be quoted.
REFUSED_FILTERS: dict[Any, list[Any]] = {
    "text": [secret(), DATA, {"$eq": secret()}, {"$in": [secret()]}, {"$regex": secret()}],
    "by_name": [{secret(): secret()}],
    "nested.word": [secret()],
    "number": [NUMBER],
    "mail": [
        [secret()],
        {"$regex": secret()},
        {"$gt": secret()},
        {"$in": secret()},
        {"$in": [NUMBER]},
        {"$elemMatch": {"$eq": secret()}},
    ],
    "mail.domain": [secret()],
    "nick": [secret()],  # without the tenant
    "code": [secret("loud"), {"$in": ["", secret("loud")]}, BROKEN],
    "salary": [secret(), {"$gt": NUMBER}, {"$gte": secret(), "$lt": NUMBER}, {"$gte": 0, "$lte": NUMBER}, {"$in": [[NUMBER]]}],
    "colour": [secret()],
    "id": [secret(), DATA, Loud()],
    "rank": [secret(), {"$in": [1, secret()]}, {"$mod": [1, secret()]}, {"$not": secret()}],
    "price": [secret()],
    "born": [{"$gt": secret()}],
    "badge": [secret()],
    "place": [{"city": secret()}, Inner()],
    "place.city": [[secret()]],
    "handle": [[secret()], DATA, {secret(): secret()}, Loud(), BROKEN, {"$regex": DATA}, {"$regex": "a", "$options": secret()}],
    "tenant": [{"$type": secret()}, {"$exists": secret()}, {"$elemMatch": {"$eq": secret()}}],
    "$and": [secret(), [secret()], functools.reduce(lambda inner, _: [{"$and": inner}], range(2000), [{"handle": secret()}])],
    "$or": [[{"rank": 1}, {"text": secret()}]],
    "$where": [secret()],
    "$expr": [{"$eq": ["$text", secret()]}],
}


def cases(given: Mapping[str, list[Any]]) -> list[Any]:
    return [pytest.param(name, value, id=f"{name}-{n}") for name, values in given.items() for n, value in enumerate(values)]


async def day(driver: Driver, database: Db) -> list[BaseException]:  # noqa: PLR0915 - a day is long
    """Everything that a repository does, with secrets everywhere. The errors that it raises on the way."""
    caught: list[BaseException] = []

    @contextmanager
    def refused(kind: type[BaseException]) -> Iterator[None]:
        with pytest.raises(kind) as info:
            yield
        caught.append(info.value)

    people = driver.repository(Person)
    await people.setup()
    database.customers.create_index("handle", unique=True)

    # Saved, and loaded as they were saved.
    ada, bob, eve = await people.save(person(handle=SEEN)), person(rank=1), person(rank=2)
    ada.by_name[secret("another key")] = ada.text = secret("another text")
    await people.save(ada)
    await people.save_many([ada, bob, eve])
    stale = await people.load(ada.id)
    assert stale == ada
    assert await people.load_many([eve.id, ada.id]) == [eve, ada]
    assert (await people.load_raw(ada.id))["text"] == secret("another text")
    await driver.repository(Person, validate_on_save=True).save(ada)

    # Found.
    options: dict[str, Any] = {"hint": [("_id", 1)], "comment": "a day", "max_time_ms": 60_000}
    everybody = people.find({"tenant": "acme"}, sort=[("rank", -1), "handle"], skip=1, limit=3, batch_size=1, **options)
    assert [each.rank async for each in everybody] == [1, 0]
    assert await people.find({"handle": SEEN}).sort("rank").limit(1).to_list() == [ada]
    assert await people.find({"rank": {"$gte": 1}}).first() in (bob, eve)
    assert await people.find_one({"place.city": "Riga", "handle": SEEN}, sort="rank") == ada
    assert await people.count({"tenant": "acme"}) == 3
    assert await people.exists({"$or": [{"handle": SEEN}, {"rank": 5}]})
    assert await people.distinct("rank", {"tenant": "acme"}) == [0, 1, 2]
    for case in cases(REFUSED_FILTERS):
        with refused(QueryError):
            await people.count(dict([case.values]))

    # Searched.
    assert await people.find({"mail": ada.mail.upper()}).to_list() == [ada]
    assert await people.count({"nick": secret().upper(), "tenant": "acme"}) == 3
    assert await people.count({"salary": {"$gt": NUMBER - 1, "$lte": NUMBER}, "code": {"$ne": secret("other")}}) == 3
    assert await people.exists({"$or": [{"mail": eve.mail}, {"code": secret()}]})
    assert await people.distinct("rank", {"salary": NUMBER}) == [0, 1, 2]
    assert (await people.find_one({"mail": bob.mail}, fields="metadata")).rank == 1
    for pipeline in ([{"$match": {"mail": {"$in": [ada.mail, secret()]}}}], [{"$group": {"_id": "$rank"}}]):
        await Either(await people.aggregate(pipeline)).to_list()
    for pipeline in (
        [{"$match": {"text": secret()}}],
        [{"$match": {"salary": NUMBER}}],
        [{"$set": {secret(): secret(), "mail": 1}}],
    ):
        with refused(QueryError):
            await people.aggregate(pipeline)
    assert await people.reindex(every=True) == await people.verify() == 3
    ada, bob, eve = await people.load_many([ada.id, bob.id, eve.id])

    # Changed, also by those who may not.
    await people.update(bob.id, {"text": secret("changed"), "by_name": {secret("new key"): ""}, "colour": secret("new extra")})
    bob = await people.update(bob.id, lambda found: setattr(found, "anything", secret("changed by a function")))
    for saved, how in ((stale, {}), (person(id=ada.id), {}), (ada, {"revision": people.revision(bob)})):
        with refused(errors.RevisionConflictError):
            await people.save(saved, **how)
    await people.save(stale, overwrite=True)
    ada = await people.save(person(id=ada.id, handle=SEEN), revision=people.revision(stale))
    for batch in ([person(handle=SEEN)], [person(), person(handle=SEEN), person()], [person(mail=bob.mail)]):
        with refused(errors.DuplicateValueError):
            await people.save_many(batch)
    for name, value in (("text", [secret()]), ("by_name", {secret(): NUMBER}), ("anything", Loud()), ("code", secret("loud"))):
        with refused(PayloadError):
            await people.save(wrong(**{name: value}))
    with refused(QueryError):
        await people.update(ada.id, {"nested": {"word": [secret()]}})

    # Refused by the server: by a validator, and then with pymongo's own errors, which quote what stands in the clear.
    database.command("collMod", "customers", validator={"$and": [{"handle": {"$ne": f"{SEEN} refused"}}, people.inner.guard()]})
    no_point = {"handle": f"{SEEN} no point"}
    database.customers.create_index([("place", "2dsphere")], partialFilterExpression=no_point)
    for save, kind in ((people.save, WriteError), (lambda model: people.save_many([model]), BulkWriteError)):
        with refused(errors.RepositoryError):
            await save(person(handle=f"{SEEN} refused"))
        with refused(kind):
            await save(person(**no_point))

    # In transactions.
    for commit in (True, False):
        async with driver.transaction(commit=commit) as session:
            await people.save(person(), session=session)
            await people.update(bob.id, {"text": secret("in a transaction")}, session=session)
            await people.find({"rank": 1}, session=session).to_list()

    # Tampered with, and grown out of its model.
    database.customers.update_one({"_id": eve.id}, {"$set": {"rank": 99}})
    with refused(errors.IntegrityError):
        await people.load(eve.id)
    await people.find(on_invalid="skip").to_list()
    await people.find(on_invalid=caught.append).to_list()
    changed = driver.repository(create_model("Changed", __base__=Person, text=(int, ...)))
    with refused(PayloadError):
        await changed.load(ada.id)
    await changed.find(on_invalid=caught.append).to_list()
    await people.verify(on_invalid=caught.append)
    await people.reindex(every=True, on_invalid=caught.append)
    await people.doctor()

    # Deleted.
    ada = await people.load(ada.id)
    await people.delete(ada.id, revision=people.revision(ada))
    for call, given in ((people.save, ada), (people.load, ada.id)):
        with refused(errors.DocumentNotFoundError):
            await call(given)
    await people.delete(eve.id)
    await people.delete_many({"mail": bob.mail, "salary": NUMBER})
    await people.delete_many({"tenant": "acme"})
    return caught


class Commands(CommandListener):
    """Keeps what goes to the server, and what comes back."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def started(self, event: Any) -> None:
        self.kept.append(event.command)

    def succeeded(self, event: Any) -> None:
        self.kept.append(event.reply)

    def failed(self, event: Any) -> None:
        self.kept.append(event.failure)


@contextmanager
def records() -> Iterator[list[logging.LogRecord]]:
    """Every record of every logger."""
    root, handler, kept = logging.getLogger(), logging.Handler(), []
    level, handler.emit = root.level, kept.append
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield kept
    finally:
        root.setLevel(level)
        root.removeHandler(handler)


async def watched_day(kind: Any, uri: str, database: Db, keys: KeyRing) -> dict[str, Any]:
    """A day with a client of its own: its commands, errors and profile."""
    commands = Commands()
    client = kind(uri, event_listeners=[commands])
    database.create_collection("system.profile", capped=True, size=1 << 24)
    database.command("profile", 2, slowms=-1)  # every operation, in mongod's log too
    try:
        caught = await day(Driver(client, database, keys), database)
    finally:
        await settle(client.close())
    database.command("profile", 0)
    Person.model_construct(handle=[SEEN]).model_dump_json(include={"handle"})  # pydantic warns, and quotes it
    return {"commands": commands.kept, "errors": caught, "profile": list(database.system.profile.find())}


def uncompressed(*arguments: Any, real: Any = embedded._options, **options: Any) -> Iterator[str]:
    """mongod's command line, for files in which a text can be found."""
    yield from real(*arguments, **options)
    yield from ("--wiredTigerCollectionBlockCompressor", "none", "--wiredTigerJournalCompressor", "none")
    yield from ("--wiredTigerIndexPrefixCompression", "false")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def traces(runner: Any, keys: KeyRing, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a day leaves behind, with each of the two drivers, and on disk."""
    folder, traces = tmp_path_factory.mktemp("mongod"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "_options", uncompressed)
        patch.setenv("MONGOB_LOG_MAX_DOCUMENT_LENGTH", "1000000")  # pymongo's log: whole commands
        server = embedded.start(data_dir=folder, use_environment=False)
        with server, MongoClient[dict[str, Any]](server.uri, uuidRepresentation="standard") as plain:
            homes = [(plain.local, "oplog.rs")]
            for kind in (MongoClient, AsyncMongoClient):
                homes.append((plain[f"day-{kind.__name__}"], "customers"))
                with records() as log, warnings.catch_warnings(record=True) as warned:
                    warnings.simplefilter("always")
                    left = runner.run(watched_day(kind, server.uri, homes[-1][0], keys))
                left |= {"log": log, "warnings": warned}
                traces |= {f"{kind.__name__}: {what}": each for what, each in left.items()}
            plain.admin.command("fsync")
            uris = [database.command("collStats", name)["wiredTiger"]["uri"] for database, name in homes]
            traces["homes"] = [f"{uri.rpartition(':')[2]}.wt" for uri in uris]
            traces["mongod's log"] = files(server._process.folder)["mongod.log"]
            traces["files, while it runs"] = files(folder)
    traces["files, after it ended"] = files(folder)
    return traces


@pytest.mark.parametrize("what", ["commands", "log", "warnings", "errors", "profile"])
@pytest.mark.parametrize("client", ["MongoClient", "AsyncMongoClient"])
def test_a_day_leaves_no_secret(traces: dict[str, Any], leaked: Leaked, client: str, what: str) -> None:
    """No command, answer, log record, warning, error or profile entry of a day has a secret or a key in it."""
    left = traces[f"{client}: {what}"]
    assert leaked(left) == []
    assert seen(left)


def test_mongods_log_has_no_secret(traces: dict[str, Any], leaked: Leaked) -> None:
    """With every operation logged as a slow one, mongod's own log has no secret and no key in it."""
    assert leaked(traces["mongod's log"]) == []
    assert seen(traces["mongod's log"])


@pytest.mark.parametrize("when", ["while it runs", "after it ended"])
def test_mongods_files_have_no_secret(traces: dict[str, Any], leaked: Leaked, when: str) -> None:
    """No secret and no key is on disk, in data, indexes, oplog or journal, where what was deleted may still stand."""
    on_disk = traces[f"files, {when}"]
    assert leaked(*on_disk.values()) == []
    journal = [name for name in on_disk if name.startswith("WiredTigerLog.")]
    assert journal
    for name in (*traces["homes"], *journal):
        assert seen(on_disk[name]), name


async def test_a_day_prints_nothing(driver: Driver, database: Db, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing is written to stdout or stderr, by whatever part of the process."""
    await day(driver, database)
    assert capfd.readouterr() == ("", "")


# --- refusals ---------------------------------------------------------------------------------------------------------


def assert_hidden(leaked: Leaked, error: BaseException) -> None:
    """No secret in an error or behind it, and behind it nobody else's error, whatever that may carry."""
    assert leaked(error) == []
    assert isinstance(error, errors.MongoEnvelopeError)
    for behind in (error.__cause__, error.__context__):
        if behind is not None:
            assert_hidden(leaked, behind)


def computing(compute: Callable[[Any], str]) -> BaseModel:
    class Computing(BaseModel):
        id: int = 1

        @pydantic.computed_field
        @property
        def initial(self) -> Annotated[str, Queryable()]:
            return compute(self)

    return Computing()


def dumping(dump: Callable[[Any], Any]) -> BaseModel:
    return create_model("Dumping", id=(int, 1), text=(Annotated[str, Sensitive(dump=dump, load=str)], secret()))()


ENDLESS: list[Any] = [secret()]
ENDLESS.append(ENDLESS)
DEEP = functools.reduce(lambda inner, _: {secret(): inner}, range(300), "")
#: Values that nobody validated, by the field that they are assigned to.
REFUSED_VALUES: dict[str, list[Any]] = {
    "text": [[secret()], {secret(): 1}, DATA, type("Text", (str,), {})(secret()), Loud(), BROKEN, secret("x" * (16 << 20))],
    "password": [secret(), SecretStr(BROKEN)],
    "data": [secret()],
    "number": [secret(), NUMBER * 10**4300],
    "mail": [[secret()], BROKEN],
    "nick": [DATA, BROKEN],
    "code": [secret("loud"), BROKEN],
    "salary": [secret(), [NUMBER]],
    "phones": [{NUMBER: [secret()]}, {secret(): ""}],
    "nested": [secret(), Inner.model_construct(word=[secret()])],
    "each": [["", {secret()}], {secret()}],
    "by_name": [{secret(): NUMBER}, {NUMBER: ""}, {BROKEN: ""}],
    "anything": [Loud(), {secret(): [{secret(): Loud()}]}, [BROKEN], {BROKEN: 1}, ENDLESS, DEEP],
    "more": [Loud()],
    "handle": [[secret()], BROKEN],
    "rank": [secret(), NUMBER * 10**9],
    "model": [wrong(**{secret("other name"): Loud()}), wrong(**{BROKEN: 1}), secret()],
    "dump=": [dumping(raises(KeyError(secret()))), dumping(lambda _: Loud()), dumping(lambda _: BROKEN)],
    "computed": [computing(raises(KeyError(secret()))), computing(lambda _: [secret()])],
}


@pytest.mark.parametrize(("name", "value"), cases(REFUSED_VALUES))
async def test_what_cannot_be_saved(driver: Driver, leaked: Leaked, name: str, value: Any) -> None:
    """A value that is refused before it is sent stands neither in the error nor behind it, and no warning quotes it."""
    model = wrong(**{name: value}) if name in Person.model_fields or name == "more" else value
    for options in ({}, {"validate_on_save": True}):
        models = driver.repository(type(model) if isinstance(model, BaseModel) else Person, **options)
        for save in (models.save, lambda model: models.save_many([model])):  # noqa: B023 - called at once
            with pytest.raises(errors.EnvelopeError) as caught:
                await save(model)
            assert_hidden(leaked, caught.value)


async def test_what_validators_refuse_before_saving(driver: Driver, leaked: Leaked) -> None:
    """With validate_on_save=True a value that the model's own validators refuse, or would change, is not quoted."""
    for check in (Field(max_length=3), AfterValidator(raises(ValueError(secret()))), AfterValidator(lambda text: f"{text}!")):
        model = create_model("Checked", id=(int, 1), text=(Annotated[str, check], "a"))
        with pytest.raises(PayloadError) as caught:
            await driver.repository(model, validate_on_save=True).save(model.model_construct(text=secret()))
        assert_hidden(leaked, caught.value)


def refused_by(error: BaseException) -> Any:
    return Annotated[str, AfterValidator(raises(error))]


def validated_again(phones: Any) -> Any:
    """A validator that asks pydantic in turn, and passes on its error."""
    return pydantic.TypeAdapter(dict[int, int]).validate_python(phones)


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


#: Other types of fields, which the stored document does not fit. Before and wrap validators are tried on one of another type, too,
#: so that it is refused in any case.
CHANGED: dict[str, dict[str, Any]] = {
    "another type": {"text": int},
    "a constraint": {"text": Annotated[str, Field(max_length=3)]},
    "a pattern": {"text": Annotated[str, Field(pattern="^a$")]},
    "a Literal": {"text": Literal["a", "b"]},
    "a date": {"text": date},
    "another type in the clear": {"handle": Annotated[int, Queryable()]},
    "beneath a key": {"by_name": dict[str, int]},
    "a key": {"by_name": dict[Annotated[str, Field(max_length=3)], str]},
    "beneath a number as a key": {"phones": dict[int, int]},
    "a number as a key": {"phones": dict[Annotated[int, Field(lt=5)], str]},
    "names that are not expected": {"by_name": Inner},
    "a tag": {"by_name": Annotated[Cat | Dog, Field(discriminator="kind")]},
    "no longer Any": {"anything": dict[str, dict[str, int]]},
    "a field that is missing": {"missing": str},
    "a validator that quotes": {"text": Annotated[str, AfterValidator(lambda text: raises(ValueError(f"{text} is bad"))(0))]},
    "a validator before": {"text": Annotated[int, BeforeValidator(raises(AssertionError(secret())))]},
    "a validator around": {"text": Annotated[int, WrapValidator(lambda text, _: raises(ValueError(text))(0))]},
    "a KeyError": {"text": refused_by(KeyError(secret()))},
    "an error that carries": {"text": refused_by(having(OSError(), value=secret(), __notes__=[secret()]))},
    "an error with a cause": {"text": refused_by(having(LookupError(), __cause__=ValueError(secret())))},
    "an error that cannot be printed": {"text": refused_by(Loud())},
    "an error of Unicode": {"text": refused_by(UnicodeEncodeError("utf-8", BROKEN, 0, 1, secret()))},
    "a group of errors": {"text": refused_by(ExceptionGroup(secret(), [ValueError(secret())]))},
    "a type of error of one's own": {"text": refused_by(PydanticCustomError(secret(), secret()))},
    "another model's error": {"text": Annotated[str, AfterValidator(lambda text: Place(city=text).city)]},
    "another type's error": {"phones": Annotated[dict[int, str], AfterValidator(validated_again)]},
    "a Bucket's number": {"salary": Annotated[int, Field(lt=5), Sensitive(index=Bucket(width=1000))]},
    "load= raises": {"text": Annotated[str, Sensitive(dump=str, load=raises(KeyError(secret())))]},
}


@pytest.mark.parametrize("what", CHANGED)
async def test_what_no_longer_fits_the_model(driver: Driver, database: Db, leaked: Leaked, what: str) -> None:
    """A document that does not fit the model any more is not quoted, however it is loaded and whatever its validators raise."""
    ada = await driver.repository(Person).save(person())
    changed: Any = create_model("Changed", __base__=Person, **{name: (form, ...) for name, form in CHANGED[what].items()})
    people, caught = driver.repository(changed), []
    for call in (
        lambda: people.load(ada.id),
        lambda: people.load_many([ada.id]),
        lambda: people.find_one({"tenant": "acme"}),
        lambda: people.find().to_list(),
        lambda: people.update(ada.id, {"tenant": "other"}),
        lambda: settle(people.codec.open(database.customers.find_one())),
    ):
        with pytest.raises(PayloadError) as info:
            await call()
        caught.append(info.value)
    await people.find(on_invalid=caught.append).to_list()
    assert [type(each) for each in caught] == [PayloadError] * 7
    for error in caught:
        assert_hidden(leaked, error)


#: Values that do not fit, by the name of the field that is to be changed; and what is no change at all.
REFUSED_CHANGES: dict[str, list[Any]] = {
    "text": [[secret()], BROKEN],
    "password": [[secret()]],
    "data": [Loud()],
    "code": [secret("loud"), [secret()]],
    "salary": [secret()],
    "phones": [{NUMBER: [secret()]}, {secret(): ""}],
    "nested": [{"word": [secret()]}, {secret(): 1}],
    "each": [["", {secret()}]],
    "by_name": [{secret(): NUMBER}, {(secret(),): ""}],
    "anything": [{secret(): Loud()}],
    "more": [Loud()],
    "rank": [secret()],
    "place": [{"city": secret()}],
    "id": [secret()],
    "$set": [{"text": secret()}],
    "nested.word": [secret()],
    "": [secret(), [secret()], {DATA: secret()}, lambda _: secret(), lambda found: setattr(found, "each", {secret()})],
}


@pytest.mark.parametrize(("name", "value"), cases(REFUSED_CHANGES))
async def test_changes_that_are_refused(driver: Driver, leaked: Leaked, name: str, value: Any) -> None:
    """What `update` refuses it does not quote."""
    people = driver.repository(Person)
    ada = await people.save(person())
    with pytest.raises((QueryError, PayloadError)) as caught:
        await people.update(ada.id, {name: value} if name else value)
    assert_hidden(leaked, caught.value)


@pytest.mark.parametrize(("name", "value"), cases(REFUSED_FILTERS))
async def test_filters_that_are_refused(driver: Driver, leaked: Leaked, name: str, value: Any) -> None:
    """A filter's value that is refused is not quoted, whatever the filter was for."""
    people = driver.repository(Person)
    distinct = functools.partial(people.distinct, "rank")
    for ask in (people.find_one, people.count, people.exists, people.delete_many, distinct, people.find):
        with pytest.raises(QueryError) as caught:
            await ask({name: value})
        assert_hidden(leaked, caught.value)


async def test_what_is_something_else(driver: Driver, leaked: Leaked) -> None:
    """What is given in place of a filter, an id (the instance itself, say) or a revision is not quoted where it is refused."""
    people = driver.repository(Person)
    for where in (secret(), [secret()], {DATA: 1}, person()):
        with pytest.raises(QueryError) as caught:
            await people.count(where)
        assert_hidden(leaked, caught.value)
    for identity in (person(), secret(), DATA, NUMBER, [secret()], {"$ne": secret()}, Loud()):
        for call in (people.load, people.load_raw, people.delete, lambda one: people.load_many([one])):
            with pytest.raises(QueryError) as caught:
                await call(identity)
            assert_hidden(leaked, caught.value)
    for revision in ({"revision": [secret()]}, {"revision": secret(), "overwrite": True}):
        with pytest.raises(QueryError) as caught:
            await people.save(person(), **revision)
        assert_hidden(leaked, caught.value)


@pytest.mark.parametrize("how", ["save", "overwrite", "save_many", "update"])
async def test_a_duplicate_value(driver: Driver, database: Db, leaked: Leaked, how: str) -> None:
    """A value that a unique index refuses is quoted by the server, and neither by our error nor by anything behind it."""
    database.customers.create_index("handle", unique=True)
    people = driver.repository(Person)
    await people.save(person(handle=secret()))
    other, again = await people.save(person()), person(handle=secret())
    calls: dict[str, Callable[[], Any]] = {
        "save": lambda: people.save(again),
        "overwrite": lambda: people.save(again, overwrite=True),
        "save_many": lambda: people.save_many([person(), again]),
        "update": lambda: people.update(other.id, {"handle": secret()}),
    }
    with pytest.raises(errors.DuplicateValueError, match="handle") as caught:
        await calls[how]()
    assert_hidden(leaked, caught.value)


#: What somebody else writes into the stored document, by stored name.
TAMPERED: dict[str, list[Any]] = {
    "tenant": [secret(), NUMBER],
    "rank": [NUMBER, [secret()]],
    "v": [secret(), NUMBER],
    "kid": [MARK, secret()],
    "iv": [DATA],
    "data": [secret()],
    "hmac": [DATA, DATA.ljust(32)[:32]],
    "more": [{secret(): secret()}],
}


@pytest.mark.parametrize(("name", "value"), cases(TAMPERED))
async def test_what_was_tampered_with(driver: Driver, database: Db, leaked: Leaked, name: str, value: Any) -> None:
    """No value of a document that could not be verified is quoted, nor the tag that would be right for it."""
    people, caught = driver.repository(Person), []
    ada = await people.save(person())
    database.customers.update_one({"_id": ada.id}, {"$set": {name: value, secret("name"): secret()}})
    stored = database.customers.with_options(envelope.CODEC_OPTIONS.with_options(document_class=RawBSONDocument)).find_one()
    forged = driver.keys.working_keys(driver.keys.primary, "customers").authenticator.tag(stored.raw[4:-44])
    for call in (
        lambda: people.load(ada.id),
        lambda: people.load_raw(ada.id),
        lambda: people.load_many([ada.id]),
        lambda: people.find_one({"rank": {"$ne": 5}}),
        lambda: people.find().to_list(),
        lambda: people.update(ada.id, {"rank": 1}),
    ):
        with pytest.raises((errors.EnvelopeError, errors.UnknownKeyError)) as info:
            await call()
        caught.append(info.value)
    await people.find(on_invalid=caught.append).to_list()
    assert len(caught) == 7
    for error in caught:
        assert_hidden(leaked, error)
        assert found([forged], error) == []


NAMED = create_model("Named", id=(str, ...))


async def test_the_id_is_shown_and_cut(driver: Driver, database: Db, leaked: Leaked) -> None:
    """The one unverified value that an error shows is the _id: its repr, cut to 64 characters."""
    models = driver.repository(NAMED)
    for given, is_shown in ((secret(), True), ("x" * 64 + secret(), False)):
        database.customers.delete_many({})
        database.customers.insert_one({"_id": given})
        for call in (models.find_one, functools.partial(models.load, given)):
            with pytest.raises(errors.EnvelopeError) as caught:
                await call()
            assert len(caught.value.document_id or "") <= 64
            assert bool(leaked(caught.value)) is is_shown


# --- reprs ------------------------------------------------------------------------------------------------------------


async def test_reprs(driver: Driver, leaked: Leaked, keys: KeyRing) -> None:
    """Nothing of the package that holds a secret or a key, or what does, shows it when it is printed."""
    people = driver.repository(Person)
    ada = await people.save(person())
    cursor = people.find({"tenant": "acme"})
    await anext(cursor)
    inner, codec, key = people._flows, people.codec, keys._keys[keys.primary]
    sealed, working = inner.seal(ada), keys.working_keys(keys.primary, "customers")
    opened = envelope.open(sealed.raw, keys=keys, context="customers")
    assert leaked(opened.payload)
    assert leaked(key._material)
    held = [people.inner, inner, codec, codec._fast, codec.schema, codec.schema._plan, *codec.schema.stored]
    held += [cursor.inner, cursor.inner._found, sealed, opened, codec.indexer, *codec.schema.blind, *keys._index_keys.values()]
    held += [people.find({"salary": NUMBER}).inner._found, inner._compiled({"mail": ada.mail}, None)]
    held += [keys, key, working, working.cipher, working.authenticator, vars(inner), vars(codec), vars(codec._fast)]
    assert leaked([list(printed(each)) for each in held]) == []


@pytest.mark.parametrize("make", [KeyRing.from_env, KeyRing.from_file], ids=["from_env", "from_file"])
def test_a_ring_in_place_of_its_name(leaked: Leaked, keys: KeyRing, make: Callable[[str], KeyRing]) -> None:
    """Whoever gives the content of a key file where its name belongs does not find the key in the error."""
    with pytest.raises(errors.ConfigurationError) as caught:
        make(keys._as_json().decode())
    assert leaked(caught.value) == []


# --- protections taken out --------------------------------------------------------------------------------------------


def raising_inside(plan: Plan[Any], validate: Callable[[], Any], given: Any) -> Any:
    """`Plan._validated`, with ours raised in the except block: the original is not shown, but there."""
    try:
        return validate()
    except pydantic.ValidationError:
        raise PayloadError("does not fit") from None


def dumping_at_once(plan: Plan[Any], model: BaseModel) -> bytes:
    """`Plan.dump`, with no check before it and no warning turned off."""
    return plan._serializer.to_json(model)


def refusing_loudly(node: Node, value: Any) -> NoReturn:
    """`Node.refuse`, with the value."""
    raise Misfit(f"{node.label} expected, {value!r} found")


async def load_unfit(driver: Driver) -> None:
    ada = await driver.repository(Person).save(person())
    forms = {**CHANGED["beneath a key"], **CHANGED["a validator that quotes"]}
    changed: Any = create_model("Changed", __base__=Person, **{name: (form, ...) for name, form in forms.items()})
    await driver.repository(changed).load(ada.id)


async def save_list(driver: Driver) -> None:
    await driver.repository(Person).save(wrong(text=[secret()]))


async def save_twice(driver: Driver) -> None:
    await settle(driver.collection().create_index("handle", unique=True))
    for _ in range(2):
        await driver.repository(Person).save(person(handle=secret()))


async def find_no_object_id(driver: Driver) -> None:
    driver.repository(Person).find({"badge": secret()})


async def load_long_id(driver: Driver) -> None:
    await driver.repository(NAMED).load("x" * 64 + secret())


@pytest.mark.parametrize(
    ("act", "protection", "without"),
    [
        (load_unfit, (Plan, "_validated"), raising_inside),
        (load_unfit, (Plan, "_described"), lambda _, error, given: str(error["msg"])),
        (load_unfit, (Plan, "_described"), lambda _, error, given: ".".join(map(str, error["loc"]))),
        (save_list, (Plan, "dump"), dumping_at_once),
        (save_list, (Node, "refuse"), refusing_loudly),
        (save_twice, (writing.Writing, "_duplicate"), lambda *_: raises(errors.DuplicateValueError("not saved"))(0)),
        (save_twice, (writing.Writing, "_duplicate"), lambda _, details: errors.DuplicateValueError(details["errmsg"])),
        (find_no_object_id, (places, "_forms"), lambda *given: [places._form(*given)]),
        (load_long_id, (errors, "shortened"), repr),
    ],
)
async def test_without_a_protection(driver: Driver, leaked: Leaked, act: Any, protection: Any, without: Any) -> None:
    """With a protection taken out, the detector finds in the error, or behind it, what had been kept back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*protection, without)
        with pytest.raises(Exception) as caught:
            await act(driver)
    assert leaked(caught.value)
