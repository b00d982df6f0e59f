"""Forked children: start, watch, stop. Knows nothing of jobs."""
