// Images to blocks and back, compiled per instruction set. Layout: cpu/blocked_tensors.h.
//
// Cost: one read and one write of the images, through square transposes in registers.

#include "cpu/batch_layout.inl"

// Where the values of rows [0, height) of an image go in a block, in the order they have in memory.
struct BlockWalk {
  std::vector<int64_t> channel_at, pixel_at;
  bool channels_fast;
  int64_t image, pixels;

  template <class T>
  BlockWalk(const Blocked<T>& b, bool channels_last)
      : channels_fast(channels_last),
        image(b.channels * b.height * b.width),
        pixels(b.height * b.width) {
    for (int64_t c = 0; c < b.channels; ++c) channel_at.push_back(c * b.plane_size());
    for (int64_t h = 0; h < b.height; ++h)
      for (int64_t w = 0; w < b.width; ++w)
        pixel_at.push_back((h + b.halo) * b.row_size() + (w + b.halo) * b.lanes);
    // Planes smaller than a few vectors: walk all channels as one contiguous run.
    if (!channels_fast && pixels < 4 * b.lanes) {
      std::vector<int64_t> all;
      for (int64_t channel : channel_at)
        for (int64_t pixel : pixel_at) all.push_back(channel + pixel);
      pixels = int64_t(all.size());
      pixel_at = std::move(all);
      channel_at = {0};
    }
  }

  int64_t slow_count() const { return channels_fast ? pixels : int64_t(channel_at.size()); }
  // The part of an image with slow indices [begin, end): pixels if channels are fast, else
  // channels.
  Walk part(int64_t begin, int64_t end) const {
    if (channels_fast) {
      const int64_t channels = int64_t(channel_at.size());
      return {image, channels, begin, end, 0, channels, pixel_at.data(), channel_at.data()};
    }
    return {image, pixels, begin, end, 0, pixels, channel_at.data(), pixel_at.data()};
  }
};

// Splits (block, part of the image) over the threads.
template <class F>
void for_each_part(int64_t blocks, const BlockWalk& walk, const Threads& threads, const F& f) {
  const int64_t parts =
      std::clamp<int64_t>(4 * threads.count / std::max<int64_t>(blocks, 1), 1, walk.slow_count());
  threads.run(blocks * parts, [&](int64_t item) {
    const int64_t block = item / parts, part = item % parts;
    f(block, walk.part(part * walk.slow_count() / parts, (part + 1) * walk.slow_count() / parts));
  });
}

template <class T>
void zero_halo(const Blocked<T>& b, int64_t block, int64_t channel) {
  T* plane = b.data + block * b.block_size() + channel * b.plane_size();
  const int64_t edge = b.halo * b.row_size(), side = b.halo * b.lanes;
  std::fill(plane, plane + edge, T(0));
  for (int64_t h = 0; h < b.height; ++h) {
    T* row = plane + edge + h * b.row_size();
    std::fill(row, row + side, T(0));
    std::fill(row + b.row_size() - side, row + b.row_size(), T(0));
  }
  std::fill(plane + b.plane_size() - edge, plane + b.plane_size(), T(0));
}

template <class T>
void images_to_blocks(const T* images, int64_t batch, bool channels_last, const Blocked<T>& b,
                      const Threads& threads) {
  const BlockWalk walk(b, channels_last);
  if (b.halo > 0)
    threads.run(b.blocks * b.channels,
                [&](int64_t item) { zero_halo(b, item / b.channels, item % b.channels); });
  for_each_part(b.blocks, walk, threads, [&](int64_t block, const Walk& part) {
    const int64_t first = block * b.lanes;
    pack(images + first * walk.image, std::min<int64_t>(b.lanes, batch - first), part,
         b.data + block * b.block_size());
  });
}

template <class T>
void blocks_to_images(const Blocked<T>& b, T* images, int64_t batch, bool channels_last,
                      const Threads& threads) {
  const BlockWalk walk(b, channels_last);
  for_each_part(b.blocks, walk, threads, [&](int64_t block, const Walk& part) {
    const int64_t first = block * b.lanes;
    unpack(static_cast<const T*>(b.data) + block * b.block_size(), part,
           images + first * walk.image, std::min<int64_t>(b.lanes, batch - first));
  });
}

// The same planes with another halo.
template <class T>
void copy_blocks(const Blocked<T>& from, const Blocked<T>& to, const Threads& threads) {
  threads.run(to.blocks * to.channels, [&](int64_t item) {
    const int64_t block = item / to.channels, channel = item % to.channels;
    zero_halo(to, block, channel);
    const T* source = from.at(block, 0, 0) + channel * from.plane_size();
    T* target = to.at(block, 0, 0) + channel * to.plane_size();
    for (int64_t h = 0; h < to.height; ++h)
      std::copy_n(source + h * from.row_size(), to.width * to.lanes, target + h * to.row_size());
  });
}
