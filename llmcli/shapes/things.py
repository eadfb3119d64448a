"""What train, bench, serve, models, templates, config and log print."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict


class Trained(TypedDict):
    """What came of ``train``.

    Attributes:
        model: The folder.
        validation_loss: On text that was held out, in nats a token.
    """

    model: str
    steps: int
    tokens: int
    seconds: float
    parameters: int
    precision: str
    validation_loss: NotRequired[float]
    validation_perplexity: NotRequired[float]
    validation_bits_per_byte: NotRequired[float]
    versions: dict[str, str]


class Measured(TypedDict):
    """A row of ``bench``; for each length and batch that the model's context holds it has rates.

    ``prefill_32_tokens_per_second`` is the mean over repetitions, ``prefill_32_deviation`` the
    standard deviation; so ``decode_batch_8_...``.

    Attributes:
        kernels: What computes.
        through_transformers: Whether transformers decoded.
        memory_bandwidth_bytes_per_second: What the machine was measured to have.
        share_of_bandwidth: How much of it decoding one sequence took.
    """

    model: str
    precision: str
    device: str
    processor: str
    kernels: str
    threads: int
    repetitions: int
    load_seconds: float
    through_transformers: bool
    peak_memory_bytes: int
    weight_bytes_per_token: int | None
    memory_bandwidth_bytes_per_second: float | None
    share_of_bandwidth: float | None
    decode_batch_1_tokens_per_second: float
    decode_batch_1_deviation: float


class Serving(TypedDict):
    """Where ``serve`` listens."""

    url: str
    model: str


class ModelEntry(TypedDict):
    """A model that is on this machine.

    Attributes:
        revision: The Hub's commit; null for a bundled model.
        references: Branches and tags that stand at it.
        size: In bytes.
        last_used: When a file was last read; null where that is not known.
        complete: Whether it can be loaded as it is.
    """

    name: str
    origin: Literal["bundled", "hub"]
    folder: str
    revision: str | None
    references: list[str]
    size: int
    last_used: str | None
    complete: bool


class ModelFetched(TypedDict):
    """What ``models pull`` has brought."""

    name: str
    origin: Literal["folder", "bundled", "hub"]
    revision: str | None
    folder: str


class ModelDescription(TypedDict):
    """What ``models show`` tells.

    Attributes:
        revision: The Hub's commit; null for a folder and a bundled model.
        parameters: How many; null without weights.
        pickled: Whether the weights are in pickle files.
        size: In bytes.
        prepared: Bytes of what was prepared for a fast start.
        files: Bytes by the files' names.
    """

    name: str
    origin: Literal["folder", "bundled", "hub"]
    revision: str | None
    folder: str
    architecture: str | None
    model_type: str
    parameters: int | None
    dtype: str | None
    n_positions: int | None
    vocab_size: int | None
    n_layer: int | None
    n_embd: int | None
    n_head: int | None
    pickled: bool
    license: str | None
    size: int
    prepared: int
    files: dict[str, int]


class ModelRemoved(TypedDict):
    """What ``models remove`` has deleted, and how many bytes are free again."""

    name: str
    revision: str | None
    freed: int


class ModelRepaired(TypedDict):
    """The copy that ``models repair`` wrote, and what is different in it."""

    folder: str
    changes: list[str]


class ModelPath(TypedDict):
    """Where a model is."""

    name: str
    folder: str


TemplateEntry = TypedDict("TemplateEntry", {"name": str, "from": str, "description": str | None})
TemplateEntry.__doc__ = """A template for prompts: "bundled", or the file that it is from."""


class Place(TypedDict):
    """Where a file or a folder is, whether or not it exists."""

    path: str


class LogPlace(Place):
    """Where the log is, and whether generations are kept."""

    on: bool


class Setting(TypedDict):
    """A value in force, and where it comes from: a variable, the file, or "default"."""

    option: str
    value: str | int | float | bool | list[str | int | float] | None
    source: str


class Replayed(TypedDict):
    """How many tokens were the same again: all of them."""

    same_tokens: int
