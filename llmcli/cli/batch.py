"""Batches at the command line: one set of options, and one way to run them, for every verb."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmcli.cli.boundary import INTERRUPTED, InterruptFlag
from llmcli.cli.options import F, InputOptions, bundle, refuse_idle
from llmcli.errors import InvalidInput
from llmcli.io.files import existing_parent
from llmcli.io.formats import FORMATS
from llmcli.io.remote import is_remote
from llmcli.io.sources import STDIN
from llmcli.terminal.console import Console

if TYPE_CHECKING:
    from llmcli.io.batch_run import BatchRequest
    from llmcli.io.formats import FormatName
    from llmcli.io.journal import Mode
    from llmcli.io.records import Columns, Source
    from llmcli.models.options import LoadOptions
    from llmcli.tasks.batch import Verb

Load = Callable[[Console], "Verb"]
"""Loads a verb's model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """Records in, rows out: what every verb's batches take."""

    jsonl: bool = False
    field: str = "prompt"
    id_field: str | None = None
    input_format: FormatName | None = None
    output: str | None = None
    resume: bool = False
    overwrite: bool = False
    retry_errors: bool = False
    ray: str | None = None
    partition_rows: int = 1000
    actors: int | None = None

    @property
    def columns(self) -> Columns:
        """Which columns of the input are what."""
        from llmcli.io.records import Columns

        return Columns(text=self.field, id=self.id_field)

    @property
    def mode(self) -> Mode:
        """What becomes of an output that is there."""
        modes: dict[Mode, bool] = {
            "resume": self.resume,
            "overwrite": self.overwrite,
            "retry": self.retry_errors,
        }
        return next((mode for mode, asked in modes.items() if asked), "new")

    @property
    def stored(self) -> dict[str, Any]:
        """The manifest of an output that is gone on with; empty where there is none."""
        if self.output is None or self.mode not in ("resume", "retry"):
            return {}
        if self.ray is not None:
            from llmcli.cluster.parts import stored_manifest

            return stored_manifest(self.parts[0])
        from llmcli.io.journal import Journal

        return Journal(Path(self.output), {}).stored()

    def placed(self, model: LoadOptions) -> LoadOptions:
        """How the model runs in one of several processes: on one thread, unless told otherwise."""
        if self.ray is None or model.threads is not None:
            return model
        return replace(model, threads=1)

    def check(self, inputs: InputOptions, *, own_output: bool = False, rows: bool = True) -> None:
        """Find all that is wrong with the options before anything is loaded.

        Args:
            inputs: The input's files, of which the output must be none.
            own_output: Whether the verb writes a file without ``--jsonl``, too.
            rows: Whether the output of a batch has a row for each record.

        Raises:
            InvalidInput: something is.
        """
        if not self.jsonl:
            refuse_idle(
                "goes with --jsonl",
                field="--field",
                id_field="--id-field",
                input_format="--format",
                resume="--resume",
                overwrite="--overwrite",
                retry_errors="--retry-errors",
                ray="--ray",
                **({} if own_output else {"output": "--output"}),
            )
        asked = [name for name in ("resume", "overwrite", "retry_errors") if getattr(self, name)]
        if len(asked) > 1:
            raise InvalidInput(
                "--resume, --overwrite and --retry-errors exclude each other.", "Give one of them."
            )
        if asked and self.jsonl and not (rows and self.output is not None):
            flag = asked[0].replace("_", "-")
            raise InvalidInput(f"--{flag} is for a batch of rows into a file.", "Add -o FILE.")
        if self.ray is not None:
            self._check_cluster(inputs, rows=rows)
            return
        refuse_idle("goes with --ray", partition_rows="--partition-rows", actors="--actors")
        if self.output is not None and (self.jsonl or own_output):
            existing_parent(self.output, inputs=inputs.files)
            if self.jsonl and rows and self.mode == "new":
                from llmcli.io.journal import Journal

                Journal(Path(self.output), {}).check_absent()

    def _check_cluster(self, inputs: InputOptions, *, rows: bool) -> None:
        if not rows or self.output is None:
            raise InvalidInput("--ray writes parts into a folder.", "Name it with -o FOLDER.")
        if not inputs.files or STDIN in inputs.files:
            raise InvalidInput("--ray reads files that every machine has.", "Name them with -i.")
        if os.path.isfile(self.parts[0]):
            raise InvalidInput(
                f"{self.parts[0]} is a file; --ray writes parts into a folder.", "Name a folder."
            )

    @property
    def parts(self) -> tuple[str, str]:
        """The folder of parts and their suffix: ``-o`` names FOLDER, or ``FOLDER/*.parquet``."""
        output = self.output or ""
        folder, _, name = output.rpartition("/")
        if not name.startswith("*."):
            folder, name = output, "*.jsonl"
        folder = folder or "."
        return folder if is_remote(folder) else os.path.abspath(folder), name[1:]


def batch_options(
    *,
    field: str = "prompt",
    jsonl: str = "Read records with a prompt each: JSON Lines, CSV, TSV or Parquet.",
    output: str = "With --jsonl: write the records to this file as they are finished.",
    output_metavar: str = "FILE",
    format_flags: Sequence[str] = ("--input-format", "--format"),
) -> Callable[[F], F]:
    """Add the options of batches; the callback takes ``batch: BatchOptions``.

    Args:
        field: What a record's text is called where nobody says so.
        jsonl: ``--jsonl``'s help.
        output: ``-o``'s help.
        output_metavar: And what follows it.
        format_flags: How the input's format is asked for.
    """
    return bundle(
        "batch",
        BatchOptions,
        click.option("--jsonl", is_flag=True, help=jsonl),
        click.option(
            "--field", default=field, show_default=True, help="Field that holds the text."
        ),
        click.option(
            "--id-field",
            metavar="NAME",
            help="Field that holds a record's id; a record without it is an error.",
        ),
        click.option(
            *format_flags,
            "input_format",
            type=click.Choice(FORMATS),
            help="With --jsonl: format of the input, if its file name does not say.",
        ),
        click.option("-o", "--output", type=click.Path(), metavar=output_metavar, help=output),
        click.option(
            "--resume",
            is_flag=True,
            help="With --jsonl and -o: carry on where an interrupted run stopped.",
        ),
        click.option(
            "--overwrite",
            is_flag=True,
            help="With --jsonl and -o: replace the output and start again.",
        ),
        click.option(
            "--retry-errors",
            is_flag=True,
            help="With --jsonl and -o: try the failed records again.",
        ),
        click.option(
            "--ray",
            is_flag=False,
            flag_value="",
            metavar="[ADDRESS]",
            help="Run on a Ray cluster; -o is then a folder for the parts.",
        ),
        click.option(
            "--partition-rows",
            type=click.IntRange(min=1),
            default=1000,
            show_default=True,
            metavar="N",
            help="With --ray: records in each part.",
        ),
        click.option(
            "--actors",
            type=click.IntRange(min=1),
            metavar="N",
            help="With --ray: number of worker processes.  [default: as many as CPUs and memory "
            "allow]",
        ),
    )


def run_batch(
    options: BatchOptions,
    parts: Sequence[str],
    inputs: InputOptions,
    console: Console,
    load: Load,
) -> None:
    """Run a batch from its input to its output.

    Args:
        options: How.
        parts: What stands among the arguments: nothing, ``-``, or lines.
        inputs: The input's files.
        console: Where rows go without a file, and what is said beside them.
        load: Loads the verb's model.

    Raises:
        BatchHadErrors: some of the records are error records.
        SystemExit: Ctrl-C.
    """
    from llmcli.io.batch_run import BatchRun
    from llmcli.terminal.progress import BatchProgress, download_progress

    if options.ray is not None:
        _run_on_cluster(options, parts, inputs, console, load)
        return
    request = _request(options, parts, inputs, console)
    verb = load(console)
    interrupted = InterruptFlag()
    with BatchProgress(console, options.output) as progress:
        run = BatchRun(
            request,
            verb.made_by,
            lines=verb.lines,
            show=console.record,
            progress=progress,
            interrupted=interrupted,
            watch=lambda: download_progress(console),
        )
        with interrupted:
            run.run(verb.work)
    if verb.end is not None:
        verb.end()
    run.finish()
    if interrupted.set:
        raise SystemExit(INTERRUPTED)


def _request(
    options: BatchOptions, parts: Sequence[str], inputs: InputOptions, console: Console
) -> BatchRequest:
    from llmcli.io.batch_run import BatchRequest
    from llmcli.io.records import sources

    if len(parts) > 1:
        raise InvalidInput("--jsonl takes one argument.", "Give the lines through -i FILE or '-'.")
    found = sources(parts[0] if parts else None, inputs.files, notify=console.notice)
    return BatchRequest(
        sources=found,
        columns=options.columns,
        errors=inputs.errors,
        form=options.input_format,
        output=None if options.output is None else Path(options.output),
        mode=options.mode,
    )


def _run_on_cluster(
    options: BatchOptions,
    parts: Sequence[str],
    inputs: InputOptions,
    console: Console,
    load: Load,
) -> None:
    from llmcli.cluster.parts import Job
    from llmcli.cluster.run import ClusterRequest, check_installed, run_on_cluster
    from llmcli.terminal.progress import BatchProgress

    if parts:
        raise InvalidInput("--ray reads files that every machine has.", "Name them with -i.")
    check_installed()
    folder, suffix = options.parts
    # The model is loaded here once, for what the manifest says of it; then in each actor.
    verb = load(console)
    made_by, threads = verb.made_by, verb.threads
    del verb
    request = ClusterRequest(
        job=Job(
            files=[_placed(name) for name in inputs.files],
            folder=folder,
            suffix=suffix,
            columns=options.columns,
            errors=inputs.errors,
            form=options.input_format,
        ),
        rows=options.partition_rows,
        mode=options.mode,
        address=options.ray or None,
        actors=options.actors,
        threads=threads,
    )
    if console.shows_progress:
        console.info("Connecting to the cluster.")
    with BatchProgress(console, options.output) as progress:
        run_on_cluster(request, partial(_in_an_actor, load), made_by, progress)


def _placed(name: str) -> Source:
    """A file as other machines find it; messages call it as here."""
    from llmcli.io.records import Source

    return Source(name if is_remote(name) else os.path.abspath(name), called=name)


def _in_an_actor(load: Load) -> Verb:
    """The verb, where nobody reads what it says."""
    return load(Console(quiet=True))
