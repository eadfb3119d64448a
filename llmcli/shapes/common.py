"""What records of several commands hold."""

from __future__ import annotations

from typing import NotRequired, TypedDict

Interval = tuple[float, float]
"""Its ends."""


class Fitted(TypedDict):
    """What ``--calibration`` brought.

    Attributes:
        file: The file.
        temperature: What the logits are divided by.
    """

    file: str
    temperature: float


class Provenance(TypedDict):
    """Where a result came from.

    Attributes:
        model: The model as it was asked for.
        revision: The Hub's commit, or the SHA-256 of a folder's weights.
        precision: Of the weights.
        device: Where the model ran.
        versions: Of what computed, by name.
    """

    model: str
    revision: str | None
    precision: str
    device: str
    calibration: NotRequired[Fitted]
    versions: dict[str, str]


class Source(TypedDict):
    """Which model's tokenizer.

    Attributes:
        model: The model as it was asked for.
        revision: The Hub's commit, or the SHA-256 of a folder's weights.
    """

    model: str
    revision: str | None


class Row(TypedDict):
    """What a batch's row has beside the fields of its record.

    Attributes:
        record: The record's number, from 0.
    """

    record: int


class ErrorRow(TypedDict):
    """A record that could not be worked on.

    Attributes:
        record: The record's number, from 0.
        error: What is wrong with it; the row's last key.
    """

    record: int
    error: str


class Token(TypedDict):
    """A token.

    Attributes:
        id: Its number in the vocabulary.
        token: Its text, with U+FFFD for bytes that are no text of their own.
        bytes: Its exact bytes.
    """

    id: int
    token: str
    bytes: list[int]


class TopToken(Token):
    """A likely token.

    Attributes:
        logprob: Natural log of the model's own probability.
    """

    logprob: float
