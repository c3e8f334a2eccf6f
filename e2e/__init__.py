"""Tests against a real Kubernetes, and the tool that gives them one."""
