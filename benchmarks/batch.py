"""What a batch costs over the engine alone, and what it costs to survive.

    python benchmarks/batch.py engine     # a batch's tokens a second over the engine's own
    python benchmarks/batch.py output     # -o with its manifest over stdout
    python benchmarks/batch.py resume     # until the first new record, 100,000 being done
    python benchmarks/batch.py memory     # peaks with 100 MB, 1 GB and 10 GB of input
    python benchmarks/batch.py ray        # two actors of a thread over a process of two threads

Times are those of the faster quarter of runs that alternate; a machine that does other things
meanwhile moves them all the same.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

LLMCLI = [sys.executable, "-m", "llmcli"]
WORDS = [
    "the",
    "fox",
    "said",
    "to",
    "a",
    "crow",
    "by",
    "the",
    "old",
    "river",
    "once",
    "upon",
    "time",
    "where",
    "cheese",
    "was",
]


def prompts(count: int) -> list[str]:
    """Short prompts of three to ten words, the same on every call."""
    return [
        " ".join(WORDS[(n * 7 + i * (n % 5 + 1)) % len(WORDS)] for i in range(3 + n % 8))
        for n in range(count)
    ]


def write_prompts(path: Path, count: int) -> None:
    with open(path, "w") as file:
        for number, text in enumerate(prompts(count)):
            file.write(json.dumps({"id": number, "prompt": text}) + "\n")


class Nothing:
    """No Ctrl-C, and no progress."""

    set = False

    def __call__(self) -> bool:
        return False

    def lifted(self) -> AbstractContextManager[None]:
        return nullcontext()

    def begin(self, total: int | None, done: int, failed: int = 0) -> None:
        pass

    def note(self, *, tokens: int, failed: int, records: int = 1) -> None:
        pass


class Bench:
    """A loaded model and a batch's input."""

    def __init__(self, folder: Path, chosen: argparse.Namespace) -> None:
        from llmcli.models.loader import load_resolved
        from llmcli.models.options import LoadOptions
        from llmcli.tasks.prompts import sampling_params

        self.folder, self.size = folder, chosen.batch_size
        options = LoadOptions(model=chosen.model, threads=chosen.threads)
        self.model = load_resolved(options.resolve(), options)
        given = {"max_new_tokens": chosen.tokens, "seed": 1, "ignore_eos": True}
        self.params = sampling_params(self.model, given)
        self.texts = prompts(chosen.records)
        write_prompts(folder / "in.jsonl", chosen.records)
        self.tokens = chosen.tokens * chosen.records

    def engine(self) -> None:
        """The texts through the engine, nothing kept."""
        from llmcli.tasks.generate import Text, continue_batch

        texts = (Text(key=n, number=n, text=text) for n, text in enumerate(self.texts))
        for _ in continue_batch(self.model, texts, self.params, batch_size=self.size):
            pass

    def batch(self, output: Path | None, show: Callable[[Mapping[str, Any]], None]) -> None:
        """The same as a batch."""
        from llmcli.io.batch_run import BatchRequest, BatchRun
        from llmcli.io.records import Columns, Source
        from llmcli.tasks.generate_batch import continue_records
        from llmcli.tasks.statistics import GenerationStats

        stats = GenerationStats(prompt_tokens=0)
        work = continue_records(self.model, self.params, stats, batch_size=self.size)
        request = BatchRequest(
            sources=[Source(str(self.folder / "in.jsonl"))],
            columns=Columns(text="prompt"),
            output=output,
            mode="overwrite",
        )
        nothing = Nothing()
        BatchRun(request, {}, show=show, progress=nothing, interrupted=nothing).run(work)

    def to_file(self) -> None:
        self.batch(self.folder / "out.jsonl", lambda row: None)

    def to_stdout(self) -> None:
        """As the command does it, into a file that stands for stdout."""
        from llmcli.io.json_line import to_json

        with open(self.folder / "stdout.jsonl", "wb") as out:

            def show(row: Mapping[str, Any]) -> None:
                out.write((to_json(row) + "\n").encode())
                out.flush()

            self.batch(None, show)


def alternate(first: Callable[[], None], second: Callable[[], None], runs: int) -> list[float]:
    """Seconds of both, in wall time and on the processor: the faster quarter of runs in turn."""
    seconds: list[list[float]] = [[], [], [], []]
    first()
    for _ in range(runs):
        for index, run in enumerate((first, second)):
            wall, processor = time.perf_counter(), time.process_time()
            run()
            seconds[index].append(time.perf_counter() - wall)
            seconds[2 + index].append(time.process_time() - processor)
    return [sorted(each)[len(each) // 4] for each in seconds]


def engine(chosen: argparse.Namespace, folder: Path) -> None:
    bench = Bench(folder, chosen)
    one, two, one_cpu, two_cpu = alternate(bench.engine, bench.to_file, chosen.runs)
    print(f"engine {bench.tokens / one:.0f} tokens/s, batch {bench.tokens / two:.0f} tokens/s")
    print(f"batch: {bench.tokens / two_cpu:.0f} tokens in a second of the processor")
    print(f"batch over engine: {one / two:.3f} by the clock, {one_cpu / two_cpu:.3f} by processor")


def output(chosen: argparse.Namespace, folder: Path) -> None:
    bench = Bench(folder, chosen)
    one, two, one_cpu, two_cpu = alternate(bench.to_stdout, bench.to_file, chosen.runs)
    print(f"stdout {one:.2f} s, -o {two:.2f} s")
    print(f"-o costs {two / one - 1:+.2%} by the clock, {two_cpu / one_cpu - 1:+.2%} by processor")


def resume(chosen: argparse.Namespace, folder: Path) -> None:
    """From the start of the process until the output grows."""
    done = 100_000
    write_prompts(folder / "in.jsonl", done + 200)
    asked = [*LLMCLI, "generate", "-m", chosen.model, "--jsonl", "--seed", "1", "-n", "1", "-q"]
    asked += ["-i", "in.jsonl", "-o", "out.jsonl"]
    started = first_record([*asked, "--overwrite"], folder, 0)
    row = json.loads((folder / "out.jsonl").read_bytes().splitlines()[0])
    with open(folder / "out.jsonl", "w") as file:
        for number, text in enumerate(prompts(done)):
            line = {**row, "id": number, "prompt": text, "record": number}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    size = (folder / "out.jsonl").stat().st_size
    resumed = first_record([*asked, "--resume"], folder, size)
    print(
        f"first record of a new run after {started:.2f} s, of a resumed one after {resumed:.2f} s"
    )
    print(
        f"difference: {resumed - started:.2f} s; {done:,} records, {size / 1e6:.0f} MB, were done"
    )


def first_record(command: list[str], folder: Path, size: int) -> float:
    out = folder / "out.jsonl"
    start = time.perf_counter()
    with subprocess.Popen(command, cwd=folder) as process:
        while not out.exists() or out.stat().st_size <= size:
            if process.poll() is not None:
                sys.exit("the run ended without a new record")
            time.sleep(0.005)
        seconds = time.perf_counter() - start
        process.kill()
    return seconds


def memory(chosen: argparse.Namespace, folder: Path) -> None:
    """Records of a megabyte that passes through, from a pipe, to nowhere."""
    filler = b"x" * 1_000_000
    for size in chosen.megabytes:
        pipe = folder / "pipe.jsonl"
        os.mkfifo(pipe)

        def feed(megabytes: int = size, path: Path = pipe) -> None:
            with open(path, "wb") as file:
                for number in range(megabytes):
                    file.write(b'{"id": %d, "prompt": "The fox", "more": "' % number)
                    file.write(filler + b'"}\n')

        feeder = threading.Thread(target=feed)
        feeder.start()
        command = [*LLMCLI, "generate", "-m", chosen.model, "--jsonl", "--seed", "1", "-n", "2"]
        start = time.perf_counter()
        with subprocess.Popen([*command, "-i", str(pipe)], stdout=subprocess.DEVNULL) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        feeder.join()
        pipe.unlink()
        print(
            f"{size:6,} MB of input: peak {usage.ru_maxrss / 1024:.0f} MiB, "
            f"{time.perf_counter() - start:.0f} s, exit {process.returncode}",
            flush=True,
        )


def ray(chosen: argparse.Namespace, folder: Path) -> None:
    """Records a second between the first part and the last, so without any start."""
    write_prompts(folder / "in.jsonl", chosen.records)
    asked = [*LLMCLI, "generate", "-m", chosen.model, "--jsonl", "--seed", "1", "--ignore-eos"]
    asked += ["-n", str(chosen.tokens), "--batch-size", str(chosen.batch_size), "-i", "in.jsonl"]
    rates: dict[str, list[float]] = {"one": [], "many": []}
    rows = 25
    for run in range(chosen.runs):
        one = folder / f"one{run}.jsonl"
        with subprocess.Popen([*asked, "--threads", "2", "-o", one, "-q"], cwd=folder) as process:
            times = list(growth(process, one))
        rates["one"].append(rate(times))
        many = folder / f"many{run}"
        command = [*asked, "--ray", "local", "--actors", "2", "--partition-rows", str(rows)]
        subprocess.run([*command, "-o", many, "-q"], cwd=folder, check=True)
        made = sorted(path.stat().st_mtime for path in many.glob("part-*"))
        # The first two parts are those in which the actors started.
        rates["many"].append(rate([(when, (i + 1) * rows) for i, when in enumerate(made)][1:]))
    one_rate, many_rate = median(rates["one"]), median(rates["many"])
    print(
        f"a process of two threads {one_rate:.1f} records/s, two actors {many_rate:.1f} records/s"
    )
    print(f"two actors over one process: {many_rate / one_rate:.2f}")


def growth(process: subprocess.Popen[bytes], path: Path) -> Iterator[tuple[float, int]]:
    """When a file had how many lines."""
    lines = 0
    while process.poll() is None:
        found = path.read_bytes().count(b"\n") if path.exists() else 0
        if found != lines:
            lines = found
            yield time.time(), lines
        time.sleep(0.05)


def rate(times: list[tuple[float, int]]) -> float:
    (begin, before), (end, after) = times[0], times[-1]
    return (after - before) / (end - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["engine", "output", "resume", "memory", "ray"])
    parser.add_argument("--model", default="fable")
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[100, 1000, 10_000])
    chosen = parser.parse_args()
    runs = {"engine": engine, "output": output, "resume": resume, "memory": memory, "ray": ray}
    with tempfile.TemporaryDirectory() as name:
        runs[chosen.what](chosen, Path(name))


if __name__ == "__main__":
    main()
