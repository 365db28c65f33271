// The kept weights as the inner loops of masked_conv2d and masked_linear read them: one row per
// output channel of (offset, value), where the weight reads from, relative to the tile, and its
// value. Made from the plan in every pass, since values change; cost: one pass over the weights.

// The kept weights of channel o are the entries begin[o] to end[o] of the lists.
template <class T>
struct SparseRows {
  const int32_t *begin, *end;
  const uint32_t* offset;
  const T* value;
};

template <class T>
struct PackedRows {
  std::vector<uint32_t> offset;
  std::vector<T> value;
  // begin[g * channels + o]: where channel o's entries of input channels from group g on start.
  std::vector<int32_t> begin;
  int64_t channels, groups;

  SparseRows<T> group(int64_t g) const {
    const int32_t* at = begin.data() + g * channels;
    return {at, at + channels, offset.data(), value.data()};
  }
};

// How many input channels to take at once, for a tile that reads `footprint` vectors of each.
// Rows are summed group by group when a row has kRowWorth weights in each; less does not pay for
// reading and writing the sums again (measured on 48 KiB of L1, 2026-11-25).
inline int64_t channels_at_once(int64_t channels, int64_t out_channels, int64_t nnz,
                                int64_t footprint) {
  constexpr int64_t kRowWorth = 3;
  const int64_t fit = std::max<int64_t>(1, l1_bytes() / (footprint * SPARSELTH_VECTOR_BYTES));
  const int64_t groups = (channels + fit - 1) / fit;
  return nnz >= kRowWorth * groups * out_channels ? fit : channels;
}

// The kept weights in the plan's order by output, which its order by input refers to.
template <class T>
std::vector<T> values_by_output(const Plan& plan, const T* weight, const Threads& threads) {
  std::vector<T> values(size_t(plan.nnz));
  const int64_t runs = std::min(threads.count, plan.nnz);
  threads.run(runs, [&](int64_t run) {
    for (int64_t j = run * plan.nnz / runs; j < (run + 1) * plan.nnz / runs; ++j)
      values[j] = weight[plan.by_output.at[j]];
  });
  return values;
}

// Fills the rows of output channels with the entries whose tap has an offset >= 0. values: what
// rows.at refers to, or null for rows of which only the offsets are read.
template <class T>
PackedRows<T> pack_rows(const PlanRows& rows, int64_t channels, int64_t in_channels, int64_t group,
                        const T* values, const std::vector<int64_t>& tap_offset,
                        int64_t channel_step, const Threads& threads) {
  constexpr int32_t kTapMask = (1 << kTapBits) - 1;
  const bool all_taps =
      std::all_of(tap_offset.begin(), tap_offset.end(), [](int64_t at) { return at >= 0; });
  PackedRows<T> packed;
  packed.channels = channels;
  packed.groups = (in_channels + group - 1) / group;
  packed.begin.resize((packed.groups + 1) * channels);

  // Where each channel's entries start: as in the plan, or counted where taps drop out.
  std::vector<int32_t> start(channels + 1, 0);
  for (int64_t o = 0; o < channels; ++o) {
    int32_t count = rows.begin[o + 1] - rows.begin[o];
    if (!all_taps) {
      count = 0;
      for (int32_t j = rows.begin[o]; j < rows.begin[o + 1]; ++j)
        count += tap_offset[rows.code[j] & kTapMask] >= 0;
    }
    start[o + 1] = start[o] + count;
  }
  packed.offset.resize(start[channels]);
  if (values) packed.value.resize(start[channels]);

  const auto fill = [&](int64_t o) {
    int32_t to = start[o];
    int64_t next_group = 0;
    for (int32_t j = rows.begin[o]; j < rows.begin[o + 1]; ++j) {
      const int64_t channel = rows.code[j] >> kTapBits, tap = tap_offset[rows.code[j] & kTapMask];
      if (tap < 0) continue;
      while (next_group * group <= channel) packed.begin[next_group++ * channels + o] = to;
      packed.offset[to] = uint32_t(channel * channel_step + tap);
      if (values) packed.value[to] = values[rows.at[j]];
      ++to;
    }
    while (next_group <= packed.groups) packed.begin[next_group++ * channels + o] = to;
  };
  const int64_t runs = std::min(threads.count, channels);
  threads.run(runs, [&](int64_t run) {
    for (int64_t o = run * channels / runs; o < (run + 1) * channels / runs; ++o) fill(o);
  });
  return packed;
}
