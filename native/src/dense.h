// Products of matrices, layer norms and softmax on contiguous floats.
//
// Widths of outputs may be any number; whole vectors are fast. Nothing allocates.
#pragma once

#include "vector.h"

namespace rerank {

// Where a product starts from: zero, or the values that lie in the output already.
enum class Into { fresh, sum };

// Rows of which norms and softmax take one step after another, since steps of one row wait for
// each other.
constexpr int64_t ROWS_ABREAST = 16;

// Rows of one tile, chosen so that its sums stay in registers.
constexpr int TILE_ROWS = 6;

// Vectors of a row that a tile of so many rows computes beside each other.
constexpr int tile_vectors(int rows) {
#if defined(__AVX512F__) || defined(__aarch64__)
  return rows == 1 ? 8 : 4;  // 32 registers
#else
  return rows == 1 ? 8 : rows <= 3 ? 4 : 2;  // 16 registers
#endif
}

// A row-major matrix in memory: rows lie `stride` floats apart.
struct Rows {
  float* at;
  int64_t stride;
};
struct ConstRows {
  const float* at;
  int64_t stride;
  ConstRows(const float* from, int64_t apart) : at(from), stride(apart) {}
  ConstRows(Rows rows) : at(rows.at), stride(rows.stride) {}
};

// R rows of x times C vectors of columns of w; `bias` may be null.
template <int R, int C, Into INTO>
inline void tile(ConstRows x, ConstRows w, int64_t depth, const float* bias, Rows y) {
  Vector sums[R][C];
  UNROLL
  for (int c = 0; c < C; c++) {
    const Vector start = bias ? load(bias + c * LANES) : Vector{};
    UNROLL
    for (int r = 0; r < R; r++) {
      sums[r][c] = start;
      if constexpr (INTO == Into::sum) sums[r][c] += load(y.at + r * y.stride + c * LANES);
    }
  }
  int64_t k = 0;
  if constexpr (R * C <= 4) {
    // Few sums would wait for each other: keep a second set for every other term.
    Vector others[R][C] = {};
    for (; k + 2 <= depth; k += 2) {
      const float* row = w.at + k * w.stride;
      UNROLL
      for (int r = 0; r < R; r++) {
        const float a = x.at[r * x.stride + k], b = x.at[r * x.stride + k + 1];
        UNROLL
        for (int c = 0; c < C; c++) {
          sums[r][c] += a * load(row + c * LANES);
          others[r][c] += b * load(row + w.stride + c * LANES);
        }
      }
    }
    UNROLL
    for (int r = 0; r < R; r++)
      UNROLL
      for (int c = 0; c < C; c++) sums[r][c] += others[r][c];
  }
  for (; k < depth; k++) {
    Vector columns[C];
    UNROLL
    for (int c = 0; c < C; c++) columns[c] = load(w.at + k * w.stride + c * LANES);
    if constexpr (R > 1)
      UNROLL
      for (int c = 0; c < C; c++) keep(columns[c]);
    UNROLL
    for (int r = 0; r < R; r++) {
      const float a = x.at[r * x.stride + k];
      UNROLL
      for (int c = 0; c < C; c++) sums[r][c] += a * columns[c];
    }
  }
  UNROLL
  for (int r = 0; r < R; r++)
    UNROLL
    for (int c = 0; c < C; c++) store(y.at + r * y.stride + c * LANES, sums[r][c]);
}

// Tiles of C vectors, then of half as many, from column `at` on; returns the first column left.
template <int R, int C, Into INTO>
inline int64_t tiles(ConstRows x, ConstRows w, int64_t depth, int64_t wide, const float* bias,
                     Rows y, int64_t at) {
  for (; at + C * LANES <= wide; at += C * LANES)
    tile<R, C, INTO>(x, {w.at + at, w.stride}, depth, bias ? bias + at : nullptr,
                     {y.at + at, y.stride});
  if constexpr (C > 1) at = tiles<R, C / 2, INTO>(x, w, depth, wide, bias, y, at);
  return at;
}

template <int R, Into INTO>
void strip(ConstRows x, ConstRows w, int64_t depth, int64_t wide, const float* bias, Rows y) {
  int64_t at = tiles<R, tile_vectors(R), INTO>(x, w, depth, wide, bias, y, 0);
  for (; at < wide; at++)  // columns that fill no vector
    for (int r = 0; r < R; r++) {
      float total = bias ? bias[at] : 0.0f;
      if constexpr (INTO == Into::sum) total += y.at[r * y.stride + at];
      for (int64_t k = 0; k < depth; k++) total += x.at[r * x.stride + k] * w.at[k * w.stride + at];
      y.at[r * y.stride + at] = total;
    }
}

// x [rows, depth] times w [depth, wide], plus bias [wide] unless null, into y [rows, wide].
template <Into INTO = Into::fresh>
inline void product(ConstRows x, int64_t rows, ConstRows w, int64_t depth, int64_t wide,
                    const float* bias, Rows y) {
  while (rows > 0) {
    const int64_t strips = (rows + TILE_ROWS - 1) / TILE_ROWS;
    const int64_t count = (rows + strips - 1) / strips;  // even strips
    switch (count) {
      case 1: strip<1, INTO>(x, w, depth, wide, bias, y); break;
      case 2: strip<2, INTO>(x, w, depth, wide, bias, y); break;
      case 3: strip<3, INTO>(x, w, depth, wide, bias, y); break;
      case 4: strip<4, INTO>(x, w, depth, wide, bias, y); break;
      case 5: strip<5, INTO>(x, w, depth, wide, bias, y); break;
      default: strip<6, INTO>(x, w, depth, wide, bias, y); break;
    }
    x.at += count * x.stride, y.at += count * y.stride, rows -= count;
  }
}

// A dense layer, in panels of columns, each [depth, PANEL] and contiguous.
struct Dense {
  static constexpr int64_t PANEL = 64;
  int64_t depth = 0, wide = 0;
  const float *weight = nullptr, *bias = nullptr;  // bias [wide]

  // x [rows, depth] into y [rows, wide].
  template <Into INTO = Into::fresh>
  void apply(ConstRows x, int64_t rows, Rows y) const {
    for (int64_t at = 0; at < wide; at += PANEL) {
      const int64_t columns = wide - at < PANEL ? wide - at : PANEL;
      product<INTO>(x, rows, {weight + at * depth, columns}, depth, columns, bias + at,
                    {y.at + at, y.stride});
    }
  }
};

// Scale and shift of a layer norm, each [width].
struct Norm {
  const float *scale = nullptr, *shift = nullptr;

  // Normalise rows x [count, width] into y, which may be x.
  void apply(const float* x, float* y, int64_t count, int64_t width) const {
    const float share = 1.0f / static_cast<float>(width);
    for (; count > 0; count -= ROWS_ABREAST, x += ROWS_ABREAST * width, y += ROWS_ABREAST * width) {
      const int64_t rows = count < ROWS_ABREAST ? count : ROWS_ABREAST;
      float means[ROWS_ABREAST], rates[ROWS_ABREAST];
      for (int64_t r = 0; r < rows; r++) {
        Vector total{};
        for (int64_t i = 0; i < width; i += LANES) total += load(x + r * width + i);
        means[r] = sum(total) * share;
      }
      for (int64_t r = 0; r < rows; r++) {
        Vector squares{};
        for (int64_t i = 0; i < width; i += LANES) {
          const Vector centred = load(x + r * width + i) - means[r];
          squares += centred * centred;
        }
        rates[r] = 1.0f / std::sqrt(sum(squares) * share + 1e-5f);
      }
      for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < width; i += LANES) {
          const Vector centred = load(x + r * width + i) - means[r];
          store(y + r * width + i, centred * rates[r] * load(scale + i) + load(shift + i));
        }
    }
  }
};

// Maximum of x [count], whole vectors.
inline float top_of(const float* x, int64_t count) {
  Vector top = load(x);
  for (int64_t i = LANES; i < count; i += LANES) {
    const Vector v = load(x + i);
    top = v > top ? v : top;
  }
  return maximum(top);
}

// Products of x [width] with R rows of w [width], each in the lane of its row.
template <int R>
inline Vector dot_rows(const float* x, const float* w, int64_t width) {
  Vector sums[LANES] = {};
  for (int64_t c = 0; c < width; c += LANES) {
    const Vector part = load(x + c);
    UNROLL
    for (int r = 0; r < R; r++) sums[r] += part * load(w + r * width + c);
  }
  return sum_each(sums);
}

// Scores x . w[j] + prior[j] of `count` rows of w [., width] into y, which is filled with MASKED to
// whole vectors. Reads up to whole vectors of rows; `prior` may be null.
inline void score(const float* x, const float* w, int64_t count, int64_t width, const float* prior,
                  float* y) {
  for (int64_t at = 0; at < count; at += LANES) {
    const int64_t rows = count - at;
    const float* from = w + at * width;
    Vector v;
    if (rows <= LANES / 4) v = dot_rows<LANES / 4>(x, from, width);
    else if (rows <= LANES / 2) v = dot_rows<LANES / 2>(x, from, width);
    else v = dot_rows<LANES>(x, from, width);
    if (prior) v += load(prior + at);
    store(y + at, rows < LANES ? mask_beyond(v, rows, AllLanes{}) : v);
  }
}

// Numerators exp(scale * (x - top)) of a softmax, from x into y [count], whole vectors; returns 1
// over their sum.
inline float exponentials(const float* x, float top, float scale, int64_t count, float* y) {
  Vector total{};
  for (int64_t i = 0; i < count; i += LANES) {
    const Vector e = decay((load(x + i) - top) * scale);
    store(y + i, e);
    total += e;
  }
  return 1.0f / sum(total);
}

// Mean of `count` rows of w [., width], weighted by softmax(scale * scores), into y [width].
//
// The sum is divided last, so that it need not wait for that of the weights, which are scratch
// [padded count] and may be the scores.
inline void mean(const float* scores, float scale, const float* w, int64_t count, int64_t width,
                 float* weights, float* y) {
  const int64_t stride = padded(count);
  const float rate = exponentials(scores, top_of(scores, stride), scale, stride, weights);
  product({weights, 0}, 1, {w, width}, count, width, nullptr, {y, 0});
  for (int64_t c = 0; c < width; c += LANES) store(y + c, load(y + c) * rate);
}

// Softmax of rows x [rows, count] in place, whole vectors.
inline void softmax(float* x, int64_t rows, int64_t count) {
  float rates[ROWS_ABREAST];
  for (; rows > 0; rows -= ROWS_ABREAST, x += ROWS_ABREAST * count) {
    const int64_t few = rows < ROWS_ABREAST ? rows : ROWS_ABREAST;
    float tops[ROWS_ABREAST];
    for (int64_t r = 0; r < few; r++) tops[r] = top_of(x + r * count, count);
    for (int64_t r = 0; r < few; r++)
      rates[r] = exponentials(x + r * count, tops[r], 1.0f, count, x + r * count);
    for (int64_t r = 0; r < few; r++)
      for (int64_t i = r * count; i < (r + 1) * count; i += LANES)
        store(x + i, load(x + i) * rates[r]);
  }
}

// x [rows, width] into y [width, stride], the padded rows; columns beyond the rows become zero.
inline void transpose(const float* x, int64_t rows, int64_t width, float* y, int64_t stride) {
  for (int64_t r = 0; r < stride; r += LANES)
    for (int64_t c = 0; c < width; c += LANES) {
      Vector square[LANES];
      for (int i = 0; i < LANES; i++)
        square[i] = r + i < rows ? load(x + (r + i) * width + c) : Vector{};
      transpose_square(square);
      for (int i = 0; i < LANES; i++) store(y + (c + i) * stride + r, square[i]);
    }
}

}  // namespace rerank
