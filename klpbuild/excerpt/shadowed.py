"""Begin a patch with shadow variables in place of a structure's new members.

Objects that exist have no room for a new member; the kernel keeps data beside each one, found by
its address (Documentation/livepatch/shadow-vars.rst).  The author finishes it by hand.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher, unified_diff

from klpbuild.patch.csource import Lines
from klpbuild.patch.members import ONE_NAME, Declared
from klpbuild.patch.patched import PatchedFile

_INCLUDE = re.compile(rb"^[ \t]*#[ \t]*include\b.*\n", re.MULTILINE)
_BY_VALUE = re.compile(rb"\b(?:struct|union) \w+ \w")
#: What a member's value is asked of, such as ``x->list[0]`` before ``->member``.
_OWNER = rb"(?P<owner>[A-Za-z_]\w*(?:\([^()]*\)|\[[^\[\]]*\]|(?:->|\.)\w+)*)\s*->\s*"
_WRITTEN = re.compile(rb"\+\+|--|(?:[-+*/%&|^]|<<|>>)?=(?!=)")
_FREED = re.compile(
    rb"^(?P<indent>[ \t]*)(?P<call>k?v?free|kfree_sensitive|kmem_cache_free)"
    rb"\((?P<before>[^;\n]*?)(?P<object>\w+)\);[ \t]*\n",
    re.MULTILINE,
)
_HELPERS = b"""
/*
 * In place of a member %(member)s of %(name)s: data beside each one, which is 0 until it is
 * set, and if there is no memory for it.
 */
#define %(number)s 0x%(crc)08x /* ours: any number, together with the object */
typedef %(type)s%(word)s_t;

static inline %(word)s_t %(word)s(const %(name)s *object)
{
	%(word)s_t *found = klp_shadow_get((void *)object, %(number)s);

	return found ? *found : 0;
}

static inline void %(word)s_set(%(name)s *object, %(word)s_t value)
{
	%(word)s_t *found = klp_shadow_get_or_alloc(object, %(number)s, sizeof(*found),
			GFP_ATOMIC, NULL, NULL);

	if (found)
		*found = value;
}
"""
_END = b"""
void %(word)s_end(struct klp_object *object)
{
	klp_shadow_free_all(%(number)s, NULL);
}
"""


@dataclass
class Shadowed:
    """Patched files in which shadow variables take the place of members.

    :ivar texts: what becomes of each file, by its path.
    :ivar ends: functions that free all of them, each with the path of its file.
    :ivar doubts: what the author must look at.
    """

    texts: dict[str, bytes]
    ends: list[tuple[str, str]] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    def patch(self, files: Sequence[PatchedFile]) -> bytes:
        """Write the difference to the files as they were."""
        out: list[bytes] = []
        for file in files:
            sides = file.original or b"", self.texts[file.path]
            old, new = (
                [line.decode("latin-1") for line in text.splitlines(keepends=True)]
                for text in sides
            )
            before = f"a/{file.path}" if file.original is not None else "/dev/null"
            diff = "".join(unified_diff(old, new, before, f"b/{file.path}"))
            out.append(diff.encode("latin-1"))
        return b"".join(out)


@dataclass(frozen=True)
class _Words:
    """What is written of a member.

    :ivar name: of the structure, such as ``struct x``.
    """

    name: bytes
    member: bytes
    type: bytes

    @property
    def word(self) -> bytes:
        """What the names of its functions begin with."""
        return b"klp_%b_%b" % (self.name.split()[1], self.member)

    @property
    def number(self) -> bytes:
        """The macro of its number."""
        return self.word.upper()

    @property
    def told(self) -> str:
        """Its name in messages."""
        return f"{self.member.decode()} of {self.name.decode()}"

    def fill(self, text: bytes) -> bytes:
        """Fill in a text."""
        named = {
            b"member": self.member,
            b"name": self.name,
            b"type": self.type,
            b"word": self.word,
            b"number": self.number,
            b"crc": zlib.crc32(self.word),
        }
        return text % named


def added_members(file: PatchedFile, name: str) -> list[bytes]:
    """List the members that a patch adds to a structure, if it does nothing else there."""
    if file.original is None:
        return []
    olds, news = (Declared.find(text, name) for text in (file.original, file.patched))
    if olds is None or news is None:
        return []
    added: list[bytes] = []
    for kind, _, _, first, last in SequenceMatcher(
        None, olds.texts, news.texts, False
    ).get_opcodes():
        if kind not in ("equal", "insert"):
            return []
        added += news.texts[first:last] if kind == "insert" else []
    return added


def with_shadows(files: Sequence[PatchedFile], names: Sequence[str]) -> Shadowed:
    """Replace the members that patches add to structures.

    :param names: the structures, such as ``struct x``.
    """
    done = Shadowed({file.path: file.patched for file in files})
    for name in names:
        for file in files:
            for declaration in added_members(file, name):
                _replace(done, file.path, name, declaration)
    return done


def _replace(done: Shadowed, path: str, name: str, declaration: bytes) -> None:
    """Replace one member of a structure that a file declares."""
    match = ONE_NAME.fullmatch(declaration)
    if match is None or not match["name"] or b"[" in match["rest"] or _BY_VALUE.search(declaration):
        done.doubts.append(f"{name}: {declaration.decode(errors='replace')} is left as it is")
        return
    words = _Words(name.encode(), match["name"], match["type"])
    text = done.texts[path]
    declared = Declared.find(text, name)
    assert declared is not None
    begin, end = declared.members[declared.texts.index(declaration)]
    begin = text.rfind(b"\n", 0, begin) + 1
    after = text.index(b"\n", text.index(b";", declared.end)) + 1
    text = (
        text[:begin]
        + text[text.index(b"\n", end) + 1 : after]
        + words.fill(_HELPERS)
        + text[after:]
    )
    includes = [m.end() for m in _INCLUDE.finditer(text) if m.end() <= begin]
    at = includes[-1] if includes else 0
    if b"<linux/livepatch.h>" not in text:
        text = text[:at] + b"#include <linux/livepatch.h>\n" + text[at:]
    done.texts[path] = text
    for other in done.texts:
        _rewrite(done, other, words)
    home = path if path.endswith(".c") else next((p for p in done.texts if p.endswith(".c")), path)
    done.texts[home] += words.fill(_END)
    done.ends.append((f"{words.word.decode()}_end", home))


def _rewrite(done: Shadowed, path: str, words: _Words) -> None:
    """Replace what a file does with the member by calls, and free it with its object."""
    word = words.word
    use = _OWNER + words.member + rb"\b"

    def is_set(match: re.Match[bytes]) -> bytes:
        value, owner = match["value"], match["owner"]
        if value.count(b"(") != value.count(b")"):
            return match[0]
        if match["operator"]:
            value = b"%b(%b) %b (%b)" % (word, owner, match["operator"], value)
        return b"%b%b_set(%b, %b);" % (match["start"], word, owner, value)

    def is_counted(match: re.Match[bytes]) -> bytes:
        operator, owner = (match["before"] or match["after"])[:1], match["owner"]
        return b"%b%b_set(%b, %b(%b) %b 1);" % (match["start"], word, owner, word, owner, operator)

    def is_read(match: re.Match[bytes]) -> bytes:
        before, after = text[: match.start()].rstrip(), text[match.end() :].lstrip()
        address = before.endswith(b"&") and not before.endswith(b"&&")
        if address or before.endswith((b"++", b"--")) or _WRITTEN.match(after):
            number = Lines(text).number(match.start())
            done.doubts.append(f"{path}:{number}: {words.told} is left as it is")
            return match[0]
        return b"%b(%b)" % (word, match["owner"])

    text = done.texts[path]
    start = rb"(?P<start>(?:^|[;{}])[ \t]*)"
    value = rb"\s*(?P<operator>[-+*/%&|^]|<<|>>)?=(?!=)\s*(?P<value>[^;]*);"
    for pattern, replacement in (
        (start + use + value, is_set),
        (start + rb"(?P<before>(?P<after>\+\+|--))" + use + rb"\s*;", is_counted),
        (start + use + rb"(?P<before>(?P<after>\+\+|--))\s*;", is_counted),
        (use, is_read),
    ):
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    done.texts[path] = _FREED.sub(lambda m: _freed(done, path, text, m, words), text)


def _freed(done: Shadowed, path: str, text: bytes, match: re.Match[bytes], words: _Words) -> bytes:
    """Free the shadow variable before its object, where the text frees one."""
    function = text[max(text.rfind(b"\n}", 0, match.start()), 0) : match.start()]
    if not re.search(rb"\b%b\s*\*\s*%b\b" % (words.name, match["object"]), function):
        return match[0]
    place = f"{path}:{Lines(text).number(match.start())}"
    if function.rstrip().endswith((b")", b"else")):
        done.doubts.append(
            f"{place}: frees a {words.name.decode()} under a condition: free it there"
        )
        return match[0]
    done.doubts.append(f"{place}: frees a {words.name.decode()}, and what is beside it now")
    free = b"%bklp_shadow_free(%b, %b, NULL);\n" % (match["indent"], match["object"], words.number)
    return free + match[0]
