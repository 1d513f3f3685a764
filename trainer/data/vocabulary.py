"""Whether a model's vocabulary holds all ids that a dataset's tokenizer gives."""

from bamba_data.errors import UserError


def vocabulary_note(vocab_size: int, ids: int) -> str | None:
    """What to tell people where the model has more rows than there are ids (padding to a round number is no mistake);
    None where it has as many. `UserError` where it has fewer: a token would look beyond the embedding."""
    if vocab_size < ids:
        raise UserError(
            f"model.vocab_size is {vocab_size:,}, but the dataset's tokenizer has {ids:,} ids: set it to {ids} or more"
        )
    if vocab_size == ids:
        return None
    rows = f"the last {vocab_size - ids:,} rows of embedding and head are padding and never seen"
    return f"model.vocab_size {vocab_size:,}: the dataset's tokenizer has {ids:,} ids, so {rows}"
