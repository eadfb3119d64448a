"""Muon for the hidden matrices, AdamW for everything else, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from llmcli.training.settings import TrainSettings

_BETAS = (0.9, 0.95)


def make_optimizer(model: nn.Module, settings: TrainSettings) -> Optimizer:
    """Return the optimizer that the settings name.

    Weight decay applies to matrices, not to biases, norms and embeddings.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    embeddings = {
        id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()
    }
    hidden = [p for _, p in trained if p.ndim == 2 and id(p) not in embeddings]
    rest = [p for _, p in trained if p.ndim != 2 or id(p) in embeddings]
    lr, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "muon" and hidden:
        return MuonWithAdamW(hidden, rest, lr=lr, weight_decay=decay)
    groups = [
        {"params": hidden, "weight_decay": decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return AdamW([g for g in groups if g["params"]], lr=lr, betas=_BETAS, fused=True)


class MuonWithAdamW(Optimizer):
    """Two optimizers that move together.

    Muon (Jordan and others, 2024) replaces a matrix's momentum by the nearest orthogonal
    matrix. Its step is scaled to the size of an AdamW step (``match_rms_adamw``, Liu and
    others, 2025), so that both take the same learning rate.

    Args:
        matrices: Parameters of two dimensions, inside the layers.
        others: Embeddings, norms, biases.
        lr: Learning rate of both.
        weight_decay: Of the matrices.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        *,
        lr: float,
        weight_decay: float,
    ) -> None:
        self._muon = Muon(
            matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        self._adamw = AdamW(others, lr=lr, betas=_BETAS, weight_decay=0.0, fused=True)
        super().__init__([*self._muon.param_groups, *self._adamw.param_groups], {})
        self._share_groups()

    def _share_groups(self) -> None:
        # The same dictionaries: a schedule that sets "lr" here sets it there.
        self.param_groups = [*self._muon.param_groups, *self._adamw.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Move every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        step: Any = self._muon.step  # torch leaves it without types
        step()
        self._adamw.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both."""
        return {"muon": self._muon.state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self._muon.load_state_dict(state_dict["muon"])
        self._adamw.load_state_dict(state_dict["adamw"])
        self._share_groups()
