"""Say what this machine lacks, and the command that installs it.

Exit status: 0 when all that is required is there, 1 when something is missing.

Examples:

    klpbuild doctor
    klpbuild doctor --kernel 6.1.0-47-cloud-amd64 --json
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby

from klpbuild.doctor.examine import Finding, State, examine
from klpbuild.doctor.system import System


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's words."""
    parser.add_argument(
        "--kernel", help="also look at this kernel: release of a fetched one, or a path"
    )
    parser.add_argument("--json", action="store_true", help="write JSON")


def run(arguments: argparse.Namespace) -> int:
    """Examine and show; 0 when nothing required is missing."""
    system = System()
    findings = examine(system, arguments.kernel)
    if arguments.json:
        rows = [asdict(finding) | {"state": finding.state.name.lower()} for finding in findings]
        print(json.dumps(rows, indent=1))
    else:
        print("\n".join(report(system, findings)))
    return 0 if all(finding.state.good for finding in findings) else 1


def report(system: System, findings: Sequence[Finding]) -> Iterator[str]:
    """Write the findings by heading, and at the end what to do."""
    yield f"{system.name}, {platform.machine()}, Python {platform.python_version()}"
    for heading, group in groupby(findings, lambda finding: finding.heading):
        yield f"{heading}:"
        for finding in group:
            line = f"  {finding.state.value:<8} {finding.name:<19} {finding.text}"
            yield line.rstrip()
    bad = [finding for finding in findings if not finding.state.good]
    wanted = [finding for finding in findings if finding.state is State.ABSENT and finding.package]
    if wanted and (line := system.install_command(finding.package for finding in wanted)):
        yield f"optional: {line}"
    if not bad:
        yield "Everything that is required is there."
        return
    names = ", ".join(finding.name for finding in bad)
    yield f"Required, and not there: {names}"
    if install := system.install_command(finding.package for finding in bad):
        yield f"  {install}"
    for command in dict.fromkeys(finding.command for finding in bad if finding.command):
        yield f"  {command}"
