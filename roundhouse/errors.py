"""The one exception that reaches a person: what happened, to which thing, what to do."""


class RoundhouseError(Exception):
    """A mistake or a fault, told in a line or a few. The entry scripts print it and exit, without a traceback."""
