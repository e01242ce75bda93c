"""An exception becomes the error of a call: a text for its developer, and the data of a ConvexError.

    Uncaught ValueError: boom
      File "functions/messages.py", line 12, in send
        raise ValueError("boom")

Only the frames of the functions folder are shown; a frame is of the folder if its module belongs to the package. What
the runtime itself says about a call that never reached the function has no frames and stands without "Uncaught".
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType

from evolute.errors import ConvexError, EvoluteError, InvalidValue, TimeLimit
from evolute.execution.arguments import encode_settled
from evolute.execution.function_log import TRUNCATED, cut, printable
from evolute.execution.request import CallError
from evolute.limits import MIB, Limits
from evolute.registry.job_options import class_names

FRAMES_FIRST = 8
FRAMES_LAST = 24
INTERNAL_TEXT = "Your request couldn't be completed. Try again later."
INTERNAL_CODE = "InternalServerError"


def call_error(error: BaseException, package: str, limits: Limits) -> CallError:
    """The error of a call that ended with `error`. Never raises.

    An exception that is not the runtime's and has no frame of the user's is a fault of the runtime: it is printed to
    stderr, and the call says only that it failed.
    """
    frames = list(_user_frames(error.__traceback__, package))
    if not frames and error.__cause__ is not None:
        # What Python makes of a StopIteration that leaves a coroutine has lost the coroutine's frame.
        frames = list(_user_frames(error.__cause__.__traceback__, package))
    if not frames and not isinstance(error, (EvoluteError, ConvexError, TimeLimit, MemoryError)):
        sys.__excepthook__(type(error), error, error.__traceback__)
        return CallError(INTERNAL_TEXT, None, INTERNAL_CODE)
    data: bytes | None = None
    head = _head(error, uncaught=bool(frames), limits=limits)
    if isinstance(error, ConvexError):
        try:
            data = encode_settled(error.data, limits)
        except InvalidValue:
            head = f"Uncaught ConvexError with invalid data: {_text(error.data, repr)}"
        else:
            text = error.data if isinstance(error.data, str) else data.decode()
            head = head if isinstance(error, EvoluteError) else f"Uncaught ConvexError: {text}"
    lines = [head, *_notes(error), *_shown(frames)]
    code = error.code if isinstance(error, EvoluteError) else "FunctionFault"
    text = cut(printable("\n".join(lines)), limits.error_bytes_max, TRUNCATED)
    return CallError(text, data, code, class_names(error))


def _head(error: BaseException, *, uncaught: bool, limits: Limits) -> str:
    if isinstance(error, TimeLimit):
        return str(error)
    if isinstance(error, MemoryError):
        maximum = f"{limits.worker_memory_bytes_max / MIB:g} MiB"
        return f"Function execution ran out of memory (maximum: {maximum}; the setting is worker_memory_bytes_max)"
    text = _text(error)
    if isinstance(error, EvoluteError) and not uncaught:
        return text
    return f"Uncaught {type(error).__name__}: {text}" if text else f"Uncaught {type(error).__name__}"


def _text(value: object, render: Callable[[object], str] = str) -> str:
    """`str` and `repr` of a user's object are the user's code, and may raise anything."""
    try:
        return render(value)
    except BaseException as error:
        return f"<{type(value).__name__}; its text cannot be made: {type(error).__name__}>"


def _notes(error: BaseException) -> Iterator[str]:
    """What `add_note` added; anybody may have put anything there."""
    notes: object = getattr(error, "__notes__", None)
    if isinstance(notes, list):
        yield from map(_text, notes)


def is_user_frame(frame: FrameType, package: str) -> bool:
    name = frame.f_globals.get("__name__")
    return isinstance(name, str) and (name == package or name.startswith(package + "."))


def in_user_code(frame: FrameType | None, package: str, *, otherwise: bool = False) -> bool:
    """Whether what runs in `frame` was called by the user's code, and not by the runtime; `otherwise` if by neither."""
    while frame is not None:
        if is_user_frame(frame, package):
            return True
        if str(frame.f_globals.get("__name__", "")).startswith("evolute."):
            return False
        frame = frame.f_back
    return otherwise


def _user_frames(traceback: TracebackType | None, package: str) -> Iterator[tuple[FrameType, int]]:
    """(frame, line), outermost first."""
    while traceback is not None:
        if is_user_frame(traceback.tb_frame, package):
            yield traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next


def _shown(frames: list[tuple[FrameType, int]]) -> Iterator[str]:
    left_out = len(frames) - FRAMES_FIRST - FRAMES_LAST
    for number, (frame, line) in enumerate(frames):
        if left_out > 0 and FRAMES_FIRST <= number < FRAMES_FIRST + left_out:
            if number == FRAMES_FIRST:
                yield f"  … {left_out} more frames"
            continue
        code = frame.f_code
        yield f'  File "{_shown_file(frame)}", line {line}, in {code.co_name}'
        source = linecache.getline(code.co_filename, line, frame.f_globals).strip()
        if source:
            yield f"    {source}"


def _shown_file(frame: FrameType) -> str:
    """The file as seen from beside the functions folder: `functions/admin/users.py`."""
    parts = str(frame.f_globals["__name__"]).split(".")
    if frame.f_code.co_filename.endswith("/__init__.py"):
        parts.append("__init__")
    return "/".join(parts) + ".py"
