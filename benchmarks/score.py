"""Scoring speed and memory against a plain transformers loop, side by side.

    python benchmarks/score.py [--threads 2] [--windows 3] [--llama-perplexity PATH --gguf FILE]

GPT-2 124M's shape with random weights, windows of 1,024 tokens that do not overlap. Each measure
runs in a process of its own, one after the other, after one window that is not counted; the rate
is that of the fastest window, since other work on the machine can only slow a window down. Memory
is the process's peak while scoring, less what it held before the first window.

The transformers loop is what the Hugging Face guide to perplexity does: logits of the whole
window, cross-entropy over them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONTEXT = 1024
MEASURES = ("transformers float32", "llmcli float32", "transformers bfloat16", "llmcli bfloat16")


def status(key: str) -> float:
    """A line of /proc/self/status, in MB."""
    text = Path("/proc/self/status").read_text("utf-8")
    return int(re.findall(rf"{key}:\s+(\d+) kB", text)[0]) / 1e3


def transformers_loop(module: Any) -> Callable[[list[int]], float]:
    import torch

    def score(tokens: list[int]) -> float:
        ids = torch.tensor([tokens])
        with torch.inference_mode():
            logits = module(ids[:, :-1]).logits[0]
            return float(torch.nn.functional.cross_entropy(logits.float(), ids[0, 1:]))

    return score


def llmcli_loop(module: Any, precision: Any) -> Callable[[list[int]], float]:
    import llmcli
    from llmcli.scoring.likelihood import Likelihood
    from llmcli.scoring.windows import Window

    with tempfile.TemporaryDirectory() as folder:
        module.save_pretrained(folder)
        likelihood = Likelihood(llmcli.load(folder, precision=precision).decoder())

    def score(tokens: list[int]) -> float:
        ((_, _, scores),) = likelihood.score([(0, Window(tokens, 1, 0))])
        return -sum(scores.logprobs) / len(scores.logprobs)

    return score


def measure(name: str, windows: int, threads: int) -> dict[str, float]:
    import torch
    import transformers

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    library: Any = transformers
    module = library.GPT2LMHeadModel(library.GPT2Config()).eval()
    who, precision = name.split()
    if who == "transformers":
        score = transformers_loop(module.to(getattr(torch, precision)))
    else:
        score = llmcli_loop(module, precision)
    tokens = torch.randint(0, module.config.vocab_size, (windows + 1, CONTEXT + 1)).tolist()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading
    before = status("VmRSS")
    nlls, seconds = [], []
    for window in tokens:
        start = time.perf_counter()
        nlls.append(score(window))
        seconds.append(time.perf_counter() - start)
    return {
        "rate": CONTEXT / min(seconds[1:]),
        "memory": status("VmHWM") - before,
        "nll": sum(nlls) / len(nlls),
    }


def llama_perplexity(program: str, gguf: str, threads: int, windows: int) -> float | None:
    """Tokens a second by its own time for the first window, over text that is numbers.

    It computes the output layer for the second half of the window only.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as text:
        text.write(" ".join(str(i * 7919 % 10007) for i in range(CONTEXT * (windows + 1))))
        text.flush()
        size = str(CONTEXT)
        command = [program, "-m", gguf, "-f", text.name, "-t", str(threads)]
        process = subprocess.run(
            [*command, "-c", size, "-b", size, "-ub", size, "--chunks", str(windows)],
            capture_output=True,
            text=True,
            check=False,
        )
    found = re.findall(r"([\d.]+) seconds per pass", process.stdout + process.stderr)
    return CONTEXT / float(found[0]) if found else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--only", choices=MEASURES, help="one measure, in this process")
    parser.add_argument("--llama-perplexity", help="the program")
    parser.add_argument("--gguf", help="the same shape as GGUF, float32")
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(args.only, args.windows, args.threads)))
        return
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    results: dict[str, dict[str, float]] = {}
    print(f"{'':24}{'tokens/s':>10}{'ratio':>8}{'MB above weights':>19}{'NLL':>10}")
    for name in MEASURES:
        command = [sys.executable, __file__, "--only", name]
        command += ["--threads", str(args.threads), "--windows", str(args.windows)]
        out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        results[name] = found = json.loads(out.stdout.splitlines()[-1])
        ratio = found["rate"] / results[MEASURES[0]]["rate"]
        print(
            f"{name:24}{found['rate']:10.0f}{ratio:8.2f}{found['memory']:19.0f}{found['nll']:10.4f}",
            flush=True,
        )
    if args.llama_perplexity and args.gguf:
        rate = llama_perplexity(args.llama_perplexity, args.gguf, args.threads, args.windows)
        if rate:
            ratio = rate / results[MEASURES[0]]["rate"]
            print(f"{'llama-perplexity':24}{rate:10.0f}{ratio:8.2f}")


if __name__ == "__main__":
    main()
