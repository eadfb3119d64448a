"""What was read stays read: slots whose beginnings later texts take over."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from llmcli.engine.decoder import Decoder, Floats
from llmcli.engine.prefix_cache import PrefixCache

# A prefix that is shorter is read again rather than copied.
WORTH_COPYING = 32
# So many slots may wait for their turn to be copied to the cache.
_MOST_UNKEPT = 8


@dataclass(slots=True, eq=False)
class Read:
    """A slot and the tokens that it has read.

    Attributes:
        slot: Its number.
        tokens: What it holds.
        prompt_length: How many of them were a whole prompt; 0 until one was read.
        logits: Those after that prompt, [vocab].
    """

    slot: int
    tokens: list[int] = field(default_factory=list)
    prompt_length: int = 0
    logits: Floats | None = None


class Prefixes:
    """Gives out slots that hold as much of a prompt as was read before.

    Args:
        decoder: The model.
        share: Whether a text takes over what another one with the same beginning has read.
        cache: Keeps what finished texts have read, instead of their slots.
    """

    def __init__(self, decoder: Decoder, *, share: bool, cache: PrefixCache | None = None) -> None:
        self._decoder = decoder
        self._share = share
        self._cache = cache
        self._idle: deque[Read] = deque()

    def longest(self, prompt: Sequence[int], used: Collection[Read]) -> int:
        """How much of a prompt was read already and is at hand."""
        held = max((common(read.tokens, prompt) for read in [*self._idle, *used]), default=0)
        return held if self._cache is None else max(held, self._cache.length(prompt))

    def fresh(self) -> Read:
        """An empty slot."""
        return Read(self._decoder.open())

    def take(self, prompt: Sequence[int], used: Collection[Read]) -> Read:
        """A slot that holds as much of a prompt as some slot has read already.

        Args:
            prompt: The tokens.
            used: What is in use; only a copy is taken of it.
        """
        reads = [*self._idle, *used]
        source = max(reads, key=lambda read: common(read.tokens, prompt), default=None)
        shared = 0 if source is None else common(source.tokens, prompt)
        if source is not None and shared == len(prompt) == source.prompt_length:
            return self._same_prompt(source)
        # Logits after the last token come of reading it.
        shared = min(shared, len(prompt) - 1)
        read = self.fresh()
        if self._cache is not None and self._cache.length(prompt) >= shared:
            read.tokens = list(prompt[: self._cache.fill(read.slot, prompt)])
            return read
        if source is not None and shared >= WORTH_COPYING and self._share:
            kept = self._decoder.copy(source.slot, read.slot, shared)
            read.tokens = list(prompt[:kept])
        return read

    def _same_prompt(self, source: Read) -> Read:
        """A slot after a prompt that another one has read just so."""
        length = source.prompt_length
        if source in self._idle:
            self._idle.remove(source)
            self._decoder.truncate(source.slot, length)
            source.tokens = source.tokens[:length]
            return source
        slot = self._decoder.open()
        if self._decoder.copy(source.slot, slot, length) == length:
            return Read(slot, source.tokens[:length], length, source.logits)
        self._decoder.close(slot)
        return self.fresh()

    def give_back(self, read: Read) -> None:
        """Take a slot that nobody uses any more."""
        self._idle.append(read)

    @property
    def unkept(self) -> bool:
        """Whether some slot waits to be copied to the cache."""
        return self._cache is not None and bool(self._idle)

    def tidy(self, most: int | None) -> None:
        """Copy so many blocks of the oldest slot to the cache, or all of all; close what is kept.

        A long text takes as long to copy as several steps: those under way would stall.
        """
        while self.unkept:
            self._keep_oldest(most)
            if most is not None:
                return

    def _keep_oldest(self, most: int | None) -> None:
        read = self._idle[0]
        if self._cache is None or self._cache.keep(read.slot, read.tokens, most=most):
            self._decoder.close(self._idle.popleft().slot)

    def keep(self, count: int) -> None:
        """Keep so many slots that nobody uses, the latest; with a cache, those that wait for it."""
        most = max(count, 0) if self._cache is None else _MOST_UNKEPT
        while len(self._idle) > most:
            self._keep_oldest(None)

    def close(self) -> None:
        """Give all slots back that nobody uses."""
        while self._idle:
            self._decoder.close(self._idle.popleft().slot)


def common(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    pairs = zip(ours, theirs, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
