"""``/v1/completions``: the lone command's text, every field honoured or refused, exact bytes."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import Server, Start

from llmcli.models.language_model import LanguageModel
from llmcli.tasks.generate import continue_text
from llmcli.tasks.prompts import sampling_params
from llmcli.tasks.rank import RankRequest, rank_choices

PROMPT = "Once upon a time"
ROUTE = "/v1/completions"


@pytest.fixture(scope="module")
def server(start_server: Start) -> Iterator[Server]:
    with start_server("--slots", "4") as server:
        yield server


def alone(model: LanguageModel, prompt: str, *, max_tokens: int = 16, **given: Any) -> list[str]:
    """What the command says by itself: a text for each sequence."""
    params = sampling_params(model, {**given, "max_new_tokens": max_tokens})
    events = list(continue_text(model, prompt, params).events)
    return [
        "".join(event.text for event in events if event.index == index)
        for index in range(params.num_return_sequences)
    ]


def streamed(server: Server, prompt: object, **asked: Any) -> tuple[str, list[dict[str, Any]]]:
    chunks = server.chunks(ROUTE, {"prompt": prompt, "stream": True, **asked})
    return "".join(chunk["choices"][0]["text"] for chunk in chunks if chunk["choices"]), chunks


@pytest.mark.parametrize(
    "asked",
    [
        {"temperature": 0},
        {"seed": 5},
        {"seed": 6, "temperature": 1.3, "top_k": 40, "min_p": 0.02, "max_tokens": 40},
        {"seed": 7, "typical_p": 0.8, "repetition_penalty": 1.3, "ignore_eos": True},
        {"seed": 8, "presence_penalty": 1.5, "frequency_penalty": 0.5},
        {"seed": 9, "stop": ["the", "."], "max_tokens": 60},
    ],
    ids=str,
)
def test_the_text_is_the_lone_commands(
    server: Server, fable: LanguageModel, asked: dict[str, Any]
) -> None:
    own = {**asked, "stop": tuple(asked.get("stop", ()))}
    [expected] = alone(fable, PROMPT, **own)
    answer = server.complete(PROMPT, **asked)
    assert answer["choices"][0]["text"] == expected
    text, chunks = streamed(server, PROMPT, **asked)
    assert text == expected
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert [reason for reason in reasons if reason] == reasons[-1:]
    assert reasons[-1] == answer["choices"][0]["finish_reason"]


def test_whatever_else_is_asked(server: Server, fable: LanguageModel) -> None:
    """More requests than slots, of all lengths, some of which leave: the lone command's texts."""
    chance = random.Random(1)
    texts = ["A fox", PROMPT, f"{PROMPT} there was a king who had three sons", "The " * 90]
    asked: list[dict[str, Any]] = [
        {"prompt": chance.choice(texts), "seed": chance.randrange(4), "max_tokens": length}
        for length in (3, 9, 17, 30) * 5
    ]

    def answer(request: dict[str, Any]) -> str:
        if request["seed"] == 3:
            with server.streaming(ROUTE, {**request, "stream": True}) as chunks:
                return str(next(chunks)["choices"][0]["text"])
        return str(server.complete(**request)["choices"][0]["text"])

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(answer, asked))
    for request, text in zip(asked, answers, strict=True):
        [expected] = alone(fable, **request)
        assert expected.startswith(text) if request["seed"] == 3 else text == expected


def test_a_list_of_prompts_is_a_batch(server: Server, fable: LanguageModel) -> None:
    """A prompt's place counts for its random numbers, as a line's does in a batch."""
    answer = server.complete([PROMPT, PROMPT], seed=1, n=2)
    texts = [choice["text"] for choice in answer["choices"]]
    assert texts[:2] == alone(fable, PROMPT, seed=1, num_return_sequences=2)
    assert len(set(texts)) == 4
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["prompt_tokens"] == 8
    by_ids = server.complete([fable.tokenizer.ids(PROMPT)] * 2, seed=1, n=2)
    assert [choice["text"] for choice in by_ids["choices"]] == texts


def test_the_best_of_several(server: Server) -> None:
    every = server.complete(PROMPT, seed=3, n=4, logprobs=0)["choices"]
    means = [
        sum(choice["logprobs"]["token_logprobs"]) / len(choice["logprobs"]["token_logprobs"])
        for choice in every
    ]
    ranked = sorted(range(4), key=lambda index: -means[index])
    answer = server.complete(PROMPT, seed=3, n=2, best_of=4)
    assert [choice["text"] for choice in answer["choices"]] == [
        every[index]["text"] for index in ranked[:2]
    ]
    assert answer["choices"][0]["logprobs"] is None
    assert answer["usage"]["completion_tokens"] == 64


def test_a_seed_is_drawn_and_told(server: Server) -> None:
    first, second = (server.complete(PROMPT, temperature=1) for _ in range(2))
    assert first["seed"] != second["seed"]
    again = server.complete(PROMPT, temperature=1, seed=first["seed"])
    assert again["choices"] == first["choices"]
    assert again["system_fingerprint"] == first["system_fingerprint"]


def test_usage_in_a_stream(server: Server) -> None:
    options = {"include_usage": True}
    _, chunks = streamed(server, PROMPT, seed=1, max_tokens=5, stream_options=options)
    *texts, last = chunks
    assert last["choices"] == []
    usage = last["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (4, 5, 9)
    assert all(chunk["usage"] is None for chunk in texts)
    options["continuous_usage_stats"] = True
    _, chunks = streamed(server, PROMPT, seed=1, max_tokens=5, stream_options=options)
    told = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert (told[0], told[-2:]) == (1, [5, 5])
    assert told == sorted(told)


# -- log-probabilities -----------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompts_tokens_are_told_as_rank_has_them(
    server: Server, fable: LanguageModel, stream: bool
) -> None:
    text = f"{PROMPT} there lived a poor woodcutter, and his cat."
    asked: dict[str, Any] = {"max_tokens": 0, "echo": True, "logprobs": 3}
    if stream:
        told, [chunk] = streamed(server, text, **asked)
        choice = chunk["choices"][0]
    else:
        choice = server.complete(text, **asked)["choices"][0]
        told = choice["text"]
    assert (told, choice["finish_reason"]) == (text, "length")
    logprobs = choice["logprobs"]
    assert "".join(logprobs["tokens"]) == text
    assert logprobs["token_ids"] == fable.tokenizer.ids(text)
    assert logprobs["token_logprobs"][0] is logprobs["top_logprobs"][0] is None
    request = RankRequest(prompt=PROMPT, choices=(text.removeprefix(PROMPT),))
    [ranked] = rank_choices(fable, request).ranked
    behind = logprobs["token_logprobs"][-ranked.tokens :]
    assert sum(behind) == pytest.approx(ranked.logprob, abs=1e-6)
    for place, token in enumerate(logprobs["tokens"]):
        assert text[logprobs["text_offset"][place] :].startswith(token)
        if place:
            best = logprobs["top_logprobs"][place]
            assert 3 <= len(best) <= 4
            assert best[token] == logprobs["token_logprobs"][place]


def test_a_long_prompt_is_told_whole(server: Server, fable: LanguageModel) -> None:
    """It is read in pieces, whose borders leave no trace (but for rounding by transformers)."""
    text = "The king said to the fox: come here. " * 40
    asked: dict[str, Any] = {"echo": True, "logprobs": 0, "max_tokens": 2, "seed": 1}
    [choice] = server.complete(text, **asked)["choices"]
    ids = choice["logprobs"]["token_ids"]
    assert ids[:-2] == fable.tokenizer.ids(text)
    assert choice["text"] == text + alone(fable, text, max_tokens=2, seed=1)[0]
    [whole] = server.complete(ids[:200], **{**asked, "max_tokens": 0})["choices"]
    first, *found = whole["logprobs"]["token_logprobs"]
    expected = choice["logprobs"]["token_logprobs"][1:200]
    assert first is None
    if fable.decoder().rows_alike != 1:
        assert found == expected
    assert found == pytest.approx(expected, abs=1e-4)


def bytes_token(model: LanguageModel, data: bytes) -> int:
    return next(t for t in range(1024) if model.token_bytes(t) == data)


def test_half_characters(server: Server, fable: LanguageModel) -> None:
    """A character over several tokens comes in one piece; its tokens' bytes are told."""
    ids = [bytes_token(fable, bytes([byte])) for byte in "🦊".encode()]
    prompt = [*fable.tokenizer.ids("A "), *ids[:2]]
    bias = {str(ids[2]): 100}
    # Biased, the third byte comes again and again: never a whole character.
    [choice] = server.complete(prompt, logit_bias=bias, temperature=0, logprobs=0, max_tokens=3)[
        "choices"
    ]
    assert choice["logprobs"]["tokens"] == [f"bytes:\\x{'🦊'.encode()[2]:02x}"] * 3
    assert choice["logprobs"]["bytes"] == [["🦊".encode()[2]]] * 3
    assert choice["text"] == "���"
    [echoed] = server.complete([*prompt, *ids[2:]], echo=True, logprobs=1, max_tokens=0)["choices"]
    assert echoed["text"] == "A 🦊"
    assert echoed["logprobs"]["text_offset"][-4:] == [2, 2, 2, 2]
    assert echoed["logprobs"]["tokens"][-4:] == [f"bytes:\\x{byte:02x}" for byte in "🦊".encode()]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 50), start=st.integers(0, 40), length=st.integers(1, 7))
def test_no_stop_string_leaks(server: Server, seed: int, start: int, length: int) -> None:
    """Neither by the text nor by the tokens that are told beside it."""
    asked = {"seed": seed, "temperature": 1, "max_tokens": 12, "logprobs": 0}
    full = server.complete(PROMPT, **asked)["choices"][0]["text"]
    stop = full[start : start + length] or full[:1]
    if not stop:
        return
    before = full[: full.index(stop)]
    text, chunks = streamed(server, PROMPT, stop=stop, **asked)
    assert text == before
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    tokens = [t for chunk in chunks for t in chunk["choices"][0]["logprobs"]["tokens"]]
    whole = server.complete(PROMPT, stop=stop, **asked)["choices"][0]
    assert whole["text"] == before
    assert whole["logprobs"]["tokens"] == tokens
    offsets = whole["logprobs"]["text_offset"]
    assert all(offset < len(before) for offset in offsets)


def test_steps_in_full(server: Server) -> None:
    """What a client of ours makes its own records of."""
    [choice] = server.complete(PROMPT, seed=1, logprobs=1, token_events=True, stop=" the")[
        "choices"
    ]
    events = choice["token_events"]
    assert "".join(event["text"] for event in events) == choice["text"]
    assert (events[-1]["finish_reason"], events[-1]["stop"]) == ("stop", " the")
    assert all(len(event["top"]) == 1 for event in events)


# -- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "param", "words"),
    [
        ({"promt": "x"}, "promt", "Unknown field: promt"),
        ({"prompt": "x", "b": 1, "a": 2}, "a", "Unknown fields: a, b"),
        ({}, "prompt", "missing required field `prompt`"),
        ({"prompt": "x", "temperature": "hot"}, "temperature", "got `str`"),
        ({"prompt": "x", "temperature": -1}, "temperature", ">= 0"),
        ({"prompt": "x", "top_p": 0}, "top_p", "> 0"),
        ({"prompt": "x", "n": 0}, "n", ">= 1"),
        ({"prompt": "x", "logprobs": 21}, "logprobs", "<= 20"),
        ({"prompt": "x", "max_tokens": True}, "max_tokens", "bool"),
        ({"prompt": "x", "seed": -1}, "seed", ">= 0"),
        ({"prompt": "x", "stop": ""}, "stop", "length >= 1"),
        ({"prompt": "x", "n": 3, "best_of": 2}, "best_of", "below n"),
        ({"prompt": "x", "best_of": 2, "stream": True}, "best_of", "streamed"),
        ({"prompt": "x", "stream_options": {}}, "stream_options", "goes with stream"),
        ({"prompt": "x", "min_tokens": 20}, None, "above max_new_tokens"),
        ({"prompt": "x", "logit_bias": {"fox": 1}}, "logit_bias", "no.* token id|not a token id"),
        ({"prompt": "x", "logit_bias": {"99999": 1}}, "logit_bias", "no token 99999"),
        ({"prompt": "x", "suffix": "y"}, "suffix", "no tokens for filling in the middle"),
        ({"prompt": "x", "tools": [{}]}, "tools", "not supported"),
        ({"prompt": ""}, "prompt", "empty"),
        ({"prompt": []}, "prompt", "empty"),
        ({"prompt": ["x", 1]}, "prompt", "mixes"),
        ({"prompt": [99999]}, "prompt", "no token 99999"),
        ({"prompt": [5] * 1024}, "prompt", "1024 tokens; the context holds 1024"),
        ({"prompt": "fox " * 3000}, "prompt", "tokens; the context holds 1024"),
    ],
)
def test_what_is_wrong_is_named(
    server: Server, asked: dict[str, Any], param: str | None, words: str
) -> None:
    answer = server.post(ROUTE, asked)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert re.search(words, error["message"]), error["message"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"prompt": "\\ud800"}', b'{"prompt": "\xff"}']
)
def test_bodies_that_are_no_requests(server: Server, body: bytes) -> None:
    answer = server.post(ROUTE, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].endswith(".")


def test_other_models_routes_and_methods(server: Server) -> None:
    answer = server.post(ROUTE, {"prompt": "x", "model": "gpt-4"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert server.get("/v1/nothing").json()["error"]["code"] == "not_found"
    assert server.get(ROUTE).status_code == 405
    assert server.client.post("/v1/models").status_code == 405
    assert server.get("/v1/models").json()["data"][0]["id"] == "fable"
    assert server.get("/v1/models/fable").json()["max_model_len"] == 1024
    assert server.get("/v1/models/other").status_code == 404


def test_harmless_fields_and_nulls_are_taken(server: Server) -> None:
    answer = server.complete(
        PROMPT, model="fable", user="me", metadata={"a": "b"}, stop=None, logit_bias=None, n=None
    )
    assert answer["choices"][0]["finish_reason"] == "length"


def test_the_context_is_an_end(server: Server) -> None:
    answer = server.complete([5] * 1020, max_tokens=100, temperature=0, ignore_eos=True)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 4


def test_a_body_that_is_not_said_to_be_json(server: Server) -> None:
    """A page of another origin can send only such ones without being asked first."""
    answer = server.post(ROUTE, content=b'{"prompt": "x"}', headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415


def test_a_name_that_points_here(server: Server) -> None:
    answer = server.get("/v1/models", headers={"Host": "evil.example"})
    assert answer.status_code == 421
