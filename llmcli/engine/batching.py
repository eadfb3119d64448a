"""Many sequences at once: the weights are streamed once a step for all of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from llmcli.engine.decoder import Decoder
from llmcli.engine.generation import choose, generate
from llmcli.engine.gpt2 import GPT2Decoder
from llmcli.engine.params import SamplingParams, TokenEvent
from llmcli.engine.sampling import derive_seed
from llmcli.engine.transcript import Chosen, Prompt, Transcript
from llmcli.errors import InvalidInput, NumericalError

RowError = InvalidInput | NumericalError
"""What can be wrong with one row while its neighbours are well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One sequence of a batch.

    Attributes:
        prompt: What it continues.
        record: Which record of the whole job the prompt is; it goes into the seed.
        index: Which of the record's sequences this is.
    """

    prompt: Prompt
    record: int = 0
    index: int = 0


def rows_alike(decoder: Decoder) -> int:
    """How many rows a decoder computes at once with the very bits that each would have alone.

    1 where a row's logits depend, in their last bits, on how many rows there are.
    """
    return decoder.rows_alike if isinstance(decoder, GPT2Decoder) else 1


def generate_batch(
    decoder: Decoder,
    prompts: Sequence[Prompt],
    params: SamplingParams,
    *,
    token_bytes: Callable[[int], bytes],
    eos_ids: Collection[int] = (),
    records: Sequence[int] | None = None,
    should_stop: Callable[[], bool] = bool,
) -> Iterator[tuple[int, TokenEvent]]:
    """Continue prompts together; rows that are finished leave the batch.

    A row's text is what :func:`llmcli.engine.generation.generate` gives for its record alone,
    up to the last bits in which several rows at once are computed differently from one. Under
    overflow "slide" the prompts go one after the other.

    Args:
        decoder: The model.
        prompts: What to continue, one or more.
        params: Settings, the same for all.
        token_bytes: The exact bytes of a token.
        eos_ids: Tokens that end a text.
        records: Which record of the whole job each prompt is; their places when None.
        should_stop: Asked once a step; true ends all sequences as "interrupted".

    Yields:
        The place of the prompt, and an event of one of its sequences.

    Raises:
        NumericalError: the logits are NaN or infinite.
        InvalidInput: the settings forbid every token.
    """
    numbers = list(records) if records is not None else list(range(len(prompts)))
    if params.overflow == "slide":
        for place, prompt in enumerate(prompts):
            for event in generate(
                decoder,
                prompt,
                params,
                token_bytes=token_bytes,
                eos_ids=eos_ids,
                record=numbers[place],
                should_stop=should_stop,
            ):
                yield place, event
                if event.finish_reason == "interrupted":
                    return
        return
    rows = [
        Row(prompt=prompt, record=numbers[place], index=index)
        for place, prompt in enumerate(prompts)
        for index in range(params.num_return_sequences)
    ]
    for place, told in generate_rows(
        decoder, rows, params, token_bytes=token_bytes, eos_ids=eos_ids, should_stop=should_stop
    ):
        if not isinstance(told, TokenEvent):
            raise told
        yield place // params.num_return_sequences, told


def generate_rows(
    decoder: Decoder,
    rows: Sequence[Row],
    params: SamplingParams,
    *,
    token_bytes: Callable[[int], bytes],
    eos_ids: Collection[int] = (),
    should_stop: Callable[[], bool] = bool,
) -> Iterator[tuple[int, TokenEvent | RowError]]:
    """Continue rows together; what goes wrong with one of them leaves the others as they are.

    Args:
        decoder: The model.
        rows: One or more. Neighbours with the same prompt have it read once.
        params: Settings, the same for all; ``num_return_sequences`` is what the rows say. The
            overflow is not "slide": rows that slide would be read afresh at different times.
        token_bytes: The exact bytes of a token.
        eos_ids: Tokens that end a text.
        should_stop: Asked once a step; true ends all sequences as "interrupted".

    Yields:
        The place of a row, and its next event; or, as its last, why it cannot go on.
    """
    prompts: list[Prompt] = []
    sources: list[int] = []
    for row in rows:
        if not prompts or prompts[-1] is not row.prompt:
            prompts.append(row.prompt)
        sources.append(len(prompts) - 1)
    live = [
        _Live(place, row, params, decoder.n_positions, token_bytes, eos_ids)
        for place, row in enumerate(rows)
    ]
    logits = decoder.prefill([prompt.ids for prompt in prompts])
    decoder.select(sources)
    yield from _decode(decoder, live, logits[torch.tensor(sources)], should_stop)


def generate_sequences(
    decoder: Decoder,
    prompt: Prompt,
    params: SamplingParams,
    *,
    batch_size: int,
    token_bytes: Callable[[int], bytes],
    eos_ids: Collection[int] = (),
    record: int = 0,
    should_stop: Callable[[], bool] = bool,
) -> Iterator[TokenEvent]:
    """Continue one prompt as :func:`llmcli.engine.generation.generate` does, several at once.

    The events come one sequence after another all the same. Arguments and errors as there;
    ``batch_size`` is how many sequences are decoded next to each other. Not for "slide".
    """
    todo = (
        Row(prompt=prompt, record=record, index=index)
        for index in range(params.num_return_sequences)
    )
    while rows := list(islice(todo, batch_size)):
        told = generate_rows(
            decoder, rows, params, token_bytes=token_bytes, eos_ids=eos_ids, should_stop=should_stop
        )
        interrupted = False
        for _, event in in_order(told, len(rows)):
            if not isinstance(event, TokenEvent):
                raise event
            yield event
            interrupted |= event.finish_reason == "interrupted"
        if interrupted:
            return


def in_order(
    told: Iterable[tuple[int, TokenEvent | RowError]], count: int
) -> Iterator[tuple[int, TokenEvent | RowError]]:
    """Pass on what is told of the first of ``count`` rows at once, and hold the others back."""
    held: list[deque[TokenEvent | RowError]] = [deque() for _ in range(count)]
    ended = [False] * count
    first = 0
    for place, item in told:
        held[place].append(item)
        ended[place] = not isinstance(item, TokenEvent) or item.finish_reason is not None
        while first < count:
            while held[first]:
                yield first, held[first].popleft()
            if not ended[first]:
                break
            first += 1


class _Live:
    """A row that is under way."""

    def __init__(
        self,
        place: int,
        row: Row,
        params: SamplingParams,
        n_positions: int,
        token_bytes: Callable[[int], bytes],
        eos_ids: Collection[int],
    ) -> None:
        self.place = place
        self.transcript = Transcript(
            row.prompt,
            params,
            n_positions=n_positions,
            token_bytes=token_bytes,
            eos_ids=eos_ids,
            index=row.index,
        )
        seed = derive_seed(params.seed or 0, row.record, row.index)
        self._generator = torch.Generator().manual_seed(seed)

    def choose(self, logits: Tensor) -> Chosen | RowError:
        """Pick the next token from logits [vocab], or say why there is none."""
        try:
            return choose(logits, self.transcript, self._generator)
        except (InvalidInput, NumericalError) as exc:
            return exc


def _decode(
    decoder: Decoder, rows: list[_Live], logits: Tensor, should_stop: Callable[[], bool]
) -> Iterator[tuple[int, TokenEvent | RowError]]:
    """The loop over all rows; ``logits`` [row, vocab] follow the prompts."""
    while rows:
        if should_stop():
            for row in rows:
                yield row.place, row.transcript.interrupt()
            return
        tokens: list[int] = []
        kept: list[int] = []
        for i, (row, after) in enumerate(zip(rows, logits, strict=True)):
            chosen = row.choose(after)
            if not isinstance(chosen, Chosen):
                yield row.place, chosen
                continue
            yield row.place, row.transcript.take(chosen)
            if row.transcript.finish_reason is None:
                tokens.append(chosen.token)
                kept.append(i)
        if len(kept) < len(rows):
            rows = [rows[i] for i in kept]
            decoder.select(kept)
        if rows:
            logits = decoder.step(tokens)
