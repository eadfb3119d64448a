"""``llmcli models``: what is here, how it gets here, how it goes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import RunLlmcli
from fakehub import LARGE, FakeHub, Hold
from schemas import kind_of

from llmcli.cli.main import cli
from llmcli.hub.cache import cache_folder

NAME = "org/tiny"


@pytest.fixture
def cached(hub: FakeHub, tiny_gpt2: Path, run_llmcli: RunLlmcli) -> str:
    """A model in the cache, with a card; returns its commit."""
    files = {path.name: path.read_bytes() for path in tiny_gpt2.iterdir()}
    card = b"---\nlicense: mit\nlanguage: en\n---\n# Tiny\n"
    repository = hub.add(NAME, {**files, "README.md": card}, revisions=("main", "v1"))
    done = run_llmcli("models", "pull", NAME)
    assert done.returncode == 0, done.stderr
    assert Path(os.fsdecode(done.stdout.rstrip(b"\n"))).name == repository.commit
    assert done.stderr == b""
    return repository.commit


def test_list_json(cached: str, run_llmcli: RunLlmcli) -> None:
    lines = run_llmcli("models", "list", "--json").stdout.splitlines()
    records = {record["name"]: record for record in map(json.loads, lines)}
    record = records[NAME]
    folder = Path(record["folder"])
    assert record["origin"] == "hub"
    assert record["revision"] == cached == folder.name
    assert record["references"] == ["main"]
    assert record["complete"] is True
    assert record["size"] == sum(path.stat().st_size for path in folder.iterdir())
    assert kind_of("models-list", json.dumps(record)) == "ModelEntry"
    used = datetime.fromisoformat(record["last_used"])
    assert abs(datetime.now(UTC) - used) < timedelta(hours=1)


def test_list_text(cached: str, run_llmcli: RunLlmcli) -> None:
    header, *rows = run_llmcli("models", "list").stdout.decode().splitlines()
    assert header.split("  ")[0] == "NAME"
    (row,) = (row for row in rows if row.startswith(NAME))
    assert f"{cached[:12]} (main)" in row
    assert row.endswith("cached")


def test_list_shows_what_is_incomplete(
    hub: FakeHub, tiny_gpt2: Path, run_llmcli: RunLlmcli
) -> None:
    hub.add(NAME, tiny_gpt2)
    assert run_llmcli("encode", "-m", NAME, "text").returncode == 0
    records = run_llmcli("models", "list", "--json").stdout.splitlines()
    assert [json.loads(line)["complete"] for line in records if NAME.encode() in line] == [False]
    done = run_llmcli("models", "path", NAME)
    assert done.returncode == 1
    assert b"only partly" in done.stderr
    assert b"llmcli models pull" in done.stderr


def test_show(cached: str, tiny_gpt2: Path, run_llmcli: RunLlmcli) -> None:
    from transformers import GPT2LMHeadModel

    record = json.loads(run_llmcli("models", "show", NAME, "--json").stdout)
    module = GPT2LMHeadModel.from_pretrained(tiny_gpt2)
    assert record["parameters"] == module.num_parameters()
    assert record["architecture"] == "GPT2LMHeadModel"
    assert record["n_positions"] == 64
    assert record["vocab_size"] == module.config.vocab_size
    assert (record["n_layer"], record["n_embd"], record["n_head"]) == (2, 32, 4)
    assert (record["dtype"], record["license"]) == ("float32", "mit")
    assert record["revision"] == cached
    files = {path.name: path.stat().st_size for path in Path(record["folder"]).iterdir()}
    assert record["files"] == files
    assert record["size"] == sum(files.values())
    text = run_llmcli("models", "show", NAME).stdout.decode()
    assert "GPT2LMHeadModel" in text
    assert "model.safetensors" in text


@pytest.mark.parametrize("fixture", ["tiny_llama", "tiny_neox"])
def test_show_other_architectures(
    fixture: str, request: pytest.FixtureRequest, run_llmcli: RunLlmcli
) -> None:
    from transformers import AutoModelForCausalLM

    folder: Path = request.getfixturevalue(fixture)
    record = json.loads(run_llmcli("models", "show", str(folder), "--json").stdout)
    module = AutoModelForCausalLM.from_pretrained(folder)
    assert record["parameters"] == module.num_parameters()
    assert record["origin"] == "folder"


def test_path(cached: str, run_llmcli: RunLlmcli) -> None:
    done = run_llmcli("models", "path", NAME)
    assert done.stdout == f"{cache_folder()}/models--org--tiny/snapshots/{cached}\n".encode()


@pytest.mark.parametrize("command", ["path", "show"])
def test_nothing_is_fetched_to_describe_it(
    hub: FakeHub, tiny_gpt2: Path, run_llmcli: RunLlmcli, command: str
) -> None:
    hub.add(NAME, tiny_gpt2)
    done = run_llmcli("models", command, NAME)
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert f"llmcli models pull {NAME}".encode() in done.stderr
    assert hub.requests == []


def test_pull_json(cached: str, run_llmcli: RunLlmcli) -> None:
    record = json.loads(run_llmcli("models", "pull", NAME, "--json").stdout)
    assert record["revision"] == cached
    assert Path(record["folder"]).is_dir()


def test_remove(cached: str, run_llmcli: RunLlmcli) -> None:
    refused = run_llmcli("models", "remove", NAME)
    assert refused.returncode == 2
    assert b"--yes" in refused.stderr
    line = run_llmcli("models", "remove", NAME, "--yes", "--json").stdout
    assert kind_of("models-remove", line) == "ModelRemoved"
    record = json.loads(line)
    assert record["freed"] > LARGE
    assert not [path for path in cache_folder().rglob("*") if path.is_file()]
    again = run_llmcli("models", "remove", NAME, "--yes")
    assert again.returncode == 1
    assert b"is not in the cache" in again.stderr


@pytest.mark.parametrize("cached_as", ["gpt2", "openai-community/gpt2"])
@pytest.mark.parametrize("called", ["gpt2", "openai-community/gpt2"])
def test_remove_finds_a_model_by_both_of_its_names(
    hub: FakeHub, tiny_gpt2: Path, cached_as: str, called: str
) -> None:
    hub.add(cached_as, tiny_gpt2)
    run = CliRunner().invoke
    assert run(cli, ["models", "pull", cached_as]).exit_code == 0
    done = run(cli, ["models", "remove", called, "--yes", "--json"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["freed"] > 0
    assert run(cli, ["models", "path", cached_as]).exit_code == 1


def test_remove_one_revision_keeps_the_other(
    hub: FakeHub, tiny_gpt2: Path, cached: str, run_llmcli: RunLlmcli
) -> None:
    files = {path.name: path.read_bytes() for path in tiny_gpt2.iterdir()}
    hub.add(NAME, {**files, "README.md": b"new"}, revisions=("main",))
    assert run_llmcli("models", "pull", NAME, "--refresh").returncode == 0
    assert run_llmcli("models", "remove", f"{NAME}@{cached}", "--yes").returncode == 0
    assert run_llmcli("models", "path", NAME).returncode == 0
    gone = run_llmcli("models", "path", NAME, "--revision", cached)
    assert gone.returncode == 1


@pytest.mark.parametrize(("answer", "code"), [(b"n\n", 130), (b"y\n", 0)])
def test_remove_asks_a_person(cached: str, answer: bytes, code: int) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "llmcli", "models", "remove", NAME],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        os.write(ours, answer)
        out, err = process.communicate(timeout=30)
    os.close(ours)
    os.close(theirs)
    assert b"Delete org/tiny" in err
    assert out == b""
    assert process.returncode == code
    assert (cache_folder() / "models--org--tiny").exists() == (code != 0)


def test_bundled_models_and_folders_stay(tiny_gpt2: Path, run_llmcli: RunLlmcli) -> None:
    done = run_llmcli("models", "remove", str(tiny_gpt2), "--yes")
    assert done.returncode == 2
    assert (tiny_gpt2 / "config.json").exists()


@pytest.mark.parametrize("args", [("list",), ("path", NAME), ("show", NAME), ("pull", NAME)])
def test_nothing_heavy_is_imported(cached: str, args: tuple[str, ...]) -> None:
    code = (
        "import sys\n"
        "from llmcli.cli.main import cli\n"
        f"try: cli(['models', *{args!r}])\n"
        "except SystemExit as exit: assert exit.code == 0, exit.code\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "numpy", "huggingface_hub", "httpx2", "tokenizers", "rich"}
    assert not heavy & set(done.stderr.split())


def test_pull_shows_progress_to_a_person(hub: FakeHub, tiny_gpt2: Path) -> None:
    hub.add(NAME, tiny_gpt2)
    hold = Hold(after=2000)
    weights = (tiny_gpt2 / "model.safetensors").read_bytes()
    hub.misbehave(hashlib.sha256(weights).hexdigest(), hold)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "llmcli", "models", "pull", NAME],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"},
    ) as process:
        os.close(theirs)
        shown = b""
        while b"model.safetensors" not in shown:
            shown += os.read(ours, 4096)
        hold.release.set()
        assert process.stdout is not None
        folder = process.stdout.read()
        with contextlib.suppress(OSError):  # the other side is closed
            while more := os.read(ours, 4096):
                shown += more
    os.close(ours)
    assert process.returncode == 0
    assert Path(os.fsdecode(folder.rstrip(b"\n"))).is_dir()
    assert b"kB" in shown
    # Whatever was drawn is gone, and the cursor is back.
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l")


def test_a_near_name_is_suggested(run_llmcli: RunLlmcli) -> None:
    for call in (["models", "show", "fabel"], ["next", "-m", "fabel", "--offline", "x"]):
        result = run_llmcli(*call)
        assert result.returncode == 1
        assert b" Did you mean fable? " in result.stderr
