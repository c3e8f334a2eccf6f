"""Words of other programs on their way into a status: credentials are gone, everything else is as it was."""

from __future__ import annotations

import json
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway_operator.explain.findings import clean
from slipway_operator.explain.redact import redact
from slipway_operator.explain.termination import explain_termination
from slipway_operator.plan import make_plan
from slipway_operator.status import Observation, build_status

VALUE = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-", min_size=16, max_size=40)
SAID = [
    "401 Client Error: Unauthorized for url: https://user:{}@hub.example/api",
    "https://:{}@hub.example/api: refused",
    "Illegal header value b'Bearer {}\\n'",
    "headers={{'Authorization': 'Basic {}'}}",
    "invalid user token hf_{}",
    "HF_TOKEN={} is not valid",
    '{{"password": "{}", "user": "x"}}',
    "api_key='{}'",
    "AWS_SECRET_ACCESS_KEY: {}",
    "AccessDenied for AKIA{}",
    "GET https://s3.example/m?X-Amz-Signature={}&X-Amz-Date=1",
    "https://acc.blob.example/m?sv=1&sig={}",
    "Incorrect API key provided: sk-{}",
    "token: {}",
]


@pytest.mark.parametrize("said", SAID)
@given(value=VALUE)
def test_a_credential_is_hidden_in_whatever_form_it_is_said(said, value):
    value = f"x{value}"  # digits alone would be a number
    text = clean(said.format(value))
    assert value not in text
    assert "***" in text
    assert redact(text) == text, "once is enough"


@pytest.mark.parametrize(
    "said",
    [
        'secret "token" not found',
        "couldn't find key token in Secret team-a/hub",
        "give a token that may read it (HF_TOKEN, or model.credentials of the object)",
        "give USER:PASSWORD or a token (HF_TOKEN, or key token of the Secret in model.credentials)",
        "max_num_batched_tokens: 131072 exceeds max_tokens=65536",
        'Failed to pull image "registry.example/x:1": 401 Unauthorized',
        "hf://org/model@main at https://hub.example:8443/path",
        "0/3 nodes are available: 3 Insufficient nvidia.com/gpu",
        "ValueError: The model's max seq len (8192) is larger than the maximum number of tokens (4096)",
    ],
)
def test_ordinary_words_are_as_they_were(said):
    assert redact(said) == said


@pytest.mark.parametrize(
    "wrap", [str, lambda text: json.dumps({"reason": "DownloadFailed", "message": text})]
)
def test_a_container_s_last_words_are_not_told_whole(wrap):
    value = f"hf_{secrets.token_hex(12)}"
    log = wrap(f"RuntimeError: login with Authorization: Bearer {value} failed")
    found = explain_termination({"exitCode": 1, "message": log}, "engine", "logs")
    assert value not in found.message
    assert "RuntimeError" in found.message


def test_what_a_pod_says_reaches_no_condition(recorded):
    value = f"hf_{secrets.token_hex(12)}"
    said = f"fatal: https://user:{value}@hub.example answered 401, HF_TOKEN={value}"
    parent = recorded.parent()
    ended = {"exitCode": 1, "reason": "Error", "message": said}
    pods = [recorded.ended(parent, ended, waiting=waiting) for waiting in (True, False)]
    world = recorded.world(parent, pods=pods)
    plan = make_plan(world, recorded.here, recorded.moment)
    status = json.dumps(build_status(Observation(world=world, plan=plan, now="2026-01-01T00:00:00Z")))
    assert "answered 401" in status
    assert value not in status
