"""From one LLMDeployment to the children it should have: pure, without I/O, clock or logging."""

from slipway_operator.plan.installation import Installation
from slipway_operator.plan.plan import Plan, Refusal, make_plan
from slipway_operator.plan.world import World

__all__ = ["Installation", "Plan", "Refusal", "World", "make_plan"]
