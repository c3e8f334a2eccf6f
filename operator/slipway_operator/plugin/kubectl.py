"""The cluster, through the user's own `kubectl`: its context, its credential plug-ins, its rights.

A plugin runs where kubectl does. Going through it means that whatever lets the user into the cluster lets
the plugin in, and nothing else has to be configured.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from slipway_operator.kinds import Kind, Object
from slipway_operator.plugin.errors import PluginError, UsageError

TIMEOUT: Final = 60.0
_FORWARDING: Final = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+) ->")


@dataclass(frozen=True)
class Kubectl:
    """`namespace` None is the context's own; `options` (--context and the like) go with every call."""

    namespace: str | None = None
    options: tuple[str, ...] = ()

    def current_namespace(self) -> str:
        """Return the namespace that commands act in."""
        if self.namespace:
            return self.namespace
        found = self._run("config", "view", "--minify", "-o", "jsonpath={..namespace}", scoped=False)
        return found.strip() or "default"

    def get(self, kind: Kind, name: str) -> Object:
        """Return one object. Raises PluginError with kubectl's own words."""
        found: Object = json.loads(self._run("get", _resource(kind), name, "-o", "json"))
        return found

    def find(
        self, kind: Kind, *, selector: str = "", everywhere: bool = False, fields: str = ""
    ) -> list[Object]:
        """Return all objects of a kind in the namespace, or in all of them."""
        arguments = ["get", _resource(kind), "-o", "json"]
        arguments += ["-l", selector] if selector else []
        arguments += [f"--field-selector={fields}"] if fields else []
        text = (
            self._run(*arguments, "--all-namespaces", scoped=False) if everywhere else self._run(*arguments)
        )
        items: list[Object] = json.loads(text)["items"]
        return items

    def raw(self, path: str, *, timeout: float = TIMEOUT) -> str:
        """Return what the API server answers to a GET of `path`."""
        return self._run("get", "--raw", path, scoped=False, timeout=timeout)

    def log(self, pod: str, lines: int) -> list[str]:
        """Return the last lines of a pod's log, of the container that kubectl takes for the main one."""
        return self._run("logs", pod, f"--tail={lines}").splitlines()

    def replace_process(self, *arguments: str) -> None:
        """Become kubectl: for commands that stream until the user has seen enough."""
        command = [*self._command(scoped=True), *arguments]
        os.execvp(command[0], command)  # noqa: S606 - a list of words, no shell

    @contextmanager
    def forward(self, target: str, port: int) -> Iterator[int]:
        """Forward a local port to `port` of `target` (`service/NAME`, `pod/NAME`); yields the local port."""
        command = [*self._command(scoped=True), "port-forward", "--address=127.0.0.1", target, f":{port}"]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            yield _local_port(process, target)
        finally:
            process.terminate()
            process.communicate()

    def _command(self, *, scoped: bool) -> list[str]:
        program = shutil.which("kubectl")
        if program is None:
            raise UsageError(
                "kubectl is not on the PATH; install it, the plugin reaches the cluster through it."
            )
        namespace = ["-n", self.namespace] if self.namespace and scoped else []
        return [program, *self.options, *namespace]

    def _run(self, *arguments: str, scoped: bool = True, timeout: float = TIMEOUT) -> str:
        command = [*self._command(scoped=scoped), *arguments]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise PluginError(f"kubectl {arguments[0]} did not answer within {timeout:.0f} s.") from error
        if done.returncode:
            raise PluginError(done.stderr.strip() or f"kubectl {arguments[0]} ended with {done.returncode}.")
        return done.stdout


def _resource(kind: Kind) -> str:
    return f"{kind.plural}.{kind.version}.{kind.group}" if kind.group else kind.plural


def _local_port(process: subprocess.Popen[str], target: str, patience: float = 20.0) -> int:
    """Return the port that kubectl says it listens on."""
    assert process.stdout is not None
    deadline = time.monotonic() + patience
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0 and selector.select(left):
            line = process.stdout.readline()
            found = _FORWARDING.search(line)
            if found:
                return int(found[1])
            if not line:
                break
    process.terminate()
    said = process.communicate()[1].strip()
    raise PluginError(f"No connection to {target}: {said or 'kubectl port-forward said nothing'}.")
