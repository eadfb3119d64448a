"""Counters and histograms for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily

if TYPE_CHECKING:
    from llmcli.serve.answers import Answer
    from llmcli.serve.engine import Engine, Job
    from llmcli.serve.gate import Record

_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """What is counted.

    Args:
        engine: What works.
        paths: The routes; requests to others are counted together.
    """

    def __init__(self, engine: Engine, paths: frozenset[str]) -> None:
        self._paths = paths
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "llmcli_requests", "Requests answered.", ["path", "status"], registry=registry
        )
        self._prompt = Counter("llmcli_prompt_tokens", "Prompt tokens.", registry=registry)
        self._cached = Counter(
            "llmcli_cached_prompt_tokens",
            "Prompt tokens that were not read anew.",
            registry=registry,
        )
        self._made = Counter("llmcli_completion_tokens", "Tokens made.", registry=registry)
        self._queue = Histogram(
            "llmcli_queue_seconds",
            "From a request's coming to its first slot.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._first = Histogram(
            "llmcli_first_token_seconds",
            "From a request's coming to its first token.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._step = Histogram(
            "llmcli_token_seconds",
            "Mean time of a request's further tokens, of each of its texts.",
            buckets=_STEP_SECONDS,
            registry=registry,
        )
        registry.register(_Now(engine))

    def note_request(self, record: Record) -> None:
        """Count an answer."""
        path = record.path if record.path in self._paths else "other"
        self._requests.labels(path, str(record.status)).inc()

    def note_job(self, job: Job, answer: Answer) -> None:
        """Count what was made for a request, whether or not it was finished."""
        self._prompt.inc(answer.plan.prompt_tokens)
        self._cached.inc(answer.cached_tokens)
        self._made.inc(answer.completion_tokens)
        if job.started is not None:
            self._queue.observe(job.started - job.submitted)
        if job.first_token is not None:
            self._first.observe(job.first_token - job.submitted)
            texts = len(answer.choices)
            if answer.completion_tokens > texts:
                spent = time.perf_counter() - job.first_token
                self._step.observe(spent / (answer.completion_tokens / texts - 1))

    def render(self) -> bytes:
        """All figures, as Prometheus reads them."""
        return generate_latest(self._registry)


class _Now:
    """Figures of this moment."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def describe(self) -> list[GaugeMetricFamily]:
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        engine = self._engine
        for name, words, value in (
            ("slots", "Texts that can be made at once.", engine.slots),
            ("slots_running", "Texts that are being made.", engine.running),
            ("requests_waiting", "Requests that wait for a slot.", engine.waiting),
        ):
            yield GaugeMetricFamily(f"llmcli_{name}", words, value=value)
        if engine.cache is not None:
            words = "Keys and values of what was read before."
            yield GaugeMetricFamily("llmcli_prefix_cache_bytes", words, value=engine.cache.nbytes)
