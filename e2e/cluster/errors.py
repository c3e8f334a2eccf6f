"""The one error this tool raises on purpose: a sentence that says what to do."""


class ClusterError(Exception):
    """What went wrong, with what, and the way out, as one sentence."""
