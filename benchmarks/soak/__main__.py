"""Mixed load at a multiple of the engine's capacity against the real server, then files with flipped bytes.

    python -m benchmarks.soak --minutes 60
    python -m benchmarks.soak --minutes 2 --files 500

Every request has to end in tokens or in an error with a name; memory has to stay within the plan that the
server logged, and not to grow between two moments of rest; no KV block may stay in use. The exit status is 1
where something did not hold.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.soak.files import mutate_files
from benchmarks.soak.run import soak
from benchmarks.soak.server import default_model


def main() -> int:
    """Run both; print what happened."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=60, help="default: 60")
    parser.add_argument("--overload", type=float, default=2, help="times the capacity (default: 2)")
    parser.add_argument("--files", type=int, default=20_000, help="mutated model files (default: 20000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, help="a GGUF file (default: SmolLM2)")
    parser.add_argument("--log", type=Path, help="where the server's log goes (default: a temporary file)")
    arguments = parser.parse_args()
    model = arguments.model or default_model()
    log = arguments.log or Path(tempfile.mkdtemp(prefix="soak-")) / "server.log"
    print(f"the server's log: {log}", flush=True)
    report = soak(
        model, log, seconds=60 * arguments.minutes, overload=arguments.overload, seed=arguments.seed
    )
    print("\n".join(report.lines()), flush=True)
    faults = mutate_files(model, arguments.files, arguments.seed)
    print(f"{arguments.files} mutated model files: {len(faults)} faults")
    print("\n".join(f"  {fault}" for fault in faults[:20]))
    return 1 if report.faults or faults else 0


if __name__ == "__main__":
    sys.exit(main())
