from __future__ import annotations

import subprocess

from hypothesis import given, settings
from hypothesis import strategies as st

from klpbuild.distro.versions import version_key


def dpkg_says_less(left: str, right: str) -> bool:
    command = ["dpkg", "--compare-versions", left, "lt", right]
    return subprocess.run(command, check=False).returncode == 0


def test_a_backport_comes_before_its_original_and_numbers_count_as_numbers() -> None:
    ordered = ["6.1.99-1", "6.1.170-3", "6.12.117-1~deb12u1", "6.12.117-1", "1:5.0-1"]
    shuffled = [ordered[i] for i in (3, 0, 4, 2, 1)]
    assert sorted(shuffled, key=version_key) == ordered


numbers = st.from_regex(r"[0-9][0-9a-c.+~]{0,6}", fullmatch=True)


@settings(max_examples=60, deadline=None)
@given(numbers, numbers, st.sampled_from(["", "-0", "-1", "-1~a", "-1+b1", "-a"]))
def test_the_order_is_dpkgs(left: str, right: str, revision: str) -> None:
    for a, b in ((left + revision, right), (left, right + revision), (left, left + revision)):
        assert (version_key(a) < version_key(b)) == dpkg_says_less(a, b)
        assert (version_key(b) < version_key(a)) == dpkg_says_less(b, a)
