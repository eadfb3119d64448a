"""llmcli rank as a user runs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from click.testing import CliRunner, Result

from llmcli.api import load
from llmcli.cli.main import cli

PROMPT = "The fox said to the crow:"
CHOICES = ["give me the cheese", "nothing at all", "[/red] 東京"]


def run(model: Path, *args: str, input: str | None = None, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["rank", "-m", str(model), "--threads", "1", *args], input)
    assert result.exit_code == code, result.stderr
    return result


def loglikelihood(folder: Path, before: str, after: str) -> float:
    model = load(str(folder))
    first = model.tokenizer.ids(before)
    ids = torch.tensor([first + model.tokenizer.ids(after)])
    with torch.no_grad():
        logprobs = torch.log_softmax(model.module(ids[:, :-1]).logits[0].double(), 1)
    return float(logprobs[len(first) - 1 :].gather(1, ids[0, len(first) :, None]).sum())


def test_json(tiny_gpt2: Path) -> None:
    found: dict[str, Any] = json.loads(
        run(tiny_gpt2, "--json", "--prompt", PROMPT, *CHOICES).stdout
    )
    expected = {choice: loglikelihood(tiny_gpt2, PROMPT, f" {choice}") for choice in CHOICES}
    order = sorted(CHOICES, key=lambda choice: -expected[choice])
    assert [each["choice"] for each in found["choices"]] == order
    for each in found["choices"]:
        assert each["logprob"] == pytest.approx(expected[each["choice"]], abs=1e-4)
        assert CHOICES[each["index"]] == each["choice"]
    assert sum(each["probability"] for each in found["choices"]) == pytest.approx(1)
    assert found["normalize"] == "none"
    assert found["model"] == str(tiny_gpt2)


def test_table_shows_choices_as_they_are(tiny_gpt2: Path) -> None:
    out = run(tiny_gpt2, "--prompt", PROMPT, "--normalize", "pmi", *CHOICES).stdout
    for choice in CHOICES:
        assert choice in out
    assert "PMI" in out


def test_quiet_is_the_first_choice(tiny_gpt2: Path) -> None:
    found = json.loads(run(tiny_gpt2, "--json", "--prompt", PROMPT, *CHOICES).stdout)
    out = run(tiny_gpt2, "-q", "--prompt", PROMPT, *CHOICES).stdout
    assert out == found["choices"][0]["choice"] + "\n"


def test_the_prompt_may_be_piped_in(tiny_gpt2: Path, tmp_path: Path) -> None:
    named = run(tiny_gpt2, "--json", "--prompt", PROMPT, *CHOICES).stdout
    assert run(tiny_gpt2, "--json", *CHOICES, input=PROMPT + "\n").stdout == named
    file = tmp_path / "prompt.txt"
    file.write_text(PROMPT + "\n", "utf-8")
    assert run(tiny_gpt2, "--json", "-i", str(file), *CHOICES).stdout == named


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--prompt", PROMPT], "There is no choice"),
        (["--prompt", PROMPT, "a", ""], "Choice 2 is empty"),
        (["--prompt", PROMPT * 30, "a"], "tokens; the model takes 65"),
    ],
)
def test_bad_input(tiny_gpt2: Path, args: list[str], message: str) -> None:
    error = run(tiny_gpt2, *args, code=2).stderr
    assert message in error
    assert error.count("\n") == 1


def test_a_tokenizer_that_adds_bos_is_taken_at_its_word(tiny_llama: Path, tmp_path: Path) -> None:
    """As lm-evaluation-harness: both texts are encoded as the tokenizer encodes any text."""
    folder = bos_adding(tiny_llama, tmp_path / "llama")
    library: Any = transformers
    tokenizer = library.AutoTokenizer.from_pretrained(str(folder))
    module = library.AutoModelForCausalLM.from_pretrained(str(folder)).eval()
    assert tokenizer.encode("a")[0] == tokenizer.bos_token_id

    def summed(ids: list[int], begin: int) -> float:
        with torch.no_grad():
            logprobs = torch.log_softmax(module(torch.tensor([ids[:-1]])).logits[0].double(), 1)
        rows = logprobs[begin - 1 :]
        return float(rows.gather(1, torch.tensor(ids[begin:])[:, None]).sum())

    whole, alone = tokenizer.encode(f"{PROMPT} park"), tokenizer.encode(PROMPT)
    for flags, skipped in (([], 0), (["--bos"], 0), (["--no-bos"], 1)):
        found = json.loads(run(folder, "--json", "--prompt", PROMPT, *flags, "park").stdout)
        expected = summed(whole[skipped:], len(alone) - skipped)
        assert found["choices"][0]["logprob"] == pytest.approx(expected, abs=1e-4)

    # loglikelihood_rolling puts a BOS of its own before the tokenizer's, which is scored.
    text = f"{PROMPT} give me the cheese"
    args = ["score", "--json", "--convention", "lm-eval", "-m", str(folder), text]
    result = CliRunner().invoke(cli, args)
    rolling = [tokenizer.bos_token_id, *tokenizer.encode(text)]
    assert json.loads(result.stdout)["nll"] == pytest.approx(-summed(rolling, 1), abs=1e-3)
    tokens = CliRunner().invoke(cli, [*args[:1], "--tokens", *args[1:]])
    *shown, total = map(json.loads, tokens.stdout.splitlines())
    assert "".join(each["token"] for each in shown) == text
    assert len(shown) == len(rolling) - 2 == total["tokens"] - 1
    empty = CliRunner().invoke(cli, [*args[:-1], ""])
    assert empty.exit_code == 2


def bos_adding(folder: Path, target: Path) -> Path:
    """A copy of a model whose tokenizer begins every text with BOS, as Llama's does."""
    shutil.copytree(folder, target)
    tokenizer = tokenizers.Tokenizer.from_file(str(target / "tokenizer.json"))
    token = "<|endoftext|>"
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{token} $A", special_tokens=[(token, tokenizer.token_to_id(token))]
    )
    tokenizer.save(str(target / "tokenizer.json"))
    path = target / "tokenizer_config.json"
    config = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**config, "bos_token": token}))
    return target
