"""Names as they are typed: what they may hold, and what they can never become."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from fakehub import FakeHub
from hypothesis import given
from hypothesis import strategies as st

from llmcli.errors import InvalidInput, LlmcliError, ModelNotFound
from llmcli.hub import cache
from llmcli.hub.reference import (
    ModelReference,
    bundled_models,
    check_revision,
    parse_reference,
    quoted,
)
from llmcli.hub.resolve import find_local, resolve


@pytest.mark.parametrize(
    ("text", "name", "revision"),
    [
        ("gpt2", "gpt2", None),
        ("openai-community/gpt2", "openai-community/gpt2", None),
        ("gpt2@main", "gpt2", "main"),
        ("org/name@refs/pr/1", "org/name", "refs/pr/1"),
        ("gpt2@" + "a" * 40, "gpt2", "a" * 40),
        ("./folder", "./folder", None),
    ],
)
def test_parts(text: str, name: str, revision: str | None) -> None:
    assert parse_reference(text) == ModelReference(name, revision)


def test_an_existing_folder_keeps_its_at_sign(tmp_path: Path) -> None:
    folder = tmp_path / "model@home"
    folder.mkdir()
    assert parse_reference(str(folder)) == ModelReference(str(folder), None)


@pytest.mark.parametrize(
    "text", ["", "gpt2@", "gpt2@..", "a\nb", "a\x1b[2J", "gpt2@a\x00", "\ud800"]
)
def test_refused_as_input(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_reference(text)


@pytest.mark.parametrize(
    "revision",
    ["../..", "..", ".", "/etc", "a//b", "a/../b", "", "-x", "a/", "x" * 300, "a b", "ä"],
)
def test_fault_53_revisions_that_could_become_paths(revision: str) -> None:
    with pytest.raises(InvalidInput):
        check_revision(revision)


def test_two_different_revisions() -> None:
    assert parse_reference("gpt2@main", "main").revision == "main"
    with pytest.raises(InvalidInput, match="Two revisions"):
        parse_reference("gpt2@main", "dev")


@pytest.mark.parametrize(
    "name", ["a/b/c", "org/..", "a..b", "has space", "a--b", "x" * 200, "../x"]
)
def test_neither_folder_nor_hub(name: str) -> None:
    with pytest.raises(ModelNotFound, match="There is no folder"):
        parse_reference(name).require_hub_id()


@given(st.text(max_size=40), st.text(max_size=40) | st.none())
def test_fault_37_nothing_typed_leads_out_of_the_cache(text: str, revision: str | None) -> None:
    try:
        reference = parse_reference(text, revision)
        reference.require_hub_id()
    except LlmcliError:
        return
    root = Path("/cache")
    repository = cache.repository_folder(root, reference.name)
    assert repository.parent == root
    inside = repository / "refs" / (reference.revision or "main")
    assert ".." not in inside.parts
    assert inside.is_relative_to(repository)


@given(st.text(max_size=300))
def test_a_quoted_name_drives_no_terminal(text: str) -> None:
    shown = quoted(text)
    assert all(ord(c) >= 0x20 and not 0x7F <= ord(c) < 0xA0 for c in shown)
    assert len(shown) < 1300
    shown.encode("utf-8")


def test_a_folder_hides_a_bundled_model_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundled = next(iter(bundled_models()))
    (tmp_path / bundled).mkdir()
    monkeypatch.chdir(tmp_path)
    notices: list[str] = []
    resolved = resolve(bundled, offline=True, notify=notices.append)
    assert resolved.origin == "folder"
    assert len(notices) == 1
    assert "bundled" in notices[0]


@pytest.mark.parametrize("asked", ["gpt2", "openai-community/gpt2"])
@pytest.mark.parametrize("cached", ["gpt2", "openai-community/gpt2"])
def test_a_model_with_two_names_is_one_model(
    hub: FakeHub, tiny_gpt2: Path, asked: str, cached: str
) -> None:
    hub.add(cached, tiny_gpt2)
    pulled = resolve(cached)
    found = resolve(asked, offline=True)
    assert found.folder == pulled.folder
    assert found.name == asked
    assert find_local(asked, notify=print).folder == pulled.folder


def test_a_file_of_a_model_stands_for_its_folder(tiny_gpt2: Path, tmp_path: Path) -> None:
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert resolve(str(tiny_gpt2 / name)).folder == tiny_gpt2
    (tmp_path / "other.safetensors").touch()
    with pytest.raises(InvalidInput, match=r"other\.safetensors"):
        resolve(str(tmp_path / "other.safetensors"))


def test_the_hash_of_a_large_file_is_kept_until_the_file_changes(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmcli.hub.resolve._LARGE", 1)
    folder = Path(shutil.copytree(tiny_gpt2, tmp_path / "model"))
    weights = folder / "model.safetensors"

    def revision() -> str | None:
        return resolve(str(folder)).revision

    first = revision()
    assert first == hashlib.sha256(weights.read_bytes()).hexdigest()
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", None)
        assert revision() == first
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert revision() == hashlib.sha256(weights.read_bytes()).hexdigest() != first
