"""How often the interval of a stretch's perplexity holds that of the whole text it is from.

    python benchmarks/interval_coverage.py [-m MODEL] [--tokens N] FILE ...

Each file is scored once. Then stretches of N tokens of it are taken, contiguous ones or blocks of
128 drawn independently from all over the file, and their intervals are made with blocks of
several widths. A table says how many held the file's perplexity, and how wide they were.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llmcli.api import load
from llmcli.scoring.statistics import BLOCK_TOKENS, bootstrap_interval
from llmcli.tasks.score import ScoreRequest, Scoring

WIDTHS = (64, 128, 256, 512, 1024, 2048)
DRAWS = 40


def negative_logprobs(model: str, path: Path) -> npt.NDArray[np.float64]:
    """What each token of a file costs, in nats."""
    scoring = Scoring(model=load(model, device="cpu"), request=ScoreRequest(convention="lm-eval"))
    scorer = scoring.scorer(scoring.convention())
    found = scorer.windows([(None, [path.read_text("utf-8", errors="replace")])])
    return -np.concatenate([scores.logprobs for _, _, scores in found])


def interval(nats: npt.NDArray[np.float64], width: int) -> tuple[float, float] | None:
    """As `score` makes it, of blocks of so many tokens."""
    starts = np.arange(0, len(nats), width)
    sums, sizes = np.add.reduceat(nats, starts), np.diff([*starts, len(nats)])
    return bootstrap_interval(list(zip(sums, sizes.astype(float), strict=True)), resamples=400)


def stretches(
    nats: npt.NDArray[np.float64], tokens: int, contiguous: bool
) -> Iterator[npt.NDArray[np.float64]]:
    """Parts of a text: contiguous ones, or blocks from everywhere in it."""
    random = np.random.default_rng(0)
    whole = nats[: len(nats) // BLOCK_TOKENS * BLOCK_TOKENS].reshape(-1, BLOCK_TOKENS)
    for start in random.integers(0, len(nats) - tokens, DRAWS):
        if contiguous:
            yield nats[start : start + tokens]
        else:
            yield whole[random.integers(0, len(whole), tokens // BLOCK_TOKENS)].ravel()


def main() -> int:
    """Score, draw, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-m", "--model", default="fable")
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("files", nargs="+", type=Path)
    chosen = parser.parse_args()
    texts = []
    for path in chosen.files:
        nats = negative_logprobs(chosen.model, path)
        print(f"{path.name}: {len(nats):,} tokens, {math.exp(nats.mean()):.1f}", file=sys.stderr)
        if len(nats) >= 3 * chosen.tokens:
            texts.append(nats)
    print(f"{len(texts)} texts, {DRAWS} stretches of {chosen.tokens:,} tokens each\n")
    print("| stretches | block | intervals | hold | half width |\n|---|---|---|---|---|")
    for contiguous in (False, True):
        for width in WIDTHS:
            held, halves = 0, []
            for nats in texts:
                for part in stretches(nats, chosen.tokens, contiguous):
                    if (found := interval(part, width)) is not None:
                        held += found[0] <= nats.mean() <= found[1]
                        halves.append((found[1] - found[0]) / 2)
            if halves:
                kind = "contiguous" if contiguous else "drawn"
                print(
                    f"| {kind} | {width} | {len(halves)} | {held / len(halves):.2f} "
                    f"| {np.mean(halves):.1%} |"
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
