"""Start-up and overhead, as ratios measured alternately in one run.

    python benchmarks/startup.py [--runs 7] [--model FOLDER]

1. ``llmcli --help`` against ``python -c "import click, rich.console"``.
2. ``llmcli generate -n 1`` against a minimal script that imports torch and transformers, loads
   the same model and generates one token; then the same for the wall clock of a second call,
   when the weights are prepared.
3. Peak memory of ``llmcli generate`` above the weights and above a bare import of torch and
   transformers.

Without --model, a GPT-2 of the 124M shape with random weights is made in a temporary folder,
with the bundled model's tokenizer padded to GPT-2's vocabulary size.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

MINIMAL = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder = sys.argv[1]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
ids = tokenizer("Once upon a time", return_tensors="pt")
print(tokenizer.decode(model.generate(**ids, max_new_tokens=1, do_sample=False)[0]))
"""
LLMCLI = [sys.executable, "-m", "llmcli"]


def run(command: Sequence[str], env: dict[str, str]) -> tuple[float, float]:
    """Return wall seconds and peak resident MB of a process."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=env)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{command[:4]} failed with status {status}")
    return seconds, usage.ru_maxrss / 1024


def alternate(
    name: str, ours: Sequence[str], theirs: Sequence[str], runs: int, env: dict[str, str]
) -> tuple[float, float]:
    """Print the medians of two commands run in turn and of their ratios; peak MB of each."""
    pairs = []
    run(ours, env), run(theirs, env)  # warm-up
    for _ in range(runs):
        pairs.append((run(ours, env), run(theirs, env)))
    a = statistics.median(o[0] for o, _ in pairs)
    b = statistics.median(t[0] for _, t in pairs)
    ratio = statistics.median(o[0] / t[0] for o, t in pairs)
    print(f"{name:48s} {a:8.3f} s {b:8.3f} s   ratio {ratio:.2f}")
    return max(o[1] for o, _ in pairs), max(t[1] for _, t in pairs)


RANDOM_GPT2 = """
import shutil, sys, torch
from transformers import GPT2Config, GPT2LMHeadModel
from llmcli.hub.reference import bundled_models
torch.manual_seed(0)
GPT2LMHeadModel(GPT2Config()).save_pretrained(sys.argv[1])
shutil.copy(bundled_models()["fable"] / "tokenizer.json", sys.argv[1])
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        + ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "llmcli"))
    )
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        env = {**os.environ, "XDG_CACHE_HOME": str(home / "cache"), "HF_HUB_OFFLINE": "1"}
        for name in ("LLMCLI_MODEL", "PYTHONDONTWRITEBYTECODE"):
            env.pop(name, None)
        folder = options.model or home / "gpt2"
        if options.model is None:
            # In a process of its own: a child's peak memory counts what its parent had at the fork.
            subprocess.run([sys.executable, "-c", RANDOM_GPT2, str(folder)], check=True)
        base = [sys.executable, "-c", "import click, rich.console"]
        alternate("--help / import click, rich", [*LLMCLI, "--help"], base, options.runs, env)
        ours = [*LLMCLI, "generate", "-m", str(folder), "-n", "1", "--greedy", "Once upon a time"]
        minimal = [sys.executable, "-c", MINIMAL, str(folder)]
        # A cache that cannot be written: every run goes through transformers, as the first does.
        unprepared = {**env, "XDG_CACHE_HOME": os.devnull}
        peak, _ = alternate(
            "generate -n 1 / minimal script", ours, minimal, options.runs, unprepared
        )
        alternate("the same, weights prepared", ours, minimal, options.runs, env)
        _, bare = run([sys.executable, "-c", "import torch, transformers"], env)
        weights = sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 2**20
        print(
            f"peak memory {peak:.0f} MB = weights {weights:.0f} + import {bare:.0f} "
            f"+ {peak - weights - bare:.0f}"
        )


if __name__ == "__main__":
    main()
