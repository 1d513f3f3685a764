"""What a checkpoint can do: tasks of lm-evaluation-harness on the trainer's own model, and suites of them."""
