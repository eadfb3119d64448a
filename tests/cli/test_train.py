"""``llmcli train`` as a shell sees it: processes, signals, pipes, bad calls."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from schemas import kind_of

from llmcli.cli.main import cli

SIZE = [
    *("--vocab-size", "300", "--layers", "1", "--heads", "2", "--width", "32"),
    *("--context", "32", "--batch-size", "4", "--precision", "float32"),
]
NO_HELD_OUT = ["--early-stopping", "1", "--validation", "0"]


@pytest.fixture(scope="module")
def tales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw = random.Random(0)
    who = ("the fox", "a crow", "the king", "three brothers")
    what = ("the dark wood", "a golden apple", "the river")
    text = " ".join(
        f"Once {draw.choice(who)} saw {draw.choice(what)}, and said nothing." for _ in range(400)
    )
    path = tmp_path_factory.mktemp("text") / "tales.txt"
    path.write_text(text, encoding="utf-8")
    return path


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "llmcli", "train", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def run(*arguments: str, input: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "llmcli", "train", *arguments],
        input=input,
        stdin=subprocess.DEVNULL if input is None else None,
        capture_output=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def saved_steps(folder: Path) -> list[int]:
    """The steps of the complete checkpoints."""
    complete = folder.glob("training/checkpoints/*/complete.json")
    return [int(path.parent.name.removeprefix("checkpoint-")) for path in complete]


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_pipe_gets_lines_and_stdout_the_result(tales: Path, tmp_path: Path) -> None:
    output = tmp_path / "model"
    notes = tmp_path / "notes.md"
    notes.write_text("Made for a test.")
    more = ["--max-steps", "20", "--json", "--card-notes", str(notes)]
    done = run(str(tales), "-o", str(output), *SIZE, *more)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert kind_of("train", done.stdout) == "Trained"
    assert record["steps"] == 20
    assert record["validation_bits_per_byte"] > 0
    lines = done.stderr.decode().splitlines()
    assert sum("bits/byte" in line for line in lines) == 1
    assert any("•" in line for line in lines)  # the curve
    assert "\x1b" not in done.stderr.decode()
    assert b"Warning" not in done.stderr
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"} <= {
        path.name for path in output.iterdir()
    }
    card = (output / "README.md").read_text()
    assert f"llmcli train {tales} -o {output}" in card
    assert "## Notes\n\nMade for a test.\n" in card


def test_stdin_and_records(tales: Path, tmp_path: Path) -> None:
    text = tales.read_text()
    half = len(text) // 2
    records = "".join(json.dumps({"text": part}) + "\n" for part in (text[:half], text[half:]))
    (tmp_path / "tales.jsonl").write_text(records)
    arguments = [*SIZE, "--max-steps", "2"]
    one = run("-", "-o", str(tmp_path / "one"), *arguments, input=text.encode())
    two = run(str(tmp_path / "tales.jsonl"), "-o", str(tmp_path / "two"), *arguments)
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    lengths = [
        len(json.loads((tmp_path / name / "training" / "data.json").read_text())["train"]["names"])
        for name in ("one", "two")
    ]
    assert lengths == [1, 2]


def test_kill_and_resume(tales: Path, tmp_path: Path) -> None:
    """After kill -9 the loss goes on where it stopped, over the same text."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    arguments = [str(tales), *SIZE, "--max-steps", "100", "--save-every", "0.0001s"]
    assert run(*arguments, "-o", str(whole)).returncode == 0
    process = start(*arguments, "-o", str(broken))
    # Old checkpoints are deleted: whichever is there, past the twelfth step.
    while max(saved_steps(broken), default=0) < 12:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert not (broken / "config.json").exists()
    done = run(*arguments, "-o", str(broken), "--resume")
    assert done.returncode == 0, done.stderr
    resumed = re.search(rb"Going on after step (\d+)", done.stderr)
    assert resumed, done.stderr
    expected = {record["step"]: record["loss"] for record in metrics(whole) if "loss" in record}
    found = {record["step"]: record["loss"] for record in metrics(broken) if "loss" in record}
    assert set(found) == set(expected)
    # A record is a mean over ten steps; the first after resuming is of those since then.
    comparable = [step for step in expected if step >= int(resumed[1]) + 10]
    assert comparable
    for step in comparable:
        assert found[step] == pytest.approx(expected[step], rel=1e-4)
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, broken))
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def test_ctrl_c_saves_and_says_how_to_go_on(tales: Path, tmp_path: Path) -> None:
    output = tmp_path / "model"
    arguments = [str(tales), "-o", str(output), *SIZE]
    process = start(*arguments, "--max-steps", "100000", "--evaluate-every", "0.2s")
    assert process.stderr is not None
    for line in process.stderr:
        if b"bits/byte" in line:
            break
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert b"--resume" in said
    saved = saved_steps(output)
    assert saved
    done = run(*arguments, "--max-steps", str(max(saved) + 2), "--resume")
    assert done.returncode == 0, done.stderr
    assert f"Going on after step {max(saved)}.".encode() in done.stderr


def bad_calls(folder: Path, model: str) -> Sequence[tuple[list[str], int, str]]:
    text = str(folder / "a.txt")
    return [
        ([text, "--width", "30", "--heads", "4"], 2, "not divisible by 4 heads"),
        ([text, "--learning-rate", "nan"], 2, "learning_rate is nan"),
        ([text, "--max-time", "soon"], 2, "is no duration"),
        ([text, "--lora"], 2, "none is named"),
        ([text, "--merge"], 2, "Use it with --lora"),
        ([text, "--optimizer", "sgd"], 2, "'sgd'"),
        ([], 2, "Missing argument"),
        ([str(folder / "missing.txt")], 2, "does not exist"),
        ([str(folder / "empty.txt")], 2, "corpus is empty"),
        ([str(folder / "latin1.txt")], 2, "byte 0xe9 at offset 3"),
        ([text, "--vocab-size", "9999"], 2, "not 9999"),
        ([text, "--vocab-size", "260"], 2, "less than one context"),
        ([text, "-m", str(folder / "nothing")], 1, "nothing"),
        ([text, "-m", model, "--context", "65"], 2, "looks at 64 tokens"),
        ([text, "-m", model, "--layers", "2"], 2, "--layers is the size of a new model"),
        ([text, "-m", model, "--vocab-size", "300"], 2, "Leave out --vocab-size, or -m"),
        (
            [text, "--vocab-size", "260", "--context", "16", "--sample-prompt", "x " * 40],
            2,
            "The sample prompt has",
        ),
        ([text, "--resume"], 2, "no run to resume"),
        ([text, "--card-notes", str(folder / "none.md")], 2, "does not exist"),
        ([text, "--card-notes", str(folder / "latin1.txt")], 2, "byte 0xe9 at offset 3"),
        ([text, "--vocab-size", "260", *NO_HELD_OUT], 2, "needs held-out text"),
    ]


@pytest.mark.parametrize("number", range(21))
def test_bad_calls(tmp_path: Path, tiny_gpt2: Path, number: int) -> None:
    (tmp_path / "a.txt").write_text("A short tale of a fox and a crow. " * 4)
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin1.txt").write_bytes("café".encode("latin-1"))
    calls = bad_calls(tmp_path, str(tiny_gpt2))
    assert len(calls) == 21
    arguments, code, says = calls[number]
    done = CliRunner().invoke(cli, ["train", *arguments, "-o", str(tmp_path / "model")])
    assert done.exit_code == code, done.stderr
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("Error: ")
    assert done.stdout == ""
    assert not (tmp_path / "model").exists(), "a run that fails leaves nothing behind"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from llmcli.cli.train import train\n"
        "result = CliRunner().invoke(train, ['--help'])\n"
        "assert result.exit_code == 0 and 'Examples:' in result.output, result.output\n"
        "loaded = {'torch', 'transformers', 'numpy', 'tokenizers', 'rich'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
