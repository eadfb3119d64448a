"""Results to stdout as bytes, everything else to stderr."""

from __future__ import annotations

import errno
import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.text import Text
from terminals import redirect

from llmcli.engine.params import TokenEvent
from llmcli.errors import StorageError
from llmcli.io.json_line import to_json
from llmcli.tasks.next import Candidate, FilterEffect, NextToken
from llmcli.terminal.console import Console, restore_terminal, wants_color
from llmcli.terminal.generate import write_stream
from llmcli.terminal.next import next_table, percent, quoted
from llmcli.terminal.table import Bar

HOSTILE = "\x1b[2J\x1b]52;c;aGk=\x07\x9b31m\u202e[/foo][bold]"
SHOWN = "\\x1b[2J\\x1b]52;c;aGk=\\x07\\x9b31m\\u202e[/foo][bold]"
SGR = re.compile(r"\x1b\[[0-9;]*m")


def test_a_pipe_gets_exact_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = redirect(monkeypatch, terminal=False)
    console = Console()
    console.write(HOSTILE + "\r\n")
    console.write_bytes(b"\xff\x00")
    console.flush()
    assert out.raw_bytes.getvalue() == HOSTILE.encode() + b"\r\n\xff\x00"
    assert err.value() == ""


def test_a_terminal_gets_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = redirect(monkeypatch, terminal=True)
    console = Console()
    console.line(HOSTILE)
    console.notice(f"a file named {HOSTILE}\n")
    console.info(HOSTILE)
    console.error(HOSTILE)
    assert out.value() == SHOWN + "\n"
    lines = err.value().splitlines()
    assert lines == [
        f"\x1b[33mWarning:\x1b[0m a file named {SHOWN}\\n",
        SHOWN,
        f"\x1b[1;31mError:\x1b[0m {SHOWN}",
    ]


def test_row_29_names_in_messages_are_escaped_in_a_pipe_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A log that is read later is shown on a terminal, too."""
    _, err = redirect(monkeypatch, terminal=False)
    Console().error(HOSTILE + "\nError: forged line")
    assert err.value() == f"Error: {SHOWN}\\nError: forged line\n"


def test_row_28_markup_is_literal(monkeypatch: pytest.MonkeyPatch) -> None:
    out, _ = redirect(monkeypatch, terminal=True)
    console = Console(color="always")
    console.render(Text("[/foo] [bold]x[/bold] :smile:"))
    console.write("[/foo]")
    assert SGR.sub("", out.value()) == "[/foo] [bold]x[/bold] :smile:\n[/foo]"


@pytest.mark.parametrize("color", ["always", "never"])
def test_the_next_table_with_hostile_tokens(monkeypatch: pytest.MonkeyPatch, color: str) -> None:
    out, _ = redirect(monkeypatch, terminal=True)
    tokens = [HOSTILE.encode()[:20], b"[/foo]", b"\xe2\x98", b"\n\t", "東京".encode()]
    result = NextToken(
        candidates=tuple(
            Candidate(id=i, logprob=-1.0 - i, sampled_logprob=None if i % 2 else -0.5)
            for i in range(len(tokens))
        ),
        entropy=2.0,
        filters=(FilterEffect(name="top_k", value=3, kept=3, mass=0.5, entropy=1.0),),
    )
    Console(color=color).render(next_table(result, tokens.__getitem__))  # type: ignore[arg-type]
    shown = out.value()
    plain = SGR.sub("", shown)
    assert "\x1b" not in plain
    assert (plain != shown) == (color == "always")
    assert "'[/foo]'" in plain
    assert "'\\xe2\\x98'" in plain
    assert "'\\n\\t'" in plain
    assert "top-k 3: 3 tokens, 50.00% kept" in plain


def test_small_shares_keep_their_digits() -> None:
    assert percent(0.25) == "25.00%"
    assert percent(0.0000123) == "1.2e-05"
    assert percent(0) == "0.00%"
    drawn = [Bar(share).drawn(20) for share in (0, 1, 0.5, 1 / 160)]
    assert drawn == ["", "█" * 20, "█" * 10, "▏"]
    assert quoted("é".encode()) == "'é'"


@pytest.mark.parametrize(
    ("when", "variables", "terminal", "expected"),
    [
        ("auto", {}, True, True),
        ("auto", {}, False, False),
        ("auto", {"NO_COLOR": "1"}, True, False),
        ("auto", {"NO_COLOR": ""}, True, True),
        ("auto", {"FORCE_COLOR": "1"}, False, True),
        ("auto", {"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
        ("auto", {"TERM": "dumb"}, True, False),
        ("always", {"NO_COLOR": "1"}, False, True),
        ("never", {"FORCE_COLOR": "1"}, True, False),
    ],
)
def test_who_decides_on_colour(
    monkeypatch: pytest.MonkeyPatch,
    when: str,
    variables: dict[str, str],
    terminal: bool,
    expected: bool,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert wants_color(when, terminal=terminal) is expected  # type: ignore[arg-type]


def test_quiet_and_verbose(monkeypatch: pytest.MonkeyPatch) -> None:
    _, err = redirect(monkeypatch, terminal=False)
    for console in (Console(quiet=True), Console(), Console(verbose=True)):
        console.notice("notice")
        console.info("info")
        console.detail("detail")
    assert err.value().split("\n")[:-1] == [
        *["Warning: notice", "info"],
        *["Warning: notice", "info", "detail"],
    ]
    assert not Console(quiet=True).shows_progress


def test_a_record_is_a_line_and_flushed(monkeypatch: pytest.MonkeyPatch) -> None:
    out, _ = redirect(monkeypatch, terminal=False)
    Console().record({"text": "é\n\x9b", "lone": None})
    assert out.raw_bytes.getvalue() == '{"text": "é\\n\x9b", "lone": null}\n'.encode()


def test_a_record_on_a_terminal_is_escaped_and_still_json(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, _ = redirect(monkeypatch, terminal=True)
    Console().record({"text": HOSTILE})
    assert not set(out.value()) & set("\x1b\x9b\x07\u202e")
    assert json.loads(out.value()) == {"text": HOSTILE}


def test_json_has_no_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json({"x": float("nan")})
    assert to_json({"x": "\udc80é"}) == '{"x": "\\udc80\\u00e9"}'


@pytest.mark.parametrize("method", ["write", "flush", "record"])
def test_row_02_a_full_disk_has_its_name(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    out, _ = redirect(monkeypatch, terminal=False)
    console = Console()
    out.write("buffered")
    out.raw_bytes.error = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(StorageError, match="No space left on device"):
        {"write": lambda: console.write("x"), "flush": console.flush}.get(
            method, lambda: console.record({})
        )()
    out.raw_bytes.error = None


def test_a_closed_pipe_is_left_to_the_boundary(monkeypatch: pytest.MonkeyPatch) -> None:
    out, _ = redirect(monkeypatch, terminal=False)
    out.raw_bytes.error = BrokenPipeError(errno.EPIPE, "Broken pipe")
    with pytest.raises(BrokenPipeError):
        Console().write("x")
    out.raw_bytes.error = None


@pytest.mark.parametrize("stderr", [None, "gone"])
def test_a_lost_stderr_is_nobodys_loss(monkeypatch: pytest.MonkeyPatch, stderr: str | None) -> None:
    _, err = redirect(monkeypatch, terminal=False)
    err.raw_bytes.error = OSError(errno.EIO, "Input/output error")
    if stderr is None:
        monkeypatch.setattr("sys.stderr", None)
    console = Console()
    console.error("x")
    console.notice("x")
    restore_terminal()
    err.raw_bytes.error = None


PIECES = st.lists(st.text(max_size=5), min_size=1, max_size=8)


def events(texts: list[str]) -> list[TokenEvent]:
    last = len(texts) - 1
    return [
        TokenEvent(index=0, text=text, token_id=1, finish_reason="length" if i == last else None)
        for i, text in enumerate(texts)
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=PIECES, end=st.sampled_from(["\n", "\0"]))
def test_the_stream_in_a_pipe_is_exact(
    monkeypatch: pytest.MonkeyPatch, pieces: list[str], end: str
) -> None:
    with monkeypatch.context() as patched:
        out, _ = redirect(patched, terminal=False)
        told = list(write_stream(Console(), events(pieces), prompt=None, end=end))
        assert out.raw_bytes.getvalue() == ("".join(pieces) + end).encode()
    assert told == events(pieces)


def test_the_stream_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt is dim, the text plain, controls are escaped, each sequence has its prompt."""
    out, _ = redirect(monkeypatch, terminal=True)
    stream = events(["one", "\x1b[2J"]) + events(["two"])
    for _ in write_stream(Console(), stream, prompt="Say\x07:", end="\n"):
        pass
    assert out.value() == "\x1b[2mSay\\x07:\x1b[0mone\\x1b[2J\n\x1b[2mSay\\x07:\x1b[0mtwo\n"


def test_tokens_are_tinted_by_surprisal_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    out, _ = redirect(monkeypatch, terminal=True)
    stream = [
        TokenEvent(index=0, text="likely", token_id=1, logprob=-0.1),
        TokenEvent(index=0, text="odd\n line", token_id=2, logprob=-9.0, finish_reason="length"),
    ]
    list(write_stream(Console(), stream, prompt=None, end="\n"))
    assert (
        out.value()
        == "likely\x1b[38;5;16;48;5;203modd\x1b[0m\n\x1b[38;5;16;48;5;203m line\x1b[0m\n"
    )
