"""A volume that pods may share: a directory of the node where the cluster is on this machine.

Elsewhere it is the default storage class's, which may serve one node only.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def shared_volume(kube: Any, cluster: Any, namespace: str) -> Iterator[dict[str, Any]]:
    """Yield what an object says of its cache to get the volume."""
    if cluster.provider != "local":
        yield {"mode": "Shared", "accessMode": "ReadWriteOnce", "retainSeconds": 0}
        return
    folder = Path(tempfile.mkdtemp(prefix="slipway-e2e-"))
    folder.chmod(0o777)
    kube.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": namespace},
            "spec": {
                "capacity": {"storage": "1Gi"},
                "accessModes": ["ReadWriteMany"],
                "storageClassName": namespace,
                "persistentVolumeReclaimPolicy": "Retain",
                "hostPath": {"path": str(folder), "type": "Directory"},
            },
        }
    )
    try:
        yield {"mode": "Shared", "storageClassName": namespace, "retainSeconds": 0}
    finally:
        kube("delete", "pv", namespace, "--wait=false")
        shutil.rmtree(folder, ignore_errors=True)
