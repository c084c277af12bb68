"""SoftHSM2 for tests: where it is, and a token of its own in a folder of its own."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def places() -> list[Path]:
    """Where SoftHSM's library is, the place that is named first."""
    named = os.environ.get("SOFTHSM2_MODULE")
    usual = (
        *Path("/usr/lib").glob("*/softhsm/libsofthsm2.so"),
        *map(
            Path, ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so")
        ),
        Path("/opt/homebrew/lib/softhsm/libsofthsm2.so"),
        *sorted(ROOT.glob(".venv/softhsm/usr/lib/*/softhsm/libsofthsm2.so")),
    )
    return [place for place in ([Path(named)] if named else usual) if place.is_file()]


def library() -> Path:
    """SoftHSM's library. Without it the test is skipped; under MONGO_ENVELOPE_EVERY_KMS=1, which make test sets, it fails."""
    for place in places():
        return place
    why = "SoftHSM2 is not installed (Debian: apt-get install softhsm2, or make .venv/.softhsm; or SOFTHSM2_MODULE=/path/to/it)"
    if os.environ.get("MONGO_ENVELOPE_EVERY_KMS") == "1":
        pytest.fail(why)
    pytest.skip(why)


def configured(folder: Path) -> Path:
    """A configuration of SoftHSM for tokens in this folder."""
    (folder / "tokens").mkdir()
    configuration = folder / "softhsm2.conf"
    configuration.write_text(
        f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n"
    )
    return configuration


def make_token(module: Path, configuration: Path, label: str, pin: str) -> None:
    """Initialise a token, in another process: python-pkcs11 cannot, and a library in use would not see its new slot."""
    command = [sys.executable, __file__, str(module), label, pin]
    subprocess.run(command, env={**os.environ, "SOFTHSM2_CONF": str(configuration)}, check=True, timeout=60)


def initialise(module: str, label: str, pin: str) -> None:
    """What softhsm2-util --init-token does, in the terms of PKCS#11 2.40, sections 5.4 to 5.6."""
    hsm = ctypes.CDLL(module)

    def call(name: str, *arguments: object) -> None:
        code = getattr(hsm, name)(*arguments)
        if code != 0:
            raise SystemExit(f"{name}: error {code:#x}")

    call("C_Initialize", None)
    count = ctypes.c_ulong()
    call("C_GetSlotList", ctypes.c_ubyte(1), None, ctypes.byref(count))
    slots = (ctypes.c_ulong * count.value)()
    call("C_GetSlotList", ctypes.c_ubyte(1), slots, ctypes.byref(count))
    free = ctypes.c_ulong(slots[count.value - 1])  # SoftHSM lists the one without a token last
    officer = b"12345678"
    call("C_InitToken", free, officer, ctypes.c_ulong(len(officer)), label.encode().ljust(32))
    session = ctypes.c_ulong()
    call("C_OpenSession", free, ctypes.c_ulong(0b110), None, None, ctypes.byref(session))
    call("C_Login", session, ctypes.c_ulong(0), officer, ctypes.c_ulong(len(officer)))
    if pin:
        call("C_InitPIN", session, pin.encode(), ctypes.c_ulong(len(pin)))
    call("C_Finalize", None)


if __name__ == "__main__":
    initialise(*sys.argv[1:])
