"""llmcli log: off by default, private, searched, and made again."""

from __future__ import annotations

import json
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from schemas import kind_of

from llmcli.cli.log import open_log
from llmcli.cli.main import cli
from llmcli.io.generation_log import GenerationLog

Run = Callable[..., Result]


@pytest.fixture
def run(tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr("click.get_app_dir", lambda name: str(tmp_path / name))

    def call(*args: str, code: int = 0, input: str | None = None) -> Result:
        named = ["-m", str(tiny_gpt2), "--threads", "1"] if args[0] == "generate" else []
        result = CliRunner().invoke(cli, [args[0], *named, *args[1:]], input=input)
        assert result.exit_code == code, result.stderr
        return result

    return call


def rows(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_nothing_is_kept_before_it_is_asked_for(run: Run) -> None:
    run("generate", "-n", "2", "--seed", "1", "The fox")
    assert not open_log().path.exists()
    assert "Nothing is in the log" in run("log", "list").stderr
    run("log", "on")
    run("log", "off")
    run("generate", "-n", "2", "--seed", "1", "The fox")
    assert rows(run("log", "list", "--json")) == []


def test_kept_found_and_made_again(run: Run) -> None:
    run("log", "on")
    assert stat.S_IMODE(open_log().path.stat().st_mode) == 0o600
    shown = run("generate", "-n", "5", "--seed", "1", "The fox said").stdout
    asked = ("--num-return-sequences", "2", "--logit-bias", "the=-inf", "--stop", "zz")
    run("generate", "-n", "4", "--seed", "2", *asked, "A crow")
    found = rows(run("log", "list", "--json"))
    assert [each["id"] for each in found] == [3, 2, 1]
    assert found[-1]["prompt"] == "The fox said"
    assert found[-1]["text"] + "\n" == shown
    assert [each["id"] for each in rows(run("log", "search", "fox", "--json"))] == [1]
    assert [each["id"] for each in rows(run("log", "export"))] == [1, 2, 3]
    assert "The fox said" in run("log", "list").stdout
    assert run("log", "show", "1").stdout.endswith(f"The fox said{shown}")
    for number in (1, 2, 3):
        assert "The same " in run("log", "replay", str(number), "--threads", "1").stdout
    assert json.loads(run("log", "path", "--json").stdout)["on"] is True


def test_the_first_token_that_differs(run: Run) -> None:
    run("log", "on")
    run("generate", "-n", "5", "--seed", "1", "The fox said")
    record = json.loads(run("log", "show", "1", "--json").stdout)
    again = run("replay", "--threads", "1", "--json", input=json.dumps(record)).stdout
    assert json.loads(again) == {"same_tokens": 5}
    assert kind_of("replay", again) == "Replayed"
    record["token_ids"][2] = (record["token_ids"][2] + 1) % 300
    said = run("replay", "--threads", "1", input=json.dumps(record), code=3).stderr
    assert "Error: Token 3 is " in said
    record["token_ids"] = [*record["token_ids"][:2], 1, 2, 3, 4, 5, 6]
    run("replay", "--threads", "1", input=json.dumps(record), code=3)


@pytest.mark.parametrize(
    ("args", "input", "says"),
    [
        (("log", "show", "7"), None, "The log has no generation 7."),
        (("log", "search", '"open'), None, "is not one"),
        (("replay",), "nonsense", "stdin is not JSON"),
        (("replay",), "[]", "stdin is no record"),
    ],
)
def test_what_cannot_be(run: Run, args: tuple[str, ...], input: str | None, says: str) -> None:
    run("log", "on")
    assert says in run(*args, input=input, code=2).stderr


def test_a_record_that_is_none_of_the_logs(run: Run, tiny_gpt2: Path) -> None:
    said = run("replay", "-m", str(tiny_gpt2), input='{"prompt": "x"}', code=2).stderr
    assert "The record has no token_ids" in said


def test_a_damaged_database(tmp_path: Path, run: Run) -> None:
    open_log().path.parent.mkdir(parents=True)
    open_log().path.write_bytes(b"no database" * 100)
    assert "cannot be used" in run("log", "list", code=1).stderr
    assert "cannot be used" in run("generate", "-n", "1", "x", code=1).stderr


def test_two_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    record = {"model": "m", "prompt": "p", "text": "t"}
    first, second = GenerationLog(path), GenerationLog(path)
    assert [first.add(record), second.add(record), first.add(record)] == [1, 2, 3]
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT count(*) FROM generations").fetchone() == (3,)
    database.close()
