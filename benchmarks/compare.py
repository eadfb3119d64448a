"""Decode with llmcli, transformers, CTranslate2 and llama.cpp, side by side, in turn.

    benchmarks/peers.sh /tmp/peers
    python benchmarks/compare.py /tmp/peers [--rounds 5] [--threads 2] [--prefix "chrt -f 1"]

The models have the shapes of the 124M GPT-2 and of SmolLM2-135M (a Llama, here with GPT-2's
vocabulary) and random weights: their values do not change the time. A prompt of 32 tokens, 128
greedy tokens after it; ours also at position 1,000; prefill of 512 tokens; whole processes that
make one token of a prompt or score a text. Every system runs in a process of its own; all take a
turn in every round, and the table shows medians, so that what else the machine does hits all
alike. ``--prefix`` goes in front of every process.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROMPT, NEW, PREFILL, LATE, VOCAB = 32, 128, 512, 1000, 50257
OURS = ("float32", "bfloat16", "int8", "int4")
GGUF = {"float32": "F32", "bfloat16": "BF16", "int8": "Q8_0", "int4": "Q4_K_M"}
SHAPES = ("gpt2", "smollm2")
SENTENCE = "Once upon a time there was a little fox who lived in a wood. "


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

    def late() -> None:
        for token in ids(20):
            decoder.append([(far, [token])])
        decoder.truncate(far, LATE)

    weight = torch.ones(VOCAB, 768)
    rates = _rates(run, batch)
    rates["bandwidth"] = weight.nbytes / best_seconds(lambda: weight.sum(), 10) / 1e9
    if batch == 1:
        far = decoder.open()
        decoder.append([(far, ids(LATE))], prompt=True)
        rates["late"] = 20 / best_seconds(late, 10)
    return rates


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

# What a person would write to make one token, or to score a text, with transformers.
ONE_TOKEN = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
ids = tokenizer(sys.argv[2], return_tensors="pt")
print(tokenizer.decode(model.generate(**ids, max_new_tokens=1, do_sample=False)[0]))
"""
SCORE = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
ids = tokenizer(sys.argv[2], return_tensors="pt").input_ids
with torch.inference_mode():
    print(model(ids, labels=ids).loss.exp().item())
"""

# -- the files that each system wants --------------------------------------------------------


def make_model(folder: Path, shape: str, tokenizer: Path | None) -> Path:
    """Save a random model of a shape, with a tokenizer for the converters."""
    model = folder / shape
    if not (model / "model.safetensors").exists():
        import torch
        from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

        torch.manual_seed(0)
        config: Any = GPT2Config(n_ctx=1024)
        if shape == "smollm2":
            config = LlamaConfig(
                vocab_size=VOCAB,
                hidden_size=576,
                intermediate_size=1536,
                num_hidden_layers=30,
                num_attention_heads=9,
                num_key_value_heads=3,
                max_position_embeddings=8192,
                rope_theta=100_000.0,
                rms_norm_eps=1e-5,
                tie_word_embeddings=True,
                bos_token_id=VOCAB - 1,
                eos_token_id=VOCAB - 1,
            )
        make: Any = AutoModelForCausalLM.from_config
        make(config).save_pretrained(model)
        for name in ("vocab.json", "merges.txt"):
            if tokenizer is not None:
                (model / name).write_bytes((tokenizer / name).read_bytes())
        (model / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    return model


def convert(peers: Path, model: Path) -> None:
    """Write the peers' formats, where they are missing."""
    bin_folder = peers / "venv" / "bin"
    for precision in ("float32", "int8") if model.name == "gpt2" else ():
        if not (peers / f"ct2-{precision}").exists():
            command = [bin_folder / "ct2-transformers-converter", "--model", model]
            command += ["--quantization", precision, "--output_dir", peers / f"ct2-{precision}"]
            subprocess.run(command, check=True, capture_output=True)
    full = peers / f"{model.name}-F32.gguf"
    if not full.exists():
        script = peers / "llama.cpp" / "convert_hf_to_gguf.py"
        command = [bin_folder / "python", script, model, "--outtype", "f32", "--outfile", full]
        subprocess.run(command, check=True, capture_output=True)
    for name in set(GGUF.values()) - {"F32"}:
        if not (peers / f"{model.name}-{name}.gguf").exists():
            quantize = peers / "build" / "bin" / "llama-quantize"
            command = [quantize, full, peers / f"{model.name}-{name}.gguf", name]
            subprocess.run(command, check=True, capture_output=True)


# -- rounds ----------------------------------------------------------------------------------


class Bench:
    """Runs the systems' processes and collects their numbers."""

    def __init__(self, peers: Path, *, threads: int, prefix: str) -> None:
        self._peers = peers
        self._threads = threads
        self._prefix = shlex.split(prefix)
        self._env = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "0"}
        # Who starts a program twice has its modules compiled.
        self._env.pop("PYTHONDONTWRITEBYTECODE", None)
        # By shape, precision, batch and system.
        self.results: dict[tuple[str, str, int, str], list[dict[str, float]]] = {}

    def _run(self, command: list[Any]) -> str:
        full = [*self._prefix, *map(str, command)]
        return subprocess.run(
            full,
            check=True,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ).stdout.decode()

    def _note(
        self, shape: str, precision: str, batch: int, system: str, found: dict[str, float]
    ) -> None:
        self.results.setdefault((shape, precision, batch, system), []).append(found)

    def worker(self, shape: str, precision: str, system: str, batch: int = 1) -> None:
        """Measure one of WORKERS once."""
        python = self._peers / "venv/bin/python" if system == "ctranslate2" else sys.executable
        folder = self._peers / (f"ct2-{precision}" if system == "ctranslate2" else shape)
        said = self._run([python, __file__, "--worker", system, folder, precision, batch])
        self._note(shape, precision, batch, system, json.loads(said.splitlines()[-1]))

    def llama(self, shape: str, precision: str) -> None:
        """Measure llama.cpp once, with its own llama-bench."""
        bench = self._peers / "build/bin/llama-bench"
        model = self._peers / f"{shape}-{GGUF[precision]}.gguf"
        command = [bench, "-t", self._threads, "-r", 3, "-o", "json", "-m", model]
        decode = json.loads(self._run([*command, "-p", 0, "-n", NEW, "-d", PROMPT]))
        prefill = json.loads(self._run([*command, "-p", PREFILL, "-n", 0]))
        rates = {
            "decode": max(decode[0]["samples_ts"]),
            "prefill": max(prefill[0]["samples_ts"]),
        }
        self._note(shape, precision, 1, "llama.cpp", rates)

    def round(self, shape: str, precisions: list[str]) -> None:
        """Give every system its turn."""
        for precision in precisions:
            self.worker(shape, precision, "llmcli")
            self.llama(shape, precision)
            if precision in ("float32", "bfloat16"):
                self.worker(shape, precision, "transformers")
            if precision in ("float32", "int8") and shape == "gpt2":
                self.worker(shape, precision, "ctranslate2")
        if "float32" in precisions and shape == "gpt2":
            self.worker(shape, "float32", "llmcli", 8)
            self.worker(shape, "float32", "transformers", 8)

    def start(self, shape: str, precisions: list[str]) -> None:
        """Time whole processes: one token of a prompt, and the score of a text."""
        folder, prompt, text = self._peers / shape, SENTENCE.strip(), SENTENCE * 64
        for precision in precisions:
            own = [sys.executable, "-m", "llmcli"]
            options = ["-m", folder, "--precision", precision, "-q"]
            self._timed(
                (shape, precision, "llmcli"),
                {
                    "one token": [*own, "generate", *options, "-n", 1, "--greedy", prompt],
                    "score": [*own, "score", *options, text],
                },
            )
            completion = self._peers / "build/bin/llama-completion"
            gguf = self._peers / f"{shape}-{GGUF[precision]}.gguf"
            asked = ["-p", prompt, "-n", 1, "--temp", 0, "-t", self._threads, "-no-cnv"]
            self._timed(
                (shape, precision, "llama.cpp"),
                {"one token": [completion, "-m", gguf, *asked]},
            )
        self._timed(
            (shape, "float32", "transformers"),
            {
                "one token": [sys.executable, "-c", ONE_TOKEN, folder, prompt],
                "score": [sys.executable, "-c", SCORE, folder, text],
            },
        )

    def _timed(self, of: tuple[str, str, str], commands: dict[str, list[Any]]) -> None:
        shape, precision, system = of
        for name, command in commands.items():
            start = time.perf_counter()
            self._run(command)
            self._note(shape, precision, 1, system, {name: time.perf_counter() - start})

    def table(self) -> str:
        """Medians, with the range of the rounds."""
        columns = ("decode", "late", "prefill", "one token", "score")
        lines = [
            "| shape | precision | batch | system | decode tok/s | at 1,000 | prefill 512 tok/s "
            "| one token s | score s |",
            "|-|-|-|-|-|-|-|-|-|",
        ]
        for key, rounds in sorted(self.results.items()):
            cells = [_cell([each[name] for each in rounds if name in each]) for name in columns]
            lines.append(f"| {' | '.join([*map(str, key), *cells])} |")
        bandwidths = [
            each["bandwidth"] for r in self.results.values() for each in r if "bandwidth" in each
        ]
        if bandwidths:
            lines.append(f"\nMemory bandwidth of a float32 sum: {_cell(bandwidths)} GB/s.")
        return "\n".join(lines)


def _cell(values: list[float]) -> str:
    if not values:
        return "–"
    digits = 3 if max(values) < 10 else 1
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


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
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--what", nargs="*", default=["rates", "start"])
    parser.add_argument("--prefix", default="")
    arguments = parser.parse_args()
    for shape in arguments.shapes:
        convert(arguments.peers, make_model(arguments.peers, shape, arguments.tokenizer))
    bench = Bench(arguments.peers, threads=arguments.threads, prefix=arguments.prefix)
    for number in range(arguments.rounds):
        for shape in arguments.shapes:
            print(f"round {number + 1}, {shape}", file=sys.stderr)
            if "rates" in arguments.what:
                bench.round(shape, arguments.precisions)
            if "start" in arguments.what:
                bench.start(shape, arguments.precisions)
    from llmcli.system import processor_name  # CTranslate2's own environment has no llmcli

    print(f"{processor_name()}, {arguments.threads} threads")
    print(bench.table())


if __name__ == "__main__":
    main()
