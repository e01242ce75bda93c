"""The outside: sockets, HTTP and credentials. Everything that arrives here becomes a Call, a session or an error."""
