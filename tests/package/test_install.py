"""Installing and removing: all or nothing, whatever happens in between."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.package.install import Manifest, Place, install, run_depmod, uninstall

RELEASE = "6.1.0-test"
DIRECTORY = f"lib/modules/{RELEASE}/updates/livepatch"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(RELEASE, "", tmp_path / "stage")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return tmp_path / "build" / "installed.json"


def modules(directory: Path, content: str, *names: str) -> list[Path]:
    made = directory / f"made-{content[:20]}"
    made.mkdir(exist_ok=True)
    for name in names or ("livepatch-a.ko", "livepatch-b.ko"):
        (made / name).write_text(f"{name} {content}")
    return [made / name for name in names or ("livepatch-a.ko", "livepatch-b.ko")]


def tree(top: Path) -> dict[str, str]:
    """What is below a directory: files with their contents, directories with nothing."""
    return {
        str(path.relative_to(top)): path.read_text() if path.is_file() else ""
        for path in sorted(top.rglob("*"))
    }


def files(top: Path) -> dict[str, str]:
    return {Path(name).name: text for name, text in tree(top).items() if text}


def test_destdir_is_not_left(tmp_path: Path, manifest: Path) -> None:
    outside, stage = tmp_path / "outside", tmp_path / "stage"
    outside.mkdir()
    stage.mkdir()
    place = Place(RELEASE, destdir=stage)
    for link in (outside, Path("../outside")):
        (stage / "lib").symlink_to(link)
        with pytest.raises(KlpError) as error:
            install(modules(tmp_path, "1"), place, manifest)
        assert str(error.value) == (
            f"{stage}/{DIRECTORY}: a symbolic link leads out of DESTDIR\n"
            f"  It would be written to {outside}/{DIRECTORY.removeprefix('lib/')}.\n"
            "  Make the link relative, such as lib -> usr/lib."
        )
        assert list(outside.iterdir()) == []
        (stage / "lib").unlink()
    (stage / "usr/lib").mkdir(parents=True)
    (stage / "lib").symlink_to("usr/lib")
    assert len(install(modules(tmp_path, "1"), place, manifest)) == 2
    assert len(uninstall(place, manifest)) == 2


def test_where_modules_go() -> None:
    place = Place(RELEASE)
    assert str(place.path("livepatch-a.ko.xz")) == f"/{DIRECTORY}/livepatch-a.ko.xz"
    assert place.staged("x.ko") == place.path("x.ko")
    assert place.wants_depmod
    staged = Place(RELEASE, "/usr", Path("/stage"))
    assert str(staged.path("x.ko")) == f"/usr/{DIRECTORY}/x.ko"
    assert str(staged.staged("x.ko")) == f"/stage/usr/{DIRECTORY}/x.ko"
    assert not staged.wants_depmod
    assert not Place(RELEASE, "/opt").wants_depmod


def test_install_and_uninstall(place: Place, manifest: Path, tmp_path: Path) -> None:
    stage = tmp_path / "stage"
    umask = os.umask(0o077)
    try:
        done = install(modules(tmp_path, "1"), place, manifest, epoch=1_000_000_000)
    finally:
        os.umask(umask)
    assert done == [stage / DIRECTORY / "livepatch-a.ko", stage / DIRECTORY / "livepatch-b.ko"]
    assert files(stage) == {
        "livepatch-a.ko": "livepatch-a.ko 1",
        "livepatch-b.ko": "livepatch-b.ko 1",
    }
    status = done[0].stat()
    assert (status.st_mode & 0o777, status.st_mtime) == (0o644, 1_000_000_000)
    assert done[0].parent.stat().st_mode & 0o777 == 0o755
    assert uninstall(place, manifest) == done
    assert not stage.exists()
    assert not manifest.exists()


def test_what_others_installed_stays(place: Place, manifest: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "stage" / DIRECTORY / "livepatch-other.ko"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("other")
    install(modules(tmp_path, "1"), place, manifest)
    uninstall(place, manifest)
    assert files(tmp_path / "stage") == {"livepatch-other.ko": "other"}


def test_some_of_them(place: Place, manifest: Path, tmp_path: Path) -> None:
    install(modules(tmp_path, "1"), place, manifest)
    uninstall(place, manifest, ["livepatch-a"])
    assert files(tmp_path / "stage") == {"livepatch-b.ko": "livepatch-b.ko 1"}
    uninstall(place, manifest)
    assert not (tmp_path / "stage").exists()


def test_another_compression_takes_the_place(place: Place, manifest: Path, tmp_path: Path) -> None:
    install(modules(tmp_path, "1"), place, manifest)
    install(modules(tmp_path, "2", "livepatch-a.ko.xz"), place, manifest)
    assert files(tmp_path / "stage") == {
        "livepatch-a.ko.xz": "livepatch-a.ko.xz 2",
        "livepatch-b.ko": "livepatch-b.ko 1",
    }


def test_nothing_to_remove(place: Place, manifest: Path) -> None:
    with pytest.raises(KlpError) as caught:
        uninstall(place, manifest)
    assert str(caught.value) == (
        f"{place.destdir}/{DIRECTORY}: nothing is installed there by this build\n"
        f"  {manifest} lists what is."
    )


def test_a_file_that_was_changed_is_left_alone(
    place: Place, manifest: Path, tmp_path: Path
) -> None:
    first, second = install(modules(tmp_path, "1"), place, manifest)
    first.write_text("changed")
    with pytest.raises(KlpError) as caught:
        uninstall(place, manifest)
    assert str(caught.value) == (
        f"{first}: is not the file that was installed, and is left alone\n"
        "  Remove it by hand, or install again first."
    )
    assert first.read_text() == "changed"
    assert not second.exists()


def test_a_broken_manifest(place: Place, manifest: Path, tmp_path: Path) -> None:
    manifest.parent.mkdir()
    manifest.write_text("[]")
    for act in (uninstall, partial(install, [])):
        with pytest.raises(KlpError) as caught:
            act(place, manifest)
        assert str(caught.value) == (
            f"{manifest}: is not a list of installed files\n"
            "  Remove it; then remove what was installed by hand."
        )


def test_a_destdir_that_is_no_directory(place: Place, manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "stage").write_text("a file")
    with pytest.raises(KlpError) as caught:
        install(modules(tmp_path, "1"), place, manifest)
    assert str(caught.value) == (
        f"{tmp_path}/stage/lib: cannot be written: Not a directory\n"
        "  Nothing was installed; what was there before is still whole."
    )


def test_a_directory_in_the_way(place: Place, manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "stage" / DIRECTORY / "livepatch-b.ko").mkdir(parents=True)
    with pytest.raises(KlpError) as caught:
        install(modules(tmp_path, "1"), place, manifest)
    assert str(caught.value) == (
        f"{tmp_path}/stage/{DIRECTORY}/livepatch-b.ko: cannot be written: Is a directory\n"
        "  Nothing was installed; what was there before is still whole."
    )
    assert files(tmp_path / "stage") == {}


def in_child(act: Callable[[], object]) -> int:
    """Run in a process of its own; its exit status, negative for a signal."""
    child = os.fork()
    if child == 0:
        status = 3
        try:
            act()
            status = 0
        except KlpError as error:
            print(error, file=sys.stderr, flush=True)
            status = 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_directory_that_cannot_be_written(
    place: Place, manifest: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As a user who is not root: root may write everywhere."""
    install(modules(tmp_path, "1"), place, manifest)
    before = tree(tmp_path / "stage")
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.getuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055)
    (tmp_path / "stage" / DIRECTORY).chmod(0o555)
    new = modules(tmp_path, "2")

    def as_nobody() -> None:
        if os.getuid() == 0:
            os.setuid(65534)
        install(new, place, manifest)

    manifest.parent.chmod(0o755)
    assert in_child(as_nobody) == 1
    assert capfd.readouterr().err == (
        f"{tmp_path}/stage/{DIRECTORY}/livepatch-a.ko: cannot be written: Permission denied\n"
        "  Nothing was installed; what was there before is still whole.\n"
        "  Set DESTDIR to a directory that can be written.\n"
    )
    assert tree(tmp_path / "stage") == before


def test_a_file_that_does_not_fit(
    place: Place, manifest: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    install(modules(tmp_path, "1"), place, manifest)
    before = tree(tmp_path / "stage")
    first, second = modules(tmp_path, "2")
    second.write_bytes(bytes(100_000))

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        install([first, second], place, manifest)

    assert in_child(limited) == 1
    assert capfd.readouterr().err == (
        f"{tmp_path}/stage/{DIRECTORY}/livepatch-b.ko: cannot be written: File too large\n"
        "  Nothing was installed; what was there before is still whole.\n"
    )
    assert tree(tmp_path / "stage") == before


def test_a_full_disk(place: Place, manifest: Path, tmp_path: Path) -> None:
    stage = tmp_path / "stage"
    stage.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(stage)]
    if (
        not shutil.which("unshare")
        or subprocess.run(
            ["unshare", "--mount", *mounted], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("this user may not mount")
    first, second = modules(tmp_path, "2")
    second.write_bytes(bytes(100_000))
    program = f"""
from pathlib import Path
from klpbuild.errors import KlpError
from klpbuild.package.install import Place, install
place, manifest = Place({RELEASE!r}, "", Path({str(stage)!r})), Path({str(manifest)!r})
first, second = Path({str(first)!r}), Path({str(second)!r})
install([first], place, manifest)
try:
    install([first, second], place, manifest)
except KlpError as error:
    print(error)
print(sorted(path.name for path in Path({str(stage)!r}).rglob("*") if path.is_file()))
"""
    script = f'{" ".join(mounted)} && exec "$0" -c "$1"'
    command = ["unshare", "--mount", "sh", "-c", script, sys.executable, program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == (
        f"{stage}/{DIRECTORY}/livepatch-b.ko: cannot be written: No space left on device\n"
        "  Nothing was installed; what was there before is still whole.\n"
        "['livepatch-a.ko']\n"
    )


def test_killed_at_any_point(place: Place, manifest: Path, tmp_path: Path) -> None:
    """Each file is the old one or the new one; what comes next tidies up."""
    old, new = modules(tmp_path, "old"), modules(tmp_path, "new")
    stage = tmp_path / "stage"
    for point in range(100):
        install(old, place, manifest)
        killed = in_child(partial(kill_at, point, new, place, manifest)) == -signal.SIGKILL
        whole = {name: text for name, text in files(stage).items() if name[0] != "."}
        assert sorted(whole) == ["livepatch-a.ko", "livepatch-b.ko"]
        for name, text in whole.items():
            assert text in (f"{name} old", f"{name} new")
        if point % 2:
            install(new, place, manifest)
            assert files(stage) == {path.name: path.read_text() for path in new}
        uninstall(place, manifest)
        assert not stage.exists()
        if not killed:
            break
    assert 8 < point < 100


def kill_at(point: int, new: list[Path], place: Place, manifest: Path) -> None:
    """Install, and end like kill -9 before the system call number `point` that changes a file."""
    changing = ("open", "os.rename", "os.remove", "os.chmod", "os.mkdir", "os.rmdir", "os.utime")
    seen = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event in changing:
            if seen == point:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

    sys.addaudithook(hook)
    install(new, place, manifest)


def test_an_interrupted_first_installation_leaves_only_hidden_files(
    place: Place, manifest: Path, tmp_path: Path
) -> None:
    new = modules(tmp_path, "new")
    for point in range(6):
        shutil.rmtree(tmp_path / "stage", ignore_errors=True)
        in_child(partial(kill_at, point, new, place, manifest))
        assert [name for name in files(tmp_path / "stage") if not name.startswith(".")] == []


def test_the_manifest_lists_what_is_there(place: Place, manifest: Path, tmp_path: Path) -> None:
    done = install(modules(tmp_path, "1"), place, manifest)
    assert set(Manifest.read(manifest).files) == {str(path) for path in done}
    assert json.loads(manifest.read_text())["directories"][0] == str(tmp_path / "stage")


def test_depmod_is_for_the_running_system_only(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither a stage nor a kernel that is not installed is its business."""
    monkeypatch.setenv("PATH", str(tmp_path))
    run_depmod(place)
    run_depmod(Place("0.0.0-no-such-kernel"))


#: /lib of a mount namespace of its own, in which all may be written.
_OWN_LIB = """
mount -t tmpfs none /mnt && mkdir /mnt/new /mnt/work &&
mount -t overlay none -o lowerdir=/usr/lib,upperdir=/mnt/new,workdir=/mnt/work /usr/lib &&
mkdir -p /lib/modules && exec "$@"
"""


def test_the_running_system(tmp_path: Path) -> None:
    """depmod finds what is installed, and misses what is gone."""
    own_lib = ["unshare", "--mount", "sh", "-c", _OWN_LIB, "sh"]
    if subprocess.run([*own_lib, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount over /usr/lib")
    source = tmp_path / "livepatch-a.ko"
    subprocess.run(["gcc", "-c", "-x", "c", "/dev/null", "-o", source], check=True)
    program = f"""
from pathlib import Path
from klpbuild.package.install import Place, install, run_depmod, uninstall
place, manifest = Place({RELEASE!r}), Path({str(tmp_path)!r}) / "installed.json"
print(*install([Path({str(source)!r})], place, manifest))
(place.directory.parents[1] / "modules.order").touch()
(place.directory.parents[1] / "modules.builtin").touch()
run_depmod(place)
table = place.directory.parents[1] / "modules.dep"
print(table.read_text(), end="")
uninstall(place, manifest)
run_depmod(place)
print(repr(table.read_text()))
"""
    command = [*own_lib, sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    expected = f"/{DIRECTORY}/livepatch-a.ko\nupdates/livepatch/livepatch-a.ko:\n''\n"
    assert done.stdout == expected
    assert not Path(f"/lib/modules/{RELEASE}").exists()


@pytest.mark.parametrize(
    "text", ['{"files": {"x": null}, "directories": []}', '{"files": [1]}', "["]
)
def test_a_manifest_of_other_types(tmp_path: Path, text: str) -> None:
    path = tmp_path / "installed.json"
    path.write_text(text)
    with pytest.raises(KlpError, match="is not a list of installed files"):
        Manifest.read(path)
