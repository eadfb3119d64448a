"""What inspect prints."""

from __future__ import annotations

from typing import TypedDict

from llmcli.shapes.common import Token


class Prediction(TypedDict):
    """A token and the natural log of its probability."""

    id: int
    logprob: float


class LensCell(TypedDict):
    """What a layer would predict at a position.

    Attributes:
        top: Tokens with the natural log of their probability.
        kl: The divergence from the last layer's.
        rank: Of the last layer's likeliest token.
        agrees: Whether the likeliest token is the last layer's.
    """

    top: list[tuple[int, float]]
    kl: float
    rank: int
    agrees: bool


class LensLayer(TypedDict):
    """A layer; -1 is the embeddings."""

    layer: int
    positions: list[LensCell]


class Lens(TypedDict):
    """Each layer read as the last one is.

    Attributes:
        settled: For each position, the layer after which the likeliest token stays.
    """

    start: int
    layers: list[LensLayer]
    settled: list[int]


class AttentionMap(TypedDict):
    """A head's attention, a row for each token."""

    layer: int
    head: int
    weights: list[list[float]]


class HeadsOffCandidate(TypedDict):
    """A next token with and without the heads."""

    id: int
    logprob: float
    logprob_without: float


class HeadsOff(TypedDict):
    """The model without some heads, beside itself.

    Attributes:
        heads: As LAYER.HEAD.
        kl: The divergence of the next token's distribution.
    """

    heads: list[str]
    candidates: list[HeadsOffCandidate]
    kl: float
    nll_per_token: float | None
    nll_per_token_without: float | None


class Neighbour(TypedDict):
    """A token with a similar embedding."""

    id: int
    cosine: float


class Neighbours(TypedDict):
    """The tokens nearest to one."""

    token: int
    nearest: list[Neighbour]


class Inspected(TypedDict):
    """What ``inspect`` saw, beside its views.

    Attributes:
        window: The tokens that matrices and the lens show: the first, and one behind the last.
        vocabulary: The texts of all tokens that are named by their ids.
    """

    text: str | None
    tokens: list[Token]
    n_layers: int
    n_heads: int
    window: tuple[int, int]
    vocabulary: dict[str, str]
