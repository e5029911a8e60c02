"""The imperative shell: effects through ports, decisions by the core."""
