"""How the doctor examines commands, hooks, the SDK's settings and the record file."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from otel_lifecycle.cli.doctor.command import Program, resolve
from otel_lifecycle.cli.doctor.destinations import examine_destinations
from otel_lifecycle.cli.doctor.diagnosis import Diagnosis
from otel_lifecycle.cli.doctor.environment import examine_environment
from otel_lifecycle.cli.doctor.instrumentations import examine_instrumentations
from otel_lifecycle.cli.doctor.interpreter import EntryPoint, Facts, Hooks, Interpreter, Wanted
from otel_lifecycle.cli.doctor.program import examine_program, examine_runs
from otel_lifecycle.cli.doctor.sdk import examine_sdk
from otel_lifecycle.cli.doctor.settings import examine_record_file, examine_settings
from otel_lifecycle.config import PersistenceConfig
from tests.cli.environments import make_program, sections, words
from tests.processes import runs
from tests.records.segments import lines
from tests.waiting import eventually

DISTRO = {
    "OTEL_TRACES_EXPORTER": "otlp",
    "OTEL_METRICS_EXPORTER": "otlp",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
}
OWN_TRACING = (
    "with --otel-endpoint the router creates a second server span for each request; remove the "
    "option"
)
NO_SDK = (
    "nothing configures the SDK, so there are no spans and metrics: /bin/python -m pip install "
    "opentelemetry-distro, or your vendor's distro"
)


@pytest.fixture
def ports() -> Iterator[dict[str, int]]:
    """A port where a server listens, and one where none does."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        yield {"open": server.getsockname()[1], "closed": silent.getsockname()[1]}


def facts(groups: Mapping[str, list[EntryPoint]] | None = None, **others: Any) -> Facts:
    """Possible contents of an environment."""
    exporters = [
        EntryPoint(name, "", "") for name in ("console", "otlp_proto_grpc", "otlp_proto_http")
    ]
    empty = Facts(
        python="3.12.1",
        executable="/bin/python",
        versions={},
        groups={
            "opentelemetry_distro": [],
            "opentelemetry_configurator": [],
            "opentelemetry_instrumentor": [],
            "opentelemetry_traces_exporter": exporters,
            "opentelemetry_metrics_exporter": exporters,
            **(groups or {}),
        },
        wanted={},
        libraries={},
        module="",
        module_found=False,
        module_file="",
        native="",
        fastapi_traces=False,
    )
    return msgspec.structs.replace(empty, **others)


def shown(diagnosis: Diagnosis) -> str:
    """Return the printed text."""
    output = io.StringIO()
    diagnosis.print(lambda line="", **_: print(line, file=output))
    return output.getvalue()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("#!{python}", Program("{path}", "{python}", console_script="router")),
        (
            "#!{python} -sE",
            Program("{path}", "{python}", console_script="router", isolating_flag="-E"),
        ),
        (
            "#!/usr/bin/env -S X=1 python -I",
            Program("{path}", "{python}", console_script="router", isolating_flag="-I"),
        ),
        (
            """#!/bin/sh\n'''exec' "{python}" "$0" "$@"\n' '''""",
            Program("{path}", "{python}", console_script="router"),
        ),
        (
            """#!/bin/sh\n'''exec' {python} "$0" "$@"\n' '''""",
            Program("{path}", "{python}", console_script="router"),
        ),
        (
            "#!/bin/sh\n"
            """'''exec' "$(dirname -- "$(realpath -- "$0")")"/'python' "$0" "$@"\n' '''""",
            Program("{path}", "{python}", console_script="router"),
        ),
        ("#!/bin/sh", Program("{path}", script_of="sh")),
        ("\x7fELF", Program("{path}")),
    ],
)
def test_programs(tmp_path: Path, text: str, expected: Program) -> None:
    """The first lines of a program show what runs it, whichever installer wrote them."""
    folder = tmp_path.resolve()
    names = {"path": f"{folder}/router", "python": f"{folder}/python"}
    make_program(folder / "python", "")
    make_program(folder / "router", f"{text.format(**names)}\n")

    found = resolve(["router", "-m", "other"], str(folder))

    filled = {name: value.format(**names) for name, value in asdict(expected).items()}
    assert found == Program(**filled)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("-m my.router -I", {"module": "my.router"}),
        ("-um my.router", {"module": "my.router"}),
        ("-X dev -W error --check-hash-based-pycs never router.py -m x", {"file": "router.py"}),
        ("-IWerror -mrouter", {"module": "router", "isolating_flag": "-I"}),
        ("-Wignore::ImportWarning -m router", {"module": "router"}),
        ("-c pass -m x", {}),
        ("- -m x", {}),
        ("-m", {}),
        ("", {}),
    ],
)
def test_python_commands(arguments: str, expected: dict[str, str]) -> None:
    """Python's own arguments show what it runs, not those of the router."""
    found = resolve([sys.executable, *arguments.split()], None)

    assert found == Program(sys.executable, sys.executable, **expected)


@pytest.mark.parametrize(
    ("program", "warnings", "problems"),
    [
        (Program("/bin/router", "/bin/python", console_script="router"), [], []),
        (
            Program("/bin/router", "/bin/python", console_script="router", isolating_flag="-E"),
            [],
            [
                "/bin/router runs Python with -E, which disables opentelemetry-instrument: remove "
                "the flag"
            ],
        ),
        (
            Program("/bin/router", script_of="bash"),
            [
                "/bin/router is not a Python program, so the doctor examines its own environment; "
                "name the Python program that it starts"
            ],
            [],
        ),
    ],
)
def test_what_runs_it(program: Program, warnings: list[str], problems: list[str]) -> None:
    """Python must not ignore its variables, and a shell script may start any Python."""
    diagnosis = Diagnosis()

    goes_on = examine_program(diagnosis, ["router"], program)

    assert (goes_on, diagnosis.warnings, diagnosis.problems) == (True, warnings, problems)


@pytest.mark.parametrize(
    ("command", "native", "warnings", "goes_on"),
    [
        ("router --otel-endpoint=host:4317", "", [OWN_TRACING], True),
        ("router --otel-endpoint host:4317", "", [OWN_TRACING], True),
        ("router --otel-service-name x", "", [], True),
        ("router --port 1", "vllm_router_rs", [], False),
        ("router --mini-lb", "vllm_router_rs", [], True),
    ],
)
def test_options_of_a_router(command: str, native: str, warnings: list[str], goes_on: bool) -> None:
    """Some options of a router decide what is traced and whether it can be hooked."""
    found = facts(module="vllm_router.app", module_found=True, native=native)
    diagnosis = Diagnosis()
    diagnosis.begin("command")

    result = examine_runs(diagnosis, command.split(), Program("/bin/router", "/bin/python"), found)

    assert (result, diagnosis.warnings, not diagnosis.problems) == (goes_on, warnings, goes_on)


def test_missing_script(tmp_path: Path) -> None:
    """A Python file that does not exist is a problem."""
    file = str(tmp_path / "router.py")
    diagnosis = Diagnosis()
    diagnosis.begin("command")

    examine_runs(
        diagnosis, ["python", file], Program("/bin/python", "/bin/python", file=file), facts()
    )

    assert diagnosis.problems == [f"there is no file {file}"]


@pytest.mark.parametrize(
    ("instrumentation", "warnings"),
    [
        (
            "0.62b1",
            [
                "opentelemetry-instrumentation 0.62b1 does not instrument the worker processes of "
                "a router: /bin/python -m pip install --upgrade "
                "'opentelemetry-instrumentation>=0.63b0'"
            ],
        ),
        ("0.63b0", []),
        ("1.0", []),
    ],
)
def test_worker_processes(instrumentation: str, warnings: list[str]) -> None:
    """Old versions of the auto-instrumentation do not reach worker processes."""
    versions = {"otel-lifecycle": "1", "opentelemetry-instrumentation": instrumentation}
    diagnosis = Diagnosis()

    goes_on = examine_environment(diagnosis, facts(versions=versions))

    assert (goes_on, diagnosis.warnings) == (True, warnings)


def test_instrumentations() -> None:
    """An instrumentation that is disabled, in conflict or broken is named but not examined."""
    points = [
        EntryPoint("off", "otel_lifecycle.off:Off", ""),
        EntryPoint("old", "otel_lifecycle.old:Old", 'needs "router>=2"'),
        EntryPoint("torn", "otel_lifecycle.torn:Torn", ""),
        EntryPoint("absent", "otel_lifecycle.absent:Absent", ""),
        EntryPoint("works", "otel_lifecycle.works:Works", ""),
    ]
    hooks = {"json": ["loads", "JSONDecoder.decode"]}
    wanted = {
        "off": Wanted(hooks),
        "old": Wanted(hooks),
        "torn": Wanted({}, error="ImportError: no"),
        "absent": Wanted({"absent.routing": ["route"]}),
        "works": Wanted({**hooks, "json.moved.away": ["load"]}, serving=["json"]),
    }
    diagnosis = Diagnosis()

    examine_instrumentations(
        diagnosis,
        Interpreter(sys.executable, os.environ),
        facts(
            {"opentelemetry_instrumentor": points}, wanted=wanted, libraries={"json": "json 1.0"}
        ),
        {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "some, off"},
    )

    assert shown(diagnosis) == dedent(
        """\
        instrumentations
          off                             disabled (OTEL_PYTHON_DISABLED_INSTRUMENTATIONS)
          old                             in conflict: needs "router>=2"
          torn                            cannot be loaded: ImportError: no
          absent                          loads, but there is no absent
          works                           loads
            json                          json 1.0: loads, JSONDecoder.decode
            json.moved.away               json 1.0: there is no such module

        warnings
          - json 1.0 has no json.moved.away: the values it provides stay unknown

        this would work
        """
    )


@pytest.mark.parametrize(
    ("disabled", "problems"),
    [
        ("adds", []),
        (
            "asgi_router",
            [
                "adds can only add to the spans of asgi_router, which is disabled or finds nothing "
                "to hook"
            ],
        ),
        (
            "*",
            [
                "no instrumentation finds anything to hook: no known router library is installed, "
                "or the instrumentations are disabled"
            ],
        ),
    ],
)
def test_who_follows_requests(disabled: str, problems: list[str]) -> None:
    """One instrumentation must follow requests; one that only enriches is not enough."""
    points = [EntryPoint(name, f"otel_lifecycle:{name}", "") for name in ("asgi_router", "adds")]
    wanted = {
        "asgi_router": Wanted({"json": ["loads"]}, serving=["json"]),
        "adds": Wanted({"json": ["dumps"]}, enriches=True),
    }
    diagnosis = Diagnosis()

    examine_instrumentations(
        diagnosis,
        Interpreter(sys.executable, os.environ),
        facts({"opentelemetry_instrumentor": points}, wanted=wanted, libraries={"json": ""}),
        {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": disabled},
    )

    assert diagnosis.problems == problems


def test_clients_alone() -> None:
    """Hooks in the clients are not enough: requests must be followed where they come in."""
    points = [EntryPoint("asgi_router", "otel_lifecycle:asgi_router", "")]
    hooks = {"json": ["moved"], "http.client": ["HTTPConnection"]}
    wanted = {"asgi_router": Wanted(hooks, serving=["json"])}
    diagnosis = Diagnosis()

    examine_instrumentations(
        diagnosis,
        Interpreter(sys.executable, os.environ),
        facts(
            {"opentelemetry_instrumentor": points},
            wanted=wanted,
            libraries={"json": "", "http": ""},
        ),
        {},
    )

    assert len(diagnosis.problems) == 1


def test_hanging_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hanging import is killed, with the processes that it started."""
    pid = tmp_path / "pid"
    (tmp_path / "hanging.py").write_text(
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"with open({str(pid)!r}, 'w') as file:\n"
        "    file.write(str(child.pid))\n"
        "child.wait()\n"
    )

    class Hanging(subprocess.Popen[bytes]):
        """The time of the import is over once it hangs."""

        def communicate(
            self,
            input: bytes | None = None,  # noqa: A002
            timeout: float | None = None,
        ) -> tuple[bytes, bytes]:
            if timeout is not None:
                eventually(lambda: pid.exists() and pid.read_text())
                timeout = 0.0
            return super().communicate(input, timeout)

    patched = SimpleNamespace(**{**vars(subprocess), "Popen": Hanging})
    monkeypatch.setattr("otel_lifecycle.cli.doctor.interpreter.subprocess", patched)
    interpreter = Interpreter(sys.executable, {**os.environ, "PYTHONPATH": str(tmp_path)})

    hooks = interpreter.hooks({"hanging": ["route"]}, seconds=30)["hanging"]

    assert hooks == Hooks(error="no answer within 30 seconds")
    eventually(lambda: not runs(int(pid.read_text())))


def test_crashing_import(tmp_path: Path) -> None:
    """If an import ends its process, the last line of output is shown."""
    (tmp_path / "crashing.py").write_text(
        "import os, sys\nprint('no NPU', file=sys.stderr)\nos._exit(3)\n"
    )
    interpreter = Interpreter(sys.executable, {**os.environ, "PYTHONPATH": str(tmp_path)})

    assert interpreter.hooks({"crashing": ["route"], "json": ["loads", "lost"]}) == {
        "crashing": Hooks(error="exited with 3: no NPU"),
        "json": Hooks(missing=["lost"]),
    }


def test_not_instrumented_itself(tmp_path: Path) -> None:
    """The doctor's own processes are not instrumented."""
    folder = tmp_path / "opentelemetry" / "instrumentation" / "auto_instrumentation"
    folder.mkdir(parents=True)
    (folder / "sitecustomize.py").write_text("import json; del json.loads")
    interpreter = Interpreter(sys.executable, {**os.environ, "PYTHONPATH": str(folder)})

    assert interpreter.hooks({"json": ["loads"]}) == {"json": Hooks()}


@pytest.mark.parametrize(
    ("points", "environment", "expected", "warnings"),
    [
        (
            {"distro": ["std"], "configurator": ["std"]},
            {"OTEL_TRACES_EXPORTER": "console"},
            {**DISTRO, "OTEL_TRACES_EXPORTER": "console"},
            [],
        ),
        (
            {"distro": ["vendor"], "configurator": ["vendor", "std"]},
            {},
            {},
            [
                "there is more than one configurator: vendor is used, std will not be; set "
                "OTEL_PYTHON_CONFIGURATOR to choose another"
            ],
        ),
        (
            {"distro": ["vendor", "std"], "configurator": ["std"]},
            {"OTEL_PYTHON_DISTRO": "std"},
            {**DISTRO, "OTEL_PYTHON_DISTRO": "std"},
            [],
        ),
        (
            {"distro": ["std"], "configurator": ["std"]},
            {"OTEL_PYTHON_CONFIGURATOR": "vendor"},
            None,
            [NO_SDK],
        ),
        ({"distro": [], "configurator": []}, {}, None, [NO_SDK]),
        (
            {"distro": ["std"], "configurator": ["std"]},
            {"OTEL_SDK_DISABLED": "True"},
            None,
            ["OTEL_SDK_DISABLED=true: there are no spans and metrics"],
        ),
    ],
)
def test_sdk(
    points: dict[str, list[str]],
    environment: dict[str, str],
    expected: dict[str, str] | None,
    warnings: list[str],
) -> None:
    """The first or the named configurator sets up the SDK, after the distro's defaults."""
    values = {"std": "opentelemetry.distro:Std", "vendor": "vendor:Vendor"}
    groups = {
        f"opentelemetry_{kind}": [EntryPoint(name, values[name], "") for name in names]
        for kind, names in points.items()
    }
    diagnosis = Diagnosis()

    found = examine_sdk(diagnosis, facts(groups), environment)

    assert (found, diagnosis.warnings) == (expected, warnings)


def otlp(endpoint: str, **variables: str) -> dict[str, str]:
    """Return variables that export spans to an endpoint."""
    prefixed = {f"OTEL_EXPORTER_OTLP_{name}": value for name, value in variables.items()}
    return {
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        **prefixed,
    }


@pytest.mark.parametrize(
    ("environment", "line", "problems"),
    [
        ({"OTEL_TRACES_EXPORTER": "console"}, "console", []),
        (
            {"OTEL_TRACES_EXPORTER": "zipkin"},
            "zipkin, which is not installed",
            [
                "the exporter zipkin of spans is not installed, so the SDK cannot start and "
                "nothing is instrumented: install it"
            ],
        ),
        (
            otlp("", PROTOCOL="http/json"),
            "otlp, with an unknown protocol",
            [
                "the OTLP protocol 'http/json' is not one of grpc, http/protobuf, so the SDK "
                "cannot start and nothing is instrumented"
            ],
        ),
        (
            otlp(
                "http://127.0.0.1:{open}/base/",
                PROTOCOL="grpc",
                TRACES_PROTOCOL="http/protobuf",
            ),
            "otlp_proto_http to http://127.0.0.1:{open}/base/v1/traces: something listens there",
            [],
        ),
        (
            {
                **otlp("http://127.0.0.1:{open}", PROTOCOL="grpc"),
                "OTEL_TRACES_EXPORTER": "otlp_lifecycle",
            },
            "otlp_proto_grpc to http://127.0.0.1:{open}: something listens there",
            [],
        ),
        (
            otlp(
                "http://127.0.0.1:{closed}",
                PROTOCOL="http/protobuf",
                TRACES_ENDPOINT="https://127.0.0.1:{open}/in?key=secret",
            ),
            "otlp_proto_http to https://127.0.0.1:{open}/in?***, with TLS: something listens there",
            [],
        ),
        (
            otlp("127.0.0.1:{open}", PROTOCOL="http/protobuf"),
            "otlp_proto_http to 127.0.0.1:{open}/v1/traces",
            ["the OTLP endpoint 127.0.0.1:{open}/v1/traces must start with http:// or https://"],
        ),
        (
            otlp("127.0.0.1:{open}"),
            "otlp_proto_grpc to 127.0.0.1:{open}, with TLS: something listens there",
            [],
        ),
        (
            otlp("127.0.0.1:{open}", INSECURE="true"),
            "otlp_proto_grpc to 127.0.0.1:{open}: something listens there",
            [],
        ),
        (
            otlp("unix:///run/otel"),
            "otlp_proto_grpc to unix:///run/otel, with TLS: not tried",
            [],
        ),
        (
            otlp("http://user:password@[::1:4317"),
            "otlp_proto_grpc to http://***@[::1:4317",
            ["the OTLP endpoint http://***@[::1:4317 is not a valid URL"],
        ),
        (
            otlp("http://host:port"),
            "otlp_proto_grpc to http://host:port",
            ["the OTLP endpoint http://host:port is not a valid URL"],
        ),
        (
            otlp("http://127.0.0.1:{closed}"),
            "otlp_proto_grpc to http://127.0.0.1:{closed}: nothing listens there (Connection "
            "refused)",
            [
                "127.0.0.1:{closed} accepts no spans (Connection refused): start a collector "
                "there, set OTEL_EXPORTER_OTLP_ENDPOINT, or export nothing "
                "(OTEL_TRACES_EXPORTER=none, OTEL_METRICS_EXPORTER=none)"
            ],
        ),
    ],
)
def test_spans(
    environment: dict[str, str],
    line: str,
    problems: list[str],
    ports: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exporter, protocol, endpoint and encryption are shown as the SDK sees them."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    filled = {name: value.format(**ports) for name, value in environment.items()}
    diagnosis = Diagnosis()

    exported = examine_destinations(diagnosis, facts(), filled)

    assert exported
    assert sections(shown(diagnosis))["destinations"] == words(
        f"spans {line.format(**ports)}",
        "metrics not exported (OTEL_METRICS_EXPORTER)",
        "sampler parentbased_always_on (default)",
        "service name unknown_service (set OTEL_SERVICE_NAME)",
    )
    assert diagnosis.problems == [problem.format(**ports) for problem in problems]


def test_several_exporters(ports: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each exporter of each signal is named; an unreachable address is one problem."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    base = f"http://127.0.0.1:{ports['closed']}"
    environment = {
        "OTEL_TRACES_EXPORTER": "console, otlp",
        "OTEL_METRICS_EXPORTER": "otlp_proto_http",
        "OTEL_EXPORTER_OTLP_ENDPOINT": base,
        "OTEL_RESOURCE_ATTRIBUTES": "zone=a,service.name=router",
    }
    diagnosis = Diagnosis()

    examine_destinations(diagnosis, facts(), environment)

    refused = "nothing listens there (Connection refused)"
    assert sections(shown(diagnosis))["destinations"] == words(
        "spans console",
        f"spans otlp_proto_grpc to {base}: {refused}",
        f"metrics otlp_proto_http to {base}/v1/metrics: {refused}",
        "sampler parentbased_always_on (default)",
        "service name router (OTEL_RESOURCE_ATTRIBUTES)",
    )
    assert len(diagnosis.problems) == 1


def test_nothing_exported() -> None:
    """Without an exporter, or with `none`, nothing is exported."""
    diagnosis = Diagnosis()

    exported = examine_destinations(diagnosis, facts(), {"OTEL_TRACES_EXPORTER": " None"})

    assert (exported, diagnosis.problems) == (False, [])


def test_behind_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a proxy the endpoint is not tried, and the proxy and its password are not shown."""
    monkeypatch.setenv("http_proxy", "http://user:password@proxy:3128")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")
    diagnosis = Diagnosis()

    examine_destinations(diagnosis, facts(), otlp("http://collector.invalid:4317"))

    assert (
        sections(shown(diagnosis))["destinations"]
        .removeprefix("spans otlp_proto_grpc to http://collector.invalid:4317: ")
        .startswith("not tried, because of a proxy metrics ")
    )
    assert diagnosis.problems == []


def test_declarative_configuration() -> None:
    """With a configuration file of the SDK the variables are ignored."""
    diagnosis = Diagnosis()
    environment = {"OTEL_CONFIG_FILE": "otel.yaml", "OTEL_TRACES_EXPORTER": "zipkin"}

    exported = examine_destinations(diagnosis, facts(), environment)

    assert (exported, sections(shown(diagnosis))["destinations"], diagnosis.problems) == (
        True,
        "declarative configuration otel.yaml decides (OTEL_CONFIG_FILE)",
        [],
    )


@pytest.mark.parametrize(
    ("name", "state", "writable"),
    [
        ("records.jsonl", "can be written", True),
        ("new/records.jsonl", "does not exist yet; its folder can be written", True),
        ("", "it is a folder", False),
        ("text", "it is not a record file: its last line is not a record", False),
        ("link", "it is a symbolic link", False),
        ("pipe", "it is not a regular file", False),
        ("records.jsonl/more.jsonl", "{folder}/records.jsonl is not a folder", False),
        ("~nobody-of-that-name/records.jsonl", "Could not determine home directory.", False),
    ],
)
def test_record_file(tmp_path: Path, name: str, state: str, writable: bool) -> None:
    """The record file and its folder are examined without changing them."""
    (tmp_path / "records.jsonl").write_bytes(lines("as it was"))
    (tmp_path / "text").write_text("as it was")
    (tmp_path / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    before = looks(tmp_path)
    diagnosis = Diagnosis()
    path = name if name.startswith("~") else f"{tmp_path}/{name}"

    examine_record_file(diagnosis, PersistenceConfig(enabled=True, output_path=path))

    state = state.format(folder=tmp_path)
    assert sections(shown(diagnosis))["record file"].endswith(f" state {state}")
    assert len(diagnosis.problems) == (not writable)
    assert looks(tmp_path) == before


def looks(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return mode, size and last change of each file."""
    files = {file.name: file.lstat() for file in folder.iterdir()}
    return {name: (it.st_mode, it.st_size, it.st_mtime_ns) for name, it in files.items()}


def test_width() -> None:
    """Lines have at most 100 columns, unless a single word is longer, and no trailing spaces."""
    diagnosis = Diagnosis()
    diagnosis.begin("instrumentations")
    diagnosis.fact("  vllm_router.services.request_service.request", "found, " * 8 + "Router.route")
    diagnosis.warn("a_word_of_many_letters " * 3 + "x" * 120)
    diagnosis.problem("\x1b[31mred")

    assert shown(diagnosis) == dedent(
        f"""\
        instrumentations
            vllm_router.services.request_service.request
                                          found, found, found, found, found, found, found, found,
                                          Router.route

        warnings
          - a_word_of_many_letters a_word_of_many_letters a_word_of_many_letters
            {"x" * 120}

        problems
          - \\u001b[31mred

        1 problem to solve
        """
    )


@pytest.mark.parametrize(
    "name", ["PREDICTION_URL", "PREDICTION_TRAINING_URL", "COLLECTION_TARGETS"]
)
def test_settings_with_secrets(name: str) -> None:
    """Settings are shown without their secrets."""
    diagnosis = Diagnosis()
    variable = f"OTEL_LIFECYCLE_{name}"
    examine_settings(diagnosis, {variable: "http://127.0.0.1:1/a?token=secret#secret"})

    assert "http://127.0.0.1:1/a?***" in shown(diagnosis)
    assert "secret" not in shown(diagnosis)


def test_refused_setting_with_secrets() -> None:
    """The reason for refusing a setting shows no secrets either."""
    diagnosis = Diagnosis()
    environment = {"OTEL_LIFECYCLE_PREDICTION_URL": "http://user:secret@engine:port/?secret"}

    assert examine_settings(diagnosis, environment) is None
    assert "secret" not in shown(diagnosis)


def test_a_missing_model(tmp_path: Path) -> None:
    """A model that is not there is told before the router runs without predictions."""
    model = tmp_path / "model.json"
    environment = {"OTEL_LIFECYCLE_PREDICTION_MODEL": str(model)}
    before, after = Diagnosis(), Diagnosis()
    examine_settings(before, environment)
    model.touch()
    examine_settings(after, environment)

    (warning,) = before.warnings
    assert warning.startswith("prediction.model: ")
    assert str(model) in warning
    assert after.warnings == []


def test_a_model_of_nobody() -> None:
    """A home folder that cannot be found is a warning like any other."""
    diagnosis = Diagnosis()
    examine_settings(diagnosis, {"OTEL_LIFECYCLE_PREDICTION_MODEL": "~nobody-of-this-name/model"})

    (warning,) = diagnosis.warnings
    assert warning.startswith("prediction.model: ")
