"""What the plugin tells and stops for: every message is a sentence for the person at the keyboard."""

from __future__ import annotations


class PluginError(Exception):
    """Something outside refused or failed; exit status 1."""


class UsageError(PluginError):
    """What was asked for cannot be done as it was written; exit status 2."""
