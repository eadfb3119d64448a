"""A small corpus with something to learn in it, and settings that finish in a second or two."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from llmcli.training.run import Run

_WHO = ("the fox", "a crow", "the old king", "three brothers", "the little mermaid", "a wolf")
_DID = ("went to", "dreamed of", "looked for", "was afraid of", "sang about", "lived in")
_WHAT = ("the dark wood", "a golden apple", "the river", "her father's house", "the mountain")


def tale(seed: int, sentences: int = 60) -> str:
    """Sentences that a very small model can learn to foresee."""
    draw = random.Random(seed)
    return " ".join(
        f"Once {draw.choice(_WHO)} {draw.choice(_DID)} {draw.choice(_WHAT)}, and said nothing."
        for _ in range(sentences)
    )


@pytest.fixture(scope="session")
def tales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 24 documents of about 4 kB, and a list of them."""
    folder = tmp_path_factory.mktemp("tales")
    for number in range(24):
        (folder / f"tale-{number:02}.txt").write_text(tale(number), encoding="utf-8")
    (folder / "SOURCES.md").write_text("# Sources\n\nWritten for this test.\n", encoding="utf-8")
    return folder


def tiny_run(tales: Path, output: Path, **changes: Any) -> Run:
    """A run of 20 steps of 128 tokens."""
    from llmcli.training.run import Run
    from llmcli.training.settings import ModelShape, TrainSettings

    run = {name: changes.pop(name) for name in tuple(changes) if name in Run.__annotations__}
    settings = {
        "batch_size": 4,
        "max_steps": 20,
        "learning_rate": 3e-3,
        "validation": 0.1,
        "evaluate_every": 1e6,
        "save_every": 1e6,
        "validation_tokens": 1024,
        "precision": "float32",
        **changes,
    }
    return Run(
        **{
            "sources": [str(tales)],
            "output": output,
            "settings": TrainSettings(**settings),
            "shape": ModelShape(vocab_size=300, n_layer=2, n_head=2, n_embd=32, n_positions=32),
            "command": "llmcli train tales/ -o model",
            **run,
        }
    )
