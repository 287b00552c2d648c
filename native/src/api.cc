#include "api.h"

#include <new>

#include "context.h"

namespace {

// Bounds of a shape, far above any network that trains, so that no product below overflows.
constexpr int32_t WIDEST = 4096, DEEPEST = 64, LONGEST = 4096;
constexpr int64_t LARGEST = INT64_C(1) << 31;  // of counts in a batch

bool within(int64_t value, int64_t least, int64_t greatest) {
  return least <= value && value <= greatest;
}

template <class Block>
Block* make_blocks(int32_t count) {
  return static_cast<Block*>(std::calloc(static_cast<size_t>(count) + 1, sizeof(Block)));
}

// Create a model whose shape is checked, and copy its weights.
template <class Model, class Block, class Shape>
int32_t create(const Shape& shape, const float* weights, int64_t count, Model** made) {
  *made = nullptr;
  Model* model = static_cast<Model*>(std::calloc(1, sizeof(Model)));
  Block* blocks = make_blocks<Block>(shape.blocks);
  if (!model || !blocks) {
    std::free(model), std::free(blocks);
    return EGLR_MEMORY;
  }
  new (model) Model();
  model->shape = shape, model->blocks = blocks;
  rerank::Weights counted(weights, nullptr);
  model->read(counted);
  int32_t code = EGLR_OK;
  if (counted.read() != count) {
    code = EGLR_WEIGHTS;
  } else if (!model->memory.reserve(counted.room())) {
    code = EGLR_MEMORY;
  } else {
    rerank::Weights copied(weights, model->memory.at());
    model->read(copied);
    *made = model;
    return EGLR_OK;
  }
  model->~Model();
  std::free(blocks), std::free(model);
  return code;
}

template <class Model>
void destroy(Model* model) {
  if (!model) return;
  std::free(model->blocks);
  model->~Model();
  std::free(model);
}

// Check sizes of lists and numbers of slates against the totals.
template <class Batch>
int32_t check_counts(Batch& batch) {
  batch.fault = -1;
  if (!within(batch.lists, 1, LARGEST) || !within(batch.slates, 1, LARGEST) ||
      !within(batch.candidates, 1, LARGEST))
    return EGLR_COUNTS;
  int64_t candidates = 0, slates = 0;
  for (int64_t i = 0; i < batch.lists; i++) {
    batch.fault = i;
    const eglr_list& list = batch.list[i];
    if (!within(list.size, 1, batch.candidates - candidates) ||
        !within(list.slates, 1, batch.slates - slates))
      return EGLR_COUNTS;
    candidates += list.size, slates += list.slates;
  }
  return candidates == batch.candidates && slates == batch.slates ? EGLR_OK : EGLR_COUNTS;
}

// True if [slates, K, N] at an offset lies within an array, or the offset says that there is none.
bool lies_within(int64_t at, int64_t slates, int64_t cells, int64_t count) {
  if (at == -1) return true;
  return within(at, 0, count) && slates <= (count - at) / cells;
}

int32_t check_list(const eglr_shape& shape, const eglr_batch& batch, int64_t i) {
  const eglr_list& list = batch.list[i];
  const int64_t positions = shape.positions, cells = positions * list.size;
  const int64_t longest = list.size < positions ? list.size : positions;
  if (!within(list.length, 0, longest)) return EGLR_LENGTH;
  for (int64_t k = 0; k < positions; k++)
    if (!within(batch.pinned[i * positions + k], -1, list.size - 1)) return EGLR_PINNED;
  if (list.budget < 0) return EGLR_BUDGET;
  if (!lies_within(list.noise_at, list.slates, cells, batch.noise_count) ||
      !lies_within(list.logits_at, list.slates, cells, batch.logits_count))
    return EGLR_NOISE;
  return EGLR_OK;
}

int32_t check_intents(eglr_batch& batch) {
  int64_t attributes = 0, values = 0, alone = 0;
  for (int64_t i = 0; i < batch.lists; i++) {
    batch.fault = i;
    const eglr_list& list = batch.list[i];
    if (!lies_within(list.boost_at, 1, list.size, batch.boosts_count) ||
        !within(list.attributes, 0, batch.ends_count - attributes) ||
        !within(list.columns, 0, (batch.values_count - values) / list.size) ||
        list.attributes > (batch.alone_count - alone) / list.size)
      return EGLR_INTENT;
    int64_t end = 0;
    for (int64_t a = 0; a < list.attributes; a++) {
      if (!within(batch.ends[attributes + a], end, list.columns)) return EGLR_INTENT;
      end = batch.ends[attributes + a];
    }
    if (end != list.columns) return EGLR_INTENT;
    attributes += list.attributes;
    values += list.columns * list.size, alone += list.attributes * list.size;
  }
  return EGLR_OK;
}

}  // namespace

int32_t eglr_native_abi() { return EGLR_ABI; }

int32_t eglr_native_lanes() { return rerank::LANES; }

const char* eglr_native_message(int32_t code) {
  switch (code) {
    case EGLR_OK: return "no error";
    case EGLR_MEMORY: return "out of memory";
    case EGLR_SHAPE: return "the shape of the network is not supported";
    case EGLR_WEIGHTS: return "the number of weights does not fit the shape of the network";
    case EGLR_COUNTS: return "sizes or numbers of slates must be 1 or more and add up to the totals";
    case EGLR_LENGTH: return "length must be from 0 to the positions and candidates";
    case EGLR_PINNED: return "pinned must be -1 or a candidate of the list";
    case EGLR_BUDGET: return "budget must be 0 or more";
    case EGLR_NOISE: return "noise and logits must lie within their arrays";
    case EGLR_INTENT: return "boosts, attributes and values must lie within their arrays";
    case EGLR_SLATE: return "slate must hold -1 or candidates of the list";
    case EGLR_COLUMNS: return "sizes and columns of a list that is compared must fit each other";
    default: return "unknown error";
  }
}

int32_t eglr_native_create(const eglr_shape* shape, const float* weights, int64_t count,
                           eglr_model** model) {
  if (!within(shape->host, EGLR_TRANSFORMER, EGLR_POINTER) || shape->width % 16 ||
      !within(shape->width, 16, WIDEST) || !within(shape->numbers, 0, LONGEST) ||
      !within(shape->blocks, 0, DEEPEST) || !within(shape->positions, 1, LONGEST) ||
      !within(shape->budget, 0, DEEPEST))
    return EGLR_SHAPE;
  return create<eglr_model, rerank::EncoderBlock>(*shape, weights, count, model);
}

void eglr_native_destroy(eglr_model* model) { destroy(model); }

int32_t eglr_native_create_evaluator(const eglr_evaluator_shape* shape, const float* weights,
                                     int64_t count, eglr_evaluator** evaluator) {
  if (shape->width % 16 || !within(shape->width, 16, WIDEST) ||
      !within(shape->numbers, 0, LONGEST) || !within(shape->blocks, 0, DEEPEST) ||
      !within(shape->positions, 1, LONGEST) || !within(shape->heads, 1, shape->width) ||
      shape->width % shape->heads)
    return EGLR_SHAPE;
  return create<eglr_evaluator, rerank::EvaluatorBlock>(*shape, weights, count, evaluator);
}

void eglr_native_destroy_evaluator(eglr_evaluator* evaluator) { destroy(evaluator); }

int32_t eglr_native_context(eglr_context** context) {
  void* at = std::calloc(1, sizeof(eglr_context));
  *context = at ? new (at) eglr_context() : nullptr;
  return at ? EGLR_OK : EGLR_MEMORY;
}

void eglr_native_release(eglr_context* context) {
  if (!context) return;
  context->~eglr_context();
  std::free(context);
}

int32_t eglr_native_decode(const eglr_model* model, eglr_context* context, eglr_batch* batch) {
  int32_t code = check_counts(*batch);
  for (int64_t i = 0; code == EGLR_OK && i < batch->lists; i++) {
    batch->fault = i;
    code = check_list(model->shape, *batch, i);
  }
  if (code == EGLR_OK) code = check_intents(*batch);
  return code == EGLR_OK ? rerank::decode(*model, *context, *batch) : code;
}

int32_t eglr_native_evaluate(const eglr_evaluator* evaluator, eglr_context* context,
                             eglr_finished* finished) {
  const int32_t code = check_counts(*finished);
  if (code != EGLR_OK) return code;
  const int64_t positions = evaluator->shape.positions;
  int64_t row = 0;
  for (int64_t i = 0; i < finished->lists; i++) {
    finished->fault = i;
    for (int64_t end = row + finished->list[i].slates; row < end; row++)
      for (int64_t k = 0; k < positions; k++)
        if (!within(finished->slate[row * positions + k], -1, finished->list[i].size - 1))
          return EGLR_SLATE;
  }
  return rerank::evaluate(*evaluator, *context, *finished);
}

int32_t eglr_native_compare(eglr_context* context, eglr_columns* columns) {
  const eglr_columns& list = *columns;
  if (!within(list.candidates, 1, LARGEST) || !within(list.width, 0, LARGEST) ||
      !within(list.relative, 0, LONGEST) || !within(list.kernels, 0, LONGEST))
    return EGLR_COLUMNS;
  for (int64_t r = 0; r < list.relative; r++) {
    if (!within(list.sources[r], 0, list.width - 1)) return EGLR_COLUMNS;
    for (int64_t column = 3 * r; column < 3 * r + 3; column++)
      if (!within(list.targets[column], 0, list.width - 1)) return EGLR_COLUMNS;
  }
  if (list.kernels && (!within(list.entries, 1, LARGEST) ||
                       !within(list.positives, 0, list.entries) ||
                       !within(list.first, 0, list.width - 3 * list.kernels - 10)))
    return EGLR_COLUMNS;
  return rerank::compare(*context, *columns);
}
