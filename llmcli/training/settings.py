"""Every setting of a training run, as frozen dataclasses that check themselves (stdlib only)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from llmcli.errors import InvalidInput

ScheduleName = Literal["cosine", "wsd", "constant"]
OptimizerName = Literal["adamw", "muon"]
TrainPrecision = Literal["auto", "float32", "bfloat16"]
StoredPrecision = Literal["float32", "float16", "bfloat16", "auto"]

END_OF_TEXT = "<|endoftext|>"
MIN_VOCAB = 257  # the 256 bytes and the end-of-text token


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The size of a GPT-2 made from scratch; the names are ``GPT2Config``'s.

    Raises:
        InvalidInput: a size is not positive, or the width is not divisible by the heads.
    """

    vocab_size: int = 8192
    n_layer: int = 6
    n_head: int = 8
    n_embd: int = 256
    n_positions: int = 1024

    def __post_init__(self) -> None:
        for name in ("n_layer", "n_head", "n_embd"):
            _at_least(name, getattr(self, name), 1)
        _at_least("n_positions", self.n_positions, 2)  # less has nothing to predict a token from
        if self.vocab_size < MIN_VOCAB:
            raise InvalidInput(
                f"vocab_size is {self.vocab_size}; a byte-level vocabulary has at least "
                f"{MIN_VOCAB} entries.",
                f"Use --vocab-size {MIN_VOCAB} or more.",
            )
        if self.n_embd % self.n_head:
            raise InvalidInput(
                f"The width {self.n_embd} is not divisible by {self.n_head} heads.",
                "Choose --width as a multiple of --heads.",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """Low-rank adaptation (LoRA): rank, scale, and whether it is merged into the weights."""

    rank: int = 8
    alpha: float = 16.0
    merge: bool = False

    def __post_init__(self) -> None:
        _at_least("lora_rank", self.rank, 1)
        if not self.alpha > 0:
            raise InvalidInput(f"lora_alpha is {self.alpha}.", "Use a number above 0.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """How long, how fast and on what to train.

    Attributes:
        batch_size: Sequences of full context in a step of one process, before accumulation.
        gradient_accumulation_steps: Batches added up before the weights move.
        learning_rate: The highest value of the schedule, for every parameter.
        max_steps: Optimizer steps; None for no such bound.
        max_time: Seconds of training that the schedule is fitted into; None for no bound.
        epochs: Passes over the corpus; None for 1 where neither of the two is given.
        warmup: Fraction of the run over which the learning rate rises.
        decay: Fraction of the run over which ``wsd`` brings it back to 0.
        grow_from: Length of the first sequences; it doubles up to the context in stages of
            equal length. None to begin with the whole context.
        validation: Fraction held out, by whole document where there are enough of them.
        early_stopping: Evaluations without a better validation loss before the run ends.

    Raises:
        InvalidInput: a value is out of range.
    """

    batch_size: int = 8
    gradient_accumulation_steps: int = 1
    learning_rate: float = 1e-3
    optimizer: OptimizerName = "adamw"
    schedule: ScheduleName = "cosine"
    warmup: float = 0.02
    decay: float = 0.5
    weight_decay: float = 0.1
    dropout: float = 0.0
    max_grad_norm: float = 1.0
    max_steps: int | None = None
    max_time: float | None = None
    epochs: float | None = None
    grow_from: int | None = None
    validation: float = 0.02
    validation_tokens: int = 65536
    seed: int = 0
    precision: TrainPrecision = "auto"
    store: StoredPrecision = "float32"
    compile: bool = False
    gradient_checkpointing: bool = False
    evaluate_every: float = 300.0
    save_every: float = 300.0
    early_stopping: int | None = None
    sample_prompt: str = ""
    adapter: Adapter | None = field(default=None)

    def __post_init__(self) -> None:
        for name in ("batch_size", "gradient_accumulation_steps", "validation_tokens"):
            _at_least(name, getattr(self, name), 1)
        for name in ("max_steps", "early_stopping", "grow_from"):
            if getattr(self, name) is not None:
                _at_least(name, getattr(self, name), 1)
        for name in ("learning_rate", "evaluate_every", "save_every", "max_time", "epochs"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise InvalidInput(f"{name} is {value}.", "Use a number above 0.")
        for name in ("weight_decay", "max_grad_norm"):
            if not (getattr(self, name) >= 0 and math.isfinite(getattr(self, name))):
                raise InvalidInput(f"{name} is {getattr(self, name)}.", "Use 0 or more.")
        for name, below in (("warmup", 1.0), ("dropout", 1.0), ("validation", 1.0)):
            if not 0 <= getattr(self, name) < below:
                raise InvalidInput(
                    f"{name} is {getattr(self, name)}.", "Use a number from 0 to below 1."
                )
        if not 0 < self.decay <= 1:
            raise InvalidInput(f"decay is {self.decay}.", "Use a number above 0, at most 1.")


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise InvalidInput(f"{name} is {value}.", f"Use {least} or more.")
