"""The heart of a Mamba2 block as torch custom ops: causal convolution, chunked SSD scan, gated norm; forward and
backward, in Triton on a GPU and in plain torch on a CPU, behind the same op. What each costs: docs/kernels.md.

    ops            the torch ops; each in a file, mix_op, step_op, scan_op, swiglu_op: signature,
                   checks (checks), fakes, autograd, FLOP formulas
    add_product_op a weight's gradient added to its float32 sum, by torch's product on both
    backends       which implementation an op runs
    reference      the mathematics in plain torch, adamw_reference that of the update; triton_backend the same by the
                   kernels
    conv, ssd_*, gated_norm, step, swiglu, float8_cast, adamw_step    the kernels, by what they compute
    tiles, launch, math    what they share
    tuned_launches which launch a kernel takes on which GPU
    supported      the sizes that there are kernels for

invariant documents of one row are apart to the bit, and the same call gives the same bits

    from trainer.kernels.ops import mix, scan
"""
