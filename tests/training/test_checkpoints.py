"""What a run leaves to go on from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_runs import tiny_run

from llmcli.api import load
from llmcli.errors import InvalidInput
from llmcli.training.checkpoints import Best, Checkpoints
from llmcli.training.pace import Pace
from llmcli.training.schedule import Progress
from llmcli.training.settings import Adapter, ModelShape, TrainSettings
from llmcli.training.train import train


def test_a_resumed_adapter(tiny_gpt2: Path, tales: Path, tmp_path: Path) -> None:
    """A checkpoint of it holds the adapter alone, and going on gives what one run gives."""

    def run(name: str, **more: Any) -> Any:
        shape = ModelShape(vocab_size=300, n_embd=32, n_positions=64)
        base = load(str(tiny_gpt2))
        more |= {"shape": shape, "base": base, "adapter": Adapter(rank=2), "max_steps": 6}
        return tiny_run(tales, tmp_path / name, **more)

    train(run("whole"))
    asked = iter([False, False, True])
    assert train(run("broken"), interrupted=lambda: next(asked)) is None
    stored = tmp_path / "broken" / "training" / "checkpoints" / "checkpoint-3"
    assert set(load_file(stored / "adapter_model.safetensors"))
    assert not (stored / "model.safetensors").exists()
    train(run("broken", resume=True))
    whole, broken = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "broken")
    )
    for name, tensor in whole.items():
        torch.testing.assert_close(broken[name], tensor, rtol=1e-5, atol=1e-7, msg=name)


def test_the_last_ones_stay(tales: Path, tmp_path: Path) -> None:
    train(tiny_run(tales, tmp_path / "m", max_steps=4, save_every=1e-6))
    folder = tmp_path / "m" / "training" / "checkpoints"
    assert {path.name for path in folder.iterdir()} == {"checkpoint-3", "checkpoint-4"}
    # One that was cut off is not there.
    (folder / "checkpoint-4" / "complete.json").unlink()
    last = Checkpoints(folder).last()
    assert last is not None
    assert last.step == 3


def test_a_checkpoint_of_another_version(tales: Path, tmp_path: Path) -> None:
    train(tiny_run(tales, tmp_path / "m", max_steps=1))
    mark = next((tmp_path / "m").rglob("complete.json"))
    mark.write_text(json.dumps({"step": 1, "elapsed": 1.0}))
    with pytest.raises(InvalidInput, match="Another version of llmcli wrote"):
        train(tiny_run(tales, tmp_path / "m", max_steps=2, resume=True))


def test_patience_is_remembered() -> None:
    """Two evaluations were worse before the run was taken up again, and a third ends it."""
    settings = TrainSettings(max_steps=10, early_stopping=3)
    progress = Progress(max_steps=10, step=5)
    pace = Pace(progress, settings, best=Best(step=2, loss=1.0, worse=2))
    assert not pace.has_ended
    assert pace.after_evaluation(1.5)
    assert pace.has_ended
    assert pace.best == Best(step=2, loss=1.0, worse=3)
