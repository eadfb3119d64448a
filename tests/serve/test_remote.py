"""``--server``: the commands over a running server say what they say by themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from schemas import kind_of
from servers import Server, Start

from llmcli.cli.main import cli

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def server(start_server: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text("a-key\n")
    with start_server("--api-key-file", str(keys), "--template", "plain") as server:
        yield server


@pytest.fixture
def both(server: Server, caches: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run a command here, and over the server; both results."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(caches))
    key = tmp_path / "key"
    key.write_text("a-key\n")

    def run(command: str, *args: str, input: str | None = None) -> tuple[Result, Result]:
        here = invoke(command, "-m", "fable", *args, input=input)
        monkeypatch.setenv("LLMCLI_SERVER", server.url)
        there = invoke(command, "--api-key-file", str(key), *args, input=input)
        monkeypatch.delenv("LLMCLI_SERVER")
        return here, there

    return run


def invoke(*args: str, input: str | None = None) -> Result:
    return CliRunner().invoke(cli, args, input=input)


@pytest.mark.parametrize(
    "args",
    [
        ["--seed", "1"],
        ["-n", "30", "--greedy", "--echo"],
        ["-n", "20", "--seed", "2", "--num-return-sequences", "3", "-0"],
        ["-n", "25", "--seed", "3", "--stop", " the", "--keep-stop", "--top-k", "50"],
        ["-n", "12", "--seed", "4", "--heal", "--logit-bias", " king=3", "--logit-bias", "12=-9"],
        ["-n", "40", "--seed", "5", "--overflow", "left", "--min-p", "0.2"],
    ],
    ids=" ".join,
)
def test_the_same_text(both: Any, args: list[str]) -> None:
    here, there = both("generate", *args, PROMPT)
    assert here.exit_code == there.exit_code == 0, there.stderr
    assert there.stdout == here.stdout
    assert len(here.stdout) > 3


def test_the_same_record(both: Any) -> None:
    args = ("--json", "-n", "9", "--seed", "7", "--logprobs", "2", "--num-return-sequences", "2")
    here, there = both("generate", *args, PROMPT)
    assert there.stdout == here.stdout
    first, second = map(json.loads, here.stdout.splitlines())
    assert (first["index"], second["index"]) == (0, 1)


def test_the_same_distribution(both: Any) -> None:
    for args in (("--json",), ("-n", "4", "--temperature", "0.5", "--logit-bias", " king=2")):
        here, there = both("next", *args, PROMPT)
        assert there.exit_code == 0, there.stderr
        assert there.stdout == here.stdout


def test_the_same_score(both: Any) -> None:
    text = "The fox said to the crow: give me the cheese."
    for args in (("-q",), ("--convention", "hf", "-q")):
        here, there = both("score", *args, text)
        assert there.exit_code == 0, there.stderr
        assert there.stdout == here.stdout
    here, there = both("score", "--json", text)
    ours, theirs = (json.loads(each.stdout) for each in (here, there))
    assert [theirs[name] for name in ours if "second" not in name] == [
        ours[name] for name in ours if "second" not in name
    ]
    _, gate = both("score", "--max-ppl", "1.5", text)
    assert gate.exit_code == 3


def test_the_same_answer(both: Any, tmp_path: Path) -> None:
    """To the first message and, with the seed's next numbers, to a later one."""
    asked = ("--seed", "5", "-n", "20", "--temperature", "0.9", "--system", "You tell tales.")
    here, _ = both("chat", "--template", "plain", *asked, "Tell me of a fox.")
    _, there = both("chat", *asked, "Tell me of a fox.")
    assert there.exit_code == 0, there.stderr
    assert there.stdout == here.stdout
    here, _ = both("chat", "--template", "plain", "--json", *asked, "And a crow?")
    _, there = both("chat", "--json", *asked, "And a crow?")
    ours, theirs = (json.loads(each.stdout) for each in (here, there))
    assert theirs["content"] == ours["content"]
    assert kind_of("chat", there.stdout) == "Answer"
    assert {**theirs, "template": "", "sampling": ""} == {**ours, "template": "", "sampling": ""}


def test_what_does_not_go(server: Server, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("a-key\n")
    there = ("--server", server.url, "--api-key-file", str(key))
    for command, args, words in (
        ("generate", [*there, "--draft", "ngram"], "--draft does not go with --server"),
        ("generate", [*there, "-m", "gpt2"], "There is no model 'gpt2' here"),
        ("generate", [*there, "--logit-bias", "the king is dead=1"], "tokens"),
        ("generate", ["--server", server.url], "Pass --api-key-file"),
        ("generate", ["--server", "http://127.0.0.1:9"], "Cannot reach http://127.0.0.1:9"),
        ("generate", ["--server", "nowhere"], "Cannot reach nowhere"),
        ("score", [*there, "--tokens"], "--tokens does not go with --server"),
        ("next", [*there, "--precision", "int8"], "--precision does not go with --server"),
    ):
        result = invoke(command, *args, PROMPT)
        assert result.exit_code in (1, 2), result.output
        assert words in result.stderr
