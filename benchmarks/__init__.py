"""Ours beside its peers: one command a question, each result with its date, machine, versions."""
