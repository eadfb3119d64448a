"""One prompt continued: the scheduler's loop, for whoever wants nothing else."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from llmcli.engine.decoder import Decoder
from llmcli.engine.in_order import in_order
from llmcli.engine.params import DraftStats, SamplingParams, TokenEvent
from llmcli.engine.scheduler import Request, Scheduler
from llmcli.engine.speculative import Draft
from llmcli.engine.transcript import Prompt


def generate(
    decoder: Decoder,
    prompt: Prompt,
    params: SamplingParams,
    *,
    token_bytes: Callable[[int], bytes],
    eos_ids: Collection[int] = (),
    record: int = 0,
    batch_size: int = 1,
    should_stop: Callable[[], bool] = bool,
    draft: Draft | None = None,
    draft_stats: DraftStats | None = None,
) -> Iterator[TokenEvent]:
    """Continue a prompt; ``num_return_sequences`` continuations come one after another.

    Each sequence's last event carries its finish_reason; the texts of its events, joined, are
    the continuation.

    Args:
        decoder: The model.
        prompt: What to continue; at least one token, with room for one more.
        params: Settings.
        token_bytes: The exact bytes of a token.
        eos_ids: Tokens that end a text.
        record: Which record of a batch this is.
        batch_size: How many sequences are decoded next to each other.
        should_stop: Asked once a step; true ends what is under way as "interrupted".
        draft: Proposes tokens; what comes out is the same, sooner where it guesses well.
        draft_stats: Counts what it proposed.

    Raises:
        NumericalError: the logits are NaN or infinite.
        InvalidInput: the settings forbid every token.
    """
    scheduler = Scheduler(
        decoder,
        token_bytes=token_bytes,
        eos_ids=eos_ids,
        slots=batch_size,
        draft=draft,
        draft_stats=draft_stats,
    )
    requests = (
        Request(prompt=prompt, params=params, record=record, index=index)
        for index in range(params.num_return_sequences)
    )
    finished, interrupted = 0, False
    try:
        for _, told in in_order(scheduler, requests, should_stop):
            if not isinstance(told, TokenEvent):
                raise told
            finished = told.index + 1 if told.finish_reason is not None else finished
            interrupted = told.finish_reason == "interrupted"
            yield told
        if finished < params.num_return_sequences and not interrupted:
            # Stopped between two sequences: the next one is what was interrupted.
            handle = scheduler.submit(
                Request(prompt=prompt, params=params, record=record, index=finished)
            )
            scheduler.cancel(handle)
            scheduler.step()
            yield from handle.events
    finally:
        scheduler.close()
