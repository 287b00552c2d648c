// Vectors of floats as GCC and Clang offer them, and the functions of the network on them.
//
// The compiler's flags decide the number of lanes. Nothing here is specific to one instruction set.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

namespace rerank {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef int32_t Integers __attribute__((vector_size(4 * LANES)));
using AllLanes = std::make_integer_sequence<int, LANES>;

// Unrolls the next loop, of at most 16 turns, so that arrays of vectors stay in registers.
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

constexpr float MASKED = -1e9f;  // logit of a candidate that is not available, as in the graph

inline Vector load(const float* from) {
  Vector v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

inline void store(float* to, Vector v) { std::memcpy(to, &v, sizeof v); }

// Keep a vector in a register: GCC may otherwise load it again for every row that it multiplies.
inline void keep(Vector& v) {
#if defined(__x86_64__)
  asm("" : "+v"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#endif
}

inline Vector broadcast(float x) { return x - Vector{}; }

// Lanes from `count` on become MASKED.
template <int... I>
inline Vector mask_beyond(Vector v, int64_t count, std::integer_sequence<int, I...>) {
  const Integers lanes = {I...};
  return lanes < static_cast<int32_t>(count) ? v : broadcast(MASKED);
}

// A constant that the compiler does not see, so that a comparison with it becomes a maximum or
// minimum instruction: GCC misses those with constants.
inline Vector hidden(float x) {
  Vector v = broadcast(x);
  keep(v);
  return v;
}

// Numbers of floats that fill whole vectors.
inline int64_t padded(int64_t count) { return (count + LANES - 1) / LANES * LANES; }

// Lanes `FIRST`, `FIRST + 1` ... of a vector.
template <int FIRST, class V, int... I>
inline auto part(V v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, (FIRST + I)...);
}

// Combine all lanes by halves; the operation must be associative up to rounding.
template <int N, class V, class Operation>
inline float fold(V v, Operation operation) {
  if constexpr (N == 2) {
    return operation(v[0], v[1]);
  } else {
    using Half = std::make_integer_sequence<int, N / 2>;
    return fold<N / 2>(operation(part<0>(v, Half{}), part<N / 2>(v, Half{})), operation);
  }
}

inline float sum(Vector v) {
  return fold<LANES>(v, [](auto a, auto b) { return a + b; });
}

// Sum each of LANES vectors into the lane of its number, halving their number STEP by STEP.
template <int STEP, int... I>
inline Vector add_halves(Vector a, Vector b, std::integer_sequence<int, I...>) {
  const Vector straight = __builtin_shufflevector(a, b, ((I & STEP) ? LANES + I : I)...);
  return straight + __builtin_shufflevector(a, b, ((I & STEP) ? LANES + I - STEP : I + STEP)...);
}

template <int STEP = LANES / 2>
inline Vector sum_each(Vector (&rows)[LANES]) {
  UNROLL
  for (int i = 0; i < STEP; i++)
    rows[i] = add_halves<STEP>(rows[i], rows[i + STEP], AllLanes{});
  if constexpr (STEP > 1) return sum_each<STEP / 2>(rows);
  else return rows[0];
}

inline float maximum(Vector v) {
  return fold<LANES>(v, [](auto a, auto b) { return a > b ? a : b; });
}

// e^x for -87 <= x <= 88, relative error about 1e-7.
//
// Cody and Waite: e^x = 2^n e^r with r = x - n ln 2 in two parts. The polynomial of e^r is that of
// Cephes (expf). Adding 1.5 * 2^23 rounds to an integer, which then lies in the low bits.
inline Vector exponential_within(Vector x) {
  const Vector rounder = broadcast(12582912.0f);
  const Vector shifted = x * 1.44269504f + rounder;
  const Vector n = shifted - rounder;
  Integers bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits - 0x4b400000 + 127) << 23;  // 0x4b400000 are the bits of the rounder
  Vector power;
  std::memcpy(&power, &bits, sizeof power);
  const Vector r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vector p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  return (p * (r * r) + r + 1.0f) * power;
}

// e^x for x <= 0; below -87 it is 1.6e-38. NaN stays NaN, because of the order of the operands.
inline Vector decay(Vector x) {
  const Vector low = hidden(-87.0f);
  return exponential_within(low > x ? low : x);
}

// e^x; below -87 it is 1.6e-38 and above 88 it is 1.7e38.
inline Vector exponential(Vector x) {
  const Vector high = hidden(88.0f);
  return decay(high < x ? high : x);
}

// GELU by erf, absolute error about 2e-7 times max(1, |x|).
//
// It is x (1/2 + b q(b^2)) where b is x within [-5.3, 5.3]; beyond, the normal distribution is
// within 6e-8 of 0 or 1. The polynomial is a minimax fit of q in s = 2 (b / 5.3)^2 - 1, whose terms
// stay small, so that neither an exponential nor a division is needed.
inline Vector gelu(Vector x) {
  const Vector low = hidden(-5.3f), high = hidden(5.3f);
  Vector b = low > x ? low : x;
  b = high < b ? high : b;
  const Vector s = b * b * 7.1199715e-2f - 1.0f;
  Vector p = s * -6.2386889691e-04f + 1.6424984444e-03f;
  p = p * s - 1.5060816583e-03f;
  p = p * s + 1.9902924984e-03f;
  p = p * s - 5.3928832655e-03f;
  p = p * s + 9.5394029709e-03f;
  p = p * s - 1.3427551872e-02f;
  p = p * s + 1.8699829180e-02f;
  p = p * s - 2.5236537323e-02f;
  p = p * s + 3.2113572752e-02f;
  p = p * s - 3.9595601958e-02f;
  p = p * s + 4.9262248628e-02f;
  p = p * s - 6.6518303165e-02f;
  p = p * s + 1.3339258005e-01f;
  return x * (b * p + 0.5f);
}

// Natural logarithm of positive normal numbers, relative error about 1e-7 (Cephes, logf).
inline Vector logarithm(Vector x) {
  Integers bits;
  std::memcpy(&bits, &x, sizeof bits);
  // x = 2^n m with m in [sqrt 1/2, sqrt 2); 0x3f3504f3 are the bits of sqrt 1/2.
  const Integers above = bits - 0x3f3504f3;
  const Integers n = above >> 23;
  bits = (above & 0x007fffff) + 0x3f3504f3;
  Vector m, exponent;
  std::memcpy(&m, &bits, sizeof m);
  exponent = __builtin_convertvector(n, Vector);
  const Vector r = m - 1.0f, square = r * r;
  Vector p = r * 7.0376836292e-2f - 1.1514610310e-1f;
  p = p * r + 1.1676998740e-1f;
  p = p * r - 1.2420140846e-1f;
  p = p * r + 1.4249322787e-1f;
  p = p * r - 1.6668057665e-1f;
  p = p * r + 2.0000714765e-1f;
  p = p * r - 2.4999993993e-1f;
  p = p * r + 3.3333331174e-1f;
  p = p * r * square - 2.12194440e-4f * exponent - 0.5f * square;
  return (r + p) + 0.693359375f * exponent;
}

inline Vector sigmoid(Vector x) { return 1.0f / (1.0f + exponential(-x)); }

inline Vector tangent(Vector x) { return 1.0f - 2.0f / (1.0f + exponential(x + x)); }

// Swap the off-diagonal squares of side STEP of two rows that lie STEP apart.
template <int STEP, int... I>
inline void swap_squares(Vector& a, Vector& b, std::integer_sequence<int, I...>) {
  const Vector low = __builtin_shufflevector(a, b, ((I & STEP) ? LANES + I - STEP : I)...);
  b = __builtin_shufflevector(a, b, ((I & STEP) ? LANES + I : I + STEP)...);
  a = low;
}

// Transpose a square of LANES vectors: squares of half the side are swapped, down to single lanes.
template <int STEP = LANES / 2>
inline void transpose_square(Vector (&rows)[LANES]) {
  for (int i = 0; i < LANES; i++)
    if (!(i & STEP)) swap_squares<STEP>(rows[i], rows[i + STEP], AllLanes{});
  if constexpr (STEP > 1) transpose_square<STEP / 2>(rows);
}

}  // namespace rerank
