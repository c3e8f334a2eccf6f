"""Leadership: at any time at most one candidate believes that it leads, whatever the API server does."""

from __future__ import annotations

import asyncio
import copy
import heapq
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway_operator.errors import Conflict, LeadershipLost, Retryable
from slipway_operator.kinds import LEASE, Key
from slipway_operator.lease import LEASE_DURATION, RENEW_DEADLINE, Leadership


class Leases:
    """The one Lease, with the API server's optimistic locking; `down` makes every call fail."""

    def __init__(self):
        self.lease, self.version, self.down, self.reads = None, 0, set(), 0

    def seen_by(self, who):
        return _Client(self, who)

    def write(self, **spec):
        self.version += 1
        self.lease["spec"].update(spec)
        self.lease["metadata"]["resourceVersion"] = str(self.version)


class _Client:
    def __init__(self, leases, who):
        self._leases, self._who = leases, who

    def _answer(self):
        if self._who in self._leases.down:
            raise Retryable("connection refused")

    async def get(self, kind, key):
        assert (kind, key) == (LEASE, Key("system", "slipway-operator"))
        self._answer()
        self._leases.reads += 1
        return copy.deepcopy(self._leases.lease)

    async def create_lease(self, key, body):
        self._answer()
        if self._leases.lease is not None:
            raise Conflict("exists")
        return self._store(body)

    async def replace_lease(self, key, body):
        self._answer()
        if body["metadata"]["resourceVersion"] != str(self._leases.version):
            raise Conflict("changed")
        return self._store(body)

    def _store(self, body):
        self._leases.version += 1
        self._leases.lease = copy.deepcopy(body)
        self._leases.lease["metadata"]["resourceVersion"] = str(self._leases.version)
        return copy.deepcopy(self._leases.lease)


class Time:
    """Virtual time: a sleep is over when everybody sleeps and it is the next to end."""

    def __init__(self):
        self.now, self._sleepers, self._order = 0.0, [], itertools.count()

    async def sleep(self, seconds):
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._order), woken))
        await woken

    async def advance(self, seconds):
        end = self.now + seconds
        for _ in range(20):
            await asyncio.sleep(0)
        while self._sleepers and self._sleepers[0][0] <= end:
            self.now, _, woken = heapq.heappop(self._sleepers)
            if not woken.done():
                woken.set_result(None)
            for _ in range(20):
                await asyncio.sleep(0)
        self.now = end


def candidate(leases, time, who):
    return Leadership(leases.seen_by(who), "system", who, clock=lambda: time.now, sleep=time.sleep)


async def lead(leadership, log):
    await leadership.acquire()
    log.append(leadership)
    await leadership.keep()


async def test_the_first_leads_and_the_second_takes_over_when_the_first_is_silent():
    leases, time = Leases(), Time()
    a, b = candidate(leases, time, "a"), candidate(leases, time, "b")
    tasks = [asyncio.create_task(lead(x, [])) for x in (a, b)]
    await time.advance(60)
    assert (a.held, b.held) == (True, False)
    leases.down.add("a")
    await time.advance(RENEW_DEADLINE + 3)
    assert (a.held, b.held) == (False, False)
    with pytest.raises(LeadershipLost, match="could not be renewed"):
        await tasks[0]
    await time.advance(LEASE_DURATION)
    assert b.held
    assert leases.lease["spec"]["leaseTransitions"] == 1
    tasks[1].cancel()


async def test_who_slept_past_the_deadline_writes_nothing_when_it_wakes():
    leases, time = Leases(), Time()
    a = candidate(leases, time, "a")
    assert not a.leads()
    await a.acquire()
    assert a.leads()
    time.now += RENEW_DEADLINE + 1  # stopped: no code of it ran meanwhile
    assert a.held
    assert not a.leads()


async def test_a_released_lease_is_taken_at_once():
    leases, time = Leases(), Time()
    a, b = candidate(leases, time, "a"), candidate(leases, time, "b")
    await a.acquire()
    waiting = asyncio.create_task(b.acquire())
    await time.advance(4)
    assert not b.held
    await a.release()
    await time.advance(2)
    assert b.held
    await waiting
    await a.release()  # a second time does nothing
    assert leases.lease["spec"]["holderIdentity"] == "b"


async def test_a_restarted_holder_leads_at_once():
    leases, time = Leases(), Time()
    await candidate(leases, time, "a").acquire()
    again = candidate(leases, time, "a")
    await again.acquire()
    assert again.held
    assert leases.lease["spec"]["leaseTransitions"] == 0


async def test_a_renewal_whose_answer_was_lost_is_no_loss():
    leases, time = Leases(), Time()
    a = candidate(leases, time, "a")
    await a.acquire()
    leases.write(renewTime="just now")
    task = asyncio.create_task(a.keep())
    await time.advance(20)
    assert a.leads()
    task.cancel()


async def test_a_holder_renews_by_one_request():
    leases, time = Leases(), Time()
    a = candidate(leases, time, "a")
    await a.acquire()
    version, reads = leases.version, leases.reads
    task = asyncio.create_task(a.keep())
    await time.advance(10)
    assert leases.version > version
    assert leases.reads == reads
    task.cancel()


async def test_a_holder_that_was_overtaken_stops():
    leases, time = Leases(), Time()
    a = candidate(leases, time, "a")
    await a.acquire()
    leases.write(holderIdentity="b")
    task = asyncio.create_task(a.keep())
    await time.advance(3)
    with pytest.raises(LeadershipLost, match="b took the Lease"):
        await task
    await a.release()
    assert leases.lease["spec"]["holderIdentity"] == "b"


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.booleans(), st.integers(1, 20)), max_size=25))
def test_two_never_lead_at_the_same_time(story):
    async def run():
        leases, time = Leases(), Time()
        candidates = {who: candidate(leases, time, who) for who in "abc"}

        async def live(who):
            while True:
                try:
                    await lead(candidates[who], [])
                except LeadershipLost:
                    candidates[who] = candidate(leases, time, who)

        tasks = [asyncio.create_task(live(who)) for who in "abc"]
        for who, up, seconds in story:
            (leases.down.discard if up else leases.down.add)(who)
            for _ in range(seconds):
                await time.advance(1)
                assert sum(c.held for c in candidates.values()) <= 1
                assert sum(c.leads() for c in candidates.values()) <= 1
        leases.down.clear()
        await time.advance(2 * LEASE_DURATION)
        assert sum(c.held for c in candidates.values()) == 1
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())
