// Integers on CPUs: the noise factors of kernels/matrix_noise.py, and the place of a row's largest
// bf16. Both are exact.

#include <cstdint>
#include <cstring>

namespace {

// Philox blocks made at once. With 16, GCC unrolls the loops before it would vectorise them, and
// everything takes ten times as long.
constexpr int kLanes = 32;

// Philox 4x32-10 (Salmon et al. 2011) on kLanes consecutive blocks at once. Words lie in 64 bits,
// of which the upper half is ignored: the form that a processor multiplies without moving lanes.
void philox_blocks(uint32_t words[4][kLanes], uint32_t block, uint32_t c1, uint32_t c2,
                   uint32_t c3, uint32_t k0, uint32_t k1) {
  uint64_t a[kLanes], b[kLanes], c[kLanes], d[kLanes];
  for (int l = 0; l < kLanes; ++l) {
    a[l] = block + uint32_t(l);
    b[l] = c1;
    c[l] = c2;
    d[l] = c3;
  }
  for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u)
    for (int l = 0; l < kLanes; ++l) {
      const uint64_t first = uint64_t(0xD2511F53u) * uint32_t(a[l]);
      const uint64_t second = uint64_t(0xCD9E8D57u) * uint32_t(c[l]);
      a[l] = (second >> 32) ^ b[l] ^ k0;
      b[l] = second;
      c[l] = (first >> 32) ^ d[l] ^ k1;
      d[l] = first;
    }
  for (int l = 0; l < kLanes; ++l) {
    words[0][l] = uint32_t(a[l]);
    words[1][l] = uint32_t(b[l]);
    words[2][l] = uint32_t(c[l]);
    words[3][l] = uint32_t(d[l]);
  }
}

// bf16 bits as integers in the numbers' order; -0 equals +0.
inline int16_t ordered(uint16_t bits) {
  const uint16_t same = bits == 0x8000u ? 0 : bits;
  return int16_t(same ^ (uint16_t(int16_t(same) >> 15) & 0x7fffu));
}

} // namespace

extern "C" {

// First index of each row's largest bf16, as argmax of the same numbers in fp32; no NaN among them.
void es_argmax(int64_t *index, const uint16_t *values, int64_t num_rows, int64_t width,
               int64_t stride) {
#pragma omp parallel for schedule(static) if (num_rows > 1)
  for (int64_t row = 0; row < num_rows; ++row) {
    const uint16_t *from = values + row * stride;
    int16_t largest = INT16_MIN;
    for (int64_t i = 0; i < width; ++i) {
      const int16_t key = ordered(from[i]);
      largest = key > largest ? key : largest;
    }
    int64_t found = 0;
    while (ordered(from[found]) != largest) ++found;
    index[row] = found;
  }
}

// Columns [first, stop) of the (rank, width) factors of every pair; kind 0 binomial, 1 +-1.
void es_fill_noise(int8_t *out, const int64_t *pairs, int64_t num_pairs, int64_t rank,
                   int64_t width, int64_t first, int64_t stop, int64_t pair_stride,
                   int64_t rank_stride, uint32_t parameter_word, uint32_t generation, uint32_t k0,
                   uint32_t k1, int32_t kind) {
  const int64_t elements = kind == 0 ? 4 : 128; // of one Philox block
  const int64_t blocks = (width + elements - 1) / elements;
#pragma omp parallel for schedule(static) collapse(2)
  for (int64_t n = 0; n < num_pairs; ++n)
    for (int64_t k = 0; k < rank; ++k) {
      int8_t *row = out + n * pair_stride + k * rank_stride - first;
      for (int64_t block = first / elements; block * elements < stop; block += kLanes) {
        uint32_t words[4][kLanes];
        philox_blocks(words, uint32_t(k * blocks + block), parameter_word, uint32_t(pairs[n]),
                      generation, k0, k1);
        int8_t values[128 * kLanes];
        if (kind == 0) {
          for (int l = 0; l < kLanes; ++l)
            for (int w = 0; w < 4; ++w)
              values[4 * l + w] = int8_t(__builtin_popcount(words[w][l]) - 16);
        } else {
          for (int l = 0; l < kLanes; ++l)
            for (int w = 0; w < 4; ++w)
              for (int bit = 0; bit < 32; ++bit)
                values[128 * l + 32 * w + bit] = int8_t(2 * int((words[w][l] >> bit) & 1u) - 1);
        }
        const int64_t begin = block * elements;
        const int64_t from = begin > first ? begin : first;
        const int64_t to = begin + kLanes * elements < stop ? begin + kLanes * elements : stop;
        std::memcpy(row + from, values + (from - begin), size_t(to - from));
      }
    }
}
}
