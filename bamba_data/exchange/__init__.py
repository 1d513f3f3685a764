"""Datasets handed on: to the file formats that other trainers read, from them, and to a hub.

in        a published dataset, and the delimiters that its reader wants; or token files of another trainer
out       files that the other side's own reader opens; or a published dataset
invariant streams in bounded memory; a kill at any point loses nothing that was written down; what is there already and
          is not the same export is refused, never overwritten
"""
