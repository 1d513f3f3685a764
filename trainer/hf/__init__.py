"""To Hugging Face and back: a checkpoint as a folder that opens in transformers and vLLM, bit for bit.

    layouts.py     the one table of what an export can be, and the command's work
    form.py        what a folder says: one form each class of transformers (bamba_*.py, granite_*.py)
    export.py      writes a folder, shard by shard
    importing.py   reads one back

in        a checkpoint, or a Hugging Face folder
out       a Hugging Face folder, or a checkpoint
invariant each field of config.json that changes the function is understood or refused
"""
