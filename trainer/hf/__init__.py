"""To Hugging Face and back: a checkpoint as a folder that opens as `BambaForCausalLM`, bit for bit.

in        a checkpoint, or a Hugging Face folder
out       a Hugging Face folder, or a checkpoint
invariant each field of config.json that changes the function is understood or refused
"""
