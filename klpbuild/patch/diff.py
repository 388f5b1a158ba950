"""Read unified diffs: each line is part of a file's change, known text, or refused.

GNU patch and git skip what they do not recognize, which is right for a mail around a
diff and wrong for a part of the diff itself: it would be missing without a word.
No message quotes a line, since the file may be a link to something secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import NoReturn

from klpbuild.errors import KlpError, printable
from klpbuild.patch.text import read_text

_AGAIN = "Make it again with git format-patch or diff -u."


class Side(Enum):
    """Side of a hunk's line: both versions of the file, or one."""

    BOTH = " "
    OLD = "-"
    NEW = "+"


@dataclass(frozen=True)
class HunkLine:
    """A line of a hunk.

    :ivar text: without the first character, with its line end.
    :ivar number: of the patch's line, from 1.
    """

    side: Side
    text: bytes
    number: int


@dataclass(frozen=True)
class Hunk:
    """Lines that stand together, before and after.

    :ivar number: of the line ``@@ -1,2 +1,3 @@``, from 1.
    :ivar start: how many lines of the old file stand before it.
    """

    number: int
    start: int
    lines: tuple[HunkLine, ...]

    @property
    def old(self) -> tuple[bytes, ...]:
        """The lines that it wants to find."""
        return tuple(line.text for line in self.lines if line.side is not Side.NEW)

    @property
    def new(self) -> tuple[bytes, ...]:
        """The lines that it leaves."""
        return tuple(line.text for line in self.lines if line.side is not Side.OLD)


class Action(Enum):
    """Change of a file apart from its lines; the words of messages."""

    CHANGES = "changes"
    RENAMES = "renames"
    COPIES = "copies"
    BINARY = "changes as a binary file"
    ONLY_HERE = "has in one of two trees only"


@dataclass(frozen=True)
class FileDiff:
    """Changes that a diff makes to one file.

    :ivar number: of its first line, from 1.
    :ivar old: the name of the old file as the diff has it; None for /dev/null.
    :ivar new: that of the new file.
    :ivar mode: the new file's mode, as git writes it; empty if nothing is said.
    """

    number: int
    old: bytes | None
    new: bytes | None
    action: Action = Action.CHANGES
    mode: str = ""
    hunks: tuple[Hunk, ...] = ()

    @property
    def names(self) -> tuple[bytes, ...]:
        """The names that it has, the new one first."""
        return tuple(name for name in (self.new, self.old) if name is not None)

    @property
    def adds(self) -> bool:
        """Whether there is no old file; ``diff -N`` writes its name all the same."""
        first = self.hunks[0] if len(self.hunks) == 1 else None
        return self.old is None or (first is not None and not first.start and not first.old)


@dataclass(frozen=True)
class Diff:
    """A patch file.

    :ivar files: in their order; one file may be changed twice.
    :ivar is_cover_letter: whether it is the mail that introduces a series and has no diff.
    """

    files: tuple[FileDiff, ...]
    is_cover_letter: bool = False


def read_diff(path: Path) -> Diff:
    """Read a patch file.

    :param path: what ``git format-patch``, ``git diff`` or ``diff -u`` printed, also within
        mails, one after another.
    :raises KlpError: when it cannot be read, is no patch, or has a line that is not understood.
    """
    name, data = printable(path.name), read_text(path)
    reader = _Reader(name, data)
    files = tuple(reader.files())
    cover = not files and reader.introduces
    if not files and not cover:
        raise KlpError(
            "holds no patch",
            where=name,
            hint="A patch is what git format-patch or diff -u prints.",
        )
    return Diff(files, cover)


_HUNK = re.compile(rb"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@(?!@)")
_GIT_LINES = re.compile(
    rb"(?:(?P<mode>old mode|new mode|new file mode|deleted file mode) (?P<bits>[0-7]{5,6})"
    rb"|(?P<name>copy from|copy to|rename from|rename to) (?P<path>.+)"
    rb"|similarity index \d+%|dissimilarity index \d+%|index [0-9a-f,]+\.\.[0-9a-f]+(?: [0-7]+)?)$"
)
_ONLY_IN = re.compile(rb"Only in (?P<directory>[^:]+): (?P<name>.+)$")
#: Lines that git, diff, and other tools write before a file.
_BEFORE_A_FILE = rb"Index: |===|diff -|Common subdirectories: "
_ENDS_MESSAGE = re.compile(rb"---$|\*{15}|Submodule |" + _BEFORE_A_FILE)
#: Beginnings of text that may follow a hunk: such lines, a mail, git's log, a signature.
_FOLLOWS_A_HUNK = re.compile(
    rb"--(?: ?$|---)|From |[A-Z][A-Za-z-]*: |commit [0-9a-f]{7,40}|Property changes on|_{5}|# |"
    + _BEFORE_A_FILE
)
_COMMIT = re.compile(rb"From [0-9a-f]{40} |commit [0-9a-f]{7,40}\b")
_ENCODED = re.compile(rb"Content-Transfer-Encoding:\s*(quoted-printable|base64)", re.IGNORECASE)
_LONG_SUBJECT = 300
_INTRODUCES = re.compile(rb"Subject:.*\[[^]]*\b0+/\d+\]")
_UNKNOWN = (
    (re.compile(rb"diff --(cc|combined) |@@@+ -"), "is part of a merge's diff",
     "It compares with several versions at once.", "git diff MERGE^1 MERGE compares with one."),
    (re.compile(rb"\*\*\* (\d+(,\d+)? \*{4}$|\S+\t)"), "is part of a context diff",
     "Only unified diffs are read.", _AGAIN),
    (re.compile(rb"\d+(,\d+)?[acd](\d+(,\d+)?)?$"), "is part of a diff without context",
     "Nothing in it tells where a line belongs.", _AGAIN),
    (re.compile(rb"@@ *[-+]?\d"), "is a hunk header that is malformed or below no file's name",
     "It is @@ -LINE,COUNT +LINE,COUNT @@ below the lines --- and +++.", _AGAIN),
    (re.compile(rb"Binary file .+ has changed$|Cannot display: |Submodule \S+ [0-9a-f]+\."),
     "says that a file changes, and not how", "", _AGAIN),
    (re.compile(rb"GIT binary patch"), "is a binary file's change below no file's name",
     "", _AGAIN),
)  # fmt: skip
_SHIFTED = re.compile(
    rb"(?:[^A-Za-z]|[A-Za-z]\w{0,2}>)+(?:diff --(?:git|cc|combined) |--- a/|\+\+\+ b/"
    rb"|\*\*\* \d+,\d+ \*{4})|.*[^@]@@+ -\d+(?:,\d+)? [-+]\d"
)


@dataclass
class _Reader:
    """Parses the lines of a patch.

    :ivar at: index of the next line.
    :ivar below_hunk: whether a hunk has just ended.
    :ivar in_message: whether a commit's message is read, in which nothing is a diff.
    :ivar introduces: whether a mail says that it is number 0 of a series.
    """

    name: str
    data: bytes
    at: int = 0
    below_hunk: bool = False
    in_message: bool = False
    introduces: bool = False
    _lines: list[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self._lines = self.data.split(b"\n")
        if not self._lines[-1]:
            self._lines.pop()

    def files(self) -> Iterator[FileDiff]:
        """Parse the files that it changes.

        :raises KlpError: at the first line that is not understood.
        """
        while self.at < len(self._lines):
            line = self._line()
            if line.startswith(b"diff --git "):
                yield self._git_file()
            elif self._is_header():
                yield self._file(FileDiff(self.at + 1, None, None))
            elif names := _differing(line):
                yield self._other(*names, Action.BINARY)
            elif match := _ONLY_IN.match(line):
                name = match["directory"] + b"/" + match["name"]
                yield self._other(name, name, Action.ONLY_HERE)
            else:
                self._text(line)
                self.at += 1

    def _line(self, ahead: int = 0) -> bytes:
        """Return a line without its end; empty behind the last one."""
        at = self.at + ahead
        return self._lines[at].removesuffix(b"\r") if at < len(self._lines) else b""

    def _refuse(self, what: str, why: str = "", hint: str = _AGAIN, at: int = 0) -> NoReturn:
        raise KlpError(what, where=f"{self.name}:{at or self.at + 1}", why=why, hint=hint)

    def _text(self, line: bytes) -> None:
        """Skip a line around the diff, if it is no part of one."""
        if _COMMIT.match(line):
            self.in_message = True
        elif _ENDS_MESSAGE.match(line):
            self.in_message = False
        if not self.in_message:
            self._check_text(line)
        if self.below_hunk and line:
            if not _FOLLOWS_A_HUNK.match(line):
                self._refuse(
                    "is no line of the hunk above it, and no known text",
                    "The hunk's header counts fewer lines, or its last line was broken.",
                )
            self.below_hunk = False
        self.introduces |= _INTRODUCES.match(line[:_LONG_SUBJECT]) is not None
        if _ENCODED.match(line):
            self._refuse(
                "is of a mail whose text is encoded",
                hint="git mailinfo MESSAGE PATCH < MAIL decodes it.",
            )

    def _check_text(self, line: bytes) -> None:
        """Refuse a line that is part of a diff, of whatever kind."""
        for pattern, what, why, hint in _UNKNOWN:
            if pattern.match(line):
                self._refuse(what, why, hint)
        if _SHIFTED.match(line):
            self._refuse(
                "is an indented or quoted part of a diff",
                "Nobody can tell whether it belongs to the patch.",
                "Take the marks before its lines away, or take it out.",
            )

    # -- headers

    def _is_header(self) -> bool:
        return self._line().startswith(b"--- ") and self._line(1).startswith(b"+++ ")

    def _git_file(self) -> FileDiff:
        old, new = self._git_names(self._line().removeprefix(b"diff --git "))
        file = FileDiff(self.at + 1, old, new)
        self.at += 1
        while match := _GIT_LINES.match(self._line()):
            if match["mode"] == b"new file mode":
                file = replace(file, old=None)
            elif match["mode"] == b"deleted file mode":
                file = replace(file, new=None)
            elif match["name"]:
                action = Action.COPIES if match["name"].startswith(b"copy") else Action.RENAMES
                path = b"a/" + _unquoted(match["path"])  # git writes it without a/ or b/
                file = replace(file, action=action)
                is_old = match["name"].endswith(b"from")
                file = replace(file, old=path) if is_old else replace(file, new=path)
            if match["mode"] in (b"new mode", b"new file mode"):
                file = replace(file, mode=match["bits"].decode())
            self.at += 1
        if self._is_header_of(file):
            return self._file(file)
        line = self._line()
        if _differing(line) or line == b"GIT binary patch":
            file = replace(file, action=Action.BINARY)
            self.at += 1
            while _BINARY_LINE.match(self._line()) or (
                not self._line() and _BINARY_LINE.match(self._line(1))
            ):
                self.at += 1
        elif self._line(-1).startswith(b"index ") and file.old and file.new:
            self._refuse("says that a file changes, and no line of it follows", at=file.number)
        self._ended()
        if not file.names:
            self._refuse("names no file that can be told", at=file.number)
        return file

    def _is_header_of(self, file: FileDiff) -> bool:
        """Tell whether the names of this file follow, not those of one without a git line."""
        pairs = ((_name(self._line()[4:]), file.old), (_name(self._line(1)[4:]), file.new))
        return self._is_header() and all(
            a.partition(b"/")[2] == b.partition(b"/")[2] for a, b in pairs if a and b
        )

    def _git_names(self, text: bytes) -> tuple[bytes | None, bytes | None]:
        """Split the names of ``diff --git``, if only their first directories differ."""
        if text.startswith(b'"'):
            end = re.match(rb'"(?:[^"\\]|\\.)*" ', text)
            middle = end.end() - 1 if end else 0
        else:
            middle = len(text) // 2
        names = _unquoted(text[:middle]), _unquoted(text[middle + 1 :])
        same = names[0].partition(b"/")[2] == names[1].partition(b"/")[2]
        return names if text[middle : middle + 1] == b" " and same else (None, None)

    def _file(self, file: FileDiff) -> FileDiff:
        """Read the lines ``---`` and ``+++`` and the hunks below them."""
        number = self.at + 1
        strip = self._lines[self.at].endswith(b"\r")  # as GNU patch does
        old, new = (_name(self._line(ahead)[4:]) for ahead in (0, 1))
        self.at += 2
        hunks = []
        while self._line().startswith(b"@@"):
            hunks.append(self._hunk(strip))
        if not hunks:
            self._refuse("does not begin a hunk, though the names of a file stand above it")
        if old is None and new is None:
            self._refuse("names no file", at=number)
        self._ended()
        self.below_hunk = True
        return replace(file, number=number, old=old, new=new, hunks=tuple(hunks))

    def _other(self, old: bytes, new: bytes, action: Action) -> FileDiff:
        file = FileDiff(self.at + 1, _name(old), _name(new), action)
        self.at += 1
        self._ended()
        return file

    def _ended(self) -> None:
        self.below_hunk = self.in_message = False

    # -- hunks

    def _hunk(self, strip: bool) -> Hunk:
        header = _HUNK.match(self._line())
        if header is None:
            self._refuse("is a malformed hunk header", "It is @@ -LINE,COUNT +LINE,COUNT @@.")
        number = self.at + 1
        start, old_count, _, new_count = (1 if n is None else int(n) for n in header.groups())
        left = {Side.OLD: old_count, Side.NEW: new_count}
        lines: list[HunkLine] = []
        self.at += 1
        while any(left.values()):
            lines.append(self._hunk_line(strip, number, left))
            self.at += 1
            if self._line().startswith(b"\\ "):
                lines[-1] = replace(lines[-1], text=lines[-1].text.removesuffix(b"\n"))
                self.at += 1
        if not lines:
            self._refuse("is the header of a hunk without lines", at=number)
        # Without old lines it is the number of the line before (diff's manual, "Detailed Unified").
        return Hunk(number, start - 1 if old_count and start else start, tuple(lines))

    def _hunk_line(self, strip: bool, number: int, left: dict[Side, int]) -> HunkLine:
        """Parse the next line of a hunk.

        :param left: how many lines of each version are still to come; it is counted down.
        """
        if self.at == len(self._lines):
            self.at -= 1
            self._short(number, "the patch ends here")
        text = self._lines[self.at]
        if strip:
            text = text.removesuffix(b"\r")
        if self._is_header() and self._line(2).startswith(b"@@ -"):
            self._short(number, "another file begins here")
        if text in (b"", b"\r"):  # mailers cut the blank of an empty line
            text = b" " + text
        try:
            side = Side(chr(text[0]))
        except ValueError:
            self._short(number, "this is none of its lines")
        for each in (Side.OLD, Side.NEW):
            if side in (each, Side.BOTH):
                if not left[each]:
                    self._refuse(
                        f"the hunk of line {number} is longer than its header says",
                        "A number there is wrong, or a line above was broken.",
                    )
                left[each] -= 1
        return HunkLine(side, text[1:] + b"\n", self.at + 1)

    def _short(self, number: int, how: str) -> NoReturn:
        self._refuse(
            f"the hunk of line {number} is not complete: {how}",
            "Its header counts more lines. The patch was cut off, or a mailer broke a line.",
        )


def _differing(line: bytes) -> tuple[bytes, bytes] | None:
    """Parse the two names in ``Binary files A and B differ``."""
    if not line.startswith((b"Binary files ", b"Files ")) or not line.endswith(b" differ"):
        return None
    old, _, new = line.partition(b"iles ")[2].removesuffix(b" differ").partition(b" and ")
    return old, new


_BINARY_LINE = re.compile(rb"(?:literal|delta) \d+$|[A-Za-z][!-~]{1,70}$")
_ESCAPE = re.compile(rb"\\([0-7]{3}|.)")
_ESCAPES = {
    bytes([code]): bytes([end]) for code, end in zip(b"ntrabfv", b"\n\t\r\a\b\f\v", strict=True)
}


def _name(text: bytes) -> bytes | None:
    """Parse the name in a line ``---`` or ``+++``, without the time behind it."""
    if quoted := re.match(rb'"(?:[^"\\]|\\.)*"', text):
        name = _unquoted(quoted[0])
    elif b"\t" in text:
        name = text.partition(b"\t")[0]
    else:
        name = text.partition(b" ")[0]
    return None if name == b"/dev/null" else name


def _unquoted(text: bytes) -> bytes:
    """Undo git's quoting of a name (git-config(1), core.quotePath)."""
    if len(text) < 2 or not (text.startswith(b'"') and text.endswith(b'"')):
        return text

    def plain(match: re.Match[bytes]) -> bytes:
        said = match[1]
        return bytes([int(said, 8) & 255]) if len(said) == 3 else _ESCAPES.get(said, said)

    return _ESCAPE.sub(plain, text[1:-1])
