"""The value model and everything that reads or writes a value: wire JSON, index keys, ids, validators, schemas."""
