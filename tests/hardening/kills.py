"""Kill builds at random moments and compare what the next run makes with clean bytes.

::

    python -m tests.hardening.kills 200 RELEASE [SEED [DIRECTORY]]

builds two livepatches from patches in turns, by scons and by klpbuild, in one directory of
outputs; a run that was killed had the other patch.  Every tenth time the directory of outputs
is new, every twentieth time what klpbuild keeps of the kernel, too.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

ROOT = Path(__file__).parent.parent.parent
PATCH = """--- a/fs/proc/meminfo.c
+++ b/fs/proc/meminfo.c
@@ -26,7 +26,7 @@
 static void show_val_kb(struct seq_file *m, const char *s, unsigned long num)
 {
 \tseq_put_decimal_ull_width(m, s, num << (PAGE_SHIFT - 10), 8);
-\tseq_write(m, " kB\\n", 4);
+\tseq_write(m, " %s\\n", 4);
 }
 
 static int meminfo_proc_show(struct seq_file *m, void *v)
"""  # noqa: W293
UNITS = ("KB", "ki")
#: To the whole group of processes, as a machine that loses power; to the first process alone,
#: whose children go on; and what users and systems send.
SIGNALS = ("group", "alone", "terminate", "interrupt", "hang up")
_NUMBERS = {"terminate": signal.SIGTERM, "interrupt": signal.SIGINT, "hang up": signal.SIGHUP}
#: Logs, pages, which tell how long it took, and what no step takes for an output.
_LEFT_OUT = (".log", ".jsonl", ".lock", "inputs.c", "inputs.d", ".html")


@dataclass
class Killed:
    """What came of the kills.

    :ivar wrong: what was otherwise than it should be.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def scons(*words: str) -> list[str]:
    """The command line that ./scons starts: an interrupt waits until it can be told in a line."""
    start = re.search(
        r" -c '\n(.*)' \"\$@\"$", (ROOT / "scons").read_text(), re.DOTALL | re.MULTILINE
    )
    assert start
    return ["env", "--block-signal=INT", sys.executable, "-c", start[1], *words]


class Builds:
    """Two livepatches of one name, and the ways to build them.

    :ivar directory: a checkout's place; ``build/`` in it is the directory of outputs.
    :ivar makers: who builds.
    """

    makers: tuple[str, ...] = ("klpbuild", "scons")

    def __init__(self, directory: Path, release: str, cache: Path) -> None:
        self.directory, self.release, self.cache = directory, release, cache
        for name in ("kernel-fixtures", "site_scons", "SConstruct"):
            (directory / name).symlink_to(ROOT / name)
        self.patch = directory / "fixes/x/0001.patch"
        self.patch.parent.mkdir(parents=True)
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "KLPBUILD_CACHE": str(cache),
            "TMPDIR": str(directory / "tmp"),
        }
        (directory / "tmp").mkdir()

    def command(self, by: str) -> list[str]:
        """The command line that builds."""
        if by == "scons":
            words = ["livepatches=fixes", "livepatch=x", f"kernel={self.release}"]
            return scons("-Q", *words)
        words = ["build", "--kernel", self.release, "--name", "x", str(self.patch)]
        return [sys.executable, "-m", "klpbuild.cli", *words]

    def choose(self, unit: str) -> None:
        """Write the patch."""
        self.patch.write_text(PATCH % unit)

    def build(self, by: str) -> str:
        """Build to the end; what was wrong, or nothing."""
        done = subprocess.run(
            self.command(by),
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        said = done.stdout + done.stderr
        if done.returncode or "Traceback" in said:
            return f"exit status {done.returncode}: {said[-2000:]}"
        return ""

    def kill(self, by: str, how: str, after: float) -> str:
        """Begin to build, kill it after so many seconds; what was wrong, or nothing."""
        with tempfile.TemporaryFile("w+") as said:
            process = subprocess.Popen(
                self.command(by),
                cwd=self.directory,
                env=self.environment,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
            time.sleep(after)
            if how == "group":
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.send_signal(_NUMBERS.get(how, signal.SIGKILL))
            try:
                process.wait(120)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                return f"{by} does not end after {how}"
            said.seek(0)
            text = said.read()
        return f"after {how}: {text[-2000:]}" if "Traceback" in text else ""

    def outputs(self) -> Mapping[str, bytes]:
        """What is built, by name; pages hold times."""
        top = self.directory / "build" / self.release
        paths = [path for pattern in ("*", "*/*", "*/linked/*.ko") for path in top.glob(pattern)]
        return {
            str(path.relative_to(top)): path.read_bytes()
            for path in paths
            if path.is_file() and not str(path).endswith(_LEFT_OUT)
        }

    def leftovers(self) -> list[str]:
        """What is there of files and directories that were being made."""
        places = [self.directory / "build", self.directory / "tmp", self.cache]
        command = ["find", *map(str, places), "-name", "*.new", "-o", "-name", ".*.making-*"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return [line for line in said.splitlines() if "/prepared/" not in line]

    def forget(self, everything: bool) -> None:
        """Remove all outputs, or also what is kept of the kernel."""
        shutil.rmtree(self.directory / "build", ignore_errors=True)
        if everything:
            kept = self.cache / "kernels" / self.release / "learned"
            shutil.rmtree(kept, ignore_errors=True)


def link_kernel(cache: Path, release: str) -> Path:
    """A cache of its own, with a fetched kernel's packages and source from another one."""
    own, other = cache / "kernels" / release, _cache() / "kernels" / release
    own.mkdir(parents=True)
    shutil.copy(other / "packages.json", own)
    for name in ("root", "source"):
        (own / name).symlink_to(other / name)
    return cache


def _cache() -> Path:
    from klpbuild.kernel.cache import cache_directory

    return cache_directory()


def run(builds: Builds, kills: int, random: Random, fresh: bool = True) -> Killed:
    """Kill so many builds.

    :param fresh: whether now and then all is made from the beginning.
    """
    clean, seconds = _clean(builds)
    killed = Killed()
    for number in range(kills):
        by, how = random.choice(builds.makers), random.choice(SIGNALS)
        before, after = random.sample(UNITS, 2)
        longest = seconds[by]
        if fresh and number % 10 == 9:
            builds.forget(number % 20 == 19)
            longest *= 1 + 3 * (number % 20 == 19)
        builds.choose(before)
        moment = random.uniform(0, longest)
        begun = f"kill {number}: {by}, {how} after {moment:.2f} s"
        said = builds.kill(by, how, moment)
        killed.kinds[f"{by}, {how}"] += 1
        builds.choose(after)
        by = random.choice(builds.makers)
        said = said or builds.build(by)
        wrong = [said] if said else _differences(builds, clean[by, after])
        killed.wrong += [f"{begun}: {each}" for each in wrong]
        print(f"{begun}; then {by}: {'; '.join(wrong) or 'as it should be'}", flush=True)
    return killed


#: The right outputs by who builds and which patch.
Clean = Mapping[tuple[str, str], Mapping[str, bytes]]


def _clean(builds: Builds) -> tuple[Clean, dict[str, float]]:
    """The right outputs, and how long a build takes."""
    clean: dict[tuple[str, str], Mapping[str, bytes]] = {}
    seconds: dict[str, float] = {}
    builds.choose(UNITS[0])
    builds.build(builds.makers[0])  # makes what is kept of the kernel
    for by in builds.makers:
        for unit in UNITS:
            builds.choose(unit)
            builds.forget(False)
            begun = time.monotonic()
            problem = builds.build(by)
            seconds[by] = time.monotonic() - begun
            if problem:
                raise RuntimeError(problem)
            clean[by, unit] = builds.outputs()
    return clean, seconds


def _differences(builds: Builds, right: Mapping[str, bytes]) -> Sequence[str]:
    """What the last build made otherwise, and what is left of the killed one."""
    found = builds.outputs()
    return [
        *(f"{name} differs" for name, data in right.items() if found.get(name) != data),
        *(f"{name} is left" for name in builds.leftovers()),
    ]


def main(kills: int, release: str, seed: str = "1", directory: str = "") -> int:
    """Kill, and say what came of it."""
    with tempfile.TemporaryDirectory(prefix="klpbuild-kills-", dir=directory or None) as name:
        place = Path(name)
        (place / "checkout").mkdir()
        builds = Builds(place / "checkout", release, link_kernel(place / "cache", release))
        killed = run(builds, kills, Random(seed))
    for kind, count in sorted(killed.kinds.items()):
        print(f"{kind}: {count}")
    print(f"{sum(killed.kinds.values())} kills: {len(killed.wrong)} wrong")
    print("\n".join(killed.wrong))
    return 1 if killed.wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), *sys.argv[2:]))
