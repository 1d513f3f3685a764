"""To llama.cpp: a checkpoint as one GGUF file, with its tokenizer.

in        a checkpoint, and a tokenizer.json
out       a file that llama.cpp, and what is built on it, opens
invariant what GGUF or llama.cpp cannot say of a model or a tokenizer is refused: no file computes something else
"""
