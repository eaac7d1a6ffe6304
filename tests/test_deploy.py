"""The files in deploy/ fit the program: options, routes and times that they name are its own."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from rbee_worker.config import OPTIONS, OTHER_VARIABLES, Settings, parse, unknown_variables
from rbee_worker.server.routes import OPERATIONS
from rbee_worker.server.run import LAST_STREAMS_S
from rbee_worker.server.tokens import MIN_TOKEN
from tests.server.served import Served

DEPLOY = Path(__file__).parents[1] / "deploy"
UNIT = (DEPLOY / "rbee-worker.service").read_text()
IMAGE = (DEPLOY / "Containerfile").read_text()


def manifest(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "kubernetes" / name).read_text())
    return found


def container() -> dict[str, Any]:
    (found,) = manifest("worker.yaml")["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def script(name: str) -> Any:
    """A program of deploy/, as a module."""
    spec = importlib.util.spec_from_file_location(name, DEPLOY / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_variable_is_one_of_the_programs() -> None:
    files = [f for f in DEPLOY.rglob("*") if f.is_file()]
    assert len(files) >= 8
    named = {name for f in files for name in re.findall(r"RBEE_[A-Z_]+", f.read_text())}
    assert len(named) > 6
    assert named <= {*OTHER_VARIABLES, *(option.env for option in OPTIONS)}


def test_what_they_set_is_allowed() -> None:
    unit = dict(line.split("=", 2)[1:] for line in re.findall(r"^Environment=\S+$", UNIT, re.M))
    pod = {e["name"]: e["value"] for e in container()["env"] if "value" in e}
    image = dict(re.findall(r"(RBEE_\w+)=([^$\s\\]+)", IMAGE))
    for environ in (unit, pod, image):
        assert unknown_variables(environ) == []
        assert parse({}, environ) != Settings()


def test_probes_ask_for_routes_that_there_are() -> None:
    paths = {op.path for op in OPERATIONS}
    pod = container()
    for name in ("startupProbe", "livenessProbe"):
        assert pod[name]["httpGet"]["path"] in paths
    command = ["python", "/opt/rbee/probe.py"]
    assert pod["readinessProbe"]["exec"]["command"] == command
    assert f"CMD {json.dumps(command)}\n" in IMAGE
    assert f"COPY deploy/probe.py {command[1]}\n" in IMAGE
    assert "!deploy/probe.py\n" in (DEPLOY / "Containerfile.dockerignore").read_text()


TOKEN = "x" * MIN_TOKEN


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, "http://127.0.0.1:8080/health"),
        ({"RBEE_API_TOKEN": TOKEN, "RBEE_PORT": "9"}, "http://127.0.0.1:9/v1/ready"),
        ({"RBEE_LOCAL_MODE": "1", "RBEE_HOST": "10.0.0.1"}, "http://127.0.0.1:8080/v1/ready"),
        ({"RBEE_TLS_CERT": "c", "RBEE_HOST": "::"}, "https://[::1]:8080/health"),
        ({"RBEE_HOST": "fd00::1"}, "http://[fd00::1]:8080/health"),
    ],
)
def test_the_probe_asks_the_worker_that_it_stands_beside(environ: dict[str, str], url: str) -> None:
    probe = script("probe")
    asked = probe.question(environ)
    assert asked.full_url == url
    given = environ.get("RBEE_API_TOKEN")
    assert asked.get_header("Authorization") == (given and f"Bearer {given}")
    assert int(probe.PORT) == Settings().port
    assert Settings().host in probe.EVERYWHERE


def test_the_probe_is_told_what_the_worker_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = script("probe")
    for name in [name for name in os.environ if name.startswith("RBEE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RBEE_HOST", "127.0.0.1")
    with Served() as served:
        monkeypatch.setenv(
            "http_proxy", "http://127.0.0.1:1"
        )  # it asks its own machine all the same
        monkeypatch.setenv("RBEE_PORT", str(served.settings.port))
        monkeypatch.setenv("RBEE_API_TOKEN", served.token)
        assert probe.main() == 0
        served.engine.state = "restarting"
        assert probe.main() == 1
        assert capsys.readouterr().err.startswith('503 {"ready":false,"state":"restarting"')
        monkeypatch.delenv("RBEE_API_TOKEN")
        assert probe.main() == 0  # alive
        served.engine.state = "ready"
    assert probe.main() == 1
    assert "refused" in capsys.readouterr().err


def test_a_worker_gets_the_time_it_takes_to_leave() -> None:
    needed = Settings().drain_timeout + LAST_STREAMS_S
    stop = re.search(r"^TimeoutStopSec=(\d+)$", UNIT, re.M)
    assert stop is not None
    assert int(stop[1]) > needed
    pod = manifest("worker.yaml")["spec"]["template"]["spec"]
    pause = re.search(r"sleep\((\d+)\)", str(container()["lifecycle"]["preStop"]))
    assert pause is not None
    assert pod["terminationGracePeriodSeconds"] > needed + int(pause[1])


def test_the_pod_has_few_rights() -> None:
    pod, own = manifest("worker.yaml")["spec"]["template"]["spec"], container()["securityContext"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert f"--uid {pod['securityContext']['runAsUser']} " in IMAGE
    assert f"USER {pod['securityContext']['runAsUser']}" in IMAGE
    assert own["readOnlyRootFilesystem"] is True
    assert own["allowPrivilegeEscalation"] is False
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert pod["automountServiceAccountToken"] is False


def test_every_manifest_is_applied_and_selects_the_pod() -> None:
    kustomized = manifest("kustomization.yaml")["resources"]
    files = {f.name for f in (DEPLOY / "kubernetes").glob("*.yaml")} - {"kustomization.yaml"}
    assert {*kustomized} == files
    labels = manifest("worker.yaml")["spec"]["template"]["metadata"]["labels"]
    assert manifest("service.yaml")["spec"]["selector"] == labels
    for name in ("network.yaml", "disruption.yaml"):
        spec = manifest(name)["spec"]
        selector = spec.get("selector", spec.get("podSelector"))
        assert selector == {"matchLabels": labels}


def test_the_bill_of_materials_has_the_pages_libraries_with_their_hashes() -> None:
    """`make sbom` also checks it against CycloneDX's schema, with a package that is not here."""
    sbom = script("sbom")
    bill = {
        "metadata": {"component": {"bom-ref": "root"}},
        "components": [{"bom-ref": "click==8"}],
        "dependencies": [{"ref": "root", "dependsOn": ["click==8"]}, {"ref": "click==8"}],
    }
    done = sbom.completed(bill)
    assert sbom.completed(done) == done
    page = done["components"][1:]
    assert {each["purl"] for each in page} <= {*done["dependencies"][0]["dependsOn"]}
    files = [file for each in page for file in each["components"]]
    folder = sbom.VENDORED.parent
    vendored = {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()}
    assert {file["name"] for file in files} == vendored - {sbom.VENDORED.name}
    for file in files:
        content = (folder / file["name"]).read_bytes()
        assert file["hashes"][0]["content"] == hashlib.sha256(content).hexdigest()


def test_exit_codes_that_a_restart_does_not_mend_are_not_tried_again() -> None:
    assert "RestartPreventExitStatus=2 3\n" in UNIT
    assert "Restart=on-failure\n" in UNIT
