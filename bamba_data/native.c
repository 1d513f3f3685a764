/* The loops of a loader that numpy has no word for: called by bamba_data/native.py, which checks every argument.

   Plain C without Python's headers, so that one file serves every Python. Ids are little-endian, as in a shard. Nothing
   here allocates, and nothing reads or writes beyond the sizes that it is given. */

#include <stdint.h>
#include <string.h>

#define MASKED (-100)

/* A column page in parquet's encoding PLAIN, [length, bytes] a document, becomes ids end to end, in its own place, and a
   count of ids each. https://parquet.apache.org/docs/file-format/data-pages/encodings/#plain-plain--0
   0 if the page is exactly `documents` of `tokens` ids of `width` bytes, else -1. */
int64_t bamba_plain_page(uint8_t *page, int64_t page_bytes, int64_t documents, int64_t tokens, int64_t width,
                         uint32_t *counts) {
    int64_t at = 0, written = 0;
    for (int64_t n = 0; n < documents; n++) {
        if (page_bytes - at < 4) return -1;
        int64_t length = (int64_t)page[at] | (int64_t)page[at + 1] << 8 | (int64_t)page[at + 2] << 16 |
                         (int64_t)page[at + 3] << 24;
        at += 4;
        if (length > page_bytes - at || length % width) return -1;
        memmove(page + written, page + at, length);
        counts[n] = (uint32_t)(length / width);
        at += length;
        written += length;
    }
    return at == page_bytes && written / width == tokens ? 0 : -1;
}

/* Ranges [begins[n], ends[n]) of `ids`, one after the other, each between `before` and `after`, into `out`; all lengths
   and places are in bytes. -1 if a range is none of `ids`, or together they are not exactly `out`. */
int64_t bamba_lay_out(const uint8_t *ids, int64_t ids_bytes, const int64_t *begins, const int64_t *ends, int64_t ranges,
                      const uint8_t *before, int64_t before_bytes, const uint8_t *after, int64_t after_bytes,
                      uint8_t *out, int64_t out_bytes) {
    int64_t left = out_bytes;
    for (int64_t n = 0; n < ranges; n++) {
        if (begins[n] < 0 || ends[n] < begins[n] || ends[n] > ids_bytes) return -1;
        int64_t length = ends[n] - begins[n];
        if (left < length + before_bytes + after_bytes) return -1;
        memcpy(out, before, before_bytes);
        memcpy(out + before_bytes, ids + begins[n], length);
        memcpy(out + before_bytes + length, after, after_bytes);
        out += before_bytes + length + after_bytes;
        left -= before_bytes + length + after_bytes;
    }
    return left ? -1 : 0;
}

/* What a row is cut from: ids [begin, end) of a segment, whose documents begin at `starts`. */
typedef struct {
    int64_t ids, starts, documents, end, begin; /* the first two are addresses; a `begin` below 0 is the row's */
} Piece;

static int64_t first_from(const int32_t *starts, int64_t documents, int64_t begin) {
    int64_t low = 0, high = documents;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (starts[middle] < begin) low = middle + 1;
        else high = middle;
    }
    return low;
}

static void run(int64_t begin, int64_t end, int32_t number, int64_t *positions, int32_t *numbers) {
    if (positions)
        for (int64_t at = begin; at < end; at++) positions[at] = at - begin;
    if (numbers)
        for (int64_t at = begin; at < end; at++) numbers[at] = number;
}

#define COPY(NAME, ID)                                                                                                 \
    static void NAME(const ID *from, int64_t count, int64_t at, int64_t tokens, int64_t *ids, int64_t *labels) {       \
        int64_t own = count < tokens - at ? count : tokens - at;                                                       \
        if (ids)                                                                                                       \
            for (int64_t n = 0; n < own; n++) ids[at + n] = from[n];                                                   \
        if (labels)                                                                                                    \
            for (int64_t n = at == 0; n < count; n++) labels[at + n - 1] = from[n];                                    \
    }
COPY(copy_2, uint16_t)
COPY(copy_4, uint32_t)

/* Rows of `tokens` each, and an id more of each to look ahead where anything but ids is wanted. `plan` has the pieces of
   every row, and after those of a row that they do not fill one without ids: the rest is fill. A piece gives as many
   ids as there is room. An output that is not wanted is NULL. `bounds` gets where documents begin in the rows end to
   end; how many they are is returned. What each output means: loader/collate.py. */
int64_t bamba_rows(const Piece *plan, const int64_t *begins, int64_t rows, int64_t tokens, int64_t width, int64_t *ids,
                   int64_t *labels, int64_t *positions, int32_t *numbers, int32_t *bounds) {
    int64_t found = 0, needs_runs = labels || positions || numbers || bounds, wanted = tokens + (needs_runs != 0);
    for (int64_t row = 0; row < rows; row++) {
        int64_t at = 0, begin = 0;
        int32_t number = 0;
        if (bounds) bounds[found++] = (int32_t)(row * tokens);
        while (at < wanted) {
            const Piece *piece = plan++;
            if (!piece->ids) break;
            int64_t first = piece->begin < 0 ? begins[row] : piece->begin, count = piece->end - first;
            if (count > wanted - at) count = wanted - at;
            if (width == 2) copy_2((const uint16_t *)(intptr_t)piece->ids + first, count, at, tokens, ids, labels);
            else copy_4((const uint32_t *)(intptr_t)piece->ids + first, count, at, tokens, ids, labels);
            if (needs_runs) {
                const int32_t *starts = (const int32_t *)(intptr_t)piece->starts;
                int64_t k = first_from(starts, piece->documents, first);
                for (; k < piece->documents && starts[k] < first + count; k++) {
                    int64_t start = starts[k] - first + at;
                    if (start == begin) continue; /* the row's own begin, or after a document without tokens */
                    run(begin, start < tokens ? start : tokens, number++, positions, numbers);
                    if (labels) labels[start - 1] = MASKED;
                    if (bounds && start < tokens) bounds[found++] = (int32_t)(row * tokens + start);
                    begin = start;
                }
            }
            at += count;
        }
        if (at <= tokens) { /* what fills up is one more document */
            if (at) {
                run(begin, at, number++, positions, numbers);
                if (bounds && at < tokens) bounds[found++] = (int32_t)(row * tokens + at);
                begin = at;
            }
            if (ids) memset(ids + at, 0, (tokens - at) * sizeof(int64_t));
            if (labels)
                for (int64_t n = at ? at - 1 : 0; n < tokens; n++) labels[n] = MASKED;
        }
        run(begin, tokens, number, positions, numbers);
        if (ids) ids += tokens;
        if (labels) labels += tokens;
        if (positions) positions += tokens;
        if (numbers) numbers += tokens;
    }
    if (bounds) bounds[found++] = (int32_t)(rows * tokens);
    return found;
}
