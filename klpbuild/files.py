"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

from klpbuild.errors import KlpError


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all.

    :raises KlpError: when it cannot be written; what was there stays.
    """
    temporary = path.parent / f".{path.name}.{os.getpid()}.{threading.get_ident()}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise KlpError(f"cannot be written: {error.strerror}", where=str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
