"""How to learn from it: the Bamba hybrid (Mamba2 + attention), its kernels, and the way to Hugging Face and back.

in        a recipe (config) and a feed of rows (data)
out       a folder of checkpoints, lines of metrics, and a model (hf)
invariant a run learns the same on any number of ranks, however often it is stopped on the way

In the order of a step:

    data         a rank's rows of each step, as tensors             batch, feed
    model        rows -> a loss a token                             bamba, mamba2, attention
    kernels      the Mamba2 block as one op, in Triton and torch    ops
    step         micro-batches, one update, one vector of numbers   Stepper
    optim        the update: AdamW, learning rate                   adamw
    distributed  one model on many processes                        fsdp
    checkpoint   the whole state in one commit                      manager
    observe      what a run tells                                   metrics
    train        all of it, from the first step to the last         Run
"""

import bamba

bamba.unite(__name__)
