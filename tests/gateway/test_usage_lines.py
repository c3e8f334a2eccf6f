"""The lines that a real gateway writes, read by `kubectl slipway cost --by tenant`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import pytest

from slipway_gateway.settings import AuthMode
from slipway_operator.plugin import usage
from slipway_operator.plugin.errors import UsageError
from slipway_operator.plugin.kubectl import Kubectl

from .conftest import OK, Start, answers, deployment, plain, tenant_secret

COUNTED = b'{"choices": [], "usage": {"prompt_tokens": %d, "completion_tokens": %d}}'


async def test_what_the_gateway_writes_the_plugin_adds_up(start: Start, tmp_path: Path):
    cluster = await start(auth=AuthMode.TENANTS)
    for name in ("one", "two", "idle"):
        await cluster.deploy(deployment("team-a", name))
    await cluster.tenant(tenant_secret("a", "*", "k-a"))
    await cluster.tenant(tenant_secret("b", "*", "k-b"))
    await cluster.pod(answers(plain(200, COUNTED % (10, 45))), of="team-a/one")
    await cluster.pod(OK, of="team-a/two")
    for key in ("k-a", "k-a", "k-a", "k-b"):
        assert (await cluster.chat("one", key=key))[0] == 200
    assert (await cluster.chat("two", key="k-b"))[0] == 200
    assert (await cluster.chat("nope", key="k-b"))[0] == 404
    log = tmp_path / "log"
    log.write_text(cluster.log.getvalue() + "not json\n" + '{"kind":"request"}\n')
    nowhere = cast(Kubectl, None)
    dollars: dict[str, Any] = {
        "team-a/one": Decimal(8),
        "team-a/two": Decimal(1),
        "team-a/idle": Decimal("2.5"),
    }
    lines = usage.by_tenant(usage.read(usage.lines_of(nowhere, str(log)), None), dollars)
    found = {x.tenant: (x.requests, x.prompt_tokens, x.completion_tokens, x.dollars) for x in lines}
    assert found["a"] == (3, 30, 135, "6.00")
    assert found["b"][3] == "3.00"  # a quarter of one, all of two
    assert found[usage.NOBODY] == (0, 0, 0, "2.50")
    assert next(line for line in lines if line.tenant == "b").estimated == 1
    late = datetime.now(UTC) + timedelta(hours=1)
    assert list(usage.read(usage.lines_of(nowhere, str(log)), late)) == []


def test_a_file_that_is_not_there_is_a_sentence():
    with pytest.raises(UsageError, match=r"cannot be read"):
        list(usage.lines_of(cast(Kubectl, None), "/nowhere"))
