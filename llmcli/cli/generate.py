"""``llmcli generate``: continue a prompt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from llmcli.cli.batch import BatchOptions, batch_options, run_batch
from llmcli.cli.boundary import INTERRUPTED, InterruptFlag
from llmcli.cli.generate_options import GenerateOptions
from llmcli.cli.grammar_options import GrammarOptions, grammar_options
from llmcli.cli.help import command
from llmcli.cli.log import open_log
from llmcli.cli.options import (
    InputOptions,
    calibration_option,
    files,
    input_options,
    load_model,
    model_names,
    model_options,
    output_options,
    refuse_idle,
)
from llmcli.cli.prompt_options import PromptOptions, prompt_options, under
from llmcli.cli.sampling_options import Ranged, SamplingOptions, sampling_options, seed_option
from llmcli.cli.server_options import ServerOptions, server_options
from llmcli.engine.params import DraftStats, SamplingParams
from llmcli.errors import InvalidInput
from llmcli.io.files import existing_parent
from llmcli.io.prompts import read_prompt
from llmcli.models.options import LoadOptions
from llmcli.tasks.prompts import check_combination, new_seed, sampling_params
from llmcli.terminal.console import Console

if TYPE_CHECKING:
    from llmcli.io.generation_log import GenerationLog
    from llmcli.models.language_model import LanguageModel
    from llmcli.tasks.batch import Verb
    from llmcli.tasks.generate import Continuation
    from llmcli.tasks.prompt_templates import Wording
    from llmcli.tasks.provenance import Described
    from llmcli.tasks.remote import Client
    from llmcli.tasks.statistics import GenerationStats
    from llmcli.terminal.generate import GenerateView

M = TypeVar("M", bound="Described")


@command()
@click.argument("prompt", nargs=-1)
@prompt_options
@sampling_options
@grammar_options
@click.option(
    "--stop",
    multiple=True,
    metavar="TEXT",
    help="Stop before this text (\\n is a newline); repeatable.",
)
@click.option("--keep-stop", is_flag=True, help="Print the stop text, too.")
@click.option("--ignore-eos", is_flag=True, help="Never choose the end-of-text token.")
@click.option("--num-return-sequences", type=Ranged(int), help="Continuations.  [default: 1]")
@click.option("--num-beams", type=Ranged(int), help="Number of beams for beam search.")
@click.option(
    "--length-penalty",
    type=Ranged(float),
    help="With beams: divide scores by the length to this power.  [default: 1]",
)
@click.option(
    "--early-stopping",
    type=click.Choice(["true", "false", "never"]),
    help="With beams, stop once enough are done, by a heuristic, or when none can be better.",
)
@seed_option
@click.option(
    "--logprobs",
    type=Ranged(int),
    metavar="K",
    help="Show log-probabilities: in JSON with the K likeliest tokens, on a terminal as tints.",
)
@click.option(
    "--html",
    metavar="FILE",
    shell_complete=files,
    help="Write a page to look at, complete in itself: the tokens, and what else was likely; "
    "--logprobs says how many.  [default: 5]",
)
@click.option(
    "--draft",
    metavar="ngram|int8|MODEL",
    shell_complete=model_names,
    help="Let something faster guess ahead; the text stays the same.",
)
@click.option("--heal", is_flag=True, help="Let the model re-tokenize the end of the prompt.")
@click.option("--source-lang", metavar="LANG", help="For translation: language of the prompt.")
@click.option("--target-lang", metavar="LANG", help="For translation: language of the answer.")
@click.option(
    "--prefix",
    default="",
    metavar="TEXT",
    help="For encoder-decoder models: how the answer begins.",
)
@click.option("--bos", is_flag=True, help="Put the begin-of-text token first.")
@click.option(
    "--special",
    type=click.Choice(["text", "allow", "forbid"]),
    default="text",
    show_default=True,
    help="Treat control tokens such as '<|endoftext|>' as text, as tokens (allow), or as an error.",
)
@click.option("--echo/--no-echo", default=None, help="Print the prompt too.  [default: terminal]")
@click.option("-0", "--null", is_flag=True, help="End each continuation with NUL, not newline.")
@click.option(
    "--batch-size",
    type=click.IntRange(1, 4096),
    metavar="N",
    help="Decode N continuations at once; the texts stay the same.  [default: 1; with --jsonl 8 "
    "where that is exact]",
)
@click.option(
    "--context",
    type=click.IntRange(min=1),
    metavar="N",
    help="Limit the context to N tokens.  [default: the model's]",
)
@click.option("--stats", is_flag=True, help="Print token counts, speed and memory to stderr.")
@click.option("--keep-newline", is_flag=True, help="Keep the newline at the end of stdin.")
@calibration_option
@server_options
@batch_options(output="Write to this file; with --jsonl, records are added as they are finished.")
@input_options
@model_options
@output_options
def generate(
    prompt: tuple[str, ...],
    asked: PromptOptions,
    sampling: SamplingOptions,
    grammar: GrammarOptions,
    batch: BatchOptions,
    server: ServerOptions,
    inputs: InputOptions,
    model: LoadOptions,
    console: Console,
    **own: Any,
) -> None:
    """Continue a prompt.

    Several parts are joined with newlines, and '-' puts stdin's text at its place. Without a
    prompt, stdin is the prompt. With --jsonl every record of the input has one, and gets a record.

    Encoder-decoder models (T5, BART, Marian, NLLB) answer the prompt instead.

    \b
    Examples:
      llmcli generate "Once upon a time"
      llmcli generate -n 40 --seed 7 --stop '\\n' "The old king said:"
      cat article.txt | llmcli generate - "TL;DR:"
      llmcli generate --json --logprobs 3 -n 5 "The sky is" | jq .tokens
      llmcli generate --html tokens.html -n 60 "Once upon a time"
      llmcli generate --jsonl --batch-size 8 --seed 1 -i prompts.jsonl > texts.jsonl
      llmcli generate -m facebook/nllb-200-distilled-600M --target-lang fra_Latn "Good morning."
      llmcli generate --jsonl -i prompts.csv --field question -o answers.jsonl --resume
    """
    options = GenerateOptions(**own)
    if batch.jsonl:
        refuse_idle(
            "does not go with --jsonl", null="-0", keep_newline="--keep-newline", html="--html"
        )
    if batch.ray is not None:
        refuse_idle("does not go with --ray", stats="--stats")
    if console.json_output:
        refuse_idle("does not go with --json", null="-0")
    asked.check(jsonl=batch.jsonl, parts=bool(prompt or inputs.files))
    wording = asked.wording()
    given, model = under(wording, {**sampling.given(), **options.given()}, model, jsonl=batch.jsonl)
    if options.html is not None and given.get("num_beams", 1) > 1:
        raise InvalidInput(
            "--html shows what else was likely, which beam search does not tell.",
            "Leave one of them out.",
        )
    # All that can be wrong with the call is found before anything heavy is imported.
    check_combination(SamplingParams(**given))
    source = grammar.source(stop=options.stop, num_beams=options.num_beams)
    if source is None and wording is not None and wording.template is not None:
        source = wording.template.grammar()
    if source is not None:
        given["grammar"] = source
        if not options.stop:
            given["stop"] = ()
    if options.draft and options.num_beams:
        raise InvalidInput("A draft does not work with beam search.", "Leave one of them out.")
    batch.check(inputs, own_output=True)
    if options.html is not None:
        existing_parent(options.html, inputs=inputs.files)
    call = _Call(given, asked, wording, sampling, batch.placed(model), options)
    if server.server is not None:
        if _ask_server(call, server.client(model, _REMOTE), batch.output, prompt, inputs, console):
            raise SystemExit(INTERRUPTED)
    elif batch.jsonl:
        _run_batch(call, batch, prompt, inputs, console)
    elif _run_prompt(call, batch.output, prompt, inputs, console):
        raise SystemExit(INTERRUPTED)


@dataclass(frozen=True, slots=True)
class _Call:
    """How to continue: all that was said, but for what and where to."""

    given: dict[str, Any]
    asked: PromptOptions
    wording: Wording | None
    sampling: SamplingOptions
    model: LoadOptions
    options: GenerateOptions

    def view(
        self,
        console: Console,
        model: M,
        params: SamplingParams,
        stats: GenerationStats,
        output: str | None,
    ) -> GenerateView[M]:
        """What shows continuations."""
        from llmcli.terminal.generate import GenerateView

        return GenerateView(
            console=console,
            model=model,
            params=params,
            stats=stats,
            end="\0" if self.options.null else "\n",
            echo=self.options.echo,
            output=None if output is None else Path(output),
            html=None if self.options.html is None else Path(self.options.html),
        )

    def load(
        self, console: Console, *, output: str | None = None, **more: Any
    ) -> tuple[GenerateView[LanguageModel], dict[str, Any]]:
        """Load the model; return what shows continuations, and how they are made."""
        from llmcli.tasks.answers import Answers, AnswerSettings
        from llmcli.tasks.generate import make_draft
        from llmcli.tasks.statistics import GenerationStats

        options = self.options
        model = load_model(
            self.model,
            console,
            kinds=("causal", "encoder-decoder"),
            calibration=options.calibration,
        )
        answer = AnswerSettings(
            source_lang=options.source_lang, target_lang=options.target_lang, prefix=options.prefix
        )
        if options.context is not None:
            model.limit_context(options.context)
        given = {**self.given, **more, **self.sampling.by_token(model)}
        params = sampling_params(model, given)
        answer.check(
            model,
            heal=options.heal,
            bos=options.bos,
            draft=options.draft is not None,
            overflow=params.overflow,
        )
        answers = None
        if model.kind == "encoder-decoder":
            answers = Answers(model, answer, special=options.special)
            params = answers.params(params)
        draft = None
        if options.draft is not None:
            draft = make_draft(
                options.draft, model, lambda name: load_model(self.model.of(name), console)
            )
        stats = GenerationStats(prompt_tokens=0, draft=DraftStats() if draft else None)
        view = self.view(console, model, params, stats, output)
        return view, {
            "bos": options.bos,
            "heal": options.heal,
            "special": options.special,
            "draft": draft,
            "answers": answers,
        }


# What a server takes of the command's options.
_REMOTE = {
    *("html", "stop", "keep_stop", "ignore_eos", "num_return_sequences", "seed", "logprobs"),
    *("heal", "bos", "special", "echo", "null", "stats", "output", "max_new_tokens"),
    *("min_new_tokens", "temperature", "greedy", "top_k", "top_p", "min_p", "typical_p", "top_h"),
    *("epsilon_cutoff", "eta_cutoff", "repetition_penalty", "presence_penalty"),
    *("frequency_penalty", "no_repeat_ngram_size", "logit_bias", "overflow"),
}


def _ask_server(
    call: _Call,
    client: Client,
    output: str | None,
    parts: tuple[str, ...],
    inputs: InputOptions,
    console: Console,
) -> bool:
    """Have a server continue one prompt; whether Ctrl-C cut it short."""
    from llmcli.tasks.statistics import GenerationStats

    options, interrupted = call.options, InterruptFlag()
    text = _read_text(call, parts, inputs, console)
    with interrupted:
        found = client.continue_text(
            text,
            call.given,
            how={
                "bos": options.bos,
                "heal": options.heal,
                "special": options.special,
                "logit_bias": client.logit_bias(call.sampling.logit_bias),
            },
            should_stop=interrupted,
        )
        stats = GenerationStats(prompt_tokens=0)
        view = call.view(console, found.model, found.params, stats, output)
        view.one(found.continuation, text)
    if options.stats:
        view.show_stats()
    return interrupted.set


def _read_text(call: _Call, parts: tuple[str, ...], inputs: InputOptions, console: Console) -> str:
    """The prompt, or what a template is to be made of."""
    options = call.options
    if call.wording is not None and not call.wording.takes_input and not (parts or inputs.files):
        return ""
    text = read_prompt(
        parts,
        inputs.files,
        notify=console.notice,
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
    return text


def _run_prompt(
    call: _Call,
    output: str | None,
    parts: tuple[str, ...],
    inputs: InputOptions,
    console: Console,
) -> bool:
    """Continue one prompt; whether Ctrl-C cut it short."""
    options = call.options
    text = "" if call.asked.messages is not None else _read_text(call, parts, inputs, console)
    view, how = call.load(console, output=output)
    from llmcli.tasks.generate import continue_text

    interrupted = InterruptFlag()
    system = None if call.wording is None else call.wording.system(text)
    if call.wording is not None:
        text = call.wording.prompt(text)
    ready = call.asked.ready(view.model, text, system=system, special=options.special)
    continuation = continue_text(
        view.model,
        text if ready is None else ready,
        view.params,
        should_stop=interrupted,
        draft_stats=view.stats.draft,
        batch_size=options.batch_size or 1,
        **how,
    )
    # What is kept can be made again from its text.
    from_text = view.model.kind == "causal" and ready is None and view.params.grammar is None
    if from_text and (log := open_log()).is_on:
        continuation = _logged(continuation, log, view, text, options)
    with interrupted:
        view.one(continuation, text if view.model.kind == "causal" else options.prefix)
    if options.stats:
        view.show_stats()
    return interrupted.set


def _logged(
    continuation: Continuation,
    log: GenerationLog,
    view: GenerateView[LanguageModel],
    text: str,
    options: GenerateOptions,
) -> Continuation:
    """The continuation, which is kept when it is finished."""
    from llmcli.tasks.generation_log import logged

    events = logged(
        continuation.events,
        log.add,
        model=view.model,
        params=view.params,
        prompt=text,
        prompt_tokens=continuation.prompt_tokens,
        reading={
            "bos": options.bos,
            "heal": options.heal,
            "special": options.special,
            "context": options.context,
        },
    )
    return replace(continuation, events=events)


def _run_batch(
    call: _Call,
    batch: BatchOptions,
    parts: tuple[str, ...],
    inputs: InputOptions,
    console: Console,
) -> None:
    """Continue the prompts of a batch."""
    options = call.options
    # The seed is drawn before the model is loaded: every process that takes part has the same.
    drawn = batch.stored.get("seed", new_seed()) if options.seed is None else options.seed

    def load(console: Console) -> Verb:
        from llmcli.tasks.batch import Verb, made_by
        from llmcli.tasks.generate_batch import continue_records
        from llmcli.tasks.provenance import settings_record

        view, how = call.load(console, seed=drawn)
        echo = bool(options.echo)
        return Verb(
            work=continue_records(
                view.model,
                view.params,
                view.stats,
                echo=echo,
                batch_size=options.batch_size,
                wording=call.wording,
                **how,
            ),
            made_by=made_by(
                "generate",
                view.model,
                seed=view.params.seed,
                sampling=settings_record(view.params),
                context=view.model.n_positions,
                echo=echo,
                bos=options.bos,
                heal=options.heal,
                special=options.special,
                source_lang=options.source_lang,
                target_lang=options.target_lang,
                prefix=options.prefix,
                **({} if call.wording is None else {"wording": call.wording.digest}),
            ),
            lines=view.params.num_return_sequences,
            threads=view.model.threads or 1,
            end=view.show_stats if options.stats else None,
        )

    run_batch(batch, parts, inputs, console, load)
