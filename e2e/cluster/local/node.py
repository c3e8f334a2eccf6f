"""A node with open namespaces: starts, finds, ends and waits for its components."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster import shell
from e2e.cluster.errors import ClusterError
from e2e.cluster.local import components, config, processes
from e2e.cluster.local.components import Component
from e2e.cluster.local.namespaces import Namespaces
from e2e.cluster.local.processes import Process

STOP_SECONDS = 5.0  # an API server with open watches takes far longer to end of its own accord
POLL_SECONDS = 0.1
UNSEEN_SECONDS = 0.5  # a process that is just becoming another program has no command line for a moment


@dataclass(frozen=True)
class Node:
    """The node's settings, its components and the namespaces they run in."""

    settings: config.Settings
    components: list[Component]
    namespaces: Namespaces

    def component(self, name: str) -> Component:
        """The component of this name, long or short."""
        return components.named(name, self.components)

    def log(self, component: Component) -> Path:
        """Where a component writes."""
        return self.settings.node / "logs" / f"{component.name}.log"

    def find(self, component: Component) -> Process | None:
        """The component's process, also while it is still the shell that is about to become it."""
        argv = component.argv
        return next((one for one in self.namespaces.programs() if one.argv[-len(argv) :] == argv), None)

    def ensure_running(self, component: Component) -> None:
        """Starts a component unless it runs."""
        if not self.find(component):
            self.namespaces.start(component.argv, self.log(component))

    def stop(self, component: Component) -> None:
        """Ends a component and waits until it is gone."""
        process = self.find(component)
        if process is None:
            return
        processes.send(process, processes.TERMINATE)
        if not processes.wait_gone(process, STOP_SECONDS):
            processes.send(process, processes.KILL)
            processes.wait_gone(process, STOP_SECONDS)

    def wait(self, component: Component, ready: Callable[[], bool], seconds: float) -> None:
        """Waits until a component runs and serves; says why soon where it has ended instead."""
        begun = seen = time.monotonic()
        while True:
            found = self.find(component) is not None
            if found and ready():
                return
            now = time.monotonic()
            seen = now if found else seen
            if now - seen > UNSEEN_SECONDS:
                raise ClusterError(f"{component.name} ended; {self._last_words(component)}")
            if now - begun > seconds:
                what = f"does not serve after {seconds:.0f} s"
                raise ClusterError(f"{component.name} {what}; {self._last_words(component)}")
            time.sleep(POLL_SECONDS)

    def _last_words(self, component: Component) -> str:
        log = self.log(component)
        words = shell.tail(log.read_text(errors="replace")) if log.is_file() else ""
        return f"its log is {log}:\n{words}"
