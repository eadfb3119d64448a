"""Peak memory of ``llmcli score`` or ``calibrate`` while text is piped in, up to any size.

    python benchmarks/score_memory.py [--megabytes 1000] [--command calibrate]

The model has one layer of width 8 and a vocabulary of a few hundred whole words, so that a gigabyte
goes through in a quarter of an hour; what does not depend on the model (reading, tokens, windows,
sums, the interval) is all there. One word in a hundred is a new one that the tokenizer has to
spell, so that its cache of words fills as it would with prose. The figures are the resident set of
the process (VmRSS) and its peak (VmHWM) when so much has been written into its stdin.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SAMPLES = (1, 2, 3, 5, 10, 20, 30, 50, 70, *range(100, 1_000_001, 50))


def make_words(count: int, source: random.Random) -> list[str]:
    """Words of twelve letters."""
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    return ["".join(source.choices(syllables, k=6)) for _ in range(count)]


def make_model(folder: Path, words: list[str]) -> None:
    """A random GPT-2 whose tokenizer has a token for each word."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {"<|endoftext|>": 0}
    for letter in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[letter] = len(vocabulary)
    merges = []
    for word in words:
        spelt = "Ġ"
        for letter in word:
            if spelt + letter not in vocabulary:
                merges.append((spelt, letter))
                vocabulary[spelt + letter] = len(vocabulary)
            spelt += letter
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    library: Any = transformers
    config = library.GPT2Config(
        n_layer=1,
        n_head=1,
        n_embd=8,
        n_positions=256,
        vocab_size=len(vocabulary),
        bos_token_id=0,
        eos_token_id=0,
    )
    library.GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))


def make_text(words: list[str], source: random.Random) -> Iterator[bytes]:
    """Text without end, in lines."""
    while True:
        rare = set(source.sample(range(2000), 20))
        line = source.choices(words, k=2000)
        for index in rare:
            line[index] = make_words(1, source)[0]
        yield (" " + " ".join(line) + "\n").encode()


def status(pid: int, key: str) -> float:
    """A line of /proc/PID/status, in MB."""
    text = Path(f"/proc/{pid}/status").read_text("utf-8")
    return int(re.findall(rf"{key}:\s+(\d+) kB", text)[0]) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--command", choices=["score", "calibrate"], default="score")
    parser.add_argument("options", nargs="*", help="for the command, behind --")
    args = parser.parse_args()
    source = random.Random(1)
    words = make_words(24, source)
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), words)
        command = [sys.executable, "-m", "llmcli", args.command, "-m", folder, "--json"]
        command += args.options or ["--threads", "1", "--stride", "255"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        feed(process, args.megabytes, make_text(words, source))
        peak = status(process.pid, "VmHWM")  # read before the end, which the last figures follow
        process.stdin.close()
        record = json.loads(process.stdout.read())
        process.wait()
    names = ("bytes", "tokens", "seconds", "perplexity_interval", "ece", "ece_floor", "temperature")
    shown = {name: record[name] for name in names if name in record}
    print(f"before the last window: peak {peak:.1f} MB; {shown}")


def feed(process: subprocess.Popen[bytes], megabytes: int, text: Iterator[bytes]) -> None:
    """Write so much text to the process, and print its memory on the way."""
    assert process.stdin is not None
    samples = iter(SAMPLES)
    following = next(samples)
    written, start = 0, time.perf_counter()
    while written < megabytes * 1_000_000:
        written += process.stdin.write(next(text))
        if written >= following * 1_000_000:
            process.stdin.flush()
            print(
                f"{following:>7} MB  resident {status(process.pid, 'VmRSS'):.1f} MB, "
                f"peak {status(process.pid, 'VmHWM'):.1f} MB  {time.perf_counter() - start:.0f} s",
                flush=True,
            )
            following = next(samples)


if __name__ == "__main__":
    main()
