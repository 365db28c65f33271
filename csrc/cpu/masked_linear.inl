// Masked linear map on the kept weights, compiled per instruction set.
//
//   forward      y[n,o]  = b[o] + sum_{c kept in o} w[o,c] x[n,c]
//   grad input   dx[n,c] = sum_{o kept in c} w[o,c] dy[n,o]        (the forward loop, transposed)
//   grad weight  dw[o,c] = sum_n dy[n,o] x[n,c]
//
// The batch takes the place of an image row: kC vectors of kLanes samples form a group, packed as
// [channel][kC][lane], and a tile is one channel of a group. As many groups are packed at a time as
// the threads' second-level caches hold, and results go back to their samples in parts of that
// size, so that activations cross memory once, as they are stored. Threads divide the output
// channels of every group, so no two of them write the same value. Deterministic, whatever their
// number.
//
// S: what activations are stored as, W: weights. Both are widened as they are packed, and results
// are rounded once, as they are stored.

#include "cpu/batch_layout.inl"
#include "cpu/sparse_rows.inl"
#include "cpu/sparse_tiles.inl"

inline int group_columns(int64_t batch, int64_t lanes) {
  int columns = 1;
  while (2 * columns <= kMaxTile && columns * lanes < batch) columns *= 2;
  return columns;
}

// How the rows of a (batch, channels) matrix lie in groups of cols * kLanes samples.
template <class S>
class SampleLayout {
 public:
  SampleLayout(int64_t batch, int64_t channels, int cols)
      : batch(batch), channels(channels), cols(cols) {
    for (int64_t c = 0; c < channels; ++c) channel_at_.push_back(c * channel_step());
  }

  const int64_t batch, channels;
  const int cols;

  int64_t channel_step() const { return cols * kLanes<S>; }
  int64_t group_step() const { return channels * channel_step(); }
  int64_t group_bytes() const { return group_step() * int64_t(sizeof(Compute<S>)); }

  int64_t first_sample(int64_t vector) const { return vector * kLanes<S>; }
  // Samples in a vector of them, which the batch may end before.
  int64_t samples(int64_t vector) const {
    return std::clamp<int64_t>(batch - first_sample(vector), 0, kLanes<S>);
  }
  Walk walk(int64_t first, int64_t last) const {
    return {channels, 0, 0, 1, first, last, &kNoOffset, channel_at_.data()};
  }

 private:
  static constexpr int64_t kNoOffset = 0;
  std::vector<int64_t> channel_at_;
};

// Groups that are worked on at a time, of which one takes so many bytes.
inline int64_t groups_at_once(int64_t groups, int64_t bytes, const Threads& threads) {
  const int64_t room = threads.count * (l2_bytes() / 2);
  return std::clamp<int64_t>(room / std::max<int64_t>(bytes, 1), 1, std::max<int64_t>(groups, 1));
}

// Some groups of a matrix, packed; absent samples are 0.
template <class S>
class PackedSamples {
 public:
  using T = Compute<S>;

  PackedSamples(const S* samples, const SampleLayout<S>& layout, int64_t most)
      : layout_(layout),
        samples_(samples),
        values_(memory_.template get<T>(size_t(most * layout.group_step()))) {}

  // Of those packed last.
  const T* group(int64_t g) const { return values_ + g * layout_.group_step(); }

  // Packs groups [first, first + count).
  void pack_groups(int64_t first, int64_t count, const Threads& threads) {
    const int64_t cols = layout_.cols, vectors = count * cols, channels = layout_.channels;
    const int64_t parts =
        std::clamp<int64_t>(2 * threads.count / vectors, 1, std::max<int64_t>(channels, 1));
    threads.run(vectors * parts, [&](int64_t task) {
      const int64_t at = task / parts, part = task % parts, vector = first * cols + at;
      const int64_t samples = layout_.samples(vector);
      pack(samples ? samples_ + layout_.first_sample(vector) * channels : samples_, samples,
           layout_.walk(part * channels / parts, (part + 1) * channels / parts),
           values_ + at / cols * layout_.group_step() + at % cols * kLanes<S>);
    });
  }

 private:
  const SampleLayout<S>& layout_;
  const S* samples_;
  Workspace memory_;
  T* values_;
};

// value: as `pack_rows` takes it.
template <class T, class F>
PackedRows<T> linear_rows(const PlanRows& rows, int64_t channels, int64_t in_channels, int64_t nnz,
                          int cols, const F& value, const Threads& threads) {
  return pack_rows<T>(rows, channels, in_channels,
                      channels_at_once(in_channels, channels, nnz, cols), value, {0},
                      int64_t(cols) * kLanes<T>, threads);
}

// Calls f(group, first, last) for parts of the output channels, `least` or more of each group.
// Parts of fewer than `narrow` channels are made only where threads would have none otherwise.
template <class F>
void for_each_channel_part(int64_t groups, int64_t channels, int64_t least, int64_t narrow,
                           const Threads& threads, const F& f) {
  const int64_t wanted = threads.count == 1
                             ? 1
                             : std::min(4 * threads.count / groups,
                                        std::max(threads.count / groups, channels / narrow));
  const int64_t parts =
      std::clamp<int64_t>(std::max(wanted, least), 1, std::max<int64_t>(channels, 1));
  threads.run(groups * parts, [&](int64_t task) {
    const int64_t part = task % parts;
    f(task / parts, part * channels / parts, (part + 1) * channels / parts);
  });
}

// A thread's room for results before they are stored; it stays for the next pass.
template <class T>
T* result_scratch(int64_t values) {
  static thread_local Workspace memory;
  return memory.get<T>(size_t(values));
}

// y (batch, c_out) from x (batch, c_in) through `rows`, one row per channel of y. weight: what
// rows.at refers to.
template <class S, class W>
void linear_map(int64_t batch, int64_t c_in, int64_t c_out, const PlanRows& rows, int64_t nnz,
                const S* x, const W* weight, const Compute<S>* bias, S* y, const Threads& threads) {
  using T = Compute<S>;
  const int cols = group_columns(batch, kLanes<S>);
  const SampleLayout<S> in(batch, c_in, cols), out(batch, c_out, cols);
  const int64_t step = out.channel_step(), groups = (batch + step - 1) / step;
  const int64_t most = groups_at_once(groups, in.group_bytes(), threads);
  const int64_t room = l2_bytes() / 4, least = (out.group_bytes() + room - 1) / room;
  const auto value = [&](int64_t, int32_t j) { return value_of(weight[rows.at[j]]); };
  const PackedRows<T> weights = linear_rows<T>(rows, c_out, c_in, nnz, cols, value, threads);
  PackedSamples<S> packed(x, in, most);
  for (int64_t begin = 0; begin < groups; begin += most) {
    const int64_t count = std::min(most, groups - begin);
    packed.pack_groups(begin, count, threads);
    for_each_channel_part(
        count, c_out, least, kLanes<S>, threads, [&](int64_t g, int64_t first, int64_t last) {
          T* part = result_scratch<T>((last - first) * step);
          const T* added = bias ? bias + first : nullptr;
          with_tile({1, cols}, [&]<int kR, int kC>() {
            for (int64_t some = 0; some < weights.groups; ++some) {
              const SparseRows<T> all = weights.group(some);
              const TilePlace<T> to{part, step, {0, kLanes<S>}};
              const TilePlace<T> sums{some > 0 ? part : nullptr, to.channel, to.step};
              correlate_tile<T, T, kR, kC, 1>(packed.group(g), 0,
                                              {all.begin + first, all.offset, all.value}, 0,
                                              last - first, added, sums, to);
            }
          });
          for (int64_t c = 0; c < cols; ++c) {
            const int64_t vector = (begin + g) * cols + c, samples = out.samples(vector);
            if (samples)
              unpack(static_cast<const T*>(part + c * kLanes<S>), out.walk(0, last - first),
                     y + out.first_sample(vector) * c_out + first, samples);
          }
        });
  }
}

template <class S, class W>
void linear_forward(const Plan& plan, int64_t batch, const S* x, const W* weight,
                    const Compute<S>* bias, S* y, const Threads& threads) {
  linear_map<S, W>(batch, plan.c_in(), plan.c_out, plan.by_output, plan.nnz, x, weight, bias, y,
                   threads);
}

template <class S, class W>
void linear_grad_input(const Plan& plan, int64_t batch, const S* dy, const W* weight, S* dx,
                       const Threads& threads) {
  const auto values = values_by_output(plan, weight, threads);
  linear_map<S, Compute<S>>(batch, plan.c_out, plan.c_in(), plan.by_input, plan.nnz, dy,
                            values.data(), nullptr, dx, threads);
}

// dw: dense; zero where the mask is False.
template <class S, class W>
void linear_grad_weight(const Plan& plan, int64_t batch, const S* dy, const S* x, W* dw,
                        const Threads& threads) {
  using T = Compute<S>;
  const int cols = group_columns(batch, kLanes<S>);
  const SampleLayout<S> in(batch, plan.c_in(), cols), out(batch, plan.c_out, cols);
  const int64_t step = out.channel_step(), groups = (batch + step - 1) / step;
  const int64_t most = groups_at_once(groups, in.group_bytes() + out.group_bytes(), threads);
  const PackedRows<T> weights =
      linear_rows<T>(plan.by_output, plan.c_out, plan.c_in(), plan.nnz, cols, nullptr, threads);
  PackedSamples<S> packed(x, in, most), grad(dy, out, most);
  std::vector<T> sums(plan.nnz, T(0));
  for (int64_t begin = 0; begin < groups; begin += most) {
    const int64_t count = std::min(most, groups - begin);
    packed.pack_groups(begin, count, threads);
    grad.pack_groups(begin, count, threads);
    for_each_channel_part(1, plan.c_out, 1, 1, threads, [&](int64_t, int64_t first, int64_t last) {
      for (int64_t g = 0; g < count; ++g)
        with_tile({1, cols}, [&]<int kR, int kC>() {
          for (int64_t some = 0; some < weights.groups; ++some)
            grad_weight_tile<T, kR, kC, 1>(packed.group(g), 0, weights.group(some), first, last,
                                           grad.group(g), step, 0, 0, 0, sums.data());
        });
    });
  }
  for_each_channel_part(1, plan.c_out, 1, 1, threads, [&](int64_t, int64_t first, int64_t last) {
    std::fill(dw + first * plan.c_in(), dw + last * plan.c_in(), W{});
    const int32_t* at = plan.by_output.at + plan.by_output.begin[first];
    for (int64_t o = first; o < last; ++o)
      weights.for_each_of(o, [&](int32_t entry) { dw[*at++] = rounded<W>(sums[entry]); });
  });
}
