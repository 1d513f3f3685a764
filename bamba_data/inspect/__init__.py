"""A published dataset seen by people: shown, counted, verified, traced, compared, and cleared of what nothing needs.

in        the URL of a dataset
out       values that the command line prints
invariant only `garbage` removes anything, when asked, under the fence
"""
