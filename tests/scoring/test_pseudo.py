"""Pseudo-log-likelihoods against a plain loop over transformers, and what goes with them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from schemas import kind_of
from tiny_translators import MASKED

from llmcli.api import load
from llmcli.cli.main import cli
from llmcli.errors import UnsupportedModel
from llmcli.models.kinds import MASKED as MASKED_KINDS
from llmcli.models.language_model import LanguageModel
from llmcli.models.loader import load_resolved
from llmcli.models.options import LoadOptions
from llmcli.tasks.fill import fill_gaps
from llmcli.tokenization.tokenizer import Tokenizer
from llmcli.tokenization.words import words_of

TEXT = "The old fox walked unkindly. In the house by the river, friends said: good morning!"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {name: tmp_path_factory.mktemp(name) for name in MASKED}
    for name, folder in made.items():
        MASKED[name](folder)
    return made


def loaded(folder: Path) -> LanguageModel:
    options = LoadOptions(model=str(folder), device="cpu")
    return load_resolved(options.resolve(), options, kinds=MASKED_KINDS)


def tokenizer_of(folder: Path) -> Any:
    from transformers import AutoTokenizer

    load: Any = AutoTokenizer.from_pretrained
    return load(str(folder))


def by_a_plain_loop(folder: Path, text: str, *, by_words: bool) -> list[float]:
    """Each token masked, with the rest of its word where that is asked for; 22 at a time."""
    from transformers import AutoModelForMaskedLM

    load: Any = AutoModelForMaskedLM.from_pretrained
    module, tokenizer = load(str(folder)).eval(), tokenizer_of(folder)
    encoded = tokenizer(text, add_special_tokens=False)
    found = []
    for start in range(0, len(encoded["input_ids"]), 22):
        ids = encoded["input_ids"][start : start + 22]
        words = encoded.word_ids()[start : start + 22]
        whole = [tokenizer.cls_token_id, *ids, tokenizer.sep_token_id]
        for place, token in enumerate(ids):
            masked = torch.tensor([whole])
            masked[0, place + 1] = tokenizer.mask_token_id
            for later in range(place + 1, len(ids)):
                if by_words and words[later] == words[place]:
                    masked[0, later + 1] = tokenizer.mask_token_id
            with torch.no_grad():
                logits = module(masked).logits[0, place + 1].double()
            found.append(float(torch.log_softmax(logits, -1)[token]))
    return found


def run(*args: str) -> Result:
    return CliRunner().invoke(cli, list(args))


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize("convention", ["pll", "pll-word-l2r"])
def test_each_token_is_given_those_around_it(
    folders: dict[str, Path], name: str, convention: str
) -> None:
    expected = by_a_plain_loop(folders[name], TEXT, by_words=convention == "pll-word-l2r")
    assert len(expected) > 22
    command = ["score", "-m", str(folders[name]), "--convention", convention, "--json"]
    result = run(*command, "--tokens", "--top-logprobs", "2", TEXT)
    assert result.exit_code == 0, result.stderr
    *tokens, total = map(json.loads, result.stdout.splitlines())
    assert kind_of("score", result.stdout.splitlines()[-1]) == "PseudoTotal"
    found = torch.tensor([token["logprob"] for token in tokens], dtype=torch.float64)
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-4
    )
    assert total["pseudo_nll"] == pytest.approx(-math.fsum(expected), rel=1e-5)
    mean = -math.fsum(expected) / len(expected)
    assert total["pseudo_perplexity"] == pytest.approx(math.exp(mean), rel=1e-5)
    assert "perplexity" not in total
    assert "nll" not in total
    batched = json.loads(run(*command, "--batch-size", "3", TEXT).stdout)
    assert batched["pseudo_nll"] == pytest.approx(total["pseudo_nll"], rel=1e-6)


def test_the_two_conventions_differ_where_words_have_several_tokens(
    folders: dict[str, Path],
) -> None:
    plain, by_words = (
        by_a_plain_loop(folders["bert"], TEXT, by_words=each) for each in (False, True)
    )
    assert max(abs(a - b) for a, b in zip(plain, by_words, strict=True)) > 1e-3


@pytest.fixture(scope="module")
def tokenizers(folders: dict[str, Path]) -> list[tuple[Tokenizer, Any]]:
    """Ours and transformers'."""
    return [(Tokenizer.from_folder(each), tokenizer_of(each)) for each in folders.values()]


@settings(max_examples=100, deadline=None)
@given(text=st.text("the foxwalk\n,.é'!-ß東", max_size=30))
def test_words_are_those_of_the_library(tokenizers: list[tuple[Tokenizer, Any]], text: str) -> None:
    for tokenizer, reference in tokenizers:
        ids = tokenizer.ids(text)
        encoded = reference(text, add_special_tokens=False)
        assert encoded["input_ids"] == ids
        theirs, ours = encoded.word_ids(), words_of(tokenizer, ids)
        pairs = set(zip(theirs, ours, strict=True))
        assert len(pairs) == len(set(theirs)) == len(set(ours)), (ids, theirs, ours)


def test_rows_tables_and_gates_say_pseudo(folders: dict[str, Path], tmp_path: Path) -> None:
    score = ["score", "-m", str(folders["bert"]), "--convention", "pll"]
    table = run(*score, TEXT).stdout
    assert "pseudo-perplexity" in table
    assert "pseudo-log-likelihood" in table
    rows = run(*score, "--by", "line", "the fox\nthe hens said")
    assert "pseudo-ppl" in rows.stdout
    assert "mean pseudo perplexity" in rows.stdout
    (tmp_path / "in.jsonl").write_text('{"text": "the fox"}\n{"text": ""}\n')
    out = tmp_path / "out.jsonl"
    assert run(*score, "--jsonl", "-i", str(tmp_path / "in.jsonl"), "-o", str(out)).exit_code == 4
    first, empty = map(json.loads, out.read_text("utf-8").splitlines())
    assert first["pseudo_perplexity"] > 1
    assert "error" in empty
    gate = run(*score, "--max-ppl", "1.5", TEXT)
    assert gate.exit_code == 3
    assert "The pseudo-perplexity is" in gate.stderr
    page = tmp_path / "page.html"
    assert run(*score, "--html", str(page), TEXT).exit_code == 0
    assert '"pseudo-perplexity"' in page.read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--convention", "pll", "--bos"], 2, "Leave out --bos"),
        (["--convention", "pll", "--stride", "4"], 2, "has no stride"),
        (["--convention", "pll", "--context", "23"], 2, "at most 22"),
        (["--convention", "pll", "--prompt", "a"], 2, "default convention only"),
        (["--convention", "pll", "--vs", "fable"], 2, "--vs does not go with"),
        ([], 1, "fills gaps"),
    ],
)
def test_what_does_not_go_with_a_masked_model(
    folders: dict[str, Path], arguments: list[str], code: int, words: str
) -> None:
    result = run("score", "-m", str(folders["bert"]), *arguments, TEXT)
    assert result.exit_code == code
    assert words in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: ")


@pytest.mark.parametrize("name", MASKED)
def test_gaps_are_filled_as_transformers_does(folders: dict[str, Path], name: str) -> None:
    from transformers import AutoModelForMaskedLM

    load: Any = AutoModelForMaskedLM.from_pretrained
    module, tokenizer = load(str(folders[name])).eval(), tokenizer_of(folders[name])
    answer = fill_gaps(loaded(folders[name]), "The old [MASK] said good [MASK].", count=4)
    ids = tokenizer("The old [MASK] said good [MASK].".replace("[MASK]", tokenizer.mask_token))
    with torch.no_grad():
        logits = module(torch.tensor([ids["input_ids"]])).logits[0]
    places = [i for i, t in enumerate(ids["input_ids"]) if t == tokenizer.mask_token_id]
    assert [gap.position + 1 for gap in answer.gaps] == places
    for gap, place in zip(answer.gaps, places, strict=True):
        best = torch.log_softmax(logits[place].double(), -1).topk(4)
        assert [each.id for each in gap.candidates] == best.indices.tolist()
        found = torch.tensor([each.logprob for each in gap.candidates], dtype=torch.float64)
        torch.testing.assert_close(found, best.values, rtol=1e-4, atol=1e-4)


def test_the_python_api_says_the_same(folders: dict[str, Path]) -> None:
    model = load(str(folders["bert"]), device="cpu")
    text = "The [MASK] sat."
    answer = model.fill(text, count=2)
    result = run("fill", "-m", str(folders["bert"]), "-n", "2", "--json", text)
    assert kind_of("fill", result.stdout) == "Filling"
    assert answer.to_dict()["gaps"] == json.loads(result.stdout)["gaps"]
    assert answer._repr_html_().count("<tr>") == 3
    assert model.score(TEXT, convention="pll").to_dict()["pseudo_perplexity"] > 1
    with pytest.raises(UnsupportedModel, match="fills gaps"):
        model.generate("The fox")
    with pytest.raises(UnsupportedModel, match="fills gaps"):
        model.score(TEXT)
    with pytest.raises(UnsupportedModel, match="fills no gaps"):
        load("fable", device="cpu").score(TEXT, convention="pll")


def test_the_command_fill(folders: dict[str, Path], tmp_path: Path, tiny_gpt2: Path) -> None:
    def fill(*arguments: str) -> Result:
        return run("fill", "-m", str(folders["bert"]), *arguments)

    record = json.loads(fill("--json", "-n", "3", "The [MASK] sat.").stdout)
    assert len(record["gaps"][0]["candidates"]) == 3
    table = fill("-n", "2", "The [MASK] and the [MASK].")
    assert "gap 2" in table.stdout
    assert "each is filled by itself" in table.stderr
    source = tmp_path / "in.jsonl"
    source.write_text('{"prompt": "The [MASK] sat."}\n{"prompt": "none"}\n')
    batch = fill("--jsonl", "-n", "3", "-i", str(source))
    assert batch.exit_code == 4
    first, broken = map(json.loads, batch.stdout.splitlines())
    assert first["gaps"] == record["gaps"]
    assert "no [MASK]" in broken["error"]
    for text, words in (
        ("no gap", "has no [MASK]"),
        ("[MASK] [SEP]", "special token '[SEP]'"),
        ("[MASK] " + "fox " * 40, "reads 22 at once"),
    ):
        refused = fill(text)
        assert refused.exit_code == 2
        assert words in refused.stderr
    causal = run("fill", "-m", str(tiny_gpt2), "a [MASK]")
    assert causal.exit_code == 1
    assert "fills no gaps" in causal.stderr
