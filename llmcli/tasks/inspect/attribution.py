"""Which tokens of a prompt had influence on the next one, by three methods.

Each is a measure of influence under its own rules; none of them is the reason for a prediction,
and where they differ, that is a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from llmcli.errors import InvalidInput
from llmcli.tasks.inspect.opened import HEAD_ROWS, Opened, parts

# Of attention in rows computed side by side, with what a gradient keeps of it.
_CELLS = 512 * 512

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """The influence of each token on a value: the log-probability of a token that may come next.

    With a contrast the value is the difference of two log-probabilities, which is that of the
    logits.

    Attributes:
        target: The token asked about.
        contrast: The token that it is compared with, or None.
        value: The value, in nats.
        leave_one_out: For each token, the value less that of the text without the token.
        input_x_gradient: For each token, its embedding times the value's gradient there.
        integrated_gradients: For each token, the way from the baseline's embedding to its own
            times the mean gradient along it (Sundararajan et al. 2017), midpoint rule.
        baseline: The token that stands everywhere in the baseline; None for the mean of all
            embeddings.
        baseline_value: The value there.
        completeness_error: How far the sum of the integrated gradients is from the value less
            the baseline's, as a share of that difference.
        steps: Of the integral.
    """

    target: int
    contrast: int | None
    value: float
    leave_one_out: tuple[float, ...]
    input_x_gradient: tuple[float, ...]
    integrated_gradients: tuple[float, ...]
    baseline: int | None
    baseline_value: float
    completeness_error: float
    steps: int

    def to_dict(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        return asdict(self)


def attribute(
    opened: Opened,
    ids: Sequence[int],
    *,
    target: int,
    contrast: int | None = None,
    baseline: int | None = None,
    steps: int = 64,
    progress: Progress | None = None,
) -> Attribution:
    """Measure each token's influence on the next one.

    Args:
        opened: The model.
        ids: The prompt; two tokens at least.
        target: The token asked about.
        contrast: The token to compare it with.
        baseline: The token that stands in for no information; None for the mean embedding.
        steps: Of the integral.
        progress: Called with what is done, how much of it, and of how much.

    Raises:
        InvalidInput: one token alone, or target and contrast are the same.
    """
    if len(ids) < 2:
        raise InvalidInput(
            "The text is one token: without it there is nothing to compare with.",
            "Give a longer text, or --bos.",
        )
    if contrast == target:
        raise InvalidInput("The two tokens to compare are the same.", "Give another --contrast.")

    def value_of(logits: Tensor) -> Tensor:
        logprobs = torch.log_softmax(logits, dim=-1)
        return logprobs[:, target] - (0 if contrast is None else logprobs[:, contrast])

    embed = opened.module.get_input_embeddings()
    with torch.no_grad():
        own = embed(opened.tensor(ids))
        if baseline is None:
            blank = opened.embeddings.float().mean(dim=0).to(own.dtype).expand_as(own)
        else:
            blank = embed(opened.tensor([baseline])).expand_as(own)
        baseline_value = float(value_of(opened.from_embeddings(blank))[0])
    left_out = _leave_one_out(opened, ids, value_of, progress)
    value, gradient = _gradient(opened, own, value_of)
    mean_gradient = _mean_gradient(opened, own, blank, value_of, steps, progress)
    integrated = ((own - blank).float() * mean_gradient).sum(dim=-1)[0]
    difference = float(value[0]) - baseline_value
    missing = abs(float(integrated.double().sum()) - difference)
    return Attribution(
        target=target,
        contrast=contrast,
        value=float(value[0]),
        leave_one_out=tuple(float(value[0]) - without for without in left_out),
        input_x_gradient=tuple((own.float() * gradient).sum(dim=-1)[0].tolist()),
        integrated_gradients=tuple(integrated.tolist()),
        baseline=baseline,
        baseline_value=baseline_value,
        completeness_error=missing / max(abs(difference), 1e-12),
        steps=steps,
    )


def _leave_one_out(
    opened: Opened,
    ids: Sequence[int],
    value_of: Callable[[Tensor], Tensor],
    progress: Progress | None,
) -> list[float]:
    """The value of the text without each of its tokens; what follows moves up."""
    found: list[float] = []
    shorter = [[*ids[:index], *ids[index + 1 :]] for index in range(len(ids))]
    size = _rows_at_once(len(ids))
    for begin in range(0, len(ids), size):
        if progress is not None:
            progress("leave one out", begin, len(ids))
        rows = torch.tensor(shorter[begin : begin + size], device=opened.device)
        with torch.inference_mode():
            embeddings = opened.module.get_input_embeddings()(rows)
            found += value_of(opened.from_embeddings(embeddings)).tolist()
    return found


def _gradient(
    opened: Opened, embeddings: Tensor, value_of: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Values of rows of embeddings [rows, tokens, width], and float32 gradients there."""
    with torch.enable_grad():
        point = embeddings.detach().clone().requires_grad_()
        values = value_of(opened.from_embeddings(point))
        (gradient,) = torch.autograd.grad(values.sum(), point)
    return values.detach(), gradient.float()


def _mean_gradient(
    opened: Opened,
    own: Tensor,
    blank: Tensor,
    value_of: Callable[[Tensor], Tensor],
    steps: int,
    progress: Progress | None,
) -> Tensor:
    """The mean gradient on the straight way from the baseline, [1, tokens, width]."""
    total = torch.zeros_like(own, dtype=torch.float32)
    shares = (torch.arange(steps, dtype=torch.float32, device=own.device) + 0.5) / steps
    size = _rows_at_once(own.shape[1])
    for done, part in enumerate(parts(shares, size)):
        if progress is not None:
            progress("integrated gradients", done * size, steps)
        points = blank + part[:, None, None].to(own.dtype) * (own - blank)
        total += _gradient(opened, points, value_of)[1].sum(dim=0, keepdim=True)
    return total / steps


def _rows_at_once(tokens: int) -> int:
    return max(1, min(HEAD_ROWS, _CELLS // (tokens * tokens), 2048 // tokens))
