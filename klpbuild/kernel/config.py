"""Read a kernel's ``.config``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from klpbuild.arch import ARCHITECTURES, Architecture
from klpbuild.errors import KlpError, reading
from klpbuild.kernel.installed import Installed

#: By which the members of structures are laid out at random, in a build tree.
RANDSTRUCT_SEED = Path("scripts/basic/randstruct.seed")

#: Options of kernels for which no livepatch can be made, with what they do and why that is so.
_REFUSED = {
    "LTO_CLANG": (
        "this kernel is optimised when it is linked",
        "Its objects are bitcode, and functions of one file are inlined into those of others: "
        "what one file becomes cannot be told from that file.",
    )
}


@dataclass(frozen=True)
class Config:
    """The options of a kernel, named without ``CONFIG_``."""

    path: Path
    values: dict[str, str] = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> Config:
        """Read a configuration; refuse one without options."""
        with reading(path):
            text = path.read_text(errors="replace")
        values = dict(re.findall(r"^CONFIG_(\w+)=(.*)$", text, re.MULTILINE))
        if not values:
            raise KlpError("is not a kernel's configuration", where=str(path))
        return cls(path, values)

    def enabled(self, option: str) -> bool:
        """Tell whether an option is ``y`` or ``m``."""
        return self.values.get(option) in ("y", "m")

    def value(self, option: str) -> str:
        """Return an option's value without quotes, empty when it is not set."""
        text = self.values.get(option, "")
        if len(text) >= 2 and text[0] == text[-1] == '"':
            return re.sub(r"\\(.)", r"\1", text[1:-1])
        return text

    def architecture(self) -> Architecture:
        """Find the kernel's architecture; refuse one without livepatch."""
        for architecture in ARCHITECTURES:
            if all(map(self.enabled, architecture.options)):
                return architecture
        raise KlpError(
            "is for an architecture that has no livepatch",
            where=str(self.path),
            hint="Known: " + ", ".join(a.name for a in ARCHITECTURES) + ".",
        )

    def check_livepatch(self) -> None:
        """Check that livepatches for the kernel can be built and loaded.

        :raises KlpError: when the kernel has none, or was built in a way that keeps them from
            being made.
        """
        if not self.enabled("LIVEPATCH"):
            raise KlpError(
                "CONFIG_LIVEPATCH is not set: this kernel cannot load livepatches",
                where=str(self.path),
                hint="Use a kernel that was built with CONFIG_LIVEPATCH=y.",
            )
        for option, (what, why) in _REFUSED.items():
            if self.enabled(option):
                raise KlpError(
                    f"CONFIG_{option} is set: {what}",
                    where=str(self.path),
                    why=why,
                    hint="Use a kernel that was built without it.",
                )


def config_of(headers: Path, installed: Installed | None = None) -> Config:
    """Read the configuration of a headers or build tree, or that beside its kernel's image."""
    own = headers / ".config"
    found = installed.config() if installed and not own.is_file() else None
    return Config.read(found or own)
