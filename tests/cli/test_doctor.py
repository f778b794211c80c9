"""`otel-lifecycle doctor`: what would be instrumented, and where would it go?"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from otel_lifecycle.cli import main
from tests.cli.command import Command
from tests.cli.environments import (
    make_distribution,
    make_package,
    make_program,
    sections,
    words,
)

# No collector runs during the tests.
NOT_EXPORTED = {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}


@pytest.fixture
def collector() -> Iterator[int]:
    """The port of a server that accepts connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture(scope="module")
def other_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment without this package, with a Python router and one written in Rust."""
    folder = tmp_path_factory.mktemp("other")
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for kind in ("pure", "rusty"):
        module = f"{kind}_router"
        make_package(packages / module, cli="raise SystemExit('the router was started')")
        script = f"{kind}-router = {module}.cli:main"
        make_distribution(packages, f"{kind}-router", "console_scripts", script)
        make_program(
            folder / "bin" / f"{kind}-router",
            f"#!{folder}/bin/python\nfrom {module}.cli import main\nmain()\n",
        )
    (packages / "rusty_router_rs.abi3.so").touch()
    return folder


def paths(folder: Path) -> dict[str, str]:
    """Return variables that put an environment's programs first on the path."""
    own = Path(sys.executable).parent
    return {"PATH": os.pathsep.join([str(folder / "bin"), str(own), os.environ["PATH"]])}


def test_works(start: Callable[..., Command], tmp_path: Path, collector: int) -> None:
    """It shows values, sources and destinations, creates nothing, and exits with 0."""
    records = tmp_path / "new" / "records.jsonl"
    file = tmp_path / "lifecycle.json"
    file.write_text(
        '{"STORENAME": "router", "persistence": {"flushInterval": "5s", "enabled": null}}'
    )

    code, output, error = start(
        "doctor",
        environment={
            "OTEL_LIFECYCLE_CONFIG_FILE": str(file),
            "OTEL_LIFECYCLE_MAX_INFLIGHT": "500",
            "OTEL_LIFECYCLE_PERSISTENCE_OUTPUT_PATH": str(records),
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://user:password@127.0.0.1:{collector}",
            "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20secret,token",
            "OTEL_TRACES_SAMPLER": "traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0.1",
            "OTEL_SERVICE_NAME": "my-router",
        },
    ).wait()

    found = sections(output)
    assert (code, error, found["verdict"]) == (0, "", "this would work")
    assert found["SDK"] == words(
        "distro distro (opentelemetry.distro:OpenTelemetryDistro)",
        "configurator configurator (opentelemetry.distro:OpenTelemetryConfigurator)",
    )
    there = f"otlp_proto_grpc to http://***@127.0.0.1:{collector}: something listens there"
    assert found["destinations"] == words(
        f"spans {there}",
        "headers of spans authorization=***, ***",
        f"metrics {there}",
        "headers of metrics authorization=***, ***",
        "sampler traceidratio, 0.1",
        "service name my-router (OTEL_SERVICE_NAME)",
    )
    assert found["settings"] == words(
        f"store_name router ({file})",
        "paths not set (default)",
        "labels not set (default)",
        "labels_key not set (default)",
        "slo not set (default)",
        "release_on_first_chunk prefill (default)",
        "max_inflight 500 (OTEL_LIFECYCLE_MAX_INFLIGHT)",
        "stale_after 5s (default)",
        "npu_device_attributes false (default)",
        "decision_candidates 8 (default)",
        "first_byte_attribute false (default)",
        "phase_spans false (default)",
        "otlp_encoder lifecycle (default)",
        "writer thread (default)",
        "max_metric_values 1000 (default)",
        "close_timeout 5s (default)",
        "persistence.enabled true (there is an output path)",
        "persistence.flush_threshold 0 (default)",
        f"persistence.flush_interval 5s ({file})",
        f"persistence.output_path {records} (OTEL_LIFECYCLE_PERSISTENCE_OUTPUT_PATH)",
        "persistence.max_queue 100000 (default)",
        "persistence.rotate_bytes 0 (default)",
        "persistence.rotate_interval 0s (default)",
        "persistence.retain_segments 0 (default)",
        "persistence.retain_bytes 0 (default)",
        "persistence.compression none (default)",
        "persistence.fsync never (default)",
        "collection.enabled false (default)",
        "prediction.url not set (default)",
        "prompt.blocks 0 (default)",
    )
    assert found["record file"] == words(
        f"path {records}", "state does not exist yet; its folder can be written"
    )
    assert not records.parent.exists()


def test_hooks(start: Callable[..., Command], tmp_path: Path) -> None:
    """Each hook is found, missing, or unknown because its module cannot be imported."""
    make_package(
        tmp_path / "hermes_router",
        director="""
            print("a router may print")

            class Director:
                def pre_request(self): ...
                def response_body(self): ...
            """,
        datastore="raise SystemExit('a router may exit')",
    )

    code, output, _ = start(
        "doctor",
        environment={
            **NOT_EXPORTED,
            "PYTHONPATH": str(tmp_path),
            "OTEL_LIFECYCLE_PERSISTENCE_OUTPUT_PATH": str(tmp_path / "records.jsonl"),
        },
    ).wait()

    found = sections(output)
    assert (code, found["verdict"]) == (0, "this would work")
    starlette = f"starlette {version('starlette')}"
    assert (
        f"asgi_router loads starlette.routing {starlette}: Router.__call__ "
        in (found["instrumentations"])
    )
    assert (
        words(
            "hermes_router loads",
            "hermes_router.director hermes_router: Director.pre_request, Director.response_body,",
            "Director.reject is missing",
            "hermes_router.datastore hermes_router: cannot be imported: SystemExit: a router may",
            "exit",
        )
        in found["instrumentations"]
    )
    assert (
        words(
            "- hermes_router has no hermes_router.director.Director.reject: the values it provides",
            "stay unknown",
            "- hermes_router.datastore cannot be imported, so its hooks are unknown: SystemExit:",
            "a router may exit",
        )
        in found["warnings"]
    )


def test_refused_setting(start: Callable[..., Command]) -> None:
    """An invalid setting is shown as the router would log it; unknown ones are shown too."""
    environment = {
        **NOT_EXPORTED,
        "OTEL_LIFECYCLE_MAX_INFLIGHT": "many",
        "OTEL_LIFECYCLE_STORENAME": "router",
    }

    code, output, _ = start("doctor", environment=environment).wait()

    found = sections(output)
    refused = "OTEL_LIFECYCLE_MAX_INFLIGHT='many': must be a whole number"
    assert (code, found["settings"], found["problems"], found["verdict"]) == (
        1,
        f"refused {refused}",
        f"- a setting is invalid, so the router stays uninstrumented: {refused}",
        "1 problem to solve",
    )
    assert (
        "the variable OTEL_LIFECYCLE_STORENAME is unknown; did you mean OTEL_LIFECYCLE_STORE_NAME?"
        in found["warnings"]
    )


def test_other_instrumentations(start: Callable[..., Command], tmp_path: Path) -> None:
    """Others that load are named, with a warning for those that create spans per chunk."""
    group = "opentelemetry_instrumentor"
    make_package(tmp_path / "fastapi", telemetry="")
    make_distribution(tmp_path, "noisy", group, "fastapi = noisy:Instrumentor")
    make_distribution(tmp_path, "quiet", group, "quiet = quiet:Instrumentor")
    requires = 'Provides-Extra: instruments\nRequires-Dist: starlette<0.1; extra == "instruments"\n'
    make_distribution(tmp_path, "old", group, "starlette = old:Instrumentor", requires)

    _, output, _ = start("doctor", environment={"PYTHONPATH": str(tmp_path)}).wait()

    found = sections(output)
    names, _, _ = found["instrumentations"].partition("of others ")[2].partition(" FastAPI's")
    assert {"fastapi", "quiet", "starlette"} & {*names.split(", ")} == {"fastapi", "quiet"}
    assert "- fastapi: one `http send` span for each chunk of a stream" in found["warnings"]
    assert found["instrumentations"].endswith(
        "FastAPI's own spans a server span, and one each for dependencies, endpoint and "
        "serialization; left to the instrumentation above"
    )


def test_nothing_to_see(start: Callable[..., Command]) -> None:
    """Without an exporter and a record file it would not work."""
    code, output, _ = start("doctor", environment=NOT_EXPORTED).wait()

    assert (code, sections(output)["problems"]) == (
        1,
        "- spans and metrics are not exported, and there is no record file: set "
        "OTEL_LIFECYCLE_PERSISTENCE_OUTPUT_PATH, or configure the SDK to export",
    )


def test_python_router_of_another_environment(
    start: Callable[..., Command], other_environment: Path
) -> None:
    """A console script's interpreter is examined, and no argument of the router is shown."""
    folder = other_environment / "bin"
    command = ("pure-router", "--api-key", "secret")

    code, output, _ = start("doctor", "--", *command, environment=paths(other_environment)).wait()

    assert (code, sections(output)) == (
        1,
        {
            "command": words(
                f"{folder}/pure-router Python program, run by {folder}/python",
                "runs the module pure_router.cli",
                "to be started by opentelemetry-instrument -- pure-router ...",
            ),
            "environment": f"python {platform.python_version()} ({folder}/python)",
            "problems": "- otel-lifecycle is not installed in this environment: "
            f"{folder}/python -m pip install otel-lifecycle opentelemetry-distro",
            "verdict": "1 problem to solve",
        },
    )


def test_native_router(start: Callable[..., Command], other_environment: Path) -> None:
    """A router written in Rust is recognised, although its command is a Python script."""
    folder = other_environment / "bin"

    code, output, _ = start("doctor", "rusty-router", environment=paths(other_environment)).wait()

    assert (code, sections(output)) == (
        1,
        {
            "command": words(
                f"{folder}/rusty-router Python program, run by {folder}/python",
                "runs the module rusty_router.cli",
            ),
            "problems": "- rusty_router.cli starts a native router (rusty_router_rs), which "
            "cannot be instrumented; use its own tracing",
            "verdict": "1 problem to solve",
        },
    )


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("no-such-router", "there is no program no-such-router on the path"),
        (
            "{ls} .",
            "{ls} is a native program, which cannot be instrumented; if it only starts a Python "
            "program, name that program",
        ),
        ("{python} -m no_such.router", "there is no module no_such.router for {python}"),
    ],
)
def test_no_router(capsys: pytest.CaptureFixture[str], command: str, problem: str) -> None:
    """For a command that cannot be instrumented nothing else is shown."""
    names = {"ls": shutil.which("ls"), "python": sys.executable}

    code = main(["doctor", "--", *command.format(**names).split()])

    found = sections(capsys.readouterr().out)
    assert (code, found["problems"]) == (1, f"- {problem.format(**names)}")
    assert list(found) == ["command", "problems", "verdict"]


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """The command needs the program that `opentelemetry-instrument` starts."""
    code = main(["doctor", "--", "opentelemetry-instrument", "python", "-m", "my_router"])

    assert (code, capsys.readouterr().err) == (
        2,
        "otel-lifecycle: omit opentelemetry-instrument, and name the command that it starts\n",
    )


def test_without_an_extra(start: Callable[..., Command]) -> None:
    """Without the extra the output is the same, as plain text."""
    code = "import sys; sys.modules['rich'] = None; from otel_lifecycle.cli import main; "
    kept = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    plain = subprocess.run(
        [sys.executable, "-c", f"{code}sys.exit(main(['doctor']))"],
        env={**kept, **NOT_EXPORTED},
        capture_output=True,
        text=True,
        check=False,
    )

    expected = start("doctor", environment=NOT_EXPORTED).wait()
    assert expected == (plain.returncode, plain.stdout, plain.stderr)
    assert "1 problem to solve" in plain.stdout
