"""Entry point of `slipway-engine` and of `python -m slipway_engine`."""

import sys

from slipway_engine.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
