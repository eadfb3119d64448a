"""The names that llmcli promises, and what the Python API does with them."""

from __future__ import annotations

import inspect
import json
import os
import re
import xml.etree.ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import llmcli
from llmcli.cli.main import cli
from llmcli.errors import InvalidInput, ModelNotFound

UPDATE = os.environ.get("LLMCLI_UPDATE_DOCS") == "1"


def test_the_names() -> None:
    assert llmcli.__all__ == sorted(llmcli.__all__)
    for name in llmcli.__all__:
        assert getattr(llmcli, name) is not None
    assert set(llmcli.__all__) <= set(dir(llmcli))
    namespace: dict[str, object] = {}
    exec("from llmcli import *", namespace)  # noqa: S102
    assert set(llmcli.__all__) <= {*namespace, "__version__"}


def test_public_names_have_docstrings() -> None:
    for name in llmcli.__all__:
        if name != "__version__":
            assert getattr(llmcli, name).__doc__, name


def test_a_misspelt_name() -> None:
    """mypy sees it, too: it would call the comment unused if it did not."""
    with pytest.raises(AttributeError, match="has no attribute 'laod'"):
        llmcli.laod  # type: ignore[attr-defined]  # noqa: B018


def test_stream_from_python(tiny_gpt2: Path) -> None:
    model = llmcli.load(str(tiny_gpt2))
    pieces = list(model.stream("Once upon a time", max_new_tokens=8, seed=1))
    assert pieces
    assert all(pieces)
    assert "".join(pieces) == "".join(model.stream("Once upon a time", max_new_tokens=8, seed=1))


def test_mistakes_are_raised_at_the_call(tiny_gpt2: Path) -> None:
    """Not when the first piece is asked for."""
    model = llmcli.load(str(tiny_gpt2))
    with pytest.raises(InvalidInput, match="temperature"):
        model.stream("x", temperature=-1)
    with pytest.raises(InvalidInput, match="There is no setting 'temprature'"):
        model.stream("x", temprature=1)
    with pytest.raises(InvalidInput, match="The prompt is empty"):
        model.stream("")
    with pytest.raises(InvalidInput, match="precision"):
        llmcli.load(str(tiny_gpt2), precision="float16")
    with pytest.raises(InvalidInput, match="device"):
        llmcli.load(str(tiny_gpt2), device="tpu")
    with pytest.raises(ModelNotFound):
        llmcli.load(str(tiny_gpt2 / "nothing"))


# -- what the command line has, from Python --------------------------------------------------

TEXT = "Once upon a time there was a little fox."


@pytest.fixture(scope="module")
def model(tiny_gpt2: Path) -> llmcli.LanguageModel:
    return llmcli.load(str(tiny_gpt2), threads=1)


def command(model: llmcli.LanguageModel, *args: str) -> dict[str, Any]:
    """The record that a command prints, without what no two calls have in common."""
    call = [*args, "-m", str(model.folder), "--threads", "1", "--json"]
    done = CliRunner().invoke(cli, call)
    assert done.exit_code == 0, done.stderr
    return comparable(json.loads(done.stdout))


def comparable(record: dict[str, Any]) -> dict[str, Any]:
    record = json.loads(json.dumps(record))
    return {k: v for k, v in record.items() if k not in ("seconds", "tokens_per_second")}


def test_answers_are_the_commands_records(model: llmcli.LanguageModel) -> None:
    answer = model.generate(TEXT, seed=4, max_new_tokens=6, logprobs=2)
    args = ("generate", "--seed", "4", "-n", "6", "--logprobs", "2", TEXT)
    assert comparable(answer.to_dict()) == command(model, *args)
    assert str(answer) == answer.text == "".join(model.stream(TEXT, seed=4, max_new_tokens=6))
    found = model.next(TEXT, count=3, temperature=0.5)
    theirs = command(model, "next", "-n", "3", "--temperature", "0.5", TEXT)
    assert comparable(found.to_dict()) == theirs
    assert comparable(model.score(TEXT).to_dict()) == command(model, "score", TEXT)
    ranked = model.rank("Once upon", [" a time", " the fox"])
    theirs = command(model, "rank", "--prompt", "Once upon", " a time", " the fox")
    assert comparable(ranked.to_dict()) == theirs


def test_encode_and_decode(model: llmcli.LanguageModel) -> None:
    tokens = model.encode("naïve 東京")
    assert tokens.ids == model.tokenizer.ids("naïve 東京")
    assert b"".join(tokens.data) == "naïve 東京".encode()
    assert model.decode(tokens.ids) == "naïve 東京"
    with pytest.raises(InvalidInput, match="outside the vocabulary"):
        model.decode([10**7])


def test_calibrate_and_chat(model: llmcli.LanguageModel) -> None:
    found = model.calibrate(TEXT * 40, bins=5)
    assert found.tokens > 200
    assert sum(each.tokens for each in found.bins) == found.tokens
    said = [{"role": "user", "content": "Hello"}]
    reply = model.chat(said, template="plain", seed=1, max_new_tokens=5)
    assert reply == model.chat(said, template="plain", seed=1, max_new_tokens=5)
    assert 0 < reply.completion_tokens <= 5
    with pytest.raises(InvalidInput, match="no chat template"):
        model.chat(said)


def test_a_notebook_shows_tables(model: llmcli.LanguageModel) -> None:
    results: list[Any] = [
        model.generate("<b>", seed=1, max_new_tokens=3),
        model.generate(TEXT, seed=1, max_new_tokens=3, logprobs=0),
        model.next(TEXT),
        model.score(TEXT),
        model.rank("A", ["<i>", " b"]),
    ]
    for result in results:
        shown = result._repr_html_()
        xml.etree.ElementTree.fromstring(shown)
        assert "<b>" not in shown
        assert "<i>" not in shown
    assert repr(model) == f"<llmcli.LanguageModel {model.name} (float32 on cpu)>"


def test_more_mistakes(model: llmcli.LanguageModel) -> None:
    for call, name in (
        (lambda: model.score(TEXT, strid=3), "strid"),
        (lambda: model.rank("x", ["a"], normalise="none"), "normalise"),
        (lambda: model.next(TEXT, tempreture=1), "tempreture"),
        (lambda: model.generate(TEXT, sed=1), "sed"),
    ):
        with pytest.raises(InvalidInput, match=f"There is no setting '{name}'"):
            call()
    with pytest.raises(InvalidInput, match="several are asked for"):
        model.generate(TEXT, num_return_sequences=2)


def test_every_method_is_in_the_docs() -> None:
    """docs/api.md has each public method with its signature and the first line of its docstring."""
    file = Path(__file__).parent.parent / "docs" / "api.md"
    if UPDATE:
        file.write_text(api_page(), "utf-8")
    assert file.read_text("utf-8") == api_page(), "LLMCLI_UPDATE_DOCS=1 writes it anew"


def api_page() -> str:
    """docs/api.md, made from signatures and docstrings."""
    parts = [API_INTRODUCTION.strip(), "## Loading", *documented(llmcli.load, "llmcli.load")]
    parts.append("## LanguageModel")
    for name, method in vars(llmcli.LanguageModel).items():
        if not name.startswith("_") and callable(method):
            parts += documented(method, f"model.{name}")
    return "\n\n".join(parts) + "\n"


def documented(function: Callable[..., Any], name: str) -> list[str]:
    signature = str(inspect.signature(function)).replace("(self, ", "(")
    signature = re.sub(r"<function (\w+) at \w+>", r"\1", signature)
    signature = re.sub(r"(: |-> )'([^']*)'", r"\1\2", signature)
    shown = f"{name}{signature}"
    if len(shown) > 80:  # an argument a line
        arguments, end = signature.rsplit(")", 1)
        lines = re.split(r", (?=[\w*]+(?::|,|$))", arguments.removeprefix("("))
        shown = f"{name}(\n" + "".join(f"    {line},\n" for line in lines) + f"){end}"
    return [
        f"### {name}",
        f"```python\n{shown}\n```",
        *paragraphs(re.sub(r":meth:`(\w+)`", r"`model.\1`", inspect.getdoc(function) or "")),
    ]


def paragraphs(text: str) -> list[str]:
    """Google's sections as lists in Markdown."""
    found = []
    for part in text.split("\n\n"):
        first, *rest = part.splitlines()
        if first in ("Args:", "Raises:", "Returns:"):
            items = re.sub(r"\n\s{8,}", " ", "\n".join(rest))
            lines = [re.sub(r"^\s*([\w, ]+):", r"- `\1`:", line) for line in items.splitlines()]
            found.append(f"{first}\n\n" + "\n".join(lines))
        else:
            found.append(part)
    return found


API_INTRODUCTION = """
# Python API

```python
import llmcli

model = llmcli.load("fable", precision="int8")
answer = model.generate("Once upon a time", max_new_tokens=40, seed=7)
print(answer, answer.finish_reason)
for piece in model.stream("Once upon a time", max_new_tokens=40, seed=7):
    print(piece, end="", flush=True)
print(model.score("Once upon a time there was a fox.").score.perplexity)
```

Results are frozen dataclasses. Their `to_dict()` is what the command of the same name prints with
`--json`, and notebooks show them as tables. Errors are `llmcli.LlmcliError` and its subclasses in
`llmcli.errors`. Nothing heavy is imported before it is used, and a prepared model runs without
torch.

This page is generated from the docstrings.
"""
