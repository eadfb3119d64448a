"""The Decoder over any causal language model of transformers, its forward and its cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from llmcli.engine.decoder import Floats
from llmcli.engine.params import SamplingParams
from llmcli.engine.reading import Reading, Text, find_reading
from llmcli.engine.row_stats import LogitStates
from llmcli.engine.sampling import check_logits


class TransformersDecoder(LogitStates):
    """Decodes with ``module(input_ids, past_key_values=...)``; see the Decoder protocol.

    Slots are decoded one model call each: exact for every architecture, where padding is not
    (not every model takes position ids or masks).

    Args:
        module: A transformers causal language model in eval mode.
        n_positions: The context; the most tokens a slot can hold.
        reading: How the model can be read; found out if it is not given.

    Raises:
        UnsupportedModel: It is not causal, or cannot be read at all.
    """

    rows_alike: int | None = 1
    weight_bytes: int | None = None
    kernels = "torch's operators"

    def __init__(self, module: Any, *, n_positions: int, reading: Reading | None = None) -> None:
        self._module = module
        self._n_positions = n_positions
        self._reading = reading or find_reading(
            module, name=str(module.config.model_type), n_positions=n_positions
        )
        self._slots: dict[int, Text] = {}
        self._next = 0

    @property
    def vocab_size(self) -> int:
        """How many logits a position has."""
        return int(self._module.get_output_embeddings().weight.shape[0])

    @property
    def n_positions(self) -> int:
        """The context."""
        return self._n_positions

    @property
    def threads(self) -> int:
        """How many threads torch takes."""
        return torch.get_num_threads()

    def open(self) -> int:
        """Take an empty slot."""
        slot, self._next = self._next, self._next + 1
        self._slots[slot] = Text(self._module, self._reading)
        return slot

    def close(self, slot: int) -> None:
        """Give a slot back."""
        del self._slots[slot]

    def length(self, slot: int) -> int:
        """How many tokens a slot holds."""
        return len(self._slots[slot])

    def truncate(self, slot: int, length: int) -> None:
        """Keep a slot's first ``length`` tokens."""
        self._slots[slot].truncate(length)

    def copy(self, source: int, target: int, length: int) -> int:
        """Make a slot hold the first ``length`` tokens of another."""
        self._slots[target] = self._slots[source].copied(length)
        return length

    def append(
        self,
        texts: Sequence[tuple[int, Sequence[int]]],
        *,
        prompt: bool = False,
        every: bool = False,
    ) -> Floats:
        """Append tokens to slots; logits [tokens or slots, vocab]."""
        read = [self._slots[slot].append(ids, every=every) for slot, ids in texts]
        logits = np.concatenate([each.float().cpu().numpy() for each in read])
        return cast("Floats", logits)


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
        min_length=params.min_length,
        length_penalty=params.length_penalty,
        early_stopping=params.early_stopping,
        eos_token_id=None if params.ignore_eos else list(eos_ids) or None,
        suppress_tokens=[*params.suppress_tokens, *(eos_ids if params.ignore_eos else ())] or None,
        begin_suppress_tokens=list(params.begin_suppress_tokens) or None,
        bad_words_ids=[list(each) for each in params.bad_words_ids] or None,
        sequence_bias=[[list(tokens), bias] for tokens, bias in params.sequence_bias] or None,
        forced_bos_token_id=list(params.forced_bos_token_id) or None,
        forced_eos_token_id=None if params.ignore_eos else list(params.forced_eos_token_id) or None,
        exponential_decay_length_penalty=params.exponential_decay_length_penalty,
        pad_token_id=eos_ids[0] if eos_ids else 0,
        **(
            {
                "temperature": params.temperature,
                "top_k": params.top_k,
                "top_p": params.top_p,
                "min_p": params.min_p,
                "typical_p": params.typical_p,
                "top_h": params.top_h,
                "epsilon_cutoff": params.epsilon_cutoff,
                "eta_cutoff": params.eta_cutoff,
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
    check_logits(scores.max(dim=-1).values.cpu().numpy(), ids.shape[1])
    return scores
