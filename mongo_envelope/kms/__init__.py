"""Key-encryption keys, wherever they are kept: each provider is a small file with two verbs, wrap and unwrap.

`keystore` wraps one secret for each key store, 32 bytes and what binds them to it, and unwraps it once for each process. A provider
knows nothing of that: bytes in, bytes out. What the key service is asked over is the provider's business; that it is asked within a
time, again if that may help, and never from an event loop is the key store's.

    LocalKMS          a key in a file of mode 0600, in an environment variable, or in the operating system's keyring
    MongoCryptKMS     AWS KMS, Azure Key Vault, GCP KMS and KMIP, by MongoDB's libmongocrypt and with MongoDB's own documents
    PKCS11KMS         a hardware security module
    VaultKMS          the Transit engine of HashiCorp Vault
    configured        any of them, from a description: file:kek.json, or a JSON or TOML file

A module is loaded when its class is asked for, so the package imports without any of the extras; a class whose extra is not
installed says which one to install.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

if TYPE_CHECKING:
    from .description import configured
    from .local import LocalKMS
    from .mongocrypt import MongoCryptKMS
    from .pkcs11 import PKCS11KMS
    from .vault import VaultKMS

__all__ = ["KMS", "PKCS11KMS", "LocalKMS", "MongoCryptKMS", "VaultKMS", "configured"]


@runtime_checkable
class KMS(Protocol):
    """One key-encryption key. Any object of this shape will do."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Which key it is: ``{"provider": "aws", "key": "arn:…", …}``. It stands in the clear beside what is wrapped.

        Text, numbers, booleans and mappings of them; nothing secret. What is stored must equal what is configured before anything
        is unwrapped, so whatever tells where a request goes (an endpoint, a region, a key's name) is in it.
        """

    @property
    def public(self) -> bool:
        """Whether anybody can wrap: the key is of an asymmetric kind. Then a key store wants its fingerprint."""

    def wrap(self, secret: bytes) -> bytes:
        """Encrypt and authenticate at most 256 bytes. Raise `KMSError`; its ``temporary`` says whether trying again may help.

        The call ends within the provider's time-out. No error, log or file has the secret.
        """

    def unwrap(self, wrapped: bytes) -> bytes:
        """The secret. Raise `KMSError`, never temporary, also for what was not wrapped by this key, or was changed since."""


_PROVIDERS: Final = {
    "configured": "description",
    "LocalKMS": "local",
    "MongoCryptKMS": "mongocrypt",
    "PKCS11KMS": "pkcs11",
    "VaultKMS": "vault",
}


def __getattr__(name: str) -> Any:
    if name not in _PROVIDERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_PROVIDERS[name]}", __name__), name)
