"""Tokens drawn from many rows of logits at once, as engine/sampling.py draws them from one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmcli.engine.native.library import SAMPLED, Workspace, address, library

_LIMITS = np.finfo(np.float32)
_workspace = Workspace()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Logits, and how a token is drawn from them.

    Attributes:
        logits: [vocab], penalties applied.
        number: In [0, 1).
        temperature: Above 0.
        top_k: 0 for all.
        top_p: 1 for all.
        min_p: 0 for all.
    """

    logits: npt.NDArray[np.float32]
    number: float
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token, and the log of its probability among what the filters left."""

    token: int
    logprob: float


def draw_rows(rows: Sequence[Row], *, threads: int) -> list[Drawn | None] | None:
    """Draw a token from each row.

    Args:
        rows: At least one, all of the same vocabulary.
        threads: How many of the processor's to take.

    Returns:
        What was drawn, None where the logits are NaN, infinite or all -infinity; None for all
        where there is no library.

    Raises:
        ValueError: Rows that are not contiguous float32 of one length.
    """
    native = library()
    if native is None:
        return None
    vocab = len(rows[0].logits)
    sampled = np.zeros(len(rows), SAMPLED)
    for place, row in enumerate(rows):
        if row.logits.shape != (vocab,) or row.logits.dtype != np.float32:
            raise ValueError(f"a row is {row.logits.shape} of {row.logits.dtype}")
        temperature = min(max(row.temperature, float(_LIMITS.tiny)), float(_LIMITS.max))
        sampled[place] = (
            address(row.logits),
            row.top_p,
            row.number,
            row.top_k,
            temperature,
            row.min_p,
            -1,
            0.0,
        )
    threads = min(threads, len(rows))
    memory = _workspace.pointer(native.llmcli_sample_bytes(vocab, threads))
    native.llmcli_sample(address(sampled), len(rows), vocab, memory, threads)
    pairs = zip(sampled["token"].tolist(), sampled["logprob"].tolist(), strict=True)
    return [Drawn(token, logprob) if token >= 0 else None for token, logprob in pairs]
