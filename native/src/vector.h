// Vectors of floats as GCC and Clang offer them, and the functions of the network on them.
//
// The compiler's flags decide the number of lanes. Nothing here is specific to one instruction set.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace rerank {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

template <int N>
struct Lanes {
  typedef float type __attribute__((vector_size(4 * N)));
  typedef int32_t integers __attribute__((vector_size(4 * N)));
};
using Vector = Lanes<LANES>::type;
using Integers = Lanes<LANES>::integers;

constexpr float MASKED = -1e9f;  // logit of a candidate that is not available, as in the graph

inline Vector load(const float* from) {
  Vector v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

inline void store(float* to, Vector v) { std::memcpy(to, &v, sizeof v); }

inline Vector broadcast(float x) { return x - Vector{}; }

// Numbers of floats that fill whole vectors.
inline int64_t padded(int64_t count) { return (count + LANES - 1) / LANES * LANES; }

// Combine all lanes by halves; the operation must be associative up to rounding.
template <int N, class Operation>
inline float fold(typename Lanes<N>::type v, Operation operation) {
  if constexpr (N == 2) {
    return operation(v[0], v[1]);
  } else {
    typename Lanes<N / 2>::type low, high;
    std::memcpy(&low, &v, sizeof low);
    std::memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof low, sizeof high);
    return fold<N / 2>(operation(low, high), operation);
  }
}

inline float sum(Vector v) {
  return fold<LANES>(v, [](auto a, auto b) { return a + b; });
}

inline float maximum(Vector v) {
  return fold<LANES>(v, [](auto a, auto b) { return a > b ? a : b; });
}

// Relative error about 1e-7; arguments below -87 give 1.6e-38, those above 88 give 1.7e38, and NaN
// stays NaN, because of the order of operands in the comparisons.
//
// Cody and Waite: e^x = 2^n e^r with r = x - n ln 2 in two parts. The polynomial of e^r is that of
// Cephes (expf). Adding 1.5 * 2^23 rounds to an integer, which then lies in the low bits.
inline Vector exponential(Vector x) {
  const Vector low = broadcast(-87.0f), high = broadcast(88.0f);
  x = low > x ? low : x;
  x = high < x ? high : x;
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

// GELU by erf, absolute error below 1e-7 up to |x| = 6 and a relative one beyond.
//
// With E(a) = erfc(a / sqrt 2) it is max(x, 0) - |x| / 2 * E(|x|). The polynomial is a weighted
// Chebyshev fit of -ln E(a) / a over [0, 5.5], so that no division is needed.
inline Vector gelu(Vector x) {
  const Vector zero{}, limit = broadcast(5.5f);
  const Vector a = x < zero ? -x : x;
  const Vector t = limit < a ? limit : a;
  Vector q = t * 1.3184406953e-6f - 1.9447883460e-5f;
  q = q * t + 9.1131398221e-5f;
  q = q * t + 1.8858662224e-4f;
  q = q * t - 5.0221420825e-3f;
  q = q * t + 3.6478679627e-2f;
  q = q * t + 3.1826695800e-1f;
  q = q * t + 7.9788935184e-1f;
  return (x > zero ? x : zero) - 0.5f * a * exponential(-t * q);
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

}  // namespace rerank
