"""What sealing costs: a repository against plaintext pydantic and pymongo, in one run. ``make bench``; docs/performance.md.

The customer has about 1 KB and 12 sensitive fields. Both sides store the same people in the same mongod, from the same
process, over one client. A round measures plaintext, ours, ours, plaintext (the next one the other way round), so that a
drift of the machine meets both; its ratio is ours to plaintext. Shown are the median and the quartiles of the ratios.

The plaintext side is what a good engineer would write: ``insert_one(model.model_dump(by_alias=True))`` and
``Model.model_validate(find_one(…))``, with types that BSON stores as they are.
"""

import argparse
import gc
import itertools
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import bson
from bson.codec_options import CodecOptions
from pydantic import Field
from pymongo import MongoClient, WriteConcern
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mongo_envelope import KeyRing, Repository, embedded, envelope

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from customers import Customer, make_customers

PEOPLE = 1_000
WARM_UP = 5  # rounds, not counted
TIDY_EVERY = 10  # rounds, after which both collections are emptied and garbage is collected

console = Console(highlight=False)
PLAIN = CodecOptions[dict[str, Any]](tz_aware=True, uuid_representation=bson.binary.UuidRepresentation.STANDARD)


class PlainCustomer(Customer):
    """The same customer as it would be without this package: its id is the document's ``_id``."""

    id: UUID = Field(default_factory=uuid4, alias="_id")


@dataclass(frozen=True)
class Comparison:
    """One row of the first table. Times in µs for one operation, of medians."""

    name: str
    rounds: int
    plain: float
    ours: float
    low: float
    ratio: float
    high: float
    bar: float


class Bench:
    """Both sides, over one client."""

    def __init__(self, client: MongoClient[dict[str, Any]], people: list[Customer]) -> None:
        database = client.get_database("bench")
        self.people = people
        self.plain_people = [PlainCustomer.model_validate(person.model_dump() | {"_id": person.id}) for person in people]
        self.sealed = database.sealed
        self.plain = database.get_collection("plain", codec_options=PLAIN)
        self.keys = KeyRing.generate()
        self.repository = Repository(Customer, self.sealed, keys=self.keys)

    def empty(self) -> None:
        """Both collections, by the same means."""
        self.sealed.delete_many({})
        self.plain.delete_many({})

    def fill(self) -> None:
        """The same people on both sides."""
        self.empty()
        self.repository.save_many(each.model_copy() for each in self.people)
        self.plain.insert_many([each.model_dump(by_alias=True) for each in self.plain_people])

    def fresh(self, people: list[Any], count: int) -> list[Any]:
        """People who have not been saved yet. Made before the clock runs."""
        return [person.model_copy(update={"id": uuid4()}) for person in random.sample(people, count)]

    def compare(self, name: str, sides: tuple["Side", "Side"], *, rounds: int, bar: float, batch: int, empty: bool) -> Comparison:
        """Run the rounds. ``batch``: how many operations are timed at a time, and divided by."""
        plain, ours = sides
        times: dict[Side, list[float]] = {plain: [], ours: []}
        for number in track(range(WARM_UP + rounds), name, console=console, transient=True):
            if number % TIDY_EVERY == 0:
                if empty:
                    self.empty()
                gc.collect()
            order = [plain, ours, ours, plain] if number % 2 else [ours, plain, plain, ours]
            spent = dict.fromkeys(sides, 0)
            for side in order:
                work = side.prepare()
                gc.disable()
                began = time.perf_counter_ns()
                side.run(work)
                spent[side] += time.perf_counter_ns() - began
                gc.enable()
            if number >= WARM_UP:
                for side in sides:
                    times[side].append(spent[side] / 1_000 / 2 / batch)
        ratios = [mine / theirs for mine, theirs in zip(times[ours], times[plain], strict=True)]
        low, ratio, high = statistics.quantiles(ratios, n=4)
        return Comparison(name, rounds, statistics.median(times[plain]), statistics.median(times[ours]), low, ratio, high, bar)

    # --- The four comparisons: each side prepares its work, then does it while the clock runs --------------------------

    def insert_one(self, rounds: int, *, durable: bool = True) -> Comparison:
        """``durable``: as it is by default, the server answers when the write is in its journal. Else, when it is in memory."""
        concern = WriteConcern(w="majority" if durable else 1)
        collection = self.plain.with_options(write_concern=concern)
        repository = Repository(Customer, self.sealed.with_options(write_concern=concern), keys=self.keys)

        def plain(people: list[PlainCustomer]) -> None:
            for person in people:
                collection.insert_one(person.model_dump(by_alias=True))

        def ours(people: list[Customer]) -> None:
            for person in people:
                repository.save(person)

        batch = 20
        sides = (
            Side(lambda: self.fresh(self.plain_people, batch), plain),
            Side(lambda: self.fresh(self.people, batch), ours),
        )
        name = "insert one" if durable else "insert one, w=1"
        return self.compare(name, sides, rounds=rounds, bar=1.15, batch=batch, empty=True)

    def read_one(self, rounds: int) -> Comparison:
        """Random ids of those that are there."""

        def plain(ids: list[UUID]) -> None:
            for each in ids:
                PlainCustomer.model_validate(self.plain.find_one({"_id": each}))

        def ours(ids: list[UUID]) -> None:
            for each in ids:
                self.repository.load(each)

        batch = 20
        ids = [person.id for person in self.people]
        sides = (Side(lambda: random.sample(ids, batch), plain), Side(lambda: random.sample(ids, batch), ours))
        self.fill()
        return self.compare("read one by id", sides, rounds=rounds, bar=1.20, batch=batch, empty=False)

    def insert_many(self, rounds: int) -> Comparison:
        """In one call."""

        def plain(people: list[PlainCustomer]) -> None:
            self.plain.insert_many([person.model_dump(by_alias=True) for person in people])

        def ours(people: list[Customer]) -> None:
            self.repository.save_many(people)

        sides = (
            Side(lambda: self.fresh(self.plain_people, PEOPLE), plain),
            Side(lambda: self.fresh(self.people, PEOPLE), ours),
        )
        return self.compare(f"insert {PEOPLE:,}", sides, rounds=rounds, bar=1.5, batch=PEOPLE, empty=True)

    def read_many(self, rounds: int) -> Comparison:
        """With validation of each."""

        def plain(_: None) -> None:
            [PlainCustomer.model_validate(document) for document in self.plain.find()]

        def ours(_: None) -> None:
            self.repository.find().to_list()

        self.fill()
        sides = (Side(lambda: None, plain), Side(lambda: None, ours))
        return self.compare(f"read {PEOPLE:,}", sides, rounds=rounds, bar=1.6, batch=PEOPLE, empty=False)

    def stored_bytes(self) -> tuple[float, float]:
        """Bytes of BSON for one document: plaintext, ours. The documents are checked to hold the same people."""
        self.fill()
        opened = {person.id: person for person in self.repository.find()}
        read = {person.id: person for person in map(PlainCustomer.model_validate, self.plain.find())}
        for person in self.people:
            if opened[person.id] != person or read[person.id].model_dump() != person.model_dump():
                raise SystemExit(f"{person.id} did not come back as it was saved")
        stages = [{"$group": {"_id": None, "bytes": {"$avg": {"$bsonSize": "$$ROOT"}}}}]
        plain, ours = (next(side.aggregate(stages))["bytes"] for side in (self.plain, self.sealed))
        return plain, ours


@dataclass(frozen=True, eq=False)
class Side:
    """How one side does it."""

    prepare: Callable[[], Any]
    run: Callable[[Any], None]


# --- Where the time goes: the parts alone ------------------------------------------------------------------------------


def parts(bench: Bench) -> dict[str, dict[str, tuple[float, float]]]:
    """The parts of a save and of a load, on the library's own pieces: µs in a tight loop, and after a round trip.

    After a round trip to the server a part finds the processor's caches cold, which is what a service that saves one
    document meets. Glue is in no part, so the parts do not add up to the whole.
    """
    codec, options = bench.repository.codec, envelope.CODEC_OPTIONS
    schema, plan = codec.schema, codec.schema._plan
    working = bench.keys.working_keys(bench.keys.primary, codec.context)
    people, plain_people = bench.people, bench.plain_people
    sealed = [codec.seal_bson(person) for person in people]
    documents = [bson.decode(raw, options) for raw in sealed]
    payloads = [plan.dump(person) for person in people]
    both = list(zip(documents, payloads, strict=True))
    blobs = [(document["iv"], document["data"]) for document in documents]
    signed = [raw[4:-44] for raw in sealed]
    plain_documents = [person.model_dump(by_alias=True) for person in plain_people]
    plain_raw = [bson.encode(document, codec_options=PLAIN) for document in plain_documents]
    serializer, validator = plan._serializer, plan._validator
    every: dict[str, dict[str, tuple[Callable[..., Any], Iterable[Any]]]] = {
        "a save": {
            "DocumentCodec.seal_bson, all of it": (codec.seal_bson, people),
            "- split: the next two, and the metadata": (schema.split, people),
            "  - check the type of every value": (plan.root.check, people),
            "  - pydantic to_json": (lambda person: serializer.to_json(person, warnings="none"), people),
            "- 16 random bytes": (os.urandom, [16] * PEOPLE),
            "- AES-256-CTR": (lambda blob: working.cipher.encrypt(*blob), blobs),
            "- bson encode": (lambda document: bson.encode(document, codec_options=options), documents),
            "- HMAC-SHA-256": (working.authenticator.tag, signed),
            "plaintext: model_dump": (lambda person: person.model_dump(by_alias=True), plain_people),
            "plaintext: bson encode": (lambda document: bson.encode(document, codec_options=PLAIN), plain_documents),
        },
        "a load": {
            "DocumentCodec.open_bson, all of it": (codec.open_bson, sealed),
            "- walk over the elements": (envelope._arrange, sealed),
            "- HMAC-SHA-256": (working.authenticator.tag, signed),
            "- bson decode": (lambda raw: bson.decode(raw, options), sealed),
            "- AES-256-CTR": (lambda blob: working.cipher.decrypt(*blob), blobs),
            "- join: the next two": (lambda each: schema.join(*each), both),
            "  - splice the metadata into the JSON": (lambda each: schema._spliced_json(*each), both),
            "  - pydantic validate_json": (validator.validate_json, [schema._spliced_json(*each) for each in both]),
            "plaintext: bson decode": (lambda raw: bson.decode(raw, PLAIN), plain_raw),
            "plaintext: model_validate": (PlainCustomer.model_validate, plain_documents),
        },
    }
    bench.fill()
    timed: dict[str, dict[str, tuple[float, float]]] = {}
    for title, rows in every.items():
        timed[title] = {
            name: (warm(function, arguments), cold(bench, function, arguments))
            for name, (function, arguments) in track(rows.items(), f"the parts of {title}", console=console, transient=True)
        }
    return timed


def warm(function: Callable[[Any], Any], arguments: Iterable[Any], *, passes: int = 15) -> float:
    """µs for one call in a tight loop: the median of several passes."""
    times = []
    every = list(arguments)
    gc.collect()
    gc.disable()
    for _ in range(passes):
        began = time.perf_counter_ns()
        for each in every:
            function(each)
        times.append((time.perf_counter_ns() - began) / 1_000 / len(every))
    gc.enable()
    return statistics.median(times)


def cold(bench: Bench, function: Callable[[Any], Any], arguments: Iterable[Any], *, calls: int = 500) -> float:
    """µs for one call that follows a round trip: the median of single calls."""
    times = []
    gc.collect()
    gc.disable()
    for person, each in itertools.islice(zip(bench.people, arguments, strict=True), calls):
        bench.plain.find_one({"_id": person.id})
        began = time.perf_counter_ns()
        function(each)
        times.append((time.perf_counter_ns() - began) / 1_000)
    gc.enable()
    return statistics.median(times)


# --- The report ----------------------------------------------------------------------------------------------------------


def machine(server: embedded.Server) -> dict[str, str]:
    packages = {name: version(name) for name in ("pydantic", "pymongo", "cryptography")}
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "mongod": server.version,
        **packages,
    }


def show(
    comparisons: list[Comparison], sizes: tuple[float, float], timings: Mapping[str, Mapping[str, tuple[float, float]]]
) -> None:
    table = Table(title="ours against plaintext", caption="ratio: the median of paired rounds, and its quartiles")
    for column in ("µs for each", "plain", "ours", "ratio", "quartiles", "bar", ""):
        table.add_column(column, justify="right" if column in {"plain", "ours", "ratio"} else "left", no_wrap=True)
    for row in comparisons:
        verdict = "[green]held[/]" if row.ratio <= row.bar else "[yellow]above[/]"
        quartiles = f"{row.low:.2f} to {row.high:.2f}"
        table.add_row(row.name, f"{row.plain:.1f}", f"{row.ours:.1f}", f"{row.ratio:.3f}", quartiles, f"{row.bar:.2f}", verdict)
    plain, ours = sizes
    table.add_row("(stored bytes)", f"{plain:.0f}", f"{ours:.0f}", f"{ours / plain:.3f}", "", "1.12", "")
    console.print(table)
    for title, rows in timings.items():
        detail = Table(title, title=f"where the time of {title} goes")
        detail.add_column("µs in a loop", justify="right")
        detail.add_column("µs after a round trip", justify="right")
        for name, (loop, single) in rows.items():
            detail.add_row(name, f"{loop:.1f}", f"{single:.1f}")
        console.print(detail)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=300, help="rounds of the comparisons of one document (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    arguments = parser.parse_args()
    began = time.perf_counter()
    random.seed(1)
    with embedded.start(use_environment=False) as server, MongoClient[dict[str, Any]](server.uri) as client:
        about = machine(server)
        console.print(", ".join(f"{name} {value}" for name, value in about.items()))
        bench = Bench(client, make_customers(PEOPLE))
        many = max(arguments.rounds // 10, 3)
        comparisons = [
            bench.insert_one(arguments.rounds),
            bench.insert_one(arguments.rounds, durable=False),
            bench.read_one(arguments.rounds),
            bench.insert_many(many),
            bench.read_many(many),
        ]
        sizes = bench.stored_bytes()
        timings = parts(bench)
    show(comparisons, sizes, timings)
    if arguments.json:
        content = {
            "machine": about,
            "comparisons": [asdict(row) for row in comparisons],
            "bytes": {"plain": sizes[0], "ours": sizes[1]},
            "parts": {
                title: {name.strip(" -"): {"loop": loop, "after a round trip": single} for name, (loop, single) in rows.items()}
                for title, rows in timings.items()
            },
        }
        arguments.json.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    console.print(f"bench: all went well, in {time.perf_counter() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
