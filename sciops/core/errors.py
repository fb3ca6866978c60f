"""Errors that a user can act on: each message names the field, what was given and what is accepted."""


class SciopsError(Exception):
    """Base of every error that the command line prints as one sentence instead of a traceback."""

    exit_code = 1


class UsageError(SciopsError, ValueError):
    """The caller asked for something that does not exist or does not fit (exit code 2)."""

    exit_code = 2


class GridMismatch(UsageError):
    """Two fields live on different domains, so arithmetic between them has no meaning."""


class ViewMissing(UsageError):
    """A solver needs a view (residual, system, step, …) that the problem does not offer."""


class NotSPD(UsageError):
    """A solver for symmetric positive definite systems was given another kind of system."""


class DataError(SciopsError, ValueError):
    """A file is missing, truncated, of another schema, or holds non-finite values (exit code 1)."""
