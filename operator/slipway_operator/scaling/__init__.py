"""The autoscaler at work: every ten seconds a decision for each object that asks for one."""
