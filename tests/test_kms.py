"""The package of key services: it imports without any extra, loads a provider when it is asked for, and names what is missing."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from mongo_envelope import ConfigurationError, KMSError, kms
from mongo_envelope.kms import KMS, LocalKMS, asking

PROVIDERS = ("LocalKMS", "MongoCryptKMS", "PKCS11KMS", "VaultKMS")


def test_the_package_imports_without_any_extra() -> None:
    """With every optional library blocked, each class is there, and a local key works; no library is loaded."""
    program = """if True:
        import sys
        for name in ("pymongocrypt", "pkcs11", "hvac", "requests", "keyring", "stamina"):
            sys.modules[name] = None
        from mongo_envelope import kms
        assert not [name for name in sys.modules if name.startswith("mongo_envelope.kms.")], sys.modules
        key = kms.LocalKMS.generate()
        assert key.unwrap(key.wrap(b"a secret")) == b"a secret"
        for name in kms.__all__:
            assert getattr(kms, name).__name__ == name
    """
    ran = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    ("name", "library", "extra", "arguments"),
    [
        ("PKCS11KMS", "pkcs11", "pkcs11", (("/lib/hsm.so",), {"token": "t", "key": "k"})),
        ("VaultKMS", "hvac", "vault", (("https://vault",), {"key": "k", "token": "t"})),
    ],
)
def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, library: str, extra: str, arguments: tuple[Any, Any]
) -> None:
    """When the object is built; the import error is not what the user sees."""
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigurationError, match=rf'{library} is not installed: pip install "mongo-envelope\[{extra}\]"') as caught:
        getattr(kms, name)(*arguments[0], **arguments[1])
    assert caught.value.__context__ is None


def test_the_package_has_its_classes_and_what_reads_a_description() -> None:
    """By their names; another name is an `AttributeError`, as of any module."""
    assert set(kms.__all__) == {"KMS", "configured", *PROVIDERS}
    assert kms.LocalKMS is LocalKMS
    with pytest.raises(AttributeError, match="has no attribute 'RemoteKMS'"):
        _ = kms.RemoteKMS


def test_any_object_of_the_shape_is_a_kms() -> None:
    """The protocol is looked at, not the class."""

    class Own:
        identity: dict[str, str] = {}  # noqa: RUF012 - never changed
        public = False

        def wrap(self, secret: bytes) -> bytes:
            return secret

        def unwrap(self, wrapped: bytes) -> bytes:
            return wrapped

    assert isinstance(Own(), KMS)
    assert not isinstance(object(), KMS)


# --- asking ---------------------------------------------------------------------------------------------------------


def test_a_call_ends_in_time() -> None:
    """What it gives, or its own error, or after the timeout an error that says that trying again may help."""
    assert asking.bounded(lambda: b"it", 5, "it") == b"it"

    def fail() -> bytes:
        raise KMSError("its own")

    with pytest.raises(KMSError, match="its own") as caught:
        asking.bounded(fail, 5, "it")
    assert [frame.name for frame in caught.traceback][1:] == ["bounded"]
    release, began = threading.Event(), time.monotonic()
    with pytest.raises(KMSError, match=r"it did not answer within 0.05 s") as late:
        asking.bounded(lambda: b"x" * release.wait(30), 0.05, "it")
    release.set()
    assert time.monotonic() - began < 1
    assert late.value.temporary
    assert late.value.__context__ is None


def test_a_credential_is_read_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given comes before the environment, which is read anew each time; without either there is none."""
    monkeypatch.setenv("A_PIN", "one")
    credential = asking.Credential("pin", None, "A_PIN")
    monkeypatch.setenv("A_PIN", "two")
    assert credential.get() == "two"
    assert asking.Credential("pin", "given", "A_PIN").get() == "given"
    assert asking.Credential("pin", lambda: "fetched", "A_PIN").get() == "fetched"
    assert asking.Credential("pin", None, None).get() is None
