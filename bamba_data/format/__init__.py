"""The published dataset: what lies where, and what each file says.

in        shards of token ids, with lineage
out       a manifest that lists them, and a version that names the manifest
invariant nothing is believed that a digest does not vouch for; all but versions and records is named by content
"""
