"""How fast and how large a generation was: what ``--stats`` prints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmcli.engine.params import DraftStats, TokenEvent
from llmcli.reporting import turning_to
from llmcli.system import load_average, peak_memory, usable_processors

if TYPE_CHECKING:
    from llmcli.tasks.provenance import Described

# Below so many tokens a second, over so many seconds, there is something to say.
_SLOW = 8.0
_LONG = 5.0


@dataclass
class GenerationStats:
    """Watches a stream of events.

    Attributes:
        prompt_tokens: How many tokens were read.
        tokens: How many were drawn.
        first: Seconds from the start to the first token.
        total: Seconds from the start to the last.
        draft: What a draft proposed and the model took, where there was one.
        threads: Tells how many threads the latest step took; None where nobody knows.
    """

    prompt_tokens: int
    tokens: int = 0
    first: float = 0.0
    total: float = 0.0
    draft: DraftStats | None = None
    threads: Callable[[], int] | None = None
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
            if not self.tokens:
                turning_to("writing tokens")
            self.tokens += 1
            self.first = self.first or self.total

    @property
    def rate(self) -> float | None:
        """Tokens a second after the first; None for a single one."""
        after = self.total - self.first
        return (self.tokens - 1) / after if self.tokens > 1 and after > 0 else None

    def slowness(self, model: Described) -> str | None:
        """Why decoding is slow and what helps; None where it is not."""
        rate = self.rate
        if self.threads is None or rate is None or rate >= _SLOW or self.total < _LONG:
            return None
        slow = f"Decoding is slow, at {rate:.1f} tokens/s"
        load, processors = load_average(), usable_processors()
        if load > 1.5 * processors:
            busy = f"{load:.0f} programs share {_count(processors, 'processor')}"
            return f"{slow}: {busy}. It is faster when they have finished."
        if model.device == "cpu" and "import transformers" in model.timings:
            return (
                f"{slow}: transformers computes {model.name}. A model that our own kernels "
                "compute is faster."
            )
        if model.precision == "float32":
            return (
                f"{slow}: each token reads all weights in float32. --precision int8 reads a "
                "quarter of that."
            )
        return f"{slow}, on {_count(self.threads(), 'thread')}. A smaller model is faster."

    def summary(self, timings: Mapping[str, float]) -> str:
        """One line, with the seconds that the steps of loading took."""
        rate = f"{self.rate:.1f} tokens/s, " if self.rate is not None else ""
        line = (
            f"{self.prompt_tokens} prompt tokens, {self.tokens} new tokens, {rate}"
            f"first token after {self.first:.2f} s, loaded in {sum(timings.values()):.2f} s, "
            f"peak memory {peak_memory() / 1e6:.0f} MB"
        )
        if self.threads is not None:
            line += f", {_count(self.threads(), 'thread')}"
        if self.draft is not None:
            line += f", draft: {self.draft.accepted} of {self.draft.proposed} tokens taken"
        return line


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
