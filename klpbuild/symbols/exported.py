"""Find the exported symbols of a kernel, all at once.

Module.symvers has thousands of lines; `klpbuild.symbols.symvers.Exports` makes a
list of each, which is right for questions and slow for an index.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from klpbuild.errors import broken, reading
from klpbuild.names import object_name
from klpbuild.symbols.lines import Bytes, Lines
from klpbuild.symbols.symvers import Exports

_EXPORT = b"EXPORT_"


@dataclass(frozen=True, eq=False)
class ExportedNames:
    """All exported symbols with their owners, as Module.symvers lists them.

    :ivar names: n exported symbols.
    :ivar owners: the object that exports each, n names.
    """

    names: Lines
    owners: list[str]

    @classmethod
    def read(cls, path: Path) -> ExportedNames:
        """Read a Module.symvers.

        :raises KlpError: when it cannot be read, with every line at fault.
        """
        with reading(path):
            data = np.frombuffer(path.read_bytes(), np.uint8)
        columns = _columns(data)
        if columns is None:  # of an older kernel, or broken
            exports = tuple(Exports.read(path))
            text = "".join(f"{export.symbol}\n" for export in exports)
            with broken("is not a Module.symvers", str(path)):
                return cls(Lines.of(text.encode()), [export.owner for export in exports])
        names, owners = columns
        paths = owners.text.decode(errors="surrogateescape").split("\n")[:-1]
        known = {path: object_name(path) for path in set(paths)}
        return cls(names, [known[path] for path in paths])


def _columns(data: Bytes) -> tuple[Lines, Lines] | None:
    """Cut out the second and third column, if each line is CRC, symbol, object, EXPORT_...

    :returns: None when there is another line.
    """
    tabs = np.flatnonzero(data == ord("\t"))
    ends = np.flatnonzero(data == ord("\n"))
    if not len(ends) or ends[-1] != len(data) - 1:
        return None
    first = np.searchsorted(tabs, np.concatenate([[0], ends[:-1]]))
    if first[-1] + 2 >= len(tabs):
        return None
    one, two, three = (tabs[first + number] for number in range(3))
    kind = data.take((three + 1)[:, None] + np.arange(len(_EXPORT)), mode="clip")
    whole = (three < ends) & (two > one + 1) & (three > two + 1)
    if not (whole.all() and (kind == np.frombuffer(_EXPORT, np.uint8)).all()):
        return None
    try:
        names = Lines.gather(data, one + 1, two - one - 1)
        return names, Lines.gather(data, two + 1, three - two - 1)
    except ValueError:
        return None
