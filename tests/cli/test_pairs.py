"""llmcli pairs as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from click.testing import CliRunner, Result

from llmcli.api import load
from llmcli.cli.main import cli
from llmcli.hub.reference import bundled_models
from llmcli.scoring.calibration import wilson

ROWS = [
    ("The fox is hungry.", "The fox are hungry.", "agreement"),
    ("The foxes are hungry.", "The foxes is hungry.", "agreement"),
    ("She saw herself.", "She saw himself.", "anaphora"),
    ("The same.", "The same.", "anaphora"),
    ("The fox are hungry.", "The fox is hungry.", "agreement"),
]


def run(model: Path | str, *args: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["pairs", "-m", str(model), "--threads", "1", *args])
    assert result.exit_code == code, result.stderr
    return result


@pytest.fixture(scope="module")
def blimp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [{"sentence_good": a, "sentence_bad": b, "UID": uid} for a, b, uid in ROWS]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.skipif("fable" not in bundled_models(), reason="the bundled model is not there")
def test_the_bundled_model_equals_a_plain_loop(blimp: Path) -> None:
    library: Any = transformers
    model = load("fable")
    module = library.AutoModelForCausalLM.from_pretrained(
        str(model.folder), dtype=torch.float32
    ).eval()

    def likelihood(text: str) -> float:
        ids = [model.tokenizer.eos_id or 0, *model.tokenizer.ids(text)]
        with torch.no_grad():
            rows = torch.log_softmax(module(torch.tensor([ids[:-1]])).logits[0].double(), 1)
        return float(rows.gather(1, torch.tensor(ids[1:])[:, None]).sum())

    ratios = [likelihood(good) - likelihood(bad) for good, bad, _ in ROWS]
    found = json.loads(run("fable", "--json", "--by", "UID", str(blimp)).stdout)
    wins = sum(each > 0 for each in ratios)
    assert (found["pairs"], found["ties"], found["share"]) == (5, 1, wins / 5)
    assert found["log_ratio"] == pytest.approx(sum(ratios) / 5, abs=1e-3)
    spread = torch.tensor(ratios).std() / 5**0.5
    assert found["log_ratio_error"] == pytest.approx(float(spread), abs=1e-3)
    assert found["share_interval"] == pytest.approx(wilson(wins, 5))
    names = [each["group"] for each in found["groups"]]
    assert names == ["agreement", "anaphora"]
    agreement = [ratio for ratio, row in zip(ratios, ROWS, strict=True) if row[2] == "agreement"]
    assert found["groups"][0]["log_ratio"] == pytest.approx(sum(agreement) / 3, abs=1e-3)
    assert (found["groups"][1]["ties"], found["bos"]) == (1, True)


def test_crows_pairs_csv_and_its_table(tiny_gpt2: Path, tmp_path: Path) -> None:
    file = tmp_path / "crows.csv"
    file.write_text(
        ',sent_more,sent_less,stereo_antistereo,bias_type\n0,"A, b","A, c",stereo,age\n'
        "1,The fox,A fox,antistereo,race-color\n"
    )
    args = ["--good", "sent_less", "--bad", "sent_more", str(file)]
    found = json.loads(run(tiny_gpt2, "--json", *args).stdout)
    assert (found["pairs"], found["groups"]) == (2, [])
    lines = run(tiny_gpt2, "--by", "bias_type", *args).stdout.splitlines()
    assert any("race-color" in line for line in lines)
    assert all(len(line) <= 80 for line in lines)
    assert float(run(tiny_gpt2, "-q", *args).stdout) == found["share"]


def test_records_without_a_pair(tiny_gpt2: Path, blimp: Path, tmp_path: Path) -> None:
    file = tmp_path / "broken.jsonl"
    file.write_text(blimp.read_text() + '{"sentence_good": "x"}\nnot JSON\n{"sentence_bad": "x"}\n')
    result = run(tiny_gpt2, "--json", str(file), code=4)
    found = json.loads(result.stdout)
    assert (found["pairs"], found["errors"]) == (5, 3)
    assert "Line 6" in result.stderr
    assert "'sentence_bad'" in result.stderr
    assert "3 of 8 records have no pair" in result.stderr
    assert "Name the fields" in run(tiny_gpt2, "--good", "x", str(blimp), code=2).stderr
    grouped = run(tiny_gpt2, "--by", "nothing", str(blimp), code=2).stderr
    assert "has no field 'nothing'" in grouped
