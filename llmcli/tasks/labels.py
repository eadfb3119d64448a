"""Labels for texts: a prompt for each, the labels' likelihoods after it, and their corrections."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from llmcli.errors import InvalidInput
from llmcli.io.records import Columns, Record, Source
from llmcli.tasks.rank import choice_windows, join_choice
from llmcli.tasks.templates import INPUT, Template, labelled

if TYPE_CHECKING:
    from llmcli.models.language_model import LanguageModel
    from llmcli.tokenization.tokenizer import Tokenizer

Correction = Literal["none", "contextual", "domain", "batch", "pmi"]

DEFAULT_TEMPLATE = "{input}\nLabel:"
# Between worked examples, and between them and the prompt.
SEPARATOR = "\n\n"
# Inputs without content (Zhao et al. 2021).
CONTENT_FREE = ("N/A", "", "[MASK]")
# Texts of random words that domain-context calibration averages over (Fei et al. 2023), and the
# words kept to draw them from.
_DOMAIN_TEXTS = 20
_DOMAIN_WORDS = 10_000
_SEED = 20_240_501


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelTask:
    """Which labels a text may have, and how a model is asked.

    Attributes:
        labels: At least two, none twice.
        template: What a text is put into.
        examples: Worked examples, as they stand before each prompt.
        delimiter: Between prompt and label; None for a space where neither has white space.
        bos: Whether BOS stands before the prompt; None for what the tokenizer does.

    Raises:
        InvalidInput: a label is empty or there twice, there are fewer than two, or the template
            has no place for the text.
    """

    labels: tuple[str, ...]
    template: Template
    examples: str = ""
    delimiter: str | None = None
    bos: bool | None = None

    def __post_init__(self) -> None:
        if not all(self.labels):
            raise InvalidInput("A label is empty.", "Give each label some text.")
        twice = next((each for each in self.labels if self.labels.count(each) > 1), None)
        if twice is not None:
            raise InvalidInput(f"The label {twice!r} is there twice.", "Name each label once.")
        if len(self.labels) < 2:
            raise InvalidInput("There are fewer than two labels.", "Give at least two.")
        if INPUT not in self.template.fields:
            raise InvalidInput(
                "The template has no {input}.", "Write {input} where the text belongs."
            )

    def prompt(self, record: Record) -> str:
        """What a model is asked about a record.

        Raises:
            InvalidInput: the record lacks a field that the template names.
        """
        place = record.place or "The text"
        return self.examples + self.template.fill(record.text, record.fields, place=place)

    def to_dict(self) -> dict[str, Any]:
        """What answers depend on, ready for JSON."""
        examples = hashlib.sha256(self.examples.encode("utf-8", "replace")).hexdigest()
        return {
            "labels": list(self.labels),
            "template": self.template.text,
            "examples": examples if self.examples else None,
            "delimiter": self.delimiter,
            "bos": self.bos,
        }


def read_examples(
    source: Source,
    columns: Columns,
    label_field: str,
    *,
    template: Template,
    delimiter: str | None,
    labels: Sequence[str] = (),
) -> str:
    """The worked examples of a table, as they stand before a prompt.

    Args:
        source: The table.
        columns: Where it has its texts.
        label_field: Where it has their labels.
        template: What each text is put into.
        delimiter: Between that and the label.
        labels: Those there are; any will do where there are none.

    Raises:
        InvalidInput: an example is wrong, or has another label.
    """
    found = []
    for record, label in labelled(source, columns, label_field):
        if isinstance(label, InvalidInput):
            raise label
        if labels and label not in labels:
            raise InvalidInput(
                f"{record.place} has the label {label!r}, which is not among the labels.",
                "Add it to --labels, or leave the example out.",
            )
        prompt = template.fill(record.text, record.fields, place=record.place)
        found.append(prompt + join_choice(prompt, label, delimiter) + SEPARATOR)
    if not found:
        raise InvalidInput(f"{source.label} holds no examples.", "Give at least one.")
    return "".join(found)


def label_notices(tokenizer: Tokenizer, task: LabelTask) -> Iterator[str]:
    """What there is to know about labels that begin alike."""
    ids = [tokenizer.ids(join_choice("a:", each, task.delimiter)) for each in task.labels]
    for one, label in enumerate(task.labels):
        for other in range(len(task.labels)):
            if one != other and task.labels[other].startswith(label):
                yield (
                    f"The label {label!r} begins {task.labels[other]!r}: its likelihood is that of "
                    "every text that goes on from it, the other label's included."
                )
            elif one < other and ids[one][:1] == ids[other][:1]:
                yield (
                    f"The labels {label!r} and {task.labels[other]!r} begin with the same token; "
                    "each is scored as a whole."
                )


Score = Callable[[str], list[float]]
"""The log-likelihood of each label after a prompt, nats."""


@contextmanager
def label_scores(model: LanguageModel, task: LabelTask) -> Iterator[Score]:
    """Give what scores all labels after a prompt, whose keys and values are computed once.

    What a prompt begins with in common with the one before, such as worked examples, is not
    computed again.

    Raises:
        InvalidInput: by what is given: the prompt is too long, or a label has no tokens of its
            own after it.
        NumericalError: the model's logits are NaN or infinite.
    """
    from llmcli.scoring.likelihood import Likelihood

    tokenizer = model.tokenizer
    with Likelihood(model.decoder()).session() as score:

        def scores(prompt: str) -> list[float]:
            windows = choice_windows(
                tokenizer,
                prompt,
                task.labels,
                n_positions=model.n_positions,
                bos_id=tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id,
                bos=tokenizer.adds_bos if task.bos is None else task.bos,
                delimiter=task.delimiter,
            )
            return [math.fsum(each.logprobs) for each in score(windows)]

        yield scores


def data_free_prior(
    score: Score, task: LabelTask, correction: Literal["contextual", "pmi"], domain: str | None
) -> list[float]:
    """The prior of a correction that needs no inputs, as logs.

    Args:
        score: Scores labels.
        task: The task.
        correction: Contextual calibration (Zhao et al. 2021), or pointwise mutual information
            with the labels' likelihood after a prompt of the domain (Holtzman et al. 2021).
        domain: That prompt; None for the template's text behind its last place.
    """
    import numpy as np

    from llmcli.scoring.labels import content_free_prior

    if correction == "pmi":
        return score(task.template.tail.lstrip() if domain is None else domain)
    prompts = [task.examples + task.template.fill_all(text) for text in CONTENT_FREE]
    return _floats(content_free_prior(np.array([score(each) for each in prompts])))


def domain_prior(score: Score, task: LabelTask, texts: Iterable[str]) -> list[float]:
    """Domain-context calibration's prior, as logs: after random words of the texts.

    As many words as a text has on average, 20 times over (Fei et al. 2023), always the same ones.

    Args:
        score: Scores labels.
        task: The task.
        texts: The inputs.

    Raises:
        InvalidInput: there is no word in them.
    """
    import numpy as np

    from llmcli.scoring.labels import mean_prior

    random = np.random.Generator(np.random.PCG64(_SEED))
    words: list[str] = []
    seen = count = 0
    for text in texts:
        count += 1
        for word in text.split():
            seen += 1
            if len(words) < _DOMAIN_WORDS:
                words.append(word)
            elif (place := int(random.integers(0, seen))) < _DOMAIN_WORDS:
                words[place] = word
    if not words:
        raise InvalidInput("The inputs hold no words to draw from.", "Use another --correct.")
    length = max(1, round(seen / count))
    prompts = [
        " ".join(words[place] for place in random.integers(0, len(words), length))
        for _ in range(_DOMAIN_TEXTS)
    ]
    rows = [score(task.examples + task.template.fill_all(each)) for each in prompts]
    return _floats(mean_prior(np.array(rows)))


def batch_prior(rows: Any) -> list[float]:
    """Batch calibration's prior, as logs, of the scores of many inputs [inputs, labels]."""
    import numpy as np

    from llmcli.scoring.labels import mean_prior

    return _floats(mean_prior(np.asarray(rows)))


def _floats(values: Any) -> list[float]:
    return [float(each) for each in values]
