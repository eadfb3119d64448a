"""What was read before: found by its tokens, bounded, and never a bit of a difference."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_families import tiny

from llmcli.engine import families
from llmcli.engine.native.library import Precision, library
from llmcli.engine.native_decoder import NativeDecoder
from llmcli.engine.packed_model import PackedModel, pack
from llmcli.engine.params import SamplingParams, TokenEvent
from llmcli.engine.prefix_cache import PrefixCache
from llmcli.engine.scheduler import Request, Scheduler
from llmcli.engine.slots import BLOCK
from llmcli.engine.transcript import Prompt

native = pytest.mark.skipif(library() is None, reason="the library was not built")

PARAMS = SamplingParams(seed=1, max_new_tokens=70, ignore_eos=True, logprobs=2)


class Kept:
    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = list(tokens)
        self.closed = False

    def close(self) -> None:
        assert not self.closed
        self.closed = True


class Tokens:
    """Blocks whose keys and values are their tokens."""

    nbytes = 10

    def __init__(self) -> None:
        self.slots: dict[int, list[int]] = {}

    def whole(self, slot: int) -> int:
        return len(self.slots[slot]) // BLOCK

    def take_out(self, slot: int, block: int) -> Kept:
        return Kept(self.slots[slot][block * BLOCK : (block + 1) * BLOCK])

    def put_in(self, slot: int, blocks: Sequence[Kept]) -> None:
        assert not any(block.closed for block in blocks)
        self.slots[slot] = [token for block in blocks for token in block.tokens]


texts = st.lists(st.integers(0, 2), min_size=0, max_size=5).map(
    # Texts of whole and broken blocks that often begin alike.
    lambda kinds: [token for kind in kinds for token in [kind] * BLOCK][: len(kinds) * BLOCK - 3]
)


@given(capacity=st.integers(0, 80), given=st.lists(texts, max_size=20))
def test_what_is_found_is_what_was_read(capacity: int, given: list[list[int]]) -> None:
    blocks = Tokens()
    kept = PrefixCache(blocks, capacity)
    for text in given:
        prompt = [*text, 7]
        length = kept.length(prompt)
        assert length % BLOCK == 0
        blocks.slots[0] = []
        assert kept.fill(0, prompt) == length
        assert blocks.slots[0] == prompt[:length]
        blocks.slots[1] = text
        kept.keep(1, text)
        assert kept.nbytes <= capacity
        # The latest is there, as far as it fits.
        whole = min(len(text) // BLOCK, capacity // 10)
        assert kept.length([*text, 7]) == whole * BLOCK


def test_the_latest_used_stay() -> None:
    blocks, kept = Tokens(), None
    kept = PrefixCache(blocks, 30)
    first, second, third = ([token] * BLOCK for token in (1, 2, 3))
    for slot, text in enumerate((first + second, third)):
        blocks.slots[slot] = text
        kept.keep(slot, text)
    kept.fill(9, [*first, 0])  # the beginning is used again, what follows it is not
    blocks.slots[5] = [4] * BLOCK
    kept.keep(5, blocks.slots[5])
    found = [kept.length([*text, 0]) for text in (first + second, first, third, [4] * BLOCK)]
    assert found == [BLOCK, BLOCK, BLOCK, BLOCK]


def test_a_prompts_last_token_is_always_read() -> None:
    """Logits come of it."""
    blocks = Tokens()
    kept = PrefixCache(blocks, 100)
    blocks.slots[0] = [1] * (2 * BLOCK)
    kept.keep(0, blocks.slots[0])
    assert kept.length([1] * (2 * BLOCK)) == BLOCK
    assert kept.length([1] * (2 * BLOCK + 1)) == 2 * BLOCK


@cache
def model(precision: Precision) -> PackedModel:
    made = tiny("llama-quirks", max_position_embeddings=512)
    blueprint, names = families.describe(made.config.to_dict())
    weights = families.by_role(blueprint, names, made.state_dict())
    return PackedModel(blueprint, dict(pack(blueprint, weights, precision)))


class Runs:
    """A scheduler over a model, with a cache of so many blocks."""

    def __init__(self, precision: Precision, blocks: int, slots: int) -> None:
        self.decoder = NativeDecoder(model(precision), n_positions=512, threads=1)
        self.cache = PrefixCache(self.decoder.blocks, blocks * self.decoder.blocks.nbytes)
        self.scheduler = Scheduler(
            self.decoder,
            token_bytes=lambda token: bytes([token]),
            slots=slots,
            cache=self.cache,
            scoring=self.decoder,
        )

    def run(self, prompts: Sequence[Sequence[int]], **how: Any) -> list[tuple[int, list[Any]]]:
        """How many tokens were not read anew, and what came of it, for each prompt."""
        handles = [
            self.scheduler.submit(Request(prompt=Prompt(ids=tuple(ids)), params=PARAMS, **how))
            for ids in prompts
        ]
        while self.scheduler.busy:
            self.scheduler.step()
        return [
            (handle.shared_tokens, [*handle.prompt_tokens, *handle.events]) for handle in handles
        ]


@cache
def alone(precision: Precision, ids: tuple[int, ...]) -> list[Any]:
    [(_, events)] = Runs(precision, 0, 1).run([ids])
    return events


def continued(ids: Sequence[int], events: Sequence[TokenEvent]) -> list[int]:
    return [*ids, *(event.token_id for event in events if event.token_id is not None)]


@native
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_a_hit_changes_no_bit(precision: Precision) -> None:
    """Log-probabilities and all: beginnings shared, conversations that go on, a cache too small."""
    chance = random.Random(3)
    base = [chance.randrange(3, 97) for _ in range(200)]
    runs = Runs(precision, 6, 2)
    hits = 0
    for _ in range(4):
        prompts = [
            [*base[: chance.choice([20, 64, 65, 130, 200])], *chance.choices(range(3, 97), k=k)]
            for k in (1, 40, 100)
        ]
        turns = [continued(ids, alone(precision, tuple(ids))) for ids in prompts[:2]]
        for wanted in (prompts, [[*turn, 5] for turn in turns]):
            for ids, (shared, events) in zip(wanted, runs.run(wanted), strict=True):
                hits += shared > 0
                assert events == alone(precision, tuple(ids))
        assert runs.cache.nbytes <= runs.cache.capacity
        assert runs.cache.nbytes
    assert hits >= 8
    # No slot is kept when nobody uses it.
    runs.scheduler.close()
    assert not runs.decoder._slots._lengths


@native
def test_the_next_turn_costs_only_itself() -> None:
    ids = [token % 90 + 3 for token in range(150)]
    runs = Runs("float32", 50, 1)
    [(first, events)] = runs.run([ids])
    [(second, _)] = runs.run([continued(ids, events)])
    assert first == 0
    assert second == (len(ids) + 70 - 1) // BLOCK * BLOCK


@native
@settings(max_examples=15)
@given(length=st.integers(1, 300), warm=st.integers(0, 300))
def test_a_prompt_that_is_told_is_read(length: int, warm: int) -> None:
    """Its tokens' log-probabilities do not depend on what is kept, nor on where it was cut."""
    ids = [token * 7 % 90 + 3 for token in range(300)]
    runs = Runs("float32", 50, 1)
    if warm:
        runs.run([ids[:warm]])
    [(_, told)] = runs.run([ids[:length]], prompt_logprobs=1, prompt_only=True)
    [(_, expected)] = Runs("float32", 0, 1).run([ids], prompt_logprobs=1, prompt_only=True)
    assert told[:length] == expected[:length]
    assert told[-1].finish_reason == "length"
    assert [each.id for each in told[:length]] == ids[:length]


@native
def test_texts_are_kept_a_block_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that none under way waits for a long one; meanwhile that one's beginning is at hand."""
    ids = [token % 90 + 3 for token in range(300)]
    runs = Runs("float32", 50, 2)
    scheduler, copied = runs.scheduler, 0
    take_out = runs.cache._blocks.take_out

    def counted(slot: int, block: int) -> Any:
        nonlocal copied
        copied += 1
        return take_out(slot, block)

    monkeypatch.setattr(runs.cache._blocks, "take_out", counted)
    going_on = scheduler.submit(Request(prompt=Prompt(ids=(5,)), params=PARAMS))
    scheduler.step()
    long = Request(prompt=Prompt(ids=tuple(ids)), params=PARAMS, prompt_only=True)
    handle = scheduler.submit(long)
    while not handle.finished:
        scheduler.step()
    assert not copied
    again = scheduler.submit(Request(prompt=Prompt(ids=(*ids, 9)), params=PARAMS))
    for step in range(1, 5):
        scheduler.step()
        assert copied == step
    assert again.shared_tokens == 300
    assert not going_on.finished
    assert len(runs.decoder._slots._lengths) == 2
    while scheduler.busy:
        scheduler.step()
    assert not runs.decoder._slots._lengths
