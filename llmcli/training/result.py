"""The end of a run: measure exactly, store, write the card, put everything in its place."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from llmcli.errors import LlmcliError
from llmcli.io.files import atomic_write
from llmcli.reporting import working
from llmcli.system import processor_name
from llmcli.training.card import CardFacts, model_card, versions
from llmcli.training.curve import save_picture
from llmcli.training.data import Data
from llmcli.training.evaluation import Likelihood, exact_likelihood
from llmcli.training.export import (
    choose_precision,
    install,
    rounded,
    sampling_defaults,
    write_model,
    write_tokenizer,
)
from llmcli.training.loop import TrainingLoop
from llmcli.training.metrics import read_metrics
from llmcli.training.room import cannot_write
from llmcli.training.run import METRICS, Run
from llmcli.training.sample import default_prompt
from llmcli.training.settings import ModelShape

SAMPLE_SEEDS = (1, 2, 3, 4, 5)
_SAMPLE_TOKENS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A finished run.

    Attributes:
        folder: The model.
        steps: Optimizer steps.
        tokens: Tokens that went through the model.
        seconds: Of training.
        parameters: Of the model.
        precision: Of the stored weights.
        validation: On all held-out text, with the weights as stored; None where there is none.
        records: Of ``metrics.jsonl``.
    """

    folder: Path
    steps: int
    tokens: int
    seconds: float
    parameters: int
    precision: str
    validation: Likelihood | None
    records: Sequence[dict[str, Any]]

    def summary(self) -> dict[str, Any]:
        """Return the figures, ready for JSON."""
        found: dict[str, Any] = {
            "model": str(self.folder),
            "steps": self.steps,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 1),
            "parameters": self.parameters,
            "precision": self.precision,
        }
        if self.validation is not None:
            found |= {
                "validation_loss": self.validation.loss,
                "validation_perplexity": self.validation.perplexity,
                "validation_bits_per_byte": self.validation.bits_per_byte,
            }
        return found | {"versions": versions()}


def finish(
    run: Run,
    data: Data,
    loop: TrainingLoop,
    *,
    processes: int,
    notify: Callable[[str], None],
) -> Result:
    """Write the trained model into the run's folder, measure it, and write its card.

    The model is there before anything else is tried.

    Raises:
        StorageError: the disk does not take it; the checkpoints stay.
    """
    model = _trained(run, loop)
    precision, tried = choose_precision(model, run.settings.store, lambda: _quick_loss(loop, model))
    staged = run.work / "result"
    working(f"writing {run.output}")
    shutil.rmtree(staged, ignore_errors=True)
    if run.base is None:
        model.generation_config = sampling_defaults(data.end_of_text)
    write_model(model, staged, precision=precision)
    write_tokenizer(
        data.tokenizer.backend,
        staged,
        context=run.context,
        copy_from=run.base.folder if run.base else None,
    )
    install(staged, run.output)
    notify("Measuring on all held-out text.")
    with rounded(model, precision):
        validation = _exact(run, data, model)
    records = read_metrics(run.output / METRICS)
    progress = loop.progress
    result = Result(
        folder=run.output,
        steps=progress.step,
        tokens=progress.step * loop.blocks.blocks_per_step * run.context,
        seconds=progress.elapsed,
        parameters=sum(p.numel() for p in model.parameters()),
        precision=precision,
        validation=validation,
        records=records,
    )
    working("writing samples and the model card")
    samples = _samples(run, data, notify)
    facts = _facts(run, data, model, result, tried, samples, processes)
    with atomic_write(run.output / "README.md") as card:
        card.write(model_card(facts).encode("utf-8"))
    with _written_to(run.output):
        save_picture(records, run.output / "loss.png")
    return result


def _trained(run: Run, loop: TrainingLoop) -> PreTrainedModel:
    """Return the best model where the run was looking for it, else the last."""
    if loop.pace.best is not None:
        run.checkpoints.load_weights(loop.module, loop.pace.best.step)
    model: Any = loop.module
    if run.settings.adapter is not None and run.settings.adapter.merge:
        model = model.merge_and_unload()
    return model  # type: ignore[no-any-return]


def _quick_loss(loop: TrainingLoop, model: PreTrainedModel) -> float:
    # In bfloat16 arithmetic every stored precision would look like bfloat16.
    likelihood = loop.evaluation(model, "float32")
    return likelihood.loss if likelihood is not None else 0.0


def _exact(run: Run, data: Data, model: PreTrainedModel) -> Likelihood | None:
    if data.validation.tokens <= len(data.validation.lengths):
        return None
    with torch.compiler.set_stance("force_eager"):
        return exact_likelihood(
            model,
            data.validation,
            data.validation_ids,
            context=run.context,
            end_of_text=data.end_of_text,
        )


@contextmanager
def _written_to(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise cannot_write(folder, exc) from exc


def _samples(run: Run, data: Data, notify: Callable[[str], None]) -> list[tuple[int, str, str]]:
    """Return what ``llmcli generate -m FOLDER --seed N PROMPT`` writes, by seed.

    None of an adapter that was not merged, which is no model by itself; a notice instead of what
    cannot be drawn.
    """
    if run.settings.adapter is not None and not run.settings.adapter.merge:
        return []
    from llmcli.api import load

    prompt = run.settings.sample_prompt or default_prompt(data.tokenizer, context=run.context)
    if prompt is None:
        return []
    try:
        model = load(str(run.output.absolute()), offline=True)
        return [
            (
                seed,
                prompt,
                "".join(
                    model.stream(
                        prompt,
                        seed=seed,
                        max_new_tokens=_SAMPLE_TOKENS,
                        temperature=0.8,
                        top_p=0.95,
                    )
                ),
            )
            for seed in SAMPLE_SEEDS
        ]
    except LlmcliError as exc:
        notify(f"The model card has no samples: {exc}")
        return []


def _facts(
    run: Run,
    data: Data,
    model: PreTrainedModel,
    result: Result,
    tried: dict[str, float],
    samples: list[tuple[int, str, str]],
    processes: int,
) -> CardFacts:
    names = [field.name for field in fields(ModelShape)]
    shape = {name: getattr(model.config, name) for name in names if hasattr(model.config, name)}
    settings = {k: v for k, v in asdict(run.settings).items() if v is not None and k != "adapter"}
    if run.settings.adapter is not None:
        settings |= {f"lora_{k}": v for k, v in asdict(run.settings.adapter).items()}
    return CardFacts(
        name=run.output.absolute().name,
        command=run.command,
        base=run.base.name if run.base else None,
        shape=shape,
        parameters=result.parameters,
        stored=result.precision,
        settings=settings,
        processes=processes,
        machine=_machine(next(model.parameters()).device, processes),
        date=datetime.date.today().isoformat(),
        steps=result.steps,
        tokens_seen=result.tokens,
        seconds=result.seconds,
        corpus_bytes=sum(data.train.sizes) + sum(data.validation.sizes),
        corpus_sha256=data.sha256,
        documents=data.documents,
        train_tokens=data.train.tokens,
        held_out=data.validation.names if data.by_document else [],
        held_out_tokens=data.validation.tokens,
        validation=result.validation,
        rounded=tried,
        records=result.records,
        samples=samples,
        sources=_sources(run.sources),
        notes=run.card_notes,
    )


def _machine(device: torch.device, processes: int) -> str:
    """Return what the processes computed on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    each = f"{threads} thread{'s' if threads > 1 else ''}{' each' if processes > 1 else ''}"
    return f"{processor_name()}, {each}"


def _sources(sources: Sequence[str]) -> str | None:
    """Return the list of works that a corpus folder brings along as ``SOURCES.md``."""
    for source in sources:
        with suppress(OSError, UnicodeDecodeError):
            return (Path(source) / "SOURCES.md").read_text(encoding="utf-8")
    return None
