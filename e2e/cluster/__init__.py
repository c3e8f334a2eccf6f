"""Gives the tests and the demo a real Kubernetes, on any machine.

`python3 -m e2e.cluster` is the command; `open_cluster()` is the same for
Python. Only the standard library is used, so that it runs before there is a
virtual environment.
"""

from e2e.cluster.cluster import load, open_cluster
from e2e.cluster.errors import ClusterError
from e2e.cluster.provider import Provider, Status

__all__ = ["ClusterError", "Provider", "Status", "load", "open_cluster"]
