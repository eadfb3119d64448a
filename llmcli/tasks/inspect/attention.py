"""Attention: whom each head attends to, and what kind of head it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Above this many tokens a window of them is shown.
WINDOW = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSummary:
    """What a head does on the average, over all queries but the first token.

    The first token can only attend to itself. Where it is the only one, it is what is described.

    Attributes:
        layer: From 0.
        head: From 0.
        entropy: Of a row of the attention matrix, in nats.
        previous: Mass on the token before the query.
        first: Mass on the first token of the text.
    """

    layer: int
    head: int
    entropy: float
    previous: float
    first: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadMap:
    """The attention matrix of a head, or a window of it.

    Attributes:
        layer: From 0.
        head: From 0.
        weights: Float32, shape [queries, keys]; row i and column i are token ``start + i``.
    """

    layer: int
    head: int
    weights: NDArray[np.float32] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """A = softmax(QKᵀ/√d_head + causal mask) of the heads asked for.

    Attributes:
        start: The first token of the window.
        end: The token after its last.
        heads: A summary of every head of the model, over the whole text.
        maps: The matrices asked for.
    """

    start: int
    end: int
    heads: tuple[HeadSummary, ...]
    maps: tuple[HeadMap, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        return {
            "window": [self.start, self.end],
            "heads": [asdict(each) for each in self.heads],
            "maps": [
                {"layer": each.layer, "head": each.head, "weights": each.weights.tolist()}
                for each in self.maps
            ],
        }


def fit_window(tokens: int, maps: int, cells: int) -> int:
    """How many of a text's tokens are shown, so that ``maps`` matrices have ``cells`` at most."""
    most = min(WINDOW, tokens)
    return most if maps == 0 else max(1, min(most, int((cells / maps) ** 0.5)))


class AttentionWatcher:
    """Takes layers' attention as they are computed, and keeps what is asked for.

    Args:
        start: The first token of the window.
        end: The token after its last.
        wanted: Whether the matrix of (layer, head) is kept.
    """

    def __init__(self, start: int, end: int, wanted: Sequence[tuple[int, int]]) -> None:
        self._window = slice(start, end)
        self._wanted = frozenset(wanted)
        self._heads: list[HeadSummary] = []
        self._maps: list[HeadMap] = []

    def __call__(self, layer: int, weights: Tensor) -> None:
        """Take the weights [heads, query, key] of a layer."""
        self._heads += summarize(layer, weights)
        for head in range(len(weights)):
            if (layer, head) in self._wanted:
                part = weights[head, self._window, self._window].cpu()
                self._maps.append(HeadMap(layer=layer, head=head, weights=part.numpy().copy()))

    def result(self) -> Attention:
        """What was seen."""
        return Attention(
            start=self._window.start,
            end=self._window.stop,
            heads=tuple(self._heads),
            maps=tuple(self._maps),
        )


def summarize(layer: int, weights: Tensor) -> list[HeadSummary]:
    """Describe each head of a layer by its weights [heads, query, key]."""
    found = []
    for head, matrix in enumerate(weights):
        rows = matrix[1:] if len(matrix) > 1 else matrix
        found.append(
            HeadSummary(
                layer=layer,
                head=head,
                entropy=float(torch.special.entr(rows).sum(dim=-1).mean()),
                previous=float(matrix.diagonal(-1).mean()) if len(matrix) > 1 else 0.0,
                first=float(rows[:, 0].mean()),
            )
        )
    return found
