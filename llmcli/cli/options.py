"""Every option that commands share, defined once and handed over as frozen dataclasses."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from llmcli.errors import HubUnreachable, InvalidInput, LlmcliError, ModelNotFound, OfflineMiss
from llmcli.io.sources import DecodeErrors, expanded
from llmcli.models.kinds import CAUSAL, Kind
from llmcli.models.options import Device, LoadOptions, Precision
from llmcli.reporting import listen, silent, working
from llmcli.terminal.clock import Clock
from llmcli.terminal.console import ColorWhen, Console
from llmcli.terminal.status import STATUS

if TYPE_CHECKING:
    from llmcli.hub.cache import Need
    from llmcli.hub.resolve import ResolvedModel
    from llmcli.models.calibration_file import FittedTemperature
    from llmcli.models.language_model import LanguageModel
    from llmcli.tokenization.tokenizer import Tokenizer

ALIASES = "llmcli.aliases"
"""Under this key of ``context.meta``: what gives models by the user's own names for them."""

F = TypeVar("F", bound=Callable[..., Any])


def flag_name(option: click.Option) -> str:
    """How the config file and the environment call an option: its long flag, underscored."""
    return max(option.opts, key=len).lstrip("-").replace("-", "_")


class SharedOption(click.Option):
    """``LLMCLI_<NAME>`` sets it for every command, ``LLMCLI_<COMMAND>_<NAME>`` for one."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """Return the command's own variable if it is set, else the shared one."""
        own = super().resolve_envvar_value(ctx)
        return own or os.environ.get(f"LLMCLI_{flag_name(self).upper()}") or None


shared_option = functools.partial(click.option, cls=SharedOption)


def bundle(name: str, cls: type[Any], *options: Callable[[Any], Any]) -> Callable[[F], F]:
    """Return a decorator that adds options and hands them to the callback as one ``cls``."""

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            bundled = cls(**{key: kwargs.pop(key) for key in names})
            return function(*args, **{name: bundled}, **kwargs)

        decorated: Any = wrapper
        others = len(getattr(function, "__click_params__", ()))
        for option in reversed(options):
            decorated = option(decorated)
        names = [param.name for param in decorated.__click_params__[others:]]
        return decorated  # type: ignore[no-any-return]

    return decorate


# -- output --------------------------------------------------------------------------------


def output_options(function: F) -> F:
    """Add --json, --color, -q, -v and --debug; the callback takes ``console``."""

    @functools.wraps(function)
    def wrapper(*args: Any, color: ColorWhen, json_output: bool, **kwargs: Any) -> Any:
        kwargs.pop("debug")  # read by the error boundary
        console = Console(
            color=color,
            json_output=json_output,
            quiet=kwargs.pop("quiet"),
            verbose=kwargs.pop("verbose"),
        )
        STATUS.enabled = console.shows_progress
        if not console.verbose:
            listen(STATUS.say, silent)
            return function(*args, console=console, **kwargs)
        clock = Clock()
        listen(STATUS.say, clock.begin)
        try:
            return function(*args, console=console, **kwargs)
        finally:
            for line in clock.lines():
                console.detail(line)

    decorated: Any = wrapper
    for option in (
        shared_option("--debug", is_flag=True, help="Show a traceback when something fails."),
        shared_option("-v", "--verbose", is_flag=True, help="Print more details to stderr."),
        shared_option("-q", "--quiet", is_flag=True, help="Hide warnings and progress."),
        shared_option(
            "--color",
            type=click.Choice(get_args(ColorWhen)),
            default="auto",
            show_default=True,
            help="When to use colour.",
        ),
        shared_option(
            "--json", "json_output", is_flag=True, help="Print JSON, one object per line."
        ),
    ):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


def reworded(**helps: str) -> Callable[[F], F]:
    """Say of shared options what is true of one command alone; goes above what adds them."""

    def decorate(function: F) -> F:
        for param in getattr(function, "__click_params__", ()):
            if isinstance(param, click.Option):
                param.help = helps.get(str(param.name), param.help)
        return function

    return decorate


def said(parameter: str) -> bool:
    """Whether a parameter of the command stands on the command line."""
    source = click.get_current_context().get_parameter_source(parameter)
    return source is ParameterSource.COMMANDLINE


_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "\\": "\\"}


def unescaped(text: str) -> str:
    r"""Put what they stand for in the place of ``\n``, ``\t``, ``\r``, ``\0`` and ``\\``."""
    return re.sub(r"\\([ntr0\\])", lambda match: _ESCAPES[match[1]], text)


def refuse_idle(why: str, **flags: str) -> None:
    """Refuse flags of the command line that would do nothing.

    The environment and the config file may set them for other calls, and are left alone.

    Args:
        why: What they go with, or do not go with: the end of the sentence.
        flags: Their names by those of the parameters.

    Raises:
        InvalidInput: one of them was given.
    """
    for parameter, flag in flags.items():
        if said(parameter):
            raise InvalidInput(f"{flag} {why}.", f"Leave out {flag}, or the other.")


# -- models --------------------------------------------------------------------------------


class ModelName(click.ParamType[str]):
    """A model's name; the shell completes bundled and cached ones, and folders."""

    name = "model"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name; what it is an alias of, where it is one."""
        name = str(value)
        aliases: Callable[[], dict[str, str]] = (ctx.meta if ctx else {}).get(ALIASES, dict)
        return aliases().get(name, name)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return aliases, bundled and cached models, and folders that a model may be in."""
        return [*model_names(ctx, param, incomplete), CompletionItem(incomplete, type="dir")]


def model_names(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The names that begin so: aliases, and models that are on this machine."""
    from llmcli.hub.resolve import known_names

    aliases: Callable[[], dict[str, str]] = ctx.meta.get(ALIASES, dict)
    try:
        names = [*aliases(), *known_names()]
    except LlmcliError:  # of a broken config file a command tells
        names = known_names()
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What completes an option that takes a file or something else: files."""
    return [CompletionItem(incomplete, type="file")]


def folders(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What completes an option that takes a folder which need not be there: folders."""
    return [CompletionItem(incomplete, type="dir")]


class ThreadCount(click.ParamType[int | None]):
    """A number of threads, or ``auto``: None."""

    name = "integer|auto"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        """Return the number, or None for ``auto``."""
        if isinstance(value, str) and value.strip().lower() == "auto":
            return None
        return click.IntRange(1, 4096).convert(value, param, ctx)


@contextmanager
def suggesting(name: str | None) -> Iterator[None]:
    """Add the nearest name of a model that is here to an error about one that is not.

    Raises:
        ModelError: what was raised inside, its cure begun with the name that may be meant.
    """
    from llmcli.hub.resolve import known_names

    try:
        yield
    except (ModelNotFound, HubUnreachable, OfflineMiss) as exc:
        near = get_close_matches(name or "", known_names(), n=1, cutoff=0.7)
        if not near:
            raise
        raise type(exc)(exc.message, f"Did you mean {near[0]}? {exc.cure}") from exc


def find_files(options: LoadOptions, console: Console, *, need: Need = "model") -> ResolvedModel:
    """Return a model's files, with what there is to tell on stderr."""
    from llmcli.terminal.progress import download_progress

    working(f"looking for {options.model or 'gpt2'}")
    with download_progress(console) as progress, suggesting(options.model):
        return options.resolve(need=need, notify=console.notice, progress=progress)


def load_model(
    options: LoadOptions,
    console: Console,
    *,
    kinds: Collection[Kind] = CAUSAL,
    calibration: FittedTemperature | None = None,
) -> LanguageModel:
    """Find a model's files and load it; ``kinds`` are those that the command has a use for.

    Raises:
        InvalidInput: the calibration is another model's.
    """
    from llmcli.models.loader import load_resolved

    resolved = find_files(options, console)
    model = load_resolved(
        resolved, options, kinds=kinds, notify=console.notice, detail=console.detail
    )
    if calibration is not None:
        calibration.check(model)
        model.calibration = calibration
    return model


def load_tokenizer(options: LoadOptions, console: Console) -> tuple[Tokenizer, ResolvedModel]:
    """Return a model's tokenizer, without its weights, and where its files came from."""
    from llmcli.tokenization.tokenizer import Tokenizer

    resolved = find_files(options, console, need="tokenizer")
    return Tokenizer.from_folder(resolved.folder, detail=console.detail), resolved


revision_option = shared_option("--revision", help="Branch, tag or commit of a Hub model.")
offline_option = shared_option("--offline", is_flag=True, help="Never use the network.")
timeout_option = shared_option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True, max=86400),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the Hub before giving up.",
)
allow_pickle_option = shared_option(
    "--allow-pickle",
    is_flag=True,
    help="Allow weights in pickle files (unsafe for models that you do not trust).",
)
device_option = shared_option(
    "--device",
    type=click.Choice(get_args(Device)),
    default="auto",
    show_default=True,
    help="Device to run the model on.",
)
threads_option = shared_option(
    "--threads",
    type=ThreadCount(),
    help="CPU threads; auto measures how many are fastest.  [default: auto]",
)

_RESOLVE = (
    shared_option(
        "-m",
        "--model",
        type=ModelName(),
        help="Model to use: a Hub id (gpt2, org/name), a folder, or the bundled fable.  "
        "[default: gpt2]",
    ),
    revision_option,
    offline_option,
    shared_option("--refresh", is_flag=True, help="Check the Hub for a newer version."),
    timeout_option,
    allow_pickle_option,
    shared_option(
        "--trust-remote-code", is_flag=True, help="Run the Python code in the model's repository."
    ),
)

resolve_options = bundle("model", LoadOptions, *_RESOLVE)
"""Adds the options that find a model; the callback takes ``model: LoadOptions``."""

model_options = bundle(
    "model",
    LoadOptions,
    *_RESOLVE,
    device_option,
    shared_option(
        "--precision",
        type=click.Choice(get_args(Precision)),
        help="Precision of the weights.  [default: float32; bfloat16 on cuda]",
    ),
    threads_option,
)
"""Adds the options that find and run a model; the callback takes ``model: LoadOptions``."""


class CalibrationFile(click.ParamType["FittedTemperature"]):
    """A file of ``calibrate --save``, read at once."""

    name = "file"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> FittedTemperature:
        """Return what it holds.

        Raises:
            InvalidInput: it cannot be read or is no such file.
        """
        from llmcli.models.calibration_file import FittedTemperature

        return FittedTemperature.read(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Complete names of files."""
        return [CompletionItem(incomplete, type="file")]


calibration_option = click.option(
    "--calibration",
    type=CalibrationFile(),
    help="Apply the temperature in a file written by 'calibrate --save'.",
)
"""Adds --calibration; the callback takes it and hands it to `load_model`."""


# -- input ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class InputOptions:
    """Which files to read, and what to do with bytes that are not UTF-8."""

    files: tuple[str, ...] = ()
    errors: DecodeErrors = "strict"


input_options = bundle(
    "inputs",
    InputOptions,
    click.option(
        "-i",
        "--input",
        "files",
        multiple=True,
        type=click.Path(),
        metavar="FILE",
        callback=lambda context, option, names: expanded(names),
        help="Read this file, or all files that match a pattern; '-' is stdin; repeatable.",
    ),
    click.option(
        "--errors",
        type=click.Choice(get_args(DecodeErrors)),
        default="strict",
        show_default=True,
        help="What to do with invalid UTF-8.",
    ),
)
"""Adds -i and --errors; the callback takes ``inputs: InputOptions``."""
