"""Whether a folder can be a model, found out before any library builds anything of it.

transformers initialises at random what the weights lack, builds as many layers as config.json
asks for, follows an index out of the folder and asks on stdin whether to run code. So all of
that is looked at first, with the standard library and in milliseconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcli.errors import CorruptModel, UnsafeModel, UnsupportedModel
from llmcli.hub import cache
from llmcli.hub.reference import quoted
from llmcli.io.model_files import has_tokenizer, regular_files
from llmcli.models.config import (
    EXPERT_KEYS,
    HEAD_KEYS,
    INNER_KEYS,
    LAYER_KEYS,
    POSITION_KEYS,
    WIDTH_KEYS,
    first_size,
    read_config,
    text_part,
    uses_remote_code,
)
from llmcli.models.headers import FETCH_AGAIN, FLOATS, TensorInfo, read_headers, read_index

if TYPE_CHECKING:
    from llmcli.tokenization.tokenizer import Tokenizer

LAYER = re.compile(r"(?:^|\.)(?:h|layers|layer|blocks|block)\.(\d{1,6})\.")
_EXPERT = re.compile(r"\.experts\.(\d{1,6})\.")
_EMBEDDING = re.compile(
    r"(?:^|\.)(?:wte|embed_tokens|embed_in|word_embeddings|tok_embeddings|embeddings)\.weight$"
)
_POSITIONS = re.compile(r"(?:^|\.)wpe\.weight$")
_INNER = re.compile(
    r"\.mlp\.(?:c_fc|fc_in|up_proj|gate_proj|dense_h_to_4h|fc1|gate_up_proj)\.weight$"
)
# Tables that old files carry among their weights: transformers drops them, whatever their type.
TABLES = re.compile(
    r"(?:^|\.)(?:(?:attn|attention)\.(?:masked_)?bias|rotary_emb\.(?:inv_freq|cos_cached|sin_cached)"
    r"|position_ids|num_batches_tracked)$"
)
# What torch.compile and DistributedDataParallel put in front of every name.
WRAPPERS = re.compile(r"(?:(?:_orig_mod|module)\.)+")
# What the first checkpoints, made of TensorFlow's, call the weight and the bias of a norm. Of
# these transformers reads those of a LayerNorm, BERT's name for it, and no others.
OLD_NORMS = re.compile(r"((?:^|\.)(?:ln_\w+|\w*norm\d?|LayerNorm))\.(gamma|beta)$")
NORM_PARTS = {"gamma": "weight", "beta": "bias"}
# Kinds whose every layer is in the files and whose sizes are those of the tensors. Of others no
# more is assumed than that they are not built many times larger than their weights.
_PLAIN_KINDS = frozenset(
    [
        *("bloom", "codegen", "cohere", "falcon", "gemma", "gemma2", "gemma3_text", "gpt2"),
        *("gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "granite", "helium", "llama", "mistral"),
        *("mixtral", "mpt", "olmo", "olmo2", "olmoe", "opt", "persimmon", "phi", "phi3", "qwen2"),
        *("qwen2_moe", "qwen3", "qwen3_moe", "smollm3", "stablelm", "starcoder2"),
    ]
)
_ALLOWANCE = 16  # how much larger than its weights another kind may seem
_OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.gguf")


@dataclass(frozen=True)
class Inspection:
    """What a model's folder holds.

    Attributes:
        config: The content of config.json.
        weights: The weight files.
        tensors: Type and shape by name; empty for pickled weights, which nobody opened.
        pickled: Whether the weights are pickled.
    """

    config: Mapping[str, Any]
    weights: tuple[Path, ...]
    tensors: Mapping[str, TensorInfo]
    pickled: bool

    @property
    def parameters(self) -> int | None:
        """How many numbers the weights are; None for pickled ones."""
        return sum(info.size for info in self.tensors.values()) if self.tensors else None


def check_model_folder(
    folder: Path, *, allow_pickle: bool = False, trust_remote_code: bool = False
) -> Inspection:
    """Look at config.json and at the headers of the weights, and refuse what cannot be loaded.

    Opens no pickle and runs nothing. Takes milliseconds and a few megabytes whatever the files
    say. Call it before transformers; a tokenizer is checked by `check_tokenizer`.

    Args:
        folder: A model's folder.
        allow_pickle: Accept pickled weights where there are no others.
        trust_remote_code: Accept a config.json that names Python code of the repository.

    Returns:
        What was found.

    Raises:
        CorruptModel: A file is missing, cut short, altered, or contradicts another.
        UnsafeModel: Pickled weights, code, kernels or files from elsewhere.
        UnsupportedModel: An adapter, a quantised model, no weights in a known format.
    """
    config = read_config(folder / "config.json")
    if uses_remote_code(config) and not trust_remote_code:
        raise UnsafeModel(
            f"{quoted(str(folder))} brings its own Python code (auto_map in config.json).",
            "Choose another model, or give --trust-remote-code if you trust its author.",
        )
    if (folder / "adapter_config.json").exists():
        # transformers would load the base model that it names, from wherever that is.
        raise UnsupportedModel(
            f"{quoted(str(folder))} holds an adapter (adapter_config.json), not a whole model.",
            "Merge it into its base model first (peft's merge_and_unload).",
        )
    if not has_tokenizer(regular_files(folder)):
        raise CorruptModel(
            f"{quoted(str(folder))} has no tokenizer.json and no vocab.json with merges.txt.",
            "Copy the tokenizer's files from the model that it was made from.",
        )
    inspection = _read_weights(folder, config, allow_pickle=allow_pickle)
    if inspection.tensors:
        _check_names(folder, inspection.tensors)
        _check_types(folder, inspection.tensors)
        _compare(folder, text_part(config), inspection.tensors)
    return inspection


def unread_weights(folder: Path) -> list[str]:
    """The files of weights (or their indexes) of a folder that nothing reads.

    As in transformers, model.safetensors goes before shards with an index, and both go before
    pickles.
    """
    known = (cache.SAFETENSORS, cache.SAFETENSORS_INDEX, cache.PICKLE, cache.PICKLE_INDEX)
    return [name for name in known if (folder / name).is_file()][1:]


def check_tokenizer(tokenizer: Tokenizer, *, vocab_size: int, folder: Path) -> None:
    """Refuse a tokenizer with ids that the model's embedding has no row for.

    Control tokens may be without one, as a padding token that transformers adds by itself: no
    text has them unless it is asked for.

    Args:
        tokenizer: The model's.
        vocab_size: Rows of the embedding.
        folder: The model's, for the message.

    Raises:
        CorruptModel: An id is too large.
    """
    if tokenizer.vocab_size <= vocab_size:
        return
    entries = tokenizer.backend.get_vocab()
    if any(n >= vocab_size and n not in tokenizer.special_ids for n in entries.values()):
        raise CorruptModel(
            f"The tokenizer in {quoted(str(folder))} has {tokenizer.vocab_size:,} tokens and the "
            f"model's vocab_size is {vocab_size:,}: they do not belong together.",
            FETCH_AGAIN,
        )


def _read_weights(folder: Path, config: Mapping[str, Any], *, allow_pickle: bool) -> Inspection:
    files = list(cache.weight_files(folder, allow_pickle=allow_pickle))
    if not files:
        raise _no_weights(folder)
    index = files.pop(0) if files[0].suffix == ".json" else None
    if index is not None:
        # The names that leave the folder were left out above: this says so.
        read_index(index)
    for path in files:
        if not path.is_file():
            raise CorruptModel(
                f"{quoted(str(folder))} lacks {quoted(path.name)}, which its index names.",
                FETCH_AGAIN,
            )
    pickled = any(path.suffix == ".bin" for path in files)
    tensors = {} if pickled else read_headers(files, index)
    return Inspection(config, tuple(files), tensors, pickled)


def _no_weights(folder: Path) -> UnsafeModel | UnsupportedModel | CorruptModel:
    name = quoted(str(folder))
    shards = sorted(path.name for path in folder.glob("*-of-*.safetensors"))
    if shards:
        return CorruptModel(
            f"{name} has shards ({quoted(shards[0])}) and no {cache.SAFETENSORS_INDEX}, which "
            "says what is where.",
            "Copy it from the model's source, or: llmcli models repair DIR -o DIR2.",
        )
    if (folder / cache.PICKLE).exists() or (folder / cache.PICKLE_INDEX).exists():
        return UnsafeModel(
            f"{name} has its weights in pickle files only, which can run code.",
            "Choose a model with safetensors, or give --allow-pickle if you trust its owner.",
        )
    others = sorted(path.name for pattern in _OTHER_WEIGHTS for path in folder.glob(pattern))
    if others:
        return UnsupportedModel(
            f"{name} has its weights in {quoted(others[0])}, which cannot be read here.",
            "Choose a model with a model.safetensors file.",
        )
    return CorruptModel(f"{name} has no {cache.SAFETENSORS}.", FETCH_AGAIN)


def _check_names(folder: Path, tensors: Mapping[str, TensorInfo]) -> None:
    """Refuse names that a wrapper left behind, and old ones: transformers would find no tensor."""
    wrapped = [match[0] for name in tensors if (match := WRAPPERS.match(name))]
    if len(wrapped) == len(tensors):
        by = "torch.compile" if "_orig_mod." in wrapped[0] else "a wrapper for several processes"
        raise CorruptModel(
            f"{quoted(str(folder))}: all tensors are named {wrapped[0]}..., as {by} names them.",
            "Make a clean copy: llmcli models repair DIR -o DIR2.",
        )
    for name in tensors:
        if (match := OLD_NORMS.search(name)) and not match[1].endswith("LayerNorm"):
            raise CorruptModel(
                f"{quoted(str(folder))}: {quoted(name)} is what old checkpoints call the "
                f"{NORM_PARTS[match[2]]} of a norm, and transformers does not read it.",
                "Make a clean copy: llmcli models repair DIR -o DIR2.",
            )


def _check_types(folder: Path, tensors: Mapping[str, TensorInfo]) -> None:
    """Refuse weights that are integers: cast to floating point they are nonsense."""
    for name, info in tensors.items():
        if info.dtype not in FLOATS and not TABLES.search(name):
            raise CorruptModel(
                f"{quoted(str(folder))}: {quoted(name)} has the type {info.dtype}, and weights are "
                "floating-point numbers.",
                FETCH_AGAIN,
            )


def _compare(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> None:
    """Refuse sizes in config.json that the weights contradict, before anything is built."""
    problem = next(_contradictions(config, tensors), None)
    if problem is not None:
        raise CorruptModel(
            f"{quoted(str(folder))}: {problem}.",
            "config.json and the weights do not belong together. " + FETCH_AGAIN,
        )


def _contradictions(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Iterator[str]:
    sure = config.get("model_type") in _PLAIN_KINDS
    allowance = 1 if sure else _ALLOWANCE
    layers = first_size(config, LAYER_KEYS)
    if layers is not None:
        found = {int(match[1]) for name in tensors if (match := LAYER.search(name))}
        have = max(found) + 1 if found else len(tensors)
        if layers[1] > allowance * have:
            yield f"config.json says {layers[0]} {layers[1]}, and the weights have {have} layers"
    experts = first_size(config, EXPERT_KEYS)
    if experts is not None and sure:
        apart = {match[1] for name in tensors if (match := _EXPERT.search(name))}
        together = any(experts[1] in info.shape for info in tensors.values())
        if experts[1] > len(apart) and not together:
            yield f"config.json says {experts[0]} {experts[1]}, and the weights have {len(apart)}"
    longest = max((max(info.shape, default=1) for info in tensors.values()), default=0)
    for keys in (WIDTH_KEYS, HEAD_KEYS, INNER_KEYS, ("vocab_size",), ("head_dim",)):
        size = first_size(config, keys)
        if size is not None and size[1] > allowance * longest:
            yield (
                f"config.json says {size[0]} {size[1]}, and no tensor has a dimension "
                f"larger than {longest}"
            )
    if sure:
        yield from _shape_contradictions(config, tensors)


def _shape_contradictions(
    config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]
) -> Iterator[str]:
    width, inner = first_size(config, WIDTH_KEYS), first_size(config, INNER_KEYS)
    # Some models embed more narrowly than they compute, and say so.
    narrow = config.get("word_embed_proj_dim") or config.get("embedding_size")
    for name, info in tensors.items():
        shape, size = list(info.shape), None
        if _EMBEDDING.search(name) and len(shape) == 2:
            size = first_size(config, ("vocab_size",))
            if size is not None and shape[0] == size[1] and not narrow:
                shape, size = shape[1:], width
        elif _POSITIONS.search(name):
            size = first_size(config, POSITION_KEYS)
            shape = shape[:1]
        elif _INNER.search(name):
            size = inner
            shape = [*shape, *(n // 2 for n in shape)]
        if size is not None and size[1] not in shape:
            yield (
                f"config.json says {size[0]} {size[1]}, and {quoted(name)} has the shape "
                f"{list(info.shape)}"
            )
