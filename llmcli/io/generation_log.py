"""Generations kept in an SQLite database, for who has switched it on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcli.errors import InvalidInput, StorageError
from llmcli.io.json_line import utc

if TYPE_CHECKING:
    import sqlite3

_SCHEMA = """
CREATE TABLE IF NOT EXISTS generations (
    id INTEGER PRIMARY KEY, created TEXT NOT NULL, model TEXT NOT NULL, prompt TEXT NOT NULL,
    text TEXT NOT NULL, record TEXT NOT NULL
);
CREATE VIRTUAL TABLE IF NOT EXISTS generations_fts USING fts5(
    prompt, text, content='generations', content_rowid='id'
);
CREATE TRIGGER IF NOT EXISTS generations_ai AFTER INSERT ON generations BEGIN
    INSERT INTO generations_fts(rowid, prompt, text) VALUES (new.id, new.prompt, new.text);
END;
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """A generation of the log.

    Attributes:
        id: Its number.
        created: When, in UTC: ``2026-03-01T12:00:00Z``.
        record: What ``generate --json`` prints, with the prompt, the ids of the tokens drawn, and
            how the prompt was read.
    """

    id: int
    created: str
    record: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"id": self.id, "created": self.created, **self.record}


class GenerationLog:
    """The log in a file, which only its owner reads.

    Args:
        path: The database; made when something is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def is_on(self) -> bool:
        """Whether generations are to be kept."""
        if not self.path.exists():
            return False
        with self._open() as database:
            found = database.execute("SELECT value FROM settings WHERE name = 'on'").fetchone()
        return found is not None and found[0] == "yes"

    def switch(self, on: bool) -> None:
        """Begin or cease to keep generations; what is there stays."""
        with self._open() as database:
            value = "yes" if on else "no"
            database.execute("INSERT OR REPLACE INTO settings VALUES ('on', ?)", [value])

    def add(self, record: dict[str, Any]) -> int:
        """Keep a generation; returns its number."""
        row = [
            utc(time.time()),
            record["model"],
            record["prompt"],
            record["text"],
            json.dumps(record),
        ]
        with self._open() as database:
            done = database.execute(
                "INSERT INTO generations (created, model, prompt, text, record)"
                " VALUES (?, ?, ?, ?, ?)",
                row,
            )
        return int(done.lastrowid or 0)

    def get(self, number: int) -> Logged:
        """One generation.

        Raises:
            InvalidInput: there is none of that number.
        """
        for found in self._rows("WHERE id = ?", [number]):
            return found
        raise InvalidInput(
            f"The log has no generation {number}.", "'llmcli log list' shows what there is."
        )

    def latest(self, count: int | None = None) -> list[Logged]:
        """The latest generations, the newest first; all of them where no count is given."""
        limit = -1 if count is None else count
        return self._rows("ORDER BY id DESC LIMIT ?", [limit])

    def search(self, query: str, count: int) -> list[Logged]:
        """Generations whose prompt or text match, the best first, in SQLite's full-text syntax.

        Raises:
            InvalidInput: the query is not of that syntax.
        """
        where = (
            "JOIN generations_fts ON generations_fts.rowid = generations.id"
            " WHERE generations_fts MATCH ? ORDER BY rank LIMIT ?"
        )
        return self._rows(where, [query, count], query=query)

    def _rows(self, rest: str, values: list[Any], *, query: str | None = None) -> list[Logged]:
        """Rows of the table; a ``query`` that is wrong is the user's fault, not the file's."""
        import sqlite3

        if not self.path.exists():
            return []
        columns = "generations.id, generations.created, generations.record"
        with self._open() as database:
            try:
                found = database.execute(f"SELECT {columns} FROM generations {rest}", values)
                rows = found.fetchall()
            except sqlite3.OperationalError as exc:
                if query is None:
                    raise
                raise InvalidInput(
                    f"The query {query!r:.60} is not one: {exc}.",
                    "Put it in quotes: '\"two words\"'.",
                ) from exc
        return [Logged(id=row[0], created=row[1], record=json.loads(row[2])) for row in rows]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """The database, its changes kept when the block is left without an error.

        Raises:
            StorageError: it cannot be opened or written.
        """
        import sqlite3  # start-up counts

        database = None
        try:
            if not self.path.exists():
                self.path.parent.mkdir(parents=True, exist_ok=True)
                os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
            database = sqlite3.connect(self.path, timeout=30)
            database.executescript(_SCHEMA)
            with database:
                yield database
        except (OSError, sqlite3.DatabaseError) as exc:
            raise StorageError(
                f"The log {self.path} cannot be used: {exc}.",
                "Check its folder, or move the file away.",
            ) from exc
        finally:
            if database is not None:
                database.close()
