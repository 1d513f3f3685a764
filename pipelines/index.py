"""`python -m pipelines.index`: see pipelines/ray_jobs/text_index.py."""

from .ray_jobs.text_index import main

if __name__ == "__main__":
    main()
