"""A model for longer texts than it was trained on: a search of rotary factors, and the model written with them."""
