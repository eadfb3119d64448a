"""What a user waits for and pays: start-up, memory, sampling and drafts, whole processes.

    python benchmarks/whole.py FOLDER [--rounds 5] [--prefix "chrt -f 1"]

FOLDER holds a GPT-2 model with its tokenizer (compare.py makes a random one).
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MINIMAL = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
ids = tokenizer("Once upon a time", return_tensors="pt")
out = model.generate(**ids, max_new_tokens=1, do_sample=False, pad_token_id=0)
print(tokenizer.decode(out[0]))
"""
SAMPLED = {"temperature": 0.8, "top_p": 0.95, "repetition_penalty": 1.2}


def decode_speed(folder: str, precision: str, settings: dict[str, Any], draft: str) -> float:
    """Tokens a second of the whole loop, best of three, after a prompt of 32 tokens."""
    from llmcli.api import load
    from llmcli.engine.generation import generate
    from llmcli.engine.params import SamplingParams
    from llmcli.engine.transcript import Prompt
    from llmcli.tasks.generate import make_draft

    model = load(folder, precision=precision, device="cpu")
    decoder = model.decoder()
    prompt = Prompt(ids=tuple((7919 * i + 11) % model.tokenizer.vocab_size for i in range(32)))
    params = SamplingParams(seed=1, max_new_tokens=129, ignore_eos=True, **settings)
    speeds = []
    for _ in range(4):
        guess = make_draft(draft, model, load) if draft else None
        events = generate(decoder, prompt, params, token_bytes=lambda token: b"a", draft=guess)
        next(events)
        start = time.perf_counter()
        count = sum(1 for _ in events)
        speeds.append(count / (time.perf_counter() - start))
    return max(speeds[1:])


def process(command: list[str], prefix: list[str], home: str) -> tuple[float, float]:
    """Seconds and peak memory (MB) of a process."""
    start = time.perf_counter()
    environment = {**os.environ, "XDG_CACHE_HOME": home}
    child = subprocess.Popen([*prefix, *command], env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"failed: {shlex.join(command)}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def main() -> None:
    """Measure in rounds, print medians."""
    if sys.argv[1:2] == ["--worker"]:
        folder, precision, settings, draft = sys.argv[2:6]
        print(decode_speed(folder, precision, json.loads(settings), draft))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prefix", default="")
    arguments = parser.parse_args()
    prefix, folder = shlex.split(arguments.prefix), arguments.folder
    llmcli = [str(Path(sys.executable).with_name("llmcli")), "generate", "-m", folder]
    commands = {"minimal transformers script": [sys.executable, "-c", MINIMAL, folder]}
    for precision in ("float32", "bfloat16", "int8", "int4"):
        commands[f"generate -n 1, {precision}, prepared"] = [
            *llmcli, "--precision", precision, "-n", "1", "--greedy", "Once upon a time",
        ]  # fmt: skip
    speeds: dict[str, tuple[str, dict[str, Any], str]] = {
        "greedy": ("float32", {"temperature": 0.0}, ""),
        "sampled": ("float32", SAMPLED, ""),
        "greedy, --draft int8": ("float32", {"temperature": 0.0}, "int8"),
        "greedy, --draft ngram": ("float32", {"temperature": 0.0}, "ngram"),
        "sampled, --draft ngram": ("float32", SAMPLED, "ngram"),
        "sampled, --draft int8": ("float32", SAMPLED, "int8"),
    }
    found: dict[str, list[tuple[float, ...]]] = {}
    with tempfile.TemporaryDirectory() as home:
        for command in commands.values():  # fill the caches, prepare the weights
            process(command, prefix, home)
        for _ in range(arguments.rounds):
            for name, command in commands.items():
                found.setdefault(name, []).append(process(command, prefix, home))
            for name, (precision, settings, draft) in speeds.items():
                worker = [*prefix, sys.executable, __file__, "--worker", folder, precision]
                worker += [json.dumps(settings), draft]
                said = subprocess.run(worker, check=True, stdout=subprocess.PIPE).stdout
                found.setdefault(name, []).append((float(said),))
    for name, rounds in found.items():
        values = [statistics.median(column) for column in zip(*rounds, strict=True)]
        unit = "tokens/s" if len(values) == 1 else "s"
        memory = f", peak {values[1]:.0f} MB" if len(values) > 1 else ""
        print(f"{name}: {values[0]:.2f} {unit}{memory}")


if __name__ == "__main__":
    main()
