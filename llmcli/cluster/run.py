"""A batch over a cluster of Ray: its data library places actors, restarts and retries them.

The input is cut by us (:mod:`llmcli.cluster.plan`) and each partition is read by the actor that
works on it, with the reader of one machine. Ray's readers cut by size and by the cluster at hand;
parts that are to be found again need the same cut on every run.
"""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

from llmcli.cluster.parts import Job, Made, Parts, count_errors, make_part
from llmcli.cluster.plan import Partition, Survey, partitions, survey
from llmcli.errors import BatchHadErrors, LlmcliError
from llmcli.extras import missing_package
from llmcli.io.batch_run import Progress
from llmcli.io.journal import Mode, check_same_manifest
from llmcli.io.records import Stretch
from llmcli.reporting import working
from llmcli.system import peak_memory, usable_processors
from llmcli.tasks.batch import Verb
from llmcli.tokenization.panics import STDERR, STDOUT, silent

LOCAL = "local"
"""The address of a new cluster on this machine."""

Make = Callable[[], Verb]
"""Loads a verb's model, wherever it is called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterRequest:
    """A batch over a cluster.

    Attributes:
        job: What actors know of it.
        rows: Records of a partition.
        mode: What becomes of parts that are there.
        address: The cluster; None for the one that RAY_ADDRESS names or that runs on this
            machine, or a new one on this machine; LOCAL for a new one whatever runs.
        actors: How many; None for as many as processors and memory allow.
        threads: Of each actor.
    """

    job: Job
    rows: int
    mode: Mode
    address: str | None
    actors: int | None
    threads: int


def check_installed() -> None:
    """Raise LlmcliError where Ray is not."""
    if find_spec("ray") is None:
        raise missing_package("A cluster", "ray")


def run_on_cluster(
    request: ClusterRequest, make: Make, made_by: Mapping[str, Any], progress: Progress
) -> None:
    """Make all parts that are not there.

    Args:
        request: The batch.
        make: Loads the verb, in each actor.
        made_by: What the rows depend on beside the input.
        progress: Is told of every part.

    Raises:
        InvalidInput: parts are there, or another model, setting or input made them; or the input
            cannot be read.
        BatchHadErrors: some of the records are error records.
    """
    with _connected(request.address) as processors:
        working("reading the input on the cluster")
        found = _surveys(request)
        manifest = {
            **made_by,
            "field": request.job.columns.text,
            "id_field": request.job.columns.id,
            "errors": request.job.errors,
            "format": request.job.form,
            "partition_rows": request.rows,
            "suffix": request.job.suffix,
            "input": [each.known.to_dict() for each in found],
        }
        parts = Parts(request.job)
        goes_on = request.mode in ("resume", "retry")
        parts.open(manifest, goes_on=goes_on, overwrite=request.mode == "overwrite")
        plan = list(partitions(found, request.rows))
        there = parts.numbers() if goes_on else set()
        failed = _errors(request, there)
        if request.mode == "retry":
            there -= failed.keys()
        wanted = [each for each in plan if each.number not in there]
        total = sum(each.records for each in found)
        working("loading the model in each actor")
        errors = sum(count for number, count in failed.items() if number in there)
        progress.begin(total, total - sum(each.stretch.count for each in wanted), errors)
        for made in _made(request, make, made_by, wanted, processors):
            errors += made.failed
            progress.note(tokens=made.tokens, failed=made.failed, records=made.records)
    if errors:
        raise BatchHadErrors(
            f"{errors} of {total} records are error records.",
            "Look for the field 'error' in the output.",
        )


@contextmanager
def _connected(address: str | None) -> Iterator[int]:
    """A connection to the cluster, or a cluster of this machine's that ends with it.

    Gives how many processors there are.
    """
    # It calls nobody, and what it says of itself is in its logs, not on our streams.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray.data

    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    with silent(STDOUT):
        try:
            with silent(STDERR):
                spare = _connect(address)
            yield int(ray.cluster_resources().get("CPU", 1)) - spare
        except ray.exceptions.RayError as exc:
            raise _translated(exc) from exc
        finally:
            ray.shutdown()


def _connect(address: str | None) -> int:
    """Connect; how many of the cluster's processors exist in name only."""
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address != LOCAL:
        try:
            ray.init(address=address or "auto", **quiet)
            return 0
        except (ConnectionError, ValueError) as exc:
            if address is not None:
                raise LlmcliError(
                    f"No cluster answers at {address}.",
                    "Name the head's address ('ray start' prints it), or leave it out.",
                ) from exc
    # Actors may take every processor there is: one more is declared, for what Ray does itself.
    ray.init(address="local", num_cpus=usable_processors() + 1, include_dashboard=False, **quiet)
    return 1


def _translated(error: Exception) -> LlmcliError:
    """What went wrong on the cluster, in one line."""
    cause: BaseException | None = error
    while cause is not None:
        inner = getattr(cause, "cause", None)
        if isinstance(inner, LlmcliError):
            return inner
        cause = inner if isinstance(inner, BaseException) else cause.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    known = next((line for line in reversed(lines) if line.startswith("llmcli.errors.")), None)
    if known is not None:
        return LlmcliError(known.partition(": ")[2])
    return LlmcliError(
        f"The cluster failed: {lines[0] if lines else type(error).__name__}.",
        "Run the same command with --resume: what is done is kept.",
    )


def _surveys(request: ClusterRequest) -> list[Survey]:
    """What the input's files hold, found out on the cluster."""
    found: dict[int, Survey] = {}
    files, rows, form = request.job.files, request.rows, request.job.form

    def look(row: dict[str, Any]) -> dict[str, Any]:
        return {"index": row["index"], "survey": survey(files[row["index"]], rows, form)}

    items = [{"index": index} for index in range(len(files))]
    for row in _mapped(items, look, num_cpus=0.5):
        found[row["index"]] = row["survey"]
    return [found[index] for index in range(len(files))]


def _errors(request: ClusterRequest, numbers: Iterable[int]) -> dict[int, int]:
    """How many error records there are in parts, by their numbers."""
    job = request.job

    def count(row: dict[str, Any]) -> dict[str, Any]:
        return {"number": row["number"], "failed": count_errors(job, row["number"])}

    items = [{"number": number} for number in sorted(numbers)]
    found = _mapped(items, count, num_cpus=0.5)
    return {row["number"]: row["failed"] for row in found if row["failed"]}


class _PartMaker:
    """An actor: a loaded verb that makes parts."""

    def __init__(self, make: Make, job: Job, made_by: Mapping[str, Any]) -> None:
        self._verb = make()
        self._job = job
        # A machine with another model or version would make other rows.
        check_same_manifest(f"The batch on {platform.node()}", made_by, self._verb.made_by)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        stretch = Stretch(**{name: row[name] for name in _STRETCH})
        made = make_part(self._verb, self._job, Partition(row["number"], row["index"], stretch))
        return asdict(made)


_STRETCH = ("first", "count", "offset", "before")


def _made(
    request: ClusterRequest,
    make: Make,
    made_by: Mapping[str, Any],
    wanted: Sequence[Partition],
    processors: int,
) -> Iterator[Made]:
    """Make parts; what came of each, in the order in which they are finished."""
    import ray
    from ray.data import ActorPoolStrategy

    items = [
        {"number": each.number, "index": each.index, **asdict(each.stretch)} for each in wanted
    ]
    # An actor holds as much as this process does, which has just loaded the same.
    memory = peak_memory()
    room = ray.cluster_resources().get("memory", memory)
    fit = min(processors // request.threads, room // memory)
    most = max(1, min(len(items), request.actors or int(fit)))
    found = _mapped(
        items,
        _PartMaker,
        fn_constructor_args=(make, request.job, made_by),
        compute=ActorPoolStrategy(
            min_size=1, max_size=most, initial_size=most, max_tasks_in_flight_per_actor=2
        ),
        # A fraction of each processor is left: actors that claimed all of them would leave none
        # to one that comes back after its node is lost.
        num_cpus=request.threads * 0.9,
        memory=memory,
    )
    for row in found:
        yield Made(**row)


def _mapped(items: Sequence[dict[str, Any]], function: Any, **how: Any) -> Iterator[dict[str, Any]]:
    """Map items on the cluster, each by itself; results come in no order."""
    import ray

    if items:
        dataset = ray.data.from_items(list(items), override_num_blocks=len(items))
        yield from dataset.map(function, **how).iter_rows()
