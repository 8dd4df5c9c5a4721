"""The run folder protocol: layout, event log, status, lock, atomic writes and the report."""
