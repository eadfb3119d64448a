"""Prepared weights: the second run equals the first, and any doubt goes back to transformers."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_families import TINY, tiny

from llmcli.api import load
from llmcli.engine import arrayfile, families
from llmcli.engine.native import library as native
from llmcli.engine.native_decoder import NativeDecoder
from llmcli.errors import CorruptModel, InvalidInput
from llmcli.models import prepared, weights
from llmcli.models.language_model import LanguageModel
from llmcli.models.prepared import prepared_files, prepared_folder

pytestmark = pytest.mark.skipif(native.library() is None, reason="the library was not built")

PRECISIONS = ["float32", "bfloat16", "int8", "int4"]
IDS = [5, 200, 17, 17, 3, 99]


@pytest.fixture
def folder(tiny_gpt2: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_gpt2, tmp_path / "model"))


def _logits(model: LanguageModel) -> Any:
    decoder = model.decoder()
    slot = decoder.open()
    first = decoder.append([(slot, IDS)], prompt=True)
    return np.concatenate([first, decoder.append([(slot, [7, 1, 2])], every=True)])


def _went_through_transformers(model: LanguageModel) -> bool:
    return "import transformers" in model.timings


@pytest.mark.parametrize("precision", PRECISIONS)
def test_both_ways_are_equal_bit_for_bit(folder: Path, precision: str) -> None:
    said: list[str] = []
    first = load(str(folder), precision=precision, device="cpu", notify=said.append)
    expected = _logits(first)
    assert _went_through_transformers(first)
    second = load(str(folder), precision=precision, device="cpu", notify=said.append)
    np.testing.assert_array_equal(_logits(second), expected)
    assert not _went_through_transformers(second)
    assert [path.name.rpartition("-")[2] for path in prepared_files(folder)] == [
        f"{precision}.arrays"
    ]
    assert said == []
    assert [path for path in prepared_folder().iterdir() if path.name.startswith(".")] == []


def test_the_second_run_imports_neither_torch_nor_transformers(folder: Path) -> None:
    program = (
        "import sys; from llmcli.api import load; "
        f"decoder = load({str(folder)!r}).decoder(); "
        "decoder.append([(decoder.open(), [1, 2])]); "
        "print(*sorted({'torch', 'transformers', 'safetensors'} & set(sys.modules)))"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout.strip()
        for _ in range(2)
    ]
    assert said == ["safetensors torch transformers", ""]


# -- any doubt -------------------------------------------------------------------------------


def _touch_weights(folder: Path) -> None:
    stat = (folder / "model.safetensors").stat()
    os.utime(folder / "model.safetensors", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


def _change_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "layer_norm_epsilon": 1e-3}))


def _cut(folder: Path) -> None:
    (path,) = prepared_files(folder)
    path.write_bytes(path.read_bytes()[:-1])


def _cut_in_the_middle(folder: Path) -> None:
    (path,) = prepared_files(folder)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + data[-len(data) // 4 :])


def _garble(folder: Path) -> None:
    (path,) = prepared_files(folder)
    data = bytearray(path.read_bytes())
    data[-300:-260] = b"x" * 40
    path.write_bytes(data)


def _empty(folder: Path) -> None:
    (path,) = prepared_files(folder)
    path.write_bytes(b"")


def _folder_in_its_place(folder: Path) -> None:
    (path,) = prepared_files(folder)
    path.unlink()
    path.mkdir()


def _rewrite(folder: Path, change: Any) -> None:
    """Write a prepared file anew, with other arrays or another directory."""
    (path,) = prepared_files(folder)
    file = arrayfile.ArrayFile(path)
    arrays, about = {k: v.copy() for k, v in file.mapped().items()}, file.about
    change(arrays, about)
    with open(path, "wb") as out:
        writer = arrayfile.Writer(out)
        for name, array in arrays.items():
            writer.add(name, array)
        writer.close(about)


def _another_byte_order(folder: Path) -> None:
    def change(arrays: Any, about: Any) -> None:
        about["key"] = about["key"].replace(f'"{sys.byteorder}"', '"middle"')

    _rewrite(folder, change)


def _one_array_less(folder: Path) -> None:
    _rewrite(folder, lambda arrays, about: arrays.pop("head.panels"))


def _another_size(folder: Path) -> None:
    _rewrite(folder, lambda arrays, about: arrays["head.size"].__imul__(2))


def _fewer_scales(folder: Path) -> None:
    def change(arrays: Any, about: Any) -> None:
        name = next(name for name in arrays if name.endswith((".scales", "norm.weight")))
        arrays[name] = arrays[name][:-1]

    _rewrite(folder, change)


def _an_odd_blueprint(folder: Path) -> None:
    _rewrite(folder, lambda arrays, about: about["blueprint"].update(heads=0))


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize(
    "doubt",
    [
        _touch_weights,
        _change_config,
        _cut,
        _cut_in_the_middle,
        _garble,
        _empty,
        _another_byte_order,
        _one_array_less,
        _another_size,
        _fewer_scales,
        _an_odd_blueprint,
    ],
)
def test_any_doubt_goes_through_transformers_again(
    folder: Path, precision: str, doubt: Any
) -> None:
    _logits(load(str(folder), precision=precision, device="cpu"))
    doubt(folder)
    again = load(str(folder), precision=precision, device="cpu")
    expected = _logits(again)
    assert _went_through_transformers(again)
    third = load(str(folder), precision=precision, device="cpu")
    np.testing.assert_array_equal(_logits(third), expected)
    assert not _went_through_transformers(third)


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
    assert not np.allclose(before, after)


def test_a_tied_head_that_is_stored_alone(folder: Path) -> None:
    """What transformers resolved is packed, not what the file calls it."""
    expected = _logits(load(str(folder), device="cpu"))
    state = load_file(folder / "model.safetensors")
    name = next(key for key in state if key.endswith("wte.weight"))
    state["lm_head.weight"] = state.pop(name)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    for _ in range(2):
        np.testing.assert_array_equal(_logits(load(str(folder), device="cpu")), expected)


# -- a cache that cannot be written ------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_full_disk_is_no_failure(
    folder: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _logits(load(str(folder), precision=precision, device="cpu"))
    shutil.rmtree(prepared_folder())

    class Full(arrayfile.Writer):
        def __init__(self, file: IO[bytes]) -> None:
            super().__init__(file)
            self._left = 3

        def add(self, name: str, array: Any) -> None:
            self._left -= 1
            if not self._left:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            super().add(name, array)

    monkeypatch.setattr(arrayfile, "Writer", Full)
    said: list[str] = []
    model = load(str(folder), precision=precision, device="cpu", notify=said.append)
    np.testing.assert_array_equal(_logits(model), expected)
    assert said == [
        f"{model.name} cannot be prepared for faster starts: "
        f"{prepared_folder()}: No space left on device."
    ]
    assert list(prepared_folder().iterdir()) == []


def test_a_cache_that_cannot_be_written_is_no_failure(folder: Path) -> None:
    prepared_folder().parent.mkdir(parents=True)
    prepared_folder().write_text("in the way")
    said: list[str] = []
    model = load(str(folder), device="cpu", notify=said.append)
    assert np.isfinite(_logits(model)).all()
    assert prepared_files(folder) == []
    assert len(said) == 1
    assert said[0].startswith(f"{model.name} cannot be prepared for faster starts")


def test_a_place_that_is_taken_is_no_failure(folder: Path) -> None:
    expected = _logits(load(str(folder), device="cpu"))
    _folder_in_its_place(folder)
    np.testing.assert_array_equal(_logits(load(str(folder), device="cpu")), expected)


def test_what_a_killed_process_left_is_tidied_up(folder: Path) -> None:
    prepared_folder().mkdir(parents=True)
    old, new = (prepared_folder() / f".preparing-{name}" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    _logits(load(str(folder), device="cpu"))
    assert not old.exists()
    assert new.exists()  # perhaps another process's, which is at it


# -- when transformers serves ------------------------------------------------------------------


def _as_transformers(model: LanguageModel) -> Any:
    with torch.no_grad():
        logits = model.module(torch.tensor([[*IDS, 7, 1, 2]])).logits[0, len(IDS) - 1 :]
    return logits.float().numpy()


def test_a_model_that_disagrees_is_left_to_transformers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(config: Any, module: str | None = None) -> Any:
        return describe({**config, "activation_function": "relu"}, module)

    describe = families.describe
    monkeypatch.setattr(families, "describe", wrong)
    for precision in ("float32", "int8"):
        said: list[str] = []
        model = load(str(folder), precision=precision, device="cpu", notify=said.append)
        near = 1e-4 if precision == "float32" else 0.1
        np.testing.assert_allclose(_logits(model), _as_transformers(model), atol=near, rtol=near)
        assert said[0].startswith(
            f"Our own kernels differ from transformers on {model.name}, by 0."
        )
        assert prepared_files(folder) == []
    assert said[1].startswith("No int8 here (only our own kernels have it): ")
    assert model.precision != "int8"


def test_a_family_that_is_refused_is_left_to_transformers(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "attention_sinks": 4}))
    said: list[str] = []
    details: list[str] = []
    model = load(str(folder), device="cpu", notify=said.append, detail=details.append)
    np.testing.assert_allclose(_logits(model), _as_transformers(model), atol=1e-5)
    assert said == []
    assert details == [
        f"Our own kernels do not compute {model.name} "
        "(config.json has a field unknown here: attention_sinks): transformers does."
    ]


def test_without_the_library_transformers_serves_and_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "library", cache(lambda: None))
    monkeypatch.delenv(native.SWITCH, raising=False)
    said: list[str] = []
    model = load(str(folder), device="cpu", notify=said.append)
    np.testing.assert_allclose(_logits(model), _as_transformers(model), atol=1e-5)
    assert len(said) == 1
    assert "Install llmcli from a wheel, or with a C compiler" in said[0]
    monkeypatch.setenv(native.SWITCH, "0")
    model = load(str(folder), device="cpu", notify=said.append)
    assert model.packed is None
    assert len(said) == 1  # whoever asks for it knows


def test_a_level_that_is_none_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(str(folder), device="cpu")
    native.library.cache_clear()
    with monkeypatch.context() as patch:
        patch.setenv(native.SWITCH, "sse2")
        with pytest.raises(InvalidInput, match="sse2"):
            model.decoder()


# -- damaged numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_named(folder: Path, precision: str, value: float) -> None:
    state = load_file(folder / "model.safetensors")
    name = next(key for key in state if key.endswith("h.1.attn.c_attn.bias"))
    state[name][70] = value  # of a key, which no logit would show
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CorruptModel, match=r"h\.1\.attn\.c_attn\.bias holds NaN or infinity"):
        load(str(folder), precision=precision, device="cpu").decoder()
    assert prepared_files(folder) == []


def test_large_numbers_are_numbers(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    name = next(key for key in state if key.endswith("h.1.attn.c_attn.bias"))
    state[name].fill_(3e38)  # their sum is infinite
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    assert weights.load_module(load(str(folder), device="cpu")) is not None


# -- other families ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama-quirks", "gemma3", "gptj"])
def test_other_families_are_prepared_too(name: str, tiny_gpt2: Path, tmp_path: Path) -> None:
    assert name in TINY
    folder = tmp_path / "model"
    tiny(name, vocab_size=300).save_pretrained(folder)
    for path in tiny_gpt2.glob("token*"):
        shutil.copy(path, folder)
    logits: list[Any] = []
    for through_transformers in (True, False):
        model = load(str(folder), device="cpu")
        decoder = model.decoder()
        assert isinstance(decoder, NativeDecoder)
        logits.append(decoder.append([(decoder.open(), IDS)], prompt=True))
        assert _went_through_transformers(model) == through_transformers
    np.testing.assert_array_equal(*logits)


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
