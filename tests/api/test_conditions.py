"""Every reason that a condition can carry has its entry in the runbook, and the runbook has no others."""

from __future__ import annotations

import re
from pathlib import Path

from slipway_api.conditions import Condition, Reason

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operations" / "conditions.md"


def test_the_runbook_has_every_reason_and_no_other():
    entries = re.findall(r"^### (\w+)$", PAGE.read_text(), flags=re.MULTILINE)
    assert sorted(entries) == sorted(set(entries))
    assert set(entries) == {str(reason) for reason in Reason}


def test_the_runbook_explains_every_condition():
    rows = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), flags=re.MULTILINE)
    assert rows == [str(condition) for condition in Condition]
