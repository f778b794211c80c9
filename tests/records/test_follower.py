"""`Follower`: each record once, and nothing skipped silently."""

from __future__ import annotations

import os
import shutil
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from otel_lifecycle.records import Batch, Follower, Position
from otel_lifecycle.records.line import LONGEST_LINE
from tests.records.segments import append, closed, compress, lines
from tests.rights import without_privileges
from tests.wording import NOT_AN_OBJECT, TRUNCATED, refusal
from tests.wording import refusal as refusal_of

CUT = "Compressed file ended before the end-of-stream marker was reached"


def found(batch: Batch) -> tuple[list[str], list[str]]:
    """Return the request ids and the problems of a batch."""
    return (
        [entry.record.request_id for entry in batch.records],
        [str(problem) for problem in batch.problems],
    )


def test_growing_file(path: Path) -> None:
    """A file may appear later and grow: each record is found once, when its line is complete."""
    follower = Follower(path)
    assert found(follower.poll()) == ([], [])
    append(path, lines("a", "b"))
    assert found(follower.poll()) == (["a", "b"], [])
    assert found(follower.poll()) == ([], [])
    half = lines("c")
    append(path, half[:20])
    assert found(follower.poll()) == ([], [])
    assert [f"{path}:3: skipped, the line has no end yet"] == list(map(str, follower.unfinished))
    append(path, half[20:])
    assert found(follower.poll()) == (["c"], [])
    assert follower.unfinished == []


def test_where_a_record_stands(path: Path) -> None:
    """Each record comes with its file, its line and its size."""
    append(path, lines("a") + b"[]\n" + lines("c"))
    places = [(entry.path, entry.line, entry.size) for entry in Follower(path).poll().records]
    assert [(path, 1, len(lines("a"))), (path, 3, len(lines("c")))] == places


def test_batches(path: Path) -> None:
    """A batch has at most the requested number of records, and says whether there are more."""
    append(path, lines(*"abcde"))
    follower = Follower(path)
    batches = [follower.poll(2) for _ in range(3)]
    assert [found(batch)[0] for batch in batches] == [["a", "b"], ["c", "d"], ["e"]]
    assert [batch.caught_up for batch in batches] == [False, False, True]


def test_files_that_appear_meanwhile(tmp_path: Path) -> None:
    """What appears, or is renamed, while others are read is found before all is read."""
    one, two, three = (tmp_path / f"{name}.jsonl" for name in ("one", "two", "three"))
    append(one, lines("a", "b", "c"))
    append(two, lines("d"))
    follower = Follower(tmp_path)
    assert found(follower.poll(1)) == (["a"], [])
    two.rename(three)
    append(two, lines("e"))
    append(tmp_path / "four.jsonl", lines("f"))
    batch = follower.poll()
    assert (sorted(found(batch)[0]), found(batch)[1]) == (["b", "c", "d", "e", "f"], [])
    assert batch.caught_up


def _keep(path: Path) -> Path:
    return path


@pytest.mark.parametrize("store", [_keep, compress], ids=["plain", "compressed"])
@pytest.mark.parametrize("restarted", [False, True])
def test_rotation(path: Path, store: Callable[[Path], Path], restarted: bool) -> None:
    """Reading continues through rotation, renaming and compression, also when resumed."""
    append(path, lines("a", "b", "c"))
    follower = Follower(path)
    batch = follower.poll(1)
    store(path.rename(closed(path, 1)))
    append(path, lines("d"))
    store(path.rename(closed(path, 2)))
    append(path, lines("e"))
    if restarted:
        follower.close()
        follower = Follower(path, position=Position.from_json(batch.position.to_json()))
    assert found(batch) == (["a"], [])
    assert found(follower.poll()) == (["b", "c", "d", "e"], [])
    assert found(follower.poll()) == ([], [])


def test_unread_segments_deleted(path: Path) -> None:
    """Segments deleted before they were read, completely or in part, are counted."""
    append(path, lines("a", "b"))
    follower = Follower(path)
    follower.poll()
    path.rename(closed(path, 1))
    follower.poll()
    append(path, lines("c", "d"))
    batch = follower.poll(1)
    follower.close()
    path.rename(closed(path, 2))
    for number in (3, 4):
        append(closed(path, number), lines("unread"))
    append(closed(path, 5), lines("e"))
    for number in (2, 3, 4):
        closed(path, number).unlink()
    follower = Follower(path, position=batch.position)
    reason = (
        "3 closed segments before this one were deleted before everything after line 1 was read"
    )
    assert found(follower.poll()) == (["e"], [f"{closed(path, 5)}: {reason}"])
    append(closed(path, 8), lines("f"))
    reason = "2 closed segments before this one were deleted before they were read"
    assert found(follower.poll()) == (["f"], [f"{closed(path, 8)}: {reason}"])


@pytest.mark.parametrize("other", [lines("c"), lines("c", "d", "e"), b""])
@pytest.mark.parametrize("how", ["replaced while nobody looked", "cut"])
def test_replaced_file(path: Path, other: bytes, how: str) -> None:
    """A replaced or truncated file is read from its start, and a possible loss is reported."""
    append(path, lines("a", "b"))
    follower = Follower(path)
    position = follower.poll().position
    if how == "cut":
        path.write_bytes(other)
    else:
        path.unlink()
        append(path, other)
        follower.close()
        follower = Follower(path, position=position)
    reason = "the file was replaced before everything after line 2 was read"
    ids = ["c", "d", "e"][: other.count(b"\n")]
    assert found(follower.poll()) == (ids, [f"{path}: {reason}"])
    assert found(follower.poll()) == ([], [])


def test_first_line_ends_while_it_is_read(path: Path) -> None:
    """A file is identified by its first line, even if it was incomplete when opened."""
    append(path, lines("a"))
    follower = Follower(path)
    follower.poll()
    path.write_bytes(lines("b")[:20])
    assert len(found(follower.poll(1))[1]) == 1
    append(path, lines("b")[20:])
    assert found(follower.poll()) == (["b"], [])
    position = Position.from_json(follower.position.to_json())
    path.write_bytes(lines("c", "d"))
    ids, problems = found(Follower(path, position=position).poll())
    assert (ids, len(problems)) == (["c", "d"], 1)


def test_folder(tmp_path: Path) -> None:
    """A folder means its record files and their segments; other files are ignored."""
    append(tmp_path / "one.jsonl", lines("a"))
    compress_new(closed(tmp_path / "two.jsonl", 1), "b")
    append(tmp_path / "two.jsonl", lines("c"))
    append(tmp_path / "notes.txt", b"no record\n")
    append(tmp_path / f"{closed(tmp_path / 'two.jsonl', 2).name}.gz.tmp", b"no record\n")
    follower = Follower(tmp_path)
    assert found(follower.poll()) == (["a", "b", "c"], [])
    append(tmp_path / "three.jsonl", lines("d"))
    assert found(follower.poll()) == (["d"], [])


def compress_new(segment: Path, *request_ids: str) -> Path:
    """A compressed segment of some records."""
    append(segment, lines(*request_ids))
    return compress(segment)


def test_file_deleted_from_folder(tmp_path: Path) -> None:
    """A file that leaves a folder is forgotten, and reported if it was not read completely."""
    for name in ("read", "unread"):
        append(tmp_path / f"{name}.jsonl", lines(f"{name} a", f"{name} b"))
    with Follower(tmp_path) as follower:
        ids, _ = found(follower.poll(3))
    assert ids == ["read a", "read b", "unread a"]
    follower = Follower(tmp_path, position=follower.position)
    (tmp_path / "unread.jsonl").unlink()
    reason = "the file was deleted before everything after line 1 was read"
    assert found(follower.poll()) == ([], [f"{tmp_path / 'unread.jsonl'}: {reason}"])
    assert [str(tmp_path / "read.jsonl")] == list(follower.position.files)


def test_vanished_folder(path: Path) -> None:
    """A folder that vanishes for a while changes nothing; one that comes back empty is reported."""
    append(path, lines("a"))
    follower = Follower(path.parent)
    follower.poll()
    away = path.parent.rename(path.parent.with_name("away"))
    assert found(follower.poll()) == ([], [])
    append(away / path.name, lines("b"))
    away.rename(path.parent)
    assert found(follower.poll()) == (["b"], [])


def test_bad_lines(path: Path) -> None:
    """Invalid lines are reported with file, line and reason, and the others are found."""
    append(path, lines("a") + b"{\n" + lines("b") + (bad := b"\xff\n") + lines("c"))
    ids, problems = found(Follower(path).poll())
    assert ids == ["a", "b", "c"]
    assert problems == [
        f"{path}:2: {TRUNCATED}",
        f"{path}:4: {refusal_of(bad)}",
    ]


def test_segment_without_an_end(path: Path) -> None:
    """An unfinished last line of a closed segment is invalid, as nobody will complete it."""
    append(closed(path, 1), lines("a") + lines("b")[:-1])
    append(path, lines("c"))
    expected = (["a", "c"], [f"{closed(path, 1)}:2: the line has no end"])
    assert expected == found(Follower(path).poll())


@pytest.mark.parametrize(
    ("cut", "records", "line", "reason"),
    [
        (
            lambda data: data[:-4],
            ["a", "b", "c"],
            3,
            CUT,
        ),
        (lambda data: b"foreign" + data, ["c"], 1, "Not a gzipped file (b'fo')"),
    ],
    ids=["cut", "foreign"],
)
def test_broken_compression(
    path: Path, cut: Callable[[bytes], bytes], records: list[str], line: int, reason: str
) -> None:
    """A segment with truncated compression is read up to there, and the next one follows."""
    segment = compress_new(closed(path, 1), "a", "b")
    segment.write_bytes(cut(segment.read_bytes()))
    append(path, lines("c"))
    ids, problems = found(Follower(path).poll())
    assert ids == records
    assert [f"{segment}:{line}: the compression is broken: {reason}"] == problems


def test_unreadable_file(tmp_path: Path) -> None:
    """An unreadable file is reported once, and the others are read."""
    (tmp_path / "a.jsonl").mkdir()
    append(tmp_path / "b.jsonl", lines("b"))
    follower = Follower(tmp_path)
    expected = (["b"], [f"{tmp_path / 'a.jsonl'}: Is a directory"])
    assert expected == found(follower.poll())
    assert found(follower.poll()) == ([], [])


def test_folder_that_cannot_be_entered(guarded: Path) -> None:
    """A folder whose files can be listed but not read is not taken for empty."""
    append(guarded / "in" / "records.jsonl", lines("a"))
    (guarded / "in").chmod(0o444)
    append(guarded / "open.jsonl", lines("b"))
    with without_privileges(), Follower(guarded / "in", guarded / "open.jsonl") as follower:
        expected = (["b"], [f"{guarded / 'in' / 'records.jsonl'}: Permission denied"])
        assert expected == found(follower.poll())
        assert found(follower.poll()) == ([], [])


def test_path_that_cannot_be_reached(guarded: Path) -> None:
    """A path in an inaccessible folder is reported once, and the others are read."""
    append(guarded / "outer" / "records.jsonl", lines("a"))
    (guarded / "outer").chmod(0o000)
    append(guarded / "open.jsonl", lines("b"))
    inner = guarded / "outer" / "inner"
    with without_privileges(), Follower(inner, guarded / "open.jsonl") as follower:
        assert found(follower.poll()) == (["b"], [f"{inner}: Permission denied"])
        assert found(follower.poll()) == ([], [])


def test_unreadable_segment_is_waited_for(guarded: Path) -> None:
    """After an unreadable segment nothing is read until it is readable; nothing is lost."""
    live = guarded / "records.jsonl"
    append(closed(live, 1), lines("a"))
    append(live, lines("b"))
    closed(live, 1).chmod(0o000)
    with Follower(live) as follower:
        with without_privileges():
            expected = ([], [f"{closed(live, 1)}: Permission denied"])
            assert expected == found(follower.poll())
            assert found(follower.poll()) == ([], [])
        closed(live, 1).chmod(0o644)
        assert found(follower.poll()) == (["a", "b"], [])


@pytest.mark.parametrize("locked", ["segment", "live"])
def test_unreadable_file_of_a_chain(guarded: Path, locked: str) -> None:
    """A follower that does not wait reports a segment or live file, and finds the others."""
    live = guarded / "records.jsonl"
    files = [closed(live, 1), closed(live, 2), live]
    for name, file in zip("abc", files, strict=True):
        append(file, lines(name))
    left_out = files[0] if locked == "segment" else live
    left_out.chmod(0o000)
    with without_privileges(), Follower(live, skip_unreadable=True) as follower:
        ids = ["b", "c"] if locked == "segment" else ["a", "b"]
        assert found(follower.poll()) == (ids, [f"{left_out}: Permission denied"])
        assert found(follower.poll()) == ([], [])


def test_pipe(tmp_path: Path) -> None:
    """Anything but a regular file is reported without waiting."""
    os.mkfifo(tmp_path / "a.jsonl")
    append(tmp_path / "b.jsonl", lines("b"))
    with Follower(tmp_path) as follower:
        expected = (["b"], [f"{tmp_path / 'a.jsonl'}: Not a regular file"])
        assert expected == found(follower.poll())
        assert found(follower.poll()) == ([], [])


def test_endless_line(path: Path) -> None:
    """A line longer than any record is skipped without being held in memory."""
    append(path, lines("a"))
    with path.open("ab") as file:
        for _ in range(4):
            file.write(b"x" * LONGEST_LINE)
    append(path, b"\n" + lines("b"))
    tracemalloc.start()
    try:
        batch = Follower(path).poll()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found(batch) == (["a", "b"], [f"{path}:2: {LONGEST_LINE} bytes or longer"])
    assert peak < 2.5 * LONGEST_LINE


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        *(
            (text, f"not a position: {refusal(text, Position)}")
            for text in (
                "",
                "[]",
                '{"files": {"a": {"offset": "1"}}}',
                '{"files": {"a": {"offset": -5}}}',
                '{"files": {"a": {"line": 9223372036854775808}}}',
                '{"bananas": {}}',
                '{"files": {"a": {"b": 1}}}',
            )
        ),
        ('{"files": {"a": {"offset": 5}}}', "not a position: the digest of a is missing"),
        ('{"files": {"a": {"closed": "x"}}}', "not a position: 'x' does not name a segment"),
    ],
)
def test_bad_position(text: str, reason: str) -> None:
    """An invalid position is refused."""
    with pytest.raises(ValueError, match="not a position") as refusal:
        Position.from_json(text)
    assert reason == str(refusal.value)


class FollowedFile(RuleBasedStateMachine):
    """A file that is written, rotated, compressed and deleted in any order, and followed."""

    def __init__(self) -> None:
        super().__init__()
        self.live = Path(tempfile.mkdtemp()) / "records.jsonl"
        self.follower = Follower(self.live)
        self.written = 0
        self.kept: dict[Path, list[str]] = {self.live: []}
        self.delivered: list[str] = []
        self.deleted: list[str] = []
        self.unknown: list[str] = []
        self.problems: list[str] = []
        self.number = 0

    @rule(count=st.integers(1, 5))
    def write(self, count: int) -> None:
        ids = [str(self.written + offset) for offset in range(count)]
        self.written += count
        append(self.live, lines(*ids))
        self.kept.setdefault(self.live, []).extend(ids)

    @rule()
    def rotate(self) -> None:
        if self.kept.get(self.live):
            self.number += 1
            segment = self.live.rename(closed(self.live, self.number))
            self.kept[segment] = self.kept.pop(self.live)

    @rule(data=st.data())
    def compress(self, data: st.DataObject) -> None:
        plain = [path for path in self.kept if path != self.live and path.suffix != ".gz"]
        if plain:
            path = data.draw(st.sampled_from(plain))
            self.kept[compress(path)] = self.kept.pop(path)

    @rule()
    def delete_oldest(self) -> None:
        segments = sorted(path for path in self.kept if path != self.live)
        if len(segments) > 1:  # retention keeps the newest
            segments[0].unlink()
            ids = self.kept.pop(segments[0])
            self.deleted += ids
            if not self.delivered:  # not reported: unknown to the follower
                self.unknown += ids

    @rule(limit=st.integers(1, 4))
    def poll(self, limit: int) -> None:
        ids, problems = found(self.follower.poll(limit))
        self.delivered += ids
        self.problems += problems

    @rule()
    def resume(self) -> None:
        position = Position.from_json(self.follower.position.to_json())
        self.follower.close()
        self.follower = Follower(self.live, position=position)

    @invariant()
    def in_order_and_once(self) -> None:
        numbers = list(map(int, self.delivered))
        assert numbers == sorted(set(numbers))

    def teardown(self) -> None:
        for _ in range(self.written + 10):
            self.poll(4)
        self.follower.close()
        missing = {str(number) for number in range(self.written)} - set(self.delivered)
        assert missing <= set(self.deleted)
        assert self.problems or missing <= set(self.unknown)
        shutil.rmtree(self.live.parent)


TestFollowedFile = FollowedFile.TestCase
TestFollowedFile.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_glob(path: Path) -> None:
    """Segments named beside their live file, as a shell's `*` does, are not read twice."""
    append(path, lines("a"))
    segment = path.rename(closed(path, 1))
    append(path, lines("b"))

    assert found(Follower(path, segment).poll()) == (["a", "b"], [])


def test_append_taken_back(path: Path) -> None:
    """If a failed append is cut off again, nothing is read twice."""
    append(path, lines("a", "b"))
    follower = Follower(path)
    assert found(follower.poll()) == (["a", "b"], [])
    path.write_bytes(lines("a"))
    follower.poll()
    append(path, lines("c") + b"[]\n")

    assert found(follower.poll()) == (["c"], [f"{path}:3: {NOT_AN_OBJECT}"])


@pytest.mark.parametrize("spoil", [bytes, lambda data: data[:-4]], ids=["whole", "cut"])
@pytest.mark.parametrize("number", [None, 1], ids=["archive", "segment"])
def test_compressed_file_by_its_name(
    path: Path, number: int | None, spoil: Callable[[bytes], bytes]
) -> None:
    """A follower resumed at a compressed file repeats nothing and misses nothing."""
    file = compress_new(path if number is None else closed(path, number), *map(str, range(50)))
    file.write_bytes(spoil(file.read_bytes()))
    first = Follower(file)
    assert len(found(first.poll())[0]) == 50
    position = Position.from_json(first.position.to_json())
    again = Follower(file, position=position)
    ids, problems = found(again.poll())
    expected = [] if spoil is bytes else [f"{file}:51: the compression is broken: {CUT}"]
    assert (ids, problems) == ([], expected)
    assert again.position == position
