"""What a model thought of a prompt's own tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmcli.engine.decoder import Floats, ScoringDecoder
from llmcli.engine.params import TopToken
from llmcli.engine.sampling import largest

# Positions whose logits exist at once.
_ROWS = 64


@dataclass(frozen=True, slots=True)
class PromptToken:
    """A token of a prompt.

    Attributes:
        id: The token.
        logprob: Natural log of its probability after the tokens before it; None for the first.
        top: The most likely tokens in its place, best first.
    """

    id: int
    logprob: float | None = None
    top: tuple[TopToken, ...] = ()


def score_prompt(
    decoder: ScoringDecoder, states: Floats, targets: Sequence[int], count: int
) -> list[PromptToken]:
    """Say how likely tokens were.

    Args:
        decoder: Whose states they are.
        states: Those before each of the tokens, [tokens, state_size].
        targets: The tokens.
        count: How many of the most likely ones to list in each place.
    """
    told: list[PromptToken] = []
    for begin in range(0, len(targets), _ROWS):
        rows = states[begin : begin + _ROWS]
        found = decoder.score(rows, targets[begin : begin + _ROWS])
        logprobs = (found["target"] - found["log_sum_exp"]).tolist()
        tops = _tops(decoder.logits(rows), found["log_sum_exp"].tolist(), count) if count else []
        told += (
            PromptToken(target, logprob, tops[place] if tops else ())
            for place, (target, logprob) in enumerate(
                zip(targets[begin : begin + _ROWS], logprobs, strict=True)
            )
        )
    return told


def _tops(logits: Floats, totals: Sequence[float], count: int) -> list[tuple[TopToken, ...]]:
    count = min(count, logits.shape[1])
    return [
        tuple(TopToken(int(i), float(row[i]) - total) for i in largest(row, count))
        for row, total in zip(logits, totals, strict=True)
    ]
