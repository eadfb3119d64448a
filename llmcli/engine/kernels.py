"""Linear layers for scoring on a processor: which operator is fast for which shape.

A layer's weights are either float32 as they are, or *stored*: quantised to plain tensors that
can be kept in a file (:func:`quantize`), which :func:`make_linear` turns into what an operator
wants. What was measured, and against what, is in docs/performance.md.

Everything that depends on operators which torch does not promise to keep is in this file.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from llmcli.system import mkl_is_ahead

Precision = Literal["float32", "bfloat16", "int8", "int4"]
Activation = Literal["gelu_new", "gelu_pytorch_tanh", "gelu", "relu", "silu", "swish", "tanh"]

# Weights that share one scale and offset in int4; 32 is the finest that the operator takes.
INT4_GROUP = 32
# The int4 operator wants a multiple of this many outputs.
_INT4_ROWS = 32
# A float32 row's product is split over this many slices of the inputs. It does not depend on
# the number of threads, so neither do the logits.
_SLICES = 8
# What oneDNN computes in the same pass as the product: its name for it, and how.
_FUSED: dict[str, tuple[str, str]] = {
    "gelu_new": ("gelu", "tanh"),
    "gelu_pytorch_tanh": ("gelu", "tanh"),
    "gelu": ("gelu", "none"),
    "relu": ("relu", ""),
}


class Linear(Protocol):
    """``activation(x @ weight.T + bias)``, the weights in whatever form is fast."""

    @property
    def nbytes(self) -> int:
        """Bytes of weights that one call reads."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """Map [rows, in] to [rows, out]; float32 in, float32 or the weights' type out.

        What another layer of the same precision returned is taken as it is.
        """
        ...


def activate(x: Tensor, name: Activation | None) -> Tensor:
    """Apply an activation by transformers' name of it."""
    if name is None:
        return x
    if name in ("gelu_new", "gelu_pytorch_tanh"):
        return torch.nn.functional.gelu(x, approximate="tanh")
    if name == "gelu":
        return torch.nn.functional.gelu(x)
    if name in ("silu", "swish"):
        return torch.nn.functional.silu(x)
    return torch.relu(x) if name == "relu" else torch.tanh(x)


# -- what this processor and this torch can do -----------------------------------------------


def unsupported(precision: str) -> str | None:
    """Say why a precision cannot be had here; None where it can."""
    if precision == "bfloat16":
        library: Any = torch.ops.mkldnn
        if not (_has_onednn() and library._is_mkldnn_bf16_supported()):
            return "this processor has no AVX-512 for bfloat16"
    elif precision == "int8" and "fbgemm" not in torch.backends.quantized.supported_engines:
        return "this build of torch has no FBGEMM"
    elif precision == "int4" and not hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu"):
        return "this build of torch has no int4 operator"
    return None


def _has_onednn() -> bool:
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(available) and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None, name: str | None) -> Tensor:
    operation, algorithm = _FUSED.get(name or "", ("none", ""))
    linear = torch.ops.mkldnn._linear_pointwise.default
    y: Tensor = linear(x, weight, bias, operation, [], algorithm)
    return y


# -- float32 (and whatever type a CUDA device computes in) -----------------------------------


class FloatLinear:
    """Weights as they are: no copy, whichever way round they lie in memory.

    One row: the product is cut into slices that MKL's batched matrix product spreads over the
    threads; its plain matrix-vector product leaves half the memory's bandwidth unused on
    processors that MKL does not know. Several rows: whichever of oneDNN and MKL is ahead there.

    Args:
        weight: Shape [out, in]; contiguous, or the transpose of a contiguous tensor.
        bias: Shape [out], or None.
        activation: Applied to the result.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None = None, activation: Activation | None = None
    ) -> None:
        self._weight = weight
        self._bias = bias
        self._activation = activation
        self._on_cpu = weight.device.type == "cpu"
        self._in_major = not weight.is_contiguous()
        ahead = not (self._in_major and mkl_is_ahead())
        self._onednn = self._on_cpu and ahead and _has_onednn()
        self._slices = math.gcd(weight.shape[1], _SLICES)
        rows, width = weight.shape
        if self._in_major:
            self._parts = weight.t().view(self._slices, width // self._slices, rows)
        else:
            main = rows - rows % _SLICES
            self._parts = weight[:main].view(_SLICES, main // _SLICES, width)
            self._rest = weight[main:]

    @property
    def nbytes(self) -> int:
        """Bytes of weights that one call reads."""
        return self._weight.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        """Map [rows, in] to [rows, out]."""
        if self._on_cpu and x.shape[0] == 1:
            y = self._one_row_in_major(x) if self._in_major else self._one_row_out_major(x)
        elif self._onednn:
            y = _onednn_linear(x, self._weight, self._bias, self._activation)
            if self._activation in _FUSED:
                return y
        else:
            y = torch.nn.functional.linear(x.to(self._weight.dtype), self._weight, self._bias)
        return activate(y, self._activation)

    def _one_row_in_major(self, x: Tensor) -> Tensor:
        y = torch.bmm(x.view(self._slices, 1, -1), self._parts).sum(0)
        return y if self._bias is None else y.add_(self._bias)

    def _one_row_out_major(self, x: Tensor) -> Tensor:
        width = x.shape[1]
        # Strides (0, 1, width): the same column for every slice, marked as transposed, which is
        # what makes torch hand MKL the fast form.
        column = x.as_strided((_SLICES, width, 1), (0, 1, width))
        y = torch.bmm(self._parts, column).view(1, -1)
        if len(self._rest):
            y = torch.cat([y, torch.mv(self._rest, x[0]).view(1, -1)], dim=1)
        return y if self._bias is None else y.add_(self._bias)


# -- stored weights --------------------------------------------------------------------------


def quantize(weight: Tensor, precision: Precision) -> dict[str, Tensor]:
    """Turn float weights [out, in] into the plain tensors of a precision.

    int8: symmetric, a scale for each output. int4: a scale and an offset for each group of 32
    inputs of an output. A precision that the shape does not allow gives way to the next finer
    one.

    Args:
        weight: Shape [out, in].
        precision: What they become.

    Returns:
        Tensors by name; what :func:`make_linear` takes.
    """
    rows, width = weight.shape
    if precision == "int4" and width % INT4_GROUP == 0:
        return _quantize_int4(weight.float().contiguous(), rows, width)
    if precision in ("int8", "int4"):
        weight = weight.float().contiguous()
        scale = weight.abs().amax(dim=1).clamp_(min=1e-12) / 127
        return {"int8": (weight / scale[:, None]).round_().to(torch.int8), "scale": scale}
    if precision == "bfloat16":
        return {"bfloat16": weight.to(torch.bfloat16).contiguous()}
    return {"float32": weight if weight.is_cuda else weight.float()}


def _quantize_int4(weight: Tensor, rows: int, width: int) -> dict[str, Tensor]:
    groups = weight.view(rows, width // INT4_GROUP, INT4_GROUP)
    low, high = groups.aminmax(dim=2, keepdim=True)
    scale = ((high - low) / 15).clamp_(min=1e-12)
    values = ((groups - low) / scale).round_().clamp_(0, 15).to(torch.int32).view(rows, width)
    # The operator computes (value - 8) * scale + zero.
    zero = low + scale * 8
    padding = -rows % _INT4_ROWS
    values = torch.nn.functional.pad(values, (0, 0, 0, padding))
    scales = torch.nn.functional.pad(torch.cat([scale, zero], dim=2), (0, 0, 0, 0, 0, padding))
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values, 2)
    return {
        "int4": packed,
        "scales": scales.transpose(0, 1).to(torch.bfloat16).contiguous(),
        "rows": torch.tensor(rows),
    }


def make_linear(
    stored: Mapping[str, Tensor], bias: Tensor | None, activation: Activation | None = None
) -> Linear:
    """Make a layer of what :func:`quantize` returned and a float32 bias [out] or None."""
    if "int8" in stored:
        return Int8Linear(stored["int8"], stored["scale"], bias, activation)
    if "int4" in stored:
        rows = int(stored["rows"])
        return Int4Linear(stored["int4"], stored["scales"], rows, bias, activation)
    if "bfloat16" in stored:
        return Bfloat16Linear(stored["bfloat16"], bias, activation)
    return FloatLinear(stored["float32"], bias, activation)


class Bfloat16Linear:
    """bfloat16 weights in oneDNN's own layout; bfloat16 activations, float32 sums."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, activation: Activation | None = None
    ) -> None:
        self.nbytes = weight.nbytes
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, 1)
        self._bias = None if bias is None else bias.to(torch.bfloat16)
        self._activation = activation

    def __call__(self, x: Tensor) -> Tensor:
        """Map [rows, in] to bfloat16 [rows, out]."""
        y = _onednn_linear(x.to(torch.bfloat16), self._weight, self._bias, self._activation)
        return y if self._activation in _FUSED else activate(y, self._activation)


class Int8Linear:
    """int8 weights, a scale for each output; activations quantised to 8 bits as they come.

    FBGEMM's operator scales all rows of a call alike. To keep rows from changing each other,
    several rows are first brought to the range -1 to 1, each by its own largest value, and a
    row that spans this range is added.

    FBGEMM's packed form can only be had through a quantised tensor, which torch calls
    deprecated; the plain-tensor operator (``onednn.qlinear_pointwise``) takes 1.6 times as long.
    """

    def __init__(
        self, weight: Tensor, scale: Tensor, bias: Tensor | None, activation: Activation | None
    ) -> None:
        self.nbytes = weight.nbytes + scale.nbytes
        self._activation = activation
        self._bias = bias
        self._packed = _fbgemm_pack(weight, scale, bias)
        # Without VNNI two 8-bit products can overflow 16 bits: 7-bit activations then.
        self._reduce_range = not torch.cpu._is_vnni_supported()

    def __call__(self, x: Tensor) -> Tensor:
        """Map [rows, in] to float32 [rows, out]."""
        linear = torch.ops.quantized.linear_dynamic.default
        if x.shape[0] == 1:
            return activate(linear(x, self._packed, self._reduce_range), self._activation)
        largest = x.abs().amax(dim=1, keepdim=True).clamp_(min=1e-12)
        span = torch.zeros(1, x.shape[1])
        span[0, 0], span[0, -1] = -1, 1
        y = linear(torch.cat([x / largest, span]), self._packed, self._reduce_range)[:-1]
        bias = 0 if self._bias is None else self._bias
        return activate((y - bias) * largest + bias, self._activation)


def _fbgemm_pack(weight: Tensor, scale: Tensor, bias: Tensor | None) -> Any:
    engines: Any = torch.backends.quantized
    zero_points = torch.zeros(len(scale), dtype=torch.int64)
    before = engines.engine
    engines.engine = "fbgemm"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*deprecated", category=UserWarning)
            quantized: Any = torch._make_per_channel_quantized_tensor(
                weight, scale.double(), zero_points, 0
            )
        return torch.ops.quantized.linear_prepack(quantized, bias)
    finally:
        engines.engine = before


class Int4Linear:
    """int4 weights, a scale and an offset for each 32 of them; bfloat16 activations."""

    def __init__(
        self,
        packed: Tensor,
        scales: Tensor,
        rows: int,
        bias: Tensor | None,
        activation: Activation | None,
    ) -> None:
        self.nbytes = packed.nbytes + scales.nbytes
        self._packed = packed
        self._scales = scales
        self._rows = rows
        self._bias = bias
        self._activation = activation

    def __call__(self, x: Tensor) -> Tensor:
        """Map [rows, in] to float32 [rows, out]."""
        y = torch.ops.aten._weight_int4pack_mm_for_cpu.default(
            x.to(torch.bfloat16), self._packed, INT4_GROUP, self._scales
        )
        y = y[:, : self._rows].float()
        if self._bias is not None:
            y += self._bias
        return activate(y, self._activation)
