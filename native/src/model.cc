#include "model.h"

namespace rerank {

namespace {
constexpr int64_t LINE = 16;  // floats of a cache line
int64_t whole_lines(int64_t count) { return (count + LINE - 1) / LINE * LINE; }
}  // namespace

bool Memory::reserve(int64_t count) {
  if (count <= room_) return true;
  if (count > INT64_MAX / 8) return false;
  std::free(at_);
  const int64_t room = whole_lines(count);
  at_ = static_cast<float*>(std::aligned_alloc(4 * LINE, 4 * static_cast<size_t>(room)));
  room_ = at_ ? room : 0;
  return at_ != nullptr;
}

float* Weights::take(int64_t count) {
  float* at = to_ ? to_ + room_ : nullptr;
  read_ += count;
  room_ += whole_lines(count);
  return at;
}

const float* Weights::vector(int64_t count) {
  const int64_t first = read_;
  float* at = take(count);
  if (at && count) std::memcpy(at, from_ + first, 4 * static_cast<size_t>(count));
  return at;
}

Dense Weights::dense(int64_t depth, int64_t wide) {
  const int64_t first = read_;
  float* at = take(depth * wide);
  if (at)
    for (int64_t c = 0; c < wide; c += Dense::PANEL) {
      const int64_t columns = wide - c < Dense::PANEL ? wide - c : Dense::PANEL;
      for (int64_t k = 0; k < depth; k++)
        std::memcpy(at + c * depth + k * columns, from_ + first + k * wide + c,
                    4 * static_cast<size_t>(columns));
    }
  return {depth, wide, at, vector(wide)};
}

Norm Weights::norm(int64_t width) {
  const float* scale = vector(width);
  return {scale, vector(width)};
}

void Embedding::read(Weights& weights, int64_t numbers, int64_t width) {
  project = weights.dense(numbers, width);
  hidden = weights.dense(width, width);
  norm = weights.norm(width);
}

void Embedding::apply(const float* rows, const float* numbers, int64_t count, float* x,
                      float* scratch) const {
  const int64_t width = hidden.wide;
  std::memcpy(x, rows, 4 * static_cast<size_t>(count * width));
  project.apply<Into::sum>({numbers, project.depth}, count, {x, width});
  for (int64_t i = 0; i < count * width; i += LANES) store(scratch + i, gelu(load(x + i)));
  hidden.apply<Into::sum>({scratch, width}, count, {x, width});
  norm.apply(x, x, count, width);
}

void FeedForward::read(Weights& weights, int64_t width) {
  norm = weights.norm(width);
  inner = weights.dense(width, 2 * width);
  outer = weights.dense(2 * width, width);
}

void FeedForward::add(float* x, int64_t count, float* scratch) const {
  const int64_t width = outer.wide;
  float *normed = scratch, *wide = scratch + count * width;
  norm.apply(x, normed, count, width);
  inner.apply({normed, width}, count, {wide, 2 * width});
  for (int64_t i = 0; i < 2 * count * width; i += LANES) store(wide + i, gelu(load(wide + i)));
  outer.apply<Into::sum>({wide, 2 * width}, count, {x, width});
}

}  // namespace rerank

void eglr_model::read(rerank::Weights& weights) {
  const int64_t width = shape.width;
  embedding.read(weights, shape.numbers, width);
  for (int32_t i = 0; i < shape.blocks; i++) {
    blocks[i].norm = weights.norm(width);
    blocks[i].query_value = weights.dense(width, 2 * width);
    blocks[i].feed_forward.read(weights, width);
  }
  encoded_norm = weights.norm(width);
  start = weights.vector(width);
  places = weights.vector((shape.positions - 1) * width);
  thoughts = weights.vector(shape.budget * width);
  item = weights.dense(width, width);
  reason = weights.dense(width, width);
  token_norm = weights.norm(width);
  if (recurrent()) {
    gates_in = weights.dense(width, 3 * width);
    gates_on = weights.dense(width, 3 * width);
  } else {
    query = weights.dense(width, width);
    value = weights.dense(width, width);
  }
  if (glimpses()) {
    glimpse_norm = weights.norm(width);
    glimpse_query = weights.dense(width, width);
    glimpse_output = weights.dense(width, width);
  }
  feed_forward.read(weights, width);
  hidden_norm = weights.norm(width);
  refine = weights.dense(width, width);
  pointer = weights.dense(width, width);
  logit_slope = weights.vector(width);
  logit_shift = weights.vector(1);
}

void eglr_evaluator::read(rerank::Weights& weights) {
  const int64_t width = shape.width;
  embedding.read(weights, shape.numbers, width);
  places = weights.vector(shape.positions * width);
  discounts = weights.vector(shape.positions);
  for (int32_t i = 0; i < shape.blocks; i++) {
    blocks[i].norm = weights.norm(width);
    blocks[i].query_key_value = weights.dense(width, 3 * width);
    blocks[i].output = weights.dense(width, width);
    blocks[i].feed_forward.read(weights, width);
  }
  norm = weights.norm(width);
  head = weights.vector(width);
  head_shift = weights.vector(1);
}
