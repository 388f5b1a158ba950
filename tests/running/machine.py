"""A machine in a directory: /sys, /proc, the programs of kmod, and a kernel that switches."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

SCRIPT = Path(str(files("klpbuild.running").joinpath("livepatch.sh")))

#: insmod and modprobe: the module appears, with a livepatch in transition.
_INSERT = """#!/bin/sh
echo "${0##*/} $*" >>"$LIVEPATCH_ROOT/log"
[ -e "$LIVEPATCH_ROOT/refuse" ] && { echo "modprobe: ERROR: refused" >&2; exit 1; }
for name; do :; done
name=$(basename "$name" .ko | tr - _)
module=$LIVEPATCH_ROOT/sys/module/$name
mkdir -p "$module"
echo 1 >"$module/refcnt"
echo OK >"$module/taint"
[ -e "$LIVEPATCH_ROOT/ordinary" ] && exit 0
mkdir -p "$LIVEPATCH_ROOT/making"
echo 1 >"$LIVEPATCH_ROOT/making/enabled"
echo 1 >"$LIVEPATCH_ROOT/making/transition"
mkdir -p "$LIVEPATCH_ROOT/making/vmlinux/meminfo_proc_show,1"
mv "$LIVEPATCH_ROOT/making" "$LIVEPATCH_ROOT/sys/kernel/livepatch/$name"
"""

_RMMOD = """#!/bin/sh
echo "rmmod $*" >>"$LIVEPATCH_ROOT/log"
rm -r "$LIVEPATCH_ROOT/sys/module/$1"
"""

_UNAME = """#!/bin/sh
case $1 in
-r) echo 6.1.0-47-cloud-amd64 ;;
-v) echo "#1 SMP PREEMPT_DYNAMIC Debian 6.1.170-3 (2026-05-08)" ;;
esac
"""


@dataclass
class FakeMachine:
    """A directory that stands for a machine.

    :ivar replaces: whether each livepatch takes the place of all before it.
    """

    root: Path
    replaces: bool = True
    _stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.livepatches.mkdir(parents=True)
        self.modules.mkdir(parents=True)
        (self.root / "proc").mkdir()
        (self.root / "proc" / "cmdline").write_text("quiet\n")
        programs = {
            "insmod": _INSERT,
            "modprobe": _INSERT,
            "rmmod": _RMMOD,
            "uname": _UNAME,
            "modinfo": "#!/bin/sh\nexit 1\n",
            "systemd-detect-virt": "#!/bin/sh\nexit 1\n",
        }
        for name, text in programs.items():
            path = self.root / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)

    @property
    def livepatches(self) -> Path:
        return self.root / "sys" / "kernel" / "livepatch"

    @property
    def modules(self) -> Path:
        return self.root / "sys" / "module"

    @property
    def log(self) -> list[str]:
        path = self.root / "log"
        return path.read_text().splitlines() if path.exists() else []

    def add(self, name: str, *, enabled: int = 1, transition: int = 0) -> None:
        """A livepatch that is loaded already."""
        (self.modules / name).mkdir()
        (self.modules / name / "refcnt").write_text("1\n")
        (self.modules / name / "taint").write_text("OK\n")
        (self.livepatches / name / "vmlinux" / "meminfo_proc_show,1").mkdir(parents=True)
        (self.livepatches / name / "enabled").write_text(f"{enabled}\n")
        (self.livepatches / name / "transition").write_text(f"{transition}\n")

    def add_task(self, pid: int, name: str, state: int, stack: str = "") -> None:
        task = self.root / "proc" / str(pid) / "task" / str(pid)
        task.mkdir(parents=True)
        (task / "patch_state").write_text(f"{state}\n")
        (task / "comm").write_text(f"{name}\n")
        (task / "stack").write_text(stack)

    #: LIVEPATCH_TIMEOUT of the environment; empty for none.
    timeout = ""

    def run(self, *words: str, switching: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the script; the kernel ends transitions meanwhile, or not."""
        self._stop.clear()
        kernel = threading.Thread(target=self._switch)
        if switching:
            kernel.start()
        path = f"{self.root / 'bin'}:{os.environ['PATH']}"
        try:
            return subprocess.run(
                ["sh", str(SCRIPT), *words],
                env={
                    "PATH": path,
                    "LIVEPATCH_ROOT": str(self.root),
                    "LC_ALL": "C",
                    **({"LIVEPATCH_TIMEOUT": self.timeout} if self.timeout else {}),
                },
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
        finally:
            self._stop.set()
            if switching:
                kernel.join()

    def _switch(self) -> None:
        """End transitions, as klp_try_complete_transition of the kernel."""
        while not self._stop.is_set():
            for patch in self.livepatches.iterdir():
                enabled = (patch / "enabled").read_text().strip()
                if enabled == "0":
                    self._forget(patch)
                elif (patch / "transition").read_text().strip() == "1":
                    for other in self.livepatches.iterdir() if self.replaces else ():
                        if other != patch:
                            self._forget(other)
                    (patch / "transition").write_text("0\n")
            time.sleep(0.01)

    def _forget(self, patch: Path) -> None:
        shutil.rmtree(patch)
        (self.modules / patch.name / "refcnt").write_text("0\n")
