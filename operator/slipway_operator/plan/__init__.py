"""From one LLMDeployment to the children it should have: pure, without I/O, clock or logging."""

from slipway_operator.plan.installation import Installation
from slipway_operator.plan.plan import Plan, Refusal, make_plan

__all__ = ["Installation", "Plan", "Refusal", "make_plan"]
