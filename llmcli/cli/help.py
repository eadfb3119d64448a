"""Help in sections: what people use every day first, the rest by subject."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import click
from click.shell_completion import CompletionItem

from llmcli.cli.options import flag_name
from llmcli.terminal.console import Console

EVERYDAY = (
    "model",
    "max_new_tokens",
    "temperature",
    "top_p",
    "seed",
    "input",
    "output",
    "json",
)
"""Options that stand first wherever a command has them, in this order."""

_SUBJECTS: Mapping[str, str] = {
    "New model": "vocab_size layers heads width",
    "Adapters": "lora lora_rank lora_alpha merge",
    "Length of the run": "max_steps max_time epochs",
    "Learning": "learning_rate optimizer schedule warmup decay weight_decay dropout max_grad_norm "
    "gradient_accumulation_steps grow_from",
    "Sampling": "min_new_tokens greedy top_k min_p typical_p top_h epsilon_cutoff eta_cutoff "
    "repetition_penalty presence_penalty frequency_penalty no_repeat_ngram_size logit_bias ban "
    "stop keep_stop ignore_eos num_return_sequences num_beams length_penalty early_stopping "
    "calibration",
    "Structured output": "json_schema regex grammar choice",
    "Input": "jsonl field id_field choices_field format input_format errors null lines "
    "keep_newline overflow context bos special heal prompt messages template param shots suffix "
    "source_lang target_lang prefix",
    "Output": "logprobs echo no_echo stats resume overwrite retry_errors html png csv color quiet "
    "verbose",
    "Model": "revision offline refresh timeout allow_pickle trust_remote_code adapter device "
    "precision threads server api_key_file",
    "Advanced": "draft batch_size ray partition_rows actors debug help",
}
# Elsewhere these are another thing, and stand among a command's own options.
_ONLY_BESIDE = {"early_stopping": "num_beams", "api_key_file": "server", "context": "bos"}
_SECTION = {name: title for title, names in _SUBJECTS.items() for name in names.split()}
_OWN = "Options"
_ORDER = ("Common options", _OWN, *_SUBJECTS)

# The root's commands by what they are for; a command that is not named comes last.
_COMMANDS: Mapping[str, tuple[str, ...]] = {
    "Write": ("generate", "chat", "fill", "serve"),
    "Look": ("next", "encode", "decode", "inspect"),
    "Measure": ("score", "rank", "classify", "pairs", "calibrate", "bench"),
    "Models": ("models", "train"),
    "Set up": ("config", "log", "replay", "templates", "completion", "man", "help"),
}


def styled(text: str, **style: str | bool) -> str:
    """Text for a help page, with a style where stdout shows one."""
    return click.style(text, **style) if Console().color_stdout else text  # type: ignore[arg-type]


class _Formatter(click.HelpFormatter):
    """Keeps to a narrow terminal, where Click takes no less than 50 columns."""

    def __init__(
        self, indent_increment: int = 2, width: int | None = None, max_width: int | None = None
    ) -> None:
        columns = min(shutil.get_terminal_size().columns, max_width or 80)
        super().__init__(indent_increment, width or max(columns - 2, 20), max_width)

    def write_dl(
        self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2
    ) -> None:
        """Write names and what they are; of a narrow page names take a third at most."""
        super().write_dl(rows, col_max if self.width >= 60 else self.width // 3, col_spacing)


class _Context(click.Context):
    formatter_class = _Formatter


class Command(click.Command):
    """A command whose ``--help`` has sections."""

    context_class = _Context

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the usage line."""
        _write_usage(self, ctx, formatter)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options by section."""
        for title, params in sections(self.get_params(ctx)):
            _write_rows(formatter, title, [told(param, ctx) for param in params])


def told(option: click.Option, ctx: click.Context) -> tuple[str, str]:
    """An option's names and what is said of it; bounds stand there, and not in the names."""
    names, text = cast("tuple[str, str]", option.get_help_record(ctx))
    return names.replace("INTEGER RANGE", "INTEGER").replace("FLOAT RANGE", "FLOAT"), text


def sections(params: Sequence[click.Parameter]) -> Iterator[tuple[str, list[click.Option]]]:
    """Yield the titles of a command's sections and what is in them, those that are empty aside."""
    found: dict[str, list[click.Option]] = {title: [] for title in _ORDER}
    options = [param for param in params if isinstance(param, click.Option) and not param.hidden]
    names = {flag_name(option) for option in options}
    for option in options:
        name = flag_name(option)
        title = _ORDER[0] if name in EVERYDAY else _SECTION.get(name, _OWN)
        found[title if _ONLY_BESIDE.get(name, name) in names else _OWN].append(option)
    found[_ORDER[0]].sort(key=lambda param: EVERYDAY.index(flag_name(param)))
    yield from ((title, options) for title, options in found.items() if options)


class HelpfulGroup(click.Group):
    """A group that lists its commands by subject, their summaries whole.

    Args:
        summaries: What the commands are for, by their names. Without it each is imported to be
            listed.
    """

    command_class = Command
    context_class = _Context

    def __init__(
        self, *args: Any, summaries: Mapping[str, str] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._summaries = summaries or {}

    def summaries(self, ctx: click.Context) -> dict[str, str]:
        """What each command is for, in the order of a list of them."""
        found = {}
        for name in self.list_commands(ctx):
            if (said := self._summaries.get(name)) is None:
                command = self.get_command(ctx, name)
                if command is None or command.hidden:
                    continue
                said = command.get_short_help_str(limit=10_000)
            found[name] = said
        return found

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete commands and the group's own options."""
        commands = [
            CompletionItem(name, help=said)
            for name, said in self.summaries(ctx).items()
            if name.startswith(incomplete)
        ]
        return commands + click.Command.shell_complete(self, ctx, incomplete)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the usage line."""
        _write_usage(self, ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands."""
        rows = {name: (name, said) for name, said in self.summaries(ctx).items()}
        if ctx.parent is None:
            for title, names in _COMMANDS.items():
                _write_rows(formatter, title, [rows.pop(name) for name in names if name in rows])
        _write_rows(formatter, "Commands", list(rows.values()))


def command_names(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """What completes an argument that names a command."""
    root = ctx.find_root()
    found = root.command.summaries(root) if isinstance(root.command, HelpfulGroup) else {}
    return [CompletionItem(each, help=found[each]) for each in found if each.startswith(incomplete)]


command = functools.partial(click.command, cls=Command)
"""click.command with help in sections."""


def _write_usage(
    command: click.Command, ctx: click.Context, formatter: click.HelpFormatter
) -> None:
    pieces = " ".join(command.collect_usage_pieces(ctx))
    formatter.write_usage(ctx.command_path, pieces, prefix=f"{styled('Usage:', bold=True)} ")


def _write_rows(
    formatter: click.HelpFormatter, title: str, rows: Sequence[tuple[str, str]]
) -> None:
    if rows:
        with formatter.section(styled(title, bold=True)):
            formatter.write_dl([(styled(name, fg="cyan"), text) for name, text in rows])
