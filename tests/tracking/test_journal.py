"""The journal: what `append` took survives anything that leaves the disk whole."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outgrow.tracking import journal
from outgrow.tracking.journal import Journal
from outgrow.tracking.records import Metrics, Text, frame, unframe
from outgrow.tracking.warning import JournalWarning


def read(folder: Path) -> list[object]:
    return [record for record, _ in journal.read(folder) if record is not None]


def metrics(step: int) -> Metrics:
    return Metrics(step, 1_000 * step, {"loss": step / 7})


def append(kept: Journal, numbers: range) -> None:
    for step in numbers:
        kept.append(metrics(step))


texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["nan", "inf", "-inf"]))
steps = st.one_of(st.integers(-(2**62), 2**62), st.floats(-1e9, 1e9, allow_nan=False))


@given(st.builds(Metrics, steps, st.integers(0, 2**52), st.dictionaries(texts, values, min_size=1)))
def test_a_record_comes_back_bit_by_bit(record: Metrics) -> None:
    line = frame(record)
    assert line.count(b"\n") == 1
    again = unframe(line[:-1])
    assert again == record
    assert frame(again) == line


@given(st.data())
def test_a_damaged_line_is_noticed(data: st.DataObject) -> None:
    line = bytearray(frame(metrics(3))[:-1])
    place = data.draw(st.integers(0, len(line) - 1))
    line[place] ^= data.draw(st.integers(1, 255))
    assert unframe(bytes(line)) is None


@pytest.mark.parametrize("cut", [2, 5, 20])
def test_a_cut_tail_costs_only_itself(tmp_path: Path, cut: int) -> None:
    kept = Journal(tmp_path / "run")
    for step in range(5):
        kept.append(metrics(step))
    kept.close()
    path = tmp_path / "run" / journal.RECORDS
    os.truncate(path, path.stat().st_size - cut)
    assert read(tmp_path / "run") == [metrics(step) for step in range(4)]

    again = Journal(tmp_path / "run")  # a process that takes the run up
    again.append(metrics(9))
    again.append(metrics(10))
    again.close()
    assert read(tmp_path / "run") == [*(metrics(step) for step in range(4)), metrics(9), metrics(10)]


def test_a_record_glued_to_a_cut_one_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / journal.RECORDS).write_bytes(frame(metrics(1))[:-9] + frame(metrics(2)) + frame(metrics(3)))
    assert read(folder) == [metrics(2), metrics(3)]


def test_damage_in_the_middle_costs_only_itself(tmp_path: Path) -> None:
    kept = Journal(tmp_path / "run")
    for step in range(5):
        kept.append(metrics(step))
    kept.close()
    path = tmp_path / "run" / journal.RECORDS
    data = path.read_bytes().splitlines(keepends=True)
    data[2] = b"\x00" * len(data[2])
    path.write_bytes(b"".join(data))
    records = list(journal.read(tmp_path / "run"))
    # The damaged line has no end of its own: it takes the next one's line, but not its record.
    assert [record for record, _ in records if record is not None] == [metrics(s) for s in (0, 1, 3, 4)]


def test_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    kept = Journal(tmp_path / "run")
    long = "x" * 5_000

    def write(thread: int) -> None:
        for step in range(200):
            kept.append(Text(f"t{thread}", step, 0, long))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = read(tmp_path / "run")
    assert len(found) == 1_600
    for number in range(8):
        assert [r.step for r in found if r.key == f"t{number}"] == list(range(200))


def test_a_line_that_lacks_only_its_newline_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Journal(tmp_path / "run")
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, data: real(file, data[:-1]))
    kept.append(metrics(0))
    monkeypatch.undo()
    kept.append(metrics(1))
    assert read(tmp_path / "run") == [metrics(0), metrics(1)]


class Disk:
    """`os.write` of a disk that is full until room is made, and may take half a line."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self.half = False
        real = os.write

        def write(file: int, data: bytes) -> int:
            if not self.full:
                return real(file, data)
            if self.half:
                self.half = False
                return real(file, data[: len(data) // 2])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "write", write)


@pytest.mark.parametrize("half", [False, True])
def test_a_full_disk_warns_once_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: bool
) -> None:
    disk = Disk(monkeypatch)
    kept = Journal(tmp_path / "run")
    kept.append(metrics(0))
    disk.full, disk.half = True, half
    with pytest.warns(JournalWarning, match="No space left") as seen:
        append(kept, range(1, 50))
    assert len(seen) == 1
    assert kept.waiting == 49
    disk.full = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept.append(metrics(50))
    assert kept.waiting == 0
    assert read(tmp_path / "run") == [metrics(step) for step in range(51)]
    assert kept.lost == 0


def test_what_waits_is_written_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    kept = Journal(tmp_path / "run")
    disk.full = True
    with pytest.warns(JournalWarning):
        kept.append(metrics(1))
    disk.full = False
    kept.sync()
    assert read(tmp_path / "run") == [metrics(1)]


def test_memory_for_waiting_records_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    kept = Journal(tmp_path / "run")
    disk.full = True
    with pytest.warns(JournalWarning):
        append(kept, range(journal.KEPT_IN_MEMORY + 5))
    assert kept.waiting == journal.KEPT_IN_MEMORY
    assert kept.lost == 5


def test_stored_files_are_copies(tmp_path: Path) -> None:
    kept = Journal(tmp_path / "run")
    original = tmp_path / "weights.bin"
    original.write_bytes(b"a" * 3_000_000)
    digest, size = kept.store(original)
    with original.open("r+b") as stream:  # in place: a hard link would change too
        stream.write(b"b")
    original.unlink()
    stored = (tmp_path / "run" / journal.FILES / digest).read_bytes()
    assert stored == b"a" * 3_000_000
    assert size == len(stored)
    assert kept.store(b"text") == (
        "982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1",
        4,
    )
    assert not list((tmp_path / "run" / journal.FILES).glob(".part*"))


def test_a_writer_is_seen_until_it_is_gone(tmp_path: Path) -> None:
    kept = Journal(tmp_path / "run")
    assert journal.has_writer(tmp_path / "run")
    child = os.fork()
    if not child:
        signal.pause()
    kept.close()
    assert journal.has_writer(tmp_path / "run")  # the child may still write
    os.kill(child, 9)
    os.waitpid(child, 0)
    assert not journal.has_writer(tmp_path / "run")


def test_a_look_at_the_lock_does_not_keep_a_writer_from_it(tmp_path: Path) -> None:
    """Who looks holds the lock for a moment; the writer that comes just then waits for it."""
    folder = tmp_path / "run"
    Journal(folder).close()
    looking = journal.FileLock(folder / journal.WRITER)
    assert looking.acquire()
    opened: list[Journal] = []
    writer = threading.Thread(target=lambda: opened.append(Journal(folder)))
    writer.start()
    writer.join(0.05)
    assert not opened
    looking.release()
    writer.join()
    assert journal.has_writer(folder)
    opened[0].close()
    assert not journal.has_writer(folder)


def test_a_folder_that_is_removed_meanwhile_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "journal" / "run"
    folder.mkdir(parents=True)
    real = Path.is_dir

    def removed_first(path: Path) -> bool:
        monkeypatch.undo()
        path.rmdir()
        return real(path)

    monkeypatch.setattr(Path, "is_dir", removed_first)
    journal.make_folder(folder)
    assert folder.is_dir()
    journal.make_folder(folder)
    folder.rmdir()
    folder.write_text("in the way")
    with pytest.raises(FileExistsError):
        journal.make_folder(folder)
    folder.with_name("nowhere").symlink_to("missing")
    with pytest.raises(FileExistsError):
        journal.make_folder(folder.with_name("nowhere"))
    with pytest.raises(OSError, match="Not a directory"):
        journal.make_folder(folder / "below")
