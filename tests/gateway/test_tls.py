"""TLS on the API's port: certificates renewed under open connections, and pairs that do not fit."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from slipway_gateway.limits import Timeouts
from slipway_gateway.tls import Certificate, Files, NoCertificate

from .conftest import OK, Start, deployment


def make(directory: Path, name: str) -> Files:
    """Make a self-signed certificate for localhost."""
    directory.mkdir(exist_ok=True)
    files = Files(directory / "tls.crt", directory / "tls.key")
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ),
            *("-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", str(files.key), "-out", str(files.certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return files


def copy(source: Files, to: Files) -> None:
    shutil.copy(source.certificate, to.certificate)
    shutil.copy(source.key, to.key)


async def certificate_of(port: int) -> bytes:
    """Return the certificate that a new connection gets."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    await writer.wait_closed()
    return found


def der(files: Files) -> bytes:
    return ssl.PEM_cert_to_DER_cert(files.certificate.read_text())


async def test_a_renewed_certificate_is_used_and_open_connections_stay(start: Start, tmp_path: Path):
    files, other = make(tmp_path / "live", "first"), make(tmp_path / "new", "second")
    first = der(files)
    cluster = await start(tls=files)
    await cluster.deploy(deployment("team-a", "chat"))
    await cluster.pod(OK)
    port = cluster.gateway.port
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=ssl.create_default_context(cafile=files.certificate)
    )
    assert await certificate_of(port) == first
    copy(other, files)
    assert cluster.gateway.certificate is not None
    assert cluster.gateway.certificate.look()
    assert await certificate_of(port) == der(other)
    body = b'{"model":"chat"}'
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 16\r\n\r\n" + body)
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_the_files_are_looked_at_by_themselves(tmp_path: Path):
    files, other = make(tmp_path / "live", "first"), make(tmp_path / "new", "second")
    certificate = Certificate(files)
    following = asyncio.create_task(certificate.follow(0.02))
    copy(other, files)
    async with asyncio.timeout(5):
        while certificate._content != files.content():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    following.cancel()


def test_a_pair_that_does_not_fit_changes_nothing(tmp_path: Path):
    files, other = make(tmp_path / "live", "first"), make(tmp_path / "new", "second")
    certificate = Certificate(files)
    before = certificate._content
    shutil.copy(other.certificate, files.certificate)
    assert not certificate.look()
    files.key.unlink()
    assert not certificate.look()
    assert certificate._content == before
    shutil.copy(other.key, files.key)
    assert certificate.look()


def test_files_that_cannot_be_used_are_a_sentence(tmp_path: Path):
    with pytest.raises(NoCertificate, match=r"tls\.crt"):
        Certificate(Files(tmp_path / "tls.crt", tmp_path / "tls.key"))


async def test_a_handshake_that_does_not_come_is_cut(start: Start, tmp_path: Path):
    cluster = await start(tls=make(tmp_path / "live", "first"), timeouts=Timeouts(header=0.3))
    reader, writer = await asyncio.open_connection("127.0.0.1", cluster.gateway.port)
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()


async def test_old_versions_of_tls_are_refused(start: Start, tmp_path: Path):
    cluster = await start(tls=make(tmp_path / "live", "first"))
    assert cluster.gateway.certificate is not None
    assert cluster.gateway.certificate.context.minimum_version == ssl.TLSVersion.TLSv1_2
    reader, writer = await asyncio.open_connection("127.0.0.1", cluster.gateway.port)
    # A client hello that offers TLS 1.0 alone.
    hello = bytes.fromhex("0301") + b"\0" * 32 + b"\0" + bytes.fromhex("0002002f0100")
    record = bytes.fromhex("160301") + (len(hello) + 4).to_bytes(2, "big")
    writer.write(record + b"\x01" + len(hello).to_bytes(3, "big") + hello)
    async with asyncio.timeout(5):
        assert (await reader.read())[:1] in (b"\x15", b"")
    writer.close()
