#include "context.h"

namespace rerank {

namespace {

// Attend from every candidate to all: x [N, D] += softmax(q . normed + prior) . v.
void attend(const float* query_value, const float* flipped, const List& list, const float* prior,
            int64_t width, float* scores, float* x) {
  const int64_t apart = 2 * width;
  for (int64_t at = 0; at < list.size; at += QUERY_ROWS) {
    const int64_t count = list.size - at < QUERY_ROWS ? list.size - at : QUERY_ROWS;
    product({query_value + at * apart, apart}, count, {flipped, list.stride}, width,
            list.stride, prior, {scores, list.stride});
    softmax(scores, count, list.stride);
    product<Into::sum>({scores, list.stride}, count, {query_value + width, apart}, list.size,
                       width, nullptr, {x + at * width, width});
  }
}

}  // namespace

bool encode(const eglr_model& model, eglr_context& context, const eglr_batch& batch, List& list) {
  const int64_t width = model.shape.width, size = list.size, stride = list.stride;
  if (!list.candidates.reserve(stride * width) || !context.flipped.reserve(stride * width) ||
      !context.x.reserve(size * width) || !context.wide.reserve(3 * size * width) ||
      !context.scores.reserve((QUERY_ROWS + 1) * stride))
    return false;
  float *x = context.x.at(), *wide = context.wide.at(), *candidates = list.candidates.at();
  float *prior = context.scores.at(), *scores = prior + stride, *flipped = context.flipped.at();
  for (int64_t i = 0; i < stride; i++) prior[i] = i < size ? 0.0f : MASKED;
  model.embedding.apply(batch.rows + list.first * width,
                        batch.numbers + list.first * model.shape.numbers, size, x, wide);
  for (int32_t b = 0; b < model.shape.blocks; b++) {
    const EncoderBlock& block = model.blocks[b];
    block.norm.apply(x, candidates, size, width);
    block.query_value.apply({candidates, width}, size, {wide, 2 * width});
    transpose(candidates, size, width, flipped, stride);
    attend(wide, flipped, list, prior, width, scores, x);
    block.feed_forward.add(x, size, wide);
  }
  model.encoded_norm.apply(x, candidates, size, width);
  std::memset(candidates + size * width, 0, 4 * static_cast<size_t>((stride - size) * width));
  return true;
}

}  // namespace rerank
