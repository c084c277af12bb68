"""A key-encryption key in HashiCorp Vault (or OpenBao): a key of a Transit engine, which encrypts and decrypts and keeps the key.

    GET  /v1/<mount>/keys/<key>                                once, before the first wrap: is it of a kind that will do?
    POST /v1/<mount>/encrypt/<key>  {"plaintext": base64}      wrapped = the ciphertext, "vault:v<version>:<base64>", as ASCII
    POST /v1/<mount>/decrypt/<key>  {"ciphertext": …}

The requests go out through hvac, one at a time, and are not repeated: that is the key store's business.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import ipaddress
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from mongo_envelope import primitives
from mongo_envelope.errors import ConfigurationError, KMSError

from .asking import Credential, bounded, check_timeout, extra

__all__ = ["VaultKMS"]

#: Kinds of Transit keys that encrypt with authentication, under 256 bits that Vault alone has.
_KINDS: Final = ("aes256-gcm96", "chacha20-poly1305", "xchacha20-poly1305")
_CIPHERTEXT: Final = re.compile(r"vault:v[0-9]{1,10}:[A-Za-z0-9+/]{1,4000}={0,2}", re.ASCII)
_NAME: Final = re.compile(r"(?!\.{1,2}(/|$))[A-Za-z0-9_.-]+(/(?!\.{1,2}(/|$))[A-Za-z0-9_.-]+)*", re.ASCII)
_WORDS: Final = 300


class VaultKMS(primitives.NeverLeaves):
    """A symmetric key of a Transit engine, by its name. Needs the extra ``vault``.

    ``VaultKMS("https://vault.example.com:8200", key="shop")``. Vault is first asked by `wrap` or `unwrap`.
    """

    __slots__ = (
        "_cert",
        "_checked",
        "_credential",
        "_hvac",
        "_key",
        "_mount",
        "_namespace",
        "_requests",
        "_timeout",
        "_url",
        "_verify",
    )

    def __init__(
        self,
        url: str,
        *,
        key: str,
        token: str | Callable[[], str] | None = None,
        mount_point: str = "transit",
        namespace: str | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        client_cert: str | tuple[str, str] | None = None,
        timeout: float = 5.0,
    ) -> None:
        """Name the server, https unless it is this machine, and the key. ``token``: or what gives it; default: ``VAULT_TOKEN``.

        ``namespace``: of Vault Enterprise; ``ca_file``: PEM of who signed the server's certificate (default: the usual ones);
        ``client_cert``: PEM of a certificate and its key, or of both apart; ``timeout``: seconds for a whole call. Raise
        `ConfigurationError`.
        """
        self._hvac: Final = extra("hvac", "vault")
        self._requests: Final = extra("requests", "vault")  # by which hvac sends
        self._url: Final = _server(url)
        for name, value in (("key", key), ("mount_point", mount_point)):
            if not isinstance(value, str) or not _NAME.fullmatch(value) or (name == "key" and "/" in value):
                raise ConfigurationError(f"{name}= is a name of letters, digits, _, . and -, as it stands in Vault's paths")
        if namespace is not None and (not isinstance(namespace, str) or not _NAME.fullmatch(namespace.rstrip("/"))):
            raise ConfigurationError("namespace= is the path of a namespace of Vault Enterprise")
        files = (client_cert,) if isinstance(client_cert, str) else client_cert or ()
        for file in (*files, *([] if ca_file is None else [ca_file])):
            if not Path(file).is_file():
                raise ConfigurationError(f"there is no file {str(file)!r}, which ca_file= or client_cert= names")
        self._key: Final = key
        self._mount: Final = mount_point
        self._namespace: Final = namespace
        self._verify: Final = True if ca_file is None else os.fspath(ca_file)
        self._cert: Final = client_cert
        self._timeout: Final = check_timeout(timeout)
        self._credential: Final = Credential("token", token, "VAULT_TOKEN")
        self._checked = False

    @property
    def identity(self) -> Mapping[str, Any]:
        """``{"provider": "vault", "url": …, "mount": …, "key": …}`` and, if there is one, ``"namespace"``."""
        place = {"provider": "vault", "url": self._url, "mount": self._mount, "key": self._key}
        return place if self._namespace is None else {**place, "namespace": self._namespace}

    @property
    def public(self) -> bool:
        """No: who wraps has a token of Vault's. Keys of an asymmetric kind are refused."""
        return False

    def wrap(self, secret: bytes) -> bytes:
        """The secret, encrypted by Vault. Raise `KMSError`, or `ConfigurationError` if the key is not of a kind that will do."""
        plaintext = base64.b64encode(secret).decode()

        def call() -> bytes:
            until = time.monotonic() + self._timeout
            if not self._checked:
                self._check(until)
                self._checked = True
            ciphertext = self._asked("encrypt", until, "ciphertext", plaintext=plaintext)
            if not _CIPHERTEXT.fullmatch(ciphertext):
                raise KMSError(f"{self!r}: the answer is not one of Vault's")
            return ciphertext.encode()

        return bounded(call, self._timeout, repr(self))

    def unwrap(self, wrapped: bytes) -> bytes:
        """The secret, decrypted by Vault. Raise as `wrap` does, also for what was not wrapped by this key, or was changed."""
        ciphertext = wrapped.decode("ascii", "replace")
        if not _CIPHERTEXT.fullmatch(ciphertext):
            raise KMSError(f"this was not wrapped by {self!r}, or was changed since")

        def call() -> bytes:
            plaintext = self._asked("decrypt", time.monotonic() + self._timeout, "plaintext", ciphertext=ciphertext)
            try:
                return base64.b64decode(plaintext, validate=True)
            except (binascii.Error, ValueError):
                pass
            raise KMSError(f"{self!r}: the answer is not one of Vault's")

        return bounded(call, self._timeout, repr(self))

    def __repr__(self) -> str:
        return f"VaultKMS({self._url!r}, key={self._key!r}, mount_point={self._mount!r})"

    def _check(self, until: float) -> None:
        """Whether the key is of a kind that will do. It is asked before the first wrap, so that no RSA key gets a secret."""
        found = self._sent("keys", until)
        kind, derived = found.get("type"), found.get("derived")
        if kind not in _KINDS or derived:
            what = kind if isinstance(kind, str) and re.fullmatch(r"[a-z0-9-]{1,40}", kind) else "unknown"
            raise ConfigurationError(
                f"{self!r}: a key of the kind {what}{' that is derived' if derived else ''} does not wrap a key store; "
                f"{', '.join(_KINDS)} do: vault write -f {self._mount}/keys/NAME type=aes256-gcm96"
            )

    def _asked(self, verb: str, until: float, name: str, **data: str) -> str:
        value = self._sent(verb, until, **data).get(name)
        if not isinstance(value, str):
            raise KMSError(f"{self!r}: the answer is not one of Vault's")
        return value

    def _sent(self, verb: str, until: float, **data: str) -> dict[str, Any]:
        """The ``data`` of an answer. Every error is told here."""
        token = self._credential.get()
        if not token or not token.isascii() or not token.isprintable():
            raise ConfigurationError("token= is a text of printable ASCII characters, without a line feed at its end")
        failed, temporary, answer = "", False, None
        errors = self._requests.exceptions
        try:
            answer = self._request(verb, token, until, data)
        except errors.SSLError as error:
            temporary = "EOF" in str(error)  # cut off in the middle; anything else is about certificates
            failed = "the TLS connection broke off" if temporary else "the server's certificate, or ours, is refused"
        except (errors.ConnectionError, errors.Timeout, errors.ChunkedEncodingError) as error:
            failed, temporary = f"cannot be reached, or broke off ({type(error).__name__})", True
        except (errors.RequestException, OSError, ValueError) as error:
            failed = f"the request could not be sent ({type(error).__name__})"
        if failed or answer is None:
            raise KMSError(f"{self!r}: {failed}", temporary=temporary)
        return self._content(verb, answer, (token, *data.values()))

    def _request(self, verb: str, token: str, until: float, data: dict[str, str]) -> Any:
        left = max(until - time.monotonic(), 0.001)
        with self._requests.Session() as session:
            session.cert, session.verify = self._cert, self._verify
            transit = self._hvac.Client(
                url=self._url,
                token=token,
                verify=self._verify,
                timeout=left,
                allow_redirects=False,  # the token goes to nobody else
                session=session,
                adapter=self._hvac.adapters.RawAdapter,
                namespace=self._namespace,
                ignore_exceptions=True,  # the status says more
            ).secrets.transit
            ask = {"keys": transit.read_key, "encrypt": transit.encrypt_data, "decrypt": transit.decrypt_data}[verb]
            return ask(name=self._key, mount_point=self._mount, **data)

    def _content(self, verb: str, answer: Any, secrets: tuple[str, ...]) -> dict[str, Any]:
        content, status = None, answer.status_code
        with contextlib.suppress(ValueError):  # not JSON, or not text
            content = answer.json()
        content = content if isinstance(content, dict) else {}
        if status == 200 and isinstance(content.get("data"), dict):
            found: dict[str, Any] = content["data"]
            return found
        if status in (301, 302, 303, 307, 308):
            raise KMSError(f"{self!r}: it refers us elsewhere, and no redirect is followed: url= is that of the active node")
        if verb == "keys" and status == 404:
            raise ConfigurationError(f"{self!r}: no such key: vault write -f {self._mount}/keys/{self._key} type=aes256-gcm96")
        if verb == "keys" and status == 403:
            raise ConfigurationError(
                f"{self!r}: the kind of the key cannot be read. The token is not valid, or its policy lacks "
                f'path "{self._mount}/keys/{self._key}" {{ capabilities = ["read"] }}'
            )
        if status == 200:
            raise KMSError(f"{self!r}: the answer is not one of Vault's")
        words = content.get("errors")
        said = "; ".join(each for each in words if isinstance(each, str)) if isinstance(words, list) else ""
        for secret in secrets:
            said = said.replace(secret, "…")
        said = "".join(each if each.isprintable() else " " for each in said)[:_WORDS]
        raise KMSError(f"{self!r}: status {status}{said and ': ' + said}", temporary=status == 429 or status >= 500)


def _server(url: str) -> str:
    """The address of a server, as given but for a slash at its end. Raise `ConfigurationError`; a password in it is not shown."""
    parts: SplitResult | None = None
    if isinstance(url, str) and url.isascii() and url.isprintable() and " " not in url:
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError:
            parts = None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigurationError("url= is the address of a Vault server: https://vault.example.com:8200")
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError("url= has a user or a password in it: Vault takes a token, token=")
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise ConfigurationError("url= must be https: over http anybody on the way reads the token and the secret")
    return url.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
