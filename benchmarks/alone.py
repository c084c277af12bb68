"""Sealing and opening alone, without a server, against the floor below which nobody can seal.

The floor of a seal is AES-256-CTR of the payload and HMAC-SHA-256 of what is signed, by the cheapest calls of ``cryptography``
(a context that is used again, a keyed HMAC that is copied), and pydantic's own ``to_json`` of the same model; that of an open is
the same and pydantic's ``validate_json``. Above the floor is the rest: randomness, BSON, the split into metadata and payload,
checks.

"After a round trip" is one call right after the answer of a server: the processor's caches hold something else then, which is
what a service meets that saves one document.
"""

import os
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import bson
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from benchmarks.contenders import OPTIONS, Plain
from benchmarks.measure import Effort, Result, Side, console, in_turns
from mongo_envelope import DocumentCodec, KeyRing

__all__ = ["CIPHER", "FLOOR", "HASH", "OURS", "PLAIN", "alone"]

OURS, FLOOR, PLAIN = "ours", "floor", "plaintext: dump and bson.encode, or bson.decode and validate"
CIPHER, FRESH, HASH = "AES-256-CTR", "AES-256-CTR in a context of its own", "HMAC-SHA-256"
Part = tuple[Callable[..., Any], Sequence[Any]]  # what is called, and with what


def alone(plain: Plain, effort: Effort, *, loops: bool) -> list[Result]:
    """The parts of a seal and of an open. ``loops``: in a tight loop; else each call after a round trip over ``plain``."""
    where, name, ids = "in a loop" if loops else "after a round trip", plain.family.name, plain.fill()

    def round_trip() -> None:
        plain.collection.find_one({"_id": random.choice(ids)})

    results = []
    for title, parts in _parts(plain).items():
        with console.status(f"{name}: {title} {where}"):
            sides = [_looped(key, *part) if loops else _single(key, *part, round_trip) for key, part in parts.items()]
            kind = f"{title}, {where}"
            results.append(Result(name, kind, kind, 1, in_turns(sides, effort)))
    return results


def _parts(plain: Plain) -> dict[str, dict[str, Part]]:
    model = plain.family.model
    codec = DocumentCodec(model, keys=KeyRing.generate(), context="alone")
    people = [codec.open(codec.seal(person)) for person in plain.family.people]
    sealed = [codec.seal_bson(person) for person in people]
    signed = [raw[4:-44] for raw in sealed]
    blobs = [(document["iv"], document["data"]) for document in map(bson.decode, sealed)]
    to_json, validate_json = model.__pydantic_serializer__.to_json, model.__pydantic_validator__.validate_json
    texts = [to_json(person) for person in people]
    key, keyed = os.urandom(32), HMAC(os.urandom(32), SHA256())
    context = Cipher(AES(key), CTR(os.urandom(16))).encryptor()
    documents = [person.model_dump(by_alias=True) for person in plain.people]
    stored = [bson.encode(document, codec_options=OPTIONS) for document in documents]

    def cipher(blob: tuple[bytes, bytes]) -> bytes:
        context.reset_nonce(blob[0])
        return context.update(blob[1])

    def fresh(blob: tuple[bytes, bytes]) -> bytes:
        return Cipher(AES(key), CTR(blob[0])).encryptor().update(blob[1])

    def tag(message: bytes) -> bytes:
        copy = keyed.copy()
        copy.update(message)
        return copy.finalize()

    def floor_of_seal(each: tuple[Any, tuple[bytes, bytes], bytes]) -> None:
        to_json(each[0])
        cipher(each[1])
        tag(each[2])

    def floor_of_open(each: tuple[Any, tuple[bytes, bytes], bytes]) -> None:
        tag(each[2])
        cipher(each[1])
        validate_json(each[0])

    both = {CIPHER: (cipher, blobs), FRESH: (fresh, blobs), HASH: (tag, signed)}
    return {
        "seal": {
            OURS: (codec.seal_bson, people),
            FLOOR: (floor_of_seal, list(zip(people, blobs, signed, strict=True))),
            "pydantic to_json": (to_json, people),
            **both,
            PLAIN: (lambda person: bson.encode(person.model_dump(by_alias=True), codec_options=OPTIONS), plain.people),
        },
        "open": {
            OURS: (codec.open_bson, sealed),
            FLOOR: (floor_of_open, list(zip(texts, blobs, signed, strict=True))),
            "pydantic validate_json": (validate_json, texts),
            **both,
            PLAIN: (lambda raw: plain.model.model_validate(bson.decode(raw, OPTIONS)), stored),
        },
    }


def _looped(key: str, function: Callable[..., Any], arguments: Sequence[Any]) -> Side:
    def run(_: None) -> int:
        began = time.perf_counter_ns()
        for each in arguments:
            function(each)
        return time.perf_counter_ns() - began

    return Side(key, len(arguments), lambda: None, run)


def _single(key: str, function: Callable[..., Any], arguments: Sequence[Any], round_trip: Callable[[], None]) -> Side:
    def run(chosen: Sequence[Any]) -> int:
        spent = 0
        for each in chosen:
            round_trip()
            began = time.perf_counter_ns()
            function(each)
            spent += time.perf_counter_ns() - began
        return spent

    count = min(20, len(arguments))
    return Side(key, count, lambda: random.sample(arguments, count), run)
