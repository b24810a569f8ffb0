"""Observations on disk: what was written comes back, whatever happened to the rest."""

import json
import resource
from pathlib import Path

import numpy as np
import pytest

from presurge.errors import ConfigError, StorageError
from presurge.serving.journal import Journal


def opened(directory: Path) -> tuple[Journal, list[int]]:
    """A journal that goes on, and the numbers that it held: those of its snapshot, then those of its logs."""
    journal = Journal(directory)
    loaded = journal.load()
    found = loaded[1]["numbers"].tolist() if loaded else []
    return journal, [*found, *journal.replay(json.loads)]


def write(journal: Journal, *numbers: int) -> None:
    journal.append([json.dumps(number).encode() for number in numbers])


def save(journal: Journal, numbers: list[int]) -> None:
    journal.save(journal.rotate(), {}, {"numbers": np.array(numbers)})


def test_records_come_back_with_and_without_snapshots(tmp_path: Path) -> None:
    numbers = list[int]()
    for begin in range(0, 50, 10):
        journal, found = opened(tmp_path)
        assert found == numbers
        assert not journal.warnings
        for number in range(begin, begin + 10):
            write(journal, number)
            numbers.append(number)
            if number % 7 == 6:
                save(journal, numbers)
        journal.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert sum(name.startswith("snapshot-") for name in names) == 2  # the last one and the one before it
    assert len(names) <= 7


def test_a_damaged_snapshot_costs_nothing(tmp_path: Path) -> None:
    journal, _ = opened(tmp_path)
    for number in range(3):
        write(journal, number)
        save(journal, [*range(number + 1)])
    write(journal, 3)
    journal.close()
    newest, before = sorted(tmp_path.glob("snapshot-*"), reverse=True)
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    journal, found = opened(tmp_path)
    assert found == [0, 1, 2, 3]
    assert newest.name in journal.warnings[0]
    journal.close()
    (before / "config.json").unlink()
    journal, found = opened(tmp_path)
    assert len(journal.warnings) == 2
    assert set(found) <= {0, 1, 2, 3}
    journal.close()


@pytest.mark.parametrize("damage", ["tail", "middle", "no record"])
def test_a_damaged_log_is_read_where_it_is_whole(tmp_path: Path, damage: str) -> None:
    journal, _ = opened(tmp_path)
    write(journal, *range(10))
    journal.close()
    (log,) = tmp_path.glob("log-*")
    data = bytearray(log.read_bytes())
    lost = 9
    if damage == "tail":
        del data[-1]
    elif damage == "middle":
        lost = 4
        data[data.index(b" 4") + 1] = ord("5")
    else:
        data += b"\n" + b"\0" * 4096  # a page that was allocated and never written
    log.write_bytes(data)
    journal, found = opened(tmp_path)
    assert found == [number for number in range(10) if damage == "no record" or number != lost]
    assert "1 damaged records were left out" in journal.warnings[0]
    write(journal, 10)
    journal.close()
    assert opened(tmp_path)[1][-1] == 10


def test_what_the_disk_refuses_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    journal, _ = opened(tmp_path)
    write(journal, 1)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (journal.size + 5, hard))
    try:
        for _ in range(2):
            with pytest.raises(StorageError, match="cannot be written"):
                write(journal, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    write(journal, 3)
    journal.close()
    journal, found = opened(tmp_path)
    assert (found, journal.warnings) == ([1, 3], [])


def test_one_service_a_directory(tmp_path: Path) -> None:
    journal, _ = opened(tmp_path)
    with pytest.raises(ConfigError, match="another service uses this directory"):
        Journal(tmp_path)
    journal.close()
    Journal(tmp_path).close()


def test_descriptors_are_closed(tmp_path: Path) -> None:
    before = len([*Path("/proc/self/fd").iterdir()])
    journal, _ = opened(tmp_path)
    for number in range(5):
        write(journal, number)
        save(journal, [number])
    journal.close()
    assert len([*Path("/proc/self/fd").iterdir()]) == before
