"""Records that the guest writes to a serial port."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klpbuild.errors import KlpError
from klpbuild.vm.channel import Record, RecordReader, Word

RECORDS = st.lists(
    st.builds(
        Record,
        st.sampled_from(Word),
        st.integers(0, 10**9 - 1),
        st.integers(0, 255),
        st.binary(max_size=200),
    ),
    max_size=8,
)


@given(RECORDS, st.integers(1, 50))
def test_records_survive_any_cutting(records: list[Record], size: int) -> None:
    stream = b"".join(record.format() for record in records)
    reader = RecordReader()
    found = []
    for start in range(0, len(stream), size):
        found += reader.feed(stream[start : start + size])
    assert found == records
    assert reader.pending == b""


@given(RECORDS.filter(bool), st.data())
def test_a_record_cut_off_by_death_is_pending(records: list[Record], data: st.DataObject) -> None:
    stream = b"".join(record.format() for record in records)
    cut = data.draw(st.integers(1, len(records[-1].format())))
    reader = RecordReader()
    assert reader.feed(stream[:-cut]) == records[:-1]
    assert reader.pending == records[-1].format()[:-cut]


@given(st.binary(max_size=300))
def test_noise_is_an_error_or_nothing(noise: bytes) -> None:
    try:
        RecordReader().feed(noise)
    except KlpError:
        return


@pytest.mark.parametrize(
    "noise",
    [
        b"hello\n",
        b"end 1 0\n",
        b"jump 1 0 0\n\n",
        b"end 1 0 2\nabc\n",
        b"end -1 0 0\n\n",
        b"x" * 64,
    ],
)
def test_garbled_results(noise: bytes) -> None:
    with pytest.raises(KlpError) as caught:
        RecordReader().feed(noise)
    assert str(caught.value) == (
        f"the guest's results are garbled at {noise[:40]!r}\n"
        "  Only the guest's init writes to the second serial port.\n"
        "  Leave that port alone in the livepatch and in shell steps."
    )
