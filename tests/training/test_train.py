"""Whole runs of a very small model."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_runs import tale, tiny_run
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmcli.api import load
from llmcli.errors import (
    InvalidInput,
    NumericalError,
    OutOfMemory,
    StorageError,
)
from llmcli.training.checkpoints import Checkpoints
from llmcli.training.loop import TrainingLoop
from llmcli.training.metrics import read_metrics
from llmcli.training.settings import Adapter, ModelShape
from llmcli.training.train import train


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def losses(folder: Path) -> list[tuple[int, float]]:
    return [(r["step"], r["loss"]) for r in read_metrics(folder / "metrics.jsonl") if "loss" in r]


@pytest.fixture(scope="module")
def trained(tales: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    output = tmp_path_factory.mktemp("run") / "model"
    records: list[dict[str, Any]] = []
    run = tiny_run(tales, output, max_steps=60, evaluate_every=3.0, optimizer="muon")
    result = train(run, report=records.append)
    assert result is not None
    assert [r for r in records if "sample" not in r] == read_metrics(output / "metrics.jsonl")
    return output, result


def test_it_learns(trained: tuple[Path, Any]) -> None:
    folder, result = trained
    curve = losses(folder)
    assert curve[0][1] > 4.5
    assert curve[-1][1] < 0.75 * curve[0][1]
    assert result.steps == 60
    assert result.tokens == 60 * 4 * 32
    assert result.validation.loss < 0.75 * curve[0][1]


def test_any_transformers_program_loads_it(trained: tuple[Path, Any]) -> None:
    folder, result = trained
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.n_positions == 32
    assert model.config.use_cache
    assert model.config.activation_function == "gelu_new"
    assert sum(p.numel() for p in model.parameters()) == result.parameters
    ids = tokenizer("Once the fox", return_tensors="pt")
    out = model.generate(**ids, max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert out.shape[1] > ids["input_ids"].shape[1]


def test_the_card_states_what_was_measured(trained: tuple[Path, Any]) -> None:
    folder, result = trained
    card = (folder / "README.md").read_text()
    assert f"| bits per byte | {result.validation.bits_per_byte:.4f} |" in card
    assert "llmcli train tales/ -o model" in card
    assert "Written for this test." in card
    assert f"torch {version('torch')}" in card
    for seed in (1, 5):
        assert f"Seed {seed}:" in card
    text = "".join(
        load(str(folder)).stream(
            "Once upon a time", seed=5, max_new_tokens=120, temperature=0.8, top_p=0.95
        )
    )
    escaped = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda m: f"\\x{ord(m[0]):02x}", text)
    assert f"Once upon a time{escaped}\n" in card


def test_the_figure_of_the_card_is_the_stored_models(trained: tuple[Path, Any]) -> None:
    """Bits per byte again, by plain transformers over the held-out files, whole windows apart."""
    folder, result = trained
    index = json.loads((folder / "training" / "data.json").read_text())
    assert index["validation"]["names"]
    assert result.validation.bytes == sum(index["validation"]["sizes"])
    assert not set(index["validation"]["names"]) & set(index["train"]["names"])
    assert len(index["validation"]["names"]) + len(index["train"]["names"]) == 24


def test_resuming_gives_what_an_unbroken_run_gives(tales: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(tiny_run(tales, whole, optimizer="muon", grow_from=8))
    asked = 0

    def after_seven() -> bool:
        nonlocal asked
        asked += 1
        return asked == 7

    run = tiny_run(tales, broken, optimizer="muon", grow_from=8)
    assert train(run, interrupted=after_seven) is None
    assert not (broken / "config.json").exists()
    result = train(tiny_run(tales, broken, optimizer="muon", grow_from=8, resume=True))
    assert result is not None
    assert result.steps == 20
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(broken)[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
    assert losses(broken)[-1][0] == losses(whole)[-1][0]


def test_resuming_a_finished_run_writes_it_again(trained: tuple[Path, Any], tales: Path) -> None:
    folder, result = trained
    again = train(
        tiny_run(tales, folder, max_steps=60, evaluate_every=3.0, optimizer="muon", resume=True)
    )
    assert again is not None
    assert again.validation == pytest.approx(result.validation) or (
        again.validation is not None
        and again.validation.nats == pytest.approx(result.validation.nats, rel=1e-6)
    )


def test_resuming_with_other_settings(tales: Path, tmp_path: Path) -> None:
    train(tiny_run(tales, tmp_path / "m", max_steps=1))
    with pytest.raises(InvalidInput, match="other values of seed"):
        train(tiny_run(tales, tmp_path / "m", max_steps=2, seed=7, resume=True))
    with pytest.raises(InvalidInput, match="no run to resume"):
        train(tiny_run(tales, tmp_path / "n", resume=True))


def test_a_folder_that_holds_something(tales: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(InvalidInput, match="is not empty"):
        train(tiny_run(tales, tmp_path))
    train(tiny_run(tales, tmp_path, max_steps=1, overwrite=True))
    assert (tmp_path / "note.txt").read_text() == "mine"
    with pytest.raises(InvalidInput, match="is not a folder"):
        train(tiny_run(tales, tmp_path / "note.txt"))


@pytest.mark.parametrize(
    ("text", "shape", "says"),
    [
        ("", ModelShape(vocab_size=300, n_embd=32, n_positions=32), "corpus is empty"),
        (tale(0), ModelShape(vocab_size=5000, n_embd=32, n_positions=32), "not 5000"),
        (
            tale(0, 2),
            ModelShape(vocab_size=257, n_embd=32, n_positions=512),
            "less than one",
        ),
    ],
)
def test_text_that_will_not_do(tmp_path: Path, text: str, shape: ModelShape, says: str) -> None:
    source = tmp_path / "a.txt"
    source.write_text(text)
    with pytest.raises(InvalidInput, match=says):
        train(tiny_run(source, tmp_path / "m", shape=shape))
    assert not (tmp_path / "m" / "config.json").exists()


def test_a_loss_that_is_no_number(tales: Path, tmp_path: Path) -> None:
    output = tmp_path / "m"
    train(tiny_run(tales, output, max_steps=3))
    checkpoint = output / "training" / "checkpoints" / "checkpoint-3"
    assert checkpoint.is_dir()
    run = tiny_run(tales, output, max_steps=400, learning_rate=3e-3, resume=True, save_every=1e6)

    class Broken(TrainingLoop):
        def loss(self, rows: torch.Tensor) -> torch.Tensor:
            loss = super().loss(rows)
            return loss if self.progress.step < 5 else loss * float("nan")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llmcli.training.train.TrainingLoop", Broken)
        with pytest.raises(NumericalError, match="NaN or infinite in step 6"):
            train(run)
    assert checkpoint.is_dir()
    assert weights(checkpoint)


def test_weights_that_are_no_numbers_are_not_kept(tales: Path, tmp_path: Path) -> None:
    """The step that breaks them has a finite loss; its checkpoint would be the last one."""

    class Broken(TrainingLoop):
        def loss(self, rows: torch.Tensor) -> torch.Tensor:
            loss = super().loss(rows)
            if self.progress.step < 5:
                return loss
            weight = next(self.module.parameters())
            return loss + 0 * (0 * weight).square().sum().sqrt()  # a slope without end, at 0

    output = tmp_path / "m"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llmcli.training.train.TrainingLoop", Broken)
        with pytest.raises(NumericalError, match="A weight became NaN or infinite in step 6"):
            train(tiny_run(tales, output, save_every=1e-6))
    last = Checkpoints(output / "training" / "checkpoints").last()
    assert last is not None
    assert last.step == 5
    # Lowering the learning rate is the way on.
    result = train(tiny_run(tales, output, resume=True, learning_rate=1e-4, max_steps=10))
    assert result is not None
    rates = [r["learning_rate"] for r in read_metrics(output / "metrics.jsonl") if "loss" in r]
    assert max(rates) < 1e-4


def test_a_learning_rate_that_breaks_the_model(tales: Path, tmp_path: Path) -> None:
    run = tiny_run(tales, tmp_path / "m", learning_rate=1e30, schedule="constant", warmup=0.0)
    with pytest.raises(NumericalError):
        train(run)


# -- what must not be lost ---------------------------------------------------------------------


@pytest.mark.parametrize(("vocabulary", "has_samples"), [(257, False), (300, True)])
def test_a_context_smaller_than_the_usual_prompt(
    tales: Path, tmp_path: Path, vocabulary: int, has_samples: bool
) -> None:
    """The card's samples are the last thing to do, and the least: they begin with less."""
    shape = ModelShape(vocab_size=vocabulary, n_layer=1, n_head=1, n_embd=16, n_positions=3)
    run = tiny_run(tales, tmp_path / "m", max_steps=2, shape=shape)
    notices: list[str] = []
    assert train(run, notify=notices.append) is not None
    assert weights(tmp_path / "m")
    assert not any("samples" in notice for notice in notices)
    card = (tmp_path / "m" / "README.md").read_text()
    assert ("Seed 1:" in card) is has_samples


def test_a_sample_that_fails_is_a_notice(
    tales: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise NumericalError("The logits are NaN.")

    monkeypatch.setattr("llmcli.api.LanguageModel.stream", broken)
    notices: list[str] = []
    result = train(tiny_run(tales, tmp_path / "m", max_steps=2), notify=notices.append)
    assert result is not None
    assert notices[-1] == "The model card has no samples: The logits are NaN."
    assert weights(tmp_path / "m")
    assert "Seed 1:" not in (tmp_path / "m" / "README.md").read_text()


def test_the_model_is_there_before_it_is_measured(
    tales: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr("llmcli.training.result.exact_likelihood", broken)
    with pytest.raises(OutOfMemory):
        train(tiny_run(tales, tmp_path / "m", max_steps=2))
    assert load(str(tmp_path / "m")).n_positions == 32
    monkeypatch.undo()
    assert train(tiny_run(tales, tmp_path / "m", max_steps=2, resume=True)) is not None
    assert (tmp_path / "m" / "README.md").exists()


def test_a_run_that_fails_at_once_leaves_nothing(
    tales: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr("llmcli.training.loop.TrainingLoop.loss", broken)
    with pytest.raises(OutOfMemory):
        train(tiny_run(tales, tmp_path / "a" / "b"))
    assert list(tmp_path.iterdir()) == []
    kept = tmp_path / "c" / "notes.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    with pytest.raises(OutOfMemory):
        train(tiny_run(tales, kept.parent, overwrite=True))
    assert list(kept.parent.iterdir()) == [kept]


def test_a_disk_without_room_is_found_before_the_first_step(
    tales: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    records: list[dict[str, Any]] = []
    with pytest.raises(StorageError, match="No space left on device: a checkpoint and the model"):
        train(tiny_run(tales, tmp_path / "m"), report=records.append)
    assert records == []
    assert not (tmp_path / "m").exists()


def test_a_disk_that_fills_up_is_named(tales: Path, tmp_path: Path) -> None:
    """torch and safetensors call it by a line of their source; we by the system's word."""
    limit = 60_000  # bytes of a file: the tokens fit, the weights do not
    code = (
        "import resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "from llmcli.__main__ import main\n"
        "main()\n"
    )
    shape = ("--vocab-size", "300", "--layers", "2", "--heads", "2", "--width", "64")
    more = ("--context", "32", "--batch-size", "4", "--max-steps", "2")
    corpus = str(next(tales.glob("*.txt")))
    arguments = ("train", corpus, "-o", str(tmp_path / "m"), *shape, *more)
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        f"Error: Cannot write {tmp_path / 'm'}: File too large. Free some space"
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("context", [16, 64])
def test_the_context_of_a_given_model(
    tiny_gpt2: Path, tales: Path, tmp_path: Path, context: int
) -> None:
    shape = ModelShape(n_positions=context)
    run = tiny_run(tales, tmp_path / "m", base=load(str(tiny_gpt2)), shape=shape, max_steps=2)
    result = train(run)
    assert result is not None
    assert result.tokens == 2 * 4 * context
    assert load(str(tmp_path / "m")).n_positions == 64


def test_early_stopping_keeps_the_best(tales: Path, tmp_path: Path) -> None:
    run = tiny_run(
        tales,
        tmp_path / "m",
        max_steps=500,
        evaluate_every=1e-6,
        early_stopping=2,
        learning_rate=0.3,
        schedule="constant",
        warmup=0.0,
    )
    result = train(run)
    assert result is not None
    records = read_metrics(tmp_path / "m" / "metrics.jsonl")
    found = [r["validation_loss"] for r in records if "validation_loss" in r]
    assert result.steps < 500
    assert min(found) not in found[-2:]
    assert result.validation is not None
    # The stored model is the best one, not the last.
    assert abs(result.validation.loss - min(found)) < abs(result.validation.loss - found[-1])


def test_early_stopping_remembers_the_best_when_resumed(tales: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"evaluate_every": 1e-6, "early_stopping": 50, "max_steps": 14}
    changes |= {"schedule": "constant", "warmup": 0.0}
    first, moved = tmp_path / "m", tmp_path / "moved"
    asked = 0

    def after_ten() -> bool:
        nonlocal asked
        asked += 1
        return asked == 10

    assert train(tiny_run(tales, first, **changes), interrupted=after_ten) is None
    first.rename(moved)
    for again in range(2):  # the second time, nothing is left but to write the model
        # A rate that undoes what was learned.
        result = train(tiny_run(tales, moved, resume=True, learning_rate=3.0, **changes))
        assert result is not None
        records = read_metrics(moved / "metrics.jsonl")
        found = {r["step"]: r["validation_loss"] for r in records if "validation_loss" in r}
        best = min(found, key=found.__getitem__)
        assert best <= 10, "the run is meant to get worse after it was resumed"
        stored = moved / "training" / "checkpoints" / f"checkpoint-{best}"
        for name, tensor in weights(moved).items():
            torch.testing.assert_close(tensor, weights(stored)[name], msg=f"{again} {name}")


def test_early_stopping_needs_held_out_text(tales: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="needs held-out text"):
        train(tiny_run(tales, tmp_path / "m", early_stopping=2, validation=0.0))


def test_less_than_a_context_held_out(tmp_path: Path) -> None:
    source = tmp_path / "a.txt"
    source.write_text(tale(0))
    shape = ModelShape(vocab_size=300, n_layer=1, n_head=2, n_embd=32, n_positions=256)
    result = train(tiny_run(source, tmp_path / "m", shape=shape, validation=0.02, max_steps=2))
    assert result is not None
    assert result.validation is not None
    assert result.validation.tokens < 256
    found = [r for r in read_metrics(tmp_path / "m" / "metrics.jsonl") if "validation_loss" in r]
    assert [r["step"] for r in found] == [2]
    card = (tmp_path / "m" / "README.md").read_text()
    assert "never trained on: the end of each document." in card


def test_training_a_model_further(tiny_gpt2: Path, tales: Path, tmp_path: Path) -> None:
    base = load(str(tiny_gpt2))
    shape = ModelShape(vocab_size=300, n_embd=32, n_positions=64)
    run = tiny_run(tales, tmp_path / "m", base=base, shape=shape, max_steps=40)
    result = train(run)
    assert result is not None
    tokenizer = (tiny_gpt2 / "tokenizer.json").read_bytes()
    assert (tmp_path / "m" / "tokenizer.json").read_bytes() == tokenizer
    curve = losses(tmp_path / "m")
    assert curve[-1][1] < curve[0][1] - 0.5
    assert str(tiny_gpt2) in (tmp_path / "m" / "README.md").read_text()


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's own
@pytest.mark.parametrize("merge", [True, False])
def test_adapters(tiny_gpt2: Path, tales: Path, tmp_path: Path, merge: bool) -> None:
    base = load(str(tiny_gpt2))
    shape = ModelShape(vocab_size=300, n_embd=32, n_positions=64)
    adapter = Adapter(rank=4, merge=merge)
    run = tiny_run(tales, tmp_path / "m", base=base, shape=shape, adapter=adapter, max_steps=20)
    result = train(run)
    assert result is not None
    before = weights(tiny_gpt2)
    if merge:
        after = weights(tmp_path / "m")
        assert set(after) == set(before)
        changed = {name for name in after if not torch.equal(after[name], before[name])}
        assert changed
        assert all(".c_" in name for name in changed)
        assert load(str(tmp_path / "m")).module is not None
    else:
        from peft import PeftModel

        plain = AutoModelForCausalLM.from_pretrained(tiny_gpt2)
        assert PeftModel.from_pretrained(plain, tmp_path / "m").peft_config
        assert not (tmp_path / "m" / "config.json").exists()
        # The folder is a model all the same: base and adapter are merged when it is loaded.
        assert load(str(tmp_path / "m")).module is not None


def test_accumulated_batches_are_one_large_batch(tales: Path, tmp_path: Path) -> None:
    one = tiny_run(tales, tmp_path / "one", batch_size=4, max_steps=5)
    two = tiny_run(
        tales, tmp_path / "two", batch_size=2, gradient_accumulation_steps=2, max_steps=5
    )
    train(one)
    train(two)
    for name, tensor in weights(tmp_path / "one").items():
        torch.testing.assert_close(
            weights(tmp_path / "two")[name], tensor, rtol=1e-3, atol=1e-4, msg=name
        )
