"""The mix that Bamba was trained on in its first phase: 19 sources of Dolma, 384 rows a batch."""

NAMES = (
    *("cc_en_head", "cc_en_middle", "cc_en_tail", "falcon", "starcoder", "c4", "reddit", "pes2o", "arxiv"),
    *("stackexchange", "tulu_flan", "cc_news_head", "cc_news_middle", "cc_news_tail", "open-web-math"),
    *("algebraic-stack", "books", "megawika", "wiki"),
)
WEIGHTS = (1456, 1835, 1558, 1851, 450, 1500, 300, 236, 114, 200, 100, 62, 27, 11, 51, 49, 100, 55, 45)
BATCH_ROWS = 384
#: The same by name, as a plan has them.
BY_NAME = tuple(weight for _, weight in sorted(zip(NAMES, WEIGHTS, strict=True)))
