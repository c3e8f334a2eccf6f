"""The core loop: scheduler, KV blocks, runner and sampler. It knows no HTTP, no tokenizer and no text.

Importing it makes OpenMP's threads sleep, not spin, between parallel regions; it must be said before torch is
loaded. Spinning burns the cgroup's quota, and where others run on the same processors each region waits for a
thread that was put aside: on two busy cores a step took ten times as long (measured).
"""

import os

if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ["OMP_WAIT_POLICY"] = "passive"
