"""Decoded ids as ``llmcli decode`` shows them: bytes, text, JSON."""

from __future__ import annotations

from collections.abc import Callable

from llmcli.io.id_records import IdRecord
from llmcli.tasks.decode import Decoder
from llmcli.terminal.console import Console


def decode_view(console: Console, decoder: Decoder) -> Callable[[IdRecord], None]:
    """Return what shows a record."""

    def show_json(record: IdRecord) -> None:
        console.record({**record.fields, **decoder.text(record).to_dict()})

    def show_bytes(record: IdRecord) -> None:
        for data in decoder.parts(record):
            console.write_bytes(data)

    def show_text(record: IdRecord) -> None:
        for text in decoder.texts(record):
            console.write(text)
        if console.stdout_is_terminal:
            console.write_raw("\n")

    exact = decoder.errors == "keep" and not console.stdout_is_terminal
    return console.choose(json=show_json, text=show_bytes if exact else show_text)
