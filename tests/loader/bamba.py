"""The mix that Bamba was trained on in its first phase: 19 sources of Dolma, 384 rows a batch."""

WEIGHTS = (1456, 1835, 1558, 1851, 450, 1500, 300, 236, 114, 200, 100, 62, 27, 11, 51, 49, 100, 55, 45)
BATCH_ROWS = 384
