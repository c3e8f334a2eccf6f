"""What the gateway costs: added latency, and CPU per streamed request, against direct access in the same run.

    python benchmarks/gateway/overhead.py [--streams N] [--events N] [--interval-ms N] [--rounds N] [-o json]

Two processes besides this one: the stubs (a pod whose events carry the time they were written at, and an API
server that lists one deployment with that pod), and `slipway-gateway run` with keys, as it is deployed.
Direct and proxied rounds alternate, so what else the machine does meets both. The latency of an event is the
time from its writing in the pod to its arrival here; both ends read the same monotonic clock.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KEY = "sk-slipway-benchmark"
BODY = json.dumps(
    {"model": "chat", "stream": True, "messages": [{"role": "user", "content": "word " * 400}]}
).encode()


# The stubs.


async def pod(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, events: int, interval: float
) -> None:
    """Answer each request with a stream of events that carry the time."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])  # type: ignore[index]
            await reader.readexactly(length)
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            for _ in range(events):
                delta = {"choices": [{"index": 0, "delta": {"content": " token"}}], "at": time.monotonic_ns()}
                data = b"data: " + json.dumps(delta).encode() + b"\n\n"
                writer.write(b"%x\r\n%b\r\n" % (len(data), data))
                await writer.drain()
                if interval:
                    await asyncio.sleep(interval)
            writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def api(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    """Answer lists with one deployment, its pod and a tenant; leave watches open."""
    try:
        while True:
            target = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1].decode()
            if "watch=true" in target:
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                await reader.read()
                return
            items = next(objects for name, objects in cluster(port).items() if name in target)
            body = json.dumps({"metadata": {"resourceVersion": "1"}, "items": items}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


def cluster(port: int) -> dict[str, list[dict[str, Any]]]:
    """Return the objects of the stub API server."""
    meta = {"namespace": "bench", "name": "chat", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"}
    labels = {"kubernetes.io/service-name": "chat", "slipway.dev/deployment": "chat"}
    values = {"namespaces": "*", "keys": f"sha256:{hashlib.sha256(KEY.encode()).hexdigest()}"}
    return {
        "llmdeployments": [{"metadata": meta, "spec": {"model": {"source": "hf://org/model"}}}],
        "endpointslices": [
            {
                "metadata": meta | {"labels": labels},
                "ports": [{"name": "http", "port": port}],
                "endpoints": [{"addresses": ["127.0.0.1"], "targetRef": {"name": "p", "uid": "p"}}],
            }
        ],
        "secrets": [
            {
                "metadata": meta | {"labels": {"slipway.dev/tenant": "bench"}},
                "data": {k: base64.b64encode(v.encode()).decode() for k, v in values.items()},
            }
        ],
    }


async def serve_stubs(events: int, interval: float) -> None:
    """Serve both stubs and print their ports."""
    pods = await asyncio.start_server(lambda r, w: pod(r, w, events, interval), "127.0.0.1", 0, backlog=2048)
    port = pods.sockets[0].getsockname()[1]
    apis = await asyncio.start_server(lambda r, w: api(r, w, port), "127.0.0.1", 0)
    print(port, apis.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


# The client.


@dataclass
class Round:
    """What one round of streams measured, in milliseconds."""

    first: list[float] = field(default_factory=list)
    """From sending the request to the arrival of its first event."""
    event: list[float] = field(default_factory=list)
    """From the writing of an event to its arrival."""
    cpu: float = 0.0
    """CPU of the gateway, a stream."""


async def stream(port: int, into: Round) -> None:
    """Run one stream to its end on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sent = time.monotonic_ns()
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n"
        b"Authorization: Bearer %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        % (KEY.encode(), len(BODY), BODY)
    )
    first, answer = True, b""
    while line := await reader.readline():
        if line.startswith(b"data: {"):
            now = time.monotonic_ns()
            into.event.append((now - json.loads(line[6:])["at"]) / 1e6)
            if first:
                into.first.append((now - sent) / 1e6)
                first = False
        elif line.startswith(b"data: [DONE]"):
            break
        else:
            answer = (answer + line)[:600]
    else:
        raise RuntimeError(f"a stream ended before its end: {answer.decode(errors='replace')}")
    writer.close()


async def run_round(port: int, streams: int, spread: float, cpu: Callable[[], float]) -> Round:
    """Run streams at a time, their starts spread over some seconds."""
    result, before = Round(), cpu()

    async def one(number: int) -> None:
        await asyncio.sleep(spread * number / streams)
        await stream(port, result)

    await asyncio.gather(*(one(number) for number in range(streams)))
    result.cpu = (cpu() - before) * 1e3 / streams
    return result


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def peak_mib(pid: int) -> float:
    """Return the most memory that a process has held."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def percentile(values: list[float], percent: float) -> float:
    """Return a percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


# The run.


def start_stubs(args: argparse.Namespace) -> tuple[subprocess.Popen[str], int, int]:
    """Start the stubs and return their ports."""
    command = [
        sys.executable,
        __file__,
        "--stub",
        "--events",
        str(args.events),
        "--interval-ms",
        str(args.interval_ms),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pod_port, api_port = map(int, process.stdout.readline().split())
    return process, pod_port, api_port


def start_gateway(api_port: int, directory: str) -> tuple[subprocess.Popen[str], int]:
    """Start the gateway and return its port."""
    kubeconfig = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "bench"}}],
        "clusters": [{"name": "k", "cluster": {"server": f"http://127.0.0.1:{api_port}"}}],
        "users": [{"name": "u", "user": {}}],
    }
    file = Path(directory, "kubeconfig")
    file.write_text(json.dumps(kubeconfig))
    command = [sys.executable, "-m", "slipway_gateway", "run", "--host", "127.0.0.1", "--port", "0"]
    command += ["--admin-port", "0", "--kubeconfig", str(file)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while not (found := re.search(r"listening on (\d+)", line := process.stderr.readline())):
        if not line:
            raise SystemExit("The gateway did not start; run `slipway-gateway run` by hand to see why.")
    return process, int(found[1])


async def measure(args: argparse.Namespace, pod_port: int, pid: int, port: int) -> tuple[Round, Round]:
    """Alternate direct and proxied rounds."""
    spread = args.events * args.interval_ms / 1e3 / 2 if args.streams > 1 else 0.0
    direct, proxied = Round(), Round()
    cpu: list[float] = []
    await asyncio.sleep(1.0)  # the first lists
    for number in range(args.rounds + 1):
        plain = await run_round(pod_port, args.streams, spread, lambda: 0.0)
        through = await run_round(port, args.streams, spread, lambda: cpu_seconds(pid))
        if number == 0:
            continue  # warm-up
        for total, part in ((direct, plain), (proxied, through)):
            total.first += part.first
            total.event += part.event
        cpu.append(through.cpu)
    proxied.cpu = percentile(cpu, 50)
    return direct, proxied


def report(args: argparse.Namespace, direct: Round, proxied: Round, memory: float) -> dict[str, Any]:
    """Return the results."""
    rows = {}
    for name in ("first", "event"):
        for percent in (50, 99):
            plain, through = (percentile(getattr(r, name), percent) for r in (direct, proxied))
            rows[f"{name}_p{percent}"] = {
                "direct_ms": round(plain, 3),
                "gateway_ms": round(through, 3),
                "added_ms": round(through - plain, 3),
                "ratio": round(through / plain, 2),
            }
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    cpu = model[1] if model else platform.machine()
    return {
        "machine": f"{cpu}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "streams": args.streams,
        "events": args.events,
        "interval_ms": args.interval_ms,
        "rounds": args.rounds,
        "latency": rows,
        "gateway_cpu_ms_per_stream": round(proxied.cpu, 3),
        "gateway_cpu_us_per_event": round(proxied.cpu * 1e3 / args.events, 1),
        "gateway_peak_mib": round(memory, 1),
    }


def show(result: dict[str, Any]) -> None:
    """Print the results for people."""
    print(f"{result['machine']}, Python {result['python']}")
    print(
        f"{result['streams']} streams at a time, {result['events']} events every {result['interval_ms']} ms, "
        f"{result['rounds']} rounds each way"
    )
    print(f"{'':<28}{'direct':>10}{'gateway':>10}{'added':>10}{'ratio':>8}")
    titles = {"first": "request to first event", "event": "event, written to read"}
    for name, row in result["latency"].items():
        what, percent = name.split("_")
        print(
            f"{titles[what] + ' ' + percent:<28}{row['direct_ms']:>7.2f} ms{row['gateway_ms']:>7.2f} ms"
            f"{row['added_ms']:>7.2f} ms{row['ratio']:>7.2f}x"
        )
    print(
        f"gateway: {result['gateway_cpu_ms_per_stream']} ms CPU a stream, "
        f"{result['gateway_cpu_us_per_event']} us an event, {result['gateway_peak_mib']} MiB at most"
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=50, help="at a time")
    parser.add_argument("--events", type=int, default=64, help="in each stream")
    parser.add_argument("--interval-ms", type=float, default=10.0, help="between two events")
    parser.add_argument("--rounds", type=int, default=5, help="each way, after a warm-up")
    parser.add_argument("-o", dest="output", choices=["text", "json"], default="text")
    parser.add_argument("--stub", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stub:
        asyncio.run(serve_stubs(args.events, args.interval_ms / 1e3))
        return
    stubs, pod_port, api_port = start_stubs(args)
    try:
        with tempfile.TemporaryDirectory() as directory:
            gateway, port = start_gateway(api_port, directory)
            try:
                direct, proxied = asyncio.run(measure(args, pod_port, gateway.pid, port))
                result = report(args, direct, proxied, peak_mib(gateway.pid))
            finally:
                gateway.terminate()
                gateway.communicate()
    finally:
        stubs.kill()
        stubs.communicate()
    if args.output == "json":
        print(json.dumps(result, indent=2))
    else:
        show(result)


if __name__ == "__main__":
    main()
