"""Keep the places of a structure's members where a patch adds others, or takes some away.

New members go behind the others.  In place of a lost one stands one of the same type.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from difflib import SequenceMatcher
from itertools import accumulate

from klpbuild.patch.csource import Lines, closing_braces, code_alone, directive_lines
from klpbuild.patch.layout import KEPT
from klpbuild.patch.patched import PatchedFile, SourceLine

#: What a structure may be followed by that does not depend on the order of its members.
_END = re.compile(rb"\s*(?:(?:____cacheline_aligned\w*|__randomize_layout)\s*)?;")
#: A last member that must stay the last, or a macro that declares it.
_LAST = re.compile(rb"\[\s*0?\s*\]\s*;|\)\s*;")
#: Code that may count on which members stand between others.
_BETWEEN = re.compile(rb"\b(?:memset_after|memset_startat|struct_group\w*)\s*\(")
_IN_ORDER = (
    rb"\boffsetof(?:end)?\s*\(\s*TAG\b"
    rb"|(?:\bTAG\s+\w+\s*(?:\[[^\]]*\]\s*)?=|\(\s*TAG\s*\))\s*\{(?!\s*(?:\.|\}|0\s*\}))"
)
#: The place of one member, as the parameters of a hash table have it.
_PLACE = re.compile(rb"\.(?!\w*(?:len|size))\w+\s*=\s*offsetof\b")
_CONDITION = re.compile(rb"^[ \t]*#[ \t]*(if|endif)", re.MULTILINE)
#: gcc then refuses values of a structure that do not name its members; kernels ask for that
#: with ``-Werror=designated-init``.
DESIGNATED = b"} __attribute__((__designated_init__))"
#: A member of what only the kernel's own code uses, member by member: no bytes of a lock or a
#: list mean anything to who compares, hashes or hands them out.
_STATE = re.compile(
    rb"(?:(?:raw_)?spinlock_t|rwlock_t|refcount_t|wait_queue_head_t|struct (?:mutex|rw_semaphore"
    rb"|[hl]?list_(?:head|node)|rb_node|rb_root|kref|rcu_head|work_struct"
    rb"|delayed_work|timer_list|completion|kobject)) (\w+) ?;"
)
_COMMENT = re.compile(rb"/\*.*?\*/", re.DOTALL)
#: Headers of what programs know.
UAPI = re.compile(r"(^|/)uapi/")
#: A member with one name: a bit field, an array, a pointer to a function.
ONE_NAME = re.compile(
    rb"(?P<type>[\w\s*]*[\s*])(?P<name>\w+)(?P<rest>(?:\s*\[[^\]]+\])*\s*(?::\s*\w+\s*)?;)"
    rb"|(?P<result>[\w\s*]+\(\s*\*\s*)(?P<pointer>\w+)(?P<parameters>\s*\)\s*\([^{}]*\)\s*;)"
)


def in_place(file: PatchedFile, name: str, users: Iterable[bytes]) -> PatchedFile | None:
    """Let the members that a structure has before and after a patch stay where they are.

    Members that it gets stand at its end.  One that it loses is there as before, under a name
    that no code uses (`KEPT`).

    :param name: such as ``struct x``.
    :param users: the texts of the C files that may know it, and of all that the patches change.
    :returns: None where that is not known to be the same to code: the file does not declare it
        once, the patch does both or more, or something may count on the order of members.
    """
    before, after = file.original or b"", file.patched
    if not name.startswith("struct ") or UAPI.search(file.path):
        return None
    olds, news = (Declared.find(text, name) for text in (before, after))
    if olds is None or news is None or not olds.members or not news.members:
        return None
    in_order = re.compile(_IN_ORDER.replace(b"TAG", _tag(name)))
    added: list[int] = []
    lost: list[tuple[range, int]] = []
    same = SequenceMatcher(None, olds.texts, news.texts, False)
    for kind, start, end, first, last in same.get_opcodes():
        if kind == "insert":
            added += range(first, last)
        elif kind == "delete":
            lost.append((range(start, end), first))
        elif kind != "equal":
            return None
    tail = range(len(news.members) - len(added), len(news.members))
    plains = [code_alone(text) for text in (before, after, *users)]
    if any(in_order.search(_PLACE.sub(b"", plain)) for plain in plains):
        return None
    if lost and not added and not _BETWEEN.search(plains[0], olds.start, olds.end):
        lines = _kept(file, olds, news, lost)  # whatever else clears its place does no harm
    elif any(map(_BETWEEN.search, plains)):
        return None
    elif not lost and added and added != [*tail] and not _LAST.search(olds.texts[-1]):
        lines = _moved(file, news, added)
    else:
        return None
    last = Lines(after).number(news.end - 1) - len(file.lines) - 1
    if lines is None or not lines[last].text.lstrip().startswith(b"}"):
        return None
    text = lines[last].text.replace(b"}", DESIGNATED, 1)
    lines[last] = replace(lines[last], text=text, old=None)
    return replace(file, lines=tuple(lines))


def holds_state(file: PatchedFile, name: str, members: Iterable[str]) -> bool:
    """Tell whether a structure has a lock or is in a list, by those members that it really has."""
    declared = Declared.find(file.original or b"", name)
    there = {member.partition(".")[0].encode() for member in members}
    found = map(_STATE.fullmatch, declared.texts if declared else ())
    return any(match is not None and match[1] in there for match in found)


def _is_conditional(text: bytes) -> bool:
    """Tell whether there are more ``#if`` than ``#endif``, or ones that end before they begin."""
    depths = accumulate(1 if word == b"if" else -1 for word in _CONDITION.findall(text))
    found = [0, *depths]
    return found[-1] != 0 or min(found) < 0


def _tag(name: str) -> bytes:
    return re.escape(name.encode()).replace(rb"\ ", rb"\s+")


class Declared:
    """A structure's declaration in a text.

    :ivar members: where the declaration of each begins and ends.
    :ivar texts: what they are, without comments and line breaks.
    :ivar start: behind its opening brace.
    :ivar end: behind its closing one.
    """

    def __init__(self, plain: bytes, start: int, end: int) -> None:
        self.start, self.end = start, end
        self.members: list[tuple[int, int]] = []
        closing = closing_braces(plain)
        at = begin = start
        while at < end - 1:
            if plain[at : at + 1] == b"{":
                at = closing[at]
                continue
            at += 1
            if plain[at - 1 : at] == b";":
                lead = len(plain[begin:at]) - len(plain[begin:at].lstrip())
                self.members.append((begin + lead, at))
                begin = at
        self.texts = [b" ".join(plain[one:other].split()) for one, other in self.members]

    @classmethod
    def find(cls, text: bytes, name: str) -> Declared | None:
        """Find the only declaration of a structure."""
        plain = code_alone(text)
        found = list(re.finditer(rb"\b%b\s*\{" % _tag(name), plain))
        end = closing_braces(plain).get(found[0].end() - 1) if len(found) == 1 else None
        if end is None or not _END.match(plain, end):
            return None
        return cls(plain, found[0].end(), end)


def _moved(file: PatchedFile, declared: Declared, added: list[int]) -> list[SourceLine] | None:
    """Move declarations of members that stand on lines of their own, which the patch adds."""
    numbers = Lines(file.patched)
    lines: list[SourceLine | None] = list(file.lines)
    last = numbers.number(declared.end - 1)
    if _is_conditional(file.patched[declared.start : declared.end]):
        return None
    moved = []
    for member in added:
        here = numbers.numbers(*declared.members[member])
        others = [m for n, m in enumerate(declared.members) if n != member]
        shared = any({*here} & {*numbers.numbers(*other)} for other in others)
        if shared or any(file.lines[n - 1].old is not None for n in here):
            return None
        if _is_conditional(file.patched[declared.start : declared.members[member][0]]):
            return None
        text = b"\t" + declared.texts[member] + b"\n"
        moved.append(SourceLine(text, None, file.lines[here[0] - 1].origin))
        for number in here:
            lines[number - 1] = None
    lines[last - 1 : last - 1] = moved
    return [line for line in lines if line is not None]


def _kept(
    file: PatchedFile, olds: Declared, news: Declared, lost: list[tuple[range, int]]
) -> list[SourceLine] | None:
    """Declare lost members once more, beside the neighbour that is under the same conditions.

    :param lost: members that follow each other, and the number of the one that follows them now.
    """
    original = file.original or b""
    places, numbers = Lines(original), Lines(file.patched)
    conditions = directive_lines(original)
    was = [places.numbers(*member) for member in olds.members]
    lines = list(file.lines)
    for members, follower in reversed(lost):
        first, last = was[members[0]][0], was[members[-1]][-1]
        previous = was[members[0] - 1][-1] if members[0] else 0
        following = was[members[-1] + 1][0] if members[-1] + 1 < len(was) else 0
        if previous and conditions.isdisjoint(range(previous, last)):
            end = news.members[follower - 1][1]
            line_end = file.patched.find(b"\n", end)
            comments = _COMMENT.finditer(file.patched, end, news.end)
            around = (c.end() for c in comments if c.start() < line_end < c.end())
            at = numbers.number(next(around, end) - 1)
        elif following and conditions.isdisjoint(range(first, following)):
            at = numbers.numbers(*news.members[follower])[0] - 1
        else:
            return None
        kept = [_renamed(olds.texts[member]) for member in members]
        if None in kept:
            return None
        lines[at:at] = [SourceLine(b"\t%b\n" % text, None, file.where) for text in kept if text]
    return lines


def _renamed(member: bytes) -> bytes | None:
    """Give a member a name that no code uses; None where it is not known to have one name."""
    match = ONE_NAME.fullmatch(member)
    if match is None:
        return None
    name = "name" if match["name"] else "pointer"
    return member[: match.start(name)] + KEPT.encode() + member[match.start(name) :]
