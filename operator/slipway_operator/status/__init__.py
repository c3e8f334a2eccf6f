"""From what was observed to what the status says: pure, without I/O, clock or logging."""

from slipway_operator.explain.pods import pull_failures
from slipway_operator.status.build import Observation, build_status

__all__ = ["Observation", "build_status", "pull_failures"]
