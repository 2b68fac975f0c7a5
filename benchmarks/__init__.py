"""How fast it is: `python -m benchmarks [names…] [--short]`, or `make bench`, prints one table.

Every library that is measured runs in a process of its own (a *subject*) and is told over a pipe what to do. The
subjects take turns, several rounds of them, so that whatever else the machine does meets all of them alike; the table
shows medians, and ratios are medians of the ratios of each round. The last column is the share of the processors that
other programs used meanwhile: where it is high, only the ratios mean something.

=====================  ================================================================================================
`bench_*.py`           one benchmark each; found by their names
`stores.py`            the stores they run on: one line each
`workloads.py`         the workflows and sizes
`bound.py`             the limit: the same workload through a group-committing SQLite writer and nothing else
`peers/`               the same workload on other libraries, in an environment that `benchmarks/peers/setup` makes
`subject.py`           what runs in a measured process; `measure.py` is the other end of its pipe, and the statistics
=====================  ================================================================================================
"""
