"""Linear layers over the library."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import torch
from torch import Tensor

from llmcli.engine.native.library import (
    ACTIVATIONS,
    FEW_ROWS,
    FORMS,
    Layer,
    Workspace,
    address,
    library,
)
from llmcli.engine.native.panels import check, form_of

_workspace = Workspace()


def float_layer(weight: Tensor, bias: Tensor | None, activation: str | None) -> Layer | None:
    """Describe float32 weights [out, in] that lie in memory either way round, to the library.

    None for what it cannot take. The tensors must outlive what is returned.
    """
    wide = weight.dtype == torch.float32 and (bias is None or bias.dtype == torch.float32)
    if not wide or weight.device.type != "cpu" or (bias is not None and not bias.is_contiguous()):
        return None
    in_major = weight.t().is_contiguous()
    if not in_major and not weight.is_contiguous():
        return None
    return Layer(
        form=FORMS["f32_in_major" if in_major else "f32_out_major"],
        activation=ACTIVATIONS[activation],
        n=weight.shape[0],
        k=weight.shape[1],
        weights=address(weight),
        bias=address(bias),
    )


class PanelLinear:
    """Weights in panels: ``activation(x @ weight.T + bias)``; see the Linear protocol.

    Args:
        stored: What :func:`llmcli.engine.native.panels.pack` returned.
        bias: Shape [out], float32, or None.
        activation: Applied to the result.

    Raises:
        ValueError: the tensors have other sizes than they say.
    """

    def __init__(
        self, stored: Mapping[str, Tensor], bias: Tensor | None, activation: str | None = None
    ) -> None:
        check(stored)
        self._panels = stored["panels"].contiguous()
        self._scales = stored.get("scales")
        self._bias = None if bias is None else bias.float().contiguous()
        rows, width = stored["size"].tolist()
        self.layer = Layer(
            form=FORMS[form_of(stored)],
            activation=ACTIVATIONS[activation],
            n=rows,
            k=width,
            weights=address(self._panels),
            scales=address(self._scales),
            bias=address(self._bias),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of weights that one call reads."""
        return self._panels.nbytes + (0 if self._scales is None else self._scales.nbytes)

    def __call__(self, x: Tensor) -> Tensor:
        """Map [rows, in] to float32 [rows, out]."""
        native = library()
        if native is None:
            raise RuntimeError("panels were packed for a library that is not there")
        x = x.float().contiguous()
        y = torch.empty(len(x), self.layer.n)
        layer, threads = ctypes.byref(self.layer), torch.get_num_threads()
        memory = native.llmcli_linear_bytes(layer, len(x), FEW_ROWS, threads)
        native.llmcli_linear(
            layer,
            address(x),
            len(x),
            address(y),
            FEW_ROWS,
            _workspace.pointer(memory),
            threads,
        )
        return y
