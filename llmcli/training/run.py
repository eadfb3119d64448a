"""What a run is, and its folder: checked, and filled with tokens, before anything is trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcli.errors import InvalidInput
from llmcli.io.files import atomic_write
from llmcli.training.checkpoints import Checkpoints
from llmcli.training.data import Data, load_data, prepare_data
from llmcli.training.sample import check_sample_prompt
from llmcli.training.settings import ModelShape, TrainSettings
from llmcli.training.tokens import Blocks

if TYPE_CHECKING:
    from llmcli.models.language_model import LanguageModel
    from llmcli.tokenization.tokenizer import Tokenizer

WORK = "training"
METRICS = "metrics.jsonl"
_RUN = "run.json"
_MAY_CHANGE = {"max_steps", "max_time", "epochs", "evaluate_every", "save_every", "store"}
_MAY_CHANGE |= {"early_stopping", "precision", "compile", "gradient_checkpointing", "sample_prompt"}
_MAY_CHANGE |= {"learning_rate", "max_grad_norm"}  # the way out of a loss that became NaN


@dataclass(frozen=True, kw_only=True)
class Run:
    """What to train, on what, and where to.

    Attributes:
        sources: Files, folders, ``-``.
        output: The folder that becomes the model.
        settings: How.
        shape: Of a new model; of a given one only the context matters.
        base: The model to train further; None for a new one.
        split_on: As in :func:`llmcli.training.corpus.read_documents`.
        resume: Go on from the last checkpoint in ``output``.
        overwrite: ``output`` may hold something already.
        command: What the model card says made it.
        card_notes: Markdown that the model card carries.
    """

    sources: Sequence[str]
    output: Path
    settings: TrainSettings
    shape: ModelShape
    base: LanguageModel | None = None
    split_on: str | None = None
    resume: bool = False
    overwrite: bool = False
    command: str = ""
    card_notes: str | None = None

    @property
    def work(self) -> Path:
        """Where tokens and checkpoints are until the end."""
        return self.output / WORK

    @property
    def checkpoints(self) -> Checkpoints:
        """Where the run can be taken up again."""
        return Checkpoints(self.work / "checkpoints")

    @property
    def context(self) -> int:
        """Tokens of a sequence."""
        if self.base is None:
            return self.shape.n_positions
        return min(self.shape.n_positions, self.base.n_positions)

    def identity(self, processes: int) -> dict[str, Any]:
        """Return what must be the same when the run is resumed."""
        settings = {k: v for k, v in asdict(self.settings).items() if k not in _MAY_CHANGE}
        return {
            "settings": settings,
            "shape": asdict(self.shape),
            "base": self.base.name if self.base else None,
            "sources": list(self.sources),
            "split_on": self.split_on,
            "processes": processes,
        }


@contextmanager
def claimed(run: Run) -> Iterator[None]:
    """Make the folder of a new run; if it fails before its first checkpoint, take it away again.

    Raises:
        InvalidInput: the folder is no folder, or holds something.
        OSError: it cannot be made.
    """
    if run.output.exists() and not run.output.is_dir():
        raise InvalidInput(f"{run.output} is not a folder.", "Choose another --output.")
    if run.output.is_dir() and any(run.output.iterdir()) and not run.overwrite:
        raise InvalidInput(
            f"{run.output} is not empty.",
            "Choose another --output, go on with --resume, or replace it with --overwrite.",
        )
    made = [path for path in (run.output, *run.output.parents) if not path.exists()]
    try:
        shutil.rmtree(run.work, ignore_errors=True)
        run.work.mkdir(parents=True)
        yield
    except BaseException:
        if run.checkpoints.last() is None:
            shutil.rmtree(run.work, ignore_errors=True)
            with suppress(OSError):
                (run.output / METRICS).unlink(missing_ok=True)
                for path in made:
                    path.rmdir()
        raise


def prepare(run: Run, processes: int) -> None:
    """Fill the run's folder with tokens, and check all that can be checked before it is trained.

    One process does this for all.

    Raises:
        InvalidInput: the folder, the text or the settings cannot be used.
        InvalidText: a document is not valid text.
        StorageError: a file cannot be read or written.
    """
    if run.resume:
        data = _check_same(run, processes)
    else:
        data = prepare_data(
            run.sources,
            run.work,
            settings=run.settings,
            vocab_size=run.shape.vocab_size,
            base=_tokenizer_of(run.base) if run.base is not None else None,
            split_on=run.split_on,
        )
    check_sample_prompt(run.settings.sample_prompt, data.tokenizer, context=run.context)
    if run.settings.early_stopping is not None and data.validation_rows(run.context, 1) is None:
        raise InvalidInput(
            "--early-stopping needs held-out text, and there is none.",
            "Use a larger --validation, more text, or no --early-stopping.",
        )
    make_blocks(run, data, processes)  # too short a corpus is found before a model is built
    if run.resume:
        return
    with atomic_write(run.work / _RUN) as out:
        out.write(json.dumps(run.identity(processes)).encode())
    with atomic_write(run.output / METRICS):
        pass


def _check_same(run: Run, processes: int) -> Data:
    """Return a run's tokens; refuse to resume one that would make another model."""
    data = load_data(run.work)
    before = json.loads((run.work / _RUN).read_text(encoding="utf-8"))
    now = json.loads(json.dumps(run.identity(processes)))
    changed = [
        name
        for part in ("settings", "shape")
        for name in now[part]
        if now[part][name] != before[part].get(name)
    ] + [name for name in now if name not in ("settings", "shape") and now[name] != before[name]]
    if changed:
        raise InvalidInput(
            f"The run in {run.output} was started with other values of {', '.join(changed)}.",
            "Resume it with the same command, or start another with --overwrite.",
        )
    return data


def _tokenizer_of(base: LanguageModel) -> tuple[Tokenizer, int]:
    end_of_text = base.tokenizer.eos_id
    if end_of_text is None:
        raise InvalidInput(
            f"{base.name} has no end-of-text token to separate documents.", "Choose another model."
        )
    return base.tokenizer, end_of_text


def make_blocks(run: Run, data: Data, processes: int) -> Blocks:
    """Return the steps of the run over its tokens."""
    settings = run.settings
    return Blocks(
        data.train_ids,
        context=run.context,
        blocks_per_step=settings.batch_size * settings.gradient_accumulation_steps * processes,
        seed=settings.seed,
    )
