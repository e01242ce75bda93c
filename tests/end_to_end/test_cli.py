"""The command line: what it prints, how it refuses, and how it ends."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from evolute_client import Client
from tests.end_to_end.app_under_test import APP, Gates, write_functions
from tests.end_to_end.raw_session import RawSession, post
from tests.end_to_end.server_process import ServerProcess, alive

PATIENCE_S = 60.0
COMMANDS_AT_ONCE = 4


def evolute(*arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a command that ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "evolute", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(environment or {})},
    )


def evolute_all(commands: list[list[str]]) -> list[subprocess.CompletedProcess[str]]:
    """Several commands side by side, because starting Python is most of what they do."""
    with ThreadPoolExecutor(COMMANDS_AT_ONCE) as pool:
        return list(pool.map(lambda command: evolute(*command), commands))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("cli")
    functions = write_functions(folder / "functions")
    with ServerProcess(functions, folder / "data", environment=Gates(folder).environment) as server:
        yield server


# --- profile ---------------------------------------------------------------------------------------------------------


def test_a_profile_is_of_the_server_that_has_the_folder(server: ServerProcess, tmp_path: Path) -> None:
    """py-spy needs rights that a test may not have, so another program of that name says what it is told."""
    (tmp_path / "py-spy").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "py-spy").chmod(0o755)
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    data = ("--data", str(server.data))
    drawn = evolute("profile", *data, environment=path)
    of_server = f"record --pid {server.process.pid} --subprocesses --duration"
    assert drawn.stdout == f"{of_server} 30 --format flamegraph --output profile.svg\n"
    drawn = evolute("profile", *data, "--seconds", "5", "--output", "p.json", environment=path)
    assert drawn.stdout == f"{of_server} 5 --format speedscope --output p.json\n"
    missing = evolute("profile", *data, environment={"PATH": str(tmp_path / "nothing")})
    assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)
    assert "py-spy is not installed" in missing.stderr


def test_a_profile_of_nobody(tmp_path: Path) -> None:
    nowhere = evolute("profile", "--data", str(tmp_path))
    assert (nowhere.returncode, "There is no data folder at" in nowhere.stderr) == (1, True)
    functions = write_functions(tmp_path / "functions")
    with ServerProcess(functions, tmp_path / "data", environment=Gates(tmp_path).environment) as server:
        assert server.stop() == 0
    ended = evolute("profile", "--data", str(tmp_path / "data"))
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert "No server runs on the data folder" in ended.stderr


# --- dev -----------------------------------------------------------------------------------------------------------


def test_the_banner_tells_all_that_one_needs(server: ServerProcess) -> None:
    server.wait_for("admin key")
    banner = re.sub(r"\s+", " ", server.output)
    assert f"evolute serves {server.functions}/ on {server.url}" in banner
    assert re.search(r"queries .*counters:get.*\(faults:hidden\).* mutations .*counters:add.*\(jobs:explode\)", banner)
    assert re.search(r"actions faults:acted, gated:act, values:echo_late", banner)
    assert f"data {server.data}/" in banner
    assert f"admin key {server.data}/admin_key" in banner
    assert stat.S_IMODE((server.data / "admin_key").stat().st_mode) == 0o600
    assert (server.data / "admin_key").read_text().strip() not in server.output


def test_the_terminal_shows_log_lines_and_tracebacks_with_their_functions(server: ServerProcess) -> None:
    with RawSession(server.url) as client:
        client.mutate("jobs:plan_add", name="planned")
        client.mutate("faults:raised")
        client.mutate("jobs:plan")
        client.value(client.add("counters:get", name="planned"), 1)
    time_of_day = r"\d\d:\d\d:\d\d  "
    server.wait_for(time_of_day + r"jobs:plan_add +mutation +[\d.]+ ms\n +\[LOG\] planning planned\n")
    server.wait_for(
        time_of_day + r"faults:raised +mutation +failed\n +\[LOG\] about to fail\n +Uncaught ValueError: boom\n"
        r' +File "functions/faults\.py", line \d+, in raised\n +raise ValueError\("boom"\)\n'
    )
    server.wait_for(
        time_of_day + r"jobs:explode +mutation \(scheduled\) +failed\n +Uncaught ValueError: scheduled boom\n"
        r' +File "functions/jobs\.py", line \d+, in explode\n'
    )
    assert "counters:get" not in server.output.partition("admin key")[2], "a run that has nothing to say is not shown"


# --- run -----------------------------------------------------------------------------------------------------------


def run_command(server: ServerProcess, *arguments: str) -> list[str]:
    return ["run", "--url", server.url, "--data", str(server.data), *arguments]


def run(server: ServerProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    return evolute(*run_command(server, *arguments))


def test_run_prints_the_result(server: ServerProcess) -> None:
    added = run(server, "counters:add", '{"name": "run", "amount": 5}')
    assert (added.returncode, added.stdout) == (0, "5\n"), added.stderr
    hidden = run(server, "faults:hidden")
    assert (hidden.returncode, hidden.stdout) == (0, '"internal"\n'), hidden.stderr
    logged = run(server, "jobs:plan_add", '{"name": "run by hand"}')
    assert (logged.returncode, logged.stdout) == (0, "null\n")
    assert "[LOG] planning run by hand" in logged.stderr


RUNS_THAT_FAIL: list[tuple[list[str], str]] = [
    (["counters:add", "{amount: 5}"], "the arguments are not JSON"),
    (["counters:add", "[5]"], "the arguments must be a JSON object"),
    (["counters:add", '{"amount": "x"}'], "ArgumentValidationError"),
    (["counters:nothing"], "Could not find function for 'counters:nothing'"),
    (["faults:raised"], "ValueError: boom"),
    (["faults:told"], 'ConvexError: {\n  "code": 7,\n  "why": "because"\n}'),
    (["counters:get", "--url", "http://127.0.0.1:1"], "cannot reach http://127.0.0.1:1"),
    (["counters:get", "--url", "nonsense"], "a server's address looks like http://127.0.0.1:3210"),
    (["counters:get", "--data", "nowhere"], "there is no admin key at nowhere/admin_key"),
]


def test_run_says_what_failed_on_stderr(server: ServerProcess) -> None:
    done = evolute_all([run_command(server, *arguments) for arguments, _ in RUNS_THAT_FAIL])
    for failed, (arguments, complaint) in zip(done, RUNS_THAT_FAIL, strict=True):
        assert (failed.returncode, failed.stdout) == (1, ""), arguments
        assert complaint in failed.stderr
        assert "Traceback" not in failed.stderr


def test_run_needs_the_right_key(server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("evolute|wrong")
    failed = run(server, "counters:get", "--key-file", str(tmp_path / "key"))
    assert failed.returncode == 1
    assert len(failed.stderr.splitlines()) == 1
    assert "admin key" in failed.stderr


# --- Refusals ------------------------------------------------------------------------------------------------------


def test_a_start_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    for name in ("functions", "my-functions", "class", "newer", "older", "keyless"):
        (tmp_path / name).mkdir()
    (tmp_path / "newer" / "format").write_text("99\n")
    (tmp_path / "older" / "format").write_text("1\n")
    (tmp_path / "keyless" / "admin_key").write_text("")
    (tmp_path / "file").write_text("")
    cases = [
        (["--functions", "missing"], r"there is no functions folder at .*/missing; name one with --functions"),
        (["--functions", "my-functions"], r"'my-functions' is not a Python name"),
        (["--functions", "class"], r"'class' is not a Python name"),
        (["--data", "newer"], r"has format version '99'; this program reads version \d+"),
        (["--data", "older"], r"has format version '1'; this program reads version \d+\. Run the program that wrote"),
        (["--data", "file"], r"The data folder .*/file cannot be used: it, or a part of its path, is a file"),
        (["--data", "keyless"], r"admin_key holds no admin key"),
        (["--host", "203.0.113.1"], r"cannot listen on 203\.0\.113\.1:0: "),
    ]
    commands = []
    for arguments, _ in cases:
        option, value = arguments
        given = {"--functions": str(tmp_path / "functions"), "--data": str(tmp_path / "data"), "--port": "0"}
        given[option] = value if option == "--host" else str(tmp_path / value)
        commands.append(["dev", *(word for pair in given.items() for word in pair)])
    for done, (_, complaint) in zip(evolute_all(commands), cases, strict=True):
        assert_refused(done, complaint)


def test_a_variable_that_is_wrong_is_named(tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir()
    cases = {
        "QUERY_USER_MS_MAX=soon": "EVOLUTE_QUERY_USER_MS_MAX must be a whole number, got 'soon'",
        "READERS_MAX=-1": "readers_max must be a whole number from 2 on, got -1",
        "JOBS_RUNNING_MAX=0": "jobs_running_max must be a whole number from 1 on, got 0",
        "HEARTBEAT_MS=40000": "heartbeat_ms must be less than 30000",
        "DOCUMENT_DEPTH_MAX=100": "document_depth_max must be at most value_depth_max",
        "FAILPOINT=nowhere": "unknown failpoint 'nowhere'",
    }
    given = ["dev", "--functions", str(tmp_path / "functions"), "--port", "0", "--data"]

    def start(number: int, setting: str) -> subprocess.CompletedProcess[str]:
        name, _, value = setting.partition("=")
        return evolute(*given, str(tmp_path / f"data{number}"), environment={f"EVOLUTE_{name}": value})

    with ThreadPoolExecutor(COMMANDS_AT_ONCE) as pool:
        done = list(pool.map(start, range(len(cases)), cases))
    for refused, complaint in zip(done, cases.values(), strict=True):
        assert_refused(refused, re.escape(complaint))


def test_the_numbers_of_workers_of_both_kinds_can_be_given(tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir()
    given = ["--functions", str(tmp_path / "functions"), "--data", str(tmp_path / "data"), "--port", "0"]
    for command in ("dev", "serve"):
        refused = evolute(
            command, *given, "--workers", "3", "--action-workers", "2", environment={"EVOLUTE_READERS_MAX": "12"}
        )
        assert_refused(refused, "readers_max must be at least 13 with 3 workers and 2 action workers")


def test_a_port_that_is_in_use_is_named(server: ServerProcess, tmp_path: Path) -> None:
    given = ["--functions", str(server.functions), "--data", str(tmp_path / "data"), "--port", str(server.port)]
    assert_refused(evolute("dev", *given), f"port {server.port} is in use on 127.0.0.1; choose another with --port")


def test_a_data_folder_serves_one_server(server: ServerProcess) -> None:
    given = ["--functions", str(server.functions), "--data", str(server.data), "--port", "0"]
    assert_refused(evolute("dev", *given), f"is in use by a server, process {server.process.pid}")
    with RawSession(server.url) as client:
        assert client.mutate("counters:add", name="unharmed")["result"] == 1


def assert_refused(done: subprocess.CompletedProcess[str], complaint: str) -> None:
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert re.search(complaint, line), line


def test_serve_refuses_a_broken_folder_and_shows_every_fault(tmp_path: Path) -> None:
    functions = write_functions(tmp_path / "functions", {"one.py": "import nowhere\n", "two.py": "def broken(:\n"})
    done = evolute("serve", "--functions", str(functions), "--data", str(tmp_path / "data"), "--port", "0")
    assert done.returncode == 1
    assert "2 faults" in done.stderr
    assert "ModuleNotFoundError: No module named 'nowhere'" in done.stderr
    assert "SyntaxError" in done.stderr
    assert "runtime/evolute/" not in done.stderr


def test_serve_tells_clients_no_more_of_an_error_than_its_data(tmp_path: Path) -> None:
    """Nor what was printed. `--full-errors` does, and so does the log, for who has the key."""
    functions = write_functions(tmp_path / "functions")

    def told(*options: str) -> tuple[Any, Any, str]:
        with (
            ServerProcess(
                functions,
                tmp_path / "data",
                command="serve",
                options=options,
                environment=Gates(tmp_path).environment,
            ) as server,
            RawSession(server.url) as client,
        ):
            answer = client.mutate("faults:raised")
            _, reply = post(server.url, "/api/mutation", {"path": "faults:told", "args": {}})
            post(server.url, "/api/query", {"path": "faults:nothing", "args": {}})
            server.stop()
            return answer, reply, server.output

    answer, reply, output = told()
    for text in (answer["result"], reply["errorMessage"]):
        assert f"{text.removesuffix(' Server Error')} Uncaught " in output, "who is told an id can ask what it was"
    assert "ValueError: boom" in output
    assert "faults:nothing" not in output
    assert re.fullmatch(r"\[Request ID: [0-9a-f]{16}\] Server Error", answer["result"])
    assert answer["logLines"] == []
    assert re.fullmatch(r"\[Request ID: [0-9a-f]{16}\] Server Error", reply["errorMessage"])
    assert reply["errorData"] == {"code": 7, "why": "because"}
    answer, reply, output = told("--full-errors")
    assert "Request ID" not in output
    assert "ValueError: boom" in answer["result"]
    assert answer["logLines"] == ["[LOG] about to fail"]
    assert "functions/faults.py" in reply["errorMessage"]


def test_dev_serves_what_it_served_last_if_the_folder_is_broken(tmp_path: Path) -> None:
    functions = write_functions(tmp_path / "functions", {"one.py": APP["plain.py"]})
    with ServerProcess(functions, tmp_path / "data") as first:
        assert first.stop() == 0
    (functions / "one.py").write_text("import nowhere\n")
    with ServerProcess(functions, tmp_path / "data") as second, RawSession(second.url) as client:
        second.wait_for("the folder was not loaded; the old code keeps serving(.|\n)*ModuleNotFoundError")
        client.value(client.add("one"), "default")
        assert second.stop() == 0


# --- The end -------------------------------------------------------------------------------------------------------


def wait_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while any(map(alive, pids)):
        assert time.monotonic() < deadline, f"{[pid for pid in pids if alive(pid)]} are still there"
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_runs_is_finished_answered_and_shown(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C reaches the whole process group, and so does the TERM of some service managers."""
    gates = Gates(tmp_path)
    functions = write_functions(tmp_path / "functions")
    with ServerProcess(functions, tmp_path / "data", environment=gates.environment) as server:
        workers = server.children()
        with RawSession(server.url) as mutating, RawSession(server.url) as acting, RawSession(server.url) as idle:
            query = mutating.add("counters:get", name="mutated")
            mutating.value(query, 0)
            idle.value(idle.add("counters:get", name="idle"), 0)
            mutation = mutating.request("Mutation", "gated:mutate", gate=0, name="mutated")
            action = acting.request("Action", "gated:act", gate=1, name="acted")
            for gate in (0, 1):
                gates.wait_reached(gate)
            os.killpg(server.process.pid, number)
            server.wait_deaf()
            assert idle.closed() == (1012, "ServerShuttingDown")
            late = mutating.request("Mutation", "counters:add", name="late")
            for gate in (0, 1):
                gates.open(gate)
            assert mutating.covered(mutation)["result"] == 1
            assert mutating.closed() == (1012, "ServerShuttingDown")
            assert mutating.results[query]["value"] == 1
            assert late not in mutating.answers, "it is sent again to the next server"
            assert acting.closed() == (1012, "ServerShuttingDown")
            assert acting.answers[action]["result"] == 1, "what an action calls still runs"
        assert server.wait() == 0
        wait_gone(workers)
        assert "Traceback" not in server.output
        assert "WARNING" not in server.output
        assert "ERROR" not in server.output


def test_a_client_goes_from_one_server_to_the_next(tmp_path: Path) -> None:
    """What was in flight is done once, and the subscription goes on."""
    gates = Gates(tmp_path)
    functions = write_functions(tmp_path / "functions")

    async def test(first: ServerProcess) -> None:
        async with (
            asyncio.timeout(2 * PATIENCE_S),
            Client(first.url) as client,
            client.subscribe("counters:get") as results,
        ):
            assert await anext(results) == 0
            mutation = asyncio.create_task(client.mutation("gated:mutate", gate=0))
            queued = asyncio.create_task(client.mutation("counters:add"))
            await asyncio.to_thread(gates.wait_reached, 0)
            first.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(first.wait_deaf)
            gates.open(0)
            assert await mutation == 1
            assert await asyncio.to_thread(first.wait) == 0
            with ServerProcess(functions, tmp_path / "data", port=first.port, environment=gates.environment) as second:
                assert await queued == 2
                while await anext(results) != 2:
                    pass
                assert await asyncio.to_thread(second.stop) == 0

    with ServerProcess(functions, tmp_path / "data", environment=gates.environment) as first:
        asyncio.run(test(first))


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    gates = Gates(tmp_path)
    functions = write_functions(tmp_path / "functions")
    with ServerProcess(functions, tmp_path / "data", environment=gates.environment) as server:
        workers = server.children()
        assert len(workers) == 3
        with RawSession(server.url) as client:
            client.request("Mutation", "gated:mutate", gate=0)
            gates.wait_reached(0)
            os.killpg(server.process.pid, signal.SIGINT)
            server.wait_deaf()
            os.killpg(server.process.pid, signal.SIGINT)
            assert server.wait() == 130
        wait_gone(workers)
        assert "Traceback" not in server.output


def test_a_start_can_be_called_off(tmp_path: Path) -> None:
    functions = write_functions(tmp_path / "functions", {"slow.py": "import time\ntime.sleep(60)\n"})
    server = ServerProcess(functions, tmp_path / "data")
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not (workers := server.children()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert server.stop(signal.SIGINT) == 0
        wait_gone(workers)
        assert server.output == ""
    finally:
        server.close()


def test_what_outlives_the_time_to_shut_down_is_answered_with_its_reason(tmp_path: Path) -> None:
    gates = Gates(tmp_path)
    functions = write_functions(tmp_path / "functions")

    async def test(server: ServerProcess) -> None:
        body = {"path": "gated:act", "args": {"gate": 0}}
        answer = asyncio.create_task(asyncio.to_thread(post, server.url, "/api/action", body))
        await asyncio.to_thread(gates.wait_reached, 0)
        started = time.monotonic()
        assert await asyncio.to_thread(server.stop) == 0
        assert time.monotonic() - started < 5
        status, told = await answer
        assert (status, told["code"]) == (503, "ShuttingDown")
        assert "Traceback" not in server.output

    environment = {**gates.environment, "EVOLUTE_SHUTDOWN_MS_MAX": "1000"}
    with ServerProcess(functions, tmp_path / "data", environment=environment) as server:
        asyncio.run(test(server))


def test_calls_over_http_are_answered_before_the_end(tmp_path: Path) -> None:
    gates = Gates(tmp_path)
    functions = write_functions(tmp_path / "functions")

    async def test(server: ServerProcess) -> None:
        body = {"path": "gated:mutate", "args": {"gate": 0}}
        answer = asyncio.create_task(asyncio.to_thread(post, server.url, "/api/mutation", body))
        await asyncio.to_thread(gates.wait_reached, 0)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(server.wait_deaf)
        gates.open(0)
        assert await answer == (200, {"status": "success", "value": 1, "logLines": ["[LOG] at the gate"]})
        assert await asyncio.to_thread(server.wait) == 0

    with ServerProcess(functions, tmp_path / "data", environment=gates.environment) as server:
        asyncio.run(test(server))
