"""The heart of a Mamba2 block as torch custom ops: causal convolution, chunked SSD scan, gated norm; forward and
backward, in Triton on a GPU and in plain torch on a CPU, behind the same op. What each costs: docs/kernels.md.

    from trainer.kernels.ops import mix, scan
"""
