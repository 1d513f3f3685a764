"""What a dataset's folder says to people and to other tools: README.md and croissant.json, beside the shards.

in        a place with versions, and who changed which of them is offered
out       README.md, a dataset card that `datasets.load_dataset(FOLDER)` reads; croissant.json, the same for Croissant
invariant no part of the identity: nothing of ours reads them. What somebody else wrote there is never replaced unasked
"""
