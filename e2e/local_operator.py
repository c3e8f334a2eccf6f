"""The operator of this checkout as a process of this machine: to be killed, stopped and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class LocalOperator:
    """One operator, whose Lease and identity stay the same from start to start: a container's restart."""

    def __init__(
        self,
        kubeconfig: Path,
        folder: Path,
        lease_namespace: str,
        *words: str,
        identity: str = "local",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        ports = ["--host", "127.0.0.1", "--health-port", "0", "--metrics-port", "0"]
        self._command = [sys.executable, "-m", "slipway_operator", "run", *ports, *words]
        self._command += ["--lease-namespace", lease_namespace, "--engine-image", "localhost/none:1"]
        self._environment = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig),
            "POD_NAME": identity,
            **(environment or {}),
        }
        self._log = folder / f"{identity}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    @property
    def alive(self) -> bool:
        """Return whether the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """Return what it has logged, over all starts."""
        return self._log.read_text() if self._log.exists() else ""

    def start(self) -> None:
        """Start it."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=ROOT, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        self.starts += 1

    def revive(self) -> None:
        """Start it where it does not run, as a kubelet would."""
        if not self.alive:
            self.start()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """End it without a word of warning."""
        self.signal(signal.SIGKILL)

    def end(self) -> None:
        """Let it leave in order, so that its Lease is free, and make sure that it is gone."""
        if self._process is None:
            return
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait(30)
