"""The user that this process runs as, independent of environment variables."""

from __future__ import annotations

import os
import pwd


def user_name() -> str:
    """The name of the user that this process runs as; without an entry in passwd, the user ID."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
