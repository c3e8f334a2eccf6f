"""What the gateway costs: added latency and CPU a stream, against direct access and nginx in one run.

    python benchmarks/gateway/overhead.py [--streams N] [--events N] [--interval-ms N] [--rounds N] [--held N]
                                          [--pin] [-o json]

Three processes besides this one: the stubs (a pod whose events carry the time they were written at, and an
API server that lists one deployment with that pod and one at zero), `slipway-gateway run` with keys and
limits, as it is deployed, and, where it is on the PATH, nginx as a plain proxy: one worker, no buffering, no
keys, no parsing. Rounds take turns, so what else the machine does meets all. The latency of an event is the
time from its writing in the pod to its arrival here; both ends read the same monotonic clock. `--held N` lets
N requests wait for the deployment at zero and reads what each adds to the gateway's memory. `--pin` gives
each proxy a core of its own, the first, and everything else the others.
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
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KEY = "sk-slipway-benchmark"
BODY = json.dumps(
    {"model": "chat", "stream": True, "messages": [{"role": "user", "content": "word " * 400}]}
).encode()
HELD = BODY.replace(b'"chat"', b'"zero"')


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
    values = {
        "namespaces": "*",
        "keys": f"sha256:{hashlib.sha256(KEY.encode()).hexdigest()}",
        "limits": json.dumps({"*": {"requestsPerMinute": 10**9, "tokensPerMinute": 10**11}}),
    }
    zero = {
        "model": {"source": "hf://org/model"},
        "autoscaling": {"minReplicas": 0, "maxReplicas": 1},
        "routing": {"maxHeldRequests": 100_000},
    }
    return {
        "llmdeployments": [
            {"metadata": meta, "spec": {"model": {"source": "hf://org/model"}}},
            {"metadata": meta | {"name": "zero", "uid": "z"}, "spec": zero},
        ],
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
    cpu: list[float] = field(default_factory=list)
    """CPU of the proxy, a stream; one figure a round."""


@dataclass
class Way:
    """A way to the pod."""

    name: str
    port: int
    pid: int | None
    """Of the proxy, if there is one."""
    result: Round = field(default_factory=Round)


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


async def run_round(way: Way, streams: int, spread: float) -> Round:
    """Run streams at a time, their starts spread over some seconds."""
    result, before = Round(), cpu_seconds(way.pid)

    async def one(number: int) -> None:
        await asyncio.sleep(spread * number / streams)
        await stream(way.port, result)

    await asyncio.gather(*(one(number) for number in range(streams)))
    result.cpu = [(cpu_seconds(way.pid) - before) * 1e3 / streams]
    return result


async def hold(port: int, pid: int, count: int) -> float:
    """Let requests wait for the deployment at zero; return the bytes that each adds to the gateway."""
    await asyncio.sleep(1.0)
    before = resident(pid)
    readers, writers = [], []
    for _ in range(count):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer %b\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (KEY.encode(), len(HELD), HELD)
        )
        writers.append(writer)
        readers.append(reader)
    await asyncio.sleep(3.0)
    if answered := [reader for reader in readers if reader.at_eof() or reader._buffer]:  # type: ignore[attr-defined]
        raise RuntimeError(f"{len(answered)} of {count} requests did not wait")
    added = (resident(pid) - before) / count
    for writer in writers:
        writer.transport.abort()
    return added


def cpu_seconds(pid: int | None) -> float:
    """Return the CPU time that a process has used."""
    if pid is None:
        return 0.0
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def peak_mib(pid: int) -> float:
    """Return the most memory that a process has held."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def resident(pid: int) -> int:
    """Return the bytes of memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


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
    command += ["--admin-port", "0", "--kubeconfig", str(file), "--holds-reader", "nobody"]
    command += ["--max-requests", "100000", "--max-connections", "100000"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while not (found := re.search(r"listening on (\d+)", line := process.stderr.readline())):
        if not line:
            raise SystemExit("The gateway did not start; run `slipway-gateway run` by hand to see why.")
    return process, int(found[1])


def start_nginx(pod_port: int, directory: str) -> tuple[subprocess.Popen[bytes], int] | None:
    """Start nginx as a plain proxy and return its port; None where there is none."""
    program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        return None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    Path(directory, "nginx.conf").write_text(
        f"""
daemon off; master_process off; pid {directory}/nginx.pid; error_log {directory}/error.log;
worker_rlimit_nofile 65536;
events {{ worker_connections 20000; }}
http {{
  access_log off; client_max_body_size 8m; client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u;
  scgi_temp_path {directory}/s;
  upstream pods {{ server 127.0.0.1:{pod_port}; keepalive 1024; }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{
      proxy_pass http://pods; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_request_buffering off;
    }}
  }}
}}
"""
    )
    command = [program, "-p", directory, "-c", f"{directory}/nginx.conf"]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL), port


async def measure(args: argparse.Namespace, ways: list[Way]) -> None:
    """Let the ways take turns."""
    spread = args.events * args.interval_ms / 1e3 / 2 if args.streams > 1 else 0.0
    await asyncio.sleep(1.0)  # the first lists
    for number in range(args.rounds + 1):
        for way in ways:
            part = await run_round(way, args.streams, spread)
            if number == 0:
                continue  # warm-up
            way.result.first += part.first
            way.result.event += part.event
            way.result.cpu += part.cpu


def pin(pids: list[int]) -> None:
    """Give the proxies the first core, and this process (and what it starts from now on) the others."""
    cores = sorted(os.sched_getaffinity(0))
    for pid in pids:
        os.sched_setaffinity(pid, {cores[0]})
    os.sched_setaffinity(0, set(cores[1:]) or {cores[0]})


def report(args: argparse.Namespace, ways: list[Way]) -> dict[str, Any]:
    """Return the results."""
    direct = ways[0].result
    rows: dict[str, dict[str, Any]] = {}
    for way in ways:
        row = rows[way.name] = {}
        for name in ("first", "event"):
            for percent in (50, 99):
                base, found = (percentile(getattr(r, name), percent) for r in (direct, way.result))
                row[f"{name}_p{percent}_ms"] = round(found, 3)
                row[f"{name}_p{percent}_added_ms"] = round(found - base, 3)
        if way.pid is not None:
            cpu = percentile(way.result.cpu, 50)
            row["cpu_ms_per_stream"] = round(cpu, 3)
            row["cpu_us_per_event"] = round(cpu * 1e3 / args.events, 1)
            row["peak_mib"] = round(peak_mib(way.pid), 1)
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    cpu_name = model[1] if model else platform.machine()
    return {
        "machine": f"{cpu_name}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "streams": args.streams,
        "events": args.events,
        "interval_ms": args.interval_ms,
        "rounds": args.rounds,
        "pinned": args.pin,
        "ways": rows,
    }


def show(result: dict[str, Any]) -> None:
    """Print the results for people."""
    print(f"{result['machine']}, Python {result['python']}")
    print(
        f"{result['streams']} streams at a time, {result['events']} events every {result['interval_ms']} ms, "
        f"{result['rounds']} rounds each way"
    )
    print(f"{'':<28}" + "".join(f"{name:>22}" for name in result["ways"]))
    titles = {"first": "request to first event", "event": "event, written to read"}
    for figure, title in titles.items():
        for percent in (50, 99):
            cells = ""
            for row in result["ways"].values():
                name = f"{figure}_p{percent}"
                cells += f"{row[name + '_ms']:>9.2f} ms ({row[name + '_added_ms']:+.2f})".rjust(22)
            print(f"{title} p{percent}".ljust(28) + cells)
    for figure, title in (
        ("cpu_ms_per_stream", "CPU ms a stream"),
        ("cpu_us_per_event", "CPU us an event"),
        ("peak_mib", "MiB at most"),
    ):
        cells = "".join(f"{row.get(figure, '-'):>22}" for row in result["ways"].values())
        print(f"{title:<28}{cells}")
    if "held_bytes" in result:
        print(
            f"a held request: {result['held_bytes'] / 1024:.1f} KiB, its body of {len(HELD)} bytes included"
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
    parser.add_argument("--held", type=int, default=0, metavar="N", help="requests that wait at a time")
    parser.add_argument("--pin", action="store_true", help="a core for each proxy, the others for the rest")
    parser.add_argument("-o", dest="output", choices=["text", "json"], default="text")
    parser.add_argument("--stub", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stub:
        asyncio.run(serve_stubs(args.events, args.interval_ms / 1e3))
        return
    result = run(args)
    if args.output == "json":
        print(json.dumps(result, indent=2))
    else:
        show(result)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Start everything, measure, and stop everything."""
    stubs, pod_port, api_port = start_stubs(args)
    running: list[subprocess.Popen[Any]] = [stubs]
    try:
        with tempfile.TemporaryDirectory() as directory:
            gateway, port = start_gateway(api_port, directory)
            running.append(gateway)
            ways = [Way("direct", pod_port, None), Way("gateway", port, gateway.pid)]
            if nginx := start_nginx(pod_port, directory):
                running.append(nginx[0])
                ways.insert(1, Way("nginx", nginx[1], nginx[0].pid))
            if args.pin:
                os.sched_setaffinity(stubs.pid, set(sorted(os.sched_getaffinity(0))[1:]) or {0})
                pin([way.pid for way in ways if way.pid is not None])
            asyncio.run(measure(args, ways))
            result = report(args, ways)
            if args.held:
                result["held_bytes"] = round(asyncio.run(hold(port, gateway.pid, args.held)))
            return result
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
