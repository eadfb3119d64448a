"""llmcli classify as a user runs it."""

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

TEMPLATE = "The text: {input}\\nIt is"
TEXTS = ["The fox cried all night.", "A crow had cheese.", "Three 東京 {braces}", "N/A"]
LABELS = ("happy", "very sad", "sad")


def run(model: Path | str, *args: str, code: int = 0, input: str | None = None) -> Result:
    call = ["classify", "-m", str(model), "--threads", "1", *args]
    result = CliRunner().invoke(cli, call, input)
    assert result.exit_code == code, result.stderr
    return result


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    rows = [{"input": text, "label": "x", "n": n} for n, text in enumerate(TEXTS)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return file


def loop(module: Any, model: Any, prompt: str, labels: tuple[str, ...]) -> list[float]:
    """Each label's log-likelihood after a prompt, the plain way."""
    found = []
    first = len(model.tokenizer.ids(prompt))
    for label in labels:
        ids = model.tokenizer.ids(f"{prompt} {label}")
        with torch.no_grad():
            logits = module(torch.tensor([ids[:-1]])).logits[0].double()
        rows = torch.log_softmax(logits[first - 1 :], 1)
        found.append(float(rows.gather(1, torch.tensor(ids[first:])[:, None]).sum()))
    return found


@pytest.mark.skipif("fable" not in bundled_models(), reason="the bundled model is not there")
def test_the_bundled_model_equals_a_plain_loop(texts: Path, tmp_path: Path) -> None:
    library: Any = transformers
    model = load("fable")
    module = library.AutoModelForCausalLM.from_pretrained(
        str(model.folder), dtype=torch.float32
    ).eval()
    shots = tmp_path / "shots.jsonl"
    shots.write_text('{"input": "He lost.", "label": "sad"}\n{"input": "Win!", "label": "happy"}\n')
    examples = "The text: He lost.\nIt is sad\n\nThe text: Win!\nIt is happy\n\n"
    args = ["--labels", ",".join(LABELS), "--template", TEMPLATE, "--jsonl", "-i", str(texts)]
    out = run("fable", *args, "--shots", str(shots)).stdout
    rows = [json.loads(line) for line in out.splitlines()]
    prompts = [f"{examples}The text: {text}\nIt is" for text in TEXTS]
    wanted = [loop(module, model, each, LABELS) for each in prompts]
    for row, scores, text in zip(rows, wanted, TEXTS, strict=True):
        assert list(row["logprobs"].values()) == pytest.approx(scores, abs=2e-3)
        chances = torch.softmax(torch.tensor(scores), 0).tolist()
        assert list(row["probabilities"].values()) == pytest.approx(chances, abs=2e-3)
        assert row["prediction"] == LABELS[scores.index(max(scores))]
        assert (row["input"], row["label"]) == (text, "x")
    # The corrections, each by its formula over the plain loop's numbers.
    free = [
        loop(module, model, f"The text: {text}\nIt is", LABELS) for text in ("N/A", "", "[MASK]")
    ]
    plain = [loop(module, model, f"The text: {text}\nIt is", LABELS) for text in TEXTS]
    priors = {
        "contextual": torch.tensor(free).exp().mean(0).log(),
        "batch": torch.tensor(plain).softmax(1).mean(0).log(),
        "pmi": torch.tensor(loop(module, model, "It is", LABELS)),
    }
    for name, prior in priors.items():
        out = run("fable", *args, "--correct", name).stdout
        for line, scores in zip(out.splitlines(), plain, strict=True):
            chances = (torch.tensor(scores) - prior).softmax(0).tolist()
            row = json.loads(line)
            assert row["correction"] == name
            assert list(row["probabilities"].values()) == pytest.approx(chances, abs=5e-3)


def test_one_text(tiny_gpt2: Path, tmp_path: Path) -> None:
    args = ["--labels", "a, b ,c", "--template", "{input}:"]
    found = json.loads(run(tiny_gpt2, *args, "--json", "The fox").stdout)
    assert sum(found["probabilities"].values()) == pytest.approx(1)
    assert found["model"] == str(tiny_gpt2)
    assert run(tiny_gpt2, *args, "-q", "The fox").stdout == found["prediction"] + "\n"
    assert run(tiny_gpt2, *args, "-q", input="The fox\n").stdout == found["prediction"] + "\n"
    table = run(tiny_gpt2, *args, "The fox").stdout
    assert table.index(found["prediction"]) == min(map(table.index, ("\na ", "\nb ", "\nc "))) + 1
    file = tmp_path / "template.txt"
    file.write_text("{input}:\n")
    again = run(tiny_gpt2, "--labels", "a,b,c", "--template", str(file), "--json", "The fox")
    assert json.loads(again.stdout)["logprobs"] == pytest.approx(found["logprobs"])


def test_batches_go_on_where_they_stopped(tiny_gpt2: Path, texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    args = ["--labels", "a,b", "--jsonl", "-i", str(texts), "--template", "{n} {input} is"]
    args += ["--correct", "batch", "-o", str(out)]
    run(tiny_gpt2, *args)
    whole = out.read_bytes()
    out.write_bytes(whole[: whole.index(b"\n") + 30])
    run(tiny_gpt2, *args, "--resume")
    assert out.read_bytes() == whole
    changed = [each.replace("a,b", "a,c") for each in args]
    assert "was made with" in run(tiny_gpt2, *changed, "--resume", code=2).stderr


def test_domain_and_priors_of_other_inputs(tiny_gpt2: Path, texts: Path) -> None:
    args = ["--labels", "a,b", "--json", "--prior-from", str(texts), "The fox"]
    found = [
        json.loads(run(tiny_gpt2, "--correct", name, *args).stdout)["probabilities"]
        for name in ("domain", "domain", "batch")
    ]
    assert found[0] == found[1] != found[2]
    half = run(tiny_gpt2, "--correct", "batch", "--gamma", "0", *args).stdout
    plain = run(tiny_gpt2, "--labels", "a,b", "--json", "The fox").stdout
    assert json.loads(half)["probabilities"] == pytest.approx(json.loads(plain)["probabilities"])


def test_what_batch_would_change_is_said(tiny_gpt2: Path, tmp_path: Path) -> None:
    file = tmp_path / "many.jsonl"
    file.write_text("".join(json.dumps({"input": f"Fox {n}"}) + "\n" for n in range(17)))
    args = ["--labels", "東京東京東京,a", "--jsonl", "-i", str(file)]
    said = run(tiny_gpt2, *args).stderr
    assert "--correct batch takes it out and changes" in said
    file.write_text("".join(json.dumps({"input": f"Fox {n}"}) + "\n" for n in range(16)))
    assert "--correct" not in run(tiny_gpt2, *args).stderr


def test_labels_that_begin_alike_are_scored_as_a_whole(tiny_gpt2: Path) -> None:
    result = run(tiny_gpt2, "--labels", "fox,fox says", "--json", "The")
    assert "The label 'fox' begins 'fox says'" in result.stderr
    found = json.loads(result.stdout)["logprobs"]
    assert found["fox says"] < found["fox"]
    shared = run(tiny_gpt2, "--labels", "zzq,zzx", "--json", "The").stderr
    assert "begin with the same token" in shared


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["x"], "There are no labels"),
        (["--labels", "a", "x"], "fewer than two labels"),
        (["--labels", "a,b,a", "x"], "The label 'a' is there twice"),
        (["--labels", "a,,b", "x"], "A label is empty"),
        (["--labels", "a,b", ""], "The text is empty"),
        (["--labels", "a,b", "--template", "no place", "x"], "has no {input}"),
        (["--labels", "a,b", "--template", "{input", "x"], "template cannot be read"),
        (["--labels", "a,b", "--template", "{input!r}", "x"], "template cannot be read"),
        (["--labels", "a,b", "--template", "{input} {n}", "x"], "has no field 'n'"),
        (["--labels", "a,b", "--correct", "batch", "x"], "looks at many inputs"),
        (["--labels", "a,b", "--correct", "batch", "--jsonl"], "stdin can be read once"),
        (["--labels", "a,b", "--gamma", "2", "x"], "--gamma goes with --correct"),
        (["--labels", "a,b", "--correct", "pmi", "--gamma", "nan", "x"], "--gamma is nan"),
        (["--labels", "a,b", "word " * 200], "tokens; the model takes 65"),
    ],
)
def test_bad_input(tiny_gpt2: Path, args: list[str], message: str) -> None:
    error = run(tiny_gpt2, *args, code=2).stderr
    assert message in error
    assert error.count("\n") == 1


def test_shots_without_a_label_or_with_another(tiny_gpt2: Path, tmp_path: Path) -> None:
    file = tmp_path / "shots.jsonl"
    for text, message in (
        ('{"input": "x"}', "has no label in the field 'label'"),
        ('{"input": "x", "label": "c"}', "not among the labels"),
        ("", "holds no examples"),
    ):
        file.write_text(text)
        args = ["--labels", "a,b", "--shots", str(file), "x"]
        assert message in run(tiny_gpt2, *args, code=2).stderr
