"""Tenants through a real gateway: who gets in, what they see, how keys change while it runs."""

from __future__ import annotations

import pytest

from slipway_gateway.settings import AuthMode

from .conftest import OK, SECRETS, Cluster, deployment, tenant_secret, until


@pytest.fixture
async def guarded(start) -> Cluster:
    cluster = await start(auth=AuthMode.TENANTS)
    await cluster.deploy(deployment("team-a", "chat"))
    await cluster.deploy(deployment("team-b", "chat", created="2026-02-01T00:00:00Z"))
    await cluster.pod(OK, of="team-a/chat")
    await cluster.pod(OK, of="team-b/chat")
    return cluster


async def test_without_a_tenant_everything_is_a_401_that_says_what_to_do(guarded: Cluster):
    status, body, headers = await guarded.chat(key="x")
    assert status == 401
    assert "slipway-gateway key create" in body["error"]["message"]
    assert headers["WWW-Authenticate"].startswith("Bearer")
    async with guarded.client.get(f"{guarded.url}/v1/models") as response:
        assert response.status == 401


async def test_a_tenant_sees_its_namespaces_and_no_others(guarded: Cluster):
    await guarded.tenant(tenant_secret("a", "team-a", "key-a"))
    await guarded.tenant(tenant_secret("b", "team-b", "key-b"))
    for key, namespace, pod in (("key-a", "team-a", guarded.pods[0]), ("key-b", "team-b", guarded.pods[1])):
        before = pod.requests
        assert (await guarded.chat("chat", key))[0] == 200
        assert pod.requests == before + 1
        headers = {"Authorization": f"Bearer {key}"}
        async with guarded.client.get(f"{guarded.url}/v1/models", headers=headers) as response:
            assert [model["root"] for model in (await response.json())["data"]] == [f"{namespace}/chat"]
    status, body, _ = await guarded.chat("team-b/chat", "key-a")
    assert status == 404
    assert "team-b" not in body["error"]["message"].replace("'team-b/chat'", "", 1)
    assert (await guarded.chat("chat", "wrong"))[0] == 401
    assert (await guarded.chat("chat"))[0] == 401


async def test_the_salt_is_the_tenants_whatever_the_client_sends(guarded: Cluster):
    await guarded.tenant(tenant_secret("a", "team-a", "key-a"))
    await guarded.tenant(tenant_secret("all", "*", "key-all"))
    salts = set()
    for key in ("key-a", "key-all"):
        for more in ({}, {"cache_salt": "stolen"}):
            assert (await guarded.chat("chat", key, **more))[0] == 200
            salts.add(guarded.pods[0].json()["cache_salt"])
            assert guarded.pods[0].bodies[-1].count(b'"cache_salt"') == 1
    assert len(salts) == 2
    assert "stolen" not in salts


async def test_the_key_goes_no_further(guarded: Cluster):
    await guarded.tenant(tenant_secret("a", "team-a", "key-a"))
    await guarded.chat("chat", "key-a")
    pod = guarded.pods[0]
    assert b"key-a" not in pod.heads[0] + pod.bodies[0]
    assert "key-a" not in guarded.log.getvalue()
    assert guarded.records()[-1]["tenant"] == "a"
    assert len(guarded.records()[-1]["key_id"]) == 8


async def test_keys_change_while_it_runs(guarded: Cluster):
    await guarded.tenant(tenant_secret("a", "team-a", "old"))
    assert (await guarded.chat("chat", "old"))[0] == 200
    await guarded.kube.put(SECRETS, tenant_secret("a", "team-a", "old", "new"))
    await until(lambda: len(guarded.gateway.world.keyring()) == 2)
    assert (await guarded.chat("chat", "old"))[0] == (await guarded.chat("chat", "new"))[0] == 200
    await guarded.kube.put(SECRETS, tenant_secret("a", "team-a", "new"))
    await until(lambda: len(guarded.gateway.world.keyring()) == 1)
    assert (await guarded.chat("chat", "old"))[0] == 401
    await guarded.kube.delete(SECRETS, "slipway-system", "slipway-tenant-a")
    await until(lambda: not len(guarded.gateway.world.keyring()))
    assert "key create" in (await guarded.chat("chat", "new"))[1]["error"]["message"]


async def test_only_labelled_secrets_of_its_own_namespace_are_asked_for(guarded: Cluster):
    asked = [(path, query) for path, query in guarded.kube.requests if "secrets" in path]
    assert asked
    assert {path for path, _ in asked} == {SECRETS}
    assert {query.get("labelSelector") for _, query in asked} == {"slipway.dev/tenant"}


async def test_without_keys_no_secret_is_read_and_the_body_stays(cluster: Cluster):
    pod = await cluster.pod(OK)
    await cluster.chat(cache_salt="mine")
    assert pod.json()["cache_salt"] == "mine"
    assert not [path for path, _ in cluster.kube.requests if "secrets" in path]
