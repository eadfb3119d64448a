"""The decoding loop: the same tokens as transformers, the right end in every case."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_decoder import ToyDecoder

from llmcli.api import load
from llmcli.engine.decoder import Floats
from llmcli.engine.generation import generate
from llmcli.engine.in_order import in_order, refused
from llmcli.engine.pace import Pace
from llmcli.engine.params import SamplingParams, TokenEvent
from llmcli.engine.sampling import check_logits, top_tokens
from llmcli.engine.scheduler import Request, Scheduler
from llmcli.engine.transcript import Prompt
from llmcli.engine.transformers_decoder import TransformersDecoder
from llmcli.errors import ContextOverflow, InvalidInput, NumericalError
from llmcli.models.language_model import LanguageModel
from llmcli.tasks.generate import continue_text
from llmcli.tasks.prompts import fit_prompt, sampling_params

TEXT = "Once upon a time there was a little fox"


@pytest.fixture(scope="module")
def gpt2(tiny_gpt2: Path) -> LanguageModel:
    return load(str(tiny_gpt2), threads=1)


@pytest.fixture(scope="module")
def llama(tiny_llama: Path) -> LanguageModel:
    return load(str(tiny_llama), threads=1)


@pytest.fixture(scope="module", params=["tiny_gpt2", "tiny_llama", "tiny_neox"])
def any_model(request: pytest.FixtureRequest) -> LanguageModel:
    return load(str(request.getfixturevalue(request.param)), threads=1)


def events_of(model: LanguageModel, text: str = TEXT, **given: Any) -> list[TokenEvent]:
    options = {name: given.pop(name) for name in ("heal", "bos", "should_stop") if name in given}
    return list(continue_text(model, text, sampling_params(model, given), **options).events)


def tokens(events: Sequence[TokenEvent], index: int = 0) -> list[int]:
    return [e.token_id for e in events if e.index == index and e.token_id is not None]


def text_of(events: Sequence[TokenEvent], index: int = 0) -> str:
    return "".join(e.text for e in events if e.index == index)


@torch.inference_mode()
def by_transformers(model: LanguageModel, text: str, **options: Any) -> list[list[int]]:
    ids = torch.tensor([model.tokenizer.ids(text)])
    mask = torch.ones_like(ids)
    output = model.module.generate(ids, attention_mask=mask, pad_token_id=0, **options)
    rows: list[list[int]] = output[:, ids.shape[1] :].tolist()
    return rows


# -- agreement with transformers -----------------------------------------------------------


def test_greedy_equals_transformers(any_model: LanguageModel) -> None:
    events = events_of(any_model, temperature=0, max_new_tokens=40)
    [expected] = by_transformers(any_model, TEXT, do_sample=False, max_new_tokens=40)
    assert tokens(events) == expected
    assert len(expected) == 40


def test_greedy_over_transformers_own_forward(gpt2: LanguageModel) -> None:
    """GPT-2 has a decoder of its own; the general one says the same."""
    decoder = TransformersDecoder(gpt2.module, n_positions=gpt2.n_positions)
    prompt = Prompt(ids=tuple(gpt2.tokenizer.ids(TEXT)))
    params = SamplingParams(temperature=0, max_new_tokens=40)
    events = list(generate(decoder, prompt, params, token_bytes=gpt2.tokenizer.token_bytes))
    assert tokens(events) == tokens(events_of(gpt2, temperature=0, max_new_tokens=40))


def test_greedy_with_penalties_equals_transformers(any_model: LanguageModel) -> None:
    shaping: dict[str, Any] = {
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 2,
        "min_new_tokens": 10,
    }
    events = events_of(any_model, temperature=0, max_new_tokens=30, **shaping)
    [expected] = by_transformers(
        any_model, TEXT, do_sample=False, max_new_tokens=30, eos_token_id=0, **shaping
    )
    assert tokens(events) == expected


# -- one token at a time --------------------------------------------------------------------


def test_the_texts_joined_are_the_tokens_bytes(any_model: LanguageModel) -> None:
    """A character spread over tokens comes out whole (and an unfinished one at the end)."""
    for seed in range(5):
        events = events_of(any_model, seed=seed, temperature=1.0, top_p=1.0, max_new_tokens=30)
        drawn = [t for t in tokens(events) if t != 0]
        assert text_of(events) == any_model.tokenizer.decode_bytes(drawn).decode("utf-8", "replace")


def test_logprobs_are_the_models_own_and_the_drawn_ones(gpt2: LanguageModel) -> None:
    events = events_of(
        gpt2,
        seed=3,
        temperature=0.7,
        top_k=20,
        top_p=1.0,
        logprobs=4,
        max_new_tokens=12,
        ignore_eos=True,
    )
    ids = gpt2.tokenizer.ids(TEXT)
    start = len(ids)
    with torch.inference_mode():
        logits = gpt2.module(torch.tensor([ids + tokens(events)])).logits[0].double()
    for position, event in enumerate(events):
        row = logits[start - 1 + position].clone()
        own = row.log_softmax(-1)
        assert event.logprob == pytest.approx(own[event.token_id].item(), abs=1e-4)
        row[0] = -math.inf
        kept = row.masked_fill(row < row.topk(20).values[-1], -math.inf) / 0.7
        drawn = kept.log_softmax(-1)[event.token_id].item()
        assert event.sampled_logprob == pytest.approx(drawn, abs=1e-4)
        assert [top.id for top in event.top] == own.topk(4).indices.tolist()


def test_greedy_draws_with_certainty(gpt2: LanguageModel) -> None:
    events = events_of(gpt2, temperature=0, logprobs=1, max_new_tokens=3)
    assert [event.sampled_logprob for event in events] == [0.0, 0.0, 0.0]
    assert [event.logprob for event in events] == [event.top[0].logprob for event in events]


def test_top_tokens_never_exceed_the_vocabulary() -> None:
    assert len(top_tokens(np.zeros(3, np.float32), 10)) == 3
    assert top_tokens(np.zeros(3, np.float32), 0) == ()


# -- seeds ------------------------------------------------------------------------------------


def test_a_seed_is_a_text(gpt2: LanguageModel) -> None:
    one = events_of(gpt2, seed=7, temperature=1.0, max_new_tokens=20)
    assert events_of(gpt2, seed=7, temperature=1.0, max_new_tokens=20) == one
    assert events_of(gpt2, seed=8, temperature=1.0, max_new_tokens=20) != one


def test_a_seed_is_drawn_and_told(gpt2: LanguageModel) -> None:
    seeds = {sampling_params(gpt2, {}).seed for _ in range(4)}
    assert len(seeds) > 1
    assert None not in seeds


@pytest.mark.parametrize("overflow", ["error", "slide"])
def test_sequences_do_not_depend_on_their_number(gpt2: LanguageModel, overflow: str) -> None:
    """Not on what came before either: with "slide" the context is lost and read again."""
    asked: dict[str, Any] = {
        "seed": 5,
        "temperature": 1.0,
        "ignore_eos": True,
        "overflow": overflow,
    }
    length = 80 if overflow == "slide" else 15
    one = events_of(gpt2, max_new_tokens=length, **asked)
    three = events_of(gpt2, max_new_tokens=length, num_return_sequences=3, **asked)
    assert [event for event in three if event.index == 0] == one
    texts = {text_of(three, index) for index in range(3)}
    assert len(texts) == 3
    two = events_of(gpt2, max_new_tokens=length, num_return_sequences=2, **asked)
    assert [event for event in three if event.index < 2] == two


def test_record_number_is_part_of_the_seed(gpt2: LanguageModel) -> None:
    prompt = Prompt(ids=tuple(gpt2.tokenizer.ids(TEXT)))
    params = SamplingParams(seed=1, max_new_tokens=15)
    texts = {
        text_of(
            list(
                generate(
                    gpt2.decoder(),
                    prompt,
                    params,
                    token_bytes=gpt2.tokenizer.token_bytes,
                    record=record,
                )
            )
        )
        for record in (0, 1, 2)
    }
    assert len(texts) == 3


# -- how it ends ------------------------------------------------------------------------------


def test_length(gpt2: LanguageModel) -> None:
    events = events_of(gpt2, temperature=0, max_new_tokens=5)
    assert [e.finish_reason for e in events] == [None] * 4 + ["length"]


def test_the_full_context_ends_it(gpt2: LanguageModel) -> None:
    prompt = len(gpt2.tokenizer.ids(TEXT))
    events = events_of(gpt2, temperature=0, max_new_tokens=None, ignore_eos=True)
    assert events[-1].finish_reason == "context"
    assert prompt + len(tokens(events)) == gpt2.n_positions == 64


def test_exactly_to_the_end_is_length(gpt2: LanguageModel) -> None:
    room = 64 - len(gpt2.tokenizer.ids(TEXT))
    events = events_of(gpt2, temperature=0, max_new_tokens=room, ignore_eos=True)
    assert events[-1].finish_reason == "length"


@pytest.fixture
def ends_with(gpt2: LanguageModel) -> Iterator[Callable[[int], None]]:
    """Make a token the model's end-of-text token."""

    def end(token: int) -> None:
        gpt2.__dict__["eos_ids"] = (token,)

    yield end
    gpt2.__dict__.pop("eos_ids", None)


def test_eos_ends_and_says_nothing(gpt2: LanguageModel, ends_with: Callable[[int], None]) -> None:
    plain = events_of(gpt2, temperature=0, max_new_tokens=10)
    fourth = tokens(plain)[3]
    assert fourth not in tokens(plain)[:3]
    ends_with(fourth)
    events = events_of(gpt2, temperature=0, max_new_tokens=10)
    assert events[-1].finish_reason == "eos"
    assert tokens(events) == tokens(plain)[:4]
    data = gpt2.tokenizer.decode_bytes(tokens(plain)[:3])
    assert text_of(events) == data.decode("utf-8", "replace")


def test_eos_is_put_off(gpt2: LanguageModel, ends_with: Callable[[int], None]) -> None:
    ends_with(tokens(events_of(gpt2, temperature=0, max_new_tokens=1))[0])
    assert len(tokens(events_of(gpt2, temperature=0, max_new_tokens=8))) == 1
    later = events_of(gpt2, temperature=0, max_new_tokens=8, min_new_tokens=4)
    assert len(tokens(later)) > 4
    never = events_of(gpt2, temperature=0, max_new_tokens=8, ignore_eos=True)
    assert never[-1].finish_reason == "length"


def test_a_stop_string_over_several_tokens(llama: LanguageModel) -> None:
    plain = events_of(llama, temperature=0, max_new_tokens=30)
    text = text_of(plain)
    stop = text[8:13]
    at = text.index(stop)
    events = events_of(llama, temperature=0, max_new_tokens=30, stop=(stop,))
    assert text_of(events) == text[:at]
    assert (events[-1].finish_reason, events[-1].stop) == ("stop", stop)
    kept = events_of(llama, temperature=0, max_new_tokens=30, stop=(stop,), keep_stop=True)
    assert text_of(kept) == text[: at + len(stop)]
    assert len(tokens(events)) < len(tokens(plain))


@settings(max_examples=25)
@given(seed=st.integers(0, 30), start=st.integers(0, 15), length=st.integers(1, 6))
def test_no_stop_string_ever_leaks(gpt2: LanguageModel, seed: int, start: int, length: int) -> None:
    asked: dict[str, Any] = {
        "seed": seed,
        "temperature": 1.0,
        "max_new_tokens": 12,
        "ignore_eos": True,
    }
    text = text_of(events_of(gpt2, **asked))
    stop = text[start : start + length] or text[:1]
    events = events_of(gpt2, stop=(stop,), **asked)
    assert text_of(events) == text[: text.index(stop)]
    so_far = ""
    for event in events:
        so_far += event.text
        assert stop not in so_far


def test_half_a_character_may_be_the_stop_string(gpt2: LanguageModel) -> None:
    """U+FFFD for an unfinished character counts as text, also where it is the last."""
    lead = next(t for t in range(400) if gpt2.tokenizer.token_bytes(t) == b"\xf0")
    bias = ((lead, 1000.0),)
    events = events_of(gpt2, logit_bias=bias, temperature=0, max_new_tokens=1)
    assert (text_of(events), events[-1].finish_reason) == ("�", "length")
    events = events_of(gpt2, logit_bias=bias, temperature=0, max_new_tokens=1, stop=("�",))
    assert (text_of(events), events[-1].finish_reason, events[-1].stop) == ("", "stop", "�")


def test_interruption_keeps_what_was_made(gpt2: LanguageModel) -> None:
    asked: list[int] = []

    def third_time() -> bool:
        asked.append(1)
        return len(asked) > 3

    plain = events_of(gpt2, temperature=0, max_new_tokens=10)
    events = events_of(
        gpt2, temperature=0, max_new_tokens=10, should_stop=third_time, stop=("never",)
    )
    assert events[-1].finish_reason == "interrupted"
    assert events[-1].token_id is None
    assert tokens(events) == tokens(plain)[:3]
    data = gpt2.tokenizer.decode_bytes(tokens(events))
    assert text_of(events) == data.decode("utf-8", "replace")


def test_interruption_ends_all_sequences(gpt2: LanguageModel) -> None:
    events = events_of(
        gpt2, temperature=1.0, max_new_tokens=10, num_return_sequences=3, should_stop=lambda: True
    )
    assert [(e.index, e.finish_reason) for e in events] == [(0, "interrupted")]


# -- the context ------------------------------------------------------------------------------


@given(
    length=st.integers(1, 40),
    n_positions=st.integers(2, 30),
    asked=st.none() | st.integers(1, 60),
    overflow=st.sampled_from(["error", "left", "middle", "slide"]),
    room=st.integers(0, 1),
)
@settings(max_examples=300)
def test_prompts_are_fitted(
    length: int, n_positions: int, asked: int | None, overflow: Any, room: int
) -> None:
    ids = list(range(length))
    if overflow == "error" and length > n_positions - room:
        with pytest.raises(ContextOverflow, match=f"{length} tokens.*holds {n_positions}"):
            fit_prompt(
                ids,
                n_positions=n_positions,
                max_new_tokens=asked,
                overflow=overflow,
                room=room,
            )
        return
    kept, dropped = fit_prompt(
        ids, n_positions=n_positions, max_new_tokens=asked, overflow=overflow, room=room
    )
    assert len(kept) + dropped == length
    assert 1 <= len(kept) <= n_positions - room
    assert kept[-1] == ids[-1]
    if not dropped:
        assert kept == ids
    elif overflow == "middle" and len(kept) > 1:
        assert kept[0] == 0
        gaps = [b - a for a, b in pairwise(kept) if b - a != 1]
        assert gaps == [dropped + 1]
    else:
        assert kept == ids[dropped:]
    if overflow in ("left", "middle") and asked is not None and asked < n_positions and room:
        assert len(kept) + asked <= n_positions or length + asked <= n_positions


def test_nothing_is_dropped_without_need() -> None:
    for overflow in ("left", "middle", "slide"):
        kept, dropped = fit_prompt(range(10), n_positions=64, max_new_tokens=54, overflow=overflow)
        assert (kept, dropped) == (list(range(10)), 0)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(InvalidInput, match="empty"):
        fit_prompt([], n_positions=10, max_new_tokens=1, overflow="left")


def test_slide_reads_the_newer_half_again(gpt2: LanguageModel) -> None:
    """After the context is full, each token follows from at most n_positions before it."""
    events = events_of(gpt2, temperature=0, max_new_tokens=150, overflow="slide", ignore_eos=True)
    drawn = tokens(events)
    assert len(drawn) == 150
    assert events[-1].finish_reason == "length"
    context = gpt2.tokenizer.ids(TEXT)
    prompt, dropped = len(context), 0
    for token in drawn:
        if len(context) > 64:
            dropped += len(context) - 32
            context = context[-32:]
        with torch.inference_mode():
            logits = gpt2.module(torch.tensor([context])).logits[0, -1]
            logits[0] = -math.inf
        assert logits[token] >= logits.max() - 1e-4
        context.append(token)
    assert dropped
    assert events[-1].dropped_tokens == dropped
    assert prompt + 150 - dropped == len(context)


def test_a_long_prompt_under_left_is_its_end(gpt2: LanguageModel) -> None:
    text = TEXT * 10
    ids = gpt2.tokenizer.ids(text)
    asked: dict[str, Any] = {"temperature": 0, "max_new_tokens": 20}
    with pytest.raises(ContextOverflow, match=f"has {len(ids)} tokens; the context holds 64"):
        events_of(gpt2, text, **asked)
    continuation = continue_text(gpt2, text, sampling_params(gpt2, {**asked, "overflow": "left"}))
    assert continuation.prompt_tokens == len(ids)
    assert continuation.dropped_tokens == len(ids) - 44
    events = list(continuation.events)
    assert len(tokens(events)) == 20
    assert {event.dropped_tokens for event in events} == {len(ids) - 44}


# -- healing ----------------------------------------------------------------------------------


def test_healing_divides_the_last_token_anew(any_model: LanguageModel) -> None:
    """The first token begins with the text that was taken back, which is not told twice."""
    text = "Once upon a ti"
    ids = any_model.tokenizer.ids(text)
    removed = any_model.tokenizer.token_bytes(ids[-1])
    for seed in range(8):
        events = events_of(any_model, text, heal=True, seed=seed, temperature=1.0, max_new_tokens=3)
        first, *rest = tokens(events)
        assert any_model.tokenizer.token_bytes(first).startswith(removed)
        whole = any_model.tokenizer.decode_bytes([*ids[:-1], first, *(t for t in rest if t)])
        assert text + text_of(events) == whole.decode("utf-8", "replace")


def test_healing_leaves_a_prompt_of_one_token(gpt2: LanguageModel) -> None:
    [_] = gpt2.tokenizer.ids("a")
    plain = events_of(gpt2, "a", temperature=0, max_new_tokens=3)
    assert events_of(gpt2, "a", heal=True, temperature=0, max_new_tokens=3) == plain


def test_healing_leaves_a_control_token(gpt2: LanguageModel) -> None:
    params = sampling_params(gpt2, {"temperature": 0, "max_new_tokens": 3})
    text = "The end<|endoftext|>"
    plain = continue_text(gpt2, text, params, special="allow")
    healed = continue_text(gpt2, text, params, special="allow", heal=True)
    assert list(healed.events) == list(plain.events)


def test_a_control_token_without_a_row_is_refused(tiny_neox: Path) -> None:
    """transformers gives this tokenizer a padding token that the embedding does not have."""
    model = load(str(tiny_neox), threads=1)
    rows = model.config["vocab_size"]
    assert model.tokenizer.vocab_size > rows
    token = model.tokenizer.token_string(rows)
    params = sampling_params(model, {"max_new_tokens": 2})
    assert list(continue_text(model, token, params).events)
    with pytest.raises(InvalidInput, match="no row for the special token"):
        continue_text(model, token, params, special="allow")


def test_bos_starts_from_nothing(gpt2: LanguageModel) -> None:
    events = events_of(gpt2, "", bos=True, temperature=0, max_new_tokens=3)
    with torch.inference_mode():
        logits = gpt2.module(torch.tensor([[0]])).logits[0, -1]
    assert tokens(events)[0] == logits.argmax().item()


# -- settings that cannot be ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"temperature": 0, "num_return_sequences": 2}, "all be the same"),
        ({"num_beams": 2, "num_return_sequences": 3}, "above num_beams"),
        ({"num_beams": 2, "logprobs": 0}, "logprobs does not work"),
        ({"num_beams": 2, "overflow": "slide"}, "slide does not work"),
        ({"num_beams": 2, "heal": True}, "Healing does not work"),
    ],
)
def test_settings_that_exclude_each_other(
    gpt2: LanguageModel, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        events_of(gpt2, **given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"logit_bias": tuple((t, -math.inf) for t in range(400))}, "forbid every token"),
        ({"logit_bias": ((5, 1e308),)}, "to infinity"),
        ({"repetition_penalty": 1e-320}, "to infinity"),
    ],
)
def test_settings_that_leave_nothing(
    gpt2: LanguageModel, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        events_of(gpt2, max_new_tokens=2, **given)


# -- broken models ----------------------------------------------------------------------------


class BrokenDecoder(ToyDecoder):
    """Logits that are fine for a while, then hold what a damaged model gives."""

    def __init__(self, bad: list[float], *, after: int) -> None:
        super().__init__(vocab_size=4, n_positions=16)
        self.bad, self.after = bad, after

    def logits(self, ids: Sequence[int]) -> Floats:
        fine = len(ids) < self.after
        return np.array([0.0, 1.0, 2.0, 3.0] if fine else self.bad, np.float32)


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    "bad", [[0, NAN, 0, 0], [NAN] * 4, [0, INF, 0, 0], [-INF] * 4, [NAN, INF, -INF, 0]]
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nan_is_an_error_that_names_the_position(bad: list[float], temperature: float) -> None:
    stream = generate(
        BrokenDecoder(bad, after=5),
        Prompt(ids=(1, 2, 3)),
        SamplingParams(temperature=temperature, max_new_tokens=10, seed=0),
        token_bytes=lambda token: b"x",
    )
    made = [next(stream), next(stream)]
    assert [event.text for event in made] == ["x", "x"]
    with pytest.raises(NumericalError, match="after token 5 "):
        next(stream)


def test_some_tokens_may_be_impossible() -> None:
    check_logits(np.array([-INF, 0.0], np.float32), 1)


# -- several at once --------------------------------------------------------------------------

EOS = [3, 7]
PARAMS = [
    SamplingParams(temperature=0, max_new_tokens=12),
    SamplingParams(seed=4, max_new_tokens=12, top_p=0.9, logprobs=1),
    SamplingParams(seed=5, max_new_tokens=None, stop=("5",)),
    SamplingParams(seed=6, max_new_tokens=300, overflow="slide", ignore_eos=True),
    SamplingParams(seed=7, max_new_tokens=9, no_repeat_ngram_size=1),
]


def letters(token: int) -> bytes:
    return bytes([48 + token])


def scheduler_over(decoder: ToyDecoder, slots: int) -> Scheduler:
    return Scheduler(decoder, token_bytes=letters, eos_ids=EOS, slots=slots)


def drawn(shared: list[int]) -> st.SearchStrategy[list[int]]:
    """Prompts, some of which begin alike."""
    own = st.lists(st.integers(0, 49), min_size=1, max_size=250)
    return own | own.map(lambda ids: (shared + ids)[:399])


@settings(max_examples=60)
@given(
    prompts=st.lists(drawn(list(range(49)) * 3), min_size=1, max_size=7),
    params=st.lists(st.sampled_from(PARAMS), min_size=7, max_size=7),
    slots=st.integers(1, 5),
    same=st.booleans(),
)
def test_a_sequence_is_what_it_would_be_alone(
    prompts: list[list[int]], params: list[SamplingParams], slots: int, same: bool
) -> None:
    """Whatever else is under way, in whichever slots, with whatever prefix in common."""
    if same:
        prompts = prompts[:1] * len(prompts)
    requests = [
        Request(prompt=Prompt(ids=tuple(ids)), params=each, record=number * 3, index=number % 2)
        for number, (ids, each) in enumerate(zip(prompts, params, strict=False))
    ]
    decoder = ToyDecoder(n_positions=400)
    scheduler = scheduler_over(decoder, slots)
    handles = [scheduler.submit(request) for request in requests]
    while scheduler.busy:
        scheduler.step()
    scheduler.close()
    assert not decoder.opened
    for request, handle in zip(requests, handles, strict=True):
        alone = scheduler_over(ToyDecoder(n_positions=400), 1)
        expected = alone.submit(request)
        while alone.busy:
            alone.step()
        assert handle.finished
        assert handle.events == expected.events
        assert str(handle.error) == str(expected.error)


def test_steps_are_taken_together_and_what_is_finished_makes_room() -> None:
    decoder = ToyDecoder()
    params = SamplingParams(temperature=0, max_new_tokens=None, ignore_eos=True)
    requests = (
        Request(prompt=Prompt(ids=(5 + record,) * length), params=params, record=record)
        for record, length in enumerate((38, 30, 36))
    )
    told = list(in_order(scheduler_over(decoder, 2), requests))
    assert [handle.request.record for handle, _ in told] == [0] * 2 + [1] * 10 + [2] * 4
    # The prompt of the third is read in the step that takes the second further.
    assert [call for call in decoder.calls if max(call) > 1] == [[38, 30], [36, 1]]
    widths = [call.count(1) for call in decoder.calls]
    assert max(widths) == 2
    assert sum(widths) == (2 - 1) + (10 - 1) + (4 - 1)


def test_a_prompt_is_read_once_for_all_its_sequences() -> None:
    decoder = ToyDecoder(n_positions=400)
    params = SamplingParams(seed=1, max_new_tokens=5, num_return_sequences=4, ignore_eos=True)
    prompt = Prompt(ids=tuple(range(40)) * 5)
    for batch_size in (1, 4):
        decoder.calls.clear()
        events = list(generate(decoder, prompt, params, token_bytes=letters, batch_size=batch_size))
        assert [e.index for e in events if e.finish_reason] == [0, 1, 2, 3]
        assert [call for call in decoder.calls if max(call) > 1] == [[200]]


def test_a_long_prompt_is_read_in_pieces_while_others_go_on() -> None:
    decoder = ToyDecoder(n_positions=1000)
    params = SamplingParams(seed=1, max_new_tokens=20, ignore_eos=True)
    scheduler = scheduler_over(decoder, 2)
    short = scheduler.submit(Request(prompt=Prompt(ids=(1, 2)), params=params))
    scheduler.step()
    long = scheduler.submit(Request(prompt=Prompt(ids=(4,) * 500), params=params))
    while not long.events:
        before = len(short.events)
        scheduler.step()
        assert len(short.events) == before + 1
    assert [call for call in decoder.calls if max(call) > 2] == [[64, 1]] * 7 + [[52, 1]]


class Clocked(ToyDecoder):
    """Takes time by a clock of its own: 10 a call, and 1 a token."""

    now = 0.0

    def append(self, texts: Any, *, prompt: bool = False, every: bool = False) -> Floats:
        self.now += 10 + sum(len(ids) for _, ids in texts)
        return super().append(texts, prompt=prompt, every=every)


@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.parametrize("most_times", [1.4, 2.0, 4.0])
def test_pieces_keep_the_pace(
    monkeypatch: pytest.MonkeyPatch, multiple: int, most_times: float
) -> None:
    """A step with a piece takes so many times as long as one without, and not much less."""
    decoder = Clocked(n_positions=1000)
    decoder.piece_multiple = multiple
    monkeypatch.setattr("time.perf_counter", lambda: decoder.now)
    scheduler = Scheduler(decoder, token_bytes=letters, slots=4, pace=Pace(most_times))
    params = SamplingParams(seed=1, max_new_tokens=300, ignore_eos=True)
    for record in range(3):
        scheduler.submit(Request(prompt=Prompt(ids=(1, 2)), params=params, record=record))
        scheduler.step()
    scheduler.step()
    long = scheduler.submit(Request(prompt=Prompt(ids=(4,) * 250), params=params))
    while not long.events:
        scheduler.step()
    pieces = [call[0] for call in decoder.calls if len(call) == 4]
    assert sum(pieces) == 250
    assert all(size % multiple == 0 for size in pieces[:-1])
    wanted = max(multiple, int((most_times - 1) * 13) // multiple * multiple)
    assert pieces[0] == 16
    assert set(pieces[1:-1]) == {wanted}


def test_what_is_cancelled_ends_and_leaves_the_others() -> None:
    decoder = ToyDecoder(n_positions=400)
    params = SamplingParams(seed=1, max_new_tokens=30, ignore_eos=True)
    scheduler = scheduler_over(decoder, 2)
    handles = [
        scheduler.submit(Request(prompt=Prompt(ids=(each,)), params=params, record=each))
        for each in range(4)
    ]
    for _ in range(5):
        scheduler.step()
    for cancelled in (0, 3):
        scheduler.cancel(handles[cancelled])
    assert handles[0] in scheduler.step()
    assert [handle.finished for handle in handles] == [True, False, False, True]
    assert handles[0].events[-1].finish_reason == "interrupted"
    assert len(handles[3].events) == 1
    while scheduler.busy:
        scheduler.step()
    assert [len(handle.events) for handle in handles] == [6, 30, 30, 1]
    scheduler.cancel(handles[0])
    assert not scheduler.step()


def test_an_interrupt_ends_all_that_is_under_way() -> None:
    asked = iter([False, False, True])
    requests = (
        Request(prompt=Prompt(ids=(each,)), params=SamplingParams(seed=1, ignore_eos=True))
        for each in range(9)
    )
    told = list(in_order(scheduler_over(ToyDecoder(), 2), requests, lambda: next(asked, True)))
    reasons = [event.finish_reason for _, event in told if isinstance(event, TokenEvent)]
    assert reasons == [None, None, "interrupted"] * 2


def test_an_interrupt_between_two_sequences_is_told() -> None:
    """Asked once a step: the first sequence takes three, and is then finished."""
    asked = iter([False] * 3)
    params = SamplingParams(seed=1, max_new_tokens=3, num_return_sequences=5, ignore_eos=True)
    events = generate(
        ToyDecoder(),
        Prompt(ids=(1,)),
        params,
        token_bytes=letters,
        should_stop=lambda: next(asked, True),
    )
    ends = [(e.index, e.finish_reason) for e in events if e.finish_reason]
    assert ends == [(0, "length"), (1, "interrupted")]


def test_one_that_is_wrong_stands_in_its_place() -> None:
    params = SamplingParams(seed=1, max_new_tokens=2, ignore_eos=True)
    wrong = InvalidInput("Line 2 is not JSON.")
    told = list(
        in_order(
            scheduler_over(ToyDecoder(), 2),
            iter(
                [
                    Request(prompt=Prompt(ids=(1,)), params=params, record=0),
                    refused(1, params, wrong),
                    None,
                    Request(prompt=Prompt(ids=(1,)), params=params, record=2),
                ]
            ),
        )
    )
    assert [(h.request.record, isinstance(e, TokenEvent)) for h, e in told] == [
        (0, True),
        (0, True),
        (1, False),
        (2, True),
        (2, True),
    ]
