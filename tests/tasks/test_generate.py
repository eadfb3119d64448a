"""Batches of texts: what each becomes does not depend on how many go together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_decoder import ToyDecoder

from llmcli.api import load
from llmcli.engine.params import DraftStats, SamplingParams, TokenEvent
from llmcli.engine.speculative import NgramDraft
from llmcli.errors import CorruptModel, InvalidInput
from llmcli.hub.reference import bundled_models
from llmcli.models.language_model import LanguageModel
from llmcli.tasks.generate import Text, Told, continue_batch, continue_text
from llmcli.tasks.prompts import sampling_params

Outcome = list[tuple[str, str | None, str | None]]
BROKEN = InvalidInput("Line 7 is not JSON.")


@pytest.fixture(scope="module", params=["the model", "a toy"])
def tiny(request: pytest.FixtureRequest, tiny_gpt2: Path) -> LanguageModel:
    """A real model, and one whose rows go together on any machine."""
    model = load(str(tiny_gpt2), device="cpu")
    if request.param == "a toy":
        with_toy(model)
    return model


def with_toy(model: LanguageModel) -> ToyDecoder:
    """Let a toy decode for a model."""
    toy = ToyDecoder(model.tokenizer.vocab_size, model.n_positions)
    model.decoder = lambda: toy  # type: ignore[method-assign, assignment, return-value]
    return toy


def outcomes(told: Iterator[Told[int]]) -> dict[int, Outcome]:
    """What became of each text, by its key: a (text, finish_reason, error) for each sequence.

    Checks on the way that texts, and the sequences of each, come in order.
    """
    made: dict[int, Outcome] = {}
    events: list[TokenEvent] = []
    last = (-1, -1)
    for each in told:
        if each.event is None:
            assert last[0] <= each.key
            last = (each.key, 10**6)
            made.setdefault(each.key, []).append(("", None, str(each.error)))
            events = []
            continue
        assert last <= (each.key, each.event.index)
        last = (each.key, each.event.index)
        assert each.prompt_tokens
        events.append(each.event)
        if each.event.finish_reason is not None:
            text = "".join(event.text for event in events)
            made.setdefault(each.key, []).append((text, each.event.finish_reason, None))
            events = []
    assert not events
    return made


def run(
    model: LanguageModel, texts: Sequence[str | InvalidInput], given: dict[str, Any], **options: Any
) -> dict[int, Outcome]:
    params = sampling_params(model, given)
    numbered = (Text(key=n, number=n, text=text) for n, text in enumerate(texts))
    return outcomes(continue_batch(model, numbered, params, **options))


TEXTS = st.lists(
    st.one_of(
        st.text("abc the fox\n,é", min_size=1, max_size=40),
        st.sampled_from(["", "x" * 70, "\ud800", "🦊", "<|endoftext|>"]),
        st.just(BROKEN),
    ),
    min_size=1,
    max_size=9,
)
SETTINGS: list[dict[str, Any]] = [
    {"temperature": 0, "max_new_tokens": 9},
    {"seed": 4, "max_new_tokens": 12, "temperature": 1.5},
    {"seed": 5, "max_new_tokens": None, "stop": ("e", "the")},
    {"seed": 6, "max_new_tokens": 6, "num_return_sequences": 3, "logprobs": 1},
    {"seed": 7, "max_new_tokens": 70, "overflow": "slide"},
    {"seed": 8, "max_new_tokens": 5, "num_beams": 2},
    # After some tokens nothing is left that may come: an error in the middle of a text.
    {"seed": 9, "max_new_tokens": 20, "no_repeat_ngram_size": 1, "temperature": 2.0}
    | {"logit_bias": tuple((token, float("-inf")) for token in range(12, 397))},
]


@settings(max_examples=25)
@given(texts=TEXTS, given=st.sampled_from(SETTINGS), special=st.sampled_from(["text", "forbid"]))
def test_texts_do_not_depend_on_the_batch_size(
    tiny: LanguageModel, texts: list[str | InvalidInput], given: dict[str, Any], special: Any
) -> None:
    alone = run(tiny, texts, given, special=special, batch_size=1)
    assert list(alone) == list(range(len(texts)))
    for size in (2, 7, 32, None):
        assert run(tiny, texts, given, special=special, batch_size=size) == alone


def test_settings_that_come_to_forbid_every_token_are_the_records_error(
    tiny: LanguageModel,
) -> None:
    """And what is made before it and after it stays."""
    letters = [token for letter in "QXZJKV" for token in tiny.tokenizer.ids(letter)]
    others = tuple((i, float("-inf")) for i in range(tiny.tokenizer.vocab_size) if i not in letters)
    params = {"seed": 9, "no_repeat_ngram_size": 1, "logit_bias": others}
    params |= {"num_return_sequences": 2, "max_new_tokens": 5}
    texts: list[str | InvalidInput] = ["a fox", "QXJK", "a crow"]  # two tokens are left, then none
    for size in (1, 2, 3, 8):
        made = run(tiny, texts, params, batch_size=size)
        assert [len(each) for each in made.values()] == [2, 1, 2]
        assert made[1][0][2] is not None
        assert made[1][0][2].startswith("The settings forbid every token.")


@pytest.mark.skipif("fable" not in bundled_models(), reason="the bundled model is not there")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8", "int4"])
def test_a_real_model_at_several_batch_sizes(precision: str) -> None:
    """Prompts of one token to forty; ends by stop strings and by length; errors in between."""
    model = load("fable", device="cpu", precision=precision)
    texts: list[str | InvalidInput] = [
        "Once upon a time",
        "The",
        BROKEN,
        "In the deep forest there lived a fox who had never seen the sea, and one day he said "
        "to the crow, who sat in the oak above his den and had seen everything there was to see",
        "",
        "The old king said to his daughter",
        "And they lived happily ever",
        "“Who",
        "A little girl",
        "It was",
    ]
    given = {"seed": 13, "max_new_tokens": 10, "top_k": 8, "stop": (",", " the")}
    alone = run(model, texts, given, batch_size=1)
    reasons = {reason for made in alone.values() for _, reason, _ in made}
    assert {"stop", "length", None} <= reasons
    for size in (2, 7, 32):
        assert run(model, texts, given, batch_size=size) == alone


def test_the_first_text_is_what_it_is_by_itself(tiny: LanguageModel) -> None:
    for beams in (1, 3):
        asked = {"seed": 3, "max_new_tokens": 8, "num_beams": beams, "temperature": 1.0}
        params = sampling_params(tiny, asked)
        made = run(tiny, ["the fox", "the fox"], asked, batch_size=2)
        alone = "".join(event.text for event in continue_text(tiny, "the fox", params).events)
        assert made[0][0][0] == alone
        assert made[1][0][0] != alone, "a record's place goes into its seed"


@pytest.mark.parametrize("size", [1, 2, 3, 32])
def test_sequences_of_one_text_go_together(tiny: LanguageModel, size: int) -> None:
    params = sampling_params(tiny, {"seed": 2, "max_new_tokens": 9, "num_return_sequences": 5})
    plain = list(continue_text(tiny, "the fox", params).events)
    together = list(continue_text(tiny, "the fox", params, batch_size=size).events)
    assert together == plain


def test_rows_go_together_and_the_prompt_is_read_once(tiny_gpt2: Path) -> None:
    model = load(str(tiny_gpt2), device="cpu")
    toy = with_toy(model)
    given = {"seed": 1, "max_new_tokens": 9, "num_return_sequences": 2, "ignore_eos": True}
    run(model, ["a fox", BROKEN, "b fox", "c fox"], given, batch_size=4)
    prompts = [call for call in toy.calls if call[0] > 1]
    assert len(prompts) == 3
    assert max(len(call) for call in toy.calls) == 4


def test_texts_are_read_as_they_are_needed(tiny: LanguageModel) -> None:
    taken: list[int] = []

    def endless() -> Iterator[Text[int]]:
        for number in range(10**9):
            taken.append(number)
            yield Text(key=number, number=number, text="the fox")

    params = sampling_params(tiny, {"seed": 1, "max_new_tokens": 3, "ignore_eos": True})
    for size in (1, 4):
        taken.clear()
        told = continue_batch(tiny, endless(), params, batch_size=size)
        assert [next(told).key for _ in range(2)] == [0, 0]
        assert len(taken) <= size


def test_what_is_at_hand_is_continued_before_more_is_waited_for(tiny: LanguageModel) -> None:
    asked_for: list[int] = []

    def coming() -> Iterator[Text[int] | None]:
        for number in range(6):
            asked_for.append(number)
            yield Text(key=number, number=number, text="the fox")
            if number in (0, 3):
                yield None
                yield None

    params = sampling_params(tiny, {"seed": 1, "max_new_tokens": 2, "ignore_eos": True})
    most = {0: 1, 1: 4, 2: 4, 3: 4, 4: 6, 5: 6}
    keys = []
    for told in continue_batch(tiny, coming(), params, batch_size=4):
        keys.append(told.key)
        assert len(asked_for) <= most[told.key]
    assert keys == [key for key in range(6) for _ in range(2)]


def test_several_go_together_by_default_where_that_is_exact(tiny_gpt2: Path) -> None:
    model = load(str(tiny_gpt2), device="cpu")
    toy = with_toy(model)
    for size, widest in ((None, 8), (1, 1), (12, 12)):
        toy.calls.clear()
        given = {"seed": 1, "max_new_tokens": 20, "ignore_eos": True}
        run(model, ["a"] * 20, given, batch_size=size)
        assert max(len(call) for call in toy.calls) == widest


def test_an_interrupt_tells_what_was_made_and_begins_nothing(tiny: LanguageModel) -> None:
    texts: list[str | InvalidInput] = ["a", "b", "c", "d", "e"]
    given = {"seed": 1, "max_new_tokens": 30, "ignore_eos": True}
    for size in (1, 3):
        asked = iter([False] * 6)
        made = run(tiny, texts, given, batch_size=size, should_stop=lambda a=asked: next(a, True))
        assert [r for each in made.values() for _, r, _ in each] == ["interrupted"] * len(made)
        assert 1 <= len(made) <= size
        assert made[0][0][0]


def test_what_came_before_the_input_broke_off_is_done(tiny: LanguageModel) -> None:
    def broken() -> Iterator[Text[int]]:
        yield Text(key=0, number=0, text="a")
        yield Text(key=1, number=1, text="b")
        raise InvalidInput("Cannot read next.jsonl.")

    params = sampling_params(tiny, {"seed": 1, "max_new_tokens": 3, "ignore_eos": True})
    for size in (1, 4):
        told = continue_batch(tiny, broken(), params, batch_size=size)
        assert {next(told).key for _ in range(6)} == {0, 1}
        with pytest.raises(InvalidInput, match=r"next\.jsonl"):
            next(told)


def test_where_it_cannot_be_done_a_notice_says_so(tiny_gpt2: Path) -> None:
    said: list[str] = []
    texts = [Text(key=n, number=n, text=text) for n, text in enumerate(["the fox", "the crow"])]

    def told(size: int | None, toy: bool = True, **given: Any) -> dict[int, Outcome]:
        said.clear()
        model = load(str(tiny_gpt2), device="cpu", notify=said.append)
        if toy:
            with_toy(model).rows_alike = 1 if given.pop("alone", False) else None
        draft = given.pop("draft", None)
        params = SamplingParams(seed=1, max_new_tokens=6, **given)
        stats = DraftStats()
        return outcomes(
            continue_batch(model, texts, params, batch_size=size, draft=draft, draft_stats=stats)
        )

    cases: list[tuple[str, dict[str, Any]]] = [
        ("beam search", {"num_beams": 2, "temperature": 0.0, "toy": False}),
        ("a draft", {"draft": NgramDraft()}),
        ("several at once are rounded differently", {"alone": True}),
    ]
    for words, asked in cases:
        alone = told(1, **asked)
        assert not said
        assert told(None, **asked) == alone
        assert not said, "nothing was asked for"
        assert told(2, **asked) == alone
        assert len(said) == 1
        assert words in said[0]
    for overflow in ("error", "slide"):
        told(2, overflow=overflow)
        assert not said


def test_a_model_that_cannot_be_loaded_is_no_records_error(tiny_gpt2: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in tiny_gpt2.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    model = load(str(folder), device="cpu")
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(CorruptModel):
        run(model, ["a"], {"seed": 1})


def test_a_text_of_its_own_begins_without_the_space_of_its_first_word(tmp_path: Path) -> None:
    """As transformers decodes it; after a prompt the space stays."""
    import torch
    import transformers
    from tokenizer_files import llama2_style

    backend = llama2_style()
    dressed: Any = transformers.PreTrainedTokenizerFast
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    dressed(tokenizer_object=backend, **named).save_pretrained(tmp_path)
    config = transformers.LlamaConfig(
        vocab_size=backend.get_vocab_size(), hidden_size=16, intermediate_size=16,
        num_hidden_layers=1, num_attention_heads=2, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module: Any = transformers.LlamaForCausalLM(config)
    module.generation_config = transformers.GenerationConfig()  # type: ignore[no-untyped-call]
    module.save_pretrained(tmp_path)
    model = load(str(tmp_path), device="cpu")
    the = model.tokenizer.ids("the")
    bias = tuple((token, 50.0 - place) for place, token in enumerate(the))
    given = {"temperature": 0, "logit_bias": bias, "max_new_tokens": 3}
    params = sampling_params(model, given)
    for text, bos, expected in (("", True, "the the the"), ("on", False, " the the the")):
        events = list(continue_text(model, text, params, bos=bos).events)
        assert [event.token_id for event in events] == the * 3
        assert "".join(event.text for event in events) == expected
    reference: Any = transformers.AutoTokenizer.from_pretrained
    decoded = reference(str(tmp_path)).decode([1, *the * 3], skip_special_tokens=True)
    assert decoded == "the the the"
