"""Several files that appear together or not at all, beside whatever else a directory holds."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from presurge.store import storage_error


@contextmanager
def staged(directory: Path) -> Iterator[Path]:
    """Yield an empty folder; what it holds at the end moves into ``directory``, file by file, in the order written.

    Files of the same name are replaced, others stay. After an error, also one half-way through the moves, the
    directory is as it was.

    Raises:
        StorageError: The file system refused.
    """
    folder: Path | None = None
    made = _missing_parents(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".presurge-", dir=directory))
        new, old = folder / "new", folder / "old"
        new.mkdir()
        yield new
        _move_all(new, old, directory)
        made = []
    except OSError as error:
        raise storage_error(error, directory) from error
    except pl.exceptions.PolarsError as error:
        raise storage_error(OSError(str(error)), directory) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        for parent in made:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()


def _missing_parents(directory: Path) -> list[Path]:
    """The folders that have to be made for a directory, the innermost first."""
    return [folder for folder in (directory, *directory.parents) if not folder.exists()]


def _move_all(new: Path, old: Path, directory: Path) -> None:
    """Take the files to be replaced away, last one first, then bring the new ones in, last one last.

    So whoever finds the last file, the manifest, finds all the others that belong to it.
    """
    files = sorted(
        (path for path in new.rglob("*") if path.is_file()), key=lambda path: path.stat().st_mtime_ns
    )
    names = [file.relative_to(new) for file in files]
    taken, brought = [], []
    try:
        for name in reversed(names):
            if (directory / name).exists():
                _rename(directory / name, old / name)
                taken.append(name)
        for name in names:
            _rename(new / name, directory / name)
            brought.append(name)
    except BaseException:
        for name in brought:
            (directory / name).unlink()
        for name in taken:
            (old / name).rename(directory / name)
        raise


def _rename(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)
