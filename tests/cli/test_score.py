"""llmcli score as a user runs it: figures, rows, tokens, gates, bad input."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from kernel_levels import skip_without
from training_runs import tale

from llmcli.api import load
from llmcli.cli.main import cli
from llmcli.hub.reference import bundled_models

TEXT = (
    "Once upon a time there was a little fox.  The fox said: 東京 is far, naïve café!\n\n"
    "She didn't know what to say, so she said nothing at all, and waited. 🦊\n"
)
Run = Callable[..., Result]


@pytest.fixture
def run(tiny_gpt2: Path) -> Run:
    def call(*args: str, input: str | bytes | None = None, code: int = 0) -> Result:
        arguments = ["score", "-m", str(tiny_gpt2), "--threads", "1", *args]
        result = CliRunner().invoke(cli, arguments, input=input)
        assert result.exit_code == code, result.stderr
        assert "Traceback" not in result.stderr
        if code not in (0, 3, 4):
            assert result.stderr.startswith("Error: ")
            assert result.stderr.count("\n") == 1
        return result

    return call


def record(result: Result) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return parsed


def expected_nll(folder: Path, text: str, *, bos: bool = True) -> torch.Tensor:
    """Of each token of a text that fits into the context."""
    model = load(str(folder))
    ids = ([0] if bos else []) + model.tokenizer.ids(text)
    with torch.no_grad():
        logits = model.module(torch.tensor([ids[:-1]])).logits[0]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")


def test_the_record(run: Run, tiny_gpt2: Path) -> None:
    text = "Once upon a time.\n"
    found = record(run("--json", input=text))
    nll = expected_nll(tiny_gpt2, text)
    assert found["nll"] == pytest.approx(float(nll.sum()), rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(float(nll.mean())), rel=1e-5)
    assert found["tokens"] == len(nll)
    assert (found["words"], found["bytes"]) == (4, 18), "a trailing newline counts"
    assert found["bits_per_byte"] == pytest.approx(float(nll.sum()) / 18 / math.log(2), rel=1e-5)
    assert found["perplexity_interval"] is None
    assert found["interval"]["block_tokens"] == 128
    assert (found["convention"], found["context"], found["stride"]) == ("default", 64, 32)
    assert found["bos"] is True
    assert found["precision"] == "float32"
    assert re.fullmatch("[0-9a-f]{64}", found["revision"])
    assert found["tokens_per_second"] > 0


def test_quiet_is_one_number(run: Run) -> None:
    out = run("-q", TEXT).stdout
    assert float(out) == pytest.approx(record(run("--json", TEXT))["perplexity"], rel=1e-5)
    assert out.count("\n") == 1


def test_table(run: Run) -> None:
    out = " ".join(run(TEXT * 25).stdout.split())
    for words in ("perplexity", "95 %", "blocks of 128 tokens", "bits per byte", "BOS first"):
        assert words in out
    without = " ".join(run("--no-bos", TEXT).stdout.split())
    assert "no BOS: the first token is not scored" in without


def test_files_are_one_text_byte_for_byte(run: Run, tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes("Once upon a tí".encode()[:-1])
    second.write_bytes("í".encode()[1:] + b"me.\r\n")
    whole = record(run("--json", input="Once upon a tíme.\r\n".encode()))
    with_bom = record(run("--json", input=b"\xef\xbb\xbfOnce"))
    assert with_bom["bytes"] == 7
    # A character cut between two files is invalid in both.
    assert "offset 13" in run("-i", str(first), "-i", str(second), code=2).stderr
    first.write_bytes(b"Once upon a ")
    second.write_bytes("tíme.\r\n".encode())
    joined = record(run("--json", "-i", str(first), "-i", str(second)))
    assert joined["nll"] == pytest.approx(whole["nll"])


@pytest.mark.parametrize("convention", ["hf", "lm-eval", "llama.cpp"])
def test_other_conventions_say_so(run: Run, convention: str) -> None:
    found = record(run("--json", "--convention", convention, TEXT * 3))
    assert found["convention"] == convention
    assert found["bos"] is (convention == "lm-eval")
    assert (found["bits_per_byte"] is None) is (convention != "lm-eval")


def test_prompt(run: Run, tiny_gpt2: Path) -> None:
    found = record(run("--json", "--prompt", "The fox said:", " give me the cheese"))
    prompt = load(str(tiny_gpt2)).tokenizer.ids("The fox said:")
    nll = expected_nll(tiny_gpt2, "The fox said: give me the cheese")[len(prompt) :]
    assert found["nll"] == pytest.approx(float(nll.sum()), rel=1e-5)
    assert found["tokens"] == len(nll)
    assert found["bytes"] == len(" give me the cheese")
    assert found["prompt"] == "The fox said:"


# -- units -----------------------------------------------------------------------------------


def rows(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_lines(run: Run) -> None:
    lines = ["A fox.", "", "   ", "The crow said: give me the cheese", "qqq"]
    *found, total = rows(run("--by", "line", "--json", input="\n".join(lines)))
    scored = [lines[0], lines[3], lines[4]]
    assert [row["text"] for row in found] == scored
    assert [row["place"] for row in found] == [f"Line {n} of stdin" for n in (1, 4, 5)]
    for row, text in zip(found, scored, strict=True):
        assert row["nll"] == pytest.approx(record(run("--json", text))["nll"], rel=1e-5)
    assert total["unit"] == "total"
    assert total["nll"] == pytest.approx(sum(row["nll"] for row in found))
    assert total["tokens"] == sum(row["tokens"] for row in found)
    assert total["perplexity"] == pytest.approx(math.exp(total["nll"] / total["tokens"]))
    mean = sum(row["perplexity"] for row in found) / 3
    assert total["mean_of_rows"]["perplexity"] == pytest.approx(mean)
    assert total["rows"] == 3


def test_paragraphs(run: Run) -> None:
    text = "One line\nand the next.\n\n\nAnother.\n \nThird"
    *found, _ = rows(run("--by", "paragraph", "--json", input=text))
    assert [row["text"] for row in found] == ["One line\nand the next.", "Another.", "Third"]
    assert found[1]["place"] == "The paragraph at line 5 of stdin"


def test_files(run: Run, tmp_path: Path) -> None:
    names = []
    for index, text in enumerate(["A fox.", TEXT]):
        path = tmp_path / f"{index}.txt"
        path.write_text(text, "utf-8")
        names += ["-i", str(path)]
    *found, total = rows(run("--by", "file", "--json", *names))
    assert [row["file"] for row in found] == [names[1], names[3]]
    assert found[1]["nll"] == pytest.approx(record(run("--json", "-i", names[3]))["nll"])
    assert total["bytes"] == 6 + len(TEXT.encode())
    assert names[3] in run("--by", "file", *names).stdout


def test_records_pass_their_fields_through(run: Run) -> None:
    lines = [
        {"id": 7, "story": "A fox.", "label": {"x": 1}},
        {"id": 8},
        {"id": 9, "story": ""},
        {"id": 10, "story": "The crow."},
    ]
    text = "\n".join(map(json.dumps, lines)) + "\nnot json\n"
    *found, total = rows(run("--jsonl", "--field", "story", "--json", input=text, code=4))
    assert [row.get("id") for row in found] == [7, 8, 9, 10, None], "in the order of the input"
    by_id = {row.get("id"): row for row in found}
    assert by_id[7]["label"] == {"x": 1}
    assert by_id[7]["tokens"] > 0
    assert "no text in the field" in by_id[8]["error"]
    assert "empty" in by_id[9]["error"]
    assert "not JSON" in by_id[None]["error"]
    assert total["rows"] == 2


def test_lone_surrogates_in_json_are_error_records(run: Run) -> None:
    text = '{"id": 1, "text": "\\ud800"}\n{"id": 2, "text": "A fox."}\n'
    *found, total = rows(run("--jsonl", "--json", input=text, code=4))
    by_id = {row["id"]: row for row in found}
    assert "lone surrogate" in by_id[1]["error"]
    assert by_id[2]["tokens"] > 0
    assert total["rows"] == 1
    assert "lone surrogate" in run("--jsonl", input=text, code=2).stderr


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "POSIX"])
def test_every_locale_gives_the_same(run_llmcli: Any, tiny_gpt2: Path, locale: str) -> None:
    text = "naïve\0 東京\r\n\ufeff".encode()
    process = run_llmcli(
        "score", "-m", str(tiny_gpt2), "--json", input=text, env={"LC_ALL": locale}
    )
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout)
    assert found["bytes"] == len(text)
    assert found["nll"] == pytest.approx(
        float(expected_nll(tiny_gpt2, text.decode()).sum()), rel=1e-5
    )


def test_the_most_surprising_lines(run: Run) -> None:
    lines = [f"The {word} fox said" for word in ("a", "bb", "dddd", "crow", "cheese")]
    text = "\n".join(lines)
    *every, _ = rows(run("--by", "line", "--json", input=text))
    *best, _ = rows(run("--by", "line", "--json", "--top", "3", input=text))
    order = sorted(every, key=lambda row: -row["perplexity"])
    assert [row["text"] for row in best] == [row["text"] for row in order[:3]]
    *by_nll, total = rows(run("--by", "line", "--json", "--sort", "nll", input=text))
    assert [row["nll"] for row in by_nll] == sorted((row["nll"] for row in every), reverse=True)
    assert total["rows"] == len(lines)
    shown = run("--by", "line", "--top", "1", input="[/foo] [bold]x\n").stdout
    assert "[/foo] [bold]x" in shown


# -- gates -----------------------------------------------------------------------------------


def test_gates(run: Run) -> None:
    found = record(run("--json", TEXT))
    above, below = str(found["perplexity"] * 1.01), str(found["perplexity"] * 0.99)
    run("--max-ppl", above, TEXT)
    failed = run("--max-ppl", below, "-q", TEXT, code=3)
    assert failed.stderr.startswith("Error: The perplexity is")
    assert float(failed.stdout) == pytest.approx(found["perplexity"], rel=1e-5)
    run("--max-bits-per-byte", str(found["bits_per_byte"] * 1.01), TEXT)
    run("--max-bits-per-byte", str(found["bits_per_byte"] * 0.99), TEXT, code=3)
    run("--max-bits-per-byte", "1", "--convention", "hf", TEXT, code=2)
    for value in ("nan", "inf", "0", "-1"):
        run("--max-ppl", value, TEXT, code=2)


# -- tokens ----------------------------------------------------------------------------------


def test_tokens_as_json(run: Run, tiny_gpt2: Path) -> None:
    *found, total = rows(run("--tokens", "--json", "--top-logprobs", "3", TEXT * 2))
    assert b"".join(bytes(token["bytes"]) for token in found) == (TEXT * 2).encode()
    assert [token["index"] for token in found] == list(range(len(found)))
    offset = 0
    for token in found:
        assert token["offset"] == offset
        offset += len(token["bytes"])
        assert [each["logprob"] for each in token["top_logprobs"]] == sorted(
            (each["logprob"] for each in token["top_logprobs"]), reverse=True
        )
        assert len(token["top_logprobs"]) == 3
        if token["rank"] == 1:
            assert token["top_logprobs"][0]["id"] == token["id"]
        assert 0 <= token["entropy"] <= math.log(400)
    assert total["unit"] == "total"
    assert total["nll"] == pytest.approx(-sum(token["logprob"] for token in found), rel=1e-5)


def test_unscored_tokens_are_shown(run: Run) -> None:
    *found, _ = rows(run("--tokens", "--json", "--no-bos", TEXT))
    assert found[0]["logprob"] is None
    assert found[1]["logprob"] is not None
    *halves, _ = rows(run("--tokens", "--json", "--convention", "llama.cpp", TEXT * 4))
    data = b"".join(bytes(token["bytes"]) for token in halves)
    assert (TEXT * 4).encode().startswith(data)
    assert sum(token["logprob"] is None for token in halves) > len(halves) / 3


def test_tokens_in_a_pipe_are_lines(run: Run) -> None:
    lines = run("--tokens", "a\x1b[31m fox\n").stdout.splitlines()
    assert all(re.fullmatch(r" *[\d.]+ +\d+  \".*\"", line) for line in lines)
    assert "\x1b" not in "".join(lines)


def test_tinted_text_keeps_the_text(run: Run) -> None:
    text = "Once upon a time there was a fox who lived in the old wood by the river. \x1b]0;x 東京"
    out = run("--tokens", "--color", "always", text * 3).stdout
    assert "surprisal in bits" in out
    shown = re.sub(r"\x1b\[[0-9;]*m", "", out.split("\n\n", 1)[1])
    assert "\x1b" not in shown
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert shown.replace("\n", "").replace(" ", "") == (text * 3).replace("\x1b", "\\x1b").replace(
        " ", ""
    )


def test_page(run: Run, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    run("--html", str(page), "-q", TEXT)
    text = page.read_text("utf-8")
    data = json.loads(text.split('id="stretches">', 1)[1].split("</script>", 1)[0])
    assert "".join(stretch for _, stretch, _, _ in data) == TEXT
    assert all(len(token[5]) == 5 for *_, tokens in data for token in tokens)
    before = page.read_bytes()
    run("--html", str(page), "", code=2)
    assert page.read_bytes() == before, "a page that cannot be finished replaces nothing"
    run("--html", str(tmp_path / "none" / "x.html"), TEXT, code=2)


# -- two models ------------------------------------------------------------------------------


def test_versus_itself(run: Run, tiny_gpt2: Path) -> None:
    found = record(run("--vs", str(tiny_gpt2), "--json", TEXT * 30))
    assert found["difference"]["nll"] == 0
    assert found["difference"]["same_top"] == 1
    assert found["vs"]["perplexity"] == pytest.approx(found["perplexity"])
    assert found["vs"]["perplexity_interval"] == pytest.approx(found["perplexity_interval"])


def test_versus_another_model(run: Run, tiny_gpt2: Path, tiny_llama: Path) -> None:
    found = record(run("--vs", str(tiny_llama), "--json", TEXT))
    alone = CliRunner().invoke(cli, ["score", "-m", str(tiny_llama), "--json", TEXT])
    assert found["vs"]["nll"] == pytest.approx(record(alone)["nll"], rel=1e-5)
    difference = found["difference"]
    assert difference["nll"] == pytest.approx(found["vs"]["nll"] - found["nll"])
    assert difference["kl_divergence"] > 0
    assert "KL divergence" in run("--vs", str(tiny_llama), TEXT).stdout


def test_versus_a_coarser_precision(run: Run) -> None:
    skip_without("bfloat16")
    found = record(run("--vs-precision", "bfloat16", "--json", TEXT * 3))
    assert found["vs"]["precision"] == "bfloat16"
    assert 0 < abs(found["difference"]["nll_per_token"]) < 0.05
    assert 0 < found["difference"]["kl_divergence"] < 0.01


@pytest.mark.skipif("fable" not in bundled_models(), reason="the bundled model is not there")
@pytest.mark.parametrize(
    ("precision", "least", "most"), [("int8", 0.0005, 0.006), ("int4", 0.01, 0.08)]
)
def test_what_a_quantised_model_loses(precision: str, least: float, most: float) -> None:
    """It is of the size that docs/performance.md tells, and int4's is the larger one."""
    skip_without(precision)
    text = " ".join(tale(seed, 12) for seed in range(8))
    args = ["score", "-m", "fable", "--precision", "float32", "--vs-precision", precision]
    result = CliRunner().invoke(cli, [*args, "--json", text])
    assert result.exit_code == 0, result.stderr
    difference = json.loads(result.stdout)["difference"]
    assert least < difference["kl_divergence"] < most
    assert 0.75 < difference["same_top"] < 1


# -- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "input", "message"),
    [
        ([""], None, "The text is empty"),
        (["--no-bos", "x"], None, "one token, and without BOS"),
        (["--stride", "0", "x"], None, "--stride is 0"),
        (["--stride", "-1", "x"], None, "--stride is -1"),
        (["--stride", "64", "x"], None, "less than the context (64)"),
        (["--stride", "100000", "x"], None, "less than the context (64)"),
        (["--context", "65", "x"], None, "at most 64 tokens"),
        (["--convention", "llama.cpp", "x"], None, "two whole windows, 128"),
        (["--convention", "lm-eval", "--no-bos", "x"], None, "always begins with BOS"),
        (["--tokens", "--by", "line", "x"], None, "exclude each other"),
        (["--vs-precision", "int8", "--by", "line", "x"], None, "--vs-precision and --by line"),
        (["--top", "3", "x"], None, "go with --by and --jsonl"),
        (["--field", "story", "x"], None, "--field goes with --jsonl"),
        (["--jsonl", "--by", "line"], "{}", "--by line and --jsonl exclude each other"),
        (["--jsonl", "--tokens"], "{}", "--tokens and --jsonl exclude each other"),
        (["--top-logprobs", "3", "x"], None, "goes with --tokens"),
        (["-i", "missing.txt"], None, "Cannot read missing.txt"),
        (["-i", "."], None, "is a directory"),
        ([], b"ab\xffcd", "byte 0xff at offset 2"),
        (["--by", "line"], b"ok\nab\xff\n", "Line 2 of stdin is not valid UTF-8"),
        (["--by", "line", "--no-bos"], "x\n", "Line 1 of stdin has one token"),
        (["--by", "line"], "\n\n", "The input is empty"),
        (["--prompt", "x", "--convention", "hf", "y"], None, "default convention only"),
        (
            ["--prompt", "the fo", "x"],
            None,
            "last token spans the join with it. End --prompt where",
        ),
        (["--prompt", "the fo", "--by", "line"], "x\n", "Line 1 of stdin has no token of its own"),
    ],
)
def test_bad_input(run: Run, args: list[str], input: Any, message: str) -> None:
    assert message in run(*args, input=input, code=2).stderr


def test_one_character_has_a_number(run: Run, tiny_gpt2: Path) -> None:
    nll = expected_nll(tiny_gpt2, "x")
    assert float(run("-q", "x").stdout) == pytest.approx(math.exp(float(nll)), rel=1e-4)


def test_replaced_bytes(run: Run) -> None:
    assert record(run("--json", "--errors", "replace", input=b"ab\xffcd"))["bytes"] == 7


def _broken(folder: Path, target: Path, *, bos: bool = True) -> Path:
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, target)
    if bos:
        weights = load_file(target / "model.safetensors")
        weights["transformer.wpe.weight"][5] = 3e38  # a number, whose square is none
        save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_nan_names_the_token(tiny_gpt2: Path, tmp_path: Path) -> None:
    model = _broken(tiny_gpt2, tmp_path / "nan")
    result = CliRunner().invoke(cli, ["score", "-m", str(model), TEXT])
    assert result.exit_code == 1
    assert "token 5 of the text a log-probability that is NaN" in result.stderr


def test_a_model_without_bos(tiny_gpt2: Path, tmp_path: Path) -> None:
    model = _broken(tiny_gpt2, tmp_path / "nobos", bos=False)
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        path = model / name
        if not path.exists():
            continue
        text = path.read_text("utf-8").replace("<|endoftext|>", "<|nothing|>")
        found = json.loads(text)
        for key in ("bos_token_id", "eos_token_id"):
            found.pop(key, None)
        path.write_text(json.dumps(found), "utf-8")
    result = CliRunner().invoke(cli, ["score", "-m", str(model), TEXT])
    assert result.exit_code == 2, result.stderr
    assert "neither a BOS nor an end-of-text token. Use --no-bos" in result.stderr
    assert CliRunner().invoke(cli, ["score", "-m", str(model), "--no-bos", TEXT]).exit_code == 0


# The whole command but for the arithmetic, which takes its time and holds one window at a time.
_WITHOUT_ARITHMETIC = """
import atexit, resource, sys
import numpy as np
from llmcli.__main__ import main
from llmcli.engine.row_stats import ROW_STATS
from llmcli.models.language_model import LanguageModel

class Decoder:
    state_size = 1

    def open(self):
        return 0

    def close(self, slot):
        pass

    def truncate(self, slot, length):
        pass

    def hidden(self, texts):
        return np.zeros((sum(len(ids) for _, ids in texts), 1), np.float32)

    def score(self, states, targets):
        found = np.zeros(len(states), ROW_STATS)
        found["log_sum_exp"] = 3
        return found

def say():
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)

LanguageModel.decoder = lambda self: Decoder()
atexit.register(say)
main()
"""


def test_memory_does_not_grow_with_the_text(tiny_gpt2: Path) -> None:
    """6 MB take what 2 MB take: a float kept of each token would be some 40 MB."""
    peaks = []
    for megabytes in (2, 6):
        process = subprocess.run(
            [sys.executable, "-c", _WITHOUT_ARITHMETIC, "score", "-m", str(tiny_gpt2), "--json"],
            input=TEXT.encode() * (megabytes * 1_000_000 // len(TEXT.encode())),
            capture_output=True,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        peaks.append(int(process.stderr.split()[-1]))
        assert json.loads(process.stdout)["tokens"] > 300_000 * megabytes
    assert peaks[1] - peaks[0] < 10_000, "kilobytes"
