"""The autoscaler beside a plain HorizontalPodAutoscaler, for real: cluster, engine pods, Prometheus, load."""
