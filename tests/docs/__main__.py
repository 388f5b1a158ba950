"""Show what a document's commands really print: python -m tests.docs FILE [--kernel]."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.docs.document import Kind, WrittenFile, read_document
from tests.docs.session import Session

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("document", type=Path)
    parser.add_argument("--kernel", action="store_true")
    arguments = parser.parse_args()
    blocks = read_document(arguments.document)
    with (
        tempfile.TemporaryDirectory() as name,
        Session(Path(name, "klpbuild")) as session,
    ):
        for block in blocks:
            if block.kind is Kind.NEVER or (block.kind is Kind.KERNEL and not arguments.kernel):
                continue
            for item in block.content:
                if isinstance(item, WrittenFile):
                    session.run([block], kernel=True)
                    continue
                printed, status = session.type(item.text)
                print(f"$ {item.text}", *printed, f"[{status}]" if status else "", sep="\n")
