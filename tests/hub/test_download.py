"""Downloads from a Hub on loopback: what is fetched, what is kept, what is proven."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path

import pytest
from fakehub import Cut, FakeHub, IgnoreRange

from llmcli.errors import CorruptModel, OfflineMiss, UnsafeModel, UnsupportedModel
from llmcli.hub.resolve import ResolvedModel, resolve


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

    from llmcli.hub.cache import cache_folder

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

    from llmcli.hub.cache import cache_folder

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
    # config.json names the model's kind, which tells the tokenizer's class.
    assert {path.name for path in found.folder.iterdir()} == {"config.json", "tokenizer.json"}
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


def test_code_is_fetched_when_it_is_trusted_even_later(hub: FakeHub, tiny_gpt2: Path) -> None:
    files = {path.name: path.read_bytes() for path in tiny_gpt2.iterdir()}
    config = json.loads(files["config.json"])
    config["auto_map"] = {"AutoModelForCausalLM": "modeling.Model"}
    hub.add("org/code", {**files, "config.json": json.dumps(config).encode(), "modeling.py": b"x"})
    assert not (resolve("org/code").folder / "modeling.py").exists()
    with pytest.raises(OfflineMiss, match="Python code"):
        resolve("org/code", trust_remote_code=True, offline=True)
    assert (resolve("org/code", trust_remote_code=True).folder / "modeling.py").exists()
    hub.requests.clear()
    resolve("org/code", trust_remote_code=True)
    assert hub.requests == []


def split(weights: bytes) -> dict[str, bytes]:
    """Two shards and their index, as save_pretrained writes large models."""
    length = struct.unpack("<Q", weights[:8])[0]
    header = json.loads(weights[8 : 8 + length])
    header.pop("__metadata__", None)
    names, files, places = sorted(header), {}, {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        shard, content = {}, b""
        for name in part:
            first, last = (8 + length + place for place in header[name]["data_offsets"])
            begin, content = len(content), content + weights[first:last]
            shard[name] = {**header[name], "data_offsets": [begin, len(content)]}
            places[name] = f"model-0000{number}-of-00002.safetensors"
        encoded = json.dumps(shard).encode()
        data = struct.pack("<Q", len(encoded)) + encoded + content
        files[f"model-0000{number}-of-00002.safetensors"] = data
    index = json.dumps({"weight_map": places}).encode()
    return {**files, "model.safetensors.index.json": index}


def sharded(folder: Path) -> dict[str, bytes]:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return {**files, **split(files.pop("model.safetensors"))} | {"README.md": b"# sharded"}


def test_shards_come_with_their_index(hub: FakeHub, tiny_gpt2: Path) -> None:
    files = sharded(tiny_gpt2)
    files.pop("model.safetensors")
    hub.add("org/large", files)
    found = resolve("org/large")
    assert {path.name for path in found.folder.iterdir()} == set(files)
    hub.requests.clear()
    assert resolve("org/large").folder == found.folder
    assert hub.requests == []
    (found.folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(OfflineMiss, match="00002-of-00002"):
        resolve("org/large", offline=True)


def test_an_index_that_names_what_is_not_there(hub: FakeHub, tiny_gpt2: Path) -> None:
    files = sharded(tiny_gpt2)
    del files["model.safetensors"], files["model-00002-of-00002.safetensors"]
    hub.add("org/large", files)
    with pytest.raises(CorruptModel, match="00002-of-00002"):
        resolve("org/large")


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("config.json", "no config.json"),
        ("tokenizer.json", "no tokenizer.json"),
        ("model.safetensors", "no weights"),
    ],
)
def test_what_is_no_language_model(hub: FakeHub, tiny_gpt2: Path, missing: str, words: str) -> None:
    files = {path.name: path.read_bytes() for path in tiny_gpt2.iterdir()}
    del files[missing]
    hub.add("org/other", {**files, "model.gguf": b"GGUF"})
    with pytest.raises(UnsupportedModel, match=words):
        resolve("org/other")


def test_fault_35_pickles_are_fetched_on_request_only(hub: FakeHub, tiny_gpt2: Path) -> None:
    files = {path.name: path.read_bytes() for path in tiny_gpt2.iterdir()}
    files["pytorch_model.bin"] = files.pop("model.safetensors")
    hub.add("org/pickled", files)
    with pytest.raises(UnsafeModel, match="--allow-pickle"):
        resolve("org/pickled")
    assert hub.asked_for("pytorch_model") == []
    resolve("org/pickled", allow_pickle=True)
    with pytest.raises(UnsafeModel, match="--allow-pickle"):
        resolve("org/pickled", offline=True)


def test_revisions(hub: FakeHub, tiny_gpt2: Path) -> None:
    repository = hub.add("org/tiny", tiny_gpt2, revisions=("main", "refs/pr/1"))
    assert resolve("org/tiny@refs/pr/1").commit == repository.commit
    assert resolve("org/tiny", revision=repository.commit).commit == repository.commit
    hub.requests.clear()
    assert resolve("org/tiny@refs/pr/1", offline=True).commit == repository.commit
    assert resolve(f"org/tiny@{repository.commit}").commit == repository.commit
    assert hub.requests == []


def test_refresh_follows_a_branch(hub: FakeHub, tiny_gpt2: Path) -> None:
    files = {path.name: path.read_bytes() for path in tiny_gpt2.iterdir()}
    old = hub.add("org/tiny", files)
    assert resolve("org/tiny").commit == old.commit
    new = hub.add("org/tiny", {**files, "README.md": b"new"})
    assert resolve("org/tiny").commit == old.commit
    hub.requests.clear()
    assert resolve("org/tiny", refresh=True).commit == new.commit
    # What did not change is not fetched again.
    assert hub.asked_for("/storage/") == []
    assert resolve("org/tiny").commit == new.commit


def test_progress_counts_every_byte(hub: FakeHub, tiny_gpt2: Path) -> None:
    hub.add("org/tiny", tiny_gpt2)
    hub.misbehave("/storage/", Cut(at=5000), times=1)
    seen: dict[str, tuple[int, int | None]] = {}

    def progress(name: str, done: int, total: int | None) -> None:
        assert done > seen.get(name, (0, 0))[0]
        seen[name] = (done, total)

    folder = resolve("org/tiny", progress=progress).folder
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert seen == {name: (size, size) for name, size in sizes.items()}


def test_files_are_made_with_the_umask(hub: FakeHub, tiny_gpt2: Path) -> None:
    hub.add("org/tiny", tiny_gpt2)
    before = os.umask(0o027)
    try:
        folder = resolve("org/tiny").folder
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o640}
