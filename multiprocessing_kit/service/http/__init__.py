"""The service's door for other programs: HTTP.

client ──▶ connections (how many, how long silent) ──▶ access (log, token) ──▶ bodies (how large)
       ──▶ app ──▶ calls: a few threads, each with a connection to the broker
"""
