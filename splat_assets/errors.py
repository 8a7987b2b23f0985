"""The exceptions a user can meet.

Every message is one sentence that names the dataset or file and says what to do. The CLI prints it
without a traceback (exit code 2); the graph turns it into a failed step that is not retried.
"""

from __future__ import annotations


class UserError(Exception):
    """The input, the options or the machine cannot do what was asked; retrying will not help."""


class SourceError(UserError):
    """A source cannot be fetched as it is: missing, private, damaged, too large, or unsafe."""


class TransientError(Exception):
    """Something outside failed and may work in a while (network, rate limit): retrying can help."""


class Cancelled(Exception):  # noqa: N818 (it is an event, not an error)
    """The user stopped the work. What can be resumed has been saved."""
