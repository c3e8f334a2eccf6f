"""The local node's decisions, without a node: what is free, what is there, what is to be made."""

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from e2e.cluster.errors import ClusterError
from e2e.cluster.local import cgroups, components, config, mounts, namespaces, network, pki, processes, recipe
from e2e.cluster.local.state import State

NETWORK = network.choose([])
SETTINGS = config.Settings(
    name="slw0123456",
    network=NETWORK,
    node=Path("/cache/cluster/node"),
    run=Path("/run/slipway/slw0123456"),
    containerd_root=Path("/cache/cluster/containerd"),
    cni_programs=Path("/usr/lib/cni"),
    pause_image="localhost/slipway-cluster/pause:1",
    may_raise_oom_score=False,
)


def component(name: str) -> components.Component:
    known = components.components(SETTINGS, Path("/programs"), Path("/usr/bin/containerd"))
    return components.named(name, known)


class TestNetwork:
    def test_the_first_ranges_are_the_known_ones(self) -> None:
        chosen = network.choose([])
        assert (str(chosen.node), str(chosen.dns), str(chosen.api)) == (
            "10.45.0.2",
            "10.96.0.10",
            "10.96.0.1",
        )

    @pytest.mark.parametrize(
        "taken", ["10.0.0.0/8", "10.96.0.0/12", "10.45.0.0/24", "10.244.0.0/16", "10.96.3.0/24"]
    )
    def test_ranges_that_the_host_uses_are_not_chosen(self, taken: str) -> None:
        used = IPv4Network(taken)
        chosen = network.choose([used])
        assert chosen != NETWORK
        assert not any(used.overlaps(ours) for ours in chosen.ranges())

    def test_a_machine_without_room_is_told_so(self) -> None:
        with pytest.raises(ClusterError, match="SLIPWAY_E2E_CONTEXT"):
            network.choose([IPv4Network("10.0.0.0/8"), IPv4Network("172.16.0.0/12")])

    def test_the_default_route_takes_nothing(self) -> None:
        listing = json.dumps([{"dst": "default"}, {"dst": "10.1.2.0/24"}, {"dst": "192.0.2.7"}])
        assert network.routes_of(listing) == [IPv4Network("10.1.2.0/24"), IPv4Network("192.0.2.7/32")]
        assert network.routes_of("") == []


class TestState:
    def test_what_is_written_is_read(self, tmp_path: Path) -> None:
        state = State("key", NETWORK)
        state.write(tmp_path / "node")
        assert State.read(tmp_path / "node") == state

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "[]",
            "{}",
            '{"key": "k", "network": {}}',
            '{"key": "k", "network": {"link": "x", "services": "10.96.0.0/16", "pods": "10.244.0.0/24"}}',
        ],
    )
    def test_a_state_that_a_crash_left_is_none(self, text: str, tmp_path: Path) -> None:
        (tmp_path / "state.json").write_text(text)
        assert State.read(tmp_path) is None

    def test_no_state_is_none(self, tmp_path: Path) -> None:
        assert State.read(tmp_path / "nowhere") is None


class TestComponents:
    @pytest.mark.parametrize("short", ["apiserver", "controller-manager", "scheduler", "proxy"])
    def test_short_names(self, short: str) -> None:
        assert component(short).name == f"kube-{short}"

    def test_an_unknown_one_is_refused_with_the_known(self) -> None:
        with pytest.raises(ClusterError, match="no component 'dns'; name one of containerd, etcd"):
            component("dns")

    def test_the_api_server_refuses_as_a_production_one_does(self) -> None:
        argv = component("apiserver").argv
        assert "--authorization-mode=Node,RBAC" in argv
        assert not any(word.startswith("--disable-admission-plugins") for word in argv)

    def test_the_api_server_writes_the_audit_log(self) -> None:
        argv = component("apiserver").argv
        assert f"--audit-log-path={SETTINGS.node}/audit/audit.log" in argv
        policy = json.loads(config.audit_policy())
        assert policy["rules"][0] == {"level": "None", "verbs": ["get", "list", "watch"]}
        assert policy["rules"][-1] == {"level": "Metadata"}, "no write is left out"

    def test_the_order_is_what_needs_what(self) -> None:
        known = components.components(SETTINGS, Path("/programs"), Path("/usr/bin/containerd"))
        names = [one.name for one in known]
        assert names.index("etcd") < names.index("kube-apiserver") < names.index("kube-scheduler")
        assert names.index("containerd") < names.index("kubelet")


class TestConfig:
    def test_the_kubelet_takes_either_version_of_cgroups(self) -> None:
        kubelet = json.loads(config.kubelet(SETTINGS))
        assert kubelet["failCgroupV1"] is False
        assert kubelet["cgroupRoot"] == "/slw0123456", "pods are below the cluster's own group"

    def test_nothing_of_the_kernels_is_changed_by_the_proxy(self) -> None:
        proxy = json.loads(config.kube_proxy(SETTINGS))
        assert {int(str(value).rstrip("s")) for value in proxy["conntrack"].values()} == {0}

    def test_containerd_is_apart_from_the_machines_own(self) -> None:
        text = config.containerd(SETTINGS)
        tables = tomllib.loads(text)
        assert tables["root"] == "/cache/cluster/containerd"
        assert tables["grpc"]["address"].startswith("/run/slipway/")
        assert tables["plugins"]["io.containerd.grpc.v1.cri"]["restrict_oom_score_adj"] is True

    def test_a_root_that_may_does_not_restrict(self) -> None:
        text = config.containerd(replace(SETTINGS, may_raise_oom_score=True))
        assert "restrict_oom_score_adj = false" in text

    def test_paths_with_odd_characters_stay_what_they_are(self) -> None:
        odd = replace(SETTINGS, containerd_root=Path('/my "cache"\\x'))
        assert tomllib.loads(config.containerd(odd))["root"] == '/my "cache"\\x'

    def test_pods_get_addresses_of_the_pods_range(self) -> None:
        plugins = json.loads(config.cni(SETTINGS))["plugins"]
        assert plugins[0]["ipam"]["ranges"] == [[{"subnet": str(NETWORK.pods)}]]
        assert [plugin["type"] for plugin in plugins] == ["ptp", "portmap"]

    @pytest.mark.parametrize(
        ("status", "may"),
        [
            ("CapEff:\t000001ffffffffff\n", True),
            ("CapEff:\t000001fffeffffff\n", False),
            ("Name:\tpython\n", False),
        ],
    )
    def test_the_capability_is_read_from_the_kernel(self, status: str, may: bool) -> None:
        assert recipe.may_raise_oom_score(status) is may


class TestCertificates:
    def test_the_api_server_serves_each_of_its_addresses(self) -> None:
        served = next(one for one in pki.wanted(NETWORK, "n") if one.file == "kube-apiserver")
        assert set(served.ips) == {"10.45.0.2", "10.96.0.1", "127.0.0.1"}
        assert "kubernetes.default.svc" in served.dns

    def test_the_kubelet_is_the_node_it_says(self) -> None:
        served = next(one for one in pki.wanted(NETWORK, "n") if one.file == "kubelet")
        assert (served.name, list(served.groups)) == ("system:node:n", ["system:nodes"])

    def test_only_the_administrator_and_the_api_server_are_masters(self) -> None:
        masters = {one.file for one in pki.wanted(NETWORK, "n") if "system:masters" in one.groups}
        assert masters == {"admin", "apiserver-kubelet"}


MOUNTINFO = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
31 22 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
40 22 0:30 / /cache/node/a\040b rw - tmpfs tmpfs rw
41 40 0:31 / /cache/node/a\040b/deep rw - overlay overlay rw
42 22 0:32 / /cache/node2 rw - tmpfs tmpfs rw
"""


class TestMachine:
    def test_mounts_below_a_folder_come_deepest_first(self) -> None:
        below = mounts.below(Path("/cache/node"), MOUNTINFO)
        assert below == [Path("/cache/node/a b/deep"), Path("/cache/node/a b")]

    def test_a_folder_without_mounts_is_deleted(self, tmp_path: Path) -> None:
        (tmp_path / "a" / "b").mkdir(parents=True)
        mounts.delete(tmp_path / "a")
        mounts.delete(tmp_path / "a")
        assert not (tmp_path / "a").exists()

    def test_both_versions_of_cgroups_are_found(self) -> None:
        assert cgroups.parse(MOUNTINFO) == [
            cgroups.Hierarchy(Path("/sys/fs/cgroup/cpu"), unified=False),
            cgroups.Hierarchy(Path("/sys/fs/cgroup/unified"), unified=True),
        ]

    def test_folders_that_were_made_go_and_others_stay(self, tmp_path: Path) -> None:
        ours, theirs, used = tmp_path / "ours", tmp_path / "theirs", tmp_path / "used"
        theirs.mkdir()
        namespaces.make_folders([ours, theirs, used])
        (used / "file").touch()
        namespaces.remove_folders([ours, theirs, used])
        assert (ours.exists(), theirs.exists(), used.exists()) == (False, True, True)


class TestProcesses:
    def test_the_start_time_survives_any_program_name(self) -> None:
        fields = ["S", *map(str, range(4, 60))]
        assert processes.start_time(f"12 (a) b (c)) {' '.join(fields)}") == 22
        assert processes.start_time(f"12 (x) {' '.join(['Z', *fields[1:]])}") == -1

    def test_this_process_is_seen(self) -> None:
        me = processes.look(os.getpid())
        assert me is not None
        assert processes.alive(me)
        assert me in list(processes.everything())

    def test_a_number_that_another_process_got_is_not_it(self) -> None:
        me = processes.look(os.getpid())
        assert me is not None
        assert not processes.alive(replace(me, start=me.start - 1))

    def test_ending_is_seen_before_the_parent_asks(self) -> None:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        seen = processes.look(child.pid)
        assert seen is not None
        assert not processes.wait_gone(seen, 0.05)
        processes.send(seen, processes.KILL)
        assert processes.wait_gone(seen, 10)
        child.wait()

    def test_holders_are_known_by_their_whole_command_line(self, tmp_path: Path) -> None:
        holder = tmp_path / namespaces.HOLDER
        holder.symlink_to("/bin/sleep")
        with subprocess.Popen([holder, "61.5"]) as child:
            try:
                assert [one.pid for one in namespaces.holders("61.5")] == [child.pid]
                assert namespaces.holders("61") == []
            finally:
                child.kill()
