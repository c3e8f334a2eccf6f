"""The adapter for external metrics: who gets in, what a Prometheus' answer becomes, and what is no zero."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from e2e.monitoring.adapter import BASE, Adapter

NAMES = frozenset({"front-proxy-client"})


def openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def pki(tmp_path_factory) -> Path:
    """A CA, a server's certificate, one of the front proxy and one of somebody else."""
    folder: Path = tmp_path_factory.mktemp("pki")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl(
        *("req", "-x509", *key, "-subj", "/CN=ca", "-days", "2"),
        *("-keyout", f"{folder}/ca.key", "-out", f"{folder}/ca.crt"),
    )
    for name in ("localhost", "front-proxy-client", "somebody"):
        request, certificate = f"{folder}/{name}.csr", f"{folder}/{name}.crt"
        openssl("req", *key, "-subj", f"/CN={name}", "-keyout", f"{folder}/{name}.key", "-out", request)
        extensions = folder / "extensions"
        extensions.write_text("subjectAltName=DNS:localhost")
        openssl(
            *("x509", "-req", "-in", request, "-CA", f"{folder}/ca.crt", "-CAkey", f"{folder}/ca.key"),
            *("-CAcreateserial", "-days", "2", "-extfile", str(extensions), "-out", certificate),
        )
    return folder


class Place:
    """The adapter behind TLS, and the Prometheus that it asks."""

    def __init__(self, pki: Path) -> None:
        self.pki = pki
        self.asked: list[str] = []
        self.result: list[object] = []

    async def start(self) -> None:
        prometheus = web.Application()
        prometheus.router.add_get("/api/v1/query", self._answer)
        url = await self._serve(prometheus, None)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(self.pki / "localhost.crt", self.pki / "localhost.key")
        tls.load_verify_locations(self.pki / "ca.crt")
        tls.verify_mode = ssl.CERT_REQUIRED
        queries = {"queue": 'sum(x{ns="$namespace",of="$deployment"})'}
        port = (await self._serve(Adapter(url, queries, NAMES).application(), tls)).rpartition(":")[2]
        self.url = f"https://localhost:{port}"

    async def _serve(self, app: web.Application, tls: ssl.SSLContext | None) -> str:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        self.runners = [*getattr(self, "runners", []), runner]
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.query["query"])
        return web.json_response({"status": "success", "data": {"result": self.result}})

    async def get(self, path: str, who: str | None = "front-proxy-client") -> tuple[int, object]:
        tls = ssl.create_default_context(cafile=str(self.pki / "ca.crt"))
        if who is not None:
            tls.load_cert_chain(self.pki / f"{who}.crt", self.pki / f"{who}.key")
        connector = aiohttp.TCPConnector(ssl=tls)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get(self.url + path) as answer,
        ):
            is_json = answer.content_type == "application/json"
            return answer.status, await answer.json() if is_json else await answer.text()


@pytest.fixture
async def place(pki):
    found = Place(pki)
    await found.start()
    yield found
    for runner in found.runners:
        await runner.cleanup()


QUEUE = f"{BASE}/namespaces/team/queue?labelSelector=deployment%3Dchat"


async def test_a_value_is_answered_as_an_hpa_reads_it(place):
    place.result = [{"metric": {}, "value": [1.0, "7.25"]}]
    status, found = await place.get(QUEUE)
    assert status == 200
    assert place.asked == ['sum(x{ns="team",of="chat"})']
    (item,) = found["items"]
    assert (item["metricName"], item["value"]) == ("queue", "7250m")
    assert (await place.get(BASE))[1]["resources"][0]["name"] == "queue"


@pytest.mark.parametrize("result", [[], [{"metric": {}, "value": [1.0, "NaN"]}]])
async def test_no_result_is_no_zero(place, result):
    place.result = result
    assert (await place.get(QUEUE))[1]["items"] == []


@pytest.mark.parametrize(
    "path",
    [
        f"{BASE}/namespaces/team/other?labelSelector=deployment%3Dchat",
        f"{BASE}/namespaces/team/queue",
        f"{BASE}/namespaces/team/queue?labelSelector=deployment%3Dx%22%7D%20or%20vector(1)",
    ],
)
async def test_what_would_change_the_query_is_not_asked(place, path):
    assert (await place.get(path))[0] == 404
    assert place.asked == []


async def test_only_the_aggregation_layer_gets_in(place):
    assert (await place.get(QUEUE, "somebody"))[0] == 403
    with pytest.raises((aiohttp.ClientError, OSError)):
        async with asyncio.timeout(5):
            await place.get(QUEUE, None)
    assert place.asked == []
