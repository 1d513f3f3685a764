"""The Bamba hybrid in plain torch: Mamba2 blocks with a few attention blocks between them, the same code on a CPU and
on GPUs.

in        ids, documents and positions, each (batch, tokens)
out       the summed loss and one loss a token, or logits
invariant documents that share a row never see each other
"""
