"""A cron of the deployment's; `tickets:begin` makes the others."""

from __future__ import annotations

from evolute import Crons, interval

crons = Crons()
crons.add("static", interval(seconds=1), "work:count", cron="static")
