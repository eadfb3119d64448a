"""The logit lens: what the model would say if it stopped after a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmcli.tasks.inspect.opened import HEAD_ROWS, Opened, parts


@dataclass(frozen=True, slots=True, kw_only=True)
class LensCell:
    """The next token as read off one layer at one position.

    Attributes:
        top: The likeliest tokens, as (id, logprob), best first.
        kl: KL divergence of this distribution from the model's final one, KL(final, this), nats.
        rank: The place, from 1, of the model's final choice.
        agrees: Whether the likeliest token is the model's final choice.
    """

    top: tuple[tuple[int, float], ...]
    kl: float
    rank: int
    agrees: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Lens:
    """softmax(W·norm(h)) of the residual stream h before the first layer and after each.

    Attributes:
        start: The first position looked at.
        layers: A row of cells for the embeddings, then for each layer; a cell a position.
    """

    start: int
    layers: tuple[tuple[LensCell, ...], ...]

    @property
    def settled(self) -> tuple[int, ...]:
        """For each position the first row from which on the likeliest token stays the final one."""
        found = []
        for column in zip(*self.layers, strict=True):
            row = len(column) - 1
            while row > 0 and column[row - 1].agrees:
                row -= 1
            found.append(row)
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """The same, ready for JSON; layer -1 is the embeddings."""
        return {
            "start": self.start,
            "layers": [
                {
                    "layer": index - 1,
                    "positions": [
                        {
                            "top": [[token, logprob] for token, logprob in cell.top],
                            "kl": cell.kl,
                            "rank": cell.rank,
                            "agrees": cell.agrees,
                        }
                        for cell in row
                    ],
                }
                for index, row in enumerate(self.layers)
            ],
            "settled": [row - 1 for row in self.settled],
        }


def look_through(opened: Opened, residuals: Tensor, *, start: int, count: int) -> Lens:
    """Read each layer's residual states as the model reads its last.

    Args:
        opened: The model.
        residuals: Shape [layers + 1, positions, width], as :meth:`Opened.residuals` gives them.
        start: Which position of the text is their first.
        count: How many of the likeliest tokens to keep.
    """
    rows: list[list[LensCell]] = [[] for _ in residuals]
    step = max(1, HEAD_ROWS // len(residuals))
    for part in parts(residuals, step, dim=1):
        layers, positions, _ = part.shape
        logprobs = opened.logprobs(part.flatten(0, 1)).view(layers, positions, -1)
        final = logprobs[-1]
        choice = final.argmax(dim=-1)
        for row, layer in zip(rows, logprobs, strict=True):
            row += _cells(layer, final, choice, count)
    return Lens(start=start, layers=tuple(tuple(row) for row in rows))


def _cells(logprobs: Tensor, final: Tensor, choice: Tensor, count: int) -> list[LensCell]:
    kl = torch.nn.functional.kl_div(logprobs, final, reduction="none", log_target=True).sum(-1)
    own = logprobs.gather(1, choice[:, None])
    ranks = (logprobs > own).sum(dim=-1) + 1
    values, ids = logprobs.topk(min(count, logprobs.shape[-1]), dim=-1)
    agrees = logprobs.argmax(dim=-1) == choice
    return [
        LensCell(
            top=tuple(zip(tokens, scores, strict=True)),
            kl=max(0.0, divergence),
            rank=rank,
            agrees=same,
        )
        for tokens, scores, divergence, rank, same in zip(
            ids.tolist(),
            values.tolist(),
            kl.tolist(),
            ranks.tolist(),
            agrees.tolist(),
            strict=True,
        )
    ]
