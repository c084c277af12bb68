"""``mongo-envelope keys``: make, show, rotate, hand on, destroy, save and bring back the keys of a key store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pymongo.collection import Collection
from rich.console import RenderableType
from rich.table import Table

from mongo_envelope import kms
from mongo_envelope.errors import ConfigurationError
from mongo_envelope.keys import KeyRing
from mongo_envelope.keystore import KeyStore, StoredKey

from .command import EXIT_CODES, Commands, command
from .place import Place
from .saying import Answer, confirm

__all__ = ["app"]

app: Final = typer.Typer(
    cls=Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they would show local variables
    help="Look after the keys of mongo_envelope.",
    epilog=EXIT_CODES,
)
keys: Final = typer.Typer(no_args_is_help=True, help="The keys of a key store.", epilog=EXIT_CODES)
app.add_typer(keys, name="keys")


@app.callback()
def _group() -> None:
    """Look after the keys of mongo_envelope."""


class Capability(StrEnum):
    """What a restricted ring can do."""

    verify = "verify"
    metadata = "metadata"
    search = "search"


Kid = Annotated[str, typer.Argument(metavar="KID", help="The id of a key, as `keys list` shows it.", show_default=False)]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
NewFile = Annotated[Path, typer.Argument(metavar="FILE", help="A new file, which gets mode 0600.", show_default=False)]


# --- making and showing -------------------------------------------------------------------------------------------------


@command(keys, "create")
def create(
    place: Place,
    *,
    create_kek: Annotated[bool, typer.Option("--create-kek", help="Make the key-encryption key, too, if it is not there.")] = False,
    adopt: Annotated[Path | None, typer.Option(help="A key file, whose keys are taken over.", show_default=False)] = None,
) -> Answer:
    """Make a key store, and show its fingerprint. If there is one, nothing is made."""
    ring = None
    if adopt is not None:
        ring = KeyRing.from_file(adopt)
        ring.need("seal", what="adopt")
    there = place.exists()
    # Where there is a store, a new key-encryption key would not open it, and would lie where the lost one belongs.
    store = place.open(create=True, create_kek=create_kek and not there)
    there = there or not store.made  # somebody else was first, and the fingerprint is that of his
    if ring is not None:
        store.adopt(ring)
    adopted = [] if ring is None else [*ring, *ring.index_keys]
    facts = {"made": not there, "place": str(place), "store": store.store_id, "fingerprint": store.fingerprint, "adopted": adopted}
    shown = [
        f"There is a key store in {place} already: nothing was made." if there else f"Made a key store in {place}.",
        f"  store        {store.store_id}",
        f"  fingerprint  {store.fingerprint}",
        *(f"  adopted      {kid}" for kid in adopted),
        "",
        "For the configuration of every service, and for this command:",
        f"  MONGO_ENVELOPE_STORE={place}",
        *([] if place.is_file else ["  MONGO_ENVELOPE_URI=mongodb://…"]),
        f"  MONGO_ENVELOPE_KMS={place.described_kms}",
        f"  MONGO_ENVELOPE_FINGERPRINT={store.fingerprint}",
    ]
    notes = ["Keep the fingerprint away from the key store, and the key-encryption key away from backups of the database."]
    if ring is not None:
        notes.append(f"The primary key of {adopt} goes on sealing. When no process uses that file any more: keys rotate.")
    return Answer(facts, shown, notes)


@command(keys, "list")
def list_(
    place: Place,
    *,
    max_age: Annotated[
        float | None, typer.Option(help="Warn of keys in use that are older, in days.", min=0, show_default=False)
    ] = None,
    count: Annotated[
        list[str] | None,
        typer.Option(metavar="DB.COLLECTION", help="Count the documents of a collection under each key.", show_default=False),
    ] = None,
) -> Answer:
    """Show the keys: id, purpose, state, age, check value, and what they are in use for."""
    store = place.open()
    found, now = store.keys(), datetime.now(UTC)
    counts = {name: _counted(place.collection(name), found) for name in dict.fromkeys(count or ())}
    facts = [_facts(each, now, max_age, counts) for each in found]
    notes = [f"{each['kid']} is {each['age_days']:.0f} days old: {_RENEW[each['purpose']]}" for each in facts if each["too_old"]]
    elsewhere = {name: numbers[None] for name, numbers in counts.items()}
    notes += [f"{number} documents of {name} are under no data key of this store" for name, number in elsewhere.items() if number]
    shown: list[RenderableType] = [
        f"{place}: store {store.store_id}, fingerprint {store.fingerprint}",
        _table(found, facts, counts),
    ]
    whole = {"place": str(place), "store": store.store_id, "fingerprint": store.fingerprint, "keys": facts, "elsewhere": elsewhere}
    return Answer({**whole, "warnings": notes}, shown, notes)


_RENEW: Final = {"data": "keys rotate makes another one", "index": "docs/querying.md says how another one takes its place"}
_STYLES: Final = {"compromised": "red", "destroyed": "dim"}


def _table(found: Sequence[StoredKey], facts: Sequence[Mapping[str, Any]], counts: Iterable[str]) -> Table:
    """Of keys, one on a line however narrow the terminal is: nothing is cut or left out."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("kid", "state", "created", "check", "roles"):
        table.add_column(name)
    for name in counts:
        table.add_column(name, justify="right")
    for key, about in zip(found, facts, strict=True):
        table.add_row(
            *(key.kid, f"{key.purpose}, {key.state}", f"{key.created:%Y-%m-%d} ({about['age_days']:.0f} d)", key.check),
            ", ".join(about["roles"]),
            *map(str, about["documents"].values()),
            style=_STYLES.get(key.state) or ("yellow" if about["too_old"] else None),
        )
    return table


def _facts(key: StoredKey, now: datetime, max_age: float | None, counts: Mapping[str, Mapping[str | None, int]]) -> dict[str, Any]:
    roles = [name for name, has in (("seals", key.primary), ("search", key.searched), ("write", key.written)) if has]
    age = (now - key.created).total_seconds() / 86400
    return {
        "kid": key.kid,
        "purpose": key.purpose,
        "state": key.state,
        "created": key.created.isoformat(),
        "age_days": round(age, 2),
        "check": key.check,
        "roles": roles,
        "too_old": bool(roles) and max_age is not None and age > max_age,
        "documents": {name: numbers.get(key.kid, 0) for name, numbers in counts.items()},
    }


def _counted(collection: Collection[Any], known: Iterable[StoredKey]) -> dict[str | None, int]:
    """How many documents are under each key, and, as None, under no data key of these. What stands in a document is not shown."""
    kids = {purpose: [each.kid for each in known if each.purpose == purpose] for purpose in ("data", "index")}

    def by(path: str, purpose: str) -> dict[str, Any]:
        # What is not one of ours is not told apart: whoever writes documents could name any number of kids.
        ours = {"$cond": [{"$in": [path, {"$literal": kids[purpose]}]}, path, None]}
        return {"$group": {"_id": ours, "number": {"$sum": 1}}}

    data = {each["_id"]: each["number"] for each in collection.aggregate([by("$kid", "data")])}
    index = {each["_id"]: each["number"] for each in collection.aggregate([{"$unwind": "$idx.kid"}, by("$idx.kid", "index")])}
    return index | {None: 0} | data


# --- changing -----------------------------------------------------------------------------------------------------------


@command(keys, "rotate")
def rotate(
    place: Place,
    *,
    index: Annotated[bool, typer.Option("--index", help="Add an index key instead, under which values are written, too.")] = False,
) -> Answer:
    """Make a new data key, which seals from now on. The one before opens only."""
    store = place.open()
    if index:
        kid = store.add_index_key()
        notes = [
            "Next, for each collection, when every process has read the store again (refresh_after):",
            f'  repository.reindex(); repository.search_by("{kid}"); store.search_by("{kid}")',
            f'and, when every process searches by it: store.write_only("{kid}"). docs/querying.md says more.',
        ]
        return Answer({"kid": kid, "purpose": "index"}, [f"Made the index key {kid}: values are written under it, too."], notes)
    kid = store.rotate_data_key()
    notes = [
        "Other processes seal under it when they have read the store again (refresh_after).",
        "Documents move when they are saved. All others, for each collection: repository.rotate()",
    ]
    return Answer({"kid": kid, "purpose": "data"}, [f"Made the data key {kid}: it seals from now on."], notes)


@command(keys, "rewrap")
def rewrap(
    place: Place,
    *,
    to: Annotated[
        str | None,
        typer.Option(metavar="KMS", help="The new key-encryption key, as --kms. Without it: anew by the same.", show_default=False),
    ] = None,
    create_kek: Annotated[bool, typer.Option("--create-kek", help="Make the new key-encryption key if it is not there.")] = False,
) -> Answer:
    """Wrap the store's root by another key-encryption key. Keys and documents stay as they are."""
    store = place.open()
    description = to or place.described_kms
    other = kms.configured(description, create=create_kek)
    store.rotate_kek(other)
    notes = [
        f"From now on: MONGO_ENVELOPE_KMS={description}. A service that was not given both beforehand stops after expire_after.",
        "Backups from before open by the old key-encryption key only: keep it as long as them.",
    ]
    shown = [f"The root of {place} is wrapped by {dict(other.identity)}."]
    return Answer({"store": store.store_id, "kms": dict(other.identity)}, shown, notes)


@command(keys, "restrict")
def restrict(
    place: Place,
    *,
    capability: Annotated[list[Capability], typer.Option(help="What the ring can do; more than once.", show_default=False)],
    context: Annotated[
        list[str],
        typer.Option(
            help="Where: the context of a repository, by default the collection's name; more than once.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option(help="A new key file, which gets mode 0600.", show_default=False)],
) -> Answer:
    """Write a key file that can do less: for a party that must not read. It is not reached by destroy."""
    ring = place.open().ring()
    names: list[Any] = [each.value for each in dict.fromkeys(capability)]
    contexts = list(dict.fromkeys(context))
    ring.restrict(*names, contexts=contexts).to_file(out)
    notes = [
        "Whoever can verify can also forge. What each capability gives away stands in docs/capabilities.md.",
        "The file does not follow the store: after keys rotate, write another one.",
    ]
    shown = [f"Wrote {out}: {', '.join(names)} in {', '.join(contexts)}."]
    return Answer({"file": str(out), "capabilities": names, "contexts": contexts}, shown, notes)


@command(keys, "compromised")
def compromised(place: Place, *, kid: Kid, yes: Yes = False) -> Answer:
    """Mark a data key that somebody has got hold of: only Repository.rotate() opens what is under it."""
    store = place.open()
    key = _key(store, kid)
    confirm(kid, f"{kid} ({key.state}) will open nothing but inside rotate(), in all services. This cannot be undone.", yes=yes)
    store.mark_compromised(kid)
    notes = ["Now seal anew what is under it, for each collection: repository.rotate()"]
    return Answer({"kid": kid, "state": "compromised"}, [f"{kid} is compromised."], notes)


@command(keys, "destroy")
def destroy(
    place: Place,
    *,
    kid: Kid,
    within: Annotated[
        list[str] | None,
        typer.Option(
            "--in",
            metavar="DB.COLLECTION",
            help="A collection that may have documents under it; more than once.",
            show_default=False,
        ),
    ] = None,
    even_if_used: Annotated[bool, typer.Option("--even-if-used", help="Make unreadable what is under it.")] = False,
    expire_after: Annotated[
        float, typer.Option(help="Of the services, in seconds: roles must have rested for so long.")
    ] = 86_400.0,
    yes: Yes = False,
) -> Answer:
    """Destroy a key that no document is under. Backups of the store still have it."""
    collections = [place.collection(each) for each in within or ()]
    store = place.open(expire_after=expire_after, refresh_after=min(300.0, expire_after))
    key = _key(store, kid)
    lost = " What is under it will be unreadable." if even_if_used else ""
    confirm(kid, f"The {key.purpose} key {kid} ({key.state}) will be destroyed.{lost} This cannot be undone.", yes=yes)
    store.destroy_key(kid, unused_in=collections, even_if_used=even_if_used)
    return Answer(
        {"kid": kid, "state": "destroyed"}, [f"{kid} is destroyed."], ["Backups of the store that are older still have it."]
    )


def _key(store: KeyStore, kid: str) -> StoredKey:
    """Look before asking: what is not there is not to be confirmed."""
    found = next((each for each in store.keys() if each.kid == kid), None)  # noqa: SIM118 - it is no dict
    if found is None:
        raise ConfigurationError("there is no key of this id in the store: keys list shows them")
    return found


# --- saving and bringing back -------------------------------------------------------------------------------------------


@command(keys, "backup")
def backup(place: Place, file: NewFile) -> Answer:
    """Write the store to a file, as it is stored: wrapped and sealed."""
    store = place.open()
    store.backup(file)
    notes = [
        "It opens by the same key-encryption key: keep that elsewhere, and as long. A key that is destroyed later is still in it."
    ]
    facts = {"file": str(file), "store": store.store_id, "fingerprint": store.fingerprint, "keys": len(store.keys())}
    return Answer(facts, [f"Wrote {file}: {facts['keys']} keys of the store {store.store_id}."], notes)


@command(keys, "restore")
def restore(
    place: Place,
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `keys backup` has written.", show_default=False)],
) -> Answer:
    """Bring a backup back, into an empty place. With --kms, only if it opens, and has the fingerprint."""
    if not file.is_file():
        raise ConfigurationError(f"there is no backup {str(file)!r}")
    store = place.look_into(file) if place.has_kms else None
    place.restore(file)
    facts = {"place": str(place), "verified": store is not None}
    if store is None:
        return Answer(facts, [f"Restored {file} into {place}."], ["It was not verified: without --kms nobody knows what is in it."])
    facts |= {"store": store.store_id, "fingerprint": store.fingerprint}
    shown = [f"Restored {file} into {place}: {len(store.keys())} keys of the store {store.store_id}."]
    return Answer(facts, shown, ["What was changed after the backup is not in it: keys, states and roles."])
