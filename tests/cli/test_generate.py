"""llmcli generate: what it prints, in every form that can be asked for."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from conftest import RunLlmcli
from kernel_levels import skip_without

from llmcli._version import __version__
from llmcli.api import load
from llmcli.cli.main import cli

PROMPT = "Once upon a time"


class Generate:
    """``llmcli generate`` on one model, in this process."""

    def __init__(self, model: Path) -> None:
        self.model = str(model)

    def __call__(self, *args: str, input: str | bytes = "", code: int = 0) -> Result:
        arguments = ["generate", "-m", self.model, "--threads", "1", *args]
        result = CliRunner().invoke(cli, arguments, input=input)
        assert result.exit_code == code, result.stderr
        return result

    def records(self, *args: str, **options: Any) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self("--json", *args, **options).stdout.splitlines()]


@pytest.fixture(scope="module")
def generate(tiny_gpt2: Path) -> Generate:
    return Generate(tiny_gpt2)


def test_text_is_the_python_apis_and_a_newline(generate: Generate) -> None:
    result = generate("-n", "12", "--seed", "3", PROMPT)
    model = load(generate.model)
    expected = "".join(model.stream(PROMPT, max_new_tokens=12, seed=3))
    assert result.stdout == expected + "\n"
    assert result.stderr == ""


def test_parts_files_and_stdin_are_one_prompt(generate: Generate, tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    file.write_text("from a file\n")
    base = ["-n", "5", "--greedy", "--echo"]
    result = generate(*base, "-i", str(file), "one", "-", "two", input="piped\n")
    assert result.stdout.startswith("from a file\none\npiped\ntwo")
    assert generate(*base, input="piped\n").stdout == generate(*base, "piped").stdout
    kept = generate(*base, "--keep-newline", input="piped\n").stdout
    assert kept.startswith("piped\n")
    assert kept == generate(*base, "piped\n").stdout


@pytest.mark.parametrize("end", ["\n", "\0"])
def test_several_sequences(generate: Generate, end: str) -> None:
    null = ["-0"] if end == "\0" else []
    asked = ["-n", "6", "--seed", "2", "--temperature", "1", "--ignore-eos", PROMPT]
    texts = [r["text"] for r in generate.records(*asked, "--num-return-sequences", "3")]
    assert len(set(texts)) == 3
    result = generate(*asked, *null, "--num-return-sequences", "3")
    assert result.stdout == "".join(text + end for text in texts)
    echoed = generate(*asked, *null, "--num-return-sequences", "3", "--echo")
    assert echoed.stdout == "".join(PROMPT + text + end for text in texts)


def test_a_record_carries_all_that_made_it(generate: Generate) -> None:
    [record] = generate.records(
        *["-n", "4", "--seed", "9", "--temperature", "0.5", "--top-k", "7", "--stop", "zzz"],
        *["--logit-bias", "5=-inf", "--logit-bias", "6=1.5", PROMPT],
    )
    model = load(generate.model)
    sampling = record.pop("sampling")
    versions = record.pop("versions")
    assert versions["llmcli"] == __version__
    assert set(versions) == {"llmcli", "torch", "transformers", "tokenizers"}
    text = record.pop("text")
    assert text == "".join(
        model.stream(
            PROMPT,
            max_new_tokens=4,
            seed=9,
            temperature=0.5,
            top_k=7,
            logit_bias=((5, -float("inf")), (6, 1.5)),
        )
    )
    assert record == {
        "index": 0,
        "finish_reason": "length",
        "stop": None,
        "prompt_tokens": len(model.tokenizer.ids(PROMPT)),
        "completion_tokens": 4,
        "dropped_tokens": 0,
        "seed": 9,
        "model": generate.model,
        "revision": model.revision,
        "precision": "float32",
        "device": "cpu",
    }
    assert sampling["temperature"] == 0.5
    assert sampling["top_k"] == 7
    assert sampling["top_p"] == 0.95
    assert sampling["logit_bias"] == [[5, None], [6, 1.5]]
    assert sampling["stop"] == ["zzz"]


def test_a_seed_that_was_drawn_repeats_the_result(generate: Generate) -> None:
    [record] = generate.records("-n", "10", PROMPT)
    again = generate("-n", "10", "--seed", str(record["seed"]), PROMPT)
    assert again.stdout == record["text"] + "\n"


def test_tokens_in_json(generate: Generate) -> None:
    [record] = generate.records("-n", "8", "--seed", "1", "--logprobs", "3", PROMPT)
    tokens = record["tokens"]
    assert len(tokens) == record["completion_tokens"] == 8
    tokenizer = load(generate.model).tokenizer
    for token in tokens:
        assert set(token) == {"id", "token", "bytes", "logprob", "sampled_logprob", "top"}
        assert bytes(token["bytes"]) == tokenizer.token_bytes(token["id"])
        assert token["token"] == bytes(token["bytes"]).decode("utf-8", "replace")
        assert len(token["top"]) == 3
        assert token["logprob"] <= token["top"][0]["logprob"] <= 0
        assert token["sampled_logprob"] <= 0
    data = b"".join(bytes(t["bytes"]) for t in tokens)
    assert record["text"] == data.decode("utf-8", "replace")


def test_how_it_ended_is_said(generate: Generate) -> None:
    [full] = generate.records("-n", "max", "--greedy", "--ignore-eos", PROMPT)
    assert full["finish_reason"] == "context"
    assert full["prompt_tokens"] + full["completion_tokens"] == 64
    stop = full["text"][5:8]
    asked = ["--greedy", "--ignore-eos", "--stop", "zzz", "--stop", stop, PROMPT]
    [stopped] = generate.records(*asked)
    assert (stopped["finish_reason"], stopped["stop"]) == ("stop", stop)
    assert stopped["text"] == full["text"][: full["text"].index(stop)]
    [kept] = generate.records(*asked, "--keep-stop")
    assert kept["text"] == stopped["text"] + stop
    slid = ["-n", "100", "--greedy", "--ignore-eos", "--overflow", "slide", PROMPT]
    [slid_record] = generate.records(*slid)
    assert (slid_record["finish_reason"], slid_record["completion_tokens"]) == ("length", 100)
    assert slid_record["dropped_tokens"] > 0


@pytest.mark.parametrize("form", ["text", "json"])
def test_output_goes_to_a_file_whole(generate: Generate, tmp_path: Path, form: str) -> None:
    path = tmp_path / "out"
    asked = ["-n", "6", "--seed", "4", "--num-return-sequences", "2", "--temperature", "1", PROMPT]
    asked += ["--json"] if form == "json" else ["--echo"]
    result = generate(*asked, "-o", str(path))
    assert result.stdout == ""
    assert path.read_bytes() == generate(*asked).stdout_bytes


def test_statistics_go_to_stderr(generate: Generate) -> None:
    result = generate("-n", "5", "--ignore-eos", "--stats", "-q", PROMPT)
    assert "prompt tokens, 5 new tokens," in result.stderr
    assert " tokens/s, first token after " in result.stderr
    assert ", loaded in " in result.stderr
    assert result.stderr.count("\n") == 1
    assert re.search(r", \d+ threads?\n", result.stderr)


def test_verbose_accounts_for_all_the_time(clean_environment: dict[str, str]) -> None:
    """From the process' start, imports included, to the last line."""
    start = time.monotonic()
    call = [sys.executable, "-m", "llmcli", "generate", "-m", "fable", "-n", "40", "-v", "Once"]
    with subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        lines = [(time.monotonic() - start, line.decode()) for line in process.stderr]
    whole, text = next(line for line in lines if "s in all" in line[1])
    total = float(text.split()[0])
    spent = [float(line.split()[-2]) for _, line in lines if line.startswith("  ")]
    assert abs(sum(spent) - total) <= 0.05 * total
    assert abs(total - whole) <= 0.05 * whole + 0.05
    assert [line for _, line in lines if line.startswith("  writing tokens: ")]


def test_a_trailing_space_is_noticed(generate: Generate) -> None:
    result = generate("-n", "1", PROMPT + " ")
    assert result.stderr.startswith("Warning: The prompt ends in a space")
    assert generate("-n", "1", "-q", PROMPT + " ").stderr == ""
    assert generate("-n", "1", "--heal", PROMPT + " ").stderr == ""


def test_healing(generate: Generate) -> None:
    """The text goes on within the last word."""
    model = load(generate.model)
    removed = model.tokenizer.token_bytes(model.tokenizer.ids("a little fo")[-1])
    [record] = generate.records(
        "-n", "1", "--heal", "--logprobs", "0", "--seed", "1", "a little fo"
    )
    token = bytes(record["tokens"][0]["bytes"])
    assert token.startswith(removed)
    assert record["text"] == token.removeprefix(removed).decode("utf-8", "replace")


def test_beams(generate: Generate) -> None:
    records = generate.records("-n", "5", "--num-beams", "3", "--num-return-sequences", "2", PROMPT)
    assert [record["index"] for record in records] == [0, 1]
    assert records[0]["sampling"]["temperature"] == 0
    again = generate("-n", "5", "--num-beams", "3", PROMPT)
    assert again.stdout == records[0]["text"] + "\n"


def test_special_tokens_in_a_prompt(generate: Generate) -> None:
    text = "one<|endoftext|>two"
    counts = [
        generate.records("-n", "1", "--special", how, text)[0]["prompt_tokens"]
        for how in ("text", "allow")
    ]
    assert counts[0] > counts[1]
    result = generate("-n", "1", "--special", "forbid", text, code=2)
    assert "holds the special token '<|endoftext|>' at character 3" in result.stderr


def test_banned_phrases(generate: Generate) -> None:
    """Alone or after a space; only where all of it would stand."""
    asked = ["--greedy", "--ignore-eos", "-n", "12", "--logprobs", "0"]
    tokens = [each["token"] for each in generate.records(*asked, PROMPT)[0]["tokens"]]
    phrase = "".join(tokens[3:5])
    first = generate.records(*asked, "--ban", phrase, PROMPT)[0]
    assert phrase not in first["text"]
    assert [each["token"] for each in first["tokens"][:4]] == tokens[:4]
    assert first["sampling"]["bad_words_ids"]
    word = generate.records(*asked, "--ban", tokens[0], "--ban", "zzz", PROMPT)[0]
    assert tokens[0] not in [each["token"] for each in word["tokens"]]
    assert "--ban has no text" in generate("--ban", " ", PROMPT, code=2).stderr


def test_escapes_in_stop_texts(generate: Generate) -> None:
    sampling = generate.records("-n", "1", "--stop", r"a\n", "--stop", r"\\n\t\x", PROMPT)[0][
        "sampling"
    ]
    assert sampling["stop"] == ["a\n", "\\n\t\\x"]


def test_how_beams_end(generate: Generate) -> None:
    beams = ["--num-beams", "3", "-n", "8", PROMPT]
    sampling = generate.records("--length-penalty", "-2", *beams)[0]["sampling"]
    assert (sampling["length_penalty"], sampling["early_stopping"]) == (-2.0, False)
    for word, value in (("true", True), ("false", False), ("never", "never")):
        [record] = generate.records("--early-stopping", word, *beams)
        assert record["sampling"]["early_stopping"] == value


def test_defaults_come_from_the_model(tiny_gpt2: Path, tmp_path: Path) -> None:
    """generation_config.json first, then 0.8 and 0.95; what is given wins."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in tiny_gpt2.iterdir():
        (folder / file.name).symlink_to(file)
    config = folder / "generation_config.json"
    generate = Generate(folder)

    def settings(content: dict[str, Any], *args: str) -> tuple[float, float, int, float]:
        config.unlink(missing_ok=True)
        config.write_text(json.dumps({"eos_token_id": 0, **content}))
        sampling = generate.records("-n", "1", *args, PROMPT)[0]["sampling"]
        names = ("temperature", "top_p", "top_k", "repetition_penalty")
        return tuple(sampling[name] for name in names)

    assert settings({}) == (0.8, 0.95, 0, 1.0)
    assert settings({"repetition_penalty": 1.1}) == (0.8, 0.95, 0, 1.1)
    assert settings({"do_sample": True}) == (1.0, 1.0, 0, 1.0)
    assert settings({"do_sample": True, "top_k": 50}) == (1.0, 1.0, 50, 1.0)
    assert settings({"temperature": 0.6, "top_p": 0.9}) == (0.6, 0.9, 0, 1.0)
    penalty = {"do_sample": False, "repetition_penalty": 1.2}
    assert settings(penalty)[0::3] == (0.0, 1.2)
    assert settings(penalty, "--temperature", "0.5")[0::3] == (0.5, 1.2)
    config.write_text(json.dumps({"temperature": -1}))
    result = generate(PROMPT, code=1)
    assert "generation_config.json is invalid: temperature is -1." in result.stderr


@pytest.mark.parametrize("draft", ["ngram", "int8", "the model"])
def test_a_draft_changes_no_text(run_llmcli: RunLlmcli, tiny_gpt2: Path, draft: str) -> None:
    if draft == "int8":
        skip_without(draft)
    model = str(tiny_gpt2)
    call = ("generate", "-m", model, "-n", "30", "--seed", "3", "the fox the fox the fox")
    plain = run_llmcli(*call)
    name = model if draft == "the model" else draft
    drafted = run_llmcli(*call, "--draft", name, "--stats")
    assert drafted.stdout == plain.stdout != b""
    assert b" tokens taken" in drafted.stderr


def test_a_draft_with_another_vocabulary_is_refused(
    run_llmcli: RunLlmcli, tiny_gpt2: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(tiny_gpt2, tmp_path / "other"))
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[5:7]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    result = run_llmcli("generate", "-m", str(tiny_gpt2), "--draft", str(other), "the fox")
    assert result.returncode == 2
    assert b"another vocabulary" in result.stderr


def test_a_context_of_ones_own(tiny_llama: Path) -> None:
    generate = Generate(tiny_llama)
    args = ("--greedy", "--no-echo", "--json", "Once upon a time")
    whole = generate.records("-n", "40", *args)[0]
    ids = whole["prompt_tokens"] + whole["completion_tokens"]
    short = generate.records("--context", str(ids - 3), *args)[0]
    assert short["finish_reason"] == "context"
    assert short["prompt_tokens"] + short["completion_tokens"] <= ids - 3
    assert whole["text"].startswith(short["text"][:20])
    result = generate("--context", "65", "Once", code=2)
    assert "A context of 65 was asked for" in result.stderr
    generate("--context", "0", "Once", code=2)


def test_a_model_that_states_no_context(tiny_gpt2: Path, tmp_path: Path) -> None:
    from transformers import BloomConfig, BloomForCausalLM

    size = json.loads((tiny_gpt2 / "config.json").read_bytes())["vocab_size"]
    config = BloomConfig(vocab_size=size, hidden_size=32, n_layer=1, n_head=4)
    BloomForCausalLM(config).save_pretrained(tmp_path)
    shutil.copy(tiny_gpt2 / "tokenizer.json", tmp_path)
    generate = Generate(tmp_path)
    long = "the fox " * 1500
    assert generate.records("-n", "2", "the fox")[0]["finish_reason"] == "length"
    result = generate("-n", "2", "--overflow", "error", long, code=2)
    assert "the context holds 2048" in result.stderr
    generate("-n", "2", "--context", "4000", "--overflow", "error", long)
    score = ["score", "-m", str(tmp_path), "--context", "4000", long]
    assert CliRunner().invoke(cli, score).exit_code == 0
