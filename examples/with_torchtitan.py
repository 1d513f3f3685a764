"""Give torchtitan's trainer a published dataset: its loader interface, called as the trainer calls it.

    python examples/with_torchtitan.py demo-dataset titan-run        # where torchtitan is installed

In a configuration of torchtitan one line is all: `config.dataloader = OrderedDataLoader.Config(dataset=url, …)`. This
file does by hand what the trainer then does, for the trainer itself wants a GPU: it builds the loader of each data
rank, and keeps its state in a distributed checkpoint. Unlike torchtitan's own loaders ours resumes on another number of
ranks, and with another batch.

Prints the rows of five batches by two ranks, and of five more by one.
"""

import sys

from torch.distributed import checkpoint as dcp

from loader.torchtitan import OrderedDataLoader

SEQ_LEN = 64


def ranks_of(config: OrderedDataLoader.Config, dp_world_size: int, local_batch_size: int) -> list[OrderedDataLoader]:
    """The loader of every data rank, as torchtitan builds it."""
    return [
        config.build(
            dp_world_size=dp_world_size,
            dp_rank=rank,
            tokenizer=None,  # the trainer gives its own, and a vocabulary too small for the data is refused
            seq_len=SEQ_LEN,
            local_batch_size=local_batch_size,
            snapshot_every_n_steps=None,
        )
        for rank in range(dp_world_size)
    ]


def main(url: str = "demo-dataset", out: str = "titan-run") -> None:
    config = OrderedDataLoader.Config(dataset=url, weights={"books": 3, "fineweb-edu": 1}, seed=7)

    ranks = ranks_of(config, dp_world_size=2, local_batch_size=4)
    for batches in zip(range(5), *ranks, strict=False):
        shapes = [list(inputs["input"].shape) for inputs, labels in batches[1:]]
    print(f"two ranks: 5 batches of {shapes}, then row {ranks[0].state_dict()['row']}")
    dcp.save({"dataloader": ranks[0]}, checkpoint_id=out)  # the same on every rank

    (alone,) = ranks_of(config, dp_world_size=1, local_batch_size=6)
    dcp.load({"dataloader": alone}, checkpoint_id=out)
    for _, (inputs, labels) in zip(range(5), alone, strict=False):
        assert inputs["positions"].shape == labels.shape
    print(f"one rank: 5 batches of {list(labels.shape)}, then row {alone.state_dict()['row']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
