"""Model sources: what may be written, and what is refused with a sentence."""

from __future__ import annotations

import re

import pytest

from slipway_api.sources import SOURCE_PATTERN, ModelSource, parse_source


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        (
            "hf://HuggingFaceTB/SmolLM2-135M-Instruct",
            ModelSource("hf", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ),
        (
            "https://models.example:8443/a/b.gguf",
            ModelSource("https", "https://models.example:8443/a/b.gguf"),
        ),
        ("pvc://models/llama/8b", ModelSource("pvc", "models", "llama/8b")),
        ("pvc://models", ModelSource("pvc", "models")),
        ("s3://bucket/llama/8b", ModelSource("s3", "bucket", "llama/8b")),
        ("gs://bucket/a.gguf", ModelSource("gs", "bucket", "a.gguf")),
        (
            "oci://registry.example:5000/models/llama:8b",
            ModelSource("oci", "registry.example:5000/models/llama:8b"),
        ),
        (
            f"oci://registry.example/llama@sha256:{'a' * 64}",
            ModelSource("oci", f"registry.example/llama@sha256:{'a' * 64}"),
        ),
        ("file:///models/a.gguf", ModelSource("file", "/models/a.gguf")),
    ],
)
def test_parses(uri, expected):
    assert parse_source(uri) == expected


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "SmolLM2",
        "hf://SmolLM2",
        "hf://a/b/c",
        "hf://../b",
        "http://host/a.gguf",
        "https://host/a.safetensors",
        "https://user:pw@host/a.gguf",
        "pvc://Claim/x",
        "pvc://claim/../x",
        "file://models/a.gguf",
        "file:///models/../etc/passwd",
        "file:///a b",
        "s3://UPPER/x",
        "s3://bucket/../x",
        "gs://b",
        "oci://registry.example/models",
        "oci://registry.example/m@sha256:abc",
        "ftp://host/x",
        "hf://a/b\nhf://c/d",
        "hf://a/b\n",
    ],
)
def test_refuses_and_says_what_may_be_written(uri):
    with pytest.raises(ValueError, match="must be hf://ORG/NAME"):
        parse_source(uri)


def test_the_crds_pattern_accepts_what_python_accepts():
    for uri in ("hf://a/b", "pvc://c/d", "file:///x", "https://h/x.gguf", "s3://bucket/x", "oci://h/r:t"):
        assert re.search(SOURCE_PATTERN, uri)
    for uri in ("hf://a", "s3://b/c", "oci://h/r", "file://x"):
        assert not re.search(SOURCE_PATTERN, uri)
