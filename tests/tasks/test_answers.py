"""Encoders with decoders against transformers' own generate, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from tiny_translators import TRANSLATORS

from llmcli.api import LanguageModel, load
from llmcli.cli.main import cli
from llmcli.errors import InvalidInput, UnsupportedModel
from llmcli.tasks.answers import Answers, AnswerSettings
from llmcli.tasks.generate import continue_text
from llmcli.tasks.prompts import sampling_params

pytest.importorskip("sentencepiece")
pytest.importorskip("google.protobuf")
pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")

TEXT = "the old fox said good morning"
# By family: the languages that are asked for, and what transformers calls them.
LANGUAGES: dict[str, tuple[str | None, str | None]] = {
    "t5": (None, None),
    "bart": (None, None),
    "marian": (None, "fra"),
    "nllb": ("deu_Latn", "fra_Latn"),
    "m2m100": ("de", "fr"),
}
SETTINGS: list[dict[str, Any]] = [
    {},
    {"num_beams": 1, "max_new_tokens": 12},
    {"num_beams": 1, "max_new_tokens": 12, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
    {"num_beams": 4, "max_new_tokens": 9},
    {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 9, "length_penalty": 0.5},
    {"num_beams": 1, "max_new_tokens": 10, "min_new_tokens": 6, "suppress_tokens": (9, 10)},
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            TRANSLATORS[name](made[name])
        return made[name]

    return folder


def reference(folder: Path, source: str | None, target: str | None) -> tuple[Any, Any, Any, Any]:
    """transformers' tokenizer, model, source and the arguments of generate."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    load_tokenizer: Any = AutoTokenizer.from_pretrained
    load_model: Any = AutoModelForSeq2SeqLM.from_pretrained
    tokenizer = load_tokenizer(str(folder), **({} if source is None else {"src_lang": source}))
    forced, text = None, TEXT
    if hasattr(tokenizer, "get_lang_id"):
        forced = tokenizer.get_lang_id(target)
    elif source is not None:
        forced = tokenizer.convert_tokens_to_ids(target)
    elif target is not None:
        text = f">>{target}<< {TEXT}"
    arguments = {} if forced is None else {"forced_bos_token_id": forced}
    return tokenizer, load_model(str(folder)).eval(), tokenizer(text)["input_ids"], arguments


def answered(
    model: LanguageModel, given: dict[str, Any], answers: Answers
) -> list[tuple[list[int], str]]:
    params = sampling_params(model, given)
    found: dict[int, tuple[list[int], list[str]]] = {}
    for event in continue_text(model, TEXT, params, answers=answers).events:
        ids, texts = found.setdefault(event.index, ([], []))
        texts.append(event.text)
        if event.token_id is not None:
            ids.append(event.token_id)
    return [(ids, "".join(texts)) for ids, texts in found.values()]


@pytest.mark.parametrize("family", TRANSLATORS)
def test_answers_are_those_of_transformers(folders: Callable[[str], Path], family: str) -> None:
    folder = folders(family)
    source, target = LANGUAGES[family]
    tokenizer, module, ids, forced = reference(folder, source, target)
    model = load(str(folder), device="cpu")
    answers = Answers(model, AnswerSettings(source_lang=source, target_lang=target))
    assert list(answers.source(TEXT, sampling_params(model, {}))[0]) == ids
    for given in SETTINGS:
        asked = {"max_new_tokens": 40, **given} if family != "marian" else given
        found = answered(model, asked, answers)
        theirs = {key: list(v) if isinstance(v, tuple) else v for key, v in asked.items()}
        rows = module.generate(torch.tensor([ids]), do_sample=False, **forced, **theirs)[:, 1:]
        assert len(found) == len(rows)
        for (ours, text), row in zip(found, rows.tolist(), strict=True):
            end = row.index(model.eos_ids[0]) + 1 if model.eos_ids[0] in row else len(row)
            assert ours == row[:end], (family, given)
            # M2M100's tokenizer does not skip its languages.
            plain = [i for i in ours if i not in model.tokenizer.special_ids]
            decoded = tokenizer.decode(plain, clean_up_tokenization_spaces=False)
            assert text.strip() == decoded.strip()  # Marian's decoding strips, too


@pytest.mark.parametrize("family", ["t5", "bart", "nllb"])
def test_what_is_sampled_has_the_probabilities_of_one_whole_forward(
    folders: Callable[[str], Path], family: str
) -> None:
    _, module, ids, _ = reference(folders(family), None, None)
    model = load(str(folders(family)), device="cpu")
    given = {"temperature": 1.0, "seed": 3, "max_new_tokens": 12, "logprobs": 2}
    given |= {"num_return_sequences": 2, "top_p": 1.0}
    params = sampling_params(model, given)
    events = list(continue_text(model, TEXT, params).events)
    for index in (0, 1):
        drawn = [event for event in events if event.index == index and event.token_id is not None]
        tokens = [event.token_id for event in drawn]
        start = module.config.decoder_start_token_id
        with torch.inference_mode():
            begun = torch.tensor([[start, *tokens[:-1]]])
            logits = module(torch.tensor([ids]), decoder_input_ids=begun).logits[0].double()
        expected = torch.log_softmax(logits, -1)[range(len(tokens)), tokens]
        told = torch.tensor([event.logprob for event in drawn], dtype=torch.float64)
        torch.testing.assert_close(told, expected, rtol=1e-4, atol=1e-4)


def test_a_prefix_begins_the_answer(folders: Callable[[str], Path]) -> None:
    tokenizer, module, ids, forced = reference(folders("nllb"), "deu_Latn", "fra_Latn")
    model = load(str(folders("nllb")), device="cpu")
    settings = AnswerSettings(source_lang="deu_Latn", target_lang="fra_Latn", prefix="le renard")
    ((ours, text),) = answered(model, {"max_new_tokens": 6}, Answers(model, settings))
    prefix = tokenizer("le renard", add_special_tokens=False)["input_ids"]
    begun = [2, forced["forced_bos_token_id"], *prefix]
    row = module.generate(
        torch.tensor([ids]), decoder_input_ids=torch.tensor([begun]), max_new_tokens=6
    )[0].tolist()
    assert ours == row[len(begun) :]
    shown = tokenizer.decode(begun + ours, skip_special_tokens=True)
    assert "le renard" + text == shown


def test_the_python_api_says_the_same(folders: Callable[[str], Path]) -> None:
    folder = folders("nllb")
    model = load(str(folder), device="cpu")
    asked: dict[str, Any] = {"target_lang": "fra_Latn", "max_new_tokens": 5}
    answer = model.generate(TEXT, **asked)
    command = run("generate", "-m", str(folder), "--target-lang", "fra_Latn", "-n", "5", TEXT)
    assert answer.text + "\n" == command.stdout
    assert answer.text == "".join(model.stream(TEXT, **asked))
    assert answer.text != model.generate(TEXT, max_new_tokens=5).text
    for refused in (model.score, model.next, model.fill):
        with pytest.raises(UnsupportedModel, match="encoder with a decoder"):
            refused(TEXT + " [MASK]")


def run(*args: str) -> Result:
    return CliRunner().invoke(cli, list(args))


def test_the_command(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = str(folders("marian"))
    plain = run("generate", "-m", folder, "--target-lang", "fra", TEXT)
    assert plain.exit_code == 0, plain.stderr
    record = json.loads(
        run("generate", "-m", folder, "--target-lang", "fra", "--json", TEXT).stdout
    )
    assert plain.stdout == record["text"] + "\n"
    assert record["sampling"]["num_beams"] == 3
    assert record["prompt_tokens"] == len(reference(Path(folder), None, "fra")[2])
    lines = "".join(json.dumps({"prompt": text}) + "\n" for text in (TEXT, "", "hens"))
    (tmp_path / "in.jsonl").write_text(lines)
    command = ["generate", "-m", folder, "--target-lang", "fra", "--jsonl"]
    batch = run(*command, "-i", str(tmp_path / "in.jsonl"))
    assert batch.exit_code == 4
    first, empty, last = map(json.loads, batch.stdout.splitlines())
    assert first["text"] == record["text"]
    assert "error" in empty
    assert last["text"]
    echoed = run("generate", "-m", folder, "--prefix", "le", "--echo", "-n", "3", TEXT)
    assert echoed.stdout.startswith("le")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--heal"], "--heal does not go"),
        (["--bos"], "--bos does not go"),
        (["--overflow", "slide"], "--overflow slide does not go"),
        (["--draft", "ngram"], "--draft does not go"),
        (["--target-lang", "klingon"], "has no token for the language 'klingon'"),
        (["--target-lang", "frb_Latn"], "fra_Latn"),
        (["--prefix", "le " * 60], "tokens; the context holds 48"),
    ],
)
def test_what_does_not_go_with_answers(
    folders: Callable[[str], Path], arguments: list[str], words: str
) -> None:
    result = run("generate", "-m", str(folders("nllb")), *arguments, TEXT)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_what_goes_with_answers_alone(folders: Callable[[str], Path], tiny_gpt2: Path) -> None:
    for option in (["--target-lang", "fra"], ["--source-lang", "fra"], ["--prefix", "le"]):
        result = run("generate", "-m", str(tiny_gpt2), *option, TEXT)
        assert result.exit_code == 2
        assert option[0] in result.stderr
    for command in (["score"], ["rank", "--prompt", "a"], ["next"], ["chat"]):
        result = run(*command, "-m", str(folders("t5")), TEXT)
        assert result.exit_code == 1
        assert "encoder with a decoder" in result.stderr
    with pytest.raises(InvalidInput, match="no tokens for languages"):
        Answers(load(str(folders("t5")), device="cpu"), AnswerSettings(target_lang="fr"))
    model = load(str(folders("bart")), device="cpu")
    with pytest.raises(InvalidInput, match="holds 46"):
        continue_text(model, "fox " * 99, sampling_params(model, {}))
