"""Weights in the order in which a step reads them: panels of 16 outputs, as native.h has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

PanelPrecision = Literal["bfloat16", "int8", "int4"]

_LANES = 16
_INT4_GROUP = 32
# A multiple of the lanes: what is computed on the way stays small beside a model's head.
_ROWS_AT_ONCE = 2048
# Beyond this a weight does not fit into the float16 that scales are kept in.
_LARGEST_SCALE = 6e4


def pack(weight: Tensor, precision: PanelPrecision) -> dict[str, Tensor]:
    """Turn float weights [out, in] into panels.

    int8: symmetric, a scale for each output. int4: a scale and an offset for each group of 32
    inputs of an output, in float16; a group beyond float16's range makes it int8.

    Returns:
        ``panels`` (its type and shape tell the precision), ``scales`` of integers, and ``size``,
        [2]: outputs and inputs without padding.
    """
    made: list[dict[str, Tensor]] = []
    for rows in torch.split(weight, _ROWS_AT_ONCE):
        packed = _pack_rows(rows, precision)
        if packed is None:
            return pack(weight, "int8")
        made.append(packed)
    joined = {name: torch.cat([each[name] for each in made]) for name in made[0]}
    return {**joined, "size": torch.tensor(weight.shape)}


def _pack_rows(weight: Tensor, precision: PanelPrecision) -> dict[str, Tensor] | None:
    """Pack some outputs; None where int4's scales do not fit float16."""
    if precision == "bfloat16":
        return {"panels": _panels(_pad(weight.to(torch.bfloat16), 64), 2)}
    if precision == "int4":
        return _int4(weight.float())
    weight = weight.float()
    scale = weight.abs().amax(dim=1).clamp_(min=1e-12) / 127
    values = (weight / scale[:, None]).round_().clamp_(-127, 127)
    return {"panels": _panels((_pad(values, 64) + 128).to(torch.uint8), 4), "scales": scale}


def _int4(weight: Tensor) -> dict[str, Tensor] | None:
    padded = _pad(weight, _INT4_GROUP)
    rows, width = padded.shape
    groups = padded.view(rows, width // _INT4_GROUP, _INT4_GROUP)
    low, high = groups.aminmax(dim=2, keepdim=True)
    scale = ((high - low) / 15).clamp_(min=1e-7)
    if not max(float(scale.amax()), float(low.abs().amax())) < _LARGEST_SCALE:
        return None
    # Rounded as they will be read, so that the nearest level is the nearest one there is.
    scale, low = scale.half().float(), low.half().float()
    values = ((groups - low) / scale).round_().clamp_(0, 15).to(torch.uint8)
    halves = values.view(rows, width // 8, 2, 4)
    both = halves[:, :, 0] | (halves[:, :, 1] << 4)
    scales = torch.cat([scale, low], dim=2).half()
    return {
        "panels": _panels(both.view(rows, width // 2), 4),
        "scales": scales.view(rows // _LANES, _LANES, -1, 2).permute(0, 2, 3, 1).contiguous(),
    }


def _pad(weight: Tensor, inputs: int) -> Tensor:
    rows, width = weight.shape
    return torch.nn.functional.pad(weight, (0, -width % inputs, 0, -rows % _LANES)).contiguous()


def _panels(values: Tensor, together: int) -> Tensor:
    """[out, in] to [out / 16, in / together, 16, together]."""
    rows, width = values.shape
    parts = values.view(rows // _LANES, _LANES, width // together, together)
    return parts.permute(0, 2, 1, 3).contiguous()


def check(stored: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless panels and scales have the sizes that ``size`` asks for.

    The library reads as much as ``size`` says, whatever there is.
    """
    rows, width = stored["size"].tolist()
    panels, form = stored["panels"], form_of(stored)
    blocks = -(-rows // _LANES)
    inputs, together, of = {"bf16": (64, 2, 1), "int8": (64, 4, 1), "int4": (_INT4_GROUP, 4, 2)}[
        form
    ]
    padded = -(-width // inputs) * inputs
    expected = (blocks, padded // (together * of), _LANES, together)
    if rows < 1 or width < 1 or tuple(panels.shape) != expected:
        raise ValueError(f"panels of {tuple(panels.shape)} do not hold [{rows}, {width}]")
    scales = {"bf16": 0, "int8": rows, "int4": blocks * padded // _INT4_GROUP * 2 * _LANES}[form]
    found = stored["scales"].numel() if scales else 0
    if found != scales:
        raise ValueError(f"{found} scales do not fit [{rows}, {width}]")


def form_of(stored: Mapping[str, Tensor]) -> str:
    """Which of the library's forms packed weights have."""
    if stored["panels"].dtype == torch.bfloat16:
        return "bf16"
    return "int4" if stored["scales"].dtype == torch.float16 else "int8"
