"""What `model pretrain` refuses before it asks for machines."""

import pytest

from bamba_data.errors import UserError
from pipelines.ray_jobs.pretrain import pretrain


@pytest.mark.parametrize(
    ("ranks", "least", "why"),
    [
        (3, 3, "--ranks 3 is no multiple of compute.context_ranks 2"),
        (4, 2, "--least 2 with --ranks 4: Ray may form a group of any size between them"),
    ],
)
def test_groups_whose_ranks_cannot_share_rows_are_refused(ranks: int, least: int, why: str) -> None:
    with pytest.raises(UserError, match=why):
        pretrain(
            "tiny-cpu-long",
            {"name": "x", "compute": {"context_ranks": 2}},
            "/out",
            ["/data"],
            [],
            ranks=ranks,
            least=least,
            gpu=False,
            cores=1.0,
            address=None,
            restarts=0,
            retry_stopped=False,
        )
