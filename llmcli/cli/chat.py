"""``llmcli chat``: talk with a model."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmcli.cli.boundary import INTERRUPTED, InterruptFlag
from llmcli.cli.grammar_options import GrammarOptions, grammar_options
from llmcli.cli.help import command
from llmcli.cli.options import (
    files,
    load_model,
    model_options,
    output_options,
)
from llmcli.cli.sampling_options import SamplingOptions, sampling_options, seed_option
from llmcli.cli.server_options import ServerOptions, server_options
from llmcli.engine.params import SamplingParams
from llmcli.errors import InvalidInput
from llmcli.io.prompts import read_prompt
from llmcli.models.options import LoadOptions
from llmcli.terminal.console import Console

if TYPE_CHECKING:
    from llmcli.models.language_model import LanguageModel
    from llmcli.tasks.chat import Dialogue, Message
    from llmcli.tasks.remote import Client


@command()
@click.argument("message", nargs=-1)
@click.option("--system", metavar="TEXT", help="System message.")
@click.option(
    "--template",
    metavar="FILE|NAME",
    shell_complete=files,
    help="How to format messages for the model: a Jinja file, or a built-in layout "
    "(chatml, llama-2, llama-3, zephyr, eos-joined, plain, story).  [default: the "
    "model's own]",
)
@click.option(
    "--load",
    "load_file",
    type=click.Path(),
    metavar="FILE",
    help="Continue the conversation in this file.",
)
@click.option(
    "--save",
    "save_file",
    type=click.Path(),
    metavar="FILE",
    help="Save the conversation to this file after every turn.",
)
@click.option("--continue", "go_on", is_flag=True, help="Continue the last conversation.")
@click.option(
    "--special",
    type=click.Choice(["text", "allow", "forbid"]),
    default="text",
    show_default=True,
    help="Treat control tokens spelt out in a message as text, as tokens (allow), or as an error.",
)
@click.option(
    "--markdown/--no-markdown", default=True, show_default=True, help="Render answers as Markdown."
)
@sampling_options
@grammar_options
@seed_option
@server_options
@model_options
@output_options
def chat(
    message: tuple[str, ...],
    sampling: SamplingOptions,
    grammar: GrammarOptions,
    seed: int | None,
    server: ServerOptions,
    model: LoadOptions,
    console: Console,
    **own: Any,
) -> None:
    """Chat with a model, or ask it one thing.

    With a message, or with text on stdin, you get one answer. Without, on a terminal, a
    conversation begins; type /help in it to see what you can do.

    \b
    Examples:
      llmcli chat -m HuggingFaceTB/SmolLM2-135M-Instruct
      llmcli chat -m HuggingFaceTB/SmolLM2-135M-Instruct "Name three rivers."
      echo "Why is the sky blue?" | llmcli chat --json
      llmcli chat -m fable --template story
    """
    options = ChatOptions(**own)
    given = {**sampling.given(), **({} if seed is None else {"seed": seed})}
    SamplingParams(**given)
    if (source := grammar.source()) is not None:
        given["grammar"] = source
    if options.load_file and options.go_on:
        raise InvalidInput("--load and --continue exclude each other.", "Leave one of them out.")
    at_terminal = not message and sys.stdin is not None and sys.stdin.isatty()
    text = None if at_terminal else read_prompt(message, (), notify=console.notice)
    if text is not None and not text.strip():
        raise InvalidInput("The message is empty.", "Say something.")
    client = None if server.server is None else server.client(model, _REMOTE)
    talk = _begin(options, given, sampling, client or model, console)
    if text is not None:
        if _answer_once(talk, text, options, console):
            raise SystemExit(INTERRUPTED)
        return
    _talk(talk, options, console)


# What a server takes of the command's options.
_REMOTE = {
    *("system", "load_file", "save_file", "go_on", "markdown", "seed", "max_new_tokens"),
    *("min_new_tokens", "temperature", "greedy", "top_k", "top_p", "min_p", "typical_p", "top_h"),
    *("epsilon_cutoff", "eta_cutoff", "repetition_penalty", "presence_penalty"),
    *("frequency_penalty", "no_repeat_ngram_size", "logit_bias"),
}


@dataclass(slots=True, kw_only=True)
class ChatOptions:
    """What chat alone takes; /fork changes where turns are saved."""

    system: str | None
    template: str | None
    load_file: str | None
    save_file: str | None
    go_on: bool
    special: Any
    markdown: bool


def _folder() -> Path:
    return Path(click.get_app_dir("llmcli")) / "chat"


def _begin(
    options: ChatOptions,
    given: dict[str, Any],
    sampling: SamplingOptions,
    model: LoadOptions | Client,
    console: Console,
) -> Dialogue:
    from llmcli.tasks.chat import read_messages

    messages = []
    if options.load_file:
        messages = read_messages(Path(options.load_file))
    elif options.go_on:
        messages = read_messages(_folder() / "last.jsonl")
    if isinstance(model, LoadOptions):
        talk = _begin_here(options, given, sampling, load_model(model, console), messages)
    else:
        talk = _begin_there(given, sampling, model, messages)
    if options.system is not None:
        talk.system = options.system
    return talk


def _begin_here(
    options: ChatOptions,
    given: dict[str, Any],
    sampling: SamplingOptions,
    loaded: LanguageModel,
    messages: list[Message],
) -> Dialogue:
    from llmcli.tasks.chat import Conversation, template_for
    from llmcli.tasks.prompts import sampling_params

    return Conversation(
        model=loaded,
        template=template_for(loaded, options.template),
        params=sampling_params(loaded, {**given, **sampling.by_token(loaded), "num_beams": 1}),
        special=options.special,
        messages=messages,
    )


def _begin_there(
    given: dict[str, Any], sampling: SamplingOptions, client: Client, messages: list[Message]
) -> Dialogue:
    from llmcli.tasks.prompts import new_seed
    from llmcli.tasks.provenance import params_of
    from llmcli.tasks.remote import RemoteModel
    from llmcli.tasks.remote_chat import RemoteConversation

    served = client.served()
    given.setdefault("seed", new_seed())
    return RemoteConversation(
        client=client,
        model=RemoteModel(served["about"]),
        limit=served["max_model_len"],
        logit_bias=client.logit_bias(sampling.logit_bias),
        params=params_of({**served["sampling"], **given}),
        messages=messages,
    )


def _answer_once(talk: Dialogue, text: str, options: ChatOptions, console: Console) -> bool:
    """Answer one message; whether Ctrl-C cut the answer short."""
    from llmcli.tasks.chat import Reply, reply_record
    from llmcli.tasks.provenance import provenance, settings_record

    talk.say(text)
    reply, interrupted = Reply(), InterruptFlag()
    streams = console.choose(json=False, text=True)
    with interrupted:
        for event in talk.answer(reply, interrupted):
            if event.text and streams:
                console.write(event.text)
                console.flush()
    _keep(talk, options)
    if streams:
        console.write_raw("\n")
        console.flush()
    about = {**provenance(talk.source), "sampling": settings_record(talk.params)}
    console.json_only(reply_record(talk, reply, about))
    if reply.dropped_messages:
        console.notice(f"The oldest {reply.dropped_messages} messages did not fit the context.")
    return interrupted.set


def _keep(talk: Dialogue, options: ChatOptions) -> None:
    """Save the conversation for --continue, and where --save says."""
    from llmcli.tasks.chat import save_messages

    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    save_messages(folder / "last.jsonl", talk.messages)
    (folder / "last.jsonl").chmod(0o600)
    if options.save_file:
        save_messages(Path(options.save_file), talk.messages)


def _talk(talk: Dialogue, options: ChatOptions, console: Console) -> None:
    """The conversation at a terminal."""
    from llmcli.tasks.chat import Reply
    from llmcli.terminal.chat import Chat, Talk

    latest = Reply()

    def answer(should_stop: Any) -> Any:
        nonlocal latest
        latest = Reply()
        yield from talk.answer(latest, should_stop)
        _keep(talk, options)

    Chat(
        console,
        Talk(
            answer=answer,
            dropped=lambda: latest.dropped_messages,
            command=lambda name, words: _command(talk, options, name, words),
            last_message=lambda: next(
                (each.content for each in reversed(talk.messages) if each.role == "user"), None
            ),
            say=talk.say,
        ),
        history=_folder() / "history",
        markdown=options.markdown,
    ).run(InterruptFlag)


def _command(talk: Dialogue, options: ChatOptions, name: str, words: list[str]) -> str:
    """Run a slash command; returns what to show.

    Raises:
        InvalidInput: there is no such command, or it was given too much or too little.
    """
    from llmcli.tasks.chat import read_messages, save_messages
    from llmcli.terminal.chat import COMMANDS, help_text, with_setting

    if name not in COMMANDS:
        from difflib import get_close_matches

        near = get_close_matches(name, COMMANDS, n=1)
        meant = f" Did you mean {near[0]}?" if near else ""
        raise InvalidInput(f"There is no command {name}.{meant}", "/help lists all.")
    wanted = {"/set": 2, "/fork": 1, "/save": 1, "/load": 1}.get(name, 0)
    if len(words) != wanted and name != "/system":
        raise InvalidInput(f"{name} takes {wanted or 'no'} words.", "/help shows them.")
    if name == "/help":
        return help_text()
    if name == "/system":
        talk.system = words[0] if words else None
        return "The system message is set." if words else "There is no system message."
    if name == "/set":
        talk.params = with_setting(talk.params, *words)
        return f"{words[0]} is {words[1]}."
    if name == "/retry":
        if not talk.take_back_answer():
            raise InvalidInput("There is nothing to answer.", "Say something first.")
        return ""
    if name == "/undo":
        taken = talk.undo()
        return "There is nothing to take back." if taken is None else f"Taken back: {taken.content}"
    if name in ("/save", "/fork"):
        if name == "/fork":
            options.save_file = str(Path(words[0]).expanduser())
        save_messages(Path(words[0]).expanduser(), talk.messages)
        return f"{len(talk.messages)} messages are in {words[0]}."
    if name == "/load":
        talk.messages = read_messages(Path(words[0]).expanduser())
        return f"{len(talk.messages)} messages were read."
    if name == "/tokens":
        count = len(talk.ids(talk.messages)) if talk.messages else 0
        return f"{count} of {talk.context} tokens."
    params = talk.params
    return (
        f"{talk.source.name}, {talk.source.precision}; template {talk.template_name}; temperature "
        f"{params.temperature:g}, top-p {params.top_p:g}, top-k {params.top_k}, at most "
        f"{params.max_new_tokens} tokens an answer, seed {params.seed}."
    )
