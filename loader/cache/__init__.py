"""What the processes of a host share on its disk: files that are whole or absent, mapped as read-only memory.

in        arrays that were computed from verified data
out       the same arrays, without computing them again
invariant a damaged file is made anew; a full disk costs time, not rows
"""
