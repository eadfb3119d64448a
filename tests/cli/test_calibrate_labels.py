"""llmcli calibrate --labels as a user runs it, and what classify makes of its file."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from llmcli.cli.main import cli
from llmcli.scoring.calibration import wilson
from llmcli.scoring.labels import corrected, fit_scale, label_figures, log_softmax, mean_prior
from llmcli.tasks.calibrate_labels import split_inputs

LABELS = ("no", "yes")
TEMPLATE = "{input} is it?"


def run(model: Path, command: str, *args: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, [command, "-m", str(model), "--threads", "1", *args])
    assert result.exit_code == code, result.stderr
    return result


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("labels") / "labels.jsonl"
    rows = [{"input": f"Fox {n}", "label": LABELS[n * 7 % 3 == 0]} for n in range(240)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def made(
    tiny_gpt2: Path, inputs: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    """What it prints, and the file that it saves."""
    file = tmp_path_factory.mktemp("saved") / "labels.toml"
    args = ["--labels", str(inputs), "--template", TEMPLATE, "--holdout", "0.25"]
    args += ["--correct", "batch", "--save", str(file), "--json"]
    return json.loads(run(tiny_gpt2, "calibrate", *args).stdout), file


@pytest.fixture(scope="module")
def scored(tiny_gpt2: Path, inputs: Path) -> tuple[Any, Any]:
    """Each input's scores as classify prints them, and the truth."""
    args = ["--labels", ",".join(LABELS), "--template", TEMPLATE, "--jsonl", "-i", str(inputs)]
    rows = list(map(json.loads, run(tiny_gpt2, "classify", *args).stdout.splitlines()))
    scores = np.array([[row["logprobs"][label] for label in LABELS] for row in rows])
    return scores, np.array([LABELS.index(row["label"]) for row in rows])


def test_figures_are_those_of_the_scores(made: tuple[dict[str, Any], Path], scored: Any) -> None:
    found, (scores, truth) = made[0], scored
    fitting, held = split_inputs(240, 0.25)
    assert sorted([*fitting.tolist(), *held.tolist()]) == list(range(240))
    assert found["held_out"] == len(held) == 60
    assert found["labels"] == {"no": 160, "yes": 80}
    rows = {row["correction"]: row for row in found["corrections"]}
    assert list(rows) == ["none", "contextual", "domain", "batch", "pmi"]
    batch = corrected(scores, mean_prior(scores))
    for name, logprobs in (("none", log_softmax(scores)), ("batch", batch)):
        wanted = label_figures(logprobs[held], truth[held])
        for field in ("accuracy", "macro_f1", "nll", "brier", "ece", "aurc"):
            assert rows[name][field] == pytest.approx(getattr(wanted, field), abs=1e-4), field
    fit = fit_scale(batch[fitting], truth[fitting], bias=True)
    assert found["fit"]["scale"] == pytest.approx(fit.scale, abs=1e-2)
    assert found["fit"]["bias"]["yes"] == pytest.approx(fit.bias[1], abs=1e-2)
    after = label_figures(fit.apply(batch)[held], truth[held])
    assert found["fit"]["nll"] == pytest.approx(after.nll, abs=1e-3)
    sets = found["conformal"]
    assert sets["coverage_interval"] == pytest.approx(wilson(sets["coverage"] * 60, 60))
    assert 0 <= sets["empty"] <= 1
    assert sets["set_size"] <= 2


def test_classify_uses_what_was_saved(tiny_gpt2: Path, made: Any, scored: Any) -> None:
    file = made[1]
    content = tomllib.loads(file.read_text("utf-8"))
    assert content["scores"] == sorted(content["scores"])
    assert len(content["scores"]) == 60
    args = ["--calibration", str(file), "--alpha", "0.2", "--json", "Fox 0"]
    found = json.loads(run(tiny_gpt2, "classify", *args).stdout)
    log = corrected(scored[0][:1], np.array(content["prior"]))
    chances = np.exp(log_softmax(log * content["scale"] + np.array(content["bias"])))[0]
    assert list(found["probabilities"].values()) == pytest.approx(chances.tolist(), abs=1e-4)
    threshold = content["scores"][int(np.ceil(61 * 0.8)) - 1]
    wanted = [label for label, each in zip(LABELS, chances, strict=True) if 1 - each <= threshold]
    assert (found["set"], found["alpha"]) == (wanted, 0.2)
    assert found["calibration"] == {"file": str(file)}
    shown = run(tiny_gpt2, "classify", *[each for each in args if each != "--json"]).stdout
    assert f"set at alpha 0.2: {', '.join(wanted) or 'no label'}" in shown


def test_the_table_fits_80_columns(tiny_gpt2: Path, inputs: Path) -> None:
    out = run(tiny_gpt2, "calibrate", "--labels", str(inputs)).stdout
    assert all(len(line.rstrip()) <= 80 for line in out.splitlines())
    assert "contextual" in out
    assert "none, fitted" in out
    assert "hold the truth" in out
    assert "…" not in out


def test_a_record_without_a_label_is_left_out(tiny_gpt2: Path, tmp_path: Path) -> None:
    file = tmp_path / "some.jsonl"
    rows = [{"input": f"Fox {n}", "label": n % 2} for n in range(40)]
    rows += [{"input": "x"}, {"input": "w " * 99, "label": 1}]
    file.write_text("\n".join(map(json.dumps, rows)))
    result = run(tiny_gpt2, "calibrate", "--labels", str(file), "--json", code=4)
    found = json.loads(result.stdout)
    assert (found["inputs"], found["errors"], found["fit"]["bias"]) == (40, 2, None)
    assert "has no label in the field 'label'" in result.stderr
    assert "2 of 42 records were left out" in result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--alpha", "0"], "--alpha is 0.0. It must be above 0"),
        (["--alpha", "nan"], "--alpha is nan"),
        (["--alpha", "0.001"], "need 999 inputs held out; there are 120"),
        (["--holdout", "0"], "With --labels it must be above 0"),
        (["--stride", "3"], "--stride does not go with --labels"),
        (["some text"], "--labels names the input"),
    ],
)
def test_bad_input(tiny_gpt2: Path, inputs: Path, args: list[str], message: str) -> None:
    error = run(tiny_gpt2, "calibrate", "--labels", str(inputs), *args, code=2).stderr
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--alpha", "0.5", "--labels", "a,b"], "--labels does not go with --calibration"),
        (["--alpha", "2"], "--alpha is 2.0"),
        (["--alpha", "0.01"], "need 99 inputs"),
    ],
)
def test_bad_calls_of_classify(tiny_gpt2: Path, made: Any, args: list[str], message: str) -> None:
    error = run(tiny_gpt2, "classify", "--calibration", str(made[1]), *args, "x", code=2).stderr
    assert message in error
    assert (
        "goes with --calibration"
        in run(tiny_gpt2, "classify", "--labels", "a,b", "--alpha", "0.1", "x", code=2).stderr
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("revision = ", "revision = 'f00d' #"), "is of"),
        (("scale = ", "scales = "), "lacks what a calibration of labels has"),
        (("bias = [", "bias = [0.0, "), "lacks what a calibration of labels has"),
        (('kind = "labels"', 'kind = "temperature"'), "is a file of llmcli calibrate --save"),
    ],
)
def test_files_that_are_not_of_this_model(
    tiny_gpt2: Path, made: Any, tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    file = tmp_path / "other.toml"
    file.write_text(made[1].read_text("utf-8").replace(*change, 1), "utf-8")
    error = run(tiny_gpt2, "classify", "--calibration", str(file), "x", code=2).stderr
    assert message in error
