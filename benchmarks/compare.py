"""Decode with llmcli, transformers, CTranslate2 and llama.cpp, side by side, in turn.

    benchmarks/peers.sh /tmp/peers
    python benchmarks/compare.py /tmp/peers [--rounds 5] [--threads 2] [--prefix "chrt -f 1"]

The model has the shape of the 124M GPT-2 and random weights: their values do not change the
time. A prompt of 32 tokens, 128 greedy tokens after it; prefill of 512 tokens. Every system
runs in a process of its own; all take a turn in every round, and the table shows medians, so
that what else the machine does hits all alike. ``--prefix`` goes in front of every process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROMPT, NEW, PREFILL, VOCAB = 32, 128, 512, 50257
OURS = ("float32", "bfloat16", "int8", "int4")
GGUF = {"float32": "F32", "bfloat16": "BF16", "int8": "Q8_0", "int4": "Q4_K_M"}


def ids(count: int, row: int = 0) -> list[int]:
    """Token ids of a prompt."""
    return [(7919 * i + 31 * row + 11) % VOCAB for i in range(count)]


# -- workers: each prints one JSON object ----------------------------------------------------


def best_seconds(run: Callable[[], Any], repetitions: int = 3) -> float:
    """The shortest of some runs, after one that does not count."""
    run()
    seconds = []
    for _ in range(repetitions):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def ours(folder: str, precision: str, batch: int) -> dict[str, float]:
    """llmcli's decoder."""
    import torch

    from llmcli.api import load

    decoder = load(folder, precision=precision, device="cpu").decoder()

    def run(count: int, new: int) -> None:
        slots = [decoder.open() for _ in range(batch)]
        texts = [(slot, ids(count, row)) for row, slot in enumerate(slots)]
        logits = decoder.append(texts, prompt=True)
        for _ in range(new - 1):
            tokens = [[int(token)] for token in logits.argmax(-1)]
            logits = decoder.append(list(zip(slots, tokens, strict=True)))
        for slot in slots:
            decoder.close(slot)

    weight = torch.ones(VOCAB, 768)
    seconds = best_seconds(lambda: weight.sum(), 10)
    return _rates(run, batch) | {"bandwidth": weight.nbytes / seconds / 1e9}


def transformers(folder: str, precision: str, batch: int) -> dict[str, float]:
    """transformers' generate."""
    import torch
    from transformers import AutoModelForCausalLM

    load: Any = AutoModelForCausalLM.from_pretrained
    model = load(folder, dtype=getattr(torch, precision)).eval()

    def run(count: int, new: int) -> None:
        prompt = torch.tensor([ids(count, row) for row in range(batch)])
        model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            pad_token_id=0,
        )

    return _rates(run, batch)


def ctranslate2(folder: str, precision: str, batch: int) -> dict[str, float]:
    """CTranslate2's generate_batch."""
    import ctranslate2 as library

    threads = int(os.environ["OMP_NUM_THREADS"])
    generator = library.Generator(folder, compute_type=precision, intra_threads=threads)
    vocabulary = json.loads((Path(folder) / "vocabulary.json").read_text())

    def run(count: int, new: int) -> None:
        prompts = [[vocabulary[i] for i in ids(count, row)] for row in range(batch)]
        generator.generate_batch(
            prompts, max_length=new, min_length=new, include_prompt_in_result=False
        )

    return _rates(run, batch)


def _rates(run: Callable[[int, int], None], batch: int) -> dict[str, float]:
    whole = best_seconds(lambda: run(PROMPT, NEW))
    start = best_seconds(lambda: run(PROMPT, 1))
    rates = {"decode": batch * (NEW - 1) / (whole - start)}
    if batch == 1:
        rates["prefill"] = PREFILL / best_seconds(lambda: run(PREFILL, 1))
    return rates


WORKERS: dict[str, Callable[[str, str, int], dict[str, float]]] = {
    "llmcli": ours,
    "transformers": transformers,
    "ctranslate2": ctranslate2,
}

# -- the files that each system wants --------------------------------------------------------


def make_model(folder: Path, tokenizer: Path | None) -> Path:
    """Save a random model of GPT-2's shape, with a tokenizer for the converters."""
    model = folder / "gpt2"
    if not (model / "model.safetensors").exists():
        import torch
        from transformers import GPT2Config, GPT2LMHeadModel

        torch.manual_seed(0)
        config: Any = GPT2Config(n_ctx=1024)
        GPT2LMHeadModel(config).save_pretrained(model)
        for name in ("vocab.json", "merges.txt"):
            if tokenizer is not None:
                (model / name).write_bytes((tokenizer / name).read_bytes())
    return model


def convert(peers: Path, model: Path) -> None:
    """Write the peers' formats, where they are missing."""
    bin_folder = peers / "venv" / "bin"
    for precision in ("float32", "int8"):
        if not (peers / f"ct2-{precision}").exists():
            command = [bin_folder / "ct2-transformers-converter", "--model", model]
            command += ["--quantization", precision, "--output_dir", peers / f"ct2-{precision}"]
            subprocess.run(command, check=True, capture_output=True)
    full = peers / "gpt2-F32.gguf"
    if not full.exists():
        script = peers / "llama.cpp" / "convert_hf_to_gguf.py"
        command = [bin_folder / "python", script, model, "--outtype", "f32", "--outfile", full]
        subprocess.run(command, check=True, capture_output=True)
    for name in set(GGUF.values()) - {"F32"}:
        if not (peers / f"gpt2-{name}.gguf").exists():
            quantize = peers / "build" / "bin" / "llama-quantize"
            command = [quantize, full, peers / f"gpt2-{name}.gguf", name]
            subprocess.run(command, check=True, capture_output=True)


# -- rounds ----------------------------------------------------------------------------------


class Bench:
    """Runs the systems' processes and collects their numbers."""

    def __init__(self, peers: Path, model: Path, *, threads: int, prefix: str) -> None:
        self._peers = peers
        self._model = model
        self._threads = threads
        self._prefix = shlex.split(prefix)
        self._env = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "0"}
        self.results: dict[tuple[str, str, int], list[dict[str, float]]] = {}

    def _run(self, command: list[Any]) -> str:
        full = [*self._prefix, *map(str, command)]
        return subprocess.run(
            full, check=True, env=self._env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ).stdout.decode()

    def worker(self, system: str, precision: str, batch: int = 1) -> None:
        """Measure one of WORKERS once."""
        python = self._peers / "venv/bin/python" if system == "ctranslate2" else sys.executable
        folder = self._peers / f"ct2-{precision}" if system == "ctranslate2" else self._model
        said = self._run([python, __file__, "--worker", system, folder, precision, batch])
        key = (system, precision, batch)
        self.results.setdefault(key, []).append(json.loads(said.splitlines()[-1]))

    def llama(self, precision: str) -> None:
        """Measure llama.cpp once, with its own llama-bench."""
        command = [
            self._peers / "build/bin/llama-bench",
            "-t",
            self._threads,
            "-r",
            3,
            "-o",
            "json",
        ]
        command += ["-m", self._peers / f"gpt2-{GGUF[precision]}.gguf"]
        decode = json.loads(self._run([*command, "-p", 0, "-n", NEW, "-d", PROMPT]))
        prefill = json.loads(self._run([*command, "-p", PREFILL, "-n", 0]))
        rates = {
            "decode": max(decode[0]["samples_ts"]),
            "prefill": max(prefill[0]["samples_ts"]),
        }
        self.results.setdefault(("llama.cpp", precision, 1), []).append(rates)

    def round(self, precisions: list[str]) -> None:
        """Give every system its turn."""
        for precision in precisions:
            self.worker("llmcli", precision)
            self.llama(precision)
            if precision in ("float32", "bfloat16"):
                self.worker("transformers", precision)
            if precision in ("float32", "int8"):
                self.worker("ctranslate2", precision)
        if "float32" in precisions:
            self.worker("llmcli", "float32", 8)
            self.worker("transformers", "float32", 8)

    def table(self) -> str:
        """Medians, with the range of the rounds."""
        lines = ["| system | precision | batch | decode tok/s | prefill 512 tok/s |", "|-|-|-|-|-|"]
        for (system, precision, batch), rounds in sorted(self.results.items()):
            cells = [
                _cell([each[name] for each in rounds if name in each])
                for name in ("decode", "prefill")
            ]
            lines.append(f"| {system} | {precision} | {batch} | {cells[0]} | {cells[1]} |")
        bandwidths = [
            each["bandwidth"] for r in self.results.values() for each in r if "bandwidth" in each
        ]
        lines.append(f"\nMemory bandwidth of a float32 sum: {_cell(bandwidths)} GB/s.")
        return "\n".join(lines)


def _cell(values: list[float]) -> str:
    if not values:
        return "–"
    return f"{statistics.median(values):.1f} ({min(values):.0f}–{max(values):.0f})"


def main() -> None:
    """Parse the arguments, run the rounds, print the table."""
    if sys.argv[1:2] == ["--worker"]:
        system, folder, precision, batch = sys.argv[2:6]
        print(json.dumps(WORKERS[system](folder, precision, int(batch))))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("peers", type=Path, help="the folder that peers.sh made")
    parser.add_argument("--tokenizer", type=Path, help="folder with GPT-2's vocab.json, merges.txt")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precisions", nargs="*", default=list(OURS))
    parser.add_argument("--prefix", default="")
    arguments = parser.parse_args()
    model = make_model(arguments.peers, arguments.tokenizer)
    convert(arguments.peers, model)
    bench = Bench(arguments.peers, model, threads=arguments.threads, prefix=arguments.prefix)
    for number in range(arguments.rounds):
        print(f"round {number + 1}", file=sys.stderr)
        bench.round(arguments.precisions)
    print(f"{platform.processor() or platform.machine()}, {arguments.threads} threads")
    print(bench.table())


if __name__ == "__main__":
    main()
