"""Jobs on a Redis server; see `broker`."""
