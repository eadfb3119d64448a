"""What each precision costs: perplexity and KL divergence against float32 on a text.

python benchmarks/precision.py MODEL TEXTFILE [--tokens 4096] [--window 512]
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np

from llmcli.api import load
from llmcli.engine.decoder import Floats
from llmcli.engine.sampling import log_sum_exp

STEP = 16


def window_logprobs(name: str, precision: str, windows: list[list[int]]) -> list[Floats]:
    """Log-probabilities [time - 1, vocab] that follow each window's tokens but the last.

    Read as text is decoded, a few tokens at a time: longer pieces are multiplied another way.
    """
    decoder = load(name, precision=precision, device="cpu").decoder()
    found = []
    for window in windows:
        slot = decoder.open()
        pieces = [window[start : start + STEP] for start in range(0, len(window), STEP)]
        logits = np.concatenate([decoder.append([(slot, each)], every=True) for each in pieces])
        decoder.close(slot)
        found.append(np.stack([row - np.float32(log_sum_exp(row)) for row in logits[1:-1]]))
    return found


def main() -> None:
    """Print a line for each precision."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--window", type=int, default=512)
    arguments = parser.parse_args()
    model = load(arguments.model, device="cpu")
    width = min(arguments.window, model.n_positions)
    ids = model.tokenizer.ids(arguments.text.read_text("utf-8"))[: arguments.tokens]
    windows = [ids[i : i + width] for i in range(0, len(ids) - width + 1, width)]
    exact = window_logprobs(arguments.model, "float32", windows)
    count = sum(len(each) for each in exact)
    print(f"{arguments.model}, revision {model.revision}, {count} tokens")
    for precision in ("float32", "bfloat16", "int8", "int4"):
        loss = divergence = same = 0.0
        found = window_logprobs(arguments.model, precision, windows)
        for ours, theirs, window in zip(found, exact, windows, strict=True):
            loss -= float(ours[np.arange(len(ours)), window[2:]].sum(dtype=np.float64))
            divergence += float((np.exp(theirs) * (theirs - ours)).sum(dtype=np.float64))
            same += float((ours.argmax(-1) == theirs.argmax(-1)).sum())
        print(
            f"{precision}: perplexity {math.exp(loss / count):.3f}, KL divergence "
            f"{divergence / count:.6f} nats, same most likely token {same / count:.2%}"
        )


if __name__ == "__main__":
    main()
