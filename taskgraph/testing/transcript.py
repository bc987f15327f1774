"""What a process prints, line by line as it comes, for tests that wait for a line."""

from __future__ import annotations

import re
import threading
import time
from typing import IO


class Transcript:
    """Both output streams of one process, read by a thread each, so that the process never waits for its reader."""

    def __init__(self, stdout: IO[str], stderr: IO[str]) -> None:
        self._news = threading.Condition()
        self._streams = (stdout, stderr)
        self._lines: tuple[list[str], list[str]] = ([], [])
        self._open = 2
        self._readers = [
            threading.Thread(target=self._read, args=pair, name=f"transcript-{number}", daemon=True)
            for number, pair in enumerate(zip(self._streams, self._lines, strict=True))
        ]
        for reader in self._readers:
            reader.start()

    @property
    def stdout(self) -> str:
        """Everything so far on standard output."""
        with self._news:
            return "".join(self._lines[0])

    @property
    def stderr(self) -> str:
        """Everything so far on standard error."""
        with self._news:
            return "".join(self._lines[1])

    def wait_for(self, pattern: str, timeout_s: float) -> re.Match[str] | None:
        """Wait until some line of either stream, an earlier one included, contains `pattern`.

        Returns
        -------
        re.Match or None
            None when the time is over, or when both streams ended without such a line.
        """
        wanted = re.compile(pattern)
        deadline = time.monotonic() + timeout_s
        seen = [0, 0]
        with self._news:
            while True:
                for number, lines in enumerate(self._lines):
                    for line in lines[seen[number] :]:
                        if match := wanted.search(line):
                            return match
                    seen[number] = len(lines)
                remaining = deadline - time.monotonic()
                if not self._open or remaining <= 0:
                    return None
                self._news.wait(remaining)

    def close(self, timeout_s: float) -> bool:
        """Wait for the end of both streams. False: somebody still holds one open after `timeout_s` seconds."""
        deadline = time.monotonic() + timeout_s
        for reader in self._readers:
            reader.join(max(0.0, deadline - time.monotonic()))
        if any(reader.is_alive() for reader in self._readers):
            return False
        for stream in self._streams:
            stream.close()
        return True

    def _read(self, stream: IO[str], lines: list[str]) -> None:
        for line in stream:
            with self._news:
                lines.append(line)
                self._news.notify_all()
        with self._news:
            self._open -= 1
            self._news.notify_all()
