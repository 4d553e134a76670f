"""Who the user is: the user that this process runs as, whatever the environment says."""

from __future__ import annotations

import os
import pwd


def user_name() -> str:
    """The name of the user that this process runs as; without an entry in passwd, the number."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
