"""`Follower`, when files lose their names: each record once, and losses are reported."""

from __future__ import annotations

import fcntl
import gzip
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from otel_lifecycle.records import Follower, Position, cursor, follower
from tests.records.helpers import open_below
from tests.records.segments import append, closed, compress, lines
from tests.records.test_follower import found


@pytest.fixture
def follow() -> Iterator[Callable[..., Follower]]:
    """Make followers that are closed when the test ends."""
    followers: list[Follower] = []

    def follow(*paths: Path, position: Position | None = None) -> Follower:
        followers.append(Follower(*paths, position=position))
        return followers[-1]

    yield follow
    for each in followers:
        each.close()


Follow = Callable[..., Follower]


def moved_away(path: Path) -> None:
    """Move the file out of the followed folder."""
    path.rename(path.parent.with_name("elsewhere"))


def renamed_beside(path: Path) -> None:
    """Rename the file as logrotate does, to a name that is not followed."""
    path.rename(path.with_name(f"{path.name}.1"))


AWAY = pytest.mark.parametrize("lose_name", [Path.unlink, moved_away, renamed_beside])


def given(path: Path) -> Path:
    return path


FILE_OR_FOLDER = pytest.mark.parametrize(
    "named", [given, lambda path: path.parent], ids=["file", "folder"]
)


@AWAY
@FILE_OR_FOLDER
def test_written_before_the_name_is_gone(
    path: Path, follow: Follow, lose_name: Callable[[Path], None], named: Callable[[Path], Path]
) -> None:
    """Records written after the last poll are found although the file has no name."""
    append(path, lines("a"))
    followed = follow(named(path))
    assert found(followed.poll()) == (["a"], [])
    append(path, lines("b", "c"))
    lose_name(path)

    assert found(followed.poll()) == (["b", "c"], [])
    append(path, lines("d"))
    assert found(followed.poll()) == (["d"], [])


@AWAY
@FILE_OR_FOLDER
def test_written_after_the_name_is_gone(
    path: Path, follow: Follow, lose_name: Callable[[Path], None], named: Callable[[Path], Path]
) -> None:
    """A file is read until its writer has moved on to another."""
    append(path, lines("a"))
    followed = follow(named(path))
    followed.poll()
    with path.open("ab", buffering=0) as writer:
        lose_name(path)
        assert found(followed.poll()) == ([], [])
        writer.write(lines("b"))
        assert found(followed.poll()) == (["b"], [])
        path.touch()  # created, but not written yet
        assert found(followed.poll()) == ([], [])
        writer.write(lines("c"))
        append(path, lines("d"))

        assert found(followed.poll()) == (["c", "d"], [])
        assert found(followed.poll()) == ([], [])


def test_writer_at_work(path: Path, follow: Follow) -> None:
    """While a writer holds the lock of a renamed file, more records may follow."""
    append(path, lines("a"))
    followed = follow(path)
    followed.poll()
    with path.open("ab", buffering=0) as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        path.unlink()
        append(path, lines("c"))
        assert found(followed.poll()) == ([], [])
        writer.write(lines("b"))
        assert found(followed.poll()) == (["b"], [])

    assert found(followed.poll()) == (["c"], [])


def test_half_line_at_the_end(path: Path, follow: Follow) -> None:
    """An unfinished last line that its writer has left is reported once."""
    append(path, lines("a") + lines("b")[:-5])
    followed = follow(path)
    assert found(followed.poll()) == (["a"], [])
    path.unlink()
    assert found(followed.poll()) == ([], [])
    append(path, lines("c"))

    assert found(followed.poll()) == (["c"], [f"{path}:2: the line has no end"])
    assert found(followed.poll()) == ([], [])


@pytest.mark.parametrize("more", [b"", lines("b")[:-5]])
def test_deleted_for_good(
    path: Path, follow: Follow, monkeypatch: pytest.MonkeyPatch, more: bytes
) -> None:
    """A deleted file without a successor is closed after a while, which frees disk space."""
    append(path, lines("a") + more)
    followed = follow(path.parent)
    followed.poll()
    path.unlink()
    assert found(followed.poll()) == ([], [])
    assert open_below(path.parent) == 1
    monkeypatch.setattr(cursor, "_DELETED_SECONDS", 0.0)
    followed.poll()

    problems = [f"{path}:2: the line has no end"] if more else []
    assert found(followed.poll()) == ([], problems)
    assert open_below(path.parent) == 0
    assert followed.position.files == {}


@pytest.mark.parametrize("store", [given, compress], ids=["plain", "compressed"])
def test_segment_of_the_open_file(
    path: Path, follow: Follow, store: Callable[[Path], Path]
) -> None:
    """An open file that is closed as a segment is neither read twice nor missed."""
    followed = follow(path)
    for number, name in enumerate("abc", start=1):
        append(path, lines(name))
        assert found(followed.poll()) == ([name], [])
        append(path, lines(f"{name} too"))
        store(path.rename(closed(path, number)))
        assert found(followed.poll()) == ([f"{name} too"], [])


def test_read_segment_deleted(path: Path, follow: Follow) -> None:
    """Of deleted segments, the one that was read while open is not reported."""
    append(path, lines("a"))
    followed = follow(path)
    followed.poll()
    path.rename(closed(path, 1)).unlink()
    append(closed(path, 2), lines("b"))
    assert found(followed.poll()) == (["b"], [])
    append(path, lines("c"))
    followed.poll()
    path.rename(closed(path, 3)).unlink()
    append(closed(path, 6), lines("d"))

    reason = "2 closed segments before this one were deleted before they were read"
    assert found(followed.poll()) == (["d"], [f"{closed(path, 6)}: {reason}"])


RESTARTED = pytest.mark.parametrize("restarted", [False, True], ids=["followed", "restarted"])


def again(followed: Follower, follow: Follow, folder: Path, restarted: bool) -> Follower:
    """The same follower, or one resumed at its position."""
    if not restarted:
        return followed
    followed.close()
    return follow(folder, position=Position.from_json(followed.position.to_json()))


@RESTARTED
@pytest.mark.parametrize("name", ["a.jsonl", "z.jsonl"])
def test_renamed_within_the_folder(path: Path, follow: Follow, name: str, restarted: bool) -> None:
    """A file is read once, whatever its name."""
    append(path, lines("a", "b"))
    followed = follow(path.parent)
    assert found(followed.poll(1)) == (["a"], [])
    renamed = path.rename(path.with_name(name))
    append(renamed, lines("c"))
    followed = again(followed, follow, path.parent, restarted)
    assert found(followed.poll()) == (["b", "c"], [])
    append(path, lines("d"))
    append(renamed, lines("e"))

    ids, problems = found(followed.poll())
    assert (sorted(ids), problems) == (["d", "e"], [])
    assert found(followed.poll()) == ([], [])


@RESTARTED
def test_names_passed_on(path: Path, follow: Follow, restarted: bool) -> None:
    """Names that move from file to file, as in numbered rotation, change nothing."""
    files = [path.with_name(f"{number}.jsonl") for number in range(4)]
    for file in files[:3]:
        append(file, lines(f"{file.name} read", f"{file.name} unread"))
    followed = follow(path.parent)
    for _ in range(3):
        followed.poll(2)
    for number in (2, 1, 0):
        append(files[number], lines(f"{number} added"))
        files[number].rename(files[number + 1])
    append(files[0], lines("new"))
    followed = again(followed, follow, path.parent, restarted)
    ids: list[str] = []
    while batch := found(followed.poll(1))[0]:
        ids += batch

    assert sorted(ids) == ["0 added", "1 added", "2 added", "new"]
    assert found(followed.poll()) == ([], [])


@RESTARTED
def test_exchanged_names(path: Path, follow: Follow, restarted: bool) -> None:
    """Two files may exchange their names."""
    first, second = path, path.with_name("second.jsonl")
    append(first, lines("a", "b"))
    append(second, lines("c", "d"))
    followed = follow(path.parent)
    assert found(followed.poll(3)) == (["a", "b", "c"], [])
    first.rename(path.with_name("aside"))
    second.rename(first)
    path.with_name("aside").rename(second)
    append(first, lines("e"))
    append(second, lines("f"))
    followed = again(followed, follow, path.parent, restarted)

    ids, problems = found(followed.poll())
    assert (sorted(ids), problems) == (["d", "e", "f"], [])


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_two_names_at_once(path: Path, follow: Follow, link: Callable[[Path, Path], None]) -> None:
    """A file with two names is read once, and further when it loses one of them."""
    append(path, lines("a"))
    other = path.with_name("aaa.jsonl")
    followed = follow(path.parent)
    followed.poll()
    link(path, other)
    append(path, lines("b"))
    assert found(followed.poll()) == (["b"], [])
    if link is os.link:
        path.unlink()
        append(other, lines("c"))
    else:
        other.unlink()
        append(path, lines("c"))

    assert found(followed.poll()) == (["c"], [])
    assert found(followed.poll()) == ([], [])


@RESTARTED
def test_compressed_by_others(
    path: Path, follow: Follow, restarted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file made by `gzip records.jsonl` has the same records under another name."""
    append(path, lines("a"))
    followed = follow(path.parent)
    followed.poll()
    append(path, lines("b"))
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    followed = again(followed, follow, path.parent, restarted)
    monkeypatch.setattr(cursor, "_DELETED_SECONDS", 0.0)
    ids = [each for _ in range(4) for each in found(followed.poll())[0]]

    assert ids == ["b"]


def test_reused_inode(path: Path, follow: Follow) -> None:
    """Another file with the same inode is another file."""
    append(path, lines("a", "b"))
    followed = follow(path.parent)
    position = followed.poll().position
    followed.close()
    path.write_bytes(lines("c", "d", "e"))  # the inode stays
    path.rename(path.with_name("other.jsonl"))

    ids, problems = found(follow(path.parent, position=position).poll())
    reason = "the file was deleted before everything after line 2 was read"
    assert (ids, problems) == (["c", "d", "e"], [f"{path}: {reason}"])


def test_copy(path: Path, follow: Follow) -> None:
    """A copy of an existing file is read separately: better twice than never."""
    append(path, lines("a"))
    followed = follow(path.parent)
    followed.poll()
    append(path.with_name("copy.jsonl"), lines("a", "b"))
    assert found(followed.poll()) == (["a", "b"], [])


def test_loss_is_told_once(path: Path, follow: Follow) -> None:
    """A loss while nothing followed is reported once, also over restarts."""
    append(path, lines("a"))
    position = follow(path.parent).poll().position
    path.unlink()
    append(path, lines("b"))
    followed = follow(path.parent, position=position)
    batch = followed.poll(1)
    assert found(batch) == (["b"], [])
    resumed = follow(path.parent, position=Position.from_json(batch.position.to_json()))
    batch = resumed.poll()
    reason = "the file was replaced before everything after line 1 was read"
    assert found(batch) == ([], [f"{path}: {reason}"])
    last = follow(path.parent, position=Position.from_json(batch.position.to_json()))
    assert found(last.poll()) == ([], [])


def test_descriptors_are_bounded(
    path: Path, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a limited number of files is open: those written last."""
    monkeypatch.setattr(follower, "_OPEN_FILES", 3)
    files = [path.with_name(f"{number}.jsonl") for number in range(8)]
    for file in files:
        append(file, lines(file.name))
    followed = follow(path.parent)
    assert len(found(followed.poll())[0]) == 8
    assert open_below(path.parent) == 3
    append(files[0], lines("again"))
    assert found(followed.poll()) == (["again"], [])
    assert open_below(path.parent) == 3
    append(files[0], lines("last"))
    files[0].unlink()

    assert found(followed.poll()) == (["last"], [])
    for file in files[1:]:
        file.unlink()
    assert found(followed.poll()) == ([], [])


def test_batch_of_large_records(path: Path, follow: Follow) -> None:
    """A batch is limited in bytes too."""
    large = lines("a")[:-2] + b',"padding":"%s"}\n' % (b"x" * (1 << 20))
    append(path, large * 20)
    followed = follow(path)
    batches = [followed.poll() for _ in range(3)]

    assert [len(batch.records) for batch in batches] == [8, 8, 4]
    assert [batch.caught_up for batch in batches] == [False, False, True]


def test_read_to_its_end_and_deleted(path: Path, follow: Follow) -> None:
    """A file that was read completely before its deletion is not reported, also on restart."""
    append(path, lines("a"))
    append(path.with_name("other.jsonl"), lines("b"))
    first = follow(path.parent)
    position = first.poll().position
    resumed = follow(path.parent, position=position)
    resumed.poll()
    first.close()
    resumed.close()
    path.unlink()

    assert [found(each.poll()) for each in (first, resumed)] == [([], [])] * 2
    assert list(first.position.files) == [str(path.with_name("other.jsonl"))]
