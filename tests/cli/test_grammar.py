"""Constrained output at the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from llmcli.cli.main import cli

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def run(*args: str, input: str | None = None, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, [*args, "-m", "fable", "--seed", "3"], input=input)
    assert result.exit_code == code, result.output
    return result


def test_json(tmp_path: Path) -> None:
    file = tmp_path / "person.json"
    file.write_text(json.dumps(PERSON))
    text = run("generate", "--json-schema", str(file), "-n", "40", "The king:").stdout
    assert set(json.loads(text)) == {"name", "age"}
    assert text == json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False) + "\n"
    assert (
        run("generate", "--json-schema", json.dumps(PERSON), "-n", "40", "The king:").stdout == text
    )


def test_a_record_says_how_much_was_allowed() -> None:
    asked = ["--choice", " yes", "--choice", r" no\n", "--json", "--logprobs", "0"]
    record = json.loads(run("generate", *asked, "Is it true?").stdout)
    assert record["text"] in (" yes", " no\n")
    assert record["finish_reason"] == "grammar"
    assert record["sampling"]["grammar"]["kind"] == "choice"
    for token in record["tokens"]:
        assert token["logprob"] <= token["sampled_logprob"] <= 0
        assert 0 < token["allowed_mass"] <= 1


def test_batches_and_chat(tmp_path: Path) -> None:
    prompts = "".join(json.dumps({"prompt": each}) + "\n" for each in ("one", "two", "three"))
    asked = ["generate", "--regex", "[A-Z][a-z]{2,9}", "-n", "9", "--jsonl"]
    result = run(*asked, "--num-return-sequences", "2", input=prompts)
    texts = [json.loads(line)["text"] for line in result.stdout.splitlines()]
    assert len(texts) == 6
    assert all(each.isalpha() and each.istitle() for each in texts)
    alone = run(*asked, "--num-return-sequences", "2", "--batch-size", "1", input=prompts)
    assert alone.stdout == result.stdout
    grammar = tmp_path / "answer.lark"
    grammar.write_text('start: ("yes" | "no") ", my " ("lord" | "lady")\n')
    said = run("chat", "--template", "story", "--grammar", str(grammar), "Is it?").stdout
    assert said in {f"{a}, my {b}\n" for a in ("yes", "no") for b in ("lord", "lady")}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--json-schema", '{"uniqueItems": true}'], "'uniqueItems', which is not supported"),
        (["--json-schema", "{"], "is no JSON"),
        (["--json-schema", "/nowhere"], "Cannot read /nowhere"),
        (["--regex", "(a"], "unclosed group"),
        (["--regex", "[a-z]{400}", "-n", "3"], "there is room for 3"),
        (["--choice", ""], "has no text"),
        (["--choice", "a", "--regex", "b"], "exclude each other"),
        (["--choice", "a", "--stop", "b"], "--stop does not work with --choice"),
        (["--choice", "a", "--num-beams", "2"], "does not work with beam search"),
        (["--choice", "a", "--heal"], "Healing does not work with a grammar"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_one_line_says_what_is_wrong(args: list[str], message: str) -> None:
    result = run("generate", *args, "The king", code=2)
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not result.stdout


def test_a_schema_of_ten_megabytes(tmp_path: Path) -> None:
    file = tmp_path / "large.json"
    file.write_text('{"enum": [' + "1," * 5_000_000 + "1]}")
    result = run("generate", "--json-schema", str(file), "The king", code=2)
    assert "10,000,013 characters" in result.stderr


def test_the_package_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    result = run("generate", "--choice", "a", "The king", code=1)
    assert "A grammar needs packages that are not installed. Run: " in result.stderr
    assert "llguidance" in result.stderr or "llmcli[grammar]" in result.stderr
