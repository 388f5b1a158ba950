from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.kernel.cache import (
    aside,
    cache_directory,
    cached_kernel,
    cached_kernels,
    locked,
    remove_outlived,
    tree_directory,
)
from tests.kernel.machines import write


def test_the_directory_is_named_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("KLPBUILD_CACHE", str(tmp_path))
    assert cache_directory() == tmp_path
    monkeypatch.delenv("KLPBUILD_CACHE")
    assert cache_directory() == Path("/xdg/klpbuild")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_directory() == Path("/home/somebody/.cache/klpbuild")


def test_a_directory_that_make_cannot_take_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLPBUILD_CACHE", "/a b")
    with pytest.raises(KlpError) as caught:
        cache_directory()
    assert str(caught.value) == (
        "/a b: kbuild cannot work in this cache directory\n"
        "  Its name has a character that means something to make.\n"
        "  Set KLPBUILD_CACHE to another directory."
    )


def test_a_cache_that_is_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLPBUILD_CACHE", "/dev/null")
    with pytest.raises(KlpError) as caught:
        cache_directory()
    assert str(caught.value) == (
        "/dev/null: is not a directory\n  Set KLPBUILD_CACHE to a directory."
    )


def test_a_cache_that_cannot_be_written(cache_dir: Path) -> None:
    (cache_dir / "kernels").write_text("")
    with pytest.raises(KlpError) as caught, locked(cache_directory() / "kernels" / "x"):
        pass
    assert str(caught.value) == (
        f"{cache_dir}/kernels: cannot be written: Not a directory\n"
        "  Set KLPBUILD_CACHE to a directory that can be written."
    )


def test_a_user_without_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KLPBUILD_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    with pytest.raises(KlpError) as caught:
        cache_directory()
    assert str(caught.value) == (
        "the user has no home directory to keep kernels in\n  Set KLPBUILD_CACHE to a directory."
    )


@pytest.mark.parametrize("record", ["", "{", "[1]", '[{"part": "wheel"}]', '[{"part": "image"}]'])
def test_a_kernel_with_a_damaged_record_is_not_there(
    record: str, cache_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(cache_dir / "kernels/6.1.0/packages.json", record)
    assert cached_kernel("6.1.0") is None and cached_kernels() == ()
    first, _ = capsys.readouterr().err.splitlines()  # told once
    assert first == f"klpbuild: note: {path}: is damaged, and counts as missing"


def test_a_record_without_all_parts_is_no_kernel(cache_dir: Path) -> None:
    write(cache_dir / "kernels/6.1.0/packages.json", "[]")
    (cache_dir / "kernels/6.1.0/root").mkdir()
    assert cached_kernel("6.1.0") is None


def test_what_is_made_aside_goes_and_so_does_what_was_left(tmp_path: Path) -> None:
    left = write(tmp_path / ".thing.making-old/file").parent
    with pytest.raises(RuntimeError), aside(tmp_path / "thing") as directory:
        assert not left.exists()
        write(directory / "file")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_what_was_learned_of_a_tree_goes_when_it_is_built_anew(tmp_path: Path) -> None:
    """Not that of another tree, and not what another build may be using."""
    trees, vmlinux = tmp_path / "trees", tmp_path / "vmlinux"
    directories = []
    for text in ("old", "older", "newest"):
        vmlinux.write_text(text)
        directories.append(tree_directory(f"6.1.0-{text}", vmlinux, under=trees))
    other = tree_directory("6.1.0", tmp_path / "other", under=trees)
    for directory in (*directories, other, trees / "learned"):
        directory.mkdir(parents=True)
        os.utime(directory, (1_000_000_000, 1_000_000_000))
    old, recent, newest = directories
    os.utime(recent)
    remove_outlived(trees / "learned")
    assert old.is_dir()
    remove_outlived(newest)
    assert [path.is_dir() for path in (old, recent, newest, other)] == [False, True, True, True]
