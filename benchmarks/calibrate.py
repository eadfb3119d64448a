"""What calibration costs beside scoring, and labels beside one label.

    python benchmarks/calibrate.py [--threads 1] [--rounds 3] [--tokens 16384] [--model fable]

Three ratios, each of two measures that take turns; the best round of either counts, in seconds of
the processor, which other work on the machine changes least:

- tokens a second of ``calibrate`` over those of ``score``, on the same text: at least 0.8;
- the time of ``classify`` with four labels over that with one, after one prompt of 300 tokens: at
  most 1.3;
- the time of ``rank`` with four choices where each reads the prompt for itself over that where it
  is read once.

Besides the model named, a random one of GPT-2 124M's shape is measured (``--model`` twice or more
says otherwise).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llmcli
from llmcli.scoring.likelihood import Likelihood
from llmcli.scoring.windows import Window
from llmcli.tasks.calibrate import calibrate
from llmcli.tasks.score import ScoreRequest, Scoring

PROMPT = 300


def best(rounds: int, *measures: Callable[[], object]) -> list[float]:
    """Seconds of the best round of each, taking turns."""
    found = [float("inf")] * len(measures)
    for _ in range(rounds):
        for index, measure in enumerate(measures):
            start = time.process_time()
            measure()
            found[index] = min(found[index], time.process_time() - start)
    return found


@contextmanager
def unwatched(scorer: object) -> Any:
    """Nobody looks at the windows."""
    yield lambda window, scores: None


def text_of(model: Any, tokens: int) -> str:
    """About as many tokens of text as one round takes."""
    page = (Path(__file__).parents[1] / "docs" / "score.md").read_text("utf-8")
    ids = model.tokenizer.ids(page * 10)[:tokens]
    return "".join(model.tokenizer.backend.decode(ids))


def random_gpt2(folder: str) -> str:
    """A model of GPT-2's shape, with the tokenizer of the bundled model, rows to spare."""
    import shutil

    import torch
    import transformers

    torch.manual_seed(0)
    library: Any = transformers
    library.GPT2LMHeadModel(library.GPT2Config()).save_pretrained(folder)
    for file in llmcli.load("fable").folder.glob("tokenizer*"):
        shutil.copy(file, folder)
    return folder


def measure(name: str, label: str, threads: int, rounds: int, tokens: int) -> None:
    model = llmcli.load(name, threads=threads)
    text = text_of(model, tokens)
    scoring = Scoring(model=model, request=ScoreRequest())
    score, calibration = best(
        rounds,
        lambda: scoring.whole([text], unwatched),
        lambda: calibrate(model, [text]),
    )
    print(f"{label}: calibrate has {score / calibration:.2f} of score's tokens a second")

    prompt = list(range(100, 100 + PROMPT))
    windows = [Window([*prompt, 50 + 3 * n, 51 + 3 * n, 52 + 3 * n], PROMPT, 0) for n in range(4)]
    likelihood = Likelihood(model.decoder())

    def together(found: Sequence[Window]) -> None:
        with likelihood.session() as run:
            run(found)

    def apart() -> None:
        for window in windows:
            together([window])

    one, four, alone = best(
        rounds * 4, lambda: together(windows[:1]), lambda: together(windows), apart
    )
    print(f"{label}: four labels take {four / one:.2f} of the time of one ({one * 1e3:.1f} ms)")
    print(f"{label}: reading the prompt once is {alone / four:.2f} times as fast as four times")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--model", action="append")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in args.model or ["fable", random_gpt2(folder)]:
            label = "GPT-2 124M's shape" if name == folder else name
            measure(name, label, args.threads, args.rounds, args.tokens)


if __name__ == "__main__":
    main()
