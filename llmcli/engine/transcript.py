"""One sequence on its way from tokens to text: what is certain, and when it ends."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from llmcli.engine.history import History
from llmcli.engine.params import FinishReason, SamplingParams, TokenEvent, TopToken
from llmcli.engine.stopping import StopMatcher
from llmcli.tokenization.stream import StreamDecoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt made ready.

    Attributes:
        ids: Token ids, at least one.
        dropped_tokens: How many were cut away to make room.
        healed: Bytes that the first new token with any begins with and that are not told: those
            that were taken off the prompt's end, or the space that a vocabulary spells before a
            text's first word.
        healing_ids: The tokens that begin so; empty without healing.
    """

    ids: tuple[int, ...]
    dropped_tokens: int = 0
    healed: bytes = b""
    healing_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A token that was picked, and what is told about it (see TokenEvent)."""

    token: int
    logprob: float | None = None
    sampled_logprob: float | None = None
    allowed_mass: float | None = None
    top: tuple[TopToken, ...] = ()


class Transcript:
    """Takes a sequence's tokens one at a time and says what became of its text.

    Args:
        prompt: What the sequence continues.
        params: Settings.
        n_positions: The context; a sequence ends when prompt and continuation fill it, unless
            it slides.
        token_bytes: The exact bytes of a token.
        eos_ids: Tokens that end a text.
        index: Which of the returned sequences this is.
    """

    def __init__(
        self,
        prompt: Prompt,
        params: SamplingParams,
        *,
        n_positions: int,
        token_bytes: Callable[[int], bytes],
        eos_ids: Collection[int] = (),
        index: int = 0,
    ) -> None:
        self.prompt = prompt
        self.params = params
        self.eos_ids = frozenset(eos_ids)
        self.history = History(prompt.ids, ngram_size=params.no_repeat_ngram_size)
        self.context = list(prompt.ids)
        self.dropped_tokens = prompt.dropped_tokens
        self.finish_reason: FinishReason | None = None
        grammar = params.grammar
        self.constraint = (
            None
            if grammar is None
            else grammar.start(forbidden=params.forbidden, ends=not params.ignore_eos)
        )
        self._n_positions = n_positions
        self._token_bytes = token_bytes
        self._index = index
        self._untold = prompt.healed
        self._decoder = StreamDecoder()
        self._stop = StopMatcher(params.stop, keep=params.keep_stop)

    def take(self, chosen: Chosen) -> TokenEvent:
        """Append a token; the event holds the text that became certain and any finish."""
        token = chosen.token
        self.history.append(token)
        self.context.append(token)
        if self.constraint is not None:
            self.constraint.take(token)
        if token in self.eos_ids and not self.params.ignore_eos:
            return self._finish("eos", "", chosen)
        data = self._token_bytes(token)
        if data and self._untold:
            data, self._untold = data.removeprefix(self._untold), b""
        text = self._certain(self._decoder.push(data))
        reason = self._reason()
        return self._finish(reason, text, chosen) if reason else self._event(text, chosen)

    @property
    def tokens_left(self) -> int:
        """How many tokens can still follow; what may end the sequence earlier aside."""
        limit = self.params.max_new_tokens
        left = self._n_positions if limit is None else limit - self.history.generated_count
        if self.params.overflow != "slide":
            left = min(left, self._n_positions - len(self.context))
        return max(0, left)

    def mask(self, size: int) -> npt.NDArray[np.bool_]:
        """Which tokens the grammar allows next, [size]; all without one.

        Raises:
            InvalidInput: the grammar has become too large to follow.
        """
        if self.constraint is None:
            return np.ones(size, np.bool_)
        return self.constraint.mask(size, self.tokens_left)

    def interrupt(self) -> TokenEvent:
        """End the sequence where it is; whatever was held back comes out."""
        return self._finish("interrupted", "", None)

    def slide(self) -> None:
        """Drop the older half of a full context."""
        keep = max(1, self._n_positions // 2)
        self.dropped_tokens += len(self.context) - keep
        self.context = self.context[-keep:]

    def _certain(self, text: str) -> str:
        if self.history.generated_count < self.params.min_new_tokens:
            return text
        return self._stop.push(text)

    def _reason(self) -> FinishReason | None:
        limit = self.params.max_new_tokens
        if self._stop.matched is not None:
            return "stop"
        constraint = self.constraint
        # Complete at the limit is complete.
        if constraint is not None and (
            constraint.finished or (constraint.complete and not self.tokens_left)
        ):
            return "grammar"
        if limit is not None and self.history.generated_count >= limit:
            return "length"
        if len(self.context) >= self._n_positions and self.params.overflow != "slide":
            return "context"
        return None

    def _finish(self, reason: FinishReason, text: str, chosen: Chosen | None) -> TokenEvent:
        if reason != "stop":
            # Half a character comes out as U+FFFD, and may complete a stop string.
            text += self._certain(self._decoder.flush()) + self._stop.flush()
        self.finish_reason = "stop" if self._stop.matched is not None else reason
        return self._event(text, chosen)

    def _event(self, text: str, chosen: Chosen | None) -> TokenEvent:
        event = TokenEvent(
            index=self._index,
            text=text,
            finish_reason=self.finish_reason,
            stop=self._stop.matched,
            dropped_tokens=self.dropped_tokens,
        )
        if chosen is None:
            return event
        return replace(
            event,
            token_id=chosen.token,
            token_bytes=self._token_bytes(chosen.token),
            logprob=chosen.logprob,
            sampled_logprob=chosen.sampled_logprob,
            allowed_mass=chosen.allowed_mass,
            top=chosen.top,
        )


def replay(transcript: Transcript, tokens: Iterable[int]) -> Iterator[TokenEvent]:
    """Tell finished token ids as the decoding loop would have told them."""
    for token in tokens:
        yield transcript.take(Chosen(token=token))
        if transcript.finish_reason is not None:
            return
