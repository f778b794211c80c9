"""`otel-lifecycle ship`."""

from __future__ import annotations

import errno
import fcntl
import itertools
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from otel_lifecycle.cli import main
from otel_lifecycle.records import Follower, Position
from otel_lifecycle.records.shipping import Checkpoint
from tests.cli.command import Command
from tests.records.segments import append
from tests.records.shipping.collectors import GRPC, HTTP_PROTOBUF, Collector
from tests.records.shipping.hostile import Server
from tests.records.shipping.records import traced
from tests.waiting import eventually
from tests.wording import NOT_AN_OBJECT, TRUNCATED, missing, refusal, unknown


@pytest.fixture(autouse=True)
def process_as_it_was() -> Iterator[None]:
    """Restore signals and the exporters' log, which a command changes in this process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    exporters = logging.getLogger("opentelemetry.exporter")
    level = exporters.level
    yield
    exporters.setLevel(level)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_once(tmp_path: Path, start: Callable[..., Command]) -> None:
    """Everything is sent as the standard variables say; an invalid line makes it exit with 1."""
    path = tmp_path / "records.jsonl"
    append(path, traced("a") + b"[]\n" + traced("b", trace_flags=0) + b"{")
    with Collector(HTTP_PROTOBUF) as collector:
        environment = {
            **collector.environment,
            "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20token",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        }
        command = start(
            "ship", "--once", "--checkpoint", tmp_path / "c", path, environment=environment
        )
        code, output, error = command.wait()

    assert collector.request_ids == ["a"]
    assert collector.authorization == "Bearer token"
    assert collector.spans[0]["resource"]["deployment.environment.name"] == "test"
    assert (code, output) == (1, "")
    assert error == (
        f"otel-lifecycle: {path}:2: {NOT_AN_OBJECT}\n"
        f"otel-lifecycle: {path}:4: skipped, the line has no end yet\n"
        "otel-lifecycle: 1 span sent, 0 refused; skipped: 1 not sampled, 0 not traced, 1 problem\n"
    )


def test_one_bad_path_of_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing path is named, the others are sent, and its position is not forgotten."""
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    ship_once = ["ship", "--once", "--checkpoint", str(tmp_path / "c"), *map(str, paths)]
    with Collector(HTTP_PROTOBUF) as collector:
        for variable, value in collector.environment.items():
            monkeypatch.setenv(variable, value)
        append(paths[0], traced("a"))
        append(paths[1], traced("b"))
        assert main(ship_once) == 0
        paths[0].rename(tmp_path / "away")
        append(paths[1], traced("c"))
        capsys.readouterr()
        code, said = main(ship_once), capsys.readouterr().err
        (tmp_path / "away").rename(paths[0])
        assert main(ship_once) == 0

    assert collector.request_ids == ["a", "b", "c"]
    assert code == 1
    assert said == (
        f"otel-lifecycle: {paths[0]}: No such file or directory\n"
        "otel-lifecycle: 1 span sent, 0 refused; skipped: 0 not sampled, 0 not traced, "
        "0 problems\n"
    )


@pytest.mark.parametrize("name", ["../records/r.jsonl", "../records", "."])
def test_path_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """A checkpoint covers the same files, however their paths are written."""
    append(tmp_path / "records" / "r.jsonl", traced("a"))
    monkeypatch.chdir(tmp_path / "records")
    with Collector(HTTP_PROTOBUF) as collector:
        for variable, value in collector.environment.items():
            monkeypatch.setenv(variable, value)
        for path in (name, tmp_path / "records" / "r.jsonl", name):
            ship_once = ["ship", "--once", "--checkpoint", "../c", str(path)]
            assert (main(ship_once), capsys.readouterr().out) == (0, "")

    assert collector.request_ids == ["a"]


@pytest.mark.parametrize("protocol", [GRPC, HTTP_PROTOBUF])
@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9000\r\n\r\n"])
def test_told_to_end(
    tmp_path: Path, start: Callable[..., Command], protocol: str, said: bytes
) -> None:
    """It ends when told to, even if a collector hangs; unanswered spans stay unmarked."""
    path, checkpoint = tmp_path / "records.jsonl", tmp_path / "c"
    append(path, traced("a"))

    def answer(server: Server, connection: socket.socket) -> None:
        connection.sendall(said)
        server.dribble(connection, bytes(8000))

    with Server(answer) as hanging:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{hanging.port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_TIMEOUT": "600",
        }
        arguments = ["ship", "--once", "--checkpoint", checkpoint, path]
        command = start(*arguments, environment=environment)
        eventually(lambda: hanging.connections)
        for number in itertools.cycle([signal.SIGTERM, signal.SIGINT]):
            if command.process.poll() is not None:
                break
            command.process.send_signal(number)  # repeated signals change nothing
            time.sleep(0.01)
        code, _, error = command.wait()

    assert code == 1  # not everything
    assert error.splitlines()[-1].startswith("otel-lifecycle: 0 spans sent,")
    with Checkpoint(checkpoint) as opened:
        assert opened.load([path]) == Position()


def test_follow(tmp_path: Path, start: Callable[..., Command]) -> None:
    """It waits for new files and records; the next run continues where it stopped."""
    folder = tmp_path / "records"
    with Collector(HTTP_PROTOBUF) as collector:
        command = start(
            "ship", "--checkpoint", tmp_path / "c", folder, environment=collector.environment
        )
        append(folder / "records.jsonl", traced("a"))
        eventually(lambda: collector.request_ids == ["a"])
        append(folder / "records.jsonl", traced("b"))
        eventually(lambda: collector.request_ids == ["a", "b"])
        with Follower(folder) as follower:
            follower.poll()
            position = follower.position
        # The collector has the spans before it says so.
        eventually(lambda: position.to_json() in (tmp_path / "c").read_bytes())
        command.process.send_signal(signal.SIGINT)

        assert command.wait()[0] == 0
    with Checkpoint(tmp_path / "c") as opened:
        assert opened.load([folder]) == position


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Return the error of a command that cannot start."""
    code = main(["ship", *map(str, arguments)])
    output = capsys.readouterr()
    assert (code, output.out) == (2, "")
    return output.err.removeprefix("otel-lifecycle: ").removesuffix("\n")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", f"not a checkpoint: {TRUNCATED}"),
        ("{}", f"not a checkpoint: {missing('version')}"),
        (traced("a").decode(), f"not a checkpoint: {unknown('schemaVersion')}"),
        (
            '{"version": 2, "position": {}}',
            "not a checkpoint: its version is 2, not 1",
        ),
        (
            '{"version": 1, "position": {"files": {"/r": {"closed": "x"}}}}',
            "not a checkpoint: not a position: 'x' does not name a segment",
        ),
        (
            '{"version": 1, "position": {"bananas": {}}}',
            f"not a checkpoint: not a position: {unknown('bananas')}",
        ),
        (
            '{"version": 1, "position": {"files": {"/r": {"offset": -5}}}}',
            "not a checkpoint: not a position: "
            + refusal('{"files": {"/r": {"offset": -5}}}', Position),
        ),
        (
            '{"version": 1, "position": {"files": {"/elsewhere/r.jsonl": {}}}}',
            "the checkpoint covers /elsewhere/r.jsonl, which is not among the paths",
        ),
    ],
)
def test_checkpoint_that_does_not_match(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, reason: str
) -> None:
    """An invalid checkpoint, or one of other files, is named and left unchanged."""
    path = tmp_path / "checkpoint"
    path.write_text(content)

    assert refused(capsys, "--checkpoint", path, tmp_path / "r.jsonl") == f"{path}: {reason}"
    assert path.read_text() == content


def test_checkpoint_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two processes do not share a checkpoint."""
    path = tmp_path / "checkpoint"
    with Checkpoint(path):
        said = refused(capsys, "--checkpoint", path, tmp_path / "r.jsonl")

    assert said == f"{path}: another process ships with it"


def test_links_are_not_followed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files in place of the checkpoint's own are replaced or refused, never written to."""
    path, victim = tmp_path / "checkpoint", tmp_path / "victim"
    victim.write_text("precious")
    append(tmp_path / "r.jsonl", traced("a"))
    path.with_name("checkpoint.tmp").symlink_to(victim)
    with Collector(HTTP_PROTOBUF) as collector:
        for variable, value in collector.environment.items():
            monkeypatch.setenv(variable, value)
        ship_once = ["ship", "--once", "--checkpoint", str(path), str(tmp_path / "r.jsonl")]
        assert main(ship_once) == 0
        path.with_name("checkpoint.tmp").write_text("left by a process that was killed")
        assert main(ship_once) == 0
    capsys.readouterr()
    lock = path.with_name("checkpoint.lock")
    lock.unlink()
    lock.symlink_to(victim)

    assert refused(capsys, "--checkpoint", path, tmp_path / "r.jsonl").startswith(f"{lock}: ")
    assert victim.read_text() == "precious"
    assert collector.request_ids == ["a"]


def test_pipe_as_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pipe as checkpoint is refused without waiting."""
    os.mkfifo(tmp_path / "c")

    said = refused(capsys, "--checkpoint", tmp_path / "c", tmp_path / "r.jsonl")

    assert said == f"{tmp_path / 'c'}: not a checkpoint: not a regular file"


def test_no_locks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system without locks is not mistaken for a second process."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)

    said = refused(capsys, "--checkpoint", tmp_path / "c", tmp_path / "r.jsonl")

    assert said == f"{tmp_path / 'c'}: No locks available"


def test_checkpoint_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint that cannot be written is reported before anything is sent."""
    path = tmp_path / "missing" / "checkpoint"

    said = refused(capsys, "--checkpoint", path, tmp_path / "r.jsonl")

    assert said == f"{path}: there is no folder {path.parent}"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
            "http/json",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: must be grpc or http/protobuf, got 'http/json'",
        ),
        (
            "OTEL_EXPORTER_OTLP_TIMEOUT",
            "soon",
            "OTEL_EXPORTER_OTLP_*: could not convert string to float: 'soon'",
        ),
        (
            "OTEL_EXPORTER_OTLP_COMPRESSION",
            "zip",
            'OTEL_EXPORTER_OTLP_*: Invalid value "zip" for compression envvar '
            "OTEL_EXPORTER_OTLP_COMPRESSION",
        ),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "localhost:4318",
            "OTEL_EXPORTER_OTLP_ENDPOINT: must be a URL with http:// or https://, got "
            "'localhost:4318'",
        ),
        (
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "http://[::1/v1/traces",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: must be a URL with http:// or https://, got "
            "'http://[::1/v1/traces'",
        ),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "ftp://user:secret@collector:4318/v1?token=secret",
            "OTEL_EXPORTER_OTLP_ENDPOINT: must be a URL with http:// or https://, got "
            "'ftp://collector:4318/v1'",
        ),
    ],
)
def test_wrong_variables(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    said: str,
) -> None:
    """An invalid variable ends it at once."""
    if name.endswith("ENDPOINT"):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", HTTP_PROTOBUF)
    monkeypatch.setenv(name, value)

    assert refused(capsys, "--checkpoint", tmp_path / "c", tmp_path / "r.jsonl") == said


def test_header_that_is_not_valid(tmp_path: Path, start: Callable[..., Command]) -> None:
    """An invalid header is reported without its value."""
    append(tmp_path / "r.jsonl", traced("a"))
    with Collector(HTTP_PROTOBUF) as collector:
        environment = {**collector.environment, "OTEL_EXPORTER_OTLP_HEADERS": "k3y-of-mine"}
        command = start(
            "ship",
            "--once",
            "--checkpoint",
            tmp_path / "c",
            tmp_path / "r.jsonl",
            environment=environment,
        )
        code, _, error = command.wait()

    assert (code, collector.request_ids) == (0, ["a"])
    assert "eader" in error
    assert "k3y-of-mine" not in error


def test_nothing_to_ship(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing file is an error, unless the command waits for new ones."""
    path = tmp_path / "missing.jsonl"

    said = refused(capsys, "--once", "--checkpoint", tmp_path / "c", path)

    assert said == f"{path}: No such file or directory"
