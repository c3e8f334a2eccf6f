"""Turn KServe, KubeAI and production-stack objects into LLMDeployments.

Prints the objects as YAML; what could not be taken over stands above each as a comment, and on standard
error. Nothing is written to a cluster:

  kubectl get models.kubeai.org -o yaml | kubectl slipway convert -f - > models.yaml
  kubectl slipway convert -f values.yaml --accelerator nvidia-l4-24gb
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable

from slipway_api.catalogue import CATALOGUE
from slipway_operator.kinds import Object
from slipway_operator.plugin import documents, screen
from slipway_operator.plugin.convert.convert import convert
from slipway_operator.plugin.convert.draft import CannotConvert, Draft
from slipway_operator.plugin.errors import UsageError
from slipway_operator.plugin.kubectl import Kubectl

NAME = "convert"
SUMMARY = "turn objects of KServe, KubeAI and production-stack into LLMDeployments"


def arguments(parser: ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("-f", "--filename", required=True, help="file, folder or - for standard input")
    parser.add_argument("--accelerator", metavar="TYPE", help="accelerator.type of all objects")
    parser.add_argument(
        "--keep-runtime", action="store_true", help="keep vLLM as the engine, with its image and arguments"
    )


def run(options: Namespace, cluster: Kubectl) -> int:
    """Convert every document; 1 where one of them could not be."""
    if options.accelerator and options.accelerator not in CATALOGUE:
        raise UsageError(
            f"--accelerator {options.accelerator} is unknown; write one of {', '.join(CATALOGUE)}."
        )
    drafts, failed = [], 0
    for place, body in _objects(options.filename):
        try:
            drafts += convert(body, accelerator=options.accelerator, keep_runtime=options.keep_runtime)
        except CannotConvert as error:
            failed += 1
            screen.tell(f"{place}: {error}")
    for draft in drafts:
        for note in draft.notes:
            screen.tell(f"{draft.name}: {note}")
    if options.output == "json":
        screen.machine([draft.result() for draft in drafts], "json")
    else:
        print("---\n".join(_commented(draft) for draft in drafts), end="")
    return 1 if failed or not drafts else 0


def _objects(path: str) -> Iterable[tuple[str, Object]]:
    """Yield the documents; a List (`kubectl get -o yaml`) yields its items."""
    for document in documents.read(path):
        if document.body.get("kind") == "List":
            for item in document.body.get("items") or ():
                yield document.place, item
        else:
            yield document.place, document.body


def _commented(draft: Draft) -> str:
    notes = "".join(f"# {note}\n" for note in draft.notes)
    return notes + screen.dump([draft.result()])
