"""Batches: each row's text is what it would be alone, whoever its neighbours are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.engine.batching import generate_batch
from llmcli.engine.generation import generate
from llmcli.engine.gpt2 import GPT2Decoder
from llmcli.engine.gpt2_weights import GPT2Weights
from llmcli.engine.params import SamplingParams, TokenEvent
from llmcli.engine.transcript import Prompt

EOS = [3, 7]


@pytest.fixture(scope="module")
def weights() -> GPT2Weights:
    config: Any = transformers.GPT2Config(
        n_layer=2, n_embd=32, n_head=4, n_positions=40, vocab_size=50
    )
    with torch.random.fork_rng():
        torch.manual_seed(11)
        module: Any = transformers.GPT2LMHeadModel(config)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        module.tie_weights()
    return GPT2Weights.from_module(module)


def _bytes(token: int) -> bytes:
    return bytes([48 + token])


@settings(max_examples=12, deadline=None)
@given(
    prompts=st.lists(st.lists(st.integers(0, 49), min_size=1, max_size=39), min_size=1, max_size=5),
    params=st.sampled_from(
        [
            SamplingParams(temperature=0, max_new_tokens=12),
            SamplingParams(seed=4, max_new_tokens=12, top_p=0.9, logprobs=1),
            SamplingParams(seed=5, max_new_tokens=None, stop=("5",)),
            SamplingParams(seed=6, max_new_tokens=8, num_return_sequences=3),
            SamplingParams(seed=7, max_new_tokens=50, overflow="slide"),
        ]
    ),
)
def test_each_row_is_what_it_would_be_alone(
    weights: GPT2Weights, prompts: list[list[int]], params: SamplingParams
) -> None:
    decoder = GPT2Decoder(weights)
    made = [Prompt(ids=tuple(ids)) for ids in prompts]
    records = [10 + 3 * place for place in range(len(made))]
    told: dict[tuple[int, int], list[TokenEvent]] = {}
    for place, event in generate_batch(
        decoder, made, params, token_bytes=_bytes, eos_ids=EOS, records=records
    ):
        told.setdefault((place, event.index), []).append(event)
    assert len(told) == len(made) * params.num_return_sequences
    for place, prompt in enumerate(made):
        alone: dict[int, list[TokenEvent]] = {}
        for event in generate(
            decoder, prompt, params, token_bytes=_bytes, eos_ids=EOS, record=records[place]
        ):
            alone.setdefault(event.index, []).append(event)
        for index, events in alone.items():
            for ours, theirs in zip(told[place, index], events, strict=True):
                assert (ours.token_id, ours.text, ours.finish_reason, ours.stop) == (
                    theirs.token_id,
                    theirs.text,
                    theirs.finish_reason,
                    theirs.stop,
                )


def test_finished_rows_leave_the_batch(weights: GPT2Weights) -> None:
    decoder = GPT2Decoder(weights)
    widths = []
    step = decoder.step

    def counted(tokens: list[int]) -> Any:
        widths.append(len(tokens))
        return step(tokens)

    decoder.step = counted  # type: ignore[method-assign, assignment]
    prompts = [Prompt(ids=tuple([5] * length)) for length in (38, 30, 20)]
    params = SamplingParams(temperature=0, max_new_tokens=None, ignore_eos=True)
    events = list(generate_batch(decoder, prompts, params, token_bytes=_bytes, eos_ids=EOS))
    assert widths == [3] * 1 + [2] * 8 + [1] * 10
    assert [e.finish_reason for _, e in events if e.finish_reason] == ["context"] * 3


def test_an_interrupt_ends_all(weights: GPT2Weights) -> None:
    asked = iter([False, False, True])
    prompts = [Prompt(ids=(1, 2)), Prompt(ids=(3,))]
    events = list(
        generate_batch(
            GPT2Decoder(weights),
            prompts,
            SamplingParams(seed=1),
            token_bytes=_bytes,
            should_stop=lambda: next(asked),
        )
    )
    assert [(place, e.finish_reason) for place, e in events[-2:]] == [
        (0, "interrupted"),
        (1, "interrupted"),
    ]
    assert len(events) == 6
