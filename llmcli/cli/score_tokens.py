"""``llmcli score --tokens`` and ``--html``: what the model thought of each token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcli.cli.score_job import ScoreJob
from llmcli.io.files import atomic_write, existing_parent
from llmcli.terminal.surprisal import (
    SeenToken,
    TintedText,
    legend,
    stretches,
    token_line,
    token_record,
)

if TYPE_CHECKING:
    from llmcli.scoring.texts import TextScorer
    from llmcli.scoring.token_scores import TokenScores
    from llmcli.scoring.windows import Window

OnWindow = Callable[["Window", "TokenScores"], None]


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


@contextmanager
def token_watcher(job: ScoreJob, scorer: TextScorer) -> Iterator[OnWindow]:
    """Give a callback that shows each window's tokens: JSON, tinted text, or a line each."""
    console = job.console
    seen = SeenTokens(scorer)
    if console.json_output or not console.color_stdout:

        def show_one_by_one(window: Window, scores: TokenScores) -> None:
            for token in seen.of(window, scores):
                if console.json_output:
                    console.record(token_record(token))
                else:
                    console.write_raw(token_line(token))

        yield show_one_by_one
        return
    console.write_raw(legend(color=True) + "\n\n")
    text = TintedText(console.write_raw, width=console.width)
    held: list[SeenToken] = []

    def show(window: Window, scores: TokenScores) -> None:
        held.extend(seen.of(window, scores))
        *whole, last = stretches(held)
        for stretch in whole:
            text.add(stretch)
        # The last may wait for the rest of its character.
        held[:] = last.tokens

    yield show
    for stretch in stretches(held):
        text.add(stretch)
    text.finish()


@contextmanager
def page_watcher(
    job: ScoreJob, scorer: TextScorer
) -> Iterator[tuple[OnWindow, Callable[[dict[str, Any]], None]]]:
    """Give a callback for windows, and one for the totals, which together write the page.

    The page appears under its name only when it is complete.
    """
    from llmcli.terminal.page import SurprisalPage

    path: Path = existing_parent(job.settings.html or "")
    seen = SeenTokens(scorer)
    with atomic_write(path) as file:
        page = SurprisalPage(file.write)

        def watch(window: Window, scores: TokenScores) -> None:
            for token in seen.of(window, scores):
                page.add(token)

        yield watch, page.finish
