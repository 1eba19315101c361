/* Means of boxes of an image in C, with the values of Pillow's `Image.reduce`.
 *
 * Optional: `box_means.py` calls it if it was built. The caller checks sizes.
 */

#include <stdint.h>
#include <string.h>

/* Wide vectors if the processor has them, else the baseline's. */
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define VECTORISED __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#else
#define VECTORISED
#endif

/* Version of the functions' names and arguments; `box_means.py` accepts no other. */
const int albef_ds_box_means_version = 1;

/* The factor by which Pillow multiplies instead of dividing by `number`; it divides in single precision. */
static uint32_t reciprocal(uint32_t number) { return (uint32_t)(4294967296.0f / (256u * number)); }

/* The means of `rows` by `columns` boxes of red, green, blue pixels, as red, green, blue and 0; boxes at the right and lower edges
 * are smaller where the size does not divide. `sums` holds 3 * width numbers; `rows` is at
 * most 257, so that no sum of a column leaves its 16 bits. */
VECTORISED
void box_means(const uint8_t *restrict pixels, int height, int width, int rows, int columns, uint16_t *restrict sums,
               uint8_t *restrict result) {
    int length = 3 * width;
    for (int top = 0; top < height; top += rows) {
        int tall = height - top < rows ? height - top : rows;
        const uint8_t *line = pixels + (size_t)length * top, *next = line + length;
        if (tall & 1)
            for (int x = 0; x < length; x++) sums[x] = line[x];
        else
            for (int x = 0; x < length; x++) sums[x] = line[x] + next[x];
        for (int y = 2 - (tall & 1); y < tall; y += 2) { /* by two, for fewer passes over the sums */
            line = pixels + (size_t)length * (top + y), next = line + length;
            for (int x = 0; x < length; x++) sums[x] += line[x] + next[x];
        }
        for (int left = 0; left < width; left += columns) {
            int wide = width - left < columns ? width - left : columns;
            uint32_t number = (uint32_t)tall * wide, factor = reciprocal(number);
            uint32_t red = number / 2, green = red, blue = red;
            for (int x = 3 * left; x < 3 * (left + wide); x += 3) red += sums[x], green += sums[x + 1], blue += sums[x + 2];
            *result++ = red * factor >> 24;
            *result++ = green * factor >> 24;
            *result++ = blue * factor >> 24;
            *result++ = 0;
        }
    }
}
