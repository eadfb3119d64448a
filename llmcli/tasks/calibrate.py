"""How far a model's probabilities are right on a text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcli.errors import InvalidInput
from llmcli.scoring.windows import Convention, make_convention
from llmcli.tasks.score import convention_record

if TYPE_CHECKING:
    from llmcli.models.language_model import LanguageModel
    from llmcli.scoring.calibration import Calibration

MOST_BINS = 1000


def calibrate(
    model: LanguageModel,
    text: Iterable[str],
    *,
    bins: int = 15,
    holdout: float = 0.5,
    context: int | None = None,
    stride: int | None = None,
    bos: bool | None = None,
    on_tokens: Callable[[int], None] | None = None,
) -> tuple[Calibration, Convention]:
    """Measure calibration token by token, in one pass over a text of any size.

    Args:
        model: The model.
        text: The text, in parts.
        bins: Bins of equal width, 1 to 1,000.
        holdout: The share of the text that the temperature is not fitted on, 0 to under 1.
        context: As for ``score``, like the next two.
        stride: Tokens from one window to the next.
        bos: Whether BOS stands before the text.
        on_tokens: Told how many tokens are done.

    Returns:
        The figures, and the windows they are of.

    Raises:
        InvalidInput: a setting is out of range, or nothing in the text can be scored.
        NumericalError: the model's logits are NaN or infinite.
    """
    from llmcli.scoring.calibration import Calibrator
    from llmcli.scoring.temperature import CalibrationLikelihood
    from llmcli.scoring.texts import TextScorer

    if not 1 <= bins <= MOST_BINS:
        raise InvalidInput(f"--bins is {bins}.", f"It must be from 1 to {MOST_BINS}.")
    if not 0 <= holdout < 1:
        raise InvalidInput(f"--holdout is {holdout}.", "It must be at least 0 and less than 1.")
    tokenizer = model.tokenizer
    convention = make_convention(
        "default",
        n_positions=model.n_positions,
        bos_id=tokenizer.start_id,
        context=context,
        stride=stride,
        bos=bos,
    )
    scorer = TextScorer(
        tokenizer=tokenizer,
        convention=convention,
        likelihood=CalibrationLikelihood(model.decoder()),
    )
    calibrator = Calibrator(bins=bins, holdout=holdout)
    for _, _, scores in scorer.windows([(None, text)]):
        calibrator.add(scores.numbers)
        if on_tokens is not None:
            on_tokens(calibrator.all.tokens)
    if not calibrator.all.tokens:
        raise InvalidInput("The text has no token that can be scored.", "Give a longer text.")
    return calibrator.result(), convention


def calibration_record(result: Calibration, convention: Convention) -> dict[str, Any]:
    """The figures ready for JSON."""
    return {**asdict(result), **convention_record(convention)}


def save_temperature(
    path: Path, model: LanguageModel, result: Calibration, texts: Sequence[str]
) -> None:
    """Write the temperature that was fitted, for ``--calibration``.

    Args:
        path: The file.
        model: What it was fitted to.
        result: The figures.
        texts: What the text is called, such as the names of its files.

    Raises:
        InvalidInput: no temperature was fitted.
        StorageError: the disk does not take it.
    """
    if result.temperature is None:
        raise InvalidInput(
            "There is no temperature to save: none fits, or the text is under 200 tokens.",
            "Give more text, or text of the model's own kind.",
        )
    from llmcli.models.calibration_file import write_calibration

    values = {
        "temperature": result.temperature,
        "temperature_interval": result.temperature_interval,
        "tokens": result.tokens,
        "text": texts,
        "nll_before": result.nll_before,
        "nll_after": result.nll_after,
        "ece_before": result.ece_before,
        "ece_after": result.ece_after,
    }
    write_calibration(path, "temperature", model, values)
