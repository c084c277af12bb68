"""A key in a hardware security module: SoftHSM2, the real library in this process, with tokens in a temporary folder."""

from __future__ import annotations

import base64
import copy
import itertools
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import softhsm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from key_stores import assert_no_frame_has

from mongo_envelope import ConfigurationError, KMSError
from mongo_envelope.kms import KMS, PKCS11KMS

pkcs11: Any = pytest.importorskip("pkcs11")

PIN = "a PIN of 4711"
SECRET = b"a root of 32 bytes, and what binds it to its store"
MECHANISMS = ("AES-GCM", "AES-KWP")
_numbers = itertools.count()


class Token:
    """A token of SoftHSM's: where it is, and what it takes to use it."""

    def __init__(self, folder: Path) -> None:
        self.library = softhsm.library()
        self.folder = folder
        self.configuration = softhsm.configured(folder)
        softhsm.make_token(self.library, self.configuration, "shop", PIN)

    def kms(self, key: str | None = None, **options: Any) -> PKCS11KMS:
        """A key of a new label, unless one is given."""
        key = f"kek {next(_numbers)}" if key is None else key
        return PKCS11KMS(self.library, **{"token": "shop", "key": key, "pin": PIN, "create": True, **options})

    @contextmanager
    def session(self) -> Iterator[Any]:
        """A session of the library's own, as the token's owner has it."""
        with pkcs11.lib(str(self.library)).get_token(token_label="shop").open(rw=True, user_pin=PIN) as session:
            yield session

    def run(self, program: str, *arguments: str) -> str:
        """What another process prints that has this token."""
        command = [sys.executable, "-c", program, str(self.library), *arguments]
        environment = {**os.environ, "PIN": PIN}
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Token]:
    """One token for all tests here. The library reads its configuration when it is initialized, so it begins and ends here."""
    made = Token(tmp_path_factory.mktemp("softhsm"))
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(made.configuration)
    yield made
    pkcs11.unload(str(made.library))
    del os.environ["SOFTHSM2_CONF"]
    if before is not None:
        os.environ["SOFTHSM2_CONF"] = before


def assert_silent(error: BaseException, *secrets: bytes) -> None:
    assert_no_frame_has(error, PIN.encode(), *secrets)


# --- wrap and unwrap ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_it_is_a_kms(token: Token, mechanism: str) -> None:
    """It has the shape of the protocol; its identity says which key and how; not anybody can wrap; its repr has no PIN."""
    kms = token.kms("kek", mechanism=mechanism)
    assert isinstance(kms, KMS)
    assert kms.identity == {"provider": "pkcs11", "token": "shop", "key": "kek", "mechanism": mechanism}
    assert not kms.public
    assert repr(kms) == f"PKCS11KMS(token='shop', key='kek', mechanism='{mechanism}')"
    for leave in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled or copied"):
            leave(kms)


@pytest.mark.parametrize("mechanism", MECHANISMS)
@settings(deadline=None, max_examples=25)
@given(st.binary(min_size=1, max_size=256))
def test_what_is_wrapped_is_unwrapped(token: Token, mechanism: str, secret: bytes) -> None:
    """Any secret comes back, whatever its length, and is not seen in what is stored."""
    kms = token.kms(f"any secret, {mechanism}", mechanism=mechanism)
    wrapped = kms.wrap(secret)
    assert kms.unwrap(wrapped) == secret
    assert len(secret) < 8 or secret not in wrapped


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_key_outlives_the_process(token: Token, mechanism: str) -> None:
    """What one object wrapped another one unwraps, here and in a new process, where the PIN comes from the environment."""
    kms = token.kms(mechanism=mechanism)
    wrapped = kms.wrap(SECRET)
    key = kms.identity["key"]
    assert token.kms(key, mechanism=mechanism, create=False).unwrap(wrapped) == SECRET
    program = (
        "import sys; from mongo_envelope.kms import PKCS11KMS\n"
        "library, key, mechanism, wrapped = sys.argv[1:]\n"
        "kms = PKCS11KMS(library, token='shop', key=key, mechanism=mechanism, pin_env='PIN')\n"
        "print(kms.unwrap(bytes.fromhex(wrapped)).hex())"
    )
    assert bytes.fromhex(token.run(program, key, mechanism, wrapped.hex())) == SECRET


def test_the_wrapped_form_is_the_documented_one(token: Token) -> None:
    """A version byte, the nonce, the ciphertext and its tag: what the token itself decrypts with the documented parameters."""
    kms = token.kms()
    one, other = kms.wrap(SECRET), kms.wrap(SECRET)
    assert one[:1] == other[:1] == b"\x01"
    assert one[1:13] != other[1:13]
    parameters = pkcs11.mechanisms.GCMParams(one[1:13], b"mongo_envelope/kms/pkcs11/1", 128)
    with token.session() as session:
        key = session.get_key(label=kms.identity["key"])
        assert key.decrypt(one[13:], mechanism=pkcs11.Mechanism.AES_GCM, mechanism_param=parameters) == SECRET
    kwp = token.kms(mechanism="AES-KWP")
    assert kwp.wrap(SECRET)[:1] == b"\x02"
    assert kwp.wrap(SECRET) == kwp.wrap(SECRET)
    assert len(kwp.wrap(bytes(4))) == 1 + 8 + 8


@pytest.mark.parametrize("mechanism", MECHANISMS)
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_what_was_changed_is_refused(token: Token, mechanism: str, data: st.DataObject) -> None:
    """A byte changed, cut off or added: never another secret, and never worth another try, though the token says no more."""
    kms = token.kms(f"changed, {mechanism}", mechanism=mechanism)
    wrapped = kms.wrap(SECRET)
    at = data.draw(st.integers(0, len(wrapped) - 1))
    flipped = wrapped[:at] + bytes([wrapped[at] ^ data.draw(st.integers(1, 255))]) + wrapped[at + 1 :]
    changed = data.draw(st.sampled_from([flipped, wrapped[:at], wrapped[at + 1 :], wrapped + b"\0"]) | st.binary(max_size=80))
    with pytest.raises(KMSError, match=r"not wrapped by PKCS11KMS.*, or was changed since") as caught:
        kms.unwrap(changed)
    assert not caught.value.temporary
    assert_silent(caught.value, SECRET)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_another_key_unwraps_nothing(token: Token, mechanism: str) -> None:
    """Each wraps for itself, in one token."""
    wrapped = token.kms(mechanism=mechanism).wrap(SECRET)
    other = token.kms(mechanism=mechanism)
    other.wrap(SECRET)
    with pytest.raises(KMSError, match="not wrapped by") as caught:
        other.unwrap(wrapped)
    assert_silent(caught.value, SECRET)


# --- keys -----------------------------------------------------------------------------------------------------------


def test_a_key_is_made_only_when_told(token: Token) -> None:
    """Without create, and to unwrap, a key that is not there is an error; a key that is made can do no more than it must."""
    for use in (token.kms("none", create=False).wrap, token.kms("none").unwrap):
        with pytest.raises(ConfigurationError, match=r"no key with the label 'none'.*create=True"):
            use(SECRET)
    for mechanism, able in (("AES-GCM", True), ("AES-KWP", False)):
        kms = token.kms(mechanism=mechanism)
        kms.wrap(SECRET)
        with token.session() as session:
            key = session.get_key(label=kms.identity["key"])
            at = pkcs11.Attribute
            assert (key.key_type, key.key_length, len(key.id)) == (pkcs11.KeyType.AES, 256, 8)
            assert [key[each] for each in (at.SENSITIVE, at.EXTRACTABLE, at.PRIVATE, at.TOKEN)] == [True, False, True, True]
            assert [key[each] for each in (at.ENCRYPT, at.DECRYPT, at.WRAP, at.UNWRAP)] == [able, able, not able, not able]
            assert not key[at.SIGN]
            with pytest.raises(pkcs11.AttributeSensitive):
                key[at.VALUE]


WORKER = """
import sys
from mongo_envelope import KMSError
from mongo_envelope.kms import PKCS11KMS

def wrapped(kms):
    for left in range(20, -1, -1):
        try:
            return kms.wrap(b"one of several")
        except KMSError as error:  # SoftHSM is not good at several processes at once; a key store tries again, too
            if not error.temporary or not left:
                raise

print("ready", flush=True)
for line in sys.stdin:
    kms = PKCS11KMS(sys.argv[1], token="shop", key=line.strip(), pin_env="PIN", create=True, timeout=30)
    print(wrapped(kms).hex(), flush=True)
"""


def test_processes_that_start_at_once_end_with_one_key(token: Token) -> None:
    """Whatever three processes wrap that make one key in the same moment, one key unwraps."""
    command = [sys.executable, "-c", WORKER, str(token.library)]
    environment = {**os.environ, "PIN": PIN}
    pipe = subprocess.PIPE
    workers = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) for _ in range(3)]
    try:
        for worker in workers:
            assert worker.stdout.readline() == "ready\n"  # type: ignore[union-attr]  # it is a pipe
        for number in range(4):
            for worker in workers:
                worker.stdin.write(f"raced {number}\n")  # type: ignore[union-attr]  # it is a pipe
                worker.stdin.flush()  # type: ignore[union-attr]  # it is a pipe
            answers = [worker.stdout.readline() for worker in workers]  # type: ignore[union-attr]  # it is a pipe
            for wrapped in map(bytes.fromhex, answers):
                assert token.kms(f"raced {number}", create=False).unwrap(wrapped) == b"one of several"
    finally:
        for worker in workers:
            worker.communicate()


def test_a_key_is_made_although_the_device_was_lost_in_between(token: Token, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is told that there is no key: it is made in the second turn."""

    def lost(self: PKCS11KMS, session: Any) -> None:
        monkeypatch.undo()
        raise pkcs11.DeviceError

    monkeypatch.setattr(PKCS11KMS, "_make", lost)
    kms = token.kms("lost")
    assert kms.unwrap(kms.wrap(SECRET)) == SECRET


def test_a_key_that_has_been_made_meanwhile_is_used(token: Token, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between looking and making another process has made it: it is found, and no second one is made."""
    kms = token.kms("meanwhile")
    forget, before = kms._forget, token.kms("meanwhile").wrap

    def overtaken(self: PKCS11KMS) -> None:
        monkeypatch.undo()
        forget()
        with token.session() as session:
            session.generate_key(pkcs11.KeyType.AES, 256, label="meanwhile", id=b"another", store=True)

    monkeypatch.setattr(PKCS11KMS, "_forget", overtaken)
    wrapped = kms.wrap(SECRET)
    assert kms.unwrap(wrapped) == SECRET
    assert kms.unwrap(before(SECRET)) == SECRET
    with token.session() as session:
        assert session.get_key(label="meanwhile").id == b"another"


def test_two_keys_of_one_label_are_refused(token: Token) -> None:
    """Nobody guesses which one is meant."""
    with token.session() as session:
        for _ in range(2):
            session.generate_key(pkcs11.KeyType.AES, 256, label="twins", store=True)
    for create in (False, True):
        with pytest.raises(ConfigurationError, match="more than one key with the label 'twins'"):
            token.kms("twins", create=create).wrap(SECRET)


def test_a_key_of_another_kind_is_refused(token: Token) -> None:
    """An RSA key, under which anybody can wrap; an AES key that is too short; one that can be taken out of the token."""
    loose = {pkcs11.Attribute.SENSITIVE: True, pkcs11.Attribute.EXTRACTABLE: True}
    seen = {pkcs11.Attribute.SENSITIVE: False, pkcs11.Attribute.EXTRACTABLE: False}
    with token.session() as session:
        public, _ = session.generate_keypair(pkcs11.KeyType.RSA, 2048, label="rsa", store=True)
        public[pkcs11.Attribute.LABEL] = "rsa, public"
        session.generate_key(pkcs11.KeyType.AES, 128, label="short", store=True)
        session.generate_key(pkcs11.KeyType.GENERIC_SECRET, 256, label="generic", store=True)
        session.generate_key(pkcs11.KeyType.AES, 256, label="loose", store=True, template=loose)
        session.generate_key(pkcs11.KeyType.AES, 256, label="seen", store=True, template=seen)
    for label in ("rsa", "rsa, public", "short", "generic"):
        with pytest.raises(ConfigurationError, match=f"'{label}' of the token 'shop' is not an AES key of 256 bits"):
            token.kms(label).wrap(SECRET)
    for label in ("loose", "seen"):
        with pytest.raises(ConfigurationError, match=f"'{label}' .* must be sensitive and not extractable"):
            token.kms(label).unwrap(SECRET)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_key_that_may_not_do_it_is_told(token: Token, mechanism: str) -> None:
    """A key whose attributes allow the one way is not used in the other."""
    key = token.kms(mechanism=next(each for each in MECHANISMS if each != mechanism))
    key.wrap(SECRET)
    with pytest.raises(ConfigurationError, match=f"is not made for {mechanism}: its attributes do not allow it"):
        token.kms(key.identity["key"], mechanism=mechanism).wrap(SECRET)


# --- the library, the token and the PIN -----------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no library": ({"library": "/nowhere/libhsm.so"}, "no PKCS#11 library '/nowhere/libhsm.so'"),
    "no token": ({"token": ""}, "token= is the label"),
    "no key": ({"key": None}, "key= is the label"),
    "another mechanism": ({"mechanism": "RSA-OAEP"}, "mechanism= is"),
    "no time": ({"timeout": 0}, "timeout= is a number of seconds"),
    "endless time": ({"timeout": float("inf")}, "timeout= is a number of seconds"),
    "time as text": ({"timeout": "5"}, "timeout= is a number of seconds"),
    "two PINs": ({"pin": PIN, "pin_env": "PATH"}, "not both"),
    "PIN no text": ({"pin": 4711}, "pin= is a text"),
    "PIN not set": ({"pin_env": "NO_SUCH_PIN"}, "no pin=, and the environment variable"),
}


@pytest.mark.parametrize(("options", "says"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_refused_at_once(options: dict[str, Any], says: str) -> None:
    """When the object is built, and without the token."""
    options = {"library": __file__, "token": "shop", "key": "kek"} | options
    with pytest.raises(ConfigurationError, match=says) as caught:
        PKCS11KMS(options.pop("library"), **options)
    assert PIN not in str(caught.value)


def test_a_library_that_is_none_is_told(tmp_path: Path) -> None:
    """A file that is no library, one that has nothing to do with PKCS#11, and one that the loader does not find."""
    (tmp_path / "text.so").write_text("not a library")
    for library in (tmp_path / "text.so", "libnosuchhsm.so"):
        with pytest.raises(ConfigurationError, match="cannot load the PKCS#11 library") as caught:
            PKCS11KMS(library, token="shop", key="kek").wrap(SECRET)
        assert caught.value.__context__ is None


def test_a_token_that_is_not_there_is_told(token: Token) -> None:
    """By its label. Two tokens with one label are not told apart by chance."""
    with pytest.raises(ConfigurationError, match="has no token with the label 'elsewhere'"):
        token.kms(token="elsewhere").wrap(SECRET)


def test_a_wrong_pin_is_tried_once(token: Token, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token locks itself after a few wrong PINs; so a PIN that it refused is not shown to it again. The right one then works."""
    monkeypatch.setenv("A_PIN", "wrong 12345")
    kms = token.kms(pin=None, pin_env="A_PIN")
    opened = []
    lib = pkcs11.lib
    monkeypatch.setattr(pkcs11, "lib", lambda library: opened.append(library) or lib(library))
    for attempt in range(3):
        with pytest.raises(KMSError, match="the token refused the PIN; it is not tried again") as caught:
            kms.wrap(SECRET)
        assert not caught.value.temporary
        assert "wrong 12345" not in str(caught.value)
        assert caught.value.__context__ is None
        del attempt
    monkeypatch.setenv("A_PIN", PIN)
    assert kms.unwrap(kms.wrap(SECRET)) == SECRET
    monkeypatch.delenv("A_PIN")
    with pytest.raises(ConfigurationError, match="no pin=, and the environment variable"):
        kms.wrap(SECRET)


def test_a_token_without_a_pin_is_told(token: Token) -> None:
    """Its security officer has not set one yet; that is no wrong PIN, and is told each time."""
    softhsm.make_token(token.library, token.configuration, "fresh", "")
    kms = token.kms(token="fresh")
    for _ in range(2):
        with pytest.raises(KMSError, match="the token has no user PIN yet") as caught:
            kms.wrap(SECRET)
        assert not caught.value.temporary
        assert_silent(caught.value)


def test_a_pin_can_be_fetched_when_it_is_needed(token: Token) -> None:
    """A function gives it for each call; whatever it raises does not show, and what it gives must be a text."""
    pins = [PIN, PIN]
    kms = token.kms(pin=pins.pop)
    assert kms.unwrap(kms.wrap(SECRET)) == SECRET
    with pytest.raises(KMSError, match=r"pin\(\) failed \(IndexError\)") as caught:
        kms.wrap(SECRET)
    assert_silent(caught.value)
    with pytest.raises(ConfigurationError, match=r"pin\(\) gave nothing"):
        token.kms(pin=lambda: None).wrap(SECRET)
    with pytest.raises(ConfigurationError, match="pin= is a text"):
        token.kms(pin=lambda: 4711).wrap(SECRET)


def test_without_a_pin_nobody_logs_in(token: Token) -> None:
    """The private keys of the token are then not there; if the application itself has logged in, they are."""
    key = token.kms()
    wrapped = key.wrap(SECRET)
    nobody = token.kms(key.identity["key"], pin=None, create=False)
    with pytest.raises(ConfigurationError, match="no key with the label"):
        nobody.unwrap(wrapped)
    with token.session() as session:
        assert nobody.unwrap(wrapped) == key.unwrap(wrapped) == SECRET
        assert session.get_key(label=key.identity["key"])  # and stays logged in
    assert key.unwrap(wrapped) == SECRET


def answering(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], Any]) -> None:
    """The library gives this answer, where a real one would have to be taken apart to give it."""
    monkeypatch.setattr(pkcs11, "lib", lambda library: answer())


def raising(error: Exception) -> Callable[[], Any]:
    def answer() -> Any:
        raise error

    return answer


@pytest.mark.parametrize("name", ["PinLocked", "PinExpired", "PinLenRange", "UserPinNotInitialized", "TokenWriteProtected"])
def test_what_the_token_refuses_stays_refused(monkeypatch: pytest.MonkeyPatch, token: Token, name: str) -> None:
    """A locked or expired PIN is told in words, anything else by PKCS#11's name; trying again does not help."""
    answering(monkeypatch, raising(getattr(pkcs11, name)("words with a secret")))
    with pytest.raises(KMSError) as caught:
        token.kms().wrap(SECRET)
    assert not caught.value.temporary
    assert ("PIN" in str(caught.value)) == ("Pin" in name)
    assert "words with a secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["DeviceError", "DeviceRemoved", "SessionHandleInvalid", "TokenNotPresent", "GeneralError"])
def test_a_device_that_fails_may_come_back(monkeypatch: pytest.MonkeyPatch, token: Token, name: str) -> None:
    """What is wrong with the device or the session is worth another try, which opens a session of its own."""
    kms = token.kms()
    wrapped = kms.wrap(SECRET)
    with monkeypatch.context() as broken:
        answering(broken, raising(getattr(pkcs11, name)()))
        with pytest.raises(KMSError, match=name) as caught:
            kms.unwrap(wrapped)
        assert caught.value.temporary
        assert_silent(caught.value)
    assert kms.unwrap(wrapped) == SECRET


def test_a_library_that_stays_uninitialized_is_told(monkeypatch: pytest.MonkeyPatch, token: Token) -> None:
    """It is begun anew once in a call, and no more."""
    seen = []

    def answer() -> Any:
        seen.append(1)
        raise pkcs11.PKCS11Error("Initialisation error (not initialized). Should never see this.")

    answering(monkeypatch, answer)
    with pytest.raises(KMSError, match="not initialized") as caught:
        token.kms().wrap(SECRET)
    assert caught.value.temporary
    assert len(seen) == 4  # look, begin anew, look, begin anew


def test_a_code_without_a_name_is_told(monkeypatch: pytest.MonkeyPatch, token: Token) -> None:
    """A vendor's own error code is in the message; nobody knows whether another try would help, so it is not promised."""
    answering(monkeypatch, raising(pkcs11.PKCS11Error("Unmapped error code 0x80000001")))
    with pytest.raises(KMSError, match="0x80000001") as caught:
        token.kms().wrap(SECRET)
    assert not caught.value.temporary


# --- cut off in the middle ------------------------------------------------------------------------------------------


def test_a_restart_of_the_library_is_survived(token: Token) -> None:
    """Somebody finalizes it, with sessions open or not: the next call begins anew."""
    kms = token.kms()
    wrapped = kms.wrap(SECRET)
    for _ in range(2):
        pkcs11.lib(str(token.library)).finalize()
        assert kms.unwrap(wrapped) == SECRET


def test_a_library_that_does_not_know_that_it_was_finalized_is_initialized(token: Token) -> None:
    """As in the child of a fork, or if another binding has done it: the library says so, and is begun anew, once."""
    program = """if True:
        import ctypes, sys
        from mongo_envelope import KMSError
        from mongo_envelope.kms import PKCS11KMS
        kms = PKCS11KMS(sys.argv[1], token="shop", key="behind its back", pin_env="PIN", create=True)
        wrapped = kms.wrap(b"a secret")
        assert ctypes.CDLL(sys.argv[1]).C_Finalize(None) == 0
        print(kms.unwrap(wrapped))
        import pkcs11
        def never(library):
            raise pkcs11.PKCS11Error("Initialisation error (not initialized). Should never see this.")
        pkcs11.lib = never
        try:
            kms.unwrap(wrapped)
        except KMSError as error:
            print(error.temporary)
    """
    assert token.run(program) == "b'a secret'\nTrue\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_the_child_of_a_fork_can_use_it(token: Token) -> None:
    """A child begins with a library of its own, and with no lock that a thread of its parent has taken."""
    program = """if True:
        import os, sys
        from mongo_envelope.kms import PKCS11KMS, pkcs11
        kms = PKCS11KMS(sys.argv[1], token="shop", key="forked", pin_env="PIN", create=True, timeout=30)
        wrapped = kms.wrap(b"a secret")
        pkcs11._logins[sys.argv[1]].acquire()
        child = os.fork()
        if child == 0:
            try:
                os.write(1, kms.unwrap(wrapped))
            finally:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    """
    assert token.run(program) == "a secret"


HOLD = """
import fcntl, glob, sys
held = [open(path, "r+b") for path in glob.glob(sys.argv[1] + "/*/token.object")]
for each in held: fcntl.lockf(each, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def stuck(token: Token) -> Iterator[None]:
    """SoftHSM hangs, in C, as long as somebody else holds the lock of the token's file."""
    command = [sys.executable, "-c", HOLD, str(token.folder / "tokens")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield
        holder.communicate()


@pytest.mark.skipif(sys.platform == "win32", reason="no fcntl there")
def test_a_call_that_hangs_in_the_library_ends_in_time(token: Token) -> None:
    """It is left behind after the timeout, and so are those that wait for it; once it has ended, calls work again."""
    kms = token.kms(timeout=0.3)
    patient = token.kms(kms.identity["key"], timeout=30)
    wrapped = patient.wrap(SECRET)
    with stuck(token):
        for says in ("did not answer within 0.3 s", r"did not answer within 0.3 s|another call of this process has not ended"):
            began = time.monotonic()
            with pytest.raises(KMSError, match=says) as caught:
                kms.unwrap(wrapped)
            assert time.monotonic() - began < 1.3
            assert caught.value.temporary
            assert_silent(caught.value, SECRET)
    assert patient.unwrap(wrapped) == SECRET


def test_a_call_that_waits_for_another_one_gives_up(token: Token, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its own time is over it says what it waited for."""
    kms = token.kms(timeout=30)
    from mongo_envelope.kms import pkcs11 as module

    taken = threading.Lock()
    taken.acquire()
    monkeypatch.setitem(module._logins, str(token.library), taken)
    object.__setattr__(kms, "_timeout", 0.1)
    with pytest.raises(KMSError, match="another call of this process has not ended") as caught:
        kms._in_turn(lambda session: b"", kms._make)
    assert caught.value.temporary


def test_threads_take_turns(token: Token) -> None:
    """Eight threads at once, with two keys of one token: everyone gets his own secret back."""
    pair = [token.kms(timeout=30) for _ in range(2)]
    for kms in pair:
        kms.wrap(SECRET)
    wrong = []

    def work(number: int) -> None:
        secret = bytes([number]) * 32
        kms = pair[number % 2]
        if any(kms.unwrap(kms.wrap(secret)) != secret for _ in range(5)):
            wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# --- nothing of it stands anywhere ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_the_secret_and_the_pin_are_nowhere(token: Token, mechanism: str, caplog: pytest.LogCaptureFixture) -> None:
    """Not in what is stored, not in a log, not in a file of SoftHSM's, in no usual form."""
    caplog.set_level(logging.DEBUG)
    kms = token.kms(mechanism=mechanism)
    secret = os.urandom(68)
    wrapped = kms.wrap(secret)
    with pytest.raises(KMSError):
        kms.unwrap(wrapped[:-1])
    assert kms.unwrap(wrapped) == secret
    files = {path: path.read_bytes() for path in token.folder.rglob("*") if path.is_file()}
    assert len(files) > 3
    for each in (secret, secret[:32], PIN.encode()):
        for form in (each, each.hex().encode(), base64.b64encode(each)):
            assert form not in wrapped
            assert form not in caplog.text.encode()
            assert [path for path, content in files.items() if form in content] == []
    assert PIN not in json.dumps(dict(kms.identity)) + repr(kms)
