"""A real Kubernetes on this machine without Docker: one node in namespaces of its own.

Everything the node runs lives in one process namespace, one mount namespace
and one network namespace, all held open by a single process. So ending that
process ends the node: the kernel takes every program, mount, interface and
firewall rule with it, whatever state a crash left them in.
"""
