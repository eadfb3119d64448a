"""Ways from inside a document to its end, in few tokens.

llguidance says what may come next, not how far the end is. A way that is known stays one while
the text follows it, and mostly when it does not: what closes a document after one word of a
string closes it after two. Where it does not, one is looked for: first by taking what is likely
to close, then level by level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcli.engine.grammar.vocabulary import Vocabulary

# How many states of a level are gone on with, up to how many tokens all are tried in each, how
# many are tried in all, and how many levels there are.
_WIDTH = 12
_FEW = 64
_TRIED = 20_000
_LEVELS = 64
# More tokens than any place has that is not inside a string.
_MANY = 500
# The longest way that is looked for.
LONGEST = 8192
# How much of an old way's beginning may be left out before it is joined again.
_REJOINED = 12


def allowed(matcher: Any, size: int) -> npt.NDArray[np.bool_]:
    """Which tokens may come next, [size]; the end of the text is none."""
    bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
    mask: npt.NDArray[np.bool_] = np.unpackbits(bits, count=size, bitorder="little").view(np.bool_)
    return mask


def way_out(
    matcher: Any,
    vocabulary: Vocabulary,
    room: int,
    *,
    old: Sequence[int] = (),
    forbidden: frozenset[int] = frozenset(),
) -> list[int] | None:
    """Return tokens that complete the document, ``room`` at most.

    Args:
        matcher: Where the document is; as it was when this returns.
        vocabulary: The tokens.
        room: How many there may be.
        old: The way from where the document was a token before.
        forbidden: Tokens that are not to be in it.

    Returns:
        A way, often the shortest; None where none was found.
    """
    for start in range(min(len(old), _REJOINED), -1, -1):
        if _completes(matcher, old[start:], room):
            return list(old[start:])
    costs = vocabulary.costs
    if forbidden:
        costs = costs.copy()
        costs[list(forbidden)] = np.inf
    most = 64 + 4 * len(old) if old else LONGEST
    # Copies: one that loses its way among a grammar's parts without end is lost for good.
    found = _straight(matcher.deep_copy(), costs, min(room, most), old)
    if found is not None:
        return found
    return _by_level(matcher.deep_copy(), vocabulary, costs, min(room, _LEVELS))


def shorter(matcher: Any, vocabulary: Vocabulary, room: int) -> list[int] | None:
    """Return a way of at most ``room`` tokens, looked for with more effort."""
    return _by_level(matcher.deep_copy(), vocabulary, vocabulary.costs, min(room, _LEVELS))


def _completes(matcher: Any, tokens: Sequence[int], room: int) -> bool:
    if len(tokens) > room:
        return False
    if not tokens:
        return bool(matcher.is_accepting())
    given = list(tokens)
    if matcher.validate_tokens(given) < len(given):
        return False
    matcher.consume_tokens(given)
    complete = bool(matcher.is_accepting())
    matcher.rollback(len(given))
    return complete


def _straight(
    matcher: Any, costs: npt.NDArray[np.float32], room: int, old: Sequence[int]
) -> list[int] | None:
    """Take what costs least until the document is complete or the old way is met again."""
    taken: list[int] = []
    while len(taken) < room:
        ids = _possible(matcher, costs)
        if not len(ids):
            return None
        # Where little is allowed no string is open, and a bracket closes more than a string does.
        near = costs[ids] if len(ids) > _MANY else np.where(costs[ids] > 1, costs[ids], -costs[ids])
        taken.append(int(ids[near.argmin()]))
        matcher.consume_token(taken[-1])
        if matcher.is_accepting():
            return taken
        left = room - len(taken)
        starts = range(min(len(old), _REJOINED) - 1, -1, -1)
        joined = next((s for s in starts if _completes(matcher, old[s:], left)), None)
        if joined is not None:
            return [*taken, *old[joined:]]
    return None


def _by_level(
    matcher: Any, vocabulary: Vocabulary, costs: npt.NDArray[np.float32], levels: int
) -> list[int] | None:
    """Try ways of one token, then of two; of those that go on alike only one is kept."""
    level: list[list[int]] = [[]]
    if matcher.is_accepting():
        return []
    left = _TRIED
    for _ in range(levels):
        following: dict[bytes, list[int]] = {}
        for way in level:
            matcher.consume_tokens(way)
            tokens = _candidates(matcher, vocabulary, costs)
            left -= len(tokens)
            for token in tokens:
                matcher.consume_token(token)
                complete = matcher.is_accepting()
                if not complete and not matcher.is_stopped():
                    following.setdefault(matcher.compute_bitmask(), [*way, token])
                matcher.rollback(1)
                if complete:
                    return [*way, token]
            matcher.rollback(len(way))
        level = list(following.values())[:_WIDTH]
        if not level or left < 0:
            return None
    return None


def _possible(matcher: Any, costs: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """The tokens that may come next."""
    if matcher.is_stopped():
        return np.zeros(0, np.int64)
    return np.flatnonzero(allowed(matcher, len(costs)) & np.isfinite(costs))


def _candidates(matcher: Any, vocabulary: Vocabulary, costs: npt.NDArray[np.float32]) -> list[int]:
    """Some of them, those first that lead to the end soonest."""
    ids = _spread(_possible(matcher, costs), vocabulary, _FEW)
    found: list[int] = ids[np.argsort(costs[ids], kind="stable")].tolist()
    return found


def _spread(ids: npt.NDArray[np.int64], vocabulary: Vocabulary, most: int) -> npt.NDArray[np.int64]:
    """Some of many: with each first byte the shortest and the longest, so that none is hidden."""
    if len(ids) <= most:
        return ids
    order = np.lexsort((vocabulary.lengths[ids], vocabulary.first_bytes[ids]))
    byte = vocabulary.first_bytes[ids][order]
    new = np.flatnonzero(np.diff(byte, prepend=-1))
    last = np.append(new[1:], len(byte)) - 1
    chosen: npt.NDArray[np.int64] = ids[order[np.unique(np.concatenate([new, last]))]]
    return chosen
