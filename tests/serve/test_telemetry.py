"""Spans of OpenTelemetry, in this process: what they tell of an answer, and what they do not."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes, openai_attributes
from opentelemetry.trace import SpanKind, StatusCode
from servers import in_this_process

from llmcli.models.language_model import LanguageModel
from llmcli.serve.app import App
from llmcli.serve.telemetry import find_tracer

ROUTE = "/v1/completions"
PROMPT = "Once upon a time"
KNOWN = {
    value
    for module in (gen_ai_attributes, openai_attributes)
    for name, value in vars(module).items()
    if name.isupper() and isinstance(value, str)
} | {"error.type", "server.address", "server.port"}


def spans_of(
    model: LanguageModel, talk: Callable[[App, httpx2.AsyncClient], Awaitable[None]]
) -> list[ReadableSpan]:
    """The spans of what is asked of a server in this process."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    async def run() -> None:
        async with in_this_process(model, tracer=provider.get_tracer("tests")) as (app, client):
            await talk(app, client)

    asyncio.run(run())
    spans = list(exporter.get_finished_spans())
    for span in spans:
        assert span.kind is SpanKind.SERVER
        assert span.attributes is not None
        assert not span.attributes.keys() - KNOWN
        assert PROMPT not in span.to_json()
    return spans


def test_what_a_span_tells(fable: LanguageModel) -> None:
    answers: list[dict[str, Any]] = []
    asked = {"prompt": PROMPT, "max_tokens": 7, "seed": 3, "n": 2, "top_k": 9, "stop": ["zebra"]}
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    async def talk(app: App, client: httpx2.AsyncClient) -> None:
        answer = await client.post(ROUTE, json=asked, headers={"traceparent": parent})
        answers.append(answer.json())
        messages = [{"role": "user", "content": PROMPT}]
        body = {"messages": messages, "max_tokens": 3, "seed": 1, "stream": True}
        answer = await client.post("/v1/chat/completions", json=body)
        answers.append(json.loads(answer.text.splitlines()[0].removeprefix("data: ")))

    completion, chat = spans_of(fable, talk)
    assert completion.name == "text_completion fable"
    context = completion.get_span_context()
    assert context is not None
    assert f"{context.trace_id:032x}" == parent.split("-")[1]
    assert completion.parent is not None
    assert f"{completion.parent.span_id:016x}" == parent.split("-")[2]
    assert completion.status.status_code is StatusCode.UNSET
    usage = answers[0]["usage"]
    assert dict(completion.attributes or {}) == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "llmcli",
        "gen_ai.request.model": "fable",
        "server.address": "here",
        "gen_ai.request.max_tokens": 7,
        "gen_ai.request.temperature": 0.8,
        "gen_ai.request.top_p": 0.95,
        "gen_ai.request.top_k": 9.0,
        "gen_ai.request.stop_sequences": ("zebra",),
        "gen_ai.request.seed": 3,
        "gen_ai.request.choice.count": 2,
        "gen_ai.request.stream": False,
        "gen_ai.response.id": answers[0]["id"],
        "gen_ai.response.model": "fable",
        "gen_ai.response.finish_reasons": ("length", "length"),
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.output_tokens": usage["completion_tokens"],
        "gen_ai.usage.cache_read.input_tokens": usage["prompt_tokens_details"]["cached_tokens"],
        "openai.response.system_fingerprint": answers[0]["system_fingerprint"],
    }
    assert chat.parent is None
    told = chat.attributes or {}
    assert told["gen_ai.operation.name"] == "chat"
    assert told["gen_ai.response.id"] == answers[1]["id"]
    first = told["gen_ai.response.time_to_first_chunk"]
    assert isinstance(first, float)
    assert chat.start_time is not None
    assert chat.end_time is not None
    assert 0 < first <= (chat.end_time - chat.start_time) / 1e9


def test_what_went_wrong(fable: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    body = json.dumps({"prompt": PROMPT, "max_tokens": 900, "stream": True}).encode()
    headers = [(b"content-type", b"application/json"), (b"host", b"here")]
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": ROUTE, "headers": headers}
    scope |= {"query_string": b"", "server": ("/run/socket", None)}

    async def talk(app: App, client: httpx2.AsyncClient) -> None:
        assert (await client.post(ROUTE, json={"prompt": PROMPT, "n": 0})).status_code == 400
        left = asyncio.Event()
        messages = iter([{"type": "http.request", "body": body}])

        async def receive() -> dict[str, Any]:
            if (message := next(messages, None)) is not None:
                return message
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            left.set()  # with the answer's first bytes

        await app.asgi({**scope}, receive, send)  # type: ignore[arg-type]

        def dies(*args: object, **options: object) -> None:
            raise RuntimeError("the weights are gone")

        monkeypatch.setattr(app.engine.decoder, "append", dies)
        assert (await client.post(ROUTE, json={"prompt": PROMPT})).status_code == 503

    wrong, gone, died = spans_of(fable, talk)
    kinds = [(span.attributes or {})["error.type"] for span in (wrong, gone, died)]
    assert kinds == ["invalid_value", "client_disconnected", "engine_failed"]
    codes = [span.status.status_code for span in (wrong, gone, died)]
    assert codes == [StatusCode.UNSET, StatusCode.UNSET, StatusCode.ERROR]
    told = gone.attributes or {}
    assert told["server.address"] == "/run/socket"
    assert "server.port" not in told
    assert "gen_ai.response.finish_reasons" not in told
    made = told["gen_ai.usage.output_tokens"]
    assert isinstance(made, int)
    assert made < 900


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_tracer() is not None
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    assert find_tracer() is None
