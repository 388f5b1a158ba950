"""What is kept of an extraction between two steps, or comes from another machine."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.pipeline.extracted import RECORD, Extracted, archive_path


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """A written record of one object, which is in the archive alone."""
    work = tmp_path / "work"
    made = work / "extracted" / "0-open.o"
    made.parent.mkdir(parents=True)
    made.write_bytes(b"an object")
    Extracted((made,), (), (), ()).write(work / RECORD)
    made.unlink()
    return work / RECORD


def rewrite(record: Path, member: tarfile.TarInfo, data: bytes = b"") -> None:
    """Make the archive and the record name another member."""
    member.size = len(data)
    with tarfile.open(archive_path(record), "w") as file:
        file.addfile(member, io.BytesIO(data))
    table = json.loads(record.read_text())
    (digest,) = table["digests"].values()
    table["digests"] = {member.name: digest}
    record.write_text(json.dumps(table))


def test_the_objects_come_from_the_archive(record: Path) -> None:
    restored = Extracted.restore(record)
    assert restored.objects == (record.parent / "extracted" / "0-open.o",)
    assert restored.objects[0].read_bytes() == b"an object"


@pytest.mark.parametrize("name", ["../outside.o", "extracted/../../outside.o", "/tmp/outside.o"])
def test_no_name_leads_out_of_the_directory(record: Path, name: str) -> None:
    rewrite(record, tarfile.TarInfo(name), b"an object")
    with pytest.raises(KlpError, match=f"cannot be read: {name} is outside of {record.parent}"):
        Extracted.restore(record)
    assert not list(record.parent.parent.glob("*.o"))


def test_no_symbolic_link_leads_out_of_the_directory(record: Path) -> None:
    (record.parent / "extracted").rmdir()
    (record.parent / "extracted").symlink_to(record.parent.parent)
    with pytest.raises(KlpError, match=r"extracted/0-open\.o is outside of"):
        Extracted.restore(record)
    assert not list(record.parent.parent.glob("*.o"))


def test_what_the_record_does_not_name_is_not_unpacked(record: Path) -> None:
    with tarfile.open(archive_path(record), "a") as file:
        link = tarfile.TarInfo("extracted/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/"
        file.addfile(link)
        file.addfile(tarfile.TarInfo("other"))
    Extracted.restore(record)
    assert [path.name for path in (record.parent / "extracted").iterdir()] == ["0-open.o"]
    assert not (record.parent / "other").exists()


def test_a_changed_object_is_not_taken(record: Path) -> None:
    rewrite(record, tarfile.TarInfo("extracted/0-open.o"), b"another")
    with pytest.raises(KlpError) as caught:
        Extracted.restore(record)
    assert str(caught.value) == (
        f"{archive_path(record)}: cannot be read: extracted/0-open.o is not what was written\n"
        f"  Delete {record} and build again."
    )


def test_an_archive_without_the_object_is_not_taken(record: Path) -> None:
    rewrite(record, tarfile.TarInfo("extracted/1-read.o"), b"an object")
    table = record.read_text().replace("1-read", "0-open")
    record.write_text(table)
    with pytest.raises(KlpError, match=r"filename 'extracted/0-open\.o' not found"):
        Extracted.restore(record)
