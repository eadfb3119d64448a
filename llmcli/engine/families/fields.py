"""Reading a config: what a family does not read and nobody may ignore is a refusal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from llmcli.engine.blueprint import Activation

# What says nothing about the arithmetic of a forward pass.
_NEUTRAL = frozenset(
    {
        "_name_or_path", "_attn_implementation", "_attn_implementation_autoset", "architectures",
        "attn_pdrop", "attention_dropout", "auto_map", "bad_words_ids", "begin_suppress_tokens",
        "bos_token", "bos_token_id", "chunk_size_feed_forward", "classifier_dropout",
        "classifier_dropout_prob", "decoder_start_token_id", "diversity_penalty", "do_sample",
        "dropout", "dtype", "early_stopping", "embd_pdrop", "embed_dropout", "embedding_dropout",
        "encoder_no_repeat_ngram_size", "eos_token", "eos_token_id", "exponential_decay_length",
        "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "gradient_checkpointing",
        "hidden_dropout", "id2label", "init_std", "initializer_range",
        "keys_to_ignore_at_inference", "label2id", "layerdrop", "length_penalty", "max_length",
        "min_length", "model_type", "no_repeat_ngram_size", "num_beam_groups", "num_beams",
        "num_labels", "num_return_sequences", "output_attentions", "output_hidden_states",
        "output_scores", "pad_token_id", "prefix", "problem_type", "remove_invalid_values",
        "repetition_penalty", "resid_dropout", "resid_pdrop", "residual_dropout", "return_dict",
        "return_dict_in_generate", "sep_token_id", "summary_activation", "summary_first_dropout",
        "summary_proj_to_labels", "summary_type", "summary_use_proj", "suppress_tokens",
        "task_specific_params", "temperature", "tf_legacy_loss", "tokenizer_class", "top_k",
        "top_p", "torch_dtype", "torchscript", "transformers_version", "typical_p", "unsloth_fixed",
        "unsloth_version", "use_bfloat16", "use_cache", "use_return_dict",
    }
)  # fmt: skip
_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "quick_gelu": "gelu_quick",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}


class Refusal(ValueError):
    """A model that our own engine does not compute; the text says why."""


class Fields:
    """A resolved config's fields, each checked as it is read.

    Args:
        config: What transformers made of config.json, defaults filled in.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self._read: set[str] = set()

    def value(self, name: str, default: Any = None) -> Any:
        """A field as it is; the default where it is absent or null."""
        self._read.add(name)
        value = self._config.get(name)
        return default if value is None else value

    def integer(self, name: str, default: int | None = None) -> int:
        """A positive whole number."""
        value = self.value(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            self.refuse(name)
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A number."""
        value = self.value(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(name)
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        """Yes or no."""
        value = self.value(name, default)
        if not isinstance(value, bool):
            self.refuse(name)
        return value

    def activation(self, name: str) -> Activation:
        """An activation function that the kernels have."""
        value = self.value(name)
        if not isinstance(value, str) or value not in _ACTIVATIONS:
            self.refuse(name)
        return _ACTIVATIONS[value]

    def skip(self, *names: str) -> None:
        """Fields that a family knows and need not look at."""
        self._read.update(names)

    def only(self, name: str, *allowed: Any) -> None:
        """Refuse unless a field is absent, null or one of these."""
        value = self.value(name)
        if value is not None and value not in allowed:
            self.refuse(name)

    def refuse(self, name: str) -> NoReturn:
        """Refuse because of what a field says."""
        text = repr(self._config.get(name))
        raise Refusal(f"config.json's {name} is {text if len(text) < 60 else text[:57] + '...'}")

    def done(self) -> None:
        """Refuse where there is a field that nobody read."""
        unknown = self._config.keys() - self._read - _NEUTRAL
        unknown = {name for name in unknown if self._config[name] is not None}
        if unknown:
            raise Refusal(f"config.json has a field unknown here: {', '.join(sorted(unknown))}")
