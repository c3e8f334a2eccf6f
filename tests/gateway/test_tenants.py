"""Keys and tenants: what is stored, what is compared, what is said."""

from __future__ import annotations

import base64
import re
import subprocess
import sys

import pytest
import yaml

from slipway_gateway import errors, tenants
from slipway_gateway.objects import Key, SecretData, read_secret
from slipway_gateway.routing import Sight
from slipway_gateway.tenants import Keyring, authenticate, digest_of, read_tenants


def secret(name: str, uid: str, tenant: str, namespaces: str | None, keys: str | None) -> SecretData:
    values = {"namespaces": namespaces, "keys": keys}
    data = {k: base64.b64encode(v.encode()).decode() for k, v in values.items() if v is not None}
    return SecretData(Key("slipway-system", name), uid, tenant, data)


def keyring(*secrets: SecretData) -> Keyring:
    ring, complaints = read_tenants(secrets)
    assert not complaints
    return ring


def test_a_key_stands_for_its_tenant_and_namespaces():
    ring = keyring(secret("s", "u", "acme", "a, b", f"sha256:{digest_of('k1')}\n{digest_of('k2')}\n"))
    for key in ("k1", "k2"):
        caller = authenticate(ring, f"Bearer {key}", "slipway-system")
        assert caller.tenant == "acme"
        assert caller.sight == Sight(frozenset({"a", "b"}))


def test_a_star_sees_all():
    assert keyring(secret("s", "u", "acme", "*", digest_of("k"))).find("k").sight.sees("anything")


def test_without_a_tenant_the_refusal_says_how_to_make_one():
    with pytest.raises(errors.GatewayError, match="slipway-gateway key create") as caught:
        authenticate(Keyring(), "Bearer x", "slipway-system")
    assert caught.value.status == 401


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic a2V5", "k", "Bearer wrong", "Bearer " + "k" * 5000]
)
def test_without_a_valid_key_there_is_a_401_that_does_not_repeat_it(header):
    ring = keyring(secret("s", "u", "acme", "*", digest_of("k")))
    with pytest.raises(errors.GatewayError) as caught:
        authenticate(ring, header, "slipway-system")
    assert caught.value.status == 401
    assert "wrong" not in caught.value.message
    assert "kkkk" not in caught.value.message


def test_the_salt_is_the_tenants_and_no_other_has_it():
    ring = keyring(
        secret("s1", "u1", "acme", "*", digest_of("k1")),
        secret("s2", "u2", "acme", "a", digest_of("k2")),
        secret("s3", "u3", "other", "*", digest_of("k3")),
    )
    salts = [ring.find(key).salt for key in ("k1", "k2", "k3")]
    assert salts[0] == salts[1] != salts[2]


@pytest.mark.parametrize(
    ("namespaces", "keys", "says"),
    [
        (None, digest_of("k"), "'namespaces' is missing"),
        ("a", None, "'keys' is missing"),
        ("", digest_of("k"), "team-a,team-b"),
        ("A_B", digest_of("k"), "team-a,team-b"),
        ("*,a", digest_of("k"), "team-a,team-b"),
        ("a", "sk-slipway-plain", "store the hash"),
    ],
)
def test_a_broken_secret_is_complained_about_and_grants_nothing(namespaces, keys, says):
    ring, complaints = read_tenants([secret("s", "u", "acme", namespaces, keys)])
    assert not len(ring)
    assert says in complaints[0].sentence
    assert "sk-slipway-plain" not in complaints[0].sentence


def test_a_secret_without_the_label_is_no_tenant():
    assert read_secret({"metadata": {"namespace": "n", "name": "s"}, "data": {}}) is None


def test_nothing_that_may_be_printed_shows_a_digest():
    ring = keyring(made := secret("s", "u", "acme", "*", digest_of("k")))
    assert digest_of("k") not in repr(ring.find("k")) + repr(ring) + repr(made)


def test_the_command_prints_the_key_once_and_a_secret_that_makes_it_valid():
    command = [
        sys.executable,
        "-m",
        "slipway_gateway",
        "key",
        "create",
        "--tenant",
        "acme",
        "--namespaces",
        "b,a",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    keys = re.findall(r"sk-slipway-[\w-]{43}", done.stderr)
    assert len(keys) == 1
    assert "sk-slipway" not in done.stdout
    obj = yaml.safe_load(done.stdout)
    obj["metadata"] |= {"namespace": "slipway-system", "uid": "u"}
    obj["data"] = {k: base64.b64encode(v.encode()).decode() for k, v in obj.pop("stringData").items()}
    caller = keyring(read_secret(obj)).find(keys[0])
    assert (caller.tenant, caller.sight) == ("acme", Sight(frozenset({"a", "b"})))


@pytest.mark.parametrize(
    "arguments",
    [["--tenant", 'a"\n', "--namespaces", "a"], ["--tenant", "a", "--namespaces", "A"], ["--tenant", "a"]],
)
def test_the_command_refuses_what_would_not_be_a_tenant(arguments):
    command = [sys.executable, "-m", "slipway_gateway", "key", "create", *arguments]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 2


def test_two_keys_are_never_the_same():
    assert len({tenants.new_key() for _ in range(100)}) == 100
