"""Spans of OpenTelemetry for the answers that are made, by its conventions for generative AI.

Nothing is told where the package is not there, and never a text. The conventions:
https://github.com/open-telemetry/semantic-conventions-genai
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from llmcli._version import __version__
from llmcli.serve.errors import ApiError

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer
    from starlette.types import Scope

    from llmcli.serve.answers import Answer
    from llmcli.serve.engine import Job
    from llmcli.serve.plan import Plan

Operation = Literal["text_completion", "chat"]


def find_tracer() -> Tracer | None:
    """What makes spans, if OpenTelemetry is installed; whoever runs the server configures it."""
    try:
        from opentelemetry import trace
    except ModuleNotFoundError:
        return None
    return trace.get_tracer("llmcli", __version__)


class AnswerSpan:
    """The span of one answer.

    Args:
        span: None where nobody wants to know.
    """

    def __init__(self, span: Span | None) -> None:
        self._span = span

    def asked(self, plan: Plan) -> None:
        """Tell the settings in force."""
        if self._span is None:
            return
        params = plan.params
        told: dict[str, Any] = {
            "max_tokens": params.max_new_tokens,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_k": float(params.top_k) or None,
            "presence_penalty": params.presence_penalty or None,
            "frequency_penalty": params.frequency_penalty or None,
            "stop_sequences": params.stop or None,
            "seed": params.seed,
            "choice.count": plan.n if plan.n > 1 else None,
            "stream": plan.stream,
        }
        self._set("gen_ai.request", told)
        if params.grammar is not None:
            self._span.set_attribute("gen_ai.output.type", "json")

    def answered(self, answer: Answer, job: Job) -> None:
        """Tell how the answer came, whether or not to its end."""
        if self._span is None:
            return
        reasons = [each.finish_reason for each in answer.choices if each.finish_reason]
        first = None
        if answer.plan.stream and job.first_token is not None:
            first = job.first_token - job.submitted
        told = {
            "id": answer.id,
            "model": answer.model,
            "finish_reasons": reasons or None,
            "time_to_first_chunk": first,
        }
        self._set("gen_ai.response", told)
        used = {
            "input_tokens": answer.plan.prompt_tokens,
            "output_tokens": answer.completion_tokens,
            "cache_read.input_tokens": answer.cached_tokens,
        }
        self._set("gen_ai.usage", used)
        self._span.set_attribute("openai.response.system_fingerprint", answer.fingerprint)

    def failed(self, kind: str, *, status: int | None = None) -> None:
        """Tell that the answer was not made, or not to its end.

        Args:
            kind: Why, in a word.
            status: Of HTTP; from 500 on it is the server that failed.
        """
        if self._span is None:
            return
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("error.type", kind)
        if status is not None and status >= 500:
            self._span.set_status(StatusCode.ERROR)

    def _set(self, prefix: str, told: dict[str, Any]) -> None:
        if self._span is not None:
            named = {f"{prefix}.{name}": value for name, value in told.items()}
            self._span.set_attributes({k: v for k, v in named.items() if v is not None})


@contextmanager
def answer_span(
    tracer: Tracer | None, operation: Operation, model: str, scope: Scope
) -> Iterator[AnswerSpan]:
    """A span from a request's coming to its answer's end; its parent is the caller's span."""
    if tracer is None:
        yield AnswerSpan(None)
        return
    from opentelemetry.propagate import extract
    from opentelemetry.trace import SpanKind

    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    attributes = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "llmcli",
        "gen_ai.request.model": model,
    }
    address, port = scope.get("server") or (None, None)
    if address is not None:
        attributes["server.address"] = address
    span = tracer.start_span(
        f"{operation} {model}",
        context=extract(headers),
        kind=SpanKind.SERVER,
        attributes=attributes | ({} if port is None else {"server.port": port}),
    )
    told = AnswerSpan(span if span.is_recording() else None)
    try:
        yield told
    except ApiError as exc:
        told.failed(exc.code or str(exc.status), status=exc.status)
        raise
    except BaseException as exc:
        told.failed(type(exc).__name__, status=500)
        raise
    finally:
        span.end()
