"""Read the signature behind a module as mod_verify_sig() of kernel/module/signing.c does.

Whether the kernel knows the key is in the kernel's keyrings, not in a file.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_MARKER = b"~Module signature appended~\n"
#: struct module_signature: five bytes, three of padding, the length in big-endian order.
_INFO = struct.Struct(">5B3xI")
_PKCS7 = 2
#: The first byte of every PKCS#7 message: an ASN.1 sequence.
_SEQUENCE = 0x30


@dataclass(frozen=True)
class Signature:
    """The signature behind the module's own bytes.

    :ivar module_size: how many bytes the module has without it.
    :ivar problem: why the kernel cannot read it; empty when it can.
    :ivar says: what the kernel writes to its log then.
    """

    module_size: int
    problem: str = ""
    says: str = ""


def read_signature(data: bytes) -> Signature | None:
    """Read the signature of a module file, None when there is none.

    Only PKCS#7 counts: with another kind a module is taken for an unsigned one.
    """
    if not data.endswith(_MARKER) or len(data) <= len(_MARKER):
        return None
    end = len(data) - len(_MARKER)
    if end <= _INFO.size:
        return Signature(end, "nothing stands before the mark of a signature")
    algorithm, digest, kind, signer, key, length = _INFO.unpack_from(data, end - _INFO.size)
    if length >= end - _INFO.size:
        return Signature(end, f"its signature has {length:,} bytes, more than there are")
    if kind != _PKCS7:
        return None
    start = end - _INFO.size - length
    if any((algorithm, digest, signer, key, *data[end - 7 : end - 4])):
        says = "module: PKCS#7 signature info has unexpected non-zero params"
        return Signature(end, "its signature has parameters that must be zero", says)
    if not length or data[start] != _SEQUENCE:
        return Signature(start, "its signature is no PKCS#7 message")
    return Signature(start)
