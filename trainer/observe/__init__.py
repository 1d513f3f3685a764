"""What a run tells: metrics, trackers, profiles, health of its devices, memory by arithmetic.

in        the numbers of each step
out       lines, files, trackers
invariant nothing here ends a training
"""
