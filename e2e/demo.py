"""The main job, watched: a cluster, operator and gateway, an `LLMDeployment`, an answer for a tenant's key.

Run as `make demo` (or `python3 -m e2e.demo`). Standard library only, so that nothing has to be installed
first. Each phase is timed; running it again reuses the cluster, the images and the model that are there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e import side_by_side

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "smollm2.yaml"
NAME, NAMESPACE, SYSTEM = "smollm2", "slipway-demo", "slipway-system"
GATEWAY, TENANT = "slipway-gateway", "demo"
QUESTION = "What is a slipway, and what is it for? Answer in two sentences."
READY_TIMEOUT_SECONDS = 600
OPEN_TIMEOUT_SECONDS = 30


class DemoFailed(RuntimeError):
    """A step of the demo did not work; the message says which and what to look at."""


@dataclass
class Screen:
    """What the person watching sees: bold phase headings with the elapsed time, dim details."""

    started: float = field(default_factory=time.monotonic)
    phases: list[tuple[str, float]] = field(default_factory=list)
    colour: bool = field(default_factory=sys.stdout.isatty)

    def paint(self, code: str, text: str) -> str:
        """Return `text` in a colour where the output is a terminal."""
        return f"\033[{code}m{text}\033[0m" if self.colour else text

    def line(self, text: str) -> None:
        """Print one line below a heading."""
        print(f"  {text}", flush=True)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Print a heading, and remember how long the block took."""
        begun = time.monotonic()
        print(self.paint("1;36", f"[{begun - self.started:5.0f} s] {name}"), flush=True)
        yield
        self.phases.append((name, time.monotonic() - begun))


def run(*command: str, env: dict[str, str] | None = None) -> str:
    """Return what `command` printed. Raises DemoFailed with its last lines where it fails."""
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if result.returncode:
        tail = "\n".join((result.stderr or result.stdout).strip().splitlines()[-15:])
        raise DemoFailed(f"`{' '.join(command)}` failed:\n{tail}")
    return result.stdout


def cluster(*arguments: str) -> str:
    """Run the cluster tool, letting its progress (standard error) through; return its standard output."""
    [[printed]] = tools([arguments])
    return printed


def tools(*series: Sequence[Sequence[str]]) -> list[list[str]]:
    """Run series of the cluster tool's commands side by side. Raises DemoFailed where one fails."""
    try:
        return side_by_side.run(*series)
    except side_by_side.CommandFailed as error:
        raise DemoFailed(str(error)) from error


@dataclass(frozen=True)
class Kubectl:
    """kubectl, bound to the cluster of the demo."""

    program: str
    kubeconfig: str

    @property
    def env(self) -> dict[str, str]:
        """The environment that reaches the cluster."""
        return {**os.environ, "KUBECONFIG": self.kubeconfig}

    def __call__(self, *arguments: str) -> str:
        """Run kubectl; return what it printed."""
        return run(self.program, *arguments, env=self.env)

    def json(self, *arguments: str) -> Any:
        """Run kubectl with `-o json`; return what it printed, parsed."""
        return json.loads(self(*arguments, "-o", "json"))


def deliver(images: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Bring the images to the cluster: into its nodes, or, where it is not ours, through its registry."""
    provider = json.loads(cluster("status", "-o", "json"))["provider"]
    if provider != "existing":
        cluster("load", *(image["archive"] for image in images.values()))
        return images
    pushed: dict[str, dict[str, str]] = json.loads(cluster("images", *images, "--push", "-o", "json"))
    return pushed


def build_and_start() -> tuple[Kubectl, dict[str, dict[str, str]]]:
    """Start the cluster; beside it, build the images and bring Helm. Deliver what the cluster lacks."""
    _, (built, _) = tools([("up",)], [("images", "operator", "gateway", "engine", "-o", "json"), ("helm",)])
    images = deliver(json.loads(built))
    return Kubectl(cluster("kubectl"), cluster("kubeconfig")), images


def install(kubectl: Kubectl, images: dict[str, dict[str, str]]) -> None:
    """Install CRD, operator and gateway through the chart, and wait until both run."""
    helm = cluster("helm")
    settings = [f"operator.image={images['operator']['ref']}", f"engine.image={images['engine']['ref']}"]
    settings += [f"gateway.image={images['gateway']['ref']}", "gateway.enabled=true", "gateway.replicas=1"]
    command = [helm, "upgrade", "--install", "slipway", str(ROOT / "charts" / "slipway")]
    command += ["--namespace", SYSTEM, "--create-namespace", "--wait", "--timeout", "5m"]
    run(*command, *(part for setting in settings for part in ("--set", setting)), env=kubectl.env)


def apply_example(kubectl: Kubectl) -> None:
    """Apply the example in a namespace of its own that enforces the restricted Pod Security level."""
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    }
    subprocess.run(
        [kubectl.program, "apply", "-f", "-"],
        input=json.dumps(namespace),
        env=kubectl.env,
        text=True,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    kubectl("-n", NAMESPACE, "apply", "-f", str(EXAMPLE))


def create_key(kubectl: Kubectl) -> str:
    """Make a tenant that sees the example's namespace; return its key, which no program keeps."""
    program = ["exec", f"deploy/{GATEWAY}", "--", "slipway-gateway", "key", "create"]
    command = [kubectl.program, "-n", SYSTEM, *program, "--tenant", TENANT, "--namespaces", NAMESPACE]
    made = subprocess.run(command, env=kubectl.env, capture_output=True, text=True, check=False)
    key = re.search(r"sk-slipway-[\w-]+", made.stderr)
    if made.returncode or key is None:
        raise DemoFailed(f"`{' '.join(command)}` made no key:\n{made.stderr.strip()}")
    subprocess.run(
        [kubectl.program, "-n", SYSTEM, "apply", "-f", "-"],
        input=made.stdout,
        env=kubectl.env,
        text=True,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return key[0]


def colour_of(condition: dict[str, str]) -> str:
    """Green where the condition is as one wants it, yellow where it is not yet."""
    wanted = "False" if condition["type"] in ("Reconciling", "Stalled") else "True"
    return "32" if condition["status"] == wanted else "33"


def wait_until_ready(kubectl: Kubectl, screen: Screen) -> None:
    """Show the conditions as they change, until Ready is True. Raises DemoFailed at the deadline."""
    deadline = time.monotonic() + READY_TIMEOUT_SECONDS
    seen: dict[str, tuple[str, str]] = {}
    while time.monotonic() < deadline:
        found = kubectl.json("-n", NAMESPACE, "get", "llmdep", NAME)
        status = found.get("status", {})
        for condition in status.get("conditions", []):
            value = (condition["status"], condition["message"])
            if seen.get(condition["type"]) != value:
                seen[condition["type"]] = value
                mark = screen.paint(colour_of(condition), f"{condition['status']:<7}")
                screen.line(f"{condition['type']:<12} {mark} {condition['reason']}: {condition['message']}")
        current = status.get("observedGeneration") == found["metadata"]["generation"]
        if current and seen.get("Ready", ("", ""))[0] == "True":
            return
        time.sleep(0.5)
    sentence = seen.get("Ready", ("", "the operator never wrote a Ready condition"))[1]
    raise DemoFailed(f"{NAME} is not Ready after {READY_TIMEOUT_SECONDS} s: {sentence}")


@contextlib.contextmanager
def port_forward(kubectl: Kubectl) -> Iterator[str]:
    """Yield a loopback URL of the gateway's Service."""
    command = [kubectl.program, "-n", SYSTEM, "port-forward", f"service/{GATEWAY}", ":80"]
    with subprocess.Popen(command, env=kubectl.env, stdout=subprocess.PIPE, text=True) as process:
        try:
            first = process.stdout.readline() if process.stdout else ""
            match = re.search(r"127\.0\.0\.1:(\d+)", first)
            if match is None:
                raise DemoFailed(f"`{' '.join(command)}` printed {first!r} and no local port.")
            yield f"http://127.0.0.1:{match.group(1)}"
        finally:
            process.terminate()


def wait_until_open(url: str, key: str) -> None:
    """Wait until the gateway knows the key and the model's pod. Raises DemoFailed at the deadline."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    body = json.dumps({"model": f"{NAMESPACE}/{NAME}", "prompt": "Hello", "max_tokens": 1}).encode()
    request = urllib.request.Request(f"{url}/v1/completions", body, headers)  # noqa: S310 - our own loopback URL
    deadline, said = time.monotonic() + OPEN_TIMEOUT_SECONDS, "nothing"
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(request, timeout=60):  # noqa: S310
                return
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")
        time.sleep(0.2)
    raise DemoFailed(f"the gateway does not let the key in after {OPEN_TIMEOUT_SECONDS} s; it says: {said}")


def ask(url: str, key: str, screen: Screen) -> None:
    """Stream one chat answer to the screen with its time to first token and its rate."""
    body = {
        "model": NAME,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 96,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    request = urllib.request.Request(  # noqa: S310 - a loopback URL of our own
        f"{url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {key}"},
    )
    screen.line(screen.paint("1", f"> {QUESTION}"))
    print("  ", end="")
    begun, first, answer = time.monotonic(), 0.0, ""
    usage: dict[str, int] = {}
    with urllib.request.urlopen(request, timeout=120) as response:  # noqa: S310
        for raw in response:
            data = raw.decode().strip().removeprefix("data: ")
            if not data or data == "[DONE]":
                continue
            event = json.loads(data)
            if "error" in event:
                raise DemoFailed(f"the model's server answered: {event['error'].get('message')}")
            usage = event.get("usage") or usage
            text = "".join(choice["delta"].get("content") or "" for choice in event["choices"])
            if text and not first:
                first = time.monotonic()
            answer += text
            if text:
                print(screen.paint("32", text.replace("\n", "\n  ")), end="", flush=True)
    print()
    if not answer.strip() or not usage:
        raise DemoFailed(
            "the stream ended without an answer; see the engine's log with "
            f"`kubectl -n {NAMESPACE} logs -l slipway.dev/deployment={NAME}`."
        )
    tokens = usage["completion_tokens"]
    rate = (tokens - 1) / max(time.monotonic() - first, 1e-9)
    screen.line(
        screen.paint(
            "1",
            f"{usage['prompt_tokens']} prompt tokens, time to first token "
            f"{1000 * (first - begun):.0f} ms, {tokens} tokens at {rate:.1f} tokens/s",
        )
    )


def closing_words(kubectl: Kubectl, key: str, screen: Screen) -> None:
    """Say what runs now, how to use it, and how to take it down."""
    curl = "curl -s --retry 9 --retry-connrefused http://127.0.0.1:8000/v1/chat/completions"
    curl_body = json.dumps({"model": NAME, "messages": [{"role": "user", "content": "Hello!"}]})
    program = Path(kubectl.program)
    on_path = shutil.which("kubectl") == str(program)
    path = "" if on_path else f' PATH="{program.parent}:$PATH"'
    print(kubectl("-n", NAMESPACE, "get", "llmdep,pods"))
    print(f"""{screen.paint("1", "Talk to it")}
  export KUBECONFIG={kubectl.kubeconfig}{path}
  export KEY={key}
  kubectl -n {SYSTEM} port-forward service/{GATEWAY} 8000:80 &
  {curl} -H "Authorization: Bearer $KEY" -H 'Content-Type: application/json' -d '{curl_body}'
  # or any OpenAI client, with base_url http://127.0.0.1:8000/v1 and the key as api_key
{screen.paint("1", "Change it")}
  kubectl -n {NAMESPACE} scale llmdep/{NAME} --replicas 2
  kubectl -n {NAMESPACE} describe llmdep/{NAME}
{screen.paint("1", "Take it down")}
  make demo-down
""")
    for name, seconds in screen.phases:
        screen.line(f"{seconds:6.1f} s  {name}")


def main() -> int:
    """Run the demo; return the exit status."""
    argparse.ArgumentParser(prog="make demo", description=__doc__).parse_args()
    screen = Screen()
    try:
        with screen.phase("A Kubernetes cluster and Slipway's images"):
            kubectl, images = build_and_start()
        with screen.phase("Operator and gateway, installed through the chart"):
            install(kubectl, images)
        with screen.phase(f"kubectl apply -f {EXAMPLE.relative_to(ROOT)}"):
            apply_example(kubectl)
            key = create_key(kubectl)
            screen.line(f"The key of the tenant {TENANT}, which opens {NAMESPACE} at the gateway: {key}")
            wait_until_ready(kubectl, screen)
        with screen.phase("A question, through the gateway"), port_forward(kubectl) as url:
            wait_until_open(url, key)
            ask(url, key, screen)
    except DemoFailed as error:
        print(f"make demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "make demo: interrupted; run it again to go on, or `make demo-down` to clean up.", file=sys.stderr
        )
        return 130
    closing_words(kubectl, key, screen)
    seconds = time.monotonic() - screen.started
    print(f"make demo: a real model answered through a real cluster, in {seconds:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
