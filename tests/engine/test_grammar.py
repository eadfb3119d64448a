"""Constrained output: every text fits, ends in time, and is drawn from the masked distribution."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grammar_schemas import check
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_files import tokenizer_folders  # noqa: F401
from toy_decoder import ToyDecoder

from llmcli.api import LanguageModel, load
from llmcli.engine.decoder import Floats
from llmcli.engine.generation import generate
from llmcli.engine.grammar import source
from llmcli.engine.grammar.constraint import Grammar
from llmcli.engine.grammar.source import GrammarSource
from llmcli.engine.grammar.vocabulary import Vocabulary
from llmcli.engine.params import SamplingParams, TokenEvent
from llmcli.engine.sampling import filter_logits, softmax, uniform
from llmcli.engine.speculative import Draft, ModelDraft, NgramDraft
from llmcli.engine.transcript import Prompt
from llmcli.errors import InvalidInput
from llmcli.tasks.generate import continue_text
from llmcli.tasks.prompts import sampling_params
from llmcli.tokenization.tokenizer import Tokenizer

PERSON = source.json_schema(
    {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
)


@pytest.fixture(scope="module")
def fable() -> LanguageModel:
    return load("fable", threads=1)


def texts(
    model: LanguageModel, grammar: Grammar, *, draft: Draft | None = None, **asked: Any
) -> list[tuple[str, str | None]]:
    """What random logits make of a grammar: the texts, and how each ended."""
    events = generate(
        ToyDecoder(model.rows or 0, 400),
        Prompt(ids=(1, 2, 3)),
        SamplingParams(grammar=grammar, seed=5, **asked),
        token_bytes=model.token_bytes,
        eos_ids=model.eos_ids,
        draft=draft,
        batch_size=1 if draft else 3,
    )
    found: list[tuple[str, str | None]] = [("", None)] * asked.get("num_return_sequences", 1)
    for event in events:
        text, _ = found[event.index]
        found[event.index] = (text + event.text, event.finish_reason)
    return found


def test_every_text_fits_its_schema(fable: LanguageModel) -> None:
    wrong: list[Any] = []
    decoder = ToyDecoder(fable.rows or 0, 400)
    counts = check(fable, decoder, 30, lambda *flaw: wrong.append(flaw))
    assert not wrong
    assert counts["schemas"] >= 15
    # Not cut short, whatever the limit; some ends the model chose.
    assert counts["texts"] == counts["grammar"] + counts["eos"] == counts["schemas"] * 6


@pytest.mark.parametrize(
    ("written", "expression"),
    [
        (source.regex(r"[a-z]+@[a-z]+\.(com|org)"), r"[a-z]+@[a-z]+\.(com|org)"),
        (source.regex("(ab|ba){2,40}"), "(ab|ba){2,40}"),
        (source.regex("x[0-9]{30}y"), "x[0-9]{30}y"),
        (source.regex("[a-zA-Z ]*é"), "[a-zA-Z ]*é"),
        (source.choices(["a+b", "no", "no way", " [x]\n"]), r"a\+b|no|no way| \[x\]\n"),
        (source.lark('start: "(" start ")" | "x"'), r"\(*x\)*"),
        (PERSON, r'\{"name":".*","age":\d+\}'),
    ],
    ids=lambda value: value.kind if isinstance(value, GrammarSource) else "",
)
def test_a_text_matches_and_ends_before_the_limit(
    fable: LanguageModel, written: GrammarSource, expression: str
) -> None:
    grammar = fable.grammar(written)
    shortest = grammar.shortest()
    for limit in (shortest, shortest + 1, shortest + 7, 60):
        found = texts(fable, grammar, max_new_tokens=limit, num_return_sequences=4)
        for text, reason in found:
            assert re.fullmatch(expression, text, re.DOTALL), (limit, text)
            assert reason in ("grammar", "eos")
    with pytest.raises(InvalidInput, match=f"takes {shortest} tokens, and there is room for"):
        grammar.check_room(shortest - 1)


def test_rows_and_drafts_change_nothing(fable: LanguageModel) -> None:
    grammar = fable.grammar(PERSON)
    asked: dict[str, Any] = {"max_new_tokens": 24, "num_return_sequences": 3}
    plain = texts(fable, grammar, **asked)
    assert len(set(plain)) == 3
    for draft in (NgramDraft(longest=1, shortest=1), ModelDraft(ToyDecoder(fable.rows or 0, 400))):
        assert texts(fable, grammar, draft=draft, **asked) == plain


def test_a_draft_proposes_what_the_grammar_allows(fable: LanguageModel) -> None:
    params = SamplingParams(grammar=fable.grammar(PERSON), seed=2, max_new_tokens=200)
    prompt = fable.tokenizer.ids("The king")
    events = continue_text(fable, "The king", params).events
    made = [event.token_id for event in events if event.token_id is not None]
    assert params.grammar is not None
    constraint = params.grammar.start()
    asked: dict[str, Any] = {"params": params, "constraint": constraint}
    numbers = partial(uniform, 2, 0, 0)
    proposed = ModelDraft(fable.decoder()).propose(prompt, 12, numbers=numbers, **asked)
    assert proposed == made[:12]
    # What followed the last time is cut where it may not follow.
    seen = [*prompt, *made[:4], 5, *prompt]
    assert NgramDraft().propose(seen, 8, numbers=numbers, **asked) == made[:4]
    assert constraint.mask(fable.rows or 0, 200).sum() == 1  # as it was


def test_the_mask_comes_after_penalties_and_before_filters(fable: LanguageModel) -> None:
    choices = ["yes", "no", "perhaps", " yes", "nothing"]
    params = SamplingParams(
        grammar=fable.grammar(source.choices(choices)),
        temperature=0.7,
        top_p=0.9,
        repetition_penalty=1.3,
        logprobs=1,
        seed=3,
    )
    prompt = fable.tokenizer.ids("The answer is no or yes:")
    events = continue_text(fable, "The answer is no or yes:", params).events
    first: TokenEvent = next(iter(events))
    decoder = fable.decoder()
    logits: Floats = decoder.append([(decoder.open(), prompt)], prompt=True)[0]
    allowed = np.array(
        [
            bool(fable.token_bytes(token))
            and any(each.encode().startswith(fable.token_bytes(token)) for each in choices)
            for token in range(len(logits))
        ]
    )
    penalized = logits.copy()
    seen = list(set(prompt))
    penalized[seen] = np.where(
        logits[seen] < 0, logits[seen] * np.float32(1.3), logits[seen] / np.float32(1.3)
    )
    drawn = softmax(filter_logits(np.where(allowed, penalized, -np.inf), params))
    assert first.token_id is not None
    raw = softmax(logits)
    assert first.logprob == pytest.approx(math.log(raw[first.token_id]), abs=1e-4)
    assert first.sampled_logprob == pytest.approx(math.log(drawn[first.token_id]), abs=1e-4)
    assert first.allowed_mass == pytest.approx(raw[allowed].sum(), rel=1e-4)


def test_settings_that_leave_nothing(fable: LanguageModel) -> None:
    grammar = fable.grammar(source.choices(["y"]))
    bans = [(each, -math.inf) for each in range(fable.rows or 0) if fable.token_bytes(each) == b"y"]
    params = SamplingParams(grammar=grammar, logit_bias=tuple(bans))
    with pytest.raises(InvalidInput, match="forbid every token that the grammar allows"):
        list(continue_text(fable, "The king", params).events)


@pytest.mark.parametrize("style", ["gpt2", "llama2", "metaspace", "added", "nfc", "prefix_space"])
def test_tokenizers_of_every_kind(
    tokenizer_folders: Callable[[str], Path],  # noqa: F811
    style: str,
) -> None:
    tokenizer = Tokenizer.from_folder(tokenizer_folders(style))
    vocabulary = Vocabulary(tokenizer, eos_ids=[0])
    grammar = Grammar(source.regex("[a-z]{2,6}( [a-z]{2,6}){1,3}"), vocabulary)
    for seed in range(5):
        events = generate(
            ToyDecoder(vocabulary.size + 3, 60),  # rows that only pad
            Prompt(ids=(0,)),
            SamplingParams(grammar=grammar, seed=seed, max_new_tokens=30),
            token_bytes=lambda token: vocabulary.tokens[token],
            eos_ids=[0],
        )
        text = "".join(event.text for event in events)
        assert re.fullmatch("[a-z]{2,6}( [a-z]{2,6}){1,3}", text), text


def test_bytes_are_divided_into_tokens_that_spell_them(fable: LanguageModel) -> None:
    vocabulary = fable.vocabulary

    @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map(str.encode))
    @settings(max_examples=40, deadline=None)
    def divided(data: bytes) -> None:
        for part in (data, data[1:]):  # which may begin inside a character
            assert b"".join(vocabulary.tokens[each] for each in vocabulary.ids(part)) == part

    divided()


def test_without_a_token_that_ends_a_text(fable: LanguageModel) -> None:
    grammar = fable.grammar(source.regex("[0-9]+"))
    [(text, reason)] = texts(fable, grammar, ignore_eos=True, max_new_tokens=9)
    assert text.isdigit()
    assert reason == "grammar"


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"uniqueItems": True}, "has 'uniqueItems', which is not supported"),
        ({"properties": {"a": {"requird": []}}}, "has 'requird' at /properties/a"),
        ({"type": "string", "format": "colour"}, "Unknown format: colour"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "object", "minProperties": 2}, "'minProperties' 2 where names are free"),
        ({"minimum": 1, "exclusiveMinimum": True}, "as draft 4 had it"),
        ({"x-guidance": {"lenient": True}}, "x-guidance"),
        ({"properties": {"a": {"$ref": "#"}}, "required": ["a"], "type": "object"}, "no text"),
        ({"$ref": "https://example.org/x"}, "cannot be used"),
        ({"enum": []}, "Unsatisfiable"),
        ({"anyOf": [3]}, "at /anyOf/0 is no object"),
        (False, "allows nothing"),
    ],
    ids=str,
)
def test_a_schema_that_cannot_be_kept(fable: LanguageModel, schema: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        fable.grammar(source.json_schema(schema))
    assert "\n" not in caught.value.message


def test_a_schema_that_is_too_large_or_too_deep() -> None:
    deep: dict[str, Any] = {}
    for _ in range(200):
        deep = {"items": deep}
    with pytest.raises(InvalidInput, match="nested more than 100 deep"):
        source.json_schema(deep)
    with pytest.raises(InvalidInput, match=r"has 10,000,000 characters"):
        source.parse_json_schema(" " * 10_000_000, source="it")
    with pytest.raises(InvalidInput, match=r"nested too deeply|no JSON"):
        source.parse_json_schema('{"items":' * 100_000, source="it")


@pytest.mark.parametrize("expression", ["(", "a{1000000}", "(a)\\1", "\\bx"])
def test_expressions_that_cannot_be_used(fable: LanguageModel, expression: str) -> None:
    with pytest.raises(InvalidInput, match=r"expression (cannot be used|allows no text)") as caught:
        fable.grammar(source.regex(expression))
    assert "\n" not in caught.value.message


def test_an_expression_that_backtracks_elsewhere(fable: LanguageModel) -> None:
    grammar = fable.grammar(source.regex("(a+)+b"))
    [(text, _)] = texts(fable, grammar, max_new_tokens=60)
    assert re.fullmatch("a+b", text)


def test_what_does_not_go_with_a_grammar(fable: LanguageModel) -> None:
    grammar = fable.grammar(source.choices(["a"]))
    for settings_, message in (({"stop": ("x",)}, "stop text"), ({"num_beams": 2}, "beam search")):
        with pytest.raises(InvalidInput, match=message):
            sampling_params(fable, {"grammar": grammar, **settings_})
    with pytest.raises(InvalidInput, match="Healing"):
        continue_text(fable, "The king", SamplingParams(grammar=grammar), heal=True)
    long = fable.grammar(source.json_schema({"type": "string", "minLength": 400}))
    with pytest.raises(InvalidInput, match="The shortest text of the JSON schema takes"):
        continue_text(fable, "The king", SamplingParams(grammar=long, max_new_tokens=20))
