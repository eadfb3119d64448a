"""Flag > LLMCLI_<COMMAND>_<FLAG> > LLMCLI_<FLAG> > the command's table > top level > default."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from llmcli.cli import generate as module
from llmcli.cli.main import cli
from llmcli.cli.options import SharedOption, flag_name
from llmcli.cli.settings import config_path


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "settings.toml"
    monkeypatch.setenv("LLMCLI_CONFIG", str(path))
    return path


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What generate was called with, found out where it would load a model."""
    seen: dict[str, Any] = {}

    def read_prompt(parts: Any, files: Any, **options: Any) -> str:
        context = click.get_current_context()
        seen.update(context.params, files=files)
        raise click.ClickException("seen")

    monkeypatch.setattr(module, "read_prompt", read_prompt)
    return seen


def generate(*args: str) -> Result:
    result = CliRunner().invoke(cli, ["generate", *args, "x"])
    assert result.stderr == "Error: seen.\n"
    return result


def test_precedence_of_a_shared_option(
    config: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each source in turn wins over those below it."""
    generate()
    assert settings["model"] is None
    config.write_text('model = "top"\n')
    generate()
    assert settings["model"] == "top"
    config.write_text('model = "top"\n[generate]\nmodel = "table"\n[next]\nmodel = "other"\n')
    generate()
    assert settings["model"] == "table"
    monkeypatch.setenv("LLMCLI_MODEL", "shared")
    generate()
    assert settings["model"] == "shared"
    monkeypatch.setenv("LLMCLI_GENERATE_MODEL", "own")
    monkeypatch.setenv("LLMCLI_NEXT_MODEL", "another")
    generate()
    assert settings["model"] == "own"
    generate("-m", "flag")
    assert settings["model"] == "flag"


def test_precedence_of_an_option_of_one_command(
    config: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text("temperature = 0.1\ntop-k = 3\n")
    generate()
    assert (settings["temperature"], settings["top_k"]) == (0.1, 3)
    config.write_text("temperature = 0.1\n[generate]\ntemperature = 0.2\n")
    generate()
    assert settings["temperature"] == 0.2
    monkeypatch.setenv("LLMCLI_TEMPERATURE", "0.25")  # not shared by all commands
    monkeypatch.setenv("LLMCLI_GENERATE_TEMPERATURE", "0.3")
    generate()
    assert settings["temperature"] == 0.3
    generate("--temperature", "0.4")
    assert settings["temperature"] == 0.4


@pytest.mark.parametrize("source", ["config", "environment"])
def test_options_go_by_their_flags_names(
    config: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """Whatever Click calls them inside."""
    if source == "config":
        config.write_text('json = true\n[generate]\ninput = ["a.txt"]\necho = false\n')
    else:
        monkeypatch.setenv("LLMCLI_JSON", "1")
        monkeypatch.setenv("LLMCLI_GENERATE_INPUT", "a.txt")
        monkeypatch.setenv("LLMCLI_GENERATE_ECHO", "no")
    generate()
    assert settings["json_output"] is True
    assert settings["files"] == ("a.txt",)
    assert settings["echo"] is False


def test_every_option_has_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for option in cli.commands["generate"].params:
        if not isinstance(option, click.Option):
            continue
        name = flag_name(option).upper()
        with click.Context(cli.commands["generate"], auto_envvar_prefix="LLMCLI_GENERATE") as ctx:
            with monkeypatch.context() as patched:
                patched.setenv(f"LLMCLI_GENERATE_{name}", "value")
                assert option.resolve_envvar_value(ctx) == "value", name
            if isinstance(option, SharedOption):
                with monkeypatch.context() as patched:
                    patched.setenv(f"LLMCLI_{name}", "value")
                    assert option.resolve_envvar_value(ctx) == "value", name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("temperature = ", "is not valid TOML"),
        ("\xff", "is not valid TOML"),
        ("temprature = 1", "sets temprature, which does not exist"),
        ("[generate]\ntemprature = 1", "sets [generate] temprature, which does not exist"),
        ("[genrate]\nseed = 1", "sets [genrate], which does not exist"),
        ("[generate.deep]\nseed = 1", "sets [generate] deep, which does not exist"),
        ("[generate]\ntop_k = 2.5", "'--top-k': 2.5 is not an integer"),
        ("[generate]\ntop_k = true", "'--top-k': True is not an integer"),
        ("[generate]\ntop_p = 2", "'--top-p': 2.0 is out of range: it must be above 0"),
        ("[generate]\ntop_p = []", "'--top-p'"),
        ("[generate]\nmax_new_tokens = -1", "'-n' / '--max-new-tokens': -1 is out of range"),
        ('[generate]\nstop = "END"', "'--stop'"),
    ],
)
def test_mistakes_are_named(config: Path, text: str, words: str) -> None:
    config.write_text(text, encoding="latin-1")
    result = CliRunner().invoke(cli, ["generate", "x"])
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_help_stands_above_a_broken_file(config: Path) -> None:
    """The message sends there."""
    config.write_text("nonsense")
    result = CliRunner().invoke(cli, ["generate", "--help"])
    assert result.exit_code == 0
    assert "--temperature" in result.stdout


def test_the_file_cannot_be_read(config: Path) -> None:
    config.mkdir()
    result = CliRunner().invoke(cli, ["generate", "x"])
    assert result.exit_code == 2
    assert f"Cannot read {config}: Is a directory." in result.stderr


def test_settings_of_a_group_reach_its_commands(config: Path) -> None:
    group = cli.commands["models"]
    assert isinstance(group, click.Group)
    config.write_text("json = true\n[models]\njson = false\n[models.list]\njson = true\n")
    listed = CliRunner().invoke(cli, ["models", "list"])
    assert listed.exit_code == 0
    assert all(line.startswith("{") for line in listed.stdout.splitlines())
    config.write_text("[models.list]\nnothing = true\n")
    result = CliRunner().invoke(cli, ["models", "list"])
    assert result.exit_code == 2
    assert "sets [models.list] nothing, which does not exist" in result.stderr


def test_where_the_file_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert config_path() == tmp_path / "llmcli" / "config.toml"


# -- llmcli config ---------------------------------------------------------------------------


def run(*args: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, list(args))
    assert result.exit_code == code, result.stderr
    return result


def in_force(*args: str) -> dict[str, tuple[Any, str]]:
    lines = run("config", "show", *args, "--json").stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    return {row["option"]: (row["value"], row["source"]) for row in rows}


def test_what_is_set_stands_in_the_file(config: Path) -> None:
    """Comments stay; TOML has its own types."""
    config.write_text("# mine\nquiet = true  # always\n")
    run("config", "set", "model", "fable")
    run("config", "set", "generate.max-new-tokens", "20")
    run("config", "set", "generate.stop", "END")
    run("config", "set", "aliases.small", "org/tiny")
    text = config.read_text()
    assert text.startswith("# mine\nquiet = true  # always\n")
    assert tomllib.loads(text) == {
        "quiet": True,
        "model": "fable",
        "generate": {"max-new-tokens": 20, "stop": ["END"]},
        "aliases": {"small": "org/tiny"},
    }
    run("config", "set", "generate.max_new_tokens", "30")
    assert tomllib.loads(config.read_text())["generate"]["max-new-tokens"] == 30
    run("config", "unset", "model")
    assert "model" not in tomllib.loads(config.read_text())
    assert "is not set" in run("config", "unset", "model", code=2).stderr


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("modle", "x", "There is no option modle. Did you mean model?"),
        ("generate.tempreture", "1", "Did you mean temperature?"),
        ("nothing.model", "x", "There is no option nothing.model."),
        ("precision", "int3", "precision: 'int3' is not one of"),
        ("generate.temperature", "warm", "'warm' is not a number"),
    ],
)
def test_what_cannot_be_set(config: Path, key: str, value: str, says: str) -> None:
    assert says in run("config", "set", key, value, code=2).stderr
    assert not config.exists()


def test_where_values_come_from(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text('model = "fable"\n[generate]\nseed = 3\n[next]\nmodel = "other"\n')
    monkeypatch.setenv("LLMCLI_PRECISION", "int8")
    monkeypatch.setenv("LLMCLI_SCORE_STRIDE", "7")
    every = in_force()
    assert every["model"] == ("fable", str(config))
    assert every["precision"] == ("int8", "LLMCLI_PRECISION")
    assert every["timeout"] == (10.0, "default")
    assert every["generate.seed"] == (3, str(config))
    assert every["score.stride"] == ("7", "LLMCLI_SCORE_STRIDE")
    assert every["next.model"] == ("other", str(config))
    assert in_force("generate")["seed"] == (3, str(config))
    assert in_force("next")["model"] == ("other", str(config))
    assert run("config", "path").stdout == f"{config}\n"
    assert "There is no command nothing" in run("config", "show", "nothing", code=2).stderr


def test_aliases(config: Path, settings: dict[str, Any]) -> None:
    config.write_text('model = "small"\n[aliases]\nsmall = "org/tiny"\n')
    generate()
    assert settings["model"] == "org/tiny"
    generate("-m", "small")
    assert settings["model"] == "org/tiny"
    generate("-m", "other")
    assert settings["model"] == "other"
    config.write_text("[aliases]\nsmall = 3\n")
    assert "is no table of names" in run("next", "-m", "small", "x", code=2).stderr


def test_a_default_model(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run("models", "default", "fable")
    assert tomllib.loads(config.read_text()) == {"model": "fable"}
    run("models", "default", "./mine")
    assert tomllib.loads(config.read_text()) == {"model": str(tmp_path / "mine")}


def test_a_bad_value_is_found_in_its_file(config: Path) -> None:
    config.write_text('# one\n[generate]\n"temperature" = "warm"\n')
    assert f"It stands in {config}, line 3." in run("generate", "x", code=2).stderr
    config.write_text('precision = "int3"\n')
    assert f"It stands in {config}, line 1." in run("generate", "x", code=2).stderr


def test_a_variable_that_sets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMCLI_MODLE", "x")
    said = run("models", "path", "fable").stderr
    assert said == "Warning: The variable LLMCLI_MODLE sets nothing. Did you mean LLMCLI_MODEL?\n"
    assert run("-q", "models", "path", "fable").stderr == ""


def test_the_editor(config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\necho "seed = " > "$1"\n')
    editor.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(editor))
    assert "is not valid TOML" in run("config", "edit", code=2).stderr
