"""Lock the directory of outputs, and remove outputs that were changed since they were built.

SCons looks at what an output is made from, never at the output.  So it would take for good
what is damaged, what `klpbuild build` wrote in its place, and what a killed run made of
sources that have changed back since: SCons' database is written when a run ends.
"""

from __future__ import annotations

import atexit
import pickle
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import SCons.dblite
import SCons.Node.FS
import SCons.SConsign
from SCons.Script import GetOption, SetOption
from SCons.Util import hash_file_signature

from klpbuild.errors import KlpError, note
from klpbuild.files.locks import UNNOTED, working_in
from klpbuild.files.records import read_record
from klpbuild.files.whole import remove_tree, write_file
from klpbuild.scons import literal
from klpbuild.scons.literal import Environment, Node
from klpbuild.terminal.streams import flush_output

#: Held until the process ends.
_LOCKS = ExitStack()


class Outputs:
    """The directory of outputs of a run."""

    def __init__(self, env: Environment) -> None:
        """Lock the directory, and let SCons keep its database there.

        :raises KlpError: when it cannot be written.
        """
        atexit.register(flush_output)
        self._env = env
        self._path = Path(env["KLP_BUILD"])
        self._writes = not (GetOption("no_exec") or GetOption("question"))
        self._unnoted = (self._path / UNNOTED).exists()
        if self._writes:
            _LOCKS.enter_context(working_in(self._path, writes=False))
        # SCons ends with a traceback where a directory is in an output's place.
        SetOption("diskcheck", "none")
        database = self._path / ".sconsign.dblite"
        if database.exists() and read_record(database, _check_database) is None:
            remove_tree(database)
        # env.SConsignFile would expand the name.
        SCons.SConsign.File(str(database.absolute()), _Database(self._path / UNNOTED))

    def remove_changed(self) -> None:
        """Remove outputs that are not as SCons noted them, so that it makes them again.

        A module that was changed by hand stays, as long as it is an ELF file and all that
        was written is noted.

        :raises KlpError: when one cannot be removed, or a directory is in its place.
        """
        if self._writes and not GetOption("clean"):
            self._remove_changed(literal.directory(self._env, self._path))
            write_file(self._path / UNNOTED, b"")

    def _remove_changed(self, directory: Node) -> None:
        for node in list(directory.entries.values()):
            if isinstance(node, SCons.Node.FS.Dir):
                if node not in (directory, directory.dir):  # "." and ".."
                    self._remove_changed(node)
            elif node.has_builder() and self._is_changed(Path(node.path), node):
                note("is not what was built, and is made again", Path(node.path))
                remove_tree(Path(node.path))
                node.clear_memoized_values()

    def _is_changed(self, path: Path, node: Node) -> bool:
        """Tell whether a file differs from SCons' record; files without one it makes anyway."""
        if path.is_dir():
            raise KlpError("is a directory, and a file is to be built there", where=str(path),
                           hint="Remove it.")  # fmt: skip
        noted: Any = getattr(node.disambiguate().get_stored_info(), "ninfo", None)
        if not hasattr(noted, "csig") or not path.exists():
            return False
        status = path.stat()
        if (status.st_mtime, status.st_size) == (noted.timestamp, noted.size):
            return False
        if hash_file_signature(str(path)) == noted.csig:
            return False
        return path.suffix != ".ko" or self._unnoted or not _is_elf(path)


def _is_elf(path: Path) -> bool:
    from klpbuild.elf.reader import ElfFile  # imports numpy, for which most builds need not wait

    try:
        return bool(ElfFile.read(path).sections)
    except KlpError:
        return False


def note_rewritten(node: Node) -> None:
    """Note the contents of an output that its action did not write."""
    node.clear_memoized_values()
    node.get_ninfo().csig = hash_file_signature(node.path)
    node.visited()


def _check_database(data: bytes) -> bool:
    """Refuse what is not a table of directories, as SCons writes it."""
    if data and not isinstance(pickle.loads(data), dict):
        raise ValueError("is no table")
    return True


class _Database:
    """SCons' database, in place of the module ``SCons.dblite``."""

    def __init__(self, unnoted: Path) -> None:
        """Note the file that marks outputs which the database lacks.

        :param unnoted: the file that tells of outputs that are not in the database.
        """
        self._unnoted = unnoted

    def open(self, name: str, flag: str = "r", mode: int = 0o666) -> Any:
        """Open the database as `SCons.dblite.open` does; once written, all outputs are noted."""
        database = SCons.dblite.open(name, flag, mode)
        write = database.sync

        def sync() -> None:
            try:
                write()
                self._unnoted.unlink(missing_ok=True)
            except OSError as error:
                database.sync = lambda: None  # it is told once
                print(f"scons: warning: {name}: cannot be written: {error.strerror}\n"
                      "  The next run looks whether outputs changed.", file=sys.stderr)  # fmt: skip

        database.sync = sync
        return database
