"""Files of JSON lines that are being written, cut, replaced or torn."""

import json
from pathlib import Path

import pytest

from es_align.following import Follower, last_row


def test_a_follower_reads_only_what_is_new_and_starts_again_after_a_cut(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    follower = Follower(file)
    assert follower.rows() == []
    file.write_text('{"a": 1}\n{"a": 2}\n{"a"')
    assert follower.rows() == [{"a": 1}, {"a": 2}]
    with file.open("a") as stream:
        stream.write(": 3}\n")
    assert follower.rows() == [{"a": 1}, {"a": 2}, {"a": 3}]
    draft = tmp_path / "draft"
    draft.write_text('{"a": 1}\n{"a": 9}\n{"a": 8}\n{"a": 7}\n')  # longer than what was there
    draft.replace(file)
    assert follower.rows() == [{"a": 1}, {"a": 9}, {"a": 8}, {"a": 7}]
    file.write_text('{"a": 5}\n')
    assert follower.rows() == [{"a": 5}]


@pytest.mark.parametrize("num_bytes", [10, 70_000, 600_000])
def test_the_last_row_is_found_however_long_it_is(tmp_path: Path, num_bytes: int) -> None:
    file = tmp_path / "rows.jsonl"
    assert last_row(file) is None
    rows = [{"number": number, "text": "x" * num_bytes} for number in range(3)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"number": 3, "te')
    assert last_row(file) == rows[2]
