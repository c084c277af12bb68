"""The whole trick in one page: run it with ``make demo``, and read it from top to bottom.

A service keeps customers in MongoDB. It calls `save_many`, `load` and `find`, and never sees a key or a byte of ciphertext.
Then we look at the same database as somebody who has stolen a copy of it, and as somebody who edits it.

The server is a real mongod, started for the occasion and thrown away (or yours, if MONGODB_URI names one: then in a
database of its own, dropped at the end). The demo checks what it claims, and ends with 1 if something does not hold.
"""

import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from customers import Customer, make_customers
from pydantic import BaseModel
from pymongo import MongoClient
from pymongo.database import Database
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import track
from rich.table import Table

from mongo_envelope import IntegrityError, KeyRing, QueryError, Repository, embedded

COUNT, BATCH = 1_000, 50
LONGEST = 100  # characters of a text, or bytes of a blob, that the tables show

console = Console(highlight=False)
failures: list[str] = []


def main() -> int:
    """Run the chapters one after the other."""
    began = time.perf_counter()
    name = f"mongo_envelope_demo_{secrets.token_hex(4)}"
    with (
        embedded.start() as server,
        tempfile.TemporaryDirectory() as folder,
        MongoClient[dict[str, Any]](server.uri) as client,
        MongoClient[dict[str, Any]](server.uri, tz_aware=True, uuidRepresentation="standard") as thief,
    ):
        console.print(f"A real MongoDB {server.version}, ready after {time.perf_counter() - began:.1f} s.")
        try:
            # This is all that a service has to set up. The key file is made on the first run; whoever has it can read the
            # data, and without it the data is lost: in real life, keep it out of the repository and back it up.
            keys = KeyRing.from_file(Path(folder) / "keys.json", create=True)
            customers = Repository(Customer, client[name].customers, keys=keys)

            people = save_them(customers)
            load_and_query(customers, people)
            look_as_a_thief(customers, people, thief[name])
            ask_for_what_is_encrypted(customers, people[0])
            edit_as_a_vandal(customers, people, thief[name])
        finally:
            client.drop_database(name)

    seconds = time.perf_counter() - began
    console.print()
    if failures:
        console.print(f"demo: {len(failures)} claim(s) did not hold, after {seconds:.1f} s: {'; '.join(failures)}", markup=False)
        return 1
    console.print(f"demo: all went well. {COUNT:,} customers saved, read, stolen and defended in {seconds:.1f} s.")
    return 0


def save_them(customers: Repository[Customer]) -> list[Customer]:
    """Save pydantic models. What is sensitive about them is said in the model: see customers.py."""
    chapter(f"1. The service saves {COUNT:,} customers")
    people = make_customers(COUNT)
    for start in track(range(0, COUNT, BATCH), "Saving", console=console):
        customers.save_many(people[start : start + BATCH])
    return people


def load_and_query(customers: Repository[Customer], people: list[Customer]) -> None:
    """Read them again: what comes back was verified, decrypted and validated."""
    chapter("2. It loads and queries them")
    first = people[0]
    claim("load(id) gives back an equal customer", customers.load(first.id) == first)

    found = customers.find({"tenant": "acme", "status": "active"}).to_list()
    expected = [person for person in people if person.tenant == "acme" and person.status == "active"]
    claim(f"find by tenant and status: {len(found)} customers", same(found, expected))

    spring = {"$gte": datetime(2025, 3, 1, tzinfo=UTC), "$lt": datetime(2025, 6, 1, tzinfo=UTC)}
    found = customers.find({"created_at": spring}).to_list()
    expected = [person for person in people if spring["$gte"] <= person.created_at < spring["$lt"]]
    claim(f"find by a range of dates: {len(found)} customers", same(found, expected))

    newest = customers.find({"tenant": "globex"}).sort("created_at", -1).limit(3).to_list()
    expected = sorted((person for person in people if person.tenant == "globex"), key=lambda person: person.created_at)[:-4:-1]
    claim("sort and limit: the 3 newest of one tenant, newest first", newest == expected)

    table = Table("created", "status", "name", "email", title="globex: the newest three")
    for person in newest:
        table.add_row(f"{person.created_at:%Y-%m-%d}", person.status, escape(person.name), escape(person.email))
    console.print(table)


def look_as_a_thief(customers: Repository[Customer], people: list[Customer], stolen: Database[dict[str, Any]]) -> None:
    """The same documents through a plain MongoClient: a leaked backup looks like this."""
    chapter("3. What the service sees, and what a thief of the database sees")
    person = customers.load(people[0].id)
    document = stolen.customers.find_one({"_id": person.id}) or {}

    ours, theirs = listing("the service"), listing("the thief")
    for field, value in person.model_dump(mode="json").items():
        several = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
        text = ", ".join(map(str, several))
        ours.add_row(field, escape(text if len(text) <= LONGEST else text[:LONGEST] + " …"))
    for field, value in document.items():
        if isinstance(value, bytes):
            theirs.add_row(field, f"{value[:LONGEST].hex()}{' …' if len(value) > LONGEST else ''} ({len(value):,} bytes)")
        else:
            theirs.add_row(field, escape(str(value)))
    side_by_side = Table.grid(expand=True)
    side_by_side.add_column(ratio=1)
    side_by_side.add_column(ratio=1)
    side_by_side.add_row(ours, theirs)
    console.print(side_by_side)

    count = stolen.customers.count_documents({})
    claim(f"the thief has {count:,} documents", count == COUNT)
    everything = b"".join(stolen.customers.find_raw_batches())
    secrets_of_all = {text for each in people for text in sensitive_texts(each)}
    leaked = [text for text in secrets_of_all if text.encode() in everything]
    claim(f"none of {len(secrets_of_all):,} sensitive texts is in the bytes that are stored", not leaked)
    tenants = Counter(person.tenant for person in people)
    counted = {tenant: stolen.customers.count_documents({"tenant": tenant}) for tenant in tenants}
    claim("what was marked Queryable he can read and count: it is no secret", counted == tenants)


def ask_for_what_is_encrypted(customers: Repository[Customer], person: Customer) -> None:
    """MongoDB cannot search what it cannot read. The answer is an error that says so, never an empty result."""
    chapter("4. A query that could not be answered is refused")
    try:
        customers.find({"email": person.email})
    except QueryError as error:
        claim('find({"email": …}) raises QueryError:', True)
        quote(error)
    else:
        claim('find({"email": …}) raises QueryError', False)


def edit_as_a_vandal(customers: Repository[Customer], people: list[Customer], stolen: Database[dict[str, Any]]) -> None:
    """Somebody with write access, but no keys, moves a customer to another tenant."""
    chapter("5. Somebody edits a document, past the service")
    victim = next(person for person in people if person.tenant == "acme")
    changed = stolen.customers.update_one({"_id": victim.id}, {"$set": {"tenant": "globex"}}).modified_count
    claim('the tenant of one customer is now "globex"', changed == 1)
    try:
        customers.load(victim.id)
    except IntegrityError as error:
        claim("load refuses it with IntegrityError:", True)
        quote(error)
    else:
        claim("load refuses it with IntegrityError", False)

    # One bad document does not blind the rest: next() goes on after the error.
    opened, refused = 0, 0
    cursor = customers.find()
    while True:
        try:
            next(cursor)
        except StopIteration:
            break
        except IntegrityError:
            refused += 1
        else:
            opened += 1
    claim(f"find opens the other {opened:,} and refuses {refused}", (opened, refused) == (COUNT - 1, 1))


# --- How it is shown, and how it is checked ------------------------------------------------------------------------------


def chapter(title: str) -> None:
    """A line across the screen."""
    console.print()
    console.rule(f"[bold]{title}", align="left")


def claim(text: str, holds: bool) -> None:  # noqa: FBT001 - reads as a sentence
    """Say what was found, and remember it if it is not as it should be."""
    console.print(f"[green]ok[/] {escape(text)}" if holds else f"[bold red]WRONG[/] {escape(text)}")
    if not holds:
        failures.append(text)


def quote(error: Exception) -> None:
    """What an error says, indented."""
    console.print(Padding(escape(str(error)), (0, 0, 0, 3)))


def listing(title: str) -> Table:
    """An empty table of fields and values that takes its half of the screen."""
    table = Table("field", title=title, expand=True)
    table.add_column("value", overflow="fold")
    return table


def same(found: list[Customer], expected: list[Customer]) -> bool:
    """Whether these are the same customers, in whatever order, and at least one."""
    return bool(found) and sorted(found, key=lambda each: each.id) == sorted(expected, key=lambda each: each.id)


def sensitive_texts(person: Customer) -> Iterator[str]:
    """Every text in the sensitive fields that is too long to be in other bytes by chance."""

    def texts(value: object) -> Iterator[str]:
        if isinstance(value, str) and len(value) >= 6:
            yield value
        elif isinstance(value, BaseModel):
            yield from texts(list(value.__dict__.values()))
        elif isinstance(value, list):
            for each in value:
                yield from texts(each)

    yield from texts([value for field, value in person if field not in {"id", "tenant", "status", "created_at"}])


if __name__ == "__main__":
    sys.exit(main())
