"""Write the provenance of a module: a JSON file beside it, as an in-toto statement.

The statement names the module by its digest, and says of it what `docs/provenance.md`
lists.  in-toto's form is what tools that sign and store such statements take
(Statement v1: ``_type``, ``subject``, ``predicateType``, ``predicate``).
"""

from __future__ import annotations

import json
import os
from typing import Any

import klpbuild
from klpbuild.check.rule import Report
from klpbuild.files.whole import file_digest
from klpbuild.kernel.kbuild import read_epoch
from klpbuild.patch.fix import Fix
from klpbuild.report.contents import patched_as_json
from klpbuild.report.facts import Facts, Fate
from klpbuild.report.inputs import inputs_digest

STATEMENT = "https://in-toto.io/Statement/v1"
#: Type of our predicates (``predicateType``).
PREDICATE = "urn:x-klpbuild:provenance"
SCHEMA_VERSION = 1


def source_date_epoch() -> int | None:
    """Read ``SOURCE_DATE_EPOCH``: the only time that may stand in what can be reproduced.

    :raises KlpError: when it is no number of seconds.
    """
    return read_epoch(os.environ.get("SOURCE_DATE_EPOCH", ""))


def provenance(facts: Facts) -> dict[str, Any]:
    """Make the in-toto statement on a module; see docs/provenance.md for its fields."""
    predicate = {
        "schema_version": SCHEMA_VERSION,
        "klpbuild": klpbuild.__version__,
        "source_date_epoch": facts.epoch,
        "livepatch": {
            "name": facts.livepatch.name,
            "module": facts.contents.name,
            "description": facts.description,
            "license": facts.contents.says("license"),
            "replace": facts.livepatch.replace if not facts.livepatch.own_tables else None,
            "accept_layouts": list(facts.livepatch.accepted.layouts),
            "accept_threads": list(facts.livepatch.accepted.threads),
            "accept_data": list(facts.livepatch.accepted.data),
        },
        "references": [vars(reference) for reference in facts.references],
        "kernel": _kernel(facts),
        "compiler": {"version": facts.compiler, "kcflags": facts.kernel.toolchain.kcflags},
        "inputs": {
            "sha256": inputs_digest(facts.inputs),
            "files": [vars(each) for each in facts.inputs],
        },
        "not_affected": [
            {"id": reference.id, "where": reference.where, "why": why}
            for reference, _, why in facts.not_affected()
        ],
        "patches": [
            {"name": h.name, "subject": h.subject, "changes_nothing": facts.changes_nothing(h.name)}
            for h in facts.headers
        ],
        "fixes": [_fix(fix) for fix in facts.fixes],
        "patched": patched_as_json(facts.contents) or [],
        "symbols": _symbols(facts),
        "check": _check(facts.check),
    }
    return {
        "_type": STATEMENT,
        "subject": [{"name": facts.module.name, "digest": {"sha256": facts.sha256}}],
        "predicateType": f"{PREDICATE}:{SCHEMA_VERSION}",
        "predicate": predicate,
    }


def as_json(document: dict[str, Any]) -> bytes:
    """Serialise a document as JSON, the same bytes each time."""
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode(
        errors="backslashreplace"
    )


def _kernel(facts: Facts) -> dict[str, Any]:
    kernel = facts.kernel
    return {
        "release": kernel.release,
        "version": ".".join(map(str, kernel.version)),
        "architecture": kernel.arch.name,
        "package_version": kernel.package_version,
        "packages": [
            {"part": p.part, "name": p.name, "version": p.version, "sha256": p.sha256}
            for p in facts.packages
        ],
        "configuration_sha256": file_digest(kernel.config),
        "vmlinux_build_id": facts.build_id,
        "symbols": [
            {"object": name, "sha256": digest} for name, digest in facts.used_symbols.items()
        ],
    }


def _fix(fix: Fix) -> dict[str, Any]:
    return {
        "patch": fix.patch,
        "part": fix.part,
        "subject": fix.subject,
        "cves": list(fix.cves),
        "result": str(fix.standing),
        "why": fix.why,
        "others": list(fix.others),
        "functions": list(fix.functions),
    }


def _symbols(facts: Facts) -> list[dict[str, Any]]:
    crcs = {external.symbol: external.crc for external in facts.contents.externals}
    return [_symbol(fate, crcs.get(fate.symbol), facts) for fate in facts.fates]


def _symbol(fate: Fate, crc: int | None, facts: Facts) -> dict[str, Any]:
    export = None if fate.owner else facts.side.exports.find(fate.symbol)
    return {
        "symbol": fate.symbol,
        "fate": fate.fate,
        "why": fate.why,
        "owner": export.owner if export else fate.owner,
        "sympos": fate.sympos,
        "gate": fate.gate,
        "livepatch_relocations": fate.relocations,
        "crc": None if crc is None or fate.owner else f"{crc:#010x}",
        "namespace": export.namespace if export else "",
    }


def _check(report: Report) -> dict[str, Any]:
    return {
        "summary": report.summary,
        "would_load": report.would_load,
        "checked": report.checked,
        "findings": [
            {
                "rule": finding.rule.identifier,
                "severity": finding.rule.severity.word,
                "what": finding.what,
                "where": finding.where,
            }
            for finding in report.findings
        ],
    }
