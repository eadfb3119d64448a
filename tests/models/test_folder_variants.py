"""Model folders as people have them, each against transformers: the same ids and logits, or a
refusal that says why.

docs/models.md counts what is tried here; LLMCLI_UPDATE_DOCS=1 writes the table anew.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from llmcli.api import load
from llmcli.errors import LlmcliError
from llmcli.models.language_model import LanguageModel

FAMILIES = ("gpt2", "llama", "gpt_neox", "opt", "gpt_neo", "bloom", "qwen2")
OTHERS = FAMILIES[1:]
TEXT = "the old fox said: 12 hens!\n"
DOCS = Path(__file__).parents[2] / "docs" / "models.md"
UPDATE = os.environ.get("LLMCLI_UPDATE_DOCS") == "1"  # before a fixture takes it away
WEIGHTS = "model.safetensors"
SHARDS = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def make_family(folder: Path, family: str, tokenizer: Path) -> None:
    """A random model of two layers with a byte-level tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shutil.copy(tokenizer / "tokenizer.json", folder)
    size = max(json.loads((tokenizer / "tokenizer.json").read_bytes())["model"]["vocab"].values())
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    extra: dict[str, dict[str, Any]] = {
        "llama": {"intermediate_size": 64, "num_key_value_heads": 2},
        "qwen2": {"intermediate_size": 64, "num_key_value_heads": 2, "tie_word_embeddings": True},
        "gpt_neox": {"intermediate_size": 64},
        "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
        "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    }
    # Token ids beyond the vocabulary are what some classes have for defaults.
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config: Any = AutoConfig.for_model(
        family,
        vocab_size=size + 1,
        max_position_embeddings=64,
        **sizes,
        **ids,
        **extra.get(family, {}),
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        auto: Any = AutoModelForCausalLM
        model = auto.from_config(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.15)
        model.tie_weights()
    model.save_pretrained(folder)
    fast = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(fast))


@pytest.fixture(scope="session")
def families(
    tmp_path_factory: pytest.TempPathFactory, tokenizer_folders: Callable[[str], Path]
) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            make_family(made[family], family, tokenizer_folders("gpt2"))
        return made[family]

    return folder


# -- how a folder is changed -----------------------------------------------------------------

Change = Callable[[Path], object]


def tensors(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Change:
    """Change the tensors of a folder."""

    def apply(folder: Path) -> None:
        changed = change(load_file(folder / WEIGHTS))
        save_file(
            {name: tensor.contiguous() for name, tensor in changed.items()},
            folder / WEIGHTS,
            metadata={"format": "pt"},
        )

    return apply


def fields(file: str = "config.json", without: tuple[str, ...] = (), **values: Any) -> Change:
    """Set and remove fields of a JSON file."""

    def apply(folder: Path) -> None:
        path = folder / file
        content = json.loads(path.read_bytes()) if path.exists() else {}
        content = {key: value for key, value in content.items() if key not in without}
        path.write_text(json.dumps({**content, **values}))

    return apply


def both(*changes: Change) -> Change:
    def apply(folder: Path) -> None:
        for change in changes:
            change(folder)

    return apply


def cast(dtype: torch.dtype, names: str = "") -> Change:
    return tensors(
        lambda found: {
            name: tensor.to(dtype) if re.search(names, name) else tensor
            for name, tensor in found.items()
        }
    )


def prefixed(prefix: str) -> Change:
    return tensors(lambda found: {prefix + name: tensor for name, tensor in found.items()})


def renamed(old: str, new: str) -> Change:
    return tensors(lambda found: {re.sub(old, new, name): each for name, each in found.items()})


def with_tensor(name: str, tensor: Tensor) -> Change:
    return tensors(lambda found: {**found, name: tensor})


def without_tensor(pattern: str) -> Change:
    return tensors(
        lambda found: {name: each for name, each in found.items() if not re.search(pattern, name)}
    )


def embedding(found: Mapping[str, Tensor]) -> str:
    return next(
        name for name in found if re.search(r"(?:wte|embed_tokens|word_embeddings)\.weight$", name)
    )


def head_beside(found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**found, "lm_head.weight": found[embedding(found)].clone()}


def head_that_differs(found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**found, "lm_head.weight": torch.ones_like(found[embedding(found)])}


def head_alone(found: dict[str, Tensor]) -> dict[str, Tensor]:
    name = embedding(found)
    rest = {key: each for key, each in found.items() if key != name}
    return {**rest, "lm_head.weight": found[name]}


def shard(folder: Path, *, index: bool = True, metadata: bool = True, keep: bool = False) -> None:
    found = load_file(folder / WEIGHTS)
    names = sorted(found)
    for place, part in zip(SHARDS, (names[::2], names[1::2]), strict=True):
        part_tensors = {name: found[name] for name in part}
        save_file(part_tensors, folder / place, metadata={"format": "pt"})
    places = {name: SHARDS[number % 2] for number, name in enumerate(names)}
    content: dict[str, Any] = {"weight_map": places, **({"metadata": {}} if metadata else {})}
    if index:
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(content))
    if not keep:
        (folder / WEIGHTS).unlink()


def pickled(folder: Path, *, keep: bool = False) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    if not keep:
        (folder / WEIGHTS).unlink()


def no_metadata(folder: Path) -> None:
    save_file(load_file(folder / WEIGHTS), folder / WEIGHTS)


def general_names(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_bytes())
    names = {
        "n_layer": "num_hidden_layers",
        "num_layers": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "num_heads": "num_attention_heads",
        "n_embd": "hidden_size",
        "n_positions": "max_position_embeddings",
    }
    renamed = {names.get(key, key): value for key, value in config.items()}
    (folder / "config.json").write_text(json.dumps(renamed))


def more_rows(found: dict[str, Tensor]) -> dict[str, Tensor]:
    rows = {key: each for key, each in found.items() if re.search("wte|embed|lm_head", key)}
    return {**found, **{k: torch.cat([e, e[:7]]) for k, e in rows.items() if "pos" not in k}}


def padded(folder: Path) -> None:
    tensors(more_rows)(folder)
    size = json.loads((folder / "config.json").read_bytes())["vocab_size"]
    fields(vocab_size=size + 7)(folder)


def pair_of_files(folder: Path) -> None:
    state = json.loads((folder / "tokenizer.json").read_bytes())["model"]
    (folder / "vocab.json").write_text(json.dumps(state["vocab"]))
    merges = "\n".join(" ".join(pair) for pair in state["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')


def value_head(folder: Path) -> None:
    with_tensor("v_head.summary.weight", torch.zeros(1, 32))(folder)


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
    "a tied head stored alone": Variant(tensors(head_alone), families=("qwen2",)),
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
        "lack",
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
