"""The deployment's promises, held on its files; no container engine is needed."""

from __future__ import annotations

import re
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import yaml

from study.cli import app

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
SECRETS = ("POSTGRES_PASSWORD", "RAY_AUTH_TOKEN")
RUNS_ON = {name for name, service in SERVICES.items() if service.get("stop_signal") != "SIGINT"}
"""Services that stay up; the command line is what is stopped as by Ctrl-C."""


def _command(service: dict[str, Any]) -> str:
    return " ".join([*service.get("entrypoint", []), *service.get("command", [])])


def _environment(service: dict[str, Any]) -> dict[str, str]:
    return dict(service.get("environment", {}))


def test_compose_publishes_only_mlflow_and_only_to_this_machine() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert list(published) == ["mlflow"]
    assert all(port.startswith("127.0.0.1:") for port in published["mlflow"])
    assert not any("network_mode" in service or "privileged" in service for service in SERVICES.values())


@pytest.mark.parametrize("secret", SECRETS)
def test_compose_refuses_to_start_without_a_secret(secret: str) -> None:
    uses = re.findall(r"\$\{?" + secret + r"[^}]*\}?", TEXT)
    assert uses
    # ":?" and not "?": an empty value, as in a fresh copy of .env.example, is refused as well.
    assert all(re.fullmatch(r"\$\{" + secret + r":\?[^}]+\}", use) for use in uses)


def test_compose_has_no_secret_without_a_variable() -> None:
    named = {
        value
        for service in SERVICES.values()
        for name, value in _environment(service).items()
        if re.search("PASSWORD|TOKEN|SECRET|KEY", name)
    }
    assert {re.sub(r"\$\{(\w+):\?.*\}", r"\1", value) for value in named} == set(SECRETS)
    assert not re.search(r"://[^/\s]*:[^/\s]*@", TEXT), "a URL holds a password"


def test_env_example_names_every_secret_and_gives_none() -> None:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    values = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert values == dict.fromkeys(SECRETS, "")


def test_compose_authenticates_wherever_ray_runs() -> None:
    with_ray = {name: service for name, service in SERVICES.items() if "ray start" in _command(service)}
    assert set(with_ray) == {"ray-head", "ray-worker", "ray-worker-gpu", "launch"}
    for service in with_ray.values():
        assert _environment(service)["RAY_AUTH_MODE"] == "token"
        assert _environment(service)["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?")
    assert "--include-dashboard=false" in _command(SERVICES["ray-head"])


def test_compose_keeps_the_data_directory_at_one_path_on_all_ray_nodes() -> None:
    for name in ("ray-head", "ray-worker", "ray-worker-gpu", "launch"):
        assert "longlag-home:/data" in SERVICES[name]["volumes"]
    assert "LONGLAG_HOME=/data" in (ROOT / "Dockerfile").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(RUNS_ON))
def test_compose_watches_the_health_of_every_service_that_stays_up(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"
    assert SERVICES[name]["restart"] == "unless-stopped"


def test_compose_starts_services_in_the_order_of_their_health() -> None:
    for service in SERVICES.values():
        for other, condition in service.get("depends_on", {}).items():
            assert condition == {"condition": "service_healthy"}
            assert other in RUNS_ON


def test_compose_lets_the_command_line_put_its_stacks_down() -> None:
    assert set(SERVICES) - RUNS_ON == {"launch"}
    launch = SERVICES["launch"]
    assert launch["stop_grace_period"] == "90s"
    # The shell must give its place to longlag, or the signal ends with the shell.
    assert 'exec longlag "$$@"' in launch["entrypoint"][2]


def test_compose_trains_on_the_cluster_whatever_command_trains() -> None:
    (branch,) = re.findall(r'case "\$\$1" in (.*)\)', SERVICES["launch"]["entrypoint"][2])
    commands = {one.callback.__name__: signature(one.callback) for one in app.registered_commands if one.callback}
    assert set(branch.split(" | ")) == {name for name, made in commands.items() if "address" in made.parameters}


def test_image_has_the_compiler_that_triton_calls() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("RUN apt-get") and {"gcc", "libc6-dev"} <= set(line.split()) for line in lines)


def test_mlflow_answers_the_name_that_the_command_line_uses() -> None:
    [allowed] = [part for part in SERVICES["mlflow"]["command"] if part.startswith("--allowed-hosts=")]
    tracking = _environment(SERVICES["launch"])["MLFLOW_TRACKING_URI"]
    assert tracking.removeprefix("http://") in allowed.removeprefix("--allowed-hosts=").split(",")


def test_image_does_not_run_as_root() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users
    assert users[-1] != "root"


def test_lock_is_exact_and_holds_nothing_of_one_machine() -> None:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    # A local version such as +cpu, a path, an index or an editable line would not install elsewhere.
    pattern = r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+(; sys_platform == \"linux\")?"
    wrong = [pin for pin in pins if not re.fullmatch(pattern, pin)]
    assert not wrong
