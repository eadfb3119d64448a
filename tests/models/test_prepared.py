"""Prepared weights: the second run equals the first, and any doubt goes back to transformers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from llmcli.api import load
from llmcli.engine import kernels
from llmcli.engine.kernels import Precision
from llmcli.models import prepared, weights
from llmcli.models.language_model import LanguageModel
from llmcli.models.prepared import prepared_files, prepared_folder

PRECISIONS = [
    pytest.param(p, marks=pytest.mark.skipif(bool(kernels.unsupported(p)), reason=p))
    for p in get_args(Precision)
]
IDS = [5, 200, 17, 17, 3, 99]


@pytest.fixture
def folder(tiny_gpt2: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_gpt2, tmp_path / "model"))


def _logits(model: LanguageModel) -> Tensor:
    decoder = model.decoder()
    slot = decoder.open()
    rows = [
        decoder.append([(slot, IDS)], prompt=True),
        decoder.append([(slot, [7])]),
        decoder.append([(slot, [1, 2])], every=True),
    ]
    return torch.from_numpy(np.concatenate(rows))


def _went_through_transformers(model: LanguageModel) -> bool:
    return "import transformers" in model.timings


@pytest.mark.parametrize("precision", PRECISIONS)
def test_both_ways_are_equal_bit_for_bit(folder: Path, precision: Precision) -> None:
    first = load(str(folder), precision=precision, device="cpu")
    expected = _logits(first)
    assert _went_through_transformers(first)
    second = load(str(folder), precision=precision, device="cpu")
    assert torch.equal(_logits(second), expected)
    assert not _went_through_transformers(second)
    assert [path.name.rpartition("-")[2] for path in prepared_files(folder)] == [
        f"{precision}.safetensors"
    ]


def test_the_second_run_imports_no_transformers(folder: Path) -> None:
    program = (
        "import sys; from llmcli.api import load; "
        f"decoder = load({str(folder)!r}, device='cpu').decoder(); "
        "decoder.append([(decoder.open(), [1, 2])]); "
        "print('transformers' in sys.modules)"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout.strip()
        for _ in range(2)
    ]
    assert said == ["True", "False"]


def test_float32_keeps_a_note_only(folder: Path) -> None:
    _logits(load(str(folder), device="cpu"))
    (note,) = prepared_files(folder)
    assert note.stat().st_size < 2000


def _touch_weights(folder: Path) -> None:
    stat = (folder / "model.safetensors").stat()
    os.utime(folder / "model.safetensors", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


def _change_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "layer_norm_epsilon": 1e-3}))


def _cut(folder: Path) -> None:
    (path,) = prepared_files(folder)
    path.write_bytes(path.read_bytes()[:-1])


def _garble(folder: Path) -> None:
    (path,) = prepared_files(folder)
    data = bytearray(path.read_bytes())
    data[8:40] = b"x" * 32
    path.write_bytes(data)


def _empty(folder: Path) -> None:
    (path,) = prepared_files(folder)
    path.write_bytes(b"")


def _not_a_header(folder: Path) -> None:
    (path,) = prepared_files(folder)
    path.write_bytes((2).to_bytes(8, "little") + b"[]")


@pytest.mark.parametrize("precision", PRECISIONS[::2])
@pytest.mark.parametrize(
    "doubt", [_touch_weights, _change_config, _cut, _garble, _empty, _not_a_header]
)
def test_any_doubt_goes_through_transformers_again(
    folder: Path, precision: Precision, doubt: Any
) -> None:
    _logits(load(str(folder), precision=precision, device="cpu"))
    doubt(folder)
    again = load(str(folder), precision=precision, device="cpu")
    expected = _logits(again)
    assert _went_through_transformers(again)
    third = load(str(folder), precision=precision, device="cpu")
    assert torch.equal(_logits(third), expected)
    assert not _went_through_transformers(third)


@pytest.mark.skipif(not kernels.decodes_natively(), reason="no library, no panels")
@pytest.mark.parametrize("name", ["lm_head.size", "h.0.mlp.c_fc.scales"])
def test_sizes_that_contradict_each_other_are_not_read(folder: Path, name: str) -> None:
    expected = _logits(load(str(folder), precision="int8", device="cpu"))
    (path,) = prepared_files(folder)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {each: file.get_tensor(each) for each in file.keys()}  # noqa: SIM118
    tensors[name] = tensors[name] * 2 if name.endswith("size") else tensors[name][:-1].clone()
    save_file(tensors, path, metadata=metadata)
    again = load(str(folder), precision="int8", device="cpu")
    assert torch.equal(_logits(again), expected)
    assert _went_through_transformers(again)


def test_another_format_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _logits(load(str(folder), device="cpu"))
    monkeypatch.setattr(prepared, "_FORMAT", -1)
    again = load(str(folder), device="cpu")
    _logits(again)
    assert _went_through_transformers(again)


def test_other_weights_of_the_same_name_are_used(folder: Path) -> None:
    before = _logits(load(str(folder), precision="float32", device="cpu"))
    module = weights.load_module(load(str(folder), device="cpu"))
    with torch.no_grad():
        module.transformer.wte.weight.mul_(1.5)
    module.save_pretrained(folder)
    after = _logits(load(str(folder), device="cpu"))
    assert not torch.allclose(before, after)


def test_a_cache_that_cannot_be_written_is_no_failure(folder: Path) -> None:
    prepared_folder().parent.mkdir(parents=True)
    prepared_folder().write_text("in the way")
    model = load(str(folder), device="cpu")
    assert _logits(model).isfinite().all()
    assert prepared_files(folder) == []


@pytest.mark.parametrize("precision", PRECISIONS)
def test_precisions_are_near_float32(folder: Path, precision: Precision) -> None:
    exact = _logits(load(str(folder), device="cpu")).log_softmax(-1)
    model = load(str(folder), precision=precision, device="cpu")
    divergence = (exact.exp() * (exact - _logits(model).log_softmax(-1))).sum(-1).mean()
    assert divergence < {"float32": 1e-6, "bfloat16": 0.01, "int8": 0.01, "int4": 0.3}[precision]


def test_a_precision_that_cannot_be_had_gives_way_with_a_notice(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(precision: str, *, decoding: bool) -> str | None:
        return None if precision == "float32" or not decoding else "too old"

    monkeypatch.setattr(kernels, "unsupported", unsupported)
    said: list[str] = []
    model = load(str(folder), precision="int4", device="cpu", notify=said.append)
    model.decoder()
    assert model.precision == "float32"
    assert said == ["No int4 here (too old): float32 is used."]


def test_models_show_and_remove_know_about_it(
    tiny_gpt2: Path, run_llmcli: Any, clean_environment: dict[str, str]
) -> None:
    commit = "0123456789" * 4
    repository = Path(clean_environment["HF_HOME"]) / "hub" / "models--some--model"
    snapshot = repository / "snapshots" / commit
    shutil.copytree(tiny_gpt2, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    _logits(load("some/model", precision="int8", device="cpu", offline=True))
    (file,) = prepared_files(snapshot)
    shown = json.loads(run_llmcli("models", "show", "some/model", "--json").stdout)
    assert shown["prepared"] == file.stat().st_size
    removed = run_llmcli("models", "remove", "some/model", "--yes")
    assert removed.returncode == 0, removed.stderr
    assert not file.exists()
