"""The objects that a livepatch patches are those of the kernel, or may come later."""

from __future__ import annotations

import pytest

from klpbuild.errors import KlpError, Problems
from klpbuild.module.old_functions import check_objects

KNOWN = ("vmlinux", "button", "ext4")


def unknown(*names: str, builtin: frozenset[str] = frozenset()) -> tuple[str, ...]:
    problems = Problems()
    said = check_objects(dict.fromkeys(names, "livepatch.toml:2"), KNOWN, builtin, problems)
    problems.check()
    return said


def test_objects_of_the_kernel() -> None:
    assert unknown(*KNOWN) == ()


def test_a_module_that_may_come_later() -> None:
    assert unknown("vendor_driver", "vmlinux") == (
        "whether object vendor_driver has what is patched: this kernel has no module of that "
        "name, which may come later (modules= names further ones)",
    )


def test_a_name_that_is_spelt_nearly_like_a_module_s() -> None:
    (said,) = unknown("buton")
    assert said.endswith("which may come later (did you mean button?)")


def test_a_module_that_is_built_in() -> None:
    with pytest.raises(KlpError) as caught:
        unknown("tcp_cubic", builtin=frozenset({"tcp_cubic"}))
    assert str(caught.value) == (
        "livepatch.toml:2: object 'tcp_cubic' is part of vmlinux in this kernel\n"
        "  The livepatch would wait for a module that never comes.\n"
        '  Its functions belong to vmlinux: name = "vmlinux".'
    )
