// The reasoning loop of a batch: slates are state machines that each read one token per step.
//
// Up to LIVE slates share the dense layers of a step; everything that belongs to a list is done
// slate by slate. A finished slate makes room for the next one at once, so a slate that does not
// reason never waits for one that does, and pays for none of its steps.
#include <initializer_list>

#include "context.h"

namespace rerank {

namespace {

// Logit of the lanes beyond a list: no temperature gives them weight.
constexpr float PADDING = -1e30f;
constexpr float FLOOR = 1e-30f;  // of shares, as in service.engine.intent

class Loop {
 public:
  Loop(const eglr_model& model, eglr_context& context, eglr_batch& batch)
      : model_(model), context_(context), batch_(batch), width_(model.shape.width) {}

  int32_t run();

 private:
  bool begin_list();
  bool read_intent(List& list);
  bool begin(Slate& slate, List& list, int64_t number);
  void step();
  void read_tokens();
  void attend_to_tokens();
  void advance_cells();
  void glimpse();
  void finish_tokens();
  void choose(Slate& slate, const float* query);
  bool advance(Slate& slate);
  bool pick(Slate& slate);
  void spend(Slate& slate);
  void adjust(Slate& slate);
  void open(Slate& slate);

  float* token(int64_t i) { return context_.tokens.at() + i * width_; }
  float* normed(int64_t i) { return context_.normed.at() + i * width_; }

  const eglr_model& model_;
  eglr_context& context_;
  eglr_batch& batch_;
  const int64_t width_;
  Slate* live_[LIVE];
  int64_t count_ = 0, reasoning_ = 0, items_ = 0;  // live slates, and those of two tokens
  int64_t slots_ = 0, cached_ = 0;                  // tokens a slate may read, padded
  // The next list and its place in the joined arrays.
  int64_t next_ = 0, candidate_ = 0, row_ = 0, attribute_ = 0, value_ = 0, lone_ = 0;
};

int32_t Loop::run() {
  const eglr_shape& shape = model_.shape;
  cached_ = padded(1 + static_cast<int64_t>(shape.positions) * (1 + shape.budget));
  if (!context_.tokens.reserve(LIVE * width_) || !context_.normed.reserve(LIVE * width_) ||
      !context_.mixed.reserve(6 * LIVE * width_))
    return EGLR_MEMORY;
  const int64_t cells = batch_.slates * shape.positions;
  for (int64_t i = 0; i < cells; i++) {
    batch_.slate[i] = -1, batch_.steps[i] = 0;
    batch_.logprob[i] = batch_.before[i] = batch_.after[i] = 0.0f;
  }
  List* list = nullptr;
  Slate* idle[LIVE];
  int64_t waiting = 0, idles = LIVE;
  for (int64_t i = 0; i < LIVE; i++) idle[i] = &context_.slates[LIVE - 1 - i];
  for (;;) {
    while (idles > 0) {
      if (waiting == 0) {
        if (next_ == batch_.lists) break;
        list = nullptr;
        for (List& one : context_.lists)
          if (one.users == 0) list = &one;
        // There is one: at most LIVE slates are live, and each uses one list.
        const eglr_list& input = batch_.list[next_];
        list->index = next_, list->size = input.size, list->stride = padded(input.size);
        list->first = candidate_;
        list->users = waiting = input.length > 0 ? input.slates : 0;
        if (waiting == 0) row_ += input.slates;
        if (!read_intent(*list)) return EGLR_MEMORY;
        if (waiting > 0 && !encode(model_, context_, batch_, *list)) return EGLR_MEMORY;
        candidate_ += list->size;
        next_++;
        continue;
      }
      Slate* slate = idle[--idles];
      if (!begin(*slate, *list, batch_.list[list->index].slates - waiting)) return EGLR_MEMORY;
      live_[count_++] = slate;
      waiting--;
    }
    if (count_ == 0) return EGLR_OK;
    step();
    const int64_t stepped = count_;
    count_ = 0;
    Slate* rest[LIVE];
    for (int64_t i = 0; i < stepped; i++) {
      choose(*live_[i], context_.mixed.at() + i * width_);
      if (advance(*live_[i])) {
        rest[count_++] = live_[i];
      } else {
        live_[i]->list->users--;
        idle[idles++] = live_[i];
      }
    }
    for (int64_t i = 0; i < count_; i++) live_[i] = rest[i];
  }
}

// Copy the intent of a list to whole vectors; columns of values become rows.
bool Loop::read_intent(List& list) {
  const eglr_list& input = batch_.list[list.index];
  list.attributes = input.attributes, list.columns = input.columns;
  list.adjusted = input.boost_at >= 0 || list.attributes > 0;
  if (!list.adjusted) return true;
  const int64_t size = list.size, stride = list.stride;
  const int64_t rows = 1 + list.attributes + list.columns;
  if (!list.intent.reserve(rows * stride)) return false;
  float* at = list.intent.at();
  std::memset(at, 0, 4 * static_cast<size_t>(rows * stride));
  if (input.boost_at >= 0)
    std::memcpy(at, batch_.boosts + input.boost_at, 4 * static_cast<size_t>(size));
  for (int64_t a = 0; a < list.attributes; a++) {
    at += stride;
    for (int64_t i = 0; i < stride; i++)
      at[i] = i < size ? batch_.alone[lone_ + a * size + i] + FLOOR : 1.0f;
  }
  const float* values = batch_.values + value_;
  for (int64_t v = 0; v < list.columns; v++) {
    at += stride;
    for (int64_t i = 0; i < size; i++) at[i] = values[i * list.columns + v];
  }
  list.ends = batch_.ends + attribute_;
  list.weight = batch_.weight + attribute_, list.retained = batch_.retained + attribute_;
  attribute_ += list.attributes;
  value_ += list.columns * size;
  lone_ += list.attributes * size;
  return true;
}

// Make slate `number` of an encoded list ready to read its start token; false if out of memory.
bool Loop::begin(Slate& slate, List& list, int64_t number) {
  const eglr_shape& shape = model_.shape;
  const int64_t index = list.index, cells = shape.positions * list.size;
  const eglr_list& input = batch_.list[index];
  const eglr_knobs& knobs = batch_.knobs[index];
  if (!slate.vectors.reserve(4 * list.stride) || !slate.hidden.reserve(width_) ||
      !slate.aggregate.reserve(width_) ||
      !slate.kept.reserve(list.columns) ||
      !context_.step.reserve(list.stride > cached_ ? list.stride : cached_))
    return false;
  if (model_.recurrent()) {
    if (!slate.recurrent.reserve(width_)) return false;
    std::memset(slate.recurrent.at(), 0, 4 * static_cast<size_t>(width_));
  } else if (!slate.cached_tokens.reserve(cached_ * width_)) {
    return false;
  }
  slate.list = &list, slate.token = Token::start, slate.row = row_++;
  slate.position = slate.steps = slate.item = slate.read = 0;
  slate.length = input.length;
  slate.budget = input.budget < shape.budget ? input.budget : shape.budget;
  slate.threshold = knobs.threshold;
  slate.cool = 1.0f / knobs.reason_temperature, slate.scale = 1.0f / knobs.recommend_temperature;
  slate.pinned = batch_.pinned + index * shape.positions;
  slate.group = batch_.group + list.first;
  const int64_t noise = input.noise_at, logits = input.logits_at;
  slate.noise = noise < 0 ? nullptr : batch_.noise + noise + number * cells;
  slate.explained = logits < 0 ? nullptr : batch_.logits + logits + number * cells;
  std::memcpy(slate.quota(), batch_.quota + list.first, 4 * static_cast<size_t>(list.size));
  for (int64_t v = 0; v < list.columns; v++) slate.kept.at()[v] = 1.0f;
  adjust(slate);
  open(slate);
  return true;
}

// Read the next token of every live slate, and choose.
void Loop::step() {
  Slate* ordered[LIVE];
  int64_t ends[3], placed = 0;
  for (Token token : {Token::reason, Token::item, Token::start}) {
    for (int64_t i = 0; i < count_; i++)
      if (live_[i]->token == token) ordered[placed++] = live_[i];
    ends[static_cast<int>(token)] = placed;
  }
  for (int64_t i = 0; i < count_; i++) live_[i] = ordered[i];
  reasoning_ = ends[0], items_ = ends[1] - ends[0];
  read_tokens();
  if (model_.recurrent()) advance_cells();
  else attend_to_tokens();
  if (model_.glimpses()) glimpse();
  finish_tokens();
}

// Embed the tokens: aggregates of reasoning steps, chosen items, start tokens.
void Loop::read_tokens() {
  const size_t bytes = 4 * static_cast<size_t>(width_);
  for (int64_t i = 0; i < reasoning_; i++) {
    const Slate& slate = *live_[i];
    std::memcpy(normed(i), slate.aggregate.at(), bytes);
    const float *thought = model_.thoughts + slate.steps * width_, *hidden = slate.hidden.at();
    for (int64_t c = 0; c < width_; c += LANES)
      store(token(i) + c, load(thought + c) + load(hidden + c));
  }
  for (int64_t i = reasoning_; i < count_; i++) {
    const Slate& slate = *live_[i];
    if (slate.token == Token::item) {
      std::memcpy(normed(i), slate.list->candidates.at() + slate.item * width_, bytes);
      std::memcpy(token(i), model_.places + (slate.position - 1) * width_, bytes);
    } else {
      std::memcpy(token(i), model_.start, bytes);
    }
  }
  const int64_t first = reasoning_;
  model_.reason.apply<Into::sum>({normed(0), width_}, reasoning_, {token(0), width_});
  model_.item.apply<Into::sum>({normed(first), width_}, items_, {token(first), width_});
}

// Self-attention of the transformer to the tokens so far; keys are the normalised tokens.
void Loop::attend_to_tokens() {
  float *queries = context_.mixed.at(), *scores = context_.step.at();
  model_.token_norm.apply(token(0), normed(0), count_, width_);
  model_.query.apply({normed(0), width_}, count_, {queries, width_});
  for (int64_t i = 0; i < count_; i++) {
    Slate& slate = *live_[i];
    float* tokens = slate.cached_tokens.at();
    std::memcpy(tokens + slate.read++ * width_, normed(i), 4 * static_cast<size_t>(width_));
    score(queries + i * width_, tokens, slate.read, width_, nullptr, scores);
    mean(scores, 1.0f, tokens, slate.read, width_, scores, normed(i));
  }
  model_.value.apply<Into::sum>({normed(0), width_}, count_, {token(0), width_});
}

// Advance the GRU; gates lie as update, reset, new.
void Loop::advance_cells() {
  const int64_t apart = 6 * width_;
  float* mixed = context_.mixed.at();
  model_.token_norm.apply(token(0), normed(0), count_, width_);
  model_.gates_in.apply({normed(0), width_}, count_, {mixed, apart});
  for (int64_t i = 0; i < count_; i++)
    std::memcpy(normed(i), live_[i]->recurrent.at(), 4 * static_cast<size_t>(width_));
  model_.gates_on.apply({normed(0), width_}, count_, {mixed + 3 * width_, apart});
  for (int64_t i = 0; i < count_; i++) {
    const float *in = mixed + i * apart, *on = in + 3 * width_;
    float* state = live_[i]->recurrent.at();
    for (int64_t c = 0; c < width_; c += LANES) {
      const Vector update = sigmoid(load(in + c) + load(on + c));
      const Vector reset = sigmoid(load(in + width_ + c) + load(on + width_ + c));
      const Vector fresh = tangent(load(in + 2 * width_ + c) + reset * load(on + 2 * width_ + c));
      const Vector next = fresh + update * (load(state + c) - fresh);
      store(state + c, next);
      store(token(i) + c, load(token(i) + c) + next);
    }
  }
}

// Cross-attention to the candidates, whose projections are multiplied into query and output.
void Loop::glimpse() {
  float *queries = context_.mixed.at(), *scores = context_.step.at();
  model_.glimpse_norm.apply(token(0), normed(0), count_, width_);
  model_.glimpse_query.apply({normed(0), width_}, count_, {queries, width_});
  for (int64_t i = 0; i < count_; i++) {
    const List& list = *live_[i]->list;
    const float* candidates = list.candidates.at();
    score(queries + i * width_, candidates, list.size, width_, nullptr, scores);
    mean(scores, 1.0f, candidates, list.size, width_, scores, normed(i));
  }
  model_.glimpse_output.apply<Into::sum>({normed(0), width_}, count_, {token(0), width_});
}

// Feed-forward layers, the new hidden states, to which reasoning adds, and their choices.
void Loop::finish_tokens() {
  float *mixed = context_.mixed.at(), *hidden = normed(0);
  model_.feed_forward.add(token(0), count_, mixed);
  model_.hidden_norm.apply(token(0), token(0), count_, width_);
  const size_t bytes = 4 * static_cast<size_t>(width_);
  for (int64_t i = 0; i < reasoning_; i++)
    std::memcpy(normed(i), live_[i]->hidden.at(), bytes);
  model_.refine.apply<Into::sum>({token(0), width_}, reasoning_, {hidden, width_});
  for (int64_t i = reasoning_; i < count_; i++) std::memcpy(normed(i), token(i), bytes);
  model_.pointer.apply({hidden, width_}, count_, {mixed, width_});
  for (int64_t i = 0; i < count_; i++) std::memcpy(live_[i]->hidden.at(), normed(i), bytes);
}

// Compute logits, up to a constant, and their entropy in nats.
void Loop::choose(Slate& slate, const float* query) {
  const List& list = *slate.list;
  float* logits = slate.logits();
  score(query, list.candidates.at(), list.size, width_, slate.prior(), logits);
  slate.top = top_of(logits, list.stride);
  const Vector top = broadcast(slate.top);
  Vector total{}, weighted{};
  for (int64_t j = 0; j < list.stride; j += LANES) {
    const Vector v = load(logits + j) - top, e = decay(v);
    total += e, weighted += e * v;
  }
  const float z = sum(total);
  slate.entropy = std::log(z) - sum(weighted) / z;
}

// Decide about the next token; false when the slate is finished.
bool Loop::advance(Slate& slate) {
  if (slate.token == Token::reason) {
    slate.steps++;
  } else {
    slate.before = slate.entropy, slate.steps = 0;
  }
  const bool free = slate.pinned[slate.position] < 0;
  if (free && slate.steps < slate.budget && slate.entropy > slate.threshold) {
    const List& list = *slate.list;
    mean(slate.logits(), slate.cool, list.candidates.at(), list.size, width_, context_.step.at(),
         slate.aggregate.at());
    slate.token = Token::reason;
    return true;
  }
  return pick(slate);
}

// Put an item at the slate's position; false when the slate is full.
bool Loop::pick(Slate& slate) {
  const List& list = *slate.list;
  const int64_t pinned = slate.pinned[slate.position], size = list.size;
  const int64_t at = slate.row * model_.shape.positions + slate.position;
  const float* logits = slate.logits();
  if (slate.explained) {
    float shared = *model_.logit_shift;
    for (int64_t c = 0; c < width_; c++) shared += model_.logit_slope[c] * slate.hidden.at()[c];
    float* to = slate.explained + slate.position * size;
    for (int64_t j = 0; j < size; j++) to[j] = logits[j] + shared;
  }
  if (pinned >= 0) {
    slate.item = pinned;
  } else {
    int64_t best = 0;
    const float* noise = slate.noise ? slate.noise + slate.position * size : nullptr;
    float highest = -INFINITY;
    for (int64_t j = 0; j < size; j++) {
      const float score = noise ? logits[j] * slate.scale + noise[j] : logits[j];
      if (score > highest) highest = score, best = j;
    }
    const Vector top = broadcast(slate.top);
    Vector total{};
    for (int64_t j = 0; j < list.stride; j += LANES)
      total += decay((load(logits + j) - top) * slate.scale);
    slate.item = best;
    batch_.logprob[at] = (logits[best] - slate.top) * slate.scale - std::log(sum(total));
    batch_.before[at] = slate.before, batch_.after[at] = slate.entropy;
  }
  batch_.slate[at] = slate.item, batch_.steps[at] = slate.steps;
  if (++slate.position == slate.length) return false;
  spend(slate);
  slate.token = Token::item;
  return true;
}

// Use up the quota of the item's group, and what the intent keeps of its values.
void Loop::spend(Slate& slate) {
  const List& list = *slate.list;
  float* quota = slate.quota();
  const int64_t group = slate.group[slate.item];
  for (int64_t j = 0; j < list.size; j++) quota[j] -= slate.group[j] == group ? 1.0f : 0.0f;
  quota[slate.item] = -1.0f;
  int64_t v = 0;
  for (int64_t a = 0; a < list.attributes; a++)
    for (; v < list.ends[a]; v++)
      if (list.values(v)[slate.item] > 0) slate.kept.at()[v] *= list.retained[a];
  if (list.attributes > 0) adjust(slate);
  open(slate);
}

// Compute what the intent adds to the logits: boosts, and weight * ln(share) of each attribute.
void Loop::adjust(Slate& slate) {
  const List& list = *slate.list;
  if (!list.adjusted) return;
  float* adjustment = slate.adjustment();
  std::memcpy(adjustment, list.boosts(), 4 * static_cast<size_t>(list.stride));
  int64_t first = 0;
  for (int64_t a = 0; a < list.attributes; a++) {
    for (int64_t j = 0; j < list.stride; j += LANES) {
      Vector share = load(list.alone(a) + j);
      for (int64_t v = first; v < list.ends[a]; v++)
        share += slate.kept.at()[v] * load(list.values(v) + j);
      store(adjustment + j, load(adjustment + j) + list.weight[a] * logarithm(share));
    }
    first = list.ends[a];
  }
}

// Mask the candidates that are not available, and add the adjustment of the others.
void Loop::open(Slate& slate) {
  const List& list = *slate.list;
  float *prior = slate.prior(), *quota = slate.quota();
  for (int64_t j = 0; j < list.size; j++) prior[j] = quota[j] > 0 ? 0.0f : MASKED;
  for (int64_t j = list.size; j < list.stride; j++) prior[j] = PADDING;
  if (list.adjusted)
    for (int64_t j = 0; j < list.stride; j += LANES)
      store(prior + j, load(prior + j) + load(slate.adjustment() + j));
}

}  // namespace

int32_t decode(const eglr_model& model, eglr_context& context, eglr_batch& batch) {
  for (List& list : context.lists) list.users = 0;
  return Loop(model, context, batch).run();
}

}  // namespace rerank
