"""`python -m slipway_operator` and the console script."""

from __future__ import annotations

import sys

from slipway_operator import cli


def main() -> None:
    """Run, and exit with the status."""
    sys.exit(cli.main())


if __name__ == "__main__":
    main()
