"""How fast could it be? The same workloads through a writer that commits in groups, and nothing else.

Every step is durable before the next one begins: an encoded entry of the size ours has, and the head row of its
execution. One writer makes one transaction of whatever all executions have produced meanwhile. There is no engine: no
definition, no variables, no lease, no recovery. `journal.py` says what a writer is; there is one per store.
"""
