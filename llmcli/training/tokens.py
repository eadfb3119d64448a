"""Documents -> token ids in a memory-mapped file, so that a corpus may be larger than memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcli.errors import InvalidInput
from llmcli.io.files import atomic_write
from llmcli.io.idfile import id_type, write_ids
from llmcli.tokenization.large_text import encode_pieces
from llmcli.tokenization.tokenizer import Tokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmcli.training.corpus import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFile:
    """One file of token ids, and where its documents begin.

    Attributes:
        path: The file's name: little-endian integers of ``dtype``.
        dtype: ``uint16``, or ``uint32`` where ids do not fit.
        tokens: How many; every document ends in the end-of-text token.
        names: The documents.
        lengths: Tokens of each document, the end-of-text token among them.
        sizes: UTF-8 bytes of each document.
    """

    path: str
    dtype: str
    tokens: int
    names: list[str]
    lengths: list[int]
    sizes: list[int]

    def open(self, folder: Path) -> NDArray[Any]:
        """Map the ids, shape [tokens], read-only."""
        dtype = np.dtype(self.dtype).newbyteorder("<")
        if not self.tokens:
            return np.empty(0, dtype=dtype)
        return np.memmap(folder / self.path, dtype=dtype, mode="r", shape=(self.tokens,))


def write_tokens(
    documents: Iterable[Document], path: Path, *, tokenizer: Tokenizer, end_of_text: int
) -> TokenFile:
    """Encode the documents, one after the other, into a file.

    Raises:
        StorageError: the file cannot be written.
    """
    names: list[str] = []
    lengths: list[int] = []
    sizes: list[int] = []

    def ids() -> Iterator[list[int]]:
        for document in documents:
            count = 1
            for piece in encode_pieces(tokenizer, [document.text]):
                count += piece.count
                yield piece.ids
            yield [end_of_text]
            names.append(document.name)
            lengths.append(count)
            sizes.append(len(document.text.encode()))

    dtype = id_type(tokenizer.vocab_size)
    with atomic_write(path) as out:
        tokens = write_ids(out, ids(), format="bin", dtype=dtype)
    return TokenFile(
        path=path.name, dtype=dtype, tokens=tokens, names=names, lengths=lengths, sizes=sizes
    )


class Blocks:
    """Steps of training over a token file: which ids the weights see, in which order.

    The file is cut into blocks of ``context`` + 1 ids (neighbours share one id, a target of one
    and an input of the next). A pass takes every block once, in an order that the seed and the
    pass's number give; where the first block begins differs from pass to pass. So a step's ids
    follow from (seed, step) alone: a run that was killed goes on with the same ids, and
    processes share a step by taking its blocks in turn.

    Args:
        ids: Shape [tokens].
        context: Inputs of a block.
        blocks_per_step: Over all processes and accumulated batches.
        seed: Of the order.

    Raises:
        InvalidInput: there are fewer ids than one block.
    """

    def __init__(self, ids: NDArray[Any], *, context: int, blocks_per_step: int, seed: int) -> None:
        if len(ids) < context + 1:
            raise InvalidInput(
                f"The corpus has {len(ids)} tokens to train on, less than one context "
                f"({context}) and its target.",
                "Use a smaller --context, or more text.",
            )
        self.ids = ids
        self.context = context
        self.blocks_per_step = blocks_per_step
        self.seed = seed
        # One block fewer than fit, so that passes can begin at different places.
        self.blocks_per_pass = max(1, (len(ids) - 1) // context - 1)
        self._pass = -1
        self._order: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    @property
    def steps_per_pass(self) -> float:
        """Steps in which every block is seen once."""
        return self.blocks_per_pass / self.blocks_per_step

    def block(self, number: int) -> NDArray[np.int64]:
        """Return the ids of the ``number``-th block of the run, shape [context + 1]."""
        this_pass, place = divmod(number, self.blocks_per_pass)
        if this_pass != self._pass:
            generator = np.random.default_rng((self.seed, this_pass))
            slack = len(self.ids) - 1 - self.blocks_per_pass * self.context
            shift = int(generator.integers(0, slack + 1))
            order = generator.permutation(self.blocks_per_pass)
            self._order = order.astype(np.int64) * self.context + shift
            self._pass = this_pass
        start = int(self._order[place])
        return self.ids[start : start + self.context + 1].astype(np.int64)

    def batch(self, numbers: Sequence[int], *, length: int) -> NDArray[np.int64]:
        """Return blocks cut into rows of ``length`` inputs and one target.

        Shape [len(numbers) * context // length, length + 1].
        """
        rows = []
        for number in numbers:
            block = self.block(number)
            rows += [block[at : at + length + 1] for at in range(0, self.context, length)]
        return np.stack(rows)
