"""A conversation at a terminal: a line editor, slash commands, and answers as they come."""

from __future__ import annotations

import os
import shlex
import signal
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcli.errors import InvalidInput, LlmcliError
from llmcli.terminal.console import Console

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.document import Document

    from llmcli.engine.params import TokenEvent

COMMANDS: dict[str, tuple[str, str]] = {
    "/help": ("", "Show this list."),
    "/system": ("[TEXT]", "Set the system message, or remove it."),
    "/set": ("NAME VALUE", "Change a setting, as in /set temperature 0.7."),
    "/retry": ("", "Answer again."),
    "/edit": ("", "Change your last message."),
    "/undo": ("", "Take back your last message and its answer."),
    "/fork": ("FILE", "Go on in a copy: turns are saved to this file from here on."),
    "/save": ("FILE", "Save the conversation as JSON lines."),
    "/load": ("FILE", "Go on with a saved conversation."),
    "/tokens": ("", "Show how full the context is."),
    "/model": ("", "Show the model, its template and its settings."),
    "/exit": ("", "Leave; Ctrl-D does too."),
}
_QUOTES = '"""'


@dataclass(frozen=True, slots=True)
class Talk:
    """What the loop asks of the conversation; it knows nothing of models.

    Attributes:
        answer: Starts an answer; takes what asks whether to stop.
        dropped: How many messages the latest answer had to leave out.
        command: Runs a slash command; returns what to show.
        last_message: The user's last message, for /edit; None where there is none.
    """

    answer: Callable[[Callable[[], bool]], Iterator[TokenEvent]]
    dropped: Callable[[], int]
    command: Callable[[str, list[str]], str]
    last_message: Callable[[], str | None]
    say: Callable[[str], None]


class Chat:
    """Reads messages, shows answers.

    Args:
        console: Where answers go.
        talk: The conversation.
        history: Where typed lines are kept, readable by their owner alone; None keeps none.
        markdown: Whether a finished answer is drawn again as Markdown.
    """

    def __init__(
        self, console: Console, talk: Talk, *, history: Path | None, markdown: bool
    ) -> None:
        self._console = console
        self._talk = talk
        self._markdown = markdown
        self._session = _session(history)

    def run(self, interrupted: Callable[[], Any]) -> None:
        """Talk until Ctrl-D or /exit.

        Args:
            interrupted: Makes a flag that Ctrl-C sets inside ``with``.
        """
        self._console.info("/help lists commands, Ctrl-C stops an answer, Ctrl-D leaves.")
        draft = ""
        while True:
            try:
                text = self._session.prompt("> ", default=draft)
            except KeyboardInterrupt:
                draft = ""
                continue
            except EOFError:
                return
            draft, said = "", False
            stripped = text.strip()
            try:
                if not stripped:
                    continue
                if stripped.startswith("/") and not stripped.startswith("//"):
                    name, *arguments = _words(stripped)
                    if name == "/exit":
                        return
                    if name == "/edit":
                        draft = self._talk.last_message() or ""
                        self._talk.command("/undo", [])
                        continue
                    shown = self._talk.command(name, arguments)
                    if name == "/retry":
                        self._answer(interrupted)
                    elif shown:
                        self._console.info(shown)
                    continue
                self._talk.say(_unquoted(text))
                said = True
                self._answer(interrupted)
            except LlmcliError as exc:
                self._console.notice(str(exc))
                if said:
                    self._talk.command("/undo", [])
                # What was typed is not lost: it stands in the line again.
                draft = text

    def _answer(self, interrupted: Callable[[], Any]) -> None:
        flag = interrupted()
        before = signal.getsignal(signal.SIGINT)
        text = ""
        try:
            with flag:
                for event in self._talk.answer(flag):
                    if event.text:
                        self._console.write(event.text)
                        self._console.flush()
                        text += event.text
        finally:
            # The next Ctrl-C is for the next answer.
            signal.signal(signal.SIGINT, before)
        self._console.write_raw("\n")
        if self._markdown and not flag.set:
            self._draw_again(text)
        self._console.flush()
        if dropped := self._talk.dropped():
            self._console.notice(
                f"The oldest {dropped} messages no longer fit into the context and were left out."
            )

    def _draw_again(self, text: str) -> None:
        """Replace a plain answer by its Markdown, where it has any and is still on the screen."""
        console = self._console
        if not (console.stdout_is_terminal and console.color_stdout and _has_markdown(text)):
            return
        rows = _rows(text, console.width)
        with suppress(OSError):
            if rows >= os.get_terminal_size().lines - 1:
                return
            from rich.markdown import Markdown

            console.write_raw(f"\x1b[{rows}A\x1b[J")
            console.render(Markdown(_plain(text), hyperlinks=False))


def help_text() -> str:
    """The slash commands, a line each."""
    width = max(len(f"{name} {words}") for name, (words, _) in COMMANDS.items())
    lines = [f"{f'{name} {words}':{width}}  {said}" for name, (words, said) in COMMANDS.items()]
    return "\n".join([*lines, 'Alt-Enter or """ begins a message of several lines.'])


def parse_setting(text: str) -> object:
    """A setting's value as typed: a number, true or false, or a text."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def with_setting(params: Any, name: str, text: str) -> Any:
    """Settings with one of them changed.

    Raises:
        InvalidInput: there is none of that name, or the value is out of its range.
    """
    name = name.replace("-", "_")
    known = {"temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty"}
    known |= {"presence_penalty", "frequency_penalty", "no_repeat_ngram_size", "max_new_tokens"}
    known |= {"min_new_tokens", "seed"}
    if name not in known:
        raise InvalidInput(f"There is no setting {name!r}.", f"Use {', '.join(sorted(known))}.")
    value = parse_setting(text)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InvalidInput(f"{name} is {text!r}.", "Give a number.")
    return replace(params, **{name: value})


def _session(history: Path | None) -> PromptSession[str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer, Completion, PathCompleter
    from prompt_toolkit.filters import Condition
    from prompt_toolkit.history import FileHistory, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings

    class Slash(Completer):
        """Completes slash commands, and files after those that take one."""

        def get_completions(self, document: Document, complete_event: Any) -> Any:
            typed = document.text_before_cursor
            if not typed.startswith("/"):
                return
            name, space, _ = typed.partition(" ")
            if not space:
                for command, (_, said) in COMMANDS.items():
                    if command.startswith(name):
                        yield Completion(command, -len(name), display_meta=said)
            elif name in ("/save", "/load", "/fork"):
                from prompt_toolkit.document import Document as Rest

                rest = Rest(typed[len(name) + 1 :])
                yield from PathCompleter(expanduser=True).get_completions(rest, complete_event)

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    session: PromptSession[str] = PromptSession(
        history=FileHistory(_private(history)) if history is not None else InMemoryHistory(),
        completer=Slash(),
        complete_while_typing=False,
        key_bindings=keys,
        prompt_continuation="  ",
    )

    @Condition
    def open_quotes() -> bool:
        return session.default_buffer.text.count(_QUOTES) % 2 == 1

    @keys.add("enter", filter=open_quotes)
    def _(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    return session


def _private(path: Path) -> str:
    """Make a file that only its owner can read."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        path.chmod(0o600)
    return str(path)


def _words(line: str) -> list[str]:
    """A slash command and its arguments; /system takes the rest of the line as it is."""
    name, _, rest = line.partition(" ")
    if name == "/system":
        return [name, rest.strip()] if rest.strip() else [name]
    try:
        return [name, *shlex.split(rest)]
    except ValueError as exc:
        raise InvalidInput(f"{line!r} is not complete: {exc}.", "Close the quotes.") from exc


def _unquoted(text: str) -> str:
    """A message without the quotes that held its lines together."""
    stripped = text.strip()
    if len(stripped) >= 6 and stripped.startswith(_QUOTES) and stripped.endswith(_QUOTES):
        return stripped[3:-3].strip("\n")
    return text.removeprefix("/") if stripped.startswith("//") else text


def _has_markdown(text: str) -> bool:
    lines = text.splitlines()
    marks = ("# ", "## ", "### ", "- ", "* ", "1. ", "> ", "```", "| ")
    return any(line.lstrip().startswith(marks) for line in lines) or "**" in text or "`" in text


def _plain(text: str) -> str:
    """A text without control characters, for a library that would pass them on."""
    return "".join(c for c in text if c == "\n" or unicodedata.category(c) not in ("Cc", "Cf"))


def _rows(text: str, width: int) -> int:
    """How many rows of the screen a text takes, its last newline included."""
    from rich.cells import cell_len

    return sum(max(1, -(-cell_len(line) // width)) for line in text.split("\n"))
