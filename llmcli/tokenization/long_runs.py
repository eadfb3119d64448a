"""One tile of any length, such as a gigabyte of zeros: BPE over windows, joined exactly.

BPE merges the pair of lowest rank, the leftmost first. Call two tokens compatible if the text of
both, encoded alone, gives the two again. Then a sequence of tokens, each compatible with the
next, is the encoding of its joined text. For take the first merge that would cross an edge
between two tokens of the sequence: until then all merges lay inside tokens, so inside those two
they were the ones made on the text of the two alone, and the crossing merge, lowest and leftmost
of all, is so among theirs, and would be made there too: they were not compatible.

So a window may end anywhere: its last tokens are given back to the text, and the rest stands if
it is compatible with the first token of the window that follows. If not, one more token is given
back and the window is encoded again.
"""

from __future__ import annotations

from collections.abc import Iterator

from tokenizers import Tokenizer as Backend

from llmcli.errors import InvalidInput
from llmcli.tokenization.spelling import spell_bytes

__all__ = ["TileJoiner"]

_GIVEN_BACK = 8


class TileJoiner:
    """Takes the text of one tile piece by piece; gives token ids.

    Args:
        backend: A byte-level BPE tokenizer.
    """

    def __init__(self, backend: Backend) -> None:
        self._model = backend.model
        self._settled: list[tuple[int, str]] = []  # id and spelling; joined once more
        self._carried = ""  # given back, in the vocabulary's spelling

    def push(self, text: str, *, last: bool) -> Iterator[list[int]]:
        """Take more of the tile; yield what became certain.

        Raises:
            InvalidInput: no edge in a whole window is compatible with what follows.
        """
        spelt = self._carried + spell_bytes(text.encode("utf-8"))
        tokens = self._encode(spelt)
        while self._settled and tokens and not self._compatible(self._settled[-1], tokens[0]):
            spelt = self._settled.pop()[1] + spelt
            tokens = self._encode(spelt)
            if not self._settled:
                raise InvalidInput(
                    "The text holds a run without any break that cannot be encoded in parts.",
                    "Put a space or a newline into it.",
                )
        yield [token_id for token_id, _ in self._settled]
        kept = len(tokens) if last else max(1, len(tokens) - _GIVEN_BACK)
        self._settled = tokens[:kept]
        self._carried = "".join(spelling for _, spelling in tokens[kept:])
        if last:
            yield [token_id for token_id, _ in self._settled]

    def _encode(self, spelt: str) -> list[tuple[int, str]]:
        return [(token.id, token.value) for token in self._model.tokenize(spelt)]

    def _compatible(self, left: tuple[int, str], right: tuple[int, str]) -> bool:
        return self._encode(left[1] + right[1]) == [left, right]
