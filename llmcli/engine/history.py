"""The tokens of one sequence, kept in the forms that penalties ask for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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
    def seen(self) -> Tensor:
        """The distinct token ids of prompt and continuation, shape [distinct], int64."""
        return self._seen.ids

    @property
    def generated(self) -> Tensor:
        """The distinct token ids generated, shape [distinct], int64."""
        return self._generated.ids

    @property
    def generated_counts(self) -> Tensor:
        """How often each of :attr:`generated` was generated, shape [distinct], float32."""
        return self._generated.counts

    def repeating(self) -> list[int]:
        """The tokens that would complete an n-gram that is already there."""
        n = self._ngram_size
        if not n or len(self.ids) < n - 1:
            return []
        return self._followers.get(tuple(self.ids[len(self.ids) - n + 1 :]), [])


class _Counts:
    """Distinct ids and how often each came, as tensors that grow by doubling."""

    def __init__(self) -> None:
        self._slots: dict[int, int] = {}
        self._ids = torch.empty(64, dtype=torch.int64)
        self._counts = torch.zeros(64, dtype=torch.float32)

    def add(self, token: int) -> None:
        slot = self._slots.get(token)
        if slot is None:
            slot = self._slots[token] = len(self._slots)
            if slot == len(self._ids):
                self._ids = torch.cat([self._ids, torch.empty_like(self._ids)])
                self._counts = torch.cat([self._counts, torch.zeros_like(self._counts)])
            self._ids[slot] = token
        self._counts[slot] += 1

    @property
    def ids(self) -> Tensor:
        return self._ids[: len(self._slots)]

    @property
    def counts(self) -> Tensor:
        return self._counts[: len(self._slots)]
