"""Write on from texts: prompts are read in pieces, then a token a step, with what the layers remember kept."""
