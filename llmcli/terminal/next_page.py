"""The next token's distribution as a self-contained page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmcli.io.files import atomic_write
from llmcli.terminal.page import Page, shown_bytes


def write_next_page(path: Path, record: Mapping[str, Any], prompt: str) -> None:
    """Write the page of a record as ``next --json`` prints it.

    Raises:
        StorageError: the disk does not take it.
    """
    candidates = [
        {**each, "token": shown_bytes(bytes(each["bytes"]))} for each in record["candidates"]
    ]
    with atomic_write(path) as file:
        page = Page("next", file.write)
        page.data("record", {**record, "candidates": candidates, "prompt": prompt})
        page.finish()
