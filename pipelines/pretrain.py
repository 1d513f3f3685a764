"""`python -m pipelines.pretrain`: see pipelines/ray_jobs/pretrain.py."""

from .ray_jobs.pretrain import main

if __name__ == "__main__":
    main()
