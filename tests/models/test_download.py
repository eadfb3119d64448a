"""Downloads from a Hub on loopback: what is fetched, what is kept, what is proven."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from fakehub import Cut, FakeHub, IgnoreRange

from llmcli.models.resolve import ResolvedModel, resolve


def cache_files(home: Path) -> list[str]:
    return sorted(str(p.relative_to(home)) for p in home.rglob("*") if not p.is_dir())


def test_a_model_is_fetched_once(hub: FakeHub, tiny_gpt2: Path) -> None:
    repository = hub.add("org/tiny", tiny_gpt2)
    found = resolve("org/tiny")
    assert found.commit == found.revision == repository.commit
    assert found.origin == "hub"
    names = {path.name for path in found.folder.iterdir()}
    assert names == {path.name for path in tiny_gpt2.iterdir()}
    for path in tiny_gpt2.iterdir():
        assert (found.folder / path.name).read_bytes() == path.read_bytes()
    hub.requests.clear()
    again = resolve("org/tiny")
    assert again == found
    assert hub.requests == []


def test_huggingface_hub_reads_what_we_wrote(hub: FakeHub, tiny_gpt2: Path) -> None:
    from huggingface_hub import hf_hub_download, scan_cache_dir, try_to_load_from_cache

    from llmcli.models.cache import cache_folder

    found = resolve_new(hub, tiny_gpt2)
    cache = cache_folder()
    assert try_to_load_from_cache("org/tiny", "config.json", cache_dir=cache) == str(
        found.folder / "config.json"
    )
    scanned = scan_cache_dir(cache)
    assert not scanned.warnings
    (repository,) = scanned.repos
    assert repository.repo_id == "org/tiny"
    assert {ref for rev in repository.revisions for ref in rev.refs} == {"main"}
    hub.requests.clear()
    path = hf_hub_download("org/tiny", "model.safetensors", cache_dir=cache, endpoint=hub.url)
    assert Path(path).read_bytes() == (tiny_gpt2 / "model.safetensors").read_bytes()
    assert hub.asked_for("/storage/") == []


def test_we_read_what_huggingface_hub_wrote(hub: FakeHub, tiny_gpt2: Path) -> None:
    from huggingface_hub import snapshot_download

    from llmcli.models.cache import cache_folder

    hub.add("org/tiny", tiny_gpt2)
    folder = snapshot_download("org/tiny", cache_dir=cache_folder(), endpoint=hub.url)
    hub.requests.clear()
    assert resolve("org/tiny").folder == Path(folder)
    assert hub.requests == []


def resolve_new(hub: FakeHub, folder: Path) -> ResolvedModel:
    hub.add("org/tiny", folder)
    return resolve("org/tiny")


def test_the_tokenizer_alone(hub: FakeHub, tiny_gpt2: Path) -> None:
    hub.add("org/tiny", tiny_gpt2)
    found = resolve("org/tiny", need="tokenizer")
    assert [path.name for path in found.folder.iterdir()] == ["tokenizer.json"]
    resolve("org/tiny")
    assert len(hub.asked_for("tokenizer.json")) == 1


def test_a_cut_body_is_resumed_where_it_broke(hub: FakeHub, tiny_gpt2: Path) -> None:
    hub.add("org/tiny", tiny_gpt2)
    hub.misbehave("/storage/", Cut(at=5000), times=1)
    found = resolve("org/tiny")
    weights = (found.folder / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).digest() == _sha256(tiny_gpt2 / "model.safetensors")
    assert "bytes=5000-" in [r.range for r in hub.asked_for("/storage/")]


def test_a_server_without_ranges_starts_over(hub: FakeHub, tiny_gpt2: Path) -> None:
    hub.add("org/tiny", tiny_gpt2)
    hub.misbehave("/storage/", Cut(at=5000), times=1)
    hub.misbehave("/storage/", IgnoreRange())
    found = resolve("org/tiny")
    assert _sha256(found.folder / "model.safetensors") == _sha256(tiny_gpt2 / "model.safetensors")


@pytest.mark.parametrize("alias", ["old", "org/old"])
def test_renamed_repositories(hub: FakeHub, tiny_gpt2: Path, alias: str) -> None:
    hub.add("org/tiny", tiny_gpt2)
    hub.renamed[alias] = "org/tiny"
    assert (resolve(alias).folder / "config.json").is_file()


def _sha256(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()
