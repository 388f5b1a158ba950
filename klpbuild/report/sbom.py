"""Write a bill of materials as CycloneDX: the module, its inputs and what it mends."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import UTC, datetime

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType, Patch, PatchClassification, Pedigree
from cyclonedx.model.impact_analysis import ImpactAnalysisJustification, ImpactAnalysisState
from cyclonedx.model.issue import IssueClassification, IssueType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.model.vulnerability import BomTarget, Vulnerability, VulnerabilityAnalysis
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

import klpbuild
from klpbuild.report.facts import Facts
from klpbuild.report.inputs import inputs_digest
from klpbuild.report.references import PatchHeader, Reference, ReferenceKind

#: For UUIDs that are made of a module's digest (RFC 9562, 5.5).
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:x-klpbuild:sbom")

#: MODULE_LICENSE() (include/linux/module.h) as SPDX has it.
_LICENCES = {
    "GPL": "GPL-2.0-or-later",
    "GPL v2": "GPL-2.0-only",
    "GPL and additional rights": "GPL-2.0-or-later",
}


def bill_of_materials(facts: Facts) -> bytes:
    """Write the document, in JSON as CycloneDX 1.6; the same bytes each time.

    Its serial number is made of the module's digest, its time is
    SOURCE_DATE_EPOCH, or missing.
    """
    serial = uuid.uuid5(_NAMESPACE, f"{facts.sha256} {inputs_digest(facts.inputs)}")
    bom = Bom(serial_number=serial)
    epoch = facts.epoch
    when = None if epoch is None else datetime.fromtimestamp(epoch, UTC)
    bom.metadata.timestamp = when  # type: ignore[assignment]  # the format needs none
    bom.metadata.tools.components.add(
        Component(
            name="klpbuild",
            version=klpbuild.__version__,
            type=ComponentType.APPLICATION,
            bom_ref="klpbuild",
        )
    )
    module = _module(facts)
    bom.metadata.component = module
    parts = [_kernel(facts), _compiler(facts), *_inputs(facts)]
    for part in parts:
        bom.components.add(part)
    for reference, header, why in facts.not_affected():
        bom.vulnerabilities.add(_not_affected(reference, header, why))
    bom.register_dependency(module, parts)
    return (JsonV1Dot6(bom).output_as_string(indent=1) + "\n").encode()


def _module(facts: Facts) -> Component:
    return Component(
        name=facts.module.name,
        version=facts.kernel.release,
        type=ComponentType.DEVICE_DRIVER,
        bom_ref="module",
        description=facts.description or None,
        licenses=[_licence(facts.contents.says("license"))],
        hashes=[_sha256(facts.sha256)],
        pedigree=Pedigree(patches=_patches(facts)),
        properties=[
            Property(name=f"klpbuild:patched:{patched.object}", value=function.old)
            for patched in facts.contents.patched or ()
            for function in patched.functions or ()
        ],
    )


def _licence(said: str) -> DisjunctiveLicense:
    known = _LICENCES.get(said)
    return DisjunctiveLicense(id=known) if known else DisjunctiveLicense(name=said or "unknown")


def _patches(facts: Facts) -> Iterable[Patch]:
    """Describe what is mended: CVE numbers and the author's words; a commit's hash is no issue."""
    issues = [_issue(reference) for reference in facts.references]
    kinds = {reference.kind for reference in facts.references}
    backport = kinds & {ReferenceKind.UPSTREAM, ReferenceKind.CHERRY_PICKED}
    kind = PatchClassification.BACKPORT if backport else PatchClassification.UNOFFICIAL
    yield Patch(type=kind, resolves=[issue for issue in issues if issue])


def _issue(reference: Reference) -> IssueType | None:
    if reference.kind is ReferenceKind.CVE:
        return IssueType(type=IssueClassification.SECURITY, id=reference.id)
    if reference.kind is ReferenceKind.OTHER:
        return IssueType(type=IssueClassification.DEFECT, id=reference.id)
    return None


def _not_affected(reference: Reference, header: PatchHeader, why: str) -> Vulnerability:
    """State that the kernel does not have what a patch mends (VEX)."""
    return Vulnerability(
        bom_ref=reference.id,
        id=reference.id,
        analysis=VulnerabilityAnalysis(
            state=ImpactAnalysisState.NOT_AFFECTED,
            justification=ImpactAnalysisJustification.CODE_NOT_PRESENT,
            detail=f"{header.name} changes nothing in this kernel: {why}",
        ),
        affects=[BomTarget(ref="kernel")],
    )


def kernel_purl(facts: Facts) -> str:
    """Make the package URL of the kernel's image; empty for a kernel that was not fetched."""
    image = next((p for p in facts.packages if p.part == "image"), None)
    if image is None:
        return ""
    qualifiers = {"arch": facts.kernel.release.rpartition("-")[2]}
    return PackageURL("deb", "debian", image.name, image.version, qualifiers).to_string()


def _kernel(facts: Facts) -> Component:
    kernel, image = facts.kernel, next((p for p in facts.packages if p.part == "image"), None)
    purl = PackageURL.from_string(text) if (text := kernel_purl(facts)) else None
    properties = [
        Property(name="klpbuild:architecture", value=kernel.arch.name),
        Property(name="klpbuild:vmlinux_build_id", value=facts.build_id or "unknown"),
    ]
    return Component(
        name="linux",
        version=kernel.release,
        type=ComponentType.OPERATING_SYSTEM,
        bom_ref="kernel",
        purl=purl,
        hashes=[_sha256(image.sha256)] if image else [],
        properties=properties,
    )


def _compiler(facts: Facts) -> Component:
    return Component(
        name=facts.compiler.partition(" ")[0],
        version=facts.compiler,
        type=ComponentType.APPLICATION,
        bom_ref="compiler",
    )


def _inputs(facts: Facts) -> Iterable[Component]:
    for number, entry in enumerate(facts.inputs):
        yield Component(
            name=entry.name,
            type=ComponentType.FILE,
            bom_ref=f"input-{number}",
            description=str(entry.kind),
            hashes=[_sha256(entry.sha256)],
        )


def _sha256(digest: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=digest)
