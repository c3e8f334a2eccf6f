"""Writing: a child or the status is sent only where it differs, and never over somebody else's object."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

from slipway_api import names
from slipway_api.conditions import Reason
from slipway_operator.diff import differs
from slipway_operator.errors import Conflict, Denied, Invalid, Missing, NotPermitted, Terminal
from slipway_operator.kinds import DEPLOYMENT, PARENT, Key, Kind, Object, controller_of, key_of, uid_of
from slipway_operator.problems import ApplyProblem

# No object has this version, so applying it creates, and conflicts with whatever has the name already.
NO_VERSION: Final = "1"

Remember = Callable[[Kind, Object], None]
"""Takes in an object as the API server answered it to a write."""


class Writer(Protocol):
    """The part of the API client that writing needs."""

    def get(self, kind: Kind, key: Key) -> Awaitable[Object | None]:
        """Return one object, or None."""

    def apply(
        self,
        kind: Kind,
        key: Key,
        body: Object,
        *,
        subresource: str | None = None,
        force: bool = True,
        dry_run: bool = False,
    ) -> Awaitable[Object]:
        """Server-side apply; with `dry_run` nothing is stored."""

    def delete(self, kind: Kind, obj: Object) -> Awaitable[None]:
        """Delete this very version of an object. Raises Conflict where it changed, Missing where gone."""


_NO_IMAGE_VOLUMES: Final = (
    "this cluster's API server takes no images as volumes (feature gate ImageVolume, off by default up to "
    "Kubernetes 1.34), which model.cache.mode Image needs; write model.cache.mode Shared or PerReplica, or "
    "have the gate turned on in the API server and the kubelets"
)


async def apply_child(
    api: Writer, kind: Kind, parent: Object, live: Object | None, rendered: Object, remember: Remember
) -> ApplyProblem | None:
    """Make one child as rendered; return the problem that keeps it from being so. Raises Retryable."""
    key = key_of(rendered)
    try:
        if await _loses_images(api, kind, key, live, rendered):
            return ApplyProblem(kind, Reason.IMAGE_VOLUMES_MISSING, _NO_IMAGE_VOLUMES, key.name)
        # What the store does not know may still exist: without our labels we do not watch it.
        if live is None and (live := await _create(api, kind, key, rendered, remember)) is None:
            return None
        foreign = _foreign(kind, parent, live)
        if foreign is not None:
            return foreign
        if not differs(live, rendered):
            remember(kind, live)
            return None
        remember(kind, await api.apply(kind, key, rendered))
    except Denied as error:
        return ApplyProblem(kind, Reason.ADMISSION_DENIED, str(error), key.name)
    except Invalid as error:
        # Every value that is not the object's own is ours and valid, so it is the object that has to change.
        return ApplyProblem(kind, Reason.INVALID_SPEC, str(error), key.name)
    except (Terminal, NotPermitted) as error:
        return ApplyProblem(kind, Reason.APPLY_FAILED, str(error), key.name)
    return None


async def _loses_images(api: Writer, kind: Kind, key: Key, live: Object | None, rendered: Object) -> bool:
    """Return whether the API server would store a Deployment without its image volumes.

    It drops the fields of a feature that is off without a word, and pods would run without their model. So
    it is asked first what it would store.
    """
    wanted = _image_volumes(rendered) if kind is DEPLOYMENT else set()
    if not wanted or (live is not None and not differs(live, rendered)):
        return False
    return not wanted <= _image_volumes(await api.apply(kind, key, rendered, dry_run=True))


def _image_volumes(deployment: Object) -> set[str]:
    volumes = deployment["spec"]["template"]["spec"].get("volumes") or ()
    return {volume["name"] for volume in volumes if volume.get("image")}


async def _create(api: Writer, kind: Kind, key: Key, rendered: Object, remember: Remember) -> Object | None:
    """Create a child in one request; return what has its name already, which is left as it is."""
    body = {**rendered, "metadata": {**rendered["metadata"], "resourceVersion": NO_VERSION}}
    try:
        remember(kind, await api.apply(kind, key, body, force=False))
    except Conflict:
        found = await api.get(kind, key)
        if found is None:
            raise
        return found
    return None


async def delete_child(api: Writer, kind: Kind, parent: Object, live: Object) -> ApplyProblem | None:
    """Delete a child that is not needed any more; return what keeps it there. Raises Retryable."""
    if (controller_of(live) or {}).get("uid") != uid_of(parent) or live["metadata"].get("deletionTimestamp"):
        return None
    try:
        await api.delete(kind, live)
    except Missing:
        return None  # the watch will tell
    except (Denied, Terminal, NotPermitted) as error:
        return ApplyProblem(kind, Reason.APPLY_FAILED, str(error), key_of(live).name)
    return None


async def apply_status(api: Writer, parent: Object, status: Mapping[str, Any], remember: Remember) -> bool:
    """Write the status where it differs; return whether it was written. Raises Retryable."""
    body = {
        "apiVersion": PARENT.api_version,
        "kind": PARENT.kind,
        # The UID keeps the words about one object off its successor of the same name.
        "metadata": {
            "name": key_of(parent).name,
            "namespace": key_of(parent).namespace,
            "uid": uid_of(parent),
        },
        "status": dict(status),
    }
    # Where all is equal nothing is read of who owns it, which takes longer than the rest of a reconcile.
    if parent.get("status") == status or not differs(parent, {"status": dict(status)}, subresource="status"):
        return False
    try:
        remember(PARENT, await api.apply(PARENT, key_of(parent), body, subresource="status"))
    except Missing:
        return False  # deleted meanwhile: there is nobody left to tell
    return True


def _foreign(kind: Kind, parent: Object, live: Object) -> ApplyProblem | None:
    """Return a problem where `live` is not this LLMDeployment's child, or soon will be no more."""
    name = key_of(live).name
    controller = controller_of(live)
    if controller is not None and controller.get("uid") == uid_of(parent):
        if live["metadata"].get("deletionTimestamp"):
            message = f"{kind.kind} {name} is being deleted, and is then created anew"
            return ApplyProblem(kind, Reason.TERMINATING, message, name)
        return None
    former = controller is not None and controller.get("kind") == names.KIND
    if controller is not None and former and controller.get("name") == key_of(parent).name:
        message = f"{kind.kind} {name} belongs to a deleted LLMDeployment and waits for garbage collection"
        return ApplyProblem(kind, Reason.TERMINATING, message, name)
    owner = f"{controller.get('kind')} {controller.get('name')}" if controller is not None else "nobody"
    message = (
        f"{kind.kind} {name} already exists and is controlled by {owner}; "
        f"delete it or give the LLMDeployment another name"
    )
    return ApplyProblem(kind, Reason.CHILD_CONFLICT, message, name)
