"""One client's reactive view: what it has been told, what it still must be told, and in which order."""
