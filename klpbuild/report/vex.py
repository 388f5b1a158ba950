"""Write an OpenVEX document: CVE numbers that do not affect a kernel with this livepatch."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import klpbuild
from klpbuild.patch.fix import Standing
from klpbuild.report.facts import Facts
from klpbuild.report.provenance import as_json
from klpbuild.report.references import ReferenceKind
from klpbuild.report.sbom import kernel_purl

#: https://github.com/openvex/spec, OPENVEX-SPEC.md
_CONTEXT = "https://openvex.dev/ns/v0.2.0"


def vex(facts: Facts) -> bytes:
    """Write the document, in JSON as OpenVEX 0.2.0; the same bytes each time.

    It speaks of a kernel that has the livepatch loaded.  Its time, which the format wants, is
    SOURCE_DATE_EPOCH, or 1970.
    """
    purl = kernel_purl(facts)
    product: dict[str, Any] = {"@id": purl or f"urn:x-klpbuild:linux:{facts.kernel.release}"}
    if purl:
        product["identifiers"] = {"purl": purl}

    def statement(cve: str, status: str, **more: str) -> dict[str, Any]:
        return {"vulnerability": {"name": cve}, "products": [product], "status": status, **more}

    loaded = f"{facts.contents.name} replaces the functions at fault, as long as it is loaded."
    statements = [
        statement(
            reference.id,
            "not_affected",
            justification="inline_mitigations_already_exist",
            impact_statement=loaded,
        )
        for reference in facts.references
        if reference.kind is ReferenceKind.CVE
    ]
    statements += [
        statement(
            reference.id,
            "not_affected",
            justification="vulnerable_code_not_present",
            impact_statement=f"{header.name} changes nothing in this kernel: {why}",
        )
        for reference, header, why in facts.not_affected()
    ]
    statements += [
        statement(
            cve, "affected", action_statement=f"{fix.name} is not in the livepatch: {fix.result}"
        )
        for fix in facts.fixes
        if not fix.good or fix.standing is Standing.SKIPPED
        for cve in fix.cves
    ]
    document = {
        "@context": _CONTEXT,
        "@id": f"urn:x-klpbuild:vex:{facts.sha256}",
        "author": "klpbuild",
        "timestamp": datetime.fromtimestamp(facts.epoch or 0, UTC).isoformat(),
        "version": 1,
        "tooling": f"klpbuild {klpbuild.__version__}",
        "statements": statements,
    }
    return as_json(document)
