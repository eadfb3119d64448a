"""The model card: what a model is, what it was made from, how good it is, how to make it again."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from llmcli._version import __version__
from llmcli.training.curve import draw_curve, metric
from llmcli.training.evaluation import Likelihood

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
    steps: int
    tokens_seen: int
    seconds: float
    corpus_bytes: int
    corpus_sha256: str
    documents: int
    train_tokens: int
    held_out: Sequence[str]
    validation: Likelihood | None
    rounded: dict[str, float]
    records: Sequence[dict[str, Any]]
    samples: Sequence[tuple[int, str, str]]
    sources: str | None = None


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
    if facts.sources:
        parts.append(_demoted(facts.sources))
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
    lost = ", ".join(f"{name} {loss:.4f}" for name, loss in facts.rounded.items())
    chart = draw_curve(metric(facts.records, "validation_bits_per_byte"), unit="tokens")
    curve = "```text\n" + "\n".join(chart) + "\n```\n" if chart else ""
    return f"""\
## Figures

On the held-out text, with the weights as they are stored, computed in float32:

| | |
| --- | --- |
{table}

Every token of each held-out document is scored once, by windows of the whole context that advance
by half of it; each document begins with the end-of-text token, which is not scored itself. Bits
per byte are the negative log-likelihood of the whole text in bits, divided by its UTF-8 bytes.
Loss of part of the held-out text after rounding: {lost}.

Bits per byte on part of the held-out text while training (windows that do not overlap):

{curve}"""


def _data(facts: CardFacts) -> str:
    held = ", ".join(f"`{name}`" for name in facts.held_out)
    what = f"Held out, and never trained on: {held}." if held else "Nothing was held out."
    return f"""\
## Data

{facts.documents:,} documents, {facts.corpus_bytes:,} bytes; {facts.train_tokens:,} tokens to train
on. sha256 of all documents, one after the other in the order of their files' names:
`{facts.corpus_sha256}`. {what}
"""


def _settings(facts: CardFacts) -> str:
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.settings.items())
    return f"""\
## Training

{facts.steps:,} steps over {facts.tokens_seen:,} tokens in {facts.seconds / 60:.0f} minutes, in
{facts.processes} process(es).

| Setting | Value |
| --- | --- |
{rows}
"""


def _samples(facts: CardFacts) -> str:
    if not facts.samples:
        return ""
    parts = []
    for seed, prompt, text in facts.samples:
        fence = "`" * max(3, _longest_run(text) + 1)
        parts.append(f"Seed {seed}:\n\n{fence}text\n{prompt}{text}\n{fence}\n")
    return "## Samples\n\nAs they came, temperature 0.8, top_p 0.95.\n\n" + "\n".join(parts)


def _longest_run(text: str) -> int:
    longest = run = 0
    for character in text:
        run = run + 1 if character == "`" else 0
        longest = max(longest, run)
    return longest


def _demoted(markdown: str) -> str:
    """Return the text with each heading one level down."""
    lines = markdown.splitlines()
    return "\n".join(f"#{line}" if line.startswith("#") else line for line in lines)
