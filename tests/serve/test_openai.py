"""OpenAI's own client: every parameter, streams, its exceptions, its retries."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsBase as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsBase as CompletionParams
from servers import Server, Start, in_this_process

from llmcli.models.language_model import LanguageModel

KEY = "a-key-for-tests"
MESSAGES = [
    {"role": "system", "content": "You tell tales."},
    {"role": "user", "content": "Tell me of a fox."},
]
COMPLETION: dict[str, Any] = {
    "model": "fable",
    "prompt": "Once upon a time",
    "best_of": 2,
    "echo": True,
    "frequency_penalty": 0.5,
    "logit_bias": {"50": -100},
    "max_tokens": 8,
    "n": 2,
    "presence_penalty": 0.5,
    "seed": 3,
    "stop": ["zebra"],
    "temperature": 0.7,
    "top_p": 0.9,
    "user": "me",
}
CHAT: dict[str, Any] = {
    "model": "fable",
    "messages": MESSAGES,
    "frequency_penalty": 0.1,
    "logit_bias": {"50": -1},
    "logprobs": True,
    "max_completion_tokens": 8,
    "metadata": {"a": "b"},
    "modalities": ["text"],
    "n": 1,
    "parallel_tool_calls": True,
    "presence_penalty": 0.1,
    "prompt_cache_key": "a",
    "prompt_cache_options": {"mode": "implicit"},
    "prompt_cache_retention": "24h",
    "response_format": {"type": "text"},
    "safety_identifier": "a",
    "seed": 2,
    "service_tier": "auto",
    "stop": "zebra",
    "store": False,
    "temperature": 0.9,
    "tool_choice": "none",
    "top_logprobs": 1,
    "top_p": 0.9,
    "user": "me",
}
# What cannot be honoured, with the parameter that is named.
REFUSED: dict[str, Any] = {
    "audio": {"format": "wav", "voice": "alloy"},
    "function_call": {"name": "f"},
    "functions": [{"name": "f"}],
    "moderation": {"model": "omni"},
    "prediction": {"type": "content", "content": "a"},
    "reasoning_effort": "low",
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "verbosity": "low",
    "web_search_options": {},
}


@pytest.fixture(scope="module")
def server(start_server: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"{KEY}\n")
    options = ["--template", "plain", "--slots", "1", "--queue", "1", "--max-body", "20000"]
    with start_server(*options, "--api-key-file", str(keys)) as server:
        server.client.headers["Authorization"] = f"Bearer {KEY}"
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def test_completions(client: openai.OpenAI, server: Server) -> None:
    assert [model.id for model in client.models.list()] == ["fable"]
    assert client.models.retrieve("fable").id == "fable"
    whole = client.completions.create(**COMPLETION, logprobs=2)
    assert [choice.text for choice in whole.choices] == [
        choice["text"] for choice in server.complete(**COMPLETION)["choices"]
    ]
    logprobs = whole.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert "".join(logprobs.tokens) == whole.choices[0].text
    texts = ["", ""]
    options: Any = {"include_usage": True}
    for chunk in client.completions.create(**COMPLETION, stream=True, stream_options=options):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
        usage = chunk.usage
    assert texts == [choice.text for choice in whole.choices]
    assert usage == whole.usage
    told = {*COMPLETION, "logprobs", "stream_options"}
    assert CompletionParams.__annotations__.keys() - told == {"suffix"}


def test_conversations(client: openai.OpenAI, server: Server) -> None:
    answer = client.chat.completions.create(**CHAT)
    text = answer.choices[0].message.content
    assert answer.choices[0].logprobs is not None
    told = ""
    options: Any = {"include_usage": True}
    for chunk in client.chat.completions.create(**CHAT, stream=True, stream_options=options):
        told += "".join(choice.delta.content or "" for choice in chunk.choices)
        usage = chunk.usage
    assert told == text
    assert usage is not None
    assert usage.completion_tokens == 8

    async def both() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY) as one:
            made = [one.chat.completions.create(**CHAT) for _ in range(2)]
            return [each.choices[0].message.content for each in await asyncio.gather(*made)]

    assert asyncio.run(both()) == [text, text]
    old = {"max_tokens": 8, "max_completion_tokens": openai.omit}
    older = client.chat.completions.create(**CHAT | old)
    assert older.choices[0].message.content == text


def test_every_parameter_of_a_conversation(client: openai.OpenAI) -> None:
    """It is honoured, or refused by its name."""
    told = {*CHAT, *REFUSED, "max_tokens", "stream_options"}
    assert ChatParams.__annotations__.keys() <= told
    for name, value in REFUSED.items():
        if name == "web_search_options":
            value = {"search_context_size": "low"}
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(**CHAT | {name: value})
        assert refused.value.param == name
        assert refused.value.code == "unsupported_parameter"


def test_errors_are_its_exceptions(client: openai.OpenAI) -> None:
    def ask(**asked: Any) -> Any:
        return client.completions.create(**{**COMPLETION, **asked})

    with pytest.raises(openai.BadRequestError, match="top_p") as refused:
        ask(top_p=3)
    assert (refused.value.param, refused.value.type) == ("top_p", "invalid_request_error")
    with pytest.raises(openai.BadRequestError, match="the context holds 1024") as refused:
        ask(prompt=[5] * 1024)
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError) as missing:
        ask(model="other")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.APIStatusError) as large:
        ask(prompt="x" * 20_000)
    assert large.value.status_code == 413
    with pytest.raises(openai.AuthenticationError) as stranger:
        client.with_options(api_key="another").models.list()
    assert stranger.value.code == "invalid_api_key"


LONG: dict[str, Any] = {"model": "fable", "prompt": "The fox", "max_tokens": 900, "seed": 1}
LONG["extra_body"] = {"ignore_eos": True}


def test_a_full_queue_is_tried_again(
    client: openai.OpenAI, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the time that the server says; meanwhile there is room."""
    waited: list[float] = []
    with ThreadPoolExecutor(1) as pool:
        running = client.completions.create(**LONG, stream=True)
        next(running)
        waiting = pool.submit(server.complete, "A fox", max_tokens=1)
        while server.get("/readyz").json()["waiting"] != 1:
            pass
        with pytest.raises(openai.RateLimitError) as full:
            client.completions.create(**COMPLETION)
        assert full.value.code == "queue_full"

        def sleep(seconds: float) -> None:
            waited.append(seconds)
            running.close()
            waiting.result()

        monkeypatch.setattr("time.sleep", sleep)
        answer = client.with_options(max_retries=1).completions.create(**COMPLETION)
    assert len(answer.choices) == 2
    assert waited == [1]


def test_retries_without_threads(fable: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The asynchronous client, by a full queue and by a server that is about to end."""
    waited: list[float] = []

    async def run() -> None:
        async with in_this_process(fable) as (app, http):
            client = openai.AsyncOpenAI(
                base_url="http://here/v1", api_key="none", http_client=http, max_retries=1
            )
            running = asyncio.create_task(client.completions.create(**LONG))
            while not app.engine.running:
                await asyncio.sleep(0)
            waiting = asyncio.create_task(client.completions.create(**{**LONG, "max_tokens": 1}))
            while not app.engine.waiting:
                await asyncio.sleep(0)

            async def sleep(seconds: float) -> None:
                waited.append(seconds)
                running.cancel()
                await waiting
                app.draining = False

            monkeypatch.setattr("anyio.sleep", sleep)
            with pytest.raises(openai.RateLimitError):
                await client.with_options(max_retries=0).completions.create(**COMPLETION)
            assert (await client.completions.create(**COMPLETION)).choices
            app.draining = True
            with pytest.raises(openai.InternalServerError) as ending:
                await client.with_options(max_retries=0).completions.create(**COMPLETION)
            assert (ending.value.status_code, ending.value.code) == (503, "shutting_down")
            assert (await client.completions.create(**COMPLETION)).choices

    asyncio.run(run())
    assert waited == [1, 5]


def test_what_fails_in_a_stream(fable: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an exception after the text that came; and of all that is asked later."""
    texts: list[str] = []

    async def run() -> None:
        async with in_this_process(fable) as (app, http):
            client = openai.AsyncOpenAI(
                base_url="http://here/v1", api_key="none", http_client=http, max_retries=0
            )
            decoder, calls = app.engine.decoder, iter(range(9))
            append = decoder.append

            def fails_in_the_end(*args: Any, **options: Any) -> Any:
                if next(calls) == 5:
                    raise RuntimeError("the weights are gone")
                return append(*args, **options)

            monkeypatch.setattr(decoder, "append", fails_in_the_end)
            chunks = aiter(await client.completions.create(**LONG, stream=True))
            for _ in range(5):
                texts.append((await anext(chunks)).choices[0].text)
            with pytest.raises(openai.APIError, match="The engine has failed") as failed:
                await anext(chunks)
            assert failed.value.code == "engine_failed"
            with pytest.raises(openai.InternalServerError):
                await client.completions.create(**COMPLETION)

    asyncio.run(run())
    assert all(texts)
