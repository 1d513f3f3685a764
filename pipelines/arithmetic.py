"""`python -m pipelines.arithmetic`: see pipelines/observe/capacity.py."""

from .observe.capacity import main

if __name__ == "__main__":
    main()
