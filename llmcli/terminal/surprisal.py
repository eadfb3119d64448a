"""A text tinted by how much each token surprised a model."""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmcli.tasks.seen_tokens import SeenToken
from llmcli.terminal.escaping import escape_controls
from llmcli.terminal.palette import painted, surprisal_sgr
from llmcli.terminal.tokens import escaped_token

if TYPE_CHECKING:
    from llmcli.scoring.token_scores import TokenScores
    from llmcli.scoring.windows import Window


@dataclass(frozen=True, slots=True)
class Stretch:
    """Tokens that belong together because a character is spread over them; mostly one."""

    text: str
    tokens: tuple[SeenToken, ...]

    @property
    def bits(self) -> float | None:
        """The surprisal of all of them; None where one was not scored."""
        bits = [token.bits for token in self.tokens]
        return None if None in bits else math.fsum(value for value in bits if value is not None)


def stretches(tokens: Iterable[SeenToken]) -> Iterator[Stretch]:
    """Join tokens until their bytes end with a whole character (U+FFFD for what is none)."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    held: list[SeenToken] = []
    text = ""
    for token in tokens:
        held.append(token)
        text += decoder.decode(token.data)
        if not decoder.getstate()[0]:
            yield Stretch(text, tuple(held))
            held, text = [], ""
    if held:
        yield Stretch(text + decoder.decode(b"", final=True), tuple(held))


class TintedText:
    """Writes stretches as running text, tinted, wrapped between words.

    Args:
        write: Takes text that is safe for a terminal.
        width: Columns of the terminal.
    """

    def __init__(self, write: Callable[[str], None], *, width: int) -> None:
        self._write = write
        self._width = width
        self._column = 0
        self._word: list[tuple[str, str]] = []

    def add(self, stretch: Stretch) -> None:
        """Write what has become certain: a word is held until the next begins."""
        tint = surprisal_sgr(stretch.bits)
        for part in _PARTS.findall(escape_controls(stretch.text).replace("\t", "    ")):
            if part[0] in " \n":
                self._flush()
            self._word.append((part, tint))
            if part == "\n":
                self._flush()

    def finish(self) -> None:
        """Write what is held and end the line."""
        self._flush()
        if self._column:
            self._write("\n")

    def _flush(self) -> None:
        from rich.cells import cell_len

        word, self._word = self._word, []
        if not word:
            return
        width = sum(cell_len(part.rstrip("\n")) for part, _ in word)
        if self._column and self._column + width > self._width:
            self._write("\n")
            self._column = 0
            # The space that parted two words stands at the end of no line.
            word[0] = (word[0][0].removeprefix(" "), word[0][1])
            width = sum(cell_len(part.rstrip("\n")) for part, _ in word)
        for part, tint in word:
            self._write(painted("↵" if part == "\n" and tint else part.rstrip("\n"), tint))
        self._column += width
        if word[-1][0] == "\n":
            self._write("\n")
            self._column = 0


# A newline, spaces with the word behind them, or a word without; so that lines break before words.
_PARTS = re.compile(r"\n| +[^ \n]*|[^ \n]+")


class Course:
    """How the surprisal goes over a text of any length, in few numbers.

    Means of equally many tokens each; when they are too many, two become one.
    """

    def __init__(self, most: int = 64) -> None:
        self._most = most
        self._size = 1  # tokens of a mean
        self._full: list[float] = []
        self._open: list[float] = []

    def add(self, window: Window, scores: TokenScores) -> None:
        """Add a window's tokens."""
        for logprob in scores.logprobs:
            self._open.append(-logprob / math.log(2))
            if len(self._open) < self._size:
                continue
            self._full.append(math.fsum(self._open) / self._size)
            self._open.clear()
            if len(self._full) == 2 * self._most:
                self._full = [(a + b) / 2 for a, b in zip(*[iter(self._full)] * 2, strict=True)]
                self._size *= 2

    def means(self, count: int) -> list[float]:
        """So many means or fewer, bits; what is left over at the end counts with the last."""
        values = self._full or self._open
        each = max(1, -(-len(values) // count))
        return [
            math.fsum(part) / len(part)
            for begin in range(0, len(values), each)
            if (part := values[begin : begin + each])
        ]

    def sparkline(self, width: int) -> str:
        """A line of at most so many columns: a sign for each mean, and how far they go.

        Empty where there are not two of them.
        """
        values = self.means(max(4, min(_MOST_SIGNS, width - 28)))
        if len(values) < 2:
            return ""
        low, high = min(values), max(values)
        span = high - low or 1.0
        signs = "".join(_SIGNS[min(7, int(8 * (value - low) / span))] for value in values)
        return f"surprisal  {signs}  {low:.2f}–{high:.2f} bits"


_SIGNS = "▁▂▃▄▅▆▇█"
_MOST_SIGNS = 48


def token_line(token: SeenToken) -> str:
    """A token on a line of its own, for a pipe: surprisal, rank, the token."""
    bits = "–" if token.bits is None else f"{token.bits:.2f}"
    rank = "–" if token.rank is None else str(token.rank)
    return f"{bits:>7} {rank:>6}  {escaped_token(token.data)}\n"
