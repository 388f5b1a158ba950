"""A patch of what a kernel thread runs until a flag ends it."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.kernel.tree import Kernel
from klpbuild.module.accepted import Accepted
from klpbuild.pipeline.from_patch import build_from_patches
from klpbuild.vm.guest import Guest
from klpbuild.vm.scenario import load_and_unload

pytestmark = [pytest.mark.kernel, pytest.mark.boot]

SOURCE = "fs/jbd2/journal.c"


def test_it_is_refused_unless_no_such_thread_runs(
    debian_source_kernel: Kernel, tmp_path: Path
) -> None:
    assert debian_source_kernel.source is not None
    old = (debian_source_kernel.source / SOURCE).read_text()
    new = old.replace("\tset_freezable();\n", "\tset_freezable();\n\tcond_resched();\n", 1)
    former, later = (text.splitlines(keepends=True) for text in (old, new))
    patch = tmp_path / "fix.patch"
    lines = difflib.unified_diff(former, later, f"a/{SOURCE}", f"b/{SOURCE}")
    patch.write_text("".join(lines))

    with pytest.raises(KlpError) as caught:
        build_from_patches(debian_source_kernel, [patch], "fix", tmp_path)
    what, why, *hint = str(caught.value).splitlines()
    assert what == (
        "fs/jbd2/journal.c:fs/jbd2/journal.o:kjournald2: changed, and a kernel thread stays in it:"
        " jbd2_journal_load() starts one with it"
    )
    assert why.startswith(
        "  A transition to the livepatch does not end while such a thread runs (code at "
    )
    assert hint == [
        "  Change a function that it calls.  If none runs when the livepatch is loaded, accept it:",
        '  --accept-thread kjournald2, or accept_threads = ["kjournald2"] in livepatch.toml.',
    ]

    accepted = Accepted(threads=("kjournald2",))
    module, _ = build_from_patches(debian_source_kernel, [patch], "fix", tmp_path, accepted)
    (result,) = Guest(debian_source_kernel).run([load_and_unload(module)])
    assert result.problem == ""
