"""Why pods do not serve, read from what Kubernetes and the engine say about them: pure."""
