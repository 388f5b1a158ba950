"""What stands in for a kernel that a mirror has dropped."""

from __future__ import annotations

import pytest

from klpbuild.errors import KlpError
from tests.kernels import nearest

OFFERED = (
    "7.3.4+deb13-cloud-amd64", "6.12.117+deb12-cloud-amd64", "6.1.0-56-cloud-amd64",
    "6.1.0-50-cloud-amd64", "6.1.0-49-amd64",
)  # fmt: skip


@pytest.mark.parametrize(
    ("release", "stands_in"),
    [
        ("6.1.0-50-cloud-amd64", "6.1.0-50-cloud-amd64"),
        ("6.1.0-47-cloud-amd64", "6.1.0-50-cloud-amd64"),
        ("6.1.0-60-cloud-amd64", "6.1.0-56-cloud-amd64"),
        ("6.12.100+deb12-cloud-amd64", "6.12.117+deb12-cloud-amd64"),
        ("7.3.2+deb13-cloud-amd64", "7.3.4+deb13-cloud-amd64"),
    ],
)
def test_the_nearest_of_the_series(release: str, stands_in: str) -> None:
    assert nearest(release, OFFERED) == stands_in


def test_nothing_of_the_series() -> None:
    with pytest.raises(KlpError, match=r"no kernel 6\.6 of the flavour cloud-amd64 is offered"):
        nearest("6.6.1-cloud-amd64", OFFERED)
