"""One module a command: NAME, SUMMARY, `arguments` (its own flags) and `run` (returns the exit status)."""

from __future__ import annotations
