"""The Decoder over any causal language model of transformers, its forward and its cache."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from llmcli.engine.generation import check_logits
from llmcli.engine.params import SamplingParams

# Prompts are read in pieces of this many tokens, so that memory does not grow with the square
# of the prompt and an interrupt is noticed in between.
PREFILL_TOKENS = 512


class TransformersDecoder:
    """Decodes with ``module(input_ids, past_key_values=...)``; see the Decoder protocol.

    Rows of different lengths are decoded one model call each: exact for every architecture,
    where padding is not (not every model takes position ids or masks).

    Args:
        module: A transformers causal language model in eval mode.
        n_positions: The context; the most tokens a row can hold.
    """

    def __init__(self, module: Any, *, n_positions: int) -> None:
        self._module = module
        self._n_positions = n_positions
        self._rows: list[_Row] = []
        self._keeps_logits = "logits_to_keep" in inspect.signature(module.forward).parameters

    @property
    def vocab_size(self) -> int:
        """How many logits a position has."""
        return int(self._module.get_output_embeddings().weight.shape[0])

    @property
    def n_positions(self) -> int:
        """The context."""
        return self._n_positions

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens in the cache, a number for each row."""
        return tuple(len(row.ids) for row in self._rows)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Read the prompts afresh; logits [batch, vocab]."""
        self._rows = [_Row([], None) for _ in prompts]
        return torch.cat(
            [self._read(row, ids)[:, -1] for row, ids in zip(self._rows, prompts, strict=True)]
        )

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Append a token to each row; logits [batch, vocab]."""
        return torch.cat(
            [self._read(row, [token])[:, -1] for row, token in zip(self._rows, tokens, strict=True)]
        )

    def extend(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Append tokens to each row; logits [batch, time, vocab]."""
        pairs = zip(self._rows, tokens, strict=True)
        return torch.cat([self._read(row, ids, keep_all=True) for row, ids in pairs])

    def rollback(self, lengths: Sequence[int]) -> None:
        """Keep the first ``lengths[row]`` tokens of each row."""
        for row, length in zip(self._rows, lengths, strict=True):
            if length == len(row.ids):
                continue
            kept = row.ids[:length]
            if row.cache is not None and _can_crop(row.cache) and length:
                row.cache.crop(length)
                row.ids = kept
            else:  # a sliding or recurrent cache cannot go back: read the rest again
                row.ids, row.cache = [], None
                if kept:
                    self._read(row, kept)

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order."""
        import copy

        taken: set[int] = set()
        selected = []
        for index in rows:
            row = self._rows[index]
            selected.append(copy.deepcopy(row) if index in taken else row)
            taken.add(index)
        self._rows = selected

    @torch.inference_mode()
    def _read(self, row: _Row, ids: Sequence[int], *, keep_all: bool = False) -> Tensor:
        """Append ids to a row; float32 logits [1, time, vocab] (time 1 unless ``keep_all``)."""
        kept: list[Tensor] = []
        for start in range(0, len(ids), PREFILL_TOKENS):
            piece = list(ids[start : start + PREFILL_TOKENS])
            options = {"logits_to_keep": 1} if self._keeps_logits and not keep_all else {}
            output = self._module(
                torch.tensor([piece], device=self._module.device),
                past_key_values=row.cache,
                use_cache=True,
                **options,
            )
            row.cache = output.past_key_values
            row.ids = [*row.ids, *piece]
            logits = output.logits.float()
            kept = [*kept, logits] if keep_all else [logits[:, -1:]]
        return torch.cat(kept, dim=1)


class _Row:
    def __init__(self, ids: list[int], cache: Any) -> None:
        self.ids = ids
        self.cache = cache


def _can_crop(cache: Any) -> bool:
    layers = getattr(cache, "layers", None) or []
    return bool(layers) and not any(
        getattr(layer, "is_sliding", False) or not hasattr(layer, "crop") for layer in layers
    )


@torch.inference_mode()
def beam_search(
    module: Any,
    prompt: Sequence[int],
    params: SamplingParams,
    *,
    max_new_tokens: int,
    eos_ids: Sequence[int],
    should_stop: Callable[[], bool] = bool,
) -> list[list[int]]:
    """Return ``num_return_sequences`` continuations by transformers' own beam search.

    Args:
        module: A transformers causal language model.
        prompt: Token ids.
        params: Settings; ``num_beams`` is at least ``num_return_sequences``.
        max_new_tokens: How many tokens at most.
        eos_ids: The ids that end a text.
        should_stop: Asked once a step; true ends the search with the best so far.

    Returns:
        Token ids of each continuation, best first, an end token that was drawn included.

    Raises:
        NumericalError: the logits are NaN or infinite.
    """
    ids = torch.tensor([list(prompt)], device=module.device)
    config = _beam_config(params, max_new_tokens=max_new_tokens, eos_ids=eos_ids)
    with torch.random.fork_rng(devices=[]), _own_settings_only(module):
        torch.manual_seed(params.seed or 0)
        output = module.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=config,
            logits_processor=[_check_beams],
            stopping_criteria=[
                lambda ids, scores: torch.full((len(ids),), should_stop(), device=ids.device)
            ],
        )
    continuations = []
    for row in output[:, len(prompt) :].tolist():
        ends = [row.index(token) for token in eos_ids if token in row and not params.ignore_eos]
        continuations.append(row[: min(ends) + 1] if ends else row)
    return continuations


def _beam_config(params: SamplingParams, *, max_new_tokens: int, eos_ids: Sequence[int]) -> Any:
    from transformers import GenerationConfig

    sampled = not params.greedy
    return GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=max_new_tokens,
        min_new_tokens=params.min_new_tokens,
        num_beams=params.num_beams,
        num_return_sequences=params.num_return_sequences,
        do_sample=sampled,
        repetition_penalty=params.repetition_penalty,
        no_repeat_ngram_size=params.no_repeat_ngram_size,
        eos_token_id=None if params.ignore_eos else list(eos_ids) or None,
        suppress_tokens=list(eos_ids) if params.ignore_eos and eos_ids else None,
        pad_token_id=eos_ids[0] if eos_ids else 0,
        **(
            {
                "temperature": params.temperature,
                "top_k": params.top_k,
                "top_p": params.top_p,
                "min_p": params.min_p,
                "typical_p": params.typical_p,
            }
            if sampled
            else {}
        ),
    )


@contextmanager
def _own_settings_only(module: Any) -> Iterator[None]:
    """Keep transformers from filling what we leave out from the model's generation_config."""
    from transformers import GenerationConfig

    before = module.generation_config
    module.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        module.generation_config = before


def _check_beams(ids: Tensor, scores: Tensor) -> Tensor:
    """A logits processor that changes nothing: scores [beams, vocab] must be numbers."""
    check_logits(scores.max(dim=-1).values, ids.shape[1])
    return scores
