"""The one place that owns stdout and stderr: results as bytes, chatter apart from them."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import sys
from collections.abc import Callable, Mapping
from typing import IO, TYPE_CHECKING, Any, Literal, TypeVar

from llmcli.errors import StorageError
from llmcli.io.json_line import to_json
from llmcli.terminal.escaping import escape_controls, escape_json, one_line
from llmcli.terminal.palette import color_depth, painted
from llmcli.terminal.status import STATUS

if TYPE_CHECKING:
    from rich.console import RenderableType

T = TypeVar("T")

ColorWhen = Literal["auto", "always", "never"]

YELLOW = "33"
RED = "1;31"


def wants_color(when: ColorWhen, *, terminal: bool) -> bool:
    """Whether to colour a stream: the flag, then NO_COLOR, then FORCE_COLOR, then a terminal."""
    if when != "auto":
        return when == "always"
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return terminal and os.environ.get("TERM") != "dumb"


def _is_terminal(stream: IO[Any] | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


class Console:
    """Results to stdout, everything else to stderr.

    On a terminal control characters are shown escaped; to a pipe or a file the bytes are
    exact. Every write may raise BrokenPipeError (the reader went away: the caller lets it
    pass, the command line exits 141 without a word) or StorageError.

    Attributes:
        json_output: ``--json`` was given.
        quiet: ``-q``: no warnings, no progress.
        verbose: ``-v``: details on stderr.
    """

    def __init__(
        self,
        *,
        color: ColorWhen = "auto",
        json_output: bool = False,
        quiet: bool = False,
        verbose: bool = False,
    ) -> None:
        self.json_output = json_output
        self.quiet = quiet
        self.verbose = verbose
        self.stdout_is_terminal = _is_terminal(sys.stdout)
        self.stderr_is_terminal = _is_terminal(sys.stderr)
        self.color_stdout = wants_color(color, terminal=self.stdout_is_terminal)
        self.color_stderr = wants_color(color, terminal=self.stderr_is_terminal)

    def choose(self, *, json: T, text: T, quiet: T | None = None) -> T:
        """What ``--json``, ``-q`` or neither of them asks for: the one place that decides."""
        if self.json_output:
            return json
        return quiet if self.quiet and quiet is not None else text

    def answer(self, record: Mapping[str, object], text: Callable[[], None]) -> None:
        """Write a whole answer: the record in JSON, otherwise what ``text`` writes."""
        if self.choose(json=True, text=False):
            self.record(record)
        else:
            text()

    def json_only(self, record: Mapping[str, object]) -> None:
        """Write what is said in JSON alone."""
        if self.choose(json=True, text=False):
            self.record(record)

    def text_only(self, text: str) -> None:
        """Write a line that JSON does without."""
        if self.choose(json=False, text=True):
            self.line(text)

    @property
    def width(self) -> int:
        """Columns of the terminal; 80 where there is none."""
        return shutil.get_terminal_size((80, 24)).columns

    @property
    def table_width(self) -> int | None:
        """Columns that a table has: any number in a pipe, unless somebody said how many."""
        return self.width if self.stdout_is_terminal or "COLUMNS" in os.environ else None

    @property
    def shows_progress(self) -> bool:
        """Whether progress may be drawn on stderr."""
        return self.stderr_is_terminal and not self.quiet

    # -- stdout: the result ----------------------------------------------------------------

    def write_bytes(self, data: bytes) -> None:
        """Write exactly these bytes to stdout.

        Raises:
            BrokenPipeError: the reader of stdout went away.
            StorageError: the disk is full or the device fails.
        """
        STATUS.clear()
        try:
            sys.stdout.buffer.write(data)
        except BrokenPipeError:
            raise
        except OSError as exc:
            raise _stdout_failed(exc) from exc

    def flush(self) -> None:
        """Hand everything written so far to the reader (raises as :meth:`write_bytes`)."""
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as exc:
            raise _stdout_failed(exc) from exc

    def write(self, text: str, *, sgr: str = "") -> None:
        """Write text: exact UTF-8, or escaped (and in the colour ``sgr``) on a terminal."""
        shown = escape_controls(text) if self.stdout_is_terminal else text
        self.write_raw(self.styled(shown, sgr) if sgr else shown)

    def write_raw(self, text: str) -> None:
        """Write text that is already safe for a terminal, such as a rendered table."""
        self.write_bytes(text.encode("utf-8"))

    def line(self, text: str = "") -> None:
        """Write text and a newline."""
        self.write(text + "\n")

    def record(self, record: Mapping[str, object]) -> None:
        """Write one line of JSON and flush it; a terminal gets control characters spelt out."""
        line = to_json(record)
        self.write_raw((escape_json(line) if self.stdout_is_terminal else line) + "\n")
        self.flush()

    def styled(self, text: str, sgr: str) -> str:
        """Return ``text`` inside an SGR sequence if stdout is coloured, else as it is."""
        return painted(text, sgr) if self.color_stdout else text

    def render(self, renderable: RenderableType) -> None:
        """Draw a rich renderable on stdout. Put data in ``rich.text.Text``, never in markup."""
        from rich.console import Console as RichConsole

        rich_console = RichConsole(
            force_terminal=self.table_width is not None,
            no_color=not self.color_stdout,
            color_system=color_depth() if self.color_stdout else None,
            width=self.width,
            height=100,  # or a dumb terminal has 80 columns, whatever is said
            markup=False,
            highlight=False,
            emoji=False,
            legacy_windows=False,
        )
        with rich_console.capture() as captured:
            rich_console.print(renderable, crop=False)
        drawn = captured.get()
        if not self.color_stdout:
            drawn = "".join(f"{line.rstrip()}\n" for line in drawn.splitlines())
        self.write_raw(drawn)

    # -- stderr: everything else -----------------------------------------------------------

    def notice(self, text: str) -> None:
        """Warn on stderr, on one line, unless quiet."""
        if not self.quiet:
            self.say(self._styled_err("Warning:", YELLOW) + " " + one_line(text))

    def info(self, text: str) -> None:
        """Say something on stderr, unless quiet."""
        if not self.quiet:
            self.say(escape_controls(text))

    def detail(self, text: str) -> None:
        """Say something on stderr under ``--verbose``."""
        if self.verbose:
            self.say(escape_controls(text))

    def log(self, record: Mapping[str, object]) -> None:
        """Write one line of JSON to stderr, whatever else is to be quiet."""
        self.say(escape_json(to_json(record)))

    def error(self, text: str) -> None:
        """Print the one line of an error."""
        self.say(self._styled_err("Error:", RED) + " " + one_line(text))

    def say(self, line: str, *, end: str = "\n") -> None:
        """Write a safe line to stderr; a stderr that is closed or gone is nobody's loss."""
        STATUS.clear()
        if sys.stderr is None:
            return
        try:
            sys.stderr.write(line.encode("utf-8", "backslashreplace").decode("utf-8") + end)
            sys.stderr.flush()
        except (OSError, ValueError):
            pass

    def _styled_err(self, text: str, sgr: str) -> str:
        return f"\x1b[{sgr}m{text}\x1b[0m" if self.color_stderr else text


def restore_terminal() -> None:
    """Show the cursor and reset colours on whichever of stdout and stderr is a terminal.

    Safe in a signal handler: it writes to the descriptor, past a buffer that may be in use, and
    not to a terminal that takes nothing (stopped by Ctrl-S).
    """
    if os.environ.get("TERM") == "dumb":
        return
    for stream in (sys.stdout, sys.stderr):
        if _is_terminal(stream):
            with contextlib.suppress(OSError, ValueError):
                if sys.platform == "win32" or select.select([], [stream], [], 0)[1]:
                    os.write(stream.fileno(), b"\x1b[0m\x1b[?25h")


def _stdout_failed(exc: OSError) -> StorageError:
    reason = exc.strerror or str(exc)
    return StorageError(
        f"Cannot write to stdout: {reason}.", "Free some space or write somewhere else."
    )
