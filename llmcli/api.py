"""The public face: load a model, and continue text with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from llmcli.engine.params import SamplingParams
from llmcli.errors import InvalidInput
from llmcli.models import language_model
from llmcli.models.kinds import Kind
from llmcli.models.loader import load_as
from llmcli.models.options import LoadOptions
from llmcli.reporting import Notify, silent


class LanguageModel(language_model.LanguageModel):
    """A model ready to encode, generate and score; made by :func:`load`."""

    def generate(self, prompt: str, *, seed: int | None = None, **settings: Any) -> Iterator[str]:
        """Continue a text; the pieces, joined, are the continuation.

        A model of an encoder and a decoder answers it.

        Args:
            prompt: The text to continue; not empty.
            seed: Makes the result repeatable; drawn at random when None.
            settings: Any field of SamplingParams. What is not given is what the model's
                generation_config.json sets, else temperature 0.8 and top_p 0.95.

        Raises:
            InvalidInput: a setting is out of range, the prompt is empty or too long.
            NumericalError: the model's logits are NaN or infinite.
        """
        from llmcli.tasks.generate import continue_text
        from llmcli.tasks.prompts import sampling_params

        unknown = settings.keys() - {each.name for each in fields(SamplingParams)}
        if unknown:
            raise InvalidInput(f"There is no setting {min(unknown)!r}.", "See SamplingParams.")
        params = sampling_params(self, {**settings, "seed": seed})
        events = continue_text(self, prompt, params).events
        return (event.text for event in events if event.text)


def load(
    model: str | None = None,
    *,
    notify: Notify = silent,
    detail: Notify = silent,
    **options: Any,
) -> LanguageModel:
    """Find a model and load it.

    Args:
        model: A folder, a bundled model's name, or a Hub id; None for gpt2, for which the
            bundled model stands in where it cannot be had.
        notify: Called with one sentence about what the user ought to know.
        detail: Called with one sentence for who wants to know more.
        options: Any other field of LoadOptions, such as ``precision="int8"``.

    Raises:
        ModelError: the model cannot be had or used; the subclass says why.
        InvalidInput: an option is wrong.
        OutOfMemory: it does not fit.
    """
    unknown = options.keys() - {each.name for each in fields(LoadOptions)}
    if unknown:
        raise InvalidInput(f"There is no option {min(unknown)!r}.", "See LoadOptions.")
    wanted = LoadOptions(model=model, **options)
    resolved = wanted.resolve(notify=notify)
    kinds: tuple[Kind, ...] = ("causal", "encoder-decoder")
    return load_as(LanguageModel, resolved, wanted, kinds=kinds, notify=notify, detail=detail)
