"""Other programs' files are never changed, even if an output path leads to them."""

from __future__ import annotations

import gzip
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_lifecycle import ConfigError, RequestLifecycleTracker
from otel_lifecycle.records.names import segment_of
from otel_lifecycle.records.ownership import ForeignFile
from otel_lifecycle.records.segment import Segment
from tests.records.helpers import numbered, open_descriptors, recorded, serve
from tests.records.segments import append, closed, lines
from tests.waiting import eventually

MakeTracker = Callable[..., RequestLifecycleTracker]

_KEY = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPjVmBeCzyZ operator@host"
_NOBODY = 65_534
_FOREIGN = {
    "text without a line end": _KEY + b"\n" + _KEY,
    "one line without an end": _KEY,
    "text": _KEY + b"\n",
    "text behind a record": lines("a") + _KEY,
    "lines behind a record": lines("a") + _KEY + b"\n",
    "torn behind text": _KEY + b"\n" + lines("a")[:40],
    "JSON": b'{"version":1}\n',
    "JSON of a like beginning": b'{"schemaVersion":3,"services":[]}',
    "no version": b'{"requestId":"a"}\n',
    "zeros": bytes(4096),
    "binary": b"\x7fELF\x02\x01\x01",
    "an endless line": b"x" * (17 << 20),
}


@pytest.mark.parametrize("content", _FOREIGN.values(), ids=_FOREIGN)
@pytest.mark.parametrize("rotate_bytes", [0, 1])
def test_other_content(
    make_tracker: MakeTracker, path: Path, content: bytes, rotate_bytes: int
) -> None:
    """A file with other content than records is refused and left unchanged."""
    append(path, content)
    path.chmod(0o644)
    with pytest.raises(ConfigError) as refusal:
        make_tracker(path, rotate_bytes=rotate_bytes)

    refused = f"persistence.outputPath {str(path)!r} cannot be written"
    beginning = f"{refused}: {path} is not a record file:"
    assert str(refusal.value).startswith(beginning)
    assert content == path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o644
    assert [path] == list(path.parent.iterdir())
    assert open_descriptors(path) == 0


_LINE = lines("a")


@given(
    head=st.sampled_from([b"", _LINE, 2 * _LINE, _KEY + b"\n"]),
    begun=st.integers(0, len(_LINE)),
    junk=st.binary(max_size=20) | st.just(bytes(20)),
)
def test_only_a_torn_record_is_cut(
    tmp_path_factory: pytest.TempPathFactory, head: bytes, begun: int, junk: bytes
) -> None:
    """Any file is left unchanged, or loses only one torn record after a complete one."""
    path = tmp_path_factory.mktemp("file") / "records.jsonl"
    before = head + _LINE[:begun] + junk
    path.write_bytes(before)
    try:
        Segment(path).close()
    except ForeignFile:
        assert path.read_bytes() == before
        return
    after = path.read_bytes()
    assert not after or after.endswith(_LINE)
    if after != before + b"\n":
        cut = before.removeprefix(after)
        assert len(cut) == len(before) - len(after)
        assert b"\n" not in cut
        torn = cut.rstrip(b"\0")[:17]
        assert torn == _LINE[: len(torn)]
        assert torn or after or not before


@pytest.mark.parametrize(
    "content", [_KEY, lines("a"), b"", None], ids=["text", "records", "empty", "dangling"]
)
def test_link(make_tracker: MakeTracker, path: Path, content: bytes | None) -> None:
    """A link at the end of the path is not followed, wherever it leads."""
    target = path.with_name("target")
    path.parent.mkdir()
    if content is not None:
        target.write_bytes(content)
    path.symlink_to(target)
    with pytest.raises(ConfigError, match=f"cannot be written: {path} is a symbolic link"):
        make_tracker(path)

    assert content == (target.read_bytes() if target.exists() else None)
    assert path.is_symlink()


def test_linked_folder(make_tracker: MakeTracker, tmp_path: Path) -> None:
    """The folder may be a link."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    tracker = make_tracker(tmp_path / "link" / "records.jsonl", rotate_bytes=1)
    serve(tracker, "a", "b")
    tracker.close()
    assert recorded(tmp_path / "disk") == ["a", "b"]


def _make_pipe(path: Path) -> None:
    os.mkfifo(path)


def _make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        folder = os.open(path.parent, os.O_RDONLY)  # its own path may be too long
        try:
            listener.bind(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_make_pipe, "is not a regular file"),
        (_make_socket, "is not a regular file"),
        (Path.mkdir, "Is a directory"),
    ],
)
def test_no_regular_file(
    make_tracker: MakeTracker, path: Path, make: Callable[[Path], None], reason: str
) -> None:
    """Anything but a regular file is refused without waiting."""
    path.parent.mkdir()
    make(path)
    with pytest.raises(ConfigError, match=reason):
        make_tracker(path, rotate_bytes=1, retain_segments=1)
    assert [path] == list(path.parent.iterdir())


@pytest.mark.parametrize("device", ["/dev/null", "/dev/full", "/dev/tty"])
def test_device(make_tracker: MakeTracker, device: str) -> None:
    """A device is refused."""
    with pytest.raises(ConfigError, match="cannot be written"):
        make_tracker(device)


def _put_text(path: Path) -> None:
    path.write_bytes(_KEY)


def _put_link(path: Path) -> None:
    target = path.with_name("target")
    target.write_bytes(_KEY)
    path.symlink_to(target)


@pytest.mark.parametrize("put", [_put_text, _put_link, _make_pipe, Path.mkdir])
def test_in_the_place_of_ours(
    make_tracker: MakeTracker,
    path: Path,
    caplog: pytest.LogCaptureFixture,
    put: Callable[[Path], None],
) -> None:
    """A file that replaces ours is left alone: records wait, and one line has the reason."""
    tracker = make_tracker(path)
    serve(tracker, "a")
    assert tracker.flush()
    ours = path.rename(path.with_name("moved.jsonl"))
    put(path)
    before = os.lstat(path)
    serve(tracker, "b")
    for _ in range(3):
        assert not tracker.flush()
    assert (before.st_size, before.st_mtime_ns) == (os.lstat(path).st_size, before.st_mtime_ns)
    (message,) = caplog.messages
    assert message.startswith(f"{path}: cannot write 1 records, keeping them queued:")
    # While another attempt looks at the file, it is open.
    eventually(lambda: open_descriptors(path) == open_descriptors(ours) == 0)

    shutil.rmtree(path) if path.is_dir() else path.unlink()
    eventually(tracker.flush)
    assert (recorded(ours), recorded(path)) == (["a"], ["b"])
    assert not path.with_name("target").exists() or path.with_name("target").read_bytes() == _KEY


@pytest.mark.parametrize("content", [b"", lines("a")], ids=["empty", "records"])
@pytest.mark.parametrize("mode", [0o644, 0o660, 0o666])
def test_readable_by_others(
    make_tracker: MakeTracker, path: Path, content: bytes, mode: int
) -> None:
    """The mode of our own record file is changed if others may read it."""
    append(path, content)
    path.chmod(mode)
    make_tracker(path).close()
    assert path.stat().st_mode & 0o777 == 0o600
    assert content == path.read_bytes()


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away takes root")
@pytest.mark.parametrize(("mode", "refused"), [(0o644, True), (0o640, True), (0o600, False)])
def test_of_another_user(make_tracker: MakeTracker, path: Path, mode: int, refused: bool) -> None:
    """Another user's record file that others may read is refused and left unchanged."""
    append(path, lines("a"))
    path.chmod(mode)
    os.chown(path, _NOBODY, _NOBODY)
    if refused:
        with pytest.raises(ConfigError, match=f"{path} belongs to another user"):
            make_tracker(path)
    else:
        make_tracker(path).close()
    assert path.stat().st_mode & 0o777 == mode
    assert lines("a") == path.read_bytes()


def test_housekeeping(make_tracker: MakeTracker, path: Path) -> None:
    """Files with our names and other content are neither compressed nor deleted."""
    folder = path.parent
    folder.mkdir()
    text, linked, gzipped, half = (closed(path, number) for number in (1, 2, 3, 4))
    secret = folder / "secret"
    secret.write_bytes(_KEY)
    text.write_bytes(_KEY)
    linked.symlink_to(secret)
    gzipped = gzipped.with_name(f"{gzipped.name}.gz")
    gzipped.write_bytes(gzip.compress(_KEY))
    half = half.with_name(f"{half.name}.gz.tmp")
    half.write_bytes(_KEY)
    os.mkfifo(pipe := closed(path, 5))
    closed(path, 6).mkdir()
    kept = {text: _KEY, secret: _KEY, gzipped: gzipped.read_bytes(), half: _KEY}

    tracker = make_tracker(path, rotate_bytes=1, retain_segments=1, compression="gzip")
    serve(tracker, *numbered("request", 5))
    assert tracker.flush()
    eventually(lambda: [path.suffix for path in _segments_after(folder, 6)] == [".gz"])

    assert kept == {file: file.read_bytes() for file in kept}
    assert linked.is_symlink()
    assert pipe.is_fifo()
    assert closed(path, 6).is_dir()


def _segments_after(folder: Path, number: int) -> list[Path]:
    keys = {path: segment[1] for path in folder.iterdir() if (segment := segment_of(path))}
    return [path for path, key in keys.items() if key.number > number]


@pytest.mark.parametrize("name", ["{segment}.gz.tmp", "{segment}.gz"])
@pytest.mark.parametrize("link", [False, True], ids=["file", "link"])
def test_in_the_way_of_compression(
    make_tracker: MakeTracker, path: Path, tmp_path: Path, name: str, link: bool
) -> None:
    """A file in the place of a compressed segment is not written to; the segment stays."""
    append(closed(path, 1), lines("a"))
    other = path.with_name(name.format(segment=closed(path, 1).name))
    target = tmp_path / "target"
    if link:
        other.symlink_to(target)
        target.write_bytes(_KEY)
    else:
        other.write_bytes(_KEY)
    tracker = make_tracker(path, rotate_bytes=1, compression="gzip")
    serve(tracker, "b", "c")
    assert tracker.flush()
    eventually(lambda: list(path.parent.glob("*.000002.jsonl.gz")))

    assert other.read_bytes() == _KEY
    assert other.is_symlink() == link
    assert lines("a") == closed(path, 1).read_bytes()


def test_not_left_behind_by_us(make_tracker: MakeTracker, tmp_path: Path) -> None:
    """An old file named like one of our processes is closed only if it has records."""
    ours, text, link = (tmp_path / f"records-{number}.jsonl" for number in (1, 2, 3))
    append(ours, lines("a"))
    text.write_bytes(_KEY)
    (tmp_path / "target").write_bytes(_KEY)
    link.symlink_to(tmp_path / "target")
    for file in (ours, text, tmp_path / "target"):
        os.utime(file, (0, 0))
    make_tracker(tmp_path / "records-{pid}.jsonl", rotate_bytes=1 << 20)
    eventually(lambda: not ours.exists())

    assert text.read_bytes() == (tmp_path / "target").read_bytes() == _KEY
    assert link.is_symlink()
