"""Have a guest load a module, use what it brings, and unload it; and say what the kernel did."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from klpbuild.vm.log import FaultKind
from klpbuild.vm.result import End, GroupResult, Status
from klpbuild.vm.scenario import Group, GuestFiles, Planned, Step

#: What the guest's script says by its exit status.
_REFUSED, _LATE, _STAYS, _DEAD = 10, 20, 35, 77
#: The warning that the exercise is told to give.
_EXPECTED = "the exercise warns"
#: Where it does so, and what the exercise shows as often as it is told to.
_PLACE, _WARNS = " at exercise.c:", "warns"
#: sysfs shows its callers, and that is no fault of its kind.
_TWICE = "sysfs: cannot create duplicate filename"
#: A module's name behind that of a function.
_MODULE = re.compile(r"\[[^]]*\]")

#: WARN_ONCE() is made to warn again; ftrace that has shut down refuses a filter; a livepatch
#: that could not be unloaded would be in the way.
_BEFORE = r"""
echo 1 >/sys/kernel/debug/clear_warn_once
echo >/sys/kernel/tracing/set_ftrace_filter || exit 77
for module in /sys/module/livepatch_*; do [ -e "$module" ] && exit 77; done
insmod "$file" 9>>"$file" || exit 10
patch=$(echo /sys/kernel/livepatch/*)
name=${patch##*/}
turns=0
while :; do
  read -r moving <$patch/transition || exit 31
  [ "$moving" = 0 ] && break
  turns=$((turns + 1))
  [ $turns = 200 ] && exit 32
  sleep 0.05
done
"""
_AFTER = r"""
echo 0 >$patch/enabled || exit 33
turns=0
while [ -e $patch ] || { read -r uses </sys/module/$name/refcnt && [ "$uses" != 0 ]; }; do
  turns=$((turns + 1))
  [ $turns = 200 ] && exit 34
  sleep 0.05
done
rmmod $name || exit 35
"""
_USE = {
    "exercise": r"""
say=/sys/module/$name/parameters/say
cat /proc/version || exit 36
for word in + - w -; do
  echo $word >$say
  cat /proc/version
  [ $word = + ] && for on in 1 0; do
    echo $on >/proc/sys/kernel/sched_schedstats
    cat /proc/version
  done
done
""",
    "button": r"""
for turn in 1 2; do
  for file in $needed; do
    module=${file##*/}
    [ -e /sys/module/${module%.ko} ] && continue
    insmod $file 9>>$file || exit 20
  done
  cat /sys/module/button/parameters/lid_init_state
  rmmod button || exit 37
done
""",
}
#: A livepatch made from a patch: what it changes is seldom reached, but its neighbours are.
_ANY = "cat /proc/version /proc/meminfo /proc/stat /proc/self/maps >/dev/null\n"


@dataclass(frozen=True)
class Try(Step):
    """Load a livepatch, use it, unload it: one step, for a guest has many to do.

    :ivar base: the good module that it was made from.
    """

    module: Path
    base: str

    @property
    def title(self) -> str:
        return f"try {self.module.name}"

    @property
    def module_file(self) -> Path:
        return self.module

    @property
    def kernel_module(self) -> str | None:
        return "button" if self.base == "button" else None

    def command(self, files: GuestFiles) -> tuple[str, ...]:
        needed = " ".join(files.load("button")) if self.base == "button" else ""
        words = f"needed='{needed}' file={files.livepatch(self.module)}\n"
        script = words + _BEFORE + _USE.get(self.base, _ANY) + _AFTER
        return ("shell", script)


def group_of(number: int, module: Path, base: str) -> Group:
    """The one step that tries a module; whatever happens is right."""
    return Group(f"{number}", (Planned(Try(module, base), fails=None, warns=True),))


class Observed(Enum):
    """What a kernel did with a module."""

    WELL = "ran well"
    REFUSED = "refused"
    LATE = "refused late"
    WARNED = "warned"
    WRONG = "wrong result"
    STUCK = "stuck"
    STAYS = "cannot be unloaded"
    DIED = "died"
    #: ftrace was dead before: nothing was tried.
    NOT_TRIED = "not tried"


@dataclass(frozen=True)
class Verdict:
    """What a kernel did, and its own words or what it showed."""

    observed: Observed
    said: str = ""


def judge(result: GroupResult, good: str) -> Verdict:
    """What the kernel did with a module.

    :param good: what the good module shows.
    """
    (step,) = result.steps
    faults = [f for f in step.faults if f.kind is not FaultKind.STALL]
    titles = [f.title for f in faults if _EXPECTED not in f.title]
    titles += [line.text for line in step.log if line.text.startswith(_TWICE)]
    said = titles[0] if titles else ""
    if result.end not in (None, End.DONE, End.UNCLEAN) or step.status is Status.LOST:
        return Verdict(Observed.DIED, said or str(result.end))
    status = step.exit_status
    if status == _DEAD:
        return Verdict(Observed.NOT_TRIED)
    if status in (_REFUSED, _LATE):
        last = [line.text for line in step.log if line.level <= 4 and "taint" not in line.text]
        where = Observed.REFUSED if status == _REFUSED else Observed.LATE
        return Verdict(where, " | ".join((*last[-2:], step.output.strip().splitlines()[-1])))
    if status:
        return Verdict(Observed.STAYS if status == _STAYS else Observed.STUCK, f"{status}: {said}")
    if titles:
        return Verdict(Observed.WARNED, said)
    shown = _MODULE.sub("[]", step.output)
    if shown != _MODULE.sub("[]", good):
        return Verdict(Observed.WRONG, _difference(_MODULE.sub("[]", good), shown))
    warned = [f.title for f in faults if _PLACE in f.title]
    if len(warned) != good.count(_WARNS):
        return Verdict(Observed.WRONG, f"{len(warned)} warnings: {said or faults[:1]}")
    return Verdict(Observed.WELL)


def _difference(good: str, seen: str) -> str:
    pairs = zip(good.splitlines(), seen.splitlines(), strict=False)
    return next((f"{old!r} -> {new!r}" for old, new in pairs if old != new), "less is shown")
