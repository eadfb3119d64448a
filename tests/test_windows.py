"""What the package sees on Windows: modules, functions and signals that are Unix's are not there.

mypy checks the same for what no test runs (`make types`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

# Runs commands, one after the other, in a process where llmcli's modules, and only those, see
# what Python has on Windows. The library of kernels is still this system's.
PROGRAM = """
import builtins, contextlib, importlib, json, pkgutil, sys

UNIX = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "termios", "tty"}
LACKING = {
    "os": {
        "O_CLOEXEC", "O_NONBLOCK", "chown", "fchmod", "fork", "getpgid", "geteuid", "getuid",
        "killpg", "memfd_create", "mkfifo", "posix_fadvise", "pread", "pwrite", "sched_getaffinity",
        "setsid", "statvfs", "sysconf", "uname",
    },
    "signal": {"SIGHUP", "SIGKILL", "SIGPIPE", "SIGUSR1", "pthread_kill", "setitimer"},
    "socket": {"AF_UNIX"},
}
OMITTED = (
    "llmcli.__main__", "llmcli.cluster", "llmcli.engine.native._kernels", "llmcli.models.bundled",
    "llmcli.serve", "llmcli.training",
)
slow = {"torch", "transformers"}  # what imports these is left to mypy
real = builtins.__import__


class Slow(ImportError):
    pass


class Lacking:
    def __init__(self, module, names, **others):
        vars(self).update(_module=module, _names=names, **others)

    def __getattr__(self, name):
        if name in self._names:
            raise AttributeError(f"no {name} on Windows")
        return getattr(self._module, name)

    def __setattr__(self, name, value):
        setattr(self._module, name, value)


def on_windows(name, globals=None, locals=None, fromlist=(), level=0):
    asking = (globals or {}).get("__name__", "")
    if level or not (asking + ".").startswith("llmcli."):
        return real(name, globals, locals, fromlist, level)
    if slow and name.partition(".")[0] in slow:
        raise Slow
    if name in UNIX:
        raise ModuleNotFoundError(f"no {name} on Windows", name=name)
    module = real(name, globals, locals, fromlist, level)
    if name == "sys":
        return Lacking(module, set(), platform="win32")
    return Lacking(module, LACKING[name]) if name in LACKING else module


builtins.__import__ = on_windows
import llmcli

modules = pkgutil.walk_packages(llmcli.__path__, "llmcli.")
for module in modules:
    if not module.name.startswith(OMITTED):
        with contextlib.suppress(Slow):
            importlib.import_module(module.name)
slow.clear()

from llmcli.cli.main import cli
from llmcli.engine.native import library

assert library.PATH.suffix == ".dll"
library.PATH = library.PATH.with_suffix(".so")
for command in json.loads(sys.argv[1]):
    try:
        cli(command, prog_name="llmcli")
    except SystemExit as end:
        if end.code:
            raise
"""


def test_commands_do_without_what_is_unix_alone(tmp_path: Path) -> None:
    text, prompts, out = tmp_path / "text", tmp_path / "prompts", tmp_path / "out.jsonl"
    text.write_text("Once upon a time there was a fox.")
    prompts.write_text(json.dumps({"prompt": "The"}) + "\n")
    short = ["-m", "fable", "-n", "3", "--seed", "1"]
    batch = ["generate", *short, "--jsonl", "-i", str(prompts), "-o", str(out)]
    commands = [
        ["encode", "-m", "fable", "-i", str(text)],
        ["score", "-m", "fable", "--json", "-i", str(text)],
        ["generate", *short, "Once upon a time"],
        batch,
        [*batch, "--resume"],
        [*batch, "--overwrite"],
        ["models", "list"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(commands)],
        cwd=tmp_path,
        env={**os.environ, "LLMCLI_DEBUG": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(out.read_text().splitlines()) == 1
    assert '"text"' in out.read_text()
