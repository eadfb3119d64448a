"""Many prompts at once: the weights are streamed once a step for all of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import torch
from torch import Tensor

from llmcli.engine.decoder import Decoder
from llmcli.engine.generation import choose, generate
from llmcli.engine.params import SamplingParams, TokenEvent
from llmcli.engine.sampling import derive_seed
from llmcli.engine.transcript import Prompt, Transcript


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
        _Row(
            place,
            Transcript(
                prompt,
                params,
                n_positions=decoder.n_positions,
                token_bytes=token_bytes,
                eos_ids=eos_ids,
                index=index,
            ),
            derive_seed(params.seed or 0, numbers[place], index),
        )
        for place, prompt in enumerate(prompts)
        for index in range(params.num_return_sequences)
    ]
    logits = decoder.prefill([prompt.ids for prompt in prompts])
    places = [row.place for row in rows]
    decoder.select(places)
    yield from _decode(decoder, rows, logits[torch.tensor(places)], should_stop)


class _Row:
    """One sequence of a batch."""

    def __init__(self, place: int, transcript: Transcript, seed: int) -> None:
        self.place = place
        self.transcript = transcript
        self.generator = torch.Generator().manual_seed(seed)


def _decode(
    decoder: Decoder, rows: list[_Row], logits: Tensor, should_stop: Callable[[], bool]
) -> Iterator[tuple[int, TokenEvent]]:
    """The loop over all rows; ``logits`` [row, vocab] follow the prompts."""
    while rows:
        if should_stop():
            for row in rows:
                yield row.place, row.transcript.interrupt()
            return
        tokens = []
        for row, after in zip(rows, logits, strict=True):
            chosen = choose(after, row.transcript, row.generator)
            tokens.append(chosen.token)
            yield row.place, row.transcript.take(chosen)
        live = [i for i, row in enumerate(rows) if row.transcript.finish_reason is None]
        if len(live) < len(rows):
            rows, tokens = [rows[i] for i in live], [tokens[i] for i in live]
            decoder.select(live)
        if rows:
            logits = decoder.step(tokens)
