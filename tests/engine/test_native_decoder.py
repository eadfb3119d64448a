"""Our own decoder against transformers, and one arithmetic whatever the way to a token was."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_families import TINY, tiny

from llmcli.engine import families, native_decoder
from llmcli.engine.native.library import Precision, library
from llmcli.engine.native_decoder import NativeDecoder
from llmcli.engine.packed_model import PackedModel, pack
from llmcli.engine.slots import BLOCK

pytestmark = pytest.mark.skipif(library() is None, reason="the library was not built")

PRECISIONS: list[Precision] = ["float32", "bfloat16", "int8", "int4"]
# Among them all that could make a token depend on how it was reached.
VARIED = ["gpt2-quirks", "llama-quirks", "gemma3", "bloom", "phi", "falcon"]
TOKENS = [int(each) for each in np.random.default_rng(1).integers(3, 97, 60)]


@cache
def module(name: str) -> Any:
    return tiny(name)


@cache
def packed(name: str, precision: Precision = "float32") -> PackedModel:
    blueprint, names = families.describe(module(name).config.to_dict())
    weights = families.by_role(blueprint, names, module(name).state_dict())
    return PackedModel(blueprint, dict(pack(blueprint, weights, precision)))


def decoder(name: str, precision: Precision = "float32", threads: int | None = 1) -> NativeDecoder:
    return NativeDecoder(packed(name, precision), n_positions=64, threads=threads)


def alone(name: str, precision: Precision, tokens: list[int], prompt: int = 0) -> Any:
    """Logits after each token: the first ``prompt`` of them at once, the others one by one."""
    one = decoder(name, precision)
    slot = one.open()
    rows = [one.append([(slot, tokens[:prompt])], prompt=True, every=True)] if prompt else []
    rows += [one.append([(slot, [token])]) for token in tokens[prompt:]]
    return np.concatenate(rows)


@pytest.mark.parametrize("name", TINY)
def test_logits_are_transformers_at_every_position(name: str) -> None:
    with torch.no_grad():
        theirs = module(name)(torch.tensor([TOKENS])).logits[0].numpy()
    one = decoder(name)
    ours = one.append([(one.open(), TOKENS)], prompt=True, every=True)
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max(), rtol=0)
    assert one.vocab_size == theirs.shape[1]


@pytest.mark.parametrize("name", TINY)
def test_greedy_text_is_transformers(name: str) -> None:
    prompt, count = TOKENS[:9], 24
    theirs = module(name).generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    one = decoder(name)
    slot = one.open()
    logits = one.append([(slot, prompt)], prompt=True)
    ours = []
    for _ in range(count):
        ours.append(int(logits[0].argmax()))
        logits = one.append([(slot, ours[-1:])])
    assert ours == theirs[0, len(prompt) :].tolist()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["gpt2", "llama-quirks"])
def test_precisions_are_near_float32(name: str, precision: Precision) -> None:
    exact, near = (alone(name, each, TOKENS, 30) for each in ("float32", precision))
    distance = np.sqrt(np.mean((exact - near) ** 2)) / exact.std()
    assert distance <= {"float32": 0, "bfloat16": 0.02, "int8": 0.1, "int4": 0.6}[precision]


@given(
    name=st.sampled_from(VARIED),
    precision=st.sampled_from(PRECISIONS),
    lengths=st.lists(st.integers(1, 24), min_size=1, max_size=4),
    threads=st.integers(1, 3),
    seed=st.integers(0, 1 << 20),
)
@settings(max_examples=60)
def test_one_arithmetic(
    name: str, precision: Precision, lengths: list[int], threads: int, seed: int
) -> None:
    """Chunks, neighbours, threads, copied prefixes and roll-backs change no bit."""
    chance = random.Random(seed)
    many = decoder(name, precision, threads=threads)
    texts = [[chance.randrange(97) for _ in range(length)] for length in lengths]
    slots = [many.open() for _ in texts]
    found: list[list[Any]] = [[] for _ in texts]
    while left := [i for i, text in enumerate(texts) if len(found[i]) < len(text)]:
        step = []
        for i in chance.sample(left, chance.randint(1, len(left))):
            seen = len(found[i])
            step.append((i, texts[i][seen : seen + chance.randint(1, len(texts[i]) - seen)]))
        logits = many.append([(slots[i], ids) for i, ids in step], every=True)
        parts = np.split(logits, np.cumsum([len(ids) for _, ids in step])[:-1])
        for (i, _), part in zip(step, parts, strict=True):
            found[i] += list(part)
        if chance.random() < 0.3:  # back, to read it again
            i = step[0][0]
            del found[i][chance.randint(0, len(found[i])) :]
            many.truncate(slots[i], len(found[i]))
        if chance.random() < 0.3:  # into another slot, which goes on
            i = step[-1][0]
            copied = many.open()
            many._slots.copy(slots[i], copied, len(found[i]))
            many.close(slots[i])
            slots[i] = copied
    for text, rows in zip(texts, found, strict=True):
        np.testing.assert_array_equal(np.stack(rows), alone(name, precision, text))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_prompt_in_one_pass_or_in_several_is_the_same(
    precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _Long(precision)
    whole = model.read([model.tokens])
    pieces = model.read([model.tokens[:BLOCK], model.tokens[BLOCK : 3 * BLOCK], model.tokens[192:]])
    np.testing.assert_array_equal(pieces, whole)
    monkeypatch.setattr(native_decoder, "PASS_TOKENS", 100)
    np.testing.assert_array_equal(model.read([model.tokens]), whole)
    np.testing.assert_array_equal(model.after_copy(150), whole[150:])


class _Long:
    """A model with a context of some blocks, and a prompt of several."""

    def __init__(self, precision: Precision) -> None:
        made = tiny("llama-quirks", max_position_embeddings=512)
        blueprint, names = families.describe(made.config.to_dict())
        weights = families.by_role(blueprint, names, made.state_dict())
        self.model = PackedModel(blueprint, dict(pack(blueprint, weights, precision)))
        self.tokens = [int(each) for each in np.random.default_rng(2).integers(3, 97, 230)]

    def read(self, pieces: list[list[int]]) -> Any:
        one = NativeDecoder(self.model, n_positions=512, threads=2)
        slot, other = one.open(), one.open()
        rows = []
        for piece in pieces:
            texts = [(slot, piece), (other, piece[:7])]  # a neighbour that changes nothing
            rows.append(one.append(texts, prompt=True, every=True)[: len(piece)])
        return np.concatenate(rows)

    def after_copy(self, length: int) -> Any:
        """A prompt whose beginning another slot has read, as a prompt of its own."""
        one = NativeDecoder(self.model, n_positions=512, threads=1)
        first, second = one.open(), one.open()
        one.append([(first, [*self.tokens[:length], 5])], prompt=True)
        copied = one.copy(first, second, length)
        assert copied in (length, length - length % BLOCK)
        rows = one.append([(second, self.tokens[copied:])], prompt=True, every=True)
        return rows[length - copied :]


def test_states_and_scores_are_of_the_logits() -> None:
    one = decoder("gemma3", "int8")
    logits = one.append([(one.open(), TOKENS)], prompt=True, every=True)
    states = one.hidden([(one.open(), TOKENS)])
    np.testing.assert_array_equal(one.logits(states), logits)
    targets = [*TOKENS[1:], -1]
    scores = one.score(states, targets)
    exact = torch.tensor(logits, dtype=torch.float64)
    shares = exact.log_softmax(-1)
    np.testing.assert_allclose(scores["log_sum_exp"], exact.logsumexp(-1), atol=1e-5)
    np.testing.assert_allclose(scores["entropy"], -(shares.exp() * shares).sum(-1), atol=1e-5)
    np.testing.assert_array_equal(
        scores["target"][:-1], logits[np.arange(len(TOKENS) - 1), targets[:-1]]
    )


def test_what_does_not_fit_is_an_error_and_changes_nothing() -> None:
    one = decoder("llama")
    slot = one.open()
    for ids in ([], [1] * 65, [97], [-1]):
        with pytest.raises(ValueError, match=r"context|token"):
            one.append([(slot, ids)])
    assert one.length(slot) == 0
    with pytest.raises(ValueError, match="3 tokens of 0"):
        one.truncate(slot, 3)


def test_memory_is_committed_as_it_is_used_and_given_back() -> None:
    made = tiny("llama", max_position_embeddings=1 << 17, num_hidden_layers=8)
    blueprint, names = families.describe(made.config.to_dict())
    weights = families.by_role(blueprint, names, made.state_dict())
    model = PackedModel(blueprint, dict(pack(blueprint, weights, "float32")))
    one = NativeDecoder(model, n_positions=1 << 17, threads=1)
    before = _resident()
    slots = [one.open() for _ in range(32)]  # 2 GB if it were all committed
    for slot in slots:
        one.append([(slot, TOKENS)], prompt=True)
    used = _resident() - before
    assert used < 64 << 20
    for slot in slots:
        one.close(slot)
    assert _resident() - before < used / 2


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
