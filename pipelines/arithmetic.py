"""`python -m pipelines.arithmetic`: see pipelines/dataset_build/capacity.py."""

from .dataset_build.capacity import main

if __name__ == "__main__":
    main()
