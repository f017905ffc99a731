from pathlib import Path

import numpy as np
import pytest

from dncbm.sae.mapped import row_file

ROWS = np.arange(5000 * 3, dtype=np.float32).reshape(5000, 3)
ORDERS = {
    "apart": [7, 0, 4999, 3],
    "neighbours": [10, 11, 12, 13],
    "repeated": [5, 5, 6, 5],
    "backwards": [3, 2, 1],
    "none": [],
}


@pytest.fixture
def mapped(tmp_path: Path) -> np.ndarray:
    np.save(tmp_path / "rows.npy", ROWS)
    return np.load(tmp_path / "rows.npy", mmap_mode="r")


@pytest.mark.parametrize("order", ORDERS)
def test_rows_come_as_indexing_gives_them(order: str, mapped: np.ndarray) -> None:
    file = row_file(mapped)
    assert file is not None
    wanted = np.array(ORDERS[order], dtype=np.int64)
    np.testing.assert_array_equal(file.read(wanted), ROWS[wanted])


def test_a_part_of_a_mapped_array_is_read_where_it_lies(mapped: np.ndarray) -> None:
    file = row_file(mapped[2000:4000])
    assert file is not None
    np.testing.assert_array_equal(file.read(np.array([0, 1999])), ROWS[[2000, 3999]])


def test_an_offset_beyond_a_page_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "raw"
    path.write_bytes(b"x" * 9000 + ROWS.tobytes())
    array = np.memmap(path, np.float32, "r", offset=9000, shape=ROWS.shape)
    file = row_file(array)
    assert file is not None
    np.testing.assert_array_equal(file.read(np.array([0, 17, 4999])), ROWS[[0, 17, 4999]])


def test_what_is_no_file_of_whole_rows_is_left_to_indexing(mapped: np.ndarray) -> None:
    assert row_file(ROWS) is None
    assert row_file(mapped[:, 1:]) is None
    assert row_file(mapped[::2]) is None
    assert row_file(mapped[:0]) is None


def test_a_shortened_file_is_an_error_and_not_zeros(tmp_path: Path, mapped: np.ndarray) -> None:
    file = row_file(mapped)
    assert file is not None
    with (tmp_path / "rows.npy").open("r+b") as stream:
        stream.truncate(1000)
    with pytest.raises(OSError, match="ends before row 4000"):
        file.read(np.array([4000]))
