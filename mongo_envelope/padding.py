"""How long a payload is made, so that its length says little: Padmé, section 2.4 of ``spec/envelope-v1.md``.

Spaces at the end of a JSON text mean nothing, so whoever knows nothing of padding opens what is padded. `codec` pads; nobody takes
padding away on reading.

Source: K. Nikitin, L. Barman, W. Lueks, M. Underwood, J.-P. Hubaux, B. Ford, Reducing Metadata Leakage from Encrypted Files and
Communication with PURBs, PoPETs 2019 (4), section 4, algorithm 1.
"""

from __future__ import annotations

from typing import Literal

from .errors import ConfigurationError

__all__ = ["Padding", "is_chosen", "padded", "padme"]

#: What ``padding=`` takes.
Padding = Literal["padme"] | None


def padme(length: int) -> int:
    """The length, in bytes, that Padmé makes of this one: never less, and at most 12 % more (of 129 bytes, the worst case, 144)."""
    if length < 2:  # which no payload is
        return length
    exponent = length.bit_length() - 1
    unused = (1 << (exponent - exponent.bit_length())) - 1  # of the bits after the first, only so many as the exponent has are kept
    return (length + unused) & ~unused


def padded(payload: bytes) -> bytes:
    """A JSON text with as many spaces at its end as make its length that of Padmé, whatever spaces were there."""
    content = payload.rstrip(b" ")
    return content.ljust(padme(len(content)))


def is_chosen(padding: object) -> bool:
    """Whether ``padding=`` asks for Padmé. Raise `ConfigurationError` for what is neither that nor None."""
    if padding is not None and not (isinstance(padding, str) and padding == "padme"):
        raise ConfigurationError('padding= is None or "padme": there is no other padding')
    return padding is not None
