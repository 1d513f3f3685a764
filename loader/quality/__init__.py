"""The shuffle on trial: statistics that an ideal shuffle passes, run on ours and on others beside it.

in        orders of rows, or a dataset as it is served
out       p-values, a judgement, plots
invariant judged by what Fisher-Yates gives in the same battery
"""
