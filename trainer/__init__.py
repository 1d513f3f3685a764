"""How to learn from it: the Bamba hybrid (Mamba2 + attention), its kernels, and the way to Hugging Face and back."""

import bamba

bamba.unite(__name__)
