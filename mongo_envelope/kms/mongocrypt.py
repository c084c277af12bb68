"""AWS KMS, Azure Key Vault, GCP KMS and KMIP, by libmongocrypt and with the documents that MongoDB's users already have.

libmongocrypt builds and signs the requests and reads the answers; what is here is what a driver does for it: sockets, within a
time. There is no key vault collection and no client. What is wrapped is BSON::

    {key: <a data key document, as in a key vault: _id, keyMaterial, creationDate, updateDate, status, masterKey>,
     data: <the secret, encrypted with that data key: AEAD_AES_256_CBC_HMAC_SHA_512-Random, binary subtype 6>}

The data key is 96 random bytes of libmongocrypt's own (from the operating system's generator), made for this one secret, and
wrapped by the service. To encrypt with it libmongocrypt has the service unwrap it again: `wrap` is two requests, needs both
permissions, and has verified that the service gives back what it took.

Where a request goes never depends on what is stored: the stored ``masterKey`` must equal the configured one, byte for byte, and
libmongocrypt is given the configured one. (The one exception is the ``keyId`` of a KMIP object that the server made: where none is
configured, the stored one is all there is.) AWS alone does not say in a Decrypt request which key is meant, so the key in its
answer must be the configured one.

Sources: https://github.com/mongodb/libmongocrypt (integrating.md; src/mongocrypt-kek.c for the names and their order),
https://www.mongodb.com/docs/manual/core/csfle/reference/kms-providers/.
"""

from __future__ import annotations

import contextlib
import copy
import http.client
import io
import json
import re
import socket
import ssl
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NoReturn, TypeVar

import bson
from bson.binary import Binary
from bson.errors import BSONError

from mongo_envelope import aside
from mongo_envelope.errors import ConfigurationError, KMSError

from .asking import extra

__all__ = ["MongoCryptKMS"]

Result = TypeVar("Result")
#: What works in the background is called.
_THREAD: Final = "mongo_envelope.kms"

#: The entries of a masterKey in the order in which libmongocrypt writes them, and those without which there is none.
_ENTRIES: Final = {
    "aws": ("region", "key", "endpoint"),
    "azure": ("keyVaultEndpoint", "keyName", "keyVersion"),
    "gcp": ("projectId", "location", "keyRing", "keyName", "keyVersion", "endpoint"),
    "kmip": ("endpoint", "delegated", "keyId"),
}
_REQUIRED: Final = {
    "aws": ("region", "key"),
    "azure": ("keyVaultEndpoint", "keyName"),
    "gcp": ("projectId", "location", "keyRing", "keyName"),
    "kmip": (),
}
_SERVICES: Final = {"aws": "AWS KMS", "azure": "Azure Key Vault", "gcp": "GCP KMS", "kmip": "the KMIP server"}

_ENDPOINT: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?")
_PLAIN_TEXT: Final = re.compile(r"[!-~]{1,2048}")

#: Entries of kms_providers that are no secrets: the service's own words may have them.
_NOT_SECRET: Final = frozenset({"clientId", "email", "endpoint", "identityPlatformEndpoint", "tenantId"})
#: What stands in a request of ours and has no business in a message.
_IN_HEADERS: Final = re.compile(rb"(?im)^(?:authorization|x-amz-security-token):[ ]*(?:bearer )?([^\r\n]+)")
_IN_BODY: Final = ("Plaintext", "CiphertextBlob", "plaintext", "ciphertext", "value", "client_secret", "assertion")

_CLOSED: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
_TEMPORARY_STATUS: Final = frozenset({408, 429, 500, 502, 503, 504, 509})
#: AWS throttles with status 400. https://docs.aws.amazon.com/kms/latest/APIReference/CommonErrors.html
_TEMPORARY_AWS: Final = frozenset(
    {"ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded", "DependencyTimeoutException"}
)

_MALFORMED: Final = "the wrapped key is malformed"

_MOST_SECRET = 256
_MOST_WRAPPED = 16 * 1024
_MOST_ANSWERED = 64 * 1024
_MOST_WORDS = 300
_ALGORITHM: Final = "AEAD_AES_256_CBC_HMAC_SHA_512-Random"
#: How such a ciphertext begins: the kind, the data key's id, and the BSON type of what is inside. Binary subtype 6 of BSON.
_RANDOM, _BINARY_TYPE = 2, 5


class MongoCryptKMS:
    """A key of AWS KMS, Azure Key Vault, GCP KMS or a KMIP server. Needs the extra ``kms``.

    The documents are those of ``AutoEncryptionOpts`` and ``ClientEncryption.create_data_key`` in pymongo::

        MongoCryptKMS(
            "aws",
            kms_providers={"aws": {"accessKeyId": "…", "secretAccessKey": "…"}},  # {"aws": {}}: from the environment, as in pymongo
            master_key={"region": "eu-central-1", "key": "arn:aws:kms:eu-central-1:111122223333:key/…"},
        )
        MongoCryptKMS(
            "azure",
            kms_providers={"azure": {"tenantId": "…", "clientId": "…", "clientSecret": "…"}},
            master_key={"keyVaultEndpoint": "crm.vault.azure.net", "keyName": "mongo-envelope", "keyVersion": "…"},
        )
        MongoCryptKMS(
            "gcp",
            kms_providers={"gcp": {"email": "…@….iam.gserviceaccount.com", "privateKey": "…"}},
            master_key={"projectId": "crm", "location": "europe-west3", "keyRing": "crm", "keyName": "mongo-envelope"},
        )
        MongoCryptKMS(
            "kmip",  # or a name of its own: "kmip:berlin"
            kms_providers={"kmip": {"endpoint": "kmip.example.com:5696"}},
            master_key={"keyId": "…"},  # {}: the first wrap has the server make one, and so does each further wrap
            kms_tls_options={"kmip": {"tlsCAFile": "ca.pem", "tlsCertificateKeyFile": "client.pem"}},
        )

    ``timeout`` is in seconds, for everything that one call does: names, connections, handshakes and answers. Nothing is tried
    twice. TLS is 1.2 or later, and the service's certificate is verified against ``tlsCAFile`` or the system's authorities;
    revocation is checked by nobody. Of ``kms_tls_options`` there are ``tls``, ``tlsCAFile``, ``tlsCertificateKeyFile`` and
    ``tlsCertificateKeyFilePassword``; whatever weakens TLS is refused.

    Raise `ConfigurationError` if something is missing, unknown or does not fit; nothing is asked of the service then.
    """

    def __init__(
        self,
        provider: str,
        *,
        kms_providers: Mapping[str, Any],
        master_key: Mapping[str, Any] | None = None,
        kms_tls_options: Mapping[str, Any] | None = None,
        timeout: float = 5.0,
    ) -> None:
        kind = provider.partition(":")[0]
        if kind == "local":
            raise ConfigurationError('provider "local" keeps its key in the program: use LocalKMS')
        if kind not in _ENTRIES:
            raise ConfigurationError(f"unknown provider {provider!r}: there are {', '.join(_ENTRIES)}")
        if provider not in kms_providers:
            raise ConfigurationError(f"kms_providers has no entry {provider!r}")
        if not isinstance(timeout, int | float) or not 0 < timeout < float("inf"):
            raise ConfigurationError("timeout is in seconds, and more than 0")
        self._mongocrypt = extra("pymongocrypt.mongocrypt", "kms")
        self._provider, self._kind, self._timeout = provider, kind, float(timeout)
        self._master_key = _master_key(kind, master_key)
        if not isinstance(kms_providers[provider], Mapping):
            raise ConfigurationError(f"kms_providers[{provider!r}] is not a mapping")
        self._credentials: dict[str, Any] = copy.deepcopy(dict(kms_providers[provider]))
        for name in self._credentials:
            if name in ("endpoint", "identityPlatformEndpoint"):
                _entry(name, self._credentials[name])
        self._on_demand = kind == provider != "kmip" and not self._credentials
        self._tls = _tls(provider, (kms_tls_options or {}).get(provider) or {})
        self._check()

    @property
    def identity(self) -> Mapping[str, Any]:
        """``{"provider": …}`` and the entries of ``master_key``, as libmongocrypt writes them: an endpoint is a host and a port."""
        return {"provider": self._provider, **self._master_key}

    @property
    def public(self) -> bool:
        """Whether somebody else can make what `unwrap` takes.

        True for Azure: libmongocrypt wraps with RSA-OAEP-256 there, and the public half is no secret. True for an alias of AWS KMS:
        the answer to Decrypt names the key and not the alias, so that a key of another account would not be noticed. True for KMIP
        without a ``keyId``: which object is used is then said by what is stored.
        """
        kind, key = self._kind, self._master_key
        return kind == "azure" or (kind == "aws" and "alias/" in key["key"]) or (kind == "kmip" and "keyId" not in key)

    def wrap(self, secret: bytes) -> bytes:
        """Encrypt at most 256 bytes: BSON, some hundred bytes longer. Two requests, and one for a token where that is wanted.

        Raise `KMSError`. With KMIP and no ``keyId`` the server makes an object for each call, also for one that fails later on.
        """
        if len(secret) > _MOST_SECRET:
            raise KMSError(f"at most {_MOST_SECRET} bytes can be wrapped")
        asking = self._asking()

        def work(encrypter: Any) -> bytes:
            key_id = encrypter.create_data_key(self._provider, dict(self._master_key))
            value = encrypter.encrypt(bson.encode({"v": Binary(secret)}), _ALGORITHM, key_id=key_id)
            return bytes(bson.decode(value)["v"])

        data = self._run(asking, work, "could not wrap: its answer does not fit")
        wrapped = bson.encode({"key": bson.decode(asking.key), "data": Binary(data, 6)})
        self._parse(wrapped)  # what was written can be read
        return wrapped

    def unwrap(self, wrapped: bytes) -> bytes:
        """The secret. Raise `KMSError`; before anything is asked if ``wrapped`` names another key, or is not of `wrap`'s form."""
        key, data = self._parse(wrapped)
        asking = self._asking(key)
        if "keyId" not in self._master_key and (stored := bson.decode(key)["masterKey"].get("keyId")):
            asking.secrets.append(stored)  # not verified, so not shown, also where the server quotes it

        def work(encrypter: Any) -> bytes:
            return bytes(bson.decode(encrypter.decrypt(bson.encode({"v": Binary(data, 6)})))["v"])

        return self._run(asking, work, "did not unwrap this: it was wrapped under another key, or changed since")

    def __repr__(self) -> str:
        return f"<MongoCryptKMS {self._provider}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a MongoCryptKMS holds credentials: it is not copied, and not pickled")

    def _parse(self, wrapped: bytes) -> tuple[bytes, bytes]:
        """The data key document, put together anew around the configured masterKey, and the ciphertext. Raise `KMSError`."""
        document: Any = {}
        if len(wrapped) <= _MOST_WRAPPED:
            with contextlib.suppress(BSONError, ValueError, TypeError):
                document = bson.decode(wrapped)
        key, data = document.get("key"), document.get("data")
        if not isinstance(key, dict) or not isinstance(stored := key.get("masterKey"), dict):
            raise KMSError(_MALFORMED)
        configured = {"provider": self._provider, **self._master_key}
        if self._kind == "kmip" and "keyId" not in configured:
            if not isinstance(made := stored.get("keyId"), str) or not _PLAIN_TEXT.fullmatch(made):
                raise KMSError(_MALFORMED)
            configured["keyId"] = made
        if bson.encode(stored) != bson.encode(configured):
            raise KMSError("the wrapped key was redirected: its masterKey is not the configured one. No service was asked")
        # As libmongocrypt writes it, with one date for both. Compared as bytes, so that names, types, order and doubles count.
        names = ("_id", "keyMaterial", "creationDate")
        rebuilt = {name: key.get(name) for name in names}
        rebuilt |= {"updateDate": rebuilt["creationDate"], "status": 0, "masterKey": configured}
        if bson.encode({"key": rebuilt, "data": data}) != wrapped or not _fit(rebuilt["_id"], rebuilt["keyMaterial"], data):
            raise KMSError(_MALFORMED)
        return bson.encode(rebuilt), bytes(data)

    def _check(self) -> None:
        """Have libmongocrypt look at the documents, and build a first request that is not sent."""
        problem = ""
        try:
            crypt = self._mongocrypt.MongoCrypt(self._options(self._credentials), self._asking())
            options = extra("pymongocrypt.options", "kms").DataKeyOpts(dict(self._master_key), [])
            with crypt.data_key_context(self._provider, options):
                pass
            crypt.close()
        except (ValueError, TypeError, self._mongocrypt.MongoCryptError) as error:
            # Without the traceback that pymongocrypt appends where a private key cannot be read.
            problem = _presentable(str(error).partition(": Traceback")[0], _secrets(self._credentials))
        if problem:
            raise ConfigurationError(f"{self._provider}: {problem}")

    def _options(self, credentials: Mapping[str, Any]) -> Any:
        """For libmongocrypt: without the shared library, which nothing here needs."""
        options = self._mongocrypt.MongoCryptOptions({self._provider: self._credentials}, bypass_encryption=True)
        # Set afterwards: its constructor knows {"accessToken": …}, which libmongocrypt takes for Azure and GCP, only as {}.
        options.kms_providers = {self._provider: dict(credentials)}
        return options

    def _asking(self, key: bytes = b"") -> _Asking:
        arn = self._master_key.get("key", "")
        asking = _Asking(self._kind, self._tls, self._timeout, arn=arn, key=key)
        extra("pymongocrypt.synchronous.state_machine", "kms").MongoCryptCallback.register(_Asking)
        return asking

    def _run(self, asking: _Asking, work: Callable[[Any], Result], refusal: str) -> Result:
        """Everything that one call does. libmongocrypt's state lives as long as the call: it caches keys and tokens."""
        credentials = self._from_environment(asking) if self._on_demand else self._credentials
        asking.secrets += _secrets(credentials)
        explicit = extra("pymongocrypt.synchronous.explicit_encrypter", "kms")
        encrypter = explicit.ExplicitEncrypter(asking, self._options(credentials))
        try:
            return work(encrypter)
        except self._mongocrypt.MongoCryptError:
            pass  # its words may quote an answer; those of a service have become a KMSError before
        finally:
            encrypter.close()
        raise KMSError(f"{_SERVICES[self._kind]} {refusal}")

    def _from_environment(self, asking: _Asking) -> dict[str, Any]:
        """What pymongo would take: environment variables, and the metadata service of the machine.

        In a thread of its own, because it has time-outs of its own (up to 10 s for each of several places): where it takes longer
        than this call may, it is left to itself and ends in the background.
        """
        ask = extra("pymongocrypt.synchronous.credentials", "kms")._ask_for_kms_credentials
        found: dict[str, Any] = {}
        with contextlib.suppress(Exception):  # of httpx, boto3 and others; their words may quote what a metadata service answered
            found = aside.begin(lambda: ask({self._provider: {}}), _THREAD).result(asking.left())
        if self._kind in found:
            return dict(found[self._kind])
        # Temporary: when a machine starts, its metadata service is often late.
        where = f"found no credentials for {_SERVICES[self._kind]} in the environment"
        raise KMSError(f"{where} within {self._timeout:g} s", temporary=True)


class _Asking:
    """A `MongoCryptCallback`: what libmongocrypt has its driver do. One for each call, whose time runs from here."""

    def __init__(self, kind: str, tls: ssl.SSLContext, timeout: float, *, arn: str = "", key: bytes = b"") -> None:
        self.kind = kind
        self.tls = tls
        self.timeout = timeout
        self.deadline = time.monotonic() + timeout
        self.secrets: list[str] = []  # what must stand in no message
        self.arn = arn
        self.key = key

    def left(self) -> float:
        """Seconds. Raise `TimeoutError` if there are none."""
        if (left := self.deadline - time.monotonic()) <= 0:
            raise TimeoutError
        return left

    def kms_request(self, context: Any) -> None:
        """One request and its answer. Raise `KMSError`, so that libmongocrypt never comes to sleep and try again."""
        endpoint, message, answer = context.endpoint, bytes(context.message), bytearray()
        misfit, problem = "", None
        try:
            with self.connect(endpoint) as connection:
                connection.sendall(message)
                while needed := context.bytes_needed:
                    connection.settimeout(self.left())
                    answer += (data := connection.recv(needed))
                    if not data:
                        raise ConnectionResetError
                    if len(answer) > _MOST_ANSWERED:
                        raise self.error("answers with more than it should")
                    context.feed(data)
        except OSError as error:
            problem = self.of_connection(endpoint, error)
        except UnicodeError:  # of a name that cannot be one
            problem = self.error(f"is not found at {endpoint}")
        except extra("pymongocrypt.errors", "kms").MongoCryptError as error:
            misfit = str(error)
        if problem is not None:
            raise problem
        if self.kind == "kmip":
            if misfit:  # libmongocrypt's words and the server's: states and reasons, nothing of what was asked
                raise self.error(f"refused: {misfit}")
            return
        self.check_answer(message, bytes(answer), misfit=bool(misfit))

    def check_answer(self, message: bytes, answer: bytes, *, misfit: bool) -> None:
        """Raise `KMSError` if an answer over HTTP is not what was asked for."""
        status, body = _http(answer)
        said = _json(body)
        if status != 200:
            name, words = _reason(said) if said else ("", re.sub("<[^>]*>", " ", body.decode("utf-8", "replace")))
            temporary = status in _TEMPORARY_STATUS or (self.kind == "aws" and name in _TEMPORARY_AWS)
            self.secrets += _sent(message)
            raise self.error(f"answered HTTP {status}: {': '.join(filter(None, (name, words)))}", temporary=temporary)
        if misfit:
            raise self.error("answered something else than was asked for")
        if self.kind == "aws" and b"TrentService.Decrypt" in message and not self.is_meant(said.get("KeyId")):
            raise self.error("unwrapped this with another key than the configured one. It was not used")

    def is_meant(self, answered: Any) -> bool:
        """Whether this ARN is of the configured key: an ARN, an id (with which the ARN ends), or an alias, which says nothing."""
        if ":" in self.arn or "alias/" in self.arn:
            return answered == self.arn or "alias/" in self.arn
        return isinstance(answered, str) and answered.endswith(f":key/{self.arn}")

    def connect(self, endpoint: str) -> ssl.SSLSocket:
        """A TLS connection, within what is left. Raise `OSError`."""
        host, _, port = endpoint.rpartition(":")
        # In a thread: looking a name up takes as long as the resolver likes, and cannot be stopped.
        addresses = aside.begin(lambda: socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM), _THREAD).result(self.left())
        failure: OSError = ConnectionRefusedError()
        for place, (family, kind, protocol, _, address) in enumerate(addresses):
            plain = socket.socket(family, kind, protocol)
            try:
                plain.settimeout(self.left() / (len(addresses) - place))  # so that a dead address leaves time for the next
                plain.connect(address)
            except OSError as error:
                plain.close()
                failure = error
                continue
            try:
                plain.settimeout(self.left())
                return self.tls.wrap_socket(plain, server_hostname=host)
            finally:
                plain.close()  # wrap_socket has taken the descriptor out of it, or failed
        raise failure

    def of_connection(self, endpoint: str, error: OSError) -> KMSError:
        """What an error of a connection says about whether to try again."""
        if isinstance(error, ssl.SSLCertVerificationError):
            return self.error(f"is not at {endpoint}, or its certificate is not valid: {error.verify_message}")
        if isinstance(error, ssl.SSLError) and not isinstance(error, _CLOSED):
            return self.error(f"and we found no TLS in common at {endpoint}: {error.reason}")
        if isinstance(error, TimeoutError):
            return self.error(f"did not answer at {endpoint} within {self.timeout:g} s", temporary=True)
        if isinstance(error, socket.gaierror):
            return self.error(f"is not found at {endpoint}: {error.strerror}", temporary=True)
        return self.error(f"closed or refused the connection at {endpoint}: {error.strerror or 'no answer'}", temporary=True)

    def error(self, words: str, *, temporary: bool = False) -> KMSError:
        """A `KMSError` without credentials."""
        return KMSError(f"{_SERVICES[self.kind]} {_presentable(words, self.secrets)}", temporary=temporary)

    def fetch_keys(self, _filter: bytes) -> Iterator[bytes]:
        """The one data key there is; libmongocrypt compares its id."""
        yield self.key

    def insert_data_key(self, data_key: bytes) -> bytes:
        """Keep the document. Gives its id."""
        self.key = bytes(data_key)
        return bytes(bson.decode(self.key)["_id"])

    @staticmethod
    def bson_encode(document: Mapping[str, Any]) -> bytes:
        """As it says."""
        return bson.encode(document)


def _master_key(kind: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """As libmongocrypt writes it into a data key document: in its order, endpoints cut to host and port."""
    given = given or {}
    if unknown := sorted(set(map(str, given)) - set(_ENTRIES[kind])):
        raise ConfigurationError(f"master_key for {kind} has no {', '.join(unknown)}: it has {', '.join(_ENTRIES[kind])}")
    if missing := [name for name in _REQUIRED[kind] if name not in given]:
        raise ConfigurationError(f"master_key for {kind} needs {', '.join(missing)}")
    # libmongocrypt writes nothing where delegated is false
    return {name: _entry(name, given[name]) for name in _ENTRIES[kind] if name in given and given[name] is not False}


def _entry(name: str, value: Any) -> Any:
    """One entry of a masterKey, or an endpoint beside credentials. Raise `ConfigurationError`."""
    if name == "delegated":
        if value is not True:
            raise ConfigurationError("delegated is True or False")
        return value
    if not isinstance(value, str) or not _PLAIN_TEXT.fullmatch(value):
        raise ConfigurationError(f"{name} is a text without spaces")
    if name == "region" and not re.fullmatch("[A-Za-z0-9-]+", value):
        raise ConfigurationError("region is one like eu-central-1")  # it becomes part of a host's name
    if not name.lower().endswith("endpoint"):
        return value
    value = re.split("[/?]", value.partition("://")[2] or value, maxsplit=1)[0]
    if not _ENDPOINT.fullmatch(value) or int(value.partition(":")[2] or 443) > 65535:
        raise ConfigurationError(f"{name} is a host, or host:port")
    return value


def _fit(identifier: Any, material: Any, data: Any) -> bool:
    """Whether these are of the types that they should be, and the ciphertext says that it is of this data key."""
    if type(material) is not bytes or not isinstance(identifier, Binary) or not isinstance(data, Binary):
        return False
    begins = bytes([_RANDOM]) + bytes(identifier) + bytes([_BINARY_TYPE])
    return (identifier.subtype, len(identifier), data.subtype) == (4, 16, 6) and data.startswith(begins)


def _tls(provider: str, options: Mapping[str, Any]) -> ssl.SSLContext:
    """Verifying, TLS 1.2 or later. Raise `ConfigurationError`, also for what would make it weaker."""
    where = f"kms_tls_options for {provider}"
    if not isinstance(options, Mapping):
        raise ConfigurationError(f"{where} are not a mapping")
    options = dict(options)
    for name in ("tlsInsecure", "tlsAllowInvalidCertificates", "tlsAllowInvalidHostnames"):
        if options.pop(name, False):
            raise ConfigurationError(f"{where}: {name} is refused: whoever answers could then read every key")
    if options.pop("tls", True) is not True:
        raise ConfigurationError(f"{where}: tls cannot be switched off")
    authorities, certificate = options.pop("tlsCAFile", None), options.pop("tlsCertificateKeyFile", None)
    password = options.pop("tlsCertificateKeyFilePassword", None)
    if options:
        raise ConfigurationError(f"{where}: unknown or unsupported: {', '.join(sorted(map(str, options)))}")
    problem = ""
    try:
        context = ssl.create_default_context(cafile=authorities)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if certificate is not None:
            # Never None: OpenSSL would ask for the password on the terminal.
            context.load_cert_chain(certificate, password=password or "")
    except (OSError, ValueError, TypeError) as error:
        problem = _presentable(str(error), [str(password or "")])
    if problem:
        raise ConfigurationError(f"{where}: tlsCAFile or tlsCertificateKeyFile cannot be used: {problem}")
    return context


def _http(answer: bytes) -> tuple[int, bytes]:
    """Status and body; (0, b"") of what is not HTTP."""

    class Given:
        def makefile(self, *_: object) -> io.BytesIO:
            return io.BytesIO(answer)

    try:
        response = http.client.HTTPResponse(Given())  # type: ignore[arg-type]  # all that it wants of a socket
        response.begin()
        return response.status, response.read()
    except (http.client.HTTPException, ValueError, OSError):
        return 0, b""


def _json(body: bytes) -> dict[str, Any]:
    """The object, or {}."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _reason(said: dict[str, Any]) -> tuple[str, str]:
    """Name and words of an error: of AWS, of Azure and GCP, or of OAuth (RFC 6749 section 5.2)."""
    error = said.get("error", said)
    if not isinstance(error, dict):
        error = {"code": error, "message": said.get("error_description")}
    names = (error.get(name) for name in ("__type", "status", "code"))
    name = next((name for name in names if isinstance(name, str)), "")
    words = error.get("message") or error.get("Message")
    return name.rpartition("#")[2], words if isinstance(words, str) else ""


def _secrets(credentials: Mapping[str, Any]) -> list[str]:
    """What must stand in no message."""
    values = (value for name, value in credentials.items() if name not in _NOT_SECRET)
    return [value if isinstance(value, str) else bytes(value).hex() for value in values if isinstance(value, str | bytes)]


def _sent(message: bytes) -> list[str]:
    """Of a request over HTTP: tokens, signatures, and what was to be wrapped."""
    body = message.partition(b"\r\n\r\n")[2]
    fields: Iterable[tuple[str, Any]] = [*_json(body).items(), *urllib.parse.parse_qsl(body.decode("latin-1"))]
    found = [value for name, value in fields if name in _IN_BODY and isinstance(value, str)]
    return found + [value.decode("latin-1") for value in _IN_HEADERS.findall(message)]


def _presentable(words: str, secrets: Iterable[str]) -> str:
    """One line of at most 300 characters, without these."""
    secrets = sorted(secrets, key=len, reverse=True)
    for secret in secrets:
        if len(secret) >= 4:  # what is shorter is no secret, and would make a message unreadable
            words = words.replace(secret, "…")
    known = "\n".join(secrets)

    def run(found: re.Match[str]) -> str:  # a service may quote a part
        text = found.group()
        return "…" if any(text[place : place + 16] in known for place in range(len(text) - 15)) else text

    words = re.sub(r"[A-Za-z0-9+/=_.%-]{16,}", run, words)
    words = " ".join("".join(letter if letter.isprintable() else " " for letter in words).split())
    return words if len(words) <= _MOST_WORDS else words[: _MOST_WORDS - 1] + "…"
