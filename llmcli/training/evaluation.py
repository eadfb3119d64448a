"""Validation: a quick loss while training, and exact bits per byte at the end."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from llmcli.engine.transformers_decoder import TransformersDecoder
from llmcli.reporting import working
from llmcli.scoring.likelihood import Likelihood as Scorer
from llmcli.scoring.statistics import Tally
from llmcli.scoring.windows import Window, make_convention
from llmcli.training.tokens import TokenFile

if TYPE_CHECKING:
    from accelerate import Accelerator
    from numpy.typing import NDArray
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Likelihood:
    """The likelihood of held-out text.

    Attributes:
        nats: Negative log-likelihood of all its tokens.
        tokens: How many were scored.
        bytes: UTF-8 bytes of the text.
    """

    nats: float
    tokens: int
    bytes: int

    @property
    def loss(self) -> float:
        """Nats a token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """Of a token."""
        return math.exp(min(self.loss, 700.0))

    @property
    def bits_per_byte(self) -> float:
        """Bits a byte: independent of the vocabulary."""
        return self.nats / math.log(2) / self.bytes


def token_losses(model: nn.Module, rows: Tensor) -> Tensor:
    """Return the loss of each target, shape [rows, length]; ``rows`` is [rows, length + 1]."""
    logits = model(input_ids=rows[:, :-1]).logits
    return nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), rows[:, 1:].flatten(), reduction="none"
    ).view(rows.shape[0], -1)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which matrix products run in ``precision``.

    accelerate's mixed precision would copy the logits to float32 after every pass.
    """
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuickEvaluation:
    """The likelihood of part of the held-out tokens.

    Attributes:
        rows: They, shape [rows, length + 1]; None where nothing is held out.
        bytes_per_token: Of all held-out text.
    """

    rows: Tensor | None
    bytes_per_token: float

    @torch.no_grad()
    def __call__(
        self, model: nn.Module, precision: str, *, accelerator: Accelerator | None = None
    ) -> Likelihood | None:
        """Return what a model makes of them; None where there are none.

        Args:
            model: In training, and left so.
            precision: Of the computation.
            accelerator: Its processes share the rows, and each gets the result of all.
        """
        if self.rows is None:
            return None
        share = accelerator if accelerator is not None and accelerator.num_processes > 1 else None
        rows = self.rows if share is None else self.rows[share.process_index :: share.num_processes]
        device = next(model.parameters()).device
        total = torch.zeros(2, dtype=torch.float64, device=device)
        at_once = max(1, 1024 // self.rows.shape[1])
        model.eval()
        with torch.compiler.set_stance("force_eager"), autocast(precision, device):
            for row in torch.split(rows.to(device), at_once) if len(rows) else ():
                total[0] += token_losses(model, row).double().sum()
                total[1] += row.numel() - len(row)
        model.train()
        if share is not None:
            total = share.reduce(total)
        nats, tokens = total.tolist()
        return Likelihood(
            nats=nats, tokens=int(tokens), bytes=max(1, round(tokens * self.bytes_per_token))
        )


def exact_likelihood(
    model: PreTrainedModel,
    file: TokenFile,
    ids: NDArray[Any],
    *,
    context: int,
    end_of_text: int,
) -> Likelihood:
    """Score every token of every document once, as ``llmcli score`` does by default.

    Each document begins with the end-of-text token, which itself is not scored; windows of the
    whole context advance by half of it. So this is what the command says of the saved model and
    the same documents (``score --by file``).
    """
    convention = make_convention("default", n_positions=context, bos_id=end_of_text)

    def windows() -> Iterator[tuple[None, Window]]:
        at = 0
        for length in file.lengths:
            # Without the end-of-text token behind it.
            text = np.asarray(ids[at : at + length - 1], dtype=np.int64).tolist()
            at += length
            for window in convention.windows([text]):
                yield None, window

    tally, total = Tally(), sum(file.lengths)
    working("scoring the held-out text")
    was_training = model.training
    model.train(False)
    for _, _, scores in Scorer(TransformersDecoder(model, n_positions=context)).score(windows()):
        tally.add(scores.logprobs)
        working(f"scoring the held-out text: {min(tally.weight / total, 1):.0%}")
    model.train(was_training)
    return Likelihood(nats=tally.nll, tokens=round(tally.weight), bytes=sum(file.sizes))
