"""The update: AdamW in float32 or on bfloat16 weights, learning rate, how gradients come together.

in        gradients of micro-batches on every rank
out       new weights
invariant a step without a finite gradient is left undone, on all ranks alike
"""
