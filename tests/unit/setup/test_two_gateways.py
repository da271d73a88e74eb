"""The draft of one of two gateways, and what ``check`` says of its files."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from repmgr_hooks import config
from repmgr_hooks.checks import gateways as checks
from repmgr_hooks.errors import UsageError
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.netfilter.conntrackd import CONFIGURATION as CONNTRACKD
from repmgr_hooks.netfilter.route import Route
from repmgr_hooks.service.controller import ClusterController
from repmgr_hooks.service.seen import forget_removed
from repmgr_hooks.settings.cluster import MASQUERADE, Node
from repmgr_hooks.setup import gateways, render
from repmgr_hooks.setup.render import CONFIGURATION
from tests.fake import FakeHost
from tests.unit.setup.test_init import FOUND, REPOSITORY

SHIPPED = {CONFIGURATION: (REPOSITORY / "config/config.yaml").read_text()}
OWN, OTHER = "10.0.0.31", "10.0.0.32"


def drafted(own: str = OWN, other: str = OTHER) -> dict[str, str]:
    found = replace(FOUND, gateway="10.0.0.30")
    texts = {CONFIGURATION: SHIPPED[CONFIGURATION].replace("address: 10.0.0.20", "address: 10.0.0.30")}
    return gateways.drafted(texts, found, other, Route(False, own, "ens3"), REPOSITORY)


def test_each_names_itself_and_the_other() -> None:
    first, second = drafted(), drafted(OTHER, OWN)
    assert first[CONFIGURATION] == second[CONFIGURATION], "both have the same file"
    for texts, own, other in ((first, OWN, OTHER), (second, OTHER, OWN)):
        keepalived = texts[checks.KEEPALIVED]
        assert f"unicast_src_ip {own}\n" in keepalived
        assert f"unicast_peer {{\n        {other}\n" in keepalived
        assert "10.0.0.30/32 dev ens3" in keepalived
        assert "interface ens3" in keepalived
        assert f"IPv4_address {own}\n        IPv4_Destination_Address {other}\n" in texts[CONNTRACKD]
        assert "10.0.0.2" not in keepalived + texts[CONNTRACKD]


def test_the_configuration_is_good(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(drafted()[CONFIGURATION].replace("/var/lib/repmgr-hooks", str(tmp_path)))
    gateway = config.load(tmp_path / "config.yaml").clusters["main"].cluster.gateway
    assert (gateway.address, gateway.hosts) == ("10.0.0.30", (OWN, OTHER))


ELSEWHERE = ("ssh", "-o", "BatchMode=yes", "barman@10.0.0.40", "barman")
ON_FIRST = ("ssh", "-o", "BatchMode=yes", f"barman@{OWN}", "barman")
FIRST_SIX, SECOND_SIX = "fd00::31", "fd00::32"


@pytest.mark.parametrize(
    ("command", "hosts", "commands", "slots"),
    [
        (("barman",), (OWN, OTHER), {OWN: ("barman",), OTHER: ("barman",)}, {OWN: "barman_1", OTHER: "barman_2"}),
        (ELSEWHERE, (OWN, OTHER), {OWN: ELSEWHERE, OTHER: ELSEWHERE}, {OWN: "barman_2", OTHER: "barman_2"}),
        (ON_FIRST, (OWN, OTHER), {OWN: ("barman",), OTHER: ON_FIRST}, {OWN: "barman_2", OTHER: "barman_2"}),
        (
            ("barman",),
            (FIRST_SIX, SECOND_SIX),
            {FIRST_SIX: ("barman",), SECOND_SIX: ("barman",)},
            {FIRST_SIX: "barman_1", SECOND_SIX: "barman_2"},
        ),
    ],
)
def test_barman_is_where_it_is_on_both(
    command: tuple[str, ...],
    hosts: tuple[str, str],
    commands: dict[str, tuple[str, ...]],
    slots: dict[str, str],
    tmp_path: Path,
) -> None:
    """Both drafts named one slot and the same command, also where each gateway has a Barman of its own."""
    shared, node = ("fd00::30", "fd00::%d") if ":" in hosts[0] else ("10.0.0.30", "10.0.0.1%d")
    nodes = {number: Node(node % number) for number in FOUND.nodes}
    found = replace(FOUND, gateway=shared, nodes=nodes, barman=command, slot="barman_2")
    before = render.configuration(SHIPPED[CONFIGURATION], found, "main")
    before = before.replace("/var/lib/repmgr-hooks", str(tmp_path))
    texts = [
        gateways.drafted({CONFIGURATION: before}, found, other, Route(False, own, "ens3"), REPOSITORY)[CONFIGURATION]
        for own, other in (hosts, hosts[::-1])
    ]
    assert texts[0] == texts[1], "both have the same file"
    (tmp_path / "config.yaml").write_text(texts[0])
    barman = config.load(tmp_path / "config.yaml", here=False).clusters["main"].cluster.barman
    assert barman
    assert {host: barman.seen_from(host).command for host in hosts} == commands
    assert {host: barman.seen_from(host).slot_name for host in hosts} == slots


@pytest.mark.parametrize(
    ("own", "other"), [("", OTHER), ("10.0.0.30", OTHER), (OTHER, OTHER), (OWN, "gateway2"), (OWN, "fe80::1")]
)
def test_what_is_no_pair_of_gateways(own: str, other: str) -> None:
    with pytest.raises(UsageError, match="--other-gateway|own address"):
        drafted(own, other)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("", "", "gateway.address: 10.0.0.20 cannot be a gateway's own"),
        ("10.0.0.20, 10.0.0.22", "10.0.0.21", "names one gateway"),
        ("10.0.0.20, 10.0.0.22", "10.0.0.21, 10.0.0.21", "10.0.0.21 appears twice"),
        ("10.0.0.20, 10.0.0.22", "'fd00::21', 'fd00::22'", "must be of the same kind as 'address'"),
        ("10.0.0.20, 10.0.0.22", "", "must not be empty"),
        ("10.0.0.20, 10.0.0.22", "gateway1, gateway2", "must be an IP address"),
    ],
)
def test_hosts_that_cannot_be(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = SHIPPED[CONFIGURATION].replace(
        "      address: 10.0.0.20\n", "      address: 10.0.0.20\n      hosts: [10.0.0.20, 10.0.0.22]\n"
    )
    (tmp_path / "config.yaml").write_text(text.replace(f"[{old}]", f"[{new}]") if old else text)
    with pytest.raises(UsageError) as refused:
        config.load(tmp_path / "config.yaml")
    assert said.removeprefix("gateway.address: ") in str(refused.value)


# -- check -------------------------------------------------------------------------------------------------------------


def gateway_of(root: Path, texts: dict[str, str]) -> FakeHost:
    for place, text in texts.items():
        path = root / place.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    host = FakeHost()
    host.addresses = {OWN}
    host.daemons, host.device = {"keepalived", "conntrackd"}, "ens3"
    return host


CLUSTER = config.load(REPOSITORY / "config/config.yaml").clusters["main"].cluster
PAIR = replace(CLUSTER, gateway=replace(CLUSTER.gateway, address="10.0.0.30", hosts=(OWN, OTHER)))


def said(root: Path, host: FakeHost) -> dict[str, tuple[str, str]]:
    return {found.code: (found.level, found.message) for found in checks.here(PAIR, host, root)}


def test_the_draft_is_in_order(tmp_path: Path) -> None:
    host = gateway_of(tmp_path, drafted())
    assert {level for level, _ in said(tmp_path, host).values()} == {"OK"}
    assert set(said(tmp_path, host)) == {"gateway.keepalived", "gateway.conntrackd", "gateway.sync"}
    assert list(checks.here(CLUSTER, host, tmp_path)) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("state BACKUP", "state MASTER", "takes the address back when it returns"),
        ("10.0.0.30/32", "10.0.0.33/32", "does not name 10.0.0.30"),
        ("10.0.0.30/32", "10.0.0.130/32", "does not name 10.0.0.30"),
        ("priority 100", "priority 50", "needs a priority above 50"),
        ("repmgr-hooks-track", "track", "no track script"),
        ("conntrackd -R", "conntrackd -n", "break when the other one, back again"),
        (f"unicast_src_ip {OWN}", f"unicast_src_ip {OTHER}", "is not this host's"),
        ("/usr/bin/sh", "/bin/sh", "keepalived 2.3 and newer runs no script behind a link: /bin/sh"),
        ('notify_master "/usr/sbin', 'notify_master "/sbin', "runs no script behind a link: /sbin/conntrackd"),
    ],
)
def test_what_check_finds(tmp_path: Path, old: str, new: str, expected: str) -> None:
    texts = drafted()
    assert old in texts[checks.KEEPALIVED]
    host = gateway_of(tmp_path, {**texts, checks.KEEPALIVED: texts[checks.KEEPALIVED].replace(old, new)})
    for name in ("bin", "sbin"):
        (tmp_path / "usr" / name).mkdir(parents=True)
        (tmp_path / name).symlink_to(f"usr/{name}")
    level, message = said(tmp_path, host)["gateway.keepalived"]
    assert (level, expected in message) == ("WARN", True), message


def test_neither_runs_and_masquerade(tmp_path: Path) -> None:
    host = FakeHost()
    pair = replace(PAIR, gateway=replace(PAIR.gateway, snat_address=MASQUERADE))
    found = {each.code: each.level for each in checks.here(pair, host, tmp_path)}
    assert found == {"gateway.snat": "WARN", "gateway.keepalived": "FAIL", "gateway.conntrackd": "FAIL"}


# -- the track script --------------------------------------------------------------------------------------------------


def tracked(state: Path) -> int:
    return subprocess.run(
        [REPOSITORY / "config/repmgr-hooks-track", state], check=False, capture_output=True
    ).returncode


@contextmanager
def running_service(state: Path) -> Iterator[None]:
    """Somebody holds the lock that the service holds."""
    lock = state / "worker.lock"
    lock.touch()
    with subprocess.Popen(["flock", lock, "sleep", "60"]) as service:
        try:
            while tracked(state):
                assert service.poll() is None
            yield
        finally:
            service.terminate()


@pytest.mark.parametrize("line", ["state_dir: {}", "state_dir: '{}'  # a disk of its own", 'state_dir:\t"{}"\t# ours'])
def test_the_track_script_looks_where_the_service_is(tmp_path: Path, line: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"# state_dir: /nowhere\n{line.format(tmp_path)}\n")
    environment = {**os.environ, "REPMGR_HOOKS_CONFIG": str(config)}
    with running_service(tmp_path):
        script = REPOSITORY / "config/repmgr-hooks-track"
        assert subprocess.run([script], env=environment, check=False).returncode == 0
        config.unlink()
        assert subprocess.run([script], env=environment, check=False).returncode == 1, "its place is the usual one"


@pytest.mark.parametrize(("interval", "refused"), [(0, True), (1, False), (10, False), (11, True), (900, True)])
def test_gateways_watch_each_other(tmp_path: Path, interval: int, refused: bool) -> None:
    text = SHIPPED[CONFIGURATION].replace("monitor_interval: 5", f"monitor_interval: {interval}")
    (tmp_path / "one.yaml").write_text(text)
    config.load(tmp_path / "one.yaml")
    two = text.replace("      address: 10.0.0.20\n", "      address: 10.0.0.20\n      hosts: [10.0.0.21, 10.0.0.22]\n")
    (tmp_path / "two.yaml").write_text(two)
    try:
        config.load(tmp_path / "two.yaml")
        assert not refused
    except UsageError as error:
        assert refused and f"monitor_interval: {interval} s is not 1 to 10 s" in str(error)


def test_the_track_script(tmp_path: Path) -> None:
    """A service that runs and looks is well, whether there is a primary or not."""
    assert tracked(tmp_path) == 1, "it was never started"
    (tmp_path / "worker.lock").touch()
    assert tracked(tmp_path) == 1, "nobody holds the lock"
    looked = tmp_path / "cluster-main.looked"
    with running_service(tmp_path):
        looked.touch()
        assert tracked(tmp_path) == 0
        subprocess.run(["touch", "-d", "20 minutes ago", looked], check=True)
        assert tracked(tmp_path) == 1, "it stands still"
        (tmp_path / "cluster-main.paused").touch()
        assert tracked(tmp_path) == 0, "it is paused"


@pytest.fixture
def journal() -> Iterator[Journal]:
    made = Journal(Path(":memory:"))
    yield made
    made.close()


def test_a_gateway_without_a_primary_keeps_the_address(tmp_path: Path, journal: Journal) -> None:
    """It looks, and no other gateway would serve better."""
    host, loaded = FakeHost(), config.load(REPOSITORY / "config/config.yaml")
    loaded = replace(loaded, service=replace(loaded.service, state_dir=str(tmp_path)))
    queue = ClusterController(loaded.clusters["main"], journal, host, loaded)
    host.lose(1)
    with running_service(tmp_path):
        queue.work()
        subprocess.run(["touch", "-d", "20 minutes ago", tmp_path / "cluster-main.looked"], check=True)
        for _ in range(5):
            queue.work()
            host.sleep(5)
        assert queue.looked is None or queue.looked.primary is None
        assert tracked(tmp_path) == 0


@pytest.mark.parametrize(("interval", "left"), [(5.0, ["cluster-main.looked"]), (0, [])])
def test_a_cluster_that_was_taken_out_is_none_that_stands_still(
    tmp_path: Path, interval: float, left: list[str]
) -> None:
    """Its last look was long ago, and stays so: for that the address would leave this gateway, and the other too."""
    loaded = config.load(REPOSITORY / "config/config.yaml")
    loaded = replace(loaded, service=replace(loaded.service, state_dir=str(tmp_path), monitor_interval=interval))
    for name in ("main", "former"):
        subprocess.run(["touch", "-d", "20 minutes ago", tmp_path / f"cluster-{name}.looked"], check=True)
    forget_removed(loaded, None)
    assert [path.name for path in tmp_path.glob("*.looked")] == left
