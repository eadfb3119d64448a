"""One call of ``llmcli generate``: from a loaded model to what stands on stdout."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcli.cli.boundary import InterruptFlag
from llmcli.cli.options import unescaped
from llmcli.engine.params import DraftStats, SamplingParams, TokenEvent
from llmcli.terminal.console import Console, to_json

if TYPE_CHECKING:
    from llmcli.engine.speculative import Draft
    from llmcli.io.formats import FormatName
    from llmcli.models.language_model import LanguageModel
    from llmcli.tasks.generate import Continuation
    from llmcli.tokenization.tokenizer import SpecialTokens


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions:
    """What generate alone takes."""

    stop: tuple[str, ...]
    keep_stop: bool
    ignore_eos: bool
    num_return_sequences: int | None
    num_beams: int | None
    length_penalty: float | None
    early_stopping: str | None
    seed: int | None
    logprobs: int | None
    heal: bool
    bos: bool
    special: SpecialTokens
    echo: bool | None
    null: bool
    stats: bool
    keep_newline: bool
    output: str | None
    draft: str | None
    jsonl: bool
    field: str
    batch_size: int | None
    input_format: FormatName | None
    resume: bool
    overwrite: bool
    retry_errors: bool
    context: int | None

    def given(self) -> dict[str, Any]:
        """Return what was set, by SamplingParams' names."""
        names = ("num_return_sequences", "num_beams", "length_penalty", "seed", "logprobs")
        said = {name: value for name in names if (value := getattr(self, name)) is not None}
        if self.early_stopping is not None:
            words = {"true": True, "false": False}
            said["early_stopping"] = words.get(self.early_stopping, self.early_stopping)
        if self.draft is not None:
            said.setdefault("num_beams", 1)
        return {
            **said,
            "stop": tuple(unescaped(each) for each in self.stop),
            "keep_stop": self.keep_stop,
            "ignore_eos": self.ignore_eos,
        }


@dataclass
class Run:
    """A loaded model and all settings; what is common to one prompt and to a batch."""

    model: LanguageModel
    params: SamplingParams
    options: GenerateOptions
    console: Console
    draft: Draft | None

    def write_records(self, records: Iterable[dict[str, Any]]) -> None:
        """Write JSON lines to stdout as they come, or to a file that appears when it is whole."""
        from llmcli.io.files import atomic_write

        if not self.options.output:
            for record in records:
                self.console.record(record)
            return
        with atomic_write(Path(self.options.output)) as file:
            for record in records:
                file.write((to_json(record) + "\n").encode("utf-8"))

    def record(self, prompt: str, prompt_tokens: int, events: list[TokenEvent]) -> dict[str, Any]:
        """A finished continuation, ready for JSON, with everything that made it."""
        from llmcli.tasks.provenance import provenance, settings_record

        drawn = [each for each in events if each.token_id is not None]
        text = "".join(each.text for each in events)
        last = events[-1]
        record: dict[str, Any] = {
            "index": last.index,
            "text": prompt + text if self.options.echo else text,
            "finish_reason": last.finish_reason,
            "stop": last.stop,
            "prompt_tokens": prompt_tokens,
            "completion_tokens": len(drawn),
            "dropped_tokens": last.dropped_tokens,
            "seed": self.params.seed,
            **provenance(self.model),
            "sampling": settings_record(self.params),
        }
        if self.params.logprobs is not None:
            record["tokens"] = [self._token_record(each) for each in drawn]
        return record

    def _token_record(self, event: TokenEvent) -> dict[str, Any]:
        assert event.token_id is not None  # only drawn tokens come here
        return {
            **_spelling(event.token_id, event.token_bytes),
            "logprob": event.logprob,
            "sampled_logprob": event.sampled_logprob,
            "top": [
                {**_spelling(top.id, self.model.token_bytes(top.id)), "logprob": top.logprob}
                for top in event.top
            ],
        }


def _spelling(token_id: int, data: bytes) -> dict[str, Any]:
    return {"id": token_id, "token": data.decode("utf-8", "replace"), "bytes": list(data)}


@dataclass
class PromptRun(Run):
    """One prompt and its continuations, as text or JSON."""

    text: str

    def write(self) -> bool:
        """Generate and write; whether Ctrl-C cut it short."""
        from llmcli.tasks.generate import continue_text
        from llmcli.terminal.statistics import GenerationStats

        interrupted = InterruptFlag()
        draft_stats = DraftStats() if self.draft else None
        continuation = continue_text(
            self.model,
            self.text,
            self.params,
            bos=self.options.bos,
            heal=self.options.heal,
            special=self.options.special,
            should_stop=interrupted,
            draft=self.draft,
            draft_stats=draft_stats,
            batch_size=self.options.batch_size or 1,
        )
        stats = GenerationStats(prompt_tokens=continuation.prompt_tokens, draft=draft_stats)
        events = stats.watch(continuation.events)
        with interrupted:
            if self.console.json_output:
                self.write_records(self._records(continuation, events))
            elif self.options.output:
                self._write_file(events)
            else:
                self._stream(events)
        if self.options.stats:
            lines = stats.summary(self.model.timings, detailed=self.console.verbose)
            self.console.say(lines)
        return interrupted.set

    def _echo(self) -> bool:
        if self.options.echo is not None:
            return self.options.echo
        return self.console.stdout_is_terminal and not self.options.output

    def _end(self) -> str:
        return "\0" if self.options.null else "\n"

    def _stream(self, events: Iterator[TokenEvent]) -> None:
        from llmcli.terminal.generate import write_stream

        prompt = self.text if self._echo() else None
        for _ in write_stream(self.console, events, prompt=prompt, end=self._end()):
            pass

    def _write_file(self, events: Iterator[TokenEvent]) -> None:
        from llmcli.io.files import atomic_write

        with atomic_write(Path(self.options.output or "")) as file:
            fresh = True
            for event in events:
                shown = self.text if fresh and self._echo() else ""
                fresh = event.finish_reason is not None
                file.write((shown + event.text + (self._end() if fresh else "")).encode("utf-8"))

    def _records(
        self, continuation: Continuation, events: Iterator[TokenEvent]
    ) -> Iterator[dict[str, Any]]:
        """Yield a record for each continuation as it is finished."""
        collected: list[TokenEvent] = []
        for event in events:
            collected.append(event)
            if event.finish_reason is not None:
                yield self.record(self.text, continuation.prompt_tokens, collected)
                collected.clear()
