"""llmcli generate --jsonl: a prompt a line in, a continuation a line out."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from kernel_levels import without_notices

from llmcli.cli.main import cli
from llmcli.engine.transformers_decoder import TransformersDecoder
from llmcli.models.language_model import LanguageModel

LINES = "\n".join(
    [
        '{"id": "a", "prompt": "Once upon a time", "tags": ["x", null], "page": 7}',
        "",
        '{"id": 2, "prompt": ',
        '{"id": 3, "text": "no prompt"}',
        '"The fox"',
        '{"id": 5, "prompt": ""}',
        '{"id": 6, "prompt": "\\ud800"}',
        json.dumps({"id": 7, "prompt": "," * 70}),
        '{"id": 8, "prompt": "said to the crow", "text": "replaced"}',
    ]
)


def generate(model: Path, *args: str, input: str | bytes = "", code: int = 0) -> Result:
    arguments = ["generate", "-m", str(model), "--threads", "1", "--jsonl", *args]
    result = CliRunner().invoke(cli, arguments, input=input)
    assert result.exit_code == code, result.stderr
    return result


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_records_in_their_order_with_all_that_they_brought(tiny_gpt2: Path) -> None:
    result = generate(tiny_gpt2, "-n", "6", "--seed", "3", input=LINES, code=4)
    records = objects(result.stdout)
    assert [record.get("id") for record in records] == ["a", None, 3, None, 5, 6, 7, 8]
    assert (records[0]["tags"], records[0]["page"]) == (["x", None], 7)
    assert records[0]["prompt"] == "Once upon a time"
    assert records[3]["prompt"] == "The fox"
    assert records[7]["text"] != "replaced"
    errors = {place: record["error"] for place, record in enumerate(records) if "error" in record}
    assert list(errors) == [1, 2, 4, 5, 6]
    assert errors[1].startswith("Line 3 of stdin is not JSON: ")
    assert errors[2].startswith("Line 4 of stdin has no text in the field 'prompt'.")
    assert errors[4].startswith("Line 6 of stdin: The prompt is empty. Give some text")
    assert errors[5].startswith("Line 7 of stdin: ")
    assert errors[6].startswith("Line 8 of stdin: The prompt has 70 tokens; the context holds 64")
    assert [record["record"] for record in records] == list(range(8))
    assert records[2] == {"id": 3, "text": "no prompt", "record": 2, "error": errors[2]}
    assert result.stderr == (
        "Error: 5 of 8 records are error records. Look for the field 'error' in the output.\n"
    )
    for size in ("2", "7", "32"):
        asked = ["-n", "6", "--seed", "3", "--batch-size", size]
        assert generate(tiny_gpt2, *asked, input=LINES, code=4).stdout == result.stdout


def test_the_first_record_is_what_the_prompt_alone_gives(tiny_gpt2: Path) -> None:
    asked = ["-m", str(tiny_gpt2), "-n", "6", "--seed", "3", "--json", "--logprobs", "2"]
    alone = CliRunner().invoke(cli, ["generate", *asked, "Once upon a time"])
    [record] = objects(generate(tiny_gpt2, *asked[2:], '{"prompt": "Once upon a time"}').stdout)
    assert (record.pop("prompt"), record.pop("record")) == ("Once upon a time", 0)
    assert objects(alone.stdout) == [record]


def test_several_sequences_a_record(tiny_gpt2: Path) -> None:
    lines = '{"q": "the fox", "n": 1}\n{"q": "the crow", "n": 2}\n'
    asked = ["--field", "q", "-n", "4", "--seed", "1", "--num-return-sequences", "3"]
    alone = generate(tiny_gpt2, *asked, input=lines).stdout
    records = objects(alone)
    assert [(r["n"], r["index"]) for r in records] == [(n, i) for n in (1, 2) for i in range(3)]
    assert len({record["text"] for record in records}) == 6
    for size in ("2", "4", "6"):
        assert generate(tiny_gpt2, *asked, "--batch-size", size, input=lines).stdout == alone


def test_sequences_of_one_prompt_at_once(tiny_gpt2: Path) -> None:
    asked = ["generate", "-m", str(tiny_gpt2), "-n", "9", "--seed", "1", "the fox"]
    asked += ["--num-return-sequences", "5", "--threads", "1"]
    plain = CliRunner().invoke(cli, asked)
    together = CliRunner().invoke(cli, [*asked, "--batch-size", "3"])
    assert together.stdout_bytes == plain.stdout_bytes != b""
    assert without_notices(together.stderr) == ""


def test_files_echo_output_and_statistics(tiny_gpt2: Path, tmp_path: Path) -> None:
    for name, text in (("a", "the fox"), ("b", "the crow")):
        (tmp_path / name).write_text(json.dumps({"id": name, "prompt": text}))
    files = ["-i", str(tmp_path / "a"), "-i", str(tmp_path / "b"), "-n", "3", "--seed", "1"]
    shown = generate(tiny_gpt2, *files, "--echo", "--batch-size", "2", "--stats")
    assert [r["text"].startswith(r["prompt"]) for r in objects(shown.stdout)] == [True, True]
    prompt_tokens = sum(record["prompt_tokens"] for record in objects(shown.stdout))
    assert without_notices(shown.stderr).startswith(
        f"{prompt_tokens} prompt tokens, 6 new tokens, "
    )
    out = tmp_path / "out.jsonl"
    assert generate(tiny_gpt2, *files, "--echo", "-o", str(out)).stdout == ""
    assert out.read_text() == shown.stdout


def test_a_file_that_is_missing_comes_after_what_was_there(tiny_gpt2: Path, tmp_path: Path) -> None:
    (tmp_path / "a").write_text('{"prompt": "the fox"}')
    files = ["-i", str(tmp_path / "a"), "-i", str(tmp_path / "missing"), "-n", "3", "--seed", "1"]
    result = generate(tiny_gpt2, *files, "--batch-size", "8", code=2)
    assert len(objects(result.stdout)) == 1
    said = without_notices(result.stderr)
    assert said.startswith(f"Error: Cannot read {tmp_path / 'missing'}: No such file")


def test_what_is_wrong_with_the_call(tiny_gpt2: Path) -> None:
    assert "one argument" in generate(tiny_gpt2, "a", "b", code=2).stderr
    assert "--batch-size" in generate(tiny_gpt2, "--batch-size", "0", "{}", code=2).stderr
    for flag in ("-0", "--keep-newline"):
        refused = generate(tiny_gpt2, flag, "{}", code=2)
        assert refused.stderr.startswith(f"Error: {flag} does not go with --jsonl.")


@pytest.mark.parametrize("args", [["--field", "q", "x"], ["-0", "--json", "x"]])
def test_what_would_do_nothing_without_a_batch_is_refused(tiny_gpt2: Path, args: list[str]) -> None:
    result = CliRunner().invoke(cli, ["generate", "-m", str(tiny_gpt2), *args])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Error: {args[0]} ")


def test_bytes_that_are_not_utf8_in_a_record(tiny_gpt2: Path) -> None:
    line = b'{"prompt": "the caf\xe9"}\n'
    asked = ["-n", "2", "--seed", "1"]
    [record] = objects(generate(tiny_gpt2, *asked, input=line, code=4).stdout)
    assert record["error"].startswith("Line 1 of stdin is not valid UTF-8: byte 0xe9 at offset 19.")
    [record] = objects(generate(tiny_gpt2, *asked, "--errors", "replace", input=line).stdout)
    assert record["prompt"] == "the caf\ufffd"
    assert record["completion_tokens"] == 2


def test_what_cannot_go_together_is_told_once(
    tiny_gpt2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of a decoder that rounds several differently from one are decoded alone."""
    monkeypatch.setattr(
        LanguageModel,
        "decoder",
        lambda self: TransformersDecoder(self.module, n_positions=self.n_positions),
    )
    lines = '{"prompt": "the fox"}\n' * 3
    asked = ["-n", "3", "--seed", "1"]
    alone = generate(tiny_gpt2, *asked, input=lines)
    together = generate(tiny_gpt2, *asked, "--batch-size", "3", input=lines)
    assert together.stdout == alone.stdout
    assert together.stderr.startswith("Warning: Continuations are decoded one at a time: several ")
    assert together.stderr.count("\n") == 1


# -- the installed command in its own process ------------------------------------------------


def started(model: Path, *args: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "llmcli", "generate", "-m", str(model), "--jsonl", *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def test_a_record_is_answered_as_soon_as_it_is_there_and_ctrl_c_ends_the_waiting(
    tiny_gpt2: Path,
) -> None:
    """As from ``tail -f``: the pipe stays open all the while."""
    with started(tiny_gpt2, "-n", "3", "--seed", "1") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(3):
            process.stdin.write(b'{"id": %d, "prompt": "the fox"}\n{"id"' % number)
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["id"] == number
            process.stdin.write(b': "%d, too", "prompt": "the crow"}\n' % number)
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["id"] == f"{number}, too"
        process.send_signal(signal.SIGINT)
        process.stdin.flush()
        out, err = process.stdout.read(), process.stderr.read()  # type: ignore[union-attr]
        assert (process.wait(120), out, err) == (130, b"", b"")


@pytest.mark.parametrize("end", ["interrupt", "terminate", "reader"])
def test_a_batch_that_is_ended_leaves_whole_records(
    tiny_gpt2: Path, tmp_path: Path, end: str
) -> None:
    """What was made is there: after Ctrl-C also what is not finished, which says so."""
    prompts = tmp_path / "prompts.jsonl"  # more of them than there is time for
    prompts.write_bytes(b"".join(b'{"id": %d, "prompt": "the fox"}\n' % i for i in range(200_000)))
    asked = ["-n", "max", "--ignore-eos", "--seed", "1", "--batch-size", "8", "-i", str(prompts)]
    with started(tiny_gpt2, *asked) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first, rest = process.stdout.readline(), b""
        if end == "reader":
            process.stdout.close()
        else:
            process.send_signal(signal.SIGINT if end == "interrupt" else signal.SIGTERM)
            rest = process.stdout.read()
        err = without_notices(process.stderr.read())
        status = process.wait(120)
    assert (status, err) == ({"interrupt": 130, "terminate": 143, "reader": 141}[end], b"")
    records = objects((first + rest).decode())
    assert [record["id"] for record in records] == list(range(len(records)))
    reasons = [record["finish_reason"] for record in records]
    done = reasons.count("context")
    assert reasons == ["context"] * done + ["interrupted"] * (len(reasons) - done)
    assert len(reasons) - done <= 8
