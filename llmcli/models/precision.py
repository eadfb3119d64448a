"""Which precision a model runs in here: the one asked for, or the next finer one there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from llmcli.engine.kernels import Precision
    from llmcli.models.language_model import LanguageModel

# What a precision gives way to where the processor or torch cannot do it.
_COARSER_TO_FINER: dict[str, Precision] = {
    "int4": "int8",
    "int8": "bfloat16",
    "bfloat16": "float32",
}


def settle_precision(model: LanguageModel, *, decoding: bool) -> Precision:
    """Make a model's ``precision`` one that can be had here, with a notice if it changes.

    Args:
        model: A model on a processor, in a family that has layers of our own.
        decoding: Whether layers for decoding are meant (:func:`llmcli.engine.kernels.quantize`).
    """
    from llmcli.engine.kernels import unsupported

    wanted = model.precision
    reason = unsupported(wanted, decoding=decoding)
    while unsupported(model.precision, decoding=decoding):
        model.precision = _COARSER_TO_FINER[model.precision]
    if reason:
        model.notify(f"No {wanted} here ({reason}): {model.precision} is used.")
    return cast("Precision", model.precision)
