"""What a terminal must not receive is written as escapes: control characters, and what its encoding lacks."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

# Control characters except tab and newline, marks that change the direction of text or break a line, and surrogates,
# which stand for the bytes of a file name that is not valid UTF-8.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def escape(text: str) -> str:
    """The text with an escape such as `\\x1b` for each character that a terminal must not receive."""
    return text if text.isprintable() else _UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text)


class EscapingStream:
    """A text stream that escapes what is written. `unfiltered`: the stream behind it, for output with control codes."""

    def __init__(self, unfiltered: TextIO) -> None:
        self.unfiltered = unfiltered

    def write(self, text: str) -> int:
        self.unfiltered.write(escape(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unfiltered, name)


def escape_unencodable() -> None:
    """Let stdout and stderr write an escape for each character that their encoding lacks, and raise no error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def escaped_output() -> Iterator[None]:
    """Escape everything that is written to stdout and stderr."""
    escape_unencodable()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and EscapingStream(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
