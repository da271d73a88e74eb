"""Somebody who reads a hint and types it: which host it is for, as whom, and into which file, as the words say.

No knowledge of the fault goes in here: what a hint does not say is not typed. A hint that cannot be typed raises
Untypeable.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import yaml

from tests.endtoend.test_check import CONFIG, SERVER
from tests.lab import CONFIG as CONFIGS
from tests.lab import DATA, Failed, Host, Lab

START = "systemctl enable --now repmgr-hooks.service"
OPTIONS = "PGOPTIONS=-c synchronous_commit=local -c default_transaction_read_only=off"
"""Of a session that can still do it, whatever the fault is."""


class Untypeable(AssertionError):
    """A hint that names nothing that can be typed."""


def type_in(lab: Lab, hint: str, where: str = "") -> None:
    """Do what a hint says; ``where``: the place that the finding is about."""
    for pattern, act in MANNERS:
        if found := re.fullmatch(pattern, hint, re.DOTALL):
            act(lab, where, *found.groups())
            return
    if re.search(r"\b[A-Z]{4,}\b|\.\.\.", re.sub(r"FORWARD|INPUT|OUTPUT|ACCEPT|DNAT|P(RE|OST)ROUTING", "", hint)):
        raise Untypeable(hint)
    shell(lab, lab.gateway, hint, "root")


def node_of(lab: Lab, words: str) -> Host:
    """The node that ``node 2`` means, or the primary."""
    found = re.search(r"node (\d)", words)
    if found:
        return lab.node(int(found[1]))
    return next(host for host in lab.databases if host.sql("select pg_is_in_recovery()") == "f")


def there(lab: Lab, where: str, said: str) -> None:
    on_node(lab, where, where, said)


def on_node(lab: Lab, where: str, place: str, said: str) -> None:
    """SQL is for psql, anything else for a shell; both as postgres. Of two ways the first is taken."""
    host = node_of(lab, place)
    said = said.partition("; or ")[0]
    if re.match(r"psql|\S*repmgr", said):
        shell(lab, host, said, "postgres")
        return
    for statement in filter(None, map(str.strip, said.split(";"))):
        if statement == "then restart it":
            host.pg_ctl("restart", "-m", "fast")
        else:
            host.run("env", OPTIONS, "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement, user="postgres")


def shell(lab: Lab, host: Host, said: str, user: str) -> None:
    """Type it into a shell that stands in the source of repmgr_hooks."""
    for file in ("grants.sql", "sudoers", "sysctl.conf"):
        lab.put(host, f"/tmp/source/config/{file}", (CONFIGS / file).read_text())
    typed(host, f"cd /tmp/source; {said}", user)


def typed(host: Host, said: str, user: str) -> None:
    """By stdin: what is typed stands in no argument, where ``pkill -f`` would find it."""
    result = host.result("sh", "-e", stdin=f"{said}\n", user=user)
    if result.returncode != 0:
        raise Failed(f"{host.name}: {said}: {result.returncode}\n{result.stdout}\n{result.stderr}")


def as_postgres(lab: Lab, where: str, command: str) -> None:
    lab.gateway.start(*command.split(), user="postgres", log="typed").wait(60)


def in_repmgr_conf(lab: Lab, where: str, name: str, value: str, then: str) -> None:
    """A line of a repmgr.conf: the one of this name is replaced."""
    path = lab.gateway.path(where)
    kept = re.sub(rf"(?m)^#?{name} *=.*\n?", "", path.read_text())
    path.write_text(f"{kept}{name}={value}\n")
    lab.gateway.result("sh", stdin=then, user="postgres")  # there may be no repmgrd


def in_its_repmgr_conf(lab: Lab, where: str, name: str, value: str) -> None:
    """The node's own file, on its host."""
    node = node_of(lab, where)
    path = node.path(f"/etc/repmgr/{node.name}.conf")
    path.write_text(re.sub(rf"(?m)^{name} *=.*$", f"{name}={value}", path.read_text()))


def out_of_repmgr_conf(lab: Lab, where: str, name: str, then: str) -> None:
    path = lab.gateway.path(where)
    path.write_text(re.sub(rf"(?m)^{name} *=.*\n?", "", path.read_text()))
    lab.gateway.result("sh", stdin=then, user="postgres")  # there may be no repmgrd


def in_config(lab: Lab, where: str, place: str, value: str) -> None:
    """``config.yaml: clusters.main.gateway: {snat_address: A}``: what stands there besides stays."""
    path = lab.gateway.path(CONFIG)
    # A bare "on" is true in YAML 1.1.
    settings = yaml.safe_load(re.sub(r"\bon:", "'on':", path.read_text()))
    *above, last = place.split(".")
    section: Any = settings
    for name in above:
        section = section[int(name) if name.isdigit() else name]
    new = yaml.safe_load(value)
    last_key: Any = int(last) if last.isdigit() else last
    section[last_key] = {**section.get(last_key, {}), **new} if isinstance(new, dict) else new
    path.write_text(yaml.safe_dump(settings, sort_keys=False))


def in_barmans_file(lab: Lab, where: str, name: str, value: str) -> None:
    path = lab.gateway.path(SERVER)
    kept = re.sub(rf"(?m)^{name} *=.*\n?", "", path.read_text())
    path.write_text(f"{kept}{name} = {value}\n")


def in_barman_conf(lab: Lab, where: str, line: str) -> None:
    path = lab.gateway.path("/etc/barman.conf")
    path.write_text(path.read_text().replace("[barman]\n", f"[barman]\n{line}\n", 1))


def to_streaming_conninfo(lab: Lab, where: str, words: str) -> None:
    path = lab.gateway.path(SERVER)
    path.write_text(re.sub(r"(?m)^(streaming_conninfo *=.*)$", rf"\1 {words}", path.read_text()))


def in_both(lab: Lab, where: str, address: str, port: str) -> None:
    path = lab.gateway.path(SERVER)
    new = re.sub(
        r"(?m)^((?:streaming_)?conninfo *=.*?)host=\S+ port=\S+", rf"\1host={address} port={port}", path.read_text()
    )
    path.write_text(new)


def in_pgbouncer_ini(lab: Lab, where: str, section: str, name: str, value: str) -> None:
    """The file of the PgBouncer that the finding is about, on its host; there is no systemd to have it read."""
    address, port = where.split()[-1].rsplit(":", 1)
    (host,) = (host for host in lab.hosts if host.address == address)
    path = host.path(f"/etc/pgbouncer/pgbouncer{port}.ini")
    kept = re.sub(rf"(?m)^{name} *=.*\n?", "", path.read_text())
    path.write_text(kept.replace(f"[{section}]\n", f"[{section}]\n{name} = {value}\n", 1))
    host.run("sh", "-c", f"kill -HUP $(cat /tmp/pgbouncer{port}.pid)")


def in_pg_hba(lab: Lab, where: str, line: str) -> None:
    hosts = [node_of(lab, where)] if re.search(r"node \d", where) else lab.databases
    for host in hosts:
        path = host.path(f"{DATA}/pg_hba.conf")
        path.write_text(f"{line}\n{path.read_text()}")
        host.pg_ctl("reload")


def in_etc_hosts(lab: Lab, where: str, line: str) -> None:
    lab.append(lab.gateway, "/etc/hosts", f"{line}\n")


def start_service(lab: Lab, where: str) -> None:
    """There is no systemd in this lab; ``test_units.py`` has it."""
    lab.start_worker()


SETTING = r"(event_notification_command|primary_notification_timeout|promote_command)=(.*?)"
MANNERS: list[tuple[str, Callable[..., None]]] = [
    (re.escape(START), start_service),
    (r"in its repmgr\.conf: (\w+)=('[^']*')", in_its_repmgr_conf),
    (rf"{SETTING}  # then: (.*)", in_repmgr_conf),
    (r"take the line (\w+) out  # then: (.*)", out_of_repmgr_conf),
    (r"config\.yaml: (\S+): ([^A-Z]*?)(?:; .*)?", in_config),
    (r"in Barman's file: host=(\S+) port=(\S+) in both", in_both),
    (r"in Barman's file: (\w+) = (\S+)", in_barmans_file),
    (r"in Barman's file, to streaming_conninfo: (.*)", to_streaming_conninfo),
    (r"in its pgbouncer\.ini, \[(\w+)\]: (\w+) = ([^;]*); then on its host: systemctl reload.*", in_pgbouncer_ini),
    (r"in barman\.conf, \[barman\]: (.*)", in_barman_conf),
    (r"in (?:its pg_hba\.conf|pg_hba\.conf of every node, above any 'reject'), then reload: (.*)", in_pg_hba),
    (r"in DNS or /etc/hosts: (.*)", in_etc_hosts),
    (r"there: (.*)", there),
    (r"on (node \d|the primary): (.*)", on_node),
    (r"(?:.*, or )?as postgres: ([^;]*)(?:;.*)?", as_postgres),
]
