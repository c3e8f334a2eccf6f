"""Redirects of an https:// source under a class that lists what it allows."""

from __future__ import annotations

import json

import httpx
import pytest

from slipway_engine.errors import InvalidArgument, ModelAccessDenied
from slipway_engine.sources.redirects import ENVIRONMENT, check_redirect

LIST = ["https://models.example/approved/", "https://cdn.example/whole.gguf", "hf://org/"]


def hop(location: str, start: str = "https://models.example/approved/m.gguf") -> httpx.Response:
    return httpx.Response(302, headers={"Location": location}, request=httpx.Request("GET", start))


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, json.dumps(LIST))


@pytest.mark.parametrize(
    "location",
    [
        "https://models.example/approved/v2/m.gguf",
        "/approved/other.gguf",
        "other.gguf",
        "https://cdn.example/whole.gguf?signature=x#part",
    ],
)
def test_to_what_is_listed_they_are_followed(listed: None, location: str) -> None:
    check_redirect(hop(location))


@pytest.mark.parametrize(
    "location",
    [
        "https://elsewhere.example/m.gguf",
        "https://models.example/private/m.gguf",
        "/private/m.gguf",
        "../private/m.gguf",
        "https://models.example/approved/../private/m.gguf",
        "https://models.example/approved/%2e%2e/private/m.gguf",
        "https://models.example/approved/%252e%252e%252fm.gguf",
        "https://models.example.evil.example/approved/m.gguf",
        "https://models.example:8443/approved/m.gguf",
        "https://models.example@evil.example/approved/m.gguf",
        "http://models.example/approved/m.gguf",
        "//evil.example/approved/m.gguf",
    ],
)
def test_to_anything_else_they_are_refused(listed: None, location: str) -> None:
    with pytest.raises(ModelAccessDenied, match="not among the sources that the class allows"):
        check_redirect(hop(f"{location}?token=secret"))


def test_what_is_secret_is_not_told(listed: None) -> None:
    with pytest.raises(ModelAccessDenied) as refused:
        check_redirect(hop("https://user:word@evil.example/m?token=secret"))
    assert "secret" not in str(refused.value)
    assert "word" not in str(refused.value)


def test_without_a_list_and_without_a_redirect_nothing_is_checked(
    listed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_redirect(httpx.Response(200, request=httpx.Request("GET", "https://anywhere.example/")))
    monkeypatch.delenv(ENVIRONMENT)
    check_redirect(hop("https://elsewhere.example/m.gguf"))


def test_a_list_that_is_none_allows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "hf://org/")
    with pytest.raises(InvalidArgument, match="JSON list"):
        check_redirect(hop("https://models.example/approved/m.gguf"))
