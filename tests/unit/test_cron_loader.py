"""`crons.py`: what may be declared, and every mistake in it with its file and line, all at once."""

from __future__ import annotations

import marshal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from evolute.errors import DefinitionError
from evolute.limits import Limits
from evolute.registry.loader import load, read_folder
from evolute.registry.registry import Registry, RegistryReport
from evolute.values.document_id import encode_id

SCHEMA = """
from evolute import Document, define_schema, define_table

class Channel(Document):
    name: str

schema = define_schema(channels=define_table(Channel))
"""
DIGEST = """
from typing import Any
from evolute import ActionCtx, Id, MutationCtx, QueryCtx, internal_action, internal_mutation, query
from app.schema import Channel

@internal_action
async def write(ctx: ActionCtx, channel: Id[Channel] | None = None, limit: int = 10, hour: int = 0) -> None: ...

@internal_mutation
def sweep(ctx: MutationCtx, name: str = "", schedule: str = "", function: str = "", from_: float = 0) -> None: ...

@query
def latest(ctx: QueryCtx) -> None: ...
"""
HEAD = """from datetime import timedelta
from evolute import Crons, cron, daily, hourly, interval, monthly, weekly
from app import digest
crons = Crons()
"""
CHANNEL = encode_id(10_001, bytes(16))


@pytest.fixture(autouse=True)
def _imports_are_undone() -> Iterator[None]:
    finders, modules = list(sys.meta_path), set(sys.modules)
    yield
    sys.meta_path[:] = finders
    for name in set(sys.modules) - modules:
        if name.split(".")[0] == "app":
            del sys.modules[name]


def load_crons(folder: Path, crons: str, others: Mapping[str, str] | None = None) -> Registry:
    app = folder / "app"
    app.mkdir()
    files = {"schema.py": SCHEMA, "digest.py": DIGEST, "crons.py": crons, **(others or {})}
    for name, text in files.items():
        (app / name).write_text(text)
    return load(read_folder(app, Limits()), Limits())


def refusal(folder: Path, crons: str, others: Mapping[str, str] | None = None) -> str:
    with pytest.raises(DefinitionError) as error:
        load_crons(folder, crons, others)
    return str(error.value)


def test_crons_are_reported_with_the_functions(tmp_path: Path) -> None:
    registry = load_crons(
        tmp_path,
        HEAD
        + """
crons.add("digest (daily)", daily(hour=8, minute=30, timezone="Europe/Berlin"), digest.write, limit=5, hour=9)
crons.add("sweep", interval(timedelta(minutes=5)), digest.sweep, name="a", schedule="b", function="c", from_=3)
crons.add("text", cron("0 9 * * MON-FRI"), "digest:write")
crons.add("by position", weekly(day="monday", hour=1), digest.write, None, 7)
crons.add("nothing given", monthly(day=31, hour=0), "digest.py:sweep")
""",
    )
    wire = marshal.loads(marshal.dumps(registry.report()))
    crons = {cron.name: cron for cron in RegistryReport.from_wire(wire).crons}
    assert list(crons) == ["digest (daily)", "sweep", "text", "by position", "nothing given"]
    first = crons["digest (daily)"]
    assert first.schedule == {"type": "daily", "hour": 8, "minute": 30, "timezone": "Europe/Berlin"}
    assert (first.path, first.arguments) == ("digest:write", b'{"hour":9,"limit":5}')
    assert (first.file, first.line) == (str(tmp_path / "app" / "crons.py"), 6)
    assert crons["sweep"].arguments == b'{"from":3,"function":"c","name":"a","schedule":"b"}'
    assert crons["by position"].arguments == b'{"channel":null,"limit":7}'
    assert (crons["nothing given"].path, crons["nothing given"].arguments) == ("digest:sweep", b"{}")


def test_every_mistake_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    wrong = [
        (
            'crons.add("a", daily(hour=24), digest.write)',
            "The cron job 'a': Hour of day must be an integer from 0 to 23",
        ),
        ('crons.add("b", hourly(minute=-1), digest.write)', "'b': Minute of hour must be an integer from 0 to 59"),
        ('crons.add("c", weekly(day="Mon", hour=1), digest.write)', "'c': Day of week must be a string like"),
        ('crons.add("d", monthly(day=32, hour=1), digest.write)', "'d': Day of month must be an integer from 1 to 31"),
        ('crons.add("e", interval(), digest.write)', "'e': Must specify one of seconds, minutes, or hours"),
        ('crons.add("f", interval(minutes=0), digest.write)', "'f': Interval must be an integer greater than 0"),
        ('crons.add("g", cron("0 0 30 2 *"), digest.write)', 'The cron spec "0 0 30 2 *" will never match any time'),
        ('crons.add("h", daily(hour=1, timezone="Mars"), digest.write)', "There is no time zone 'Mars'"),
        ('crons.add("i", hourly(), digest.latest)', "schedules a query function, only actions and mutations can be"),
        ('crons.add("j", hourly(), "digest:nothing")', "schedules a function that does not exist: digest:nothing"),
        ('crons.add("k", hourly(), print)', "which is no function reference"),
        (
            'crons.add("l", hourly(), digest.write, limt=3)',
            "gives digest:write wrong arguments: ArgumentValidationError",
        ),
        ('crons.add("m", hourly(), digest.write, limit="3")', "gives digest:write wrong arguments"),
        ('crons.add("n", timedelta(hours=1), digest.write)', "'n' has no schedule but datetime.timedelta"),
        ('crons.add("o\\n", hourly(), digest.write)', "Invalid cron identifier 'o\\n'"),
        ('crons.add("p", hourly(), digest.write)', None),
        ('crons.add("p", hourly(), digest.sweep)', "Cron identifier registered twice: p, first in line 20"),
        ('crons.add("q", daily(hour=25), digest.latest)', "'q': Hour of day"),
    ]
    text = refusal(tmp_path, HEAD + "\n".join(line for line, _ in wrong))
    assert f"cannot be loaded, {len(wrong)} faults:" in text, "the last line has two, one has none"
    for number, (_, said) in enumerate(wrong, 5):
        told = [line for line in text.splitlines() if f"crons.py:{number} " in line]
        assert bool(told) == (said is not None)
        assert said is None or any(said in line for line in told), (said, told)


def test_ids_in_the_source_are_checked_when_the_cron_runs(tmp_path: Path) -> None:
    registry = load_crons(tmp_path, HEAD + f'crons.add("a", hourly(), digest.write, channel="{CHANNEL}")')
    assert registry.crons[0].arguments == b'{"channel":"%b"}' % CHANNEL.encode()


def test_crons_py_must_have_crons(tmp_path: Path) -> None:
    assert "crons.py: it has no crons; write `crons = Crons()`" in refusal(tmp_path, "cron = 3")


def test_crons_that_would_never_run_are_refused(tmp_path: Path) -> None:
    others = {"mine.py": "from evolute import Crons\nnightly = Crons()\n", "uses.py": "from app.crons import crons"}
    text = refusal(tmp_path, HEAD + "more = Crons()", others)
    assert "mine.py: the crons in `nightly` would never run; declare them in crons.py" in text
    assert "crons.py: the crons in `more` would never run" in text
    assert "uses.py" not in text


def test_the_fault_of_a_function_is_not_told_again_as_the_crons(tmp_path: Path) -> None:
    crons = HEAD + 'crons.add("a", hourly(), digest.write)\ncrons.add("b", hourly(), "digest:write")'
    text = refusal(tmp_path, crons, {"digest.py": DIGEST.replace("limit: int", "limit: set")})
    assert "one fault" in text
    assert "parameter limit: the annotation set is not understood" in text


def test_crons_py_may_hold_functions_too(tmp_path: Path) -> None:
    own = "from evolute import internal_mutation\n@internal_mutation\ndef own(ctx) -> None: ...\n"
    registry = load_crons(tmp_path, HEAD + own + 'crons.add("a", hourly(), own)')
    assert registry.crons[0].path == "crons:own"


def test_a_folder_without_crons_has_none(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    assert list(load(read_folder(tmp_path / "app", Limits()), Limits()).crons) == []
