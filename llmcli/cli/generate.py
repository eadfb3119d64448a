"""``llmcli generate``: continue a prompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmcli.cli.boundary import INTERRUPTED, InterruptFlag
from llmcli.cli.options import (
    InputOptions,
    ModelOptions,
    existing_parent,
    input_options,
    model_options,
    output_options,
)
from llmcli.cli.sampling_options import Ranged, SamplingOptions, sampling_options, seed_option
from llmcli.engine.params import DraftStats, SamplingParams, TokenEvent
from llmcli.errors import InvalidInput
from llmcli.models.continuation import check_combination
from llmcli.terminal.console import Console, to_json
from llmcli.terminal.prompts import read_prompt

if TYPE_CHECKING:
    from llmcli.engine.speculative import Draft
    from llmcli.models.continuation import Continuation
    from llmcli.models.language_model import LanguageModel
    from llmcli.tokenization.tokenizer import SpecialTokens


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions:
    """What generate alone takes."""

    stop: tuple[str, ...]
    keep_stop: bool
    ignore_eos: bool
    num_return_sequences: int | None
    num_beams: int | None
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

    def given(self) -> dict[str, Any]:
        """Return what was set, by SamplingParams' names."""
        names = ("num_return_sequences", "num_beams", "seed", "logprobs")
        said = {name: value for name in names if (value := getattr(self, name)) is not None}
        return {
            **said,
            "stop": self.stop,
            "keep_stop": self.keep_stop,
            "ignore_eos": self.ignore_eos,
        }


@click.command()
@click.argument("prompt", nargs=-1)
@sampling_options
@click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; repeatable.")
@click.option("--keep-stop", is_flag=True, help="Print the stop text that was found.")
@click.option("--ignore-eos", is_flag=True, help="Never draw the end-of-text token.")
@click.option("--num-return-sequences", type=Ranged(int), help="How many continuations.")
@click.option("--num-beams", type=Ranged(int), help="Beam search over this many beams.")
@seed_option
@click.option(
    "--logprobs",
    type=Ranged(int),
    metavar="K",
    help="Log-probabilities and the K most likely tokens in JSON; tints on a terminal.",
)
@click.option(
    "--draft",
    metavar="ngram|int8|MODEL",
    help="Let something faster guess ahead; the text stays the same.",
)
@click.option("--heal", is_flag=True, help="Let the model re-divide the prompt's last token.")
@click.option("--bos", is_flag=True, help="Put the begin-of-text token first.")
@click.option(
    "--special",
    type=click.Choice(["text", "allow", "forbid"]),
    default="text",
    show_default=True,
    help="What '<|endoftext|>' and its like are in the prompt.",
)
@click.option("--echo/--no-echo", default=None, help="Print the prompt too.  [default: terminal]")
@click.option("-0", "--null", is_flag=True, help="End each continuation with NUL, not newline.")
@click.option("--stats", is_flag=True, help="Tokens, speed and memory on stderr.")
@click.option("--keep-newline", is_flag=True, help="Keep stdin's last newline.")
@click.option(
    "-o", "--output", type=click.Path(), metavar="FILE", help="Write to a file, whole or not."
)
@input_options
@model_options
@output_options
def generate(
    prompt: tuple[str, ...],
    sampling: SamplingOptions,
    inputs: InputOptions,
    model: ModelOptions,
    console: Console,
    **own: Any,
) -> None:
    """Continue a prompt.

    Several parts are joined with newlines; '-' is stdin's text at that place. Without a prompt,
    stdin is the prompt.

    \b
    Examples:
      llmcli generate "Once upon a time"
      llmcli generate -n 40 --seed 7 --stop $'\\n' "The old king said:"
      cat article.txt | llmcli generate - "TL;DR:"
      llmcli generate --json --logprobs 3 -n 5 "The sky is" | jq .tokens
    """
    options = GenerateOptions(**own)
    given = {**sampling.given(), **options.given()}
    # All that can be wrong with the call is found before anything heavy is imported.
    check_combination(SamplingParams(**given))
    if options.draft and options.num_beams:
        raise InvalidInput("A draft does not work with beam search.", "Leave one of them out.")
    if options.output is not None:
        existing_parent(options.output, inputs=inputs.files)
    text = read_prompt(
        prompt,
        inputs.files,
        console=console,
        errors=inputs.errors,
        keep_newline=options.keep_newline,
    )
    if not text and not options.bos:
        raise InvalidInput(
            "The prompt is empty.", "Give some text, or --bos to start from the end-of-text token."
        )
    if text.endswith(" ") and not options.heal:
        console.notice(
            "The prompt ends in a space, which belongs to the next token: leave it out or "
            "pass --heal."
        )
    run = _Run(model.load(console), text, options, console)
    run.settle({**given, "bias_texts": sampling.logit_bias})
    if options.draft:
        from llmcli.models.drafting import make_draft

        run.draft = make_draft(
            options.draft, run.model, lambda name: model.load(console, model=name)
        )
    if run.write():
        raise SystemExit(INTERRUPTED)


@dataclass
class _Run:
    """One call of generate: from a loaded model to what stands on stdout."""

    model: LanguageModel
    text: str
    options: GenerateOptions
    console: Console
    draft: Draft | None = None

    def settle(self, given: dict[str, Any]) -> None:
        """Work out the settings in force."""
        from llmcli.models.continuation import parse_logit_bias, sampling_params

        biases = parse_logit_bias(self.model, given.pop("bias_texts"))
        self.params = sampling_params(self.model, {**given, "logit_bias": biases})

    def write(self) -> bool:
        """Generate and write; whether Ctrl-C cut it short."""
        from llmcli.models.continuation import continue_text
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
        )
        stats = GenerationStats(prompt_tokens=continuation.prompt_tokens, draft=draft_stats)
        events = stats.watch(continuation.events)
        with interrupted:
            if self.console.json_output:
                self._write_records(continuation, events)
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
        from llmcli.terminal.continuations import write_stream

        prompt = self.text if self._echo() else None
        for _ in write_stream(self.console, events, prompt=prompt, end=self._end()):
            pass

    def _write_file(self, events: Iterator[TokenEvent]) -> None:
        from llmcli.files import atomic_write

        with atomic_write(Path(self.options.output or "")) as file:
            fresh = True
            for event in events:
                shown = self.text if fresh and self._echo() else ""
                fresh = event.finish_reason is not None
                file.write((shown + event.text + (self._end() if fresh else "")).encode("utf-8"))

    def _write_records(self, continuation: Continuation, events: Iterator[TokenEvent]) -> None:
        from llmcli.files import atomic_write

        records = self._records(continuation, events)
        if not self.options.output:
            for record in records:
                self.console.record(record)
            return
        with atomic_write(Path(self.options.output)) as file:
            for record in records:
                file.write((to_json(record) + "\n").encode("utf-8"))

    def _records(
        self, continuation: Continuation, events: Iterator[TokenEvent]
    ) -> Iterator[dict[str, Any]]:
        """Yield a record for each continuation as it is finished."""
        from llmcli.models.provenance import provenance, settings_record

        collected: list[TokenEvent] = []
        for event in events:
            collected.append(event)
            if event.finish_reason is None:
                continue
            drawn = [each for each in collected if each.token_id is not None]
            text = "".join(each.text for each in collected)
            record: dict[str, Any] = {
                "index": event.index,
                "text": self.text + text if self.options.echo else text,
                "finish_reason": event.finish_reason,
                "stop": event.stop,
                "prompt_tokens": continuation.prompt_tokens,
                "completion_tokens": len(drawn),
                "dropped_tokens": event.dropped_tokens,
                "seed": self.params.seed,
                **provenance(self.model),
                "sampling": settings_record(self.params),
            }
            if self.params.logprobs is not None:
                record["tokens"] = [self._token_record(each) for each in drawn]
            collected.clear()
            yield record

    def _token_record(self, event: TokenEvent) -> dict[str, Any]:
        assert event.token_id is not None  # only drawn tokens come here
        return {
            **self._spelling(event.token_id),
            "logprob": event.logprob,
            "sampled_logprob": event.sampled_logprob,
            "top": [{**self._spelling(top.id), "logprob": top.logprob} for top in event.top],
        }

    def _spelling(self, token_id: int) -> dict[str, Any]:
        data = self.model.token_bytes(token_id)
        return {"id": token_id, "token": data.decode("utf-8", "replace"), "bytes": list(data)}
