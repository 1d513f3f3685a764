"""Everything that touches Ray: run tasks, submit jobs, ask a cluster what it lacks.

in        idempotent tasks
out       their results, each task run until it succeeded or its error stops the build
invariant a lost worker or machine costs time; what counts lies in the store
"""
