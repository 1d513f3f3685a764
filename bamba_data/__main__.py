"""`python -m bamba_data`: the command `bamba-data`, where a shell does not find it."""

from importlib import import_module

if __name__ == "__main__":
    # By name, not by a statement: the commands stand on the floors above, of which this one imports nothing.
    import_module("bamba.pipelines.cli").main()
