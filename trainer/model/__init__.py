"""The Bamba hybrid in plain torch: Mamba2 blocks with a few attention blocks between them, the same code on a CPU and
on GPUs. Documents that share a row never see each other."""
