"""llmcli calibrate as a user runs it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from llmcli.api import load
from llmcli.cli.main import cli
from llmcli.engine.native import library
from llmcli.hub.reference import bundled_models
from llmcli.tasks.calibrate import calibrate, save_temperature

TEXT = "The fox said to the crow: give me the cheese, and naïve café 東京. " * 12


def run(model: Path, *args: str, code: int = 0, command: str = "calibrate") -> Result:
    result = CliRunner().invoke(cli, [command, "-m", str(model), "--threads", "1", *args])
    assert result.exit_code == code, result.stderr
    return result


def test_json_agrees_with_score(tiny_gpt2: Path) -> None:
    found: dict[str, Any] = json.loads(run(tiny_gpt2, "--json", TEXT).stdout)
    score = json.loads(run(tiny_gpt2, "--json", TEXT, command="score").stdout)
    assert found["tokens"] == score["tokens"] == sum(each["tokens"] for each in found["bins"])
    assert found["nll"] == pytest.approx(score["nll_per_token"], rel=1e-5)
    assert (found["context"], found["stride"], found["bos"]) == (64, 32, True)
    assert found["model"] == str(tiny_gpt2)


def test_table_and_diagram_fit_80_columns(tiny_gpt2: Path) -> None:
    lines = run(tiny_gpt2, TEXT).stdout.splitlines()
    assert all(len(line.rstrip()) <= 80 for line in lines)
    names = [line.split("  ")[0].strip() for line in lines]
    assert {"ECE", "ACE", "smooth ECE", "Brier score", "temperature"} <= set(names)
    found = json.loads(run(tiny_gpt2, "--json", TEXT).stdout)
    assert len([line for line in lines if "█" in line or "·" in line]) >= len(found["bins"])


def test_quiet_is_the_error(tiny_gpt2: Path) -> None:
    found = json.loads(run(tiny_gpt2, "--json", TEXT).stdout)
    assert float(run(tiny_gpt2, "-q", TEXT).stdout) == pytest.approx(found["ece"], rel=1e-5)


def test_few_tokens_have_figures_but_no_fit(tiny_gpt2: Path) -> None:
    assert "no fit under 200 tokens" in run(tiny_gpt2, TEXT[:100]).stdout


@pytest.fixture(scope="module")
def saved(tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of calibrate --save, with a temperature that is easy to see."""
    file = tmp_path_factory.mktemp("saved") / "a \x7f“text”.toml"
    text = file.with_suffix(".txt")
    text.write_text(TEXT, "utf-8")
    model = load(str(tiny_gpt2))
    result, _ = calibrate(model, [TEXT])
    save_temperature(file, model, replace(result, temperature=2.5), [text.name])
    return file


def test_a_saved_temperature_divides_the_logits(tiny_gpt2: Path, saved: Path) -> None:
    args = ["--json", "--calibration", str(saved)]
    plain = ["--json", "--temperature", "2.5", "--top-p", "1", "The fox"]
    wanted = json.loads(run(tiny_gpt2, *plain, command="next").stdout)
    found = json.loads(run(tiny_gpt2, *args, "The fox", command="next").stdout)
    assert found["calibration"] == {"file": str(saved), "temperature": 2.5}
    for ours, theirs in zip(found["candidates"], wanted["candidates"], strict=True):
        assert ours["id"] == theirs["id"]
        assert ours["logprob"] == pytest.approx(theirs["sampled_logprob"], abs=1e-5)
    ranked = run(tiny_gpt2, *args, "--prompt", "The fox", "crow", command="rank").stdout
    (choice,) = json.loads(ranked)["choices"]
    before, after = summed_at(tiny_gpt2, "The fox", " crow", 2.5)
    assert choice["logprob"] == pytest.approx(after, abs=1e-4)
    score = ["--no-bos", "--prompt", "The fox", *args, " crow"]
    assert json.loads(run(tiny_gpt2, *score, command="score").stdout)["nll"] == pytest.approx(
        -after, abs=1e-4
    )
    again = run(tiny_gpt2, "--json", "--prompt", "The fox", "crow", command="rank").stdout
    assert json.loads(again)["choices"][0]["logprob"] == pytest.approx(before, abs=1e-4)
    settings = ["--seed", "1", "-n", "3", "--logprobs", "0", "--temperature", "1", "--top-p", "1"]
    made = json.loads(run(tiny_gpt2, *settings, *args, "The fox", command="generate").stdout)
    assert made["calibration"]["temperature"] == 2.5
    assert all(
        each["logprob"] == pytest.approx(each["sampled_logprob"], abs=1e-5)
        for each in made["tokens"]
    )


def summed_at(folder: Path, prompt: str, text: str, temperature: float) -> tuple[float, float]:
    """The log-likelihood of a text after a prompt: as it is, and at a temperature."""
    model = load(str(folder))
    first, ids = model.tokenizer.ids(prompt), model.tokenizer.ids(prompt + text)
    with torch.no_grad():
        logits = model.module(torch.tensor([ids[:-1]])).logits[0].double()[len(first) - 1 :]
    rows = torch.arange(len(logits)), torch.tensor(ids[len(first) :])
    plain, scaled = (torch.log_softmax(logits / each, 1)[rows].sum() for each in (1, temperature))
    return float(plain), float(scaled)


@pytest.mark.skipif("fable" not in bundled_models(), reason="the bundled model is not there")
def test_save_writes_what_was_fitted(tiny_gpt2: Path, tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    found = json.loads(run(Path("fable"), "--json", "--save", str(file), TEXT * 2).stdout)
    content = tomllib.loads(file.read_text("utf-8"))
    assert content["temperature"] == found["temperature"]
    assert content["text"] == ["The text"]
    assert (content["model"], content["revision"]) == (found["model"], found["revision"])
    message = run(tiny_gpt2, "--save", str(tmp_path / "u.toml"), TEXT[:100], code=2).stderr
    assert "no temperature to save" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("revision = ", "revision = 'f00d' #"), "is of"),
        (("tokenizer = ", "tokenizer = 'f00d' #"), "is of another tokenizer"),
        (("kind = ", "kind = 'labels' #"), "is a file of llmcli calibrate --labels --save"),
        (("kind = ", "kind = 'fox' #"), "holds no calibration"),
        (("temperature = ", "temperature = 0 #"), "has no temperature above 0"),
        (("kind = ", "kind "), "is not TOML"),
    ],
)
def test_a_file_that_is_not_of_this_model(
    tiny_gpt2: Path, saved: Path, tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    file = tmp_path / "other.toml"
    file.write_text(saved.read_text("utf-8").replace(*change, 1), "utf-8")
    error = run(tiny_gpt2, "--calibration", str(file), "The fox", command="next", code=2).stderr
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((TEXT, "--bins", "0"), "--bins is 0. It must be from 1"),
        ((TEXT, "--holdout", "1"), "--holdout is 1.0. It must be"),
        ((TEXT, "--holdout", "nan"), "--holdout is nan. It must be"),
        (("",), "no token that can be scored"),
    ],
)
def test_bad_input(tiny_gpt2: Path, args: tuple[str, ...], message: str) -> None:
    assert message in run(tiny_gpt2, *args, code=2).stderr


def test_a_page_and_a_picture(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, picture = tmp_path / "page.html", tmp_path / "picture.png"
    found = json.loads(run(tiny_gpt2, "--json", "--html", str(page), TEXT).stdout)
    data = page.read_text("utf-8").split('id="record">')[1].split("</script>")[0]
    assert json.loads(data) == found
    monkeypatch.setattr("llmcli.cli.calibrate.find_spec", lambda name: None)
    error = run(tiny_gpt2, "--png", str(picture), TEXT, code=1).stderr
    assert "A picture needs packages that are not installed. Run: " in error
    assert not picture.exists()
    missing = str(tmp_path / "no" / "page.html")
    assert "folder is missing" in run(tiny_gpt2, "--html", missing, TEXT, code=2).stderr


def test_nan_names_the_token(tiny_gpt2: Path, tmp_path: Path) -> None:
    model = tmp_path / "nan"
    shutil.copytree(tiny_gpt2, model)
    weights = load_file(model / "model.safetensors")
    weights["transformer.wpe.weight"][5] = 3e38  # a number, whose square is none
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    for args in ([], ["--generations", "--samples", "2", "--length", "8"]):
        error = run(model, *args, *([] if args else [TEXT]), code=1).stderr
        assert "NaN" in error
        assert error.count("\n") == 1
    labels = ["--labels", "a,b", "--template", "{input}:", TEXT[:30]]
    assert "NaN" in run(model, *labels, command="classify", code=1).stderr


@pytest.mark.parametrize("args", [["score"], ["calibrate"], ["rank", "--prompt", "The fox"]])
def test_a_prepared_model_needs_no_torch(tiny_gpt2: Path, args: list[str]) -> None:
    code = (
        "import sys\n"
        "from llmcli.__main__ import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    print('seen', *({'torch', 'transformers'} & set(sys.modules)), file=sys.stderr)\n"
    )
    skip_without_kernels()
    load(str(tiny_gpt2)).decoder()  # prepares it
    command = [sys.executable, "-c", code, *args, "-q", "-m", str(tiny_gpt2), "said the crow"]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert process.stderr.splitlines()[-1] == "seen"


def skip_without_kernels() -> None:
    if library.library() is None:
        pytest.skip("no kernels here")
