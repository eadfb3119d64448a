"""Many texts, a batch of sequences at a time; what comes out is in the order of what went in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from llmcli.engine.params import DraftStats, SamplingParams, TokenEvent
from llmcli.errors import InvalidInput, LlmcliError, NumericalError

if TYPE_CHECKING:
    from llmcli.engine.batching import Row, RowError
    from llmcli.engine.decoder import Decoder
    from llmcli.engine.speculative import Draft
    from llmcli.models.language_model import LanguageModel
    from llmcli.tokenization.tokenizer import SpecialTokens

K = TypeVar("K")

# How many sequences go together where nobody said so.
DEFAULT_BATCH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Told(Generic[K]):
    """A step of one text's continuation, or why it has none (or no further one).

    Attributes:
        key: What the text was given under.
        prompt_tokens: How many tokens the prompt has, before anything was dropped.
        event: The step; None with an error, which is the last that is told of a text.
        error: What is wrong with this text.
    """

    key: K
    prompt_tokens: int = 0
    event: TokenEvent | None = None
    error: RowError | None = None


def group_size(
    model: LanguageModel,
    decoder: Decoder | None,
    params: SamplingParams,
    draft: Draft | None,
    batch_size: int | None,
) -> int:
    """How many sequences to decode at once; a notice where more were asked for in vain.

    None for ``batch_size`` leaves it to us: several where that changes no bit of a logit.
    """
    from llmcli.engine.batching import rows_alike

    if batch_size == 1 or (batch_size is None and (decoder is None or rows_alike(decoder) == 1)):
        return 1
    reason = _alone_because(model, decoder, params, draft)
    if reason is None:
        alike = 1 if decoder is None else rows_alike(decoder)
        size = batch_size or DEFAULT_BATCH
        return size if alike == 1 else min(size, alike)
    if batch_size is not None:
        model.notify(f"Continuations are decoded one at a time: {reason}.")
    return 1


def _alone_because(
    model: LanguageModel, decoder: Decoder | None, params: SamplingParams, draft: Draft | None
) -> str | None:
    from llmcli.engine.batching import rows_alike

    if params.num_beams > 1 or decoder is None:
        return "beam search fills a batch by itself"
    if draft is not None:
        return "a draft looks ahead in one of them"
    if params.overflow == "slide":
        return "each that slides is read afresh in its own time"
    if model.precision != "float32" and rows_alike(decoder) == 1:
        # Measured (README, "Batches"): a quarter of the texts or all of them would change.
        return (
            f"in {model.precision} several at once are rounded differently from one here, and a "
            "text must not depend on its neighbours (float32 allows it)"
        )
    return None


def continue_batch(
    model: LanguageModel,
    texts: Iterable[tuple[K, str | InvalidInput] | None],
    params: SamplingParams,
    *,
    batch_size: int | None = None,
    bos: bool = False,
    heal: bool = False,
    special: SpecialTokens = "text",
    should_stop: Callable[[], bool] = bool,
    draft: Draft | None = None,
    draft_stats: DraftStats | None = None,
) -> Iterator[Told[K]]:
    """Continue texts, ``batch_size`` sequences at a time; all of a text's come before the next's.

    A text's continuation depends on the model, the settings, the seed and its place among the
    texts; not on ``batch_size`` nor on its neighbours. Where several rows at once are computed
    with other bits than one (see :func:`llmcli.engine.batching.rows_alike`), that holds up to
    the last bits of float32. Texts are taken from the iterator as a batch needs them. What is
    wrong with one of them is told in its place. With settings that do not allow it sequences go
    one after the other, and a notice says so.

    Args:
        model: The model.
        texts: A key and a text each; an error in a text's place is passed on. None says that
            the next text must be waited for: what is there is continued first.
        params: Settings, the same for all.
        batch_size: How many sequences at once; None for several where that is exact.
        bos: Put the begin-of-text token first.
        heal: Let the model re-divide each prompt's last token.
        special: What control tokens in a text are.
        should_stop: Asked once a step; true ends what is under way as "interrupted", and
            nothing is begun after it.
        draft: Proposes tokens.
        draft_stats: Counts what it proposed.

    Raises:
        ModelError: the model cannot be loaded.
    """
    decoder = None if params.num_beams > 1 else model.decoder()
    plan = _Plan(model=model, params=params, bos=bos, heal=heal, special=special)
    size = group_size(model, decoder, params, draft, batch_size)
    if size == 1 or decoder is None:
        return _one_by_one(plan, texts, decoder, should_stop, draft, draft_stats)
    return _Groups(plan, texts, decoder, size, should_stop).run()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What is the same for all texts."""

    model: LanguageModel
    params: SamplingParams
    bos: bool
    heal: bool
    special: SpecialTokens


def _one_by_one(
    plan: _Plan,
    texts: Iterable[tuple[K, str | InvalidInput] | None],
    decoder: Decoder | None,
    should_stop: Callable[[], bool],
    draft: Draft | None,
    draft_stats: DraftStats | None,
) -> Iterator[Told[K]]:
    from llmcli.models.continuation import continue_text

    for number, (key, text) in enumerate(each for each in texts if each is not None):
        if should_stop():
            return
        if isinstance(text, InvalidInput):
            yield Told(key=key, error=text)
            continue
        try:
            continuation = continue_text(
                plan.model,
                text,
                plan.params,
                bos=plan.bos,
                heal=plan.heal,
                special=plan.special,
                should_stop=should_stop,
                draft=draft,
                draft_stats=draft_stats,
                record=number,
                decoder=decoder,
            )
            for event in continuation.events:
                yield Told(key=key, prompt_tokens=continuation.prompt_tokens, event=event)
                if event.finish_reason == "interrupted":
                    return
        except (InvalidInput, NumericalError) as exc:
            yield Told(key=key, error=exc)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Item(Generic[K]):
    """A sequence that is to be made, or an error in the place of a text's sequences."""

    key: K
    number: int
    prompt_tokens: int = 0
    row: Row | None = None
    error: RowError | None = None


class _Groups(Generic[K]):
    """Takes as many sequences as go together, makes them, and takes the next ones."""

    def __init__(
        self,
        plan: _Plan,
        texts: Iterable[tuple[K, str | InvalidInput] | None],
        decoder: Decoder,
        batch_size: int,
        should_stop: Callable[[], bool],
    ) -> None:
        self._plan = plan
        self._texts = texts
        self._decoder = decoder
        self._batch_size = batch_size
        self._should_stop = should_stop
        self._failed = -1  # the number of the last text of which an error was told

    def run(self) -> Iterator[Told[K]]:
        """Yield what comes of all texts, in their order."""
        from llmcli.engine.batching import in_order

        items = self._items()
        failure = None
        while failure is None:
            group: list[_Item[K]] = []
            try:
                self._gather(items, group)
            except LlmcliError as exc:
                failure = exc  # the input breaks off; what came before it is done first
            if not group or self._should_stop():
                break
            interrupted = False
            for place, told in in_order(self._told(group), len(group)):
                item = group[place]
                if item.number == self._failed:
                    continue  # as alone, where nothing is made after an error
                if isinstance(told, TokenEvent):
                    yield Told(key=item.key, prompt_tokens=item.prompt_tokens, event=told)
                    interrupted |= told.finish_reason == "interrupted"
                else:
                    self._failed = item.number
                    yield Told(key=item.key, error=told)
            if interrupted:
                return
        if failure is not None:
            raise failure

    def _gather(self, items: Iterator[_Item[K] | None], group: list[_Item[K]]) -> None:
        """Fill a group, or as much of it as is there without waiting."""
        for item in items:
            if item is not None:
                group.append(item)
            if len(group) == self._batch_size or (group and item is None):
                return

    def _items(self) -> Iterator[_Item[K] | None]:
        from llmcli.engine.batching import Row
        from llmcli.models.continuation import encode_prompt, prepare_prompt

        plan = self._plan
        number = -1
        for each in self._texts:
            if each is None:
                yield None
                continue
            number += 1
            key, text = each
            try:
                if isinstance(text, InvalidInput):
                    raise text
                ids = encode_prompt(plan.model, text, bos=plan.bos, special=plan.special)
                prompt = prepare_prompt(plan.model, ids, plan.params, heal=plan.heal)
            except InvalidInput as exc:
                yield _Item(key=key, number=number, error=exc)
                continue
            for index in range(plan.params.num_return_sequences):
                if number == self._failed:
                    break
                row = Row(prompt=prompt, record=number, index=index)
                yield _Item(key=key, number=number, prompt_tokens=len(ids), row=row)

    def _told(self, group: list[_Item[K]]) -> Iterator[tuple[int, TokenEvent | RowError]]:
        """Yield places in the group and what comes of them, in the order of its making."""
        from llmcli.engine.batching import generate_rows

        places: list[int] = []
        rows: list[Row] = []
        for place, item in enumerate(group):
            if item.error is not None:
                yield place, item.error
            elif item.row is not None:
                places.append(place)
                rows.append(item.row)
        if not rows:
            return
        for place, told in generate_rows(
            self._decoder,
            rows,
            self._plan.params,
            token_bytes=self._plan.model.token_bytes,
            eos_ids=self._plan.model.eos_ids,
            should_stop=self._should_stop,
        ):
            yield places[place], told
