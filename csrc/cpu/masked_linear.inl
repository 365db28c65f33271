// Masked linear map on the kept weights, compiled per instruction set.
//
//   forward      y[n,o]  = b[o] + sum_{c kept in o} w[o,c] x[n,c]
//   grad input   dx[n,c] = sum_{o kept in c} w[o,c] dy[n,o]        (the forward loop, transposed)
//   grad weight  dw[o,c] = sum_n dy[n,o] x[n,c]
//
// The batch takes the place of an image row: a tile is kC vectors of kLanes samples, and a group
// of samples [channel][kC][lane] is packed at a time. Deterministic for a fixed thread count.

#include "cpu/batch_layout.inl"
#include "cpu/sparse_tiles.inl"

// Packs samples [first, first + cols * kLanes) of a (batch, channels) matrix; absent ones are 0.
template <class T>
struct SampleGroup {
  int64_t channels;
  int cols;
  std::vector<int64_t> sample_at, channel_at;

  SampleGroup(int64_t channels, int cols) : channels(channels), cols(cols) {
    for (int64_t c = 0; c < channels; ++c) channel_at.push_back(c * cols * kLanes<T>);
    sample_at = {0};
  }
  Walk walk() const {
    return {channels, 0, 0, 1, 0, channels, sample_at.data(), channel_at.data()};
  }
  size_t size() const { return size_t(channels) * cols * kLanes<T>; }

  void load(const T* x, int64_t batch, int64_t first, T* group) const {
    for (int col = 0; col < cols; ++col) {
      const int64_t at = first + col * kLanes<T>;
      const int64_t count = std::clamp<int64_t>(batch - at, 0, kLanes<T>);
      pack(count ? x + at * channels : x, count, walk(), group + col * kLanes<T>);
    }
  }
  void save(const T* group, int64_t batch, int64_t first, T* y) const {
    for (int col = 0; col < cols; ++col) {
      const int64_t at = first + col * kLanes<T>;
      const int64_t count = std::clamp<int64_t>(batch - at, 0, kLanes<T>);
      if (count) unpack(group + col * kLanes<T>, walk(), y + at * channels, count);
    }
  }
};

inline int group_columns(int64_t batch, int64_t lanes) {
  int columns = 1;
  while (2 * columns <= kMaxTile && columns * lanes < batch) columns *= 2;
  return columns;
}

template <class T>
struct LinearRows {
  std::vector<uint32_t> offset;
  std::vector<T> value;
  const int32_t* begin;

  LinearRows(const PlanRows& rows, int64_t nnz, const T* weight, int cols) : begin(rows.begin) {
    for (int64_t j = 0; j < nnz; ++j) {
      offset.push_back(uint32_t((rows.code[j] >> kTapBits) * cols * kLanes<T>));
      if (weight) value.push_back(weight[rows.flat[j]]);
    }
  }
  SparseRows<T> view() const { return {begin, begin + 1, offset.data(), value.data()}; }
};

// y (batch, c_out) from x (batch, c_in) through `rows`, one row per channel of y.
template <class T>
void linear_map(int64_t batch, int64_t c_in, int64_t c_out, const PlanRows& rows, int64_t nnz,
                const T* x, const T* weight, const T* bias, T* y, const Threads& threads) {
  const int cols = group_columns(batch, kLanes<T>);
  const SampleGroup<T> in(c_in, cols), out(c_out, cols);
  const LinearRows<T> weights(rows, nnz, weight, cols);
  const int64_t group_size = cols * kLanes<T>, groups = (batch + group_size - 1) / group_size;
  const auto run = [&](int64_t begin, int64_t end) {
    T* in_group = thread_workspace(Scratch::input_block).get<T>(in.size());
    T* out_group = thread_workspace(Scratch::output_block).get<T>(out.size());
    for (int64_t i = begin; i < end; ++i) {
      in.load(x, batch, i * group_size, in_group);
      with_tile({1, cols}, [&]<int kR, int kC>() {
        correlate_tile<T, kR, kC, 1>(in_group, 0, weights.view(), 0, c_out, bias, false, out_group,
                                     kC * kLanes<T>, {0, kLanes<T>});
      });
      out.save(out_group, batch, i * group_size, y);
    }
  };
  const int64_t runs = std::min(groups, threads.count);
  threads.run(runs, [&](int64_t r) { run(r * groups / runs, (r + 1) * groups / runs); });
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
  linear_map<T>(batch, plan.c_out, plan.c_in(), plan.by_input, plan.nnz, dy, weight, nullptr, dx,
                threads);
}

// dw: dense, zeroed by the caller; written at the kept weights only. Threads take channels of
// the output, so no two of them touch the same weight.
template <class T>
void linear_grad_weight(const Plan& plan, int64_t batch, const T* dy, const T* x, T* dw,
                        const Threads& threads) {
  const int cols = group_columns(batch, kLanes<T>);
  const SampleGroup<T> in(plan.c_in(), cols), grad(plan.c_out, cols);
  const LinearRows<T> weights(plan.by_output, plan.nnz, nullptr, cols);
  const int64_t group_size = cols * kLanes<T>;
  std::vector<T> sums(plan.nnz, T(0));
  const int64_t runs = std::min(plan.c_out, threads.count);
  threads.run(runs, [&](int64_t r) {
    T* in_group = thread_workspace(Scratch::input_block).get<T>(in.size());
    T* grad_group = thread_workspace(Scratch::output_block).get<T>(grad.size());
    for (int64_t first = 0; first < batch; first += group_size) {
      in.load(x, batch, first, in_group);
      grad.load(dy, batch, first, grad_group);
      with_tile({1, cols}, [&]<int kR, int kC>() {
        grad_weight_tile<T, kR, kC, 1>(in_group, 0, weights.view(), r * plan.c_out / runs,
                                       (r + 1) * plan.c_out / runs, grad_group, kC * kLanes<T>, 0,
                                       0, 0, sums.data());
      });
    }
  });
  for (int64_t j = 0; j < plan.nnz; ++j) dw[plan.by_output.flat[j]] = sums[j];
}
