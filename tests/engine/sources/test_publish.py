"""A directory that appears only when it is whole, how far it has come, and who may answer for a model."""

import json
import os
import shutil
import ssl
import subprocess
import threading
import urllib.error
import urllib.request
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from slipway_engine.cli.main import main
from slipway_engine.errors import DownloadFailed, EngineError, InvalidArgument, ModelCorrupt
from slipway_engine.sources.download import Downloader, Patience
from slipway_engine.sources.fetch import Fetch, publish
from slipway_engine.sources.peers import forbidden
from slipway_engine.sources.tally import Tally, serving
from slipway_engine.sources.trust import trust_bundle

WEIGHTS = os.urandom(300_000)
REPOSITORY = {"config.json": b"{}", "model.safetensors": WEIGHTS}


def quick(**patience):
    return Downloader(
        Patience(**{"attempts": 1, "first_pause": 0.0, "read": 2, **patience}), sleep=lambda _: None
    )


def test_what_is_published_is_whole_and_an_interrupted_fetch_goes_on(hub, tmp_path):
    hub.publish("org/name", REPOSITORY)
    path = f"/org/name/resolve/{'c' * 40}/model.safetensors"
    hub.script[path] = ["cut"]
    target = tmp_path / "model"
    with pytest.raises(DownloadFailed):
        publish("hf://org/name", target, Fetch(), quick())
    assert not target.exists()
    assert (tmp_path / "model.partial" / "config.json").exists()
    hub.requests.clear()
    assert publish("hf://org/name", target, Fetch(), quick()) == target
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (target / "model.safetensors").read_bytes() == WEIGHTS
    resumed = [headers["Range"] for asked, headers in hub.requests if asked == path and "Range" in headers]
    assert resumed == ["bytes=150000-"]
    hub.requests.clear()
    assert publish("hf://org/name", target, Fetch(), quick()) == target
    assert hub.requests == [], "what is published is not asked for again"


def test_a_small_file_is_checked_against_gits_name_for_it(hub, tmp_path):
    hub.publish("org/name", REPOSITORY)
    hub.files[f"/org/name/resolve/{'c' * 40}/config.json"] = b"[]"  # the same size, another content
    with pytest.raises(ModelCorrupt, match="git object name"):
        publish("hf://org/name", tmp_path / "model", Fetch(), quick())
    assert not (tmp_path / "model").exists()


def test_the_tally_counts_bytes_and_their_rate():
    now = [0.0]
    tally = Tally(lambda: now[0])
    tally.expect(1000)
    for second in range(1, 31):
        now[0] = float(second)
        tally.note("a", 10 * second)
    assert tally.as_json() == {"bytes": 300, "total": 1000, "rate": 10}
    now[0] = 3000.0
    assert tally.as_json()["rate"] < 1, "a transfer that stands still is seen to"


def test_progress_is_served_to_whoever_asks_and_nothing_else_is():
    tally = Tally()
    tally.note("a", 5, 10)
    with serving(tally, "127.0.0.1", 0) as port:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/progress", timeout=5) as answer:
            assert json.load(answer)["bytes"] == 5
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/etc/passwd", timeout=5)
        refused.value.close()
        assert refused.value.code == 404
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/progress", timeout=1)


def test_the_tally_of_a_fetch_reaches_its_total(hub, tmp_path):
    hub.publish("org/name", REPOSITORY)
    tally = Tally()
    publish("hf://org/name", tmp_path / "model", Fetch(tally=tally), quick())
    state = tally.as_json()
    assert state["bytes"] == state["total"] == sum(map(len, REPOSITORY.values()))


@pytest.mark.parametrize(
    ("address", "local", "allowed"),
    [
        ("169.254.169.254", True, False),
        ("fe80::1%eth0", True, False),
        ("::ffff:169.254.169.254", True, False),
        ("fd00:ec2::254", True, False),
        ("fd20:ce:0::254", True, False),
        ("100.100.100.200", True, False),
        ("100.100.100.201", True, True),
        ("127.0.0.1", False, False),
        ("::1", False, False),
        ("127.0.0.1", True, True),
        ("0.0.0.0", True, False),
        ("224.0.0.1", True, False),
        ("10.1.2.3", False, True),  # a mirror inside the cluster
        ("2001:db8::1", False, True),
        ("93.184.215.14", False, True),
    ],
)
def test_who_may_answer_for_a_model(address, local, allowed):
    assert (forbidden(address, local=local) is None) is allowed


def test_a_name_that_leads_to_this_machine_is_refused_after_a_redirect_too(web, tmp_path, monkeypatch):
    """The peer's address counts, whatever name led there: the source's host is not this machine."""
    web.files["/m.gguf"] = b"GGUF" + bytes(100)
    monkeypatch.setattr("slipway_engine.sources.peers.is_loopback", lambda host: False)
    with pytest.raises(DownloadFailed, match="which is this machine itself"):
        publish(f"{web.url}/m.gguf", tmp_path / "model", Fetch(allow_http=True), quick())
    monkeypatch.setenv("http_proxy", web.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    web.files[f"{web.url}/m.gguf"] = web.files["/m.gguf"]  # as a proxy is asked
    assert publish(f"{web.url}/m.gguf", tmp_path / "model", Fetch(allow_http=True), quick()).name == "m.gguf"


@pytest.fixture
def mirror(tmp_path):
    """An HTTPS server whose certificate only a private authority vouches for; yields port and authority."""
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=mirror",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "m.gguf").write_bytes(b"GGUF" + bytes(100))

    class Files(SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path / "www"))

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    server.handle_error = lambda *args: None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server.server_port, cert.read_text()
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_private_authority_is_trusted_where_its_certificate_is_given(mirror, tmp_path, monkeypatch):
    port, authority = mirror
    source, target = f"https://127.0.0.1:{port}/m.gguf", tmp_path / "model"
    with pytest.raises(DownloadFailed, match="CERTIFICATE_VERIFY_FAILED"):
        publish(source, target, Fetch(), quick())
    monkeypatch.setenv("SSL_CERT_FILE", os.environ.get("SSL_CERT_FILE", ""))  # put back afterwards
    monkeypatch.setenv("SLIPWAY_CA_BUNDLE", authority)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert main(["fetch", source, "--to", str(target), "--publish", "--progress-port", "0"]) == 0
    assert (target / "m.gguf").read_bytes() == b"GGUF" + bytes(100)


def test_a_private_authority_may_be_a_mounted_file(mirror, tmp_path, monkeypatch):
    port, authority = mirror
    (tmp_path / "ca.crt").write_text(authority)
    monkeypatch.setenv("SSL_CERT_FILE", os.environ.get("SSL_CERT_FILE", ""))
    monkeypatch.setenv("SLIPWAY_CA_FILE", str(tmp_path / "ca.crt"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert main(["fetch", f"https://127.0.0.1:{port}/m.gguf", "--to", str(tmp_path / "m")]) == 0
    monkeypatch.setenv("SLIPWAY_CA_FILE", str(tmp_path / "none"))
    with pytest.raises(InvalidArgument, match="mount the certificates there"):
        trust_bundle()


def test_a_bundle_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("SLIPWAY_CA_BUNDLE", "no certificate")
    with pytest.raises(InvalidArgument, match="give them as PEM"):
        trust_bundle()


def test_each_way_to_fail_has_a_reason_of_its_own(hub, tmp_path, monkeypatch):
    hub.publish("org/gated", REPOSITORY, gated=True)
    with pytest.raises(EngineError) as gated:
        publish("hf://org/gated", tmp_path / "a", Fetch(token="hf_bad"), quick())
    hub.publish("org/name", REPOSITORY)
    hub.script[f"/org/name/resolve/{'c' * 40}/model.safetensors"] = ["stall"]
    with pytest.raises(EngineError) as stalled:
        publish("hf://org/name", tmp_path / "b", Fetch(), quick(read=0.3))
    room = shutil.disk_usage(tmp_path)._replace(free=1)
    monkeypatch.setattr("shutil.disk_usage", lambda path: room)
    with pytest.raises(EngineError) as full:
        publish("hf://org/name", tmp_path / "c", Fetch(), quick())
    assert [e.value.reason for e in (gated, stalled, full)] == ["ModelGated", "DownloadStalled", "VolumeFull"]
