"""Make a Debian headers tree usable wherever it stands."""

from __future__ import annotations

import re
from pathlib import Path

from klpbuild.errors import KlpError
from klpbuild.files.whole import remove_tree
from klpbuild.kernel.cache import aside, locked

_OUTPUT = re.compile(r"^KBUILD_OUTPUT\s*=", re.MULTILINE)
_INCLUDE = re.compile(r"^include\s+/(\S+)/Makefile\s*$", re.MULTILINE)


def usable_build_tree(headers: Path, root: Path, shadow: Path) -> Path:
    """Find or make a tree that ``make -C`` takes for external modules.

    Debian's headers tree is a Makefile that includes the common headers' one by an
    absolute path.  Where such a tree was unpacked, `shadow` becomes a directory of
    links to it with a Makefile that names the right path.  It leaves out
    ``vmlinux``, which holds only type information (BTF) for modules: a livepatch
    needs none, and making it needs pahole.

    :param headers: the architecture's headers.
    :param root: what their absolute path is relative to.
    :param shadow: where to make the directory.
    :returns: `headers` itself, when it has a Makefile of its own.
    :raises KlpError: when the common headers are missing.
    """
    common = common_headers(headers, root)
    if common is None:
        return headers
    text = (headers / "Makefile").read_text(errors="replace")
    if not (common / "Makefile").is_file():
        raise KlpError(
            f"the headers need {common.name}, which is missing",
            where=str(headers),
            why=f"Their Makefile includes {common}/Makefile.",
            hint=f"Install the package {common.name}, or use `klpbuild kernel fetch`.",
        )
    # Newer kernels take the place of what they were built with from there.
    output = f"KBUILD_OUTPUT={shadow}\n" if _OUTPUT.search(text) else ""
    makefile = f"# Stands for {headers}\n{output}include {common}/Makefile\n"
    with locked(shadow):
        if not _is_made(shadow, makefile):
            _make(headers, shadow, makefile)
    return shadow


def common_headers(headers: Path, root: Path) -> Path | None:
    """Find the headers that a Debian headers tree needs, there or not; None for another tree."""
    match = _INCLUDE.search((headers / "Makefile").read_text(errors="replace"))
    return root / match[1] if match else None


def _is_made(shadow: Path, makefile: str) -> bool:
    try:
        return (shadow / "Makefile").read_bytes() == makefile.encode()
    except OSError:
        return False


def _make(headers: Path, shadow: Path, makefile: str) -> None:
    with aside(shadow) as making:
        tree = making / "tree"
        tree.mkdir()
        for entry in headers.iterdir():
            if entry.name not in ("Makefile", "vmlinux"):
                (tree / entry.name).symlink_to(entry)
        (tree / "Makefile").write_text(makefile)
        # Not renamed: a directory of overlayfs' lower layer cannot be (EXDEV).
        remove_tree(shadow)
        tree.rename(shadow)
