"""Adapters: found, merged once, and used as any model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from fakehub import FakeHub
from safetensors.torch import load_file, save_file

from llmcli.api import load
from llmcli.cli.main import cli
from llmcli.errors import CorruptModel, LlmcliError, ModelNotFound, UnsupportedModel
from llmcli.hub.resolve import resolve
from llmcli.models.adapter import merged_folder
from llmcli.models.language_model import LanguageModel
from llmcli.models.prepared import prepared_files, prepared_folder

# peft asks transformers by a name that it is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture
def adapter(tiny_gpt2: Path, tmp_path: Path) -> Path:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    of: Any = AutoModelForCausalLM.from_pretrained
    settings = peft.LoraConfig(
        r=4, task_type="CAUSAL_LM", target_modules=["c_attn"], fan_in_fan_out=True
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = peft.get_peft_model(of(str(tiny_gpt2)), settings)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def logits(model: LanguageModel, ids: list[int]) -> torch.Tensor:
    decoder = model.decoder()
    return torch.from_numpy(decoder.append([(decoder.open(), ids)]))[0]


def test_an_adapter_is_its_base_model_and_itself(adapter: Path, tiny_gpt2: Path) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    said: list[str] = []
    model = load(str(adapter), device="cpu", notify=said.append)
    assert "merged" in said[0]
    ids = model.tokenizer.ids("the old fox")
    of: Any = AutoModelForCausalLM.from_pretrained
    reference: Any = peft.PeftModel.from_pretrained(of(str(tiny_gpt2)), str(adapter)).eval()
    with torch.inference_mode():
        expected = reference(input_ids=torch.tensor([ids])).logits[0, -1]
    torch.testing.assert_close(logits(model, ids), expected, rtol=1e-4, atol=1e-4)
    plain = logits(load(str(tiny_gpt2), device="cpu"), ids)
    assert (plain - expected).abs().max() > 0.1
    said.clear()
    again = load(str(adapter), device="cpu", notify=said.append)
    assert not said
    assert again.folder == model.folder
    assert again.revision == model.revision
    assert len(list(merged_folder().iterdir())) == 1


def test_a_merged_copy_goes_with_what_it_was_made_of(
    hub: FakeHub, adapter: Path, tiny_gpt2: Path
) -> None:
    first = load(str(adapter), device="cpu")
    first.decoder()  # prepared, where there are kernels of our own
    weights = adapter / "adapter_model.safetensors"
    save_file(
        {name: tensor * 2 for name, tensor in load_file(weights).items()},
        weights,
        metadata={"format": "pt"},
    )
    second = load(str(adapter), device="cpu")
    assert second.folder != first.folder
    assert not first.folder.exists()
    assert not prepared_files(first.folder)
    second.decoder()
    content = json.loads((adapter / "adapter_config.json").read_bytes())
    content["base_model_name_or_path"] = "org/base"
    (adapter / "adapter_config.json").write_text(json.dumps(content))
    hub.add("org/base", tiny_gpt2)
    third = load(str(adapter), device="cpu")
    third.decoder()
    assert [path.name for path in merged_folder().iterdir()] == [third.folder.name]
    removed = CliRunner().invoke(cli, ["models", "remove", "org/base", "--yes"])
    assert removed.exit_code == 0, removed.output
    assert not list(merged_folder().iterdir())
    assert not list(prepared_folder().glob("*"))


def test_its_tokenizer_is_its_own_or_its_base_model_s(adapter: Path, tiny_gpt2: Path) -> None:
    first = CliRunner().invoke(cli, ["encode", "-m", str(adapter), "the fox"])
    base = CliRunner().invoke(cli, ["encode", "-m", str(tiny_gpt2), "the fox"])
    assert first.exit_code == 0
    assert first.stdout == base.stdout
    shutil.copy(tiny_gpt2 / "tokenizer.json", adapter)
    assert resolve(str(adapter), need="tokenizer").folder == adapter


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"base_model_name_or_path": None}, CorruptModel),
        ({"base_model_name_or_path": "/nowhere/at/all"}, LlmcliError),
        ({"peft_type": 3}, CorruptModel),
        ({"auto_mapping": {"parent_library": "evil.module"}}, UnsupportedModel),
    ],
)
def test_what_is_wrong_with_it_is_said(
    adapter: Path, change: dict[str, object], error: type[LlmcliError]
) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **change}))
    with pytest.raises(error):
        load(str(adapter), device="cpu")


def test_an_adapter_of_another_model(adapter: Path, tiny_llama: Path) -> None:
    path = adapter / "adapter_config.json"
    content = {**json.loads(path.read_bytes()), "base_model_name_or_path": str(tiny_llama)}
    path.write_text(json.dumps(content))
    with pytest.raises(CorruptModel, match="does not fit"):
        load(str(adapter), device="cpu")
    assert not list(merged_folder().iterdir())


def test_an_adapter_on_the_hub_brings_its_base(
    hub: FakeHub, adapter: Path, tiny_gpt2: Path
) -> None:
    path = adapter / "adapter_config.json"
    content = {**json.loads(path.read_bytes()), "base_model_name_or_path": "org/base"}
    path.write_text(json.dumps(content))
    hub.add("org/base", tiny_gpt2)
    hub.add("org/adapter", adapter)
    found = resolve("org/adapter")
    assert found.adapter is not None
    assert found.adapter.name != found.folder.name
    assert resolve("org/adapter", offline=True) == found
    ids = load(str(tiny_gpt2), device="cpu").tokenizer.ids("the old fox")
    local = logits(load(str(adapter), device="cpu", offline=True), ids)
    remote = logits(load("org/adapter", device="cpu", offline=True), ids)
    torch.testing.assert_close(local, remote)
    shown = CliRunner().invoke(cli, ["models", "show", "org/adapter"])
    assert shown.exit_code == 1
    assert '"org/base"' in shown.stderr


def test_an_adapter_on_the_hub_chooses_no_folder_here(
    hub: FakeHub, adapter: Path, tiny_gpt2: Path
) -> None:
    hub.add("org/adapter", adapter)  # its base is a folder of this machine
    with pytest.raises(ModelNotFound):
        resolve("org/adapter")


def test_pickled_adapters_are_refused(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(UnsupportedModel, match=r"adapter_model\.safetensors"):
        load(str(adapter), device="cpu")
