"""A text's tokens and what a model thought of each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmcli.scoring.texts import TextScorer
    from llmcli.scoring.token_scores import TokenScores
    from llmcli.scoring.windows import Window
    from llmcli.shapes.scores import ScoredToken


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenToken:
    """A token of a text and what a model thought of it.

    Attributes:
        index: Its place in the text, from 0.
        id: Its id.
        data: Its bytes.
        offset: Where in the text's bytes it begins.
        logprob: Natural log of its probability; None where it was not scored.
        rank: Its place among all tokens, from 1.
        entropy: Of the model's distribution, nats.
        top: The likeliest tokens: id, bytes, logprob.
        drawn: Natural log of its probability in the distribution that it was drawn from; None
            where it was not drawn.
    """

    index: int
    id: int
    data: bytes
    offset: int
    logprob: float | None = None
    rank: int | None = None
    entropy: float | None = None
    top: tuple[tuple[int, bytes, float], ...] = ()
    drawn: float | None = None

    @property
    def bits(self) -> float | None:
        """Surprisal: -log2 of the probability."""
        return None if self.logprob is None else -self.logprob / math.log(2)


def token_record(token: SeenToken) -> ScoredToken:
    """A token ready for JSON."""
    return {
        "index": token.index,
        "token": token.data.decode("utf-8", "replace"),
        "bytes": list(token.data),
        "id": token.id,
        "offset": token.offset,
        "logprob": token.logprob,
        "rank": token.rank,
        "entropy": token.entropy,
        "top_logprobs": [
            {"token": data.decode("utf-8", "replace"), "id": token_id, "logprob": logprob}
            for token_id, data, logprob in token.top
        ],
    }


class SeenTokens:
    """Turns scored windows into the tokens of the text, those not scored among them."""

    def __init__(self, scorer: TextScorer) -> None:
        self._tokenizer = scorer.tokenizer
        self._prompt_tokens = self._next = scorer.prompt_tokens
        self._offset = 0

    def of(self, window: Window, scores: TokenScores) -> Iterator[SeenToken]:
        """The tokens that a window adds, in order."""
        first = window.first
        skipped = max(0, min(window.position - self._next, first))
        for token_id in window.tokens[first - skipped : first]:
            yield self._token(token_id)
        for index, token_id in enumerate(window.tokens[first:]):
            if window.position + index < 0:
                continue  # a BOS that is scored: not of the text
            yield self._token(
                token_id,
                logprob=scores.logprobs[index],
                rank=scores.ranks[index],
                entropy=scores.entropies[index],
                top=tuple(
                    (other, self._tokenizer.token_bytes(other), logprob)
                    for other, logprob in scores.top[index]
                ),
            )

    def _token(self, token_id: int, **seen: Any) -> SeenToken:
        data = self._tokenizer.token_bytes(token_id)
        if self._next == 0 and self._tokenizer.spelling.prefix_space:
            data = data.removeprefix(b" ")
        token = SeenToken(
            index=self._next - self._prompt_tokens,
            id=token_id,
            data=data,
            offset=self._offset,
            **seen,
        )
        self._next += 1
        self._offset += len(data)
        return token
