"""Bytes from where they lie, and to where they go: local disk, S3, http(s), the hub.

in        a URL, or a locked file (URL, size, digest)
out       bytes that were verified, or an error that says who must act
invariant a file is what its lock says, or it is refused; a write is whole or absent
"""
