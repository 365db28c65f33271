// Masked convolution on the kept weights, compiled per instruction set.
//
//   forward      y[n,o,p,q]  = b[o] + sum_{(c,r,s) kept in o} w * x[n, c, p*sh - ph + r*dh, ...]
//   grad input   dx[n,c,h,w] = sum_{(o,r,s) kept in c} w * dy[n, o, (h + ph - r*dh) / sh, ...]
//   grad weight  dw[o,c,r,s] = sum_{n,p,q} dy[n,o,p,q] * x[n, c, p*sh - ph + r*dh, ...]
//
// Layout: kLanes images innermost, [C][rows][columns][lane], with a zero halo instead of bounds
// checks. Columns of the input are dealt out by their remainder modulo the stride, so that a tile
// of outputs reads neighbouring vectors whatever the stride. The input gradient gathers: it is
// the forward loop on the transposed rows, one phase per remainder of the output position.
// Cost: one multiply-add per kept weight and output, plus one pass over each tensor to pack it.
// Deterministic for a fixed number of threads; no atomics.

#include "cpu/batch_layout.inl"
#include "cpu/sparse_tiles.inl"

// How one tensor lies in a block.
struct BlockLayout {
  int64_t channels, rows, row_vectors;       // of the block, halo included
  int64_t first_row, first_col, col_phases;  // place of the image's (0, 0); see `place`

  int64_t phase_vectors() const { return row_vectors / col_phases; }
  int64_t channel_vectors() const { return rows * row_vectors; }
  // Vector index of image position (h, w), which may lie in the halo.
  int64_t place(int64_t h, int64_t w) const {
    const int64_t col = w + first_col;
    return (h + first_row) * row_vectors + col % col_phases * phase_vectors() + col / col_phases;
  }
};

// Where the values of (C, H, W) images go in a block, walked in the order they have in memory.
struct BlockWalk {
  std::vector<int64_t> channel_at, pixel_at;
  bool channels_fast, flat;
  int64_t channels, height, width;

  BlockWalk(const BlockLayout& block, int64_t lanes, int64_t height, int64_t width,
            bool channels_last)
      : channels(block.channels), height(height), width(width) {
    std::vector<int64_t> pixels(height * width);
    for (int64_t h = 0; h < height; ++h)
      for (int64_t w = 0; w < width; ++w) pixels[h * width + w] = block.place(h, w) * lanes;
    const int64_t channel_step = block.channel_vectors() * lanes;
    channels_fast = channels_last;
    // Planes smaller than a few vectors: walk the whole image as one contiguous run.
    flat = !channels_fast && height * width < 4 * lanes;
    if (flat) {
      channel_at = {0};
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t at : pixels) pixel_at.push_back(c * channel_step + at);
    } else {
      for (int64_t c = 0; c < channels; ++c) channel_at.push_back(c * channel_step);
      pixel_at = std::move(pixels);
    }
  }

  // The walk over image rows [begin, end).
  Walk rows(int64_t begin, int64_t end) const {
    const int64_t image = channels * height * width;
    if (flat) return {image, 0, 0, 1, 0, image, channel_at.data(), pixel_at.data()};
    if (channels_fast)
      return {image, channels, begin * width,   end * width,
              0,     channels, pixel_at.data(), channel_at.data()};
    return {
        image,          height * width, 0, channels, begin * width, end * width, channel_at.data(),
        pixel_at.data()};
  }
};

// One set of output positions that share their kept taps: (row0 + i * step_h, col0 + j * step_w).
template <class T>
struct Phase {
  int64_t row0, col0, rows, cols;
  std::vector<int32_t> begin;
  std::vector<uint32_t> offset;
  std::vector<T> value;
};

// A correlation of packed blocks: what forward and grad input have in common.
template <class T>
struct Correlation {
  BlockLayout in;
  int64_t in_height, in_width, in_row_step;  // row step between tile rows, in rows of the block
  int64_t out_channels, out_height, out_width, step_h, step_w;
  std::vector<Phase<T>> phases;
  // Rows of the input that output rows [begin, end) read, before clipping.
  std::function<std::pair<int64_t, int64_t>(int64_t, int64_t)> reads;
};

// Fills a phase's rows with the entries whose tap has an offset >= 0. weight: dense, or null for
// rows of which only the offsets are read.
template <class T>
void fill_phase(Phase<T>& phase, const PlanRows& rows, int64_t channels, const T* weight,
                const std::vector<int64_t>& tap_offset, int64_t channel_step) {
  constexpr int32_t kTapMask = (1 << kTapBits) - 1;
  phase.begin.assign(1, 0);
  phase.offset.reserve(rows.begin[channels]);
  phase.value.reserve(rows.begin[channels]);
  for (int64_t o = 0; o < channels; ++o) {
    for (int32_t j = rows.begin[o]; j < rows.begin[o + 1]; ++j) {
      const int64_t tap = tap_offset[rows.code[j] & kTapMask];
      if (tap < 0) continue;
      phase.offset.push_back(uint32_t((rows.code[j] >> kTapBits) * channel_step + tap));
      if (weight) phase.value.push_back(weight[rows.flat[j]]);
    }
    phase.begin.push_back(int32_t(phase.offset.size()));
  }
}

inline BlockLayout forward_block(const ConvGeometry& g) {
  const int64_t reach_h = (g.out_height - 1) * g.stride_h + g.dilation_h * (g.kernel_h - 1) + 1;
  const int64_t reach_w = (g.out_width - 1) * g.stride_w + g.dilation_w * (g.kernel_w - 1) + 1;
  const int64_t rows = std::max(reach_h, g.height + g.pad_h);
  const int64_t cols = std::max(reach_w, g.width + g.pad_w);
  return {g.c_in,  rows,    (cols + g.stride_w - 1) / g.stride_w * g.stride_w,
          g.pad_h, g.pad_w, g.stride_w};
}

inline std::vector<int64_t> forward_taps(const ConvGeometry& g, const BlockLayout& block,
                                         int64_t lanes) {
  std::vector<int64_t> offset;
  for (int64_t r = 0; r < g.kernel_h; ++r)
    for (int64_t s = 0; s < g.kernel_w; ++s)
      offset.push_back(
          block.place(r * g.dilation_h - block.first_row, s * g.dilation_w - block.first_col) *
          lanes);
  return offset;
}

template <class T>
Correlation<T> forward_correlation(const ConvGeometry& g, const Plan& plan, const T* weight) {
  const BlockLayout block = forward_block(g);
  Correlation<T> c{block,       g.height, g.width, g.stride_h, g.c_out, g.out_height,
                   g.out_width, 1,        1,       {},         {}};
  Phase<T> phase{0, 0, g.out_height, g.out_width, {}, {}, {}};
  fill_phase(phase, plan.by_output, g.c_out, weight, forward_taps(g, block, kLanes<T>),
             block.channel_vectors() * kLanes<T>);
  c.phases.push_back(std::move(phase));
  c.reads = [g](int64_t begin, int64_t end) {
    return std::pair(begin * g.stride_h - g.pad_h,
                     (end - 1) * g.stride_h - g.pad_h + g.dilation_h * (g.kernel_h - 1) + 1);
  };
  return c;
}

// Along one axis: input positions with (position + pad) % stride == remainder, and for each tap
// the output index that the first of them reads, if the tap reaches them at all.
struct AxisPhase {
  int64_t first, count;
  std::vector<int64_t> tap_index;
  std::vector<bool> tap_used;
};

inline std::vector<AxisPhase> axis_phases(int64_t size, int64_t kernel, int64_t stride, int64_t pad,
                                          int64_t dilation) {
  std::vector<AxisPhase> phases;
  for (int64_t first = 0; first < stride && first < size; ++first) {
    AxisPhase phase{first, (size - first + stride - 1) / stride, {}, {}};
    for (int64_t tap = 0; tap < kernel; ++tap) {
      const int64_t numerator = first + pad - tap * dilation;
      phase.tap_used.push_back(numerator % stride == 0);
      phase.tap_index.push_back(numerator / stride);
    }
    phases.push_back(std::move(phase));
  }
  return phases;
}

// Lowest and one past the highest index that any phase reads, at least [0, size).
inline std::pair<int64_t, int64_t> reach(const std::vector<AxisPhase>& phases, int64_t size) {
  int64_t low = 0, high = size;
  for (const AxisPhase& phase : phases)
    for (size_t tap = 0; tap < phase.tap_used.size(); ++tap)
      if (phase.tap_used[tap]) {
        low = std::min(low, phase.tap_index[tap]);
        high = std::max(high, phase.tap_index[tap] + phase.count);
      }
  return {low, high};
}

template <class T>
Correlation<T> grad_input_correlation(const ConvGeometry& g, const Plan& plan, const T* weight) {
  const auto vertical = axis_phases(g.height, g.kernel_h, g.stride_h, g.pad_h, g.dilation_h);
  const auto horizontal = axis_phases(g.width, g.kernel_w, g.stride_w, g.pad_w, g.dilation_w);
  const auto [low_h, high_h] = reach(vertical, g.out_height);
  const auto [low_w, high_w] = reach(horizontal, g.out_width);
  const BlockLayout block{g.c_out, high_h - low_h, high_w - low_w, -low_h, -low_w, 1};
  Correlation<T> c{block,   g.out_height, g.out_width, 1,  g.c_in, g.height,
                   g.width, g.stride_h,   g.stride_w,  {}, {}};
  for (const AxisPhase& v : vertical)
    for (const AxisPhase& h : horizontal) {
      std::vector<int64_t> taps;
      for (int64_t r = 0; r < g.kernel_h; ++r)
        for (int64_t s = 0; s < g.kernel_w; ++s)
          taps.push_back(v.tap_used[r] && h.tap_used[s]
                             ? block.place(v.tap_index[r], h.tap_index[s]) * kLanes<T>
                             : -1);
      Phase<T> phase{v.first, h.first, v.count, h.count, {}, {}, {}};
      fill_phase(phase, plan.by_input, g.c_in, weight, taps, block.channel_vectors() * kLanes<T>);
      c.phases.push_back(std::move(phase));
    }
  c.reads = [g](int64_t begin, int64_t end) {
    // One row of slack either way spares the exact rounding of negative quotients.
    return std::pair((begin + g.pad_h - g.dilation_h * (g.kernel_h - 1)) / g.stride_h - 1,
                     (end + g.pad_h) / g.stride_h + 2);
  };
  return c;
}

// Splits `items` over the threads; each thread takes one contiguous run of them.
template <class F>
void for_each_run(int64_t items, const Threads& threads, const F& f) {
  const int64_t runs = std::min(items, threads.count);
  threads.run(runs, [&](int64_t run) { f(run, run * items / runs, (run + 1) * items / runs); });
}

template <class T>
T* zeroed_block(Scratch purpose, const BlockLayout& block) {
  const size_t size = size_t(block.channels * block.channel_vectors() * kLanes<T>);
  T* memory = thread_workspace(purpose).get<T>(size);
  std::fill(memory, memory + size, T(0));
  return memory;
}

template <class T>
void run_correlation(const Correlation<T>& c, int64_t batch, Images<const T> x, const T* bias,
                     Images<T> y, const Threads& threads) {
  constexpr int kL = kLanes<T>;
  const TileShape tile = choose_tile((c.out_height + c.step_h - 1) / c.step_h,
                                     (c.out_width + c.step_w - 1) / c.step_w);
  // A band is the output rows of one row of tiles, over all phases.
  const int64_t band_rows = std::min(tile.rows * c.step_h, c.out_height);
  const int64_t bands = (c.out_height + band_rows - 1) / band_rows;
  const int64_t blocks = (batch + kL - 1) / kL;
  const BlockWalk in_walk(c.in, kL, c.in_height, c.in_width, x.channels_last);
  // The output lies in a scratch that is one band high.
  const BlockLayout out{c.out_channels, band_rows, c.out_width, 0, 0, 1};
  const int64_t out_channel = out.channel_vectors() * kL, out_row = c.out_width * kL;
  const int64_t in_image = c.in.channels * c.in_height * c.in_width;
  const int64_t out_image = c.out_channels * c.out_height * c.out_width;
  const int64_t in_row = c.in_row_step * c.in.row_vectors * kL;

  for_each_run(blocks * bands, threads, [&](int64_t, int64_t begin, int64_t end) {
    T* in_block = zeroed_block<T>(Scratch::input_block, c.in);
    T* out_block = thread_workspace(Scratch::output_block).get<T>(c.out_channels * out_channel);
    int64_t packed = -1;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t block = item / bands, band = item % bands;
      const int64_t count = std::min<int64_t>(kL, batch - block * kL);
      if (block != packed) {
        const int64_t last_band = std::min(bands, band + end - item);
        auto [row, row_end] =
            c.reads(band * band_rows, std::min(c.out_height, last_band * band_rows));
        row = std::clamp<int64_t>(row, 0, c.in_height);
        row_end = std::clamp<int64_t>(row_end, row, c.in_height);
        pack(x.data + block * kL * in_image, count, in_walk.rows(row, row_end), in_block);
        packed = block;
      }
      const int64_t row0 = band * band_rows, rows = std::min(band_rows, c.out_height - row0);
      for (const Phase<T>& phase : c.phases) {
        const SparseRows<T> weights{phase.begin.data(), phase.offset.data(), phase.value.data()};
        const TileShape shape{tile.rows, power_of_two_below(phase.cols, tile.cols)};
        const int64_t first = row0 / c.step_h;
        const int64_t last = std::min(phase.rows, first + tile.rows);
        const bool whole = last - first == tile.rows;
        for (int64_t i = first; i < last; i += whole ? tile.rows : 1) {
          const TileShape at_once{whole ? tile.rows : 1, shape.cols};
          with_tile(at_once, [&]<int kR, int kC>() {
            for_each_column_tile(phase.cols, kC, [&](int64_t j, int) {
              T* to = out_block + ((phase.row0 + i * c.step_h - row0) * c.out_width + phase.col0 +
                                   j * c.step_w) *
                                      kL;
              correlate_tile<T, kR, kC>(in_block + i * in_row + j * kL, in_row, weights, 0,
                                        c.out_channels, bias, to, out_channel, c.step_h * out_row,
                                        c.step_w * kL);
            });
          });
        }
      }
      store_band(out_block, out, c, row0, rows, y, block * kL * out_image, count);
    }
  });
}

// Writes output rows [row0, row0 + rows) of `count` images.
template <class T>
void store_band(const T* out_block, const BlockLayout& out, const Correlation<T>& c, int64_t row0,
                int64_t rows, Images<T> y, int64_t first_image, int64_t count) {
  constexpr int kL = kLanes<T>;
  const int64_t pixels = rows * c.out_width, image = c.out_channels * c.out_height * c.out_width;
  const int64_t channel_step = out.channel_vectors() * kL;
  std::vector<int64_t> channel_at, pixel_at;
  const bool flat = !y.channels_last && rows == c.out_height && pixels < 4 * kL;
  for (int64_t i = 0; i < (flat ? pixels * c.out_channels : pixels); ++i)
    pixel_at.push_back(i / pixels * channel_step + i % pixels * kL);
  for (int64_t o = 0; o < (flat ? 1 : c.out_channels); ++o) channel_at.push_back(o * channel_step);
  if (flat)
    unpack(out_block,
           {image, 0, 0, 1, 0, pixels * c.out_channels, channel_at.data(), pixel_at.data()},
           y.data + first_image, count);
  else if (y.channels_last)
    unpack(
        out_block,
        {image, c.out_channels, 0, pixels, 0, c.out_channels, pixel_at.data(), channel_at.data()},
        y.data + first_image + row0 * c.out_width * c.out_channels, count);
  else
    unpack(out_block,
           {image, c.out_height * c.out_width, 0, c.out_channels, 0, pixels, channel_at.data(),
            pixel_at.data()},
           y.data + first_image + row0 * c.out_width, count);
}

template <class T>
void conv_forward(const ConvGeometry& g, const Plan& plan, Images<const T> x, const T* weight,
                  const T* bias, Images<T> y, const Threads& threads) {
  run_correlation<T>(forward_correlation<T>(g, plan, weight), g.batch, x, bias, y, threads);
}

template <class T>
void conv_grad_input(const ConvGeometry& g, const Plan& plan, Images<const T> dy, const T* weight,
                     Images<T> dx, const Threads& threads) {
  run_correlation<T>(grad_input_correlation<T>(g, plan, weight), g.batch, dy, nullptr, dx, threads);
}

// dw: dense, zeroed by the caller; written at the kept weights only.
template <class T>
void conv_grad_weight(const ConvGeometry& g, const Plan& plan, Images<const T> dy,
                      Images<const T> x, T* dw, const Threads& threads) {
  constexpr int kL = kLanes<T>;
  const BlockLayout block = forward_block(g);
  const BlockLayout grad{g.c_out, g.out_height, g.out_width, 0, 0, 1};
  Phase<T> phase{0, 0, g.out_height, g.out_width, {}, {}, {}};
  fill_phase(phase, plan.by_output, g.c_out, static_cast<const T*>(nullptr),
             forward_taps(g, block, kL), block.channel_vectors() * kL);
  const SparseRows<T> weights{phase.begin.data(), phase.offset.data(), nullptr};
  const BlockWalk x_walk(block, kL, g.height, g.width, x.channels_last);
  const BlockWalk dy_walk(grad, kL, g.out_height, g.out_width, dy.channels_last);
  const TileShape tile = choose_tile(g.out_height, g.out_width);
  const int64_t bands = (g.out_height + tile.rows - 1) / tile.rows;
  const int64_t items = (g.batch + kL - 1) / kL * bands;
  const int64_t x_image = g.c_in * g.height * g.width;
  const int64_t dy_image = g.c_out * g.out_height * g.out_width;
  const int64_t row_step = g.stride_h * block.row_vectors * kL;

  // One partial gradient per run of items, added up in order afterwards.
  std::vector<T> partial(std::min(items, threads.count) * plan.nnz, T(0));
  for_each_run(items, threads, [&](int64_t run, int64_t begin, int64_t end) {
    T* x_block = zeroed_block<T>(Scratch::input_block, block);
    T* dy_block = zeroed_block<T>(Scratch::output_block, grad);
    T* sums = partial.data() + run * plan.nnz;
    int64_t packed = -1;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t at = item / bands * kL, band = item % bands;
      if (at != packed) {
        const int64_t count = std::min<int64_t>(kL, g.batch - at);
        pack(x.data + at * x_image, count, x_walk.rows(0, g.height), x_block);
        pack(dy.data + at * dy_image, count, dy_walk.rows(0, g.out_height), dy_block);
        packed = at;
      }
      const int64_t first = band * tile.rows, last = std::min(g.out_height, first + tile.rows);
      const bool whole = last - first == tile.rows;
      for (int64_t i = first; i < last; i += whole ? tile.rows : 1)
        with_tile({whole ? tile.rows : 1, tile.cols}, [&]<int kR, int kC>() {
          for_each_column_tile(g.out_width, kC, [&](int64_t j, int skip) {
            grad_weight_tile<T, kR, kC>(x_block + i * row_step + j * kL, row_step, weights, 0,
                                        g.c_out, dy_block + (i * g.out_width + j) * kL,
                                        g.out_height * g.out_width * kL, g.out_width * kL, skip,
                                        sums);
          });
        });
    }
  });
  for (int64_t run = 0; run * plan.nnz < int64_t(partial.size()); ++run)
    for (int64_t j = 0; j < plan.nnz; ++j)
      dw[plan.by_output.flat[j]] += partial[run * plan.nnz + j];
}
