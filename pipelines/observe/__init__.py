"""How a build goes and how it went: progress, status in the store, metrics for Prometheus, a report.

in        events of the driver and counters of the workers
out       lines on a terminal, records that outlive the cluster, a page of HTML
invariant what is said of a run is read from its records
"""
