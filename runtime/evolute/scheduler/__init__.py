"""The background executor: runs what is due, through the same door as clients' calls."""
