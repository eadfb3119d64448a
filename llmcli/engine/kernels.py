"""Linear layers for decoding on a processor: which operator is fast for which shape.

Every layer maps float32 [rows, in] to float32 [rows, out]; the weights' precision is its own
business. What was measured, and against what, is in docs/performance.md.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Linear(Protocol):
    """``y = x @ weight.T + bias``, the weights in whatever form is fast."""

    @property
    def out_features(self) -> int:
        """Width of the result."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes that one pass over the weights reads."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """Map float32 [rows, in] to float32 [rows, out]."""
        ...


def has_onednn() -> bool:
    """Whether torch was built with oneDNN's linear operator on plain tensors."""
    return torch.backends.mkldnn.is_available() and hasattr(  # type: ignore[no-untyped-call]
        torch.ops.mkldnn, "_linear_pointwise"
    )


class FloatLinear:
    """Weights as they are, float32, no copy.

    One row: a batched matrix product over slices of the weights, with the row as a transposed
    column, is split over the threads and streams the weights at the memory's speed; a plain
    matrix-vector product of the same MKL uses one thread and a third of the bandwidth on
    processors that MKL does not know. Several rows: oneDNN, which is ahead of MKL there.

    Args:
        weight: Shape [out, in], contiguous.
        bias: Shape [out], or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._weight = weight
        self._bias = bias
        self._on_cpu = weight.device.type == "cpu"
        self._onednn = self._on_cpu and has_onednn()
        rows, width = weight.shape
        self._slices = slices = max(2, torch.get_num_threads())
        main = rows - rows % slices
        self._main = weight[:main].view(slices, main // slices, width)
        self._rest = weight[main:]
        if bias is not None:
            self._main_bias = bias[:main].view(slices, main // slices, 1)

    @property
    def out_features(self) -> int:
        """Width of the result."""
        return int(self._weight.shape[0])

    @property
    def nbytes(self) -> int:
        """Bytes that one pass over the weights reads."""
        return self._weight.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        """Map float32 [rows, in] to float32 [rows, out]."""
        if not self._on_cpu:
            return torch.nn.functional.linear(x, self._weight, self._bias)
        if x.shape[0] == 1:
            return self._one_row(x)
        if self._onednn:
            return torch.ops.mkldnn._linear_pointwise(  # type: ignore[no-any-return]
                x, self._weight, self._bias, "none", [], ""
            )
        return torch.nn.functional.linear(x, self._weight, self._bias)

    def _one_row(self, x: Tensor) -> Tensor:
        width = x.shape[1]
        # Strides (0, 1, width): the same column for every slice, marked as transposed, which is
        # what makes torch hand MKL the fast form.
        column = x.as_strided((self._slices, width, 1), (0, 1, width))
        if self._bias is None:
            y = torch.bmm(self._main, column).view(1, -1)
        else:
            y = torch.baddbmm(self._main_bias, self._main, column).view(1, -1)
        if not len(self._rest):
            return y
        rest = torch.mv(self._rest, x[0])
        if self._bias is not None:
            rest += self._bias[-len(rest) :]
        return torch.cat([y, rest.view(1, -1)], dim=1)
