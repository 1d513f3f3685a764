"""The loader inside other frameworks: what each asks of it, and what each must not do to its rows.

in        a loader, a framework's data-loader interface
out       the framework's view of the same batches and the same state
invariant the order stays ours: a wrapper that would change rows is refused
"""
