/* RandAugment's loops over the pixels of an image in C.
 *
 * Optional: `pixel_loops_c.py` calls these if they were built. Results equal those of `pixel_loops.py`, which is used otherwise
 * (tests/data/images/test_pixel_loops_c.py). Images are rows of 32-bit words: red, green, blue and a meaningless byte.
 * The caller checks sizes.
 */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Wide vectors if the processor has them, else the baseline's. */
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define VECTORISED __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#else
#define VECTORISED
#endif

/* Version of the functions' names and arguments; `pixel_loops_c.py` accepts no other. */
const int albef_ds_loops_version = 1;

/* Histograms of red, green and blue. */
void count_values(const uint8_t *pixels, size_t number, int64_t counts[3][256]) {
    uint32_t partial[2][3][256]; /* two, so that equal neighbours do not wait for each other */
    memset(partial, 0, sizeof partial);
    for (size_t i = 0; i < number; i++)
        for (int c = 0; c < 3; c++) partial[i & 1][c][pixels[4 * i + c]]++;
    for (int c = 0; c < 3; c++)
        for (int v = 0; v < 256; v++) counts[c][v] = (int64_t)partial[0][c][v] + partial[1][c][v];
}

/* Red, green and blue each through its table, over what stood there. */
void look_up(uint8_t *pixels, size_t number, const uint8_t tables[3][256]) {
    for (size_t i = 0; i < number; i++)
        for (int c = 0; c < 3; c++) pixels[4 * i + c] = tables[c][pixels[4 * i + c]];
}

/* Weighted sums of `neighbours` words each: word i of the result is of words[places[k][i]] by weights[k][i], which are 256 in
 * sum. Two channels stand in each half of a word, 16 bits apart, and no sum leaves its 16 bits. */
VECTORISED
void blend(const uint32_t *restrict words, size_t number, int neighbours, const int32_t *restrict places,
           const uint16_t *restrict weights, uint32_t *restrict result) {
    const uint32_t low = 0x00FF00FF, half = 0x00800080;
    enum { BLOCK = 256 };
    for (size_t start = 0; start < number; start += BLOCK) {
        size_t length = number - start < BLOCK ? number - start : BLOCK;
        uint32_t even[BLOCK], odd[BLOCK];
        for (size_t i = 0; i < length; i++) even[i] = odd[i] = half;
        for (int k = 0; k < neighbours; k++) {
            const int32_t *place = places + k * number + start;
            const uint16_t *weight = weights + k * number + start;
            for (size_t i = 0; i < length; i++) {
                uint32_t word = words[place[i]], share = weight[i];
                even[i] += (word & low) * share;
                odd[i] += ((word >> 8) & low) * share;
            }
        }
        for (size_t i = 0; i < length; i++) result[start + i] = ((even[i] >> 8) & low) | (odd[i] & ~low);
    }
}

/* image + strength / 256 * (image - smoothed image), at least 3 x 3; the outermost pixels stay. */
VECTORISED
void sharpen(const uint8_t *restrict pixels, int height, int width, int strength, uint8_t *restrict result) {
    size_t stride = (size_t)4 * width;
    memcpy(result, pixels, stride * height);
    for (int y = 1; y < height - 1; y++) {
        const uint8_t *above = pixels + stride * (y - 1), *here = above + stride, *below = here + stride;
        uint8_t *out = result + stride * y;
        for (size_t x = 4; x < stride - 4; x++) {
            uint16_t around = above[x - 4] + above[x] + above[x + 4] + here[x - 4] + here[x + 4] + below[x - 4] + below[x] + below[x + 4];
            /* Its own weight is 5, that of its neighbours 1. A thirteenth: 5042 / 65536 is one, rounded down, up to 3321. */
            int16_t smooth = (uint16_t)(around + 5 * here[x] + 6) * 5042u >> 16;
            int16_t value = here[x] + ((int16_t)((here[x] - smooth) * strength) >> 8);
            out[x] = value < 0 ? 0 : value > 255 ? 255 : value;
        }
    }
}
