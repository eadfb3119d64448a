"""`llmcli encode` against AutoTokenizer, ttok and the tokenizers library, as ratios in one run.

    python benchmarks/encode.py --tokenizer FOLDER --corpus FOLDER [--ttok PATH] [--runs 9]
                                [--part start|speed|memory] [--megabytes 100]

The tokenizer's folder holds GPT-2's vocab.json and merges.txt. They are copied, and config.json
and tokenizer.json put beside them, as the Hub's gpt2 has them. The corpus is any folder of .txt
files; its text is repeated or cut to the size asked for.

start   Whole process, a short text: `llmcli encode --count`; a script that does the same with
        AutoTokenizer; `ttok -m gpt2`. Run in turn; the median of the ratios.
speed   100 MB, whole process: `llmcli encode --count FILE` against encode_batch over the same
        text by lines, in a process with the same number of threads whose own clock is taken
        around the call alone. Then whether the ids written are those of the text encoded whole
        (by parts of 4 MB that begin where a paragraph of the corpus does).
memory  1 GB piped into `llmcli encode --count`: peak memory of the process.

ttok is installed apart (python -m venv V; V/bin/pip install ttok; --ttok V/bin/ttok). Its
library, tiktoken, fetches GPT-2's vocabulary over the network. Where there is none, this script
puts the same two files into a folder under the names that tiktoken looks for, which are the
SHA-1 of the addresses (tiktoken checks their SHA-256), and says so in TIKTOKEN_CACHE_DIR.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

LLMCLI = [str(Path(sys.executable).with_name("llmcli")), "encode"]
SHORT = "Once upon a time there was a little fox who didn't know what to say."
SHORTEST = """
import sys
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
print(len(tokenizer(sys.argv[2])["input_ids"]))
"""
BY_LINES = """
import sys, time
from pathlib import Path
from llmcli.tokenization.files import read_backend
backend = read_backend(Path(sys.argv[1]))
lines = open(sys.argv[2], encoding="utf-8", newline="").read().splitlines(keepends=True)
start = time.perf_counter()
encodings = backend.encode_batch(lines, add_special_tokens=False)
print(time.perf_counter() - start, sum(map(len, encodings)))
"""
_ADDRESS = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
TIKTOKEN_NAMES = {"vocab.bpe": "merges.txt", "encoder.json": "vocab.json"}


def run(command: Sequence[str], env: dict[str, str], stdin: int | None = None) -> tuple[float, str]:
    """Wall seconds of a process, and what it printed."""
    start = time.perf_counter()
    done = subprocess.run(
        command, env=env, stdin=stdin, stdout=subprocess.PIPE, check=True, encoding="utf-8"
    )
    return time.perf_counter() - start, done.stdout


def as_on_the_hub(source: Path, folder: Path) -> None:
    """The files that the Hub's gpt2 has, but the weights."""
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(source / name, folder / name)
    from llmcli.tokenization.files import read_backend

    read_backend(folder).save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text('{"model_type": "gpt2"}', "utf-8")


def ratios(ours: list[float], theirs: list[float]) -> str:
    """The median of the ratios of runs made in turn, and the medians themselves."""
    each = [a / b for a, b in zip(ours, theirs, strict=True)]
    return (
        f"ratio {statistics.median(each):.2f} (from {min(each):.2f} to {max(each):.2f}); "
        f"{statistics.median(ours):.3f} s to {statistics.median(theirs):.3f} s"
    )


def start(folder: Path, ttok: str | None, runs: int, env: dict[str, str]) -> None:
    """The three whole processes on a short text."""
    commands = {
        "llmcli": [*LLMCLI, "-m", str(folder), "--count", SHORT],
        "AutoTokenizer": [sys.executable, "-c", SHORTEST, str(folder), SHORT],
    }
    if ttok:
        commands["ttok"] = [ttok, "-m", "gpt2", SHORT]
        cache = Path(tempfile.mkdtemp(prefix="tiktoken-"))
        for name, source in TIKTOKEN_NAMES.items():
            key = hashlib.sha1((_ADDRESS + name).encode()).hexdigest()
            shutil.copyfile(folder / source, cache / key)
        env = {**env, "TIKTOKEN_CACHE_DIR": str(cache)}
    printed = {name: run(command, env)[1] for name, command in commands.items()}
    if len(set(printed.values())) != 1:
        raise SystemExit(f"the counts differ: {printed}")
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, command in commands.items():
            times[name].append(run(command, env)[0])
    for name in list(commands)[1:]:
        print(f"short text, llmcli to {name}: {ratios(times['llmcli'], times[name])}")
    if ttok:
        shutil.rmtree(cache)


def make_text(corpus: Path, size: int, target: Path) -> None:
    """The corpus, repeated or cut at a line's end, in a file of about ``size`` bytes."""
    texts = [path.read_bytes() for path in sorted(corpus.glob("*.txt"))]
    written = 0
    with target.open("wb") as file:
        while written < size:
            for text in texts:
                if written >= size:
                    break
                part = text[: size - written]
                part = part[: part.rfind(b"\n") + 1] or part.decode("utf-8", "ignore").encode()
                file.write(part)
                written += max(1, len(part))


def speed(folder: Path, corpus: Path, megabytes: int, threads: int, env: dict[str, str]) -> None:
    """Bytes a second against encode_batch by lines; whether the ids are those of the whole."""
    env = {**env, "RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}
    with tempfile.TemporaryDirectory() as temporary:
        text, ids = Path(temporary) / "text", Path(temporary) / "ids"
        make_text(corpus, megabytes * 1_000_000, text)
        size = text.stat().st_size / 1e6
        command = [*LLMCLI, "-m", str(folder), "--threads", str(threads)]
        for _ in range(2):
            ours, count = run([*command, "--count", "-i", str(text)], env)
            batch, _, lines = run([sys.executable, "-c", BY_LINES, str(folder), str(text)], env)[
                1
            ].partition(" ")
            theirs = float(batch)
            print(
                f"{size:.0f} MB, {threads} threads: whole process {ours:.1f} s "
                f"({size / ours:.2f} MB/s, {int(count)} tokens); encode_batch by lines "
                f"{theirs:.1f} s ({size / theirs:.2f} MB/s, {int(lines)} tokens); "
                f"speed ratio {theirs / ours:.2f}"
            )
        run([*command, "--format", "bin", "-o", str(ids), "-i", str(text)], env)
        print(f"ids equal to the whole's: {same_as_whole(folder, text, ids)}")


def same_as_whole(folder: Path, text: Path, ids: Path) -> bool:
    """Compare with the library's ids of 4 MB at a time, cut after a line's end before a letter.

    There a line break is a tile by itself and the letter begins the next one, so nothing crosses;
    this cut is another than the one under test.
    """
    import re

    import numpy as np

    from llmcli.tokenization.files import read_backend

    backend = read_backend(folder)
    backend.encode_special_tokens = True
    data = text.read_text("utf-8") if os.linesep == "\n" else text.read_bytes().decode("utf-8")
    written = np.memmap(ids, dtype="<u2", mode="r")
    place = re.compile(r"[a-z]\n(?=[A-Za-z])")
    start = position = 0
    while start < len(data):
        found = place.search(data, start + 4_000_000)
        end = found.end() if found else len(data)
        expected = backend.encode_batch_fast([data[start:end]], add_special_tokens=False)[0].ids
        if written[position : position + len(expected)].tolist() != expected:
            return False
        start, position = end, position + len(expected)
    return position == len(written)


def memory(folder: Path, corpus: Path, megabytes: int, env: dict[str, str]) -> None:
    """Peak memory while a pipe brings ten times the text."""
    with tempfile.TemporaryDirectory() as temporary:
        text = Path(temporary) / "text"
        make_text(corpus, megabytes * 1_000_000, text)
        feeder = subprocess.Popen(
            [sys.executable, "-c", FEED, str(text), "10"], stdout=subprocess.PIPE
        )
        process = subprocess.Popen(
            [*LLMCLI, "-m", str(folder), "--count"],
            stdin=feeder.stdout,
            stdout=subprocess.PIPE,
            env=env,
        )
        assert feeder.stdout is not None
        assert process.stdout is not None
        feeder.stdout.close()
        start = time.perf_counter()
        count = process.stdout.read().decode().strip()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        feeder.wait()
        print(
            f"{megabytes * 10} MB piped in: peak {usage.ru_maxrss / 1024:.0f} MB, {count} tokens, "
            f"{time.perf_counter() - start:.0f} s, status {process.returncode}"
        )


FEED = """
import sys
data = open(sys.argv[1], "rb").read()
for _ in range(int(sys.argv[2])):
    sys.stdout.buffer.write(data)
"""


def main() -> None:
    """Read the arguments and run the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--ttok")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--part", choices=["start", "speed", "memory"], action="append")
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in ("tokenizers", "transformers", "click"))
    )
    with tempfile.TemporaryDirectory(prefix="gpt2-") as temporary:
        folder = Path(temporary)
        as_on_the_hub(args.tokenizer, folder)
        for part in args.part or ["start", "speed", "memory"]:
            if part == "start":
                start(folder, args.ttok, args.runs, env)
            elif args.corpus is None:
                parser.error("--corpus is needed")
            elif part == "speed":
                speed(folder, args.corpus, args.megabytes, args.threads, env)
            else:
                memory(folder, args.corpus, args.megabytes, env)


if __name__ == "__main__":
    main()
