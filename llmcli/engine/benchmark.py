"""How fast a decoder is: prefill, decoding, and the memory that limits it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from llmcli.engine.decoder import Decoder

_BANDWIDTH_FLOATS = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Tokens a second.

    Attributes:
        what: "prefill" or "decode".
        batch: How many rows.
        prompt_tokens: Of each row.
        new_tokens: Of each row; 0 for prefill.
        mean: Tokens a second, all rows together, mean of the repetitions.
        deviation: Standard deviation of the repetitions; 0 for one.
    """

    what: str
    batch: int
    prompt_tokens: int
    new_tokens: int
    mean: float
    deviation: float


def measure(
    decoder: Decoder,
    *,
    prefill: tuple[int, ...] = (32, 512),
    batches: tuple[int, ...] = (1, 8),
    new_tokens: int = 128,
    repetitions: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Rate]:
    """Time prefill at batch 1, and greedy decoding after the shortest prompt at each batch.

    Every figure has one run in front that does not count. Lengths are cut to the context.

    Args:
        decoder: The model.
        prefill: Lengths of prompts.
        batches: Numbers of rows.
        new_tokens: How many tokens are decoded.
        repetitions: Runs that count.
        clock: Seconds; for tests.
    """
    rates = []
    for length in sorted({min(each, decoder.n_positions) for each in prefill}):
        seconds = _times(lambda n=length: _read(decoder, n), repetitions, clock)  # type: ignore[misc]
        rates.append(_rate("prefill", 1, length, 0, [length / each for each in seconds]))
    prompt = min(*prefill, decoder.n_positions // 2)
    new = min(new_tokens, decoder.n_positions - prompt)
    for batch in batches:
        speeds = []
        for repetition in range(repetitions + 1):
            slots = [decoder.open() for _ in range(batch)]
            prompts = [_prompt(decoder, prompt, row) for row in range(batch)]
            texts = list(zip(slots, prompts, strict=True))
            logits = decoder.append(texts, prompt=True)
            start = clock()
            for _ in range(new):
                tokens = [[int(token)] for token in logits.argmax(axis=-1)]
                logits = decoder.append(list(zip(slots, tokens, strict=True)))
            end = clock()
            for slot in slots:
                decoder.close(slot)
            if repetition:
                speeds.append(batch * new / (end - start))
        rates.append(_rate("decode", batch, prompt, new, speeds))
    return rates


def _prompt(decoder: Decoder, length: int, row: int) -> list[int]:
    return [(7919 * i + 31 * row + 11) % decoder.vocab_size for i in range(length)]


def _read(decoder: Decoder, length: int) -> None:
    slot = decoder.open()
    decoder.append([(slot, _prompt(decoder, length, 0))], prompt=True)
    decoder.close(slot)


def _times(run: Callable[[], object], repetitions: int, clock: Callable[[], float]) -> list[float]:
    run()
    times = []
    for _ in range(repetitions):
        start = clock()
        run()
        times.append(clock() - start)
    return times


def _rate(what: str, batch: int, prompt: int, new: int, speeds: list[float]) -> Rate:
    return Rate(
        what=what,
        batch=batch,
        prompt_tokens=prompt,
        new_tokens=new,
        mean=statistics.fmean(speeds),
        deviation=statistics.stdev(speeds) if len(speeds) > 1 else 0.0,
    )


def memory_bandwidth(threads: int, repetitions: int = 10) -> float:
    """Bytes a second at which threads together read 256 MB of float32; the best of some runs.

    What a decoder that streams its weights once a token cannot go beyond.
    """
    parts = np.array_split(np.ones(_BANDWIDTH_FLOATS, np.float32), threads)
    with ThreadPoolExecutor(threads) as pool:
        seconds = _times(lambda: list(pool.map(np.max, parts)), repetitions, time.perf_counter)
    return 4 * _BANDWIDTH_FLOATS / min(seconds)
