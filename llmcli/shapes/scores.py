"""What score, rank, classify and pairs print."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from llmcli.shapes.common import Interval


class Figures(TypedDict):
    """How well a text was predicted, in nats unless the name says otherwise."""

    tokens: int
    words: int
    bytes: int
    nll: float
    nll_per_token: float
    perplexity: float
    word_perplexity: float | None
    byte_perplexity: float | None
    bits_per_byte: float | None


class PseudoFigures(TypedDict):
    """The same of a masked model, which predicts each token from both sides."""

    tokens: int
    words: int
    bytes: int
    pseudo_nll: float
    pseudo_nll_per_token: float
    pseudo_perplexity: float
    pseudo_word_perplexity: float | None
    pseudo_byte_perplexity: float | None
    pseudo_bits_per_byte: float | None


class IntervalMethod(TypedDict):
    """How an interval was made."""

    level: float
    method: str
    block_tokens: int


class PerplexityInterval(TypedDict):
    """An interval of the perplexity; null for texts too short for one."""

    perplexity_interval: Interval | None
    interval: IntervalMethod


class PseudoInterval(TypedDict):
    """The same of a masked model."""

    pseudo_perplexity_interval: Interval | None
    interval: IntervalMethod


class Convention(TypedDict):
    """How a long text was cut into windows.

    Attributes:
        bos: Whether the begin-of-text token stood in front.
    """

    convention: str
    context: int
    stride: int
    bos: bool


class Timed(TypedDict):
    """What was put in front of each text, and how long it took."""

    prompt: NotRequired[str]
    seconds: float
    tokens_per_second: float


class Means(TypedDict):
    """Means over rows, each counting alike."""

    perplexity: NotRequired[float]
    nll_per_token: NotRequired[float]
    bits_per_byte: NotRequired[float]
    pseudo_perplexity: NotRequired[float]
    pseudo_nll_per_token: NotRequired[float]
    pseudo_bits_per_byte: NotRequired[float]


class Total(TypedDict):
    """What the last of several records has: the whole, and the rows' mean."""

    unit: Literal["total"]
    rows: NotRequired[int]
    mean_of_rows: NotRequired[Means]


class Part(TypedDict):
    """Which file, line or paragraph a row is of.

    Attributes:
        place: As messages call it.
        text: The text; without it for files.
    """

    unit: Literal["file", "line", "paragraph"]
    place: str
    file: NotRequired[str]
    text: NotRequired[str]


class ScoredAlternative(TypedDict):
    """A likely token at a place of a text."""

    token: str
    id: int
    logprob: float


class ScoredToken(TypedDict):
    """A token of a text.

    Attributes:
        offset: Where it begins, in bytes.
        logprob: Natural log of its probability; null where nothing stands before it.
        rank: How many tokens were likelier, and one.
        entropy: Of the model's distribution there, in nats.
    """

    index: int
    token: str
    bytes: list[int]
    id: int
    offset: int
    logprob: float | None
    rank: int | None
    entropy: float | None
    top_logprobs: list[ScoredAlternative]


class Difference(TypedDict):
    """The second model's figures less the first's."""

    nll: float
    nll_per_token: NotRequired[float]
    nll_per_token_interval: NotRequired[Interval | None]
    nll_per_byte: NotRequired[float]
    nll_per_byte_interval: NotRequired[Interval | None]
    bits_per_byte: float | None
    kl_divergence: float | None
    same_top: float | None


class LabelFile(TypedDict):
    """The file that ``--calibration`` named."""

    file: str


class Classified(TypedDict):
    """Which label fits a text.

    Attributes:
        set: Labels of which one is right, but for a share of ``alpha``.
        correction: How the labels' own likelihood was taken out.
    """

    prediction: str
    probability: float
    set: NotRequired[list[str]]
    alpha: NotRequired[float]
    probabilities: dict[str, float]
    logprobs: dict[str, float]
    correction: str
    calibration: NotRequired[LabelFile]


class PairFigures(TypedDict):
    """In how many pairs the good one is likelier.

    Attributes:
        share: Of the pairs.
        share_interval: Wilson's, of 95 %.
        log_ratio: The mean of log P(good) less log P(bad).
        log_ratio_error: Its standard error; null for one pair.
    """

    pairs: int
    share: float
    share_interval: Interval
    ties: int
    log_ratio: float
    log_ratio_error: float | None


class PairGroup(PairFigures):
    """The pairs of one value of the field ``--by``."""

    group: str


class Pairs(PairFigures):
    """What ``pairs`` counted.

    Attributes:
        errors: Records that were left out.
        good: The field of the good sentence.
        bad: The field of the bad one.
    """

    errors: int
    groups: list[PairGroup]
    good: str
    bad: str
    by: str | None


class Ranked(TypedDict):
    """What was ranked; the choices are the likeliest first."""

    prompt: str
    normalize: str
