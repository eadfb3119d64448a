"""Texts in, named numbers out: tokens, windows, likelihoods and sums in one pass."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from llmcli.errors import InvalidInput
from llmcli.scoring.statistics import Tally, WordCount
from llmcli.scoring.windows import Convention, Window
from llmcli.tokenization.large_text import encode_pieces
from llmcli.tokenization.tokenizer import SpecialTokens, Tokenizer

if TYPE_CHECKING:
    from llmcli.scoring.token_scores import TokenScores

K = TypeVar("K")


def split_pair(tokenizer: Tokenizer, prompt: str, text: str) -> tuple[list[int], list[int]]:
    """Tokens of a prompt and of what follows, encoded together.

    As lm-evaluation-harness does it: white space at the prompt's end goes with what follows, the
    whole is encoded at once, and the prompt has as many tokens as it has alone.

    Returns:
        Token ids of the prompt and of the text.
    """
    whole = tokenizer.ids(prompt + text)
    length = len(tokenizer.ids(prompt.rstrip()))
    return whole[:length], whole[length:]


class WindowScorer(Protocol):
    """What gives a window's tokens their log-probabilities."""

    def score(
        self, windows: Iterable[tuple[K, Window]]
    ) -> Iterator[tuple[K, Window, TokenScores]]: ...


@dataclass(slots=True)
class _Open(Generic[K]):
    """A text that has been begun: what is known of it so far."""

    key: K
    tally: Tally
    counts: WordCount = field(default_factory=WordCount)
    waiting: int = 0
    read: bool = False


@dataclass(slots=True, kw_only=True)
class TextScorer:
    """Scores texts by a convention.

    Args:
        tokenizer: The model's.
        convention: How texts are cut into windows.
        likelihood: The model.
        prompt: Read before each text, and not scored.
        special: What control tokens spelt out in a text are.
        threads: For encoding long texts.

    Attributes:
        total: The sums over all texts.
        prompt_tokens: How many tokens the prompt has.
    """

    tokenizer: Tokenizer
    convention: Convention
    likelihood: WindowScorer
    prompt: str = ""
    special: SpecialTokens = "text"
    threads: int | None = None
    total: Tally = field(init=False)
    prompt_tokens: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if self.prompt:
            if self.convention.name != "default":
                raise InvalidInput(
                    "A prompt goes with the default convention only.", "Leave out --convention."
                )
            self.prompt_tokens = len(self.tokenizer.ids(self.prompt.rstrip(), special=self.special))
        self.total = self._tally()

    def run(
        self,
        texts: Iterable[tuple[K, Iterable[str]]],
        *,
        on_window: Callable[[K, Window, TokenScores], None] | None = None,
    ) -> Iterator[tuple[K, Tally]]:
        """Score texts; each comes back with its key and sums when it is done, in order.

        A text may arrive in parts; little more than a window of it is held. A text in which
        nothing can be scored comes back with weight 0.

        Args:
            texts: Keys and texts; a text's parts are read before the next text is asked for.
            on_window: Told of each window as soon as it is scored, in order.

        Raises:
            NumericalError: the model's logits are NaN or infinite.
            InvalidInput: a text that the convention cannot take.
        """
        begun: deque[_Open[K]] = deque()
        for text, window, scores in self._scored(texts, begun):
            if on_window is not None:
                on_window(text.key, window, scores)
            yield from self._finished(begun)
        yield from self._finished(begun)

    def windows(
        self, texts: Iterable[tuple[K, Iterable[str]]]
    ) -> Iterator[tuple[K, Window, TokenScores]]:
        """Score texts; what comes back is each window. Arguments and errors as for `run`."""
        begun: deque[_Open[K]] = deque()
        for text, window, scores in self._scored(texts, begun):
            yield text.key, window, scores
            deque(self._finished(begun), maxlen=0)
        deque(self._finished(begun), maxlen=0)

    def _scored(
        self, texts: Iterable[tuple[K, Iterable[str]]], begun: deque[_Open[K]]
    ) -> Iterator[tuple[_Open[K], Window, TokenScores]]:
        for text, window, scores in self.likelihood.score(self._windows(texts, begun)):
            text.tally.add(scores.logprobs, window.weight)
            self.total.add(scores.logprobs, window.weight)
            text.waiting -= 1
            yield text, window, scores

    def _windows(
        self, texts: Iterable[tuple[K, Iterable[str]]], begun: deque[_Open[K]]
    ) -> Iterator[tuple[_Open[K], Window]]:
        for key, parts in texts:
            text = _Open(key, self._tally())
            begun.append(text)
            pieces = self._pieces(parts, text.counts)
            for window in self.convention.windows(pieces, skip=self.prompt_tokens):
                text.waiting += 1
                yield text, window
            text.read = True

    def _pieces(self, parts: Iterable[str], counts: WordCount) -> Iterator[Sequence[int]]:
        def counted() -> Iterator[str]:
            if self.prompt:
                yield self.prompt
            for part in parts:
                counts.add(part)
                yield part

        pieces = encode_pieces(
            self.tokenizer, counted(), special=self.special, threads=self.threads
        )
        for piece in pieces:
            yield piece.ids

    def _finished(self, begun: deque[_Open[K]]) -> Iterator[tuple[K, Tally]]:
        while begun and begun[0].read and not begun[0].waiting:
            text = begun.popleft()
            text.tally.add_text(text.counts)
            if text.tally.weight:
                self.total.add_text(text.counts)
            yield text.key, text.tally

    def _tally(self) -> Tally:
        every = self.convention.scores_every_token or self.prompt_tokens > 0
        return Tally(
            complete=every,
            count_gaps=self.convention.name == "lm-eval",
            pseudo=self.convention.pseudo,
        )
