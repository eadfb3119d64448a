"""A record as one line of JSON, and how it writes a moment."""

from __future__ import annotations

import json
from collections.abc import Mapping


def to_json(record: Mapping[str, object]) -> str:
    """Return ``record`` as one line of UTF-8 JSON.

    Lone surrogates are spelt ``\\udc80`` as JSON allows; NaN and infinities, which JSON lacks,
    raise ValueError: a caller never means to print them.
    """
    try:
        text = json.dumps(record, ensure_ascii=False, allow_nan=False)
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = json.dumps(record, ensure_ascii=True, allow_nan=False)
    return text


def utc(seconds: float) -> str:
    """A moment, given in seconds since the epoch, in ISO 8601: ``2026-03-01T12:00:00Z``."""
    from datetime import UTC, datetime  # start-up counts

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
