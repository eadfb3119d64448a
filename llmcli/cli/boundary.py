"""Where every error and signal becomes one line on stderr and an exit status."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from types import FrameType
from typing import Any, Self

import click

from llmcli.cli.front import with_command
from llmcli.cli.help import HelpfulGroup
from llmcli.cli.options import ALIASES, flag_name
from llmcli.cli.settings import aliases, where_set
from llmcli.errors import LlmcliError, StorageError, is_out_of_memory
from llmcli.terminal.console import Console, restore_terminal

INTERRUPTED = 130
PIPE_CLOSED = 141

ARGUMENTS = "llmcli.arguments"
"""Under this key of ``context.meta``: what was typed after the program's name."""

_TERMINATING = [
    number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None
]


class Group(HelpfulGroup):
    """A group whose exits are llmcli's: one line, the right status, never a traceback.

    The boundary sits inside ``make_context`` and ``invoke``, so that a test's runner sees what
    a shell sees.
    """

    def make_context(
        self, info_name: str | None, args: list[str], *rest: Any, **extra: Any
    ) -> click.Context:
        with boundary(debug=_wants_debug(args)):
            if sys.stdout is None:
                raise StorageError("stdout is closed.", "Leave it open, or redirect it to a file.")
            given = tuple(args)  # Click uses the list up
            context = super().make_context(info_name, args, *rest, **extra)
            context.meta[ARGUMENTS] = given
            context.meta[ALIASES] = aliases
            return context

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, with_command(args, self))

    def invoke(self, ctx: click.Context) -> Any:
        with boundary(debug=_wants_debug(ctx.meta.get(ARGUMENTS, ()))), _signals():
            result = super().invoke(ctx)
            Console().flush()
            return result


def _wants_debug(args: Sequence[str]) -> bool:
    return "--debug" in args or os.environ.get("LLMCLI_DEBUG", "") not in ("", "0")


@contextmanager
def boundary(*, debug: bool = False) -> Iterator[None]:
    """Turn whatever is raised inside into SystemExit with the contract's status.

    Args:
        debug: Show the traceback of what was raised, above its line.
    """
    try:
        try:
            yield
        except click.exceptions.Exit:
            Console().flush()  # what --help and --version wrote
            raise
    except (click.exceptions.Exit, SystemExit):
        raise
    except KeyboardInterrupt:
        _settle()
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        _discard_stdout()
        raise SystemExit(PIPE_CLOSED) from None
    except BaseException as exc:
        # Not only Exception: a panic inside a native library arrives as a BaseException.
        if debug:
            import traceback

            traceback.print_exc()
        raise SystemExit(report(exc)) from None


def report(exc: BaseException) -> int:
    """Print the line of an error and return its exit status."""
    _settle()
    text, code = describe(exc)
    if isinstance(exc, click.exceptions.NoArgsIsHelpError):
        click.echo(text, err=True)
    elif text:
        Console().error(text)
    return code


def describe(exc: BaseException) -> tuple[str, int]:
    """Return the line that tells of an error, and its exit status."""
    if isinstance(exc, LlmcliError):
        return str(exc), exc.exit_code
    if isinstance(exc, click.exceptions.NoArgsIsHelpError):
        return exc.format_message(), exc.exit_code
    if isinstance(exc, click.UsageError):
        hint = f" Try '{exc.ctx.command_path} --help'." if exc.ctx is not None else ""
        return _sentence(exc.format_message()) + _about(exc) + hint, exc.exit_code
    if isinstance(exc, click.ClickException):
        return _sentence(exc.format_message()), exc.exit_code
    if isinstance(exc, click.Abort):
        return "", INTERRUPTED
    if is_out_of_memory(exc):
        reason = f" ({exc})" if str(exc) else ""
        return f"Out of memory{reason}. Use a smaller model, batch or --precision.", 1
    if isinstance(exc, OSError) and exc.strerror:
        name = f"{exc.filename}: " if exc.filename else ""
        return f"{name}{exc.strerror}. Check the path, its permissions and the free space.", 1
    return (
        f"Unexpected {type(exc).__name__}: {exc}. Run again with --debug to see where, "
        "and please report it.",
        1,
    )


def _about(exc: click.UsageError) -> str:
    """Where a bad value comes from if not from the command line, and what may be meant."""
    if not isinstance(exc, click.BadParameter) or exc.param is None or exc.ctx is None:
        return ""
    said = ""
    wrong = re.search(r"^'(.*?)' is not one of", exc.message)
    if isinstance(exc.param.type, click.Choice) and wrong:
        near = get_close_matches(wrong[1], map(str, exc.param.type.choices), n=1)
        said = f" Did you mean {near[0]!r}?" if near else ""
    source = exc.ctx.get_parameter_source(exc.param.name or "")
    if source is click.core.ParameterSource.ENVIRONMENT:
        said += " It comes from an LLMCLI_ variable of the environment."
    if source is click.core.ParameterSource.DEFAULT_MAP and isinstance(exc.param, click.Option):
        said += f" It stands in {where_set(exc.ctx.info_name, flag_name(exc.param))}."
    return said


def _sentence(message: str) -> str:
    """One line that ends like a sentence: Click lists choices over several."""
    text = " ".join(message.split())
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _settle() -> None:
    """Send on what was already made, and leave the terminal as a person wants it."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        _discard_stdout()
    restore_terminal()


def _discard_stdout() -> None:
    """Point stdout at the null device, so that the interpreter's last flush cannot fail."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError, AttributeError):
        return  # a test's runner: there is no descriptor to save
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


# -- signals -------------------------------------------------------------------------------


def _leave_now(number: int, frame: FrameType | None) -> None:
    restore_terminal()
    os._exit(INTERRUPTED)


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, _leave_now)  # a second Ctrl-C waits for nothing
    raise KeyboardInterrupt


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


@contextmanager
def _signals() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP unwind the stack; what was ignored stays ignored (nohup)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers: dict[int, Callable[[int, FrameType | None], None]] = {
        signal.SIGINT: _interrupt,
        **dict.fromkeys(_TERMINATING, _terminate),
    }
    before = {number: signal.getsignal(number) for number in handlers}
    for number, handler in handlers.items():
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        yield
    finally:
        # After Ctrl-C the second one keeps its meaning until the process is gone.
        if signal.getsignal(signal.SIGINT) is not _leave_now:
            for number, handler_before in before.items():
                signal.signal(number, handler_before)


class InterruptFlag:
    """Ctrl-C asked for politely: inside ``with``, the first one sets the flag.

    So a loop can finish what it is at; the second one leaves at once. Outside, Ctrl-C raises as
    everywhere.
    """

    def __init__(self) -> None:
        self.set = False
        self._before: Any = None

    def __call__(self) -> bool:
        """Whether Ctrl-C was pressed."""
        return self.set

    def __enter__(self) -> Self:
        """Take Ctrl-C over, unless it is ignored or another thread's."""
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
        ):
            self._before = signal.signal(signal.SIGINT, self._on_interrupt)
        return self

    def __exit__(self, *exc: object) -> None:
        """Give Ctrl-C back; once pressed, the second one keeps its meaning."""
        if self._before is not None and not self.set:
            signal.signal(signal.SIGINT, self._before)

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Inside, Ctrl-C raises as everywhere: for waiting on input, which looks at no flag.

        Raises:
            KeyboardInterrupt: it was pressed, inside or before.
        """
        if self._before is None:
            yield
            return
        signal.signal(signal.SIGINT, self._before)
        if self.set:  # looked at after the handler is in place, or one in between were lost
            signal.signal(signal.SIGINT, _leave_now)
            raise KeyboardInterrupt
        try:
            yield
        finally:
            # What raised has made the second Ctrl-C leave at once; that stays.
            if signal.getsignal(signal.SIGINT) is not _leave_now:
                signal.signal(signal.SIGINT, self._on_interrupt)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        self.set = True
        signal.signal(signal.SIGINT, _leave_now)
