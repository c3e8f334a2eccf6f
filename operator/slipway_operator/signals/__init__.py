"""What the autoscaler sees: the pods' own metrics, a Prometheus, and the requests that gateways hold."""
