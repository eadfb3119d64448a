"""Files of ids: what NumPy reads is what was written, and the other way round."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.errors import InvalidInput
from llmcli.io.idfile import IdFormat, IdType, id_type, read_ids, write_ids

LISTS = st.lists(st.lists(st.integers(0, 65535), max_size=20), max_size=8)


def _written(lists: list[list[int]], form: IdFormat, dtype: IdType) -> io.BytesIO:
    file = io.BytesIO()
    assert write_ids(file, lists, format=form, dtype=dtype) == sum(map(len, lists))
    file.seek(0)
    return file


@given(lists=LISTS, dtype=st.sampled_from(["uint16", "uint32"]))
def test_numpy_reads_what_was_written(lists: list[list[int]], dtype: IdType) -> None:
    flat = [token_id for part in lists for token_id in part]
    loaded = np.load(_written(lists, "npy", dtype))
    assert loaded.dtype == dtype
    assert loaded.tolist() == flat
    raw = _written(lists, "bin", dtype).getvalue()
    assert np.frombuffer(raw, dtype=np.dtype(dtype).newbyteorder("<")).tolist() == flat


@given(
    lists=LISTS, form=st.sampled_from(["npy", "bin"]), dtype=st.sampled_from(["uint16", "uint32"])
)
def test_what_was_written_is_read(lists: list[list[int]], form: IdFormat, dtype: IdType) -> None:
    parts = read_ids(_written(lists, form, dtype), format=form, dtype=dtype, name="x")
    assert [i for part in parts for i in part] == [i for part in lists for i in part]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "<u2", ">u2", "int32", ">i4", "int64", ">u8"])
def test_every_whole_number_of_numpy_is_read(dtype: str) -> None:
    file = io.BytesIO()
    np.save(file, np.array([0, 1, 100, 7], dtype=dtype))
    file.seek(0)
    parts = read_ids(file, format="npy", dtype="uint16", name="x")
    assert [i for part in parts for i in part] == [0, 1, 100, 7]


def test_an_npy_file_maps_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "ids.npy"
    with path.open("wb") as file:
        write_ids(file, [[1, 2], [3]], format="npy", dtype="uint16")
    mapped: Any = np.load(path, mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    assert mapped.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "array", [np.zeros((2, 2), int), np.zeros(3), np.array(["a"]), np.array(5)]
)
def test_other_arrays_are_refused(array: np.ndarray[Any, Any]) -> None:
    file = io.BytesIO()
    np.save(file, array)
    file.seek(0)
    with pytest.raises(InvalidInput, match="whole numbers in one dimension"):
        list(read_ids(file, format="npy", dtype="uint16", name="x"))


@pytest.mark.parametrize("form", ["npy", "bin"])
def test_a_file_cut_short_is_an_error(form: IdFormat) -> None:
    data = _written([[1, 2, 3]], form, "uint16").getvalue()
    with pytest.raises(InvalidInput, match="cut short"):
        list(read_ids(io.BytesIO(data[:-1]), format=form, dtype="uint16", name="x"))


@given(data=st.binary(max_size=200))
def test_garbage_is_an_error_of_ours(data: bytes) -> None:
    for start in (b"", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x01\x00\x20\x00"):
        try:
            list(read_ids(io.BytesIO(start + data), format="npy", dtype="uint16", name="x"))
        except InvalidInput as exc:
            assert "x" in exc.message  # noqa: PT017


def test_an_id_that_does_not_fit() -> None:
    with pytest.raises(InvalidInput, match="uint16"):
        write_ids(io.BytesIO(), [[65536]], format="bin", dtype="uint16")
    assert id_type(50257) == "uint16"
    assert id_type(65536) == "uint16"
    assert id_type(65537) == "uint32"
