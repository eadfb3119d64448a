"""Measuring one model in one precision, in a process of its own: for what ``bench`` shows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from llmcli.errors import UnsupportedModel
from llmcli.models.options import LoadOptions
from llmcli.reporting import Notify, working

if TYPE_CHECKING:
    from llmcli.hub.resolve import ResolvedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchJob:
    """What to measure.

    Attributes:
        resolved: The model's files.
        options: How it runs; they name a precision.
        repetitions: Runs that count.
        new_tokens: Tokens to decode.
    """

    resolved: ResolvedModel
    options: LoadOptions
    repetitions: int
    new_tokens: int


def run_jobs(jobs: list[BenchJob], *, notify: Notify) -> Iterator[dict[str, Any]]:
    """Yield a record for each job, one after the other.

    Each runs in a fresh process, so that its peak memory is its own and nothing is warm. A job
    whose precision is not to be had is left out, with a notice.

    Raises:
        UnsupportedModel: that is so of every job.
    """
    context = get_context("spawn")
    left_out: list[UnsupportedModel] = []
    for number, job in enumerate(jobs, 1):
        working(
            f"measuring {job.resolved.name} in {job.options.precision} ({number} of {len(jobs)})"
        )
        with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
            try:
                record = pool.submit(measure_job, job).result()
            except UnsupportedModel as exc:
                left_out.append(exc)
                if len(left_out) < len(jobs):
                    notify(f"{exc.message} It is left out.")
                continue
        yield record
    if len(left_out) == len(jobs):
        raise left_out[-1]


def measure_job(job: BenchJob) -> dict[str, Any]:
    """Load, measure, and return the record that ``bench --json`` prints.

    Raises:
        UnsupportedModel: the precision is not to be had here, for this model or at all.
    """
    start = time.perf_counter()
    from llmcli.models.loader import load_resolved

    model = load_resolved(job.resolved, job.options)
    decoder = model.decoder()
    if model.precision != job.options.precision:
        raise UnsupportedModel(
            f"{model.name} cannot be measured in {job.options.precision}, which this machine "
            f"does not have: it runs in {model.precision}.",
            f"Measure {model.precision}.",
        )
    load_seconds = time.perf_counter() - start
    from llmcli.engine.benchmark import measure, memory_bandwidth
    from llmcli.system import peak_memory, processor_name, usable_processors

    rates = measure(decoder, new_tokens=job.new_tokens, repetitions=job.repetitions)
    memory, on_cpu = peak_memory(), model.device == "cpu"
    weight_bytes = decoder.weight_bytes
    bandwidth = memory_bandwidth(job.options.threads or usable_processors()) if on_cpu else None
    record: dict[str, Any] = {
        "model": model.name,
        "precision": model.precision,
        "device": model.device,
        "processor": processor_name(),
        "kernels": decoder.kernels,
        "threads": decoder.threads,
        "repetitions": job.repetitions,
        "load_seconds": load_seconds,
        "through_transformers": "import transformers" in model.timings,
        "peak_memory_bytes": memory,
        "weight_bytes_per_token": weight_bytes,
        "memory_bandwidth_bytes_per_second": bandwidth,
        "share_of_bandwidth": None,
    }
    for rate in rates:
        size = rate.prompt_tokens if rate.what == "prefill" else rate.batch
        name = f"{rate.what}_{size}" if rate.what == "prefill" else f"decode_batch_{size}"
        record[f"{name}_tokens_per_second"] = rate.mean
        record[f"{name}_deviation"] = rate.deviation
        if rate.what == "decode" and rate.batch == 1 and weight_bytes and bandwidth:
            record["share_of_bandwidth"] = rate.mean * weight_bytes / bandwidth
    return record
