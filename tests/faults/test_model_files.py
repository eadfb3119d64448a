"""Model files that are damaged, hostile or of the wrong kind: rows 30 to 37, 50, 51, 52."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import model_fuzz
import pytest
import torch
from conftest import RunLlmcli
from fakehub import FakeHub
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import llmcli
from llmcli.errors import CorruptModel, LlmcliError, UnsafeModel


@pytest.fixture
def folder(tiny_gpt2: Path, tmp_path: Path) -> Path:
    """A copy of the tiny GPT-2 to spoil."""
    return Path(shutil.copytree(tiny_gpt2, tmp_path / "model"))


@pytest.fixture
def llama(tiny_llama: Path, tmp_path: Path) -> Path:
    """A copy of the tiny Llama to spoil."""
    return Path(shutil.copytree(tiny_llama, tmp_path / "llama"))


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **fields}))


def change_header(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what the weights' header says; the numbers stay where they are."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    change(header)
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data[8 + length :])


def rename(old: str, new: str) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        header[new] = header.pop(old)

    return change


def refused(done: subprocess.CompletedProcess[bytes], *words: str, code: int = 1) -> None:
    """One line on stderr that has these words, no result."""
    error = done.stderr.decode()
    assert done.returncode == code, error
    assert done.stdout == b""
    assert error.startswith("Error: ")
    assert error.count("\n") == 1
    for word in words:
        assert word in error


# -- through the command: what a user sees -------------------------------------------------


def test_row_30_truncated(folder: Path, run_llmcli: RunLlmcli) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    refused(run_llmcli("generate", "-m", str(folder), "Hi"), "model.safetensors", "cut short")


def test_row_30_git_lfs_pointer(folder: Path, run_llmcli: RunLlmcli) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 500000000\n"
    (folder / "model.safetensors").write_text(pointer)
    refused(run_llmcli("generate", "-m", str(folder), "Hi"), "git-lfs pointer", "git lfs pull")


def test_row_32_html(folder: Path, run_llmcli: RunLlmcli) -> None:
    (folder / "config.json").write_text("<html>504 Gateway Time-out</html>")
    refused(run_llmcli("generate", "-m", str(folder), "Hi"), "config.json", "HTML")


def test_row_35_pickle_only(folder: Path, run_llmcli: RunLlmcli, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    script = f"cos\nsystem\n(S'touch {tmp_path}/pwned'\ntR.".encode()
    (folder / "pytorch_model.bin").write_bytes(script)
    refused(run_llmcli("generate", "-m", str(folder), "Hi"), "--allow-pickle")
    assert not (tmp_path / "pwned").exists()


def test_row_36_code_is_not_run_and_stdin_not_read(folder: Path, tmp_path: Path) -> None:
    (folder / "modeling.py").write_text(f"open({str(tmp_path / 'pwned')!r}, 'w')\n")
    (folder / "configuration.py").write_text(f"open({str(tmp_path / 'pwned')!r}, 'w')\n")
    change_config(
        folder,
        model_type="homemade",
        auto_map={
            "AutoConfig": "configuration.Config",
            "AutoModelForCausalLM": "modeling.Model",
        },
    )
    ours, theirs = os.pipe()
    os.write(theirs, b"y\ny\ny\n")
    os.close(theirs)
    done = subprocess.run(
        [sys.executable, "-m", "llmcli", "generate", "-m", str(folder), "Hi"],
        stdin=ours,
        capture_output=True,
        check=False,
    )
    assert os.read(ours, 100) == b"y\ny\ny\n"
    os.close(ours)
    assert done.returncode == 1
    assert b"--trust-remote-code" in done.stderr
    assert not (tmp_path / "pwned").exists()


def test_row_36_code_is_not_even_fetched(hub: FakeHub, folder: Path, run_llmcli: RunLlmcli) -> None:
    (folder / "modeling.py").write_text("raise SystemExit('executed')\n")
    change_config(folder, auto_map={"AutoModelForCausalLM": "modeling.Model"})
    hub.add("org/code", folder)
    refused(run_llmcli("generate", "-m", "org/code", "Hi"), "--trust-remote-code")
    assert hub.asked_for("modeling.py") == []


def test_row_50_a_kernel_from_the_hub(hub: FakeHub, folder: Path, run_llmcli: RunLlmcli) -> None:
    change_config(folder, attn_implementation="org/kernel")
    refused(run_llmcli("generate", "-m", str(folder), "Hi"), "attn_implementation", "org/kernel")
    assert hub.requests == []


def test_row_51_a_hundred_thousand_layers(folder: Path, run_llmcli: RunLlmcli) -> None:
    begin = time.monotonic()
    run_llmcli("models", "path", str(folder))
    start_up = time.monotonic() - begin
    change_config(folder, n_layer=100_000)
    begin = time.monotonic()
    done = run_llmcli("generate", "-m", str(folder), "Hi")
    seconds = time.monotonic() - begin
    refused(done, "n_layer 100000")
    # Within a second of a command that does nothing, on however busy a machine.
    assert seconds < 1 + 4 * start_up


def test_row_37_an_index_that_leaves_the_folder(folder: Path, run_llmcli: RunLlmcli) -> None:
    shutil.move(folder / "model.safetensors", folder.parent / "outside.safetensors")
    index = {"weight_map": {"transformer.wte.weight": "../outside.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(run_llmcli("generate", "-m", str(folder), "Hi"), "../outside.safetensors")


def test_row_29_names_of_files_drive_no_terminal(tmp_path: Path, run_llmcli: RunLlmcli) -> None:
    folder = tmp_path / "evil\x1b[2Jfolder"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    done = run_llmcli("generate", "-m", "./*", "Hi", cwd=tmp_path)
    refused(done)
    done = run_llmcli("models", "show", str(folder), cwd=tmp_path)
    assert b"\x1b" not in done.stderr
    assert done.returncode in (1, 2)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"<html>",
        b'{"model": {"type": "BPE", "vocab": {}, "merges": []}}',
        b'{"version": "1.0", "model": {"type": "Wonder"}}',
    ],
)
def test_row_33_a_tokenizer_that_is_none(
    folder: Path, run_llmcli: RunLlmcli, content: bytes
) -> None:
    (folder / "tokenizer.json").write_bytes(content)
    refused(run_llmcli("generate", "-m", str(folder), "Hi"), "tokenizer")


def test_row_33_no_tokenizer(folder: Path, run_llmcli: RunLlmcli) -> None:
    (folder / "tokenizer.json").unlink()
    refused(run_llmcli("generate", "-m", str(folder), "Hi"), "tokenizer.json")


def test_row_33_ids_beyond_the_embedding(folder: Path, run_llmcli: RunLlmcli) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_bytes())
    size = len(content["model"]["vocab"])
    for number in range(5):
        content["model"]["vocab"][f"extra{number}"] = size + number
    path.write_text(json.dumps(content))
    refused(run_llmcli("generate", "-m", str(folder), "Hi"), "tokenizer", "vocab_size")


def test_row_52_memory_cannot_be_had(folder: Path, run_llmcli: RunLlmcli) -> None:
    """Weights of 12 GB, all of it a hole in the file, in an address space of 6."""
    rows = 3 * 10**9 // 32
    data = (folder / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    header["transformer.wte.weight"]["shape"] = [rows, 32]
    end = 0
    for name, entry in header.items():
        if name != "__metadata__":
            size = 4 * math.prod(entry["shape"])
            entry["data_offsets"] = [end, end + size]
            end += size
    encoded = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        file.truncate(8 + len(encoded) + end)
    change_config(folder, vocab_size=rows)
    limit = 6 * 10**9
    done = subprocess.run(
        [sys.executable, "-m", "llmcli", "generate", "-m", str(folder), "Hi"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        check=False,
    )
    refused(done, "memory", "12.0 GB")


# -- through the library: what only transformers notices -----------------------------------


def test_row_31_a_missing_tensor(folder: Path) -> None:
    change_header(folder, rename("transformer.h.1.ln_2.weight", "transformer.h.1.ln_9.weight"))
    with pytest.raises(CorruptModel, match=r"h\.1\.ln_2\.weight"):
        llmcli.load(str(folder)).module  # noqa: B018


def test_row_31_an_unexpected_tensor(llama: Path) -> None:
    def change(header: dict[str, Any]) -> None:
        end = max(entry["data_offsets"][1] for key, entry in header.items() if key[0] != "_")
        place = {"dtype": "F32", "shape": [0, 2], "data_offsets": [end, end]}
        header["model.surprise.weight"] = place

    change_header(llama, change)
    with pytest.raises(LlmcliError, match="surprise"):
        llmcli.load(str(llama)).module  # noqa: B018


def test_row_31_mis_shaped_tensors(llama: Path) -> None:
    change_config(llama, num_key_value_heads=4)
    with pytest.raises(CorruptModel, match=r"k_proj"):
        llmcli.load(str(llama)).module  # noqa: B018


def test_row_31_another_architecture(llama: Path) -> None:
    change_config(llama, model_type="gpt_neox", architectures=["GPTNeoXForCausalLM"])
    with pytest.raises(CorruptModel):
        llmcli.load(str(llama)).module  # noqa: B018


def test_row_32_an_architecture_that_nobody_knows(folder: Path) -> None:
    change_config(folder, model_type="wonderformer")
    with pytest.raises(LlmcliError, match="wonderformer"):
        llmcli.load(str(folder)).module  # noqa: B018


def test_row_35_a_pickle_that_is_allowed_still_runs_nothing(folder: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(UnsafeModel):
        llmcli.load(str(folder))
    module = llmcli.load(str(folder), allow_pickle=True).module
    assert torch.equal(
        module.state_dict()["transformer.wte.weight"], weights["transformer.wte.weight"]
    )
    script = f"cos\nsystem\n(S'touch {tmp_path}/pwned'\ntR.".encode()
    (folder / "pytorch_model.bin").write_bytes(script)
    with pytest.raises(LlmcliError) as caught:
        llmcli.load(str(folder), allow_pickle=True).module  # noqa: B018
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "pwned").exists()


def test_a_config_that_asks_for_tuples(folder: Path) -> None:
    expected = list(llmcli.load(str(folder)).stream("Hi", max_new_tokens=3, temperature=0))
    change_config(folder, return_dict=False)
    model = llmcli.load(str(folder))
    assert list(model.stream("Hi", max_new_tokens=3, temperature=0)) == expected
    assert model.module(input_ids=torch.tensor([[1]])).logits is not None


def test_row_70_an_id_beyond_any_vocabulary(folder: Path, run_llmcli: RunLlmcli) -> None:
    """Tables of that size took 8 GB."""
    file = folder / "tokenizer.json"
    state = json.loads(file.read_text())
    token = next(iter(state["model"]["vocab"]))
    state["model"]["vocab"][token] = 2**31
    file.write_text(json.dumps(state))
    refused(run_llmcli("generate", "-m", str(folder), "Hi"), "the id 2147483648", "beyond any")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_rows_30_32_spoilt_copies_load_or_are_refused(
    tiny_gpt2: Path, tmp_path: Path, seed: int
) -> None:
    model_fuzz.attempt(tiny_gpt2, seed, tmp_path)
