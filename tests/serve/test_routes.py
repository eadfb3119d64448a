"""Conversations, tokens, figures and descriptions; and all of it through OpenAI's own client."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import msgspec
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from servers import Server, Start

from llmcli.models.language_model import LanguageModel
from llmcli.tasks.chat import Conversation, Message, Reply, template_for
from llmcli.tasks.next import predict
from llmcli.tasks.prompts import sampling_params
from llmcli.tasks.rank import RankRequest, rank_choices
from llmcli.tasks.score import ScoreRequest, Scoring

CHAT = "/v1/chat/completions"
MESSAGES = [
    {"role": "system", "content": "You tell tales."},
    {"role": "user", "content": "Tell me of a fox."},
]


@pytest.fixture(scope="module")
def server(start_server: Start) -> Iterator[Server]:
    with start_server("--template", "plain") as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def untimed(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if "second" not in key}


# -- conversations ---------------------------------------------------------------------------


def test_an_answer_is_the_chat_commands(server: Server, fable: LanguageModel) -> None:
    settings: dict[str, Any] = {"seed": 4, "temperature": 0.9}
    talk = Conversation(
        model=fable,
        template=template_for(fable, "plain"),
        params=sampling_params(fable, {**settings, "max_new_tokens": 24}),
        messages=[Message(**each) for each in MESSAGES],
    )
    reply = Reply()
    list(talk.answer(reply))
    answer = server.post(CHAT, {"messages": MESSAGES, "max_tokens": 24, **settings}).json()
    assert answer["object"] == "chat.completion"
    [choice] = answer["choices"]
    told: dict[str, Any] = {
        "role": "assistant",
        "content": reply.text,
        "refusal": None,
        "annotations": [],
    }
    assert choice["message"] == told
    assert answer["usage"]["prompt_tokens"] == reply.prompt_tokens
    asked = {"messages": MESSAGES, "max_completion_tokens": 24, "stream": True, **settings}
    chunks = server.chunks(CHAT, asked)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta["content"] for delta in deltas) == reply.text
    assert [delta.get("role") for delta in deltas][:2] == ["assistant", None]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-1] in ("length", "stop")


def test_the_tokens_of_an_answer(server: Server) -> None:
    asked = {"messages": MESSAGES, "max_tokens": 6, "seed": 1, "logprobs": True, "top_logprobs": 2}
    [choice] = server.post(CHAT, asked).json()["choices"]
    content = choice["logprobs"]["content"]
    assert (
        b"".join(bytes(each["bytes"]) for each in content).decode()
        == (choice["message"]["content"])
    )
    assert all(len(each["top_logprobs"]) == 2 for each in content)
    assert all(each["logprob"] <= each["top_logprobs"][0]["logprob"] for each in content)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"messages": []}, "length >= 1"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "role 'robot'"),
        ({"messages": [{"role": "user", "content": ""}]}, "empty"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "image_url"),
        ({"messages": MESSAGES, "tools": [{"type": "function"}]}, "tools"),
        ({"messages": MESSAGES, "top_logprobs": 3}, "goes with logprobs"),
        ({"messages": MESSAGES, "max_tokens": 1, "max_completion_tokens": 1}, "not both"),
        ({"messages": MESSAGES, "prompt": "x"}, "Unknown field: prompt"),
        ({"messages": [{"role": "user", "content": "fox " * 3000}]}, "the context holds 1024"),
    ],
)
def test_conversations_that_are_refused(server: Server, asked: dict[str, Any], words: str) -> None:
    answer = server.post(CHAT, asked)
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]


def test_parts_of_text_and_newer_names(server: Server) -> None:
    parts = [{"type": "text", "text": "Tell me "}, {"type": "text", "text": "of a fox."}]
    newer = [
        {"role": "developer", "content": "You tell tales."},
        {"role": "user", "content": parts},
    ]
    answers = [
        server.post(CHAT, {"messages": each, "seed": 1, "max_tokens": 8}).json()["choices"]
        for each in (MESSAGES, newer)
    ]
    assert answers[0] == answers[1]


def test_an_answer_by_a_schema(server: Server, client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"animal": {"enum": ["fox", "crow"]}, "age": {"type": "integer"}},
        "required": ["animal", "age"],
        "additionalProperties": False,
    }
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "tale", "schema": schema}}
    asked: dict[str, Any] = {"model": "fable", "messages": MESSAGES, "max_tokens": 60, "seed": 1}
    [choice] = client.chat.completions.create(**asked, response_format=wanted).choices
    found = msgspec.json.decode(choice.message.content or "")
    assert found["animal"] in ("fox", "crow")
    assert isinstance(found["age"], int)
    assert choice.finish_reason == "stop"
    chunks = server.chunks(CHAT, {**asked, "response_format": wanted, "stream": True})
    told = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)
    assert told == choice.message.content
    for wrong in (
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "nonsense"}}},
    ):
        answer = server.post(CHAT, {**asked, "response_format": wrong})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "response_format"


# -- tokens ----------------------------------------------------------------------------------


def test_tokens_and_back(server: Server, fable: LanguageModel) -> None:
    text = "The naïve fox 🦊 <|endoftext|>"
    answer = server.post("/tokenize", {"prompt": text, "return_token_strs": True}).json()
    assert answer["tokens"] == fable.tokenizer.ids(text)
    assert answer["count"] == len(answer["token_strs"]) == len(answer["tokens"])
    back = server.post("/detokenize", {"tokens": answer["tokens"]}).json()
    assert back == {"prompt": text, "bytes": list(text.encode())}
    messages = server.post("/tokenize", {"messages": MESSAGES}).json()
    usage = server.post(CHAT, {"messages": MESSAGES, "max_tokens": 1}).json()["usage"]
    assert messages["count"] == usage["prompt_tokens"]
    info = server.get("/tokenizer_info").json()
    assert (info["eos_token"], info["eos_token_id"]) == ("<|endoftext|>", 0)
    assert server.post("/detokenize", {"tokens": [99999]}).status_code == 400
    assert server.post("/tokenize", {}).status_code == 400


# -- figures ---------------------------------------------------------------------------------


def test_the_commands_figures(server: Server, fable: LanguageModel) -> None:
    text = "Once upon a time there was a fox who lived by the river. " * 30
    request = ScoreRequest(convention="hf", context=128, stride=64)
    scoring = Scoring(model=fable, request=request)
    convention = scoring.convention()
    [(_, tally)] = scoring.scorer(convention).run([(None, [text])])
    expected = scoring.answer(tally.score(), convention, 0.0).to_dict()
    body = {"text": text, "convention": "hf", "context": 128, "stride": 64}
    answer = server.post("/v1/score", body).json()
    assert untimed(answer) == untimed(msgspec.json.decode(msgspec.json.encode(expected)))
    ranked = server.post("/v1/rank", {"prompt": "The fox said", "choices": ["no", "yes"]}).json()
    asked = RankRequest(prompt="The fox said", choices=("no", "yes"))
    assert ranked == rank_choices(fable, asked).to_dict()
    given = {"top_k": 5}
    following = server.post("/v1/next", {"prompt": "The fox", "count": 3, **given}).json()
    expected = predict(fable, "The fox", given, count=3).to_dict()
    assert following["candidates"] == expected["candidates"]
    assert following["filters"] == expected["filters"]


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/v1/score", {"text": ""}),
        ("/v1/score", {"text": "x", "convention": "mine"}),
        ("/v1/score", {"text": "x", "bos": False}),
        ("/v1/score", {"text": "x", "convention": "pll-word-l2r"}),
        ("/v1/score", {"text": "x", "context": 99999}),
        ("/v1/rank", {"prompt": "x", "choices": []}),
        ("/v1/rank", {"prompt": "x" * 9000, "choices": ["y"]}),
        ("/v1/next", {"prompt": "x", "logit_bias": {"-1": 1}}),
    ],
)
def test_figures_that_are_refused(server: Server, route: str, body: dict[str, Any]) -> None:
    answer = server.post(route, body)
    assert answer.status_code == 400, answer.text
    assert server.get("/health").json() == {"status": "ok"}


def test_what_is_counted(server: Server) -> None:
    def figures() -> dict[str, float]:
        text = server.get("/metrics").text
        return {
            sample.name
            + "".join(sample.labels.get(name, "") for name in ("path", "status")): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if "le" not in sample.labels
        }

    before = figures()
    server.complete("Once upon a time", max_tokens=5, ignore_eos=True)
    server.get("/v1/secret-path")
    after = figures()
    assert after["llmcli_completion_tokens_total"] == before["llmcli_completion_tokens_total"] + 5
    assert after["llmcli_prompt_tokens_total"] == before["llmcli_prompt_tokens_total"] + 4
    assert after["llmcli_first_token_seconds_count"] > before["llmcli_first_token_seconds_count"]
    assert (
        after["llmcli_requests_totalother404"] == before.get("llmcli_requests_totalother404", 0) + 1
    )
    assert after["llmcli_slots"] == 8


def test_the_description(server: Server) -> None:
    described = server.get("/openapi.json").json()
    schema = described["components"]["schemas"]["CompletionRequest"]
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["prompt"]
    for path, methods in described["paths"].items():
        for method in methods:
            assert server.client.request(method.upper(), path).status_code in (200, 400, 415)


def test_probabilities_add_up(server: Server) -> None:
    """All of a vocabulary's alternatives that fit are told with their own probabilities."""
    answer = server.complete("The fox", max_tokens=1, logprobs=20)
    [top] = answer["choices"][0]["logprobs"]["top_logprobs"]
    assert 0 < sum(map(math.exp, top.values())) <= 1 + 1e-6
