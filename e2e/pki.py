"""A private certificate authority, and certificates of it for the tests' servers."""

from __future__ import annotations

import subprocess
from pathlib import Path


def issue(folder: Path, *hosts: str) -> None:
    """Write an authority's `ca.crt` into a folder and, signed by it, `tls.crt` and `tls.key` for hosts."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl(
        "req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=ours",
        "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign",
    )  # fmt: skip
    openssl("req", *curve, "-keyout", "tls.key", "-out", "tls.csr", "-subj", f"/CN={hosts[0][:64]}")
    (folder / "ext").write_text(f"subjectAltName={','.join(f'DNS:{host}' for host in hosts)}\n")
    openssl(
        "x509", "-req", "-in", "tls.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-out", "tls.crt",
        "-days", "2", "-extfile", "ext",
    )  # fmt: skip
