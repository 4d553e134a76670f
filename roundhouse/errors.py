"""The exceptions whose text is shown to the user: what happened, to which thing, what to do."""


class RoundhouseError(Exception):
    """An error described in one or a few lines. The entry scripts print it and exit, without a traceback."""


class ConnectionLost(RoundhouseError):
    """Another process of the same run has ended, so this one cannot continue."""


class Busy(RoundhouseError):
    """Another process works on the round. Nothing is wrong: the call can be repeated later."""


def described(error: OSError) -> str:
    """One line about an error of the system: which file, and what happened."""
    return f"{error.filename or 'the system'}: {error.strerror or error}"
