"""The model card needs no hand editing: what it says of data, command, machine and notes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from llmcli.training.card import CardFacts, model_card
from llmcli.training.evaluation import Likelihood
from llmcli.training.processes import command_line

FACTS = CardFacts(
    name="fable",
    command="llmcli train corpus/ -o fable",
    base=None,
    shape={"n_layer": 2},
    parameters=7_000_000,
    stored="float16",
    settings={"seed": 3},
    processes=1,
    machine="a processor, 2 threads",
    date="2026-11-25",
    steps=1,
    tokens_seen=50,
    seconds=1.2,
    corpus_bytes=4000,
    corpus_sha256="ab12",
    documents=1,
    train_tokens=100,
    held_out=["b.txt"],
    held_out_tokens=20,
    validation=Likelihood(nats=40.0, tokens=19, bytes=60),
    rounded={"float16": 2.5},
    records=[],
    samples=[],
)


def card(**changes: Any) -> str:
    return model_card(dataclasses.replace(FACTS, **changes))


def test_numbers_are_spelt_right() -> None:
    one = card()
    assert "1 document, 4,000 bytes; 100 tokens" in one
    assert "1 step over 50 tokens (0.50 times the text) in\n1 second, in 1 process on a pro" in one
    assert "finished on 2026-11-25." in one
    two = card(processes=2, documents=2, steps=2, seconds=600.0)
    assert "2 documents" in two
    assert "in\n10 minutes, in 2 processes on" in two


def test_what_was_held_out() -> None:
    assert "Held out, 20 tokens, and never trained on: `b.txt`." in card()
    assert "never trained on: the end of each document." in card(held_out=[])
    assert "Nothing was held out." in card(held_out=[], held_out_tokens=0, validation=None)
    many = card(held_out=[f"{number}.txt" for number in range(1050)])
    assert "`49.txt`, 1,000 more." in many
    assert "`50.txt`" not in many


def test_rounding_is_reported_where_there_was_a_choice() -> None:
    assert "after rounding" not in card()
    assert "after rounding: float16 2.5000, bfloat16 2.4000." in card(
        rounded={"float16": 2.5, "bfloat16": 2.4}
    )


@pytest.mark.parametrize(
    ("notes", "shown"),
    [
        ("Made for a test.\n", "## Notes\n\nMade for a test.\n"),
        ("# Licence\n\nFree.\n\n## More\n", "## Licence\n\nFree.\n\n### More\n"),
    ],
)
def test_notes_and_sources_have_their_headings(notes: str, shown: str) -> None:
    text = card(notes=notes, sources="A list.")
    assert text.endswith(f"\n{shown}\n## Sources\n\nA list.\n")
    assert "## Notes" not in card()


def test_a_sample_cannot_drive_a_terminal() -> None:
    text = card(samples=[(1, "Once", " \x1b[31mred\x9b```\n\tfox")])
    assert "````text\nOnce \\x1b[31mred\\x9b```\n\tfox\n````\n" in text


def test_the_command_begins_the_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["train", "my tales/", "--resume", "-o", "m"]
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert command_line(arguments) == "llmcli train 'my tales/' -o m"
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert command_line(arguments[:2]) == "torchrun --nproc-per-node 2 -m llmcli train 'my tales/'"
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert command_line(["train"]) == "torchrun --nnodes 2 --nproc-per-node 2 -m llmcli train"
