"""Templates for prompts: what a file may say, what is made of it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.errors import InvalidInput
from llmcli.io.records import Source
from llmcli.tasks.prompt_templates import (
    Wording,
    find_template,
    own_path,
    parse_template,
    stored_templates,
)


def parse(text: str) -> Any:
    return parse_template(text, name="t")


def test_places_are_filled() -> None:
    template = parse('prompt: "$greeting, $input. That is $$5."\ndefaults: {greeting: Hello}')
    assert template.places == {"greeting", "input"}
    assert template.fill("Ann", {}) == "Hello, Ann. That is $5."
    assert template.fill("$greeting", {"greeting": "Hi"}) == "Hi, $greeting. That is $5."
    assert parse("Summarise $input").fill("this", {}) == "Summarise this"
    # Without a place the input follows.
    assert parse("prompt: A list").fill("of rivers", {}) == "A list\nof rivers"
    assert parse("prompt: A list").fill("", {}) == "A list"
    assert parse("system: Be $mood.").fill_system("x", {"mood": "brief"}) == "Be brief."
    with pytest.raises(InvalidInput, match="a place 'tone', and there is no value"):
        parse("prompt: $tone $input").fill("x", {})


@given(st.text(), st.text())
def test_what_is_filled_in_is_never_read_as_a_template(text: str, value: str) -> None:
    template = parse("prompt: '<$input|$other>'")
    assert template.fill(text, {"other": value}) == f"<{text}|{value}>"


def test_options_and_schema() -> None:
    template = parse(
        "prompt: $input\noptions: {temperature: 0, max_tokens: 5, stop: end}\n"
        "schema_object: {type: integer}"
    )
    assert template.options == {"temperature": 0, "max_new_tokens": 5, "stop": ("end",)}
    assert template.schema == {"type": "integer"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt: [", "no YAML"),
        ("- a", "no mapping"),
        ("prompt: x\nfunctions: |\n  def f(): pass", "'functions', which is not supported"),
        ("prompt: x\ntools: [a]", "'tools', which is not supported"),
        ("prompt: 3", "'prompt' of the template t is no text"),
        ("prompt: 5 $ each", "'\\$' that begins no name"),
        ("model: fable", "no prompt"),
        ("prompt: x\noptions: {colour: red}", "the option 'colour'"),
        ("prompt: x\noptions: {temperature: hot}", "'hot' for 'temperature'"),
        ("prompt: x\noptions: {top_p: 2}", "top_p is 2"),
        ("prompt: x\noptions: [a]", "'options' of the template t is no mapping"),
        ("a: &a [x]\nprompt: *a", "an alias"),
        ("prompt: !!python/object/apply:os.system [true]", "no YAML"),
        ("prompt: " + "[" * 200, "nested too deeply"),
        ("x" * 2_000_000, "larger than 1 MiB"),
    ],
    ids=lambda value: value[:30],
)
def test_a_template_that_cannot_be_used(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        parse(text)
    assert "\n" not in caught.value.message


def test_bundled_and_own(tmp_path: Path) -> None:
    bundled = [each.name for each in stored_templates(tmp_path)]
    assert {"summarise", "sentiment", "translate", "entities", "code"} <= set(bundled)
    for name in bundled:
        template = find_template(name, tmp_path).read()
        assert template.description
        assert "text" in template.fill("text", {})
        template.grammar()
    own_path("summarise", tmp_path).write_text("prompt: mine")
    assert find_template("summarise", tmp_path).read().prompt == "mine"
    assert find_template(str(tmp_path / "summarise.yaml"), Path("/none")).read().prompt == "mine"
    with pytest.raises(InvalidInput, match="There is no template 'nope'"):
        find_template("nope", tmp_path)
    for name in ("../x", "", "a/b"):
        with pytest.raises(InvalidInput, match="no name for a template"):
            own_path(name, tmp_path)


def test_shots(tmp_path: Path) -> None:
    file = tmp_path / "shots.jsonl"
    shots = [{"prompt": "2", "completion": "two"}, {"prompt": "3", "completion": " three"}]
    file.write_text("".join(json.dumps(each) + "\n" for each in shots))
    wording = Wording(template=parse("prompt: '$input is'")).with_shots(Source(str(file)))
    assert wording.prompt("4") == "2 is two\n\n3 is three\n\n4 is"
    assert wording.digest != Wording(template=parse("prompt: '$input is'")).digest
    fields = Wording(template=parse("prompt: $input in $place"))
    assert fields.prompt("x", {"place": "Rome", "other": []}) == "x in Rome"
    for text, message in (('{"prompt": "a"}', "'completion'"), ("", "no examples")):
        file.write_text(text)
        with pytest.raises(InvalidInput, match=message):
            wording.with_shots(Source(str(file)))
    with pytest.raises(InvalidInput, match="no such place"):
        Wording(values={"a": "b"})
