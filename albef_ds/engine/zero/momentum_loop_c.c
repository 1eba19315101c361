/* The update of a momentum copy that is an fp16 value and an fp16 residual, in one pass over memory.
 *
 * Optional: `momentum_loop.py` calls it if it was built and the processor can. The bits equal those of `average_in_torch` in
 * momentum_storage.py (tests/engine/zero/test_momentum_loop.py): each operation rounds as torch's. Addresses need no alignment.
 */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Version of the functions' names and arguments; `momentum_loop.py` accepts no other. */
const int albef_ds_momentum_loop_version = 1;

/* Precisions of the student's weights. */
enum { FP32, FP16, BF16 };
enum { AHEAD = 256 }; /* weights between the one computed and the one prefetched */

#define ARGUMENTS const void *student, int kind, uint16_t *value, uint16_t *residual, size_t number, float weight
#define INLINE static inline __attribute__((always_inline))

/* Defines average_SET, which sets the copy of `number` weights, value + residual / 2^12, to its interpolation with the student's
 * by `weight`, from 0 to 1, LANES at a time. TARGET permits the instructions of the functions with _SET in their names.
 *
 * The average is torch's lerp: it starts from the end that weighs more, and product and sum round once, together. Products with
 * 2^12 and 2^-12 are exact. The reference splits the sum of value and rounded residual again. That changes them only where
 * - the residual is 2^12 times half the distance to the next value on its side: a power of two, not below the value's own, or
 * - the residual is -0, which is so only beside values up to 2^-13, or the value is -0, or
 * - the residual is infinite, or the value is and the residual, infinity less infinity, is 0x7E00 or 0xFE00.
 * In all of these the residual's last 9 bits are 0, and its magnitude is not below that of the value less 0x800, two powers of
 * two: `again` is true for them and few others, about one weight in 700. */
#define DEFINE(SET, TARGET, LANES)                                                                                          \
    TARGET INLINE void step_##SET(const void *student, int kind, uint16_t *value, uint16_t *residual, floats_##SET weight,  \
                                  int from_student) {                                                                       \
        floats_##SET copy = widen_##SET(load_##SET(value)) + widen_##SET(load_##SET(residual)) * 0x1p-12f, target;          \
        if (kind == FP16) target = widen_##SET(load_##SET(student));                                                        \
        if (kind == FP32) memcpy(&target, student, sizeof target);                                                          \
        if (kind == BF16) {                                                                                                 \
            uint32_t bits[LANES];                                                                                           \
            for (int k = 0; k < LANES; k++) bits[k] = (uint32_t)((const uint16_t *)student)[k] << 16;                       \
            memcpy(&target, bits, sizeof target);                                                                           \
        }                                                                                                                   \
        floats_##SET exact = multiply_add_##SET(weight, target - copy, from_student ? target : copy);                       \
        halves_##SET high = narrow_##SET(exact);                                                                            \
        halves_##SET low = narrow_##SET((exact - widen_##SET(high)) * 0x1p12f);                                             \
        shorts_##SET v = (shorts_##SET)high, r = (shorts_##SET)low;                                                         \
        if (__builtin_expect(again_##SET(v, r), 0)) {                                                                        \
            exact = widen_##SET(high) + widen_##SET(low) * 0x1p-12f;                                                        \
            high = narrow_##SET(exact);                                                                                     \
            low = narrow_##SET((exact - widen_##SET(high)) * 0x1p12f);                                                      \
        }                                                                                                                   \
        memcpy(value, &high, sizeof high);                                                                                  \
        memcpy(residual, &low, sizeof low);                                                                                 \
    }                                                                                                                       \
    TARGET INLINE void run_##SET(ARGUMENTS, int from_student) {                                                             \
        const char *from = student;                                                                                         \
        size_t width = kind == FP32 ? 4 : 2, rest = number % LANES, end = number - rest;                                    \
        floats_##SET zero = {0}, factor = zero + (from_student ? weight - 1.0f : weight);                                   \
        for (size_t i = 0; i < end; i += LANES) {                                                                           \
            __builtin_prefetch(from + (i + AHEAD) * width, 0);                                                              \
            __builtin_prefetch(value + i + AHEAD, 1);                                                                       \
            __builtin_prefetch(residual + i + AHEAD, 1);                                                                    \
            step_##SET(from + i * width, kind, value + i, residual + i, factor, from_student);                              \
        }                                                                                                                   \
        uint32_t last[LANES] = {0}; /* the last ones pass through the same instructions, in vectors of their own */         \
        uint16_t last_value[LANES] = {0}, last_residual[LANES] = {0};                                                       \
        memcpy(last, from + end * width, rest * width);                                                                     \
        memcpy(last_value, value + end, rest * sizeof *value);                                                              \
        memcpy(last_residual, residual + end, rest * sizeof *residual);                                                     \
        step_##SET(last, kind, last_value, last_residual, factor, from_student);                                            \
        memcpy(value + end, last_value, rest * sizeof *value);                                                              \
        memcpy(residual + end, last_residual, rest * sizeof *residual);                                                     \
    }                                                                                                                       \
    TARGET static void average_##SET(ARGUMENTS) {                                                                           \
        if (kind == FP32 && weight < 0.5f) run_##SET(student, FP32, value, residual, number, weight, 0);                    \
        if (kind == FP32 && !(weight < 0.5f)) run_##SET(student, FP32, value, residual, number, weight, 1);                 \
        if (kind == FP16 && weight < 0.5f) run_##SET(student, FP16, value, residual, number, weight, 0);                    \
        if (kind == FP16 && !(weight < 0.5f)) run_##SET(student, FP16, value, residual, number, weight, 1);                 \
        if (kind == BF16 && weight < 0.5f) run_##SET(student, BF16, value, residual, number, weight, 0);                    \
        if (kind == BF16 && !(weight < 0.5f)) run_##SET(student, BF16, value, residual, number, weight, 1);                 \
    }

#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__)

#include <immintrin.h>

#define AVX2 __attribute__((target("avx2,f16c,fma")))
typedef __m256 floats_avx2;
typedef __m128i halves_avx2;
typedef int16_t shorts_avx2 __attribute__((vector_size(16)));
AVX2 INLINE halves_avx2 load_avx2(const void *from) { return _mm_loadu_si128(from); }
AVX2 INLINE floats_avx2 widen_avx2(halves_avx2 x) { return _mm256_cvtph_ps(x); }
AVX2 INLINE halves_avx2 narrow_avx2(floats_avx2 x) { return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT); }
AVX2 INLINE floats_avx2 multiply_add_avx2(floats_avx2 a, floats_avx2 b, floats_avx2 c) { return _mm256_fmadd_ps(a, b, c); }
AVX2 INLINE int again_avx2(shorts_avx2 v, shorts_avx2 r) {
    return !_mm_testc_si128((halves_avx2)((v & 0x7FFF) - 0x800 > (r & 0x7FFF)), (halves_avx2)((r & 0x1FF) == 0));
}
DEFINE(avx2, AVX2, 8)

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx2,f16c,fma")))
typedef __m512 floats_avx512;
typedef __m256i halves_avx512;
typedef int16_t shorts_avx512 __attribute__((vector_size(32)));
AVX512 INLINE halves_avx512 load_avx512(const void *from) { return _mm256_loadu_si256(from); }
AVX512 INLINE floats_avx512 widen_avx512(halves_avx512 x) { return _mm512_cvtph_ps(x); }
AVX512 INLINE halves_avx512 narrow_avx512(floats_avx512 x) { return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT); }
AVX512 INLINE floats_avx512 multiply_add_avx512(floats_avx512 a, floats_avx512 b, floats_avx512 c) {
    return _mm512_fmadd_ps(a, b, c);
}
AVX512 INLINE int again_avx512(shorts_avx512 v, shorts_avx512 r) {
    __mmask16 round = _mm256_testn_epi16_mask((halves_avx512)r, _mm256_set1_epi16(0x1FF));
    return _mm256_mask_cmple_epi16_mask(round, (halves_avx512)((v & 0x7FFF) - 0x800), (halves_avx512)(r & 0x7FFF));
}
DEFINE(avx512, AVX512, 16)

void (*const momentum_average[])(ARGUMENTS) = {average_avx2, average_avx512};

/* How many of `momentum_average` this processor can run; the last of these is the fastest. */
int momentum_average_forms(void) {
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") ? 2 : 1;
}

#elif defined(__aarch64__) && defined(__GNUC__)

typedef float floats_neon __attribute__((vector_size(32)));
typedef uint16_t halves_neon __attribute__((vector_size(16)));
typedef int16_t shorts_neon __attribute__((vector_size(16)));

INLINE halves_neon load_neon(const void *from) {
    halves_neon x;
    memcpy(&x, from, sizeof x);
    return x;
}

INLINE floats_neon widen_neon(halves_neon x) {
    __fp16 halves[8];
    floats_neon wide;
    memcpy(halves, &x, sizeof x);
    for (int k = 0; k < 8; k++) wide[k] = halves[k];
    return wide;
}

INLINE halves_neon narrow_neon(floats_neon x) {
    __fp16 halves[8];
    for (int k = 0; k < 8; k++) halves[k] = x[k];
    return load_neon(halves);
}

INLINE floats_neon multiply_add_neon(floats_neon a, floats_neon b, floats_neon c) {
    for (int k = 0; k < 8; k++) c[k] = __builtin_fmaf(a[k], b[k], c[k]);
    return c;
}

INLINE int again_neon(shorts_neon v, shorts_neon r) {
    shorts_neon again = ((r & 0x1FF) == 0) & ((v & 0x7FFF) - 0x800 <= (r & 0x7FFF));
    int found = 0;
    for (int k = 0; k < 8; k++) found |= again[k];
    return found;
}
DEFINE(neon, , 8)

void (*const momentum_average[])(ARGUMENTS) = {average_neon};
int momentum_average_forms(void) { return 1; }

#else

void (*const momentum_average[])(ARGUMENTS) = {0};
int momentum_average_forms(void) { return 0; }

#endif
