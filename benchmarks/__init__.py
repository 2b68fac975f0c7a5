"""How fast it is: `python -m benchmarks [names…] [--short]`, or `make bench`, prints one table.

Every library that is measured runs in a process of its own (a *subject*) and is told over a pipe what to do. Those that
keep their data in the same kind of store are a *family*: they take turns, several rounds of them, so that whatever else
the machine does meets all of them alike; the table shows medians, and ratios are medians of the ratios of each round.
The last column is the share of the processors that other programs used meanwhile: where it is high, only the ratios
mean something. Where something was asked for, a mark says whether it is met. A subject that breaks has a line that says
so, as has a peer that is not installed.

=====================  ================================================================================================
`bench_*.py`           one benchmark each; found by their names
`stores.py`            the stores they run on: one line each
`servers.py`           the private servers of these stores
`workloads.py`         the workflows and sizes; `rows.py` the executions that `find` chooses among
`ours.py`              the subject that is this library
`bounds/`              the limit on each store: the same workload through a group-committing writer and nothing else
`peers/`               the same workload on other libraries, in environments that `benchmarks/peers/setup` makes
`subject.py`           what runs in a measured process; `processes.py` is the other end of its pipe
`measure.py`           the turns and the statistics; `compare.py` what is asked for
=====================  ================================================================================================
"""
