"""The exceptions whose text is shown to the user: what happened, to which thing, what to do."""


class RoundhouseError(Exception):
    """An error described in one or a few lines. The entry scripts print it and exit, without a traceback."""


class Busy(RoundhouseError):
    """Another process works on the round. Nothing is wrong: the call can be repeated later."""
