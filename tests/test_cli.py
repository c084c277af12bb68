"""The command: what it does to a store in a collection and in a file, what it says, how it ends, and what it never shows."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import pty
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from conftest import Proxy
from customer_model import Customer
from pymongo import MongoClient
from pymongo.database import Database
from typer.testing import CliRunner, Result

from mongo_envelope import DataKey, IndexKey, KeyRing, Repository, cli, embedded
from mongo_envelope.cli import command, place, saying
from mongo_envelope.cli.keys import app, keys
from mongo_envelope.keystore import CollectionKeyStore, FileKeyStore, KeyStore, StoredKey
from mongo_envelope.kms import LocalKMS

ROOT = Path(__file__).parent.parent


class Command:
    """The command, for one store: run in this process, and everything that it has said kept."""

    def __init__(self, kind: str, database: Database[Any], uri: str, folder: Path) -> None:
        self.kind, self.database, self.uri, self.folder = kind, database, uri, folder
        self.name = f"{database.name}.keys" if kind == "collection" else "./keys.store"
        self.environment: dict[str, str | None] = {
            "MONGO_ENVELOPE_STORE": self.name,
            "MONGO_ENVELOPE_URI": uri if kind == "collection" else None,
            "MONGO_ENVELOPE_KMS": "file:kek.json",
            "MONGO_ENVELOPE_FINGERPRINT": None,
            "COLUMNS": "120",
        }
        self.said: list[str] = []

    def __call__(self, *arguments: str, typed: str | bytes | None = None, **environment: str | None) -> Result:
        """Run ``keys …``."""
        result = CliRunner().invoke(app, ["keys", *arguments], input=typed, env=self.environment | environment)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        assert "Traceback" not in result.output
        self.said.append(result.output)
        return result

    def facts(self, *arguments: str, code: int = 0, **environment: str | None) -> dict[str, Any]:
        """Run ``keys … --json``: what it writes to stdout is one JSON object, on one line."""
        result = self(*arguments, "--json", **environment)
        assert result.exit_code == code, result.output
        assert result.stdout.count("\n") == 1
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    def refused(self, *arguments: str, code: int = 1, typed: str | bytes | None = None, **environment: str | None) -> str:
        """Run ``keys …``, which is refused, and says so on stderr alone; what it says."""
        result = self(*arguments, typed=typed, **environment)
        assert (result.exit_code, result.stdout) == (code, ""), result.output
        return result.stderr

    def store(self, kek: str = "kek.json") -> KeyStore:
        """The store, as a service opens it."""
        kms = LocalKMS.from_file(self.folder / kek)
        if self.kind == "file":
            return FileKeyStore(self.folder / "keys.store", kms=kms)
        return CollectionKeyStore(self.database.keys, kms=kms)

    @property
    def elsewhere(self) -> str:
        """Another place for a store, of the same kind."""
        return f"{self.database.name}.other" if self.kind == "collection" else "./other.store"


@pytest.fixture(params=["collection", "file"])
def run(
    request: pytest.FixtureRequest,
    database: Database[Any],
    server: embedded.Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Command:
    """The command in an empty folder, for a store of each kind that is not there yet."""
    monkeypatch.chdir(tmp_path)
    return Command(request.param, database, server.uri, tmp_path)


@pytest.fixture
def made(run: Command) -> Command:
    """The same, with a store."""
    assert run("create", "--create-kek").exit_code == 0
    return run


@pytest.fixture
def at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody is there to be asked."""
    monkeypatch.setattr(saying, "can_ask", lambda: True)


def stored(store: KeyStore) -> list[StoredKey]:
    """The keys of a store."""
    found = store.keys()
    return list(found)


def states(store: KeyStore) -> dict[str, str]:
    """kid → state."""
    return {each.kid: each.state for each in stored(store)}


def of_database(run: Command, name: str = "customers") -> str:
    return f"{run.database.name}.{name}"


# --- create -----------------------------------------------------------------------------------------------------------


def test_create_makes_a_store_and_says_what_to_configure(run: Command) -> None:
    """The fingerprint that is shown is the store's; stdout has the configuration, stderr what else to think of."""
    result = run("create", "--create-kek")
    assert result.exit_code == 0
    store = run.store()
    assert f"Made a key store in {run.name}." in result.stdout
    for line in (f"STORE={run.name}", "KMS=file:kek.json", f"FINGERPRINT={store.fingerprint}"):
        assert f"\n  MONGO_ENVELOPE_{line}\n" in result.stdout
    assert ("MONGO_ENVELOPE_URI" in result.stdout) == (run.kind == "collection")
    assert store.store_id in result.stdout
    assert "Keep the fingerprint away" in result.stderr


def test_without_a_fingerprint_people_are_told(made: Command) -> None:
    """With the one that the store has; and not where it is given."""
    fingerprint = made.store().fingerprint
    assert f"Opened without a fingerprint: whoever can write {made.name}" in (said := made("list").stderr)
    assert fingerprint in said
    assert "Opened without" not in made("list", "--fingerprint", fingerprint).stderr


def test_create_again_makes_nothing(made: Command) -> None:
    """It shows the one that is there, and says so: it may run at every start."""
    facts = made.facts("create")
    assert facts == {
        "made": False,
        "place": made.name,
        "store": made.store().store_id,
        "fingerprint": made.store().fingerprint,
        "adopted": [],
    }
    assert "nothing was made" in made("create").stdout


def test_create_makes_no_key_encryption_key_where_there_is_a_store(made: Command) -> None:
    """The lost one belongs there, not a new one that opens nothing."""
    (made.folder / "kek.json").rename(made.folder / "lost.json")
    assert "cannot read the file of a key-encryption key 'kek.json'" in made.refused("create", "--create-kek")
    assert not (made.folder / "kek.json").exists()


def test_create_wants_a_key_encryption_key(run: Command) -> None:
    """Unless told to, it makes none, and no store."""
    assert "cannot read the file of a key-encryption key" in run.refused("create")
    assert run.facts("create", "--create-kek")["made"] is True


def test_create_adopts_a_key_file(run: Command) -> None:
    """Its primary key goes on sealing, and the file's documents open with the store; it can be said again."""
    ring = KeyRing.generate()
    ring.to_file(run.folder / "keys.json")
    Repository(Customer, run.database.customers, keys=ring).save(ada := Customer())
    facts = run.facts("create", "--create-kek", "--adopt", "keys.json")
    assert facts["adopted"] == [ring.primary, *ring.index_keys]
    assert Repository(Customer, run.database.customers, keys=run.store().ring()).load(ada.id) == ada
    assert run.store().ring().primary == ring.primary
    result = run("create", "--adopt", "keys.json")
    assert f"  adopted      {ring.primary}\n" in result.stdout
    assert "The primary key of keys.json goes on sealing" in result.stderr


def test_create_reads_the_key_file_before_it_makes_anything(run: Command) -> None:
    """A file that is none, or that of a restricted ring, leaves no store behind."""
    assert "cannot read the key file" in run.refused("create", "--create-kek", "--adopt", "nowhere.json")
    KeyRing.generate().restrict("verify", contexts=["customers"]).to_file(run.folder / "verify.json")
    assert "adopt takes the capability 'seal'" in run.refused("create", "--create-kek", "--adopt", "verify.json")
    assert not (run.folder / "keys.store").exists()
    assert not (run.folder / "kek.json").exists()
    assert run.database.keys.count_documents({}) == 0


# --- list -------------------------------------------------------------------------------------------------------------


def test_list_shows_every_key(made: Command) -> None:
    """Id, purpose, state, check value and roles, as the store has them."""
    made("rotate")
    found = {each.kid: each for each in stored(made.store())}
    facts = made.facts("list")
    assert [each["kid"] for each in facts["keys"]] == [each.kid for each in stored(made.store())]
    for each in facts["keys"]:
        key = found[each["kid"]]
        roles = [name for name, has in (("seals", key.primary), ("search", key.searched), ("write", key.written)) if has]
        assert (each["purpose"], each["state"], each["check"], each["roles"]) == (key.purpose, key.state, key.check, roles)
        assert each["created"] == key.created.isoformat()
    shown = made("list").stdout
    for key in found.values():
        assert re.search(
            rf"^{key.kid} +{key.purpose}, {key.state} +{key.created:%Y-%m-%d} \(0 d\) +{key.check} ", shown, re.MULTILINE
        )


def test_list_warns_of_old_keys_in_use(made: Command) -> None:
    """Of those that seal or write index values; of none without --max-age, and of none that opens only."""
    old = made.store().ring().primary
    made("rotate")
    new = made.store().ring().primary
    time.sleep(0.01)
    assert made.facts("list")["warnings"] == []
    assert made.facts("list", "--max-age", "1")["warnings"] == []
    facts = made.facts("list", "--max-age", "0")
    assert [each["too_old"] for each in facts["keys"]] == [each["kid"] != old for each in facts["keys"]]
    assert any(each.startswith(f"{new} is 0 days old: keys rotate") for each in facts["warnings"])
    assert "docs/querying.md says how" in made("list", "--max-age", "0").stderr


def test_list_counts_documents_under_each_key(made: Command) -> None:
    """Data keys and index keys, and those that are under no key of the store, whatever these say of themselves."""
    store = made.store()
    first = store.ring().primary
    customers = Repository(Customer, made.database.customers, keys=store.ring())
    customers.save_many([Customer(), Customer()])
    second = store.rotate_data_key()
    Repository(Customer, made.database.customers, keys=store.ring()).save(Customer())
    made.database.customers.insert_many(
        [{"kid": "\x1b[31m"}, {"kid": ["x"]}, {"kid": store.ring().search_key}, {"idx": {"kid": ["x", store.ring().search_key]}}]
    )
    facts = made.facts("list", "--count", of_database(made), "--count", of_database(made, "none"), MONGO_ENVELOPE_URI=made.uri)
    numbers = {each["kid"]: each["documents"][of_database(made)] for each in facts["keys"]}
    indexed = made.database.customers.count_documents({"idx.kid": store.ring().search_key})
    assert numbers == {first: 2, second: 1, store.ring().search_key: indexed}
    assert {each["documents"][of_database(made, "none")] for each in facts["keys"]} == {0}
    assert facts["elsewhere"] == {of_database(made): 4, of_database(made, "none"): 0}
    result = made("list", "--count", of_database(made), MONGO_ENVELOPE_URI=made.uri, COLUMNS="200")
    assert "\x1b" not in result.output
    assert f"4 documents of {of_database(made)} are under no data key of this store" in result.stderr


@pytest.mark.parametrize("columns", ["80", "60", "45", "20"])
def test_ids_are_never_cut(run: Command, columns: str) -> None:
    """In a narrow terminal a key still has one line, with its id, state, check value and roles."""
    long = "a-key-of-somebody-who-likes-them-long.0123456789.ABCDEFGHIJKLMNOP"[:64]
    KeyRing([DataKey.generate("short"), DataKey.generate(long)]).to_file(run.folder / "keys.json")
    run("create", "--create-kek", "--adopt", "keys.json")
    lines = run("list", COLUMNS=columns).stdout.splitlines()[2:]
    found = stored(run.store())
    assert len(lines) == len(found)
    for line, each in zip(lines, found, strict=True):
        shown = re.split(" {2,}", line.strip())
        assert (shown[0], shown[1], shown[3]) == (each.kid, f"{each.purpose}, {each.state}", each.check)
        assert ("seals" in shown[4:]) == each.primary


# --- rotate, rewrap, restrict -------------------------------------------------------------------------------------------


def test_rotate_makes_the_key_that_seals(made: Command) -> None:
    """The one before opens only; what to do next is said."""
    before = made.store().ring().primary
    result = made("rotate")
    kid = made.store().ring().primary
    assert result.exit_code == 0
    assert f"Made the data key {kid}" in result.stdout
    assert "repository.rotate()" in result.stderr
    assert states(made.store())[before] == "decrypt-only"
    assert made.facts("rotate") == {"kid": made.store().ring().primary, "purpose": "data"}


def test_rotate_adds_an_index_key(made: Command) -> None:
    """Values are written under it, too; searches go on by the one before; what to do next is said."""
    before = made.store().ring()
    kid = made.facts("rotate", "--index")["kid"]
    after = made.store().ring()
    assert (after.primary, after.search_key) == (before.primary, before.search_key)
    assert set(after.written_index_keys) == {*before.written_index_keys, kid}
    result = made("rotate", "--index")
    assert "Made the index key" in result.stdout
    assert "store.write_only(" in result.stderr


def test_rewrap_takes_another_key_encryption_key(made: Command) -> None:
    """The old one opens the store no more; the keys stay."""
    before = made.facts("list")
    facts = made.facts("rewrap", "--to", "file:new.json", "--create-kek")
    assert facts["kms"] == dict(LocalKMS.from_file(made.folder / "new.json").identity)
    assert "not wrapped by the key-encryption key of this configuration" in made.refused("list")
    after = made.facts("list", "--kms", "file:new.json")
    assert [each["kid"] for each in after["keys"]] == [each["kid"] for each in before["keys"]]
    assert (after["store"], after["fingerprint"]) == (before["store"], before["fingerprint"])


def test_rewrap_wraps_anew_by_the_same(made: Command) -> None:
    """Without --to, as after a new version of a key in the service."""

    def wrapped() -> Any:
        content = made.database.keys.find_one("root") if made.kind == "collection" else (made.folder / "keys.store").read_text()
        return content["wrapped"] if isinstance(content, dict) else content

    before = wrapped()
    result = made("rewrap")
    assert result.exit_code == 0
    assert "From now on: MONGO_ENVELOPE_KMS=file:kek.json." in result.stderr
    assert wrapped() != before
    assert made("list").exit_code == 0


def test_rewrap_by_what_is_not_there_changes_nothing(made: Command) -> None:
    """It is refused, and the old key-encryption key still opens the store."""
    assert "cannot read the file" in made.refused("rewrap", "--to", "file:new.json")
    assert made("list").exit_code == 0


def test_restrict_writes_a_key_file_that_can_do_less(made: Command) -> None:
    """Of mode 0600, for the contexts that were named, and never over another file."""
    options = ["--capability", "verify", "--capability", "verify", "--context", "customers", "--context", "orders"]
    facts = made.facts("restrict", *options, "--out", "verify.json")
    assert facts == {"file": "verify.json", "capabilities": ["verify"], "contexts": ["customers", "orders"]}
    out = made.folder / "verify.json"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    ring = KeyRing.from_file(out)
    assert (set(ring.capabilities), set(ring.contexts or ())) == ({"verify"}, {"customers", "orders"})
    customers = Repository(Customer, made.database.customers, keys=made.store().ring())
    customers.save(Customer())
    assert Repository(Customer, made.database.customers, keys=ring).verify() == 1
    assert "exists already" in made.refused("restrict", *options, "--out", "verify.json")
    result = made("restrict", *options, "--out", "another.json")
    assert "Wrote another.json: verify in customers, orders." in result.stdout
    assert "Whoever can verify can also forge." in result.stderr


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--capability", "swordfish", "--context", "customers"], "'verify', 'metadata', 'search'"),
        (["--context", "customers"], "--capability"),
        (["--capability", "verify"], "--context"),
    ],
)
def test_restrict_wants_capabilities_and_contexts(made: Command, options: list[str], named: str) -> None:
    """Others, or none: wrong usage."""
    assert named in made.refused("restrict", *options, "--out", "x.json", code=2)
    assert not (made.folder / "x.json").exists()


# --- compromised, destroy -----------------------------------------------------------------------------------------------


def test_a_key_is_marked_as_compromised_once_its_id_is_typed(made: Command, at_a_terminal: None) -> None:
    """Typed wrong, or not at all, it stays as it is; the question is not on stdout."""
    kid = made.store().ring().primary
    made("rotate")
    for typed in ("yes\n", "", kid[:-1] + "\n", b"\xff\n"):
        said = made.refused("compromised", kid, code=2, typed=typed)
        assert f"Type {kid} to go on:" in said
        assert "not confirmed: nothing was changed" in said
    assert states(made.store())[kid] == "decrypt-only"
    result = made("compromised", kid, typed=f"{kid}\n")
    assert (result.exit_code, result.stdout) == (0, f"{kid} is compromised.\n")
    assert states(made.store())[kid] == "compromised"


@pytest.mark.parametrize("command", ["compromised", "destroy"])
def test_without_a_terminal_nothing_is_done_unless_it_is_confirmed(made: Command, command: str) -> None:
    """What stands in a pipe confirms nothing; --json says so, too."""
    kid = made.store().ring().primary
    made("rotate")
    said = made.refused(command, kid, code=2, typed=f"{kid}\n")
    assert "There is no terminal to ask at: say --yes" in said
    error = made.facts(command, kid, code=2)
    assert (error["error"], error["exit"]) == ("NotConfirmedError", 2)
    assert states(made.store())[kid] == "decrypt-only"


def test_without_any_input_there_is_nobody_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may have been started with none."""
    monkeypatch.setattr(sys, "stdin", None)
    assert not saying.can_ask()


def test_the_key_that_seals_cannot_be_compromised(made: Command) -> None:
    """It has to be rotated first; an index key is replaced in another way."""
    ring = made.store().ring()
    assert "rotate_data_key() first" in made.refused("compromised", ring.primary, "--yes")
    assert "is an index key" in made.refused("compromised", str(ring.search_key), "--yes")


def test_a_key_that_no_document_is_under_is_destroyed(made: Command, at_a_terminal: None) -> None:
    """While documents are under it, that is refused with their number; roles must have rested."""
    kid = made.store().ring().primary
    customers = Repository(Customer, made.database.customers, keys=made.store().ring())
    customers.save(Customer())
    made("rotate")
    options = ["destroy", kid, "--in", of_database(made)]
    environment = {"MONGO_ENVELOPE_URI": made.uri}
    assert "It can be destroyed from" in made.refused(*options, typed=f"{kid}\n", **environment)
    options += ["--expire-after", "0.01"]
    assert f"1 of {of_database(made)}" in made.refused(*options, typed=f"{kid}\n", **environment)
    made.database.customers.delete_many({})
    assert "not confirmed" in made.refused(*options, code=2, typed="x\n", **environment)
    result = made(*options, typed=f"{kid}\n", **environment)
    assert (result.exit_code, result.stdout) == (0, f"{kid} is destroyed.\n")
    assert states(made.store())[kid] == "destroyed"
    assert re.search(rf"^{kid} +data, destroyed ", made("list").stdout, re.MULTILINE)
    assert "cannot become" in made.refused("compromised", kid, "--yes")


def test_a_key_can_be_destroyed_with_what_is_under_it(made: Command) -> None:
    """If that is said; the question says what will be lost."""
    kid = made.store().ring().primary
    made("rotate")
    assert "names the collections" in made.refused("destroy", kid, "--yes")
    assert "What is under it will be unreadable." in made.refused("destroy", kid, "--even-if-used", code=2)
    assert made.facts("destroy", kid, "--even-if-used", "--yes") == {"kid": kid, "state": "destroyed"}


def test_a_key_in_use_is_not_destroyed(made: Command) -> None:
    """Neither the one that seals nor one that values are written under."""
    for kid in (made.store().ring().primary, str(made.store().ring().search_key)):
        assert "is in use" in made.refused("destroy", kid, "--even-if-used", "--yes")


@pytest.mark.parametrize("command", ["compromised", "destroy"])
def test_a_key_that_is_not_there_is_not_asked_about(made: Command, command: str, at_a_terminal: None) -> None:
    """Before anything is to be typed."""
    assert "there is no key of this id" in made.refused(command, "swordfish", typed="swordfish\n")


# --- backup, restore ----------------------------------------------------------------------------------------------------


def test_a_backup_is_restored_into_an_empty_place(made: Command) -> None:
    """It is of mode 0600, has every key, and is checked before it is written anywhere."""
    made("rotate")
    before = made.facts("list")
    facts = made.facts("backup", "backup.json")
    assert facts == {"file": "backup.json", "store": before["store"], "fingerprint": before["fingerprint"], "keys": 3}
    assert stat.S_IMODE((made.folder / "backup.json").stat().st_mode) == 0o600
    facts = made.facts("restore", "backup.json", "--store", made.elsewhere, "--fingerprint", before["fingerprint"])
    assert facts == {"place": made.elsewhere, "verified": True, "store": before["store"], "fingerprint": before["fingerprint"]}
    after = made.facts("list", "--store", made.elsewhere)
    assert [each["kid"] for each in after["keys"]] == [each["kid"] for each in before["keys"]]
    assert after["fingerprint"] == before["fingerprint"]


def test_a_backup_is_never_written_over_a_file(made: Command) -> None:
    """Nor is anything else."""
    (made.folder / "there").write_text("mine")
    assert "exists already" in made.refused("backup", "there")
    assert (made.folder / "there").read_text() == "mine"
    assert "Wrote new: 2 keys of the store" in made("backup", "new").stdout


def test_a_backup_is_restored_without_a_key_encryption_key(made: Command) -> None:
    """Then nobody has verified it, which is said."""
    made("backup", "backup.json")
    result = made("restore", "backup.json", "--store", made.elsewhere, MONGO_ENVELOPE_KMS=None)
    assert result.exit_code == 0
    assert "It was not verified" in result.stderr
    assert "2 keys" in made("restore", "backup.json", "--store", made.elsewhere).stdout  # again, after an interruption


def test_a_backup_goes_into_no_place_that_holds_something_else(made: Command) -> None:
    """The store there stays as it is."""
    made("backup", "backup.json")
    made("rotate")
    before = made.facts("list")
    assert "is restored into an empty place" in made.refused("restore", "backup.json")
    assert made.facts("list")["keys"][-1]["kid"] == before["keys"][-1]["kid"]


def test_a_wrong_backup_is_not_restored(made: Command) -> None:
    """One that is not there, of another key-encryption key, with another fingerprint, or edited: nothing is written."""
    made("backup", "backup.json")
    LocalKMS.from_file(made.folder / "other.json", create=True)
    target = ["--store", made.elsewhere]
    assert "there is no backup 'nowhere'" in made.refused("restore", "nowhere", *target)
    assert "not wrapped by" in made.refused("restore", "backup.json", *target, "--kms", "file:other.json")
    assert "does not have the fingerprint" in made.refused("restore", "backup.json", *target, "--fingerprint", "00" * 16)
    content = (made.folder / "backup.json").read_text()
    (made.folder / "backup.json").write_text(content.replace('"active"', '"decrypt-only"', 1))
    assert "IntegrityError" in made.facts("restore", "backup.json", *target, code=1)["error"]
    assert made.database.other.count_documents({}) == 0
    assert not (made.folder / "other.store").exists()


# --- which store, and which key-encryption key --------------------------------------------------------------------------


COMMANDS = [
    ["create"],
    ["list"],
    ["rotate"],
    ["rewrap"],
    ["restrict", "--capability", "verify", "--context", "x", "--out", "x.json"],
    ["compromised", "x"],
    ["destroy", "x"],
    ["backup", "x"],
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: arguments[0])
def test_every_command_wants_a_store_and_a_key_encryption_key(made: Command, arguments: list[str]) -> None:
    """Without: wrong usage, which names the option and the variable. With a wrong key, or a wrong fingerprint: refused."""
    assert "MONGO_ENVELOPE_STORE" in made.refused(*arguments, code=2, MONGO_ENVELOPE_STORE=None)
    assert "MONGO_ENVELOPE_KMS" in made.refused(*arguments, code=2, MONGO_ENVELOPE_KMS=None)
    LocalKMS.from_file(made.folder / "other.json", create=True)
    assert "not wrapped by" in made.refused(*arguments, "--kms", "file:other.json")
    assert "does not have the fingerprint" in made.refused(*arguments, MONGO_ENVELOPE_FINGERPRINT="00" * 16)
    assert "32 hexadecimal digits" in made.refused(*arguments, "--fingerprint", "swordfish")
    assert made.facts(*arguments, code=1, MONGO_ENVELOPE_FINGERPRINT="00" * 16)["error"] == "IntegrityError"


@pytest.mark.parametrize("arguments", COMMANDS[1:], ids=lambda arguments: arguments[0])
def test_a_store_that_is_not_there_is_not_made(run: Command, arguments: list[str]) -> None:
    """By any command but create."""
    LocalKMS.from_file(run.folder / "kek.json", create=True)
    assert "there is no key store in" in run.refused(*arguments)
    assert run.database.keys.count_documents({}) == 0
    assert not (run.folder / "keys.store").exists()


def test_create_makes_no_store_where_the_fingerprint_says_there_was_one(run: Command) -> None:
    """It has to be restored."""
    assert "restore it" in run.refused("create", "--create-kek", "--fingerprint", "00" * 16)


@pytest.mark.parametrize("run", ["collection"], indirect=True)
def test_a_uri_can_name_the_collection(made: Command) -> None:
    """Then it goes before --uri, and is shown nowhere."""
    base, _, query = made.uri.partition("/?")
    uri = f"{base.rstrip('/')}/{quote(made.name)}" + (f"?{query}" if query else "")
    facts = made.facts("list", MONGO_ENVELOPE_STORE=uri, MONGO_ENVELOPE_URI="mongodb://nowhere.invalid")
    assert facts["place"] == made.name
    assert "ends with /database.collection" in made.refused("list", code=2, MONGO_ENVELOPE_STORE=made.uri)


def test_what_could_be_a_file_or_a_collection_is_asked_back(made: Command) -> None:
    """With --uri, a name with one dot is a collection, unless there is such a file."""
    (made.folder / "keys.store").touch()
    said = made.refused("list", "--store", "keys.store", code=2, MONGO_ENVELOPE_URI=made.uri)
    assert said == "keys.store is a file here, and may be a collection: for the file, say ./keys.store\n"
    assert made.facts("list", MONGO_ENVELOPE_URI=made.uri)["place"] == made.name


def test_collections_are_named_in_full_and_need_a_database(made: Command) -> None:
    """Wrong usage otherwise."""
    assert "cr m.x is no name of a collection" in made.refused("list", "--count", "cr m.x", code=2, MONGO_ENVELOPE_URI=made.uri)
    assert "named in full" in made.refused("list", "--count", "customers", code=2, MONGO_ENVELOPE_URI=made.uri)
    if made.kind == "file":
        assert "MONGO_ENVELOPE_URI" in made.refused("destroy", "x", "--in", "crm.customers", code=2)


# --- how it ends --------------------------------------------------------------------------------------------------------


def test_wrong_usage_is_2(run: Command) -> None:
    """And no password of a URI is repeated."""
    for arguments in (["nope"], ["list", "--nope"], ["list", "mongodb://ada:swordfish@host/x"], ["list", "--max-age", "old"]):
        said = run.refused(*arguments, code=2)
        assert said
        assert "swordfish" not in said
        assert run.facts(*arguments, code=2)["exit"] == 2
    assert run().exit_code == 2


def test_a_server_that_is_not_there_is_3(made: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Soon, and without the password; for a store in a collection, and for collections beside a file."""
    monkeypatch.setattr(place, "_PATIENCE", 200)
    uri = "mongodb://ada:swordfish@127.0.0.1:1/"
    arguments = ["list"] if made.kind == "collection" else ["list", "--count", "crm.customers"]
    began = time.monotonic()
    said = made.refused(*arguments, code=3, MONGO_ENVELOPE_URI=uri)
    assert time.monotonic() - began < 3
    assert said.endswith("the database could not be asked: ServerSelectionTimeoutError\n")
    error = made.facts(*arguments, code=3, MONGO_ENVELOPE_URI=uri)
    assert error["error"] == "ServerSelectionTimeoutError"


def test_a_database_that_fails_is_3(made: Command, fail_command: Callable[..., None], proxy: Proxy) -> None:
    """In the store's own reads, and in counting; the error says whether trying again may help."""
    uri = f"{proxy.uri}&appName=fails"
    if made.kind == "collection":
        fail_command(["find"], errorCode=13)
        error = made.facts("list", code=3, MONGO_ENVELOPE_URI=uri)
        assert (error["error"], error["temporary"]) == ("KMSError", False)
        assert "OperationFailure, code 13" in error["message"]
    fail_command(["aggregate"], errorCode=13)
    said = made.refused("list", "--count", of_database(made), code=3, MONGO_ENVELOPE_URI=uri)
    assert said.endswith("the database could not be asked: OperationFailure, code 13\n")


def test_a_key_service_that_is_not_there_is_3(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trying again may help, which --json says; no store is made, and no credential is said."""
    monkeypatch.setattr(place, "_TIMEOUT", 0.5)
    described = {
        "provider": "aws",
        "kms_providers": {"aws": {"accessKeyId": "AKIAEXAMPLE", "secretAccessKey": "env:OUR_SECRET"}},
        "master_key": {
            "region": "eu-central-1",
            "key": "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
            "endpoint": "127.0.0.1:1",
        },
        "timeout": 0.2,
    }
    (run.folder / "kms.json").write_text(json.dumps(described))
    error = run.facts("create", "--kms", "kms.json", code=3, OUR_SECRET="swordfish")
    assert (error["error"], error["temporary"]) == ("KMSError", True)
    assert "swordfish" not in run.said[-1]
    assert run.facts("create", "--kms", "kms.json", code=1)["message"].endswith("OUR_SECRET, which is not set")
    assert "made by that service's own means" in run.refused("create", "--kms", "kms.json", "--create-kek", OUR_SECRET="swordfish")
    assert run.database.keys.count_documents({}) == 0
    assert not (run.folder / "keys.store").exists()


def test_a_uri_that_is_none_is_refused_without_being_shown(run: Command) -> None:
    """It may have a password; and parts of it stand in the driver's own words."""
    LocalKMS.from_file(run.folder / "kek.json", create=True)
    for uri in ("mongodb://ada:sword/fish@host", "mongodb://host:swordfish", "mongodb://host/?w=-swordfish&tls=fish"):
        said = run.refused("list", MONGO_ENVELOPE_URI=uri, MONGO_ENVELOPE_STORE="crm.keys")
        assert "the URI of the database is not valid" in said
        assert "fish" not in said


def test_an_edited_record_is_1(made: Command) -> None:
    """It names the record, and is not the database's fault."""
    if made.kind == "collection":
        made.database.keys.update_one({"purpose": "data"}, {"$set": {"state": "decrypt-only"}})
    else:
        path = made.folder / "keys.store"
        path.write_text(path.read_text().replace('"active"', '"decrypt-only"', 1))
    error = made.facts("list", code=1)
    assert error["error"] == "IntegrityError"
    assert "-data" in error["message"]


def test_an_error_of_the_system_is_1(made: Command) -> None:
    """With the file's name, and no traceback."""
    (made.folder / "kms.json").mkdir()
    assert "cannot be read: Is a directory" in made.refused("list", "--kms", "kms.json")
    assert command._words(PermissionError(13, "Permission denied", "x.json")) == "Permission denied: x.json"


def test_nothing_steers_the_terminal(made: Command) -> None:
    """Control characters of a name are written out."""
    said = made.refused("list", "--kms", "file:\x1b[31m\nx")
    assert "\x1b" not in said
    assert saying.redacted("\x1b[31m\x00\x85\n") == "\\x1b[31m\\x00\\x85\n"


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, EOFError])
def test_an_interruption_is_130(made: Command, monkeypatch: pytest.MonkeyPatch, interruption: type[BaseException]) -> None:
    """Wherever it comes."""

    def interrupted(*_: object, **__: object) -> None:
        raise interruption

    monkeypatch.setattr(place.Place, "open", interrupted)
    assert made("list").exit_code == 130


# --- what it never shows ------------------------------------------------------------------------------------------------


def forms(secret: bytes) -> set[str]:
    """What a secret looks like in text."""
    return {
        secret.hex(),
        base64.b64encode(secret).decode().rstrip("="),
        base64.urlsafe_b64encode(secret).decode().rstrip("="),
        repr(secret),
    }


def test_nothing_secret_is_said_or_logged(made: Command, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """No material of any key, no root, no key-encryption key, no password: by any command, for people, programs or logs."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(place, "_PATIENCE", 100)
    first = made.store().ring().primary
    every: list[list[str]] = [
        ["create"],
        ["list", "--max-age", "0"],
        ["rotate"],
        ["rotate", "--index"],
        ["backup", "backup.json"],
        ["compromised", first, "--yes"],
        ["destroy", first, "--even-if-used", "--yes"],
        ["rewrap", "--to", "file:new.json", "--create-kek"],
        ["list"],
        ["list", "--kms", "file:new.json"],
        ["restore", "backup.json", "--store", made.elsewhere],
        ["restore", "backup.json", "--store", made.elsewhere, "--fingerprint", "11" * 16],
        ["list", "--count", "crm.x", "--store", "mongodb://ada:sword%2Ffish@127.0.0.1:1/crm.keys"],
        ["create", "--help"],
    ]
    secrets = {key._material for key in keys_of(made.store())}
    root = made.store()._root._material
    for arguments in every:
        made(*arguments)
        made(*arguments, "--json")
    secrets |= {root, *(key._material for key in keys_of(made.store("new.json")))}
    for name in ("kek.json", "new.json"):
        secrets.add(base64.b64decode(json.loads((made.folder / name).read_text())["kek"]))
    said = "".join(made.said) + caplog.text
    assert len(secrets) >= 7
    for secret in secrets:
        for form in forms(secret):
            assert form not in said
    assert "sword%2Ffish" not in said
    assert "sword/fish" not in said
    names = {path.name for path in made.folder.iterdir()}
    assert (
        {"kek.json", "new.json", "backup.json"}
        <= names
        <= {
            *(
                "kek.json",
                "new.json",
                "backup.json",
                ".backup.json.lock",
                "keys.store",
                ".keys.store.lock",
                "other.store",
                ".other.store.lock",
            ),
        }
    )
    kept = b"".join(path.read_bytes() for path in made.folder.iterdir() if path.name not in ("kek.json", "new.json"))
    for secret in secrets:
        for form in forms(secret):
            assert form.encode() not in kept


def keys_of(store: Any) -> list[DataKey | IndexKey]:
    """All keys that a store holds."""
    return [each.key for each in store._contents.keys.values() if each.key is not None]


# --- as a process -------------------------------------------------------------------------------------------------------


def process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """``python -m mongo_envelope keys …`` with nothing in the environment but what is needed."""
    options = {"env": {**os.environ, "PYTHONPATH": str(ROOT), "MONGO_ENVELOPE_KMS": "file:kek.json"}, "input": "", **options}
    program = [sys.executable, "-W", "error", "-m", "mongo_envelope", *arguments]
    return subprocess.run(program, capture_output=True, text=True, timeout=60, check=False, **options)


def test_the_command_runs_as_a_module(tmp_path: Path) -> None:
    """Its exit code is that of the process; the log does not repeat what it says."""
    done = process("keys", "create", "--store", "keys.store", "--create-kek", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout.startswith("Made a key store in keys.store.\n")
    again = process("keys", "list", "--store", "nowhere", "--json", cwd=tmp_path)
    assert (again.returncode, json.loads(again.stdout)["exit"]) == (1, 1)
    assert process("--help").stdout.count("Exit codes: 0 done; 1 refused") == 1


def test_the_entry_point_is_the_command() -> None:
    """The script that is installed calls it, and the help of every command has the exit codes."""
    scripts = (ROOT / "pyproject.toml").read_text()
    assert 'mongo-envelope = "mongo_envelope.cli:main"' in scripts
    program = "import sys; from mongo_envelope.cli import main; sys.argv = ['mongo-envelope', 'keys', 'list', '--help']; main()"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False, cwd=ROOT, timeout=60
    )
    assert done.returncode == 0
    assert "mongo-envelope keys list" in done.stdout
    assert "130" in done.stdout


def test_the_shell_samples_of_the_docs_are_one_program(
    tmp_path: Path, client: MongoClient[dict[str, Any]], server: embedded.Server
) -> None:
    """From top to bottom, each as it stands: the command is on the path, and the database in the environment."""
    samples = re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs" / "commands.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    script = tmp_path / "bin" / "mongo-envelope"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -W error -m mongo_envelope "$@"\n')
    script.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MONGO_ENVELOPE_")} | {
        "PATH": f"{script.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "MONGO_ENVELOPE_URI": server.uri,
        "COLUMNS": "120",
    }
    (work := tmp_path / "work").mkdir()
    try:
        done = subprocess.run(
            ["sh", "-eux", "-c", "".join(samples)],
            cwd=work,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        client.drop_database("crm")
    assert done.returncode == 0, done.stderr
    named = set(re.findall(r"mongo-envelope keys (\w+)", "".join(samples)))
    assert named == {each.name for each in keys.registered_commands}
    assert KeyRing.from_file(work / "verify.json").capabilities == {"verify"}
    assert "may still be in use" in done.stderr
    assert re.search("^[0-9a-f]{16}-data +data, compromised", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_it_says_what_to_install(missing: str) -> None:
    """And ends with 1, without a traceback."""
    program = f"""if True:
        import sys
        class Blocked:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == {missing!r}:
                    raise ModuleNotFoundError("blocked", name=name)
        sys.meta_path.insert(0, Blocked())
        from mongo_envelope.cli import main
        main()
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f'{missing} is not installed: pip install "mongo-envelope[cli]"\n'


def test_main_is_the_command_of_this_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It takes the arguments of the process, and says so if an extra is missing."""
    monkeypatch.setattr(sys, "argv", ["mongo-envelope", "keys", "list"])
    monkeypatch.delenv("MONGO_ENVELOPE_STORE", raising=False)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code, capsys.readouterr().err.count("MONGO_ENVELOPE_STORE")) == (2, 1)

    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code, capsys.readouterr().err) == (1, 'rich is not installed: pip install "mongo-envelope[cli]"\n')


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int, str]]:
    """A process that asks at a real terminal whether to destroy a key; the other end of the terminal; and the key's id."""
    store = FileKeyStore(tmp_path / "keys.store", kms=LocalKMS.from_file(tmp_path / "kek.json", create=True), create=True)
    kid = store.ring().primary
    store.rotate_data_key()
    ours, theirs = pty.openpty()
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MONGO_ENVELOPE_KMS": "file:kek.json",
        "MONGO_ENVELOPE_STORE": "keys.store",
    }
    program = [sys.executable, "-W", "error", "-m", "mongo_envelope", "keys", "destroy", kid, "--even-if-used", "--json"]
    with subprocess.Popen(
        program, cwd=tmp_path, env=environment, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stderr is not None
        said = b""
        while b"to go on:" not in said:
            said += os.read(running.stderr.fileno(), 4096)
        yield running, ours, kid
        running.kill()
        os.close(ours)
        os.close(theirs)


def test_somebody_at_a_terminal_is_asked(asked: tuple[subprocess.Popen[bytes], int, str]) -> None:
    """And has to type the id; stdout has nothing but the one object."""
    running, terminal, kid = asked
    os.write(terminal, kid.encode() + b"\n")
    stdout, _ = running.communicate(timeout=30)
    assert (running.returncode, json.loads(stdout)) == (0, {"kid": kid, "state": "destroyed"})


def test_ctrl_c_ends_it_with_130(asked: tuple[subprocess.Popen[bytes], int, str], tmp_path: Path) -> None:
    """Cleanly, and nothing was done."""
    running, _, kid = asked
    running.send_signal(signal.SIGINT)
    stdout, stderr = running.communicate(timeout=30)
    assert (running.returncode, stdout) == (130, b"")
    assert b"Traceback" not in stderr
    store = FileKeyStore(tmp_path / "keys.store", kms=LocalKMS.from_file(tmp_path / "kek.json"))
    assert states(store)[kid] == "decrypt-only"
