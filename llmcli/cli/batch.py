"""Batches at the command line: one set of options, and one way to run them, for every verb."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmcli.cli.boundary import INTERRUPTED, InterruptFlag
from llmcli.cli.options import F, InputOptions, bundle, refuse_idle
from llmcli.errors import InvalidInput
from llmcli.io.files import existing_parent
from llmcli.io.formats import FORMATS
from llmcli.io.records import Columns, sources
from llmcli.terminal.console import Console

if TYPE_CHECKING:
    from llmcli.io.batch_run import BatchRequest
    from llmcli.io.formats import FormatName
    from llmcli.io.journal import Mode
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

    @property
    def columns(self) -> Columns:
        """Which columns of the input are what."""
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
        from llmcli.io.journal import Journal

        return Journal(Path(self.output), {}).stored()

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
        if self.output is not None and (self.jsonl or own_output):
            existing_parent(self.output, inputs=inputs.files)
            if self.jsonl and rows and self.mode == "new":
                from llmcli.io.journal import Journal

                Journal(Path(self.output), {}).check_absent()


def batch_options(
    *,
    field: str = "prompt",
    jsonl: str = "Each line of the input is a JSON object with a prompt in it.",
    output: str = "Write to a file; rows are appended as they are made. With --jsonl.",
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
            "--field", default=field, show_default=True, help="The text's name in a record."
        ),
        click.option(
            "--id-field", metavar="NAME", help="The field that names a record; none may lack it."
        ),
        click.option(
            *format_flags,
            "input_format",
            type=click.Choice(FORMATS),
            help="Of the input, where its suffix does not tell; with --jsonl.",
        ),
        click.option("-o", "--output", type=click.Path(), metavar=output_metavar, help=output),
        click.option(
            "--resume", is_flag=True, help="With --jsonl and -o: go on where a killed run stopped."
        ),
        click.option("--overwrite", is_flag=True, help="With --jsonl and -o: begin anew."),
        click.option(
            "--retry-errors", is_flag=True, help="With --jsonl and -o: make error records again."
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
