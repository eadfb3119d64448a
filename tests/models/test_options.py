"""What is asked of a model: one bundle for the library and the command line."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import click
import pytest

import llmcli
from llmcli.cli.generate import generate
from llmcli.errors import InvalidInput


def test_the_command_line_sets_every_field() -> None:
    names = {param.name for param in generate.params if isinstance(param, click.Option)}
    assert {each.name for each in fields(llmcli.LoadOptions)} <= names


def test_another_model_has_no_revision_of_the_first() -> None:
    options = llmcli.LoadOptions(model="gpt2", revision="v1", precision="int8", offline=True)
    other = options.of("distilgpt2")
    assert other == llmcli.LoadOptions(model="distilgpt2", precision="int8", offline=True)


def test_options_that_do_not_exist(tiny_gpt2: Path) -> None:
    with pytest.raises(InvalidInput, match="There is no option 'precison'"):
        llmcli.load(str(tiny_gpt2), precison="int8")
    with pytest.raises(InvalidInput, match=r"device is 'tpu'. Use one of auto, cpu, cuda, mps"):
        llmcli.LoadOptions(device="tpu")  # type: ignore[arg-type]
