"""Where a picture may go: asked before anything is computed."""

from pathlib import Path

from bamba_data.errors import UserError

FORMATS = (".png", ".svg", ".pdf")


def refuse_picture(picture: Path) -> None:
    """`UserError` for a name that says no format of ours; of the folder `cli.options.in_a_folder` knows."""
    if picture.suffix not in FORMATS:
        raise UserError(f"--plot {picture}: the name must end in {', '.join(FORMATS)}")
