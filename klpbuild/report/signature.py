"""Read who signed a module: the PKCS#7 message that scripts/sign-file appends."""

from __future__ import annotations

from dataclasses import dataclass

from asn1crypto import cms


@dataclass(frozen=True)
class Signature:
    """A module's signature, as it says itself; nothing is verified.

    :ivar signer: common name of the issuer of the signer's certificate, as modinfo shows;
        empty when the message does not tell.
    :ivar key: serial number or identifier of the certificate, in hexadecimal digits.
    :ivar hash: name of the digest, ``sha256``.
    """

    signer: str = ""
    key: str = ""
    hash: str = ""


def read_signature(block: bytes) -> Signature:
    """Read the signer from a PKCS#7 message (RFC 5652, SignedData); empty if it is broken."""
    try:
        signed = cms.ContentInfo.load(block, strict=False)["content"]
        (signer, *_) = signed["signer_infos"]
        who = signer["sid"].chosen
        digest = str(signer["digest_algorithm"]["algorithm"].native)
        if signer["sid"].name != "issuer_and_serial_number":
            return Signature(key=bytes(who.native).hex(), hash=digest)
        issuer = who["issuer"].native
        name = str(issuer.get("common_name") or issuer.get("organization_name") or "")
        return Signature(name, f"{who['serial_number'].native:x}", digest)
    except (ValueError, TypeError, KeyError, AttributeError):
        return Signature()
