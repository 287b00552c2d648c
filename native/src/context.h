// Scratch memory of one thread: encoded lists, slates that are being composed, and their batch.
#pragma once

#include "model.h"

namespace rerank {

constexpr int64_t LIVE = 12;        // slates that share the dense layers of a step
constexpr int64_t QUERY_ROWS = 24;  // of the encoder's attention, whose scores then stay in cache

// A candidate list, encoded once for all of its slates.
struct List {
  int64_t index = 0, size = 0, stride = 0;  // stride: size, padded to whole vectors
  int64_t first = 0;                        // of its candidates in the batch
  int64_t users = 0;                        // slates that are not finished
  Memory candidates;                        // [stride, D], zero beyond the list
  // Of the intent: boosts [stride], alone [A, stride], values [V, stride].
  Memory intent;
  int64_t attributes = 0, columns = 0;
  const int64_t* ends = nullptr;
  const float *weight = nullptr, *retained = nullptr;
  bool adjusted = false;

  const float* boosts() const { return intent.at(); }
  const float* alone(int64_t attribute) const { return intent.at() + (1 + attribute) * stride; }
  const float* values(int64_t column) const {
    return intent.at() + (1 + attributes + column) * stride;
  }
};

enum class Token { reason, item, start };  // in the order in which a step reads them

// A slate that is being composed, one token after another.
struct Slate {
  List* list = nullptr;
  Token token = Token::start;
  int64_t row = 0;  // of the outputs
  int64_t length = 0, budget = 0, position = 0, steps = 0, item = 0, read = 0;
  float threshold = 0, cool = 1, scale = 1;  // 1 / reasoning and recommending temperature
  float top = 0, entropy = 0, before = 0;    // of the choice
  const int64_t *pinned = nullptr, *group = nullptr;
  const float* noise = nullptr;  // [K, N]
  float* explained = nullptr;    // [K, N]
  Memory cached_tokens;                 // [L, D]
  Memory hidden, recurrent, aggregate;  // [D]
  Memory vectors;                       // [4, stride]
  Memory kept;                          // [V]

  float* logits() const { return vectors.at(); }
  float* quota() const { return vectors.at() + list->stride; }
  float* prior() const { return vectors.at() + 2 * list->stride; }  // mask and adjustment
  float* adjustment() const { return vectors.at() + 3 * list->stride; }
};

}  // namespace rerank

struct eglr_context {
  rerank::List lists[rerank::LIVE];
  rerank::Slate slates[rerank::LIVE];
  rerank::Memory x, wide, scores, flipped;    // of the encoder; `flipped` also of the evaluator
  rerank::Memory tokens, normed, mixed, step;  // of a step: [LIVE, D], of `mixed` [LIVE, 6 D]
  rerank::Memory slate, attended;             // of the evaluator
  rerank::Memory compared;                    // of a list that is compared
};

namespace rerank {

// Encode the candidates of a list; false if out of memory.
bool encode(const eglr_model& model, eglr_context& context, const eglr_batch& batch, List& list);

// Decode a checked batch, and estimate checked slates; EGLR_MEMORY or EGLR_OK.
int32_t decode(const eglr_model& model, eglr_context& context, eglr_batch& batch);
int32_t evaluate(const eglr_evaluator& evaluator, eglr_context& context, eglr_finished& finished);

// Write the columns of a checked list; EGLR_MEMORY or EGLR_OK.
int32_t compare(eglr_context& context, eglr_columns& list);

}  // namespace rerank
