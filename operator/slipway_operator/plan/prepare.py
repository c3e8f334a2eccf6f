"""What has to be there before new pods are made: the model's facts, its commit, its files where shared.

Accelerators are not held while headers are read and files come. Until then the object keeps what it has: its
older revisions go on serving and scaling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from slipway_api.inspection import Inspection
from slipway_operator.explain.findings import Finding
from slipway_operator.kinds import CONTROLLER_REVISION, Kind, Object, key_of
from slipway_operator.plan.cache import Progress, View, Wish, fetching, refuse_wrong_caches, wish
from slipway_operator.plan.classes import Classed
from slipway_operator.plan.effective import Effective
from slipway_operator.plan.inspect import asked, inspect, outdated_facts, wanted
from slipway_operator.plan.render import owner_reference
from slipway_operator.plan.world import World


@dataclass(frozen=True)
class Prepared:
    """How far the preparation is.

    Attributes:
        values: the values in force, with commit and claim as far as they are known.
        known: what was found out about the model.
        wish: the cache that is asked for.
        progress: how far its files have come.
        gate: what new pods wait for; None where they may be made.
        children: to be applied.
        surplus: to be deleted.
    """

    values: Effective
    known: Inspection | None = None
    wish: Wish | None = None
    progress: Progress | None = None
    gate: Finding | None = None
    children: Sequence[tuple[Kind, Object]] = ()
    surplus: Sequence[tuple[Kind, Object]] = ()


def prepare(world: World, found: Classed, values: Effective) -> Prepared:
    """Return how far everything is that new pods need. Raises Refused."""
    spec = found.spec
    refuse_wrong_caches(spec, values)
    if not wanted(values):
        return Prepared(values)
    if world.alone:
        return Prepared(replace(values, commit=world.known.commit) if world.known else values, world.known)
    owner = owner_reference(world.parent)
    inspected = inspect(world.parent, spec, values, world.revisions, world.jobs, world.job_pods, owner)
    old = outdated_facts(world.parent, asked(spec, values), world.revisions)
    surplus = [(CONTROLLER_REVISION, obj) for obj in old]
    known = world.known or inspected.known
    if known is None:
        gate = inspected.finding if _gated(values) else None
        children = () if spec.suspend else inspected.children  # a parked object asks nobody
        return Prepared(values, gate=gate, children=children, surplus=surplus)
    values = replace(values, commit=known.commit)
    if not _shared(values):
        return Prepared(values, known, children=inspected.children, surplus=surplus)
    ceilings = found.offer.ceilings if found.offer else None
    wished = wish(key_of(world.parent), spec, values, known, ceilings.cache_size if ceilings else None)
    view = world.views.get(wished.key, View())
    return Prepared(
        values=replace(values, claim=wished.key.name),
        known=known,
        wish=None if spec.suspend else wished,
        progress=view.progress,
        gate=None if view.filled else view.finding or fetching(wished),
        children=inspected.children,
        surplus=surplus,
    )


def _gated(values: Effective) -> bool:
    """Return whether pods cannot be made before the model is known.

    A moving revision has to be the same for all; a volume is named after the commit; accelerators are not
    taken for what may not fit. Else the pods find out by themselves, at the same time.
    """
    return (
        values.source.scheme in ("hf", "s3", "gs", "oci")
        or _shared(values)
        or values.accelerator.resource is not None
    )


def _shared(values: Effective) -> bool:
    return values.source.fetched and values.cache.mode == "Shared"
