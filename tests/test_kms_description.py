"""A key-encryption key from its description: short forms, files, mappings, and the environment for what is secret."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keyring
import pytest
from keyring.backend import KeyringBackend

from mongo_envelope import ConfigurationError, kms
from mongo_envelope.kms import LocalKMS, description

SECRET = "hvs.SwordfishSwordfish"
VAULT = {"provider": "vault", "url": "https://vault.example", "key": "customers", "token": "env:OUR_TOKEN"}


class Vault:
    """The shape of `VaultKMS`, which need not be there for this."""

    def __init__(self, url: str, *, key: str, token: str | None = None, timeout: float = 5.0) -> None:
        self.given = {"url": url, "key": key, "token": token, "timeout": timeout}
        if not url.startswith("https:"):
            raise ConfigurationError("url= begins with https:")


class Crypt:
    """The shape of `MongoCryptKMS`."""

    def __init__(self, provider: str, *, kms_providers: Any, master_key: Any = None) -> None:
        self.given = {"provider": provider, "kms_providers": kms_providers, "master_key": master_key}


class HSM:
    """The shape of `PKCS11KMS`."""

    def __init__(self, library: str, *, token: str, create: bool = False) -> None:
        self.given = {"library": library, "token": token, "create": create}


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The three classes in the place of the real ones, and a secret in the environment."""
    classes = {"VaultKMS": Vault, "MongoCryptKMS": Crypt, "PKCS11KMS": HSM}
    monkeypatch.setattr(description, "_class", classes.__getitem__)
    monkeypatch.setenv("OUR_TOKEN", SECRET)


def given(made: Any) -> dict[str, Any]:
    """What one of the three was made with."""
    found: dict[str, Any] = made.given
    return found


# --- on this machine ------------------------------------------------------------------------------------------------


def test_a_key_in_a_file(tmp_path: Path) -> None:
    """It is made only if that is said, and read again after that."""
    described = f"file:{tmp_path / 'kek.json'}"
    with pytest.raises(ConfigurationError, match="cannot read the file of a key-encryption key"):
        kms.configured(described)
    made = kms.configured(described, create=True)
    assert kms.configured(described).identity == made.identity
    assert kms.configured(described).unwrap(made.wrap(b"a root")) == b"a root"


def test_a_key_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read from there, and cannot be made there."""
    made = LocalKMS.from_file(tmp_path / "kek.json", create=True)
    monkeypatch.setenv("OUR_KEK", (tmp_path / "kek.json").read_text())
    assert kms.configured("env:OUR_KEK").identity == made.identity
    with pytest.raises(ConfigurationError, match="an environment variable is not made"):
        kms.configured("env:OUR_KEK", create=True)


class Entries(KeyringBackend):
    """A keyring that is gone with the test."""

    priority = 1  # type: ignore[assignment]  # a class property there

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password


@pytest.fixture
def entries() -> Iterator[dict[tuple[str, str], str]]:
    """The entries of the system's keyring, for this test."""
    before, backend = keyring.get_keyring(), Entries()
    keyring.set_keyring(backend)
    yield backend.kept
    keyring.set_keyring(before)


def test_a_key_in_the_keyring(entries: dict[tuple[str, str], str]) -> None:
    """Its service and its name are apart at the last slash."""
    made = kms.configured("keyring:our/service/kek", create=True)
    assert list(entries) == [("our/service", "kek")]
    assert kms.configured("keyring:our/service/kek").identity == made.identity


@pytest.mark.parametrize("entry", ["kek", "/kek", "service/", ""])
def test_an_entry_of_the_keyring_has_a_service_and_a_name(entry: str) -> None:
    """Anything else is refused before the keyring is asked."""
    with pytest.raises(ConfigurationError, match="keyring:mongo-envelope/kek"):
        kms.configured(f"keyring:{entry}")


# --- elsewhere ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("shapes")
def test_json_toml_and_a_mapping_describe_the_same(tmp_path: Path) -> None:
    """By suffix: .toml is TOML, everything else JSON; the secret comes from the environment."""
    (tmp_path / "kms.json").write_text(json.dumps(VAULT))
    (tmp_path / "kms.toml").write_text("".join(f'{name} = "{value}"\n' for name, value in VAULT.items()))
    expected = {"url": "https://vault.example", "key": "customers", "token": SECRET, "timeout": 5.0}
    for each in (str(tmp_path / "kms.json"), tmp_path / "kms.json", tmp_path / "kms.toml", VAULT):
        assert given(kms.configured(each)) == expected


@pytest.mark.usefixtures("shapes")
def test_the_environment_is_read_at_any_depth() -> None:
    """In mappings and in lists; numbers and other texts stay as they are. A provider may have a name of its own."""
    described = {
        "provider": "aws:billing",
        "kms_providers": {"aws:billing": {"secretAccessKey": "env:OUR_TOKEN", "n": 1, "list": ["env:OUR_TOKEN", "x"]}},
        "master_key": {"region": "eu-central-1", "key": "arn:aws:kms:…"},
    }
    assert given(kms.configured(described)) == {
        **described,
        "kms_providers": {"aws:billing": {"secretAccessKey": SECRET, "n": 1, "list": [SECRET, "x"]}},
    }


@pytest.mark.usefixtures("shapes")
def test_create_makes_a_key_in_an_hsm_and_in_no_service() -> None:
    """Where the class can make one it is told to; elsewhere that is refused."""
    hsm = {"provider": "pkcs11", "library": "/usr/lib/hsm.so", "token": "ours"}
    assert given(kms.configured(hsm))["create"] is False
    assert given(kms.configured(hsm, create=True))["create"] is True
    with pytest.raises(ConfigurationError, match="is of vault, where a key-encryption key is made by that service's own means"):
        kms.configured(VAULT, create=True)


@pytest.mark.usefixtures("shapes")
@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({**VAULT, "provider": "swordfish"}, "names no provider that there is"),
        ({**VAULT, "provider": ["vault"]}, "names no provider that there is"),
        ({}, "For a key on this machine: file:kek.json, env:NAME"),
        ({**VAULT, "tokn": SECRET}, "has unknown names: tokn. There are url, key, token, timeout"),
        ({"provider": "vault", "token": SECRET}, "lacks url, key"),
        ({**VAULT, "token": "env:NOT_SET"}, "names the environment variable NOT_SET, which is not set"),
        ({**VAULT, "url": "http://vault.example"}, "does not fit: url= begins with https:"),
    ],
)
def test_what_does_not_fit_is_refused_without_a_value(described: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Names are shown, and the secret in no text and in no variable of a frame, for a file and for a mapping of others' making."""
    path = tmp_path / "kms.json"
    path.write_text(json.dumps(described))
    with pytest.raises(ConfigurationError) as caught:
        kms.configured(path)
    assert str(caught.value).startswith(f"the file {str(path)!r}, which describes the key-encryption key, ")
    assert message in str(caught.value)
    assert caught.value.__context__ is None
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert SECRET not in shown[shown.index("mongo_envelope/kms/description.py") :]
    with pytest.raises(ConfigurationError, match=r"^the description of the key-encryption key "):
        kms.configured(described)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("kms.json", b"{swordfish", "is not a JSON object"),
        ("kms.json", b'["swordfish"]', "is not a JSON object"),
        ("kms.json", b"[" * 100_000, "is not a JSON object"),
        ("kms.toml", b"swordfish", "is not TOML"),
        ("kms.json", b"\xffswordfish", "is no text"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    """What stands in it is not quoted."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigurationError, match=message) as caught:
        kms.configured(tmp_path / name)
    assert "swordfish" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ("nowhere.json", "cannot be read: No such file or directory. A key-encryption key is file:kek.json, env:NAME"),
        ("vault:customers", "cannot be read: No such file"),
        ("a\0b", "is no text"),
        ('{"provider": "vault", "token": "swordfish"}', "described by the name of a file, and this is its content"),
    ],
)
def test_what_is_no_description_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, described: str, message: str) -> None:
    """With the forms that there are; content in the place of a name is not shown."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=message) as caught:
        kms.configured(described)
    assert "swordfish" not in str(caught.value)


def test_vault_is_described_by_the_parameters_of_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real class takes what the documentation shows."""
    monkeypatch.setenv("OUR_TOKEN", SECRET)
    assert kms.configured(VAULT).identity["provider"] == "vault"


def test_aws_is_described_by_mongodbs_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real class takes what the documentation shows."""
    monkeypatch.setenv("OUR_TOKEN", SECRET)
    arn = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    described = {
        "provider": "aws",
        "kms_providers": {"aws": {"accessKeyId": "AKIAEXAMPLE", "secretAccessKey": "env:OUR_TOKEN"}},
        "master_key": {"region": "eu-central-1", "key": arn},
    }
    assert kms.configured(described).identity["key"] == arn


def test_an_hsm_is_described_by_the_parameters_of_its_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real class takes what the documentation shows; the library is not loaded before it is needed."""
    (tmp_path / "hsm.so").touch()
    monkeypatch.setenv("HSM_PIN", SECRET)
    described = {"provider": "pkcs11", "library": str(tmp_path / "hsm.so"), "token": "ours", "key": "kek", "pin_env": "HSM_PIN"}
    assert kms.configured(described).identity["provider"] == "pkcs11"
