"""Tasks of ours in the form of lm-evaluation-harness: PopQA, which it lacks, and BBQ with the answers shown."""
