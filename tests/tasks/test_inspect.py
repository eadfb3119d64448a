"""What inspect shows, against transformers' own outputs and against sums written out."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_families import TINY, tiny

from llmcli.api import load
from llmcli.errors import ContextOverflow, InvalidInput, OutOfMemory, UnsupportedModel
from llmcli.hub.reference import bundled_models
from llmcli.models.language_model import LanguageModel
from llmcli.tasks.inspect.attention import AttentionWatcher, fit_window, summarize
from llmcli.tasks.inspect.attribution import Attribution, attribute
from llmcli.tasks.inspect.heads import switch_off
from llmcli.tasks.inspect.lens import look_through
from llmcli.tasks.inspect.neighbours import find_neighbours
from llmcli.tasks.inspect.opened import Opened, open_module
from llmcli.tasks.inspect.request import InspectRequest, View, inspect_model

IDS = [5, 17, 60, 3, 41, 88, 9, 23, 23, 70]
TEXT = "The fox said to the crow: give me the cheese."


def opened(name: str) -> Opened:
    return open_module(tiny(name, attn_implementation="eager"), name)


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request: pytest.FixtureRequest) -> Opened:
    return opened(request.param)


def weights_of(model: Opened, ids: list[int]) -> list[torch.Tensor]:
    """Attention of each layer, [heads, query, key]."""
    seen: list[torch.Tensor] = []
    model.residuals(ids, on_attention=lambda _, weights: seen.append(weights))
    return seen


# -- every family ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", TINY)
def test_a_family(name: str) -> None:
    """Attention, residuals, lens, embeddings and heads, as transformers itself has them."""
    model = opened(name)
    ids = torch.tensor([IDS])
    with torch.no_grad():
        own = model.module(ids, output_attentions=True, output_hidden_states=True, use_cache=False)
    for ours, theirs in zip(weights_of(model, IDS), own.attentions, strict=True):
        torch.testing.assert_close(ours, theirs[0].float(), rtol=0, atol=1e-6)
        torch.testing.assert_close(ours.sum(-1), torch.ones(ours.shape[:2]), rtol=0, atol=1e-5)
    residuals = model.residuals(IDS)
    for state, hidden in zip(residuals[:-1], own.hidden_states[:-1], strict=True):
        torch.testing.assert_close(state, hidden[0])
    assert not torch.allclose(residuals[-1], own.hidden_states[-1][0]), "before the final norm"
    torch.testing.assert_close(model.logits(residuals[-1]), own.logits[0], rtol=0, atol=1e-5)

    with torch.no_grad():
        embeddings = model.module.get_input_embeddings()(ids)
        last = model.from_embeddings(embeddings)
    torch.testing.assert_close(last, own.logits[:, -1], rtol=0, atol=1e-5)

    changed = model.logits(model.residuals(IDS, off=[(1, 2), (0, 3)])[-1])
    _zero_columns(model, 1, 2)
    _zero_columns(model, 0, 3)
    with torch.no_grad():
        without = model.module(ids, use_cache=False).logits[0]
    assert not torch.allclose(without, own.logits[0], rtol=0, atol=1e-3)
    torch.testing.assert_close(changed, without, rtol=0, atol=1e-5)


def _zero_columns(model: Opened, layer: int, head: int) -> None:
    """Zero what the output projection makes of a head, in its weights."""
    projection: Any = model.projections[layer]
    weight = projection.weight
    size = model.module.config.hidden_size
    inward = weight if type(projection).__name__ == "Conv1D" else weight.T  # [in, out]
    assert inward.shape[1] == size
    width = len(inward) // model.n_heads
    with torch.no_grad():
        inward[head * width : (head + 1) * width] = 0


# -- attention -------------------------------------------------------------------------------


def hooked(model: Opened, layer: int, *names: str) -> dict[str, torch.Tensor]:
    """Outputs of the named parts of a layer's attention in a plain forward, [tokens, width]."""
    found: dict[str, torch.Tensor] = {}
    attention: Any = model.attention[layer]
    handles = [
        getattr(attention, name).register_forward_hook(
            lambda _, __, output, name=name: found.update({name: output[0]})
        )
        for name in names
    ]
    with torch.no_grad():
        model.module(torch.tensor([IDS]))
    for handle in handles:
        handle.remove()
    return found


def heads(flat: torch.Tensor, count: int) -> torch.Tensor:
    """[tokens, heads * width] -> [heads, tokens, width]."""
    return flat.view(len(flat), count, -1).transpose(0, 1)


def softmax_of(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """softmax(QKᵀ/√d_head + causal mask), written out."""
    scores = queries @ keys.transpose(1, 2) / math.sqrt(queries.shape[-1])
    scores += torch.full(scores.shape[1:], -math.inf).triu(1)
    powers = torch.exp(scores - scores.amax(-1, keepdim=True))
    return powers / powers.sum(-1, keepdim=True)


def test_attention_is_the_softmax_of_queries_and_keys_in_gpt2() -> None:
    model = opened("gpt2")
    for layer, weights in enumerate(weights_of(model, IDS)):
        queries, keys, _ = hooked(model, layer, "c_attn")["c_attn"].chunk(3, dim=-1)
        expected = softmax_of(heads(queries, 4), heads(keys, 4))
        torch.testing.assert_close(weights, expected, rtol=0, atol=1e-5)


def test_attention_is_the_softmax_of_queries_and_keys_in_llama() -> None:
    model = opened("llama")
    config = model.module.config
    width = config.hidden_size // 4
    theta = config.rope_parameters["rope_theta"]
    angles = torch.outer(
        torch.arange(len(IDS)), theta ** -(torch.arange(0, width, 2).float() / width)
    )

    def turned(flat: torch.Tensor, count: int) -> torch.Tensor:
        first, second = heads(flat, count).chunk(2, dim=-1)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    for layer, weights in enumerate(weights_of(model, IDS)):
        seen = hooked(model, layer, "q_proj", "k_proj")
        keys = turned(seen["k_proj"], 2).repeat_interleave(2, dim=0)
        expected = softmax_of(turned(seen["q_proj"], 4), keys)
        torch.testing.assert_close(weights, expected, rtol=0, atol=1e-5)


def test_the_quotient_found_in_some_texts_is_not_attention() -> None:
    """exp(QKᵀ)/(K·Kᵀ): its rows do not sum to 1, as docs/inspect.md says."""
    model = opened("gpt2")
    queries, keys, _ = hooked(model, 0, "c_attn")["c_attn"].chunk(3, dim=-1)
    q, k = heads(queries, 4), heads(keys, 4)
    quotient = torch.exp(q @ k.transpose(1, 2)) / (k @ k.transpose(1, 2))
    assert (quotient.sum(-1) - 1).abs().median() > 0.5
    assert (quotient < 0).any(), "and it can be negative"


def test_summaries_are_means_over_queries(model: Opened) -> None:
    weights = weights_of(model, IDS)[1]
    for found, matrix in zip(summarize(1, weights), weights.double().numpy(), strict=True):
        rows = matrix[1:]
        entropy = -np.sum(rows * np.log(np.where(rows > 0, rows, 1)), axis=1).mean()
        assert found.entropy == pytest.approx(entropy, abs=1e-5)
        before = [matrix[i, i - 1] for i in range(1, len(matrix))]
        assert found.previous == pytest.approx(np.mean(before), abs=1e-6)
        assert found.first == pytest.approx(rows[:, 0].mean(), abs=1e-6)


def test_one_token_is_described_by_itself() -> None:
    (only,) = summarize(0, torch.ones(1, 1, 1))
    assert (only.entropy, only.previous, only.first) == (0, 0, 1)


def test_a_window_is_a_part_of_the_matrix(model: Opened) -> None:
    watcher = AttentionWatcher(3, 8, [(1, 2)])
    model.residuals(IDS, on_attention=watcher)
    (found,) = watcher.result().maps
    expected = weights_of(model, IDS)[1][2, 3:8, 3:8].numpy()
    np.testing.assert_array_equal(found.weights, expected)
    assert len(watcher.result().heads) == model.n_layers * model.n_heads


@pytest.mark.parametrize(
    ("tokens", "maps", "cells", "expected"),
    [(20, 24, 10**6, 20), (600, 1, 10**9, 512), (600, 144, 144 * 100**2, 100), (9, 0, 1, 9)],
)
def test_what_fits(tokens: int, maps: int, cells: int, expected: int) -> None:
    assert fit_window(tokens, maps, cells) == expected


# -- the lens --------------------------------------------------------------------------------


def test_the_lens_ends_in_the_models_own_distribution(model: Opened) -> None:
    lens = look_through(model, model.residuals(IDS), start=0, count=5)
    with torch.no_grad():
        own = torch.log_softmax(model.module(torch.tensor([IDS])).logits[0], -1)
    for cell, logprobs in zip(lens.layers[-1], own, strict=True):
        values, ids = logprobs.topk(5)
        assert [token for token, _ in cell.top] == ids.tolist()
        assert [logprob for _, logprob in cell.top] == pytest.approx(values.tolist(), abs=1e-5)
        assert cell.agrees
        assert cell.rank == 1
        assert cell.kl == pytest.approx(0, abs=1e-6)


def test_a_layer_of_the_lens(model: Opened) -> None:
    """softmax(W·ln_f(h_l)), by hand; the KL and the rank with it."""
    states = model.residuals(IDS)
    lens = look_through(model, states, start=0, count=3)
    head = model.module.get_output_embeddings()
    with torch.no_grad():
        by_hand = torch.log_softmax(head(model.norm(states[1])), -1)
        own = torch.log_softmax(model.module(torch.tensor([IDS])).logits[0], -1)
    for position, cell in enumerate(lens.layers[1]):
        values, ids = by_hand[position].topk(3)
        assert [token for token, _ in cell.top] == ids.tolist()
        assert [logprob for _, logprob in cell.top] == pytest.approx(values.tolist(), abs=1e-5)
        kl = (own[position].exp() * (own[position] - by_hand[position])).sum()
        assert cell.kl == pytest.approx(float(kl), abs=1e-5)
        order = by_hand[position].argsort(descending=True).tolist()
        assert cell.rank == order.index(int(own[position].argmax())) + 1
        assert cell.agrees is (cell.rank == 1)


def test_the_lens_settles_where_it_stays(model: Opened) -> None:
    lens = look_through(model, model.residuals(IDS), start=0, count=1)
    for position, row in enumerate(lens.settled):
        agrees = [layer[position].agrees for layer in lens.layers]
        assert all(agrees[row:])
        assert row == 0 or not agrees[row - 1]


# -- attribution -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def attributed(model: Opened) -> Attribution:
    return attribute(model, IDS, target=12, baseline=2)


def logprob(model: Opened, ids: list[int], target: int) -> float:
    with torch.no_grad():
        logits = model.module(torch.tensor([ids])).logits[0, -1]
    return float(torch.log_softmax(logits.double(), -1)[target])


def test_leave_one_out_is_two_plain_forwards(model: Opened, attributed: Attribution) -> None:
    whole = logprob(model, IDS, 12)
    assert attributed.value == pytest.approx(whole, abs=1e-5)
    for index, influence in enumerate(attributed.leave_one_out):
        without = logprob(model, IDS[:index] + IDS[index + 1 :], 12)
        assert influence == pytest.approx(whole - without, abs=1e-5)


def test_a_contrast_is_a_difference_of_logits(model: Opened, attributed: Attribution) -> None:
    other = attribute(model, IDS, target=30, baseline=2)
    both = attribute(model, IDS, target=12, contrast=30, baseline=2)
    for name in ("leave_one_out", "input_x_gradient", "integrated_gradients"):
        difference = np.subtract(getattr(attributed, name), getattr(other, name))
        assert getattr(both, name) == pytest.approx(difference, abs=1e-4)
    with torch.no_grad():
        logits = model.module(torch.tensor([IDS])).logits[0, -1]
    assert both.value == pytest.approx(float(logits[12] - logits[30]), abs=1e-5)


@pytest.mark.parametrize("baseline", [2, None])
def test_integrated_gradients_are_complete(model: Opened, baseline: int | None) -> None:
    found = attribute(model, IDS, target=12, baseline=baseline, steps=512)
    assert found.completeness_error <= 0.01
    total = math.fsum(found.integrated_gradients)
    assert total == pytest.approx(found.value - found.baseline_value, rel=0.01)


@pytest.mark.skipif("fable" not in bundled_models(), reason="the bundled model is not there")
def test_integrated_gradients_of_a_trained_model_are_complete_in_64_steps() -> None:
    request = InspectRequest(views=frozenset({"attribution"}), text="The king said to his")
    found = inspect_model(load("fable"), request).attribution
    assert found is not None
    assert found.steps == 64
    assert found.completeness_error <= 0.01


def test_captum_agrees(model: Opened, attributed: Attribution) -> None:
    captum: Any = pytest.importorskip("captum.attr", reason="captum is not installed (dev group)")
    embed = model.module.get_input_embeddings()
    own = embed(torch.tensor([IDS])).detach()
    blank = embed(torch.tensor([[2]])).expand_as(own).detach()

    def value(embeddings: torch.Tensor) -> torch.Tensor:
        logits = model.module(inputs_embeds=embeddings, use_cache=False).logits[:, -1]
        return torch.log_softmax(logits, -1)[:, 12]

    integrated = captum.IntegratedGradients(value).attribute(
        own, baselines=blank, n_steps=64, method="riemann_middle", internal_batch_size=16
    )
    expected = integrated.sum(-1)[0].tolist()
    assert attributed.integrated_gradients == pytest.approx(expected, abs=1e-4)
    gradient = captum.InputXGradient(value).attribute(own.requires_grad_())
    expected = gradient.sum(-1)[0].tolist()
    assert attributed.input_x_gradient == pytest.approx(expected, abs=1e-4)


def test_many_rows_are_as_one(
    model: Opened, attributed: Attribution, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmcli.tasks.inspect.attribution._rows_at_once", lambda tokens: 3)
    steps: list[tuple[str, int, int]] = []
    again = attribute(model, IDS, target=12, baseline=2, progress=lambda *step: steps.append(step))
    assert again.leave_one_out == pytest.approx(attributed.leave_one_out, abs=1e-5)
    assert again.integrated_gradients == pytest.approx(attributed.integrated_gradients, abs=1e-5)
    assert ("leave one out", 9, 10) in steps
    assert ("integrated gradients", 63, 64) in steps


def test_attribution_refuses(model: Opened) -> None:
    with pytest.raises(InvalidInput, match="one token"):
        attribute(model, IDS[:1], target=12)
    with pytest.raises(InvalidInput, match="are the same"):
        attribute(model, IDS, target=12, contrast=12)


# -- heads off, neighbours -------------------------------------------------------------------


def test_without_a_head(model: Opened) -> None:
    found = switch_off(model, IDS, [(1, 2)], 4)

    def silence(_: Any, args: Any) -> Any:
        output = args[0].clone()
        output[..., 16:24] = 0
        return (output,)

    with torch.no_grad():
        before = torch.log_softmax(model.module(torch.tensor([IDS])).logits[0], -1)
        handle = model.projections[1].register_forward_pre_hook(silence)
        after = torch.log_softmax(model.module(torch.tensor([IDS])).logits[0], -1)
        handle.remove()
    best = {*before[-1].topk(4).indices.tolist(), *after[-1].topk(4).indices.tolist()}
    assert {each.id for each in found.candidates} == best
    for each in found.candidates:
        assert each.logprob == pytest.approx(float(before[-1, each.id]), abs=1e-5)
        assert each.without == pytest.approx(float(after[-1, each.id]), abs=1e-5)
    targets = torch.tensor(IDS[1:])[:, None]
    assert found.nll == pytest.approx(-float(before[:-1].gather(1, targets).mean()), abs=1e-5)
    assert found.nll_without == pytest.approx(
        -float(after[:-1].gather(1, targets).mean()), abs=1e-5
    )
    kl = float((before[-1].exp() * (before[-1] - after[-1])).sum())
    assert found.kl == pytest.approx(kl, abs=1e-5)


def test_what_a_projection_is_given_is_attention_times_values() -> None:
    """The head that is switched off is the one whose map is shown."""
    model = opened("gpt2")
    taken: list[torch.Tensor] = []
    handle = model.projections[1].register_forward_pre_hook(
        lambda _, args: taken.append(args[0][0])
    )
    values = hooked(model, 1, "c_attn")["c_attn"].chunk(3, dim=-1)[2]
    handle.remove()
    for head, weights in enumerate(weights_of(model, IDS)[1]):
        ours = taken[0][:, head * 8 : (head + 1) * 8]
        torch.testing.assert_close(ours, weights @ heads(values, 4)[head], rtol=0, atol=1e-5)


def test_neighbours(model: Opened) -> None:
    table = model.embeddings.double().numpy()
    table = table - table.mean(axis=0)
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    cosines = table @ table[7]
    cosines[7] = -9
    order = np.argsort(-cosines)[:6]
    found = find_neighbours(model.embeddings, 7, 6)
    assert [token for token, _ in found.nearest] == order.tolist()
    assert [cosine for _, cosine in found.nearest] == pytest.approx(cosines[order], abs=1e-5)


# -- requests --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loaded(tiny_gpt2: Path) -> LanguageModel:
    return load(str(tiny_gpt2))


def ask(model: LanguageModel, *views: View, text: str | None = TEXT, **settings: Any) -> Any:
    return inspect_model(model, InspectRequest(views=frozenset(views), text=text, **settings))


def test_a_position_is_a_shorter_text(loaded: LanguageModel) -> None:
    whole = ask(loaded, "lens", "overview")
    part = ask(loaded, "lens", "overview", position=6)
    assert part.tokens == whole.tokens[:7]
    for row, whole_row in zip(part.lens.layers, whole.lens.layers, strict=True):
        for cell, same in zip(row, whole_row[:7], strict=True):
            assert [t for t, _ in cell.top] == [t for t, _ in same.top]
            assert cell.kl == pytest.approx(same.kl, abs=1e-4)


def test_the_overview_names_the_heads_that_stand_out(loaded: LanguageModel) -> None:
    seen = ask(loaded, "overview", "attention", "lens")
    heads = seen.attention.heads
    for name, measure in (("previous", "previous"), ("first", "first"), ("spread", "entropy")):
        values = [getattr(each, measure) for each in getattr(seen.overview, name)]
        assert values == sorted((getattr(each, measure) for each in heads), reverse=True)[:3]
    assert seen.overview.prediction == seen.lens.layers[-1][-1].top[0]
    assert seen.overview.settled == seen.lens.settled[-1] - 1


def test_a_long_text_is_shown_in_a_window(loaded: LanguageModel) -> None:
    seen = ask(loaded, "attention", cells=8 * 25)
    count = len(seen.tokens)
    assert seen.window == (count - 5, count)
    assert {each.weights.shape for each in seen.attention.maps} == {(5, 5)}
    chosen = ask(loaded, "attention", "lens", window=(2, 6))
    assert chosen.window == (2, 6)
    assert chosen.lens.start == 2
    assert len(chosen.lens.layers[0]) == 4


def test_one_head_is_kept_where_one_is_asked_for(loaded: LanguageModel) -> None:
    seen = ask(loaded, "attention", layer=1, head=2)
    assert [(each.layer, each.head) for each in seen.attention.maps] == [(1, 2)]
    assert len(ask(loaded, "attention", layer=1).attention.maps) == 4
    assert ask(loaded, "attention", maps=False).attention.maps == ()


def test_the_record_is_json(loaded: LanguageModel) -> None:
    import json

    seen = ask(
        loaded, "overview", "attention", "lens", "attribution", "heads_off", "neighbours",
        heads_off=((0, 1),), neighbours="7", target="9", contrast="10", count=3,
    )  # fmt: skip
    record = json.loads(json.dumps(seen.to_dict(), allow_nan=False))
    assert seen.named_tokens >= {7, 9, 10, *seen.tokens}
    assert len(record["attention"]["maps"]) == 8
    assert sum(record["attention"]["maps"][0]["weights"][4]) == pytest.approx(1, abs=1e-5)
    assert record["lens"]["layers"][0]["layer"] == -1
    assert record["heads_off"]["heads"] == ["0.1"]


def test_a_text_of_one_token(loaded: LanguageModel) -> None:
    seen = ask(loaded, "overview", "attention", "lens", "heads_off", text="a", heads_off=((0, 0),))
    assert seen.heads_off.nll is None
    assert seen.attention.maps[0].weights.tolist() == [[1.0]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text": ""}, "The text is empty"),
        ({"position": 99}, "Position 99 is outside the text, where nothing is seen"),
        ({"layer": 2}, "There is no layer 2: .* has 2"),
        ({"layer": 1, "head": 4}, "There is no head 4: .* has 4"),
        ({"heads_off": ((0, 9),)}, "There is no head 9"),
        ({"window": (5, 5)}, "The window 5:5 is not within"),
        ({"window": (0, 999)}, "The window 0:999 is not within"),
        ({"window": (0, 9), "cells": 16}, "at most 1 can be shown"),
        ({"target": " nothing at all"}, "--attribute: ' nothing at all' is .* tokens for .*: ' n"),
        ({"contrast": ""}, "--contrast: '' is 0 tokens for"),
        ({"neighbours": "xyzzy"}, "--neighbours: 'xyzzy' is 5 tokens for"),
    ],
)
def test_bad_requests(loaded: LanguageModel, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        ask(loaded, "attention", **settings)


def test_a_token_without_a_row(tiny_gpt2: Path) -> None:
    model = load(str(tiny_gpt2))
    assert model.tokenizer.vocab_size > 300  # read before the configuration is made smaller
    model.config["vocab_size"] = 300
    with pytest.raises(InvalidInput, match="has no row for the token '300'"):
        ask(model, "attribution", target="300")


def test_too_long_a_text(loaded: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ContextOverflow, match="the model reads 64"):
        ask(loaded, "overview", text=TEXT * 9)
    monkeypatch.setattr("llmcli.tasks.inspect.request.MOST_ATTRIBUTED", 5)
    with pytest.raises(InvalidInput, match="attribution takes 5 at most"):
        ask(loaded, "attribution")


def test_too_little_memory(loaded: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error, not a kill: the allocation itself fails."""
    monkeypatch.setattr("llmcli.system.available_memory", lambda: 64 << 20)

    def greedy(*args: Any, **kwargs: Any) -> None:
        torch.ones(1 << 28)

    monkeypatch.setattr("llmcli.tasks.inspect.request._look", greedy)
    with pytest.raises(OutOfMemory, match=r"The attention of \d+ tokens does not fit"):
        ask(loaded, "overview")


def _add_embeddings(module: Any) -> None:
    """Something that goes round the last norm."""

    def add(part: Any, args: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state + part.wte(args[0])
        return output

    module.transformer.register_forward_hook(add)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda module: delattr(module.transformer, "ln_f"), "no norm before the output layer"),
        (lambda module: delattr(module.transformer.h[0], "attn"), "no attention"),
        (_add_embeddings, "its logits are not made from its last norm alone"),
    ],
)
def test_architectures_that_do_not_show_their_inside(
    change: Callable[[Any], Any], message: str
) -> None:
    module = tiny("gpt2", attn_implementation="eager")
    change(module)
    with pytest.raises(UnsupportedModel, match=message):
        open_module(module, "m")


def test_attention_without_weights_is_refused() -> None:
    model = open_module(tiny("llama"), "m")  # not eager: the kernel never makes them
    with pytest.raises(UnsupportedModel, match="gives no weights"):
        weights_of(model, IDS)


def test_a_quantised_model_is_refused(tiny_gpt2: Path) -> None:
    with pytest.raises(UnsupportedModel, match="not seen at precision int8"):
        ask(load(str(tiny_gpt2), precision="int8"), "overview")
