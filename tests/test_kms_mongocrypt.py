"""kms/mongocrypt: keys of AWS KMS, Azure Key Vault, GCP KMS and KMIP, over sockets and TLS, and all that can go wrong there.

What is behind them: moto for AWS and PyKMIP for KMIP, which other people wrote; for Azure and GCP servers of our own that check
what is asked against the documentation (`key_services`). None of them is the real service.
"""

from __future__ import annotations

import base64
import copy
import json
import logging
import pickle
import re
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import bson
import pytest
import trustme
from bson.binary import Binary
from bson.codec_options import CodecOptions
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from key_services import ACCOUNT, REGION, arn
from pymongo import MongoClient
from pymongo.encryption import ClientEncryption

from mongo_envelope.errors import ConfigurationError, KMSError
from mongo_envelope.kms import KMS
from mongo_envelope.kms.mongocrypt import MongoCryptKMS

PROVIDERS = ["aws", "azure", "gcp", "kmip"]
OVER_HTTP = ["aws", "azure", "gcp"]
SECRET = b"a secret of a key store: 68 bytes, of which none may be seen anywhere"
KEY, OTHER_KEY = "0e8b8b04-1111-4111-8111-000000000001", "0e8b8b04-2222-4222-8222-000000000002"
AWS_SECRET, AZURE_SECRET = "aws-secret-access-key/WkYvDqXbTmPsRz", "azure-client-secret"


#: The names that libmongocrypt makes scopes and audiences of. In these tests they are all here.
CLOUD = ("my-vault.vault.azure.net", "login.microsoftonline.com", "oauth2.googleapis.com", "cloudkms.googleapis.com")


@pytest.fixture(autouse=True)
def clouds_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their names are found on loopback, so that nothing in a request has to differ from a real one but the port."""
    look_up = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **more: look_up("127.0.0.1" if host in CLOUD else host, *rest, **more)
    )


class Service:
    """A key service in a process of its own, which can be stopped, and started again at the same port."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        self.process: subprocess.Popen[str] | None = None
        self.port = 0
        self.start()

    def start(self) -> None:
        script = Path(__file__).parent / "key_services.py"
        with (self.folder / f"{self.kind}.stderr").open("a") as stderr:
            command = [sys.executable, "-P", "-W", "ignore", script, self.kind, self.folder, str(self.port)]
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, (self.folder / f"{self.kind}.stderr").read_text()
        self.port = int(line)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(20)
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None


class Stub:
    """A server that gives one answer, whatever it is asked; ``None``: it reads and says nothing. Counts who connects."""

    def __init__(self, folder: Path, answer: bytes | Callable[[bytes], bytes] | None = None, *, tls: bool = True) -> None:
        self.answer, self.requests, self.connections = answer, [], 0  # type: tuple[Any, list[bytes], int]
        self.context = None
        if tls:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(folder / "server.pem")
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.over = threading.Event()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.converse, args=(connection,), daemon=True).start()

    def converse(self, connection: socket.socket) -> None:
        try:
            if self.context:
                connection = self.context.wrap_socket(connection, server_side=True)
            request = connection.recv(65536)
            self.requests.append(request)
            if self.answer is None:
                self.over.wait(30)
            else:
                connection.sendall(self.answer(request) if callable(self.answer) else self.answer)
        except OSError:
            pass
        finally:
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()


def http(status: int, body: str) -> bytes:
    return f"HTTP/1.1 {status} Some Reason\r\nContent-Length: {len(body.encode())}\r\n\r\n{body}".encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates, keys and credentials."""
    folder = tmp_path_factory.mktemp("key-services")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    ca.issue_cert("127.0.0.1", "localhost", *CLOUD).private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    ca.issue_cert("elsewhere.example").private_key_and_cert_chain_pem.write_to_path(str(folder / "elsewhere.pem"))
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(folder / "localhost.pem"))
    client = ca.issue_cert("crm@example.com", common_name="crm")
    client.private_key_and_cert_chain_pem.write_to_path(str(folder / "client.pem"))
    key = serialization.load_pem_private_key(client.private_key_pem.bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"tls-password")
    )
    (folder / "locked.pem").write_bytes(locked + b"".join(pem.bytes() for pem in client.cert_chain_pems))
    trustme.CA().cert_pem.write_to_path(str(folder / "other-ca.pem"))
    users = {
        "crm": ["AKIACRM", AWS_SECRET, ["kms:Encrypt", "kms:Decrypt"]],
        "half": ["AKIAHALF", AWS_SECRET, ["kms:Encrypt"]],
    }
    keys = {KEY: secrets.token_hex(32), OTHER_KEY: secrets.token_hex(32)}
    (folder / "aws.json").write_text(json.dumps({"keys": keys, "users": users, "aliases": {"alias/crm": KEY}}))
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    vault, account = (rsa.generate_private_key(65537, 2048) for _ in range(2))
    (folder / "azure.pem").write_bytes(vault.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    (folder / "gcp.der").write_bytes(account.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, plain))
    (folder / "gcp.pub").write_bytes(account.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    (folder / "gcp.key").write_bytes(secrets.token_bytes(32))
    return folder


@pytest.fixture(scope="module")
def services(folder: Path) -> Iterator[Callable[[str], Service]]:
    """The service of a provider, started when it is first asked for, and again if a test has stopped it."""
    running: dict[str, Service] = {}

    def service(provider: str) -> Service:
        kind = "cloud" if provider in ("azure", "gcp") else provider
        if kind not in running:
            running[kind] = Service(kind, folder)
        if running[kind].process is None:
            running[kind].start()
        return running[kind]

    yield service
    for each in running.values():
        each.stop()


@pytest.fixture
def make(folder: Path) -> Callable[..., MongoCryptKMS]:
    """A key of a provider, at a port. Other options: ``credentials`` and ``master`` are laid over those that fit."""

    def make(provider: str, port: int, **options: Any) -> MongoCryptKMS:
        documents = {
            "aws": (
                {"accessKeyId": "AKIACRM", "secretAccessKey": AWS_SECRET},
                {"region": REGION, "key": arn(KEY), "endpoint": f"127.0.0.1:{port}"},
            ),
            "azure": (
                {"tenantId": "my-tenant", "clientId": "my-client", "clientSecret": AZURE_SECRET}
                | {"identityPlatformEndpoint": f"login.microsoftonline.com:{port}"},
                {
                    "keyVaultEndpoint": f"my-vault.vault.azure.net:{port}",
                    "keyName": "my-key",
                    "keyVersion": "0123456789abcdef0123456789abcdef",
                },
            ),
            "gcp": (
                {"email": "crm@crm.iam.gserviceaccount.com", "endpoint": f"oauth2.googleapis.com:{port}"}
                | {"privateKey": base64.b64encode((folder / "gcp.der").read_bytes()).decode()},
                {"projectId": "my-project", "location": "europe-west3", "keyRing": "my-ring", "keyName": "my-key"}
                | {"endpoint": f"cloudkms.googleapis.com:{port}"},
            ),
            "kmip": ({"endpoint": f"localhost:{port}"}, {}),
        }
        name = options.pop("name", provider)
        credentials, master = documents[provider]
        credentials, master = credentials | options.pop("credentials", {}), master | options.pop("master", {})
        certificate = {"tlsCertificateKeyFile": str(folder / "client.pem")} if provider == "kmip" else {}
        tls = {"tlsCAFile": str(folder / "ca.pem")} | certificate | options.pop("tls", {})
        tls = {option: value for option, value in tls.items() if value is not None}
        return MongoCryptKMS(name, kms_providers={name: credentials}, master_key=master, kms_tls_options={name: tls}, **options)

    return make


def refused(call: Callable[[], object], *, temporary: bool, says: str = "") -> str:
    """The message of the `KMSError` that this ends with, which has nothing behind it."""
    with pytest.raises(KMSError, match=says or None) as caught:
        call()
    assert caught.value.temporary is temporary, caught.value
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return str(caught.value)


def edited(wrapped: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    document = bson.decode(wrapped)
    change(document)
    return bson.encode(document)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("length", [0, 1, 68, 256])
def test_wraps_and_unwraps(provider: str, length: int, services: Any, make: Any) -> None:
    """What was wrapped is unwrapped, by another object of the same configuration, and does not show through."""
    port, secret = services(provider).port, secrets.token_bytes(length)
    wrapped = make(provider, port).wrap(secret)
    assert make(provider, port).unwrap(wrapped) == secret
    assert length < 8 or secret not in wrapped


@pytest.mark.parametrize("provider", PROVIDERS)
def test_survives_a_restart_of_the_service(provider: str, services: Any, make: Any) -> None:
    """Stopped while it is needed: temporary. Started again, with a new object: the secret.

    moto keeps nothing, so its key is imported again, with the same material; PyKMIP has its database.
    """
    service = services(provider)
    port = service.port
    wrapped = make(provider, port).wrap(SECRET)
    service.stop(signal.SIGTERM if provider == "kmip" else signal.SIGKILL)
    refused(lambda: make(provider, port).unwrap(wrapped), temporary=True, says="refused")
    refused(lambda: make(provider, port).wrap(SECRET), temporary=True, says="refused")
    service.start()
    assert make(provider, port).unwrap(wrapped) == SECRET


@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_is_wrapped_is_a_data_key_document_and_a_ciphertext(provider: str, services: Any, make: Any) -> None:
    """As in a key vault; another time with another data key, and with nothing of the credentials in it."""
    kms = make(provider, services(provider).port)
    first, second = (bson.decode(kms.wrap(SECRET)) for _ in range(2))
    assert list(first) == ["key", "data"]
    assert list(first["key"]) == ["_id", "keyMaterial", "creationDate", "updateDate", "status", "masterKey"]
    made = {"keyId": first["key"]["masterKey"].get("keyId")} if provider == "kmip" else {}
    assert first["key"]["masterKey"] == dict(kms.identity) | made
    assert first["data"].subtype == 6
    assert first["key"]["keyMaterial"] != second["key"]["keyMaterial"]
    assert first["data"] != second["data"]
    assert all(hidden.encode() not in bson.encode(first) for hidden in (AWS_SECRET, AZURE_SECRET, "AKIA"))


@pytest.mark.parametrize("provider", PROVIDERS)
def test_nothing_is_logged_or_shown(provider: str, services: Any, make: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the secret nor a credential stands in a log at its finest, in a repr or in the identity."""
    with caplog.at_level(logging.DEBUG):
        kms = make(provider, services(provider).port)
        assert kms.unwrap(kms.wrap(SECRET)) == SECRET
    shown = f"{caplog.text} {kms!r} {kms.identity} {vars(kms)['_tls']}"
    hidden = (SECRET.decode(), SECRET.hex(), base64.b64encode(SECRET).decode(), AWS_SECRET, AZURE_SECRET, "AKIA", "privateKey")
    assert [text for text in hidden if text in shown] == []


@pytest.mark.parametrize("provider", PROVIDERS)
def test_identity_and_shape(provider: str, make: Any) -> None:
    """It is a `KMS`; Azure's key is public, and KMIP's as long as what is stored says which it is; it is not copied."""
    kms = make(provider, 1)
    assert isinstance(kms, KMS)
    assert kms.identity["provider"] == provider
    assert kms.public is (provider in ("azure", "kmip"))
    assert provider != "kmip" or not make(provider, 1, master={"keyId": "1"}).public
    assert repr(kms) == f"<MongoCryptKMS {provider}>"
    for wander in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="credentials"):
            wander(kms)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("tls", [True, False])
def test_never_hangs(provider: str, tls: bool, folder: Path, make: Any) -> None:
    """A server that accepts and says nothing, before or after the handshake, costs the time-out and is temporary."""
    with Stub(folder, None, tls=tls) as stub:
        start = time.monotonic()
        refused(
            lambda: make(provider, stub.port, timeout=0.4).wrap(SECRET), temporary=True, says=r"did not answer .* within 0\.4 s"
        )
        assert 0.4 <= time.monotonic() - start < 1.4
        assert stub.connections == 1


def test_a_slow_answer_does_not_stretch_the_time(folder: Path, make: Any) -> None:
    """The time-out is for everything: a byte now and then does not start it anew."""

    class Dripping(Stub):
        def converse(self, connection: socket.socket) -> None:
            assert self.context
            with self.context.wrap_socket(connection, server_side=True) as wrapped:
                wrapped.recv(65536)
                for letter in b"HTTP/1.1 200 OK\r\n" * 9:
                    if not self.over.wait(0.1):
                        wrapped.sendall(bytes([letter]))

    with Dripping(folder) as stub:
        start = time.monotonic()
        refused(lambda: make("aws", stub.port, timeout=0.5).wrap(SECRET), temporary=True, says="did not answer")
        assert time.monotonic() - start < 1.5


@pytest.mark.parametrize("provider", PROVIDERS)
def test_cut_off_in_the_middle_of_an_answer(provider: str, folder: Path, make: Any) -> None:
    """Half an answer, or none, is temporary."""
    half = bytes.fromhex("42007b0100000120") if provider == "kmip" else http(200, '{"CiphertextBlob": "AAAA"}')[:-9]
    for answer in (half, b""):
        with Stub(folder, answer) as stub:
            refused(lambda stub=stub: make(provider, stub.port).wrap(SECRET), temporary=True, says="closed or refused")


@pytest.mark.parametrize("provider", OVER_HTTP)
@pytest.mark.parametrize(
    ("status", "temporary"),
    [
        *((status, True) for status in (408, 429, 500, 502, 503, 504)),
        *((status, False) for status in (400, 401, 403, 404, 302)),
    ],
)
def test_which_answers_are_temporary(provider: str, status: int, temporary: bool, folder: Path, make: Any) -> None:
    """Throttling and trouble of the service's own are; refusals are not. It is asked once: who tries again is the key store."""
    with Stub(folder, http(status, '{"error": {"code": "SomeCode", "message": "In its own words."}}')) as stub:
        said = refused(lambda: make(provider, stub.port).wrap(SECRET), temporary=temporary)
        assert said.endswith(f"answered HTTP {status}: SomeCode: In its own words.")
        assert stub.connections == 1


@pytest.mark.parametrize(
    ("kind", "temporary"),
    [
        *((kind, True) for kind in ("ThrottlingException", "com.amazonaws.kms#ThrottlingException", "DependencyTimeoutException")),
        *((kind, False) for kind in ("AccessDeniedException", "KMSInvalidStateException", "NotFoundException")),
    ],
)
def test_aws_throttles_with_status_400(kind: str, temporary: bool, folder: Path, make: Any) -> None:
    """So its name for the error decides, in either of its two spellings."""
    with Stub(folder, http(400, json.dumps({"__type": kind, "Message": "Rate exceeded"}))) as stub:
        said = refused(lambda: make("aws", stub.port).wrap(SECRET), temporary=temporary)
        assert said == f"AWS KMS answered HTTP 400: {kind.rpartition('#')[2]}: Rate exceeded"


def test_other_forms_of_refusal(folder: Path, make: Any) -> None:
    """OAuth's, a proxy's HTML, an empty body, and JSON that is no object or says nothing of use."""
    for body, expected in (
        ('{"error": "invalid_client", "error_description": "AADSTS7000215"}', "invalid_client: AADSTS7000215"),
        ("<html><h1>Bad\nGateway</h1></html>", "Bad Gateway"),
        ("", ""),
        ("[" * 50_000, "[" * 10),
        ('{"error": {"code": 5, "message": 6}}', ""),
        ('{"error": {"code": 403, "status": "PERMISSION_DENIED", "message": "No."}}', "PERMISSION_DENIED: No."),
    ):
        with Stub(folder, http(403, body)) as stub:
            said = refused(lambda stub=stub: make("azure", stub.port).wrap(SECRET), temporary=False)
        assert said.startswith(f"Azure Key Vault answered HTTP 403: {expected}".strip())
        assert len(said) < 330


@pytest.mark.parametrize("provider", OVER_HTTP)
@pytest.mark.parametrize("status", [200, 403])
@pytest.mark.parametrize("how", ["as it is", "in a message", "in part"])
@pytest.mark.parametrize("grants", [False, True])
def test_a_service_that_quotes_what_it_was_asked(  # noqa: PLR0917 - two fixtures, and four ways to vary
    provider: str, status: int, how: str, grants: bool, folder: Path, make: Any
) -> None:
    """No credential, token, signature or plaintext comes back in an error, and the words are cut; of a token's service as well."""
    asked: list[str] = []

    def quote(request: bytes) -> bytes:
        if grants and b"/token" in request:
            return http(200, '{"access_token": "a-bearer-token-of-some-length", "expires_in": 3600}')
        asked.append(request.decode())
        words = asked[-1][-90:-20] if how == "in part" else asked[-1].partition("\r\n\r\n")[2]
        return http(status, asked[-1] if how == "as it is" else json.dumps({"__type": "X", "message": words}))

    with Stub(folder, quote) as stub:
        said = refused(lambda: make(provider, stub.port).wrap(SECRET), temporary=False)
    head, _, body = asked[-1].partition("\r\n\r\n")
    hidden = [AWS_SECRET, AZURE_SECRET, "a-bearer-token-of-some-length"]
    hidden += re.findall("assertion=(.+)", body) + re.findall(r'"(?:Plaintext|plaintext|value)": ?"([^"]+)', body)
    hidden += re.findall("Signature=(.+)", head)
    assert [text for text in hidden if any(text[place : place + 16] in said for place in range(len(text) - 15))] == []
    assert len(said) <= 330


def test_a_service_that_knows_a_credential(folder: Path, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials are hidden wherever they come from, also those that no request contains."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIACRM")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", AWS_SECRET)
    with Stub(folder, http(403, json.dumps({"__type": "X", "message": f"{AWS_SECRET} of AKIACRM"}))) as stub:
        made = make("aws", stub.port)
        tls = {"aws": {"tlsCAFile": str(folder / "ca.pem")}}
        found = MongoCryptKMS("aws", kms_providers={"aws": {}}, master_key=made._master_key, kms_tls_options=tls)
        for kms in (made, found):
            assert refused(lambda kms=kms: kms.wrap(SECRET), temporary=False).endswith("HTTP 403: X: … of …")


@pytest.mark.parametrize("provider", OVER_HTTP)
def test_an_answer_that_is_none(provider: str, folder: Path, make: Any) -> None:
    """Not HTTP, not JSON, not what was asked for, or without end: never temporary, and not quoted."""
    for answer in (
        b"220 smtp.example.com ESMTP \r\n" * 40,
        http(200, "not JSON: PLAINTEXT"),
        http(200, '["PLAINTEXT"]'),
        http(200, '{"CiphertextBlob": 5, "PLAINTEXT": 1}'),
        http(200, '{"CiphertextBlob": "PLAINTEXT%%"}'),
        b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n" + b"PLAINTEXT" * 100_000,
    ):
        with Stub(folder, answer) as stub:
            said = refused(lambda stub=stub: make(provider, stub.port).wrap(SECRET), temporary=False)
        assert "PLAINTEXT" not in said


def test_access_denied_by_aws(services: Any, make: Any) -> None:
    """moto verifies the signature that libmongocrypt made, and the policies of the user."""
    port = services("aws").port
    refused(lambda: make("aws", port, credentials={"secretAccessKey": "another"}).wrap(SECRET), temporary=False, says="403")
    refused(lambda: make("aws", port, credentials={"accessKeyId": "AKIANOBODY"}).wrap(SECRET), temporary=False, says="403")
    wrapped = make("aws", port).wrap(SECRET)
    half = make("aws", port, credentials={"accessKeyId": "AKIAHALF"})
    refused(lambda: half.unwrap(wrapped), temporary=False, says=r"403: .*not authorized to perform: kms:Decrypt")
    refused(lambda: make("aws", port, master={"key": arn("none")}).wrap(SECRET), temporary=False, says="NotFoundException: Key")


def test_access_denied_by_the_others(services: Any, make: Any, folder: Path) -> None:
    """Azure's wrong client secret and absent key, Google's missing permission, a KMIP client without a certificate."""
    port = services("azure").port
    wrong = make("azure", port, credentials={"clientSecret": "wrong"})
    refused(lambda: wrong.wrap(SECRET), temporary=False, says="HTTP 401: invalid_client: AADSTS7000215: Invalid client secret")
    gone = make("azure", port, master={"keyVersion": "ffffffffffffffffffffffffffffffff"})
    refused(lambda: gone.wrap(SECRET), temporary=False, says="HTTP 404: KeyNotFound: A key with")
    denied = make("gcp", port, master={"keyName": "other"})
    refused(lambda: denied.wrap(SECRET), temporary=False, says="HTTP 403: PERMISSION_DENIED: Permission 'cloudkms")
    port = services("kmip").port
    refused(lambda: make("kmip", port, tls={"tlsCertificateKeyFile": None}).wrap(SECRET), temporary=False, says="no TLS in common")
    unknown = make("kmip", port, master={"keyId": "4711"})
    refused(lambda: unknown.wrap(SECRET), temporary=False, says="refused: .*Could not locate object: 4711")


def test_a_locked_certificate_key(services: Any, make: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tlsCertificateKeyFilePassword opens it; a wrong one, or none, is refused without a question on the terminal."""
    tls = {"tlsCertificateKeyFile": str(folder / "locked.pem"), "tlsCertificateKeyFilePassword": "tls-password"}
    kms = make("kmip", services("kmip").port, tls=tls)
    assert kms.unwrap(kms.wrap(SECRET)) == SECRET
    for password in ("tls-wrong", None):
        with pytest.raises(ConfigurationError, match="tlsCertificateKeyFile cannot be used") as caught:
            make("kmip", 1, tls=tls | {"tlsCertificateKeyFilePassword": password})
        assert "tls-wrong" not in str(caught.value)
    passwords: list[Any] = []
    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", lambda _, __, password=None: passwords.append(password))
    make("kmip", 1)
    assert passwords == [""]  # with None OpenSSL asks


@pytest.mark.parametrize("provider", PROVIDERS)
def test_another_key(provider: str, services: Any, make: Any, folder: Path) -> None:
    """A data key that this user may unwrap, but under another key than the configured one: refused, though the service obliges."""
    port = services(provider).port
    kms = make(provider, port)
    wrapped = kms.wrap(SECRET)
    if provider == "aws":  # in a Decrypt request the ciphertext alone says which key: an attacker's, if IAM allows it
        foreign = edited(
            make(provider, port, master={"key": arn(OTHER_KEY)}).wrap(b"attacker's"),
            lambda document: document["key"]["masterKey"].update(key=arn(KEY)),
        )
        says = "with another key than the configured one"
    elif provider == "kmip":  # the next object, which was made for something else
        made = bson.decode(kms.wrap(b"something else"))["key"]["masterKey"]["keyId"]
        foreign = edited(wrapped, lambda document: document["key"]["masterKey"].update(keyId=made))
        says = "did not unwrap this"
    else:
        kept = {name: (folder / name).read_bytes() for name in ("azure.pem", "gcp.key")}
        services(provider).stop()
        vault = rsa.generate_private_key(65537, 2048)
        pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (folder / "azure.pem").write_bytes(vault.private_bytes(*pem))
        (folder / "gcp.key").write_bytes(secrets.token_bytes(32))
        services(provider)  # has read them
        for name, content in kept.items():
            (folder / name).write_bytes(content)
        foreign = wrapped
        says = "HTTP 400"
    try:
        refused(lambda: kms.unwrap(foreign), temporary=False, says=says)
    finally:
        if provider in ("azure", "gcp"):
            services(provider).stop()  # the next test has the keys of before


def test_an_alias_or_id_of_aws(services: Any, make: Any) -> None:
    """An id is as good as an ARN. An alias works too, but which key it is for cannot be told, so it counts as public."""
    port = services("aws").port
    by_id = make("aws", port, master={"key": KEY})
    assert not by_id.public
    assert by_id.unwrap(by_id.wrap(SECRET)) == SECRET
    foreign = edited(
        make("aws", port, master={"key": OTHER_KEY}).wrap(b"attacker's"),
        lambda document: document["key"]["masterKey"].update(key=KEY),
    )
    refused(lambda: by_id.unwrap(foreign), temporary=False, says="another key")
    alias = make("aws", port, master={"key": f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/crm"})
    assert alias.public
    assert alias.unwrap(alias.wrap(SECRET)) == SECRET


@pytest.mark.parametrize("options", [{"name": "kmip:berlin"}, {"master": {"delegated": True}}, {"master": {"delegated": False}}])
def test_kmip_by_name_and_delegated(options: dict[str, Any], services: Any, make: Any) -> None:
    """A provider of a name of its own, and a key that does not leave the server; then the one that was made, by its id."""
    port = services("kmip").port
    kms = make("kmip", port, **options)
    wrapped = kms.wrap(SECRET)
    assert kms.unwrap(wrapped) == SECRET
    made = bson.decode(wrapped)["key"]["masterKey"]["keyId"]
    named = make("kmip", port, **options | {"master": options.get("master", {}) | {"keyId": made}})
    assert named.unwrap(wrapped) == SECRET
    assert named.unwrap(named.wrap(SECRET)) == SECRET
    assert named.identity["keyId"] == made


FOREIGN = {
    "aws": {"region": "us-east-1", "key": arn(OTHER_KEY), "endpoint": "kms.evil.example:443", "provider": "aws:evil"},
    "azure": {"keyVaultEndpoint": "evil.vault.azure.net", "keyName": "evil", "keyVersion": "evil", "provider": "gcp"},
    "gcp": {"projectId": "e", "location": "e", "keyRing": "e", "keyName": "e", "keyVersion": "1", "endpoint": "evil.example"},
    "kmip": {"endpoint": "kmip.evil.example:5696", "keyId": "evil-id", "delegated": True, "provider": "kmip:evil"},
}


@pytest.mark.parametrize(("provider", "entry"), [(provider, entry) for provider in PROVIDERS for entry in FOREIGN[provider]])
def test_a_redirected_key_is_refused_before_anything_is_asked(
    provider: str, entry: str, services: Any, make: Any, folder: Path
) -> None:
    """Each entry of masterKey, changed, removed or added: nobody connects, and nothing of it is shown."""
    wrapped = make(provider, services(provider).port).wrap(SECRET)
    with Stub(folder, b"") as trap:
        keyed = {"keyId": bson.decode(wrapped)["key"]["masterKey"]["keyId"]} if provider == "kmip" else {}
        kms = make(provider, trap.port, master=keyed)
        here = edited(wrapped, lambda document: document["key"]["masterKey"].update(kms.identity))
        for change in (
            {entry: f"127.0.0.1:{trap.port + 1}"},
            {entry: FOREIGN[provider][entry]},
            {entry: None},
            {"surplus": "evil"},
        ):
            redirected = edited(here, lambda document, change=change: document["key"]["masterKey"].update(change))
            said = refused(lambda redirected=redirected: kms.unwrap(redirected), temporary=False, says="redirected")
            assert "evil" not in said
            assert str(trap.port) not in said
        lacking = edited(
            here, lambda document: document["key"]["masterKey"].pop(entry, None) or document["key"]["masterKey"].popitem()
        )
        refused(lambda: kms.unwrap(lacking), temporary=False, says="redirected")
        assert trap.connections == 0
        refused(lambda: kms.unwrap(here), temporary=True)  # the trap is one: what is right does connect
        assert trap.connections == 1


def test_kmip_without_a_key_id_takes_the_stored_one_and_nothing_else(services: Any, make: Any, folder: Path) -> None:
    """The keyId that the server gave is all that may differ, and it is a plain text."""
    wrapped = make("kmip", services("kmip").port).wrap(SECRET)
    with Stub(folder, b"") as trap:
        kms = make("kmip", trap.port)
        for bad in (5, None, "", "with space", "x" * 3000, {"$ne": 1}):
            foreign = edited(wrapped, lambda document, bad=bad: document["key"]["masterKey"].update(keyId=bad))
            refused(lambda foreign=foreign: kms.unwrap(foreign), temporary=False, says="malformed")
        for more in ({"endpoint": "evil.example:5696"}, {"delegated": True}):
            foreign = edited(wrapped, lambda document, more=more: document["key"]["masterKey"].update(more))
            refused(lambda foreign=foreign: kms.unwrap(foreign), temporary=False, says="redirected")
        assert trap.connections == 0
    unknown = edited(wrapped, lambda document: document["key"]["masterKey"].update(keyId="<evil>"))
    said = refused(lambda: make("kmip", services("kmip").port).unwrap(unknown), temporary=False, says="Could not locate object: …$")
    assert "evil" not in said


def test_what_is_not_of_the_form_is_refused_before_anything_is_asked(services: Any, make: Any, folder: Path) -> None:
    """Names, types, order and lengths are those of `wrap`, to the byte."""
    wrapped = make("kmip", services("kmip").port).wrap(SECRET)
    other = Binary(bytes(16), 4)

    def put(place: str, value: Any) -> Callable[[dict[str, Any]], object]:
        return lambda document: (document["key"] if place in document["key"] else document).update({place: value})

    changes: list[Callable[[dict[str, Any]], object]] = [
        *(put("_id", value) for value in (other, bytes(16), Binary(bytes(15), 4), Binary(bytes(16), 3), "x", None)),
        *(put("keyMaterial", value) for value in (Binary(b"x", 5), "x", None)),
        *(put("data", value) for value in (b"", Binary(b"", 6), Binary(b"\1" * 99, 6), "x", None, {})),
        *(put("status", value) for value in (1, 0.0, False, None)),
        *(put("updateDate", value) for value in (None, 5)),
        *(put("key", value) for value in (None, [], {}, {"masterKey": None})),
        put("keyMaterial", bytes(20_000)),
        put("surplus", 1),
        lambda document: document["key"].update(keyAltNames=["x"]),
        lambda document: document.update(key=document.pop("key")),  # in another order
        lambda document: document["key"].pop("creationDate"),
    ]
    deep = bson.encode({})
    for name in [*(["x"] * 1_500), "masterKey", "key"]:  # deeper than Python goes
        deep = (len(deep) + len(name) + 7).to_bytes(4, "little") + b"\3" + name.encode() + b"\0" + deep + b"\0"
    with Stub(folder, b"") as trap:
        kms = make("kmip", trap.port)
        for change in changes:
            bad = edited(wrapped, change)
            assert bad != wrapped
            refused(lambda bad=bad: kms.unwrap(bad), temporary=False, says="malformed")
        for bad in (
            b"",
            wrapped[:-1],
            wrapped + b"\0",
            b"\0" * 20_000,
            bson.encode({"key": {"masterKey": {}}, "x": "x" * 20_000}),
            deep,
        ):
            refused(lambda bad=bad: kms.unwrap(bad), temporary=False, says="malformed")
        assert trap.connections == 0


@pytest.mark.parametrize(("provider", "examples"), [("aws", 40), ("azure", 40), ("gcp", 40), ("kmip", 150)])
def test_a_corrupted_blob(provider: str, examples: int, services: Any, make: Any) -> None:
    """A flipped byte, or an end that is missing: always a `KMSError` that is not temporary, never another secret."""
    kms = make(provider, services(provider).port)
    wrapped = kms.wrap(SECRET)

    @settings(max_examples=examples, deadline=None, database=None)
    @given(st.integers(0, len(wrapped) - 1), st.integers(1, 255), st.booleans())
    def corrupt(place: int, flip: int, cut: bool) -> None:
        flipped = wrapped[:place] + bytes([wrapped[place] ^ flip]) + wrapped[place + 1 :]
        refused(lambda: kms.unwrap(wrapped[:place] if cut else flipped), temporary=False)

    corrupt()
    assert kms.unwrap(wrapped) == SECRET


def test_any_bytes(make: Any) -> None:
    """Whatever bytes there are, they are refused with the one error."""
    kms = make("kmip", 1)

    @settings(max_examples=200, deadline=None, database=None)
    @given(st.binary(max_size=400))
    def refuse(some: bytes) -> None:
        refused(lambda: kms.unwrap(some), temporary=False, says="malformed")

    refuse()


def test_many_threads(services: Any, make: Any) -> None:
    """One object serves them all."""
    kms = make("kmip", services("kmip").port, timeout=30)
    given_to_wrap = [secrets.token_bytes(68) for _ in range(16)]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(kms.unwrap, threads.map(kms.wrap, given_to_wrap))) == given_to_wrap


def test_mongodb_itself_can_read_it(services: Any, make: Any, folder: Path, client: MongoClient[Any]) -> None:
    """With the data key document in a key vault, pymongo decrypts what was wrapped, with the same documents."""
    port = services("kmip").port
    wrapped = bson.decode(make("kmip", port).wrap(SECRET))
    vault = client[f"key_vault_{port}"].keys
    vault.insert_one(wrapped["key"])
    tls = {"kmip": {"tlsCAFile": str(folder / "ca.pem"), "tlsCertificateKeyFile": str(folder / "client.pem")}}
    providers = {"kmip": {"endpoint": f"localhost:{port}"}}
    with ClientEncryption(providers, vault.full_name, client, CodecOptions(), kms_tls_options=tls) as encryption:
        assert encryption.decrypt(wrapped["data"]) == SECRET
    client.drop_database(vault.database.name)


def test_too_much_to_wrap(make: Any, folder: Path) -> None:
    """257 bytes are refused without a request."""
    with Stub(folder, b"") as trap:
        refused(lambda: make("aws", trap.port).wrap(bytes(257)), temporary=False, says="at most 256 bytes")
        assert trap.connections == 0


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_server_that_is_somebody_else(provider: str, folder: Path, make: Any) -> None:
    """A certificate of another authority or for another host, and no TLS at all: not temporary, and nothing is sent."""
    with Stub(folder, http(200, "{}")) as stub:
        refused(lambda: make(provider, stub.port, tls={"tlsCAFile": str(folder / "other-ca.pem")}).wrap(SECRET),
                temporary=False, says="certificate is not valid: unable to get local issuer")  # fmt: skip
        refused(
            lambda: make(provider, stub.port, tls={"tlsCAFile": None}).wrap(SECRET),
            temporary=False,
            says="certificate is not valid",
        )
        assert stub.context
        stub.context.load_cert_chain(folder / "elsewhere.pem")
        refused(lambda: make(provider, stub.port).wrap(SECRET), temporary=False, says="certificate is not valid: .*mismatch")
        if provider != "kmip":  # whose endpoint is localhost here
            stub.context.load_cert_chain(folder / "localhost.pem")
            refused(lambda: make(provider, stub.port).wrap(SECRET), temporary=False, says="certificate is not valid: .*mismatch")
        assert stub.requests == []
    with Stub(folder, b"HTTP/1.1 400 Bad Request\r\n\r\n", tls=False) as stub:
        refused(lambda: make(provider, stub.port).wrap(SECRET), temporary=False, says="no TLS in common")


def test_tls_is_verified_and_new_enough(make: Any) -> None:
    """TLS 1.2 is the least, and certificates and names are looked at."""
    context = make("aws", 1)._tls
    assert (context.minimum_version, context.verify_mode, context.check_hostname) == (
        ssl.TLSVersion.TLSv1_2,
        ssl.CERT_REQUIRED,
        True,
    )


def test_names_that_are_not_found(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that says no, one that never says anything, and a name that can be none."""
    kms = make("kmip", 1, credentials={"endpoint": "kms.invalid:1"}, timeout=0.3)

    def no(*_: object, **__: object) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no)
    refused(lambda: kms.wrap(SECRET), temporary=True, says=r"is not found at kms\.invalid:1: Name or service not known")
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(20))
    start = time.monotonic()
    refused(lambda: kms.wrap(SECRET), temporary=True, says="did not answer")
    assert time.monotonic() - start < 1.3
    over.set()
    monkeypatch.undo()
    long = make("kmip", 1, credentials={"endpoint": "x" * 70 + ".invalid:1"})
    refused(lambda: long.wrap(SECRET), temporary=False, says="is not found")


@pytest.mark.parametrize(
    "how", ["refuses", pytest.param("is silent", marks=pytest.mark.skipif(sys.platform != "linux", reason="a full queue of Linux"))]
)
def test_the_next_address_is_tried(how: str, services: Any, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with a dead address before the living one: it refuses, or is silent, which costs its share of the time."""
    port, look_up = services("kmip").port, socket.getaddrinfo
    kms = make("kmip", port, credentials={"endpoint": f"127.0.0.1:{port}"}, timeout=3)
    wrapped = kms.wrap(SECRET)
    with socket.socket() as dead, socket.socket() as one, socket.socket() as another:
        dead.bind(("127.0.0.1", 0))
        if how == "is silent":
            dead.listen(0)
            for waiting in (one, another):  # the queue is full: the next is not answered
                waiting.setblocking(False)
                waiting.connect_ex(dead.getsockname())
        first = dead.getsockname()[1]
        monkeypatch.setattr(
            socket, "getaddrinfo", lambda host, _, **more: look_up(host, first, **more) + look_up(host, port, **more)
        )
        start = time.monotonic()
        assert kms.unwrap(wrapped) == SECRET
        assert (how == "refuses") is (time.monotonic() - start < 1.5)


def test_no_time_left(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time that has run out between two steps is the time-out too."""
    kms, clock = make("aws", 1), iter([0.0, 99.0])
    monkeypatch.setattr("mongo_envelope.kms.mongocrypt.time", type("Clock", (), {"monotonic": staticmethod(lambda: next(clock))}))
    refused(lambda: kms.wrap(SECRET), temporary=True, says="did not answer at 127.0.0.1:1 within 5 s")


class TestCredentialsFromTheEnvironment:
    """``{}`` as credentials: what pymongo finds."""

    def test_aws(self, services: Any, folder: Path, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of the environment variables."""
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIACRM")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", AWS_SECRET)
        made = make("aws", services("aws").port)
        tls = {"aws": {"tlsCAFile": str(folder / "ca.pem")}}
        kms = MongoCryptKMS("aws", kms_providers={"aws": {}}, master_key=made._master_key, kms_tls_options=tls)
        assert kms.unwrap(made.wrap(SECRET)) == SECRET
        assert made.unwrap(kms.wrap(SECRET)) == SECRET

    def test_gcp(self, services: Any, folder: Path, make: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Of the machine's metadata service, here the same server without TLS."""
        for name in ("azure.pem", "gcp.pub", "gcp.key"):
            shutil.copy(folder / name, tmp_path)
        (tmp_path / "plain").touch()
        metadata = Service("cloud", tmp_path)
        try:
            monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{metadata.port}")
            made = make("gcp", services("gcp").port)
            tls = {"gcp": {"tlsCAFile": str(folder / "ca.pem")}}
            kms = MongoCryptKMS("gcp", kms_providers={"gcp": {}}, master_key=made._master_key, kms_tls_options=tls)
            assert kms.unwrap(made.wrap(SECRET)) == SECRET
        finally:
            metadata.stop()

    def test_azure(self, services: Any, folder: Path, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its metadata service has a fixed address, so pymongo's answer is put in its place."""
        monkeypatch.setattr(
            "pymongocrypt.synchronous.credentials._get_azure_credentials", lambda: {"accessToken": "azure-token"}
        )  # fmt: skip
        made = make("azure", services("azure").port)
        tls = {"azure": {"tlsCAFile": str(folder / "ca.pem")}}
        kms = MongoCryptKMS("azure", kms_providers={"azure": {}}, master_key=made._master_key, kms_tls_options=tls)
        assert kms.unwrap(made.wrap(SECRET)) == SECRET

    def test_none_in_time(self, folder: Path, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """A metadata service that says nothing costs the time-out; one that refuses is told from it by nobody."""
        with Stub(folder, None, tls=False) as stub:
            monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{stub.port}")
            kms = MongoCryptKMS("gcp", kms_providers={"gcp": {}}, master_key=make("gcp", 1)._master_key, timeout=0.3)
            start = time.monotonic()
            refused(lambda: kms.wrap(SECRET), temporary=True, says=r"found no credentials for GCP KMS .* within 0\.3 s")
            assert time.monotonic() - start < 1.3
        refused(lambda: kms.wrap(SECRET), temporary=True, says="found no credentials")


CREDENTIALS = {"accessKeyId": "AKIACRM", "secretAccessKey": AWS_SECRET}
MASTER = {"region": REGION, "key": arn(KEY)}
AWS: dict[str, Any] = {"provider": "aws", "kms_providers": {"aws": CREDENTIALS}, "master_key": MASTER}
KMIP: dict[str, Any] = {"provider": "kmip", "kms_providers": {"kmip": {"endpoint": "localhost:5696"}}}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (AWS | {"provider": "local", "kms_providers": {"local": {"key": bytes(96)}}}, "use LocalKMS"),
        (AWS | {"provider": "ibm"}, "unknown provider 'ibm': there are aws, azure, gcp, kmip"),
        (AWS | {"provider": "aws:berlin"}, "kms_providers has no entry 'aws:berlin'"),
        (AWS | {"kms_providers": {}}, "kms_providers has no entry 'aws'"),
        (AWS | {"kms_providers": {"aws": "x"}}, "not a mapping"),
        (AWS | {"kms_providers": {"aws": {"accessKeyId": "AKIACRM"}}}, "'secretAccessKey'"),
        (AWS | {"kms_providers": {"aws": CREDENTIALS | {"secretAccessKey": 5}}}, "expected UTF-8 secretAccessKey"),
        (AWS | {"provider": "aws:b", "kms_providers": {"aws:b": {}}}, "On-demand credentials are not supported for named"),
        (AWS | {"kms_providers": {"aws": CREDENTIALS | {"surplus": "x"}}}, "surplus"),
        (AWS | {"master_key": None}, "master_key for aws needs region, key"),
        (AWS | {"master_key": {"region": REGION}}, "master_key for aws needs key"),
        (AWS | {"master_key": MASTER | {"keyName": "x"}}, "master_key for aws has no keyName: it has region, key, endpoint"),
        (AWS | {"master_key": MASTER | {"key": 5}}, "key is a text"),
        (AWS | {"master_key": MASTER | {"key": ""}}, "key is a text"),
        (AWS | {"master_key": MASTER | {"region": "eu.evil/"}}, "region is one like"),
        (AWS | {"master_key": MASTER | {"endpoint": "user@kms.example"}}, "endpoint is a host"),
        (AWS | {"master_key": MASTER | {"endpoint": "kms.example:99999"}}, "endpoint is a host"),
        (AWS | {"master_key": MASTER | {"endpoint": "localhost"}}, "expected dot separator"),
        (AWS | {"timeout": 0}, "timeout"),
        (AWS | {"timeout": float("inf")}, "timeout"),
        (AWS | {"timeout": "5"}, "timeout"),
        (KMIP | {"kms_providers": {"kmip": {}}}, "'endpoint'"),
        (KMIP | {"kms_providers": {"kmip": {"endpoint": "localhost:five"}}}, "endpoint is a host, or host:port"),
        (KMIP | {"master_key": {"delegated": "yes"}}, "delegated is True or False"),
        (KMIP | {"kms_tls_options": {"kmip": "ca.pem"}}, "not a mapping"),
        (KMIP | {"kms_tls_options": {"kmip": {"tlsInsecure": True}}}, "tlsInsecure is refused"),
        (KMIP | {"kms_tls_options": {"kmip": {"tlsAllowInvalidCertificates": True}}}, "tlsAllowInvalidCertificates is refused"),
        (KMIP | {"kms_tls_options": {"kmip": {"tlsAllowInvalidHostnames": True}}}, "tlsAllowInvalidHostnames is refused"),
        (KMIP | {"kms_tls_options": {"kmip": {"tls": False}}}, "tls cannot be switched off"),
        (KMIP | {"kms_tls_options": {"kmip": {"tlsCrlFile": "x"}}}, "unknown or unsupported: tlsCrlFile"),
        (KMIP | {"kms_tls_options": {"kmip": {"tlsCAFile": "/nowhere.pem"}}}, "tlsCAFile or tlsCertificateKeyFile cannot be used"),
    ],
)
def test_what_is_refused_when_it_is_built(options: dict[str, Any], says: str) -> None:
    """A `ConfigurationError` says what is missing or does not fit, without a credential."""
    with pytest.raises(ConfigurationError, match=re.escape(says)) as caught:
        MongoCryptKMS(options["provider"], **{name: value for name, value in options.items() if name != "provider"})
    assert AWS_SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_a_private_key_that_is_none(make: Any) -> None:
    """Google's is tried when the object is built; the error has nothing of it."""
    key = base64.b64encode(b"this is no private key").decode()
    with pytest.raises(ConfigurationError, match=r"^gcp: .*Failed to create GCP oauth request signature$") as caught:
        make("gcp", 1, credentials={"privateKey": key})
    assert key not in str(caught.value)


def test_what_is_taken_as_pymongo_takes_it() -> None:
    """Endpoints with a protocol and a path, options that change nothing, and documents of other providers beside ours."""
    kms = MongoCryptKMS(
        "aws",
        kms_providers={"aws": CREDENTIALS, "local": {"key": bytes(96)}},
        master_key=MASTER | {"endpoint": "https://kms.eu-central-1.amazonaws.com/"},
        kms_tls_options={"kmip": {"tlsInsecure": True}, "aws": {"tls": True, "tlsInsecure": False}},
    )
    assert kms.identity == {"provider": "aws", **MASTER, "endpoint": "kms.eu-central-1.amazonaws.com"}


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The class is there; using it names what to install."""
    monkeypatch.setitem(sys.modules, "pymongocrypt", None)
    monkeypatch.delitem(sys.modules, "pymongocrypt.mongocrypt", raising=False)
    with pytest.raises(ConfigurationError, match=r'pymongocrypt is not installed: pip install "mongo-envelope\[kms\]"'):
        MongoCryptKMS("aws", kms_providers={"aws": CREDENTIALS}, master_key=MASTER)


def test_no_secret_is_on_the_disk(folder: Path, services: Any, make: Any) -> None:
    """The servers of these tests have seen data keys and never the secret: it is in none of their files, nor in ours."""
    for provider in PROVIDERS:
        make(provider, services(provider).port).wrap(SECRET)
    found = [path for path in folder.rglob("*") if path.is_file() and SECRET[:16] in path.read_bytes()]
    assert found == []
