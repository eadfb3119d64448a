"""llmcli inspect as a user runs it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from rich.cells import cell_len

from llmcli.api import load
from llmcli.cli.main import cli
from llmcli.tasks.inspect.request import InspectRequest, inspect_model

TEXT = "The fox said to the crow: give me the cheese"


def run(
    model: Path, *args: str, input: str | None = None, code: int = 0, width: int = 80
) -> Result:
    result = CliRunner(env={"COLUMNS": str(width)}).invoke(
        cli, ["inspect", "-m", str(model), "--threads", "1", *args], input
    )
    assert result.exit_code == code, result.stderr
    return result


def record(model: Path, *args: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(model, "--json", *args).stdout)
    return found


def test_overview(tiny_gpt2: Path) -> None:
    out = run(tiny_gpt2, TEXT).stdout
    seen = record(tiny_gpt2, TEXT)
    assert "2 layers of 4 heads" in out
    assert f"{len(seen['tokens'])} tokens" in out
    best = seen["overview"]["previous"][0]
    assert f"{best['layer']}.{best['head']} ({best['previous']:.0%})" in out
    assert f"{math.exp(seen['overview']['prediction']['logprob']):.2%}" in out


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize(
    "args",
    [
        [TEXT],
        [TEXT, "--attention"],
        [TEXT, "--attention", "--layer", "1"],
        [TEXT, "--attention", "--layer", "1", "--head", "2"],
        [TEXT * 2, "--attention", "--layer", "1", "--head", "2"],
        [TEXT, "--lens"],
        [TEXT, "--attribute"],
        [TEXT, "--head-off", "0.1", "--head-off", "1.3"],
        ["--neighbours", "7"],
    ],
    ids=lambda args: " ".join(args)[-24:],
)
def test_views_fit_the_terminal(tiny_gpt2: Path, args: list[str], width: int) -> None:
    out = run(tiny_gpt2, *args, width=width).stdout
    assert max(cell_len(line.rstrip()) for line in out.splitlines()) <= width
    assert "…" not in out, "nothing is cut off"
    assert "\n\n\n" not in out


def test_a_heat_map_is_the_matrix(tiny_gpt2: Path) -> None:
    out = run(tiny_gpt2, TEXT, "--attention", "--layer", "1", "--head", "2", width=200).stdout
    (found,) = record(tiny_gpt2, TEXT, "--attention", "--layer", "1", "--head", "2")["attention"][
        "maps"
    ]
    weights = np.array(found["weights"])
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    lines = out[out.index("head 1.2:") :].splitlines()[2 : 2 + len(weights)]
    margin = max(len(line) for line in lines) - 2 * len(weights)
    marks = [(0.65, "█"), (0.35, "▓"), (0.15, "▒"), (0.05, "░"), (0.01, "·"), (0, " ")]
    for line, row, index in zip(lines, weights, range(len(weights)), strict=True):
        expected = "".join(
            2 * next(mark for least, mark in marks if weight >= least)
            for weight in row[: index + 1]
        )
        assert line[margin:].ljust(2 * index + 2) == expected


def test_the_last_tokens_of_a_wide_map_are_drawn(tiny_gpt2: Path) -> None:
    out = run(tiny_gpt2, TEXT * 2, "--attention", "--layer", "0", "--head", "0", width=40).stdout
    assert "the last " in out


def test_colour_is_only_added(tiny_gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    args = [TEXT, "--attribute"]
    plain = run(tiny_gpt2, *args).stdout
    coloured = run(tiny_gpt2, *args, "--color", "always").stdout
    assert "\x1b" not in plain
    assert "\x1b[38;5;" in coloured


def test_lens(tiny_gpt2: Path) -> None:
    seen = record(tiny_gpt2, TEXT, "--lens", "-n", "3")
    layers = seen["lens"]["layers"]
    assert [layer["layer"] for layer in layers] == [-1, 0, 1]
    assert all(len(layer["positions"]) == len(seen["tokens"]) for layer in layers)
    last = layers[-1]["positions"][-1]
    assert last["kl"] == pytest.approx(0, abs=1e-6)
    out = run(tiny_gpt2, TEXT, "--lens").stdout
    assert f"{layers[0]['positions'][-1]['kl']:.3f}" in out
    shown = [line for line in out.splitlines() if line.strip().startswith("1 ")]
    assert "●" in shown[0]


def test_attribution(tiny_gpt2: Path) -> None:
    likeliest = record(tiny_gpt2, TEXT)["overview"]["prediction"]
    seen = record(tiny_gpt2, TEXT, "--attribute")["attribution"]
    assert seen["target"] == likeliest["id"]
    assert seen["value"] == pytest.approx(likeliest["logprob"], abs=1e-5)
    pair = record(tiny_gpt2, TEXT, "--attribute", "7", "--contrast", "9", "--steps", "4")
    assert (pair["attribution"]["target"], pair["attribution"]["contrast"]) == (7, 9)
    assert pair["attribution"]["steps"] == 4
    out = run(tiny_gpt2, TEXT, "--attribute", "7", "--contrast", "9").stdout
    assert f"{pair['attribution']['value']:.3f} nats" in out
    assert "not the reason" in out


def test_heads_off(tiny_gpt2: Path) -> None:
    seen = record(tiny_gpt2, TEXT, "--head-off", "0.1", "--head-off", "1.3")["heads_off"]
    assert seen["heads"] == ["0.1", "1.3"]
    assert seen["nll_per_token"] != pytest.approx(seen["nll_per_token_without"])
    out = run(tiny_gpt2, TEXT, "--head-off", "0.1", "--head-off", "1.3").stdout
    assert f"{seen['nll_per_token']:.4f} nats a token" in out
    likeliest = seen["candidates"][0]
    assert f"{math.exp(likeliest['logprob']):.2%}" in out


def test_neighbours_read_no_text(tiny_gpt2: Path) -> None:
    seen = record(tiny_gpt2, "--neighbours", "7", "-n", "4")
    assert seen["text"] is None
    assert len(seen["neighbours"]["nearest"]) == 4
    assert (
        f"{seen['neighbours']['nearest'][0]['cosine']:.3f}"
        in run(tiny_gpt2, "--neighbours", "7").stdout
    )


def test_views_may_be_combined(tiny_llama: Path) -> None:
    seen = record(
        tiny_llama, TEXT, "--attention", "--lens", "--attribute", "--head-off", "1.1",
        "--neighbours", "7",
    )  # fmt: skip
    assert {"attention", "lens", "attribution", "heads_off", "neighbours"} <= seen.keys()
    assert "overview" not in seen
    assert seen["model"] == str(tiny_llama)


def test_input_as_everywhere(tiny_gpt2: Path, tmp_path: Path) -> None:
    named = record(tiny_gpt2, TEXT, "--lens")
    piped = json.loads(run(tiny_gpt2, "--json", "--lens", input=TEXT + "\n").stdout)
    file = tmp_path / "text.txt"
    file.write_text(TEXT + "\n", "utf-8")
    assert named == piped == record(tiny_gpt2, "-i", str(file), "--lens")
    assert record(tiny_gpt2, TEXT, "--bos")["tokens"][0]["id"] == 0


def test_bfloat16_is_honoured(tiny_llama: Path) -> None:
    seen = record(tiny_llama, TEXT, "--attention", "--attribute", "--precision", "bfloat16")
    exact = record(tiny_llama, TEXT, "--attention", "--attribute")
    assert seen["precision"] == "bfloat16"
    assert seen["attention"]["heads"] != exact["attention"]["heads"]
    for ours, theirs in zip(seen["attention"]["heads"], exact["attention"]["heads"], strict=True):
        assert ours["entropy"] == pytest.approx(theirs["entropy"], abs=0.1)


def test_a_page_has_all_views(tiny_gpt2: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    out = run(tiny_gpt2, TEXT, "--html", str(page)).stdout
    assert "2 layers of 4 heads" in out, "and stdout the overview"
    data = json.loads(page.read_text("utf-8").split('id="data">')[1].split("</script>")[0])
    assert {"overview", "attention", "lens", "attribution"} <= data.keys()
    run(tiny_gpt2, TEXT, "--lens", "--html", str(page))
    data = json.loads(page.read_text("utf-8").split('id="data">')[1].split("</script>")[0])
    assert {"overview", "lens"} <= data.keys()
    assert not {"attention", "attribution"} & data.keys()


def test_a_long_text_says_which_window_is_shown(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmcli.cli.inspect._PAGE_CELLS", 8 * 100)
    page = tmp_path / "page.html"
    count = len(record(tiny_gpt2, TEXT)["tokens"])
    notice = run(tiny_gpt2, TEXT, "--html", str(page)).stderr
    assert f"Tokens {count - 10} to {count - 1} of {count} are shown" in notice
    data = json.loads(page.read_text("utf-8").split('id="data">')[1].split("</script>")[0])
    assert data["window"] == [count - 10, count]
    assert run(tiny_gpt2, TEXT, "--html", str(page), "--window", "0:5").stderr.startswith(
        "Warning: Tokens 0 to 4"
    )
    monkeypatch.setattr("llmcli.cli.inspect._PAGE_ATTRIBUTES", 4)
    assert "takes long and is left out" in run(tiny_gpt2, TEXT, "--html", str(page)).stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([""], "The text is empty"),
        ([TEXT, "--attribute", "xyzzy"], "'xyzzy' is 5 tokens for"),
        ([TEXT, "--contrast", "7"], "--contrast goes with --attribute"),
        ([TEXT, "--attribute", "7", "--contrast", "7"], "are the same"),
        ([TEXT, "--attention", "--layer", "2"], "There is no layer 2"),
        ([TEXT, "--attention", "--layer", "0", "--head", "4"], "There is no head 4"),
        ([TEXT, "--attention", "--head", "0"], "--head goes with --layer"),
        ([TEXT, "--layer", "0"], "--layer goes with --attention"),
        ([TEXT, "--window", "0:3"], "--window goes with --attention or --html"),
        ([TEXT, "--attention", "--window", "3-5"], "'3-5' is not A:B"),
        ([TEXT, "--attention", "--window", "5:3"], "The window 5:3 is not within"),
        ([TEXT, "--head-off", "1"], "'1' is not LAYER.HEAD"),
        ([TEXT, "--head-off", "1.7"], "There is no head 7"),
        ([TEXT, "--position", "99"], "Position 99 is outside the text"),
        ([TEXT, "--neighbours", "7"], "takes no text"),
        (["--neighbours", "xyzzy"], "'xyzzy' is 5 tokens for"),
        ([TEXT, "--lens", "--neighbours", "7", "--html", "x.html"], "Call them apart"),
        ([TEXT, "--html", "/nowhere/page.html"], "Cannot write /nowhere/page.html"),
        ([TEXT * 9], "the model reads 64"),
    ],
)
def test_bad_input(tiny_gpt2: Path, args: list[str], message: str) -> None:
    error = run(tiny_gpt2, *args, code=2).stderr
    assert message in error
    assert error.count("\n") == 1


def test_attribute_that_took_the_text(tiny_gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmcli.cli.inspect.stdin_is_terminal", lambda: True)
    error = run(tiny_gpt2, "--attribute", TEXT, code=2).stderr
    assert f"--attribute took {TEXT!r}" in error


def test_json_is_what_python_sees(tiny_gpt2: Path) -> None:
    request = InspectRequest(views=frozenset({"lens"}), text=TEXT)
    ours = inspect_model(load(str(tiny_gpt2)), request).to_dict()["lens"]
    assert record(tiny_gpt2, TEXT, "--lens")["lens"] == json.loads(json.dumps(ours))
