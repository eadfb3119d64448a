"""Batches into files: killed, gone on with, refused where that would mix two things."""

from __future__ import annotations

import csv
import fcntl
import gzip
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result

from llmcli.cli.main import cli
from llmcli.io.formats import parquet_rows

ASKED = ("--jsonl", "--seed", "4", "-n", "4", "--temperature", "1", "--threads", "1")


def generate(model: Path, *args: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["generate", "-m", str(model), *args])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Fourteen prompts, one of which is none."""
    rows: list[dict[str, Any]] = [{"id": n, "prompt": f"the fox {n}"} for n in range(14)]
    rows[5] = {"id": 5, "prompt": 7}
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_row_09_a_torn_line_is_cut_off_and_redone(
    tiny_gpt2: Path, prompts: Path, tmp_path: Path
) -> None:
    """Cut anywhere, within a line or between two sequences of one record."""
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    asked = (*ASKED, "-i", str(prompts), "--num-return-sequences", "2")
    result = generate(tiny_gpt2, *asked, "-o", str(whole), code=4)
    assert "14 of 14 records, 1 errors" in result.stderr
    rows = rows_of(whole)
    twice = sorted([*range(14)] * 2)
    twice.remove(5)  # the error record has one line
    assert [row["record"] for row in rows] == twice
    assert [row["id"] for row in rows] == [row["record"] for row in rows]
    data = whole.read_bytes()
    for cut in (0, 1, len(data) // 3, len(data) // 2, data.rindex(b'{"id"'), len(data)):
        part.write_bytes(data[:cut])
        manifest = json.loads((tmp_path / "whole.jsonl.llmcli.json").read_text())
        (tmp_path / "part.jsonl.llmcli.json").write_text(json.dumps(manifest))
        generate(tiny_gpt2, *asked, "-o", str(part), "--resume", code=4)
        assert part.read_bytes() == data


def test_the_seed_that_was_drawn_is_gone_on_with(
    tiny_gpt2: Path, prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    asked = ("--jsonl", "-n", "3", "-i", str(prompts), "-o", str(out))
    generate(tiny_gpt2, *asked, code=4)
    data = out.read_bytes()
    out.write_bytes(data[: len(data) // 2])
    generate(tiny_gpt2, *asked, "--resume", code=4)
    assert out.read_bytes() == data


def test_row_08_kill_9_at_any_moment(tiny_gpt2: Path, prompts: Path, tmp_path: Path) -> None:
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    asked = (*ASKED, "-i", str(prompts))
    generate(tiny_gpt2, *asked, "-o", str(whole), code=4)
    command = [sys.executable, "-m", "llmcli", "generate", "-m", str(tiny_gpt2), *asked]
    command += ["-o", str(part), "--resume", "-q"]
    chance = random.Random(8)
    for _ in range(3):
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        wanted = chance.randrange(whole.stat().st_size)
        while process.poll() is None and not (part.exists() and part.stat().st_size >= wanted):
            time.sleep(0.002)
        process.kill()
        process.communicate()
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 4, done.stderr
    assert part.read_bytes() == whole.read_bytes()


def test_row_13_an_output_of_other_settings_is_not_gone_on_with(
    tiny_gpt2: Path, prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    asked = (*ASKED, "-i", str(prompts), "-o", str(out))
    generate(tiny_gpt2, *asked, code=4)
    data = out.read_bytes()
    assert "--resume" in generate(tiny_gpt2, *asked, code=2).stderr
    other = generate(tiny_gpt2, *asked, "--top-k", "3", "--resume", code=2)
    assert "sampling.top_k 0; this call has 3" in other.stderr
    with open(prompts, "a") as file:
        file.write('{"prompt": "one more"}\n')
    changed = generate(tiny_gpt2, *asked, "--resume", code=2)
    assert "was made with input" in changed.stderr
    assert out.read_bytes() == data
    generate(tiny_gpt2, *asked, "--overwrite", code=4)
    assert len(rows_of(out)) == 15


def test_row_12_two_runs_on_one_output(tiny_gpt2: Path, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    asked = (*ASKED, "-i", str(prompts), "-o", str(out))
    generate(tiny_gpt2, *asked, code=4)
    data = out.read_bytes()
    with open(out, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        for how in ("--resume", "--overwrite", "--retry-errors"):
            said = generate(tiny_gpt2, *asked, how, code=1).stderr
            assert "Another run is writing to" in said
    assert out.read_bytes() == data
    generate(tiny_gpt2, *asked, "--resume", code=4)


def test_error_records_are_made_again(tiny_gpt2: Path, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    asked = (*ASKED, "-i", str(prompts), "-o", str(out))
    generate(tiny_gpt2, *asked, code=4)
    rows = rows_of(out)
    # As if two more had failed for want of memory.
    failed = {n: {"record": n, "error": "x"} for n in (2, 9)}
    broken = [failed.get(row["record"], row) for row in rows]
    out.write_text("".join(json.dumps(row) + "\n" for row in broken))
    again = generate(tiny_gpt2, *asked, "--retry-errors", code=4)
    assert "1 of 3 records are error records" in again.stderr
    assert rows_of(out) == rows


def test_tables_of_all_formats(tiny_gpt2: Path, tmp_path: Path) -> None:
    texts = ["the fox", "a crow, and\ncheese", "é"]
    rows = [{"id": n, "weight": n / 4, "prompt": text} for n, text in enumerate(texts)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    with open(tmp_path / "p.tsv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "weight", "prompt"], delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "p.parquet")
    made = {}
    for name in ("p.jsonl.gz", "p.tsv", "p.parquet"):
        out = generate(tiny_gpt2, *ASKED, "-i", str(tmp_path / name)).stdout
        made[name] = [json.loads(line) for line in out.splitlines()]
    assert [row["text"] for row in made["p.tsv"]] == [row["text"] for row in made["p.parquet"]]
    assert made["p.jsonl.gz"] == made["p.parquet"]
    assert [row["weight"] for row in made["p.parquet"]] == [0.0, 0.25, 0.5]
    assert [row["weight"] for row in made["p.tsv"]] == ["0.0", "0.25", "0.5"]
    # And out again.
    target = tmp_path / "out.parquet"
    generate(tiny_gpt2, *ASKED, "-i", str(tmp_path / "p.parquet"), "-o", str(target))
    assert [row["text"] for row in parquet_rows(str(target))] == [
        row["text"] for row in made["p.parquet"]
    ]
    assert not (tmp_path / "out.parquet.partial.jsonl").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--resume", "x"], "--resume goes with --jsonl"),
        (["--jsonl", "--overwrite", "-i", "p"], "--overwrite is for a batch of rows into a file"),
        (["--format", "csv", "x"], "--format goes with --jsonl"),
        (["--jsonl", "--format", "parquet", "-"], "from a pipe"),
        (["--jsonl", "-o", "o", "--resume", "--overwrite", "-i", "p"], "exclude each other"),
        (["--jsonl", "-o", "none.jsonl", "--retry-errors", "--seed", "1", "{}"], "is not there"),
    ],
)
def test_what_is_wrong_with_the_call(tiny_gpt2: Path, args: list[str], words: str) -> None:
    assert words in generate(tiny_gpt2, *args, code=2).stderr
