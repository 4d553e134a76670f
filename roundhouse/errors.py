"""The exceptions whose text is printed for the user: what happened, to which thing, what to do."""


class RoundhouseError(Exception):
    """An error that the user can fix, in a line or a few. The entry scripts print it without a traceback, and exit."""


class Busy(RoundhouseError):
    """Another process works on the round. Nothing is wrong: the call can be repeated later."""
