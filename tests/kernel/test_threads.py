"""Functions in which kernel threads stay, in binaries that the machine's own compiler makes."""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path

import pytest

from klpbuild.elf.constants import ET
from klpbuild.elf.reader import ElfFile
from klpbuild.files import records
from klpbuild.kernel.code import Code
from klpbuild.kernel.threads import Threads
from tests.symbols.inputs import compile_object, link_module, link_vmlinux

KERNEL = """
#define NOINLINE __attribute__((noinline, noclone))
NOINLINE int kthread_create_on_node(int (*f)(void *), void *data, int node, const char *name)
{ __asm__ volatile("" :: "r"(f), "r"(data)); return 0; }
NOINLINE int copy_process(int flags, void *arguments)
{ __asm__ volatile("" :: "r"(arguments) : "memory"); return 0; }
NOINLINE int svc_create(void *program, int (*f)(void *))
{ __asm__ volatile("" :: "r"(f)); return 0; }
NOINLINE _Bool kthread_should_stop(void) { __asm__ volatile(""); return *(volatile _Bool *)8; }
NOINLINE void schedule(void) { __asm__ volatile(""); }
NOINLINE void schedule_timeout(long time) { __asm__ volatile("" :: "r"(time)); }
NOINLINE void prepare_to_wait(void *head, void *entry, int state)
{ __asm__ volatile("" :: "r"(head), "r"(entry), "r"(state)); }
NOINLINE void finish_wait(void *head, void *entry)
{ __asm__ volatile("" :: "r"(head), "r"(entry)); }
NOINLINE void kthread_exit(int code) { __asm__ volatile("" :: "r"(code)); for (;;) ; }
NOINLINE int out(int n) { __asm__ volatile("" :: "r"(n)); return *(volatile int *)8; }
"""

THREADS = """
#define NOINLINE __attribute__((noinline, noclone))
int kthread_create_on_node(int (*f)(void *), void *data, int node, const char *name);
int copy_process(int flags, void *arguments);
int svc_create(void *program, int (*f)(void *));
_Bool kthread_should_stop(void);
void schedule(void), schedule_timeout(long time), prepare_to_wait(void *, void *, int);
void finish_wait(void *, void *);
__attribute__((noreturn)) void kthread_exit(int code);
int out(int n);
extern volatile int dying, waiting;
volatile int dying, waiting;

/* What threads begin with. */
static int asking(void *data) { while (!kthread_should_stop()) out(1); return 0; }
static int flagged(void *data) { while (!dying) { schedule(); out(2); } return 0; }
static int polling(void *data) { while (!dying) { schedule_timeout(9); out(3); } return 0; }
static int endless(void *data) { for (;;) out(4); }
static int once(void *data) { out(5); schedule(); return 0; }
static int finite(void *data) { for (int i = 0; i < 9; i++) out(i); return 0; }
static int ending(void *data) { while (out(6)) if (out(26)) kthread_exit(1); kthread_exit(0); }
static int either(void *data) { while (!dying) { schedule(); out(8); } return 0; }
static int handed(void *data) { while (!dying) { schedule(); out(9); } return 0; }
static int stored(void *data) { while (!dying) { schedule(); out(10); } return 0; }
static int served(void *data) { while (out(11)) out(12); return 0; }

/* What these call. */
static NOINLINE int loop(int n) { while (!dying) { schedule(); out(n); } return n; }
static NOINLINE int above(int n) { return loop(n + 1) + 1; }
static int begins(void *data) { out(13); return above(2); }
static NOINLINE int step(int n) { while (out(n)) schedule(); return n; }
static int stepping(void *data) { while (!dying) { schedule(); step(14); } return 0; }
static NOINLINE int work(void) { while (waiting) schedule(); return out(15); }
static int periodic(void *data) { while (!dying) { schedule_timeout(9); work(); } return 0; }
static NOINLINE int soon(void)
{ while (waiting) { prepare_to_wait(0, 0, 2); schedule(); } return out(16); }
static int writing(void *data) { while (!dying) { schedule_timeout(9); soon(); } return 0; }
static NOINLINE int idle(void)
{ while (waiting && !kthread_should_stop()) schedule(); return out(17); }
static int resting(void *data) { while (!dying) { schedule(); idle(); } return 0; }
static NOINLINE _Bool told(void) { return kthread_should_stop() || dying; }
static int obeying(void *data) { while (!told()) out(18); return 0; }

/* What they are given. */
struct job { int (*run)(void *); void *data; };
static int relay(void *data) { struct job *job = data; out(19); return job->run(job->data) + 1; }
static int other(void *data) { return (*(int (*)(void *))dying)(data) + out(20); }

/* What nobody calls by its name. */
static int kept(void *data) { while (!kthread_should_stop()) out(21); return 0; }
static int worked(void *data) { while (waiting) schedule(); return out(22); }
static int pointed(void *data) { while (!dying) { schedule(); out(27); } return 0; }
void give(struct job *job) { job->run = pointed; }
int shown(void *data) { while (!kthread_should_stop()) out(23); return 0; }
__asm__(".pushsection .rodata; __ksymtab_shown: .quad shown; .popsection");
struct job jobs[] = { { kept }, { worked }, { shown } };
NOINLINE int named(int n) { while (n && !kthread_should_stop()) n = out(24); return n; }
int user(int n) { return named(n) + named(n + 1); }

/* What a thread of a module is not given, though code stores its address. */
static int passing(void *data) { struct job *job = data; out(28); return job->run(0) + 1; }
void give_passing(struct job *job) { job->run = passing; }

/* Work items. */
struct list { struct list *next, *prev; };
struct work { long data; struct list entry; void (*run)(struct work *); };
struct device { int number; struct work work[4]; };
#define WAIT(state) do { while (waiting) { prepare_to_wait(0, 0, state); schedule(); } \
    finish_wait(0, 0); } while (0)
#define INIT_WORK(w, f) ((w)->data = 0xfffffffe0, (w)->entry.next = &(w)->entry, \
    (w)->entry.prev = &(w)->entry, (w)->run = (f))
static void submitting(struct work *work) { while (out(29)) WAIT(2); }
static void awaiting(struct work *work) { WAIT(1); out(30); }
static void serving(struct work *work) { while (!dying) { WAIT(1); out(31); } }
static NOINLINE int listen(int n) { while (!dying) { WAIT(1); out(32); } return n; }
static void listening(struct work *work) { listen(1); out(33); }
static void declared(struct work *work) { while (!dying) { WAIT(1); out(34); } }
static void unending(void *data) { for (;;) { schedule(); out(35); } }
/* As do_exit(), which ends the task in which it is called. */
NOINLINE void leave(int n) { while (waiting) schedule(); for (;;) out(n); }
int leaving(int n) { if (n) leave(n); return out(36); }
static struct work item = { 0xfffffffe0, { &item.entry, &item.entry }, declared };
void *items[] = { &item, unending };
void init_device(struct device *device)
{
    INIT_WORK(&device->work[0], submitting);
    INIT_WORK(&device->work[1], awaiting);
    INIT_WORK(&device->work[2], serving);
    INIT_WORK(&device->work[3], listening);
}

static NOINLINE int start(int (*function)(void *), void *data)
{ out(25); return kthread_create_on_node(function, data, -1, "x"); }
struct arguments { long flags; int (*function)(void *); };
int fork(void)
{ struct arguments arguments = { 1, stored }; return copy_process(3, &arguments); }
#define RUN(f) int run_##f(void) { return kthread_create_on_node(f, 0, -1, #f); }
RUN(asking) RUN(flagged) RUN(polling) RUN(endless) RUN(once) RUN(finite) RUN(ending)
RUN(begins) RUN(stepping) RUN(periodic) RUN(writing) RUN(resting) RUN(obeying) RUN(relay)
RUN(other)
int run_either(int n)
{ return kthread_create_on_node(n ? either : once, (void *)(long)n, -1, "either"); }
int run_handed(void) { return start(handed, jobs); }
int run_served(void) { return svc_create(jobs, served); }
"""

FLAGS = (
    "-O2", "-mno-sse", "-pg", "-mfentry", "-fno-toplevel-reorder", "-fno-ipa-icf", "-fno-inline",
)  # fmt: skip
RETPOLINES = ("-mindirect-branch=thunk-extern", "-mfunction-return=thunk-extern")
FENTRY = "__attribute__((no_instrument_function)) void __fentry__(void) { }\n"

STAYS = {
    "asking": "run_asking() starts one with it",
    "flagged": "run_flagged() starts one with it",
    "polling": "run_polling() starts one with it",
    "endless": "run_endless() starts one with it",
    "either": "run_either() starts one with it",
    "handed": "run_handed() starts one with it",
    "stored": "fork() starts one with it",
    "served": "run_served() starts one with it",
    "begins": "run_begins() starts one with it",
    "above": "run_begins() starts one with begins(), which calls it",
    "loop": "run_begins() starts one with begins(), which calls it",
    "stepping": "run_stepping() starts one with it",
    "periodic": "run_periodic() starts one with it",
    "work": "run_periodic() starts one with periodic(), which calls it",
    "writing": "run_writing() starts one with it",
    "resting": "run_resting() starts one with it",
    "idle": "run_resting() starts one with resting(), which calls it",
    "obeying": "run_obeying() starts one with it",
    "relay": "run_relay() starts one with it",
    "kept": "it asks whether its thread is to end",
    "serving": "it is a work item that waits again and again",
    "listening": "it is a work item that waits again and again",
    "listen": "a work item that waits again and again calls it: listening()",
    "declared": "it is a work item that waits again and again",
    "unending": "it sleeps again and again, and does not return",
}
RETURNS = (
    "once", "finite", "ending", "step", "soon", "told", "other", "worked", "shown", "named",
    "user", "start", "out", "run_asking", "passing", "submitting", "awaiting",
    "leave",
)  # fmt: skip


@pytest.fixture(scope="module", params=["vmlinux", "module", "retpolines"])
def binary(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory: Path = tmp_path_factory.mktemp(request.param)
    more = RETPOLINES if request.param == "retpolines" else ()
    threads = compile_object(directory, "threads.c", THREADS, *FLAGS, *more)
    if request.param == "vmlinux":
        kernel = compile_object(directory, "kernel.c", KERNEL + FENTRY, *FLAGS)
        return link_vmlinux(directory, threads, kernel)
    return link_module(directory, "module.ko", threads)


@cache
def functions(path: Path) -> dict[str, tuple[str, int]]:
    """Section and offset, in vmlinux the address, of each function."""
    elf = ElfFile.read(path)
    return {
        s.name: (elf.sections[s.st_shndx].name, s.st_value)
        for s in elf.symbol_list
        if s.is_function and s.is_defined
    }


@pytest.mark.parametrize("name", STAYS)
def test_a_thread_stays(binary: Path, name: str) -> None:
    assert Threads.read(binary).stay(*functions(binary)[name]) == STAYS[name]


@pytest.mark.parametrize("name", RETURNS)
def test_a_thread_comes_back(binary: Path, name: str) -> None:
    """It returns, or waits for what comes soon, or users call it, too."""
    if name in functions(binary):
        assert Threads.read(binary).stay(*functions(binary)[name]) == ""


def test_a_thread_is_given_a_function_of_its_module(binary: Path) -> None:
    """In vmlinux, kthread() is given all of them."""
    found = Threads.read(binary).stay(*functions(binary)["pointed"])
    is_module = ElfFile.read(binary).e_type == ET.REL
    assert found == "relay(), which threads begin with, calls what it is given" * is_module


def test_all_threads_wait_in_the_scheduler(tmp_path: Path) -> None:
    kernel = compile_object(tmp_path, "kernel.c", KERNEL + FENTRY, *FLAGS)
    vmlinux = link_vmlinux(tmp_path, kernel)
    found = Threads.read(vmlinux).stay(*functions(vmlinux)["schedule"])
    assert found == "all that wait do so in it"


def test_the_answer_for_a_binary_is_kept_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = compile_object(tmp_path, "kernel.c", KERNEL + FENTRY, *FLAGS)
    vmlinux, cache = link_vmlinux(tmp_path, kernel), tmp_path / "cache"
    place = functions(vmlinux)["schedule"]
    later = time.time_ns() + 10 * records.SETTLED_NS
    monkeypatch.setattr(records.time, "time_ns", lambda: later)
    assert Threads.staying(vmlinux, *place, cache) == "all that wait do so in it"

    def refuse(path: Path) -> Threads:
        raise AssertionError(path)

    monkeypatch.setattr(Threads, "read", refuse)
    assert Threads.staying(vmlinux, *place, cache) == "all that wait do so in it"
    for other in ((place[0], place[1] + 4, cache), (*place, tmp_path / "other")):
        with pytest.raises(AssertionError):
            Threads.staying(vmlinux, *other)
    os.utime(vmlinux, ns=(0, 0))
    with pytest.raises(AssertionError):
        Threads.staying(vmlinux, *place, cache)


def test_callers_are_those_that_the_disassembler_finds(binary: Path) -> None:
    """A branch that only looks like one, within another instruction, is none."""
    code = Code(ElfFile.read(binary))
    (loop,) = code.named(["loop"])
    assert {code.name(place) for place in code.callers({loop})} == {"above"}
    (start,) = code.named(["start"])
    assert {code.name(place) for place in code.callers({start})} == {"run_handed"}
