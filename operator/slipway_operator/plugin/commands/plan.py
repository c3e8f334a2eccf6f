"""Say what an LLMDeployment would become, before anything runs.

Whether it is accepted, whether the model fits and how its memory is divided, how fast it should be, which
values are in force and where they come from, and which objects would be created or changed in the cluster.
The planner is the operator's own.

  kubectl slipway plan -f x.yaml
  kubectl slipway plan -f x.yaml --offline --facts facts.json
  kubectl slipway plan -f x.yaml --pin      the commit and digest to write into git

Exit status 0 where every object can be planned, 3 where one cannot.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import asdict, replace
from typing import Any, Final

from rich.text import Text

from slipway_api.inspection import Inspection
from slipway_api.v1alpha1 import MemoryStatus, PlanStatus, RangeStatus
from slipway_operator.kinds import key_of
from slipway_operator.plan import Installation, World
from slipway_operator.plugin import documents, model_facts, screen
from slipway_operator.plugin.commands.render import fresh
from slipway_operator.plugin.errors import PluginError, UsageError
from slipway_operator.plugin.installation import installed, offline
from slipway_operator.plugin.kubectl import Kubectl
from slipway_operator.plugin.preview import Change, Preview, preview, world_of

NAME = "plan"
SUMMARY = "say what a deployment would become: fit, memory, speed, changes"
REFUSED: Final = 3
SIGNS: Final = {
    "create": ("+", "green"),
    "change": ("~", "yellow"),
    "delete": ("-", "red"),
    "unchanged": ("=", "dim"),
}


def arguments(parser: ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("-f", "--filename", required=True, help="file, folder or - for standard input")
    parser.add_argument("--offline", action="store_true", help="do not ask the cluster")
    parser.add_argument(
        "--facts", metavar="FILE", help="facts of the model, as `slipway-engine inspect` prints"
    )
    parser.add_argument("--no-inspect", action="store_true", help="do not ask the model's source")
    parser.add_argument("--pin", action="store_true", help="print the commit and digest to write into git")
    parser.add_argument(
        "--diff", action="store_true", help="show each object's difference, not its name alone"
    )
    parser.add_argument("--engine-image", help="image where the object names none")


def run(options: Namespace, cluster: Kubectl) -> int:
    """Plan every object; 3 where one of them cannot be."""
    found = [(one, *_known(options, one)) for one in documents.deployments(options.filename)]
    if options.pin:
        return _pin([(one, inspection) for one, inspection, _ in found])
    installation, remark = _installation(options, cluster)
    if remark:
        screen.tell(remark)
    previews = [_preview(options, cluster, installation, *each) for each in found]
    if options.output == "text":
        for one in previews:
            _print(one, diff=options.diff)
    else:
        screen.machine([_plain(one) for one in previews], options.output)
    return REFUSED if any(one.refusal for one in previews) else 0


def _known(options: Namespace, document: documents.Document) -> tuple[Inspection | None, str]:
    """Return what is known of the document's model, and why nothing is."""
    if options.facts:
        return model_facts.from_file(options.facts), ""
    model = (document.body.get("spec") or {}).get("model") or {}
    if options.no_inspect or not isinstance(model.get("source"), str):
        return None, "the model's source was not asked"
    try:
        return model_facts.inspect(model["source"], model.get("revision"))
    except ValueError:
        return None, "the source cannot be read"  # what is wrong with it, the plan says
    except PluginError as error:
        return None, f"the model's source was asked in vain: {error}"


def _installation(options: Namespace, cluster: Kubectl) -> tuple[Installation, str]:
    if options.offline:
        return offline(options.engine_image), ""
    return installed(cluster, options.engine_image)


def _preview(
    options: Namespace,
    cluster: Kubectl,
    installation: Installation,
    document: documents.Document,
    inspection: Inspection | None,
    unknown: str,
) -> Preview:
    parent = fresh(document, options.namespace)
    world = World(parent)
    if not options.offline:
        world = world_of(Kubectl(key_of(parent).namespace, cluster.options), parent)
    world = replace(world, known=inspection)
    return preview(world, installation, inspection.facts if inspection else None, f"No figures: {unknown}.")


def _pin(found: list[tuple[documents.Document, Inspection | None]]) -> int:
    """Print what does not move: a commit for `model.revision`, a digest to compare with."""
    for document, inspection in found:
        if inspection is None or not (inspection.commit or inspection.digest):
            raise UsageError(
                f"{document.place}: its source names no commit and no digest; hf:// sources can be pinned."
            )
        name = (document.body.get("metadata") or {}).get("name")
        print(f"# {name}: {inspection.digest or 'no digest'}, licence {inspection.license or 'not stated'}")
        if inspection.commit:
            print(screen.dump([{"spec": {"model": {"revision": inspection.commit}}}]), end="")
    return 0


def _plain(one: Preview) -> dict[str, Any]:
    sizing = one.sizing.model_dump(by_alias=True, exclude_none=True) if one.sizing else {}
    return {
        "name": one.name,
        "accepted": one.refusal is None,
        "reason": one.reason,
        "message": one.refusal,
        "plan": {**sizing, "effective": list(one.effective)},
        "changes": [asdict(change) | {"lines": list(change.lines)} for change in one.changes],
    }


def _print(one: Preview, *, diff: bool) -> None:
    out = screen.console()
    out.print(
        screen.line(one.refusal is None, one.name, f"[{one.reason}]" if one.reason else "can be planned")
    )
    if one.refusal:
        out.print(Text(f"  {one.refusal}"))
    for line in figures(one.sizing):
        out.print(Text(f"  {line}"))
    if one.effective:
        rows = [(str(v["field"]), str(v["value"]), str(v["from"])) for v in one.effective]
        out.print(screen.table("", ("  VALUE IN FORCE", "", "FROM"), [(f"  {a}", b, c) for a, b, c in rows]))
    for change in one.changes:
        _print_change(change, diff=diff)


def _print_change(change: Change, *, diff: bool) -> None:
    sign, style = SIGNS[change.action]
    out = screen.console()
    out.print(Text(f"  {sign} {change.action} {change.kind}/{change.name}", style=style))
    if diff or change.action == "change":
        for line in change.lines:
            colour = {"+": "green", "-": "red"}.get(line[:1], "dim") if change.action == "change" else "dim"
            out.print(Text(f"      {line}", style=colour))


def figures(sizing: PlanStatus | None) -> list[str]:
    """Return the planner's figures as lines."""
    if sizing is None:
        return []
    told = [sizing.message] if sizing.message else []
    if sizing.accelerators_per_replica:
        told.append(
            f"{sizing.accelerators_per_replica} accelerators in {sizing.pods_per_replica or 1} pods a replica"
        )
    if sizing.memory:
        told.append(_memory(sizing.memory))
    if sizing.expected:
        expected = sizing.expected
        first = f"first token of {expected.prompt_tokens} prompt tokens {_range(expected.ttft_ms)}"
        told.append(f"expected: {first}, then {_range(expected.tpot_ms)} a token")
        told += [expected.slo] if expected.slo else []
    told += ["by estimate: the engine counts again"] if sizing.estimated else []
    return told


def _memory(memory: MemoryStatus) -> str:
    parts = ((memory.weights, "weights"), (memory.kv_cache, "KV cache"), (memory.workspace, "workspace"))
    sums = " + ".join(f"{size / (1 << 30):.2f} GiB {name}" for size, name in parts if size)
    return f"memory: {sums}; {memory.max_tokens} tokens of cache, {memory.max_sequences} requests at once"


def _range(found: RangeStatus | None) -> str:
    return f"{found.low} to {found.high} ms" if found else "unknown"
