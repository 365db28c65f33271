// Masked linear map on the kept weights, compiled per instruction set.
//
//   forward      y[n,o]  = b[o] + sum_{c kept in o} w[o,c] x[n,c]
//   grad input   dx[n,c] = sum_{o kept in c} w[o,c] dy[n,o]        (the forward loop, transposed)
//   grad weight  dw[o,c] = sum_n dy[n,o] x[n,c]
//
// The batch takes the place of an image row: kC vectors of kLanes samples form a group, packed as
// [channel][kC][lane], and a tile is one channel of a group. Threads divide the output channels
// of every group, so no two of them write the same value. Deterministic, whatever their number.

#include "cpu/batch_layout.inl"
#include "cpu/sparse_rows.inl"
#include "cpu/sparse_tiles.inl"

// A (batch, channels) matrix in groups of cols * kLanes samples; absent samples are 0.
template <class T>
class SampleGroups {
 public:
  SampleGroups(int64_t batch, int64_t channels, int cols)
      : cols(cols), batch_(batch), channels_(channels) {
    for (int64_t c = 0; c < channels; ++c) channel_at_.push_back(c * channel_step());
    values_ = memory_.template get<T>(size_t(groups() * group_step()));
  }

  const int cols;
  int64_t groups() const {
    const int64_t samples = cols * kLanes<T>;
    return (batch_ + samples - 1) / samples;
  }
  int64_t channel_step() const { return cols * kLanes<T>; }
  int64_t group_step() const { return channels_ * channel_step(); }
  T* group(int64_t g) { return values_ + g * group_step(); }

  void load(const T* x, const Threads& threads) {
    for_each_part(threads, [&](int64_t first, int64_t count, const Walk& walk, T* to) {
      pack(count ? x + first * channels_ : x, count, walk, to);
    });
  }
  void save(T* y, const Threads& threads) {
    for_each_part(threads, [&](int64_t first, int64_t count, const Walk& walk, T* from) {
      if (count) unpack(static_cast<const T*>(from), walk, y + first * channels_, count);
    });
  }

 private:
  // Calls f(first sample, samples, channels to walk, place) for vectors of samples, in parts.
  template <class F>
  void for_each_part(const Threads& threads, const F& f) {
    const int64_t vectors = groups() * cols;
    const int64_t parts = std::clamp<int64_t>(2 * threads.count / vectors, 1, channels_);
    threads.run(vectors * parts, [&](int64_t task) {
      const int64_t vector = task / parts, part = task % parts;
      const int64_t first = vector * kLanes<T>;
      const int64_t count = std::clamp<int64_t>(batch_ - first, 0, kLanes<T>);
      const Walk walk{channels_,
                      0,
                      0,
                      1,
                      part * channels_ / parts,
                      (part + 1) * channels_ / parts,
                      &kNoOffset,
                      channel_at_.data()};
      f(first, count, walk, group(vector / cols) + vector % cols * kLanes<T>);
    });
  }

  static constexpr int64_t kNoOffset = 0;
  int64_t batch_, channels_;
  std::vector<int64_t> channel_at_;
  Workspace memory_;
  T* values_;
};

inline int group_columns(int64_t batch, int64_t lanes) {
  int columns = 1;
  while (2 * columns <= kMaxTile && columns * lanes < batch) columns *= 2;
  return columns;
}

// weight: what rows.at refers to; null where only the offsets are read.
template <class T>
PackedRows<T> linear_rows(const PlanRows& rows, int64_t channels, int64_t in_channels, int64_t nnz,
                          int cols, const T* weight, const Threads& threads) {
  return pack_rows(rows, channels, in_channels, channels_at_once(in_channels, channels, nnz, cols),
                   weight, {0}, int64_t(cols) * kLanes<T>, threads);
}

// Calls f(group, first, last) for parts of the output channels.
template <class F>
void for_each_channel_part(int64_t groups, int64_t channels, const Threads& threads, const F& f) {
  const int64_t parts =
      std::clamp<int64_t>(4 * threads.count / groups, 1, threads.count > 1 ? channels : 1);
  threads.run(groups * parts, [&](int64_t task) {
    const int64_t part = task % parts;
    f(task / parts, part * channels / parts, (part + 1) * channels / parts);
  });
}

// y (batch, c_out) from x (batch, c_in) through `rows`, one row per channel of y. weight: what
// rows.at refers to.
template <class T>
void linear_map(int64_t batch, int64_t c_in, int64_t c_out, const PlanRows& rows, int64_t nnz,
                const T* x, const T* weight, const T* bias, T* y, const Threads& threads) {
  const int cols = group_columns(batch, kLanes<T>);
  SampleGroups<T> in(batch, c_in, cols), out(batch, c_out, cols);
  const PackedRows<T> weights = linear_rows(rows, c_out, c_in, nnz, cols, weight, threads);
  in.load(x, threads);
  for_each_channel_part(in.groups(), c_out, threads, [&](int64_t g, int64_t first, int64_t last) {
    with_tile({1, cols}, [&]<int kR, int kC>() {
      for (int64_t some = 0; some < weights.groups; ++some) {
        const TilePlace<T> to{out.group(g), out.channel_step(), {0, kLanes<T>}};
        const TilePlace<T> sums{some > 0 ? to.data : nullptr, to.channel, to.step};
        correlate_tile<T, T, kR, kC, 1>(in.group(g), 0, weights.group(some), first, last, bias,
                                        sums, to);
      }
    });
  });
  out.save(y, threads);
}

template <class T>
void linear_forward(const Plan& plan, int64_t batch, const T* x, const T* weight, const T* bias,
                    T* y, const Threads& threads) {
  linear_map<T>(batch, plan.c_in(), plan.c_out, plan.by_output, plan.nnz, x, weight, bias, y,
                threads);
}

template <class T>
void linear_grad_input(const Plan& plan, int64_t batch, const T* dy, const T* weight, T* dx,
                       const Threads& threads) {
  linear_map<T>(batch, plan.c_out, plan.c_in(), plan.by_input, plan.nnz, dy,
                values_by_output(plan, weight, threads).data(), nullptr, dx, threads);
}

// dw: dense; zero where the mask is False.
template <class T>
void linear_grad_weight(const Plan& plan, int64_t batch, const T* dy, const T* x, T* dw,
                        const Threads& threads) {
  const int cols = group_columns(batch, kLanes<T>);
  SampleGroups<T> in(batch, plan.c_in(), cols), grad(batch, plan.c_out, cols);
  const PackedRows<T> weights = linear_rows(plan.by_output, plan.c_out, plan.c_in(), plan.nnz, cols,
                                            static_cast<const T*>(nullptr), threads);
  in.load(x, threads);
  grad.load(dy, threads);
  std::vector<T> sums(plan.nnz, T(0));
  for_each_channel_part(1, plan.c_out, threads, [&](int64_t, int64_t first, int64_t last) {
    for (int64_t g = 0; g < in.groups(); ++g)
      with_tile({1, cols}, [&]<int kR, int kC>() {
        for (int64_t some = 0; some < weights.groups; ++some)
          grad_weight_tile<T, kR, kC, 1>(in.group(g), 0, weights.group(some), first, last,
                                         grad.group(g), grad.channel_step(), 0, 0, 0, sums.data());
      });
    std::fill(dw + first * plan.c_in(), dw + last * plan.c_in(), T(0));
    const int32_t* at = plan.by_output.at + plan.by_output.begin[first];
    for (int64_t o = first; o < last; ++o)
      weights.for_each_of(o, [&](int32_t entry) { dw[*at++] = sums[entry]; });
  });
}
