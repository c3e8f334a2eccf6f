"""The history of one LLMDeployment: its revisions, which one the object asks for, which one to go back to."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from slipway_operator.kinds import Object, controller_of, key_of, uid_of
from slipway_operator.plan.revision import (
    LABEL_REVISION,
    Outcome,
    Rendering,
    Revision,
    hash_of,
    labelled,
    name_of,
    read,
    shaping,
)
from slipway_operator.plan.world import World

KEPT: Final = 5


@dataclass(frozen=True)
class History:
    """The revisions of one LLMDeployment.

    Attributes:
        stored: what its ControllerRevisions say, the oldest first.
        desired: the revision that the object asks for.
        adopted: running Deployments of which no ControllerRevision told.
        rendered: hash of what the operator would render now.
        stale: the fields whose values in force would be others now, as `field: then -> now`.
        followed: stored revisions that another followed, and of which the status alone tells how they went.
    """

    stored: Sequence[Revision]
    desired: Revision
    adopted: Sequence[Revision] = ()
    rendered: str = ""
    stale: Sequence[str] = ()
    followed: frozenset[str] = frozenset()

    @property
    def by_name(self) -> Mapping[str, Revision]:
        """Return all revisions by name."""
        return {one.name: one for one in (*self.stored, *self.adopted, self.desired)}

    @property
    def to_write(self) -> list[Revision]:
        """Return the revisions to be stored: those adopted, those that were followed, and the desired one."""
        followed = [one for one in self.stored if one.name in self.followed]
        return [*(one for one in (*self.adopted, *followed) if one.name != self.desired.name), self.desired]

    @property
    def known(self) -> bool:
        """Return whether the desired revision is one that was made before."""
        return any(one.name == self.desired.name for one in (*self.stored, *self.adopted))

    def held(self) -> History:
        """Return the history with its newest revision desired, as long as another cannot be made yet."""
        newest = max((*self.stored, *self.adopted), key=lambda one: one.number, default=None)
        return self if newest is None else replace(self, desired=newest, rendered="", stale=())

    @property
    def outdated(self) -> bool:
        """Return whether the operator would render other pods now."""
        return bool(self.rendered) and self.desired.name != self.rendered

    def fallback(self, serving: Collection[str]) -> Revision | None:
        """Return the last good revision beside the desired one: one that serves now before any other."""
        candidates = [
            one
            for one in self.by_name.values()
            if one.name != self.desired.name and not one.failed and (one.good or one.name in serving)
        ]
        return max(candidates, key=lambda one: (one.name in serving, one.number), default=None)

    def marked(self, outcome: Outcome) -> History:
        """Return the history with how the desired revision went."""
        return replace(self, desired=replace(self.desired, outcome=outcome))

    def sealed(self, at: str) -> History:
        """Return the history as it is stored once the status tells of another revision, at this moment."""
        return replace(
            self,
            stored=[_sealed(one, at) for one in self.stored],
            adopted=[_sealed(one, at) for one in self.adopted],
        )

    def superfluous(self, needed: Collection[str]) -> list[Revision]:
        """Return what need not be kept: all but the five newest, and what runs or is `needed`."""
        old = [one for one in self.stored if one.name != self.desired.name][: -(KEPT - 1)]
        return [one for one in old if one.name not in needed]

    def revision_of(self, obj: Object) -> str:
        """Return the name of the revision that a ControllerRevision holds."""
        return str((obj["metadata"].get("labels") or {}).get(LABEL_REVISION, ""))


def recall(world: World, rendering: Rendering, *, automatic: bool) -> History:
    """Return the history, with what the object asks for on its top.

    That is the stored revision which the same spec asked for, whatever the operator would make of it today;
    only with `automatic`, or where there is none, what it makes of it today.
    """
    stored = [_as_told(one, world.parent) for one in _read_all(world)]
    adopted: list[Revision] = []
    for deployment in world.deployments:
        found = _adopt(world.parent, deployment, [*stored, *adopted])
        if found is not None:
            adopted.append(found)
    known = [*stored, *adopted]
    asked = shaping(world.parent.get("spec") or {})
    rendered = hash_of(rendering.template)
    match = max(
        (one for one in known if one.asked is not None and shaping(one.asked) == asked),
        key=lambda one: (one.name == rendered and automatic, one.number),
        default=None,
    )
    same = next((one for one in known if one.name == rendered), None)
    newest = max((one.number for one in known), default=0)
    if match is not None and (match.name == rendered or not automatic):
        desired = match
    elif same is not None:
        desired = replace(same, asked=asked)
    else:
        desired = Revision(
            name=rendered,
            number=newest + 1,
            template=labelled(rendering.template, rendered),
            values=rendering.values,
            asked=asked,
            facts=rendering.facts,
            deployment=name_of(key_of(world.parent), rendered),
        )
    if desired.number < newest:
        desired = replace(desired, number=newest + 1)  # it is the newest again
    stale = _stale(desired.values, rendering.values) if desired.name != rendered else ()
    followed = {one.name for one in stored if one.good and not one.outcome.at} - {desired.name}
    return History(stored, desired, adopted, rendered, stale, frozenset(followed))


def _as_told(revision: Revision, parent: Mapping[str, Any]) -> Revision:
    """Return a revision as good where the status says so of it."""
    good = (parent.get("status") or {}).get("lastGoodRevision") == revision.name
    return replace(revision, outcome=Outcome("Good")) if good and not revision.outcome.result else revision


def _sealed(revision: Revision, at: str) -> Revision:
    outcome = revision.outcome
    return (
        replace(revision, outcome=replace(outcome, at=at)) if outcome.result and not outcome.at else revision
    )


def _read_all(world: World) -> list[Revision]:
    found = []
    for obj in world.revisions:
        ours = (controller_of(obj) or {}).get("uid") == uid_of(world.parent)
        if not ours or obj["metadata"].get("deletionTimestamp"):
            continue
        try:
            found.append(read(obj))
        except (LookupError, TypeError, ValueError):
            continue  # not made by us after all
    return sorted(found, key=lambda one: one.number)


def _adopt(parent: Mapping[str, Any], deployment: Object, known: Collection[Revision]) -> Revision | None:
    """Return a running Deployment as a revision, where no ControllerRevision tells of it.

    So a Deployment of an operator that kept no revisions is taken over as it is, and lives on until the
    object asks for something else. It belongs to the present spec if that was acted upon already.
    """
    template = deployment["spec"]["template"]
    name = (template["metadata"].get("labels") or {}).get(LABEL_REVISION)
    ours = (controller_of(deployment) or {}).get("uid") == uid_of(parent)
    named = key_of(deployment).name in (key_of(parent).name, name_of(key_of(parent), name or ""))
    if not ours or not name or not named or any(one.name == name for one in known):
        return None
    status = parent.get("status") or {}
    acted_upon = status.get("observedGeneration") == parent["metadata"].get("generation")
    metadata = {k: v for k, v in template["metadata"].items() if v is not None}
    return Revision(
        name=name,
        number=max((one.number for one in known), default=0) + 1,
        template={**template, "metadata": metadata},
        values=tuple((status.get("plan") or {}).get("effective") or status.get("effective") or ()),
        asked=shaping(parent.get("spec") or {}) if acted_upon else None,
        deployment=key_of(deployment).name,
        outcome=Outcome("Good") if (deployment.get("status") or {}).get("readyReplicas") else Outcome(),
    )


def _stale(then: Sequence[Object], now: Sequence[Object]) -> tuple[str, ...]:
    """Return the values in force that changed since a revision was rendered."""
    before = {value.get("field"): value.get("value") for value in then}
    return tuple(
        f"{value['field']}: {before[value['field']]} -> {value['value']}"
        for value in now
        if value["field"] in before and before[value["field"]] != value["value"]
    )
