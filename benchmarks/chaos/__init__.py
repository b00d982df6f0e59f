"""What becomes of jobs when things die: `python -m benchmarks.chaos`.

fire   ──signals──▶ subject ── maps ──▶ its children      ours, for some time, counted
table ──▶ cell, one process for each fault and pool       ours and the peers, once each
"""
