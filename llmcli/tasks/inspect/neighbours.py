"""Tokens whose embeddings lie near each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmcli.tasks.inspect.opened import parts

_ROWS = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """The nearest tokens by the cosine of their embeddings, less the mean of all.

    Attributes:
        token: Whose neighbours.
        nearest: (id, cosine), nearest first.
    """

    token: int
    nearest: tuple[tuple[int, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        return {
            "token": self.token,
            "nearest": [{"id": token, "cosine": cosine} for token, cosine in self.nearest],
        }


@torch.inference_mode()
def find_neighbours(embeddings: Tensor, token: int, count: int) -> Neighbours:
    """Find the tokens nearest to one.

    Embeddings of language models share a large common part, under which all cosines look
    alike; the mean is taken off first (Mu and Viswanath 2018).

    Args:
        embeddings: Shape [vocab, width].
        token: A row of it.
        count: How many to find.
    """
    mean = embeddings.mean(dim=0, dtype=torch.float32)
    own = torch.nn.functional.normalize(embeddings[token].float() - mean, dim=0)
    cosines = torch.cat(
        [
            torch.nn.functional.normalize(part.float() - mean, dim=1) @ own
            for part in parts(embeddings, _ROWS)
        ]
    )
    cosines[token] = -2.0
    values, ids = cosines.topk(min(count, len(cosines) - 1))
    return Neighbours(token=token, nearest=tuple(zip(ids.tolist(), values.tolist(), strict=True)))
