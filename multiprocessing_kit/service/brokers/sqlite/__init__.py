"""Jobs on a SQLite server; see `broker`."""
