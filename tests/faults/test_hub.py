"""The Hub is down, slow, lying or crowded, and the cache is odd: rows 6, 10, 29, 37 to 46, 53, 54.

Tests run the installed command, or resolve in this process, against a Hub on loopback. Rows are
those of the table in docs/reliability.md. ``seconds`` of a test is the time from start to exit.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from fakehub import (
    Action,
    Corrupt,
    Cut,
    FakeHub,
    Headers,
    Hold,
    IgnoreRange,
    Length,
    Silence,
    Status,
    Trickle,
    refusing_port,
)
from hypothesis import given
from hypothesis import strategies as st

from llmcli.errors import AccessDenied, HubUnreachable, InvalidInput, LlmcliError, StorageError
from llmcli.hub.cache import cache_folder
from llmcli.hub.endpoint import read_endpoint
from llmcli.hub.resolve import resolve

NAME = "org/tiny"
# What a busy machine may need beside the deadline to start Python and to end it. Far less than
# the 46 seconds, or for ever, that the libraries underneath would take.
START_UP = 15.0


@pytest.fixture
def model(hub: FakeHub, tiny_gpt2: Path) -> FakeHub:
    """A Hub that has one model."""
    hub.add(NAME, tiny_gpt2, revisions=("main", "v1"))
    return hub


class Pull:
    """``llmcli models pull`` and what came of it."""

    def __init__(self, *args: str, env: Mapping[str, str] | None = None) -> None:
        begin = time.monotonic()
        self.done = subprocess.run(
            [sys.executable, "-m", "llmcli", "models", "pull", NAME, *args],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**os.environ, **(env or {})},
            timeout=60,
            check=False,
        )
        self.seconds = time.monotonic() - begin
        self.code = self.done.returncode
        self.err = self.done.stderr.decode()

    def failed(self, code: int = 1) -> str:
        """Hold what every error holds to: one line, no result, the right status."""
        assert self.code == code, self.err
        assert self.done.stdout == b""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("Error: ")
        return lines[0]


@pytest.fixture
def timed(record_property: Callable[[str, object], None]) -> Callable[[Pull], str]:
    """Check a failed pull and keep its time for the report."""

    def check(pull: Pull) -> str:
        record_property("seconds", round(pull.seconds, 2))
        return pull.failed()

    return check


@pytest.fixture
def refused(record_property: Callable[[str, object], None]) -> Callable[[], str]:
    """Resolve in this process and return our error's words: what needs no process of its own."""

    def check() -> str:
        begin = time.monotonic()
        with pytest.raises(LlmcliError) as caught:
            resolve(NAME)
        record_property("seconds", round(time.monotonic() - begin, 2))
        assert time.monotonic() - begin < START_UP
        assert caught.value.exit_code == 1
        assert caught.value.cure
        return str(caught.value)

    return check


def blobs() -> list[Path]:
    return sorted(cache_folder().glob("*/blobs/*"))


def tree(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if not path.is_dir()}


def wait_for_bytes(hold: Hold) -> None:
    """Until what the server sent before it stopped is in the cache."""
    assert hold.reached.wait(60)
    end = time.monotonic() + 60
    while not any(p.stat().st_size == hold.after for p in blobs() if p.suffix == ".incomplete"):
        assert time.monotonic() < end
        time.sleep(0.01)


def start(*args: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "llmcli", "models", "pull", NAME, *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


# -- rows 6, 49: Ctrl-C --------------------------------------------------------------------


def test_row_6_ctrl_c_while_downloading(
    model: FakeHub, record_property: Callable[[str, object], None]
) -> None:
    hold = Hold(after=2000)
    model.misbehave("/storage/", hold)
    begin = time.monotonic()
    with start() as process:
        wait_for_bytes(hold)
        start_up, begin = time.monotonic() - begin, time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        seconds = time.monotonic() - begin
    hold.release.set()
    record_property("seconds", round(seconds, 2))
    assert process.returncode == 130
    assert (out, err) == (b"", b"")
    assert seconds < max(1, start_up)  # more only where the machine is busy
    assert resolve_again(model).startswith("bytes=")


def resolve_again(hub: FakeHub) -> str:
    """The model can be had now; returns the Range of the first file that was resumed."""
    hub.behave()
    found = resolve(NAME)
    assert (found.folder / "model.safetensors").is_file()
    assert not [path for path in blobs() if path.suffix == ".incomplete"]
    return next((r.range for r in hub.requests if r.range), "")


# -- row 41: nobody answers ----------------------------------------------------------------


def test_row_41_refused(timed: Callable[[Pull], str]) -> None:
    endpoint = f"http://127.0.0.1:{refusing_port()}"
    error = timed(pull := Pull(env={"HF_ENDPOINT": endpoint}))
    assert "refused" in error
    assert endpoint in error
    assert pull.seconds < START_UP


@pytest.mark.parametrize("pattern", ["/api/", "config.json", "/storage/"])
@pytest.mark.parametrize(
    "action",
    [Silence(), Trickle(seconds=0.02, headers=True), Trickle(seconds=0.02)],
    ids=["silence", "trickled-headers", "trickled-body"],
)
def test_row_41_silent_or_trickling(
    model: FakeHub, pattern: str, action: Action, timed: Callable[[Pull], str]
) -> None:
    model.misbehave(pattern, action)
    error = timed(pull := Pull("--timeout", "1"))
    assert "--timeout" in error
    # The bucket of patience is 1 s; what trickles in refills it by 50 bytes a second of 1024.
    assert pull.seconds < 2 + START_UP


def test_row_41_a_port_where_nobody_accepts(timed: Callable[[Pull], str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        error = timed(pull := Pull("--timeout", "1", env={"HF_ENDPOINT": endpoint}))
    assert "--timeout" in error
    assert pull.seconds < 2 + START_UP


def test_row_41_a_name_that_does_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(HubUnreachable, match="resolved"):
        resolve(NAME)


def test_row_41_a_name_server_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hang(*args: Any, **options: Any) -> None:
        release.wait(30)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    begin = time.monotonic()
    with pytest.raises(HubUnreachable, match="--timeout"):
        resolve(NAME, timeout=0.5)
    assert time.monotonic() - begin < 2
    release.set()


def test_row_41_a_hub_without_tls(model: FakeHub, timed: Callable[[Pull], str]) -> None:
    timed(Pull(env={"HF_ENDPOINT": model.url.replace("http:", "https:")}))


def test_row_41_a_login_page_instead_of_a_hub(model: FakeHub, timed: Callable[[Pull], str]) -> None:
    model.misbehave("/api/", Status(200, {"Content-Type": "text/html"}, b"<html>Log in</html>"))
    assert "not a Hub" in timed(Pull())


def test_row_41_a_redirect_without_end(model: FakeHub, timed: Callable[[Pull], str]) -> None:
    model.misbehave("/api/", Status(302, {"Location": f"/api/models/{NAME}/revision/main"}))
    timed(Pull())


@pytest.mark.parametrize("action", [Silence(), Status(503), Status(401), None])
def test_row_41_the_default_falls_back_within_3_seconds(
    hub: FakeHub,
    tiny_gpt2: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    action: Action | None,
    record_property: Callable[[str, object], None],
) -> None:
    (tmp_path / "fable").symlink_to(tiny_gpt2)
    monkeypatch.setattr("llmcli.hub.reference.BUNDLED_FOLDER", tmp_path)
    if action is not None:
        hub.misbehave("/api/", action)
    notices: list[str] = []
    begin = time.monotonic()
    found = resolve(None, notify=notices.append)
    seconds = time.monotonic() - begin
    record_property("seconds", round(seconds, 2))
    assert (found.name, found.origin) == ("fable", "bundled")
    assert seconds < 4
    assert len(notices) == 1
    assert "gpt2" in notices[0]


def test_row_41_the_default_waits_as_long_as_others_once_it_comes(
    hub: FakeHub, tiny_gpt2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmcli.hub.resolve._FALLBACK_SECONDS", 0.5)
    hub.add("gpt2", tiny_gpt2)
    hold = Hold(after=2000)
    hub.misbehave("/storage/", hold)
    threading.Timer(1.5, hold.release.set).start()
    assert resolve(None, timeout=30).origin == "hub"


def test_a_named_model_is_never_replaced(
    hub: FakeHub, tiny_gpt2: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "fable").symlink_to(tiny_gpt2)
    monkeypatch.setattr("llmcli.hub.reference.BUNDLED_FOLDER", tmp_path)
    hub.misbehave("/api/", Status(503))
    with pytest.raises(HubUnreachable):
        resolve("gpt2", timeout=2)
    assert resolve("fable").origin == "bundled"


# -- row 42: the Hub says no ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (Status(401, {"X-Error-Message": "Invalid username or password."}), "HF_TOKEN"),
        (Status(401, {"X-Error-Code": "GatedRepo"}), "gated"),
        (Status(403, {"X-Error-Code": "GatedRepo"}), "gated"),
        (Status(403), "refuses access"),
        (Status(404, {"X-Error-Code": "RepoNotFound"}), "no model"),
        (Status(404, {"X-Error-Code": "RevisionNotFound"}), "no revision"),
        (Status(404), "no model"),
        (Status(429, {"Retry-After": "86400"}), "86400 seconds"),
        (Status(429, {"Retry-After": "9" * 400}), "fewer requests"),
        (Status(429, {"Retry-After": "Wed, 21 Oct 2099 07:28:00 GMT"}), "fewer requests"),
        (Status(429), "fewer requests"),
        (Status(500), "500"),
        (Status(503, {"Retry-After": "3600"}), "503"),
        (Status(504), "504"),
        (Status(418), "418"),
    ],
    ids=lambda value: str(getattr(value, "code", "")),
)
def test_row_42_each_cause_is_told_apart(
    model: FakeHub, status: Status, words: str, refused: Callable[[], str]
) -> None:
    model.misbehave("/api/", status)
    assert words in refused()


def test_row_42_a_wrong_token(model: FakeHub, timed: Callable[[Pull], str]) -> None:
    error = timed(Pull(env={"HF_TOKEN": "hf_theWrongToken"}))
    assert "rejects the token" in error
    assert "hf_the" not in error


def test_row_42_no_such_model(hub: FakeHub, timed: Callable[[Pull], str]) -> None:
    assert "no model" in timed(Pull())
    assert "no model" in timed(Pull(env={"HF_TOKEN": hub.token}))


def test_row_42_no_such_revision(model: FakeHub, timed: Callable[[Pull], str]) -> None:
    assert '"v2"' in timed(Pull("--revision", "v2"))


def test_row_42_a_short_wait_is_waited(model: FakeHub) -> None:
    model.misbehave("/api/", Status(429, {"Retry-After": "0"}), times=2)
    model.misbehave("config.json", Status(500), times=1)
    assert Pull().code == 0


# -- row 43: the body is not what it should be ---------------------------------------------


def test_row_43_cut_again_and_again(model: FakeHub, timed: Callable[[Pull], str]) -> None:
    model.misbehave("/storage/", Cut(at=0))
    timed(Pull())
    assert resolve_again(model) == ""


def test_row_43_a_later_run_goes_on_where_an_earlier_one_stopped(
    model: FakeHub, timed: Callable[[Pull], str]
) -> None:
    model.misbehave("/storage/", Cut(at=3000), times=1)
    model.misbehave("/storage/", Status(404))
    timed(Pull())
    assert resolve_again(model) == "bytes=3000-"


@pytest.mark.parametrize("pattern", ["config.json", "tokenizer.json", "/storage/"])
def test_row_43_same_size_but_corrupt(
    model: FakeHub, pattern: str, refused: Callable[[], str]
) -> None:
    model.misbehave("/storage/" if pattern == "tokenizer.json" else pattern, Corrupt())
    error = refused()
    assert "damaged" in error
    assert "deleted" in error
    assert resolve_again(model) == ""


@pytest.mark.parametrize("change", [-100, 100])
@pytest.mark.parametrize("pattern", ["/config.json", "/storage/"])
def test_row_43_wrong_length(
    model: FakeHub, pattern: str, change: int, refused: Callable[[], str]
) -> None:
    model.misbehave(pattern, Length(change))
    refused()
    resolve_again(model)


def test_row_43_a_rest_of_something_else_is_fetched_anew(model: FakeHub) -> None:
    model.misbehave("/storage/", Cut(at=3000), times=1)
    model.misbehave("/storage/", Status(404))
    Pull().failed()
    (rest,) = (path for path in blobs() if path.suffix == ".incomplete")
    rest.write_bytes(b"x" * 3000)
    assert resolve_again(model) == "bytes=3000-"


def test_row_43_a_server_that_ignores_ranges(model: FakeHub) -> None:
    model.misbehave("/storage/", Cut(at=3000), times=1)
    model.misbehave("/storage/", IgnoreRange())
    assert Pull().code == 0


def test_row_43_another_part_than_asked_for(model: FakeHub) -> None:
    model.misbehave("/storage/", Cut(at=3000), times=1)
    model.misbehave("/storage/", Headers({"Content-Range": "bytes 7-9/10"}))
    assert Pull().code == 0
    assert [r.range for r in model.asked_for("/storage/")][:3] == [None, "bytes=3000-", None]


def test_row_43_refresh_finds_a_flipped_bit_in_the_cache(model: FakeHub) -> None:
    found = resolve(NAME)
    blob = (found.folder / "model.safetensors").resolve()
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(bytes(data))
    assert Pull("--refresh").code == 0
    data[-1] ^= 1
    assert (found.folder / "model.safetensors").read_bytes() == bytes(data)


# -- rows 37, 29, 53: hostile names --------------------------------------------------------


@pytest.mark.parametrize("etag", ['"../../../pwned"', "/etc/passwd", "..", '"a/b"', '""', "a b"])
def test_row_37_an_etag_leads_nowhere(
    model: FakeHub, etag: str, refused: Callable[[], str]
) -> None:
    model.hashes_in_listing = False
    headers = {"ETag": etag, "X-Linked-Etag": etag}
    model.misbehave("resolve", Headers(headers), method="HEAD")
    home = Path(os.environ["HOME"])
    before = tree(home.parent)
    assert "ETag" in refused()
    new = tree(home.parent) - before
    assert all(path.is_relative_to(cache_folder()) for path in new)
    assert not [path for path in new if "pwned" in path.name]


def test_row_37_a_commit_leads_nowhere(model: FakeHub, refused: Callable[[], str]) -> None:
    model.hashes_in_listing = False
    headers = {"X-Repo-Commit": "../../../../pwned"}
    model.misbehave("resolve", Headers(headers), method="HEAD")
    assert "commit" in refused()


@pytest.mark.parametrize(
    "listing",
    [
        {"sha": "../../../../pwned", "siblings": []},
        {"sha": "a" * 40, "siblings": [{"rfilename": "../../pwned"}]},
        {"sha": "a" * 40, "siblings": [{"rfilename": 3}, [], None, {"rfilename": "config.json"}]},
        {"sha": "a" * 40, "siblings": "config.json"},
        {"sha": 7, "siblings": []},
        [],
        None,
        "\x1b[2J",
    ],
)
def test_row_37_a_hostile_listing(
    model: FakeHub, listing: object, refused: Callable[[], str]
) -> None:
    model.misbehave("/api/", Status(200, {}, json.dumps(listing).encode()))
    home = Path(os.environ["HOME"])
    before = tree(home.parent)
    refused()
    assert tree(home.parent) == before


def test_row_37_a_mirror_without_hashes_is_served_by_headers(model: FakeHub) -> None:
    model.hashes_in_listing = False
    assert Pull().code == 0
    model.behave()
    resolve(NAME)
    assert model.requests == []


@pytest.mark.parametrize("revision", ["../..", "a\x1b[2Jb", "a/../../b", "/etc", "", "a\nb"])
def test_row_53_revisions(model: FakeHub, revision: str) -> None:
    error = Pull("--revision", revision).failed(2)
    assert "\x1b" not in error
    assert model.requests == []


@pytest.mark.parametrize("name", ["evil\x1b]52;c;\x07", "a\u202eb", "a\nb"])
def test_row_29_53_control_characters_in_names(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llmcli", "models", "path", name], capture_output=True, check=False
    )
    assert done.returncode == 2
    assert all(0x20 <= byte < 0x7F for byte in done.stderr.strip())


# -- rows 38, 39, 40: the cache ------------------------------------------------------------


def test_row_38_a_folder_with_the_name_of_a_cached_model(
    model: FakeHub, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = resolve(NAME)
    (tmp_path / "org").mkdir()
    (tmp_path / NAME).symlink_to(tiny_llama)
    monkeypatch.chdir(tmp_path)
    notices: list[str] = []
    assert resolve(NAME, notify=notices.append).origin == "folder"
    assert len(notices) == 1
    assert "@main" in notices[0]
    assert resolve(f"{NAME}@main") == cached


@pytest.mark.parametrize(
    ("args", "env", "cause"),
    [
        (["--offline"], {}, "--offline"),
        ([], {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE=1"),
        ([], {"TRANSFORMERS_OFFLINE": "true"}, "TRANSFORMERS_OFFLINE=true"),
    ],
)
def test_row_39_offline_and_not_cached(
    model: FakeHub,
    args: list[str],
    env: dict[str, str],
    cause: str,
    timed: Callable[[Pull], str],
) -> None:
    pull = Pull(*args, env=env)
    assert cause in timed(pull)
    assert pull.seconds < START_UP
    assert model.requests == []


def test_row_39_offline_and_half_cached(model: FakeHub, timed: Callable[[Pull], str]) -> None:
    resolve(NAME, need="tokenizer")
    assert "model.safetensors" in timed(Pull("--offline"))


@pytest.mark.parametrize("action", [Silence(), Status(500)])
def test_row_40_cached_and_the_hub_is_dead(model: FakeHub, action: Action) -> None:
    first = Pull()
    model.behave()
    model.misbehave("", action)
    again = Pull()
    assert (again.code, again.done.stdout) == (0, first.done.stdout)
    assert Pull(env={"HF_ENDPOINT": "http://127.0.0.1:1"}).code == 0
    assert Pull("--revision", "v1", "--offline").code == 1  # known by another name only
    assert model.requests == []


def test_row_40_a_hit_imports_nothing_that_connects(model: FakeHub) -> None:
    resolve(NAME)
    code = (
        "import sys; from llmcli.hub.resolve import resolve; "
        f"resolve({NAME!r}); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"huggingface_hub", "httpx2", "socket", "ssl", "torch", "transformers", "tokenizers"}
    assert not heavy & set(done.stdout.split())


# -- rows 44, 10: the disk -----------------------------------------------------------------


def test_row_44_the_cache_is_a_file(
    model: FakeHub, tmp_path: Path, timed: Callable[[Pull], str]
) -> None:
    (tmp_path / "file").write_text("mine")
    error = timed(Pull(env={"HF_HOME": str(tmp_path / "file")}))
    assert str(tmp_path / "file") in error
    assert "HF_HOME" in error
    assert (tmp_path / "file").read_text() == "mine"


def test_row_44_the_cache_cannot_be_made(model: FakeHub, timed: Callable[[Pull], str]) -> None:
    # The kernel lets nobody make a folder there, root included.
    error = timed(Pull(env={"HF_HOME": "/proc/self/cache"}))
    assert "/proc/self/cache" in error
    assert "HF_HOME" in error


def test_row_44_a_write_fails(
    model: FakeHub, record_property: Callable[[str, object], None]
) -> None:
    command = [sys.executable, "-m", "llmcli", "models", "pull", NAME]
    done = subprocess.run(
        command,
        capture_output=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000)),
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"HF_HOME" in done.stderr
    assert resolve_again(model) == "bytes=8000-"


def test_row_44_a_disk_that_is_too_small(model: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(StorageError, match="No space left on device"):
        resolve(NAME)


class _FailOnce:
    """Let the Nth call of some functions of ``os`` fail as a full or broken disk does."""

    NAMES = ("write", "fsync", "replace", "symlink", "open", "ftruncate")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
        self.calls = 0
        self.failing = failing
        for name in self.NAMES:
            monkeypatch.setattr(os, name, self._wrap(getattr(os, name)))

    def _wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if threading.current_thread().name == "llmcli-download":
                self.calls += 1
                if self.calls == self.failing:
                    raise OSError(28, "No space left on device")
            return function(*args, **options)

        return call


def test_row_10_every_write_to_the_cache_may_fail(
    model: FakeHub, monkeypatch: pytest.MonkeyPatch, tiny_gpt2: Path
) -> None:
    failures = 0
    for failing in range(1, 200):
        monkeypatch.setenv("HF_HOME", str(cache_folder().parent.parent / f"hf{failing}"))
        with monkeypatch.context() as patch:
            disk = _FailOnce(patch, failing)
            try:
                resolve(NAME)
            except StorageError:
                failures += 1
        if disk.calls < failing:
            break
        # Whatever was left behind, nothing false is in it, and the next run completes it.
        found = resolve(NAME)
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            assert (found.folder / name).read_bytes() == (tiny_gpt2 / name).read_bytes()
    assert failures > 10
    assert failing < 199


# -- row 45: two at once -------------------------------------------------------------------


@pytest.fixture
def held(model: FakeHub) -> Iterator[Hold]:
    """The first download of the weights stops in the middle until it is let go."""
    hold = Hold(after=2000)
    model.misbehave("/storage/", hold, times=1)
    yield hold
    hold.release.set()


def test_row_45_two_processes_one_download(model: FakeHub, held: Hold) -> None:
    with start() as first:
        wait_for_bytes(held)
        with start() as second:
            assert second.stderr is not None
            assert b"Another process" in second.stderr.readline()
            held.release.set()
            outputs = [process.communicate(timeout=30)[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    assert outputs[0] == outputs[1] != b""
    paths = [request.path for request in model.asked_for("/storage/")]
    assert len(paths) == len(set(paths)) == 2  # the weights once, the tokenizer once


def test_row_45_one_of_two_is_killed(model: FakeHub, held: Hold) -> None:
    with start() as first:
        wait_for_bytes(held)
        with start() as second:
            assert second.stderr is not None
            assert b"Another process" in second.stderr.readline()
            first.kill()
            out, _ = second.communicate(timeout=30)
        first.communicate(timeout=30)
    assert second.returncode == 0
    assert (Path(os.fsdecode(out.strip())) / "model.safetensors").is_file()
    assert "bytes=2000-" in [request.range for request in model.requests]
    leftovers = [p for p in tree(cache_folder()) if p.suffix == ".incomplete" or p.name[0] == "."]
    assert not [path for path in leftovers if path.suffix != ".lock"]


# -- rows 46, 54: secrets ------------------------------------------------------------------

SECRET = "hf_veryS3cretIndeed"


def test_row_46_the_token_goes_to_the_hub_and_nowhere_else(model: FakeHub) -> None:
    model.token = SECRET
    assert Pull(env={"HF_TOKEN": SECRET}).code == 0
    sent = {request.authorization for request in model.requests if "/storage/" not in request.path}
    stored = {request.authorization for request in model.asked_for("/storage/")}
    assert sent == {f"Bearer {SECRET}"}
    assert stored == {None}


@pytest.mark.parametrize(
    "action",
    [Status(401), Status(403), Status(404), Status(429), Status(500), Silence(), None],
)
def test_row_46_the_token_is_never_printed(model: FakeHub, action: Action | None) -> None:
    if action is not None:
        model.misbehave("", action)
    pull = Pull("--timeout", "1", "--debug", "-v", env={"HF_TOKEN": SECRET, "LLMCLI_DEBUG": "1"})
    assert pull.code == 1
    assert SECRET not in pull.err
    assert SECRET.encode() not in pull.done.stdout


@pytest.mark.parametrize("token", [f"{SECRET}\x00", f"{SECRET} x", f"{SECRET}é", f"{SECRET}\x7f"])
def test_row_46_a_broken_token_is_not_printed_either(
    model: FakeHub, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AccessDenied) as caught:
        read_endpoint(token)
    assert SECRET not in repr(caught.value)


def test_row_46_no_token_in_clear_text_over_a_network(timed: Callable[[Pull], str]) -> None:
    error = timed(Pull(env={"HF_ENDPOINT": "http://192.0.2.1", "HF_TOKEN": SECRET}))
    assert "https" in error
    assert SECRET not in error


@pytest.mark.parametrize(
    "env",
    [
        {"HF_ENDPOINT": "http://user:s3cretWord@127.0.0.1:1"},
        {"HF_ENDPOINT": "https://user:s3cretWord@127.0.0.1:1"},
        {"HF_ENDPOINT": "http://user:s3cretWord@[::1"},
        {"HF_ENDPOINT": "ftp://user:s3cretWord@127.0.0.1"},
        {"HF_ENDPOINT": "user:s3cretWord"},
        {"HTTP_PROXY": "http://user:s3cretWord@127.0.0.1:1"},
        {"HTTPS_PROXY": "http://user:s3cretWord@127.0.0.1:1", "HF_ENDPOINT": "https://127.0.0.2"},
        {"ALL_PROXY": "socks9://user:s3cretWord@127.0.0.1:1"},
        {"ALL_PROXY": "http://user:s3cretWord@[::1"},
    ],
    ids=str,
)
def test_row_54_credentials_in_addresses_are_never_printed(env: dict[str, str]) -> None:
    endpoint = {"HF_ENDPOINT": f"http://127.0.0.1:{refusing_port()}"}
    pull = Pull("--timeout", "2", "--debug", env={**endpoint, **env})
    assert pull.code in (1, 2), pull.err
    assert "s3cretWord" not in pull.err
    assert "Error: " in pull.err


WORD = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=20)


@given(user=WORD, password=WORD, host=st.sampled_from(["127.0.0.1", "h:1:2", "[::1", "a b"]))
def test_row_54_whatever_the_credentials_are(user: str, password: str, host: str) -> None:
    address = f"http://{user}:{password}@{host}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", address)
        try:
            shown = repr(read_endpoint(None))
        except InvalidInput as error:
            shown = repr(error)
    assert password not in shown
