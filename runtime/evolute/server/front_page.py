"""What a person sees who opens the server's address: what runs here, and nothing that needs a login."""

from __future__ import annotations

from collections import Counter
from html import escape

from evolute.registry.registry import RegistryReport

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>evolute</title>
<style>
  :root {{ color-scheme: light dark }}
  body {{ font: 16px/1.6 ui-monospace, Menlo, Consolas, monospace; max-width: 34rem; margin: 18vh auto; padding: 1rem }}
  h1 {{ font-size: 1rem; margin: 0 }}
  p {{ margin: 0; opacity: .7 }}
</style>
<h1>evolute {version}</h1>
<p>{functions}</p>
"""


def front_page(version: str, report: RegistryReport) -> str:
    """Counts the public functions; internal ones are nobody's business here."""
    counts = Counter(function.kind for function in report.functions.values() if function.visibility == "public")
    shown = ", ".join(_count(counts[kind], kind) for kind in ("query", "mutation", "action") if counts[kind])
    return _PAGE.format(version=escape(version), functions=escape(shown or "no public functions yet"))


def _count(count: int, kind: str) -> str:
    plural = {"query": "queries", "mutation": "mutations", "action": "actions"}[kind]
    return f"{count} {kind if count == 1 else plural}"
