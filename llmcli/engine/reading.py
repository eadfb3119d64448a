"""How a model of transformers may be read, found out by reading, and texts that are read so.

Architectures differ in what they take: some count positions wrongly after a cache unless they
are told, some count from a padding index and must not be told, some caches take one token at a
time and no more, some models have none. What a class says of itself is no guide. So a model
reads a short text as a whole and then in pieces, and the first way whose logits are those of
the whole is the way it is read from then on.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmcli.errors import UnsupportedModel, is_out_of_memory

# Texts are read in pieces of this many tokens, so that memory does not grow with their square
# and an interrupt is noticed in between.
PIECE = 512
# Names under which models take their cache and give it back.
_CACHES = ("past_key_values", "cache_params", "state")
# The text that is read in several ways, and where it is cut.
_LENGTH = 12
_FIRST, _SECOND = 5, 9
# How far logits may be apart, in their standard deviations. Wrong ones are 0.003 apart and more
# in models that were never trained; what rounding does is within 0.00003 in float32.
_CLOSE = 5e-4
# In 16 bits, and where a device multiplies in fewer: root mean squares, averaged. Positions that
# are counted wrongly are 0.3 apart, rounding in deep models less than 0.1.
_CLOSE_ROUNDED = 0.15
# What models raise that cannot be read in some way.
_REFUSALS = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    AssertionError,
    NotImplementedError,
)


@dataclass(frozen=True)
class Reading:
    """How a model may be read.

    Attributes:
        cache: The name of its cache's parameter; None where a text is read again from its
            beginning whenever it grows.
        positions: Whether it is told the positions of the tokens.
        several: Whether several tokens may be read at once after what is in a cache.
    """

    cache: str | None = None
    positions: bool = False
    several: bool = True


def find_reading(module: Any, *, name: str, n_positions: int) -> Reading:
    """Find out how a model may be read.

    Takes about as long as five tokens do.

    Args:
        module: A transformers model in eval mode whose output has logits.
        name: The model's, for messages.
        n_positions: Its context.

    Raises:
        UnsupportedModel: It is not causal, or cannot read at all.
    """
    takes = inspect.signature(module.forward).parameters
    cache = next((each for each in _CACHES if each in takes), None)
    ids = probe_text(module, min(_LENGTH, n_positions))
    try:
        whole = _read_whole(module, ids)
        alone = _read_whole(module, ids[:_FIRST])
    except _REFUSALS as exc:
        if is_out_of_memory(exc):
            raise
        reason = (str(exc).strip().splitlines() or [type(exc).__name__])[0].rstrip(".")
        raise UnsupportedModel(
            f"{name} cannot be read as a language model: {reason}.", "Use another model."
        ) from exc
    # Numbers that are none are found, and told of, when a text is continued.
    if not _agree(whole[: len(alone)], alone) and bool(torch.isfinite(whole).all()):
        raise UnsupportedModel(
            f"{name} is not causal: what follows a token changes the logits before it.",
            "Use a model that was trained to continue texts.",
        )
    for positions in (True, False) if "position_ids" in takes else (False,):
        for several in (True, False):
            reading = Reading(cache=cache, positions=positions, several=several)
            if cache is not None and _reads_as(module, ids, whole, reading):
                return reading
    return Reading()


class Text:
    """A text that a model reads as it grows.

    Args:
        module: A transformers model in eval mode.
        reading: How it may be read.
    """

    def __init__(self, module: Any, reading: Reading) -> None:
        self._module = module
        self._reading = reading
        self._takes = inspect.signature(module.forward).parameters
        self._ids: list[int] = []
        self._cache: Any = None
        self._cached = 0

    def __len__(self) -> int:
        """How many tokens it has."""
        return len(self._ids)

    @torch.inference_mode()
    def append(self, ids: Sequence[int], *, every: bool = False) -> Tensor:
        """Read on.

        Args:
            ids: Tokens, one or more.
            every: Whether logits after each of them are wanted, or only after the last.

        Returns:
            Logits, [time or 1, vocab].
        """
        self._ids += ids
        wanted = len(ids) if every else 1
        if self._reading.cache is None:
            return _read_whole(self._module, self._ids, last=wanted)[-wanted:]
        # After a truncation there may be more to read than was given now.
        read: list[Tensor] = []
        while self._cached < len(self._ids):
            logits = self._read_piece(last=None if every else 1)
            read = [*read, logits] if every else [logits[-1:]]
        return torch.cat(read)[-wanted:]

    def truncate(self, length: int) -> None:
        """Keep the first ``length`` tokens; a cache that cannot be cut is made anew."""
        del self._ids[length:]
        excess = self._cached - length
        if excess <= 0:
            return
        if length and _can_crop(self._cache):
            self._cache.crop(-excess)
            self._cached = length
        else:
            self._cache, self._cached = None, 0

    def copied(self, length: int) -> Text:
        """Return the first ``length`` tokens as a text of its own."""
        text = Text(self._module, self._reading)
        text._ids = list(self._ids)
        # A cache that would not survive the cut need not be copied.
        if length >= self._cached or _can_crop(self._cache):
            text._cache, text._cached = copy.deepcopy(self._cache), self._cached
        text.truncate(length)
        return text

    def _read_piece(self, *, last: int | None) -> Tensor:
        """Bring the cache further; logits [time, vocab], or the last ones alone."""
        start = self._cached
        if self._reading.several:
            end = min(start + PIECE, len(self._ids))
        else:  # what is in no cache yet can be read at once, whatever its length
            end = start + 1 if start else len(self._ids)
        options: dict[str, Any] = {self._reading.cache or "": self._cache, "use_cache": True}
        if self._reading.positions:
            options["position_ids"] = torch.arange(start, end, device=self._module.device)[None]
        if last is not None and "logits_to_keep" in self._takes:
            options["logits_to_keep"] = last
        output = self._module(_batch(self._module, self._ids[start:end]), **options)
        self._cache = getattr(output, self._reading.cache or "")
        if self._cache is None:
            raise ValueError("a cache was asked for and none was given")
        self._cached = end
        logits: Tensor = output.logits[0]
        return logits


def _can_crop(cache: Any) -> bool:
    """Whether tokens can be taken off a cache's end.

    States that run through all tokens cannot go back, nor can a window that has dropped tokens;
    and a cache of a model's own may hold more than its layers say.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    if type(cache) is not DynamicCache:
        return False
    return all(
        type(layer) is DynamicLayer
        or (
            type(layer) is DynamicSlidingWindowLayer
            and layer.get_seq_length() < layer.sliding_window
        )
        for layer in cache.layers
    )


def _reads_as(module: Any, ids: list[int], whole: Tensor, reading: Reading) -> bool:
    """Whether a text read in pieces has the logits [time, vocab] of the text read whole."""
    ends = [_FIRST, _SECOND, *range(_SECOND + 1, len(ids) + 1)]
    text, start, read = Text(module, reading), 0, []
    try:
        for end in ends:
            if end <= len(ids):
                read.append(text.append(ids[start:end], every=True))
                start = end
    except _REFUSALS as exc:
        if is_out_of_memory(exc):
            raise
        return False
    return _known(text._cache, reading, precise=_precise(whole)) and (
        not read or _agree(torch.cat(read), whole[:start])
    )


def _known(cache: Any, reading: Reading, *, precise: bool) -> bool:
    """Whether a short text can show that a cache is right.

    Not of one that is made of an architecture's own layers: those that compress what they keep
    agree with the whole over a short text alone. And where numbers are rounded it does not show
    whether a running state takes several tokens at once; some leave out what came before.
    """
    layers = getattr(cache, "layers", ())
    if any(type(each).__module__ != "transformers.cache_utils" for each in layers):
        return False
    states = any(hasattr(each, "recurrent_states") for each in layers)
    return precise or not states or not reading.several


def _agree(found: Tensor, expected: Tensor) -> bool:
    """Whether logits [time, vocab] are the same up to rounding."""
    precise = _precise(expected)
    found, expected = found.float(), expected.float()
    apart = (found - expected) / expected.std().clamp_min(1e-30)
    if precise:
        return bool(apart.abs().max() <= _CLOSE)
    return bool(apart.square().mean(-1).sqrt().mean() <= _CLOSE_ROUNDED)


def _precise(logits: Tensor) -> bool:
    """Whether logits were computed with all of float32's digits."""
    return logits.dtype == torch.float32 and logits.device.type == "cpu"


@torch.inference_mode()
def _read_whole(module: Any, ids: Sequence[int], *, last: int | None = None) -> Tensor:
    """Logits [time, vocab], or the last ones alone, with no cache."""
    takes = inspect.signature(module.forward).parameters
    options: dict[str, Any] = {"use_cache": False} if "use_cache" in takes else {}
    if last is not None and "logits_to_keep" in takes:
        options["logits_to_keep"] = last
    logits: Tensor = module(_batch(module, ids), **options).logits[0]
    return logits


def probe_text(module: Any, length: int) -> list[int]:
    """So many tokens that are all different and no padding."""
    padding = getattr(module.config, "pad_token_id", None)
    size = int(module.get_input_embeddings().weight.shape[0])
    ids = [token for token in range(min(size, 4 * length + 16)) if token != padding]
    # From the far end: special tokens mostly stand first.
    return ids[::-3][:length] or [0]


def _batch(module: Any, ids: Sequence[int]) -> Tensor:
    return torch.tensor([list(ids)], device=module.device)
