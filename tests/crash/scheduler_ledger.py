"""Holds every ticket of the scheduler's campaign against what became of its job, inside the database and outside.

A mutation has happened exactly once, an action at most once, a retried one as often as its policy allows at most; who
was to be told of an end was told once, of the right one; what was canceled in time has not run; a cron's runs do not
overlap, leave no time out, and each that is on record has had its effect once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from evolute.errors import WorkerDied
from evolute.scheduler.job_runner import INTERRUPTED
from evolute.system.tables import CRON_RUNS, SCHEDULED

Row = dict[str, Any]

ATTEMPTS_MAX = 4  # of `insist`
FAILS = "it fails on purpose"
POISON = "the worker process died 3 times while this job ran"
BORN = "work.py:born"
INTERVAL_MS = {"static": 1000, "dynamic": 2000, "outside": 1000, "blocking": 1000}


class Ledger:
    """What a data folder and the traces say. `verify` fails where they contradict each other.

    `robbed` are the servers that have lost a worker.
    """

    def __init__(self, tables: Mapping[str, list[Row]], traces: list[str], robbed: set[int]) -> None:
        self.ends: Counter[str] = Counter()
        self.cron_runs: Counter[str] = Counter()
        self.tickets = {row["name"]: row for row in tables["tickets"]}
        self.jobs = {row["_id"]: row for row in tables[SCHEDULED] if row["name"] != BORN}
        self.born = [row for row in tables[SCHEDULED] if row["name"] == BORN]
        self.told = tables["told"]
        self.traces = Counter(traces)
        self._lines = traces
        self._robbed = robbed
        self._counts = Counter(row["what"] for row in tables["counts"])
        self._runs = tables[CRON_RUNS]
        self._owners = {row["job"]: row for row in tables["tickets"] if not row["kept"]}
        self._told_by_job: dict[str, list[Row]] = {}
        for row in self.told:
            self._told_by_job.setdefault(row["job"], []).append(row)

    def __str__(self) -> str:
        ends = ", ".join(f"{count} {end}" for end, count in sorted(self.ends.items()))
        crons = ", ".join(f"{count} {run}" for run, count in sorted(self.cron_runs.items()))
        return f"jobs: {ends}; told {len(self.told)} times; {len(self._lines)} traces; cron runs: {crons}"

    def verify(self, promised: set[str], canceled: set[str]) -> None:
        """`promised` are the names of tickets that a client knows of, `canceled` of those it has canceled."""
        assert {name for name in self.tickets if not name.endswith("/child")} == promised
        assert set(self.jobs) == set(self._owners), "a job without a ticket, or a ticket without a job"
        assert {row["job"] for row in self.tickets.values()} == set(self.jobs)
        for name in canceled:
            assert self._owners[self.tickets[name]["job"]]["saw"] is not None, name
        assert set(self._told_by_job) <= set(self.jobs)
        for job in self.jobs.values():
            self._verify_job(job, self._owners[job["_id"]])
        self._verify_born()
        for cron in {run["name"] for run in self._runs}:
            self._verify_cron(cron)
        self._verify_no_overlap()

    # --- Jobs ------------------------------------------------------------------------------------------------------

    def _verify_job(self, job: Row, ticket: Row) -> None:
        state, what, runs, ran = job["state"], ticket["what"], ticket["runs"], self.traces[ticket["name"]]
        kind = state["kind"]
        seen = f"{ticket}, {job}, {ran} traces"
        self.ends[f"{what} {kind}"] += 1
        assert kind in ("success", "failed", "canceled"), seen
        assert "completedTime" in job, seen
        if kind == "canceled":
            assert self._may_be_canceled(ticket), seen
        if ticket["saw"] is not None:
            assert kind == ("canceled" if ticket["saw"] in ("pending", "inProgress") else ticket["saw"]), seen
        if kind == "canceled" and ticket["saw"] != "inProgress" and what != "insist":
            assert (runs, ran) == (0, 0), seen
        match what:
            case "tick":
                assert (kind, runs) == ("success", 1) or kind == "canceled", seen
            case "fail":
                assert kind == "canceled" or (runs == 0 and FAILS in state["error"]), seen
            case "kill":
                assert kind == "canceled" or (runs == 0 and POISON in state["error"]), seen
            case "insist":
                self._verify_retried(job, ticket, ran, seen)
            case _:
                self._verify_action(state, ticket, ran, seen)
        self._verify_told(job, ticket, seen)

    def _may_be_canceled(self, ticket: Row) -> bool:
        """By a client, by a newer job of its key, or with its parent."""
        if ticket["saw"] is not None:
            return True
        if ticket["name"].endswith("/child"):
            parent = self.tickets[ticket["name"].removesuffix("/child")]
            return bool(self.jobs[parent["job"]]["state"]["kind"] == "canceled")
        return any(
            other["replaces"] and other["key"] == ticket["key"] is not None and other["turn"] > ticket["turn"]
            for other in self.tickets.values()
        )

    def _verify_action(self, state: Row, ticket: Row, ran: int, seen: str) -> None:
        """At most once; if it has succeeded, exactly once."""
        runs = ticket["runs"]
        assert runs <= ran <= 1, seen
        if state["kind"] == "success":
            assert (runs, ran) == (1, 1), seen
        elif state["kind"] == "failed":
            assert self._is_cut_short(state["error"]), seen
        has_child = f"{ticket['name']}/child" in self.tickets
        assert has_child <= (ticket["what"] == "spawn"), seen
        assert runs <= has_child <= ran or ticket["what"] != "spawn", seen

    def _verify_retried(self, job: Row, ticket: Row, ran: int, seen: str) -> None:
        """As often as its policy allows, and on record each time."""
        attempts, state = job.get("attempts", []), job["state"]
        assert ticket["runs"] <= ran <= len(attempts) <= ATTEMPTS_MAX, seen
        if state["kind"] == "success":
            assert ticket["runs"] >= 1, seen
            assert "error" not in attempts[-1], seen
        elif state["kind"] == "failed":
            assert len(attempts) == ATTEMPTS_MAX, seen
            assert self._is_cut_short(state["error"]) or FAILS in state["error"], seen

    def _is_cut_short(self, error: str) -> bool:
        """By the death of the server, or of its worker."""
        return error == INTERRUPTED or (bool(self._robbed) and error == str(WorkerDied()))

    def _verify_born(self) -> None:
        """What an action schedules is a commit of its own: one for each run, and each has had its effect."""
        spawned = Counter(job["args"][0]["name"] for job in self.born)
        for job in self.born:
            ticket, kind = self.tickets[job["args"][0]["name"]], job["state"]["kind"]
            parent, counted = self.jobs[ticket["job"]]["state"]["kind"], self._counts[f"born of {ticket['name']}"]
            assert (kind, counted) == ("success", 1) or (kind, counted, parent) == ("canceled", 0, "canceled"), job
            self.ends[f"born {kind}"] += 1
        for ticket in self.tickets.values():
            if ticket["what"] == "spawn":
                number, ran = spawned[ticket["name"]], self.traces[ticket["name"]]
                assert ticket["runs"] <= number <= ran, (ticket, number, ran)

    def _verify_told(self, job: Row, ticket: Row, seen: str) -> None:
        """Exactly once, of the end that the job has had, if its completion function can be run."""
        told, state = self._told_by_job.get(job["_id"], []), job["state"]
        assert ("completionError" in job) == (ticket["completion"] == "told_badly"), seen
        assert len(told) == (ticket["completion"] == "told"), (told, seen)
        for row in told:
            assert row["kind"] == state["kind"], (row, seen)
            assert row["value"] == (ticket["name"] if state["kind"] == "success" else None), (row, seen)
            assert state["kind"] != "failed" or row["error"] == state["error"], (row, seen)

    # --- Crons -----------------------------------------------------------------------------------------------------

    def _verify_cron(self, name: str) -> None:
        """What is on record against what has been done."""
        records = [run for run in self._runs if run["name"] == name]
        ended = Counter(run["status"]["kind"] for run in records)
        for kind, number in ended.items():
            self.cron_runs[f"{name} {kind}"] += number
        begun, done = self._outside(name, "begins"), self._outside(name, "ends")
        if name in ("outside", "blocking"):
            assert ended["success"] <= done <= begun <= ended["success"] + ended["failed"], (name, ended, begun, done)
            errors = {run["status"]["error"] for run in records if run["status"]["kind"] == "failed"}
            assert all(map(self._is_cut_short, errors)), (name, errors)
        else:
            assert (ended["success"], ended["failed"]) == (self._counts[name], 0), (name, ended, self._counts)
        if name in INTERVAL_MS:
            _verify_cadence(records, INTERVAL_MS[name])

    def _outside(self, name: str, what: str) -> int:
        return sum(line.startswith(f"cron {name} {what} ") for line in self._lines)

    def _verify_no_overlap(self) -> None:
        """In one server, a run begins when the one before has ended, unless the server has lost a worker."""
        running: dict[str, str] = {}
        for line in self._lines:
            if line.startswith("cron "):
                _, cron, what, server = line.split()
                if what == "begins":
                    overlaps = running.get(cron) == server and int(server) not in self._robbed
                    assert not overlaps, f"runs of {cron} overlap in server {server}"
                    running[cron] = server
                else:
                    assert running.pop(cron) == server, line


def _verify_cadence(records: list[Row], interval_ms: int) -> None:
    """The due times follow each other without a gap, but for those that are on record as skipped."""
    times: list[float] = []
    for run in records:
        if run["status"]["kind"] == "canceled":
            times[-1] += interval_ms * run["status"]["skipped"]
        else:
            assert not times or run["scheduledTime"] == times[-1] + interval_ms, run
            times.append(run["scheduledTime"])
    assert all(before < after for before, after in pairwise(times))
