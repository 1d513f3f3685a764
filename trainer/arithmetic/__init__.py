"""What a model costs to serve, by arithmetic: parameters, FLOP and bytes by part, rooflines, throughput beside another.

in        the shape of a model (a recipe, a run, a config.json) and the data sheet of a GPU
out       tables, JSON, a picture
invariant upper bounds of speed: what is counted must be done, and nothing else is
"""
