"""Files that are written: whole or not at all, whichever operation fails (rows 2, 10, 11)."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from llmcli.cli.main import cli
from llmcli.errors import StorageError
from llmcli.io.files import atomic_write

OLD, NEW = b"old " * 5000, b"new " * 7000
# What a write asks of the system; a file object's own write does not pass through os.write.
OPERATIONS = ("open", "fsync", "fchmod", "replace", "stat")


class Disk:
    """Counts the operations of a write, and fails the ``nth``."""

    def __init__(self, nth: int, code: int) -> None:
        self.nth, self.code, self.calls = nth, code, 0

    def guard(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls == self.nth:
                raise OSError(self.code, os.strerror(self.code))
            return real(*args, **options)

        return call

    @property
    def failed(self) -> bool:
        return self.calls >= self.nth


def write_in_pieces(path: Path, disk: Disk) -> None:
    with pytest.MonkeyPatch.context() as patched:
        for name in OPERATIONS:
            patched.setattr(os, name, disk.guard(getattr(os, name)))
        with atomic_write(path) as file:
            write = disk.guard(file.write)
            for start in range(0, len(NEW), 10_000):
                write(NEW[start : start + 10_000])


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("existing", [True, False])
def test_row_10_whichever_operation_fails(tmp_path: Path, code: int, existing: bool) -> None:
    """The file is the old one or the new one, whole, and nothing else is left lying about."""
    path = tmp_path / "result.txt"
    nth, messages = 0, list[str]()
    while True:
        nth += 1
        assert nth < 50, "the loop never came to a clean run"
        path.unlink(missing_ok=True)
        if existing:
            path.write_bytes(OLD)
        disk = Disk(nth, code)
        try:
            write_in_pieces(path, disk)
        except StorageError as error:
            messages.append(str(error))
        content = path.read_bytes() if path.exists() else None
        assert content in (OLD if existing else None, NEW)
        assert [entry.name for entry in tmp_path.iterdir()] in ([], ["result.txt"])
        if not disk.failed:
            break
    assert content == NEW
    assert len(messages) >= 6
    assert {os.strerror(code) in m and str(path) in m for m in messages} == {True}


def test_row_10_a_reader_sees_the_old_file_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "result.txt"
    path.write_bytes(OLD)
    with atomic_write(path) as file:
        file.write(NEW)
        file.flush()
        assert path.read_bytes() == OLD
    assert path.read_bytes() == NEW


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, SystemExit(143), RuntimeError, StorageError("x.")]
)
def test_row_10_whatever_interrupts_it(tmp_path: Path, error: Any) -> None:
    path = tmp_path / "result.txt"
    path.write_bytes(OLD)
    with pytest.raises(BaseException) as raised, atomic_write(path) as file:  # noqa: PT011, PT012
        file.write(NEW)
        raise error
    assert isinstance(raised.value, error if isinstance(error, type) else type(error))
    assert path.read_bytes() == OLD
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.txt"]


def test_modes_follow_the_umask_or_the_old_file(tmp_path: Path) -> None:
    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    def write(path: Path) -> None:
        with atomic_write(path) as file:
            file.write(b"x")

    before = os.umask(0o027)
    try:
        write(tmp_path / "new")
        kept = tmp_path / "kept"
        kept.touch()
        kept.chmod(0o600)
        write(kept)
    finally:
        assert os.umask(before) == 0o027
    assert mode(tmp_path / "new") == 0o640
    assert mode(kept) == 0o600


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "folder" / "link"
    link.parent.mkdir()
    real.write_bytes(OLD)
    link.symlink_to(real)
    with atomic_write(link) as file:
        file.write(NEW)
    assert link.is_symlink()
    assert real.read_bytes() == NEW


def test_a_pipe_is_written_as_it_is(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    with atomic_write(pipe) as file:
        file.write(NEW)
    reader.join(timeout=10)
    assert read == [NEW]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_long_names(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    with atomic_write(path) as file:
        file.write(NEW)
    assert path.read_bytes() == NEW


def test_row_02_a_full_device() -> None:
    with (
        pytest.raises(StorageError, match="No space left on device"),
        atomic_write(Path("/dev/full")) as file,
    ):
        file.write(NEW)


# -- through the command ------------------------------------------------------------------------


def test_row_11_the_output_is_the_input(tiny_gpt2: Path, tmp_path: Path) -> None:
    """Also under another name for it."""
    prompt, link = tmp_path / "prompt.txt", tmp_path / "link.txt"
    prompt.write_text("Once upon a time\n")
    link.symlink_to(prompt)
    for output in (prompt, link, tmp_path / "." / "prompt.txt"):
        arguments = ["generate", "-m", str(tiny_gpt2), "-i", str(prompt), "-o", str(output)]
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 2
        assert "is an input file, too." in result.stderr
    assert prompt.read_text() == "Once upon a time\n"


def test_row_10_generate_keeps_the_old_file_when_the_disk_is_full(
    tiny_gpt2: Path, tmp_path: Path
) -> None:
    path = tmp_path / "result.txt"
    path.write_bytes(OLD)
    base = ["generate", "-m", str(tiny_gpt2), "-n", "3", "--seed", "1", "Once"]
    assert CliRunner().invoke(cli, base).exit_code == 0  # the model is prepared
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", _full)
        result = CliRunner().invoke(cli, [*base, "-o", str(path)])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: Cannot write {path}: No space left on device.")
    assert path.read_bytes() == OLD
    result = CliRunner().invoke(cli, [*base, "-o", str(path)])
    assert (result.exit_code, result.stdout) == (0, "")
    written = path.read_text(encoding="utf-8")
    assert written == CliRunner().invoke(cli, base).stdout


def _full(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
