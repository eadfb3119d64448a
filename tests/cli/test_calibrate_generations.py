"""llmcli calibrate --generations as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from llmcli.cli.main import cli
from llmcli.hub.reference import bundled_models

TEXT = "The fox said to the crow: give me the cheese, and naïve café 東京. " * 12
STORY = (
    "Once upon a time there was a little girl who lived in the wood with her mother, and every "
    "day she went to the well to fetch water. One morning, as she came to the well, she saw a fox "
    "that sat upon the stone and looked at her. “Good morning,” said the fox, “will you give me "
    "something to eat? I have not eaten since yesterday.” The little girl was a kind child, and "
    "she gave him half of her bread. “Because you were kind to me,” said he, “I will tell you "
    "where the golden apple lies.” And so she went with him, over the hill and through the river."
)
SMALL = ["--generations", "--samples", "4", "--length", "20", "--prompt-tokens", "8", "--seed", "1"]


def run(model: Path, *args: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["calibrate", "-m", str(model), "--threads", "1", *args])
    assert result.exit_code == code, result.stderr
    return result


def test_against_held_out_text(tiny_gpt2: Path) -> None:
    args = [*SMALL, "--length", "55", "--json", "--temperature", "0.8", TEXT]
    found = json.loads(run(tiny_gpt2, *args).stdout)
    (block,) = found["blocks"]
    assert (block["begin"], block["end"], found["samples"]) == (0, 55, 4)
    assert block == {**found["overall"]}
    assert block["entce"] == pytest.approx(block["sampling_entropy"] - block["text_nll"])
    assert block["sampling_entropy"] < block["entropy"]
    low, high = block["entce_interval"]
    assert low < block["entce"] < high
    assert found["sampling"]["temperature"] == 0.8
    assert json.loads(run(tiny_gpt2, *args).stdout) == found
    quiet = run(tiny_gpt2, *[each for each in args if each != "--json"], "-q").stdout
    assert float(quiet) == pytest.approx(block["entce"], rel=1e-4)


def test_prompts_of_records_and_of_nothing(tiny_gpt2: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "The fox", "continuation": " said to the crow"}\n{"prompt": "A"}\n')
    args = [*SMALL[:5], "--seed", "1", "--json"]
    found = json.loads(run(tiny_gpt2, *args, "--jsonl", "-i", str(file)).stdout)
    assert (found["prompts"], found["texts"]) == (2, 1)
    assert found["blocks"][0]["text_nll"] > 0
    bare = json.loads(run(tiny_gpt2, *args).stdout)
    assert bare["blocks"][0]["text_nll"] is bare["overall"]["entce"] is bare["match"] is None


@pytest.mark.skipif("fable" not in bundled_models(), reason="the bundled model is not there")
def test_a_setting_that_matches_the_text() -> None:
    args = [*SMALL, "--match", "entropy", STORY]
    found = json.loads(run(Path("fable"), *args, "--json").stdout)
    match, overall = found["match"], found["overall"]
    assert match["value"] is not None
    assert match["flags"] == f"--temperature {match['value']:.3g}"
    assert found["sampling"]["temperature"] == match["value"]
    assert abs(overall["entce"]) < 0.2
    again = json.loads(run(Path("fable"), *SMALL, *match["flags"].split(), STORY, "--json").stdout)
    assert again["overall"] == overall
    assert match["flags"] in run(Path("fable"), *args).stdout
    cool = [*args, "--match-with", "min-p", "--temperature", "0.1"]
    assert "No min-p from 0 to 0.9 matches the text." in run(Path("fable"), *cool).stdout


def test_the_table_and_the_lines_fit_80_columns(tiny_gpt2: Path) -> None:
    from llmcli.terminal.calibrate_generations import line_chart

    lines = run(tiny_gpt2, *SMALL, TEXT).stdout.splitlines()
    assert all(len(line.rstrip()) <= 80 for line in lines)
    assert not any("…" in line for line in lines)
    names = ("entropy", "sampling_entropy", "surprisal", "text_nll")
    blocks = [
        {"begin": n * 64, "end": n * 64 + 64, **dict.fromkeys(names, 3.0 + n)} for n in range(3)
    ]
    chart = line_chart(blocks, width=80)
    assert "5.000 ┤" in chart[0]
    assert chart[0].endswith("•")
    assert "3.000 ┤•" in chart[11]
    assert all(len(line) <= 80 for line in chart)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([*SMALL, "--temperature", "0", TEXT], "have no entropy"),
        ([*SMALL, "--length", "60", TEXT], "do not fit into the context"),
        ([*SMALL, "short"], "a prompt and what follows it take 28"),
        ([*SMALL, "--match", "entropy"], "no text whose log loss"),
        ([*SMALL, "--bins", "4", TEXT], "--bins does not go with --generations"),
        ([*SMALL, "--match-with", "min-p", TEXT], "--match-with goes with --match"),
        ([*SMALL, "--labels", "x"], "exclude each other"),
        (["--temperature", "0.5", TEXT], "--temperature goes with --generations"),
        (["--alpha", "0.5", TEXT], "--alpha goes with --labels"),
    ],
)
def test_bad_input(tiny_gpt2: Path, args: list[str], message: str) -> None:
    error = run(tiny_gpt2, *args, code=2).stderr
    assert message in error
    assert error.count("\n") == 1
