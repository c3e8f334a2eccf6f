"""A real Prometheus in the cluster, and its values as external metrics for HPAs."""

from e2e.monitoring.stack import NAMESPACE, PROMETHEUS_URL, install, uninstall

__all__ = ["NAMESPACE", "PROMETHEUS_URL", "install", "uninstall"]
