"""primitives: the four operations against published answers, the specification's vectors, and each other."""

from __future__ import annotations

import hmac
import itertools
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from mongo_envelope import primitives
from mongo_envelope.primitives import PURPOSES, Authenticator, FreshIVs, StreamCipher, derive, pack

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "spec/vectors/derive.json").read_text())
WITHOUT_CONTEXT = {"check", "fingerprint", "wrap"}

parts = st.lists(st.binary(max_size=6), max_size=6)
keys = st.binary(min_size=32, max_size=32)
ivs = st.binary(min_size=16, max_size=16)
purposes = st.sampled_from(sorted(PURPOSES))
with_context = st.sampled_from(sorted(PURPOSES - WITHOUT_CONTEXT))


def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes are drawn from the system, from now on."""
    real, sizes = os.urandom, list[int]()
    monkeypatch.setattr(os, "urandom", lambda size: sizes.append(size) or real(size))  # type: ignore[func-returns-value]  # None
    return sizes


def test_fresh_ivs_are_drawn_several_at_a_time_and_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of what is drawn is used, and nothing of it twice; by several threads, too."""
    monkeypatch.setattr(primitives, "_LASTING", 3600.0)
    sizes = drawn(monkeypatch)
    ivs = FreshIVs()
    taken = [ivs.take() for _ in range(3 * primitives._DRAWN)]
    assert sizes == [16 * primitives._DRAWN] * 3
    with ThreadPoolExecutor(8) as pool:
        taken += itertools.chain.from_iterable(pool.map(lambda _: [ivs.take() for _ in range(5000)], range(8)))
    assert len(taken) == len(set(taken))
    assert {len(each) for each in taken} == {16}


def test_fresh_ivs_do_not_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a snapshot of the machine may have in it is thrown away."""
    monkeypatch.setattr(primitives, "_LASTING", 0.0)
    sizes = drawn(monkeypatch)
    ivs = FreshIVs()
    assert len({ivs.take() for _ in range(5)}) == 5
    assert len(sizes) == 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_fresh_ivs_do_not_survive_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both processes go on with what one had drawn, and no IV is given twice."""
    monkeypatch.setattr(primitives, "_LASTING", 3600.0)
    ivs = FreshIVs()
    ivs.take()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, b"".join(ivs.take() for _ in range(200)))
        finally:
            os._exit(0)
    os.close(write)
    mine = [ivs.take() for _ in range(200)]
    with os.fdopen(read, "rb") as pipe:
        theirs = [*iter(lambda: pipe.read(16), b"")]
    os.waitpid(child, 0)
    assert len(theirs) == 200
    assert len({*mine, *theirs}) == 400


def unpack(packed: bytes) -> list[bytes]:
    """The inverse of `pack`."""
    found = []
    while packed:
        end = 4 + int.from_bytes(packed[:4], "big")
        found.append(packed[4:end])
        packed = packed[end:]
    return found


def hkdf(key: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 once more, from HMAC alone."""
    extracted = hmac.digest(salt or bytes(32), key, "sha256")
    blocks = itertools.accumulate(
        range(1, -(-length // 32) + 1),
        lambda block, i: hmac.digest(extracted, block + info + bytes([i]), "sha256"),
        initial=b"",
    )
    return b"".join(blocks)[:length]


def counter_mode(key: bytes, iv: bytes, data: bytes) -> bytes:
    """CTR once more, from single AES blocks: the counter is an integer of 128 bits and wraps."""
    start = int.from_bytes(iv, "big")
    counters = b"".join(((start + i) % 2**128).to_bytes(16, "big") for i in range(-(-len(data) // 16)))
    stream = Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(counters)  # noqa: S305 - single blocks
    return bytes(a ^ b for a, b in zip(data, stream, strict=False))


@settings(deadline=None)
@given(parts)
def test_pack_can_be_undone(given_parts: list[bytes]) -> None:
    """What was packed can be taken apart again, so no two lists of parts give the same bytes."""
    assert unpack(pack(*given_parts)) == given_parts


@settings(deadline=None)
@given(st.binary(max_size=8), st.integers(0, 8), st.integers(0, 8))
def test_pack_tells_where_parts_were_cut(whole: bytes, here: int, there: int) -> None:
    """The same bytes cut at different places are different lists, and pack differently."""
    one, other = (whole[:here], whole[here:]), (whole[:there], whole[there:])
    assert (pack(*one) == pack(*other)) == (one == other)


def test_pack_vectors() -> None:
    """The nine lists of the specification pack to its bytes."""
    cases = VECTORS["pack"]
    assert len(cases) == 9
    for case in cases:
        assert pack(*map(bytes.fromhex, case["parts"])).hex() == case["packed"]


def test_hkdf_vectors_of_rfc_5869() -> None:
    """The HKDF that `derive` calls, and the one that this file compares with, give the answers of RFC 5869, A.1 and A.3."""
    cases = VECTORS["hkdf"]
    assert len(cases) == 2
    for case in cases:
        key, salt, info, output = (bytes.fromhex(case[name]) for name in ("key", "salt", "info", "output"))
        called = primitives.HKDF(algorithm=primitives.SHA256(), length=case["length"], salt=salt or None, info=info)
        assert called.derive(key) == output
        assert hkdf(key, salt, info, case["length"]) == output


@settings(deadline=None)
@given(keys, with_context, st.lists(st.text(max_size=20), max_size=1))
def test_derive_is_hkdf_of_the_packed_names(key: bytes, purpose: Any, context: list[str]) -> None:
    """`derive` is RFC 5869 with an empty salt, 32 bytes long, over the packed label, purpose and context."""
    names = [b"mongo_envelope/v1", purpose.encode(), *(part.encode() for part in context)]
    assert derive(key, purpose, *context) == hkdf(key, b"", pack(*names), 32)


def test_working_key_vectors() -> None:
    """Both steps of every working key of the specification come out as written there."""
    cases = VECTORS["working_key"]
    assert len(cases) == 20
    assert {case["purpose"] for case in cases} == PURPOSES - WITHOUT_CONTEXT
    for case in cases:
        purpose_key = derive(bytes.fromhex(case["key"]), case["purpose"])
        assert purpose_key.hex() == case["purpose_key"]
        assert derive(purpose_key, case["purpose"], case["context"]).hex() == case["working_key"]


@pytest.mark.parametrize(
    ("file", "key", "purpose", "size"),
    [("check_value", "key", "check", 8), ("fingerprint", "root", "fingerprint", 16), ("wrap", "kek", "wrap", 32)],
)
def test_vectors_without_a_context(file: str, key: str, purpose: Any, size: int) -> None:
    """The two values that may be shown are the first bytes of their purpose keys; what wraps is all of one."""
    cases = VECTORS[file]
    assert len(cases) == 3
    for case in cases:
        assert derive(bytes.fromhex(case[key]), purpose)[:size].hex() == case[file]


def test_the_vector_file_has_no_part_that_is_not_read() -> None:
    """Whoever adds a part to derive.json has to read it here."""
    assert set(VECTORS) == {"format", "pack", "hkdf", "working_key", "check_value", "fingerprint", "wrap"}


def test_purposes_are_those_of_the_specification() -> None:
    """Eight purposes, no two of which give the same key, with or without a context."""
    assert set(get_args(primitives.Purpose)) == PURPOSES
    assert len(PURPOSES) == 8
    key = bytes(range(32))
    contexts = ["", "a", "b", *sorted(PURPOSES)]
    several = sorted(PURPOSES - WITHOUT_CONTEXT)
    derived = {derive(key, purpose, context) for purpose in several for context in contexts}  # type: ignore[arg-type]
    derived |= {derive(key, purpose) for purpose in PURPOSES}  # type: ignore[arg-type]
    assert len(derived | {key}) == len(several) * len(contexts) + len(PURPOSES) + 1


@settings(deadline=None)
@given(with_context, st.text(max_size=6), with_context, st.text(max_size=6))
def test_purpose_and_context_never_run_together(one: Any, context: str, other: Any, another: str) -> None:
    """Two pairs of purpose and context give one key only if they are one pair."""
    key = bytes(32)
    assert (derive(key, one, context) == derive(key, other, another)) == ((one, context) == (other, another))


index_names = st.tuples(*[st.text(st.characters(exclude_categories=["Cs"]), max_size=6)] * 3)


@settings(deadline=None)
@given(keys, index_names)
def test_the_key_of_an_index_is_hkdf_of_the_packed_names(key: bytes, names: tuple[str, str, str]) -> None:
    """The third step of the purpose ``index`` has a context, the name of an index and the id of a normaliser."""
    packed = pack(b"mongo_envelope/v1", b"index", *(name.encode() for name in names))
    assert derive(key, "index", *names) == hkdf(key, b"", packed, 32)


@settings(deadline=None)
@given(index_names, index_names)
def test_context_index_and_normaliser_never_run_together(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    """Two triples give one key only if they are one, and none gives what a context alone gives."""
    key = bytes(32)
    assert (derive(key, "index", *one) == derive(key, "index", *other)) == (one == other)
    assert derive(key, "index", *one) not in {derive(key, "index", each) for each in (*one, "".join(one))}


@pytest.mark.parametrize("purpose", sorted(PURPOSES))
@pytest.mark.parametrize("number", range(6))
def test_each_purpose_has_its_steps(purpose: Any, number: int) -> None:
    """None or a context; three names for an index alone; none for what stands for the key itself. Nothing else is derived."""
    steps = {0} if purpose in WITHOUT_CONTEXT else {0, 1, 3} if purpose == "index" else {0, 1}
    names = ["a"] * number
    if number in steps:
        assert len(derive(bytes(32), purpose, *names)) == 32
    else:
        with pytest.raises(ValueError, match="not a purpose of format v1"):
            derive(bytes(32), purpose, *names)


@pytest.mark.parametrize("purpose", ["", "Encrypt", "encrypt ", "sign", "value"])
def test_no_other_purpose_exists(purpose: Any) -> None:
    """A purpose that the format does not know is a mistake in the code, and says so."""
    with pytest.raises(ValueError, match="not a purpose"):
        derive(bytes(32), purpose)
    with pytest.raises(ValueError, match="has no context"):
        derive(bytes(32), "check", "c")
    with pytest.raises(ValueError, match="not 32 bytes"):
        derive(bytes(16), "encrypt")


@settings(deadline=None)
@given(keys, ivs, st.binary(max_size=100))
def test_decrypt_undoes_encrypt(key: bytes, iv: bytes, plaintext: bytes) -> None:
    """What was encrypted comes back, and the ciphertext is as long as the plaintext."""
    ciphertext = StreamCipher(key).encrypt(iv, plaintext)
    assert len(ciphertext) == len(plaintext)
    assert StreamCipher(key).decrypt(iv, ciphertext) == plaintext


@settings(deadline=None)
@given(keys, ivs, st.binary(max_size=100))
def test_encrypt_is_counter_mode(key: bytes, iv: bytes, plaintext: bytes) -> None:
    """The key stream is AES of IV, IV + 1, and so on, whatever the IV."""
    assert StreamCipher(key).encrypt(iv, plaintext) == counter_mode(key, iv, plaintext)


@settings(deadline=None)
@given(keys, st.sampled_from([4, 8, 12, 16]), st.integers(1, 4))
def test_the_counter_carries_through_the_whole_block(key: bytes, ones: int, before: int) -> None:
    """A counter whose low bytes are about to overflow carries into the rest, and from all ones wraps to zero."""
    iv = (2 ** (8 * ones) - before).to_bytes(16, "big")
    assert StreamCipher(key).encrypt(iv, bytes(96)) == counter_mode(key, iv, bytes(96))


def test_counter_mode_vector_of_sp_800_38a() -> None:
    """F.5.5 of NIST SP 800-38A: CTR-AES256, whose counter block ends in feff and carries."""
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    plaintext = bytes.fromhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51")
    ciphertext = "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
    assert StreamCipher(key).encrypt(bytes(range(0xF0, 0x100)), plaintext).hex() == ciphertext


def test_tag_vectors_of_rfc_4231() -> None:
    """HMAC-SHA-256, test cases 1 and 2 of RFC 4231, all 32 bytes."""
    cases = {
        (bytes([0x0B] * 20), b"Hi There"): "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
        (b"Jefe", b"what do ya want for nothing?"): "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
    }
    for (key, message), tag in cases.items():
        assert Authenticator(key).tag(message).hex() == tag


@settings(deadline=None)
@given(keys, st.binary(max_size=80), st.integers(0, 40), st.integers(0, 40))
def test_a_view_is_authenticated_as_its_bytes(key: bytes, message: bytes, start: int, end: int) -> None:
    """A slice of a buffer has the tag of a copy of that slice."""
    assert Authenticator(key).tag(memoryview(message)[start:end]) == Authenticator(key).tag(message[start:end])


def test_a_cipher_in_use_is_never_shared() -> None:
    """While one caller is between nonce and data, another gets a context of its own: no keystream is used twice."""
    cipher, key = StreamCipher(bytes(32)), bytes(32)
    first, second = bytes(16), bytes(15) + b"\x09"
    expected = {iv: counter_mode(key, iv, bytes(64)) for iv in (first, second)}

    assert cipher.encrypt(first, bytes(64)) == expected[first]
    taken = cipher._idle.pop()
    taken.reset_nonce(first)
    assert cipher.encrypt(second, bytes(64)) == expected[second]
    assert taken.update(bytes(64)) == expected[first]


def test_threads_that_share_a_key_get_their_own_streams() -> None:
    """Thousands of messages from eight threads at once, each as the plain construction gives it."""
    key = bytes(range(32))
    cipher, authenticator = StreamCipher(key), Authenticator(key)

    def work(thread: int) -> bool:
        for number in range(500):
            iv = thread.to_bytes(8, "big") + number.to_bytes(8, "big")
            plaintext = iv * (1 + number % 7)
            plain = Cipher(algorithms.AES(key), modes.CTR(iv)).encryptor().update(plaintext)
            if cipher.encrypt(iv, plaintext) != plain or authenticator.tag(plain) != hmac.digest(key, plain, "sha256"):
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
