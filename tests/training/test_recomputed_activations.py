"""``--gradient-checkpointing``: the same losses and gradients, with less kept for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from training_runs import tiny_run
from transformers import PreTrainedModel

from llmcli.errors import InvalidInput
from llmcli.training.metrics import read_metrics
from llmcli.training.model import add_adapter, new_model, prepare_for_training
from llmcli.training.settings import Adapter, ModelShape, TrainSettings
from llmcli.training.train import train

SHAPE = ModelShape(vocab_size=300, n_layer=4, n_head=2, n_embd=32, n_positions=64)


def prepared(*, recompute: bool, compile: bool = False, dropout: float = 0.1) -> PreTrainedModel:
    torch.manual_seed(0)
    model = new_model(SHAPE, dropout=dropout, end_of_text=0)
    prepare_for_training(model, TrainSettings(gradient_checkpointing=recompute, compile=compile))
    model.train()
    return model


def forward(model: PreTrainedModel) -> Tensor:
    """Return the loss of some tokens, always the same."""
    torch.manual_seed(1)
    rows = torch.randint(0, SHAPE.vocab_size, (4, SHAPE.n_positions + 1))
    inputs, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
    loss: Tensor = model(input_ids=inputs, labels=targets, shift_labels=targets).loss
    return loss


def gradients(model: PreTrainedModel) -> dict[str, Tensor]:
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def forward_and_back(*, recompute: bool, adapted: bool) -> tuple[float, dict[str, Tensor], int]:
    """Return the loss of a model with dropout, its gradients, and the bytes kept for them."""
    model = prepared(recompute=recompute)
    if adapted:
        model = add_adapter(model, Adapter(rank=2), dropout=0.1).train()
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = forward(model)
    for parameter in model.parameters():
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item(), gradients(model), sum(kept.values())


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's own
@pytest.mark.parametrize("adapted", [False, True])
def test_same_gradients_from_less_memory(adapted: bool) -> None:
    loss, expected, kept = forward_and_back(recompute=False, adapted=adapted)
    again, found, less = forward_and_back(recompute=True, adapted=adapted)
    assert again == pytest.approx(loss, rel=1e-6)
    assert expected
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7, msg=name)
    # What stays: each layer's input, and the logits with what the loss keeps of them.
    hidden = 4 * SHAPE.n_positions * SHAPE.n_embd * 4
    logits = 4 * SHAPE.n_positions * SHAPE.vocab_size * 4
    assert less < (SHAPE.n_layer + 4) * hidden + 2 * logits
    assert less < kept / 3


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch hides its own
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")
def test_compiled_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced and differentiated ahead of time; only the C++ compiler is left out."""
    compile_module: Any = nn.Module.compile
    asked = []

    def without_inductor(self: nn.Module, **options: Any) -> None:
        asked.append(options)
        compile_module(self, **options, backend="aot_eager")

    monkeypatch.setattr(nn.Module, "compile", without_inductor)
    plain = prepared(recompute=False, dropout=0.0)
    compiled = prepared(recompute=True, compile=True, dropout=0.0)
    losses = [forward(plain), forward(compiled)]
    for loss in losses:
        loss.backward()  # type: ignore[no-untyped-call]
    torch.compiler.reset()
    assert asked == [{"dynamic": False}]
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-5)
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(
            gradients(compiled)[name], gradient, rtol=1e-4, atol=1e-6, msg=name
        )


def test_a_run_learns_the_same(tales: Path, tmp_path: Path) -> None:
    records, weights = [], []
    for name, recompute in (("plain", False), ("recomputed", True)):
        changes = {"dropout": 0.1, "max_steps": 10, "gradient_checkpointing": recompute}
        train(tiny_run(tales, tmp_path / name, **changes))
        records.append(read_metrics(tmp_path / name / "metrics.jsonl"))
        weights.append(load_file(tmp_path / name / "model.safetensors"))
    for field in ("loss", "validation_loss"):
        expected, found = ([r[field] for r in each if field in r] for each in records)
        assert expected
        assert found == pytest.approx(expected, rel=1e-5)
    for field, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][field], tensor, rtol=1e-4, atol=1e-5, msg=field)


def test_a_model_that_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    model = new_model(SHAPE, dropout=0.0, end_of_text=0)
    monkeypatch.setattr(type(model), "supports_gradient_checkpointing", False)
    with pytest.raises(InvalidInput, match="GPT2LMHeadModel does not support"):
        prepare_for_training(model, TrainSettings(gradient_checkpointing=True))
