"""Gives the tests and the demo a real Kubernetes, on any machine.

`python3 -m e2e.cluster` is the command; `up()`, `open_cluster()`, `load()` and
`down()` are the same for Python. Only the standard library is used, so that it runs before there is a
virtual environment.
"""

from e2e.cluster.cluster import down, load, open_cluster, up
from e2e.cluster.errors import ClusterError
from e2e.cluster.provider import Provider, Status

__all__ = ["ClusterError", "Provider", "Status", "down", "load", "open_cluster", "up"]
