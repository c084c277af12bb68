"""What a search by an encrypted e-mail address costs, against one by an address in the clear; both indexed, in one run.

``make bench`` runs it with few documents; ``benchmarks/search.py --documents 200000`` is what docs/performance.md shows. Both sides
find one of as many documents, of about 1 KB, by an e-mail address that stands in a MongoDB index, and validate the model.
"""

import argparse
import gc
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

from pydantic import Field
from pymongo import MongoClient
from rich.console import Console
from rich.progress import track
from save_and_load import PLAIN

from mongo_envelope import BlindIndex, KeyRing, Repository, Sensitive, embedded

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from customers import Customer, make_customers

BATCH = 1_000  # documents in one insert
SEARCHES = 20  # in one round
WARM_UP = 5
BAR = 1.3

console = Console(highlight=False)


class Searched(Customer):
    """The customer of the other benchmark, who can be found by her e-mail address."""

    email: Annotated[str, Sensitive(index=BlindIndex(normalize="email", unique=True))]


class Plain(Customer):
    """The same without this package."""

    id: UUID = Field(default_factory=uuid4, alias="_id")


def fill(repository: Repository[Searched], plain: Any, documents: int) -> list[str]:
    """The same people on both sides, and their addresses."""
    people, emails = make_customers(BATCH), []
    for start in track(range(0, documents, BATCH), "inserting", console=console, transient=True):
        batch = []
        for number, person in enumerate(people[: documents - start]):
            email = f"{start + number}.{person.email}"
            batch.append(Searched.model_validate(person.model_dump() | {"id": uuid4(), "email": email}))
        emails += [each.email for each in batch]
        repository.save_many(batch)
        plain.insert_many([Plain.model_validate(each.model_dump() | {"_id": each.id}).model_dump(by_alias=True) for each in batch])
    return emails


def compare(searches: dict[str, Callable[[str], Any]], emails: list[str], rounds: int) -> dict[str, list[float]]:
    """µs for one search, round by round: each is plain, ours, ours, plain, or the other way round."""
    times: dict[str, list[float]] = {name: [] for name in searches}
    names = list(searches)
    for number in track(range(WARM_UP + rounds), "searching", console=console, transient=True):
        spent = dict.fromkeys(names, 0)
        first, second = names if number % 2 else reversed(names)
        for name in (first, second, second, first):
            asked = random.sample(emails, SEARCHES)
            gc.collect(0)
            gc.disable()
            began = time.perf_counter_ns()
            for email in asked:
                searches[name](email)
            spent[name] += time.perf_counter_ns() - began
            gc.enable()
        if number >= WARM_UP:
            for name in names:
                times[name].append(spent[name] / 1_000 / 2 / SEARCHES)
    return times


def stage(client: MongoClient[dict[str, Any]], name: str, where: dict[str, Any]) -> str:
    """How MongoDB looks for it."""
    find = {"find": name, "filter": where, "collation": {"locale": "simple"}}
    plan = client.bench.command("explain", find)["queryPlanner"]["winningPlan"]
    while "inputStage" in plan:
        plan = plan["inputStage"]
    return str(plan["stage"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    with embedded.start() as server, MongoClient(server.uri) as client:
        plain = client.bench.get_collection("plain_searched", codec_options=PLAIN)
        repository = Repository(Searched, client.bench.searched, keys=KeyRing.generate())
        repository.setup()
        plain.create_index("email", unique=True)
        emails = fill(repository, plain, options.documents)
        sealed = client.bench.searched.find_one()
        hidden = {"idx.email": (sealed or {})["idx"]["email"]}
        stages = stage(client, "searched", hidden), stage(client, "plain_searched", {"email": emails[0]})
        searches: dict[str, Callable[[str], Any]] = {
            "plain": lambda email: Plain.model_validate(plain.find_one({"email": email})),
            "ours": lambda email: repository.find_one({"email": email}),
        }
        times = compare(searches, emails, options.rounds)
        ratios = [ours / theirs for ours, theirs in zip(times["ours"], times["plain"], strict=True)]
        low, ratio, high = statistics.quantiles(ratios, n=4)
        verdict = "held" if ratio <= BAR else "above"
        console.print(f"{options.documents:,} documents; ours is found by {stages[0]}, plain by {stages[1]}")
        console.print(
            f"find one by e-mail: plain {statistics.median(times['plain']):.1f} µs, "
            f"ours {statistics.median(times['ours']):.1f} µs, ratio {ratio:.3f} ({low:.2f} to {high:.2f}), bar {BAR:.2f}: {verdict}"
        )


if __name__ == "__main__":
    main()
