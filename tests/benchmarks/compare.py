"""One benchmark against another commit's runtime, in turns: theirs, this tree's, theirs, this tree's.

The benchmark is this tree's in both cases; only `runtime/` and `client/` are of the commit, which is laid out in a
temporary folder. A figure is the median of its rounds; its ratio is the median of the ratios of rounds side by side.

uv run python -m tests.benchmarks.compare main transfers --over websocket --rounds 1
uv run python -m tests.benchmarks.compare --times 5 HEAD~3 latency
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.measures import ROOT, Figures, show

HERE = "this tree"


class BenchmarkFailed(Exception):
    """It ended with an error."""


@contextmanager
def tree_of(ref: str) -> Iterator[Path]:
    """The files of that commit. Raises CalledProcessError if there is none."""
    with tempfile.TemporaryDirectory(prefix="evolute-compare-") as folder:
        tree = Path(folder) / "tree"
        git("worktree", "add", "--quiet", "--detach", str(tree), ref)
        try:
            yield tree
        finally:
            git("worktree", "remove", "--force", str(tree))


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def environment_of(tree: Path) -> dict[str, str]:
    """In which `import evolute` is that of the tree, whatever is installed."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(str(tree / folder) for folder in ("runtime", "client"))}


def check_runtime(tree: Path) -> None:
    """That the tree's runtime is the one that will run: a comparison of one with itself looks just as good."""
    program = "import evolute; print(evolute.__file__)"
    command = [sys.executable, "-c", program]
    found = subprocess.run(command, env=environment_of(tree), check=True, stdout=subprocess.PIPE, text=True).stdout
    assert Path(found.strip()).is_relative_to(tree), f"{found.strip()} would run instead of {tree}"


def run(tree: Path, benchmark: str, arguments: Sequence[str]) -> Figures:
    """Raises BenchmarkFailed with the end of what it said."""
    command = [sys.executable, "-m", f"tests.benchmarks.{benchmark}", *arguments, "--json"]
    done = subprocess.run(command, cwd=ROOT, env=environment_of(tree), capture_output=True, text=True)
    if done.returncode != 0:
        raise BenchmarkFailed(f"{benchmark} with the runtime of {tree} failed:\n{done.stderr[-2000:]}")
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def comparison(ref: str, theirs: Sequence[Figures], ours: Sequence[Figures]) -> dict[str, Figures]:
    """A row for each figure that is a number in all rounds, and the ratio of ours to theirs unless that is zero."""
    rows: dict[str, Figures] = {}
    for name in ours[0]:
        their_values, our_values = numbers(name, theirs), numbers(name, ours)
        if their_values is None or our_values is None:
            continue
        row: Figures = {ref: statistics.median(their_values), HERE: statistics.median(our_values)}
        if all(their_values):
            row["ratio"] = statistics.median(our / their for their, our in zip(their_values, our_values, strict=True))
        rows[name] = row
    return rows


def numbers(name: str, rounds: Sequence[Figures]) -> list[float] | None:
    """The figure of that name in each round; None unless all are numbers."""
    found = [figures.get(name) for figures in rounds]
    values = [float(value) for value in found if isinstance(value, int | float) and not isinstance(value, bool)]
    return values if len(values) == len(found) else None


def main() -> None:
    parser = argparse.ArgumentParser(description="Runs a benchmark against another commit's runtime and this tree's.")
    parser.add_argument("--times", type=int, default=3, help="how often each of the two is run (default: 3)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("ref", help="a commit")
    parser.add_argument("benchmark", help="the name of one, such as transfers")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the benchmark")
    options = parser.parse_args()
    theirs: list[Figures] = []
    ours: list[Figures] = []
    with tree_of(options.ref) as tree:
        for one in (tree, ROOT):
            check_runtime(one)
        for _ in range(options.times):
            try:
                theirs.append(run(tree, options.benchmark, options.arguments))
                ours.append(run(ROOT, options.benchmark, options.arguments))
            except BenchmarkFailed as failed:
                sys.exit(str(failed))
    title = f"{options.benchmark} {' '.join(options.arguments)}".strip()
    rows = comparison(options.ref, theirs, ours)
    show(f"{title}: {options.ref} and this tree", {"times": options.times}, as_json=options.json, rows=rows)


if __name__ == "__main__":
    main()
