"""The model card: what a model is, what it was made from, how good it is, how to make it again."""

from __future__ import annotations

import platform
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from llmcli._version import __version__
from llmcli.training.curve import draw_curve, metric
from llmcli.training.evaluation import Likelihood

_NAMES = 50  # of held-out documents; a file of records may hold out thousands
_LIBRARIES = ("torch", "transformers", "tokenizers", "accelerate", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What the card states; see :func:`model_card`."""

    name: str
    command: str
    base: str | None
    shape: dict[str, Any]
    parameters: int
    stored: str
    settings: dict[str, Any]
    processes: int
    machine: str
    date: str
    steps: int
    tokens_seen: int
    seconds: float
    corpus_bytes: int
    corpus_sha256: str
    documents: int
    train_tokens: int
    held_out: Sequence[str]
    held_out_tokens: int
    validation: Likelihood | None
    rounded: dict[str, float]
    records: Sequence[dict[str, Any]]
    samples: Sequence[tuple[int, str, str]]
    sources: str | None = None
    notes: str | None = None


def versions() -> dict[str, str]:
    """Return the versions of what a result depends on."""
    found = {name: version(name) for name in _LIBRARIES}
    return {"llmcli": __version__, "python": platform.python_version(), **found}


def model_card(facts: CardFacts) -> str:
    """Return the card, in Markdown."""
    parts = [
        f"---\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n\n# {facts.name}\n",
        _summary(facts),
        _figures(facts),
        _data(facts),
        _settings(facts),
        _samples(facts),
    ]
    if facts.notes:
        parts.append(_demoted(facts.notes, heading="Notes"))
    if facts.sources:
        parts.append(_demoted(facts.sources, heading="Sources"))
    return "\n".join(part.strip("\n") + "\n" for part in parts if part)


def _summary(facts: CardFacts) -> str:
    origin = f"`{facts.base}`, trained further" if facts.base else "a GPT-2, trained from scratch"
    size = ", ".join(f"{name} {value}" for name, value in facts.shape.items())
    libraries = ", ".join(f"{name} {number}" for name, number in versions().items())
    return f"""\
A language model: {origin}. {facts.parameters:,} parameters ({size}), stored in {facts.stored}.

Made by

```sh
{facts.command}
```

with {libraries}.
"""


def _figures(facts: CardFacts) -> str:
    if facts.validation is None:
        return "## Figures\n\nNothing was held out, so nothing was measured.\n"
    measured = facts.validation
    rows = [
        ("bits per byte", f"{measured.bits_per_byte:.4f}"),
        ("perplexity of a token", f"{measured.perplexity:.2f}"),
        ("loss (nats a token)", f"{measured.loss:.4f}"),
        ("tokens scored", f"{measured.tokens:,}"),
        ("UTF-8 bytes scored", f"{measured.bytes:,}"),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    lost = ""
    if len(facts.rounded) > 1:
        losses = ", ".join(f"{name} {loss:.4f}" for name, loss in facts.rounded.items())
        lost = f"Loss of part of the held-out text after rounding: {losses}.\n"
    chart = draw_curve(metric(facts.records, "validation_bits_per_byte"), unit="tokens")
    curve = ""
    if chart:
        drawn = "\n".join(chart)
        curve = f"""
Bits per byte on part of the held-out text while training (windows that do not overlap):

```text
{drawn}
```
"""
    return f"""\
## Figures

On the held-out text, with the weights as they are stored, computed in float32:

| | |
| --- | --- |
{table}

Every token of each held-out document is scored once, by windows of the whole context that advance
by half of it; each document begins with the end-of-text token, which is not scored itself. Bits
per byte are the negative log-likelihood of the whole text in bits, divided by its UTF-8 bytes.
{lost}{curve}"""


def _data(facts: CardFacts) -> str:
    what = "Nothing was held out."
    if facts.held_out_tokens:
        names = [f"`{name}`" for name in facts.held_out]
        more = [f"{len(names) - _NAMES:,} more"] if len(names) > _NAMES else []
        held = ", ".join([*names[:_NAMES], *more]) or "the end of each document"
        what = f"Held out, {facts.held_out_tokens:,} tokens, and never trained on: {held}."
    return f"""\
## Data

{_count(facts.documents, "document")}, {facts.corpus_bytes:,} bytes; {facts.train_tokens:,} tokens
to train on. sha256 of all documents, one after the other in the order in which they were read:
`{facts.corpus_sha256}`.

{what}
"""


def _settings(facts: CardFacts) -> str:
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.settings.items())
    long = facts.seconds >= 120
    time = f"{facts.seconds / 60:,.0f} minutes" if long else _count(round(facts.seconds), "second")
    passes = facts.tokens_seen / facts.train_tokens
    return f"""\
## Training

{_count(facts.steps, "step")} over {facts.tokens_seen:,} tokens ({passes:.2f} times the text) in
{time}, in {_count(facts.processes, "process", "processes")} on {facts.machine};
finished on {facts.date}.

| Setting | Value |
| --- | --- |
{rows}
"""


def _samples(facts: CardFacts) -> str:
    if not facts.samples:
        return ""
    parts = []
    for seed, prompt, text in facts.samples:
        text = _without_controls(text)
        fence = "`" * max(3, _longest_run(text) + 1)
        parts.append(f"Seed {seed}:\n\n{fence}text\n{prompt}{text}\n{fence}\n")
    return "## Samples\n\nAs they came, temperature 0.8, top_p 0.95.\n\n" + "\n".join(parts)


def _count(number: int, one: str, more: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else more or one + 's'}"


def _without_controls(text: str) -> str:
    """Escape what a terminal would obey: a model of a few steps may write anything."""
    return "".join(
        f"\\x{ord(each):02x}" if unicodedata.category(each) == "Cc" and each not in "\n\t" else each
        for each in text
    )


def _longest_run(text: str) -> int:
    longest = run = 0
    for character in text:
        run = run + 1 if character == "`" else 0
        longest = max(longest, run)
    return longest


def _demoted(markdown: str, *, heading: str) -> str:
    """Return the text with each heading one level down, under one of its own or ``heading``."""
    lines = markdown.strip().splitlines()
    if not lines[:1] or not lines[0].startswith("# "):
        lines = [f"# {heading}", "", *lines]
    return "\n".join(f"#{line}" if line.startswith("#") else line for line in lines)
