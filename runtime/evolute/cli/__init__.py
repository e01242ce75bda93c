"""The command line: `evolute dev`, `serve`, `run`, `jobs`, `crons`, `check`, `compact`."""
