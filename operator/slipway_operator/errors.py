"""Every way a call to the API server can fail, as the reconciler needs to tell them apart.

OperatorError
├── Retryable            trying the same again may succeed: 429, 5xx, time-outs, lost connections
│   └── Conflict         409: somebody else was faster; read again first
├── Terminal             trying the same again cannot succeed: 400, 405
│   ├── Missing          404: the object, its namespace or its kind is not there
│   └── Invalid          422: a field's value or a field's name is wrong
├── Denied               403 by admission: a quota, a limit range, Pod Security, a webhook said no
├── NotPermitted         401, 403 by authorisation: the operator itself lacks a right
└── LeadershipLost       another operator holds the Lease
"""

from __future__ import annotations


class OperatorError(Exception):
    """Base of all errors that the operator raises on purpose."""


class Retryable(OperatorError):
    """Trying the same again may succeed; `after` is the server's own wish in seconds."""

    def __init__(self, message: str, *, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class Conflict(Retryable):
    """The object changed, or its fields belong to somebody else."""


class Terminal(OperatorError):
    """Trying the same again cannot succeed."""


class Missing(Terminal):
    """The object, its namespace or its kind does not exist."""


class Invalid(Terminal):
    """The API server's own validation refused the object."""


class Denied(OperatorError):
    """Admission refused the object; whoever set up the namespace can say why."""


class NotPermitted(OperatorError):
    """The operator's own role does not allow the call."""


class LeadershipLost(OperatorError):
    """Another operator holds the Lease, so this one must not write any more."""


UNFORESEEN = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What an object of unforeseen shape makes the code raise: one such object must not stop the others."""
