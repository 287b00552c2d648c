// The columns that compare the candidates of a list, as service/engine/features/compared.py has them,
// but for sums: numpy takes those, so that they are the same in every bit.
#include <algorithm>
#include <cmath>
#include <limits>

#include "context.h"

namespace rerank {
namespace {

constexpr int64_t NEAREST = 10, RELATIVE = 3;
constexpr int64_t BLOCK = 16;  // candidates that are compared at a time, each in a lane
typedef float Block __attribute__((vector_size(4 * BLOCK)));
// Columns of all kernels together.
constexpr int64_t LIKED = 5, PASSED = 6, REPEATED = 7, AGE = 9;

// Write the ranks from -1, the least, to 1; ties share their mean. Write distances from the best.
void compare_in_list(const eglr_columns& list) {
  const int64_t count = list.candidates;
  const float whole = static_cast<float>(count);
  for (int64_t r = 0; r < list.relative; r++) {
    float* values = list.compared + r * count;
    for (int64_t n = 0; n < count; n++) values[n] = list.numbers[n * list.width + list.sources[r]];
    const float best = *std::max_element(values, values + count);
    const int64_t *to = list.targets + r * RELATIVE;
    for (int64_t n = 0; n < count; n++) {
      const float value = values[n];
      int32_t twice = 0;
      for (int64_t i = 0; i < count; i++) twice += (values[i] < value) + (values[i] <= value);
      float* numbers = list.numbers + n * list.width;
      numbers[to[1]] = (static_cast<float>(twice) - whole) / whole;
      numbers[to[2]] = value - best;
    }
  }
}

// Write sizes and mean of the similarities of a candidate, and the mean into a lane of `mixed`.
void compare_by_kernel(const eglr_columns& list, int64_t n, float* mixed) {
  const int64_t kernels = list.kernels, entries = list.entries, size = list.candidates * entries;
  const float* similarity = list.summands + n * entries;
  float* mean = list.summands + 2 * kernels * size + n * entries;
  std::copy_n(similarity, entries, mean);
  for (int64_t k = 0; k < kernels; k++) {
    const float* __restrict from = similarity + k * size;
    float* __restrict magnitude = list.summands + (kernels + k) * size + n * entries;
    for (int64_t h = 0; h < entries; h++) magnitude[h] = std::fabs(from[h]);
    if (k)
      for (int64_t h = 0; h < entries; h++) mean[h] += from[h];
  }
  const float divisor = static_cast<float>(kernels);
  for (int64_t h = 0; h < entries; h++) mixed[h * BLOCK] = mean[h] /= divisor;
}

Block larger_of(Block a, Block b) { return a > b ? a : b; }

// Find the NEAREST largest of each lane, ascending.
void select_nearest(const Block* mixed, int64_t entries, Block* nearest) {
  Block kept[NEAREST];
  std::fill_n(kept, NEAREST, Block{} - std::numeric_limits<float>::infinity());
  for (int64_t h = 0; h < entries; h++) {
    Block value = mixed[h];
    for (int64_t j = NEAREST - 1; j >= 0; j--) {
      const Block smaller = value > kept[j] ? kept[j] : value;
      kept[j] = larger_of(value, kept[j]);
      value = smaller;
    }
  }
  std::copy_n(kept, NEAREST, nearest);
}

// Find the largest similarity of each lane, at least 0, to entries from `first` to `end`.
Block find_largest(const Block* mixed, int64_t first, int64_t end) {
  Block largest = {};
  for (int64_t h = first; h < end; h++) largest = larger_of(mixed[h], largest);
  return largest;
}

// Write the similarities to the entries that are as near as the last of the nearest; 0 elsewhere.
// False if they are more than NEAREST, unless they are not near at all.
bool keep_nearest(const eglr_columns& list, int64_t n, float threshold) {
  const int64_t entries = list.entries, size = list.candidates * entries;
  const float* __restrict mean = list.summands + 2 * list.kernels * size + n * entries;
  float* __restrict kept = list.summands + (2 * list.kernels + 1) * size + n * entries;
  int32_t number = 0;
  for (int64_t h = 0; h < entries; h++) {
    const bool chosen = mean[h] >= threshold;
    kept[h] = mean[h] * (chosen ? 1.0f : 0.0f);
    number += chosen;
  }
  return number <= NEAREST || entries <= NEAREST || threshold == 0.0f;
}

// Write the target of the last entry of the same item, and 1 minus it.
void find_repeat(const eglr_columns& list, int64_t n, float* joint) {
  const int64_t wide = list.entries + 1;
  const float* repeats = reinterpret_cast<const float*>(list.figures + wide);
  const int64_t place =
      std::upper_bound(list.figures, list.figures + wide, list.rows[n]) - list.figures - 1;
  const bool repeated = place >= 0 && list.figures[place] == list.rows[n];
  joint[REPEATED] = repeated ? repeats[place] : 0.0f;
  joint[REPEATED + 1] = repeated ? repeats[wide + place] : 0.0f;
}

// Compare up to BLOCK candidates with the history; false for a tie that is left to the caller.
bool compare_block(const eglr_columns& list, int64_t first, Block* mixed) {
  const int64_t end = std::min(first + BLOCK, list.candidates);
  for (int64_t n = first; n < end; n++)
    compare_by_kernel(list, n, reinterpret_cast<float*>(mixed) + (n - first));
  Block nearest[NEAREST];
  const bool all = list.entries <= NEAREST;
  if (!all) select_nearest(mixed, list.entries, nearest);
  const Block liked = find_largest(mixed, 0, list.positives);
  const Block passed = find_largest(mixed, list.positives, list.entries);
  bool clear = true;
  for (int64_t n = first; n < end; n++) {
    const int64_t lane = n - first;
    const float threshold = all ? -std::numeric_limits<float>::infinity() : nearest[0][lane];
    clear &= keep_nearest(list, n, threshold);
    for (int64_t j = 0; !all && j < NEAREST; j++)
      list.nearest[n * NEAREST + j] = nearest[j][lane];
    float* joint = list.numbers + n * list.width + list.first + 3 * list.kernels;
    joint[LIKED] = liked[lane], joint[PASSED] = passed[lane], joint[AGE] = list.age;
    find_repeat(list, n, joint);
  }
  return clear;
}

}  // namespace

int32_t compare(eglr_context& context, eglr_columns& list) {
  list.tied = 0;
  if (list.kernels) {
    if (!context.compared.reserve(list.entries * BLOCK)) return EGLR_MEMORY;
    Block* mixed = reinterpret_cast<Block*>(context.compared.at());  // on a cache line
    std::fill_n(mixed, list.entries, Block{});  // lanes without a candidate
    for (int64_t first = 0; first < list.candidates; first += BLOCK)
      if (!compare_block(list, first, mixed)) list.tied = 1;
  }
  compare_in_list(list);
  return EGLR_OK;
}

}  // namespace rerank
