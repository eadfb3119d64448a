"""A thread that dies tells whoever waits for it: nothing hangs (row 56)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llmcli.hub.deadline import Reporter, supervise
from llmcli.tokenization import large_text as bulk
from llmcli.tokenization.tokenizer import Tokenizer


class Death(BaseException):
    """What no ``except Exception`` sees, as a panic inside a native library."""


def test_row_56_the_download_thread_dies() -> None:
    def work(reporter: Reporter) -> None:
        reporter.received("model.safetensors", 1, 1, 10)
        raise Death("in the thread")

    with pytest.raises(Death, match="in the thread"):
        supervise(
            work,
            timeout=60,
            first_byte=60,
            where="The Hub",
            progress=None,
            notify=lambda message: None,
        )


def test_row_56_an_encoding_thread_dies(tiny_gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half-way through a long text: what was made comes out, then the error."""
    tokenizer = Tokenizer.from_folder(tiny_gpt2)
    encode = tokenizer.encode_batch_fast
    calls: Iterator[int] = iter(range(1000))

    def dying(texts: list[str]) -> object:
        if next(calls) == 3:
            raise Death("in the pool")
        return encode(texts)

    monkeypatch.setattr(tokenizer, "encode_batch_fast", dying)
    pieces = bulk.encode_pieces(tokenizer, ["once upon a time " * 1000], piece_chars=1000)
    assert next(pieces).count
    with pytest.raises(Death, match="in the pool"):
        list(pieces)
