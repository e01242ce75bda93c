"""`python -m evolute` is the command `evolute`."""

from __future__ import annotations

from evolute.cli.main import main

if __name__ == "__main__":
    main()
