// Weights of generator and evaluator, and the memory that they and the contexts lie in.
#pragma once

#include <cstdlib>

#include "api.h"
#include "dense.h"

namespace rerank {

// Floats on a cache line boundary; grows, and never shrinks.
class Memory {
 public:
  Memory() = default;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { std::free(at_); }

  // Make room for `count` floats, whose contents are then unspecified; false if out of memory.
  bool reserve(int64_t count);
  float* at() const { return at_; }

 private:
  float* at_ = nullptr;
  int64_t room_ = 0;
};

// Hands out the weights of a flat array in order, copied to cache line boundaries.
//
// A first pass without memory only counts: `read` and `room` then say how many floats the array
// must have and how many the copies take.
class Weights {
 public:
  Weights(const float* from, float* to) : from_(from), to_(to) {}
  const float* vector(int64_t count);
  Dense dense(int64_t depth, int64_t wide);
  Norm norm(int64_t width);
  int64_t read() const { return read_; }
  int64_t room() const { return room_; }

 private:
  float* take(int64_t count);
  const float* from_;
  float* to_;
  int64_t read_ = 0, room_ = 0;
};

// The embedding of candidates: rows + numbers -> [N, D].
struct Embedding {
  Dense project, hidden;
  Norm norm;
  void read(Weights& weights, int64_t numbers, int64_t width);
  // rows [count, D], numbers [count, F] -> x [count, D]; scratch [count, D].
  void apply(const float* rows, const float* numbers, int64_t count, float* x,
             float* scratch) const;
};

// The feed-forward layers of a block: x += outer(gelu(inner(norm(x)))).
struct FeedForward {
  Norm norm;
  Dense inner, outer;
  void read(Weights& weights, int64_t width);
  // x [count, D]; scratch [count, 3 D].
  void add(float* x, int64_t count, float* scratch) const;
};

// A block of the encoder with one head. Its query meets the normalised candidates themselves,
// because the projection of the keys is multiplied into it; its values come projected.
struct EncoderBlock {
  Norm norm;
  Dense query_value;
  FeedForward feed_forward;
};

// A block of the evaluator with any number of heads.
struct EvaluatorBlock {
  Norm norm;
  Dense query_key_value, output;
  FeedForward feed_forward;
};

}  // namespace rerank

// Order of the members is the order of the weights.
struct eglr_model {
  eglr_shape shape;
  rerank::Memory memory;
  rerank::Embedding embedding;
  rerank::EncoderBlock* blocks = nullptr;
  rerank::Norm encoded_norm;
  const float *start, *places, *thoughts;  // [D], [K - 1, D], [S, D]
  rerank::Dense item, reason;
  rerank::Norm token_norm;
  rerank::Dense query, value;         // of the transformer's self-attention, as in EncoderBlock
  rerank::Dense gates_in, gates_on;   // of the GRU: update, reset, new; of token and state
  rerank::Norm glimpse_norm;
  rerank::Dense glimpse_query, glimpse_output;
  rerank::FeedForward feed_forward;
  rerank::Norm hidden_norm;
  rerank::Dense refine, pointer;
  const float *logit_slope, *logit_shift;  // [D], [1]: what all logits share, of the hidden state

  bool recurrent() const { return shape.host != EGLR_TRANSFORMER; }
  bool glimpses() const { return shape.host != EGLR_POINTER; }
  void read(rerank::Weights& weights);
};

struct eglr_evaluator {
  eglr_evaluator_shape shape;
  rerank::Memory memory;
  rerank::Embedding embedding;
  const float *places, *discounts;  // [K, D], [K]
  rerank::EvaluatorBlock* blocks = nullptr;
  rerank::Norm norm;
  const float *head, *head_shift;  // [D], [1]

  void read(rerank::Weights& weights);
};
