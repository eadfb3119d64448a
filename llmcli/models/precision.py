"""Which precision a model runs in here: the one asked for, or the next finer one there is.

Our own kernels have all of them on every processor; transformers and torch do not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmcli.models.language_model import LanguageModel

# What a precision gives way to where the processor or torch cannot do it.
_COARSER_TO_FINER = {"int4": "int8", "int8": "bfloat16", "bfloat16": "float32"}


def settle_precision(model: LanguageModel, *, why_not: Callable[[str], str | None]) -> str:
    """Make a model's ``precision`` one that can be had, with a notice if it changes.

    Args:
        model: The model.
        why_not: Says why a precision cannot be had; None where it can.
    """
    wanted = model.precision
    reason = why_not(wanted)
    while why_not(model.precision):
        model.precision = _COARSER_TO_FINER[model.precision]
    if reason:
        model.notify(f"No {wanted} here ({reason}): {model.precision} is used.")
    return model.precision
