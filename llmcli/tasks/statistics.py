"""How fast and how large a generation was: what ``--stats`` prints."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from llmcli.engine.params import DraftStats, TokenEvent
from llmcli.system import peak_memory


@dataclass
class GenerationStats:
    """Watches a stream of events.

    Attributes:
        prompt_tokens: How many tokens were read.
        tokens: How many were drawn.
        first: Seconds from the start to the first token.
        total: Seconds from the start to the last.
        draft: What a draft proposed and the model took, where there was one.
    """

    prompt_tokens: int
    tokens: int = 0
    first: float = 0.0
    total: float = 0.0
    draft: DraftStats | None = None
    _started: float = field(default_factory=time.perf_counter)

    def watch(self, events: Iterable[TokenEvent]) -> Iterator[TokenEvent]:
        """Pass events on and take the time."""
        for event in events:
            self.note(event)
            yield event

    def note(self, event: TokenEvent) -> None:
        """Count an event that came now."""
        self.total = time.perf_counter() - self._started
        if event.token_id is not None:
            self.tokens += 1
            self.first = self.first or self.total

    def summary(self, timings: Mapping[str, float], *, detailed: bool = False) -> str:
        """One line and, if ``detailed``, a line for each step of loading that was timed."""
        after = self.total - self.first
        rate = f"{(self.tokens - 1) / after:.1f} tokens/s, " if self.tokens > 1 and after else ""
        line = (
            f"{self.prompt_tokens} prompt tokens, {self.tokens} new tokens, {rate}"
            f"first token after {self.first:.2f} s, loaded in {sum(timings.values()):.2f} s, "
            f"peak memory {peak_memory() / 1e6:.0f} MB"
        )
        if self.draft is not None:
            line += f", draft: {self.draft.accepted} of {self.draft.proposed} tokens taken"
        steps = [f"  {step}: {seconds:.2f} s" for step, seconds in timings.items()]
        return "\n".join([line, *(steps if detailed else [])])
