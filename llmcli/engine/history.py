"""The tokens of one sequence, kept in the forms that penalties ask for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


class History:
    """A prompt and what was generated after it.

    Everything is kept up to date a token at a time, so that no penalty walks the whole text at
    every step.

    Args:
        prompt: The prompt's token ids.
        ngram_size: The n of no_repeat_ngram_size; 0 keeps no n-grams.
    """

    def __init__(self, prompt: Sequence[int], *, ngram_size: int = 0) -> None:
        self.ids: list[int] = []
        self.generated_count = 0
        self._ngram_size = ngram_size
        self._followers: dict[tuple[int, ...], list[int]] = {}
        self._seen = _Counts()
        self._generated = _Counts()
        for token in prompt:
            self._note(token)

    def copy(self) -> History:
        """The same tokens, to be continued another way."""
        other = History((), ngram_size=self._ngram_size)
        other.ids = list(self.ids)
        other.generated_count = self.generated_count
        other._followers = {key: list(tokens) for key, tokens in self._followers.items()}
        other._seen, other._generated = self._seen.copy(), self._generated.copy()
        return other

    def append(self, token: int) -> None:
        """Add a generated token."""
        self.generated_count += 1
        self._generated.add(token)
        self._note(token)

    def _note(self, token: int) -> None:
        self.ids.append(token)
        self._seen.add(token)
        n = self._ngram_size
        if n and len(self.ids) >= n:
            key = tuple(self.ids[len(self.ids) - n : len(self.ids) - 1])
            self._followers.setdefault(key, []).append(token)

    @property
    def seen(self) -> npt.NDArray[np.int64]:
        """The distinct token ids of prompt and continuation, shape [distinct]."""
        return self._seen.ids

    @property
    def generated(self) -> npt.NDArray[np.int64]:
        """The distinct token ids generated, shape [distinct]."""
        return self._generated.ids

    @property
    def generated_counts(self) -> npt.NDArray[np.float32]:
        """How often each of :attr:`generated` was generated, shape [distinct]."""
        return self._generated.counts

    def ends_with(self, tokens: Sequence[int]) -> bool:
        """Whether prompt and continuation end in these tokens; true for none."""
        return not tokens or self.ids[-len(tokens) :] == list(tokens)

    def repeating(self) -> list[int]:
        """The tokens that would complete an n-gram that is already there."""
        n = self._ngram_size
        if not n or len(self.ids) < n - 1:
            return []
        return self._followers.get(tuple(self.ids[len(self.ids) - n + 1 :]), [])


class _Counts:
    """Distinct ids and how often each came, as arrays that grow by doubling."""

    def __init__(self) -> None:
        self._slots: dict[int, int] = {}
        self._ids = np.zeros(64, np.int64)
        self._counts = np.zeros(64, np.float32)

    def copy(self) -> _Counts:
        other = _Counts()
        other._slots = dict(self._slots)
        other._ids, other._counts = self._ids.copy(), self._counts.copy()
        return other

    def add(self, token: int) -> None:
        slot = self._slots.get(token)
        if slot is None:
            slot = self._slots[token] = len(self._slots)
            if slot == len(self._ids):
                self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
                self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
            self._ids[slot] = token
        self._counts[slot] += 1

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        return self._ids[: len(self._slots)]

    @property
    def counts(self) -> npt.NDArray[np.float32]:
        return self._counts[: len(self._slots)]
