from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from llmcli.training.model import new_model
from llmcli.training.optimizer import MuonWithAdamW, make_optimizer
from llmcli.training.settings import ModelShape, TrainSettings

SHAPE = ModelShape(vocab_size=300, n_layer=1, n_head=2, n_embd=16, n_positions=16)


def model() -> nn.Module:
    torch.manual_seed(3)
    return new_model(SHAPE, dropout=0.0, end_of_text=0)


def step(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    ids = torch.arange(16)[None]
    net(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def test_matrices_go_to_muon_and_the_rest_to_adamw() -> None:
    """As the two optimizers of torch would move them, each on its own."""
    ours, theirs = model(), model()
    optimizer = make_optimizer(ours, TrainSettings(optimizer="muon", learning_rate=0.01))
    matrices = [p for n, p in theirs.named_parameters() if ".h." in n and p.ndim == 2]
    ids = {id(p) for p in matrices}
    rest = [p for p in theirs.parameters() if id(p) not in ids]
    muon = torch.optim.Muon(matrices, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest, lr=0.01, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    for _ in range(3):
        step(ours, optimizer)
        tokens = torch.arange(16)[None]
        theirs(input_ids=tokens, labels=tokens).loss.backward()
        optimizers: list[Any] = [muon, adamw]
        for each in optimizers:
            each.step()
            each.zero_grad()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_decay_spares_embeddings_norms_and_biases() -> None:
    net = model()
    optimizer = make_optimizer(net, TrainSettings(weight_decay=0.3))
    decayed = {
        id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]
    }
    names = {name for name, p in net.named_parameters() if id(p) in decayed}
    assert names
    assert all(".h." in name and name.endswith("weight") and "ln" not in name for name in names)


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_state_goes_through_a_checkpoint(name: str) -> None:
    settings = TrainSettings(optimizer=name, learning_rate=0.01)  # type: ignore[arg-type]
    first = model()
    before = make_optimizer(first, settings)
    step(first, before)
    second = model()
    second.load_state_dict(first.state_dict())
    after = make_optimizer(second, settings)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    step(first, before)
    step(second, after)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_schedule_reaches_both() -> None:
    net = model()
    optimizer = make_optimizer(net, TrainSettings(optimizer="muon"))
    assert isinstance(optimizer, MuonWithAdamW)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 0.0)
    before = {name: p.clone() for name, p in net.named_parameters()}
    step(net, optimizer)
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
    schedule.step()
