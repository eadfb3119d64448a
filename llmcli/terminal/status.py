"""What is being done, on one line of stderr, once it has been silent for a moment."""

from __future__ import annotations

import shutil
import sys
import threading
import time

from llmcli.terminal.escaping import one_line

_PATIENCE = 0.4  # seconds of silence before the line shows
_TICK = 0.1


class Status:
    """A line that is drawn over while something lasts, and gone before anything else is written.

    Everything that writes to the terminal calls :meth:`clear` first.

    Attributes:
        enabled: Whether a person watches stderr.
    """

    def __init__(self) -> None:
        self.enabled = False
        self._lock = threading.Lock()
        self._text = ""
        self._since = 0.0
        self._shown = False
        self._thread: threading.Thread | None = None

    def say(self, text: str) -> None:
        """Begin to do something: "loading gpt2: pack weights"; nothing for the empty text."""
        if not self.enabled:
            return
        with self._lock:
            if not self._text:
                self._since = time.monotonic()
            self._text = text
            if text and self._thread is None:
                self._thread = threading.Thread(target=self._draw, daemon=True)
                self._thread.start()

    def clear(self) -> None:
        """Take the line away; nothing is being waited for any more."""
        if not self._text:
            return
        with self._lock:
            self._text = ""
            if self._shown:
                self._write("\r\x1b[K")
                self._shown = False

    def _draw(self) -> None:
        while True:
            time.sleep(_TICK)
            with self._lock:
                if not self._text:
                    self._thread = None
                    return
                spent = time.monotonic() - self._since
                if spent >= _PATIENCE:
                    width = shutil.get_terminal_size((80, 24)).columns
                    line = f"{one_line(self._text)} ({spent:.0f} s)"[: width - 1]
                    self._write(f"\r{line}\x1b[K")
                    self._shown = True

    def _write(self, text: str) -> None:
        try:
            if sys.stderr is not None:
                sys.stderr.write(text)
                sys.stderr.flush()
        except (OSError, ValueError):
            self.enabled = False


STATUS = Status()
"""The one line that there is: stderr is one, too."""
