"""system: typed access to the tables that the runtime keeps for itself."""
