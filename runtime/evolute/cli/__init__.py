"""The command line: `evolute dev`, `evolute serve`, `evolute run`, `evolute jobs`, `evolute crons`."""
