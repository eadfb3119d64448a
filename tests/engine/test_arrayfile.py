"""Array files: what is written is read, and what was cut or altered is no array file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.engine.arrayfile import ArrayFile, Writer

_NAMES = ("float32", "float16", "int8", "uint8", "uint16", "int64")


def _write(path: Path, arrays: dict[str, Any], about: dict[str, Any]) -> None:
    with open(path, "wb") as file:
        writer = Writer(file)
        for name, array in arrays.items():
            writer.add(name, array)
        writer.close(about)


@given(
    shapes=st.lists(
        st.tuples(st.sampled_from(_NAMES), st.lists(st.integers(0, 5), max_size=3)), max_size=5
    )
)
@settings(max_examples=30)
def test_what_is_written_is_read(
    shapes: list[tuple[str, list[int]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    chance = np.random.default_rng(0)
    arrays = {
        f"array {i}": (chance.standard_normal(shape) * 50).astype(name)
        for i, (name, shape) in enumerate(shapes)
    }
    path = tmp_path_factory.mktemp("arrays") / "file"
    _write(path, arrays, {"key": "ü"})
    file = ArrayFile(path)
    assert file.about == {"key": "ü"}
    found = file.mapped()
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert not found[name].size or found[name].ctypes.data % 64 == 0
        np.testing.assert_array_equal(found[name], array)


def test_arrays_in_any_order_of_memory(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T
    _write(tmp_path / "file", {"x": array}, {})
    np.testing.assert_array_equal(ArrayFile(tmp_path / "file").mapped()["x"], array)


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    _write(path, {"x": np.arange(40, dtype=np.float32)}, {})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="array file"):
            ArrayFile(path)


@pytest.mark.parametrize(
    "directory",
    [
        [],
        {"about": {}},
        {"about": {}, "arrays": []},
        {"about": {}, "arrays": {"x": ["float32", [1]]}},
        {"about": {}, "arrays": {"x": ["float32", [17], 0]}},  # beyond the end
        {"about": {}, "arrays": {"x": ["float32", [-1], 0]}},
        {"about": {}, "arrays": {"x": ["float32", [1 << 62], 0]}},
        {"about": {}, "arrays": {"x": ["float32", [1], -64]}},
        {"about": {}, "arrays": {"x": ["float32", [1], 4]}},  # not where an array can begin
        {"about": {}, "arrays": {"x": ["object", [1], 0]}},
        {"about": {}, "arrays": {"x": ["no type", [1], 0]}},
        {"about": {}, "arrays": {"x": ["float32", "abc", 0]}},
    ],
)
def test_a_damaged_directory_is_noticed(tmp_path: Path, directory: Any) -> None:
    data = json.dumps(directory).encode()
    end = data + len(data).to_bytes(8, "little") + b"llmcli-arrays-1\n"
    (tmp_path / "file").write_bytes(bytes(64) + end)
    with pytest.raises(ValueError, match="directory"):
        ArrayFile(tmp_path / "file")


def test_a_type_without_a_name_is_refused(tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb") as file, pytest.raises(ValueError, match="complex128"):
        Writer(file).add("x", np.zeros(1, np.complex128))
