"""``llmcli train`` in two processes, however they are started, is one with twice the batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from llmcli.cli.main import cli

SIZE = [
    *("--vocab-size", "300", "--layers", "1", "--heads", "2", "--width", "32"),
    *("--context", "32", "--precision", "float32", "--max-steps", "8"),
]
LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "llmcli"],
    # Without a GPU, accelerate starts several processes only when told that there are several.
    "accelerate": [
        *("accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_processes", "2"),
        *("--main_process_port", "0", "-m", "llmcli"),
    ],
}


def run(*arguments: str, launcher: str | None = None) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(
        [
            *(sys.executable, "-m", *(LAUNCHERS[launcher] if launcher else ["llmcli"])),
            *("train", *arguments),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done


def losses(folder: Path) -> list[float]:
    """The training loss, then the validation loss, of the last step."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [record.get("loss") or record["validation_loss"] for record in records]


@pytest.fixture(scope="module")
def one(tales: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a run of one process with a batch of 4, by optimizer."""
    runs: dict[str, Path] = {}

    def trained(optimizer: str) -> Path:
        if optimizer not in runs:
            folder = tmp_path_factory.mktemp("one") / "model"
            arguments = [str(tales), "-o", str(folder), *SIZE, "--optimizer", optimizer]
            run(*arguments, "--batch-size", "4")
            runs[optimizer] = folder
        return runs[optimizer]

    return trained


@pytest.mark.parametrize(
    ("optimizer", "launcher"),
    [("adamw", None), ("muon", None), ("adamw", "torchrun"), ("adamw", "accelerate")],
)
def test_two_processes_are_one_with_twice_the_batch(
    tales: Path,
    tmp_path: Path,
    one: Callable[[str], Path],
    optimizer: str,
    launcher: str | None,
) -> None:
    """To 1e-3 of a weight after 8 steps in float32: only the order of sums differs."""
    folder = tmp_path / "two"
    arguments = [str(tales), "-o", str(folder), *SIZE, "--optimizer", optimizer]
    ours = [] if launcher else ["--processes", "2"]
    done = run(*arguments, "--batch-size", "2", *ours, launcher=launcher)
    assert done.stdout.count(b"8 steps") == 1  # one of the processes speaks
    assert b"[transformers]" not in done.stderr
    assert "in 2 processes on" in (folder / "README.md").read_text().replace("\n", " ")
    left, right = (load_file(each / "model.safetensors") for each in (one(optimizer), folder))
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        if name.endswith("c_attn.bias"):
            continue  # a key's bias has no gradient but rounding, which Adam makes large
        torch.testing.assert_close(right[name], tensor, rtol=1e-3, atol=1e-3, msg=name)
    expected = losses(one(optimizer))
    assert len(expected) == 2
    assert losses(folder) == pytest.approx(expected, rel=1e-3)


def test_one_process_of_accelerate_says_so(tmp_path: Path) -> None:
    """On a processor its --num_processes alone starts one, without a word."""
    arguments = ["train", str(tmp_path / "missing.txt"), "-o", str(tmp_path / "m")]
    for environment, says in (({}, 0), ({"ACCELERATE_USE_CPU": "False"}, 1)):
        done = CliRunner().invoke(cli, arguments, env=environment)
        assert done.stderr.count("started one process") == says
