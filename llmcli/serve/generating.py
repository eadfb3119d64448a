"""The routes that make text: from a body to an answer, whole or as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from llmcli.errors import InvalidInput
from llmcli.serve.answers import Answer, Face, Step
from llmcli.serve.engine import ClientGone, Engine, EngineDied, Job, QueueFull, ServerEnds
from llmcli.serve.errors import ApiError, api_error, engine_died, queue_full, shutting_down
from llmcli.serve.gate import Record, respond
from llmcli.serve.plan import Plan
from llmcli.serve.telemetry import AnswerSpan, Operation, answer_span

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer
    from starlette.types import Receive, Scope, Send

_EVENT_STREAM = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


async def read_body(receive: Receive) -> bytes:
    """A request's body.

    Raises:
        ClientGone: it breaks off.
        ApiError: it is too long.
    """
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Generating:
    """A route that makes text; an application of ASGI.

    Attributes:
        engine: What makes it.
        prepare: From a body to a plan, and how its answer is worded.
        answer: What gathers an answer.
        timeout: Seconds that an answer may take; None for any.
        finished: Called with each job when it is over.
        operation: What spans call the route.
        tracer: Makes spans; None for none.
    """

    engine: Engine
    prepare: Callable[[bytes], Awaitable[tuple[Plan, Face]]]
    answer: Callable[[Plan, Face], Answer]
    timeout: float | None
    finished: Callable[[Job, Answer], None]
    operation: Operation
    tracer: Tracer | None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with answer_span(self.tracer, self.operation, self.engine.model.name, scope) as span:
            try:
                await self._answer(scope, receive, send, span)
            except ClientGone:
                span.failed("client_disconnected")

    async def _answer(self, scope: Scope, receive: Receive, send: Send, span: AnswerSpan) -> None:
        """Answer a request.

        Raises:
            ApiError: it cannot be answered, and nothing was sent yet.
            ClientGone: nobody waits for the answer.
        """
        plan, face = await self.prepare(await read_body(receive))
        span.asked(plan)
        answer = self.answer(plan, face)
        try:
            job = Job(requests=plan.requests(), stream=plan.stream)
            self.engine.submit(job)
        except InvalidInput as exc:
            raise api_error(exc) from exc
        except QueueFull:
            raise queue_full() from None
        except EngineDied:
            raise engine_died() from None
        watch = asyncio.create_task(_left(receive, job, self.engine))
        stream = _Stream(send)
        try:
            await self._run(answer, job, send, stream)
        except ApiError as exc:
            if not stream.begun:
                raise
            span.failed(exc.code or str(exc.status), status=exc.status)
            await stream.fail(exc)
        finally:
            watch.cancel()
            self.engine.done_with(job)
            answer.cached_tokens = job.cached_tokens
            _note(scope["record"], answer, job)
            span.answered(answer, job)
            self.finished(job, answer)

    async def _run(self, answer: Answer, job: Job, send: Send, stream: _Stream) -> None:
        try:
            async with asyncio.timeout(self.timeout):
                if answer.plan.stream:
                    await stream.run(answer, job)
                    return
                while not answer.finished:
                    answer.take(await job.news())
                answer.cached_tokens = job.cached_tokens
                await respond(send, 200, answer.whole())
        except EngineDied:
            raise engine_died() from None
        except ServerEnds:
            raise shutting_down() from None
        except TimeoutError:
            raise ApiError(
                504, f"The answer took longer than {self.timeout:g} seconds.", code="timeout"
            ) from None


async def _left(receive: Receive, job: Job, engine: Engine) -> None:
    """Wait for the client to leave, and let go of its job then."""
    while (await receive())["type"] != "http.disconnect":
        pass
    engine.done_with(job)
    job.abandon()


class _Stream:
    """Server-sent events.

    What goes wrong before the first of them is an answer with a status, after it an event.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False

    async def run(self, answer: Answer, job: Job) -> None:
        """Send what comes until all is there."""
        while not answer.finished:
            await self._write(_events(answer, answer.take(await job.news())))
        answer.cached_tokens = job.cached_tokens
        last = [answer.last_chunk()] if answer.plan.include_usage else []
        await self._write(b"".join(map(_event, last)) + b"data: [DONE]\n\n", last=True)

    async def fail(self, error: ApiError) -> None:
        """End with what went wrong."""
        await self._write(_event(error.body()), last=True)

    async def _write(self, data: bytes, *, last: bool = False) -> None:
        if not data:
            return
        if not self.begun:
            self.begun = True
            await self._send(
                {"type": "http.response.start", "status": 200, "headers": _EVENT_STREAM}
            )
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})


def _events(answer: Answer, steps: Sequence[Step]) -> bytes:
    chunks = (answer.chunk(step) for step in steps)
    return b"".join(_event(chunk) for chunk in chunks if chunk is not None)


def _event(content: object) -> bytes:
    return b"data: " + msgspec.json.encode(content) + b"\n\n"


def _note(record: Record, answer: Answer, job: Job) -> None:
    """What the access log says of an answer."""
    record.details |= {
        "stream": answer.plan.stream,
        "prompt_tokens": answer.plan.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "cached_tokens": answer.cached_tokens,
        "finish_reasons": [each.finish_reason for each in answer.choices],
    }
    if job.started is not None:
        record.details["queue_seconds"] = job.started - job.submitted
    if job.first_token is not None:
        record.details["first_token_seconds"] = job.first_token - job.submitted
