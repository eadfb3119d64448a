"""Training throughput beside plain PyTorch loops, as ratios in one run.

    python benchmarks/train.py [--rounds 3] [--steps 8] [--threads N] [--batch 16] [--length 512]

The model has fable's shape and random weights; the ids are random. Every side runs in a process
of its own and all take a turn in every round, so that what else the machine does hits all alike;
medians are compared. Sides:

ours        the loop of ``llmcli train``: checkpoints off, AdamW, bfloat16 autocast
plain       a hand-written loop: the same model, batch, autocast, fused AdamW and clipping
float32     the same hand-written loop without autocast
compiled    ours with --compile

The hand-written loops get the same allocator settings (``keep_freed_memory``): without them the
comparison would be with page faults. Loading is timed inside "ours": the batches of a step, read
from a token file that is mapped into memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from typing import cast

SIDES = ("ours", "plain", "float32", "compiled")
VOCAB, CONTEXT = 8192, 1024


def hand_written(args: argparse.Namespace, *, autocast: bool) -> dict[str, float]:
    """A loop as one writes it over a GPT2LMHeadModel."""
    import numpy as np
    import torch

    from llmcli.system import keep_freed_memory
    from llmcli.training.model import new_model
    from llmcli.training.settings import ModelShape

    keep_freed_memory()
    torch.manual_seed(0)
    model = new_model(ModelShape(), dropout=0.0, end_of_text=0).train()
    model.config.use_cache = False
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    ids = np.random.default_rng(0).integers(0, VOCAB, 1 << 20)
    draw = np.random.default_rng(1)
    start = 0.0
    for step in range(args.steps + 2):
        if step == 2:
            start = args.clock()
        at = draw.integers(0, len(ids) - args.length - 1, args.batch)
        rows = torch.from_numpy(np.stack([ids[i : i + args.length + 1] for i in at]))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            logits = model(input_ids=rows[:, :-1]).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
    seconds = args.clock() - start
    return {"rate": args.steps * args.batch * args.length / seconds}


def ours(args: argparse.Namespace, *, compile: bool) -> dict[str, float]:
    """The loop of ``llmcli train``."""
    from pathlib import Path

    import numpy as np
    import torch
    from accelerate import Accelerator

    from llmcli.system import keep_freed_memory
    from llmcli.training.checkpoints import Checkpoints
    from llmcli.training.evaluation import QuickEvaluation
    from llmcli.training.loop import TrainingLoop
    from llmcli.training.metrics import MetricsLog
    from llmcli.training.model import new_model, prepare_for_training
    from llmcli.training.pace import Due, Pace
    from llmcli.training.sample import Sampler
    from llmcli.training.schedule import Progress
    from llmcli.training.settings import ModelShape, TrainSettings
    from llmcli.training.tokens import Blocks

    keep_freed_memory()
    warm = 4 if compile else 2
    settings = TrainSettings(
        batch_size=args.batch * args.length // CONTEXT,
        max_steps=args.steps + warm,
        grow_from=args.length,
        schedule="constant",
        compile=compile,
        evaluate_every=1e9,
        save_every=1e9,
    )
    marks: list[float] = []
    loading: list[float] = []
    # A run far from its end, so that the length stays the first one.
    progress = Progress(max_steps=10**9)

    class TimedPace(Pace):
        def after_step(self) -> Due:
            marks.append(args.clock())
            self.was_interrupted = len(marks) == args.steps + warm
            return Due(log=False, evaluate=False, save=False)

    class TimedLoop(TrainingLoop):
        def _rows(self, batch: int) -> torch.Tensor:
            start = args.clock()
            rows = super()._rows(batch)
            loading.append(args.clock() - start)
            return rows

    torch.manual_seed(0)
    model = new_model(ModelShape(), dropout=0.0, end_of_text=0)
    prepare_for_training(model, settings)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "train.bin"
        np.random.default_rng(0).integers(0, VOCAB, 1 << 20).astype("<u2").tofile(file)
        ids = np.memmap(file, dtype="<u2", mode="r")
        loop = TimedLoop(
            accelerator=Accelerator(cpu=True, mixed_precision="no"),
            model=model,
            blocks=Blocks(ids, context=CONTEXT, blocks_per_step=settings.batch_size, seed=0),
            settings=settings,
            progress=progress,
            precision="bfloat16",
            pace=TimedPace(progress, settings),
            checkpoints=Checkpoints(Path(folder)),
            evaluation=QuickEvaluation(rows=None, bytes_per_token=4.0),
            metrics=MetricsLog(
                Path(folder) / "metrics.jsonl",
                progress=progress,
                tokens_per_step=1,
                grow_from=None,
                context=CONTEXT,
                report=lambda record: None,
            ),
            sampler=cast("Sampler", None),  # nothing is evaluated
        )
        loop.run()
    seconds = marks[-1] - marks[warm - 1]
    return {
        "rate": args.steps * args.batch * args.length / seconds,
        "loading": sum(loading[warm : warm + args.steps]) / seconds,
    }


def worker(side: str, args: argparse.Namespace) -> None:
    """Measure one side and print a JSON object."""
    import transformers

    transformers.logging.set_verbosity_error()
    if side in ("ours", "compiled"):
        result = ours(args, compile=side == "compiled")
    else:
        result = hand_written(args, autocast=side == "plain")
    print(json.dumps(result))


def measure(side: str, args: argparse.Namespace) -> dict[str, float]:
    """Run one side in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    done = subprocess.run(
        [sys.executable, __file__, "--worker", side, *sys.argv[1:]],
        env=environment,
        capture_output=True,
        check=True,
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure every side in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument(
        "--cpu-time",
        dest="clock",
        action="store_const",
        const=time.process_time,
        default=time.perf_counter,
        help="count processor time: for a machine that others use, with --threads 1",
    )
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker, args)
        return
    import torch
    import transformers

    print(
        f"{platform.processor() or platform.machine()}, {args.threads} thread(s), "
        f"torch {torch.__version__}, transformers {transformers.__version__}; "
        f"batch {args.batch} x {args.length}; {args.clock.__name__}"
    )
    found: dict[str, list[dict[str, float]]] = {side: [] for side in args.sides}
    for number in range(args.rounds):
        for side in args.sides:
            found[side].append(measure(side, args))
            print(f"round {number + 1} {side:9} {found[side][-1]['rate']:8.0f} tokens/s")
    median = {side: statistics.median(r["rate"] for r in each) for side, each in found.items()}
    for name, top, bottom, bar in (
        ("the loop / hand-written", "ours", "plain", "1.0"),
        ("bfloat16 / float32", "ours", "float32", "1.5"),
        ("compiled / hand-written", "compiled", "plain", "-"),
    ):
        if top in median and bottom in median:
            print(f"{name:32} {median[top] / median[bottom]:6.2f}   (bar {bar})")
    if "ours" in found:
        share = statistics.median(each["loading"] for each in found["ours"])
        print(f"{'data loading / step':32} {share:6.2%}   (bar 2%)")


if __name__ == "__main__":
    main()
