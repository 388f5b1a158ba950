"""What goes into a livepatch, and every reason why a patch cannot be one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from klpbuild.arch import ARM64, X86_64
from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError
from klpbuild.extract.functions import CALLERS_MAX
from klpbuild.patch.commands import KEEP_LABELS
from tests.extract.pairs import SIZES, Extracted, Pair, extract
from tests.extract.program import run

CALLBACK = (
    "\n  Change it from a callback of the livepatch, or keep the new state in shadow variables."
)


def accept(name: str) -> str:
    """What messages say of a variable whose content callbacks can write."""
    return (
        f"{CALLBACK}\n  If code may see its new content at any time, and keep what it took before,"
        f' accept it:\n  --accept-data {name}, or accept_data = ["{name}"] in livepatch.toml.'
    )


DATA = """
int out(int);
int limit = 3;
static int bound = 9;
static int room[4];
static const char *label = "old";
int use(int n) { return out(n > limit ? bound : room[n & 3]) + label[0]; }
int change(int n) { limit = n; bound = n; room[n & 3]++; label++; return 0; }
"""


@pytest.mark.parametrize(
    ("change", "name", "difference"),
    [
        ({"limit = 3": "limit = 4"}, "limit", "content at +0x0 differs"),
        ({"bound = 9": "bound = 8"}, "bound", "content at +0x0 differs"),
        ({"room[4]": "room[8]"}, "room", "its size was 16 bytes and is 32"),
        ({'"old"': '"new"'}, "label", "content at +0x0 refers to 'new' instead of 'old'"),
    ],
)
def test_changed_variables_are_refused(
    tmp_path: Path, change: dict[str, str], name: str, difference: str
) -> None:
    assert Pair(tmp_path, DATA, change).refusal() == (
        f"code.c:code.o:{name}: data {name} changed: {difference}\n"
        "  The running kernel has its own, and a livepatch replaces functions only."
    ) + (accept(name) if name in ("limit", "bound") else CALLBACK)


TABLES = """
int out(const int *);
typedef int operation(int);
struct operations { operation *open, *close; };
int register_them(const struct operations *);
static int first(int n) { return n + 1; }
static int second(int n) { return n + 2; }
static const int weights[] = { 1, 2, 3, 4 };
static const struct operations handlers[] = { { first, second } };
static const struct operations passed = { first, second };
static int keep;
int weigh(int n) { return weights[n & 3]; }
int weigh_all(void) { return out(weights); }
int call(int n) { return handlers[n].open(n) + handlers[n].close(n); }
int setup(void) { return register_them(&passed) + keep++; }
"""


def test_a_changed_constant_is_copied_and_its_users_count_as_changed(tmp_path: Path) -> None:
    pair = Pair(tmp_path, TABLES, {"{ 1, 2, 3, 4 }": "{ 1, 2, 30, 4, 5 }"})
    main = """
    int out(const int *w) { return w[2]; }
    int register_them(void *p) { return 0; }
    int weigh(int), new_weigh(int), new_weigh_all(void);
    int main(void) { printf("%d %d %d", weigh(2), new_weigh(2), new_weigh_all()); return 0; }
    """
    printed, extraction = run(pair, main)
    assert printed == "3 30 30"
    assert [(f.name, f.why) for f in extraction.changed] == [
        ("weigh", "uses the changed constant weights"),
        ("weigh_all", "uses the changed constant weights"),
    ]


def test_a_table_of_functions_that_is_only_read_is_copied(tmp_path: Path) -> None:
    change = {"handlers[] = { { first, second } }": "handlers[] = { { second, first } }"}
    made = Extracted(Pair(tmp_path, TABLES, change).extract())
    assert made.changed == ["call"]
    assert made.targets(".rodata.handlers") == [("second", 0), ("first", 0)]


def test_a_table_of_functions_whose_address_is_kept_is_refused(tmp_path: Path) -> None:
    text = Pair(tmp_path, TABLES, {"passed = { first, second }": "passed = { first }"}).refusal()
    assert text == (
        "code.c:code.o:passed: data passed changed: content at +0x8 differs\n"
        "  It holds addresses of functions, and setup may pass on its own." + accept("passed")
    )


COMMANDS = """
struct command { int number; int (*run)(int); long more; };
int first(int), second(int), use(const void *), same(int);
static const struct command commands[] = { { 1, first }, { 2, second, 5 } };
struct command *kept;
extern int keyed(void);
"""
LOOP = "for (unsigned i = 0; i < sizeof(commands) / sizeof(*commands); i++) { BODY }"
HIDDEN = """ asm goto(
    "1: nop; .pushsection __ex_table, \\"a\\"; .long 1b - ., %l0 - ., 0; .popsection"
    : : : : bad)"""
EACH = "const struct command *c = &commands[i]; if (c->number == n) return c->run(n) + c->more;"


@pytest.mark.parametrize(
    "body",
    [
        LOOP.replace("BODY", EACH),
        LOOP.replace("BODY", "use(0); " + EACH),
        "const struct command *c = commands; " + LOOP.replace("BODY", "n += c++->run(n); same(i);"),
        "const struct command *c = n < 2 ? &commands[n] : 0; if (c) n += c->run(n); return n;",
        "if (same(n)) HIDDEN; n += commands[0].run(n); bad: {"
        " const struct command *c = &commands[n & 1]; same(n); n += c->run(c->number); }",
    ],
)
def test_a_function_keeps_its_table_of_functions_to_itself(tmp_path: Path, body: str) -> None:
    source = COMMANDS + "int f(int n) {" + body.replace("HIDDEN", HIDDEN) + " return n; }"
    made = Extracted(
        Pair(tmp_path, source, {"second, 5 } }": "second, 5 }, { 3, first } }"}).extract()
    )
    assert made.changed == ["f"]
    assert made.targets(".rodata.commands") == [("first", 0), ("second", 0), ("first", 0)]


@pytest.mark.parametrize(
    "body",
    [
        LOOP.replace("BODY", "use(&commands[i]);"),
        LOOP.replace("BODY", EACH + " if (n > 7) kept = (void *)c;"),
        "kept = (void *)&commands[n];",
        "return (long)&commands[n];",
        "return 0; } struct two { long n; const void *c; } g(int n) {"
        " return (struct two) { n, &commands[n] }; } int h(int n) {",
        "return use(&commands[n]);",
        "const struct command *here = &commands[n]; use(&here);",
        "const void *c = keyed() ? &commands[n] : kept; same(n); n += use(c);",
        "const void *c = commands; n += commands[n].run(n); HIDDEN; return n; bad: return (long)c;",
    ],
)
def test_a_function_passes_on_its_table_of_functions(tmp_path: Path, body: str) -> None:
    source = COMMANDS + "int f(int n) {" + body.replace("HIDDEN", HIDDEN) + " return n; }"
    text = Pair(tmp_path, source, {"second, 5 } }": "second, 5 }, { 3, first } }"}).refusal()
    assert re.search("  It holds addresses of functions, and [fg] may pass on its own.", text)


QUIRKS = """
struct quirk { int a, b; };
static const struct quirk one = { 1, 2 }, many[] = { { 1, 2 }, { 3, 4 }, { 0, 0 } };
struct device { const struct quirk *quirk; int n; } *kept;
int out(int), use(const void *);
"""


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ("return d->quirk == &one;", "one"),
        ("return kept->quirk != &one ? 3 : d->quirk->b;", "one"),
        ("const struct quirk *q = d->quirk; if (!q) q = &one; out(q->a); return q == &one;", "one"),
        ("const struct quirk *q = d->quirk ?: &one; out(q->a); return q == kept->quirk;", "one"),
        ("return d->quirk - many;", "many"),
        ("return d->quirk >= many && d->quirk < many + 2;", "many"),
        ("for (const struct quirk *q = many; q->a; q++) if (q == d->quirk) return 5; return 0;",
         "many"),
    ],
)  # fmt: skip
def test_a_copy_of_a_constant_is_not_what_the_kernel_has_stored(
    tmp_path: Path, body: str, name: str
) -> None:
    source = f"{QUIRKS} int f(struct device *d) {{ {body} }}"
    change = {"one = { 1, 2 }": "one = { 1, 5 }", "{ 3, 4 }": "{ 3, 7 }"}
    assert (
        f"code.c:code.o:{name}: data {name} changed: content at +0x{'4' if name == 'one' else 'c'}"
        " differs\n  f compares its address, which the running kernel may have stored."
        + accept(name)
    ) == Pair(tmp_path, source, change).refusal()


@pytest.mark.parametrize(
    "body",
    [
        "d->quirk = &one; return d->quirk->b + out(many[d->n].b);",
        "return use(&one) + use(many);",
        "for (const struct quirk *q = many; q->a; q++) if (q->a == d->n) return q->b; return 0;",
        "const struct quirk *q = many, *e = q + 2; for (; q < e; q++) { use(d); use(q); out(1); }"
        " return q - many < d->n;",
        "const struct quirk *low = many, *high = many + 2; while (low < high) {"
        " const struct quirk *q = low + (high - low) / 2;"
        " if (q->a < d->n) low = q + 1; else high = q; } return low->b;",
        "const struct quirk *q = d->n ? &one : 0; if (!q) return out(2); return use(q) + q->b;",
    ],
)
def test_a_constant_whose_address_is_compared_with_none_is_copied(
    tmp_path: Path, body: str
) -> None:
    source = f"{QUIRKS} int f(struct device *d) {{ {body} }}"
    change = {"one = { 1, 2 }": "one = { 1, 5 }", "{ 3, 4 }": "{ 3, 7 }"}
    assert Extracted(Pair(tmp_path, source, change).extract()).changed == ["f"]


def test_a_function_compares_its_own_constant(tmp_path: Path) -> None:
    source = (
        QUIRKS
        + """
    int f(struct device *d)
    {
        static const struct quirk own = { 5, 6 };
        if (d->n) d->quirk = &own;
        return d->quirk == &own;
    }
    """
    )
    assert Pair(tmp_path, source, {"{ 5, 6 }": "{ 5, 7 }"}).refusal() == (
        "code.c:code.o:own.0: own.0 changes, and the running kernel may have stored its address\n"
        "  f passed it on, and f compares own.0 now.\n"
        "  Keep its name and its content, or give callbacks what to write to it."
    )
    change = {"{ 5, 6 }": "{ 5, 7 }", "return d->quirk == &own": "return d->quirk->b"}
    assert Extracted(Pair(tmp_path, source, change).extract()).changed == ["f"]


KEPT = """
struct device { const char *name; int n; const struct quirk { int a; } *quirk; };
static const struct quirk one = { 1 };
int out(const char *, ...), use(const void *), irq(void);
int request_threaded_irq(int, int (*)(void), int (*)(void), long, const char *, void *);
"""


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ('d->name = "some"; return 0;', "'some'"),
        ('d->name = d->n ? "some" : "other"; d->quirk = &one; return 0;', "'some', 'other', one"),
        ('return request_threaded_irq(3, irq, 0, 0, "some", d);', "'some'"),
        ('return out("some", __func__);', ""),
        ('static const char __msg[] = "no"; d->name = __msg; return 0;', ""),
        ('struct device here = { "some", 3, &one }; return use(&here) + one.a;', ""),
    ],
)
def test_texts_and_constants_that_the_kernel_may_keep_are_told(
    tmp_path: Path, body: str, names: str
) -> None:
    """They go when the livepatch is unloaded."""
    source = f"{KEPT} int f(struct device *d) {{ d->n += 1000; {body} }}"
    change = {"{ 1 }": "{ 2 }", "1000": "1001"}
    told = Pair(tmp_path, source, change).extract().notices
    assert told == (
        (
            f"code.c:code.o:f: stores the address of {names} in the livepatch: what keeps it must"
            " be gone before that is unloaded",
        )
        if names
        else ()
    )


MODES = """
static const char *const modes[] = { "off", "on" };
struct device { const char *mode; int n; };
int out(const char *, ...);
char *strchr(const char *, int);
"""


def test_the_address_of_a_text_is_not_what_the_kernel_has_stored(tmp_path: Path) -> None:
    """The compiler takes it out of the array, which stays the kernel's."""
    source = MODES + "int f(struct device *d) { d->n += 1000; return d->mode == modes[1]; }"
    assert Pair(tmp_path, source, {"1000": "1001"}).refusal() == (
        "code.c:code.o:f: f compares the address of 'on'\n"
        "  The livepatch has its own copy of a text, and the kernel may have stored the address of"
        " its own.\n"
        "  Compare what they say: strcmp()."
    )


@pytest.mark.parametrize(
    "body",
    [
        'return strchr("some", d->n) - "some";',
        'const char *s = d->mode ?: "none"; out(s); return s == d->mode;',
        'for (const char *s = "some"; *s; s++) if (*s == d->n) return out(s); return 1;',
        'return out("%s %d", modes[d->n & 1], d->n) < d->n;',
    ],
)
def test_texts_whose_address_is_compared_with_none(tmp_path: Path, body: str) -> None:
    source = f"{MODES} int f(struct device *d) {{ d->n += 1000; {body} }}"
    assert Extracted(Pair(tmp_path, source, {"1000": "1001"}).extract()).changed == ["f"]


def test_a_changed_constant_that_data_refers_to_is_refused(tmp_path: Path) -> None:
    source = TABLES + "const int *shown = weights;"
    text = Pair(tmp_path, source, {"{ 1, 2, 3, 4 }": "{ 1, 2, 30, 4 }"}).refusal()
    assert "  shown refers to it, and the running kernel has its own." in text


DEVICES = """
struct device_id { int vendor, device; };
static const struct device_id devices[] = { { 1, 2 }, { 3, 4 }, { 0, 0 } };
extern __typeof__(devices) __mod_bus__devices_device_table
    __attribute__((unused, alias("devices")));
int out(const struct device_id *);
int match(void) { return out(devices); }
"""


def test_a_table_of_devices_has_a_name_for_modpost_alone(tmp_path: Path) -> None:
    """With it in the livepatch, a device would load the livepatch."""
    made = Extracted(Pair(tmp_path, DEVICES, {"{ 3, 4 }": "{ 3, 4 }, { 5, 6 }"}).extract())
    assert made.changed == ["match"]
    assert "devices" in made.defined
    assert "__mod_bus__devices_device_table" not in made.defined
    source = DEVICES + "const struct device_id *const driver = devices;\n"
    assert Pair(tmp_path, source, {"{ 3, 4 }": "{ 3, 5 }"}).refusal() == (
        "code.c:code.o:devices: data devices changed: content at +0xc differs\n"
        "  driver refers to it, and the running kernel has its own." + accept("devices")
    )


def test_a_changed_constant_of_other_objects_is_refused(tmp_path: Path) -> None:
    source = TABLES.replace("static const int weights", "const int weights")
    text = Pair(tmp_path, source, {"{ 1, 2, 3, 4 }": "{ 1, 2, 30, 4 }"}).refusal()
    assert "  Other objects of the kernel use it too." in text


BESIDE = """
struct pair { long a, b; };
static long __read_mostly first[4] = { 1, 2, 3, 4 };
static long __read_mostly second[4] = { 5, 6, 7, 8 };
long total(void) { long sum = 0, *p; for (p = first; p < first + 4; p++) sum += *p; return sum; }
long pick(long i) { return first[i - 1]; }
void set(long i) { first[i]++; second[i]++; }
"""


@pytest.mark.parametrize("change", [{"sum = 0": "sum = 1"}, {"[i - 1]": "[i - 2]"}])
def test_places_beside_a_variable_are_no_trouble_where_nothing_moved(
    tmp_path: Path, change: dict[str, str]
) -> None:
    main = """
    long total(void), pick(long), set(long);
    extern long new_total(void) __attribute__((weak)), new_pick(long) __attribute__((weak));
    int main(void)
    {
        set(0);
        printf("%ld %ld", new_total ? new_total() : -1, new_pick ? new_pick(2) : -1);
        return 0;
    }
    """
    printed, _ = run(Pair(tmp_path, BESIDE, change), main)
    assert printed == ("12 -1" if "sum = 0" in change else "-1 2")


@pytest.mark.parametrize("before", ["first", "second"])
def test_places_beside_a_variable_are_its_own_where_one_came_between(
    tmp_path: Path, before: str
) -> None:
    """As(1) writes the end of a loop, or what stands before a table, as a place in a section.

    GCC writes variables in reverse order, others may not.
    """
    main = """
    long new_total(void), new_pick(long), set(long);
    int main(void) { set(0); printf("%ld %ld", new_total(), new_pick(-3)); return 0; }
    """
    declaration = f"static long __read_mostly {before}["
    change = {
        declaration: f"static long __read_mostly fresh[4] = {{ 7, 8, 9, 1 }};\n{declaration}",
        "sum = 0, *p;": "sum = 0, *p; for (p = fresh; p < fresh + 4; p++) sum += *p;",
        "[i - 1]": "[i + 4] + fresh[(unsigned long)i + 4]",
        "second[i]++": "second[i]++; fresh[i]++",
    }
    printed, _ = run(Pair(tmp_path, BESIDE, change), main)
    assert printed == "36 10"


STARTING = """
int out(int);
static int __initdata scale = 3;
static int __init prepare(int n) { return out(n * scale); }
int __init start(void) { return prepare(3) + prepare(out(1)); }
void __exit stop(void) { out(1); }
int work(int n) { return out(n); }
"""


def test_changed_init_code_alone_is_refused(tmp_path: Path) -> None:
    change = {"n * scale": "n + scale"}
    assert (
        Pair(tmp_path, STARTING, change).refusal()
        == """\
code.c:code.o:start: __init code changed
  It is in .init.text, which is freed once it has run (code at +N differs).
  Leave it out of the patch, or do in a callback what it would do."""
    )


def test_init_code_that_only_moved_is_no_change(tmp_path: Path) -> None:
    change = {"static int __init prepare": "int __init first(void) { return out(9); }\n"
              "static int __init prepare", "return out(n);": "return out(n + 1);"}  # fmt: skip
    made = Extracted(Pair(tmp_path, STARTING, change).extract())
    assert made.changed == ["work"]
    assert "first" not in made.defined


def test_changed_init_data_is_refused(tmp_path: Path) -> None:
    text = Pair(tmp_path, STARTING, {"scale = 3": "scale = 4"}).refusal()
    assert "  It is used while the kernel or the module starts or ends, and not in between." in text


def test_a_reference_to_init_code_is_refused(tmp_path: Path) -> None:
    change = {"return out(n);": "return out(n) + scale;"}
    assert (
        Pair(tmp_path, STARTING, change).refusal()
        == """\
code.c:code.o:work: work refers to scale in .init.data
  The kernel has freed it.
  Take the reference out of the function."""
    )


def test_changed_exit_code(tmp_path: Path) -> None:
    pair = Pair(tmp_path, STARTING, {"{ out(1); }": "{ out(2); }"})
    assert (
        pair.refusal(in_module=True)
        == """\
code.c:code.o:stop: __exit code changed
  It is in .exit.text, where functions have no entry call (code at +N differs).
  Leave it out of the patch."""
    )
    assert pair.refusal().splitlines()[-1] == (
        "  code.c:code.o:stop: changed, and .exit.text is not in vmlinux"
    )


UNTRACED = """
int out(int);
static notrace noinline int helper(int n) { return out(n) * 3; }
notrace int exported(int n) { return out(n) * 5; }
int one(int n) { return helper(n) + 1; }
int two(int n) { return helper(n) + 2; }
"""


def test_a_function_without_an_entry_call_is_refused(tmp_path: Path) -> None:
    text = Pair(tmp_path, UNTRACED, {"* 5": "* 7"}).refusal()
    assert (
        text
        == """\
code.c:code.o:exported: changed, and cannot be livepatched
  It is in .text.exported and has no entry call (code at +N differs).
  Change its callers instead, so that they call a new function."""
    )


@pytest.mark.parametrize("more", [{}, {"+ 1": "+ 10"}, {"+ 1": "+ 10", "+ 2": "+ 20"}])
def test_one_that_is_only_called_is_replaced_with_its_callers(
    tmp_path: Path, more: dict[str, str]
) -> None:
    main = """
    int out(int n) { return n; }
    int one(int), new_one(int), new_two(int);
    int main(void) { printf("%d %d %d", one(1), new_one(1), new_two(1)); return 0; }
    """
    printed, extraction = run(Pair(tmp_path, UNTRACED, {"* 3": "* 6", **more}), main)
    one, two = int(more.get("+ 1", "1").strip("+ ")), int(more.get("+ 2", "2").strip("+ "))
    assert printed == f"4 {6 + one} {6 + two}"
    assert [function.name for function in extraction.changed] == ["one", "two"]
    if not more:
        why = "calls helper, which has no entry call and changed"
        assert {function.why for function in extraction.changed} == {why}


ALTERNATIVE_CODE = """
extern int features;
static notrace noinline int helper(int n)
{
    asm goto("jmp 6f\\n.pushsection .altinstr_aux, \\"ax\\"\\n6: testb $8, features\\n"
             "jnz %l[yes]\\njmp %l[no]\\n.popsection" :::: yes, no);
yes:
    return 3;
no:
    return n * 5;
}
int one(int n) { return helper(n) + 1; }
int two(int n)
{
    asm volatile("1: nop\\n.byte 0x90, 0x90, 0x90, 0x90\\n2:\\n"
                 ".pushsection .altinstructions,\\"a\\"\\n"
                 ".long 1b - ., 3f - .\\n.word 1\\n.byte 2b - 1b, 4f - 3f\\n.popsection\\n"
                 ".pushsection .altinstr_replacement, \\"ax\\"\\n3: call %P0\\n4:\\n"
                 ".popsection" :: "i" (helper));
    return n;
}
"""


def test_code_of_alternatives_calls_for_the_functions_that_it_is_about(tmp_path: Path) -> None:
    extraction = Pair(tmp_path, ALTERNATIVE_CODE, {"n * 5": "n * 6"}).extract()
    assert [function.name for function in extraction.changed] == ["one", "two"]
    assert "helper" in [included.name for included in extraction.included]


def test_one_whose_caller_cannot_be_replaced_is_refused(tmp_path: Path) -> None:
    source = UNTRACED.replace("int two", "notrace int two")
    assert (
        Pair(tmp_path, source, {"* 3": "* 6"}).refusal()
        == """\
code.c:code.o:two: changed, and cannot be livepatched
  It is in .text.two and has no entry call (calls helper, which has no entry call and changed).
  Change its callers instead, so that they call a new function."""
    )


def test_one_with_very_many_callers_is_refused(tmp_path: Path) -> None:
    callers = "".join(
        f"int c{n}(int n) {{ return helper(n) + {n}; }}\n" for n in range(CALLERS_MAX)
    )
    two = "int two(int n) { return helper(n) + 2; }\n"
    source = UNTRACED.replace("int one(int n) { return helper(n) + 1; }\n", "").replace(
        two, callers
    )
    extraction = Pair(tmp_path, source, {"* 3": "* 6"}).extract()
    assert len(extraction.changed) == CALLERS_MAX
    text = Pair(tmp_path, source + two, {"* 3": "* 6"}).refusal()
    assert "helper: changed, and 65 functions call it\n  It has no entry call (" in text
    assert "With one that has none up to 64 functions are replaced." in text


def test_one_whose_address_is_taken_is_refused(tmp_path: Path) -> None:
    source = UNTRACED + "int (*kept)(int) = helper;"
    assert "code.c:code.o:helper: changed, and cannot" in Pair(
        tmp_path, source, {"* 3": "* 6"}
    ).refusal()  # fmt: skip


def test_all_problems_are_told_together(tmp_path: Path) -> None:
    source = DATA + STARTING.replace("int out(int);", "").replace("int work", "int labour")
    change = {"limit = 3": "limit = 4", "bound = 9": "bound = 8", "n * scale": "n + scale"}
    text = Pair(tmp_path, source, change).refusal()
    found = [line.split(":")[2] for line in text.splitlines() if line.startswith("code.c:")]
    assert sorted(found) == ["bound", "limit", "start"]


COLLECTED = """
int out(int);
int work(int n) { return out(n); }
asm(".pushsection .pci_fixup_header, \\"a\\"\\n.long 1, work - .\\n.popsection");
static int __init start(void) { return out(3); }
asm(".pushsection .initcall6.init, \\"a\\"\\n__initcall__kmod_code__1_2_start6: .long start - .\\n"
    ".popsection");
extern int __used keep(void);
int keep(void) { return start(); }
"""


def test_a_table_that_the_kernel_has_read_is_refused(tmp_path: Path) -> None:
    assert (
        Pair(tmp_path, COLLECTED, {".long 1, work": ".long 2, work"}).refusal()
        == """\
code.c:code.o: table .pci_fixup_header changed
  The kernel has read it when it or the module started.
  Do from a callback of the livepatch what its new entries ask for."""
    )


def test_a_table_that_names_a_changed_function_stays(tmp_path: Path) -> None:
    made = Extracted(Pair(tmp_path, COLLECTED, {"return out(n);": "return out(n + 1);"}).extract())
    assert made.changed == ["work"]


RENEWED = """
int out(int);
static int state;
noinline int shared(int a) { return out(a) + state++; }
int first(int a) { return shared(a) + 1; }
int second(int a) { return out(a); }
extern int (*kept)(int);
int keeps(int a) { return out(a + 1); }
"""


def test_a_function_that_is_declared_otherwise_is_a_new_one(tmp_path: Path) -> None:
    """Its callers call it, also where their code is the same; its state is the kernel's."""
    change = {"out(a) + state++": "out(a) + 2 * state++"}
    pair = Pair(tmp_path, RENEWED, change)
    made = Extracted(pair.extract(renewed=frozenset({"shared"})))
    assert made.changed == ["first"]
    assert made.extraction.globals == ("shared",)
    assert made.undefined == {"__fentry__", "out", "state"}


def test_the_address_of_a_function_that_is_declared_otherwise(tmp_path: Path) -> None:
    pair = Pair(tmp_path, RENEWED, {"out(a + 1)": "(kept = shared, out(a + 1))"})
    assert pair.refusal(renewed=frozenset({"shared"})) == (
        "code.c:code.o: keeps keeps the address of a function that is declared otherwise\n"
        "  Who calls it by that address need not know its new declaration.\n"
        "  Add a function of another name."
    )


TRACE_PRINTK = """
int trace(const char *, ...);
#define TRACE(text) do { static const char *trace_printk_fmt \\
    __attribute__((used, section("__trace_printk_fmt"))) = text; \\
    trace(trace_printk_fmt); } while (0)
int work(int n) { TRACE("old\\n"); return n; }
int other(int n) { TRACE("other\\n"); return n; }
"""


def test_formats_of_trace_printk_are_the_livepatch_s_own(tmp_path: Path) -> None:
    change = {"return n; }\nint other": 'TRACE("new\\n"); return n + 1; }\nint other'}
    made = Extracted(Pair(tmp_path, TRACE_PRINTK, change).extract())
    assert made.changed == ["work"]
    assert len(made.contents("__trace_printk_fmt")) == 2 * 8
    assert made.undefined == {"__fentry__", "trace"}


def test_a_new_initcall_is_refused(tmp_path: Path) -> None:
    change = {"return out(n);": "return out(n + 1);", "extern int": """
    asm(".pushsection .initcall6.init, \\"a\\"\\n__initcall__kmod_c__3_4_b6:"
        " .long work - .\\n.popsection");
    extern int"""}  # fmt: skip
    assert (
        Pair(tmp_path, COLLECTED, change).refusal()
        == """\
code.c:code.o:__initcall__kmod_c__3_4_b6: __initcall__kmod_c__3_4_b6 is new in .initcall6.init
  The kernel or the module has started, and will not run it.
  Call it from a callback of the livepatch."""
    )


def test_a_new_export_is_mentioned(tmp_path: Path) -> None:
    change = {"return out(n);": "return out(n + 1);", "extern int": """
    asm(".pushsection ___ksymtab+work, \\"a\\"\\n__ksymtab_work: .long work - .\\n.popsection");
    extern int"""}  # fmt: skip
    made = Pair(tmp_path, COLLECTED, change).extract()
    assert made.notices == (
        "code.c:code.o:__ksymtab_work: a new export has no effect in a livepatch",
    )


def test_new_globals_alone_are_extracted_for_other_objects(tmp_path: Path) -> None:
    fresh = """
    int offset = 3;
    static noinline int twice(int n) { return out(n) * 2; }
    int fresh(int n) { return twice(n) + offset++; }
    int work"""
    made = Extracted(Pair(tmp_path, COLLECTED, {"int work": fresh}).extract())
    assert made.changed == []
    assert set(made.extraction.new) == {"fresh", "twice"}
    assert set(made.extraction.globals) == {"fresh", "offset"}


def test_namespaces_are_imported(tmp_path: Path) -> None:
    source = COLLECTED + """
    static const char __used __attribute__((section(".modinfo"))) a[] = "import_ns=CRYPTO";
    static const char __used __attribute__((section(".modinfo"))) b[] = "author=nobody";
    """  # fmt: skip
    made = Extracted(Pair(tmp_path, source, {"return out(n);": "return out(n + 1);"}).extract())
    assert made.contents(".modinfo") == b"import_ns=CRYPTO\0"


def test_objects_that_objtool_read_are_refused(tmp_path: Path) -> None:
    source = 'int f(void) { return 1; }\nasm(".pushsection .orc_unwind\\n.long 1\\n.popsection");'
    assert (
        Pair(tmp_path, source, {}).refusal()
        == """\
code.o: has been through objtool: it has .orc_unwind
  objtool rewrites jumps and returns, and runs over the extracted object.
  Compile it without the objtool step."""
    )


def test_other_architectures_and_files_are_refused(tmp_path: Path) -> None:
    pair = Pair(tmp_path, "int f(void) { return 1; }", {})
    elf = ElfFile.read(pair.compile("original", pair.source))
    elf.name = "code.o"
    with pytest.raises(KlpError, match="is not an object for aarch64"):
        extract(elf, elf, entry_sizes=SIZES, arch=ARM64)
    program = tmp_path / "program"
    program.write_bytes(bytes(elf.data[:16]) + b"\x02\0" + bytes(elf.data[18:]))
    with pytest.raises(KlpError, match="is not a relocatable object with symbols"):
        extract(
            ElfFile.read(program), elf, entry_sizes=SIZES, arch=X86_64
        )  # fmt: skip


KASAN = [
    *("-fsanitize=kernel-address", "--param=asan-globals=1", "--param=asan-stack=0"),
    *("--param=asan-instrumentation-with-call-threshold=0", KEEP_LABELS),
]
STRINGS = """
int printf(const char *, ...);
static const char *names[] = { "one", "two", "three" };
int tell(unsigned long n) { return printf("%s %s ", "kept", names[n & 3]); }
int pick(unsigned long n) { return "0123456789abcdef"[n]; }
void set(unsigned long n, const char *name) { names[n & 3] = name; }
"""


def test_strings_that_kasan_puts_beside_each_other(tmp_path: Path) -> None:
    """Each is known by its label, also where code counts from behind or before it."""
    main = """
    int new_tell(unsigned long), new_pick(unsigned long);
    #define STUB(name) void name(void) {}
    STUB(__asan_register_globals) STUB(__asan_unregister_globals) STUB(__asan_handle_no_return)
    STUB(__asan_load1_noabort) STUB(__asan_load8_noabort) STUB(__asan_store8_noabort)
    int main(void)
    {
        new_tell(1);
        printf("%c %c", new_pick(3), new_pick(-60));
        return 0;
    }
    """
    change = {
        '"%s %s ", "kept"': '"%s, %s ", "fresh"',
        '"0123456789abcdef"[n]': 'n < 16 ? "fedcba9876543210"[n] : "a longer one"[n + 64]',
    }
    pair = Pair(tmp_path, STRINGS, change, flags=[*KASAN, "-mcmodel=kernel"])
    printed, extraction = run(pair, main)
    assert printed == "fresh, two c n"
    assert {i.name for i in extraction.included if i.name[:1] != "."} == {"tell", "pick"}


def test_lines_of_variables_that_kasan_watches_are_no_change(tmp_path: Path) -> None:
    source = """
    int use(char *, int *);
    int out(int);
    int watched(int n) { char name[20]; int size[4]; return use(name, size) + name[n] + size[1]; }
    """
    flags = ["-fsanitize=kernel-address", "--param=asan-stack=1", KEEP_LABELS]
    change = {"int out(int);": "int out(int);\n\n\n\n\n\nint more(int n) { return out(n + 1); }"}
    extraction = Pair(tmp_path, source, change, flags=flags).extract()
    assert [changed.name for changed in extraction.changed] == []
    assert [i.name for i in extraction.included] == ["more"]


def test_constants_with_and_without_names_that_kasan_does_not_part(tmp_path: Path) -> None:
    named = 'asm(".pushsection .rodata; config: .byte 1; .popsection");\n'
    pair = Pair(tmp_path, named + STRINGS, {'"kept"': '"fresh"'}, flags=KASAN)
    assert pair.refusal() == (
        "code.o: .rodata holds config and constants without names\n"
        "  It cannot be told where each of them ends."
    )


def test_text_that_looks_like_what_kasan_says_stays_as_it_is(tmp_path: Path) -> None:
    """Objects that are not compiled for it have no such descriptions."""
    source = 'int printf(const char *, ...);\nint tell(int n) { return printf("old", n); }\n'
    main = "int new_tell(int); int main(void) { new_tell(1); return 0; }"
    printed, _ = run(Pair(tmp_path, source, {'"old"': '"1 32 16 3 n:2"'}), main)
    assert printed == "1 32 16 3 n:2"


LABELS = """
void refuse(int) __attribute__((cold));
int step(int n)
{
    static const void *const labels[] = { &&one, &&two, &&no };
    goto *labels[n];
one: return 100;
two: return 200;
no: refuse(n); return -1;
}
"""


@pytest.mark.parametrize(
    "change", [{"100": "101"}, {"100": "n + 101", "(n); return": "(9); return"}]
)
def test_places_of_labels_lead_into_the_new_code(tmp_path: Path, change: dict[str, str]) -> None:
    """The table looks the same where the code only changes a number, as BPF's interpreter."""
    main = """
    int step(int), new_step(int);
    void refuse(int n) {}
    int main(void) { printf("%d %d %d", step(0), new_step(0), new_step(2)); return 0; }
    """
    printed, extraction = run(Pair(tmp_path, LABELS, change), main)
    assert printed == "100 101 -1"
    assert not any("step" in r.name or "labels" in r.name for r in extraction.references)


def test_places_of_labels_that_the_kernel_may_write(tmp_path: Path) -> None:
    source = LABELS.replace("const void *const", "void *").replace(
        "goto", "if (n < 0) labels[-n] = &&no; else goto"
    )
    assert Pair(tmp_path, source, {"100": "101"}).refusal() == (
        "code.c:code.o:labels.0: labels.0 holds places of labels in step, which is replaced\n"
        "  The running kernel's leads into the old code.\n"
        "  Make it const, so that the livepatch may have its own."
    )
