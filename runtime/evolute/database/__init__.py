"""Documents, indexes and transactions over the ordered bytes of the store; the write log, and what is asked of it."""
