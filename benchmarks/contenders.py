"""Who is measured: each keeps the models of one family in a collection of its own, as a good engineer would.

- `Plain`, `AsyncPlain`: pydantic and pymongo. Every ratio is against one of these.
- `Ours`, `AsyncOurs`: a repository of this package.
- `Beanie`: plaintext, with its own ``Document``. It has no other driver than the async one.
- `Csfle`: MongoDB's client-side field level encryption with a local key, each sensitive field alone or all of them in one blob.
  To encrypt by itself it needs MongoDB Enterprise, so fields are encrypted explicitly; to decrypt by itself it needs nothing.

A contender has one method for each operation, and `fresh` gives it instances to save, before the clock runs.
"""

import asyncio
import os
import random
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Self
from uuid import UUID, uuid4

import bson
from beanie import Document, init_beanie
from bson.codec_options import CodecOptions
from pydantic import BaseModel, Field, create_model
from pymongo import AsyncMongoClient, MongoClient, WriteConcern
from pymongo.encryption import Algorithm, ClientEncryption
from pymongo.encryption_options import AutoEncryptionOpts

from benchmarks.documents import Family
from mongo_envelope import AsyncRepository, KeyRing, Repository

__all__ = ["AsyncOurs", "AsyncPlain", "Beanie", "Clients", "Contender", "Csfle", "Ours", "Plain", "check"]

#: Aware datetimes and standard UUIDs, as the models have them.
OPTIONS = CodecOptions[dict[str, Any]](tz_aware=True, uuid_representation=bson.binary.UuidRepresentation.STANDARD)
CALLERS = 8  # where they are several
DATABASE, VAULT = "bench", "vault.keys"


@dataclass(frozen=True)
class Clients:
    """The clients that all contenders share, and the one event loop."""

    sync: MongoClient[dict[str, Any]]
    asynchronous: AsyncMongoClient[dict[str, Any]]
    decrypting: MongoClient[dict[str, Any]]  #: CSFLE's: it decrypts what it reads
    encryption: ClientEncryption[dict[str, Any]]
    data_key: bson.Binary
    runner: asyncio.Runner
    threads: ThreadPoolExecutor
    keys: KeyRing = field(default_factory=KeyRing.generate)

    @classmethod
    @contextmanager
    def connected(cls, uri: str) -> Iterator[Self]:
        """To one server. Everything is closed at the end, and the database dropped."""
        kms = {"local": {"key": os.urandom(96)}}
        with ExitStack() as stack:
            sync = stack.enter_context(MongoClient[dict[str, Any]](uri))
            runner = stack.enter_context(asyncio.Runner())
            asynchronous = AsyncMongoClient[dict[str, Any]](uri, tz_aware=True, uuidRepresentation="standard")
            stack.callback(lambda: runner.run(asynchronous.close()))
            automatic = AutoEncryptionOpts(kms, VAULT, bypass_auto_encryption=True, bypass_query_analysis=True)
            decrypting = stack.enter_context(MongoClient[dict[str, Any]](uri, auto_encryption_opts=automatic))
            encryption = stack.enter_context(ClientEncryption(kms, VAULT, sync, OPTIONS))
            for name in (DATABASE, VAULT.partition(".")[0]):
                stack.callback(sync.drop_database, name)
            threads = stack.enter_context(ThreadPoolExecutor(CALLERS))
            yield cls(sync, asynchronous, decrypting, encryption, encryption.create_data_key("local"), runner, threads)


class Contender:
    """One way to keep the models of one family. Those of async drivers have coroutine functions for methods."""

    key: str
    is_async = False
    singles = 20  #: documents in one measurement of an operation on one document

    def __init__(self, clients: Clients, family: Family, *, searchable: bool = False) -> None:
        """``searchable``: by e-mail address, through an index."""
        self.clients, self.family, self.searchable = clients, family, searchable
        name = "_".join([self.key, family.name, *(["searchable"] if searchable else [])]).replace(" ", "_").replace(",", "")
        self.stored = clients.sync.get_database(DATABASE).get_collection(name, codec_options=OPTIONS)
        self.bulk = family.bulk
        self.prepare()
        self.people = [self.convert(person) for person in family.people]

    def prepare(self) -> None:
        """Whatever must be there first: classes, collections, indexes."""

    def convert(self, person: Any) -> Any:
        """The same person, of the class that this contender saves."""
        raise NotImplementedError

    def fresh(self, count: int) -> list[Any]:
        """Some people who have not been saved yet."""
        return [self.renewed(person) for person in random.sample(self.people, count)]

    def renewed(self, person: Any) -> Any:
        """The same person under another id."""
        return person.model_copy(update={"id": uuid4()})

    def empty(self) -> None:
        """By the same means for all. ``drop`` would make the next insert create the collection."""
        self.stored.delete_many({})

    def do(self, method: Callable[..., Any], *arguments: Any) -> Any:
        """Call one of the methods below, where no clock runs."""
        return self.clients.runner.run(method(*arguments)) if self.is_async else method(*arguments)

    def fill(self) -> list[UUID]:
        """As many documents as one bulk operation has. Their ids."""
        self.empty()
        people = self.fresh(self.bulk)
        self.do(self.insert_many, people)
        return [person.id for person in people]

    def fill_to_search(self) -> list[str]:
        """So many that an index is worth it, each with an e-mail address of its own. The addresses."""
        self.empty()
        emails = []
        for start in range(0, self.family.searched, len(self.people)):
            people = [
                person.model_copy(update={"id": uuid4(), "email": f"{start + number}.{person.email}"})
                for number, person in enumerate(self.people[: self.family.searched - start])
            ]
            emails += [person.email for person in people]
            self.do(self.insert_many, people)
        return emails

    # --- What is measured ------------------------------------------------------------------------------------------------

    insert: Callable[[Any], Any]
    insert_many: Callable[[Iterable[Any]], Any]
    read: Callable[[UUID], Any]
    read_all: Callable[[], Any]
    update: Callable[[UUID, str], Any]  #: read, set ``notes``, write back
    search: Callable[[str], Any]  #: by e-mail address


class Plain(Contender):
    """pydantic and pymongo."""

    key = "plain"

    def prepare(self) -> None:
        """The same model as it would be without us: its id is the document's ``_id``."""
        model = self.family.model
        alias = Field(default_factory=uuid4, alias="_id")
        self.model: type[BaseModel] = create_model(f"Plain{model.__name__}", __base__=model, id=(UUID, alias))
        self.collection = self.stored
        if self.searchable:
            self.stored.create_index("email", unique=True)

    def convert(self, person: Any) -> Any:
        """The alias is the only name that the model takes."""
        return self.model.model_validate({"_id": person.id, **person.model_dump(exclude={"id"})})

    def insert(self, person: Any) -> None:
        self.collection.insert_one(person.model_dump(by_alias=True))

    def insert_many(self, people: Iterable[Any]) -> None:
        self.collection.insert_many([person.model_dump(by_alias=True) for person in people])

    def read(self, id: UUID) -> Any:
        return self.model.model_validate(self.collection.find_one({"_id": id}))

    def read_all(self) -> list[Any]:
        return [self.model.model_validate(document) for document in self.collection.find()]

    def update(self, id: UUID, notes: str) -> None:
        person: Any = self.model.model_validate(self.collection.find_one({"_id": id}))
        person.notes = notes
        self.collection.replace_one({"_id": id}, person.model_dump(by_alias=True))

    def search(self, email: str) -> Any:
        return self.model.model_validate(self.collection.find_one({"email": email}))


class UnjournaledPlain(Plain):
    """The server answers when the write is in its memory: shows what waiting for the journal hides."""

    key = "plain, w=1"

    def prepare(self) -> None:
        """As it is otherwise."""
        super().prepare()
        self.collection = self.stored.with_options(write_concern=WriteConcern(w=1))


class AsyncPlain(Plain):
    """The same over the async driver."""

    key = "plain async"
    is_async = True

    def prepare(self) -> None:
        """As over the other driver."""
        super().prepare()
        database = self.clients.asynchronous.get_database(DATABASE)
        self.target = database.get_collection(self.stored.name, codec_options=OPTIONS)

    async def insert(self, person: Any) -> None:
        await self.target.insert_one(person.model_dump(by_alias=True))

    async def insert_many(self, people: Iterable[Any]) -> None:
        await self.target.insert_many([person.model_dump(by_alias=True) for person in people])

    async def read(self, id: UUID) -> Any:
        return self.model.model_validate(await self.target.find_one({"_id": id}))

    async def read_all(self) -> list[Any]:
        return [self.model.model_validate(document) for document in await self.target.find().to_list()]

    async def update(self, id: UUID, notes: str) -> None:
        person: Any = self.model.model_validate(await self.target.find_one({"_id": id}))
        person.notes = notes
        await self.target.replace_one({"_id": id}, person.model_dump(by_alias=True))

    async def search(self, email: str) -> Any:
        return self.model.model_validate(await self.target.find_one({"email": email}))


class Ours(Contender):
    """A `Repository`."""

    key = "ours"

    def prepare(self) -> None:
        """The model with its markers, and for a search the blind index that `setup` makes."""
        self.model: Any = self.family.searchable if self.searchable else self.family.model
        self.repository: Repository[Any] = Repository(self.model, self.stored, keys=self.clients.keys)
        if self.searchable:
            self.repository.setup()

    def convert(self, person: Any) -> Any:
        """Validated again, for a model that is another class."""
        return self.model.model_validate(person.model_dump())

    def insert(self, person: Any) -> None:
        self.repository.save(person)

    def insert_many(self, people: Iterable[Any]) -> None:
        self.repository.save_many(people)

    def read(self, id: UUID) -> Any:
        return self.repository.load(id)

    def read_all(self) -> list[Any]:
        return self.repository.find().to_list()

    def update(self, id: UUID, notes: str) -> None:
        self.repository.update(id, {"notes": notes})

    def search(self, email: str) -> Any:
        return self.repository.find_one({"email": email})


class UnjournaledOurs(Ours):
    """As `UnjournaledPlain`."""

    key = "ours, w=1"

    def prepare(self) -> None:
        """As it is otherwise."""
        super().prepare()
        self.repository = self.repository.with_options(write_concern=WriteConcern(w=1))


class AsyncOurs(Ours):
    """An `AsyncRepository`."""

    key = "ours async"
    is_async = True

    def prepare(self) -> None:
        """As over the other driver."""
        super().prepare()
        target = self.clients.asynchronous.get_database(DATABASE)[self.stored.name]
        self.target: AsyncRepository[Any] = AsyncRepository(self.model, target, keys=self.clients.keys)

    async def insert(self, person: Any) -> None:
        await self.target.save(person)

    async def insert_many(self, people: Iterable[Any]) -> None:
        await self.target.save_many(people)

    async def read(self, id: UUID) -> Any:
        return await self.target.load(id)

    async def read_all(self) -> list[Any]:
        return await self.target.find().to_list()

    async def update(self, id: UUID, notes: str) -> None:
        await self.target.update(id, {"notes": notes})

    async def search(self, email: str) -> Any:
        return await self.target.find_one({"email": email})


class Beanie(Contender):
    """Plaintext, through Beanie's own class. Its driver is pymongo's async one, so like is compared with like: `AsyncPlain`."""

    key = "Beanie"
    is_async = True

    def prepare(self) -> None:
        """Beanie keeps the collection in the class, so there is one for each collection."""

        class Kept(Document, self.family.model):
            id: UUID = Field(default_factory=uuid4)

            class Settings:
                name = self.stored.name

        self.model: Any = Kept
        database = self.clients.asynchronous.get_database(DATABASE)
        self.clients.runner.run(init_beanie(database=database, document_models=[Kept]))
        if self.searchable:
            self.stored.create_index("email", unique=True)

    def convert(self, person: Any) -> Any:
        """Beanie's documents have more fields, which are None."""
        return self.model.model_validate(person.model_dump())

    async def insert(self, person: Any) -> None:
        await person.insert()

    async def insert_many(self, people: Iterable[Any]) -> None:
        await self.model.insert_many(people)

    async def read(self, id: UUID) -> Any:
        return await self.model.get(id)

    async def read_all(self) -> list[Any]:
        return await self.model.find_all().to_list()

    async def update(self, id: UUID, notes: str) -> None:
        person = await self.model.get(id)
        person.notes = notes
        await person.replace()

    async def search(self, email: str) -> Any:
        return await self.model.find_one(self.model.email == email)


class Csfle(Plain):
    """Fields encrypted explicitly by libmongocrypt, as it comes from PyPI: its AES and HMAC are calls to ``cryptography``.

    Reads use MongoDB's own decryption on the way in, which is faster than calling ``decrypt`` for each field of each document.
    """

    singles = 5

    def prepare(self) -> None:
        """Writes go over the ordinary client; reads over the one that decrypts."""
        super().prepare()
        self.reading = self.clients.decrypting.get_database(DATABASE).get_collection(self.stored.name, codec_options=OPTIONS)

    def encrypted(self, value: Any, *, to_search: bool = False) -> bson.Binary:
        """A value of any BSON type. What is searched is encrypted deterministically: equal values show."""
        algorithm = "Deterministic" if to_search else "Random"
        how = Algorithm(f"AEAD_AES_256_CBC_HMAC_SHA_512-{algorithm}")
        return self.clients.encryption.encrypt(value, how, key_id=self.clients.data_key)

    def dumped(self, person: Any) -> dict[str, Any]:
        """The document to store."""
        raise NotImplementedError

    def loaded(self, document: dict[str, Any] | None) -> Any:
        """A document that has been decrypted, as a model."""
        return self.model.model_validate(document)

    def insert(self, person: Any) -> None:
        self.collection.insert_one(self.dumped(person))

    def insert_many(self, people: Iterable[Any]) -> None:
        self.collection.insert_many([self.dumped(person) for person in people])

    def read(self, id: UUID) -> Any:
        return self.loaded(self.reading.find_one({"_id": id}))

    def read_all(self) -> list[Any]:
        return [self.loaded(document) for document in self.reading.find()]

    def update(self, id: UUID, notes: str) -> None:
        person = self.read(id)
        person.notes = notes
        self.collection.replace_one({"_id": id}, self.dumped(person))

    def search(self, email: str) -> Any:
        return self.loaded(self.reading.find_one({"email": self.encrypted(email, to_search=True)}))

    def fill_to_search(self) -> list[str]:
        """As of the others, but only the addresses are encrypted anew: it would take a minute otherwise."""
        self.empty()
        emails, documents = [], [self.dumped(person) for person in self.people[: self.bulk]]
        for start in range(0, self.family.searched, len(documents)):
            batch = []
            for number, document in enumerate(documents[: self.family.searched - start]):
                emails.append(f"{start + number}.{self.people[number].email}")
                batch.append({**document, "_id": uuid4(), "email": self.encrypted(emails[-1], to_search=True)})
            self.collection.insert_many(batch)
        return emails


class CsfleBlob(Csfle):
    """All sensitive fields in one encrypted document."""

    key = "CSFLE, one blob"

    def dumped(self, person: Any) -> dict[str, Any]:
        """An address that is searched stands beside the blob."""
        document = person.model_dump(by_alias=True)
        if self.searchable:
            email = self.encrypted(document.pop("email"), to_search=True)
        document["data"] = self.encrypted({name: document.pop(name) for name in self.family.sensitive if name in document})
        return {**document, "email": email} if self.searchable else document

    def loaded(self, document: dict[str, Any] | None) -> Any:
        """The blob's fields beside the others."""
        document = document or {}
        return self.model.model_validate({**document, **document["data"]})

    def opened(self, document: dict[str, Any] | None) -> Any:
        """One call, which for one document is faster than the client that decrypts by itself."""
        document = document or {}
        names = ["data", "email"] if self.searchable else ["data"]
        return self.loaded(document | {name: self.clients.encryption.decrypt(document[name]) for name in names})

    def read(self, id: UUID) -> Any:
        return self.opened(self.collection.find_one({"_id": id}))

    def search(self, email: str) -> Any:
        return self.opened(self.collection.find_one({"email": self.encrypted(email, to_search=True)}))


class CsfleFields(Csfle):
    """Each sensitive field alone, as MongoDB's documentation does it."""

    key = "CSFLE, 12 fields"

    def prepare(self) -> None:
        """It is so slow that a fifth of the documents tells as much. Times are for one document."""
        super().prepare()
        self.bulk = max(self.family.bulk // 5, 1)

    def dumped(self, person: Any) -> dict[str, Any]:
        """A dozen calls for the customer."""
        document = person.model_dump(by_alias=True)
        for name in self.family.sensitive:
            document[name] = self.encrypted(document[name], to_search=self.searchable and name == "email")
        return document


def check(contender: Contender) -> None:
    """What comes back equals what was saved, whichever way it came; and plaintext is not stored, or is. Raise ``SystemExit``."""
    people = contender.fresh(contender.bulk)
    if contender.searchable:
        people = [person.model_copy(update={"email": f"{n}.{person.email}"}) for n, person in enumerate(people)]
    first, *others = people
    saved = {person.id: _content(contender, person) for person in people}
    contender.empty()
    contender.do(contender.insert, first)
    contender.do(contender.insert_many, others)
    read = [contender.do(contender.read, first.id), *contender.do(contender.read_all)]
    if contender.searchable:
        read.append(contender.do(contender.search, first.email))
    contender.do(contender.update, first.id, "changed")
    changed = contender.do(contender.read, first.id)
    if _content(contender, changed) != saved[first.id] | {"notes": "changed"}:
        raise SystemExit(f"{contender.key}: an update of {contender.family.name} did not come back")
    if len(read) != len(people) + 1 + contender.searchable or any(_content(contender, each) != saved[each.id] for each in read):
        raise SystemExit(f"{contender.key}: {contender.family.name} did not come back as it was saved")
    raw = b"".join(contender.stored.find_raw_batches())
    seen = [person.email.encode() in raw for person in people] + [person.notes.encode() in raw for person in others]
    expected = isinstance(contender, Plain | Beanie) and not isinstance(contender, Csfle)
    if any(each != expected for each in seen):
        raise SystemExit(f"{contender.key}: plaintext {'is not' if expected else 'is'} stored")
    if contender.searchable and (stage := _stage(contender)) not in {"IXSCAN", "EXPRESS_IXSCAN"}:
        raise SystemExit(f"{contender.key}: {stage} instead of a search in an index")
    contender.empty()


def _stage(contender: Contender) -> str:
    """How MongoDB looks for an e-mail address."""
    one = contender.stored.find_one() or {}
    where = {"idx.email": one["idx"]["email"]} if isinstance(contender, Ours) else {"email": one["email"]}
    find = {"find": contender.stored.name, "filter": where, "collation": {"locale": "simple"}}
    stage = contender.stored.database.command("explain", find)["queryPlanner"]["winningPlan"]
    while "inputStage" in stage:
        stage = stage["inputStage"]
    return str(stage["stage"])


def _content(contender: Contender, person: Any) -> dict[str, Any]:
    """The fields that every contender has."""
    content: dict[str, Any] = person.model_dump()
    return {name: content[name] for name in contender.family.model.model_fields}
