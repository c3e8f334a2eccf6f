"""Flags that `slipway-simulate` and `kubectl slipway simulate` share: the figures of one replica."""

from __future__ import annotations

import argparse


def replica_flags(parser: argparse.ArgumentParser) -> None:
    """Add the figures of a replica; absent ones are taken from the object's status, else assumed."""
    group = parser.add_argument_group("one replica (absent: what the status knows, else as in brackets)")
    for flag, dest, told in (
        ("--start-seconds", "start_seconds", "creation to ready (120)"),
        ("--prefill", "prefill", "prompt tokens a second (8000)"),
        ("--step-base", "base", "seconds a decode step, alone (0.03)"),
        ("--step-each", "each", "and for each request in it (0.003)"),
        ("--kv-tokens", "kv_tokens", "tokens in the KV cache (120000)"),
        ("--max-num-seqs", "max_num_seqs", "requests in one step (64)"),
    ):
        group.add_argument(flag, dest=dest, type=positive, metavar="N", help=told)


def positive(text: str) -> float:
    """Return a number above 0, for argparse."""
    value = float(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text} must be greater than 0")
    return value
