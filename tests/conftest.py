"""Settings of all tests: property tests draw the same examples everywhere, new ones where somebody explores.

`HYPOTHESIS_PROFILE=explore pytest tests` goes on with fresh ones; what it finds becomes an `@example`.
"""

from __future__ import annotations

import os

from hypothesis import settings

# No deadline: how long an example takes says more about the machine than about the code.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
