"""Errors at import, as the author should see them: their own frames, each error once.

A broken module fails again in every module that imports it. The first time is shown in full, the others in a line.
"""

from __future__ import annotations

import os
import traceback

# The folder of this package: its frames are no news to an author, nor are those of Python's import.
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_IMPORT = "<frozen importlib"


class ImportFaults:
    """Gathers the errors of the modules below `root`, in the order in which they were imported."""

    def __init__(self, root: str) -> None:
        self._root = root + os.sep
        self._seen: dict[tuple[str, ...], str] = {}

    def describe(self, path: str, error: BaseException) -> str:
        """The text for `error`, raised while the file `path` was imported."""
        report = traceback.TracebackException.from_exception(error, compact=True)
        self._trim(report)
        text = "".join(report.format()).rstrip()
        first = self._seen.setdefault(self._identity(error, report), path)
        return f"{path}\n{text}" if first == path else f"{path}: stopped by the same error as {first}"

    def _identity(self, error: BaseException, report: traceback.TracebackException) -> tuple[str, ...]:
        """What an error keeps when it is raised again by the same line of the same module."""
        if isinstance(error, SyntaxError):  # of the file that has it, whoever imports that
            return (type(error).__name__, str(error), report.filename or "", str(report.lineno))
        frames = [f"{frame.filename}:{frame.lineno}" for frame in report.stack if frame.filename.startswith(self._root)]
        return (type(error).__name__, str(error), *frames[-1:])

    def _trim(self, report: traceback.TracebackException) -> None:
        """From the first of the author's frames on, without Python's import and ours; causes likewise."""
        frames = [f for f in report.stack if not f.filename.startswith((_OURS, _IMPORT))]
        first = next((i for i, f in enumerate(frames) if f.filename.startswith(self._root)), len(frames))
        report.stack = traceback.StackSummary.from_list(frames[first:])
        for inner in (report.__cause__, report.__context__, *(report.exceptions or ())):
            if inner is not None:
                self._trim(inner)
