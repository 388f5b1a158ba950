"""Objects that name nothing of what patches change in headers are not compiled."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from klpbuild.compiler.log import BuildLog
from klpbuild.elf.reader import ElfFile
from klpbuild.extract.atoms import Atom
from klpbuild.extract.changes import compare
from klpbuild.extract.part import Part
from klpbuild.kernel.source import source_tree
from klpbuild.kernel.tree import Kernel
from klpbuild.patch import identifiers
from klpbuild.patch.identifiers import seen_by
from klpbuild.patch.includes import IncludeGraph
from klpbuild.patch.pair import ObjectPair, compile_patch
from klpbuild.patch.patched import PatchedFile
from klpbuild.patch.patchfile import apply_patches
from klpbuild.patch.regions import Changed, changed_names
from klpbuild.pipeline.steps import entry_sizes
from tests.patch.small_kernel import make_kernel

HEADER = """\
#ifndef SOCK_H
#define SOCK_H
struct sock {
\tint a;
\tint state;
\tchar text[4];
\tint (*call)(int n);
};
enum kind { FIRST, SECOND = 4,
	THIRD };
#define LIMIT 3
#define WIDE(x) \\
	((x) + LIMIT)

/* set_sock() is told here. */
extern int declared(struct sock *sk, int (*done)(int));
static inline void set_sock(struct sock *sk, int n)
{
	sk->a = n;
}

static inline int graft(struct sock *sk) { set_sock(sk, 1); return 2; }
static inline int apart(struct sock *sk)
{
	return sk->state;
}
_Static_assert(THIRD == 5, "");
#endif
"""


def changed(directory: Path, old: str, new: str, header: str = HEADER) -> PatchedFile:
    assert header.count(old) == 1
    source = directory / "source"
    (source / "include/net").mkdir(parents=True, exist_ok=True)
    (source / "include/net/sock.h").write_text(header)
    before, after = (t.splitlines(keepends=True) for t in (header, header.replace(old, new)))
    patch = directory / "fix.patch"
    patch.write_text(
        "".join(difflib.unified_diff(before, after, "a/include/net/sock.h", "b/include/net/sock.h"))
    )
    return apply_patches([patch], source).files[0]


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("sk->a = n;", "sk->a = n + 1;", {"set_sock"}),
        ("int n)\n", "long n)\n", {"set_sock"}),
        ("return 2;", "return 3;", {"graft"}),
        ("#define LIMIT 3", "#define LIMIT 4", {"LIMIT"}),
        ("((x) + LIMIT)", "((x) - LIMIT)", {"WIDE"}),
        ("SECOND = 4", "SECOND = 5", {"FIRST", "SECOND", "THIRD"}),
        ("(struct sock *sk, int (", "(struct sock *sk, long (", {"declared"}),
        ("extern int declared", "int fresh(void);\nextern int declared", {"fresh"}),
        # members, as long as the structure keeps its layout
        ("int state;", "long state;", {"state"}),
        ("int state;", "int state;\n\tint :32;", set()),
        ("int state;", "int klpbuild_kept_state;", {"state", "klpbuild_kept_state"}),
        ("(*call)(int n)", "(*call)(long n)", {"call"}),
        ("n);\n};", "n);\n} __attribute__((__designated_init__));", set()),
    ],
)
def test_the_names_that_a_header_changes(
    tmp_path: Path, old: str, new: str, names: set[str]
) -> None:
    found = changed_names(changed(tmp_path, old, new))
    assert found is not None
    assert found.names | found.members == frozenset(name.encode() for name in names)
    assert bool(found.structures) is ("state" in old or "n);" in old or "(*call)" in old)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("int state;", "int other;"),
        ("int state;", "bool state;"),
        ("int state;", "struct other state;"),
        ("int state;", "int state, more;"),
        ("text[4]", "text[8]"),
        ("n);\n};", "n);\n} __packed;"),
        ("SECOND = 4", "SECOND = 1 << 4"),
        ("#define LIMIT 3", "#include <linux/limit.h>\n#define LIMIT 3"),
        ("#define LIMIT 3", "#ifdef X\n#define LIMIT 3\n#endif"),
        ("extern int declared", "static int kept = 3;\nextern int declared"),
        ("extern int declared", "DEFINE_KEY(kept);\nextern int declared"),
        ("extern int declared", "/*\nextern int declared"),  # the rest becomes a comment
        ("#define LIMIT 3", "#define LIMIT 3 \\"),  # and here a part of the macro
    ],
)
def test_where_it_cannot_be_told(tmp_path: Path, old: str, new: str) -> None:
    assert changed_names(changed(tmp_path, old, new)) is None


@pytest.mark.parametrize(
    "beside",
    [
        ("\tint a;\n", "#ifdef OF_A_FILE\n\tint a;\n#endif\n"),
        ("enum kind", "struct sock {\n\tlong a;\n};\nenum kind"),
    ],
)
def test_a_structure_that_is_not_the_same_in_all_files(
    tmp_path: Path, beside: tuple[str, str]
) -> None:
    for header, known in ((HEADER, True), (HEADER.replace(*beside), False)):
        file = changed(tmp_path, "int state;", "long state;", header)
        structures = frozenset(["struct sock"])
        expected = Changed(frozenset(), frozenset([b"state"]), structures) if known else None
        assert changed_names(file) == expected


#: By file: whether it can see a difference in set_sock().
FILES = {
    "net/calls.c": ("#include <net/sock.h>\nvoid f(void *p) { set_sock(p, 1); }\n", True),
    "net/inlines.c": ("#include <net/sock.h>\nint f(void *p) { return graft(p); }\n", True),
    "net/apart.c": ("#include <net/sock.h>\n// set_sock\nint f(void) { return 1; }\n", True),
    "net/other.c": ("#include <net/sock.h>\nint f(void *p) { return apart(p); }\n", False),
    "net/macro.c": ("#include <net/more.h>\nint f(void *p) { GRAFT(p); return 1; }\n", True),
    "net/plain.c": ("#include <net/more.h>\nint f(void *p) { return apart(p); }\n", False),
    "net/whole.c": ("#include <net/whole.h>\nint f(void) { return 1; }\n", True),
    "net/piece.c": ('#include "piece.inc"\n', True),
    "net/pasted.c": ("#include <net/sock.h>\n#define DO(x) set_##x\n"
                     "void f(void) { DO(sock)(0, 1); }\n",
                     True),
    "net/three.c": ("#include <net/sock.h>\n#define DO(x) set##x##sock\n"
                    "void f(void) { DO(_)(0, 1); }\n", True),
    "net/parameter.c": ("#include <net/sock.h>\n#define DO(set_, x) set_##x\n"
                        "int DO(a, b)(void) { return 1; }\nextern int sock;\n", False),
    "net/split.c": ("#include <net/sock.h>\n#define DO(x) set_ /* and\nthen */ ## x\n"
                    "void f(void) { DO(sock)(0, 1); }\n", True),
    "net/continued.c": ("#include <net/sock.h>\n#define DO(x) set_ \\\n\t## x\n"
                        "void f(void) { DO(sock)(0, 1); }\n", True),
    "net/commented.c": ("#include <net/sock.h>\n#define DO(x) set_ /* and */ ## /* then */ x\n"
                        "void f(void) { DO(sock)(0, 1); }\n", True),
    "net/computed.c": ("#include <net/sock.h>\n#include WHICH\n", True),
}  # fmt: skip
HEADERS = {
    "include/net/more.h": "#include <net/sock.h>\n#define GRAFT(p) graft(p)\n"
    "int set_sock_more(int);\n",
    "include/net/member.h": "#include <net/sock.h>\n"
    "struct set_sock_more { int n; struct sock *set; };\n",
    "include/net/whole.h": "#include <net/sock.h>\n"
    "static void (*const set)(void *, int) = set_sock;\n",
    "net/piece.inc": "#include <net/sock.h>\nvoid f(void) { set_sock(0, 1); }\n",
}


def test_only_what_names_a_change_sees_it(tmp_path: Path) -> None:
    file = changed(tmp_path, "sk->a = n;", "sk->a = n + 1;")
    source = tmp_path / "source"
    for path, text in (HEADERS | {path: text for path, (text, _) in FILES.items()}).items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_text(text)
    includes = IncludeGraph(source, "x86", tmp_path / "includes.json")
    names = changed_names(file)
    assert names is not None
    seen = seen_by(source, includes, [], names, {file.path: file}, FILES)
    assert set(seen or ()) == {path for path, (_, sees) in FILES.items() if sees}


#: By file: whether it can see that there is a clear_sock() now, which no file had.
BESIDE_NEW = {
    "net/pasted.c": ("#include <net/more.h>\nvoid f(void *p) { DO(sock)(p); }\n", False),
    "net/asks.c": ("#include <net/more.h>\n#ifdef clear_sock\nint f;\n#endif\n", True),
    "net/other.c": ("#include <net/more.h>\nint f(void *p) { return apart(p); }\n", False),
}


@pytest.mark.parametrize("known", [False, True])
def test_what_is_new_is_seen_by_its_whole_name_only(tmp_path: Path, known: bool) -> None:
    new = "static inline void clear_sock(struct sock *sk)\n{\n\tsk->a = 0;\n}\n"
    file = changed(tmp_path, "static inline int apart(", new + "static inline int apart(")
    source = tmp_path / "source"
    more = "#include <net/sock.h>\n#define DO(x) clear_##x\n"
    more += "#ifdef clear_sock\n#endif\n" if known else ""
    for path, text in {
        "include/net/more.h": more,
        **{p: t for p, (t, _) in BESIDE_NEW.items()},
    }.items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_text(text)
    includes = IncludeGraph(source, "x86", tmp_path / "includes.json")
    names = changed_names(file)
    assert names == Changed(frozenset([b"clear_sock"]))
    seen = seen_by(source, includes, [], names, {file.path: file}, BESIDE_NEW)
    assert seen == (None if known else {path for path, (_, sees) in BESIDE_NEW.items() if sees})


@pytest.mark.parametrize(
    ("text", "sees"),
    [
        ("int f(struct sock *sk) { return sk->state; }", True),
        ("int f(struct sock *sk) { return sk->\n\t\t/* its */ state; }", True),
        ("struct sock f = { .state = 1 };", True),
        ("int f(void *p) { return GET(p, state); }", True),
        ("int f(void *p) { return GET(state, p); }", True),  # or the other way round
        ("#define STATE \\\n\tstate\nint f(struct sock *sk) { return sk->STATE; }", True),
        ("int f(void *p) { return LOOK(p); }", True),  # a macro of a header that names it
        ("int f(void *p) { return look(p); }", True),
        ("int f(int n) { int state = n; state += 2; return state; }", False),
        ("int f(struct other *o) { return apart(o); }", False),
        ("int f(int state) { return set(2, set(state)) + (state > 1); }", False),
        ("int f(void *p) { return set(GET(set(1), state)); }", True),
        ("#define own(sk, m) sk->m\nint f(struct sock *sk) { return own(sk, state); }", True),
        ("struct sock f = { a: 1, state: 2 };", True),
        ("int f(int n) { return NO(1, n) + sizeof(TEXT); }", False),
    ],
)
def test_what_may_name_a_member(tmp_path: Path, text: str, sees: bool) -> None:
    header = HEADER.replace("return sk->state;", "return 1;")
    file = changed(tmp_path, "int state;", "unsigned state;", header)
    source = tmp_path / "source"
    more = (
        "#include <net/sock.h>\n#define GET(p, m) ((p)->m)\n#define LOOK(sk) ((sk)->state)\n"
        'int set(int state);\n#define NO(x, state) (state \\\n\t+ x)\n#define TEXT "a state" of\n'
        "#error no state\n"
        "struct other {\n\tint state;\n\tint (*of)(int state);\n};\n"
        "static inline int look(struct sock *sk) { return sk->state; }\n"
    )
    (source / "include/net/more.h").write_text(more)
    (source / "net").mkdir()
    (source / "net/one.c").write_text(f"#include <net/more.h>\n{text}\n")
    includes = IncludeGraph(source, "x86", tmp_path / "includes.json")
    names = changed_names(file)
    assert names is not None
    seen = seen_by(source, includes, [], names, {file.path: file}, ["net/one.c"])
    assert seen == frozenset({"net/one.c"} if sees else ())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "seen"),
    [
        ("\tint flags;\n", "\tunsigned flags;\n", ("fs/open.o",)),  # warn.c names it nowhere
        ("\tint flags;\n", "\tlong flags;\n", ("fs/open.o", "kernel/warn.o")),  # another layout
    ],
)
def test_objects_that_do_not_name_a_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, seen: tuple[str, ...]
) -> None:
    small = make_kernel(tmp_path / "kernel")
    header, user, other = "include/linux/kernel.h", "fs/open.c", "kernel/warn.c"
    added = "struct file {\n\tint flags;\n\tint number;\n};\n"
    for path, more in (
        (header, added),
        (user, "int flags_of(struct file *f)\n{\n\treturn f->flags / 3;\n}\n"),
        (other, "int number_of(struct file *f)\n{\n\treturn f->number;\n}\n"),
    ):
        (small.source / path).write_text((small.source / path).read_text() + more)
    monkeypatch.setattr(identifiers, "MANY", 0)
    patch = tmp_path / "fix.patch"
    patch.write_text(small.patch(header, old, new))
    accept = ["struct file"] if len(seen) > 1 else []
    done = compile_patch(
        small.kernel, [patch], tmp_path / "work", lambda line: None, accept_layouts=accept
    )
    assert tuple(pair.target for pair in done.pairs) == seen
    assert ("1 objects name nothing that changes in headers; not compiled" in done.notes) is (
        len(seen) == 1
    )


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("path", "change", "kept"),
    [
        (
            "include/net/sock.h",
            ("\tsk->sk_socket = sock;\n", "\tWRITE_ONCE(sk->sk_socket, sock);\n"),
            ("net/core/sock.o", "net/ipv4/af_inet.o"),
        ),
        (
            "include/linux/tcp.h",
            ("\tu16\ttcp_header_len;", "\ts16\ttcp_header_len;"),
            ("net/ipv4/tcp_input.o", "net/ipv4/tcp_output.o"),
        ),
    ],
    ids=["function", "member"],
)
def test_a_sample_of_what_is_left_out_differs_in_nothing(
    debian_source_kernel: Kernel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    change: tuple[str, str],
    kept: tuple[str, ...],
) -> None:
    kernel = debian_source_kernel
    old = (source_tree(kernel) / path).read_text()
    new = old.replace(*change)
    assert old != new
    before, after = (text.splitlines(keepends=True) for text in (old, new))
    patch = tmp_path / "fix.patch"
    patch.write_text("".join(difflib.unified_diff(before, after, f"a/{path}", f"b/{path}")))
    left = (
        "net/ipv4/tcp_vegas.o",
        "net/core/stream.o",
        "net/ipv6/udplite.o",
        "net/sched/act_api.o",
    )
    filtered = compile_patch(
        kernel, [patch], tmp_path / "some", lambda line: None, only={*left, *kept}
    )
    assert {pair.target for pair in filtered.pairs} == set(kept)
    assert any("name nothing that changes in headers" in note for note in filtered.notes)
    monkeypatch.setattr(identifiers, "MANY", 1 << 20)
    whole = compile_patch(kernel, [patch], tmp_path / "all", lambda line: None, only={*left, *kept})
    by_target = {pair.target: pair for pair in whole.pairs}
    assert set(by_target) >= set(kept)
    for target in left:
        # WRITE_ONCE() counts __COUNTER__ on, which is in names that count for nothing.
        pair = by_target.get(target)
        assert pair is None or not differences(kernel, pair)


def differences(kernel: Kernel, pair: ObjectPair) -> dict[Atom, str]:
    """What differs in an object."""
    part = Part(
        number=0,
        owner=pair.owner,
        where=pair.where,
        original=ElfFile.read(pair.original),
        patched=ElfFile.read(pair.patched),
        source=pair.source,
        sizes=entry_sizes(kernel, BuildLog(pair.patched.with_suffix(".log"))),
    )
    found = compare(part.correlation, part.old.tables, part.new.tables)
    return {**found.functions, **found.data, **dict.fromkeys((*found.new, *found.removed), "")}
