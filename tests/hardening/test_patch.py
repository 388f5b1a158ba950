"""Patches of any form: applied, or refused with a message; never a traceback."""

from __future__ import annotations

from random import Random

from hypothesis import example, given, settings
from hypothesis import strategies as st

from klpbuild.errors import KlpError
from tests.hardening.patches import GOOD, WORDS, of_patch, use


def applies(data: bytes) -> bool:
    try:
        use(data)
    except KlpError:
        return False
    return True


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(0, 2**32))
def test_mutations_of_good_patches(seed: int) -> None:
    applies(of_patch(Random(seed), [text.encode() for text in GOOD]))


PIECES = st.one_of(
    st.sampled_from([word.encode(errors="surrogateescape") for word in WORDS]),
    st.sampled_from([line.encode() + b"\n" for text in GOOD for line in text.split("\n")]),
    st.binary(max_size=8),
    st.just(b"\n"),
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(PIECES, max_size=30))
@example([])
@example([b"--- a/fs/open.c\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n"])
def test_pieces_of_patches(pieces: list[bytes]) -> None:
    applies(b"".join(pieces))


def test_good_patches_are_applied() -> None:
    assert [applies(text.encode()) for text in GOOD[:5]] == [True, True, True, True, True]
