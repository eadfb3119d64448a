"""The options that say what the model reads: a template, examples, messages, a suffix."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from llmcli.cli.options import (
    bundle,
    files,
)
from llmcli.errors import InvalidInput
from llmcli.io.sources import check_argument, read_text
from llmcli.models.options import LoadOptions

if TYPE_CHECKING:
    from llmcli.models.language_model import LanguageModel
    from llmcli.tasks.prompt_templates import Wording
    from llmcli.tasks.ready_prompts import ReadyPrompt
    from llmcli.tokenization.tokenizer import SpecialTokens

# What a template's options give way to only where something was said.
_FLAGS = ("stop", "keep_stop", "ignore_eos")


def templates_folder() -> Path:
    """Where one's own templates are."""
    return Path(click.get_app_dir("llmcli")) / "templates"


class TemplateName(click.ParamType[str]):
    """A template's name, or a file; the shell completes both."""

    name = "name|file"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the names of templates, and files."""
        from llmcli.tasks.prompt_templates import stored_templates

        names = [each.name for each in stored_templates(templates_folder())]
        found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
        return [*found, CompletionItem(incomplete, type="file")]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptOptions:
    """How a prompt comes about, where it is not the text alone."""

    template: str | None = None
    param: tuple[str, ...] = ()
    shots: str | None = None
    messages: str | None = None
    suffix: str | None = None

    def check(self, *, jsonl: bool, parts: bool) -> None:
        """Refuse what excludes each other.

        Args:
            jsonl: Whether prompts are those of a batch.
            parts: Whether a prompt was given.

        Raises:
            InvalidInput: two of them were given.
        """
        given = {
            "--messages": self.messages,
            "--suffix": self.suffix,
            "-t": self.template,
            "--shots": self.shots,
        }
        names = [name for name, value in given.items() if value is not None]
        if self.messages is not None and parts:
            names.append("a prompt")
        if self.messages is not None or self.suffix is not None:
            names += ["--jsonl"] if jsonl else []
            if len(names) > 1:
                raise InvalidInput(f"{names[0]} does not go with {names[1]}.", "Give one of them.")

    def wording(self) -> Wording | None:
        """What is made of each input; None for nothing.

        Raises:
            InvalidInput: a file cannot be read, or is not what it should be.
        """
        if self.template is None and self.shots is None and not self.param:
            return None
        from llmcli.io.records import Source
        from llmcli.tasks.prompt_templates import Wording, find_template

        values = {}
        for each in self.param:
            name, equals, value = check_argument(each, source="-p").partition("=")
            if not equals or not name:
                raise InvalidInput(f"-p {each!r} is not KEY=VALUE.", "For example -p tone=dry.")
            values[name] = value
        template = None
        if self.template is not None:
            template = find_template(self.template, templates_folder()).read()
        wording = Wording(template=template, values=values)
        if self.shots is None:
            return wording
        source = Source(self.shots)
        source.check()
        return wording.with_shots(source)

    def ready(
        self,
        model: LanguageModel,
        text: str,
        *,
        system: str | None = None,
        special: SpecialTokens = "text",
    ) -> ReadyPrompt | None:
        """The prompt as the model reads it, where messages or a suffix make it; else None.

        Args:
            model: The model.
            text: The prompt's text.
            system: What the model is told before it, as a template may have it.
            special: What control tokens in a text are.

        Raises:
            InvalidInput: they cannot be read; the model has no way to read them.
        """
        from llmcli.tasks.ready_prompts import conversation_prompt, infill_prompt

        if system is not None:
            from llmcli.tasks.chat import Message

            told = [Message("system", system), Message("user", text)]
            return conversation_prompt(model, told, special=special)
        if self.messages is not None:
            from llmcli.tasks.chat import parse_messages

            messages = parse_messages(read_text(self.messages), source=self.messages)
            if not messages:
                raise InvalidInput(f"{self.messages} holds no messages.", "Give at least one.")
            return conversation_prompt(model, messages, special=special)
        if self.suffix is not None:
            return infill_prompt(model, text, read_text(self.suffix), special=special)
        return None


def under(
    wording: Wording | None, given: dict[str, Any], model: LoadOptions, *, jsonl: bool
) -> tuple[dict[str, Any], LoadOptions]:
    """Settings and model, as a template has them where the call says nothing.

    Args:
        wording: What has the template.
        given: What the call says, by SamplingParams' names.
        model: The model it names.
        jsonl: Whether prompts are those of a batch.

    Raises:
        InvalidInput: the template has a system message, which a batch's prompts do not take.
    """
    if wording is None:
        return given, model
    if (template := wording.template) is not None:
        if jsonl and template.system is not None:
            raise InvalidInput(
                f"The template {template.name} has a system message, which does not go with "
                "--jsonl.",
                "Write what it says into the prompt.",
            )
        said = {name: value for name, value in given.items() if value or name not in _FLAGS}
        given = {**given, **template.options, **said}
        if model.model is None and template.model is not None:
            model = model.of(template.model)
    if wording.shots and not given["stop"]:
        given["stop"] = ("\n\n",)  # where another example would begin
    return given, model


prompt_options = bundle(
    "asked",
    PromptOptions,
    click.option(
        "-t",
        "--template",
        type=TemplateName(),
        help="Put the prompt into a template; 'llmcli templates list' shows them.",
    ),
    click.option(
        "-p",
        "--param",
        multiple=True,
        metavar="KEY=VALUE",
        help="Set a variable of the template; repeatable.",
    ),
    click.option(
        "--shots",
        metavar="FILE",
        shell_complete=files,
        help="Put worked examples before the prompt: records with prompt and completion.",
    ),
    click.option(
        "--messages",
        metavar="FILE",
        shell_complete=files,
        help="Answer a conversation: a JSON list, or one message per line as 'chat --save' "
        "writes it.",
    ),
    click.option(
        "--suffix",
        metavar="FILE",
        shell_complete=files,
        help="Fill in the gap between the prompt and the text in this file.",
    ),
)
"""Adds -t, -p, --shots, --messages and --suffix; the callback takes ``asked: PromptOptions``."""
