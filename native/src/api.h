// The C interface of the native decode loop; service/engine/native_library.py mirrors it.
//
// Models are read-only once created, so any number of threads may run one, each with a context of
// its own. Every function returns 0 or a code that eglr_native_message describes. Arrays are
// contiguous; floats are float32. Counts, indices and ranges are checked here, the sizes of arrays
// by the caller, who knows them.
#pragma once

#include <stdint.h>

#define EGLR_API extern "C" __attribute__((visibility("default")))

constexpr int32_t EGLR_ABI = 3;  // raised whenever a struct or the order of weights changes

enum eglr_code : int32_t {
  EGLR_OK = 0,
  EGLR_MEMORY = 1,    // out of memory
  EGLR_SHAPE = 2,     // a shape that is not supported
  EGLR_WEIGHTS = 3,   // number of weights
  EGLR_COUNTS = 4,    // sizes of lists, or totals of the batch
  EGLR_LENGTH = 5,    // slate length
  EGLR_PINNED = 6,    // pinned candidate
  EGLR_BUDGET = 7,    // budget below 0
  EGLR_NOISE = 8,     // noise or logits beyond their array
  EGLR_INTENT = 9,    // attributes, columns or ends of an intent
  EGLR_SLATE = 10,    // candidate of a finished slate
  EGLR_COLUMNS = 11,  // sizes or columns of a list that is compared
};

enum eglr_host : int32_t { EGLR_TRANSFORMER = 0, EGLR_GRU = 1, EGLR_POINTER = 2 };

// Shape of a generator of one head.
struct eglr_shape {
  int32_t host;       // eglr_host
  int32_t width;      // D, a multiple of 16
  int32_t numbers;    // F
  int32_t blocks;     // of the encoder
  int32_t positions;  // K
  int32_t budget;     // S
};

// Shape of an evaluator.
struct eglr_evaluator_shape {
  int32_t width, numbers, blocks, positions;
  int32_t heads;  // divide width
};

struct eglr_model;
struct eglr_evaluator;
struct eglr_context;

// Counts and options of one list. An offset of -1 stands for none.
struct eglr_list {
  int64_t size;        // N
  int64_t slates;      // decoded over the list
  int64_t length;      // positions to fill
  int64_t budget;      // reasoning steps per position
  int64_t noise_at;    // in noise, of [slates, K, N]
  int64_t logits_at;   // in logits, of [slates, K, N]
  int64_t boost_at;    // in boosts, of [N]
  int64_t attributes;  // A of the intent, 0 without one
  int64_t columns;     // V of the intent
};

struct eglr_knobs {
  float threshold;  // of the entropy, nats
  float reason_temperature, recommend_temperature;
};

// B lists and the R slates decoded over them, list by list. Arrays of candidates are joined without
// padding, and so are those of intents (service.engine.intent), which may be null without one.
struct eglr_batch {
  int64_t lists, slates, candidates;  // B, R, sum of N
  const eglr_list* list;              // [B]
  const eglr_knobs* knobs;            // [B]
  const float* rows;                  // [candidates, D]
  const float* numbers;               // [candidates, F]
  const int64_t* pinned;              // [B, K], -1 where free
  const int64_t* group;               // [candidates]
  const float* quota;                 // [candidates]
  const float* noise;
  const float* boosts;
  const int64_t* ends;    // [sum of A], end in V of the values of each attribute
  const float* weight;    // [sum of A]
  const float* retained;  // [sum of A]
  const float* values;    // [sum of N * V]
  const float* alone;     // [sum of A * N]
  float* logits;
  // Elements of noise, boosts, ends, values, alone and logits.
  int64_t noise_count, boosts_count, ends_count, values_count, alone_count, logits_count;
  int64_t *slate, *steps;            // outputs [R, K], -1 and 0 past the length of a slate
  float *logprob, *before, *after;   // outputs [R, K], nats
  int64_t fault;                     // output: the list that a code is about
};

// Finished slates, whose utility is estimated.
struct eglr_finished {
  int64_t lists, slates, candidates;
  const eglr_list* list;  // [B], of which size and slates are read
  const float* rows;      // [candidates, D], of the evaluator
  const float* numbers;   // [candidates, F]
  const int64_t* slate;   // [R, K], -1 for no item
  float* likes;           // [R, K]
  float* utility;         // [R]
  int64_t fault;
};

// A list of N candidates whose numbers are compared with each other and with a history of H entries
// (service/engine/features/compared.py). The caller takes the sums.
struct eglr_columns {
  int64_t candidates;                // N
  int64_t width;                     // F of numbers
  int64_t relative;                  // R list-relative numbers
  int64_t kernels;                   // K, 0 without a history
  int64_t entries, positives;        // H, and the first ones that are positive
  int64_t first;                     // column of the history
  const int64_t *sources, *targets;  // columns [R] and [R, 3] of numbers
  float* summands;         // [2 K + 2, N, H]: similarity by each kernel; outputs: their sizes, their
                           // mean, and the mean of the nearest entries, 0 elsewhere
  const int64_t* figures;  // [2, H + 1]: rows of entries, ascending, then float32 [2, H + 1]
  const int64_t* rows;     // [N], of the candidates
  float* numbers;          // [N, F], of which the columns without sums are written
  float* compared;         // output [R, N], the list-relative numbers
  float* nearest;          // output [N, 10], similarity of the nearest entries, if H > 10
  float age;               // column of H
  int64_t tied;            // output: 1 if more entries than the nearest are as near as the last one
};

EGLR_API int32_t eglr_native_abi();
EGLR_API int32_t eglr_native_lanes();  // floats of one vector, which names the build
EGLR_API const char* eglr_native_message(int32_t code);

EGLR_API int32_t eglr_native_create(const eglr_shape* shape, const float* weights, int64_t count,
                                    eglr_model** model);
EGLR_API void eglr_native_destroy(eglr_model* model);
EGLR_API int32_t eglr_native_create_evaluator(const eglr_evaluator_shape* shape,
                                              const float* weights, int64_t count,
                                              eglr_evaluator** evaluator);
EGLR_API void eglr_native_destroy_evaluator(eglr_evaluator* evaluator);
EGLR_API int32_t eglr_native_context(eglr_context** context);
EGLR_API void eglr_native_release(eglr_context* context);
EGLR_API int32_t eglr_native_decode(const eglr_model* model, eglr_context* context,
                                    eglr_batch* batch);
EGLR_API int32_t eglr_native_evaluate(const eglr_evaluator* evaluator, eglr_context* context,
                                      eglr_finished* finished);
EGLR_API int32_t eglr_native_compare(eglr_context* context, eglr_columns* columns);
