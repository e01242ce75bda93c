"""Both published clients behind a proxy that cuts, delays and duplicates their connections, while they write and watch.

Afterwards npm's client has had each of its mutations happen once, and PyPI's, which comes back with a new session every
time, at least once. What a subscriber was shown never went back, and in the end it is the truth.

`--chaos-seconds N` makes it longer, `--seed N` another one.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.end_to_end import test_npm_client, test_pypi_client
from tests.end_to_end.app_under_test import Gates, write_functions
from tests.end_to_end.chaos_proxy import ChaosProxy
from tests.end_to_end.raw_session import RawSession
from tests.end_to_end.server_process import ServerProcess

NPM = """
const { counters } = anyApi;
let stopping = false;
process.stdin.once("data", () => { stopping = true; });
const shown = watch(counters.get, { name: "npm" });
const values = [];
while (!stopping) {
  const batch = [0, 1, 2].map(() => client.mutation(counters.add, { name: "npm" }));
  values.push(...(await Promise.all(batch)));
}
assert.deepEqual(values, values.map((_, number) => number + 1), "each happened once, in order");
await shown.until((value) => value === values.length);
assert.deepEqual(shown.seen, [...shown.seen].sort((one, other) => one - other), "nothing is taken back");
console.log(`did ${values.length}`);
"""

PYPI = """
import threading
stopping = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), stopping.set()), daemon=True).start()
results = client.subscribe("counters:get", {"name": "pypi"})
values = []
while not stopping.is_set():
    try:
        values.append(client.mutation("counters:add", {"name": "pypi"}))
    except Exception as error:
        assert "channel closed" in str(error), error
wait_connected()
assert values == sorted(set(values)), "each answer is later than the one before"
total = client.query("counters:get", {"name": "pypi"})
assert total >= len(values)
while next(results) != total:
    pass
print("did", len(values), flush=True)
"""


def test_what_clients_do_happens_as_often_as_promised(
    node_folder: Path, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    seed = pytestconfig.getoption("--seed") or 1
    functions = write_functions(tmp_path / "functions")
    data = tmp_path / "data"
    with (
        ServerProcess(functions, data, environment=Gates(tmp_path).environment) as server,
        ChaosProxy(server.port, seed) as proxy,
        test_npm_client.Node(node_folder).program(NPM, proxy.url) as npm,
        test_pypi_client.program(PYPI, proxy.url) as pypi,
    ):
        time.sleep(pytestconfig.getoption("--chaos-seconds"))
        proxy.calm()
        for client in (npm, pypi):
            client.say("stop")
        did = [int(client.finish()[-1].removeprefix("did ")) for client in (npm, pypi)]
        assert proxy.cuts > 3, "the clients were left in peace"
        assert proxy.twins > 0
        with RawSession(server.url) as looking:
            totals = [looking.mutate("counters:look", name=name)["result"] for name in ("npm", "pypi")]
        assert server.stop() == 0
    assert totals[0] == did[0] > 0
    assert totals[1] >= did[1] > 0
    check = [sys.executable, "-m", "evolute", "check", "--data", str(data)]
    assert subprocess.run(check, capture_output=True, text=True).returncode == 0
