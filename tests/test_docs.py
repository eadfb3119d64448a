"""The README says what the program does: its commands are run, its reference is complete.

``LLMCLI_UPDATE_DOCS=1 pytest tests/test_docs.py`` writes the outputs anew.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from llmcli.cli.main import cli
from llmcli.hub.reference import bundled_models

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
TUTORIAL = ROOT / "docs" / "tutorial.md"
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
COMMANDS = re.compile(r"```sh\n(.*?)```", re.DOTALL)
BLOCKS = "▏▎▍▌▋▊▉█"
FIGURE = re.compile(rf"-?\d+\.\d+|[{BLOCKS}]+ *")
# Decided when the environment is still the caller's: the suite's own clears LLMCLI_*.
UPDATE = os.environ.get("LLMCLI_UPDATE_DOCS") == "1"


def examples(text: str) -> list[tuple[str, str]]:
    """Return (command, output) pairs of the ```console blocks; ``$`` begins a command."""
    found = []
    for block in BLOCK.findall(text):
        for example in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = example.partition("\n")
            while command.endswith("\\"):
                more, _, output = output.partition("\n")
                command += "\n" + more
            found.append((command, output))
    return found


def similar(text: str, other: str) -> bool:
    """Whether two outputs differ in nothing but the last digit of a fraction or the end of a bar.

    These hang on the order in which a processor adds, which no two kinds of it share.
    """
    if FIGURE.sub("#", text) != FIGURE.sub("#", other):
        return False
    pairs = zip(FIGURE.findall(text), FIGURE.findall(other), strict=True)
    return all(abs(last_digits(a) - last_digits(b)) <= 1 for a, b in pairs)


def last_digits(figure: str) -> int:
    """A fraction in units of its last digit, a bar in eighths of a block."""
    if figure[0] in BLOCKS:
        return sum(BLOCKS.index(block) + 1 for block in figure.rstrip())
    return int(figure.replace(".", ""))


@pytest.mark.parametrize(
    ("text", "other", "wanted"),
    [
        ("fox 22.33% ██▌", "fox 22.34% ██▌", True),
        ("-1.300", "-1.299", True),
        ("██▉", "███", True),
        ("██   16.70%", "██▏  16.70%", True),
        ("22.33%", "22.35%", False),
        ("22.33%", "22.3%", False),
        ("-0.004", "0.004", False),
        ("██", "███", False),
        ("12 tokens", "13 tokens", False),
        ("fox 1.5", "dog 1.5", False),
        ("1.5", "1.5 2.5", False),
    ],
)
def test_only_last_digits_may_differ(text: str, other: str, wanted: bool) -> None:
    assert similar(text, other) is wanted


def run(command: str, environment: dict[str, str], folder: Path) -> str:
    """Run a command line as a reader would, with the llmcli under test."""
    scripts = str(Path(sys.executable).parent)
    result = subprocess.run(
        ["bash", "-e", "-c", command],
        env={**environment, "PATH": f"{scripts}:{environment['PATH']}", "COLUMNS": "80"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=folder,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr.decode("utf-8")
    return result.stdout.decode("utf-8")


@pytest.mark.skipif("fable" not in bundled_models(), reason="the bundled model is not there")
@pytest.mark.parametrize(
    ("page", "least"),
    [
        (README, 5),
        (ROOT / "docs" / "inspect.md", 3),
        (ROOT / "docs" / "calibration.md", 3),
        (ROOT / "docs" / "recipes.md", 3),
    ],
)
def test_examples_are_real(
    page: Path, least: int, folder: Path, environment: dict[str, str]
) -> None:
    assert follow(page, environment, folder) >= least


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("caches")


@pytest.fixture
def environment(clean_environment: dict[str, str], caches: Path) -> dict[str, str]:
    """A reader's: what one page prepares, the others use."""
    return {**clean_environment, "XDG_CACHE_HOME": str(caches)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the examples are run: with the files of the repository that they read."""
    shutil.copy(ROOT / "LICENSE", tmp_path)
    shutil.copytree(ROOT / "docs" / "data", tmp_path / "docs" / "data")
    return tmp_path


def follow(page: Path, environment: dict[str, str], folder: Path) -> int:
    """Run a page's examples in a folder, compare or write what they print, and count them."""
    text = page.read_text("utf-8")
    pairs = examples(text)
    actual = [(command, run(command, environment, folder)) for command, _ in pairs]
    if UPDATE:
        for (command, output), (_, new) in zip(pairs, actual, strict=True):
            text = text.replace(f"$ {command}\n{output}", f"$ {command}\n{new}", 1)
        page.write_text(text, "utf-8")
    else:
        for (command, new), (_, output) in zip(actual, pairs, strict=True):
            assert similar(new, output), f"$ {command}\n{new}\nis not\n{output}"
    return len(pairs)


@pytest.mark.skipif("fable" not in bundled_models(), reason="the bundled model is not there")
def test_the_tutorial_can_be_followed(folder: Path, environment: dict[str, str]) -> None:
    """Its examples print what it says; training is shorter here, and prints what it will."""
    pytest.importorskip("accelerate")
    assert follow(TUTORIAL, environment, folder) >= 10
    steps = COMMANDS.findall(TUTORIAL.read_text("utf-8"))
    assert "llmcli train" in steps[0]
    assert len(steps) == 2
    alone = {**environment, "OMP_NUM_THREADS": "1"}  # threads that spin take time from others
    run(steps[0].replace("--max-steps 40", "--max-steps 1"), alone, folder)
    run(steps[1], alone, folder)


def commands(group: click.Group, prefix: str = "llmcli") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield f"{prefix} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix} {name}")


@pytest.mark.parametrize(("name", "command"), list(commands(cli)), ids=lambda v: str(v))
def test_every_command_is_documented(name: str, command: click.Command) -> None:
    pages = [ROOT / "docs" / "reference.md", *[README] * (name.count(" ") == 1)]
    for page in pages:
        assert f"`{name}" in page.read_text("utf-8"), f"{page.name} does not mention `{name}`"
    assert command.help, f"{name} has no help"
    if not isinstance(command, click.Group):
        assert "Examples:" in command.help, f"{name} --help has no examples"


@pytest.mark.parametrize(("name", "command"), list(commands(cli)), ids=lambda v: str(v))
def test_every_option_says_what_it_does(name: str, command: click.Command) -> None:
    silent = [
        param.opts[-1]
        for param in command.params
        if isinstance(param, click.Option) and not param.help and not param.hidden
    ]
    assert not silent, f"{name}: no help for {silent}"


def test_links_lead_somewhere() -> None:
    for page in [README, *ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_files_that_are_named_exist() -> None:
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        text = page.read_text("utf-8")
        for path in re.findall(r"(?<![\w/])(?:tests|benchmarks|docs|llmcli)/[\w/]+\.\w+", text):
            assert (ROOT / path).exists(), f"{page.name} names {path}"
