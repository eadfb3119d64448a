"""Model folders as people have them, each against transformers: the same ids and logits, or a
refusal that says why.

docs/models.md counts what is tried here; LLMCLI_UPDATE_DOCS=1 writes the table anew.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from model_folders import (
    FAMILIES,
    Change,
    both,
    cast,
    embedding,
    fields,
    general_names,
    head_alone,
    head_beside,
    no_metadata,
    padded,
    pair_of_files,
    pickled,
    prefixed,
    renamed,
    shard,
    tensors,
    value_head,
    with_tensor,
    without_tensor,
)
from torch import Tensor

from llmcli.api import load
from llmcli.errors import LlmcliError
from llmcli.models.language_model import LanguageModel

OTHERS = FAMILIES[1:]
TEXT = "the old fox said: 12 hens!\n"
DOCS = Path(__file__).parents[2] / "docs" / "models.md"
UPDATE = os.environ.get("LLMCLI_UPDATE_DOCS") == "1"  # before a fixture takes it away


@dataclass(frozen=True)
class Variant:
    """One way in which folders differ.

    Attributes:
        change: Makes it of a plain folder.
        refused: What our refusal says; None where the logits are the same.
        families: Which are tried.
        allow_pickle: Whether pickled weights are allowed.
        says: What a notice says; None where there is none.
    """

    change: Change
    refused: str | None = None
    families: tuple[str, ...] = ("gpt2",)
    allow_pickle: bool = False
    says: str | None = None


BOTH = ("gpt2", "llama")
MASK = torch.ones(1, 1, 8, 8, dtype=torch.bool).tril()
GPT2_BLOCK = "transformer.h.0.attn"

VARIANTS: dict[str, Variant] = {
    "as it is saved": Variant(lambda folder: None, families=FAMILIES),
    # Weights.
    "float16": Variant(cast(torch.float16), families=BOTH),
    "bfloat16": Variant(cast(torch.bfloat16), families=BOTH),
    "float64": Variant(cast(torch.float64), families=BOTH),
    "mixed types": Variant(cast(torch.float16, "mlp|fc"), families=FAMILIES),
    "no metadata in the header": Variant(no_metadata, families=BOTH),
    "a tied head stored, too": Variant(tensors(head_beside), families=("gpt2", "opt", "bloom")),
    "a tied head stored, too, that differs": Variant(
        tensors(
            lambda found: {**found, "lm_head.weight": torch.ones_like(found[embedding(found)])}
        ),
    ),
    "a tied head stored alone": Variant(tensors(head_alone), families=("gpt2", "qwen2")),
    "boolean masks": Variant(with_tensor(f"{GPT2_BLOCK}.bias", MASK)),
    "byte masks": Variant(with_tensor(f"{GPT2_BLOCK}.bias", MASK.to(torch.uint8))),
    "masked_bias": Variant(with_tensor(f"{GPT2_BLOCK}.masked_bias", torch.tensor(-1e4))),
    "attention.bias of GPT-Neo": Variant(
        with_tensor("transformer.h.0.attn.attention.bias", MASK), families=("gpt_neo",)
    ),
    "attention.masked_bias of GPT-NeoX": Variant(
        with_tensor("gpt_neox.layers.0.attention.masked_bias", torch.tensor(-1e4)),
        families=("gpt_neox",),
    ),
    "rotary tables": Variant(
        with_tensor("model.layers.0.self_attn.rotary_emb.inv_freq", torch.ones(4)),
        families=("llama", "qwen2"),
    ),
    "the names of a model without its head": Variant(renamed(r"^transformer\.", "")),
    "gamma and beta": Variant(
        both(renamed(r"(ln_\w)\.weight", r"\1.gamma"), renamed(r"(ln_\w)\.bias", r"\1.beta")),
        "old checkpoints.*repair",
    ),
    "a value head beside": Variant(value_head, families=BOTH, says="v_head"),
    "two heads": Variant(
        both(
            with_tensor("multiple_choice_head.summary.weight", torch.zeros(1, 32)),
            fields(architectures=["GPT2DoubleHeadsModel"]),
        ),
        says="multiple_choice_head",
    ),
    "lm_head.decoder.weight": Variant(
        tensors(lambda found: {**found, "lm_head.decoder.weight": found[embedding(found)].clone()}),
        says=r"lm_head\.decoder",
    ),
    "more rows than tokens": Variant(padded, families=BOTH),
    "_orig_mod. in front": Variant(prefixed("_orig_mod."), "torch.compile", BOTH),
    "module. in front": Variant(prefixed("module."), "wrapper", BOTH),
    "a tensor is missing": Variant(
        without_tensor(r"\.1\.(?:ln_1|input_layernorm|self_attn_layer_norm)\.weight"),
        "lack",
        ("gpt2", "llama", "bloom"),
    ),
    "a layer is missing": Variant(without_tensor(r"\.1\."), "layers|lack", OTHERS),
    "a tensor too many": Variant(
        with_tensor("model.layers.0.self_attn.gate.weight", torch.zeros(4)), "hold", ("llama",)
    ),
    "another shape": Variant(
        tensors(
            lambda found: {
                name: each[:16] if "mlp.c_fc.weight" in name else each
                for name, each in found.items()
            }
        ),
        "shape",
    ),
    "weights of integers": Variant(cast(torch.int32, r"mlp|fc"), "type I32", BOTH),
    "shards": Variant(shard, families=FAMILIES),
    "shards and a whole file": Variant(lambda folder: shard(folder, keep=True)),
    "shards without an index": Variant(lambda folder: shard(folder, index=False), "shards", BOTH),
    "an index without metadata": Variant(
        lambda folder: shard(folder, metadata=False), "metadata", BOTH
    ),
    "pickled, too": Variant(lambda folder: pickled(folder, keep=True), families=BOTH),
    "pickled alone": Variant(pickled, "pickle", BOTH),
    "pickled alone, and allowed": Variant(pickled, families=BOTH, allow_pickle=True),
    # config.json.
    "general names": Variant(general_names, families=("gpt2", "bloom", "gpt_neo")),
    "general names and wrong own ones": Variant(
        fields(num_hidden_layers=2, hidden_size=32, n_layer=9, n_embd=7)
    ),
    "no architectures": Variant(fields(without=("architectures",)), families=FAMILIES),
    "architectures of another head": Variant(
        fields(architectures=["GPT2ForSequenceClassification"])
    ),
    "a type of numbers": Variant(fields(torch_dtype="float16"), families=BOTH),
    "Infinity": Variant(fields(time_step_limit=[0.0, float("inf")]), families=BOTH),
    "NaN": Variant(fields(somewhere=float("nan"))),
    "fields that nobody knows": Variant(fields(a={"b": [1]}, c=None), families=BOTH),
    "an old version": Variant(fields(transformers_version="4.2.0"), families=BOTH),
    "gelu": Variant(fields(activation_function="gelu")),
    "relu": Variant(fields(activation_function="relu")),
    "gelu_pytorch_tanh": Variant(fields(activation_function="gelu_pytorch_tanh")),
    "quick_gelu": Variant(fields(activation_function="quick_gelu")),
    "an activation that nobody knows": Variant(fields(activation_function="wow"), "wow"),
    "attention scaled by the layer": Variant(fields(scale_attn_by_inverse_layer_idx=True)),
    "attention not scaled": Variant(fields(scale_attn_weights=False)),
    "attention reordered": Variant(fields(reorder_and_upcast_attn=True)),
    "another epsilon": Variant(fields(layer_norm_epsilon=1e-2)),
    "n_inner": Variant(fields(n_inner=128)),
    "n_inner that differs": Variant(fields(n_inner=64), "shape"),
    "untied, and a head": Variant(
        both(tensors(head_beside), fields(tie_word_embeddings=False)), families=("gpt2", "opt")
    ),
    "untied, and no head": Variant(fields(tie_word_embeddings=False), "lack"),
    "more heads": Variant(fields(n_head=3), "divide"),
    "fewer layers": Variant(fields(n_layer=1), "hold"),
    "more positions": Variant(fields(n_positions=128), "n_positions"),
    "no positions": Variant(fields(without=("n_positions",)), "shape|n_positions"),
    "linear rotary scaling": Variant(
        fields(rope_scaling={"type": "linear", "factor": 2.0}), families=("llama",)
    ),
    "a rotary base": Variant(
        fields(without=("rope_parameters",), rope_theta=500.0), families=("llama", "qwen2")
    ),
    "no rotary parameters": Variant(
        fields(without=("rope_parameters",)), families=("llama", "qwen2", "gpt_neox")
    ),
    "no context": Variant(
        fields(without=("max_position_embeddings",)), families=("llama", "gpt_neox", "qwen2")
    ),
    "another model's kind": Variant(
        fields(model_type="gpt_neox", architectures=["GPTNeoXForCausalLM"]),
        "lack|shape",
        ("llama",),
    ),
    "eos: a list": Variant(fields(eos_token_id=[0, 5]), families=BOTH),
    "eos: -1": Variant(fields(eos_token_id=-1), families=BOTH),
    "eos: null": Variant(fields(eos_token_id=None), families=BOTH),
    "eos and bos beyond the rows": Variant(fields(eos_token_id=99_999, bos_token_id=99_999)),
    # generation_config.json and the tokenizer.
    "no generation_config.json": Variant(
        lambda folder: (folder / "generation_config.json").unlink(missing_ok=True),
        families=BOTH,
    ),
    "a pair of files": Variant(pair_of_files, families=BOTH),
    "a padding token beside": Variant(
        fields("tokenizer_config.json", pad_token="<pad>"), families=BOTH
    ),
    "no tokenizer_config.json": Variant(
        lambda folder: (folder / "tokenizer_config.json").unlink(), families=BOTH
    ),
}
CASES = [(name, family) for name, each in VARIANTS.items() for family in each.families]


def ours(model: LanguageModel, ids: list[int]) -> Tensor:
    decoder = model.decoder()
    slot = decoder.open()
    decoder.append([(slot, ids[:1])])
    return torch.from_numpy(decoder.append([(slot, ids[1:])], every=True))


@pytest.mark.parametrize(("name", "family"), CASES)
def test_a_folder_is_read_as_transformers_reads_it_or_refused(
    families: Callable[[str], Path], tmp_path: Path, name: str, family: str
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    variant = VARIANTS[name]
    folder = Path(shutil.copytree(families(family), tmp_path / "model"))
    variant.change(folder)

    def loaded(said: list[str]) -> LanguageModel:
        return load(
            str(folder), device="cpu", allow_pickle=variant.allow_pickle, notify=said.append
        )

    said: list[str] = []
    if variant.refused is not None:
        with pytest.raises(LlmcliError, match=variant.refused) as caught:
            ours(loaded(said), [1, 2, 3])
        assert "\n" not in str(caught.value)
        return
    tokenizer_of: Any = AutoTokenizer.from_pretrained
    model_of: Any = AutoModelForCausalLM.from_pretrained
    ids: list[int] = tokenizer_of(str(folder))(TEXT)["input_ids"]
    reference = model_of(str(folder), dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = reference(torch.tensor([ids])).logits[0, 1:]
    for _ in range(2):  # the second time from what was prepared
        model = loaded(said)
        assert model.tokenizer.ids(TEXT) == ids
        torch.testing.assert_close(ours(model, ids), expected, rtol=1e-3, atol=1e-3)
    assert bool(variant.says) == any("left out" in each for each in said if "rows" not in each)
    assert not variant.says or re.search(variant.says, " ".join(said))


def table() -> str:
    """Rows for docs/models.md: what was tried for each family, and how it ended."""
    lines = ["| family | tried | the same | refused |", "|---|---|---|---|"]
    totals: Counter[str] = Counter()
    for family in FAMILIES:
        counts = Counter(
            "same" if VARIANTS[name].refused is None else "refused"
            for name, of in CASES
            if of == family
        )
        totals += counts
        row = (sum(counts.values()), counts["same"], counts["refused"])
        lines.append(f"| {family} | " + " | ".join(map(str, row)) + " |")
    row = (sum(totals.values()), totals["same"], totals["refused"])
    return "\n".join([*lines, "| all | " + " | ".join(map(str, row)) + " |"])


def test_the_documentation_counts_what_is_tried() -> None:
    begin, end = "<!-- variants -->\n", "<!-- end of variants -->"
    text = DOCS.read_text("utf-8")
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    assert after
    written = before + begin + table() + "\n" + end + after
    if UPDATE:
        DOCS.write_text(written, "utf-8")
    assert DOCS.read_text("utf-8") == written
    assert len(VARIANTS) >= 60
