// The evaluator: like-probabilities and utility of finished slates.
#include "context.h"

namespace rerank {

namespace {

// Attend within a slate: attended [L, D] from query, key and value [L, 3 D] by heads.
void attend(const eglr_evaluator& evaluator, const float* packed, int64_t length, float* flipped,
            float* scores, float* attended) {
  const int64_t width = evaluator.shape.width, heads = evaluator.shape.heads;
  const int64_t part = width / heads, apart = 3 * width, stride = padded(length);
  for (int64_t c = 0; c < width; c++)
    for (int64_t j = 0; j < stride; j++)
      flipped[c * stride + j] = j < length ? packed[j * apart + width + c] : 0.0f;
  for (int64_t head = 0; head < heads; head++) {
    product({packed + head * part, apart}, length, {flipped + head * part * stride, stride}, part,
            stride, nullptr, {scores, stride});
    for (int64_t i = 0; i < length; i++)
      for (int64_t j = length; j < stride; j++) scores[i * stride + j] = MASKED;
    softmax(scores, length, stride);
    product({scores, stride}, length, {packed + 2 * width + head * part, apart}, length, part,
            nullptr, {attended + head * part, width});
  }
}

// Estimate one slate; `embedded` holds the candidates of its list.
void estimate(const eglr_evaluator& evaluator, eglr_context& context, const float* embedded,
              const int64_t* slate, float* likes, float* utility) {
  const int64_t width = evaluator.shape.width, positions = evaluator.shape.positions;
  float *x = context.slate.at(), *wide = context.wide.at();
  int64_t length = 0;
  for (int64_t k = 0; k < positions; k++) {
    likes[k] = 0.0f;
    if (slate[k] < 0) continue;
    const float *item = embedded + slate[k] * width, *place = evaluator.places + k * width;
    for (int64_t c = 0; c < width; c += LANES)
      store(x + length * width + c, load(item + c) + load(place + c));
    length++;
  }
  for (int32_t b = 0; b < evaluator.shape.blocks; b++) {
    const EvaluatorBlock& block = evaluator.blocks[b];
    float* attended = context.attended.at();
    block.norm.apply(x, attended, length, width);
    block.query_key_value.apply({attended, width}, length, {wide, 3 * width});
    attend(evaluator, wide, length, context.flipped.at(), context.scores.at(), attended);
    block.output.apply<Into::sum>({attended, width}, length, {x, width});
    block.feed_forward.add(x, length, wide);
  }
  evaluator.norm.apply(x, x, length, width);
  float total = 0.0f, weights = 0.0f;
  for (int64_t k = 0, i = 0; k < positions; k++) {
    if (slate[k] < 0) continue;
    const float* row = x + i++ * width;
    float logit = *evaluator.head_shift;
    for (int64_t c = 0; c < width; c++) logit += row[c] * evaluator.head[c];
    likes[k] = 1.0f / (1.0f + std::exp(-logit));
    total += likes[k] * evaluator.discounts[k], weights += evaluator.discounts[k];
  }
  *utility = total / weights;
}

}  // namespace

int32_t evaluate(const eglr_evaluator& evaluator, eglr_context& context, eglr_finished& finished) {
  const int64_t width = evaluator.shape.width, positions = evaluator.shape.positions;
  const int64_t stride = padded(positions);
  if (!context.slate.reserve(positions * width) || !context.attended.reserve(positions * width) ||
      !context.flipped.reserve(width * stride) || !context.scores.reserve(positions * stride))
    return EGLR_MEMORY;
  int64_t first = 0, row = 0;
  for (int64_t index = 0; index < finished.lists; index++) {
    const int64_t size = finished.list[index].size, longest = size > positions ? size : positions;
    if (!context.x.reserve(size * width) || !context.wide.reserve(3 * longest * width))
      return EGLR_MEMORY;
    evaluator.embedding.apply(finished.rows + first * width,
                              finished.numbers + first * evaluator.shape.numbers, size,
                              context.x.at(), context.wide.at());
    for (int64_t i = 0; i < finished.list[index].slates; i++, row++)
      estimate(evaluator, context, context.x.at(), finished.slate + row * positions,
               finished.likes + row * positions, finished.utility + row);
    first += size;
  }
  return EGLR_OK;
}

}  // namespace rerank
