"""Pseudo-log-likelihoods of masked language models: each token given those around it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

from llmcli.engine.decoder import Floats
from llmcli.engine.row_stats import row_stats
from llmcli.errors import NumericalError
from llmcli.scoring.token_scores import TokenScores, best_tokens, join, log_softmax
from llmcli.scoring.windows import Window

K = TypeVar("K")

# Texts with a mask in them whose logits are held at once.
_ROWS = 64


class Reader(Protocol):
    """What is asked of a masked model; see `llmcli.engine.masked.MaskedReader`."""

    def logits(
        self,
        texts: Sequence[Sequence[int]],
        places: Sequence[int],
        *,
        batch_size: int | None = None,
    ) -> Floats: ...


class PseudoLikelihood:
    """Scores windows with a masked model, a reading for each token.

    The pseudo-log-likelihood of a text is the sum of the log-probabilities of its tokens, each
    given all others: it is masked, and the model is asked for it (Salazar et al. 2020,
    "Masked Language Model Scoring"). Where a word has several tokens, the later ones give the
    earlier ones away; with ``words``, the later tokens of its word are masked along with a token
    (Kauf & Ivanova 2023, "A Better Way to Do Masked Language Model Scoring", PLL-word-l2r).

    Args:
        reader: The model.
        mask_id: Its mask token.
        template: What its tokenizer puts before and behind a text; never masked.
        words: Gives the number of the word that each of a window's tokens belongs to; None for
            the plain pseudo-log-likelihood.
        batch_size: Texts that are read at once; it changes no result beyond rounding.
        top: With a number, each token's rank and the distribution's entropy and this many
            alternatives are computed too.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        mask_id: int,
        template: tuple[Sequence[int], Sequence[int]],
        words: Callable[[Sequence[int]], Sequence[int]] | None = None,
        batch_size: int | None = None,
        top: int | None = None,
    ) -> None:
        self._reader = reader
        self._mask_id = mask_id
        self._before, self._after = (list(each) for each in template)
        self._words = words
        self._batch_size = batch_size
        self._top = top

    def score(self, windows: Iterable[tuple[K, Window]]) -> Iterator[tuple[K, Window, TokenScores]]:
        """Score windows; each comes back with its key, in the order given.

        Raises:
            NumericalError: the model's logits are NaN or infinite; the message names the token.
        """
        for key, window in windows:
            masked = [[*self._before, *text, *self._after] for text in self._masked(window.tokens)]
            parts = []
            for start in range(0, len(masked), _ROWS):
                end = min(start + _ROWS, len(masked))
                places = range(len(self._before) + start, len(self._before) + end)
                logits = self._reader.logits(masked[start:end], places, batch_size=self._batch_size)
                parts.append(self._scores(logits, window.tokens[start:end]))
            scores = join(parts)
            self._check(window, scores)
            yield key, window, scores

    def _masked(self, tokens: Sequence[int]) -> Iterator[list[int]]:
        """The text once for each of its tokens, without it."""
        words = range(len(tokens)) if self._words is None else self._words(tokens)
        for place, word in enumerate(words):
            text = list(tokens)
            for later in range(place, len(text)):
                if words[later] == word:
                    text[later] = self._mask_id
            yield text

    def _scores(self, logits: Floats, targets: Sequence[int]) -> TokenScores:
        found = row_stats(logits, targets)
        if (count := self._top) is None:
            return TokenScores.of_rows(found)
        return TokenScores.of_rows(found, lambda: best_tokens(log_softmax(logits), count))

    def _check(self, window: Window, scores: TokenScores) -> None:
        for place, logprob in enumerate(scores.logprobs):
            if not math.isfinite(logprob):
                raise NumericalError(
                    f"The model gives token {window.position + place} of the text a "
                    "log-probability that is NaN or infinite.",
                    "Its weights or the precision are broken: fetch the model again, or use "
                    "--precision float32.",
                )
