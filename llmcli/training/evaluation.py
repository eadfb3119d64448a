"""Validation: a quick loss while training, and exact bits per byte at the end."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from llmcli.training.tokens import TokenFile

if TYPE_CHECKING:
    from numpy.typing import NDArray


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


def windows(length: int, *, context: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Yield (start, end, first) of sliding windows over ``length`` inputs.

    Inputs ``start:end`` go through the model, and the targets of ``first:end`` are scored; each
    target once, with ``context - stride`` to ``context`` inputs before it (fewer only at the
    beginning).

    >>> list(windows(10, context=4, stride=2))
    [(0, 4, 0), (2, 6, 4), (4, 8, 6), (6, 10, 8)]
    """
    scored = 0
    while scored < length:
        end = min(length, context if scored == 0 else scored + stride)
        yield max(0, end - context), end, scored
        scored = end


@torch.no_grad()
def exact_likelihood(
    model: nn.Module,
    file: TokenFile,
    ids: NDArray[Any],
    *,
    context: int,
    end_of_text: int,
    autocast: AbstractContextManager[object],
    device: torch.device,
    stride: int | None = None,
) -> Likelihood:
    """Score every token of every document once, in sliding windows of the whole context.

    Each document begins with the end-of-text token, which itself is not scored; windows advance
    by ``stride`` (half a context if None), so that all but a document's first tokens are
    predicted from at least half a context.
    """
    stride = stride or max(1, context // 2)
    nats, tokens, at = 0.0, 0, 0
    was_training = model.training
    model.eval()
    with autocast:
        for length in file.lengths:
            text: NDArray[np.int64] = np.concatenate(
                [[end_of_text], np.asarray(ids[at : at + length - 1], dtype=np.int64)]
            )
            at += length
            rows = torch.from_numpy(text).to(device)
            for start, end, first in windows(length - 1, context=context, stride=stride):
                losses = token_losses(model, rows[None, start : end + 1])[0, first - start :]
                nats += float(losses.double().sum())
                tokens += end - first
    model.train(was_training)
    return Likelihood(nats=nats, tokens=tokens, bytes=sum(file.sizes))
