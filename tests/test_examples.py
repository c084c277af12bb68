"""The examples run, and do what they say."""

# ruff: noqa: ASYNC240 - files of a test, while nothing else is in the loop

from __future__ import annotations

import asyncio
import importlib
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from pymongo.database import Database

from mongo_envelope import (
    AsyncRepository,
    ConfigurationError,
    KeyRing,
    KMSError,
    PayloadError,
    QueryError,
    RevisionConflictError,
    embedded,
)

ROOT = Path(__file__).parent.parent
ADA = {"tenant": "acme", "name": "Ada Lovelace", "email": "ada@example.com", "notes": "likes engines"}
KEY_FILE, OTHER_KEYS = Path("keys.json"), Path("others.json")
SECRETS = ("Ada Lovelace", "ada@example.com", "likes engines")
Db = Database[dict[str, Any]]
Client = httpx.AsyncClient
Serve = Callable[[], AbstractAsyncContextManager[Client]]


def test_the_quickstart_runs() -> None:
    """As it stands, without a warning: its asserts hold, and the thief sees less than you."""
    quickstart = [sys.executable, "-W", "error", ROOT / "examples" / "quickstart.py"]
    done = subprocess.run(quickstart, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    conflict, seen, stolen = done.stdout.splitlines()
    assert "somebody else wrote" in conflict
    assert "ada@example.com" in seen
    assert "acme" in stolen
    assert "ada@example.com" not in stolen


# --- The service ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The service, under the name by which uvicorn is told to run it, in an empty folder and without any configuration."""
    monkeypatch.syspath_prepend(ROOT)
    for name in ("MONGODB_URI", "MONGO_ENVELOPE_KEYS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return importlib.import_module("examples.fastapi_service")


@asynccontextmanager
async def running(module: ModuleType) -> AsyncIterator[Client]:
    """The service between start and end, without a network in between."""
    transport = httpx.ASGITransport(module.app)
    async with module.app.router.lifespan_context(module.app), Client(transport=transport, base_url="http://test") as http:
        yield http


@pytest.fixture
def serve(module: ModuleType, server: embedded.Server, database: Db, keys: KeyRing, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Starts the service on this test's database, with the keys in a file."""
    monkeypatch.setenv("MONGODB_URI", server.uri.replace("/?", f"/{database.name}?"))
    keys.to_file(KEY_FILE)
    return lambda: running(module)


def error_of(answer: httpx.Response, status: int) -> Any:
    """What an answer says went wrong; and it holds nothing of Ada."""
    assert answer.status_code == status, answer.text
    assert not [secret for secret in SECRETS if secret in answer.text]
    return answer.json()["detail"]


async def test_the_whole_life_of_a_customer(serve: Serve, database: Db) -> None:
    """Made, read, replaced, changed, found and deleted; sealed all the while."""
    async with serve() as http:
        made = await http.post("/customers", json=ADA)
        assert made.status_code == 201
        ada = made.json()
        assert ada == {**ADA, "status": "lead", "id": ada["id"], "created_at": ada["created_at"]}
        url = made.headers["Location"]
        assert url == f"http://test/customers/{ada['id']}"
        assert database.customers.index_information().keys() == {"_id_", "tenant_1", "created_at_1"}

        read = await http.get(url)
        assert (read.status_code, read.json()) == (200, ada)
        assert read.headers["ETag"] == made.headers["ETag"]
        assert read.headers["Cache-Control"] == "private, no-cache"

        replaced = await http.put(url, json={**ADA, "status": "active", "notes": ""}, headers={"If-Match": read.headers["ETag"]})
        assert (replaced.status_code, replaced.json()) == (200, {**ada, "status": "active", "notes": ""})

        changed = await http.patch(url, json={"notes": "likes engines"}, headers={"If-Match": replaced.headers["ETag"]})
        assert (changed.status_code, changed.json()) == (200, {**ada, "status": "active"})

        again = await http.patch(url, json={"status": "closed"})
        assert (again.status_code, again.json()) == (200, {**ada, "status": "closed"})
        assert len({each.headers["ETag"] for each in (made, replaced, changed, again)}) == 4

        stored = database.customers.find_one()
        assert stored is not None
        assert stored.keys() == {"_id", "tenant", "status", "created_at", "v", "kid", "iv", "data", "hmac"}
        raw = b"".join(database.customers.find_raw_batches())
        assert not [secret for secret in SECRETS if secret.encode() in raw]

        assert (await http.get(url, headers={"If-None-Match": again.headers["ETag"]})).status_code == 304
        assert (await http.delete(url, headers={"If-Match": again.headers["ETag"]})).status_code == 204
        assert database.customers.count_documents({}) == 0


async def test_what_a_client_has_is_not_sent_again(serve: Serve) -> None:
    """If-None-Match with one ETag, with several, with a weak one; and no longer after a change."""
    async with serve() as http:
        made = await http.post("/customers", json=ADA)
        url, tag = made.headers["Location"], made.headers["ETag"]
        for known in (tag, f'"other", {tag}', f"W/{tag}"):
            answer = await http.get(url, headers={"If-None-Match": known})
            assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", tag)
        assert (await http.get(url, headers={"If-None-Match": '"other"'})).status_code == 200
        await http.patch(url, json={"status": "active"})
        assert (await http.get(url, headers={"If-None-Match": tag})).status_code == 200


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
async def test_no_update_of_another_client_is_lost(serve: Serve, method: str) -> None:
    """Two clients read the same; the second to write is told so, may read again, and then succeeds."""
    async with serve() as http:
        url = (await http.post("/customers", json=ADA)).headers["Location"]
        first, second = [(await http.get(url)).headers["ETag"] for _ in range(2)]
        body = None if method == "DELETE" else {**ADA, "status": "closed"}
        assert (await http.put(url, json={**ADA, "notes": "first"}, headers={"If-Match": first})).status_code == 200
        for stale in (second, "*", f"W/{second}", '"nonsense"', ""):
            error_of(await http.request(method, url, json=body, headers={"If-Match": stale}), 412)
        now = await http.get(url)
        assert (now.json()["notes"], now.json()["status"]) == ("first", "lead")
        done = await http.request(method, url, json=body, headers={"If-Match": now.headers["ETag"]})
        assert done.status_code == (204 if method == "DELETE" else 200)


async def test_a_put_must_say_what_it_replaces(serve: Serve) -> None:
    """428 without If-Match; the customer stays as it is."""
    async with serve() as http:
        made = await http.post("/customers", json=ADA)
        assert "If-Match" in error_of(await http.put(made.headers["Location"], json={**ADA, "notes": ""}), 428)
        assert (await http.get(made.headers["Location"])).json() == made.json()


async def test_many_patches_at_once_all_count(serve: Serve) -> None:
    """Without If-Match, each changes its own field of whatever is there."""
    async with serve() as http:
        url = (await http.post("/customers", json=ADA)).headers["Location"]
        patches = [{"status": "active"}, {"notes": "n"}, {"email": "e"}, {"name": "a"}, {"tenant": "t"}]
        answers = await asyncio.gather(*[http.patch(url, json=each) for each in patches])
        assert [each.status_code for each in answers] == [200] * len(patches)
        now = (await http.get(url)).json()
        assert [now[name] for each in patches for name in each] == ["active", "n", "e", "a", "t"]


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "PATCH with If-Match", "DELETE"])
async def test_a_customer_that_is_not_there(serve: Serve, method: str) -> None:
    """404, for every method."""
    async with serve() as http:
        method, _, condition = method.partition(" with ")
        body = {"PUT": ADA, "PATCH": {"notes": ""}}.get(method)
        headers = {"If-Match": f'"{"0" * 64}"'} if condition or method == "PUT" else {}
        assert error_of(await http.request(method, f"/customers/{uuid4()}", json=body, headers=headers), 404)


async def test_the_oldest_come_first_in_pages(serve: Serve, module: ModuleType) -> None:
    """Every customer of the filter is on one page, also where dates are equal, and the last page leads nowhere."""
    async with serve() as http:
        for number in range(7):
            when = module.datetime(2024, 1, 1 + number // 4, tzinfo=module.UTC)
            tenant = "globex" if number == 5 else "acme"
            customer = module.Customer(**ADA | {"tenant": tenant, "name": str(number), "status": "lead"}, created_at=when)
            await module.app.state.customers.save(customer)
        url, pages = "/customers?tenant=acme&limit=2", []
        while url:
            answer = await http.get(url)
            assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "private, no-cache")
            pages.append([each["name"] for each in answer.json()])
            url = answer.links.get("next", {}).get("url")
        assert [len(page) for page in pages] == [2, 2, 2, 0]
        assert sorted(pages[0] + pages[1]) == ["0", "1", "2", "3"]
        assert sorted(pages[2]) == ["4", "6"]
        assert [each["name"] for each in (await http.get("/customers", params={"tenant": "globex"})).json()] == ["5"]
        assert (await http.get("/customers", params={"status": "closed"})).json() == []


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/customers", {"tenant": "acme"}),
        ("POST", "/customers", {**ADA, "id": str(uuid4())}),
        ("POST", "/customers", {**ADA, "created_at": "2000-01-01T00:00:00Z"}),
        ("POST", "/customers", {**ADA, "status": "ada@example.com"}),
        ("PUT", f"/customers/{UUID(int=5)}", {**ADA, "email": ["ada@example.com"]}),
        ("PATCH", f"/customers/{UUID(int=5)}", {"email": None}),
        ("PATCH", f"/customers/{UUID(int=5)}", {"name": ""}),
        ("PATCH", f"/customers/{UUID(int=5)}", {"created_at": "2000-01-01T00:00:00Z"}),
        ("GET", "/customers/ada", None),
        ("GET", "/customers?email=ada%40example.com", None),
        ("GET", "/customers?limit=1000", None),
    ],
)
async def test_what_a_client_must_not_send(serve: Serve, database: Db, method: str, path: str, body: Any) -> None:
    """422, which names the place and not the value; nothing is written."""
    async with serve() as http:
        for each in error_of(await http.request(method, path, json=body, headers={"If-Match": '"x"'}), 422):
            assert each.keys() == {"loc", "type", "msg"}
        assert database.customers.count_documents({}) == 0


async def test_an_edited_customer(serve: Serve, database: Db, caplog: pytest.LogCaptureFixture) -> None:
    """500 to the client, and the operator reads in the log which document it is."""
    async with serve() as http:
        made = await http.post("/customers", json=ADA)
        database.customers.update_one({}, {"$set": {"tenant": "globex"}})
        error_of(await http.get(made.headers["Location"]), 500)
        error_of(await http.get("/customers"), 500)
        [record, _] = [each for each in caplog.records if each.levelno == logging.ERROR]
        assert "IntegrityError" in record.message
        assert made.json()["id"] in record.message
        assert not [secret for secret in SECRETS if secret in caplog.text]


async def test_a_key_that_is_not_there(
    serve: Serve, database: Db, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """503: the customer is not wrong, it cannot be checked. Here the keys come from the environment."""
    async with serve() as http:
        url = (await http.post("/customers", json=ADA)).headers["Location"]
    KeyRing.generate().to_file(OTHER_KEYS)
    monkeypatch.setenv("MONGO_ENVELOPE_KEYS", OTHER_KEYS.read_text())
    with pytest.raises(ConfigurationError, match="another key file"):
        async with serve():
            pass  # a service with other keys does not start
    monkeypatch.setenv("MONGO_ENVELOPE_KEYS", KEY_FILE.read_text())
    async with serve() as http:
        database.customers.update_one({}, {"$set": {"kid": "another"}})  # written by one that started with other keys
        error_of(await http.get(url), 503)
    assert "UnknownKeyError" in caplog.text


async def test_a_unique_index(serve: Serve, database: Db) -> None:
    """409, without the value."""
    async with serve() as http:
        database.customers.create_index("status", unique=True)
        assert (await http.post("/customers", json=ADA)).status_code == 201
        error_of(await http.post("/customers", json=ADA), 409)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (QueryError("notes is sensitive"), 422),
        (RevisionConflictError("a dozen times"), 409),
        (KMSError("no answer"), 503),
        (PayloadError("does not fit"), 500),
    ],
)
async def test_errors_that_need_more_than_a_request(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    """A mistake of the service, a dozen conflicts, an outage, an old document: each has its status."""

    async def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(AsyncRepository, "update", fail)
    async with serve() as http:
        error_of(await http.patch(f"/customers/{uuid4()}", json={"notes": "likes engines"}), status)


async def test_a_real_database_gets_no_new_keys(serve: Serve) -> None:
    """Without keys the service does not start: new ones would open nothing, and seal what the old ones cannot open."""
    KEY_FILE.unlink()
    with pytest.raises(ConfigurationError, match=r"keys\.json"):
        async with serve():
            pass
    assert not KEY_FILE.exists()


async def test_it_starts_without_any_configuration(module: ModuleType) -> None:
    """With a MongoDB and a key file of its own."""
    async with running(module) as http:
        assert (await http.post("/customers", json=ADA)).status_code == 201
    assert KEY_FILE.stat().st_mode & 0o777 == 0o600


def test_it_describes_itself(module: ModuleType) -> None:
    """The OpenAPI document can be made, and lists every route."""
    paths = module.app.openapi()["paths"]
    assert {path: sorted(methods) for path, methods in paths.items()} == {
        "/customers": ["get", "post"],
        "/customers/{id}": ["delete", "get", "patch", "put"],
    }
