"""The exceptions that a user can cause: every message says what was wrong, where, and what to do."""


class PresurgeError(Exception):
    """Base of every error that the user of Presurge can cause or repair.

    Args:
        what: What was wrong, in one sentence without a full stop.
        where: The file, row, column, key or channel that it was found in.
        hint: What to do about it.
    """

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.what = what
        self.where = where
        self.hint = hint
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  {self.hint}" if self.hint else text


class DataError(PresurgeError):
    """Input data cannot be used: a bad file, row, column or value."""


class FormatError(DataError):
    """The format of a file was not recognised, or more than one fits."""


class HistoryError(DataError):
    """A history does not fit the model: too short, another frequency, a gap, a missing channel."""


class ConfigError(PresurgeError):
    """An option or a key of a configuration file has an impossible value."""


class ModelError(PresurgeError):
    """A model directory cannot be read: damaged, unsafe, of a newer format, or of another kind."""


class StorageError(PresurgeError):
    """The file system refused: full disk, missing permission, path in the way."""


class FetchError(PresurgeError):
    """A download failed or its checksum does not match."""


class MissingDependencyError(PresurgeError):
    """An optional package is needed; the hint gives the command that installs it."""

    def __init__(self, package: str, *, purpose: str, extra: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package}, which is not installed",
            hint=f"Install it with: pip install 'presurge[{extra}]'",
        )
